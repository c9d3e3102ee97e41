"""Noise that the user chose is compared with the measured one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from napari_dip.engine.noise import NoiseCaution
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    measure_single_exposure,
)
from napari_dip.tasks.base import NoiseSettings

if TYPE_CHECKING:
    from napari_dip.engine.noise.estimate import NoiseEstimate

STD = 20.0
GAIN = 4.0
READ_NOISE = 6.0


def add_even_noise(picture: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (picture + rng.normal(0, STD, picture.shape)).astype(np.float32)


def count_photons(picture: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = GAIN * rng.poisson(picture / GAIN)
    return (counts + rng.normal(0, READ_NOISE, picture.shape)).astype(np.float32)


def measure(image: np.ndarray, **settings: object) -> NoiseEstimate:
    return measure_single_exposure(image[None], None, 0.0, NoiseSettings(**settings))


@pytest.mark.parametrize(("factor", "is_doubted"), [(0.5, True), (1.0, False), (2.0, True)])
def test_entered_read_noise_is_doubted_if_the_image_has_other_noise(
    factor: float, is_doubted: bool
) -> None:
    noise = measure(add_even_noise(data.coins()), model="gaussian", read_noise=factor * STD)
    assert (noise.caution is NoiseCaution.CHOSEN) == is_doubted
    assert compute_noise_variance(noise, 100.0) == pytest.approx((factor * STD) ** 2)
    # with noise entered too weak, spots of noise would count as signal
    assert noise.has_bounded_tails != is_doubted


@pytest.mark.parametrize("settings", [{"read_noise": 0.0}, {"read_noise": 0.0, "gain": 1.0}])
def test_without_read_noise_the_variance_is_the_number_of_photons(settings: dict) -> None:
    light = 30 + 90 * data.camera()[100:292, 150:342] / 255.0  # too bright to be told from others
    counts = np.random.default_rng(0).poisson(light).astype(np.float32)
    assert not measure(counts).counts_photons
    noise = measure(counts, **settings)
    levels = np.array([30.0, 120.0])
    np.testing.assert_allclose(compute_noise_variance(noise, levels), levels, rtol=0.05)
    assert noise.caution is not NoiseCaution.CHOSEN


def test_a_read_noise_of_0_keeps_what_neighbours_share() -> None:
    light = np.full((192, 192), 40.0)
    counts = gaussian_filter(np.random.default_rng(0).poisson(light).astype(np.float32), 0.6)
    automatic, counted = measure(counts), measure(counts, read_noise=0.0)
    assert automatic.along_y[0] > 0.3
    assert (counted.along_y, counted.along_x) == (automatic.along_y, automatic.along_x)


@pytest.mark.parametrize(
    ("offset", "settings"),
    [(-200.0, {}), (0.0, {"gain": 0.0}), (0.0, {"model": "gaussian"})],
)
def test_pixels_that_are_no_counts_keep_the_measured_noise(
    offset: float, settings: dict[str, object]
) -> None:
    light = 30 + 90 * data.camera()[100:292, 150:342] / 255.0
    image = (np.random.default_rng(0).poisson(light) + offset).astype(np.float32)
    measured, noise = measure(image), measure(image, read_noise=0.0, **settings)
    assert noise.caution is NoiseCaution.CHOSEN
    assert (noise.gain, noise.intercept) == (measured.gain, measured.intercept)


@pytest.mark.parametrize(("factor", "is_doubted"), [(0.25, True), (1.0, False), (4.0, True)])
def test_an_entered_gain_is_doubted_if_the_image_has_another(
    factor: float, is_doubted: bool
) -> None:
    noise = measure(count_photons(data.coins()), gain=factor * GAIN)
    assert (noise.caution is NoiseCaution.CHOSEN) == is_doubted


@pytest.mark.parametrize(("gain", "read_noise"), [(2.0, 3.0), (5.0, 3.0), (1.0, 10.0)])
def test_entering_what_the_command_states_gives_the_measured_noise(
    gain: float, read_noise: float
) -> None:
    rng = np.random.default_rng(3)
    spots = gaussian_filter((rng.random((128, 128)) < 0.003).astype(float), 2.5)
    light = 100 * spots / spots.max()
    counts = 100 + gain * rng.poisson(light) + rng.normal(0, read_noise, light.shape)
    image = counts.astype(np.float32)
    (channel,) = dip.measure_noise(image, axes="YX").channels
    assert channel.darkest_std == pytest.approx(read_noise, rel=0.1)
    measured = measure(image)
    entered = measure(image, gain=channel.gain, read_noise=channel.darkest_std)
    levels = np.array([100.0, 120.0, 200.0])
    ratio = compute_noise_variance(entered, levels) / compute_noise_variance(measured, levels)
    assert ratio**0.5 == pytest.approx(1, rel=0.05)
    assert entered.read_noise == channel.darkest_std
    true = measure(image, gain=gain, read_noise=read_noise)
    assert compute_noise_variance(true, 100.0) ** 0.5 == pytest.approx(read_noise, rel=0.05)


def test_even_noise_is_doubted_where_dark_areas_have_less() -> None:
    dark = np.where(np.arange(384)[:, None] < 192, 4.0, 400.0) * np.ones((384, 384))
    assert measure(count_photons(dark), model="gaussian").caution is NoiseCaution.CHOSEN


def test_noise_is_not_compared_with_an_unreliable_measurement() -> None:
    woven = data.brick()[:128, :128]
    shot = add_even_noise(woven) + 40 * (np.indices(woven.shape).sum(0) % 2)
    noise = measure(shot, model="gaussian", read_noise=8 * STD)
    assert noise.unreliable_reason is not None
    assert noise.caution is not NoiseCaution.CHOSEN


def test_the_card_says_that_chosen_noise_is_not_the_measured_one() -> None:
    image = add_even_noise(data.coins()[:128, :128])
    settings = {"noise": "gaussian", "preset": "instant", "max_iterations": 8, "device": "cpu"}
    report = dip.denoise(image, read_noise=STD / 2, **settings).report
    warnings = make_card(report).all_warnings
    assert "noise-caution-chosen" in {note.code for note in warnings}
    right = dip.denoise(image, read_noise=STD, **settings).report
    assert "noise-caution-chosen" not in {note.code for note in make_card(right).all_warnings}


def test_entered_noise_leaves_counted_photons_what_they_are() -> None:
    counts = np.random.default_rng(0).poisson(data.coins() / 100).astype(np.float32)
    for settings in ({}, {"gain": 1.0, "read_noise": 0.3}, {"gain": 3.0}):
        noise = measure_single_exposure(counts[None], None, 1.0, NoiseSettings(**settings))
        assert noise.counts_photons


def list_codes(image: np.ndarray, **settings: object) -> set[str]:
    report = dip.denoise(image, max_iterations=2, preset="instant", **settings).report
    return {note["code"] for note in report["note_codes"]}


def test_noise_of_chosen_strength_is_called_unchecked_where_none_can_be_measured() -> None:
    grass = data.grass()[300:428, 300:428]
    image = (grass + np.random.default_rng(0).normal(0, 10, grass.shape)).astype(np.float32)
    assert "noise-unreliable-texture" in list_codes(image)
    assert "noise-unreliable-texture" in list_codes(image, read_noise=10.0)  # its growth is not
    for settings in ({"gain": 2.0}, {"noise": "gaussian"}):
        codes = list_codes(image, read_noise=10.0, **settings)
        assert "noise-unchecked" in codes
        assert "noise-unreliable-texture" not in codes


def test_a_blind_spot_of_one_pixel_ends_the_doubt_whether_neighbours_share_noise() -> None:
    gravel = data.gravel()[100:228, 100:228]
    image = (gravel + np.random.default_rng(0).normal(0, 5, gravel.shape)).astype(np.float32)
    assert "noise-unreliable-ambiguous-correlation" in list_codes(image)
    codes = list_codes(image, blind_spot_shape="1")
    assert "noise-caution-mostly-textured" in codes
    assert not any(code.startswith("noise-unreliable") for code in codes)


def test_chosen_noise_that_is_not_the_measured_one_is_named_when_an_image_is_enlarged() -> None:
    image = add_even_noise(data.camera()[::4, ::4])
    chosen = {"noise": "gaussian", "max_iterations": 2, "preset": "instant"}
    for read_noise, is_wrong in ((STD, False), (3 * STD, True)):
        report = dip.super_resolve(image, factor=2, read_noise=read_noise, **chosen).report
        codes = {note["code"] for note in report["note_codes"]}
        assert ("noise-caution-chosen" in codes) == is_wrong
