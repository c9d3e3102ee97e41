"""Parts that no fit has reached are named, counted from one."""

from __future__ import annotations

import numpy as np
import pytest

import napari_dip as dip
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.report import (
    make_unrestored_items_notes,
    make_unrestored_tiles_notes,
)
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe

AS_IS = "they are as in the input."


def describe_missing(shape, axes, missing):
    """Words of a run of that image which was ended before some parts, (parts, C)."""
    header = ImageHeader(name="x", shape=shape, dtype="float32", axes=axes)
    recipe = make_recipe("denoise", preset="fast", stacks="planes", series_training="warm-start")
    plan = preflight(recipe, header, detect_machine(), {})
    return tuple(map(str, make_unrestored_items_notes(plan, np.asarray(missing, bool))))


@pytest.mark.parametrize(
    ("count", "unrestored", "message"),
    [
        (3, [], ()),
        (2, [1], ("Plane 2 was not restored; it is as in the input.",)),
        (3, [1, 2], (f"Planes 2 and 3 were not restored; {AS_IS}",)),
        (9, [2, 3, 4, 5, 6, 7, 8], (f"Planes 3 to 9 were not restored; {AS_IS}",)),
        (9, [1, 4, 5, 6, 8], (f"Planes 2, 5 to 7 and 9 were not restored; {AS_IS}",)),
    ],
)
def test_planes_that_were_not_reached_are_named(count, unrestored, message):
    missing = np.isin(np.arange(count), unrestored)[:, None]
    assert describe_missing((count, 32, 32), "ZYX", missing) == message


def test_a_frame_of_planes_is_named_whole_where_none_of_it_was_reached():
    missing = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], bool)[:, None]
    assert describe_missing((3, 3, 32, 32), "TZYX", missing) == (
        "Frame 3 was not restored; it is as in the input.",
        "Plane 3 of frame 2 was not restored; it is as in the input.",
    )


def test_channels_are_named_and_of_a_channel_the_planes():
    message = "Channel 2 was not restored; it is as in the input."
    assert describe_missing((2, 2, 32, 32), "ZCYX", [[0, 1], [0, 1]]) == (message,)
    assert describe_missing((2, 2, 32, 32), "ZCYX", [[0, 0], [0, 1]]) == (
        "Channel 2: plane 2 was not restored; it is as in the input.",
    )


def test_tiles_are_counted_in_good_grammar():
    assert make_unrestored_tiles_notes(0, 4) == ()
    assert tuple(map(str, make_unrestored_tiles_notes(1, 4))) == (
        "1 of the 4 tiles was not restored; it is as in the input.",
    )
    assert str(make_unrestored_tiles_notes(3, 4)[0]).startswith(
        "3 of the 4 tiles were not restored; they are"
    )


def test_a_stopped_restart_is_counted_nowhere_as_part_of_the_image():
    image = np.random.default_rng(0).poisson(50, (32, 32)).astype(np.uint16)
    settings = {"preset": "fast", "max_iterations": 20, "time_limit": 600}
    whole = dip.denoise(image, restarts=1, **settings)
    ended = dip.restore(image, dip.make_recipe("denoise", restarts=3, **settings), keep_after=25)
    np.testing.assert_array_equal(ended.image, whole.image)
    fit, whole_fit = ended.report["fit"], whole.report["fit"]
    assert (fit["finished_fit_count"], fit["stopped_fit_count"]) == (1, 1)
    assert (fit["unused_fit_count"], whole_fit["unused_fit_count"]) == (1, 0)
    assert fit["min_spot_snr"] == whole_fit["min_spot_snr"] and fit["refined"]
    assert ended.report["iterations"] == whole.report["iterations"] == 20
    assert ended.report["verdict"]["figures"] == whole.report["verdict"]["figures"]
    (note,) = [n for n in ended.report["verdict"]["codes"] if n["code"] == "restarts-missing"]
    assert note["facts"] == {"count": 1, "most": 3, "several": False}
    assert make_card(ended.report).headline == make_card(whole.report).headline
    text = write_methods_section(ended.report)
    assert "20 iterations of at most 20" in text and "another fit was stopped and not used" in text


def test_all_restarts_that_were_planned_need_no_note():
    image = np.random.default_rng(0).poisson(50, (32, 32)).astype(np.uint16)
    both = dip.denoise(image, preset="fast", max_iterations=4, restarts=2)
    codes = {note["code"] for note in both.report["verdict"]["codes"]}
    assert "restarts-missing" not in codes and "in 2 fits" in write_methods_section(both.report)
