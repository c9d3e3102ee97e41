"""Noise that differs in place or time is measured in the image divided by its level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from napari_dip.engine.noise.consistency_checks import compare_noise_spectra
from napari_dip.engine.noise.flat_blocks import compute_level_spectra
from napari_dip.engine.noise.repeated_exposure import measure_frame_spread
from napari_dip.engine.noise.variance_model import follows_brightness
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.calibrate.channel_noise import measure_single_exposure
from napari_dip.tasks.base import NoiseSettings
from napari_dip.tasks.noise_models.camera_correction import (
    build_level_correction,
    measure_noise_level,
)


def make_photons(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    light = gaussian_filter(data.camera()[100:260, 180:340].astype(float), 1)
    light = 40 * light / light.max() + 1
    return np.random.default_rng(seed).poisson(light).astype(float), light


def subtract_background(image: np.ndarray) -> np.ndarray:
    return image - gaussian_filter(image, 8)


def rms(image: np.ndarray) -> float:
    return float(np.sqrt(np.mean(image**2)))


def list_note_codes(result) -> set[str]:
    return {note["code"] for note in result.report["note_codes"]}


def test_noise_of_a_subtracted_background_is_removed():
    noisy, light = map(subtract_background, make_photons())
    result = dip.denoise(noisy.astype(np.float32), preset="instant", threads=1)
    assert "noise-levelled" in list_note_codes(result)
    assert result.report["noise"]["unreliable_reason"] == [None]
    best_gaussian = min(rms(gaussian_filter(noisy, width) - light) for width in (0.8, 1.2, 1.6))
    assert rms(result.image - light) < 0.85 * best_gaussian
    assert np.allclose(result.image + result.residual, noisy, atol=1e-3)
    bright = make_photons()[1] > 20
    errors = (result.image - light) / result.uncertainty
    assert 0.5 < rms(errors[bright]) / rms(errors[~bright]) < 2
    assert "after division by the level of its noise" in write_methods_section(result.report)


def test_whole_grey_values_stay_whole():
    noisy = np.rint(500 + 10 * subtract_background(make_photons()[0])).astype(np.uint16)
    result = dip.denoise(noisy, preset="instant", max_iterations=2, threads=1, dtype="same")
    assert "noise-levelled" in list_note_codes(result)
    assert abs(float(result.image.mean()) - float(noisy.mean())) < 2
    assert result.image.dtype == np.uint16


def test_only_the_channel_in_doubt_is_divided():
    photons, _ = make_photons()
    stack = np.stack([photons, subtract_background(photons)]).astype(np.float32)
    correction = build_level_correction(stack[None], [1])
    assert np.all(correction.factor[0, 0] == 1) and np.ptp(correction.factor[0, 1]) > 0.3
    assert np.allclose(correction.undo(correction.correct(stack[None])), stack, atol=1e-4)


def test_an_image_with_padding_is_not_divided():
    noisy = np.pad(subtract_background(make_photons()[0]), ((0, 60), (0, 0)), constant_values=-100)
    result = dip.denoise(noisy.astype(np.float32), preset="instant", max_iterations=2, threads=1)
    assert {"empty-areas"} <= list_note_codes(result)
    assert "noise-levelled" not in list_note_codes(result)
    assert np.all(result.image[160:] == -100)


@pytest.mark.parametrize(("texture", "is_coarser"), [(None, False), ("grass", True)])
def test_texture_is_coarser_where_it_is_stronger_and_noise_is_not(texture, is_coarser):
    rng = np.random.default_rng(0)
    strength = 1 + 3 * (np.arange(160) > 80)
    plane = strength * rng.normal(0, 5, (160, 160))
    if texture:
        grass = data.grass()[:160, :160].astype(float)
        plane = rng.normal(0, 5, (160, 160)) + (strength > 1) * (grass - grass.mean())
    level = measure_noise_level(plane.astype(np.float32))
    spectra = compute_level_spectra(torch.from_numpy(plane), torch.from_numpy(level**2))
    ratio = compare_noise_spectra(spectra, torch.ones_like)
    assert (ratio > 1.3) == is_coarser


def make_spots() -> tuple[np.ndarray, np.ndarray]:
    """A stack of small bright spots with photon noise on an even background, and its light."""
    rng, grid = np.random.default_rng(2), np.indices((8, 64, 64))
    light = np.zeros((8, 64, 64))
    for _ in range(40):
        centre, width = rng.uniform((0, 0, 0), (8, 64, 64)), rng.uniform(1.2, 4)
        offsets = (grid - centre[:, None, None, None]) / np.array([1.5, 1, 1])[:, None, None, None]
        light += rng.uniform(20, 100) * np.exp(-(offsets**2).sum(0) / (2 * width**2))
    light *= 100 / light.max()
    rng = np.random.default_rng(1)
    noisy = 2 * rng.poisson(light) + 100 + rng.normal(0, 3, light.shape)
    return noisy.astype(np.float32), 2 * light + 100


def test_noise_of_small_spots_that_follows_brightness_is_not_divided():
    noisy, truth = make_spots()
    result = dip.denoise(noisy, preset="instant", axes="TYX", threads=1)
    assert "noise-levelled" not in list_note_codes(result)
    assert result.report["noise"]["gain"][0] == pytest.approx(2, rel=0.15)
    best_gaussian = min(rms(gaussian_filter(noisy, width) - truth) for width in (0.6, 0.8, 1))
    assert rms(result.image - truth) < best_gaussian


def test_noise_that_differs_by_place_does_not_follow_brightness():
    photons = make_photons()[0]
    even, uneven = photons.astype(np.float32), subtract_background(photons).astype(np.float32)
    follows = []
    for plane in (even, uneven):
        level = torch.from_numpy(measure_noise_level(plane)) ** 2
        estimate = measure_single_exposure(plane[None], None, 0.0, NoiseSettings())
        spectra = compute_level_spectra(torch.from_numpy(plane), level)
        follows.append(follows_brightness(spectra, estimate.compute_variance))
    assert follows == [True, False]


def test_a_plane_without_noise_has_no_level():
    assert measure_noise_level(np.zeros((64, 64), np.float32)) is None


def make_bleached_movie() -> tuple[np.ndarray, np.ndarray]:
    """A movie whose bleaching was corrected, with noise of its own in each frame, and its light."""
    _, light = make_photons()
    remaining = np.exp(-np.arange(6) / 3)[:, None, None]
    photons = np.random.default_rng(0).poisson(light[:96, :96] * remaining)
    return (photons / remaining).astype(np.float32), np.broadcast_to(light[:96, :96], photons.shape)


def test_noise_that_grows_from_frame_to_frame_is_removed():
    movie, light = make_bleached_movie()
    result = dip.denoise(movie, preset="instant", axes="TYX", threads=1)
    assert "noise-levelled" in list_note_codes(result)
    best_gaussian = min(
        rms(gaussian_filter(movie, (0, width, width)) - light) for width in (1, 1.5, 2, 3)
    )
    assert rms(result.image - light) < best_gaussian
    assert result.uncertainty[-1].mean() > 1.5 * result.uncertainty[0].mean()
    assert np.allclose(result.image + result.residual, movie, atol=1e-3)


def measure_spread(movie: np.ndarray) -> float:
    estimate = measure_single_exposure(movie, None, 0.0, NoiseSettings(), is_series=True)
    return measure_frame_spread(torch.from_numpy(movie), estimate.compute_variance)


def test_noise_that_grows_with_brightness_alone_does_not_differ_by_frame():
    movie = np.stack([make_photons(seed)[0][:96, :96] for seed in range(4)]).astype(np.float32)
    assert measure_spread(movie) < 1.3
    assert measure_spread(make_bleached_movie()[0]) > 2
