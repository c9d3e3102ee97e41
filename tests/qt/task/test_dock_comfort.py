"""Drops, several images at once, previews removed, help, tooltips and folds: by real clicks."""

from __future__ import annotations

import pytest
import tifffile
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QAbstractButton, QApplication, QFormLayout, QTextBrowser

from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.task_dock import DenoiseDock, make_dock_class
from napari_dip.tasks import TASKS

pytestmark = pytest.mark.gl


def drop(widget, mime) -> None:
    """Drag data into a widget and drop it, by the events that Qt sends."""
    details = (
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    enter = QDragEnterEvent(QPoint(5, 5), *details)
    QApplication.sendEvent(widget, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(widget, QDropEvent(QPointF(5, 5), *details))


def test_an_image_file_dropped_on_the_dock_is_opened_and_chosen(driver, noisy, tmp_path):
    tifffile.imwrite(tmp_path / "dropped.tif", noisy[:40])
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path / "dropped.tif"))])
    drop(driver.dock, mime)
    assert driver.names == ["cells", "dropped"]
    assert driver.dock.image_chooser.get_layer().name == "dropped"
    assert "64 × 40 pixels" in driver.dock.plan_label.text()


@pytest.mark.long
def test_a_file_that_cannot_be_opened_is_named_in_a_message(driver, tmp_path):
    (tmp_path / "notes.xyz").write_text("no image")
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path / "notes.xyz"))])
    drop(driver.dock, mime)
    assert driver.names == ["cells"]
    assert "What was dropped could not be opened" in driver.last_message


def test_a_layer_dropped_from_the_list_is_chosen(driver, noisy):
    from napari._qt.containers import QtLayerList

    driver.viewer.add_image(noisy, name="other")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    view = QtLayerList(driver.viewer.layers)
    model = view.model()
    rows = [model.index(row, 0) for row in range(model.rowCount())]
    drop(driver.dock, model.mimeData([row for row in rows if row.data() == "other"]))
    assert driver.dock.image_chooser.get_layer().name == "other"


@pytest.mark.long
def test_one_click_runs_on_all_selected_images_and_chooses_none_of_them(driver, noisy):
    layers, button = driver.viewer.layers, driver.dock.run_bar.selected_button
    driver.viewer.window._qt_window.show()
    for name in ("second", "third"):
        driver.viewer.add_image(noisy[::-1], name=name)
    layers.selection = {layers["cells"]}
    assert not button.isVisible()
    layers.selection = {layers["cells"], layers["third"]}
    assert button.text() == "Run on 2 selected layers"
    chosen = driver.dock.image_chooser.get_layer()
    driver.set(max_iterations="2")
    driver.press(button)
    assert driver.dock.is_busy and not button.isVisible()
    driver.wait_until(lambda: not driver.dock.is_busy and "third denoised" in driver.names)
    assert {"cells denoised", "third denoised"} < set(driver.names)
    assert "second denoised" not in driver.names
    assert layers["third denoised"].metadata[METADATA_KEY]["input"]["name"] == "third"
    assert driver.dock.image_chooser.get_layer() is chosen
    layers.selection.active = layers["second"]
    assert driver.dock.image_chooser.get_layer() is layers["second"]


def test_a_refused_selection_is_named_and_the_choice_stays(driver, noisy):
    driver.viewer.add_image(noisy[:8, :8], name="tiny")
    driver.viewer.layers.selection = set(driver.viewer.layers)
    driver.dock.image_chooser.choose("cells")
    driver.press(driver.dock.run_bar.selected_button)
    assert not driver.dock.is_busy
    assert driver.last_message.startswith("'tiny' is 8 × 8 pixels")
    assert driver.dock.image_chooser.get_layer().name == "cells"
    driver.viewer.layers.selection.active = driver.viewer.layers["tiny"]
    assert driver.dock.image_chooser.get_layer().name == "cells"  # chosen by hand before


@pytest.mark.long
def test_remove_previews_deletes_all_previews_on_a_crop_and_nothing_else(driver, noisy):
    trying = driver.dock.crop_preview
    driver.set(max_iterations="2")
    driver.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(True)
    driver.press(trying.try_button)
    driver.wait_for_end()
    driver.run()
    driver.wait_for_end()
    assert len(driver.names) == 5
    driver.press(trying.remove_button)
    assert driver.names == ["cells", "cells denoised", "cells denoised residual"]
    assert not trying.remove_button.isEnabled()
    driver.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(False)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("task", TASKS)
def test_each_dock_opens_its_own_page_of_help(driver, task):
    dock = make_dock_class(task)(driver.viewer)
    driver.viewer.window.add_dock_widget(dock, name=task, area="right")
    (button,) = [
        button for button in dock.findChildren(QAbstractButton) if button.text().startswith("Help")
    ]
    driver.press(button)
    (browser,) = dock.findChildren(QTextBrowser)
    assert browser.toPlainText().startswith(TASKS[task].spec.title)
    browser.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("task", TASKS)
def test_all_labels_have_tooltips(driver, task):
    dock = make_dock_class(task)(driver.viewer)
    driver.viewer.window.add_dock_widget(dock, name=task, area="right")
    for form in dock.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            item = form.itemAt(row, QFormLayout.ItemRole.LabelRole)
            if item is not None and item.widget() is not None and item.widget().text():
                assert item.widget().toolTip(), item.widget().text()


@pytest.mark.long
def test_a_dock_opens_with_the_folds_that_were_left_open(driver):
    driver.viewer.window._qt_window.show()
    driver.press(driver.dock.noise_section.title_button)
    driver.press(driver.dock.settings_section.title_button)
    driver.press(driver.dock.settings_section.title_button)
    later = DenoiseDock(driver.viewer)
    driver.viewer.window.add_dock_widget(later, name="Later", area="right")
    assert later.noise_section.is_unfolded and not later.settings_section.is_unfolded
    other = make_dock_class("deblur")(driver.viewer)
    driver.viewer.window.add_dock_widget(other, name="Deblur", area="right")
    assert not other.noise_section.is_unfolded


def test_the_time_left_stands_in_the_activity_dock(long_run):
    from napari._qt.widgets.qt_progress_bar import QtLabeledProgressBar

    long_run.run()
    window = long_run.viewer.window._qt_window

    def list_texts():
        bars = window.findChildren(QtLabeledProgressBar)
        return [bar.description_label.text() for bar in bars]

    long_run.wait_until(lambda: any("left" in text for text in list_texts()))
    assert any("cells" in text and "left" in text for text in list_texts())


@pytest.mark.long
def test_the_end_of_a_long_run_is_announced_and_that_of_a_short_one_is_not(driver, monkeypatch):
    messages = []
    monkeypatch.setattr("napari_dip.qt.shell.run_bar.show_info", messages.append)
    driver.run()
    driver.wait_for_end()
    assert messages == []
    monkeypatch.setattr("napari_dip.qt.shell.run_bar._LONG_SECONDS", 0.0)
    driver.run()
    driver.wait_for_end()
    assert messages == ["'cells denoised [1]' is done."]  # a longer text would be cut off
