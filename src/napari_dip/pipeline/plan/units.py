"""List the work units of a run, and divide them into segments and into shards for processes.

With warm starts or temporal smoothing each frame depends on the one before, so one worker restores
the whole chain. A long chain is divided into segments, always at the same frames. The result then
does not depend on the number of workers. With neither, any worker restores any frame.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.costs import group_channels
from napari_dip.pipeline.plan.joint_training import (
    choose_training_regions,
    compute_warm_start_iterations,
    make_inference_units,
    make_joint_units,
)
from napari_dip.pipeline.plan.layout import ITEM_NAMES
from napari_dip.pipeline.plan.types import ImagePlan, TrainingRegion, WorkUnit
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from napari_dip.tasks.shared_settings import get_series_training

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.plan.layout import Layout, Tile
    from napari_dip.pipeline.plan.types import FitConfig, Plan

#: Maximum frames of a segment: 32 cost an eighth more than an endless chain of warm starts, and
#: interrupt temporal smoothing at most once a second at 25 Hz (docs/constants.md).
MAX_SEGMENT_FRAMES = 32
#: Distance of the seeds of neighbouring tiles, larger than those of channels and restarts.
TILE_SEED_STEP = 1_000_003
#: Minimum number of tiles for sharding: the first tile, and one for each of two processes.
MIN_SHARDED_TILES = 3


def compute_segment(item: int, item_count: int, stride: int) -> int:
    """Return the segment of an item, 0-based; lengths of segments differ by one frame at most.

    Parameters
    ----------
    item : int
        0-based.
    item_count : int
    stride : int
        Items from a frame to the next, such as the planes of a frame; 0 for a single item.
    """
    frames = item_count // max(1, stride)
    count = -(-frames // MAX_SEGMENT_FRAMES)
    return item // max(1, stride) * count // frames


def list_segment_starts(item_count: int, stride: int) -> tuple[int, ...]:
    """Return the first frame of each segment but the first, 0-based."""
    segments = [
        compute_segment(item, item_count, stride) for item in range(0, item_count, max(1, stride))
    ]
    return tuple(
        frame for frame, (last, segment) in enumerate(pairwise(segments), 1) if last != segment
    )


def make_segment_notes(plan: Plan) -> tuple[Note, ...]:
    """Return a note on the segments of a movie or Z stack; empty if they change nothing."""
    has_warm_starts = any(unit.start_unit_id and not unit.joint_network_name for unit in plan.units)
    starts = list_segment_starts(
        plan.layout.count_items(plan.header), plan.layout.get_item_stride(plan.header)
    )
    if plan.tiles or not starts or not (_is_smoothed(plan) or has_warm_starts):
        return ()
    item_name = ITEM_NAMES[plan.layout.get_neighbour_axis(plan.header)]
    *earlier, last = (str(frame + 1) for frame in (0, *starts))
    numbers = f"{', '.join(earlier)} and {last}"
    return (make_note("segments", count=len(starts) + 1, called=item_name, which=numbers),)


def _is_smoothed(plan: Plan) -> bool:
    """Return whether frames depend on the result of the one before, by temporal smoothing."""
    return plan.task_plan.uses_previous_frame and any(
        unit.has_time_neighbours for unit in plan.units
    )


def make_units(
    image_plan: ImagePlan,
    fit_config: FitConfig,
    tiles: tuple[Tile, ...] = (),
    empty_items: Container[tuple[int, int]] = (),
) -> tuple[WorkUnit, ...]:
    """Return the work units: for each group of channels and each restart, all items in order.

    Parameters
    ----------
    image_plan : ImagePlan
    fit_config : FitConfig
    tiles : tuple of Tile
    empty_items : container of (int, int)
        Items and channels of one value, see `Calibration.empty_items`. An item that is empty in all
        channels of a group is no unit, no neighbour and no training region of that group.
    """
    if tiles:
        return make_tile_units(image_plan, fit_config, tiles)
    task_plan, header, layout = image_plan.task_plan, image_plan.header, image_plan.layout
    item_count, stride = layout.count_items(header), layout.get_item_stride(header)
    warm_start_iterations = compute_warm_start_iterations(fit_config)
    series_training = (
        "warm-start"
        if layout.is_volume
        else get_series_training(task_plan, fit_config.prior_key, item_count)
    )
    segments = [compute_segment(item, item_count, stride) for item in range(item_count)]

    def make_id(item: int, group_index: int, restart: int) -> str:
        plane_name = f"p{item}" if item_count > 1 else ""
        return f"{plane_name}c{group_index}r{restart}"

    units: list[WorkUnit] = []
    for group_index, group in enumerate(group_channels(task_plan, header)):
        items = _list_fitted_items(item_count, group, empty_items)
        neighbours = _find_neighbours(items, stride)
        # the item before, in the same segment, from which an item has a warm start
        warm_starts = {
            item: before
            for before, item in pairwise(items)
            if series_training != "independent" and segments[before] == segments[item]
        }
        group_units = [
            WorkUnit(
                id=make_id(item, group_index, restart),
                first_restart_id=make_id(item, group_index, 0),
                channels=group,
                restart=restart,
                # the same for all items: a warm start needs the same network input
                seed=image_plan.recipe.run_settings.seed + 1000 * group_index + restart,
                iterations=warm_start_iterations if item in warm_starts else fit_config.iterations,
                item=item,
                start_unit_id=make_id(warm_starts[item], group_index, restart)
                if item in warm_starts
                else "",
                previous_item=previous_item,
                next_item=next_item,
                has_time_neighbours=layout.get_neighbour_axis(header) == "T",
                segment=segments[item],
                is_segment_start=previous_item is None or segments[previous_item] != segments[item],
            )
            for restart in range(fit_config.restarts)
            for item, (previous_item, next_item) in neighbours.items()
        ]
        if series_training == "joint" and not fit_config.other_candidates:
            regions = tuple(
                TrainingRegion(
                    items[region.item], region.origin, region.size, *neighbours[items[region.item]]
                )
                for region in choose_training_regions(len(items), header.grid, stride=0)
            )
            group_units = assign_joint_network(group_units, fit_config, regions, regions)
        units += group_units
    return tuple(units)


def _list_fitted_items(
    item_count: int, group: tuple[int, ...], empty_items: Container[tuple[int, int]]
) -> list[int]:
    """List the items that are not empty in all channels of a group; all if none is left."""
    items = range(item_count)
    fitted = [item for item in items if not all((item, c) in empty_items for c in group)]
    return fitted or list(items)


def _find_neighbours(items: Sequence[int], stride: int) -> dict[int, tuple[int | None, int | None]]:
    """Return the items before and after each one, a multiple of the stride away; None for none."""
    if not stride:
        return dict.fromkeys(items, (None, None))
    columns: defaultdict[int, list[int]] = defaultdict(list)
    for item in items:
        columns[item % stride].append(item)
    neighbours = {
        item: (before, after)
        for column in columns.values()
        for before, item, after in zip((None, *column), column, (*column[1:], None), strict=False)
    }
    return {item: neighbours[item] for item in items}


def assign_joint_network(
    units: Sequence[WorkUnit],
    fit_config: FitConfig,
    training_regions: tuple[TrainingRegion, ...],
    probe_candidates: tuple[TrainingRegion, ...],
) -> list[WorkUnit]:
    """Return units with one jointly trained network for each group of channels and restart.

    The joint fits and their probes come before the units that use them.
    """
    units_by_network: dict[str, list[WorkUnit]] = {}
    for unit in units:
        name = unit.weights_name
        if name not in units_by_network:
            joint_units = make_joint_units(unit, fit_config, training_regions, probe_candidates)
            units_by_network[name] = joint_units
        units_by_network[name] += make_inference_units((unit,), fit_config)
    return [unit for network_units in units_by_network.values() for unit in network_units]


def make_tile_units(
    image_plan: ImagePlan,
    fit_config: FitConfig,
    tiles: tuple[Tile, ...],
    training_regions: tuple[TrainingRegion, ...] = (),
) -> tuple[WorkUnit, ...]:
    """Return the work units of an image in tiles, tile by tile.

    The first tile takes all iterations. If the network input is the image, the other tiles have a
    warm start from the first, or all tiles share one network that was fitted to regions of the
    image. Tiles do not depend on each other otherwise, so any process may restore any of them.
    Planes of a tile that are restored one by one form a chain of warm starts.

    Parameters
    ----------
    image_plan : ImagePlan
    fit_config : FitConfig
    tiles : tuple of Tile
        In the order in which they are restored.
    training_regions : tuple of TrainingRegion
        Regions of the image for joint training, once they are known.
    """
    task_plan, header, layout = image_plan.task_plan, image_plan.header, image_plan.layout
    series_training = get_series_training(
        task_plan, fit_config.prior_key, len(tiles), are_tiles=True
    )
    starts_from_first_tile = (
        PRIOR_SPECS[fit_config.prior_key].input_traits.contains_image
        and series_training != "independent"
    )
    warm_start_iterations = compute_warm_start_iterations(fit_config)
    seed = image_plan.recipe.run_settings.seed
    # the last plane of the first tile
    first_tile_name = f"t{tiles[0].index}{_list_tile_planes(tiles[0], layout)[-1][1]}"
    units: list[WorkUnit] = []
    for position, tile in enumerate(tiles):
        planes = _list_tile_planes(tile, layout)
        starts = [first_tile_name if starts_from_first_tile and position else ""]
        starts += [f"t{tile.index}{plane_name}" for _, plane_name in planes[:-1]]
        units += [
            WorkUnit(
                id=f"t{tile.index}{plane_name}c{group_index}r{restart}",
                first_restart_id=f"t{tile.index}{plane_name}c{group_index}r0",
                channels=group,
                restart=restart,
                seed=seed + 1000 * group_index + restart + TILE_SEED_STEP * tile.index,
                iterations=warm_start_iterations if start else fit_config.iterations,
                item=item,
                start_unit_id=f"{start}c{group_index}r{restart}" if start else "",
                previous_item=item - 1 if plane_name and item else None,
                next_item=item + 1 if plane_name and item + 1 < tile.size[0] else None,
                tile=tile.index,
                origin=tile.start[-len(layout.grid_axes) :],
            )
            for group_index, group in enumerate(group_channels(task_plan, header))
            for restart in range(fit_config.restarts)
            for (item, plane_name), start in zip(planes, starts, strict=True)
        ]
    if series_training != "joint" or fit_config.other_candidates or tiles[0].z is not None:
        return tuple(units)
    positions = {tile.index: position for position, tile in enumerate(tiles)}
    # probe on tiles if the image is measured whole, or before regions are known
    tile_regions = (TrainingRegion(0, tile.start, tile.size) for tile in tiles)
    probe_candidates = (
        training_regions if len(training_regions) > 1 else tuple(sorted(tile_regions))
    )
    units = assign_joint_network(units, fit_config, training_regions, probe_candidates)
    # the joint fit comes before the first tile
    return tuple(sorted(units, key=lambda unit: -1 if unit.tile is None else positions[unit.tile]))


def _list_tile_planes(tile: Tile, layout: Layout) -> list[tuple[int, str]]:
    """Return index and unit name of each plane of a tile that is restored one by one."""
    if tile.z is None or layout.is_volume:
        return [(0, "")]
    return [
        (index - tile.z.start, f"p{index}") for index in range(tile.z.core_start, tile.z.core_stop)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Share of the tiles of a file, or of its fits if it has no tiles.

    Attributes
    ----------
    index : int
        0: joint training and the first tile. From 1 to `count`: a share of the other tiles, or of
        all fits if there are no tiles.
    count : int
        Number of shards.
    is_joint_training : bool
        For a file without tiles: whether the shard consists of jointly trained networks, which
        precede all other fits.
    """

    index: int = 0
    count: int = 1
    is_joint_training: bool = False

    @property
    def name(self) -> str:
        """Name that is unique within the file."""
        return f"{'lesson' if self.is_joint_training else ''}{self.index}"

    @property
    def label(self) -> str:
        """Name of the shard for the user."""
        if not self.index:
            return "the first tile"
        return f"{'network' if self.is_joint_training else 'share'} {self.index} of {self.count}"

    def includes(self, number: int) -> bool:
        """Return whether a tile or a chain of fits belongs to this shard.

        Parameters
        ----------
        number : int
            Position in the order of the run. The first tile has the number 0, the first chain 1.
        """
        if not self.index:
            return number == 0
        return number > 0 and (number - self.index) % self.count == 0


def compute_max_shards(plan: Plan) -> int:
    """Return how many processes can restore a file in parallel.

    A plan with a time limit or with a network file is not sharded.
    """
    if plan.recipe.run_settings.time_limit is not None or plan.network is not None:
        return 1
    if plan.tiles:
        return len(plan.tiles) - 1 if len(plan.tiles) >= MIN_SHARDED_TILES else 1
    return len(list_unit_chains(plan))


def count_joint_training_shards(plan: Plan) -> int:
    """Return how many processes can train the joint networks of a file; 0 if it has tiles."""
    return 0 if plan.tiles else len(list_joint_unit_groups(plan))


def estimate_serial_fraction(plan: Plan) -> float:
    """Return the fraction of the work before the shards: the first tile, or joint training."""
    if plan.tiles:
        return 1 / len(plan.tiles)
    costs = plan.costs
    seconds = {
        unit.id: costs.estimate_fit(unit.iterations, len(unit.training_regions))
        + unit.has_estimate * (costs.inference_seconds + costs.refinement_seconds)
        for unit in plan.units
    }
    return sum(seconds[unit.id] for unit in plan.units if not unit.has_estimate) / sum(
        seconds.values()
    )


def select_shard_units(shard: Shard, plan: Plan) -> tuple[WorkUnit, ...]:
    """Return the fits of a shard, in the order of the run.

    They begin with the joint networks that the shard needs. Usually these have been trained before;
    otherwise, each shard trains them itself.
    """
    joint_groups = list_joint_unit_groups(plan)
    chains = joint_groups if shard.is_joint_training else list_unit_chains(plan)
    shard_chains = [chain for number, chain in enumerate(chains, 1) if shard.includes(number)]
    shard_units = tuple(unit for chain in shard_chains for unit in chain)
    if shard.is_joint_training:
        return shard_units
    needed_networks = {unit.joint_network_name for unit in shard_units}
    return (
        *(u for group in joint_groups for u in group if u.joint_network_name in needed_networks),
        *shard_units,
    )


def select_shard_tile_units(shard: Shard, units: Sequence[WorkUnit]) -> tuple[WorkUnit, ...]:
    """Return the fits of a shard's tiles, in order; shard 0 also includes the joint training."""
    order = list(dict.fromkeys(unit.tile for unit in units if unit.has_estimate))
    shard_tiles = {tile for number, tile in enumerate(order) if shard.includes(number)}
    joint_units = [unit for unit in units if not unit.has_estimate and not shard.index]
    return (
        *joint_units,
        *(unit for unit in units if unit.has_estimate and unit.tile in shard_tiles),
    )


def list_unit_chains(plan: Plan) -> list[list[WorkUnit]]:
    """Group units with an estimate into chains that do not depend on each other.

    A unit depends on another one through warm starts, which stay within a segment. Frames of a
    movie depend on all restarts of the previous frame through temporal smoothing. Restarts use the
    prior that was selected in the first fit. Jointly trained networks come first, see
    `list_joint_unit_groups`.
    """
    is_smoothed = _is_smoothed(plan)
    warm_started = {
        (unit.channels, unit.restart)
        for unit in plan.units
        if unit.start_unit_id and not unit.joint_network_name
    }
    chains: defaultdict[tuple[Any, ...], list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        unit_key = unit.channels, unit.restart
        if not unit.has_estimate:
            continue
        if is_smoothed or plan.fit_config.other_candidates:
            chains[unit.channels, unit.segment].append(unit)
        elif unit_key in warm_started:
            chains[*unit_key, unit.segment].append(unit)
        else:
            chains[*unit_key, unit.item].append(unit)
    return list(chains.values())


def list_joint_unit_groups(plan: Plan) -> list[list[WorkUnit]]:
    """Return, for each jointly trained network, its joint fit and its fine-tuning probes."""
    groups: defaultdict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        if not unit.has_estimate:
            groups[unit.joint_network_name].append(unit)
    return list(groups.values())
