"""Measure intensity range, noise and blind spot of an image, and choose validation pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors import Refusal
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.channel_noise import (
    identify_noise_model,
    make_camera_note,
    make_noise_notes,
    measure_channel_noise,
    measure_colour_noise,
)
from napari_dip.pipeline.calibrate.clipping import estimate_clipping_weights
from napari_dip.pipeline.calibrate.resolution_and_outliers import (
    MIN_HALVED_SIDE,
    NO_OUTLIER_LIMITS,
    ROBUST_PERCENTILES,
    compute_outlier_limits,
    fill_outliers,
    halve_oversampled,
    make_outlier_note,
)
from napari_dip.pipeline.calibrate.types import (
    Calibration,
    compute_validation_fraction,
    count_measured_pixels,
)
from napari_dip.pipeline.plan.layout import plan_task

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.calibrate.types import RepeatedExposure, RunInputs
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.tasks.base import TaskPlan

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
        (N, C, *grid) float32, in the image's units. Outliers are filled in; pixels without a
        measurement have the mean of the others.
    """
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    task_plan, measured_mask = get_task_plan(plan, inputs.layout), inputs.measured_mask
    stack, outlier_limits, outliers = _remove_outliers(plan, inputs)
    offset, scale, constant_channels = _measure_intensity_ranges(
        stack, measured_mask, is_joint=bool(task_plan.joint_channels)
    )
    if measured_mask is not None:
        channel_means = np.array(offset, np.float32).reshape(-1, *[1] * (stack.ndim - 2))
        stack = np.where(measured_mask, stack, channel_means)
    if inputs.repeated_exposure is not None:
        inputs = replace(
            inputs,
            repeated_exposure=fill_outliers(inputs.repeated_exposure, None, outlier_limits)[0],
        )
    noise, camera_noise, repeated_exposure = _measure_noise(
        task_plan, inputs, stack, constant_channels, is_tiled=bool(plan.tiles)
    )
    varied_noise = [estimate for c, estimate in enumerate(noise) if c not in constant_channels]
    # detectors record plane by plane, so noise is assumed white along depth and time
    rows = task_plan.blind_spot_shape
    blind_spot_size = (1,) * (stack.ndim - 4) + (
        (len(rows), len(rows[0]))
        if rows
        else compute_blind_spot_size(varied_noise, plan.header.grid)
    )
    converted_inputs, input_notes = inputs.inspection.convert_inputs(
        stack[0], inputs.extra_inputs, {"image": plan.header, **plan.extra_headers}
    )
    validation_fraction = compute_validation_fraction(
        blind_spot_size, count_measured_pixels(stack, measured_mask)
    )
    half_resolution = None
    if task_plan.uses_half_resolution and _is_single_complete_plane(inputs):
        half_resolution = halve_oversampled(
            stack,
            noise,
            blind_spot_size,
            constant_channels,
            is_camera=camera_noise is not None,
        )
    correction = inputs.camera_correction
    notes: list[Note] = []
    if len(outliers) and not plan.tiles:  # with tiles, these pixels are only a sample
        notes.append(make_outlier_note(outliers, put_back=plan.recipe.task.spec.has_same_pixels))
    notes += repeated_exposure.notes if repeated_exposure else ()
    notes += correction.notes if correction else ()
    if plan.recipe.task.spec.reports_unreliable_noise:
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
        outlier_count=len(outliers),
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
    task_plan = plan_task(plan.recipe.task, plan.header, plan.extra_headers, layout.grid_axes)
    assert not isinstance(task_plan, Refusal)  # the planned layout was not refused
    return task_plan


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


def _remove_outliers(
    plan: Plan, inputs: RunInputs
) -> tuple[Float32Array, tuple[tuple[float, float], ...], Float32Array]:
    """Return the stack with outliers filled in, the limits of each channel, and the outliers."""
    stack, measured_mask = inputs.stack, inputs.measured_mask
    if not plan.recipe.task.spec.explains_pixels:
        return stack, (NO_OUTLIER_LIMITS,) * stack.shape[1], np.zeros(0, np.float32)
    if inputs.camera_correction is not None:  # noisy pixels of the camera are no outliers
        measured_mask = inputs.camera_correction.mask_noisy_pixels(measured_mask, stack.shape)
    limits = tuple(
        compute_outlier_limits(stack[:, c], None if measured_mask is None else measured_mask[:, c])
        for c in range(stack.shape[1])
    )
    stack, outliers = fill_outliers(stack, measured_mask, limits)
    return stack, limits, outliers


def _compute_intensity_range(pixels: Float32Array) -> tuple[float, float]:
    """Return offset (mean) and scale (range between robust percentiles) of pixels."""
    if not pixels.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(pixels, ROBUST_PERCENTILES))
    if high <= low:  # almost all pixels are equal, such as a few bright points on black
        low, high = float(pixels.min()), float(pixels.max())
    return float(pixels.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))


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
