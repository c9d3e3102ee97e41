"""Noise is measured correctly on images with real structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dip.engine.noise import UnreliableReason
from napari_dip.engine.noise.estimate import (
    MIN_WHITE_FRACTION,
    NoiseEstimate,
    compute_blind_spot_size,
    estimate_noise,
)

IMAGES = {"camera": data.camera, "coins": data.coins, "moon": data.moon, "cell": data.cell}


def add_noise(name: str, blur: tuple[float, float], level: float, seed: int = 0) -> torch.Tensor:
    image = IMAGES[name]().astype(np.float64)
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=image.shape), blur)
    return torch.from_numpy(image + level * noise / noise.std())[None]


def measure_blind_spot(*channels: torch.Tensor) -> tuple[int, int]:
    height, width = channels[0].shape[1:]
    return compute_blind_spot_size(
        [estimate_noise(channel, 0) for channel in channels], (height, width)
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", IMAGES)
def test_white_noise_asks_for_single_pixels(name: str) -> None:
    assert measure_blind_spot(add_noise(name, (0, 0), 20)) == (1, 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", IMAGES)
def test_noise_along_the_scan_line_asks_for_blocks_along_it(name: str) -> None:
    height, width = measure_blind_spot(add_noise(name, (0, 0.7), 20))
    assert height == 1
    assert width in (3, 5, 7)


@pytest.mark.long
@pytest.mark.parametrize("name", IMAGES)
def test_isotropic_noise_asks_for_square_blocks(name: str) -> None:
    block = measure_blind_spot(add_noise(name, (0.75, 0.75), 20))
    assert min(block) >= 3
    assert max(block) <= 7


@pytest.mark.long
@pytest.mark.parametrize("name", ["camera", "cell", "moon"])
def test_what_the_image_itself_repeats_hardly_widens_the_block(name: str) -> None:
    # a lag of 0.4 and next to nothing beyond: 3 x 3, and images add 0.1 to every lag
    height, width = measure_blind_spot(add_noise(name, (0.59, 0.59), 5))
    assert 3 <= height <= 5
    assert 3 <= width <= 5


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", IMAGES)
def test_the_level_of_gaussian_noise_is_found(name: str) -> None:
    planes = add_noise(name, (0, 0), 20)
    estimate = estimate_noise(planes, 0)
    middle = float(planes.median())
    assert np.sqrt(estimate.gain * middle + estimate.intercept) == pytest.approx(20, rel=0.15)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_gain_and_intercept_of_a_camera_are_found(gain: float) -> None:
    rng = np.random.default_rng(1)
    image = np.kron(rng.uniform(20, 400, (16, 16)), np.ones((32, 32)))
    shot = gain * rng.poisson(image / gain) + rng.normal(0, 5, image.shape) + 100
    estimate = estimate_noise(torch.from_numpy(shot)[None], 0)
    assert estimate.gain == pytest.approx(gain, rel=0.1)
    variance = estimate.gain * 300 + estimate.intercept
    assert variance == pytest.approx(gain * 200 + 25, rel=0.1)


def test_noise_that_falls_with_brightness_is_believed_if_it_is_that_of_an_inverted_image() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 256)[None].repeat(256, 0)
    shot = ramp + rng.normal(size=ramp.shape) * np.sqrt(144 - 0.7 * ramp)
    estimate = estimate_noise(torch.from_numpy(shot)[None], 0)
    levels = torch.tensor([20.0, 100.0, 180.0])
    torch.testing.assert_close(
        estimate.compute_variance(levels), 144 - 0.7 * levels, rtol=0.1, atol=0
    )


@pytest.mark.parametrize("side", [16, 20, 33, 64])
def test_small_images_give_finite_figures(side: int) -> None:
    shot = np.random.default_rng(0).normal(50, 5, (side, side + 3))
    estimate = estimate_noise(torch.from_numpy(shot)[None], 0)
    assert np.isfinite(
        [estimate.gain, estimate.intercept, *estimate.along_x, *estimate.along_y]
    ).all()
    assert estimate.floor > 0


def test_an_image_that_is_black_but_for_a_corner_gives_a_positive_floor() -> None:
    shot = np.zeros((64, 64))
    shot[:8, :8] = 7
    assert estimate_noise(torch.from_numpy(shot)[None], 1.0).floor > 0


@pytest.mark.long
def test_the_most_correlated_channel_decides() -> None:
    white, scanned = add_noise("coins", (0, 0), 20), add_noise("coins", (0, 0.7), 20)
    assert measure_blind_spot(white, white, scanned) == measure_blind_spot(scanned)


def test_blocks_stay_small_against_the_image() -> None:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(20, 64)), (1, 1))
    height, width = measure_blind_spot(torch.from_numpy(50 + 20 * noise)[None])
    assert height <= 20 / 6
    assert width > 1


def test_slow_structure_is_not_taken_for_correlated_noise() -> None:
    y, x = np.mgrid[:64, :64]
    shot = np.random.default_rng(0).poisson(50 + 40 * np.sin(x / 8) * np.cos(y / 9))
    assert measure_blind_spot(torch.from_numpy(shot.astype(np.float64))[None]) == (1, 1)


@pytest.mark.long
def test_pixels_that_were_not_measured_do_not_count_as_flat() -> None:
    image = add_noise("camera", (0, 0), 20)
    mask = torch.ones_like(image, dtype=torch.bool)
    mask[:, 100:300, 150:400] = False
    holed = torch.where(mask, image, image[mask].mean())
    whole, estimate = estimate_noise(image, 0), estimate_noise(holed, 0, mask)
    at = 100.0
    level = estimate.gain * at + estimate.intercept
    assert level == pytest.approx(whole.gain * at + whole.intercept, rel=0.25)


def test_scattered_holes_leave_no_blocks_to_measure_noise_in() -> None:
    image = add_noise("camera", (0, 0), 20)
    mask = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    estimate = estimate_noise(image, 1.0, mask)
    assert estimate.gain == 0
    assert compute_blind_spot_size([estimate], (512, 512)) == (1, 1)


@pytest.mark.parametrize("name", IMAGES)
def test_of_white_noise_on_structure_the_white_part_is_kept(name: str) -> None:
    measured = estimate_noise(add_noise(name, (0, 0), 20)[:, 100:228, 100:228], 0)
    kept, middle = (
        measured.extract_white_part(),
        float(IMAGES[name]()[100:228, 100:228].mean()),
    )
    at_middle = kept.gain * middle + kept.intercept
    assert at_middle <= measured.gain * middle + measured.intercept
    assert 300 < at_middle < 640  # 400 was added; the rims of coins pass for noise, too
    assert set(kept.along_y) == set(kept.along_x) == {0.0}


def test_correlated_noise_is_taken_for_structure() -> None:
    measured = NoiseEstimate(
        gain=2.0,
        intercept=300.0,
        floor=30.0,
        along_y=(0.78, 0.52, 0.4, 0.3, 0.3),
        along_x=(0.7, 0.3, 0.2, 0.1, 0.1),
    )
    kept = measured.extract_white_part()
    assert kept.intercept == pytest.approx(MIN_WHITE_FRACTION * 300)
    assert kept.gain == pytest.approx(MIN_WHITE_FRACTION * 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_few_blocks_of_one_brightness_do_not_make_a_slope(seed: int) -> None:
    from napari_dip.engine.noise.flat_blocks import DCT_SIDE, BlockSpectra, select_finest_bands
    from napari_dip.engine.noise.variance_model import fit_variance_model

    draws = np.random.default_rng(seed)
    means = torch.from_numpy(draws.uniform(101, 102, 16))  # as little as clipping may leave
    power = torch.from_numpy(2500 * draws.chisquare(1, (16, DCT_SIDE, DCT_SIDE)))
    line = fit_variance_model(BlockSpectra(means, power, 1.0), select_finest_bands(), 1.0, 1.0)
    assert 1500 < line.gain * 230 + line.intercept < 3500


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("image", "level"),
    [
        (data.astronaut()[:256, :256, 2], 50),  # once a gain of 360, and no noise at the mean
        (data.retina()[:256, :256, 1], 25),  # once 0.58 of it
        (data.camera()[:256, :256], 25),  # once 1.38 times
        (data.coffee()[100:356, 120:376, 0], 50),  # once a gain of 231
    ],
    ids=["astronaut", "retina", "camera", "coffee"],
)
def test_the_noise_of_clipped_images_with_sharp_edges_is_measured(
    image: np.ndarray, level: float
) -> None:
    """Edges carry black and white into blocks of any brightness; even noise, clipped to 8 bits."""
    noise = np.random.default_rng(1).normal(0, level, image.shape)
    clipped = torch.from_numpy(np.clip(np.rint(image + noise), 0, 255))[None]
    estimate = estimate_noise(clipped, 1.0)
    at_mean = estimate.gain * float(clipped.mean()) + estimate.intercept
    assert at_mean**0.5 == pytest.approx(level, rel=0.1)
    assert measure_blind_spot(clipped) == (1, 1)


@pytest.mark.long
def test_a_slope_within_its_error_is_not_believed() -> None:
    """Even noise, seen in 60 small images: a slope is believed in one of ten at most."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(50, 200, 64)[None, None] + np.zeros((60, 64, 1))
    images = torch.from_numpy(ramp + rng.normal(0, 20, ramp.shape))
    sloped = [estimate_noise(image[None], 0).gain > 0 for image in images]
    assert sum(sloped) <= 6


@pytest.mark.parametrize("seed", [6, 9])
def test_a_movie_without_its_mean_frame_has_no_bright_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = gaussian_filter(rng.normal(size=(96, 96)), 6)
    movie = rng.normal(size=(6, 96, 96)) * np.exp(0.3 * level / level.std())
    movie -= movie.mean(0)
    planes = torch.from_numpy(movie.astype(np.float32))
    reason = estimate_noise(planes, grey_level_step=0.0).unreliable_reason
    assert reason is UnreliableReason.OFF_VARIANCE_MODEL


@pytest.mark.parametrize("seed", [1, 4, 6, 7])
def test_spots_on_black_do_not_hold_the_line_of_the_variance_low(seed: int) -> None:
    """Means of dark blocks differ by chance; times a large gain, that is more than their noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    photons = np.zeros((96, 96))
    for _ in range(11):
        distance = (y - rng.uniform(0, 96)) ** 2 + (x - rng.uniform(0, 96)) ** 2
        photons += rng.uniform(20, 100) * np.exp(-distance / 2 / rng.uniform(1.5, 5) ** 2)
    image = np.rint(100 + 20 * rng.poisson(photons) + rng.normal(0, 3, photons.shape))
    assert estimate_noise(torch.from_numpy(image)[None], 1.0).gain > 13.5
