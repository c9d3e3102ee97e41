"""Noise is no stronger than the weakest pattern of an image's patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from skimage.data import camera, cell, chelsea

import napari_dip as dip
from napari_dip.engine.noise import NoiseCaution, UnreliableReason
from napari_dip.engine.noise.estimate import NoiseEstimate
from napari_dip.engine.noise.weakest_patterns import (
    MIN_PATTERN_RATIO,
    MIN_TEXTURE_UNEVENNESS,
    limit_by_patterns,
    measure_weakest_patterns,
)
from napari_dip.pipeline.calibrate.channel_noise import measure_single_exposure
from napari_dip.tasks.base import NoiseSettings

Image = npt.NDArray[np.float64]

#: A lawn, whose blades fill each block.
LAWN = camera()[350:478, 164:292].astype(np.float64)
SMOOTH = gaussian_filter(cell()[200:328, 200:328].astype(np.float64), 1)


def draw_noise(side: int, std: float, seed: int = 0, blur: float = 0.0) -> Image:
    noise = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (side, side)), blur)
    scaled: Image = std * noise / noise.std()
    return scaled


def estimate_as(std: float) -> NoiseEstimate:
    return NoiseEstimate(gain=0.0, intercept=std**2, floor=std**2)


def limit(image: Image, std: float) -> NoiseEstimate:
    return limit_by_patterns(estimate_as(std), torch.from_numpy(image[None]))


@pytest.mark.parametrize("side", [64, 96, 128])
@pytest.mark.parametrize("seed", range(5))
def test_white_noise_that_was_measured_rightly_stays(side: int, seed: int) -> None:
    image = SMOOTH[:side, :side] + draw_noise(side, 5, seed)
    assert limit(image, 5) == estimate_as(5)


def test_photon_noise_that_was_measured_rightly_stays() -> None:
    photons = np.random.default_rng(0).poisson(SMOOTH).astype(np.float64)
    estimate = NoiseEstimate(gain=1.0, intercept=0.0, floor=0.5)
    assert limit_by_patterns(estimate, torch.from_numpy(photons[None])) == estimate


@pytest.mark.parametrize("std", [2, 5])
def test_texture_that_was_measured_as_noise_is_weakened_and_doubted(std: int) -> None:
    image = LAWN + draw_noise(128, std)
    limited = limit(image, 15)
    assert limited.unreliable_reason is UnreliableReason.TEXTURE
    assert limited.caution is NoiseCaution.MOSTLY_TEXTURED
    assert std**2 < limited.intercept < 0.5 * 15**2


def test_shared_noise_is_weak_in_some_patterns_too_but_even() -> None:
    image = SMOOTH + draw_noise(128, 8, blur=0.5)
    patterns = measure_weakest_patterns(
        torch.from_numpy(image[None]), (-np.inf, np.inf), estimate_as(8).compute_variance
    )
    assert patterns is not None
    assert float(patterns.ratios[:2].min()) < MIN_PATTERN_RATIO
    assert float(patterns.unevenness[2]) < MIN_TEXTURE_UNEVENNESS
    assert limit(image, 8) == estimate_as(8)


def test_few_patches_limit_nothing() -> None:
    assert limit(LAWN[:48, :48], 100) == estimate_as(100)


def test_black_surroundings_are_no_weak_pattern() -> None:
    image = SMOOTH + draw_noise(128, 5)
    image[:, :64] = 0
    assert limit(image, 5) == estimate_as(5)


def test_noise_of_every_second_pixel_is_no_stronger_than_patterns() -> None:
    fur = 255 * rgb2gray(chelsea())[70:198, 159:287]
    image = np.clip(fur + draw_noise(128, 2), 0, 255).round().astype(np.float32)
    measured = measure_single_exposure(image[None], None, 1.0, NoiseSettings())
    assert measured.caution is not NoiseCaution.EVERY_SECOND_PIXEL
    assert float(measured.compute_variance(torch.tensor(image.mean()))) < 4.5**2


def test_a_lawn_with_weak_noise_is_not_smoothed_in_silence() -> None:
    image = np.clip(LAWN + draw_noise(128, 2), 0, 255).round().astype(np.uint8)
    result = dip.denoise(image, preset="instant", seed=0)
    assert result.report["verdict"]["kind"] != "fine"
    error = float(np.sqrt(np.mean((result.image - LAWN) ** 2)))
    assert error < 0.6 * float(np.std(LAWN - gaussian_filter(LAWN, 1)))
