"""A unit in a worker: what the person wants reaches it, and how far it is gets out.

A share of a file as a task: it leaves tiles, or fits, on the shelf beside the checkpoint.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.pipeline.events import Event, drain_generator
from napari_dip.pipeline.execute.tile_calibration import open_plan_inputs
from napari_dip.pipeline.lazy_inputs import stamp_plan_files
from napari_dip.pipeline.machine import detect_machine, load_torch
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_FAULTS, CheckpointStore
from napari_dip.pipeline.store.folder_lock import make_run_folder
from napari_dip.pipeline.torch_state import run_in_default_state
from napari_dip.scale.batch.file import BatchInterrupt, check_interrupt
from napari_dip.scale.batch.jobs import ENDING_CONTROLS
from napari_dip.scale.batch.records import read_verified_record
from napari_dip.scale.cluster.unit import (
    MAX_WORKER_DEATHS,
    SHARD_COUNTER_PREFIX,
    CrashCounter,
    get_versions,
    make_failure_answer,
    make_worker_answer,
    plan_worker_job,
    restore_file_on_worker,
    serialise_event,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.execute.shards import Shard
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import Job
    from napari_dip.scale.cluster.unit import WorkerTask


def restore_shard_on_worker(
    unit: WorkerTask, control: Callable[[], Control], see: Callable[[Event], object]
) -> dict[str, Any]:
    """Restore the tiles of a share here, or do its fits.

    Parameters
    ----------
    unit : WorkerTask
        With a share.
    control, see
        As for `restore_file_on_worker`.

    Returns
    -------
    dict
        Its state is "shared" once they are there; "waiting" if the run was ended; "passed" where
        they do not come: who restores the rest of the file restores them too, or says why not.
    """
    at, share, job = unit.paths, unit.shard, plan_worker_job(unit)
    assert share is not None
    if isinstance(job.plan, Refusal):
        return make_worker_answer("passed")
    if control() in ENDING_CONTROLS:
        return make_worker_answer("waiting")
    shelf = CheckpointStore(at.checkpoint, resume=True).results_folder
    path = shelf / f"{SHARD_COUNTER_PREFIX}{share.name}" if share.index else at.crash_counter
    begun = CrashCounter(path, unit.session)
    if shelf.is_symlink() or begun.count() >= MAX_WORKER_DEATHS:
        return make_worker_answer("passed")
    try:
        if not job.plan.tiles:
            make_run_folder(shelf)
        begun.add()
        state = drain_generator(_restore_shard(job, job.plan, share, control), see)
    except Exception:  # the rest of the file meets it as well, and writes it down
        state = "passed"
    begun.remove()
    return make_worker_answer(state)


def _restore_shard(
    job: Job, plan: Plan, share: Shard, control: Callable[[], Control]
) -> Generator[Event, None, str]:
    if not (plan.tiles and share.index):  # who is the first to look at the file
        yield Event(message="Checking what was done before")
        try:
            if read_verified_record(job, plan, partial(check_interrupt, control)) is not None:
                return "passed"
        except BatchInterrupt:
            return "waiting"
    store = CheckpointStore(job.paths.checkpoint, resume=True)
    if share.index:  # others are at work beside this one
        name = f"share{share.name}of{share.count}"
        store = CheckpointStore(
            store.results_folder / name, resume=True, results_folder=store.results_folder
        )
    data = open_plan_inputs(stamp_plan_files(plan))
    try:
        ended = yield from _run_shard(plan, data, share, control, store)
    except Refused as error:
        if share.index or error.refusal.code not in CHECKPOINT_FAULTS:
            raise
        anew = CheckpointStore(job.paths.checkpoint, resume=False)
        ended = yield from _run_shard(plan, data, share, control, anew)
    return "shared" if ended is Control.GO else "waiting"


def _run_shard(
    plan: Plan,
    data: Mapping[str, Any],
    share: Shard,
    control: Callable[[], Control],
    store: CheckpointStore,
) -> Generator[Event, None, Control]:
    from napari_dip.pipeline.execute.shards import restore_tile_shard, restore_unit_shard

    yield Event(message="Starting the engine")
    load_torch()
    restore = restore_tile_shard if plan.tiles else restore_unit_shard
    steps = restore(plan, data, share, control, store)
    return (yield from run_in_default_state(steps, plan.threads))


#: Topic that workers speak on; the scheduler keeps the last thousand words of a topic and no more.
EVENT_TOPIC = "napari-dip"
#: What the person of each call wants; of calls long ended the oldest are forgotten.
_CONTROLS: dict[str, Control] = {}
_MAX_SESSIONS = 100
#: What dask calls a worker that is not about to end.
ACTIVE_WORKER_STATES = ("running", "paused")
#: A fit has torch's threads and this process's memory to itself.
_FIT_LOCK = threading.Lock()


def run_worker_task(unit: WorkerTask, worker: Any) -> dict[str, Any] | None:
    """Restore one file, or a share of it, in a worker.

    Parameters
    ----------
    unit : WorkerTask
    worker : distributed.Worker
        The one that this runs in.

    Returns
    -------
    dict or None
        As `restore_file_on_worker` and `restore_shard_on_worker`; None if the worker is about to
        go, so that another
        one should go on from the checkpoint.
    """
    if unit.versions != get_versions():
        facts = {"found": format_versions(get_versions()), "here": format_versions(unit.versions)}
        return make_failure_answer(refusal("cluster-versions", **facts))
    key = worker.get_current_task()

    def poll_control() -> Control:
        return _CONTROLS.get(unit.session, Control.GO)

    def wanted() -> bool:
        """Whether whoever sent this is still there: dask calls a task cancelled if not."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    def control() -> Control:
        going_on = poll_control()
        if going_on is Control.GO and not (wanted() and worker.status.name in ACTIVE_WORKER_STATES):
            return Control.KEEP
        return going_on

    with _FIT_LOCK:
        see = make_event_sender(
            unit, lambda text: worker.log_event(EVENT_TOPIC, text), worker.address
        )
        restore = restore_file_on_worker if unit.shard is None else restore_shard_on_worker
        answer = restore(unit, control, see)
    if answer["state"] == "waiting" and poll_control() is Control.GO and wanted():
        return None
    return answer


def receive_control(session: str, control: str) -> None:
    """Take note of what the person of a call wants."""
    while len(_CONTROLS) >= _MAX_SESSIONS:
        _CONTROLS.pop(next(iter(_CONTROLS)))
    _CONTROLS[session] = Control[control]


def describe_worker() -> tuple[Machine, tuple[str, ...]]:
    """Say what this worker offers."""
    return detect_machine(), get_versions()


def format_versions(versions: tuple[str, ...]) -> str:
    """Put versions into words."""
    return "napari-dip {} with PyTorch {}".format(*versions)


def make_event_sender(
    unit: WorkerTask, tell: Callable[[dict[str, Any]], object], worker: str
) -> Callable[[Event], None]:
    """Pass events on, at each new kind of work and else now and then.

    Parameters
    ----------
    unit : WorkerTask
    tell : callable
        Takes words in plain types.
    worker : str
        Who speaks.
    """
    last = ("", float("-inf"))

    def see(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        if event.message != last[0] or now - last[1] >= unit.report_interval:
            last = (event.message, now)
            text = {"session": unit.session, "unit": unit.name, "worker": worker}
            tell({**text, "event": serialise_event(event)})

    return see
