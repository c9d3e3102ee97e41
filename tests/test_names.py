"""Names are not empty words, and no name has two meanings."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from syntax_trees import list_nodes, parse_source

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_dip"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}

#: Words that say nothing by themselves, whatever holds them; see docs/glossary.md.
BANNED = frozenset(
    "told seen held asked made found left given shown known beside there ready enough settled "
    "trusting one thing words way wish".split()
)
#: Names that several modules define, with one meaning.
SHARED = {
    "read_header": "each file format has one",
    "read_pixels": "each file format has one",
    "open_image": "each file format that is read by slices has one",
    "main": "each program that can be started has one",
    "__all__": "Python's own",
    "__getattr__": "Python's own",
    "log": "the logger of its module",
    "run": "that of the interface plans, reads the inputs, and calls that of the runner",
    "_LAZY_IMPORTS": "where the public names of a package live",
}


def bound_names(source: str) -> list[tuple[str, int]]:
    """Every name that is given to something: definitions, parameters, variables, fields."""
    names = []
    for node in list_nodes(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append((node.name, node.lineno))
        elif isinstance(node, ast.arg):
            names.append((node.arg, node.lineno))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.id, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append((node.attr, node.lineno))
        elif isinstance(node, ast.keyword) and node.arg:
            names.append((node.arg, node.lineno))
        elif isinstance(node, ast.alias) and node.asname:
            names.append((node.asname, node.lineno))
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.append((node.name, node.lineno))
    return names


def find_banned(source: str) -> list[str]:
    """Names of a module that are nothing but a banned word; left is free beside a right."""
    names = bound_names(source)
    rights = {line for name, line in names if name.strip("_") == "right"}
    return [
        f"{name}, line {line}"
        for name, line in names
        if (word := name.strip("_").lower()) in BANNED
        and not (word == "left" and any(abs(line - right) <= 1 for right in rights))
    ]


def find_twice(sources: dict[str, str]) -> dict[str, list[str]]:
    """Names that more than one module defines on its outermost level, and where."""
    places = defaultdict(set)
    for path, source in sources.items():
        for node in parse_source(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                places[node.name].add(path)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            places[name.id].add(path)
    return {name: sorted(where) for name, where in places.items() if len(where) > 1}


def find_misnamed_checks(source: str) -> list[str]:
    """Functions whose verb is check or refuse, but which do not return what these promise."""
    promised = {"check": {"None"}, "refuse": {"Refusal", "Refusal | None"}}
    return [
        node.name
        for node in list_nodes(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (verb := node.name.strip("_").partition("_")[0]) in promised
        if (ast.unparse(node.returns) if node.returns else "") not in promised[verb]
    ]


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "scripts"])
def test_no_name_is_a_word_that_says_nothing(folder: str) -> None:
    """A reader of a test or of a benchmark meets its names as well."""
    empty = {
        path.relative_to(ROOT).as_posix(): find_banned(path.read_text(encoding="utf-8"))
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: names for path, names in empty.items() if names} == {}


def test_no_name_is_defined_twice_with_two_meanings() -> None:
    sources = {path: file.read_text(encoding="utf-8") for path, file in MODULES.items()}
    assert {name: at for name, at in find_twice(sources).items() if name not in SHARED} == {}


def test_what_checks_returns_nothing_and_what_refuses_returns_a_refusal_or_none() -> None:
    misnamed = {
        path: find_misnamed_checks(file.read_text("utf-8")) for path, file in MODULES.items()
    }
    assert {path: names for path, names in misnamed.items() if names} == {}


@pytest.mark.parametrize(
    "source", ["def _refuse_it() -> Any: ...", "def check_it() -> int: ...", "def refuse(): ..."]
)
def test_a_planted_check_that_returns_something_else_is_found(source: str) -> None:
    assert find_misnamed_checks(source)


@pytest.mark.parametrize(
    "source",
    [
        "told = 1",
        "def seen(): ...",
        "def f(found): ...",
        "class Held: ...",
        "self._asked = 2",
        "f(known=3)",
    ],
)
def test_a_planted_empty_word_is_found(source: str) -> None:
    assert find_banned(source)


def test_left_is_a_side_where_there_is_a_right() -> None:
    assert find_banned("left, right = 1, 2") == []
    assert find_banned("left = 3")


def test_a_planted_second_course_is_found() -> None:
    planted = {"a.py": "class Course: ...", "b.py": "class Course: ...", "c.py": "COURSE = 1"}
    assert find_twice(planted) == {"Course": ["a.py", "b.py"]}
