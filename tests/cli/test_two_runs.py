"""Two runs at once do not overwrite the files of each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from commands import start
from napari_dip.cli import main
from napari_dip.errors import RefusedError
from napari_dip.io.outputs import (
    OutputLock,
    check_unlocked,
    find_lock_path,
    lock_outputs,
    remove_stale_temporary_files,
)

if TYPE_CHECKING:
    from pathlib import Path

    from commands import Program

pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes are killed by POSIX's signals")

LONG = ("--preset", "fast", "--max-iterations", "100000", "--device", "cpu")
SHORT = ("--preset", "fast", "--max-iterations", "3", "--device", "cpu")
RECIPE = {"schema": 1, "task": "denoise", "preset": "fast", "device": "cpu"}
#: Writes a TIFF whose pixels take for ever, in a folder.
WRITER = """
import sys, time
from pathlib import Path
from napari_dip.io.atomic import write_atomically
with write_atomically(Path(sys.argv[1]), overwrite=False) as part:
    part.write_bytes(b"half of a picture")
    print("writing", flush=True)
    time.sleep(600)
"""
#: The same of an OME-Zarr.
ZARR_WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from napari_dip.io.writing import write_zarr
class Slow:
    shape, dtype, ndim = (64, 64), np.dtype("float32"), 2
    def __getitem__(self, region):
        print("writing", flush=True)
        time.sleep(600)
write_zarr(Path(sys.argv[1]), Slow(), "YX", {}, provenance={})
"""


def start_run(*line: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_run(process: Program) -> None:
    process.kill()
    process.communicate()


def wait_for_output(process: Program, text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it never said '{text}'")


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).poisson(np.full((48, 40), 200.0)).astype("uint16")
    tifffile.imwrite(tmp_path / "in.tif", image)
    return tmp_path / "in.tif"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("code", "name"), [(WRITER, "a.tif"), (ZARR_WRITER, "a.ome.zarr")])
def test_files_of_a_running_process_are_left_alone_and_removed_once_it_was_killed(
    noisy, tmp_path, code, name
):
    process = start_run("-c", code, tmp_path / name)
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        (part,) = tmp_path.glob(".napari-dip-*.part")
        os.utime(part, (1, 1))  # of long ago, by the clock of a disk that goes wrong
        assert main(["denoise", str(noisy), "-o", str(tmp_path / "b.tif"), *SHORT]) == 0
        assert part.exists()
    finally:
        kill_run(process)
    assert part.exists()
    assert main(["denoise", str(noisy), "-o", str(tmp_path / "c.tif"), *SHORT]) == 0
    assert not part.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"in.tif", "b.tif", "c.tif"}


@pytest.mark.long
@pytest.mark.parametrize("name", ["q.tif", "q.ome.zarr"])
def test_a_second_run_with_one_output_is_refused_while_the_first_lives(
    noisy, tmp_path, capsys, name
):
    out = tmp_path / name
    (tmp_path / "link").symlink_to(tmp_path)
    process = start("denoise", noisy, "-o", out, *LONG)
    try:
        wait_for_output(process, "validation loss")
        for path in (out, tmp_path / "link" / name):
            for options in ((), ("--overwrite",), ("--resume",)):
                assert main(["denoise", str(noisy), "-o", str(path), *SHORT, *options]) == 2
                error_output = capsys.readouterr().err
                assert (
                    f"Another run is writing to '{path}' (process {process.pid} on" in error_output
                )
                assert "Wait until it has ended, or choose another name" in error_output
        report = ("--report", str(tmp_path / "r.json"))
        other = str(tmp_path / "other.tif")
        assert main(["denoise", str(noisy), "-o", other, *SHORT, *report]) == 0
    finally:
        kill_run(process)
    assert main(["denoise", str(noisy), "-o", str(out), *SHORT]) == 0
    assert not list(tmp_path.glob(".napari-dip-*"))


def test_the_lock_of_a_killed_run_is_removed_by_the_next_one_in_that_folder(noisy, tmp_path):
    process = start("denoise", noisy, "-o", tmp_path / "q.tif", *LONG)
    wait_for_output(process, "validation loss")
    kill_run(process)
    place = find_lock_path(tmp_path / "q.tif")
    assert json.loads(place.read_text())["process"] == process.pid
    check_unlocked(tmp_path / "q.tif")
    with OutputLock(tmp_path / "other.tif"):
        remove_stale_temporary_files(tmp_path)
        assert not place.exists() and find_lock_path(tmp_path / "other.tif").exists()
        check_unlocked(
            tmp_path / "other.tif"
        )  # of this program: it is the beginning that is refused
        with pytest.raises(RefusedError):
            OutputLock(tmp_path / "other.tif")
    assert not find_lock_path(tmp_path / "other.tif").exists()


def test_outputs_are_checked_before_and_after_they_are_locked(tmp_path):
    path = tmp_path / "q.tif"
    were_locked = []

    def check() -> bool:
        were_locked.append(find_lock_path(path).exists())
        return were_locked[-1]

    with lock_outputs(check, path, tmp_path / "r.tif") as is_locked:
        assert is_locked and were_locked == [False, True]
        with pytest.raises(RefusedError):
            OutputLock(tmp_path / "r.tif")


def test_a_file_of_the_users_that_looks_like_a_lock_is_not_removed(tmp_path):
    mine = tmp_path / ".napari-dip-mine.lock"
    mine.write_text("mine")
    remove_stale_temporary_files(tmp_path)
    assert mine.read_text() == "mine"


@pytest.mark.long
def test_a_second_batch_into_one_folder_is_refused_while_the_first_lives(noisy, tmp_path, capsys):
    (tmp_path / "long.json").write_text(json.dumps({**RECIPE, "max_iterations": 100_000}))
    line = ["batch", str(tmp_path / "long.json"), str(noisy), "-o", str(tmp_path / "out")]
    process = start(*line)
    try:
        wait_for_output(process, "validation loss")
        for options in ([], ["--resume"]):
            assert main([*line, *options]) == 2
            error_output = capsys.readouterr().err
            assert (
                "Another run is writing to" in error_output
                and f"(process {process.pid} on" in error_output
            )
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (tmp_path / "long.json").write_text(json.dumps({**RECIPE, "max_iterations": 3}))
    (tmp_path / "out" / "batch.json").unlink()
    assert main([*line]) == 0
    assert not list((tmp_path / "out").rglob(".napari-dip-*"))
