"""Gaussian upsampling keeps mean and position, and is smoother the wider it is."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.networks.layers import make_gaussian_upsampling_factory

RNG = torch.Generator().manual_seed(0)


def upsample(flow: torch.Tensor, size: tuple[int, ...], width: float) -> torch.Tensor:
    return make_gaussian_upsampling_factory(width)(len(size), flow.shape[1], RNG)(flow, size)


def test_a_single_pixel_becomes_a_gaussian_of_the_width_asked_for():
    flow = torch.zeros(1, 1, 9, 9)
    flow[..., 4, 4] = 1
    spread = upsample(flow, (18, 18), 0.5)[0, 0, 8]
    steps = torch.arange(-2, 3) / 2
    expected = torch.exp(-0.5 * (steps / 0.5) ** 2)
    torch.testing.assert_close(spread[6:11] / spread[8], expected)
    assert spread[:6].abs().max() == 0 and spread[11:].abs().max() == 0


@pytest.mark.parametrize("width", [0.1, 0.5, 1.0])
def test_a_constant_keeps_its_strength_up_to_the_border(width):
    preserves_variance = upsample(torch.ones(1, 2, 6, 8), (12, 16), width)
    assert float(preserves_variance.mean()) == pytest.approx(1, rel=1e-5)
    assert float(preserves_variance[..., :2].mean()) == pytest.approx(1, rel=1e-5)


def test_a_wider_kernel_holds_more_of_fine_detail_back():
    flow = torch.randn(1, 1, 32, 32, generator=RNG)
    strengths = []
    for width in (0.1, 0.3, 0.5, 1.0):
        spectrum = torch.fft.fft2(upsample(flow, (64, 64), width)).abs() ** 2
        high = torch.fft.fftfreq(64).abs() > 0.3
        strengths.append(float(spectrum[0, 0][high][:, high].sum() / spectrum.sum()))
    assert strengths == sorted(strengths, reverse=True) and strengths[-1] < 0.01 * strengths[0]


def test_thin_stacks_and_odd_sizes_are_widened_along_finer_axes_alone():
    flow = torch.rand(1, 2, 2, 5, 6, generator=RNG)
    widened = upsample(flow, (2, 9, 12), 0.5)
    assert widened.shape == (1, 2, 2, 9, 12)
    flat = upsample(flow[:, :, 0], (9, 12), 0.5)
    torch.testing.assert_close(widened[:, :, 0], flat)


@pytest.mark.parametrize("width", [0.0, -0.5, float("nan"), float("inf")])
def test_a_width_that_is_none_is_a_mistake(width):
    with pytest.raises(ValueError, match="`width` must be above 0"):
        make_gaussian_upsampling_factory(width)
