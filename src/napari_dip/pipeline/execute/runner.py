"""Restore one image as planned, or a shard of it: calibrate it, fit its units, merge the results.

If the noise was overestimated, the fit removes structure as noise. Two tests are independent of the
measured noise strength, so they detect this, and the image is restored again: smooth areas of the
residual give an upper bound of the noise.

A shard saves its unit or tile results in the run folder, where another process merges them.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError, RefusedError, raise_if_refused
from napari_dip.errors.notes import UnreliableReason, make_note
from napari_dip.errors.templates import shorten_repr
from napari_dip.io.header import ImageHeader, guess_axes
from napari_dip.io.regions import LazyImage
from napari_dip.pipeline.assess.artefact_detection import LOCAL_AREA_SIDE
from napari_dip.pipeline.assess.report_figures import plot_overview, select_middle_plane
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance, identify_noise_model
from napari_dip.pipeline.calibrate.types import compute_validation_fraction
from napari_dip.pipeline.events import Event, Restoration, drain_generator
from napari_dip.pipeline.execute.device_recovery import make_machine_refusal
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.lazy_inputs import LazyPixels, add_change_notes, stamp_files
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.layout import has_overlap, to_stack
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.units import select_shard_tile_units, select_shard_units
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.store.joint_network import (
    list_network_outcomes,
    read_fitted_network,
    read_network_weights,
)
from napari_dip.pipeline.store.result_files import ResultWriter
from napari_dip.pipeline.torch_state import load_torch, run_in_default_state
from napari_dip.tasks import TASKS
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import AnyArray
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration, StackArray
    from napari_dip.pipeline.events import ReturnT
    from napari_dip.pipeline.execute.executor import Weights
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.lazy_inputs import FileStamps
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import JointNetwork, Plan, WorkUnit
    from napari_dip.pipeline.plan.units import Shard
    from napari_dip.pipeline.store.checkpoints import CheckpointStore

    RestoreUnits = Callable[
        [CalibratedImage, RunMonitor, CheckpointStore | None],
        Generator[Event, None, Restoration | None],
    ]

#: Maximum number of new runs, and maximum noise variance of each relative to the previous one. One
#: was enough for overestimates of 4 to 400 times (docs/constants.md).
MAX_RETRY_ROUNDS, MAX_RETRY_VARIANCE_FRACTION = 2, 0.25
#: Quantile of the residual's variance over areas that bounds the noise, since smooth areas lose
#: least structure; minimum share of the noise variance in a new run.
CALM_AREA_QUANTILE, MIN_RETRY_VARIANCE_FRACTION = 0.25, 1e-4

#: Seconds between two events of a paused run: few enough that a button feels immediate.
PAUSE_SECONDS = 0.1

__all__ = ["Control", "Event", "Restoration", "Run", "run"]

#: Sides of the blocks of a dask array, in pixels: wider ones gain nothing, and narrower ones are
#: mostly halo (see `plan.tiling`).
MIN_BLOCK_SIDE, MAX_BLOCK_SIDE = 256, 1024
#: Held by a fit in a task of dask, since the threads of a process share the state of torch.
_BLOCK_LOCK = Lock()


def run(
    plan: Plan,
    data: Mapping[str, Any],
    *,
    poll_control: PollControl = lambda: Control.GO,
    preview_seconds: float | None = None,
    checkpoints: CheckpointStore | None = None,
    stamps: FileStamps | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore one image.

    Parameters
    ----------
    plan : Plan
    data : mapping
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
    steps = _restore_with_checkpoint(plan, data, stamps, poll_control, preview_seconds, checkpoints)
    result = yield from run_with_torch(steps, plan.threads, plan.header.name)
    return result and replace(result, writer=ResultWriter(plan=plan))


class UserControl:
    """What the user wants of a run: the last answer of a function `progress`, or of a button.

    Parameters
    ----------
    progress : callable or None
        Called with each event, and with the last one again for as long as it answers "pause".
    """

    def __init__(self, progress: Callable[[Any], object] | None = None) -> None:
        self._progress, self._event, self._control = progress, None, Control.GO

    def show(self, event: Any) -> None:
        """Pass an event to `progress`, and follow its answer."""
        self._event = event
        if self._progress is not None:
            self.follow(self._progress(event))

    def poll(self) -> Control:
        """Return the control of the moment."""
        if self._control is Control.PAUSE:
            self.show(self._event)
        return self._control

    def follow(self, answer: object) -> None:
        """Take an answer; "keep" and "discard" are final, and what is no text counts as "go"."""
        names = [control.value for control in Control]
        if isinstance(answer, str) and answer not in names:
            why = f"it should answer None or one of: {', '.join(names)}"
            near = get_close_matches(answer, names, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else "Return None to go on."
            raise RefusedError(
                "setting-wrong", field="progress", value=shorten_repr(answer), why=why, hint=hint
            )
        if self._control not in (Control.KEEP, Control.DISCARD):
            self._control = Control(answer) if isinstance(answer, str) else Control.GO


class Run:
    """A run that goes on while its events are read, as `napari_dip.run` returns it.

    Its methods take effect at the next iteration, and may be called from another thread. A loop
    that has paused its own run gets the last event again, every tenth of a second.

    Attributes
    ----------
    plan : Plan
    """

    def __init__(
        self, plan: Plan, start: Callable[[PollControl], Generator[Event, None, Restoration | None]]
    ) -> None:
        self.plan: Plan = plan
        self._control, self._has_ended = UserControl(), False
        self._event: Event | None = None
        self._result: Restoration | None = None
        self._steps = start(self._control.poll)

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Event:
        if self._control.poll() is Control.PAUSE and self._event is not None:
            time.sleep(PAUSE_SECONDS)
            return self._event
        try:
            self._event = next(self._steps)
        except StopIteration as stop:
            if not self._has_ended:
                self._has_ended, self._result = True, stop.value
            raise StopIteration from None
        return self._event

    def pause(self) -> None:
        """Wait without computing."""
        self._control.follow("pause")

    def resume(self) -> None:
        """Go on after a pause."""
        self._control.follow("go")

    def keep(self) -> None:
        """End the run with the best result so far, as "Stop and keep" in the dock does."""
        self._control.follow("keep")

    def discard(self) -> None:
        """End the run without a result."""
        self._control.follow("discard")

    def show(self) -> Restoration:
        """Run to the end, show how it goes, and return the result.

        A notebook with ipywidgets shows preview, loss curve and a button; elsewhere there is a
        line of text. The button and an interrupt (Ctrl-C) keep the best result so far.

        Examples
        --------
        >>> result = dip.run("denoise", image, preset="fast", max_iterations=10).show()
        <BLANKLINE>
        ...
        """
        draw = _make_widget(self) or _print_event
        with _keep_at_interrupt(self):
            for event in self:
                draw(event)
        print()
        return self.result

    @property
    def result(self) -> Restoration:
        """Result of the run; `RefusedError` before its end, `FailedError` if there is none."""
        if not self._has_ended:
            raise RefusedError("result-early")
        if self._result is None:
            raise FailedError("result-none")
        return self._result

    def __repr__(self) -> str:
        """Return one line: the plan, and whether the run has ended."""
        return f"<Run: {self.plan.work_summary}{', ended' * self._has_ended}>"


def _print_event(event: Event) -> None:
    print(f"\r{event.fraction:4.0%} {event.message:60.60}", end="", flush=True)


def _make_widget(started_run: Run) -> Callable[[Event], None] | None:
    """Return a function that shows an event in a notebook; None without one or ipywidgets."""
    if "ipykernel" not in sys.modules or find_spec("ipywidgets") is None:
        return None
    import ipywidgets
    from IPython.display import display

    bar, label = ipywidgets.FloatProgress(max=1.0), ipywidgets.Label()
    button, picture = ipywidgets.Button(description="Stop and keep"), ipywidgets.Image()
    button.on_click(lambda _: started_run.keep())
    display(ipywidgets.VBox([ipywidgets.HBox([bar, button, label]), picture]))
    losses: dict[int, float | None] = {}

    def draw(event: Event) -> None:
        bar.value, label.value = event.fraction, event.message
        if event.iteration:
            losses[event.iteration] = event.validation_loss
        if event.preview is not None:
            plane = select_middle_plane(event.preview, started_run.plan.header.axes)
            picture.value = plot_overview(None, plane, [*losses.items()], event.best_iteration)

    return draw


@contextmanager
def _keep_at_interrupt(started_run: Run) -> Iterator[None]:
    """Let an interrupt keep the best result so far; handlers belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: started_run.keep())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


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
        if machine_refusal := make_machine_refusal(error, name):
            raise FailedError(machine_refusal) from error
        raise


def _restore_with_checkpoint(
    plan: Plan,
    data: Mapping[str, Any],
    stamps: FileStamps,
    poll_control: PollControl,
    preview_seconds: float | None,
    checkpoints: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore the image; if the run fails, write a checkpoint of it first."""
    try:
        restoration = yield from _restore(plan, data, poll_control, preview_seconds, checkpoints)
        return None if restoration is None else add_change_notes(plan, data, stamps, restoration)
    except Exception as error:
        if checkpoints is not None and not isinstance(error, RefusedError):
            checkpoints.write_if_possible()
        raise


def _restore(
    plan: Plan,
    data: Mapping[str, Any],
    poll_control: PollControl,
    preview_seconds: float | None,
    checkpoints: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    from napari_dip.pipeline.execute.controls import run_controls
    from napari_dip.pipeline.execute.run_monitor import RunMonitor

    monitor = RunMonitor(plan, poll_control, None if plan.tiles else preview_seconds)
    if plan.tiles:
        from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles
        from napari_dip.pipeline.execute.tile_executor import restore_tiles

        network = None
        image, hashes = yield from calibrate_tiles(plan, data, monitor)
        restore_units: RestoreUnits = partial(restore_tiles, data["image"], hashes)
    else:
        network = None if plan.network is None else read_fitted_network(plan.network)
        image = yield from read_image(plan, data, monitor, network)
        restore_units = _fit_units
    restoration = yield from restore_units(image, monitor, checkpoints)
    if restoration is None:
        return None
    restored = yield from _repeat_with_weaker_noise(
        plan, image, restoration, restore_units, monitor, network
    )
    if restored is None or plan.tiles:
        return restored and restored[1]
    return (yield from run_controls(*restored, monitor))


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
        calibration = lower_noise_estimate(
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
            regions=calibrated_image.plan.regions,
            reference_tile=calibrated_image.plan.reference_tile,
            noise_reason=calibrated_image.plan.fit_config.prior_reason,
        )
        calibrated_image = replace(calibrated_image, plan=run_plan, calibration=calibration)
        yield monitor.make_message_event("Restoring again with weaker noise")
        try:
            retry_restoration = yield from restore_units(calibrated_image, monitor, None)
        except Exception as error:
            if make_machine_refusal(error, plan.header.name) or isinstance(error, FailedError):
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


def lower_noise_estimate(
    calibrated_image: CalibratedImage, result: Restoration
) -> Calibration | None:
    """Return a calibration with weaker noise if a result has failed; otherwise None.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        With the calibration of the result. Noise that the user specified is never changed.
    result : Restoration
    """
    plan, calibration = calibrated_image.plan, calibrated_image.calibration
    noise_settings = plan.task_plan.noise_settings
    is_excluded = (
        noise_settings.model != "auto"
        or noise_settings.gain is not None
        or noise_settings.read_noise is not None
    )
    # with random input, a fit learns detail late, whatever noise was measured
    is_excluded |= not PRIOR_SPECS[plan.fit_config.prior_key].input_traits.contains_image
    has_noise_inputs = (
        calibration.repeated_exposure is not None or calibration.camera_correction is not None
    )
    if (
        is_excluded
        or has_noise_inputs
        or calibration.measured_mask is not None
        or not plan.recipe.task.spec.reports_unreliable_noise
    ):
        return None
    if result.residual is None or result.failure_score < 1:
        return None
    if all(estimate.counts_photons for estimate in calibration.noise):
        return None  # the noise is known exactly
    residual = to_stack(result.residual, calibrated_image.header.axes, calibrated_image.layout)
    noise = tuple(
        _weaken_noise(channel_noise, calibration.intensity_offset[c], residual[:, c])
        for c, channel_noise in enumerate(calibration.noise)
    )
    blind_spot_size = calibration.blind_spot_size
    if not plan.task_plan.blind_spot_shape:
        blind_spot_size = (1,) * len(blind_spot_size)
    return replace(
        calibration,
        noise=noise,
        blind_spot_size=blind_spot_size,
        validation_fraction=compute_validation_fraction(blind_spot_size, residual[0, 0].size),
        noise_model=identify_noise_model(noise, noise_settings),
        notes=(*calibration.notes, make_note("noise-weaker")),
        half_resolution=None,
        camera_noise=None,
    )


def _weaken_noise(
    noise_estimate: NoiseEstimate, mean: float, residual: StackArray
) -> NoiseEstimate:
    """Return white noise with a reduced variance, at most that of smooth areas of the residual."""
    rows, columns = (side // LOCAL_AREA_SIDE for side in residual.shape[-2:])
    cropped = residual[..., : rows * LOCAL_AREA_SIDE, : columns * LOCAL_AREA_SIDE]
    areas = cropped.reshape(*cropped.shape[:-2], rows, LOCAL_AREA_SIDE, columns, LOCAL_AREA_SIDE)
    smooth_variance = float(np.quantile(areas.var((-3, -1), dtype=np.float64), CALM_AREA_QUANTILE))
    fraction = min(
        MAX_RETRY_VARIANCE_FRACTION,
        max(
            smooth_variance / float(compute_noise_variance(noise_estimate, mean)),
            MIN_RETRY_VARIANCE_FRACTION,
        ),
    )
    return replace(
        noise_estimate.scale_to_white(fraction),
        unreliable_reason=noise_estimate.unreliable_reason or UnreliableReason.TEXTURE,
        caution=None,
    )


def _crop_residual_to_regions(
    calibrated_image: CalibratedImage, restoration: Restoration
) -> Restoration:
    """Return the restoration with the residual of the sample regions, if the image is in tiles."""
    plan, residual = calibrated_image.plan, restoration.residual
    if not plan.regions or residual is None:
        return restoration
    regions = [region.read_pixels(residual, plan.header.axes) for region in plan.regions]
    return replace(restoration, residual=np.stack(regions))


def _fit_units(
    calibrated_image: CalibratedImage, monitor: RunMonitor, checkpoints: CheckpointStore | None
) -> Generator[Event, None, Restoration | None]:
    """Fit and merge all work units of a calibrated image."""
    monitor.set_expected_work(calibrated_image.plan)
    merger, control = yield from _fit_remaining_units(
        calibrated_image, calibrated_image.plan.units, monitor, checkpoints
    )
    if control is Control.DISCARD:
        return None
    monitor.is_ended = control is Control.KEEP
    if not merger.outcomes:  # ended before the first result
        monitor.raise_if_timed_out(calibrated_image.header.name)
        return None
    monitor.start_assessment()
    return merger.make_restoration(monitor.seconds, is_timed_out=monitor.is_timed_out)


def _fit_remaining_units(
    calibrated_image: CalibratedImage,
    units: tuple[WorkUnit, ...],
    monitor: RunMonitor,
    checkpoints: CheckpointStore | None,
    *,
    saves_results: bool = False,
) -> Generator[Event, None, tuple[ResultMerger, Control]]:
    """Fit units of a calibrated image, except those whose results are stored.

    Parameters
    ----------
    saves_results : bool
        Whether results and shared networks are saved for the process that merges all shards.
    """
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.store.unit_results import ResultStore

    plan, merger = calibrated_image.plan, ResultMerger(calibrated_image)
    checkpoint = unit_results = None
    stored_ids = frozenset[str]()
    if checkpoints is not None:
        checkpoints.open_image(calibrated_image)
        checkpoint, unit_results = checkpoints.read(merger), ResultStore(checkpoints.folder)
        stored_ids = unit_results.find_finished_units(plan)
    merger.outcomes += list_network_outcomes(plan, merger.outcomes)
    network_weights = {} if plan.network is None else read_network_weights(plan.network)

    def merge_stored(unit: WorkUnit) -> bool:
        if unit_results is None or unit.id not in stored_ids:
            return False
        unit_results.merge_result(unit, merger)
        return True

    def load_network(name: str) -> Weights | None:
        if plan.network is not None:
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
    return merger, control


def read_image(
    plan: Plan, data: Mapping[str, Any], monitor: RunMonitor, network: JointNetwork | None = None
) -> Generator[Event, None, CalibratedImage]:
    """Read an image that is not split into tiles, and calibrate it.

    Parameters
    ----------
    plan, data
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
    arrays = {name: read_array(data[name]) for name in ("image", *plan.extra_headers)}
    yield monitor.make_message_event("Measuring the noise")
    return raise_if_refused(calibrate_image(plan, arrays, network))


def restore_shard(
    plan: Plan,
    data: Mapping[str, Any],
    shard: Shard,
    poll_control: PollControl,
    checkpoints: CheckpointStore,
) -> Generator[Event, None, Control]:
    """Run the fits of one shard.

    The results are identical to those of a run without shards, byte for byte.

    Parameters
    ----------
    plan, data, poll_control
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

    monitor = RunMonitor(plan, poll_control, None)
    if not plan.tiles:
        image = yield from read_image(plan, data, monitor)
        units = select_shard_units(shard, image.plan)
        monitor.set_expected_work(image.plan, units)
        _, control = yield from _fit_remaining_units(
            image, units, monitor, checkpoints, saves_results=True
        )
        if control is Control.GO:
            checkpoints.remove_checkpoint()
        return control
    sample, hashes = yield from calibrate_tiles(plan, data, monitor)
    unit_results = open_tile_results(sample.plan, hashes, checkpoints)
    try:
        units = select_shard_tile_units(shard, sample.plan.units)
        if shard.index and not unit_results.read_outcomes(JOINT_NAME):
            joint_units = (unit for unit in sample.plan.units if not unit.has_estimate)
            units = (*joint_units, *units)
        monitor.set_expected_work(sample.plan, units)
        executor = TileExecutor(sample, data["image"], monitor, checkpoints, unit_results)
        return (yield from executor.run(units))
    finally:
        unit_results.close()


def restore_blocks(
    image: Any, task: str = "denoise", *, axes: str | None = None, **settings: Any
) -> Any:
    """Restore a dask array lazily: return a dask array whose blocks are fitted when computed.

    One task measures noise and range on sample regions of the whole array. Then each block is
    fitted with a halo, independently of the others, and overlaps are blended, as in a run in
    tiles. Nothing is computed before `compute`, and any scheduler will do; its own progress bar
    counts the blocks. In one process the fits take turns.

    Parameters
    ----------
    image : dask array
        A plane or a Z stack, also with channels. An array that fits into one block, and a movie,
        is restored as a whole by a single task.
    task : str
        "denoise" or "deblur", without extra inputs.
    axes : str, optional
        As for `denoise`.
    **settings
        Settings of the task; ``tile`` is the side of a block without its halo. Default: that of
        the largest chunk of `image`, but at least 256 and at most 1,024 pixels.

    Returns
    -------
    dask array of float32
        Each block keeps its own mean.

    Raises
    ------
    RefusedError
        If array or settings cannot be used. Pixels are refused when they are computed.

    Examples
    --------
    >>> restored = dip.restore_blocks(array, preset="fast")
    >>> restored.to_zarr("restored.zarr")
    """
    import dask.array
    from dask.delayed import delayed

    da: Any = dask.array  # typed in part
    side = min(max(map(max, image.chunks[-2:])), MAX_BLOCK_SIDE)
    defaults: dict[str, Any] = {"tile": max(side, MIN_BLOCK_SIDE)}
    if hasattr(TASKS.get(task), "series_training"):
        defaults["series_training"] = "independent"
    recipe = make_recipe(task, **{**defaults, **settings})
    header = ImageHeader(
        name="image",
        shape=tuple(map(int, image.shape)),
        dtype=image.dtype.name,
        axes=axes or guess_axes(image.shape),
        has_guessed_axes=axes is None,
    )
    plan = raise_if_refused(preflight(recipe, header, detect_machine()))
    if not plan.tiles:
        result = delayed(partial(_restore_whole_array, plan))(image)
        return da.from_delayed(result, plan.result_shape, np.float32)
    sample = delayed(partial(_calibrate_array, plan, LazyPixels("image", image)))()
    estimates = [
        delayed(partial(_restore_block, plan, tile))(sample, image[tile.get_slices(header.axes)])
        for tile in plan.tiles
    ]
    down, right = plan.task_plan.get_factors("YX")
    blocks: dict[tuple[int, ...], Any] = {}
    for tile in plan.tiles:
        region = tile.core
        neighbours = [other for other in plan.tiles if has_overlap(other, region)]
        blend = delayed(partial(_blend_block, plan, region, neighbours))
        block = blend(*(estimates[other.index] for other in neighbours))
        shape = region.upscale((down, right)).make_header(header).shape
        blocks[region.start] = da.from_delayed(block, shape, np.float32)
    for axis in reversed(plan.tiles[0].axes):
        lines = defaultdict(list)
        for start, block in blocks.items():
            lines[start[:-1]].append(block)
        place = header.axes.index(axis)
        blocks = {start: da.concatenate(line, place) for start, line in lines.items()}
    return blocks[()]


def _restore_whole_array(plan: Plan, image: AnyArray) -> AnyArray:
    with _BLOCK_LOCK:
        result = drain_generator(run(plan, {"image": image}))
    assert result is not None  # the control never discards
    return result.image


def _calibrate_array(plan: Plan, image: LazyPixels) -> CalibratedImage:
    """Measure noise and range of a dask array within a task, which computes it in pieces."""
    import dask

    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles

    monitor = RunMonitor(plan, lambda: Control.GO, None)
    steps = calibrate_tiles(plan, {"image": image}, monitor)
    with _BLOCK_LOCK, dask.config.set(scheduler="synchronous"):
        return drain_generator(run_with_torch(steps, plan.threads, plan.header.name))[0]


def _restore_block(plan: Plan, tile: Tile, sample: CalibratedImage, pixels: AnyArray) -> StackArray:
    """Fit one block; return (C, *size) with its halo, and with the mean of its pixels."""
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_executor import TileExecutor, open_tile_results
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.unit_results import make_tile_name

    units = [unit for unit in sample.plan.units if unit.tile == tile.index]
    monitor = RunMonitor(plan, lambda: Control.GO, None)
    monitor.set_expected_work(sample.plan, units)
    with _BLOCK_LOCK, tempfile.TemporaryDirectory(prefix="napari-dip-") as folder:
        block = LazyImage(path=Path(folder), array=pixels, fetch=lambda _: pixels)
        checkpoints = CheckpointStore(Path(folder, "run"), resume=False)
        results = open_tile_results(sample.plan, {}, checkpoints)
        executor = TileExecutor(sample, block, monitor, checkpoints, results)
        drain_generator(run_with_torch(executor.run(units), plan.threads, plan.header.name))
        name = make_tile_name(tile.index)
        estimate = np.array(results.open_estimates(name)[0], np.float32)
        mean_residual = np.array(results.read_residual_sums(name)) / tile.compute_weights().sum()
        results.close()
    shift = plan.recipe.task.spec.keeps_mean * mean_residual
    estimate += shift.astype(np.float32).reshape(-1, *[1] * len(tile.spans))
    return estimate


def _blend_block(plan: Plan, region: Tile, tiles: list[Tile], *estimates: StackArray) -> AnyArray:
    """Blend what overlaps with a region, and return it in the axes of the image."""
    from napari_dip.pipeline.execute.tile_blending import arrange_axes, compute_overlap

    down, right = plan.task_plan.get_factors("YX")
    finer_region = region.upscale((down, right))
    image = np.zeros((len(estimates[0]), *finer_region.size))
    for tile, estimate in zip(tiles, estimates, strict=True):
        overlap, weight, tile_slices = compute_overlap(tile.upscale((down, right)), finer_region)
        image[:, *overlap] += weight * estimate[:, *tile_slices]
    return arrange_axes(plan, image, finer_region)
