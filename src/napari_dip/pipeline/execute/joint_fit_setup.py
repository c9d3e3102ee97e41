"""Prepare joint training, and measure the gain of fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from napari_dip.engine.fit.train_step import apply_network
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.pipeline.execute.fit_setup import (
    PreparedFit,
    adapt_fit_config,
    assemble_fit,
    make_fit_input,
)
from napari_dip.pipeline.plan.types import JOINT, MAX_JOINT_VALIDATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.engine.fit.state import FitResult
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.execute.device_recovery import RecoveryState
    from napari_dip.pipeline.execute.neighbour_frames import NeighbourFrameProvider
    from napari_dip.pipeline.plan.types import TrainingRegion, WorkUnit
    from napari_dip.tasks.base import FitInput


def prepare_joint_fit(
    calibrated_image: CalibratedImage,
    unit: WorkUnit,
    prior_key: str,
    frame_provider: NeighbourFrameProvider,
    recovery: RecoveryState,
) -> PreparedFit:
    """Prepare the joint training of one network on all training regions of a unit.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    unit : WorkUnit
        The network is trained on its regions. They share range and noise, unless the calibration
        has `item_calibrations`.
    prior_key : str
    frame_provider : NeighbourFrameProvider
        Provides the neighbouring frames.
    recovery : RecoveryState
        Chooses the device, and limits the training window to what fits in memory.
    """
    fit_config = adapt_fit_config(calibrated_image, prior_key, recovery)
    device = recovery.choose_device(calibrated_image.run_plan.device)
    fit_inputs = []
    for training_region in unit.training_regions:
        region_unit = replace(
            unit,
            item=training_region.item,
            previous_item=training_region.previous_item,
            next_item=training_region.next_item,
            origin=training_region.origin,
        )
        frames = frame_provider.get_neighbour_frames(region_unit, prior_key)
        if frames.neighbours is not None:
            frames = replace(
                frames, neighbours=frames.neighbours[:, :, *_make_region_slices(training_region)]
            )
        crop = _crop_training_region(calibrated_image, training_region)
        crop_unit = replace(region_unit, item=0)
        fit_inputs.append(make_fit_input(crop, crop_unit, fit_config, frames, device))
    has_separate_noise = bool(calibrated_image.calibration.item_calibrations)
    joint_input = _stack_fit_inputs(fit_inputs, has_separate_noise=has_separate_noise)
    prepared_fit = assemble_fit(calibrated_image.run_plan, unit, joint_input, fit_config)
    problem = replace(
        prepared_fit.problem, postprocess=lambda estimate: estimate, full_postprocess=None
    )
    if unit.role != JOINT:
        return replace(prepared_fit, problem=problem)
    schedule = prepared_fit.schedule
    interval = max(schedule.validation_interval, unit.iterations // MAX_JOINT_VALIDATIONS)
    schedule = replace(schedule, validation_interval=interval, has_final_inference=False)
    return replace(prepared_fit, problem=problem, schedule=schedule)


@torch.no_grad()
def compute_validation_gain(
    prepared_fit: PreparedFit, weights: Mapping[str, Tensor], result: FitResult
) -> tuple[float, float, float]:
    """Measure the gain of a fit at the validation pixels, compared with its initial weights.

    Parameters
    ----------
    prepared_fit : PreparedFit
    weights : mapping of str to Tensor
        Initial weights of the fit.
    result : FitResult

    Returns
    -------
    tuple of float
        Sum of the log-likelihood gain over validation pixels, sum of its squares, and the number of
        values.
    """
    prior, term = prepared_fit.prior, prepared_fit.problem.main_term
    prior.network.load_state_dict(dict(weights))
    initial_estimate = prior.estimate(
        apply_network(prior.network, prior.make_prediction_sample().network_input)
    )
    initial_loss, final_loss = (
        term.deviance(term.operator.predict(estimate), term.measurement)
        for estimate in (initial_estimate, result.network_estimate)
    )
    # on the CPU, since Apple GPUs have no double precision
    log_likelihood_gain = ((initial_loss - final_loss) * term.validation_mask).cpu().double()
    count = float(term.validation_mask.sum()) * log_likelihood_gain.shape[1]
    return float(log_likelihood_gain.sum()), float((log_likelihood_gain**2).sum()), count


def _make_region_slices(training_region: TrainingRegion, downscaling: int = 1) -> tuple[slice, ...]:
    """Return the slices of a region within its item, in pixels that are wider by a factor."""
    if not training_region.size:
        return ()
    sides = zip(training_region.origin, training_region.size, strict=True)
    return tuple(
        slice(start // downscaling, (start + count) // downscaling) for start, count in sides
    )


def _crop_training_region(
    calibrated_image: CalibratedImage, training_region: TrainingRegion
) -> CalibratedImage:
    """Return calibration and pixels (1, C, *size) of one region.

    In joint training on several files, items are cropped already and have calibrations of their
    own.
    """
    calibration, stack = calibrated_image.calibration, calibrated_image.stack
    if calibration.item_calibrations:
        return replace(
            calibrated_image,
            calibration=calibration.item_calibrations[training_region.item],
            stack=stack[training_region.item : training_region.item + 1],
        )

    def crop(pixels: Float32Array, downscaling: int = 1) -> Float32Array:
        item = slice(training_region.item, training_region.item + 1)
        return pixels[item, :, *_make_region_slices(training_region, downscaling)]

    repeated_exposure, half_resolution = calibration.repeated_exposure, calibration.half_resolution
    camera_correction = calibration.camera_correction
    if repeated_exposure is not None:
        repeated_exposure = replace(repeated_exposure, stack=crop(repeated_exposure.stack))
    if camera_correction is not None and training_region.size:
        rows, columns = _make_region_slices(training_region)[-2:]
        camera_correction = camera_correction.crop(lambda pixels: pixels[..., rows, columns])
    if half_resolution is not None:
        half_resolution = replace(half_resolution, stack=crop(half_resolution.stack, 2))
    calibration = replace(
        calibration,
        repeated_exposure=repeated_exposure,
        camera_correction=camera_correction,
        half_resolution=half_resolution,
    )
    return replace(calibrated_image, calibration=calibration, stack=crop(stack))


def _stack_fit_inputs(fit_inputs: list[FitInput], *, has_separate_noise: bool) -> FitInput:
    """Stack fit inputs of one size to (B, C, *grid), with one noise model or with separate ones."""
    first, masks = fit_inputs[0], [fit_input.masks for fit_input in fit_inputs]
    series = [fit_input.neighbouring_frames for fit_input in fit_inputs]
    neighbours = [frames for frames in series if frames is not None]
    rms_std = sum(fit_input.noise.rms_std for fit_input in fit_inputs) / len(fit_inputs)
    noise = replace(first.noise, rms_std=rms_std)
    if has_separate_noise:
        variances = NoiseVariance.concatenate(
            [fit_input.noise.noise_variance for fit_input in fit_inputs]
        )
        noise = replace(
            noise,
            noise_variance=variances.mean(),
            image_noise_variances=variances,
            correlation=_average_correlation(fit_inputs),
        )
    return replace(
        first,
        measurement=torch.cat([fit_input.measurement for fit_input in fit_inputs]),
        noise=noise,
        masks=replace(
            first.masks,
            measured=torch.cat([mask.measured for mask in masks]),
            validation=torch.cat([mask.validation for mask in masks]),
            excluded=torch.cat([mask.excluded for mask in masks]),
        ),
        neighbouring_frames=torch.cat(neighbours) if neighbours else None,
    )


def _average_correlation(
    fit_inputs: list[FitInput],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the noise autocorrelation, averaged over fit inputs; white noise counts as 0."""
    measured = (fit_input.noise.correlation for fit_input in fit_inputs)
    correlations = [correlation for correlation in measured if correlation is not None]
    if not correlations:
        return None
    y, x = (
        tuple(
            sum(values) / len(fit_inputs)
            for values in zip_longest(*axis_correlations, fillvalue=0.0)
        )
        for axis_correlations in zip(*correlations, strict=True)
    )
    return y, x
