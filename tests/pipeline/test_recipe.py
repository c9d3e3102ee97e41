"""A recipe survives JSON, and a misspelt one is refused."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_dip as dip
from napari_dip.errors import RefusedError
from napari_dip.io.writing import write_image
from napari_dip.pipeline.recipe import (
    RECIPE_SCHEMA,
    load_recipe,
    make_recipe,
    recipe_from_dict,
    recipe_from_json,
)

if TYPE_CHECKING:
    from pathlib import Path


def read_refusal_code(raw: object) -> str:
    with pytest.raises(RefusedError) as caught:
        recipe_from_dict(raw)
    return caught.value.reason.code


def test_a_recipe_survives_json_and_pickle() -> None:
    recipe = make_recipe(
        "denoise", prior="random-input", seed=7, restarts=3, smoothing=0.5, dtype="same"
    )
    assert recipe_from_json(recipe.to_json()) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_what_was_not_set_is_not_written() -> None:
    assert make_recipe("denoise").to_dict() == {
        "schema": RECIPE_SCHEMA,
        "task": "denoise",
        "settings": {},
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("read_noise", -1.0),
        ("read_noise", float("nan")),
        ("gain", float("inf")),
        ("seed", -1),
        ("seed", 1.5),
        ("restarts", 0),
        ("max_iterations", 0),
        ("time_limit", 0.0),
        ("prior", "magic"),
        ("preset", "FAST"),
        ("device", "tpu"),
        ("smoothing", -0.1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RefusedError, match=f"'{field}'"):
        make_recipe("denoise", **{field: value})


@pytest.mark.parametrize(
    "field", ["seed", "restarts", "max_iterations", "time_limit", "tile", "gain", "smoothing"]
)
@pytest.mark.parametrize("value", [True, False, np.True_])
def test_yes_is_not_the_number_one(field: str, value: object) -> None:
    with pytest.raises(RefusedError, match=f"'{field}' .* a number"):
        make_recipe("denoise", **{field: value})
    raw = {"schema": 1, "task": "denoise", "settings": {field: bool(value)}}
    assert read_refusal_code(raw) == "setting-wrong"


def test_an_explicit_yes_stays_yes() -> None:
    assert make_recipe("denoise", neighbouring_frames=False).task.neighbouring_frames is False
    assert make_recipe("denoise", neighbouring_frames=np.True_).task.neighbouring_frames is True
    with pytest.raises(RefusedError, match=r"'prior' .* auto, r2r"):
        make_recipe("denoise", prior=True)


def test_an_unknown_setting_is_refused() -> None:
    assert (
        read_refusal_code({"schema": 1, "task": "denoise", "settings": {"sigma": 3}})
        == "setting-unknown"
    )
    assert read_refusal_code({"schema": 1, "task": "denoise", "epochs": 3}) == "setting-unknown"


def test_an_unknown_setting_is_refused_with_the_list_of_settings() -> None:
    with pytest.raises(RefusedError) as caught:
        make_recipe("denoise", sigma=3)
    listed = str(caught.value).split("spelling: ")[1].rstrip(".").split(", ")
    assert len(listed) == len(set(listed))
    assert {"gain", "preset"} < set(listed)
    assert not {"title", "inputs", "done"} & set(listed)


def test_a_recipe_of_a_newer_program_is_refused() -> None:
    assert read_refusal_code({"schema": RECIPE_SCHEMA + 1, "task": "denoise"}) == "recipe-newer"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        {"task": "denoise"},
        {"schema": True, "task": "denoise"},
        {"schema": 1},
        {"recipe": 3},
    ],
)
def test_what_is_no_recipe_is_refused(raw: object) -> None:
    assert read_refusal_code(raw) == "recipe-broken"


def test_report_and_result_of_a_run_stand_for_its_recipe(tmp_path: Path) -> None:
    image = np.random.default_rng(0).poisson(50, (32, 32)).astype(np.uint16)
    result = dip.denoise(image, preset="fast", max_iterations=2, seed=3)
    (tmp_path / "report.json").write_text(json.dumps(result.report), encoding="utf-8")
    result.save(tmp_path / "out.tif")
    result.save(tmp_path / "out.ome.zarr")
    for name in ("report.json", "out.tif", "out.ome.zarr"):
        assert load_recipe(tmp_path / name) == result.recipe
    assert recipe_from_json(json.dumps(result.report)) == result.recipe
    np.testing.assert_array_equal(dip.restore(image, result.report).image, result.image)


def test_an_image_that_is_no_result_is_no_recipe(tmp_path: Path) -> None:
    write_image(tmp_path / "raw.tif", np.zeros((4, 4), np.uint8), axes="YX")
    (tmp_path / "text.tif").write_text("no image", encoding="utf-8")
    for name in ("raw.tif", "text.tif"):
        with pytest.raises(RefusedError, match="does not say how it was made") as caught:
            load_recipe(tmp_path / name)
        assert caught.value.code == "recipe-broken"
    with pytest.raises(RefusedError) as caught:
        load_recipe(tmp_path / "none.tif")
    assert caught.value.code == "file-missing"


def test_a_setting_given_twice_is_refused() -> None:
    raw = {"schema": 1, "task": "denoise", "seed": 1, "settings": {"seed": 2}}
    assert read_refusal_code(raw) == "recipe-broken"


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ('{"schema": 1, // mine', 15),
        ('{"schema": 1, "task": "denoise",}', 33),
        ("{'schema': 1}", 2),
        ("{}{}", 3),
    ],
)
def test_where_a_recipe_edited_by_hand_is_no_json_is_said(text: str, column: int) -> None:
    with pytest.raises(RefusedError) as caught:
        recipe_from_json(text)
    assert f"it is not valid JSON at line 1, column {column} (" in caught.value.reason.sentence


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nonsense"])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        recipe_from_json(text)


def test_changing_a_common_setting_checks_it_again() -> None:
    recipe = make_recipe("denoise")
    assert json.loads(recipe.replace_run_settings(seed=3).to_json())["seed"] == 3
    with pytest.raises(RefusedError):
        recipe.replace_run_settings(seed=-3)
