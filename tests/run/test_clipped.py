"""What is cut off of the noise, at black or white, is reckoned back."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch

import napari_dip as dip
from napari_dip.engine.noise import NoiseEstimate, measure_noise
from napari_dip.io import ImageSpec
from napari_dip.run.clipped import as_measured, expected, reckoned_back, unclipped
from napari_dip.run.inputs import sort_inputs
from napari_dip.run.machine import this_machine
from napari_dip.run.plan import preflight
from napari_dip.run.prepare import prepare
from napari_dip.run.recipe import make_recipe

SIDE, LEVEL = 96, 25.0
#: Grey values of the four quarters: two that are cut at black, two that are not cut.
QUARTERS = (4.0, 40.0, 110.0, 140.0)


def quarters(seed: int = 0, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Flat quarters, and with noise in 8 bit."""
    truth = np.kron(np.reshape(QUARTERS, (2, 2)), np.ones((SIDE // 2, SIDE // 2)))
    noise = np.random.default_rng(seed).normal(0, level, truth.shape)
    return truth, np.clip(np.rint(truth + noise), 0, 255).astype(np.uint8)


def measured(**wishes):
    """Plan and calibration of the noisy quarters."""
    _, noisy = quarters()
    recipe = make_recipe("denoise", preset="fast", **wishes)
    plan = preflight(recipe, ImageSpec("quarters", noisy.shape, "uint8", "YX"), this_machine())
    calibration, _ = prepare(plan, sort_inputs(plan, {"image": noisy}))
    return plan, calibration


@pytest.mark.parametrize("gain", [0.0, 0.05, 2.0, 40.0])
@pytest.mark.parametrize("signal", [0.0, 10.0, 60.0])
def test_the_mean_of_what_is_measured_is_that_of_a_million_draws(signal, gain):
    noise = NoiseEstimate(gain, 100.0, 1.0, (0.0,), (0.0,), cut_off=(0.0, inf))
    rng = np.random.default_rng(0)
    light = gain * rng.poisson(signal / gain, 1_000_000) if gain else signal
    draws = np.maximum(light + rng.normal(0, 10, 1_000_000), 0)
    deviation = np.sqrt(gain * signal + 100)
    assert expected(noise, np.array([signal]))[0] == pytest.approx(
        draws.mean(), abs=4e-3 * deviation
    )


def test_bright_places_are_darker_on_average_where_white_cuts_their_noise():
    noise = NoiseEstimate(2.0, 100.0, 1.0, (0.0,), (0.0,), cut_off=(-inf, 255.0))
    rng = np.random.default_rng(0)
    draws = np.minimum(2 * rng.poisson(125, 1_000_000) + rng.normal(0, 10, 1_000_000), 255)
    assert expected(noise, np.array([250.0]))[0] == pytest.approx(draws.mean(), abs=0.4)
    assert draws.mean() < 243


def test_photons_that_are_none_are_not_cut_off():
    noise = NoiseEstimate(60.0, 0.0, 1.0, (0.0,), (0.0,), cut_off=(0.0, inf))
    signals = np.array([0.0, 5.0, 30.0, 200.0])
    assert (expected(noise, signals) == signals).all()


def test_grey_values_where_noise_ends_are_found():
    truth, noisy = quarters()
    whole = np.random.default_rng(1).normal(truth + 200, LEVEL)
    assert measure_noise(torch.from_numpy(noisy)[None], 1.0).cut_off == (0.0, inf)
    assert measure_noise(torch.from_numpy(whole)[None], 0.0).cut_off == (-inf, inf)


def test_the_way_there_and_back_ends_where_it_began():
    plan, calibration = measured()
    signal = np.linspace(0, 255, SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE)
    seen = as_measured(plan, calibration, signal)
    again, growth = unclipped(plan, calibration, plan.units[0], seen[0])
    assert np.abs(again - signal[0]).max() < 0.01
    assert seen[0, 0, 0, 0] == pytest.approx(LEVEL / np.sqrt(2 * np.pi), rel=0.1)
    assert growth[0, 0, 0] == pytest.approx(2, rel=0.05)
    assert growth[0, -1, -1] == 1


def test_dark_parts_are_as_dark_as_they_are():
    truth, noisy = quarters()
    dark = slice(4, SIDE // 2 - 4)
    result = dip.denoise(noisy, preset="fast", max_iterations=50)
    assert noisy[dark, dark].mean() > 11
    assert result.image[dark, dark].mean() == pytest.approx(truth[0, 0], abs=2.5)
    verdict = result.report["verdict"]
    assert verdict["figures"]["bias"] == pytest.approx(0, abs=0.005)
    assert any("reckoned back" in sentence for sentence in verdict["sentences"])


def test_noise_that_is_named_is_left_as_it_is():
    plan, calibration = measured(noise="speckle")
    assert reckoned_back(plan, calibration) == ()


def test_noise_that_is_not_known_reckons_nothing_back():
    plan, calibration = measured()
    assert reckoned_back(plan, calibration) == (0.0,)
    noisy = np.where(quarters()[1] > 60, 200, 10).astype(np.uint8)  # a mask tells no noise
    inputs = sort_inputs(plan, {"image": noisy})
    assert reckoned_back(plan, prepare(plan, inputs)[0]) == ()
