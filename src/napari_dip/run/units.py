"""The fits that a run is made of: parts, groups of channels, repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.run.costs import channel_count

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec
    from napari_dip.run.costs import Budget
    from napari_dip.run.layout import Layout
    from napari_dip.run.recipe import Recipe

#: Share of the iterations that a plane takes which begins with what the one before has learned,
#: and the fewest of them: with its last look such a plane takes less than a fifth of the time.
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
    before, after : int or None
        Which part is its neighbour: the same one frame earlier or later, or in a stack that is no
        movie the next plane; None: there is none.
    timely : bool
        Whether these are neighbours in time.
    """

    id: str
    channels: tuple[int, ...]
    restart: int
    seed: int
    iterations: int
    part: int = 0
    warm: bool = False
    first: str = ""
    before: int | None = None
    after: int | None = None
    timely: bool = False

    @property
    def beside(self) -> tuple[int, ...]:
        """Give the neighbours, as far as there are any."""
        return tuple(one for one in (self.before, self.after) if one is not None)


def units_of(
    recipe: Recipe, source: ImageSpec, budget: Budget, layout: Layout
) -> tuple[WorkUnit, ...]:
    """List the fits: for each group of channels and each restart a chain through the parts."""
    parts, stride = layout.count(source), layout.stride(source)
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
            before=part - stride if stride and part >= stride else None,
            after=part + stride if stride and part + stride < parts else None,
            timely=layout.along(source) == "T",
        )
        for number, group in enumerate(groups)
        for restart in range(budget.restarts)
        for part in range(parts)
    )
