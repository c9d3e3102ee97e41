"""Which blocks of an image tell of its noise: none with holes, clipped pixels or padding."""

from __future__ import annotations

from math import inf, isfinite

import torch
from torch import Tensor

#: Least share of the pixels that must lie on the lowest or highest grey value, and how many times
#: as many as on the next, before that is taken for clipping.
PILE, HEAP = 2e-4, 2.0
#: Share of clipped pixels that a block may hold, and that the blocks of its brightness may hold:
#: of normal noise cut at 2.6 standard deviations, 0.5 %, its variance loses 2 %.
MOST_CLIPPED, MOST_AT_BRIGHTNESS = 0.03, 0.005
#: Share of a group's blocks, the flattest, that its clipped share is read in: where an edge runs
#: through a block, its dark side is clipped at any mean. With all blocks, 24 of 1,024 were left of
#: kodim08 (256 x 256, noise of 25), whose noise then was 95 in green.
FLATTEST = 0.25
#: Groups of like brightness that the clipped share is read in.
_GROUPS = 64
#: Limits of an image of which nothing was cut off.
WHOLE = (-inf, inf)


def clipping_limits(planes: Tensor) -> tuple[float, float]:
    """Find the lowest and the highest grey value if the image was cut off there, else infinities.

    Where noise is cut, its whole tail lies on the last grey value, many times as much as on the
    next one, while the next ones are alike. Rare photons pile up on the lowest value, too, but
    each count is then rarer than the one before.
    """
    values, counts = planes.flatten().unique(return_counts=True)
    if len(values) < 4:
        return WHOLE
    total = int(counts.sum())
    limits = list(WHOLE)
    for last, near, far in ((0, 1, 2), (-1, -2, -3)):
        heap, first, second = (int(counts[place]) for place in (last, near, far))
        if heap > PILE * total and heap > HEAP * first and first < HEAP * second:
            limits[last] = float(values[last])
    return limits[0], limits[-1]


def telling(
    planes: Tensor, side: int, every: int, known: Tensor | None, limits: tuple[float, float]
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
    known : Tensor or None
        (P, Y, X), true where a pixel was measured.
    limits : (float, float)
        As `clipping_limits` finds them.

    Returns
    -------
    Tensor
        (K,), bool.
    """

    def blocks(of: Tensor) -> Tensor:
        return of.unfold(1, side, every).unfold(2, side, every).reshape(-1, side**2)

    cut = blocks(planes)
    tell = cut.amax(1) > cut.amin(1)
    if known is not None:
        tell &= blocks(known).all(1)
    means, spread = cut.mean(1), cut.var(1)
    middle = float(means.median())
    for limit in filter(isfinite, limits):
        share = (cut == limit).to(planes.dtype).mean(1)
        tell &= share <= MOST_CLIPPED
        order = means.argsort(stable=True)
        groups = order.tensor_split(min(_GROUPS, max(1, len(order) // 8)))
        bad = [
            means[one] for one in groups if _flat_mean(share[one], spread[one]) > MOST_AT_BRIGHTNESS
        ]
        low = limit < middle
        for one in bad:
            tell &= (means > one.max()) if low and one.max() < middle else torch.ones_like(tell)
            tell &= (means < one.min()) if not low and one.min() > middle else torch.ones_like(tell)
    return tell


def _flat_mean(share: Tensor, spread: Tensor) -> float:
    """Mean clipped share of the flattest blocks of a group."""
    count = max(1, round(FLATTEST * len(share)))
    return float(share[spread.argsort(stable=True)[:count]].mean())
