"""Whether a result is as bright as its input everywhere, told from the two pictures alone.

No noise that was measured comes into it: a noise measured wrong destroys a picture and agrees with
what was destroyed. What a denoising takes away has a mean near zero in each part of the picture,
and how near is told by how much the means of smaller parts of it scatter.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Side of the parts, and how many parts each is cut into along an axis. The smaller ones are as
#: wide as noise is correlated in FMD's widefield shots: their means scatter as noise makes them.
SIDE, CUTS = 16, 4
#: Standard errors from which on a part is far off: of 16 smaller parts, 1 in 900 is by chance.
FAR = 4.0
#: Share of such parts that results may have. Eight good ones (four shots of FMD, camera and coins
#: with noise of 5 and 20, 256 x 256, fast) have 0 to 0.031; a photograph whose noise was measured
#: four times too strong 0.08 to 0.20 (kodim08, noise of 25).
MOST_FAR = 0.05
#: Fewest parts that tell.
LEAST_PARTS = 16


def far_parts(
    left: npt.NDArray[np.floating], known: npt.NDArray[np.bool_] | None
) -> tuple[float, int]:
    """Share of the parts of a residual whose mean is far from zero, and how many parts there are.

    Parameters
    ----------
    left : ndarray
        (..., Y, X): measurement less result, of one channel.
    known : ndarray of bool or None
        Where there is a measurement; None: everywhere. Parts with a hole do not count.
    """
    small = SIDE // CUTS
    rows, columns = (side // SIDE for side in left.shape[-2:])

    def parted(of: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        cut = of[..., : rows * SIDE, : columns * SIDE]
        shape = (*cut.shape[:-2], rows, CUTS, small, columns, CUTS, small)
        means = cut.reshape(shape).mean((-4, -1), dtype=np.float64)
        return np.asarray(np.moveaxis(means, -3, -2).reshape(-1, CUTS**2), np.float64)

    means = parted(left)
    if known is not None:
        means = means[parted(known.astype(np.float32)).min(1, initial=1.0) == 1]
    if not len(means):
        return 0.0, 0
    errors = means.std(1, ddof=1) / CUTS
    far = np.abs(means.mean(1)) > FAR * np.maximum(errors, np.finfo(np.float32).tiny)
    return float(far.mean()), len(means)


def most_far(parts: int) -> float:
    """Share that chance and good results leave, three standard errors granted to few parts."""
    return MOST_FAR + 3 * sqrt(MOST_FAR * (1 - MOST_FAR) / parts) if parts >= LEAST_PARTS else 1.0
