"""What can be measured on a finished restoration: residual, mean intensity, holes, cut-off values.

Numbers only; `napari_dip.pipeline.assess.quality_checks` puts them into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.pipeline.assess.artefact_detection import (
    NO_CLIPPED_PIXELS,
    ClippedPixels,
    PeriodicPattern,
    detect_clipped_pixels,
    find_strongest_pattern,
    measure_biased_parts,
)
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.tasks.inpaint import MIN_DEEP_HOLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.assess.validation_evidence import ConfirmedDetail
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.plan.types import Plan

    Numbers = npt.NDArray[np.floating[Any]]

    MeasuredMask = npt.NDArray[np.bool_] | None

#: Lags, in pixels, at which the residual is compared with the noise.
MAX_RESIDUAL_LAG = 3
#: Classes of brightness within which the residual along edges is compared with that elsewhere, so
#: that noise which grows with brightness is no structure; share of the pixels that count as edges,
#: and as flat.
RESIDUAL_BRIGHTNESS_CLASSES, RESIDUAL_EDGE_SHARE, RESIDUAL_FLAT_SHARE = 8, 0.1, 0.5
#: Pixels of a channel from which on planes or frames evenly spread over a stack stand for all of
#: them: a residual's correlation is sure to 0.001 by then, and sorting takes 80 bytes a pixel.
MAX_ASSESSED_PIXELS = 2**22
#: Percentile that stands for the dark of an image, from which its mean intensity is counted: a
#: camera's offset must not make a bias look small.
DARK_PERCENTILE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualMetrics:
    """What was left of the measurement.

    Attributes
    ----------
    excess : float
        Most that its autocorrelation at lags 1 to `MAX_RESIDUAL_LAG`, along Y or X, lies above the
        noise's.
    strength : float
        Its standard deviation, in units of the measured noise.
    pixels : int
        How many it was measured on.
    at_edges : float
        Its variance where the picture is steep, in units of that where it is flat, at the same
        brightness: noise does not care, structure that was taken out lies along edges.
    is_noise_reliable : bool
        Whether the image could tell its noise; if not, `excess` and `strength` say little.
    far : float
        Share of its parts whose mean is farther from zero than its own scatter explains.
    parts : int
        How many parts there are.
    """

    excess: float
    strength: float
    pixels: int
    at_edges: float = 1.0
    is_noise_reliable: bool = True
    far: float = 0.0
    parts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMetrics:
    """All that a verdict is made from.

    Attributes
    ----------
    residual : ResidualMetrics or None
        None if it tells nothing of the noise.
    bias : float
        Mean of the result less that of the input, as a share of the input's mean above its dark;
        of what would be measured of the result, where noise was cut off.
    put_back : float
        How much of the mean the fit had lost before it was put back; the same share.
    detail, contrast : ConfirmedDetail or None
        What held-out pixels confirm of the fine detail, and of all that differs from the mean.
    filled, far : float
        Share of the pixels that were filled in, and share of these that are far from any measured.
    finer : bool
        Whether the result has finer pixels than the input.
    least, largest : ClippedPixels
    pattern : PeriodicPattern or None
        A fine regular pattern that was taken out.
    reckoned : tuple of float
        Grey values at which noise was cut off that was reckoned back.
    corrected : float
        How much brighter that made the result, the same share.
    unexplained : float
        Mean of the result as it is less that of the input, beyond what the pixels at those grey
        values can explain; the same share.
    """

    residual: ResidualMetrics | None
    bias: float
    put_back: float = 0.0
    detail: ConfirmedDetail | None = None
    contrast: ConfirmedDetail | None = None
    filled: float = 0.0
    far: float = 0.0
    finer: bool = False
    least: ClippedPixels = NO_CLIPPED_PIXELS
    largest: ClippedPixels = NO_CLIPPED_PIXELS
    pattern: PeriodicPattern | None = None
    reckoned: tuple[float, ...] = ()
    corrected: float = 0.0
    unexplained: float = 0.0


def measure_residual(
    residual: Numbers,
    prediction: Numbers,
    measured_mask: MeasuredMask,
    noise: NoiseEstimate,
    of_pixels: Numbers | float = 0.0,
) -> ResidualMetrics:
    """Compare one channel's residual with the noise that was measured.

    Parameters
    ----------
    residual, prediction : ndarray
        (..., Y, X): measurement less prediction, and the prediction, in the image's units.
    measured_mask : ndarray of bool or None
        Where there is a measurement; None: everywhere.
    noise : NoiseEstimate
    of_pixels : ndarray or float
        (Y, X): variance that each pixel's own read noise adds.
    """
    valid = np.ones(residual.shape) if measured_mask is None else measured_mask.astype(np.float64)
    total = max(float(valid.sum()), 1.0)
    scaled = residual / np.sqrt(compute_noise_variance(noise, prediction, of_pixels))
    scaled = (scaled - (scaled * valid).sum() / total) * valid
    power = float((scaled**2).sum() / total)
    excess = [
        _compute_lag_correlation(scaled, valid, lag, axis) / (power or 1.0) - expected
        for axis, along in ((-2, noise.along_y), (-1, noise.along_x))
        for lag, expected in enumerate(along[:MAX_RESIDUAL_LAG], 1)
    ]
    edges = _compare_edge_variance(scaled, prediction, valid > 0)
    far, parts = measure_biased_parts(residual - (residual * valid).sum() / total, measured_mask)
    return ResidualMetrics(
        excess=max(excess, default=0.0),
        strength=float(np.sqrt(power)),
        pixels=int(total),
        at_edges=edges,
        is_noise_reliable=not noise.doubt,
        far=far,
        parts=parts,
    )


def _compute_lag_correlation(
    scaled: npt.NDArray[np.float64], valid: npt.NDArray[np.float64], lag: int, axis: int
) -> float:
    """Mean product of pixels that lie so far apart, of pairs that were both measured."""
    scaled, valid = scaled.swapaxes(axis, -1), valid.swapaxes(axis, -1)
    pairs = float((valid[..., :-lag] * valid[..., lag:]).sum())
    return float((scaled[..., :-lag] * scaled[..., lag:]).sum()) / max(pairs, 1.0)


def _compare_edge_variance(
    scaled: npt.NDArray[np.float64], prediction: Numbers, valid: npt.NDArray[np.bool_]
) -> float:
    """Compare the residual's variance at edges and elsewhere; 1 if there is no telling."""
    steep = _compute_squared_gradient(np.asarray(prediction, np.float64))[valid]
    square, signal = scaled[valid] ** 2, prediction[valid]
    ratios = []
    for places in np.array_split(signal.argsort(kind="stable"), RESIDUAL_BRIGHTNESS_CLASSES):
        order = places[steep[places].argsort(kind="stable")]
        edges, flat = (
            order[len(order) - int(RESIDUAL_EDGE_SHARE * len(order)) :],
            order[: int(RESIDUAL_FLAT_SHARE * len(order))],
        )
        usual = float(square[flat].mean()) if len(flat) else 0.0
        if len(edges) and usual > 0:
            ratios.append(float(square[edges].mean()) / usual)
    # a class where the detector cut off has no noise to speak of, and must not decide
    return float(np.median(ratios)) if ratios else 1.0


def _compute_squared_gradient(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Squared slope of (..., Y, X) over three pixels, averaged across."""
    wide = np.pad(picture, [(0, 0)] * (picture.ndim - 2) + [(1, 1)] * 2, mode="edge")
    down = wide[..., 2:, :] - wide[..., :-2, :]
    down = down[..., :-2] + down[..., 1:-1] + down[..., 2:]
    right = wide[..., 2:] - wide[..., :-2]
    right = right[..., :-2, :] + right[..., 1:-1, :] + right[..., 2:, :]
    return np.asarray(down**2 + right**2)


def select_worst_residual(residuals: list[ResidualMetrics]) -> ResidualMetrics | None:
    """Of several channels, that with the most structure, and the strength farthest from 1."""
    if not residuals:
        return None
    odd = max(residuals, key=lambda item: abs(np.log(max(item.strength, 1e-6))))
    most = max(residuals, key=lambda item: item.excess)
    edges = max(residual.at_edges for residual in residuals)
    is_noise_reliable = all(residual.is_noise_reliable for residual in residuals)
    far = max(residuals, key=lambda item: item.far)
    return ResidualMetrics(
        excess=most.excess,
        strength=odd.strength,
        pixels=most.pixels,
        at_edges=edges,
        is_noise_reliable=is_noise_reliable,
        far=far.far,
        parts=far.parts,
    )


def measure_brightness(
    pixels: npt.NDArray[Any], measured_mask: MeasuredMask = None
) -> tuple[float, float]:
    """Mean of the measured pixels, and how far it lies above the dark of the image."""
    measured = pixels.reshape(-1) if measured_mask is None else pixels[measured_mask]
    if not measured.size:
        return 0.0, 1.0
    mean = float(measured.mean(dtype=np.float64))
    above = mean - float(np.percentile(measured, DARK_PERCENTILE))
    return mean, above if above > 0 else 1.0


def measure_distant_holes(measured_mask: npt.NDArray[np.bool_], steps: int) -> tuple[float, float]:
    """Share of pixels that were not measured, and share of these that are far from any measured.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (parts, C, *grid); nothing is known beyond the borders.
    steps : int
        Pixels from which on it is far, diagonals as one; planes of a volume count as pixels.
    """
    missing = np.any(~measured_mask, axis=1)  # (parts, *grid)
    if not missing.any():
        return 0.0, 0.0
    eroded = missing
    for _ in range(steps):
        for axis in range(1, eroded.ndim):
            turned = eroded.swapaxes(axis, -1)
            smaller = turned.copy()  # what lies beyond a border counts as the border itself
            smaller[..., 1:] &= turned[..., :-1]
            smaller[..., :-1] &= turned[..., 1:]
            eroded = smaller.swapaxes(axis, -1)
        if not eroded.any():
            break
    return float(missing.mean()), float(eroded.sum() / missing.sum())


def measure_result(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    residual: npt.NDArray[np.float64],
    prediction: npt.NDArray[np.float64],
    result: npt.NDArray[Any],
    evidence: Iterable[tuple[float, ...]],
) -> ResultMetrics:
    """Measure a finished run.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    parts : ndarray
        (parts, C, *grid): the input, in the image's units.
    residual, prediction : ndarray
        Of the same shape: the residual, 0 where nothing was measured, and what the detector would
        have seen, before its mean was put back.
    result : ndarray
        (parts, C, *grid), or finer: the picture as it is handed over.
    evidence : iterable of tuple of float
        What the held-out pixels of each unit said.
    """
    from napari_dip.pipeline.assess.validation_evidence import combine_validation_evidence
    from napari_dip.pipeline.calibrate.clipping import (
        apply_clipping,
        bound_clipping_bias,
        list_corrected_limits,
    )

    measured_mask, task = calibration.measured_mask, plan.recipe.task
    some = select_assessed_parts(parts)
    lost, predicted, valid = (
        residual[some],
        prediction[some],
        None if measured_mask is None else measured_mask[some],
    )
    noise_told = task.fits_pixels() and calibration.noise_model != "jpeg"
    noise_told &= measured_mask is None or not task.keeps_measured()
    residuals = [
        measure_residual(
            lost[:, c],
            predicted[:, c],
            None if valid is None else valid[:, c],
            noise,
            calibration.excess_variance,
        )
        for c, noise in enumerate(calibration.noise)
        if noise_told and c not in calibration.constant_channels
    ]
    mean, above = measure_brightness(parts, measured_mask)
    seen_again = apply_clipping(plan, calibration, result)
    result_mean, again = (
        float(item.mean(dtype=np.float64))
        if measured_mask is None
        else measure_brightness(item, measured_mask)[0]
        for item in (result, seen_again)
    )
    raised, lowered = bound_clipping_bias(plan, calibration, parts)
    detail, contrast = combine_validation_evidence(evidence) or (None, None)
    filled, far = (
        (0.0, 0.0) if measured_mask is None else measure_distant_holes(measured_mask, MIN_DEEP_HOLE)
    )
    own = (
        parts
        if calibration.camera_correction is None
        else calibration.camera_correction.as_read(parts)
    )
    if plan.source.dtype[0] in "iu":
        own = np.rint(own).astype(plan.source.dtype)
    least, largest = detect_clipped_pixels(own if measured_mask is None else own[measured_mask])
    return ResultMetrics(
        residual=select_worst_residual(residuals),
        bias=(again - mean) / above,
        put_back=float(
            (residual if measured_mask is None else residual[measured_mask]).mean(dtype=np.float64)
        )
        / above,
        detail=detail,
        contrast=contrast,
        filled=filled,
        far=far,
        finer=max(plan.factors) > 1,
        least=least,
        largest=largest,
        pattern=find_strongest_pattern(lost, parts[some])
        if noise_told and measured_mask is None
        else None,
        reckoned=list_corrected_limits(plan, calibration),
        corrected=(result_mean - again) / above,
        unexplained=(max(result_mean - mean - lowered, 0.0) + min(result_mean - mean + raised, 0.0))
        / above,
    )


def select_assessed_parts(parts: npt.NDArray[Any]) -> slice | npt.NDArray[np.intp]:
    """Choose parts, evenly spread, of `MAX_ASSESSED_PIXELS` pixels a channel; all if there are few.

    Parameters
    ----------
    parts : ndarray
        (parts, C, *grid).
    """
    count, each = len(parts), max(1, parts[:1, :1].size)
    wanted = max(1, MAX_ASSESSED_PIXELS // each)
    if wanted >= count:
        return slice(None)
    return np.linspace(0, count - 1, wanted).round().astype(np.intp)
