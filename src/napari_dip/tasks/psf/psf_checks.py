"""Check the image of a PSF before a run, and remove what is not light of a point; without torch.

Kernels of motion blur are right PSFs, too: lopsided, of several peaks, and tightly cropped. So a
check that only holds for the image of a point first looks for signs of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_dip.engine.constants import MAD_TO_STD, MIN_RETAINED_LIGHT
from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray, ImageHeader

#: Negative values up to this share of the peak are treated as rounding errors.
_MAX_NEGATIVE_FRACTION = 1e-6
#: Width of a constant image up to which it is a uniform blur; published ones have up to 19 pixels.
_MAX_UNIFORM_SIDE = 32
#: Width of the rim: the shortest side divided by this.
_RIM_DIVISOR = 8
#: Distance from the border to the shell that the rim is compared with: the shortest side divided by
#: this.
_SHELL_DIVISOR = 5
#: A rim is a pedestal only if its darker blocks, within their error, have more than this share of
#: the mean of its brighter ones. A Gaussian cut at one standard deviation has 0.8, an Airy disc
#: 0.4.
_MIN_RIM_BLOCK_RATIO = 0.6
#: A rim is a pedestal only if it has, within the error, more than this share of the mean of the
#: shell. A Gaussian cut at one standard deviation has 0.73, an Airy disc 0.3.
_MIN_RIM_SHELL_RATIO = 0.8
#: A rim is no pedestal if a shell within has less than this share of it, within the error: around
#: dark rings it is 0.20 to 0.79, on backgrounds 0.91 and more.
_MIN_SHELL_RIM_RATIO = 0.9
#: Least evenness of a rim that is a pedestal although the shell is brighter. Of 44 cropped PSFs
#: without a background whose light seems to end before the rim, 33 have less, down to 0.06.
_MIN_RIM_EVENNESS = 0.85
#: Least share of the light in such a pedestal: the dark rings of an Airy disc have up to 0.06.
_MIN_NARROW_PEDESTAL_LIGHT = 0.1
_MIN_RIM_SIDE = 8  #: Smallest side with a rim to judge.
_MIN_PEDESTAL_LIGHT = 0.01  #: Least share of the light in a pedestal that is removed.
#: Light below this many standard deviations of its own noise is taken for background.
_SUPPORT_SIGMAS = 3.0
#: Least height of a peak over the smoothed noise to count as one, as for beads.
_MIN_PEAK_SIGMAS = 6.0
#: Least height of a peak over the noise of a pixel; below, the PSF is noisy: at 10 its width is off
#: by 8 %.
_MIN_PEAK_RATIO = 10.0
#: Least brightness of another bead, as a share of the brightest one.
_MIN_BEAD_FRACTION = 0.3
#: Radius of the ring around each bead, in widths; there it is darker than half of the bead.
_PEAK_RING_WIDTHS = 1.3
_MIN_SHAPE_CORRELATION = 0.8  #: Least correlation of the surroundings of two beads.
#: Greatest brightness outside of the beads' rings, as a share of the brightest bead: with beads up
#: to 0.2 was found, on the paths of shaken cameras 0.27 and more.
_MAX_OUTSIDE_BEADS_FRACTION = 0.2
#: Greatest brightness between two beads, as a share of the darker one.
_MAX_SADDLE = 0.6
#: Least share of the light in pixels of exactly the greatest value; below, grey values are coarse.
_MIN_PLATEAU_LIGHT = 0.03
#: Least share of the light beyond the neighbours of the pixels of the greatest value: the disc of a
#: lens out of focus has none, clipped PSFs 18 %.
_MIN_FLANK_LIGHT = 0.05
#: Brightness of the pixels beyond the rim, as a share of the peak, from which on tails are cut; it
#: is extrapolated from the last two shells. Common kernels have less: a Gaussian of 1.6 pixels on
#: 7 x 7 0.033, a binomial on 5 x 5 0.021. An Airy disc cut inside its first dark ring has 0.05.
_MAX_EXTRAPOLATED_TAIL_FRACTION = 0.037
#: Brightness of the first or last plane, as a share of the peak, from which on the stack is too
#: thin. At two standard deviations a Gaussian has 0.14.
_MAX_END_PLANE_FRACTION = 0.2
#: Ratio of the widths along Y and X from which on they are not those of a point in focus.
_MAX_LATERAL_WIDTH_RATIO = 1.3
_MAX_EQUAL_WIDTH_RATIO = 1.15  #: Ratio up to which two widths count as equal.
#: Evenness of the light of planes, (sum)^2 / (n sum of squares), from which on it is even: those of
#: a widefield PSF have 0.95 and more along Z, and 0.3 along Y and X.
_MIN_EVENNESS = 0.9
#: The evenness along Z is less than `_MIN_EVENNESS` divided by this.
_EVENNESS_RATIO = 1.5
#: Least ratio of measured and computed width without warning: down to 0.72 for a confocal PSF.
_MIN_WIDTH_RATIO = 0.65
#: Largest ratio of measured and computed width without warning: two blurs of one microscope widen
#: by 1.3, aberrations of a fourteenth of a wave by 1.08.
MAX_WIDTH_RATIO = 1.25
#: Ratio of a single bright pixel to its brightest neighbour from which on it is a hot pixel, if it
#: and they have less than half of the light. On 180 random paths of a camera it is at most 8.
_HOT_PIXEL_RATIO = 10.0
#: Share of the light of a PSF that was cropped to the image, below which a note says how much was
#: lost, as the second decimal shows it.
_NOTED_CROPPED_LIGHT = 0.995
#: Share of the light of a cropped PSF below which its light lies around a dark middle.
_MIN_CROPPED_LIGHT = 0.05
#: A wrapped PSF has more than this share of its light in its corners, a quarter of a side wide.
_MIN_CORNERS_LIGHT = 0.8
#: A wrapped PSF has more than this share of its light in each corner.
_MIN_CORNER_LIGHT = 0.02


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CheckedPsf:
    """The image of a PSF after its check.

    Attributes
    ----------
    image : ndarray
        (Y, X) or (Z, Y, X): as it was, or without background and noise.
    notes : tuple of Note
        Changes and warnings.
    """

    image: AnyArray
    notes: tuple[Note, ...] = ()


def inspect_psf_image(
    image: Float32Array | AnyArray, computed_fwhm: Mapping[str, float] | None = None
) -> CheckedPsf | Refusal:
    """Refuse an image that is no PSF; remove background and noise; warn of other faults.

    Parameters
    ----------
    image : ndarray
        (..., Y, X), finite. Axes of one pixel before Y are removed.
    computed_fwhm : mapping of str to float, optional
        Width at half maximum without aberrations in pixels, by axis, where it is known.

    Returns
    -------
    CheckedPsf or Refusal
    """
    psf = image.reshape(*(count for count in image.shape[:-2] if count > 1), *image.shape[-2:])
    values = psf.astype(np.float64)
    if refusal := _refuse_values(values):
        return refusal
    if values.min() == values.max():
        sizes = format_sizes(values.shape)
        if sorted(values.shape)[-2] > _MAX_UNIFORM_SIDE:
            return make_refusal("psf-constant", sizes=sizes)
        return CheckedPsf(image=psf, notes=(make_note("psf-uniform", sizes=sizes),))
    notes: list[Note] = []
    values = values.clip(min=0) / values.max()
    if _is_centred_at_corner(values):
        psf, values = np.fft.fftshift(psf), np.fft.fftshift(values)
        notes.append(make_note("psf-corner"))
    if _has_pedestal(values):
        cleaned = _remove_pedestal(values)
        if isinstance(cleaned, Refusal):
            return cleaned
        psf, values = cleaned.image, cleaned.image / cleaned.image.max()
        notes += cleaned.notes
    notes += _list_warnings(values, computed_fwhm or {})
    return CheckedPsf(image=psf, notes=tuple(notes))


def _refuse_values(psf: FloatArray) -> Refusal | None:
    """Refuse a PSF without light, with negative values, or of a single pixel."""
    if not psf.any():
        return make_refusal("psf-zero")
    has_negative = psf.min() < -_MAX_NEGATIVE_FRACTION * max(psf.max(), 0.0)
    if has_negative and not _is_noise_around_zero(psf):
        return make_refusal("psf-negative")
    if psf.max() > MIN_RETAINED_LIGHT * psf.clip(min=0).sum():
        return make_refusal("psf-point")
    return None


def refuse_dark_middle(
    header: ImageHeader, psf: AnyArray, factors: Sequence[float]
) -> Refusal | None:
    """Refuse a PSF that has hardly any light where it is cropped to the image.

    The factors are the pixels of the image in each pixel of the PSF, along each axis.
    """
    counts = zip(header.get_sizes("ZYX"[-psf.ndim :]), factors, strict=True)
    sizes = tuple(round(count / factor) for count, factor in counts)
    values = psf.astype(np.float64).clip(min=0)
    box = tuple(
        slice(max(0, round(middle) - count // 2), round(middle) + count // 2 + 1)
        for middle, count in zip(ndimage.center_of_mass(values), sizes, strict=True)
    )
    if values[box].sum() >= _MIN_CROPPED_LIGHT * values.sum():
        return None
    facts = {"psf": format_sizes(psf.shape), "frame": format_sizes(sizes)}
    return make_refusal("psf-large", name=header.name, **facts)


def centre_psf_image(
    header: ImageHeader, image: AnyArray, factors: Sequence[float]
) -> tuple[Tensor, tuple[Note, ...]]:
    """Centre the image of a PSF, sample it as the image is, and crop it to its light and to that.

    The factors are the pixels of the image in each pixel of the PSF, along each axis.
    """
    import torch

    from napari_dip.engine.deconvolution.psf import clean_psf, resample_psf

    kernel, notes = clean_psf(torch.from_numpy(image))
    kernel = resample_psf(kernel, factors)
    sizes = header.get_sizes("ZYX"[-kernel.ndim :])
    margins = [(size - count) // 2 for size, count in zip(kernel.shape, sizes, strict=True)]
    if max(margins) <= 0:
        return kernel, notes
    for axis, margin in enumerate(margins):
        if margin > 0:
            kernel = kernel.narrow(axis, margin, kernel.shape[axis] - 2 * margin)
    light = float(kernel.sum())
    note = make_note("psf-light-cropped", share=1 - light)
    return kernel / light, (*notes, *([note] if light < _NOTED_CROPPED_LIGHT else []))


# Widths, rim and significant light


def measure_half_width(profile: FloatArray, peak: int) -> float:
    """Return the width at half height around a peak, by linear interpolation; NaN at the border."""
    half = profile[peak] / 2
    width = 0.0
    for step in (-1, 1):
        index = peak
        while 0 <= index + step < len(profile) and profile[index + step] > half:
            index += step
        beyond = index + step
        if not 0 <= beyond < len(profile):
            return float("nan")
        crossing = (profile[index] - half) / (profile[index] - profile[beyond])
        width += abs(index - peak) + float(crossing)
    return width


def measure_half_widths(volume: FloatArray, position: AnyArray) -> list[float]:
    """Return the width at half height through a pixel, along each axis."""
    return [
        measure_half_width(np.moveaxis(volume, axis, -1)[*np.delete(position, axis)], at)
        for axis, at in enumerate(position)
    ]


def estimate_widths(volume: FloatArray, position: AnyArray | None = None) -> FloatArray:
    """Return the widths at half height along each axis, by default through the middle.

    They are at least one pixel; where the light reaches the border, half the side.
    """
    position = np.array(volume.shape) // 2 if position is None else position
    limits = np.array(volume.shape) / 2
    widths = measure_half_widths(volume, position)
    return np.clip(np.where(np.isnan(widths), limits, widths), 1.0, None)


def make_border_mask(shape: tuple[int, ...], inset: int = 0, width: int = 1) -> BoolArray:
    """Return a mask of the outermost pixels, or of a shell; short axes have no border."""

    def make_box(margin: int) -> BoolArray:
        box = np.zeros(shape, bool)
        box[tuple(slice(margin, n - margin) if n > 4 else slice(None) for n in shape)] = True
        return box

    return make_box(inset) & ~make_box(inset + width)


def keep_significant_light(
    volume: FloatArray, peak: AnyArray, border: BoolArray
) -> tuple[FloatArray, float]:
    """Set to 0 what does not stand out of the noise at the border.

    Light counts where the image, smoothed by a quarter of its width, exceeds three standard
    deviations of the border, and where it is connected to the peak.

    Returns
    -------
    significant : ndarray
    ratio : float
        Height of the smoothed peak in those standard deviations.
    """
    smooth = ndimage.gaussian_filter(volume, estimate_widths(volume, peak) / 4, mode="nearest")
    error = float(smooth[border].std())
    labels, _ = ndimage.label(smooth > _SUPPORT_SIGMAS * error)
    support = (labels == labels[tuple(peak)]) & (labels > 0)
    significant = np.where(ndimage.binary_dilation(support), volume, 0).clip(min=0)
    return significant, float(smooth[tuple(peak)]) / max(error, float(np.finfo(np.float64).tiny))


def _find_peak(psf: FloatArray) -> AnyArray:
    """Return the brightest pixel after a little smoothing."""
    smooth = ndimage.gaussian_filter(psf, 0.7, mode="constant")
    return np.array(np.unravel_index(int(smooth.argmax()), psf.shape))


# Mending


def _is_centred_at_corner(psf: FloatArray) -> bool:
    """Return whether the PSF is stored as FFTs want it: centred at the first pixel, wrapped."""
    if min(psf.shape) < 4:
        return False
    ends = [(slice(n // 4), slice(n - n // 4, n)) for n in psf.shape]
    lights = np.array([psf[corner].sum() for corner in product(*ends)]) / psf.sum()
    return bool(lights.sum() > _MIN_CORNERS_LIGHT and lights.min() > _MIN_CORNER_LIGHT)


def _make_rim_mask(psf: FloatArray) -> BoolArray:
    return make_border_mask(psf.shape, width=max(1, _get_least_side(psf) // _RIM_DIVISOR))


def _get_least_side(psf: FloatArray) -> int:
    """Return the shortest side that has a border."""
    return int(min(count for count in psf.shape if count > 4))


def _has_pedestal(psf: FloatArray) -> bool:
    """Return whether the rim is a plateau with a noteworthy share of the light."""
    if min(psf.shape[-2:]) < _MIN_RIM_SIDE:
        return False
    rim = _make_rim_mask(psf)
    level = float(psf[rim].mean())
    share = level * psf.size / float(psf.sum())
    if share < _MIN_PEDESTAL_LIGHT:
        return False
    noise = _measure_rim_noise(psf, rim)
    evenness = _measure_rim_evenness(psf, rim, noise)
    if evenness <= _MIN_RIM_BLOCK_RATIO:
        return False
    side = _get_least_side(psf)
    shells, counts = _measure_shells(psf)
    errors = 2 * noise / np.sqrt(counts)
    if level < 0.5 and (shells + errors).min() < _MIN_SHELL_RIM_RATIO * level:
        return False  # the rim lies on a ring around a darker one
    inner, width = side // _SHELL_DIVISOR, max(1, side // _RIM_DIVISOR)
    if level + errors[inner] > _MIN_RIM_SHELL_RATIO * (shells[inner] - errors[inner]):
        return True
    if share < _MIN_NARROW_PEDESTAL_LIGHT or evenness < _MIN_RIM_EVENNESS or level >= 0.5:
        return False
    # light that falls faster and faster has at most this at the rim, after the last two steps
    last, previous = (float(shells[i] - shells[i - width]) for i in (width, 2 * width))
    last += float(errors[0])
    outer_light = last**2 / max(previous - last - float(errors[0]), 1e-30)
    return outer_light < (1 - _MIN_RIM_SHELL_RATIO) * level


def _measure_rim_evenness(psf: FloatArray, rim: BoolArray, noise: float) -> float:
    """Return darker blocks of the rim relative to brighter ones, at most within the error."""
    thirds = [np.arange(n) * 3 // n if n > 4 else np.zeros(n, int) for n in psf.shape]
    blocks = np.zeros(psf.shape, int)
    for axis, third in enumerate(thirds):
        blocks = 3 * blocks + np.expand_dims(third, tuple(np.delete(range(psf.ndim), axis)))
    counts, sums = np.bincount(blocks[rim]), np.bincount(blocks[rim], psf[rim])
    means = sums[counts > 0] / counts[counts > 0]
    low, high = np.quantile(means, [0.1, 0.9])
    error = 2 * noise / np.sqrt(rim.sum() / len(means))
    return float((low + error) / max(high - error, 1e-30))


def _measure_shells(psf: FloatArray) -> tuple[FloatArray, AnyArray]:
    """Return the means of the shells one pixel wide, from the border inwards, and their sizes."""
    depths = np.full(psf.shape, max(psf.shape))
    for axis, count in enumerate(psf.shape):
        if count > 4:
            places = np.arange(count)
            places = np.expand_dims(
                np.minimum(places, places[::-1]), tuple(np.delete(range(psf.ndim), axis))
            )
            depths = np.minimum(depths, places)
    counts = np.bincount(depths.ravel())
    return np.bincount(depths.ravel(), psf.ravel()) / counts, counts


def _measure_rim_noise(psf: FloatArray, mask: BoolArray) -> float:
    """Estimate the noise of pixels of a mask from second differences along X; 0 if most are 0."""
    differences = np.diff(psf, n=2, axis=-1)[mask[..., 1:-1]] / np.sqrt(6)
    return MAD_TO_STD * float(np.median(np.abs(differences))) if differences.size else 0.0


def _is_noise_around_zero(psf: FloatArray) -> bool:
    """Return whether negative values are noise, as where a background was subtracted before."""
    if min(psf.shape[-2:]) < _MIN_RIM_SIDE:
        return False
    rim = _make_rim_mask(psf)
    noise = _measure_rim_noise(psf, rim)
    return bool(abs(np.median(psf[rim])) < noise and psf.min() > -_MIN_PEAK_SIGMAS * noise)


def _remove_pedestal(psf: FloatArray) -> CheckedPsf | Refusal:
    """Subtract the level of the rim, and keep the light that stands out of its noise."""
    rim, peak = _make_rim_mask(psf), _find_peak(psf)
    level, noise = float(np.median(psf[rim])), float(psf[rim].std())
    if level - psf.min() > max(1 - level, _MIN_PEAK_RATIO * noise):
        return make_refusal("psf-inverted")
    cleaned, ratio = keep_significant_light(psf - level, peak, rim)
    if ratio < _MIN_PEAK_SIGMAS or not cleaned.any():
        return make_refusal("psf-noise")
    removed = 1 - float(cleaned.sum() / psf.sum())
    has_others = bool((psf[cleaned == 0] - level).max() > _MIN_BEAD_FRACTION * (1 - level))
    notes = [make_note("psf-background", level=level, share=removed, has_others=has_others)]
    if noise * _MIN_PEAK_RATIO > 1 - level:
        notes.append(make_note("psf-noisy", ratio=(1 - level) / noise))
    return CheckedPsf(image=cleaned, notes=tuple(notes))


# Warnings


def _list_warnings(psf: FloatArray, computed_fwhm: Mapping[str, float]) -> list[Note]:
    """List what looks wrong in a PSF of height one without background."""
    peak = _find_peak(psf)
    plane = psf if psf.ndim == 2 else psf.max(0)
    is_top = psf >= 1
    plateau_fraction = float(psf[is_top].sum() / psf.sum())
    is_beyond = ~ndimage.binary_dilation(is_top, np.ones((3,) * psf.ndim))
    has_flanks = bool(psf[is_beyond].sum() > _MIN_FLANK_LIGHT * psf.sum())
    notes = []
    is_plateau = plateau_fraction > _MIN_PLATEAU_LIGHT and ndimage.binary_erosion(is_top).any()
    if has_flanks and is_plateau:
        notes.append(make_note("psf-clipped", count=int(is_top.sum()), share=plateau_fraction))
    if _has_hot_pixel(psf):
        notes.append(make_note("psf-hot-pixel"))
    elif (count := _count_beads(plane)) > 1:
        notes.append(make_note("psf-beads", count=count))
    if has_flanks or plateau_fraction < 0.5:
        notes += _list_cut_tails(psf, peak)
    return [*notes, *_list_width_notes(psf, peak, computed_fwhm)]


def _has_hot_pixel(psf: FloatArray) -> bool:
    """Return whether one pixel stands far above its neighbours, which do not explain the light."""
    at = np.unravel_index(int(psf.argmax()), psf.shape)
    box = tuple(slice(max(i - 1, 0), i + 2) for i in at)
    neighbours = np.sort(psf[box], axis=None)
    is_spike = psf[at] > _HOT_PIXEL_RATIO * neighbours[-2]
    return bool(is_spike and 2 * psf[box].sum() < psf.sum())


def _count_beads(plane: FloatArray) -> int:
    """Count spots that stand alone and are alike, as beads are and paths of motion are not."""
    peak = _find_peak(plane)
    width = float(estimate_widths(plane, peak).mean())
    smooth = ndimage.gaussian_filter(plane, width / 4, mode="constant")
    window = 2 * int(np.ceil(width)) + 1
    is_maximum = smooth == ndimage.maximum_filter(smooth, window, mode="constant")
    positions = np.argwhere(is_maximum & (smooth > _MIN_BEAD_FRACTION * smooth.max()))
    order = np.argsort(-smooth[tuple(positions.T)], kind="stable")
    radius = int(np.ceil(width))
    beads: list[AnyArray] = []
    for at in positions[order]:
        shape_correlation = _compare_spots(smooth, positions[order[0]], at, radius)
        is_alike = shape_correlation > _MIN_SHAPE_CORRELATION
        is_apart = all(_is_dark_between(smooth, at, bead) for bead in beads)
        if is_apart and is_alike and _stands_alone(smooth, at, width, positions):
            beads.append(at)
    if len(beads) < 2:
        return 1
    is_spot = [_measure_distances(smooth, at) <= _PEAK_RING_WIDTHS * width for at in beads]
    brightest_elsewhere = float(smooth[~np.any(is_spot, 0)].max(initial=0.0))
    return len(beads) if brightest_elsewhere < _MAX_OUTSIDE_BEADS_FRACTION * smooth.max() else 1


def _is_dark_between(smooth: FloatArray, at: AnyArray, other: AnyArray) -> bool:
    """Return whether the straight path between two pixels passes darkness."""
    path = ndimage.map_coordinates(smooth, np.linspace(at, other, 25).T, order=1)
    return bool(path.min() < _MAX_SADDLE * min(path[0], path[-1]))


def _measure_distances(plane: FloatArray, at: AnyArray) -> FloatArray:
    """Return the distance of each pixel from one, in pixels."""
    y, x = np.ogrid[tuple(map(slice, plane.shape))]
    return np.asarray(np.hypot(y - at[0], x - at[1]))


def _stands_alone(smooth: FloatArray, at: AnyArray, width: float, positions: AnyArray) -> bool:
    """Return whether the ring around a maximum, where no other is nearer, is darker than half."""
    distances = _measure_distances(smooth, at)
    nearest = np.min([_measure_distances(smooth, position) for position in positions], 0)
    ring = (np.abs(distances - _PEAK_RING_WIDTHS * width) < 1) & (distances <= nearest)
    return bool(smooth[ring].max(initial=0.0) < 0.5 * smooth[tuple(at)])


def _compare_spots(smooth: FloatArray, first: AnyArray, other: AnyArray, radius: int) -> float:
    """Return the correlation of the surroundings of two pixels."""
    padded = np.pad(smooth, radius)
    patches = [
        padded[tuple(slice(i, i + 2 * radius + 1) for i in at)].ravel() for at in (first, other)
    ]
    return float(np.asarray(np.corrcoef(patches))[0, 1])


def _list_cut_tails(psf: FloatArray, peak: AnyArray) -> list[Note]:
    """Warn of a rim that is lit all around, and of bright first or last planes."""
    notes = []
    plane: FloatArray = psf if psf.ndim == 2 else psf[int(peak[0])]
    if min(plane.shape) >= 3:
        rim, shell = make_border_mask(plane.shape), make_border_mask(plane.shape, 1)
        if min(plane.shape) <= 4:
            inner = np.zeros(plane.shape, bool)
            inner[1:-1, 1:-1] = True
            rim, shell = ~inner, inner
        level, height = float(np.median(plane[rim])), float(plane[shell].mean())
        if level * plane[rim].mean() > _MAX_EXTRAPOLATED_TAIL_FRACTION * height:
            notes.append(make_note("psf-cut", share=level))
    if psf.ndim == 3 and (brightest := float(psf[[0, -1]].max())) > _MAX_END_PLANE_FRACTION:
        notes.append(make_note("psf-cut-depth", share=brightest))
    return notes


def _list_width_notes(
    psf: FloatArray, peak: AnyArray, computed_fwhm: Mapping[str, float]
) -> list[Note]:
    """Compare the widths along the axes with each other and with the computed ones."""
    widths = estimate_widths(psf, peak)
    notes = []
    if psf.ndim == 3:
        low, high = sorted(map(float, widths[1:]))
        is_like_depth = any(
            1 / _MAX_EQUAL_WIDTH_RATIO < widths[0] / side < _MAX_EQUAL_WIDTH_RATIO
            for side in (low, high)
        )
        if (high > _MAX_LATERAL_WIDTH_RATIO * low and is_like_depth) or _is_haze_across(psf):
            notes.append(make_note("psf-transposed"))
    wrong_widths: dict[tuple[str, float], dict[str, float]] = {}  # one note on equal axes
    for axis, width in zip("ZYX"[-psf.ndim :], map(float, widths), strict=True):
        computed = computed_fwhm.get(axis, width)
        if not _MIN_WIDTH_RATIO < width / computed < MAX_WIDTH_RATIO:
            code = "psf-wide" if width > computed else "psf-narrow"
            wrong_widths.setdefault((code, computed), {})[axis] = width
    for (code, computed), by_axis in wrong_widths.items():
        width = sum(by_axis.values()) / len(by_axis)
        notes.append(make_note(code, axis=" and ".join(by_axis), width=width, computed=computed))
    return notes


def _is_haze_across(psf: FloatArray) -> bool:
    """Return whether planes across Y or X hold equal light, as those across Z do in widefield."""
    evenness = []
    for axis in range(3):
        light = psf.sum(tuple(np.delete(range(3), axis)))
        evenness.append(float(light.sum() ** 2 / (len(light) * (light**2).sum())))
    return max(evenness[1:]) > _MIN_EVENNESS > _EVENNESS_RATIO * evenness[0]
