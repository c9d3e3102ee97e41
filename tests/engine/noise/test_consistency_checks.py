"""A noise estimate that the frequencies of the image contradict is unreliable, and no other is."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter, median_filter, uniform_filter, zoom
from skimage import data

from napari_dip.engine.noise.consistency_checks import has_outlier_pixels
from napari_dip.engine.noise.estimate import (
    TEXTURE_REASONS,
    compute_blind_spot_size,
    compute_block_spectra,
    correct_by_prediction,
    estimate_noise,
)
from napari_dip.engine.noise.flat_blocks import NO_CLIPPING

Image = npt.NDArray[np.float64]
SIDE = 192
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] / SIDE


def find_unreliable_reason(image: Image) -> str:
    return estimate_noise(
        torch.from_numpy(np.asarray(image, np.float64))[None], 0
    ).unreliable_reason


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def draw_discs() -> Image:
    """Even patches of several brightnesses, 0 to 1."""
    centres = rng().uniform(0, 1, (30, 2))
    apart = np.hypot(ROWS[..., None] - centres[:, 0], COLUMNS[..., None] - centres[:, 1])
    return gaussian_filter(np.linspace(0, 1, 30)[apart.argmin(-1)], 0.7)


def draw_texture() -> Image:
    """Even texture in every block, as of membranes or fabric: none of it is noise."""
    spots = gaussian_filter(rng().normal(size=(SIDE, SIDE)), 2.5)
    return 500 * (spots / spots.std())


@pytest.mark.parametrize("sigma", [5, 20])
def test_white_noise_on_patches_is_no_contradiction(sigma: int) -> None:
    assert find_unreliable_reason(300 * draw_discs() + rng().normal(0, sigma, (SIDE, SIDE))) is None


def test_photon_noise_on_patches_is_no_contradiction() -> None:
    assert (
        find_unreliable_reason(
            2 * rng().poisson(300 * draw_discs() + 5) + rng().normal(0, 4, (SIDE, SIDE))
        )
        is None
    )


def test_noise_blurred_by_less_than_a_pixel_is_no_contradiction() -> None:
    noise = gaussian_filter(rng().normal(size=(SIDE, SIDE)), 0.6)
    assert find_unreliable_reason(300 * draw_discs() + 20 * noise / noise.std()) is None


def test_uniform_texture_is_not_taken_for_noise() -> None:
    image = torch.from_numpy(draw_texture() + rng().normal(0, 20, (SIDE, SIDE)))[None]
    estimate = estimate_noise(image, 0)
    assert estimate.unreliable_reason == "ambiguous-correlation"
    assert compute_blind_spot_size([estimate], (SIDE, SIDE)) == (1, 1)
    assert estimate.gain * 0 + estimate.intercept == pytest.approx(
        400, rel=0.15
    )  # once 2 to 20 times


@pytest.mark.parametrize("size", [2.0, 4.0])
def test_blotches_wider_than_can_be_measured_are_a_doubt(size: float) -> None:
    noise = gaussian_filter(rng().normal(size=(SIDE, SIDE)), size)
    assert find_unreliable_reason(300 * draw_discs() + 20 * noise / noise.std())


@pytest.mark.parametrize("power", [3.0, 2.0])
def test_a_gamma_curve_is_a_doubt(power: float) -> None:
    shot = rng().poisson(300 * (0.1 + COLUMNS)) / 330
    assert find_unreliable_reason(255 * shot**power) == "off-variance-model"


def test_speckle_is_a_doubt() -> None:
    light = 20 + 800 * COLUMNS
    assert (
        find_unreliable_reason(light * rng().gamma(20, 1 / 20, light.shape)) == "off-variance-model"
    )


def test_the_noise_of_fine_bright_threads_is_not_measured() -> None:
    """All that is bright is texture, and so is no sign of how the variance grows."""
    threads = gaussian_filter((rng().random((SIDE, SIDE)) > 0.99).astype(float), 1.2)
    light = 300 * np.clip(threads / threads.max(), 0, 1) * (COLUMNS > 0.7)
    shot = 200 + rng().normal(0, 5, light.shape) + 40 * rng().poisson(light)
    assert find_unreliable_reason(shot) == "off-variance-model"


def test_heavy_tails_are_a_doubt() -> None:
    assert (
        find_unreliable_reason(300 * draw_discs() + 15 * rng().standard_t(3, (SIDE, SIDE)))
        == "heavy-tails"
    )


@pytest.mark.parametrize(
    "filtered", [partial(gaussian_filter, sigma=0.6), partial(median_filter, size=3)]
)
def test_images_of_fine_threads_that_were_smoothed_are_not_taken_for_white(filtered) -> None:
    threads = gaussian_filter((rng().random((SIDE, SIDE)) > 0.97).astype(float), 1.2)
    shot = rng().poisson(20 + 400 * threads / threads.max())
    assert find_unreliable_reason(filtered(shot.astype(float))) in (
        "smoothed",
        "ambiguous-correlation",
    )


def find_caution(image: Image, step: float = 0) -> str:
    return estimate_noise(torch.from_numpy(np.asarray(image, np.float64))[None], step).caution


def test_white_noise_on_patches_needs_no_caution() -> None:
    assert find_caution(300 * draw_discs() + rng().normal(0, 20, (SIDE, SIDE))) is None


@pytest.mark.parametrize("wide", [4, 8])
def test_wide_blotches_on_white_noise_are_reported_and_not_measured(wide: int) -> None:
    noise = rng()
    blotches = gaussian_filter(noise.normal(size=(SIDE, SIDE)), wide)
    white = noise.normal(0, 20, (SIDE, SIDE))
    image = 300 * draw_discs() + 20 * blotches / blotches.std() + white
    estimate = estimate_noise(torch.from_numpy(image)[None], 0)
    assert estimate.caution == "low-frequency-variation"
    assert not estimate.unreliable_reason  # its figures stand: they are those of the white part
    assert estimate.intercept == pytest.approx(400, rel=0.15)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("factor", [1.5, 2])
def test_an_enlarged_image_is_reported(factor: float) -> None:
    image = zoom(300 * draw_discs() + rng().normal(0, 20, (SIDE, SIDE)), factor, order=1)
    estimate = estimate_noise(torch.from_numpy(image)[None], 0)
    assert estimate.unreliable_reason or estimate.caution == "resampled"


def test_lines_of_a_detector_that_differ_in_noise_are_reported() -> None:
    noise = rng().normal(0, 20, (SIDE, SIDE)) * np.where(np.arange(SIDE) % 2, 0.8, 1.2)[:, None]
    assert find_caution(300 * draw_discs() + noise) == "resampled"


def draw_filaments() -> Image:
    """Thin curved lines on black, 0 to 1."""
    sample, canvas = rng(), np.zeros((SIDE, SIDE))
    for _ in range(20):
        angle = sample.uniform(0, 2 * np.pi) + np.cumsum(
            gaussian_filter(sample.normal(0, 0.6, 4 * SIDE), 12)
        )
        y, x = (
            (sample.uniform(0, SIDE) + np.cumsum(wave(angle)) / 2).astype(int) % SIDE
            for wave in (np.sin, np.cos)
        )
        canvas[y, x] += 1
    smooth = gaussian_filter(canvas, 1.2)
    return smooth / smooth.max()


def test_structure_at_the_rim_of_what_was_cut_off_is_not_taken_for_correlated_noise() -> None:
    light = np.clip(draw_filaments() - np.median(draw_filaments()), 0, None)
    shot = np.clip(
        np.rint(2 * rng().poisson(300 * light) + rng().normal(0, 5, light.shape)), 0, None
    )
    estimate = estimate_noise(torch.from_numpy(shot)[None], 1)
    assert compute_blind_spot_size([estimate], (SIDE, SIDE)) == (
        1,
        1,
    )  # once 7 x 7, and 12 to 23 times the noise


def test_a_gamma_curve_that_a_line_follows_badly_is_reported() -> None:
    light = (COLUMNS + 0.5 * ROWS) ** 2 / 2.25
    shot = rng().poisson(600 * light) + 10 + rng().normal(0, 4, light.shape)
    stored = np.rint(255 * np.clip(shot / 640, 0, None) ** 0.45)
    assert find_caution(stored, 1) or find_unreliable_reason(stored)


def test_noise_that_is_mostly_cut_off_is_measured() -> None:
    light = 4095 + 6 * 4 * 40 * (0.6 - COLUMNS) / 0.6
    gained = light + rng().normal(0, 40, light.shape)
    estimate = estimate_noise(torch.from_numpy(np.clip(np.rint(gained), 0, 4095))[None], 1)
    assert estimate.unreliable_reason is None and estimate.caution is None
    assert float(estimate.compute_variance(torch.tensor(4095.0))) == pytest.approx(1600, rel=0.1)


def test_texture_is_no_noisier_than_its_finest_frequencies() -> None:
    """A photograph of grass without noise once had a noise of 5.5, and 25 with noise of 15."""
    grass = data.grass()[128:384, 128:384].astype(np.float64)
    clean = estimate_noise(torch.from_numpy(grass)[None], 1)
    assert clean.unreliable_reason
    assert max(clean.intercept, clean.floor) < 1
    noisy = np.clip(np.rint(grass + rng().normal(0, 15, grass.shape)), 0, 255)
    estimate = estimate_noise(torch.from_numpy(noisy)[None], 1)
    assert estimate.unreliable_reason
    assert compute_blind_spot_size([estimate], grass.shape) == (1, 1)
    assert 14**2 < estimate.intercept + estimate.gain * noisy.mean() < 20**2


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("row", "column"), [(101, 360), (366, 84)])
def test_texture_in_a_small_crop_is_doubted(row: int, column: int) -> None:
    grass = torch.from_numpy(data.grass()[row : row + 128, column : column + 128].astype(float))
    estimate = correct_by_prediction(estimate_noise(grass[None], 1), grass, 1.0)
    assert estimate.unreliable_reason in TEXTURE_REASONS
    assert compute_blind_spot_size([estimate], (128, 128)) == (1, 1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("side", [64, 96, 128])
@pytest.mark.parametrize("name", ["grass", "gravel", "brick"])
def test_texture_of_a_small_image_is_not_taken_for_correlated_noise(name: str, side: int) -> None:
    """Before small images were checked, 23 of these 36 crops were, without a word."""
    for row, column in ((0, 0), (150, 40), (300, 200), (380, 380)):
        crop = getattr(data, name)()[row : row + side, column : column + side].astype(float)
        noisy = crop + np.random.default_rng(0).normal(0, 5, crop.shape)
        estimate = estimate_noise(torch.from_numpy(noisy)[None], 0)
        assert estimate.unreliable_reason or estimate.caution or estimate.intercept < 10**2
        assert compute_blind_spot_size([estimate], crop.shape) == (1, 1)


@pytest.mark.parametrize("side", [64, 96, 128])
@pytest.mark.parametrize("width", [2, 3])
def test_correlated_noise_of_a_small_image_is_no_texture(width: int, side: int) -> None:
    white = np.random.default_rng(1).normal(size=(side + 8, side + 8))
    noise = uniform_filter(white, width)[4:-4, 4:-4]
    estimate = estimate_noise(torch.from_numpy(100 + 10 * noise / noise.std())[None], 0)
    assert estimate.unreliable_reason is None
    assert min(compute_blind_spot_size([estimate], noise.shape)) >= 3


def test_outliers_are_looked_for_where_there_is_no_structure() -> None:
    """With structure in most blocks, few of all hold outliers, but many of the smooth ones."""
    threads = np.concatenate([300 * draw_filaments(), np.tile(300 * COLUMNS, (2, 1))])

    def has_outliers(noise: Image, lines: slice) -> bool:
        planes = torch.from_numpy((threads + 15 * noise)[lines])[None]
        blocks = compute_block_spectra(planes, None, NO_CLIPPING)
        variance = estimate_noise(planes, 0).compute_variance(blocks.means)
        return has_outlier_pixels(blocks, variance)

    tails, normal = rng().standard_t(3, threads.shape), rng().normal(size=threads.shape)
    for lines in (slice(0, SIDE), slice(SIDE, 2 * SIDE)):
        assert has_outliers(tails, lines)
        assert not has_outliers(normal, lines)


def test_noise_that_is_weakest_at_middle_brightness_is_reported() -> None:
    deviations = np.sqrt(100 + 1200 * (COLUMNS - 0.5) ** 2)
    planes = torch.from_numpy(300 * COLUMNS + rng().normal(0, deviations, (SIDE, SIDE)))[None]
    assert estimate_noise(planes, 0).unreliable_reason == "off-variance-model"
    assert find_caution(300 * COLUMNS + rng().normal(0, 20, (SIDE, SIDE))) is None


def test_noise_in_dark_strokes_too_thin_to_measure_is_reported() -> None:
    light = np.full((SIDE, SIDE), 800.0)
    light[::12, :150] = light[1::12, :150] = 20
    image = light * rng().gamma(25, 1 / 25, light.shape)
    assert find_unreliable_reason(image) or find_caution(image)


def test_noise_finer_than_the_grey_values_at_the_dark_end_is_reported() -> None:
    shot = 100 + rng().poisson(400 * COLUMNS**2) + rng().normal(0, 6, (SIDE, SIDE))
    assert find_caution(10 * np.rint(shot / 10), 10) is None
    assert find_caution(15 * np.rint(shot / 15), 15) == "uncertain-extremes"


def test_weak_correlation_that_reaches_far_is_reported() -> None:
    """It is that of a texture, as in an image that was sharpened: noise has none of that kind."""
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None]) + 1 / 256
    texture = np.fft.ifft2(np.fft.fft2(rng().normal(size=(256, 256))) / frequency**1.6).real
    shot = 60 * texture / texture.std() + np.random.default_rng(1).normal(0, 20, texture.shape)
    assert find_unreliable_reason(shot) or find_caution(shot)


def test_print_is_no_correlated_noise() -> None:
    """Where some blocks are calmer than correlated noise lets them be, noise is white."""
    strokes, sample = np.ones((SIDE, SIDE)), np.random.default_rng(4)
    for row, column in product(range(8, SIDE - 16, 22), range(8, SIDE - 16, 14)):
        down, across = sample.integers(0, 10, 2)
        strokes[row + down : row + down + 3, column : column + 11] = 0
        strokes[row : row + 13, column + across : column + across + 2] = 0
    shot = np.rint(130 + 40 * gaussian_filter(strokes, 0.6) + sample.normal(0, 12, strokes.shape))
    estimate = estimate_noise(torch.from_numpy(shot)[None], 1)
    assert compute_blind_spot_size([estimate], (SIDE, SIDE)) == (1, 1)
    assert estimate.intercept + estimate.gain * shot.mean() == pytest.approx(144, rel=0.15)


def test_read_noise_is_not_claimed_where_black_was_cut_off() -> None:
    light = np.where(draw_discs() > 0.4, draw_discs(), 0)
    shot = 4 * rng().poisson(80 * light) + rng().normal(0, 6, light.shape)
    assert estimate_noise(torch.from_numpy(np.clip(np.rint(shot), 0, 255))[None], 1).offset is None


@pytest.mark.sampled(1)
@pytest.mark.parametrize("gain", [20, 80, 200])
def test_noise_in_the_light_is_measured_beside_a_dark_that_has_thousands_of_times_less(
    gain: float,
) -> None:
    """The dark blocks' own noise once made the line miss the light: its noise counted as 5."""
    light = 300 * np.where(draw_discs() > 0.5, draw_discs(), 0)
    shot = 200 + rng().normal(0, 5, light.shape) + gain * rng().poisson(light)
    estimate = estimate_noise(torch.from_numpy(np.rint(shot))[None], 1)
    assert estimate.gain == pytest.approx(gain, rel=0.05)
    assert estimate.gain * 200 + estimate.intercept < 60
