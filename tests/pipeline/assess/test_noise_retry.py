"""A result with wrong brightness or lost edges is restored again with a weaker noise estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from skimage import data

import napari_dip as dip
from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.noise.estimate import NoiseEstimate
from napari_dip.pipeline.assess.artefact_detection import (
    MAX_CALM_NOISE_FRACTION,
    _measure_calm_noise,
    _weaken_noise,
)
from napari_dip.pipeline.calibrate import channel_noise as run_noise
from small_runs import plan_for, run_to_end

QUICK: dict[str, Any] = {"preset": "fast", "max_iterations": 40, "device": "cpu"}


def load_truth() -> np.ndarray:
    return data.camera()[100:260, 150:310].astype(np.float64)


def make_noisy() -> np.ndarray:
    return (load_truth() + np.random.default_rng(0).normal(0, 8, load_truth().shape)).astype(
        np.float32
    )


def measure_error(result: Any) -> float:
    return float(np.sqrt(((np.asarray(result.image) - load_truth()) ** 2).mean()))


@pytest.fixture
def _overestimated_noise(monkeypatch):
    """Take the noise for 400 times as strong as it is, and for correlated."""
    right = run_noise.measure_single_exposure

    def overestimate(*arguments: Any, **options: Any) -> Any:
        unit = right(*arguments, **options)
        lags = (0.7, 0.4, 0.2, 0.1, 0.0)
        variance = 400 * unit.intercept + 400 * unit.gain * 128
        return replace(
            unit, gain=0.0, intercept=variance, floor=variance / 2, along_y=lags, along_x=lags
        )

    monkeypatch.setattr(run_noise, "measure_single_exposure", overestimate)


@pytest.mark.long
def test_a_good_result_is_not_restored_again():
    result = dip.denoise(make_noisy(), **QUICK)
    assert not any("restored again" in note for note in result.report["notes"])


@pytest.mark.long
@pytest.mark.usefixtures("_overestimated_noise")
def test_noise_measured_far_too_strong_is_reduced():
    result = dip.denoise(make_noisy(), **QUICK)
    assert any("restored again" in note for note in result.report["notes"])
    assert result.report["noise"]["unreliable_reason"] == ["texture"]
    assert measure_error(result) < 8  # the first result has 45, the input 8


@pytest.mark.long
@pytest.mark.usefixtures("_overestimated_noise")
def test_noise_that_the_user_enters_is_never_changed():
    result = dip.denoise(make_noisy(), read_noise=160.0, gain=0.0, **QUICK)
    assert not any("restored again" in note for note in result.report["notes"])


@pytest.mark.long
def test_fixed_noise_that_has_drawn_no_detail_yet_is_not_run_again():
    result = dip.denoise(make_noisy(), **{**QUICK, "max_iterations": 20}, prior="random-input")
    assert result.failure_score > 1
    assert not any("restored again" in note for note in result.report["notes"])


@pytest.mark.long
@pytest.mark.usefixtures("_overestimated_noise")
def test_a_person_who_keeps_a_result_gets_it_at_once():
    answers = []

    def poll_control() -> Control:
        answers.append(1)
        return Control.KEEP if len(answers) > 30 else Control.GO

    events, result = run_to_end(
        plan_for(make_noisy(), **QUICK), make_noisy(), poll_control=poll_control
    )
    assert result is not None
    assert not any("weaker noise" in event.message for event in events)


@pytest.mark.long
@pytest.mark.usefixtures("_overestimated_noise")
def test_a_second_attempt_that_fails_leaves_the_first_result(monkeypatch):
    from napari_dip.errors import FailedError, make_refusal
    from napari_dip.pipeline.execute import runner

    fitted, calls = runner._fit_units, []

    def once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise FailedError(make_refusal("time-over", limit="1", name="shot"))
        return (yield from fitted(*arguments))

    monkeypatch.setattr(runner, "_fit_units", once)
    result = dip.denoise(make_noisy(), **QUICK)
    assert len(calls) == 2
    assert result.image.shape == make_noisy().shape
    assert result.report["verdict"]["sentences"][0].startswith("In ")


@pytest.mark.long
@pytest.mark.usefixtures("_overestimated_noise")
def test_an_image_in_tiles_is_restored_again_as_a_whole_one_is():
    plan = plan_for(make_noisy(), tile=128, **QUICK)
    assert len(plan.tiles) > 1
    events, result = run_to_end(plan, make_noisy())
    assert result is not None
    assert any("weaker noise" in event.message for event in events)
    assert any("restored again" in note for note in result.report["notes"])
    assert result.report["noise"]["unreliable_reason"] == ["texture"]
    assert measure_error(result) < 8


def test_the_residual_of_a_mostly_black_image_confirms_its_photon_noise():
    rng = np.random.default_rng(0)
    light = np.full((1, 256, 256), 0.02)
    light[:, :64] = 1.0
    measured = (60 * rng.poisson(light)).astype(np.float32)
    too_bright = (60 * light + 2).astype(np.float32)
    residual = measured - too_bright
    noise = NoiseEstimate(gain=60.0, intercept=0.0, floor=1.0)
    assert _measure_calm_noise(noise, measured, residual) > MAX_CALM_NOISE_FRACTION
    assert _measure_calm_noise(noise.scale(4), measured, residual) < MAX_CALM_NOISE_FRACTION


def test_a_channel_whose_noise_the_residual_confirms_keeps_it():
    noise = NoiseEstimate(gain=10.0, intercept=-300.0, floor=100.0)
    assert _weaken_noise(noise, 0.96) is noise
    assert _weaken_noise(noise, 0.27).gain == pytest.approx(2.5)


def test_a_scene_of_single_photons_keeps_its_noise_and_is_restored_by_the_blind_spot():
    light = 0.4 * load_truth()[:64, :64] / 255
    counts = np.random.default_rng(0).poisson(light).astype(np.uint8)
    result = dip.denoise(counts, **QUICK)
    assert result.report["noise"]["caution"] == ["photon-counts"]
    assert result.report["noise"]["gain"] == [1.0]
    assert result.report["prior"]["key"] == "blind-spot"
    sentences = " ".join(result.report["notes"] + result.report["verdict"]["sentences"])
    assert "known exactly" in sentences
    assert "restored again" not in sentences
    assert "darkest grey value" not in sentences
