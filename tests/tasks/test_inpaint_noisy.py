"""Inpaint denoises the pixels around holes, whatever their noise is."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from skimage import data

import napari_dip as dip
from fit_inputs import make_fit_input_from
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.problem import Estimate
from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    measure_single_exposure,
)
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA
from napari_dip.tasks.base import NoiseSettings
from napari_dip.tasks.noise_models.impulses import fill_missing, replace_single_pixels
from small_runs import MACHINE

SIDE = 112
SHORT = {"preset": "fast", "max_iterations": 20}


def draw_holes(missing: float) -> np.ndarray:
    return np.random.default_rng(1).random((SIDE, SIDE)) < missing


def load_cell_with_shared_noise() -> tuple[np.ndarray, np.ndarray]:
    truth = data.cell()[100 : 100 + SIDE, 100 : 100 + SIDE].astype(np.float32)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=truth.shape), 0.8)
    return truth, truth + (15 * noise / noise.std()).astype(np.float32)


def mean_square(image: np.ndarray, truth: np.ndarray | float) -> float:
    return float(((image - truth) ** 2).mean())


@pytest.mark.parametrize("missing", [0.01, 0.05, 0.2])
def test_correlation_of_noise_is_measured_across_dead_pixels(missing: float) -> None:
    truth, noisy = load_cell_with_shared_noise()
    holes = draw_holes(missing)
    volume, mask = np.where(holes, noisy.mean(), noisy)[None], ~holes[None]
    estimate = measure_single_exposure(volume, mask, 0.0, NoiseSettings())
    assert estimate.unreliable_reason is None
    assert estimate.along_x[0] > 0.5
    deviation = compute_noise_variance(estimate, float(truth.mean())) ** 0.5
    assert deviation == pytest.approx(15, rel=0.15)


def test_only_narrow_and_few_holes_are_replaced_before_noise_is_measured() -> None:
    planes = np.random.default_rng(0).normal(size=(1, SIDE, SIDE)).astype(np.float32)
    mask = ~draw_holes(0.1)[None]
    mask[0, 40:60, 40:60] = False
    _, left_out = replace_single_pixels(planes, mask)
    assert left_out is not None
    assert not left_out[0, 40:60, 40:60].any()
    assert 20**2 <= (~left_out).sum() < 1.1 * 20**2
    many = ~draw_holes(0.5)[None]
    kept, still_missing = replace_single_pixels(planes, many)
    assert kept is planes
    assert still_missing is many


def test_holes_are_filled_from_restored_pixels_where_blind_spots_are_wide() -> None:
    image, zero = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 1, 1)
    mask = torch.ones_like(image)
    mask[..., 8, 8] = 0
    filled = {}
    for size in (1, 3):
        fit_input = make_fit_input_from(
            image,
            NoiseVariance(gain=zero, intercept=zero + 1, floor=zero + 1),
            torch.zeros_like(image),
            noise_level=1.0,
            measured_mask=mask,
            blind_spot_size=(size, size),
            prior="blind-spot",
        )
        predicted, restored = Estimate(image + 5), Estimate(image + 1)
        filled[size] = fill_missing(fit_input, predicted, restored).mean
    assert filled[1][..., 8, 8] == 5
    torch.testing.assert_close(filled[3], torch.ones_like(image))
    assert (filled[1] == 1).sum() == image.numel() - 1


def test_dead_pixels_hardly_worsen_what_denoising_reaches() -> None:
    shot, truth = (
        plane[:SIDE, :SIDE].astype(np.float32) for plane in tifffile.imread(MITOCHONDRIA)
    )
    holes = draw_holes(0.05)
    denoised = dip.denoise(shot, **SHORT)
    filled = dip.inpaint(
        np.where(holes, 0, shot), mask=holes.astype(np.uint8), unmasked="denoise", **SHORT
    )
    assert filled.report["fit"]["refined"]
    assert mean_square(filled.image, truth) < 1.2 * mean_square(denoised.image, truth)


def test_around_a_wide_hole_pixels_are_denoised_as_without_one() -> None:
    shot, truth = (
        plane[:SIDE, :SIDE].astype(np.float32) for plane in tifffile.imread(MITOCHONDRIA)
    )
    holes = np.zeros(shot.shape, bool)
    holes[-14:, 30:80] = True
    denoised = dip.denoise(shot, **SHORT)
    filled = dip.inpaint(
        np.where(holes, 0, shot), mask=holes.astype(np.uint8), unmasked="denoise", **SHORT
    )
    assert filled.report["prior"]["key"] == "random-input-no-skips"
    assert filled.report["fit"]["refined"]
    results = filled, denoised
    errors = [mean_square(result.image[~holes], truth[~holes]) for result in results]
    stated = [mean_square(result.uncertainty[~holes], 0) for result in results]
    assert errors[0] < 1.1 * errors[1]
    assert stated[0] == pytest.approx(stated[1], rel=0.5)


@pytest.mark.parametrize(("unmasked", "is_refined"), [("keep", False), ("denoise", True)])
@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_the_plan_counts_the_refinement_of_measured_pixels(
    axes: str, unmasked: str, is_refined: bool
) -> None:
    shape = (8, 512, 512)[-len(axes) :]
    header = ImageHeader(name="cells", shape=shape, dtype="float32", axes=axes)
    plan = preflight(make_recipe("inpaint", unmasked=unmasked), header, MACHINE, {"mask": header})
    assert not isinstance(plan, Refusal)
    assert (plan.costs.refinement_seconds > 1) == is_refined


def test_noise_that_neighbours_share_is_removed_around_holes_and_in_them() -> None:
    truth, noisy = load_cell_with_shared_noise()
    holes = draw_holes(0.05)
    result = dip.inpaint(
        np.where(holes, 0, noisy), mask=holes.astype(np.uint8), unmasked="denoise", **SHORT
    )
    assert result.report["prior"]["key"] == "blind-spot"
    assert "share noise" in result.report["prior"]["reason"]
    assert "biharmonic" in write_methods_section(result.report)
    for pixels in (holes, ~holes):
        assert mean_square(result.image[pixels], truth[pixels]) < 0.1 * 225


def test_noise_that_neighbours_share_stays_out_of_holes_where_pixels_are_kept() -> None:
    truth, noisy = load_cell_with_shared_noise()
    holes = draw_holes(0.05)
    result = dip.inpaint(np.where(holes, 0, noisy), mask=holes.astype(np.uint8), **SHORT)
    np.testing.assert_array_equal(result.image[~holes], noisy[~holes])
    assert mean_square(result.image[holes], truth[holes]) < 0.1 * 225
