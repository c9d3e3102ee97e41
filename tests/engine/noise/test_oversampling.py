"""Oversampled images are detected, downsampled, and upsampled again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data
from torch.nn import functional as F

from napari_dip.engine.noise.estimate import NoiseEstimate, estimate_noise
from napari_dip.engine.noise.oversampling import (
    double_resolution,
    halve_noise_estimate,
    halve_resolution,
    is_oversampled,
    upscale_estimate,
)
from napari_dip.engine.problem import Estimate


def blur(image: torch.Tensor, times: int = 2) -> torch.Tensor:
    """(Y, X): a binomial blur as an interpolation makes it."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel)[None, None]
    for _ in range(times):
        image = F.conv2d(F.pad(image[None, None], (1,) * 4, mode="reflect"), kernel)[0, 0]
    return image


def make_noise(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    spread = blur(torch.randn(size, generator=torch.Generator().manual_seed(seed)))
    return 12 * spread / spread.std()


def make_scene(name: str, times: int) -> torch.Tensor:
    image = torch.from_numpy(getattr(data, name)()[:192, 100:300]).float()
    return blur(image, times)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["camera", "coins", "cell"])
def test_an_image_blurred_together_with_its_noise_is_oversampled(name: str) -> None:
    image = (make_scene(name, 8) + make_noise((192, 200)))[None]
    assert is_oversampled(image, estimate_noise(image, 0))


@pytest.mark.parametrize("name", ["camera", "coins"])
def test_a_sharp_image_under_blurred_noise_is_not(name: str) -> None:
    image = (make_scene(name, 0) + make_noise((192, 200)))[None]
    assert not is_oversampled(image, estimate_noise(image, 0))


def test_texture_all_over_under_white_noise_is_not() -> None:
    """Each block is as like the next one as noise is, but the finest frequencies hold noise."""
    rng = torch.Generator().manual_seed(0)
    texture = blur(torch.randn((192, 200), generator=rng), 1)
    image = (100 + 40 * texture + 25 * torch.randn((192, 200), generator=rng))[None]
    assert not is_oversampled(image, estimate_noise(image, 0))


def test_texture_that_was_smoothed_together_with_its_noise_keeps_its_resolution() -> None:
    """Its finest frequencies are strong where coarser detail is, which noise is not."""
    rng = np.random.default_rng(0)
    envelope = gaussian_filter(rng.normal(size=(192, 200)), 12)
    texture, noise = (gaussian_filter(rng.normal(size=(192, 200)), sigma) for sigma in (0.9, 0.7))
    texture *= 1 + envelope / (2 * envelope.std())
    image = 200 + 12 * texture / texture.std() + 12 * noise / noise.std()
    planes = torch.from_numpy(image.astype(np.float32))[None]
    assert not is_oversampled(planes, estimate_noise(planes, 0))


@pytest.mark.parametrize("size", [(64, 80), (65, 81)])
def test_an_image_without_fine_detail_is_recovered_from_half_its_size(
    size: tuple[int, int],
) -> None:
    smooth = blur(torch.rand(size, generator=torch.Generator().manual_seed(0)), 6)[None, None]
    half = halve_resolution(smooth)
    assert half.shape[2:] == tuple(-(-side // 2) for side in size)
    back = double_resolution(half, size)
    assert back.shape == smooth.shape
    assert float((back - smooth).std()) < 0.06 * float(smooth.std())


def test_a_variance_is_repeated_and_without_a_size_nothing_changes() -> None:
    estimate = Estimate(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
    assert upscale_estimate(estimate, None) is estimate
    larger = upscale_estimate(estimate, (15, 16))
    assert larger.mean.shape == (1, 1, 15, 16)
    assert larger.log_variance is not None
    assert estimate.log_variance is not None
    torch.testing.assert_close(larger.log_variance[..., ::2, ::2], estimate.log_variance)


def test_noise_is_passed_on_to_half_the_pixels_as_halving_changes_it() -> None:
    grain = make_noise((512, 512))
    along = tuple(
        float((grain * grain.roll(step, 0)).mean() / grain.var()) * (step < 4)
        for step in range(1, 6)
    )
    passed = halve_noise_estimate(
        NoiseEstimate(
            gain=0.0, intercept=144.0, floor=14.4, along_y=along, along_x=along, read_noise=12.0
        )
    )
    half = halve_resolution(grain)
    assert passed.intercept == pytest.approx(float(half.var()), rel=0.03)
    assert passed.read_noise == pytest.approx(float(half.std()), rel=0.02)
    measured = float((half * half.roll(1, 1)).mean() / half.var())
    assert passed.along_x[0] == pytest.approx(measured, abs=0.03)
