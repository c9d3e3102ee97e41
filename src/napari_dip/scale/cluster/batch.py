"""A batch whose files are restored side by side, each by a worker in another process.

What of a batch is handed out, to be handed out, and done: files, and shares of them.

Where there are fewer files than workers, a file is shared. Of one in tiles, one worker restores the
first tile and what all tiles are helped by, and several restore the others side by side; else they
fit the networks that its planes or frames share, and then do the fits that need nothing of each
other: channels, repeats, planes, segments of a movie. Then one puts all together,
as it does where it has done all by itself. It finds the rest on the shelf beside the checkpoint, so
that whatever becomes of a share, the file comes out the same.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.shards import (
    Shard,
    compute_max_shards,
    count_joint_training_shards,
    estimate_serial_share,
)
from napari_dip.scale.batch.file import record_failure
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, FileOutcome
from napari_dip.scale.cluster.unit import WorkerTask, get_versions, parse_event, parse_worker_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan, Job
    from napari_dip.scale.cluster.unit import WorkerMessage, WorkerPool

#: Times that a unit is handed out again where the scheduler gave it up before a worker began it.
MAX_TASK_RETRIES = 5
#: Words from all workers together that the scheduler passes on in a second, at most.
MAX_MESSAGES_PER_SECOND = 50


@dataclass(slots=True)
class _ShardProgress:
    """How far the shares of a file are.

    Attributes
    ----------
    first_step_share : float
        Part of the file that its first step is: the first tile, or the networks.
    is_first_step : bool
        Whether that step is not done.
    has_failed : bool
        Whether a share came to nothing.
    remaining : set of str
        Names of those shares of the step that are not done.
    fractions : dict of str to float
        How far each of them is.
    """

    first_step_share: float
    is_first_step: bool = True
    has_failed: bool = False
    remaining: set[str] = field(default_factory=set)
    fractions: dict[str, float] = field(default_factory=dict)

    def begin(self, names: Iterable[str], *, opening: bool) -> None:
        """Go on to a step of these shares."""
        self.is_first_step = opening
        self.remaining = set(names)
        self.fractions = dict.fromkeys(self.remaining, 0.0)

    @property
    def fraction(self) -> float:
        """Part of the file that is done."""
        here = sum(self.fractions.values()) / max(1, len(self.fractions))
        return (
            self.first_step_share * here
            if self.is_first_step
            else self.first_step_share + (1 - self.first_step_share) * here
        )


class BatchDispatcher:
    """How far a batch is.

    Parameters
    ----------
    plan : BatchPlan
    crew : WorkerPool

    Attributes
    ----------
    session : str
        Names this call.
    remaining : deque of WorkerTask
        Those that are not handed out.
    running : dict of str to WorkerTask
        Those that are, by name.
    outcomes : dict of int to FileOutcome
        By the number of the file.
    """

    def __init__(self, plan: BatchPlan, crew: WorkerPool) -> None:
        self.session = secrets.token_hex(8)
        self.remaining: deque[WorkerTask] = deque()
        self.running: dict[str, WorkerTask] = {}
        self.outcomes: dict[int, FileOutcome] = {}
        self._plan = plan
        self._pool = crew
        self._send_counts: Counter[str] = Counter()
        self._begun_tasks: set[str] = set()
        self._shard_progress: dict[int, _ShardProgress] = {}

    def get_job(self, number: int) -> Job:
        """Give a file and its plan."""
        return self._plan.jobs[number - 1]

    def queue_file(self, number: int) -> None:
        """Put a file in line."""
        self.remaining.append(self._make_task(number))

    def send_tasks(self) -> None:
        """Keep all workers busy, in the order of the files."""
        count = self._pool.count
        while self.remaining and len(self.running) < count + self._pool.max_queued:
            unit = self.remaining.popleft()
            if self._needs_sharding(unit, count):
                self._queue_first_shards(unit.number)
            else:
                self._send_task(unit, count)

    def withdraw(self) -> None:
        """Begin with nothing more: hand out nothing, and take back what nobody began."""
        self.remaining.clear()
        for name in self.running.keys() - self._begun_tasks:
            self._pool.withdraw(name)
            del self.running[name]

    def process_message(self, message: WorkerMessage) -> FileOutcome | None:
        """Take in a word; the outcome, if a file has come to its end."""
        unit = self.running[message.unit]
        if message.event is not None:
            self._begun_tasks.add(message.unit)
        again = message.is_given_up and self._send_counts[message.unit] < MAX_TASK_RETRIES
        if again:
            self._begun_tasks.discard(message.unit)
            self._send_task(unit, self._pool.count)
        if again or (
            message.answer is None and not message.is_given_up and not message.traceback_text
        ):
            return None
        if unit.shard is not None:
            self._finish_shard(
                unit, "passed" if message.answer is None else message.answer["state"]
            )
            return None
        job = self.get_job(unit.number)
        if message.answer is not None:
            outcome = parse_worker_answer(job, message.answer, resume=self._plan.resume)
        else:
            outcome = _record_worker_failure(job, message)
        return self.record_outcome(unit.number, outcome)

    def make_event(self, unit: WorkerTask, text: Mapping[str, object]) -> Event:
        """Say how far the file is, of which a worker has said how far this unit is."""
        event, sharing = parse_event(text), self._shard_progress.get(unit.number)
        if sharing is None:
            return event
        if unit.shard is None:  # what is left to be done is little
            return replace(event, fraction=max(event.fraction, sharing.fraction))
        sharing.fractions[unit.name] = event.fraction
        which = unit.shard.label
        return replace(event, message=f"{event.message}, {which}", fraction=sharing.fraction)

    def record_outcome(self, number: int, outcome: FileOutcome) -> FileOutcome:
        """Take note of what became of a file."""
        for name in [name for name, unit in self.running.items() if unit.number == number]:
            del self.running[name]
        self.outcomes[number] = outcome
        return outcome

    def _needs_sharding(self, unit: WorkerTask, workers: int) -> bool:
        """Whether a file is begun that is to be shared, since workers would be idle."""
        if unit.shard is not None or unit.number in self._shard_progress:
            return False
        return (
            len(self.remaining) + len(self.running) + 1 < workers
            and compute_max_shards(self._get_plan(unit.number)) > 1
        )

    def _queue_first_shards(self, number: int) -> None:
        """Put in line what is to be there before the shares of a file, or these."""
        plan = self._get_plan(number)
        self._shard_progress[number] = _ShardProgress(estimate_serial_share(plan))
        if plan.tiles:
            self._queue_shards(number, [Shard()], opening=True)
        elif lessons := min(self._pool.count, count_joint_training_shards(plan)):
            shares = [
                Shard(index=place + 1, count=lessons, is_joint_training=True)
                for place in range(lessons)
            ]
            self._queue_shards(number, shares, opening=True)
        else:
            self._queue_remaining_shards(number)

    def _queue_remaining_shards(self, number: int) -> None:
        """Put the shares of a file in line, one for each worker at most."""
        count = max(1, min(self._pool.count, compute_max_shards(self._get_plan(number))))
        shares = [Shard(index=place + 1, count=count) for place in range(count)]
        self._queue_shards(number, shares, opening=False)

    def _queue_shards(self, number: int, shares: list[Shard], *, opening: bool) -> None:
        units = [self._make_task(number, share) for share in shares]
        self._shard_progress[number].begin((unit.name for unit in units), opening=opening)
        self.remaining.extendleft(reversed(units))

    def _finish_shard(self, unit: WorkerTask, state: str) -> None:
        """Hand out what comes after a step: the next one, or all that is left of the file."""
        del self.running[unit.name]
        if state == "waiting":  # the batch was ended
            return
        sharing = self._shard_progress[unit.number]
        sharing.fractions[unit.name] = 1.0
        sharing.has_failed |= state != "shared"
        sharing.remaining.discard(unit.name)
        if sharing.remaining:
            return
        if sharing.is_first_step and not sharing.has_failed:
            self._queue_remaining_shards(unit.number)
        else:
            self.remaining.appendleft(self._make_task(unit.number))

    def _get_plan(self, number: int) -> Plan:
        plan = self.get_job(number).plan
        assert not isinstance(plan, Refusal)
        return plan

    def _make_task(self, number: int, share: Shard | None = None) -> WorkerTask:
        return make_worker_task(self._plan, number, self.session, self._pool.root, share=share)

    def _send_task(self, unit: WorkerTask, workers: int) -> None:
        plan = self._get_plan(unit.number)
        self._send_counts[unit.name] += 1
        self.running[unit.name] = unit
        self._pool.send(
            replace(unit, report_interval=_compute_report_interval(workers)),
            plan.peak_bytes,
            plan.device,
        )


def make_worker_task(
    plan: BatchPlan,
    number: int,
    session: str,
    root: str,
    workers: int = 1,
    share: Shard | None = None,
) -> WorkerTask:
    """Say of one file what a worker needs to know.

    Parameters
    ----------
    plan : BatchPlan
    number : int
        1-based.
    session, root : str
        As in `WorkerTask`.
    workers : int
        That speak at once.
    share : Shard, optional
        Of its tiles.
    """
    job = plan.jobs[number - 1]
    others = {name: os.fspath(path) for name, path in job.inputs.items() if name != "image"}
    return WorkerTask(
        number=number,
        session=session,
        root=root,
        source=str(job.source),
        folder=str(plan.folder),
        result=job.paths.result.name,
        recipe=plan.recipe.to_json(),
        axes=plan.axes,
        machine=plan.machine,
        extra_inputs=others,
        report_interval=_compute_report_interval(workers),
        versions=get_versions(),
        shard=share,
    )


def _compute_report_interval(workers: int) -> float:
    return max(1.0, workers / MAX_MESSAGES_PER_SECOND)


def _record_worker_failure(job: Job, message: WorkerMessage) -> FileOutcome:
    """Write down that nothing came of a file, since the worker could not."""
    assert not isinstance(job.plan, Refusal)
    if message.is_given_up:
        name = make_printable(job.source.name)
        no = refusal("cluster-killed", name=name, count=MAX_TASK_RETRIES)
    else:
        no = refusal("unexpected", why=message.traceback_text.strip().splitlines()[-1])
    return record_failure(job, job.plan, {}, "failed", no, message.traceback_text)


#: Seconds between two looks at what the person wants, and between two times that workers are told
#: so: some of them may have come since.
CONTROL_POLL_SECONDS, CONTROL_REPEAT_SECONDS = 0.1, 1.0
#: Seconds without a word from anyone after which it is said that there is no worker.
MAX_SILENCE_SECONDS = 20.0


def restore_in_parallel(
    plan: BatchPlan, control: Callable[[], Control], crew: WorkerPool
) -> Generator[BatchEvent, None, tuple[FileOutcome, ...]]:
    """Have all files restored by workers.

    Parameters
    ----------
    plan : BatchPlan
    control : callable
        Polled ten times a second and passed on to the workers. Once it says keep or discard,
        no file is begun, and those in progress leave checkpoints.
    crew : WorkerPool

    Yields
    ------
    BatchEvent
        In the order in which things happen.

    Returns
    -------
    tuple of FileOutcome
        In the order of the inputs. Files that nothing was heard of are "waiting".
    """
    from napari_dip.scale.batch.jobs import BatchEvent

    count = len(plan.jobs)
    course = BatchDispatcher(plan, crew)
    yield from _queue_files(plan, course)
    wishes = _ControlBroadcaster(crew, course.session, control)
    last = time.monotonic()
    while course.remaining or course.running:
        if wishes.broadcast() in ENDING_CONTROLS:
            course.withdraw()
        elif wishes.current is Control.GO:
            course.send_tasks()
        for message in crew.receive_messages(CONTROL_POLL_SECONDS):
            last = time.monotonic()
            if (unit := course.running.get(message.unit)) is None:  # ended before; this came late
                continue
            source, outcome = course.get_job(unit.number).source, course.process_message(message)
            event = None if message.event is None else course.make_event(unit, message.event)
            if outcome is not None or event is not None:
                yield BatchEvent(
                    number=unit.number,
                    count=count,
                    source=source,
                    event=event,
                    outcome=outcome,
                    worker=message.worker,
                )
        if crew.connection_failure is not None:
            break
        if time.monotonic() - last > MAX_SILENCE_SECONDS and course.running and not crew.count:
            last = time.monotonic()
            number = min(unit.number for unit in course.running.values())
            source = course.get_job(number).source
            yield BatchEvent(
                number=number,
                count=count,
                source=source,
                event=Event(message="Waiting for a worker to come"),
            )
    for number in sorted(set(range(1, count + 1)) - course.outcomes.keys()):
        source = course.get_job(number).source
        remaining = course.record_outcome(number, FileOutcome(source=source, state="waiting"))
        yield BatchEvent(number=number, count=count, source=source, outcome=remaining)
    return tuple(course.outcomes[number] for number in range(1, count + 1))


def _queue_files(plan: BatchPlan, course: BatchDispatcher) -> Iterator[BatchEvent]:
    """Line up the files that can be restored; an event for each of the others."""
    from napari_dip.scale.batch.jobs import BatchEvent

    for number, job in enumerate(plan.jobs, 1):
        if isinstance(job.plan, Refusal):
            no = course.record_outcome(
                number, FileOutcome(source=job.source, state="refused", refusal=job.plan)
            )
            yield BatchEvent(number=number, count=len(plan.jobs), source=job.source, outcome=no)
        else:
            course.queue_file(number)


class _ControlBroadcaster:
    """Passes on to workers what the person wants, when it changes and again and again."""

    def __init__(self, crew: WorkerPool, session: str, control: Callable[[], Control]) -> None:
        self.current = Control.GO
        self._pool = crew
        self._session = session
        self._control = control
        self._last_sent = float("-inf")

    def broadcast(self) -> Control:
        """Ask, and tell; what was wanted last."""
        if self.current in ENDING_CONTROLS:
            current = self.current
        else:
            current = self._control()
        due = (
            current is not Control.GO
            and time.monotonic() - self._last_sent >= CONTROL_REPEAT_SECONDS
        )
        if current is not self.current or due:
            self._pool.send_control(self._session, current)
            self._last_sent = time.monotonic()
        self.current = current
        return current
