"""Choose the configuration of a fit from its preset, and estimate its memory and time."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import pairwise, product
from math import ceil, log2, prod
from typing import TYPE_CHECKING, Any

from napari_dip.engine.constants import count_max_tile_pixels
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.types import CostEstimate, FitConfig
from napari_dip.tasks.priors.image_input import compute_loss_core_width, compute_window_size
from napari_dip.tasks.priors.masked_input import (
    MAX_BATCH_PIXELS,
    Z_STACK_RESIDUAL_BLOCKS,
    compute_stack_window,
)
from napari_dip.tasks.priors.random_input import compute_channel_widths
from napari_dip.tasks.priors.registry import PRIOR_SPECS, SHARED_PRESET_KEYS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.machine import CpuSpeed
    from napari_dip.pipeline.plan.types import WorkUnit
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.base import Task, TaskPlan

#: Iterations of a joint fit, as a multiple of the preset's, unless the preset has its own number of
#: `joint_iterations`, as for R2R: factors 1 and 2.4 reached 31.91 and 32.04 dB on a movie,
#: independent fits 31.89 dB (docs/constants.md).
JOINT_ITERATION_FACTOR = 2.0
#: Possible sides of a blind spot, in pixels.
BLIND_SPOT_SIDES = (1, 3, 5, 7)
#: Floating-point operations per second of a GPU: a low guess, since steps of 256 x 256 pixels reach
#: 4e12 on an H200 (docs/benchmarks/gpu.md).
GPU_FLOPS = 2e12
#: Factor of a CPU's rate for steps in half precision (a step of 256 x 256 pixels took 0.077 s).
HALF_PRECISION_RATE_FACTOR = 1.35
#: Width of a layer of a volume below which it takes no less time on a CPU: plans had 0.35 and 0.55
#: of the time of networks that begin with 8 channels, and 1.03 with 16.
MIN_VOLUME_WIDTH = 16
#: Factor of a CPU's rate for volumes (16 x 96 x 96 voxels: 0.63 s for a step, 0.22 s for a pass).
VOLUME_RATE_FACTOR = 0.7
#: Seconds per operation that normalised layers add: a step takes 0.18 s with AVX-512.
NORMALISATION_OPERATION_SECONDS = 7.2e-12
#: Seconds of a step on a processor that do not depend on the pixels: 6 to 8 ms with blind spots, 8
#: to 13 with R2R, 5 to 7 with a random input (32 x 32 to 256 x 256 pixels, one thread).
STEP_SECONDS = 7e-3
START_SECONDS = 3.0  #: Seconds for loading torch.
MEASURE_SECONDS = 0.1  #: Seconds for measuring the noise, per image.
#: Further seconds for measuring the noise, per pixel.
MEASURE_PIXEL_SECONDS = 1.5e-6
#: Seconds per pixel after a fit: residual and quality checks of one channel (measured 0.3 to
#: 0.5e-6).
ASSESSMENT_PIXEL_SECONDS = 0.4e-6
REFINEMENT_PIXEL_SECONDS = 9.9e-6  #: Refinement of the first channel (docs/constants.md).
REFINEMENT_CHANNEL_SECONDS = 6.8e-6  #: Refinement of each further channel.
#: Time of a refinement of sparse groups, relative to one of all: 0.31 to 0.38 for white noise, 0.25
#: to 0.31 for correlated noise (docs/adr/0038).
SPARSE_REFINEMENT_TIME_FRACTION = 0.38
#: Factor on the operations of a decoder that sums its branches, which spends more of its time on
#: others than multiplications (`benchmarks/speed_plan.py`: 1.27 and 1.18 of the time without it).
SUMMED_OPERATION_FACTOR = 1.15
#: Bytes that a first fit of planes allocates and never frees: intercept of the line of peak memory
#: over pixels.
START_BYTES = 40e6
#: Bytes that are allocated besides where the inference of a plane runs in tiles.
TILED_START_BYTES = 60e6
#: Bytes of each further channel of planes, for its patches.
CHANNEL_START_BYTES = 10e6
#: Bytes that a first fit of volumes allocates and never frees: peak of one with 32 x 32 pixels, and
#: some scratch space.
VOLUME_START_BYTES = 160e6
#: Share of the memory of a step in half precision that is still in use during inference.
RETAINED_HALF_STEP_FRACTION = 0.5
#: Share of the memory of a step in single precision that is still in use during inference.
RETAINED_STEP_FRACTION = 0.8
INPUT_PIXEL_BYTES = 120  #: Bytes per pixel of an input and of what all fits keep.
#: Bytes per pixel of input and output of an inference pass over a whole plane. Further channels of
#: a plane add nothing measurable.
INFERENCE_PIXEL_BYTES = 190
#: Bytes per pixel of input and output of an inference pass over a plane in tiles, and of quality
#: checks, which take as much.
TILED_INFERENCE_PIXEL_BYTES = 95
#: Bytes per pixel of input and output of an inference pass over a volume.
VOLUME_INFERENCE_PIXEL_BYTES = 180
#: Bytes per pixel and channel of NL-Bayes refinement beyond what inference has allocated: 44 at
#: 2,048 pixels a side and three channels, 85 at 1,536, 70 at 4,096 and one channel.
REFINEMENT_PIXEL_BYTES = 65
#: Bytes per pixel and channel of a refinement with neighbouring frames: 305 for three channels in
#: all, 695 for nine.
NEIGHBOUR_PIXEL_BYTES = 80
#: Bytes per pixel of an inference pass whose input holds neighbouring planes, measured on
#: 16 x 128 x 128 and 40 x 256 x 256.
Z_STACK_INFERENCE_PIXEL_BYTES = 265
#: Bytes per voxel of the deconvolution of a volume whose network has no layers at full size.
#: Measured on 160 x 160 x 160 voxels, PSF 61 x 33 x 33: up to 3.7 GB, and 246 s on one core.
ESTIMATE_PIXEL_BYTES = 205
#: Seconds per voxel and thread of the deconvolution of a volume.
ESTIMATE_PIXEL_SECONDS = 18e-6
#: Seconds per voxel and thread of the blur and the penalties of a step.
BLUR_PIXEL_SECONDS = 0.3e-6
#: Codes of the notes that `choose_fit_config` returns.
FIT_CONFIG_NOTES = ("fewer-scales",)
#: The refit gets at most this fraction (1 / divisor) of the user's limit of iterations.
REFIT_DIVISOR = 8
#: Pixels up to which an image is small. With the 20 iterations of larger ones, `instant` loses
#: 0.09 to 0.23 dB with white noise, and up to 5.6 in single crops (docs/adr/0043).
MAX_SMALL_PIXELS = 256 * 256


def count_inference_passes(blind_spot_size: tuple[int, ...], core_size: tuple[int, ...]) -> int:
    """Count the passes of final inference: shifted lattices of blind spots whose cores tile it.

    Parameters
    ----------
    blind_spot_size, core_size : tuple of int
        Sizes of a blind spot, and of its core where the prediction is used, per axis.
    """
    return prod(
        ceil((size + 2) / core) for size, core in zip(blind_spot_size, core_size, strict=True)
    )


def count_blind_spot_passes(blind_spot_size: tuple[int, ...]) -> int:
    """Count the passes of final inference with blind spots of that size."""
    return count_inference_passes(
        blind_spot_size, tuple(compute_loss_core_width(side) for side in blind_spot_size)
    )


def count_final_passes(
    dims: int, blind_spot_shape: tuple[tuple[int, ...], ...] = ()
) -> tuple[int, int]:
    """Count the passes of final inference for white noise, and their maximum for any noise.

    Parameters
    ----------
    dims : int
    blind_spot_shape : tuple of tuple of int
        As `TaskPlan.blind_spot_shape`. A shape with gaps is known before the noise is, and both
        counts are its own.
    """
    leading_axes = (1,) * (dims - 2)
    if not all(map(all, blind_spot_shape)):
        size = (len(blind_spot_shape), len(blind_spot_shape[0]))
        passes = count_inference_passes((*leading_axes, *size), (1,) * dims)
        return passes, passes
    maximum = max(
        count_blind_spot_passes((*leading_axes, *size))
        for size in product(BLIND_SPOT_SIDES, repeat=2)
    )
    return count_blind_spot_passes((*leading_axes, 1, 1)), maximum


def compute_batch_pixels(grid: tuple[int, ...], fit_config: FitConfig) -> int:
    """Count the pixels that one batch of an inference pass takes.

    Parameters
    ----------
    grid : tuple of int
        Size of the network's output.
    fit_config : FitConfig
    """
    pixel_count, traits = prod(grid), PRIOR_SPECS[fit_config.prior_key].network_traits
    if len(grid) > 2 and traits.is_planewise:
        return min(pixel_count, max(MAX_BATCH_PIXELS, prod(grid[-2:])))
    if len(grid) == 2 and traits.is_local:
        return count_max_tile_pixels(
            pixel_count, len(fit_config.widths), sums_branches=traits.sums_branches
        )
    return pixel_count


def count_channels(header: ImageHeader) -> int:
    """Return the number of channels or colour samples."""
    return header.get_size("C") * header.get_size("S")  # an image does not have both


def group_channels(task_plan: TaskPlan, header: ImageHeader) -> list[tuple[int, ...]]:
    """Return the groups of channels that are fitted together."""
    count = count_channels(header)
    if task_plan.joint_channels:
        return [tuple(range(count))]
    return [(index,) for index in range(count)]


def count_max_scales(side: int) -> int:
    """Return the maximum number of scales of a network on that many pixels.

    Each scale halves the grid, rounding up. The coarsest scale needs two pixels, since its border
    is padded by reflection.
    """
    return max(1, ceil(log2(side)))


def _count_multiplications(widths: tuple[int, ...], dims: int, *, sums_branches: bool) -> float:
    """Count the multiply-adds per pixel of one pass, with kernels three pixels wide."""
    taps, shrink = 3.0**dims, 0.5**dims
    if not widths[0]:
        return shrink * _count_multiplications(widths[1:], dims, sums_branches=sums_branches)
    finest, coarsest = widths[0], widths[-1]
    if len(widths) == 1:  # a chain of residual blocks with two layers each
        return taps * 2 * Z_STACK_RESIDUAL_BLOCKS * finest**2
    total: float = 2 * finest**2  # second layer of the first scale, and the last
    total += coarsest**2 * shrink ** (len(widths) - 1)
    for scale, (finer, coarser) in enumerate(pairwise(widths)):
        fraction = shrink**scale
        coarser_fraction = fraction * shrink if sums_branches else fraction
        total += finer * finer * fraction + coarser * finer * coarser_fraction
        total += finer * coarser * fraction * shrink
    return taps * total


def estimate_image_memory(grid: tuple[int, ...], plane_count: int) -> int:
    """Estimate the memory of the input and of what all fits keep, in bytes, on any device."""
    return prod(grid) * INPUT_PIXEL_BYTES * plane_count


def estimate_fit_memory(
    grid: tuple[int, ...],
    channel_count: int,
    fit_config: FitConfig,
    *,
    uses_bfloat16: bool,
    neighbours: int = 0,
) -> int:
    """Estimate the memory of one fit in bytes: the maximum of a step, inference and refinement.

    The constants come from the peak resident memory above that of a process with torch and this
    package loaded. Nine sizes from 256 x 256 to 4096 x 4096 pixels were measured, five with three
    channels (`benchmarks/tiles.py`, 3 iterations, one thread); estimates are within 15 %.

    Parameters
    ----------
    grid : tuple of int
        Size of the network's output.
    channel_count : int
        Channels of one fit.
    fit_config : FitConfig
    uses_bfloat16 : bool
        Whether the CPU has bfloat16 instructions.
    neighbours : int
        Neighbouring frames that are filtered together with that of the fit.
    """
    grid_pixels, shrink = prod(grid), 0.5 ** _count_network_dims(grid, fit_config)
    features = sum(width * shrink**scale for scale, width in enumerate(fit_config.widths))
    is_bfloat16 = uses_bfloat16 and _uses_bfloat16(grid, fit_config)
    prior_spec = PRIOR_SPECS[fit_config.prior_key]
    feature_bytes = prior_spec.cost.float32_step_bytes
    if is_bfloat16:
        feature_bytes = prior_spec.cost.bfloat16_step_bytes or feature_bytes
    step_bytes = _count_step_pixels(grid, fit_config) * features * feature_bytes
    batch_pixels = compute_batch_pixels(grid, fit_config)
    base_bytes = START_BYTES + CHANNEL_START_BYTES * (channel_count - 1)
    retained_bytes = 0.0
    if len(grid) == 2:
        retained = RETAINED_HALF_STEP_FRACTION if is_bfloat16 else RETAINED_STEP_FRACTION
        retained_bytes = step_bytes * retained
        is_whole = batch_pixels == grid_pixels
        pixel_bytes = INFERENCE_PIXEL_BYTES if is_whole else TILED_INFERENCE_PIXEL_BYTES
        pixel_bytes += prior_spec.cost.input_pixel_bytes
        base_bytes += 0.0 if is_whole else TILED_START_BYTES
    else:
        pixel_bytes, base_bytes = VOLUME_INFERENCE_PIXEL_BYTES * channel_count, VOLUME_START_BYTES
        if not fit_config.widths[0]:
            pixel_bytes = ESTIMATE_PIXEL_BYTES * channel_count
        if prior_spec.network_traits.is_planewise:
            pixel_bytes = Z_STACK_INFERENCE_PIXEL_BYTES * channel_count
    pass_bytes = batch_pixels * features * prior_spec.cost.inference_feature_bytes
    inference_bytes = pass_bytes + retained_bytes
    fit_bytes = max(step_bytes, inference_bytes) + grid_pixels * pixel_bytes
    if len(grid) == 2 and prior_spec.has_refinement:
        refinement_bytes: float = channel_count * grid_pixels * REFINEMENT_PIXEL_BYTES
        if neighbours:
            filtered_count = channel_count * (1 + neighbours)
            refinement_bytes = filtered_count * grid_pixels * NEIGHBOUR_PIXEL_BYTES + retained_bytes
        fit_bytes = max(fit_bytes, refinement_bytes)
    return int(base_bytes + fit_bytes)


def _estimate_refinement_pixel_seconds(
    channels: float, neighbours: int, fit_config: FitConfig, *, has_pilots: bool
) -> float:
    """Return the seconds per pixel of a refinement with neighbouring frames.

    In volumes, where the fit gives their pilots (`has_pilots`), only the planes are filtered.
    """
    count = channels * (1 + neighbours)
    seconds = REFINEMENT_PIXEL_SECONDS + REFINEMENT_CHANNEL_SECONDS * (count - 1)
    if fit_config.refines_sparse_groups:
        seconds *= SPARSE_REFINEMENT_TIME_FRACTION
    if has_pilots:
        return seconds
    pilot = REFINEMENT_PIXEL_SECONDS + REFINEMENT_CHANNEL_SECONDS * (channels - 1)
    return seconds + neighbours * SPARSE_REFINEMENT_TIME_FRACTION * pilot


def estimate_costs(
    grid: tuple[int, ...],
    units: Sequence[WorkUnit],
    device: str,
    threads: int,
    fit_config: FitConfig,
    task_plan: TaskPlan,
    *,
    cpu: CpuSpeed,
) -> CostEstimate:
    """Estimate the time of a run, in seconds.

    Parameters
    ----------
    grid : tuple of int
        Size of the network's output.
    units : sequence of WorkUnit
    device : str
    threads : int
    fit_config : FitConfig
    task_plan : TaskPlan
        With the shape of the blind spot, and the times of setup and postprocessing.
    cpu : CpuSpeed
    """
    dims, fits = _count_network_dims(grid, fit_config), len(units)
    prior_spec = PRIOR_SPECS[fit_config.prior_key]
    sums_branches = prior_spec.network_traits.sums_branches
    widths = fit_config.widths
    if dims > 2 and device == "cpu":
        widths = tuple(width and max(width, MIN_VOLUME_WIDTH) for width in widths)
    operations: float = 2 * _count_multiplications(widths, dims, sums_branches=sums_branches)
    if sums_branches:
        operations *= SUMMED_OPERATION_FACTOR
    operation_seconds, speedup = 1 / GPU_FLOPS, 1.0
    if device == "cpu":
        operation_seconds = (
            _estimate_operation_seconds(fit_config, dims, cpu.thread_flops) / threads
        )
        if cpu.has_bfloat16 and _uses_bfloat16(grid, fit_config):
            speedup = HALF_PRECISION_RATE_FACTOR
    pixel_seconds = operations * operation_seconds
    pass_seconds = pixel_seconds * prod(grid) if prior_spec.input_traits.contains_image else 0.0
    channels = sum(len(unit.channels) for unit in units)
    candidates = 1 + len(fit_config.other_candidates)
    refinement_seconds = task_plan.ending_pixel_seconds * prod(grid) * channels / fits
    if prior_spec.has_refinement and not task_plan.keeps_measured_pixels:
        is_volume = len(grid) > 2
        neighbours = 2 if is_volume else 0
        if task_plan.uses_neighbouring_frames and not is_volume:
            neighbours = max(len(unit.neighbours) for unit in units)
        refinement_seconds += prod(grid) * _estimate_refinement_pixel_seconds(
            channels / fits, neighbours, fit_config, has_pilots=is_volume
        )
    assessment_seconds = ASSESSMENT_PIXEL_SECONDS * prod(grid) * channels
    # the blind spot depends on the noise, which is not measured yet
    usual_passes, max_passes = (
        (1, 1)
        if prior_spec.cost.has_single_pass
        else count_final_passes(dims, task_plan.blind_spot_shape)
    )
    start_seconds = START_SECONDS + MEASURE_SECONDS + MEASURE_PIXEL_SECONDS * prod(grid) * channels
    further_step_seconds = STEP_SECONDS if device == "cpu" else 0.0
    if len(grid) > 2 and task_plan.has_initial_estimate and device == "cpu":
        start_seconds += ESTIMATE_PIXEL_SECONDS * prod(grid) * channels / threads
        further_step_seconds += BLUR_PIXEL_SECONDS * prod(grid) / threads
    costs = CostEstimate(
        fit_seconds=start_seconds
        + fits * task_plan.setup_seconds
        + fits * prior_spec.cost.averaged_passes * pixel_seconds * prod(grid),
        usual_inference_seconds=fits * usual_passes * pass_seconds,
        longest_inference_seconds=fits * max_passes * pass_seconds,
        postprocessing_seconds=assessment_seconds + fits * refinement_seconds,
        seconds_per_iteration=3 * _count_step_pixels(grid, fit_config) * pixel_seconds / speedup
        + further_step_seconds,
        validation_seconds=pass_seconds,
        inference_seconds=usual_passes * pass_seconds,
        refinement_seconds=refinement_seconds,
        assessment_seconds=assessment_seconds,
    )
    further_iterations = fit_config.refit_iterations + fit_config.iterations * (candidates - 1)
    fit_seconds = sum(
        costs.estimate_fit(unit.iterations, len(unit.training_regions))
        + costs.estimate_fit(further_iterations)
        for unit in units
    )
    return replace(costs, fit_seconds=costs.fit_seconds + fit_seconds)


def _estimate_operation_seconds(fit_config: FitConfig, dims: int, thread_flops: float) -> float:
    """Return the seconds of a CPU thread per floating-point operation in these networks."""
    is_normalised = PRIOR_SPECS[fit_config.prior_key].input_traits.is_random_noise
    seconds = 1 / thread_flops + (NORMALISATION_OPERATION_SECONDS if is_normalised else 0.0)
    return max(seconds, 1 / (VOLUME_RATE_FACTOR * thread_flops)) if dims > 2 else seconds


def _uses_bfloat16(grid: tuple[int, ...], fit_config: FitConfig) -> bool:
    """Return whether steps are in half precision on CPUs with bfloat16 instructions."""
    return len(grid) == 2 and (
        fit_config.allows_bfloat16
        or PRIOR_SPECS[fit_config.prior_key].network_traits.supports_bfloat16
    )


def _count_network_dims(grid: tuple[int, ...], fit_config: FitConfig) -> int:
    """Return the number of axes of the network's kernels."""
    return 2 if PRIOR_SPECS[fit_config.prior_key].network_traits.is_planewise else len(grid)


def _count_step_pixels(grid: tuple[int, ...], fit_config: FitConfig) -> int:
    """Return the number of pixels in one step."""
    if len(grid) > 2 and PRIOR_SPECS[fit_config.prior_key].network_traits.is_planewise:
        return prod(compute_stack_window(fit_config.window_side, grid))
    if fit_config.window_side is None:
        return prod(grid)
    return prod(map(min, compute_window_size(len(grid), fit_config.window_side), grid))


def choose_fit_config(
    recipe: Recipe,
    task_plan: TaskPlan,
    header: ImageHeader,
    prior_key: str = "",
    *,
    is_volume: bool = False,
    noise_traits: Collection[str] = (),
) -> tuple[FitConfig, tuple[Note, ...]]:
    """Return the configuration of the recipe's preset, with the user's own limits applied.

    Parameters
    ----------
    recipe : Recipe
    task_plan : TaskPlan
    header : ImageHeader
        Header of the image. Small images get networks with fewer scales than the preset, and
        more iterations with some presets.
    prior_key : str
        Prior to use instead of the task's first choice; "": that choice.
    is_volume : bool
        Whether planes are fitted together; a preset may have a smaller network for that.
    noise_traits : collection of str
        What is known of the noise: "half_resolution" if the fit has half of the resolution;
        otherwise "correlated" if neighbouring pixels share noise, or "photon" if it is independent
        and grows with brightness. A preset may have another window, rate or number of iterations
        for each.

    Returns
    -------
    FitConfig
    notes : tuple of Note
        Note on a reduced number of scales.
    """
    task, run_settings = recipe.task, recipe.run_settings
    prior_key = prior_key or task_plan.prior_key
    presets = read_presets(task.spec.name)
    is_random_input = PRIOR_SPECS[prior_key].input_traits.is_random_noise
    # a prior without rows of its own takes those of the usual prior with the same kind of input
    shared_key = SHARED_PRESET_KEYS[is_random_input]
    row = presets[prior_key if prior_key in presets else shared_key][run_settings.preset]
    row = {**row, **row.get("volume", {})} if is_volume else row
    size_traits = ("small",) if prod(header.grid) <= MAX_SMALL_PIXELS else ()
    for trait in (*size_traits, *noise_traits):
        row = {**row, **row.get(trait, {})}
    if is_volume and task_plan.has_initial_estimate:
        row = {**row, **row.get("from_estimate", {})}
    max_scales, widths = count_max_scales(min(header.grid)), tuple(row["widths"])
    if is_random_input:
        widths = compute_channel_widths(task_plan.architecture, widths)
    notes: tuple[Note, ...] = ()
    if max_scales < len(widths):
        notes = (make_note("fewer-scales", most=max_scales, usual=len(widths)),)
    refit_iterations = row.get("refit_iterations", 0)
    operator_fraction = row.get("operator_fraction", 0.0) if task_plan.learns_operator else 0.0
    iterations = round(row["iterations"] / (1 - operator_fraction))
    joint_iterations = row.get("joint_iterations", round(JOINT_ITERATION_FACTOR * iterations))
    if run_settings.max_iterations:  # the refit counts, too
        refit_iterations = min(refit_iterations, run_settings.max_iterations // REFIT_DIVISOR)
        iterations = joint_iterations = run_settings.max_iterations - refit_iterations
    fit_config = FitConfig(
        prior_key=prior_key,
        iterations=iterations,
        joint_iterations=joint_iterations,
        restarts=run_settings.restarts or row["restarts"],
        widths=widths[:max_scales],
        learning_rate=row["learning_rate"],
        window_side=row["window"],
        refit_iterations=refit_iterations,
        other_candidates=tuple(other for other in list_candidates(task) if other != prior_key),
        operator_iterations=round(operator_fraction * iterations),
        fixed_operator_iterations=min(row["iterations"], iterations),
        operator_learning_rate=row.get("operator_learning_rate", 0.0),
        allows_bfloat16=row.get("allows_bfloat16", False) and not is_volume,
        muon_learning_rate=row.get("muon_learning_rate", 0.0),
        refines_sparse_groups=row.get("refines_sparse_groups", False),
    )
    return fit_config, notes


@cache
def read_presets(task: str) -> dict[str, Any]:
    """Return the presets of a task by prior and preset: its own, else those of denoising."""
    folder = resources.files("napari_dip.pipeline.plan").joinpath("presets")
    paths = (folder.joinpath(f"{name}.json") for name in ("denoise", task))
    files = (json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file())
    return {prior_key: rows for presets in files for prior_key, rows in presets.items()}


def list_candidates(task: Task) -> tuple[str, ...]:
    """Return the priors of a task's model selection; empty if the user chose the prior."""
    return task.spec.candidates if getattr(task, "prior", "auto") == "auto" else ()
