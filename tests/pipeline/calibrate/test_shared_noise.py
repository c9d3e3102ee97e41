"""Noise that neighbours share looks like structure, and is measured in every second pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, median_filter, zoom
from skimage import data

from napari_dip.engine.noise import NoiseCaution, UnreliableReason
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    measure_single_exposure,
)
from napari_dip.tasks.base import NoiseSettings

LIGHT = gaussian_filter(data.cell()[200:392, 200:392].astype(float), 1)
NOISY = LIGHT + np.random.default_rng(0).normal(0, 10, LIGHT.shape)


def measure(image: np.ndarray, **settings: object):
    return measure_single_exposure(image.astype(np.float32)[None], None, 0.0, NoiseSettings())


@pytest.mark.parametrize(
    "spoil",
    [lambda image: median_filter(image, 3), lambda image: zoom(image, 1.5, order=3)],
    ids=["median", "enlarged by half"],
)
def test_noise_that_a_filter_spread_over_neighbours_is_measured(spoil):
    estimate = measure(spoil(NOISY))
    assert estimate.unreliable_reason is None
    assert estimate.caution is NoiseCaution.EVERY_SECOND_PIXEL
    truth = spoil(LIGHT)
    variance = estimate.gain * truth.mean() + estimate.intercept
    assert variance == pytest.approx(np.var(spoil(NOISY) - truth), rel=0.4)
    assert min(estimate.along_y[0], estimate.along_x[0]) > 0.2


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["grass", "gravel", "brick"])
def test_texture_stays_what_it_is(name):
    texture = getattr(data, name)()[:192, :192].astype(float)
    estimate = measure(texture)
    assert estimate.unreliable_reason is not None
    assert estimate.caution is not NoiseCaution.EVERY_SECOND_PIXEL


def test_white_noise_needs_no_second_measurement():
    assert measure(NOISY).caution is not NoiseCaution.EVERY_SECOND_PIXEL


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("row", "column", "std"), [(100, 100, 15), (150, 250, 8), (250, 150, 15)])
def test_texture_in_every_second_pixel_is_not_taken_for_noise(row, column, std):
    grass = data.grass()[row : row + 160, column : column + 160].astype(np.float32)
    noisy = grass + np.random.default_rng(0).normal(0, std, grass.shape).astype(np.float32)
    estimate = measure(noisy)
    assert estimate.caution is not NoiseCaution.EVERY_SECOND_PIXEL
    assert compute_noise_variance(estimate, float(grass.mean())) < 3 * std**2


@pytest.mark.parametrize("seed", range(2))
def test_a_grainy_film_is_not_taken_for_noise_that_reaches_far(seed):
    rng = np.random.default_rng(seed)
    film = gaussian_filter(rng.normal(size=(192, 192)), 1.2)
    light = 1 + 0.08 * film / film.std()
    y, x = np.mgrid[:192, :192]
    for _ in range(14):
        row, column = rng.uniform(0, 192, 2)
        distance = np.hypot(y - row, x - column) - rng.uniform(6, 14)
        light -= 0.35 * np.exp(-((distance / 1.4) ** 2) / 2)
    counts = rng.poisson(20 * light.clip(0.1)).astype(float)
    estimate = measure(gaussian_filter(counts, 0.7))  # a scintillator spreads light
    assert estimate.unreliable_reason is UnreliableReason.TEXTURE


@pytest.mark.parametrize("artefact", ["hot pixels", "rows"])
def test_clear_artefacts_do_not_hide_noise_that_neighbours_share(artefact):
    light = gaussian_filter(data.camera()[100:260, 180:340].astype(float), 1)
    rng = np.random.default_rng(3)
    noise = gaussian_filter(rng.normal(size=light.shape), 0.6)
    clean = light + 8 * noise / noise.std()
    hit = rng.random(light.shape) < 0.002
    offsets = 4 * rng.normal(size=(len(light), 1))
    spoilt = (
        np.where(hit, 1.5 * clean.max(), clean) if artefact == "hot pixels" else clean + offsets
    )
    estimate, expected = measure(spoilt), measure(clean)
    assert estimate.unreliable_reason is expected.unreliable_reason is None
    assert estimate.along_x[0] == pytest.approx(expected.along_x[0], abs=0.05)
    level = float(light.mean())
    assert compute_noise_variance(estimate, level) == pytest.approx(
        compute_noise_variance(expected, level), rel=0.1
    )


def test_the_unit_of_the_intensities_does_not_change_the_measurement():
    light = gaussian_filter(data.coins()[50:210, 50:210].astype(float), 1)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=light.shape), 0.6)
    noisy = light + 8 * noise / noise.std()
    expected, estimate = measure(noisy), measure(noisy * 1e-12)  # currents in ampere
    assert estimate.caution is expected.caution is NoiseCaution.EVERY_SECOND_PIXEL
    assert estimate.intercept * 1e24 == pytest.approx(expected.intercept, rel=1e-3)


def test_an_image_that_is_constant_in_most_places_is_measured():
    noisy = np.zeros((160, 160))
    noisy[60:90, 60:90] = NOISY[:30, :30]
    assert measure(noisy).floor > 0
