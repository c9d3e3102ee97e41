"""Restore one image as planned, or a shard of it: calibrate it, fit its units, merge the results.

If the noise was overestimated, the fit removes structure as noise. Two tests are independent of the
measured noise strength, so they detect this, and the image is restored again: smooth areas of the
residual give an upper bound of the noise.

A shard saves its unit or tile results in the run folder, where another process merges them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError, RefusedError
from napari_dip.io.header import COLOUR_COUNT
from napari_dip.pipeline.assess.artefact_detection import (
    MAX_RETRY_ROUNDS,
    calibrate_for_weaker_noise,
)
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.execute.device_recovery import make_machine_fault
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.lazy_inputs import add_change_notes, merge_equal_colours, stamp_files
from napari_dip.pipeline.plan.units import select_shard_tile_units, select_shard_units
from napari_dip.pipeline.progress import Event, map_generator
from napari_dip.pipeline.store.network_files import (
    list_network_outcomes,
    read_fitted_network,
    read_network_weights,
)
from napari_dip.pipeline.store.result_files import ResultWriter
from napari_dip.pipeline.torch_state import load_torch, run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.types import CalibratedImage, RunInputs
    from napari_dip.pipeline.execute.executor import Weights
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.lazy_inputs import FileStamps
    from napari_dip.pipeline.plan.types import JointNetwork, Plan, WorkUnit
    from napari_dip.pipeline.plan.units import Shard
    from napari_dip.pipeline.progress import ReturnT
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

    RestoreUnits = Callable[
        [CalibratedImage, RunMonitor, CheckpointStore | None],
        Generator[Event, None, Restoration | None],
    ]


def run(
    plan: Plan,
    inputs: Mapping[str, Any],
    *,
    poll_control: PollControl = lambda: Control.GO,
    preview_seconds: float | None = None,
    checkpoints: CheckpointStore | None = None,
    stamps: FileStamps | None = None,
    run_inputs: RunInputs | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore one image.

    Parameters
    ----------
    plan : Plan
    inputs : mapping
        "image": array-like in the axes and shape of `plan.header`. It is copied at the start, or
        read tile by tile if the plan has tiles. Extra inputs of the task are stored under the
        names of `plan.extra_headers`.
    poll_control : callable
        Returns the control of the user: go on, pause, keep, or discard. It is polled at every
        iteration.
    preview_seconds : float or None
        Minimum time between two previews, in seconds; None: no previews.
    checkpoints : CheckpointStore or None
        Writes checkpoints, and holds the one to resume from; None: no checkpoints.
    stamps : mapping of str to str, optional
        Stamps of the files from before `inputs` was read, from
        `napari_dip.pipeline.lazy_inputs.stamp_files`. By default, they are taken now.
    run_inputs : RunInputs, optional
        From `arrange_inputs` of pixels that do not change any more; by default, made here.

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
    steps = _restore(plan, inputs, run_inputs, poll_control, preview_seconds, checkpoints)
    steps = _restore_with_checkpoint(steps, plan, inputs, stamps, checkpoints)
    result = yield from run_with_torch(steps, plan.threads, plan.header.name)
    return None if result is None else replace(result, writer=ResultWriter(plan=plan))


def run_with_torch(
    steps: Generator[Event, None, ReturnT], threads: int, name: str
) -> Generator[Event, None, ReturnT]:
    """Load torch, and run a generator in torch's default state.

    Parameters
    ----------
    steps : generator
    threads : int
        CPU threads of torch.
    name : str
        Name of the image in messages.

    Raises
    ------
    FailedError
        Instead of an error of memory or GPU.
    """
    yield Event(message="Starting the engine")
    load_torch()
    try:
        return (yield from run_in_default_state(steps, threads))
    except Exception as error:
        if machine_fault := make_machine_fault(error, name):
            raise FailedError(machine_fault) from error
        raise


def _restore_with_checkpoint(
    steps: Generator[Event, None, Restoration | None],
    plan: Plan,
    inputs: Mapping[str, Any],
    stamps: FileStamps,
    checkpoints: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore the image; if the run fails, write a checkpoint of it first."""
    try:
        restoration = yield from steps
        return None if restoration is None else add_change_notes(plan, inputs, stamps, restoration)
    except Exception as error:
        if checkpoints is not None and not isinstance(error, RefusedError):
            checkpoints.write_if_possible()
        raise


def _restore(
    plan: Plan,
    inputs: Mapping[str, Any],
    run_inputs: RunInputs | None,
    poll_control: PollControl,
    preview_seconds: float | None,
    checkpoints: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore an image as planned; of three equal colours, only one."""
    if "S" in plan.header.axes:
        yield Event(message="Reading the image")
    grey_plan, merged_inputs, hashes = merge_equal_colours(plan, inputs)
    options = poll_control, preview_seconds, checkpoints
    if not hashes:
        return (yield from _restore_channels(plan, merged_inputs, run_inputs, *options))
    if checkpoints is not None:
        checkpoints.source_hashes = hashes
    steps = _restore_channels(grey_plan, merged_inputs, None, *options)
    return (yield from repeat_colours(steps, plan.header, hashes))


def repeat_colours(
    steps: Generator[Event, None, Restoration | None],
    header: ImageHeader,
    hashes: Mapping[str, str],
) -> Generator[Event, None, Restoration | None]:
    """Run the steps of one of three equal colours, and repeat it in previews and result.

    Parameters
    ----------
    steps : generator
    header : ImageHeader
        Header of the image in colours.
    hashes : mapping of str to str
        SHA-256 of the inputs in colours, by name.
    """
    axis = header.axes.index("S")

    def repeat(pixels: Any) -> Any:
        if pixels is None:
            return None
        shape = (*pixels.shape[:axis], COLOUR_COUNT, *pixels.shape[axis:])
        repeated = np.broadcast_to(np.expand_dims(pixels, axis), shape)
        return repeated if isinstance(pixels, np.memmap) else repeated.copy()

    result = yield from map_generator(
        steps, lambda event: replace(event, preview=repeat(event.preview))
    )
    if result is None:
        return None
    names = ("image", "uncertainty", "residual", "repeat_map", "null_image")
    images = {name: repeat(getattr(result, name)) for name in names}
    extra_hashes = {name: digest for name, digest in hashes.items() if name != "image"}
    report: Any = {
        **result.report,
        "shape": list(header.shape),
        "axes": header.axes,
        "input_sha256": hashes["image"],
        "extra_inputs_sha256": {**result.report["extra_inputs_sha256"], **extra_hashes},
        "output_sha256": compute_sha256(images["image"]),
        "fit": {
            **result.report["fit"],
            "scale": header.scale and list(header.scale),
            "units": header.units and list(header.units),
        },
    }
    return replace(result, report=report, **images)


def _restore_channels(
    plan: Plan,
    inputs: Mapping[str, Any],
    run_inputs: RunInputs | None,
    poll_control: PollControl,
    preview_seconds: float | None,
    checkpoints: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    from napari_dip.pipeline.execute.repeatability_runs import perform_repeatability_runs
    from napari_dip.pipeline.execute.run_monitor import RunMonitor

    monitor = RunMonitor(plan, poll_control, None if plan.tiles else preview_seconds)
    if plan.tiles:
        from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles
        from napari_dip.pipeline.execute.tile_executor import restore_tiles

        network = None
        calibrated_image, hashes = yield from calibrate_tiles(plan, inputs, monitor)
        restore_units: RestoreUnits = partial(restore_tiles, inputs["image"], hashes)
    else:
        network = None if plan.network is None else read_fitted_network(plan.network)
        calibrated_image = yield from read_image(plan, inputs, monitor, network, run_inputs)
        restore_units = _fit_units
    restoration = yield from restore_units(calibrated_image, monitor, checkpoints)
    if restoration is None:
        return None
    restored = yield from _repeat_with_weaker_noise(
        plan, calibrated_image, restoration, restore_units, monitor, network
    )
    if restored is None:
        return None
    if plan.tiles:
        return restored[1]
    return (yield from perform_repeatability_runs(*restored, monitor))


def _repeat_with_weaker_noise(
    plan: Plan,
    calibrated_image: CalibratedImage,
    restoration: Restoration,
    restore_units: RestoreUnits,
    monitor: RunMonitor,
    network: JointNetwork | None,
) -> Generator[Event, None, tuple[CalibratedImage, Restoration] | None]:
    """Restore again with weaker noise while the result fails its checks and a new run helps.

    Of an image in tiles, the sample regions are checked. A new run writes no checkpoints. The image
    that is returned has the calibration of the result.
    """
    from napari_dip.pipeline.calibrate.run_plan import make_run_plan

    best = calibrated_image, restoration
    for _ in range(MAX_RETRY_ROUNDS):
        if monitor.is_ended:
            break
        calibration = calibrate_for_weaker_noise(
            calibrated_image, _crop_residual_to_regions(calibrated_image, restoration)
        )
        if calibration is None:
            break
        run_plan = make_run_plan(
            plan,
            calibrated_image.inspection,
            calibration,
            layout=None if plan.tiles else calibrated_image.layout,
            network=network,
            regions=calibrated_image.run_plan.regions,
            reference_tile=calibrated_image.run_plan.reference_tile,
            noise_reason=calibrated_image.run_plan.fit_config.prior_reason,
        )
        calibrated_image = replace(calibrated_image, run_plan=run_plan, calibration=calibration)
        yield monitor.make_message_event("Restoring again with weaker noise")
        try:
            retry_restoration = yield from restore_units(calibrated_image, monitor, None)
        except Exception as error:
            if make_machine_fault(error, plan.header.name) or isinstance(error, FailedError):
                break  # the earlier result is still valid; its quality checks describe it
            raise
        if retry_restoration is None:
            return None
        if plan.tiles and monitor.is_ended:
            break  # some tiles were not restored again
        if retry_restoration.failure_score >= restoration.failure_score:
            break
        restoration = retry_restoration
        best = calibrated_image, restoration
    return best


def _crop_residual_to_regions(
    calibrated_image: CalibratedImage, restoration: Restoration
) -> Restoration:
    """Return the restoration with the residual of the sample regions, if the image is in tiles."""
    run_plan, residual = calibrated_image.run_plan, restoration.residual
    if not run_plan.regions or residual is None:
        return restoration
    regions = [region.read_pixels(residual, run_plan.header.axes) for region in run_plan.regions]
    return replace(restoration, residual=np.stack(regions))


def _fit_units(
    calibrated_image: CalibratedImage, monitor: RunMonitor, checkpoints: CheckpointStore | None
) -> Generator[Event, None, Restoration | None]:
    """Fit and merge all work units of a calibrated image."""
    monitor.set_expected_work(calibrated_image.run_plan)
    merger, executor, control = yield from _fit_remaining_units(
        calibrated_image, calibrated_image.run_plan.units, monitor, checkpoints
    )
    if control is Control.DISCARD:
        return None
    monitor.is_ended = control is Control.KEEP
    if not any(outcome.has_estimate for outcome in merger.outcomes):  # ended before the first
        monitor.raise_if_timed_out(calibrated_image.header.name)
        return None
    monitor.start_assessment()
    restoration = merger.make_restoration(monitor.seconds, is_timed_out=monitor.is_timed_out)
    return replace(restoration, run_network=executor.make_network(restoration.report))


def _fit_remaining_units(
    calibrated_image: CalibratedImage,
    units: tuple[WorkUnit, ...],
    monitor: RunMonitor,
    checkpoints: CheckpointStore | None,
    *,
    saves_results: bool = False,
) -> Generator[Event, None, tuple[ResultMerger, Executor, Control]]:
    """Fit units of a calibrated image, except those whose results are stored.

    Parameters
    ----------
    saves_results : bool
        Whether results and shared networks are saved for the process that merges all shards.
    """
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.store.unit_results import ResultStore

    run_plan, merger = calibrated_image.run_plan, ResultMerger(calibrated_image)
    checkpoint = unit_results = None
    stored_ids = frozenset[str]()
    if checkpoints is not None:
        checkpoints.open_image(calibrated_image)
        checkpoint, unit_results = checkpoints.read(merger), ResultStore(checkpoints.folder)
        stored_ids = unit_results.find_finished_units(run_plan)
    merger.outcomes += list_network_outcomes(run_plan, merger.outcomes)
    network_weights = {} if run_plan.network is None else read_network_weights(run_plan.network)

    def merge_stored(unit: WorkUnit) -> bool:
        if unit_results is None or unit.id not in stored_ids:
            return False
        unit_results.merge_result(unit, merger)
        return True

    def load_network(name: str) -> Weights | None:
        if run_plan.network is not None:
            return network_weights.get(name)
        return None if unit_results is None else unit_results.load_weights(name)

    executor = Executor(
        merger,
        monitor,
        checkpoints,
        load_network=load_network,
        save_network=unit_results.save_weights if unit_results and saves_results else None,
        save_result=unit_results.save if unit_results and saves_results else None,
    )
    control = yield from executor.run(units, checkpoint, merge_stored=merge_stored)
    return merger, executor, control


def read_image(
    plan: Plan,
    inputs: Mapping[str, Any],
    monitor: RunMonitor,
    network: JointNetwork | None = None,
    run_inputs: RunInputs | None = None,
) -> Generator[Event, None, CalibratedImage]:
    """Read an image that is not split into tiles, and calibrate it.

    Parameters
    ----------
    plan, inputs, run_inputs
        As for `run`.
    monitor : RunMonitor
    network : JointNetwork, optional
        The fitted network that the plan applies.

    Raises
    ------
    RefusedError
        If the pixels cannot be restored.
    """
    from napari_dip.pipeline.calibrate.run_plan import calibrate_image

    yield monitor.make_message_event("Reading the image")
    # arrays of the caller may change during the run; those read from files cannot
    read_array = np.array if plan.header.path is None else np.asarray
    arrays = {name: read_array(inputs[name]) for name in ("image", *plan.extra_headers)}
    yield monitor.make_message_event("Measuring the noise")
    return calibrate_image(plan, arrays, network, run_inputs)


def restore_shard(
    plan: Plan,
    inputs: Mapping[str, Any],
    shard: Shard,
    poll_control: PollControl,
    checkpoints: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Run the fits of one shard.

    The results are identical to those of a run without shards, byte for byte.

    Parameters
    ----------
    plan, inputs, poll_control
        As for `run`.
    shard : Shard
        In tiles, the shard with index 0 has to finish first. Otherwise, each shard repeats the
        joint training.
    checkpoints : CheckpointStore
        The checkpoint is of this shard only; all shards share the run folder.

    Yields
    ------
    Event

    Returns
    -------
    Control
        GO, or how the run was ended.

    Raises
    ------
    RefusedError, FailedError
        As for `run`, except for errors of memory or GPU.
    """
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles
    from napari_dip.pipeline.execute.tile_executor import TileExecutor, open_tile_results
    from napari_dip.pipeline.store.unit_results import JOINT_NAME

    plan, inputs, checkpoints.source_hashes = merge_equal_colours(plan, inputs)
    monitor = RunMonitor(plan, poll_control, None)
    if not plan.tiles:
        calibrated_image = yield from read_image(plan, inputs, monitor)
        units = select_shard_units(shard, calibrated_image.run_plan)
        monitor.set_expected_work(calibrated_image.run_plan, units)
        *_, control = yield from _fit_remaining_units(
            calibrated_image, units, monitor, checkpoints, saves_results=True
        )
        if control is Control.GO:
            checkpoints.remove_checkpoint()
        return control
    regions_image, hashes = yield from calibrate_tiles(plan, inputs, monitor)
    unit_results = open_tile_results(regions_image.run_plan, hashes, checkpoints)
    try:
        units = select_shard_tile_units(shard, regions_image.run_plan.units)
        if shard.index and not unit_results.read_outcomes(JOINT_NAME):
            joint_units = (unit for unit in regions_image.run_plan.units if not unit.has_estimate)
            units = (*joint_units, *units)
        monitor.set_expected_work(regions_image.run_plan, units)
        executor = TileExecutor(regions_image, inputs["image"], monitor, checkpoints, unit_results)
        return (yield from executor.run(units))
    finally:
        unit_results.close()
