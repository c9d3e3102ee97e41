"""Whether a pixel is a validation pixel depends only on its position and the seed."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.prior import dilate_centres, draw_validation_centres


def test_overlapping_tiles_hold_out_the_same_pixels() -> None:
    whole = draw_validation_centres((90, 70), (1, 1), 0.1, seed=3)
    tile = draw_validation_centres((40, 30), (1, 1), 0.1, seed=3, origin=(25, 33))
    assert torch.equal(tile, whole[:, :, 25:65, 33:63])


@pytest.mark.parametrize("shape", [(128, 128), (24, 32, 40)])
def test_the_share_of_validation_pixels_is_as_requested(shape: tuple[int, ...]) -> None:
    block = (1,) * len(shape)
    assert float(draw_validation_centres(shape, block, 0.05, seed=0).mean()) == pytest.approx(
        0.05, abs=0.01
    )


def test_guards_take_no_more_than_the_share() -> None:
    centres = draw_validation_centres((256, 256), (5, 7), 0.06, seed=1)
    assert 0.04 < float(dilate_centres(centres, (5, 7)).mean()) <= 0.06


def test_another_seed_holds_out_other_pixels() -> None:
    first, second = (draw_validation_centres((64, 64), (1, 1), 0.2, seed=seed) for seed in (0, 1))
    assert 0 < float((first * second).sum()) < 0.5 * float(first.sum())


def test_validation_pixels_form_no_lattice() -> None:
    chosen = draw_validation_centres((256, 256), (1, 1), 0.05, seed=0)[0, 0]
    assert float(chosen.mean(0).std()) < 0.03
    assert float(chosen.mean(1).std()) < 0.03


def test_a_centre_grows_to_its_block() -> None:
    centre = torch.zeros(1, 1, 9, 9)
    centre[0, 0, 4, 4] = 1
    grown = dilate_centres(centre, (3, 5))
    assert float(grown.sum()) == 15
    assert float(grown[0, 0, 3:6, 2:7].sum()) == 15


def test_the_pixels_of_a_patch_share_one_fate() -> None:
    centres = draw_validation_centres((6, 32, 48), (1, 1, 1), 0.2, seed=0, patch_size=(1, 8, 8))
    patches = centres.reshape(6, 4, 8, 6, 8).mean((2, 4))
    assert set(patches.flatten().tolist()) == {0, 1}
    single = draw_validation_centres((32, 48), (1, 1), 0.2, seed=0)
    assert torch.equal(
        single, draw_validation_centres((32, 48), (1, 1), 0.2, seed=0, patch_size=(1, 1))
    )
