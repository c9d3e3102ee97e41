"""Spots that noise cannot explain stay in the result, and noise does not come back as spots."""

import numpy as np
import pytest
import torch

import napari_dip as dip
from napari_dip.engine.likelihood import lost_detail
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.likelihood.lost_detail import (
    MAX_SPOT_FRACTION,
    compute_spot_limits,
    restore_significant_spots,
)
from napari_dip.engine.problem import Estimate
from napari_dip.pipeline.assess.card import Verdict, make_card

SIDE, STD = 96, 3.0


def make_noise_variance(gain=0.0, intercept=STD**2):
    unit = torch.ones(1, 1, 1, 1)
    return NoiseVariance(gain=gain * unit, intercept=intercept * unit, floor=0.01 * unit)


def restore(measurement, mean, noise_variance=None, weights=None, correlation=None):
    mean = torch.full_like(measurement, mean) if isinstance(mean, float) else mean
    return restore_significant_spots(
        noise_variance or make_noise_variance(),
        measurement,
        Estimate(mean, torch.zeros_like(mean)),
        torch.ones_like(mean) if weights is None else weights,
        correlation,
        torch.ones(1, 1, 1, 1),
    )


def draw(seed=0, std=STD, side=SIDE):
    rng = torch.Generator().manual_seed(seed)
    return 50 + std * torch.randn(1, 1, side, side, generator=rng)


def make_spot(width, at=(48, 40)):
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distance = ((y - at[0]) ** 2 + (x - at[1]) ** 2).float()
    return torch.exp(-distance / (2 * max(width, 1e-3) ** 2))[None, None]


def test_spots_are_the_same_however_many_rows_are_searched_at_a_time(monkeypatch):
    """With spots at and across the border of bands of 17 rows."""
    measured = draw()
    for number, row in enumerate((0, 16, 17, 33, 50, 51, 94)):
        measured += 60 * make_spot((0.0, 0.8, 2.0)[number % 3], (row, 12 * number + 5))
    restored = []
    for pixels in (SIDE * SIDE, 1):
        monkeypatch.setattr(lost_detail, "SPOT_BAND_PIXELS", pixels)
        restored.append(restore(measured, 50.0))
    assert float((restored[0].mean - 50).abs().max()) > 40
    assert torch.equal(restored[0].mean, restored[1].mean)
    assert torch.equal(restored[0].log_variance, restored[1].log_variance)


@pytest.mark.parametrize("width", [0.0, 0.8, 1.3, 2.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_removed_spot_returns_with_its_amplitude(width, sign):
    spot = make_spot(width)
    height = 12 * STD / float(spot.square().sum().sqrt())
    measured = draw() + sign * height * spot
    added = restore(measured, 50.0).mean - 50
    fraction = float((added * spot).sum() / (height * spot.square().sum()))
    assert fraction == pytest.approx(sign, abs=0.25)  # three standard errors
    far = (make_spot(8.0) < 0.01).float()
    assert float((added * far).abs().max()) == 0


def test_a_spot_that_is_put_back_is_as_uncertain_as_its_noise():
    restored = restore(draw() + 40 * make_spot(0.0), 50.0)
    variance = restored.log_variance.exp()
    assert float(variance[0, 0, 48, 40]) == pytest.approx(1 + STD**2, rel=1e-4)
    assert float(variance[0, 0, 0, 0]) == 1


def test_normal_noise_comes_back_in_none_of_ten_images():
    assert not any((restore(draw(seed), 50.0).mean != 50).any() for seed in range(10))


@pytest.mark.parametrize("photons", [0.3, 2.0, 20.0])
def test_bright_pixels_of_skewed_photon_noise_are_no_spots(photons):
    rng = torch.Generator().manual_seed(3)
    measured = torch.poisson(torch.full((1, 1, 256, 256), photons), generator=rng)
    deviation = (measured - photons) / photons**0.5
    noise = make_noise_variance(gain=1.0, intercept=0.0)
    assert (restore(measured, photons, noise).mean == photons).all()
    assert photons > 1 or float(deviation.max()) > 7  # a normal threshold would put it back


def test_blotches_of_correlated_noise_are_no_spots():
    blotches = torch.nn.functional.conv2d(draw() - 50, torch.ones(1, 1, 3, 3) / 3)
    lags = (2 / 3, 1 / 3)
    assert (restore(blotches + 50, 50.0, correlation=(lags, lags)).mean == 50).all()
    weak = 0.65 * blotches + 50  # with fewer spots than would be too many
    assert (restore(weak, 50.0, correlation=(lags, lags)).mean == 50).all()
    assert (restore(weak, 50.0).mean != 50).any()


def test_noise_twice_as_strong_as_said_is_not_put_back():
    measured = draw(std=3 * STD)
    is_far = (measured - 50).abs() > 7 * STD
    assert float(is_far.float().mean()) > MAX_SPOT_FRACTION
    assert (restore(measured, 50.0).mean == 50).all()


def test_unmeasured_pixels_are_never_spots():
    weights = torch.ones(1, 1, SIDE, SIDE)
    weights[0, 0, 44:53, 36:45] = 0
    assert (restore(draw() + 100 * make_spot(0.8), 50.0, weights=weights).mean == 50).all()


def test_said_limits_fall_with_the_width_of_a_spot_and_rise_with_skewness():
    normal, skewed = compute_spot_limits(4.0, 0.0), compute_spot_limits(4.0, 1.0)
    assert normal["1"] > normal["2"] > normal["3"] > normal["5"]
    assert all(skewed[width] > limit for width, limit in normal.items())


def test_a_spot_of_the_said_limit_is_found_though_a_fit_keeps_a_third():
    spot = make_spot(0.8)
    limit = compute_spot_limits(STD**2, 0.0)["2"] * STD
    for factor, is_found in ((0.9, False), (1.1, True)):
        measured = torch.full((1, 1, SIDE, SIDE), 50.0) + factor * limit * spot
        mean = 50 + 0.35 * factor * limit * spot
        assert bool((restore(measured, mean).mean != mean).any()) is is_found


def test_a_stray_pulse_of_one_pixel_is_no_spot():
    measured = torch.full((1, 1, SIDE, SIDE), 50.0)
    measured[0, 0, 48, 40] += 7.5 * STD
    assert (restore(measured, 50.0).mean == 50).all()


def test_no_spot_is_made_of_noise_on_a_ridge():
    ridge = 50 + 60 * torch.exp(-((torch.arange(SIDE) - 40.0) ** 2) / 8).expand(1, 1, SIDE, SIDE)
    changed = [restore(ridge + draw(seed) - 50, ridge).mean != ridge for seed in range(10)]
    assert not torch.cat(changed).any()


@pytest.fixture(scope="module")
def spotted():
    rng = np.random.default_rng(4)
    image = 100 + 5 * rng.normal(size=(96, 96))
    image[20:80:20, 20:80:20] += 60
    return image.astype(np.float32)


@pytest.mark.long
def test_single_pixels_of_twelve_sigmas_survive_a_whole_run(spotted):
    result = dip.denoise(spotted, preset="instant", prior="r2r")
    heights = result.image[20:80:20, 20:80:20] - 100
    assert heights.min() > 30
    limits = result.report["fit"]["min_spot_snr"]
    assert (limits["1"], limits["2"]) == (8.2, 5.0)
    assert make_card({"fit": result.report["fit"]}).figure_line.endswith(
        "8.2 times the noise (2 pixels wide: 5) and lines below 2.4 times may be removed"
    )


@pytest.mark.long
def test_the_card_of_a_doubtful_result_names_no_weakest_spot(spotted):
    report = dip.denoise(spotted, preset="instant", max_iterations=1).report
    assert report["fit"]["min_spot_snr"]
    card = make_card(report)
    assert card.verdict is not Verdict.FINE
    assert "spot" not in {figure.name for figure in card.figures}


def test_no_limit_is_said_where_outliers_may_be_noise(spotted):
    rng = np.random.default_rng(5)
    image = spotted + 15 * rng.standard_t(2, size=spotted.shape).astype(np.float32)
    fit = dip.denoise(image, preset="instant", max_iterations=10).report["fit"]
    assert fit["min_spot_snr"] == {}
