"""A batch whose files are restored side by side, each by a worker in another process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal
from napari_dip.run.batch_file import ENDS, FileOutcome
from napari_dip.run.cluster_course import Course
from napari_dip.run.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from napari_dip.run.batch import BatchEvent
    from napari_dip.run.batch_plan import BatchPlan
    from napari_dip.run.cluster_protocol import Crew

#: Seconds between two looks at what the person wants, and between two times that workers are told
#: so: some of them may have come since.
LOOK, AGAIN = 0.1, 1.0
#: Seconds without a word from anyone after which it is said that there is no worker.
SILENCE = 20.0


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
    course = Course(plan, crew)
    yield from _admitted(plan, course)
    wishes = _Wishes(crew, course.session, control)
    last = time.monotonic()
    while course.left or course.out:
        if wishes.pass_on() in ENDS:
            course.withdraw()
        elif wishes.now is Control.GO:
            course.hand_out()
        for one in crew.heard(LOOK):
            last = time.monotonic()
            if (unit := course.out.get(one.unit)) is None:  # ended before; this came late
                continue
            source, outcome = course.job(unit.number).source, course.take(one)
            event = None if one.event is None else course.event(unit, one.event)
            if outcome is not None or event is not None:
                yield BatchEvent(unit.number, count, source, event, outcome, one.worker)
        if crew.lost is not None:
            break
        if time.monotonic() - last > SILENCE and course.out and not crew.count:
            last = time.monotonic()
            number = min(unit.number for unit in course.out.values())
            source = course.job(number).source
            yield BatchEvent(number, count, source, event=Event("Waiting for a worker to come"))
    for number in sorted(set(range(1, count + 1)) - course.outcomes.keys()):
        source = course.job(number).source
        left = course.end(number, FileOutcome(source, "waiting"))
        yield BatchEvent(number, count, source, outcome=left)
    return tuple(course.outcomes[number] for number in range(1, count + 1))


def _admitted(plan: BatchPlan, course: Course) -> Iterator[BatchEvent]:
    """Line up the files that can be restored; an event for each of the others."""
    from napari_dip.run.batch import BatchEvent

    for number, job in enumerate(plan.jobs, 1):
        if isinstance(job.plan, Refusal):
            no = course.end(number, FileOutcome(job.source, "refused", refusal=job.plan))
            yield BatchEvent(number, len(plan.jobs), job.source, outcome=no)
        else:
            course.await_file(number)


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
