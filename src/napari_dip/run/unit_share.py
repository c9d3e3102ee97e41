"""A share of a run's fits, left on the shelf for who merges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.run.clock import Clock
from napari_dip.run.course import Course, without
from napari_dip.run.merge import Merge
from napari_dip.run.runner import calibrated
from napari_dip.run.sharing import SHOWN
from napari_dip.run.unit_shelf import UnitShelf, chains_of, lessons_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.run.checkpoints import Store
    from napari_dip.run.events import Event
    from napari_dip.run.plan import Plan
    from napari_dip.run.shares import Share
    from napari_dip.run.units import WorkUnit


def restore_fits(
    plan: Plan,
    data: Mapping[str, Any],
    share: Share,
    control: Callable[[], Control],
    store: Store,
) -> Generator[Event, None, Control]:
    """Do some fits of a run that is not in tiles, to the same bytes as a run of all of them does.

    Parameters
    ----------
    plan, data, control
        As for `napari_dip.run.runner.run`.
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
    wanted = units_in(share, ready.plan)
    for unit in wanted:
        if unit.id in there and unit.id not in done and not unit.pictured:
            shelf.give(unit, merge)  # how it went, which decides what those who are shown it do
    mine = tuple(unit for unit in wanted if unit.id not in there)
    if not mine:
        return Control.GO
    clock.expect(ready.plan, mine)
    told = ready.plan, ready.calibration, ready.planes, clock, merge, store, shelf
    course, series = Course(*told), ""
    for number, unit in enumerate(mine, 1):
        fitted = without(unit, ready.calibration.constant)
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


def units_in(share: Share, plan: Plan) -> tuple[WorkUnit, ...]:
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
