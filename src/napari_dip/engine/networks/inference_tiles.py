"""Compute receptive fields and tile sizes of inference.

It is free of torch, so that the memory of a run can be estimated before the start.
"""

from __future__ import annotations

from math import ceil

#: Pixels up to which a plane is not tiled, since tiles are not faster there.
MAX_UNTILED_PIXELS = 2**20
#: Minimum side of a tile without its halo, in pixels and in halos; 256 pixels are the fastest per
#: pixel for a halo of 56 (docs/constants.md).
MIN_CORE_SIDE, MIN_CORE_MARGINS = 256, 4


def compute_hourglass_receptive_field(scale_count: int) -> int:
    """Return the radius of the receptive field of an hourglass, in pixels.

    The encoder has two layers at the finest scale and one at each other. Then come one layer in the
    middle, one at each scale of the decoder and a last one. Each upsampling uses the adjacent
    coarse pixel.

    Parameters
    ----------
    scale_count : int
    """
    sides: list[int] = [2**scale for scale in range(scale_count)]  # of a pixel of each scale
    encoder_radius = 1 + sum(sides) + sides[-1]
    decoder_radius = sum(sides[:-1]) + sum(sides[1:]) + 1
    return (
        encoder_radius + decoder_radius + sides[-1] - 1
    )  # pooled pixels begin on multiples of the coarsest


def compute_tile_size(receptive_field_radius: int, coarsest_stride: int) -> tuple[int, int]:
    """Return halo and side of a tile in pixels, both multiples of the coarsest stride."""
    halo = ceil(receptive_field_radius / coarsest_stride) * coarsest_stride
    return halo, max(
        ceil(MIN_CORE_SIDE / coarsest_stride) * coarsest_stride, MIN_CORE_MARGINS * halo
    )


def count_max_tile_pixels(pixel_count: int, scale_count: int) -> int:
    """Return the largest number of pixels in one pass of an hourglass, halo included.

    Parameters
    ----------
    pixel_count : int
        Of the plane.
    scale_count : int
    """
    if pixel_count <= MAX_UNTILED_PIXELS:
        return pixel_count
    radius = compute_hourglass_receptive_field(scale_count)
    halo, side = compute_tile_size(radius, 2 ** (scale_count - 1))
    return min(pixel_count, (side + 2 * halo) ** 2)
