"""A file of a batch, or a share of it, as a task: a few paths go, a few words come back.

Pixels never travel: the worker reads the file and writes the result itself, so that both must lie
where it sees them. What is planned depends on nothing but the header and what is said here, so that
every worker makes the same of it.

What passes between a batch and the workers that it hands its work to.

How many workers a file, or a share of it, has ended.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from napari_dip.errors import Failed, Refusal, Refused, read_refusal, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import MAX_REPORT_BYTES, read_small_text
from napari_dip.io.reading import read_spec
from napari_dip.io.writing import write_text
from napari_dip.pipeline.events import Event, drain_generator
from napari_dip.pipeline.machine import get_torch_version
from napari_dip.pipeline.recipe import recipe_from_json
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.shared_network import SHARED_NETWORK_INPUT, read_network
from napari_dip.scale.batch.file import record_failure, restore_file
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, FileOutcome, Job
from napari_dip.scale.batch.plan import plan_file
from napari_dip.scale.batch.records import make_result_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from napari_dip.engine.control import Control
    from napari_dip.pipeline.execute.shards import Shard
    from napari_dip.pipeline.machine import Machine
    from napari_dip.scale.batch.jobs import ResultPaths

#: Workers that one file may end before it is left alone: one may have been lost by chance.
MAX_WORKER_DEATHS = 2
#: Begins the name of each share's count, in the folder beside the checkpoint.
SHARD_COUNTER_PREFIX = "begun"


class CrashCounter:
    """Counts on the disk how often something was begun in a session and not ended.

    Parameters
    ----------
    path : Path
    session : str

    Notes
    -----
    The scheduler counts as well, but it holds a worker's death against all tasks that lay there,
    and how many deaths it allows is not ours to say on a cluster of others.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._path = path
        self._session = session

    def count(self) -> int:
        """Give how often it was begun."""
        with suppress(ValueError, TypeError):
            session, count = self._read() or ("", 0)
            return int(count) if session == self._session else 0
        return 0

    def add(self) -> None:
        """Count this one, before anything is risked; raises `Failed` if the disk takes nothing."""
        if os.path.lexists(self._path) and self._read() is None:  # somebody else's file
            return
        text = {"session": self._session, "begun": self.count() + 1}
        write_text(self._path, json.dumps(text), overwrite=True)

    def remove(self) -> None:
        """Take note that it came to an end."""
        if self._read() is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[Any, Any] | None:
        """Give session and count, None where there is no such file, or somebody else's."""
        with suppress(Refused, OSError, ValueError, RecursionError, TypeError, KeyError):
            data = json.loads(read_small_text(self._path, "a list of beginnings", MAX_REPORT_BYTES))
            if set(data) == {"session", "begun"} and not self._path.is_symlink():
                return data["session"], data["begun"]
        return None


#: What of an event is worth sending: no picture.
_EVENT_FIELDS = (
    *("message", "fraction", "iteration", "iterations", "held_out_loss", "best_iteration"),
    *("seconds", "seconds_left", "unit", "units"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """What a worker needs to know of one file: less than a kilobyte, whatever the file's size.

    Attributes
    ----------
    number : int
        1-based, in the order of the inputs.
    session : str
        Names this call; deaths of workers in earlier calls do not count.
    root : str
        Folder that relative paths are seen from; "" for the process's own.
    source, folder, result : str
        The file, the folder of results, and the name of the result there.
    recipe : str
        As JSON.
    axes : str or None
    extra_inputs : mapping of str to str
        Paths of the further inputs.
    machine : Machine
        What is planned with: the same for all workers.
    report_interval : float
        Least seconds between two words about the same work.
    versions : tuple of str
        Of napari-dip and torch.
    shard : Shard or None
        Which part of the file is asked for; None: all of it, and the result.
    """

    number: int
    session: str
    root: str
    source: str
    folder: str
    result: str
    recipe: str
    axes: str | None
    machine: Machine
    extra_inputs: Mapping[str, str] = field(default_factory=dict)
    report_interval: float = 1.0
    versions: tuple[str, ...] = ()
    shard: Shard | None = None

    @property
    def name(self) -> str:
        """Name it among those of its session."""
        return str(self.number) if self.shard is None else f"{self.number}-{self.shard.name}"

    @property
    def paths(self) -> ResultPaths:
        """Say where what belongs to the result lies."""
        return make_result_paths(Path(self.root) / self.folder, self.result)


def restore_file_on_worker(
    unit: WorkerTask, control: Callable[[], Control], see: Callable[[Event], object]
) -> dict[str, Any]:
    """Restore one file here, unless that is done or has ended two workers before.

    Parameters
    ----------
    unit : WorkerTask
    control : callable
        Polled at every step.
    see : callable
        Called with each event.

    Returns
    -------
    dict
        The outcome in plain types; see `parse_worker_answer`.
    """
    at, job = unit.paths, plan_worker_job(unit)
    if isinstance(job.plan, Refusal):
        return make_worker_answer("refused", no=job.plan)
    if control() in ENDING_CONTROLS:
        return make_worker_answer("waiting")
    begun = CrashCounter(at.crash_counter, unit.session)
    shares = CheckpointStore(at.checkpoint, resume=True).results_folder.glob(
        f"{SHARD_COUNTER_PREFIX}*"
    )
    try:
        deaths = [begun.count(), *(CrashCounter(share, unit.session).count() for share in shares)]
        if max(deaths) >= MAX_WORKER_DEATHS:
            name = make_printable(job.source.name)
            no = refusal("cluster-killed", name=name, count=MAX_WORKER_DEATHS)
            outcome = record_failure(job, job.plan, {}, "failed", no)
        else:
            begun.add()
            # what a worker had done before it was lost is never done again
            steps = restore_file(job, job.plan, resume=True, control=control)
            outcome = drain_generator(steps, see)
    except Failed as error:  # the folder takes nothing
        outcome = FileOutcome(source=job.source, state="failed", refusal=error.refusal)
    begun.remove()
    return make_worker_answer(outcome.state, no=outcome.refusal, receipt=outcome.record)


def make_failure_answer(no: Refusal) -> dict[str, Any]:
    """Give the answer of a worker that cannot begin."""
    return make_worker_answer("failed", no=no)


def parse_worker_answer(job: Job, answer: Mapping[str, Any], *, resume: bool) -> FileOutcome:
    """Make an outcome of what a worker answered.

    Parameters
    ----------
    job : Job
    answer : mapping
        From `restore_file_on_worker`.
    resume : bool
        Whether there was an earlier call; if not, what a worker found done is of this one.
    """
    state = answer["state"]
    if state == "kept" and not resume:
        state = "restored"
    done = state in ("restored", "kept")
    no = None if answer["refusal"] is None else read_refusal(answer["refusal"])
    result, picture = (job.paths.result, job.paths.picture) if done else (None, None)
    return FileOutcome(
        source=job.source,
        state=state,
        result=result,
        picture=picture,
        refusal=no,
        record=answer["receipt"],
    )


def serialise_event(event: Event) -> dict[str, Any]:
    """Put an event in plain types, without its picture."""
    return {name: _make_portable_number(getattr(event, name)) for name in _EVENT_FIELDS}


def parse_event(text: Mapping[str, Any]) -> Event:
    """Undo `serialise_event`."""
    return Event(**text)


def get_versions() -> tuple[str, ...]:
    """Name what pixels depend on, beside the recipe and the machine: napari-dip and torch."""
    from napari_dip.version import __version__

    return __version__, get_torch_version()


def plan_worker_job(unit: WorkerTask) -> Job:
    """Read headers and plan, as the one who sent this has done."""
    root = Path(unit.root)
    source = root / unit.source
    recipe = recipe_from_json(unit.recipe)
    try:
        named = {name: root / path for name, path in unit.extra_inputs.items()}
        network = (
            read_network(named.pop(SHARED_NETWORK_INPUT)) if SHARED_NETWORK_INPUT in named else None
        )
        others = {name: read_spec(path) for name, path in named.items()}
        plan = plan_file(recipe, source, unit.axes, others, unit.machine, network)
    except Refused as no:
        plan = no.refusal
    if isinstance(plan, Refusal) and plan.code == "file-missing":
        wanted = (source, *(root / path for path in unit.extra_inputs.values()))
        gone = next((path for path in wanted if not path.exists()), source)
        plan = refusal("cluster-unseen", path=make_printable(str(gone)))
    return Job(source=source, plan=plan, paths=unit.paths)


def make_worker_answer(
    state: str, *, no: Refusal | None = None, receipt: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Put what became of a unit in plain types."""
    raw = None if no is None else no.to_dict()
    return {"state": state, "refusal": raw, "receipt": dict(receipt or {})}


def _make_portable_number(value: Any) -> Any:
    """Numbers of numpy and torch do not travel everywhere."""
    return value if value is None or isinstance(value, str | int) else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMessage:
    """One word about a unit.

    Attributes
    ----------
    unit : str
        Its name.
    worker : str
        Who says so; "" where it is the scheduler.
    event : mapping or None
        How far the work is.
    answer : mapping or None
        The outcome, where it has come to its end.
    is_given_up : bool
        Whether the scheduler gave it up, for deaths of the workers that it lay with.
    traceback_text : str
        What went wrong that nobody foresaw.
    """

    unit: str
    worker: str = ""
    event: Mapping[str, Any] | None = None
    answer: Mapping[str, Any] | None = None
    is_given_up: bool = False
    traceback_text: str = ""


class WorkerPool(Protocol):
    """Workers that units can be handed to."""

    @property
    def count(self) -> int:
        """How many workers there are now."""
        ...

    @property
    def max_queued(self) -> int:
        """How many units may wait with the scheduler beside those that are worked on."""
        ...

    @property
    def root(self) -> str:
        """Folder that workers see relative paths from; "" for the one that they work in."""
        ...

    @property
    def connection_failure(self) -> Refusal | None:
        """Why nothing more will be heard, if so."""
        ...

    def send(self, unit: WorkerTask, memory: int, device: str) -> None:
        """Hand out one unit, with what it needs."""
        ...

    def withdraw(self, name: str) -> None:
        """Take back a unit that no worker is known to have begun."""
        ...

    def send_control(self, session: str, control: Control) -> None:
        """Tell all workers what the person wants."""
        ...

    def receive_messages(self, seconds: float) -> Iterable[WorkerMessage]:
        """Give what has come in since, waiting at most so long for the first word."""
        ...
