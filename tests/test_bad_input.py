"""Every kind of bad input gets a refusal and exit code 2, and changes no file."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import napari_dip as dip
from bad_inputs import CASES, PYTHON_CASES, Case
from napari_dip.cli import main
from napari_dip.errors import FAULTS
from napari_dip.errors.templates import NOTES

#: A few that go through the installed command, one from each part of the table.
THROUGH_THE_SHELL = (
    "missing file",
    "absurd TIFF header",
    "all NaN",
    "output is the input",
    "--read-noise -3",
    "recipe cut off",
    "unknown option",
)


def make_params(cases: list[Case]) -> list[object]:
    return [pytest.param(case, id=case.name) for case in cases]


def hash_files(folder: Path) -> dict[str, str]:
    """Hashes of all files below a folder, links and pipes by their kind."""
    files = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "file" if path.is_file() else "other"
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if kind == "file" else ""
        files[str(path.relative_to(folder))] = kind + digest
    return files


def match_refusal(code: str) -> re.Pattern[str]:
    """Match the fault's two sentences, whatever its facts are."""
    fault = FAULTS[code]
    field = r"\{\w+(?::(?:[^{}]|\{[^{}]*\})*)?\}"  # a condition may name other facts
    parts = re.split(field, f"{fault.sentence} {fault.remedy}")
    return re.compile(".*?".join(map(re.escape, parts)))


def test_the_table_has_at_least_forty_five_kinds():
    assert len({case.name for case in CASES}) == len(CASES) >= 45


@pytest.mark.sampled(60)
@pytest.mark.parametrize("case", make_params(CASES))
def test_the_command_refuses_in_two_sentences_and_touches_nothing(case, tmp_path, capfd):
    argv = case.make(tmp_path)
    before = hash_files(tmp_path)
    assert main(argv) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert match_refusal(case.code).fullmatch(captured.err.rstrip("\n")), captured.err
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    assert hash_files(tmp_path) == before


@pytest.mark.parametrize("case", make_params(PYTHON_CASES))
def test_the_python_call_refuses_for_the_same_reason(case, tmp_path):
    argv = case.make(tmp_path)
    before = hash_files(tmp_path)
    call = getattr(dip, argv[0].replace("-", "_"))
    image, options = argv[1], argv[2:]
    settings, place = {}, 0
    while place < len(options):
        name, joined, value = options[place].partition("=")
        value, place = (value, place + 1) if joined else (options[place + 1], place + 2)
        settings[name.lstrip("-").replace("-", "_")] = value
    settings.pop("o", None)
    with pytest.raises(dip.RefusedError) as caught:
        if "from_recipe" in settings:
            dip.restore(image, Path(settings["from_recipe"]) if settings["from_recipe"] else "")
        else:
            call(image, **settings)
    assert caught.value.reason.code == case.code
    assert hash_files(tmp_path) == before


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", THROUGH_THE_SHELL)
def test_the_installed_command_says_the_same_to_a_shell(name, tmp_path):
    case = next(case for case in CASES if case.name == name)
    argv = case.make(tmp_path)
    before = hash_files(tmp_path)
    command = Path(sysconfig.get_path("scripts")) / "napari-dip"
    assert command.exists(), "The package is not installed."
    answer = subprocess.run([command, *argv], capture_output=True, text=True, timeout=100)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert match_refusal(case.code).fullmatch(answer.stderr.rstrip("\n")), answer.stderr
    assert hash_files(tmp_path) == before


def test_advice_with_an_option_names_the_command_line_or_a_label():
    """Docks and Python show the same texts: an option stands in brackets after its label."""
    texts = {code: fault.remedy for code, fault in FAULTS.items()} | dict(NOTES)
    bare = {
        code: text
        for code, text in texts.items()
        if "--" in re.sub(r"\([^()]*\)", "", text)
        if not re.search(r"command|napari-dip |dask worker |--[\w-]+ \(\w+=", text)
    }
    assert bare == {}


def test_refusals_load_no_torch(tmp_path):
    code = (
        "import sys; from napari_dip.cli import main\n"
        "assert main(['denoise', 'none.tif', '-o', 'out.tif']) == 2\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=100).returncode == 0
