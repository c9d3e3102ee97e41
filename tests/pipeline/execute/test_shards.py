"""One file restored by several workers: the same bytes, also if workers die."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from skimage import data

import napari_dip as dip
from napari_dip.engine.fit.stopping import Control
from napari_dip.pipeline.plan.units import Shard, compute_max_shards
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from napari_dip.scale.cluster.dispatcher import make_worker_job
from napari_dip.scale.cluster.worker import restore_file_on_worker, restore_shard_on_worker
from scale.cluster.simulated_workers import InProcessPool, never_stop

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = dip.make_recipe("denoise", preset="fast", max_iterations=2, device="cpu", tile=128)


@pytest.fixture(scope="module")
def unshared_batch(tmp_path_factory) -> Path:
    """Folder with an image of six tiles, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("shares")
    (folder / "in").mkdir()
    truth = data.camera()[100:260, 150:410].astype(np.float64)
    image = np.random.default_rng(0).poisson(2 * truth + 100).astype(np.uint16)
    tifffile.imwrite(folder / "in" / "cells.tif", image)
    dip.batch(RECIPE, folder / "in", folder / "out", threads=1)
    return folder


def plan_shared_batch(unshared_batch: Path, out: Path, resume: bool = False):
    return plan_batch(RECIPE, unshared_batch / "in", out, threads=1, resume=resume)


def read_result(folder: Path) -> bytes:
    return (folder / "cells.tif").read_bytes()


@pytest.mark.long
def test_a_file_in_tiles_is_shared_by_workers_that_would_be_idle(unshared_batch, tmp_path):
    pool = InProcessPool(count=3)
    events = list(run_batch(plan_shared_batch(unshared_batch, tmp_path / "out"), pool=pool))
    assert pool.sent == ["1-0", "1-1", "1-2", "1-3", "1"]
    assert events[-1].outcome.state == "restored"
    assert read_result(tmp_path / "out") == read_result(unshared_batch / "out")
    progress = [step.event for step in events if step.event]
    parts = [event.fraction for event in progress]
    assert parts == sorted(parts) and parts[-1] == 1.0
    assert any(event.message == "Restoring, tile 5 of 6, share 1 of 3" for event in progress)
    last = [event.message for event in progress[-6:]]
    assert last[0] == "Checking what was done before" and last[-1] == "Saving the result"
    assert not any("Restoring" in message for message in last)
    kept = sorted(path.name for path in (tmp_path / "out" / "records").iterdir())
    assert kept == ["cells.tif.json", "cells.tif.png"]


@pytest.mark.long
def test_a_file_is_shared_by_as_many_as_its_tiles_after_the_first_unless_its_time_is_limited(
    unshared_batch,
):
    recipes = RECIPE, RECIPE.replace_run_settings(time_limit=60.0)
    plans = [
        plan_batch(recipe, unshared_batch / "in", unshared_batch / "no", threads=1).jobs[0].plan
        for recipe in recipes
    ]
    assert [compute_max_shards(plan) for plan in plans] == [5, 1]


@pytest.mark.long
@pytest.mark.parametrize("sent", ["1-0", "1-2"])
def test_a_share_that_comes_to_nothing_is_made_up_for_by_who_ends_the_file(
    unshared_batch, tmp_path, monkeypatch, sent
):
    def full(unit, poll_control, see):
        if unit.name == sent:
            return "unavailable"
        return restore_shard_on_worker(unit, poll_control, see)

    monkeypatch.setattr("scale.cluster.simulated_workers.restore_shard_on_worker", full)
    pool = InProcessPool(count=3)
    list(run_batch(plan_shared_batch(unshared_batch, tmp_path / "out"), pool=pool))
    assert pool.sent == (["1-0", "1"] if sent == "1-0" else ["1-0", "1-1", "1-2", "1-3", "1"])
    assert read_result(tmp_path / "out") == read_result(unshared_batch / "out")


@pytest.mark.long
def test_a_share_that_was_ended_goes_on_where_it_was(unshared_batch, tmp_path):
    (tmp_path / "out" / "records").mkdir(parents=True)
    units = [
        make_worker_job(
            plan_shared_batch(unshared_batch, tmp_path / "out"), 1, "session", "", shard=share
        )
        for share in (Shard(), Shard(index=1, count=1))
    ]
    assert restore_shard_on_worker(units[0], never_stop, print) == "shard-done"
    controls = iter([Control.GO] * 8)
    ended = restore_shard_on_worker(units[1], lambda: next(controls, Control.KEEP), print)
    shelf = tmp_path / "out" / "records" / "cells.tif.unfinished"
    done = len(list(shelf.glob("tile-*")))
    assert ended == "waiting" and 1 < done < 6
    messages: list[str] = []
    answer = restore_shard_on_worker(
        units[1], never_stop, lambda event: messages.append(event.message)
    )
    assert answer == "shard-done" and len(list(shelf.glob("tile-*"))) == 6
    pool = InProcessPool(count=1)
    list(run_batch(plan_shared_batch(unshared_batch, tmp_path / "out", resume=True), pool=pool))
    assert pool.sent == ["1"] and read_result(tmp_path / "out") == read_result(
        unshared_batch / "out"
    )


@pytest.mark.long
def test_a_share_that_has_ended_two_workers_ends_no_third_one(unshared_batch, tmp_path):
    plan = plan_shared_batch(unshared_batch, tmp_path / "out")
    (tmp_path / "out" / "records").mkdir(parents=True)
    restore_shard_on_worker(
        make_worker_job(plan, 1, "session", "", shard=Shard()), never_stop, print
    )
    unit = make_worker_job(plan, 1, "session", "", shard=Shard(index=1, count=2))

    def die(event: object) -> None:
        raise SystemExit

    for _ in range(2):
        with pytest.raises(SystemExit):
            restore_shard_on_worker(unit, never_stop, die)
    assert restore_shard_on_worker(unit, never_stop, die) == "unavailable"
    answer = restore_file_on_worker(make_worker_job(plan, 1, "session", ""), never_stop, die)
    assert answer.fault is not None and answer.fault.code == "cluster-killed"
    assert (
        json.loads((plan.jobs[0].paths.record).read_text())["refusal"]["code"] == "cluster-killed"
    )


@pytest.mark.long
def test_channels_and_repeats_are_shared_and_a_share_goes_on_where_it_was(tmp_path):
    """Two channels, two repeats: four fits by three workers, one of which is ended before."""
    recipe = dip.make_recipe("denoise", preset="fast", max_iterations=4, restarts=2, device="cpu")
    y, x = np.mgrid[:32, :32]
    clean = np.stack([200 + 80 * np.sin(x / 5 + seed) * np.cos(y / 7) for seed in range(2)])
    image = np.random.default_rng(0).poisson(clean).astype("uint16")
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "cells.tif", image)
    fit_options = {"threads": 1, "axes": "CYX"}
    dip.batch(recipe, tmp_path / "in", tmp_path / "alone", **fit_options)
    out = tmp_path / "out"
    (out / "records").mkdir(parents=True)
    plan = plan_batch(recipe, tmp_path / "in", out, **fit_options)
    first = make_worker_job(plan, 1, "session", "", shard=Shard(index=1, count=3))
    shelf = out / "records" / "cells.tif.unfinished"
    of_second_fit = iter([Control.GO])

    def end_second_fit() -> Control:
        is_second = (shelf / "c0r0.safetensors").exists()
        return next(of_second_fit, Control.KEEP) if is_second else Control.GO

    assert restore_shard_on_worker(first, end_second_fit, print) == "waiting"
    assert sorted(path.name for path in shelf.iterdir()) == [
        *("c0r0.safetensors", "checkpoint-1of3.safetensors", "held", "run.json")
    ]
    pool = InProcessPool(count=3)
    list(run_batch(plan_batch(recipe, tmp_path / "in", out, resume=True, **fit_options), pool=pool))
    assert pool.sent == ["1-1", "1-2", "1-3", "1"]
    assert read_result(out) == read_result(tmp_path / "alone")
    in_process, in_workers = (
        json.loads((folder / "records" / "cells.tif.json").read_text())["report"]
        for folder in (tmp_path / "alone", out)
    )
    passing = dict.fromkeys(("seconds", "peak_bytes"))
    assert in_process | passing == in_workers | passing and not shelf.exists()


@pytest.fixture
def short_segments(monkeypatch) -> None:
    monkeypatch.setattr("napari_dip.pipeline.plan.units.MAX_SEGMENT_FRAMES", 8)


def add_movie(folder: Path, frames: int = 16, side: int = 16) -> dict:
    """Put a movie of waves that drift into a folder of inputs; say how it is to be read."""
    (folder / "in").mkdir()
    y, x = np.mgrid[:side, :side]
    clean = [200 + 80 * np.sin((x + t / 3) / 4) * np.cos(y / 5) for t in range(frames)]
    image = np.random.default_rng(0).poisson(clean).astype("uint16")
    tifffile.imwrite(folder / "in" / "cells.tif", image)
    return {"threads": 1, "axes": "TYX"}


def is_same_result(before: Path, after: Path) -> bool:
    """Whether two folders hold the same result, and say the same of it but for the time."""
    reports = [
        json.loads((folder / "records" / "cells.tif.json").read_text())["report"]
        for folder in (before, after)
    ]
    passing = dict.fromkeys(("seconds", "peak_bytes"))
    first, second = (report | passing for report in reports)
    return read_result(before) == read_result(after) and first == second


@pytest.mark.long
@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("lost", ["", "1-lesson1", "1-2"])
def test_a_movie_is_shared_in_segments_once_its_network_is_there(tmp_path, monkeypatch, lost):
    settings = {"temporal_smoothing": 1, "max_iterations": 2}
    recipe = dip.make_recipe("denoise", preset="fast", device="cpu", **settings)
    fit_options = add_movie(tmp_path)
    dip.batch(recipe, tmp_path / "in", tmp_path / "alone", **fit_options)

    def full(unit, poll_control, see):
        if unit.name == lost:
            return "unavailable"
        return restore_shard_on_worker(unit, poll_control, see)

    monkeypatch.setattr("scale.cluster.simulated_workers.restore_shard_on_worker", full)
    out, pool = tmp_path / "out", InProcessPool(count=3)
    events = list(run_batch(plan_batch(recipe, tmp_path / "in", out, **fit_options), pool=pool))
    after = [] if lost == "1-lesson1" else ["1-1", "1-2"]
    assert pool.sent == ["1-lesson1", *after, "1"]
    assert is_same_result(out, tmp_path / "alone")
    progress = [step.event for step in events if step.event]
    parts = [event.fraction for event in progress]
    assert parts == sorted(parts)
    assert not after or any(e.message == "Restoring, frame 8 of 16, share 1 of 2" for e in progress)
    merging = [event for event in progress if "share" not in event.message]
    assert lost or not any("Restoring" in event.message for event in merging)


@pytest.mark.long
def test_frames_of_one_network_are_shared_one_by_one_without_temporal_smoothing(tmp_path):
    recipe = dip.make_recipe("denoise", preset="fast", max_iterations=2, device="cpu")
    fit_options = add_movie(tmp_path)
    dip.batch(recipe, tmp_path / "in", tmp_path / "alone", **fit_options)
    out, pool = tmp_path / "out", InProcessPool(count=3)
    plan = plan_batch(recipe, tmp_path / "in", out, **fit_options)
    assert compute_max_shards(plan.jobs[0].plan) == 16
    list(run_batch(plan, pool=pool))
    assert pool.sent == ["1-lesson1", "1-1", "1-2", "1-3", "1"]
    assert is_same_result(out, tmp_path / "alone")


@pytest.mark.long
@pytest.mark.usefixtures("short_segments")
def test_a_share_learns_what_its_segment_is_shown_if_that_is_not_there(tmp_path):
    recipe = dip.make_recipe("denoise", preset="fast", max_iterations=2, device="cpu")
    fit_options = add_movie(tmp_path)
    dip.batch(recipe, tmp_path / "in", tmp_path / "alone", **fit_options)
    out = tmp_path / "out"
    (out / "records").mkdir(parents=True)
    plan = plan_batch(recipe, tmp_path / "in", out, **fit_options)
    messages: list[list[str]] = []
    for share in (Shard(index=2, count=2), Shard(index=1, count=2)):
        said: list[str] = []
        unit = make_worker_job(plan, 1, "session", "", shard=share)
        answer = restore_shard_on_worker(
            unit, never_stop, lambda event, said=said: said.append(event.message)
        )
        assert answer == "shard-done"
        messages.append(said)
    assert ["Learning from many at once" in said for said in messages] == [True, False]
    list(
        run_batch(
            plan_batch(recipe, tmp_path / "in", out, resume=True, **fit_options),
            pool=InProcessPool(),
        )
    )
    assert is_same_result(out, tmp_path / "alone")


@pytest.mark.long
@pytest.mark.usefixtures("short_segments")
def test_frames_in_turn_are_shared_in_segments_that_begin_anew(tmp_path):
    settings = {"series_training": "warm-start", "restarts": 2, "max_iterations": 2}
    recipe = dip.make_recipe("denoise", preset="fast", device="cpu", **settings)
    fit_options = add_movie(tmp_path, frames=9)
    dip.batch(recipe, tmp_path / "in", tmp_path / "alone", **fit_options)
    out, pool = tmp_path / "out", InProcessPool(count=4)
    list(run_batch(plan_batch(recipe, tmp_path / "in", out, **fit_options), pool=pool))
    assert pool.sent == ["1-1", "1-2", "1-3", "1-4", "1"]
    assert is_same_result(out, tmp_path / "alone")


@pytest.mark.long
def test_tiles_that_are_shown_one_network_are_left_by_their_shares(unshared_batch, tmp_path):
    settings = {"preset": "fast", "max_iterations": 2, "device": "cpu", "tile": 128}
    recipe = dip.make_recipe("denoise", series_training="joint", **settings)
    plan = plan_batch(recipe, unshared_batch / "in", tmp_path / "out", threads=1)
    (tmp_path / "out" / "records").mkdir(parents=True)
    for share in (Shard(), Shard(index=1, count=2)):
        unit = make_worker_job(plan, 1, "session", "", shard=share)
        assert restore_shard_on_worker(unit, never_stop, print) == "shard-done"
    shelf = tmp_path / "out" / "records" / "cells.tif.unfinished"
    assert len(list(shelf.glob("tile-*"))) == 4
