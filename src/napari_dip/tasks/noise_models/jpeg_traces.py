"""JPEG compression: its traces are found in the pixels, and the noise that it hides.

On the right block grid, DCT coefficients are multiples of a quantisation step, up to the rounding
of pixels. So the grid, the steps and the chroma subsampling are estimated from pixels alone. Steps
are coarse at fine frequencies, where weak noise became 0: what is left looks much weaker than it
is, and its likeliest strength is the one that explains all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_dip.engine.constants import JPEG_BLOCK_SIDE, YCBCR_WEIGHTS
from napari_dip.engine.noise import crop_centre, predict_variance
from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array, FloatArray, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.base import ConvertedInputs

    Plane = FloatArray

#: Variance of a DCT coefficient by the rounding of pixels: 1/12, and as much again for the rounding
#: of three colours.
ROUNDING_VARIANCE = 1 / 6
#: Variance of a DCT coefficient by the rounding of pixels, for subsampled chroma, where undoing the
#: upsampling amplifies the rounding.
CHROMA_ROUNDING_VARIANCE = 1.0
#: Minimum variance of the DC coefficient by the rounding of pixels: decoders have a rounding bias
#: of a tenth of a level and more, which counts eightfold there.
DC_ROUNDING_VARIANCE = 2.0
#: Maximum log odds of one coefficient against a step.
MAX_LOG_ODDS_PENALTY = 8.0
#: Standard deviations of the rounding within which a coefficient counts as 0 and is ignored.
ZERO_SIGMAS = 2.0
#: Number of coefficients at each frequency that may exclude a step: the parameters of 682 images
#: with traces, and of 38 without, are the same with 256 as with all.
SCREENING_COEFFICIENTS = 256
#: Minimum mean log odds of a coefficient for a step. Coefficients without steps have -0.3 for a
#: step of 2, -1.2 for 3 and -2 for 4.
MIN_SCREENING_ODDS = -1.0
#: Minimum number of nonzero coefficients for the step of a frequency.
MIN_NONZERO_COEFFICIENTS = 8
#: Minimum log odds, summed over the image, for compression. Images that were never compressed stay
#: below 0; crops of 64 x 64 at quality 90 reach hundreds.
MIN_JPEG_LOG_ODDS = 30.0
#: Minimum number of blocks of a JPEG image to analyse, even if they contain clipped pixels.
MIN_DCT_BLOCKS = 64
#: Maximum number of blocks in the search for the grid of a JPEG image.
MAX_GRID_SEARCH_BLOCKS = 400
#: Maximum number of blocks in the search for the quantisation steps of a JPEG image.
MAX_STEP_SEARCH_BLOCKS = 4096
#: Minimum share of the estimated steps that match the standard table within one, for it to be used
#: as a whole.
STANDARD_FRACTION = 0.8
#: Maximum distance of a decoded pixel from a whole grey level, by single precision.
MAX_LEVEL_ERROR = 0.01
#: Side of the middle that is examined, in pixels: it has 16,384 blocks, more than are used.
MAX_NOISE_SIDE = 1024
#: Blocks in a class of brightness whose noise is measured, and largest number of classes: 20 of
#: them are flat, and tell white noise to 2 %.
NOISE_CLASS_BLOCKS = 60
#: Largest number of classes of brightness whose noise is measured.
MAX_NOISE_CLASSES = 6
#: Share of the blocks of a class, those with least coarse structure, whose noise is measured.
FLAT_BLOCK_SHARE = 0.3
#: Sum of two frequencies from which on a coefficient of a flat block is noise. Below, it tells
#: which blocks are flat.
MIN_FLAT_FREQUENCY = 4
#: Sum of two frequencies from which on texture is weaker than below, and white noise is not.
MIN_FINE_FREQUENCY = 7
#: Maximum ratio of the noise at medium to that at fine frequencies: at most 1.17 in calm parts of
#: 12 images with noise, 1.2 to 1.9 in nearly all texture.
MAX_MEDIUM_TO_FINE_RATIO = 1.18
#: Minimum share of coefficients that are not 0, for their noise to be measured: at quality 75 at
#: most 0.05 in calm parts of clean images, at least 0.08 with noise of 10.
MIN_NONZERO_FRACTION = 0.05
#: Maximum ratio of the variance of a class to a line in brightness, or back: at most 1.26 where
#: noise of 10 and more was added to 46 images. Classes above it hold texture and are left out.
MAX_CLASS_DEVIATION = 1.3
#: Maximum standard deviation of the logarithm of the classes' variances that is chance: 0.02 to
#: 0.07 with normal noise in calm crops, 0.5 with photon noise at 30 to 200 grey levels.
MAX_CHANCE_SPREAD = 0.1
#: Maximum quality for a choice where the noise is unreliable: JPEG gained 0.05 to 2.7 dB in 42
#: crops of up to 85, and lost as often as it gained in seven of 92 (docs/constants.md).
MAX_HINTED_QUALITY = 88
#: Standard deviations of noise that are compared, in grey levels: 2.5 % apart.
NOISE_CANDIDATES = np.geomspace(0.3, 100, 236)
#: Standard deviation of the noise of chroma, in units of that of luma, before it is subsampled:
#: the roots of the summed squares of `YCBCR_WEIGHTS`, for equal noise of red, green and blue.
CHROMA_NOISE_RATIO = 0.93
#: Standard deviation of orthonormal colour differences, in units of that of chroma: 1.60 and 1.53
#: by the conversion of JFIF.
COLOUR_TO_CHROMA_RATIO = 1.57
#: Correlation of neighbouring pixels in the luminance of compressed noise: -0.04 to 0.15.
COMPRESSED_CORRELATION = 0.05
#: Correlation of neighbouring pixels in the colours of compressed noise, by whether chroma was
#: stored at half the size: 0 to 0.5, and 0.4 to 0.84.
COMPRESSED_COLOUR_CORRELATION = {False: 0.2, True: 0.75}
#: Standard tables for luma and chroma, at quality 50 (ITU-T T.81, annex K).
STANDARD_QUANTISATION_TABLES = tuple(
    np.array(table.split(), np.float64).reshape(JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE)
    for table in (
        "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 "
        "80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 "
        "92 95 98 112 100 103 99",
        "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 "
        "99 99" + 32 * " 99",
    )
)
_FREQUENCY, _POSITION = np.indices((JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE))
_DCT_BASIS = np.sqrt(np.where(_FREQUENCY == 0, 1, 2) / JPEG_BLOCK_SIDE) * np.cos(
    (2 * _POSITION + 1) * _FREQUENCY * np.pi / (2 * JPEG_BLOCK_SIDE)
)


def refuse_jpeg_header(header: ImageHeader, extra_headers: Headers) -> Refusal | None:
    """Refuse repeated exposures and several channels, from the headers alone."""
    if "repeated_exposure" in extra_headers:
        return make_refusal("jpeg-repeated-exposure", name=extra_headers["repeated_exposure"].name)
    count = header.get_size("C")
    return make_refusal("jpeg-channels", name=header.name, count=count) if count > 1 else None


def refuse_jpeg_pixels(image: Float32Array, name: str) -> Refusal | None:
    """Refuse images (C, Y, X) without traces of compression."""
    return make_refusal("jpeg-none", name=name) if _find_scaled_traces(image)[0] is None else None


def read_jpeg_traces(image: Float32Array) -> ConvertedInputs:
    """Estimate how an image was compressed.

    Parameters
    ----------
    image : ndarray
        (C, Y, X), in its own units.

    Returns
    -------
    extra_inputs, notes
        What `FitInput.extra_inputs` will hold, and notes for the user.
    """
    traces, levels = _find_scaled_traces(image)
    assert traces is not None  # `refuse_jpeg_pixels` has refused such images
    extra_inputs = {
        "jpeg_steps": traces.quantisation_tables.astype(np.float32),
        "jpeg_start": np.array(traces.block_offset, np.float32),
        "jpeg_halved": np.array(traces.has_half_chroma, np.float32),
        "jpeg_levels": np.array([levels], np.float32),
    }
    down, right = (first % 8 for first in traces.block_offset)
    facts = {"quality": traces.quality, "halved": any(traces.has_half_chroma)}
    return extra_inputs, (make_note("jpeg-found", down=down, right=right, **facts),)


def list_jpeg_hints(
    image: Float32Array, header: ImageHeader, extra_headers: Headers
) -> tuple[Note, ...]:
    """Return a note if an image (C, *grid) of unreliable noise was clearly compressed."""
    if image.ndim != 3 or refuse_jpeg_header(header, extra_headers):
        return ()
    levels = _round_decoded_levels(image, _find_level_scale(image))
    traces = None if levels is None else find_jpeg_parameters(levels)
    if traces is None or traces.quality > MAX_HINTED_QUALITY:
        return ()
    return (make_note("jpeg-likely", quality=traces.quality),)


def _find_scaled_traces(image: Float32Array) -> tuple[JpegParameters | None, float]:
    """Return the traces, and the factor from units of the image to 8-bit grey levels."""
    scale = _find_level_scale(image)
    return find_jpeg_parameters(image * scale), scale


def _find_level_scale(image: Float32Array) -> float:
    """Return the factor from units of an image to 8-bit grey levels."""
    maximum = float(image.max())
    # common scales of images: up to 1, 8 bits, or 16 bits with 65535 for 255
    return 255.0 if maximum <= 1 else 1.0 if maximum <= 255 else 1 / 257


def _round_decoded_levels(image: Float32Array, scale: float) -> npt.NDArray[np.floating] | None:
    """Return the middle of an image in grey levels; None if no decoder wrote them.

    It writes nothing between grey levels, and leaves none out.
    """
    scaled = crop_centre(image, MAX_NOISE_SIDE, "CYX") * scale
    levels = np.rint(scaled)
    is_between = np.abs(scaled - levels).max() > MAX_LEVEL_ERROR
    return None if is_between or np.diff(np.unique(levels), prepend=-np.inf).min() > 1 else levels


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JpegParameters:
    """Describe how an image was compressed.

    Attributes
    ----------
    block_offset : (int, int)
        Row and column at which a block begins in all channels.
    quantisation_tables : ndarray
        (1 or 3, 8, 8).
    has_half_chroma : (bool, bool)
        Whether chroma was stored at half the size, along Y and X.
    quality : int
        Quality, 1 to 100, of the nearest standard tables.
    """

    block_offset: tuple[int, int]
    quantisation_tables: FloatArray
    has_half_chroma: tuple[bool, bool]
    quality: int


def find_jpeg_parameters(levels: npt.NDArray[np.floating]) -> JpegParameters | None:
    """Estimate how an image was compressed; None if it shows no traces.

    Parameters
    ----------
    levels : ndarray
        (C, Y, X), one or three channels, in 8-bit grey levels.

    References
    ----------
    Fan, de Queiroz, Identification of bitmap compression history: JPEG detection and quantizer
    estimation, IEEE TIP 12(2), 2003, doi:10.1109/TIP.2002.807361.
    """
    planes, clipped = _split_luma(levels), _find_clipped(levels)
    luma = planes[0] - 128
    block_offset = max(
        product(range(JPEG_BLOCK_SIDE), range(JPEG_BLOCK_SIDE)),
        key=lambda offset: _compute_zero_fraction(
            compute_dct_coefficients(luma, clipped, offset, MAX_GRID_SEARCH_BLOCKS)
        ),
    )
    blocks = compute_dct_coefficients(luma, clipped, block_offset, MAX_STEP_SEARCH_BLOCKS)
    steps, odds, _ = _estimate_quantisation_steps(blocks, ROUNDING_VARIANCE)
    if odds < MIN_JPEG_LOG_ODDS:
        return None
    quality = _estimate_quality(steps)
    tables, has_half_chroma = [_complete_quantisation_steps(steps, 0, quality)], (False, False)
    if len(planes) > 1:
        block_offset, has_half_chroma, chroma_steps = _find_chroma_subsampling(
            planes[1:], clipped, block_offset
        )
        tables += [_complete_quantisation_steps(chroma, 1, quality) for chroma in chroma_steps]
    return JpegParameters(
        block_offset=block_offset,
        quantisation_tables=np.stack(tables),
        has_half_chroma=has_half_chroma,
        quality=quality,
    )


def _split_luma(levels: npt.NDArray[np.floating]) -> Plane:
    """Return luma and, of a colour image, the two planes of chroma: (C, Y, X)."""
    planes = levels.astype(np.float64)
    return planes if len(planes) != 3 else np.einsum("pc,cyx->pyx", np.array(YCBCR_WEIGHTS), planes)


def _find_clipped(levels: npt.NDArray[np.floating]) -> Plane:
    """Return 1 at pixels (Y, X) that are clipped in a channel: they differ from decoded ones."""
    return np.asarray(((levels <= 0) | (levels >= 255)).any(0), np.float64)


class CompressedNoise(NamedTuple):
    """Noise of an image before it was compressed, in units of the image.

    Attributes
    ----------
    gain, intercept, floor : float
        The variance of luma at brightness m is `gain * m + intercept`, at least the floor.
    level, variance : float
        Middle brightness where it was measured, and its variance there.
    colour_std : float
        Standard deviation that rounding leaves of the noise of orthonormal colour differences, in
        a colour image.
    has_half_chroma : bool
        Whether chroma was stored at half the size, along Y or X.
    """

    gain: float
    intercept: float
    floor: float
    level: float
    variance: float
    colour_std: float
    has_half_chroma: bool

    def to_camera_noise(self) -> CameraNoise:
        """Return the noise of a colour image, at its middle brightness everywhere."""
        from napari_dip.engine.noise.camera_noise import CameraNoise

        colour_correlation = COMPRESSED_COLOUR_CORRELATION[self.has_half_chroma]
        return CameraNoise(
            std=((3 * self.variance) ** 0.5, self.colour_std, self.colour_std),
            correlations=(COMPRESSED_CORRELATION, colour_correlation, colour_correlation),
        )


def measure_compressed_noise(image: Float32Array) -> CompressedNoise | None:
    """Measure white noise that was compressed; None without compression, or if it cannot tell.

    Parameters
    ----------
    image : ndarray
        (C, Y, X), one or three channels, in its own units.
    """
    scale = _find_level_scale(image)
    levels = _round_decoded_levels(image, scale)
    traces = None if levels is None else find_jpeg_parameters(levels)
    if levels is None or traces is None:
        return None
    means, variances, least_count = _measure_luma_noise(levels, traces)
    while True:  # the classes with most texture are left out, until the others agree
        if not 0 < least_count <= len(means):
            return None
        gain, intercept, floor = _fit_variance_line(means, variances)
        predicted = np.maximum(predict_variance(means, gain, intercept), floor)
        ratios = variances / predicted
        if np.abs(np.log(ratios)).max() <= np.log(MAX_CLASS_DEVIATION):
            break
        is_kept = np.arange(len(means)) != ratios.argmax()
        means, variances = means[is_kept], variances[is_kept]
    middle = len(means) // 2
    chroma_std = CHROMA_NOISE_RATIO * predicted[middle] ** 0.5
    chroma_std /= 2 ** (sum(traces.has_half_chroma) / 2)  # the mean of two pixels is stored
    rounded_variance = _compute_rounded_variance(chroma_std, traces.quantisation_tables[-1])
    return CompressedNoise(
        gain=gain / scale,
        intercept=intercept / scale**2,
        floor=floor / scale**2,
        level=float(means[middle]) / scale,
        variance=float(predicted[middle]) / scale**2,
        colour_std=COLOUR_TO_CHROMA_RATIO * rounded_variance**0.5 / scale,
        has_half_chroma=any(traces.has_half_chroma),
    )


def _fit_variance_line(means: FloatArray, variances: FloatArray) -> tuple[float, float, float]:
    """Return gain, intercept and floor of the variance; no gain if classes differ by chance."""
    import torch

    from napari_dip.engine.likelihood.fidelity import fit_noise_line

    if np.log(variances).std() > MAX_CHANCE_SPREAD:
        return fit_noise_line(torch.from_numpy(means), torch.from_numpy(variances))
    variance = float(variances.mean())
    return 0.0, variance, variance


def _measure_luma_noise(
    levels: npt.NDArray[np.floating], traces: JpegParameters
) -> tuple[FloatArray, FloatArray, int]:
    """Return brightness and variance of flat blocks by class without texture.

    The number of classes that have to agree, half of all, is the last value; it is 0 if most of
    them show no white noise.
    """
    luma, clipped = _split_luma(levels)[0] - 128, _find_clipped(levels)
    blocks = compute_dct_coefficients(luma, clipped, traces.block_offset, MAX_STEP_SEARCH_BLOCKS)
    steps = traces.quantisation_tables[0]
    frequency = np.indices(steps.shape).sum(0)
    is_noise, is_fine = frequency >= MIN_FLAT_FREQUENCY, frequency >= MIN_FINE_FREQUENCY
    coarse = (blocks**2)[:, (frequency > 0) & ~is_noise].sum(1)
    rows, white_count = [], 0
    count = min(MAX_NOISE_CLASSES, max(1, len(blocks) // NOISE_CLASS_BLOCKS))
    for indices in np.array_split(blocks[:, 0, 0].argsort(kind="stable"), count):
        calmest = coarse[indices].argsort(kind="stable")
        flat = blocks[indices[calmest[: round(FLAT_BLOCK_SHARE * len(indices))]]]
        multiples = np.rint(flat / steps)
        is_hidden = np.mean(multiples[:, is_noise] != 0) < MIN_NONZERO_FRACTION
        medium, fine, whole = (
            _estimate_compressed_std(multiples[:, bands], steps[bands])
            for bands in (is_noise & ~is_fine, is_fine, is_noise)
        )
        is_white = NOISE_CANDIDATES[0] < fine and medium <= MAX_MEDIUM_TO_FINE_RATIO * fine
        white_count += bool(is_white and not is_hidden)
        if is_white or is_hidden:
            rows.append((flat[:, 0, 0].mean() / JPEG_BLOCK_SIDE + 128, whole**2))
    means, variances = np.array(rows).reshape(-1, 2).T
    return means, variances, (count + 1) // 2 if 2 * white_count >= count else 0


def _estimate_compressed_std(multiples: Plane, steps: Plane) -> float:
    """Return the likeliest standard deviation of white noise, given multiples (K, N) of N steps."""
    log_likelihood = np.zeros(len(NOISE_CANDIDATES))
    for values, step in zip(np.abs(multiples).T, steps, strict=True):
        levels, counts = np.unique(values, return_counts=True)
        probability = _compute_step_probability(levels[:, None], step, NOISE_CANDIDATES)
        log_likelihood += counts @ np.log(probability.clip(1e-9))  # a single outlier decides little
    return float(NOISE_CANDIDATES[log_likelihood.argmax()])


def _compute_step_probability(
    multiple: npt.ArrayLike, step: npt.ArrayLike, std: npt.ArrayLike
) -> Plane:
    """Return the probability that normal noise is rounded to a multiple of a step."""
    from scipy.special import ndtr

    middle, half = np.multiply(multiple, step), np.multiply(step, 0.5)
    return np.asarray(ndtr((middle + half) / std) - ndtr((middle - half) / std))


def _compute_rounded_variance(std: float, steps: Plane) -> float:
    """Return the variance of white noise after the rounding of its DCT coefficients to steps."""
    multiples = np.arange(1, 100)[:, None, None]
    squares = 2 * (multiples * steps) ** 2 * _compute_step_probability(multiples, steps, std)
    return float(squares.sum(0).mean())


def compute_dct_coefficients(
    plane: Plane, clipped: Plane, block_offset: tuple[int, int], max_blocks: int
) -> Plane:
    """Return the DCT coefficients of complete blocks, subsampled evenly if there are many.

    Parameters
    ----------
    plane : ndarray
        (Y, X).
    clipped : ndarray
        (Y, X), above 0 at clipped pixels, whose blocks are left out if possible.
    block_offset : (int, int)
        Row and column of the first block.
    max_blocks : int
        Maximum number of blocks.

    Returns
    -------
    ndarray
        (K, 8, 8).
    """
    rows, columns = (
        (count - first) // JPEG_BLOCK_SIDE
        for count, first in zip(plane.shape, block_offset, strict=True)
    )
    blocks, clipped_blocks = (
        pixels[block_offset[0] :, block_offset[1] :][
            : rows * JPEG_BLOCK_SIDE, : columns * JPEG_BLOCK_SIDE
        ]
        .reshape(rows, JPEG_BLOCK_SIDE, columns, JPEG_BLOCK_SIDE)
        .swapaxes(1, 2)
        for pixels in (plane, clipped)
    )
    counts = clipped_blocks.sum((2, 3)).ravel()
    # if few blocks are free of clipped pixels, use those with the fewest
    bound = np.sort(counts)[:MIN_DCT_BLOCKS][-1:].sum()
    selected = np.flatnonzero(counts <= bound)
    selected = selected[:: max(1, -(-len(selected) // max_blocks))]
    # no other blocks are copied
    selected_blocks = blocks[np.unravel_index(selected, (rows, columns))]
    return np.asarray(_DCT_BASIS @ selected_blocks @ _DCT_BASIS.T)


def _compute_zero_fraction(blocks: Plane) -> float:
    """Return the share of coefficients that are 0 up to rounding: large on the right grid."""
    return float(np.exp(-(blocks**2) / (4 * ROUNDING_VARIANCE)).mean()) if len(blocks) else 0.0


def _estimate_quantisation_steps(
    blocks: Plane, rounding: float, *, counts_dc: bool = False
) -> tuple[Plane, float, float]:
    """Return the likeliest step per frequency, 0 if unknown, with log odds.

    The log odds are the total and the mean per coefficient. With a step q, the coefficients lie
    near the multiples of q, where their density is q times that of a uniform distribution.
    """
    steps, odds, count = np.zeros((JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE)), 0.0, 0
    all_steps = np.arange(2.0, 256.0)
    for v, u in product(range(JPEG_BLOCK_SIDE), repeat=2):
        variance = rounding if u or v else max(rounding, DC_ROUNDING_VARIANCE)
        values = blocks[:, v, u]
        values = values[np.abs(values) > ZERO_SIGMAS * variance**0.5]
        if len(values) < MIN_NONZERO_COEFFICIENTS:
            continue
        count += len(values)
        # wrong steps are recognised by a part of the values
        part = values[:: max(1, len(values) // SCREENING_COEFFICIENTS)]
        is_possible = _compute_step_odds(part, all_steps, variance) > MIN_SCREENING_ODDS * len(part)
        if not is_possible.any():
            continue
        candidates = all_steps[is_possible]
        total = _compute_step_odds(values, candidates, variance)
        best = int(total.argmax())
        if total[best] > np.log(len(all_steps)):  # correction for the number of candidates
            odds += float(total[best]) if counts_dc or u or v else 0.0
            steps[v, u] = candidates[best]
    return steps, odds, odds / max(1, count)


def _compute_step_odds(values: FloatArray, steps: FloatArray, variance: float) -> FloatArray:
    """Return the summed log odds of each step, of coefficients with this rounding variance."""
    log_density = np.log(steps / np.sqrt(2 * np.pi * variance))[:, None]
    multiple = np.rint(values / steps[:, None])
    deviation = values - steps[:, None] * multiple
    log_odds = log_density - np.minimum(deviation**2 / (2 * variance), MAX_LOG_ODDS_PENALTY)
    # values near 0 occur for any step: they are no evidence for it, but may be against it
    return np.asarray(np.where(multiple == 0, np.minimum(log_odds, 0), log_odds).sum(1))


def _find_chroma_subsampling(
    planes: Plane, clipped: Plane, block_offset: tuple[int, int]
) -> tuple[tuple[int, int], tuple[bool, bool], list[Plane]]:
    """Find subsampling, grid and steps of the two chroma planes, by the highest log odds."""
    best: tuple[float, tuple[int, int], tuple[bool, bool], list[Plane]] | None = None
    for halved in ((True, True), (False, True), (False, False)):
        shifts = [(0, JPEG_BLOCK_SIDE) if half else (0,) for half in halved]
        for shift in product(*shifts):
            shifted_offset = block_offset[0] + shift[0], block_offset[1] + shift[1]
            total, plane_steps = 0.0, []
            for plane in planes:
                downsampled, clipped_downsampled, corner = _undo_chroma_upsampling(
                    plane, clipped, shifted_offset, halved
                )
                rounding = CHROMA_ROUNDING_VARIANCE if any(halved) else ROUNDING_VARIANCE
                blocks = compute_dct_coefficients(
                    downsampled, clipped_downsampled, corner, MAX_STEP_SEARCH_BLOCKS
                )
                steps, odds, odds_per_coefficient = _estimate_quantisation_steps(
                    blocks, rounding, counts_dc=True
                )
                total += odds_per_coefficient if odds > MIN_JPEG_LOG_ODDS else 0.0
                plane_steps.append(steps)
            if best is None or total > best[0]:
                best = total, shifted_offset, halved, plane_steps
    assert best is not None
    return best[1:]


def _undo_chroma_upsampling(
    plane: Plane, clipped: Plane, block_offset: tuple[int, int], halved: tuple[bool, bool]
) -> tuple[Plane, Plane, tuple[int, int]]:
    """Undo the smooth upsampling of chroma that decoders apply, where it was subsampled.

    Decoders weight the pixel itself by 3/4 and the nearer neighbour by 1/4. The mean of both halves
    is then 6/8 of the pixel and 1/8 of each neighbour.
    """
    corner = list(block_offset)
    for axis, half in enumerate(halved):
        if not half:
            continue
        first = block_offset[axis] % 2
        end = first + (plane.shape[axis] - first) // 2 * 2
        lines, clipped_lines = (
            np.moveaxis(pixels, axis, 0)[first:end] for pixels in (plane, clipped)
        )
        count = len(lines) // 2
        blur = np.eye(count) * 6 / 8 + (np.eye(count, k=1) + np.eye(count, k=-1)) / 8
        blur[0, 0] += 1 / 8
        blur[-1, -1] += 1 / 8
        sharpened = np.linalg.solve(blur, (lines[0::2] + lines[1::2]) / 2)
        plane = np.asarray(np.moveaxis(sharpened, 0, axis), np.float64)
        clipped = np.moveaxis(clipped_lines[0::2] + clipped_lines[1::2], 0, axis)
        corner[axis] = (block_offset[axis] - first) // 2
    return plane, clipped, (corner[0], corner[1])


def _estimate_quality(steps: Plane) -> int:
    """Return the quality whose luma table is nearest to the estimated steps."""
    mask = steps > 0

    def compute_distance(quality: int) -> float:
        table = _scale_quantisation_table(0, quality)
        return float(np.abs(np.log(table[mask] / steps[mask])).sum())

    return min(range(1, 101), key=compute_distance)


def _scale_quantisation_table(component: int, quality: int) -> Plane:
    """Return the standard table at a quality, scaled as in the reference library of JPEG."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = (STANDARD_QUANTISATION_TABLES[component] * scale + 50) // 100
    return np.asarray(np.clip(table, 1, 255))


def _complete_quantisation_steps(steps: Plane, component: int, quality: int) -> Plane:
    """Return the standard table if most steps match it, else use it for unknown steps only."""
    table, mask = _scale_quantisation_table(component, quality), steps > 0
    mask[0, 0] = False
    if not mask.any() or np.mean(np.abs(steps - table)[mask] <= 1) >= STANDARD_FRACTION:
        return table
    return np.where(steps > 0, steps, table)
