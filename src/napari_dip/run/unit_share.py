"""A share of a run's fits, left on the shelf for who merges them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.run.clock import Clock
from napari_dip.run.course import Course, without
from napari_dip.run.merge import Merge
from napari_dip.run.runner import calibrated
from napari_dip.run.unit_shelf import UnitShelf, chains_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.run.checkpoints import Store
    from napari_dip.run.events import Event
    from napari_dip.run.plan import Plan
    from napari_dip.run.shares import Share


def restore_fits(
    plan: Plan,
    data: Mapping[str, Any],
    share: Share,
    control: Callable[[], Control],
    store: Store,
) -> Generator[Event, None, Control]:
    """Do some fits of a run that is not in tiles, as a run of all of them does.

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
    done = {outcome.unit for outcome in merge.outcomes} | shelf.chains(ready.plan)
    chains = enumerate(chains_of(ready.plan), 1)
    mine = [unit for number, one in chains if share.has(number) for unit in one]
    if not mine:
        return Control.GO
    clock.expect(replace(ready.plan, units=tuple(mine)))
    told = ready.plan, ready.calibration, ready.planes, clock, merge, store, shelf
    course = Course(*told)
    for number, unit in enumerate(mine, 1):
        fitted = without(unit, ready.calibration.constant)
        if unit.id in done or not fitted.channels:
            continue
        point = resume if unit.id == store.unit else None
        ended = yield from course.fit_unit(fitted, number, point)
        if ended is not Control.GO:
            return ended
    store.forget()
    return Control.GO
