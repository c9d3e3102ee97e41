"""`napari-dip batch`: its messages, its exit codes, and that a kill loses nothing."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from commands import start
from napari_dip.cli import main

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = dip.make_recipe("denoise", preset="fast", max_iterations=3, device="cpu")
NAMES = [f"cell_{number}.tif" for number in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    y, x = np.mgrid[:24, :24]
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(NAMES):
        clean = 200 + 80 * np.sin(x / 5 + seed) * np.cos(y / 7)
        image = np.random.default_rng(seed).poisson(clean).astype("uint16")
        tifffile.imwrite(tmp_path / "in" / name, image)
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    return tmp_path


def make_arguments(folder: Path, out: str, *options: str) -> list[str]:
    places = [str(folder / name) for name in ("recipe.json", "in", out)]
    return ["batch", places[0], places[1], "-o", places[2], *options]


def read_states(out: Path) -> dict[str, tuple[int, int]]:
    """Tell when, and as which file, each receipt and its result were written."""
    states = {}
    for receipt in out.glob("records/*.json"):
        for path in (receipt, out / receipt.stem):
            states[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return states


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal")
@pytest.mark.all_cores
def test_a_batch_killed_at_any_moment_resumes_to_the_same_bytes_and_computes_none_twice(
    folder, capsys
):
    moment = random.Random().randrange(2, 26)
    process = start(*make_arguments(folder, "killed"))
    assert process.stderr is not None
    for _ in range(moment):
        process.stderr.readline()
    process.kill()
    process.communicate(timeout=60)
    before = read_states(folder / "killed")
    assert main(make_arguments(folder, "killed", "--resume")) == 0, moment
    assert before.items() <= read_states(folder / "killed").items(), moment
    assert main(make_arguments(folder, "whole")) == 0
    assert "Traceback" not in capsys.readouterr().err
    for name in NAMES:
        whole, killed = (folder / place / name for place in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes(), moment
    assert not list((folder / "killed").rglob("*.unfinished"))


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal to one process")
def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(folder):
    process = start(*make_arguments(folder, "out"))
    assert process.stdout is not None
    assert process.stdout.readline() == f"{folder / 'out' / NAMES[0]}\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "all finished results are kept" in err and "--resume" in err and "Traceback" not in err
    kept = read_states(folder / "out")
    assert NAMES[0] in kept and NAMES[-1] not in kept
    assert "not begun" in (folder / "out" / "batch.csv").read_text()
    assert main(make_arguments(folder, "out", "--resume", "--quiet")) == 0
    assert kept.items() <= read_states(folder / "out").items()


def test_refusals_are_said_before_the_first_line_about_work(folder, capsys):
    (folder / "in" / "bad.tif").write_text("no image")
    assert main(make_arguments(folder, "out")) == 1  # one file has no result
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(folder / "out" / name) for name in NAMES]
    lines = captured.err.splitlines()
    assert "bad.tif" in lines[0] and "Save it as TIFF or PNG" in lines[0]
    assert lines[1].startswith("5 files, 1 refused, 4 to restore: up to ")
    assert lines[-1].startswith("Of 5 files: 4 restored, 1 refused.")
    assert sum("not a kind of image file" in line for line in lines) == 1


def test_the_new_name_of_an_earlier_result_is_printed_at_its_turn(folder, capsys):
    assert main(make_arguments(folder, "out", "--quiet")) == 0
    (folder / "in" / NAMES[1]).write_text("no image")
    capsys.readouterr()
    assert main(make_arguments(folder, "out", "--resume", "--quiet")) == 1
    refusal, at_its_turn = capsys.readouterr().err.splitlines()
    kept = "the earlier result is kept as 'cell_1.changed.tif'."
    assert at_its_turn.startswith(refusal) and at_its_turn.endswith(kept)


def test_a_batch_of_bad_files_alone_writes_nothing(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.tif").write_text("no image")
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    assert main(make_arguments(tmp_path, "out")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "recipe.json"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["batch"], "The command line lacks the recipe file."),
        (["batch", "r.json", "-o", "out"], "There is no file 'r.json'."),
        (["batch", '{"schema": 1, "task": "denoise"}', "-o", "out"], "No input was given."),
        (["batch", "r.json", "in"], "The command line lacks the option -o."),
    ],
)
def test_what_the_command_lacks_is_said(argv, message, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_folder_that_is_not_there_is_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    assert main(["batch", "recipe.json", "nowhere", "-o", "out"]) == 2
    assert capsys.readouterr().err.startswith("There is no file 'nowhere'.")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files of one series, a recipe, and in 'whole' what one network makes of them."""
    tmp_path = tmp_path_factory.mktemp("series")
    y, x = np.mgrid[:24, :24]
    (tmp_path / "in").mkdir()
    for seed in range(8):
        clean = 100 + 80 * np.sin(x / 5 + seed) * np.cos(y / 7)
        image = np.random.default_rng(seed).poisson(clean).astype("uint16")
        tifffile.imwrite(tmp_path / "in" / f"cell_{seed}.tif", image)
    (tmp_path / "recipe.json").write_text(RECIPE.to_json())
    assert main(make_arguments(tmp_path, "whole", "--joint-training", "--quiet")) == 0
    return tmp_path


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal")
@pytest.mark.all_cores
def test_a_batch_with_one_network_killed_at_any_moment_resumes_to_the_same_bytes(series, capsys):
    moment = random.Random().randrange(2, 50)
    process = start(*make_arguments(series, "killed", "--joint-training"))
    assert process.stderr is not None
    for _ in range(moment):
        process.stderr.readline()
    process.kill()
    process.communicate(timeout=60)
    before = read_states(series / "killed")
    assert main(make_arguments(series, "killed", "--resume", "--joint-training")) == 0, moment
    assert before.items() <= read_states(series / "killed").items(), moment
    assert "Traceback" not in capsys.readouterr().err
    for name in ("series.network", *(f"cell_{number}.tif" for number in range(8))):
        whole, killed = (series / place / name for place in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes(), moment
    assert not list((series / "killed").rglob("*.unfinished*"))


@pytest.mark.long
def test_too_few_files_for_one_network_are_refused_with_what_to_do(series, capsys):
    seven = [str(series / "in" / f"cell_{number}.tif") for number in range(7)]
    _, recipe, _, *rest = make_arguments(series, "out", "--joint-training")
    assert main(["batch", recipe, *seven, *rest]) == 2
    error_output = capsys.readouterr().err
    assert (
        "needs at least 8 files, but only 7" in error_output and "--joint-training" in error_output
    )
    assert not (series / "out").exists()
