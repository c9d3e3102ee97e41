"""Validation pixels confirm real detail and contradict invented detail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_dip.engine.problem import Estimate
from napari_dip.pipeline.assess.quality_checks import is_doubtful
from napari_dip.pipeline.assess.validation_evidence import (
    combine_validation_evidence,
    compute_validation_evidence,
)
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.execute.fit_setup import prepare_fit
from napari_dip.tasks.priors.image_input import compute_variance_factor
from small_runs import make_noisy, make_truth, plan_for, run_to_end

SIDE = 128


@pytest.fixture(scope="module")
def scene():
    """A fit that is ready to go, and the truth in its units."""
    array = make_noisy(SIDE)
    image = calibrate_image(plan_for(array), {"image": array})
    calibration = image.calibration
    clean = (
        make_truth(SIDE) + 100 - calibration.intensity_offset[0]
    ) / calibration.intensity_scale[0]
    pixels = torch.from_numpy(clean.astype(np.float32))[None, None]
    return prepare_fit(image, image.run_plan.units[0]), pixels


def compute_evidence(fit, image):
    return compute_validation_evidence(
        fit.problem, fit.fit_input.noise.noise_variance, Estimate(image)
    )


def compute_detail(fit, image):
    both = combine_validation_evidence([compute_evidence(fit, image)])
    assert both is not None
    return both


def test_the_true_image_is_confirmed(scene):
    fit, image = scene
    detail, contrast = compute_detail(fit, image)
    assert contrast.regression_slope == pytest.approx(1, abs=4 * contrast.slope_error)
    assert not is_doubtful(contrast)
    assert abs(detail.regression_slope - 1) < 4 * detail.slope_error


def test_few_bright_pixels_that_agree_by_chance_do_not_make_a_share_certain():
    # one pixel, three times its noise: it fits a slope of 1 exactly
    one_pixel = (9.0, 9.0, 81.0, 81.0, 81.0, 9.0, 1.0)
    both = combine_validation_evidence([one_pixel * 2])
    assert both is not None
    assert both[1].slope_error == pytest.approx(1 / 3)
    assert both[1].signal_to_noise == 3


def test_detail_of_ones_own_making_is_denied(scene):
    fit, image = scene
    made_up = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    detail, _ = compute_detail(fit, image + 0.2 * made_up)
    assert is_doubtful(detail) and detail.regression_slope < 0.3


def test_an_image_of_nothing_is_denied_as_a_whole(scene):
    fit, image = scene
    made_up = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    _, contrast = compute_detail(fit, 0.2 * made_up)
    assert is_doubtful(contrast)


def test_each_channel_that_is_fitted_by_itself_is_confirmed_by_itself():
    noise = np.random.default_rng(0).normal(1000, 30, (SIDE, SIDE)).astype(np.uint16)
    image = np.stack([make_noisy(SIDE), noise])
    _, result = run_to_end(plan_for(image, "CYX", preset="instant"), image)
    figures, headline = (result.report["verdict"][key] for key in ("figures", "headline"))
    real, invented = (channel["contrast"] for channel in figures["channels"])
    assert real["regression_slope"] > 0.5
    assert invented["signal_to_noise"] < 0.1 and figures["contrast"] == invented
    assert "in channel 2, its contrast could not be confirmed" in headline


def test_the_error_of_a_volume_is_not_raised_twice():
    # its posterior was raised to the residuals before
    array = np.stack([make_noisy(48)] * 8).astype(np.float32)
    image = calibrate_image(plan_for(array, "ZYX", stacks="volume"), {"image": array})
    fit = prepare_fit(image, image.run_plan.units[0])
    measurement = fit.fit_input.measurement
    poor = Estimate(torch.zeros_like(measurement), torch.full_like(measurement, -20.0))
    operator = fit.problem.main_term.operator
    assert float(compute_variance_factor(fit.fit_input, operator, poor)) == 1
