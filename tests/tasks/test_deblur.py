"""Deblurring fits an object that explains the image after the blur."""

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
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.operators.imaging import CircularConvolution
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate
from napari_dip.errors import Refusal, RefusedError
from napari_dip.io import ImageHeader
from napari_dip.io.reading import read_header, read_pixels
from napari_dip.tasks import Deblur
from napari_dip.tasks.deblur import get_psf_source
from napari_dip.tasks.initial_estimate import RICHARDSON_LUCY_ITERATIONS, find_rival_guide
from napari_dip.tasks.priors.prior_spec import RANDOM_INPUT_CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.tasks.base import FitInput

FAST = {"preset": "fast", "device": "cpu"}
WIDEFIELD = {"microscope": "widefield", "na": 1.4, "wavelength": 520.0}
SOURCE = ImageHeader(name="cells", shape=(24, 32), dtype="float32", axes="YX")


def load_sharp(height: int = 40, width: int = 48) -> np.ndarray:
    return data.camera()[100 : 100 + height, 150 : 150 + width].astype(np.float32)


def make_scene(kernel: torch.Tensor, height: int = 24, width: int = 32) -> FitInput:
    return make_plain_fit_input((height, width), psf=kernel)


@pytest.mark.parametrize("border", ["open", "circular"])
def test_the_object_is_larger_than_an_open_frame_and_as_large_as_a_circular_one(border) -> None:
    task = Deblur(gaussian_sigma=1.2, border=border)
    fit_input = make_scene(sample_gaussian_psf((1.2, 1.2)))
    prior, problem = make_task_prior(task, fit_input), make_task_problem(task, fit_input)
    beyond = 10 if border == "open" else 0
    assert prior.grid == (24 + beyond, 32 + beyond) == make_task_plan(task, SOURCE).network_grid
    image = torch.rand(1, 1, *prior.grid, generator=torch.Generator().manual_seed(1))
    assert problem.main_term.operator(image).shape == fit_input.measurement.shape
    finished = problem.make_preview(prior.estimate(image)).mean
    edge = beyond // 2
    torch.testing.assert_close(finished, image[..., edge : edge + 24, edge : edge + 32])


def test_an_even_background_needs_no_term_of_its_own() -> None:
    task, fit_input = Deblur(gaussian_sigma=1.2), make_scene(sample_gaussian_psf((1.2, 1.2)))
    operator = make_task_problem(task, fit_input).main_term.operator
    prior = make_task_prior(task, fit_input)
    image = torch.rand(1, 1, *prior.grid, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(operator(image + 7), operator(image) + 7)


def test_validation_pixels_are_excluded_from_the_loss() -> None:
    fit_input = make_scene(sample_gaussian_psf((1.2, 1.2)))
    term = make_task_problem(Deblur(gaussian_sigma=1.2), fit_input).main_term
    for weights in (term.training_pixel_weights, term.refit_pixel_weights):
        assert float((weights * term.validation_mask).sum()) == 0
    other = fit_input.measurement + fit_input.masks.validation
    estimate = Estimate(torch.zeros_like(other))
    before, after = term.fidelity(estimate, fit_input.measurement), term.fidelity(estimate, other)
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("border", ["open", "circular"])
def test_validation_pixels_are_not_in_the_network_input(border) -> None:
    kernel = sample_gaussian_psf((1.2, 1.2))
    fit_input, changed = make_scene(kernel), make_scene(kernel)
    changed.measurement[changed.masks.validation > 0] = 0.5
    codes = []
    for measured in (fit_input, changed):
        task = Deblur(gaussian_sigma=1.2, border=border, background=-1.0)
        prior = make_task_prior(task, measured)
        assert isinstance(prior, RandomInputPrior)
        codes.append(prior.random_input)
    assert codes[0].shape[1] == RANDOM_INPUT_CHANNELS + len(RICHARDSON_LUCY_ITERATIONS)
    torch.testing.assert_close(codes[0], codes[1])


def test_without_an_initial_estimate_the_input_is_noise() -> None:
    task = Deblur(gaussian_sigma=1.2, initial_estimate="none")
    prior = make_task_prior(task, make_scene(sample_gaussian_psf((1.2, 1.2))))
    assert isinstance(prior, RandomInputPrior)
    assert prior.random_input.shape[1] == RANDOM_INPUT_CHANNELS


@pytest.mark.parametrize(
    ("settings", "lowest", "level"),
    [
        ({}, 0.1, -0.5),  # 0 in the image's units
        ({}, -0.9, -0.9),  # an image with negative values
        ({"background": 4.0}, 0.1, -0.1),
    ],
)
def test_darkness_is_zero_or_the_least_value_or_what_the_user_says(settings, lowest, level) -> None:
    fit_input = make_scene(sample_gaussian_psf((1.2, 1.2)))
    fit_input.measurement[...] = 0.5
    fit_input.measurement[..., 3, 3] = lowest
    units = {
        "intensity_offset": torch.full((1, 1, 1, 1), 5.0),
        "intensity_scale": torch.full((1, 1, 1, 1), 10.0),
    }
    task = Deblur(gaussian_sigma=1.2, smoothing=0.0, **settings)
    ((weight, penalty),) = make_task_problem(task, replace(fit_input, **units)).penalties
    assert weight == 1
    for below in (0.0, 0.2):
        cost = float(penalty(torch.full((1, 1, 34, 42), level - below)))
        assert cost == pytest.approx((below / fit_input.noise.rms_std) ** 2, abs=1e-6)


def test_the_plan_knows_the_size_of_a_gaussian_without_drawing_it() -> None:
    for sigma in (0.2, 1.0, 2.6):
        assert get_psf_source(Deblur(gaussian_sigma=sigma)).compute_psf_sizes(
            SOURCE, None, "YX"
        ) == tuple(sample_gaussian_psf((sigma, sigma)).shape)


def test_the_pixel_size_of_the_file_will_do() -> None:
    units = ("micrometer", "micrometer")
    header = ImageHeader(
        name="cells", shape=(64, 64), dtype="uint16", axes="YX", scale=(0.13, 0.065), units=units
    )
    task = Deblur(**WIDEFIELD)
    assert make_task_plan(task, header)
    _, notes = get_psf_source(task).make_kernel(header, None, "YX")
    assert "65 × 130 nm, as its file says" in str(notes[0])
    no = task.plan(ImageHeader(name="cells", shape=(64, 64), dtype="uint16", axes="YX"), {}, "YX")
    assert isinstance(no, Refusal)
    assert "pixel size" in no.sentence


def test_changes_of_the_psf_are_reported() -> None:
    psf = np.zeros((6, 9))
    psf[1:4, 5:8] = 1
    result = dip.deblur(load_sharp(24, 24), psf, max_iterations=2, **FAST)
    notes = " ".join(result.report["notes"])
    assert "even number" in notes
    assert "centred" in notes


def test_a_psf_that_is_a_single_number_is_refused_as_one() -> None:
    with pytest.raises(RefusedError) as caught:
        dip.deblur(load_sharp(24, 24), 3.0, **FAST)
    assert caught.value.reason.code == "image-scalar"


def test_a_psf_larger_than_the_image_is_cropped_to_it_and_the_plan_says_so() -> None:
    image, psf = load_sharp(24, 24), sample_gaussian_psf((9.0, 2.0), (99, 41)).numpy()
    note = "covers 99 × 41 pixels of the image, which has 24 × 24, and is cropped"
    assert note in " ".join(map(str, dip.plan("deblur", image, psf=psf, **FAST).notes))
    result = dip.deblur(image, psf, max_iterations=2, **FAST)
    assert result.image.shape == (24, 24)
    notes = " ".join(result.report["notes"])
    outside = 1 - psf[37:62].sum()
    assert note in notes and f"{outside:.0%} of the light of the PSF" in notes


@pytest.mark.parametrize(
    ("settings", "psf"),
    [
        ({"gaussian_sigma": 1.5}, None),
        ({**WIDEFIELD, "pixel_size": 100.0}, None),
        ({**WIDEFIELD, "microscope": "confocal", "excitation": 488.0, "pixel_size": 80.0}, None),
        ({"border": "circular"}, sample_gaussian_psf((1.5, 1.5)).numpy()),
    ],
)
def test_every_source_of_the_psf_gives_an_image_of_the_images_size(settings, psf) -> None:
    image = load_sharp(32, 36)
    result = dip.deblur(image, psf, max_iterations=2, **settings, **FAST)
    assert result.image.shape == result.uncertainty.shape == image.shape
    assert float(result.image.mean()) == pytest.approx(float(image.mean()), rel=0.05)


@pytest.mark.long
def test_a_fit_comes_nearer_to_the_truth_than_the_blurred_image() -> None:
    truth = load_sharp()
    noise = np.random.default_rng(0).normal(0, 1, truth.shape)
    blurred = (gaussian_filter(truth, 1.5) + noise).astype(np.float32)
    result = dip.deblur(blurred, gaussian_sigma=1.5, max_iterations=80, **FAST)
    inner = np.s_[4:-4, 4:-4]
    ours, before = (
        float(np.mean((image - truth)[inner] ** 2)) for image in (result.image, blurred)
    )
    assert ours < before


def draw_threads(side: int = 64) -> np.ndarray:
    """Waves of threads one pixel wide on black, in photons."""
    y, x = np.mgrid[:side, :side]
    distances = [y - middle - 6 * np.sin(x / 9 + middle) for middle in (12, 30, 47)]
    return sum(150 * np.exp(-(distance**2) / 1.3) for distance in distances)


def make_thread_input(level: float) -> tuple[FitInput, torch.Tensor, torch.Tensor]:
    """Blurred threads with photon noise on a background; fit input, kernel and truth."""
    kernel, truth = sample_gaussian_psf((1.5, 1.5)), torch.from_numpy(draw_threads()).float()
    blurred = CircularConvolution(kernel)(truth[None, None]) + level
    measured = torch.poisson(blurred, generator=torch.Generator().manual_seed(0))
    gain = torch.ones(1, 1, 1, 1)
    fit_input = make_scene(kernel, 64, 64)
    variance = NoiseVariance(gain=gain, intercept=0 * gain, floor=0.5 * gain)
    noise = replace(fit_input.noise, noise_variance=variance, rms_std=float(measured.mean() ** 0.5))
    return replace(fit_input, measurement=measured, noise=noise), kernel, truth[None, None] + level


def test_a_richardson_lucy_image_guides_where_it_predicts_better_than_the_network() -> None:
    fit_input, kernel, truth = make_thread_input(level=20.0)
    operator, zero = CircularConvolution(kernel), torch.zeros(1, 1, 1, 1)
    blurred = fit_input.measurement.mean().expand_as(truth)
    rival = find_rival_guide(fit_input, operator, [zero, zero + 20], blurred)
    assert rival is not None
    assert float(rival.min()) > 19.9  # of the two levels the right one is taken
    assert find_rival_guide(fit_input, operator, [zero, zero + 20], truth) is None
    no_validation = replace(fit_input.masks, validation=0 * fit_input.masks.validation)
    unjudged = replace(fit_input, masks=no_validation)
    assert find_rival_guide(unjudged, operator, [zero], blurred) is None
    too_bright = fit_input.measurement.quantile(0.8).reshape(1, 1, 1, 1)
    other = find_rival_guide(fit_input, operator, [zero, too_bright], blurred)
    assert other is not None
    assert float(other.min()) < 20


def test_threads_that_the_network_misses_are_deblurred_from_richardson_lucy(monkeypatch) -> None:
    truth = draw_threads()
    blurred = gaussian_filter(truth, 1.5, mode="nearest") + 2
    image = np.random.default_rng(0).poisson(blurred).astype(np.uint16)
    settings = {"gaussian_sigma": 1.5, "preset": "instant", "device": "cpu"}
    errors = [np.std(dip.deblur(image, **settings).image - truth)]
    monkeypatch.setattr("napari_dip.tasks.deblur.find_rival_guide", lambda *_: None)
    errors.append(np.std(dip.deblur(image, **settings).image - truth))
    assert errors[0] < 0.85 * errors[1]


def test_noise_that_neighbours_share_is_not_sharpened_into_grain() -> None:
    """Grain of 24 grey values was in the result, where the image has noise of 15."""
    truth = data.cell()[100:228, 100:228].astype(np.float32)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=truth.shape), 0.8)
    image = (gaussian_filter(truth, 1.5) + 15 * noise / noise.std()).astype(np.float32)
    settings = {"preset": "instant", "max_iterations": 4, "device": "cpu"}
    result = dip.deblur(image, gaussian_sigma=1.5, **settings)
    assert np.std((result.image - truth)[6:-6, 6:-6]) < 6
    assert result.report["noise"]["blind_spot_size"] == [5, 5]


def test_the_command_takes_the_psf_from_a_file_and_says_what_it_did(tmp_path: Path, capsys) -> None:
    image, psf, output = (tmp_path / name for name in ("in.tif", "psf.tif", "out.tif"))
    tifffile.imwrite(image, load_sharp(24, 28), photometric="minisblack")
    tifffile.imwrite(psf, np.ones((4, 3), np.float32), photometric="minisblack")
    argv = ["deblur", str(image), "--psf", str(psf), "-o", str(output), "--preset", "fast"]
    assert main([*argv, "--max-iterations", "2", "--verbose"]) == 0
    assert "even number" in capsys.readouterr().err
    assert read_pixels(read_header(output)).shape == (24, 28)


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [({"gaussian_sigma": 1.5}, True), ({**WIDEFIELD, "pixel_size": 90.0}, False)],
)
def test_a_psf_that_nothing_is_known_to_compare_with_is_named(settings, is_told) -> None:
    image = load_sharp(64, 64)
    result = dip.deblur(image, **settings, **FAST, max_iterations=2)
    assert ("psf-unchecked" in {note["code"] for note in result.report["note_codes"]}) == is_told


@pytest.mark.parametrize(("optics", "is_told"), [({}, True), (WIDEFIELD, False)])
def test_an_image_of_a_psf_is_unchecked_without_aperture_and_wavelength(optics, is_told) -> None:
    psf = sample_gaussian_psf((1.2, 1.2)).numpy()
    details = {name: value for name, value in optics.items() if name != "microscope"}
    sizes = {"pixel_size": 65.0} if details else {}
    result = dip.deblur(load_sharp(64, 64), psf, **details, **sizes, **FAST, max_iterations=2)
    assert ("psf-unchecked" in {note["code"] for note in result.report["note_codes"]}) == is_told
