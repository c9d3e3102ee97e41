"""Restore a dask array in blocks: lazily, with any scheduler."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, RefusedError, raise_if_refused
from napari_dip.io.lazy_images import LazyImage
from napari_dip.pipeline.execute.runner import run, run_with_torch
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.lazy_inputs import LazyPixels, is_labelled_array, open_input
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.layout import has_overlap
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from napari_dip.io import AnyArray, Float32Array
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import Plan

#: Minimum side of the blocks of a dask array, in pixels: narrower ones are mostly halo (see
#: `plan.tiling`).
MIN_BLOCK_SIDE = 256
#: Maximum side: wider ones gain nothing.
MAX_BLOCK_SIDE = 1024
#: Held by a fit in a task of dask, since the threads of a process share the state of torch.
_BLOCK_LOCK = Lock()


def restore_blocks(
    image: Any, task: str = "denoise", *, axes: str | None = None, **settings: Any
) -> Any:
    """Restore a dask array lazily: return a dask array whose blocks are fitted when computed.

    One task measures noise and range on sample regions of the whole array. Then each block is
    fitted with a halo, independently of the others, and overlaps are blended, as in a run in
    tiles. Nothing is computed before `compute`, and any scheduler will do; its own progress bar
    counts the blocks. In one process the fits take turns.

    Parameters
    ----------
    image : dask array, or xarray.DataArray of a dask array
        A plane or a Z stack, also with channels. An array that fits into one block, and a movie,
        is restored as a whole by a single task.
    task : str
        "denoise" or "deblur", without extra inputs and without settings that need the whole image.
    axes : str, optional
        As for `denoise`.
    **settings
        Settings of the task; ``tile`` is the side of a block without its halo. Default: that of
        the largest chunk of `image`, but at least 256 and at most 1,024 pixels.

    Returns
    -------
    dask array of float32
        Each block keeps its own mean.

    Raises
    ------
    RefusedError
        If dask is missing, or if array, task or settings cannot be used. Pixels are refused when
        they are computed.

    Examples
    --------
    >>> restored = dip.restore_blocks(array, preset="fast")
    >>> restored.to_zarr("restored.zarr")
    """
    try:
        import dask.array
        from dask.delayed import delayed
    except ImportError:
        raise RefusedError("blocks-dask-missing") from None

    da: Any = dask.array  # typed in part
    array = image.data if is_labelled_array(image) else image
    if not isinstance(array, dask.array.Array):
        raise RefusedError("blocks-not-dask", type=type(array).__name__)
    header, _ = open_input("image", image, axes)
    defaults: dict[str, Any] = {}
    if "T" not in header.axes:
        widest_chunk = max(map(max, array.chunks[-2:]), default=0)
        defaults["tile"] = max(min(widest_chunk, MAX_BLOCK_SIDE), MIN_BLOCK_SIDE)
    if task in TASKS:
        defaults |= TASKS[task].spec.independent_settings
    recipe = make_recipe(task, **{**defaults, **settings})
    plan = preflight(recipe, header, detect_machine())
    if isinstance(plan, Refusal) and plan.code == "tile-impossible" and "tile" not in settings:
        raise RefusedError("blocks-impossible", task=task, function=task.replace("-", "_"))
    plan = raise_if_refused(plan)
    if not plan.tiles:
        result = delayed(partial(_restore_whole_array, plan))(array)
        return da.from_delayed(result, plan.result_shape, np.float32)
    regions_image = delayed(partial(_calibrate_array, plan, LazyPixels("image", array)))()
    estimates = [
        delayed(partial(_restore_block, plan, tile))(
            regions_image, array[tile.get_slices(header.axes)]
        )
        for tile in plan.tiles
    ]
    down, right = plan.task_plan.get_factors("YX")
    blocks: dict[tuple[int, ...], Any] = {}
    for tile in plan.tiles:
        region = tile.core
        neighbours = [other for other in plan.tiles if has_overlap(other, region)]
        blend = delayed(partial(_blend_block, plan, region, neighbours))
        block = blend(*(estimates[other.index] for other in neighbours))
        shape = region.upscale((down, right)).make_header(header).shape
        blocks[region.start] = da.from_delayed(block, shape, np.float32)
    for axis in reversed(plan.tiles[0].axes):
        lines = defaultdict(list)
        for start, block in blocks.items():
            lines[start[:-1]].append(block)
        place = header.axes.index(axis)
        blocks = {start: da.concatenate(line, place) for start, line in lines.items()}
    return blocks[()]


def _restore_whole_array(plan: Plan, image: AnyArray) -> AnyArray:
    with _BLOCK_LOCK:
        result = drain_generator(run(plan, {"image": image}))
    assert result is not None  # the control never discards
    return result.image


def _calibrate_array(plan: Plan, image: LazyPixels) -> CalibratedImage:
    """Measure noise and range of a dask array within a task, which computes it in pieces."""
    import dask

    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles

    monitor = RunMonitor(plan, lambda: Control.GO, None)
    steps = calibrate_tiles(plan, {"image": image}, monitor)
    with _BLOCK_LOCK, dask.config.set(scheduler="synchronous"):
        return drain_generator(run_with_torch(steps, plan.threads, plan.header.name))[0]


def _restore_block(
    plan: Plan, tile: Tile, regions_image: CalibratedImage, pixels: AnyArray
) -> Float32Array:
    """Fit one block; return (C, *size) with its halo, and with the mean of its pixels."""
    from napari_dip.pipeline.assess.report import PlaneSums
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_executor import TileExecutor, open_tile_results
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.unit_results import make_tile_name

    units = [unit for unit in regions_image.run_plan.units if unit.tile == tile.index]
    monitor = RunMonitor(plan, lambda: Control.GO, None)
    monitor.set_expected_work(regions_image.run_plan, units)
    with _BLOCK_LOCK, tempfile.TemporaryDirectory(prefix="napari-dip-") as folder:
        block = LazyImage(path=Path(folder), array=pixels, fetch=lambda _: pixels)
        checkpoints = CheckpointStore(Path(folder, "run"), resume=False)
        results = open_tile_results(regions_image.run_plan, {}, checkpoints)
        executor = TileExecutor(regions_image, block, monitor, checkpoints, results)
        drain_generator(run_with_torch(executor.run(units), plan.threads, plan.header.name))
        name = make_tile_name(tile.index)
        estimate = np.array(results.open_estimates(name)[0], np.float32)
        sums = np.array(results.read_residual_sums(name))
        results.close()
    pixels = np.full(sums.shape[1:], 1.0) * tile.compute_weights().sum((-2, -1))
    task_spec, noise = plan.recipe.task.spec, regions_image.calibration.noise
    shift = np.add(*PlaneSums(sums[0], sums[1], pixels).compute_shifts(task_spec, noise))
    depth = tile.size[:-2]
    return np.asarray(estimate + shift.reshape(len(shift), *depth, 1, 1), np.float32)


def _blend_block(plan: Plan, region: Tile, tiles: list[Tile], *estimates: Float32Array) -> AnyArray:
    """Blend what overlaps with a region, and return it in the axes of the image."""
    from napari_dip.pipeline.execute.tile_blending import arrange_axes, compute_overlap

    down, right = plan.task_plan.get_factors("YX")
    finer_region = region.upscale((down, right))
    image = np.zeros((len(estimates[0]), *finer_region.size))
    for tile, estimate in zip(tiles, estimates, strict=True):
        overlap, weight, tile_slices = compute_overlap(tile.upscale((down, right)), finer_region)
        image[:, *overlap] += weight * estimate[:, *tile_slices]
    return arrange_axes(plan, image, finer_region)
