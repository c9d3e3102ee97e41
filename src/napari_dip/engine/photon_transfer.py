"""Gain, read noise and offset of a detector apart: from dark frames, flat frames or dark pixels.

One image tells the line variance = gain x signal + intercept, where intercept = read noise squared
- gain x offset. What the detector reads without light takes the two apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.flat_blocks import variance_line
from napari_dip.engine.noise_line import SIDE

#: Share of the blocks, and fewest of them, that must be alike at the dark end.
LEAST_SHARE, LEAST_BLOCKS = 0.05, 24
#: Spread that the darkest blocks' means may have, in units of what noise gives them: below or
#: above, they are clipped or structured.
SPREAD = (0.7, 1.4)
#: How many times as many blocks must lie at the plateau as on a stretch as wide just above it: a
#: bell of noise alone has 35 times as many, an even ramp as many.
RISE = 2.0
#: Share of the hottest and the coldest pixels that a single dark frame's spread leaves out.
_TAIL = 0.1587
#: Rounds until the middle of the plateau stays where it is.
_ROUNDS = 10


class Dark(NamedTuple):
    """What a detector gives without light, in its grey values.

    Attributes
    ----------
    offset : float
    read_noise : float
        Standard deviation.
    offset_error, read_noise_error : float
        Standard errors; 0 if frames without light tell the two.
    """

    offset: float
    read_noise: float
    offset_error: float = 0.0
    read_noise_error: float = 0.0


def measure_dark(frames: Tensor) -> Dark:
    """Measure offset and read noise of frames without light.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X). Of two or more, noise is what differs from frame to frame, so pixels with
        offsets of their own do not count; of one, half the distance between the quantiles that
        hold a normal law's middle 68 %, so hot pixels do not.

    References
    ----------
    EMVA Standard 1288, Release 4.0, 2021, section 6 (temporal noise from differences).
    """
    frames = frames.to(torch.float64)
    if len(frames) > 1:
        variance = float((frames[1:] - frames[:-1]).square().mean()) / 2
        return Dark(float(frames.mean()), variance**0.5)
    values = frames.flatten().sort()[0]
    low, high = (values[int(part * (len(values) - 1))] for part in (_TAIL, 1 - _TAIL))
    return Dark(float(frames.mean()), float(high - low) / 2)


def measure_flat(frames: Tensor, dark: Dark | None) -> tuple[float, float]:
    """Measure gain and intercept from frames of one even, steady light.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X), two or more, of which each pair that follows each other is one exposure.
    dark : Dark or None
        With it, one brightness is enough; without, the frames' brightness must vary.

    Raises
    ------
    ValueError
        If there is one frame only.

    References
    ----------
    Janesick, Photon Transfer, SPIE Press 2007, doi:10.1117/3.725073.
    """
    if len(frames) < 2:
        raise ValueError("Photon transfer takes two frames of the same light or more.")
    frames = frames.to(torch.float64)
    apart, mean = frames[1:] - frames[:-1], (frames[1:] + frames[:-1]) / 2
    side = min(SIDE, *frames.shape[1:])

    def blocks(of: Tensor) -> Tensor:
        return of.unfold(1, side, side).unfold(2, side, side).reshape(-1, side**2)

    means, differences = blocks(mean).mean(1), blocks(apart)
    # a lamp that flickers changes whole blocks: that is no noise of pixels
    variances = differences.var(1) / 2
    if dark is None:
        return variance_line(means, variances)
    light = means - dark.offset
    gain = float((variances - dark.read_noise**2).sum() / light.sum().clamp(min=1e-300))
    return max(gain, 0.0), dark.read_noise**2 - max(gain, 0.0) * dark.offset


def dark_plateau(means: Tensor, gain: float, intercept: float, least: float) -> Dark | None:
    """Find the level at which an image shows nothing, and the noise there; None if it has none.

    Dark pixels differ by noise alone, so the means of their blocks heap up, below all others.
    Even background light does the same, and would be told as part of both.

    Parameters
    ----------
    means : Tensor
        (K,) of blocks of SIDE x SIDE.
    gain, intercept : float
        Of the line.
    least : float
        Least variance to reckon with.
    """
    variance = max(gain * float(means.quantile(0.02)) + intercept, least)
    width = variance**0.5 / SIDE
    middle = float(means.quantile(0.005)) + 2 * width
    for _ in range(_ROUNDS):
        near = means[(means - middle).abs() < 2.5 * width]
        if not len(near):
            return None
        middle = float(near.median())
    below = means[(means < middle) & (means > middle - 4 * width)]
    count = int(((means - middle).abs() < width).sum())
    above = int(((means > middle + 3 * width) & (means < middle + 5 * width)).sum())
    if count < max(LEAST_BLOCKS, LEAST_SHARE * len(means)) or count < RISE * above:
        return None
    spread = float((below - middle).square().mean().sqrt()) / width if len(below) else 0.0
    read = gain * middle + intercept
    if not SPREAD[0] <= spread <= SPREAD[1] or read <= 0:
        return None
    # blocks of SIDE x SIDE: as many values tell the mean, and all but the mean the variance
    return Dark(middle, read**0.5, width / count**0.5, (read / (2 * count * SIDE**2)) ** 0.5)
