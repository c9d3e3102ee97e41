"""Smooth deconvolution weights pixels by their variance, and penalises curvature."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.deconvolution.richardson_lucy import (
    compute_hessian_norm_gradient,
    iterate_smooth_deconvolution,
    run_masked_richardson_lucy,
)
from napari_dip.engine.operators.imaging import CircularConvolution

NO_BACKGROUND = torch.zeros(1, 1, 1, 1, 1)
KERNEL = sample_gaussian_psf((0.8, 1.0, 1.0))


def make_random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def draw_lines(*grid: int) -> torch.Tensor:
    truth = torch.full((1, 1, *grid), 0.02)
    truth[:, :, 2::4, 3::5, 2:-2] = 4.0
    return truth


def measure_error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float((image - truth).square().mean().sqrt())


def deconvolve(light: torch.Tensor, *, noise: float, weights: tuple[float, ...], steps: int):
    ones = torch.ones_like(light)
    variance = noise**2 * ones
    marks = (steps,)
    operator = CircularConvolution(KERNEL)
    return list(
        iterate_smooth_deconvolution(operator, light, NO_BACKGROUND, variance, ones, weights, marks)
    )


def test_the_gradient_of_the_bends_is_the_one_that_torch_finds() -> None:
    image = make_random(1, 2, 4, 5, 6).requires_grad_()
    corner, total = 0.1, 0.0
    steps = [torch.diff(image, dim=d, append=image.narrow(d, -1, 1)) for d in (2, 3, 4)]
    squares = corner**2 + sum(
        torch.diff(step, dim=d, append=step.narrow(d, -1, 1)).square()
        for step in steps
        for d in (2, 3, 4)
    )
    total = squares.sqrt().sum()
    (wanted,) = torch.autograd.grad(total, image)
    torch.testing.assert_close(
        compute_hessian_norm_gradient(image.detach(), corner)[0], wanted, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("grid", [(7, 8), (4, 5, 6)])
def test_the_parabolas_lie_above_the_bends(grid) -> None:
    image, corner = make_random(1, 1, *grid).double(), 0.05

    def compute_total_variation(pixels: torch.Tensor) -> float:
        steps = [torch.diff(pixels, dim=d, append=pixels.narrow(d, -1, 1)) for d in
                 range(2, pixels.ndim)]  # fmt: skip
        squares = corner**2 + sum(
            torch.diff(step, dim=d, append=step.narrow(d, -1, 1)).square()
            for step in steps
            for d in range(2, pixels.ndim)
        )
        return float(squares.sqrt().sum())

    gradient, curvature = compute_hessian_norm_gradient(image, corner)
    for seed, far in ((1, 0.01), (2, 0.1), (3, 2.0)):
        change = far * (make_random(*image.shape, seed=seed).double() - 0.5)
        above = (gradient * change + 0.5 * curvature * change.square()).sum()
        assert (
            compute_total_variation(image + change) - compute_total_variation(image)
            <= float(above) + 1e-9
        )


def test_forty_steps_come_nearer_than_a_hundred_of_richardson_lucy() -> None:
    truth = draw_lines(8, 20, 20)
    light = CircularConvolution(KERNEL)(truth)
    (ours,) = deconvolve(light, noise=0.01, weights=(0.0,), steps=40)
    operator, ones = CircularConvolution(KERNEL), torch.ones_like(light)
    (theirs,) = run_masked_richardson_lucy(operator, light, ones, (100,))
    assert measure_error(ours, truth) < measure_error(theirs, truth)
    assert float(ours.min()) >= 0


def test_a_price_of_bends_keeps_noise_down() -> None:
    truth = CircularConvolution(sample_gaussian_psf((2.0, 2.0, 2.0)))(draw_lines(12, 20, 20))
    noise = 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    light = CircularConvolution(KERNEL)(truth) + noise
    (rough,) = deconvolve(light, noise=0.02, weights=(0.0,), steps=40)
    (smooth,) = deconvolve(light, noise=0.02, weights=(0.03,), steps=40)
    assert measure_error(smooth, truth) < 0.7 * measure_error(rough, truth)


def test_each_price_begins_where_the_one_before_ended() -> None:
    light = CircularConvolution(KERNEL)(draw_lines(6, 12, 12))
    both = deconvolve(light, noise=0.01, weights=(0.1, 0.0), steps=5)
    (alone,) = deconvolve(light, noise=0.01, weights=(0.0,), steps=5)
    truth = draw_lines(6, 12, 12)
    assert len(both) == 2
    assert measure_error(both[1], truth) < measure_error(alone, truth)


def test_an_excluded_pixel_has_no_effect_and_a_noisy_one_little() -> None:
    light, operator = (
        CircularConvolution(KERNEL)(draw_lines(6, 12, 12)),
        CircularConvolution(KERNEL),
    )
    wrong, mask, variance = light.clone(), torch.ones_like(light), torch.ones_like(light)
    wrong[..., 3, 6, 6] = 50
    mask[..., 3, 6, 6], variance[..., 3, 6, 6] = 0, 1e6

    def answer(image: torch.Tensor, mask: torch.Tensor, doubted: torch.Tensor) -> torch.Tensor:
        images = iterate_smooth_deconvolution(
            operator, image, NO_BACKGROUND, doubted, mask, (0.0,), (8,)
        )
        return next(images)

    ones = torch.ones_like(mask)
    torch.testing.assert_close(answer(wrong, mask, ones), answer(light, mask, ones))
    right = answer(light, ones, ones)
    assert measure_error(answer(wrong, ones, variance), right) < 0.01 * measure_error(
        answer(wrong, ones, ones), right
    )


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_an_even_image_stays_even(constant) -> None:
    light = torch.full((1, 1, 6, 8, 8), constant)
    (image,) = deconvolve(light, noise=0.1, weights=(0.01,), steps=4)
    torch.testing.assert_close(image, light, rtol=1e-4, atol=1e-6)
