"""The state of a run is saved for a resume after a crash, and verified before it is used."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.pipeline import autosave as keeping
from napari_dip.pipeline.autosave import (
    MAX_SAVED_RUNS,
    AutosaveTarget,
    find_interrupted_runs,
    read_run_inputs,
    remove_stale_runs,
    run_with_autosave,
    summarise_run,
)
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.store.run_folder import (
    RUN_MANIFEST_FILE,
    RunFolder,
    is_folder_locked,
    make_run_folder,
)
from small_runs import MACHINE, make_noisy, plan_for, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = make_noisy(32)
PLAN = plan_for(IMAGE, max_iterations=60)


@pytest.fixture(autouse=True)
def immediate_autosave(monkeypatch):
    """Keep a run from its first report on."""
    monkeypatch.setattr(keeping, "AUTOSAVE_DELAY_SECONDS", 0.0)


def make_target(home: Path, path: Path | None = None, resume: bool = False) -> AutosaveTarget:
    inputs = {"image": {"layer": "cells", "path": path and str(path), "axes": "YX"}}
    return AutosaveTarget(
        folder=home / "run-1",
        run_summary=summarise_run(PLAN, "Denoise of 'cells'", MACHINE),
        inputs=inputs,
        resume=resume,
    )


def interrupt_run(place: AutosaveTarget, image: Any = IMAGE) -> None:
    """Begin a run, and let go of it once something is kept."""
    loop = run_with_autosave(place, PLAN, {"image": image})
    for _ in loop:
        if (place.folder / RUN_MANIFEST_FILE).exists():
            assert find_interrupted_runs(place.folder.parent, "denoise") == ()  # it is on
            loop.close()


def test_the_refit_counts_among_the_iterations_of_a_run():
    recipe = make_recipe("inpaint", max_iterations=500)
    plan = preflight(recipe, PLAN.header, MACHINE, {"mask": PLAN.header})
    assert 0 < plan.fit_config.refit_iterations
    assert summarise_run(plan, "Denoise", MACHINE)["iterations"] == 500


def test_a_run_that_nobody_takes_the_result_of_stays(tmp_path, monkeypatch):
    is_over, run = [], keeping.run

    def run_to_result(*inputs, **options):
        result = yield from run(*inputs, **options)
        is_over.append(True)
        return result

    def poll():
        if is_over:
            raise GeneratorExit
        return Control.GO

    monkeypatch.setattr(keeping, "run", run_to_result)
    with pytest.raises(GeneratorExit):
        list(run_with_autosave(make_target(tmp_path), PLAN, {"image": IMAGE}, poll_control=poll))
    assert len(find_interrupted_runs(tmp_path, "denoise")) == 1


@pytest.mark.long
@pytest.mark.all_cores
def test_a_run_that_was_cut_off_resumes_to_the_same_pixels_and_leaves_nothing(tmp_path):
    interrupt_run(make_target(tmp_path))
    (run,) = find_interrupted_runs(tmp_path, "denoise")
    assert run.machine == MACHINE and run.is_resumable and run.completed_iterations >= 25
    assert "after 25 of at most 60 iterations" in run.describe()
    earlier = dict(run.manifest["machine"])
    del earlier["thread_flops"]  # manifests of before have none
    assert replace(run, manifest={**run.manifest, "machine": earlier}).machine == MACHINE
    refitted = replace(run, manifest={**run.manifest, "iterations": 20})
    assert "after 25 iterations." in refitted.describe()
    assert find_interrupted_runs(tmp_path, "inpaint") == ()
    pixels = read_run_inputs(run, {})["image"]
    assert np.array_equal(pixels, IMAGE) and pixels.dtype == IMAGE.dtype
    loop = run_with_autosave(make_target(tmp_path, resume=True), PLAN, {"image": pixels})
    while True:
        try:
            assert (event := next(loop)).iteration in (0, *range(25, 61)), event
        except StopIteration as end:
            result = end.value
            break
    assert np.array_equal(result.image, run_to_end(PLAN, IMAGE)[1].image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_pixels_that_a_file_holds_are_not_copied_and_proven_on_reading(tmp_path):
    path, home = tmp_path / "cells.tif", tmp_path / "home"
    tifffile.imwrite(path, IMAGE)
    interrupt_run(make_target(home, path))
    (run,) = find_interrupted_runs(home, "denoise")
    assert not (run.folder / "image.npy").exists()
    assert read_run_inputs(run, {"image": IMAGE}) == {"image": None}  # a layer holds them
    assert np.array_equal(read_run_inputs(run, {"image": IMAGE + 1})["image"], IMAGE)
    tifffile.imwrite(path, IMAGE + 1)
    with pytest.raises(RefusedError) as caught:
        read_run_inputs(run, {})
    assert caught.value.reason.code == "unfinished-changed"
    path.unlink()
    with pytest.raises(RefusedError) as caught:
        read_run_inputs(run, {})
    assert caught.value.reason.code == "unfinished-gone"


@pytest.mark.long
def test_a_file_that_holds_other_pixels_than_the_layer_does_not_stand_for_it(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", IMAGE + 1)
    interrupt_run(make_target(tmp_path / "home", tmp_path / "cells.tif"))
    (run,) = find_interrupted_runs(tmp_path / "home", "denoise")
    assert np.array_equal(read_run_inputs(run, {})["image"], IMAGE)


@pytest.mark.long
def test_pixels_beyond_the_bound_are_not_copied_and_the_run_ends_all_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(keeping, "MAX_COPIED_BYTES", IMAGE.nbytes - 1)
    loop = run_with_autosave(make_target(tmp_path), PLAN, {"image": IMAGE})
    while True:
        try:
            next(loop)
            assert not list(tmp_path.glob("*/*.npy"))
        except StopIteration as end:
            assert end.value is not None
            break


def test_what_names_files_elsewhere_or_is_no_run_is_not_offered(tmp_path):
    interrupt_run(make_target(tmp_path))
    (run,) = find_interrupted_runs(tmp_path, "denoise")
    record = json.loads((run.folder / RUN_MANIFEST_FILE).read_text())
    for wrong in ("../image.npy", "/etc/passwd", 3):
        record["inputs"]["image"]["file"] = wrong
        (run.folder / RUN_MANIFEST_FILE).write_text(json.dumps(record))
        assert find_interrupted_runs(tmp_path, "denoise") == ()
    for text in ("[" * 100_000, "{}", '{"schema": 99}', "\0"):
        (run.folder / RUN_MANIFEST_FILE).write_text(text)
        assert find_interrupted_runs(tmp_path, "denoise") == ()


def test_the_oldest_runs_make_room_and_those_that_are_on_stay(tmp_path):
    for number in range(MAX_SAVED_RUNS + 3):
        folder = tmp_path / f"run-{number}"
        make_run_folder(folder)
        (folder / RUN_MANIFEST_FILE).write_text("{}")
        os.utime(folder, (number, number))
    locked = RunFolder(tmp_path / "run-0", resume=True)
    locked.lock()
    os.utime(tmp_path / "run-0", (0, 0))
    assert is_folder_locked(tmp_path / "run-0") and not is_folder_locked(tmp_path / "run-1")
    remove_stale_runs(tmp_path)
    locked.release()
    leftovers = {path.name for path in tmp_path.iterdir()}
    assert leftovers == {"run-0", *(f"run-{number}" for number in range(4, MAX_SAVED_RUNS + 3))}
    assert not is_folder_locked(tmp_path / "run-0")


@pytest.mark.long
def test_a_folder_of_the_users_among_unfinished_runs_is_never_deleted(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the day")
    (tmp_path / "mine" / RUN_MANIFEST_FILE).write_text("{}")
    (tmp_path / "empty").mkdir()
    interrupt_run(make_target(tmp_path))
    (tmp_path / "run-1" / "notes.txt").write_text("of the run")
    for folder in tmp_path.iterdir():
        os.utime(folder, (1, 1))
    for _ in range(MAX_SAVED_RUNS + 1):
        remove_stale_runs(tmp_path)
    (run,) = find_interrupted_runs(tmp_path, "denoise")
    run.remove()
    assert find_interrupted_runs(tmp_path, "denoise") == ()
    leftovers = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert leftovers == {
        "mine/notes.txt",
        f"mine/{RUN_MANIFEST_FILE}",
        "run-1/notes.txt",
        "run-1/held",
    }
    assert (tmp_path / "empty").is_dir()
