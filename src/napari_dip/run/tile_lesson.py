"""What the tiles of a picture share: one network, fitted to the regions that stand for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.errors import Refused
from napari_dip.run.checkpoints import UNUSABLE
from napari_dip.run.course import Course, without
from napari_dip.run.layout import Layout, to_parts
from napari_dip.run.merge import Merge

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from napari_dip.engine.progress import Checkpoint
    from napari_dip.run.checkpoints import Store
    from napari_dip.run.clock import Clock
    from napari_dip.run.events import Event
    from napari_dip.run.plan import Plan
    from napari_dip.run.shelf import Shelf
    from napari_dip.run.tile_report import Measured


def lesson(
    ready: Measured, clock: Clock, store: Store, shelf: Shelf
) -> Generator[Event, None, Control]:
    """Fit what all tiles are shown, and try whether going on from it pays.

    Parameters
    ----------
    ready : Measured
        Where its plan shares nothing, nothing is done.
    clock, store
        Of the run.
    shelf : Shelf
        Keeps the weights, and how it went; what it has already is not learned again.

    Returns
    -------
    Control
        GO, also where a person keeps what there is: the tiles ask again.
    """
    plan, sample = ready.plan, ready.sample
    units = tuple(unit for unit in plan.units if not unit.pictured)
    if not units or shelf.lesson():
        return Control.GO
    axes, layout = "T" + plan.source.axes, Layout("T", plan.layout.channels, "YX")
    source = replace(plan.source, shape=sample.shape, axes=axes, scale=None, units=None)
    small = replace(plan, source=source, layout=layout, units=units, tiles=())
    parts = to_parts(sample, axes, layout)
    merge = Merge(small, ready.calibration, parts, sample)
    resume = opened(store, small, sample, merge)
    merge.outcomes[:] = [one for one in merge.outcomes if shelf.weights(one.series)]
    done = {one.unit for one in merge.outcomes}
    course = Course(small, ready.calibration, parts, clock, merge, store)
    for number, unit in enumerate(units, 1):
        fitted = without(unit, ready.calibration.constant)
        if unit.id in done or not fitted.channels:
            continue
        ended = yield from course.fit_unit(fitted, number, resume)
        resume = None
        if ended is not Control.GO:
            return ended
        if course.weights is not None:
            shelf.keep_weights(unit.series, course.weights)
    if not any(one.kept for one in merge.outcomes):
        shelf.keep_lesson(merge.outcomes)
    store.forget()
    return Control.GO


def opened(store: Store, plan: Plan, array: Any, merge: Merge) -> Checkpoint | None:
    """Go on within a part of the run, or begin it anew if what was kept is of another."""
    try:
        return store.open(plan, {"image": array}, merge)
    except Refused as error:  # of a part that was done meanwhile
        if error.refusal.code not in UNUSABLE:
            raise
        store.forget()
        return None
