"""What one image tells of its noise: variance = gain x signal + intercept, and correlation.

Read from the flattest blocks of the image: at each brightness those whose coarse structure is
least, with a slow surface taken out. Fine structure does not choose them, so neither variance nor
correlation is biased by the choice as it would be by taking the least variance itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

#: Side of a block in pixels: wide against the correlation (3 or 4 lags), small against cells.
BLOCK = 16
#: Share of the blocks of one brightness that count as flat, and number of brightness classes.
FLAT_SHARE, CLASSES = 0.2, 12
#: Longest lag looked at, in pixels; camera and scanner noise seen so far ends at 4.
LAGS = 5
#: Lag-1 correlation above which noise is treated as correlated. On seven FMD fields the white
#: ones measure up to 0.18 (structure that was left), the correlated ones from 0.59 on; a confocal
#: scan along its lines 0.25 to 0.33.
CORRELATED = 0.22
#: Correlation that is too small to be learned from; ends the hidden block.
NEGLIGIBLE = 0.08
#: Widest half block. On FMD widefield, whose noise reaches 4 pixels, blocks of 7 x 7 beat 5 x 5
#: by 1 dB and 11 x 11 by 1.4 dB: past that the fit has too little to see.
MOST_REACH = 3
#: Blocks that must fit side by side into the image, or too little of it is left to see.
SIDES_PER_BLOCK = 6
#: Fewest blocks without holes that tell the noise, and the standard deviation reckoned with, as a
#: share of the range, where there are fewer: with noise and structure alike unknown, any value
#: that keeps the loss of order one does, since a constant changes neither fit nor stop.
LEAST_BLOCKS, UNTOLD = 8, 0.01
#: Least share of a variance that is taken for white: a hundredth of its standard deviation.
LEAST_WHITE = 1e-4
#: Coefficients of the slow surface that is taken out of each block.
_COEFFICIENTS = 6


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """Noise of one channel, in the units of the planes that it was measured in.

    Attributes
    ----------
    gain, intercept : float
        The variance at signal m is `gain * m + intercept`.
    floor : float, > 0
        Least variance to reckon with.
    along_y, along_x : tuple of float
        Autocorrelation at lags 1, 2, ... along each axis.
    """

    gain: float
    intercept: float
    floor: float
    along_y: tuple[float, ...]
    along_x: tuple[float, ...]


def measure_noise(planes: Tensor, step: float, known: Tensor | None = None) -> NoiseEstimate:
    """Measure variance and correlation of the noise.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X): one image, or more of one detector; at least 16 pixels a side.
    step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    known : Tensor or None
        (P, Y, X), true where a pixel was measured; None if all were.

    Returns
    -------
    NoiseEstimate
        White and of `UNTOLD` of the range where too few blocks are without holes to tell.

    References
    ----------
    Foi et al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399 (variance as a line in the
    mean, fitted to smooth parts of one image).
    """
    side = block_side(tuple(planes.shape[1:]))
    means, residuals = cut_blocks(planes.to(torch.float64), side)
    spread = float(planes.max() - planes.min())
    if known is not None:
        whole = cut_blocks(known.to(torch.float64), side)[0] == 1
        means, residuals = means[whole], residuals[whole]
        if len(means) < LEAST_BLOCKS:
            variance = max((UNTOLD * spread) ** 2, step**2 / 12)
            return NoiseEstimate(0.0, variance, variance, (0.0,) * LAGS, (0.0,) * LAGS)
    flat = flattest(means, residuals)
    means, residuals = means[flat], residuals[flat]
    along_y, along_x, lost = autocorrelation(residuals)
    variances = (residuals**2).mean((1, 2)) / (1 - lost)
    gain, intercept = variance_line(means, variances)
    lowest = float(variances.quantile(0.05))
    floor = max(0.5 * lowest, step**2 / 12, (1e-4 * spread) ** 2)
    return NoiseEstimate(gain, intercept, floor, along_y, along_x)


def white_part(estimate: NoiseEstimate) -> NoiseEstimate:
    """Keep the part of a variance that ends within one pixel; what reaches further is picture.

    Covariances at one pixel and two are prolonged to none by a straight line; what the variance
    has beyond that is white: the nugget of a variogram.

    Parameters
    ----------
    estimate : NoiseEstimate

    References
    ----------
    Matheron, Principles of geostatistics, Economic Geology 58, 1963,
    doi:10.2113/gsecongeo.58.8.1246.
    """
    axes = (estimate.along_y, estimate.along_x)
    share = min(max(1 - max(2 * one - two for one, two, *_ in axes), LEAST_WHITE), 1)
    none = (0.0,) * len(estimate.along_y)
    return replace(
        estimate,
        gain=share * estimate.gain,
        intercept=share * estimate.intercept,
        floor=share * estimate.floor,
        along_y=none,
        along_x=none,
    )


def hidden_block(estimates: list[NoiseEstimate], grid: tuple[int, int]) -> tuple[int, int]:
    """Size of a block, along Y and X, whose centre shares no noise with what lies outside.

    Parameters
    ----------
    estimates : list of NoiseEstimate
        One for each channel; the widest correlation decides.
    grid : tuple of int
        Size of the image, which must stay wide against the block.
    """
    reach_y = max(_reach(list(one.along_y)) for one in estimates)
    reach_x = max(_reach(list(one.along_x)) for one in estimates)
    most_y, most_x = (max(0, (side // SIDES_PER_BLOCK - 1) // 2) for side in grid)
    return 2 * min(reach_y, most_y) + 1, 2 * min(reach_x, most_x) + 1


def _reach(correlation: list[float]) -> int:
    """Half width of the hidden block along one axis, 0 if the noise is white.

    A picture's own correlation falls slowly, so what is left of it at the longest lag is taken
    off before the first lag is judged.
    """
    plateau = min(max(0.0, correlation[-1]), 0.9)
    if (correlation[0] - plateau) / (1 - plateau) <= CORRELATED:
        return 0
    reach = 1
    for value in correlation[1:MOST_REACH]:
        if value <= NEGLIGIBLE:
            break
        reach += 1
    return reach


def block_side(grid: tuple[int, ...]) -> int:
    """Side of the blocks that an image of that size is cut into."""
    return BLOCK if min(grid) >= 2 * BLOCK else BLOCK // 2


def cut_blocks(planes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut planes (P, Y, X) into overlapping blocks: means (K,), and what a slow surface leaves.

    Returns
    -------
    means : Tensor
        (K,).
    residuals : Tensor
        (K, side, side).
    """
    blocks = planes.unfold(1, side, side // 2).unfold(2, side, side // 2).reshape(-1, side**2)
    basis = _slow_surface(side).to(blocks)  # (_COEFFICIENTS, side**2), orthonormal
    residuals = blocks - (blocks @ basis.T) @ basis
    return blocks.mean(1), residuals.reshape(-1, side, side)


def flattest(means: Tensor, residuals: Tensor) -> Tensor:
    """Choose the blocks of each brightness whose coarse structure is least; their indices.

    Saturated and padded blocks tell nothing and are left out, unless there are no others.
    """
    side = residuals.shape[1]
    usable = (residuals.square().mean((1, 2)) > 0).nonzero()[:, 0]
    if not len(usable):
        return torch.arange(len(means), device=means.device)
    coarse = residuals.reshape(-1, 4, side // 4, 4, side // 4).mean((2, 4)).square().mean((1, 2))
    chosen = []
    by_brightness = usable[means[usable].argsort(stable=True)]
    for part in by_brightness.tensor_split(min(CLASSES, max(1, len(usable) // 4))):
        count = max(1, round(FLAT_SHARE * len(part)))
        chosen.append(part[coarse[part].argsort(stable=True)[:count]])
    return torch.cat(chosen)


def _slow_surface(side: int) -> Tensor:
    """Orthonormal surfaces of second degree on a block: what is slow enough to be picture."""
    ramp = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    surfaces = torch.stack([torch.ones_like(y), y, x, y * x, y**2, x**2]).reshape(_COEFFICIENTS, -1)
    basis: Tensor = torch.linalg.qr(surfaces.T)[0]
    return basis.T.contiguous()


def autocorrelation(residuals: Tensor) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Autocorrelation along Y and X, and the share of variance that the surface took away.

    Taking out a surface of six coefficients removes six times the summed correlation from each
    block's variance and from its covariance at every lag; both are put back.
    """
    side = residuals.shape[1]
    variance = residuals.square().mean((1, 2))
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    lags = range(1, min(LAGS, side - 2) + 1)

    def along(dim: int) -> list[float]:
        kept = [side - lag for lag in lags]
        pairs = (
            residuals.narrow(dim, 0, count) * residuals.narrow(dim, lag, count)
            for lag, count in zip(lags, kept, strict=True)
        )
        return [float((pair.mean((1, 2)) * weight).mean()) for pair in pairs]

    raw_y, raw_x = along(1), along(2)
    lost = _COEFFICIENTS / side**2
    for _ in range(3):  # the sum needs the corrected values, which need the sum
        y, x = ([value * (1 - lost) + lost for value in raw] for raw in (raw_y, raw_x))
        total = prod(1 + 2 * sum(value for value in axis if value > 0.02) for axis in (y, x))
        lost = min(0.3, _COEFFICIENTS * total / side**2)
    return tuple(round(value, 4) for value in y), tuple(round(value, 4) for value in x), lost


def variance_line(means: Tensor, variances: Tensor) -> tuple[float, float]:
    """Gain and intercept by robust least squares; relative errors count alike at all levels."""
    gain, intercept = 0.0, float(variances.median())
    least = max(float(variances.quantile(0.02)), 1e-30)
    spread = float(means.max() - means.min())
    if len(means) < 4 or spread <= 1e-6 * (abs(float(means.mean())) + 1e-30):
        return gain, intercept
    weight = torch.ones_like(means)
    for _ in range(20):  # converges in five to ten
        centre = (weight * means).sum() / weight.sum()
        level = (weight * variances).sum() / weight.sum()
        slope = (weight * (means - centre) * (variances - level)).sum() / (
            weight * (means - centre) ** 2
        ).sum().clamp(min=1e-30)
        gain, intercept = float(slope), float(level - slope * centre)
        expected = (gain * means + intercept).clamp(min=least)
        error = (variances - expected) / expected
        width = 1.4826 * float((error - error.median()).abs().median()) + 1e-3
        weight = (1.5 * width / error.abs().clamp(min=1e-9)).clamp(max=1) / expected**2
    if gain < 0:  # noise that falls with brightness is structure or saturation
        return 0.0, float(variances.median())
    return gain, intercept
