"""A plane or a stack cut into tiles that overlap, and weights by which they blend together.

Whether a picture or a stack is restored in tiles, and in which: asked before the start.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.pipeline.plan.costs import (
    count_channels,
    estimate_fit_memory,
    estimate_image_memory,
)
from napari_dip.pipeline.plan.layout import get_stacked_axes
from napari_dip.pipeline.plan.sharing import members_bytes
from napari_dip.pipeline.plan.types import Span, Tile
from napari_dip.tasks.base import RECEPTIVE_FIELD_RADIUS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Budget
    from napari_dip.pipeline.recipe import Recipe

#: Boundaries between tiles lie on multiples of this: a tile may then be halved by itself.
GRAIN = 8


def tiles_of(grid: tuple[int, int], side: int, reach: int) -> tuple[Tile, ...]:
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
    rows, columns = (_spans(count, side, reach) for count in grid)
    return tuple(
        Tile(row * len(columns) + column, y, x)
        for row, y in enumerate(rows)
        for column, x in enumerate(columns)
    )


def deep_tiles_of(
    grid: tuple[int, ...], sides: tuple[int, int], reach: tuple[int, int], *, apart: bool
) -> tuple[Tile, ...]:
    """Cut a stack into tiles.

    Parameters
    ----------
    grid : tuple of int
        Planes, height and width.
    sides, reach : tuple of int
        As for `tiles_of`, along Z and within the plane.
    apart : bool
        Whether planes are restored one by one: those next to a tile's own are only looked at.

    Returns
    -------
    tuple of Tile
        From plane to plane, then row by row.
    """
    depths = _spans(grid[0], sides[0], reach[0], 1 if apart else GRAIN)
    flat = tiles_of((grid[1], grid[2]), sides[1], reach[1])
    return tuple(
        Tile(place * len(flat) + one.index, one.y, one.x, replace(z, apart=apart))
        for place, z in enumerate(depths)
        for one in flat
    )


def largest(tiles: tuple[Tile, ...]) -> Tile:
    """Give the tile with most pixels."""
    return max(tiles, key=lambda tile: prod(tile.size))


def _spans(count: int, side: int, reach: int, grain: int = GRAIN) -> list[Span]:
    parts = ceil(count / side)
    cuts = [round(count * part / parts / grain) * grain for part in range(parts)] + [count]
    pairs = list(pairwise(cuts))
    # only two tiles may share a pixel along an axis
    half = min((last - first) // 2 for first, last in pairs)
    reach = min(reach, half // grain * grain)
    return [
        Span(max(0, first - reach), min(count, last + reach), first, last) for first, last in pairs
    ]


#: Sides that are tried where the memory asks for tiles, widest first. Wider ones gain nothing: per
#: pixel, the whole of 2,048 x 2,048 takes no less time than four tiles of it.
SIDES = (1024, 768, 512, 384, 256)
#: The same for stacks, of which a tile holds that many planes; one plane beside them is looked at.
STACK_SIDES, PLANES = (512, 384, 256), 16
#: Planes and side of volumes that are tried, without what they share; and how far they share along
#: Z and within the plane, besides a PSF: half of what planes do, since three axes overlap.
VOLUMES = ((32, 192), (32, 128), (16, 96), (16, 64))
DEEP_REACH, FLAT_REACH = 8, 16
#: Overlaps that a tile has, side by side, so that most of it is its own.
OVERLAPS = 4
#: Least side where a picture is fitted at half its size: with 144 x 144 fitted pixels in each of
#: four tiles, FMD WideField_BPAE_B and R lost 0.26 and 0.18 dB, and R showed seams.
LEAST_IF_HALVED = 512
#: Regions and their side that stand for a large image where noise and range are measured, and
#: pixels up to which an image is measured whole.
SAMPLES, SAMPLE_SIDE = 8, 512
MEASURED_WHOLE = SAMPLES * SAMPLE_SIDE**2
#: Bytes for each pixel and channel while noise is measured: 113 at 4 megapixels, 155 at 1.
MEASURING_BYTES = 155
#: What a run in tiles takes beside the fit of one: the sample, what measuring it left, and the copy
#: of a finished tile that checkpoints are made of; in all, and for each pixel of a tile (1,024 and
#: 1,536 pixels in four tiles each: 77 and 103 MB).
BESIDE, BESIDE_BYTES = 55e6, 75
#: Bytes up to which a picture is handed over in memory, not as an array that stays on the disk; and
#: how many are. With four times as many, they took more than the tiles of a stack of 128 MB did.
IN_MEMORY, PICTURES = 2**26, 3
#: Bytes for each value of an image that is no file: its picture, uncertainty and residual, which
#: are handed over as arrays.
HANDED_OVER = 12
#: A note on a plan.
TILED_DEEP = (
    "The stack is restored in {count} tiles of up to {depth} × {height} × {width} voxels, one "
    "after another, {joined}; noise and range are measured once for all of them. "
    "'Tile' {side} (--tile {side}) cuts it so on any computer."
)
JOINED = "which overlap and blend into each other"
APART = "plane by plane, which overlap within the plane and blend there"
TILED = (
    "The image is restored in {count} tiles of up to {height} × {width} pixels, one after another, "
    "which overlap and blend into each other; noise and range are measured once for all of them. "
    "'Tile' {side} (--tile {side}) cuts it so on any computer."
)


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
    ready = recipe, source, others, layout, budget
    wish = recipe.common.tile
    reach = None
    if "T" not in get_stacked_axes(source):
        reach = recipe.task.reach(source, others, layout.grid)
    if reach is None:
        return refusal("tile-impossible", name=source.name) if wish else none
    if source.path is None and HANDED_OVER * prod(source.shape) > machine.memory_bytes:
        return none
    for side, tiles in _ways(source, layout, reach, wish):
        if len(tiles) > 1 and (
            wish or memory_of(*ready, tiles, half=machine.half)[1] <= machine.memory_bytes
        ):
            return side, tiles
    return none


def _ways(
    source: ImageSpec, layout: Layout, reach: int, wish: int | None
) -> Iterator[tuple[int, tuple[Tile, ...]]]:
    """Cut in all ways that are to be tried, best first; in that which was asked for alone."""
    if not get_stacked_axes(source):
        reach = ceil(reach / GRAIN) * GRAIN
        for side in (wish,) if wish else SIDES:
            yield side, tiles_of(source.grid, max(side, OVERLAPS * reach), reach)
        return
    grid = source.along("ZYX")
    if not layout.volume:
        reach = ceil(reach / GRAIN) * GRAIN
        for side in (wish,) if wish else STACK_SIDES:
            sides = PLANES, max(side, OVERLAPS * reach)
            yield side, deep_tiles_of(grid, sides, (1, reach), apart=True)
        return
    # what a network sees counts less than in a plane; what a PSF spreads counts in full
    spread = ceil((reach - RECEPTIVE_FIELD_RADIUS) / GRAIN) * GRAIN
    for depth, side in ((VOLUMES[0][0], wish),) if wish else VOLUMES:
        shared = spread + DEEP_REACH, spread + FLAT_REACH
        sides = max(depth, OVERLAPS * spread), max(side, OVERLAPS * shared[1])
        yield side, deep_tiles_of(grid, sides, shared, apart=False)


def tiles_if_halved(
    recipe: Recipe, source: ImageSpec, others: Mapping[str, ImageSpec], tiles: tuple[Tile, ...]
) -> tuple[Tile, ...]:
    """Cut anew a picture that is fitted at half its size, where as many pixels reach twice as far.

    Nothing of it takes more memory: what is fitted has a quarter of the pixels.
    """
    reach = recipe.task.reach(source, others, "YX")
    assert reach is not None  # or there were no tiles
    reach = ceil(2 * reach / GRAIN) * GRAIN
    widest = max(max(tile.y.last - tile.y.first, tile.x.last - tile.x.first) for tile in tiles)
    return tiles_of(source.grid, max(widest, LEAST_IF_HALVED, OVERLAPS * reach), reach)


def memory_of(
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
    grid = grid_of(recipe, source, others, layout, tiles)
    count = count_channels(source)
    together = count if recipe.task.together(source) else 1
    seen = fitted_header(source, tiles)
    planes = estimate_image_memory(grid, count * layout.count(seen))
    whole = planes + estimate_fit_memory(grid, together, budget, half=half)
    parts = layout.count(source)
    if not layout.volume and recipe.task.shares(budget.prior, parts) == "together":
        whole += members_bytes(parts, source.grid, together)
    if tiles:
        whole += int(BESIDE + seen.pixels * BESIDE_BYTES)
        whole += PICTURES * min(4 * source.pixels, IN_MEMORY)
        whole = max(whole, MEASURING_BYTES * min(source.pixels, count * MEASURED_WHOLE))
    return planes, whole


def grid_of(
    recipe: Recipe,
    source: ImageSpec,
    others: Mapping[str, ImageSpec],
    layout: Layout,
    tiles: tuple[Tile, ...],
) -> tuple[int, ...]:
    """Size of what the network speaks of in one fit, in the largest tile."""
    return recipe.task.network_grid(fitted_header(source, tiles), others, layout.grid)


def fitted_header(source: ImageSpec, tiles: tuple[Tile, ...]) -> ImageSpec:
    """Describe what one fit sees: the image, or its largest tile."""
    return largest(tiles).header(source) if tiles else source


def tile_note(side: int, tiles: tuple[Tile, ...]) -> tuple[str, ...]:
    """Say that there are tiles."""
    if not tiles:
        return ()
    *deep, height, width = largest(tiles).size
    sizes = {"count": len(tiles), "height": height, "width": width, "side": side}
    if not deep:
        return (TILED.format(**sizes),)
    apart = any(tile.z is not None and tile.z.apart for tile in tiles)
    return (TILED_DEEP.format(**sizes, depth=deep[0], joined=APART if apart else JOINED),)
