"""Type checkers see each setting: they flag wrong calls, and accept right ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import napari_dip as dip
from napari_dip import explore

ROOT = Path(__file__).resolve().parents[1]
WRONG, RIGHT = (ROOT / "tests" / "typing" / f"{kind}_calls.py" for kind in ("wrong", "right"))
#: Calls by line, and the text that is to be flagged.
MARKED = {
    number: line.split("  # ")
    for number, line in enumerate(WRONG.read_text(encoding="utf-8").splitlines(), 1)
    if line.startswith(("dip.", "result.")) and "  # " in line
}


def count_calls(path: Path) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(line.startswith(("dip.", "result.")) for line in lines)


def test_there_are_sixty_calls_of_each_kind() -> None:
    assert len(MARKED) == count_calls(WRONG) >= 60
    assert count_calls(RIGHT) >= 60


@pytest.mark.long
def test_mypy_flags_each_wrong_call_and_no_right_one() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--output", "json"]
    command += [str(WRONG), str(RIGHT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    diagnostics = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    errors = [entry for entry in diagnostics if entry["severity"] == "error"]
    flagged = {entry["line"] for entry in errors if Path(entry["file"]).name == WRONG.name}
    assert flagged == set(MARKED), done.stdout[-2000:] + done.stderr
    assert [entry for entry in errors if Path(entry["file"]).name != WRONG.name] == []


def run_pyright(*arguments: str) -> dict[str, Any]:
    pytest.importorskip("pyright")  # it brings Node, so it is no part of the extra `test`
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    command += arguments
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_pyright_flags_each_wrong_call_at_its_argument_and_no_right_one() -> None:
    diagnostics = run_pyright(str(WRONG), str(RIGHT))["generalDiagnostics"]
    assert [entry for entry in diagnostics if Path(entry["file"]).name == RIGHT.name] == []
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    flagged: dict[int, set[str]] = {}
    for entry in diagnostics:
        start, end = entry["range"]["start"], entry["range"]["end"]
        text = lines[start["line"]][start["character"] : end["character"]]
        flagged.setdefault(start["line"] + 1, set()).add(text)
    assert flagged.keys() == MARKED.keys()
    marks = {line: mark for line, (_, mark) in MARKED.items()}
    assert {line: flagged[line] for line, mark in marks.items() if mark not in flagged[line]} == {}


def test_pyright_knows_the_type_of_each_public_name_and_of_99_percent_of_all() -> None:
    names = {f"napari_dip.{name}" for name in dip.__all__}
    names |= {f"napari_dip.explore.{name}" for name in explore.__all__}
    answer = run_pyright("--verifytypes", "napari_dip", "--ignoreexternal")
    assert answer["typeCompleteness"]["completenessScore"] >= 0.99
    symbols = answer["typeCompleteness"]["symbols"]
    public = [symbol for symbol in symbols if symbol["name"] in names]
    assert len(public) > 30
    assert [symbol["name"] for symbol in public if not symbol["isTypeKnown"]] == []
