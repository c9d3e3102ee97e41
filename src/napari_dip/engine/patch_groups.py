"""Find groups of similar patches, and average what a filter makes of them.

Patches are matched and filtered in blocks of groups, which fit into the processor's cache. Each
thread takes a block of its own: the operations of one block are too small to be shared.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.fit.optimizers import use_single_thread
from napari_dip.engine.noise.flat_blocks import DCT_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: Side of a patch in pixels, similar to BM3D (docs/constants.md).
PATCH_SIDE = DCT_SIDE
#: Distance of groups in pixels; denser ones gain at most 0.05 dB.
GROUP_STEP = 4
#: Distance of sparse groups in pixels: they just cover all pixels.
SPARSE_GROUP_STEP = 2 * GROUP_STEP
#: Search radius in pixels; larger ones gain at most 0.05 dB.
SEARCH_RADIUS = 16
#: Patches in a group, for white noise: best of 32, 40 and 64 on 19 photographs (docs/constants.md).
GROUP_SIZE = 32
#: Side of the search window in pixels.
SEARCH_SIDE = 2 * SEARCH_RADIUS + 1
#: Groups along each side of a block, an even number, for `select_sparse_groups`. Its search area
#: fits into the cache: 12 takes as long.
GROUPS_PER_BLOCK_SIDE = 16
#: Groups that a processor filters at a time: 256 take 100 MB more for three channels, and a tenth
#: longer. A GPU filters a block at a time.
CPU_GROUP_COUNT = 64
#: Beta of the Kaiser window that weights overlapping patches, as in BM3D.
_KAISER_BETA = 2.0
#: Lower bound of the noise that is left in a group, in units of that of one pixel.
MIN_REMAINING_NOISE = 0.05
BlockT = TypeVar("BlockT")
ResultT = TypeVar("ResultT")


class PatchBlock(NamedTuple):
    """Groups of patches that are processed together.

    Attributes
    ----------
    rows, columns : slice
        Search area of the groups in the image.
    patch_indices : Tensor
        (rows of groups, columns of groups, K) int32, flat index of each patch's first pixel in that
        area, the most similar ones first; each group begins with its reference patch.
    """

    rows: slice
    columns: slice
    patch_indices: Tensor

    def select_sparse_groups(self) -> PatchBlock:
        """Return every second group along each axis, whose patches lie side by side."""
        return self._replace(patch_indices=self.patch_indices[::2, ::2])


def compute_patch_padding(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the padding for `torch.nn.functional.pad` up to an odd number of groups.

    Every second group is then enough to cover all pixels.
    """
    step = SPARSE_GROUP_STEP
    bottom, right = (step * ceil((side - PATCH_SIDE) / step) + PATCH_SIDE - side for side in shape)
    return 0, right, 0, bottom


def group_patches(
    matching_image: Tensor, group_size: int = GROUP_SIZE, step: int = GROUP_STEP
) -> list[PatchBlock]:
    """Return groups of similar patches.

    In an image with fewer patches than a group, some are repeated.

    Parameters
    ----------
    matching_image : Tensor
        (C, Y, X), padded as by `compute_patch_padding`.
    group_size : int
        Number of patches in a group.
    step : int
        Distance of groups in pixels: `GROUP_STEP` or `SPARSE_GROUP_STEP`.
    """
    rows, columns = (_list_block_starts(side, step) for side in matching_image.shape[1:])

    def match(block_starts: tuple[range, range]) -> PatchBlock:
        return _match_patches(matching_image, *block_starts, group_size)

    return list(_map_blocks(match, product(rows, columns), matching_image.device))


def _list_block_starts(side: int, step: int) -> list[range]:
    """Return the first pixels of the patches of each block along an axis of this many pixels."""
    starts = range(0, side - PATCH_SIDE + 1, step)
    count = GROUPS_PER_BLOCK_SIDE * GROUP_STEP // step  # blocks of the same size
    return [starts[first : first + count] for first in range(0, len(starts), count)]


def _map_blocks(
    function: Callable[[BlockT], ResultT], blocks: Iterable[BlockT], device: torch.device
) -> Iterator[ResultT]:
    """Yield the results in order. A processor's threads work on one block each.

    On two threads, the refinement of 256 x 256 pixels takes 0.3 s, and 0.65 s where PyTorch shares
    each operation between them.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(function, blocks)
        return
    with (
        use_single_thread(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield from pool.map(torch.no_grad()(function), blocks)


def _match_patches(
    matching_image: Tensor, rows: range, columns: range, group_size: int
) -> PatchBlock:
    """Group the patches that begin in these rows and columns with the most similar ones."""
    padding, search_slices = zip(
        *(
            _find_search_area(*span)
            for span in zip((rows, columns), matching_image.shape[1:], strict=True)
        ),
        strict=True,
    )
    distances = _compute_patch_distances(
        matching_image[:, search_slices[0], search_slices[1]], padding, rows, columns
    )
    nearest = distances.topk(group_size, largest=False)
    matches = nearest.indices.where(nearest.values < torch.inf, nearest.indices[..., :1])
    dy, dx = matches // SEARCH_SIDE - SEARCH_RADIUS, matches % SEARCH_SIDE - SEARCH_RADIUS
    reference_rows, reference_columns = (
        torch.arange(len(span), device=matches.device) * span.step + span[0] - searched.start
        for span, searched in zip((rows, columns), search_slices, strict=True)
    )
    width = search_slices[1].stop - search_slices[1].start
    indices = (reference_rows[:, None, None] + dy) * width + reference_columns[:, None] + dx
    return PatchBlock(search_slices[0], search_slices[1], indices.int())


def _find_search_area(starts: range, side: int) -> tuple[tuple[int, int], slice]:
    """Return the padding of the search area before and after the image, and its slice of it."""
    first_start, last_start = starts[0] - SEARCH_RADIUS, starts[-1] + SEARCH_RADIUS
    max_start = side - PATCH_SIDE
    padding = max(0, -first_start), max(0, last_start - max_start)
    return padding, slice(first_start + padding[0], last_start - padding[1] + PATCH_SIDE)


def _compute_patch_distances(
    search_area: Tensor, padding: tuple[tuple[int, int], ...], rows: range, columns: range
) -> Tensor:
    """Return squared distances less a constant: (len(rows), len(columns), SEARCH_SIDE²).

    They are -inf for the reference patch itself, which so comes first, and inf in the padding.
    |a - b|² = |a|² + |b|² - 2 a b is fastest as a matrix product. Relative to the search area's
    mean, rounding selects another patch once in 80,000 times.
    """
    centred = search_area - search_area.mean((1, 2), keepdim=True)
    windows = centred.unfold(1, PATCH_SIDE, 1).unfold(2, PATCH_SIDE, 1).permute(1, 2, 0, 3, 4)
    patches = windows.reshape(*windows.shape[:2], -1)  # (h, w, C P²)
    lengths = torch.einsum("yxd,yxd->yx", patches, patches)
    (top, bottom), (left, right) = padding
    sides = (left, right, top, bottom)
    if any(sides):
        patches = F.pad(patches, (0, 0, *sides))
        lengths = F.pad(lengths, sides, value=torch.inf)
    _, width, depth = patches.shape
    row_count, column_count, step = len(rows), len(columns), rows.step
    references = patches[SEARCH_RADIUS:-SEARCH_RADIUS:step, SEARCH_RADIUS:-SEARCH_RADIUS:step]
    # the search area of a row of groups is SEARCH_SIDE whole rows, contiguous in memory
    size = SEARCH_SIDE * width
    search_layout = (row_count, depth, size), (step * width * depth, 1, depth)
    search_lengths = lengths.as_strided((row_count, 1, size), (step * width, 0, 1))
    banded = torch.baddbmm(search_lengths, references, patches.as_strided(*search_layout), alpha=-2)
    strides = column_count * size, size + step, width, 1
    search_grid = row_count, column_count, SEARCH_SIDE, SEARCH_SIDE
    distances = banded.as_strided(search_grid, strides).flatten(2)
    distances[..., SEARCH_SIDE**2 // 2] = -torch.inf
    return distances


class FilteredGroups(NamedTuple):
    """Values of all patches, each (G, K or 1, P²), the first (G, K, P²), and noise left (G,)."""

    values: tuple[Tensor, ...]
    remaining_noise: Tensor


def filter_patch_groups(
    images: Sequence[Tensor],
    blocks: Sequence[PatchBlock],
    filter_groups: Callable[..., FilteredGroups],
) -> Tensor:
    """Filter all groups of these images, (C, Y, X) each, and average each value: (V, Y, X)."""
    window = torch.kaiser_window(PATCH_SIDE, periodic=False, beta=_KAISER_BETA).to(images[0])
    window = (window[:, None] * window).flatten()
    filter_block = partial(_filter_block, images, filter_groups, window)
    sums: Tensor | None = None
    filtered_blocks = _map_blocks(filter_block, blocks, window.device)
    for block, block_sums in zip(blocks, filtered_blocks, strict=True):
        if sums is None:
            sums = window.new_zeros(len(block_sums), *images[0].shape[1:])
        sums[:, block.rows, block.columns] += block_sums
    assert sums is not None  # each image has a group
    return sums[:-1] / sums[-1]


def _filter_block(
    images: Sequence[Tensor],
    filter_groups: Callable[..., FilteredGroups],
    window: Tensor,
    block: PatchBlock,
) -> Tensor:
    """Return weighted sums of the values, and the weights, in the search area of a block."""
    crops = [image[:, block.rows, block.columns] for image in images]
    pixel_offsets = torch.arange(PATCH_SIDE, device=window.device, dtype=torch.int32)
    offsets = (pixel_offsets[:, None] * crops[0].shape[2] + pixel_offsets).flatten()
    sums: Tensor | None = None
    block_groups = block.patch_indices.flatten(0, 1)
    group_count = CPU_GROUP_COUNT if window.device.type == "cpu" else len(block_groups)
    for groups in block_groups.split(group_count):
        indices = groups[..., None] + offsets  # (G, K, P²)
        filtered = filter_groups(*(_gather_pixels(crop, indices) for crop in crops))
        patch_count = filtered.values[0].shape[1]
        weight = 1 / filtered.remaining_noise.clamp(min=MIN_REMAINING_NOISE)
        weight = (weight[:, None, None] * window).expand(-1, patch_count, -1)
        values = (*(weight * value for value in filtered.values), weight)
        if sums is None:
            sums = window.new_zeros(len(values), crops[0][0].numel())
        for total, value in zip(sums, values, strict=True):
            total.index_add_(0, indices[:, :patch_count].flatten(), value.flatten())
    assert sums is not None  # each block has a group
    return sums.reshape(-1, *crops[0].shape[1:])


def _gather_pixels(image: Tensor, indices: Tensor) -> Tensor:
    """Return the pixels (C, *indices) of an image (C, Y, X) at flat indices."""
    channels = [channel.flatten().index_select(0, indices.flatten()) for channel in image]
    return torch.stack(channels).reshape(-1, *indices.shape)
