"""Stacks are deblurred as volumes with a PSF of three axes, plane by plane with one of two."""

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
from fit_inputs import (
    make_plain_fit_input,
    make_task_plan,
    make_task_prior,
    make_task_problem,
    make_task_setup,
)
from napari_dip.cli import main
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.operators.imaging import CircularConvolution
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate
from napari_dip.io import ImageHeader
from napari_dip.io.reading import read_header
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import Deblur
from napari_dip.tasks.base import FitNoise
from napari_dip.tasks.initial_estimate import (
    InitialEstimate,
    _find_sharpest,
    _ValidatedEstimates,
    compute_initial_estimate,
)
from napari_dip.tasks.priors.prior_spec import RANDOM_INPUT_CHANNELS_IN_VOLUMES

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.tasks.base import FitInput, TaskSetup

FAST = {"preset": "fast", "device": "cpu"}
MACHINE = Machine(
    cores=2,
    memory_bytes=8 * 10**9,
    devices=("cpu",),
    torch_version="2.13.0",
    no_gpu_reason="no NVIDIA driver was found",
)
WIDEFIELD = {"microscope": "widefield", "na": 1.0, "wavelength": 500.0, "pixel_size": 200.0}
SIGMAS = (1.0, 1.2, 1.2)


def draw_cells(planes: int = 8, side: int = 24) -> np.ndarray:
    """Cut planes out of scikit-image's cameraman, each a little further on."""
    whole = data.camera().astype(np.float32)
    return np.stack([whole[90 + n : 90 + n + side, 150 : 150 + side] for n in range(planes)])


def draw_blobs(planes: int = 8, side: int = 24) -> np.ndarray:
    """Draw bright points of light in the dark."""
    rng = np.random.default_rng(0)
    points = np.zeros((planes, side, side), np.float32)
    points[tuple(rng.integers(2, n - 2, 12) for n in points.shape)] = 4000
    return gaussian_filter(points, 0.7) + 20


def make_plan(
    shape: tuple[int, ...], axes: str, psf: tuple[int, ...] = (), **settings: object
) -> Plan:
    recipe = make_recipe("deblur", **{**FAST, **settings})
    others = (
        {"psf": ImageHeader(name="psf", shape=psf, dtype="float32", axes="ZYX"[-len(psf) :])}
        if psf
        else {}
    )
    answer = preflight(
        recipe, ImageHeader(name="cells", shape=shape, dtype="float32", axes=axes), MACHINE, others
    )
    assert isinstance(answer, Plan), answer.message
    return answer


def make_scene(kernel: torch.Tensor, grid: tuple[int, ...] = (8, 16, 20)) -> FitInput:
    return make_plain_fit_input(grid, psf=kernel)


@pytest.mark.parametrize(
    ("axes", "shape", "psf", "settings", "grid"),
    [
        ("ZYX", (8, 32, 32), (5, 7, 7), {}, "ZYX"),
        ("ZYX", (8, 32, 32), (7, 7), {}, "YX"),
        ("ZYX", (8, 32, 32), (7, 7), {"stacks": "volume"}, "ZYX"),
        ("TZYX", (2, 8, 32, 32), (5, 7, 7), {}, "ZYX"),
        ("TYX", (8, 32, 32), (7, 7), {}, "YX"),
        ("TYX", (8, 32, 32), (7, 7), {"stacks": "volume"}, "TYX"),
        ("ZYX", (8, 32, 32), (), {"gaussian_sigma": 1.0}, "YX"),
        ("ZYX", (8, 32, 32), (), {"gaussian_sigma": 1.0, "gaussian_sigma_z": 0.8}, "ZYX"),
        ("ZYX", (8, 32, 32), (), {**WIDEFIELD, "z_step": 500.0}, "ZYX"),
        ("ZYX", (8, 32, 32), (), {**WIDEFIELD, "stacks": "planes"}, "YX"),
    ],
)
def test_the_psf_says_whether_a_stack_is_a_volume(axes, shape, psf, settings, grid) -> None:
    assert make_plan(shape, axes, psf, **settings).layout.grid_axes == grid


@pytest.mark.sampled(1)
@pytest.mark.parametrize("border", ["open", "circular"])
@pytest.mark.parametrize("sigmas", [SIGMAS, (0.0, 1.2, 1.2)])
def test_the_object_reaches_beyond_the_frame_along_z_too(border, sigmas) -> None:
    fit_input = make_scene(sample_gaussian_psf(sigmas))
    task = Deblur(gaussian_sigma=1.2, gaussian_sigma_z=sigmas[0] or None, border=border)
    prior, problem = make_task_prior(task, fit_input), make_task_problem(task, fit_input)
    header = ImageHeader(name="cells", shape=(8, 16, 20), dtype="float32", axes="ZYX")
    # the reach of the PSF (4, 5, 5), but at most a quarter of the frame
    beyond = np.array([2 if sigmas[0] else 0, 4, 5]) * (border == "open")
    assert prior.grid == tuple(np.add((8, 16, 20), 2 * beyond))
    assert prior.grid == make_task_plan(task, header, axes="ZYX").network_grid
    image = torch.rand(1, 1, *prior.grid, generator=torch.Generator().manual_seed(1))
    assert problem.main_term.operator(image).shape == fit_input.measurement.shape
    assert problem.make_preview(prior.estimate(image)).mean.shape == fit_input.measurement.shape
    assert isinstance(prior, RandomInputPrior)
    assert (
        prior.random_input.shape[1] == RANDOM_INPUT_CHANNELS_IN_VOLUMES + 3
    )  # first, best, and the one before it


@pytest.mark.long
def test_an_even_volume_stays_even_however_far_the_psf_reaches() -> None:
    fit_input = make_scene(sample_gaussian_psf((2.0, 2.0, 2.0)))
    task = Deblur(gaussian_sigma=2.0, gaussian_sigma_z=2.0)
    prior = make_task_prior(task, fit_input)
    predicted = make_task_problem(task, fit_input).main_term.operator(
        torch.full((1, 1, *prior.grid), 3.0)
    )
    torch.testing.assert_close(predicted, torch.full_like(predicted, 3.0))


@pytest.mark.long
def test_a_stack_comes_nearer_to_the_truth_than_it_was() -> None:
    truth = draw_blobs()
    noise = np.random.default_rng(1).normal(0, 2, truth.shape)
    blurred = (gaussian_filter(truth, SIGMAS) + noise).astype(np.float32)
    psf = sample_gaussian_psf(SIGMAS).numpy()
    result = dip.deblur(blurred, psf, max_iterations=40, **FAST)
    assert result.image.shape == result.uncertainty.shape == truth.shape
    ours, before = (float(np.mean((image - truth) ** 2)) for image in (result.image, blurred))
    assert ours < 0.8 * before


@pytest.mark.long
@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_each_plane_is_deblurred_with_a_plane_of_psf(axes) -> None:
    truth = draw_cells(2, 32)
    blurred = gaussian_filter(truth, (0, 1.5, 1.5))
    psf = sample_gaussian_psf((1.5, 1.5)).numpy()
    result = dip.deblur(blurred, psf, axes=axes, max_iterations=150, **FAST)
    inner = np.s_[:, 4:-4, 4:-4]
    ours, before = (
        float(np.mean((image - truth)[inner] ** 2)) for image in (result.image, blurred)
    )
    assert ours < 0.95 * before
    assert (result.image != blurred).any((1, 2)).all()


@pytest.mark.long
def test_an_even_psf_as_large_as_the_image_is_taken_and_reported() -> None:
    psf = np.pad(sample_gaussian_psf((1.0, 1.0, 1.0)).numpy(), ((0, 0), (7, 8), (7, 8)))[:8]
    result = dip.deblur(draw_cells(), psf, max_iterations=2, **FAST)
    assert result.image.shape == (8, 24, 24)
    assert "8 pixels wide along Z, an even number" in " ".join(result.report["notes"])


@pytest.mark.long
@pytest.mark.parametrize("microscope", ["widefield", "confocal"])
def test_a_psf_is_computed_with_the_distance_of_planes(microscope) -> None:
    settings = {**WIDEFIELD, "microscope": microscope, "z_step": 600.0, "max_iterations": 2}
    result = dip.deblur(draw_cells(), **settings, **FAST)
    assert result.image.shape == (8, 24, 24)
    notes = " ".join(result.report["notes"])
    assert "200 × 200 nm in planes 600 nm apart" in notes
    # of a frame of 24 pixels, a wide PSF leaves open what light came from beyond it
    assert float(result.image.mean()) == pytest.approx(float(draw_cells().mean()), rel=0.15)


@pytest.mark.long
def test_the_command_takes_the_distance_of_planes_from_the_file(tmp_path: Path, capsys) -> None:
    image, output = tmp_path / "in.tif", tmp_path / "out.tif"
    metadata = {"axes": "ZYX", "spacing": 0.6, "unit": "um"}
    whole = {"imagej": True, "resolution": (5, 5), "metadata": metadata}
    tifffile.imwrite(image, draw_cells(), **whole)
    argv = ["deblur", str(image), "-o", str(output), "--preset", "fast", "--max-iterations", "2"]
    argv += ["--microscope", "widefield", "--na", "1", "--wavelength", "500", "--verbose"]
    assert main(argv) == 0
    assert "planes 600 nm apart, as its file says" in capsys.readouterr().err
    assert read_header(output).scale == pytest.approx((0.6, 0.2, 0.2))


def make_blurred_blobs(
    noise: float, *, wrong: float = 1.0
) -> tuple[Deblur, TaskSetup, torch.Tensor]:
    """Blur bright points with a PSF `wrong` times as wide as is told; task, setup, truth."""
    truth = torch.from_numpy(draw_blobs(8, 20)).float()[None, None] / 20
    kernel = sample_gaussian_psf(tuple(wrong * sigma for sigma in SIGMAS))
    random = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    measurement = CircularConvolution(kernel)(truth) + noise * random
    fit_input = make_scene(sample_gaussian_psf(SIGMAS), (8, 20, 20))
    level = torch.full_like(fit_input.noise.noise_variance.intercept, noise**2)
    variance = NoiseVariance(gain=0 * level, intercept=level, floor=level)
    fit_input = replace(
        fit_input, measurement=measurement, noise=FitNoise(noise_variance=variance, rms_std=noise)
    )
    task = Deblur(gaussian_sigma=1.2, gaussian_sigma_z=1.0, border="circular", smoothing=0.0)
    return task, make_task_setup(task, fit_input), truth


def make_guess(task: Deblur, fit_input: FitInput) -> InitialEstimate:
    return compute_initial_estimate(
        fit_input,
        task._make_operator(fit_input),
        task._compute_dark_level(fit_input),
        is_regularised=True,
    )


def compute_error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float((image - truth).square().mean().sqrt())


@pytest.mark.long
def test_a_volume_is_first_deconvolved_with_few_bends_and_the_fit_drawn_there() -> None:
    task, setup, truth = make_blurred_blobs(0.1)
    fit_input, prior, problem = setup.fit_input, setup.prior, setup.problem
    guess = make_guess(task, fit_input)
    smooth = guess.deconvolution
    assert smooth is not None
    assert not smooth.has_misfit
    plain = (fit_input.measurement, guess.candidates[0])
    assert compute_error(smooth.estimate, truth) < 0.9 * min(
        compute_error(image, truth) for image in plain
    )
    assert isinstance(prior, RandomInputPrior)
    assert prior.baseline is not None and torch.equal(prior.baseline, guess.candidates[0])
    weight, pull = problem.penalties[-1]  # beside the one that keeps light from being negative
    assert weight > 0
    assert float(pull(smooth.estimate)) == 0 < float(pull(guess.candidates[0]))


@pytest.mark.long
def test_with_a_psf_that_is_off_by_more_than_the_noise_the_fit_begins_there() -> None:
    task, setup, _ = make_blurred_blobs(0.005, wrong=0.6)
    smooth, prior = make_guess(task, setup.fit_input).deconvolution, setup.prior
    assert smooth is not None
    assert smooth.has_misfit
    assert float(smooth.variance.mean()) > 2 * 0.005**2
    assert isinstance(prior, RandomInputPrior)
    assert prior.baseline is not None and torch.equal(prior.baseline, smooth.estimate)


@pytest.mark.long
def test_a_network_without_finest_layers_corrects_the_deconvolution_at_half_size() -> None:
    task, setup, _ = make_blurred_blobs(0.1)
    fit_input = replace(setup.fit_input, widths=(0, 4, 8))
    smooth, prior = make_guess(task, fit_input).deconvolution, make_task_prior(task, fit_input)
    assert smooth is not None
    assert prior.grid == (8, 20, 20)
    assert prior.random_input.shape[2:] == (4, 10, 10)
    output = prior.network(prior.random_input)
    torch.testing.assert_close(prior.estimate(output).mean, smooth.estimate)
    torch.nn.init.ones_(prior.network.network.head.weight)
    assert prior.network(prior.random_input).shape == (1, 1, 8, 20, 20)


def test_a_large_volume_is_planned_with_five_minutes_and_four_gigabytes() -> None:
    settings = {"preset": "fast", "max_iterations": None}
    plan = make_plan((160, 160, 160), "ZYX", (61, 32, 32), **settings)
    assert plan.peak_bytes < 4e9
    assert plan.costs.fit_seconds < 300
    alone = make_plan((64, 64, 64), "ZYX", (9, 9, 9), initial_estimate="none", **settings)
    assert alone.fit_config.widths[0] > 0
    assert alone.fit_config.iterations > plan.fit_config.iterations


@pytest.mark.long
def test_a_network_that_is_far_off_spoils_nothing_and_a_good_one_is_taken() -> None:
    task, setup, truth = make_blurred_blobs(0.1)
    smooth, problem = make_guess(task, setup.fit_input).deconvolution, setup.problem
    assert smooth is not None
    bad, good = torch.rand(truth.shape), truth - (smooth.all_pixels_estimate - smooth.estimate)
    alone = compute_error(smooth.all_pixels_estimate, truth)
    assert compute_error(problem.make_preview(Estimate(bad)).mean, truth) < 1.02 * alone
    assert compute_error(problem.make_preview(Estimate(good)).mean, truth) < 0.9 * alone
    torch.testing.assert_close(
        problem.make_preview(Estimate(smooth.estimate)).mean, smooth.all_pixels_estimate
    )


@pytest.mark.long
def test_validation_pixels_of_a_volume_never_enter_the_loss_but_the_evidence() -> None:
    task, setup, _ = make_blurred_blobs(0.1)
    fit_input = setup.fit_input
    smooth, (term,) = make_guess(task, fit_input).deconvolution, setup.problem.terms
    assert smooth is not None
    assert float((term.refit_pixel_weights * fit_input.masks.validation).sum()) == 0
    assert compute_error(smooth.all_pixels_estimate, smooth.estimate) > 0
    louder = replace(fit_input, measurement=fit_input.measurement + 5 * fit_input.masks.validation)
    other = make_guess(task, louder).candidates[0]
    torch.testing.assert_close(other, make_guess(task, fit_input).candidates[0])


@pytest.mark.parametrize(("last_step", "chosen"), [(0.9, 4), (2.1, 2)])
def test_a_sharper_estimate_of_equal_loss_is_taken_unless_its_step_grew(
    last_step: float, chosen: int
) -> None:
    rng = torch.Generator().manual_seed(0)
    losses = []
    for mean in (1.5, 1.2, 1.0, 1.1, 1.001):
        loss = torch.randn(1000, generator=rng)
        losses.append(loss - loss.mean() + mean)
    validated = _ValidatedEstimates([], losses, [0.0, 3.0, 2.0, 1.5, last_step])
    assert _find_sharpest(validated) == chosen


def test_the_background_of_a_volume_is_taken_for_dark_as_if_it_was_entered() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((8, 48, 48), np.float32)
    truth.ravel()[rng.choice(truth.size, 12, replace=False)] = 5000
    kernel = sample_gaussian_psf((1.0, 1.5, 1.5))
    blurred = CircularConvolution(kernel)(torch.from_numpy(truth)[None, None])[0, 0].numpy()
    measured = rng.poisson(blurred + 20).astype(np.float32)
    settings = {"preset": "instant", "max_iterations": 2, "border": "circular"}
    images = {
        background: dip.deblur(measured, kernel.numpy(), background=background, **settings).image
        for background in (None, 0.0, 20.0)
    }
    errors = {key: float(((image - truth - 20) ** 2).mean()) for key, image in images.items()}
    assert errors[None] < 1.05 * errors[20.0] < 0.9 * errors[0.0]


def test_noise_hardly_darkens_the_darkest_parts_of_a_volume() -> None:
    fit_input = make_scene(torch.ones(1, 1, 1), (12, 40, 40))
    photons = np.random.default_rng(0).poisson(3.0, (1, 1, 12, 40, 40)).astype(np.float32)
    fit_input = replace(fit_input, measurement=torch.from_numpy(photons))
    lowest, darkest, between = Deblur(gaussian_sigma=1.0)._list_dark_levels(
        fit_input, torch.zeros(1, 1, 1, 1, 1)
    )
    assert float(lowest) == 0
    assert 2.7 < float(darkest) < 3
    assert float(between) == pytest.approx(float(darkest) / 2)


@pytest.mark.parametrize("shape", [(10, 48, 48), (4, 64, 64)])
def test_the_uncertainty_of_a_volume_is_near_its_error(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    truth = np.zeros(shape, np.float32)
    truth.ravel()[rng.choice(truth.size, truth.size // 400, replace=False)] = 2000
    truth = gaussian_filter(truth, 1.0)
    kernel = sample_gaussian_psf((1.0, 1.5, 1.5))
    blurred = CircularConvolution(kernel)(torch.from_numpy(truth)[None, None])[0, 0].numpy()
    measured = rng.poisson(blurred.clip(0) + 3).astype(np.float32)
    result = dip.deblur(measured, kernel.numpy(), preset="instant", border="circular")
    error = result.image - truth - 3
    assert 0.5 < np.sqrt((result.uncertainty**2).mean() / (error**2).mean()) < 2
    assert 0.85 < (np.abs(error) < 1.645 * result.uncertainty).mean()


def plan_seconds(plan: Plan) -> float:
    """Planned seconds as of benchmarks/speed_plan.py, which leaves loading out."""
    costs = plan.costs
    return (
        costs.fit_seconds
        + costs.usual_inference_seconds
        + costs.postprocessing_seconds
        - START_SECONDS
    )


@pytest.mark.parametrize(
    ("shape", "preset", "iterations", "measured_ratio"),
    # 1.79 and 1.41 in one run of benchmarks/speed_plan.py, 1.80 and 1.24 by those of earlier
    [((24, 96, 96), "fast", 30, 1.80), ((16, 64, 64), "balanced", 20, 1.33)],
)
def test_deblurring_a_volume_is_planned_as_many_times_a_denoising_as_was_measured(
    shape: tuple[int, ...], preset: str, iterations: int, measured_ratio: float
) -> None:
    plan = make_plan(
        shape,
        "ZYX",
        preset=preset,
        max_iterations=iterations,
        threads=1,
        gaussian_sigma=1.6,
        gaussian_sigma_z=1.8,
    )
    settings = {"preset": "fast", "prior": "blind-spot", "max_iterations": 6, "threads": 1}
    denoising = preflight(
        make_recipe("denoise", stacks="volume", **settings),
        ImageHeader(name="cells", shape=(16, 96, 96), dtype="float32", axes="ZYX"),
        MACHINE,
        {},
    )
    assert isinstance(denoising, Plan)
    ratio = plan_seconds(plan) / plan_seconds(denoising)
    assert ratio == pytest.approx(measured_ratio, rel=0.15)
