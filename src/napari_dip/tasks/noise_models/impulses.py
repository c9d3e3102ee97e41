"""Salt and pepper as a named noise: its pixels are not measured, and the others tell of them.

Impulses: pixels that tell nothing of the picture, found by how far they lie off all around.

Salt and pepper of one value each, pixels of any value, and the hot and dead pixels of a camera.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.tasks.priors.blind_spot import build_blind_spot_problem
from napari_dip.tasks.priors.deep_image_prior import (
    build_random_input_problem,
    validate_by_squared_error,
)
from napari_dip.tasks.priors.masked_input import build_masked_input_prior

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.errors.notes import Note
    from napari_dip.tasks.base import FitInput

    Plane = npt.NDArray[np.float64]

    Marks = npt.NDArray[np.bool_]

#: Name of the noise, and of the prior that fills pixels from those around; a row of the presets.
SALT_AND_PEPPER, MASKED_INPUT_PRIOR = "salt-and-pepper", "masked-input"


def describe_impulses(measured_mask: npt.NDArray[np.bool_]) -> Note:
    """Say how many were found, where what is known is (parts, C, *grid)."""
    count = int(measured_mask.size - measured_mask.sum())
    return make_note("impulses-found", count=count, share=count / measured_mask.size)


def has_no_impulses(measured_mask: npt.NDArray[np.bool_] | None) -> bool:
    """Whether none were found."""
    return measured_mask is None or bool(measured_mask.all())


def build_impulse_problem(scene: FitInput, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Explain what was measured as picture plus noise; impulses have no word in the end."""
    from torch import where

    from napari_dip.engine.problem import append_final_step

    fed = scene.prior != "random-input"
    explained = (build_blind_spot_problem if fed else build_random_input_problem)(scene, penalties)
    problem = (
        validate_by_squared_error(scene, explained)
        if scene.prior == MASKED_INPUT_PRIOR
        else explained
    )

    def unheard(estimate: Estimate, done: Estimate) -> Estimate:
        """Take what was foretold where there is an impulse."""
        mask = scene.measured_mask > 0
        mean = where(mask, done.mean, estimate.mean)
        if done.log_variance is None or estimate.log_variance is None:
            return done._replace(mean=mean)
        return type(done)(mean, where(mask, done.log_variance, estimate.log_variance))

    return append_final_step(problem, unheard)


def build_impulse_prior(scene: FitInput, rng: torch.Generator) -> Prior:
    """Feed the network the image without its impulses, and with more of it hidden."""
    return build_masked_input_prior(scene, rng, foretell=True)


def exclude_impulses(scene: FitInput) -> FitInput:
    """Keep impulses out of what a blind-spot network is fed, as judging pixels are."""
    return replace(scene, guarded=1 - (1 - scene.guarded) * scene.measured_mask)


#: Standard deviations from the median of its surroundings that make a pixel suspect. Normal noise
#: goes as far in six of ten million pixels.
SUSPECT_SIGMAS = 5.0
#: The same, of the texture around.
TEXTURE = 3.0
#: Standard deviations from all of its neighbours but one that make it an impulse: a line one pixel
#: wide has two neighbours of its own kind at each pixel.
ISOLATION_SIGMAS = 4.0
#: Standard deviations that none but impulses reach: camera noise of few photons has long tails.
CLEAR_IMPULSE_SIGMAS = 8.0
#: Side of the surroundings, in pixels: of 25, a dozen may be impulses and the median still holds.
MEDIAN_WINDOW_SIDE = 5
#: Lines that a median is taken of at a time: 25 copies of a strip are held at once.
STRIP = 64
#: Looks, each with what the one before found taken out. With impulses of any value in a quarter of
#: camera, coins and moon, the fourth look found 4, 0.6 and 0.2 % more, two further ones 2, 0.6 and
#: 0.3 %; salt and pepper were all found by the first.
DETECTION_PASSES = 4
#: Classes of brightness, each with a noise of its own, and the share of the range that is the least
#: standard deviation reckoned with, where most of a picture is one value.
IMPULSE_BRIGHTNESS_CLASSES, MIN_IMPULSE_SIGMA_SHARE = 12, 0.005
#: Chance that as many neighbours of an impulse are impulses of its value, too; more are a saturated
#: spot.
MAX_CLUSTER_PROBABILITY = 1e-3
#: How much likelier salt or pepper must be than noise that goes as far.
ODDS = 10.0
#: Pixels at an extreme, far off their surroundings, from which on it is taken for salt or pepper.
MIN_EXTREME_PIXELS = 4
#: Makes the standard deviation of normal values of their median absolute value, and of other
#: quantiles: where most of a picture is black, more than half of its pixels do not vary at all.
NORMAL_MAD_SCALE = 1.4826
QUANTILE_SCALES = ((0.5, 1.4826), (0.7, 0.9648))
#: Draws after which a pixel that met no known one stays as it is: 1 in 10^15 of those among halves.
MAX_REPLACEMENT_DRAWS = 50
#: Steps to the eight neighbours.
NEIGHBOUR_OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def find_impulses(
    plane: npt.NDArray[np.floating], *, far: float = SUSPECT_SIGMAS, looks: int = DETECTION_PASSES
) -> Marks:
    """Find the impulses of one plane.

    A pixel is one if it lies `far` standard deviations off the median of 5 x 5 pixels, and off all
    of its neighbours but one; or if it has the lowest or the highest value of all, as many others
    do that do not fit their places.

    Parameters
    ----------
    plane : ndarray
        (Y, X), in any unit.
    far : float
        In standard deviations of the noise at that brightness, or of the texture there.
    looks : int
        The more, the denser may impulses lie.

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
    if not np.isfinite(values).all():  # they are refused in words elsewhere
        return np.zeros(values.shape, bool)
    low, high = np.percentile(values, (1, 99))
    least = max(MIN_IMPULSE_SIGMA_SHARE * float(high - low), _measure_grey_step(values))
    fixed = _find_salt_and_pepper(values, far, least)
    impulses = fixed
    for _ in range(looks):
        filled = _fill_impulses(values, impulses)
        middle = compute_local_median(filled)
        off = np.abs(filled - middle)
        noise = _estimate_noise_by_brightness(off, middle, ~impulses, least)
        away = np.abs(values - middle)
        suspect = (away > far * noise) & (
            away > TEXTURE * NORMAL_MAD_SCALE * compute_local_median(off)
        )
        now = fixed | (suspect & _find_isolated(values, impulses, noise))
        if np.array_equal(now, impulses):
            break
        impulses = now
    return impulses


def find_stack_impulses(parts: npt.NDArray[np.floating], *, far: float = SUSPECT_SIGMAS) -> Marks:
    """Find those of all planes of (..., Y, X), each by itself."""
    planes = parts.reshape(-1, *parts.shape[-2:])
    return np.stack([find_impulses(plane, far=far) for plane in planes]).reshape(parts.shape)


def compute_local_median(plane: npt.NDArray[np.floating]) -> Plane:
    """Give the median of what is around each pixel of (Y, X)."""
    padded = np.pad(plane.astype(np.float64), MEDIAN_WINDOW_SIDE // 2, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(
        padded, (MEDIAN_WINDOW_SIDE, MEDIAN_WINDOW_SIDE)
    )
    answer = np.empty(plane.shape)
    for first in range(0, len(plane), STRIP):
        strip = around[first : first + STRIP].reshape(-1, plane.shape[1], MEDIAN_WINDOW_SIDE**2)
        middle = MEDIAN_WINDOW_SIDE**2 // 2
        answer[first : first + STRIP] = np.partition(strip, middle, -1)[..., middle]
    return answer


def _measure_grey_step(values: Plane) -> float:
    """Give the least step between grey values, 0 where there are none."""
    levels = np.unique(values)
    steps = np.diff(levels)
    return float(np.median(steps)) if 1 < len(levels) < values.size // 4 else 0.0


def _estimate_noise_by_brightness(
    off: Plane, middle: Plane, measured_mask: Marks, least: float
) -> Plane:
    """Give the noise's standard deviation at each pixel, by brightness.

    Read from what is `measured_mask` of how far pixels lie `off` the middle of their surroundings.
    """
    bright, away = middle[measured_mask], off[measured_mask]
    order = np.argsort(bright, kind="stable")
    levels, widths = [], []
    for item in np.array_split(order, IMPULSE_BRIGHTNESS_CLASSES):
        if len(item):
            levels.append(np.median(bright[item]))
            some = np.quantile(away[item], [rank for rank, _ in QUANTILE_SCALES])
            widths.append(max(some * [factor for _, factor in QUANTILE_SCALES]))
    return np.asarray(np.maximum(np.interp(middle, levels, widths), least))


def _find_salt_and_pepper(values: Plane, far: float, least: float) -> Marks:
    """Mark pixels of the lowest and the highest value, if that is salt or pepper.

    Their surroundings are judged without them, so that half of a picture may be such.
    """
    ends = values.min(), values.max()
    at_ends = (values == ends[0]) | (values == ends[1])
    impulses = np.zeros(values.shape, bool)
    if at_ends.all():
        return impulses
    filled = _fill_impulses(values, at_ends)
    middle = compute_local_median(filled)
    noise = _estimate_noise_by_brightness(np.abs(filled - middle), middle, ~at_ends, least)
    apart = np.abs(values - middle) / noise
    for end in ends:
        same = values == end
        sure = float((same & (apart > far)).mean())
        odd = apart > min(far, _compute_normal_quantile(sure / ODDS))
        share = float(same.mean())
        chances = [math.comb(8, k) * share**k * (1 - share) ** (8 - k) for k in range(9)]
        most = next(k for k in range(9) if sum(chances[k + 1 :]) < MAX_CLUSTER_PROBABILITY)
        around = sum(_shift_plane(same, step).astype(int) for step in NEIGHBOUR_OFFSETS)
        here = same & odd & (around <= max(most, 1))
        if here.sum() >= MIN_EXTREME_PIXELS:
            impulses |= here
    return impulses


def _compute_normal_quantile(chance: float) -> float:
    """Give how many standard deviations normal values exceed with that chance, to either side."""
    return NormalDist().inv_cdf(1 - chance / 2) if chance > 0 else math.inf


def _find_isolated(values: Plane, impulses: Marks, noise: Plane) -> Marks:
    """Whether all neighbours but one are far off; those found to be impulses do not count."""
    unmarked_values = np.where(impulses, np.inf, values)
    alike = sum(
        (np.abs(_shift_plane(unmarked_values, step) - values) <= ISOLATION_SIGMAS * noise).astype(
            int
        )
        for step in NEIGHBOUR_OFFSETS
    )
    return np.asarray(alike <= 1)


def _shift_plane(plane: npt.NDArray[Any], step: tuple[int, int]) -> npt.NDArray[Any]:
    """Give each pixel its neighbour's value; beyond the border, the picture's mirror."""
    (down, right), (height, width) = step, plane.shape
    padded = np.pad(plane, 1, mode="reflect")
    return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _fill_impulses(values: Plane, impulses: Marks) -> Plane:
    """Put the median of what is known around in the place of impulses, ring by ring."""
    filled, remaining = np.where(impulses, np.nan, values), impulses.copy()
    while remaining.any() and not remaining.all():
        around = np.stack([_shift_plane(filled, step) for step in NEIGHBOUR_OFFSETS])[:, remaining]
        mask = ~np.isnan(around).all(0)
        at = np.argwhere(remaining)[mask]
        filled[tuple(at.T)] = np.nanmedian(around[:, mask], 0)
        remaining = np.isnan(filled)
    return filled


def replace_by_random_neighbours(
    planes: npt.NDArray[np.float32], measured_mask: Marks, *, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Put a known pixel of the surroundings, drawn at random, in the place of each that is not.

    So that noise can be measured as if all were known: its variance stays as it is, which a mean
    of neighbours would lessen, and its correlation nearly.

    Parameters
    ----------
    planes : ndarray
        (planes, Y, X).
    measured_mask : ndarray of bool
        Of the same shape.
    seed : int
        Of the draws.
    """
    rng, reach = np.random.default_rng(seed), MEDIAN_WINDOW_SIDE // 2
    answer, mask = planes.copy(), ~measured_mask
    height, width = planes.shape[1:]
    for _ in range(MAX_REPLACEMENT_DRAWS):
        at = np.argwhere(mask)
        if not len(at):
            break
        steps = rng.integers(-reach, reach + 1, (len(at), 2))
        y = np.clip(at[:, 1] + steps[:, 0], 0, height - 1)
        x = np.clip(at[:, 2] + steps[:, 1], 0, width - 1)
        hit = measured_mask[at[:, 0], y, x]
        answer[tuple(at[hit].T)] = planes[at[hit, 0], y[hit], x[hit]]
        mask[tuple(at[hit].T)] = False
    return answer
