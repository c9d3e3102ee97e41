"""Which part of a file's work is for one of several processes.

A share of a run's fits, left on the shelf for who merges them.

A share of a picture's tiles, restored and left on the shelf for who puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.pipeline.assess.merge import ResultMerger
from napari_dip.pipeline.execute.clock import RunClock, estimate_ending_iterations
from napari_dip.pipeline.execute.runner import calibrate_image
from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles, train_on_sample
from napari_dip.pipeline.execute.tile_executor import TileExecutor, open_tile_folder
from napari_dip.pipeline.execute.unit_executor import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.plan.types import INFERENCE
from napari_dip.pipeline.store.unit_results import (
    UnitFolder,
    list_joint_unit_groups,
    list_unit_chains,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan, WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

#: Tiles that it takes for a file to be shared: the first one, and one for each of two processes.
MIN_SHARDED_TILES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Some of the tiles of a file, or of the fits of one that is not in tiles.

    Attributes
    ----------
    index : int
        0: the first tile, and what all of them are helped by. From 1 to `count`: a share of what
        comes after, or of all fits where there are no tiles.
    count : int
        How many shares that is cut into.
    is_joint_training : bool
        Where there are no tiles: whether it is a share of the networks that many frames or planes
        are shown, which come before all pictures.
    """

    index: int = 0
    count: int = 1
    is_joint_training: bool = False

    @property
    def name(self) -> str:
        """Name it among those of its file."""
        return f"{'lesson' if self.is_joint_training else ''}{self.index}"

    @property
    def label(self) -> str:
        """Say which part of a file it is."""
        if not self.index:
            return "the first tile"
        return f"{'network' if self.is_joint_training else 'share'} {self.index} of {self.count}"

    def includes(self, number: int) -> bool:
        """Whether something is of this share, by its number in the order of the run.

        Of tiles, the first one has the number 0; of chains of fits, 1.
        """
        if not self.index:
            return number == 0
        return number > 0 and (number - self.index) % self.count == 0


def compute_max_shards(plan: Plan) -> int:
    """Give how many processes can restore a file side by side; a time limit is one run's."""
    if plan.recipe.run_settings.time_limit is not None or plan.network is not None:
        return 1
    if plan.tiles:
        return len(plan.tiles) - 1 if len(plan.tiles) >= MIN_SHARDED_TILES else 1
    return len(list_unit_chains(plan))


def count_joint_training_shards(plan: Plan) -> int:
    """Give how many processes can fit the networks that parts of a file without tiles share."""
    return 0 if plan.tiles else len(list_joint_unit_groups(plan))


def estimate_serial_share(plan: Plan) -> float:
    """Estimate which part of a file is to be done before its shares: the first tile, networks."""
    if plan.tiles:
        return 1 / len(plan.tiles)
    ending = estimate_ending_iterations(plan)
    before = sum(unit.iterations + ending for unit in plan.units if not unit.has_estimate)
    return before / sum(unit.iterations + ending for unit in plan.units)


def restore_unit_shard(
    plan: Plan,
    data: Mapping[str, Any],
    share: Shard,
    control: Callable[[], Control],
    store: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Do some fits of a run that is not in tiles, to the same bytes as a run of all of them does.

    Parameters
    ----------
    plan, data, control
        As for `napari_dip.pipeline.execute.runner.run`.
    share : Shard
    store : CheckpointStore
        Of this share alone, but for its shelf.

    Yields
    ------
    Event

    Returns
    -------
    Control
        GO, or how the run was ended.

    Raises
    ------
    Refused, Failed
        As for `run`; errors of the machine as they are.
    """
    clock = RunClock(plan, control, None)
    prepared = yield from calibrate_image(plan, data, clock)
    merge = ResultMerger(
        prepared.plan, prepared.calibration, prepared.stack, prepared.inputs["image"]
    )
    resume = store.open(prepared.plan, prepared.inputs, merge)
    shelf = UnitFolder(store.results_folder, store.identity)
    stored_ids, done = (
        shelf.find_finished_units(prepared.plan),
        {outcome.unit for outcome in merge.outcomes},
    )
    wanted = select_shard_units(share, prepared.plan)
    for unit in wanted:
        if unit.id in stored_ids and unit.id not in done and not unit.has_estimate:
            shelf.merge_result(
                unit, merge
            )  # how it went, which decides what those who are shown it do
    mine = tuple(unit for unit in wanted if unit.id not in stored_ids)
    if not mine:
        return Control.GO
    clock.expect(prepared.plan, mine)
    arguments = prepared.plan, prepared.calibration, prepared.stack, clock, merge, store, shelf
    course, series = UnitExecutor(*arguments), ""
    for number, unit in enumerate(mine, 1):
        fitted = drop_constant_channels(unit, prepared.calibration.constant_channels)
        if unit.id in done or not fitted.channels:
            continue
        if unit.role == INFERENCE and unit.series != series:
            series = unit.series
            course.weights = shelf.load_weights(series)
        point = resume if unit.id == store.unit else None
        ended = yield from course.fit_unit(fitted, number, point)
        if ended is not Control.GO:
            return ended
    store.remove_checkpoint()
    return Control.GO


def select_shard_units(share: Shard, plan: Plan) -> tuple[WorkUnit, ...]:
    """Choose the fits of a share, in the order of the run: the networks that it needs come first.

    These are there if all is well; else each share fits them for itself.
    """
    lessons = list_joint_unit_groups(plan)
    if share.is_joint_training:
        return tuple(
            u for number, item in enumerate(lessons, 1) if share.includes(number) for u in item
        )
    chains = enumerate(list_unit_chains(plan), 1)
    mine = [unit for number, item in chains if share.includes(number) for unit in item]
    needed = {unit.series for unit in mine}
    return (*(u for lesson in lessons for u in lesson if u.series in needed), *mine)


def restore_tile_shard(
    plan: Plan,
    data: Mapping[str, Any],
    share: Shard,
    control: Callable[[], Control],
    store: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Restore some tiles of a picture, to the same bytes as a run of all of them does.

    Parameters
    ----------
    plan, data, control, store
        As for `napari_dip.pipeline.execute.tile_executor.restore_tiles`.
    share : Shard
        The first one is to be there before the others begin; else each learns anew what all tiles
        are helped by.

    Yields
    ------
    Event

    Returns
    -------
    Control
        GO, or how the run was ended.

    Raises
    ------
    Refused, Failed
        As for `napari_dip.pipeline.execute.runner.run`; errors of the machine as they are.
    """
    clock = RunClock(plan, control, None)
    prepared = yield from calibrate_tiles(plan, data, clock)
    clock.expect(prepared.plan)
    shelf = open_tile_folder(prepared, store)
    try:
        ended = yield from train_on_sample(prepared, clock, store, shelf)
        if ended is Control.GO:
            units = select_shard_tile_units(share, prepared.plan.units)
            clock.expect(prepared.plan, units)
            course = TileExecutor(prepared, data["image"], clock, store, shelf)
            ended = yield from course.restore_units(units)
        return ended
    finally:
        shelf.close()


def select_shard_tile_units(share: Shard, units: Sequence[WorkUnit]) -> tuple[WorkUnit, ...]:
    """Choose the fits of a share's tiles, in their order, and those that all tiles need."""
    order = list(dict.fromkeys(unit.tile for unit in units if unit.has_estimate))
    mine = {tile for number, tile in enumerate(order) if share.includes(number)}
    helping = [unit for unit in units if not unit.has_estimate and not share.index]
    return (*helping, *(unit for unit in units if unit.has_estimate and unit.tile in mine))
