"""Which part of a file's work is for one of several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.run.unit_shelf import chains_of

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
    """

    place: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether something is of this share, by its number in the order of the run.

        Of tiles, the first one has the number 0; of chains of fits, 1.
        """
        if not self.place:
            return number == 0
        return number > 0 and (number - self.place) % self.count == 0


def most_shares(plan: Plan) -> int:
    """Give how many processes can restore a file side by side; a time limit is one run's."""
    if plan.recipe.common.time_limit is not None:
        return 1
    if plan.tiles:
        return len(plan.tiles) - 1 if len(plan.tiles) >= LEAST_TILES else 1
    return len(chains_of(plan))
