"""Measure frequencies and sharpness of an image, and where the rule of Shi et al. would stop.

Power is averaged over rings of radial frequency, in cycles per pixel up to 0.5, the Nyquist
frequency along an axis. The corners of the spectrum beyond are ignored, as in the code of Shi et
al. Their stopping rule waits until the ratio of blurriness to sharpness no longer changes. It needs
neither the truth nor validation pixels, only the outputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.explore.experiment_setup import ImageArray
    from napari_dip.io import FloatArray

    BandCurve = FloatArray

#: Number of bands of equal width, as in Shi et al.
BAND_COUNT = 5
#: Levels of correspondence: the table gives the first iteration at which a band reaches each.
CORRESPONDENCE_LEVELS = (0.5, 0.9)
#: Names of the bands in tables, lowest first.
BAND_NAMES = tuple(f"band_{number}" for number in range(1, BAND_COUNT + 1))
#: Maximum radial frequency, in cycles per pixel.
NYQUIST_FREQUENCY = 0.5
#: Number of iterations over which the ratio of blurriness to sharpness is averaged (n in equation 8
#: of Shi et al. 2022).
RATIO_WINDOW = 100
#: Maximum change of a settled ratio of blurriness to sharpness (threshold of the code of Shi et al.
#: 2022).
RATIO_TOLERANCE = 0.01
#: Length of the blur filter in pixels, as in the code of Shi et al. 2022.
_BLUR_FILTER_SIZE = 9
#: Number of the largest local variations, as in the code of Shi et al. 2022, which follows that of
#: Bahrami and Kot.
_VARIATION_COUNT = 1000
#: Decay with rank of the weight of a local variation, as in the code of Shi et al. 2022.
_RANK_DECAY = 0.01


def compute_band_edges() -> BandCurve:
    """Return the edges of the bands in cycles per pixel, lowest first."""
    return np.linspace(0, NYQUIST_FREQUENCY, BAND_COUNT + 1)


def list_band_labels() -> list[str]:
    """Return the ranges of the bands in cycles per pixel, lowest first."""
    return [f"{low:.1f} to {high:.1f}" for low, high in pairwise(compute_band_edges())]


def compute_radial_power(image: ImageArray) -> tuple[BandCurve, BandCurve]:
    """Return the power spectral density, averaged over rings of equal radial frequency.

    The mean is subtracted and a Hann window applied, so that the discontinuity at the border of the
    image adds no power.

    Parameters
    ----------
    image : ndarray (Y, X)

    Returns
    -------
    frequency : ndarray (rings,)
        Mean radial frequency of each ring, in cycles per pixel.
    power : ndarray (rings,)
        In squared units of the image; for white noise, it equals the variance.
    """
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in image.shape))
    centred = (image - image.mean(dtype=np.float64)) * window
    density = np.abs(np.fft.fft2(centred)) ** 2 / (window**2).sum()
    radius = _compute_radial_frequency(image.shape)
    ring_count = min(image.shape) // 2
    # ring 0 is the mean only
    ring_index = np.ceil(radius / NYQUIST_FREQUENCY * ring_count).astype(int)
    is_in_ring = (ring_index > 0) & (ring_index <= ring_count)
    count, frequency, power = (
        np.bincount(ring_index[is_in_ring], weights, minlength=ring_count + 1)[1:]
        for weights in (None, radius[is_in_ring], density[is_in_ring])
    )
    return frequency / count, power / count


class Correspondence:
    """Compute the frequency-band correspondence of estimates with one target.

    It is the mean over a band of |F(estimate)| / |F(target)|, each clipped to 1: 0 where the
    estimate has nothing of the band, 1 where it is as strong as in the target. The mean of the
    image is excluded, since it is 0 in a standardised target.

    Parameters
    ----------
    target : ndarray (Y, X)
        Target of the fit, noise included.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, section 3, and the authors' code
    (function `get_circular_statastic` of their repository Measure-and-Control-Spectral-Bias).
    """

    def __init__(self, target: ImageArray) -> None:
        self._target = np.abs(np.fft.fft2(target.astype(np.float64)))
        radius = _compute_radial_frequency(target.shape)
        band_index = np.ceil(radius / NYQUIST_FREQUENCY * BAND_COUNT).astype(int) - 1
        self._band_index = np.where(
            (radius > 0) & (radius <= NYQUIST_FREQUENCY), band_index, BAND_COUNT
        )
        self._count = np.bincount(self._band_index.ravel(), minlength=BAND_COUNT + 1)[:BAND_COUNT]

    def compute(self, estimate: ImageArray) -> BandCurve:
        """Return the correspondence of each band, lowest first: (5,) between 0 and 1."""
        strength = np.abs(np.fft.fft2(estimate.astype(np.float64)))
        ratio = np.clip(strength / (self._target + 1e-8), 0, 1)
        total = np.bincount(self._band_index.ravel(), ratio.ravel(), minlength=BAND_COUNT + 1)
        return np.asarray(total[:BAND_COUNT] / self._count)


def find_level_iterations(correspondence: BandCurve, level: float) -> tuple[int, ...]:
    """Return the iteration at which each band first reaches a level, 0 if never.

    The search starts at the minimum of a band. Before the first iterations, the output of an
    untrained network is as strong as any image and unrelated to the target.

    Parameters
    ----------
    correspondence : ndarray (iterations, 5)
    level : float
    """
    iterations = []
    for band in correspondence.T:
        start = int(np.argmin(band))
        above_level = np.flatnonzero(band[start:] >= level)
        iterations.append(start + int(above_level[0]) + 1 if above_level.size else 0)
    return tuple(iterations)


def _compute_radial_frequency(shape: tuple[int, ...]) -> BandCurve:
    down, across = (np.fft.fftfreq(count) for count in shape)
    return np.asarray(np.hypot(down[:, None], across[None]))


class SharpnessMetrics(NamedTuple):
    """Blurriness and sharpness of one estimate.

    Attributes
    ----------
    blurriness : float, 0 to 1
        After Crete et al.: share of the edge strength that survives one more blur.
    sharpness : float, > 0
        After Bahrami and Kot: root mean square of the largest differences of neighbouring pixels,
        weighted by rank, in ranges of the target.
    """

    blurriness: float
    sharpness: float


def measure_sharpness(image: ImageArray) -> SharpnessMetrics:
    """Measure blurriness and sharpness of an image.

    Parameters
    ----------
    image : ndarray (Y, X)
        Scaled so that the target spans 0 to 1, as the authors' 8-bit images do. The ratio, and
        with it the stop, depends on that scale.

    References
    ----------
    Crete, Dolmiere, Ladret, Nicolas, The blur effect: perception and estimation with a new
    no-reference perceptual blur metric, SPIE 6492, 2007, doi:10.1117/12.702790 (as in
    scikit-image, whose edges are Sobel's).
    Bahrami, Kot, A fast approach for no-reference image sharpness assessment based on maximum
    local variation, IEEE Signal Processing Letters 21(6), 2014, pages 751 to 755.
    """
    from skimage.measure import blur_effect

    image_float64 = image.astype(np.float64)
    blurriness = float(blur_effect(image_float64, h_size=_BLUR_FILTER_SIZE))  # type: ignore[no-untyped-call]
    largest = np.sort(_compute_local_variation(image).ravel())[::-1][:_VARIATION_COUNT]
    weight = np.exp(-_RANK_DECAY * np.arange(largest.size))
    return SharpnessMetrics(blurriness, float(np.sqrt(np.mean((largest * weight) ** 2))))


def find_ratio_stop(
    ratios: Sequence[float], window: int = RATIO_WINDOW, tolerance: float = RATIO_TOLERANCE
) -> int:
    """Return the iteration at which the average ratio has settled; 0 if it never does.

    Parameters
    ----------
    ratios : sequence of float
        Ratios at iterations 1, 2, ...
    window : int
        Number of ratios in each of two adjacent windows whose means are compared.
    tolerance : float
        The ratio has settled where the two means first differ by less than this.

    References
    ----------
    Shi et al. 2022, equation 8.
    """
    sums = np.concatenate([[0.0], np.cumsum(ratios)])
    means = (sums[window:] - sums[:-window]) / window
    steps = np.abs(means[window:] - means[:-window])
    settled_steps = np.flatnonzero(steps < tolerance)
    # the first pair of windows ends at iteration 2 * window
    return int(settled_steps[0]) + 2 * window if settled_steps.size else 0


def _compute_local_variation(image: ImageArray) -> ImageArray:
    """Return the largest difference of each inner pixel to its eight neighbours."""
    from scipy.ndimage import maximum_filter, minimum_filter

    steps = np.maximum(maximum_filter(image, 3) - image, image - minimum_filter(image, 3))
    return np.asarray(steps[1:-1, 1:-1], np.float32)
