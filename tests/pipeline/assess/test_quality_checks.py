"""The verdict explains the metrics in sentences, and warns where limits are exceeded."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from napari_dip.pipeline.assess.artefact_detection import ClippedPixels, SmoothFill
from napari_dip.pipeline.assess.card import Verdict, make_card
from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics
from napari_dip.pipeline.assess.quality_checks import assess_quality, compute_correlation_limit
from napari_dip.pipeline.assess.validation_evidence import ConfirmedChannel, ConfirmedDetail

#: An easy image: white residual of the noise's own strength, detail that the measurement confirms.
GOOD = ResultMetrics(
    residual=ResidualMetrics(excess=0.01, noise_ratio=0.97, pixel_count=256 * 256),
    bias=1e-7,
    mean_correction=0.003,
    detail=ConfirmedDetail(
        regression_slope=0.97, slope_error=0.05, detail_std=0.05, signal_to_noise=1.0
    ),
    contrast=ConfirmedDetail(
        regression_slope=1.0, slope_error=0.01, detail_std=0.25, signal_to_noise=1.0
    ),
)


def list_warnings(**changes):
    return " ".join(assess_quality(replace(GOOD, **changes))["warnings"])


def list_sentences(**changes):
    return " ".join(assess_quality(replace(GOOD, **changes))["sentences"])


def test_an_easy_image_gets_no_warning():
    verdict = assess_quality(GOOD)
    assert verdict["warnings"] == []
    assert "The residual looks like noise." in verdict["sentences"]
    assert "Mean intensity was kept within 0.5%." in verdict["sentences"]
    assert any(
        "confirms about 97% of the fine detail" in sentence for sentence in verdict["sentences"]
    )


def test_a_residual_whose_neighbours_are_alike_holds_structure():
    assert "still holds structure" in list_warnings(
        residual=ResidualMetrics(excess=0.3, noise_ratio=1.0, pixel_count=256 * 256)
    )
    assert "looks like noise" not in list_sentences(
        residual=ResidualMetrics(excess=0.3, noise_ratio=1.0, pixel_count=256 * 256)
    )


def test_a_residual_that_is_stronger_along_edges_holds_structure():
    message = list_warnings(
        residual=ResidualMetrics(
            excess=0.0, noise_ratio=1.0, pixel_count=256 * 256, edge_variance_ratio=1.8
        )
    )
    assert "along the edges" in message and "1.8 times" in message


@pytest.mark.parametrize(("excess", "ratio"), [(0.0, 1.8), (0.5, 1.0)])
def test_behind_a_psf_structure_in_the_residual_is_not_called_lost(excess, ratio):
    residual = ResidualMetrics(
        excess=excess, noise_ratio=1.0, pixel_count=256 * 256, edge_variance_ratio=ratio
    )
    assert "are missing from the result" in list_warnings(residual=residual)
    message = list_warnings(residual=residual, agreement=0.99)
    assert "missing" not in message and "PSF may be wrong" in message
    upscaled = list_warnings(residual=residual, agreement=0.99, is_upscaled=True)
    assert "PSF or the factor may be wrong" in upscaled


def test_edges_in_a_residual_of_half_a_grey_level_are_no_warning():
    residual = ResidualMetrics(
        excess=0.0,
        noise_ratio=1.0,
        pixel_count=256 * 256,
        edge_variance_ratio=1.8,
        relative_rms=0.0015,
    )
    assert not list_warnings(residual=residual)
    assert "along the edges" in list_warnings(residual=replace(residual, relative_rms=0.003))


def test_where_the_noise_is_unreliable_only_edges_are_checked():
    unsure = ResidualMetrics(
        excess=0.5, noise_ratio=2.0, pixel_count=256 * 256, is_noise_reliable=False
    )
    assert not list_warnings(residual=unsure)
    assert "could not be measured reliably" in list_sentences(residual=unsure)
    assert "along the edges" in list_warnings(residual=replace(unsure, edge_variance_ratio=2.0))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, "If you know gain and read noise"),
        ({"agreement": 0.9}, "Check the PSF first"),
        ({"agreement": 0.9, "is_upscaled": True}, "Check factor, downsampling and PSF first"),
    ],
)
def test_a_wrong_brightness_names_its_likely_cause(changes, cause):
    residual = replace(GOOD.residual, biased_fraction=0.5, darker_fraction=0.5, area_count=64)
    assert cause in list_warnings(residual=residual, **changes)


@pytest.mark.parametrize(
    ("excess", "rms", "is_fault"), [(0.46, 0.075, True), (0.46, 0.009, False), (0.02, 0.075, False)]
)
def test_a_strong_residual_with_structure_needs_no_noise_to_be_a_fault(excess, rms, is_fault):
    residual = ResidualMetrics(
        excess=excess,
        noise_ratio=2.26,
        pixel_count=64 * 64,
        is_noise_reliable=False,
        relative_rms=rms,
    )
    codes = {
        note["code"]
        for note in assess_quality(
            replace(GOOD, residual=residual, agreement=0.97, is_upscaled=True)
        )["codes"]
    }
    assert ("residual-unexplained" in codes) == is_fault
    assert ("measurement-explained" in codes) == (not is_fault)


def test_the_figures_of_a_warning_differ_as_they_are_read():
    just = ResidualMetrics(
        excess=compute_correlation_limit(GOOD.residual) + 3e-4,
        noise_ratio=1.0,
        pixel_count=GOOD.residual.pixel_count,
    )
    bias, most = re.search(
        r"by ([\d.]+); up to ([\d.]+) is normal", list_warnings(residual=just)
    ).groups()
    assert float(bias) > float(most)


def test_small_images_are_granted_more_chance():
    few, many = (
        ResidualMetrics(excess=0.12, noise_ratio=1.0, pixel_count=32 * 32),
        ResidualMetrics(excess=0.12, noise_ratio=1.0, pixel_count=512 * 512),
    )
    assert compute_correlation_limit(few) > 0.12 > compute_correlation_limit(many)
    assert not list_warnings(residual=few) and list_warnings(residual=many)


@pytest.mark.parametrize(
    ("strength", "message"), [(1.6, "1.6 times as strong"), (0.2, "20% of the strength")]
)
def test_a_residual_too_strong_or_too_weak_is_reported(strength, message):
    assert message in list_warnings(
        residual=ResidualMetrics(excess=0.0, noise_ratio=strength, pixel_count=256 * 256)
    )


@pytest.mark.parametrize(("bias", "message"), [(0.012, "1.2% brighter"), (-0.03, "3.0% darker")])
def test_a_bias_beyond_half_a_percent_is_reported(bias, message):
    assert message in list_warnings(bias=bias)
    assert not list_warnings(bias=bias / 10)


def test_detail_that_validation_pixels_contradict_may_be_invented():
    assert "Fine detail of the result may be invented" in list_warnings(
        detail=ConfirmedDetail(
            regression_slope=0.2, slope_error=0.05, detail_std=0.1, signal_to_noise=1.0
        )
    )
    assert "confirms about 20%" in list_warnings(
        detail=ConfirmedDetail(
            regression_slope=0.2, slope_error=0.05, detail_std=0.1, signal_to_noise=1.0
        )
    )


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (0.7, 0.12, "confirms about 70% of it, but it may be as little as 46%."),
        (0.2, 0.12, "confirms about 20% of it, but it may be none."),
        (0.0, 0.1, "confirms none of it."),
        (1.4, 0.24, ""),
    ],
)
def test_a_warning_names_the_share_that_is_sure_which_it_rests_on(share, error, message):
    detail = ConfirmedDetail(
        regression_slope=share, slope_error=error, detail_std=0.1, signal_to_noise=1.0
    )
    verdict = list_warnings(detail=detail)
    assert verdict.endswith(message) if message else not verdict


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_an_image_too_small_for_its_detail_gets_no_warning_whatever_chance_says(share):
    detail = ConfirmedDetail(
        regression_slope=share, slope_error=0.2, detail_std=0.1, signal_to_noise=1.0
    )
    assert not list_warnings(detail=detail)
    assert "too small or too noisy to tell whether its fine detail is real" in list_sentences(
        detail=detail
    )


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.1, "may be invented"), (0.6, "not be confirmed")]
)
def test_contrast_that_may_be_confirmed_by_half_is_not_called_invented(slope, verdict):
    contrast = ConfirmedDetail(
        regression_slope=slope, slope_error=0.11, detail_std=1.0, signal_to_noise=0.5
    )
    assert verdict in list_warnings(contrast=contrast)


def test_an_image_of_noise_may_be_invented_whatever_chance_says_of_it():
    # measured on pure noise, 96 x 96, sd 10, presets fast: slopes are wild where nothing is shown
    for share, error in ((17.4, 11.4), (-100.8, 73.7), (0.35, 0.6)):
        message = list_warnings(
            contrast=ConfirmedDetail(
                regression_slope=share, slope_error=error, detail_std=8e-4, signal_to_noise=0.03
            ),
            detail=ConfirmedDetail(
                regression_slope=33.2, slope_error=14, detail_std=7e-4, signal_to_noise=1.0
            ),
        )
        assert "The contrast of the result could not be confirmed" in message


@pytest.mark.parametrize(("share", "error"), [(0.75, 0.137), (2.26, 0.945), (0.4, 0.3)])
def test_an_image_too_small_for_its_contrast_is_not_doubted_but_said_to_be_so(share, error):
    # single shots of FMD fields of 64 x 64 pixels
    contrast = ConfirmedDetail(
        regression_slope=share, slope_error=error, detail_std=0.1, signal_to_noise=0.3
    )
    assert not list_warnings(contrast=contrast)
    assert "too small or too noisy to tell how much of its contrast" in list_sentences(
        contrast=contrast
    )


#: Contrast of noise alone, of a field that is too small to tell, and of texture of the network's.
NOTHING, UNTOLD, INVENTED = (
    ConfirmedDetail(
        regression_slope=slope, slope_error=error, detail_std=std, signal_to_noise=ratio
    )
    for slope, error, std, ratio in (
        (0.35, 0.6, 8e-4, 0.03),
        (0.75, 0.137, 0.1, 0.3),
        (0.1, 0.02, 0.1, 1.0),
    )
)


@pytest.mark.parametrize(
    ("contrasts", "number", "code"),
    [
        ([GOOD.contrast, NOTHING], 2, "contrast-doubtful"),
        ([UNTOLD, GOOD.contrast, INVENTED], 3, "contrast-doubtful"),
        ([INVENTED, NOTHING, UNTOLD], 1, "contrast-doubtful"),
        ([GOOD.contrast, UNTOLD], 2, "contrast-small"),
        ([GOOD.contrast, replace(GOOD.contrast, regression_slope=0.9)], 2, "detail-confirmed"),
    ],
)
def test_a_bright_channel_does_not_hide_one_that_is_not_confirmed(contrasts, number, code):
    channels = tuple(
        ConfirmedChannel(channel_number=index, detail=GOOD.detail, contrast=contrast)
        for index, contrast in enumerate(contrasts, 1)
    )
    report = {"verdict": assess_quality(replace(GOOD, channels=channels))}
    (note,) = (note for note in report["verdict"]["codes"] if "channel_number" in note["facts"])
    assert (note["code"], note["facts"]["channel_number"]) == (code, number)
    figures = report["verdict"]["figures"]
    assert figures["contrast"] == figures["channels"][number - 1]["contrast"]
    card = make_card(report)
    assert (f"channel {number}" in card.headline) == (code != "detail-confirmed")


def test_contrast_that_even_a_small_image_contradicts_is_not_confirmed():
    contrast = ConfirmedDetail(
        regression_slope=0.3, slope_error=0.2, detail_std=0.1, signal_to_noise=0.3
    )
    assert "The contrast of the result could not be confirmed" in list_warnings(contrast=contrast)


def test_detail_too_faint_to_be_seen_is_not_doubted():
    assert not list_warnings(
        detail=ConfirmedDetail(
            regression_slope=0.1, slope_error=0.3, detail_std=0.01, signal_to_noise=1.0
        )
    )
    assert "contrast of the result" in list_sentences(
        detail=ConfirmedDetail(
            regression_slope=0.1, slope_error=0.3, detail_std=0.01, signal_to_noise=1.0
        )
    )


def test_without_validation_pixels_a_note_says_that_detail_was_not_checked():
    assert "was not tested" in list_sentences(detail=None, contrast=None)
    assert "another 'Seed'" in list_sentences(detail=None, contrast=None)
    assert "not checked" not in list_warnings(detail=None, contrast=None)  # the headline says it


@pytest.mark.parametrize("kind", ["detail", "contrast"])
def test_what_was_doubtful_before_a_refit_is_not_checked(kind: str) -> None:
    half = ConfirmedDetail(
        regression_slope=0.3, slope_error=0.05, detail_std=0.1, signal_to_noise=1.0
    )
    doubt = {kind: half}
    assert "may be invented" in list_warnings(**doubt)
    assert "may be invented" not in list_sentences(**doubt, is_refitted=True)
    assert "was not tested" in list_sentences(**doubt, is_refitted=True)


def test_what_was_confirmed_before_a_refit_stays_confirmed() -> None:
    assert "confirms about 97% of the fine detail" in list_sentences(is_refitted=True)


def test_large_holes_warn_and_small_ones_are_called_a_guess():
    large = {"residual": None, "filled_fraction": 0.17, "distant_fraction": 0.16}
    assert "16% of the filled pixels lie far" in list_warnings(**large)
    assert "are a guess" in list_sentences(
        residual=None, filled_fraction=0.3
    ) and not list_warnings(residual=None, filled_fraction=0.3)
    assert "confirms" not in list_sentences(**large)  # validation pixels know nothing of holes


def test_holes_without_the_detail_around_them_are_no_fine_result():
    smooth = {
        "residual": None,
        "filled_fraction": 0.08,
        "smooth_fill": SmoothFill(width=4, detail_ratio=0.22, widest=10),
    }
    assert "Where a hole is wider than 4 pixels" in list_warnings(**smooth)
    assert "only 22% of the detail around the holes" in list_warnings(**smooth)
    checks = assess_quality(replace(GOOD, **smooth))
    card = make_card({"verdict": checks, "note_codes": []})
    assert card.verdict is Verdict.LOOK_CLOSER and "without their detail" in card.headline
    everywhere = smooth | {"smooth_fill": SmoothFill(width=0, detail_ratio=0.4, widest=44)}
    assert "What fills the holes is a guess" in list_warnings(**everywhere)


def test_a_few_wide_holes_among_many_filled_pixels_warn():
    assert "lie far" in list_warnings(residual=None, filled_fraction=0.14, distant_fraction=0.03)


@pytest.mark.parametrize(("strength", "least"), [(0.44, "56%"), (0.02, "98%")])
def test_noise_that_stays_in_an_enlarged_image_is_no_fine_result(strength, least):
    residual = ResidualMetrics(
        excess=0.5, noise_ratio=strength, pixel_count=96 * 96, relative_rms=0.03 * strength
    )
    checks = assess_quality(replace(GOOD, residual=residual, is_upscaled=True, agreement=0.98))
    assert next(code["code"] for code in checks["codes"]) == "noise-left"
    assert f"at least {least} of its strength" in checks["warnings"][0]
    assert not any("structure" in warning for warning in checks["warnings"])
    card = make_card({"verdict": checks, "note_codes": []})
    assert card.verdict is Verdict.LOOK_CLOSER and "noise is left" in card.headline


@pytest.mark.parametrize(
    ("excess", "ratio", "rms", "is_reliable", "code"),
    [
        (0.07, 0.35, 0.042, True, "noise-left"),  # a photograph with 30 photons, twice as fine
        (0.25, 0.2, 0.011, True, "noise-left"),  # normal noise of 6 %, three times
        (0.17, 0.32, 0.033, False, "residual-weak"),  # the same of coins, four times
        (0.59, 0.11, 0.0025, True, "residual-unexplained"),  # texture without noise
        (0.07, 0.9, 0.042, True, "residual-unexplained"),
    ],
)
def test_noise_among_the_edges_of_an_enlarged_image_does_not_blame_its_factor(
    excess, ratio, rms, is_reliable, code
):
    residual = ResidualMetrics(
        excess=excess,
        noise_ratio=ratio,
        pixel_count=90 * 90,
        edge_variance_ratio=2.2,
        is_noise_reliable=is_reliable,
        relative_rms=rms,
    )
    checks = assess_quality(replace(GOOD, residual=residual, is_upscaled=True, agreement=0.98))
    assert next(note["code"] for note in checks["codes"]) == code
    is_left = code != "residual-unexplained"
    assert ("enlarge the result" in checks["warnings"][0]) == is_left
    assert ("factor" in checks["warnings"][0]) != is_left


@pytest.mark.parametrize(("rms", "is_explained"), [(0.0005, True), (0.01, False)])
def test_what_explains_an_image_to_half_a_grey_level_explains_it(rms, is_explained):
    residual = ResidualMetrics(
        excess=0.6, noise_ratio=0.1, pixel_count=96 * 96, edge_variance_ratio=3.2, relative_rms=rms
    )
    checks = assess_quality(replace(GOOD, residual=residual, agreement=1.0))
    card = make_card({"verdict": checks, "note_codes": []})
    assert ("does not explain" not in card.headline) == is_explained
    assert (card.verdict is Verdict.FINE) == is_explained


@pytest.mark.parametrize(
    "changes", [{"noise_ratio": 0.95}, {"is_noise_reliable": False}, {"relative_rms": 0.001}]
)
def test_an_enlarged_image_without_visible_noise_gets_no_warning(changes):
    residual = ResidualMetrics(excess=0.0, noise_ratio=0.3, pixel_count=96 * 96, relative_rms=0.01)
    upscaled = replace(GOOD, is_upscaled=True, agreement=0.98)
    assert assess_quality(replace(upscaled, residual=residual))["warnings"]
    harmless = replace(upscaled, residual=replace(residual, **changes))
    assert not assess_quality(harmless)["warnings"]


@pytest.mark.parametrize(("change", "is_doubtful"), [(-0.27, True), (0.12, True), (-0.08, False)])
def test_a_large_clipping_correction_is_no_fine_result_and_tells_its_figure(change, is_doubtful):
    darkest = ClippedPixels(fraction=0.39, value=0.0)
    metrics = replace(
        GOOD, clipping_correction=change, corrected_limits=(0.0,), lower_clipping=darkest
    )
    checks = assess_quality(metrics)
    card = make_card({"verdict": checks, "note_codes": []})
    assert (card.verdict is Verdict.LOOK_CLOSER) == is_doubtful
    assert (f"{abs(change):.0%} {'brighter' if change > 0 else 'darker'}" in card.headline) == (
        is_doubtful
    )
    codes = {note.code for note in (*card.warnings, *card.details)}
    assert "mean-kept" in codes and "pixels-darkest" not in codes
    assert ("rests on the measured noise" in " ".join(map(str, card.warnings))) == is_doubtful


def test_the_inside_of_saturated_areas_is_unknown_though_cut_off_noise_was_corrected():
    limits = {"upper_clipping": ClippedPixels(fraction=0.4, value=255.0)}
    corrected = {**limits, "corrected_limits": (255.0,)}
    assert "11% of the pixels lie inside saturated areas" in list_warnings(
        **corrected, saturated_fraction=0.11
    )
    assert "inside" not in list_warnings(**corrected, saturated_fraction=0.002)
    assert "inside" not in list_warnings(**limits, saturated_fraction=0.11)  # they are counted


def test_cut_off_values_warn():
    assert "2% of the pixels are saturated, at 255" in list_warnings(
        upper_clipping=ClippedPixels(fraction=0.02, value=255.0)
    )
    assert "0.05% of the pixels of the input are at its darkest grey value, 0" in list_warnings(
        lower_clipping=ClippedPixels(fraction=0.0005, value=0.0)
    )


def test_a_finer_result_says_that_nothing_confirms_its_finest_detail():
    assert "finer than the measured pixels" in list_sentences(is_upscaled=True)


def test_warnings_come_first_and_all_of_it_is_plain_json():
    verdict = assess_quality(
        replace(GOOD, bias=0.1, upper_clipping=ClippedPixels(fraction=0.1, value=4095.0))
    )
    assert verdict["sentences"][: len(verdict["warnings"])] == verdict["warnings"]
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict
    assert verdict["figures"]["bias"] == 0.1
    assert verdict["bounds"]["bias"] == 0.005


@pytest.mark.long
def test_a_curved_background_does_not_make_a_good_residual_look_correlated():
    y, x = np.mgrid[:64, :64]
    curved = 200 + 2.0 * x + 60 * np.cos(y / 25)
    for row, column in ((12, 9), (12, 30), (33, 55), (52, 30)):
        curved += 90 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 6)
    noisy = (curved + np.random.default_rng(0).normal(0, 5, curved.shape)).astype(np.float32)
    result = dip.denoise(noisy, preset="fast", max_iterations=60)
    assert result.report["verdict"]["figures"]["residual"]["excess"] < 0.15


@pytest.mark.parametrize("is_reliable", [True, False])
def test_an_image_that_was_hardly_changed_is_said_to_be_the_input(is_reliable):
    residual = ResidualMetrics(
        excess=0.0,
        noise_ratio=0.2,
        pixel_count=256 * 256,
        relative_rms=0.001,
        is_noise_reliable=is_reliable,
    )
    message = list_sentences(residual=residual)
    assert "the result differs from the input by only 0.10% of its range" in message
    assert ("gain and read noise" in message) is not is_reliable
    assert "The residual" not in message and not list_warnings(residual=residual)


def test_an_image_whose_noise_was_left_is_not_said_to_be_without():
    residual = ResidualMetrics(
        excess=0.0, noise_ratio=0.1, pixel_count=256 * 256, relative_rms=0.005
    )
    assert "10% of the strength" in list_warnings(residual=residual)
    assert "Hardly any noise" not in list_sentences(residual=residual)


def test_weak_noise_that_was_removed_is_still_said_to_look_like_noise():
    weak = ResidualMetrics(excess=0.0, noise_ratio=0.9, pixel_count=256 * 256, relative_rms=0.003)
    assert "The residual looks like noise" in list_sentences(residual=weak)
    assert "along the edges" in list_warnings(residual=replace(weak, edge_variance_ratio=2.0))


def test_light_that_crosses_the_frame_is_said_and_raises_no_alarm():
    rng, sigma = np.random.default_rng(2), 3.0
    scene = np.full((96, 96), 20.0)
    scene[20:76, 20:28] = 220.0  # just outside of the crop: the blur brings its light in
    blurred = gaussian_filter(scene, sigma)
    crop = slice(28, 68), slice(28, 68)
    noisy = (blurred[crop] + rng.normal(0, 1, (40, 40))).astype(np.float32)
    noisy[16:24, 16:24] += 100
    settings = {"gaussian_sigma": sigma, "preset": "fast", "max_iterations": 10}
    verdict = dip.deblur(noisy, **settings).report["verdict"]
    codes = {code["code"] for code in verdict["codes"]}
    assert "border-crossed" in codes and "mean-off" not in codes
    assert verdict["figures"]["border_change"] < -0.02  # that light belongs outside
    assert 0.8 < verdict["figures"]["agreement"] <= 1
