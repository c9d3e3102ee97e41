"""A crop of a micrograph tells the same noise as the whole one, whatever lies in it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dip.engine.noise import NoiseCaution
from napari_dip.engine.noise.estimate import estimate_noise


def measure(image: np.ndarray):
    return estimate_noise(torch.from_numpy(np.ascontiguousarray(image, np.float64))[None], 1.0)


def make_correlated_noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise of variance 1 as in a widefield image, with a correlation of 0.65 at lag 1."""
    noise = gaussian_filter(rng.normal(size=shape), 0.75)
    return noise / noise.std()


@pytest.mark.parametrize(
    ("dark_side", "blur", "photons"), [(32, 2, 30), (40, 1.5, 30), (40, 2, 15)]
)
def test_a_few_dark_blocks_do_not_hide_the_photon_noise_of_the_others(dark_side, blur, photons):
    rng = np.random.default_rng(0)
    texture = gaussian_filter(data.gravel()[:256, :256].astype(float), blur)
    light = photons * texture / texture.max()
    light[:dark_side, :dark_side] = 0
    image = np.rint(4 * rng.poisson(light) + 3.4 + rng.normal(0, 0.2, light.shape))
    assert measure(image).gain == pytest.approx(4, rel=0.1)


def test_correlated_noise_of_the_strength_of_counts_is_not_taken_for_them():
    rng = np.random.default_rng(1)
    light = 27 + 6 * gaussian_filter(rng.random((128, 128)), 8)
    noise = make_correlated_noise(rng, light.shape)
    measured = measure(np.clip(np.rint(light + np.sqrt(5.6 * light) * noise), 0, 255))
    assert not measured.counts_photons
    assert measured.along_y[0] == pytest.approx(0.65, abs=0.06)
    assert float(measured.compute_variance(torch.tensor(30.0))) == pytest.approx(168, rel=0.1)


def test_a_detector_with_an_offset_does_not_count_photons():
    rng = np.random.default_rng(2)
    light = gaussian_filter(rng.random((96, 96)), 5)
    light = 0.8 + 1.2 * (light - light.min()) / np.ptp(light)
    measured = measure(np.rint(3 + 2 * rng.poisson(light) + rng.normal(0, 0.3, light.shape)))
    assert not measured.counts_photons
    assert measured.gain == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_correlation_of_a_mostly_clipped_image_is_measured_where_it_is_bright(seed):
    rng = np.random.default_rng(seed)
    light = np.full((128, 128), 3.0)
    light[:, :36] = 45
    noise = make_correlated_noise(rng, light.shape)
    measured = measure(np.clip(np.rint(gaussian_filter(light, 4) + 9 * noise), 0, 255))
    assert measured.caution is NoiseCaution.MOSTLY_CLIPPED
    assert measured.along_y[0] == pytest.approx(0.65, abs=0.06)
    assert float(measured.compute_variance(torch.tensor(45.0))) == pytest.approx(81, rel=0.1)


def test_single_photons_that_spread_along_a_scan_line_are_correlated():
    rng = np.random.default_rng(0)
    light = gaussian_filter(rng.random((256, 256)), 10)
    light = 20 * np.clip((light - light.min()) / np.ptp(light) - 0.3, 0, 1) ** 2
    image = rng.poisson(light) * rng.exponential(40, light.shape)
    image[:, 1:] = 0.75 * image[:, 1:] + 0.25 * image[:, :-1]
    measured = measure(np.clip(np.rint(image), 0, 255))
    assert measured.along_x[0] == pytest.approx(0.3, abs=0.03)
    assert measured.along_y[0] == pytest.approx(0, abs=0.1)


def draw_photons(name: str, rng: np.random.Generator) -> np.ndarray:
    """Mean photons of a scene that is mostly black."""
    if name == "coins":
        coins = gaussian_filter(data.coins()[50:242, 50:242].astype(float), 1.5)
        return np.clip(coins - 110, 0, None) / 3
    if name == "gravel":
        gravel = gaussian_filter(data.gravel()[:192, :192].astype(float), 2)
        return np.clip(gravel - np.quantile(gravel, 0.6), 0, None) / 4
    blobs = gaussian_filter(rng.normal(size=(192, 192)), 8)
    return 30 * np.clip(blobs / blobs.std() - 0.3, 0, None)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scene", ["coins", "gravel", "blobs"])
@pytest.mark.parametrize("edit", ["none", "flat field", "gain of one half"])
def test_a_black_background_does_not_hide_the_noise_of_bright_structures(scene, edit):
    rng = np.random.default_rng(1)
    light = draw_photons(scene, np.random.default_rng(0))
    y, x = np.mgrid[-1:1:192j, -1:1:192j]
    factor = {
        "none": np.ones_like(light),
        "flat field": 1 - 0.4 * (y**2 + x**2) / 2,
        "gain of one half": np.where(x > 0, 1.6, 1.0),
    }[edit]
    image = factor * (3.5 * rng.poisson(light) + 3.4 + rng.normal(0, 0.3, light.shape))
    bright = light > np.quantile(light, 0.9)
    true = float((factor**2 * 3.5**2 * light)[bright].mean())
    measured = measure(image).compute_variance(torch.from_numpy((factor * 3.5 * light)[bright]))
    assert float(measured.mean()) == pytest.approx(true, rel=0.25)


def test_jpeg_that_took_the_noise_of_dark_parts_does_not_hide_that_of_bright_ones():
    rng = np.random.default_rng(5)
    camera = gaussian_filter(data.camera()[100:292, 180:372].astype(float), 1)
    light = 30 * camera / camera.max() + 1
    recorded = 20 * rng.poisson(light) + rng.normal(100, 10, light.shape)
    gain = 20 * 255 / recorded.max()
    noisy = recorded * 255 / recorded.max()
    buffer = BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
    measured = measure(np.asarray(Image.open(buffer), float))
    bright = light > 15
    at = torch.tensor(float(noisy[bright].mean()))
    true = float(gain**2 * light[bright].mean())
    assert float(measured.compute_variance(at)) == pytest.approx(true, rel=0.3)


def test_a_photograph_of_texture_without_noise_gets_no_steeper_line():
    assert measure(data.grass()[100:292, 100:292]).unreliable_reason
    assert measure(data.gravel()[100:292, 100:292]).unreliable_reason
