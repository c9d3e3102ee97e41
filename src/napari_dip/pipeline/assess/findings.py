"""What can be measured on a finished restoration: residual, mean intensity, holes, cut-off values.

Numbers only; `napari_dip.pipeline.assess.verdict` puts them into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.pipeline.assess.patterns import (
    WHOLE,
    CutOff,
    Pattern,
    cut_off,
    measure_biased_parts,
    strongest_pattern,
)
from napari_dip.pipeline.calibrate.noise import noise_variance
from napari_dip.tasks.inpaint import MIN_DEEP_HOLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.assess.evidence import ConfirmedDetail
    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.plan.types import Plan

    Numbers = npt.NDArray[np.floating[Any]]

    Known = npt.NDArray[np.bool_] | None

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


@dataclass(frozen=True, slots=True)
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
    told : bool
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
    told: bool = True
    far: float = 0.0
    parts: int = 0


@dataclass(frozen=True, slots=True)
class ResultMetrics:
    """All that a verdict is made from.

    Attributes
    ----------
    residual : Residual or None
        None if it tells nothing of the noise.
    bias : float
        Mean of the result less that of the input, as a share of the input's mean above its dark;
        of what would be measured of the result, where noise was cut off.
    put_back : float
        How much of the mean the fit had lost before it was put back; the same share.
    detail, contrast : Confirmed or None
        What held-out pixels confirm of the fine detail, and of all that differs from the mean.
    filled, far : float
        Share of the pixels that were filled in, and share of these that are far from any measured.
    finer : bool
        Whether the result has finer pixels than the input.
    least, largest : CutOff
    pattern : Pattern or None
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
    least: CutOff = WHOLE
    largest: CutOff = WHOLE
    pattern: Pattern | None = None
    reckoned: tuple[float, ...] = ()
    corrected: float = 0.0
    unexplained: float = 0.0


def measure_residual(
    left: Numbers,
    prediction: Numbers,
    known: Known,
    noise: NoiseEstimate,
    of_pixels: Numbers | float = 0.0,
) -> ResidualMetrics:
    """Compare one channel's residual with the noise that was measured.

    Parameters
    ----------
    left, prediction : ndarray
        (..., Y, X): measurement less prediction, and the prediction, in the image's units.
    known : ndarray of bool or None
        Where there is a measurement; None: everywhere.
    noise : NoiseEstimate
    of_pixels : ndarray or float
        (Y, X): variance that each pixel's own read noise adds.
    """
    there = np.ones(left.shape) if known is None else known.astype(np.float64)
    total = max(float(there.sum()), 1.0)
    scaled = left / np.sqrt(noise_variance(noise, prediction, of_pixels))
    scaled = (scaled - (scaled * there).sum() / total) * there
    power = float((scaled**2).sum() / total)
    excess = [
        _compute_lag_correlation(scaled, there, lag, axis) / (power or 1.0) - expected
        for axis, along in ((-2, noise.along_y), (-1, noise.along_x))
        for lag, expected in enumerate(along[:MAX_RESIDUAL_LAG], 1)
    ]
    edges = _compare_edge_variance(scaled, prediction, there > 0)
    told, far = not noise.doubt, measure_biased_parts(left - (left * there).sum() / total, known)
    return ResidualMetrics(
        max(excess, default=0.0), float(np.sqrt(power)), int(total), edges, told, *far
    )


def _compute_lag_correlation(
    scaled: npt.NDArray[np.float64], there: npt.NDArray[np.float64], lag: int, axis: int
) -> float:
    """Mean product of pixels that lie so far apart, of pairs that were both measured."""
    scaled, there = scaled.swapaxes(axis, -1), there.swapaxes(axis, -1)
    pairs = float((there[..., :-lag] * there[..., lag:]).sum())
    return float((scaled[..., :-lag] * scaled[..., lag:]).sum()) / max(pairs, 1.0)


def _compare_edge_variance(
    scaled: npt.NDArray[np.float64], prediction: Numbers, there: npt.NDArray[np.bool_]
) -> float:
    """Compare the residual's variance at edges and elsewhere; 1 if there is no telling."""
    steep = _compute_squared_gradient(np.asarray(prediction, np.float64))[there]
    square, signal = scaled[there] ** 2, prediction[there]
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
    odd = max(residuals, key=lambda one: abs(np.log(max(one.strength, 1e-6))))
    most = max(residuals, key=lambda one: one.excess)
    edges = max(one.at_edges for one in residuals)
    told = all(one.told for one in residuals)
    far = max(residuals, key=lambda one: one.far)
    return ResidualMetrics(most.excess, odd.strength, most.pixels, edges, told, far.far, far.parts)


def measure_brightness(pixels: npt.NDArray[Any], known: Known = None) -> tuple[float, float]:
    """Mean of the measured pixels, and how far it lies above the dark of the image."""
    seen = pixels.reshape(-1) if known is None else pixels[known]
    if not seen.size:
        return 0.0, 1.0
    mean = float(seen.mean(dtype=np.float64))
    above = mean - float(np.percentile(seen, DARK_PERCENTILE))
    return mean, above if above > 0 else 1.0


def measure_distant_holes(known: npt.NDArray[np.bool_], steps: int) -> tuple[float, float]:
    """Share of pixels that were not measured, and share of these that are far from any measured.

    Parameters
    ----------
    known : ndarray of bool
        (parts, C, *grid); nothing is known beyond the borders.
    steps : int
        Pixels from which on it is far, diagonals as one; planes of a volume count as pixels.
    """
    missing = np.any(~known, axis=1)  # (parts, *grid)
    if not missing.any():
        return 0.0, 0.0
    left = missing
    for _ in range(steps):
        for axis in range(1, left.ndim):
            turned = left.swapaxes(axis, -1)
            smaller = turned.copy()  # what lies beyond a border counts as the border itself
            smaller[..., 1:] &= turned[..., :-1]
            smaller[..., :-1] &= turned[..., 1:]
            left = smaller.swapaxes(axis, -1)
        if not left.any():
            break
    return float(missing.mean()), float(left.sum() / missing.sum())


def measure_result(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    left: npt.NDArray[np.float64],
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
    left, prediction : ndarray
        Of the same shape: the residual, 0 where nothing was measured, and what the detector would
        have seen, before its mean was put back.
    result : ndarray
        (parts, C, *grid), or finer: the picture as it is handed over.
    evidence : iterable of tuple of float
        What the held-out pixels of each unit said.
    """
    from napari_dip.pipeline.assess.evidence import combine_validation_evidence
    from napari_dip.pipeline.calibrate.clipping import (
        apply_clipping,
        bound_clipping_bias,
        list_corrected_limits,
    )

    known, task = calibration.known, plan.recipe.task
    some = select_assessed_parts(parts)
    lost, seen, there = left[some], prediction[some], None if known is None else known[some]
    noise_told = task.fits_pixels() and calibration.model != "jpeg"
    noise_told &= known is None or not task.keeps_measured()
    residuals = [
        measure_residual(
            lost[:, c],
            seen[:, c],
            None if there is None else there[:, c],
            noise,
            calibration.excess,
        )
        for c, noise in enumerate(calibration.noise)
        if noise_told and c not in calibration.constant
    ]
    mean, above = measure_brightness(parts, known)
    seen_again = apply_clipping(plan, calibration, result)
    shown, again = (
        float(one.mean(dtype=np.float64)) if known is None else measure_brightness(one, known)[0]
        for one in (result, seen_again)
    )
    raised, lowered = bound_clipping_bias(plan, calibration, parts)
    detail, contrast = combine_validation_evidence(evidence) or (None, None)
    filled, far = (0.0, 0.0) if known is None else measure_distant_holes(known, MIN_DEEP_HOLE)
    own = parts if calibration.maps is None else calibration.maps.as_read(parts)
    if plan.source.dtype[0] in "iu":
        own = np.rint(own).astype(plan.source.dtype)
    least, largest = cut_off(own if known is None else own[known])
    return ResultMetrics(
        select_worst_residual(residuals),
        (again - mean) / above,
        float((left if known is None else left[known]).mean(dtype=np.float64)) / above,
        detail,
        contrast,
        filled,
        far,
        max(plan.factors) > 1,
        least,
        largest,
        strongest_pattern(lost, parts[some]) if noise_told and known is None else None,
        list_corrected_limits(plan, calibration),
        (shown - again) / above,
        (max(shown - mean - lowered, 0.0) + min(shown - mean + raised, 0.0)) / above,
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
