"""Areas whose brightness differs from the input are detected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dip.engine.noise.estimate import NoiseEstimate, estimate_noise
from napari_dip.errors.notes import StopReason, make_note, make_stop
from napari_dip.pipeline.assess.artefact_detection import compute_biased_limit, measure_biased_areas
from napari_dip.pipeline.assess.merge import ResultMerger, UnitResult
from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics, measure_result
from napari_dip.pipeline.assess.quality_checks import assess_quality
from napari_dip.pipeline.assess.report import sum_planes
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.plan.types import UnitOutcome
from napari_dip.tasks import TASKS
from small_runs import make_noisy, make_truth, plan_for

SIDE = 128


def make_noise(seed: int, blur: float = 0.0, shape=(SIDE, SIDE)) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=shape)
    drawn = gaussian_filter(drawn, blur) if blur else drawn
    return drawn / drawn.std()


def measure(residual: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, int]:
    biased, _, count = measure_biased_areas(residual, np.zeros_like(residual), mask)
    return biased, count


@pytest.mark.parametrize("blur", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 500.0])
def test_noise_alone_is_not_far_from_zero_anywhere(blur, strength):
    shares = [measure(strength * make_noise(seed, blur))[0] for seed in range(10)]
    assert max(shares) <= compute_biased_limit((SIDE // 16) ** 2)


@pytest.mark.parametrize("blur", [0.0, 1.2])
def test_a_quarter_that_is_brighter_by_as_much_as_the_noise_is_far(blur):
    residual = make_noise(0, blur)
    residual[: SIDE // 2, : SIDE // 2] += 1
    far, parts = measure(residual - residual.mean())
    assert parts == 64
    assert far > compute_biased_limit(parts)


@pytest.mark.parametrize(("sign", "darker"), [(1, 0.25), (-1, 0.0)])
def test_an_area_where_the_residual_has_light_left_is_darker_in_the_result(sign, darker):
    residual = 0.1 * make_noise(0)
    residual[: SIDE // 2, : SIDE // 2] += sign
    biased, share, _ = measure_biased_areas(residual, np.zeros_like(residual), None)
    assert (biased, share) == (0.25, darker)


@pytest.mark.parametrize(("bias", "share"), [(3.0, 0.0), (30.0, 0.25)])
def test_a_bias_below_a_hundredth_of_the_range_cannot_be_seen(bias, share):
    image = np.broadcast_to(np.linspace(0, 1000, SIDE), (SIDE, SIDE))
    residual = make_noise(0)
    residual[: SIDE // 2, : SIDE // 2] += bias
    assert measure_biased_areas(residual, image, None)[0] == share


def test_parts_with_a_hole_do_not_count():
    residual, mask = make_noise(0), np.ones((SIDE, SIDE), bool)
    mask[5, :64] = False
    residual[5, :64] = 1e6
    far, parts = measure(residual, mask)
    assert parts == 60
    assert far <= compute_biased_limit(parts)


def test_areas_without_a_photon_are_not_far_from_a_dim_result():
    light = np.full((SIDE, SIDE), 0.01)
    counts = np.random.default_rng(0).poisson(light).astype(float)
    far, _, parts = measure_biased_areas(counts - light, light, None)
    assert far <= compute_biased_limit(parts)
    too_bright = light + 0.03
    assert measure_biased_areas(counts - too_bright, too_bright, None)[0] > 0.5


def test_small_images_are_not_checked():
    assert measure(make_noise(0, shape=(12, 12))) == (0.0, 0)
    assert compute_biased_limit(9) == 1.0


def test_a_result_far_from_its_input_is_said_first_and_not_to_be_used():
    metrics = ResultMetrics(
        residual=ResidualMetrics(
            excess=0.0,
            noise_ratio=1.0,
            pixel_count=SIDE**2,
            biased_fraction=0.3,
            darker_fraction=0.2,
            area_count=64,
        ),
        bias=0.0,
    )
    notes = assess_quality(metrics, [make_note("text", text="The fit of frame 2 was ended early.")])
    assert notes["sentences"][0].startswith(
        "In 30% of the parts of 16 × 16 pixels the brightness is not that of the input: 20% are "
        "too dark, 10% too bright."
    )
    good = ResultMetrics(
        residual=ResidualMetrics(
            excess=0.0, noise_ratio=1.0, pixel_count=SIDE**2, biased_fraction=0.03, area_count=64
        ),
        bias=0.0,
    )
    assert not any("Do not use" in sentence for sentence in assess_quality(good)["sentences"])


@pytest.mark.parametrize(("change", "is_fault"), [(0.0007, False), (0.02, True)])
def test_a_difference_below_half_a_grey_level_of_8_bits_is_no_fault(change, is_fault):
    residual = ResidualMetrics(
        excess=0.0,
        noise_ratio=1.0,
        pixel_count=SIDE**2,
        biased_fraction=0.3,
        area_count=64,
        relative_rms=change,
    )
    codes = [
        note["code"] for note in assess_quality(ResultMetrics(residual=residual, bias=0.0))["codes"]
    ]
    assert ("brightness-off" in codes) is is_fault


@pytest.mark.parametrize(
    ("preset", "settings", "advice"),
    [
        ("fast", {}, "If you know gain and read noise, enter them in 'Noise'"),
        ("fast", {"gain": 1.0, "read_noise": 1.0}, "Check the gain and read noise that you"),
        ("instant", {}, "Run it again with a longer preset."),
    ],
)
def test_the_advice_is_not_what_the_user_has_done_already(preset, settings, advice):
    noisy = make_noisy(SIDE)
    plan = plan_for(noisy, preset=preset, **settings)
    calibrated_image = calibrate_image(plan, {"image": noisy})
    residual = np.zeros((1, 1, SIDE, SIDE))
    residual[..., : SIDE // 2] = 20  # the left half is too dark
    stack = calibrated_image.stack.astype(np.float64)
    metrics = measure_result(calibrated_image, residual, stack - residual, stack - residual, [])
    sentences = " ".join(assess_quality(metrics)["sentences"])
    assert "brightness is not that of the input" in sentences
    assert advice in sentences


@pytest.mark.parametrize(("agreement", "is_kept"), [(None, True), (1.0, False)])
def test_a_deblurred_result_that_explains_its_image_is_not_called_that_image(agreement, is_kept):
    residual = ResidualMetrics(
        excess=0.0, noise_ratio=0.1, pixel_count=1, relative_rms=0.0007, is_noise_reliable=False
    )
    metrics = ResultMetrics(residual=residual, bias=0.0, agreement=agreement)
    codes = [note["code"] for note in assess_quality(metrics)["codes"]]
    assert ("input-kept" in codes) is is_kept


DEPTH, PLANE_SIDE = 6, 64
WHITE = [NoiseEstimate(gain=0.0, intercept=1.0, floor=1e-4)]


def merge_planes(biases):
    """Merge the truth with a bias in each plane as the result of a fit to six noisy planes."""
    truth = np.stack([make_truth(PLANE_SIDE) + 100] * DEPTH)
    stack = np.stack([make_noisy(PLANE_SIDE, seed) for seed in range(DEPTH)])
    image = calibrate_image(plan_for(stack, "ZYX", stacks="volume"), {"image": stack})
    merger = ResultMerger(image)
    estimate = (truth + np.reshape(biases, (-1, 1, 1)))[None].astype(np.float32)
    outcome = UnitOutcome(
        unit_id="p0c0r0",
        stop=make_stop(StopReason.USER),
        is_ended_by_user=False,
        best_iteration=1,
        iterations=1,
        history=(),
        notes=(),
    )
    estimates = estimate, np.ones_like(estimate), estimate
    merger.add(image.run_plan.units[0], UnitResult(outcomes=(outcome,), estimates=estimates))
    return truth, stack, merger.make_restoration(1.0, is_timed_out=False)


def test_each_plane_of_a_volume_keeps_its_mean_as_far_as_noise_tells():
    biases = np.array([9.0, -6.0, 0.0, 0.0, -3.0, 0.0])
    truth, stack, restored = merge_planes(biases)
    assert np.abs(restored.image.mean((1, 2)) - stack.mean((1, 2))).max() < 0.5
    assert np.abs(restored.residual.mean((1, 2))).max() < 0.5
    _, _, unbiased = merge_planes(0 * biases)
    errors = (np.mean((result.image - truth) ** 2) for result in (restored, unbiased))
    assert max(errors) < 0.2  # the variance of the noise is 200
    sentences = " ".join(restored.report["verdict"]["sentences"])
    assert "Mean intensity was kept within 0.5%, and in each plane within 0." in sentences


def test_pixels_without_a_measurement_do_not_move_the_mean_of_their_plane():
    residual = np.stack([make_noise(seed) for seed in range(4)])[None, None] + 1
    measured = np.ones(residual.shape, bool)
    measured[0, 0, 1, :60] = False
    measured[0, 0, 3] = False
    residual[~measured] = 1e3
    sums = sum_planes(residual, measured)
    common, differences = sums.compute_shifts(TASKS["denoise"].spec, WHITE)
    shifts = (common + differences)[0, 0]
    np.testing.assert_allclose(shifts[:3], 1, atol=0.05)
    assert sums.means[0, 0, 3] == 0


def test_a_plane_whose_mean_changes_beyond_its_error_is_named():
    stack = np.stack([make_noisy(PLANE_SIDE, seed) for seed in range(DEPTH)])
    image = calibrate_image(plan_for(stack, "ZYX", stacks="volume"), {"image": stack})
    result = np.stack([make_truth(PLANE_SIDE) + 100] * DEPTH)[None, None].astype(np.float32)
    result[0, 0, 3] -= 9
    result[0, 0, 4] += 8.9
    metrics = measure_result(image, image.stack - result, result, result, ())
    assert metrics.plane.name == "plane 4" and metrics.plane.change < -0.05
    (note,) = (note for note in assess_quality(metrics)["warnings"] if "darker" in note)
    assert note.startswith("In plane 4 the result is ")


@pytest.mark.parametrize("blur", [0.0, 1.2])
def test_means_of_noise_that_neighbours_share_are_less_certain(blur):
    noise = np.stack([make_noise(seed, blur) for seed in range(40)])
    sums = sum_planes(noise[None, None])
    errors = sums.compute_errors([estimate_noise(torch.from_numpy(noise[:4]), 0.0)])
    assert 0.6 < sums.means.std() / errors.mean() < 1.4


def test_a_single_impulse_does_not_shift_its_plane():
    noise = np.stack([make_noise(seed) for seed in range(8)])
    noise -= noise.mean((1, 2), keepdims=True)
    noise[2, 5, 5] += 60.0
    sums = sum_planes(noise[None, None])
    common, differences = sums.compute_shifts(TASKS["denoise"].spec, WHITE)
    assert np.abs(common + differences)[..., 2].max() < 0.2 * 60 / SIDE**2


def test_frames_of_fits_of_their_own_keep_their_means_exactly():
    sums = sum_planes(np.stack([make_noise(0), make_noise(1) + 1e-4])[:, None])
    common, differences = sums.compute_shifts(TASKS["denoise"].spec, WHITE)
    np.testing.assert_array_equal(common, sums.means)
    assert not differences.any()


@pytest.mark.parametrize("name", ["deblur", "super-resolve"])
def test_behind_an_operator_planes_have_no_mean_of_their_own(name):
    sums = sum_planes(np.ones((1, 1, 4, 32, 32)) * np.arange(4).reshape(4, 1, 1))
    common, differences = sums.compute_shifts(TASKS[name].spec, WHITE)
    assert common.item() == 1.5 and not differences.any()
