"""Similar patches are found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.patch_groups import (
    GROUP_SIZE,
    GROUP_STEP,
    GROUPS_PER_BLOCK_SIDE,
    PATCH_SIDE,
    SEARCH_RADIUS,
    SPARSE_GROUP_STEP,
    compute_patch_padding,
    group_patches,
)


def list_groups(image: Tensor, step: int = GROUP_STEP) -> dict[tuple[int, int], Tensor]:
    """First pixels (GROUP, 2) of each group's patches, by the first one of its own."""
    groups = {}
    for rows, columns, places in group_patches(image, step=step):
        width = columns.stop - columns.start
        for group in places.flatten(0, 1).long():
            corners = torch.stack([group // width + rows.start, group % width + columns.start], 1)
            groups[int(corners[0, 0]), int(corners[0, 1])] = corners
    return groups


def measure_distance(image: Tensor, first: tuple[int, int], other: tuple[int, int]) -> float:
    cut = [image[:, y : y + PATCH_SIDE, x : x + PATCH_SIDE] for y, x in (first, other)]
    return float((cut[0] - cut[1]).square().sum())


@pytest.mark.parametrize("size", [(32, 41), (3 * GROUPS_PER_BLOCK_SIDE + 20, 35)])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_patch_within_reach_looks_more_alike(size: tuple[int, int], channels: int) -> None:
    rng = torch.Generator().manual_seed(0)
    image = 5 + torch.randn((channels, *size), generator=rng, dtype=torch.float64)
    groups = list_groups(image)
    last = tuple(side - PATCH_SIDE for side in size)
    assert set(groups) == {
        (y, x) for y in range(0, last[0] + 1, GROUP_STEP) for x in range(0, last[1] + 1, GROUP_STEP)
    }
    for own in [(0, 0), (last[0] - last[0] % GROUP_STEP, 0), (12, 16)]:
        near = (
            range(max(0, first - SEARCH_RADIUS), min(most, first + SEARCH_RADIUS) + 1)
            for first, most in zip(own, last, strict=True)
        )
        rows, columns = near
        every = sorted(measure_distance(image, own, (y, x)) for y in rows for x in columns)
        chosen = [measure_distance(image, own, (int(y), int(x))) for y, x in groups[own]]
        assert sorted(chosen) == pytest.approx(every[:GROUP_SIZE])


def test_a_patch_is_the_first_of_its_own_group_even_where_all_are_alike() -> None:
    groups = list_groups(torch.full((1, 14, 20), 3.0))
    assert len(groups) == 2 * 4


def test_an_image_of_one_patch_repeats_it() -> None:
    (block,) = group_patches(torch.rand(1, PATCH_SIDE, PATCH_SIDE))
    assert block.patch_indices.tolist() == [[[0] * GROUP_SIZE]]


def test_a_bright_image_is_searched_as_well_as_a_dark_one() -> None:
    """Rounding of large squares would choose patches by chance."""
    dark = torch.randn((1, 32, 41), generator=torch.Generator().manual_seed(0))
    for first, other in zip(group_patches(dark), group_patches(dark + 1000), strict=True):
        alike = (first.patch_indices.sort().values == other.patch_indices.sort().values).all(-1)
        assert float(alike.float().mean()) > 0.95


@pytest.mark.parametrize("shape", [(8, 8), (9, 12), (76, 40), (70, 136)])
def test_sparse_groups_cover_every_pixel_once(shape: tuple[int, int]) -> None:
    image = F.pad(torch.rand(1, 1, *shape), compute_patch_padding(shape), mode="replicate")[0]
    covered = torch.zeros(image.shape[1:])
    for block in group_patches(image):
        width = block.columns.stop - block.columns.start
        for start in block.select_sparse_groups().patch_indices[..., 0].flatten().tolist():
            row, column = start // width + block.rows.start, start % width + block.columns.start
            covered[row : row + PATCH_SIDE, column : column + PATCH_SIDE] += 1
    assert bool((covered == 1).all())


@pytest.mark.parametrize("size", [(8, 8), (152, 41), (40, 300)])
def test_sparse_groups_are_every_second_one_along_each_axis(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.randn((1, *size), generator=rng, dtype=torch.float64)
    image = F.pad(image[None], compute_patch_padding(size), mode="replicate")[0]
    every, sparse = list_groups(image), list_groups(image, SPARSE_GROUP_STEP)
    starts = [start for start in every if not any(side % SPARSE_GROUP_STEP for side in start)]
    assert sorted(sparse) == sorted(starts)
    for start in starts:  # rounding may exchange patches that are equally far
        assert sparse[start].sort(0).values.tolist() == every[start].sort(0).values.tolist()
