"""Deconvolution guided by the network's image."""

from dataclasses import replace

import pytest
import torch

from napari_dip.engine.deconvolution.plug_and_play import (
    deconvolve_with_guide,
    solve_conjugate_gradients,
)
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy
from napari_dip.engine.likelihood.fidelity import NoiseVariance, make_gaussian_deviance
from napari_dip.engine.operators.imaging import ValidConvolution
from napari_dip.engine.problem import Estimate, Term, run_steps

SIDE, MARGIN, NOISE_STD = 32, 4, 0.01


def make_noise_variance(channels: int = 1) -> NoiseVariance:
    ones = torch.ones(1, channels, 1, 1)
    return NoiseVariance(gain=0 * ones, intercept=NOISE_STD**2 * ones, floor=1e-8 * ones)


def make_object(dims: int = 2, channels: int = 1) -> torch.Tensor:
    """Draw bright boxes of sharp edges."""
    sizes = (12, 24, 24) if dims == 3 else (SIDE, SIDE)
    image = torch.zeros(1, channels, *(size + 2 * MARGIN for size in sizes))
    rng = torch.Generator().manual_seed(0)
    for _ in range(8):
        start = [int(torch.randint(0, size, (1,), generator=rng)) for size in image.shape[2:]]
        box = [slice(first, first + 7) for first in start]
        image[(0, slice(None), *box)] += torch.rand(channels, *(1,) * dims, generator=rng)
    return image


def make_term(image: torch.Tensor) -> Term:
    dims = image.ndim - 2
    operator = ValidConvolution(sample_gaussian_psf((1.4,) * dims, (2 * MARGIN + 1,) * dims))
    blurred = operator(image)
    rng = torch.Generator().manual_seed(1)
    measurement = blurred + NOISE_STD * torch.randn(blurred.shape, generator=rng)
    validation = (torch.rand(blurred[:, :1].shape, generator=rng) < 0.04).float()
    return Term(
        measurement=measurement,
        operator=operator,
        fidelity=make_gaussian_deviance(make_noise_variance()),
        deviance=make_gaussian_deviance(make_noise_variance()),
        training_pixel_weights=1 - validation,
        validation_mask=validation,
        refit_pixel_weights=1 - validation,
    )


def make_guide(term: Term) -> torch.Tensor:
    """Return a blurred estimate, such as a network has after a few iterations."""
    (guide,) = run_masked_richardson_lucy(
        term.operator, term.measurement, term.training_pixel_weights, (5,)
    )
    return guide


def deconvolve(term: Term, guide: torch.Tensor) -> Estimate:
    measured = torch.ones_like(term.validation_mask)
    noise_variance = make_noise_variance(guide.shape[1])
    return run_steps(deconvolve_with_guide(term, noise_variance, measured, guide))


def compute_error(image: torch.Tensor, truth: torch.Tensor) -> float:
    inner = (..., *(slice(MARGIN, -MARGIN) for _ in truth.shape[2:]))
    return float((image[inner] - truth[inner]).square().mean().sqrt())


@pytest.mark.parametrize(("dims", "channels", "share"), [(2, 1, 0.65), (2, 3, 0.65), (3, 1, 0.8)])
def test_the_result_has_detail_that_the_guide_lacks(dims, channels, share) -> None:
    truth = make_object(dims, channels)
    term = make_term(truth)
    guide = make_guide(term)
    result = deconvolve(term, guide)
    assert compute_error(result.mean, truth) < share * compute_error(guide, truth)


def test_the_stated_error_is_large_where_the_error_is() -> None:
    truth = make_object()
    term = make_term(truth)
    result = deconvolve(term, make_guide(term))
    inner = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    squared = (result.mean - truth)[inner].square()
    stated = result.log_variance[inner].exp()
    assert 0.5 < float((squared.mean() / stated.mean()).sqrt()) < 2
    is_large = stated > stated.median()
    assert float(squared[is_large].mean()) > 4 * float(squared[~is_large].mean())


def test_validation_pixels_are_added_in_the_end() -> None:
    term = make_term(make_object())
    guide, noise_variance = make_guide(term), make_noise_variance()
    is_validation = term.validation_mask > 0
    errors = []
    for measured in (torch.ones_like(term.validation_mask), term.training_pixel_weights):
        image = run_steps(deconvolve_with_guide(term, noise_variance, measured, guide)).mean
        errors.append(float((term.measurement - term.operator(image))[is_validation].std()))
    assert errors[0] < 0.95 * errors[1]


def test_without_validation_pixels_nothing_is_chosen() -> None:
    term = make_term(make_object())
    term.validation_mask.zero_()
    guide = make_guide(term)
    assert deconvolve(term, guide) is None


def test_an_error_of_the_psf_does_not_become_detail() -> None:
    """Noise that was stated ten times too weak stands for what a wrong PSF leaves."""
    truth = make_object()
    term = make_term(truth)
    guide = make_guide(term)
    weak = make_noise_variance().scale(0.01)
    result = run_steps(
        deconvolve_with_guide(term, weak, torch.ones_like(term.validation_mask), guide)
    )
    usual = deconvolve(term, guide)
    assert compute_error(result.mean, truth) < 1.1 * compute_error(usual.mean, truth)


def test_conjugate_gradients_solve_a_small_system_exactly() -> None:
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=rng, dtype=torch.float64)
    matrix, solution = root @ root.T + torch.eye(12), torch.randn(12, generator=rng).double()
    shape = (1, 1, 3, 4)
    solved = solve_conjugate_gradients(
        lambda image: (matrix @ image.flatten()).reshape(shape),
        (matrix @ solution).reshape(shape),
        torch.zeros(shape, dtype=torch.float64),
        steps=12,
    )
    torch.testing.assert_close(solved.flatten(), solution, rtol=1e-6, atol=1e-6)


def test_detail_that_a_wrong_psf_explains_counts_as_noise() -> None:
    truth = make_object()
    term = make_term(truth)
    narrow = ValidConvolution(sample_gaussian_psf((1.2,) * 2, (2 * MARGIN + 1,) * 2))
    shifted = replace(term, operator=narrow, measurement=torch.roll(term.measurement, 1, 3))
    guide, measured = make_guide(shifted), torch.ones_like(term.validation_mask)
    noise_variance = make_noise_variance()
    rough, smooth = (
        run_steps(
            deconvolve_with_guide(shifted, noise_variance, measured, guide, psf_error=psf_error)
        ).mean
        for psf_error in (0.0, 0.5)
    )
    residuals = [
        float((shifted.measurement - narrow(image)).square().mean().sqrt())
        for image in (rough, smooth)
    ]
    assert residuals[0] < residuals[1] < 8 * NOISE_STD
    variations = [float(torch.diff(image, dim=3).abs().mean()) for image in (rough, smooth)]
    assert variations[1] < variations[0]


def test_grain_that_the_blur_hides_is_filtered_at_last() -> None:
    """The measurement of an even object has noise alone; a guide with grain explains it as well."""
    truth = torch.full((1, 1, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN), 0.5)
    term = make_term(truth)
    grain = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    error = compute_error(deconvolve(term, truth + NOISE_STD * grain).mean, truth)
    assert error < 0.5 * NOISE_STD
