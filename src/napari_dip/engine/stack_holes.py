"""Holes of a stack: which planes have them, and which known planes are like a missing one."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_dip.engine.neighbour_planes import sight


class Holes:
    """Planes with holes, and how far from each missing pixel others show its place.

    Parameters
    ----------
    known : Tensor
        (1, 1, N, Y, X), 1 where there is a measurement.

    Attributes
    ----------
    planes : list of int
        Those that have holes.
    whole : list of bool
        Whether nothing of that plane is known.
    weights : Tensor
        (H,), pixels missing in each.
    back, ahead : Tensor of int16
        (H, Y, X), planes to the next one that shows a pixel; N: none.
    usable : list of int
        Planes of which something is known.
    """

    def __init__(self, known: Tensor) -> None:
        missing = (known[0, 0] == 0).flatten(1).sum(1)
        size = known[0, 0, 0].numel()
        count = known.shape[2]
        self.planes: list[int] = missing.nonzero()[:, 0].tolist()
        self.whole = [bool(missing[plane] == size) for plane in self.planes]
        self.usable: list[int] = (missing < size).nonzero()[:, 0].tolist()
        self.weights = missing[self.planes].to(torch.float32).cpu()
        seen = sight(known)
        here = torch.tensor(self.planes, device=known.device)[:, None, None]
        back, ahead = here - seen.last[self.planes], seen.next[self.planes] - here
        back = torch.where(seen.last[self.planes] < 0, count, back)
        ahead = torch.where(seen.next[self.planes] >= count, count, ahead)
        self.back, self.ahead = back.to(torch.int16), ahead.to(torch.int16)

    def to(self, device: torch.device) -> None:
        """Move what is looked up in pixels."""
        self.back, self.ahead = self.back.to(device), self.ahead.to(device)

    def suited(self, place: int) -> list[int]:
        """Planes whose surroundings are like those of a missing one: as far from the next known."""
        if not self.whole[place]:
            return self.usable
        plane, usable = self.planes[place], set(self.usable)
        back = min((plane - one for one in usable if one < plane), default=0)
        ahead = min((one - plane for one in usable if one > plane), default=0)
        alike = [one for one in self.usable if {one - back, one + ahead} <= usable]
        return alike or self.usable

    def like_missing(self, known: Tensor) -> Tensor:
        """Leave of what is known the planes whose surroundings are like those of missing ones.

        All, where no plane is missing; the shape of `known`.
        """
        places = [place for place, whole in enumerate(self.whole) if whole]
        if not places:
            return known
        alike = torch.zeros_like(known)
        alike[:, :, sorted({plane for place in places for plane in self.suited(place)})] = 1
        return known * alike
