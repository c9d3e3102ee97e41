"""A PSF that changes over the field: its modes, their maps, and the blur with its adjoint."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.deconvolution.kernels import (
    MAX_MODE_ERROR,
    decompose_field,
    interpolate_coefficients,
)
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.operators.imaging import FieldConvolution, ValidConvolution


def draw_random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_kernels(cells: tuple[int, ...], side: int = 13) -> torch.Tensor:
    """Make Gaussians that widen from cell to cell, by two in all."""
    count = torch.Size(cells).numel()
    widths = torch.linspace(1.0, 2.0, count).tolist()
    return torch.stack([sample_gaussian_psf((width, width), (side, side)) for width in widths])


def test_modes_explain_each_psf_and_keep_its_sum() -> None:
    kernels = make_kernels((3, 4))
    modes, coefficients = decompose_field(kernels, (3, 4))
    assert len(modes) < 5
    explained = torch.einsum("kp,kyx->pyx", coefficients.flatten(1), modes)
    errors = (explained - kernels).flatten(1).norm(dim=1) / kernels.flatten(1).norm(dim=1)
    assert float(errors.max()) < 2 * MAX_MODE_ERROR
    torch.testing.assert_close(explained.sum((1, 2)), torch.ones(12))


def test_the_same_psf_everywhere_is_one_mode() -> None:
    kernels = make_kernels((1,)).expand(4, -1, -1)
    modes, coefficients = decompose_field(kernels, (2, 2))
    assert len(modes) == 1
    torch.testing.assert_close(modes[0] * coefficients[0, 0, 0], kernels[0])


def test_coefficients_are_those_of_the_cells_in_their_middles_and_linear_between() -> None:
    coefficients = draw_random(2, 3, 4)
    maps = interpolate_coefficients(coefficients, (15, 20), (0, 0), (15, 20))
    torch.testing.assert_close(maps[:, 2::5, 2::5], coefficients)
    ramp = torch.tensor([[[2.0], [7.0], [12.0]]])
    linear = interpolate_coefficients(ramp, (15, 9), (-2, -2), (19, 13))[0]
    torch.testing.assert_close(linear[2:-2, 0], torch.arange(15.0))
    torch.testing.assert_close(linear[0, 0], torch.tensor(-0.5))  # beyond the border: the border


def test_maps_of_a_tile_are_those_of_the_image_there() -> None:
    coefficients = draw_random(3, 4, 5)
    whole = interpolate_coefficients(coefficients, (40, 50), (-6, -6), (52, 62))
    tile = interpolate_coefficients(coefficients, (40, 50), (10, 24), (20, 20))
    torch.testing.assert_close(tile, whole[:, 16:36, 30:50])


@pytest.mark.parametrize("margin", [None, (1, 2, 3)])
def test_the_adjoint_of_the_changing_blur_is_exact(margin: tuple[int, ...] | None) -> None:
    measured, sizes = (6, 9, 10), (3, 5, 7)
    kept = margin or (1, 2, 3)
    grid = tuple(count + 2 * pixels for count, pixels in zip(measured, kept, strict=True))
    blur = FieldConvolution(draw_random(4, *sizes), draw_random(4, *grid, seed=1), margin)
    assert blur.compute_object_grid(measured) == grid
    image, residual = draw_random(1, 2, *grid, seed=2), draw_random(1, 2, *measured, seed=3)
    forward = (blur(image) * residual).sum()
    backward = (image * blur.make_adjoint(residual)(residual)).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-5)


def test_a_smaller_margin_has_an_exact_adjoint_too() -> None:
    measured = (12, 12)
    blur = FieldConvolution(draw_random(2, 9, 9), draw_random(2, 16, 16, seed=1), (2, 2))
    image, residual = draw_random(1, 1, 16, 16, seed=2), draw_random(1, 1, *measured, seed=3)
    forward = (blur(image) * residual).sum()
    backward = (image * blur.make_adjoint(residual)(residual)).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-5)


def test_a_point_becomes_the_psf_of_its_place() -> None:
    kernels = make_kernels((2, 2))
    modes, coefficients = decompose_field(kernels, (2, 2))
    maps = interpolate_coefficients(coefficients, (40, 40), (-6, -6), (52, 52))
    blur = FieldConvolution(modes, maps)
    for index, (row, column) in enumerate([(10, 10), (10, 30), (30, 10), (30, 30)]):
        point = torch.zeros(1, 1, 52, 52)
        point[0, 0, row + 6, column + 6] = 1.0
        spot = blur(point)[0, 0, row - 6 : row + 7, column - 6 : column + 7]
        assert float((spot - kernels[index]).norm() / kernels[index].norm()) < 0.05


def test_equal_coefficients_are_the_invariant_blur() -> None:
    kernel = draw_random(5, 7)
    image = draw_random(2, 3, 20, 24, seed=1)
    blur = FieldConvolution(kernel[None], torch.ones(1, 1, 1))
    torch.testing.assert_close(blur(image), ValidConvolution(kernel)(image), rtol=1e-4, atol=1e-5)
