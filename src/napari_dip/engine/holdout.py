"""Which pixels judge and which only guard: drawn from global coordinates, so tiles agree."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

#: Two odd multipliers and shifts of a well-mixed 32-bit hash (constants of Murmur3's finaliser).
_MIX = (0x85EBCA6B, 0xC2B2AE35)
_WORD = 0xFFFFFFFF


def held_out_centres(
    shape: tuple[int, ...],
    block: tuple[int, ...],
    share: float,
    seed: int,
    origin: tuple[int, ...] | None = None,
    patch: tuple[int, ...] | None = None,
) -> Tensor:
    """Choose the pixels that judge.

    Parameters
    ----------
    shape : tuple of int
        Size of the region, per axis.
    block : tuple of int, odd
        Size of the hidden block around a centre: the centre judges, the rest guards it from
        neighbours that share its noise.
    share : float, 0 to 1
        Part of all pixels that centre and guard may take from the fit, at most.
    seed : int
    origin : tuple of int or None
        Global coordinates of the region's first pixel.
    patch : tuple of int or None
        Size of the patches that share one fate; None: each pixel has its own.

    Returns
    -------
    Tensor
        (1, 1, *shape) float32, 1 at centres. A pixel's fate depends on its global
        coordinates and the seed alone.
    """
    origin, patch = origin or (0,) * len(shape), patch or (1,) * len(shape)
    word = torch.full((), (seed * 0x9E3779B1 + 0x7F4A7C15) & _WORD, dtype=torch.int64)
    for axis, (start, count) in enumerate(zip(origin, shape, strict=True)):
        line = torch.arange(start, start + count, dtype=torch.int64) // patch[axis]
        line = line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        word = _mix((word ^ line) + axis + 1)
    chosen = word < int(share / prod(block) * (_WORD + 1))
    return chosen.to(torch.float32)[None, None]


def spread(centres: Tensor, block: tuple[int, ...]) -> Tensor:
    """Grow each centre (B, 1, *grid) to the block around it; same shape, 0 or 1."""
    pools = {1: nn.functional.max_pool1d, 2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
    if prod(block) == 1:
        return centres
    return pools[len(block)](centres, block, stride=1, padding=tuple(size // 2 for size in block))


def _mix(word: Tensor) -> Tensor:
    """Scatter neighbouring integers over 32 bits."""
    word = word & _WORD
    for factor in _MIX:
        word = ((word ^ (word >> 15)) * factor) & _WORD
    return word ^ (word >> 16)
