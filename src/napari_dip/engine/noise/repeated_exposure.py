"""Measure noise from repeated exposures: of one object, in the dark, or of constant light.

Their differences contain noise alone, so variance and autocorrelation are not biased by texture.
The intensities of two exposures of one object are matched first. Frames of a movie are compared as
well: whether they share noise, and whether it is equally strong in all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from napari_dip.engine.constants import MAD_TO_STD, TUKEY_SIGMAS
from napari_dip.engine.noise import compute_intercept
from napari_dip.engine.noise.estimate import NoiseEstimate
from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    DarkLevel,
    choose_block_side,
    cut_blocks,
    cut_patches,
    estimate_autocorrelation,
    fit_robust_variance_model,
    select_flat_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Iterations of the robust fit, which converges in five to ten.
ROBUST_ITERATIONS = 20
#: Lower bound of either exposure's share of the noise variance. At a tenth, the noisier exposure
#: has little weight already.
MIN_NOISE_FRACTION = 0.1
#: Least range of brightnesses of flat frames, in units of the highest, that tells a gain without
#: dark frames: with 0.2, as of a lamp that falls off, gains were 1.5 to 2.6 times off.
MIN_BRIGHTNESS_RANGE = 0.5
#: Side in pixels of the blocks in which successive frames are compared.
FRAME_BLOCK_SIDE = 16
#: Share of the blocks, of least correlation, in which no structure makes frames alike.
UNLIKE_BLOCK_FRACTION = 0.2
#: Share of the pixels that is left out at each end for the spread of a single dark frame.
_TAIL_FRACTION = 0.1587


class IntensityMatch(NamedTuple):
    """Relation of the intensities of two exposures: second = gain x first + offset."""

    gain: float
    offset: float


def match_intensities(first: Tensor, second: Tensor) -> IntensityMatch:
    """Fit gain and offset between two exposures, with noise in both.

    Ordinary regression on the noisy first exposure would underestimate the gain. Block means are
    therefore fitted by Deming regression, with the measured ratio of the two noise variances.
    Outliers, such as blocks in which something moved, get little or no weight.

    Parameters
    ----------
    first, second : Tensor
        (P, Y, X) each, planes of one channel.

    Raises
    ------
    ValueError
        If the first exposure is constant.

    References
    ----------
    Deming, Statistical adjustment of data, 1943. Beaton, Tukey, The fitting of power series,
    Technometrics 16(2), 1974, doi:10.1080/00401706.1974.10489171 (the weights).
    """
    side = choose_block_side(tuple(first.shape[-2:]))
    x, y = (cut_blocks(item.to(torch.float64), side)[0] for item in (first, second))
    if float(x.std()) == 0:
        raise ValueError("The first shot holds one value only.")
    # quartiles give initial values that are robust against moved parts
    low, middle, high = (
        torch.stack([x, y]).quantile(quantile, 1) for quantile in (0.25, 0.5, 0.75)
    )
    gain = float((high - low)[1] / (high - low)[0].clamp(min=1e-300))
    if not 0 < gain < float("inf"):
        gain = float(y.std() / x.std())
    offset = float(middle[1]) - gain * float(middle[0])
    for _ in range(ROBUST_ITERATIONS):
        error = (y - gain * x - offset).abs()
        width = TUKEY_SIGMAS * MAD_TO_STD * float(error.median()) + 1e-9 * float(y.abs().max())
        weight = (1 - (error / width) ** 2).clamp(min=0) ** 2
        total = weight.sum()
        x0, y0 = (weight * x).sum() / total, (weight * y).sum() / total
        xx = float((weight * (x - x0) ** 2).sum())
        yy = float((weight * (y - y0) ** 2).sum())
        xy = float((weight * (x - x0) * (y - y0)).sum())
        if xy <= 0:
            break
        # ratio of the noise variances, in the units of either exposure
        ratio = gain**2 * _estimate_noise_ratio(first, (second - offset) / gain)
        variance_difference = yy - ratio * xx
        gain = (variance_difference + (variance_difference**2 + 4 * ratio * xy**2) ** 0.5) / (
            2 * xy
        )
        offset = float(y0) - gain * float(x0)
    return IntensityMatch(gain, offset)


def measure_repeated_exposure(
    first: Tensor, second: Tensor, grey_level_step: float
) -> tuple[NoiseEstimate, NoiseEstimate]:
    """Measure the noise of two exposures of one object.

    Parameters
    ----------
    first, second : Tensor
        (P, Y, X) each, planes of one channel, in the same intensities.
    grey_level_step : float
        Distance of neighbouring grey values of the first; 0 for continuous ones.

    Returns
    -------
    (NoiseEstimate, NoiseEstimate)
        Of the first and of the second. Their sum is the noise of the difference. Each share
        comes from the covariance of the difference with that exposure.
    """
    first, second = first.to(torch.float64), second.to(torch.float64)
    side = choose_block_side(tuple(first.shape[-2:]))
    means = cut_blocks((first + second) / 2, side)[0]
    residuals = cut_blocks(first - second, side)[1]
    along_y, along_x, surface_fraction = estimate_autocorrelation(residuals)
    variances = residuals.square().mean((1, 2)) / (1 - surface_fraction)
    gain, intercept = fit_robust_variance_model(means, variances)
    value_range = float(max(first.max(), second.max()) - min(first.min(), second.min()))
    floor = max(
        0.5 * float(variances.quantile(0.05)), grey_level_step**2 / 6, 2 * (1e-4 * value_range) ** 2
    )
    ratio = _estimate_noise_ratio(first, second)
    fraction = min(max(1 / (1 + ratio), MIN_NOISE_FRACTION), 1 - MIN_NOISE_FRACTION)
    difference_noise = NoiseEstimate(
        gain=gain, intercept=intercept, floor=floor, along_y=along_y, along_x=along_x
    )
    return difference_noise.scale(fraction), difference_noise.scale(1 - fraction)


def _estimate_noise_ratio(first: Tensor, second: Tensor) -> float:
    """Return the ratio of the second's noise variance to the first's, in the same intensities.

    The covariance of the difference with each exposure is that exposure's noise variance. It is
    computed in flat blocks, where structure adds least variance to it.
    """
    first, second = first.to(torch.float64), second.to(torch.float64)
    side = choose_block_side(tuple(first.shape[-2:]))
    means, blocks = cut_blocks((first + second) / 2, side)
    flat = select_flat_blocks(means, blocks)
    first_blocks, second_blocks = (cut_blocks(item, side)[1][flat] for item in (first, second))
    difference = first_blocks - second_blocks
    variances = [
        float((item * exposure).mean())
        for item, exposure in ((difference, first_blocks), (-difference, second_blocks))
    ]
    total = sum(variances)
    if total <= 0:
        return 1.0
    fraction = min(max(variances[0] / total, MIN_NOISE_FRACTION), 1 - MIN_NOISE_FRACTION)
    return (1 - fraction) / fraction


def measure_dark_level(frames: Tensor) -> DarkLevel:
    """Measure offset and read noise from dark frames.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X). With two or more, the noise is measured from differences between frames, so
        offsets of single pixels do not contribute. With one, it is half the range of the middle
        68 % of the values, so hot pixels do not contribute.

    References
    ----------
    EMVA Standard 1288, Release 4.0, 2021, section 6 (temporal noise from differences).
    """
    frames = frames.to(torch.float64)
    if len(frames) > 1:
        variance = float((frames[1:] - frames[:-1]).square().mean()) / 2
        return DarkLevel(float(frames.mean()), variance**0.5)
    values = frames.flatten().sort()[0]
    low, high = (
        values[int(quantile * (len(values) - 1))]
        for quantile in (_TAIL_FRACTION, 1 - _TAIL_FRACTION)
    )
    return DarkLevel(float(frames.mean()), float(high - low) / 2)


def has_varied_light(frames: Tensor) -> bool:
    """Return whether the brightness of flat frames (N, Y, X) varies enough to tell a gain alone."""
    mean = frames.to(torch.float64).mean(0, keepdim=True)
    side = min(DCT_SIDE, *mean.shape[1:])
    means = cut_patches(mean, side, side).mean((1, 2))
    low, high = means.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
    return bool(high - low >= MIN_BRIGHTNESS_RANGE * high.abs())


def measure_photon_transfer(frames: Tensor, dark: DarkLevel | None) -> tuple[float, float]:
    """Measure gain and intercept from frames of constant light.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X), N >= 2; consecutive frames must have the same exposure.
    dark : DarkLevel or None
        Offset and read noise. With them, one brightness is sufficient; without, the frames'
        brightness must vary.

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
    difference, mean = frames[1:] - frames[:-1], (frames[1:] + frames[:-1]) / 2
    side = min(DCT_SIDE, *frames.shape[1:])
    means = cut_patches(mean, side, side).mean((1, 2))
    # the variance within a block excludes flicker of the lamp, which changes all its pixels
    variances = cut_patches(difference, side, side).var((1, 2)) / 2
    if dark is None:
        return fit_robust_variance_model(means, variances)
    signal = means - dark.offset
    gain = float((variances - dark.read_noise**2).sum() / signal.sum().clamp(min=1e-300))
    gain = max(gain, 0.0)
    return gain, compute_intercept(gain, dark.offset, dark.read_noise**2)


def measure_shared_noise(frames: Tensor) -> float:
    """Return the correlation of the noise of successive frames, at least 0: their mean over pairs.

    It is that of diagonal differences, in the blocks where it is lowest: structure that stays
    raises it elsewhere.

    Parameters
    ----------
    frames : Tensor
        (T, Y, X), two or more.
    """
    if min(frames.shape[1:]) <= FRAME_BLOCK_SIDE:
        return 0.0
    differences = _subtract_diagonally(frames.double())
    first, second = differences[:-1], differences[1:]
    products, *powers = (
        avg_pool2d(pair[:, None], FRAME_BLOCK_SIDE).flatten(1)
        for pair in (first * second, first.square(), second.square())
    )
    scales = (powers[0] * powers[1]).sqrt()
    correlations = torch.where(scales > 0, products / scales.clamp(min=1e-300), 0.0)
    return float(correlations.quantile(UNLIKE_BLOCK_FRACTION, 1).clamp(min=0).mean())


def measure_frame_spread(frames: Tensor, compute_variance: Callable[[Tensor], Tensor]) -> float:
    """Return how much the noise of frames differs at one brightness: most over least.

    Of each frame it is the median of blocks of the variance of diagonal differences, in units of
    the variance that was measured for their brightness.

    Parameters
    ----------
    frames : Tensor
        (T, Y, X), of at least `DCT_SIDE` + 1 pixels a side.
    compute_variance : callable
        Measured variance of the noise at these brightnesses, (K,) each.
    """
    ratios = []
    for frame in frames.double():
        blocks = cut_patches(frame[None, :-1, :-1], DCT_SIDE, DCT_SIDE)
        fine = cut_patches(_subtract_diagonally(frame)[None] / 2, DCT_SIDE, DCT_SIDE)
        variances = fine.square().mean((1, 2)) / compute_variance(blocks.mean((1, 2)))
        ratios.append(float(variances.median()))
    return max(ratios) / max(min(ratios), 1e-30)


def _subtract_diagonally(frames: Tensor) -> Tensor:
    """Return the difference of both diagonals of each 2 x 2 pixels of (..., Y, X)."""
    top, bottom = frames[..., :-1, :], frames[..., 1:, :]
    return top[..., :-1] - top[..., 1:] - bottom[..., :-1] + bottom[..., 1:]
