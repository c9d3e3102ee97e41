"""Fit one network to the files of a series, before any of them is restored.

Files and crops are planned from headers alone. Each file is then calibrated on its own, so that
gain, range and noise are those of the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.io.paths import compute_file_sha256, convert_save_errors
from napari_dip.pipeline.calibrate.types import CalibratedImage
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.execute.run_monitor import RunMonitor
from napari_dip.pipeline.execute.runner import read_image, run_with_torch
from napari_dip.pipeline.lazy_inputs import merge_equal_colours, open_plan_inputs, stamp_files
from napari_dip.pipeline.plan.layout import REGION_AXIS, Layout, to_stack
from napari_dip.pipeline.plan.types import JOINT, TrainingRegion
from napari_dip.pipeline.progress import Event
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.network_files import describe_file, describe_network
from napari_dip.pipeline.store.tensor_file import write_tensors
from napari_dip.pipeline.store.unit_results import ResultStore
from napari_dip.scale.batch.jobs import (
    ENDING_CONTROLS,
    ControlRecorder,
    estimate_training_costs,
    list_training_units,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.scale.batch.jobs import JointTrainingPlan

#: Minimum number of calibrated files with the same network requirements.
MIN_SIMILAR_FILES = 4
#: Name of the series in messages.
SERIES_NAME = "the files of the series"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _TrainingCrop:
    """Crop of one file, its place, and the hash of the file."""

    calibrated_image: CalibratedImage
    training_region: TrainingRegion
    sha256: str

    @property
    def network_requirements(self) -> tuple[object, ...]:
        """Properties that a network must have been fitted for to be applicable to this file."""
        calibration = self.calibrated_image.calibration
        return (
            self.calibrated_image.run_plan.fit_config.prior_key,
            calibration.half_resolution is not None,
            calibration.constant_channels,
            len(calibration.noise),
        )


def fit_joint_network(
    joint_plan: JointTrainingPlan,
    network_path: Path,
    run_folder: Path,
    poll_control: PollControl,
    *,
    resume: bool,
) -> Generator[Event, None, bool]:
    """Fit one network to many files, probe whether fine-tuning it pays, and write it to a file.

    Parameters
    ----------
    joint_plan : JointTrainingPlan
    network_path, run_folder : Path
        Paths of the network file, and of the folder of the unfinished fit.
    poll_control : callable
        Polled at every iteration; once it returns keep or discard, the fit leaves a checkpoint.
    resume : bool
        Whether to resume from a checkpoint.

    Yields
    ------
    Event

    Returns
    -------
    bool
        False if the user ended the fit.

    Raises
    ------
    RefusedError
        If too few files have the same network requirements.
    FailedError
        If the fit fails, or the network cannot be written.
    """
    recorder = ControlRecorder(poll_control)
    checkpoints = CheckpointStore(run_folder, resume=resume, replaces_unusable=True)
    steps = _fit_networks(joint_plan, network_path, checkpoints, recorder)
    with convert_save_errors(network_path):
        return (yield from run_with_torch(steps, joint_plan.threads, SERIES_NAME))


def _calibrate_files(
    joint_plan: JointTrainingPlan, poll_control: PollControl
) -> Generator[Event, None, list[_TrainingCrop]]:
    """Calibrate the files; return those with the most common requirements, or [] if ended."""
    crops = []
    for plan, training_region in zip(joint_plan.plans, joint_plan.training_regions, strict=True):
        if poll_control() in ENDING_CONTROLS:
            return []
        progress = f"{training_region.item + 1} of {len(joint_plan.training_regions)}"
        yield Event(message=f"Measuring the noise of '{plan.header.name}', {progress}")
        try:
            stamps = stamp_files(plan)
            sha256 = compute_file_sha256(Path(str(plan.header.path)))
            inputs = open_plan_inputs(plan, stamps)
            plan, channels, _ = merge_equal_colours(plan, inputs)
            image = yield from read_image(plan, channels, RunMonitor(plan, poll_control, None))
        except RefusedError:  # the plan of that file reports the reason
            continue
        crop = _crop_to_training_region(image, training_region)
        crops.append(
            _TrainingCrop(calibrated_image=crop, training_region=training_region, sha256=sha256)
        )
    requirement_counts = Counter(crop.network_requirements for crop in crops)
    most_common = requirement_counts.most_common(1)[0][0] if requirement_counts else ()
    similar = [crop for crop in crops if crop.network_requirements == most_common]
    if len(similar) < MIN_SIMILAR_FILES:
        facts = {"count": len(similar), "total": len(joint_plan.training_regions)}
        raise RefusedError("joint-unlike", **facts)
    return similar


def _crop_to_training_region(
    calibrated_image: CalibratedImage, training_region: TrainingRegion
) -> CalibratedImage:
    """Return the crop of one file; its header stays that of the file."""
    axes, calibration = calibrated_image.header.axes, calibrated_image.calibration
    spans = list(zip(training_region.origin, training_region.size, strict=True))
    slices = {
        axis: slice(start, start + count) for axis, (start, count) in zip("YX", spans, strict=True)
    }
    region = tuple(slices.get(axis, slice(None)) for axis in axes)
    stack = to_stack(calibrated_image.inputs["image"][region], axes, calibrated_image.layout)
    if (half := calibration.half_resolution) is not None:
        half_slices = [slice(start // 2, (start + count) // 2) for start, count in spans]
        half = replace(half, stack=half.stack[:, :, *half_slices].copy())
    calibration = replace(calibration, half_resolution=half)
    return replace(calibrated_image, calibration=calibration, inputs={}, stack=stack)


def _fit_networks(
    joint_plan: JointTrainingPlan,
    network_path: Path,
    checkpoints: CheckpointStore,
    recorder: ControlRecorder,
) -> Generator[Event, None, bool]:
    """Fit the networks of all channels and restarts to calibrated files, and write them."""
    crops = yield from _calibrate_files(joint_plan, recorder.poll_control)
    if not crops:
        return False
    from napari_dip.pipeline.assess.merge import ResultMerger

    image = _combine_crops(crops, joint_plan.threads)
    run_plan = image.run_plan
    monitor = RunMonitor(run_plan, recorder.poll_control, None)
    merger = ResultMerger(image)
    checkpoints.open_image(image)
    checkpoint, unit_results = checkpoints.read(merger), ResultStore(checkpoints.folder)
    unit_results.drop_lost_networks(merger)
    executor = Executor(
        merger,
        monitor,
        checkpoints,
        load_network=unit_results.load_weights,
        save_network=unit_results.save_weights,
        is_network_required=True,
    )
    control = yield from executor.run(run_plan.units, checkpoint)
    if control is not Control.GO or recorder.is_ended:
        checkpoints.write_if_possible()
        return False
    _write_network_file(network_path, crops, merger, unit_results)
    checkpoints.remove()
    return True


def _combine_crops(crops: list[_TrainingCrop], threads: int) -> CalibratedImage:
    """Return the crops of all files as the items of one stack, with the plan of the joint fit."""
    first = crops[0].calibrated_image.run_plan
    training_regions = tuple(
        crop.training_region._replace(item=index) for index, crop in enumerate(crops)
    )
    stack = np.concatenate([crop.calibrated_image.stack for crop in crops])
    layout = Layout(
        item_axes=REGION_AXIS, channel_axis=first.layout.channel_axis or "C", grid_axes="YX"
    )
    header = replace(
        first.header,
        name=SERIES_NAME,
        shape=stack.shape,
        axes=layout.order,
        path=None,
        scale=None,
        units=None,
    )
    units = list_training_units(first, training_regions)
    run_plan = replace(
        first,
        recipe=first.recipe.replace_run_settings(time_limit=None),  # that applies to one file
        header=header,
        units=units,
        threads=threads,
        costs=estimate_training_costs(first, training_regions[0].size, units, threads),
        layout=layout,
        tiles=(),
        regions=(),
        network=None,
    )
    return CalibratedImage(
        run_plan=run_plan,
        calibration=_combine_calibrations(crops),
        header=header,
        layout=layout,
        inputs={"image": stack},
        stack=stack,
    )


def _combine_calibrations(crops: list[_TrainingCrop]) -> Calibration:
    """Combine the calibrations of all files; use the largest blind-spot size for all of them."""
    calibrations = [crop.calibrated_image.calibration for crop in crops]
    halves = [calibration.half_resolution for calibration in calibrations]
    size = _find_largest(calibration.blind_spot_size for calibration in calibrations)
    half_size = _find_largest(half.blind_spot_size for half in halves if half is not None)
    combined = tuple(
        replace(
            calibration,
            blind_spot_size=size,
            half_resolution=half and replace(half, blind_spot_size=half_size),
        )
        for calibration, half in zip(calibrations, halves, strict=True)
    )
    return replace(combined[0], half_resolution=None, item_calibrations=combined)


def _find_largest(sizes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the largest length along each axis."""
    return tuple(max(lengths) for lengths in zip(*sizes, strict=True))


def _write_network_file(
    network_path: Path, crops: list[_TrainingCrop], merger: ResultMerger, unit_results: ResultStore
) -> None:
    """Write the networks and their provenance atomically."""
    first, run_plan = crops[0].calibrated_image, merger.calibrated_image.run_plan
    files = [describe_file(crop.calibrated_image.header, crop.sha256) for crop in crops]
    description = describe_network(
        run_plan,
        files,
        merger.outcomes,
        restarts=run_plan.fit_config.restarts,
        uses_half_resolution=first.calibration.half_resolution is not None,
    )
    tensors = {
        f"{outcome.joint_network_name}/{name}": value
        for outcome in merger.outcomes
        if outcome.role == JOINT
        for name, value in (unit_results.load_weights(outcome.joint_network_name) or {}).items()
    }
    write_tensors(network_path, tensors, {"network": description})
