"""Measure the pixels once: normalisation, noise, hidden block.

What judges a fit and when it ends: how many pixels, how long without a better one, what mean.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.calibration import Calibration, compute_validation_share
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    identify_noise_model,
    make_noise_notes,
    measure_channel_noise,
)
from napari_dip.pipeline.calibrate.clipping import calibrate_clipping_limits
from napari_dip.pipeline.calibrate.colour_camera import make_camera_note, measure_colour_noise
from napari_dip.pipeline.calibrate.resolution_and_outliers import (
    MIN_HALVED_SIDE,
    NO_OUTLIER_LIMITS,
    ROBUST_PERCENTILES,
    compute_outlier_limits,
    fill_outliers,
    halve_oversampled,
    make_outlier_note,
)

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Planes, RunInputs
    from napari_dip.pipeline.plan.types import Plan

#: Noise, as a share of the range, below which held-out pixels, which are filled in to judge, say
#: little of a network that is shown the others: of cc15 (0.002 to 0.004) one of four fits lost
#: 7.8 dB so. Micrographs of FMD, W2S and Hagen et al. have 0.04 to 0.18.
MAX_WEAK_NOISE = 0.02


def calibrate_pixels(plan: Plan, inputs: RunInputs) -> tuple[Calibration, Planes]:
    """Measure all that the fits need to know.

    Parameters
    ----------
    plan : Plan
    inputs : RunInputs

    Returns
    -------
    (Calibration, parts)
        Parts are (parts, C, *grid) float32 in the image's units, as the plan's layout has them;
        what was not measured is filled with the mean of what was.
    """
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    task, measured_mask = plan.recipe.task, inputs.measured_mask
    parts, limits, values = _remove_outliers(plan, inputs)
    strays: tuple[Note, ...] = ()
    if len(values) and not plan.tiles:  # of a picture in tiles, a sample alone is seen here
        strays = (make_outlier_note(values, put_back=task.same_pixels),)
    measured = [
        parts[:, c] if measured_mask is None else parts[:, c][measured_mask[:, c]]
        for c in range(parts.shape[1])
    ]
    constant = tuple(
        c for c, item in enumerate(measured) if not item.size or item.min() == item.max()
    )
    offset, scale = zip(*(_compute_intensity_range(item) for item in measured), strict=True)
    if task.together(plan.source):  # a dark channel must not be blown up
        scale = (max(scale),) * len(scale)
    if measured_mask is not None:
        middle = np.array(offset, np.float32).reshape(-1, *[1] * (parts.ndim - 2))
        parts = np.where(measured_mask, parts, middle)
    if inputs.repeated_exposure is not None:
        inputs = replace(
            inputs, repeated_exposure=fill_outliers(inputs.repeated_exposure, None, limits)[0]
        )
    maps = inputs.camera_correction
    noise_input = parts if maps is None else maps.quietened(parts)
    noise, second = measure_channel_noise(inputs, noise_input, constant, task.noise_wish())
    noise = tuple(
        calibrate_clipping_limits(
            item, parts[:, c], None if measured_mask is None else measured_mask[:, c]
        )
        for c, item in enumerate(noise)
    )
    camera = None
    if maps is None and _is_colour_image(plan, inputs, parts, constant):
        camera, noise = measure_colour_noise(parts, noise, inputs.grey_level_step)
    varied = [item for c, item in enumerate(noise) if c not in constant]
    # detectors make noise plane by plane: along depth or time it is taken to be white
    block = (1,) * (parts.ndim - 4) + task.block(compute_blind_spot_size(varied, plan.source.grid))
    arranged, notes = task.arranged(
        parts[0], inputs.extra_inputs, {"image": plan.source, **plan.extra_inputs}
    )
    mask_notes = () if measured_mask is None else task.describe_missing_pixels(measured_mask)
    doubts = make_noise_notes(noise, constant) if task.doubts_noise() else ()
    some = parts[0, 0].size if measured_mask is None else max(1, int(measured_mask[0, 0].sum()))
    coarse = None
    whole = second is None and measured_mask is None and (maps is None or maps.excess is None)
    if task.halves() and whole and len(parts) == 1:
        coarse = halve_oversampled(parts, noise, block, constant, camera=camera is not None)
    halved: tuple[Note, ...] = ()
    if camera:
        halved = (make_camera_note(camera),)
    elif coarse:
        halved = (make_note("half-resolution"),)
    calibration = Calibration(
        offset=tuple(offset),
        scale=tuple(scale),
        noise=noise,
        blind_spot_size=block,
        validation_share=compute_validation_share(block, some),
        constant_channels=constant,
        noise_model=identify_noise_model(varied, task.noise_wish()),
        prior=plan.budget.prior,
        measured_mask=measured_mask,
        extra_inputs=arranged,
        outlier_limits=limits,
        outlier_count=len(values),
        notes=(
            *strays,
            *(second.notes if second else ()),
            *(maps.notes if maps else ()),
            *doubts,
            *mask_notes,
            *notes,
            *halved,
        ),
        repeated_exposure=second,
        half_resolution=coarse,
        camera_noise=camera,
        camera_correction=maps,
    )
    return calibration, parts


def _is_colour_image(
    plan: Plan, inputs: RunInputs, parts: Planes, constant: tuple[int, ...]
) -> bool:
    """Whether this is a colour picture, and nothing else is known of its noise."""
    task, request = plan.recipe.task, plan.recipe.task.noise_wish()
    colours = plan.layout.channels == "S" and parts.shape[1] == 3 and parts.ndim == 4
    alone = inputs.repeated_exposure is None and inputs.measured_mask is None and not constant
    whole = (len(parts) == 1 or bool(plan.tiles)) and min(parts.shape[-2:]) >= MIN_HALVED_SIDE
    together = task.halves() and task.together(plan.source) and request.model == "auto"
    return bool(colours and alone and whole and together)


def _remove_outliers(
    plan: Plan, inputs: RunInputs
) -> tuple[Planes, tuple[tuple[float, float], ...], Planes]:
    """Give the parts without outliers, the limits of each channel, and what the outliers were."""
    parts, measured_mask = inputs.stack, inputs.measured_mask
    if not plan.recipe.task.fits_pixels():
        return parts, (NO_OUTLIER_LIMITS,) * parts.shape[1], np.zeros(0, np.float32)
    if inputs.camera_correction is not None:  # a noise map says more of its pixels
        measured_mask = inputs.camera_correction.usable(measured_mask, parts.shape)
    limits = tuple(
        compute_outlier_limits(parts[:, c], None if measured_mask is None else measured_mask[:, c])
        for c in range(parts.shape[1])
    )
    parts, values = fill_outliers(parts, measured_mask, limits)
    return parts, limits, values


def choose_prior_by_pixels(plan: Plan, inputs: RunInputs) -> Plan:
    """Plan anew with the prior that the pixels ask for, where the task lets them choose."""
    from napari_dip.pipeline.plan.preflight import replace_prior

    prior, why = plan.recipe.task.choose_prior_by_mask(plan.budget.prior, inputs.measured_mask)
    if inputs.layout != plan.layout:
        note = make_note("planes-together", axis=inputs.layout.grid[0])
        plan = replace(plan, layout=inputs.layout, notes=(*plan.notes, note))
        return replace_prior(plan, prior, why)
    return plan if not why else replace_prior(plan, prior, why)


def choose_prior_by_noise(plan: Plan, calibration: Calibration) -> tuple[Plan, Calibration]:
    """Plan anew with the prior that suits how well the noise is known."""
    from napari_dip.pipeline.plan.preflight import replace_prior

    kept = [c for c in range(len(calibration.noise)) if c not in calibration.constant_channels]
    doubted = any(calibration.noise[c].doubt for c in kept)
    # the offset is the mean of the picture
    levels = [
        compute_noise_variance(calibration.noise[c], calibration.offset[c]) ** 0.5 for c in kept
    ]
    weak = any(
        item < MAX_WEAK_NOISE * calibration.scale[c] for item, c in zip(levels, kept, strict=True)
    )
    prior, why = plan.recipe.task.choose_prior_by_noise(
        plan.budget.prior, doubted=doubted, weak=weak
    )
    if not why:
        return plan, calibration
    return replace_prior(plan, prior, why), replace(calibration, prior=prior)


def _compute_intensity_range(plane: Planes) -> tuple[float, float]:
    """Offset and scale that bring the bulk of the pixels to a range of one."""
    if not plane.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(plane, ROBUST_PERCENTILES))
    if high <= low:  # almost all pixels alike: a few bright points on black
        low, high = float(plane.min()), float(plane.max())
    return float(plane.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))


#: Fewest pixels that judge; the share that may judge is doubled until there are as many.
MIN_VALIDATION_PIXELS = 8
#: Iterations without a better held-out loss before a fit ends, as a share of its budget.
PATIENCE_SHARE = 0.35
#: Decay of the running average of outputs, at most.
MAX_OUTPUT_DECAY = 0.99
#: Share of its iterations over which outputs are averaged, where they are few: with 0.99 a fit of
#: 200 remembers how it began (two deblurred crops of 96 x 96: 0.5 and 1.2 dB less than with 0.95).
AVERAGED_ITERATION_SHARE = 0.1


def select_validation_pixels(
    grid: tuple[int, ...],
    block: tuple[int, ...],
    share: float,
    seed: int,
    *,
    origin: tuple[int, ...] | None = None,
    patch: tuple[int, ...] | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Choose the judging pixels, and enough of them.

    Parameters
    ----------
    grid, block, share, seed, origin, patch
        As for `draw_validation_centres`; the share is where to begin.
    allowed : Tensor or None
        (1, 1, *grid), 1 where a pixel may judge; None if all may.

    Returns
    -------
    Tensor
        (1, 1, *grid) float32, 1 at the judges; on the device of `allowed`.
    """
    from napari_dip.engine.prior import draw_validation_centres

    while True:
        centres = draw_validation_centres(grid, block, share, seed, origin, patch)
        if allowed is not None:
            centres = centres.to(allowed.device) * allowed
        if share >= 0.5 or float(centres.sum()) >= MIN_VALIDATION_PIXELS:
            return centres
        share *= 2


def compute_output_decay(iterations: int) -> float:
    """Tell the decay of the running average of outputs in a fit of that many iterations."""
    return min(MAX_OUTPUT_DECAY, 1 - 1 / max(AVERAGED_ITERATION_SHARE * iterations, 1.5))


def compute_patience(iterations: int, report_every: int) -> int:
    """Tell how many iterations without a better held-out loss end a fit.

    Parameters
    ----------
    iterations : int
        Of the whole fit.
    report_every : int
        Iterations between two judgements, of which it waits for four at least.
    """
    return max(4 * report_every, int(PATIENCE_SHARE * iterations))
