"""Correlated noise must agree with how well neighbours predict a pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from skimage import data

from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.noise.correlation import (
    WHITE_RESIDUAL_FRACTION,
    compute_passed_power,
    compute_residual_fraction,
    measure_prediction_residual,
)
from napari_dip.engine.noise.estimate import (
    MIN_DOUBTFUL_SHARE,
    MIN_WHITE_SHARE,
    NoiseEstimate,
    compute_blind_spot_size,
    correct_by_prediction,
    estimate_noise,
)
from napari_dip.tasks.noise_models.impulses import replace_by_random_neighbours


def make_noisy(name: str, deviation: float, *, blurred: float = 0.0) -> torch.Tensor:
    image = getattr(data, name)()[:256, :256].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 1, image.shape)
    if blurred:
        noise = gaussian_filter(noise, blurred)
        noise /= noise.std()
    return torch.from_numpy(np.round(image + deviation * noise))


def test_white_noise_is_not_predicted_by_neighbours() -> None:
    noise = 9 * torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    _, residual, share = measure_prediction_residual(noise)
    assert share > 0.9
    assert (residual / 81).tolist() == pytest.approx([WHITE_RESIDUAL_FRACTION] * 4, rel=0.2)
    assert compute_residual_fraction((), ()) == pytest.approx(WHITE_RESIDUAL_FRACTION, rel=0.06)


def test_correlated_noise_is_predicted_as_well_as_its_correlation_allows() -> None:
    fractions = [compute_residual_fraction((lag, lag**2), (lag, lag**2)) for lag in (0.2, 0.5, 0.8)]
    assert fractions == sorted(fractions, reverse=True)
    assert fractions[2] < 0.25 * fractions[0]


@pytest.mark.parametrize(("blurred", "is_shared"), [(0.8, True), (0.0, False)])
def test_replaced_pixels_do_not_hide_whether_neighbours_share_noise(
    blurred: float, is_shared: bool
) -> None:
    plane = make_noisy("moon", 15, blurred=blurred)[:128, :128].numpy()[None]
    is_measured = np.random.default_rng(1).random(plane.shape) >= 0.25
    replaced = torch.from_numpy(replace_by_random_neighbours(plane, is_measured)[0])
    *_, diluted = measure_prediction_residual(replaced)
    *_, share = measure_prediction_residual(replaced, replaced_fraction=0.25)
    assert diluted > MIN_DOUBTFUL_SHARE
    assert (share < MIN_DOUBTFUL_SHARE) is is_shared
    assert (share > MIN_WHITE_SHARE) is not is_shared


def test_fur_that_was_taken_for_correlated_noise_is_doubted_and_less_is_taken() -> None:
    plane = make_noisy("gravel", 8)
    measured = NoiseEstimate(
        gain=0.0,
        intercept=204.0,
        floor=102.0,
        along_y=(0.76, 0.5, 0.2, 0.0, 0.0),
        along_x=(0.76, 0.5, 0.2, 0.0, 0.0),
    )
    assert compute_blind_spot_size([measured], (256, 256)) != (1, 1)
    corrected = correct_by_prediction(measured, plane, 1.0)
    assert corrected.unreliable_reason == "texture"
    assert compute_blind_spot_size([corrected], (256, 256)) == (1, 1)
    level = [noise.gain * float(plane.mean()) + noise.intercept for noise in (measured, corrected)]
    assert abs(level[1] - 64) < 0.6 * abs(level[0] - 64)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("blurred", [0.5, 0.8])
@pytest.mark.parametrize("name", ["camera", "moon", "coins"])
def test_noise_that_is_correlated_stays_as_it_was_measured(name: str, blurred: float) -> None:
    plane = make_noisy(name, 10, blurred=blurred)
    measured = estimate_noise(plane[None], 1.0)
    assert (
        replace(correct_by_prediction(measured, plane, 1.0), caution=measured.caution) == measured
    )


@pytest.mark.parametrize("name", ["camera", "moon", "cell"])
def test_white_noise_stays_as_it_was_measured(name: str) -> None:
    plane = make_noisy(name, 10)
    measured = estimate_noise(plane[None], 1.0)
    assert correct_by_prediction(measured, plane, 1.0) is measured


def test_noise_that_neighbours_predict_too_well_is_not_white() -> None:
    plane = make_noisy("moon", 10, blurred=0.8)
    estimate_noise(plane[None], 1.0)
    white = correct_by_prediction(
        NoiseEstimate(
            gain=0.0, intercept=100.0, floor=50.0, along_y=(0.0,) * 5, along_x=(0.0,) * 5
        ),
        plane,
        1.0,
    )
    assert white.unreliable_reason == "ambiguous-correlation"


def make_correlated_estimate(variance: float) -> NoiseEstimate:
    along = (0.28, 0.08, 0.0, 0.0, 0.0)
    return NoiseEstimate(
        gain=0.0, intercept=variance, floor=variance / 2, along_y=along, along_x=along
    )


def test_white_noise_of_a_small_crop_that_seemed_correlated_is_white_again() -> None:
    plane = make_noisy("moon", 10)[:128, :128]
    corrected = correct_by_prediction(make_correlated_estimate(104), plane, 1.0)
    assert corrected.unreliable_reason is None
    assert corrected.caution == "mostly-textured"
    assert corrected.along_x == (0.0,) * 5
    assert corrected.intercept == pytest.approx(100, rel=0.15)


def test_noise_in_a_crop_of_grass_is_white_but_may_be_overestimated() -> None:
    grass = data.grass()
    noisy = grass + np.random.default_rng(0).normal(0, 20, grass.shape)
    plane = torch.from_numpy(noisy[100:228, 100:228])
    measured = estimate_noise(plane[None], 0.0)
    assert measured.along_x[0] > 0.4
    assert float(measured.compute_variance(plane.mean())) > 1.4**2 * 400
    corrected = correct_by_prediction(measured, plane, 0.0)
    assert corrected.unreliable_reason == "texture"
    assert corrected.along_x == (0.0,) * 5
    assert float(corrected.compute_variance(plane.mean())) < 1.3**2 * 400


@pytest.mark.parametrize(("side", "is_halved"), [(128, True), (256, False)])
def test_many_pixels_and_a_halved_image_keep_their_weak_correlation(
    side: int, is_halved: bool
) -> None:
    plane = make_noisy("moon", 10)[:side, :side]
    measured = make_correlated_estimate(104)
    assert correct_by_prediction(measured, plane, 1.0, is_halved=is_halved) is measured


@pytest.mark.parametrize(("blurred", "reason"), [(0.0, None), (0.8, "ambiguous-correlation")])
def test_white_noise_of_a_crop_is_doubted_if_neighbours_predict_it(blurred, reason) -> None:
    plane = make_noisy("coins", 10, blurred=blurred)[:64, :64]
    weak = NoiseEstimate(gain=0.0, intercept=60.0, floor=30.0)
    assert correct_by_prediction(weak, plane, 1.0).unreliable_reason == reason


@pytest.mark.parametrize("blurred", [0.0, 0.8])
def test_a_doubt_about_correlation_ends_where_neighbours_predict_nothing(blurred: float) -> None:
    plane = make_noisy("coins", 10, blurred=blurred)[:64, :64]
    ambiguous = NoiseEstimate(
        gain=0.0, intercept=110.0, floor=50.0, unreliable_reason="ambiguous-correlation"
    )
    corrected = correct_by_prediction(ambiguous, plane, 1.0)
    assert (corrected.unreliable_reason is None) == (blurred == 0)
    assert (corrected.caution == "mostly-textured") == (blurred == 0)


def test_white_noise_of_a_tiny_image_is_not_doubted() -> None:
    plane = 100 + 10 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    white = NoiseEstimate(gain=0.0, intercept=100.0, floor=50.0)
    assert correct_by_prediction(white, plane, 0.0) is white


def test_noise_behind_a_blur_is_as_strong_as_its_power_that_the_blur_passes() -> None:
    kernel = sample_gaussian_psf((1.5, 1.0), (11, 11))
    white = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    smooth = torch.from_numpy(gaussian_filter(white.numpy(), 0.8))
    products = [[(smooth * smooth.roll(lag, axis)).mean() for lag in range(5)] for axis in (0, 1)]
    along_y, along_x = (tuple(float(p / line[0]) for p in line[1:]) for line in products)
    strengths = [
        float(torch.from_numpy(fftconvolve(noise, kernel, mode="valid")).var() / noise.var())
        for noise in (smooth, white)
    ]
    power = compute_passed_power((along_y, along_x), kernel)
    assert power == pytest.approx(strengths[0] / strengths[1], rel=0.1)
    assert compute_passed_power(((0.0,), (0.0,)), kernel) == pytest.approx(1)
    assert compute_passed_power((along_y, along_x), kernel[None]) == pytest.approx(power)
