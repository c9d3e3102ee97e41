"""The layers of a network are listed in a menu."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from napari.utils.theme import get_theme
from qtpy.QtGui import QColor

from napari_dip.qt.shell.settings_form import SettingsForm
from napari_dip.qt.task.task_dock import make_dock_class
from programs import make_entries, make_small_program, write_archive


@pytest.fixture
def form(qtbot):
    form = SettingsForm("invert-features")
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    form.basic_page.show()
    return form


def buttons(form, name):
    return {action.toolTip(): action for action in form.widgets[name].native.actions()}


@pytest.mark.long
def test_the_button_lists_the_layers_and_writes_the_chosen_one(form, qtbot, tmp_path):
    form.widgets["network"].value = str(
        write_archive(tmp_path / "net.pt2", make_entries(*make_small_program()))
    )
    menu = form.suggestion_menus["layer"].menu
    buttons(form, "layer")["Show the choices"].trigger()
    qtbot.waitUntil(lambda: bool(menu.actions()), timeout=60_000)
    listed = [action.text() for action in menu.actions()]
    assert listed == ["body.0", "body.1", "body.2", "body.3", "body"]
    menu.actions()[2].trigger()
    menu.close()
    assert form.build_recipe().task.layer == "body.2"


def test_without_a_network_the_list_says_so(form, qtbot):
    menu = form.suggestion_menus["layer"].menu
    buttons(form, "layer")["Show the choices"].trigger()
    qtbot.waitUntil(lambda: bool(menu.actions()), timeout=60_000)
    (entry,) = menu.actions()
    menu.close()
    assert "No network is named" in entry.text() and not entry.isEnabled()


def open_dock_with_network(qtbot, tmp_path):
    viewer = ViewerModel()
    viewer.add_image(np.arange(4096, dtype="uint8").reshape(64, 64), name="cells")
    dock = make_dock_class("invert-features")(viewer)
    qtbot.addWidget(dock)
    path = write_archive(tmp_path / "net.pt2", make_entries(*make_small_program()))
    dock.form.widgets["network"].value = str(path)
    return dock, path


@pytest.mark.long
def test_the_plan_refuses_the_word_list_with_the_layers_before_run(qtbot, tmp_path):
    dock, path = open_dock_with_network(qtbot, tmp_path)
    dock.form.widgets["layer"].value = "list"
    run_button = dock.run_bar.run_button
    assert "being listed" in dock.plan_label.text() and not run_button.isEnabled()
    qtbot.waitUntil(lambda: "Choose one of" in dock.plan_label.text(), timeout=60_000)
    assert "body.0, body.1, body.2, body.3, body; the arrow" in dock.plan_label.text()
    assert not run_button.isEnabled()
    dock.form.widgets["layer"].value = "body.2"
    assert "of memory" in dock.plan_label.text() and run_button.isEnabled()
    path.write_bytes(b"not a network")
    dock.form.widgets["layer"].value = "list"
    qtbot.waitUntil(lambda: "being listed" not in dock.plan_label.text(), timeout=60_000)
    assert "net.pt2" in dock.plan_label.text() and not run_button.isEnabled()
    dock.shut_down()


@pytest.mark.long
def test_the_plan_refuses_a_layer_that_the_network_lacks_and_names_those_it_has(qtbot, tmp_path):
    dock, _ = open_dock_with_network(qtbot, tmp_path)
    dock.form.widgets["layer"].value = "body.7"
    run_button = dock.run_bar.run_button
    qtbot.waitUntil(lambda: "no layer" in dock.plan_label.text(), timeout=60_000)
    assert "The setting 'Layer' cannot be 'body.7'" in dock.plan_label.text()
    assert "body.3" in dock.plan_label.text() and not run_button.isEnabled()
    dock.form.widgets["layer"].value = "body.2"
    assert run_button.isEnabled()
    (menu,) = dock.form.suggestion_menus.values()
    qtbot.waitUntil(lambda: bool(menu.outcomes), timeout=60_000)
    assert "of memory" in dock.plan_label.text() and run_button.isEnabled()
    dock.shut_down()


def test_icons_of_text_fields_take_the_colour_of_the_text_in_both_themes(form):
    for theme in ("dark", "light"):
        form.basic_page.setStyleSheet(get_stylesheet(theme))
        text = QColor(get_theme(theme).text.as_hex())
        for name, tooltip in (("network", "Open a file"), ("layer", "Show the choices")):
            image = buttons(form, name)[tooltip].icon().pixmap(64, 64).toImage()
            colours = [image.pixelColor(x, y) for x in range(64) for y in range(64)]
            assert {colour.name() for colour in colours if colour.alpha() == 255} == {text.name()}


def test_files_can_be_browsed_for_where_one_is_to_be_named(form):
    assert "Open a file" in buttons(form, "network") and "Open a file" in buttons(form, "weights")
    assert "Open a file" not in buttons(form, "layer")
