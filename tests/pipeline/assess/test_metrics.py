"""Metrics of a finished run are right for images with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import small_runs
from napari_dip.engine.noise.estimate import NoiseEstimate, estimate_noise
from napari_dip.pipeline.assess.artefact_detection import (
    NO_CLIPPED_PIXELS,
    ClippedPixels,
    detect_clipped_pixels,
    detect_clipping,
)
from napari_dip.pipeline.assess.metrics import measure_residual
from napari_dip.pipeline.assess.quality_checks import (
    MAX_EDGE_VARIANCE_RATIO,
    MAX_RESIDUAL_CORRELATION,
    compute_correlation_limit,
    list_clipping_notes,
)
from napari_dip.pipeline.assess.report import MAX_ASSESSED_PIXELS, select_assessed_items
from napari_dip.pipeline.assess.validation_evidence import (
    ConfirmedDetail,
    combine_validation_evidence,
)
from napari_dip.tasks.priors.masked_input import measure_distant_holes

SIDE = 192


def make_noisy(level: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    clean = data.camera()[100 : 100 + SIDE, 150 : 150 + SIDE].astype(np.float64)
    return clean, clean + np.random.default_rng(0).normal(0, level, clean.shape)


def measure(shot: np.ndarray, image: np.ndarray, mask: np.ndarray | None = None):
    noise = estimate_noise(torch.from_numpy(shot)[None], 0.0)
    measured = None if mask is None else mask[None]
    return measure_residual((shot - image)[None], image[None], measured, noise)


def test_the_truth_leaves_a_residual_like_noise():
    clean, shot = make_noisy()
    residual = measure(shot, clean)
    assert residual.excess < MAX_RESIDUAL_CORRELATION and residual.edge_variance_ratio < 1.1
    assert 0.6 < residual.noise_ratio < 1.3


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_a_filter_that_takes_edges_along_leaves_structure(width):
    _, shot = make_noisy()
    residual = measure(shot, gaussian_filter(shot, width))
    assert (
        residual.edge_variance_ratio > 2 * MAX_EDGE_VARIANCE_RATIO
        or residual.excess > compute_correlation_limit(residual)
    )


def test_noise_that_grows_with_brightness_is_no_structure():
    clean = make_noisy()[0]
    shot = 3 * np.random.default_rng(1).poisson(clean / 3).astype(np.float64)
    flat = NoiseEstimate(
        gain=0.0, intercept=300.0, floor=1.0, along_y=(0.0,) * 5, along_x=(0.0,) * 5
    )  # as if it were equal everywhere
    assert measure_residual((shot - clean)[None], clean[None], None, flat).edge_variance_ratio < 1.1


def test_noise_that_is_hardly_known_where_it_is_dark_makes_no_residual_strong():
    light = np.full((SIDE, SIDE), 100.0)
    light[:, :24] = 3.0  # an eighth
    shot = light + np.random.default_rng(0).normal(0, 10, light.shape)
    noise = NoiseEstimate(gain=100 / 97, intercept=-300 / 97, floor=0.2)
    residual = measure_residual((shot - light)[None], light[None], None, noise)
    assert residual.noise_ratio == pytest.approx(1, abs=0.05)


def test_a_residual_that_is_too_strong_in_the_brightest_third_is_noticed():
    light = np.tile(np.linspace(50.0, 150.0, SIDE), (SIDE, 1))
    noise = np.random.default_rng(0).normal(0, 10, light.shape)
    shot = light + np.where(light > 119, 3, 1) * noise
    estimate = NoiseEstimate(gain=0.0, intercept=100.0, floor=1.0)
    residual = measure_residual((shot - light)[None], light[None], None, estimate)
    assert residual.noise_ratio > 1.4


def test_a_residual_stronger_than_the_noise_everywhere_has_its_own_ratio():
    light = np.tile(np.linspace(50.0, 150.0, SIDE), (SIDE, 1))
    shot = light + np.random.default_rng(0).normal(0, 20, light.shape)
    noise = NoiseEstimate(gain=0.0, intercept=100.0, floor=1.0)
    residual = measure_residual((shot - light)[None], light[None], None, noise)
    assert residual.noise_ratio == pytest.approx(2, abs=0.1)


def test_single_photons_beside_a_bright_square_are_no_structure():
    light = np.full((SIDE, SIDE), 0.004)
    light[20:60, 20:60] = 0.5
    counts = np.random.default_rng(0).poisson(light).astype(np.float64)
    noise = estimate_noise(torch.from_numpy(counts)[None], 0.0)
    assert noise.counts_photons
    residual = measure_residual((counts - light)[None], light[None], None, noise)
    assert residual.noise_ratio == pytest.approx(1, abs=0.1)
    assert residual.edge_variance_ratio < MAX_EDGE_VARIANCE_RATIO


def test_correlated_noise_is_no_structure_where_it_was_measured():
    clean = np.zeros((SIDE, SIDE))
    noise = gaussian_filter(np.random.default_rng(2).normal(size=clean.shape), 0.8)
    noise *= 10 / noise.std()
    along = tuple(float(np.exp(-(lag**2) / (4 * 0.8**2))) for lag in range(1, 6))
    for expected, passes in ((along, True), ((0.0,) * 5, False)):
        estimate = NoiseEstimate(
            gain=0.0, intercept=100.0, floor=50.0, along_y=expected, along_x=expected
        )
        residual = measure_residual(noise[None], clean[None], None, estimate)
        assert (residual.excess < compute_correlation_limit(residual)) is passes


def test_unmeasured_pixels_have_no_effect_on_the_metrics():
    clean, shot = make_noisy()
    mask = np.random.default_rng(3).random(clean.shape) > 0.3
    spoilt = np.where(mask, shot, 1e4)
    noise = estimate_noise(torch.from_numpy(shot)[None], 0.0)
    estimate = measure_residual((spoilt - clean)[None], clean[None], mask[None], noise)
    assert (
        estimate.excess < MAX_RESIDUAL_CORRELATION
        and estimate.noise_ratio < 1.3
        and estimate.pixel_count == mask.sum()
    )


def test_depth_of_a_hole_decides_what_is_far():
    mask = np.ones((1, 1, 64, 64), bool)
    mask[0, 0, 20:50, 20:50] = False
    filled, far = measure_distant_holes(mask, 12)
    assert filled == pytest.approx(900 / 64**2)
    assert far == pytest.approx(6**2 / 900)  # 30 less 12 from each side
    scattered = np.random.default_rng(0).random((1, 1, 64, 64)) > 0.5
    assert measure_distant_holes(scattered, 12)[1] == 0
    assert measure_distant_holes(np.ones((1, 1, 8, 8), bool), 12) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("planes", "far"), [([4], 0), ([4, 5], 0), ([4, 5, 6], 1 / 3), ([10, 11], 1 / 2), ([0], 0)]
)
def test_a_plane_that_is_more_than_one_away_from_a_measured_one_is_far(planes, far):
    mask = np.ones((1, 1, 12, 16, 16), bool)
    mask[:, :, planes] = False
    assert measure_distant_holes(mask, 12)[1] == pytest.approx(far)
    mask[:, :, planes, 8, 8] = True  # a plane with a measured pixel is judged as any hole
    assert measure_distant_holes(mask, 12)[1] == 0


def test_a_hole_at_the_border_is_known_from_one_side_only():
    mask = np.ones((1, 1, 64, 64), bool)
    mask[..., :20] = False
    assert measure_distant_holes(mask, 12)[1] == pytest.approx(8 / 20)


def test_saturated_pixels_are_counted_in_any_type():
    scene = small_runs.make_truth(128) * 40
    shot = np.random.default_rng(0).poisson(scene).astype(np.float64)
    level = np.percentile(shot, 97)
    for kind in ("uint16", "float32", "float64"):
        clipped = np.minimum(shot, level).astype(kind)
        assert detect_clipped_pixels(clipped)[1].fraction == pytest.approx(0.03, abs=0.01)
        assert detect_clipped_pixels(clipped)[0].fraction == 0
    assert detect_clipped_pixels(shot.astype("uint16"))[1].fraction == 0


def test_the_largest_value_of_a_type_counts_without_a_plateau():
    pixels = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    pixels[:4] = 255
    assert detect_clipped_pixels(pixels)[1].fraction > 0.05


def test_a_few_photons_are_not_saturated_and_their_zeros_not_cut_off():
    counts = np.random.default_rng(0).poisson(3.0, (128, 128)).astype(np.uint16)
    least, largest = detect_clipped_pixels(counts)
    assert least.fraction == 0 and largest.fraction == 0


def test_a_dark_level_that_was_cut_off_is_found():
    shot = np.random.default_rng(0).normal(2, 5, (128, 128))
    assert detect_clipped_pixels(np.maximum(shot, 0).astype(np.float32))[
        0
    ].fraction == pytest.approx(0.34, abs=0.03)


def test_clipped_pixels_are_those_of_the_channel_with_most_and_name_it():
    shot = small_runs.make_noisy(96).astype(np.int64)
    dark = np.maximum(shot - np.int64(np.percentile(shot, 30)), 0)
    image = np.stack([shot, dark + 5000]).astype(np.uint16)  # its black is above the other's
    plan = small_runs.plan_for(image, "CYX", preset="instant", max_iterations=2)
    _, result = small_runs.run_to_end(plan, image)
    limit = result.report["verdict"]["figures"]["lower_clipping"]
    assert limit == {
        "fraction": pytest.approx((dark == 0).mean(), abs=1e-4),
        "value": 5000,
        "channel_number": 2,
    }
    (note,) = list_clipping_notes(ClippedPixels(**limit), NO_CLIPPED_PIXELS)
    assert str(note).startswith("Channel 2: ")


def test_a_brighter_channel_does_not_hide_one_that_is_saturated():
    shot = np.random.default_rng(0).normal(1000, 30, (1, 2, 64, 64)).astype(np.uint16)
    shot[:, 1] = np.minimum(shot[:, 1], 1020)
    shot[:, 0] += 500
    _, largest = detect_clipping(shot)
    assert (largest.channel_number, largest.value) == (2, 1020) and largest.fraction > 0.2
    assert detect_clipping(shot, are_colours=True)[1].channel_number is None
    assert detect_clipping(shot[:, 1:])[1].channel_number is None  # it is the only one


@pytest.mark.parametrize("stray_count", [0, 1, 4])
def test_a_few_stray_pixels_beyond_a_plateau_do_not_hide_it(stray_count: int) -> None:
    rng = np.random.default_rng(0)
    pixels = np.maximum(rng.normal(5, 3, (64, 64)).round(), 3).astype(np.uint8)
    pixels.flat[:stray_count] = 2
    least, largest = detect_clipped_pixels(pixels)
    assert least.value == 3 and least.fraction > 0.2
    assert largest.fraction == 0
    least, largest = detect_clipped_pixels(200 - pixels)
    assert largest.value == 197 and largest.fraction > 0.2 and least.fraction == 0


def test_shares_of_several_units_are_added_up():
    # a line through the origin: slope 0.5 from one unit, 1 from three times as many pixels
    shares = (10.0, 5.0, 2.0, 1.0, 1.0, 10.0, 10.0)
    more = (30.0, 30.0, 6.0, 3.0, 3.0, 30.0, 30.0)
    both = combine_validation_evidence([shares + shares, (), more + more])
    assert both is not None and both[0].regression_slope == pytest.approx(35 / 40)
    assert both[0].detail_std == pytest.approx(1.0)
    assert combine_validation_evidence([(), ()]) is None
    assert isinstance(both[1], ConfirmedDetail)


def test_of_many_planes_some_stand_for_all_and_of_few_none_is_left_out():
    dark = np.float32(0)
    assert select_assessed_items(
        np.broadcast_to(dark, (MAX_ASSESSED_PIXELS // 2**20, 1, 1024, 1024))
    ) == slice(None)
    assert select_assessed_items(np.broadcast_to(dark, (100, 1, 1024, 1024))).tolist() == [
        0,
        33,
        66,
        99,
    ]
    assert select_assessed_items(np.broadcast_to(dark, (2, 1, 4096, 4096))).tolist() == [0]


def test_dark_pixels_of_a_detector_whose_noise_vanishes_there_are_not_clipped():
    rng = np.random.default_rng(0)
    light = np.where(rng.random((64, 64)) < 0.5, 0.02, 3.0)
    shot = np.rint(3 + 3.5 * rng.poisson(light)).astype(np.uint8)
    photons = NoiseEstimate(gain=3.5, intercept=-10.0, floor=0.2)  # silent at 3
    camera = NoiseEstimate(gain=3.5, intercept=15.0, floor=0.2)  # a read noise of 5 at 3
    assert detect_clipped_pixels(shot)[0].fraction > 0.4
    assert detect_clipped_pixels(shot, [camera])[0].fraction > 0.4
    assert detect_clipped_pixels(shot, [photons])[0].fraction == 0
    assert detect_clipped_pixels(shot, [photons, camera])[0].fraction > 0.4
