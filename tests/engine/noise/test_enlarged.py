"""An image that was enlarged is measured and restored as it was before."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, zoom
from skimage import data

import napari_dip as dip
from napari_dip.engine.noise.estimate import estimate_noise
from napari_dip.engine.noise.oversampling import (
    double_noise_estimate,
    double_resolution,
    is_enlarged,
)

RNG = np.random.default_rng(0)
LIGHT = gaussian_filter(data.camera()[100:228, 180:308].astype(float), 1)
NOISY = LIGHT + RNG.normal(0, 15, LIGHT.shape)

ENLARGED = {
    "nearest": lambda image: np.kron(image, np.ones((2, 2))),
    "linear": lambda image: zoom(image, 2, order=1),
    "cubic": lambda image: zoom(image, 2, order=3, grid_mode=True, mode="nearest"),
    "three times": lambda image: zoom(image, 3, order=3)[:256, :256],
}


def check(image: np.ndarray) -> bool:
    return is_enlarged(torch.from_numpy(np.ascontiguousarray(image))[None])


@pytest.mark.parametrize("name", ENLARGED)
def test_enlarging_shows_whatever_was_enlarged(name):
    assert check(ENLARGED[name](NOISY))


def test_the_photograph_of_the_moon_was_enlarged_before_it_was_published():
    assert check(data.moon()[:256, :256].astype(float))


@pytest.mark.parametrize(("down", "right"), [*product((0, 1), (0, 1))])
def test_pairs_of_repeated_pixels_may_begin_anywhere(down, right):
    assert check(ENLARGED["nearest"](NOISY)[down:, right:])


@pytest.mark.parametrize("name", ["camera", "coins", "gravel", "grass", "brick", "retina"])
def test_a_photograph_was_not_enlarged(name):
    whole = getattr(data, name)()
    assert not check((whole if whole.ndim == 2 else whole[..., 1])[:256, :256].astype(float))


def test_pixels_repeated_along_one_axis_alone_are_not_enlarged():
    assert not check(np.repeat(NOISY, 2, 1))


def test_a_sharp_spot_on_black_was_not_enlarged():
    image = np.zeros((128, 128))
    image[60:66, 60:66] = 100
    image[30, 31] = 50
    assert not check(image)


@pytest.mark.parametrize("lag_1", [0.0, 0.4])
def test_noise_that_was_doubled_is_that_of_the_enlarged_image(lag_1):
    noise = RNG.normal(size=(4, 128, 128))
    if lag_1:
        noise = gaussian_filter(noise, (0, 0.55, 0.55))
    native = estimate_noise(torch.from_numpy(100 + noise), 0)
    doubled = double_noise_estimate(native)
    planes = torch.from_numpy(noise).float()[:, None]
    enlarged = double_resolution(planes, (256, 256))[:, 0]
    variance = float(doubled.compute_variance(torch.tensor(100.0)))
    assert variance == pytest.approx(float(enlarged.var()), rel=0.1)
    lags = [
        float((enlarged[:, :-lag] * enlarged[:, lag:]).mean() / enlarged.square().mean())
        for lag in (1, 2, 3)
    ]
    np.testing.assert_allclose(doubled.along_y[:3], lags, atol=0.05)


@pytest.mark.parametrize("name", ["nearest", "cubic"])
def test_an_enlarged_image_loses_the_noise_of_the_original(name):
    image, truth = (ENLARGED[name](item)[:192, :192] for item in (NOISY, LIGHT))
    result = dip.denoise(image.astype(np.float32), preset="instant")
    errors = [np.sqrt(np.mean((item - truth) ** 2)) for item in (image, result.image)]
    assert errors[1] < 0.5 * errors[0]
    assert "half-resolution" in {note["code"] for note in result.report["note_codes"]}
    assert result.report["noise"]["unreliable_reason"] == [None]


def test_noise_that_was_entered_is_believed_also_in_an_enlarged_image():
    image = ENLARGED["cubic"](NOISY)[:128, :128].astype(np.float32)
    result = dip.denoise(image, preset="instant", read_noise=15, gain=0, max_iterations=5)
    assert "half-resolution" not in {note["code"] for note in result.report["note_codes"]}
    assert result.report["noise"]["intercept"][0] == pytest.approx(225)


def test_an_enlarged_photograph_without_noise_comes_back_as_it_is():
    image = data.moon()[64:192, 64:192].astype(np.float32)
    assert check(image)
    result = dip.denoise(image, preset="instant", max_iterations=10)
    assert "half-resolution" not in {note["code"] for note in result.report["note_codes"]}
    assert np.sqrt(np.mean((result.image - image) ** 2)) < 1


@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
def test_the_noise_of_an_enlarged_image_is_measured_whatever_enlarged_it(name):
    image, truth = (ENLARGED[name](item) for item in (NOISY, LIGHT))
    result = dip.denoise(image.astype(np.float32), preset="instant", max_iterations=2)
    noise = result.report["noise"]
    assert noise["unreliable_reason"] == [None]
    measured = noise["gain"][0] * truth.mean() + noise["intercept"][0]
    assert measured == pytest.approx(np.var(image - truth), rel=0.35)


@pytest.mark.parametrize("name", ["gravel", pytest.param("grass", marks=pytest.mark.long)])
def test_enlarged_texture_is_not_taken_for_noise(name):
    image = ENLARGED["cubic"](getattr(data, name)()[:192, :192].astype(float))
    result = dip.denoise(image.astype(np.float32), preset="instant", max_iterations=10)
    assert np.sqrt(np.mean((result.image - image) ** 2)) < 0.1 * image.std()


def test_parts_of_an_image_may_begin_with_either_of_two_repeated_pixels():
    image = ENLARGED["nearest"](NOISY)
    parts = np.stack([image[:128, :128], image[1:129, 1:129]])
    assert is_enlarged(torch.from_numpy(parts))


def test_the_read_noise_of_doubled_noise_is_scaled_as_its_variance_is():
    native = replace(estimate_noise(torch.from_numpy(NOISY)[None], 0), read_noise=2.0)
    doubled = double_noise_estimate(native)
    factor = doubled.compute_variance(torch.tensor(100.0)) / native.compute_variance(
        torch.tensor(100.0)
    )
    assert doubled.read_noise == pytest.approx(2 * float(factor) ** 0.5)


def test_structure_that_halving_makes_as_fine_as_the_noise_is_not_measured_as_noise():
    tissue = data.immunohistochemistry()[100:152, 100:152, 1].astype(float)
    noisy = tissue + np.random.default_rng(1).normal(0, 20, tissue.shape)
    image, truth = (ENLARGED["linear"](item)[:96, :96] for item in (noisy, tissue))
    result = dip.denoise(image.astype(np.float32), preset="fast", max_iterations=2)
    noise = result.report["noise"]
    measured = noise["gain"][0] * truth.mean() + noise["intercept"][0]
    assert measured == pytest.approx(np.var(image - truth), rel=0.3)
    assert "half-resolution" in {note["code"] for note in result.report["note_codes"]}


def test_noise_that_was_measured_at_half_size_alone_has_a_caution():
    cell = data.cell()[200:252, 200:252].astype(float)
    image = ENLARGED["nearest"](cell + np.random.default_rng(0).normal(0, 10, cell.shape))
    result = dip.denoise(image.astype(np.float32), preset="instant", max_iterations=2)
    assert result.report["noise"]["caution"] == ["half-size"]
    assert any("measured at half the size" in note for note in result.report["notes"])
