"""What repeats in two images is measured: down to which size, where, and against a null control."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_dip.pipeline.assess.repeatability import (
    FRC_CRITERION,
    compute_peak_density,
    extract_detail,
    map_repeats,
    measure_contrast,
    measure_resolution,
)

SIDE = 192


def draw_object(rng: np.random.Generator, sides: tuple[int, ...], width: float) -> np.ndarray:
    """Draw a random object whose power falls as a Gaussian of the frequency, (*sides)."""
    squares = (f**2 for f in np.meshgrid(*map(np.fft.fftfreq, sides), indexing="ij"))
    amplitude = np.exp(-sum(squares) * (2 * np.pi * width) ** 2 / 2)
    return np.fft.ifftn(np.fft.fftn(rng.normal(size=sides)) * amplitude).real


def compute_true_period(width: float, noise: float) -> float:
    """Return the period at which S / (S + N) is the criterion, for `draw_object`."""
    power = noise**2 * FRC_CRITERION / (1 - FRC_CRITERION)
    return 2 * np.pi * width / np.sqrt(-np.log(power))


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
def test_the_resolution_is_where_signal_and_noise_meet_the_criterion(noise):
    rng = np.random.default_rng(0)
    truth = draw_object(rng, (SIDE, SIDE), 1.0)
    first, second = ((truth + rng.normal(0, noise, truth.shape))[None, None] for _ in range(2))
    resolution, _ = measure_resolution([(first, second)], (0.1, 0.1), is_thinned=False)
    assert resolution == pytest.approx(0.1 * compute_true_period(1.0, noise), rel=0.08)


def test_halves_with_twice_the_noise_have_the_resolution_of_the_whole():
    rng = np.random.default_rng(1)
    truth, noise = draw_object(rng, (SIDE, SIDE), 1.0), 0.1
    shot = truth + rng.normal(0, noise, truth.shape)
    draws = [rng.normal(0, noise, truth.shape) for _ in range(8)]
    pairs = [((shot + drawn)[None, None], (shot - drawn)[None, None]) for drawn in draws]
    resolution, _ = measure_resolution(pairs, (1.0, 1.0), is_thinned=True)
    assert resolution == pytest.approx(compute_true_period(1.0, noise), rel=0.1)


@pytest.mark.parametrize("is_thinned", [False, True])
def test_noise_alone_has_no_resolution(is_thinned):
    for seed in range(20):
        noise, *draws = np.random.default_rng(seed).normal(size=(9, 1, 1, SIDE, SIDE))
        pairs = [(noise + drawn, noise - drawn) for drawn in draws[: 8 if is_thinned else 1]]
        assert measure_resolution(pairs, (1.0, 1.0), is_thinned=is_thinned) == (None, None)


@pytest.mark.parametrize("is_thinned", [False, True])
def test_what_restorations_add_to_both_halves_resolves_nothing(is_thinned):
    rng = np.random.default_rng(6)
    truth, noise = draw_object(rng, (SIDE, SIDE), 4.0), 0.01
    shot, drawn = (noise * rng.normal(size=(2, SIDE, SIDE)))[:, None, None]
    pair = (truth + shot + drawn, truth + shot - drawn)
    added = 0.1 * noise * rng.normal(size=(SIDE, SIDE))
    predictions = tuple(gaussian_filter(half[0, 0], 2.0)[None, None] + added for half in pair)
    period, _ = measure_resolution(
        [pair], (1.0, 1.0), is_thinned=is_thinned, predictions=predictions
    )
    expected = compute_true_period(4.0, noise if is_thinned else 2**0.5 * noise)
    assert period == pytest.approx(expected, rel=0.15)
    # restorations that add nothing, and that only noise limits, have the resolution of their input
    plain, _ = measure_resolution([pair], (1.0, 1.0), is_thinned=is_thinned)
    assert plain == pytest.approx(expected, rel=0.15)
    same, _ = measure_resolution([pair], (1.0, 1.0), is_thinned=is_thinned, predictions=pair)
    assert same == pytest.approx(plain, rel=0.05)


def test_two_equal_images_are_resolved_down_to_two_pixels():
    image = np.random.default_rng(3).normal(size=(1, 1, 64, 96))
    resolution, _ = measure_resolution([(image, image)], (0.5, 0.5), is_thinned=False)
    assert resolution == pytest.approx(1.0)


def test_planes_far_apart_have_a_coarser_resolution_along_z():
    rng = np.random.default_rng(4)
    truth = draw_object(rng, (48, 96, 96), 1.5)
    first, second = ((truth + rng.normal(0, 0.02, truth.shape))[None, None] for _ in range(2))
    plane, axial = measure_resolution([(first, second)], (3.0, 1.0, 1.0), is_thinned=False)
    # in pixels the object is as wide along all axes
    assert axial == pytest.approx(3 * plane, rel=0.15)


def test_the_map_marks_where_one_image_differs_and_leaves_blank_what_shows_no_detail():
    rng = np.random.default_rng(5)
    truth, invented = (draw_object(rng, (SIDE, SIDE), 1.5) for _ in range(2))
    truth[:, :64], invented[:, 64:] = 0, truth[:, 64:]
    invented[:, :64] *= np.arange(SIDE)[:, None] > SIDE // 2
    second = invented.copy()
    second[SIDE // 2 :, :64] = draw_object(rng, (SIDE // 2, 64), 1.5)
    repeats = map_repeats(
        *(a[None, None] for a in (invented, second, invented)), 4, is_thinned=True
    )
    inner = slice(20, -20)
    assert np.nanmin(repeats[0, 0, inner, 84:-20]) > 0.95
    assert np.nanmean(repeats[0, 0, SIDE // 2 + 20 : -20, 10:44] < 0.5) > 0.8
    assert np.isnan(repeats[0, 0, 20 : SIDE // 2 - 20, 10:44]).all()


def test_peaks_are_counted_by_megapixel_and_contrast_is_that_of_the_strong_detail():
    image = np.zeros((1, 1, 100, 100))
    image[0, 0, 10::20, 10::20] = 8.0
    assert measure_contrast(image) == 8
    assert compute_peak_density(image, 4.0) == pytest.approx(25 / 100**2 * 1e6)
    assert compute_peak_density(image, 8.0) == 0
    assert abs(extract_detail(np.full((1, 1, 32, 32), 7.0), 4)).max() < 1e-9
