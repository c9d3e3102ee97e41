"""Run a file or a shard of a file on a worker: receive controls and send events.

A shard writes its tiles, or its fits, into the run folder.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, make_refusal
from napari_dip.pipeline.events import Event, drain_generator
from napari_dip.pipeline.execute.tile_calibration import open_plan_inputs
from napari_dip.pipeline.lazy_inputs import stamp_files
from napari_dip.pipeline.machine import detect_machine, load_torch
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_NAME, CheckpointStore
from napari_dip.pipeline.store.run_folder import RunFolder, is_run_folder
from napari_dip.pipeline.torch_state import run_in_default_state
from napari_dip.scale.batch.file import BatchInterrupt, check_interrupt
from napari_dip.scale.batch.jobs import ENDING_CONTROLS
from napari_dip.scale.batch.records import read_verified_record
from napari_dip.scale.cluster.worker_task import (
    MAX_WORKER_DEATHS,
    SHARD_COUNTER_SUFFIX,
    CrashCounter,
    get_versions,
    make_failure_answer,
    make_worker_answer,
    plan_worker_job,
    restore_file_on_worker,
    serialise_event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_dip.pipeline.execute.shards import Shard
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import Job
    from napari_dip.scale.cluster.worker_task import WorkerTask

#: Topic of events; the scheduler keeps only the last thousand messages of a topic.
EVENT_TOPIC = "napari-dip"
#: Control of each session; the oldest sessions are dropped.
_CONTROLS: dict[str, Control] = {}
_MAX_SESSIONS = 100
#: Dask's states of a worker that is not shutting down.
ACTIVE_WORKER_STATES = ("running", "paused")
#: Runs one fit at a time, which then has torch's threads and the memory to itself.
_FIT_LOCK = threading.Lock()


def restore_shard_on_worker(
    worker_task: WorkerTask, control: Callable[[], Control], on_event: Callable[[Event], object]
) -> dict[str, Any]:
    """Restore the tiles of a shard on this worker, or run its fits.

    Parameters
    ----------
    worker_task : WorkerTask
        A task with a shard.
    control, on_event
        As for `restore_file_on_worker`.

    Returns
    -------
    dict
        State "shared" if the shard is complete and "waiting" if the user ended the run. "passed"
        if the shard is not available; the task for the rest of the file then restores it or fails.
    """
    paths, share, job = worker_task.paths, worker_task.shard, plan_worker_job(worker_task)
    assert share is not None
    if isinstance(job.plan, Refusal):
        return make_worker_answer("passed")
    if control() in ENDING_CONTROLS:
        return make_worker_answer("waiting")
    folder = RunFolder(paths.checkpoint, resume=True)
    counter_path = (
        folder.path / f"{share.name}{SHARD_COUNTER_SUFFIX}" if share.index else paths.crash_counter
    )
    crash_counter = CrashCounter(counter_path, worker_task.session)
    lacks_first_tile = share.index and job.plan.tiles and not is_run_folder(folder.path)
    if lacks_first_tile or crash_counter.count() >= MAX_WORKER_DEATHS:
        return make_worker_answer("passed")
    try:
        if not job.plan.tiles:
            folder.create()
        crash_counter.add()
        state = drain_generator(_restore_shard(job, job.plan, share, control), on_event)
    except Exception:  # the task for the rest of the file meets the error and records it
        state = "passed"
    crash_counter.remove()
    return make_worker_answer(state)


def _restore_shard(
    job: Job, plan: Plan, shard: Shard, control: Callable[[], Control]
) -> Generator[Event, None, str]:
    if not (plan.tiles and shard.index):  # only the first task checks for an earlier record
        yield Event(message="Checking what was done before")
        try:
            if read_verified_record(job, plan, partial(check_interrupt, control)) is not None:
                return "passed"
        except BatchInterrupt:
            return "waiting"
    # other shards write at the same time
    name = f"checkpoint-{shard.name}of{shard.count}" if shard.index else CHECKPOINT_NAME
    store = CheckpointStore(job.paths.checkpoint, resume=True, name=name, restarts=not shard.index)
    data = open_plan_inputs(plan, stamp_files(plan))
    yield Event(message="Starting the engine")
    load_torch()
    from napari_dip.pipeline.execute.shards import restore_shard

    steps = restore_shard(plan, data, shard, control, store)
    final_control = yield from run_in_default_state(steps, plan.threads)
    return "shared" if final_control is Control.GO else "waiting"


def run_worker_task(worker_task: WorkerTask, worker: Any) -> dict[str, Any] | None:
    """Restore one file, or a shard of it, on a worker.

    Parameters
    ----------
    worker_task : WorkerTask
    worker : distributed.Worker
        The worker that runs this function.

    Returns
    -------
    dict or None
        As `restore_file_on_worker` and `restore_shard_on_worker`. None if the worker is shutting
        down and another should resume from the checkpoint.
    """
    if worker_task.versions != get_versions():
        return make_failure_answer(
            make_refusal(
                "cluster-versions",
                found=format_versions(get_versions()),
                here=format_versions(worker_task.versions),
            )
        )
    key = worker.get_current_task()

    def poll_control() -> Control:
        return _CONTROLS.get(worker_task.session, Control.GO)

    def is_requested() -> bool:
        """Return whether the task is still requested: dask cancels it if its sender is gone."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    def control() -> Control:
        requested = poll_control()
        if requested is Control.GO and not (
            is_requested() and worker.status.name in ACTIVE_WORKER_STATES
        ):
            return Control.KEEP
        return requested

    with _FIT_LOCK:
        send_event = make_event_sender(
            worker_task, lambda text: worker.log_event(EVENT_TOPIC, text), worker.address
        )
        restore = restore_file_on_worker if worker_task.shard is None else restore_shard_on_worker
        answer = restore(worker_task, control, send_event)
    if answer["state"] == "waiting" and poll_control() is Control.GO and is_requested():
        return None
    return answer


def receive_control(session: str, control: str) -> None:
    """Store the user's control for a session."""
    while len(_CONTROLS) >= _MAX_SESSIONS:
        _CONTROLS.pop(next(iter(_CONTROLS)))
    _CONTROLS[session] = Control[control]


def describe_worker() -> tuple[Machine, tuple[str, ...]]:
    """Return machine and versions of this worker."""
    return detect_machine(), get_versions()


def format_versions(versions: tuple[str, ...]) -> str:
    """Format versions for a message."""
    return "napari-dip {} with PyTorch {}".format(*versions)


def make_event_sender(
    worker_task: WorkerTask, send: Callable[[dict[str, Any]], object], worker: str
) -> Callable[[Event], None]:
    """Return a function that sends events: at each new step, else at most once per interval.

    Parameters
    ----------
    worker_task : WorkerTask
    send : callable
        Sends a message in plain types.
    worker : str
        Address of the sender.
    """
    last = ("", float("-inf"))

    def see(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        if event.message != last[0] or now - last[1] >= worker_task.report_interval:
            last = (event.message, now)
            text = {"session": worker_task.session, "unit": worker_task.name, "worker": worker}
            send({**text, "event": serialise_event(event)})

    return see
