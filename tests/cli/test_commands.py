"""plan, doctor, demo, --help, and commands made from the fields of tasks."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_dip.cli import main
from napari_dip.cli.app import summarise_task
from napari_dip.io.reading import read_header
from napari_dip.pipeline.recipe import RunSettings, make_recipe
from napari_dip.tasks import TASKS


def noisy(folder: Path) -> str:
    image = np.random.default_rng(0).normal(500, 20, (40, 50)).astype("uint16")
    tifffile.imwrite(folder / "in.tif", image)
    return str(folder / "in.tif")


def test_plan_prints_one_line_and_writes_nothing(tmp_path, capsys):
    assert main(["plan", "denoise", noisy(tmp_path), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("50 × 40 pixels") and out.count("\n") == 1
    assert out.count("if this computer does nothing else") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_plan_follows_the_settings(tmp_path, capsys):
    image = noisy(tmp_path)
    main(["plan", "denoise", image, "--restarts", "3", "--device", "cpu"])
    assert "3 fits" in capsys.readouterr().out


def test_notes_of_the_file_are_printed(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 4), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "in.png")
    assert main(["plan", "denoise", str(tmp_path / "in.png")]) == 0
    assert "alpha" in capsys.readouterr().out


def test_the_assumed_axes_of_a_stack_are_reported(tmp_path, capsys):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.random.default_rng(0).normal(50, 5, (8, 32, 32)).astype("float32"))
    assert main(["plan", "denoise", str(path)]) == 0
    assert "taken for ZYX" in capsys.readouterr().out
    assert main(["plan", "denoise", str(path), "--axes", "TYX"]) == 0
    assert "taken for" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gain", "abc", "'--gain' cannot be 'abc': it should be a number."),
        ("--max-iterations", "2.5", "'--max-iterations' cannot be '2.5': it should be a whole"),
        ("--restarts", "0", "'--restarts' cannot be '0': it should be at least 1."),
        ("--restarts", "65", "'--restarts' cannot be '65': it should be at most 64."),
    ],
)
def test_a_wrong_value_is_refused_under_the_typed_option(option, value, message, tmp_path, capsys):
    assert main(["plan", "denoise", noisy(tmp_path), f"{option}={value}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_every_field_of_a_task_is_an_option_with_its_help(task, capsys):
    assert main([task, "--help"]) == 0
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    names = [field.name for field in dataclasses.fields(TASKS[task])]
    for name in [*names, *RunSettings.model_fields]:
        assert f"--{name.replace('_', '-')} " in output
    assert "True" not in output and "False" not in output


@pytest.mark.parametrize("task", TASKS)
def test_in_a_narrow_terminal_the_help_breaks_no_choice_and_begins_with_what_is_used_most(
    task, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([task, "--help"]) == 0
    output = capsys.readouterr().out
    choices = {word.rstrip(".") for word in re.split(r"[\s│|,]+", output)}
    for kind in (TASKS[task], RunSettings):
        for field in kind.__pydantic_fields__.values():
            for mark in field.metadata:
                assert set(map(str, getattr(mark, "choices", None) or ())) <= choices
    named = re.findall(r"^│[ *]+--([a-z-]+)", output, re.M)
    assert named[:5] == ["output", "preset", "overwrite", "axes", "max-iterations"]
    assert "Default: ." not in output


def test_the_list_of_commands_says_in_sentences_what_tasks_do(capsys):
    assert main(["--help"]) == 0
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    said = {name: summarise_task(task) for name, task in TASKS.items()}
    for name, summary in said.items():
        assert f"{name} {summary}" in output
        assert (
            summary[0].isupper() and summary.endswith(".") and TASKS[name].spec.title not in summary
        )


def test_help_and_version_load_no_torch():
    code = (
        "import sys; from napari_dip.cli import main\n"
        "assert main(['--help']) == main(['denoise', '--help']) == main(['--version']) == 0\n"
        "sys.exit(bool({'torch', 'qtpy', 'matplotlib', 'skimage'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "0.1.0" in answer.stdout and "blind-spot" in answer.stdout


@pytest.mark.long
def test_doctor_names_what_it_found_as_text_and_as_json(capsys):
    assert main(["doctor", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["is_usable"] and output["devices"][-1] == "cpu" and output["torch"]
    assert bool(output["no_gpu_reason"]) == (output["devices"] == ["cpu"])
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("PyTorch", "Restorations run on", "of memory free", "napari", "Qt", "Python"):
        assert word in printed


def test_doctor_gives_the_line_that_mends_a_missing_torch(monkeypatch, capsys):
    from napari_dip.pipeline.machine import Machine

    bare = Machine(
        cores=2,
        memory_bytes=10**9,
        devices=("cpu",),
        torch_version="",
        no_gpu_reason="PyTorch is not installed",
    )
    monkeypatch.setattr("napari_dip.pipeline.machine.detect_machine", lambda: bare)
    assert main(["doctor"]) == 1
    assert "-m pip install torch" in capsys.readouterr().out


@pytest.mark.long
def test_the_demo_without_a_window_draws_before_and_after(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "before_after.png").write_text("of an earlier demo")
    monkeypatch.setattr(
        "napari_dip.cli.commands.make_recipe",
        lambda task, **settings: make_recipe(task, max_iterations=3, **settings),
    )
    assert main(["demo", "--no-window"]) == 0
    places = [Path(place) for place in capsys.readouterr().out.splitlines()]
    assert [place.name for place in places] == ["before_after.png", "mitochondria_denoised.tif"]
    assert {place.parent.name for place in places} == {"demo-2"}  # nothing of the first is lost
    assert (tmp_path / "demo" / "before_after.png").read_text() == "of an earlier demo"
    with Image.open(places[0]) as image:
        assert image.width > 2 * image.height
    assert read_header(places[1]).shape == (320, 320)


def test_the_demo_says_why_there_can_be_no_window(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["demo", "--window"]) == 2
    assert "there is no display" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
