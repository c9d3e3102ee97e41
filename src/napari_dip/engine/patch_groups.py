"""Which patches of a picture look alike."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise_line import SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Side of a patch, patches in a group, distance of neighbouring groups, and how far away patches
#: are looked for, in pixels: near those of BM3D. On five 256 x 256 crops of FMD, patches of 6 or
#: 12, groups of 8 or 32 and a reach of 24 lie within 0.1 dB; on cameraman, peppers, starfish and
#: W2S 077_2 groups of 32 lose 0.1 dB on three, a reach of 20 or groups every 2 pixels gain at most
#: 0.05.
PATCH, GROUP, STEP, REACH = SIDE, 16, 3, 16
#: Places along an axis in which a group's patches are looked for.
SPAN = 2 * REACH + 1
#: Groups a side that are worked on at a time: what they look at stays in a processor's cache (of
#: 12, 16 and 24, 12 and 16 were the soonest, within 5 %).
AT_A_TIME = 16


class Block(NamedTuple):
    """Groups that are worked on together.

    Attributes
    ----------
    rows, columns : slice
        The part of the picture that they look at.
    places : Tensor
        (G, GROUP) int32: first pixels of patches, counted row by row in that part; each group's own
        comes first.
    """

    rows: slice
    columns: slice
    places: Tensor


def border(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Rows and columns, as `torch.nn.functional.pad` takes them, up to a whole number of steps."""
    below, right = (STEP * ceil((side - PATCH) / STEP) + PATCH - side for side in size)
    return 0, right, 0, below


def grouped(compared: Tensor) -> list[Block]:
    """Find the patches that look alike, in as few bytes as their places fit into.

    A picture smaller than a group's patches repeats some of them.

    Parameters
    ----------
    compared : Tensor
        (C, Y, X), Y and X a whole number of steps and a patch.
    """
    rows, columns = (range(0, side - PATCH + 1, STEP) for side in compared.shape[1:])
    return [
        _block(compared, rows[row : row + AT_A_TIME], columns[column : column + AT_A_TIME])
        for row in range(0, len(rows), AT_A_TIME)
        for column in range(0, len(columns), AT_A_TIME)
    ]


def _block(compared: Tensor, rows: range, columns: range) -> Block:
    """Group the patches that begin in these rows and columns with those that look most alike."""
    beyond, part = zip(
        *(_around(*one) for one in zip((rows, columns), compared.shape[1:], strict=True)),
        strict=True,
    )
    distances = _distances(compared[:, part[0], part[1]], beyond, len(rows), len(columns))
    nearest = distances.topk(GROUP, largest=False)
    found = nearest.indices.where(nearest.values < torch.inf, nearest.indices[..., :1])
    down, aside = found // SPAN - REACH, found % SPAN - REACH
    own_rows, own_columns = (
        torch.arange(len(one), device=found.device) * STEP + one[0] - there.start
        for one, there in zip((rows, columns), part, strict=True)
    )
    width = part[1].stop - part[1].start
    places = (own_rows[:, None, None] + down) * width + own_columns[:, None] + aside
    return Block(part[0], part[1], places.flatten(0, 1).int())


def _around(own: range, side: int) -> tuple[tuple[int, int], slice]:
    """Places beyond the picture that groups would look at, before and after; and the part of it."""
    first, last = own[0] - REACH, own[-1] + REACH
    most = side - PATCH
    beyond = max(0, -first), max(0, last - most)
    return beyond, slice(first + beyond[0], last - beyond[1] + PATCH)


def _distances(part: Tensor, beyond: tuple[tuple[int, int], ...], down: int, across: int) -> Tensor:
    """Squared distances, less a constant for each group: (down, across, SPAN²).

    Least for a group's own patch, or flat places would be left out; infinite beyond the picture.
    |a - b|² is |a|² + |b|² - 2 a b, of which a product of matrices is the soonest; about the
    part's mean these are small enough that rounding chooses another patch once in 80,000 times.
    """
    centred = part - part.mean((1, 2), keepdim=True)
    cut = centred.unfold(1, PATCH, 1).unfold(2, PATCH, 1).permute(1, 2, 0, 3, 4)
    patches = cut.reshape(*cut.shape[:2], -1)  # (h, w, C P²)
    lengths = torch.einsum("yxd,yxd->yx", patches, patches)
    (above, below), (left, right) = beyond
    sides = (left, right, above, below)
    if any(sides):
        patches = F.pad(patches, (0, 0, *sides))
        lengths = F.pad(lengths, sides, value=torch.inf)
    _, width, depth = patches.shape
    own = patches[REACH:-REACH:STEP, REACH:-REACH:STEP]
    # what a row of groups looks at is SPAN whole rows, one after the other in the memory
    looked_at = (down, depth, SPAN * width), (STEP * width * depth, 1, depth)
    theirs = lengths.as_strided((down, 1, SPAN * width), (STEP * width, 0, 1))
    apart = torch.baddbmm(theirs, own, patches.as_strided(*looked_at), alpha=-2)
    strides = across * SPAN * width, SPAN * width + STEP, width, 1
    distances = apart.as_strided((down, across, SPAN, SPAN), strides).flatten(2)
    distances[..., SPAN**2 // 2] = -torch.inf
    return distances
