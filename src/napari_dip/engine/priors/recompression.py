"""Simulate JPEG compression, and define the prior that learns to remove its artefacts.

The network is trained to undo a second compression on a shifted block grid, and is then applied to
the image itself. The JPEG functions take 8-bit grey levels as tensors (B, C, Y, X), C = 1 or 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.constants import JPEG_BLOCK_SIDE, YCBCR_WEIGHTS
from napari_dip.engine.noise.flat_blocks import make_dct_matrix
from napari_dip.engine.prior import StepInput, VariancePrior, draw_random_window, limit_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

#: Level that is subtracted before the transform (ITU-T T.81).
LEVEL_SHIFT = 128.0
#: Shifts (rows, columns) of the block grid for averaged recompression: 16 in all, so that each row
#: and each column of a colour block (16 x 16) occurs once. 64 shifts gain no more on scikit-image's
#: camera (docs/constants.md).
GRID_SHIFTS = tuple((row, 5 * row % 16) for row in range(16))
#: Shifts that training uses: every other one, since each takes the memory of an input. The image's
#: own grid is not among them; recompression there changes nothing.
RECOMPRESSION_SHIFTS = GRID_SHIFTS[1::2]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JpegCompression:
    """Parameters of a JPEG compression.

    Attributes
    ----------
    block_offset : (int, int)
        Row and column at which a block of the grid begins.
    quantisation_tables : Tensor
        (1 or 3, 8, 8), quantisation steps of luminance and colours, lowest frequency first.
    has_half_chroma : (bool, bool)
        Whether colours are stored at half resolution, along Y and X.
    """

    block_offset: tuple[int, int]
    quantisation_tables: Tensor
    has_half_chroma: tuple[bool, bool] = (False, False)

    @property
    def grid(self) -> tuple[int, int]:
        """Size of a coding unit along Y and X: a block, or two with colours at half resolution."""
        height, width = (JPEG_BLOCK_SIDE * (2 if half else 1) for half in self.has_half_chroma)
        return height, width


def recompress(
    image: Tensor, compression: JpegCompression, shift: tuple[int, int] = (0, 0)
) -> Tensor:
    """Compress and decompress an image on a grid that is shifted by `shift` pixels.

    Parameters
    ----------
    image : Tensor
        (B, C, Y, X); it is padded by reflection to complete blocks.
    compression : JpegCompression
    shift : (int, int)
        0 to 15 along Y and X.
    """
    padded, inside = _pad_to_blocks(image, compression, shift)
    planes = _split_into_planes(padded, compression)
    coded = [
        _invert_block_dct((_apply_block_dct(plane) / step).round() * step)
        for plane, step in zip(planes, compression.quantisation_tables.to(image), strict=True)
    ]
    return _join_planes(coded, compression)[:, :, inside[0], inside[1]]


def reapply_shifted_jpeg(image: Tensor, compression: JpegCompression) -> Tensor:
    """Return the mean of an image recompressed on many shifted grids, which reduces block edges.

    References
    ----------
    Nosratinia, Enhancement of JPEG-compressed images by re-application of JPEG, Journal of VLSI
    Signal Processing 27, 2001, doi:10.1023/A:1008167430544.
    """
    total = torch.zeros_like(image)
    for shift in GRID_SHIFTS:
        total += recompress(image, compression, shift)
    return total / len(GRID_SHIFTS)


def project_onto_quantisation_set(
    image: Tensor, measured: Tensor, compression: JpegCompression
) -> Tensor:
    """Return the nearest image whose complete blocks compress to the measured ones.

    Each coefficient of a block is clamped to half a quantisation step around the measured one.
    Incomplete blocks at the border stay unchanged, and so do colours stored at half resolution:
    their coefficients cannot be recovered exactly from a decoded image.

    Parameters
    ----------
    image, measured : Tensor
        (B, C, Y, X).
    compression : JpegCompression
    """
    padded, inside = _pad_to_blocks(image, compression, (0, 0))
    padded_measured = _pad_to_blocks(measured, compression, (0, 0))[0]
    changes: list[Tensor] = []
    for plane, measured_plane, step in zip(
        _split_into_planes(padded, compression),
        _split_into_planes(padded_measured, compression),
        compression.quantisation_tables.to(image),
        strict=True,
    ):
        if changes and any(compression.has_half_chroma):
            changes.append(torch.zeros_like(plane))
            continue
        coefficients = _apply_block_dct(plane)
        quantised = (_apply_block_dct(measured_plane) / step).round() * step
        projected = coefficients.maximum(quantised - step / 2).minimum(quantised + step / 2)
        changes.append(_invert_block_dct(projected - coefficients))
    change = _join_planes(changes, compression, level=0.0)[:, :, inside[0], inside[1]]
    return image + change * mask_whole_blocks(image, compression)


def mask_whole_blocks(image: Tensor, compression: JpegCompression) -> Tensor:
    """Return the mask (1, 1, Y, X) of blocks that lie completely within the image."""
    mask = torch.zeros_like(image[:1, :1])
    regions = []
    for block_start, side, length in zip(
        compression.block_offset, compression.grid, image.shape[-2:], strict=True
    ):
        start = block_start % side
        regions.append(slice(start, start + (length - start) // side * side))
    mask[:, :, regions[0], regions[1]] = 1
    return mask


def number_blocks(image: Tensor, compression: JpegCompression) -> Tensor:
    """Return the block index of each pixel, (Y, X) integers."""
    axis_indices = []
    for block_start, side, length in zip(
        compression.block_offset, compression.grid, image.shape[-2:], strict=True
    ):
        positions = torch.arange(length, device=image.device) - block_start % side
        axis_indices.append(positions.div(side, rounding_mode="floor") + 1)
    return axis_indices[0][:, None] * (int(axis_indices[1].max()) + 1) + axis_indices[1]


def _pad_to_blocks(
    image: Tensor, compression: JpegCompression, shift: tuple[int, int]
) -> tuple[Tensor, tuple[slice, slice]]:
    """Pad an image by reflection to complete blocks; return it and the slices of the original."""
    leading_padding, trailing_padding, slices = [], [], []
    for block_start, side, offset, length in zip(
        compression.block_offset, compression.grid, shift, image.shape[-2:], strict=True
    ):
        padding_before = -(block_start + offset) % side
        leading_padding.append(padding_before)
        trailing_padding.append(-(padding_before + length) % side)
        slices.append(slice(padding_before, padding_before + length))
    padding = (leading_padding[1], trailing_padding[1], leading_padding[0], trailing_padding[0])
    return F.pad(image, padding, mode="reflect"), (slices[0], slices[1])


def _split_into_planes(image: Tensor, compression: JpegCompression) -> list[Tensor]:
    """Return luminance less 128 and colours (B, Y, X), each at its stored resolution."""
    if image.shape[1] == 1:
        return [image[:, 0] - LEVEL_SHIFT]
    ycbcr = torch.einsum("pc,bcyx->bpyx", image.new_tensor(YCBCR_WEIGHTS), image)
    size = tuple(2 if half else 1 for half in compression.has_half_chroma)
    colours = F.avg_pool2d(ycbcr[:, 1:], size)
    return [ycbcr[:, 0] - LEVEL_SHIFT, colours[:, 0], colours[:, 1]]


def _join_planes(
    planes: list[Tensor], compression: JpegCompression, level: float = LEVEL_SHIFT
) -> Tensor:
    """Undo `_split_into_planes`, with linear interpolation of colours as in decoders."""
    if len(planes) == 1:
        return (planes[0] + level)[:, None]
    size = planes[0].shape[-2:]
    colours = torch.stack(planes[1:], 1)
    if any(compression.has_half_chroma):
        colours = F.interpolate(colours, size=size, mode="bilinear", align_corners=False)
    ycbcr = torch.cat([(planes[0] + level)[:, None], colours], 1)
    to_rgb = torch.linalg.inv(torch.tensor(YCBCR_WEIGHTS, dtype=torch.float64)).to(ycbcr)
    return torch.einsum("cp,bpyx->bcyx", to_rgb, ycbcr)


def _apply_block_dct(plane: Tensor) -> Tensor:
    """Return the cosine transform (B, Y / 8, X / 8, 8, 8) of the blocks of (B, Y, X)."""
    blocks = plane.unfold(1, JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE).unfold(
        2, JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE
    )
    basis = make_dct_matrix().to(plane)
    return basis @ blocks @ basis.T


def _invert_block_dct(coefficients: Tensor) -> Tensor:
    """Undo `_apply_block_dct`."""
    basis = make_dct_matrix().to(coefficients)
    blocks = basis.T @ coefficients @ basis
    batch, rows, columns = blocks.shape[:3]
    return blocks.transpose(2, 3).reshape(batch, rows * JPEG_BLOCK_SIDE, columns * JPEG_BLOCK_SIDE)


class RecompressionPrior(VariancePrior):
    """Prior whose input is an image and its mean over recompressions, with 2 C channels.

    For training, the first of them is recompressed on a shifted grid; for inference, it is the
    measured image itself.

    Parameters
    ----------
    network : nn.Module
        Its 2 C input channels begin with the mean over grids. Its 2 C output channels are the mean
        and the variance before a softplus.
    measured : Tensor
        (1, C, Y, X), in network units.
    compression : JpegCompression
    to_grey_levels, to_network_units : callable
        Conversions between network units and grey levels.
    window : tuple of int or None
        Size of the crop of one training step; None: the whole grid.
    """

    source_name = "_input"

    def __init__(
        self,
        network: nn.Module,
        measured: Tensor,
        compression: JpegCompression,
        to_grey_levels: Callable[[Tensor], Tensor],
        to_network_units: Callable[[Tensor], Tensor],
        *,
        window: tuple[int, ...] | None,
    ) -> None:
        self.network = network
        self.grid: tuple[int, ...] = tuple(measured.shape[2:])
        self.window: tuple[int, ...] = limit_window(window, self.grid)
        image = to_grey_levels(measured)
        recompressed = (recompress(image, compression, shift) for shift in RECOMPRESSION_SHIFTS)
        self._input, *training_inputs = (
            torch.cat(
                [
                    to_network_units(reapply_shifted_jpeg(training_image, compression)),
                    to_network_units(training_image),
                ],
                1,
            )
            for training_image in (image, *recompressed)
        )
        self._training_inputs = torch.stack(training_inputs)

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Draw a window of the image recompressed on a random grid, mirrored at random."""
        window = draw_random_window(self.grid, self.window, rng)
        index = int(torch.randint(len(self._training_inputs), (), generator=rng))
        return StepInput(window.crop(self._training_inputs[index]), window=window)

    def make_prediction_sample(self) -> StepInput:
        """Return the image itself, not recompressed."""
        return StepInput(self._input)

    def make_validation_sample(self) -> StepInput:
        """Return the image recompressed on the first grid; the measured image is the truth."""
        return StepInput(self._training_inputs[0], bypasses_operator=True)
