"""Frozen recipes: all interfaces give the same pixels, and the frozen ones."""

from __future__ import annotations

import numpy as np
import pytest

from golden import checking, frozen
from golden.interfaces import INTERFACES
from golden.pictures import MAKERS
from golden.recipes import RECIPES, Recipe

FILE = frozen.read()
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


@pytest.fixture(scope="session")
def machine() -> int | None:
    return frozen.this_machine(FILE)


@pytest.mark.sampled(32)
@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
def test_all_interfaces_give_the_same_pixels_and_they_are_as_frozen(
    recipe: Recipe, machine: int | None
) -> None:
    outcomes = checking.outcomes_of(recipe)
    assert not checking.disagreements(outcomes)
    assert not checking.changes(recipe, outcomes, FILE, machine=machine)


def test_the_table_and_the_file_name_the_same_recipes() -> None:
    assert len(BY_NAME) == len(RECIPES) >= 60
    assert list(FILE["recipes"]) == list(BY_NAME)


def test_the_table_uses_every_door_and_every_image() -> None:
    assert {interface for recipe in RECIPES for interface in recipe.interfaces} == set(INTERFACES)
    assert {recipe.picture for recipe in RECIPES} == set(MAKERS)


def outcome(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ("image", "uncertainty")
    return {name: rng.normal(100, 9, (3, 24, 24)).astype(np.float32) for name in names}


@pytest.mark.parametrize("part", ["image", "uncertainty"])
def test_a_pixel_that_moves_by_one_unit_in_the_last_place_is_found(part: str) -> None:
    recipe = RECIPES[0]
    kept = {"recipes": {recipe.name: frozen.frozen(outcome())}}
    moved = outcome()
    moved[part][1, 7, 5] = np.nextafter(moved[part][1, 7, 5], np.float32(np.inf))
    now = {"python": frozen.frozen(outcome()), "dock": frozen.frozen(moved)}
    assert len(checking.changes(recipe, now, kept, machine=0)) == 1
    assert len(checking.disagreements(now)) == 1
    assert not checking.changes(recipe, now, kept, machine=None)


def test_another_type_or_shape_of_the_same_bytes_is_found() -> None:
    recipe, pixels = RECIPES[0], outcome()["image"]
    kept = {"recipes": {recipe.name: frozen.frozen({"image": pixels})}}
    for other in (pixels.reshape(3, 12, 48), pixels.view(np.int32)):
        now = {"python": frozen.frozen({"image": other})}
        assert checking.changes(recipe, now, kept, machine=0)


def test_elsewhere_another_image_is_found_and_other_last_digits_are_not() -> None:
    recipe, pixels = RECIPES[0], outcome()["image"]
    kept = {"recipes": {recipe.name: frozen.frozen({"image": pixels})}}
    nearby_result = frozen.frozen({"image": pixels * np.float32(1 + 1e-5)})
    other = frozen.frozen({"image": pixels[:, ::-1]})
    assert not checking.changes(recipe, {"python": nearby_result}, kept, machine=None)
    assert checking.changes(recipe, {"python": other}, kept, machine=None)


def test_a_part_that_is_gone_and_a_recipe_that_was_never_frozen_are_found() -> None:
    recipe = RECIPES[0]
    kept = {"recipes": {recipe.name: frozen.frozen(outcome())}}
    now = {"python": frozen.frozen({"image": outcome()["image"]})}
    assert checking.changes(recipe, now, kept, machine=0) == ["'uncertainty' is gone"]
    assert checking.changes(recipe, now, {"recipes": {}}, machine=0)


def test_another_processor_may_lie_as_far_off_as_those_in_the_file_and_no_farther() -> None:
    pixels = outcome()["image"]
    file = {"recipes": {"one": {"image": frozen.frozen({"image": pixels})["image"]}}}
    both = frozen.with_this_machine(
        file, {"one": frozen.frozen({"image": pixels * np.float32(1.02)})}
    )
    near, far = (frozen.frozen({"image": pixels * share})["image"] for share in (1.05, 1.2))
    assert len(both["one"]["image"]["sha256"]) == 2
    assert not list(frozen.differences({"image": near}, both["one"], machine=None))
    assert list(frozen.differences({"image": near}, file["recipes"]["one"], machine=None))
    assert list(frozen.differences({"image": far}, both["one"], machine=None))
