"""What the planes before and after hold: the nearest ones of a stack at which a pixel is seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Planes that are looked for on either side: two tell how fast things move, where one does not.
NEIGHBOURS = 2


class Sight(NamedTuple):
    """Which plane shows a pixel last, and which shows it next.

    Attributes
    ----------
    last : Tensor of int32
        (N, Y, X): the last plane up to and with each one at which the pixel is seen; -1: none.
    next : Tensor of int32
        (N, Y, X): the first one from each plane on; N: none.
    """

    last: Tensor
    next: Tensor


class Neighbours(NamedTuple):
    """What was found for some planes.

    Attributes
    ----------
    values : Tensor
        (P, 2 NEIGHBOURS C, Y, X): nearest before first, then those before it; then those after.
    nearness : Tensor
        (P, 2, Y, X): one over the number of planes to the nearest before and after; 0: none.
    between : Tensor
        (P, C, Y, X): straight line between the nearest two, or the only one; 0 without any.
    """

    values: Tensor
    nearness: Tensor
    between: Tensor

    def reversed(self) -> Neighbours:
        """Give what would be found if the stack were turned round."""
        before, after = self.values.chunk(2, 1)
        return self._replace(values=torch.cat([after, before], 1), nearness=self.nearness.flip(1))


def sight(visible: Tensor) -> Sight:
    """Look each way from each plane.

    Parameters
    ----------
    visible : Tensor
        (1, 1, N, Y, X), 0 where hidden.
    """
    seen = visible[0, 0] > 0
    count = len(seen)
    place = torch.arange(count, dtype=torch.int32, device=seen.device)[:, None, None]
    last = torch.where(seen, place, -1).cummax(0).values
    behind = torch.where(seen.flip(0), place, -1).cummax(0).values
    return Sight(last, (count - 1 - behind).flip(0))


def neighbours(
    measurement: Tensor, seen: Sight, planes: Tensor, reach: tuple[Tensor, Tensor]
) -> Neighbours:
    """Find the nearest values that are seen before and after some planes.

    Parameters
    ----------
    measurement : Tensor
        (1, C, N, Y, X).
    seen : Sight
        Of the pixels that may be looked at.
    planes : Tensor of int64
        (P,), their numbers.
    reach : (Tensor, Tensor) of int64
        Planes back and ahead at which looking begins, of a shape that fits (P, Y, X); 1: the very
        next plane; N or more: nothing is looked at on that side.
    """
    here = planes[:, None, None]
    before = _side(measurement[0], seen.last, here - reach[0], -1)
    after = _side(measurement[0], seen.next, here + reach[1], 1)
    shown = [there.to(measurement.dtype) for _, _, there in (before, after)]
    nearness = torch.stack(
        [
            there / (place - here).abs().clamp(min=1)
            for (_, place, _), there in zip((before, after), shown, strict=True)
        ],
        1,
    )
    weight = nearness / nearness.sum(1, keepdim=True).clamp(min=1e-6)
    between = weight[:, :1] * before[0][0] + weight[:, 1:] * after[0][0]
    # what only one side shows, or none, is taken for the other as well
    sides = []
    for (values, _, there), (others, _, _) in ((before, after), (after, before)):
        sides += [torch.where(there[:, None], one, others[0]) for one in values]
    return Neighbours(torch.cat(sides, 1), nearness, between)


def _side(
    measurement: Tensor, seen: Tensor, start: Tensor, way: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Look back (way = -1) or ahead (1) from plane `start`, (P, Y, X).

    Returns
    -------
    values : list of Tensor
        NEIGHBOURS times (P, C, Y, X), the nearest first; 0 where there is none.
    place : Tensor
        (P, Y, X), the plane that the nearest lies in.
    there : Tensor of bool
        (P, Y, X), whether there is one.
    """
    count = len(seen)
    start = start.expand(-1, *seen.shape[1:])
    values: list[Tensor] = []
    for _ in range(NEIGHBOURS):
        inside = (start >= 0) & (start < count)
        place = seen.gather(0, start.clamp(0, count - 1)).to(torch.int64)
        there = inside & (place >= 0) & (place < count)
        index = place.clamp(0, count - 1)[None].expand(len(measurement), -1, -1, -1)
        found = (measurement.gather(1, index) * there).transpose(0, 1)
        if not values:
            nearest = place, there
            values.append(found)
        else:
            values.append(torch.where(there[:, None], found, values[-1]))
        start = torch.where(there, place + way, -1)
    return values, *nearest
