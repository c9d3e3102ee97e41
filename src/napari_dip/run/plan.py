"""Preflight: from a recipe and a header to a plan, or to a sentence that says no."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, refusal
from napari_dip.run.costs import (
    Budget,
    Costs,
    channel_count,
    estimate_costs,
    estimate_fit,
    estimate_planes,
    scales_within,
)
from napari_dip.run.gate import check_headers
from napari_dip.run.machine import Machine, threads_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.io import ImageSpec
    from napari_dip.run.recipe import Recipe

#: Notes on a plan.
SMALL = "The image is small, so the network has {most} scales instead of {usual}."
CARD_UNKNOWN = "Whether the graphics card has that much memory free could not be checked."


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
    """

    id: str
    channels: tuple[int, ...]
    restart: int
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, how, and what it will cost.

    Attributes
    ----------
    recipe, source
        The wish and the header it was made for.
    others : mapping of str to ImageSpec
        Headers of the task's further inputs.
    units : tuple of WorkUnit
        In the order they run.
    device : str
        "cpu", "cuda" or "mps".
    threads : int
        CPU threads; part of what fixes the pixels.
    budget : Budget
    peak_bytes : int
        Estimate of the memory needed beyond what the program itself takes.
    costs : Costs
    notes : tuple of str
        One sentence each, shown to the user.
    """

    recipe: Recipe
    source: ImageSpec
    units: tuple[WorkUnit, ...]
    device: str
    threads: int
    budget: Budget
    peak_bytes: int
    costs: Costs
    notes: tuple[str, ...] = ()
    others: Mapping[str, ImageSpec] = field(default_factory=dict)

    @property
    def factors(self) -> tuple[int, int]:
        """How many times finer than the image the result is, along Y and X."""
        return self.recipe.task.factors(self.source)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the image's axes."""
        finer = dict(zip("YX", self.factors, strict=True))
        return tuple(
            count * finer.get(axis, 1)
            for axis, count in zip(self.source.axes, self.source.shape, strict=True)
        )

    @property
    def seconds(self) -> float:
        """Most that the run is expected to take, no fit stopping early; at most the time limit."""
        whole = self.costs.fit + self.costs.longest_look
        limit = self.recipe.common.time_limit
        return whole if limit is None else min(whole, limit)

    @property
    def fit_share(self) -> float:
        """Share of the time that iterations mostly take; the last looks take the rest."""
        return self.costs.fit / (self.costs.fit + self.costs.usual_look)

    @property
    def line(self) -> str:
        """One line for the user: size, device, memory, expected time."""
        height, width = self.source.grid
        threads = f" ({self.threads} threads)" if self.threads > 1 else ""
        device = {
            "cpu": f"processor{threads}",
            "cuda": "NVIDIA graphics card",
            "mps": "Apple graphics",
        }[self.device]
        fits = f", {len(self.units)} fits" if len(self.units) > 1 else ""
        time, memory = duration(self.seconds), size(self.peak_bytes)
        return f"{width} × {height} pixels{fits} on the {device}: up to {time}, {memory} of memory."


def preflight(
    recipe: Recipe,
    source: ImageSpec,
    machine: Machine,
    others: Mapping[str, ImageSpec] | None = None,
) -> Plan | Refusal:
    """Say yes with a plan or no with a reason, from the headers alone.

    Parameters
    ----------
    recipe : Recipe
    source : ImageSpec
    machine : Machine
    others : mapping of str to ImageSpec, optional
        Headers of the task's further inputs, by name.

    Returns
    -------
    Plan or Refusal
        Pure: the same arguments give the same answer; nothing is read or loaded.
    """
    others = dict(others or {})
    if no := check_headers(recipe.task, source, others):
        return no
    device = _device(recipe.common.device, machine)
    if isinstance(device, Refusal):
        return device
    budget, notes = choose_budget(recipe, source)
    units = _units(recipe, source, budget)
    channels = len(units[0].channels)
    grid = recipe.task.network_grid(source, others)
    height, width = grid
    planes = estimate_planes(grid, channel_count(source))
    peak = planes + estimate_fit(grid, channels, budget)
    here = peak
    if device == "cuda":  # nothing tells how much a card has free without loading torch
        notes += (CARD_UNKNOWN,)
        here = planes
    if here > machine.memory_bytes:
        have = size(machine.memory_bytes, floor)
        return refusal("image-large", name=source.name, need=size(here), have=have)
    threads = threads_for(machine.cores, height * width)
    costs = estimate_costs(grid, len(units), device, threads, budget)
    return Plan(recipe, source, units, device, threads, budget, peak, costs, notes, others)


def choose_budget(recipe: Recipe, source: ImageSpec) -> tuple[Budget, tuple[str, ...]]:
    """Look up what the recipe's preset spends, with the user's own limits put in.

    Parameters
    ----------
    recipe : Recipe
    source : ImageSpec
        Small images get networks of fewer scales than the preset has.

    Returns
    -------
    Budget
    notes : tuple of str
        What differs from the preset, in words.
    """
    task, common = recipe.task, recipe.common
    prior = task.first_choice()
    row = _presets(task.name)[prior][common.preset]
    most, widths = scales_within(min(source.grid)), tuple(row["widths"])
    notes = (SMALL.format(most=most, usual=len(widths)),) if most < len(widths) else ()
    budget = Budget(
        prior=prior,
        iterations=common.max_iterations or row["iterations"],
        restarts=common.restarts or row["restarts"],
        widths=widths[:most],
        learning_rate=row["learning_rate"],
        window=row["window"],
        release=row.get("release", 0),
    )
    return budget, notes


def size(count: float, whole: Callable[[float], int] = ceil) -> str:
    """Bytes in words, rounded up: most are bounds; `whole=floor` for what is there to be used."""
    megabytes = max(1, whole(count / 1e6))
    return f"{megabytes} MB" if megabytes < 1000 else f"{whole(count / 1e8) / 10:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds in words, always rounded up: most are upper bounds."""
    if seconds <= 90:
        return f"{max(1, ceil(seconds))} s"
    return f"{ceil(seconds / 60)} min" if seconds <= 5400 else f"{ceil(seconds / 360) / 10:.1f} h"


@cache
def _presets(task: str) -> dict[str, Any]:
    text = (
        resources.files("napari_dip.run")
        .joinpath("presets", f"{task}.json")
        .read_text(encoding="utf-8")
    )
    return dict(json.loads(text))


def _device(wish: str, machine: Machine) -> str | Refusal:
    if wish == "auto":
        return machine.devices[0]
    if wish not in machine.devices:
        why = machine.missing or "this computer has none"
        return refusal("device-missing", device=wish, why=why)
    return wish


def _units(recipe: Recipe, source: ImageSpec, budget: Budget) -> tuple[WorkUnit, ...]:
    count = channel_count(source)
    groups = (
        [tuple(range(count))]
        if recipe.task.together(source)
        else [(index,) for index in range(count)]
    )
    return tuple(
        WorkUnit(
            f"c{number}r{restart}", group, restart, recipe.common.seed + 1000 * number + restart
        )
        for number, group in enumerate(groups)
        for restart in range(budget.restarts)
    )
