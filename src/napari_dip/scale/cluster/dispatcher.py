"""Restore the files of a batch in parallel, on workers in other processes.

With fewer files than workers, a file is split into shards. For a tiled image, one worker restores
the first tile and what all tiles depend on, and several restore the other tiles. Otherwise workers
fit the networks that planes or frames share, and then run the independent fits: channels, restarts,
planes, segments of a movie. In the end one worker merges the shards from the folder next to the
checkpoint. It restores missing shards itself, so that the result is always the same.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Fault, Refusal
from napari_dip.io.paths import make_result_name
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.pipeline.plan.units import (
    Shard,
    compute_max_shards,
    count_joint_training_shards,
    estimate_serial_fraction,
)
from napari_dip.pipeline.progress import Event, ProgressTracker
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, BatchEvent, FileOutcome
from napari_dip.scale.batch.restore_file import make_refused_outcome, record_failure
from napari_dip.scale.cluster.worker import WorkerJob, get_versions, parse_event

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import PausableClock, WorkStep
    from napari_dip.scale.batch.jobs import BatchPlan, Job
    from napari_dip.scale.cluster.pool import DaskWorkerPool
    from napari_dip.scale.cluster.worker import ShardState, WorkerMessage

#: Maximum number of sends of a job that the scheduler gave up before any worker started it.
MAX_JOB_RETRIES = 5
#: Maximum number of messages per second that the scheduler relays from all workers together.
MAX_MESSAGES_PER_SECOND = 50
#: Seconds between two polls of the user's control.
CONTROL_POLL_SECONDS = 0.1
#: Seconds between two broadcasts of the user's control: workers may have joined since.
CONTROL_REPEAT_SECONDS = 1.0
#: Seconds without a message after which an event reports that no worker is available.
MAX_SILENCE_SECONDS = 20.0


class _Stage(IntEnum):
    """Stage of a file that is restored in shards; each begins when the one before is done."""

    FIRST = 0  # the first tile, or the joint networks
    SHARDS = 1  # all other shards
    RESULT = 2  # merging the shards, and missing ones


@dataclass(slots=True)
class _ShardedFile:
    """Progress of a file that is restored in shards, in up to three stages.

    Attributes
    ----------
    stage : _Stage
    has_failed : bool
        Whether a shard failed.
    steps : dict of str to WorkStep
        Steps of the current stage, by the name of the job.
    tracker : ProgressTracker
    """

    stage: _Stage = _Stage.FIRST
    has_failed: bool = False
    steps: dict[str, WorkStep] = field(default_factory=dict)
    tracker: ProgressTracker = field(default_factory=ProgressTracker)

    def plan_stages(self, plan: Plan, worker_count: int) -> None:
        """Plan the stages."""
        serial_fraction, costs = estimate_serial_fraction(plan), plan.costs
        seconds = costs.fit_seconds - START_SECONDS + costs.usual_inference_seconds
        seconds += costs.postprocessing_seconds
        first_count = 1 if plan.tiles else count_joint_training_shards(plan)
        for stage, fraction, max_count in (
            (_Stage.FIRST, serial_fraction, first_count),
            (_Stage.SHARDS, 1 - serial_fraction, compute_max_shards(plan)),
        ):
            count = min(worker_count, max_count)
            for _ in range(count):
                planned = START_SECONDS + fraction * seconds / count
                self.tracker.add_step(f"stage {stage}", planned, stage=stage)
        merging_seconds = START_SECONDS + costs.assessment_seconds
        self.tracker.add_step("merging", merging_seconds, stage=_Stage.RESULT)
        self.tracker.worker_count = worker_count

    def start_stage(self, names: Iterable[str], stage: _Stage) -> None:
        """Start a stage with these jobs."""
        steps = self.tracker.steps
        template = next(step for step in steps if step.stage == stage)
        self.tracker.steps = [
            step
            for step in steps
            if step.stage > stage or (step.is_finished and step.stage < stage)
        ]
        self.stage = stage
        self.steps = {
            name: self.tracker.add_step(template.kind, template.planned, stage=stage)
            for name in names
        }


class BatchDispatcher:
    """Track and dispatch the jobs of a batch.

    Parameters
    ----------
    plan : BatchPlan
    pool : DaskWorkerPool
    clock : PausableClock

    Attributes
    ----------
    session : str
        Identifier of this call.
    remaining : deque of WorkerJob
        Jobs to be sent.
    running : dict of str to WorkerJob
        Jobs that were sent, by name.
    outcomes : dict of int to FileOutcome
        Outcomes by the number of the file.
    """

    def __init__(self, plan: BatchPlan, pool: DaskWorkerPool, clock: PausableClock) -> None:
        self._clock = clock
        self.session: str = secrets.token_hex(8)
        self.remaining: deque[WorkerJob] = deque()
        self.running: dict[str, WorkerJob] = {}
        self.outcomes: dict[int, FileOutcome] = {}
        self._plan = plan
        self._pool = pool
        self._send_counts: Counter[str] = Counter()
        self._started_jobs: set[str] = set()
        self._sharded_files: dict[int, _ShardedFile] = {}
        self._control = Control.GO
        self._last_broadcast = float("-inf")

    def queue_files(self) -> Iterator[BatchEvent]:
        """Queue the files that can be restored; yield an event for each of the others."""
        for number, job in enumerate(self._plan.jobs, 1):
            if isinstance(job.plan, Refusal):
                outcome = make_refused_outcome(job, job.plan, self._plan.recipe.task)
                yield self.record_outcome(number, outcome)
            else:
                self.remaining.append(self._make_worker_job(number))

    def broadcast_control(self) -> Control:
        """Poll the user's control, send it to the workers if it is due, and return it."""
        earlier = self._control
        if earlier not in ENDING_CONTROLS:
            self._control = self._clock.poll_control()
        elapsed = time.monotonic() - self._last_broadcast
        is_due = self._control is not Control.GO and elapsed >= CONTROL_REPEAT_SECONDS
        if self._control is not earlier or is_due:
            self._pool.send_control(self.session, self._control)
            self._last_broadcast = time.monotonic()
        return self._control

    def send_jobs(self) -> None:
        """Send jobs while workers are free, in the order of the files."""
        count = self._pool.worker_count
        while self.remaining and len(self.running) < count + self._pool.max_queued:
            worker_job = self.remaining.popleft()
            if self._needs_sharding(worker_job, count):
                self._queue_first_shards(worker_job.number)
            else:
                self._send_job(worker_job, count)

    def cancel_waiting_jobs(self) -> None:
        """Clear the queue and cancel the jobs that no worker has started."""
        self.remaining.clear()
        for name in self.running.keys() - self._started_jobs:
            self._pool.cancel(name)
            del self.running[name]

    def process_message(self, message: WorkerMessage) -> BatchEvent | None:
        """Process a message; return an event if it reports progress or finishes a file."""
        worker_job = self.running.get(message.job_name)
        if worker_job is None:  # already finished
            return None
        outcome = self._process_answer(worker_job, message)
        event = None if message.event is None else self._make_event(worker_job, message.event)
        if outcome is None and event is None:
            return None
        return self.make_batch_event(
            worker_job.number, event=event, outcome=outcome, worker=message.worker
        )

    def make_batch_event(self, number: int, **fields: Any) -> BatchEvent:
        """Make an event of a file."""
        source, count = self._get_job(number).source, len(self._plan.jobs)
        return BatchEvent(number=number, count=count, source=source, **fields)

    def record_outcome(self, number: int, outcome: FileOutcome) -> BatchEvent:
        """Store the outcome of a file, forget its jobs and return an event about it."""
        self.running = {name: job for name, job in self.running.items() if job.number != number}
        self.outcomes[number] = outcome
        return self.make_batch_event(number, outcome=outcome)

    def _process_answer(self, worker_job: WorkerJob, message: WorkerMessage) -> FileOutcome | None:
        """Process an answer; return the outcome if it finishes a file."""
        if message.event is not None:
            self._started_jobs.add(message.job_name)
        if message.is_abandoned and self._send_counts[message.job_name] < MAX_JOB_RETRIES:
            self._started_jobs.discard(message.job_name)
            self._send_job(worker_job, self._pool.worker_count)
            return None
        if message.answer is None and not message.is_abandoned and not message.traceback_text:
            return None
        if worker_job.shard is not None:
            state = "unavailable" if message.answer is None else message.answer
            assert isinstance(state, str)  # the answer of a shard
            self._finish_shard(worker_job, state)
            return None
        outcome = self._make_outcome(self._get_job(worker_job.number), message)
        self.record_outcome(worker_job.number, outcome)
        return outcome

    def _make_outcome(self, job: Job, message: WorkerMessage) -> FileOutcome:
        """Return the outcome of a file on a worker, with the paths of this process."""
        outcome = message.answer
        if not isinstance(outcome, FileOutcome):
            return _record_worker_failure(job, message)
        if outcome.state == "already-done" and not self._plan.resume:  # by another job of this call
            outcome = replace(outcome, state="restored")
        if outcome.result is not None:
            outcome = replace(outcome, result=job.paths.result, overview=job.paths.overview)
        return replace(outcome, source=job.source)

    def _make_event(self, worker_job: WorkerJob, fields: Mapping[str, object]) -> Event:
        """Convert the progress of a job to the progress of its file."""
        event, sharded_file = parse_event(fields), self._sharded_files.get(worker_job.number)
        if sharded_file is None:
            return event
        now, message = self._clock.seconds, event.message
        if worker_job.shard is not None:
            message += f", {worker_job.shard.label}"
        sharded_file.steps[worker_job.name].report_progress(now, event.progress)
        return replace(event, message=message, progress=sharded_file.tracker.compute_progress(now))

    def _needs_sharding(self, worker_job: WorkerJob, workers: int) -> bool:
        """Return whether to split a file into shards, because workers would otherwise be idle."""
        if worker_job.shard is not None or worker_job.number in self._sharded_files:
            return False
        return (
            len(self.remaining) + len(self.running) + 1 < workers
            and compute_max_shards(self._get_plan(worker_job.number)) > 1
        )

    def _queue_first_shards(self, number: int) -> None:
        """Queue the first step of a file, or its shards if it needs no first step."""
        plan = self._get_plan(number)
        self._sharded_files[number] = sharded_file = _ShardedFile()
        sharded_file.plan_stages(plan, self._pool.worker_count)
        if plan.tiles:
            self._queue_shards(number, [Shard()], stage=_Stage.FIRST)
        elif joint_count := min(self._pool.worker_count, count_joint_training_shards(plan)):
            shards = [
                Shard(index=index + 1, count=joint_count, is_joint_training=True)
                for index in range(joint_count)
            ]
            self._queue_shards(number, shards, stage=_Stage.FIRST)
        else:
            self._queue_remaining_shards(number)

    def _queue_remaining_shards(self, number: int) -> None:
        """Queue the shards of a file, at most one per worker."""
        count = max(1, min(self._pool.worker_count, compute_max_shards(self._get_plan(number))))
        shards = [Shard(index=index + 1, count=count) for index in range(count)]
        self._queue_shards(number, shards, stage=_Stage.SHARDS)

    def _queue_shards(self, number: int, shards: Sequence[Shard | None], *, stage: _Stage) -> None:
        worker_jobs = [self._make_worker_job(number, shard) for shard in shards]
        names = [worker_job.name for worker_job in worker_jobs]
        self._sharded_files[number].start_stage(names, stage)
        self.remaining.extendleft(reversed(worker_jobs))

    def _finish_shard(self, worker_job: WorkerJob, state: ShardState) -> None:
        """Queue the next step once all shards of a step are finished."""
        del self.running[worker_job.name]
        if state == "waiting":  # the batch was ended
            return
        sharded_file = self._sharded_files[worker_job.number]
        sharded_file.steps[worker_job.name].finish(self._clock.seconds)
        sharded_file.has_failed |= state != "shard-done"
        if not all(step.is_finished for step in sharded_file.steps.values()):
            return
        if sharded_file.stage is _Stage.FIRST and not sharded_file.has_failed:
            self._queue_remaining_shards(worker_job.number)
        else:
            self._queue_shards(worker_job.number, [None], stage=_Stage.RESULT)

    def _get_job(self, number: int) -> Job:
        return self._plan.jobs[number - 1]

    def _get_plan(self, number: int) -> Plan:
        plan = self._get_job(number).plan
        assert not isinstance(plan, Refusal)
        return plan

    def _make_worker_job(self, number: int, shard: Shard | None = None) -> WorkerJob:
        return make_worker_job(self._plan, number, self.session, self._pool.root, shard=shard)

    def _send_job(self, worker_job: WorkerJob, workers: int) -> None:
        plan = self._get_plan(worker_job.number)
        self._send_counts[worker_job.name] += 1
        self.running[worker_job.name] = worker_job
        interval = max(1.0, workers / MAX_MESSAGES_PER_SECOND)
        sent_job = replace(worker_job, report_interval=interval)
        self._pool.send(sent_job, plan.peak_bytes, plan.device)


def make_worker_job(
    plan: BatchPlan, number: int, session: str, root: str, shard: Shard | None = None
) -> WorkerJob:
    """Return the job of a file for a worker.

    Parameters
    ----------
    plan : BatchPlan
    number : int
        1-based number of the file.
    session, root : str
        As in `WorkerJob`.
    shard : Shard, optional
        Shard of the file.
    """
    job = plan.jobs[number - 1]
    extra_paths = {name: os.fspath(path) for name, path in job.inputs.items() if name != "image"}
    return WorkerJob(
        number=number,
        session=session,
        root=root,
        source=str(job.source),
        results_folder=str(plan.folder),
        result_name=make_result_name(job.source),
        recipe_json=plan.recipe.to_json(),
        axes=plan.axes,
        machine=plan.machine,
        extra_paths=extra_paths,
        versions=get_versions(),
        shard=shard,
    )


def _record_worker_failure(job: Job, message: WorkerMessage) -> FileOutcome:
    """Write the record of a file that a worker could not finish."""
    assert not isinstance(job.plan, Refusal)
    if message.is_abandoned:
        fault = Fault.make("cluster-killed", name=job.source.name, count=MAX_JOB_RETRIES)
    else:
        fault = Fault.make("unexpected", why=message.traceback_text.strip().splitlines()[-1])
    return record_failure(job, job.plan, {}, "failed", fault, message.traceback_text)


def restore_in_parallel(
    plan: BatchPlan, clock: PausableClock, pool: DaskWorkerPool
) -> Generator[BatchEvent, None, tuple[FileOutcome, ...]]:
    """Restore all files of a batch on workers.

    Parameters
    ----------
    plan : BatchPlan
    clock : PausableClock
        Its control is polled ten times a second and sent to the workers. Once it is keep or
        discard, no further file starts, and those in progress leave checkpoints.
    pool : DaskWorkerPool

    Yields
    ------
    BatchEvent
        In the order of arrival.

    Returns
    -------
    tuple of FileOutcome
        In the order of the inputs. Files without an outcome are "waiting".
    """
    dispatcher = BatchDispatcher(plan, pool, clock)
    yield from dispatcher.queue_files()
    last_message_time = time.monotonic()
    while dispatcher.remaining or dispatcher.running:
        current = dispatcher.broadcast_control()
        if current in ENDING_CONTROLS:
            dispatcher.cancel_waiting_jobs()
        elif current is Control.GO:
            dispatcher.send_jobs()
        for message in pool.receive_messages(CONTROL_POLL_SECONDS):
            last_message_time = time.monotonic()
            if batch_event := dispatcher.process_message(message):
                yield batch_event
        if pool.connection_failure is not None:
            break
        is_silent = time.monotonic() - last_message_time > MAX_SILENCE_SECONDS
        if is_silent and dispatcher.running and not pool.worker_count:
            last_message_time = time.monotonic()
            number = min(worker_job.number for worker_job in dispatcher.running.values())
            event = Event(message="Waiting for a worker to come")
            yield dispatcher.make_batch_event(number, event=event)
    for number, job in enumerate(plan.jobs, 1):
        if number not in dispatcher.outcomes:
            outcome = FileOutcome(source=job.source, state="waiting")
            yield dispatcher.record_outcome(number, outcome)
    return tuple(dispatcher.outcomes[number] for number in range(1, len(plan.jobs) + 1))
