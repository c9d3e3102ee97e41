"""The clipping of noise at black or white is corrected."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch
from skimage.data import camera, coins

import napari_dip as dip
from napari_dip.engine.noise.estimate import NoiseEstimate, estimate_noise
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.metrics import ResultMetrics
from napari_dip.pipeline.assess.quality_checks import assess_quality
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.clipping import (
    HALF_NORMAL_MEAN,
    _make_clipping_table,
    apply_clipping,
    compute_clipped_mean,
    correct_clipping,
    estimate_clipping_weights,
    list_corrected_limits,
)
from napari_dip.pipeline.calibrate.image_calibration import calibrate_pixels
from napari_dip.pipeline.calibrate.inputs import arrange_inputs
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe

SIDE, LEVEL = 96, 25.0
#: Grey values of the four quarters: two that are cut at black, two that are not cut.
QUARTERS = (4.0, 40.0, 110.0, 140.0)


def draw_quarters(seed: int = 0, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Flat quarters, and with noise in 8 bit."""
    truth = np.kron(np.reshape(QUARTERS, (2, 2)), np.ones((SIDE // 2, SIDE // 2)))
    noise = np.random.default_rng(seed).normal(0, level, truth.shape)
    return truth, np.clip(np.rint(truth + noise), 0, 255).astype(np.uint8)


def calibrate_quarters(**options):
    """Plan and calibration of the noisy quarters."""
    _, noisy = draw_quarters()
    recipe = make_recipe("denoise", preset="fast", **options)
    plan = preflight(
        recipe,
        ImageHeader(name="quarters", shape=noisy.shape, dtype="uint8", axes="YX"),
        detect_machine(),
    )
    calibration, _ = calibrate_pixels(plan, arrange_inputs(plan, {"image": noisy}))
    return plan, calibration


@pytest.mark.parametrize("gain", [0.0, 0.05, 2.0, 40.0])
@pytest.mark.parametrize("signal", [0.0, 10.0, 60.0])
def test_the_mean_of_what_is_measured_is_that_of_a_million_draws(signal, gain):
    noise = NoiseEstimate(
        gain=gain,
        intercept=100.0,
        floor=1.0,
        along_y=(0.0,),
        along_x=(0.0,),
        clipping_limits=(0.0, inf),
    )
    rng = np.random.default_rng(0)
    light = gain * rng.poisson(signal / gain, 1_000_000) if gain else signal
    draws = np.maximum(light + rng.normal(0, 10, 1_000_000), 0)
    deviation = np.sqrt(gain * signal + 100)
    assert compute_clipped_mean(noise, np.array([signal]))[0] == pytest.approx(
        draws.mean(), abs=4e-3 * deviation
    )


def test_bright_places_are_darker_on_average_where_white_cuts_their_noise():
    noise = NoiseEstimate(
        gain=2.0,
        intercept=100.0,
        floor=1.0,
        along_y=(0.0,),
        along_x=(0.0,),
        clipping_limits=(-inf, 255.0),
    )
    rng = np.random.default_rng(0)
    draws = np.minimum(2 * rng.poisson(125, 1_000_000) + rng.normal(0, 10, 1_000_000), 255)
    assert compute_clipped_mean(noise, np.array([250.0]))[0] == pytest.approx(draws.mean(), abs=0.4)
    assert draws.mean() < 243


def test_photons_that_are_none_are_not_cut_off():
    noise = NoiseEstimate(
        gain=60.0,
        intercept=0.0,
        floor=1.0,
        along_y=(0.0,),
        along_x=(0.0,),
        clipping_limits=(0.0, inf),
    )
    signals = np.array([0.0, 5.0, 30.0, 200.0])
    assert (compute_clipped_mean(noise, signals) == signals).all()


def test_grey_values_where_noise_ends_are_found():
    truth, noisy = draw_quarters()
    whole = np.random.default_rng(1).normal(truth + 200, LEVEL)
    assert estimate_noise(torch.from_numpy(noisy)[None], 1.0).clipping_limits == (0.0, inf)
    assert estimate_noise(torch.from_numpy(whole)[None], 0.0).clipping_limits == (-inf, inf)


def test_the_way_there_and_back_ends_where_it_began():
    plan, calibration = calibrate_quarters()
    signal = np.linspace(0, 255, SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE)
    clipped = apply_clipping(plan, calibration, signal)
    again, growth = correct_clipping(plan, calibration, plan.units[0], clipped[0])
    assert np.abs(again - signal[0]).max() < 0.01
    assert clipped[0, 0, 0, 0] == pytest.approx(LEVEL / np.sqrt(2 * np.pi), rel=0.1)
    assert growth[0, 0, 0] == pytest.approx(2, rel=0.05)
    assert growth[0, -1, -1] == 1


@pytest.mark.long
def test_dark_parts_are_as_dark_as_they_are():
    truth, noisy = draw_quarters()
    dark = slice(4, SIDE // 2 - 4)
    result = dip.denoise(noisy, preset="fast", max_iterations=50)
    assert noisy[dark, dark].mean() > 11
    assert result.image[dark, dark].mean() == pytest.approx(truth[0, 0], abs=2.5)
    verdict = result.report["verdict"]
    assert verdict["figures"]["bias"] == pytest.approx(0, abs=0.005)
    assert any("was taken into account" in sentence for sentence in verdict["sentences"])


def test_noise_that_is_named_is_left_as_it_is():
    plan, calibration = calibrate_quarters(noise="speckle")
    assert list_corrected_limits(plan, calibration) == ()


def test_noise_that_is_not_known_reckons_nothing_back():
    plan, calibration = calibrate_quarters()
    assert list_corrected_limits(plan, calibration) == (0.0,)
    noisy = np.where(draw_quarters()[1] > 60, 200, 10).astype(np.uint8)  # a mask tells no noise
    inputs = arrange_inputs(plan, {"image": noisy})
    assert list_corrected_limits(plan, calibrate_pixels(plan, inputs)[0]) == ()


def draw_case(seed: int):
    """Draw an image, what a detector that cuts off measures of it, and a noise near the true."""
    rng = np.random.default_rng(seed)
    high, side = float(rng.choice([100, 255, 1023, 4095])), 32
    gain = float(10 ** rng.uniform(-2, 1.5)) * (rng.random() < 0.8)
    read = float(10 ** rng.uniform(0, 1.5))
    coarse = rng.uniform(0, rng.uniform(0.3, 1.2) * high, (4, 4)) ** rng.choice([1, 2])
    coarse *= rng.uniform(0.3, 1.2) * high / coarse.max()
    truth = np.kron(coarse, np.ones((side // 4, side // 4)))
    light = gain * rng.poisson(truth / gain) if gain else truth
    offset = float(rng.choice([0.0, 3 * read]))
    measured = np.clip(np.rint(light + offset + rng.normal(0, read, truth.shape)), 0, high)
    wrong = float(10 ** rng.uniform(-0.3, 0.7))  # half to five times the true variance
    none = (0.0,) * 5
    variance = wrong * (read**2 - gain * offset)
    noise = NoiseEstimate(
        gain=wrong * gain,
        intercept=variance,
        floor=0.1 * read**2,
        along_y=none,
        along_x=none,
        clipping_limits=(0.0, high),
    )
    return truth + offset, measured[None].astype(np.float32), noise


def apply_correction(noise_estimate: NoiseEstimate, image: np.ndarray) -> np.ndarray:
    table = _make_clipping_table(noise_estimate, image.astype(np.float32))
    assert (np.diff(table.means) >= 0).all()
    return np.interp(image, table.means, table.signals)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_a_correction_is_small_where_few_pixels_are_cut_off_however_wrong_the_noise(first):
    for seed in range(first, first + 100):
        truth, measured, noise = draw_case(seed)
        low, high = noise.clipping_limits
        noise = estimate_clipping_weights(noise, measured, None)
        image = np.clip(truth, low, high)
        answer = apply_correction(noise, image)
        deviation = np.sqrt(compute_noise_variance(noise, image))
        away = np.minimum(image - low, high - image) > 6.001 * deviation
        assert np.abs(answer - image)[away].max(initial=0) < 1e-6 * high, seed
        # the signals that these means come from: no mean of theirs goes further than counted
        counted = [(measured <= low).mean(), (measured >= high).mean()]
        strength = [np.sqrt(compute_noise_variance(noise, limit)) for limit in (low, high)]
        strength[0] = max(strength[0], noise.gain)
        mean = undo_correction(noise, image)
        change = (image - mean).mean()
        most = HALF_NORMAL_MEAN * np.multiply(counted, strength)
        assert -1.5 * most[0] - 1e-3 * high <= change <= 1.5 * most[1] + 1e-3 * high, seed


def undo_correction(noise_estimate: NoiseEstimate, signal: np.ndarray) -> np.ndarray:
    table = _make_clipping_table(noise_estimate, signal.astype(np.float32))
    return np.interp(signal, table.signals, table.means)


@pytest.mark.long
def test_one_more_saturated_pixel_changes_a_correction_by_as_much_as_one_pixel_can():
    for seed in range(100):
        truth, measured, noise = draw_case(seed)
        image = np.clip(truth, *noise.clipping_limits)
        more = measured.copy()
        more.flat[int(measured.argmax())] = noise.clipping_limits[1]
        more.flat[int(np.random.default_rng(seed).integers(more.size))] = noise.clipping_limits[1]
        means = [
            undo_correction(estimate_clipping_weights(noise, scene, None), image).mean()
            for scene in (measured, more)
        ]
        one_pixel = (
            6 * np.sqrt(compute_noise_variance(noise, noise.clipping_limits[1])) / measured.size
        )
        assert abs(means[0] - means[1]) < one_pixel, seed


@pytest.mark.long
def test_large_gains_do_not_lift_an_image_that_white_cuts_off_here_and_there():
    """Photons of 20 grey values each: 0.9 % of the pixels at 255 once lifted the mean by 6 %."""
    rng = np.random.default_rng(0)
    truth = (camera()[:384:2, :384:2] / 255.0) ** 2 * 200 + 3
    noisy = 20 * rng.poisson(truth / 20) + rng.normal(8, 4, truth.shape)
    noisy = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    result = dip.denoise(noisy, preset="fast", max_iterations=20)
    assert result.image.mean() == pytest.approx(noisy.mean(), rel=0.01)
    figures = result.report["verdict"]["figures"]
    assert figures["clipping_correction"] == pytest.approx(
        result.image.mean() / noisy.mean() - 1, abs=0.005
    )
    assert figures["unexplained_bias"] == 0


def test_structures_far_above_the_limit_do_not_make_the_result_darker_than_the_input():
    rng, scene = np.random.default_rng(0), (coins()[60:188, 60:188] / 255.0) ** 2
    noisy = 20 * rng.poisson(60 * scene + 3) + rng.normal(100, 15, scene.shape)
    noisy = np.clip(np.rint(noisy), 0, 700).astype(np.uint16)  # 17 % are at the limit
    result = dip.denoise(noisy, preset="instant", max_iterations=20)
    figures = result.report["verdict"]["figures"]
    assert 0.005 < figures["clipping_correction"] < 0.02  # of the mean above black
    codes = {note["code"] for note in result.report["verdict"]["codes"]}
    assert "mean-kept" in codes and "mean-off" not in codes
    assert "but for what the camera cut off" in " ".join(result.report["verdict"]["sentences"])


def test_what_lies_inside_saturated_areas_is_called_unknown():
    light = 60 + 20 * np.sin(np.arange(96) / 8)[:, None] * np.sin(np.arange(96) / 8)
    noisy = np.minimum(4 * np.random.default_rng(0).poisson(light), 240).astype(np.uint16)
    result = dip.denoise(noisy, preset="instant", max_iterations=20)
    assert result.report["verdict"]["figures"]["saturated_fraction"] > 0.05
    assert result.report["verdict"]["kind"] == "look-closer"
    assert "lie inside saturated areas, at 240" in " ".join(result.report["verdict"]["sentences"])


def test_brightness_is_judged_against_the_input_as_it_came():
    """A correction that lifts the result beyond what the cut-off pixels explain is a warning."""
    metrics = ResultMetrics(
        residual=None,
        bias=0.0,
        corrected_limits=(255.0,),
        clipping_correction=0.06,
        unexplained_bias=0.05,
    )
    said = assess_quality(metrics)
    assert any(
        "On average the result is 5.0% brighter than the input" in each for each in said["warnings"]
    )
    assert not any("was kept" in sentence for sentence in said["sentences"])
