"""What judges a fit and when it ends: how many pixels, how long without a better one, what mean."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Share of the pixels that judging may take from the fit, as a rule and at most: 4 % of a
#: 512 x 512 image are 10,000 judges, whose mean loss is sure to 0.02.
HELD_OUT_SHARE = 0.04
MOST_HELD_OUT = 0.25
#: Fewest held-out pixels that tell a better picture from a worse one.
LEAST_HELD_OUT = 48
#: Fewest pixels that judge; the share that may judge is doubled until there are as many.
LEAST_JUDGES = 8
#: Iterations without a better held-out loss before a fit ends, as a share of its budget.
PATIENCE = 0.35
#: Decay of the running average of outputs, at most.
OUTPUT_AVERAGE = 0.99
#: Share of its iterations over which outputs are averaged, where they are few: with 0.99 a fit of
#: 200 remembers how it began (two deblurred crops of 96 x 96: 0.5 and 1.2 dB less than with 0.95).
REMEMBERED = 0.1


def held_out_share(block: tuple[int, ...], pixels: int) -> float:
    """Share of the pixels that judging takes: enough of them, and no more than can be spared.

    Parameters
    ----------
    block : tuple of int
        Size of the hidden block around each.
    pixels : int
        How many were measured.
    """
    return min(MOST_HELD_OUT, max(HELD_OUT_SHARE, LEAST_HELD_OUT * prod(block) / pixels))


def judges(
    grid: tuple[int, ...],
    block: tuple[int, ...],
    share: float,
    seed: int,
    *,
    origin: tuple[int, ...] | None = None,
    patch: tuple[int, ...] | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Choose the judging pixels, and enough of them.

    Parameters
    ----------
    grid, block, share, seed, origin, patch
        As for `held_out_centres`; the share is where to begin.
    allowed : Tensor or None
        (1, 1, *grid), 1 where a pixel may judge; None if all may.

    Returns
    -------
    Tensor
        (1, 1, *grid) float32, 1 at the judges; on the device of `allowed`.
    """
    from napari_dip.engine.holdout import held_out_centres

    while True:
        centres = held_out_centres(grid, block, share, seed, origin, patch)
        if allowed is not None:
            centres = centres.to(allowed.device) * allowed
        if share >= 0.5 or float(centres.sum()) >= LEAST_JUDGES:
            return centres
        share *= 2


def output_average(iterations: int) -> float:
    """Tell the decay of the running average of outputs in a fit of that many iterations."""
    return min(OUTPUT_AVERAGE, 1 - 1 / max(REMEMBERED * iterations, 1.5))


def patience(iterations: int, report_every: int) -> int:
    """Tell how many iterations without a better held-out loss end a fit.

    Parameters
    ----------
    iterations : int
        Of the whole fit.
    report_every : int
        Iterations between two judgements, of which it waits for four at least.
    """
    return max(4 * report_every, int(PATIENCE * iterations))
