"""Frequencies: radially averaged power, and how much of each band an estimate has learned.

Radial frequency is in cycles per pixel, up to 0.5, which is the finest along an axis; the corners
of the spectrum beyond are left out, as in the code of Shi et al.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.explore.subject import Picture

    Curve = npt.NDArray[np.float64]

#: Bands of equal width, as Shi et al. have them.
BANDS = 5
#: Shares of a band whose iteration is told: half of it, and nearly all.
LEVELS = (0.5, 0.9)
#: As tables name them, lowest first.
BAND_NAMES = tuple(f"band_{number}" for number in range(1, BANDS + 1))
#: Finest radial frequency that is looked at, in cycles per pixel.
FINEST = 0.5


def edges() -> Curve:
    """Limits of the bands in cycles per pixel, lowest first: one more than there are bands."""
    return np.linspace(0, FINEST, BANDS + 1)


def radial_power(picture: Picture) -> tuple[Curve, Curve]:
    """Power spectral density, averaged over rings of equal radial frequency.

    The mean is taken off and a Hann window laid on, so that the picture's border, where it does
    not continue on the other side, adds no power of its own.

    Parameters
    ----------
    picture : ndarray (Y, X)

    Returns
    -------
    frequency : ndarray (rings,)
        Mean radial frequency of each ring, in cycles per pixel.
    power : ndarray (rings,)
        In squared units of the picture; of white noise it is the variance.
    """
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in picture.shape))
    centred = (picture - picture.mean(dtype=np.float64)) * window
    density = np.abs(np.fft.fft2(centred)) ** 2 / (window**2).sum()
    radius = _radius(picture.shape)
    rings = min(picture.shape) // 2
    place = np.ceil(radius / FINEST * rings).astype(int)  # ring 0 is the mean alone
    inside = (place > 0) & (place <= rings)
    count = np.bincount(place[inside], minlength=rings + 1)[1:]
    power = np.bincount(place[inside], density[inside], minlength=rings + 1)[1:]
    frequency = np.bincount(place[inside], radius[inside], minlength=rings + 1)[1:]
    return frequency / count, power / count


class Correspondence:
    """Frequency-band correspondence of estimates with one target.

    The mean over a band of |F(estimate)| / |F(target)|, each clipped to 1: 0 where nothing of the
    band is there yet, 1 where it is as strong as in the target. The mean of the picture is left
    out, since it is 0 in a standardised target.

    Parameters
    ----------
    target : ndarray (Y, X)
        What is fitted, noise included.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, section 3, and the authors' code
    (function `get_circular_statastic` of their repository Measure-and-Control-Spectral-Bias).
    """

    def __init__(self, target: Picture) -> None:
        self._target = np.abs(np.fft.fft2(target.astype(np.float64)))
        radius = _radius(target.shape)
        place = np.ceil(radius / FINEST * BANDS).astype(int) - 1
        self._place = np.where((radius > 0) & (radius <= FINEST), place, BANDS)
        self._count = np.bincount(self._place.ravel(), minlength=BANDS + 1)[:BANDS]

    def of(self, estimate: Picture) -> Curve:
        """Correspondence of each band, lowest first: (5,) between 0 and 1."""
        strength = np.abs(np.fft.fft2(estimate.astype(np.float64)))
        ratio = np.clip(strength / (self._target + 1e-8), 0, 1)
        total = np.bincount(self._place.ravel(), ratio.ravel(), minlength=BANDS + 1)[:BANDS]
        return np.asarray(total / self._count)


def reached(correspondence: Curve, level: float) -> tuple[int, ...]:
    """Tell at which iteration each band first has so much of its target, 0 if never.

    Counted from where a band has least of it: what an untrained network says before its first
    steps is as strong as any picture, and has nothing to do with the target.

    Parameters
    ----------
    correspondence : ndarray (iterations, 5)
    level : float
    """
    found = []
    for band in correspondence.T:
        least = int(np.argmin(band))
        there = np.flatnonzero(band[least:] >= level)
        found.append(least + int(there[0]) + 1 if there.size else 0)
    return tuple(found)


def _radius(shape: tuple[int, ...]) -> Curve:
    down, across = (np.fft.fftfreq(count) for count in shape)
    return np.asarray(np.hypot(down[:, None], across[None]))
