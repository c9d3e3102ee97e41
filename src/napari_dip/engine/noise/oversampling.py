"""Detect oversampled images, halve their resolution, and restore it.

Interpolation leaves neither image nor noise in the finest frequencies. An image of half the size
then has the same content and nearly white noise. A fit to it has twice the receptive field at a
quarter of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.correlation import make_correlation_matrix, subtract_image_correlation
from napari_dip.engine.operators.imaging import (
    LanczosDownsample,
    apply_iterative_backprojection,
    interpolate_cubic,
)
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate

#: Downscaling factor along each axis.
HALVING_FACTOR = 2
#: Side in pixels of the blocks whose finest frequencies are measured; wide against the correlation.
FINE_BLOCK_SIDE = 8
#: Maximum ratio of mean to median energy of the finest frequencies over blocks, in noise variances:
#: at most 1.08 in oversampled images, 1.8 and more with sharp edges (docs/constants.md).
MAX_FINE_EXCESS = 1.15
#: Maximum correlation, over blocks, of the logarithms of that energy and of the energy between a
#: quarter and a half of the highest frequency: at most 0.27 in 55 crops whose finest frequencies
#: hold noise alone, 0.30 to 0.95 in 31, all but one with detail there (docs/constants.md).
MAX_DETAIL_CORRELATION = 0.29
#: Share of the noise variance in the finest frequencies for which the resolution is not halved:
#: 0.70 to 0.86 in nearly white noise, at most 0.26 in oversampled noise (docs/constants.md).
WHITE_FRACTION_RANGE = (0.5, 1.0)
#: Lower bound of the energy of a block in noise variances: rounding errors have no logarithm.
MIN_BLOCK_FRACTION = 1e-9
#: Share of the blocks with most energy that is left out because of hot pixels.
_HOT_BLOCK_FRACTION = 0.01
#: Maximum energy of an enlarged image between a half and a whole of the highest frequency, in units
#: of that between a quarter and a half: at most 0.38 if enlarged, else 0.46 (docs/constants.md).
MAX_ENLARGED_RATIO = 0.4
#: Share of the blocks whose ratio is at most `MAX_ENLARGED_RATIO`: a few hold the seams of linear
#: interpolation.
ENLARGED_FRACTION = 0.95
#: Minimum energy of a block between a quarter and a half of the highest frequency, in units of the
#: mean. In blocks with less, rounding errors decide.
MIN_BLOCK_ENERGY = 0.01


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HalfResolutionFit:
    """Describe a fit at half resolution.

    Attributes
    ----------
    upscaled_grid : tuple of int
        Size of the result.
    camera_noise : CameraNoise or None
        Joint noise model of red, green and blue, for a colour camera.
    full_size_measurement : Tensor or None
        (1, 3, *upscaled_grid): the measurement at full size, for a colour camera.
    """

    upscaled_grid: tuple[int, ...]
    camera_noise: CameraNoise | None = None
    full_size_measurement: Tensor | None = None


def halve_resolution(planes: Tensor) -> Tensor:
    """Downscale (..., Y, X) to (..., Y / 2, X / 2), with odd sides rounded up."""
    height, width = planes.shape[-2:]
    planes_as_batch = planes.reshape(-1, 1, height, width)
    padded = F.pad(
        planes_as_batch, (0, width % HALVING_FACTOR, 0, height % HALVING_FACTOR), mode="replicate"
    )
    halved = LanczosDownsample((HALVING_FACTOR, HALVING_FACTOR))(padded)
    return halved.reshape(*planes.shape[:-2], *halved.shape[-2:])


def double_resolution(planes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Upscale (B, C, Y, X) to (B, C, *size), consistent with `halve_resolution`."""
    finer = _upscale(planes, (HALVING_FACTOR, HALVING_FACTOR))
    return finer[..., : size[0], : size[1]]


def _upscale(planes: Tensor, factors: tuple[int, int]) -> Tensor:
    """Upscale (B, C, Y, X) by these factors, consistent with `LanczosDownsample`."""
    return apply_iterative_backprojection(
        interpolate_cubic(planes, factors),
        planes,
        LanczosDownsample(factors),
        lambda residual: interpolate_cubic(residual, factors),
    )


def upscale_estimate(estimate: Estimate, size: tuple[int, ...] | None) -> Estimate:
    """Upscale an estimate to a size, its variance by repetition; unchanged if `size` is None."""
    if size is None:
        return estimate
    mean, variance = double_resolution(estimate.mean, size), estimate.log_variance
    if variance is not None:
        variance = variance.repeat_interleave(HALVING_FACTOR, -2).repeat_interleave(
            HALVING_FACTOR, -1
        )
        variance = variance[..., : size[0], : size[1]]
    return Estimate(mean, variance)


def halve_noise_estimate(noise_estimate: NoiseEstimate) -> NoiseEstimate:
    """Return the noise of planes after `halve_resolution`, computed from that before.

    Its variance is 9 to 15 % too high on FMD WideField_BPAE_R and 8 to 11 % too low on B (256 x 256
    pixels). Measured in the halved planes, it was 7 to 28 % too low, since few blocks remain and
    the finest frequencies have little energy.
    """
    return _resample_noise(
        noise_estimate, lambda along: _halve_correlation(subtract_image_correlation(along))
    )


def _halve_correlation(along: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    """Return variance share and autocorrelation after halving one axis."""
    side = 16 * HALVING_FACTOR
    halving = LanczosDownsample((1, HALVING_FACTOR))(torch.eye(side)[None, None])[0, 0].T
    correlations = make_correlation_matrix(along, side).to(halving)
    covariance = (halving @ correlations @ halving.T)[side // (2 * HALVING_FACTOR)]
    middle = side // (2 * HALVING_FACTOR)
    variance_fraction = float(covariance[middle])
    return variance_fraction, tuple(
        (covariance[middle + 1 : middle + 1 + len(along)] / variance_fraction).tolist()
    )


def double_noise_estimate(noise_estimate: NoiseEstimate) -> NoiseEstimate:
    """Return the noise of planes after `double_resolution`, computed from that before.

    Its variance and correlation are means over the pixels, of which every second is measured.
    """
    return _resample_noise(noise_estimate, _double_correlation)


def _resample_noise(
    noise_estimate: NoiseEstimate,
    resample: Callable[[tuple[float, ...]], tuple[float, tuple[float, ...]]],
) -> NoiseEstimate:
    """Return noise with the variance shares and correlations of two resampled axes."""
    fraction_y, along_y = resample(noise_estimate.along_y)
    fraction_x, along_x = resample(noise_estimate.along_x)
    fraction, read_noise = fraction_y * fraction_x, noise_estimate.read_noise
    return replace(
        noise_estimate.scale(fraction),
        along_y=along_y,
        along_x=along_x,
        read_noise=None if read_noise is None else sqrt(fraction) * read_noise,
        read_noise_error=sqrt(fraction) * noise_estimate.read_noise_error,
    )


def _double_correlation(along: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    """Return variance share and autocorrelation after doubling one axis."""
    side = 8 * HALVING_FACTOR
    doubled = _upscale(torch.eye(side)[None, None], (1, HALVING_FACTOR))[0, 0].T
    covariance = doubled @ make_correlation_matrix(along, side).to(doubled) @ doubled.T
    phases = range(side - HALVING_FACTOR // 2, side + HALVING_FACTOR // 2)
    lags = [
        float(torch.stack([covariance[phase, phase + lag] for phase in phases]).mean())
        for lag in range(len(along) + 1)
    ]
    return lags[0], tuple(lag / lags[0] for lag in lags[1:])


def is_enlarged(planes: Tensor) -> bool:
    """Return whether an image was enlarged at least twice: a quarter of its pixels tell all others.

    Structure and noise are both without fine frequencies then, whatever they are.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).
    """
    sides = [side // (2 * FINE_BLOCK_SIDE) * 2 * FINE_BLOCK_SIDE for side in planes.shape[1:]]
    planes = planes[:, : sides[0], : sides[1]].to(torch.float32)
    if all(map(repeats_pixels, planes)):
        return True
    halved = halve_resolution(planes)
    fine, coarse = (
        F.avg_pool2d(_subtract_halved(item).square()[:, None], side).flatten()
        for item, side in ((planes, 2 * FINE_BLOCK_SIDE), (halved, FINE_BLOCK_SIDE))
    )
    is_telling = coarse > MIN_BLOCK_ENERGY * coarse.mean()
    ratios = fine[is_telling] / coarse[is_telling]
    return bool(is_telling.any()) and float(ratios.quantile(ENLARGED_FRACTION)) <= (
        MAX_ENLARGED_RATIO
    )


def measure_halving_loss(planes: Tensor) -> float:
    """Return the mean square of what (P, Y, X) loses by `halve_resolution`."""
    return float(_subtract_halved(planes.to(torch.float32)).square().mean())


def _subtract_halved(planes: Tensor) -> Tensor:
    """Return what planes lose by `halve_resolution`."""
    size = tuple(planes.shape[1:])
    return planes - double_resolution(halve_resolution(planes)[:, None], size)[:, 0]


def repeats_pixels(plane: Tensor) -> bool:
    """Return whether each pixel has the value of a neighbour, in pairs along both axes."""
    pairs = (
        [item[:, phase : item.shape[1] - 1 : 2] == item[:, phase + 1 :: 2] for phase in (0, 1)]
        for item in (plane, plane.mT)
    )
    return all(any(bool(phase.all()) for phase in axis) for axis in pairs)


def is_oversampled(planes: Tensor, noise_estimate: NoiseEstimate) -> bool:
    """Return whether the finest frequencies hold no image structure and little of the noise.

    Without structure, their energy is proportional to the noise variance in every block, whether
    the block holds coarser detail or not.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).
    noise_estimate : NoiseEstimate
        Measured in these planes.
    """
    planes = planes.to(torch.float32)
    finest = _subtract_halved(planes)
    coarser = planes - finest
    power, means, coarser_means, coarser_squares = (
        F.avg_pool2d(item[:, None], FINE_BLOCK_SIDE).flatten()
        for item in (finest**2, planes, coarser, coarser**2)
    )
    variance = noise_estimate.compute_variance(means)
    detail = (coarser_squares - coarser_means**2) / variance
    logarithms = torch.stack([power / variance, detail]).clamp(min=MIN_BLOCK_FRACTION).log()
    fractions = (power / variance).sort().values
    median = float(fractions[len(fractions) // 2])
    typical_fractions = fractions[: max(1, round((1 - _HOT_BLOCK_FRACTION) * len(fractions)))]
    is_white = WHITE_FRACTION_RANGE[0] < median < WHITE_FRACTION_RANGE[1]
    return (
        not is_white
        and float(typical_fractions.mean()) <= MAX_FINE_EXCESS * median
        and not float(torch.corrcoef(logarithms)[0, 1]) > MAX_DETAIL_CORRELATION  # nan: equal
    )
