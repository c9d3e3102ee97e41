"""The skewness of noise is measured from one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.priors.r2r import MAX_SKEWNESS, estimate_count_skewness

GAIN = 0.1


def measure_from_image(
    noisy: np.ndarray, mask: torch.Tensor | None = None, reach: int = 0
) -> float:
    image = torch.from_numpy(noisy.astype(np.float32))[None, None]
    ones = torch.ones(1, 1, 1, 1)
    noise = NoiseVariance(gain=GAIN * ones, intercept=1e-6 * ones, floor=1e-6 * ones)
    lags = (((0.5,) * reach,) * 2) if reach else None
    everywhere = torch.ones_like(image) if mask is None else mask
    return float(estimate_count_skewness(image, everywhere, noise, lags))


def make_scene(side: int = 256) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return 0.5 + 0.3 * np.sin(x / 19) * np.cos(y / 23)


def test_counts_are_distinguished_from_symmetric_noise() -> None:
    rng, truth = np.random.default_rng(0), make_scene()
    counts = GAIN * rng.poisson(truth / GAIN)
    assert measure_from_image(counts + rng.normal(0, 0.02 * GAIN, truth.shape)) == pytest.approx(
        1, abs=0.15
    )
    assert measure_from_image(truth + rng.normal(0, 1, truth.shape) * np.sqrt(GAIN * truth)) < 0.1


def test_whole_numbers_of_photons_have_exactly_their_skewness() -> None:
    rng, truth = np.random.default_rng(0), make_scene()
    assert measure_from_image(GAIN * rng.poisson(truth / GAIN) - 0.123) == 1
    assert measure_from_image(0.9 * GAIN * rng.poisson(truth / GAIN)) not in (0, 1)


def test_multiplied_photons_are_measured_as_more_skewed() -> None:
    # each photon becomes an exponential number of electrons: variance 2 k g², third moment 6 k g³
    rng, truth = np.random.default_rng(0), make_scene()
    photons = rng.poisson(truth / (GAIN / 2))
    multiplied = GAIN / 2 * rng.gamma(np.maximum(photons, 1e-9))
    assert measure_from_image(multiplied) == pytest.approx(1.5, abs=0.2)


def test_neighbours_that_share_noise_are_passed_over() -> None:
    rng, truth = np.random.default_rng(0), make_scene()
    white = (rng.poisson(truth / GAIN) - truth / GAIN) * GAIN
    shared = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, 1, (0, 1))) / 2
    assert measure_from_image(truth + shared, reach=1) == pytest.approx(0.5, abs=0.1)
    assert measure_from_image(truth + shared) < 0.3


def test_unmeasured_pixels_have_no_effect_on_the_skewness() -> None:
    rng, truth = np.random.default_rng(0), make_scene()
    noisy = GAIN * rng.poisson(truth / GAIN)
    mask = torch.ones(1, 1, 256, 256)
    mask[..., 100:120, :] = 0
    spoilt = noisy.copy()
    spoilt[100:120] = 50
    assert measure_from_image(spoilt, mask) == measure_from_image(noisy, mask)


def test_texture_and_flat_images_end_within_the_bounds() -> None:
    spots = np.zeros((64, 64))
    spots[::3, ::3] = 1
    assert 0 <= measure_from_image(spots) <= MAX_SKEWNESS
    assert measure_from_image(np.full((8, 8), 0.3)) == 0
    assert measure_from_image(np.full((1, 5), 0.3)) == 0
