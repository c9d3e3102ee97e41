"""Intensities of input and result along a drawn line, their peaks, and the files of them."""

from __future__ import annotations

import csv
from xml.etree import ElementTree

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtWidgets import QFileDialog

from napari_dip.pipeline.assess.metrics import NoPeakWidth, measure_peak_width
from napari_dip.qt.shell.dock_plots import (
    LineProfiles,
    Profile,
    find_drawn_line,
    measure_line_profile,
)

SAMPLES = np.arange(41.0)


def draw_peak(middle, width=6.0, height=10.0):
    return height * np.exp(-4 * np.log(2) * ((SAMPLES - middle) / width) ** 2)


def test_the_width_of_a_peak_is_within_twice_its_error():
    rng = np.random.default_rng(0)
    pairs = [
        measure_peak_width(SAMPLES / 10, draw_peak(20 + rng.uniform()) + rng.normal(size=41))
        for _ in range(100)
    ]
    widths, errors = np.array([pair for pair in pairs if isinstance(pair, tuple)]).T
    assert len(widths) > 90
    assert np.mean(np.abs(widths - 0.6) < 2 * errors) > 0.88
    assert np.median(errors) == pytest.approx(widths.std(), rel=0.3)


def test_the_width_of_a_smooth_result_has_an_error_that_is_not_too_small():
    rng = np.random.default_rng(1)
    kernel = np.array([0.25, 0.5, 0.25])
    pairs = []
    for _ in range(100):
        noise = np.convolve(rng.normal(size=43), kernel, "valid")
        pairs.append(measure_peak_width(SAMPLES, draw_peak(20, height=6) + noise))
    widths, errors = np.array([pair for pair in pairs if isinstance(pair, tuple)]).T
    assert np.mean(np.abs(widths - 6) < 2 * errors) > 0.85


def test_a_smooth_result_has_at_least_the_error_that_the_noise_of_its_input_leaves():
    noisy = draw_peak(20) + np.random.default_rng(4).normal(size=41)
    smooth = draw_peak(20, 5.5)
    _, error = measure_peak_width(SAMPLES, noisy)
    assert measure_peak_width(SAMPLES, smooth)[1] < 0.01
    assert measure_peak_width(SAMPLES, smooth, 1.0)[1] == pytest.approx(error, rel=0.4)
    lines = LineProfiles(("a", "b"), (Profile(SAMPLES, noisy), Profile(SAMPLES, smooth)), "µm")
    before, after = (float(text.split()[2]) for text in lines.measure_widths())
    assert after == pytest.approx(before, rel=0.4)


@pytest.mark.parametrize(
    "profile",
    [
        draw_peak(12) + draw_peak(28),
        draw_peak(4),
        draw_peak(20, 20.0),
        np.where(SAMPLES > 20, 10.0, 0),
        SAMPLES,
        np.ones(41),
        np.full(41, np.nan),
        np.where(SAMPLES == 20, 10.0, 0),
    ],
    ids=["two", "cut", "wider than the line", "edge", "slope", "flat", "outside", "one pixel"],
)
def test_without_a_whole_single_peak_there_is_no_width(profile):
    noise = np.random.default_rng(2).normal(size=41)
    assert isinstance(measure_peak_width(SAMPLES, profile), NoPeakWidth)
    noisy_width = measure_peak_width(SAMPLES, profile + noise)
    assert isinstance(noisy_width, NoPeakWidth) or profile[20] > profile[18] + 9


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (draw_peak(12) + draw_peak(28), "there is no single peak on the line"),
        (draw_peak(6), "the line ends too near to the peak"),
        (np.where(SAMPLES == 20, 10.0, 0), "the peak is hardly wider than a pixel"),
    ],
)
def test_a_missing_width_comes_with_its_reason(profile, reason):
    pair = Profile(SAMPLES, profile), Profile(SAMPLES, profile)
    assert LineProfiles(("a", "b"), pair, "µm").describe() == f"Width of a peak (FWHM): {reason}."


def test_a_width_of_one_profile_and_a_reason_of_the_other_are_both_named():
    pair = Profile(SAMPLES, draw_peak(12) + draw_peak(28)), Profile(SAMPLES, draw_peak(20))
    text = LineProfiles(("a", "b"), pair, "µm").describe()
    assert "input: there is no single peak on the line; result 6 ± " in text


def test_noise_alone_has_hardly_ever_a_width():
    rng = np.random.default_rng(3)
    pairs = [measure_peak_width(SAMPLES, rng.normal(size=41)) for _ in range(200)]
    assert sum(isinstance(width, tuple) for width in pairs) <= 2


@pytest.mark.long
def test_a_profile_becomes_a_table_and_a_drawing_with_text():
    fine = np.arange(0, 40.5, 0.5)
    profiles = Profile(SAMPLES, SAMPLES * 2), Profile(fine, draw_peak(20)[0] + fine)
    lines = LineProfiles(("cells", "=cells $a$"), profiles, "µm")
    head, *rows = csv.reader(lines.render("csv").decode().splitlines())
    assert head == ["Distance (µm)", "cells", "'=cells $a$"]  # no formula for a spreadsheet
    assert len(rows) == 81 and list(map(float, rows[3])) == pytest.approx([1.5, 3.0, 1.5])
    drawing = lines.render("svg")
    assert drawing == lines.render("svg")
    texts = ["".join(node.itertext()) for node in ElementTree.fromstring(drawing).iter()]
    assert "Distance (µm)" in texts and "=cells $a$" in texts
    assert lines.render("pdf").startswith(b"%PDF")


def test_a_profile_reads_the_image_along_the_line_in_world_units():
    ramp = np.tile(np.arange(20.0), (10, 1))
    image = Image(ramp, scale=(2, 0.5), translate=(1, 3))
    line = np.array([[5.0, 4.0], [5.0, 9.0]])
    estimate = measure_line_profile(image, line, (0.0, 0.0))
    assert estimate.distance[-1] == 5
    np.testing.assert_allclose(estimate.intensity, 2 + estimate.distance / 0.5)


def test_a_line_in_another_unit_lies_where_napari_shows_it():
    viewer, ramp = ViewerModel(), np.tile(np.arange(20.0), (10, 1))
    image = viewer.add_image(ramp, scale=(0.1, 0.1), units="um")
    line = np.array([[500.0, 400.0], [500.0, 900.0]])
    viewer.add_shapes([line], shape_type="line", units="nm")
    drawn, units = find_drawn_line(viewer), viewer.dims.units
    np.testing.assert_allclose(drawn, line)
    estimate = measure_line_profile(image, drawn, viewer.dims.point, units)
    np.testing.assert_allclose(estimate.intensity, 4 + estimate.distance / 100)
    assert estimate.distance[-1] == 500


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
def test_a_line_drawn_with_the_mouse_shows_input_and_result(driver, tmp_path, monkeypatch):
    viewer, fold = driver.viewer, driver.dock.result_view.profile
    driver.set(max_iterations="4")
    driver.run()
    driver.wait_for_end()
    viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    viewer.reset_view()
    driver.press(fold.title_button)
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
    assert "(FWHM)" in fold.message_label.text()
    button = driver.dock.result_view.save_menu
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "a.csv"), ""))
    position = lambda: button.menu().actionGeometry(button.profile_action).center()  # noqa: E731
    QTimer.singleShot(
        200,
        lambda: driver.qtbot.mouseClick(button.menu(), Qt.MouseButton.LeftButton, pos=position()),
    )
    driver.press(button)
    driver.wait_until(lambda: "Saved as 'a.csv'" in driver.last_message)
    table = np.genfromtxt(tmp_path / "a.csv", delimiter=",", skip_header=1)
    np.testing.assert_allclose(table[:, 2], after, rtol=1e-6)


@pytest.mark.gl
def test_a_profile_that_appears_below_the_window_is_scrolled_into_sight(driver):
    viewer, fold = driver.viewer, driver.dock.result_view.profile
    window = viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    cells = viewer.layers["cells"]
    result = viewer.add_image(cells.data[::-1], name="cells denoised", visible=False)
    fold.show_pair(cells, result)
    driver.dock.run_bar.show_message("\n".join(["A line."] * 10))
    driver.press(fold.title_button)
    driver.qtbot.wait(100)
    driver.press(fold.draw_button)
    viewer.layers["line profile"].add_lines(np.array([[5.0, 5.0], [50.0, 40.0]]))
    driver.wait_until(lambda: not fold.plot.isHidden())
    driver.wait_until(lambda: fold.plot.visibleRegion().boundingRect() == fold.plot.rect())


def show_pair(driver):
    """Return the viewer and the fold of profiles, with an input and a result."""
    viewer, fold = driver.viewer, driver.dock.result_view.profile
    cells = viewer.layers["cells"]
    fold.show_pair(cells, viewer.add_image(cells.data[::-1], name="cells denoised"))
    return viewer, fold


@pytest.mark.long
@pytest.mark.gl
def test_drawing_a_line_leaves_the_grid_where_it_would_have_a_cell_of_its_own(driver):
    viewer, fold = show_pair(driver)
    viewer.window._qt_window.show()
    driver.press(fold.title_button)
    driver.wait_until(lambda: not fold.draw_button.visibleRegion().isEmpty())
    viewer.canvas.grid.enabled = True
    driver.press(fold.draw_button)
    assert not viewer.canvas.grid.enabled
    assert viewer.layers.selection.active.name == "line profile"


@pytest.mark.long
@pytest.mark.gl
def test_a_line_beside_the_image_is_answered_in_a_sentence(driver):
    viewer, fold = show_pair(driver)
    fold.title_button.setChecked(True)
    viewer.add_shapes([np.array([[300.0, 300.0], [300.0, 340.0]])], shape_type="line")
    driver.wait_until(
        lambda: "'cells denoised' lies in what was drawn" in fold.message_label.text()
    )
    assert fold.plot.isHidden()
