"""Comparing by a line on the canvas, the keys, and undoing a Discard: by real clicks and keys."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import QPoint, Qt

from napari_dip.qt.shell.background_call import stop_parts
from napari_dip.qt.shell.preferences import KEYS
from napari_dip.qt.task.result_view import ComparisonSlider
from napari_dip.qt.task.task_dock import make_dock_class

pytestmark = pytest.mark.gl


def restore_in_sight(driver) -> None:
    driver.viewer.window._qt_window.show()
    driver.run()
    driver.wait_for_end()
    driver.viewer.screenshot(canvas_only=False, flash=False)  # lays out
    driver.viewer.reset_view()


def test_the_swipe_line_is_dragged_on_the_canvas_and_copies_no_pixel(driver, noisy):
    restore_in_sight(driver)
    comparison, viewer, qtbot = driver.dock.result_view.comparison, driver.viewer, driver.qtbot
    driver.press(comparison.swipe_button)
    cut_layer = viewer.layers["cells, left of the line"]
    assert cut_layer.data.shape == (64, 32)
    assert np.shares_memory(cut_layer.data, noisy)
    assert driver.dock.image_chooser.combo.findText(cut_layer.name) < 0  # never an input
    canvas = viewer.window._qt_viewer.canvas.native
    middle, view = canvas.rect().center(), viewer.scene.camera.center
    qtbot.mouseMove(canvas, middle)
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=middle)
    for step in (20, 40, 60):
        qtbot.mouseMove(canvas, middle + QPoint(step, 0))
        qtbot.wait(20)
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(60, 0))
    assert 33 < cut_layer.data.shape[1] < 60
    assert viewer.scene.camera.center == view and viewer.scene.camera.mouse_pan
    driver.press(comparison.swipe_button)
    assert driver.names == ["cells", "cells denoised"]
    assert not comparison._swipe_line.column


@pytest.mark.parametrize("scale", [(1, 1), (1, -1)])
def test_a_drag_far_from_the_swipe_line_moves_the_view_also_of_a_mirrored_image(driver, scale):
    driver.viewer.layers["cells"].scale = scale
    restore_in_sight(driver)
    driver.press(driver.dock.result_view.comparison.swipe_button)
    canvas = driver.viewer.window._qt_viewer.canvas.native
    start = canvas.rect().center() + QPoint(80, 0)
    driver.qtbot.mouseMove(canvas, start)
    driver.qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=start)
    driver.qtbot.mouseMove(canvas, start + QPoint(40, 0))
    driver.qtbot.wait(20)
    driver.qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=start + QPoint(40, 0))
    assert driver.viewer.layers["cells, left of the line"].data.shape == (64, 32)


@pytest.mark.long
def test_swipe_shows_all_channels_of_a_composite_on_both_sides(driver, noisy):
    viewer, dock = driver.viewer, driver.dock
    viewer.layers.clear()
    inputs = viewer.add_image(np.stack([noisy, noisy.T]), channel_axis=0, name=["actin", "tubulin"])
    assert [str(layer.blending) for layer in inputs] == ["translucent_no_depth", "additive"]
    viewer.window.resize(1300, 800)  # a dock that is widened leaves room on both sides of the line
    viewer.window._qt_window.show()
    driver.set(max_iterations="2")
    viewer.layers.selection = set(inputs)
    driver.press(dock.run_bar.selected_button)
    driver.wait_for_end()
    results = [viewer.layers[f"{layer.name} denoised"] for layer in inputs]
    viewer.screenshot(canvas_only=False, flash=False)  # lays out
    driver.qtbot.wait(300)
    viewer.reset_view()

    def photograph(*visible) -> np.ndarray:
        state = {layer: (layer.visible, layer.opacity) for layer in viewer.layers}
        for layer in viewer.layers:
            layer.visible, layer.opacity = layer in visible, 1
        picture = viewer.screenshot(flash=False).astype(int)
        for layer, (is_visible, opacity) in state.items():
            layer.visible, layer.opacity = is_visible, opacity
        return picture

    before, after = photograph(*inputs), photograph(*results)
    np.testing.assert_array_equal(viewer.screenshot(flash=False), after)  # none covers another
    driver.press(dock.result_view.comparison.swipe_button)
    both = viewer.screenshot(flash=False)
    middle, margin = both.shape[1] // 2, 25  # of the line, and of the frame around the left side
    rows = slice(both.shape[0] * 2 // 5, both.shape[0] * 3 // 5)
    left, right = slice(middle - 100, middle - margin), slice(middle + margin, None)
    assert np.ptp(before[rows, left]) > 100
    assert abs(before - after)[rows, left].max() > 20
    np.testing.assert_array_equal(both[rows, left], before[rows, left])
    np.testing.assert_array_equal(both[rows, right], after[rows, right])
    driver.press(dock.result_view.comparison.swipe_button)
    assert len(viewer.layers) == 4


def test_an_input_that_adds_up_is_transparent_only_behind_its_visible_result(driver):
    viewer, cells = driver.viewer, driver.viewer.layers["cells"]
    cells.blending, cells.opacity = "additive", 0.8
    driver.run()
    driver.wait_for_end()
    result = viewer.layers["cells denoised"]
    assert (cells.opacity, result.opacity) == (0, 0.8)
    result.visible = False
    assert cells.opacity == 0.8
    result.visible = True
    assert cells.opacity == 0
    viewer.canvas.grid.enabled = True
    assert (cells.opacity, result.opacity) == (0.8, 0.8)
    viewer.canvas.grid.enabled = False
    assert cells.opacity == 0
    for layer in (cells, result):
        viewer.layers.selection = {layer}
        _duplicate_layer(viewer.layers)
        assert viewer.layers[f"{layer.name} copy"].opacity == 0.8
    later = ComparisonSlider(viewer)  # of another dock
    driver.qtbot.addWidget(later)
    later.show_pair(cells, viewer.layers["cells denoised copy"])
    driver.dock.result_view.comparison.end_comparison()
    assert not result.visible and cells.opacity == 0
    later.end_comparison()
    stop_parts(later)
    assert cells.opacity == 0.8


def test_the_result_of_the_lowest_channel_does_not_cover_the_others(driver, noisy):
    viewer = driver.viewer
    viewer.layers.clear()
    viewer.add_image(np.stack([noisy, noisy.T]), channel_axis=0, name=["actin", "tubulin"])
    driver.dock.image_chooser.choose("actin")
    driver.run()
    driver.wait_until(lambda: "actin preview" in viewer.layers)
    assert driver.names == ["actin", "actin preview", "tubulin"]
    driver.wait_for_end()
    assert driver.names == ["actin", "actin denoised", "tubulin"]


def test_keys_of_napari_run_stop_fade_swipe_and_step_through_the_history(driver):
    viewer, dock, qtbot = driver.viewer, driver.dock, driver.qtbot
    viewer.window._qt_window.show()
    viewer.screenshot(canvas_only=False, flash=False)  # lays out
    canvas = viewer.window._qt_viewer.canvas.native

    def press(key: str) -> None:
        qtbot.keyClick(canvas, key, Qt.KeyboardModifier.AltModifier)

    driver.set(prior="random-input", max_iterations="100000")
    press("r")
    assert dock.is_busy
    driver.wait_until(lambda: len(dock.history.snapshot_buffer.snapshots) >= 2)
    qtbot.wait(600)  # longer than a double click
    press("s")
    driver.wait_for_end()
    result = viewer.layers["cells denoised"]
    press("x")
    assert result.opacity == 0
    press("x")
    assert result.opacity == 1
    press("c")
    assert "cells, left of the line" in viewer.layers
    press("c")
    assert "cells, left of the line" not in viewer.layers
    press(",")
    assert not dock.history.is_live
    press(".")
    assert dock.history.is_live


@pytest.mark.long
def test_keys_are_listed_in_the_preferences_and_act_in_the_dock_in_sight_only(driver):
    from napari._qt.widgets.qt_keyboard_settings import ShortcutEditor

    editor = ShortcutEditor()
    driver.qtbot.addWidget(editor)
    listed = [
        action.description
        for action in editor.key_bindings_strs[editor.VIEWER_KEYBINDINGS].values()
    ]
    ours = [text for text in listed if text.startswith("Deep Image Prior: ")]
    assert len(ours) == len(KEYS)
    driver.viewer.window._qt_window.show()
    other = make_dock_class("inpaint")(driver.viewer)
    driver.viewer.window.add_dock_widget(other, name="Inpaint", area="right")
    driver.qtbot.waitUntil(lambda: driver.dock.visibleRegion().isEmpty())
    canvas = driver.viewer.window._qt_viewer.canvas.native
    driver.qtbot.keyClick(canvas, "r", Qt.KeyboardModifier.AltModifier)
    assert not driver.dock.is_busy and not other.is_busy  # that dock has no plan


@pytest.mark.long
def test_discard_is_undone_after_another_run(long_run):
    dock = long_run.dock
    assert dock.run_bar.undo_button.isHidden()
    long_run.run()
    long_run.wait_until(lambda: len(dock.history.snapshot_buffer.snapshots) >= 2)
    last = dock.history.snapshot_buffer.snapshots[-1].image.copy()
    long_run.press(dock.run_bar.discard_button)
    assert long_run.names == ["cells"]
    assert "Undo Discard" in long_run.last_message and "nothing" not in long_run.last_message
    long_run.set(prior="auto")
    assert long_run.last_message == ""
    long_run.set(max_iterations="2")
    long_run.run()
    long_run.wait_for_end()
    long_run.press(dock.run_bar.undo_button)
    (name,) = [name for name in long_run.names if ", iteration " in name]
    np.testing.assert_array_equal(long_run.viewer.layers[name].data, last)
    assert name in long_run.last_message
    assert dock.run_bar.undo_button.isHidden()
