"""An oversampled image is fitted at half its size, and the result has the full size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from napari_dip.errors.templates import NOTES

QUICK = {"preset": "fast", "max_iterations": 40, "device": "cpu"}


def draw_truth(height: int, width: int) -> np.ndarray:
    spots = np.random.default_rng(0).random((height, width))
    smooth = gaussian_filter(spots, 8, mode="reflect")
    return 100 + 3000 * (smooth - smooth.min())


def make_noisy(height: int = 96, width: int = 97) -> np.ndarray:
    grain = gaussian_filter(np.random.default_rng(1).normal(size=(height, width)), 1.2)
    return (draw_truth(height, width) + 20 * grain / grain.std()).astype(np.float32)


def measure_error(image: np.ndarray) -> float:
    return float(((image - draw_truth(*image.shape)) ** 2).mean())


@pytest.mark.long
@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
def test_an_oversampled_image_keeps_its_size_and_says_how_it_was_fitted(prior: str) -> None:
    result = dip.denoise(make_noisy(), prior=prior, **QUICK)
    assert NOTES["half-resolution"] in result.report["notes"]
    assert result.image.shape == result.uncertainty.shape == result.residual.shape == (96, 97)
    np.testing.assert_allclose(result.image + result.residual, make_noisy(), atol=1e-2)


@pytest.mark.long
def test_fitting_half_the_pixels_takes_the_noise_away() -> None:
    result = dip.denoise(make_noisy(), **{**QUICK, "max_iterations": 60})
    assert measure_error(result.image) < 0.4 * measure_error(make_noisy())


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"read_noise": 20.0}, {"gain": 0.0}])
def test_what_the_user_says_of_pixels_is_said_of_those_of_the_image(settings: dict) -> None:
    result = dip.denoise(make_noisy(), **QUICK, **settings)
    assert NOTES["half-resolution"] not in result.report["notes"]


@pytest.mark.long
def test_white_noise_is_fitted_as_it_is() -> None:
    white = draw_truth(96, 97) + np.random.default_rng(1).normal(0, 20, (96, 97))
    assert (
        NOTES["half-resolution"]
        not in dip.denoise(white.astype(np.float32), **QUICK).report["notes"]
    )
