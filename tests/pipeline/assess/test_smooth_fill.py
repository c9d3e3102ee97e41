"""Holes that were filled in without the detail of their surroundings are recognised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from napari_dip.pipeline.assess.artefact_detection import SmoothFill, find_smooth_fill
from napari_dip.samples import make_masked_sample

NOISE = 20.0


def make_textured(shape: tuple[int, ...] = (1, 1, 96, 96)) -> np.ndarray:
    """Blobs about four pixels wide on a background, (N, C, Y, X)."""
    white = np.random.default_rng(0).normal(size=shape)
    blobs = gaussian_filter(white, (0,) * (len(shape) - 2) + (1.5, 1.5))
    return 1000 + 100 * blobs / blobs.std()


def mask_squares(shape: tuple[int, ...], side: int) -> np.ndarray:
    """True at measured pixels: 16 squares of a side are missing."""
    measured = np.ones(shape, bool)
    for row in range(8, shape[-2] - side, 24):
        for column in range(8, shape[-1] - side, 24):
            measured[..., row : row + side, column : column + side] = False
    return measured


def fill_smoothly(image: np.ndarray, measured: np.ndarray, depth: int) -> np.ndarray:
    """Replace pixels that are `depth` pixels or more from the rim by the mean of the image."""
    from scipy.ndimage import distance_transform_cdt

    inside = distance_transform_cdt(~measured[0, 0], metric="chessboard") >= depth
    return np.where(inside, image.mean(), image)


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_the_width_from_which_on_holes_are_smooth_is_measured(noise):
    truth = make_textured()
    measured = mask_squares(truth.shape, 14)
    fill = fill_smoothly(truth, measured, 3)
    noisy = fill + measured * np.random.default_rng(1).normal(0, noise, truth.shape)
    smooth = find_smooth_fill(noisy, measured, [noise**2])
    assert isinstance(smooth, SmoothFill) and smooth.widest == 14
    assert 2 <= smooth.width <= 4 and smooth.detail_ratio < 0.5


@pytest.mark.parametrize("side", [3, 14])
@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_holes_that_hold_the_truth_are_not_called_smooth(side, noise):
    truth = make_textured()
    measured = mask_squares(truth.shape, side)
    noisy = truth + measured * np.random.default_rng(1).normal(0, noise, truth.shape)
    assert find_smooth_fill(noisy, measured, [noise**2]) is None


def test_a_round_hole_is_as_wide_as_its_diameter():
    truth = make_textured()
    rows, columns = np.ogrid[:96, :96]
    measured = np.ones(truth.shape, bool)
    measured[0, 0] = np.hypot(rows - 48, columns - 48) >= 10  # 19 pixels across
    smooth = find_smooth_fill(fill_smoothly(truth, measured, 3), measured, [0.0])
    assert smooth is not None and abs(smooth.widest - 19) <= 1


def test_a_hole_at_the_border_is_not_counted_twice():
    truth = make_textured()
    measured = np.ones(truth.shape, bool)
    measured[..., -20:, 10:80] = measured[..., :18, :18] = False
    smooth = find_smooth_fill(fill_smoothly(truth, measured, 3), measured, [0.0])
    assert smooth is not None and smooth.widest == 20
    assert smooth.width <= 4  # at the border twice the depth


def test_where_there_is_no_detail_around_none_is_missed_in_holes():
    flat = np.full((1, 1, 96, 96), 1000.0) + np.linspace(0, 400, 96)
    measured = mask_squares(flat.shape, 14)
    assert find_smooth_fill(flat, measured, [0.0]) is None
    noisy = flat + measured * np.random.default_rng(1).normal(0, NOISE, flat.shape)
    assert find_smooth_fill(noisy, measured, [NOISE**2]) is None


def test_a_hole_in_one_plane_of_a_volume_is_as_wide_as_it_is_in_that_plane():
    truth = make_textured((1, 1, 3, 96, 96))
    measured = np.ones(truth.shape, bool)
    measured[:, :, 1] = mask_squares((1, 1, 96, 96), 10)
    smooth = find_smooth_fill(np.where(measured, truth, 1000.0), measured, [0.0])
    assert smooth is not None and smooth.widest == 10
    measured[:, :, 1] = False
    smooth = find_smooth_fill(np.where(measured, truth, 1000.0), measured, [0.0])
    assert smooth is None or smooth.widest == 0


def test_planes_that_are_missing_as_a_whole_do_not_stop_the_check():
    truth = make_textured((3, 1, 48, 48))
    measured = np.ones(truth.shape, bool)
    measured[1] = False
    assert find_smooth_fill(truth, measured, [0.0]) is None


def test_a_hole_beside_a_frame_that_is_missing_as_a_whole_is_checked_alone():
    truth = make_textured((2, 1, 96, 96))
    measured = np.ones(truth.shape, bool)
    measured[0] = mask_squares(truth.shape[1:], 20)
    measured[1] = False
    alone = find_smooth_fill(np.where(measured[:1], truth[:1], 1000.0), measured[:1], [0.0])
    both = find_smooth_fill(np.where(measured, truth, 1000.0), measured, [0.0])
    assert alone is not None and both == alone


@pytest.mark.long
def test_a_real_image_with_wide_holes_gets_the_warning_and_scratches_get_none():
    truth = make_masked_sample().truth[48:144, 48:144].astype(np.float32)
    codes = {}
    for side in (3, 20):
        mask = (~mask_squares(truth.shape, side)).astype(np.uint8)
        result = dip.inpaint(np.where(mask, 0, truth).astype(np.float32), mask, preset="instant")
        codes[side] = {code["code"] for code in result.report["verdict"]["codes"]}
    assert "holes-smooth" in codes[20]
    assert "holes-smooth" not in codes[3] and "holes-filled" in codes[3]
