"""Drain a plan: calibrate, fit each unit, merge, and hand back a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, Refused, allowed
from napari_dip.pipeline.events import Event, Restoration
from napari_dip.pipeline.execute.course import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.execute.memory import make_machine_refusal
from napari_dip.pipeline.lazy_inputs import own_copy, stamped, with_changes
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.store.shared_network import read_series, suited
from napari_dip.pipeline.torch_state import in_own_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.execute.clock import Clock
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

__all__ = ["Control", "Event", "Restoration", "run"]


def run(
    plan: Plan,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_seconds: float | None = None,
    store: CheckpointStore | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore one image.

    Parameters
    ----------
    plan : Plan
    data : mapping
        "image": array-like in the axes and shape of `plan.source`, copied here and now, or read
        tile by tile; the task's further inputs by name, as `plan.others` describes them.
    control : callable
        Polled at every step: go on, pause, keep, or discard.
    preview_seconds : float or None
        Least time between two previews; None for none.
    store : Store or None
        Where to leave checkpoints and to look for one to go on from.

    Yields
    ------
    Event

    Returns
    -------
    Restoration or None
        None if discarded.

    Raises
    ------
    Refused
        If the pixels cannot be restored (the content gate), or the checkpoint is of another run.
    Failed
        If work began and could not end well.
    """
    plan = plan if plan.source.stamp else stamped(plan)
    yield Event("Starting the engine")
    load_torch()
    steps = _attempted(plan, data, control, preview_seconds, store)
    return (yield from in_own_state(steps, plan.threads))


def _attempted(
    plan: Plan,
    data: Mapping[str, Any],
    control: Callable[[], Control],
    preview_seconds: float | None,
    store: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore; on the way out of a run that failed, keep what there is."""
    try:
        result = yield from _restore(plan, data, control, preview_seconds, store)
        return None if result is None else with_changes(plan, data, result)
    except Exception as error:
        if store is not None and not isinstance(error, Refused):
            store.write_if_possible()
        if no := make_machine_refusal(error, plan.source.name):
            raise Failed(no) from error
        raise


def _restore(
    plan: Plan,
    data: Mapping[str, Any],
    control: Callable[[], Control],
    preview_seconds: float | None,
    store: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    if plan.tiles:
        from napari_dip.pipeline.execute.tiles import restore_tiles

        return (yield from restore_tiles(plan, data, control, store))
    from napari_dip.pipeline.assess.quieter import ROUNDS, failing, quieter
    from napari_dip.pipeline.execute.clock import Clock

    clock = Clock(plan, control, preview_seconds)
    ready = yield from calibrated(plan, data, clock)
    result = yield from _fitted(ready, clock, store)
    for _ in range(ROUNDS):
        if result is None or clock.ended:
            break
        less = quieter(ready.plan, ready.calibration, result)
        if less is None:
            break
        ready = replace(ready, plan=less[0], calibration=less[1])
        yield Event("Restoring again with weaker noise", seconds=clock.seconds)
        try:
            other = yield from _fitted(ready, clock, None)
        except Exception as error:
            if make_machine_refusal(error, plan.source.name) or isinstance(error, Failed):
                break  # there is a result, and its verdict says what it is worth
            raise
        if other is None:
            return None
        if failing(other) >= failing(result):
            break
        result = other
    return result


def _fitted(
    ready: Calibrated, clock: Clock, store: CheckpointStore | None
) -> Generator[Event, None, Restoration | None]:
    """Fit and merge all units of an image whose noise was measured."""
    from napari_dip.pipeline.assess.merge import Merge
    from napari_dip.pipeline.store.units import UnitShelf

    calibration, planes, arrays = ready.calibration, ready.planes, ready.arrays
    plan = suited(ready.plan, calibration)
    weights = {} if plan.network is None else read_series(plan.network)
    clock.expect(plan)
    merge = Merge(plan, calibration, planes, arrays["image"])
    resume = None if store is None else store.open(plan, arrays, merge)
    if plan.network is not None:
        plan.network.tell(merge.outcomes, plan.units)
    begun = "" if store is None else store.unit
    done = {outcome.unit for outcome in merge.outcomes}
    course = UnitExecutor(plan, calibration, planes, clock, merge, store)
    kept = None if store is None else UnitShelf(store.shelf, store.identity)
    there = frozenset[str]() if kept is None else kept.chains(plan)
    for number, unit in enumerate(plan.units, 1):
        unit = drop_constant_channels(unit, calibration.constant)
        if unit.id in done or not unit.channels:
            continue
        if kept is not None and unit.id in there:
            kept.give(unit, merge)
            if not unit.pictured:
                course.weights = kept.weights(unit.series)
            continue
        course.weights = weights.get(unit.series, course.weights)
        ended = yield from course.fit_unit(unit, number, resume if unit.id == begun else None)
        if ended is Control.DISCARD:
            return None
        if ended is Control.KEEP:
            clock.ended = True
            break
    if not merge.outcomes:  # asked to keep before there was anything
        clock.check_time(plan.source.name)
        return None
    return merge.restoration(clock.seconds, timed_out=clock.timed_out)


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """An image whose pixels were looked at.

    Attributes
    ----------
    plan : Plan
        With what the pixels have changed of it.
    calibration : Calibration
    planes : ndarray
        (parts, C, *grid), in the image's units.
    arrays : mapping of str to ndarray
        The inputs as they came, which nobody else writes into.
    """

    plan: Plan
    calibration: Calibration
    planes: Planes
    arrays: Mapping[str, Any]


def calibrated(
    plan: Plan, data: Mapping[str, Any], clock: Clock
) -> Generator[Event, None, Calibrated]:
    """Read an image that is restored whole, and measure its noise; raises Refused as `run` does."""
    from napari_dip.pipeline.calibrate.inputs import sort_inputs
    from napari_dip.pipeline.calibrate.prepare import prepare, settled, trusting

    yield Event("Reading the image", seconds=clock.seconds)
    take = own_copy if plan.source.path is None else np.asarray  # what was read from files is ours
    arrays = {name: take(data[name]) for name in ("image", *plan.others)}
    yield Event("Measuring the noise", seconds=clock.seconds)
    inputs = allowed(sort_inputs(plan, arrays))
    plan = settled(plan, inputs)
    calibration, planes = prepare(plan, inputs)
    plan, calibration = trusting(plan, calibration)
    return Calibrated(plan, calibration, planes, arrays)
