"""First guesses are Richardson-Lucy's, whatever the operator and the pixels left out."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.deconvolution.initial_estimate import (
    estimate_peak_intensity,
    richardson_lucy,
    run_masked_richardson_lucy,
)
from napari_dip.engine.deconvolution.psf import gaussian_psf
from napari_dip.engine.operators.convolution import CircularConvolution, ValidConvolution

KERNEL = gaussian_psf((1.0, 1.3))


def counts(*grid: int) -> torch.Tensor:
    return 5 + torch.rand(1, 2, *grid, generator=torch.Generator().manual_seed(0))


def test_in_an_open_frame_they_are_what_richardson_lucy_gives() -> None:
    measurement = counts(20, 24)
    whole = tuple(n + k - 1 for n, k in zip((20, 24), KERNEL.shape, strict=True))
    seen = torch.ones(1, 1, 20, 24)
    guesses = run_masked_richardson_lucy(ValidConvolution(KERNEL), measurement, seen, whole, (2, 7))
    for guess, steps in zip(guesses, (2, 7), strict=True):
        wanted = richardson_lucy(measurement, KERNEL, steps)
        torch.testing.assert_close(guess, wanted, rtol=1e-3, atol=0)


def test_a_pixel_that_is_left_out_has_no_say() -> None:
    measurement, seen = counts(16, 16), torch.ones(1, 1, 16, 16)
    seen[..., 8, 8] = 0
    wrong = measurement.clone()
    wrong[..., 8, 8] = 1000
    operator = CircularConvolution(KERNEL)
    one, other = (
        run_masked_richardson_lucy(operator, m, seen, (16, 16), (3,)) for m in (measurement, wrong)
    )
    torch.testing.assert_close(one, other)


def test_more_steps_explain_the_measurement_better() -> None:
    operator, seen = CircularConvolution(KERNEL), torch.ones(1, 1, 16, 16)
    truth = counts(16, 16) ** 3
    measurement = operator(truth)
    guesses = run_masked_richardson_lucy(operator, measurement, seen, (16, 16), (1, 10))
    losses = [float((operator(one) - measurement).square().mean()) for one in guesses]
    assert losses[1] < 0.5 * losses[0]
    assert min(float(one.min()) for one in guesses) >= 0


def test_reach_is_how_far_a_picture_goes_but_for_single_points() -> None:
    guess = torch.rand(1, 1, 40, 50, 30, generator=torch.Generator().manual_seed(0)) * 8
    guess[0, 0, 3, 4, 5] = 1e6
    assert estimate_peak_intensity(guess) == pytest.approx(8, rel=0.01)
    assert estimate_peak_intensity(guess / 100) == 1


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_an_even_image_stays_even(constant) -> None:
    measurement, seen = torch.full((1, 1, 12, 12), constant), torch.ones(1, 1, 12, 12)
    (guess,) = run_masked_richardson_lucy(
        CircularConvolution(KERNEL), measurement, seen, (12, 12), (4,)
    )
    torch.testing.assert_close(guess, measurement, rtol=1e-4, atol=1e-6)
