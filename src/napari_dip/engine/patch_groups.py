"""Which patches of a picture look alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise_line import SIDE

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Side of a patch, patches in a group, distance of neighbouring groups, and how far away patches
#: are looked for, in pixels: near those of BM3D. On five 256 x 256 crops of FMD, patches of 6 or
#: 12, groups of 8 or 32 and a reach of 24 lie within 0.1 dB; on cameraman, peppers, starfish and
#: W2S 077_2 groups of 32 lose 0.1 dB on three, a reach of 20 or groups every 2 pixels gain at most
#: 0.05.
PATCH, GROUP, STEP, REACH = SIDE, 16, 3, 16
#: Rows of groups that are worked on at a time, which bounds the memory.
ROWS = 16


class Band(NamedTuple):
    """Groups that are worked on together.

    Attributes
    ----------
    part : slice
        Rows of the picture that they look at.
    groups : list of Tensor
        For each row of groups (G, GROUP) int32: places of patches in the part, row by row.
    """

    part: slice
    groups: list[Tensor]


def _bands(height: int) -> Iterator[tuple[range, slice]]:
    """Rows of groups that are worked on together, and the part of the picture that they look at."""
    places = range(0, height - PATCH + 1, STEP)
    for first in range(0, len(places), ROWS):
        rows = places[first : first + ROWS]
        yield rows, slice(max(0, rows[0] - REACH), min(height, rows[-1] + PATCH + REACH))


def grouped(compared: Tensor) -> list[Band]:
    """Find the patches that look alike, in as few bytes as their places fit into.

    Parameters
    ----------
    compared : Tensor
        (C, Y, X), Y and X a whole number of steps and a patch.
    """
    return [
        Band(part, [row.int() for row in _alike(compared[:, part], rows, part.start)])
        for rows, part in _bands(compared.shape[1])
    ]


def _alike(compared: Tensor, rows: range, top: int) -> tuple[Tensor, ...]:
    """Find the patches that look most like each group's own: indices (G, GROUP), row by row.

    A picture smaller than a group's patches repeats some of them.
    """
    _, height, width = compared.shape
    across = width - PATCH + 1
    own_rows = torch.arange(rows[0] - top, rows[-1] - top + 1, STEP)
    own_columns = torch.arange(0, across, STEP)
    padded = F.pad(compared, (REACH,) * 4)
    part = slice(rows[0] - top, rows[-1] - top + PATCH)
    own = compared[:, part]
    distances, shifts = [], []
    for down in range(-REACH, REACH + 1):
        there = own_rows + down
        outside = (there < 0) | (there > height - PATCH)
        if bool(outside.all()):
            continue
        for aside in range(-REACH, REACH + 1):
            moved = padded[
                :,
                REACH + down + part.start : REACH + down + part.stop,
                REACH + aside : REACH + aside + width,
            ]
            squares = (own - moved).square_()
            squares = squares.sum(0) if len(squares) > 1 else squares[0]
            summed = squares.unfold(0, PATCH, STEP).sum(-1).unfold(1, PATCH, STEP)
            distance = summed.sum(-1)
            beside = own_columns + aside
            beyond = (beside < 0) | (beside >= across)
            distance[outside[:, None] | beyond] = torch.inf
            if down == aside == 0:  # first of equals, or flat places would be left out
                distance.fill_(-1)
            distances.append(distance)
            shifts.append(down * across + aside)
    nearest = torch.stack(distances).flatten(1).topk(GROUP, dim=0, largest=False).indices
    starts = (own_rows[:, None] * across + own_columns).flatten().to(compared.device)
    chosen = starts[:, None] + torch.tensor(shifts, device=compared.device)[nearest].T
    rows_of_groups: tuple[Tensor, ...] = chosen.split(len(own_columns))
    return rows_of_groups
