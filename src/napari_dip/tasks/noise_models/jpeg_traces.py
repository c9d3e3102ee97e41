"""JPEG compression: its traces are found in the pixels.

On the right block grid, DCT coefficients are multiples of a quantisation step, up to the rounding
of pixels. So the grid, the steps and the chroma subsampling are estimated from pixels alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.constants import JPEG_BLOCK_SIDE, YCBCR_WEIGHTS
from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.errors import Refusal
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
    count = header.get_sizes("C")[0] if "C" in header.axes else 1
    return make_refusal("jpeg-channels", name=header.name, count=count) if count > 1 else None


def refuse_jpeg_pixels(image: Float32Array, name: str) -> Refusal | None:
    """Refuse images (C, Y, X) without traces of compression."""
    return make_refusal("jpeg-none", name=name) if _find_scaled_traces(image)[0] is None else None


def read_jpeg_traces(
    image: Float32Array,
) -> ConvertedInputs:
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


def _find_scaled_traces(image: Float32Array) -> tuple[JpegParameters | None, float]:
    """Return the traces, and the factor from units of the image to 8-bit grey levels."""
    maximum = float(image.max())
    # common scales of images: up to 1, 8 bits, or 16 bits with 65535 for 255
    scale = 255.0 if maximum <= 1 else 1.0 if maximum <= 255 else 1 / 257
    return find_jpeg_parameters(image * scale), scale


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
    planes = levels.astype(np.float64)
    # clipped pixels differ from the decoded values
    clipped = np.asarray(((planes <= 0) | (planes >= 255)).any(0), np.float64)
    if len(planes) == 3:
        planes = np.einsum("pc,cyx->pyx", np.array(YCBCR_WEIGHTS), planes)
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
        .reshape(-1, JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE)
        for pixels in (plane, clipped)
    )
    counts = clipped_blocks.sum((1, 2))
    # if few blocks are free of clipped pixels, use those with the fewest
    bound = np.sort(counts)[:MIN_DCT_BLOCKS][-1:].sum()
    selected = blocks[counts <= bound]
    selected = selected[:: max(1, -(-len(selected) // max_blocks))]
    return np.asarray(_DCT_BASIS @ selected @ _DCT_BASIS.T)


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
    candidates = np.arange(2.0, 256.0)
    for v, u in product(range(JPEG_BLOCK_SIDE), repeat=2):
        variance = rounding if u or v else max(rounding, DC_ROUNDING_VARIANCE)
        log_density = np.log(candidates / np.sqrt(2 * np.pi * variance))[:, None]
        values = blocks[:, v, u]
        values = values[np.abs(values) > ZERO_SIGMAS * variance**0.5]
        if len(values) < MIN_NONZERO_COEFFICIENTS:
            continue
        count += len(values)
        multiple = np.rint(values / candidates[:, None])
        deviation = values - candidates[:, None] * multiple
        log_odds = log_density - np.minimum(deviation**2 / (2 * variance), MAX_LOG_ODDS_PENALTY)
        # values near 0 occur for any step: they are no evidence for it, but may be against it
        total = np.where(multiple == 0, np.minimum(log_odds, 0), log_odds).sum(1)
        best = int(total.argmax())
        if total[best] > np.log(len(candidates)):  # correction for the number of candidates
            odds += float(total[best]) if counts_dc or u or v else 0.0
            steps[v, u] = candidates[best]
    return steps, odds, odds / max(1, count)


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
