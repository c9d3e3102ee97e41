"""Restore a picture tile by tile: each by itself, all by one calibration, blended in the end."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.run.blend import Blend
from napari_dip.run.checkpoints import Store
from napari_dip.run.clock import Clock
from napari_dip.run.events import Event
from napari_dip.run.tile_course import TileCourse, shelf_of
from napari_dip.run.tile_lesson import lesson
from napari_dip.run.tile_measuring import measured
from napari_dip.run.tile_report import reported

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.run.events import Restoration
    from napari_dip.run.plan import Plan
    from napari_dip.run.shelf import Shelf


def restore_tiles(
    plan: Plan, data: Mapping[str, Any], control: Callable[[], Control], store: Store | None
) -> Generator[Event, None, Restoration | None]:
    """Restore a picture in the plan's tiles.

    Parameters
    ----------
    plan, data, control, store
        As for `napari_dip.run.runner.run`. "image" is read region by region; what is done lies
        beside the store, or else in a temporary folder.

    Yields
    ------
    Event
        Without previews.

    Returns
    -------
    Restoration or None
        Its pictures are arrays that stay on the disk.

    Raises
    ------
    Refused, Failed
        As for `run`.
    """
    clock = Clock(plan, control, None)
    ready = yield from measured(plan, data, clock)
    plan, image = ready.plan, data["image"]
    clock.expect(plan)
    with ExitStack() as stack:
        if store is None:
            keeper = tempfile.TemporaryDirectory(prefix="napari-dip-", ignore_cleanup_errors=True)
            store = Store(Path(stack.enter_context(keeper)) / "run", resume=False)
        shelf = shelf_of(ready, store)
        stack.callback(shelf.close)
        course = TileCourse(ready, image, clock, store, shelf)
        ended = yield from lesson(ready, clock, store, shelf)
        if ended is Control.GO:
            ended = yield from course.restored(plan.units)
        if ended is Control.DISCARD:
            return None
        if not course.order:  # asked to keep before there was anything
            clock.check_time(plan.source.name)
            return None
        shelf.check(course.order)
        yield Event("Putting the tiles together", fraction=1.0, seconds=clock.seconds)
        blend = Blend(plan, ready.calibration, shelf, image)
        written = blend.written(_shift(plan, shelf))
        return reported(ready, blend, shelf, written, clock)


def _shift(plan: Plan, shelf: Shelf) -> Any:
    """Give what the fits have lost of each channel's mean."""
    sums = [shelf.told(tile.index)[0] for tile in plan.tiles if shelf.there(tile.index)]
    return np.sum(sums, axis=0) / prod(plan.source.along(plan.tiles[0].axes))
