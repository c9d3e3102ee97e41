"""A batch whose files are restored side by side, each by a worker in another process."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, refusal
from napari_dip.io.paths import printable
from napari_dip.run.batch_file import ENDS, FileOutcome, without_result
from napari_dip.run.cluster_unit import Unit, event_from, outcome_from, versions
from napari_dip.run.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from napari_dip.run.batch import BatchEvent
    from napari_dip.run.batch_plan import BatchPlan, Job

#: Seconds between two looks at what the person wants, and between two times that workers are told
#: so: some of them may have come since.
LOOK, AGAIN = 0.1, 1.0
#: Times that a file is handed out again where the scheduler gave it up before a worker began it.
MOST_TRIES = 5
#: Words from all workers together that the scheduler passes on in a second, at most.
WORDS_PER_SECOND = 50
#: Seconds without a word from anyone after which it is said that there is no worker.
SILENCE = 20.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One word about a unit.

    Attributes
    ----------
    number : int
    worker : str
        Who says so; "" where it is the scheduler.
    event : mapping or None
        How far the work is.
    answer : mapping or None
        The outcome, where it has come to its end.
    given_up : bool
        Whether the scheduler gave it up, for deaths of the workers that it lay with.
    broke : str
        What went wrong that nobody foresaw.
    """

    number: int
    worker: str = ""
    event: Mapping[str, Any] | None = None
    answer: Mapping[str, Any] | None = None
    given_up: bool = False
    broke: str = ""


class Crew(Protocol):
    """Workers that units can be handed to."""

    @property
    def count(self) -> int:
        """How many workers there are now."""
        ...

    @property
    def ahead(self) -> int:
        """How many units may wait with the scheduler beside those that are worked on."""
        ...

    @property
    def root(self) -> str:
        """Folder that workers see relative paths from; "" for the one that they work in."""
        ...

    @property
    def lost(self) -> Refusal | None:
        """Why nothing more will be heard, if so."""
        ...

    def send(self, unit: Unit, memory: int, device: str) -> None:
        """Hand out one unit, with what it needs."""
        ...

    def withdraw(self, number: int) -> None:
        """Take back a unit that no worker is known to have begun."""
        ...

    def wish(self, session: str, control: Control) -> None:
        """Tell all workers what the person wants."""
        ...

    def heard(self, seconds: float) -> Iterable[Heard]:
        """Give what has come in since, waiting at most so long for the first word."""
        ...


@dataclass(slots=True)
class _Course:
    """How far a batch is.

    Attributes
    ----------
    left : deque of int
        Numbers of the files that are not handed out.
    out : dict of int to int
        Those that are, and how often.
    begun : set of int
        Those of them that a worker has spoken of.
    outcomes : dict of int to FileOutcome
    """

    plan: BatchPlan
    crew: Crew
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    left: deque[int] = field(default_factory=deque)
    out: dict[int, int] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)
    outcomes: dict[int, FileOutcome] = field(default_factory=dict)

    def job(self, number: int) -> Job:
        return self.plan.jobs[number - 1]

    def hand_out(self) -> None:
        """Keep all workers busy, in the order of the files."""
        count = self.crew.count
        while self.left and len(self.out) < count + self.crew.ahead:
            self.send(self.left.popleft(), count)

    def send(self, number: int, count: int) -> None:
        plan = self.job(number).plan
        assert not isinstance(plan, Refusal)
        self.out[number] = self.out.get(number, 0) + 1
        unit = unit_of(self.plan, number, self.session, self.crew.root, count)
        self.crew.send(unit, plan.peak_bytes, plan.device)

    def withdraw(self) -> None:
        """Begin with nothing more: hand out no file, and take back those that nobody began."""
        self.left.clear()
        for number in self.out.keys() - self.begun:
            self.crew.withdraw(number)
            del self.out[number]

    def take(self, one: Heard) -> FileOutcome | None:
        """Take in a word; the outcome, if the file has come to its end."""
        job = self.job(one.number)
        if one.event is not None:
            self.begun.add(one.number)
        if one.answer is not None:
            return self.end(one.number, outcome_from(job, one.answer, resume=self.plan.resume))
        if one.given_up and self.out[one.number] < MOST_TRIES:
            self.begun.discard(one.number)
            self.send(one.number, self.crew.count)
            return None
        if one.given_up or one.broke:
            return self.end(one.number, _broken(job, one))
        return None

    def end(self, number: int, outcome: FileOutcome) -> FileOutcome:
        self.out.pop(number, None)
        self.outcomes[number] = outcome
        return outcome


def side_by_side(
    plan: BatchPlan, control: Callable[[], Control], crew: Crew
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
    from napari_dip.run.batch import BatchEvent

    count = len(plan.jobs)
    course = _Course(plan, crew)
    for number, job in enumerate(plan.jobs, 1):
        if isinstance(job.plan, Refusal):
            no = course.end(number, FileOutcome(job.source, "refused", refusal=job.plan))
            yield BatchEvent(number, count, job.source, outcome=no)
        else:
            course.left.append(number)
    wishes = _Wishes(crew, course.session, control)
    last = time.monotonic()
    while course.left or course.out:
        if wishes.pass_on() in ENDS:
            course.withdraw()
        elif wishes.now is Control.GO:
            course.hand_out()
        for one in crew.heard(LOOK):
            last = time.monotonic()
            if one.number not in course.out:  # ended before; this came late
                continue
            source, outcome = course.job(one.number).source, course.take(one)
            event = None if one.event is None else event_from(one.event)
            if outcome is not None or event is not None:
                yield BatchEvent(one.number, count, source, event, outcome, one.worker)
        if crew.lost is not None:
            break
        if time.monotonic() - last > SILENCE and course.out and not crew.count:
            last = time.monotonic()
            number = min(course.out)
            source = course.job(number).source
            yield BatchEvent(number, count, source, event=Event("Waiting for a worker to come"))
    for number in sorted(set(range(1, count + 1)) - course.outcomes.keys()):
        source = course.job(number).source
        left = course.end(number, FileOutcome(source, "waiting"))
        yield BatchEvent(number, count, source, outcome=left)
    return tuple(course.outcomes[number] for number in range(1, count + 1))


def unit_of(plan: BatchPlan, number: int, session: str, root: str, workers: int) -> Unit:
    """Say of one file what a worker needs to know.

    Parameters
    ----------
    plan : BatchPlan
    number : int
        1-based.
    session, root : str
        As in `Unit`.
    workers : int
        That speak at once.
    """
    job = plan.jobs[number - 1]
    others = {name: os.fspath(path) for name, path in job.inputs.items() if name != "image"}
    return Unit(
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
        beat=max(1.0, workers / WORDS_PER_SECOND),
        versions=versions(),
    )


def _broken(job: Job, one: Heard) -> FileOutcome:
    """Write down that nothing came of a file, since the worker could not."""
    assert not isinstance(job.plan, Refusal)
    if one.given_up:
        name = printable(job.source.name)
        no = refusal("cluster-killed", name=name, count=MOST_TRIES)
    else:
        no = refusal("unexpected", why=one.broke.strip().splitlines()[-1])
    return without_result(job, job.plan, {}, "failed", no, one.broke)


class _Wishes:
    """Passes on to workers what the person wants, when it changes and again and again."""

    def __init__(self, crew: Crew, session: str, control: Callable[[], Control]) -> None:
        self.now = Control.GO
        self._crew = crew
        self._session = session
        self._control = control
        self._told = float("-inf")

    def pass_on(self) -> Control:
        """Ask, and tell; what was wanted last."""
        if self.now in ENDS:
            wish = self.now
        else:
            wish = self._control()
        due = wish is not Control.GO and time.monotonic() - self._told >= AGAIN
        if wish is not self.now or due:
            self._crew.wish(self._session, wish)
            self._told = time.monotonic()
        self.now = wish
        return wish
