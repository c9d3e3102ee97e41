"""Files of a batch restored by other processes: the same bytes, none lost, none done twice."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.store.run_folder import make_run_folder
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from napari_dip.scale.cluster.dispatcher import MAX_JOB_RETRIES, make_worker_job
from napari_dip.scale.cluster.pool import (
    WORKER_OVERHEAD_BYTES,
    WorkerInfo,
    choose_worker_count,
    find_shared_machine,
    make_job_resources,
    make_oversubscription_note,
    read_worker_options,
)
from napari_dip.scale.cluster.worker import get_versions, restore_file_on_worker
from scale.cluster.simulated_workers import InProcessPool, never_stop

RECIPE = dip.make_recipe("denoise", preset="fast", max_iterations=2, device="cpu")
GOOD = ["a_deadly.tif", "cell_0.tif", "cell_1.tif"]
MACHINE = Machine(cores=4, memory_bytes=8_000_000_000, devices=("cpu",), torch_version="2.13.0")


@pytest.fixture(scope="module")
def finished_batch(tmp_path_factory) -> Path:
    """Folder with inputs in 'in' and what one process makes of them in 'out'."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "in").mkdir()
    y, x = np.mgrid[:32, :32]
    for seed, name in enumerate(GOOD):
        clean = 200 + 80 * np.sin(x / 5 + seed) * np.cos(y / 7)
        image = np.random.default_rng(seed).poisson(clean).astype("uint16")
        tifffile.imwrite(folder / "in" / name, image)
    (folder / "in" / "z_bad.tif").write_text("no image")
    (folder / "recipe.json").write_text(RECIPE.to_json())
    dip.batch(RECIPE, folder / "in", folder / "out", threads=1)
    return folder


def read_results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tif"))}


def make_task_plan(finished_batch: Path, out: Path, resume: bool = False):
    return plan_batch(RECIPE, finished_batch / "in", out, threads=1, resume=resume)


@pytest.mark.long
def test_a_unit_is_small_and_comes_back_whole(finished_batch, tmp_path):
    plan = make_task_plan(finished_batch, tmp_path / "out")
    unit = make_worker_job(plan, 2, "session", "")
    assert pickle.loads(pickle.dumps(unit)) == unit
    assert len(pickle.dumps(unit)) < 5000


@pytest.fixture(scope="module")
def batch_by_units(finished_batch, tmp_path_factory) -> tuple[Path, InProcessPool, list]:
    """Folder of the same batch, done unit by unit, by a pool that is given up on twice."""
    out = tmp_path_factory.mktemp("units") / "out"
    pool = InProcessPool(deaths=2)
    events = list(run_batch(make_task_plan(finished_batch, out), pool=pool))
    return out, pool, events


@pytest.mark.all_cores
def test_units_make_the_same_bytes_and_records_as_one_process(finished_batch, batch_by_units):
    out, _, events = batch_by_units
    assert read_results(out) == read_results(finished_batch / "out")
    for name in GOOD:
        in_process, with_workers = (
            json.loads((folder / "records" / f"{name}.json").read_text())
            for folder in (finished_batch / "out", out)
        )
        for receipt in (in_process, with_workers):
            for passing in ("seconds", "peak_bytes"):
                del receipt["report"][passing]
        assert in_process == with_workers
    ends = {event.source.name: event.outcome.state for event in events if event.outcome}
    assert ends == {"z_bad.tif": "refused", **dict.fromkeys(GOOD, "restored")}


def test_a_unit_that_the_scheduler_gave_up_unbegun_is_handed_out_again(batch_by_units):
    _, pool, events = batch_by_units
    assert pool.sent == ["1", "1", "1", "2", "3"]
    assert any(event.event and event.event.message == "Saving the result" for event in events)
    assert all(event.worker == "tcp://me" for event in events if event.event)


def test_a_unit_that_is_done_is_left_as_it_is(finished_batch, batch_by_units):
    out = batch_by_units[0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("cell*")}
    unit = make_worker_job(make_task_plan(finished_batch, out, resume=True), 2, "another", "")
    answer = restore_file_on_worker(unit, never_stop, lambda event: None)
    assert answer.state == "already-done" and answer.record["report"]["stop_reason"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("cell*")} == before


@pytest.mark.long
def test_a_scheduler_that_gives_up_again_and_again_costs_one_file(finished_batch, tmp_path):
    pool = InProcessPool(deaths=MAX_JOB_RETRIES)
    events = run_batch(make_task_plan(finished_batch, tmp_path / "out"), pool=pool)
    ends = {event.source.name: event.outcome for event in events if event.outcome}
    assert ends[GOOD[0]].state == "failed"
    assert ends[GOOD[0]].record["refusal"]["code"] == "cluster-killed"
    assert [ends[name].state for name in GOOD[1:]] == ["restored", "restored"]


@pytest.mark.long
def test_a_lost_scheduler_ends_the_batch_with_what_is_done_and_it_goes_on_without(
    finished_batch, tmp_path
):
    out = tmp_path / "out"
    with pytest.raises(FailedError) as caught:
        list(run_batch(make_task_plan(finished_batch, out), pool=InProcessPool(lost_after=1)))
    assert caught.value.reason.code == "cluster-lost"
    assert list(read_results(out)) == GOOD[:1] and "not begun" in (out / "batch.csv").read_text()
    done = dip.batch(RECIPE, finished_batch / "in", out, resume=True)  # counts on as many threads
    assert (done.count("already-done"), done.count("restored")) == (1, 2)
    assert read_results(out) == read_results(finished_batch / "out")


def test_stopping_withdraws_tasks_not_begun_and_informs_the_workers(finished_batch, tmp_path):
    pool = InProcessPool(asleep=True)
    answers = iter([Control.GO, Control.GO, Control.KEEP])
    steps = run_batch(
        make_task_plan(finished_batch, tmp_path / "out"),
        poll_control=lambda: next(answers),
        pool=pool,
    )
    ends = [event.outcome.state for event in steps if event.outcome]
    assert ends == ["refused", "waiting", "waiting", "waiting"]
    assert (pool.sent, pool.cancelled, pool.controls) == (["1"], ["1"], [Control.KEEP])


def test_a_file_that_has_ended_two_workers_is_not_begun_a_third_time(finished_batch, tmp_path):
    plan = make_task_plan(finished_batch, tmp_path / "out")
    (tmp_path / "out" / "records").mkdir(parents=True)
    unit = make_worker_job(plan, 2, "session", "")

    def exit_process(event: object) -> None:
        raise SystemExit

    for _ in range(2):
        with pytest.raises(SystemExit):
            restore_file_on_worker(unit, never_stop, exit_process)
    answer = restore_file_on_worker(unit, never_stop, exit_process)
    assert answer.state == "failed" and answer.fault.code == "cluster-killed"
    assert answer.record["refusal"]["sentence"].startswith("Restoring 'cell_0.tif' has ended 2")
    begun = plan.jobs[1].paths.run_folder / "0.starts"
    assert not begun.exists() and not begun.parent.exists()
    make_run_folder(begun.parent)
    begun.write_text(json.dumps({"session": "session", "begun": 2}))  # a call that was killed
    again = restore_file_on_worker(replace(unit, session="next"), never_stop, lambda event: None)
    assert again.state == "restored" and not begun.parent.exists()


def test_a_worker_that_does_not_see_the_file_says_so(finished_batch, tmp_path):
    unit = make_worker_job(
        make_task_plan(finished_batch, tmp_path / "out"), 2, "session", str(tmp_path)
    )
    answer = restore_file_on_worker(
        replace(unit, source="gone.tif"), never_stop, lambda event: None
    )
    assert answer.fault.code == "cluster-unseen"


CLEARED = """
import resource, numpy
from napari_dip.pipeline.torch_state import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        numpy.ones(2**17)  # a megabyte
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is that of glibc")
def test_freed_memory_is_kept_for_the_next_step_also_where_dask_would_give_it_back():
    argv = [sys.executable, "-c", CLEARED]
    env = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
    before, kept, after = done.stdout.split()
    assert kept == "True" and int(before) > 50 * 200 and int(after) < 600


def make_worker_info(**changes) -> WorkerInfo:
    return replace(
        WorkerInfo(host="host", machine=MACHINE, versions=get_versions(), threads=1, resources={}),
        **changes,
    )


def test_a_machine_is_shared_by_the_workers_on_it_and_the_least_counts():
    assert find_shared_machine([make_worker_info(), make_worker_info()], "there") == replace(
        MACHINE, cores=2, memory_bytes=4_000_000_000
    )
    small = make_worker_info(
        host="other", machine=replace(MACHINE, cores=1, devices=("cuda", "cpu"))
    )
    machine = find_shared_machine([make_worker_info(), small], "there")
    assert (machine.cores, machine.devices) == (1, ("cpu",))


def test_a_worker_that_would_be_ended_at_a_limit_is_not_counted_on_for_more():
    machine = find_shared_machine(
        [
            make_worker_info(memory_limit=WORKER_OVERHEAD_BYTES + 1_000),
            make_worker_info(host="other"),
        ],
        "there",
    )
    assert machine.memory_bytes == 1_000


def test_where_some_workers_declare_a_gpu_only_those_count():
    card = replace(MACHINE, devices=("cuda", "cpu"))
    pool = [make_worker_info(machine=card, resources={"GPU": 1.0}), make_worker_info(host="other")]
    assert find_shared_machine(pool, "there").devices == ("cuda", "cpu")


def test_where_all_workers_declare_memory_the_most_of_it_counts():
    pool = [
        make_worker_info(resources={"memory": 2e9}),
        make_worker_info(resources={"memory": 5e9}),
    ]
    assert find_shared_machine(pool, "there").memory_bytes == 5_000_000_000


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"threads": 4}, "cluster-threads"), ({"versions": ("0", "0")}, "cluster-versions")],
)
def test_workers_that_are_not_fit_are_refused(changes, code):
    with pytest.raises(dip.RefusedError) as caught:
        find_shared_machine([make_worker_info(), make_worker_info(**changes)], "there")
    assert caught.value.reason.code == code


def test_a_unit_asks_for_what_workers_declare_and_for_nothing_else():
    assert make_job_resources(5, "cuda", ["memory", "GPU", "licence"]) == {
        "memory": 5.0,
        "GPU": 1.0,
    }
    assert make_job_resources(5, "cpu", ["GPU"]) == make_job_resources(5, "cuda", []) == {}


def test_as_many_workers_start_as_memory_and_gpus_allow():
    peaks = [1_000_000, 2_000_000_000 - WORKER_OVERHEAD_BYTES]
    assert choose_worker_count(4, peaks, MACHINE, 0) == (4, None)
    count, why = choose_worker_count(6, peaks, MACHINE, 0)
    assert count == 4 and str(why).startswith("4 workers instead of 6: one file takes up to 2.0 GB")
    count, why = choose_worker_count(4, peaks, MACHINE, 1)
    assert (count, str(why)) == (1, "1 worker instead of 4: there is 1 GPU.")


@pytest.mark.all_cores
def test_too_many_threads_for_the_cores_are_reported():
    assert make_oversubscription_note(2, 1, 1) is make_oversubscription_note(4, 4, 16) is None
    assert "2 threads (--threads 2) would be faster" in str(make_oversubscription_note(8, 8, 16))
    assert "share 16 cores," in str(make_oversubscription_note(8, 8, 16))
    assert "share 1 core," in str(make_oversubscription_note(2, 2, 1))


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", 0, "99999999"])
def test_a_number_of_workers_is_a_whole_one(value):
    with pytest.raises(dip.RefusedError) as caught:
        read_worker_options(value, None, None)
    assert caught.value.reason.code == "setting-wrong"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "are given"),
        (["--workers", "2"], "Install it with: pip install 'napari-dip[cluster]'"),
        (["--scheduler", "tcp://127.0.0.1:1"], "Install it with"),
    ],
)
def test_what_workers_lack_is_said_before_anything_is_written(
    finished_batch, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.setitem(sys.modules, "distributed", None)
    places = [
        str(finished_batch / "recipe.json"),
        str(finished_batch / "in"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert main(["batch", *places, *options, "--quiet"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.timeout(400)  # eight seconds of the processor, but a busy machine takes its time
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_real_workers_listen_to_nobody_else_and_one_bad_file_costs_only_itself(
    finished_batch, tmp_path
):
    out, files = tmp_path / "out", [finished_batch / "in" / name for name in GOOD[:2]]
    scene = Path(__file__).with_name("cluster_program.py")
    argv = [sys.executable, scene, finished_batch / "recipe.json", out, *files]
    # as if a worker took long to start again: dask's own cluster then gives it up for good
    slow = {**os.environ, "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1ms"}
    arguments = list(map(str, argv))
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=380, check=False, env=slow
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert set(output["listening"]) == {"127.0.0.1"}
    assert output["killed"] == 2
    assert output["states"] == {"a_deadly.tif": "failed", "cell_0.tif": "restored"}
    record = json.loads((out / "records" / "a_deadly.tif.json").read_text())
    assert record["refusal"]["code"] == "cluster-killed"
    again = dip.batch(RECIPE, files, out, resume=True)
    assert (again.count("already-done"), again.count("restored")) == (1, 1)
    assert {
        name: (finished_batch / "out" / name).read_bytes() for name in GOOD[:2]
    } == read_results(out)
