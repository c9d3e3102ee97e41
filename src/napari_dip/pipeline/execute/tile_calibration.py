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
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.merge import ResultMerger
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.calibrate.calibration import RunInputs
from napari_dip.pipeline.calibrate.inputs import check_content, check_finite
from napari_dip.pipeline.calibrate.prepare import (
    calibrate_pixels,
    choose_prior_by_noise,
    choose_prior_by_pixels,
)
from napari_dip.pipeline.calibrate.resolution_and_outliers import halve_oversampled
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.tile_blending import TileCalibration
from napari_dip.pipeline.execute.unit_executor import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.lazy_inputs import check_unchanged
from napari_dip.pipeline.plan.layout import Layout, split_into_parts
from napari_dip.pipeline.plan.tiling import (
    MAX_MEASURED_PIXELS,
    SAMPLE_REGION_SIDE,
    SAMPLE_REGIONS,
    TILE_NOTES,
    cut_half_resolution_tiles,
    tile_notes,
)
from napari_dip.pipeline.plan.types import Member, Span, Tile
from napari_dip.pipeline.plan.units import make_tile_units
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_FAULTS

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.execute.clock import RunClock
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.tile_results import TileFolder

#: Regions of a stack at most, where its planes are small.
MAX_SAMPLE_REGIONS = 64
#: Steps along X from one region to the next, of as many as there are: no two lie below each other.
_SAMPLE_STRIDE = 3


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TileStatistics:
    """What tells tiles apart.

    Attributes
    ----------
    spread : ndarray
        (tiles, C): standard deviation of each tile's pixels, in the image's units.
    """

    spread: npt.NDArray[np.float64]

    def select_reference_tile(self, tiles: tuple[Tile, ...]) -> Tile:
        """Tile with most to learn from: that which varies most, channels in units of their most."""
        share = self.spread / np.maximum(self.spread.max(0), 1e-30)
        return tiles[int(share.sum(1).argmax())]


def open_plan_inputs(plan: Plan) -> dict[str, Any]:
    """Read the files of a plan, the image itself only where all of it is restored at once.

    Raises
    ------
    Refused
        If one is damaged, or is written to meanwhile, where the plan says what it was before.
    """
    from napari_dip.io.reading import read_pixels
    from napari_dip.io.regions import open_pixels

    image = open_pixels(plan.source) if plan.tiles else read_pixels(plan.source)
    data = {"image": image, **{name: read_pixels(item) for name, item in plan.extra_inputs.items()}}
    check_unchanged(plan)
    return data


def measure_tiles(plan: Plan, image: Any) -> TileStatistics | Refusal:
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
        array = tile.core.read_pixels(image, axes)
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
    return check_content(np.array([low, high]), name) or TileStatistics(spread=np.array(spread))


def select_sample_regions(plan: Plan, survey: TileStatistics) -> tuple[Tile, ...]:
    """Choose regions that stand for the image: all of it if it is small, else some, evenly.

    Where a channel varies most is always among them. Those of a stack lie in one plane each.
    """
    grid, depth = plan.source.grid, _count_tiled_planes(plan.tiles)
    planes: Sequence[int | None] = range(depth) if depth else [None]
    if prod(grid) * max(1, depth) <= MAX_MEASURED_PIXELS:
        return tuple(_make_plane_region(number, z, (0, 0), grid) for number, z in enumerate(planes))
    size = min(SAMPLE_REGION_SIDE, grid[0]), min(SAMPLE_REGION_SIDE, grid[1])
    count = SAMPLE_REGIONS
    if depth:  # small planes tell less each
        count = min(
            depth, MAX_SAMPLE_REGIONS, max(SAMPLE_REGIONS, MAX_MEASURED_PIXELS // prod(size))
        )
    along = [(place + 0.5) / count for place in range(count)]
    across = [(place * _SAMPLE_STRIDE % count + 0.5) / count for place in range(count)]
    middles = [
        (item * depth, item * grid[0], other * grid[1])
        for item, other in zip(along, across, strict=True)
    ]
    telling = dict.fromkeys(plan.tiles[int(index)] for index in survey.spread.argmax(0))
    for place, tile in enumerate(list(telling)[: SAMPLE_REGIONS // 2]):
        z, y, x = (
            (item.core_start + item.core_stop) / 2 for item in (tile.z or tile.y, tile.y, tile.x)
        )
        middles[place] = z, y, x
    return tuple(
        _make_plane_region(
            number,
            int(middle[0]) if depth else None,
            _compute_region_start(middle[1:], size, grid),
            size,
        )
        for number, middle in enumerate(middles)
    )


def read_sample_regions(
    plan: Plan, data: Mapping[str, Any], regions: tuple[Tile, ...]
) -> tuple[RunInputs, npt.NDArray[Any]]:
    """Read the regions as if they were planes of one detector.

    Returns
    -------
    RunInputs, ndarray
        Parts are (regions, C, Y, X), or (regions, C, 1, Y, X) of a volume; and the same pixels as
        they came, with an axis before.
    """
    array = np.stack([region.read_pixels(data["image"], plan.source.axes) for region in regions])
    parts = np.concatenate(
        [split_into_parts(item, plan.source.axes, plan.layout) for item in array]
    )
    others = {name: np.asarray(data[name], np.float32) for name in plan.extra_inputs}
    step = 1.0 if array.dtype.kind in "iu" else 0.0
    return RunInputs(
        stack=parts,
        extra_inputs=others,
        measured_mask=None,
        grey_level_step=step,
        layout=plan.layout,
    ), array


def _make_plane_region(
    number: int, z: int | None, start: tuple[int, ...], size: tuple[int, ...]
) -> Tile:
    return (
        _make_region(number, start, size)
        if z is None
        else _make_region(number, (z, *start), (1, *size))
    )


def _compute_region_start(
    middle: tuple[float, ...], size: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(
        min(max(0, round(item - side / 2)), count - side)
        for item, side, count in zip(middle, size, grid, strict=True)
    )


def _count_tiled_planes(tiles: tuple[Tile, ...]) -> int:
    """Count the planes of a stack; 0 for a picture plane."""
    return max((tile.z.core_stop for tile in tiles if tile.z is not None), default=0)


def _make_region(number: int, start: tuple[int, ...], size: tuple[int, ...]) -> Tile:
    *deep, y, x = (
        Span(start=first, stop=first + count, core_start=first, core_stop=first + count)
        for first, count in zip(start, size, strict=True)
    )
    return Tile(index=number, y=y, x=x, z=deep[0] if deep else None)


def calibrate_tiles(
    plan: Plan, data: Mapping[str, Any], clock: RunClock
) -> Generator[Event, None, TileCalibration]:
    """Measure noise and range, and choose where to begin.

    Parameters
    ----------
    plan : Plan
        With tiles.
    data : mapping
        As for `napari_dip.pipeline.execute.runner.run`.
    clock : RunClock

    Yields
    ------
    Event

    Returns
    -------
    TileCalibration

    Raises
    ------
    Refused
        If the pixels cannot be restored.
    """
    yield Event(message="Reading the image", seconds=clock.seconds)
    survey = allowed(measure_tiles(plan, data["image"]))
    hashes = {name: compute_sha256(data[name]) for name in ("image", *plan.extra_inputs)}
    yield Event(message="Measuring the noise", seconds=clock.seconds)
    regions = select_sample_regions(plan, survey)
    inputs, sample = read_sample_regions(plan, data, regions)
    task = plan.recipe.task
    for name, spec in plan.extra_inputs.items():
        allowed(check_finite(inputs.extra_inputs[name], spec.name))
    allowed(task.admit(plan.source, inputs.extra_inputs))
    allowed(task.admit_image(plan.source, inputs.stack))
    plan = choose_prior_by_pixels(plan, inputs)
    calibration, parts = calibrate_pixels(plan, inputs)
    plan, calibration = choose_prior_by_noise(plan, _halve_sample(plan, calibration, parts))
    teacher = survey.select_reference_tile(plan.tiles)
    if calibration.half_resolution is not None:
        plan = _replan_tiles(plan)
    plan = _order_tile_units(plan, _find_containing_tile(plan.tiles, teacher), regions)
    return TileCalibration(
        plan=plan, calibration=calibration, regions=regions, sample=sample, hashes=hashes
    )


def _halve_sample(plan: Plan, calibration: Calibration, parts: Any) -> Calibration:
    """Find out of a sample whether the image is oversampled, as is done of a whole one."""
    task = plan.recipe.task
    deep = plan.tiles[0].z is not None
    if deep or len(parts) == 1 or not task.halves() or calibration.repeated_exposure is not None:
        return calibration
    item = calibration
    camera = item.camera_noise is not None
    coarse = halve_oversampled(
        parts, item.noise, item.blind_spot_size, item.constant_channels, camera=camera
    )
    if coarse is None:
        return item
    return replace(
        item,
        half_resolution=coarse,
        notes=item.notes if camera else (*item.notes, make_note("half-resolution")),
    )


def _replan_tiles(plan: Plan) -> Plan:
    """Give tiles of a picture that is fitted at half its size, and say how many there are."""
    tiles = cut_half_resolution_tiles(plan.recipe, plan.source, plan.extra_inputs, plan.tiles)
    notes: list[Note] = []
    for note in plan.notes:
        mask = note.code in TILE_NOTES
        notes += tile_notes(int(str(note.facts["side"])), tiles) if mask else (note,)
    return replace(plan, tiles=tiles, notes=tuple(notes))


def _find_containing_tile(tiles: tuple[Tile, ...], other: Tile) -> Tile:
    """Give the tile that holds the middle of another one."""
    middle = [(span.core_start + span.core_stop) // 2 for span in other.spans]
    return next(
        tile
        for tile in tiles
        if all(
            place in range(item.core_start, item.core_stop)
            for place, item in zip(middle, tile.spans, strict=True)
        )
    )


def _order_tile_units(plan: Plan, teacher: Tile, regions: tuple[Tile, ...]) -> Plan:
    """Let that tile be restored first, or one network be fitted to these regions before."""
    order = (teacher, *(tile for tile in plan.tiles if tile is not teacher))
    members = tuple(Member(place, item.start) for place, item in enumerate(regions))
    arguments = plan.recipe, plan.source, plan.budget, plan.layout
    units = make_tile_units(*arguments, order, members)
    return replace(plan, units=units)


def train_on_sample(
    prepared: TileCalibration, clock: RunClock, store: CheckpointStore, shelf: TileFolder
) -> Generator[Event, None, Control]:
    """Fit what all tiles are shown, and try whether going on from it pays.

    Parameters
    ----------
    prepared : TileCalibration
        Where its plan shares nothing, nothing is done.
    clock, store
        Of the run.
    shelf : TileFolder
        Keeps the weights, and how it went; what it has already is not learned again.

    Returns
    -------
    Control
        GO, also where a person keeps what there is: the tiles ask again.
    """
    plan, sample = prepared.plan, prepared.sample
    units = tuple(unit for unit in plan.units if not unit.has_estimate)
    if not units or shelf.read_joint_outcomes():
        return Control.GO
    axes, layout = (
        "T" + plan.source.axes,
        Layout(parts="T", channels=plan.layout.channels, grid="YX"),
    )
    source = replace(plan.source, shape=sample.shape, axes=axes, scale=None, units=None)
    small = replace(plan, source=source, layout=layout, units=units, tiles=())
    parts = split_into_parts(sample, axes, layout)
    merge = ResultMerger(small, prepared.calibration, parts, sample)
    resume = open_part_checkpoint(store, small, sample, merge)
    merge.outcomes[:] = [
        outcome for outcome in merge.outcomes if shelf.load_weights(outcome.series)
    ]
    done = {outcome.unit for outcome in merge.outcomes}
    course = UnitExecutor(small, prepared.calibration, parts, clock, merge, store)
    for number, unit in enumerate(units, 1):
        fitted = drop_constant_channels(unit, prepared.calibration.constant_channels)
        if unit.id in done or not fitted.channels:
            continue
        ended = yield from course.fit_unit(fitted, number, resume)
        resume = None
        if ended is not Control.GO:
            return ended
        if course.weights is not None:
            shelf.save_weights(unit.series, course.weights)
    if not any(outcome.kept for outcome in merge.outcomes):
        shelf.save_joint_outcomes(merge.outcomes)
    store.remove_checkpoint()
    return Control.GO


def open_part_checkpoint(
    store: CheckpointStore, plan: Plan, array: Any, merge: ResultMerger
) -> Checkpoint | None:
    """Go on within a part of the run, or begin it anew if what was kept is of another."""
    try:
        return store.open(plan, {"image": array}, merge)
    except Refused as error:  # of a part that was done meanwhile
        if error.refusal.code not in CHECKPOINT_FAULTS:
            raise
        store.remove_checkpoint()
        return None
