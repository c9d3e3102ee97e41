"""What a fit costs: its budget, and estimates of memory and time from the header alone.

Looks at the whole picture: how many a last sweep takes, and how much goes in at a time.

What a preset spends on a fit, with the user's own limits put in.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from itertools import pairwise, product
from math import ceil, prod
from typing import TYPE_CHECKING, Any

from napari_dip.engine.networks.inference_tiles import count_max_tile_pixels
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.types import Budget, CostEstimate
from napari_dip.tasks.priors.blind_spot import compute_loss_core_width, compute_window_size
from napari_dip.tasks.priors.masked_input import (
    MAX_BATCH_PIXELS,
    PLANE_WISE_PRIORS,
    STACK_RESIDUAL_BLOCKS,
    compute_stack_window,
)
from napari_dip.tasks.priors.r2r import MEASUREMENT_INPUT_PRIORS, R2R_PRIOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.types import WorkUnit
    from napari_dip.pipeline.recipe import Recipe

#: Sides that a hidden block can have.
BLOCK_SIDES = (1, 3, 5, 7)
#: Priors whose networks see no further than so many pixels of a plane.
LOCAL_PRIORS = (
    "blind-spot",
    "r2r",
    "guided",
    "recompression",
    "masked-input",
    "masked-input-shapes",
)


def count_inference_passes(block: tuple[int, ...], core: tuple[int, ...]) -> int:
    """Count the looks of a last sweep: shifts of a lattice of blocks until their cores tile.

    Parameters
    ----------
    block, core : tuple of int
        Sizes of a hidden block and of the middle of it that is trusted, per axis.
    """
    return prod(ceil((size + 2) / middle) for size, middle in zip(block, core, strict=True))


def count_block_passes(block: tuple[int, ...]) -> int:
    """Count the looks of a last sweep with blocks of that size."""
    return count_inference_passes(block, tuple(compute_loss_core_width(side) for side in block))


def count_final_passes(dims: int) -> tuple[int, int]:
    """Count the looks of a last sweep where the noise is white, as it mostly is, and at most."""
    ahead = (1,) * (dims - 2)
    most = max(count_block_passes((*ahead, *block)) for block in product(BLOCK_SIDES, BLOCK_SIDES))
    return count_block_passes((*ahead, 1, 1)), most


def compute_batch_pixels(grid: tuple[int, ...], budget: Budget) -> int:
    """Count the pixels that go through the network at a time in a look.

    Parameters
    ----------
    grid : tuple of int
        Of the network.
    budget : Budget
    """
    whole = prod(grid)
    if len(grid) > 2:
        planes = max(MAX_BATCH_PIXELS, prod(grid[-2:]))
        return min(whole, planes) if budget.prior in PLANE_WISE_PRIORS else whole
    return (
        count_max_tile_pixels(whole, len(budget.widths)) if budget.prior in LOCAL_PRIORS else whole
    )


#: Floating-point operations a second that convolutions of these widths reach. Per CPU thread, in
#: single precision: a step of 256 x 256 pixels and widths 16, 32, 64, 64 takes 0.105 s of one
#: thread of an Intel Xeon with AMX that is shared (`benchmarks/speed_plan.py`, as all below). On a
#: GPU: a cautious guess, no card was at hand.
THREAD_RATE, GPU_RATE = 100e9, 2e12
#: That rate's multiple of steps in half precision (0.077 s), of volumes (0.63 s for a step and
#: 0.22 s for a look at 16 x 96 x 96 voxels) and of networks with normalised layers (0.18 s).
HALF_PRECISION_RATE_FACTOR, VOLUME_RATE_FACTOR, NORMALISED_RATE_FACTOR = 1.35, 0.7, 0.58
#: Priors whose steps are in half precision where the processor is made for it, and those whose
#: networks have normalised layers.
HALF_PRECISION_PRIORS = (R2R_PRIOR, "blind-spot")
NORMALISED_PRIORS = ("random-input", "guided-random-input", "random-input-no-skips")
#: Loading torch; and measuring the noise: for a picture, and for each of its pixels.
START_SECONDS, MEASURE_SECONDS, MEASURE_PIXEL_SECONDS = 3.0, 0.1, 1.5e-6
#: What comes after a fit, for each pixel: residual and verdict of a channel, and the last filter of
#: one channel and of each further one (0.55 s for 200 x 512 pixels, 0.63 s for 100 x 512 of three,
#: on one thread of an AMD EPYC, which is a fifth quicker than the Xeon that is counted on here).
ASSESSMENT_PIXEL_SECONDS = 2.5e-6
REFINEMENT_PIXEL_SECONDS, REFINEMENT_CHANNEL_SECONDS = 6.5e-6, 4.5e-6
#: Iterations between two judgements, as the engine's schedule has it.
ITERATIONS_PER_VALIDATION = 25
#: What a first fit loads and never gives back: of planes, where the line of peaks over pixels
#: begins; of volumes, what one of 32 x 32 pixels takes, and a little for scratch space.
START_BYTES, START_BYTES_OF_VOLUMES = 60e6, 160e6
#: Part of a step's memory that is still taken while the whole is looked at: if the step is in half
#: precision, and if not.
RETAINED_HALF_STEP_SHARE, RETAINED_STEP_SHARE = 0.5, 0.8
#: Bytes for each pixel and channel of a layer: of a step, forward and backward, by prior (the
#: fixed noise has 32 channels of code and normalised layers), and of a look that learns nothing.
STEP_BYTES = {
    "blind-spot": 46,
    "r2r": 46,
    "guided": 40,
    "recompression": 40,
    "zssr": 70,
    "masked-input": 70,
    "masked-input-shapes": 40,
    "random-input": 74,
    "guided-random-input": 74,
    "random-input-no-skips": 74,
    "total-variation": 74,
    "pixels": 74,
}
#: The same of steps of planes in half precision.
HALF_STEP_BYTES = {"blind-spot": 40, "r2r": 40, "masked-input": 45}
INFERENCE_FEATURE_BYTES = 17
#: Passes through the network of one look at the picture, where it is shown from several sides.
PASSES_PER_INFERENCE = {"zssr": 8}
#: Bytes for each pixel of a channel: the input and what all fits leave; a look's code and picture,
#: which further channels of a plane add nothing to that could be seen, as a whole and in pieces.
(
    PLANE_BYTES,
    INFERENCE_PIXEL_BYTES,
    PIECEWISE_INFERENCE_PIXEL_BYTES,
    VOLUME_INFERENCE_PIXEL_BYTES,
) = 120, 190, 80, 180
#: Bytes for each pixel and channel of the last filter, of patches that look alike, beyond what the
#: looks have left: 2,048 pixels a side, three channels: 44; 1,536: 85; 4,096, one channel: 70.
REFINEMENT_BYTES = 65
#: Priors whose pictures are filtered so.
REFINED_PRIORS = ("blind-spot", "r2r", "guided")
#: The same where the code holds what the planes before and after show: measured in the same way on
#: 16 x 128 x 128 and 40 x 256 x 256.
STACK_INFERENCE_PIXEL_BYTES = 265


def count_channels(source: ImageSpec) -> int:
    """Count the channels or colour samples."""
    return next(
        (count for axis, count in zip(source.axes, source.shape, strict=True) if axis in "CS"), 1
    )


def count_max_scales(side: int) -> int:
    """Count the scales that a network may have on that many pixels.

    Each scale halves the grid, rounding up, and the coarsest needs two pixels: its border is
    continued by reflection.
    """
    scales = 1
    while ceil(side / 2) >= 2:
        side = ceil(side / 2)
        scales += 1
    return scales


def _count_multiplications(widths: tuple[int, ...], dims: int) -> float:
    """Multiply-adds of the network for one pixel and one look, all layers three pixels wide."""
    taps, shrink = 3.0**dims, 0.5**dims
    finest, coarsest = widths[0], widths[-1]
    if len(widths) == 1:  # a chain of residual blocks, of two layers each
        return taps * 2 * STACK_RESIDUAL_BLOCKS * finest**2
    total: float = 2 * finest**2  # second layer of the first scale, and the last
    total += coarsest**2 * shrink ** (len(widths) - 1)
    for scale, (finer, coarser) in enumerate(pairwise(widths)):
        share = shrink**scale
        total += (finer + coarser) * finer * share + finer * coarser * share * shrink
    return taps * total


def estimate_image_memory(grid: tuple[int, ...], planes: int) -> int:
    """Estimate the memory for the input and what the fits leave, wherever they run."""
    return prod(grid) * PLANE_BYTES * planes


def estimate_fit_memory(grid: tuple[int, ...], channels: int, budget: Budget, *, half: bool) -> int:
    """Estimate the memory beyond Python and torch: one step, or a look at the whole image.

    The constants come from the peak of the resident memory above what a process holds that has
    loaded torch and this package, one for each of nine sizes from 256 x 256 to 4096 x 4096 pixels,
    five of three channels (`benchmarks/tiles.py`, 3 iterations, one thread): within 15 % of it.

    Parameters
    ----------
    grid : tuple of int
        Of the network.
    channels : int
        Channels of one fit.
    budget : Budget
    half : bool
        Whether the processor is made for half precision.
    """
    whole, shrink = prod(grid), 0.5 ** _count_network_dims(grid, budget)
    features = sum(width * shrink**scale for scale, width in enumerate(budget.widths))
    halved = half and _uses_half_precision(grid, budget)
    bytes_of = (STEP_BYTES | HALF_STEP_BYTES if halved else STEP_BYTES)[budget.prior]
    step = _count_step_pixels(grid, budget) * features * bytes_of
    pixels, start, remaining = compute_batch_pixels(grid, budget), START_BYTES, 0.0
    if len(grid) == 2:
        remaining = step * (RETAINED_HALF_STEP_SHARE if halved else RETAINED_STEP_SHARE)
        code = INFERENCE_PIXEL_BYTES if pixels == whole else PIECEWISE_INFERENCE_PIXEL_BYTES
    else:
        code, start = VOLUME_INFERENCE_PIXEL_BYTES * channels, START_BYTES_OF_VOLUMES
        if budget.prior in PLANE_WISE_PRIORS:
            code = STACK_INFERENCE_PIXEL_BYTES * channels
    work = max(step, pixels * features * INFERENCE_FEATURE_BYTES + remaining) + whole * code
    if len(grid) == 2 and budget.prior in REFINED_PRIORS:
        work = max(work, channels * whole * REFINEMENT_BYTES)
    return int(start + work)


def estimate_costs(
    grid: tuple[int, ...],
    units: Sequence[WorkUnit],
    device: str,
    threads: int,
    budget: Budget,
    *,
    half: bool = False,
) -> CostEstimate:
    """Estimate what a run takes, in seconds.

    Parameters
    ----------
    grid : tuple of int
        Of the network.
    units : sequence of WorkUnit
    device : str
    threads : int
    budget : Budget
    half : bool
        Whether the processor is made for half precision.
    """
    dims, fits = _count_network_dims(grid, budget), len(units)
    operations: float = 2 * _count_multiplications(budget.widths, dims)
    pixel = operations / _estimate_operation_rate(budget, dims, device, threads)
    look = pixel * prod(grid) if budget.prior in MEASUREMENT_INPUT_PRIORS else 0.0
    planned = sum(unit.iterations for unit in units)
    total = planned + fits * (budget.release + budget.iterations * len(budget.rivals))
    quick = (
        HALF_PRECISION_RATE_FACTOR
        if half and device == "cpu" and _uses_half_precision(grid, budget)
        else 1.0
    )
    fit = 3 * total * _count_step_pixels(grid, budget) * pixel / quick
    # one that is fitted to many looks at all of them, but ten times only
    judged = sum(
        max(unit.iterations / ITERATIONS_PER_VALIDATION, 10 * len(unit.members)) for unit in units
    )
    fit += (judged + (total - planned) / ITERATIONS_PER_VALIDATION) * look
    fit += fits * PASSES_PER_INFERENCE.get(budget.prior, 0) * pixel * prod(grid)
    channels = sum(len(unit.channels) for unit in units)
    start = START_SECONDS + MEASURE_SECONDS + MEASURE_PIXEL_SECONDS * prod(grid) * channels
    ending = ASSESSMENT_PIXEL_SECONDS * prod(grid) * channels
    if len(grid) == 2 and budget.prior in REFINED_PRIORS:
        filtered = REFINEMENT_PIXEL_SECONDS * fits + REFINEMENT_CHANNEL_SECONDS * (channels - fits)
        ending += (1 + len(budget.rivals)) * filtered * prod(grid)
    # the noise is only known once the pixels are read
    usual, most = (1, 1) if budget.prior == R2R_PRIOR else count_final_passes(dims)
    return CostEstimate(
        fit=start + fit,
        usual_inference=fits * usual * look,
        longest_inference=fits * most * look,
        ending=ending,
    )


def _estimate_operation_rate(budget: Budget, dims: int, device: str, threads: int) -> float:
    """Floating-point operations a second, in single precision."""
    if device != "cpu":
        return GPU_RATE
    share = NORMALISED_RATE_FACTOR if budget.prior in NORMALISED_PRIORS else 1.0
    return THREAD_RATE * threads * (min(share, VOLUME_RATE_FACTOR) if dims > 2 else share)


def _uses_half_precision(grid: tuple[int, ...], budget: Budget) -> bool:
    """Whether steps are in half precision where the processor is made for it."""
    return len(grid) == 2 and (budget.half or budget.prior in HALF_PRECISION_PRIORS)


def _count_network_dims(grid: tuple[int, ...], budget: Budget) -> int:
    """Count the axes that the network's kernels have."""
    return 2 if budget.prior in PLANE_WISE_PRIORS else len(grid)


def _count_step_pixels(grid: tuple[int, ...], budget: Budget) -> int:
    """Count the pixels that one step looks at."""
    if len(grid) > 2 and budget.prior in PLANE_WISE_PRIORS:
        return prod(compute_stack_window(budget.window, grid))
    if budget.window is None:
        return prod(grid)
    return prod(map(min, compute_window_size(len(grid), budget.window), grid))


#: Codes of the notes on a plan that come from its budget.
BUDGET_NOTES = ("fewer-scales",)
#: One part in so many of the user's own limit of iterations goes to the last phase, at most.
REFIT_DIVISOR = 8


def choose_budget(
    recipe: Recipe, source: ImageSpec, prior: str | None = None, *, volume: bool = False
) -> tuple[Budget, tuple[Note, ...]]:
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
    notes : tuple of Note
        What differs from the preset.
    """
    task, common = recipe.task, recipe.run_settings
    prior = prior or task.first_choice(source, volume=volume)
    row = _read_presets(task.name)[prior][common.preset]
    row = {**row, **row.get("volume", {})} if volume else row
    most, widths = count_max_scales(min(source.grid)), task.widths(prior, tuple(row["widths"]))
    notes: tuple[Note, ...] = ()
    if most < len(widths):
        notes = (make_note("fewer-scales", most=most, usual=len(widths)),)
    release = row.get("release", 0)
    iterations = row["iterations"]
    if common.max_iterations:  # the last phase counts, too
        release = min(release, common.max_iterations // REFIT_DIVISOR)
        iterations = common.max_iterations - release
    budget = Budget(
        prior=prior,
        iterations=iterations,
        restarts=common.restarts or row["restarts"],
        widths=widths[:most],
        learning_rate=row["learning_rate"],
        window=row["window"],
        release=release,
        rivals=tuple(contender for contender in task.contenders() if contender != prior),
        joint=min(row.get("joint", 0), iterations),
        operator_rate=row.get("operator_rate", 0.0),
        half=row.get("half", False) and not volume,
    )
    return budget, notes


@cache
def _read_presets(task: str) -> dict[str, Any]:
    folder = resources.files("napari_dip.pipeline.plan").joinpath("presets")
    path = folder.joinpath(f"{task}.json")
    if not path.is_file():  # a new task spends what the paper's prior mostly takes
        path = folder.joinpath("random-input.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))
