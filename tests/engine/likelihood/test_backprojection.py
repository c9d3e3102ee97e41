"""The backprojected residual amplifies the frequencies that the blur weakened."""

from __future__ import annotations

from math import pi

import pytest
import torch

from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.likelihood.fidelity import NoiseVariance, make_backprojection_fidelity
from napari_dip.engine.operators.imaging import CircularConvolution
from napari_dip.engine.problem import Estimate

KERNEL = sample_gaussian_psf((1.5, 1.5))
SIDE = 32


def make_noise_variance(variance: float = 1.0) -> NoiseVariance:
    mask = torch.ones(1, 1, 1, 1)
    return NoiseVariance(gain=0 * mask, intercept=variance * mask, floor=1e-9 * mask)


def draw_wave(periods: int) -> torch.Tensor:
    line = torch.cos(2 * pi * periods * torch.arange(SIDE) / SIDE)
    return line.expand(1, 1, SIDE, SIDE).contiguous()


def compute_loss(error: torch.Tensor, floor: float, *, circular: bool = True) -> torch.Tensor:
    """Loss of an image that is off by `error`, seen through the blur."""
    mask = torch.ones(1, 1, SIDE, SIDE)
    fidelity = make_backprojection_fidelity(
        make_noise_variance(), KERNEL, mask, floor, is_circular=circular
    )
    return fidelity(Estimate(CircularConvolution(KERNEL)(error)), torch.zeros(1, 1, SIDE, SIDE))


@pytest.mark.parametrize("periods", [0, 1, 3, 5])
def test_errors_of_all_wavelengths_weigh_alike_down_to_the_floor(periods) -> None:
    error = draw_wave(periods)
    loss = compute_loss(error, 1e-6).mean()
    torch.testing.assert_close(loss, error.square().mean(), rtol=0.05, atol=0)


def test_below_the_floor_nothing_is_made_much_stronger() -> None:
    error = draw_wave(SIDE // 2)
    blurred = CircularConvolution(KERNEL)(error).square().mean()
    assert float(compute_loss(error, 0.01).mean()) <= 1.011 / 0.01 * float(blurred)


def test_an_even_error_counts_in_units_of_the_noise() -> None:
    mask = torch.ones(1, 1, SIDE, SIDE)
    fidelity = make_backprojection_fidelity(
        make_noise_variance(4.0), KERNEL, mask, 0.01, is_circular=True
    )
    loss = fidelity(Estimate(torch.full((1, 1, SIDE, SIDE), 6.0)), torch.zeros(1, 1, SIDE, SIDE))
    torch.testing.assert_close(loss, torch.full_like(loss, 9.0))


def test_an_open_frame_does_not_let_a_side_see_the_other() -> None:
    mask, error = torch.ones(1, 1, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    error[..., 0] = 1
    beyond = []
    for circular in (False, True):
        fidelity = make_backprojection_fidelity(
            make_noise_variance(), KERNEL, mask, 0.01, is_circular=circular
        )
        beyond.append(float(fidelity(Estimate(error), torch.zeros_like(error))[..., -1].mean()))
    assert beyond[0] < 0.1 * beyond[1]


def test_validation_pixels_have_no_effect() -> None:
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., 9, 9] = 0
    fidelity = make_backprojection_fidelity(
        make_noise_variance(), KERNEL, mask, 0.01, is_circular=False
    )
    measurement = torch.zeros(1, 1, SIDE, SIDE)
    measurement[..., 9, 9] = 100
    assert float(fidelity(Estimate(torch.zeros_like(measurement)), measurement).max()) == 0
