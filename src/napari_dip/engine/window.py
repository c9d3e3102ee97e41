"""Part of the grid that a step looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """Part of the grid, possibly mirrored, that a step looks at.

    Attributes
    ----------
    start, size : tuple of int
        Per axis.
    mirrored : tuple of int
        Tensor dimensions that are turned round.
    planes : tuple of int or None
        Which ones of the first axis, in any order, instead of those from `start` on.
    member : int or None
        Which one of several pictures, where B of them share a network; None: all B.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    mirrored: tuple[int, ...] = ()
    planes: tuple[int, ...] | None = None
    member: int | None = None

    def of(self, whole: Tensor) -> Tensor:
        """Cut (B, C, *grid) down to (B, C, *size), or to (1, C, *size) of a member."""
        whole = self.of_member(whole)
        for axis, (start, count) in enumerate(zip(self.start, self.size, strict=True)):
            if self.planes is None or axis:
                whole = whole.narrow(axis + 2, start, count)
        if self.planes is not None:
            whole = whole[:, :, list(self.planes)]
        return whole.flip(self.mirrored) if self.mirrored else whole

    def of_member(self, whole: Tensor) -> Tensor:
        """Give the one picture of (B, ...) that was drawn; all where none was, or B is 1."""
        if self.member is None or len(whole) == 1:
            return whole
        return whole[self.member : self.member + 1]

    def onto(self, part: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Put (B, C, *size) back where it was cut from: (B, C, *grid), 0 elsewhere."""
        part = part.flip(self.mirrored) if self.mirrored else part
        if self.size == grid and self.planes is None:
            return part
        whole = part.new_zeros((*part.shape[:2], *grid))
        place: list[slice | list[int]] = [
            slice(first, first + n) for first, n in zip(self.start, self.size, strict=True)
        ]
        if self.planes is not None:
            place[0] = list(self.planes)
        whole[:, :, *place] = part
        return whole


def random_window(
    grid: tuple[int, ...],
    size: tuple[int, ...],
    rng: torch.Generator,
    *,
    mirror: bool = True,
    members: int = 1,
) -> Window:
    """Place a window of `size` at random within `grid`; mirror it at random along each axis.

    Of several members, one is drawn as well.
    """
    dice = torch.rand(2 * len(grid), generator=rng, device=rng.device).tolist()
    start = tuple(
        int(die * (whole - part + 1)) for die, whole, part in zip(dice, grid, size, strict=False)
    )
    one = None
    if members > 1:
        one = int(torch.randint(members, (), generator=rng, device=rng.device))
    chosen = (axis + 2 for axis, die in enumerate(dice[len(grid) :]) if die < 0.5)
    return Window(start, size, tuple(chosen) if mirror else (), member=one)
