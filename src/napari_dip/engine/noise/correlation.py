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

from napari_dip.engine.noise.flat_blocks import covariances, surface_put_back
from napari_dip.engine.noise.variance_model import SIDE, cosines

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Energies that blocks may have, in units of their finest frequencies': a step of a tenth.
GRID = tuple(0.7 * 1.1**place for place in range(110))
#: Share of the blocks whose energy ends the least one: as few as may be flat.
LEAST_SHARE = 0.05
#: Energy below which the least one is that of white noise, and share of the blocks that may be
#: calmer than correlated noise: on FMD widefield, a quarter lies below the bulk.
AS_WHITE, CALM_SHARE = 1.6, 0.3
#: Places of the grid below and above it that belong to it, and those above that are texture.
_BELOW, _ABOVE, _TEXTURE = 3, 3, (5, 15)
#: Degrees of freedom of a block that are begun with, as of noise correlated by 0.6 at lag 1: with
#: more, correlated noise looks as uneven as texture, and stays so.
START = 60.0
#: Share of all blocks that lie about the least energy from which on they are taken for noise
#: alone, and below which they are taken for texture all through; between them, in between. FMD
#: widefield noise reaches 1.0, coins and cells in white noise 0.8 to 0.95.
SURE, UNSURE = 0.6, 0.35
#: Share up to which so little agrees that there is no telling, and from which on all that the
#: blocks say is believed; in between, part of it.
TOLD, BELIEVED = 0.2, 0.4
#: Highest correlation at lag 1 that noise is believed to have; pictures have more.
MOST = 0.86
#: Lag 1 below which there is nothing to tell apart.
_WHITE = 0.15
_ROUNDS, _REFINEMENTS = 40, 3
#: How far below the least energy the lowest one may lie.
_LOWEST_SHARE, _LOWER = 0.03, 0.95


class Reach(NamedTuple):
    """Autocorrelation of the noise.

    Attributes
    ----------
    along_y, along_x : tuple of float
        At lags 1, 2, ...
    least_y, least_x : tuple of float
        The same, if all that may be texture is texture: what the variance is read with.
    agree : float
        Share of the blocks that agree with it.
    told : bool
        Whether they tell noise from texture; if not, all lags are zero.
    """

    along_y: tuple[float, ...]
    along_x: tuple[float, ...]
    least_y: tuple[float, ...]
    least_x: tuple[float, ...]
    agree: float
    told: bool


def of_noise_alone(along: tuple[float, ...]) -> tuple[float, ...]:
    """Take off what is left of the picture, which reaches further than noise: the longest lag.

    On FMD WideField_BPAE_R and B, 0.62, 0.22, 0.12, 0.06 and 0.59, 0.17, 0.08, 0.05 are left of the
    lags along Y; against the mean of 50 shots, noise has 0.62, 0.22, 0.13, 0.08.

    Parameters
    ----------
    along : tuple of float
        Autocorrelation at lags 1, 2, ...
    """
    rest = min(max(0.0, along[-1]), MOST) if along else 0.0
    return tuple(max(0.0, (lag - rest) / (1 - rest)) for lag in along)


def noise_reach(residuals: Tensor, variance: Tensor) -> Reach:
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
    raw_y, raw_x = (one / variance[:, None] for one in covariances(residuals))
    grid = torch.tensor(GRID, dtype=energy.dtype)
    freedom, most = START, 0.8 * side**2
    for _ in range(_REFINEMENTS):  # the law's width needs the correlation, which needs the law
        odds, belief = _sorted(energy.clamp(GRID[0] / 2, 2 * GRID[-1]), grid, min(freedom, most))
        found = odds.cumsum(0)
        place = _place(odds, found)
        low = slice(max(0, place - _BELOW), place + _ABOVE)
        flat, rough = (
            belief[:, part].sum(1) for part in (low, slice(*(place + one for one in _TEXTURE)))
        )
        agree = float(odds[low.start : low.stop + 1].sum())
        level = float((energy * flat).sum() / flat.sum())
        lowest = _LOWER * float(grid[int((found >= _LOWEST_SHARE).nonzero()[0])])
        lowest = min(level, max(lowest, min(level, 1.0)))
        doubt = min(1.0, max(0.0, (SURE - agree) / (SURE - UNSURE)))
        y, x, _ = _at(
            level - doubt * (level - lowest), level, raw_y, raw_x, energy, flat, rough, side
        )
        freedom = side**2 / prod(1 + 2 * sum(v * v for v in one if v > 0.05) for one in (y, x))
    least_y, least_x, _ = _at(lowest, level, raw_y, raw_x, energy, flat, rough, side)
    first = max(y[0], x[0])
    if first > _WHITE and (agree < TOLD or first > MOST):
        none = (0.0,) * len(y)
        return Reach(none, none, none, none, agree, told=False)
    if first > _WHITE:
        believed = min(1.0, (agree - TOLD) / (BELIEVED - TOLD))
        y, x, least_y, least_x = (
            tuple(round(believed * value, 4) for value in one) for one in (y, x, least_y, least_x)
        )
    return Reach(y, x, least_y, least_x, agree, told=True)


def band_shares(along_y: Sequence[float], along_x: Sequence[float]) -> Tensor:
    """Power of noise of variance 1 in each coefficient of the cosine transform, (SIDE, SIDE)."""
    basis = cosines()
    place = torch.arange(SIDE)
    apart = (place[:, None] - place[None]).abs()
    along = []
    for one in (along_y, along_x):
        line = torch.zeros(SIDE, dtype=basis.dtype)
        line[0] = 1
        kept = [value if abs(value) > 0.03 else 0.0 for value in one[: SIDE - 1]]
        line[1 : 1 + len(kept)] = torch.tensor(kept, dtype=basis.dtype)
        along.append((basis @ line[apart] @ basis.T).diagonal())
    return along[0][:, None] * along[1][None]


def _place(odds: Tensor, found: Tensor) -> int:
    """Where on the grid the noise lies: at the least energy, or else where most blocks agree.

    Blocks that hold no more than their finest frequencies tell of white noise, however few. Where
    there are none, noise is correlated or all is texture, and single blocks may be calm by chance.
    """
    least = int((found >= LEAST_SHARE).nonzero()[0])
    if GRID[least] < AS_WHITE:
        return least
    last = int((found >= CALM_SHARE).nonzero()[0])
    agree = odds.unfold(0, _BELOW + _ABOVE + 1, 1).sum(1)
    first = min(max(0, least - _BELOW), len(agree) - 1)
    most = int(agree[first : max(first, last - _BELOW) + 1].argmax())
    return max(least, first + most + _BELOW)


def _sorted(energy: Tensor, grid: Tensor, freedom: float) -> tuple[Tensor, Tensor]:
    """How often each energy of the grid occurs, (G,), and where each block belongs, (K, G)."""
    ratio = energy[:, None] / grid
    law = freedom / 2 * (ratio.log() - ratio)
    law = (law - law.amax(1, keepdim=True)).exp()
    odds = torch.full_like(grid, 1 / len(grid))
    belief = law
    for _ in range(_ROUNDS):
        belief = law * odds
        belief = belief / belief.sum(1, keepdim=True)
        odds = belief.mean(0)
    return odds, belief


def _at(
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
    return surface_put_back(y / noise, x / noise, side)
