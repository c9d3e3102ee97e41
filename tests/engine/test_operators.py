"""Operators model optics and detectors, and are differentiable."""

from __future__ import annotations

import copy
from math import pi

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve
from skimage import data

from napari_dip.engine.constants import ZERNIKE_MODES
from napari_dip.engine.deconvolution.kernels import (
    DefocusKernel,
    GaussianKernel,
    KernelNetwork,
    MotionKernel,
    SoftmaxKernel,
    ZernikeKernel,
    compute_kernel_logits,
)
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.operators.imaging import (
    MAX_DIRECT_TAPS,
    BinnedDownsample,
    CircularConvolution,
    LanczosDownsample,
    LearnedConvolution,
    ValidConvolution,
    convolve_by_fourier,
    convolve_directly,
    convolve_valid,
    find_fft_length,
)
from napari_dip.engine.problem import Chain, Identity

GRIDS = {"plane": ((23, 30), (5, 7)), "stack": ((9, 14, 12), (3, 5, 3))}


def draw_random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_image(side: int) -> torch.Tensor:
    """Give a real image, (1, 1, side, side), from 0 to 1."""
    whole = data.camera()[100 : 100 + side, 150 : 150 + side]
    return torch.from_numpy(whole.astype(np.float32) / 255)[None, None]


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_lanczos_decimates_as_pillow_does(factor: int) -> None:
    fine = draw_random(1, 2, 9 * factor, 13 * factor)
    coarse = LanczosDownsample((factor, factor))(fine)
    for channel in range(2):
        wanted = Image.fromarray(fine[0, channel].numpy()).resize((13, 9), Image.Resampling.LANCZOS)
        assert coarse[0, channel].numpy() == pytest.approx(np.asarray(wanted), abs=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_lanczos_decimates_images_smaller_than_its_window_as_pillow_does(size: int) -> None:
    fine = draw_random(1, 1, 4 * size, 4 * size)
    wanted = Image.fromarray(fine[0, 0].numpy()).resize((size, size), Image.Resampling.LANCZOS)
    coarse = LanczosDownsample((4, 4))(fine)
    assert coarse[0, 0].numpy() == pytest.approx(np.asarray(wanted), abs=1e-4)


@pytest.mark.parametrize("operator", [LanczosDownsample, BinnedDownsample])
@pytest.mark.parametrize("factors", [(3, 4), (4, 1, 1), (2, 2, 3)])
def test_coarser_pixels_keep_a_constant(operator: type, factors: tuple[int, ...]) -> None:
    grid = [6 * factor for factor in factors]
    coarse = operator(factors)(torch.full((2, 3, *grid), 7.0))
    assert coarse.shape == (2, 3, *(6,) * len(factors))
    assert coarse.numpy() == pytest.approx(7.0, rel=1e-5)


def test_lanczos_along_z_treats_each_column_as_a_line() -> None:
    stack = draw_random(1, 1, 12, 3, 4)
    lines = stack.reshape(1, 1, 12, 12)
    along_z = LanczosDownsample((3, 1, 1))(stack)
    assert torch.allclose(along_z.reshape(1, 1, 4, 12), LanczosDownsample((3, 1))(lines))


def test_binning_is_the_mean_over_blocks_of_pixels() -> None:
    fine = draw_random(1, 1, 6, 8)
    coarse = BinnedDownsample((3, 2))(fine)
    assert float(coarse[0, 0, 1, 2]) == pytest.approx(float(fine[0, 0, 3:6, 4:6].mean()))


@pytest.mark.parametrize("operator", [LanczosDownsample, BinnedDownsample])
def test_coarser_pixels_need_whole_factors_and_sizes(operator: type) -> None:
    with pytest.raises(ValueError, match="from 1 on"):
        operator((2, 0))
    with pytest.raises(ValueError, match="no multiple"):
        operator((2, 3))(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="no multiple"):
        operator((2, 2))(torch.zeros(1, 1, 4, 4, 4))


def test_weights_met_first_without_gradients_still_train_later() -> None:
    decimate = LanczosDownsample((2, 2))
    with torch.inference_mode():
        decimate(draw_random(1, 1, 8, 8))
    fine = draw_random(1, 1, 8, 8).requires_grad_()
    decimate(fine).sum().backward()
    assert fine.grad is not None


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(
    "convolve_tensor", [convolve_valid, convolve_directly, convolve_by_fourier]
)
def test_convolution_is_true_convolution(name: str, convolve_tensor: type) -> None:
    grid, sizes = GRIDS[name]
    image, kernel = draw_random(2, 3, *grid), draw_random(*sizes, seed=1)
    wanted = convolve(image[1, 2].numpy(), kernel.numpy(), mode="valid", method="direct")
    assert convolve_tensor(image, kernel)[1, 2].numpy() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_sum_and_fourier_agree_with_their_gradients(name: str) -> None:
    grid, sizes = GRIDS[name]
    results = []
    for method in (convolve_directly, convolve_by_fourier):
        image, kernel = draw_random(2, 3, *grid), draw_random(*sizes, seed=1)
        image.requires_grad_()
        kernel.requires_grad_()
        blurred = method(image, kernel)
        (blurred * draw_random(*blurred.shape, seed=2)).sum().backward()
        results.append((blurred.detach(), image.grad, kernel.grad))
    for direct, fourier in zip(*results, strict=True):
        assert direct is not None and fourier is not None
        assert torch.allclose(direct, fourier, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(3, 3), (9, 1, 1), (9, 11), (3, 5, 7)])
def test_a_point_becomes_the_kernel_in_the_middle_of_the_frame(sizes: tuple[int, ...]) -> None:
    kernel = draw_random(*sizes)
    blur = ValidConvolution(kernel)
    grid = [2 * size - 1 for size in sizes]
    point = torch.zeros(1, 1, *grid)
    point[(0, 0, *[size - 1 for size in sizes])] = 1
    assert torch.allclose(blur(point)[0, 0], kernel, atol=1e-6)
    assert blur.margin == tuple(size // 2 for size in sizes)


def test_what_lies_beyond_a_smaller_object_is_as_at_its_rim() -> None:
    kernel = draw_random(5, 7, 7)
    kernel = kernel / kernel.sum()
    blur = ValidConvolution(kernel, margin=(1, 3, 9))
    assert blur.margin == (1, 3, 3)
    frame = (6, 8, 9)
    image = draw_random(1, 1, *(n + 2 * m for n, m in zip(frame, blur.margin, strict=True)), seed=1)
    whole = torch.cat([image[:, :, :1], image, image[:, :, -1:]], 2)
    torch.testing.assert_close(blur(image), ValidConvolution(kernel)(whole))
    assert blur(image).shape[2:] == frame


@pytest.mark.parametrize("name", GRIDS)
def test_circular_convolution_wraps_round(name: str) -> None:
    grid, sizes = GRIDS[name]
    image, kernel = draw_random(1, 1, *grid), draw_random(*sizes, seed=1)
    blurred = CircularConvolution(kernel)(image)
    axes = tuple(range(-len(grid), 0))
    shifts = (3, -4, 2)[: len(grid)]
    moved = CircularConvolution(kernel)(image.roll(shifts, axes))
    assert blurred.shape == image.shape
    assert torch.allclose(moved, blurred.roll(shifts, axes), atol=1e-4)
    margin = ValidConvolution(kernel).margin
    inner = tuple(slice(m, n - m) for m, n in zip(margin, grid, strict=True))
    valid = ValidConvolution(kernel)(image)
    assert torch.allclose(blurred[(0, 0, *inner)], valid[0, 0], atol=1e-4)


def test_a_kernel_larger_than_a_circular_frame_goes_round_it() -> None:
    kernel, image = draw_random(9, 5), draw_random(1, 1, 8, 8, seed=1)
    wanted = torch.zeros_like(image)
    for row in range(9):
        for column in range(5):
            wanted += kernel[row, column] * image.roll((row - 4, column - 2), (2, 3))
    torch.testing.assert_close(CircularConvolution(kernel)(image), wanted, rtol=1e-4, atol=1e-4)


def test_kernels_without_a_middle_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        ValidConvolution(torch.ones(4, 5))
    with pytest.raises(ValueError, match="odd"):
        CircularConvolution(torch.ones(3, 4))
    with pytest.raises(ValueError, match="odd"):
        LearnedConvolution(GaussianKernel((4, 5), 1.0))
    with pytest.raises(ValueError, match="no 1-D grid"):
        ValidConvolution(torch.ones(5))


def test_fast_lengths_have_small_primes_only() -> None:
    assert [find_fft_length(size) for size in (1, 7, 97, 256, 257, 542)] == [
        1,
        8,
        100,
        256,
        270,
        576,
    ]


def test_small_kernels_are_summed_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.fft, "rfftn", refuse)
    convolve_valid(draw_random(1, 1, 20, 20), draw_random(MAX_DIRECT_TAPS, 1))
    with pytest.raises(AssertionError):
        convolve_valid(draw_random(1, 1, 20, 20), draw_random(MAX_DIRECT_TAPS + 2, 1))


def test_a_chain_applies_optics_before_pixels() -> None:
    image, kernel = draw_random(1, 1, 16, 16), draw_random(5, 5, seed=1)
    chain = Chain(Identity(), ValidConvolution(kernel), BinnedDownsample((3, 3)))
    wanted = BinnedDownsample((3, 3))(ValidConvolution(kernel)(image))
    assert torch.equal(chain(image), wanted)
    assert not list(chain.parameters())
    learned = Chain(LearnedConvolution(GaussianKernel((5, 5), 1.0)), BinnedDownsample((2, 2)))
    assert len(list(learned.parameters())) == 1


KERNELS = {
    "free": SoftmaxKernel(draw_random(5, 7)),
    "network": SoftmaxKernel(KernelNetwork((5, 7), torch.Generator().manual_seed(0))),
    "gaussian": GaussianKernel((5, 7), 1.3),
    "motion": MotionKernel((7, 9), 4.0, 0.7),
    "defocus": DefocusKernel((7, 9), 2.3),
    "lens": ZernikeKernel((7, 9), (0.1, -0.05, 0.1, 0.1, 0.05, 0.1, -0.1, 0.05), 0.3),
}


@pytest.mark.parametrize("name", KERNELS)
def test_learned_kernels_are_positive_of_sum_one_and_reached_by_gradients(name: str) -> None:
    blur = LearnedConvolution(KERNELS[name])
    kernel = blur.compute_kernel().detach()
    assert float(kernel.min()) >= 0
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    image = draw_random(1, 2, *[size + 4 for size in kernel.shape])
    blurred = blur(image)
    assert torch.allclose(blurred, ValidConvolution(kernel)(image), atol=1e-6)
    weights = list(blur.parameters())
    gradients = torch.autograd.grad(blurred.square().sum(), weights)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_a_lens_without_aberrations_has_the_width_of_an_airy_disc() -> None:
    kernel = ZernikeKernel((31, 31), [0.0] * 8, 0.125)().detach()
    assert torch.allclose(kernel, kernel.T, atol=1e-6)
    # half the maximum at 0.257 wavelengths / NA from the middle (Born and Wolf 8.5.2)
    assert float(kernel[15, 17] / kernel[15, 15]) == pytest.approx(0.52, abs=0.03)


def test_each_aberration_moves_light_as_its_name_says() -> None:
    def blur(name: str) -> torch.Tensor:
        waves = [0.2 * (mode == name) for mode in ZERNIKE_MODES]
        return ZernikeKernel((31, 31), waves, 0.25)().detach()

    offsets = torch.arange(31.0) - 15
    coma = blur("horizontal coma")
    assert abs(float((coma.sum(1) * offsets).sum())) < 0.1
    skewness = float((coma.sum(0) * (offsets - (coma.sum(0) * offsets).sum()) ** 3).sum())
    assert abs(skewness) > 10
    for name in ("defocus", "spherical aberration"):
        assert torch.allclose(blur(name), blur(name).T, atol=1e-5)
    cross = blur("astigmatism")
    assert torch.allclose(cross, cross.T, atol=1e-5)
    assert float(blur("oblique astigmatism").diagonal().sum()) != pytest.approx(
        float(cross.diagonal().sum()), rel=0.1
    )


def test_a_free_kernel_starts_with_the_given_values() -> None:
    start = sample_gaussian_psf((1.0, 2.0), (7, 9))
    kernel = SoftmaxKernel(compute_kernel_logits(start))().detach()
    assert float((kernel - start).abs().sum()) < 0.02
    assert torch.isfinite(compute_kernel_logits(torch.eye(5))).all()


def test_a_kernel_network_is_drawn_from_its_generator_alone() -> None:
    first, same, changed = (
        KernelNetwork((5, 5), torch.Generator().manual_seed(seed))() for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, changed)


@pytest.mark.parametrize("angle", [0.0, 0.6, pi / 2, 2.5])
@pytest.mark.parametrize("length", [4.0, 9.5])
def test_a_motion_kernel_has_the_spread_and_the_direction_of_its_line(
    angle: float, length: float
) -> None:
    kernel = MotionKernel((15, 15), length, angle)().detach()
    place = torch.arange(15.0) - 7
    yy = float((kernel.sum(1) * place**2).sum())
    xx = float((kernel.sum(0) * place**2).sum())
    xy = float((kernel * place[:, None] * place).sum())
    # A line of length L has the variance L^2 / 12; interpolation adds at most 1/4 per axis.
    assert yy + xx == pytest.approx(length**2 / 12 + 0.25, abs=0.3)
    assert 0.5 * np.arctan2(2 * xy, xx - yy) % pi == pytest.approx(angle % pi, abs=0.06)


def test_a_defocus_kernel_is_an_even_disc_of_its_radius() -> None:
    kernel = DefocusKernel((15, 15), 5.3)().detach()
    assert float(1 / kernel.max()) == pytest.approx(pi * 5.3**2, rel=0.01)
    assert float(kernel[7, 12]) == pytest.approx(float(kernel[7, 7]), rel=0.35)
    assert float(kernel[7, 13]) == 0


OPERATORS = {
    "lanczos": LanczosDownsample((2, 2)),
    "binned": BinnedDownsample((2, 2)),
    "summed": ValidConvolution(torch.ones(3, 3)),
    "fourier": ValidConvolution(torch.ones(7, 7)),
    "circular": CircularConvolution(torch.ones(7, 7)),
    **{
        f"learned {name}": LearnedConvolution(kernel)
        for name, kernel in KERNELS.items()
        if kernel().ndim == 2
    },
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_works_on_the_device_that_it_is_moved_to(name: str) -> None:
    moved = copy.deepcopy(OPERATORS[name]).to("meta")  # mixing devices is an error there too
    wanted = OPERATORS[name](draw_random(1, 2, 16, 16))
    moved_operator = moved(torch.empty(1, 2, 16, 16, device="meta"))
    assert moved_operator.device.type == "meta"
    assert moved_operator.shape == wanted.shape
    assert moved_operator.dtype == wanted.dtype == torch.float32


@pytest.mark.parametrize("name", [*OPERATORS, "chain", "identity"])
def test_the_adjoint_brings_back_what_a_linear_operator_spreads(name: str) -> None:
    others = {
        "chain": Chain(ValidConvolution(draw_random(3, 5)), LanczosDownsample((2, 3))),
        "identity": Identity(),
    }
    operator = (OPERATORS | others)[name]
    frame = draw_random(1, 2, 9, 8, seed=1)
    image = draw_random(1, 2, *operator.compute_object_grid((9, 8)))
    predicted = operator(image).detach()
    assert predicted.shape == frame.shape
    back = operator.make_adjoint(frame)(frame)
    assert back.shape == image.shape
    wanted = float((predicted.double() * frame).sum())
    assert float((image.double() * back).sum()) == pytest.approx(wanted, rel=1e-5)


def fit_kernel(start: LearnedConvolution, sharp: torch.Tensor, blurred: torch.Tensor) -> dict:
    """Fit the blur's figures to an image of which the sharp one is known."""
    optimizer = torch.optim.Adam(start.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        (start(sharp) - blurred).square().mean().backward()
        optimizer.step()
    return start.kernel_module.get_kernel_parameters()


def test_an_unknown_gaussian_width_is_found_within_2_percent() -> None:
    sharp = make_image(80)
    whole = gaussian_filter(sharp[0, 0].numpy(), 2.0, truncate=5)[10:70, 10:70]
    blur = LearnedConvolution(GaussianKernel((21, 21), 1.0))
    fit = fit_kernel(blur, sharp, torch.from_numpy(whole)[None, None])
    assert fit["sigmas"][0] == pytest.approx(2.0, rel=0.02)


def test_an_unknown_motion_is_found() -> None:
    sharp = make_image(64)
    blurred = LearnedConvolution(MotionKernel((13, 13), 8.0, 0.8))(sharp).detach()
    fit = fit_kernel(LearnedConvolution(MotionKernel((13, 13), 5.0, 0.4)), sharp, blurred)
    assert fit["length"][0] == pytest.approx(8.0, rel=0.02)
    assert fit["angle"][0] == pytest.approx(0.8, abs=0.02)


def test_an_unknown_defocus_is_found() -> None:
    sharp = make_image(64)
    blurred = LearnedConvolution(DefocusKernel((13, 13), 4.0))(sharp).detach()
    fit = fit_kernel(LearnedConvolution(DefocusKernel((13, 13), 2.5)), sharp, blurred)
    assert fit["radius"][0] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("start", [0.0, -1.0, float("nan")])
def test_widths_that_are_none_are_refused(start: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LearnedConvolution(GaussianKernel((5, 5), start))
