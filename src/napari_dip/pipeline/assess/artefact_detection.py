"""Detect removed patterns, smooth holes, clipped pixels and wrong brightness; weaken the noise.

A periodic pattern concentrates its power at single frequencies, while noise spreads it over all.
Clipping leaves more pixels at an extreme value than at the values next to it. Wrong brightness
gives the residual a mean other than zero in small areas. That test does not use the measured
noise, because a wrong noise estimate would agree with its own result.

If the noise was overestimated, the fit removes structure as noise. Lost edges and brightness show
that, and smooth areas of the residual give an upper bound of the noise for a new run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.noise import UnreliableReason
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    identify_noise_model,
    select_spread_planes,
)
from napari_dip.pipeline.calibrate.types import compute_validation_fraction
from napari_dip.pipeline.plan.layout import cut_into_blocks, to_stack
from napari_dip.tasks.noise_models.registry import NOISE_MODELS
from napari_dip.tasks.priors.masked_input import compute_hole_depths, measure_hole_width
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration
    from napari_dip.pipeline.restoration import Restoration

    Power = FloatArray

#: Maximum number of new runs with weaker noise. One was enough for overestimates of 4 to 400 times
#: (docs/constants.md).
MAX_RETRY_ROUNDS = 2
#: Maximum noise variance of a new run, relative to the run before.
MAX_RETRY_VARIANCE_FRACTION = 0.25
#: Variance of calm areas of the residual, in units of the noise, above which it confirms the noise:
#: 0.68 in a mostly black crop of Hagen mito-confocal, less where noise was 3 to 400 times too
#: strong.
MAX_CALM_NOISE_FRACTION = 0.5
#: Quantile of the residual's variance over areas that bounds the noise, since smooth areas lose
#: least structure.
CALM_AREA_QUANTILE = 0.25
#: Minimum share of the noise variance in a new run.
MIN_RETRY_VARIANCE_FRACTION = 1e-4
#: Standard deviation of the noise at the smallest value, in units of the gain, below which it
#: means no photon: 0.02 to 0.46 on 18 images of FMD, W2S and Hagen et al., 0.6 to 15 on the others.
MAX_DARK_NOISE_SHARE = 0.5
#: Maximum period of a fine pattern, in pixels. Lines of 6 pixels are learned after ten iterations,
#: lines of 16 pixels together with the image (docs/where-it-fails.md).
MAX_PATTERN_PERIOD = 8.0
#: Minimum ratio of a frequency's power to that around it: at most 16 in 220 fields of noise, 13 in
#: residuals of images, except 55 for lines of print (docs/constants.md).
MIN_PATTERN_POWER_RATIO = 40.0
#: Minimum share of the residual's variance that is a pattern, below which it is hardly visible
#: (docs/constants.md).
MIN_PATTERN_FRACTION = 0.02
#: Minimum share of the measured pattern that was removed.
MIN_PATTERN_LOSS = 0.25
#: Frequencies on each side that form the background of a peak.
_BACKGROUND_RADIUS = 8
#: Frequencies on each side that belong to a peak: a Hann window spreads a single one over two.
_PEAK_RADIUS = 2
#: Minimum side of a plane, in pixels, for which a peak can be compared with its background.
_MIN_PATTERN_SIDE = 4 * _BACKGROUND_RADIUS
#: Sides of the windows, in pixels, whose means differ by the detail that filled pixels are compared
#: in: single pixels hold noise where the measurement was kept.
_FILL_WINDOWS = (3, 9)
#: Variance of the difference of `_FILL_WINDOWS` in white noise of variance 1, from their weights.
_FILL_NOISE = 1 / 9 - 1 / 81
#: Minimum number of filled pixels whose detail is measured: about ten windows of the smaller side.
_MIN_FILL_PIXELS = 100
#: Standard deviation of detail in filled pixels, relative to that around the holes, below which
#: they are smooth. In discs of 12 to 60 pixels in mitochondria, at most a third of the detail was
#: right where it is lower (docs/constants.md).
MAX_SMOOTH_RATIO = 0.5
#: Detail around the holes below this share of the contrast is not visible.
_MIN_FILL_DETAIL = 0.1
#: Minimum share of all pixels at an extreme value that is reported.
MIN_PLATEAU_FRACTION = 1e-4
#: Minimum number of pixels at an extreme value for a plateau.
MIN_PLATEAU_PIXELS = 4
#: Minimum ratio of the number of pixels at an extreme value to the typical number per nearby value.
#: The histogram of an unclipped image falls towards its end.
MIN_PLATEAU_PIXEL_RATIO = 3.0
#: Maximum number of grey values beyond a plateau.
MAX_STRAY_VALUES = 3
#: Maximum number of pixels beyond a plateau, as a share of it: up to 0.009 in FMD Confocal_BPAE_B
#: and R, whose black is 3 with a few pixels at 2 (docs/constants.md).
MAX_STRAY_FRACTION = 0.02
#: Sections of the range next to an extreme value that it is compared with, as fractions.
PLATEAU_COMPARISON_SPANS = (1 / 50, 1 / 10, 1 / 2)
#: Minimum number of distinct values in the section that is used, the first with as many: images of
#: few photons have few values.
MIN_COMPARISON_VALUES = 3
#: Side of the areas in pixels.
LOCAL_AREA_SIDE = 16
#: Number of sub-areas along each axis of an area. They are as wide as the correlation length in
#: FMD's widefield images, so their means are nearly independent.
SUB_AREAS_PER_SIDE = 4
#: Standard errors from which on the mean of an area counts as biased. With 16 sub-areas, 1 in 900
#: areas exceeds it by chance.
BIAS_STANDARD_ERRORS = 4.0
#: Least bias of an area, as a share of the range of 99 % of the result's pixels: at most 0.012 in
#: good deblurred images, 0.02 and more where noise was overestimated 20 times (docs/constants.md).
MIN_VISIBLE_BIAS = 0.01
#: Maximum share of biased areas: at most 0.031 in eight good results, 0.08 to 0.20 where noise was
#: overestimated four times (docs/constants.md).
MAX_BIASED_FRACTION = 0.05
#: Minimum number of areas for this test.
MIN_LOCAL_AREAS = 16
#: Maximum brightness of black pixels, as a share of the range. The next brighter value is that of
#: one photon where photons are counted; an area has at least the standard error of one.
BLACK_FRACTION = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicPattern:
    """Periodic pattern that was found in a residual.

    Attributes
    ----------
    period : float
        In pixels.
    fraction : float
        Share of the residual's variance.
    removed_fraction : float
        Share of the measured pattern's power that is in the residual.
    """

    period: float
    fraction: float
    removed_fraction: float


def detect_pattern(residual: AnyArray, measured: AnyArray) -> PeriodicPattern | None:
    """Find the strongest fine periodic pattern in a residual.

    Parameters
    ----------
    residual, measured : ndarray
        (planes, Y, X): the residual, and the measurement.

    Returns
    -------
    PeriodicPattern or None
        None if no pattern is clear and strong enough, or the planes are too small.
    """
    if min(residual.shape[1:]) < _MIN_PATTERN_SIDE:
        return None
    plane_indices = select_spread_planes(len(residual))
    power = np.mean([_compute_windowed_power(residual[index]) for index in plane_indices], 0)
    frequency_y, frequency_x = (np.fft.fftfreq(count) for count in power.shape)
    radius = np.hypot(frequency_y[:, None], frequency_x[None])
    ratio = np.where(radius >= 1 / MAX_PATTERN_PERIOD, power / _estimate_background_power(power), 0)
    peak = np.unravel_index(int(ratio.argmax()), ratio.shape)
    if ratio[peak] < MIN_PATTERN_POWER_RATIO:
        return None
    coordinates = [(int(place), size) for place, size in zip(peak, power.shape, strict=True)]
    reach = np.arange(-_PEAK_RADIUS, _PEAK_RADIUS + 1)
    peak_area = np.ix_(*((place + reach) % size for place, size in coordinates))
    has_mirror_peak = any(2 * place % size for place, size in coordinates)
    peak_power, total_power = float(power[peak_area].sum()), float(power.sum())
    fraction = (1 + has_mirror_peak) * peak_power / total_power if total_power else 0.0
    measured_power = np.mean([_compute_windowed_power(measured[i]) for i in plane_indices], 0)
    removed_fraction = peak_power / max(float(measured_power[peak_area].sum()), 1e-300)
    if fraction < MIN_PATTERN_FRACTION or removed_fraction < MIN_PATTERN_LOSS:
        return None
    return PeriodicPattern(
        period=1 / float(radius[peak]),
        fraction=min(fraction, 1.0),
        removed_fraction=min(removed_fraction, 1.0),
    )


def _compute_windowed_power(plane: AnyArray) -> Power:
    """Return the power spectrum of a plane without its mean, under a Hann window."""
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in plane.shape))
    centred = (plane - plane.mean(dtype=np.float64)) * window
    return np.asarray(np.abs(np.fft.fft2(centred)) ** 2)


def _estimate_background_power(power: Power) -> Power:
    """Return the background power around each frequency.

    It is the maximum of the means over a square box, a column and a row. Stripes and lost edges
    raise whole lines of frequencies, which are not a periodic pattern.
    """
    width = 2 * _BACKGROUND_RADIUS + 1
    sizes = (width, width), (4 * width, 1), (1, 4 * width)
    return np.asarray(np.maximum.reduce([_average_without_peak(power, size) for size in sizes]))


def _average_without_peak(power: Power, size: tuple[int, int]) -> Power:
    """Return the mean over a box around each frequency, without the peak in its centre."""
    box = [min(length, side // 2) | 1 for length, side in zip(size, power.shape, strict=True)]
    peak = [min(length, 2 * _PEAK_RADIUS + 1) for length in box]
    background_sum = _sum_box(power, box) - _sum_box(power, peak)
    return np.asarray(np.maximum(background_sum / (np.prod(box) - np.prod(peak)), 1e-300))


def _sum_box(power: Power, size: Sequence[int]) -> Power:
    """Return the sum over a box of odd sides around each frequency, with periodic borders."""
    for axis, count in enumerate(size):
        padding = [(0, 0)] * axis + [(count // 2 + 1, count // 2)] + [(0, 0)] * (1 - axis)
        sums = np.pad(power, padding, mode="wrap").cumsum(axis)
        end_sums, start_sums = (
            sums.take(range(begin, begin + power.shape[axis]), axis) for begin in (count, 0)
        )
        power = end_sums - start_sums
    return power


def find_strongest_pattern(residual: AnyArray, stack: Float32Array) -> PeriodicPattern | None:
    """Return the strongest periodic pattern that a channel has lost; None if there is none.

    Parameters
    ----------
    residual, stack : ndarray
        (N, C, *grid): residual and measurement.
    """
    patterns = [
        detect_pattern(*(item[:, c].reshape(-1, *item.shape[-2:]) for item in (residual, stack)))
        for c in range(stack.shape[1])
    ]
    return max(filter(None, patterns), key=lambda item: item.fraction, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothFill:
    """Holes that were filled in without the detail of their surroundings.

    Attributes
    ----------
    width : int
        Width in pixels from which on holes are smooth, twice the depth at a border; 0: all are.
    detail_ratio : float
        Standard deviation of the detail in wider ones, relative to that of the measured pixels
        around all holes.
    widest : int
        Width of the widest hole in a plane, in pixels; 0 if all missing planes are so as a whole.
    """

    width: int
    detail_ratio: float
    widest: int


def find_smooth_fill(
    result: AnyArray, measured_mask: BoolArray, noise_variances: Sequence[float]
) -> SmoothFill | None:
    """Return from which width on holes are smooth; None if none is, or there is no detail around.

    Parameters
    ----------
    result : ndarray
        (N, C, *grid).
    measured_mask : ndarray of bool
        (N, C, *grid).
    noise_variances : sequence of float
        Variance of the noise that the measured pixels of the result still have, for each channel.
    """
    from scipy import ndimage  # takes a tenth of a second

    missing = np.any(~measured_mask, axis=1)
    plane = (1,) * (missing.ndim - 2)
    _, wide = _FILL_WINDOWS
    near = ndimage.maximum_filter(missing, (*plane, 2 * wide + 1, 2 * wide + 1)) & ~missing
    if not near.any() or not missing.any():
        return None
    powers, references = [], []
    for channel, noise_variance in enumerate(noise_variances):
        pixels = np.asarray(result[:, channel], np.float64)
        fine, coarse = (
            ndimage.uniform_filter(pixels, (*plane, side, side)) for side in _FILL_WINDOWS
        )
        power = (fine - coarse) ** 2
        noise = _FILL_NOISE * noise_variance
        reference = float(power[near].mean()) - noise
        if reference > max(noise, _MIN_FILL_DETAIL**2 * float(pixels[~missing].var())):
            powers.append(power)
            references.append(reference)
    depth = compute_hole_depths(missing)
    depth[missing.all(axis=tuple(range(1, missing.ndim)))] = 0  # a whole frame has no rim
    for least in range(1, int(depth.max()) + 1) if powers else ():
        inside = depth >= least
        if int(inside.sum()) < _MIN_FILL_PIXELS:
            break
        ratios = [
            float(power[inside].mean()) / reference
            for power, reference in zip(powers, references, strict=True)
        ]
        ratio = sqrt(sum(ratios) / len(ratios))
        if ratio < MAX_SMOOTH_RATIO:
            planes = [p for p in missing.reshape(-1, *missing.shape[-2:]) if not p.all()]
            widest = max(map(measure_hole_width, planes), default=0)
            return SmoothFill(width=2 * (least - 1), detail_ratio=ratio, widest=widest)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedPixels:
    """Clipping at one end of an image's range.

    Attributes
    ----------
    fraction : float
        Share of all pixels that are clipped; 0 without clipping.
    value : float
        The extreme value.
    channel_number : int or None
        The channel, counted from 1, if it is about one of several.
    """

    fraction: float
    value: float
    channel_number: int | None = None


#: Value for an image without clipped pixels.
NO_CLIPPED_PIXELS = ClippedPixels(fraction=0.0, value=0.0)


def detect_clipped_pixels(
    pixels: AnyArray, noise_estimates: Sequence[NoiseEstimate] = ()
) -> tuple[ClippedPixels, ClippedPixels]:
    """Detect clipped pixels at the smallest and the largest value.

    Parameters
    ----------
    pixels : ndarray
        Measured pixels of any shape and type; values that are not finite are ignored.
    noise_estimates : sequence of NoiseEstimate
        Noise of each channel. If the smallest value, or the largest of an inverted image, means
        no photon, none is clipped there.

    Returns
    -------
    least, largest : ClippedPixels
    """
    flat = pixels.reshape(-1)
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if not flat.size:
        return NO_CLIPPED_PIXELS, NO_CLIPPED_PIXELS
    least = float(flat.min())
    span = float(flat.max()) - least
    type_info = np.iinfo(flat.dtype) if flat.dtype.kind in "iu" else None
    is_dark_silent, is_bright_silent = (
        bool(noise_estimates)
        and all(_means_no_photon(value, sign, estimate) for estimate in noise_estimates)
        for value, sign in ((least, 1), (least + span, -1))
    )
    lower_limit = float(type_info.min) if type_info and flat.dtype.kind == "i" else None
    upper_limit = float(type_info.max) if type_info else None
    return (
        NO_CLIPPED_PIXELS if is_dark_silent else _find_plateau(flat, span, lower_limit),
        NO_CLIPPED_PIXELS if is_bright_silent else _find_plateau(flat, -span, upper_limit),
    )


def detect_clipping(
    stack: AnyArray,
    mask: BoolArray | None = None,
    noise_estimates: Sequence[NoiseEstimate] = (),
    *,
    are_colours: bool = False,
) -> tuple[ClippedPixels, ClippedPixels]:
    """Detect clipped pixels as `detect_clipped_pixels` does, at each end in the channel with most.

    Parameters
    ----------
    stack, mask : ndarray
        (N, C, *grid); True for measured pixels. No mask: all are.
    noise_estimates : sequence of NoiseEstimate
        Of each channel; empty if unknown.
    are_colours : bool
        Whether the channels are red, green and blue, which have one range.
    """
    pixels = [
        stack[:, c] if mask is None else stack[:, c][mask[:, c]] for c in range(stack.shape[1])
    ]
    varied = [c for c, channel in enumerate(pixels) if channel.size and np.ptp(channel)]
    if are_colours or len(varied) < 2:
        estimates = [noise_estimates[c] for c in varied if noise_estimates]
        return detect_clipped_pixels(stack if mask is None else stack[mask], estimates)
    limits = []
    for c in varied:
        ends = detect_clipped_pixels(pixels[c], noise_estimates[c : c + 1])
        limits.append([replace(end, channel_number=c + 1) for end in ends])
    least, largest = (max(ends, key=lambda end: end.fraction) for ends in zip(*limits, strict=True))
    return least, largest


def _means_no_photon(value: float, sign: int, noise: NoiseEstimate) -> bool:
    """Return whether noise vanishes at the smallest value, sign 1, or at the largest, sign -1."""
    std = float(compute_noise_variance(noise, value)) ** 0.5
    is_dark = noise.counts_photons and sign > 0
    return is_dark or std < MAX_DARK_NOISE_SHARE * sign * noise.gain


def _find_plateau(flat: AnyArray, span: float, limit: float | None) -> ClippedPixels:
    """Find the plateau at the extreme value, or at a next value beyond which few pixels lie.

    Parameters
    ----------
    flat : ndarray
        All pixels, as one axis.
    span : float
        Signed distance from the extreme value to the other end of the range.
    limit : float or None
        Limit of an integer type, where all pixels count as clipped.
    """
    plateaus: list[ClippedPixels] = []
    rest, beyond = flat, 0
    for _ in range(MAX_STRAY_VALUES + 1):
        value = float(rest.max() if span < 0 else rest.min())
        inner = rest[rest < value] if span < 0 else rest[rest > value]
        count = rest.size - inner.size
        if beyond <= MAX_STRAY_FRACTION * count:
            plateaus.append(_detect_plateau(flat, value, span, is_limit=value == limit))
        rest, beyond = inner, beyond + count
        if plateaus[-1].fraction or not rest.size:
            break
    return next((plateau for plateau in plateaus if plateau.fraction), plateaus[0])


def _detect_plateau(flat: AnyArray, value: float, span: float, *, is_limit: bool) -> ClippedPixels:
    """Detect a plateau of the histogram at one end of a range.

    Parameters
    ----------
    flat : ndarray
        All pixels, as one axis.
    value : float
        The extreme value.
    span : float
        Signed distance from `value` to the other end of the range.
    is_limit : bool
        Whether `value` is the limit of an integer type, where all pixels count as clipped.
    """
    value_count = int((flat == value).sum())
    fraction = value_count / flat.size
    if fraction < MIN_PLATEAU_FRACTION or value_count < MIN_PLATEAU_PIXELS:
        return ClippedPixels(fraction=0.0, value=value)
    typical_count = 0.0
    for span_fraction in PLATEAU_COMPARISON_SPANS:
        low, high = sorted((value, value + span_fraction * span))
        nearby_values = flat[(flat >= low) & (flat <= high) & (flat != value)]
        counts = np.unique(nearby_values, return_counts=True)[1]
        if counts.size >= MIN_COMPARISON_VALUES:
            # one frequent value beside a plateau, or a long tail, should not hide it
            typical_count = float(min(np.median(counts), counts.mean()))
            break
    is_plateau = is_limit or value_count > MIN_PLATEAU_PIXEL_RATIO * typical_count
    return ClippedPixels(fraction=fraction if is_plateau else 0.0, value=value)


def measure_biased_areas(
    residual: npt.NDArray[np.floating],
    prediction: npt.NDArray[np.floating],
    measured_mask: BoolArray | None,
) -> tuple[float, float, int]:
    """Return the share of areas with a biased mean, that of darker ones, and the number of areas.

    A bias counts if it is more than chance explains, and large enough to be seen.

    Parameters
    ----------
    residual, prediction : ndarray
        (..., Y, X): measurement minus result, and the result, of one channel.
    measured_mask : ndarray of bool or None
        True at measured pixels; None: everywhere. Areas with missing pixels are ignored.
    """
    sub_area = SUB_AREAS_PER_SIDE, LOCAL_AREA_SIDE // SUB_AREAS_PER_SIDE

    def compute_sub_area_means(image: npt.NDArray[np.floating]) -> FloatArray:
        areas = cut_into_blocks(image, LOCAL_AREA_SIDE)
        *items, rows, _, columns, _ = areas.shape
        sub_areas = areas.reshape(*items, rows, *sub_area, columns, *sub_area)
        means = np.moveaxis(sub_areas.mean((-4, -1), dtype=np.float64), -3, -2)
        return np.asarray(means.reshape(-1, SUB_AREAS_PER_SIDE**2), np.float64)

    means = compute_sub_area_means(residual)
    if measured_mask is not None:
        measured_shares = compute_sub_area_means(measured_mask.astype(np.float32))
        means = means[measured_shares.min(1, initial=1.0) == 1]
    if not len(means):
        return 0.0, 0.0, 0
    min_error = _find_event(residual + prediction) / LOCAL_AREA_SIDE**2
    min_error = max(min_error, float(np.finfo(np.float32).tiny))
    standard_errors = np.maximum(means.std(1, ddof=1) / SUB_AREAS_PER_SIDE, min_error)
    bias = means.mean(1)
    low, high = np.percentile(prediction, (0.5, 99.5))
    least = np.maximum(BIAS_STANDARD_ERRORS * standard_errors, MIN_VISIBLE_BIAS * (high - low))
    is_biased = np.abs(bias) > least
    return float(is_biased.mean()), float((is_biased & (bias > 0)).mean()), len(means)


def _find_event(measured: npt.NDArray[np.floating]) -> float:
    """Return the least brightness above black, such as that of one photon."""
    black = measured.min()
    brighter = measured[measured > black + BLACK_FRACTION * np.ptp(measured)]
    return float(brighter.min() - black) if brighter.size else 0.0


def compute_biased_limit(area_count: int) -> float:
    """Return the maximum share of biased areas, raised by three standard errors for few areas."""
    if area_count < MIN_LOCAL_AREAS:
        return 1.0
    variance = MAX_BIASED_FRACTION * (1 - MAX_BIASED_FRACTION) / area_count
    return MAX_BIASED_FRACTION + 3 * sqrt(variance)


def calibrate_for_weaker_noise(
    calibrated_image: CalibratedImage, result: Restoration
) -> Calibration | None:
    """Return a calibration with weaker noise if a result has failed; otherwise None.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        With the calibration of the result. Noise that the user specified is never changed.
    result : Restoration
    """
    run_plan, calibration = calibrated_image.run_plan, calibrated_image.calibration
    noise_settings = run_plan.task_plan.noise_settings
    is_excluded = noise_settings.model != "auto" or noise_settings.has_entered_noise
    is_excluded |= not NOISE_MODELS[calibration.noise_model].has_variance_model
    # with random input, a fit learns detail late, whatever noise was measured
    is_excluded |= not PRIOR_SPECS[run_plan.fit_config.prior_key].input_traits.contains_image
    is_excluded |= not run_plan.recipe.task.spec.offers_noise_models
    noise_inputs = calibration.repeated_exposure, calibration.measured_mask
    is_excluded |= any(each is not None for each in noise_inputs)
    is_excluded |= calibration.camera_correction is not calibration.level_correction
    if is_excluded or result.residual is None or result.failure_score < 1:
        return None
    is_exact = all(estimate.counts_photons for estimate in calibration.noise)
    if is_exact or calibration.camera_noise is not None:
        return None  # of a camera, the residual is uneven even where the result is right
    header, layout = calibrated_image.header, calibrated_image.layout
    residual = to_stack(result.residual, header.axes, layout) / calibration.noise_level
    fractions = [
        _measure_calm_noise(channel_noise, calibrated_image.stack[:, c], residual[:, c])
        for c, channel_noise in enumerate(calibration.noise)
    ]
    if min(fractions) > MAX_CALM_NOISE_FRACTION:
        return None  # the residual confirms the noise; something else went wrong
    noise = tuple(map(_weaken_noise, calibration.noise, fractions))
    blind_spot_size = calibration.blind_spot_size
    if not run_plan.task_plan.blind_spot_shape:
        blind_spot_size = (1,) * len(blind_spot_size)
    return replace(
        calibration,
        noise=noise,
        blind_spot_size=blind_spot_size,
        validation_fraction=compute_validation_fraction(blind_spot_size, residual[0, 0].size),
        noise_model=identify_noise_model(noise, noise_settings),
        notes=(*calibration.notes, make_note("noise-weaker")),
        half_resolution=None,
        camera_noise=None,
    )


def _measure_calm_noise(
    noise_estimate: NoiseEstimate, measured: Float32Array, residual: Float32Array
) -> float:
    """Return the variance of calm areas of a residual, in units of the noise at their brightness.

    The brightness is that of the measurement, since the result may have another one.
    """
    area_means = cut_into_blocks(measured, LOCAL_AREA_SIDE).mean((-3, -1), dtype=np.float64)
    area_variances = cut_into_blocks(residual, LOCAL_AREA_SIDE).var((-3, -1), dtype=np.float64)
    ratios = area_variances / compute_noise_variance(noise_estimate, area_means)
    return float(np.quantile(ratios, CALM_AREA_QUANTILE))


def _weaken_noise(noise_estimate: NoiseEstimate, fraction: float) -> NoiseEstimate:
    """Return white noise with this share of the variance, or less, unless the share confirms it."""
    if fraction > MAX_CALM_NOISE_FRACTION:
        return noise_estimate
    fraction = min(MAX_RETRY_VARIANCE_FRACTION, max(fraction, MIN_RETRY_VARIANCE_FRACTION))
    return replace(
        noise_estimate.scale_to_white(fraction),
        unreliable_reason=noise_estimate.unreliable_reason or UnreliableReason.TEXTURE,
        caution=None,
    )
