"""Each task in its own dock: layers chosen by hand, Run clicked, a result in the right place."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.qt.docks import dock_of
from napari_dip.qt.layers import METADATA_KEY

pytestmark = pytest.mark.gl

SIDE = 64


@pytest.fixture
def open_dock(desk):
    """Put the dock of another task in the place of the desk's own."""

    def put(task, **settings):
        desk.dock.shut_down()
        desk.viewer.window.remove_dock_widget(desk.dock)
        desk.dock = dock_of(task)(desk.viewer)
        desk.viewer.window.add_dock_widget(desk.dock, name=task, area="right")
        desk.set(**{"preset": "fast", "max_iterations": "8", **settings})
        return desk

    return put


def choose(desk, name, layer):
    combo = desk.dock.further.combos[name]
    combo.setCurrentIndex(combo.findText(layer))
    combo.activated.emit(combo.currentIndex())


def result_of(desk, name):
    desk.run()
    desk.wait_for_end()
    assert name in desk.names, desk.said
    assert desk.names.count("cells preview") == 0
    return desk.viewer.layers[name]


def test_painted_pixels_are_filled_in_and_the_others_come_back_as_they_were(open_dock, noisy):
    desk = open_dock("inpaint")
    labels = desk.viewer.add_labels(np.zeros((SIDE, SIDE), int), name="holes")
    labels.brush_size = 5
    labels.selected_label = 1
    for place in ((20, 20), (20, 25), (40, 44)):
        labels.paint(place, 1)
    choose(desk, "mask", "holes")
    result = result_of(desk, "cells inpainted")
    holes = labels.data > 0
    assert holes.any()
    np.testing.assert_array_equal(result.data[~holes], noisy[~holes])
    assert (result.data[holes] != noisy[holes]).any()


def test_a_shape_marks_what_to_fill_in(open_dock, noisy):
    desk = open_dock("inpaint")
    square = np.array([[10, 12], [10, 20], [18, 20], [18, 12]])
    desk.viewer.add_shapes([square], shape_type="polygon", name="drawing")
    choose(desk, "mask", "drawing")
    result = result_of(desk, "cells inpainted")
    changed = np.argwhere(result.data != noisy)
    assert changed.min() >= 9
    assert changed.max() <= 21


def test_an_empty_mask_is_refused_in_words(open_dock):
    desk = open_dock("inpaint")
    desk.viewer.add_labels(np.zeros((SIDE, SIDE), int), name="nothing")
    choose(desk, "mask", "nothing")
    desk.run()
    desk.wait_for_end()
    assert desk.names == ["cells", "nothing"]
    assert desk.said.endswith(".")


def test_a_finer_picture_lies_exactly_over_its_input(open_dock):
    desk = open_dock("super-resolve", factor="2")
    source = desk.viewer.layers["cells"]
    source.scale, source.translate, source.rotate = (0.5, 0.25), (3, 4), 20
    result = result_of(desk, "cells super-resolved")
    assert result.data.shape == (2 * SIDE, 2 * SIDE)
    for corner in (0, SIDE - 1):  # pixel centres of the coarse grid, and what they are in the fine
        coarse = source.data_to_world((corner, corner))
        fine = result.data_to_world((2 * corner + 0.5, 2 * corner + 0.5))
        np.testing.assert_allclose(fine, coarse)


def test_a_blur_of_known_width_is_undone(open_dock):
    desk = open_dock("deblur", gaussian_sigma="1.5")
    result = result_of(desk, "cells deblurred")
    assert result.data.shape == (SIDE, SIDE)
    assert result.metadata[METADATA_KEY]["recipe"]["task"] == "deblur"


def test_deblurring_without_a_psf_says_what_is_needed(open_dock):
    desk = open_dock("deblur")
    assert not desk.dock.run_bar.run_button.isEnabled()
    assert desk.dock.plan_line.text().endswith(".")


def test_a_second_channel_guides(open_dock, noisy):
    desk = open_dock("guide")
    desk.viewer.add_image(noisy.astype(float) ** 0.5, name="clean")
    desk.viewer.layers.selection.active = desk.viewer.layers["cells"]
    choose(desk, "guide", "clean")
    result = result_of(desk, "cells guided")
    assert result.data.shape == (SIDE, SIDE)


def test_a_guide_of_another_size_is_refused_before_anything_runs(open_dock):
    desk = open_dock("guide")
    desk.viewer.add_image(np.random.default_rng(0).normal(size=(32, 32)), name="small")
    desk.viewer.layers.selection.active = desk.viewer.layers["cells"]
    choose(desk, "guide", "small")
    assert not desk.dock.run_bar.run_button.isEnabled()
    assert "small" in desk.dock.plan_line.text()


def test_a_blind_deblurring_gives_the_psf_as_a_second_layer(open_dock):
    desk = open_dock("blind-deblur")
    result_of(desk, "cells deblurred blindly")
    (psf,) = (layer for layer in desk.viewer.layers if "PSF" in layer.name)
    assert psf.data.sum() == pytest.approx(1, abs=1e-3)
    assert psf.data.min() >= 0
