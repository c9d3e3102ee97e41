"""How far noise reaches from pixel to pixel, told apart from texture, which does so too.

Noise hangs together in the same way everywhere, and its energy varies from block to block no more
than chance lets it; texture does neither. So the energy that blocks have in excess of what their
finest frequencies tell is sorted: the least that many blocks share is noise, and what lies above
is texture, whose own correlation is then taken off.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.flat_blocks import compute_covariances, correct_surface_bias
from napari_dip.engine.noise.variance_model import DCT_SIDE, make_dct_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Energies that blocks may have, in units of their finest frequencies': a step of a tenth.
ENERGY_GRID = tuple(0.7 * 1.1**place for place in range(110))
#: Share of the blocks whose energy ends the least one: as few as may be flat.
MIN_ENERGY_SHARE = 0.05
#: Energy below which the least one is that of white noise, and share of the blocks that may be
#: calmer than correlated noise: on FMD widefield, a quarter lies below the bulk.
MAX_WHITE_ENERGY, MAX_CALM_SHARE = 1.6, 0.3
#: Places of the grid below and above it that belong to it, and those above that are texture.
_PLACES_BELOW, _PLACES_ABOVE, _TEXTURE_PLACES = 3, 3, (5, 15)
#: Degrees of freedom of a block that are begun with, as of noise correlated by 0.6 at lag 1: with
#: more, correlated noise looks as uneven as texture, and stays so.
INITIAL_FREEDOM = 60.0
#: Share of all blocks that lie about the least energy from which on they are taken for noise
#: alone, and below which they are taken for texture all through; between them, in between. FMD
#: widefield noise reaches 1.0, coins and cells in white noise 0.8 to 0.95.
MIN_NOISE_ONLY_SHARE, MAX_TEXTURE_ONLY_SHARE = 0.6, 0.35
#: Share up to which so little agrees that there is no telling, and from which on all that the
#: blocks say is believed; in between, part of it.
MAX_UNRELIABLE_SHARE, MIN_RELIABLE_SHARE = 0.2, 0.4
#: Highest correlation at lag 1 that noise is believed to have; pictures have more.
MAX_NOISE_CORRELATION = 0.86
#: Lag 1 below which there is nothing to tell apart.
_MAX_WHITE_CORRELATION = 0.15
_EM_ROUNDS, _REFINEMENTS = 40, 3
#: How far below the least energy the lowest one may lie.
_MIN_LOWEST_SHARE, _LOWEST_ENERGY_FACTOR = 0.03, 0.95


class NoiseCorrelation(NamedTuple):
    """Autocorrelation of the noise.

    Attributes
    ----------
    along_y, along_x : tuple of float
        At lags 1, 2, ...
    least_y, least_x : tuple of float
        The same, if all that may be texture is texture: what the variance is read with.
    agree : float
        Share of the blocks that agree with it.
    is_reliable : bool
        Whether they tell noise from texture; if not, all lags are zero.
    """

    along_y: tuple[float, ...]
    along_x: tuple[float, ...]
    least_y: tuple[float, ...]
    least_x: tuple[float, ...]
    agree: float
    is_reliable: bool


def subtract_image_correlation(along: tuple[float, ...]) -> tuple[float, ...]:
    """Take off what is left of the picture, which reaches further than noise: the longest lag.

    On FMD WideField_BPAE_R and B, 0.62, 0.22, 0.12, 0.06 and 0.59, 0.17, 0.08, 0.05 are left of the
    lags along Y; against the mean of 50 shots, noise has 0.62, 0.22, 0.13, 0.08.

    Parameters
    ----------
    along : tuple of float
        Autocorrelation at lags 1, 2, ...
    """
    rest = min(max(0.0, along[-1]), MAX_NOISE_CORRELATION) if along else 0.0
    return tuple(max(0.0, (lag - rest) / (1 - rest)) for lag in along)


def measure_noise_correlation(residuals: Tensor, variance: Tensor) -> NoiseCorrelation:
    """Measure how noise hangs together.

    Parameters
    ----------
    residuals : Tensor
        (K, side, side) of blocks, a slow surface taken out.
    variance : Tensor
        (K,), > 0: what their finest frequencies tell of the noise there.

    References
    ----------
    Laird, Nonparametric maximum likelihood estimation of a mixing distribution, J. Am. Stat.
    Assoc. 73, 1978, doi:10.1080/01621459.1978.10480103 (the sorting of energies).
    """
    side = residuals.shape[1]
    energy = residuals.square().mean((1, 2)) / variance
    raw_y, raw_x = (covariance / variance[:, None] for covariance in compute_covariances(residuals))
    grid = torch.tensor(ENERGY_GRID, dtype=energy.dtype)
    freedom, most = INITIAL_FREEDOM, 0.8 * side**2
    for _ in range(_REFINEMENTS):  # the law's width needs the correlation, which needs the law
        odds, belief = _fit_energy_mixture(
            energy.clamp(ENERGY_GRID[0] / 2, 2 * ENERGY_GRID[-1]), grid, min(freedom, most)
        )
        cumulative_odds = odds.cumsum(0)
        place = _locate_noise_energy(odds, cumulative_odds)
        low = slice(max(0, place - _PLACES_BELOW), place + _PLACES_ABOVE)
        flat, rough = (
            belief[:, part].sum(1)
            for part in (low, slice(*(place + item for item in _TEXTURE_PLACES)))
        )
        agree = float(odds[low.start : low.stop + 1].sum())
        level = float((energy * flat).sum() / flat.sum())
        lowest = _LOWEST_ENERGY_FACTOR * float(
            grid[int((cumulative_odds >= _MIN_LOWEST_SHARE).nonzero()[0])]
        )
        lowest = min(level, max(lowest, min(level, 1.0)))
        doubt = min(
            1.0,
            max(
                0.0,
                (MIN_NOISE_ONLY_SHARE - agree) / (MIN_NOISE_ONLY_SHARE - MAX_TEXTURE_ONLY_SHARE),
            ),
        )
        y, x, _ = _estimate_autocorrelation(
            level - doubt * (level - lowest), level, raw_y, raw_x, energy, flat, rough, side
        )
        freedom = side**2 / prod(1 + 2 * sum(v * v for v in item if v > 0.05) for item in (y, x))
    least_y, least_x, _ = _estimate_autocorrelation(
        lowest, level, raw_y, raw_x, energy, flat, rough, side
    )
    first = max(y[0], x[0])
    if first > _MAX_WHITE_CORRELATION and (
        agree < MAX_UNRELIABLE_SHARE or first > MAX_NOISE_CORRELATION
    ):
        none = (0.0,) * len(y)
        return NoiseCorrelation(none, none, none, none, agree, is_reliable=False)
    if first > _MAX_WHITE_CORRELATION:
        believed = min(
            1.0, (agree - MAX_UNRELIABLE_SHARE) / (MIN_RELIABLE_SHARE - MAX_UNRELIABLE_SHARE)
        )
        y, x, least_y, least_x = (
            tuple(round(believed * value, 4) for value in item) for item in (y, x, least_y, least_x)
        )
    return NoiseCorrelation(y, x, least_y, least_x, agree, is_reliable=True)


def compute_band_power(along_y: Sequence[float], along_x: Sequence[float]) -> Tensor:
    """Power of noise of variance 1 in each coefficient of the cosine transform, (SIDE, SIDE)."""
    basis = make_dct_matrix()
    place = torch.arange(DCT_SIDE)
    apart = (place[:, None] - place[None]).abs()
    along = []
    for item in (along_y, along_x):
        line = torch.zeros(DCT_SIDE, dtype=basis.dtype)
        line[0] = 1
        kept = [value if abs(value) > 0.03 else 0.0 for value in item[: DCT_SIDE - 1]]
        line[1 : 1 + len(kept)] = torch.tensor(kept, dtype=basis.dtype)
        along.append((basis @ line[apart] @ basis.T).diagonal())
    return along[0][:, None] * along[1][None]


def _locate_noise_energy(odds: Tensor, cumulative_odds: Tensor) -> int:
    """Where on the grid the noise lies: at the least energy, or else where most blocks agree.

    Blocks that hold no more than their finest frequencies tell of white noise, however few. Where
    there are none, noise is correlated or all is texture, and single blocks may be calm by chance.
    """
    least = int((cumulative_odds >= MIN_ENERGY_SHARE).nonzero()[0])
    if ENERGY_GRID[least] < MAX_WHITE_ENERGY:
        return least
    last = int((cumulative_odds >= MAX_CALM_SHARE).nonzero()[0])
    agree = odds.unfold(0, _PLACES_BELOW + _PLACES_ABOVE + 1, 1).sum(1)
    first = min(max(0, least - _PLACES_BELOW), len(agree) - 1)
    most = int(agree[first : max(first, last - _PLACES_BELOW) + 1].argmax())
    return max(least, first + most + _PLACES_BELOW)


def _fit_energy_mixture(energy: Tensor, grid: Tensor, freedom: float) -> tuple[Tensor, Tensor]:
    """How often each energy of the grid occurs, (G,), and where each block belongs, (K, G)."""
    ratio = energy[:, None] / grid
    law = freedom / 2 * (ratio.log() - ratio)
    law = (law - law.amax(1, keepdim=True)).exp()
    odds = torch.full_like(grid, 1 / len(grid))
    belief = law
    for _ in range(_EM_ROUNDS):
        belief = law * odds
        belief = belief / belief.sum(1, keepdim=True)
        odds = belief.mean(0)
    return odds, belief


def _estimate_autocorrelation(
    noise: float,
    level: float,
    raw_y: Tensor,
    raw_x: Tensor,
    energy: Tensor,
    flat: Tensor,
    rough: Tensor,
    side: int,
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Autocorrelations if of the flat blocks' energy `level` only `noise` is noise.

    What rough blocks have more than flat ones shows how texture hangs together.
    """

    def mean(of: Tensor, weight: Tensor) -> Tensor:
        return (of * weight[:, None]).sum(0) / weight.sum()

    y, x = mean(raw_y, flat), mean(raw_x, flat)
    many = float(rough.sum()) > max(3.0, 0.02 * len(energy))
    if many and noise < level:
        more = max(float((energy * rough).sum() / rough.sum()) - level, 0.2 * level)
        y = y - ((mean(raw_y, rough) - y) / more).clamp(0, 1) * (level - noise)
        x = x - ((mean(raw_x, rough) - x) / more).clamp(0, 1) * (level - noise)
    else:
        noise = level
    return correct_surface_bias(y / noise, x / noise, side)


#: Half side of the square of neighbours that foretell its middle.
PREDICTION_RADIUS = 2
#: Part of the pixels of each brightness class that is looked at, where neighbours vary least;
#: number of classes; side of the mean by which the calmest places are found; fewest pixels.
CALM_PIXEL_SHARE, PREDICTION_BRIGHTNESS_CLASSES, CALM_WINDOW_SIDE, MIN_CALM_PIXELS = 0.2, 4, 9, 200
#: What white noise leaves there, as a share of its variance: 0.77 to 0.82 on moon, cell, clock and
#: camera of scikit-image with noise of 8 and 20, since places that are calm by chance are chosen.
WHITE_RESIDUAL_SHARE = 0.77
#: Ridge that keeps the least squares solvable, as a share of the neighbours' variance.
RIDGE = 1e-3


def measure_prediction_residual(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Measure the variance that neighbours do not foretell, where a plane is calm.

    Parameters
    ----------
    plane : Tensor
        (Y, X).

    Returns
    -------
    brightness, variance : Tensor
        (CLASSES,) each, in the plane's units.
    """
    plane = plane.double()
    side = 2 * PREDICTION_RADIUS + 1
    around = F.unfold(plane[None, None], side)[0]  # (side², pixels)
    middle = side**2 // 2
    neighbours = torch.cat([around[:middle], around[middle + 1 :]])
    mean = neighbours.mean(0)
    size = tuple(length - 2 * PREDICTION_RADIUS for length in plane.shape)
    rest = neighbours.var(0).reshape(1, 1, *size)
    pad = CALM_WINDOW_SIDE // 2
    rest = F.avg_pool2d(F.pad(rest, (pad,) * 4, mode="replicate"), CALM_WINDOW_SIDE, 1).flatten()
    levels, variances = [], []
    for pixels in mean.argsort(stable=True).tensor_split(PREDICTION_BRIGHTNESS_CLASSES):
        count = max(min(MIN_CALM_PIXELS, len(pixels)), round(CALM_PIXEL_SHARE * len(pixels)))
        calm = pixels[rest[pixels].argsort(stable=True)[:count]]
        predictors = (neighbours[:, calm] - mean[calm]).T
        centres = around[middle, calm] - mean[calm]
        products = predictors.T @ predictors
        products += RIDGE * products.diagonal().mean().clamp(min=1e-12) * torch.eye(len(products))
        remaining = centres - predictors @ torch.linalg.solve(products, predictors.T @ centres)
        levels.append(mean[calm].mean())
        variances.append(remaining.square().mean())
    return torch.stack(levels), torch.stack(variances)


def compute_residual_share(along_y: Sequence[float], along_x: Sequence[float]) -> float:
    """Compute the share of the variance that is not foretold, of noise with such a correlation.

    Parameters
    ----------
    along_y, along_x : sequence of float
        Autocorrelation at lags 1, 2, ...
    """
    side = 2 * PREDICTION_RADIUS + 1
    lags = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    axes = []
    for along in (along_y, along_x):
        values = torch.zeros(side, dtype=torch.float64)
        values[0] = 1
        count = min(len(along), side - 1)
        values[1 : count + 1] = torch.tensor(along[:count], dtype=torch.float64)
        axes.append(values[lags])
    covariance = torch.kron(axes[0], axes[1])
    middle = side**2 // 2
    others = [place for place in range(side**2) if place != middle]
    turn = torch.eye(side**2, dtype=torch.float64)
    turn[:, others] -= 1 / len(others)  # less the neighbours' mean
    covariance = turn @ covariance @ turn.T
    neighbour_covariance = covariance[others][:, others]
    neighbour_covariance += RIDGE * neighbour_covariance.diagonal().mean() * torch.eye(len(others))
    cross_covariance = covariance[others, middle]
    share = covariance[middle, middle] - cross_covariance @ torch.linalg.solve(
        neighbour_covariance, cross_covariance
    )
    return WHITE_RESIDUAL_SHARE * max(float(share), 0.02)
