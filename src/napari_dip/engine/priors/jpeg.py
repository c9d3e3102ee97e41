"""The prior that learns to undo a compression: fed the picture, compressed once more elsewhere.

What compression takes from a picture it takes again, if it comes again on another grid of blocks.
A network that is shown both and learns to undo the second has learned, on this very picture, what
edges, textures and rings look like before and after, and can then be shown the first.

What JPEG compression does to a picture, and which pictures a compressed one can come from.

All pictures here are in grey levels of 8 bits, as tensors (B, C, Y, X) of one or three channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.prior import Draw, Prior, draw_random_window, split_mean_and_variance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from napari_dip.engine.problem import Estimate

#: Side of a block of the standard, and the level that it subtracts first.
JPEG_BLOCK_SIDE, LEVEL_SHIFT = 8, 128.0
#: Shifts that a picture is compressed at anew and averaged: each row and each column of the
#: largest grid, 16 pixels wide, begins a block once. On a crop of camera at quality 10, all 64
#: shifts of a grid of 8 gain as much.
GRID_SHIFTS = tuple((place, 5 * place % 16) for place in range(16))
#: From red, green and blue to brightness and two differences of colour (JFIF, ITU-R BT.601).
_YCBCR_WEIGHTS = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JpegCompression:
    """How a picture was compressed.

    Attributes
    ----------
    start : (int, int)
        Row and column at which a block begins, of the grid of all channels.
    steps : Tensor
        (1 or 3, 8, 8): quantisation steps of brightness and colour, lowest frequency first.
    halved : (bool, bool)
        Whether colour is kept at half the size, along Y and X.
    """

    start: tuple[int, int]
    steps: Tensor
    halved: tuple[bool, bool] = (False, False)

    @property
    def grid(self) -> tuple[int, int]:
        """Size of what is compressed together, along Y and X: a block, or more with colour."""
        height, width = (JPEG_BLOCK_SIDE * (2 if half else 1) for half in self.halved)
        return height, width


def recompress(picture: Tensor, how: JpegCompression, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Compress and expand a picture on a grid that is moved by `shift` pixels.

    Parameters
    ----------
    picture : Tensor
        (B, C, Y, X); its border is continued by reflection to whole blocks.
    how : JpegCompression
    shift : (int, int)
        0 to 15 along Y and X.
    """
    padded, inside = _pad_to_blocks(picture, how, shift)
    planes = _split_into_planes(padded, how)
    coded = [
        _invert_block_dct((_apply_block_dct(plane) / step).round() * step)
        for plane, step in zip(planes, how.steps.to(picture), strict=True)
    ]
    return _join_planes(coded, how)[:, :, inside[0], inside[1]]


def reapply_shifted_jpeg(picture: Tensor, how: JpegCompression) -> Tensor:
    """Mean of a picture that is compressed anew on many grids: a block's edge is in few of them.

    References
    ----------
    Nosratinia, Enhancement of JPEG-compressed images by re-application of JPEG, Journal of VLSI
    Signal Processing 27, 2001, doi:10.1023/A:1008167430544.
    """
    total = torch.zeros_like(picture)
    for shift in GRID_SHIFTS:
        total += recompress(picture, how, shift)
    return total / len(GRID_SHIFTS)


def project_onto_quantisation_set(
    picture: Tensor, measured: Tensor, how: JpegCompression
) -> Tensor:
    """Move a picture to the nearest one that compresses to what was measured.

    Each coefficient of a block may lie within half a step of the measured one. Where blocks are
    cut off by the border, the picture stays as it is; so does colour that was kept at half the
    size, since what decoders make of it cannot be read back exactly.

    Parameters
    ----------
    picture, measured : Tensor
        (B, C, Y, X).
    how : JpegCompression
    """
    ours, inside = _pad_to_blocks(picture, how, (0, 0))
    theirs = _pad_to_blocks(measured, how, (0, 0))[0]
    moved: list[Tensor] = []
    for plane, plane_mask, step in zip(
        _split_into_planes(ours, how),
        _split_into_planes(theirs, how),
        how.steps.to(picture),
        strict=True,
    ):
        if moved and any(how.halved):
            moved.append(torch.zeros_like(plane))
            continue
        wished = _apply_block_dct(plane)
        centre = (_apply_block_dct(plane_mask) / step).round() * step
        allowed = wished.maximum(centre - step / 2).minimum(centre + step / 2)
        moved.append(_invert_block_dct(allowed - wished))
    change = _join_planes(moved, how, level=0.0)[:, :, inside[0], inside[1]]
    return picture + change * mask_whole_blocks(picture, how)


def mask_whole_blocks(picture: Tensor, how: JpegCompression) -> Tensor:
    """Give 1 where a block of the grid lies wholly within the picture: (1, 1, Y, X)."""
    inside = torch.zeros_like(picture[:1, :1])
    spans = []
    for start, side, count in zip(how.start, how.grid, picture.shape[-2:], strict=True):
        first = start % side
        spans.append(slice(first, first + (count - first) // side * side))
    inside[:, :, spans[0], spans[1]] = 1
    return inside


def number_blocks(picture: Tensor, how: JpegCompression) -> Tensor:
    """Count the blocks through: (Y, X) of integers, equal within a block of the grid."""
    lines = []
    for start, side, count in zip(how.start, how.grid, picture.shape[-2:], strict=True):
        places = torch.arange(count, device=picture.device) - start % side
        lines.append(places.div(side, rounding_mode="floor") + 1)
    return lines[0][:, None] * (int(lines[1].max()) + 1) + lines[1]


def _pad_to_blocks(
    picture: Tensor, how: JpegCompression, shift: tuple[int, int]
) -> tuple[Tensor, tuple[slice, slice]]:
    """Continue a picture to whole blocks; and where it lies in that."""
    before, after, places = [], [], []
    for start, side, moved, count in zip(
        how.start, how.grid, shift, picture.shape[-2:], strict=True
    ):
        ahead = -(start + moved) % side
        before.append(ahead)
        after.append(-(ahead + count) % side)
        places.append(slice(ahead, ahead + count))
    around = (before[1], after[1], before[0], after[0])
    return F.pad(picture, around, mode="reflect"), (places[0], places[1])


def _split_into_planes(picture: Tensor, how: JpegCompression) -> list[Tensor]:
    """Brightness and colours (B, Y, X) as they are coded: less 128, colour at its own size."""
    if picture.shape[1] == 1:
        return [picture[:, 0] - LEVEL_SHIFT]
    mixed = torch.einsum("pc,bcyx->bpyx", picture.new_tensor(_YCBCR_WEIGHTS), picture)
    size = tuple(2 if half else 1 for half in how.halved)
    colours = F.avg_pool2d(mixed[:, 1:], size)
    return [mixed[:, 0] - LEVEL_SHIFT, colours[:, 0], colours[:, 1]]


def _join_planes(planes: list[Tensor], how: JpegCompression, level: float = LEVEL_SHIFT) -> Tensor:
    """Undo `_split_into_planes`, colours joined by straight lines as decoders do."""
    if len(planes) == 1:
        return (planes[0] + level)[:, None]
    size = planes[0].shape[-2:]
    colours = torch.stack(planes[1:], 1)
    if any(how.halved):
        colours = F.interpolate(colours, size=size, mode="bilinear", align_corners=False)
    mixed = torch.cat([(planes[0] + level)[:, None], colours], 1)
    back = torch.linalg.inv(torch.tensor(_YCBCR_WEIGHTS, dtype=torch.float64)).to(mixed)
    return torch.einsum("cp,bpyx->bcyx", back, mixed)


def _apply_block_dct(plane: Tensor) -> Tensor:
    """(B, Y, X) -> coefficients (B, Y / 8, X / 8, 8, 8) of the cosine transform."""
    blocks = plane.unfold(1, JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE).unfold(
        2, JPEG_BLOCK_SIDE, JPEG_BLOCK_SIDE
    )
    waves = _make_block_dct_matrix().to(plane)
    return waves @ blocks @ waves.T


def _invert_block_dct(coefficients: Tensor) -> Tensor:
    """Undo `_apply_block_dct`."""
    waves = _make_block_dct_matrix().to(coefficients)
    blocks = waves.T @ coefficients @ waves
    count, rows, columns = blocks.shape[:3]
    return blocks.transpose(2, 3).reshape(count, rows * JPEG_BLOCK_SIDE, columns * JPEG_BLOCK_SIDE)


def _make_block_dct_matrix() -> Tensor:
    """Orthonormal cosines, one in each row: (8, 8)."""
    rows = [
        [
            sqrt((1 if row == 0 else 2) / JPEG_BLOCK_SIDE)
            * cos((2 * column + 1) * row * pi / (2 * JPEG_BLOCK_SIDE))
            for column in range(JPEG_BLOCK_SIDE)
        ]
        for row in range(JPEG_BLOCK_SIDE)
    ]
    return torch.tensor(rows, dtype=torch.float64)


#: Grids that steps compress on: every other one, none of which is the picture's own, where
#: nothing would happen. Each takes memory, and mirrors make four of each.
RECOMPRESSION_SHIFTS = GRID_SHIFTS[1::2]


class RecompressionPrior(Prior):
    """Feeds a picture and its mean over many grids, both as compressed once more, or as they are.

    Parameters
    ----------
    net : nn.Module
        2 C channels in, the mean over grids first; 2 C out: mean, and a number whose softplus is
        the variance.
    measured : Tensor
        (1, C, Y, X), in network units.
    how : JpegCompression
    levels, network : callable
        From network units to grey levels, and back.
    window : tuple of int or None
        Size of what a step looks at; None: the whole grid.
    """

    covers_grid = False

    def __init__(
        self,
        net: nn.Module,
        measured: Tensor,
        how: JpegCompression,
        levels: Callable[[Tensor], Tensor],
        network: Callable[[Tensor], Tensor],
        *,
        window: tuple[int, ...] | None,
    ) -> None:
        self.net = net
        self.grid = tuple(measured.shape[2:])
        self.window = self.grid if window is None else tuple(map(min, window, self.grid))
        picture = levels(measured)
        again = (recompress(picture, how, shift) for shift in RECOMPRESSION_SHIFTS)
        self._input, *self._codes = (
            torch.cat([network(reapply_shifted_jpeg(item, how)), network(item)], 1)
            for item in (picture, *again)
        )

    def to(self, device: torch.device) -> None:
        """Move network and pictures."""
        self.net.to(device)
        self._input = self._input.to(device)
        self._codes = [code.to(device) for code in self._codes]

    def draw(self, rng: torch.Generator) -> Draw:
        """Show a window of the picture as compressed once more, on one grid, mirrored at random."""
        window = draw_random_window(self.grid, self.window, rng)
        which = int(torch.randint(len(self._codes), (), generator=rng, device=rng.device))
        return Draw(window.of(self._codes[which]), window=window)

    def glance(self) -> Draw:
        """Show it as it is."""
        return Draw(self._input)

    def trial(self) -> Draw:
        """Show it compressed once more, since what it was before that is known."""
        return Draw(self._codes[0], direct=True)

    def sweep(self) -> Iterator[Draw]:
        """Show it as it is."""
        yield Draw(self._input)

    def estimate(self, output: Tensor) -> Estimate:
        """First half is the mean, second half the variance."""
        return split_mean_and_variance(output)
