"""An outlier pixel changes nothing but itself."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import camera

import napari_dip as dip
from napari_dip.engine.noise.estimate import estimate_noise
from napari_dip.pipeline.assess.report import zero_residual_outliers
from napari_dip.pipeline.calibrate.inputs import compute_outlier_limits, fill_outliers

CLEAN = camera()[128:224, 128:224].astype(np.float64) * 0.7 + 20
NOISY = np.rint(np.clip(CLEAN + np.random.default_rng(0).normal(0, 12, CLEAN.shape), 0, 255))
PLACE = (40, 50)


def compute_psnr(image: np.ndarray) -> float:
    elsewhere = np.ones(CLEAN.shape, bool)
    elsewhere[38:43, 48:53] = False
    return float(10 * np.log10(255**2 / ((image - CLEAN)[elsewhere] ** 2).mean()))


def spoil_pixels(value: float, places=(PLACE,)) -> np.ndarray:
    image = NOISY.astype(np.float32)
    for place in places:
        image[place] = value
    return image


@pytest.fixture(scope="module")
def usual_psnr() -> float:
    return compute_psnr(
        dip.denoise(NOISY.astype(np.float32), preset="fast", max_iterations=40).image
    )


@pytest.mark.long
@pytest.mark.parametrize("value", [65535.0, 1e6, -1e6])
def test_one_wild_pixel_costs_the_others_nothing_and_comes_back_as_it_was(value, usual_psnr):
    result = dip.denoise(spoil_pixels(value), preset="fast", max_iterations=40)
    assert compute_psnr(result.image) > usual_psnr - 0.3
    assert result.image[PLACE] == value
    assert result.residual[PLACE] == pytest.approx(0, abs=60)
    assert any("far outside the range of all others: 1" in note for note in result.report["notes"])


@pytest.mark.long
def test_three_wild_pixels_in_a_row_cost_the_others_nothing(usual_psnr):
    places = [(40, 49), (40, 50), (40, 51)]
    result = dip.denoise(spoil_pixels(1e6, places), preset="fast", max_iterations=40)
    assert compute_psnr(result.image) > usual_psnr - 0.3
    assert all(result.image[place] == 1e6 for place in places)


@pytest.mark.long
def test_a_wild_pixel_keeps_its_own_type():
    image = NOISY.astype(np.uint16)
    image[PLACE] = 65535
    result = dip.denoise(image, preset="fast", max_iterations=8, dtype="same")
    assert result.image.dtype == np.uint16
    assert result.image[PLACE] == 65535


@pytest.mark.long
def test_a_wild_pixel_is_filled_in_where_the_result_has_other_pixels():
    result = dip.super_resolve(spoil_pixels(1e6), factor=2, preset="fast", max_iterations=8)
    assert result.image.max() < 1000
    assert any("filled in from their surroundings" in note for note in result.report["notes"])


@pytest.mark.long
def test_a_wild_pixel_comes_back_from_tiles(usual_psnr):
    image = np.tile(spoil_pixels(1e6), (2, 2))
    result = dip.denoise(image, preset="fast", max_iterations=20, tile=128)
    assert result.report["tiles"]["count"] > 1
    for y, x in ((40, 50), (40, 146), (136, 50), (136, 146)):
        assert result.image[y, x] == 1e6
        assert abs(result.residual[y, x]) < 100
    notes = [note for note in result.report["notes"] if "range of all others" in note]
    assert len(notes) == 1
    assert "others: 4 (up to 1e+06)" in notes[0]
    assert compute_psnr(np.asarray(result.image)[:96, :96]) > usual_psnr - 2


def test_the_noise_of_an_image_does_not_hang_on_one_pixel():
    import torch

    plain, wild = (
        estimate_noise(torch.from_numpy(image[None]), 1.0) for image in (NOISY, spoil_pixels(1e6))
    )
    at = float(NOISY.mean())
    variances = [estimate.gain * at + estimate.intercept for estimate in (plain, wild)]
    assert variances[1] == pytest.approx(variances[0], rel=0.1)


def test_a_spot_as_sharp_as_a_pixel_is_no_outlier():
    """Of a normal law 1 pixel wide at half height, summed over pixels, at any place in a pixel."""
    rng = np.random.default_rng(0)
    grid = np.arange(-8, 9)
    for shift in rng.uniform(-0.5, 0.5, (50, 2)):
        fine = np.linspace(-0.5, 0.5, 21)
        along = [
            np.exp(-4 * np.log(2) * (grid[:, None] + fine - centre) ** 2).sum(1) for centre in shift
        ]
        spot = np.outer(*along)
        image = rng.normal(100, 5, (160, 160))
        image[20:37, 20:37] += 20000 * spot / spot.max()
        parts = image[None, None].astype(np.float32)
        limits = compute_outlier_limits(parts[:, 0], None)
        assert limits[1] < 5000
        assert fill_outliers(parts, None, (limits,))[0] is parts


def test_unmeasured_pixels_are_no_outliers():
    parts = spoil_pixels(1e6)[None, None]
    mask = parts < 1e5
    limits = compute_outlier_limits(parts[:, 0], mask[:, 0])
    assert fill_outliers(parts, mask, (limits,))[0] is parts


def test_a_residual_of_noise_has_nothing_odd():
    residual = np.random.default_rng(0).normal(0, 3, (2, 1, 64, 64))
    assert zero_residual_outliers(residual) is residual
    residual[0, 0, 5, 5] = 1e6
    assert abs(zero_residual_outliers(residual).mean()) < 0.2


def test_what_was_not_measured_does_not_make_a_residual_odd():
    residual = np.random.default_rng(0).normal(0.3, 3, (1, 2, 64, 64))
    residual[:, 1] = 0
    assert zero_residual_outliers(residual) is residual


def test_half_of_an_image_that_is_empty_does_not_make_the_rest_odd():
    residual = np.random.default_rng(0).normal(0.3, 3, (1, 1, 64, 64))
    residual[..., :32] *= 1e-6
    assert zero_residual_outliers(residual) is residual


def test_what_is_odd_is_found_in_any_plane():
    residual = np.random.default_rng(0).normal(0, 3, (16, 1, 32, 32))
    residual[3, 0, 5, 5] = 1e7
    assert np.abs(zero_residual_outliers(residual)).max() < 30


def test_a_channel_of_one_value_leaves_the_mean_of_the_other_as_it_is():
    both = np.stack([NOISY.astype(np.float32), np.full_like(NOISY, 7, np.float32)])
    result = dip.denoise(both, axes="CYX", preset="fast", max_iterations=8)
    assert result.image[0].mean() == pytest.approx(NOISY.mean(), abs=1e-3)
