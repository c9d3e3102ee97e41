"""Split the work on one file into shards for several processes, and run one shard.

A shard saves its unit or tile results in the run folder, where another process merges them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.pipeline.assess.merge import ResultMerger
from napari_dip.pipeline.execute.clock import RunClock
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.execute.runner import read_image
from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles
from napari_dip.pipeline.execute.tile_executor import TileExecutor, open_tile_results
from napari_dip.pipeline.plan.units import list_joint_unit_groups, list_unit_chains
from napari_dip.pipeline.store.unit_results import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.pipeline.calibrate.calibration import CalibratedImage
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan, WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

#: Minimum number of tiles for sharding: the first tile, and one for each of two processes.
MIN_SHARDED_TILES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Identify a part of the tiles of a file, or of its fits if it has no tiles.

    Attributes
    ----------
    index : int
        0: joint training and the first tile. From 1 to `count`: a part of the other tiles, or of
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
        """Return a name that is unique within the file."""
        return f"{'lesson' if self.is_joint_training else ''}{self.index}"

    @property
    def label(self) -> str:
        """Return the user's description of the shard."""
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
        unit.id: costs.estimate_fit(unit.iterations, len(unit.trained_on))
        + unit.has_estimate * (costs.inference + costs.refinement)
        for unit in plan.units
    }
    return sum(seconds[unit.id] for unit in plan.units if not unit.has_estimate) / sum(
        seconds.values()
    )


def restore_shard(
    plan: Plan,
    data: Mapping[str, Any],
    shard: Shard,
    control: Callable[[], Control],
    store: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Run the fits of one shard.

    The results are identical to those of a run without shards, byte for byte.

    Parameters
    ----------
    plan, data, control
        As for `napari_dip.pipeline.execute.runner.run`.
    shard : Shard
        In tiles, the shard with index 0 has to finish first. Otherwise, each shard repeats the
        joint training.
    store : CheckpointStore
        The checkpoint is of this shard only; all shards share the run folder.

    Yields
    ------
    Event

    Returns
    -------
    Control
        GO, or how the run was ended.

    Raises
    ------
    RefusedError, FailedError
        As for `run`. Errors of memory or GPU are not converted.
    """
    clock = RunClock(plan, control, None)
    if not plan.tiles:
        image = yield from read_image(plan, data, clock)
        return (yield from _fit_unit_shard(image, shard, clock, store))
    sample, hashes = yield from calibrate_tiles(plan, data, clock)
    results = open_tile_results(sample.plan, hashes, store)
    try:
        units = select_shard_tile_units(shard, sample.plan.units)
        if shard.index and not results.read_joint_outcomes():
            joint_units = (unit for unit in sample.plan.units if not unit.has_estimate)
            units = (*joint_units, *units)
        clock.expect(sample.plan, units)
        executor = TileExecutor(sample, data["image"], clock, store, results)
        return (yield from executor.run(units))
    finally:
        results.close()


def _fit_unit_shard(
    image: CalibratedImage, shard: Shard, clock: RunClock, store: CheckpointStore
) -> Generator[Event, None, Control]:
    """Run those fits of one shard of an image without tiles that are not stored yet."""
    merger = ResultMerger(image)
    store.open_image(image)
    resume, results = store.read(merger), ResultStore(store.folder)
    stored_ids = results.find_finished_units(image.plan)
    finished_ids = {outcome.unit for outcome in merger.outcomes}
    shard_units = select_shard_units(shard, image.plan)
    for unit in shard_units:
        if unit.id in stored_ids and unit.id not in finished_ids and not unit.has_estimate:
            results.merge_result(unit, merger)  # its outcome decides on fine-tuning
    remaining_units = tuple(unit for unit in shard_units if unit.id not in stored_ids)
    if not remaining_units:
        return Control.GO
    clock.expect(image.plan, remaining_units)
    executor = Executor(
        merger,
        clock,
        store,
        load_network=results.load_weights,
        save_network=results.save_weights,
        save_result=results.save,
    )
    request = yield from executor.run(remaining_units, resume)
    if request is Control.GO:
        store.remove_checkpoint()
    return request


def select_shard_units(shard: Shard, plan: Plan) -> tuple[WorkUnit, ...]:
    """Return the fits of a shard, in the order of the run.

    They begin with the joint networks that the shard needs. Usually these have been trained before;
    otherwise, each shard trains them itself.
    """
    joint_groups = list_joint_unit_groups(plan)
    if shard.is_joint_training:
        return tuple(
            u
            for number, chain in enumerate(joint_groups, 1)
            if shard.includes(number)
            for u in chain
        )
    chains = enumerate(list_unit_chains(plan), 1)
    shard_units = [unit for number, chain in chains if shard.includes(number) for unit in chain]
    needed_series = {unit.series for unit in shard_units}
    return (
        *(u for group in joint_groups for u in group if u.series in needed_series),
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
