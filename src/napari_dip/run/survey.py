"""A large image gone through once: whether it can be restored, and which regions stand for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.run.inputs import Inputs, check_content
from napari_dip.run.layout import to_parts
from napari_dip.run.tiles import Span, Tile
from napari_dip.run.tiling import MEASURED_WHOLE, SAMPLE_SIDE, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.run.plan import Plan

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
    """Read the files of a plan, the image itself only where all of it is restored at once."""
    from napari_dip.io.reading import read_pixels
    from napari_dip.io.regions import on_disk

    image = on_disk(plan.source) if plan.tiles else read_pixels(plan.source)
    return {"image": image, **{name: read_pixels(one) for name, one in plan.others.items()}}


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
        array = _core(tile).of(image, axes)
        if array.dtype.kind == "f":
            nans += int(np.isnan(array).sum())
            infinite += int(np.isinf(array).sum())
        lows.append(array.min())
        highs.append(array.max())
        with np.errstate(over="ignore", invalid="ignore"):  # what cannot be held is refused below
            parts = to_parts(array, axes, plan.layout)[0]
            spread.append(parts.std((1, 2), dtype=np.float64))
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

    Where a channel varies most is always among them.
    """
    height, width = plan.source.grid
    if height * width <= MEASURED_WHOLE:
        return (_region(0, (0, 0), (height, width)),)
    size = min(SAMPLE_SIDE, height), min(SAMPLE_SIDE, width)
    middles = [
        ((place + 0.5) / SAMPLES * height, (place * _STRIDE % SAMPLES + 0.5) / SAMPLES * width)
        for place in range(SAMPLES)
    ]
    telling = dict.fromkeys(plan.tiles[int(index)] for index in survey.spread.argmax(0))
    for place, tile in enumerate(list(telling)[: SAMPLES // 2]):
        middles[place] = (tile.y.first + tile.y.last) / 2, (tile.x.first + tile.x.last) / 2
    starts = (
        tuple(
            min(max(0, round(middle - side / 2)), count - side)
            for middle, side, count in zip(place, size, (height, width), strict=True)
        )
        for place in middles
    )
    return tuple(_region(number, start, size) for number, start in enumerate(starts))


def sample_of(
    plan: Plan, data: Mapping[str, Any], regions: tuple[Tile, ...]
) -> tuple[Inputs, npt.NDArray[Any]]:
    """Read the regions as if they were planes of one detector.

    Returns
    -------
    Inputs, ndarray
        Parts are (regions, C, Y, X); and the same pixels as they came, with an axis before.
    """
    array = np.stack([region.of(data["image"], plan.source.axes) for region in regions])
    parts = np.concatenate([to_parts(one, plan.source.axes, plan.layout) for one in array])
    others = {name: np.asarray(data[name], np.float32) for name in plan.others}
    step = 1.0 if array.dtype.kind in "iu" else 0.0
    return Inputs(parts, others, None, step, plan.layout), array


def _core(tile: Tile) -> Tile:
    """Give what no other tile has."""
    y, x = (Span(one.first, one.last, one.first, one.last) for one in (tile.y, tile.x))
    return Tile(tile.index, y, x)


def _region(number: int, start: tuple[int, ...], size: tuple[int, int]) -> Tile:
    spans = [
        Span(first, first + count, first, first + count)
        for first, count in zip(start, size, strict=True)
    ]
    return Tile(number, *spans)
