"""Blind deblurring estimates the blur from the image alone, and undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from skimage import data

import napari_dip as dip
from fit_inputs import make_fit_input_from, make_task_plan, make_task_problem, make_task_setup
from napari_dip.cli import main
from napari_dip.engine.deconvolution.edges import estimate_kernel_from_edges
from napari_dip.engine.deconvolution.kernels import (
    DefocusKernel,
    GaussianKernel,
    KernelNetwork,
    MotionKernel,
    ZernikeKernel,
    find_most_likely_blur,
)
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.operators.imaging import convolve_valid
from napari_dip.engine.problem import Estimate
from napari_dip.errors import RefusedError
from napari_dip.io import ImageHeader
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import BlindDeblur
from napari_dip.tasks.blind_deblur import make_blur_notes
from small_runs import MACHINE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from napari_dip.tasks.base import FitInput

SIZES = (21, 21)


def load_photograph(side: int = 192) -> Tensor:
    """Part of scikit-image's photographer, of range one."""
    image = data.camera()[100 : 100 + side, 160 : 160 + side].astype(np.float32) / 255
    return torch.from_numpy(image)[None, None]


def blur_photograph(kernel: Tensor, side: int = 192, noise: float = 0.01) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    clear = convolve_valid(load_photograph(side), kernel.detach())
    return clear + noise * torch.randn(clear.shape, generator=rng)


def make_scene(measurement: Tensor) -> FitInput:
    ones = torch.ones(1, 1, 1, 1)
    nothing = torch.zeros_like(measurement)
    return make_fit_input_from(
        measurement=measurement,
        noise_variance=NoiseVariance(gain=0 * ones, intercept=1e-4 * ones, floor=1e-6 * ones),
        noise_level=0.01,
        validation_mask=nothing,
    )


def compute_similarity(kernel: Tensor, true: Tensor) -> float:
    """Largest correlation over all shifts; 1: the same."""
    grid = (2 * SIZES[0], 2 * SIZES[1])
    spectrum = torch.fft.rfft2(kernel, s=grid) * torch.fft.rfft2(true, s=grid).conj()
    largest = torch.fft.irfft2(spectrum, s=grid).max()
    return float(largest / kernel.norm() / true.norm())


def make_outputs(task: BlindDeblur, measurement: Tensor) -> dict[str, Tensor]:
    operator = make_task_problem(task, make_scene(measurement)).main_term.operator
    return operator.get_learned_parameters()  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.parametrize("sigma", [1.2, 2.5])
def test_the_width_of_a_gaussian_is_read_from_the_spectrum(sigma: float) -> None:
    measurement = blur_photograph(GaussianKernel(SIZES, sigma)())
    learned = make_outputs(BlindDeblur(blur="gaussian", psf_size=21), measurement)
    assert float(learned["sigmas"]) == pytest.approx(sigma, rel=0.12)
    assert learned["psf"].shape == SIZES
    assert float(learned["psf"].sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.long
def test_a_line_is_found_with_length_and_direction() -> None:
    measurement = blur_photograph(MotionKernel(SIZES, 9.0, 0.6)())
    learned = make_outputs(BlindDeblur(blur="motion", psf_size=21), measurement)
    assert float(learned["length"]) == pytest.approx(9, abs=1.2)
    assert float(learned["angle"]) == pytest.approx(0.6, abs=0.12)


@pytest.mark.long
def test_a_disc_is_found_with_its_radius() -> None:
    measurement = blur_photograph(DefocusKernel(SIZES, 4.0)())
    learned = make_outputs(BlindDeblur(blur="defocus", psf_size=21), measurement)
    assert float(learned["radius"]) == pytest.approx(4, abs=0.5)


@pytest.mark.long
def test_a_point_is_no_favourite() -> None:
    measurement = blur_photograph(GaussianKernel(SIZES, 2.0)())
    candidates = [lambda width=width: GaussianKernel(SIZES, width) for width in (0.4, 2.0)]
    _, blur = find_most_likely_blur(measurement, torch.tensor([1e-4]), candidates)
    assert float(blur.get_kernel_parameters()["sigmas"][0]) > 1.5  # type: ignore[operator]


@pytest.mark.long
def test_brightness_and_offset_do_not_change_the_width() -> None:
    measurement = blur_photograph(GaussianKernel(SIZES, 1.5)())
    candidates = [lambda: GaussianKernel(SIZES, 1.3)]
    _, plain = find_most_likely_blur(measurement, torch.tensor([1e-4]), candidates)
    _, other = find_most_likely_blur(40 * measurement + 7, torch.tensor([0.16]), candidates)
    widths = [setup.get_kernel_parameters()["sigmas"][0] for setup in (plain, other)]  # type: ignore[operator]
    assert widths[1] == pytest.approx(widths[0], rel=0.01)


@pytest.mark.long
def test_a_free_kernel_begins_where_the_edges_say() -> None:
    line = MotionKernel((13, 13), 8.0, 0.8)().detach()
    measurement = blur_photograph(line, noise=0.003)
    guess = estimate_kernel_from_edges(measurement, 13)
    assert float(guess.min()) >= 0
    assert float(guess.sum()) == pytest.approx(1, abs=1e-5)
    cosine_similarity = float((guess * line).sum() / (guess.norm() * line.norm()))
    point = float(line.max() / line.norm())
    assert cosine_similarity > max(0.7, point)
    learned = make_outputs(BlindDeblur(blur="free", psf_size=13), measurement)
    torch.testing.assert_close(learned["psf"], guess, atol=0.02, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize("mode", [4, 5])
def test_the_aberrations_of_a_lens_are_found_where_a_gaussian_does_not_fit(mode: int) -> None:
    waves = [0.25 * (index == mode) for index in range(8)]
    true = ZernikeKernel(SIZES, waves, 0.25)().detach()
    measurement = blur_photograph(true)
    kernels = [
        make_outputs(BlindDeblur(blur=blur, psf_size=21), measurement)["psf"]
        for blur in ("lens", "gaussian")
    ]
    lens, gaussian = (compute_similarity(kernel, true) for kernel in kernels)
    assert lens > 0.9
    assert lens > gaussian


@pytest.mark.long
@pytest.mark.parametrize(
    ("kernel", "parameter"),
    [
        (GaussianKernel(SIZES, 1.8), "sigmas"),
        (MotionKernel(SIZES, 11.0, 0.6), "length"),
        (DefocusKernel(SIZES, 4.0), "radius"),
        (None, None),
    ],
    ids=["gaussian", "motion", "defocus", "free"],
)
def test_the_kind_of_blur_is_chosen_by_the_spectrum(kernel, parameter) -> None:
    if kernel is None:  # three sides of a square, as of a shaken camera
        shape = torch.zeros(SIZES)
        shape[3:17, 5], shape[17, 5:17], shape[6:17, 16] = 1.0, 1.0, 1.0
    else:
        shape = kernel().detach()
    measurement = blur_photograph(shape / shape.sum())
    learned = make_outputs(BlindDeblur(psf_size=21), measurement)
    assert set(learned) - {"psf", "angle"} == ({parameter} if parameter else set())


@pytest.mark.long
@pytest.mark.parametrize("blur", ["auto", "free"])
def test_a_kernel_may_be_as_large_as_the_image(blur: str) -> None:
    image = np.random.default_rng(0).poisson(90, (32, 32))
    settings = {"preset": "fast", "max_iterations": 2, "device": "cpu", "blur": blur}
    assert dip.blind_deblur(image, psf_size=31, **settings).image.shape == (32, 32)


@pytest.mark.long
def test_a_free_kernel_learns_and_a_known_kind_stays() -> None:
    measurement = blur_photograph(GaussianKernel((7, 7), 1.0)(), side=48)
    free, kind = (
        make_task_problem(task, make_scene(measurement))
        for task in (BlindDeblur(blur="free", psf_size=7), BlindDeblur(blur="gaussian", psf_size=7))
    )
    assert all(parameter.requires_grad for parameter in free.main_term.operator.parameters())
    assert not any(parameter.requires_grad for parameter in kind.main_term.operator.parameters())


def test_the_note_on_a_lens_names_its_largest_aberrations() -> None:
    waves = np.float32([0.02, 0, 0, -0.3, 0.01, 0, 0.11, 0])
    (note,) = make_blur_notes({"waves": waves, "cutoff": np.float32([0.25])})
    assert note.facts["first"] == "vertical coma"
    assert note.facts["second"] == "oblique trefoil"
    assert note.facts["first_waves"] == pytest.approx(0.3)


def test_a_lens_within_marechals_limit_counts_as_free_of_aberrations() -> None:
    (note,) = make_blur_notes({"waves": np.float32([0.05] + 7 * [0]), "cutoff": np.float32([0.25])})
    assert note.code == "blur-lens-sharp"


def test_the_kernels_network_begins_at_the_logits_it_is_given() -> None:
    start = torch.arange(15.0).reshape(3, 5)
    network = KernelNetwork((3, 5), torch.Generator().manual_seed(0), start)
    torch.testing.assert_close(network(), start)


@pytest.mark.long
def test_the_object_is_larger_than_the_frame_and_cut_to_it() -> None:
    task = BlindDeblur(psf_size=7)
    measurement = blur_photograph(GaussianKernel((7, 7), 1.0)(), side=48)
    setup = make_task_setup(task, make_scene(measurement))
    fit_input, prior, problem = setup.fit_input, setup.prior, setup.problem
    assert prior.grid == (48, 48)
    header = ImageHeader(name="cells", shape=fit_input.grid, dtype="float32", axes="YX")
    assert make_task_plan(task, header).network_grid == (48, 48)
    whole = Estimate(torch.rand(1, 1, 48, 48), torch.zeros(1, 1, 48, 48))
    finished = problem.make_preview(whole)
    torch.testing.assert_close(finished.mean, whole.mean[..., 3:-3, 3:-3])
    assert problem.main_term.operator(whole.mean).shape == measurement.shape


@pytest.mark.long
@pytest.mark.parametrize(("width", "side"), [(7, 7), (8, 9)])
def test_an_even_width_counts_as_the_next_odd_one(width: int, side: int) -> None:
    measurement = blur_photograph(GaussianKernel((7, 7), 1.0)(), side=48)
    learned = make_outputs(BlindDeblur(psf_size=width), measurement)
    assert learned["psf"].shape == (side, side)


def restore_small(**settings: Any) -> dip.Restoration:
    image = 255 * blur_photograph(GaussianKernel((7, 7), 1.0)(), side=46)[0, 0].numpy()
    common = {"preset": "fast", "max_iterations": 4, "device": "cpu"}
    return dip.blind_deblur(image, psf_size=7, **{**common, **settings})


def test_the_plan_counts_the_search_for_the_kind_of_blur() -> None:
    header = ImageHeader(name="blurred", shape=(96, 96), dtype="uint16", axes="YX")
    plans = [
        preflight(make_recipe("blind-deblur", preset="instant", blur=blur), header, MACHINE)
        for blur in ("auto", "gaussian")
    ]
    # measured: 2.3 and 0.5 s of a fast CPU for 64 x 64 pixels, on slower ones twice as much
    assert plans[0].costs.total_seconds - plans[1].costs.total_seconds > 3
    assert [plan.fit_config.iterations for plan in plans] == [60, 30]


def test_a_fit_is_short_where_the_kind_that_was_found_is_not_learned() -> None:
    short, limited = (restore_small(preset="instant", max_iterations=most) for most in (None, 4))
    assert short.learned_parameters["sigmas"] == pytest.approx(1, abs=0.3)
    assert (short.report["iterations"], limited.report["iterations"]) == (30, 4)


def test_a_scene_with_a_direction_is_not_taken_for_a_motion() -> None:
    """A scene of horizontal lines above all, whose spectrum falls as those of photographs."""
    rng = np.random.default_rng(0)
    frequency_y, frequency_x = np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)[None]
    squared = np.maximum(frequency_y**2 + frequency_x**2, 1 / 192**2)
    amplitude = squared**-0.6 * np.exp(1.2 * (frequency_y**2 - frequency_x**2) / squared)
    scene = np.fft.ifft2(np.fft.fft2(rng.standard_normal((192, 192))) * amplitude).real
    scene = torch.from_numpy((scene / np.ptp(scene)).astype(np.float32))[None, None]
    blurred = convolve_valid(scene, GaussianKernel(SIZES, 1.5)().detach())
    measurement = blurred + 0.01 * torch.from_numpy(rng.standard_normal(blurred.shape)).float()
    candidates = [
        lambda: GaussianKernel(SIZES, 1.3),
        *(lambda length=length: MotionKernel(SIZES, length, 0.0) for length in (3.0, 6.0)),
    ]
    _, blur = find_most_likely_blur(measurement, torch.tensor([1e-4]), candidates)
    assert isinstance(blur, GaussianKernel)


#: The shapes that the notes name otherwise than the setting.
SHAPES = {"motion": "line", "defocus": "disc"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("blur", ["gaussian", "motion", "defocus", "lens", "free"])
def test_image_and_psf_come_back(blur: str) -> None:
    answer = restore_small(blur=blur)
    assert answer.image.shape == (40, 40)
    psf = answer.learned_parameters["psf"]
    assert psf.shape == (7, 7)
    assert psf.dtype == np.float32
    assert psf.min() >= 0
    assert psf.sum() == pytest.approx(1, abs=1e-5)
    codes = [note["code"] for note in answer.report["note_codes"]]
    # four iterations find aberrations on some processors, and on others none
    assert len([code for code in codes if code.startswith(f"blur-{SHAPES.get(blur, blur)}")]) == 1
    # nothing but the image tells the blur, so no check can confirm it
    assert codes.count("psf-estimated") == 1


@pytest.mark.long
def test_restarts_give_one_psf_and_separate_channels_one_each() -> None:
    assert restore_small(restarts=2).learned_parameters["psf"].sum() == pytest.approx(1, abs=1e-5)
    image = 255 * blur_photograph(GaussianKernel((7, 7), 1.0)(), side=46)[0, 0].numpy()
    both = dip.blind_deblur(
        np.stack([image, image[::-1]]), psf_size=7, max_iterations=2, axes="CYX", device="cpu"
    )
    assert both.learned_parameters["psf"].shape == (2, 7, 7)


@pytest.mark.long
def test_the_command_saves_the_psf(tmp_path: Path) -> None:
    image = 255 * blur_photograph(GaussianKernel((7, 7), 1.0)(), side=46)[0, 0].numpy()
    tifffile.imwrite(tmp_path / "in.tif", image)
    argv = ["blind-deblur", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]
    argv += ["--psf-size", "7", "--psf-out", str(tmp_path / "psf.tif"), "--max-iterations", "2"]
    assert main([*argv, "--quiet"]) == 0
    psf = tifffile.imread(tmp_path / "psf.tif")
    assert psf.shape == (7, 7)
    assert psf.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"psf_size": 43}, "psf-large"),
        ({"psf_size": 1}, "setting-wrong"),
        ({"psf_size": 7.5}, "setting-wrong"),
        ({"blur": "box"}, "setting-wrong"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        dip.blind_deblur(np.random.default_rng(0).random((40, 40)), **settings)
    assert caught.value.reason.code == code
