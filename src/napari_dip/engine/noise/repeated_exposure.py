"""What two measurements of one object tell of each other: intensities, and noise without doubt.

What two shots do not share is noise. Their difference holds no picture, so it tells how strong
the noise is at each brightness and how far it reaches, with nothing in it to be mistaken for
noise; one image alone leaves that to guesses at its flattest parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.noise.estimate import NoiseEstimate
from napari_dip.engine.noise.flat_blocks import (
    choose_block_side,
    cut_blocks,
    estimate_autocorrelation,
    fit_robust_variance_model,
    select_flat_blocks,
)

#: Rounds of the robust fits; they settle in five to ten.
ROBUST_ITERATIONS = 20
#: Residuals count the less the larger they are, and not at all beyond so many standard deviations:
#: Tukey's constant, which loses 5 % of the certainty on normal errors.
TUKEY = 4.685
#: Least share of the noise that either shot may be told to have: at a tenth, the other shot's own
#: word is next to nothing already.
MIN_NOISE_SHARE = 0.1


class IntensityMatch(NamedTuple):
    """How the second's intensities follow from the first's: second = gain x first + offset."""

    gain: float
    offset: float


def match_intensities(first: Tensor, second: Tensor) -> IntensityMatch:
    """Fit gain and offset between two shots, with noise in both.

    A plain regression on the noisy first would find too small a gain. Means of blocks carry
    little noise, and what is left is shared out between both axes by Deming's regression, with
    the ratio of the two noise variances as the shots themselves tell it. Blocks that do not
    follow (something moved) do not count.

    Parameters
    ----------
    first, second : Tensor
        (P, Y, X) each, planes of one channel.

    Raises
    ------
    ValueError
        If the first holds one value only.

    References
    ----------
    Deming, Statistical adjustment of data, 1943. Beaton, Tukey, The fitting of power series,
    Technometrics 16(2), 1974, doi:10.1080/00401706.1974.10489171 (the weights).
    """
    side = choose_block_side(tuple(first.shape[-2:]))
    x, y = (cut_blocks(item.to(torch.float64), side)[0] for item in (first, second))
    if float(x.std()) == 0:
        raise ValueError("The first shot holds one value only.")
    # a start that a moved part cannot pull away: quartiles instead of means and spreads
    low, middle, high = (torch.stack([x, y]).quantile(part, 1) for part in (0.25, 0.5, 0.75))
    gain = float((high - low)[1] / (high - low)[0].clamp(min=1e-300))
    if not 0 < gain < float("inf"):
        gain = float(y.std() / x.std())
    offset = float(middle[1]) - gain * float(middle[0])
    for _ in range(ROBUST_ITERATIONS):
        error = (y - gain * x - offset).abs()
        width = TUKEY * 1.4826 * float(error.median()) + 1e-9 * float(y.abs().max())
        weight = (1 - (error / width) ** 2).clamp(min=0) ** 2
        total = weight.sum()
        x0, y0 = (weight * x).sum() / total, (weight * y).sum() / total
        xx = float((weight * (x - x0) ** 2).sum())
        yy = float((weight * (y - y0) ** 2).sum())
        xy = float((weight * (x - x0) * (y - y0)).sum())
        if xy <= 0:
            break
        # of the noise: as much stronger as the picture is, times what the shots tell beyond that
        ratio = gain**2 * _estimate_noise_ratio(first, (second - offset) / gain)
        lean = yy - ratio * xx
        gain = (lean + (lean**2 + 4 * ratio * xy**2) ** 0.5) / (2 * xy)
        offset = float(y0) - gain * float(x0)
    return IntensityMatch(gain, offset)


def measure_repeated_exposure(
    first: Tensor, second: Tensor, step: float
) -> tuple[NoiseEstimate, NoiseEstimate]:
    """Measure the noise of two shots of one object.

    Parameters
    ----------
    first, second : Tensor
        (P, Y, X) each, planes of one channel, in the same intensities.
    step : float
        Distance of neighbouring grey values of the first, 0 if there are no steps.

    Returns
    -------
    (NoiseEstimate, NoiseEstimate)
        Of the first and of the second. Their sum is the noise of the difference; the shares are
        read from the covariance of the difference with each of them.
    """
    first, second = first.to(torch.float64), second.to(torch.float64)
    side = choose_block_side(tuple(first.shape[-2:]))
    means = cut_blocks((first + second) / 2, side)[0]
    residuals = cut_blocks(first - second, side)[1]
    along_y, along_x, lost = estimate_autocorrelation(residuals)
    variances = residuals.square().mean((1, 2)) / (1 - lost)
    gain, intercept = fit_robust_variance_model(means, variances)
    spread = float(max(first.max(), second.max()) - min(first.min(), second.min()))
    floor = max(0.5 * float(variances.quantile(0.05)), step**2 / 6, 2 * (1e-4 * spread) ** 2)
    ratio = _estimate_noise_ratio(first, second)
    share = min(max(1 / (1 + ratio), MIN_NOISE_SHARE), 1 - MIN_NOISE_SHARE)
    ours, theirs = (
        NoiseEstimate(
            gain=part * gain,
            intercept=part * intercept,
            floor=part * floor,
            along_y=along_y,
            along_x=along_x,
        )
        for part in (share, 1 - share)
    )
    return ours, theirs


def _estimate_noise_ratio(first: Tensor, second: Tensor) -> float:
    """Noise variance of the second over that of the first, both in the same intensities.

    The difference shares nothing but its own noise with each shot, so their covariance is that
    noise's variance. Read where there is least structure to disturb it.
    """
    first, second = first.to(torch.float64), second.to(torch.float64)
    side = choose_block_side(tuple(first.shape[-2:]))
    means, blocks = cut_blocks((first + second) / 2, side)
    flat = select_flat_blocks(means, blocks)
    ours, theirs = (cut_blocks(item, side)[1][flat] for item in (first, second))
    remaining = ours - theirs
    variances = [
        float((item * other).mean()) for item, other in ((remaining, ours), (-remaining, theirs))
    ]
    total = sum(variances)
    if total <= 0:
        return 1.0
    share = min(max(variances[0] / total, MIN_NOISE_SHARE), 1 - MIN_NOISE_SHARE)
    return (1 - share) / share
