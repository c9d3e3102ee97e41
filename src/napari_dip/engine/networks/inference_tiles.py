"""How far a network sees, and the pieces that a large picture is shown to it in.

Known before the start, without torch: the memory of a look depends on it.
"""

from __future__ import annotations

from math import ceil

#: Pixels up to which a picture is shown as a whole: there, pieces were not faster.
MAX_UNTILED_PIXELS = 2**20
#: Least side of a piece without its margins, and least multiple of a margin: with 56 pixels around
#: it, 256 are the quickest per pixel; wide margins on small pieces would mostly be computed twice.
MIN_CORE_SIDE, MIN_CORE_MARGINS = 256, 4


def compute_hourglass_receptive_field(scales: int) -> int:
    """Count the pixels that an hourglass sees to each side, where each scale halves the grid.

    Two layers on the way in at the finest scale and one at each other, one in the middle, one at
    each scale on the way out and the last; each upsampling looks at the next coarse pixel.

    Parameters
    ----------
    scales : int
    """
    sides: list[int] = [2**scale for scale in range(scales)]  # of a pixel of each scale
    inwards = 1 + sum(sides) + sides[-1]
    outwards = sum(sides[:-1]) + sum(sides[1:]) + 1
    return inwards + outwards + sides[-1] - 1  # pooled pixels begin on multiples of the coarsest


def compute_tile_size(reach: int, grain: int) -> tuple[int, int]:
    """Give the margin and the side of a piece's core, in multiples of the grain."""
    margin = ceil(reach / grain) * grain
    return margin, max(ceil(MIN_CORE_SIDE / grain) * grain, MIN_CORE_MARGINS * margin)


def count_max_tile_pixels(pixels: int, scales: int) -> int:
    """Count the pixels of a plane that an hourglass is shown at a time, margins included.

    Parameters
    ----------
    pixels : int
        Of the plane.
    scales : int
    """
    margin, core = compute_tile_size(compute_hourglass_receptive_field(scales), 2 ** (scales - 1))
    return pixels if pixels <= MAX_UNTILED_PIXELS else min(pixels, (core + 2 * margin) ** 2)
