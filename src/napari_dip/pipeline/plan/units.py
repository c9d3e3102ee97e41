"""List the work units of a run, and divide a movie or stack into segments.

With warm starts or temporal smoothing each frame depends on the one before, so one worker restores
the whole chain. A long chain is divided into segments, always at the same frames. The result then
does not depend on the number of workers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.costs import count_channels
from napari_dip.pipeline.plan.joint_training import (
    choose_members,
    choose_probe_members,
    get_neighbour_parts,
    make_joint_units,
)
from napari_dip.pipeline.plan.layout import PART_NAMES
from napari_dip.pipeline.plan.types import INFERENCE, JOINT_PREFIX, Member, WorkUnit
from napari_dip.tasks.priors.registry import PRIORS
from napari_dip.tasks.shared_settings import choose_sharing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.tile import Tile
    from napari_dip.pipeline.plan.types import FitConfig, Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import TaskPlan

#: Maximum number of frames of a segment. A frame with warm start takes a fifth of the iterations,
#: so segments of 32 frames cost an eighth more than an endless chain. At 25 frames per second they
#: interrupt temporal smoothing less than once a second.
MAX_SEGMENT_FRAMES = 32
#: Iterations of a fit with warm start: share of the preset's, and minimum. With its final inference
#: such a fit takes less than a fifth of the time.
WARM_START_ITERATION_FRACTION, MIN_WARM_START_ITERATIONS = 0.2, 25
#: Distance of the seeds of neighbouring tiles, larger than those of channels and restarts.
TILE_SEED_STEP = 1_000_003


def compute_segment(part: int, parts: int, stride: int) -> int:
    """Return the segment of a part, 0-based; lengths of segments differ by one frame at most.

    Parameters
    ----------
    part : int
        0-based.
    parts : int
        Number of parts.
    stride : int
        Parts from a frame to the next, such as the planes of a frame; 0 for a single part.
    """
    frames = parts // max(1, stride)
    count = -(-frames // MAX_SEGMENT_FRAMES)
    return part // max(1, stride) * count // frames


def list_segment_starts(parts: int, stride: int) -> tuple[int, ...]:
    """Return the first frame of each segment but the first, 0-based."""
    parts_per_frame = max(1, stride)
    segments = [
        compute_segment(frame * parts_per_frame, parts, stride)
        for frame in range(parts // parts_per_frame)
    ]
    return tuple(
        frame for frame in range(1, len(segments)) if segments[frame] != segments[frame - 1]
    )


def make_segment_notes(plan: Plan) -> tuple[Note, ...]:
    """Return a note on the segments of a movie or stack; empty if they do not affect the result."""
    is_smoothed = plan.task_plan.uses_previous_frame and any(
        unit.has_time_neighbours for unit in plan.units
    )
    has_warm_starts = any(unit.starts_from and not unit.series for unit in plan.units)
    starts = list_segment_starts(plan.layout.count(plan.source), plan.layout.stride(plan.source))
    if plan.tiles or not starts or not (is_smoothed or has_warm_starts):
        return ()
    part_name = PART_NAMES[plan.layout.get_neighbour_axis(plan.source)]
    *earlier, last = (str(frame + 1) for frame in (0, *starts))
    numbers = f"{', '.join(earlier)} and {last}"
    return (make_note("segments", count=len(starts) + 1, called=part_name, which=numbers),)


def make_units(
    recipe: Recipe,
    task_plan: TaskPlan,
    source: ImageSpec,
    fit_config: FitConfig,
    layout: Layout,
    tiles: tuple[Tile, ...] = (),
) -> tuple[WorkUnit, ...]:
    """Return the work units: for each group of channels and each restart, all parts in order."""
    if tiles:
        return make_tile_units(recipe, task_plan, source, fit_config, layout, tiles)
    parts, stride = layout.count(source), layout.stride(source)
    warm_start_iterations = compute_warm_start_iterations(fit_config)
    sharing = (
        "warm-start" if layout.is_volume else choose_sharing(task_plan, fit_config.prior, parts)
    )
    segments = [compute_segment(part, parts, stride) for part in range(parts)]
    neighbours = [get_neighbour_parts(part, parts, stride) for part in range(parts)]
    # parts with a warm start from the part before, which is in the same segment
    previous_segments = [-1, *segments[:-1]]
    is_warm_start = [
        sharing != "independent" and previous == segment
        for previous, segment in zip(previous_segments, segments, strict=True)
    ]

    def name(part: int, number: int, restart: int) -> str:
        return f"c{number}r{restart}" if parts == 1 else f"p{part}c{number}r{restart}"

    units = [
        WorkUnit(
            id=name(part, number, restart),
            channels=group,
            restart=restart,
            # the same for all parts: a warm start needs the same network input
            seed=recipe.run_settings.seed + 1000 * number + restart,
            iterations=warm_start_iterations if is_warm_start[part] else fit_config.iterations,
            part=part,
            starts_from=name(part - 1, number, restart) if is_warm_start[part] else "",
            previous_part=before,
            next_part=after,
            has_time_neighbours=layout.get_neighbour_axis(source) == "T",
            segment=segments[part],
            is_segment_start=before is None or segments[before] != segments[part],
        )
        for number, group in enumerate(group_channels(task_plan, source))
        for restart in range(fit_config.restarts)
        for part, (before, after) in enumerate(neighbours)
    ]
    if sharing != "joint" or fit_config.other_candidates:
        return tuple(units)
    members = choose_members(parts, source.grid, stride)
    return tuple(assign_joint_network(units, fit_config, members, members))


def compute_warm_start_iterations(fit_config: FitConfig) -> int:
    """Return the iterations of a fit with warm start."""
    return max(
        min(MIN_WARM_START_ITERATIONS, fit_config.iterations),
        round(WARM_START_ITERATION_FRACTION * fit_config.iterations),
    )


def make_training_units(
    unit: WorkUnit,
    fit_config: FitConfig,
    members: tuple[Member, ...],
    probe_candidates: tuple[Member, ...],
) -> list[WorkUnit]:
    """Return the joint fit for the network of a unit, and its fine-tuning probes."""
    return make_joint_units(
        unit,
        members,
        choose_probe_members(probe_candidates),
        joint_iterations=fit_config.joint_iterations,
        probe_iterations=compute_warm_start_iterations(fit_config),
    )


def assign_joint_network(
    units: Sequence[WorkUnit],
    fit_config: FitConfig,
    members: tuple[Member, ...],
    probe_candidates: tuple[Member, ...],
) -> list[WorkUnit]:
    """Return units with one jointly trained network for each group of channels and restart.

    The joint fits and their probes come before the units that use them.
    """
    units_by_series: dict[str, list[WorkUnit]] = {}
    for unit in units:
        name = unit.network_name
        if name not in units_by_series:
            units_by_series[name] = make_training_units(unit, fit_config, members, probe_candidates)
        units_by_series[name].append(
            replace(
                unit,
                iterations=0,
                starts_from=f"{JOINT_PREFIX}{name}",
                role=INFERENCE,
                fine_tune_iterations=compute_warm_start_iterations(fit_config),
            )
        )
    return [unit for series_units in units_by_series.values() for unit in series_units]


def make_tile_units(
    recipe: Recipe,
    task_plan: TaskPlan,
    source: ImageSpec,
    fit_config: FitConfig,
    layout: Layout,
    tiles: tuple[Tile, ...],
    members: tuple[Member, ...] = (),
) -> tuple[WorkUnit, ...]:
    """Return the work units of an image in tiles, tile by tile.

    The first tile takes all iterations. If the network input is the image, the other tiles have a
    warm start from the first, or all tiles share one network that was fitted to regions of the
    image. Tiles do not depend on each other otherwise, so any process may restore any of them.
    Planes of a tile that are restored one by one form a chain of warm starts.

    Parameters
    ----------
    recipe, task_plan, source, fit_config, layout
        Those of the plan.
    tiles : tuple of Tile
        In the order in which they are restored.
    members : tuple of Member
        Regions of the image for joint training, once they are known.
    """
    sharing = choose_sharing(task_plan, fit_config.prior, len(tiles), tiles=True)
    starts_from_first_tile = PRIORS[fit_config.prior].sees_image and sharing != "independent"
    warm_start_iterations = compute_warm_start_iterations(fit_config)
    # the last plane of the first tile
    first_tile_name = f"t{tiles[0].index}{_list_tile_planes(tiles[0], layout)[-1][1]}"
    units: list[WorkUnit] = []
    for place, tile in enumerate(tiles):
        planes = _list_tile_planes(tile, layout)
        starts = [first_tile_name if starts_from_first_tile and place else ""]
        starts += [f"t{tile.index}{plane_name}" for _, plane_name in planes[:-1]]
        units += [
            WorkUnit(
                id=f"t{tile.index}{plane_name}c{number}r{restart}",
                channels=group,
                restart=restart,
                seed=recipe.run_settings.seed
                + 1000 * number
                + restart
                + TILE_SEED_STEP * tile.index,
                iterations=warm_start_iterations if start else fit_config.iterations,
                part=part,
                starts_from=f"{start}c{number}r{restart}" if start else "",
                previous_part=part - 1 if plane_name and part else None,
                next_part=part + 1 if plane_name and part + 1 < tile.size[0] else None,
                tile=tile.index,
                origin=tile.start[-len(layout.grid) :],
            )
            for number, group in enumerate(group_channels(task_plan, source))
            for restart in range(fit_config.restarts)
            for (part, plane_name), start in zip(planes, starts, strict=True)
        ]
    if sharing != "joint" or fit_config.other_candidates or tiles[0].z is not None:
        return tuple(units)
    order = {tile.index: place for place, tile in enumerate(tiles)}
    # probe on tiles if the image is measured whole, or before regions are known
    tile_members = (Member(0, tile.start, tile.size) for tile in tiles)
    probe_candidates = members if len(members) > 1 else tuple(sorted(tile_members))
    units = assign_joint_network(units, fit_config, members, probe_candidates)
    # the joint fit comes before the first tile
    return tuple(sorted(units, key=lambda unit: -1 if unit.tile is None else order[unit.tile]))


def _list_tile_planes(tile: Tile, layout: Layout) -> list[tuple[int, str]]:
    """Return index and unit name of each plane of a tile that is restored one by one."""
    if tile.z is None or layout.is_volume:
        return [(0, "")]
    return [
        (index - tile.z.start, f"p{index}") for index in range(tile.z.core_start, tile.z.core_stop)
    ]


def group_channels(task_plan: TaskPlan, source: ImageSpec) -> list[tuple[int, ...]]:
    """Return the groups of channels that are fitted together."""
    count = count_channels(source)
    if task_plan.joint_channels:
        return [tuple(range(count))]
    return [(index,) for index in range(count)]


def list_unit_chains(plan: Plan) -> list[list[WorkUnit]]:
    """Group units with an estimate into chains that do not depend on each other.

    A unit depends on another one through warm starts, which stay within a segment. Frames of a
    movie depend on all restarts of the previous frame through temporal smoothing. Restarts use the
    prior that was selected in the first fit. Jointly trained networks come first, see
    `list_joint_unit_groups`.
    """
    warm_started = {
        (unit.channels, unit.restart) for unit in plan.units if unit.starts_from and not unit.series
    }
    chains: defaultdict[tuple[Any, ...], list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        unit_key = unit.channels, unit.restart
        if not unit.has_estimate:
            continue
        if unit.has_time_neighbours or plan.fit_config.other_candidates:
            chains[unit.channels, unit.segment].append(unit)
        elif unit_key in warm_started:
            chains[*unit_key, unit.segment].append(unit)
        else:
            chains[*unit_key, unit.part].append(unit)
    return list(chains.values())


def list_joint_unit_groups(plan: Plan) -> list[list[WorkUnit]]:
    """Return, for each jointly trained network, its joint fit and its fine-tuning probes."""
    groups: defaultdict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        if not unit.has_estimate:
            groups[unit.series].append(unit)
    return list(groups.values())
