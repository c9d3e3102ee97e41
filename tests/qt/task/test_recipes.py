"""A recipe passes through the form unchanged."""

from __future__ import annotations

import pytest

from napari_dip.pipeline.recipe import make_recipe, recipe_from_json
from napari_dip.qt.shell.settings_form import SettingsForm
from napari_dip.qt.task.repeat_section import RecipeButtons

RECIPES = (
    {},
    {"preset": "best", "seed": 11, "device": "cpu", "restarts": 3, "dtype": "same"},
    {"prior": "random-input", "noise": "gaussian", "channels": "together", "max_iterations": 40},
    {"read_noise": 0.012345678901, "gain": 1e-7, "time_limit": 90.5},
    {"smoothing": 0.123456789},  # finer than the field's own step
    {"smoothing": 1e-12},
)


@pytest.fixture
def form(qtbot):
    form = SettingsForm("denoise")
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    return form


@pytest.fixture
def buttons(form, qtbot):
    buttons = RecipeButtons(form)
    qtbot.addWidget(buttons)
    buttons.heard = []
    buttons.message_emitted.connect(buttons.heard.append)
    return buttons


@pytest.mark.parametrize("settings", RECIPES, ids=str)
def test_the_form_stands_for_every_field_of_a_recipe_that_it_shows(form, settings):
    form.show_recipe(make_recipe("denoise", preset="fast", seed=5, gain=3, smoothing=2.5))
    recipe = make_recipe("denoise", **settings)
    changes = []
    form.changed.connect(lambda: changes.append(form.build_recipe()))
    form.show_recipe(recipe)
    assert form.build_recipe() == recipe
    assert changes == [recipe]


@pytest.mark.parametrize("settings", RECIPES, ids=str)
def test_a_recipe_that_was_saved_is_the_same_when_loaded(form, buttons, tmp_path, settings):
    recipe, file = make_recipe("denoise", **settings), tmp_path / "mine.json"
    form.show_recipe(recipe)
    buttons.save(str(file))
    assert recipe_from_json(file.read_text(encoding="utf-8")) == recipe
    form.show_recipe(make_recipe("denoise", seed=99))
    buttons.load(str(file))
    assert form.build_recipe() == recipe
    assert buttons.heard == [
        "The recipe was saved as 'mine.json'.",
        "The settings are now those of 'mine.json'.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read"),
        ('{"schema": 99, "task": "denoise"}', "schema version 99"),
        ('{"schema": 1, "task": "denoise", "depth": 3}', "no setting called 'depth'"),
        (None, "There is no file"),
    ],
)
def test_a_recipe_that_cannot_be_loaded_is_reported_in_a_message_and_changes_nothing(
    form, buttons, tmp_path, text, expected
):
    file = tmp_path / "other.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    before = make_recipe("denoise", seed=7)
    form.show_recipe(before)
    buttons.load(str(file))
    (message,) = buttons.heard
    assert expected in message
    assert form.build_recipe() == before


def test_a_name_without_ending_gets_one_and_no_other_file_is_lost_by_it(buttons, tmp_path):
    (tmp_path / "mine.json").write_text("precious", encoding="utf-8")
    buttons.save(str(tmp_path / "mine"))
    assert (tmp_path / "mine.json").read_text(encoding="utf-8") == "precious"
    assert "already exists" in buttons.heard[-1]
    buttons.save(str(tmp_path / "new"))
    assert (tmp_path / "new.json").exists()


def test_settings_that_are_not_allowed_are_not_saved(form, buttons, tmp_path):
    form.widgets["gain"].value = "much"
    buttons.save(str(tmp_path / "mine.json"))
    assert not list(tmp_path.iterdir())
    assert "'Gain' cannot be 'much'" in buttons.heard[-1]


def test_the_buttons_ask_for_a_file_and_do_nothing_without_one(buttons, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    file, answers = tmp_path / "asked.json", ["", ""]
    for name in ("getOpenFileName", "getSaveFileName"):
        monkeypatch.setattr(QFileDialog, name, lambda *_: (answers[0], ""))
    buttons.save_button.click()
    buttons.load_button.click()
    assert buttons.heard == []
    answers[0] = str(file)
    buttons.save_button.click()
    buttons.load_button.click()
    assert file.exists()
    assert len(buttons.heard) == 2
