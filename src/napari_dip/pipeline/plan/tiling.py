"""Decide whether a plane or Z stack is restored in tiles, and cut it into overlapping tiles."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import ceil, prod
from typing import TYPE_CHECKING, NamedTuple

from napari_dip.errors import RefusedError, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.costs import (
    count_channels,
    estimate_costs,
    estimate_fit_memory,
    estimate_image_memory,
)
from napari_dip.pipeline.plan.joint_training import estimate_training_memory
from napari_dip.pipeline.plan.layout import Span, Tile, plan_task
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from napari_dip.tasks.shared_settings import CONTEXT_RADIUS, get_series_training, get_stacked_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.machine import CpuSpeed, Machine
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import CostEstimate, FitConfig, ImagePlan, WorkUnit
    from napari_dip.tasks.base import TaskPlan

#: Boundaries between tiles are multiples of this, so that each tile can be fitted at half size; not
#: along Z where planes are restored one by one.
TILE_ALIGNMENT = 8
#: Tile sides that are tried if memory is short, widest first. Wider tiles gain nothing: four
#: tiles of 1,024 x 1,024 pixels take no longer than one of 2,048 x 2,048.
PLANE_TILE_SIDES = (1024, 768, 512, 384, 256)
#: Tile sides of a Z stack that are tried if memory is short, widest first.
Z_STACK_TILE_SIDES = (512, 384, 256)
#: Number of planes of a tile of a Z stack; its halo along Z is one plane.
Z_STACK_TILE_PLANES = 16
#: Tiles of volumes that are tried, largest first: number of planes, and side, without the halo.
VOLUME_TILE_SIZES = ((32, 192), (32, 128), (16, 96), (16, 64))
#: Overlap of tiles of volumes along Z, in planes; the radius of a PSF is added.
VOLUME_OVERLAP_PLANES = 8
#: Overlap of tiles of volumes within the plane: half of `CONTEXT_RADIUS`, that of a plane's tiles,
#: since tiles of volumes overlap along three axes.
VOLUME_OVERLAP_PIXELS = 16
#: Minimum side of a tile as a multiple of its halo, so that most pixels are outside overlaps.
MIN_OVERLAPS_PER_TILE = 4
#: Minimum tile side of a half-resolution fit. With 144 x 144 fitted pixels in each of four tiles,
#: FMD WideField_BPAE_B and R lost 0.26 and 0.18 dB, and R had visible seams.
MIN_HALF_RESOLUTION_SIDE = 512
#: Number of the regions on which noise and range of a large image are measured.
SAMPLE_REGION_COUNT = 8
#: Side in pixels of a region on which noise and range of a large image are measured.
SAMPLE_REGION_SIDE = 512
#: Number of pixels up to which noise and range are measured on the whole image.
MAX_MEASURED_PIXELS = SAMPLE_REGION_COUNT * SAMPLE_REGION_SIDE**2
#: Bytes per pixel and channel while noise is measured: 113 at 4 megapixels, 155 at 1.
MEASUREMENT_PIXEL_BYTES = 155
#: Bytes of a run in tiles besides the fit of one tile: measured 77 and 103 MB for tiles of 1,024
#: and 1,536 pixels a side (docs/constants.md).
TILE_RUN_OVERHEAD_BYTES = 55e6
#: Bytes of a run in tiles besides the fit of one tile, per pixel of a tile.
TILE_PIXEL_OVERHEAD_BYTES = 75
#: Maximum bytes of a result image that is returned in memory instead of on disk; with 2**28 they
#: took more than the fits (docs/constants.md).
MAX_IN_MEMORY_RESULT_BYTES = 2**26
#: Number of result images that are returned: result, uncertainty and residual.
RESULT_IMAGE_COUNT = 3
#: Bytes per value of an image that is not in a file: result, uncertainty and residual, which are
#: returned as arrays.
RESULT_VALUE_BYTES = 12
#: Codes of the notes on tiles: of planes, and of Z stacks.
TILE_NOTES = ("tiles", "tiles-deep")


def cut_plane_tiles(grid: tuple[int, int], side: int, halo: int) -> tuple[Tile, ...]:
    """Cut a plane into tiles of nearly equal size.

    Parameters
    ----------
    grid : tuple of int
        Height and width.
    side : int
        Maximum side of a tile in pixels, without its halo.
    halo : int
        Width of the halo in pixels, on each side with a neighbour.

    Returns
    -------
    tuple of Tile
        Row by row; a single tile if the plane is not larger than `side`.
    """
    rows, columns = (_cut_axis(count, side, halo) for count in grid)
    return tuple(
        Tile(index=row * len(columns) + column, y=y, x=x)
        for row, y in enumerate(rows)
        for column, x in enumerate(columns)
    )


def cut_z_stack_tiles(
    grid: tuple[int, ...], sides: tuple[int, int], halo: tuple[int, int], *, is_plane_by_plane: bool
) -> tuple[Tile, ...]:
    """Cut a Z stack into tiles.

    Parameters
    ----------
    grid : tuple of int
        Planes, height and width.
    sides, halo : tuple of int
        As for `cut_plane_tiles`: along Z, and within the plane.
    is_plane_by_plane : bool
        Whether planes are restored one by one; planes of the halo are then only context.

    Returns
    -------
    tuple of Tile
        Along Z first, then row by row.
    """
    depths = _cut_axis(grid[0], sides[0], halo[0], 1 if is_plane_by_plane else TILE_ALIGNMENT)
    plane_tiles = cut_plane_tiles((grid[1], grid[2]), sides[1], halo[1])
    return tuple(
        replace(
            plane_tile,
            index=depth_index * len(plane_tiles) + plane_tile.index,
            z=replace(z, is_context_only=is_plane_by_plane),
        )
        for depth_index, z in enumerate(depths)
        for plane_tile in plane_tiles
    )


def find_largest_tile(tiles: tuple[Tile, ...]) -> Tile:
    """Return the tile with most pixels."""
    return max(tiles, key=lambda tile: prod(tile.size))


def _cut_axis(count: int, side: int, halo: int, alignment: int = TILE_ALIGNMENT) -> list[Span]:
    """Cut an axis into spans with halos; cuts lie at multiples of `alignment` pixels."""
    tile_count = ceil(count / side)
    positions = (count * index / tile_count for index in range(tile_count))
    cuts = [round(position / alignment) * alignment for position in positions]
    pairs = list(pairwise([*cuts, count]))
    # only two tiles may share a pixel along an axis
    half_side = min((last - first) // 2 for first, last in pairs)
    halo = min(halo, half_side // alignment * alignment)
    return [
        Span(
            start=max(0, first - halo),
            stop=min(count, last + halo),
            core_start=first,
            core_stop=last,
        )
        for first, last in pairs
    ]


class Tiling(NamedTuple):
    """Tiles of an image, and the side in pixels that they were cut for."""

    side: int
    tiles: tuple[Tile, ...]


def choose_tiles(image_plan: ImagePlan, fit_config: FitConfig, machine: Machine) -> Tiling | None:
    """Choose tiles: those of the recipe, or the widest for which memory is sufficient.

    `preflight` calls it if the recipe sets a tile size, or if the whole image does not fit.

    Returns
    -------
    Tiling or None
        At least two tiles. None if one tile would hold all of the image, or if memory is too small
        for the smallest tiles or for the result, or if the image cannot be divided.

    Raises
    ------
    RefusedError
        If the image cannot be divided, and the recipe sets a tile size.
    """
    header, side_setting = image_plan.header, image_plan.recipe.run_settings.tile
    halo = None if "T" in get_stacked_axes(header) else _plan_fit(image_plan, ()).halo
    if halo is None and side_setting:
        raise RefusedError("tile-impossible", name=header.name)
    result_bytes = 0 if header.path else RESULT_VALUE_BYTES * prod(header.shape)
    if halo is None or result_bytes > machine.memory_bytes:
        return None
    estimate = partial(estimate_memory, image_plan, fit_config, uses_bfloat16=machine.has_bfloat16)
    for tiling in _iter_tilings(header, image_plan.layout, halo, side_setting):
        if len(tiling.tiles) > 1 and (
            side_setting or estimate(tiling.tiles)[1] <= machine.memory_bytes
        ):
            return tiling
    return None


def _iter_tilings(
    header: ImageHeader, layout: Layout, halo: int, side_setting: int | None
) -> Iterator[Tiling]:
    """Yield the tilings to try, best first; only that of `side_setting` if it is set."""
    if not get_stacked_axes(header):
        halo = ceil(halo / TILE_ALIGNMENT) * TILE_ALIGNMENT
        for side in (side_setting,) if side_setting else PLANE_TILE_SIDES:
            tile_side = max(side, MIN_OVERLAPS_PER_TILE * halo)
            yield Tiling(side, cut_plane_tiles(header.grid, tile_side, halo))
        return
    grid = header.get_sizes("ZYX")
    if not layout.is_volume:
        halo = ceil(halo / TILE_ALIGNMENT) * TILE_ALIGNMENT
        for side in (side_setting,) if side_setting else Z_STACK_TILE_SIDES:
            sides = Z_STACK_TILE_PLANES, max(side, MIN_OVERLAPS_PER_TILE * halo)
            tiles = cut_z_stack_tiles(grid, sides, (1, halo), is_plane_by_plane=True)
            yield Tiling(side, tiles)
        return
    # The halo is CONTEXT_RADIUS plus the radius of a PSF. For volumes, VOLUME_OVERLAP_PIXELS takes
    # the place of the first; the second is kept in full.
    psf_halo = ceil((halo - CONTEXT_RADIUS) / TILE_ALIGNMENT) * TILE_ALIGNMENT
    overlap = psf_halo + VOLUME_OVERLAP_PLANES, psf_halo + VOLUME_OVERLAP_PIXELS
    largest_depth, _ = VOLUME_TILE_SIZES[0]
    for depth, side in ((largest_depth, side_setting),) if side_setting else VOLUME_TILE_SIZES:
        sides = (
            max(depth, MIN_OVERLAPS_PER_TILE * psf_halo),
            max(side, MIN_OVERLAPS_PER_TILE * overlap[1]),
        )
        yield Tiling(side, cut_z_stack_tiles(grid, sides, overlap, is_plane_by_plane=False))


def cut_half_resolution_tiles(
    halo: int, header: ImageHeader, tiles: tuple[Tile, ...]
) -> tuple[Tile, ...]:
    """Cut tiles for a half-resolution fit, whose halo covers twice as many image pixels.

    It takes no more memory, since a fit has a quarter of the pixels.
    """
    halo = ceil(2 * halo / TILE_ALIGNMENT) * TILE_ALIGNMENT
    widest = max(max(tile.core.size[-2:]) for tile in tiles)
    side = max(widest, MIN_HALF_RESOLUTION_SIDE, MIN_OVERLAPS_PER_TILE * halo)
    return cut_plane_tiles(header.grid, side, halo)


def estimate_memory(
    image_plan: ImagePlan,
    fit_config: FitConfig,
    tiles: tuple[Tile, ...] = (),
    *,
    uses_bfloat16: bool,
) -> tuple[int, int]:
    """Estimate memory in bytes: that of the images on any device, and the total.

    Parameters
    ----------
    image_plan : ImagePlan
    fit_config : FitConfig
    tiles : tuple of Tile
        As in `Plan`.
    uses_bfloat16 : bool
        Whether the CPU has bfloat16 instructions.
    """
    header, layout = image_plan.header, image_plan.layout
    task_plan, grid = _plan_fit(image_plan, tiles), compute_fit_grid(image_plan, tiles)
    count = count_channels(header)
    joint_channels = count if task_plan.joint_channels else 1
    fit_header = make_fit_header(header, tiles)
    run_settings = image_plan.recipe.run_settings
    has_repeatability_runs = run_settings.halves or run_settings.null_control
    plane_count = (1 + has_repeatability_runs) * count * layout.count_items(fit_header)
    image_bytes = estimate_image_memory(grid, plane_count)
    item_count = layout.count_items(header)
    takes_neighbours = PRIOR_SPECS[fit_config.prior_key].input_traits.has_neighbour_frames
    takes_neighbours &= task_plan.uses_neighbouring_frames and not layout.is_volume
    total_bytes = image_bytes + estimate_fit_memory(
        grid,
        joint_channels,
        fit_config,
        uses_bfloat16=uses_bfloat16,
        neighbours=min(2, item_count - 1) if takes_neighbours else 0,
    )
    if (
        not layout.is_volume
        and get_series_training(task_plan, fit_config.prior_key, item_count) == "joint"
    ):
        total_bytes += estimate_training_memory(item_count, header.grid, joint_channels)
    if tiles:
        total_bytes += int(
            TILE_RUN_OVERHEAD_BYTES + fit_header.pixel_count * TILE_PIXEL_OVERHEAD_BYTES
        )
        result_bytes = min(4 * header.pixel_count, MAX_IN_MEMORY_RESULT_BYTES)
        total_bytes += RESULT_IMAGE_COUNT * result_bytes
        measured_pixels = min(header.pixel_count, count * MAX_MEASURED_PIXELS)
        total_bytes = max(total_bytes, MEASUREMENT_PIXEL_BYTES * measured_pixels)
    return image_bytes, total_bytes


def estimate_run(
    image_plan: ImagePlan,
    fit_config: FitConfig,
    units: Sequence[WorkUnit],
    tiles: tuple[Tile, ...],
    device: str,
    threads: int,
    *,
    cpu: CpuSpeed,
) -> tuple[int, CostEstimate]:
    """Estimate the peak memory of a run in bytes, and its costs."""
    _, peak_bytes = estimate_memory(image_plan, fit_config, tiles, uses_bfloat16=cpu.has_bfloat16)
    return peak_bytes, estimate_costs(
        compute_fit_grid(image_plan, tiles),
        units,
        device,
        threads,
        fit_config,
        image_plan.task_plan,
        cpu=cpu,
    )


def compute_fit_grid(image_plan: ImagePlan, tiles: tuple[Tile, ...]) -> tuple[int, ...]:
    """Return the size of the network's output in one fit, that of the largest tile."""
    grid = _plan_fit(image_plan, tiles).network_grid
    assert grid is not None
    return grid


def _plan_fit(image_plan: ImagePlan, tiles: tuple[Tile, ...]) -> TaskPlan:
    """Return the task's plan for one fit, that of the largest tile."""
    header = make_fit_header(image_plan.header, tiles)
    task, axes = image_plan.recipe.task, image_plan.layout.grid_axes
    return raise_if_refused(plan_task(task, header, image_plan.extra_headers, axes))


def make_fit_header(header: ImageHeader, tiles: tuple[Tile, ...]) -> ImageHeader:
    """Return the header of the image of one fit: the whole, or its largest tile."""
    return find_largest_tile(tiles).make_header(header) if tiles else header


def list_tile_notes(side: int, tiles: tuple[Tile, ...]) -> tuple[Note, ...]:
    """Return the notes on tiles."""
    *depth, height, width = find_largest_tile(tiles).size
    sizes = {"count": len(tiles), "height": height, "width": width, "side": side}
    if not depth:
        return (make_note(TILE_NOTES[0], **sizes),)
    is_plane_by_plane = any(tile.z is not None and tile.z.is_context_only for tile in tiles)
    return (make_note(TILE_NOTES[1], **sizes, depth=depth[0], apart=is_plane_by_plane),)
