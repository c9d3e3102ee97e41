"""A large image gone through once: whether it can be restored, and which regions stand for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.run.inputs import Inputs, check_content
from napari_dip.run.layout import to_parts
from napari_dip.run.meanwhile import check_unchanged
from napari_dip.run.tiles import Span, Tile
from napari_dip.run.tiling import MEASURED_WHOLE, SAMPLE_SIDE, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.run.plan import Plan

#: Regions of a stack at most, where its planes are small.
MOST_SAMPLES = 64
#: Steps along X from one region to the next, of as many as there are: no two lie below each other.
_STRIDE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What tells tiles apart.

    Attributes
    ----------
    spread : ndarray
        (tiles, C): standard deviation of each tile's pixels, in the image's units.
    """

    spread: npt.NDArray[np.float64]

    def teacher(self, tiles: tuple[Tile, ...]) -> Tile:
        """Tile with most to learn from: that which varies most, channels in units of their most."""
        share = self.spread / np.maximum(self.spread.max(0), 1e-30)
        return tiles[int(share.sum(1).argmax())]


def opened(plan: Plan) -> dict[str, Any]:
    """Read the files of a plan, the image itself only where all of it is restored at once.

    Raises
    ------
    Refused
        If one is damaged, or is written to meanwhile, where the plan says what it was before.
    """
    from napari_dip.io.reading import read_pixels
    from napari_dip.io.regions import on_disk

    image = on_disk(plan.source) if plan.tiles else read_pixels(plan.source)
    data = {"image": image, **{name: read_pixels(one) for name, one in plan.others.items()}}
    check_unchanged(plan)
    return data


def look_over(plan: Plan, image: Any) -> Survey | Refusal:
    """Go through all tiles once, or say no to pixels that cannot be restored.

    Parameters
    ----------
    plan : Plan
        With tiles.
    image : array-like
        In the axes and shape of `plan.source`; it may lie on a disk.
    """
    name, axes = plan.source.name, plan.source.axes
    nans = infinite = 0
    lows, highs, spread = [], [], []
    for tile in plan.tiles:
        array = tile.core.of(image, axes)
        if array.dtype.kind == "f":
            nans += int(np.isnan(array).sum())
            infinite += int(np.isinf(array).sum())
        lows.append(array.min())
        highs.append(array.max())
        with np.errstate(over="ignore", invalid="ignore"):  # what cannot be held is refused below
            parts = np.moveaxis(to_parts(array, axes, plan.layout), 1, 0)
            spread.append(parts.reshape(len(parts), -1).std(1, dtype=np.float64))
    total = plan.source.pixels
    if nans:
        return refusal("pixels-nan", count=nans, total=total, name=name)
    if infinite:
        return refusal("pixels-infinite", count=infinite, total=total, name=name)
    low, high = min(lows), max(highs)
    if low == high:
        return refusal("pixels-constant", total=total, name=name, value=low)
    return check_content(np.array([low, high]), name) or Survey(np.array(spread))


def regions_of(plan: Plan, survey: Survey) -> tuple[Tile, ...]:
    """Choose regions that stand for the image: all of it if it is small, else some, evenly.

    Where a channel varies most is always among them. Those of a stack lie in one plane each.
    """
    grid, depth = plan.source.grid, _depths(plan.tiles)
    planes: Sequence[int | None] = range(depth) if depth else [None]
    if prod(grid) * max(1, depth) <= MEASURED_WHOLE:
        return tuple(_in_plane(number, z, (0, 0), grid) for number, z in enumerate(planes))
    size = min(SAMPLE_SIDE, grid[0]), min(SAMPLE_SIDE, grid[1])
    count = SAMPLES
    if depth:  # small planes tell less each
        count = min(depth, MOST_SAMPLES, max(SAMPLES, MEASURED_WHOLE // prod(size)))
    along = [(place + 0.5) / count for place in range(count)]
    across = [(place * _STRIDE % count + 0.5) / count for place in range(count)]
    middles = [
        (one * depth, one * grid[0], other * grid[1])
        for one, other in zip(along, across, strict=True)
    ]
    telling = dict.fromkeys(plan.tiles[int(index)] for index in survey.spread.argmax(0))
    for place, tile in enumerate(list(telling)[: SAMPLES // 2]):
        z, y, x = ((one.first + one.last) / 2 for one in (tile.z or tile.y, tile.y, tile.x))
        middles[place] = z, y, x
    return tuple(
        _in_plane(number, int(middle[0]) if depth else None, _starts(middle[1:], size, grid), size)
        for number, middle in enumerate(middles)
    )


def sample_of(
    plan: Plan, data: Mapping[str, Any], regions: tuple[Tile, ...]
) -> tuple[Inputs, npt.NDArray[Any]]:
    """Read the regions as if they were planes of one detector.

    Returns
    -------
    Inputs, ndarray
        Parts are (regions, C, Y, X), or (regions, C, 1, Y, X) of a volume; and the same pixels as
        they came, with an axis before.
    """
    array = np.stack([region.of(data["image"], plan.source.axes) for region in regions])
    parts = np.concatenate([to_parts(one, plan.source.axes, plan.layout) for one in array])
    others = {name: np.asarray(data[name], np.float32) for name in plan.others}
    step = 1.0 if array.dtype.kind in "iu" else 0.0
    return Inputs(parts, others, None, step, plan.layout), array


def _in_plane(number: int, z: int | None, start: tuple[int, ...], size: tuple[int, ...]) -> Tile:
    return _region(number, start, size) if z is None else _region(number, (z, *start), (1, *size))


def _starts(
    middle: tuple[float, ...], size: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(
        min(max(0, round(one - side / 2)), count - side)
        for one, side, count in zip(middle, size, grid, strict=True)
    )


def _depths(tiles: tuple[Tile, ...]) -> int:
    """Count the planes of a stack; 0 for a picture plane."""
    return max((tile.z.last for tile in tiles if tile.z is not None), default=0)


def _region(number: int, start: tuple[int, ...], size: tuple[int, ...]) -> Tile:
    *deep, y, x = (
        Span(first, first + count, first, first + count)
        for first, count in zip(start, size, strict=True)
    )
    return Tile(number, y, x, deep[0] if deep else None)
