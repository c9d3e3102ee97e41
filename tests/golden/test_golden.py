"""Frozen recipes: all interfaces give the same pixels, and the frozen ones."""

from __future__ import annotations

import numpy as np
import pytest

from golden import checking, hashes
from golden.inputs import MAKERS
from golden.interfaces import INTERFACES
from golden.recipes import RECIPES, Recipe

FILE = hashes.read_hashes()
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


@pytest.fixture(scope="session")
def machine() -> int | None:
    return hashes.find_machine(FILE)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.name for recipe in RECIPES])
@pytest.mark.all_cores
def test_all_interfaces_give_the_same_pixels_and_they_are_as_frozen(
    recipe: Recipe, machine: int | None
) -> None:
    outcomes = checking.run_interfaces(recipe)
    assert not checking.find_disagreements(outcomes)
    assert not checking.find_changes(recipe, outcomes, FILE, machine=machine)


def test_the_table_and_the_file_name_the_same_recipes() -> None:
    assert len(BY_NAME) == len(RECIPES) >= 60
    assert list(FILE["recipes"]) == list(BY_NAME)


def test_the_table_uses_every_interface_and_every_image() -> None:
    assert {interface for recipe in RECIPES for interface in recipe.interfaces} == set(INTERFACES)
    assert {recipe.inputs for recipe in RECIPES} == set(MAKERS)


def outcome(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ("image", "uncertainty")
    return {name: rng.normal(100, 9, (3, 24, 24)).astype(np.float32) for name in names}


@pytest.mark.parametrize("part", ["image", "uncertainty"])
def test_a_pixel_that_moves_by_one_unit_in_the_last_place_is_found(part: str) -> None:
    recipe = RECIPES[0]
    kept = {"recipes": {recipe.name: hashes.freeze(outcome())}}
    moved = outcome()
    moved[part][1, 7, 5] = np.nextafter(moved[part][1, 7, 5], np.float32(np.inf))
    now = {"python": hashes.freeze(outcome()), "dock": hashes.freeze(moved)}
    assert len(checking.find_changes(recipe, now, kept, machine=0)) == 1
    assert len(checking.find_disagreements(now)) == 1
    assert not checking.find_changes(recipe, now, kept, machine=None)


def test_another_type_or_shape_of_the_same_bytes_is_found() -> None:
    recipe, pixels = RECIPES[0], outcome()["image"]
    kept = {"recipes": {recipe.name: hashes.freeze({"image": pixels})}}
    for other in (pixels.reshape(3, 12, 48), pixels.view(np.int32)):
        now = {"python": hashes.freeze({"image": other})}
        assert checking.find_changes(recipe, now, kept, machine=0)


def test_elsewhere_another_image_is_found_and_other_last_digits_are_not() -> None:
    recipe, pixels = RECIPES[0], outcome()["image"]
    kept = {"recipes": {recipe.name: hashes.freeze({"image": pixels})}}
    nearby_result = hashes.freeze({"image": pixels * np.float32(1 + 1e-5)})
    other = hashes.freeze({"image": pixels[:, ::-1]})
    assert not checking.find_changes(recipe, {"python": nearby_result}, kept, machine=None)
    assert checking.find_changes(recipe, {"python": other}, kept, machine=None)


def test_a_part_that_is_gone_and_a_recipe_that_was_never_frozen_are_found() -> None:
    recipe = RECIPES[0]
    kept = {"recipes": {recipe.name: hashes.freeze(outcome())}}
    now = {"python": hashes.freeze({"image": outcome()["image"]})}
    assert checking.find_changes(recipe, now, kept, machine=0) == ["'uncertainty' is gone"]
    assert checking.find_changes(recipe, now, {"recipes": {}}, machine=0)


def test_another_processor_may_lie_as_far_off_as_those_in_the_file_and_no_farther() -> None:
    pixels = outcome()["image"]
    file = {"recipes": {"one": {"image": hashes.freeze({"image": pixels})["image"]}}}
    both = hashes.add_machine(file, {"one": hashes.freeze({"image": pixels * np.float32(1.02)})})
    near, far = (hashes.freeze({"image": pixels * share})["image"] for share in (1.05, 1.2))
    assert len(both["one"]["image"]["sha256"]) == 2
    assert not list(hashes.find_differences({"image": near}, both["one"], machine=None))
    assert list(hashes.find_differences({"image": near}, file["recipes"]["one"], machine=None))
    assert list(hashes.find_differences({"image": far}, both["one"], machine=None))


@pytest.mark.all_cores
def test_a_machine_of_the_file_gets_the_bytes_that_were_frozen_elsewhere() -> None:
    pixels = outcome()["image"]
    part = {**hashes.freeze({"image": pixels})["image"], "sha256": [None, "another machine"]}
    file = {"recipes": {"lacking": {"image": part}, "whole": {"image": part}}}
    added = hashes.add_machine(file, {"lacking": hashes.freeze({"image": pixels})}, 0)
    assert hashes.has_hash({"recipes": added}, "lacking", 0)
    assert added["lacking"]["image"]["sha256"][1] == "another machine"
    assert not hashes.has_hash({"recipes": added}, "whole", 0)
