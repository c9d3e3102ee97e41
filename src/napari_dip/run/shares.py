"""Which part of a file's work is for one of several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.run.time_left import ending_iterations
from napari_dip.run.unit_shelf import chains_of, lessons_of

if TYPE_CHECKING:
    from napari_dip.run.plan import Plan

#: Tiles that it takes for a file to be shared: the first one, and one for each of two processes.
LEAST_TILES = 3


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the tiles of a file, or of the fits of one that is not in tiles.

    Attributes
    ----------
    place : int
        0: the first tile, and what all of them are helped by. From 1 to `count`: a share of what
        comes after, or of all fits where there are no tiles.
    count : int
        How many shares that is cut into.
    lesson : bool
        Where there are no tiles: whether it is a share of the networks that many frames or planes
        are shown, which come before all pictures.
    """

    place: int = 0
    count: int = 1
    lesson: bool = False

    @property
    def name(self) -> str:
        """Name it among those of its file."""
        return f"{'lesson' if self.lesson else ''}{self.place}"

    @property
    def words(self) -> str:
        """Say which part of a file it is."""
        if not self.place:
            return "the first tile"
        return f"{'network' if self.lesson else 'share'} {self.place} of {self.count}"

    def has(self, number: int) -> bool:
        """Whether something is of this share, by its number in the order of the run.

        Of tiles, the first one has the number 0; of chains of fits, 1.
        """
        if not self.place:
            return number == 0
        return number > 0 and (number - self.place) % self.count == 0


def most_shares(plan: Plan) -> int:
    """Give how many processes can restore a file side by side; a time limit is one run's."""
    if plan.recipe.common.time_limit is not None or plan.network is not None:
        return 1
    if plan.tiles:
        return len(plan.tiles) - 1 if len(plan.tiles) >= LEAST_TILES else 1
    return len(chains_of(plan))


def lesson_shares(plan: Plan) -> int:
    """Give how many processes can fit the networks that parts of a file without tiles share."""
    return 0 if plan.tiles else len(lessons_of(plan))


def first_part(plan: Plan) -> float:
    """Estimate which part of a file is to be done before its shares: the first tile, networks."""
    if plan.tiles:
        return 1 / len(plan.tiles)
    ending = ending_iterations(plan)
    before = sum(one.iterations + ending for one in plan.units if not one.pictured)
    return before / sum(one.iterations + ending for one in plan.units)
