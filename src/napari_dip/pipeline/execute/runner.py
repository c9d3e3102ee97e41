"""Restore one image as planned: calibrate it, fit each work unit, and merge the results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import FailedError, RefusedError, raise_if_refused
from napari_dip.pipeline.events import Event, Restoration
from napari_dip.pipeline.execute.device_recovery import make_machine_refusal
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.lazy_inputs import add_change_notes, stamp_files
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.store.joint_network import (
    list_network_outcomes,
    read_fitted_network,
    read_network_weights,
)
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.calibrate.calibration import CalibratedImage
    from napari_dip.pipeline.execute.clock import RunClock
    from napari_dip.pipeline.execute.executor import Weights
    from napari_dip.pipeline.lazy_inputs import FileStamps
    from napari_dip.pipeline.plan.types import JointNetwork, Plan, WorkUnit
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

__all__ = ["Control", "Event", "Restoration", "run"]


def run(
    plan: Plan,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_seconds: float | None = None,
    store: CheckpointStore | None = None,
    stamps: FileStamps | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore one image.

    Parameters
    ----------
    plan : Plan
    data : mapping
        "image": array-like in the axes and shape of `plan.source`. It is copied at the start, or
        read tile by tile if the plan has tiles. Further inputs of the task are stored under the
        names of `plan.extra_inputs`.
    control : callable
        Returns the request of the user: go on, pause, keep, or discard. It is polled at every
        iteration.
    preview_seconds : float or None
        Minimum time between two previews, in seconds; None: no previews.
    store : CheckpointStore or None
        Writes checkpoints, and holds the one to resume from; None: no checkpoints.
    stamps : mapping of str to str, optional
        Stamps of the files from before `data` was read, from
        `napari_dip.pipeline.lazy_inputs.stamp_files`. By default, they are taken now.

    Yields
    ------
    Event

    Returns
    -------
    Restoration or None
        None if the run was discarded, or was ended before there was any result.

    Raises
    ------
    RefusedError
        If the pixels cannot be restored, or the checkpoint belongs to another run.
    FailedError
        If the run failed after work had begun.
    """
    stamps = stamp_files(plan) if stamps is None else stamps
    yield Event(message="Starting the engine")
    load_torch()
    steps = _restore_with_checkpoint(plan, data, stamps, control, preview_seconds, store)
    return (yield from run_in_default_state(steps, plan.threads))


def _restore_with_checkpoint(
    plan: Plan,
    data: Mapping[str, Any],
    stamps: FileStamps,
    control: Callable[[], Control],
    preview_seconds: float | None,
    store: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore the image; if the run fails, write a checkpoint of it first."""
    try:
        restoration = yield from _restore(plan, data, control, preview_seconds, store)
        return None if restoration is None else add_change_notes(plan, data, stamps, restoration)
    except Exception as error:
        if store is not None and not isinstance(error, RefusedError):
            store.write_if_possible()
        if machine_refusal := make_machine_refusal(error, plan.source.name):
            raise FailedError(machine_refusal) from error
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
        reduce_noise,
    )
    from napari_dip.pipeline.calibrate.refine import refine
    from napari_dip.pipeline.execute.clock import RunClock

    clock = RunClock(plan, control, preview_seconds)
    network = None if plan.network is None else read_fitted_network(plan.network)
    image = yield from read_image(plan, data, clock, network)
    restoration = yield from _fit_units(image, clock, store)
    for _ in range(MAX_RETRY_ROUNDS):
        if restoration is None or clock.is_ended:
            break
        calibration = reduce_noise(image, restoration)
        if calibration is None:
            break
        run_plan = refine(
            plan,
            image.inspection,
            calibration,
            layout=image.layout,
            network=network,
            noise_reason=image.plan.fit_config.prior_reason,
        )
        image = replace(image, plan=run_plan, calibration=calibration)
        yield clock.announce("Restoring again with weaker noise")
        try:
            retry_restoration = yield from _fit_units(image, clock, None)
        except Exception as error:
            if make_machine_refusal(error, plan.source.name) or isinstance(error, FailedError):
                break  # the earlier result is still valid; its quality checks describe it
            raise
        if retry_restoration is None:
            return None
        if compute_failure_score(retry_restoration) >= compute_failure_score(restoration):
            break
        restoration = retry_restoration
    return restoration


def _fit_units(
    image: CalibratedImage, clock: RunClock, store: CheckpointStore | None
) -> Generator[Event, None, Restoration | None]:
    """Fit and merge all work units of a calibrated image."""
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.store.unit_results import ResultStore

    plan = image.plan
    clock.expect(plan)
    merger = ResultMerger(image)
    if store is not None:
        store.open_image(image)
    resume = None if store is None else store.read(merger)
    merger.outcomes += list_network_outcomes(plan, merger.outcomes)
    results = None if store is None else ResultStore(store.folder)
    stored_ids = frozenset[str]() if results is None else results.find_finished_units(plan)

    def merge_stored(unit: WorkUnit) -> bool:
        if results is None or unit.id not in stored_ids:
            return False
        results.merge_result(unit, merger)
        return True

    network_weights = {} if plan.network is None else read_network_weights(plan.network)

    def load_network(name: str) -> Weights | None:
        if plan.network is not None:
            return network_weights.get(name)
        return None if results is None else results.load_weights(name)

    executor = Executor(merger, clock, store, load_network=load_network)
    control = yield from executor.run(plan.units, resume, merge_stored=merge_stored)
    if control is Control.DISCARD:
        return None
    clock.is_ended = control is Control.KEEP
    if not merger.outcomes:  # ended before the first result
        clock.check_time(image.source.name)
        return None
    clock.begin_assessment()
    return merger.make_restoration(clock.seconds, timed_out=clock.timed_out)


def read_image(
    plan: Plan, data: Mapping[str, Any], clock: RunClock, network: JointNetwork | None = None
) -> Generator[Event, None, CalibratedImage]:
    """Read an image that is not split into tiles, and calibrate it.

    Parameters
    ----------
    plan, data
        As for `run`.
    clock : RunClock
    network : JointNetwork, optional
        The fitted network that the plan applies.

    Raises
    ------
    RefusedError
        If the pixels cannot be restored.
    """
    from napari_dip.pipeline.calibrate.refine import calibrate_image

    yield clock.announce("Reading the image")
    # arrays of the caller may change during the run; those read from files cannot
    read_array = np.array if plan.source.path is None else np.asarray
    arrays = {name: read_array(data[name]) for name in ("image", *plan.extra_inputs)}
    yield clock.announce("Measuring the noise")
    return raise_if_refused(calibrate_image(plan, arrays, network))
