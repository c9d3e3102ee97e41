"""Preflight: from a recipe and a header to a plan, or to a sentence that says no."""

from __future__ import annotations

from dataclasses import replace
from math import floor, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.machine import Machine, choose_thread_count, format_bytes
from napari_dip.pipeline.plan.costs import (
    BUDGET_NOTES,
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
from napari_dip.pipeline.plan.tiling import (
    choose_tiles,
    compute_fit_grid,
    estimate_memory,
    tile_notes,
)
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.plan.units import make_units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.types import Tile
    from napari_dip.pipeline.recipe import Recipe


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
    device = _choose_device(recipe.run_settings.device, machine)
    if isinstance(device, Refusal):
        return device
    layout, text = choose_layout(recipe, source, others, machine)
    if no := recipe.task.check_axes(source, others, layout.grid):
        return no
    budget, notes = choose_budget(recipe, source, volume=layout.is_volume)
    read = (note for other in (source, *others.values()) for note in other.notes)
    notes = (*read, *notes, *text, *recipe.task.remarks(source, others))
    prepared = recipe, source, others, layout, budget
    whole, peak = estimate_memory(*prepared, half=machine.half)
    # nothing tells how much a card has free without loading torch
    here = whole if device == "cuda" else peak
    cut: tuple[int, tuple[Tile, ...]] = (0, ())
    if recipe.run_settings.tile or here > machine.memory_bytes:
        chosen = choose_tiles(*prepared, machine)
        if isinstance(chosen, Refusal):
            return chosen
        cut = chosen
    side, tiles = cut
    if here > machine.memory_bytes and not tiles:
        return _make_memory_refusal(recipe, source, others, layout, here, machine)
    if device == "cuda":
        notes += (make_note("card-memory-unknown"),)
    notes += tile_notes(side, tiles)
    peak = estimate_memory(*prepared, tiles, half=machine.half)[1]
    grid = compute_fit_grid(recipe, source, others, layout, tiles)
    threads = choose_thread_count(machine.cores, prod(grid[-2:]))
    units = make_units(recipe, source, budget, layout, tiles)
    costs = estimate_costs(grid, units, device, threads, budget, half=machine.half)
    return Plan(
        recipe=recipe,
        source=source,
        units=units,
        device=device,
        threads=threads,
        budget=budget,
        peak_bytes=peak,
        costs=costs,
        layout=layout,
        notes=notes,
        extra_inputs=others,
        tiles=tiles,
        has_bfloat16=machine.half,
    )


def _make_memory_refusal(
    recipe: Recipe,
    source: ImageSpec,
    others: Mapping[str, ImageSpec],
    layout: Layout,
    need: int,
    machine: Machine,
) -> Refusal:
    grid = recipe.task.network_grid(source, others, layout.grid)
    code = "image-large" if grid == source.along(layout.grid) else "result-large"
    have = format_bytes(machine.memory_bytes, floor)
    return refusal(code, name=source.name, need=format_bytes(need), have=have)


def choose_layout(
    recipe: Recipe, source: ImageSpec, others: Mapping[str, ImageSpec], machine: Machine
) -> tuple[Layout, tuple[Note, ...]]:
    """Choose between plane by plane and a volume, and say what should be known about it.

    A volume where the user or the task wants one, or where there is depth enough and memory.
    """
    planes, volume = (make_layout(source, volume=deep) for deep in (False, True))
    depth = volume.depth(source)
    if not depth:
        return planes, ()
    notes: tuple[Note, ...] = ()
    if volume.grid[0] == "Z" and source.guessed and depth[0] <= MAX_UNNAMED_CHANNELS:
        notes = (describe_assumed_depth(source),)
    stacks = recipe.run_settings.stacks
    if stacks == "auto":
        stacks = recipe.task.stacked(source, others)
    if depth[0] < recipe.task.least_depth:
        thin = make_note("volume-thin", count=depth[0], least=recipe.task.least_depth)
        return planes, (*notes, thin) if stacks == "volume" else notes
    if stacks == "volume":
        return volume, notes
    if stacks == "planes" or volume.grid[0] != "Z":
        return planes, notes
    grid = recipe.task.network_grid(source, others, volume.grid)
    budget = choose_budget(recipe, source, volume=True)[0]
    channels = count_channels(source)
    need = estimate_fit_memory(grid, channels, budget, half=machine.half)
    need += estimate_image_memory(grid, channels * volume.count(source))
    return (volume if need <= machine.memory_bytes else planes), notes


def replace_prior(plan: Plan, prior: str, why: str) -> Plan:
    """Make the same plan with another prior, and the reason for it."""
    volume = plan.layout.is_volume
    budget, notes = choose_budget(plan.recipe, plan.source, prior, volume=volume)
    kept = (note for note in plan.notes if note.code not in BUDGET_NOTES)
    units = make_units(plan.recipe, plan.source, budget, plan.layout, plan.tiles)
    prepared = plan.recipe, plan.source, plan.extra_inputs, plan.layout
    grid = compute_fit_grid(*prepared, plan.tiles)
    costs = estimate_costs(grid, units, plan.device, plan.threads, budget, half=plan.has_bfloat16)
    return replace(
        plan,
        units=units,
        budget=replace(budget, why=why),
        peak_bytes=estimate_memory(*prepared, budget, plan.tiles, half=plan.has_bfloat16)[1],
        costs=costs,
        notes=tuple(dict.fromkeys((*kept, *notes))),
    )


def _choose_device(choice: str, machine: Machine) -> str | Refusal:
    if choice == "auto":
        return machine.devices[0]
    if choice not in machine.devices:
        why = machine.missing or "this computer has none"
        return refusal("device-missing", device=choice, why=why)
    return choice
