"""Stripes: offsets of whole rows or columns are estimated, and removed before the fit.

The offset of a line appears in the step from the previous line and, with opposite sign, in the step
to the next one. Steps of the image itself do not alternate so, which tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.constants import MAD_TO_STD, TUKEY_SIGMAS
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array, FloatArray
    from napari_dip.tasks.base import FitInput

#: Correlation of successive steps below which they are offsets: -1/2 for offsets alone, 0 or above
#: for images.
MAX_STEP_CORRELATION = -0.25
#: Minimum ratio of the variance of offsets to that of a line's mean by pixel noise.
MIN_OFFSET_VARIANCE_RATIO = 4.0
#: Lines to either side over which the slow trend of the image is removed from the steps.
TREND_RADIUS = 32
#: Standard deviations at which steps are clipped; larger ones are edges along the lines.
STEP_CLIP_SIGMAS = 3.0
#: Minimum number of lines for an estimate of their offsets.
MIN_LINES = 16
#: Radius in pixels of the window that measures the image's variation.
FLATNESS_RADIUS = 2
#: Power with which the image's variation lowers the weight of a pixel: on coins the error of
#: offsets fell from 3.8 to 2.6 (docs/constants.md).
FLATNESS_POWER = 2
#: Sections of a line that estimate the error of its mean step.
LINE_SECTIONS = 6
#: Factor by which the image's own steps vary more: best of 1, 2, 4 and 8 on four images
#: (docs/constants.md).
IMAGE_VARIANCE_FACTOR = 4.0
#: Strips of a line (docs/constants.md).
STRIP_COUNT = 4
#: Minimum correlation of two strips for offsets: at most 0.46 in 114 images, at least 0.61 with
#: offsets.
MIN_STRIP_CORRELATION = 0.55
#: Variance of a bend per variance of offsets.
BEND_VARIANCE_RATIO = 1.5
#: Rounds of reweighting; it converges in three to five.
REWEIGHTING_ROUNDS = 8


def make_stripes_note(image: Float32Array) -> Note:
    """Return a note on the stripes of an image (C, *grid), or that there are none."""
    planes = image.reshape(-1, *image.shape[-2:])
    selected = [stripes for plane in planes if (stripes := find_line_offsets(plane)) is not None]
    if not selected:
        return make_note("stripes-none")
    are_rows = sum(stripes.axis == -2 for stripes in selected) * 2 >= len(selected)
    std = float(np.mean([stripes.std for stripes in selected]))
    return make_note("stripes-found", rows=are_rows, deviation=std)


def remove_stripes(fit_input: FitInput) -> FitInput:
    """Subtract the line offsets from the measurement, and keep them in `removed_artefact`."""
    import torch

    offsets = _find_shared_offsets(fit_input.measurement, fit_input.masks.measured)
    if offsets is None:
        return fit_input
    clean = (fit_input.measurement - offsets) * fit_input.masks.measured
    neighbours = fit_input.neighbouring_frames
    if neighbours is not None:
        neighbour_offsets = _find_shared_offsets(neighbours, torch.ones_like(neighbours[:, :1]))
        neighbours = neighbours if neighbour_offsets is None else neighbours - neighbour_offsets
    return replace(
        fit_input, measurement=clean, neighbouring_frames=neighbours, removed_artefact=offsets
    )


def add_line_offsets(fit_input: FitInput, problem: Problem) -> Problem:
    """Set the operator that adds the removed line offsets, if there are any."""
    from napari_dip.engine.operators.imaging import LineOffsets

    if fit_input.removed_artefact is None:
        return problem
    operator = LineOffsets(fit_input.removed_artefact, fit_input.network_per_image_unit)
    main_term = replace(problem.main_term, operator=operator)
    return replace(problem, terms=(main_term, *problem.terms[1:]))


def _find_shared_offsets(images: Tensor, measured_mask: Tensor) -> Tensor | None:
    """Find offsets of one direction for all planes: (1, C, *grid), 1 along the lines, or None."""
    import torch

    values = torch.where(measured_mask > 0, images, torch.nan)[0].cpu().numpy()
    planes = values.reshape(-1, *values.shape[-2:])
    selected = [stripes for plane in planes if (stripes := find_line_offsets(plane)) is not None]
    if not selected:
        return None
    ratios = {-2: 0.0, -1: 0.0}
    for stripes in selected:
        ratios[stripes.axis] += stripes.variance_ratio
    axis = max(ratios, key=lambda direction: ratios[direction])
    plane_offsets = [find_line_offsets(plane, axis) for plane in planes]
    side = planes.shape[axis]
    lines = np.stack(
        [np.zeros(side) if stripes is None else stripes.offsets for stripes in plane_offsets]
    )
    shape = (1, *values.shape[:-2], *((side, 1) if axis == -2 else (1, side)))
    return torch.from_numpy(lines.reshape(shape).astype(np.float32)).to(images)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeOffsets:
    """Offsets of the lines of one plane, in its units.

    Attributes
    ----------
    axis : int
        -2 for offsets of rows, -1 for offsets of columns.
    offsets : ndarray
        One per line, with mean zero.
    std : float
        Measured standard deviation of the offsets.
    variance_ratio : float
        Variance of the offsets divided by that of a line's mean by pixel noise.
    """

    axis: int
    offsets: FloatArray
    std: float
    variance_ratio: float

    def expand_to_plane(self) -> FloatArray:
        """Return the offsets in a shape that broadcasts to the plane: (Y, 1) or (1, X)."""
        return self.offsets[:, None] if self.axis == -2 else self.offsets[None]


def find_line_offsets(
    plane: npt.NDArray[np.floating], axis: int | None = None
) -> StripeOffsets | None:
    """Find the offsets of a plane's rows or columns.

    The step between neighbouring lines is a robust mean over their pixels, which ignores structure
    along less than half of a line. The offsets are the most likely ones of a normal distribution
    that explain these steps. Edges along the lines are treated as outliers.

    Parameters
    ----------
    plane : ndarray
        (Y, X), in any unit; NaN pixels are ignored.
    axis : int or None
        -2: rows, -1: columns; None: the direction with the larger variance ratio.

    Returns
    -------
    StripeOffsets or None
        None if there are no significant offsets.

    References
    ----------
    Bouali, Ladjal, Toward optimal destriping of MODIS data using a unidirectional variational
    model, IEEE TGRS 49(8), 2011, doi:10.1109/TGRS.2011.2119399 (steps across the lines alone, by
    their absolute value).
    """
    values = plane.astype(np.float64)
    axes = (-2, -1) if axis is None else (axis,)
    selected = [
        offsets
        for direction in axes
        if (offsets := _estimate_line_offsets(values, direction)) is not None
    ]
    return max(selected, key=lambda stripes: stripes.variance_ratio) if selected else None


def subtract_line_offsets(planes: Float32Array) -> Float32Array:
    """Subtract the line offsets of each plane of (..., Y, X) that has any."""
    flat = planes.reshape(-1, *planes.shape[-2:])
    offsets = [find_line_offsets(plane) for plane in flat]
    clean = [
        plane if stripes is None else plane - stripes.expand_to_plane()
        for plane, stripes in zip(flat, offsets, strict=True)
    ]
    return np.stack(clean).reshape(planes.shape).astype(np.float32)


def _estimate_line_offsets(values: FloatArray, axis: int) -> StripeOffsets | None:
    """Estimate the offsets along one direction; None if they are not significant."""
    across = values if axis == -2 else values.T
    count, length = across.shape
    if count < MIN_LINES:
        return None
    steps, noise = _measure_line_steps(across)
    sections = np.array_split(across, LINE_SECTIONS, axis=1)
    section_steps = [_measure_line_steps(section)[0] for section in sections]
    error = float(np.median(np.var(section_steps, axis=0, ddof=1))) / LINE_SECTIONS
    detrended = steps - _compute_step_trend(steps)
    width = max(MAD_TO_STD * float(np.median(np.abs(detrended))), 1e-30)
    clipped = np.clip(detrended, -STEP_CLIP_SIGMAS * width, STEP_CLIP_SIGMAS * width)
    power = float((clipped**2).mean())
    covariance = float((clipped[1:] * clipped[:-1]).mean())
    mean_variance = noise / length  # variance of a line's mean by pixel noise
    variance = -covariance - mean_variance
    if covariance > MAX_STEP_CORRELATION * power:  # steps of the image prevail
        variance, agreement = _measure_strip_covariance(across)
        if agreement < MIN_STRIP_CORRELATION:
            return None
    if variance <= MIN_OFFSET_VARIANCE_RATIO * mean_variance:
        return None
    step_variance = max(IMAGE_VARIANCE_FACTOR * max(error, mean_variance), 1e-3 * variance)
    offsets = _infer_offsets(detrended, variance, step_variance)
    offsets -= offsets.mean()
    return StripeOffsets(
        axis=axis,
        offsets=offsets,
        std=variance**0.5,
        variance_ratio=variance / max(mean_variance, 1e-30),
    )


def _measure_strip_covariance(across: FloatArray) -> tuple[float, float]:
    """Measure the variance of the offsets from the covariance of strips side by side.

    Structure seldom extends along a whole line, but its offset does.

    Returns
    -------
    variance, agreement
        Agreement is the correlation of two strips: 1 if they contain offsets only.
    """
    bends = across[1:-1] - (across[:-2] + across[2:]) / 2
    strips = np.array_split(bends, STRIP_COUNT, axis=1)
    medians = np.stack([_compute_row_medians(strip) for strip in strips])
    limit = STEP_CLIP_SIGMAS * MAD_TO_STD * float(np.median(np.abs(medians)))
    products = np.cov(np.clip(medians, -limit, limit), ddof=0)
    strip_variance = float(products.diagonal().mean())
    covariance = float(products[~np.eye(STRIP_COUNT, dtype=bool)].mean())
    return covariance / BEND_VARIANCE_RATIO, covariance / max(strip_variance, 1e-30)


def _compute_row_medians(rows: FloatArray) -> FloatArray:
    """Return the median of each row without NaN; 0 for rows of NaN only."""
    is_empty = np.isnan(rows).all(axis=1, keepdims=True)
    return np.asarray(np.nanmedian(np.where(is_empty, 0, rows), 1))


def _measure_line_steps(across: FloatArray) -> tuple[FloatArray, float]:
    """Return each line's step from the previous one, and the variance of the pixel noise.

    The step is a weighted mean over the pixels. Outliers get less weight, and so do pixels where
    the image varies along the line: offsets do not vary there, structure mostly does.
    """
    differences = np.diff(across, axis=0)
    mask = ~np.isnan(differences)
    is_empty = ~mask.any(1, keepdims=True)  # an unknown step counts as 0
    differences[np.broadcast_to(is_empty, mask.shape)] = 0
    step = np.nanmedian(differences, 1, keepdims=True)
    width = MAD_TO_STD * float(np.nanmedian(np.abs(differences - step)))
    noise = max(width**2 / 2, 1e-30)
    flatness = _compute_flatness_weights(across, noise)
    weight = mask * np.minimum(flatness[1:], flatness[:-1])
    values = np.nan_to_num(differences)
    for _ in range(REWEIGHTING_ROUNDS):
        residual = (values - step) / max(TUKEY_SIGMAS * width, 1e-30)
        robust_weight = weight * np.maximum(1 - residual**2, 0) ** 2
        total = np.maximum(robust_weight.sum(1, keepdims=True), 1e-30)
        step = (robust_weight * values).sum(1, keepdims=True) / total
    return step[:, 0], width**2 / 2


def _compute_flatness_weights(across: FloatArray, noise: float) -> FloatArray:
    """Return a weight of 0 to 1 for each pixel, lower where the image varies along the line."""
    squared_differences = np.square(np.diff(across, axis=1))  # of noise alone, twice its variance
    squared_differences = np.pad(np.nan_to_num(squared_differences), ((0, 0), (1, 1)), mode="edge")
    variation = (squared_differences[:, 1:] + squared_differences[:, :-1]) / 2
    for axis in (0, 1):
        margins = [(FLATNESS_RADIUS,) * 2 if other == axis else (0, 0) for other in (0, 1)]
        padded, width = np.pad(variation, margins, "edge"), 2 * FLATNESS_RADIUS + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis)
        variation = windows.mean(-1)
    texture = np.maximum(variation / (2 * noise) - 1, 0)
    return np.asarray(1 / (1 + texture) ** FLATNESS_POWER)


def _compute_step_trend(steps: FloatArray) -> FloatArray:
    """Return the local mean of the clipped steps, which is the slow trend of the image."""
    width = MAD_TO_STD * float(np.median(np.abs(steps - np.median(steps))))
    limits = np.median(steps) + np.array([-STEP_CLIP_SIGMAS, STEP_CLIP_SIGMAS]) * width
    padded = np.pad(np.clip(steps, *limits), TREND_RADIUS, mode="reflect")
    window = np.ones(2 * TREND_RADIUS + 1) / (2 * TREND_RADIUS + 1)
    return np.convolve(padded, window, mode="valid")


def _infer_offsets(steps: FloatArray, variance: float, step_variance: float) -> FloatArray:
    """Return the most likely offsets, for normal offsets and long-tailed steps of the image."""
    weight = np.ones_like(steps)
    offsets = np.zeros(len(steps) + 1)
    for _ in range(REWEIGHTING_ROUNDS):
        precision = weight / step_variance
        diagonal = np.full(len(offsets), 1 / variance)
        diagonal[1:] += precision
        diagonal[:-1] += precision
        right_side = np.zeros(len(offsets))
        right_side[1:] += precision * steps
        right_side[:-1] -= precision * steps
        offsets = _solve_tridiagonal(-precision, diagonal, right_side)
        residual = steps - np.diff(offsets)
        weight = 1 / (1 + residual**2 / (STEP_CLIP_SIGMAS**2 * step_variance))
    return offsets


def _solve_tridiagonal(
    off_diagonal: FloatArray, main_diagonal: FloatArray, right_side: FloatArray
) -> FloatArray:
    """Solve a symmetric tridiagonal system by elimination."""
    diagonal, solution = main_diagonal.copy(), right_side.copy()
    for row in range(1, len(diagonal)):
        factor = off_diagonal[row - 1] / diagonal[row - 1]
        diagonal[row] -= factor * off_diagonal[row - 1]
        solution[row] -= factor * solution[row - 1]
    solution[-1] /= diagonal[-1]
    for row in range(len(diagonal) - 2, -1, -1):
        solution[row] = (solution[row] - off_diagonal[row] * solution[row + 1]) / diagonal[row]
    return solution
