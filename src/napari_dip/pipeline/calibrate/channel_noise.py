"""The noise of a file's channels: measured, overruled by what the user knows, in image units.

One sentence for the user where an image cannot tell its noise.

Variance against mean of an image's flattest blocks: the dots of the noise plot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.calibration import RepeatedExposure
from napari_dip.tasks.noise_models.named_noise import (
    NAMED_NOISE_LABELS,
    SPECKLE,
    convert_log_noise,
    find_clear_stripes,
    remove_named_noise,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Planes, RunInputs
    from napari_dip.tasks.base import NoiseRequest

#: Planes of a stack that the noise is measured on, spread over all of it: eight planes of
#: 512 x 512 hold 30,000 blocks, and one detector made them all.
MAX_NOISE_PLANES = 8
#: Gains within this of 1 are not worth a word: the means of two shots of the same exposure differ
#: by as much.
GAIN_TOLERANCE = 0.02


def compute_noise_variance(
    noise: NoiseEstimate, signal: npt.ArrayLike, excess: npt.ArrayLike = 0.0
) -> npt.NDArray[np.float64]:
    """Variance of one channel's noise at a signal, in the image's units squared.

    `excess` is what each pixel's own read noise adds, (Y, X).
    """
    level = np.asarray(signal, np.float64)
    line = noise.gain * level + noise.intercept + (noise.relative * level) ** 2
    return np.asarray(np.maximum(line, noise.floor) + np.asarray(excess, np.float64))


def identify_noise_model(noise: Sequence[NoiseEstimate], request: NoiseRequest) -> str:
    """Name what was reckoned with: a named noise, "gaussian" or "poisson-gaussian"."""
    if request.model == "jpeg" or request.model in NAMED_NOISE_LABELS:
        return request.model
    return "gaussian" if all(item.gain == 0 for item in noise) else "poisson-gaussian"


def measure_channel_noise(
    inputs: RunInputs, parts: Planes, constant: tuple[int, ...], request: NoiseRequest
) -> tuple[tuple[NoiseEstimate, ...], RepeatedExposure | None]:
    """Measure each channel's noise: from the image, or from two measurements of one object.

    Parameters
    ----------
    inputs : RunInputs
    parts : ndarray
        (parts, C, *grid) of the image, holes filled.
    constant : tuple of int
        Channels that hold one value only.
    request : NoiseRequest
    """
    counted = range(parts.shape[1])
    if inputs.repeated_exposure is None:
        measured_mask = inputs.measured_mask
        return tuple(
            measure_single_exposure(
                parts[:, c],
                None if measured_mask is None else measured_mask[:, c],
                inputs.grey_level_step,
                request,
            )
            for c in counted
        ), None
    pairs = [
        _measure_exposure_pair(
            parts[:, c],
            inputs.repeated_exposure[:, c],
            inputs.grey_level_step,
            request,
            constant=c in constant,
        )
        for c in counted
    ]
    notes = tuple(
        make_note("exposures-scaled", **item[3], **name_channel(channel, len(pairs)))
        for channel, item in enumerate(pairs)
        if item[3]
    )
    said = make_note("two-exposures")
    second = np.stack([pair[0] for pair in pairs], 1)
    return tuple(pair[1] for pair in pairs), RepeatedExposure(
        stack=second, noise=tuple(pair[2] for pair in pairs), notes=(said, *notes)
    )


def measure_single_exposure(
    volume: Planes, measured_mask: npt.NDArray[np.bool_] | None, step: float, request: NoiseRequest
) -> NoiseEstimate:
    """Measure one channel's noise from planes (..., Y, X), those it knows of.

    Parameters
    ----------
    volume, measured_mask : ndarray
        (..., Y, X), and where there is a measurement; None: everywhere.
    step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    request : NoiseRequest
        What the user knows overrules what is measured.
    """
    import torch

    from napari_dip.engine.noise.estimate import (
        correct_by_prediction,
        estimate_noise,
        extract_nugget,
    )

    if request.model in NAMED_NOISE_LABELS:
        volume, measured_mask, step = remove_named_noise(volume, measured_mask, step, request.model)
    planes = volume.reshape(-1, *volume.shape[-2:])
    plane_masks = None if measured_mask is None else measured_mask.reshape(planes.shape)
    if plane_masks is not None and plane_masks.any():  # missing planes hold nothing but the mean
        has_pixels = plane_masks.any((1, 2))
        planes, plane_masks = planes[has_pixels], plane_masks[has_pixels]
    some = select_spread_planes(len(planes))
    sample_mask = None if plane_masks is None else torch.from_numpy(plane_masks[some])
    measured = estimate_noise(torch.from_numpy(planes[some]), step, sample_mask)
    if plane_masks is None and request.model not in NAMED_NOISE_LABELS:
        plane = planes[some[len(some) // 2]]
        measured = correct_by_prediction(measured, torch.from_numpy(plane), step)
        if not measured.doubt and find_clear_stripes(plane) is not None:
            measured = replace(measured, caution="lines")
    if request.model == SPECKLE:
        return convert_log_noise(measured, planes)
    return _apply_user_noise(
        extract_nugget(measured) if request.white else measured, planes, request
    )


def _measure_exposure_pair(
    first: Planes, second: Planes, step: float, request: NoiseRequest, *, constant: bool
) -> tuple[Planes, NoiseEstimate, NoiseEstimate, dict[str, float]]:
    """Bring one channel's second shot to the first's intensities, and measure both.

    Returns
    -------
    second, noise of the first, noise of the second, how it was brought there if it was
    """
    import torch

    from napari_dip.engine.noise.repeated_exposure import (
        match_intensities,
        measure_repeated_exposure,
    )

    if constant:  # it is left as it is
        noise = measure_single_exposure(first, None, step, request)
        return first, noise, noise, {}
    ours, theirs = (item.reshape(-1, *item.shape[-2:]) for item in (first, second))
    some = select_spread_planes(len(ours))
    planes = torch.from_numpy(ours[some])
    match = match_intensities(planes, torch.from_numpy(theirs[some]))
    moved = np.asarray((second.astype(np.float64) - match.offset) / match.gain, np.float32)
    brought = moved.reshape(-1, *moved.shape[-2:])
    noises = measure_repeated_exposure(planes, torch.from_numpy(brought[some]), step)
    # what the user knows of the detector holds for the second's own units
    gain, read = request.gain, request.read_noise
    scaled = replace(
        request,
        gain=None if gain is None else gain / match.gain,
        read_noise=None if read is None else read / match.gain,
    )
    facts = {}
    if abs(match.gain - 1) > GAIN_TOLERANCE:
        facts = {"gain": float(match.gain), "offset": float(match.offset)}
    return (
        moved,
        _apply_user_noise(noises[0], ours, request),
        _apply_user_noise(noises[1], brought, scaled),
        facts,
    )


def select_spread_planes(count: int) -> npt.NDArray[np.int_]:
    """Choose planes evenly."""
    return np.unique(np.linspace(0, count - 1, MAX_NOISE_PLANES).astype(int))


def _apply_user_noise(
    measured: NoiseEstimate, planes: Planes, request: NoiseRequest
) -> NoiseEstimate:
    """Let the user's own figures overrule what was measured."""
    dark, middle = float(np.percentile(planes, 1)), float(planes.mean(dtype=np.float64))
    level = float(compute_noise_variance(measured, middle))
    at_dark = float(compute_noise_variance(measured, dark))
    gain = measured.gain
    if request.model == "gaussian":
        gain, at_dark = 0.0, level
    elif request.model == "poisson-gaussian" and gain == 0 and middle > dark:
        # no slope was found, but the user knows of one: all that is above the least variance
        gain, at_dark = max(level - measured.floor, 0.1 * level) / (middle - dark), measured.floor
    if request.gain is not None:
        gain = request.gain
    if request.read_noise is not None:
        at_dark = request.read_noise**2
    if gain == measured.gain and request.read_noise is None:
        return measured
    floor = at_dark if request.read_noise is not None else min(measured.floor, at_dark)
    return replace(measured, gain=gain, intercept=at_dark - gain * dark, floor=floor)


#: Cautions of the engine of which other notes speak.
SEPARATELY_NOTED_CAUTIONS = ("lines", "camera")


def make_noise_notes(noise: Sequence[NoiseEstimate], constant: Collection[int]) -> tuple[Note, ...]:
    """Say which channels cannot tell their noise, and why, or what else should be known of it.

    Parameters
    ----------
    noise : sequence of NoiseEstimate
        One for each channel.
    constant : collection of int
        Channels that hold one value only, and are not restored.
    """
    said = []
    for channel, item in enumerate(noise):
        code = ""
        if item.doubt:
            code = f"noise-doubt-{item.doubt}"
        elif item.caution and item.caution not in SEPARATELY_NOTED_CAUTIONS:
            code = f"noise-caution-{item.caution}"
        if code and channel not in constant:
            said.append(make_note(code, **name_channel(channel, len(noise))))
    return tuple(said)


def name_channel(channel: int, count: int) -> dict[str, int]:
    """Name a channel in a note, where there are several."""
    return {} if count == 1 else {"channel_number": channel + 1}


#: Points that are kept of the variance against the mean: a plot of more is a blot.
MAX_VARIANCE_POINTS = 400


def compute_variance_points(
    planes: Planes, measured_mask: npt.NDArray[np.bool_] | None
) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the flattest blocks, as the line through them was fitted.

    Parameters
    ----------
    planes : ndarray
        (P, Y, X).
    measured_mask : ndarray of bool or None
        Where there is a measurement; blocks with holes are left out.
    """
    import torch

    from napari_dip.engine.noise.flat_blocks import (
        NO_CLIPPING,
        choose_block_side,
        cut_blocks,
        estimate_autocorrelation,
        find_clipping_limits,
        select_flat_blocks,
        select_informative_blocks,
    )

    some = select_spread_planes(len(planes))
    pixels = torch.from_numpy(planes[some]).to(torch.float64)
    sample_mask = None if measured_mask is None else torch.from_numpy(measured_mask[some])
    side = choose_block_side(planes.shape[1:])
    means, residuals = cut_blocks(pixels, side)
    whole = select_informative_blocks(
        pixels, side, side // 2, sample_mask, find_clipping_limits(pixels)
    )
    if not bool(whole.any()):  # better clipped blocks than none
        whole = select_informative_blocks(pixels, side, side // 2, sample_mask, NO_CLIPPING)
    means, residuals = means[whole], residuals[whole]
    if not len(means):
        return ()
    flat = select_flat_blocks(means, residuals)
    means, residuals = means[flat], residuals[flat]
    variances = residuals.square().mean((1, 2)) / (1 - estimate_autocorrelation(residuals)[2])
    every = max(1, -(-len(means) // MAX_VARIANCE_POINTS))
    pairs = zip(means[::every].tolist(), variances[::every].tolist(), strict=True)
    return tuple(pairs)
