"""What an image's own frequencies contradict is said to be unknown, and nothing else is."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter, median_filter

from napari_dip.engine.noise import hidden_block, measure_noise

Picture = npt.NDArray[np.float64]
SIDE = 192
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / SIDE


def doubt(picture: Picture) -> str:
    return measure_noise(torch.from_numpy(np.asarray(picture, np.float64))[None], 0).doubt


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def discs() -> Picture:
    """Even patches of several brightnesses, 0 to 1."""
    centres = rng().uniform(0, 1, (30, 2))
    apart = np.hypot(ROWS[..., None] - centres[:, 0], COLUMNS[..., None] - centres[:, 1])
    return gaussian_filter(np.linspace(0, 1, 30)[apart.argmin(-1)], 0.7)


def texture() -> Picture:
    """Even texture in every block, as of membranes or fabric: none of it is noise."""
    spots = gaussian_filter(rng().normal(size=(SIDE, SIDE)), 2.5)
    return 500 * (spots / spots.std())


@pytest.mark.parametrize("sigma", [5, 20])
def test_white_noise_on_patches_is_no_contradiction(sigma: int) -> None:
    assert doubt(300 * discs() + rng().normal(0, sigma, (SIDE, SIDE))) == ""


def test_photon_noise_on_patches_is_no_contradiction() -> None:
    assert doubt(2 * rng().poisson(300 * discs() + 5) + rng().normal(0, 4, (SIDE, SIDE))) == ""


def test_noise_blurred_by_less_than_a_pixel_is_no_contradiction() -> None:
    noise = gaussian_filter(rng().normal(size=(SIDE, SIDE)), 0.6)
    assert doubt(300 * discs() + 20 * noise / noise.std()) == ""


def test_texture_of_one_kind_everywhere_is_not_taken_for_noise() -> None:
    picture = torch.from_numpy(texture() + rng().normal(0, 20, (SIDE, SIDE)))[None]
    found = measure_noise(picture, 0)
    assert found.doubt == "correlation"
    assert hidden_block([found], (SIDE, SIDE)) == (1, 1)
    assert found.gain * 0 + found.intercept == pytest.approx(400, rel=0.15)  # once 2 to 20 times


@pytest.mark.parametrize("size", [2.0, 4.0])
def test_blotches_wider_than_can_be_measured_are_a_doubt(size: float) -> None:
    noise = gaussian_filter(rng().normal(size=(SIDE, SIDE)), size)
    assert doubt(300 * discs() + 20 * noise / noise.std())


@pytest.mark.parametrize("power", [3.0, 2.0])
def test_a_gamma_curve_is_a_doubt(power: float) -> None:
    shot = rng().poisson(300 * (0.1 + COLUMNS)) / 330
    assert doubt(255 * shot**power) == "brightness"


def test_speckle_is_a_doubt() -> None:
    light = 20 + 800 * COLUMNS
    assert doubt(light * rng().gamma(20, 1 / 20, light.shape)) == "brightness"


def test_light_that_only_fine_threads_have_does_not_tell_its_noise() -> None:
    """All that is bright is texture, and so is no sign of how the variance grows."""
    threads = gaussian_filter((rng().random((SIDE, SIDE)) > 0.99).astype(float), 1.2)
    light = 300 * np.clip(threads / threads.max(), 0, 1) * (COLUMNS > 0.7)
    assert doubt(200 + rng().normal(0, 5, light.shape) + 40 * rng().poisson(light)) == "brightness"


def test_heavy_tails_are_a_doubt() -> None:
    assert doubt(300 * discs() + 15 * rng().standard_t(3, (SIDE, SIDE))) == "tails"


@pytest.mark.parametrize(
    "filtered", [partial(gaussian_filter, sigma=0.6), partial(median_filter, size=3)]
)
def test_pictures_of_fine_threads_that_were_smoothed_are_not_taken_for_white(filtered) -> None:
    threads = gaussian_filter((rng().random((SIDE, SIDE)) > 0.97).astype(float), 1.2)
    shot = rng().poisson(20 + 400 * threads / threads.max())
    assert doubt(filtered(shot.astype(float))) in ("smoothed", "correlation")
