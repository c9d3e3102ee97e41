"""Deblurring on a finer grid: the mean of the fine pixels, after the blur, explains the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from fit_inputs import make_plain_fit_input, make_task_plan, make_task_problem
from napari_dip.cli import main
from napari_dip.engine.deconvolution.psf import (
    compute_microscope_psf,
    resample_psf,
    sample_gaussian_psf,
)
from napari_dip.engine.deconvolution.richardson_lucy import iterate_richardson_lucy
from napari_dip.engine.operators.imaging import BinnedDownsample, ValidConvolution
from napari_dip.io import ImageHeader
from napari_dip.tasks import Deblur
from napari_dip.tasks.deblur import get_psf_source

if TYPE_CHECKING:
    from pathlib import Path

FAST = {"preset": "fast", "device": "cpu", "max_iterations": 20}
PLANE = ImageHeader(name="cells", shape=(24, 32), dtype="float32", axes="YX")


def make_lines(side: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Give an image of thin lines, blurred and binned by two, with photon noise; and the truth."""
    fine = np.zeros((2 * side, 2 * side))
    fine[:, 20], fine[:, 25], fine[40, :] = 400.0, 400.0, 300.0
    blurred = gaussian_filter(fine, 2.0, mode="nearest")
    light = blurred.reshape(side, 2, side, 2).mean((1, 3)) + 3
    return np.random.default_rng(seed).poisson(light).astype(np.float32), fine


@pytest.mark.parametrize("factor", [2, 3])
def test_a_refined_psf_is_that_of_the_finer_grid(factor):
    optics = {"na": 1.4, "wavelength_nm": 520.0, "refractive_index": 1.518}
    coarse = compute_microscope_psf("widefield", pixel_nm=(66.0, 66.0), sizes=(31, 31), **optics)
    side = factor * 30 + 1
    fine = compute_microscope_psf(
        "widefield", pixel_nm=(66.0 / factor,) * 2, sizes=(side, side), **optics
    )
    refined = resample_psf(coarse, (factor, factor))
    assert refined.shape == fine.shape
    assert float(refined.sum()) == pytest.approx(1, abs=1e-5)
    assert float((refined - fine).abs().max() / fine.max()) < 0.003


def test_a_refined_psf_of_an_odd_factor_gives_the_psf_back_when_it_is_binned():
    coarse = sample_gaussian_psf((1.4, 1.8), (15, 17))
    refined = resample_psf(coarse, (3, 3))
    padded = torch.nn.functional.pad(refined, (1, 1, 1, 1))[None, None]
    binned = BinnedDownsample((3, 3))(padded)[0, 0] * 9
    torch.testing.assert_close(binned, coarse, atol=2e-4, rtol=0)


def test_a_factor_of_one_leaves_the_psf_alone():
    psf = sample_gaussian_psf((1.4, 1.8))
    assert resample_psf(psf, (1, 1)) is psf


def test_a_gaussian_has_its_width_after_binning():
    source = get_psf_source(Deblur(gaussian_sigma=1.5))
    kernel, _ = source.make_kernel(PLANE, None, "YX", (2, 2))
    offsets = torch.arange(len(kernel)) - len(kernel) // 2
    fine_variance = float((kernel.sum(1) * offsets**2).sum())
    binning_variance = 0.25  # of two samples at -0.5 and 0.5
    assert (fine_variance + binning_variance) / 4 == pytest.approx(1.5**2, rel=0.01)


def test_the_operator_maps_the_fine_object_to_the_image():
    task = Deblur(gaussian_sigma=1.2, factor="1,2")
    kernel, _ = get_psf_source(task).make_kernel(PLANE, None, "YX", (1, 2))
    fit_input = make_plain_fit_input((24, 32), psf=kernel)
    operator = make_task_problem(task, fit_input).main_term.operator
    grid = operator.compute_object_grid(fit_input.grid)
    assert grid == make_task_plan(task, PLANE).network_grid
    assert operator(torch.full((1, 1, *grid), 3.0)).shape == (1, 1, 24, 32)
    torch.testing.assert_close(
        operator(torch.full((1, 1, *grid), 3.0)), torch.full((1, 1, 24, 32), 3.0)
    )


def test_noise_below_the_background_is_not_cut_off():
    rng = np.random.default_rng(0)
    kernel = sample_gaussian_psf((1.2, 1.2))
    operator = ValidConvolution(kernel)
    margin = operator.margin[0]
    sharp = torch.zeros(1, 1, 64 + 2 * margin, 64 + 2 * margin)
    sharp[..., 20::12, 20::12] = 300.0
    signal = operator(sharp) + torch.from_numpy(rng.normal(0, 3, (64, 64))).float()
    valid = torch.ones_like(signal)

    def restore(background: float) -> torch.Tensor:
        level = torch.full((1, 1, 1, 1), background)
        return next(iterate_richardson_lucy(operator, signal, level, valid, (10,)))

    light = float(sharp[..., margin:-margin, margin:-margin].sum())
    kept, cut_off = (
        float(restore(level)[..., margin:-margin, margin:-margin].sum()) / light
        for level in (9.0, 0.01)
    )
    assert kept == pytest.approx(1, abs=0.1)
    assert cut_off > 1.2


@pytest.mark.long
def test_the_result_has_a_finer_grid_the_same_light_and_narrower_lines():
    image, truth = make_lines()
    result = dip.deblur(image, gaussian_sigma=1.03, factor=2, background=3.0, **FAST)
    restored = np.asarray(result.image)
    assert restored.shape == truth.shape
    assert float((restored - 3).sum()) == pytest.approx(truth.sum(), rel=0.02)
    profile = restored[:30].mean(0)
    assert profile[22:24].min() < 0.7 * min(profile[19:22].max(), profile[24:27].max())
    coarse = np.kron(image, np.ones((2, 2)))
    assert (
        np.corrcoef(restored.ravel(), truth.ravel())[0, 1]
        > 0.15 + (np.corrcoef(coarse.ravel(), truth.ravel())[0, 1])
    )


@pytest.mark.long
def test_the_file_of_a_finer_result_has_smaller_pixels(tmp_path: Path):
    image, _ = make_lines()
    source, target = tmp_path / "lines.tif", tmp_path / "fine.tif"
    tifffile.imwrite(
        source, image, imagej=True, resolution=(10, 10), metadata={"unit": "um", "axes": "YX"}
    )
    options = ["--gaussian-sigma", "1.03", "--factor", "2", "--max-iterations", "2"]
    assert main(["deblur", str(source), "-o", str(target), "--preset", "fast", *options]) == 0
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].shape == (64, 64)
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(20)


@pytest.mark.long
def test_a_stack_may_be_finer_along_each_axis():
    rng = np.random.default_rng(0)
    image = rng.poisson(gaussian_filter(rng.random((10, 16, 16)) * 90, 1.0)).astype(np.float32)
    result = dip.deblur(
        image,
        gaussian_sigma=1.0,
        gaussian_sigma_z=1.0,
        factor="2,1,2",
        axes="ZYX",
        preset="fast",
        device="cpu",
        max_iterations=2,
    )
    assert np.asarray(result.image).shape == (20, 16, 32)


def test_a_plane_has_no_factor_along_z():
    plan = make_task_plan(Deblur(gaussian_sigma=1.0, factor="2,2,2"), PLANE)
    assert plan.axes_refusal is not None
    assert plan.axes_refusal.code == "factor-depth"


@pytest.mark.parametrize("factor", [0, 5, "2,2,2,2", "a"])
def test_other_factors_are_refused_with_the_allowed_ones(factor):
    with pytest.raises(ValidationError, match="1, 2, 3, 4 or 8"):
        Deblur(gaussian_sigma=1.0, factor=factor)
