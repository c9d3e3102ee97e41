"""Areas whose brightness differs from the input are detected."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.artefact_detection import compute_biased_limit, measure_biased_areas
from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics, measure_result
from napari_dip.pipeline.assess.quality_checks import assess_quality
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from small_runs import make_noisy, plan_for

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
