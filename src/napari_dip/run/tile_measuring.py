"""What all tiles of a picture need to know, measured once on a sample of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.run.coarse import HALVED, coarse_grid
from napari_dip.run.events import Event
from napari_dip.run.inputs import check_finite
from napari_dip.run.prepare import prepare, settled, trusting
from napari_dip.run.receipt import sha256
from napari_dip.run.runner import allowed
from napari_dip.run.sharing import Member
from napari_dip.run.survey import look_over, regions_of, sample_of
from napari_dip.run.tile_report import Measured
from napari_dip.run.tiling import SIDES, tile_note, tiles_if_halved
from napari_dip.run.units import tile_units_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.run.clock import Clock
    from napari_dip.run.plan import Plan
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.tiles import Tile


def measured(plan: Plan, data: Mapping[str, Any], clock: Clock) -> Generator[Event, None, Measured]:
    """Measure noise and range, and choose where to begin.

    Parameters
    ----------
    plan : Plan
        With tiles.
    data : mapping
        As for `napari_dip.run.runner.run`.
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
    coarse = coarse_grid(parts, one.noise, one.block, one.constant, camera=camera)
    if coarse is None:
        return one
    return replace(one, coarse=coarse, notes=one.notes if camera else (*one.notes, HALVED))


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
