"""Weak noise is filtered although few iterations fit the structure no better than that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter

import napari_dip as dip

Image = npt.NDArray[np.float64]


def draw_discs(side: int) -> Image:
    """Draw eight discs with soft edges on a dark background, up to 1."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:side, :side]
    image = np.full((side, side), 6.0)
    for _ in range(8):
        row, column = rng.uniform(10, side - 10, 2)
        distance = np.hypot(y - row, x - column) - rng.uniform(8, 20)
        image += 30 / (1 + np.exp(distance / 1.5))
    scaled: Image = image / image.max()
    return scaled


DISCS = draw_discs(128)


def rms(error: Image) -> float:
    return float(np.sqrt(np.mean(error**2)))


def measure_best_gaussian(image: Image, truth: Image) -> float:
    return min(rms(gaussian_filter(image, sigma) - truth) for sigma in (0, 0.4, 0.6, 0.8, 1, 1.3))


@pytest.mark.parametrize("photons", [5_000, 20_000])
def test_weak_noise_is_filtered_better_than_by_the_best_gaussian(photons: int) -> None:
    truth = photons * DISCS
    image = np.random.default_rng(0).poisson(truth).astype(np.uint16)
    result = dip.denoise(image, preset="instant", seed=0)
    assert rms(result.image - truth) < 0.65 * measure_best_gaussian(image.astype(float), truth)


def test_holes_keep_the_prediction() -> None:
    truth = 20_000 * DISCS
    image = np.random.default_rng(0).poisson(truth).astype(np.uint16)
    mask = np.zeros(image.shape, bool)
    mask[20:104:12, 20:104:12] = True
    image[mask] = 0
    result = dip.inpaint(image, mask, unmasked="denoise", preset="instant", seed=0)
    best = measure_best_gaussian(np.where(mask, truth, image), truth)
    assert rms((result.image - truth)[~mask]) < 0.7 * best
    assert rms((result.image - truth)[mask]) < 0.005 * truth.max()
