"""Calibrate an image before its fits: intensity range, noise, blind spot and validation pixels.

Outliers and empty areas are filled in first. Images that are oversampled get an input at half
resolution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors import raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.channel_noise import (
    identify_noise_model,
    make_camera_note,
    make_noise_notes,
    measure_channel_noise,
    measure_colour_noise,
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
    make_empty_note,
    make_outlier_note,
)
from napari_dip.pipeline.calibrate.types import (
    Calibration,
    HalfResolutionStack,
    compute_validation_fraction,
    count_measured_pixels,
)
from napari_dip.pipeline.plan.layout import plan_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.calibrate.types import RepeatedExposure, RunInputs
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.tasks.base import TaskPlan, TaskSpec

#: Minimum side of the blind spot for a half-resolution fit. With smaller ones only direct
#: neighbours share noise, and halving would lose more than it gains.
MIN_OVERSAMPLED_BLIND_SPOT = 5
#: Minimum side of an image in pixels, so that half of it can be restored.
MIN_HALVED_SIDE = 64
#: Maximum side of the blind spot at half resolution: 3 x 3 gains 0.5 and 0.6 dB over 3 x 7 on FMD
#: widefield (docs/constants.md).
MAX_HALF_RESOLUTION_BLIND_SPOT = 3
#: Maximum absolute residual in units of a quantile of absolute residuals (docs/constants.md).
MAX_RESIDUAL_SIZE_RATIO = 30.0
#: Quantile of absolute residuals that `MAX_RESIDUAL_SIZE_RATIO` refers to: 2.6 standard deviations
#: of normal noise.
RESIDUAL_SIZE_QUANTILE = 0.99
#: Maximum number of planes that `RESIDUAL_SIZE_QUANTILE` is taken from.
MAX_QUANTILE_PLANES = 8
#: Maximum number of pixels that `RESIDUAL_SIZE_QUANTILE` is taken from.
MAX_QUANTILE_PIXELS = 1_000_000
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
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    task_plan, measured_mask = get_task_plan(plan, inputs.layout), inputs.measured_mask
    task_spec = plan.recipe.task.spec
    filled, outlier_limits = _fill_by_measured_limits(task_spec, inputs)
    stack = filled.stack
    offset, scale, constant_channels = _measure_intensity_ranges(
        stack, measured_mask, is_joint=bool(task_plan.joint_channels)
    )
    if measured_mask is not None:
        channel_means = np.array(offset, np.float32).reshape(-1, *[1] * (stack.ndim - 2))
        stack = np.where(measured_mask, stack, channel_means)
    if inputs.repeated_exposure is not None:
        repeated = fill_pixels(task_spec, inputs.repeated_exposure, outlier_limits)
        inputs = replace(inputs, repeated_exposure=repeated.stack)
    noise, camera_noise, repeated_exposure = _measure_noise(
        task_plan, inputs, stack, constant_channels, is_tiled=bool(plan.tiles)
    )
    scale = _sign_scales(task_spec, scale, noise)
    varied_noise = [estimate for c, estimate in enumerate(noise) if c not in constant_channels]
    # detectors record plane by plane, so noise is assumed white along depth and time
    if rows := task_plan.blind_spot_shape:
        plane_size = len(rows), len(rows[0])
    else:
        plane_size = compute_blind_spot_size(varied_noise, plan.header.grid)
    blind_spot_size = (1,) * (stack.ndim - 4) + plane_size
    converted_inputs, input_notes = inputs.inspection.convert_inputs(
        stack[0], inputs.extra_inputs, {"image": plan.header, **plan.extra_headers}
    )
    validation_fraction = compute_validation_fraction(
        blind_spot_size, count_measured_pixels(stack, measured_mask)
    )
    half_resolution = None
    if task_plan.uses_half_resolution and _is_single_complete_plane(inputs):
        is_camera = camera_noise is not None
        half_resolution = halve_oversampled(
            stack, noise, blind_spot_size, constant_channels, is_camera=is_camera
        )
    correction = inputs.camera_correction
    notes: list[Note] = []
    if len(filled.outliers) and not plan.tiles:  # with tiles, these pixels are only a sample
        notes.append(make_outlier_note(filled.outliers, put_back=task_spec.keeps_pixel_grid))
    if filled.empty_count and not plan.tiles:
        notes.append(make_empty_note(filled.empty_count, stack.size))
    notes += repeated_exposure.notes if repeated_exposure else ()
    notes += correction.notes if correction else ()
    if task_spec.reports_unreliable_noise:
        notes += make_noise_notes(noise, constant_channels)
    notes += (*inputs.inspection.notes, *input_notes)
    if camera_noise:
        notes.append(make_camera_note(camera_noise))
    elif half_resolution:
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
        filled_count=len(filled.outliers) + filled.empty_count,
        notes=tuple(notes),
        repeated_exposure=repeated_exposure,
        half_resolution=half_resolution,
        camera_noise=camera_noise,
        camera_correction=correction,
    )
    return calibration, stack


def get_task_plan(plan: Plan, layout: Layout) -> TaskPlan:
    """Return the task's plan for a layout, which is that of the plan in most runs."""
    if layout == plan.layout:
        return plan.task_plan
    axes = layout.grid_axes
    return raise_if_refused(plan_task(plan.recipe.task, plan.header, plan.extra_headers, axes))


def _measure_intensity_ranges(
    stack: Float32Array, measured_mask: npt.NDArray[np.bool_] | None, *, is_joint: bool
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


def _measure_noise(
    task_plan: TaskPlan,
    inputs: RunInputs,
    stack: Float32Array,
    constant_channels: tuple[int, ...],
    *,
    is_tiled: bool,
) -> tuple[tuple[NoiseEstimate, ...], CameraNoise | None, RepeatedExposure | None]:
    """Return the noise of each channel, that of a colour camera, and the repeated exposure."""
    measured_mask, correction = inputs.measured_mask, inputs.camera_correction
    noise, repeated_exposure = measure_channel_noise(
        inputs,
        stack if correction is None else correction.suppress_hot_pixels(stack),
        constant_channels,
        task_plan.noise_settings,
    )
    noise = tuple(
        estimate_clipping_weights(
            estimate, stack[:, c], None if measured_mask is None else measured_mask[:, c]
        )
        for c, estimate in enumerate(noise)
    )
    camera_noise = None
    if correction is None and _is_colour_image(
        task_plan, inputs, stack, constant_channels, is_tiled=is_tiled
    ):
        camera_noise, noise = measure_colour_noise(stack, noise, inputs.grey_level_step)
    return noise, camera_noise, repeated_exposure


def _is_single_complete_plane(inputs: RunInputs) -> bool:
    """Return whether there is one plane, measured once, everywhere and equally well."""
    correction = inputs.camera_correction
    return (
        inputs.repeated_exposure is None
        and inputs.measured_mask is None
        and (correction is None or correction.excess_variance is None)
        and len(inputs.stack) == 1
    )


def _is_colour_image(
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


def _fill_by_measured_limits(
    task_spec: TaskSpec, inputs: RunInputs
) -> tuple[FilledStack, tuple[tuple[float, float], ...]]:
    """Fill in empty areas and outliers; return the limits of the outliers of each channel too."""
    stack, measured_mask, empty_count = inputs.stack, inputs.measured_mask, 0
    if not task_spec.explains_pixels:
        limits = (NO_OUTLIER_LIMITS,) * stack.shape[1]
        return FilledStack(stack, np.zeros(0, np.float32), empty_count), limits
    if measured_mask is None and task_spec.keeps_pixel_grid:
        stack, empty_count = fill_empty_areas(stack)
    if inputs.camera_correction is not None:  # noisy pixels of the camera are no outliers
        measured_mask = inputs.camera_correction.mask_noisy_pixels(measured_mask, stack.shape)
    limits = tuple(
        compute_outlier_limits(stack[:, c], None if measured_mask is None else measured_mask[:, c])
        for c in range(stack.shape[1])
    )
    return FilledStack(*fill_outliers(stack, measured_mask, limits), empty_count), limits


def _compute_intensity_range(pixels: Float32Array) -> tuple[float, float]:
    """Return offset (mean) and scale (range between robust percentiles) of pixels."""
    if not pixels.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(pixels, ROBUST_PERCENTILES))
    if high <= low:  # almost all pixels are equal, such as a few bright points on black
        low, high = float(pixels.min()), float(pixels.max())
    return float(pixels.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))


def _sign_scales(
    task_spec: TaskSpec, scales: tuple[float, ...], noise: tuple[NoiseEstimate, ...]
) -> tuple[float, ...]:
    """Make the scale negative where noise falls with brightness.

    In network units it then grows, and the fit sees an inverted image as it was before.
    """
    is_signed = task_spec.explains_pixels
    return tuple(
        -scale if is_signed and estimate.gain < 0 else scale
        for scale, estimate in zip(scales, noise, strict=True)
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
    is_camera: bool = False,
) -> HalfResolutionStack | None:
    """Return an image at half resolution if all its channels are oversampled, else None.

    Parameters
    ----------
    stack : ndarray
        (1, C, Y, X), all pixels measured.
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

    if stack.ndim > 4 or min(stack.shape[-2:]) < MIN_HALVED_SIDE:
        return None
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


def zero_residual_outliers(residual: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Set extreme values of a residual (C or N, ...) to zero.

    A few outliers in the measurement must not dominate the mean of the residual.
    """
    sample = residual[:: -(-len(residual) // MAX_QUANTILE_PLANES)].reshape(-1)
    sizes = np.abs(sample[:: -(-sample.size // MAX_QUANTILE_PIXELS)])
    sizes = sizes[sizes > 0]  # zeros are not measured, or in constant channels
    usual_size = float(np.quantile(sizes, RESIDUAL_SIZE_QUANTILE)) if sizes.size else 0.0
    max_size = MAX_RESIDUAL_SIZE_RATIO * usual_size
    has_outliers = 0 < max_size < max(float(residual.max()), -float(residual.min()))
    return np.where(np.abs(residual) > max_size, 0.0, residual) if has_outliers else residual
