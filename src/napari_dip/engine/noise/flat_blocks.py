"""An image cut into blocks: which of them are flat, and how their residuals hang together.

Which blocks of an image tell of its noise: none with holes, clipped pixels or padding.
"""

from __future__ import annotations

from math import inf, isfinite, prod

import torch
from torch import Tensor

#: Side of a block in pixels: wide against the correlation (3 or 4 lags), small against cells.
BLOCK_SIDE = 16
#: Share of the blocks of one brightness that count as flat, and number of brightness classes.
FLAT_SHARE, FLAT_BRIGHTNESS_CLASSES = 0.2, 12
#: Longest lag looked at, in pixels; camera and scanner noise seen so far ends at 4.
MAX_LAG = 5
#: Coefficients of the slow surface that is taken out of each block.
SURFACE_COEFFICIENTS = 6
#: Correlation below which a lag does not count towards what the surface took.
_MIN_COUNTED_CORRELATION = 0.02
#: Most that the surface is reckoned to take: beyond that the correlation fills the block.
_MAX_SURFACE_LOSS = 0.3


def choose_block_side(grid: tuple[int, ...]) -> int:
    """Side of the blocks that an image of that size is cut into."""
    return BLOCK_SIDE if min(grid) >= 2 * BLOCK_SIDE else BLOCK_SIDE // 2


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
    basis = _make_surface_basis(side).to(blocks)  # (COEFFICIENTS, side**2), orthonormal
    residuals = blocks - (blocks @ basis.T) @ basis
    return blocks.mean(1), residuals.reshape(-1, side, side)


def select_flat_blocks(means: Tensor, residuals: Tensor) -> Tensor:
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
    for part in by_brightness.tensor_split(min(FLAT_BRIGHTNESS_CLASSES, max(1, len(usable) // 4))):
        count = max(1, round(FLAT_SHARE * len(part)))
        chosen.append(part[coarse[part].argsort(stable=True)[:count]])
    return torch.cat(chosen)


def _make_surface_basis(side: int) -> Tensor:
    """Orthonormal surfaces of second degree on a block: what is slow enough to be picture."""
    ramp = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    surfaces = torch.stack([torch.ones_like(y), y, x, y * x, y**2, x**2]).reshape(
        SURFACE_COEFFICIENTS, -1
    )
    basis: Tensor = torch.linalg.qr(surfaces.T)[0]
    return basis.T.contiguous()


def compute_covariances(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances of each block's residuals along Y and X, (K, lags) each, from lag 1 on."""
    side = residuals.shape[1]
    lags = range(1, min(MAX_LAG, side - 2) + 1)

    def along(dim: int) -> Tensor:
        pairs = (
            residuals.narrow(dim, 0, side - lag) * residuals.narrow(dim, lag, side - lag)
            for lag in lags
        )
        return torch.stack([pair.mean((1, 2)) for pair in pairs], 1)

    return along(1), along(2)


def estimate_autocorrelation(
    residuals: Tensor,
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Autocorrelation along Y and X, and the share of variance that the surface took away."""
    variance = residuals.square().mean((1, 2))
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    raw_y, raw_x = (
        (covariance * weight[:, None]).mean(0) for covariance in compute_covariances(residuals)
    )
    return correct_surface_bias(raw_y, raw_x, residuals.shape[1])


def correct_surface_bias(
    raw_y: Tensor, raw_x: Tensor, side: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Undo what taking out a surface did to autocorrelations (lags,) along Y and X.

    A surface of six coefficients removes six times the summed correlation from each block's
    variance and from its covariance at every lag; both are put back.
    """
    lost = SURFACE_COEFFICIENTS / side**2
    for _ in range(3):  # the sum needs the corrected values, which need the sum
        y, x = ([value * (1 - lost) + lost for value in raw.tolist()] for raw in (raw_y, raw_x))
        total = prod(
            1 + 2 * sum(value for value in axis if value > _MIN_COUNTED_CORRELATION)
            for axis in (y, x)
        )
        lost = min(_MAX_SURFACE_LOSS, SURFACE_COEFFICIENTS * total / side**2)
    return tuple(round(value, 4) for value in y), tuple(round(value, 4) for value in x), lost


def fit_robust_variance_model(means: Tensor, variances: Tensor) -> tuple[float, float]:
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


#: Least share of the pixels that must lie on the lowest or highest grey value, and how many times
#: as many as on the next, before that is taken for clipping.
MIN_CLIPPED_SHARE, MIN_CLIPPED_RATIO = 2e-4, 2.0
#: Share of clipped pixels that a block may hold, and that the blocks of its brightness may hold:
#: of normal noise cut at 2.6 standard deviations, 0.5 %, its variance loses 2 %.
MAX_CLIPPED_IN_BLOCK, MAX_CLIPPED_AT_BRIGHTNESS = 0.03, 0.005
#: Share of a group's blocks, the flattest, that its clipped share is read in: where an edge runs
#: through a block, its dark side is clipped at any mean. With all blocks, 24 of 1,024 were left of
#: kodim08 (256 x 256, noise of 25), whose noise then was 95 in green.
FLAT_GROUP_SHARE = 0.25
#: Groups of like brightness that the clipped share is read in.
_GROUPS = 64
#: Limits of an image of which nothing was cut off.
NO_CLIPPING = (-inf, inf)


def find_clipping_limits(planes: Tensor) -> tuple[float, float]:
    """Find the lowest and the highest grey value if the image was cut off there, else infinities.

    Where noise is cut, its whole tail lies on the last grey value, many times as much as on the
    next one, while the next ones are alike. Rare photons pile up on the lowest value, too, but
    each count is then rarer than the one before.
    """
    values, counts = planes.flatten().unique(return_counts=True)
    if len(values) < 4:
        return NO_CLIPPING
    total = int(counts.sum())
    limits = list(NO_CLIPPING)
    for last, near, far in ((0, 1, 2), (-1, -2, -3)):
        heap, first, second = (int(counts[place]) for place in (last, near, far))
        if (
            heap > MIN_CLIPPED_SHARE * total
            and heap > MIN_CLIPPED_RATIO * first
            and first < MIN_CLIPPED_RATIO * second
        ):
            limits[last] = float(values[last])
    return limits[0], limits[-1]


def select_informative_blocks(
    planes: Tensor, side: int, every: int, measured_mask: Tensor | None, limits: tuple[float, float]
) -> Tensor:
    """Blocks that were measured whole, vary, and are of a brightness that is not clipped.

    Blocks are not left out for a clipped pixel of their own: in those that are left, noise would
    be less than it is. What their brightness has in common decides.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).
    side, every : int
        Of the blocks, and from one to the next, in pixels.
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured.
    limits : (float, float)
        As `find_clipping_limits` finds them.

    Returns
    -------
    Tensor
        (K,), bool.
    """

    def blocks(of: Tensor) -> Tensor:
        return of.unfold(1, side, every).unfold(2, side, every).reshape(-1, side**2)

    cut = blocks(planes)
    tell = cut.amax(1) > cut.amin(1)
    if measured_mask is not None:
        tell &= blocks(measured_mask).all(1)
    means, spread = cut.mean(1), cut.var(1)
    middle = float(means.median())
    for limit in filter(isfinite, limits):
        share = (cut == limit).to(planes.dtype).mean(1)
        tell &= share <= MAX_CLIPPED_IN_BLOCK
        order = means.argsort(stable=True)
        groups = order.tensor_split(min(_GROUPS, max(1, len(order) // 8)))
        bad = [
            means[group]
            for group in groups
            if _average_flattest_blocks(share[group], spread[group]) > MAX_CLIPPED_AT_BRIGHTNESS
        ]
        low = limit < middle
        for item in bad:
            tell &= (means > item.max()) if low and item.max() < middle else torch.ones_like(tell)
            tell &= (
                (means < item.min()) if not low and item.min() > middle else torch.ones_like(tell)
            )
    return tell


def _average_flattest_blocks(share: Tensor, spread: Tensor) -> float:
    """Mean clipped share of the flattest blocks of a group."""
    count = max(1, round(FLAT_GROUP_SHARE * len(share)))
    return float(share[spread.argsort(stable=True)[:count]].mean())
