"""What a preset spends on a fit, with the user's own limits put in."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from napari_dip.run.costs import Budget, scales_within

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec
    from napari_dip.run.recipe import Recipe

#: A note on a plan.
SMALL = "The image is small, so the network has {most} scales instead of {usual}."
#: One part in so many of the user's own limit of iterations goes to the last phase, at most.
LAST_PART = 8


def choose_budget(
    recipe: Recipe, source: ImageSpec, prior: str | None = None, *, volume: bool = False
) -> tuple[Budget, tuple[str, ...]]:
    """Look up what the recipe's preset spends, with the user's own limits put in.

    Parameters
    ----------
    recipe : Recipe
    source : ImageSpec
        Small images get networks of fewer scales than the preset has.
    prior : str, optional
        Another one than the task's first choice.
    volume : bool
        Whether planes are fitted together; a preset may have a leaner network for that.

    Returns
    -------
    Budget
    notes : tuple of str
        What differs from the preset, in words.
    """
    task, common = recipe.task, recipe.common
    prior = prior or task.first_choice(source, volume=volume)
    row = _presets(task.name)[prior][common.preset]
    row = {**row, **row.get("volume", {})} if volume else row
    most, widths = scales_within(min(source.grid)), task.widths(prior, tuple(row["widths"]))
    notes = (SMALL.format(most=most, usual=len(widths)),) if most < len(widths) else ()
    release = row.get("release", 0)
    iterations = row["iterations"]
    if common.max_iterations:  # the last phase counts, too
        release = min(release, common.max_iterations // LAST_PART)
        iterations = common.max_iterations - release
    budget = Budget(
        prior=prior,
        iterations=iterations,
        restarts=common.restarts or row["restarts"],
        widths=widths[:most],
        learning_rate=row["learning_rate"],
        window=row["window"],
        release=release,
        rivals=tuple(one for one in task.contenders() if one != prior),
        joint=min(row.get("joint", 0), iterations),
        operator_rate=row.get("operator_rate", 0.0),
        half=row.get("half", False) and not volume,
    )
    return budget, notes


@cache
def _presets(task: str) -> dict[str, Any]:
    folder = resources.files("napari_dip.run").joinpath("presets")
    path = folder.joinpath(f"{task}.json")
    if not path.is_file():  # a new task spends what the paper's prior mostly takes
        path = folder.joinpath("noise-code.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))
