"""The noise of an inverted image falls with brightness, and is measured as that of the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from napari_dip.engine.noise.estimate import estimate_noise
from napari_dip.pipeline.assess.artefact_detection import detect_clipped_pixels
from napari_dip.pipeline.calibrate.clipping import compute_clipped_mean

WHITE = 1000.0


def make_counts(name: str, photons: float = 40) -> np.ndarray:
    """Photon noise of a gain of 3 grey values on a photograph, with an offset of 50."""
    whole = getattr(data, name)()[100:260, 180:340].astype(float)
    light = gaussian_filter(whole - whole.min(), 1)
    rng = np.random.default_rng(0)
    light = photons * light / light.max() + 0.5
    return np.rint(3 * rng.poisson(light) + 50 + rng.normal(0, 2, light.shape))


def measure(image: np.ndarray):
    return estimate_noise(torch.from_numpy(image)[None], 1.0)


@pytest.mark.parametrize("name", ["camera", "cell", "coins"])
def test_an_inverted_image_has_the_noise_of_the_original(name):
    image = make_counts(name)
    original, inverted = measure(image), measure(WHITE - image)
    assert inverted.gain == pytest.approx(-original.gain)
    levels = torch.tensor([60.0, 100.0, 150.0], dtype=torch.float64)
    assert original.gain == pytest.approx(3, rel=0.1)
    torch.testing.assert_close(
        inverted.compute_variance(WHITE - levels), original.compute_variance(levels)
    )
    assert (inverted.unreliable_reason, inverted.caution) == (
        original.unreliable_reason,
        original.caution,
    )


def test_bright_structures_on_white_are_measured_as_those_on_black():
    blobs = gaussian_filter(np.random.default_rng(0).normal(size=(192, 192)), 8)
    light, draw = np.clip(30 * (blobs / blobs.std() - 0.3), 0, None), np.random.default_rng(1)
    image = 3.5 * draw.poisson(light) + 3.4 + draw.normal(0, 0.3, light.shape)
    estimate = estimate_noise(torch.from_numpy(WHITE - image)[None], 0.0)
    assert estimate.gain == pytest.approx(-3.5, rel=0.1)


@pytest.mark.parametrize("name", ["grass", "gravel", "coins", "astronaut", "immunohistochemistry"])
def test_texture_in_the_dark_is_no_noise_of_an_inverted_image(name):
    whole = getattr(data, name)()
    plane = whole if whole.ndim == 2 else whole[..., 0]
    assert measure(plane[:256, :256].astype(float)).gain >= 0


def test_the_level_without_light_of_an_inverted_image_is_not_told():
    image = make_counts("cell")
    image[:40] = np.rint(50 + np.random.default_rng(1).normal(0, 2, image[:40].shape))
    original, inverted = measure(image), measure(WHITE - image)
    assert original.offset == pytest.approx(50, abs=1)
    assert inverted.gain < 0
    assert (inverted.offset, inverted.read_noise) == (None, None)


def test_a_background_without_light_that_was_inverted_is_not_saturated():
    image = 10.0 * np.random.default_rng(0).poisson(
        np.where(np.arange(96 * 96).reshape(96, 96) % 96 < 48, 0.05, 20)
    )
    inverted = measure(image).mirror()
    assert detect_clipped_pixels(-image)[1].fraction > 0.4
    assert detect_clipped_pixels(-image, [inverted])[1].fraction == 0


def test_clipped_means_of_an_inverted_image_mirror_those_of_the_original():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 600, 256) * np.ones((256, 1))
    clipped = np.minimum(np.rint(rng.poisson(ramp / 3) * 3 + rng.normal(0, 6, ramp.shape)), 500)
    original = measure(clipped)
    assert original.clipping_limits[1] == 500
    signals = np.array([450.0, 480, 500, 520])
    np.testing.assert_allclose(
        compute_clipped_mean(original.mirror(), -signals), -compute_clipped_mean(original, signals)
    )


@pytest.mark.parametrize("settings", [{}, {"read_noise": 2.0, "gain": 3.0}])
def test_an_inverted_image_is_restored_as_the_original_is(settings):
    image = make_counts("camera").astype(np.float32)[:96, :96]
    settings = {"preset": "fast", "max_iterations": 30, **settings}
    original = dip.denoise(image, **settings)
    inverted = dip.denoise(np.float32(WHITE) - image, **settings)
    assert inverted.report["noise"]["gain"][0] < 0 < original.report["noise"]["gain"][0]
    assert np.abs(WHITE - inverted.image - original.image).max() < 0.05 * np.ptp(image)
    assert np.median(inverted.uncertainty / original.uncertainty) == pytest.approx(1, abs=0.1)
    assert "noise-inverted" in {note["code"] for note in inverted.report["note_codes"]}


def test_the_report_of_an_inverted_image_tells_its_least_noise_where_it_is_bright():
    image = make_counts("cell").astype(np.float32)
    (original,), (inverted,) = (
        dip.measure_noise(item).channels for item in (image, np.float32(WHITE) - image)
    )
    assert inverted.darkest_std == pytest.approx(original.darkest_std, rel=0.05)
    sentence = dip.measure_noise(np.float32(WHITE) - image).sentences[0]
    assert "where the image is brightest" in sentence
    assert "its variance falls by" in sentence


def test_inverted_counts_of_photons_are_no_counts():
    light = np.random.default_rng(0).uniform(0, 8, (12, 12)).repeat(16, 0).repeat(16, 1)
    counts = np.random.default_rng(1).poisson(light).astype(float)
    assert measure(counts).counts_photons
    assert not measure(counts).mirror().counts_photons
    assert measure(counts).mirror().gain == -1


@pytest.mark.parametrize("background", [None, 0.0, WHITE - 50])
def test_an_inverted_image_is_deblurred_whatever_background_is_entered(background):
    image = np.float32(WHITE - make_counts("camera"))[:64, :64]
    psf = gaussian_filter(np.pad([[1.0]], 4), 1)
    settings = {} if background is None else {"background": background}
    result = dip.deblur(image, psf / psf.sum(), preset="instant", max_iterations=10, **settings)
    assert np.corrcoef(result.image.ravel(), image.ravel())[0, 1] > 0.8


def test_channels_that_are_fitted_together_are_inverted_together():
    image = make_counts("camera")[:96, :96]
    colours = np.stack([image, WHITE - image, image], -1).astype(np.float32)
    settings = {"preset": "instant", "max_iterations": 5, "channels": "together"}
    result = dip.denoise(colours, axes="YXS", **settings)
    assert result.report["noise"]["gain"][1] < 0 < result.report["noise"]["gain"][0]
    for channel in range(3):
        pair = result.image[..., channel].ravel(), colours[..., channel].ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.9


def test_variance_that_clipping_lowers_at_white_is_no_noise_of_an_inverted_image():
    light = 0.5 * data.camera()[50:242, 50:242] + 100
    noise = np.random.default_rng(1).normal(0, 80, light.shape)
    estimate = measure(np.clip(np.rint(light + noise), 0, 255))
    assert estimate.unreliable_reason is None
    assert estimate.gain >= 0
    assert float(estimate.compute_variance(torch.tensor(128.0))) == pytest.approx(80**2, rel=0.1)
