"""Preflight: from a recipe and a header to a plan, or to a sentence that says no."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, floor, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.run.budgets import choose_budget
from napari_dip.run.costs import (
    Budget,
    Costs,
    channel_count,
    estimate_costs,
    estimate_fit,
    estimate_planes,
)
from napari_dip.run.gate import MOST_CHANNELS, check_headers, depth_words
from napari_dip.run.layout import PART_NAMES, Layout, layout_of
from napari_dip.run.machine import Machine, threads_for
from napari_dip.run.tiling import choose_tiles, grid_of, memory_of, tile_note
from napari_dip.run.units import WorkUnit, units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.io import ImageSpec
    from napari_dip.run.recipe import Recipe
    from napari_dip.run.shared_network import SharedNetwork
    from napari_dip.run.tiles import Tile

#: Notes on a plan.
THIN = "{count} planes are too few for a volume, which takes {least}: they are restored one by one."
CARD_UNKNOWN = "Whether the graphics card has that much memory free could not be checked."


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
    layout : Layout
        How the image's axes are shared out.
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
    tiles : tuple of Tile
        That the picture plane is restored in, one after another; empty: all of it at once.
    half : bool
        Whether the processor is made for half precision, which the estimate of the time needs.
    network : SharedNetwork or None
        That was fitted to other files, and that this one is shown.
    """

    recipe: Recipe
    source: ImageSpec
    units: tuple[WorkUnit, ...]
    device: str
    threads: int
    budget: Budget
    peak_bytes: int
    costs: Costs
    layout: Layout
    notes: tuple[str, ...] = ()
    others: Mapping[str, ImageSpec] = field(default_factory=dict)
    tiles: tuple[Tile, ...] = ()
    half: bool = False
    network: SharedNetwork | None = None

    @property
    def factors(self) -> tuple[int, ...]:
        """How many times finer than the image the result is, along each of the image's axes."""
        return self.recipe.task.factors(self.source.axes)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the image's axes."""
        return tuple(
            count * finer for count, finer in zip(self.source.shape, self.factors, strict=True)
        )

    @property
    def result_scale(self) -> tuple[float, ...] | None:
        """Size of a pixel of the result along each of the image's axes; None if not known."""
        if self.source.scale is None:
            return None
        return tuple(
            size / finer for size, finer in zip(self.source.scale, self.factors, strict=True)
        )

    @property
    def seconds(self) -> float:
        """Most that the run is expected to take, no fit stopping early; at most the time limit."""
        whole = self.costs.fit + self.costs.longest_look + self.costs.ending
        limit = self.recipe.common.time_limit
        return whole if limit is None else min(whole, limit)

    @property
    def fit_share(self) -> float:
        """Share of the time that iterations mostly take; looks and the filter take the rest.

        Where there are no looks, nothing is told after the last iteration, so that is the end.
        """
        if not self.costs.usual_look:
            return 1.0
        return self.costs.fit / (self.costs.fit + self.costs.usual_look + self.costs.ending)

    @property
    def called(self) -> str:
        """Name what the fits are to the user, where each of them is one such thing."""
        fits = [unit for unit in self.units if unit.pictured]
        if self.tiles:  # of which a share may be restored here
            return "tile" if len(fits) == len({unit.tile for unit in fits}) else "part"
        alone = len(fits) == self.layout.count(self.source)
        return PART_NAMES.get(self.layout.along(self.source), "part") if alone else "part"

    @property
    def where(self) -> str:
        """Size of the work and what does it, for the user."""
        height, width = self.source.grid
        threads = f" ({self.threads} threads)" if self.threads > 1 else ""
        device = {
            "cpu": f"processor{threads}",
            "cuda": "NVIDIA graphics card",
            "mps": "Apple graphics",
        }[self.device]
        count = len(self.units)
        each = {unit.channels for unit in self.units if len(unit.channels) == 1}
        called = "channel" if len(each) == count else self.called
        plain = called != "part" and all(unit.pictured for unit in self.units)
        words = f", {count} {called}s one after another" if plain else f", {count} fits"
        fits = words if count > 1 else ""
        depth = "".join(f" × {count}" for count in self.layout.depth(self.source))
        return f"{width} × {height}{depth} pixels{fits} on the {device}"

    @property
    def line(self) -> str:
        """One line for the user: size, device, memory, expected time."""
        return f"{self.where}: up to {duration(self.seconds)}, {size(self.peak_bytes)} of memory."


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
    layout, words = choose_layout(recipe, source, others, machine)
    if no := recipe.task.check_axes(source, others, layout.grid):
        return no
    budget, notes = choose_budget(recipe, source, volume=layout.volume)
    read = (note for one in (source, *others.values()) for note in one.notes)
    notes = (*read, *notes, *words, *recipe.task.remarks(source, others))
    ready = recipe, source, others, layout, budget
    whole, peak = memory_of(*ready, half=machine.half)
    # nothing tells how much a card has free without loading torch
    here = whole if device == "cuda" else peak
    cut: tuple[int, tuple[Tile, ...]] = (0, ())
    if recipe.common.tile or here > machine.memory_bytes:
        chosen = choose_tiles(*ready, machine)
        if isinstance(chosen, Refusal):
            return chosen
        cut = chosen
    side, tiles = cut
    if here > machine.memory_bytes and not tiles:
        return _too_large(recipe, source, others, layout, here, machine)
    notes += (CARD_UNKNOWN,) * (device == "cuda") + tile_note(side, tiles)
    peak = memory_of(*ready, tiles, half=machine.half)[1]
    grid = grid_of(recipe, source, others, layout, tiles)
    threads = threads_for(machine.cores, prod(grid[-2:]))
    units = units_of(recipe, source, budget, layout, tiles)
    costs = estimate_costs(grid, units, device, threads, budget, half=machine.half)
    made = recipe, source, units, device, threads, budget, peak, costs, layout, notes
    return Plan(*made, others, tiles, machine.half)


def _too_large(
    recipe: Recipe,
    source: ImageSpec,
    others: Mapping[str, ImageSpec],
    layout: Layout,
    need: int,
    machine: Machine,
) -> Refusal:
    grid = recipe.task.network_grid(source, others, layout.grid)
    code = "image-large" if grid == source.along(layout.grid) else "result-large"
    have = size(machine.memory_bytes, floor)
    return refusal(code, name=source.name, need=size(need), have=have)


def choose_layout(
    recipe: Recipe, source: ImageSpec, others: Mapping[str, ImageSpec], machine: Machine
) -> tuple[Layout, tuple[str, ...]]:
    """Choose between plane by plane and a volume, and say what should be known about it.

    A volume where the user or the task wants one, or where there is depth enough and memory.
    """
    planes, volume = (layout_of(source, volume=deep) for deep in (False, True))
    depth = volume.depth(source)
    if not depth:
        return planes, ()
    notes: tuple[str, ...] = ()
    if volume.grid[0] == "Z" and source.guessed and depth[0] <= MOST_CHANNELS:
        notes = (depth_words(source),)
    wish = recipe.common.stacks
    if wish == "auto":
        wish = recipe.task.stacked(source, others)
    if depth[0] < recipe.task.least_depth:
        thin = THIN.format(count=depth[0], least=recipe.task.least_depth)
        return planes, (*notes, thin) if wish == "volume" else notes
    if wish == "volume":
        return volume, notes
    if wish == "planes" or volume.grid[0] != "Z":
        return planes, notes
    grid = recipe.task.network_grid(source, others, volume.grid)
    budget = choose_budget(recipe, source, volume=True)[0]
    channels = channel_count(source)
    need = estimate_fit(grid, channels, budget, half=machine.half)
    need += estimate_planes(grid, channels * volume.count(source))
    return (volume if need <= machine.memory_bytes else planes), notes


def with_prior(plan: Plan, prior: str, why: str) -> Plan:
    """Make the same plan with another prior, and the reason for it."""
    volume = plan.layout.volume
    budget, notes = choose_budget(plan.recipe, plan.source, prior, volume=volume)
    gone = choose_budget(plan.recipe, plan.source, plan.budget.prior, volume=volume)[1]
    units = units_of(plan.recipe, plan.source, budget, plan.layout, plan.tiles)
    ready = plan.recipe, plan.source, plan.others, plan.layout
    grid = grid_of(*ready, plan.tiles)
    costs = estimate_costs(grid, units, plan.device, plan.threads, budget, half=plan.half)
    return replace(
        plan,
        units=units,
        budget=replace(budget, why=why),
        peak_bytes=memory_of(*ready, budget, plan.tiles, half=plan.half)[1],
        costs=costs,
        notes=tuple(dict.fromkeys((*(one for one in plan.notes if one not in gone), *notes))),
    )


def size(count: float, whole: Callable[[float], int] = ceil) -> str:
    """Bytes in words, rounded up: most are bounds; `whole=floor` for what is there to be used."""
    megabytes = max(1, whole(count / 1e6))
    return f"{megabytes} MB" if megabytes < 1000 else f"{whole(count / 1e8) / 10:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds in words, always rounded up: most are upper bounds."""
    if seconds <= 90:
        return f"{max(1, ceil(seconds))} s"
    return f"{ceil(seconds / 60)} min" if seconds <= 5400 else f"{ceil(seconds / 360) / 10:.1f} h"


def _device(wish: str, machine: Machine) -> str | Refusal:
    if wish == "auto":
        return machine.devices[0]
    if wish not in machine.devices:
        why = machine.missing or "this computer has none"
        return refusal("device-missing", device=wish, why=why)
    return wish
