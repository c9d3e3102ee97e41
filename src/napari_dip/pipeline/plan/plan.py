"""Preflight: from a recipe and a header to a plan, or to a sentence that says no."""

from __future__ import annotations

from dataclasses import replace
from math import floor, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.pipeline.machine import Machine, size, threads_for
from napari_dip.pipeline.plan.costs import (
    choose_budget,
    count_channels,
    estimate_costs,
    estimate_fit_memory,
    estimate_image_memory,
)
from napari_dip.pipeline.plan.layout import (
    MAX_UNNAMED_CHANNELS,
    Layout,
    check_headers,
    describe_assumed_depth,
    make_layout,
)
from napari_dip.pipeline.plan.tiling import choose_tiles, grid_of, memory_of, tile_note
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.plan.units import units_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.types import Tile
    from napari_dip.pipeline.recipe import Recipe

#: Notes on a plan.
THIN = "{count} planes are too few for a volume, which takes {least}: they are restored one by one."
CARD_UNKNOWN = "Whether the graphics card has that much memory free could not be checked."


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
    planes, volume = (make_layout(source, volume=deep) for deep in (False, True))
    depth = volume.depth(source)
    if not depth:
        return planes, ()
    notes: tuple[str, ...] = ()
    if volume.grid[0] == "Z" and source.guessed and depth[0] <= MAX_UNNAMED_CHANNELS:
        notes = (describe_assumed_depth(source),)
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
    channels = count_channels(source)
    need = estimate_fit_memory(grid, channels, budget, half=machine.half)
    need += estimate_image_memory(grid, channels * volume.count(source))
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


def _device(wish: str, machine: Machine) -> str | Refusal:
    if wish == "auto":
        return machine.devices[0]
    if wish not in machine.devices:
        why = machine.missing or "this computer has none"
        return refusal("device-missing", device=wish, why=why)
    return wish
