"""Stripes as a named noise: offsets of rows or columns are found, taken out, and handed over.

Line noise: offsets of whole rows or columns, found by how lines differ from the next ones.

A line's offset shows in its step from the line before and, with the other sign, in the step to the
line after. A picture's own steps go on or stay alone, so the two can be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.problem import Problem
    from napari_dip.errors.notes import Note
    from napari_dip.tasks.base import FitInput

    Numbers = npt.NDArray[np.float64]

#: Name of the noise, and of the offsets in what a scene has worked out.
STRIPES, OFFSETS = "stripes", "line offsets"


def describe_stripes(image: npt.NDArray[np.float32]) -> Note:
    """Say what was found in a picture (C, *grid), or that nothing was."""
    import numpy as np

    planes = image.reshape(-1, *image.shape[-2:])
    selected = [lines for plane in planes if (lines := find_lines(plane)) is not None]
    if not selected:
        return make_note("stripes-none")
    rows = sum(item.axis == -2 for item in selected) * 2 >= len(selected)
    deviation = float(np.mean([item.deviation for item in selected]))
    return make_note("stripes-found", rows=rows, deviation=deviation)


def remove_stripes(scene: FitInput) -> FitInput:
    """Take the offsets of lines out of a scene, and keep them beside it."""
    import torch

    offsets = _find_shared_offsets(scene.measurement, scene.measured_mask)
    if offsets is None:
        return scene
    clean = (scene.measurement - offsets) * scene.measured_mask
    worked_out = {**scene.worked_out, OFFSETS: offsets}
    neighbours = scene.neighbours
    if neighbours is not None:
        around = _find_shared_offsets(neighbours, torch.ones_like(neighbours[:, :1]))
        neighbours = neighbours if around is None else neighbours - around
    return replace(scene, measurement=clean, neighbours=neighbours, worked_out=worked_out)


def add_line_offsets(scene: FitInput, problem: Problem) -> Problem:
    """Let a problem know what the detector adds to a destriped scene, if it does."""
    from torch import Tensor

    from napari_dip.engine.operators.detector import LineOffsets

    offsets = scene.worked_out.get(OFFSETS)
    if not isinstance(offsets, Tensor) or scene.unit is None:
        return problem
    first, *rest = problem.terms
    return replace(
        problem, terms=(replace(first, operator=LineOffsets(offsets, scene.unit)), *rest)
    )


def _find_shared_offsets(pictures: Tensor, measured_mask: Tensor) -> Tensor | None:
    """Find offsets, of one direction for all: (1, C, *grid), 1 along the lines; None: nothing."""
    import numpy as np
    import torch

    values = torch.where(measured_mask > 0, pictures, torch.nan)[0].cpu().numpy()
    planes = values.reshape(-1, *values.shape[-2:])
    selected = [entry for plane in planes if (entry := find_lines(plane)) is not None]
    if not selected:
        return None
    axis = max(
        (-2, -1),
        key=lambda direction: sum(item.chance for item in selected if item.axis == direction),
    )
    each = [find_lines(plane, axis) for plane in planes]
    side = planes.shape[axis]
    lines = np.stack([np.zeros(side) if item is None else item.offsets for item in each])
    shape = (1, *values.shape[:-2], *((side, 1) if axis == -2 else (1, side)))
    return torch.from_numpy(lines.reshape(shape).astype(np.float32)).to(pictures)


#: Correlation of a line's two steps below which they are offsets: -1/2 for offsets alone, 0 or
#: above for pictures.
MAX_STEP_CORRELATION = -0.25
#: How many times above that of the pixels' noise the variance of offsets must lie.
MIN_OFFSET_VARIANCE_RATIO = 4.0
#: Lines to either side over which the picture's slow course is taken out of the steps.
TREND_RADIUS = 32
#: Steps beyond so many standard deviations count as so many: an edge along the lines.
STEP_CLIP_SIGMAS = 3.0
#: Fewest lines that tell anything.
MIN_LINES = 16
#: Pixels to either side over which it is looked how much the picture varies, and the power of that
#: by which a pixel counts less. On crops of coins with offsets of 12 grey levels the error of the
#: offsets fell from 3.8 to 2.6 with it; moon, camera and a nucleus did not care.
FLATNESS_RADIUS, POWER = 2, 2
#: Pixels further off the step of their line than so many standard deviations have no say: the usual
#: constant of Tukey's bisquare, 95 % efficient on normal noise. With weights that only fall, bricks
#: with mortar along a third of a row left dark rows.
BISQUARE = 4.685
#: Parts of a line whose steps are compared, to know how sure their mean is; and how many times
#: more the picture's own steps are taken to vary, since what reaches along the line is in all. Of
#: 1, 2, 4 and 8, 4 had the least error of the offsets on crops of 96 x 96 of camera, coins, moon
#: and a nucleus, in the mean.
LINE_PARTS, PICTURE_VARIANCE_FACTOR = 6, 4.0
#: Strips that a line is cut into to see what they have in common; the correlation of two of them
#: from which on that is an offset; and variance of a bend (a line less the mean of its neighbours)
#: per variance of the offsets. Of 114 images of FMD, W2S, Hagen et al., Set12, BSD68, kodak256 and
#: others the correlation is at most 0.46, of eleven frames of a fluorescence video 0.77 to 0.85; of
#: made pictures with offsets of 5 and more on structure 0.61 and more, and the standard deviation
#: is told within a fifth.
STRIPS, MIN_STRIP_CORRELATION, BEND_VARIANCE_RATIO = 4, 0.55, 1.5
#: Rounds of reweighing; it converges in three to five.
REWEIGHTING_ROUNDS = 8
#: Makes the standard deviation of normal values of their median absolute value.
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeOffsets:
    """Offsets of the lines of one plane, in its units.

    Attributes
    ----------
    axis : int
        -2 if rows have them, -1 if columns.
    offsets : ndarray
        One for each line, of mean zero.
    deviation : float
        Their standard deviation, as it was measured.
    chance : float
        How many times above the noise of a line's mean their variance lies.
    """

    axis: int
    offsets: Numbers
    deviation: float
    chance: float

    def plane(self) -> Numbers:
        """Shape them to be added to a plane: (Y, 1) or (1, X)."""
        return self.offsets[:, None] if self.axis == -2 else self.offsets[None]


def find_lines(plane: npt.NDArray[np.floating], axis: int | None = None) -> StripeOffsets | None:
    """Find the offsets of a plane's rows or columns.

    Each step from line to line is measured robustly over the pixels of the line, so structure that
    does not reach along half of it is not seen. Then offsets of a normal distribution are sought
    that explain the steps, all but a few of them: those are edges along the lines.

    Parameters
    ----------
    plane : ndarray
        (Y, X), in any unit; pixels that are not a number do not count.
    axis : int or None
        -2: rows, -1: columns; None: where there is more of it.

    Returns
    -------
    StripeOffsets or None
        None if there are none above chance.

    References
    ----------
    Bouali, Ladjal, Toward optimal destriping of MODIS data using a unidirectional variational
    model, IEEE TGRS 49(8), 2011, doi:10.1109/TGRS.2011.2119399 (steps across the lines alone, by
    their absolute value).
    """
    values = plane.astype(np.float64)
    ways = (-2, -1) if axis is None else (axis,)
    selected = [
        offsets for route in ways if (offsets := _estimate_line_offsets(values, route)) is not None
    ]
    return max(selected, key=lambda item: item.chance) if selected else None


def subtract_line_offsets(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Take the offsets of lines out of (..., Y, X), plane by plane, where there are any."""
    flat = planes.reshape(-1, *planes.shape[-2:])
    offsets = [find_lines(plane) for plane in flat]
    clean = [
        item if lines is None else item - lines.plane()
        for item, lines in zip(flat, offsets, strict=True)
    ]
    return np.stack(clean).reshape(planes.shape).astype(np.float32)


def _estimate_line_offsets(values: Numbers, axis: int) -> StripeOffsets | None:
    """Find the offsets along one direction."""
    across = values if axis == -2 else values.T
    count, length = across.shape
    if count < MIN_LINES:
        return None
    steps, noise = _measure_line_steps(across)
    parts = [_measure_line_steps(item)[0] for item in np.array_split(across, LINE_PARTS, axis=1)]
    error = float(np.median(np.var(parts, axis=0, ddof=1))) / LINE_PARTS
    quick = steps - _compute_step_trend(steps)
    width = max(MAD_TO_SIGMA * float(np.median(np.abs(quick))), 1e-30)
    clipped = np.clip(quick, -STEP_CLIP_SIGMAS * width, STEP_CLIP_SIGMAS * width)
    power = float((clipped**2).mean())
    opposed = float((clipped[1:] * clipped[:-1]).mean())
    chance = noise / length  # variance of a line's mean by the noise of its pixels
    variance = -opposed - chance
    if opposed > MAX_STEP_CORRELATION * power:  # the picture's own steps prevail
        variance, agreement = _measure_strip_covariance(across)
        if agreement < MIN_STRIP_CORRELATION:
            return None
    if variance <= MIN_OFFSET_VARIANCE_RATIO * chance:
        return None
    picture = max(PICTURE_VARIANCE_FACTOR * max(error, chance), 1e-3 * variance)
    offsets = _infer_offsets(quick, variance, picture)
    offsets -= offsets.mean()
    return StripeOffsets(
        axis=axis, offsets=offsets, deviation=variance**0.5, chance=variance / max(chance, 1e-30)
    )


def _measure_strip_covariance(across: Numbers) -> tuple[float, float]:
    """Measure the variance of offsets by what strips side by side have in common.

    Structure seldom reaches along all of a line; its offset does.

    Returns
    -------
    variance, agreement
        Agreement is the correlation of two strips: 1 if they hold nothing but offsets.
    """
    bends = across[1:-1] - (across[:-2] + across[2:]) / 2
    strips = np.array_split(bends, STRIPS, axis=1)
    middles = np.stack([_compute_row_medians(strip) for strip in strips])
    limit = STEP_CLIP_SIGMAS * MAD_TO_SIGMA * float(np.median(np.abs(middles)))
    products = np.cov(np.clip(middles, -limit, limit), ddof=0)
    own = float(products.diagonal().mean())
    common = float(products[~np.eye(STRIPS, dtype=bool)].mean())
    return common / BEND_VARIANCE_RATIO, common / max(own, 1e-30)


def _compute_row_medians(rows: Numbers) -> Numbers:
    """Median of each row, without what is not a number; 0 where nothing is."""
    hollow = np.isnan(rows).all(axis=1, keepdims=True)
    return np.asarray(np.nanmedian(np.where(hollow, 0, rows), 1))


def _measure_line_steps(across: Numbers) -> tuple[Numbers, float]:
    """Give each line's step from the one before, and the variance of the pixels' noise.

    The step is a mean in which pixels count less the further they lie off the others, and the more
    the picture varies along the line around them: offsets do not, structure mostly does both ways.
    """
    differences = np.diff(across, axis=0)
    mask = ~np.isnan(differences)
    hollow = ~mask.any(1, keepdims=True)  # such a line's step is not known, and counts as none
    differences[np.broadcast_to(hollow, mask.shape)] = 0
    middle = np.nanmedian(differences, 1, keepdims=True)
    width = MAD_TO_SIGMA * float(np.nanmedian(np.abs(differences - middle)))
    noise = max(width**2 / 2, 1e-30)
    flat = _compute_flatness_weights(across, noise)
    weight = mask * np.minimum(flat[1:], flat[:-1])
    values = np.nan_to_num(differences)
    for _ in range(REWEIGHTING_ROUNDS):
        off = (values - middle) / max(BISQUARE * width, 1e-30)
        now = weight * np.maximum(1 - off**2, 0) ** 2
        middle = (now * values).sum(1, keepdims=True) / np.maximum(now.sum(1, keepdims=True), 1e-30)
    return middle[:, 0], width**2 / 2


def _compute_flatness_weights(across: Numbers, noise: float) -> Numbers:
    """Weigh each pixel by how little the picture varies along the line around it, 0 to 1."""
    along = np.square(np.diff(across, axis=1))  # of noise alone, twice its variance
    along = np.pad(np.nan_to_num(along), ((0, 0), (1, 1)), mode="edge")
    rough = (along[:, 1:] + along[:, :-1]) / 2
    for axis in (0, 1):
        wide = np.pad(
            rough,
            [(FLATNESS_RADIUS, FLATNESS_RADIUS) if a == axis else (0, 0) for a in (0, 1)],
            "edge",
        )
        rough = np.lib.stride_tricks.sliding_window_view(wide, 2 * FLATNESS_RADIUS + 1, axis).mean(
            -1
        )
    texture = np.maximum(rough / (2 * noise) - 1, 0)
    return np.asarray(1 / (1 + texture) ** POWER)


def _compute_step_trend(steps: Numbers) -> Numbers:
    """Mean of the steps around each, edges clipped: the picture's slow course."""
    width = MAD_TO_SIGMA * float(np.median(np.abs(steps - np.median(steps))))
    limits = np.median(steps) + np.array([-STEP_CLIP_SIGMAS, STEP_CLIP_SIGMAS]) * width
    padded = np.pad(np.clip(steps, *limits), TREND_RADIUS, mode="reflect")
    window = np.ones(2 * TREND_RADIUS + 1) / (2 * TREND_RADIUS + 1)
    return np.convolve(padded, window, mode="valid")


def _infer_offsets(steps: Numbers, variance: float, picture: float) -> Numbers:
    """Give the likeliest offsets: normal ones, the picture's own steps with a long tail."""
    weight = np.ones_like(steps)
    offsets = np.zeros(len(steps) + 1)
    for _ in range(REWEIGHTING_ROUNDS):
        sure = weight / picture
        middle = np.full(len(offsets), 1 / variance)
        middle[1:] += sure
        middle[:-1] += sure
        right = np.zeros(len(offsets))
        right[1:] += sure * steps
        right[:-1] -= sure * steps
        offsets = _solve_tridiagonal(-sure, middle, right)
        left = steps - np.diff(offsets)
        weight = 1 / (1 + left**2 / (STEP_CLIP_SIGMAS**2 * picture))
    return offsets


def _solve_tridiagonal(neighbours: Numbers, middle: Numbers, right: Numbers) -> Numbers:
    """Solve a symmetric tridiagonal system by elimination."""
    diagonal, answer = middle.copy(), right.copy()
    for row in range(1, len(middle)):
        factor = neighbours[row - 1] / diagonal[row - 1]
        diagonal[row] -= factor * neighbours[row - 1]
        answer[row] -= factor * answer[row - 1]
    answer[-1] /= diagonal[-1]
    for row in range(len(middle) - 2, -1, -1):
        answer[row] = (answer[row] - neighbours[row] * answer[row + 1]) / diagonal[row]
    return answer
