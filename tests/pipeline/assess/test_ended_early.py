"""Parts that no fit has reached are named, counted from one."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.io import ImageHeader
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
