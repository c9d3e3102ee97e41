"""Make the plan of a run from a recipe and headers, or refuse it."""

from __future__ import annotations

from dataclasses import replace
from math import floor, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, make_refusal
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
    check_all_headers,
    describe_assumed_depth,
    make_layout,
)
from napari_dip.pipeline.plan.tiling import (
    choose_tiles,
    compute_fit_grid,
    estimate_memory,
    list_tile_notes,
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
    extra_headers: Mapping[str, ImageSpec] | None = None,
) -> Plan | Refusal:
    """Return the plan of a run from headers alone, or the reason why it is refused.

    Parameters
    ----------
    recipe : Recipe
    source : ImageSpec
    machine : Machine
    extra_headers : mapping of str to ImageSpec, optional
        Headers of the task's further inputs, by name.

    Returns
    -------
    Plan or Refusal
        It depends on the arguments alone; no file is read.
    """
    extra_headers = dict(extra_headers or {})
    if fault := check_all_headers(recipe.task, source, extra_headers):
        return fault
    device = _choose_device(recipe.run_settings.device, machine)
    if isinstance(device, Refusal):
        return device
    layout, layout_notes = choose_layout(recipe, source, extra_headers, machine)
    if fault := recipe.task.check_axes(source, extra_headers, layout.grid):
        return fault
    budget, notes = choose_budget(recipe, source, volume=layout.is_volume)
    read_notes = (note for other in (source, *extra_headers.values()) for note in other.notes)
    notes = (
        *read_notes,
        *notes,
        *layout_notes,
        *recipe.task.list_header_notes(source, extra_headers),
    )
    prepared = recipe, source, extra_headers, layout, budget
    image_bytes, peak_bytes = estimate_memory(*prepared, uses_half_precision=machine.half)
    # without torch the free memory of a GPU is unknown, so the images alone are checked
    needed_bytes = image_bytes if device == "cuda" else peak_bytes
    tiling: tuple[int, tuple[Tile, ...]] = (0, ())
    if recipe.run_settings.tile or needed_bytes > machine.memory_bytes:
        chosen = choose_tiles(*prepared, machine)
        if isinstance(chosen, Refusal):
            return chosen
        tiling = chosen
    side, tiles = tiling
    if needed_bytes > machine.memory_bytes and not tiles:
        return _make_memory_refusal(recipe, source, extra_headers, layout, needed_bytes, machine)
    if device == "cuda":
        notes += (make_note("card-memory-unknown"),)
    notes += list_tile_notes(side, tiles)
    peak_bytes = estimate_memory(*prepared, tiles, uses_half_precision=machine.half)[1]
    grid = compute_fit_grid(recipe, source, extra_headers, layout, tiles)
    threads = choose_thread_count(machine.cores, prod(grid[-2:]))
    units = make_units(recipe, source, budget, layout, tiles)
    costs = estimate_costs(grid, units, device, threads, budget, uses_half_precision=machine.half)
    return Plan(
        recipe=recipe,
        source=source,
        units=units,
        device=device,
        threads=threads,
        budget=budget,
        peak_bytes=peak_bytes,
        costs=costs,
        layout=layout,
        notes=notes,
        extra_inputs=extra_headers,
        tiles=tiles,
        has_bfloat16=machine.half,
    )


def _make_memory_refusal(
    recipe: Recipe,
    source: ImageSpec,
    extra_headers: Mapping[str, ImageSpec],
    layout: Layout,
    need: int,
    machine: Machine,
) -> Refusal:
    grid = recipe.task.compute_network_grid(source, extra_headers, layout.grid)
    code = "image-large" if grid == source.get_sizes(layout.grid) else "result-large"
    have = format_bytes(machine.memory_bytes, floor)
    return make_refusal(code, name=source.name, need=format_bytes(need), have=have)


def choose_layout(
    recipe: Recipe, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], machine: Machine
) -> tuple[Layout, tuple[Note, ...]]:
    """Choose between plane by plane and a volume; return the layout and notes on it.

    A volume is chosen by the user, by the task, or if depth and memory are sufficient.
    """
    planes, volume = (make_layout(source, volume=deep) for deep in (False, True))
    depth = volume.depth(source)
    if not depth:
        return planes, ()
    notes: tuple[Note, ...] = ()
    if volume.grid[0] == "Z" and source.has_guessed_axes and depth[0] <= MAX_UNNAMED_CHANNELS:
        notes = (describe_assumed_depth(source),)
    stacks = recipe.run_settings.stacks
    if stacks == "auto":
        stacks = recipe.task.choose_stack_mode(source, extra_headers)
    if depth[0] < recipe.task.min_depth:
        thin_note = make_note("volume-thin", count=depth[0], least=recipe.task.min_depth)
        return planes, (*notes, thin_note) if stacks == "volume" else notes
    if stacks == "volume":
        return volume, notes
    if stacks == "planes" or volume.grid[0] != "Z":
        return planes, notes
    grid = recipe.task.compute_network_grid(source, extra_headers, volume.grid)
    budget = choose_budget(recipe, source, volume=True)[0]
    channels = count_channels(source)
    need = estimate_fit_memory(grid, channels, budget, uses_half_precision=machine.half)
    need += estimate_image_memory(grid, channels * volume.count(source))
    return (volume if need <= machine.memory_bytes else planes), notes


def replace_prior(plan: Plan, prior: str, why: str) -> Plan:
    """Return the plan with another prior, and with the reason for it."""
    volume = plan.layout.is_volume
    budget, notes = choose_budget(plan.recipe, plan.source, prior, volume=volume)
    kept_notes = (note for note in plan.notes if note.code not in BUDGET_NOTES)
    units = make_units(plan.recipe, plan.source, budget, plan.layout, plan.tiles)
    prepared = plan.recipe, plan.source, plan.extra_inputs, plan.layout
    grid = compute_fit_grid(*prepared, plan.tiles)
    costs = estimate_costs(
        grid, units, plan.device, plan.threads, budget, uses_half_precision=plan.has_bfloat16
    )
    return replace(
        plan,
        units=units,
        budget=replace(budget, prior_reason=why),
        peak_bytes=estimate_memory(
            *prepared, budget, plan.tiles, uses_half_precision=plan.has_bfloat16
        )[1],
        costs=costs,
        notes=tuple(dict.fromkeys((*kept_notes, *notes))),
    )


def _choose_device(choice: str, machine: Machine) -> str | Refusal:
    if choice == "auto":
        return machine.devices[0]
    if choice not in machine.devices:
        why = machine.missing or "this computer has none"
        return make_refusal("device-missing", device=choice, why=why)
    return choice
