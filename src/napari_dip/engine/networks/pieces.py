"""How far a network sees, and the pieces that a large picture is shown to it in.

Known before the start, without torch: the memory of a look depends on it.
"""

from __future__ import annotations

from math import ceil

#: Pixels up to which a picture is shown as a whole: there, pieces were not faster.
WHOLE = 2**20
#: Least side of a piece without its margins, and least multiple of a margin: with 56 pixels around
#: it, 256 are the quickest per pixel; wide margins on small pieces would mostly be computed twice.
CORE, MARGINS = 256, 4


def hourglass_reach(scales: int) -> int:
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


def piece(reach: int, grain: int) -> tuple[int, int]:
    """Give the margin and the side of a piece's core, in multiples of the grain."""
    margin = ceil(reach / grain) * grain
    return margin, max(ceil(CORE / grain) * grain, MARGINS * margin)


def most_at_a_time(pixels: int, scales: int) -> int:
    """Count the pixels of a plane that an hourglass is shown at a time, margins included.

    Parameters
    ----------
    pixels : int
        Of the plane.
    scales : int
    """
    margin, core = piece(hourglass_reach(scales), 2 ** (scales - 1))
    return pixels if pixels <= WHOLE else min(pixels, (core + 2 * margin) ** 2)
