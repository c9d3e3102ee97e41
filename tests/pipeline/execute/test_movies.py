"""Frames of a movie are registered where that is reliable, and support each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from skimage import data

from fit_inputs import make_task_plan
from napari_dip.pipeline.assess.merge import ResultMerger, UnitResult
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.calibrate.types import CalibratedImage
from napari_dip.pipeline.execute.neighbour_frames import (
    NO_NEIGHBOUR_FRAMES,
    Drift,
    NeighbourFrameProvider,
    estimate_drift,
)
from napari_dip.pipeline.plan.types import UnitOutcome
from napari_dip.pipeline.plan.units import make_segment_notes
from napari_dip.tasks import Denoise
from small_runs import make_noisy, make_truth, plan_for, run_to_end

SIDE = 48


def draw_drifting_scenes(
    steps: list[tuple[int, int]], noise: float = 2.0, side: int = SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """Return scenes binned from a finer image, so that half pixels are true, and shots of them.

    Steps are in half pixels.
    """
    fine = data.cell().astype(np.float64)
    rng = np.random.default_rng(0)
    scenes = np.stack(
        [
            fine[200 - y : 200 - y + 2 * side, 200 - x : 200 - x + 2 * side]
            .reshape(side, 2, side, 2)
            .mean((1, 3))
            for y, x in steps
        ]
    )
    noisy = scenes + rng.normal(0, noise, scenes.shape) + 100
    return scenes + 100, noisy.astype(np.float32)


def arrange_axes(array: np.ndarray, axes: str = "TYX", **settings: Any) -> CalibratedImage:
    image = calibrate_image(plan_for(array, axes, **settings), {"image": array})
    assert isinstance(image, CalibratedImage)
    return image


@pytest.mark.parametrize("step", [(3, -5), (0, 1), (-6, 2)])
def test_a_drift_of_half_pixels_is_found_under_noise(step: tuple[int, int]) -> None:
    _, noisy = draw_drifting_scenes([(0, 0), step])
    image = arrange_axes(noisy)
    drift = estimate_drift(image, 1, 0)
    np.testing.assert_allclose(drift.shift, np.array(step) / 2, atol=0.2)


def test_a_frame_that_is_laid_onto_another_shows_what_that_one_shows() -> None:
    scenes, noisy = draw_drifting_scenes([(0, 0), (3, -5)])
    image = arrange_axes(noisy)
    drift = estimate_drift(image, 1, 0)
    aligned = drift.apply(scenes[:1].astype(np.float32))[0]
    visible = drift.make_visible_mask((SIDE, SIDE)) > 0
    apart, before = (np.abs(image - scenes[1])[visible].mean() for image in (aligned, scenes[0]))
    assert apart < 0.2 * before
    assert 0.85 < visible.mean() < 1


def test_frames_of_noise_alone_are_not_moved() -> None:
    rng = np.random.default_rng(0)
    frames = rng.normal(100, 5, (8, SIDE, SIDE)).astype(np.float32)
    image = arrange_axes(frames)
    shifts = [estimate_drift(image, frame, frame - 1).shift for frame in range(1, 8)]
    assert shifts == [(0.0, 0.0)] * 7


def test_a_scene_that_has_not_moved_is_not_moved() -> None:
    _, noisy = draw_drifting_scenes([(0, 0)] * 4)
    image = arrange_axes(noisy)
    assert estimate_drift(image, 1, 0).shift == (0.0, 0.0)


def test_a_volume_of_a_movie_is_laid_onto_the_next_in_three_dimensions() -> None:
    rng = np.random.default_rng(0)
    fine = np.cumsum(rng.normal(0, 1, (12, 32, 32)), 0)
    fine += 20 * np.exp(-(((np.indices(fine.shape).T - (6, 14, 15)) / 4).T ** 2).sum(0))
    frames = np.stack([fine[1:11], fine[2:12]]).astype(np.float32)
    image = arrange_axes(frames, "TZYX", stacks="volume")
    assert image.stack.shape == (2, 1, 10, 32, 32)
    shift = estimate_drift(image, 1, 0).shift
    np.testing.assert_allclose(shift, (-1, 0, 0), atol=0.25)


def test_what_left_the_frame_counts_as_not_seen() -> None:
    visible = Drift(shift=(2.0, -1.0)).make_visible_mask((4, 4))
    assert visible.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_a_drift_is_as_many_times_longer_as_the_result_is_finer() -> None:
    assert Drift(shift=(0.5, -2.0)).rescale((10, 10), (20, 40)).shift == (1.0, -8.0)


def test_the_way_back_is_the_same_drift() -> None:
    assert Drift(shift=(0.5, -2.0)).invert().shift == (-0.5, 2.0)


def test_a_plane_of_a_stack_follows_the_same_plane_one_frame_earlier() -> None:
    stack = np.stack([[make_noisy(32)] * 3] * 2)
    plan = plan_for(stack, "TZYX", stacks="planes")
    assert [unit.previous_item for unit in plan.units] == [None, None, None, 0, 1, 2]
    assert [unit.next_item for unit in plan.units] == [3, 4, 5, None, None, None]


def test_a_single_image_or_volume_has_no_neighbour() -> None:
    stack = np.stack([make_noisy(32)] * 4)
    plans = [plan_for(stack[:1], "TYX"), plan_for(stack, "ZYX", stacks="volume")]
    plans += [plan_for(stack[0]), plan_for(stack, "CYX")]
    for plan in plans:
        assert {unit.neighbours for unit in plan.units} == {()}


def test_planes_of_a_stack_see_each_other_as_they_lie_and_nothing_is_steadied() -> None:
    _, stack = draw_drifting_scenes([(0, 0), (3, -5), (6, -10)])
    plan = plan_for(stack, "ZYX", stacks="planes")
    image = arrange_axes(stack, "ZYX", stacks="planes")
    merge = ResultMerger(image)
    frames = NeighbourFrameProvider(merge).get_neighbour_frames(plan.units[1], "blind-spot")
    np.testing.assert_array_equal(frames.neighbours, image.stack[None, [0, 2], 0])
    assert frames.previous is None


def test_one_frame_of_planes_has_neighbours_in_depth() -> None:
    plan = plan_for(np.stack([make_noisy(32)] * 3)[None], "TZYX", stacks="planes")
    assert [unit.neighbours for unit in plan.units] == [(1,), (0, 2), (1,)]
    assert not any(unit.has_time_neighbours for unit in plan.units)


def test_at_an_end_of_the_movie_the_one_neighbour_stands_for_both() -> None:
    movie = np.stack([make_noisy(32, seed) for seed in range(3)])
    plan = plan_for(movie, "TYX")
    image = arrange_axes(movie)
    merge = ResultMerger(image)
    first = NeighbourFrameProvider(merge).get_neighbour_frames(plan.units[0], "blind-spot")
    assert first.neighbours is not None
    np.testing.assert_array_equal(first.neighbours, image.stack[None, [1, 1], 0])
    assert first.previous is None


def test_a_middle_frame_sees_both_neighbours_and_what_was_restored_before() -> None:
    movie = np.stack([make_noisy(32, seed) for seed in range(3)])
    plan = plan_for(movie, "TYX", temporal_smoothing=1.0)
    image = arrange_axes(movie, temporal_smoothing=1.0)
    merge = ResultMerger(image)
    done = UnitOutcome(
        unit_id="p0c0r0",
        stop="",
        is_ended_by_user=False,
        best_iteration=1,
        iterations=1,
        history=(),
        notes=(),
    )
    pixels = np.full((1, 32, 32), 7.0, np.float32)
    estimates = pixels, pixels / 7, pixels
    merge.add(plan.units[0], UnitResult(outcomes=(done,), estimates=estimates))
    frames = NeighbourFrameProvider(merge).get_neighbour_frames(plan.units[1], "blind-spot")
    np.testing.assert_array_equal(frames.neighbours, image.stack[None, [0, 2], 0])
    np.testing.assert_allclose(frames.previous.image, pixels)
    np.testing.assert_allclose(frames.previous.std, pixels / 7)


@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
def test_a_task_without_neighbouring_frames_gets_none(prior: str) -> None:
    movie = np.stack([make_noisy(32, seed) for seed in range(3)])
    plan = plan_for(movie, "TYX")
    image = arrange_axes(movie)
    alone = Denoise(neighbouring_frames=False, temporal_smoothing=0)
    changed_plan = replace(image.run_plan, task_plan=make_task_plan(alone, plan.header))
    merge = ResultMerger(replace(image, run_plan=changed_plan))
    assert (
        NeighbourFrameProvider(merge).get_neighbour_frames(plan.units[1], prior)
        == NO_NEIGHBOUR_FRAMES
    )


def measure_flicker(movie: np.ndarray, scenes: np.ndarray) -> float:
    """Standard deviation of the error over time."""
    return float(np.sqrt((movie - scenes).var(0).mean()))


@pytest.mark.long
def test_a_movie_is_steadier_and_no_less_exact_than_frame_by_frame() -> None:
    scenes = np.stack([make_truth(32) + 100] * 4)
    movie = np.stack([make_noisy(32, seed) for seed in range(4)])
    answers = {}
    for name, settings in (
        ("alone", {"neighbouring_frames": False, "temporal_smoothing": 0}),
        ("helped", {"temporal_smoothing": 1}),
    ):
        _, answer = run_to_end(plan_for(movie, "TYX", max_iterations=100, **settings), movie)
        assert answer is not None
        answers[name] = answer.image
    alone, helped = (measure_flicker(answers[name], scenes) for name in ("alone", "helped"))
    assert helped < 0.8 * alone
    errors = {name: ((answer - scenes) ** 2).mean() for name, answer in answers.items()}
    assert errors["helped"] < errors["alone"]


@pytest.mark.long
def test_the_random_input_is_drawn_to_the_frame_before() -> None:
    movie = np.stack([make_noisy(32, seed) for seed in range(2)])
    settings = {"prior": "random-input", "max_iterations": 120}
    apart = []
    for steadiness in (0.0, 10.0):
        plan = plan_for(movie, "TYX", temporal_smoothing=steadiness, **settings)
        _, answer = run_to_end(plan, movie)
        assert answer is not None
        apart.append(np.abs(answer.image[1] - answer.image[0]).mean())
    assert apart[1] < 0.8 * apart[0]


@pytest.mark.long
def test_a_channel_of_one_value_does_not_stand_in_the_way() -> None:
    movie = np.stack([[make_noisy(32, seed), np.full((32, 32), 9, np.uint16)] for seed in range(2)])
    _, answer = run_to_end(plan_for(movie, "TCYX"), movie)
    assert answer is not None
    assert (answer.image[:, 1] == 9).all()


def test_only_units_of_movies_differ_by_their_neighbours() -> None:
    movie = np.stack([make_noisy(32, seed) for seed in range(3)])
    first, second, third = plan_for(movie, "TYX").units
    assert (first.neighbours, second.neighbours, third.neighbours) == (
        (1,),
        (0, 2),
        (1,),
    )
    assert replace(second, previous_item=None).neighbours == (2,)


def test_a_long_movie_begins_anew_with_each_segment() -> None:
    movie = np.stack([make_noisy(16)] * 70)
    plan = plan_for(movie, "TYX", series_training="warm-start", max_iterations=250)
    assert [unit.item for unit in plan.units if unit.is_segment_start] == [0, 24, 47]
    assert [unit.item for unit in plan.units if not unit.start_unit_id] == [0, 24, 47]
    spent = {unit.item: unit.iterations for unit in plan.units}
    assert spent[0] == spent[24] == spent[47] > 4 * spent[23]
    # the noisy frames on both sides of the cut are still seen
    assert plan.units[24].neighbours == (23, 25)


def test_volumes_of_a_movie_are_cut_between_frames_only() -> None:
    movie = np.stack([np.stack([make_noisy(16)] * 3)] * 33)
    plan = plan_for(movie, "TZYX", stacks="planes", series_training="warm-start")
    assert [unit.item for unit in plan.units if unit.is_segment_start] == [0, 1, 2, 51, 52, 53]
    assert [unit.item for unit in plan.units if not unit.start_unit_id] == [0, 51]


def test_the_first_frame_of_a_segment_is_drawn_to_none() -> None:
    movie = np.stack([make_noisy(16)] * 33)
    plan = plan_for(movie, "TYX", temporal_smoothing=1.0)
    merge = ResultMerger(arrange_axes(movie, temporal_smoothing=1.0))
    merge.result_counts[...] = 1
    frames = NeighbourFrameProvider(merge)
    estimating = [unit for unit in plan.units if unit.has_estimate]
    drawn = [frames.get_neighbour_frames(unit, "r2r").previous is not None for unit in estimating]
    assert [part for part, is_drawn in enumerate(drawn) if not is_drawn] == [0, 17]


def test_a_long_movie_says_where_it_begins_anew() -> None:
    def start_notes(frames: int, axes: str = "TYX", **settings: Any) -> tuple[str, ...]:
        return make_segment_notes(plan_for(np.stack([make_noisy(16)] * frames), axes, **settings))

    assert start_notes(32, temporal_smoothing=1.0) == ()
    (note,) = start_notes(70, temporal_smoothing=1.0)
    assert "3 segments" in str(note)
    assert "without the results of the one before, at frames 1, 25 and 48." in str(note)
    # planes that are shown one network, and frames that nothing draws to each other
    assert start_notes(70, "ZYX", stacks="planes") == start_notes(70) == ()
    (note,) = start_notes(40, "ZYX", stacks="planes", series_training="warm-start")
    assert "at planes 1 and 21." in str(note)


@pytest.mark.parametrize("width", [1, 3])
def test_frames_of_a_running_mean_are_no_inputs_of_each_other(width: int) -> None:
    rng = np.random.default_rng(0)
    shots = data.camera()[100:164, 100:164] + rng.normal(0, 10, (8, 64, 64))
    windows = np.lib.stride_tricks.sliding_window_view(shots, width, 0)
    frames = windows.mean(-1, dtype=np.float32)
    image = calibrate_image(plan_for(frames, "TYX"), {"image": frames})
    codes = {note.code for note in image.calibration.notes}
    assert ("frames-share-noise" in codes) == (width > 1)
    units = [unit for unit in image.run_plan.units if unit.neighbours]
    provider = NeighbourFrameProvider(ResultMerger(image))
    frames_of_unit = provider.get_neighbour_frames(units[0], image.run_plan.fit_config.prior_key)
    assert (frames_of_unit.neighbours is None) == (width > 1)
