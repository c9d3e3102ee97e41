"""Inputs that change during a run: the hash is of the pixels read, and a note says so."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

import napari_dip as dip
from napari_dip.cli.app import main
from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.io.paths import compute_file_sha256, make_file_stamp
from napari_dip.io.reading import read_header
from napari_dip.io.writing import write_image
from napari_dip.pipeline import autosave as keeping
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.autosave import AutosaveTarget, run_with_autosave
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import open_plan_inputs, stamp_files
from napari_dip.pipeline.progress import drain_generator
from napari_dip.scale.batch.records import RECORDS_FOLDER
from small_runs import make_noisy, plan_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS: dict[str, Any] = {"preset": "fast", "device": "cpu", "max_iterations": 4}
SIDE = 32


def make_change_note(name: str, code: str = "input-changed") -> str:
    return str(make_note(code, name=name))


def run_on_first_report(change: Callable[[], object]) -> Callable[[Any], None]:
    """Do something once, when the fit goes on."""
    waiting = [change]

    def change_at_first_report(event: Any) -> None:
        event = getattr(event, "event", None) or event
        if getattr(event, "iteration", 0) and waiting:
            waiting.pop()()

    return change_at_first_report


@pytest.mark.all_cores
def test_an_array_written_to_meanwhile_changes_neither_pixels_nor_hash() -> None:
    image = make_noisy(SIDE)
    before = dip.denoise(image.copy(), **SETTINGS)
    changed = dip.denoise(image, progress=run_on_first_report(lambda: image.fill(7)), **SETTINGS)
    assert (image == 7).all()
    assert changed.report["input_sha256"] == before.report["input_sha256"]
    assert np.array_equal(changed.image, before.image)
    assert make_change_note("image") in changed.report["notes"]
    assert not [note for note in before.report["notes"] if "changed" in note]


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, {"tile": 128}])
def test_a_memmap_written_to_meanwhile_is_named_with_the_hash_of_what_was_read(
    tmp_path: Path, settings: dict[str, int]
) -> None:
    pixels = ndimage.zoom(make_noisy(64), (160 / 64, 0.5))
    np.save(tmp_path / "in.npy", pixels)
    image = np.load(tmp_path / "in.npy", mmap_mode="r+")
    plan = plan_for(image, max_iterations=2, **settings)
    assert bool(plan.tiles) == bool(settings)
    change = run_on_first_report(lambda: image.fill(3))
    result = drain_generator(run(plan, {"image": image}), change)
    assert result is not None
    assert result.report["input_sha256"] == compute_sha256(pixels)
    note = make_change_note("shot", "input-changed-in-tiles" if plan.tiles else "input-changed")
    assert note in result.report["notes"]


def test_measured_pixels_are_those_that_were_read() -> None:
    image, mask = make_noisy(SIDE), np.zeros((SIDE, SIDE), bool)
    mask[8:12, 8:12] = True
    before = image.copy()
    change = run_on_first_report(lambda: image.fill(7))
    result = dip.inpaint(image, mask, dtype="same", progress=change, **SETTINGS)
    np.testing.assert_array_equal(result.image[~mask], before[~mask])


def test_a_file_that_another_program_writes_to_meanwhile_is_named(tmp_path: Path) -> None:
    path, pixels = tmp_path / "in.tif", make_noisy(SIDE)
    tifffile.imwrite(path, pixels)
    change = run_on_first_report(lambda: tifffile.imwrite(path, pixels + 1))
    result = dip.denoise(path, progress=change, **SETTINGS)
    assert result.report["input_sha256"] == compute_sha256(pixels)
    assert make_change_note("in.tif") in result.report["notes"]


def test_a_file_that_is_only_touched_is_not_named(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, make_noisy(SIDE))
    change = run_on_first_report(lambda: os.utime(path, (1, 1)))
    result = dip.denoise(path, progress=change, **SETTINGS)
    assert path.stat().st_mtime == 1
    assert not [note for note in result.report["notes"] if "changed" in note]


def test_a_mask_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:12, 8:12] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    change = run_on_first_report(lambda: tifffile.imwrite(tmp_path / "mask.tif", 1 - mask))
    result = dip.inpaint(make_noisy(SIDE), tmp_path / "mask.tif", progress=change, **SETTINGS)
    assert make_change_note("mask.tif") in result.report["notes"]


def test_the_command_says_that_its_input_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, pixels = tmp_path / "in.tif", make_noisy(SIDE)
    tifffile.imwrite(path, pixels)
    from napari_dip.cli import restore

    def start_run(plan: Any, data: Any, **options: Any) -> Any:
        tifffile.imwrite(path, pixels + 1)
        return run(plan, data, **options)

    monkeypatch.setattr(restore, "run", start_run)
    report = tmp_path / "report.json"
    command = ["denoise", path, "-o", tmp_path / "out.tif", "--report", report]
    command += ["--max-iterations", "2", "--device", "cpu"]
    assert main([str(word) for word in command]) == 0
    assert json.loads(report.read_text())["input_sha256"] == compute_sha256(pixels)
    assert make_change_note("in.tif") in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["changed", "cut off", "removed"])
def test_no_mixture_of_old_and_new_tiles_is_saved_as_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    path, pixels = tmp_path / "in.tif", ndimage.zoom(make_noisy(64), (160 / 64, 0.5))
    from napari_dip.cli import restore

    def do_harm() -> None:
        if harm == "changed":
            tifffile.imwrite(path, pixels + 1)
        elif harm == "cut off":
            os.truncate(path, 2000)
        else:
            path.unlink()

    def run_with_harm(*values: Any, **options: Any) -> Any:
        harm_once = run_on_first_report(do_harm)
        steps = run(*values, **options)
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            harm_once(event)
            yield event

    options = ["--preset", "instant", "--max-iterations", "2", "--device", "cpu", "--tile", "128"]
    monkeypatch.setattr(restore, "run", run_with_harm)
    tifffile.imwrite(path, pixels)
    code = main(["denoise", str(path), "-o", str(tmp_path / "out.tif"), *options])
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == (1 if harm == "changed" else 2) and "in.tif'" in message
    assert "unexpected" not in message and not (tmp_path / "out.tif").exists()
    if harm == "changed":
        (partial,) = tmp_path.glob("*.partial.tif")
        assert read_header(partial).shape == pixels.shape and "kept as" in message
        assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.long
def test_a_record_describes_the_file_that_was_read_so_that_the_next_call_restores_the_new_one(
    tmp_path: Path,
) -> None:
    path, pixels = tmp_path / "in.tif", make_noisy(SIDE)
    tifffile.imwrite(path, pixels)
    digest = compute_file_sha256(path)
    recipe = dip.make_recipe("denoise", **SETTINGS)
    change = run_on_first_report(lambda: tifffile.imwrite(path, pixels + 1))
    first = dip.batch(recipe, path, tmp_path / "out", progress=change)
    assert [outcome.state for outcome in first.outcomes] == ["restored"]
    kept = json.loads(next((tmp_path / "out" / RECORDS_FOLDER).glob("*.json")).read_text())
    assert kept["inputs_sha256"] == {"image": digest}
    assert kept["report"]["input_sha256"] == compute_sha256(pixels)
    assert make_change_note("in.tif") in kept["report"]["notes"]
    second = dip.batch(recipe, path, tmp_path / "out", resume=True)
    assert [outcome.state for outcome in second.outcomes] == ["restored"]
    third = dip.batch(recipe, path, tmp_path / "out", resume=True)
    assert [outcome.state for outcome in third.outcomes] == ["already-done"]


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, pixels = tmp_path / "in.tif", make_noisy(SIDE)
    tifffile.imwrite(path, pixels)
    plan = replace(plan_for(pixels), header=read_header(path))
    stamps = stamp_files(plan)
    tifffile.imwrite(path, pixels + 1)
    with pytest.raises(RefusedError, match="written to while it was being read"):
        open_plan_inputs(plan, stamps)


@pytest.mark.long
@pytest.mark.parametrize("changes", [False, True])
def test_pixels_of_a_layer_that_have_changed_are_not_kept_as_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    image = make_noisy(SIDE)
    monkeypatch.setattr(keeping, "AUTOSAVE_DELAY_SECONDS", 0.0)
    place = AutosaveTarget(
        folder=tmp_path / "runs" / "one",
        run_summary={},
        inputs={"image": {"layer": "shot", "path": None}},
    )
    folders = []
    for event in run_with_autosave(place, plan_for(image, max_iterations=100), {"image": image}):
        if changes and event.message.startswith("Measuring"):  # which comes after reading
            image.fill(7)
        folders.append((place.folder / "image.npy").exists())
    assert any(folders) is not changes


@pytest.mark.parametrize("name", ["in.tif", "in.ome.zarr"])
def test_a_stamp_changes_with_each_writing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_image(path, make_noisy(SIDE), axes="YX")
    first = make_file_stamp(path)
    assert first == make_file_stamp(path)
    write_image(path, make_noisy(SIDE, seed=1), axes="YX", overwrite=True)
    assert make_file_stamp(path) != first
    assert make_file_stamp(tmp_path / "none") == ""
