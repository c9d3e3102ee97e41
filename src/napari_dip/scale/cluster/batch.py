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
from napari_dip.pipeline.execute.shares import Share, first_part, lesson_shares, most_shares
from napari_dip.scale.batch.file import record_failure
from napari_dip.scale.batch.types import ENDING_CONTROLS, FileOutcome
from napari_dip.scale.cluster.unit import WorkerTask, get_versions, parse_event, parse_worker_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.types import BatchEvent, BatchPlan, Job
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
    first : float
        Part of the file that its first step is: the first tile, or the networks.
    opening : bool
        Whether that step is not done.
    failed : bool
        Whether a share came to nothing.
    left : set of str
        Names of those shares of the step that are not done.
    done : dict of str to float
        How far each of them is.
    """

    first: float
    opening: bool = True
    failed: bool = False
    left: set[str] = field(default_factory=set)
    done: dict[str, float] = field(default_factory=dict)

    def begin(self, names: Iterable[str], *, opening: bool) -> None:
        """Go on to a step of these shares."""
        self.opening = opening
        self.left = set(names)
        self.done = dict.fromkeys(self.left, 0.0)

    @property
    def fraction(self) -> float:
        """Part of the file that is done."""
        here = sum(self.done.values()) / max(1, len(self.done))
        return self.first * here if self.opening else self.first + (1 - self.first) * here


class BatchDispatcher:
    """How far a batch is.

    Parameters
    ----------
    plan : BatchPlan
    crew : Crew

    Attributes
    ----------
    session : str
        Names this call.
    left : deque of Unit
        Those that are not handed out.
    out : dict of str to Unit
        Those that are, by name.
    outcomes : dict of int to FileOutcome
        By the number of the file.
    """

    def __init__(self, plan: BatchPlan, crew: WorkerPool) -> None:
        self.session = secrets.token_hex(8)
        self.left: deque[WorkerTask] = deque()
        self.out: dict[str, WorkerTask] = {}
        self.outcomes: dict[int, FileOutcome] = {}
        self._plan = plan
        self._crew = crew
        self._tries: Counter[str] = Counter()
        self._begun: set[str] = set()
        self._shared: dict[int, _ShardProgress] = {}

    def job(self, number: int) -> Job:
        """Give a file and its plan."""
        return self._plan.jobs[number - 1]

    def await_file(self, number: int) -> None:
        """Put a file in line."""
        self.left.append(self._unit(number))

    def hand_out(self) -> None:
        """Keep all workers busy, in the order of the files."""
        count = self._crew.count
        while self.left and len(self.out) < count + self._crew.ahead:
            unit = self.left.popleft()
            if self._is_shared(unit, count):
                self._share(unit.number)
            else:
                self._send(unit, count)

    def withdraw(self) -> None:
        """Begin with nothing more: hand out nothing, and take back what nobody began."""
        self.left.clear()
        for name in self.out.keys() - self._begun:
            self._crew.withdraw(name)
            del self.out[name]

    def take(self, one: WorkerMessage) -> FileOutcome | None:
        """Take in a word; the outcome, if a file has come to its end."""
        unit = self.out[one.unit]
        if one.event is not None:
            self._begun.add(one.unit)
        again = one.given_up and self._tries[one.unit] < MAX_TASK_RETRIES
        if again:
            self._begun.discard(one.unit)
            self._send(unit, self._crew.count)
        if again or (one.answer is None and not one.given_up and not one.broke):
            return None
        if unit.share is not None:
            self._end_share(unit, "passed" if one.answer is None else one.answer["state"])
            return None
        job = self.job(unit.number)
        if one.answer is not None:
            outcome = parse_worker_answer(job, one.answer, resume=self._plan.resume)
        else:
            outcome = _record_worker_failure(job, one)
        return self.end(unit.number, outcome)

    def event(self, unit: WorkerTask, words: Mapping[str, object]) -> Event:
        """Say how far the file is, of which a worker has said how far this unit is."""
        event, sharing = parse_event(words), self._shared.get(unit.number)
        if sharing is None:
            return event
        if unit.share is None:  # what is left to be done is little
            return replace(event, fraction=max(event.fraction, sharing.fraction))
        sharing.done[unit.name] = event.fraction
        which = unit.share.words
        return replace(event, words=f"{event.words}, {which}", fraction=sharing.fraction)

    def end(self, number: int, outcome: FileOutcome) -> FileOutcome:
        """Take note of what became of a file."""
        for name in [name for name, unit in self.out.items() if unit.number == number]:
            del self.out[name]
        self.outcomes[number] = outcome
        return outcome

    def _is_shared(self, unit: WorkerTask, workers: int) -> bool:
        """Whether a file is begun that is to be shared, since workers would be idle."""
        if unit.share is not None or unit.number in self._shared:
            return False
        return (
            len(self.left) + len(self.out) + 1 < workers
            and most_shares(self._sound(unit.number)) > 1
        )

    def _share(self, number: int) -> None:
        """Put in line what is to be there before the shares of a file, or these."""
        plan = self._sound(number)
        self._shared[number] = _ShardProgress(first_part(plan))
        if plan.tiles:
            self._begin(number, [Share()], opening=True)
        elif lessons := min(self._crew.count, lesson_shares(plan)):
            shares = [Share(place + 1, lessons, lesson=True) for place in range(lessons)]
            self._begin(number, shares, opening=True)
        else:
            self._share_rest(number)

    def _share_rest(self, number: int) -> None:
        """Put the shares of a file in line, one for each worker at most."""
        count = max(1, min(self._crew.count, most_shares(self._sound(number))))
        shares = [Share(place + 1, count) for place in range(count)]
        self._begin(number, shares, opening=False)

    def _begin(self, number: int, shares: list[Share], *, opening: bool) -> None:
        units = [self._unit(number, share) for share in shares]
        self._shared[number].begin((one.name for one in units), opening=opening)
        self.left.extendleft(reversed(units))

    def _end_share(self, unit: WorkerTask, state: str) -> None:
        """Hand out what comes after a step: the next one, or all that is left of the file."""
        del self.out[unit.name]
        if state == "waiting":  # the batch was ended
            return
        sharing = self._shared[unit.number]
        sharing.done[unit.name] = 1.0
        sharing.failed |= state != "shared"
        sharing.left.discard(unit.name)
        if sharing.left:
            return
        if sharing.opening and not sharing.failed:
            self._share_rest(unit.number)
        else:
            self.left.appendleft(self._unit(unit.number))

    def _sound(self, number: int) -> Plan:
        plan = self.job(number).plan
        assert not isinstance(plan, Refusal)
        return plan

    def _unit(self, number: int, share: Share | None = None) -> WorkerTask:
        return make_worker_task(self._plan, number, self.session, self._crew.root, share=share)

    def _send(self, unit: WorkerTask, workers: int) -> None:
        plan = self._sound(unit.number)
        self._tries[unit.name] += 1
        self.out[unit.name] = unit
        self._crew.send(
            replace(unit, beat=_compute_report_interval(workers)), plan.peak_bytes, plan.device
        )


def make_worker_task(
    plan: BatchPlan,
    number: int,
    session: str,
    root: str,
    workers: int = 1,
    share: Share | None = None,
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
    share : Share, optional
        Of its tiles.
    """
    job = plan.jobs[number - 1]
    others = {name: os.fspath(path) for name, path in job.inputs.items() if name != "image"}
    return WorkerTask(
        number,
        session,
        root,
        str(job.source),
        str(plan.folder),
        job.at.result.name,
        plan.recipe.to_json(),
        plan.axes,
        plan.machine,
        others,
        beat=_compute_report_interval(workers),
        versions=get_versions(),
        share=share,
    )


def _compute_report_interval(workers: int) -> float:
    return max(1.0, workers / MAX_MESSAGES_PER_SECOND)


def _record_worker_failure(job: Job, one: WorkerMessage) -> FileOutcome:
    """Write down that nothing came of a file, since the worker could not."""
    assert not isinstance(job.plan, Refusal)
    if one.given_up:
        name = make_printable(job.source.name)
        no = refusal("cluster-killed", name=name, count=MAX_TASK_RETRIES)
    else:
        no = refusal("unexpected", why=one.broke.strip().splitlines()[-1])
    return record_failure(job, job.plan, {}, "failed", no, one.broke)


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
    crew : Crew

    Yields
    ------
    BatchEvent
        In the order in which things happen.

    Returns
    -------
    tuple of FileOutcome
        In the order of the inputs. Files that nothing was heard of are "waiting".
    """
    from napari_dip.scale.batch.types import BatchEvent

    count = len(plan.jobs)
    course = BatchDispatcher(plan, crew)
    yield from _queue_files(plan, course)
    wishes = _ControlBroadcaster(crew, course.session, control)
    last = time.monotonic()
    while course.left or course.out:
        if wishes.pass_on() in ENDING_CONTROLS:
            course.withdraw()
        elif wishes.now is Control.GO:
            course.hand_out()
        for one in crew.heard(CONTROL_POLL_SECONDS):
            last = time.monotonic()
            if (unit := course.out.get(one.unit)) is None:  # ended before; this came late
                continue
            source, outcome = course.job(unit.number).source, course.take(one)
            event = None if one.event is None else course.event(unit, one.event)
            if outcome is not None or event is not None:
                yield BatchEvent(unit.number, count, source, event, outcome, one.worker)
        if crew.lost is not None:
            break
        if time.monotonic() - last > MAX_SILENCE_SECONDS and course.out and not crew.count:
            last = time.monotonic()
            number = min(unit.number for unit in course.out.values())
            source = course.job(number).source
            yield BatchEvent(number, count, source, event=Event("Waiting for a worker to come"))
    for number in sorted(set(range(1, count + 1)) - course.outcomes.keys()):
        source = course.job(number).source
        left = course.end(number, FileOutcome(source, "waiting"))
        yield BatchEvent(number, count, source, outcome=left)
    return tuple(course.outcomes[number] for number in range(1, count + 1))


def _queue_files(plan: BatchPlan, course: BatchDispatcher) -> Iterator[BatchEvent]:
    """Line up the files that can be restored; an event for each of the others."""
    from napari_dip.scale.batch.types import BatchEvent

    for number, job in enumerate(plan.jobs, 1):
        if isinstance(job.plan, Refusal):
            no = course.end(number, FileOutcome(job.source, "refused", refusal=job.plan))
            yield BatchEvent(number, len(plan.jobs), job.source, outcome=no)
        else:
            course.await_file(number)


class _ControlBroadcaster:
    """Passes on to workers what the person wants, when it changes and again and again."""

    def __init__(self, crew: WorkerPool, session: str, control: Callable[[], Control]) -> None:
        self.now = Control.GO
        self._crew = crew
        self._session = session
        self._control = control
        self._told = float("-inf")

    def pass_on(self) -> Control:
        """Ask, and tell; what was wanted last."""
        if self.now in ENDING_CONTROLS:
            wish = self.now
        else:
            wish = self._control()
        due = wish is not Control.GO and time.monotonic() - self._told >= CONTROL_REPEAT_SECONDS
        if wish is not self.now or due:
            self._crew.wish(self._session, wish)
            self._told = time.monotonic()
        self.now = wish
        return wish
