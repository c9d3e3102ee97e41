"""Axes are rearranged to a stack and back, in any order."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.io import ImageHeader
from napari_dip.pipeline.plan.layout import from_stack, make_layout, to_stack


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("axes", ["YX", "XY", "ZYX", "YXZ", "TYX", "CYX", "YXS", "TZCYX", "XYCZT"])
def test_parts_are_the_way_there_and_back(axes: str, volume: bool) -> None:
    shape = tuple({"T": 2, "Z": 3, "C": 4, "S": 3, "Y": 5, "X": 6}[axis] for axis in axes)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    layout = make_layout(
        ImageHeader(name="a", shape=shape, dtype="float32", axes=axes), is_volume=volume
    )
    parts = to_stack(array, axes, layout)
    assert parts.shape[-2:] == (5, 6)
    assert parts.ndim == 2 + len(layout.grid_axes)
    assert np.array_equal(from_stack(parts, axes, shape, layout), array)


def test_a_volume_runs_along_depth_and_time_is_worked_frame_by_frame() -> None:
    header = ImageHeader(name="a", shape=(2, 3, 4, 5, 6), dtype="float32", axes="TZCYX")
    layout = make_layout(header, is_volume=True)
    assert (layout.item_axes, layout.channel_axis, layout.grid_axes) == ("T", "C", "ZYX")
    assert layout.count_items(header) == 2
    assert header.get_sizes(layout.grid_axes[:-2]) == (3,)


def test_axes_of_one_element_make_no_stack() -> None:
    header = ImageHeader(name="a", shape=(1, 1, 5, 6), dtype="float32", axes="TZYX")
    layout = make_layout(header, is_volume=True)
    assert (layout.count_items(header), layout.grid_axes) == (1, "YX")
