"""A plane or a stack cut into tiles that overlap, and weights by which they blend together.

Whether a picture or a stack is restored in tiles, and in which: asked before the start.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.costs import (
    count_channels,
    estimate_fit_memory,
    estimate_image_memory,
)
from napari_dip.pipeline.plan.joint_training import estimate_members_memory
from napari_dip.pipeline.plan.layout import get_stacked_axes
from napari_dip.pipeline.plan.types import Span, Tile
from napari_dip.tasks.base import RECEPTIVE_FIELD_RADIUS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Budget
    from napari_dip.pipeline.recipe import Recipe

#: Boundaries between tiles lie on multiples of this: a tile may then be halved by itself.
TILE_ALIGNMENT = 8


def cut_plane_tiles(grid: tuple[int, int], side: int, reach: int) -> tuple[Tile, ...]:
    """Cut a picture plane into tiles, as even as can be.

    Parameters
    ----------
    grid : tuple of int
        Height and width.
    side : int
        Most pixels along a tile, without what it shares.
    reach : int
        Pixels that it takes beyond the middle of what it shares, on each side that has a neighbour.

    Returns
    -------
    tuple of Tile
        Row by row; of one tile if the plane is no larger.
    """
    rows, columns = (_cut_axis(count, side, reach) for count in grid)
    return tuple(
        Tile(index=row * len(columns) + column, y=y, x=x)
        for row, y in enumerate(rows)
        for column, x in enumerate(columns)
    )


def cut_stack_tiles(
    grid: tuple[int, ...], sides: tuple[int, int], reach: tuple[int, int], *, apart: bool
) -> tuple[Tile, ...]:
    """Cut a stack into tiles.

    Parameters
    ----------
    grid : tuple of int
        Planes, height and width.
    sides, reach : tuple of int
        As for `cut_plane_tiles`, along Z and within the plane.
    apart : bool
        Whether planes are restored one by one: those next to a tile's own are only looked at.

    Returns
    -------
    tuple of Tile
        From plane to plane, then row by row.
    """
    depths = _cut_axis(grid[0], sides[0], reach[0], 1 if apart else TILE_ALIGNMENT)
    flat = cut_plane_tiles((grid[1], grid[2]), sides[1], reach[1])
    return tuple(
        Tile(
            index=place * len(flat) + plane.index,
            y=plane.y,
            x=plane.x,
            z=replace(z, is_context_only=apart),
        )
        for place, z in enumerate(depths)
        for plane in flat
    )


def find_largest_tile(tiles: tuple[Tile, ...]) -> Tile:
    """Give the tile with most pixels."""
    return max(tiles, key=lambda tile: prod(tile.size))


def _cut_axis(count: int, side: int, reach: int, grain: int = TILE_ALIGNMENT) -> list[Span]:
    parts = ceil(count / side)
    cuts = [round(count * part / parts / grain) * grain for part in range(parts)] + [count]
    pairs = list(pairwise(cuts))
    # only two tiles may share a pixel along an axis
    half = min((last - first) // 2 for first, last in pairs)
    reach = min(reach, half // grain * grain)
    return [
        Span(
            start=max(0, first - reach),
            stop=min(count, last + reach),
            core_start=first,
            core_stop=last,
        )
        for first, last in pairs
    ]


#: Sides that are tried where the memory asks for tiles, widest first. Wider ones gain nothing: per
#: pixel, the whole of 2,048 x 2,048 takes no less time than four tiles of it.
PLANE_TILE_SIDES = (1024, 768, 512, 384, 256)
#: The same for stacks, of which a tile holds that many planes; one plane beside them is looked at.
STACK_TILE_SIDES, STACK_TILE_PLANES = (512, 384, 256), 16
#: Planes and side of volumes that are tried, without what they share; and how far they share along
#: Z and within the plane, besides a PSF: half of what planes do, since three axes overlap.
VOLUME_TILE_SIZES = ((32, 192), (32, 128), (16, 96), (16, 64))
VOLUME_OVERLAP_PLANES, VOLUME_OVERLAP_PIXELS = 8, 16
#: Overlaps that a tile has, side by side, so that most of it is its own.
MIN_OVERLAPS_PER_TILE = 4
#: Least side where a picture is fitted at half its size: with 144 x 144 fitted pixels in each of
#: four tiles, FMD WideField_BPAE_B and R lost 0.26 and 0.18 dB, and R showed seams.
MIN_HALF_RESOLUTION_SIDE = 512
#: Regions and their side that stand for a large image where noise and range are measured, and
#: pixels up to which an image is measured whole.
SAMPLE_REGIONS, SAMPLE_REGION_SIDE = 8, 512
MAX_MEASURED_PIXELS = SAMPLE_REGIONS * SAMPLE_REGION_SIDE**2
#: Bytes for each pixel and channel while noise is measured: 113 at 4 megapixels, 155 at 1.
MEASUREMENT_PIXEL_BYTES = 155
#: What a run in tiles takes beside the fit of one: the sample, what measuring it left, and the copy
#: of a finished tile that checkpoints are made of; in all, and for each pixel of a tile (1,024 and
#: 1,536 pixels in four tiles each: 77 and 103 MB).
TILE_RUN_OVERHEAD_BYTES, TILE_PIXEL_OVERHEAD_BYTES = 55e6, 75
#: Bytes up to which a picture is handed over in memory, not as an array that stays on the disk; and
#: how many are. With four times as many, they took more than the tiles of a stack of 128 MB did.
MAX_IN_MEMORY_RESULT_BYTES, RESULT_IMAGES = 2**26, 3
#: Bytes for each value of an image that is no file: its picture, uncertainty and residual, which
#: are handed over as arrays.
RESULT_VALUE_BYTES = 12
#: Codes of the notes on tiles of planes and of stacks.
TILE_NOTES = ("tiles", "tiles-deep")


def choose_tiles(
    recipe: Recipe,
    source: ImageSpec,
    others: Mapping[str, ImageSpec],
    layout: Layout,
    budget: Budget,
    machine: Machine,
) -> tuple[int, tuple[Tile, ...]] | Refusal:
    """Choose tiles: those the recipe asks for, or the widest that the memory holds.

    Returns
    -------
    (side, tiles), or Refusal
        None where parts of this image cannot be restored by themselves, or not even the smallest
        tiles fit; a refusal where the recipe asks for tiles that cannot be.
    """
    none: tuple[int, tuple[Tile, ...]] = (0, ())
    prepared = recipe, source, others, layout, budget
    side_setting = recipe.run_settings.tile
    reach = None
    if "T" not in get_stacked_axes(source):
        reach = recipe.task.reach(source, others, layout.grid)
    if reach is None:
        return refusal("tile-impossible", name=source.name) if side_setting else none
    if source.path is None and RESULT_VALUE_BYTES * prod(source.shape) > machine.memory_bytes:
        return none
    for side, tiles in _iter_tilings(source, layout, reach, side_setting):
        if len(tiles) > 1 and (
            side_setting
            or estimate_memory(*prepared, tiles, half=machine.half)[1] <= machine.memory_bytes
        ):
            return side, tiles
    return none


def _iter_tilings(
    source: ImageSpec, layout: Layout, reach: int, side_setting: int | None
) -> Iterator[tuple[int, tuple[Tile, ...]]]:
    """Cut in all ways that are to be tried, best first; in that which was asked for alone."""
    if not get_stacked_axes(source):
        reach = ceil(reach / TILE_ALIGNMENT) * TILE_ALIGNMENT
        for side in (side_setting,) if side_setting else PLANE_TILE_SIDES:
            yield (
                side,
                cut_plane_tiles(source.grid, max(side, MIN_OVERLAPS_PER_TILE * reach), reach),
            )
        return
    grid = source.along("ZYX")
    if not layout.is_volume:
        reach = ceil(reach / TILE_ALIGNMENT) * TILE_ALIGNMENT
        for side in (side_setting,) if side_setting else STACK_TILE_SIDES:
            sides = STACK_TILE_PLANES, max(side, MIN_OVERLAPS_PER_TILE * reach)
            yield side, cut_stack_tiles(grid, sides, (1, reach), apart=True)
        return
    # what a network sees counts less than in a plane; what a PSF spreads counts in full
    spread = ceil((reach - RECEPTIVE_FIELD_RADIUS) / TILE_ALIGNMENT) * TILE_ALIGNMENT
    for depth, side in (
        ((VOLUME_TILE_SIZES[0][0], side_setting),) if side_setting else VOLUME_TILE_SIZES
    ):
        shared = spread + VOLUME_OVERLAP_PLANES, spread + VOLUME_OVERLAP_PIXELS
        sides = (
            max(depth, MIN_OVERLAPS_PER_TILE * spread),
            max(side, MIN_OVERLAPS_PER_TILE * shared[1]),
        )
        yield side, cut_stack_tiles(grid, sides, shared, apart=False)


def cut_half_resolution_tiles(
    recipe: Recipe, source: ImageSpec, others: Mapping[str, ImageSpec], tiles: tuple[Tile, ...]
) -> tuple[Tile, ...]:
    """Cut anew a picture that is fitted at half its size, where as many pixels reach twice as far.

    Nothing of it takes more memory: what is fitted has a quarter of the pixels.
    """
    reach = recipe.task.reach(source, others, "YX")
    assert reach is not None  # or there were no tiles
    reach = ceil(2 * reach / TILE_ALIGNMENT) * TILE_ALIGNMENT
    widest = max(
        max(tile.y.core_stop - tile.y.core_start, tile.x.core_stop - tile.x.core_start)
        for tile in tiles
    )
    return cut_plane_tiles(
        source.grid, max(widest, MIN_HALF_RESOLUTION_SIDE, MIN_OVERLAPS_PER_TILE * reach), reach
    )


def estimate_memory(
    recipe: Recipe,
    source: ImageSpec,
    others: Mapping[str, ImageSpec],
    layout: Layout,
    budget: Budget,
    tiles: tuple[Tile, ...] = (),
    *,
    half: bool,
) -> tuple[int, int]:
    """Estimate the memory that pictures take wherever they are fitted, and all of it, in bytes.

    Parameters
    ----------
    recipe, source, others, layout, budget
        Of the plan.
    tiles : tuple of Tile
        Empty: the whole at once.
    half : bool
        Whether the processor is made for half precision.
    """
    grid = compute_fit_grid(recipe, source, others, layout, tiles)
    count = count_channels(source)
    together = count if recipe.task.together(source) else 1
    header = make_fit_header(source, tiles)
    planes = estimate_image_memory(grid, count * layout.count(header))
    whole = planes + estimate_fit_memory(grid, together, budget, half=half)
    parts = layout.count(source)
    if not layout.is_volume and recipe.task.shares(budget.prior, parts) == "joint":
        whole += estimate_members_memory(parts, source.grid, together)
    if tiles:
        whole += int(TILE_RUN_OVERHEAD_BYTES + header.pixels * TILE_PIXEL_OVERHEAD_BYTES)
        whole += RESULT_IMAGES * min(4 * source.pixels, MAX_IN_MEMORY_RESULT_BYTES)
        whole = max(
            whole, MEASUREMENT_PIXEL_BYTES * min(source.pixels, count * MAX_MEASURED_PIXELS)
        )
    return planes, whole


def compute_fit_grid(
    recipe: Recipe,
    source: ImageSpec,
    others: Mapping[str, ImageSpec],
    layout: Layout,
    tiles: tuple[Tile, ...],
) -> tuple[int, ...]:
    """Size of what the network speaks of in one fit, in the largest tile."""
    return recipe.task.network_grid(make_fit_header(source, tiles), others, layout.grid)


def make_fit_header(source: ImageSpec, tiles: tuple[Tile, ...]) -> ImageSpec:
    """Describe what one fit sees: the image, or its largest tile."""
    return find_largest_tile(tiles).make_header(source) if tiles else source


def tile_notes(side: int, tiles: tuple[Tile, ...]) -> tuple[Note, ...]:
    """Say that there are tiles."""
    if not tiles:
        return ()
    *deep, height, width = find_largest_tile(tiles).size
    sizes = {"count": len(tiles), "height": height, "width": width, "side": side}
    if not deep:
        return (make_note(TILE_NOTES[0], **sizes),)
    apart = any(tile.z is not None and tile.z.is_context_only for tile in tiles)
    return (make_note(TILE_NOTES[1], **sizes, depth=deep[0], apart=apart),)
