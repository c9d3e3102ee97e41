"""Padding, which holds no measurement, neither enters a fit nor changes in the result."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import rotate
from skimage.data import camera, cell

import napari_dip as dip
from napari_dip.pipeline.calibrate.inputs import fill_empty_areas, find_kept_pixels

SIDE = 128
CLEAN = camera()[100 : 100 + SIDE, 180 : 180 + SIDE].astype(np.float64) + 20
NOISY = (CLEAN + np.random.default_rng(0).normal(0, 12, CLEAN.shape)).astype(np.float32)


def pad_with(value: float, image: np.ndarray = NOISY) -> np.ndarray:
    padded = np.full_like(image, value)
    padded[..., 16:, :96] = image[..., 16:, :96]
    return padded


def find(plane: np.ndarray) -> np.ndarray:
    stack = plane.astype(np.float32)[None, None]
    return find_kept_pixels(stack, stack)[0, 0]


IS_PADDING = pad_with(1, np.zeros_like(NOISY)) > 0


@pytest.mark.parametrize("value", [0, -100, 7.5])
def test_padding_is_found_to_the_pixel(value):
    np.testing.assert_array_equal(find(pad_with(value)), IS_PADDING)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_corners_of_a_tomogram_are_empty_though_the_noise_around_is_darker_and_brighter(dtype):
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    is_corner = np.hypot(y, x) > SIDE / 2
    noise = np.random.default_rng(3).normal(0, 40, is_corner.shape).astype(dtype)
    detected = find(np.where(is_corner, 0, noise))
    assert not (detected & ~is_corner)[noise != 0].any()
    assert (detected & is_corner).sum() > 0.9 * is_corner.sum()


@pytest.mark.parametrize("factor", [1, 0.1, 1.5])
def test_an_area_of_one_value_in_a_faint_gradient_is_measured(factor):
    gradient = np.round(np.linspace(4, 12, SIDE))[:, None] + np.zeros(SIDE)
    gradient[0], gradient[-1] = 0, 255
    gradient[0, 0] = 254
    stretched = gradient * factor if factor < 1 else np.round(gradient * factor)
    assert not find(stretched)[1:-1].any()


def test_corners_of_a_rotated_image_are_found_but_for_their_tips():
    corners = rotate(np.ones_like(NOISY), 15, reshape=False, order=1) == 0
    detected = find(rotate(NOISY, 15, reshape=False, order=1))
    assert not (detected & ~corners).any()
    assert (detected & corners).sum() > 0.98 * corners.sum()


def test_a_black_background_with_sparse_photons_is_no_padding():
    photons = np.random.default_rng(0).poisson(np.where(cell()[:256, :256] < 90, 0.01, 3))
    assert (photons == 0).mean() > 0.2
    assert not find(photons).any()


def test_saturated_areas_are_no_padding():
    assert not find(np.minimum(NOISY, 100)).any()


def test_clipped_areas_are_no_padding():
    assert not find(np.maximum(NOISY, 100)).any()


def test_an_area_that_is_empty_in_one_channel_alone_is_measured():
    both = np.stack([pad_with(0), NOISY])[None]
    assert not find_kept_pixels(both, both).any()
    padded = np.stack([pad_with(0), pad_with(5)])[None]
    assert find_kept_pixels(padded, padded).any()


def test_what_fills_an_area_has_the_noise_of_the_image():
    noise = np.random.default_rng(1).normal(0, 12, (1, 1, SIDE, SIDE)).astype(np.float32)
    filled, count = fill_empty_areas(pad_with(-200, noise))
    assert count == IS_PADDING.sum()
    inside = filled[0, 0][IS_PADDING]
    assert inside.std() == pytest.approx(12, rel=0.05)
    assert np.isin(inside, noise[0, 0][~IS_PADDING]).all()


def test_a_thin_strip_fills_a_wide_area():
    strip = np.zeros((1, 1, 64, 200), np.float32)
    strip[..., :30] = np.random.default_rng(2).normal(100, 5, (64, 30))
    filled, _ = fill_empty_areas(strip)
    assert filled.min() > 70


def test_a_plane_of_padding_alone_is_not_filled():
    planes = np.stack([np.zeros((1, SIDE, SIDE), np.float32), NOISY[None]])
    assert fill_empty_areas(planes)[0] is planes


def test_padding_does_not_change_the_noise():
    plain, padded = (dip.measure_noise(image) for image in (NOISY[16:, :96], pad_with(0)))
    stds = [report.channels[0].darkest_std for report in (plain, padded)]
    assert stds[1] == pytest.approx(stds[0], rel=0.1)
    assert padded.lower_clipping.fraction == 0


@pytest.mark.parametrize("tile", [None, 128])
def test_padding_comes_back_as_it_was_and_the_rest_is_denoised(tile):
    image = np.kron(np.eye(2), np.ones((SIDE, SIDE))).astype(np.float32)
    image *= np.tile(NOISY, (2, 2))  # two empty quarters
    result = dip.denoise(image, preset="fast", max_iterations=8, tile=tile)
    is_empty = image == 0
    np.testing.assert_array_equal(result.image[is_empty], 0)
    np.testing.assert_array_equal(result.residual[is_empty], 0)
    assert any("50.0% of the pixels lie in areas" in note for note in result.report["notes"])
    assert result.report["verdict"]["kind"] == "fine"
    error = (np.asarray(result.image) - np.tile(CLEAN, (2, 2)))[~is_empty]
    assert error.std() < 8


def test_padding_does_not_shift_the_mean_of_the_rest():
    image = pad_with(0)
    result = dip.denoise(image, preset="fast", prior="random-input", max_iterations=2)
    assert result.image.mean(dtype=float) == pytest.approx(image.mean(dtype=float), rel=1e-5)


def test_padding_stays_black_where_black_pixels_fill_it():
    image = pad_with(0, np.maximum(NOISY - np.quantile(NOISY, 0.01), 0))
    result = dip.denoise(image, preset="fast", max_iterations=8)
    assert (fill_empty_areas(image[None, None])[0][0, 0][IS_PADDING] == 0).any()
    np.testing.assert_array_equal(result.image[IS_PADDING], 0)


def test_the_live_image_keeps_the_padding():
    previews = []

    def save_preview(event):
        if event.preview is not None:
            previews.append(event.preview)

    dip.denoise(pad_with(0), preset="fast", max_iterations=30, progress=save_preview)
    assert previews
    assert all((preview[IS_PADDING] == 0).all() for preview in previews)
