"""The shield around a running restoration: a thread of its own, and no way to fall silent.

superqt's generator worker swallows every `RuntimeError`, torch's out-of-memory among them, and
never closes its generator. So everything is caught inside the generator here and comes back as
a value, and the run is closed in the thread that it ran in.

Holds what a worker reports until the GUI thread takes it, however busy that is.

One call in a thread of its own, whatever it computes, and errors as sentences.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakSet

from qtpy.QtCore import QObject, QThreadPool, Signal
from superqt.utils import FunctionWorker, GeneratorWorker, create_worker

from napari_dip.errors import DipError, Refusal, refusal
from napari_dip.pipeline.events import Control, Event, Restoration
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.pipeline.machine import is_memory_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

#: A dock is brought up to date at most this often, and at least: in seconds.
MIN_UPDATE_SECONDS, MAX_UPDATE_SECONDS = 0.2, 4.0
#: Share of a core that showing it takes at most between these two. Drawn by software, a window
#: of 1280 x 720 costs 50 ms each time, and it is the fit that should have them.
MAX_DRAWING_SHARE = 0.01
ReportT = TypeVar("ReportT")
ProgressT = TypeVar("ProgressT")


class ProgressQueue(ABC, Generic[ReportT, ProgressT]):
    """Takes reports in from one thread and is emptied by another, at a pace that a window bears.

    Subclasses say how reports are put together: `_put` and `_emptied`, both under the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._called = False
        self._last = -float("inf")
        self._wait = MIN_UPDATE_SECONDS
        self._spent = 0.0  # seconds of the processor, by the thread that takes
        self._costs = (0.0, 0.0)  # of what was shown last

    def post(self, report: ReportT) -> bool:
        """Put a report in; True if the GUI thread should now be called to take it."""
        with self._lock:
            self._put(report)
            if self._called or time.monotonic() - self._last < self._wait:
                return False
            self._called = True
            return True

    def take(self) -> ProgressT | None:
        """Empty it; None if nothing is in it."""
        with self._lock:
            facts = self._emptied()
            self._called = False
            self._last = time.monotonic()
            self._wait = self._paced()
        return facts

    def _paced(self) -> float:
        """Seconds to the next news: the dearer they are to show, the longer.

        One that was dear alone does not count, as the first, which makes a layer.
        """
        before, self._spent = self._spent, time.thread_time()
        if before:
            self._costs = (self._costs[1], self._spent - before)
        return min(
            MAX_UPDATE_SECONDS, max(MIN_UPDATE_SECONDS, min(self._costs) / MAX_DRAWING_SHARE)
        )

    @abstractmethod
    def _put(self, report: ReportT) -> None:
        """Take a report in."""

    @abstractmethod
    def _emptied(self) -> ProgressT | None:
        """Give what is in it, and start anew."""


log = logging.getLogger(__name__)
#: How long the program waits at its end for the step that is being computed, or for torch to
#: load; Qt itself would wait for its threads as long as it takes.
_MAX_EXIT_SECONDS = 10
#: How a run ends: with a picture, with a sentence, or discarded.
RunOutcome = Restoration | Refusal | None


class Switch:
    """What the user wants of a run; written in the GUI thread, polled in the worker's."""

    live: ClassVar[WeakSet[Switch]] = WeakSet()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control = Control.GO
        self.live.add(self)

    def __call__(self) -> Control:
        """Say what is wanted now."""
        return self._control

    def set(self, control: Control) -> None:
        """Ask for something else; keeping and discarding are final, and discarding wins."""
        with self._lock:
            if self._control is Control.DISCARD:
                return
            if self._control is Control.KEEP and control is not Control.DISCARD:
                return
            self._control = control


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunProgress:
    """What happened since the dock last looked.

    Attributes
    ----------
    event : Event
        The latest report, with the latest preview.
    points : tuple of (unit, iteration, fitted loss, held-out loss)
        New points of the curve; NaN where not measured.
    """

    event: Event
    points: tuple[tuple[int, int, float, float], ...]


class RunProgressQueue(ProgressQueue[Event, RunProgress]):
    """Holds the reports of a run: one picture in flight, and all points of the curve."""

    def __init__(self) -> None:
        super().__init__()
        self._event: Event | None = None
        self._points: list[tuple[int, int, float, float]] = []
        self._judged: tuple[int, float | None, float | None] = (0, None, None)

    def _put(self, report: Event) -> None:
        event = report
        if event.preview is None and self._event is not None:
            event = replace(event, preview=self._event.preview)
        self._event = event
        judged = (event.unit, event.fitted_loss, event.held_out_loss)
        if judged != self._judged and judged[1:] != (None, None):  # reports repeat the last one
            self._judged = judged
            losses = (
                _replace_none_with_nan(event.fitted_loss),
                _replace_none_with_nan(event.held_out_loss),
            )
            self._points.append((event.unit, event.iteration, *losses))

    def _emptied(self) -> RunProgress | None:
        event, points = self._event, tuple(self._points)
        self._event, self._points = None, []
        return None if event is None else RunProgress(event=event, points=points)


def drain_run(
    plan: Any,
    pixels: Mapping[str, Any],
    switch: Switch,
    mailbox: RunProgressQueue,
    over: Callable[[], object] = lambda: None,
    begin: Callable[..., Any] | None = None,
    name: str = "",
) -> Generator[None, None, RunOutcome]:
    """Drain a run; yields when the mailbox should be emptied, returns how it ended.

    Parameters
    ----------
    plan : Plan, or what `begin` takes for one
    pixels : mapping of str to array
        The inputs by name, "image" in the order of `plan.source.axes`. A lazy array is computed
        here, in this thread.
    switch : Switch
    mailbox : RunProgressQueue
    over : callable
        Called when nothing is computed any more, in this thread.
    begin : callable, optional
        Begins another job than `run`, from the same arguments.
    name : str
        What is restored, where it is not what the plan is for.

    Returns
    -------
    Restoration, Refusal or None
        None if the user discarded the run. Nothing is ever raised.
    """
    job = None
    try:
        specs = {"image": getattr(plan, "source", None), **getattr(plan, "extra_inputs", {})}
        data = {
            key: load_array(getattr(specs.get(key), "name", key), array)
            for key, array in pixels.items()
        }
        if switch() is Control.DISCARD:
            return None
        job = (begin or run)(plan, data, control=switch, preview_seconds=MIN_UPDATE_SECONDS)
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
            if mailbox.post(event):
                yield
    except DipError as error:
        if error.refusal.code == "array-broken":  # somebody else's code, whose trace tells more
            log.error("The pixels could not be computed", exc_info=error)
        return error.refusal
    except Exception as error:
        return convert_to_refusal(error, "Restoring", name or plan.source.name)
    finally:
        if job is not None:
            job.close()
        over()


class BackgroundRun(QObject):
    """One run in a thread of its own; lives in the GUI thread and speaks through signals.

    Parameters
    ----------
    plan : Plan, or what `begin` takes for one
    pixels : mapping of str to array
        The inputs by name, "image" in the order of `plan.source.axes`.
    parent : QObject
        Whose end is the end of the run.
    over : callable
        Called once nothing is computed any more, from any thread, also if nobody listens then.
    begin : callable, optional
        As for `drain_run`.
    mailbox : RunProgressQueue, optional
        Holds what is reported, where that is no `Event`.
    name : str
        As for `drain_run`.
    """

    reported = Signal(object)  # News
    ended = Signal(object)  # Outcome, once

    def __init__(
        self,
        plan: Any,
        pixels: Mapping[str, Any],
        parent: QObject,
        over: Callable[[], object] = lambda: None,
        begin: Callable[..., Any] | None = None,
        mailbox: Any = None,
        name: str = "",
    ) -> None:
        super().__init__(parent)
        self._over = over
        self._started = False
        self._switch = Switch()
        self._mailbox = mailbox or RunProgressQueue()
        self._worker: GeneratorWorker[None, None, RunOutcome] | None = create_worker(
            drain_run,
            plan,
            pixels,
            self._switch,
            self._mailbox,
            over,
            begin,
            name,
            _start_thread=False,
            _connect={
                "yielded": self._take,
                "returned": self._end,
                "errored": self._fail,
                "warned": _log_warning,
            },
        )
        switch = self._switch  # outlives this object, as the worker holds it too
        self.destroyed.connect(lambda *_: switch.set(Control.DISCARD))

    def start(self) -> None:
        """Begin; the first news come from the event loop."""
        if self._worker is not None:
            self._started = True
            self._worker.start()

    def keep(self) -> None:
        """Stop and hand back the best picture so far."""
        self._switch.set(Control.KEEP)

    def discard(self) -> None:
        """Stop and hand back nothing."""
        self._switch.set(Control.DISCARD)
        if not self._started:
            self._over()

    def pause(self) -> None:
        """Hold without computing."""
        self._switch.set(Control.PAUSE)

    def resume(self) -> None:
        """Go on after a pause."""
        self._switch.set(Control.GO)

    def _take(self, _: object = None) -> None:
        news = self._mailbox.take()
        if news is not None:
            self.reported.emit(news)

    def _end(self, outcome: RunOutcome) -> None:
        self._worker = None
        self._take()
        self.ended.emit(outcome)
        self.deleteLater()

    def _fail(self, error: Exception) -> None:
        """Only a fault of the shield itself comes here; it must not fall silent either."""
        log.error("The worker failed.", exc_info=error)
        self._end(refusal("unexpected", why=describe_error(error)))


@atexit.register
def _end_all() -> None:
    """Let no worker speak to a Qt that is already gone: whatever still runs is discarded."""
    if Switch.live:
        for switch in list(Switch.live):
            switch.set(Control.DISCARD)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.waitForDone(_MAX_EXIT_SECONDS * 1000)


def convert_to_refusal(error: Exception, doing: str, name: str) -> Refusal:
    """Put an error that nobody foresaw into a sentence, and log what was being done to what."""
    log.error("%s '%s' failed.", doing, name, exc_info=error)
    if is_memory_error(error):
        return refusal("memory-out", name=name)
    return refusal("unexpected", why=describe_error(error))


def describe_error(error: Exception) -> str:
    """First line of an error, to be put into a sentence."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return (first.strip() or type(error).__name__).rstrip(".")


def _replace_none_with_nan(loss: float | None) -> float:
    return float("nan") if loss is None else loss


def _log_warning(warning: tuple[Any, ...]) -> None:
    log.warning("%s", warning[0])


ResultT = TypeVar("ResultT")


def catch_errors(work: Callable[[], ResultT], doing: str, name: str) -> ResultT | Refusal:
    """Work; whatever goes wrong comes back as a value.

    Parameters
    ----------
    work : callable
    doing, name : str
        What is done to what, for the log: "Saving", "cells".
    """
    try:
        return work()
    except DipError as error:
        return error.refusal
    except Exception as error:
        return convert_to_refusal(error, doing, name)


class BackgroundCall(QObject):
    """One call; lives in the GUI thread and speaks through a signal, once.

    Parameters
    ----------
    call : callable
        Takes the switch, which says when nobody waits any more, and raises nothing.
    parent : QObject
        Whose end is the end of it.
    """

    ended = Signal(object)  # what the call gave back

    def __init__(self, call: Callable[[Switch], object], parent: QObject) -> None:
        super().__init__(parent)
        self._switch = switch = Switch()
        self._worker: FunctionWorker[object] | None = create_worker(
            call,
            switch,
            _start_thread=False,
            _connect={"returned": self._end},
        )
        self.destroyed.connect(lambda *_: switch.set(Control.DISCARD))

    def start(self) -> None:
        """Begin; the answer comes from the event loop."""
        if self._worker is not None:
            self._worker.start()

    def discard(self) -> None:
        """Wait for no answer any more."""
        self._switch.set(Control.DISCARD)

    def _end(self, outcome: object) -> None:
        self._worker = None
        if self._switch() is not Control.DISCARD:
            self.ended.emit(outcome)
        self.deleteLater()
