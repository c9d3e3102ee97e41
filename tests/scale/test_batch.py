"""A batch of many files: none is lost, none stops another, none is computed twice."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import make_refusal
from napari_dip.io.atomic import make_temporary_name
from napari_dip.io.paths import expand_input_paths, make_result_name
from napari_dip.scale.batch.jobs import FileOutcome
from napari_dip.scale.batch.plan import find_remaining_plans, plan_batch
from napari_dip.scale.batch.table import format_batch_csv, render_batch_page
from napari_dip.scale.batch_run import run_batch

RECIPE = dip.make_recipe("denoise", preset="fast", max_iterations=3, device="cpu")
GOOD = [f"cell_{number}.tif" for number in range(6)]


def make_noisy(seed: int) -> np.ndarray:
    y, x = np.mgrid[:24, :24]
    clean = 200 + 80 * np.sin(x / 5 + seed) * np.cos(y / 7)
    return np.random.default_rng(seed).poisson(clean).astype("uint16")


def fill_folder(folder: Path) -> Path:
    """Put six good files there, two that their headers give away, and one that only pixels do."""
    folder.mkdir(parents=True)
    for number, name in enumerate(GOOD):
        tifffile.imwrite(folder / name, make_noisy(number))
    (folder / "bad_text.tif").write_text("no image")
    tifffile.imwrite(folder / "bad_small.tif", make_noisy(0)[:8, :8])
    tifffile.imwrite(folder / "constant.tif", np.full((24, 24), 7, "uint8"))
    (folder / "notes.txt").write_text("of the day")
    return folder


@pytest.fixture(scope="module")
def finished_batch(tmp_path_factory) -> Path:
    """Folder of a finished batch: its inputs in 'in', its results in 'out'."""
    folder = tmp_path_factory.mktemp("batch")
    fill_folder(folder / "in")
    dip.batch(RECIPE, folder / "in", folder / "out")
    return folder


@pytest.fixture
def batch_copy(finished_batch, tmp_path) -> Path:
    """A copy of it, to be harmed."""
    shutil.copytree(finished_batch, tmp_path / "copy")
    return tmp_path / "copy"


def read_results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tif"))}


def read_times(folder: Path) -> dict[str, tuple[int, int]]:
    """Tell what was written anew, of the results and their receipts."""
    files = [*folder.glob("*.tif"), *folder.glob("records/cell*.json")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def read_record(folder: Path, name: str) -> dict:
    return json.loads((folder / "records" / f"{name}.json").read_text())


def read_refusal_code(*arguments: object, **options: object) -> str:
    with pytest.raises(dip.RefusedError) as caught:
        dip.batch(*arguments, **options)
    return caught.value.reason.code


def test_the_plan_says_which_axes_were_assumed_and_how_to_name_others(tmp_path):
    plain = {"metadata": None, "photometric": "minisblack"}
    for number in range(2):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((3, 24, 24), "uint8"), **plain)
    tifffile.imwrite(tmp_path / "flat.tif", make_noisy(0))
    (note,) = plan_batch(RECIPE, tmp_path / "*.tif", tmp_path / "out").notes
    assert note.code == "batch-axes-guessed"
    assert "2 of 3. They are taken for ZYX (planes)." in str(note)
    assert "CYX for channels" in str(note) and "Axes and workers" in str(note)
    assert not plan_batch(RECIPE, tmp_path / "?.tif", tmp_path / "out", axes="CYX").notes


def test_what_headers_give_away_is_refused_before_any_work(tmp_path):
    plan = plan_batch(RECIPE, fill_folder(tmp_path / "in"), tmp_path / "out")
    named = {source.name: no.code for source, no in plan.refused_files}
    assert named == {"bad_small.tif": "image-small", "bad_text.tif": "file-type"}
    assert len(find_remaining_plans(plan)) == 7 and not (tmp_path / "out").exists()
    assert plan.notes and "1" in str(plan.notes[0])  # the notes of the day are no image


@pytest.mark.all_cores
def test_good_files_are_restored_beside_bad_ones_as_each_would_be_alone(finished_batch):
    assert sorted(read_results(finished_batch / "out")) == GOOD
    alone = dip.restore(finished_batch / "in" / GOOD[4], RECIPE).image
    np.testing.assert_array_equal(tifffile.imread(finished_batch / "out" / GOOD[4]), alone)


def test_a_file_refused_for_its_pixels_has_a_record_with_sentence_and_remedy(finished_batch):
    refusal = read_record(finished_batch / "out", "constant.tif")["refusal"]
    assert refusal["code"] == "pixels-constant"
    assert "nothing to restore" in refusal["sentence"] and refusal["remedy"]


def test_a_record_holds_recipe_hashes_time_stop_reason_and_verdict(finished_batch):
    record = read_record(finished_batch / "out", GOOD[0])
    assert record["recipe"] == RECIPE.to_dict()
    assert len(record["inputs_sha256"]["image"]) == len(record["results_sha256"][GOOD[0]]) == 64
    report = record["report"]
    assert report["seconds"] > 0 and report["stop_reason"] and report["verdict"]["sentences"]


def test_a_finished_batch_is_not_computed_again(batch_copy):
    before = read_times(batch_copy / "out")
    result = dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    assert (result.count("already-done"), result.count("restored"), result.count("refused")) == (
        6,
        0,
        3,
    )
    assert read_times(batch_copy / "out") == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("harm", [truncate, flip_bit, Path.unlink])
@pytest.mark.parametrize("place", [GOOD[2], f"records/{GOOD[2]}.json"])
@pytest.mark.all_cores
def test_what_is_not_whole_is_computed_again_to_the_same_bytes_and_nothing_else(
    batch_copy, finished_batch, harm, place
):
    harm(batch_copy / "out" / place)
    changed = place == GOOD[2] and harm is not Path.unlink
    harmed = (batch_copy / "out" / place).read_bytes() if changed else None
    before = read_times(batch_copy / "out")
    result = dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    assert [outcome.source.name for outcome in result.outcomes if outcome.state == "restored"] == [
        GOOD[2]
    ]
    first_results, after = read_results(batch_copy / "out"), read_times(batch_copy / "out")
    kept = first_results.pop("cell_2.changed.tif", None)  # it might be somebody's work
    assert first_results == read_results(finished_batch / "out")
    assert kept == harmed
    assert {name for name in after if after[name] != before.get(name)} - {"cell_2.changed.tif"} == {
        GOOD[2],
        f"{GOOD[2]}.json",
    }


def test_a_changed_input_is_restored_again(batch_copy):
    tifffile.imwrite(batch_copy / "in" / GOOD[1], make_noisy(99))
    result = dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    assert [outcome.source.name for outcome in result.outcomes if outcome.state == "restored"] == [
        GOOD[1]
    ]


def make_constant(path: Path) -> None:
    tifffile.imwrite(path, np.full((24, 24), 7, "uint16"))


@pytest.mark.parametrize("harm", [make_constant, lambda path: path.write_text("no image")])
def test_no_result_of_earlier_pixels_has_the_name_of_a_file_that_is_refused(batch_copy, harm):
    earlier = read_results(batch_copy / "out")
    harm(batch_copy / "in" / GOOD[1])
    result = dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    refused = {outcome.source.name for outcome in result.outcomes if outcome.state == "refused"}
    assert GOOD[1] in refused
    earlier["cell_1.changed.tif"] = earlier.pop(GOOD[1])
    assert read_results(batch_copy / "out") == earlier
    for text in (result.table.read_text(), result.page.read_text(encoding="utf-8")):
        assert "cell_1.changed.tif" in text


def test_a_restored_input_in_a_moved_folder_goes_on_after_a_refusal(batch_copy, tmp_path):
    source = batch_copy / "in" / GOOD[1]
    good = source.read_bytes()
    make_constant(source)
    dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    source.write_bytes(good)
    shutil.move(batch_copy / "in", tmp_path / "moved")
    result = dip.batch(RECIPE, tmp_path / "moved", batch_copy / "out", resume=True)
    assert (result.count("already-done"), result.count("restored")) == (5, 1)


def test_the_result_of_a_file_that_cannot_be_read_now_stays(batch_copy):
    files = [batch_copy / "in" / name for name in GOOD[:2]]
    files[1].unlink()
    before = read_times(batch_copy / "out")
    result = dip.batch(RECIPE, files, batch_copy / "out", resume=True)
    assert [outcome.state for outcome in result.outcomes[:2]] == ["already-done", "refused"]
    assert read_times(batch_copy / "out") == before
    assert f"Its earlier result '{GOOD[1]}' stays." in result.table.read_text()


def test_a_file_from_elsewhere_with_the_name_of_a_refused_one_stays(batch_copy):
    (batch_copy / "out" / "bad_text.tif").write_text("mine")
    dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    assert (batch_copy / "out" / "bad_text.tif").read_text() == "mine"


def test_results_whose_files_are_not_named_again_keep_their_rows(batch_copy):
    files = [batch_copy / "in" / name for name in GOOD[:2]]
    (batch_copy / "out" / GOOD[5]).unlink()
    result = dip.batch(RECIPE, files, batch_copy / "out", resume=True)
    assert (result.count("already-done"), result.count("not-named")) == (2, 3)
    rows = list(csv.DictReader(io.StringIO(result.table.read_text())))
    assert [row["result"] for row in rows] == GOOD[:5]
    assert {row["state"] for row in rows[2:]} == {"restored before, not named now"}
    assert all(row["verdict"] and row["result_sha256"] for row in rows)
    page = result.page.read_text(encoding="utf-8")
    assert "5 files" in page and "3 restored before, not named now" in page


@pytest.mark.all_cores
@pytest.mark.parametrize(
    ("first", "second", "threads"), [(1, None, 1), (None, 1, 1), (None, None, 2)]
)
def test_threads_are_no_other_recipe_and_stay_unless_they_are_named(
    finished_batch, tmp_path, first, second, threads
):
    recipe = RECIPE.replace_run_settings(threads=2)
    files = [finished_batch / "in" / name for name in GOOD[:2]]
    dip.batch(recipe, files[:1], tmp_path / "out", threads=first)
    plan = plan_batch(recipe, files, tmp_path / "out", resume=True, threads=second)
    assert list(find_remaining_plans(plan)) == [2] and plan.jobs[1].plan.threads == threads


def test_a_result_that_was_removed_counts_as_one_to_restore(batch_copy):
    (batch_copy / "out" / GOOD[3]).unlink()
    plan = plan_batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    assert [job.header.name for job in find_remaining_plans(plan).values()] == [
        *(GOOD[3], "constant.tif")
    ]


def test_without_resume_nothing_that_exists_is_replaced(batch_copy, tmp_path):
    before = read_results(batch_copy / "out")
    assert read_refusal_code(RECIPE, batch_copy / "in", batch_copy / "out") == "batch-exists"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / GOOD[3]).write_text("mine")
    assert read_refusal_code(RECIPE, batch_copy / "in", tmp_path / "new") == "batch-exists"
    assert read_results(batch_copy / "out") == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == [GOOD[3]]


def test_with_resume_only_files_of_this_very_batch_are_replaced(batch_copy, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / GOOD[3]).write_text("mine")
    assert (
        read_refusal_code(RECIPE, batch_copy / "in", tmp_path / "new", resume=True)
        == "batch-foreign"
    )
    assert (tmp_path / "new" / GOOD[3]).read_text() == "mine"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tifffile.imwrite(elsewhere / GOOD[0], make_noisy(50))  # another file of the same name
    assert read_refusal_code(RECIPE, elsewhere, batch_copy / "out", resume=True) == "batch-foreign"


def test_a_batch_whose_inputs_were_moved_is_still_known(batch_copy, tmp_path):
    shutil.move(batch_copy / "in", tmp_path / "moved")
    result = dip.batch(RECIPE, tmp_path / "moved", batch_copy / "out", resume=True)
    assert result.count("already-done") == 6 and result.count("restored") == 0


def test_results_of_another_recipe_are_left_alone(batch_copy):
    other = RECIPE.replace_run_settings(seed=5)
    assert (
        read_refusal_code(other, batch_copy / "in", batch_copy / "out", resume=True)
        == "batch-recipe"
    )
    (batch_copy / "out" / "batch.json").write_text("{")
    assert (
        read_refusal_code(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
        == "batch-broken"
    )


@pytest.mark.parametrize(
    "names", [("a/cell.tif", "b/cell.tif"), ("a/cell.tif", "a/cell.tiff"), ("a/x.tif", "b/X.tif")]
)
def test_two_results_of_one_name_are_refused_before_any_work(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, make_noisy(0))
    files = [tmp_path / name for name in names]
    assert read_refusal_code(RECIPE, files, tmp_path / "out") == "batch-names"
    assert not (tmp_path / "out").exists()


def test_results_never_lie_among_their_inputs(tmp_path):
    folder = fill_folder(tmp_path / "in")
    assert read_refusal_code(RECIPE, folder, folder) == "output-among-inputs"
    assert read_refusal_code(RECIPE, str(folder / "*.tif"), folder) == "output-among-inputs"
    assert read_refusal_code(RECIPE, folder / GOOD[0], folder) == "output-is-input"


@pytest.mark.parametrize(
    ("inputs", "code"),
    [([], "batch-none"), ("empty", "batch-empty"), ("no*.tif", "batch-empty"), ("gone.tif", None)],
)
def test_nothing_to_do_is_said(tmp_path, monkeypatch, inputs, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert read_refusal_code(RECIPE, inputs, "out") == (code or "batch-refused")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_folder_of_results_must_be_able_to_be_one(tmp_path):
    folder = fill_folder(tmp_path / "in")
    assert read_refusal_code(RECIPE, folder, folder / "notes.txt") == "folder-is-file"
    assert read_refusal_code(RECIPE, folder, tmp_path / "gone" / "out") == "output-folder-missing"


def test_files_come_in_the_order_they_are_named_each_once(tmp_path, monkeypatch):
    monkeypatch.chdir(fill_folder(tmp_path / "in"))
    Path("deep").mkdir()
    Path("a[1].tif").touch()
    Path("._cell_0.tif").touch()  # what macOS leaves on other disks
    files, _ = expand_input_paths(
        ["cell_3.tif", "cell_[0-4].tif", "a[1].tif", "."], tmp_path / "out"
    )
    names = [path.name for path in files]
    assert names[:6] == [GOOD[3], GOOD[0], GOOD[1], GOOD[2], GOOD[4], "a[1].tif"]
    assert names[6:] == ["bad_small.tif", "bad_text.tif", GOOD[5], "constant.tif"]


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("a.tif", "a.tif"),
        ("a.PNG", "a.tif"),
        ("a.ome.tiff", "a.ome.tif"),
        ("cell.v2", "cell.v2.tif"),
        ("plate.ome.zarr", "plate.ome.tif"),
    ],
)
def test_a_result_is_called_as_its_input(name, result):
    assert make_result_name(Path(name)) == result


@pytest.mark.long
@pytest.mark.all_cores
def test_a_batch_that_is_ended_in_the_middle_of_a_file_resumes_to_the_same_bytes(
    finished_batch, tmp_path
):
    polls = [0]

    def poll_control() -> Control:
        polls[0] += 1
        return Control.KEEP if polls[0] > 6 else Control.GO

    steps = run_batch(
        plan_batch(RECIPE, finished_batch / "in", tmp_path / "out"), poll_control=poll_control
    )
    states = [step.outcome.state for step in steps if step.outcome]
    assert states.count("restored") in (1, 2) and states.count("waiting") >= 4
    kept = read_times(tmp_path / "out")
    result = dip.batch(RECIPE, finished_batch / "in", tmp_path / "out", resume=True)
    assert result.count("waiting") == 0
    assert read_results(tmp_path / "out") == read_results(finished_batch / "out")
    assert kept.items() <= read_times(tmp_path / "out").items()
    assert not list((tmp_path / "out" / "records").glob("*.unfinished"))


def test_a_run_that_fails_is_recorded_and_stops_nothing(finished_batch, tmp_path):
    limited = RECIPE.replace_run_settings(time_limit=1e-6)
    files = [finished_batch / "in" / name for name in GOOD[:2]]
    result = dip.batch(limited, files, tmp_path / "out")
    assert [outcome.state for outcome in result.outcomes] == ["failed", "failed"]
    record = read_record(tmp_path / "out", GOOD[1])
    assert record["refusal"]["code"] == "time-over" and record["report"] is None
    assert "time limit" in result.page.read_text()


@pytest.mark.long
def test_one_psf_serves_all_files_and_counts_as_their_input(finished_batch, tmp_path):
    tifffile.imwrite(tmp_path / "psf.tif", np.ones((3, 3), "float32"))
    recipe = dip.make_recipe("deblur", preset="fast", max_iterations=2, device="cpu")
    files = [finished_batch / "in" / name for name in GOOD[:2]]
    assert read_refusal_code(recipe, files, tmp_path / "out") == "batch-refused"
    dip.batch(recipe, files, tmp_path / "out", psf=tmp_path / "psf.tif")
    assert set(read_record(tmp_path / "out", GOOD[1])["inputs_sha256"]) == {"image", "psf"}
    tifffile.imwrite(tmp_path / "psf.tif", np.eye(3, dtype="float32"))
    again = dip.batch(recipe, files, tmp_path / "out", resume=True, psf=tmp_path / "psf.tif")
    assert again.count("restored") == 2


def test_what_a_killed_program_left_half_written_is_cleared_away(batch_copy):
    code = "from napari_dip.io.atomic import make_temporary_name; print(make_temporary_name())"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    old, new = (
        batch_copy / "out" / name for name in (process.stdout.strip(), make_temporary_name())
    )
    for part in (old, new):
        part.write_text("half of a picture")
        os.utime(part, (1, 1))
    dip.batch(RECIPE, batch_copy / "in", batch_copy / "out", resume=True)
    assert not old.exists() and new.exists()  # this process is alive, and might be writing it


class TagCollector(HTMLParser):
    """Takes down the tags of a page, and what they load or lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_the_page_shows_each_restored_file_and_loads_nothing(finished_batch):
    text = (finished_batch / "out" / "batch.html").read_text(encoding="utf-8")
    page = TagCollector(text)
    assert len(page.targets) == 6
    assert all(target.startswith("data:image/png;base64,") for target in page.targets)
    assert not {"script", "link", "iframe", "object", "a"} & set(page.names)
    assert "url(" not in text and "@import" not in text and "://" not in text
    for name in (*GOOD, "bad_text.tif", "constant.tif"):
        assert name in text


def test_the_table_has_a_row_for_each_file_in_the_order_of_the_inputs(finished_batch):
    rows = list(csv.DictReader(io.StringIO((finished_batch / "out" / "batch.csv").read_text())))
    assert [Path(row["file"]).name for row in rows] == [
        *("bad_small.tif", "bad_text.tif", *GOOD, "constant.tif")
    ]
    good = [row for row in rows if row["state"] == "restored"]
    assert len(good) == 6 and all(float(row["seconds"]) > 0 and row["verdict"] for row in good)
    assert all(row["message"] for row in rows if row["state"] == "refused")


def test_a_file_of_several_fits_has_the_sum_of_its_iterations_and_no_figure_of_one_fit(tmp_path):
    for name, count in (("1.tif", 1), ("2.tif", 2)):
        stack = np.stack([make_noisy(number) for number in range(count)])
        tifffile.imwrite(tmp_path / name, stack, metadata={"axes": "CYX"})
    result = dip.batch(RECIPE, tmp_path / "*.tif", tmp_path / "out")
    single, double = csv.DictReader(io.StringIO(result.table.read_text()))
    assert (single["fits"], double["fits"]) == ("1", "2")
    assert (single["iterations"], double["iterations"]) == ("3", "6")
    assert single["best_iteration"] and float(single["min_validation_loss"])
    assert double["best_iteration"] == double["min_validation_loss"] == ""
    assert "6 iterations of 2 fits in" in result.page.read_text(encoding="utf-8")


def test_a_files_name_is_neither_markup_nor_a_formula():
    no = make_refusal("file-missing", path="<script>")
    outcomes = [FileOutcome(source=Path("=1+1<script>.tif"), state="refused", fault=no)]
    assert "script" not in TagCollector(render_batch_page(outcomes, RECIPE)).names
    (row,) = csv.DictReader(io.StringIO(format_batch_csv(outcomes)))
    assert row["file"].startswith("'=")


@pytest.mark.long
def test_a_file_of_the_users_among_the_records_is_never_replaced(tmp_path):
    tifffile.imwrite(tmp_path / "cells.tif", make_noisy(0))
    recipe = dip.make_recipe("blind-deblur", psf_size=7, preset="fast", max_iterations=2)
    mine = tmp_path / "out" / "records" / "cells.tif.psf.tif"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert read_refusal_code(recipe, tmp_path / "cells.tif", tmp_path / "out") == "batch-exists"
    assert (
        read_refusal_code(recipe, tmp_path / "cells.tif", tmp_path / "out", resume=True)
        == "batch-foreign"
    )
    mine.unlink()
    state = tmp_path / "out" / "records" / "cells.tif.unfinished"
    state.write_text("mine")
    assert dip.batch(recipe, tmp_path / "cells.tif", tmp_path / "out").count("restored") == 1
    assert state.read_text() == "mine" and mine.exists()


def test_partial_and_rescued_results_in_a_folder_are_no_inputs_unless_named(tmp_path):
    names = ["a.tif", "partial.tif", "b.ome.tif"]
    marked = ["a.partial.tif", "a.rescued-2.tif", "b.partial-12.ome.tif", "b.ome.tif.rescued.tif"]
    for name in (*names, *marked):
        (tmp_path / name).touch()
    for pattern in (tmp_path, f"{tmp_path}/*.tif"):
        files, notes = expand_input_paths([pattern], tmp_path / "out")
        assert sorted(path.name for path in files) == sorted(names)
        assert [note.code for note in notes] == ["leftovers-skipped"]
        assert all(name in str(notes[0]) for name in marked)
    files, notes = expand_input_paths([tmp_path / marked[0]], tmp_path / "out")
    assert [path.name for path in files] == marked[:1] and not notes
