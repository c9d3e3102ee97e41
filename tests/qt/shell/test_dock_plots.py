"""The plot shows the validation loss and its minimum."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.qt.shell.dock_plots import ValidationCurve

NAN = float("nan")


@pytest.fixture
def show(qtbot):
    """A function, since pytest holds on to what a fixture returns, and with it to its windows."""

    def show():
        curve = ValidationCurve()
        qtbot.addWidget(curve)
        return curve

    return show


def test_the_best_point_is_marked(show):
    curve = show()
    curve.extend([(1, 25, 3.0, 3.1), (1, 50, 2.0, 2.2), (1, 75, 1.0, 2.5)], 50)
    assert [list(values) for values in curve._best.getData()] == [[50], [2.2]]
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
    assert "once, at iteration 25" in curve.hint_label.text()
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
