"""A run can be checked by halves and by a null control, and its own pixels stay the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.errors.notes import parse_report_notes
from napari_dip.pipeline.assess.repeatability import correlate_rings, find_resolution, smooth_rings
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.execute import repeatability_runs
from napari_dip.pipeline.execute.repeatability_runs import make_noise_source, split_measurement
from napari_dip.pipeline.execute.runner import run
from small_runs import make_noisy, make_truth, plan_for, run_to_end

if TYPE_CHECKING:
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.execute.repeatability_runs import NoiseSource
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

SIDE = 64


@cache
def run_checked() -> tuple[list[Event], Restoration]:
    array = make_noisy(SIDE)
    events, result = run_to_end(plan_for(array, halves=True, null_control=True), array)
    assert result is not None
    return events, result


@cache
def run_briefly() -> Restoration:
    _, result = run_to_end(plan_for(make_noisy(32), max_iterations=2), make_noisy(32))
    assert result is not None
    return result


def list_codes(result: Restoration) -> list[str]:
    return [note.code for note in parse_report_notes(result.report)]


@pytest.mark.long
def test_controls_change_no_pixel_of_the_result() -> None:
    array = make_noisy(SIDE)
    _, plain = run_to_end(plan_for(array), array)
    checked = run_checked()[1]
    np.testing.assert_array_equal(plain.image, checked.image)
    assert plain.repeat_map is None and "halves" not in plain.report
    assert plain.report["output_sha256"] == checked.report["output_sha256"]


@pytest.mark.long
def test_halves_tell_what_repeats_and_a_null_control_what_is_found_without_an_object() -> None:
    result = run_checked()[1]
    halves, null = result.report["halves"], result.report["null_control"]
    assert halves["by"] == "thinning" and halves["unit"] == "pixel"
    assert all(2 <= period <= SIDE for period in halves["resolution"].values())
    assert 0 <= halves["repeated"] <= 1 and null["rate"] >= 0
    assert result.repeat_map.shape == result.null_image.shape == result.image.shape
    assert result.repeated is result.repeat_map  # its earlier name
    assert np.nanmin(result.repeat_map) >= 0 and np.nanmax(result.repeat_map) <= 1
    # no object: far smoother than the result, at its brightness
    assert result.null_image.std() < 0.7 * result.image.std()
    assert result.null_image.mean() == pytest.approx(result.image.mean(), rel=0.1)
    assert list_codes(result)[-2:] == ["halves", "null-control"]


@pytest.mark.long
def test_progress_never_goes_back_and_counts_the_controls() -> None:
    events = run_checked()[0]
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    first = next(event for event in events if "first half" in event.message)
    assert 0.1 < first.fraction < 0.6 and first.progress.children
    array = make_noisy(SIDE)
    seconds = [plan_for(array, halves=halves).seconds for halves in (False, True)]
    assert seconds[1] == pytest.approx(3 * seconds[0])


def end_during_repeatability_runs(control: Control) -> Restoration | None:
    """End the run as soon as the first half is fitted."""
    array, messages = make_noisy(SIDE), []
    plan = plan_for(array, halves=True, max_iterations=5)
    loop = run(
        plan,
        {"image": array},
        poll_control=lambda: control if any("half" in text for text in messages) else Control.GO,
    )
    try:
        while True:
            messages.append(next(loop).message)
    except StopIteration as stop:
        return stop.value


@pytest.mark.long
def test_stop_and_keep_during_a_half_keeps_the_result_and_says_so() -> None:
    result = end_during_repeatability_runs(Control.KEEP)
    assert list_codes(result)[-1] == "repeatability-ended" and "halves" not in result.report


def test_discard_during_a_half_discards() -> None:
    assert end_during_repeatability_runs(Control.DISCARD) is None


def test_an_error_in_a_half_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no second network")

    monkeypatch.setattr(repeatability_runs, "restore_repeatability_image", fail)
    array = make_noisy(SIDE)
    _, result = run_to_end(plan_for(array, halves=True, max_iterations=5), array)
    assert list_codes(result)[-1] == "repeatability-failed" and "no second network" in str(
        result.report["notes"][-1]
    )


@pytest.mark.long
def test_two_exposures_are_the_halves() -> None:
    arrays = make_noisy(64), make_noisy(64, seed=1)
    result = dip.denoise(
        arrays[0], repeated_exposure=arrays[1], preset="instant", max_iterations=10, halves=True
    )
    assert result.report["halves"]["by"] == "second"
    assert "two independent exposures" in result.report["notes"][-1]


def test_noise_that_is_not_known_is_not_drawn() -> None:
    pattern = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE)).astype(np.uint8) * 200
    result = dip.denoise(pattern, preset="instant", max_iterations=5, halves=True)
    assert "halves" not in result.report and result.repeat_map is None
    assert list_codes(result)[-1] == "repeatability-noise-unknown"


@pytest.mark.parametrize(
    ("task", "settings", "code"),
    [
        ("super-resolve", {}, "repeatability-task"),
        ("inpaint", {"mask": np.eye(300, dtype=np.uint8)}, "repeatability-task"),
        ("denoise", {"noise": "salt-and-pepper"}, "repeatability-noise"),
        ("denoise", {"tile": 128}, "repeatability-tiles"),
        ("denoise", {}, "repeatability-small"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_work(task, settings, code) -> None:
    with pytest.raises(RefusedError) as refused:
        side = 48 if code == "repeatability-small" else 300
        dip.plan(task, np.zeros((side, side), np.uint8), null_control=True, **settings)
    assert refused.value.code == code


def make_source(array: Any, signal: Any) -> tuple[CalibratedImage, NoiseSource]:
    """Return an image, and its noise beside a signal that stands for the restoration."""
    plan = plan_for(array)
    image = calibrate_image(plan, {"image": array})
    residual = (array - signal).astype(np.float32)
    restoration = replace(run_briefly(), residual=residual)
    return image, make_noise_source(image, restoration)


def correlate(first: Any, second: Any) -> float:
    return float(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1])


@pytest.mark.long
def test_counted_photons_go_into_either_half_with_independent_noise() -> None:
    rng = np.random.default_rng(0)
    light = 4 + 3 * np.sin(np.arange(128) / 9)[:, None] * np.ones(128)
    array = rng.poisson(light).astype(np.uint16)
    image, source = make_source(array, light)
    first, second = (half.stack[0, 0] for half in split_measurement(image, source, rng))
    assert ((first + second) / 2 == array).all() and not (first % 2).any() and first.min() == 0
    assert abs(correlate(first - light, second - light)) < 0.03
    assert np.var(first - light) == pytest.approx(2 * light.mean(), rel=0.05)


@pytest.mark.parametrize("width", [0.0, 1.0], ids=["white", "correlated"])
def test_halves_of_camera_noise_are_independent_at_each_frequency(width: float) -> None:
    rng = np.random.default_rng(1)
    light = 50 + make_truth(256)
    noise = 8 * rng.normal(size=light.shape)
    if width:
        noise = gaussian_filter(noise, width) * 3
    array = (light + noise).astype(np.float32)
    image, source = make_source(array, light)
    assert (max(image.calibration.blind_spot_size) > 1) == bool(width)
    pairs = [
        tuple(half.stack[0, 0] - light for half in split_measurement(image, source, rng))
        for _ in range(4)
    ]
    _, rings, _ = correlate_rings(pairs, light.shape, (1.0, 1.0))
    strong = smooth_rings(rings)[16 : 64 if width else 128]
    assert abs(strong).max() < 0.12


def test_halves_of_white_noise_are_independent_where_the_restoration_keeps_noise() -> None:
    rng = np.random.default_rng(2)
    light = 50 + make_truth(256)
    noise = 8 * rng.normal(size=light.shape)
    array = (light + noise).astype(np.float32)
    image, source = make_source(array, light + gaussian_filter(noise, 1.0))
    halves = split_measurement(image, source, rng)
    pair = tuple(half.stack[0, 0] - light for half in halves)
    _, rings, _ = correlate_rings([pair], light.shape, (1.0, 1.0))
    assert smooth_rings(rings)[20:60].mean() < 0.05


@pytest.mark.long
@pytest.mark.parametrize("missing_fraction", [0.0, 0.1])
def test_the_resolution_of_smooth_spots_is_that_of_their_restoration_against_the_truth(
    missing_fraction: float,
) -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:128, :128]
    light = np.full((128, 128), 20.0)
    for row, column in rng.integers(8, 120, (30, 2)):
        light += rng.uniform(5, 60) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2 / 2.5**2)
    array = (2 * rng.poisson(light) + rng.normal(100, 2, light.shape)).round().astype(np.uint16)
    if missing_fraction:
        mask = (rng.random(light.shape) < missing_fraction).astype(np.uint8)
        result = dip.inpaint(array, mask, unmasked="denoise", preset="instant", halves=True)
    else:
        result = dip.denoise(array, preset="instant", halves=True)
    frequencies, rings, _ = correlate_rings([(result.image, light)], light.shape, (1.0, 1.0))
    true_period = find_resolution(frequencies, np.maximum(smooth_rings(rings), 0) ** 2)
    assert result.report["halves"]["resolution"]["result"] == pytest.approx(true_period, rel=0.25)


@pytest.mark.long
def test_noise_without_an_object_has_no_resolution() -> None:
    array = np.random.default_rng(0).normal(100, 5, (96, 96)).astype(np.float32)
    halves = dip.denoise(array, preset="instant", halves=True).report["halves"]
    assert halves["resolution"] == {"input": None, "result": None}
