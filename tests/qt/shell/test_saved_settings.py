"""The user's presets are saved, listed, loaded, deleted, and refused with a message."""

from __future__ import annotations

import pytest

from napari_dip.errors import RefusedError
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.qt.shell.preferences import SavedRecipeFolder

RECIPE = make_recipe("denoise", preset="best", seed=11, gain=1e-7, smoothing=0.123456789)


@pytest.fixture
def saved_recipes(tmp_path):
    return SavedRecipeFolder(folder=tmp_path / "not there yet", task="denoise")


def read_refusal_code(act, *arguments):
    with pytest.raises(RefusedError) as caught:
        act(*arguments)
    return caught.value.reason.code


def test_a_preset_comes_back_as_it_was_kept(saved_recipes):
    assert saved_recipes.list_names() == ()
    assert saved_recipes.save("  Zellkern  grün 2.5", RECIPE) == "Zellkern grün 2.5"
    saved_recipes.save("actin", make_recipe("denoise"))
    assert saved_recipes.list_names() == ("actin", "Zellkern grün 2.5")
    assert saved_recipes.load("Zellkern grün 2.5") == RECIPE
    saved_recipes.delete("actin")
    assert saved_recipes.list_names() == ("Zellkern grün 2.5",)


def test_each_task_has_presets_of_its_own(saved_recipes):
    saved_recipes.save("mine", RECIPE)
    other = SavedRecipeFolder(folder=saved_recipes.folder, task="deblur")
    assert other.list_names() == ()
    other.save("mine", make_recipe("deblur", gaussian_sigma=2))
    assert saved_recipes.load("mine") == RECIPE


@pytest.mark.parametrize(
    "name",
    ["", "   ", "../mine", "a/b", "a\\b", "what?", ".hidden", "end.", "nul", "COM1.x", "x" * 61],
)
def test_a_name_that_some_computer_cannot_keep_is_refused_and_nothing_is_written(
    saved_recipes, name
):
    assert read_refusal_code(saved_recipes.save, name, RECIPE) == "preset-name"
    assert not saved_recipes.folder.exists()


def test_a_preset_is_never_replaced_by_another_of_its_name(saved_recipes):
    saved_recipes.save("Mine", RECIPE)
    assert read_refusal_code(saved_recipes.save, "mine", make_recipe("denoise")) == "preset-exists"
    assert saved_recipes.load("Mine") == RECIPE


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "recipe-broken"),
        ("", "file-empty"),
        ('{"schema": 99, "task": "denoise"}', "recipe-newer"),
        ('{"schema": 1, "task": "denoise", "depth": 3}', "setting-unknown"),
        ('{"schema": 1, "task": "deblur"}', "recipe-task"),
    ],
)
def test_a_damaged_preset_is_reported_in_a_message_and_can_be_deleted(saved_recipes, text, code):
    saved_recipes.save("mine", RECIPE)
    (saved_recipes.folder / "presets" / "denoise" / "mine.json").write_text(text, encoding="utf-8")
    assert read_refusal_code(saved_recipes.load, "mine") == code
    saved_recipes.delete("mine")
    assert saved_recipes.list_names() == ()


def test_what_is_not_there_is_neither_loaded_nor_deleted(saved_recipes, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(RECIPE.to_json(), encoding="utf-8")
    for name in ("none", "../../../secret"):
        assert read_refusal_code(saved_recipes.load, name) == "preset-missing"
        assert read_refusal_code(saved_recipes.delete, name) == "preset-missing"
    assert secret.exists()


def test_the_last_settings_come_back_and_a_damaged_file_is_as_none(saved_recipes):
    assert saved_recipes.load_last() is None
    saved_recipes.save_last(make_recipe("denoise"))
    saved_recipes.save_last(RECIPE)
    assert saved_recipes.load_last() == RECIPE
    assert saved_recipes.list_names() == ()
    (saved_recipes.folder / "last" / "denoise.json").write_text("{", encoding="utf-8")
    assert saved_recipes.load_last() is None


def test_a_folder_that_cannot_be_made_is_reported_in_a_message(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    shelf = SavedRecipeFolder(folder=tmp_path / "file" / "below", task="denoise")
    assert read_refusal_code(shelf.save, "mine", RECIPE) == "output-folder-missing"
    assert (
        read_refusal_code(SavedRecipeFolder(folder=None, task="denoise").save, "mine", RECIPE)
        == "preset-folder-missing"
    )
    assert SavedRecipeFolder(folder=None, task="denoise").list_names() == ()
    assert SavedRecipeFolder(folder=None, task="denoise").load_last() is None
