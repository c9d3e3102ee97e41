"""Initial estimates are those of Richardson-Lucy, for all operators and masks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.deconvolution.richardson_lucy import (
    estimate_peak_intensity,
    run_masked_richardson_lucy,
)
from napari_dip.engine.operators.imaging import (
    CircularConvolution,
    ValidConvolution,
    convolve_valid,
)

KERNEL = sample_gaussian_psf((1.0, 1.3))


def draw_counts(*grid: int) -> torch.Tensor:
    return 5 + torch.rand(1, 2, *grid, generator=torch.Generator().manual_seed(0))


def richardson_lucy(measurement: torch.Tensor, iterations: int) -> torch.Tensor:
    """Deconvolve with an adjoint by hand: the mirrored kernel over the frame in darkness."""
    down, across = (2 * (size // 2) for size in KERNEL.shape)

    def spread_back(frame: torch.Tensor) -> torch.Tensor:
        return convolve_valid(pad(frame, (across, across, down, down)), KERNEL.flip(0, 1))

    light = spread_back(torch.ones_like(measurement))
    image = measurement.mean((2, 3), keepdim=True).expand_as(light)
    for _ in range(iterations):
        factor = spread_back(measurement / convolve_valid(image, KERNEL)) / light.clamp(min=1e-2)
        image = image * torch.where(light > 1e-2, factor, 1.0)
    return image


def test_in_an_open_frame_they_are_what_richardson_lucy_gives() -> None:
    measurement = draw_counts(20, 24)
    mask = torch.ones(1, 1, 20, 24)
    guesses = run_masked_richardson_lucy(ValidConvolution(KERNEL), measurement, mask, (2, 7))
    for guess, steps in zip(guesses, (2, 7), strict=True):
        wanted = richardson_lucy(measurement, steps)
        torch.testing.assert_close(guess, wanted, rtol=1e-3, atol=0)


def test_an_excluded_pixel_has_no_effect() -> None:
    measurement, mask = draw_counts(16, 16), torch.ones(1, 1, 16, 16)
    mask[..., 8, 8] = 0
    wrong = measurement.clone()
    wrong[..., 8, 8] = 1000
    operator = CircularConvolution(KERNEL)
    clean, changed = (
        run_masked_richardson_lucy(operator, m, mask, (3,)) for m in (measurement, wrong)
    )
    torch.testing.assert_close(clean, changed)


def test_more_steps_explain_the_measurement_better() -> None:
    operator, mask = CircularConvolution(KERNEL), torch.ones(1, 1, 16, 16)
    truth = draw_counts(16, 16) ** 3
    measurement = operator(truth)
    guesses = run_masked_richardson_lucy(operator, measurement, mask, (1, 10))
    losses = [float((operator(guess) - measurement).square().mean()) for guess in guesses]
    assert losses[1] < 0.5 * losses[0]
    assert min(float(guess.min()) for guess in guesses) >= 0


def test_reach_is_how_far_an_image_goes_but_for_single_points() -> None:
    guess = torch.rand(1, 1, 40, 50, 30, generator=torch.Generator().manual_seed(0)) * 8
    guess[0, 0, 3, 4, 5] = 1e6
    assert estimate_peak_intensity(guess) == pytest.approx(8, rel=0.01)
    assert estimate_peak_intensity(guess / 100) == 1


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_an_even_image_stays_even(constant) -> None:
    measurement, mask = torch.full((1, 1, 12, 12), constant), torch.ones(1, 1, 12, 12)
    (guess,) = run_masked_richardson_lucy(CircularConvolution(KERNEL), measurement, mask, (4,))
    torch.testing.assert_close(guess, measurement, rtol=1e-4, atol=1e-6)
