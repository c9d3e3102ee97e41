"""Gain and intercept are separated from texture, clipping and rounding, or not reported."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dip.engine.noise import UnreliableReason
from napari_dip.engine.noise.estimate import (
    compute_blind_spot_size,
    estimate_noise,
)

Image = npt.NDArray[np.float64]


def make_scene(name: str) -> Image:
    """A photograph as a microscope would show it: blurred by a pixel, so that it holds no noise."""
    image = gaussian_filter(getattr(data, name)().astype(np.float64), 1)
    return np.asarray((image - image.min()) / np.ptp(image))


def make_noisy(light: Image, gain: float, read: float, offset: float, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    return np.asarray(gain * rng.poisson(light) + rng.normal(0, read, light.shape) + offset)


def stack_planes(*images: Image) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["camera", "coins", "brick"])
@pytest.mark.parametrize(("gain", "read", "offset"), [(0.5, 3, 100), (5, 8, 20), (50, 0, 500)])
def test_gain_is_found_on_structured_images(
    name: str, gain: float, read: float, offset: float
) -> None:
    light = 300 * make_scene(name)
    estimate = estimate_noise(stack_planes(make_noisy(light, gain, read, offset)), 0)
    assert not estimate.unreliable_reason
    assert estimate.gain == pytest.approx(gain, rel=0.1)
    middle = gain * float(np.median(light)) + offset
    true = gain * (middle - offset) + read**2
    assert estimate.gain * middle + estimate.intercept == pytest.approx(true, rel=0.1)


def test_noise_of_a_small_textured_crop_is_not_read_too_high() -> None:
    crop = data.camera()[200:272, 200:272].astype(np.float64)
    clean = estimate_noise(stack_planes(crop), 1)
    level = float(np.sqrt(clean.gain * crop.mean() + clean.intercept))
    assert level < 6  # texture of 36 grey levels was once taken for noise
    noisy = crop + np.random.default_rng(0).normal(0, 10, crop.shape)
    estimate = estimate_noise(stack_planes(noisy), 0)
    assert np.sqrt(estimate.gain * crop.mean() + estimate.intercept) == pytest.approx(10, rel=0.15)
    assert compute_blind_spot_size([estimate], (72, 72)) == (1, 1)


def test_structure_of_all_that_is_bright_does_not_raise_the_gain() -> None:
    rng = np.random.default_rng(0)
    light = np.full((256, 256), 10.0)
    light[:, 96:] += 120 * gaussian_filter(rng.random((256, 160)) ** 8, 2) / 0.11
    estimate = estimate_noise(stack_planes(make_noisy(light, 3, 1, 0)), 0)
    assert estimate.gain == pytest.approx(3, rel=0.15)


@pytest.mark.long
def test_clipping_at_both_ends_does_not_flatten_the_line() -> None:
    light = 60 * make_scene("camera")
    image = make_noisy(light, 5, 4, 0)
    whole = estimate_noise(stack_planes(image), 0)
    cut = estimate_noise(stack_planes(np.clip(np.rint(image), 0, 255)), 1)
    assert (image < 0).mean() > 0.002
    assert (image > 255).mean() > 0.02
    assert cut.gain == pytest.approx(5, rel=0.1)
    assert whole.gain == pytest.approx(5, rel=0.1)


def test_rounding_adds_a_twelfth_of_a_squared_step() -> None:
    image = 100 + np.random.default_rng(0).normal(0, 0.8, (256, 256))
    estimate = estimate_noise(stack_planes(np.rint(image)), 1)
    assert estimate.gain * 100 + estimate.intercept == pytest.approx(0.64 + 1 / 12, rel=0.05)


def test_planes_of_a_stack_are_measured_together() -> None:
    light = 200 * make_scene("camera")[100:228, 100:228]
    estimate = estimate_noise(
        stack_planes(*(make_noisy(light, 2, 3, 50, seed) for seed in range(4))), 0
    )
    assert estimate.gain == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    ("image", "step", "doubt"),
    [
        (np.indices((64, 64)).sum(0) // 8 % 2 * 255.0, 1.0, None),
        (
            np.rint(100 + np.random.default_rng(0).normal(0, 0.2, (128, 128))),
            1.0,
            "coarse-grey-values",
        ),
        (np.full((64, 64), 255.0), 1.0, "too-few-blocks"),
    ],
)
def test_images_without_visible_noise_are_not_guessed_at(
    image: Image, step: float, doubt: str | None
) -> None:
    estimate = estimate_noise(stack_planes(image), step)
    assert estimate.unreliable_reason in set(UnreliableReason)
    assert doubt is None or estimate.unreliable_reason == doubt
    assert np.isfinite([estimate.gain, estimate.intercept, estimate.floor]).all()
    assert estimate.floor > 0


def test_scattered_holes_are_a_doubt() -> None:
    image = 100 + np.random.default_rng(0).normal(0, 5, (128, 128))
    mask = torch.from_numpy(np.random.default_rng(1).random((1, 128, 128)) < 0.5)
    estimate = estimate_noise(stack_planes(image), 0, mask)
    assert estimate.unreliable_reason is UnreliableReason.SCATTERED_HOLES
    assert estimate.intercept**0.5 == pytest.approx(5, rel=0.1)


def test_noise_between_few_pixels_is_not_guessed_at() -> None:
    mask = torch.from_numpy(np.random.default_rng(1).random((1, 64, 64)) < 0.03)
    estimate = estimate_noise(torch.rand(1, 64, 64, dtype=torch.float64), 0, mask)
    assert estimate.unreliable_reason is UnreliableReason.TOO_FEW_BLOCKS


def test_a_flat_image_has_a_noise_level_but_no_gain() -> None:
    estimate = estimate_noise(
        stack_planes(100 + np.random.default_rng(0).normal(0, 5, (256, 256))), 0
    )
    assert estimate.gain * 100 + estimate.intercept == pytest.approx(25, rel=0.05)
    assert estimate.gain < 4 * estimate.gain_error
    assert not estimate.unreliable_reason


@pytest.mark.long
def test_the_standard_error_of_the_gain_is_of_the_right_size() -> None:
    light = 100 * make_scene("camera")[::2, ::2]
    estimates = [
        estimate_noise(stack_planes(make_noisy(light, 2, 2, 20, seed)), 0) for seed in range(5)
    ]
    apart = float(np.std([estimate.gain for estimate in estimates], ddof=1))
    said = float(np.mean([estimate.gain_error for estimate in estimates]))
    assert 0.3 < apart / said < 3


@pytest.mark.sampled(1)
@pytest.mark.parametrize("blur", [(0.0, 0.7), (0.7, 0.7)])
def test_correlated_noise_keeps_its_variance(blur: tuple[float, float]) -> None:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(303, 384)), blur)
    estimate = estimate_noise(stack_planes(255 * make_scene("coins") + 20 * noise / noise.std()), 0)
    middle = 255 * float(np.median(make_scene("coins")))
    assert np.sqrt(estimate.gain * middle + estimate.intercept) == pytest.approx(20, rel=0.2)


def test_an_image_without_its_finest_frequencies_is_no_crash() -> None:
    """As of a strong compression: all energy lies beyond what those that are left tell of."""
    rows = torch.linspace(0, 40, 64, dtype=torch.float64).sin()
    smooth = 100 * (rows[:, None] + rows).tanh()
    faint = 1e-4 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    estimate = estimate_noise((smooth + faint)[None], 0)
    assert 0 < estimate.floor < float("inf")
    assert estimate.unreliable_reason
