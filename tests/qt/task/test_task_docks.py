"""Each task in its own dock: layers chosen by hand, Run clicked, a result in the right place."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_dip.pipeline.assess.card import VERDICT_COLOURS
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.task_dock import make_dock_class

pytestmark = pytest.mark.gl

SIDE = 64


@pytest.fixture
def open_dock(driver):
    """Put the dock of another task in the place of the driver's own."""

    def open_with_image(task, **settings):
        driver.dock.shut_down()
        driver.viewer.window.remove_dock_widget(driver.dock)
        driver.dock = make_dock_class(task)(driver.viewer)
        driver.viewer.window.add_dock_widget(driver.dock, name=task, area="right")
        driver.set(**{"preset": "fast", "max_iterations": "8", **settings})
        return driver

    return open_with_image


def choose(driver, name, layer):
    combo = driver.dock.extra_inputs.combos[name]
    combo.setCurrentIndex(combo.findText(layer))
    combo.activated.emit(combo.currentIndex())


def run_and_get_result(driver, name):
    driver.run()
    driver.wait_for_end()
    assert name in driver.names, driver.last_message
    assert driver.names.count("cells preview") == 0
    return driver.viewer.layers[name]


def test_painted_pixels_are_filled_in_and_the_others_come_back_as_they_were(open_dock, noisy):
    driver = open_dock("inpaint")
    labels = driver.viewer.add_labels(np.zeros((SIDE, SIDE), int), name="holes")
    labels.brush_size = 5
    labels.selected_label = 1
    for place in ((20, 20), (20, 25), (40, 44)):
        labels.paint(place, 1)
    choose(driver, "mask", "holes")
    result = run_and_get_result(driver, "cells inpainted")
    holes = labels.data > 0
    assert holes.any()
    np.testing.assert_array_equal(result.data[~holes], noisy[~holes])
    assert (result.data[holes] != noisy[holes]).any()


def test_a_new_mask_lies_on_the_image_and_is_chosen_and_painted_at_once(open_dock, noisy):
    driver = open_dock("inpaint")
    driver.viewer.layers.remove("cells")
    movie = np.stack([noisy] * 3)
    place = {"scale": (1, 0.5, 0.5), "translate": (0, 7, 9)}
    driver.viewer.add_image(movie, name="cells", axis_labels=("t", "y", "x"), **place)
    driver.viewer.window._qt_window.show()
    extra_inputs = driver.dock.extra_inputs
    driver.press(extra_inputs.mask_buttons["mask"])
    mask = extra_inputs.get_layer("mask")
    assert mask is driver.viewer.layers.selection.active
    assert (mask.name, mask.mode, mask.data.shape) == ("cells mask", "paint", movie.shape)
    np.testing.assert_array_equal(mask.scale, place["scale"])
    np.testing.assert_array_equal(mask.translate, place["translate"])
    assert "marks no pixel" in driver.dock.plan_label.text()
    driver.viewer.reset_view()
    click_on_canvas(driver)
    assert mask.data.any()
    assert driver.dock.run_bar.run_button.isEnabled()
    driver.press(extra_inputs.mask_buttons["mask"])
    assert extra_inputs.get_layer("mask").name == "cells mask [1]"


def click_on_canvas(driver):
    canvas = driver.viewer.window._qt_viewer.canvas.native
    driver.qtbot.mouseMove(canvas, canvas.rect().center())
    driver.qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())


@pytest.mark.long
def test_a_slice_filled_with_a_label_is_restored_from_its_neighbours(open_dock, noisy):
    driver = open_dock("inpaint")
    stack = np.stack([np.roll(noisy, shift, 1)[:32, :32] for shift in range(5)])
    driver.viewer.layers.remove("cells")
    driver.viewer.add_image(stack, name="cells", scale=(3, 1, 1), axis_labels=("z", "y", "x"))
    labels = driver.viewer.add_labels(np.zeros(stack.shape, int), name="gone", scale=(3, 1, 1))
    driver.viewer.reset_view()
    driver.viewer.dims.set_current_step(0, 2)
    labels.selected_label = 1
    labels.mode = "fill"
    click_on_canvas(driver)
    assert labels.data.any((1, 2)).tolist() == [False, False, True, False, False]
    assert labels.data[2].all()
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "mask", "gone")
    result = run_and_get_result(driver, "cells inpainted")
    np.testing.assert_array_equal(result.data[[0, 1, 3, 4]], stack[[0, 1, 3, 4]])
    assert (result.data[2] != stack[2]).any()
    np.testing.assert_allclose(result.scale, (3, 1, 1))
    notes = result.metadata[METADATA_KEY]["report"]["notes"]
    assert any("1 of the 5 planes" in note for note in notes)


@pytest.mark.long
def test_a_mask_of_one_plane_serves_a_whole_stack_and_the_dock_says_so(open_dock, noisy):
    driver = open_dock("inpaint")
    stack = np.stack([noisy[:32, :32]] * 4)
    driver.viewer.layers.remove("cells")
    driver.viewer.add_image(stack, name="cells", axis_labels=("t", "y", "x"))
    lines = np.zeros((32, 32), int)
    lines[7:9] = 1
    driver.viewer.add_labels(lines, name="lines")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "mask", "lines")
    assert "holds for all 4 planes" in driver.dock.plan_label.text()
    result = run_and_get_result(driver, "cells inpainted")
    np.testing.assert_array_equal(result.data[:, lines == 0], stack[:, lines == 0])


@pytest.mark.long
def test_a_shape_marks_what_to_fill_in(open_dock, noisy):
    driver = open_dock("inpaint")
    square = np.array([[10, 12], [10, 20], [18, 20], [18, 12]])
    driver.viewer.add_shapes([square], shape_type="polygon", name="drawing")
    choose(driver, "mask", "drawing")
    result = run_and_get_result(driver, "cells inpainted")
    changed = np.argwhere(result.data != noisy)
    assert changed.min() >= 9
    assert changed.max() <= 21


@pytest.mark.long
def test_an_empty_mask_is_refused_with_a_message(open_dock):
    driver = open_dock("inpaint")
    driver.viewer.add_labels(np.zeros((SIDE, SIDE), int), name="nothing")
    choose(driver, "mask", "nothing")
    plan_label = driver.dock.plan_label
    assert "The mask marks no pixel of 'cells'." in plan_label.text()
    assert VERDICT_COLOURS["do-not-use"] in plan_label.styleSheet()
    assert not driver.dock.run_bar.run_button.isEnabled()
    driver.viewer.layers["nothing"].paint((9, 9), 1)
    assert driver.dock.run_bar.run_button.isEnabled() and not plan_label.styleSheet()
    driver.viewer.layers.clear()
    assert not driver.dock.run_bar.run_button.isEnabled() and not plan_label.styleSheet()


def test_a_finer_image_lies_exactly_over_its_input(open_dock):
    driver = open_dock("super-resolve", factor="2")
    source = driver.viewer.layers["cells"]
    source.scale, source.translate, source.rotate = (0.5, 0.25), (3, 4), 20
    result = run_and_get_result(driver, "cells super-resolved")
    assert result.data.shape == (2 * SIDE, 2 * SIDE)
    for corner in (0, SIDE - 1):  # pixel centres of the coarse grid, and what they are in the fine
        coarse = source.data_to_world((corner, corner))
        fine = result.data_to_world((2 * corner + 0.5, 2 * corner + 0.5))
        np.testing.assert_allclose(fine, coarse)


def replace_by_stack(driver, noisy, planes=6, side=24):
    """Put a stack in the place of the image, in micrometres."""
    stack = np.stack([np.roll(noisy, shift, 1)[:side, :side] for shift in range(planes)])
    driver.viewer.layers.remove("cells")
    units = ("micrometer",) * 3
    return driver.viewer.add_image(
        stack, name="cells", scale=(0.6, 0.2, 0.1), units=units, axis_labels=("z", "y", "x")
    )


@pytest.mark.long
def test_finer_planes_lie_exactly_over_their_stack(open_dock, noisy):
    driver = open_dock("super-resolve", factor="2,1,1")
    source = replace_by_stack(driver, noisy)
    source.translate, source.rotate = (
        (7, 3, 4),
        np.array([[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]),
    )
    result = run_and_get_result(driver, "cells super-resolved")
    assert result.data.shape == (12, 24, 24)
    for plane, pixel in ((0, 0), (5, 23)):
        coarse = source.data_to_world((plane, pixel, pixel))
        np.testing.assert_allclose(result.data_to_world((2 * plane + 0.5, pixel, pixel)), coarse)


@pytest.mark.long
def test_a_layer_with_a_psf_of_three_axes_sharpens_a_volume(open_dock, noisy):
    driver = open_dock("deblur")
    replace_by_stack(driver, noisy)
    driver.viewer.add_image(np.ones((3, 3, 3), np.float32), name="beads")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "psf", "beads")
    result = run_and_get_result(driver, "cells deblurred")
    assert result.data.shape == (6, 24, 24)
    report = result.metadata[METADATA_KEY]["report"]
    assert report["noise"]["blind_spot_size"] == [1, 1, 1]


def press_again(driver):
    """Let the dock set all as for its result; return the section of these buttons."""
    buttons = driver.dock.repeat_section
    buttons.title_button.setChecked(True)
    driver.press(buttons.again_button)
    assert "Press Run to make it again" in driver.last_message
    return buttons


def test_repeating_a_result_tells_that_its_psf_has_changed(open_dock, tmp_path, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    driver = open_dock("deblur")
    psf = driver.viewer.add_image(np.eye(5, dtype=np.float32), name="beads")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "psf", "beads")
    run_and_get_result(driver, "cells deblurred")
    buttons = press_again(driver)
    psf.data = psf.data[::-1].copy()
    driver.press(buttons.again_button)
    assert "The pixels of 'beads' have changed since" in driver.last_message
    driver.dock.run_bar.message_label.clear()
    driver.press(buttons.python_button)
    driver.wait_until(lambda: "The pixels of 'beads' have changed" in driver.last_message)


def test_a_script_takes_a_drawn_mask_for_the_same_after_it_was_saved(
    open_dock, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    driver = open_dock("inpaint")
    square = np.array([[10, 10], [10, 16], [16, 16], [16, 10]])
    driver.viewer.add_shapes([square], shape_type="polygon", name="drawing")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "mask", "drawing")
    run_and_get_result(driver, "cells inpainted")
    buttons = press_again(driver)
    QApplication.clipboard().setText("")
    driver.press(buttons.python_button)
    driver.wait_until(lambda: "mask=" in QApplication.clipboard().text())
    monkeypatch.chdir(tmp_path)
    exec(QApplication.clipboard().text(), {})
    assert capsys.readouterr().out == "The same pixels as then.\n"


@pytest.mark.long
def test_the_layer_says_how_far_its_planes_lie_apart(open_dock, noisy):
    driver = open_dock("deblur", microscope="widefield", na="1.2", wavelength="520")
    replace_by_stack(driver, noisy)
    assert driver.dock.run_bar.run_button.isEnabled(), driver.dock.plan_label.text()
    notes = run_and_get_result(driver, "cells deblurred").metadata[METADATA_KEY]["report"]["notes"]
    assert any("100 × 200 nm in planes 600 nm apart" in note for note in notes)


def test_a_blur_of_known_width_is_undone(open_dock):
    driver = open_dock("deblur", gaussian_sigma="1.5")
    result = run_and_get_result(driver, "cells deblurred")
    assert result.data.shape == (SIDE, SIDE)
    assert result.metadata[METADATA_KEY]["recipe"]["task"] == "deblur"


@pytest.mark.long
def test_deblurring_without_a_psf_says_what_is_needed(open_dock):
    driver = open_dock("deblur")
    assert not driver.dock.run_bar.run_button.isEnabled()
    assert driver.dock.plan_label.text().endswith(".")


def test_a_second_channel_guides(open_dock, noisy):
    driver = open_dock("guide")
    driver.viewer.add_image(noisy.astype(float) ** 0.5, name="clean")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "guide", "clean")
    result = run_and_get_result(driver, "cells restored")
    assert result.data.shape == (SIDE, SIDE)


@pytest.mark.long
def test_only_a_layer_that_can_guide_is_chosen_by_itself(open_dock, noisy):
    driver = open_dock("guide")
    viewer, combo = driver.viewer, driver.dock.extra_inputs.combos["guide"]
    viewer.add_image(np.zeros((SIDE, 40)), name="narrow")
    viewer.add_image(np.zeros((3, SIDE, SIDE)), name="stack")
    viewer.layers.selection.active = viewer.layers["cells"]
    assert [combo.itemText(index) for index in range(combo.count())] == ["stack", "narrow"]
    assert combo.currentText() == ""
    text = driver.dock.plan_label.text()
    assert "64 × 64 pixels of 'cells'" in text and "crop or resample" in text
    assert not driver.dock.run_bar.run_button.isEnabled()
    viewer.add_image(noisy, name="clean")
    viewer.layers.selection.active = viewer.layers["cells"]
    assert combo.currentText() == "clean"
    assert driver.dock.run_bar.run_button.isEnabled()
    viewer.layers.selection.active = viewer.layers["stack"]
    assert combo.currentText() in ("clean", "cells")  # one plane for all of them


@pytest.mark.long
def test_a_guide_of_another_size_is_refused_before_anything_runs(open_dock):
    driver = open_dock("guide")
    driver.viewer.add_image(np.random.default_rng(0).normal(size=(32, 32)), name="small")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    choose(driver, "guide", "small")
    assert not driver.dock.run_bar.run_button.isEnabled()
    assert "small" in driver.dock.plan_label.text()


@pytest.mark.long
def test_a_blind_deblurring_gives_the_psf_as_a_second_layer(open_dock):
    driver = open_dock("blind-deblur")
    run_and_get_result(driver, "cells blind-deblurred")
    (psf,) = (layer for layer in driver.viewer.layers if "PSF" in layer.name)
    assert psf.data.sum() == pytest.approx(1, abs=1e-3)
    assert psf.data.min() >= 0


@pytest.mark.long
def test_only_a_plan_with_a_slower_prior_explains_unusual_noise(open_dock):
    for task, is_explained in (("denoise", True), ("inpaint", False)):
        driver = open_dock(task)
        label = driver.dock.plan_label
        assert ("Unusual noise is" in label.toolTip()) is is_explained
        assert label.toolTip().startswith("<qt>Time and memory of the run, at most.")
