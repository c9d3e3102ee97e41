"""Salt and pepper: impulses are found by their deviation from neighbours, masked and filled in.

The same functions replace and fill missing pixels of any origin, beside noise of a detector.

Impulses may be of one or two extreme values, of any value, or a camera's hot and dead pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.constants import MAD_TO_STD
from napari_dip.errors.notes import make_note
from napari_dip.tasks.priors.image_input import build_blind_spot_problem
from napari_dip.tasks.priors.masked_input import MAX_SMOOTH_PIXELS, fill_smoothly
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions

    Plane = FloatArray

#: Standard deviations from the local median beyond which a pixel is suspect. Normal noise exceeds
#: them in six of ten million pixels.
SUSPECT_SIGMAS = 5.0
#: Standard deviations of the local texture from the local median beyond which a pixel is suspect.
TEXTURE_SIGMAS = 3.0
#: Standard deviations from all neighbours but one that make a suspect pixel an impulse. On a line
#: one pixel wide, each pixel has two similar neighbours.
ISOLATION_SIGMAS = 4.0
#: Side of the median window in pixels: of its 25 pixels, 12 may be impulses.
MEDIAN_WINDOW_SIDE = 5
#: Rows whose medians are computed at a time, which limits memory: each needs 25 copies.
STRIP_ROWS = 64
#: Maximum detection passes, each without the impulses of the one before: the fourth still found up
#: to 4 % more, two further ones up to 2 % (docs/constants.md).
DETECTION_PASSES = 4
#: Number of brightness classes in which impulses are searched, each with its own noise.
IMPULSE_BRIGHTNESS_CLASSES = 12
#: Minimum standard deviation as a share of the value range, for images that are mostly constant.
MIN_IMPULSE_SIGMA_FRACTION = 0.005
#: Probability below which a number of neighbours with the same extreme value marks a saturated
#: spot, not impulses.
MAX_CLUSTER_PROBABILITY = 1e-3
#: Minimum odds of salt or pepper against noise that deviates as far.
MIN_IMPULSE_ODDS = 10.0
#: Minimum number of strongly deviating pixels at an extreme value for salt or pepper.
MIN_EXTREME_PIXELS = 4
#: Quantiles of absolute values, and ratio of the standard deviation of normal noise to each. Where
#: most of an image is black, more than half of the pixels are constant.
QUANTILE_SCALES = ((0.5, MAD_TO_STD), (0.7, 0.9648))
#: Draws after which a missing pixel keeps its value: 1 in 10^15 if half of the pixels are missing.
MAX_REPLACEMENT_DRAWS = 50
#: Side in pixels of the squares that a wide hole contains: its pixels are not replaced before noise
#: is measured. Of scattered pixels, 0.4 of all make such a square at 1 place in 4,000.
WIDE_HOLE_SIDE = 3
#: Maximum share of pixels in narrow holes for them to be replaced. In 18 images with 0.01 to 0.05,
#: 0.1, 0.2, 0.3, 0.4, 0.5 and 0.6 missing, noise is then off by 1.04, 1.06, 1.08, 1.09, 1.11, 1.15
#: and 2.1 in the mean; where blocks with holes are left out, by 1.4 to 1.5 up to 0.05.
MAX_REPLACED_FRACTION = 0.46
#: Maximum share of missing pixels beside correlated noise. With blind spots as wide as the
#: correlation, FMD WideField_BPAE_B and R gain 12.7 and 11 dB without 0.05 of their pixels, 8.8 and
#: 7.9 without 0.3, and without 0.45 9.0 and 10.5 in the holes; without half of them, one of two is
#: not recognised.
MAX_CORRELATED_MISSING_FRACTION = 0.46
#: Minimum correlation at lag 1 of noise that is treated as correlated beside missing pixels: 0.68
#: in FMD WideField_BPAE_R, at most 0.28 in a nucleus whose structure was taken for noise.
MIN_CERTAIN_CORRELATION = 0.4
#: Side of the blocks in which impulses on black are counted, in pixels.
COUNT_BLOCK_SIDE = 16
#: Variance of impulse counts in blocks, in units of the mean, above which photons were counted: 5.5
#: to 17 in seven crops of Hagen mito-confocal with structure, 0.8 to 1.3 with salt on 18 pictures.
MAX_IMPULSE_DISPERSION = 2.7
#: Greatest share of photons on black with the highest value of the plane: at most 0.006 in these
#: crops; with salt, 0.2 or more where it is found at all, 0.02 or more elsewhere (60 pictures whose
#: background was cut off, where texture just above black counts as impulses, too).
MAX_HIGHEST_FRACTION = 0.015
#: Power of the share of pixels that stay with which others, replaced by random neighbours, lower
#: the correlation at lag 1: to 0.87, 0.77 and 0.66 of itself with 0.1, 0.2 and 0.3 replaced.
CORRELATION_POWER = 1.2
#: Reason in the report why blind spots replaced the masked input.
CORRELATED_NOISE_REASON = "neighbouring pixels share noise, which filling in from them would keep"
#: Offsets (Y, X) of the eight neighbours.
NEIGHBOUR_OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def make_impulses_note(measured_mask: BoolArray) -> Note:
    """Return a note on the number of impulses, given the mask (N, C, *grid) of all others."""
    count = int(measured_mask.size - measured_mask.sum())
    return make_note("impulses-found", count=count, share=count / measured_mask.size)


def build_impulse_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem of the measured pixels; impulses keep their prediction at the end."""
    from napari_dip.engine.problem import append_postprocessing

    prior_spec = PRIOR_SPECS[fit_input.prior_key]
    build_problem = prior_spec.problem_factory
    if prior_spec.needs_noise_variance or build_problem is None:  # such as R2R
        build_problem = build_blind_spot_problem
    return append_postprocessing(
        build_problem(fit_input, options), partial(fill_missing, fit_input)
    )


def fill_missing(fit_input: FitInput, predicted: Estimate, restored: Estimate) -> Estimate:
    """Return the restored image, in which missing pixels are predicted ones.

    Where blind spots are wide, since neighbours share noise, the network predicts no pixel from the
    closest ones. Restored pixels have hardly any noise, and fill holes better: by 0.6 to 2.3 dB in
    ten cases of FMD WideField. Their uncertainty remains that of the network.

    Parameters
    ----------
    fit_input : FitInput
    predicted : Estimate
        By the network, at least at missing pixels.
    restored : Estimate
        At measured pixels.
    """
    from torch import where

    is_measured = fit_input.masks.measured > 0
    mean = where(is_measured, restored.mean, predicted.mean)
    has_blind_spots = PRIOR_SPECS[fit_input.prior_key].input_traits.has_masked_pixels
    is_small = len(fit_input.grid) == 2 and int((~is_measured).sum()) <= MAX_SMOOTH_PIXELS
    if has_blind_spots and is_small and max(fit_input.masks.blind_spot_size) > 1:
        mean = fill_smoothly(mean, ~is_measured)
    if restored.log_variance is None or predicted.log_variance is None:
        return restored._replace(mean=mean, log_variance=None)
    log_variance = where(is_measured, restored.log_variance, predicted.log_variance)
    return restored._replace(mean=mean, log_variance=log_variance)


def compute_certain_correlation(missing_fraction: float) -> float:
    """Return the least correlation at lag 1, as measured, of noise that is shared for certain."""
    return float(MIN_CERTAIN_CORRELATION * (1 - missing_fraction) ** CORRELATION_POWER)


def exclude_missing(fit_input: FitInput) -> FitInput:
    """Exclude missing pixels, such as impulses, so that they never enter the network input."""
    masks = fit_input.masks
    return replace(fit_input, masks=replace(masks, excluded=1 - masks.visible))


def find_impulses(
    plane: npt.NDArray[np.floating],
    *,
    threshold_sigmas: float = SUSPECT_SIGMAS,
    max_passes: int = DETECTION_PASSES,
) -> BoolArray:
    """Find the impulses of one plane.

    A pixel is an impulse if it deviates by `threshold_sigmas` standard deviations from the median
    of 5 x 5 pixels, and from all of its neighbours but one. It is also one if it has the lowest or
    highest value of the plane, as do many other pixels that deviate from their surroundings.

    Parameters
    ----------
    plane : ndarray
        (Y, X), in any unit.
    threshold_sigmas : float
        In standard deviations of the noise at that brightness, or of the local texture.
    max_passes : int
        More passes find denser impulses.

    Returns
    -------
    ndarray of bool
        (Y, X).

    References
    ----------
    Garnett, Huegerich, Chui, He, A universal noise removal algorithm with an impulse detector, IEEE
    TIP 14(11), 2005, doi:10.1109/TIP.2005.857261 (rank-ordered differences to the neighbours);
    Hwang, Haddad, Adaptive median filters, IEEE TIP 4(4), 1995, doi:10.1109/83.370679.
    """
    values = plane.astype(np.float64)
    if not np.isfinite(values).all():  # such images are refused elsewhere
        return np.zeros(values.shape, bool)
    low, high = np.percentile(values, (1, 99))
    min_sigma = max(MIN_IMPULSE_SIGMA_FRACTION * float(high - low), _measure_grey_step(values))
    salt_and_pepper = _find_salt_and_pepper(values, threshold_sigmas, min_sigma)
    impulses = salt_and_pepper
    for _ in range(max_passes):
        filled = _fill_impulses(values, impulses)
        median = compute_local_median(filled)
        texture = np.abs(filled - median)
        noise = _estimate_noise_by_brightness(texture, median, ~impulses, min_sigma)
        deviation = np.abs(values - median)
        is_suspect = (deviation > threshold_sigmas * noise) & (
            deviation > TEXTURE_SIGMAS * MAD_TO_STD * compute_local_median(texture)
        )
        updated = salt_and_pepper | (is_suspect & _find_isolated(values, impulses, noise))
        if np.array_equal(updated, impulses):
            break
        impulses = updated
    return impulses


def find_stack_impulses(stack: npt.NDArray[np.floating]) -> BoolArray:
    """Find the impulses of all planes of (..., Y, X), each by itself."""
    planes = stack.reshape(-1, *stack.shape[-2:])
    return np.stack([find_impulses(plane) for plane in planes]).reshape(stack.shape)


def fill_stack_impulses(planes: Float32Array) -> Float32Array:
    """Replace the impulses of planes (P, Y, X) by the median of their neighbours.

    Values drawn from around, as of missing pixels, would hide noise that neighbours share.
    """
    filled = [_fill_impulses(plane, find_impulses(plane)) for plane in planes]
    return np.stack(filled).astype(np.float32)


def compute_local_median(plane: npt.NDArray[np.floating]) -> Plane:
    """Return the median of the window around each pixel of (Y, X)."""
    padded = np.pad(plane.astype(np.float64), MEDIAN_WINDOW_SIDE // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (MEDIAN_WINDOW_SIDE, MEDIAN_WINDOW_SIDE)
    )
    medians = np.empty(plane.shape)
    for row in range(0, len(plane), STRIP_ROWS):
        strip = windows[row : row + STRIP_ROWS].reshape(-1, plane.shape[1], MEDIAN_WINDOW_SIDE**2)
        rank = MEDIAN_WINDOW_SIDE**2 // 2
        medians[row : row + STRIP_ROWS] = np.partition(strip, rank, -1)[..., rank]
    return medians


def _measure_grey_step(values: Plane) -> float:
    """Return the median step between grey values; 0 if the values are not quantised."""
    levels = np.unique(values)
    steps = np.diff(levels)
    return float(np.median(steps)) if 1 < len(levels) < values.size // 4 else 0.0


def _estimate_noise_by_brightness(
    deviations: Plane, medians: Plane, measured_mask: BoolArray, min_sigma: float
) -> Plane:
    """Return the noise's standard deviation at each pixel, by brightness.

    It is estimated from the deviations of measured pixels from the local medians,
    and is at least `min_sigma`.
    """
    brightness, measured_deviations = medians[measured_mask], deviations[measured_mask]
    order = np.argsort(brightness, kind="stable")
    levels, sigmas = [], []
    for members in np.array_split(order, IMPULSE_BRIGHTNESS_CLASSES):
        if len(members):
            levels.append(np.median(brightness[members]))
            ranks, factors = zip(*QUANTILE_SCALES, strict=True)
            sigmas.append(max(np.quantile(measured_deviations[members], ranks) * factors))
    return np.asarray(np.maximum(np.interp(medians, levels, sigmas), min_sigma))


def _find_salt_and_pepper(values: Plane, threshold_sigmas: float, min_sigma: float) -> BoolArray:
    """Mark pixels of the lowest and the highest value, if these are salt or pepper.

    Such pixels are left out of the local medians, so they may be half of all pixels.
    """
    extremes = values.min(), values.max()
    is_extreme = (values == extremes[0]) | (values == extremes[1])
    impulses = np.zeros(values.shape, bool)
    if is_extreme.all():
        return impulses
    filled = _fill_impulses(values, is_extreme)
    median = compute_local_median(filled)
    noise = _estimate_noise_by_brightness(np.abs(filled - median), median, ~is_extreme, min_sigma)
    relative_deviation = np.abs(values - median) / noise
    for extreme in extremes:
        has_value = values == extreme
        far_fraction = float((has_value & (relative_deviation > threshold_sigmas)).mean())
        quantile = _compute_normal_quantile(far_fraction / MIN_IMPULSE_ODDS)
        is_far = relative_deviation > min(threshold_sigmas, quantile)
        fraction = float(has_value.mean())
        chances = [math.comb(8, k) * fraction**k * (1 - fraction) ** (8 - k) for k in range(9)]
        most = next(k for k in range(9) if sum(chances[k + 1 :]) < MAX_CLUSTER_PROBABILITY)
        neighbour_count = sum(
            _shift_plane(has_value, step).astype(int) for step in NEIGHBOUR_OFFSETS
        )
        is_impulse = has_value & is_far & (neighbour_count <= max(most, 1))
        if is_impulse.sum() >= MIN_EXTREME_PIXELS:
            impulses |= is_impulse
    return impulses


def _compute_normal_quantile(chance: float) -> float:
    """Return the number of standard deviations with that two-sided tail probability."""
    return NormalDist().inv_cdf(1 - chance / 2) if chance > 0 else math.inf


def _find_isolated(values: Plane, impulses: BoolArray, noise: Plane) -> BoolArray:
    """Return where all neighbours but one deviate strongly; known impulses do not count."""
    other_values = np.where(impulses, np.inf, values)
    similar_count = sum(
        (np.abs(_shift_plane(other_values, step) - values) <= ISOLATION_SIGMAS * noise).astype(int)
        for step in NEIGHBOUR_OFFSETS
    )
    return np.asarray(similar_count <= 1)


def _shift_plane(plane: AnyArray, step: tuple[int, int]) -> AnyArray:
    """Return each pixel's neighbour at `step`; the border is mirrored."""
    (down, right), (height, width) = step, plane.shape
    padded = np.pad(plane, 1, mode="reflect")
    return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]


def average_neighbours(plane: AnyArray) -> AnyArray:
    """Return the mean of the four nearest neighbours of each pixel of (Y, X)."""
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return np.asarray(np.mean([_shift_plane(plane, step) for step in steps], 0))


def _fill_impulses(values: Plane, impulses: BoolArray) -> Plane:
    """Replace impulses by the median of their measured neighbours, from the rim inwards."""
    filled, remaining = np.where(impulses, np.nan, values), impulses.copy()
    while remaining.any() and not remaining.all():
        neighbour_values = np.stack(
            [_shift_plane(filled, step)[remaining] for step in NEIGHBOUR_OFFSETS]
        )
        has_neighbours = ~np.isnan(neighbour_values).all(0)
        positions = np.argwhere(remaining)[has_neighbours]
        filled[tuple(positions.T)] = np.nanmedian(neighbour_values[:, has_neighbours], 0)
        remaining = np.isnan(filled)
    return filled


def gather_on_black(
    impulses: BoolArray, plane: npt.NDArray[np.floating], surroundings: Plane
) -> bool:
    """Return whether impulses on black are more frequent in some places, as single photons are.

    Their counts in blocks then vary more than by chance. Photons have any height, so few have the
    highest value, as salt has. All arrays are (Y, X); `surroundings` are the local medians.
    """
    is_black = surroundings <= plane.min()
    on_black = impulses & is_black
    if float((plane[on_black] >= plane.max()).sum()) > MAX_HIGHEST_FRACTION * int(on_black.sum()):
        return False
    counts, pixels = (_sum_blocks(each) for each in (on_black, is_black))
    is_used = pixels > COUNT_BLOCK_SIDE**2 / 4
    if not counts[is_used].any():
        return False
    expected = pixels[is_used] * (counts[is_used].sum() / pixels[is_used].sum())
    dispersion = float(((counts[is_used] - expected) ** 2).sum() / expected.sum())
    return dispersion > MAX_IMPULSE_DISPERSION


def _sum_blocks(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Return the number of marked pixels in each whole block of `COUNT_BLOCK_SIDE`."""
    side = COUNT_BLOCK_SIDE
    rows, columns = mask.shape[0] // side, mask.shape[1] // side
    blocks = mask[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return np.asarray(blocks.sum((1, 3)), np.float64)


def replace_single_pixels(
    planes: Float32Array, measured_mask: BoolArray | None
) -> tuple[Float32Array, BoolArray | None]:
    """Replace missing pixels by random neighbours where holes are narrow and few.

    Without it, single missing pixels interrupt nearly all blocks in which correlation is measured.

    Parameters
    ----------
    planes, measured_mask
        As for `replace_by_random_neighbours`; None: nothing is missing.

    Returns
    -------
    planes, measured_mask : ndarray
        The mask is of what is still missing; None if that is nothing.
    """
    if measured_mask is None:
        return planes, None
    from scipy import ndimage

    missing = ~measured_mask
    wide = ndimage.binary_opening(missing, np.ones((1, WIDE_HOLE_SIDE, WIDE_HOLE_SIDE)))
    narrow = missing & ~wide
    if not 0 < narrow.mean() <= MAX_REPLACED_FRACTION:
        return planes, measured_mask
    replaced = replace_by_random_neighbours(planes, measured_mask, narrow)
    return replaced, None if not wide.any() else ~wide


def replace_by_random_neighbours(
    planes: Float32Array, measured_mask: BoolArray, selected: BoolArray | None = None
) -> Float32Array:
    """Replace missing pixels, or the selected ones, by measured ones drawn from around them.

    The noise can then be measured on all pixels: its variance does not change, as it would with a
    mean of neighbours, and its correlation hardly.

    Parameters
    ----------
    planes : ndarray
        (planes, Y, X).
    measured_mask, selected : ndarray of bool
        Of the same shape.
    """
    rng, radius = np.random.default_rng(0), MEDIAN_WINDOW_SIDE // 2
    filled, missing = planes.copy(), ~measured_mask if selected is None else selected.copy()
    height, width = planes.shape[1:]
    for _ in range(MAX_REPLACEMENT_DRAWS):
        positions = np.argwhere(missing)
        if not len(positions):
            break
        steps = rng.integers(-radius, radius + 1, (len(positions), 2))
        y = np.clip(positions[:, 1] + steps[:, 0], 0, height - 1)
        x = np.clip(positions[:, 2] + steps[:, 1], 0, width - 1)
        drawn = np.stack([positions[:, 0], y, x])
        is_measured = measured_mask[tuple(drawn)]
        replaced = tuple(positions[is_measured].T)
        filled[replaced] = planes[tuple(drawn[:, is_measured])]
        missing[replaced] = False
    return filled
