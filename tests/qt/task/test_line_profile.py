"""Intensities of input and result along a drawn line."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import QPoint, Qt

from napari_dip.qt.shell.dock_plots import measure_line_profile


def test_a_profile_reads_the_image_along_the_line_in_world_units():
    ramp = np.tile(np.arange(20.0), (10, 1))
    image = Image(ramp, scale=(2, 0.5), translate=(1, 3))
    line = np.array([[5.0, 4.0], [5.0, 9.0]])
    estimate = measure_line_profile(image, line, (0.0, 0.0))
    assert estimate.distance[-1] == 5
    np.testing.assert_allclose(estimate.intensity, 2 + estimate.distance / 0.5)


def test_a_profile_of_a_stack_is_that_of_the_plane_in_sight_and_of_colours_their_mean():
    stack = np.arange(3.0)[:, None, None] * np.ones((3, 8, 8))
    line = np.array([[2.0, 1.0], [2.0, 6.0]])
    assert set(measure_line_profile(Image(stack), line, (2.0, 0.0, 0.0)).intensity) == {2.0}
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[..., 0] = 30
    np.testing.assert_allclose(
        measure_line_profile(Image(colours, rgb=True), line, (0, 0)).intensity, 10
    )


def test_outside_of_an_image_there_is_no_profile():
    line = np.array([[2.0, -4.0], [2.0, 4.0]])
    estimate = measure_line_profile(Image(np.ones((8, 8))), line, (0.0, 0.0)).intensity
    assert np.isnan(estimate[:3]).all() and (estimate[-4:] == 1).all()
    far = np.array([[20.0, 20.0], [20.0, 30.0]])
    assert np.isnan(measure_line_profile(Image(np.ones((8, 8))), far, (0.0, 0.0)).intensity).all()


@pytest.mark.gl
def test_a_line_drawn_with_the_mouse_shows_input_and_result(driver):
    viewer, fold = driver.viewer, driver.dock.result_view.profile
    driver.set(max_iterations="4")
    driver.run()
    driver.wait_for_end()
    viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    viewer.reset_view()
    driver.press(fold.toggleButton())
    viewer.screenshot(canvas_only=False, flash=False)
    driver.press(fold.draw_button)
    assert viewer.layers["line profile"].mode == "add_line"
    assert driver.dock.crop_preview.region_combo.count() == 1  # a line is no region
    canvas = viewer.window._qt_viewer.canvas.native
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    driver.qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=middle - QPoint(80, 0))
    for step in range(-60, 81, 20):
        driver.qtbot.mouseMove(canvas, middle + QPoint(step, 0), delay=5)
    driver.qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(80, 0))
    driver.wait_until(lambda: not fold.plot.isHidden())
    before, after = (
        np.asarray(curve.getData()[1]) for curve in (fold.plot.input_curve, fold.plot.result_curve)
    )
    assert len(before) > 5
    assert np.abs(np.diff(after)).mean() < np.abs(np.diff(before)).mean()
    assert "'cells denoised'" in fold.message_label.text()
