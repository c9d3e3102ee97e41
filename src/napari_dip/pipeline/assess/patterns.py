"""Fine regular patterns in what was taken out: they count as noise where noise is measured.

A grating, a weave or a detector's hum holds its power at a few single frequencies; noise spreads it
over all. So a residual that holds far more at one frequency than around it holds a pattern.

Pixels that hold no brightness: at the largest value that a detector could tell, or the least.

A few pixels at the extreme are chance. Many at one and the same value, more than at the values
beside it, are a plateau: the detector, or whoever converted the file, cut off there.

Whether a result is as bright as its input everywhere, told from the two pictures alone.

No noise that was measured comes into it: a noise measured wrong destroys a picture and agrees with
what was destroyed. What a denoising takes away has a mean near zero in each part of the picture,
and how near is told by how much the means of smaller parts of it scatter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.pipeline.calibrate.types import Planes

    Power = npt.NDArray[np.float64]

#: Longest period, in pixels, that counts as fine: lines of 6 pixels are learned after ten
#: iterations, lines of 16 with the picture (docs/where-it-fails.md).
COARSEST = 8.0
#: Power of a frequency in units of that around it, from which it is no chance. Of 100 fields of
#: white noise, 60 of noise that neighbours share and 60 with striped rows (64 to 256 pixels a side)
#: the largest was 16; of what Gaussian filters took from ten pictures of scikit-image and nine
#: planes of our samples 13, but for lines of print (page, text), 55.
CLEAR = 40.0
#: Least share of the residual's variance, below which a pattern is 0.2 of the noise's standard
#: deviation and hardly seen, and of the pattern itself, that must have been taken out. Lines of
#: print stay below the first.
LEAST, LOST = 0.02, 0.25
#: Frequencies on each side that are averaged for what lies around, and those next to a peak that
#: belong to it: a Hann window spreads a single frequency over two.
_AROUND, _PEAK = 8, 2
#: Planes that are looked at, at most.
_PLANES = 8
#: Smallest side on which frequencies can be told apart from what lies around them.
_SMALLEST = 4 * _AROUND


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular pattern in a residual.

    Attributes
    ----------
    period : float
        In pixels.
    share : float
        Of the residual's variance.
    lost : float
        Share of the measured pattern's power that is in the residual.
    """

    period: float
    share: float
    lost: float


def pattern_in(left: npt.NDArray[Any], measured: npt.NDArray[Any]) -> Pattern | None:
    """Look for the strongest fine regular pattern that was taken out.

    Parameters
    ----------
    left, measured : ndarray
        (planes, Y, X): the residual, and the measurement.

    Returns
    -------
    Pattern or None
        None if there is none that is clear and strong enough, or the planes are too small.
    """
    if min(left.shape[1:]) < _SMALLEST:
        return None
    chosen = np.unique(np.linspace(0, len(left) - 1, min(len(left), _PLANES)).astype(int))
    power = np.mean([_power(left[one]) for one in chosen], 0)
    down, across = (np.fft.fftfreq(count) for count in power.shape)
    radius = np.hypot(down[:, None], across[None])
    ratio = np.where(radius >= 1 / COARSEST, power / _level(power), 0)
    top = np.unravel_index(int(ratio.argmax()), ratio.shape)
    if ratio[top] < CLEAR:
        return None
    near = np.ix_(
        *(_next_to(int(place), size) for place, size in zip(top, power.shape, strict=True))
    )
    mirrored = any(2 * int(place) % size for place, size in zip(top, power.shape, strict=True))
    held, total = (1 + mirrored) * float(power[near].sum()), float(power.sum())
    share = held / total if total else 0.0
    given = np.mean([_power(measured[one]) for one in chosen], 0)
    lost = float(power[near].sum() / max(float(given[near].sum()), 1e-300))
    if share < LEAST or lost < LOST:
        return None
    return Pattern(1 / float(radius[top]), min(share, 1.0), min(lost, 1.0))


def _power(plane: npt.NDArray[Any]) -> Power:
    """Power of each frequency, the mean taken off and the borders faded out."""
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in plane.shape))
    centred = (plane - plane.mean(dtype=np.float64)) * window
    return np.asarray(np.abs(np.fft.fft2(centred)) ** 2)


def _level(power: Power) -> Power:
    """Power around each frequency: the most of that in a box, along Y and along X.

    Stripes and lost edges raise whole lines of frequencies, which are no pattern.
    """
    wide = 2 * _AROUND + 1
    return np.asarray(
        np.maximum.reduce(
            [_mean(power, size) for size in ((wide, wide), (4 * wide, 1), (1, 4 * wide))]
        )
    )


def _mean(power: Power, size: tuple[int, int]) -> Power:
    """Mean over a box about each frequency, without the peak in its middle."""
    wide = [min(one, side // 2) | 1 for one, side in zip(size, power.shape, strict=True)]
    peak = [min(one, 2 * _PEAK + 1) for one in wide]
    around = _sum(power, wide) - _sum(power, peak)
    return np.asarray(np.maximum(around / (np.prod(wide) - np.prod(peak)), 1e-300))


def _sum(power: Power, size: Sequence[int]) -> Power:
    """Sum over a box of odd sides about each frequency; frequencies have no border."""
    for axis, count in enumerate(size):
        beyond = [(0, 0)] * axis + [(count // 2 + 1, count // 2)] + [(0, 0)] * (1 - axis)
        sums = np.pad(power, beyond, mode="wrap").cumsum(axis)
        last, first = (
            sums.take(range(begin, begin + power.shape[axis]), axis) for begin in (count, 0)
        )
        power = last - first
    return power


def _next_to(place: int, size: int) -> npt.NDArray[np.int64]:
    return np.arange(place - _PEAK, place + _PEAK + 1) % size


def strongest_pattern(lost: npt.NDArray[Any], parts: Planes) -> Pattern | None:
    """Find the strongest regular pattern that a channel has lost; (parts, C, *grid) each."""
    patterns = [
        pattern_in(*(one[:, c].reshape(-1, *one.shape[-2:]) for one in (lost, parts)))
        for c in range(parts.shape[1])
    ]
    return max(filter(None, patterns), key=lambda one: one.share, default=None)


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


#: Side of the parts, and how many parts each is cut into along an axis. The smaller ones are as
#: wide as noise is correlated in FMD's widefield shots: their means scatter as noise makes them.
LOCAL_PART_SIDE, LOCAL_PART_CUTS = 16, 4
#: Standard errors from which on a part is far off: of 16 smaller parts, 1 in 900 is by chance.
BIAS_STANDARD_ERRORS = 4.0
#: Share of such parts that results may have. Eight good ones (four shots of FMD, camera and coins
#: with noise of 5 and 20, 256 x 256, fast) have 0 to 0.031; a photograph whose noise was measured
#: four times too strong 0.08 to 0.20 (kodim08, noise of 25).
MAX_BIASED_SHARE = 0.05
#: Fewest parts that tell.
MIN_LOCAL_PARTS = 16


def measure_biased_parts(
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
    small = LOCAL_PART_SIDE // LOCAL_PART_CUTS
    rows, columns = (side // LOCAL_PART_SIDE for side in left.shape[-2:])

    def parted(of: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        cut = of[..., : rows * LOCAL_PART_SIDE, : columns * LOCAL_PART_SIDE]
        shape = (*cut.shape[:-2], rows, LOCAL_PART_CUTS, small, columns, LOCAL_PART_CUTS, small)
        means = cut.reshape(shape).mean((-4, -1), dtype=np.float64)
        return np.asarray(np.moveaxis(means, -3, -2).reshape(-1, LOCAL_PART_CUTS**2), np.float64)

    means = parted(left)
    if known is not None:
        means = means[parted(known.astype(np.float32)).min(1, initial=1.0) == 1]
    if not len(means):
        return 0.0, 0
    errors = means.std(1, ddof=1) / LOCAL_PART_CUTS
    far = np.abs(means.mean(1)) > BIAS_STANDARD_ERRORS * np.maximum(
        errors, np.finfo(np.float32).tiny
    )
    return float(far.mean()), len(means)


def compute_biased_limit(parts: int) -> float:
    """Share that chance and good results leave, three standard errors granted to few parts."""
    return (
        MAX_BIASED_SHARE + 3 * sqrt(MAX_BIASED_SHARE * (1 - MAX_BIASED_SHARE) / parts)
        if parts >= MIN_LOCAL_PARTS
        else 1.0
    )
