"""The card of a result says one thing, ranks what is wrong, and never contradicts itself."""

from __future__ import annotations

from itertools import combinations

import pytest

from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import (
    FIGURES,
    HEADLINES,
    NOTES,
    REASONS,
    VERDICT_REASONS,
    WARNINGS,
    render,
)
from napari_dip.pipeline.assess.card import MAX_CARD_WARNINGS, Verdict, format_traces, make_card

#: Facts that suit every template.
FACTS = {
    "rows": True,
    "deviation": 5.0,
    "factor": 3,
    "down": 2.0,
    "right": -1.0,
    "ratio": 1.6,
    "excess": "0.3",
    "most": "0.1",
    "share": 0.3,
    "side": 16,
    "darker_share": 0.2,
    "brighter_share": 0.1,
    "instant": False,
    "width": 4,
    "widest": 10,
    "entered": False,
    "period": 2.0,
    "brighter": True,
    "weak": False,
    "unsure": False,
    "bounded": False,
    "little": False,
    "least": "none",
    "value": 255.0,
    "fraction": 0.3,
    "guessed": True,
    "several": False,
    "count": 3,
    "part": "",
    "before_end": True,
    "noun": "Plane",
    "numbers": "2",
    "frame": None,
    "missing": 1,
    "fine": True,
    "values": "0",
    "slight": False,
    "correlation": 0.9,
    "error": 0.02,
    "delay": 0.4,
    "late": True,
    "quality": 50,
    "upscaled": False,
    "corrected": False,
    "plane": "",
    "planes": 0.0,
    "cause": "",
    "name": "cells.tif",
    "title": "Denoise",
}
#: What each note on a result claims: a topic and a state of it. Notes of one topic and different
#: states contradict each other.
CLAIMS = {
    "residual-unchecked": {"residual": "unchecked"},
    "residual-no-edges": {"edges lost": False},
    "residual-noise": {"structure lost": False, "edges lost": False, "strength": "right"},
    "residual-correlated": {"structure lost": True},
    "residual-edges": {"structure lost": True, "edges lost": True},
    "residual-unexplained": {"structure lost": True, "edges lost": True, "explained": False},
    "residual-strong": {"strength": "strong"},
    "residual-weak": {"strength": "weak"},
    "noise-left": {"strength": "weak"},
    "input-kept": {"result": "like the input"},
    "mean-kept": {"mean": "kept"},
    "mean-off": {"mean": "changed"},
    "border-crossed": {"mean": "changed"},
    "measurement-explained": {"explained": True},
    "brightness-off": {"mean": "changed", "result": "wrong"},
    "pattern-lost": {"structure lost": True},
    "detail-confirmed": {"detail": "confirmed"},
    "detail-small": {},
    "contrast-small": {"detail": "unchecked"},
    "detail-finer": {},
    "detail-unchecked": {"detail": "unchecked"},
    "network-only": {},
    "detail-doubtful": {"detail": "wrong"},
    "contrast-doubtful": {"detail": "wrong"},
    "holes-filled": {},
    "holes-far": {},
    "input-restored": {},
    "mask-mostly": {},
    "mask-saturated": {},
    "mark-fitted": {},
    "holes-smooth": {},
    "clipping-corrected": {"clipped": "accounted for"},
    "clipping-strong": {"clipped": "accounted for"},
    "saturated-areas": {"saturated inside": "unknown"},
    "pixels-saturated": {"clipped": "stays"},
    "pixels-darkest": {"clipped": "stays"},
    "fits-ended-early": {},
    "fit-ended-early": {},
    "restarts-missing": {},
    "parts-unrestored": {},
    "tiles-unrestored": {},
    "traces-scaled": {"traces": "changed"},
    "traces-late": {"traces": "changed"},
    "traces-kept": {"traces": "kept"},
    "traces-untold": {"traces": "unchecked"},
}
#: Notes that the checks never give for the same result: see the chains of `elif` in
#: `quality_checks`.
EXCLUSIVE = [
    {
        "residual-unchecked",
        "residual-correlated",
        "input-kept",
        "residual-edges",
        "residual-unexplained",
        "residual-no-edges",
        "residual-strong",
        "residual-noise",
        "residual-weak",
        "noise-left",
    },
    {"mean-off", "mean-kept", "border-crossed"},
    {"clipping-corrected", "clipping-strong"},
    {"holes-far", "holes-filled"},
    {"holes-smooth", "holes-filled"},
    {"traces-scaled", "traces-kept", "traces-untold"},
    {"traces-late", "traces-kept", "traces-untold"},
    {
        "contrast-doubtful",
        "contrast-small",
        "detail-doubtful",
        "detail-confirmed",
        "detail-unchecked",
    },
]


def make_report(*codes, **facts):
    notes = [make_note(code, **{**FACTS, **facts}).to_dict() for code in codes]
    return {"verdict": {"codes": notes, "figures": {}}, "note_codes": []}


def test_a_result_that_passes_all_checks_is_fine_and_needs_one_line():
    card = make_card(make_report("residual-noise", "mean-kept", "detail-confirmed"))
    assert card.verdict is Verdict.FINE and card.headline == HEADLINES["fine"]
    assert card.list_lines() == [card.headline]
    assert len(card.details) == 3


def test_a_report_without_checks_is_not_called_faultless():
    assert make_card({}).headline == HEADLINES["unchecked"]


def test_the_headline_says_that_detail_could_not_be_checked():
    assert "fine detail" in make_card(make_report("detail-small", "mean-kept")).headline
    assert "too small" in make_card(make_report("contrast-small", "mean-kept")).headline
    assert make_card(make_report("residual-unchecked")).headline == HEADLINES["unchecked"]


def test_behind_a_psf_the_spread_of_a_fit_is_not_called_the_error_of_a_pixel():
    deviation = {"noise": 13.9, "result": 0.03}
    report = {**make_report("mean-kept"), "deviation": deviation}
    assert "13.9" in make_card(report).figure_line
    report["verdict"]["figures"]["agreement"] = 0.99
    assert "13.9" not in make_card(report).figure_line


def test_the_error_of_a_pixel_is_not_stated_of_a_result_that_failed():
    report = make_report("brightness-off") | {"deviation": {"noise": 60.0, "result": 7.1}}
    assert "60" not in make_card(report).figure_line


def test_an_error_that_did_not_fall_is_called_no_less():
    report = make_report("residual-weak") | {"deviation": {"noise": 2.0, "result": 2.15}}
    assert make_card(report).figure_line.endswith("result 2.15\u00a0grey values: no less")


@pytest.mark.parametrize(
    ("ended", "reason"), [("parts-unrestored", "parts of it"), ("fit-ended-early", "ended early")]
)
def test_that_a_run_was_ended_is_named_before_what_follows_from_it(ended, reason):
    card = make_card(make_report("brightness-off", ended))
    assert card.verdict is Verdict.DO_NOT_USE
    assert card.warnings[0].code == ended and reason in card.headline and reason in card.reason


def test_only_an_upscaled_result_is_advised_to_denoise_first():
    (denoised,) = make_card(make_report("residual-weak")).warnings
    (upscaled,) = make_card(make_report("noise-left")).warnings
    assert "longer preset" in str(denoised) and "Denoise the image first" in str(upscaled)


def test_an_enlarged_result_that_looks_noisy_is_not_advised_to_take_longer():
    (warning,) = make_card(make_report("residual-weak", upscaled=True)).warnings
    assert "longer" not in str(warning) and "denoise the image first" in str(warning)


def test_no_share_of_detail_is_stated_beside_contrast_that_nobody_can_tell():
    detail = {"regression_slope": 0.94, "slope_error": 0.01}
    for code, is_stated in (("contrast-small", False), ("detail-confirmed", True)):
        report = make_report(code)
        report["verdict"]["figures"]["detail"] = detail
        assert ("94" in make_card(report).figure_line) == is_stated


@pytest.mark.parametrize("code", ["psf-unchecked", "psf-estimated"])
def test_a_result_by_an_unchecked_psf_is_fine_only_if_that_is_right(code):
    report = make_report("residual-noise", "mean-kept", "detail-confirmed")
    note = make_note(code).to_dict()
    card = make_card(report | {"note_codes": [note]})
    assert (card.verdict, card.headline) == (Verdict.FINE, HEADLINES[code])
    assert not card.all_warnings
    worse = make_report("residual-unexplained", ratio=2.4)
    assert make_card(worse | {"note_codes": [note]}).verdict is Verdict.DO_NOT_USE


def test_no_warning_stands_below_the_headline_that_all_is_fine():
    coarse = make_note("psf-nyquist", pixel=160.0, nyquist=120.0)
    report = make_report("mean-kept", "pixels-darkest", fraction=0.001)
    card = make_card(report | {"note_codes": [coarse.to_dict()]})
    assert card.headline == HEADLINES["fine"]
    assert card.list_lines() == [card.headline] and not card.all_warnings
    assert str(coarse) in map(str, card.details)


def test_a_verdict_whose_notes_cannot_be_read_is_not_called_fine():
    report = make_report("brightness-off")
    del report["verdict"]["codes"][0]["facts"]["darker_share"]  # as of an earlier version
    headline = "Do not use: its brightness is not that of the input."
    report["verdict"] |= {"kind": "do-not-use", "headline": headline, "sentences": ["It is off."]}
    card = make_card(report)
    assert (card.verdict, card.headline) == (Verdict.DO_NOT_USE, headline)
    assert [str(note) for note in card.details] == ["It is off."]


def test_every_warning_of_the_checks_has_a_reason_and_the_headline_names_the_worst():
    reasons = set(VERDICT_REASONS)
    quality_warnings = {code for code in WARNINGS if not code.startswith(("psf-", "input-changed"))}
    assert quality_warnings <= reasons
    assert set(VERDICT_REASONS.values()) | {"noise-unreliable", "psf", "psf-size"} == set(REASONS)
    for better, worse in combinations(reversed(VERDICT_REASONS), 2):
        card = make_card(make_report(better, worse))
        reason = render(REASONS[VERDICT_REASONS[worse]], FACTS)
        assert reason in card.headline, (better, worse)


def test_at_most_two_warnings_are_on_the_card_and_none_is_lost():
    codes = ["mean-off", "residual-strong", "pattern-lost", "holes-far"]
    card = make_card(make_report(*codes))
    assert len(card.warnings) == MAX_CARD_WARNINGS
    assert {note.code for note in (*card.warnings, *card.details)} == set(codes)


def test_the_same_warning_of_three_channels_takes_one_line():
    report = make_report("mean-off")
    note = make_note("noise-unreliable-texture")
    report["note_codes"] = [
        {"code": note.code, "facts": {"channel_number": number}} for number in (1, 2, 3)
    ]
    card = make_card(report)
    assert [note.code for note in card.warnings] == ["noise-unreliable-texture", "mean-off"]
    assert len(card.details) == 2


@pytest.mark.parametrize(
    ("code", "facts", "verdict"),
    [
        ("brightness-off", {}, Verdict.DO_NOT_USE),
        ("contrast-doubtful", {}, Verdict.DO_NOT_USE),
        ("contrast-doubtful", {"unsure": True}, Verdict.LOOK_CLOSER),
        ("residual-edges", {"ratio": 1.6}, Verdict.LOOK_CLOSER),
        ("residual-edges", {"ratio": 2.4}, Verdict.DO_NOT_USE),
        ("residual-edges", {"ratio": 2.4, "camera": True}, Verdict.LOOK_CLOSER),
        ("residual-unexplained", {"ratio": 1.6}, Verdict.LOOK_CLOSER),
        ("residual-unexplained", {"ratio": 2.4}, Verdict.DO_NOT_USE),
        ("pixels-saturated", {"fraction": 0.005}, Verdict.FINE),
        ("pixels-saturated", {"fraction": 0.2}, Verdict.LOOK_CLOSER),
        ("input-kept", {"guessed": True}, Verdict.LOOK_CLOSER),
        ("input-kept", {"guessed": False}, Verdict.FINE),
        ("detail-unchecked", {}, Verdict.LOOK_CLOSER),
        ("detail-small", {}, Verdict.FINE),
    ],
)
def test_the_verdict_follows_from_the_worst_note(code, facts, verdict):
    assert make_card(make_report(code, **facts)).verdict is verdict


def test_no_two_notes_of_a_card_contradict_each_other():
    for pair in combinations(CLAIMS, 2):
        if any(set(pair) <= chain for chain in EXCLUSIVE):
            continue
        card = make_card(make_report(*pair))
        claims = [CLAIMS[note.code] for note in (*card.warnings, *card.details)]
        topics = [topic for claim in claims for topic in claim]
        for topic in topics:
            states = {str(claim[topic]) for claim in claims if topic in claim}
            assert len(states) == 1, (pair, topic, states)


def test_the_claims_cover_all_notes_of_the_checks():
    checked = {code for code in WARNINGS if not code.startswith(("psf-", "input-changed"))}
    assert checked <= set(CLAIMS) <= set(NOTES)


def test_the_figures_are_those_of_the_report():
    report = make_report("residual-noise")
    report["deviation"] = {"noise": 12.34, "result": 2.1}
    report["verdict"]["figures"] = {
        "detail": {"regression_slope": 0.93, "slope_error": 0.02},
        "bias": 0.0,
    }
    report["halves"] = {"resolution": {"input": 0.41, "result": 0.24}, "unit": "µm"}
    card = make_card(report)
    assert card.figure_line == (
        f"{FIGURES['noise']}: input 12.3, result 2.1\u00a0grey values · "
        f"{FIGURES['resolution']}: input 0.41, result 0.24\u00a0µm · "
        f"{FIGURES['detail']} 93\u00a0±\u00a04\u00a0%"
    )


@pytest.mark.parametrize(
    ("codes", "line"),
    [(["residual-noise"], "Mean intensity −0.9%"), (["mean-off"], "")],
    ids=["no warning", "warning"],
)
def test_a_mean_that_a_warning_states_is_not_repeated_as_a_figure(codes, line):
    report = make_report(*codes)
    report["verdict"]["figures"] = {"bias": -0.009}
    assert make_card(report).figure_line == line


def test_notes_of_a_later_version_keep_their_sentences():
    report = {"verdict": {"codes": [{"code": "unheard-of", "facts": {}}], "sentences": ["So."]}}
    assert [str(note) for note in make_card(report).details] == ["So."]


@pytest.mark.parametrize(
    ("chosen", "wording"), [("guided", "was used"), ("blind-spot", "was left out")]
)
def test_the_card_of_a_guided_result_says_whether_the_guide_was_used(chosen, wording):
    report = {"recipe": {"task": "guide"}, "prior": {"key": chosen, "reason": ""}, "note_codes": []}
    (finding,) = make_card(report).findings
    assert f"The guide {wording}" in str(finding)


def test_the_card_of_a_colour_image_names_the_colour():
    note = make_note("noise-unreliable-clipped", channel_number=2)
    (warning,) = make_card({"axes": "YXS", "note_codes": [note.to_dict()]}).warnings
    assert str(warning).startswith("Green: The noise measurement")
    (warning,) = make_card({"axes": "CYX", "note_codes": [note.to_dict()]}).warnings
    assert str(warning).startswith("Channel 2: The noise measurement")


def test_no_confirmed_share_is_stated_as_exact():
    report = make_report("mean-kept")
    report["verdict"]["figures"]["detail"] = {"regression_slope": 0.99, "slope_error": 0.001}
    assert "99\u00a0±\u00a01\u00a0%" in make_card(report).figure_line


def test_a_delay_of_nothing_has_no_minus():
    traces = {
        "slope": 1.0,
        "slope_uncertainty": 0.0,
        "delay": -0.001,
        "delay_uncertainty": 0.0,
    }
    assert "-" not in format_traces(traces)


def test_that_finer_detail_is_unconfirmed_stands_on_the_card_itself():
    card = make_card({"verdict": {"codes": [{"code": "detail-finer", "facts": {}}]}})
    assert [note.code for note in card.findings] == ["detail-finer"]


def test_a_psf_of_another_pixel_size_is_not_called_wrong():
    facts = {"axis": "X", "psf": 50.0, "image": 100.0}
    card = make_card(make_report("psf-pixel-size", **facts))
    assert "resampled" in card.headline and "wrong" not in card.headline


def test_noise_that_may_be_fine_structure_is_not_claimed():
    card = make_card(make_report("noise-caution-correlated-kept"))
    assert "may be left" in card.headline
    assert "or the object has fine structure" in str(card.warnings[0])
