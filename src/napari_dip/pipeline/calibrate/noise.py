"""The noise of a file's channels: measured, overruled by what the user knows, in image units.

One sentence for the user where an image cannot tell its noise.

Variance against mean of an image's flattest blocks: the dots of the noise plot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.pipeline.calibrate.types import Second
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
    from napari_dip.pipeline.calibrate.types import Planes, RunInputs
    from napari_dip.tasks.base import NoiseRequest

#: Planes of a stack that the noise is measured on, spread over all of it: eight planes of
#: 512 x 512 hold 30,000 blocks, and one detector made them all.
MOST_PLANES = 8
#: Gains within this of 1 are not worth a word: the means of two shots of the same exposure differ
#: by as much.
SAME_GAIN = 0.02


def noise_variance(
    noise: NoiseEstimate, signal: npt.ArrayLike, excess: npt.ArrayLike = 0.0
) -> npt.NDArray[np.float64]:
    """Variance of one channel's noise at a signal, in the image's units squared.

    `excess` is what each pixel's own read noise adds, (Y, X).
    """
    level = np.asarray(signal, np.float64)
    line = noise.gain * level + noise.intercept + (noise.relative * level) ** 2
    return np.asarray(np.maximum(line, noise.floor) + np.asarray(excess, np.float64))


def noise_model(noise: Sequence[NoiseEstimate], wish: NoiseRequest) -> str:
    """Name what was reckoned with: a named noise, "gaussian" or "poisson-gaussian"."""
    if wish.model == "jpeg" or wish.model in NAMED_NOISE_LABELS:
        return wish.model
    return "gaussian" if all(one.gain == 0 for one in noise) else "poisson-gaussian"


def channels_noise(
    inputs: RunInputs, parts: Planes, constant: tuple[int, ...], wish: NoiseRequest
) -> tuple[tuple[NoiseEstimate, ...], Second | None]:
    """Measure each channel's noise: from the image, or from two measurements of one object.

    Parameters
    ----------
    inputs : Inputs
    parts : ndarray
        (parts, C, *grid) of the image, holes filled.
    constant : tuple of int
        Channels that hold one value only.
    wish : NoiseWish
    """
    counted = range(parts.shape[1])
    if inputs.second is None:
        known = inputs.known
        return tuple(
            alone(parts[:, c], None if known is None else known[:, c], inputs.step, wish)
            for c in counted
        ), None
    pairs = [
        _of_pair(parts[:, c], inputs.second[:, c], inputs.step, wish, constant=c in constant)
        for c in counted
    ]
    notes = tuple(
        one[3] if len(pairs) == 1 else f"Channel {number}: {one[3]}"
        for number, one in enumerate(pairs, 1)
        if one[3]
    )
    said = (
        "Two measurements of the object were used, each weighed by its noise, which was measured "
        "from their difference."
    )
    second = np.stack([one[0] for one in pairs], 1)
    return tuple(one[1] for one in pairs), Second(
        second, tuple(one[2] for one in pairs), (said, *notes)
    )


def alone(
    volume: Planes, known: npt.NDArray[np.bool_] | None, step: float, wish: NoiseRequest
) -> NoiseEstimate:
    """Measure one channel's noise from planes (..., Y, X), those it knows of.

    Parameters
    ----------
    volume, known : ndarray
        (..., Y, X), and where there is a measurement; None: everywhere.
    step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    wish : NoiseWish
        What the user knows overrules what is measured.
    """
    import torch

    from napari_dip.engine.noise.estimate import (
        correct_by_prediction,
        estimate_noise,
        extract_nugget,
    )

    if wish.model in NAMED_NOISE_LABELS:
        volume, known, step = remove_named_noise(volume, known, step, wish.model)
    planes = volume.reshape(-1, *volume.shape[-2:])
    seen = None if known is None else known.reshape(planes.shape)
    if seen is not None and seen.any():  # missing planes hold nothing but the mean
        told = seen.any((1, 2))
        planes, seen = planes[told], seen[told]
    some = spread_planes(len(planes))
    there = None if seen is None else torch.from_numpy(seen[some])
    measured = estimate_noise(torch.from_numpy(planes[some]), step, there)
    if seen is None and wish.model not in NAMED_NOISE_LABELS:
        plane = planes[some[len(some) // 2]]
        measured = correct_by_prediction(measured, torch.from_numpy(plane), step)
        if not measured.doubt and find_clear_stripes(plane) is not None:
            measured = replace(measured, caution="lines")
    if wish.model == SPECKLE:
        return convert_log_noise(measured, planes)
    return _overruled(extract_nugget(measured) if wish.white else measured, planes, wish)


def _of_pair(
    first: Planes, second: Planes, step: float, wish: NoiseRequest, *, constant: bool
) -> tuple[Planes, NoiseEstimate, NoiseEstimate, str]:
    """Bring one channel's second shot to the first's intensities, and measure both.

    Returns
    -------
    second, noise of the first, noise of the second, what was done in words
    """
    import torch

    from napari_dip.engine.noise.repeated_exposure import (
        match_intensities,
        measure_repeated_exposure,
    )

    if constant:  # it is left as it is
        noise = alone(first, None, step, wish)
        return first, noise, noise, ""
    ours, theirs = (one.reshape(-1, *one.shape[-2:]) for one in (first, second))
    some = spread_planes(len(ours))
    planes = torch.from_numpy(ours[some])
    match = match_intensities(planes, torch.from_numpy(theirs[some]))
    moved = np.asarray((second.astype(np.float64) - match.offset) / match.gain, np.float32)
    brought = moved.reshape(-1, *moved.shape[-2:])
    noises = measure_repeated_exposure(planes, torch.from_numpy(brought[some]), step)
    # what the user knows of the detector holds for the second's own units
    gain, read = wish.gain, wish.read_noise
    scaled = replace(
        wish,
        gain=None if gain is None else gain / match.gain,
        read_noise=None if read is None else read / match.gain,
    )
    words = ""
    if abs(match.gain - 1) > SAME_GAIN:
        words = (
            f"The second image's intensities are {match.gain:.3g} × those of the first "
            f"{match.offset:+.4g}; they were brought to the first one's."
        )
    return moved, _overruled(noises[0], ours, wish), _overruled(noises[1], brought, scaled), words


def spread_planes(count: int) -> npt.NDArray[np.int_]:
    """Choose planes evenly."""
    return np.unique(np.linspace(0, count - 1, MOST_PLANES).astype(int))


def _overruled(measured: NoiseEstimate, planes: Planes, wish: NoiseRequest) -> NoiseEstimate:
    """Let the user's own figures overrule what was measured."""
    dark, middle = float(np.percentile(planes, 1)), float(planes.mean(dtype=np.float64))
    level = float(noise_variance(measured, middle))
    at_dark = float(noise_variance(measured, dark))
    gain = measured.gain
    if wish.model == "gaussian":
        gain, at_dark = 0.0, level
    elif wish.model == "poisson-gaussian" and gain == 0 and middle > dark:
        # no slope was found, but the user knows of one: all that is above the least variance
        gain, at_dark = max(level - measured.floor, 0.1 * level) / (middle - dark), measured.floor
    if wish.gain is not None:
        gain = wish.gain
    if wish.read_noise is not None:
        at_dark = wish.read_noise**2
    if gain == measured.gain and wish.read_noise is None:
        return measured
    floor = at_dark if wish.read_noise is not None else min(measured.floor, at_dark)
    return replace(measured, gain=gain, intercept=at_dark - gain * dark, floor=floor)


#: What to do about it.
REMEDY = "Where you know read noise or gain, enter them."
#: What each of `engine.noise.DOUBTS` means to the user.
SENTENCES = {
    "blocks": "The noise cannot be told from this image: too little of it was measured in one "
    "piece, so it is taken to be even and weak.",
    "clipped": "The noise cannot be told for certain: almost everywhere the image was cut off at "
    "its darkest or brightest grey value.",
    "grey values": "The noise cannot be told from this image: it is finer than the steps of its "
    "grey values.",
    "texture": "The noise cannot be told for certain: there is structure down to single pixels "
    "everywhere, so what was measured may be too much.",
    "correlation": "Whether neighbouring pixels share noise cannot be told: all parts of the image "
    "are structured, so the noise is taken to differ from pixel to pixel.",
    "brightness": "The noise cannot be told for certain: at some brightness it is off a straight "
    "line, as after a gamma curve or with speckle, or nothing is flat there.",
    "tails": "The noise cannot be told for certain: many single pixels lie further off than normal "
    "noise has it, so what was measured is that of the others.",
    "smoothed": "The noise cannot be told for certain: the image seems to have been smoothed, "
    "interpolated or compressed, so what was measured may be too little.",
}
#: What each of `engine.noise.CAUTIONS` means to the user, and those of which other notes speak.
CAUTIONED = {
    "resampled": "Noise is stronger in every second row or column, or so, as after enlarging, a "
    "colour mosaic or JPEG: it was measured as one for all.",
    "calm": "Hardly any part of the image is without structure, so the noise is known within a "
    "third only.",
    "blotches": "Every part of the image varies over eight pixels and more: that is kept as "
    "structure, so noise in blotches as wide would stay.",
    "lines": "Rows or columns are offset against each other: the noise model 'Stripes' takes that "
    "out.",
    "camera": "It is the noise of a colour camera, known within a third.",
    "cut": "Most of the image was cut off at its darkest or brightest grey value: the noise near "
    "there is a guess.",
    "uneven": "At some brightness the variance of the noise is a third more or less than was "
    "reckoned: after a gamma curve, or for want of flat places.",
    "ends": "In the darkest or brightest tenth of the image the variance of the noise is known "
    "within a fifth only.",
    "colours": "Neighbouring pixels share noise in this colour picture: how strong it is, is known "
    "within a third only.",
    "whiter": "Neighbouring pixels seem to share less noise than was measured, so the noise may be "
    "weaker.",
}
ELSEWHERE = ("lines", "camera")


def doubt_notes(noise: Sequence[NoiseEstimate], constant: Collection[int]) -> tuple[str, ...]:
    """Say which channels cannot tell their noise, and why, or what else should be known of it.

    Parameters
    ----------
    noise : sequence of NoiseEstimate
        One for each channel.
    constant : collection of int
        Channels that hold one value only, and are not restored.
    """
    said = []
    for channel, one in enumerate(noise):
        words = ""
        if one.doubt:
            words = f"{SENTENCES[one.doubt]} {REMEDY}"
        elif one.caution and one.caution not in ELSEWHERE:
            words = CAUTIONED[one.caution]
        if words and channel not in constant:
            said.append(words if len(noise) == 1 else f"Channel {channel + 1}: {words}")
    return tuple(said)


#: Points that are kept of the variance against the mean: a plot of more is a blot.
MOST_POINTS = 400


def block_points(
    planes: Planes, known: npt.NDArray[np.bool_] | None
) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the flattest blocks, as the line through them was fitted.

    Parameters
    ----------
    planes : ndarray
        (P, Y, X).
    known : ndarray of bool or None
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

    some = spread_planes(len(planes))
    pixels = torch.from_numpy(planes[some]).to(torch.float64)
    there = None if known is None else torch.from_numpy(known[some])
    side = choose_block_side(planes.shape[1:])
    means, residuals = cut_blocks(pixels, side)
    whole = select_informative_blocks(pixels, side, side // 2, there, find_clipping_limits(pixels))
    if not bool(whole.any()):  # better clipped blocks than none
        whole = select_informative_blocks(pixels, side, side // 2, there, NO_CLIPPING)
    means, residuals = means[whole], residuals[whole]
    if not len(means):
        return ()
    flat = select_flat_blocks(means, residuals)
    means, residuals = means[flat], residuals[flat]
    variances = residuals.square().mean((1, 2)) / (1 - estimate_autocorrelation(residuals)[2])
    every = max(1, -(-len(means) // MOST_POINTS))
    pairs = zip(means[::every].tolist(), variances[::every].tolist(), strict=True)
    return tuple(pairs)
