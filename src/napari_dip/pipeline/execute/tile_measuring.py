"""What all tiles of a picture need to know, measured once on a sample of it.

A large image gone through once: whether it can be restored, and which regions stand for it.

What the tiles of a picture share: one network, fitted to the regions that stand for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, Refused, allowed, refusal
from napari_dip.pipeline.assess.merge import Merge
from napari_dip.pipeline.assess.report import sha256
from napari_dip.pipeline.calibrate.grid import HALF_RESOLUTION_NOTE, halve_oversampled
from napari_dip.pipeline.calibrate.inputs import check_content, check_finite
from napari_dip.pipeline.calibrate.prepare import prepare, settled, trusting
from napari_dip.pipeline.calibrate.types import RunInputs
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.course import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.execute.tile_report import Measured
from napari_dip.pipeline.lazy_inputs import check_unchanged
from napari_dip.pipeline.plan.layout import Layout, split_into_parts
from napari_dip.pipeline.plan.tiling import (
    MEASURED_WHOLE,
    SAMPLE_SIDE,
    SAMPLES,
    SIDES,
    tile_note,
    tiles_if_halved,
)
from napari_dip.pipeline.plan.types import Member, Span, Tile
from napari_dip.pipeline.plan.units import tile_units_of
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_FAULTS

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.pipeline.execute.clock import Clock
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.tiles import Shelf

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


def open_survey(plan: Plan) -> dict[str, Any]:
    """Read the files of a plan, the image itself only where all of it is restored at once.

    Raises
    ------
    Refused
        If one is damaged, or is written to meanwhile, where the plan says what it was before.
    """
    from napari_dip.io.reading import read_pixels
    from napari_dip.io.regions import open_pixels

    image = open_pixels(plan.source) if plan.tiles else read_pixels(plan.source)
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
            parts = np.moveaxis(split_into_parts(array, axes, plan.layout), 1, 0)
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
) -> tuple[RunInputs, npt.NDArray[Any]]:
    """Read the regions as if they were planes of one detector.

    Returns
    -------
    Inputs, ndarray
        Parts are (regions, C, Y, X), or (regions, C, 1, Y, X) of a volume; and the same pixels as
        they came, with an axis before.
    """
    array = np.stack([region.of(data["image"], plan.source.axes) for region in regions])
    parts = np.concatenate([split_into_parts(one, plan.source.axes, plan.layout) for one in array])
    others = {name: np.asarray(data[name], np.float32) for name in plan.others}
    step = 1.0 if array.dtype.kind in "iu" else 0.0
    return RunInputs(parts, others, None, step, plan.layout), array


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


def measured(plan: Plan, data: Mapping[str, Any], clock: Clock) -> Generator[Event, None, Measured]:
    """Measure noise and range, and choose where to begin.

    Parameters
    ----------
    plan : Plan
        With tiles.
    data : mapping
        As for `napari_dip.pipeline.execute.runner.run`.
    clock : Clock

    Yields
    ------
    Event

    Returns
    -------
    Measured

    Raises
    ------
    Refused
        If the pixels cannot be restored.
    """
    yield Event("Reading the image", seconds=clock.seconds)
    survey = allowed(look_over(plan, data["image"]))
    hashes = {name: sha256(data[name]) for name in ("image", *plan.others)}
    yield Event("Measuring the noise", seconds=clock.seconds)
    regions = regions_of(plan, survey)
    inputs, sample = sample_of(plan, data, regions)
    task = plan.recipe.task
    for name, spec in plan.others.items():
        allowed(check_finite(inputs.others[name], spec.name))
    allowed(task.admit(plan.source, inputs.others))
    allowed(task.admit_image(plan.source, inputs.parts))
    plan = settled(plan, inputs)
    calibration, parts = prepare(plan, inputs)
    plan, calibration = trusting(plan, _halved(plan, calibration, parts))
    teacher = survey.teacher(plan.tiles)
    if calibration.coarse is not None:
        plan = _cut_anew(plan)
    plan = _begun_with(plan, _holding(plan.tiles, teacher), regions)
    return Measured(plan, calibration, regions, sample, hashes)


def _halved(plan: Plan, calibration: Calibration, parts: Any) -> Calibration:
    """Find out of a sample whether the image is oversampled, as is done of a whole one."""
    task = plan.recipe.task
    deep = plan.tiles[0].z is not None
    if deep or len(parts) == 1 or not task.halves() or calibration.second is not None:
        return calibration
    one = calibration
    camera = one.camera is not None
    coarse = halve_oversampled(parts, one.noise, one.block, one.constant, camera=camera)
    if coarse is None:
        return one
    return replace(
        one, coarse=coarse, notes=one.notes if camera else (*one.notes, HALF_RESOLUTION_NOTE)
    )


def _cut_anew(plan: Plan) -> Plan:
    """Give tiles of a picture that is fitted at half its size, and say how many there are."""
    tiles = tiles_if_halved(plan.recipe, plan.source, plan.others, plan.tiles)
    wish = plan.recipe.common.tile
    said = {tile_note(side, plan.tiles): side for side in ((wish,) if wish else SIDES)}
    notes: list[str] = []
    for one in plan.notes:
        notes += tile_note(said[(one,)], tiles) if (one,) in said else (one,)
    return replace(plan, tiles=tiles, notes=tuple(notes))


def _holding(tiles: tuple[Tile, ...], other: Tile) -> Tile:
    """Give the tile that holds the middle of another one."""
    middle = [(one.first + one.last) // 2 for one in other.spans]
    return next(
        tile
        for tile in tiles
        if all(
            place in range(one.first, one.last)
            for place, one in zip(middle, tile.spans, strict=True)
        )
    )


def _begun_with(plan: Plan, teacher: Tile, regions: tuple[Tile, ...]) -> Plan:
    """Let that tile be restored first, or one network be fitted to these regions before."""
    order = (teacher, *(tile for tile in plan.tiles if tile is not teacher))
    members = tuple(Member(place, one.start) for place, one in enumerate(regions))
    told = plan.recipe, plan.source, plan.budget, plan.layout
    units = tile_units_of(*told, order, members)
    return replace(plan, units=units)


def lesson(
    ready: Measured, clock: Clock, store: CheckpointStore, shelf: Shelf
) -> Generator[Event, None, Control]:
    """Fit what all tiles are shown, and try whether going on from it pays.

    Parameters
    ----------
    ready : Measured
        Where its plan shares nothing, nothing is done.
    clock, store
        Of the run.
    shelf : Shelf
        Keeps the weights, and how it went; what it has already is not learned again.

    Returns
    -------
    Control
        GO, also where a person keeps what there is: the tiles ask again.
    """
    plan, sample = ready.plan, ready.sample
    units = tuple(unit for unit in plan.units if not unit.pictured)
    if not units or shelf.lesson():
        return Control.GO
    axes, layout = "T" + plan.source.axes, Layout("T", plan.layout.channels, "YX")
    source = replace(plan.source, shape=sample.shape, axes=axes, scale=None, units=None)
    small = replace(plan, source=source, layout=layout, units=units, tiles=())
    parts = split_into_parts(sample, axes, layout)
    merge = Merge(small, ready.calibration, parts, sample)
    resume = opened(store, small, sample, merge)
    merge.outcomes[:] = [one for one in merge.outcomes if shelf.weights(one.series)]
    done = {one.unit for one in merge.outcomes}
    course = UnitExecutor(small, ready.calibration, parts, clock, merge, store)
    for number, unit in enumerate(units, 1):
        fitted = drop_constant_channels(unit, ready.calibration.constant)
        if unit.id in done or not fitted.channels:
            continue
        ended = yield from course.fit_unit(fitted, number, resume)
        resume = None
        if ended is not Control.GO:
            return ended
        if course.weights is not None:
            shelf.keep_weights(unit.series, course.weights)
    if not any(one.kept for one in merge.outcomes):
        shelf.keep_lesson(merge.outcomes)
    store.forget()
    return Control.GO


def opened(store: CheckpointStore, plan: Plan, array: Any, merge: Merge) -> Checkpoint | None:
    """Go on within a part of the run, or begin it anew if what was kept is of another."""
    try:
        return store.open(plan, {"image": array}, merge)
    except Refused as error:  # of a part that was done meanwhile
        if error.refusal.code not in CHECKPOINT_FAULTS:
            raise
        store.forget()
        return None
