"""Streams that are closed, full or of few letters: no traceback, and no lost result."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a shell of Linux's")

SHORT = "--preset fast --max-iterations 2 --device cpu"
UNPRINTED = "The output could not be printed"
#: How the shell is told, whether standard output can be printed then, and errors.
STREAMS = {
    ">&-": (False, True),
    "2>&-": (True, False),
    "<&-": (True, True),
    ">/dev/full": (False, True),
    "2>/dev/full": (True, False),
    ">&- 2>&- <&-": (False, False),
}


@pytest.fixture
def folder(tmp_path):
    image = np.random.default_rng(0).normal(500, 20, (48, 48)).astype("uint16")
    tifffile.imwrite(tmp_path / "in.tif", image)
    return tmp_path


def run_in_shell(folder, line: str, **env: str) -> tuple[int, str, str]:
    """Give exit code, output and errors of `napari-dip` with this behind it in a shell."""
    command = f'"{sys.executable}" -m napari_dip {line}'
    answer = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **env},
        check=False,
    )
    assert "Traceback" not in answer.stderr and "Exception" not in answer.stderr
    assert "unexpected" not in answer.stderr
    return answer.returncode, answer.stdout, answer.stderr


@pytest.mark.long
@pytest.mark.parametrize("streams", STREAMS)
def test_a_result_is_kept_and_the_run_counts_as_done_whatever_can_be_printed(streams, folder):
    code, out, _ = run_in_shell(
        folder, f"denoise in.tif -o out.tif --report r.json {SHORT} {streams}"
    )
    assert code == 0
    assert tifffile.imread(folder / "out.tif").shape == (48, 48)
    assert sorted(path.name for path in folder.iterdir()) == ["in.tif", "out.tif", "r.json"]
    assert out == ("out.tif\n" if STREAMS[streams][0] else "")


@pytest.mark.long
@pytest.mark.parametrize("line", ["plan denoise in.tif", "--help", "--version"])
@pytest.mark.parametrize("streams", STREAMS)
def test_what_only_prints_has_failed_where_nothing_can_be_printed(line, streams, folder):
    code, out, errors = run_in_shell(folder, f"{line} {streams}")
    prints, says = STREAMS[streams]
    assert code == (0 if prints else 1)
    assert bool(out) == prints
    if says:
        assert (UNPRINTED in errors) is (not prints)


@pytest.mark.long
def test_figures_that_are_saved_need_not_be_printed(folder):
    assert run_in_shell(folder, "noise in.tif --report r.json >/dev/full")[0] == 0
    assert (folder / "r.json").stat().st_size > 100


@pytest.mark.long
@pytest.mark.parametrize("line", ["plan denoise in.tif", "--help"])
def test_a_closed_pipe_ends_the_command_without_a_message(line, folder):
    code, _, errors = run_in_shell(folder, f"{line} | true")
    assert code == 1 and errors == ""


@pytest.mark.long
def test_a_batch_is_done_where_nothing_can_be_printed(folder):
    recipe = '{"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 1}'
    (folder / "recipe.json").write_text(recipe, encoding="utf-8")
    assert run_in_shell(folder, "batch recipe.json in.tif -o done >/dev/full 2>&-")[0] == 0
    assert (folder / "done" / "in.tif").exists()


def test_what_a_library_says_never_lands_in_a_file_of_the_users(folder):
    """The first file that is opened would get the number of a closed stream."""
    code = (
        "import os; from napari_dip.cli.terminal import prepare_streams; prepare_streams()\n"
        "with open('out.txt', 'w') as file:\n"
        "    os.write(2, b'a warning of C'), file.write('pixels')"
    )
    line = f'"{sys.executable}" -c "{code}" >&- 2>&- <&-'
    subprocess.run(["bash", "-c", line], cwd=folder, check=True, timeout=100)
    assert (folder / "out.txt").read_text(encoding="utf-8") == "pixels"


@pytest.mark.long
def test_letters_that_a_stream_lacks_are_replaced(folder):
    os.rename(folder / "in.tif", folder / "ü.tif")
    same = {"PYTHONIOENCODING": "ascii"}
    code, out, errors = run_in_shell(folder, f"denoise ü.tif -o öut.tif {SHORT}", **same)
    assert code == 0 and out == "?ut.tif\n" and "48 ? 48 pixels" in errors
    code, out, _ = run_in_shell(folder, "denoise --help", **same)
    assert code == 0 and "--preset" in out
    assert run_in_shell(folder, "noise none-ü.tif", **same)[0] == 2
