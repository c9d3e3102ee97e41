"""Restore a file, or a shard of it, on a worker, and define the messages about it.

Pixels are never sent. The worker reads the file and writes the result itself, so both must be on a
disk that it can access. The plan depends only on the header and on the job, so that every worker
makes the same plan. Crash counters in the run folder stop files that repeatedly kill their workers.
A shard writes its tiles, or its fits, into the run folder as well.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import DipError, FailedError, Fault, Refusal, RefusedError, make_refusal
from napari_dip.io.reading import read_header
from napari_dip.pipeline.execute.runner import restore_shard, run, run_with_torch
from napari_dip.pipeline.lazy_inputs import open_plan_inputs, stamp_files
from napari_dip.pipeline.machine import detect_machine, get_torch_version
from napari_dip.pipeline.plan.units import Shard
from napari_dip.pipeline.progress import Event, Progress, drain_generator
from napari_dip.pipeline.recipe import recipe_from_json
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_NAME, CheckpointStore
from napari_dip.pipeline.store.network_files import pop_network_file
from napari_dip.pipeline.store.run_folder import RunFolder, is_run_folder
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, FileOutcome, Job
from napari_dip.scale.batch.plan import plan_file
from napari_dip.scale.batch.records import make_result_paths, read_verified_record
from napari_dip.scale.batch.restore_file import (
    BatchInterruptedError,
    check_interrupt,
    record_failure,
    restore_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.scale.batch.jobs import FileState, ResultPaths

log: logging.Logger = logging.getLogger(__name__)

#: State of a shard. "shard-done": complete. "unavailable": the job of the rest of the file then
#: restores it or fails. "waiting": not complete when the batch ended.
ShardState = Literal["shard-done", "unavailable", "waiting"]

#: Number of workers that one file may kill before it fails: a single loss may be chance.
MAX_WORKER_DEATHS = 2
#: Topic of events; the scheduler keeps only the last thousand messages of a topic.
EVENT_TOPIC = "napari-dip"
#: Control of each session; the oldest sessions are dropped.
_CONTROLS: dict[str, Control] = {}
_MAX_SESSIONS = 100
#: Dask's states of a worker that is not shutting down.
ACTIVE_WORKER_STATES = ("running", "paused")
#: Seconds without a poll after which a run ends whose sender is gone.
MAX_POLL_GAP_SECONDS = 60.0
#: Runs one fit at a time, which then has torch's threads and the memory to itself.
_FIT_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """What a worker needs to restore one file: less than a kilobyte for a file of any size.

    Attributes
    ----------
    number : int
        1-based number of the file, in the order of the inputs.
    session : str
        Identifier of this call; worker deaths of earlier calls do not count.
    root : str
        Folder that relative paths refer to; "" for the working folder of the process.
    source, results_folder, result_name : str
        The file, the folder of results, and the name of the result there.
    recipe_json : str
        The recipe as JSON.
    axes : str or None
    extra_paths : mapping of str to str
        Paths of the extra inputs.
    machine : Machine
        Machine to plan for, the same for all workers.
    report_interval : float
        Minimum seconds between two messages about the same step.
    versions : tuple of str
        Versions of napari-dip and torch.
    shard : Shard or None
        Shard to restore; None: the rest of the file, and its result.
    """

    number: int
    session: str
    root: str
    source: str
    results_folder: str
    result_name: str
    recipe_json: str
    axes: str | None
    machine: Machine
    extra_paths: Mapping[str, str] = field(default_factory=dict)
    report_interval: float = 1.0
    versions: tuple[str, ...] = ()
    shard: Shard | None = None

    @property
    def name(self) -> str:
        """Unique name within the session."""
        return str(self.number) if self.shard is None else f"{self.number}-{self.shard.name}"

    @property
    def paths(self) -> ResultPaths:
        """Paths of the result and of the files that belong to it."""
        return make_result_paths(Path(self.root) / self.results_folder, self.result_name)


def restore_file_on_worker(
    worker_job: WorkerJob, poll_control: PollControl, on_event: Callable[[Event], object]
) -> FileOutcome:
    """Restore one file in this process, unless it is finished or has killed too many workers.

    Parameters
    ----------
    worker_job : WorkerJob
    poll_control : callable
        Polled at every iteration.
    on_event : callable
        Called with each event.

    Returns
    -------
    FileOutcome
        With the paths of this worker.
    """
    paths, job = worker_job.paths, plan_file_job(worker_job)
    if isinstance(job.plan, Refusal):
        return FileOutcome(source=job.source, state="refused", fault=job.plan)
    if poll_control() in ENDING_CONTROLS:
        return FileOutcome(source=job.source, state="waiting")
    folder = RunFolder(paths.run_folder, resume=False)
    try:
        if folder.count_starts(worker_job.session) >= MAX_WORKER_DEATHS:
            fault = Fault.make("cluster-killed", name=job.source.name, count=MAX_WORKER_DEATHS)
            outcome = record_failure(job, job.plan, {}, "failed", fault)
        else:
            folder.add_start(worker_job.session, Shard().name)
            # resume, so that the work of a lost worker is not repeated
            steps = restore_file(job, job.plan, resume=True, poll_control=poll_control)
            outcome = drain_generator(steps, on_event)
    except FailedError as error:  # the folder cannot be written to
        outcome = FileOutcome(source=job.source, state="failed", fault=error.reason)
    folder.remove_starts(Shard().name)
    if not folder.has_entries():
        folder.remove()
    return outcome


def serialise_event(event: Event) -> dict[str, Any]:
    """Convert an event to plain types, without its image and subtasks."""
    return asdict(replace(event, preview=None, progress=replace(event.progress, children=())))


def parse_event(fields: Mapping[str, Any]) -> Event:
    """Convert plain types back to an event."""
    return Event(**{**fields, "progress": Progress(**fields["progress"])})


def get_versions() -> tuple[str, ...]:
    """Return the versions of napari-dip and torch, which pixels depend on."""
    from napari_dip.version import __version__

    return __version__, get_torch_version()


def plan_file_job(worker_job: WorkerJob) -> Job:
    """Plan the file of a job exactly as the sender did."""
    root = Path(worker_job.root)
    source = root / worker_job.source
    recipe = recipe_from_json(worker_job.recipe_json)
    try:
        extra_paths = {name: root / path for name, path in worker_job.extra_paths.items()}
        network = pop_network_file(extra_paths)
        extra_headers = {name: read_header(path) for name, path in extra_paths.items()}
        plan = plan_file(
            recipe, source, worker_job.axes, extra_headers, worker_job.machine, network
        )
    except RefusedError as error:
        plan = error.reason
    if isinstance(plan, Refusal) and plan.code == "file-missing":
        input_paths = (source, *(root / path for path in worker_job.extra_paths.values()))
        missing_path = next((path for path in input_paths if not path.exists()), source)
        plan = make_refusal("cluster-unseen", path=missing_path)
    return Job(source=source, plan=plan, paths=worker_job.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMessage:
    """One message about a job.

    Attributes
    ----------
    job_name : str
    worker : str
        Address of the worker; "" if the scheduler sent the message.
    event : mapping or None
        Progress of the work.
    answer : FileOutcome, ShardState or None
        The outcome of a file or a shard, once the job is finished.
    is_abandoned : bool
        Whether the scheduler gave the job up after deaths of its workers.
    traceback_text : str
        Traceback of an unexpected error.
    """

    job_name: str
    worker: str = ""
    event: Mapping[str, Any] | None = None
    answer: FileOutcome | ShardState | None = None
    is_abandoned: bool = False
    traceback_text: str = ""


def restore_shard_on_worker(
    worker_job: WorkerJob, poll_control: PollControl, on_event: Callable[[Event], object]
) -> ShardState:
    """Restore the tiles of a shard on this worker, or run its fits.

    Parameters
    ----------
    worker_job : WorkerJob
        A job with a shard.
    poll_control, on_event
        As for `restore_file_on_worker`.
    """
    shard, job = worker_job.shard, plan_file_job(worker_job)
    assert shard is not None
    if isinstance(job.plan, Refusal):
        return "unavailable"
    if poll_control() in ENDING_CONTROLS:
        return "waiting"
    folder, session = RunFolder(worker_job.paths.run_folder, resume=False), worker_job.session
    lacks_first_tile = shard.index and job.plan.tiles and not is_run_folder(folder.path)
    if lacks_first_tile or folder.count_starts(session, shard.name) >= MAX_WORKER_DEATHS:
        return "unavailable"
    try:
        folder.add_start(session, shard.name)
        state = drain_generator(_restore_shard(job, job.plan, shard, poll_control), on_event)
    except Exception:  # the job of the rest of the file meets the error and records it
        log.info("Shard %s of '%s' failed.", shard.name, job.source, exc_info=True)
        state = "unavailable"
    folder.remove_starts(shard.name)
    return state


def _restore_shard(
    job: Job, plan: Plan, shard: Shard, poll_control: PollControl
) -> Generator[Event, None, ShardState]:
    if not (plan.tiles and shard.index):  # only the first job checks for an earlier record
        yield Event(message="Checking what was done before")
        try:
            if read_verified_record(job, plan, partial(check_interrupt, poll_control)) is not None:
                return "unavailable"
        except BatchInterruptedError:
            return "waiting"
    # other shards write at the same time
    name = f"checkpoint-{shard.name}of{shard.count}" if shard.index else CHECKPOINT_NAME
    checkpoints = CheckpointStore(
        job.paths.run_folder, resume=True, name=name, replaces_unusable=not shard.index
    )
    inputs = open_plan_inputs(plan, stamp_files(plan))
    steps = restore_shard(plan, inputs, shard, poll_control, checkpoints)
    last_control = yield from run_with_torch(steps, plan.threads, plan.header.name)
    return "shard-done" if last_control is Control.GO else "waiting"


def run_worker_job(worker_job: WorkerJob, worker: Any) -> FileOutcome | ShardState | None:
    """Restore one file, or a shard of it, on a worker.

    Parameters
    ----------
    worker_job : WorkerJob
    worker : distributed.Worker
        The worker that runs this function.

    Returns
    -------
    FileOutcome, ShardState or None
        As `restore_file_on_worker` and `restore_shard_on_worker`. None if the worker is shutting
        down and another should resume from the checkpoint.
    """
    if worker_job.versions != get_versions():
        actual, expected = map(format_versions, (get_versions(), worker_job.versions))
        fault = Fault.make("cluster-versions", actual=actual, here=expected)
        return FileOutcome(source=Path(worker_job.source), state="failed", fault=fault)
    key = worker.get_current_task()

    def poll_session_control() -> Control:
        return _CONTROLS.get(worker_job.session, Control.GO)

    def is_requested() -> bool:
        """Return whether the job is still requested: dask cancels it if its sender is gone."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    def poll_control() -> Control:
        control = poll_session_control()
        is_active = is_requested() and worker.status.name in ACTIVE_WORKER_STATES
        return Control.KEEP if control is Control.GO and not is_active else control

    with _FIT_LOCK:
        send_event = make_event_sender(
            worker_job, lambda message: worker.log_event(EVENT_TOPIC, message), worker.address
        )
        arguments = worker_job, poll_control, send_event
        answer: FileOutcome | ShardState
        if worker_job.shard is None:
            answer = outcome = restore_file_on_worker(*arguments)
            state: FileState | ShardState = outcome.state
        else:
            answer = state = restore_shard_on_worker(*arguments)
    if state == "waiting" and poll_session_control() is Control.GO and is_requested():
        return None
    return answer


class RemoteRun:
    """A run in a thread of a worker: an actor of dask, which its sender polls.

    Parameters
    ----------
    plan : Plan
    inputs : mapping
        Pixels of all inputs.
    preview_seconds : float or None
        As for `napari_dip.pipeline.execute.runner.run`.
    """

    def __init__(
        self, plan: Plan, inputs: Mapping[str, Any], preview_seconds: float | None
    ) -> None:
        self._control, self._poll_time = Control.GO, time.monotonic()
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._is_done, self._outcome = False, None
        begin = partial(run, plan, inputs, poll_control=self._poll, preview_seconds=preview_seconds)
        threading.Thread(target=self._run, args=(begin,), daemon=True).start()

    def exchange(self, control: str) -> tuple[list[Event], bool, Restoration | Fault | str | None]:
        """Set the control; return new events, whether the run is done, and its outcome.

        The outcome is a traceback if something unexpected failed.
        """
        with self._lock:
            self._control, self._poll_time = Control[control], time.monotonic()
            events, self._events = self._events, []
            return events, self._is_done, self._outcome

    def _poll(self) -> Control:
        is_silent = time.monotonic() - self._poll_time > MAX_POLL_GAP_SECONDS
        return Control.DISCARD if is_silent else self._control

    def _run(self, begin: Callable[[], Generator[Event, None, Restoration | None]]) -> None:
        outcome: Any
        try:
            with _FIT_LOCK:
                outcome = drain_generator(begin(), self._add_event)
        except DipError as error:
            outcome = error.reason
        except Exception:
            outcome = traceback.format_exc()
        with self._lock:
            self._is_done, self._outcome = True, outcome

    def _add_event(self, event: Event) -> None:
        with self._lock:
            if event.preview is not None:  # only the latest one is sent
                self._events = [replace(earlier, preview=None) for earlier in self._events]
            self._events.append(event)


def receive_control(session: str, control: str) -> None:
    """Store the user's control for a session."""
    while len(_CONTROLS) >= _MAX_SESSIONS:
        _CONTROLS.pop(next(iter(_CONTROLS)))
    _CONTROLS[session] = Control[control]


def detect_worker() -> tuple[Machine, tuple[str, ...]]:
    """Return machine and versions of this worker."""
    return detect_machine(), get_versions()


def format_versions(versions: tuple[str, ...]) -> str:
    """Format versions for a message."""
    return "napari-dip {} with PyTorch {}".format(*versions)


def make_event_sender(
    worker_job: WorkerJob, send: Callable[[dict[str, Any]], object], worker: str
) -> Callable[[Event], None]:
    """Return a function that sends events: at each new step, else at most once per interval.

    Parameters
    ----------
    worker_job : WorkerJob
    send : callable
        Sends a message in plain types.
    worker : str
        Address of the sender.
    """
    last_message, last_time = "", float("-inf")

    def send_if_due(event: Event) -> None:
        nonlocal last_message, last_time
        now = time.monotonic()
        if event.message != last_message or now - last_time >= worker_job.report_interval:
            last_message, last_time = event.message, now
            names = {"session": worker_job.session, "job": worker_job.name, "worker": worker}
            send({**names, "event": serialise_event(event)})

    return send_if_due
