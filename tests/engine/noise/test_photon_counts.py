"""Images of a detector that counts photons are recognised, and others are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dip.engine.noise.estimate import estimate_noise
from napari_dip.engine.noise.variance_model import find_photon_step

SIDE = 128


def make_counts(photons: float, seed: int = 0) -> np.ndarray:
    """Count photons of the cameraman, whose brightest pixel sends so many."""
    light = data.camera()[100 : 100 + SIDE, 150 : 150 + SIDE] / 255.0
    return np.random.default_rng(seed).poisson(photons * light).astype(np.float64)


def estimate(image: np.ndarray, mask: np.ndarray | None = None):
    planes = torch.from_numpy(np.ascontiguousarray(image))[None]
    return estimate_noise(planes, 0.0, None if mask is None else torch.from_numpy(mask)[None])


@pytest.mark.parametrize("photons", [0.5, 2, 10])
@pytest.mark.parametrize("photon_value", [1.0, 25.5, 5 / 3])
def test_the_gain_of_photon_counts_is_exact(photons, photon_value):
    measured = estimate((make_counts(photons) * photon_value).astype(np.float32))
    assert measured.counts_photons
    assert measured.gain == pytest.approx(photon_value, rel=1e-5)
    assert (measured.offset, measured.read_noise, measured.unreliable_reason) == (0.0, 0.0, None)


def test_photon_counts_are_recognised_beside_holes():
    image, mask = make_counts(4), np.ones((SIDE, SIDE), bool)
    mask[:, 40:60] = False
    image[~mask] = 0.37
    assert estimate(image, mask).counts_photons


def test_no_photon_count_is_cut_off_at_black():
    measured = estimate(make_counts(1))
    assert measured.clipping_limits == (-np.inf, np.inf)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(data.camera()[:SIDE, :SIDE].astype(np.float64), id="photograph"),
        pytest.param((data.camera()[:SIDE, :SIDE] // 24).astype(np.float64), id="coarse"),
        pytest.param((data.grass()[:SIDE, :SIDE] // 32).astype(np.float64), id="texture"),
        pytest.param(make_counts(4) + 3, id="offset"),
        pytest.param(np.rint(gaussian_filter(make_counts(8), 0.7)), id="smoothed"),
        pytest.param(np.rint(make_counts(8) * 0.7), id="rounded"),
        pytest.param(make_counts(4) * (1 + (make_counts(9, 1) > 3)), id="multiplied"),
        pytest.param((make_counts(3) > 1).astype(np.float64), id="mask"),
        pytest.param(make_counts(400), id="bright"),
    ],
)
def test_other_images_are_not_taken_for_photon_counts(image):
    assert not estimate(image).counts_photons


def test_grey_values_off_the_grid_are_no_counts():
    values = torch.tensor([0.0, 1.0, 2.0, 3.5, 4.0], dtype=torch.float64)
    assert find_photon_step(values) == pytest.approx(0.5)
    assert find_photon_step(values * 2.0**0.5 + 0.1) is None
    assert find_photon_step(values - 1) is None


def test_photon_counts_of_a_bright_texture_are_recognised():
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 0.8)
    light = np.full((SIDE, SIDE), 2.0)
    light[: SIDE // 2] = (20 + 8 * texture / texture.std()).clip(0)[: SIDE // 2]
    assert estimate(rng.poisson(light).astype(np.float64)).counts_photons


def test_photon_counts_of_a_grainy_object_are_recognised():
    rng = np.random.default_rng(0)
    light = data.cell()[:256, :256] / 255.0
    grains = 0.4 * rng.poisson((light**3).clip(0.01) * 30 / 0.4)
    assert estimate(rng.poisson(grains).astype(np.float64)).counts_photons


def test_noise_twice_as_strong_as_that_of_counts_is_no_photon_noise():
    rng = np.random.default_rng(0)
    light = data.cell()[:256, :256] / 255.0
    grains = 1.0 * rng.poisson((light**3).clip(0.01) * 30)
    assert not estimate(rng.poisson(grains).astype(np.float64)).counts_photons
