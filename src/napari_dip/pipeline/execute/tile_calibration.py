"""Calibrate an image that is restored in tiles on sample regions of it."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import RefusedError, raise_if_refused
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.calibrate.image_calibration import calibrate_pixels
from napari_dip.pipeline.calibrate.inputs import inspect_pixels, refuse_infinite
from napari_dip.pipeline.calibrate.run_plan import find_hidden_compression, make_run_plan
from napari_dip.pipeline.calibrate.types import CalibratedImage, RunInputs, get_grey_level_step
from napari_dip.pipeline.plan.layout import REGION_AXIS, Layout, make_tile_without_halo, to_stack
from napari_dip.pipeline.plan.tiling import (
    MAX_MEASURED_PIXELS,
    SAMPLE_REGION_COUNT,
    SAMPLE_REGION_SIDE,
)
from napari_dip.tasks.shared_settings import refuse_content

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.io import AnyArray, FloatArray
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event

#: Maximum number of sample regions of a Z stack with small planes.
MAX_SAMPLE_REGION_COUNT = 64
#: Steps along X from one sample region to the next, modulo the number of regions. No two regions
#: share a position along X.
_SAMPLE_STRIDE = 3


def measure_tiles(plan: Plan, image: Any) -> FloatArray:
    """Measure the standard deviation of each tile, and check all pixels.

    Parameters
    ----------
    plan : Plan
        A plan with tiles.
    image : array-like
        In the axes and shape of `plan.header`; it may be a file on disk.

    Returns
    -------
    ndarray
        (tiles, C), in the image's units.

    Raises
    ------
    RefusedError
        If the pixels cannot be restored.
    """
    name, axes = plan.header.name, plan.header.axes
    nans = infinite = 0
    lows, highs, std = [], [], []
    for tile in plan.tiles:
        array = tile.core.read_pixels(image, axes)
        if array.dtype.kind == "f":
            nans += int(np.isnan(array).sum())
            infinite += int(np.isinf(array).sum())
        lows.append(array.min())
        highs.append(array.max())
        with np.errstate(over="ignore", invalid="ignore"):  # too large values are refused below
            channels = np.moveaxis(to_stack(array, axes, plan.layout), 1, 0)
            std.append(channels.reshape(len(channels), -1).std(1, dtype=np.float64))
    total = plan.header.pixel_count
    if nans:
        raise RefusedError("pixels-nan", count=nans, total=total, name=name)
    if infinite:
        raise RefusedError("pixels-infinite", count=infinite, total=total, name=name)
    low, high = min(lows), max(highs)
    if low == high:
        raise RefusedError("pixels-constant", total=total, name=name, value=low, masked=False)
    raise_if_refused(refuse_content(np.array([low, high]), name))
    return np.array(std)


def select_sample_regions(plan: Plan, tile_std: FloatArray) -> tuple[Tile, ...]:
    """Select the regions on which the image is calibrated.

    They cover all planes of a small image. Otherwise, they are spread evenly, and some are centred
    on the tiles where a channel varies most. Each region lies in one plane.

    Parameters
    ----------
    plan : Plan
        A plan with tiles.
    tile_std : ndarray
        From `measure_tiles`.
    """
    grid = plan.header.grid
    depth = max((tile.z.core_stop for tile in plan.tiles if tile.z is not None), default=0)
    dims = 3 if depth else 2
    if prod(grid) * max(1, depth) <= MAX_MEASURED_PIXELS:
        return tuple(
            make_tile_without_halo((z, 0, 0)[-dims:], (1, *grid)[-dims:], z)
            for z in range(max(1, depth))
        )
    size = min(SAMPLE_REGION_SIDE, grid[0]), min(SAMPLE_REGION_SIDE, grid[1])
    count = SAMPLE_REGION_COUNT
    if depth:  # small planes need more regions
        needed = max(SAMPLE_REGION_COUNT, MAX_MEASURED_PIXELS // prod(size))
        count = min(depth, MAX_SAMPLE_REGION_COUNT, needed)
    y_fractions = [(index + 0.5) / count for index in range(count)]
    x_fractions = [(index * _SAMPLE_STRIDE % count + 0.5) / count for index in range(count)]
    centres = [
        (y_fraction * depth, y_fraction * grid[0], x_fraction * grid[1])
        for y_fraction, x_fraction in zip(y_fractions, x_fractions, strict=True)
    ]
    reference_tiles = dict.fromkeys(
        plan.tiles[int(tile_index)] for tile_index in tile_std.argmax(0)
    )
    for index, tile in enumerate(list(reference_tiles)[: SAMPLE_REGION_COUNT // 2]):
        z, y, x = (
            (span.core_start + span.core_stop) / 2 for span in (tile.z or tile.y, tile.y, tile.x)
        )
        centres[index] = z, y, x
    return tuple(
        make_tile_without_halo(
            (int(z), *_compute_region_start((y, x), size, grid))[-dims:], (1, *size)[-dims:], number
        )
        for number, (z, y, x) in enumerate(centres)
    )


def read_sample_regions(
    plan: Plan, inputs: Mapping[str, Any], regions: tuple[Tile, ...]
) -> tuple[RunInputs, AnyArray]:
    """Read sample regions as the items of one stack.

    Returns
    -------
    run_inputs : RunInputs
        The stack is (regions, C, Y, X), or (regions, C, 1, Y, X) for a volume.
    array : ndarray
        The same pixels in the image's axes and type, with an axis of regions in front.
    """
    array = np.stack([region.read_pixels(inputs["image"], plan.header.axes) for region in regions])
    stack = np.concatenate(
        [to_stack(region_pixels, plan.header.axes, plan.layout) for region_pixels in array]
    )
    extra_inputs = {name: np.asarray(inputs[name], np.float32) for name in plan.extra_headers}
    for name, header in plan.extra_headers.items():
        raise_if_refused(refuse_infinite(extra_inputs[name], header.name))
    inspection = inspect_pixels(plan, array, stack, extra_inputs)
    return RunInputs(
        stack=stack,
        extra_inputs=extra_inputs,
        measured_mask=None,
        grey_level_step=get_grey_level_step(array.dtype),
        layout=plan.layout,
        inspection=inspection,
    ), array


def _compute_region_start(
    middle: tuple[float, ...], size: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[int, ...]:
    return tuple(
        min(max(0, round(coordinate - side / 2)), count - side)
        for coordinate, side, count in zip(middle, size, grid, strict=True)
    )


def calibrate_tiles(
    plan: Plan, inputs: Mapping[str, Any], monitor: RunMonitor
) -> Generator[Event, None, tuple[CalibratedImage, dict[str, str]]]:
    """Measure noise and range of a tiled image, and choose the tile to fit first.

    Parameters
    ----------
    plan : Plan
        A plan with tiles.
    inputs : mapping
        As for `napari_dip.pipeline.execute.runner.run`.
    monitor : RunMonitor

    Yields
    ------
    Event

    Returns
    -------
    regions_image : CalibratedImage
        The sample regions; its plan and calibration are those of the whole image.
    hashes : dict of str to str
        SHA-256 of each input.

    Raises
    ------
    RefusedError
        If the pixels cannot be restored.
    """
    yield monitor.make_message_event("Reading the image")
    tile_std = measure_tiles(plan, inputs["image"])
    hashes = {name: compute_sha256(inputs[name]) for name in ("image", *plan.extra_headers)}
    yield monitor.make_message_event("Measuring the noise")
    return calibrate_sample_regions(plan, inputs, tile_std), hashes


def calibrate_sample_regions(
    plan: Plan, inputs: Mapping[str, Any], tile_std: FloatArray
) -> CalibratedImage:
    """Calibrate a tiled image on sample regions, and return these: an image of their planes.

    Parameters
    ----------
    plan : Plan
    inputs : mapping
        As for `napari_dip.pipeline.execute.runner.run`.
    tile_std : ndarray, (tiles, C)
        As `measure_tiles` returns it.

    Raises
    ------
    RefusedError
        If an extra input cannot be used.
    """
    regions = select_sample_regions(plan, tile_std)
    run_inputs, array = read_sample_regions(plan, inputs, regions)
    calibration, stack = calibrate_pixels(plan, run_inputs)
    calibration = find_hidden_compression(plan, calibration, stack)
    # the tile with the most structure is fitted first: each channel counts by its largest std
    structure = (tile_std / np.maximum(tile_std.max(0), 1e-30)).sum(1)
    run_plan = make_run_plan(
        plan,
        run_inputs.inspection,
        calibration,
        regions=regions,
        reference_tile=plan.tiles[int(structure.argmax())],
    )
    axes = REGION_AXIS + run_plan.header.axes
    header = replace(run_plan.header, shape=array.shape, axes=axes, scale=None, units=None)
    item_axes = REGION_AXIS + "".join(axis for axis in "Z" if axis in axes)
    layout = Layout(item_axes=item_axes, channel_axis=run_plan.layout.channel_axis, grid_axes="YX")
    return CalibratedImage(
        run_plan=run_plan,
        calibration=calibration,
        header=header,
        layout=layout,
        inputs={"image": array},
        stack=to_stack(array, axes, layout),
        inspection=run_inputs.inspection,
    )
