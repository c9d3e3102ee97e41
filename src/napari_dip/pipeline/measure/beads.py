"""Find beads in an image, align and average them, and clean their mean."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, optimize

from napari_dip.engine.constants import FWHM_PER_SIGMA, MAD_TO_STD
from napari_dip.errors import RefusedError
from napari_dip.tasks.psf.psf_checks import (
    estimate_widths,
    keep_significant_light,
    make_border_mask,
    measure_half_widths,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_dip.io import AnyArray, Float32Array, FloatArray

#: Height of a bead above the background, in standard deviations of the smoothed noise.
_DETECTION_SIGMAS = 6.0
#: Least brightness of a bead, as a share of the median of the brightest. The rings of a widefield
#: PSF reach 15 % of its peak where neighbouring planes are summed.
_MIN_RELATIVE_BRIGHTNESS = 0.25
#: Number of the brightest beads whose median brightness is the reference.
_REFERENCE_BEADS = 10
#: Least brightness of a bead, as a share of the median of the brightest, where the PSF changes:
#: twice as wide, it has a quarter of the peak, and beads differ.
_MIN_FIELD_BRIGHTNESS = 0.1
#: Width at half height of a single pixel after a Gaussian filter of one pixel, by linear
#: interpolation.
_FILTER_WIDTH = 2.452
#: Least width that counts as a bead's (FWHM of 0.9 pixels).
_MIN_SMOOTHED_WIDTH = 2.6
#: Radius of the cut-out around a bead, in FWHM.
_CROP_RADIUS = 3.0
#: Radius of the core whose shape is fitted, in FWHM.
_SHAPE_RADIUS = 0.9
#: Radius of the core that is aligned. Wider cores halve the error at low signal, but PSFs differ
#: further out.
_ALIGNMENT_RADIUS = 1.0
#: Bounds of the shape of the core; 0 is a Gaussian, and an Airy disc has about 0.05.
_SHAPE_RANGE = (-0.08, 0.5)
#: Rounds of aligning all beads to their mean: offsets change by less than 0.02 pixels after three.
_ALIGNMENT_ROUNDS = 4
#: Steps of the alignment of a bead to the mean.
_ALIGNMENT_STEPS = 8
#: Least bound of the deviation of a bead's width from the median, in logarithms: two beads that
#: touch are wider by 20 % or more.
_MAX_WIDTH_DEVIATION = 0.15
#: Bound of the deviation of a bead's width from the median, in standard deviations.
_MAX_WIDTH_SIGMAS = 4.0
#: Voxels of one bead at the greatest value of the image: three or more are a plateau.
_SATURATED_VOXELS = 3
#: Parts of the field along each axis whose PSFs are written.
FIELD_CELLS = 7
#: Parts of the field along each axis of which each needs a bead.
_COVERED_PARTS = 3
#: Greatest degree of the polynomials over the field.
_MAX_FIELD_DEGREE = 4
#: Least number of beads for each term of the polynomials over the field.
_BEADS_PER_TERM = 3
#: Draws of the bootstrap over beads.
_BOOTSTRAP_DRAWS = 40
#: Fewest beads of the bootstrap over beads.
MIN_BOOTSTRAP_BEADS = 3
#: Iterations of Richardson-Lucy that take the size of the beads out.
_BEAD_ITERATIONS = 30
#: Samples of a bead's ball per pixel and axis.
_BALL_SAMPLES = 7


class BeadFault(StrEnum):
    """Reason for not using a bead."""

    BORDER = "border"
    CROWDED = "crowded"
    SATURATED = "saturated"
    SHAPE = "shape"


# Finding beads


def cut_out_beads(
    name: str, image: FloatArray, *, is_field: bool = False
) -> tuple[FloatArray, AnyArray, dict[BeadFault, int], float]:
    """Find beads that stand alone.

    Parameters
    ----------
    name : str
        Name of the image.
    image : ndarray
        (Y, X) or (Z, Y, X).
    is_field : bool
        Whether the PSF may change over the field, so that beads differ more in brightness.

    Returns
    -------
    crops : ndarray
        (beads, *sizes), background subtracted; sizes are odd.
    positions : ndarray
        (beads, axes), in pixels.
    rejected : dict of BeadFault to int
    noise : float
        Standard deviation of the image's noise.

    Raises
    ------
    RefusedError
        If there are no beads, or none can be used.
    """
    noise = _estimate_noise(image)
    fwhm = _guess_fwhm(image, noise)
    if fwhm is None:
        raise RefusedError("beads-none", name=name)
    brightness = _MIN_FIELD_BRIGHTNESS if is_field else _MIN_RELATIVE_BRIGHTNESS
    positions, _ = _find_maxima(image, fwhm / FWHM_PER_SIGMA, noise, brightness)
    radii = np.ceil(_CROP_RADIUS * fwhm).astype(int)
    last = np.array(image.shape) - 1
    if image.ndim == 3:  # beads lie in one plane, which may be near the first or last of the stack
        room = np.minimum(positions[:, 0], last[0] - positions[:, 0])
        radii[0] = max(min(radii[0], int(np.quantile(room, 0.25))), 1)
    rejected: dict[BeadFault, int] = {}
    crops, used, brightest = [], [], image.max()
    for position in positions:
        fault = None
        crop = image[tuple(map(slice, np.maximum(position - radii, 0), position + radii + 1))]
        if (position < radii).any() or (position + radii > last).any():
            fault = BeadFault.BORDER
        elif (np.abs(positions - position) <= radii + fwhm).all(1).sum() > 1:
            fault = BeadFault.CROWDED
        elif (crop == brightest).sum() >= _SATURATED_VOXELS:
            fault = BeadFault.SATURATED
        if fault is not None:
            rejected[fault] = rejected.get(fault, 0) + 1
            continue
        crops.append(crop - np.median(crop[make_border_mask(crop.shape)]))
        used.append(position)
    if not crops:
        counts = {str(fault): rejected.get(fault, 0) for fault in BeadFault}
        raise RefusedError("beads-unusable", name=name, count=len(positions), **counts)
    return np.array(crops), np.array(used), rejected, noise


def _estimate_noise(image: FloatArray) -> float:
    """Estimate the background's noise from second differences along X.

    Where most differences are 0, as in images of few counts, their root mean square without the
    largest twentieth is taken instead of their median.
    """
    differences = np.diff(image, n=2, axis=-1) / np.sqrt(6)
    magnitudes = np.abs(differences)
    lower = differences[magnitudes <= np.quantile(magnitudes, 0.95)]
    estimates = MAD_TO_STD * float(np.median(magnitudes)), float(lower.std())
    return max(*estimates, float(np.finfo(np.float32).tiny))


def _find_maxima(
    image: FloatArray,
    sigmas: Sequence[float] | FloatArray,
    noise: float,
    min_brightness: float = _MIN_RELATIVE_BRIGHTNESS,
) -> tuple[AnyArray, FloatArray]:
    """Find bright local maxima of the smoothed image.

    Returns
    -------
    positions, smooth : ndarray
        (maxima, axes), brightest first; and the smoothed image above its background.
    """
    smooth = ndimage.gaussian_filter(image, sigmas, mode="nearest")
    smooth -= np.median(smooth)
    # a Gaussian filter multiplies the noise by 1 / (2 sqrt(pi) sigma)^1/2 along each axis
    remaining = np.prod([min(1.0, (2 * np.sqrt(np.pi) * sigma) ** -0.5) for sigma in sigmas])
    spread = max(noise * remaining, MAD_TO_STD * float(np.median(np.abs(smooth))))
    sizes = [2 * int(np.ceil(1.5 * max(sigma, 0.5))) + 1 for sigma in sigmas]
    is_maximum = smooth == ndimage.maximum_filter(smooth, sizes, mode="nearest")
    positions = np.argwhere(is_maximum & (smooth > _DETECTION_SIGMAS * spread))
    heights = smooth[tuple(positions.T)]
    order = np.argsort(-heights, kind="stable")
    positions, heights = positions[order], heights[order]
    if len(heights):
        min_height = min_brightness * np.median(heights[:_REFERENCE_BEADS])
        positions = positions[heights > min_height]
    return positions, smooth


def _guess_fwhm(image: FloatArray, noise: float) -> FloatArray | None:
    """Guess the width of beads along each axis, in pixels, from half heights; None without beads.

    The image is smoothed by a Gaussian of one pixel first. A single bright pixel has the width of
    that and is no bead.
    """
    positions, smooth = _find_maxima(image, (1.0,) * image.ndim, noise)
    widths = np.array([measure_half_widths(smooth, position) for position in positions]).reshape(
        -1, image.ndim
    )
    is_bead = widths[:, -2:].mean(1) > _MIN_SMOOTHED_WIDTH  # false for NaN
    if not is_bead.any() or np.isnan(widths[is_bead]).all(0).any():
        return None
    guess: FloatArray = np.nanmedian(widths[is_bead], 0) ** 2 - _FILTER_WIDTH**2
    return np.sqrt(np.maximum(guess, 1.0))


# Averaging


@dataclass(frozen=True, slots=True, eq=False)
class _CoreFit:
    """The fitted core of a bead: offset of its centre from the middle, widths and height."""

    offset: FloatArray
    fwhm: FloatArray
    height: float


def average_beads(crops: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, AnyArray]:
    """Align beads to their mean, in rounds.

    Returns
    -------
    mean : ndarray
        (*sizes), of height one.
    aligned : ndarray
        (beads, *sizes): all beads, moved to the middle.
    heights : ndarray
        (beads,)
    is_used : ndarray of bool
        (beads,): false where the width is not that of most beads.
    """
    fwhm, widths, offsets, heights = _fit_cores(crops)
    is_used = _are_alike(np.abs(widths - np.median(widths)))
    for _ in range(_ALIGNMENT_ROUNDS):
        aligned = _move_to_middle(crops, offsets)
        mean = aligned[is_used].sum(0) / heights[is_used].sum()
        mean, fwhm = _centre(mean, fwhm)
        pairs = [_align(crop, mean, fwhm) for crop in crops]
        offsets, heights = map(np.array, zip(*pairs, strict=True))
    return mean, aligned, heights, is_used


def _fit_cores(crops: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Fit the core of each bead.

    Returns
    -------
    fwhm : ndarray
        (axes,): widths of the median of all beads, from which the fits start.
    widths, offsets, heights : ndarray
        (beads,) or (beads, axes): logarithm of the mean width, offset from the middle, and height.
    """
    fwhm = estimate_widths(np.median(crops, 0))
    fits = [fit_core(crop, fwhm) for crop in crops]
    widths = np.log([fit.fwhm.prod() for fit in fits]) / len(fwhm)
    offsets = np.array([fit.offset for fit in fits])
    return fwhm, widths, offsets, np.array([fit.height for fit in fits])


def _are_alike(deviations: FloatArray) -> AnyArray:
    """Return which deviations of widths, in logarithms, are those of single beads."""
    limit = _MAX_WIDTH_SIGMAS * MAD_TO_STD * float(np.median(deviations))
    return np.asarray(deviations <= max(_MAX_WIDTH_DEVIATION, limit))


def _move_to_middle(crops: FloatArray, offsets: FloatArray) -> FloatArray:
    return np.array([_shift(crop, -offset) for crop, offset in zip(crops, offsets, strict=True)])


def _align(crop: FloatArray, mean: FloatArray, fwhm: FloatArray) -> tuple[FloatArray, float]:
    """Fit offset, height and background of a bead to the mean by Gauss-Newton steps."""
    offset, height = np.zeros(crop.ndim), 1.0
    core = _make_ellipsoid_mask(crop.shape, np.maximum(_ALIGNMENT_RADIUS * fwhm, 1.5))
    for _ in range(_ALIGNMENT_STEPS):
        moved = _shift(mean, offset)
        slopes = [-slope[core] for slope in np.asarray(np.gradient(moved))]
        design = np.stack([moved[core], np.ones(int(core.sum())), *slopes], 1)
        solution, *_ = np.linalg.lstsq(design, crop[core], rcond=None)
        height = max(float(solution[0]), float(np.finfo(np.float32).tiny))
        step = np.clip(solution[2:] / height, -1, 1)
        offset = np.clip(offset + step, -3, 3)  # the crop is centred to a pixel already
        if np.abs(step).max() < 1e-3:
            break
    return offset, height


def fit_core(volume: FloatArray, fwhm: FloatArray) -> _CoreFit:
    """Fit a Gaussian, flattened or pointed along each axis, to the core around the middle.

    There is no background, and the core follows the fitted width.
    """
    middle, dims = (np.array(volume.shape) - 1) / 2, volume.ndim
    centre, height = middle.copy(), 1.0
    for _ in range(3):
        centre = np.clip(centre, 0, 2 * middle)
        core = _make_ellipsoid_mask(volume.shape, np.maximum(_SHAPE_RADIUS * fwhm, 1.0), centre)
        peak = max(float(volume[core].max()), float(np.finfo(np.float32).tiny))
        points, values = np.argwhere(core).astype(np.float64), volume[core] / peak

        def compute_residuals(
            parameters: FloatArray, points: FloatArray = points, values: FloatArray = values
        ) -> FloatArray:
            height, shapes, centre, widths = np.split(parameters, [1, 1 + dims, 1 + 2 * dims])
            # in units of the half width: along each axis the model has half its height at 1
            squares = 4 * ((points - centre) / widths) ** 2
            radius = squares.sum(1)
            exponents = -np.log(2) * (radius + squares @ shapes * (radius - 1))
            model = height * np.exp(np.minimum(exponents, 1.0))  # else trial steps overflow
            return np.asarray(model - values)

        lower = np.concatenate([[0.0], [_SHAPE_RANGE[0]] * dims, middle - 3 * fwhm - 1, 0.3 * fwhm])
        upper = np.concatenate([[10.0], [_SHAPE_RANGE[1]] * dims, middle + 3 * fwhm + 1, 3 * fwhm])
        start = np.concatenate([[1.0], [0.0] * dims, centre, fwhm])
        solution = optimize.least_squares(compute_residuals, start, bounds=(lower, upper)).x
        last, fwhm = fwhm, solution[1 + 2 * dims :]
        height, centre = peak * float(solution[0]), solution[1 + dims : 1 + 2 * dims]
        if np.allclose(fwhm, last, rtol=1e-3):
            break
    return _CoreFit(centre - middle, fwhm, height)


def measure_fwhm(psf: FloatArray | Float32Array) -> FloatArray:
    """Measure the widths of a PSF without noise."""
    scaled = np.asarray(psf, np.float64) / psf.max()
    return fit_core(scaled, estimate_widths(scaled)).fwhm


def bootstrap_fwhm(aligned: FloatArray, heights: FloatArray, fwhm: FloatArray) -> FloatArray | None:
    """Return the standard error of the widths, over draws of beads; None from too few beads.

    References
    ----------
    Efron, Bootstrap methods, Annals of Statistics 7(1), 1979, doi:10.1214/aos/1176344552.
    """
    if len(aligned) < MIN_BOOTSTRAP_BEADS:
        return None
    return _bootstrap(lambda draw: aligned[draw].sum(0) / heights[draw].sum(), len(aligned), fwhm)


def _bootstrap(
    average: Callable[[AnyArray], FloatArray], count: int, fwhm: FloatArray
) -> FloatArray:
    """Return the standard error of the widths of a mean, over draws of the indices of beads."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(count, size=count) for _ in range(_BOOTSTRAP_DRAWS)]
    return np.asarray(np.std([fit_core(average(draw), fwhm).fwhm for draw in draws], axis=0))


def _shift(volume: FloatArray, offsets: FloatArray) -> FloatArray:
    """Move by parts of a pixel in the Fourier domain; interpolation would widen the beads."""
    moved = ndimage.fourier_shift(np.fft.fftn(volume), offsets)
    return np.asarray(np.fft.ifftn(moved).real)


def _make_ellipsoid_mask(
    shape: tuple[int, ...], radii: FloatArray, centre: FloatArray | None = None
) -> AnyArray:
    """Return a mask of the ellipsoid around a centre, by default the middle."""
    middle = (np.array(shape) - 1) / 2 if centre is None else centre
    grids = np.ogrid[tuple(map(slice, shape))]
    squares = [((grid - at) / r) ** 2 for grid, at, r in zip(grids, middle, radii, strict=True)]
    return np.asarray(sum(squares) <= 1)


# PSFs that change over the field


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FieldFit:
    """A PSF of which each pixel is a polynomial of the place in the field.

    Attributes
    ----------
    degree : int
    coefficients : ndarray
        (terms, *sizes)
    is_used : ndarray of bool
        (beads,): false where the width is not that of the beads around it.
    heights : ndarray
        (beads,)
    fwhm_error : ndarray
        Standard error of the widths in the middle of the field, by bootstrap over the beads.
    """

    degree: int
    coefficients: FloatArray
    is_used: AnyArray
    heights: FloatArray
    fwhm_error: FloatArray

    def evaluate(self, places: FloatArray) -> FloatArray:
        """Return the PSFs at places from -1 to 1 along Y and X, (places, *sizes)."""
        terms = _compute_terms(places, self.degree)
        return np.asarray(np.tensordot(terms, self.coefficients, 1))


def fit_field(name: str, crops: FloatArray, places: FloatArray) -> FieldFit:
    """Align beads to the PSF of their place, in rounds, and fit each pixel by a polynomial.

    The degree is the one that best predicts beads that were not fitted (leave one out).

    Parameters
    ----------
    name : str
        Name of the image.
    crops : ndarray
        (beads, *sizes), background subtracted.
    places : ndarray
        (beads, 2): along Y and X, from -1 at one border of the field to 1 at the other.

    Raises
    ------
    RefusedError
        If parts of the field have no bead, or there are too few.
    """
    fwhm, widths, offsets, heights = _fit_cores(crops)
    is_used = _select_alike(widths, places)
    cells = np.floor((places[is_used] + 1) / 2 * _COVERED_PARTS).clip(0, _COVERED_PARTS - 1)
    covered = len(np.unique(cells, axis=0))
    min_count = 3 * _BEADS_PER_TERM
    if covered < _COVERED_PARTS**2 or is_used.sum() < min_count:
        facts = {"count": int(is_used.sum()), "least": min_count}
        empty = _COVERED_PARTS**2 - covered
        raise RefusedError("beads-field", name=name, empty=empty, **facts)
    for _ in range(_ALIGNMENT_ROUNDS):
        used, used_heights = _move_to_middle(crops, offsets)[is_used], heights[is_used]
        degree = _choose_degree(used, used_heights, places[is_used])
        terms = _compute_terms(places, degree)
        coefficients = _solve(terms[is_used], used_heights, used)
        references = [_centre(each, fwhm) for each in np.tensordot(terms, coefficients, 1)]
        aligned_pairs = [_align(crop, *each) for crop, each in zip(crops, references, strict=True)]
        offsets, heights = map(np.array, zip(*aligned_pairs, strict=True))

    def average_middle(draw: AnyArray) -> FloatArray:
        return np.asarray(_solve(terms[is_used][draw], heights[is_used][draw], used[draw])[0])

    return FieldFit(
        degree=degree,
        coefficients=coefficients,
        is_used=is_used,
        heights=heights,
        fwhm_error=_bootstrap(average_middle, len(used), fwhm),
    )


def _centre(volume: FloatArray, fwhm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Move a PSF to the middle and scale it to a height of one; return its widths as well."""
    core = fit_core(volume, fwhm)
    return _shift(volume, -core.offset) / core.height, core.fwhm


def clean_field(fit: FieldFit, fwhm: FloatArray) -> FloatArray:
    """Return the PSFs in the middles of equal parts of the field, (rows, columns, *sizes).

    They are centred and cleaned as the mean of beads is.
    """
    middles = (np.arange(FIELD_CELLS) + 0.5) * 2 / FIELD_CELLS - 1
    places = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)
    psfs = [clean_mean(_centre(psf, fwhm)[0]) for psf in fit.evaluate(places)]
    return np.reshape(psfs, (FIELD_CELLS, FIELD_CELLS, *psfs[0].shape))


def _select_alike(widths: FloatArray, places: FloatArray) -> AnyArray:
    """Return which beads have the width of those around them, by a parabola over the field."""
    is_used = np.ones(len(widths), bool)
    for _ in range(3):
        terms = _compute_terms(places, 2 if is_used.sum() >= 6 * _BEADS_PER_TERM else 1)
        solution, *_ = np.linalg.lstsq(terms[is_used], widths[is_used], rcond=None)
        is_used = _are_alike(np.abs(widths - terms @ solution))
    return is_used


def _compute_terms(places: FloatArray, degree: int) -> FloatArray:
    """Return the products of powers up to a degree at each place, the constant first."""
    y, x = places.T
    powers = [(total - i, i) for total in range(degree + 1) for i in range(total + 1)]
    return np.stack([y**row * x**column for row, column in powers], 1)


def _solve(terms: FloatArray, heights: FloatArray, crops: FloatArray) -> FloatArray:
    """Fit the coefficients of each pixel by least squares, (terms, *sizes)."""
    flat = crops.reshape(len(crops), -1)
    solution, *_ = np.linalg.lstsq(heights[:, None] * terms, flat, rcond=None)
    return np.asarray(solution.reshape(terms.shape[1], *crops.shape[1:]))


def _choose_degree(crops: FloatArray, heights: FloatArray, places: FloatArray) -> int:
    """Return the degree with the least squared error of beads that were left out of the fit."""
    flat, errors = crops.reshape(len(crops), -1), []
    for degree in range(_MAX_FIELD_DEGREE + 1):
        design = heights[:, None] * _compute_terms(places, degree)
        if degree and design.shape[1] * _BEADS_PER_TERM > len(crops):
            break
        projection = design @ np.linalg.pinv(design)
        residual = (flat - projection @ flat) / (1 - np.diag(projection)).clip(0.05)[:, None]
        errors.append(float((residual**2).sum()))
    return int(np.argmin(errors))


# Cleaning


def clean_mean(mean: FloatArray) -> FloatArray:
    """Set background and negative values to 0, and scale to a sum of one.

    Light counts where the mean, smoothed by a quarter of its width, exceeds three standard
    deviations of its outermost pixels, and where it is connected to the middle.
    """
    middle = np.array(mean.shape) // 2
    psf, _ = keep_significant_light(mean, middle, make_border_mask(mean.shape))
    return np.asarray(psf / psf.sum())


def remove_bead_size(psf: FloatArray, diameters: Sequence[float]) -> FloatArray:
    """Deconvolve with the ball of a bead, whose diameter is given in pixels along each axis.

    References
    ----------
    Richardson, JOSA 62(1), 1972, doi:10.1364/JOSA.62.000055; Lucy, Astronomical Journal 79, 1974,
    doi:10.1086/111605.
    """
    positions = [
        (np.arange(count * _BALL_SAMPLES) + 0.5) / _BALL_SAMPLES - count / 2 for count in psf.shape
    ]
    grids = np.meshgrid(*positions, indexing="ij", sparse=True)
    # in a plane a ball is as bright as it is thick
    squares = sum((2 * grid / size) ** 2 for grid, size in zip(grids, diameters, strict=True))
    ball = np.asarray(squares <= 1, float) if psf.ndim == 3 else np.sqrt(np.maximum(1 - squares, 0))
    shape = [side for count in psf.shape for side in (count, _BALL_SAMPLES)]
    ball = ball.reshape(shape).mean(tuple(range(1, 2 * psf.ndim, 2)))
    transfer = np.fft.rfftn(np.fft.ifftshift(ball / ball.sum()))

    def blur(volume: FloatArray) -> FloatArray:
        blurred = np.fft.irfftn(np.fft.rfftn(volume) * transfer.real, volume.shape, range(psf.ndim))
        return np.maximum(blurred, np.finfo(np.float32).tiny)

    estimate = psf.copy()
    for _ in range(_BEAD_ITERATIONS):
        estimate = estimate * blur(psf / blur(estimate))
    return np.asarray(estimate / estimate.sum())
