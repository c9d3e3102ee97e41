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

    from napari_dip.pipeline.calibrate.calibration import Planes

    Power = npt.NDArray[np.float64]

#: Longest period, in pixels, that counts as fine: lines of 6 pixels are learned after ten
#: iterations, lines of 16 with the picture (docs/where-it-fails.md).
MAX_PATTERN_PERIOD = 8.0
#: Power of a frequency in units of that around it, from which it is no chance. Of 100 fields of
#: white noise, 60 of noise that neighbours share and 60 with striped rows (64 to 256 pixels a side)
#: the largest was 16; of what Gaussian filters took from ten pictures of scikit-image and nine
#: planes of our samples 13, but for lines of print (page, text), 55.
MIN_PATTERN_POWER_RATIO = 40.0
#: Least share of the residual's variance, below which a pattern is 0.2 of the noise's standard
#: deviation and hardly seen, and of the pattern itself, that must have been taken out. Lines of
#: print stay below the first.
MIN_PATTERN_SHARE, MIN_PATTERN_LOSS = 0.02, 0.25
#: Frequencies on each side that are averaged for what lies around, and those next to a peak that
#: belong to it: a Hann window spreads a single frequency over two.
_BACKGROUND_RADIUS, _PEAK_RADIUS = 8, 2
#: Planes that are looked at, at most.
_MAX_PATTERN_PLANES = 8
#: Smallest side on which frequencies can be told apart from what lies around them.
_MIN_PATTERN_SIDE = 4 * _BACKGROUND_RADIUS


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicPattern:
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


def detect_pattern(
    residual: npt.NDArray[Any], measured: npt.NDArray[Any]
) -> PeriodicPattern | None:
    """Look for the strongest fine regular pattern that was taken out.

    Parameters
    ----------
    residual, measured : ndarray
        (planes, Y, X): the residual, and the measurement.

    Returns
    -------
    PeriodicPattern or None
        None if there is none that is clear and strong enough, or the planes are too small.
    """
    if min(residual.shape[1:]) < _MIN_PATTERN_SIDE:
        return None
    chosen = np.unique(
        np.linspace(0, len(residual) - 1, min(len(residual), _MAX_PATTERN_PLANES)).astype(int)
    )
    power = np.mean([_compute_windowed_power(residual[item]) for item in chosen], 0)
    down, across = (np.fft.fftfreq(count) for count in power.shape)
    radius = np.hypot(down[:, None], across[None])
    ratio = np.where(radius >= 1 / MAX_PATTERN_PERIOD, power / _estimate_background_power(power), 0)
    top = np.unravel_index(int(ratio.argmax()), ratio.shape)
    if ratio[top] < MIN_PATTERN_POWER_RATIO:
        return None
    near = np.ix_(
        *(
            _list_peak_indices(int(place), size)
            for place, size in zip(top, power.shape, strict=True)
        )
    )
    mirrored = any(2 * int(place) % size for place, size in zip(top, power.shape, strict=True))
    peak_power, total = (1 + mirrored) * float(power[near].sum()), float(power.sum())
    share = peak_power / total if total else 0.0
    measured_power = np.mean([_compute_windowed_power(measured[item]) for item in chosen], 0)
    lost = float(power[near].sum() / max(float(measured_power[near].sum()), 1e-300))
    if share < MIN_PATTERN_SHARE or lost < MIN_PATTERN_LOSS:
        return None
    return PeriodicPattern(
        period=1 / float(radius[top]), share=min(share, 1.0), lost=min(lost, 1.0)
    )


def _compute_windowed_power(plane: npt.NDArray[Any]) -> Power:
    """Power of each frequency, the mean taken off and the borders faded out."""
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in plane.shape))
    centred = (plane - plane.mean(dtype=np.float64)) * window
    return np.asarray(np.abs(np.fft.fft2(centred)) ** 2)


def _estimate_background_power(power: Power) -> Power:
    """Power around each frequency: the most of that in a box, along Y and along X.

    Stripes and lost edges raise whole lines of frequencies, which are no pattern.
    """
    wide = 2 * _BACKGROUND_RADIUS + 1
    return np.asarray(
        np.maximum.reduce(
            [
                _average_without_peak(power, size)
                for size in ((wide, wide), (4 * wide, 1), (1, 4 * wide))
            ]
        )
    )


def _average_without_peak(power: Power, size: tuple[int, int]) -> Power:
    """Mean over a box about each frequency, without the peak in its middle."""
    wide = [min(item, side // 2) | 1 for item, side in zip(size, power.shape, strict=True)]
    peak = [min(item, 2 * _PEAK_RADIUS + 1) for item in wide]
    around = _sum_box(power, wide) - _sum_box(power, peak)
    return np.asarray(np.maximum(around / (np.prod(wide) - np.prod(peak)), 1e-300))


def _sum_box(power: Power, size: Sequence[int]) -> Power:
    """Sum over a box of odd sides about each frequency; frequencies have no border."""
    for axis, count in enumerate(size):
        beyond = [(0, 0)] * axis + [(count // 2 + 1, count // 2)] + [(0, 0)] * (1 - axis)
        sums = np.pad(power, beyond, mode="wrap").cumsum(axis)
        last, first = (
            sums.take(range(begin, begin + power.shape[axis]), axis) for begin in (count, 0)
        )
        power = last - first
    return power


def _list_peak_indices(place: int, size: int) -> npt.NDArray[np.int64]:
    return np.arange(place - _PEAK_RADIUS, place + _PEAK_RADIUS + 1) % size


def find_strongest_pattern(lost: npt.NDArray[Any], parts: Planes) -> PeriodicPattern | None:
    """Find the strongest regular pattern that a channel has lost; (parts, C, *grid) each."""
    patterns = [
        detect_pattern(*(item[:, c].reshape(-1, *item.shape[-2:]) for item in (lost, parts)))
        for c in range(parts.shape[1])
    ]
    return max(filter(None, patterns), key=lambda item: item.share, default=None)


#: Least share of all pixels at the extreme that is worth a word.
MIN_PLATEAU_SHARE = 1e-4
#: Fewest pixels at the extreme, and how many times more of them than at a value beside it, on
#: average, make a plateau. The tail of a histogram that was not cut off falls towards its end.
MIN_PLATEAU_PIXELS, MIN_PLATEAU_PIXEL_RATIO = 4, 3.0
#: Shares of the range beside the extreme that it is compared with: the first in which there are so
#: many different values. Images of a few photons have few.
PLATEAU_COMPARISON_SPANS, MIN_COMPARISON_VALUES = (1 / 50, 1 / 10, 1 / 2), 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedPixels:
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
NO_CLIPPED_PIXELS = ClippedPixels(share=0.0, value=0.0)


def detect_clipped_pixels(pixels: npt.NDArray[Any]) -> tuple[ClippedPixels, ClippedPixels]:
    """Look for plateaus at the least and the largest value.

    Parameters
    ----------
    pixels : ndarray
        As they were measured, any shape and type; values that are not finite do not count.

    Returns
    -------
    least, largest : ClippedPixels
    """
    flat = pixels.reshape(-1)
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return NO_CLIPPED_PIXELS, NO_CLIPPED_PIXELS
    low, high = float(flat.min()), float(flat.max())
    limits = (low, high)
    if flat.dtype.kind in "iu":
        kind = np.iinfo(flat.dtype)
        limits = (float(kind.min), float(kind.max))
    span = high - low
    return (
        _detect_plateau(flat, low, span, at_limit=low == limits[0] and flat.dtype.kind == "i"),
        _detect_plateau(flat, high, -span, at_limit=high == limits[1] and flat.dtype.kind in "iu"),
    )


def _detect_plateau(
    flat: npt.NDArray[Any], value: float, span: float, *, at_limit: bool
) -> ClippedPixels:
    """Tell a plateau from a tail, at one end of a range that goes on by `span`.

    At the limit of an integer type there is no telling of brighter pixels, plateau or not.
    """
    at_value = int((flat == value).sum())
    share = at_value / flat.size
    if share < MIN_PLATEAU_SHARE or at_value < MIN_PLATEAU_PIXELS:
        return ClippedPixels(share=0.0, value=value)
    usual = 0.0
    for part in PLATEAU_COMPARISON_SPANS:
        near = sorted((value, value + part * span))
        nearby_values = flat[(flat >= near[0]) & (flat <= near[1]) & (flat != value)]
        different = np.unique(nearby_values).size
        if different >= MIN_COMPARISON_VALUES:
            usual = nearby_values.size / different
            break
    return ClippedPixels(
        share=share if at_limit or at_value > MIN_PLATEAU_PIXEL_RATIO * usual else 0.0, value=value
    )


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
    residual: npt.NDArray[np.floating], measured_mask: npt.NDArray[np.bool_] | None
) -> tuple[float, int]:
    """Share of the parts of a residual whose mean is far from zero, and how many parts there are.

    Parameters
    ----------
    residual : ndarray
        (..., Y, X): measurement less result, of one channel.
    measured_mask : ndarray of bool or None
        Where there is a measurement; None: everywhere. Parts with a hole do not count.
    """
    small = LOCAL_PART_SIDE // LOCAL_PART_CUTS
    rows, columns = (side // LOCAL_PART_SIDE for side in residual.shape[-2:])

    def parted(of: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        cut = of[..., : rows * LOCAL_PART_SIDE, : columns * LOCAL_PART_SIDE]
        shape = (*cut.shape[:-2], rows, LOCAL_PART_CUTS, small, columns, LOCAL_PART_CUTS, small)
        means = cut.reshape(shape).mean((-4, -1), dtype=np.float64)
        return np.asarray(np.moveaxis(means, -3, -2).reshape(-1, LOCAL_PART_CUTS**2), np.float64)

    means = parted(residual)
    if measured_mask is not None:
        means = means[parted(measured_mask.astype(np.float32)).min(1, initial=1.0) == 1]
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
