"""Traces of shapes that are drawn on a movie, in the input and in the result."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image, Shapes

from napari_dip.errors import RefusedError
from napari_dip.qt.shell.background_call import stop_parts
from napari_dip.qt.shell.dock_plots import (
    LineProfiles,
    ProfilePlot,
    ProfileSection,
    ShapeTraces,
    is_movie_result,
    measure_shape_traces,
)
from napari_dip.qt.shell.layer_headers import METADATA_KEY

NOISE = {"gain": [1.0], "intercept": [0.0], "unreliable_reason": [None], "blind_spot_size": [1, 1]}


def make_layers() -> tuple[Image, Image]:
    """Return a movie of a square that blinks, and a result with half of its change."""
    light = np.full((32, 24, 24), 40.0)
    light[:, 4:12, 4:12] *= 1 + np.sin(np.arange(32) / 2)[:, None, None] ** 2
    movie = np.random.default_rng(0).poisson(light)
    report = {"axes": "TYX", "noise": NOISE}
    result = (light + light.mean(0)) / 2
    scale = (1, 0.5, 0.5)
    return (
        Image(movie, scale=scale),
        Image(result, scale=scale, metadata={METADATA_KEY: {"report": report}}),
    )


def draw_square(y: float, x: float) -> np.ndarray:
    """Return corners around eight pixels of half a unit."""
    return np.add([[0, 0], [0, 3.5], [3.5, 3.5], [3.5, 0]], (y, x))


def test_traces_of_two_shapes_are_those_of_their_pixels(qtbot) -> None:
    before, after = make_layers()
    shapes = Shapes([draw_square(7, 7), draw_square(2, 2)], shape_type="polygon")
    assert is_movie_result(after) and not is_movie_result(before)
    lines = measure_shape_traces(shapes, before, after)
    traces = lines.traces
    inside = np.asarray(before.data)[:, 4:12, 4:12].mean((1, 2))
    np.testing.assert_allclose(traces.measured[:, 1], inside, rtol=0.05)
    assert traces.comparisons[0] is None  # nothing changes there
    assert traces.comparisons[1].slope == pytest.approx(0.5, abs=0.05)
    table = lines.render("csv").decode().splitlines()
    assert table[0] == "frame,input 1,result 1,input 2,result 2" and len(table) == 33
    assert lines.render("svg").startswith(b"<?xml") and b"Frame" in lines.render("svg")
    plot = ProfilePlot()
    qtbot.addWidget(plot)
    plot.show_profiles(lines)
    assert "Region 2: 5" in lines.describe() and "ΔF/F is not kept" in lines.describe()
    np.testing.assert_allclose(plot.input_curve.getData()[1], traces.measured[:, 1])
    shapes.selected_data = {0}
    lines = measure_shape_traces(shapes, before, after)
    assert "Region 1: apart from a steady trend, it changes by less than" in lines.describe()


def test_of_a_short_movie_the_number_of_frames_is_the_reason() -> None:
    layers = make_layers()
    for layer in layers:
        layer.data = layer.data[:8]
    lines = measure_shape_traces(Shapes([draw_square(2, 2)], shape_type="polygon"), *layers)
    assert lines.describe().startswith("8 frames are too few")
    assert "change" not in lines.describe() and "takes 16" in lines.describe()


def test_a_shape_outside_of_the_movie_is_refused() -> None:
    with pytest.raises(RefusedError, match="lies in what was drawn"):
        measure_shape_traces(Shapes([draw_square(90, 90)], shape_type="polygon"), *make_layers())


@pytest.mark.gl
def test_a_region_that_is_drawn_shows_traces_and_a_line_beside_it_the_profile(
    make_napari_viewer, qtbot
) -> None:
    viewer, (before, after) = make_napari_viewer(), make_layers()
    section = ProfileSection(viewer)
    qtbot.addWidget(section)
    viewer.add_layer(before)
    viewer.add_layer(after)
    section.show_pair(before, after)
    section.title_button.setChecked(True)
    section.region_button.click()
    shapes = viewer.layers["traces"]
    assert shapes.mode == "add_rectangle"
    shapes.add(draw_square(2, 2))
    qtbot.waitUntil(lambda: isinstance(section.profiles, ShapeTraces))
    assert "Region 1:" in section.message_label.text() and not section.plot.isHidden()
    shapes.add([[1, 1], [5, 5]], shape_type="line")
    qtbot.waitUntil(lambda: isinstance(section.profiles, LineProfiles))
    stop_parts(section)
