"""Calibrate an image before its fits: intensity range, noise, blind spot and validation pixels.

Outliers and empty areas are filled in first. Images that are oversampled get an input at half
resolution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_dip.engine.noise import NoiseCaution
from napari_dip.errors import raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    identify_noise_model,
    measure_channel_noise,
    measure_colour_noise,
    measure_single_exposure,
)
from napari_dip.pipeline.calibrate.clipping import estimate_clipping_weights
from napari_dip.pipeline.calibrate.inputs import (
    NO_OUTLIER_LIMITS,
    ROBUST_PERCENTILES,
    FilledStack,
    compute_outlier_limits,
    fill_empty_areas,
    fill_outliers,
    fill_pixels,
    list_mark_notes,
    make_empty_note,
    make_outlier_note,
)
from napari_dip.pipeline.calibrate.types import (
    Calibration,
    HalfResolutionStack,
    compute_validation_fraction,
    count_measured_pixels,
    make_noise_notes,
    reports_noise,
)
from napari_dip.pipeline.plan.layout import (
    fill_empty_planes,
    find_empty_planes,
    plan_task,
)
from napari_dip.tasks.base import NoiseSettings
from napari_dip.tasks.noise_models.impulses import (
    MAX_CORRELATED_MISSING_FRACTION,
    compute_certain_correlation,
)
from napari_dip.tasks.noise_models.registry import GAUSSIAN, list_high_impulses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import BoolArray, Float32Array
    from napari_dip.pipeline.calibrate.types import RepeatedExposure, RunInputs
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.tasks.base import TaskPlan, TaskSpec

#: Minimum side of the blind spot for a half-resolution fit. With smaller ones only direct
#: neighbours share noise, and halving would lose more than it gains.
MIN_OVERSAMPLED_BLIND_SPOT = 5
#: Minimum side of an image in pixels, so that half of it can be restored.
MIN_HALVED_SIDE = 64
#: Maximum energy lost by halving an enlarged image, in variances of its noise: at most 0.13 with
#: interpolated pixels and 0.43 with repeated ones in 24 noisy crops, at least 2.7 in eight of nine
#: pictures without noise.
MAX_HALVING_LOSS = 0.5
#: Maximum variance measured at half size, in units of that of a reliable measurement at full size:
#: above it half size is off by a factor of 1.42 and full size by 1.27 in the mean of 11 smooth or
#: enlarged pictures, below it by 1.17 and 1.23 in that of 43.
MAX_HALF_SIZE_RATIO = 1.5
#: Minimum side of an image in pixels, so that half of it tells noise with a strong correlation from
#: structure. In 96 x 96 pixels of smoothed shots, structure was taken for noise with a correlation
#: of 0.64 to 0.84 in eight of 16 crops, up to seven times too strong.
MIN_SURE_HALVED_SIDE = 128
#: Maximum correlation at lag 1 of noise at half the size of smaller images.
MAX_HALVED_CORRELATION = 0.62
#: Maximum side of the blind spot at half resolution: 3 x 3 gains 0.5 and 0.6 dB over 3 x 7 on FMD
#: widefield (docs/constants.md).
MAX_HALF_RESOLUTION_BLIND_SPOT = 3
#: Minimum number of validation pixels; the share is doubled until there are as many.
MIN_VALIDATION_PIXELS = 8


def calibrate_pixels(plan: Plan, inputs: RunInputs) -> tuple[Calibration, Float32Array]:
    """Measure an image for its fits.

    Parameters
    ----------
    plan : Plan
    inputs : RunInputs

    Returns
    -------
    calibration : Calibration
    stack : ndarray
        (N, C, *grid) float32, in the image's units. Empty areas and outliers are filled in; pixels
        without a measurement have the mean of the others.
    """
    task_plan, measured_mask = get_task_plan(plan, inputs.layout), inputs.measured_mask
    task_spec = plan.recipe.task.spec
    empty_planes = _find_empty_planes(task_spec, inputs)
    filled, outlier_limits = _fill_by_measured_limits(task_spec, inputs, empty_planes)
    stack = filled.stack
    offset, scale, constant_channels = _measure_intensity_ranges(
        stack,
        measured_mask
        if empty_planes is None
        else np.broadcast_to(~empty_planes[..., None, None], stack.shape),
        is_joint=bool(task_plan.joint_channels),
    )
    if measured_mask is not None:
        channel_means = np.array(offset, np.float32).reshape(-1, *[1] * (stack.ndim - 2))
        stack = np.where(measured_mask, stack, channel_means)
    if inputs.repeated_exposure is not None:
        repeated = fill_pixels(task_spec, inputs.repeated_exposure, outlier_limits)
        inputs = replace(inputs, repeated_exposure=repeated.stack)
    may_halve = task_plan.uses_half_resolution and _may_be_halved(plan, inputs)
    noise, half_resolution, camera_noise, repeated_exposure = _measure_noise(
        task_plan, inputs, stack, constant_channels, may_halve=may_halve, is_tiled=bool(plan.tiles)
    )
    scale = _sign_scales(task_spec, task_plan, scale, noise)
    varied_noise = [estimate for c, estimate in enumerate(noise) if c not in constant_channels]
    is_blurred = not task_spec.keeps_pixel_grid
    # detectors record plane by plane, so noise is assumed white along depth and time
    plane_size = _choose_blind_spot_size(
        task_plan, measured_mask, varied_noise, plan.header.grid, is_blurred=is_blurred
    )
    blind_spot_size = (1,) * (stack.ndim - 4) + plane_size
    converted_inputs, input_notes = inputs.inspection.convert_inputs(
        stack[0], inputs.extra_inputs, {"image": plan.header, **plan.extra_headers}
    )
    validation_fraction = compute_validation_fraction(
        blind_spot_size, count_measured_pixels(stack, measured_mask)
    )
    if may_halve and half_resolution is None:
        is_camera = camera_noise is not None
        half_resolution = halve_oversampled(
            stack, noise, blind_spot_size, constant_channels, is_camera=is_camera
        )
    correction = inputs.camera_correction
    notes = _list_filling_notes(plan, filled, stack)
    notes += repeated_exposure.notes if repeated_exposure else ()
    notes += correction.notes if correction else ()
    stds = [float(compute_noise_variance(*pair)) ** 0.5 for pair in zip(noise, offset, strict=True)]
    unreported_channels = [
        c
        for c, estimate in enumerate(noise)
        if c in constant_channels
        or not reports_noise(task_plan, task_spec, estimate, stds[c] / abs(scale[c]))
    ]
    settings = task_plan.noise_settings
    is_growth_chosen = settings.gain is not None or settings.model == GAUSSIAN.key
    is_chosen = settings.read_noise is not None and is_growth_chosen
    notes += make_noise_notes(noise, unreported_channels, plan.recipe.task, is_chosen=is_chosen)
    notes += (*inputs.inspection.notes, *input_notes)
    if task_spec.explains_pixels and not task_spec.offers_noise_models:
        notes += list_high_impulses(stack[0], None if measured_mask is None else measured_mask[0])
    if camera_noise and not noise[0].is_before_compression:
        notes.append(make_note("camera-noise", std=camera_noise.std[0]))
    elif half_resolution and not camera_noise:
        notes.append(make_note("half-resolution"))
    calibration = Calibration(
        intensity_offset=offset,
        intensity_scale=scale,
        noise=noise,
        blind_spot_size=blind_spot_size,
        validation_fraction=validation_fraction,
        constant_channels=constant_channels,
        noise_model=identify_noise_model(varied_noise, task_plan.noise_settings),
        measured_mask=measured_mask,
        extra_inputs=converted_inputs,
        outlier_limits=outlier_limits,
        filled_count=len(filled.outliers)
        + filled.empty_count
        + (0 if empty_planes is None else int(empty_planes.sum())),
        notes=tuple(notes),
        repeated_exposure=repeated_exposure,
        half_resolution=half_resolution,
        camera_noise=camera_noise,
        camera_correction=correction,
        empty_planes=None if plan.tiles else empty_planes,  # those are planes of sample regions
    )
    return calibration, stack


def _choose_blind_spot_size(
    task_plan: TaskPlan,
    measured_mask: BoolArray | None,
    noise_estimates: list[NoiseEstimate],
    grid: tuple[int, int],
    *,
    is_blurred: bool,
) -> tuple[int, int]:
    """Return the size along Y and X that the user or the noise demands.

    Where the closest neighbours are needed, between pixels to fill in and in blurred images, it is
    one pixel unless neighbours share noise for certain.
    """
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    if rows := task_plan.blind_spot_shape:
        return len(rows), len(rows[0])
    size = compute_blind_spot_size(noise_estimates, grid)
    is_filled = measured_mask is not None and task_plan.fallback_prior_key  # no prior was chosen
    if not (is_blurred or is_filled):
        return size
    missing = 0.0 if measured_mask is None else 1 - float(measured_mask.mean())
    least = compute_certain_correlation(missing)
    is_certain = all(
        not noise.unreliable_reason and max(noise.along_y[0], noise.along_x[0]) >= least
        for noise in noise_estimates
    )
    return size if is_certain and missing <= MAX_CORRELATED_MISSING_FRACTION else (1, 1)


def get_task_plan(plan: Plan, layout: Layout) -> TaskPlan:
    """Return the task's plan for a layout, which is that of the plan in most runs."""
    if layout == plan.layout:
        return plan.task_plan
    axes = layout.grid_axes
    return raise_if_refused(plan_task(plan.recipe.task, plan.header, plan.extra_headers, axes))


def _measure_intensity_ranges(
    stack: Float32Array, measured_mask: BoolArray | None, *, is_joint: bool
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Return offset and scale of each channel, and which channels are constant."""
    measured = [
        stack[:, c] if measured_mask is None else stack[:, c][measured_mask[:, c]]
        for c in range(stack.shape[1])
    ]
    constant_channels = tuple(
        c for c, pixels in enumerate(measured) if not pixels.size or pixels.min() == pixels.max()
    )
    offset, scale = zip(*(_compute_intensity_range(pixels) for pixels in measured), strict=True)
    if is_joint:  # a dark channel must not be amplified
        scale = (max(scale),) * len(scale)
    return offset, scale, constant_channels


class _MeasuredNoise(NamedTuple):
    """Noise of each channel, and what else was measured; None where it does not apply."""

    channels: tuple[NoiseEstimate, ...]
    half_resolution: HalfResolutionStack | None  # of an enlarged image
    camera: CameraNoise | None
    repeated_exposure: RepeatedExposure | None


def _measure_noise(
    task_plan: TaskPlan,
    inputs: RunInputs,
    stack: Float32Array,
    constant_channels: tuple[int, ...],
    *,
    may_halve: bool,
    is_tiled: bool,
) -> _MeasuredNoise:
    """Measure the noise of each channel, also at half of an enlarged image or as of a camera."""
    measured_mask, correction = inputs.measured_mask, inputs.camera_correction
    noise, repeated_exposure = measure_channel_noise(
        inputs,
        stack if correction is None else correction.suppress_hot_pixels(stack),
        constant_channels,
        task_plan.noise_settings,
        are_regions=is_tiled,
    )
    noise = tuple(
        estimate_clipping_weights(
            estimate, stack[:, c], None if measured_mask is None else measured_mask[:, c]
        )
        for c, estimate in enumerate(noise)
    )
    camera_noise = None
    if correction is None and is_colour_image(
        task_plan, inputs, stack, constant_channels, is_tiled=is_tiled
    ):
        camera_noise, noise = measure_colour_noise(stack, noise, inputs.grey_level_step)
    half_resolution = None
    if camera_noise is None and may_halve:
        half_resolution = _halve_enlarged(stack, noise, constant_channels, task_plan.noise_settings)
    if half_resolution is not None:
        from napari_dip.engine.noise.oversampling import double_noise_estimate

        noise = tuple(
            estimate if c in constant_channels else double_noise_estimate(estimate)
            for c, estimate in enumerate(half_resolution.noise)
        )
    return _MeasuredNoise(noise, half_resolution, camera_noise, repeated_exposure)


def _may_be_halved(plan: Plan, inputs: RunInputs) -> bool:
    """Return whether all is measured, once and equally well, in one plane or in planes of tiles."""
    correction, tiles = inputs.camera_correction, plan.tiles
    return (
        inputs.repeated_exposure is None
        and inputs.measured_mask is None
        and (correction is None or correction.excess_variance is None)
        and (tiles[0].z is None if tiles else len(inputs.stack) == 1)
        and inputs.stack.ndim == 4
        and min(inputs.stack.shape[-2:]) >= MIN_HALVED_SIDE
    )


def _halve_enlarged(
    stack: Float32Array,
    noise_estimates: tuple[NoiseEstimate, ...],
    constant_channels: tuple[int, ...],
    noise_settings: NoiseSettings,
) -> HalfResolutionStack | None:
    """Return an enlarged image at half its size, where its noise is measured; None for others."""
    import torch

    from napari_dip.engine.noise.estimate import compute_blind_spot_size
    from napari_dip.engine.noise.oversampling import halve_resolution, is_enlarged

    varied = [c for c in range(stack.shape[1]) if c not in constant_channels]
    has_white_noise = any(
        noise_estimates[c].unreliable_reason is None
        and compute_blind_spot_size([noise_estimates[c]], stack.shape[-2:]) == (1, 1)
        for c in varied
    )
    if has_white_noise or noise_settings != NoiseSettings():
        return None
    if not all(is_enlarged(torch.from_numpy(stack[:, c])) for c in varied):
        return None
    halved = np.asarray(halve_resolution(torch.from_numpy(stack)), np.float32)
    half_size_noise = tuple(
        estimate
        if c in constant_channels
        else _measure_half_size(stack[:, c], halved[:, c], estimate, noise_settings)
        for c, estimate in enumerate(noise_estimates)
    )
    suits_all = all(
        _suits_half_size(stack[:, c], noise_estimates[c], half_size_noise[c]) for c in varied
    )
    if not suits_all:
        return None
    height, width = halved.shape[-2:]
    sides = compute_blind_spot_size([half_size_noise[c] for c in varied], (height, width))
    return HalfResolutionStack(stack=halved, noise=half_size_noise, blind_spot_size=sides)


def _measure_half_size(
    planes: Float32Array,
    halved: Float32Array,
    noise_estimate: NoiseEstimate,
    noise_settings: NoiseSettings,
) -> NoiseEstimate:
    """Return the noise at half size: measured there, or computed from a weaker reliable one.

    Halving makes some structure as fine as the noise, and a measurement then takes it for noise.
    """
    import torch

    from napari_dip.engine.noise.oversampling import halve_noise_estimate, repeats_pixels

    measured = measure_single_exposure(halved, None, 0.0, noise_settings, is_halved=True)
    if measured.unreliable_reason is not None:
        return measured
    if noise_estimate.unreliable_reason is not None:
        has_tails = not measured.has_bounded_tails  # that caution is the stronger one
        return measured if has_tails else replace(measured, caution=NoiseCaution.HALF_SIZE)
    if all(map(repeats_pixels, torch.from_numpy(planes))):  # at full size it is half as strong
        return measured
    computed, level = halve_noise_estimate(noise_estimate), float(halved.mean(dtype=np.float64))
    variance, weaker = (compute_noise_variance(noise, level) for noise in (measured, computed))
    return computed if variance > MAX_HALF_SIZE_RATIO * weaker else measured


def _suits_half_size(
    planes: Float32Array, noise_estimate: NoiseEstimate, half_size_noise: NoiseEstimate
) -> bool:
    """Return whether halving loses less than noise, whose measurement at half size is better.

    Unreliable measurements underestimate, so of two the stronger one is taken.
    """
    import torch

    from napari_dip.engine.noise.oversampling import measure_halving_loss

    correlation = max(half_size_noise.along_y[0], half_size_noise.along_x[0])
    if min(planes.shape[-2:]) < MIN_SURE_HALVED_SIDE and correlation > MAX_HALVED_CORRELATION:
        return False
    level = float(planes.mean(dtype=np.float64))
    variances = [
        float(compute_noise_variance(noise, level)) for noise in (noise_estimate, half_size_noise)
    ]
    is_better = half_size_noise.unreliable_reason is None or variances[1] >= variances[0]
    loss = measure_halving_loss(torch.from_numpy(planes))
    return is_better and loss <= MAX_HALVING_LOSS * variances[1]


def is_colour_image(
    task_plan: TaskPlan,
    inputs: RunInputs,
    stack: Float32Array,
    constant_channels: tuple[int, ...],
    *,
    is_tiled: bool,
) -> bool:
    """Return whether the image may be measured as that of a colour camera."""
    has_colours = inputs.layout.channel_axis == "S" and stack.shape[1] == 3 and stack.ndim == 4
    is_plain = (
        inputs.repeated_exposure is None and inputs.measured_mask is None and not constant_channels
    )
    is_large_plane = (len(stack) == 1 or is_tiled) and min(stack.shape[-2:]) >= MIN_HALVED_SIDE
    uses_automatic_noise = (
        task_plan.uses_half_resolution
        and task_plan.joint_channels
        and task_plan.noise_settings.model == "auto"
    )
    return bool(has_colours and is_plain and is_large_plane and uses_automatic_noise)


def _find_empty_planes(task_spec: TaskSpec, inputs: RunInputs) -> BoolArray | None:
    """Return a mask (N, C, *depth) of planes of one value to leave out; None without any."""
    is_plain = inputs.measured_mask is None and inputs.repeated_exposure is None
    if not (is_plain and task_spec.explains_pixels):
        return None
    return find_empty_planes(inputs.stack)


def _fill_by_measured_limits(
    task_spec: TaskSpec, inputs: RunInputs, empty_planes: BoolArray | None
) -> tuple[FilledStack, tuple[tuple[float, float], ...]]:
    """Fill in empty areas and outliers; return the limits of the outliers of each channel too."""
    stack, measured_mask, empty_count = inputs.stack, inputs.measured_mask, 0
    if not task_spec.explains_pixels:
        limits = (NO_OUTLIER_LIMITS,) * stack.shape[1]
        return FilledStack(stack, np.zeros(0, np.float32), empty_count), limits
    if measured_mask is None and task_spec.keeps_pixel_grid:
        stack, empty_count = fill_empty_areas(stack)
        if empty_planes is not None:
            stack = fill_empty_planes(stack, empty_planes)
    if inputs.camera_correction is not None:  # noisy pixels of the camera are no outliers
        measured_mask = inputs.camera_correction.mask_noisy_pixels(measured_mask, stack.shape)
    limits = tuple(
        compute_outlier_limits(stack[:, c], None if measured_mask is None else measured_mask[:, c])
        for c in range(stack.shape[1])
    )
    return FilledStack(*fill_outliers(stack, measured_mask, limits), empty_count), limits


def _list_filling_notes(plan: Plan, filled: FilledStack, stack: Float32Array) -> list[Note]:
    """Return notes on pixels that were filled in, and on a mark in (N, C, *grid) that was not."""
    task_spec, notes = plan.recipe.task.spec, []
    if len(filled.outliers) and not plan.tiles:  # with tiles, these pixels are only a sample
        notes.append(make_outlier_note(filled.outliers, put_back=task_spec.keeps_pixel_grid))
    if filled.empty_count and not plan.tiles:
        notes.append(make_empty_note(filled.empty_count, stack.size))
    return [*notes, *(list_mark_notes(stack) if task_spec.explains_pixels else ())]


def _compute_intensity_range(pixels: Float32Array) -> tuple[float, float]:
    """Return offset (mean) and scale (range between robust percentiles) of pixels."""
    if not pixels.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(pixels, ROBUST_PERCENTILES))
    if high <= low:  # almost all pixels are equal, such as a few bright points on black
        low, high = float(pixels.min()), float(pixels.max())
    return float(pixels.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))


def _sign_scales(
    task_spec: TaskSpec,
    task_plan: TaskPlan,
    scales: tuple[float, ...],
    noise: tuple[NoiseEstimate, ...],
) -> tuple[float, ...]:
    """Make the scale negative where noise falls with brightness, in all joint channels or in none.

    In network units it then grows, and the fit sees an inverted image as it was before.
    """
    is_inverted = [task_spec.explains_pixels and estimate.gain < 0 for estimate in noise]
    if task_plan.joint_channels:
        is_inverted = [all(is_inverted)] * len(noise)
    return tuple(
        -scale if is_negative else scale
        for scale, is_negative in zip(scales, is_inverted, strict=True)
    )


def select_validation_pixels(
    grid: tuple[int, ...],
    blind_spot_size: tuple[int, ...],
    fraction: float,
    seed: int,
    *,
    origin: tuple[int, ...] | None = None,
    patch_size: tuple[int, ...] | None = None,
    allowed_mask: Tensor | None = None,
) -> Tensor:
    """Choose the validation pixels, at least `MIN_VALIDATION_PIXELS` where possible.

    Parameters
    ----------
    grid, blind_spot_size, fraction, seed, origin, patch_size
        As for `draw_validation_centres`; the share is doubled if it gives too few pixels.
    allowed_mask : Tensor or None
        (1, 1, *grid), 1 where a validation pixel may lie; None: everywhere.

    Returns
    -------
    Tensor
        (1, 1, *grid) float32, 1 at validation pixels; on the device of `allowed_mask`.
    """
    from napari_dip.engine.prior import draw_validation_centres

    while True:
        centres = draw_validation_centres(grid, blind_spot_size, fraction, seed, origin, patch_size)
        if allowed_mask is not None:
            centres = centres.to(allowed_mask.device) * allowed_mask
        if fraction >= 0.5 or float(centres.sum()) >= MIN_VALIDATION_PIXELS:
            return centres
        fraction *= 2


def halve_oversampled(
    stack: Float32Array,
    noise_estimates: Sequence[NoiseEstimate],
    blind_spot_size: tuple[int, ...],
    constant_channels: tuple[int, ...],
    *,
    is_camera: bool,
) -> HalfResolutionStack | None:
    """Return an image at half resolution if all its channels are oversampled, else None.

    Parameters
    ----------
    stack : ndarray
        (N, C, Y, X), all pixels measured.
    noise_estimates : sequence of NoiseEstimate
    blind_spot_size : tuple of int
        Size of blind spots.
    constant_channels : tuple of int
        Channels that hold one value only.
    is_camera : bool
        Whether the noise is that of a colour camera. Half resolution keeps 0.71 to 0.90 of its
        variance in nine files of cc15, so the image is then halved in any case.
    """
    import torch

    from napari_dip.engine.noise.estimate import compute_blind_spot_size
    from napari_dip.engine.noise.oversampling import (
        halve_noise_estimate,
        halve_resolution,
        is_oversampled,
    )

    varied_channels = [c for c in range(stack.shape[1]) if c not in constant_channels]
    checks = (
        is_oversampled(torch.from_numpy(stack[:, c]), noise_estimates[c]) for c in varied_channels
    )
    if not is_camera and (min(blind_spot_size) < MIN_OVERSAMPLED_BLIND_SPOT or not all(checks)):
        return None
    half_size_stack = np.asarray(halve_resolution(torch.from_numpy(stack)), np.float32)
    half_size_noise = tuple(
        estimate if c in constant_channels else halve_noise_estimate(estimate)
        for c, estimate in enumerate(noise_estimates)
    )
    height, width = half_size_stack.shape[-2:]
    sides = compute_blind_spot_size([half_size_noise[c] for c in varied_channels], (height, width))
    return HalfResolutionStack(
        stack=half_size_stack,
        noise=half_size_noise,
        blind_spot_size=tuple(min(side, MAX_HALF_RESOLUTION_BLIND_SPOT) for side in sides),
    )


def replace_half_resolution(calibration: Calibration, stack: Float32Array) -> Calibration:
    """Return a calibration with the half-resolution input of other pixels, such as a tile.

    A calibration without such an input is returned unchanged.
    """
    if calibration.half_resolution is None:
        return calibration
    import torch

    from napari_dip.engine.noise.oversampling import halve_resolution

    half_size_stack = np.asarray(halve_resolution(torch.from_numpy(stack)), np.float32)
    return replace(
        calibration, half_resolution=replace(calibration.half_resolution, stack=half_size_stack)
    )
