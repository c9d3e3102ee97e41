"""Make the plan of a run from a recipe and headers, or refuse it."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from math import floor, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, RefusedError, make_refusal, raise_if_refused, return_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_bytes
from napari_dip.pipeline.machine import Machine, choose_thread_count
from napari_dip.pipeline.plan.costs import (
    choose_fit_config,
    count_channels,
    estimate_fit_memory,
    estimate_image_memory,
)
from napari_dip.pipeline.plan.joint_training import reuse_network
from napari_dip.pipeline.plan.layout import (
    Layout,
    list_other_axes,
    make_layout,
    plan_task,
    refuse_extra_headers,
    refuse_header,
)
from napari_dip.pipeline.plan.tiling import (
    Tiling,
    choose_tiles,
    compute_fit_grid,
    estimate_memory,
    estimate_run,
    list_tile_notes,
)
from napari_dip.pipeline.plan.types import ImagePlan, Plan
from napari_dip.pipeline.plan.units import make_units
from napari_dip.tasks import TASKS
from napari_dip.tasks.noise_models.registry import NOISE_MODELS

if TYPE_CHECKING:
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import FitConfig, JointNetwork
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import TaskPlan

#: Minimum side of an image that is checked by halves, in pixels. In crops of 64, four of five
#: resolutions are within 20 % of that of the whole picture; in crops of 32, half of them.
MIN_REPEATABILITY_SIDE = 64


@return_refusal
def preflight(
    recipe: Recipe,
    header: ImageHeader,
    machine: Machine,
    extra_headers: Headers | None = None,
    network: JointNetwork | None = None,
    *,
    stacks: str = "",
    tiling: Tiling | None = None,
) -> Plan:
    """Return the plan of a run from headers alone, or the reason why it is refused.

    Parameters
    ----------
    recipe : Recipe
    header : ImageHeader
    machine : Machine
    extra_headers : mapping of str to ImageHeader, optional
        Headers of the task's extra inputs, by name.
    network : JointNetwork, optional
        Network that was fitted to other files, to apply to this image. Stacks, movies and images
        in tiles are restored without it, with a note.
    stacks : str
        "planes" or "volume" instead of the setting of the recipe.
    tiling : Tiling, optional
        Tiles instead of those that recipe and memory ask for.

    Returns
    -------
    Plan or Refusal
        It depends on the arguments alone; no file is read.
    """
    extra_headers = dict(extra_headers or {})
    task_spec, run_settings = recipe.task.spec, recipe.run_settings
    raise_if_refused(refuse_header(header, accepts_stacks=task_spec.accepts_stacks))
    raise_if_refused(refuse_extra_headers(task_spec, extra_headers))
    has_repeatability_runs = run_settings.halves or run_settings.null_control
    planes_plan = raise_if_refused(plan_task(recipe.task, header, extra_headers, "YX"))
    device = _choose_device(run_settings.device, machine)
    layout, task_plan, layout_notes = _choose_layout(
        recipe, stacks or run_settings.stacks, planes_plan, header, extra_headers, machine
    )
    fit_config, config_notes = choose_fit_config(
        recipe, task_plan, header, is_volume=layout.is_volume
    )
    image = ImagePlan(
        recipe=recipe,
        task_plan=task_plan,
        header=header,
        extra_headers=extra_headers,
        layout=layout,
    )
    tiling = tiling or _choose_tiles(image, fit_config, device, machine)
    tiles = tiling.tiles if tiling else ()
    if has_repeatability_runs:
        raise_if_refused(_refuse_repeatability_runs(image, tiles))
    units = make_units(image, fit_config, tiles)
    is_single = not tiles and not layout.is_volume and layout.count_items(header) == 1
    network, units, reuse_notes = reuse_network(
        network, units, image, fit_config, is_single=is_single
    )
    fit_pixels = prod(compute_fit_grid(image, tiles))
    threads = choose_thread_count(machine, fit_pixels, run_settings.threads)
    estimate = partial(estimate_run, device=device, threads=threads, cpu=machine)
    peak_bytes, costs = estimate(image, fit_config, units, tiles)
    other_costs = {}
    other_keys = filter(None, (task_plan.fallback_prior_key, *task_plan.other_priors))
    for prior_key in () if network else other_keys:
        other_config, _ = choose_fit_config(
            recipe, task_plan, header, prior_key, is_volume=layout.is_volume
        )
        other_units = make_units(image, other_config, tiles)
        _, other_costs[prior_key] = estimate(image, other_config, other_units, tiles)
    return Plan(
        recipe=recipe,
        task_plan=task_plan,
        header=header,
        units=units,
        device=device,
        threads=threads,
        fit_config=fit_config,
        peak_bytes=peak_bytes,
        costs=costs,
        layout=layout,
        notes=(
            *header.notes,
            *_list_origin_notes(header),
            *_list_extra_notes(extra_headers),
            *config_notes,
            *layout_notes,
            *task_plan.notes,
            *(list_tile_notes(*tiling) if tiling else ()),
            *reuse_notes,
            *([make_note("repeatability-network")] if has_repeatability_runs and network else []),
        ),
        extra_headers=extra_headers,
        tiles=tiles,
        tile_side=tiling.side if tiling else 0,
        has_bfloat16=machine.has_bfloat16,
        thread_flops=machine.thread_flops,
        network=network,
        other_costs=other_costs,
    )


def plan_as_grey(plan: Plan) -> Plan | Refusal:
    """Plan the same run, on the same device and in the same tiles, for one of three equal colours.

    Repeated exposures lose their colours as well.
    """
    machine = Machine(
        cores=plan.threads,
        max_threads=plan.threads,
        memory_bytes=sys.maxsize,  # less is needed than for all colours
        devices=(plan.device,),
        torch_version="",
        has_bfloat16=plan.has_bfloat16,
        thread_flops=plan.thread_flops,
    )
    extra_headers, grey_header = dict(plan.extra_headers), plan.header.drop_colours()
    for task_input in plan.recipe.task.spec.inputs:
        if task_input.is_repeated_exposure and (exposure := extra_headers.get(task_input.name)):
            extra_headers[task_input.name] = replace(  # its axes may be guessed
                exposure, shape=grey_header.shape, axes=grey_header.axes, scale=None, units=None
            )
    stacks = plan.recipe.run_settings.stacks
    if stacks == "auto":
        stacks = "volume" if plan.layout.is_volume else "planes"
    grey_plan = preflight(
        plan.recipe,
        grey_header,
        machine,
        extra_headers,
        plan.network,
        stacks=stacks,
        tiling=Tiling(plan.tile_side, plan.tiles) if plan.tiles else None,
    )
    if isinstance(grey_plan, Refusal):
        return grey_plan
    note = make_note("colours-equal", name=plan.header.name)
    return replace(grey_plan, notes=(*grey_plan.notes, note))


def _list_origin_notes(header: ImageHeader) -> list[Note]:
    """Return a note if the image is a result of this program, not a measurement."""
    if header.tags.made_by not in TASKS:
        return []
    title = TASKS[header.tags.made_by].spec.title
    return [make_note("input-restored", name=header.name, title=title)]


def _list_extra_notes(extra_headers: Headers) -> list[Note]:
    """Return the notes of extra inputs; none of them is restored."""
    notes = [note for header in extra_headers.values() for note in header.notes]
    return [
        replace(note, facts={**note.facts, "restored": False}) if "restored" in note.facts else note
        for note in notes
    ]


def _refuse_repeatability_runs(image_plan: ImagePlan, tiles: tuple[Tile, ...]) -> Refusal | None:
    """Refuse halves and null control of a run that has no measured noise for them, or tiles."""
    task_spec, task_plan = image_plan.recipe.task.spec, image_plan.task_plan
    noise_model = NOISE_MODELS[task_plan.noise_settings.model]
    has_same_grid = prod(task_plan.get_factors(image_plan.header.axes)) == 1
    keeps_noise = task_plan.keeps_measured_pixels
    if keeps_noise or not (task_spec.explains_pixels and has_same_grid):
        return make_refusal("repeatability-task", task=task_spec.title, keeps_noise=keeps_noise)
    if not noise_model.allows_added_noise:
        return make_refusal("repeatability-noise", noise=noise_model.label.lower())
    name, grid = image_plan.header.name, image_plan.header.grid
    if tiles:
        return make_refusal("repeatability-tiles", name=name)
    if min(grid) < MIN_REPEATABILITY_SIDE:
        facts = {"height": grid[0], "width": grid[1], "least": MIN_REPEATABILITY_SIDE}
        return make_refusal("repeatability-small", name=name, **facts)
    return None


def _choose_tiles(
    image_plan: ImagePlan, fit_config: FitConfig, device: str, machine: Machine
) -> Tiling | None:
    """Return the tiles of an image, or None; refuse an image that memory cannot hold."""
    image_bytes, peak_bytes = estimate_memory(
        image_plan, fit_config, uses_bfloat16=machine.has_bfloat16
    )
    # without torch the free memory of a GPU is unknown, so the images alone are checked
    needed_bytes = image_bytes if device == "cuda" else peak_bytes
    exceeds_memory = needed_bytes > machine.memory_bytes
    if not exceeds_memory and not image_plan.recipe.run_settings.tile:
        return None
    tiling = choose_tiles(image_plan, fit_config, machine)
    if exceeds_memory and tiling is None:
        input_grid = image_plan.header.get_sizes(image_plan.layout.grid_axes)
        code = "image-large" if image_plan.task_plan.network_grid == input_grid else "result-large"
        need, have = format_bytes(needed_bytes), format_bytes(machine.memory_bytes, floor)
        raise RefusedError(code, name=image_plan.header.name, need=need, have=have)
    return tiling


def _choose_layout(
    recipe: Recipe,
    stacks: str,
    planes_plan: TaskPlan,
    header: ImageHeader,
    extra_headers: Headers,
    machine: Machine,
) -> tuple[Layout, TaskPlan, tuple[Note, ...]]:
    """Return the layout, plane by plane or a volume, with the task's plan for it and notes.

    A volume is chosen by the user, by the task, or if depth and memory are sufficient.
    """
    is_volume, notes = _choose_volume(recipe, stacks, planes_plan, header, extra_headers, machine)
    layout, task_plan = make_layout(header, is_volume=is_volume), planes_plan
    if is_volume:
        task_plan = raise_if_refused(
            plan_task(recipe.task, header, extra_headers, layout.grid_axes)
        )
    raise_if_refused(task_plan.axes_refusal)
    return layout, task_plan, notes


def _choose_volume(
    recipe: Recipe,
    stacks: str,
    planes_plan: TaskPlan,
    header: ImageHeader,
    extra_headers: Headers,
    machine: Machine,
) -> tuple[bool, tuple[Note, ...]]:
    """Return whether planes are fitted together as a volume, and notes on the Z stack."""
    volume_layout = make_layout(header, is_volume=True)
    depth = header.get_sizes(volume_layout.grid_axes[:-2])
    if not depth:
        return False, ()
    notes: tuple[Note, ...] = ()
    if volume_layout.grid_axes[0] == "Z" and header.has_guessed_axes:
        others = list_other_axes(header)
        notes = (make_note("depth-assumed", count=depth[0], others=others),)
    if stacks == "auto":
        stacks = planes_plan.stacks
    if depth[0] < recipe.task.spec.min_depth:
        thin_note = make_note("volume-thin", count=depth[0], least=recipe.task.spec.min_depth)
        return False, (*notes, thin_note) if stacks == "volume" else notes
    if stacks != "auto" or volume_layout.grid_axes[0] != "Z":
        return stacks == "volume", notes
    volume_plan = plan_task(recipe.task, header, extra_headers, volume_layout.grid_axes)
    if isinstance(volume_plan, Refusal):
        return False, notes
    grid = volume_plan.network_grid or header.get_sizes(volume_layout.grid_axes)
    fit_config = choose_fit_config(recipe, volume_plan, header, is_volume=True)[0]
    channels = count_channels(header)
    need = estimate_fit_memory(grid, channels, fit_config, uses_bfloat16=machine.has_bfloat16)
    need += estimate_image_memory(grid, channels * volume_layout.count_items(header))
    return need <= machine.memory_bytes, notes


def _choose_device(choice: str, machine: Machine) -> str:
    if choice == "auto":
        return machine.devices[0]
    if choice not in machine.devices:
        why = machine.no_gpu_reason or "this computer has none"
        raise RefusedError("device-missing", device=choice, why=why)
    return choice
