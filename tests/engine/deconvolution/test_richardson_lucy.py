"""Richardson-Lucy increases the likelihood, agrees with others, and has no border artefact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.restoration import richardson_lucy as skimage_richardson_lucy

from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy
from napari_dip.engine.operators.imaging import ValidConvolution, convolve_valid

CASES = {"plane": ((60, 56), (1.5, 1.5)), "stack": ((12, 24, 22), (0.6, 1.0, 1.0))}


def deconvolve(measurement: torch.Tensor, kernel: torch.Tensor, count: int) -> torch.Tensor:
    valid = torch.ones_like(measurement[:, :1])
    (image,) = run_masked_richardson_lucy(ValidConvolution(kernel), measurement, valid, (count,))
    return image


def make_scene(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give object, noisy measurement and kernel of a case."""
    frame, sigmas = CASES[name]
    kernel = sample_gaussian_psf(sigmas)
    grid = [size + extra - 1 for size, extra in zip(frame, kernel.shape, strict=True)]
    if len(frame) == 2:
        image = data.camera()[100 : 100 + grid[0], 150 : 150 + grid[1]]
    else:
        noise = np.random.default_rng(0).normal(size=grid)
        image = gaussian_filter(noise, 1.5).clip(0) ** 2  # blobs in the dark
    sharp = torch.from_numpy(image.astype(np.float32))[None, None]
    sharp = 200 * sharp / sharp.max()
    expected = convolve_valid(sharp, kernel)
    measurement = torch.poisson(expected, generator=torch.Generator().manual_seed(0))
    return sharp, measurement, kernel


def log_likelihood(image: torch.Tensor, measurement: torch.Tensor, kernel: torch.Tensor) -> float:
    expected = convolve_valid(image, kernel).double()
    return float((measurement * expected.log() - expected).sum())


@pytest.mark.parametrize("name", CASES)
def test_the_likelihood_never_falls(name: str) -> None:
    _, measurement, kernel = make_scene(name)
    levels = [
        log_likelihood(deconvolve(measurement, kernel, count), measurement, kernel)
        for count in range(1, 17)
    ]
    steps = np.diff(levels)
    assert (steps > -1e-7 * abs(levels[-1])).all()
    assert levels[-1] > levels[1]


def test_it_agrees_with_scikit_image_in_the_middle() -> None:
    _, measurement, kernel = make_scene("plane")
    mine = deconvolve(measurement, kernel, 10)[0, 0, 22:-22, 22:-22].numpy()
    other = skimage_richardson_lucy(
        measurement[0, 0].numpy(), kernel.numpy(), num_iter=10, clip=False
    )
    margin = kernel.shape[0] // 2
    other = other[22 - margin : margin - 22, 22 - margin : margin - 22]
    assert mine == pytest.approx(other, rel=0.02)


@pytest.mark.parametrize("name", CASES)
def test_it_brings_the_image_closer_to_the_object(name: str) -> None:
    sharp, measurement, kernel = make_scene(name)
    inner = tuple(slice(size // 2, -(size // 2)) for size in kernel.shape)
    wanted = sharp[(0, 0, *inner)]
    deconvolved = deconvolve(measurement, kernel, 8)
    assert deconvolved.shape == sharp.shape
    assert float(deconvolved.min()) >= 0
    before = float((measurement[0, 0] - wanted).square().mean())
    after = float((deconvolved[(0, 0, *inner)] - wanted).square().mean())
    assert after < 0.8 * before


def test_an_even_object_stays_even_up_to_the_border() -> None:
    kernel = sample_gaussian_psf((2.0, 2.0))
    deconvolved = deconvolve(torch.full((1, 2, 30, 30), 50.0), kernel, 30)
    assert deconvolved.numpy() == pytest.approx(50.0, rel=1e-3)


def test_darkness_stays_dark_and_finite() -> None:
    deconvolved = deconvolve(torch.zeros(1, 1, 12, 12), sample_gaussian_psf((1.0, 1.0)), 5)
    assert deconvolved.numpy() == pytest.approx(0.0, abs=1e-6)
    dark = torch.full((1, 1, 12, 12), -3.0)
    assert bool(deconvolve(dark, sample_gaussian_psf((1.0, 1.0)), 5).isfinite().all())
