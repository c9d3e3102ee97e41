"""Pixels that hold no brightness: at the largest value that a detector could tell, or the least.

A few pixels at the extreme are chance. Many at one and the same value, more than at the values
beside it, are a plateau: the detector, or whoever converted the file, cut off there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Least share of all pixels at the extreme that is worth a word.
LEAST_SHARE = 1e-4
#: Fewest pixels at the extreme, and how many times more of them than at a value beside it, on
#: average, make a plateau. The tail of a histogram that was not cut off falls towards its end.
LEAST_COUNT, PLATEAU = 4, 3.0
#: Shares of the range beside the extreme that it is compared with: the first in which there are so
#: many different values. Images of a few photons have few.
BESIDE, LEAST_VALUES = (1 / 50, 1 / 10, 1 / 2), 3


@dataclass(frozen=True, slots=True)
class CutOff:
    """One end of an image's range.

    Attributes
    ----------
    share : float
        Of all pixels, 0 if nothing was cut off.
    value : float
        The extreme itself.
    """

    share: float
    value: float


#: Nothing was cut off.
WHOLE = CutOff(0.0, 0.0)


def cut_off(pixels: npt.NDArray[Any]) -> tuple[CutOff, CutOff]:
    """Look for plateaus at the least and the largest value.

    Parameters
    ----------
    pixels : ndarray
        As they were measured, any shape and type; values that are not finite do not count.

    Returns
    -------
    least, largest : CutOff
    """
    flat = pixels.reshape(-1)
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return WHOLE, WHOLE
    low, high = float(flat.min()), float(flat.max())
    limits = (low, high)
    if flat.dtype.kind in "iu":
        kind = np.iinfo(flat.dtype)
        limits = (float(kind.min), float(kind.max))
    span = high - low
    return (
        _judged(flat, low, span, at_limit=low == limits[0] and flat.dtype.kind == "i"),
        _judged(flat, high, -span, at_limit=high == limits[1] and flat.dtype.kind in "iu"),
    )


def _judged(flat: npt.NDArray[Any], value: float, span: float, *, at_limit: bool) -> CutOff:
    """Tell a plateau from a tail, at one end of a range that goes on by `span`.

    At the limit of an integer type there is no telling of brighter pixels, plateau or not.
    """
    at_value = int((flat == value).sum())
    share = at_value / flat.size
    if share < LEAST_SHARE or at_value < LEAST_COUNT:
        return CutOff(0.0, value)
    usual = 0.0
    for part in BESIDE:
        near = sorted((value, value + part * span))
        beside = flat[(flat >= near[0]) & (flat <= near[1]) & (flat != value)]
        different = np.unique(beside).size
        if different >= LEAST_VALUES:
            usual = beside.size / different
            break
    return CutOff(share if at_limit or at_value > PLATEAU * usual else 0.0, value)
