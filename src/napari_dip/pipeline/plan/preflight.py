"""Make the plan of a run from a recipe and headers, or refuse it."""

from __future__ import annotations

from math import floor, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.machine import Machine, choose_thread_count, format_bytes
from napari_dip.pipeline.plan.costs import (
    choose_fit_config,
    count_channels,
    estimate_costs,
    estimate_fit_memory,
    estimate_image_memory,
)
from napari_dip.pipeline.plan.joint_training import reuse_network
from napari_dip.pipeline.plan.layout import (
    MAX_UNNAMED_CHANNELS,
    Layout,
    check_extra_headers,
    check_header,
    describe_assumed_depth,
    make_layout,
    plan_task,
)
from napari_dip.pipeline.plan.tiling import (
    choose_tiles,
    compute_fit_grid,
    estimate_memory,
    list_tile_notes,
)
from napari_dip.pipeline.plan.types import ImagePlan, Plan
from napari_dip.pipeline.plan.units import make_units

if TYPE_CHECKING:
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.io.header import Headers
    from napari_dip.pipeline.plan.tile import Tile
    from napari_dip.pipeline.plan.types import JointNetwork
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import TaskPlan


def preflight(
    recipe: Recipe,
    source: ImageSpec,
    machine: Machine,
    extra_headers: Headers | None = None,
    network: JointNetwork | None = None,
    *,
    stacks: str = "",
) -> Plan | Refusal:
    """Return the plan of a run from headers alone, or the reason why it is refused.

    Parameters
    ----------
    recipe : Recipe
    source : ImageSpec
    machine : Machine
    extra_headers : mapping of str to ImageSpec, optional
        Headers of the task's further inputs, by name.
    network : JointNetwork, optional
        Network that was fitted to other files, to apply to this image. Stacks, movies and images
        in tiles are restored without it, with a note.
    stacks : str
        "planes" or "volume" instead of the setting of the recipe.

    Returns
    -------
    Plan or Refusal
        It depends on the arguments alone; no file is read.
    """
    extra_headers = dict(extra_headers or {})
    task_spec = recipe.task.spec
    refusal = check_header(source, accepts_stacks=task_spec.accepts_stacks)
    if refusal := refusal or check_extra_headers(task_spec, extra_headers):
        return refusal
    planes_plan = plan_task(recipe.task, source, extra_headers, "YX")
    if isinstance(planes_plan, Refusal):
        return planes_plan
    device = _choose_device(recipe.run_settings.device, machine)
    if isinstance(device, Refusal):
        return device
    layout_recipe = recipe.replace_run_settings(stacks=stacks) if stacks else recipe
    chosen_layout = choose_layout(layout_recipe, planes_plan, source, extra_headers, machine)
    if isinstance(chosen_layout, Refusal):
        return chosen_layout
    layout, task_plan, layout_notes = chosen_layout
    fit_config, notes = choose_fit_config(recipe, task_plan, source, is_volume=layout.is_volume)
    read_notes = (note for other in (source, *extra_headers.values()) for note in other.notes)
    notes = (*read_notes, *notes, *layout_notes, *task_plan.notes)
    image_plan = ImagePlan(
        recipe=recipe,
        task_plan=task_plan,
        source=source,
        extra_headers=extra_headers,
        layout=layout,
    )
    image_bytes, peak_bytes = estimate_memory(
        image_plan, fit_config, uses_bfloat16=machine.has_bfloat16
    )
    # without torch the free memory of a GPU is unknown, so the images alone are checked
    needed_bytes = image_bytes if device == "cuda" else peak_bytes
    tiling: tuple[int, tuple[Tile, ...]] | Refusal = (0, ())
    if recipe.run_settings.tile or needed_bytes > machine.memory_bytes:
        tiling = choose_tiles(image_plan, fit_config, machine)
    if isinstance(tiling, Refusal):
        return tiling
    side, tiles = tiling
    if needed_bytes > machine.memory_bytes and not tiles:
        has_input_grid = task_plan.network_grid == source.get_sizes(layout.grid_axes)
        need, have = format_bytes(needed_bytes), format_bytes(machine.memory_bytes, floor)
        code = "image-large" if has_input_grid else "result-large"
        return make_refusal(code, name=source.name, need=need, have=have)
    if device == "cuda":
        notes += (make_note("gpu-memory-unknown"),)
    notes += list_tile_notes(side, tiles)
    peak_bytes = estimate_memory(image_plan, fit_config, tiles, uses_bfloat16=machine.has_bfloat16)[
        1
    ]
    grid = compute_fit_grid(image_plan, tiles)
    threads = choose_thread_count(machine.cores, prod(grid[-2:]))
    units = make_units(image_plan, fit_config, tiles)
    is_single = not tiles and not layout.is_volume and layout.count_items(source) == 1
    reused = reuse_network(network, units, image_plan, fit_config, is_single=is_single)
    if isinstance(reused, Refusal):
        return reused
    network, units, reuse_notes = reused
    notes += reuse_notes
    costs = estimate_costs(
        grid,
        units,
        device,
        threads,
        fit_config,
        blind_spot_shape=task_plan.blind_spot_shape,
        uses_bfloat16=machine.has_bfloat16,
    )
    return Plan(
        recipe=recipe,
        task_plan=task_plan,
        source=source,
        units=units,
        device=device,
        threads=threads,
        fit_config=fit_config,
        peak_bytes=peak_bytes,
        costs=costs,
        layout=layout,
        notes=notes,
        extra_headers=extra_headers,
        tiles=tiles,
        has_bfloat16=machine.has_bfloat16,
        network=network,
    )


def choose_layout(
    recipe: Recipe,
    planes_plan: TaskPlan,
    source: ImageSpec,
    extra_headers: Headers,
    machine: Machine,
) -> tuple[Layout, TaskPlan, tuple[Note, ...]] | Refusal:
    """Choose between plane by plane and a volume.

    A volume is chosen by the user, by the task, or if depth and memory are sufficient.

    Returns
    -------
    (layout, task_plan, notes), or Refusal
        The task's plan is that of the layout. A refusal if the task refuses the layout.
    """
    is_volume, notes = _choose_volume(recipe, planes_plan, source, extra_headers, machine)
    layout, task_plan = make_layout(source, is_volume=is_volume), planes_plan
    if is_volume:
        volume_plan = plan_task(recipe.task, source, extra_headers, layout.grid_axes)
        if isinstance(volume_plan, Refusal):
            return volume_plan
        task_plan = volume_plan
    return task_plan.axes_refusal or (layout, task_plan, notes)


def _choose_volume(
    recipe: Recipe,
    planes_plan: TaskPlan,
    source: ImageSpec,
    extra_headers: Headers,
    machine: Machine,
) -> tuple[bool, tuple[Note, ...]]:
    """Return whether planes are fitted together as a volume, and notes on the Z stack."""
    volume_layout = make_layout(source, is_volume=True)
    depth = volume_layout.get_depth_sizes(source)
    if not depth:
        return False, ()
    notes: tuple[Note, ...] = ()
    if (
        volume_layout.grid_axes[0] == "Z"
        and source.has_guessed_axes
        and depth[0] <= MAX_UNNAMED_CHANNELS
    ):
        notes = (describe_assumed_depth(source),)
    stacks = recipe.run_settings.stacks
    if stacks == "auto":
        stacks = planes_plan.stacks
    if depth[0] < recipe.task.spec.min_depth:
        thin_note = make_note("volume-thin", count=depth[0], least=recipe.task.spec.min_depth)
        return False, (*notes, thin_note) if stacks == "volume" else notes
    if stacks != "auto" or volume_layout.grid_axes[0] != "Z":
        return stacks == "volume", notes
    volume_plan = plan_task(recipe.task, source, extra_headers, volume_layout.grid_axes)
    if isinstance(volume_plan, Refusal):
        return False, notes
    grid = volume_plan.network_grid or source.get_sizes(volume_layout.grid_axes)
    fit_config = choose_fit_config(recipe, volume_plan, source, is_volume=True)[0]
    channels = count_channels(source)
    need = estimate_fit_memory(grid, channels, fit_config, uses_bfloat16=machine.has_bfloat16)
    need += estimate_image_memory(grid, channels * volume_layout.count_items(source))
    return need <= machine.memory_bytes, notes


def _choose_device(choice: str, machine: Machine) -> str | Refusal:
    if choice == "auto":
        return machine.devices[0]
    if choice not in machine.devices:
        why = machine.no_gpu_reason or "this computer has none"
        return make_refusal("device-missing", device=choice, why=why)
    return choice
