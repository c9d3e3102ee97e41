"""No command deletes or replaces a file that it has not written."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from commands import start
from napari_dip.cli import main
from napari_dip.io.reading import read_header
from napari_dip.pipeline.store.run_folder import (
    RunFolder,
    empty_run_folder,
    is_run_folder,
    make_run_folder,
    remove_run_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

    from commands import Program

SHORT = ("--preset", "fast", "--max-iterations", "3", "--device", "cpu")
LONG = ("--preset", "fast", "--max-iterations", "100000", "--device", "cpu")


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).poisson(np.full((48, 40), 200.0)).astype("uint16")
    image[10:30, 10:20] += 100
    tifffile.imwrite(tmp_path / "in.tif", image)
    return tmp_path / "in.tif"


def wait_for_output(process: Program, text: str) -> None:
    """Wait until a command says something."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it never said '{text}'")


def place_user_files(folder: Path, name: str) -> dict[Path, str]:
    """Put files of the user's where a run would keep its state."""
    (folder / f"{name}.unfinished-2").mkdir()
    places = (
        folder / f"{name}.unfinished",
        folder / f"{name}.unfinished-2" / "notes.txt",
        folder / f"{name}.unfinished-2" / "checkpoint.safetensors",
    )
    for place in places:
        place.write_text(f"{place.name} is mine")
    return {place: place.read_text() for place in places}


@pytest.mark.parametrize("options", [(), ("--resume", "--overwrite")])
def test_a_file_of_the_users_beside_the_output_is_never_deleted(noisy, tmp_path, capsys, options):
    mine = place_user_files(tmp_path, "q.tif")
    if options:  # who goes on is told that it cannot be read
        assert main(["denoise", str(noisy), "-o", str(tmp_path / "q.tif"), *SHORT, *options]) == 2
        assert "cannot be read" in capsys.readouterr().err
    else:
        assert main(["denoise", str(noisy), "-o", str(tmp_path / "q.tif"), *SHORT]) == 0
        assert "q.tif.unfinished' is not of this program and stays" in capsys.readouterr().err
    assert {path: path.read_text() for path in mine} == mine
    expected = {"in.tif", "q.tif.unfinished", "q.tif.unfinished-2"}
    assert {path.name for path in tmp_path.iterdir()} - {"q.tif"} == expected


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals between processes")
def test_a_run_beside_a_file_of_the_user_is_resumed_under_another_name(noisy, tmp_path):
    mine = place_user_files(tmp_path, "q.tif")
    argv = ("denoise", noisy, "-o", tmp_path / "q.tif")
    process = start(*argv, "--preset", "fast", "--max-iterations", "200", "--device", "cpu")
    wait_for_output(process, "validation loss")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert is_run_folder(tmp_path / "q.tif.unfinished-3")
    (tmp_path / "q.partial.tif").unlink()
    more = ("--preset", "fast", "--max-iterations", "200", "--device", "cpu", "--resume")
    process = start(*argv, *more)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0 and "no unfinished run" not in said, said
    assert {path: path.read_text() for path in mine} == mine
    assert not (tmp_path / "q.tif.unfinished-3").exists()


def test_what_lies_in_the_folder_of_a_run_and_is_not_of_a_run_stays(tmp_path):
    folder = tmp_path / "q.tif.unfinished"
    make_run_folder(folder)
    entries = ("checkpoint", "checkpoint-1of3", "c0r0", "tile-0", "network-c0r0", "joint")
    ours = (*(f"{name}.safetensors" for name in entries), "run.json", "image.npy", "picture.raw")
    mine = ("notes.txt", "0.tif", "measured.json", "my tile.safetensors")
    for name in (*ours, *mine):
        (folder / name).write_text("something")
    (folder / "7.npy").mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    (folder / "8.npy").symlink_to(tmp_path / "elsewhere")
    empty_run_folder(folder)
    assert {path.name for path in folder.iterdir()} == {*mine, "7.npy", "8.npy", "held"}
    remove_run_folder(folder)
    assert all((folder / name).exists() for name in mine)
    for name in mine:
        (folder / name).unlink()
    (folder / "7.npy").rmdir()
    (folder / "8.npy").unlink()
    remove_run_folder(folder)
    assert not folder.exists() and (tmp_path / "elsewhere").exists()


def test_a_folder_without_the_mark_of_a_run_is_neither_taken_nor_removed(tmp_path):
    for name, mark in (("empty", None), ("other", "somebody holds this"), ("bare", "")):
        (tmp_path / name).mkdir()
        if mark is not None:
            (tmp_path / name / "held").write_text(mark)
        with pytest.raises(FileExistsError):
            make_run_folder(tmp_path / name)
        remove_run_folder(tmp_path / name)
        assert (tmp_path / name).is_dir() and not is_run_folder(tmp_path / name)


def test_a_partial_image_that_was_changed_since_is_not_removed(noisy, tmp_path):
    out, partial = tmp_path / "q.tif", tmp_path / "q.partial.tif"
    argv = ["denoise", str(noisy), "-o", str(out), *SHORT]
    assert main(argv) == 0
    out.rename(partial)  # of the same input and recipe
    content = bytearray(partial.read_bytes())
    content[-1] ^= 1
    partial.write_bytes(content)  # as if somebody had drawn into it
    assert main([*argv, "--resume"]) == 0
    assert partial.read_bytes() == bytes(content)
    partial.write_bytes(out.read_bytes())
    assert main([*argv, "--resume", "--overwrite"]) == 0
    assert not partial.exists()


def test_all_partial_images_of_a_run_interrupted_twice_are_removed_at_its_end(noisy, tmp_path):
    out = tmp_path / "q.tif"
    argv = ["denoise", str(noisy), "-o", str(out), *SHORT]
    assert main(argv) == 0
    for name in ("q.partial.tif", "q.partial-2.tif", "q.partial-3.tif"):
        (tmp_path / name).write_bytes(out.read_bytes())
    (tmp_path / "q.partial-2.tif").write_text("mine")
    assert main([*argv, "--resume", "--overwrite"]) == 0
    assert {path.name for path in tmp_path.glob("q*.tif")} == {"q.tif", "q.partial-2.tif"}


def test_a_count_of_beginnings_never_replaces_a_file_of_the_users(tmp_path):
    folder = RunFolder(tmp_path / "cells.tif.unfinished", resume=False)
    folder.create()
    place = folder.path / "0.starts"
    for text in ("mine", json.dumps({"begun": 3}), "[]"):
        place.write_text(text)
        folder.add_start("session", "0")
        folder.remove_starts("0")
        assert place.read_text() == text and folder.count_starts("session", "0") == 0
    place.unlink()
    folder.add_start("session", "0")
    assert folder.count_starts("session", "0") == 1
    folder.remove_starts("0")
    assert not place.exists()


def test_a_file_that_appears_while_a_run_is_on_is_not_replaced_by_its_state(tmp_path, noisy):
    if os.name == "nt":
        pytest.skip("Windows has no such signals between processes")
    process = start("denoise", noisy, "-o", tmp_path / "q.tif", *LONG)
    wait_for_output(process, "Starting")
    (tmp_path / "q.tif.unfinished").write_text("mine")
    wait_for_output(process, "validation loss")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (tmp_path / "q.tif.unfinished").read_text() == "mine"
    assert "could not be saved" in said and (tmp_path / "q.partial.tif").exists()


@pytest.mark.parametrize("unit", ["мкм", "ピクセル", "C:\\u"])
def test_a_unit_in_any_language_costs_no_image_and_comes_back(tmp_path, unit):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    image = np.random.default_rng(0).poisson(200, (48, 40)).astype("uint16")
    text = f"ImageJ=1.53t\nunit={unit}\n".encode()
    tifffile.imwrite(source, image, description=text, metadata=None, resolution=(9, 9))
    before = read_header(source)
    assert before.units is not None and before.units[0]
    assert main(["denoise", str(source), "-o", str(out), *SHORT]) == 0
    after = read_header(out)
    assert after.units == before.units and after.scale == pytest.approx(before.scale)
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].description.isascii()


def test_whatever_goes_wrong_while_saving_the_image_is_kept(noisy, tmp_path, monkeypatch, capsys):
    write, count = tifffile.TiffWriter.write, iter(range(9))

    def once(self, *values, **options):
        if next(count) == 0:
            raise ValueError("nobody foresaw this")
        return write(self, *values, **options)

    monkeypatch.setattr(tifffile.TiffWriter, "write", once)
    out, report = tmp_path / "out.tif", tmp_path / "report.json"
    argv = ["denoise", str(noisy), "-o", str(out), "--report", str(report), *SHORT]
    assert main(argv) == 1
    error_output = capsys.readouterr().err
    kept = tmp_path / "out.rescued.tif"
    assert "nobody foresaw this" in error_output and str(kept) in error_output
    assert tifffile.imread(kept).shape == (48, 40) and report.exists() and not out.exists()
