"""Outputs that are replaced during a run: nothing is written elsewhere, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from commands import start
from napari_dip.cli import main
from napari_dip.errors import FailedError
from napari_dip.io.outputs import resolve_output
from napari_dip.io.paths import make_folder_refusal, make_save_fault
from napari_dip.io.reading import read_header
from napari_dip.io.writing import write_image, write_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has links for few people only")

HOW = ("--preset", "fast", "--max-iterations", "30", "--device", "cpu")


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).poisson(np.full((48, 40), 200.0)).astype("uint16")
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "in.tif", image)
    (tmp_path / "away").mkdir()
    return tmp_path / "in" / "in.tif"


def run_while(change: Callable[[], object], *argv: object) -> tuple[int, str, str]:
    """Run a command, and change something once the fit is on."""
    process = start(*argv)
    assert process.stderr is not None
    for line in process.stderr:
        if "Measuring" in line:
            process.send_signal(signal.SIGSTOP)  # the change comes before the end for sure
            change()
            process.send_signal(signal.SIGCONT)
            break
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "overwrite"), [("q.tif", False), ("q.tif", True), ("q.ome.zarr", True)]
)
def test_an_output_that_becomes_a_link_meanwhile_is_not_written_through(
    noisy, tmp_path, name, overwrite
):
    out, elsewhere = tmp_path / name, tmp_path / "away" / name
    more = ("--overwrite",) if overwrite else ()
    code, _, said = run_while(
        lambda: out.symlink_to(elsewhere), "denoise", noisy, "-o", out, *HOW, *more
    )
    rescued = tmp_path / name.replace("q.", "q.rescued.")
    assert code == 1 and "Traceback" not in said
    assert f"'{out}' could not be saved" in said and f"kept as '{rescued}'" in said
    assert "Free some space" not in said
    assert not list((tmp_path / "away").iterdir()) and out.is_symlink()
    assert read_header(rescued).shape == (48, 40)


@pytest.mark.long
def test_a_folder_that_becomes_a_link_meanwhile_is_not_written_through(noisy, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()

    def swap() -> None:
        folder.rename(tmp_path / "results before")
        folder.symlink_to(tmp_path / "away")

    reports = ("--report", tmp_path / "r.json")
    argv = ("denoise", noisy, "-o", folder / "q.tif", *HOW, *reports)
    code, _, said = run_while(swap, *argv)
    assert code == 1 and "was replaced after the run began" in said
    assert not list((tmp_path / "away").iterdir())
    assert read_header(tmp_path / "in" / "q.rescued.tif").shape == (48, 40)
    assert json.loads((tmp_path / "r.json").read_text())["task"] == "denoise"  # lost neither


@pytest.mark.long
@pytest.mark.parametrize("kind", ["link", "file", "folder"])
def test_a_result_of_a_batch_that_becomes_something_else_is_not_written_through(
    noisy, tmp_path, kind
):
    recipe = {"schema": 1, "task": "denoise", "preset": "fast", "max_iterations": 200}
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "device": "cpu"}))
    out = tmp_path / "out" / "in.tif"

    def change() -> None:
        if kind == "link":
            out.symlink_to(tmp_path / "away" / "in.tif")
        elif kind == "file":
            out.write_text("mine")
        else:
            (tmp_path / "out").rename(tmp_path / "out before")
            (tmp_path / "out").symlink_to(tmp_path / "away")

    code, _, said = run_while(
        change, "batch", tmp_path / "recipe.json", noisy, "-o", tmp_path / "out"
    )
    assert code == 1 and "Traceback" not in said and "kept as" in said
    assert not list((tmp_path / "away").rglob("*.tif"))
    if kind == "file":
        assert out.read_text() == "mine"
    rescued = tmp_path / ("in" if kind == "folder" else "out") / "in.rescued.tif"
    assert read_header(rescued).shape == (48, 40)


def test_a_link_that_was_there_at_the_check_is_followed_then_and_not_again(tmp_path):
    (tmp_path / "real.tif").write_bytes(b"old")
    (tmp_path / "link.tif").symlink_to("real.tif")
    place = resolve_output(tmp_path / "link.tif", overwrite=True)
    (tmp_path / "link.tif").unlink()
    (tmp_path / "link.tif").symlink_to("other.tif")
    write_image(place, np.zeros((20, 30), "float32"), axes="YX", overwrite=True)
    assert read_header(tmp_path / "real.tif").shape == (20, 30)
    assert not (tmp_path / "other.tif").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("ENOSPC", "disk-full"), ("EDQUOT", "disk-full"), ("EROFS", "save-readonly")),
        *(("EACCES", "save-readonly"), ("ENOENT", "save-gone"), ("EEXIST", "save-taken")),
        *(("ENAMETOOLONG", "save-name"), ("EIO", "save-failed"), ("EFBIG", "save-large")),
    ],
)
def test_free_some_space_is_said_of_a_full_disk_alone(name, code):
    import errno

    number = getattr(errno, name)
    for say in (make_save_fault, make_folder_refusal):
        no = say("/far/q.tif", OSError(number, os.strerror(number)))
        assert ("Free some space" in no.remedy) == (name in ("ENOSPC", "EDQUOT")), no
    assert make_save_fault("/far/q.tif", OSError(number, os.strerror(number))).code == code


def test_each_way_that_a_real_disk_says_no_has_its_own_remedy(tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    cases = {
        tmp_path / "gone" / "a.json": "Create its folder again",
        tmp_path / "mine.json": "Move what exists there",
        tmp_path / f"{'x' * 260}.json": "Choose a shorter name",
        tmp_path / "mine.json" / "a.json": "Create its folder again",
    }
    for path, remedy in cases.items():
        with pytest.raises(FailedError) as caught:
            write_text(path, "{}")
        assert remedy in caught.value.reason.remedy
        assert "space" not in caught.value.reason.message
    with pytest.raises(FailedError) as caught:
        write_text("/dev/full/a.json", "{}")
    assert "space" not in caught.value.reason.message


LONGEST = 255


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name", [f"{'x' * 245}.tif", f"{'ä' * 120}.tif", f"{'x' * 242}.ome.tif", f"{'x' * 251}.tif"]
)
def test_a_name_of_any_length_that_the_disk_takes_works_with_all_that_a_run_keeps(
    noisy, tmp_path, name
):
    out = tmp_path / name
    argv = ("denoise", noisy, "-o", out, *HOW[:3], "3000", *HOW[4:])
    process = start(*argv)
    assert process.stderr is not None
    for line in process.stderr:
        if "validation loss" in line:
            process.send_signal(signal.SIGINT)
            break
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "--resume" in said, said
    (state,) = tmp_path.glob("*.unfinished")
    (partial,) = tmp_path.glob("*.partial*.tif")
    assert all(len(os.fsencode(path.name)) <= LONGEST for path in (state, partial))
    assert read_header(partial).shape == (48, 40)


def test_results_of_two_long_names_that_differ_at_their_end_do_not_share_what_they_keep(tmp_path):
    from napari_dip.scale.batch.records import make_result_paths

    first, second = (make_result_paths(tmp_path, f"{'x' * 240}{number}.tif") for number in (1, 2))
    assert not set(first) & set(second)
    assert all(
        len(os.fsencode(path.name)) <= LONGEST for path in (*first, first.get_learned_path("psf"))
    )
    short = make_result_paths(tmp_path, "cells.tif")
    assert short.record.name == "cells.tif.json"


def test_a_batch_of_a_file_of_the_longest_name_ends_with_its_result(noisy, tmp_path, capsys):
    noisy.rename(noisy.with_name("x" * 251 + ".tif"))
    recipe = {
        "schema": 1,
        "task": "denoise",
        "preset": "fast",
        "max_iterations": 2,
        "device": "cpu",
    }
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    line = ["batch", str(tmp_path / "r.json"), str(noisy.parent), "-o", str(tmp_path / "out")]
    assert main(line) == 0 and main([*line, "--resume"]) == 0
    assert "1 done" in capsys.readouterr().err


COMMANDS = (
    "denoise {in} -o out.tif",
    "denoise {in} -o {folder}/out.tif",
    "plan denoise {in}",
    "batch {recipe} {in} -o out",
    "batch {recipe} {in} -o {folder}/out",
    "noise {in} --report r.json",
    "explore impedance {in} -o {folder}/e",
    "methods {in}",
    "doctor",
    "demo --no-window",
)


def test_every_command_is_refused_with_a_message_in_a_folder_that_was_deleted(noisy, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    facts = {"in": noisy, "folder": tmp_path, "recipe": tmp_path / "r.json"}
    code = (
        "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "from napari_dip.cli import main\n"
        "for line in sys.argv[2:]: print(main(line.split()), flush=True)"
    )
    lines = [line.format(**facts) for line in COMMANDS]
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "gone", *lines, "--version"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.stdout.split()[:-2] == ["2"] * len(COMMANDS), ended.stderr
    assert ended.stdout.split()[-1] == "0" and "Traceback" not in ended.stderr
    assert ended.stderr.count("does not exist any more") == len(COMMANDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "in", "r.json"]


@pytest.mark.long
def test_a_working_folder_that_is_deleted_while_a_run_is_on_costs_no_image(noisy, tmp_path):
    (tmp_path / "here").mkdir()
    argv = ("denoise", "../in/in.tif", "-o", "q.tif", *HOW)
    process = start(*argv, cwd=tmp_path / "here")
    assert process.stderr is not None
    for line in process.stderr:
        if "validation loss" in line:
            shutil.rmtree(tmp_path / "here")
            break
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 1 and "Traceback" not in said and "unexpected" not in said, said
    assert "Create its folder again" in said and "Free some space" not in said
    (kept,) = re.findall("kept as '(.*)'", said)
    assert read_header(os.path.normpath(tmp_path / "here" / kept)).shape == (48, 40)
