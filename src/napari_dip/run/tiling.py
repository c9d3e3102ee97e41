"""Whether a picture is restored in tiles, and in which: asked before the start."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.run.costs import channel_count, estimate_fit, estimate_planes
from napari_dip.run.tiles import GRAIN, largest, tiles_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.io import ImageSpec
    from napari_dip.run.costs import Budget
    from napari_dip.run.layout import Layout
    from napari_dip.run.machine import Machine
    from napari_dip.run.recipe import Recipe
    from napari_dip.run.tiles import Tile

#: Sides that are tried where the memory asks for tiles, widest first. Wider ones gain nothing: per
#: pixel, a look at 1,024 x 1,024 already takes twice the time of one at 512 x 512, since it does
#: not stay in the processor's cache.
SIDES = (1024, 768, 512, 384, 256)
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
#: Bytes for each value of an image that is no file: its picture, uncertainty and residual, which
#: are handed over as arrays.
HANDED_OVER = 12
#: A note on a plan.
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
    wish = recipe.common.tile
    reach = None
    if len(layout.grid) == 2 and layout.count(source) == 1:
        reach = recipe.task.reach(source, others, layout.grid)
    if reach is None:
        return refusal("tile-impossible", name=source.name) if wish else none
    if source.path is None and HANDED_OVER * prod(source.shape) > machine.memory_bytes:
        return none
    reach = ceil(reach / GRAIN) * GRAIN
    least = OVERLAPS * reach
    if wish:
        tiles = tiles_of(source.grid, max(wish, least), reach)
        return (wish, tiles) if len(tiles) > 1 else none
    for side in SIDES:
        tiles = tiles_of(source.grid, max(side, least), reach)
        if len(tiles) > 1 and memory_of(recipe, source, others, layout, budget, tiles)[1] <= (
            machine.memory_bytes
        ):
            return side, tiles
    return none


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
) -> tuple[int, int]:
    """Estimate the memory that pictures take wherever they are fitted, and all of it, in bytes.

    Parameters
    ----------
    recipe, source, others, layout, budget
        Of the plan.
    tiles : tuple of Tile
        Empty: the whole at once.
    """
    grid = grid_of(recipe, source, others, layout, tiles)
    count = channel_count(source)
    together = count if recipe.task.together(source) else 1
    planes = estimate_planes(grid, count * layout.count(source))
    whole = planes + estimate_fit(grid, together, budget)
    if tiles:
        whole += int(BESIDE + count * prod(fitted_header(source, tiles).grid) * BESIDE_BYTES)
        whole = max(whole, MEASURING_BYTES * count * min(prod(source.grid), MEASURED_WHOLE))
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
    height, width = largest(tiles).size
    return (TILED.format(count=len(tiles), height=height, width=width, side=side),)
