"""Set up the fit of one work unit in network units, and convert its result to image units.

`fit_calibration` is that of the fitted pixels, which may have half the image's resolution.
`full_calibration` is that of the image.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_dip.engine.fit.optimizers import (
    WARM_START_MUON_RATE,
    Muon,
    Phase,
    Schedule,
    compute_output_decay,
)
from napari_dip.engine.fit.stopping import StopRule, compute_patience, make_validation_stop_rule
from napari_dip.engine.likelihood.fidelity import UNLIMITED, ClippingLimit, NoiseVariance
from napari_dip.engine.likelihood.penalties import PreviousFrame
from napari_dip.engine.noise.correlation import subtract_image_correlation
from napari_dip.engine.noise.oversampling import HalfResolutionFit
from napari_dip.engine.prior import dilate_centres, fill_with_local_mean
from napari_dip.errors.notes import StopReason, make_note, make_stop
from napari_dip.pipeline.assess.merge import UnitResult
from napari_dip.pipeline.assess.validation_evidence import compute_validation_evidence
from napari_dip.pipeline.calibrate.clipping import convert_limits_to_network_units, correct_clipping
from napari_dip.pipeline.calibrate.image_calibration import select_validation_pixels
from napari_dip.pipeline.execute.device_recovery import RecoveryState
from napari_dip.pipeline.execute.neighbour_frames import NO_NEIGHBOUR_FRAMES, NeighbourFrames
from napari_dip.pipeline.plan.costs import choose_fit_config
from napari_dip.pipeline.plan.types import INDEPENDENT, INFERENCE, UnitOutcome
from napari_dip.tasks.base import MIN_PIXEL_WEIGHT, FitInput, FitMasks, FitNoise
from napari_dip.tasks.noise_models.camera_correction import compute_pixel_weights
from napari_dip.tasks.priors.image_input import (
    compute_variance_factor,
    find_off_model_channels,
    measure_fit_noise,
)
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from napari_dip.tasks.shared_settings import average_exposures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_dip.engine.fit.state import FitResult
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array, FloatArray
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration
    from napari_dip.pipeline.plan.types import FitConfig, Plan, WorkUnit

#: Decay per iteration of the running average of weights, for priors whose samples do not cover the
#: grid; for the others, outputs are averaged.
WEIGHT_AVERAGE_DECAY = 0.95
#: Share of the noise variance that a blind-spot fit takes as certain: at 1, noise overestimated by
#: a quarter removes the network's variance and the posterior mean (docs/constants.md).
BLIND_SPOT_NOISE_FRACTION = 0.6
#: Minimum share of the iterations before early stopping, for priors that train on the image:
#: stopping WideField_BPAE_B at 175 of 250 iterations cost 1.2 dB (docs/constants.md).
MIN_ITERATION_FRACTION = 0.9
#: RMS of noise, in network units, above which rounding to half precision (1/512) is negligible.
MIN_BFLOAT16_NOISE = 0.02


def broadcast_channel_values(
    values: tuple[float, ...], channels: Sequence[int], axis_count: int
) -> FloatArray:
    """Return one value per channel, shaped to broadcast with `axis_count` axes (C, *grid)."""
    return np.array([values[c] for c in channels]).reshape(-1, *[1] * (axis_count - 1))


def average_noise_correlation(
    fit_calibration: Calibration, channels: list[int]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the noise autocorrelation along Y and X, averaged over channels; None for white noise.

    The autocorrelation of the image itself is subtracted.
    """
    if all(side == 1 for side in fit_calibration.blind_spot_size):
        return None
    noise_lags = (
        (fit_calibration.noise[c].along_y, fit_calibration.noise[c].along_x) for c in channels
    )
    y, x = (
        subtract_image_correlation(tuple(np.mean(lags, 0).tolist()))
        for lags in zip(*noise_lags, strict=True)
    )
    return y, x


def convert_noise_to_network_units(
    exposure_noises: tuple[tuple[NoiseEstimate, ...], ...],
    fit_calibration: Calibration,
    channels: list[int],
    device: torch.device,
    dims: int,
) -> NoiseVariance:
    """Return the noise variance in network units; its coefficients are (B, C, 1, ...).

    Parameters
    ----------
    exposure_noises : tuple of tuple of NoiseEstimate
        For each exposure, the noise of every channel, in the image's units.
    fit_calibration : Calibration
    channels : list of int
    device : torch.device
    dims : int
        Number of grid axes.
    """
    rows = []
    for channel_noises in exposure_noises:
        for channel in channels:
            estimate, offset = channel_noises[channel], fit_calibration.intensity_offset[channel]
            scale = fit_calibration.intensity_scale[channel]
            # expand (relative_deviation * signal)**2, where the signal includes the offset
            squared_deviation = estimate.relative_deviation**2
            relative_offset = offset / scale
            variance = (estimate.intercept + estimate.gain * offset) / scale**2
            variance += squared_deviation * relative_offset**2
            gain = estimate.gain / scale + 2 * squared_deviation * relative_offset
            limits = convert_limits_to_network_units(estimate, offset, scale)
            rows.append((gain, variance, estimate.floor / scale**2, squared_deviation, *limits))
    table = torch.tensor(rows, dtype=torch.float32, device=device)
    table = table.T.reshape(8, len(exposure_noises), -1, *[1] * dims)
    return NoiseVariance(
        gain=table[0],
        intercept=table[1],
        floor=table[2].clamp(min=1e-10),
        square=table[3] if bool(table[3].any()) else None,
        limits=(ClippingLimit(*table[4:6]), ClippingLimit(*table[6:]))
        if bool((table[4::2] != UNLIMITED).any())
        else (),
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PreparedFit:
    """Arguments of the engine's `fit` for one work unit.

    The fit input holds pixels, noise and masks. The task has built problem and prior from it, and
    the pipeline adds schedule and stop rule. The seed is that of the unit.
    """

    unit: WorkUnit
    problem: Problem
    prior: Prior
    schedule: Schedule
    stop_rule: StopRule
    fit_input: FitInput


def prepare_fit(
    calibrated_image: CalibratedImage,
    unit: WorkUnit,
    prior_key: str = "",
    frames: NeighbourFrames = NO_NEIGHBOUR_FRAMES,
    recovery: RecoveryState | None = None,
) -> PreparedFit:
    """Prepare the fit of one work unit: input in network units, problem, prior and schedule.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    unit : WorkUnit
    prior_key : str
        Prior to use instead of the plan's; "": the plan's.
    frames : NeighbourFrames
        Other frames of the movie, registered onto the frame of this unit.
    recovery : RecoveryState, optional
        Chooses the device, and limits the training window to what fits in memory.
    """
    recovery = recovery or RecoveryState()
    fit_config = adapt_fit_config(calibrated_image, prior_key, recovery)
    device = recovery.choose_device(calibrated_image.run_plan.device)
    fit_input = make_fit_input(calibrated_image, unit, fit_config, frames, device)
    return assemble_fit(calibrated_image.run_plan, unit, fit_input, fit_config)


def adapt_fit_config(
    calibrated_image: CalibratedImage, prior_key: str, recovery: RecoveryState
) -> FitConfig:
    """Return the configuration of the fit, with a window that fits in memory."""
    run_plan, fit_config = calibrated_image.run_plan, calibrated_image.run_plan.fit_config
    if prior_key:
        fit_config, _ = choose_fit_config(
            run_plan.recipe,
            run_plan.task_plan,
            calibrated_image.header,
            prior_key,
            is_volume=calibrated_image.layout.is_volume,
            noise_traits=calibrated_image.calibration.noise_traits,
        )
    return recovery.limit_fit_config(fit_config)


def assemble_fit(
    plan: Plan, unit: WorkUnit, fit_input: FitInput, fit_config: FitConfig
) -> PreparedFit:
    """Add problem, prior, schedule and stop rule to a fit input."""
    setup = plan.recipe.task.setup(fit_input, torch.Generator().manual_seed(unit.seed))
    prior, fit_input = setup.prior, setup.fit_input
    prior_spec = PRIOR_SPECS[fit_config.prior_key]
    prior.to(fit_input.measurement.device)
    if fit_input.measurement.ndim == 4:
        prior.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    iterations = unit.iterations
    if fit_config.operator_iterations and not setup.problem.learns_operator:
        iterations = fit_config.fixed_operator_iterations
        fit_config = replace(fit_config, operator_iterations=0)
    average_decay = compute_output_decay(iterations) if prior.covers_grid else WEIGHT_AVERAGE_DECAY
    has_strong_noise = fit_input.noise.rms_std > MIN_BFLOAT16_NOISE
    uses_bfloat16 = fit_input.measurement.ndim == 4 and (
        fit_config.allows_bfloat16
        or (prior_spec.network_traits.supports_bfloat16 and has_strong_noise)
    )
    if unit.role != INDEPENDENT:  # Muon costs joint training 0.8 dB on cancer_cell_migration
        fit_config = replace(fit_config, muon_learning_rate=0.0)
    elif unit.start_unit_id and fit_config.muon_learning_rate:
        fit_config = replace(fit_config, muon_learning_rate=WARM_START_MUON_RATE)
    schedule = make_fit_schedule(fit_config, average_decay, iterations, uses_bfloat16=uses_bfloat16)
    patience = compute_patience(iterations, schedule.validation_interval)
    min_iterations = 0 if prior.covers_grid else int(MIN_ITERATION_FRACTION * iterations)
    return PreparedFit(
        unit=unit,
        problem=setup.problem,
        prior=prior,
        schedule=schedule,
        stop_rule=make_validation_stop_rule(patience, min_iterations),
        fit_input=fit_input,
    )


def make_fit_input(
    calibrated_image: CalibratedImage,
    unit: WorkUnit,
    fit_config: FitConfig,
    frames: NeighbourFrames,
    device_name: str,
) -> FitInput:
    """Return the fit input of one work unit, in network units, for the configuration's prior.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    unit : WorkUnit
    fit_config : FitConfig
    frames : NeighbourFrames
        Other frames of the movie, in the image's units.
    device_name : str
    """
    prior_spec, device = PRIOR_SPECS[fit_config.prior_key], torch.device(device_name)
    task_spec = calibrated_image.run_plan.recipe.task.spec
    full_calibration, channels = calibrated_image.calibration, list(unit.channels)
    fit_calibration = full_calibration.get_fit_calibration()
    halved = full_calibration.half_resolution
    stack = calibrated_image.stack if halved is None else halved.stack
    pixels, exposure_noises = _stack_exposures(fit_calibration, stack, unit)
    dims = pixels.ndim - 2
    offset, scale = (
        broadcast_channel_values(values, channels, dims + 1).astype(np.float32)
        for values in (fit_calibration.intensity_offset, fit_calibration.intensity_scale)
    )
    measurement = torch.from_numpy((pixels - offset) / scale).to(device)
    noise = convert_noise_to_network_units(exposure_noises, fit_calibration, channels, device, dims)
    pixel_weights = _make_pixel_weights(fit_calibration, noise, measurement, scale)
    masks = _make_fit_masks(calibrated_image, fit_calibration, unit, measurement, pixel_weights)
    fit_input = FitInput(
        measurement=measurement * masks.measured,
        intensity_offset=torch.from_numpy(offset)[None].to(device),
        intensity_scale=torch.from_numpy(scale)[None].to(device),
        noise=FitNoise(
            noise_variance=noise,
            rms_std=float(noise.compute_variance(measurement).mean().sqrt()),
            assumed_fraction=BLIND_SPOT_NOISE_FRACTION
            if prior_spec.network_traits.predicts_noise_variance
            else 1.0,
            correlation=average_noise_correlation(fit_calibration, channels),
            treats_outliers_as_signal=all(
                fit_calibration.noise[c].has_bounded_tails for c in channels
            ),
            off_model_channels=find_off_model_channels(
                [fit_calibration.noise[c] for c in channels],
                calibrated_image.run_plan.task_plan.noise_settings,
            ),
        ),
        masks=masks,
        prior_key=prior_spec.key,
        widths=fit_config.widths,
        window_side=fit_config.window_side,
        refines_sparse_groups=fit_config.refines_sparse_groups,
        extra_inputs={
            name: torch.from_numpy(array).to(device)
            for name, array in fit_calibration.select_extra_inputs(task_spec, unit.item).items()
        },
        half_resolution=_make_half_resolution_fit(calibrated_image, unit, offset, scale, device),
        location=calibrated_image.locate_grid(unit.origin),
    )
    fit_input = _add_neighbour_frames(fit_input, frames, offset, scale)
    return average_exposures(fit_input) if prior_spec.input_traits.contains_image else fit_input


def _make_fit_masks(
    calibrated_image: CalibratedImage,
    fit_calibration: Calibration,
    unit: WorkUnit,
    measurement: Tensor,
    pixel_weights: Tensor | None,
) -> FitMasks:
    """Return the masks of a unit, with its validation pixels; weights are those of the camera."""
    measured_mask = _make_measured_mask(fit_calibration, unit, measurement)
    downscaling = 1 if calibrated_image.calibration.half_resolution is None else 2
    select_validation = partial(
        select_validation_pixels,
        tuple(measured_mask.shape[2:]),
        fit_calibration.blind_spot_size,
        fit_calibration.validation_fraction,
        calibrated_image.run_plan.recipe.run_settings.seed,  # so all fits have the same pixels
        origin=tuple(start // downscaling for start in unit.origin) or None,
    )
    has_low_noise = 1 if pixel_weights is None else pixel_weights >= MIN_PIXEL_WEIGHT
    validation_mask = select_validation(allowed_mask=measured_mask * has_low_noise)
    blind_spot_shape = _make_blind_spot_shape(calibrated_image.run_plan, validation_mask)
    return FitMasks(
        measured=measured_mask,
        validation=validation_mask,
        excluded=dilate_centres(validation_mask, fit_calibration.blind_spot_size, blind_spot_shape),
        blind_spot_size=fit_calibration.blind_spot_size,
        blind_spot_shape=blind_spot_shape,
        pixel_weights=pixel_weights,
        select_validation=select_validation,
    )


def _make_half_resolution_fit(
    calibrated_image: CalibratedImage,
    unit: WorkUnit,
    offset: Float32Array,
    scale: Float32Array,
    device: torch.device,
) -> HalfResolutionFit | None:
    """Return what a half-resolution fit keeps of the full image; None for other fits."""
    if calibrated_image.calibration.half_resolution is None:
        return None
    camera_noise, channels = calibrated_image.calibration.camera_noise, list(unit.channels)
    fit = HalfResolutionFit(upscaled_grid=calibrated_image.stack.shape[2:])
    if camera_noise is None or len(channels) != 3:
        return fit
    full_size = torch.from_numpy((calibrated_image.stack[unit.item, channels] - offset) / scale)
    return replace(
        fit,
        camera_noise=camera_noise.convert_units(float(scale.flat[0])),
        full_size_measurement=full_size[None].to(device),
    )


def _make_blind_spot_shape(plan: Plan, mask: Tensor) -> Tensor | None:
    """Return the shape of the user's blind spot, with the axes of a mask; None for a block."""
    rows = plan.task_plan.blind_spot_shape
    if all(map(all, rows)):
        return None
    return torch.tensor(rows).to(mask).reshape(*[1] * (mask.ndim - 4), len(rows), -1)


def _stack_exposures(
    fit_calibration: Calibration, stack: Float32Array, unit: WorkUnit
) -> tuple[Float32Array, tuple[tuple[NoiseEstimate, ...], ...]]:
    """Return the pixels of a unit in all exposures, (B, C, *grid), and the noise of each."""
    repeated_exposure, channels = fit_calibration.repeated_exposure, list(unit.channels)
    if repeated_exposure is None:
        return stack[unit.item, channels][None], (fit_calibration.noise,)
    pixels = np.stack([pixels[unit.item, channels] for pixels in (stack, repeated_exposure.stack)])
    return pixels, (fit_calibration.noise, repeated_exposure.noise)


def _add_neighbour_frames(
    fit_input: FitInput, frames: NeighbourFrames, offset: Float32Array, scale: Float32Array
) -> FitInput:
    """Return the fit input with neighbouring frames and previous frame, in network units."""
    measurement = fit_input.measurement

    def convert_to_network_units(images: Float32Array) -> Tensor:
        stacked = images.reshape(-1, *offset.shape[:1], *images.shape[2:])  # (N, C, *grid)
        converted = torch.from_numpy((stacked - offset) / scale)
        return converted.reshape(images.shape).to(measurement)

    neighbours = None if frames.neighbours is None else convert_to_network_units(frames.neighbours)
    # the camera's noisy pixels are the same in all frames
    if neighbours is not None and fit_input.masks.pixel_weights is not None:
        neighbours = fill_with_local_mean(
            neighbours, fit_input.masks.low_noise, fit_input.masks.blind_spot_size
        )
    previous_frame = None
    if frames.previous is not None:
        variance = torch.from_numpy((frames.previous.std / scale) ** 2)[None].to(measurement)
        previous_frame = PreviousFrame(
            image=convert_to_network_units(frames.previous.image[None]),
            variance=variance,
            valid_mask=torch.from_numpy(frames.previous.mask)[None, None].to(measurement),
        )
    return replace(fit_input, neighbouring_frames=neighbours, previous_frame=previous_frame)


def make_fit_schedule(
    fit_config: FitConfig, average_decay: float, iterations: int, *, uses_bfloat16: bool = False
) -> Schedule:
    """Build the schedule: iterations that also fit the operator, then those with it fixed.

    Parameters
    ----------
    fit_config : FitConfig
    average_decay : float
        Decay per iteration of the running average.
    iterations : int
        Number of iterations in both phases.
    uses_bfloat16 : bool
        Whether to compute in half precision.
    """
    learning_rate = fit_config.muon_learning_rate or fit_config.learning_rate
    phases = (
        Phase(
            iterations=fit_config.operator_iterations,
            learning_rate=learning_rate,
            operator_learning_rate=fit_config.operator_learning_rate,
        ),
        Phase(iterations=iterations - fit_config.operator_iterations, learning_rate=learning_rate),
    )
    return Schedule(
        phases=tuple(phase for phase in phases if phase.iterations),
        planned_iterations=iterations,
        last_iteration=iterations,
        average_decay=average_decay,
        refit_iterations=fit_config.refit_iterations,
        uses_bfloat16=uses_bfloat16,
        optimizer=Muon if fit_config.muon_learning_rate else None,
    )


def convert_to_image_units(
    full_calibration: Calibration, unit: WorkUnit, mean: Tensor
) -> Float32Array:
    """Convert an estimate (1, C, *grid) to the image's units, as (C, *grid)."""
    image = mean[0].cpu().numpy().astype(np.float64)
    offset, scale = (
        broadcast_channel_values(values, unit.channels, image.ndim)
        for values in (full_calibration.intensity_offset, full_calibration.intensity_scale)
    )
    return np.asarray(image * scale + offset, np.float32)


@torch.no_grad()
def _compute_uncertainty(
    prepared_fit: PreparedFit, full_calibration: Calibration, result: FitResult
) -> Float32Array:
    """Return the standard deviation of each pixel, in the image's units.

    A variance that the network predicts is scaled to the residuals of the validation pixels, which
    were excluded from the fit.
    """
    network_estimate, final_estimate = result.network_estimate, result.estimate
    assert final_estimate.log_variance is not None
    variance = final_estimate.log_variance.exp()
    term = prepared_fit.problem.main_term
    is_spread = not final_estimate.is_error_measured and network_estimate.log_variance is not None
    if is_spread and bool(term.validation_mask.any()):
        factor = compute_variance_factor(prepared_fit.fit_input, term.operator, network_estimate)
        variance = factor * variance
    std = (variance + prepared_fit.problem.noise_left)[0].sqrt().cpu().numpy()
    scale = broadcast_channel_values(
        full_calibration.intensity_scale, prepared_fit.unit.channels, std.ndim
    )
    return np.asarray(std * np.abs(scale), np.float32)


@torch.no_grad()
def _predict_measurement(
    prepared_fit: PreparedFit, full_calibration: Calibration, result: FitResult
) -> Float32Array:
    """Return the predicted measurement (C, *grid), in the image's units.

    It is computed from the final estimate where that has the grid of the network's output, and
    otherwise from the network's output.
    """
    mean = result.uncropped_estimate.mean
    if prepared_fit.fit_input.half_resolution is None:
        network_mean = result.network_estimate.mean
        has_same_grid = mean.shape[1:] == network_mean.shape[1:]
        operator = prepared_fit.problem.main_term.operator
        mean = operator.simulate_measurement(mean if has_same_grid else network_mean)
    return convert_to_image_units(full_calibration, prepared_fit.unit, mean)


def _make_measured_mask(
    fit_calibration: Calibration, unit: WorkUnit, measurement: Tensor
) -> Tensor:
    """Return a mask (1, 1, *grid): 1 where all channels of the unit were measured."""
    if fit_calibration.measured_mask is None:
        return torch.ones_like(measurement[:1, :1])
    measured_mask = torch.from_numpy(
        fit_calibration.measured_mask[unit.item, list(unit.channels)].all(0).astype(np.float32)
    )
    return measured_mask[None, None].to(measurement.device)


def _make_pixel_weights(
    fit_calibration: Calibration,
    noise_variance: NoiseVariance,
    measurement: Tensor,
    scale: Float32Array,
) -> Tensor | None:
    """Return pixel weights from the camera's noise map, (1, 1, *grid); None without a map."""
    variance = fit_calibration.excess_variance
    if isinstance(variance, float):
        return None
    excess = torch.from_numpy(variance / scale**2)[None]
    return compute_pixel_weights(excess.to(measurement), noise_variance, measurement)


def make_unit_result(
    calibrated_image: CalibratedImage,
    prepared_fit: PreparedFit,
    result: FitResult,
    recovery: RecoveryState,
) -> UnitResult:
    """Return the result of a fit in the image's units, with learned parameters and outcome."""
    full_calibration, unit = calibrated_image.calibration, prepared_fit.unit
    learned = {
        name: parameter.cpu().numpy() for name, parameter in result.learned_parameters.items()
    }
    learned_notes = calibrated_image.run_plan.recipe.task.spec.describe_learned(learned)
    outcome = make_unit_outcome(prepared_fit, result, recovery, learned_notes)
    if unit.role == INFERENCE and not unit.iterations:
        reason = StopReason.USER if result.is_ended_by_user else StopReason.JOINT_NETWORK
        outcome = replace(outcome, stop=make_stop(reason))
    mean = convert_to_image_units(full_calibration, unit, result.estimate.mean)
    restored_image, growth = correct_clipping(
        calibrated_image.run_plan, full_calibration, unit, mean
    )
    std = growth * _compute_uncertainty(prepared_fit, full_calibration, result)
    prediction = _predict_measurement(prepared_fit, full_calibration, result)
    return UnitResult(
        outcomes=(outcome,), estimates=(restored_image, std, prediction), learned_parameters=learned
    )


def make_unit_outcome(
    prepared_fit: PreparedFit,
    result: FitResult,
    recovery: RecoveryState,
    learned_notes: tuple[Note, ...] = (),
) -> UnitOutcome:
    """Summarise the result of a fit in plain numbers and notes.

    Parameters
    ----------
    prepared_fit : PreparedFit
    result : FitResult
    recovery : RecoveryState
        Provides notes and stop reason if memory ran out or the GPU failed.
    learned_notes : tuple of Note
        Notes of the task on learned parameters, such as a PSF.
    """
    unit, problem = prepared_fit.unit, prepared_fit.problem
    notes = (*recovery.notes, *result.notes, *learned_notes)
    if result.is_broken_down:
        notes = (*notes, make_note("unit-ended", unit=unit.id, why=str(result.stop)))
    fit_input = prepared_fit.fit_input
    noise_variance = fit_input.noise.noise_variance
    if problem.measures_noise_again:
        noise_variance = measure_fit_noise(fit_input, result.network_estimate)
        if noise_variance is not fit_input.noise.noise_variance:
            notes = (*notes, make_note("noise-measured-again"))
    has_full_postprocess = problem.full_postprocess is not None and not result.is_ended_by_user
    return UnitOutcome(
        unit_id=unit.id,
        stop=recovery.stop or result.stop,
        is_ended_by_user=result.is_ended_by_user,
        best_iteration=result.best_iteration,
        iterations=result.iterations,
        history=tuple(map(astuple, result.history)),
        notes=notes,
        prior_key=fit_input.prior_key,
        evidence=compute_validation_evidence(problem, noise_variance, result.validated_estimate),
        is_refined=has_full_postprocess and problem.refines_pixels,
        is_blended=has_full_postprocess and problem.blends_filling,
        role=unit.role,
        joint_network_name=unit.joint_network_name,
        region_count=len(unit.training_regions),
    )
