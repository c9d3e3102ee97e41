"""A task is data and three functions, and has no other members."""

from __future__ import annotations

from dataclasses import fields

import pytest

from napari_dip.tasks import TASKS, Task

#: What the writer of a task may write beside settings and private helpers.
MEMBERS = {"spec", "plan", "inspect", "setup"}
#: What no task may replace.
FINAL = {"to_dict"}


def list_public_names(kind: type) -> set[str]:
    """Return the names that a class defines itself and does not keep to itself."""
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_base_class_has_four_members() -> None:
    annotated = set(Task.__annotations__)
    assert list_public_names(Task) | annotated == MEMBERS | FINAL
    assert all(vars(Task)[name].__final__ for name in FINAL)


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_a_task_defines_settings_and_no_other_member(kind: type[Task]) -> None:
    settings = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    assert list_public_names(kind) <= settings | MEMBERS
    assert {"spec", "setup"} <= list_public_names(kind)
    # private helpers are a task's own: none replaces one of the base class
    assert not {name for name in vars(kind) if name in vars(Task)} & FINAL


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_a_task_has_no_base_class_between_it_and_the_common_one(kind: type[Task]) -> None:
    assert kind.__bases__ == (Task,)
