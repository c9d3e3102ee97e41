"""Repeating a result by real clicks: script, command, methods text, again, presets."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QScrollArea

from napari_dip.cli import main
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.repeat_section import DEFAULT_SETTINGS_LABEL
from napari_dip.qt.task.task_dock import DenoiseDock, make_dock_class

pytestmark = pytest.mark.gl


@pytest.fixture
def expanded_repeat(driver, noisy):
    """The driver with the fold unfolded by a click on its title."""
    driver.set(max_iterations="3")
    driver.viewer.layers["cells"].data = noisy[:24, :24]
    expand(driver)
    return driver


def expand(driver):
    driver.qtbot.mouseClick(driver.dock.repeat_section.title_button, Qt.MouseButton.LeftButton)
    assert driver.dock.repeat_section.is_unfolded


def find_scroll_area(dock):
    """The part of the dock that scrolls below the buttons, within the whole of it."""
    _, area = [
        area for area in dock.findChildren(QScrollArea) if area.isAncestorOf(dock.repeat_section)
    ]
    return area


def press(driver, button):
    """Scroll to a button, as a user does, and click on it."""
    find_scroll_area(driver.dock).ensureWidgetVisible(button)
    assert button.isVisibleTo(driver.dock)
    driver.press(button)


def restore_layer(driver, layer="cells"):
    driver.run()
    driver.wait_for_end()
    return driver.viewer.layers[f"{layer} denoised"]


def clipboard():
    return QApplication.clipboard().text()


@pytest.mark.long
def test_a_layer_of_a_file_is_repeated_from_that_file(
    expanded_repeat, noisy, tmp_path, monkeypatch, capsys
):
    driver, path = expanded_repeat, tmp_path / "my cells.tif"
    tifffile.imwrite(path, noisy[:24, :24])
    driver.viewer.layers.clear()
    driver.viewer.open(str(path), plugin="napari")
    driver.set(seed=5, smoothing=0.1)
    pixels = restore_layer(driver, "my cells").data
    buttons = driver.dock.repeat_section
    press(driver, buttons.python_button)
    assert str(path) in clipboard() and "seed=5" in clipboard()
    monkeypatch.chdir(tmp_path)
    exec(clipboard(), {})
    assert capsys.readouterr().out == "The same pixels as then.\n"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "my cells denoised.tif"), pixels)
    (tmp_path / "my cells denoised.tif").unlink()
    press(driver, buttons.command_button)
    program, *argv = shlex.split(clipboard())
    assert program == "napari-dip" and main([*argv, "--quiet"]) == 0
    np.testing.assert_array_equal(tifffile.imread("my cells denoised.tif"), pixels)


@pytest.mark.long
def test_the_dock_says_beforehand_which_inputs_have_no_file(expanded_repeat, tmp_path, monkeypatch):
    driver = expanded_repeat
    restore_layer(driver)
    label = driver.dock.repeat_section.unsaved_label
    assert "'cells' has no file: save it as well" in label.text() and not label.isHidden()
    path = tmp_path / "result.ome.tif"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    driver.dock.result_view.save_menu.result_action.trigger()
    driver.wait_until(lambda: "Saved as" in driver.last_message)
    assert "'cells' has no file" in driver.last_message


@pytest.mark.long
def test_a_layer_without_a_file_is_saved_first_in_a_folder_chosen_once(
    expanded_repeat, tmp_path, monkeypatch
):
    driver, requests = expanded_repeat, []
    monkeypatch.setattr(
        QFileDialog, "getExistingDirectory", lambda *_: requests.append(1) or str(tmp_path)
    )
    precious = tmp_path / "cells.tif"
    precious.write_bytes(b"precious")
    pixels = restore_layer(driver).data
    before, buttons = clipboard(), driver.dock.repeat_section
    press(driver, buttons.command_button)
    driver.wait_until(lambda: clipboard() != before)
    assert "'cells-2.tif' from the folder" in driver.last_message.replace("\n", " ")
    assert precious.read_bytes() == b"precious"
    press(driver, buttons.command_button)
    assert requests == [1]
    _, *argv = shlex.split(clipboard())
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--quiet"]) == 0
    np.testing.assert_array_equal(tifffile.imread("cells denoised.tif"), pixels)


@pytest.mark.long
def test_a_layer_that_is_gone_or_changed_is_not_saved_in_its_place(
    expanded_repeat, tmp_path, monkeypatch
):
    driver = expanded_repeat
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "to"))
    (tmp_path / "to").mkdir()
    restore_layer(driver)
    QApplication.clipboard().setText("as before")
    driver.viewer.layers["cells"].data = driver.viewer.layers["cells"].data + 1
    press(driver, driver.dock.repeat_section.python_button)
    driver.wait_until(lambda: "have changed since" in driver.last_message)
    driver.viewer.layers.remove("cells")
    press(driver, driver.dock.repeat_section.python_button)
    assert "is neither in napari nor in a file" in driver.last_message
    press(driver, driver.dock.repeat_section.again_button)
    assert "the layer 'cells' no longer exists" in driver.last_message
    assert clipboard() == "as before" and not list((tmp_path / "to").iterdir())


@pytest.mark.long
def test_a_run_that_was_stopped_and_kept_is_repeated_to_the_pixel(
    expanded_repeat, tmp_path, monkeypatch
):
    driver = expanded_repeat
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    driver.set(max_iterations="400")
    driver.run()
    driver.wait_for_fit()
    driver.wait_until(lambda: driver.dock.validation_curve.point_count >= 1)
    driver.qtbot.wait(600)  # a double click on Run must not stop what it has just started
    press_keep(driver)
    driver.wait_for_end()
    result = driver.viewer.layers["cells denoised"]
    assert result.metadata[METADATA_KEY]["report"]["fit"]["stopped_fit_count"] == 1
    before = clipboard()
    press(driver, driver.dock.repeat_section.command_button)
    driver.wait_until(lambda: clipboard() != before)
    _, *argv = shlex.split(clipboard())
    assert "--keep-after" in argv
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--quiet"]) == 0
    np.testing.assert_array_equal(tifffile.imread("cells denoised.tif"), result.data)


def press_keep(driver):
    assert driver.dock.run_bar.run_button.text() == "Stop and keep"
    driver.press(driver.dock.run_bar.run_button)


def test_run_again_brings_settings_and_layers_back(expanded_repeat, noisy):
    driver = expanded_repeat
    driver.set(seed=4, prior="random-input", gain="1.5")
    first = restore_layer(driver)
    for name in ("first", "other"):
        driver.viewer.add_image(noisy[::-1].copy(), name=name)
    driver.set(seed=9, prior="auto", gain="")
    assert driver.dock.image_chooser.get_layer().name == "other"
    press(driver, driver.dock.repeat_section.again_button)
    assert "Press Run to make it again" in driver.last_message
    assert driver.dock.image_chooser.get_layer().name == "cells"
    assert driver.dock.form.build_recipe().to_dict() == first.metadata[METADATA_KEY]["recipe"]
    assert not driver.dock.is_busy
    driver.run()
    driver.wait_for_end()
    assert driver.dock.image_chooser.get_layer().name == "cells"
    driver.viewer.layers.selection.active = driver.viewer.layers["first"]
    assert driver.dock.image_chooser.get_layer().name == "first"
    again = driver.viewer.layers["cells denoised [1]"]
    np.testing.assert_array_equal(again.data, first.data)
    driver.viewer.layers["cells"].name = "raw"
    press(driver, driver.dock.repeat_section.again_button)
    assert driver.dock.image_chooser.get_layer().name == "raw"
    driver.viewer.layers["raw"].data = noisy[24:48, :24]
    driver.viewer.layers["raw"].name = "cells"
    press(driver, driver.dock.repeat_section.again_button)
    assert "The pixels of 'cells' have changed since" in driver.last_message


@pytest.mark.long
def test_the_selected_result_is_repeated_and_any_task_can_describe_it(expanded_repeat):
    driver, combo = expanded_repeat, expanded_repeat.dock.repeat_section.combo
    first = restore_layer(driver)
    driver.set(seed=1)
    driver.run()
    driver.wait_for_end()
    assert combo.currentText() == "cells denoised [1]"
    driver.viewer.layers.selection.active = first
    assert combo.currentText() == "cells denoised"
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    assert combo.currentText() == "cells denoised"
    press(driver, driver.dock.repeat_section.methods_button)
    assert "seed 0" in clipboard() and "[1] Ulyanov, Vedaldi, Lempitsky" in clipboard()
    assert driver.dock.repeat_section.methods_button.text() == "Copied"  # where the user looks
    assert driver.last_message.startswith("'cells denoised [1]' is done.")  # stays in sight
    driver.wait_until(
        lambda: driver.dock.repeat_section.methods_button.text() == "Copy methods text"
    )
    dock = make_dock_class("inpaint")(driver.viewer)
    driver.viewer.window.add_dock_widget(dock, name="Inpaint", area="right")
    dock.repeat_section.title_button.setChecked(True)
    driver.press(dock.repeat_section.again_button)
    assert "was made by the task 'Denoise'" in dock.run_bar.message_label.text()
    driver.press(dock.repeat_section.methods_button)
    assert clipboard().startswith("The image was denoised")


@pytest.mark.long
def test_uncertainty_and_residual_are_no_results_to_repeat(expanded_repeat):
    driver, buttons = expanded_repeat, expanded_repeat.dock.repeat_section
    assert buttons.combo.count() == 0  # the input is none either
    for button in ("again", "python", "command", "methods"):
        assert not getattr(buttons, f"{button}_button").isEnabled()
    for box in driver.dock.result_view.extra_layer_chooser.boxes.values():
        box.setChecked(True)
    restore_layer(driver)
    combo = driver.dock.repeat_section.combo
    assert [combo.itemText(n) for n in range(combo.count())] == ["cells denoised"]
    assert "cells denoised residual" in driver.names


def test_a_preset_is_typed_saved_used_in_another_dock_and_deleted(expanded_repeat, tmp_path):
    driver, presets = expanded_repeat, expanded_repeat.dock.repeat_section.presets
    driver.set(seed=21, preset="best", gain="2.5")
    wanted = driver.dock.form.build_recipe()
    assert not presets.save_button.isEnabled()
    driver.qtbot.keyClicks(presets.name_edit, "My cells")
    press(driver, presets.save_button)
    assert "are kept as 'My cells'" in driver.last_message
    (file,) = tmp_path.rglob("My cells.json")
    assert not presets.save_button.isEnabled()  # nothing is replaced by its name
    other = DenoiseDock(driver.viewer)
    driver.viewer.window.add_dock_widget(other, name="Second", area="right")
    other.repeat_section.title_button.setChecked(True)
    other.repeat_section.presets.combo.setCurrentText("My cells")
    driver.press(other.repeat_section.presets.load_button)
    assert other.form.build_recipe() == wanted
    other.repeat_section.presets.combo.setCurrentText(DEFAULT_SETTINGS_LABEL)
    driver.press(other.repeat_section.presets.load_button)
    assert other.form.build_recipe().to_dict() == {"schema": 3, "task": "denoise", "settings": {}}
    file.write_text("{", encoding="utf-8")
    press(driver, presets.load_button)
    assert "cannot be read" in driver.last_message and driver.dock.form.build_recipe() == wanted
    press(driver, presets.delete_button)
    assert not file.exists() and presets.combo.count() == 1


@pytest.mark.long
def test_a_new_dock_takes_up_the_settings_of_the_last_run_and_says_so(expanded_repeat, tmp_path):
    driver = expanded_repeat
    driver.set(seed=17, preset="fast")
    restore_layer(driver)
    (last,) = tmp_path.rglob("denoise.json")
    assert last.parts[-3:] == ("napari-dip", "last", "denoise.json")
    driver.set(seed=18)  # was never run
    later = DenoiseDock(driver.viewer)
    driver.viewer.window.add_dock_widget(later, name="Later", area="right")
    assert later.form.build_recipe().run_settings.seed == 17
    assert "settings are those of your last run" in later.run_bar.message_label.text()
    other = make_dock_class("deblur")(driver.viewer)
    driver.viewer.window.add_dock_widget(other, name="Deblur", area="right")
    assert (
        other.form.build_recipe().run_settings.seed == 0
        and other.run_bar.message_label.text() == ""
    )


@pytest.mark.long
@pytest.mark.parametrize("change", ["setting", "layer"])
def test_the_sentence_on_the_last_settings_goes_with_another_setting_or_layer(
    expanded_repeat, noisy, change
):
    driver = expanded_repeat
    driver.set(seed=17, preset="fast")
    restore_layer(driver)
    driver.viewer.add_image(noisy, name="others")
    later = DenoiseDock(driver.viewer)
    driver.viewer.window.add_dock_widget(later, name="Later", area="right")
    assert "settings are those of your last run" in later.run_bar.message_label.text()
    if change == "setting":
        later.form.widgets["seed"].value = 18
    else:
        later.image_chooser.choose("cells")
    assert later.run_bar.message_label.text() == ""


@pytest.mark.long
def test_use_of_the_default_settings_says_nothing_of_the_last_run_any_more(expanded_repeat):
    driver = expanded_repeat
    driver.set(seed=17, preset="fast")
    restore_layer(driver)
    later = DenoiseDock(driver.viewer)
    driver.viewer.window.add_dock_widget(later, name="Later", area="right")
    assert "settings are those of your last run" in later.run_bar.message_label.text()
    assert later.repeat_section.is_unfolded  # as it was left
    later.repeat_section.presets.combo.setCurrentIndex(0)
    driver.press(later.repeat_section.presets.load_button)
    assert later.form.build_recipe().run_settings.seed == 0
    assert later.run_bar.message_label.text() == "The settings are the default ones."


@pytest.mark.long
def test_many_sentences_leave_room_for_the_folds_below(expanded_repeat):
    driver, bar = expanded_repeat, expanded_repeat.dock.run_bar
    driver.viewer.window.resize(1280, 720)
    for sentence in (
        "One line.",
        "A line that is not too long for the dock, and one more word. " * 2,
    ):
        bar.show_message(sentence)
        driver.viewer.screenshot(canvas_only=False, flash=False)  # lays out
        assert bar.message_area.height() == bar.message_label.heightForWidth(
            bar.message_label.width()
        )
        assert bar.message_label.width() == bar.message_area.width()  # no scroll bar takes any
        assert (
            bar.message_label.height() == bar.message_area.height()
        )  # all in sight, and nothing wasted
    bar.show_message("\n".join(f"Sentence {number}." for number in range(40)))
    driver.viewer.screenshot(canvas_only=False, flash=False)  # lays out
    lines = bar.message_area.height() / bar.message_label.fontMetrics().lineSpacing()
    assert 5 < lines < 13 and not bar.message_area.more_button.isHidden()
    assert find_scroll_area(driver.dock).height() > 100
    dock, rectangle = driver.dock, find_scroll_area(driver.dock)
    for part in (dock.result_view.comparison, dock.history):  # as after a run
        part.setVisible(True)
    dock.validation_curve.extend([(1, 10, 1.0, 1.0), (1, 20, 0.5, 0.6)], 20)
    driver.viewer.screenshot(canvas_only=False, flash=False)  # lays out
    rectangle.verticalScrollBar().setValue(0)
    label = dock.validation_curve.getPlotItem().getAxis("bottom").label
    letters = label.sceneBoundingRect().bottom() - label.document().documentMargin()
    bottom = QPoint(0, round(letters))
    assert letters <= dock.validation_curve.height()
    assert (
        dock.validation_curve.mapTo(dock, bottom).y()
        <= rectangle.mapTo(dock, QPoint(0, rectangle.height())).y()
    )
