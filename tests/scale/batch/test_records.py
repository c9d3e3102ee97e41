"""Tampered records: nothing outside the results is read or waited for."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from commands import start
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.io.paths import compute_file_sha256
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPE = dip.make_recipe("denoise", preset="fast", max_iterations=2, device="cpu")
NAME = "cells.tif"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither pipes nor /dev/zero")


@pytest.fixture
def finished_batch(tmp_path: Path) -> Path:
    """Folder of a finished batch of one file."""
    (tmp_path / "in").mkdir()
    image = np.random.default_rng(0).poisson(np.full((24, 24), 200.0)).astype("uint16")
    tifffile.imwrite(tmp_path / "in" / NAME, image)
    dip.batch(RECIPE, tmp_path / "in", tmp_path / "out")
    return tmp_path


def resume_batch(folder: Path, seconds: float = 60) -> str:
    """Go on in a process of its own, which is killed if it does not end; what it said."""
    (folder / "recipe.json").write_text(RECIPE.to_json())
    argv = ["batch", folder / "recipe.json", folder / "in", "-o", folder / "out", "--resume"]
    process = start(*argv)
    try:
        _, said = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


def change_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    place = folder / "out" / "records" / f"{NAME}.json"
    record = json.loads(place.read_text())
    change(record["results_sha256"])
    place.write_text(json.dumps(record))


@pytest.mark.long
@pytest.mark.parametrize("name", ["/dev/zero", "records/../cells.tif"])
def test_a_record_that_names_other_files_than_the_results_counts_as_none(finished_batch, name):
    digest = hashlib.sha256((finished_batch / "in" / NAME).read_bytes()).hexdigest()
    change_record(finished_batch, lambda record: record.update({name: digest}))
    before = (finished_batch / "out" / NAME).stat().st_ino
    resume_batch(finished_batch)
    assert (finished_batch / "out" / NAME).stat().st_ino != before  # restored anew


def pipe(place: Path) -> None:
    os.mkfifo(place)


def link(place: Path) -> None:
    place.symlink_to("/dev/zero")


def write_huge_file(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk


@pytest.mark.long
@pytest.mark.parametrize("harm", [pipe, link, write_huge_file])
def test_what_has_taken_the_place_of_what_was_learned_is_neither_followed_nor_read(
    finished_batch, harm
):
    settings = {"preset": "fast", "max_iterations": 2, "device": "cpu"}
    recipe = dip.make_recipe("blind-deblur", psf_size=7, **settings)
    dip.batch(recipe, finished_batch / "in", finished_batch / "deblurred")
    learned = finished_batch / "deblurred" / "records" / f"{NAME}.psf.tif"
    learned.unlink()
    harm(learned)
    plan = plan_batch(recipe, finished_batch / "in", finished_batch / "deblurred", resume=True)
    before = time.monotonic()
    answers = iter([Control.GO])  # begin, and end once there is something to do
    steps = run_batch(plan, poll_control=lambda: next(answers, Control.KEEP))
    assert [step.outcome.state for step in steps if step.outcome] == [
        "waiting"
    ]  # not taken as whole
    assert time.monotonic() - before < 60  # a busy machine takes its time; a pipe never ends


@pytest.mark.parametrize("harm", [pipe, write_huge_file])
def test_a_pipe_or_an_endless_file_in_the_place_of_a_result_is_not_read(finished_batch, harm):
    place = finished_batch / "out" / NAME
    place.unlink()
    harm(place)
    with pytest.raises(RefusedError):
        compute_file_sha256(place, max_bytes=2**28)
    if harm is pipe:
        with pytest.raises(RefusedError, match="pipe"):
            compute_file_sha256(place)


def test_a_pipe_in_the_place_of_a_drawing_does_not_hold_up_the_page(finished_batch):
    (finished_batch / "out" / "records" / f"{NAME}.png").unlink()
    os.mkfifo(finished_batch / "out" / "records" / f"{NAME}.png")
    result = dip.batch(RECIPE, finished_batch / "in", finished_batch / "out", resume=True)
    assert result.count("already-done") == 1 and NAME in result.page.read_text()


def test_a_batch_that_is_to_end_does_not_hash_a_huge_file_to_its_end(finished_batch):
    huge = finished_batch / "in" / NAME
    with huge.open("r+b") as file:
        file.truncate(2**36)
    plan = plan_batch(RECIPE, finished_batch / "in", finished_batch / "again")
    questions = 0

    def poll_control() -> Control:
        nonlocal questions
        questions += 1
        return Control.KEEP if questions > 3 else Control.GO

    before = time.monotonic()
    (outcome,) = [
        step.outcome for step in run_batch(plan, poll_control=poll_control) if step.outcome
    ]
    assert outcome.state == "waiting" and time.monotonic() - before < 10
    assert not (finished_batch / "again" / NAME).exists()


def test_a_link_in_a_folder_of_results_is_not_followed(tmp_path):
    folder = tmp_path / "a.ome.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    whole = compute_file_sha256(folder, max_bytes=10**6)
    assert whole == compute_file_sha256(folder)
    (folder / "0").symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="link"):
        compute_file_sha256(folder, max_bytes=10**6)
