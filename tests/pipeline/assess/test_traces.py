"""Slope and delay of traces are right for movies with known truth, whatever noise is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

import napari_dip as dip
from napari_dip.errors import RefusedError
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.assess.metrics import measure_result
from napari_dip.pipeline.assess.quality_checks import assess_quality, list_trace_notes
from napari_dip.pipeline.assess.traces import (
    average_regions,
    compare_traces,
    estimate_trace_noise,
)
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.plan.layout import to_stack
from small_runs import plan_for

FRAMES, REGIONS = 96, 12
WHITE = {"gain": [1.0], "intercept": [0.0], "unreliable_reason": [None], "blind_spot_size": [1, 1]}


def make_transients(seed: int = 0) -> np.ndarray:
    """Rise within a frame and fall within six, on a level of 100: (T, regions)."""
    rng = np.random.default_rng(seed)
    time = np.arange(FRAMES)
    events = (rng.random((FRAMES, REGIONS)) < 0.04) * rng.uniform(20, 60, (FRAMES, REGIONS))
    decay = np.exp(-time / 6)
    return 100 + np.stack([np.convolve(column, decay)[:FRAMES] for column in events.T], 1)


def make_traces(noise: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return transients, and the same with noise of that standard deviation."""
    truth = make_transients(seed)
    return truth, truth + np.random.default_rng(100 + seed).normal(0, noise, truth.shape)


def filter_causally(traces: np.ndarray, weight: float = 0.5) -> np.ndarray:
    """Average each frame with the filtered one before."""
    filtered = traces.copy()
    for frame in range(1, len(traces)):
        filtered[frame] = weight * traces[frame] + (1 - weight) * filtered[frame - 1]
    return filtered


def list_codes(measured: np.ndarray, restored: np.ndarray, noise: float = 4.0) -> list[str]:
    comparison = compare_traces(measured, restored, np.full(measured.shape[1], noise**2))
    return [note.code for note in list_trace_notes(comparison)]


@pytest.mark.parametrize("seed", range(4))
def test_neither_the_truth_nor_the_input_itself_is_suspected(seed: int) -> None:
    truth, noisy = make_traces(seed=seed)
    for restored in (truth, noisy, (truth + noisy) / 2):
        assert list_codes(noisy, restored) == ["traces-kept"]


@pytest.mark.parametrize("is_noise_left", [False, True])
def test_a_flattened_movie_is_found_with_and_without_its_noise(is_noise_left: bool) -> None:
    truth, noisy = make_traces()
    source = noisy if is_noise_left else truth
    assert list_codes(noisy, gaussian_filter1d(source, 2, axis=0)) == ["traces-scaled"]
    assert list_codes(noisy, 100 + 0.75 * (source - 100)) == ["traces-scaled"]
    assert list_codes(noisy, 100 + 1.25 * (source - 100)) == ["traces-scaled"]


@pytest.mark.parametrize("is_noise_left", [False, True])
def test_a_filter_that_looks_back_is_late(is_noise_left: bool) -> None:
    truth, noisy = make_traces()
    assert "traces-late" in list_codes(noisy, filter_causally(noisy if is_noise_left else truth))


@pytest.mark.parametrize("shift", [-2, 1, 3])
def test_a_shift_by_whole_frames_is_measured_and_is_no_loss(shift: int) -> None:
    truth, noisy = make_traces()
    comparison = compare_traces(noisy, np.roll(truth, shift, 0), np.full(REGIONS, 16.0))
    assert comparison is not None
    assert comparison.delay == pytest.approx(shift, abs=0.1)
    assert comparison.slope == pytest.approx(1, abs=3 * comparison.slope_uncertainty)


def test_plain_least_squares_would_find_too_small_a_slope() -> None:
    truth, noisy = make_traces(noise=8.0)
    centred = noisy - noisy.mean(0)
    plain = float((centred * truth).sum() / (centred**2).sum())
    comparison = compare_traces(noisy, truth, np.full(REGIONS, 64.0))
    assert plain < 0.85 and comparison is not None
    assert abs(comparison.slope - 1) < 2 * comparison.slope_uncertainty


def test_errors_cover_what_is_true_in_most_of_forty_movies() -> None:
    deviations = []
    for seed in range(40):
        truth, noisy = make_traces(seed=seed)
        comparison = compare_traces(noisy, 0.8 * truth + 0.2 * noisy, np.full(REGIONS, 16.0))
        assert comparison is not None
        deviations.append((comparison.slope - 1) / comparison.slope_uncertainty)
    assert np.abs(deviations).max() < 3


def test_noise_and_bleaching_alone_tell_nothing() -> None:
    flat = np.linspace(120, 80, FRAMES)[:, None] + np.random.default_rng(0).normal(
        0, 4, (FRAMES, 9)
    )
    assert compare_traces(flat, flat, np.full(9, 16.0)) is None
    assert list_trace_notes(None)[0].code == "traces-untold"
    assert compare_traces(flat[:8], flat[:8], np.full(9, 1e-3)) is None


def test_the_noise_of_a_trace_is_that_of_its_pixels_or_else_of_its_curvature() -> None:
    counts = np.full(9, 50.0)
    traces = np.random.default_rng(0).poisson(50 * np.full((400, 1, 9), 20.0)) / 50
    traces[::50] += 30  # rare events
    expected = estimate_trace_noise(traces, counts, WHITE)
    from_curvature = estimate_trace_noise(
        traces, counts, {**WHITE, "unreliable_reason": ["texture"]}
    )
    np.testing.assert_allclose(expected, (20 + 30 / 50) / 50, rtol=0.01)
    assert from_curvature.mean() == pytest.approx(20 / 50, rel=0.2)
    correlated = {
        "blind_spot_size": [1, 3],
        "autocorrelation": {"y": [[0.0, 0.0]], "x": [[0.5, 0.0]]},
    }
    np.testing.assert_allclose(
        estimate_trace_noise(traces, counts, WHITE | correlated), 2 * expected, rtol=1e-6
    )


def make_movie(frames: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the light of four blinking squares, its photons, and labels of the squares."""
    labels = np.zeros((32, 32), int)
    for number, (row, column) in enumerate([(4, 4), (4, 20), (20, 4), (20, 20)], 1):
        labels[row : row + 8, column : column + 8] = number
    light = np.full((frames, 32, 32), 40.0)
    for number in range(1, 5):
        light[:, labels == number] *= 1 + np.sin(np.arange(frames) / 2 + number)[:, None] ** 2
    return light, np.random.default_rng(0).poisson(light).astype(np.uint16), labels


@pytest.mark.parametrize("axes", ["TYX", "TCYX", "TZYX", "CTYX"])
def test_card_and_report_hold_slope_and_delay_of_the_grid(axes: str) -> None:
    light, movie, _ = make_movie()
    shape = [{"T": 24, "Y": 32, "X": 32}.get(axis, 1) for axis in axes]
    image = calibrate_image(plan_for(movie.reshape(shape), axes), {"image": movie.reshape(shape)})
    for filtered, code in (
        (light, "traces-kept"),
        (gaussian_filter1d(movie.astype(float), 2, axis=0), "traces-scaled"),
        (np.roll(light, 1, 0), "traces-late"),
    ):
        stack = to_stack(filtered.reshape(shape), axes, image.layout)
        metrics = measure_result(image, image.stack - stack, stack, stack, ())
        verdict = assess_quality(metrics)
        assert code in {note["code"] for note in verdict["codes"]}
        traces = verdict["figures"]["traces"]
        assert traces["region_count"] == 4
        figures = make_card({"verdict": verdict}).figure_line
        assert f"{100 * traces['slope']:.0f}\u00a0±" in figures
        assert f"delay {traces['delay']:.2f}\u00a0±" in figures


@pytest.fixture(scope="module")
def short_run() -> Any:
    settings: dict[str, Any] = {"neighbouring_frames": False, "temporal_smoothing": 0}
    movie = make_movie(16)[1]
    return dip.denoise(movie, axes="TYX", preset="instant", max_iterations=2, **settings)


def test_traces_of_labels_and_masks_are_their_means(short_run: Any) -> None:
    _, movie, labels = make_movie(16)
    traces = short_run.traces(movie, labels)
    assert traces.measured.shape == (16, 4) and len(traces.comparisons) == 4
    np.testing.assert_allclose(traces.measured[:, 1], movie[:, labels == 2].mean(1))
    np.testing.assert_allclose(
        traces.restored[:, 1], short_run.image[:, labels == 2].mean(1), rtol=1e-4
    )
    masks = np.stack([labels == 2, labels == 3])
    np.testing.assert_allclose(short_run.traces(movie, masks).measured, traces.measured[:, 1:3])
    assert short_run.traces(movie, labels == 2).pooled == traces.comparisons[1]


def test_regions_of_another_size_and_empty_ones_are_refused(short_run: Any) -> None:
    _, movie, labels = make_movie(16)
    for regions in (labels[:30], np.zeros_like(labels)):
        with pytest.raises(RefusedError, match="32 × 32"):
            short_run.traces(movie, regions)


def test_a_single_image_has_no_traces() -> None:
    with pytest.raises(RefusedError, match="movie"):
        average_regions(np.ones((9, 9)), "YX", np.ones((9, 9), bool))
    _, movie, _ = make_movie()
    image = calibrate_image(plan_for(movie[0]), {"image": movie[0]})
    assert not measure_result(image, 0 * image.stack, image.stack, image.stack, ()).has_traces
