"""The plots of the docks: their axes, and the validation loss with that of the result."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.qt.explorer.result_panel import ExplorerPlot
from napari_dip.qt.shell.dock_plots import LineProfiles, Profile, ProfilePlot
from napari_dip.qt.task.measurement_sections import PhotonTransferPlot, PsfPlot
from napari_dip.qt.task.snapshot_history import ValidationCurve, compute_loss_range

NAN = float("nan")


@pytest.fixture
def show(qtbot):
    """A function, since pytest holds on to what a fixture returns, and with it to its windows."""

    def show():
        curve = ValidationCurve()
        qtbot.addWidget(curve)
        return curve

    return show


def test_the_point_of_the_result_is_marked(show):
    curve = show()
    curve.extend([(1, 25, 3.0, 3.1), (1, 50, 2.0, 2.2), (1, 75, 1.0, 2.5)], 50)
    assert [list(values) for values in curve._result_dot.getData()] == [[50], [2.2]]
    assert list(curve._validation_curve.getData()[1]) == [3.1, 2.2, 2.5]


def test_iterations_are_counted_from_zero_from_the_first_point_on(show):
    curve = show()
    for last in (25, 400):
        curve.extend([(1, last, 3.0, 3.1)], last)
        low, high = curve.viewRange()[0]
        assert low == 0 and last < high < 1.1 * last


def test_losses_that_were_not_measured_are_left_out(show):
    curve = show()
    curve.extend([(1, 25, 3.0, NAN), (1, 50, NAN, 2.2)], 0)
    assert list(curve._fit_curve.getData()[0]) == [25]
    assert list(curve._validation_curve.getData()[0]) == [50]
    assert np.isfinite(curve._validation_curve.getData()[1]).all()


def test_a_new_part_begins_a_new_curve(show):
    curve = show()
    curve.extend([(1, 25, 3.0, 3.1), (1, 50, 2.0, 2.2)], 50)
    curve.extend([(2, 25, 5.0, 5.1)], 25)
    assert list(curve._validation_curve.getData()[1]) == [5.1]


def test_it_is_hidden_until_there_is_something_to_see(show):
    curve = show()
    assert curve.isHidden()
    curve.extend([(1, 25, 3.0, 3.1), (1, 50, 2.0, 2.2)], 50)
    assert not curve.isHidden()
    curve.restart()
    assert curve.isHidden()


def test_a_single_loss_is_a_sentence_and_no_plot_of_one_dot(show, qtbot):
    curve = show()
    qtbot.addWidget(curve.hint_label)
    curve.extend([(1, 25, 3.0, 3.1)], 25)
    assert curve.isHidden() and not curve.hint_label.isHidden()
    assert "one measured loss, at iteration 25" in curve.hint_label.text()
    curve.extend([(1, 50, 2.0, 2.2)], 50)
    assert not curve.isHidden() and curve.hint_label.isHidden()
    curve.restart()
    assert curve.isHidden() and curve.hint_label.isHidden()


def test_the_whole_plot_is_in_sight_beside_a_scroll_bar(show, qtbot):
    curve = show()
    curve.recolour("#ffffff", "#000000")
    curve.setFixedWidth(273)  # of a dock of 310 pixels without margins and scroll bar
    curve.extend([(1, 25, 3.0, 3.1), (1, 250, 2.0, 2.2)], 250)
    curve.show()
    qtbot.wait(50)
    legend, box = curve.getPlotItem().titleLabel, curve.getPlotItem().getViewBox()
    for part in (legend.item, box):
        edges = part.mapRectToScene(part.boundingRect())
        assert edges.left() >= 0 and edges.right() <= curve.viewport().width()


def test_the_axes_of_the_plot_have_labels(show):
    curve = show()
    curve.recolour("#ffffff", "#000000")
    item = curve.getPlotItem()
    assert item.getAxis("bottom").labelText == "Iteration"
    assert "Loss" in item.getAxis("left").labelText


def test_the_wheel_scrolls_the_dock_and_not_the_plot(show):
    curve = show()
    assert curve.getPlotItem().getViewBox().mouseEnabled() == [False, False]


def plot_line(plot, length):
    """Plot a profile of a hundred samples along a line of this many pixels."""
    profile = Profile(np.linspace(0, length, 100), np.arange(100.0))
    plot.show_profiles(LineProfiles(("a", "b"), (profile, profile), "pixel"))


def test_a_line_that_grows_while_it_is_drawn_keeps_ticks_in_pixels(qtbot):
    plot = ProfilePlot()
    qtbot.addWidget(plot)
    plot.recolour("#ffffff", "#000000")
    for length in (0, 100):
        plot_line(plot, length)
        plot.show()
        qtbot.wait(50)
    assert plot.viewRange()[0][1] > 90
    assert [plot.getAxis(side).autoSIPrefixScale for side in ("bottom", "left")] == [1, 1]


@pytest.mark.parametrize("kind", [ValidationCurve, PhotonTransferPlot, PsfPlot, ExplorerPlot])
def test_small_values_keep_their_ticks_in_another_theme(kind, qtbot):
    plot = kind()
    qtbot.addWidget(plot)
    plot.recolour("#ffffff", "#000000")
    plot.setRange(xRange=(0, 0.5), yRange=(0, 0.5))
    plot.recolour("#000000", "#ffffff")
    assert [plot.getAxis(side).autoSIPrefixScale for side in ("bottom", "left")] == [1, 1]


def test_the_label_of_the_horizontal_axis_is_whole(qtbot):
    plot = ProfilePlot()
    qtbot.addWidget(plot)
    plot.recolour("#ffffff", "#000000")
    plot_line(plot, 100)
    plot.show()
    qtbot.wait(50)
    label = plot.getAxis("bottom").label
    assert label.mapRectToScene(label.boundingRect()).bottom() <= plot.viewport().height()


def test_the_first_training_losses_do_not_flatten_the_validation_curve(show):
    training = np.array([6000, 300, 8, 1.1, 0.9, 0.8, 0.7])
    validation = np.array([1.6, 1.3, 1.1, 1.0, 1.02, 1.05, 1.1])
    curve = show()
    points = zip([1] * 7, range(25, 200, 25), training, validation, strict=True)
    curve.extend(points, 100)
    low, high = curve.viewRange()[1]
    assert low < 1.0 and high > 1.6 and high - low < 4.5 * 0.6


def test_a_huge_first_validation_loss_does_not_flatten_the_others():
    validation = np.array([500, 70, 1.3, 1.1, 1.0, 1.1, 1.2])
    low, high = compute_loss_range(validation, validation)
    assert low == 1 and 1.3 < high < 3


@pytest.mark.parametrize("validation", [[1.0, 1.0], [], [2.0]])
def test_losses_without_a_spread_have_a_range_with_the_training_losses(validation):
    low, high = compute_loss_range(np.array([3.0, 2.5]), np.array(validation))
    assert low < high
    assert low <= min([2.5, *validation]) and high >= max([3.0, *validation])


def test_the_legend_names_only_curves_that_exist(show):
    curve = show()
    curve.extend([(1, 25, 3.0, NAN), (1, 50, 2.0, NAN)], 0)
    assert "training" in curve.legend
    assert "validation" not in curve.legend and "result" not in curve.legend
    assert "No pixels are hidden" in curve.toolTip()
    curve.extend([(2, 25, 3.0, 3.1), (2, 50, 2.0, 2.2)], 50)
    assert "validation" in curve.legend and "result" in curve.legend


def test_the_legend_says_where_a_training_curve_outside_of_the_plot_is(show):
    curve = show()
    curve.extend([(1, 25, 0.1, 3.1), (1, 50, 0.1, 3.0), (1, 75, 0.1, 3.05)], 50)
    assert ">↓</span> training" in curve.legend and "An arrow" in curve.toolTip()
    low, high = curve.viewRange()[1]
    assert high - low < 0.12  # no room for what is not in it
    curve.extend([(2, 25, 9.0, 3.1), (2, 50, 9.0, 3.0), (2, 75, 9.0, 3.05)], 50)
    assert ">↑</span> training" in curve.legend
