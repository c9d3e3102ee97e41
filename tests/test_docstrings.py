"""Docstrings name the parameters and the types that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from syntax_trees import list_nodes

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "napari_dip"
MODULES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
#: Capitalised words of types that are no class: names of people, of formats, of other packages.
OTHER_WORDS = frozenset("Default None NumPy Tensor Airy Zarr Array Worker True False".split())
#: Begins of the comment of a constant that refer to another one: "Its maximum", "Factor on it".
LEANING_COMMENT = re.compile(
    r"(It|Its|They|Their|That|Those|These|This|Such|The same|Otherwise|And)\b"
    r"|(\S+ ){1,4}(above|across|at|below|for|from|in|of|on|outside|than|to|with) "
    r"(both|it|its|such|that(?! of)|them|these|those)\b"
    r"|(\S+ ){0,3}([Aa]bove|[Bb]elow) (it|that|these|those)\b"
    r"|.*\bas (theirs|there)\b|\S+( \S+)?\.$"
)


def section_entries(docstring: str, section: str) -> list[tuple[str, str]]:
    """Name and type of what a section lists; names in one line stand apart."""
    match = re.search(
        rf"^{section}\n-+\n(.*?)(?=\n\n?[A-Z][a-z ]+\n-+\n|\Z)", docstring, re.S | re.M
    )
    heads = [line for line in (match[1].split("\n") if match else []) if line[:1].strip()]
    pairs = [head.partition(" : ")[::2] for head in heads]
    return [(name.strip(" *"), kind) for names, kind in pairs for name in names.split(",")]


def parameter_names(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names that may stand under Parameters; fields and those of __init__ for a class."""
    if isinstance(node, ast.FunctionDef):
        spec = node.args
        every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
        return {entry.arg for entry in every if entry}
    names = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
    begins = [part for part in node.body if getattr(part, "name", "") == "__init__"]
    return names.union(*(parameter_names(part) for part in begins))


def class_names(sources: list[str]) -> set[str]:
    """Every name of a class that the modules define, import or mention in code."""
    nodes = [node for source in sources for node in list_nodes(source)]
    names = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}


def find_strangers(source: str, classes: set[str]) -> list[str]:
    """Parameters that are not in the signature, and types that do not exist."""
    strangers = []
    for node in list_nodes(source):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        docstring, own = ast.get_docstring(node) or "", parameter_names(node)
        entries = section_entries(docstring, "Parameters")
        strangers += [f"{node.name}: {name}" for name, _ in entries if own and name not in own]
        for name, kind in [*entries, *section_entries(docstring, "Attributes")]:
            names = set(re.findall(r"\b[A-Z][a-z]+\w*\b", kind)) - OTHER_WORDS - classes
            strangers += [f"{node.name}: {name} : {word}" for word in names]
        for name, kind in section_entries(docstring, "Returns"):
            plain = kind or name
            if re.fullmatch(r"[A-Z]\w+", plain) and plain not in OTHER_WORDS | classes:
                strangers.append(f"{node.name} returns {plain}")
    return strangers


def test_docstrings_name_parameters_and_types_that_exist() -> None:
    classes = class_names(list(MODULES.values()))
    strangers = {path: find_strangers(source, classes) for path, source in MODULES.items()}
    assert not {
        path: strangers_of_module
        for path, strangers_of_module in strangers.items()
        if strangers_of_module
    }


@pytest.mark.parametrize(
    ("entry", "stranger"),
    [("crew : Pool", "f: crew"), ("pool : Crew", "f: pool : Crew")],
)
def test_a_planted_stranger_is_found(entry: str, stranger: str) -> None:
    source = f'def f(pool):\n    """Do.\n\n    Parameters\n    ----------\n    {entry}\n    """'
    assert find_strangers(source, {"Pool"}) == [stranger]


def comments_of_constants(source: str) -> list[str]:
    """Text of each `#:` comment, the lines of one comment joined."""
    comments = re.finditer(r"^ *#: .*(?:\n *#: .*)*|#: .*$", source, re.M)
    return [re.sub(r"\s*#: ", " ", match[0]).strip() for match in comments]


def test_the_comment_of_a_constant_names_what_it_is_about() -> None:
    leaning = [
        f"{path}: {comment}"
        for path, source in MODULES.items()
        for comment in comments_of_constants(source)
        if LEANING_COMMENT.match(comment)
    ]
    assert not leaning


@pytest.mark.parametrize(
    "comment",
    ["Its maximum with texture.", "Factor on it.", "Above these two, a caution.", "Fewest pixels."],
)
def test_a_planted_comment_that_leans_on_its_neighbour_is_found(comment: str) -> None:
    (only,) = comments_of_constants(f"#: {comment}\nLIMIT = 1")
    assert LEANING_COMMENT.match(only)
