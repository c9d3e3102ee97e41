"""The fits that a run is made of: parts, groups of channels, repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.run.costs import channel_count

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec
    from napari_dip.run.costs import Budget
    from napari_dip.run.recipe import Recipe

#: Share of the iterations that a plane takes which begins with what the one before has learned,
#: and the fewest of them.
LATER, LEAST_LATER = 0.2, 25


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One fit: a group of channels and a restart.

    Attributes
    ----------
    id : str
        Names the unit in checkpoints and reports.
    channels : tuple of int
        Indices into the channels of the image.
    restart : int
        0-based.
    seed : int
        Of this fit's own random numbers.
    iterations : int
    part : int
        Which plane or volume of a stack, 0-based.
    warm : bool
        Whether it begins with the weights of the unit before.
    first : str
        Id of the first fit of the same channels.
    """

    id: str
    channels: tuple[int, ...]
    restart: int
    seed: int
    iterations: int
    part: int = 0
    warm: bool = False
    first: str = ""


def units_of(recipe: Recipe, source: ImageSpec, budget: Budget, parts: int) -> tuple[WorkUnit, ...]:
    """List the fits: for each group of channels and each restart a chain through the parts."""
    count = channel_count(source)
    groups = (
        [tuple(range(count))]
        if recipe.task.together(source)
        else [(index,) for index in range(count)]
    )
    later = max(min(LEAST_LATER, budget.iterations), round(LATER * budget.iterations))
    return tuple(
        WorkUnit(
            f"c{number}r{restart}" if parts == 1 else f"p{part}c{number}r{restart}",
            group,
            restart,
            # the same for all parts: the next one goes on with the same code
            recipe.common.seed + 1000 * number + restart,
            later if part else budget.iterations,
            part,
            warm=part > 0,
            first=f"c{number}r0" if parts == 1 else f"p{part}c{number}r0",
        )
        for number, group in enumerate(groups)
        for restart in range(budget.restarts)
        for part in range(parts)
    )
