"""Looks at the whole picture: how many a last sweep takes, and how much goes in at a time."""

from __future__ import annotations

from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING

from napari_dip.engine.pieces import most_at_a_time
from napari_dip.tasks.blind_spot import trusted_core
from napari_dip.tasks.hidden_code import AT_A_TIME, PLANE_WISE

if TYPE_CHECKING:
    from napari_dip.run.costs import Budget

#: Sides that a hidden block can have.
BLOCK_SIDES = (1, 3, 5, 7)
#: Priors whose networks see no further than so many pixels of a plane.
LOCAL = ("blind-spot", "recorrupted", "guided", "recompression", "image", "image-shapes")


def looks(block: tuple[int, ...], core: tuple[int, ...]) -> int:
    """Count the looks of a last sweep: shifts of a lattice of blocks until their cores tile.

    Parameters
    ----------
    block, core : tuple of int
        Sizes of a hidden block and of the middle of it that is trusted, per axis.
    """
    return prod(ceil((size + 2) / middle) for size, middle in zip(block, core, strict=True))


def looks_at(block: tuple[int, ...]) -> int:
    """Count the looks of a last sweep with blocks of that size."""
    return looks(block, tuple(trusted_core(side) for side in block))


def last_looks(dims: int) -> tuple[int, int]:
    """Count the looks of a last sweep where the noise is white, as it mostly is, and at most."""
    ahead = (1,) * (dims - 2)
    most = max(looks_at((*ahead, *block)) for block in product(BLOCK_SIDES, BLOCK_SIDES))
    return looks_at((*ahead, 1, 1)), most


def pixels_at_a_time(grid: tuple[int, ...], budget: Budget) -> int:
    """Count the pixels that go through the network at a time in a look.

    Parameters
    ----------
    grid : tuple of int
        Of the network.
    budget : Budget
    """
    whole = prod(grid)
    if len(grid) > 2:
        planes = max(AT_A_TIME, prod(grid[-2:]))
        return min(whole, planes) if budget.prior in PLANE_WISE else whole
    return most_at_a_time(whole, len(budget.widths)) if budget.prior in LOCAL else whole
