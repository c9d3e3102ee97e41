"""Measure a finished restoration: residual, mean intensity, filled holes and clipped values.

`napari_dip.pipeline.assess.quality_checks` compares these metrics with bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.constants import FWHM_PER_SIGMA
from napari_dip.engine.noise import NoiseCaution
from napari_dip.pipeline.assess.artefact_detection import (
    NO_CLIPPED_PIXELS,
    ClippedPixels,
    PeriodicPattern,
    SmoothFill,
    compute_biased_limit,
    detect_clipping,
    find_smooth_fill,
    find_strongest_pattern,
    measure_biased_areas,
)
from napari_dip.pipeline.assess.report import (
    find_changed_plane,
    measure_brightness,
    select_assessed_items,
    serialise_noise,
)
from napari_dip.pipeline.assess.traces import compare_grid_traces, has_enough_frames
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.tasks.inpaint import MIN_DEEP_HOLE
from napari_dip.tasks.noise_models.registry import NOISE_MODELS
from napari_dip.tasks.priors.masked_input import measure_distant_holes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.pipeline.assess.report import PlaneChange
    from napari_dip.pipeline.assess.validation_evidence import ConfirmedChannel, ConfirmedDetail
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome
    from napari_dip.public_types import TraceComparison

    RealArray = npt.NDArray[np.floating[Any]]
    MeasuredMask = BoolArray | None

#: Maximum lag, in pixels, at which the residual's autocorrelation is compared with the noise's.
MAX_RESIDUAL_LAG = 3
#: Number of brightness classes within which the residual along edges is compared with that in flat
#: areas, since noise depends on brightness.
RESIDUAL_BRIGHTNESS_CLASSES = 8
#: Share of a class that is edges.
RESIDUAL_EDGE_FRACTION = 0.1
#: Share of a class that is flat.
RESIDUAL_FLAT_FRACTION = 0.5
#: Ratio of the residual's variance along edges to that elsewhere from which on edges were lost:
#: 0.86 to 1.02 in good results, 4 where noise was overestimated (docs/constants.md).
MIN_LOST_EDGE_RATIO = 2.0
#: As `MIN_LOST_EDGE_RATIO`, for noise of a colour camera: 2.9 at most with the mean of many
#: exposures as the result, in nine crops of cc15.
MIN_LOST_CAMERA_EDGE_RATIO = 3.5
#: Minimum variance of counted photons, in units of its lower bound, at which residuals are compared
#: with the noise: a tenth of a photon. With fewer, one photon is an outlier of three deviations.
MIN_COUNT_VARIANCE = 10.0
#: Side of the squares of saturated pixels in whose middles nothing tells the brightness: by noise
#: around the limit alone, half of the pixels saturated, one place in 30 million is such a middle.
SATURATED_AREA_SIDE = 5
#: Least samples of a profile for the width of a peak: three for each parameter of its fit.
_MIN_PROFILE_SAMPLES = 12
#: Largest correlation of neighbouring residuals that enlarges an error, by a factor of 4.4.
_MAX_PROFILE_CORRELATION = 0.9
#: Least height of a peak over its standard error for a width.
_MIN_PEAK_TO_ERROR = 5.0
#: Least width of a peak in samples; a narrower one is a single pixel.
_MIN_PEAK_SAMPLES = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualMetrics:
    """Metrics of the residual of one channel.

    Attributes
    ----------
    excess : float
        Maximum difference of its autocorrelation and the noise's, at lags 1 to `MAX_RESIDUAL_LAG`
        along Y and X.
    noise_ratio : float
        Standard deviation, in units of the noise, without the brightness where it is greatest.
    pixel_count : int
        Number of pixels that it was measured on.
    edge_variance_ratio : float
        Ratio of its variance along edges to that in flat areas of the same brightness. Noise has a
        ratio of 1; removed structure increases it.
    is_noise_reliable : bool
        Whether the noise estimate is reliable; if not, neither are `excess` and `noise_ratio`.
    biased_fraction : float
        Share of small areas whose mean differs from zero by more than its standard error explains.
    darker_fraction : float
        Share of small areas that are biased, and darker in the result than in the input.
    area_count : int
        Number of small areas.
    relative_rms : float
        Root mean square of the residual, as a share of the image's intensity range.
    is_camera_noise : bool
        Whether the noise is a colour camera's, which is uneven; the limits are then wider.
    """

    excess: float
    noise_ratio: float
    pixel_count: int
    edge_variance_ratio: float = 1.0
    is_noise_reliable: bool = True
    biased_fraction: float = 0.0
    darker_fraction: float = 0.0
    area_count: int = 0
    relative_rms: float = 1.0
    is_camera_noise: bool = False

    @property
    def failure_score(self) -> float:
        """How much of edges or brightness the result has lost; from 1 on, it has failed."""
        limit = MIN_LOST_CAMERA_EDGE_RATIO if self.is_camera_noise else MIN_LOST_EDGE_RATIO
        biased = self.biased_fraction / compute_biased_limit(self.area_count)
        return max(self.edge_variance_ratio / limit, biased)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMetrics:
    """All metrics that the quality checks use.

    Changes of the mean are fractions of the input's mean above its dark level.

    Attributes
    ----------
    residual : ResidualMetrics or None
        None if the residual is not comparable with the noise.
    bias : float or None
        Change of the mean from input to result; None if the task does not keep it. Where noise was
        clipped, the result is clipped in the same way first.
    plane : PlaneChange or None
        The same of single planes, where the image has several.
    mean_correction : float
        Change of the mean by the fit, before the mean was corrected.
    detail, contrast : ConfirmedDetail or None
        Share of fine detail, and of all deviations from the mean, that validation pixels confirm.
    channels : tuple of ConfirmedChannel
        The same of each channel that was fitted by itself; empty for one alone.
    filled_fraction, distant_fraction : float
        Share of the pixels that were filled in, and share of these that are far from any measured.
    smooth_fill : SmoothFill or None
        From which width on holes were filled in without detail; None if none were.
    is_upscaled : bool
        Whether the result has finer pixels than the input.
    lower_clipping, upper_clipping : ClippedPixels
    saturated_fraction : float
        Share of the pixels inside areas that are saturated as a whole.
    pattern : PeriodicPattern or None
        A fine periodic pattern that was removed.
    corrected_limits : tuple of float
        Grey values at which noise was clipped, and the clipping correction applied.
    clipping_correction : float
        Change of the mean by the clipping correction.
    unexplained_bias : float
        Change of the mean from the input to the result before clipping, beyond what pixels at the
        clipped grey values can explain. It may be larger than `bias`.
    border_change : float
        Change of the mean by light that crosses the border; then `bias` is that of the prediction.
    agreement : float or None
        Correlation of measurement and prediction; None where they share no operator but identity.
    traces : TraceComparison or None
        Traces of a grid of regions over time, of result and input; None if they do not tell.
    has_traces : bool
        Whether it is a movie with traces that can be compared.
    has_entered_noise : bool
        Whether the user entered gain or read noise.
    is_instant : bool
        Whether it was made with the shortest preset.
    is_refitted : bool
        Whether validation pixels were fitted in the end, after `detail` and `contrast` were taken.
    """

    residual: ResidualMetrics | None
    bias: float | None
    plane: PlaneChange | None = None
    mean_correction: float = 0.0
    detail: ConfirmedDetail | None = None
    contrast: ConfirmedDetail | None = None
    channels: tuple[ConfirmedChannel, ...] = ()
    filled_fraction: float = 0.0
    distant_fraction: float = 0.0
    smooth_fill: SmoothFill | None = None
    is_upscaled: bool = False
    lower_clipping: ClippedPixels = NO_CLIPPED_PIXELS
    upper_clipping: ClippedPixels = NO_CLIPPED_PIXELS
    saturated_fraction: float = 0.0
    pattern: PeriodicPattern | None = None
    corrected_limits: tuple[float, ...] = ()
    clipping_correction: float = 0.0
    unexplained_bias: float = 0.0
    border_change: float = 0.0
    agreement: float | None = None
    traces: TraceComparison | None = None
    has_traces: bool = False
    has_entered_noise: bool = False
    is_instant: bool = False
    is_refitted: bool = False


def measure_residual(
    residual: RealArray,
    prediction: RealArray,
    measured_mask: MeasuredMask,
    noise_estimate: NoiseEstimate,
    pixel_variance: RealArray | float = 0.0,
) -> ResidualMetrics:
    """Compare the residual of one channel with the measured noise.

    Parameters
    ----------
    residual, prediction : ndarray
        (..., Y, X): measurement minus prediction, and the prediction, in the image's units.
    measured_mask : ndarray of bool or None
        True at measured pixels; None: everywhere.
    noise_estimate : NoiseEstimate
    pixel_variance : ndarray or float
        (Y, X): additional variance from the read noise of single pixels.
    """
    from napari_dip.pipeline.calibrate.clipping import compute_clipped_variance

    valid = np.ones(residual.shape) if measured_mask is None else measured_mask.astype(np.float64)
    total = max(float(valid.sum()), 1.0)
    variance = compute_clipped_variance(noise_estimate, prediction, pixel_variance)
    is_tested = valid > 0
    is_lit = variance >= MIN_COUNT_VARIANCE * noise_estimate.floor
    if noise_estimate.counts_photons and bool((is_tested & is_lit).any()):
        is_tested &= is_lit
    tested_total = max(float(is_tested.sum()), 1.0)
    scaled = residual / np.sqrt(variance)
    tested = is_tested.astype(np.float64)
    scaled = (scaled - (scaled * tested).sum() / tested_total) * tested
    power = float((scaled**2).sum() / tested_total)
    # On strongly curved images, the measured autocorrelation of white noise may lie far below 0,
    # even below -1. As the expected value, it would make every residual look correlated.
    excess = [
        _compute_lag_correlation(scaled, tested, lag, axis) / (power or 1.0) - max(expected, 0.0)
        for axis, autocorrelation in ((-2, noise_estimate.along_y), (-1, noise_estimate.along_x))
        for lag, expected in enumerate(autocorrelation[:MAX_RESIDUAL_LAG], 1)
    ]
    edge_ratio, noise_ratio = _compare_brightness_classes(scaled, prediction, is_tested)
    deviation = residual - (residual * valid).sum() / total
    biased_fraction, darker_fraction, area_count = measure_biased_areas(
        deviation, prediction, measured_mask
    )
    intensity_range = float(np.ptp(prediction)) or 1.0
    relative_rms = float(np.sqrt((deviation**2 * valid).sum() / total)) / intensity_range
    return ResidualMetrics(
        excess=max(excess, default=0.0),
        noise_ratio=noise_ratio,
        pixel_count=int(total),
        edge_variance_ratio=edge_ratio,
        is_noise_reliable=not noise_estimate.unreliable_reason,
        biased_fraction=biased_fraction,
        darker_fraction=darker_fraction,
        area_count=area_count,
        relative_rms=relative_rms,
        is_camera_noise=noise_estimate.caution is NoiseCaution.COLOUR_CAMERA,
    )


def _compute_lag_correlation(scaled: FloatArray, valid: FloatArray, lag: int, axis: int) -> float:
    """Return the autocovariance at one lag, over pairs of measured pixels."""
    scaled, valid = scaled.swapaxes(axis, -1), valid.swapaxes(axis, -1)
    pairs = float((valid[..., :-lag] * valid[..., lag:]).sum())
    return float((scaled[..., :-lag] * scaled[..., lag:]).sum()) / max(pairs, 1.0)


def _compare_brightness_classes(
    scaled: FloatArray, prediction: RealArray, valid: BoolArray
) -> tuple[float, float]:
    """Return the ratio of the residual's variance at edges to that in flat areas, and its RMS.

    The first is the median over classes of brightness, or 1 without edges. The second leaves out
    the class where it is greatest: in the darkest one, noise may be hardly known.
    """
    squared_gradient = _compute_squared_gradient(np.asarray(prediction, np.float64))[valid]
    squared_residual, signal = scaled[valid] ** 2, prediction[valid]
    ratios, powers = [], []
    for indices in np.array_split(signal.argsort(kind="stable"), RESIDUAL_BRIGHTNESS_CLASSES):
        powers += [float(squared_residual[indices].mean())] if len(indices) else []
        order = indices[squared_gradient[indices].argsort(kind="stable")]
        edges = order[len(order) - int(RESIDUAL_EDGE_FRACTION * len(order)) :]
        flat = order[: int(RESIDUAL_FLAT_FRACTION * len(order))]
        flat_variance = float(squared_residual[flat].mean()) if len(flat) else 0.0
        if len(edges) and flat_variance > 0:
            ratios.append(float(squared_residual[edges].mean()) / flat_variance)
    power = np.mean(sorted(powers)[: max(1, len(powers) - 1)] or [0.0])
    # the median is robust to a class of clipped pixels, which has hardly any noise
    return float(np.median(ratios)) if ratios else 1.0, float(np.sqrt(power))


def _compute_squared_gradient(image: FloatArray) -> FloatArray:
    """Return the squared gradient of (..., Y, X), from sums over 3 x 3 pixels (Prewitt)."""
    padded = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(1, 1)] * 2, mode="edge")
    gradient_y = padded[..., 2:, :] - padded[..., :-2, :]
    gradient_y = gradient_y[..., :-2] + gradient_y[..., 1:-1] + gradient_y[..., 2:]
    gradient_x = padded[..., 2:] - padded[..., :-2]
    gradient_x = gradient_x[..., :-2, :] + gradient_x[..., 1:-1, :] + gradient_x[..., 2:, :]
    return np.asarray(gradient_y**2 + gradient_x**2)


def select_worst_residual(residuals: list[ResidualMetrics]) -> ResidualMetrics | None:
    """Combine the residuals of several channels into one with the worst value of each metric."""
    if not residuals:
        return None
    oddest = max(residuals, key=lambda item: abs(np.log(max(item.noise_ratio, 1e-6))))
    most_biased = max(residuals, key=lambda residual: residual.biased_fraction)
    return replace(
        max(residuals, key=lambda item: item.excess),
        noise_ratio=oddest.noise_ratio,
        edge_variance_ratio=max(residual.edge_variance_ratio for residual in residuals),
        is_noise_reliable=all(residual.is_noise_reliable for residual in residuals),
        biased_fraction=most_biased.biased_fraction,
        darker_fraction=most_biased.darker_fraction,
        area_count=most_biased.area_count,
        relative_rms=max(residual.relative_rms for residual in residuals),
    )


def measure_result(
    calibrated_image: CalibratedImage,
    residual: FloatArray,
    prediction: FloatArray,
    result: AnyArray,
    outcomes: Sequence[UnitOutcome],
) -> ResultMetrics:
    """Measure all metrics of a finished run.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        The input.
    residual, prediction : ndarray
        (N, C, *grid): the residual, 0 where nothing was measured, and the predicted
        measurement, both before the mean was corrected.
    result : ndarray
        (N, C, *grid), or finer: the final image.
    outcomes : sequence of UnitOutcome
        Their evidence tells which share of the detail is real.
    """
    from napari_dip.pipeline.assess.validation_evidence import (
        combine_validation_evidence,
        confirm_channels,
    )
    from napari_dip.pipeline.calibrate.clipping import list_corrected_limits

    run_plan, calibration = calibrated_image.run_plan, calibrated_image.calibration
    stack, measured_mask = calibrated_image.stack, calibration.measured_mask
    assessed = select_assessed_items(stack, calibration.empty_items)
    assessed_residual = residual[assessed]
    assessed_prediction = prediction[assessed]
    assessed_mask = None if measured_mask is None else measured_mask[assessed]
    has_comparable_noise = (
        run_plan.recipe.task.spec.explains_pixels
        and NOISE_MODELS[calibration.noise_model].has_noise_residual
    )
    has_comparable_noise &= measured_mask is None or not run_plan.task_plan.keeps_measured_pixels
    residuals = [
        measure_residual(
            assessed_residual[:, c],
            assessed_prediction[:, c],
            None if assessed_mask is None else assessed_mask[:, c],
            noise,
            calibration.excess_variance,
        )
        for c, noise in enumerate(calibration.noise)
        if has_comparable_noise and c not in calibration.constant_channels
    ]
    evidence = [outcome.evidence for outcome in outcomes]
    detail, contrast = combine_validation_evidence(evidence) or (None, None)
    lower_clipping, upper_clipping, saturated_fraction = _detect_clipping(
        run_plan, calibration, stack[assessed] if calibration.empty_items else stack
    )
    has_traces = (
        has_comparable_noise and measured_mask is None and has_enough_frames(run_plan.header)
    )
    noise_settings = run_plan.task_plan.noise_settings
    return ResultMetrics(
        residual=select_worst_residual(residuals),
        detail=detail,
        contrast=contrast,
        channels=confirm_channels(outcomes, run_plan.units),
        is_upscaled=max(run_plan.factors) > 1,
        lower_clipping=lower_clipping,
        upper_clipping=upper_clipping,
        saturated_fraction=saturated_fraction,
        pattern=find_strongest_pattern(assessed_residual, stack[assessed])
        if has_comparable_noise and measured_mask is None
        else None,
        corrected_limits=list_corrected_limits(run_plan, calibration),
        agreement=None
        if run_plan.recipe.task.spec.keeps_pixel_grid or not has_comparable_noise
        else _correlate(stack[assessed], assessed_prediction, assessed_mask),
        has_traces=has_traces,
        has_entered_noise=noise_settings.has_entered_noise,
        is_instant=run_plan.recipe.run_settings.preset == "instant",
        is_refitted=any(unit.refit_iterations and unit.evidence for unit in outcomes),
        traces=compare_grid_traces(
            calibrated_image,
            result if run_plan.recipe.task.spec.keeps_pixel_grid else prediction,
            serialise_noise(calibration),
        )
        if has_traces
        else None,
        **_measure_holes(calibrated_image, assessed, prediction, result),
        **_measure_brightness_changes(calibrated_image, residual, result),
    )


def _measure_holes(
    calibrated_image: CalibratedImage,
    assessed: slice | npt.NDArray[np.intp],
    prediction: FloatArray,
    result: AnyArray,
) -> dict[str, Any]:
    """Measure holes and what fills them, as fields of `ResultMetrics`; none without a mask."""
    calibration = calibrated_image.calibration
    if (measured_mask := calibration.measured_mask) is None:
        return {}
    filled_fraction, distant_fraction = measure_distant_holes(measured_mask, MIN_DEEP_HOLE)
    fields = {"filled_fraction": filled_fraction, "distant_fraction": distant_fraction}
    if result.shape != calibrated_image.stack.shape:
        return fields
    keeps_noise = calibrated_image.run_plan.task_plan.keeps_measured_pixels
    noise_variances = [
        float(compute_noise_variance(noise, prediction[assessed, c]).mean()) if keeps_noise else 0.0
        for c, noise in enumerate(calibration.noise)
    ]
    fill = find_smooth_fill(result[assessed], measured_mask[assessed], noise_variances)
    return {**fields, "smooth_fill": fill}


def _correlate(stack: RealArray, prediction: RealArray, mask: MeasuredMask) -> float | None:
    """Return Pearson's correlation over the measured pixels; None where nothing varies.

    Between an image and its restoration brought to the image's resolution it is the resolution-
    scaled Pearson coefficient of Culley et al., Nat. Methods 15, 2018, doi:10.1038/nmeth.4605.
    """
    measured, predicted = (
        values.reshape(-1) if mask is None else values[mask] for values in (stack, prediction)
    )
    if not measured.std() or not predicted.std():
        return None
    return float(np.corrcoef(measured, predicted)[0, 1])


def _measure_brightness_changes(
    calibrated_image: CalibratedImage, residual: FloatArray, result: AnyArray
) -> dict[str, Any]:
    """Compare the mean of the result with that of the input, as fields of `ResultMetrics`."""
    from napari_dip.pipeline.calibrate.clipping import apply_clipping, bound_clipping_bias

    plan, calibration = calibrated_image.run_plan, calibrated_image.calibration
    stack, measured_mask = calibrated_image.stack, calibration.measured_mask
    mean, mean_height = measure_brightness(stack, measured_mask)
    results = result, apply_clipping(plan, calibration, result)
    result_mean, clipped_mean = (
        float(pixels.mean(dtype=np.float64))
        if measured_mask is None
        else measure_brightness(pixels, measured_mask)[0]
        for pixels in results
    )
    raised, lowered = bound_clipping_bias(plan, calibration, stack)
    measured_residual = residual if measured_mask is None else residual[measured_mask]
    unexplained = max(result_mean - mean - lowered, 0.0) + min(result_mean - mean + raised, 0.0)
    spec = plan.recipe.task.spec
    judges_mean = spec.keeps_mean and spec.explains_pixels  # activations may not tell it
    change, border_change = result_mean - mean, 0.0
    # light far beyond a limit is measured as the limit, without noise: the truth lies between
    low, high = sorted((clipped_mean - mean, change))
    bias = max(low, 0.0) + min(high, 0.0)
    if spec.light_crosses_border:  # the operator brings light into the field of view, and out of it
        border_change, unexplained, bias, change = change, 0.0, 0.0, 0.0
    return {
        "bias": bias / mean_height if judges_mean else None,
        "plane": find_changed_plane(calibrated_image, residual, results) if judges_mean else None,
        "border_change": border_change / mean_height,
        "mean_correction": float(measured_residual.mean(dtype=np.float64)) / mean_height,
        "clipping_correction": (change - bias) / mean_height,
        "unexplained_bias": unexplained / mean_height,
    }


def _detect_clipping(
    plan: Plan, calibration: Calibration, stack: Float32Array
) -> tuple[ClippedPixels, ClippedPixels, float]:
    """Detect clipped pixels at black and at white, in the values that the camera wrote.

    Also returned is the share of the pixels inside saturated areas.
    """
    correction, measured_mask = calibration.camera_correction, calibration.measured_mask
    recorded = stack if correction is None else correction.undo(stack)
    if plan.header.dtype[0] in "iu":
        recorded = np.rint(recorded).astype(plan.header.dtype)
    are_colours = "S" in plan.header.axes
    limits = detect_clipping(recorded, measured_mask, calibration.noise, are_colours=are_colours)
    return *limits, _measure_saturated_areas(recorded, limits[1])


def _measure_saturated_areas(stack: AnyArray, upper_clipping: ClippedPixels) -> float:
    """Return the share of the pixels (N, C, *grid) all of whose neighbours are saturated."""
    if not upper_clipping.fraction:
        return 0.0
    from scipy import ndimage

    number = upper_clipping.channel_number
    channels = stack if number is None else stack[:, number - 1 : number]
    planes = (channels >= upper_clipping.value).reshape(-1, *stack.shape[-2:])
    window = np.ones((1, SATURATED_AREA_SIDE, SATURATED_AREA_SIDE), bool)
    return float(ndimage.binary_erosion(planes, window).mean())


class NoPeakWidth(Enum):
    """Why a profile has no width of a peak."""

    SHORT_LINE = "short-line"
    NO_SINGLE_PEAK = "no-single-peak"
    WEAK_PEAK = "weak-peak"
    NARROW_PEAK = "narrow-peak"
    CUT_PEAK = "cut-peak"


def measure_peak_width(
    distance: FloatArray, intensity: FloatArray, noise: float = 0.0
) -> tuple[float, float] | NoPeakWidth:
    """Return the full width at half maximum of the peak in a profile, and its standard error.

    A Gaussian plus a constant background is fitted by least squares. The error is that of the
    residuals, enlarged where neighbouring residuals are alike.

    Parameters
    ----------
    distance : ndarray
        Evenly spaced.
    intensity : ndarray
        NaN where there is no pixel.
    noise : float
        Least standard deviation of a sample for the error of the width. A result is smooth, and
        its residuals do not show how wrong it is.

    Returns
    -------
    (float, float) or NoPeakWidth
        In the unit of the distance. It takes one peak, which stands out of the noise, and a line
        of four of its widths; on a shorter one the background cannot be told from the peak.
    """
    from scipy import ndimage, optimize, signal  # a tenth of a second

    samples = intensity[np.isfinite(intensity)]
    if len(samples) < _MIN_PROFILE_SAMPLES:
        return NoPeakWidth.SHORT_LINE
    smooth = ndimage.gaussian_filter1d(samples, 1.0, mode="nearest")
    peaks, _ = signal.find_peaks(smooth, prominence=np.ptp(smooth) / 2)
    if len(peaks) != 1:
        return NoPeakWidth.NO_SINGLE_PEAK
    positions = np.arange(len(samples))

    def compute_residuals(values: FloatArray) -> FloatArray:
        height, middle, sigma, background = values
        gaussian = np.exp(-0.5 * ((positions - middle) / sigma) ** 2)
        return np.asarray(background + height * gaussian - samples)

    start = np.array([np.ptp(smooth), peaks[0], 2.0, smooth.min()])
    fit = optimize.least_squares(compute_residuals, start, method="lm")
    product = float((fit.fun[1:] * fit.fun[:-1]).sum() / max(2 * fit.cost, 1e-30))
    correlation = min(max(product, 0.0), _MAX_PROFILE_CORRELATION)
    variance = 2 * fit.cost / (len(samples) - 4) * (1 + correlation) / (1 - correlation)
    deviation = float(np.sqrt(variance))
    height_error, _, sigma_error, _ = np.sqrt(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)))
    height, middle = fit.x[:2]
    width = FWHM_PER_SIGMA * abs(fit.x[2])
    error = FWHM_PER_SIGMA * sigma_error * max(deviation, noise)
    is_significant = height > _MIN_PEAK_TO_ERROR * deviation * height_error and error < width / 2
    room = min(middle, len(samples) - 1 - middle)
    if not (fit.success and is_significant):
        return NoPeakWidth.WEAK_PEAK
    if width < _MIN_PEAK_SAMPLES or room < 2 * width:
        return NoPeakWidth.NARROW_PEAK if width < _MIN_PEAK_SAMPLES else NoPeakWidth.CUT_PEAK
    step = float(distance[1] - distance[0])
    return float(width) * step, float(error) * step
