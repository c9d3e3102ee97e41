"""State is a value: no program code compares, searches or takes apart an English sentence."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import (
    StopReason,
    make_note,
    make_stop,
    parse_report_notes,
    parse_stop,
    read_report_stop,
    serialise_notes,
    serialise_stop,
)
from napari_dip.errors.templates import METHODS, NOTES, STOPS, TEXTS
from napari_dip.pipeline.assess import methods_section
from napari_dip.tasks.noise_models.registry import NOISE_MODELS
from syntax_trees import list_nodes, parse_source

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "napari_dip"
#: Two words with a blank between them.
SENTENCE = re.compile(r"[A-Za-z]{2,}[,.:;]? +[A-Za-z]{2,}")
TEXT_METHODS = frozenset(
    "startswith endswith partition rpartition split rsplit replace removeprefix removesuffix "
    "find rfind index rindex count".split()
)
#: Texts of other software that are compared, as it gives no code.
ALLOWED = {
    "Input should be ": "pydantic: how the reason of a wrong field begins",
    "Value error, ": "pydantic: how the reason of a validator begins",
    r"os error (\d+)": "safetensors: why a file was not written",
}


def list_constants(tree: ast.Module) -> dict[str, list[str]]:
    """List the texts in each module-level constant: its own, or those of a tuple, list or set."""
    constants = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:
                constants[target.id] = list(iter_texts(node.value, {}))
    return constants


def iter_texts(node: ast.expr, constants: dict[str, list[str]]) -> Iterator[str]:
    """Give the texts that an operand is or holds, of f-strings the fixed parts."""
    if isinstance(node, ast.Constant):
        yield from [node.value] if isinstance(node.value, str) else []
    elif isinstance(node, ast.Name | ast.Attribute):
        yield from constants.get(node.id if isinstance(node, ast.Name) else node.attr, ())
    else:
        for part in list_parts(node):
            yield from iter_texts(part, constants)


def list_parts(node: ast.expr) -> list[ast.expr]:
    """List the operands that an f-string, a sum or a container is made of."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return node.elts
    if isinstance(node, ast.Dict):
        return [key for key in node.keys if key is not None]
    return [node.left, node.right] if isinstance(node, ast.BinOp) else []


def list_operands(node: ast.AST) -> list[ast.expr]:
    """List what is compared or searched for; of `text.split(...)` the text as well."""
    if isinstance(node, ast.Compare):
        kinds = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
        return [node.left, *node.comparators] if isinstance(node.ops[0], kinds) else []
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return []
    if isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
        return node.args
    plain = isinstance(node.func.value, ast.Constant)  # a list of names, written as one text
    return node.args if node.func.attr in TEXT_METHODS and not plain else []


def find_compared_sentences(source: str, elsewhere: dict[str, list[str]]) -> list[str]:
    """Find the sentences that a module compares, searches or takes apart.

    Parameters
    ----------
    source : str
        Of the module.
    elsewhere : dict
        Texts in the constants of other modules, by name.
    """
    tree = parse_source(source)
    constants = {**elsewhere, **list_constants(tree)}
    texts = (
        f"line {node.lineno}: {text}"
        for node in list_nodes(source)
        for operand in list_operands(node)
        for text in iter_texts(operand, constants)
        if SENTENCE.search(text) and text not in ALLOWED
    )
    return list(texts)


def test_no_module_compares_a_sentence() -> None:
    sources = {path: path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    public: dict[str, list[str]] = {}
    for source in sources.values():
        for name, texts in list_constants(parse_source(source)).items():
            if name.isupper() and not name.startswith("_"):
                public.setdefault(name, []).extend(texts)
    compared = {path: find_compared_sentences(source, public) for path, source in sources.items()}
    assert {path: texts for path, texts in compared.items() if texts} == {}


@pytest.mark.parametrize(
    "planted",
    [
        'kept = reason == "you kept the picture"',
        'kept = "you kept the picture" != reason',
        'REASON = "you kept the picture"\nkept = reason == REASON',
        'REASON: str = "you kept the picture"\nkept = reason in (REASON, "")',
        "kept = state.REASON == result.stop_reason",
        'early = [one for one in notes if one.startswith("Ended by hand")]',
        'early = one.endswith(("as in the input.", "."))',
        'short = message.replace("Leave it out", "Leave it empty")',
        'first = reason.partition(" since the fit ")',
        'parts = sentence.split("; in part ")',
        "there = f\"setting '{name}' cannot be\" in sentence",
        'there = {"you kept the picture": 1}.get(reason) and "the fit" in reason',
        'found = re.match(r"all \\d+ iterations were used", reason)',
    ],
)
def test_a_planted_comparison_with_a_sentence_is_found(planted: str) -> None:
    assert find_compared_sentences(planted, {"REASON": ["you kept the picture"]})


@pytest.mark.parametrize(
    "plain",
    [
        'kept = stop.reason is StopReason.USER and code == "noise-weaker"',
        'ome = name.endswith(".ome.tif") and "YX" in axes',
        'names = "one two three".split()',
        'text = f"{count} files were restored" if count > 1 else "one file was"',
        'said = ", ".join(words)',
    ],
)
def test_codes_names_and_texts_that_are_only_shown_pass(plain: str) -> None:
    assert not find_compared_sentences(plain, {})


def test_a_report_tells_why_the_fit_ended() -> None:
    stop = make_stop(StopReason.PLATEAU, waited=75, smoothed=True)
    read = read_report_stop(serialise_stop(stop))
    assert (read.reason, str(read)) == (StopReason.PLATEAU, str(stop))
    assert parse_stop(stop.to_dict()) == stop
    last = make_stop(StopReason.ITERATIONS, count=20, several=False)
    # the order counts, since files that hold it are compared by bytes
    assert list(parse_stop(last.to_dict()).facts) == list(last.facts)
    earlier = {"reason": "iterations", "facts": {"count": 20}}
    assert str(parse_stop(earlier)) == "all 20 iterations were used"
    assert set(STOPS) == set(StopReason)


def test_every_row_of_the_methods_section_is_written_by_it() -> None:
    code = Path(methods_section.__file__).read_text(encoding="utf-8")
    assert METHODS
    figures_rows = {model.figures_template_key for model in NOISE_MODELS.values()}
    assert [row for row in METHODS if f'"{row}"' not in code and row not in figures_rows] == []


def test_every_text_is_written_somewhere() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert [row for row in TEXTS if f'"{row}"' not in code] == []


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("tasks/settings.toml", ""),
        ("cli/options.toml", ""),
        ("qt/texts.toml", "texts"),
        ("qt/texts.toml", "labels"),
        ("qt/texts.toml", "buttons"),
    ],
)
def test_every_row_of_a_table_is_read(file: str, table: str) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    rows = tomllib.loads((PACKAGE / file).read_text(encoding="utf-8"))
    assert [row for row in (rows[table] if table else rows) if f'"{row}"' not in code] == []


def test_notes_come_back_from_a_report_by_code_or_else_as_text() -> None:
    notes = (make_note("guide-moved", down=1.5, right=2), make_note("residual-noise"))
    report = serialise_notes(notes)
    assert parse_report_notes(report) == notes
    old = parse_report_notes({"notes": report["notes"]})
    assert [(note.code, str(note)) for note in old] == [("text", str(note)) for note in notes]
    with pytest.raises(KeyError):
        make_note("guide-moved", down=1)
    assert all(isinstance(text, str) for text in NOTES.values())


def test_a_refusal_is_read_back_from_json() -> None:
    no = make_refusal("time-over", limit=3, name="cells")
    new = no.to_dict()
    assert Refusal.read(new) == no
    with pytest.raises(KeyError):
        Refusal.read({**new, "code": "time-under"})
