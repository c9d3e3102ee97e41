"""An image cut into blocks: which of them are flat, and how their residuals hang together."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

#: Side of a block in pixels: wide against the correlation (3 or 4 lags), small against cells.
BLOCK = 16
#: Share of the blocks of one brightness that count as flat, and number of brightness classes.
FLAT_SHARE, CLASSES = 0.2, 12
#: Longest lag looked at, in pixels; camera and scanner noise seen so far ends at 4.
LAGS = 5
#: Coefficients of the slow surface that is taken out of each block.
COEFFICIENTS = 6
#: Correlation below which a lag does not count towards what the surface took.
_NONE = 0.02
#: Most that the surface is reckoned to take: beyond that the correlation fills the block.
_MOST_LOST = 0.3


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
    basis = _slow_surface(side).to(blocks)  # (COEFFICIENTS, side**2), orthonormal
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
    surfaces = torch.stack([torch.ones_like(y), y, x, y * x, y**2, x**2]).reshape(COEFFICIENTS, -1)
    basis: Tensor = torch.linalg.qr(surfaces.T)[0]
    return basis.T.contiguous()


def covariances(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances of each block's residuals along Y and X, (K, lags) each, from lag 1 on."""
    side = residuals.shape[1]
    lags = range(1, min(LAGS, side - 2) + 1)

    def along(dim: int) -> Tensor:
        pairs = (
            residuals.narrow(dim, 0, side - lag) * residuals.narrow(dim, lag, side - lag)
            for lag in lags
        )
        return torch.stack([pair.mean((1, 2)) for pair in pairs], 1)

    return along(1), along(2)


def autocorrelation(residuals: Tensor) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Autocorrelation along Y and X, and the share of variance that the surface took away."""
    variance = residuals.square().mean((1, 2))
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    raw_y, raw_x = ((one * weight[:, None]).mean(0) for one in covariances(residuals))
    return surface_put_back(raw_y, raw_x, residuals.shape[1])


def surface_put_back(
    raw_y: Tensor, raw_x: Tensor, side: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Undo what taking out a surface did to autocorrelations (lags,) along Y and X.

    A surface of six coefficients removes six times the summed correlation from each block's
    variance and from its covariance at every lag; both are put back.
    """
    lost = COEFFICIENTS / side**2
    for _ in range(3):  # the sum needs the corrected values, which need the sum
        y, x = ([value * (1 - lost) + lost for value in raw.tolist()] for raw in (raw_y, raw_x))
        total = prod(1 + 2 * sum(value for value in axis if value > _NONE) for axis in (y, x))
        lost = min(_MOST_LOST, COEFFICIENTS * total / side**2)
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
