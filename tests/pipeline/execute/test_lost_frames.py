"""A frame or plane of one value holds no image: the others are restored as if it was not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_dip.pipeline.plan.layout import fill_empty_planes, find_empty_planes
from napari_dip.pipeline.plan.units import make_units
from small_runs import make_noisy, plan_for, run_to_end

MOVIE = np.stack([make_noisy(32, seed) for seed in range(5)])
LOST = 2
OTHERS = [0, 1, 3, 4]


def lose(movie: np.ndarray, frame: int = LOST, value: int = 0) -> np.ndarray:
    lost = movie.copy()
    lost[frame] = value
    return lost


def denoise(image: np.ndarray, axes: str = "TYX", **settings: Any) -> Any:
    _, restoration = run_to_end(plan_for(image, axes, max_iterations=5, **settings), image)
    assert restoration is not None
    return restoration


@pytest.mark.parametrize("training", ["joint", "warm-start"])
def test_the_other_frames_are_restored_as_without_the_lost_one(training: str) -> None:
    without = denoise(MOVIE[OTHERS], series_training=training)
    lost = denoise(lose(MOVIE), series_training=training)
    np.testing.assert_allclose(lost.image[OTHERS], without.image, rtol=1e-5)
    assert lost.report["noise"] == without.report["noise"]


@pytest.mark.parametrize("value", [0, 150, 60000])
def test_the_lost_frame_keeps_its_value_and_is_named(value: int) -> None:
    restoration = denoise(lose(MOVIE, value=value), dtype="same")
    assert (restoration.image[LOST] == value).all()
    codes = [note["code"] for note in restoration.report["note_codes"]]
    assert "parts-empty" in codes
    assert not {"parts-unrestored", "pixels-darkest", "brightness-off"} & set(codes)
    note = restoration.report["notes"][codes.index("parts-empty")]
    assert note.startswith("Frame 3 holds one grey value only.")


def test_a_lost_plane_of_a_volume_keeps_its_value_and_is_named() -> None:
    restoration = denoise(lose(MOVIE), "ZYX", stacks="volume")
    assert (restoration.image[LOST] == 0).all()
    assert any(note.startswith("Plane 3 holds one") for note in restoration.report["notes"])


@pytest.mark.parametrize("channels", ["together", "separate"])
def test_a_frame_that_one_channel_lost_keeps_its_value_there(channels: str) -> None:
    pair = np.stack([MOVIE, MOVIE[::-1]], 1)
    pair[LOST, 1] = 0
    restoration = denoise(pair, "TCYX", channels=channels)
    assert (restoration.image[LOST, 1] == 0).all()
    assert restoration.image[LOST, 0].std() > 0
    assert any(note.startswith("Channel 2: frame 3") for note in restoration.report["notes"])


def test_a_lost_frame_is_no_unit_no_neighbour_and_no_training_region() -> None:
    plan = plan_for(MOVIE, "TYX", series_training="joint")
    units = make_units(plan, plan.fit_config, empty_items={(LOST, 0)})
    regions = [region for unit in units for region in unit.training_regions]
    frames = [unit for unit in units if unit.has_estimate]
    assert [unit.item for unit in frames] == OTHERS
    assert {region.item for region in regions} == set(OTHERS)
    for unit in (*frames, *regions):
        assert LOST not in (unit.previous_item, unit.next_item)
    assert [(unit.previous_item, unit.next_item) for unit in frames[1:3]] == [(0, 3), (1, 4)]


def test_a_warm_start_skips_a_lost_frame() -> None:
    plan = plan_for(MOVIE, "TYX", series_training="warm-start")
    first, _, after, _ = make_units(plan, plan.fit_config, empty_items={(LOST, 0)})
    assert after.item == LOST + 1
    assert after.start_unit_id == "p1c0r0"
    without_first = make_units(plan, plan.fit_config, empty_items={(0, 0)})[0]
    assert without_first.start_unit_id == ""
    assert without_first.iterations == first.iterations


def test_neighbours_of_a_plane_in_a_movie_of_stacks_are_the_same_plane() -> None:
    movie = np.stack([MOVIE[:3]] * 4)
    plan = plan_for(movie, "TZYX", series_training="warm-start", stacks="planes")
    units = make_units(plan, plan.fit_config, empty_items={(4, 0)})
    neighbours = {unit.item: (unit.previous_item, unit.next_item) for unit in units}
    assert neighbours[1] == (None, 7)
    assert neighbours[7] == (1, 10)
    assert neighbours[5] == (2, 8)


def test_only_planes_among_others_are_empty() -> None:
    stack = lose(MOVIE).astype(np.float32)[:, None]
    mask = find_empty_planes(stack)
    assert mask is not None
    assert mask[:, 0].tolist() == [False, False, True, False, False]
    assert find_empty_planes(MOVIE[:, None]) is None
    assert find_empty_planes(np.zeros((3, 1, 8, 8), np.float32)) is None


def test_an_empty_plane_gets_the_brightness_of_the_closest_other() -> None:
    stack = lose(lose(MOVIE), LOST + 1).astype(np.float32)[:, None]
    mask = find_empty_planes(stack)
    assert mask is not None
    filled = fill_empty_planes(stack, mask)
    assert np.ptp(filled[LOST]) == 0
    assert filled[LOST].mean() == pytest.approx(MOVIE[LOST - 1].mean())
    assert filled[LOST + 1].mean() == pytest.approx(MOVIE[LOST + 2].mean())
