"""Which part of a file's work is for one of several processes.

A share of a run's fits, left on the shelf for who merges them.

A share of a picture's tiles, restored and left on the shelf for who puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.pipeline.assess.merge import Merge
from napari_dip.pipeline.execute.clock import Clock, ending_iterations
from napari_dip.pipeline.execute.course import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.execute.runner import calibrated
from napari_dip.pipeline.execute.tile_measuring import lesson, measured
from napari_dip.pipeline.execute.tiles import TileCourse, shelf_of
from napari_dip.pipeline.plan.types import SHOWN
from napari_dip.pipeline.store.units import UnitShelf, chains_of, lessons_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan, WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

#: Tiles that it takes for a file to be shared: the first one, and one for each of two processes.
LEAST_TILES = 3


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the tiles of a file, or of the fits of one that is not in tiles.

    Attributes
    ----------
    place : int
        0: the first tile, and what all of them are helped by. From 1 to `count`: a share of what
        comes after, or of all fits where there are no tiles.
    count : int
        How many shares that is cut into.
    lesson : bool
        Where there are no tiles: whether it is a share of the networks that many frames or planes
        are shown, which come before all pictures.
    """

    place: int = 0
    count: int = 1
    lesson: bool = False

    @property
    def name(self) -> str:
        """Name it among those of its file."""
        return f"{'lesson' if self.lesson else ''}{self.place}"

    @property
    def words(self) -> str:
        """Say which part of a file it is."""
        if not self.place:
            return "the first tile"
        return f"{'network' if self.lesson else 'share'} {self.place} of {self.count}"

    def has(self, number: int) -> bool:
        """Whether something is of this share, by its number in the order of the run.

        Of tiles, the first one has the number 0; of chains of fits, 1.
        """
        if not self.place:
            return number == 0
        return number > 0 and (number - self.place) % self.count == 0


def most_shares(plan: Plan) -> int:
    """Give how many processes can restore a file side by side; a time limit is one run's."""
    if plan.recipe.common.time_limit is not None or plan.network is not None:
        return 1
    if plan.tiles:
        return len(plan.tiles) - 1 if len(plan.tiles) >= LEAST_TILES else 1
    return len(chains_of(plan))


def lesson_shares(plan: Plan) -> int:
    """Give how many processes can fit the networks that parts of a file without tiles share."""
    return 0 if plan.tiles else len(lessons_of(plan))


def first_part(plan: Plan) -> float:
    """Estimate which part of a file is to be done before its shares: the first tile, networks."""
    if plan.tiles:
        return 1 / len(plan.tiles)
    ending = ending_iterations(plan)
    before = sum(one.iterations + ending for one in plan.units if not one.pictured)
    return before / sum(one.iterations + ending for one in plan.units)


def restore_fits(
    plan: Plan,
    data: Mapping[str, Any],
    share: Share,
    control: Callable[[], Control],
    store: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Do some fits of a run that is not in tiles, to the same bytes as a run of all of them does.

    Parameters
    ----------
    plan, data, control
        As for `napari_dip.pipeline.execute.runner.run`.
    share : Share
    store : Store
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
    clock = Clock(plan, control, None)
    ready = yield from calibrated(plan, data, clock)
    merge = Merge(ready.plan, ready.calibration, ready.planes, ready.arrays["image"])
    resume = store.open(ready.plan, ready.arrays, merge)
    shelf = UnitShelf(store.shelf, store.identity)
    there, done = shelf.chains(ready.plan), {outcome.unit for outcome in merge.outcomes}
    wanted = units_in_share(share, ready.plan)
    for unit in wanted:
        if unit.id in there and unit.id not in done and not unit.pictured:
            shelf.give(unit, merge)  # how it went, which decides what those who are shown it do
    mine = tuple(unit for unit in wanted if unit.id not in there)
    if not mine:
        return Control.GO
    clock.expect(ready.plan, mine)
    told = ready.plan, ready.calibration, ready.planes, clock, merge, store, shelf
    course, series = UnitExecutor(*told), ""
    for number, unit in enumerate(mine, 1):
        fitted = drop_constant_channels(unit, ready.calibration.constant)
        if unit.id in done or not fitted.channels:
            continue
        if unit.role == SHOWN and unit.series != series:
            series = unit.series
            course.weights = shelf.weights(series)
        point = resume if unit.id == store.unit else None
        ended = yield from course.fit_unit(fitted, number, point)
        if ended is not Control.GO:
            return ended
    store.forget()
    return Control.GO


def units_in_share(share: Share, plan: Plan) -> tuple[WorkUnit, ...]:
    """Choose the fits of a share, in the order of the run: the networks that it needs come first.

    These are there if all is well; else each share fits them for itself.
    """
    lessons = lessons_of(plan)
    if share.lesson:
        return tuple(u for number, one in enumerate(lessons, 1) if share.has(number) for u in one)
    chains = enumerate(chains_of(plan), 1)
    mine = [unit for number, one in chains if share.has(number) for unit in one]
    needed = {unit.series for unit in mine}
    return (*(u for one in lessons for u in one if u.series in needed), *mine)


def restore_share(
    plan: Plan,
    data: Mapping[str, Any],
    share: Share,
    control: Callable[[], Control],
    store: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Restore some tiles of a picture, to the same bytes as a run of all of them does.

    Parameters
    ----------
    plan, data, control, store
        As for `napari_dip.pipeline.execute.tiles.restore_tiles`.
    share : Share
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
    clock = Clock(plan, control, None)
    ready = yield from measured(plan, data, clock)
    clock.expect(ready.plan)
    shelf = shelf_of(ready, store)
    try:
        ended = yield from lesson(ready, clock, store, shelf)
        if ended is Control.GO:
            units = tiles_in_share(share, ready.plan.units)
            clock.expect(ready.plan, units)
            course = TileCourse(ready, data["image"], clock, store, shelf)
            ended = yield from course.restored(units)
        return ended
    finally:
        shelf.close()


def tiles_in_share(share: Share, units: Sequence[WorkUnit]) -> tuple[WorkUnit, ...]:
    """Choose the fits of a share's tiles, in their order, and those that all tiles need."""
    order = list(dict.fromkeys(unit.tile for unit in units if unit.pictured))
    mine = {tile for number, tile in enumerate(order) if share.has(number)}
    helping = [unit for unit in units if not unit.pictured and not share.place]
    return (*helping, *(unit for unit in units if unit.pictured and unit.tile in mine))
