"""Describe a PSF that changes over the field by a few modes and their coefficients.

The PSF of each place is a sum of modes with coefficients that change slowly. So the image is a sum
of invariant convolutions: each mode blurs the object times its map of coefficients.

References
----------
Flicker, Rigaut, Anisoplanatic deconvolution of adaptive optics images, JOSA A 22(3), 2005,
doi:10.1364/JOSAA.22.000504. Denis, Thiébaut, Soulez, Becker, Mourya, Fast approximations of
shift-variant blur, IJCV 115, 2015, doi:10.1007/s11263-015-0817-x.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Largest error of a PSF of a field that the modes leave, relative to the PSF's norm.
MAX_MODE_ERROR = 0.01
#: Largest number of modes of the PSFs of a field: each costs a convolution.
MAX_MODES = 10


class FieldPsf(NamedTuple):
    """A PSF that changes over the field.

    Attributes
    ----------
    modes : Tensor
        (K, *sizes) float32, with odd sizes.
    coefficients : Tensor
        (K, *cells) float32: the PSF in the middle of a cell is the sum of the modes times these.
        The cells divide the field equally along each axis.
    """

    modes: Tensor
    coefficients: Tensor


def decompose_field(kernels: Tensor, cells: tuple[int, ...]) -> FieldPsf:
    """Describe PSFs by the fewest singular vectors that explain each of them.

    Parameters
    ----------
    kernels : Tensor
        (P, *sizes), one for each cell, row by row; each of sum one.
    cells : tuple of int
        Number of cells along each axis of the field, with the product P.

    Returns
    -------
    FieldPsf
        Its PSFs have a sum of one.

    Examples
    --------
    >>> field_psf = decompose_field(kernels, (5, 5))
    """
    flat = kernels.flatten(1).double()
    vectors: Tensor = torch.linalg.svd(flat, full_matrices=False)[2][:MAX_MODES]
    weights = flat @ vectors.T
    energy = flat.square().sum(1, keepdim=True)
    remaining = (1 - weights.square().cumsum(1) / energy).amax(0)
    is_enough = remaining <= MAX_MODE_ERROR**2
    count = int(is_enough.long().argmax()) + 1 if bool(is_enough.any()) else len(vectors)
    vectors, weights = vectors[:count], weights[:, :count]
    weights = weights / (weights @ vectors.sum(1))[:, None]
    return FieldPsf(
        modes=vectors.reshape(count, *kernels.shape[1:]).float(),
        coefficients=weights.T.reshape(count, *cells).float(),
    )


def interpolate_coefficients(
    coefficients: Tensor,
    image_size: tuple[int, ...],
    start: tuple[int, ...],
    grid: tuple[int, ...],
) -> Tensor:
    """Interpolate coefficients linearly between the middles of cells, for part of the field.

    From the outermost middles to the border of the field they are continued linearly. Beyond the
    border they are those of the border.

    Parameters
    ----------
    coefficients : Tensor
        (K, *cells).
    image_size : tuple of int
        Pixels of the field along each axis.
    start, grid : tuple of int
        First pixel of the part in the field, which may be negative, and its size.

    Returns
    -------
    Tensor
        (K, *grid)
    """
    for axis, (first, count, size) in enumerate(zip(start, grid, image_size, strict=True), 1):
        weights = _compute_cell_weights(first, count, size, coefficients.shape[axis])
        weights = weights.to(coefficients)
        coefficients = torch.tensordot(coefficients, weights, dims=([axis], [1])).movedim(-1, axis)
    return coefficients


def _compute_cell_weights(start: int, count: int, size: int, cells: int) -> Tensor:
    """Return the weight of each cell's middle at each pixel along one axis, (pixels, cells)."""
    if cells == 1:
        return torch.ones(count, 1)
    places = (torch.arange(start, start + count, dtype=torch.float64) + 0.5).clamp(0, size)
    positions = places * cells / size - 0.5
    lower = positions.floor().long().clamp(0, cells - 2)
    fractions = positions - lower
    weights = torch.zeros(count, cells, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], (1 - fractions)[:, None])
    weights.scatter_(1, lower[:, None] + 1, fractions[:, None])
    return weights
