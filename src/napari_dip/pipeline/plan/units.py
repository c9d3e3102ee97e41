"""The fits that a run is made of: parts, groups of channels, repeats.

Segments of a movie or stack: each is restored from its own beginning, whoever restores it.

A chain of frames, each of which begins with what the one before has learned or is drawn to its
picture, is one worker's, however many there are. So a long one is cut, always at the same frames:
what a frame comes to does not depend on how many workers there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.costs import count_channels
from napari_dip.pipeline.plan.joint_training import (
    choose_members,
    choose_probe_members,
    get_neighbour_parts,
    make_joint_units,
)
from napari_dip.pipeline.plan.layout import PART_NAMES
from napari_dip.pipeline.plan.types import INFERENCE, Member, WorkUnit
from napari_dip.tasks.priors.r2r import MEASUREMENT_INPUT_PRIORS as SHOWN_PRIORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Budget, Plan, Tile
    from napari_dip.pipeline.recipe import Recipe

#: Frames of a segment at most. Those that go on with the weights of the one before take a fifth of
#: its iterations, so a segment of 32 costs an eighth more than 32 frames of an endless chain; a
#: film of 25 frames a second has one step of the usual unsteadiness in more than a second.
MAX_SEGMENT_FRAMES = 32


def compute_segment(part: int, parts: int, stride: int) -> int:
    """Give the number of a part's segment, 0-based; all are of one length, within one frame.

    Parameters
    ----------
    part : int
        0-based.
    parts : int
        How many there are.
    stride : int
        Parts from a frame to the next one, such as the planes of a frame; 0 for a single part.
    """
    steps = parts // max(1, stride)
    count = -(-steps // MAX_SEGMENT_FRAMES)
    return part // max(1, stride) * count // steps


def list_segment_starts(parts: int, stride: int) -> tuple[int, ...]:
    """List the frames with which a segment begins after the first one, 0-based."""
    each = max(1, stride)
    segments = [compute_segment(step * each, parts, stride) for step in range(parts // each)]
    return tuple(step for step in range(1, len(segments)) if segments[step] != segments[step - 1])


def make_segment_notes(plan: Plan) -> tuple[Note, ...]:
    """Say where a movie or stack begins anew; nothing where that makes no difference."""
    task = plan.recipe.task
    drawn = task.looks_back() and any(unit.has_time_neighbours for unit in plan.units)
    in_turn = any(unit.is_warm_start and not unit.series for unit in plan.units)
    first = list_segment_starts(plan.layout.count(plan.source), plan.layout.stride(plan.source))
    if plan.tiles or not first or not (drawn or in_turn):
        return ()
    called = PART_NAMES[plan.layout.get_neighbour_axis(plan.source)]
    *some, last = (str(item + 1) for item in (0, *first))
    which = f"{', '.join(some)} and {last}"
    return (make_note("segments", count=len(first) + 1, called=called, which=which),)


#: Share of the iterations that a plane takes which begins with what the one before has learned,
#: and the fewest of them: with its last look such a plane takes less than a fifth of the time.
WARM_START_ITERATION_SHARE, MIN_WARM_START_ITERATIONS = 0.2, 25
#: Between the seeds of neighbouring tiles: further apart than those of channels and repeats.
TILE_SEED_STEP = 1_000_003


def make_units(
    recipe: Recipe,
    source: ImageSpec,
    budget: Budget,
    layout: Layout,
    tiles: tuple[Tile, ...] = (),
) -> tuple[WorkUnit, ...]:
    """List the fits: for each group of channels and each restart a chain through the parts."""
    if tiles:
        return make_tile_units(recipe, source, budget, layout, tiles)
    parts, stride = layout.count(source), layout.stride(source)
    later = compute_warm_start_iterations(budget)
    text = "warm-start" if layout.is_volume else recipe.task.shares(budget.prior, parts)
    segments = [compute_segment(part, parts, stride) for part in range(parts)]
    neighbours = [get_neighbour_parts(part, parts, stride) for part in range(parts)]
    # those that go on with the weights of the part before, which is of the same segment
    ahead = [-1, *segments[:-1]]
    linked = [
        text != "independent" and item == two for item, two in zip(ahead, segments, strict=True)
    ]
    units = [
        WorkUnit(
            id=f"c{number}r{restart}" if parts == 1 else f"p{part}c{number}r{restart}",
            channels=group,
            restart=restart,
            # the same for all parts: the next one goes on with the same code
            seed=recipe.run_settings.seed + 1000 * number + restart,
            iterations=later if linked[part] else budget.iterations,
            part=part,
            is_warm_start=linked[part],
            first_unit_id=f"c{number}r0" if parts == 1 else f"p{part}c{number}r0",
            previous_part=before,
            next_part=after,
            has_time_neighbours=layout.get_neighbour_axis(source) == "T",
            segment=segments[part],
            is_segment_start=before is None or segments[before] != segments[part],
        )
        for number, group in enumerate(group_channels(recipe, source))
        for restart in range(budget.restarts)
        for part, (before, after) in enumerate(neighbours)
    ]
    if text != "joint" or budget.rivals:
        return tuple(units)
    members = choose_members(parts, source.grid, stride)
    return tuple(assign_joint_network(units, members, choose_probe_members(members), later))


def compute_warm_start_iterations(budget: Budget) -> int:
    """Give the iterations of a fit that begins with what another has learned."""
    return max(
        min(MIN_WARM_START_ITERATIONS, budget.iterations),
        round(WARM_START_ITERATION_SHARE * budget.iterations),
    )


def assign_joint_network(
    units: Sequence[WorkUnit], members: tuple[Member, ...], chosen: tuple[Member, ...], own: int
) -> list[WorkUnit]:
    """Let units of the same channels and repeat be shown one network, which is fitted before."""
    fits: dict[str, list[WorkUnit]] = {}
    for unit in units:
        name = f"c{unit.channels[0]}r{unit.restart}"
        if name not in fits:
            fits[name] = make_joint_units(unit, members, chosen, own)
        fits[name].append(
            replace(
                unit,
                iterations=0,
                is_warm_start=True,
                role=INFERENCE,
                series=name,
                fine_tune_iterations=own,
            )
        )
    return [unit for each in fits.values() for unit in each]


def make_tile_units(
    recipe: Recipe,
    source: ImageSpec,
    budget: Budget,
    layout: Layout,
    tiles: tuple[Tile, ...],
    members: tuple[Member, ...] = (),
) -> tuple[WorkUnit, ...]:
    """List the fits of a picture in tiles: all those of one tile, then those of the next.

    The first tile takes all iterations. Where a network is shown the picture, the others begin
    with what it has learned there, or all are shown one network that was fitted to regions of the
    picture; none of them needs another: which process restores a tile, and when, makes no
    difference. Planes of a tile that are restored one by one are a chain.

    Parameters
    ----------
    recipe, source, budget, layout
        Of the plan.
    tiles : tuple of Tile
        The first one first.
    members : tuple of Member
        Regions of the picture, once they are known, where one network is fitted to them.
    """
    direction = recipe.task.shares(budget.prior, len(tiles), tiles=True)
    learns = budget.prior in SHOWN_PRIORS and direction != "independent"
    later = compute_warm_start_iterations(budget)
    units = [
        WorkUnit(
            id=f"t{tile.index}{named}c{number}r{restart}",
            channels=group,
            restart=restart,
            seed=recipe.run_settings.seed + 1000 * number + restart + TILE_SEED_STEP * tile.index,
            iterations=later if link or (learns and place) else budget.iterations,
            part=part,
            is_warm_start=link > 0 or (learns and place > 0),
            first_unit_id=f"t{tile.index}{named}c{number}r0",
            previous_part=part - 1 if named and part else None,
            next_part=part + 1 if named and part + 1 < tile.size[0] else None,
            tile=tile.index,
            origin=tile.start[-len(layout.grid) :],
        )
        for place, tile in enumerate(tiles)
        for number, group in enumerate(group_channels(recipe, source))
        for restart in range(budget.restarts)
        for link, (part, named) in enumerate(_list_tile_planes(tile, layout))
    ]
    if direction != "joint" or budget.rivals or tiles[0].z is not None:
        return tuple(units)
    order = {tile.index: place for place, tile in enumerate(tiles)}
    # tiles of a picture that is looked at whole, or before regions are known
    places = (Member(0, tile.start, tile.size) for tile in tiles)
    chosen = members if len(members) > 1 else tuple(sorted(places))
    units = assign_joint_network(units, members, choose_probe_members(chosen), later)
    # what is learned from all comes before the first tile
    return tuple(sorted(units, key=lambda unit: -1 if unit.tile is None else order[unit.tile]))


def _list_tile_planes(tile: Tile, layout: Layout) -> list[tuple[int, str]]:
    """List the planes of a tile that are restored one by one, and their names in the stack."""
    if tile.z is None or layout.is_volume:
        return [(0, "")]
    return [
        (index - tile.z.start, f"p{index}") for index in range(tile.z.core_start, tile.z.core_stop)
    ]


def group_channels(recipe: Recipe, source: ImageSpec) -> list[tuple[int, ...]]:
    """Channels that are fitted together."""
    count = count_channels(source)
    if recipe.task.together(source):
        return [tuple(range(count))]
    return [(index,) for index in range(count)]
