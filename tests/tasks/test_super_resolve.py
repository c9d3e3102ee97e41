"""Super-resolution computes finer pixels that agree with the image when downsampled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from fit_inputs import make_plain_fit_input, make_task_plan, make_task_prior, make_task_problem
from napari_dip.cli import main
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate
from napari_dip.io import ImageHeader
from napari_dip.io.reading import read_header
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import SuperResolve
from napari_dip.tasks.priors.prior_spec import RANDOM_INPUT_CHANNELS
from napari_dip.tasks.priors.refinement import filter_noise
from napari_dip.tasks.priors.registry import ZSSR_PRIOR
from napari_dip.tasks.priors.zssr import split_into_stages

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.tasks.base import FitInput

MACHINE = Machine(
    cores=2,
    memory_bytes=8 * 10**9,
    devices=("cpu",),
    torch_version="2.13.0",
    no_gpu_reason="no NVIDIA driver was found",
)
FAST = {"preset": "fast", "device": "cpu"}


def make_fine(height: int = 48, width: int = 64) -> np.ndarray:
    return data.camera()[100 : 100 + height, 150 : 150 + width].astype(np.float32)


def bin_pixels(image: np.ndarray, along: tuple[int, int]) -> np.ndarray:
    height, width = image.shape
    blocks = image.reshape(height // along[0], along[0], width // along[1], along[1])
    return blocks.mean((1, 3))


def make_fit_input(height: int = 16, width: int = 20) -> FitInput:
    return make_plain_fit_input((height, width))


@pytest.mark.parametrize(
    ("factor", "kept", "along"),
    [
        (2, "2", (2, 2)),
        ("4", "4", (4, 4)),
        ("1,4", "1,4", (1, 4)),
        ((3, 1), "3,1", (3, 1)),
        ([8, 8], "8", (8, 8)),
        (np.int64(3), "3", (3, 3)),
    ],
)
def test_a_factor_is_kept_as_one_text_however_it_is_given(factor, kept, along) -> None:
    task = SuperResolve(factor=factor)
    assert task.factor == kept
    header = ImageHeader(name="cells", shape=(16, 20), dtype="float32", axes="YX")
    assert make_task_plan(task, header).get_factors("YX") == along


@pytest.mark.parametrize("settings", [{}, {"downsampling": "binning"}, {"psf_sigma": 1.3}])
@pytest.mark.parametrize("factor", ["2", "1,4", "8,1"])
def test_the_network_output_has_the_grid_of_the_operator(factor, settings) -> None:
    task, fit_input = SuperResolve(factor=factor, **settings), make_fit_input()
    prior = make_task_prior(task, fit_input)
    header = ImageHeader(name="cells", shape=fit_input.grid, dtype="float32", axes="YX")
    assert prior.grid == make_task_plan(task, header).network_grid
    problem = make_task_problem(task, fit_input)
    image = torch.rand(1, 1, *prior.grid, generator=torch.Generator().manual_seed(1))
    assert problem.main_term.operator(image).shape == fit_input.measurement.shape
    estimate = prior.estimate(image)
    factors = make_task_plan(task, header).get_factors("YX")
    result = tuple(n * f for n, f in zip(fit_input.grid, factors, strict=True))
    assert problem.make_preview(estimate).mean.shape[2:] == result


def test_the_margin_is_as_wide_as_the_engine_draws_a_gaussian() -> None:
    header = ImageHeader(name="cells", shape=(16, 20), dtype="float32", axes="YX")
    for sigma in (0.0, 0.3, 1.0, 2.6):
        drawn = make_task_plan(SuperResolve(psf_sigma=sigma), header).network_grid
        sizes = sample_gaussian_psf((sigma, sigma)).shape
        assert drawn == (32 + sizes[0] - 1, 40 + sizes[1] - 1)


@pytest.mark.parametrize(("factor", "jitter"), [("2", 0.03), ("4", 0.03), ("8", 0.05)])
def test_the_random_input_is_jittered_as_in_the_paper(factor, jitter) -> None:
    task = SuperResolve(factor=factor, initial_estimate="none")
    prior = make_task_prior(task, make_fit_input())
    assert isinstance(prior, RandomInputPrior)
    assert prior.jitter == jitter
    assert prior.random_input.shape[1] == RANDOM_INPUT_CHANNELS


@pytest.mark.parametrize("settings", [{}, {"psf_sigma": 1.3}])
def test_validation_pixels_are_not_in_the_network_input(settings) -> None:
    fit_input, changed = make_fit_input(), make_fit_input()
    changed.measurement[changed.masks.validation > 0] = 9.0
    codes = []
    for measured in (fit_input, changed):
        prior = make_task_prior(SuperResolve(**settings), measured)
        assert isinstance(prior, RandomInputPrior)
        codes.append(prior.random_input)
    assert codes[0].shape[1] == RANDOM_INPUT_CHANNELS + 1
    torch.testing.assert_close(codes[0], codes[1])


def test_the_interpolated_image_overlays_the_fine_grid() -> None:
    fit_input = make_fit_input()
    fit_input.measurement[...] = torch.arange(20.0)  # a ramp along X
    prior = make_task_prior(SuperResolve(factor="2"), fit_input)
    assert isinstance(prior, RandomInputPrior)
    ramp = prior.random_input[0, RANDOM_INPUT_CHANNELS, 8, 8:-8]
    torch.testing.assert_close(ramp, torch.arange(8, 32) / 2 - 0.25, atol=0.3, rtol=0)


def test_validation_pixels_are_excluded_from_the_loss_until_the_refit() -> None:
    term = make_task_problem(SuperResolve(factor="4"), make_fit_input()).main_term
    assert float((term.training_pixel_weights * term.validation_mask).sum()) == 0
    assert float(term.refit_pixel_weights.min()) == 1


def test_validation_pixels_never_enter_the_loss_where_backprojection_adds_them() -> None:
    term = make_task_problem(SuperResolve(factor="2"), make_fit_input()).main_term
    assert float((term.refit_pixel_weights * term.validation_mask).sum()) == 0


@pytest.mark.parametrize(
    ("settings", "is_close"),
    [
        ({"factor": "2,4"}, True),
        ({"factor": "4", "psf_sigma": 1.0}, True),
        ({"factor": "4", "prior": "random-input"}, False),
    ],
)
def test_a_fit_starts_from_an_image_that_explains_the_pixels(settings, is_close) -> None:
    prior = make_task_prior(SuperResolve(**settings), make_fit_input())
    assert isinstance(prior, RandomInputPrior)
    assert (prior.baseline is not None) == is_close


def test_the_uncertainty_of_a_fit_that_hardly_spreads_is_that_of_its_error() -> None:
    fine = make_fine()
    settings = {"factor": (2, 4), "downsampling": "binning", "preset": "instant"}
    result = dip.super_resolve(bin_pixels(fine, (2, 4)), max_iterations=20, **settings)
    errors, uncertainty = result.image - fine, result.uncertainty
    assert 0.3 < np.sqrt(np.mean(errors**2) / np.mean(uncertainty**2)) < 3


def test_every_factor_has_equal_stages_or_the_prior_of_the_paper() -> None:
    assert split_into_stages((4, 4)) == ((2, 2), 2)
    assert split_into_stages((1, 8)) == ((1, 2), 3)
    assert split_into_stages((3, 3)) == ((3, 3), 1)
    assert split_into_stages((2, 4)) is None
    header = ImageHeader(name="cells", shape=(40, 40), dtype="float32", axes="YX")
    assert make_task_plan(SuperResolve(factor="4"), header).prior_key == ZSSR_PRIOR.key
    for other in ({"factor": "2,4"}, {"psf_sigma": 1.0}, {"prior": "random-input"}):
        assert make_task_plan(SuperResolve(**other), header).prior_key == "random-input"
    deep = ImageHeader(name="cells", shape=(8, 40, 40), dtype="float32", axes="ZYX")
    assert make_task_plan(SuperResolve(), deep, axes="ZYX").prior_key == "random-input"


@pytest.mark.parametrize(
    "settings", [{"psf_sigma": 1.2}, {"factor": (2, 4)}], ids=["a PSF", "unequal factors"]
)
def test_coarser_scales_are_refused_where_there_are_none(settings) -> None:
    with pytest.raises(dip.RefusedError, match="cannot learn from"):
        dip.super_resolve(make_fine(), prior="zssr", **settings)


def test_validation_patches_are_excluded_from_the_loss() -> None:
    fit_input = replace(make_fit_input(48, 64), prior_key=ZSSR_PRIOR.key)
    term = make_task_problem(SuperResolve(), fit_input).main_term
    assert float((term.training_pixel_weights * term.validation_mask).sum()) == 0
    assert float((term.training_pixel_weights + term.validation_mask).min()) == 1
    assert 0.05 < float(term.validation_mask.mean()) < 0.25
    patches = term.validation_mask.reshape(12, 4, 16, 4)
    torch.testing.assert_close(patches, patches[:, :1, :, :1].expand_as(patches))


def test_what_was_measured_without_noise_is_explained_in_the_end() -> None:
    fit_input = make_fit_input(48, 64)
    nothing = 0 * fit_input.noise.noise_variance.intercept
    noiseless = replace(fit_input.noise.noise_variance, intercept=nothing, floor=nothing + 1e-12)
    fit_input = replace(
        fit_input,
        prior_key=ZSSR_PRIOR.key,
        noise=replace(fit_input.noise, noise_variance=noiseless),
    )
    problem = make_task_problem(SuperResolve(factor="4"), fit_input)
    flat = torch.zeros(1, 1, 192, 256)
    finished = problem.make_preview(Estimate(flat, flat - 2)).mean
    residual = problem.main_term.operator(finished) - fit_input.measurement
    assert float(residual.std()) < 0.1 * float(fit_input.measurement.std())


@pytest.mark.long
def test_what_is_learned_on_the_coarser_scale_beats_what_it_begins_with() -> None:
    truth = data.camera()[60:188, 130:258].astype(np.float32)
    coarse = bin_pixels(truth, (2, 2))
    settings = {"factor": 2, "downsampling": "binning", "noise": "gaussian", **FAST}
    learned = dip.super_resolve(coarse, max_iterations=60, **settings)
    assert learned.report["prior"]["key"] == ZSSR_PRIOR.key
    begun = dip.super_resolve(coarse, max_iterations=1, **settings)
    ours, start = (float(np.mean((image.image - truth) ** 2)) for image in (learned, begun))
    assert ours < 0.93 * start


@pytest.mark.parametrize(("factor", "shape"), [(2, (48, 40)), ((1, 3), (24, 60))])
def test_the_result_is_finer_by_the_factor_and_keeps_the_mean(factor, shape) -> None:
    coarse = make_fine(24, 20)
    result = dip.super_resolve(coarse, factor=factor, max_iterations=3, **FAST)
    assert result.image.shape == result.uncertainty.shape == shape
    assert result.residual is not None
    assert result.residual.shape == coarse.shape
    assert abs(float(result.residual.mean())) < 1e-3 * float(coarse.mean())
    assert result.report["noise"]["blind_spot_size"] == [1, 1]


def test_colours_are_enlarged_together() -> None:
    colour = data.astronaut()[:20, 200:224]
    result = dip.super_resolve(colour, axes="YXS", max_iterations=2, **FAST)
    assert result.image.shape == (40, 48, 3)


@pytest.mark.long
def test_a_fit_comes_nearer_to_the_truth_than_repeating_pixels_does() -> None:
    truth = make_fine()
    coarse = bin_pixels(truth, (2, 2))
    settings = {"downsampling": "binning", "max_iterations": 80, "noise": "gaussian"}
    result = dip.super_resolve(coarse, factor=2, **settings, **FAST)
    repeated = coarse.repeat(2, 0).repeat(2, 1)
    ours, naive = (float(np.mean((image - truth) ** 2)) for image in (result.image, repeated))
    assert ours < naive


def test_a_result_too_large_for_the_memory_is_refused_with_the_factor_named() -> None:
    header = ImageHeader(name="cells", shape=(2000, 2000), dtype="uint16", axes="YX")
    assert isinstance(preflight(make_recipe("denoise"), header, MACHINE), Plan)
    no = preflight(make_recipe("super-resolve", factor=8), header, MACHINE)
    assert not isinstance(no, Plan)
    assert no.code == "result-large"
    assert "smaller factor" in no.remedy


@pytest.mark.parametrize("factor", ["2", "1,4"])
def test_the_file_says_how_much_smaller_the_pixels_are(factor, tmp_path: Path) -> None:
    source, output, residual = (tmp_path / name for name in ("in.tif", "out.tif", "residual.tif"))
    meta = {"unit": "um"}
    tifffile.imwrite(source, make_fine(20, 24), imagej=True, resolution=(10, 5), metadata=meta)
    argv = ["super-resolve", str(source), "-o", str(output), "--factor", factor, "--quiet"]
    argv += ["--preset", "fast", "--max-iterations", "2", "--residual", str(residual)]
    assert main(argv) == 0
    plan = make_task_plan(SuperResolve(factor=factor), read_header(source))
    down, right = plan.get_factors("YX")
    result = read_header(output)
    assert result.shape == (20 * down, 24 * right)
    assert result.scale == pytest.approx((0.2 / down, 0.1 / right))
    assert read_header(residual).scale == pytest.approx((0.2, 0.1))
    assert read_header(residual).shape == (20, 24)


def test_halved_pixels_are_never_further_off_than_by_cubic_interpolation():
    from scipy import ndimage

    from napari_dip.samples import make_binned_sample

    sample = make_binned_sample()
    truth, few = sample.truth[64:128, 128:].astype(float), sample.image[32:64, 64:]
    cubic = ndimage.zoom(few, 2, order=3, grid_mode=True, mode="grid-mirror")
    result = dip.super_resolve(
        few, factor=2, downsampling="binning", preset="fast", max_iterations=4
    )
    ours, theirs = (np.sqrt(np.mean((image - truth) ** 2)) for image in (result.image, cubic))
    assert ours < theirs


@pytest.mark.parametrize(("blur", "is_told"), [(0.0, False), (0.8, True)])
def test_noise_that_neighbours_share_is_kept_in_a_small_image_and_told(blur, is_told):
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(80, 80)), blur)
    slope = gaussian_filter(np.random.default_rng(1).normal(size=(80, 80)), 8)
    image = 40 * slope / slope.std() + 12 * noise / noise.std()
    result = dip.super_resolve(image.astype(np.float32), **FAST, max_iterations=2)
    codes = {note["code"] for note in result.report["note_codes"]}
    assert ("noise-caution-correlated-kept" in codes) == is_told


def test_pixels_that_a_filter_has_spread_confirm_nothing():
    noise = np.random.default_rng(0).normal(100, 20, (96, 96)).astype(np.float32)
    result = dip.super_resolve(noise, factor="2", preset="instant", max_iterations=2)
    codes = {note["code"] for note in result.report["verdict"]["codes"]}
    assert "detail-unchecked" in codes and "detail-confirmed" not in codes


@pytest.mark.parametrize("blur", [0.0, 0.8])
def test_a_noisy_image_comes_back_nearer_to_the_truth_than_by_the_best_smoothing(blur):
    from scipy import ndimage

    truth = gaussian_filter(data.moon()[100:292, 100:292].astype(float), 2)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(96, 96)), blur)
    image = bin_pixels(truth, (2, 2)) + 12 * noise / noise.std()
    result = dip.super_resolve(
        image.astype(np.float32), downsampling="binning", preset="instant", max_iterations=2
    )

    def compute_error(fine: np.ndarray) -> float:
        return float(np.mean((fine - truth) ** 2))

    smoothed = (gaussian_filter(image, width) for width in (0.5, 0.8, 1.2, 1.8, 2.6))
    enlarged = (ndimage.zoom(p, 2, order=3, grid_mode=True, mode="nearest") for p in smoothed)
    assert compute_error(result.image) < min(map(compute_error, enlarged))
    assert not {"noise-left", "residual-unexplained"} & {
        note["code"] for note in result.report["verdict"]["codes"]
    }


def test_an_image_without_the_measured_noise_is_not_filtered():
    fit_input = make_fit_input(48, 48)
    weak = fit_input.measurement * 1e-3
    filtered, variance = filter_noise(replace(fit_input, measurement=weak))
    assert torch.equal(filtered.measurement, weak)
    assert not variance.any()
    assert filtered.noise.rms_std < fit_input.noise.rms_std


@pytest.mark.parametrize("strength", [0, 12])
def test_noise_in_doubt_is_told_of_where_it_is_strong(strength):
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(96, 96)), 0.5)
    image = data.gravel()[:96, :96] * 0.5 + strength * noise / noise.std()
    result = dip.super_resolve(image.astype(np.float32), preset="instant", max_iterations=2)
    warnings = " ".join(result.report["verdict"]["warnings"])
    assert ("noise measurement is unreliable" in warnings) == (strength > 0)


@pytest.mark.parametrize("settings", [{}, {"psf_sigma": 1.0}, {"downsampling": "lanczos"}])
def test_the_noise_that_backprojection_carries_is_in_the_uncertainty(settings) -> None:
    task = SuperResolve(**{"prior": "random-input", "downsampling": "binning", **settings})
    fit_input = make_fit_input(32, 32)
    problem = make_task_problem(task, fit_input)
    downsample = task._make_operator("YX")
    squares = []
    for seed in range(8):
        noise = 0.1 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(seed + 1))
        noisy = replace(fit_input, measurement=noise)
        _, carried = task._fit_interpolation(noisy, downsample, fit_input.masks.measured)
        squares.append(problem.crop(Estimate(carried)).mean.square().mean())
    propagated = problem.crop(Estimate(task._propagate_noise(fit_input, downsample))).mean
    torch.testing.assert_close(propagated.mean(), torch.stack(squares).mean(), rtol=0.2, atol=0)
    assert problem.noise_left.shape == problem.crop(Estimate(carried)).mean.shape


def test_the_uncertainty_of_a_finer_noisy_image_is_no_less_than_half_of_its_error() -> None:
    truth = gaussian_filter(make_fine(), 1.5)
    noise = np.random.default_rng(0).normal(0, 6, (24, 32))
    coarse = (bin_pixels(truth, (2, 2)) + noise).astype(np.float32)
    settings = {"factor": 2, "downsampling": "binning", "prior": "random-input"}
    result = dip.super_resolve(coarse, **settings, **FAST, max_iterations=10)
    error, uncertainty = (
        float(np.sqrt(np.mean(values**2))) for values in (result.image - truth, result.uncertainty)
    )
    assert 0.5 < error / uncertainty < 2
