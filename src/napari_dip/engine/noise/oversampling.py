"""Images with more pixels than detail: seen, halved, and brought back to their size.

Where a camera's or a program's interpolation has spread noise over several pixels, the finest
frequencies hold neither picture nor noise. Half as many pixels along each axis hold all there is,
with noise that is nearly white, and a fit to them sees twice as far for a quarter of the work.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.correlation import subtract_image_correlation
from napari_dip.engine.operators.detector import (
    LanczosDownsample,
    apply_iterative_backprojection,
    interpolate_cubic,
)
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from napari_dip.engine.noise.estimate import NoiseEstimate

#: Pixels that become one, along each axis.
HALVING_FACTOR = 2
#: Side of the blocks whose finest frequencies are looked at: many against the grain of noise.
FINE_BLOCK_SIDE = 8
#: How many times more of the finest frequencies all blocks may have than the usual one, in units
#: of the noise at their brightness. FMD widefield has 1.06 to 1.07, cell and moon of scikit-image
#: with noise blurred by one pixel 1.05 and 1.08 (chance alone gives 1.05); camera and coins, whose
#: edges reach to the finest frequencies, 1.9 and 1.8.
MAX_FINE_EXCESS = 1.15
#: Share of the noise that the finest frequencies of the usual block hold if it is nearly white:
#: 0.70 to 0.86 (FMD confocal and two-photon, five photographs with noise of 25; by theory 0.75),
#: 0.55 if it was blurred by half a pixel; FMD widefield has 0.20 to 0.26, noise blurred by 0.7
#: pixels 0.24.
#: Then they do hold noise, and a block of fur is as like the next one as noise is (the middle of
#: baboon, noise of 25: 24.77 dB at half its size, 25.89 as it is). More than all of the noise says
#: that too little was measured of it, and nothing of where it lies (cc15 d800_iso1600_3: 35.73 dB
#: at half its size, 35.05 as it is).
WHITE_SHARE_RANGE = (0.5, 1.0)
#: Share of the blocks, of those with most, that do not count: hot pixels.
_HOT_BLOCK_SHARE = 0.01


def halve_resolution(planes: Tensor) -> Tensor:
    """(..., Y, X) -> (..., Y / 2, X / 2), odd sides rounded up."""
    height, width = planes.shape[-2:]
    flat = planes.reshape(-1, 1, height, width)
    even = F.pad(flat, (0, width % HALVING_FACTOR, 0, height % HALVING_FACTOR), mode="replicate")
    answer = LanczosDownsample((HALVING_FACTOR, HALVING_FACTOR))(even)
    return answer.reshape(*planes.shape[:-2], *answer.shape[-2:])  # type: ignore[no-any-return]


def double_resolution(planes: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, Y, X) -> (B, C, *size): the picture that `halve_resolution` makes that one from."""
    factors = (HALVING_FACTOR, HALVING_FACTOR)
    finer = apply_iterative_backprojection(
        interpolate_cubic(planes, factors),
        planes,
        LanczosDownsample(factors),
        lambda residual: interpolate_cubic(residual, factors),
    )
    return finer[..., : size[0], : size[1]]


def upscale_estimate(estimate: Estimate, size: tuple[int, ...] | None) -> Estimate:
    """Bring an estimate to a size; the variance, which is slow, by repetition. None: as it is."""
    if size is None:
        return estimate
    mean, variance = double_resolution(estimate.mean, size), estimate.log_variance
    if variance is not None:
        variance = variance.repeat_interleave(HALVING_FACTOR, -2).repeat_interleave(
            HALVING_FACTOR, -1
        )
        variance = variance[..., : size[0], : size[1]]
    return Estimate(mean, variance)


def halve_noise_estimate(noise: NoiseEstimate) -> NoiseEstimate:
    """Give the noise of `halve_resolution` planes from that of the planes themselves.

    Measured anew on FMD WideField_BPAE_R and B, 256 x 256 pixels, the variance was 7 to 28 % too
    low, as few blocks are left and the finest frequencies hold little; passed on, it is 9 to 15 %
    too high and 8 to 11 % too low.
    """
    along = [
        _halve_lags(subtract_image_correlation(item)) for item in (noise.along_y, noise.along_x)
    ]
    share = prod(kept for kept, _ in along)
    return replace(
        noise,
        gain=share * noise.gain,
        intercept=share * noise.intercept,
        floor=share * noise.floor,
        along_y=along[0][1],
        along_x=along[1][1],
        gain_error=share * noise.gain_error,
        read_noise=None if noise.read_noise is None else sqrt(share) * noise.read_noise,
    )


def _halve_lags(along: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    """Share of the variance that halving one axis keeps, and the lags that it leaves."""
    side = 16 * HALVING_FACTOR
    apart = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    lags = torch.zeros(side)
    lags[: len(along) + 1] = torch.tensor((1.0, *along))
    halving = LanczosDownsample((1, HALVING_FACTOR))(torch.eye(side)[None, None])[0, 0].T
    covariance = (halving @ lags[apart] @ halving.T)[side // (2 * HALVING_FACTOR)]
    middle = side // (2 * HALVING_FACTOR)
    kept = float(covariance[middle])
    return kept, tuple((covariance[middle + 1 : middle + 1 + len(along)] / kept).tolist())


def is_oversampled(planes: Tensor, noise: NoiseEstimate) -> bool:
    """Whether the finest frequencies of planes (P, Y, X) hold no picture, and little of the noise.

    Then each block has as much of them as the noise at its brightness has, whatever it shows.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).
    noise : NoiseEstimate
        Measured on them.
    """
    planes = planes.to(torch.float32)
    finest = (
        planes - double_resolution(halve_resolution(planes)[:, None], tuple(planes.shape[1:]))[:, 0]
    )
    power, means = (
        F.avg_pool2d(item[:, None], FINE_BLOCK_SIDE).flatten() for item in (finest**2, planes)
    )
    variance = noise.variance(means)
    shares = (power / variance).sort().values
    usual = float(shares[len(shares) // 2])
    all_but_odd = shares[: max(1, round((1 - _HOT_BLOCK_SHARE) * len(shares)))]
    white = WHITE_SHARE_RANGE[0] < usual < WHITE_SHARE_RANGE[1]
    return not white and float(all_but_odd.mean()) <= MAX_FINE_EXCESS * usual
