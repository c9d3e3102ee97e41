"""Measure what two images with independent noise, and their restorations, have in common.

    resolution     Fourier ring correlation with the 1/7 criterion: in the plane, and along Z
    repeat map     local correlation of fine detail, from 1 (came again) to 0
    null control   detail where there is no object, against the contrast that the result shows

Two halves of one measurement have twice its noise. A correlation f of them is 2 f / (1 + f) between
two whole measurements.

Both restorations may add the same to what they were made from, and so correlate without an object.
Each is therefore compared with the measurement of the other: x is its correlation with the object,
times the root of the correlation y of both measurements. So x^2 / y is the correlation that two
restorations have by the object alone.

References
----------
Nieuwenhuizen et al., Measuring image resolution in optical nanoscopy, Nature Methods 10, 2013,
doi:10.1038/nmeth.2448. Rieger, Stallinga et al., Single image Fourier ring correlation, Optics
Express 32(12), 2024, doi:10.1364/OE.524683.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_dip.io import AnyArray, FloatArray

#: Correlation at which detail counts as resolved.
FRC_CRITERION = 1 / 7
#: Standard errors from which on a correlation is more than chance. Of 300 pairs of noise alone, 15
#: correlate in the lowest rings with 2, 8 with 2.5, 126 without; of thinnings 7, none and 114.
CHANCE_ERRORS = 2.5
#: Share of a side at which the window falls to 0, at each end.
WINDOW_TAPER_FRACTION = 0.25
#: Rings over which a correlation is averaged, as a share of the radius at each side: a ring of
#: 256 x 256 pixels at half of the highest frequency has a standard error of 0.08, its mean 0.03.
RING_SMOOTHING = 0.08
#: Rings after the first one below the criterion that must be below as well: the few pixels of a low
#: ring make it dip by chance (0.35 from one half of WideField_BPAE_B to the next).
CONFIRMING_RINGS = 2
#: Fewest planes for a resolution along Z.
MIN_AXIAL_PLANES = 8
#: Largest angle in degrees to Z or to the planes: at 20, an object that Z blurs three times as much
#: looks 5 % too sharp along it.
SECTOR_ANGLE = 20.0
#: Standard deviation of the window of a local correlation, in periods of the resolution. Of the
#: invented detail of `benchmarks/halves.py` 78, 88 and 92 % are marked with 1, 1.5 and 2.
WINDOW_PERIODS = 1.5
#: Standard deviation that blurs an image to the background of a null control, in pixels. Nothing
#: finer than 70 pixels keeps a tenth of its contrast.
BACKGROUND_SIGMA = 24.0
#: Percentiles that span the range of a result, without single bright pixels.
RANGE_PERCENTILES = (0.2, 99.8)
#: Correlation of fine detail from which on it came again: half of the power.
MIN_REPEATED_CORRELATION = 0.5
#: Contrast of fine detail from which on it is visible, as a share of the range of the result: two
#: and a half of the 256 grey values of a screen.
MIN_VISIBLE_CONTRAST = 0.01


def correct_for_doubled_noise(correlation: FloatArray) -> FloatArray:
    """Return the correlation of two whole measurements, from that of two halves of one."""
    positive = np.maximum(correlation, 0)
    return np.asarray(2 * positive / (1 + positive))


def correlate_rings(
    pairs: Iterable[tuple[AnyArray, AnyArray]],
    grid: tuple[int, ...],
    spacing: Sequence[float],
    sector_axis: int | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the frequencies of Fourier rings, their correlation and number of samples of a pair.

    Parameters
    ----------
    pairs : iterable of tuple of ndarray
        Pairs of images or volumes, over which the rings are summed.
    grid : tuple of int
        Shape of each.
    spacing : sequence of float
        Distance of pixels along each axis of the grid.
    sector_axis : int or None
        Of a volume, 0: only directions within `SECTOR_ANGLE` of the first axis count; -1: only
        those within that angle of the planes. None: all.
    """
    window = np.ones(())
    for size in grid:
        window = window[..., None] * make_taper(size)
    frequencies = np.meshgrid(
        *(np.fft.fftfreq(size, step) for size, step in zip(grid[:-1], spacing[:-1], strict=True)),
        np.fft.rfftfreq(grid[-1], spacing[-1]),
        indexing="ij",
    )
    radius = np.sqrt(sum(frequency**2 for frequency in frequencies))
    axes = slice(None) if sector_axis is None else slice(1) if sector_axis == 0 else slice(1, None)
    width = 1 / min(np.multiply(grid[axes], spacing[axes]))
    ring_count = int(0.5 / max(spacing[axes]) / width)
    rings = np.rint(radius / width).astype(int)
    if sector_axis is not None:
        elevation = np.arctan2(np.abs(frequencies[0]), np.hypot(*frequencies[1:]))
        angle = elevation if sector_axis else np.pi / 2 - elevation
        rings[angle > np.radians(SECTOR_ANGLE)] = ring_count + 1
    rings = np.minimum(rings, ring_count + 1).ravel()
    sums = np.zeros((3, ring_count + 2))
    for pair in pairs:
        a, b = (np.fft.rfftn((image - image.mean()) * window).ravel() for image in pair)
        for row, product in enumerate(((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)):
            sums[row] += np.bincount(rings, product, ring_count + 2)
    sums = sums[:, 1 : ring_count + 1]
    power = np.sqrt(sums[1] * sums[2])
    correlation = np.divide(sums[0], power, out=np.zeros_like(power), where=power > 0)
    independence = (window**2).mean() ** 2 / (window**4).mean()  # neighbours share the window
    counts = independence * np.bincount(rings, minlength=ring_count + 2)[1 : ring_count + 1]
    return np.asarray(width * np.arange(1, ring_count + 1)), correlation, counts


def make_taper(size: int) -> FloatArray:
    """Return a Tukey window."""
    positions = np.arange(size)
    edge = np.minimum(positions + 0.5, size - positions - 0.5) / size / WINDOW_TAPER_FRACTION
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.minimum(edge, 1)))


def smooth_rings(correlation: FloatArray) -> FloatArray:
    """Return the mean of each ring and its neighbours, weighted by their number of pixels."""
    radii = np.arange(1, len(correlation) + 1)
    nearby = list_neighbours(len(correlation))
    return np.array([np.average(correlation[near], weights=radii[near]) for near in nearby])


def list_neighbours(ring_count: int) -> list[slice]:
    """Return which rings a smoothed one is the mean of, for each."""
    reaches = [max(1, round(RING_SMOOTHING * radius)) for radius in range(1, ring_count + 1)]
    return [slice(max(0, i - reach), i + reach + 1) for i, reach in enumerate(reaches)]


def compute_chance(counts: FloatArray) -> FloatArray:
    """Return the smoothed correlation that rings of so many samples hardly have by chance.

    By t = c sqrt(2 n / (1 - c^2)): real and imaginary parts of n samples.
    """
    totals = np.array([counts[near].sum() for near in list_neighbours(len(counts))])
    return np.asarray(CHANCE_ERRORS / np.sqrt(2 * totals + CHANCE_ERRORS**2))


def find_resolution(frequencies: FloatArray, correlation: FloatArray) -> float | None:
    """Return the period at which a smoothed correlation falls below the criterion, and stays there.

    It is at least that of two pixels; None if no ring correlates.
    """
    is_above = np.append(correlation >= FRC_CRITERION, [False] * CONFIRMING_RINGS)
    following = np.lib.stride_tricks.sliding_window_view(is_above, CONFIRMING_RINGS + 1)
    below = np.flatnonzero(~following.any(1))
    if not len(below):
        return float(1 / frequencies[-1])
    index = below[0]
    if not index:
        return None
    high, low = correlation[index - 1 : index + 1]
    fraction = (high - FRC_CRITERION) / (high - low)
    frequency = frequencies[index - 1] + fraction * (frequencies[index] - frequencies[index - 1])
    return float(1 / frequency)


def measure_resolution(
    pairs: Sequence[tuple[AnyArray, AnyArray]],
    spacing: Sequence[float],
    *,
    is_thinned: bool,
    predictions: Sequence[AnyArray] = (),
) -> tuple[float | None, float | None]:
    """Return the resolution in the plane, and along Z of volumes with planes enough, else None.

    Parameters
    ----------
    pairs : sequence of tuple of ndarray
        (N, C, *grid) each: two images of one object with independent noise. All pairs are averaged.
    spacing : sequence of float
        Distance of pixels along (Y, X), or along (Z, Y, X); it gives the unit.
    is_thinned : bool
        Whether both have twice the noise of the whole measurement.
    predictions : sequence of ndarray
        The first pair, as predicted by the restoration of each. The resolution is that of these.
    """
    sizes = pairs[0][0].shape
    is_volume = len(spacing) > 2 and sizes[2] >= MIN_AXIAL_PLANES
    grid = sizes[2:] if is_volume else sizes[-2:]
    step = spacing[-len(grid) :]

    def correlate(
        image_pairs: Sequence[tuple[AnyArray, AnyArray]], sector_axis: int | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        flat_pairs = (
            pair
            for first, second in image_pairs
            for pair in zip(first.reshape(-1, *grid), second.reshape(-1, *grid), strict=True)
        )
        frequencies, correlation, counts = correlate_rings(flat_pairs, grid, step, sector_axis)
        return frequencies, smooth_rings(correlation), counts

    def measure(sector_axis: int | None) -> float | None:
        frequencies, correlation, counts = correlate(pairs, sector_axis)
        counts = counts * (pairs[0][0].size // np.prod(grid))
        if not predictions:
            evidence = correlation
            counts *= 2 / (1 + 1 / len(pairs))  # each pair has half of its noise from one draw
        else:
            (first, second), (by_first, by_second) = pairs[0], predictions
            evidence = correlate([(by_first, second), (by_second, first)], sector_axis)[1]
            correlation = evidence**2 / np.maximum(np.maximum(correlation, evidence**2), 1e-9)
        if is_thinned:
            correlation = correct_for_doubled_noise(correlation)
        is_chance = evidence < compute_chance(counts)
        return find_resolution(frequencies, np.where(is_chance, 0, correlation))

    return (measure(-1), measure(0)) if is_volume else (measure(None), None)


def map_repeats(
    first: AnyArray, second: AnyArray, result: AnyArray, period: float, *, is_thinned: bool
) -> FloatArray:
    """Return the correlation of fine detail around each pixel, 0 to 1; NaN without visible detail.

    Parameters
    ----------
    first, second : ndarray
        (..., Y, X): restorations of two images with independent noise.
    result : ndarray
        Of the same shape: the restoration of the whole measurement.
    period : float
        Resolution of the result in pixels; detail and windows are as wide.
    is_thinned : bool
        As for `measure_resolution`.
    """
    details = [extract_detail(images, period) for images in (first, second, result)]
    covariance, *variances = (
        _blur(left * right, WINDOW_PERIODS * period)
        for left, right in ((details[0], details[1]), *((detail, detail) for detail in details))
    )
    power = np.sqrt(np.maximum(variances[0] * variances[1], 0))
    correlation = np.divide(covariance, power, out=np.zeros_like(power), where=power > 0)
    if is_thinned:
        correlation = correct_for_doubled_noise(correlation)
    low, high = np.percentile(result, RANGE_PERCENTILES)
    is_visible = np.sqrt(variances[2]) >= MIN_VISIBLE_CONTRAST * (high - low)
    return np.where(is_visible, correlation.clip(0, 1), np.nan)


def extract_detail(images: AnyArray, period: float) -> FloatArray:
    """Return what is finer than two periods: (..., Y, X) less its local mean."""
    return np.asarray(images - _blur(images, period))


def _blur(images: AnyArray, sigma: float) -> FloatArray:
    from scipy.ndimage import gaussian_filter

    sigmas = (0.0,) * (images.ndim - 2) + (sigma, sigma)
    return np.asarray(gaussian_filter(images.astype(np.float64), sigmas, truncate=3.0))


def make_background(images: AnyArray) -> FloatArray:
    """Return images without their objects: their brightness, blurred widely."""
    return _blur(images, BACKGROUND_SIGMA)


def measure_contrast(detail: FloatArray) -> float:
    """Return the height of detail from which on pixels hold half of its energy."""
    heights = np.sort(np.abs(detail), axis=None)[::-1]
    energy = np.cumsum(heights**2)
    return float(heights[np.searchsorted(energy, energy[-1] / 2)])


def compute_peak_density(detail: FloatArray, height: float) -> float:
    """Return the number of local maxima and minima of (..., Y, X) beyond a height, a megapixel."""
    from scipy.ndimage import maximum_filter

    size = np.abs(detail)
    is_peak = (size == maximum_filter(size, (1,) * (size.ndim - 2) + (3, 3))) & (size > height)
    return float(1e6 * is_peak.mean())
