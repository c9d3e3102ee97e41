"""A share of a picture's tiles, restored and left on the shelf for who puts them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.run.clock import Clock
from napari_dip.run.tile_course import TileCourse, shelf_of
from napari_dip.run.tile_lesson import lesson
from napari_dip.run.tile_measuring import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.run.checkpoints import Store
    from napari_dip.run.events import Event
    from napari_dip.run.plan import Plan
    from napari_dip.run.shares import Share
    from napari_dip.run.units import WorkUnit


def restore_share(
    plan: Plan,
    data: Mapping[str, Any],
    share: Share,
    control: Callable[[], Control],
    store: Store,
) -> Generator[Event, None, Control]:
    """Restore some tiles of a picture, to the same bytes as a run of all of them does.

    Parameters
    ----------
    plan, data, control, store
        As for `napari_dip.run.tiled.restore_tiles`.
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
        As for `napari_dip.run.runner.run`; errors of the machine as they are.
    """
    clock = Clock(plan, control, None)
    ready = yield from measured(plan, data, clock)
    clock.expect(ready.plan)
    shelf = shelf_of(ready, store)
    try:
        ended = yield from lesson(ready, clock, store, shelf)
        if ended is Control.GO:
            units = units_in(share, ready.plan.units)
            clock.expect(ready.plan, units)
            course = TileCourse(ready, data["image"], clock, store, shelf)
            ended = yield from course.restored(units)
        return ended
    finally:
        shelf.close()


def units_in(share: Share, units: Sequence[WorkUnit]) -> tuple[WorkUnit, ...]:
    """Choose the fits of a share's tiles, in their order, and those that all tiles need."""
    order = list(dict.fromkeys(unit.tile for unit in units if unit.pictured))
    mine = {tile for number, tile in enumerate(order) if share.has(number)}
    helping = [unit for unit in units if not unit.pictured and not share.place]
    return (*helping, *(unit for unit in units if unit.pictured and unit.tile in mine))
