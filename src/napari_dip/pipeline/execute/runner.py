"""Drain a plan: calibrate, fit each unit, merge, and hand back a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, Refused, allowed
from napari_dip.pipeline.events import Event, Restoration
from napari_dip.pipeline.execute.device_recovery import make_machine_refusal
from napari_dip.pipeline.execute.unit_executor import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.lazy_inputs import add_change_notes, copy_pixels, stamp_plan_files
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.store.shared_network import read_network_weights, replan_with_calibration
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.execute.clock import RunClock
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
    store : CheckpointStore or None
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
    plan = plan if plan.source.stamp else stamp_plan_files(plan)
    yield Event(message="Starting the engine")
    load_torch()
    steps = _restore_with_checkpoint(plan, data, control, preview_seconds, store)
    return (yield from run_in_default_state(steps, plan.threads))


def _restore_with_checkpoint(
    plan: Plan,
    data: Mapping[str, Any],
    control: Callable[[], Control],
    preview_seconds: float | None,
    store: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore; on the way out of a run that failed, keep what there is."""
    try:
        result = yield from _restore(plan, data, control, preview_seconds, store)
        return None if result is None else add_change_notes(plan, data, result)
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
        from napari_dip.pipeline.execute.tile_executor import restore_tiles

        return (yield from restore_tiles(plan, data, control, store))
    from napari_dip.pipeline.assess.noise_retry import (
        MAX_RETRY_ROUNDS,
        compute_failure_score,
        plan_weaker_noise,
    )
    from napari_dip.pipeline.execute.clock import RunClock

    clock = RunClock(plan, control, preview_seconds)
    prepared = yield from calibrate_image(plan, data, clock)
    result = yield from _fit_units(prepared, clock, store)
    for _ in range(MAX_RETRY_ROUNDS):
        if result is None or clock.is_ended:
            break
        less = plan_weaker_noise(prepared.plan, prepared.calibration, result)
        if less is None:
            break
        prepared = replace(prepared, plan=less[0], calibration=less[1])
        yield Event(message="Restoring again with weaker noise", seconds=clock.seconds)
        try:
            other = yield from _fit_units(prepared, clock, None)
        except Exception as error:
            if make_machine_refusal(error, plan.source.name) or isinstance(error, Failed):
                break  # there is a result, and its verdict says what it is worth
            raise
        if other is None:
            return None
        if compute_failure_score(other) >= compute_failure_score(result):
            break
        result = other
    return result


def _fit_units(
    prepared: CalibratedImage, clock: RunClock, store: CheckpointStore | None
) -> Generator[Event, None, Restoration | None]:
    """Fit and merge all units of an image whose noise was measured."""
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.store.unit_results import UnitFolder

    calibration, planes, arrays = prepared.calibration, prepared.stack, prepared.inputs
    plan = replan_with_calibration(prepared.plan, calibration)
    weights = {} if plan.network is None else read_network_weights(plan.network)
    clock.expect(plan)
    merge = ResultMerger(plan, calibration, planes, arrays["image"])
    resume = None if store is None else store.open(plan, arrays, merge)
    if plan.network is not None:
        plan.network.add_outcomes(merge.outcomes, plan.units)
    begun = "" if store is None else store.unit
    done = {outcome.unit for outcome in merge.outcomes}
    course = UnitExecutor(plan, calibration, planes, clock, merge, store)
    kept = None if store is None else UnitFolder(store.results_folder, store.identity)
    stored_ids = frozenset[str]() if kept is None else kept.find_finished_units(plan)
    for number, unit in enumerate(plan.units, 1):
        unit = drop_constant_channels(unit, calibration.constant_channels)
        if unit.id in done or not unit.channels:
            continue
        if kept is not None and unit.id in stored_ids:
            kept.merge_result(unit, merge)
            if not unit.has_estimate:
                course.weights = kept.load_weights(unit.series)
            continue
        course.weights = weights.get(unit.series, course.weights)
        ended = yield from course.fit_unit(unit, number, resume if unit.id == begun else None)
        if ended is Control.DISCARD:
            return None
        if ended is Control.KEEP:
            clock.is_ended = True
            break
    if not merge.outcomes:  # asked to keep before there was anything
        clock.check_time(plan.source.name)
        return None
    return merge.make_restoration(clock.seconds, timed_out=clock.timed_out)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CalibratedImage:
    """An image whose pixels were looked at.

    Attributes
    ----------
    plan : Plan
        With what the pixels have changed of it.
    calibration : Calibration
    stack : ndarray
        (parts, C, *grid), in the image's units.
    inputs : mapping of str to ndarray
        The inputs as they came, which nobody else writes into.
    """

    plan: Plan
    calibration: Calibration
    stack: Planes
    inputs: Mapping[str, Any]


def calibrate_image(
    plan: Plan, data: Mapping[str, Any], clock: RunClock
) -> Generator[Event, None, CalibratedImage]:
    """Read an image that is restored whole, and measure its noise; raises Refused as `run` does."""
    from napari_dip.pipeline.calibrate.inputs import sort_inputs
    from napari_dip.pipeline.calibrate.prepare import (
        calibrate_pixels,
        choose_prior_by_noise,
        choose_prior_by_pixels,
    )

    yield Event(message="Reading the image", seconds=clock.seconds)
    take = (
        copy_pixels if plan.source.path is None else np.asarray
    )  # what was read from files is ours
    arrays = {name: take(data[name]) for name in ("image", *plan.extra_inputs)}
    yield Event(message="Measuring the noise", seconds=clock.seconds)
    inputs = allowed(sort_inputs(plan, arrays))
    plan = choose_prior_by_pixels(plan, inputs)
    calibration, planes = calibrate_pixels(plan, inputs)
    plan, calibration = choose_prior_by_noise(plan, calibration)
    return CalibratedImage(plan=plan, calibration=calibration, stack=planes, inputs=arrays)
