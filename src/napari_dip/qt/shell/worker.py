"""Runs and calls in background threads, whose errors come back as refusals.

superqt's generator worker drops every `RuntimeError`, such as torch's out-of-memory, and never
closes its generator. Therefore all errors are caught inside the generator and returned as values,
and the run is closed in its own thread.
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

from napari_dip.errors import DipError, Refusal, make_refusal
from napari_dip.pipeline.events import Control, Event, Restoration
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import load_array
from napari_dip.pipeline.machine import is_memory_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

#: Shortest and longest time between two updates of a dock, in seconds.
MIN_UPDATE_SECONDS, MAX_UPDATE_SECONDS = 0.2, 4.0
#: Largest share of a core for these updates. With software rendering, each update of a window of
#: 1280 x 720 costs 50 ms, which the fit loses.
MAX_DRAWING_FRACTION = 0.01
ReportT = TypeVar("ReportT")
ProgressT = TypeVar("ProgressT")

#: Seconds that the program waits at exit for the current iteration, or for torch to load. Qt alone
#: would wait for its threads without a limit.
_MAX_EXIT_SECONDS = 10


class ProgressQueue(ABC, Generic[ReportT, ProgressT]):
    """Collects reports of a background thread until the GUI thread takes them, at a limited rate.

    Subclasses define how reports are merged: `_put` and `_drain`, both called under the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_gui_called = False
        self._last_take_time = -float("inf")
        self._wait_seconds = MIN_UPDATE_SECONDS
        self._spent_seconds = 0.0  # CPU seconds of the GUI thread
        self._costs = (0.0, 0.0)  # CPU seconds of the last two updates

    def post(self, report: ReportT) -> bool:
        """Add a report; return True if the GUI thread should now be called to take it."""
        with self._lock:
            self._put(report)
            if self._is_gui_called or time.monotonic() - self._last_take_time < self._wait_seconds:
                return False
            self._is_gui_called = True
            return True

    def take(self) -> ProgressT | None:
        """Return the merged reports and empty the queue; None if it is empty."""
        with self._lock:
            reports = self._drain()
            self._is_gui_called = False
            self._last_take_time = time.monotonic()
            self._wait_seconds = self._compute_wait()
        return reports

    def _compute_wait(self) -> float:
        """Return the seconds to the next update, which grow with the cost of an update.

        The cost is the lower of the last two, so a single expensive update does not count, such as
        the first, which makes a layer.
        """
        seconds_before, self._spent_seconds = self._spent_seconds, time.thread_time()
        if seconds_before:
            self._costs = (self._costs[1], self._spent_seconds - seconds_before)
        return min(
            MAX_UPDATE_SECONDS, max(MIN_UPDATE_SECONDS, min(self._costs) / MAX_DRAWING_FRACTION)
        )

    @abstractmethod
    def _put(self, report: ReportT) -> None:
        """Merge a report into the queue."""

    @abstractmethod
    def _drain(self) -> ProgressT | None:
        """Return the merged reports and reset the queue."""


log = logging.getLogger(__name__)
#: The outcome of a run: a result, a refusal, or None if it was discarded.
RunOutcome = Restoration | Refusal | None


class RunControl:
    """The user's control of a run; set in the GUI thread, polled in the background thread."""

    live_switches: ClassVar[WeakSet[RunControl]] = WeakSet()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control = Control.GO
        self.live_switches.add(self)

    def __call__(self) -> Control:
        """Return the present control."""
        return self._control

    def set(self, control: Control) -> None:
        """Set the control; KEEP can change to DISCARD only, and DISCARD is final."""
        with self._lock:
            if self._control is Control.DISCARD:
                return
            if self._control is Control.KEEP and control is not Control.DISCARD:
                return
            self._control = control


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunProgress:
    """The progress of a run since the last update of the dock.

    Attributes
    ----------
    event : Event
        The latest report, with the latest preview.
    points : tuple of (unit, iteration, training loss, validation loss)
        New points of the curves; NaN where a loss was not measured.
    """

    event: Event
    points: tuple[tuple[int, int, float, float], ...]


class RunProgressQueue(ProgressQueue[Event, RunProgress]):
    """Merges the reports of a run: keeps the latest preview and all points of the curves."""

    def __init__(self) -> None:
        super().__init__()
        self._event: Event | None = None
        self._points: list[tuple[int, int, float, float]] = []
        self._last_validation: tuple[int, float | None, float | None] = (0, None, None)

    def _put(self, report: Event) -> None:
        event = report
        if event.preview is None and self._event is not None:
            event = replace(event, preview=self._event.preview)
        self._event = event
        validation = (event.unit, event.training_loss, event.validation_loss)
        # reports repeat the last losses until new ones are measured
        if validation != self._last_validation and validation[1:] != (None, None):
            self._last_validation = validation
            losses = (
                _replace_none_with_nan(event.training_loss),
                _replace_none_with_nan(event.validation_loss),
            )
            self._points.append((event.unit, event.iteration, *losses))

    def _drain(self) -> RunProgress | None:
        event, points = self._event, tuple(self._points)
        self._event, self._points = None, []
        return None if event is None else RunProgress(event=event, points=points)


def drain_run(
    plan: Any,
    pixels: Mapping[str, Any],
    switch: RunControl,
    progress_queue: RunProgressQueue,
    on_finished: Callable[[], object] = lambda: None,
    make_generator: Callable[..., Any] | None = None,
    name: str = "",
) -> Generator[None, None, RunOutcome]:
    """Compute a run; yield when the mailbox should be emptied, and return the outcome.

    Parameters
    ----------
    plan : Plan, or the first argument of `make_generator`
    pixels : mapping of str to array
        The inputs by name, "image" in the order of `plan.source.axes`. A lazy array is computed
        in this thread.
    switch : RunControl
    progress_queue : RunProgressQueue
    on_finished : callable
        Called in this thread when the computation has ended.
    make_generator : callable, optional
        Starts another job instead of `run`, with the same arguments.
    name : str
        Name of the input for error messages; that of the plan's image if empty.

    Returns
    -------
    Restoration, Refusal or None
        None if the user discarded the run. Errors are returned as refusals, never raised.
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
        job = (make_generator or run)(
            plan, data, control=switch, preview_seconds=MIN_UPDATE_SECONDS
        )
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
            if progress_queue.post(event):
                yield
    except DipError as error:
        if error.refusal.code == "array-broken":  # an error of the array's code needs its traceback
            log.error("The pixels could not be computed", exc_info=error)
        return error.refusal
    except Exception as error:
        return convert_to_refusal(error, "Restoring", name or plan.source.name)
    finally:
        if job is not None:
            job.close()
        on_finished()


class BackgroundRun(QObject):
    """A run in a background thread; this object lives in the GUI thread and emits signals.

    Parameters
    ----------
    plan : Plan, or the first argument of `make_generator`
    pixels : mapping of str to array
        The inputs by name, "image" in the order of `plan.source.axes`.
    parent : QObject
        When it is deleted, the run is discarded.
    on_finished : callable
        Called from any thread when the computation has ended, also after `parent` is deleted.
    make_generator : callable, optional
        As for `drain_run`.
    progress_queue : RunProgressQueue, optional
        Another queue, for a job that does not report `Event`.
    name : str
        As for `drain_run`.
    """

    reported = Signal(object)  # progress, such as RunProgress
    ended = Signal(object)  # RunOutcome, once

    def __init__(
        self,
        plan: Any,
        pixels: Mapping[str, Any],
        parent: QObject,
        on_finished: Callable[[], object] = lambda: None,
        make_generator: Callable[..., Any] | None = None,
        progress_queue: Any = None,
        name: str = "",
    ) -> None:
        super().__init__(parent)
        self._on_over = on_finished
        self._is_started = False
        self._switch = RunControl()
        self._mailbox = progress_queue or RunProgressQueue()
        self._worker: GeneratorWorker[None, None, RunOutcome] | None = create_worker(
            drain_run,
            plan,
            pixels,
            self._switch,
            self._mailbox,
            on_finished,
            make_generator,
            name,
            _start_thread=False,
            _connect={
                "yielded": self._take,
                "returned": self._end,
                "errored": self._fail,
                "warned": _log_warning,
            },
        )
        switch = self._switch  # outlives this object, because the worker refers to it, too
        self.destroyed.connect(lambda *_: switch.set(Control.DISCARD))

    def start(self) -> None:
        """Start the run; progress arrives through the event loop."""
        if self._worker is not None:
            self._is_started = True
            self._worker.start()

    def keep(self) -> None:
        """Stop the run; its result is the best picture so far."""
        self._switch.set(Control.KEEP)

    def discard(self) -> None:
        """Stop the run without a result."""
        self._switch.set(Control.DISCARD)
        if not self._is_started:
            self._on_over()

    def pause(self) -> None:
        """Pause the computation."""
        self._switch.set(Control.PAUSE)

    def resume(self) -> None:
        """Resume the computation after a pause."""
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
        """Report an error of this module itself; all others are refusals already."""
        log.error("The worker failed.", exc_info=error)
        self._end(make_refusal("unexpected", why=describe_error(error)))


@atexit.register
def _end_all() -> None:
    """Discard all runs at exit, so that no worker emits signals after Qt has shut down."""
    if RunControl.live_switches:
        for switch in list(RunControl.live_switches):
            switch.set(Control.DISCARD)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.waitForDone(_MAX_EXIT_SECONDS * 1000)


def convert_to_refusal(error: Exception, doing: str, name: str) -> Refusal:
    """Return a refusal for an unexpected error, and log its traceback."""
    log.error("%s '%s' failed.", doing, name, exc_info=error)
    if is_memory_error(error):
        return make_refusal("memory-out", name=name)
    return make_refusal("unexpected", why=describe_error(error))


def describe_error(error: Exception) -> str:
    """Return the first line of an error without a full stop, or its type."""
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")
    return (first_line.strip() or type(error).__name__).rstrip(".")


def _replace_none_with_nan(loss: float | None) -> float:
    return float("nan") if loss is None else loss


def _log_warning(warning: tuple[Any, ...]) -> None:
    log.warning("%s", warning[0])


ResultT = TypeVar("ResultT")


def catch_errors(work: Callable[[], ResultT], doing: str, name: str) -> ResultT | Refusal:
    """Return the value of `work()`, or a refusal if it raises an error.

    Parameters
    ----------
    work : callable
    doing : str
        The action, for the log: "Saving".
    name : str
        The object of the action, for the log: "cells".
    """
    try:
        return work()
    except DipError as error:
        return error.refusal
    except Exception as error:
        return convert_to_refusal(error, doing, name)


class BackgroundCall(QObject):
    """A function call in a background thread; emits its value once, in the GUI thread.

    Parameters
    ----------
    call : callable
        Takes a switch, which is at DISCARD when the value is no longer needed; must not raise.
    parent : QObject
        When it is deleted, the call is discarded.
    """

    ended = Signal(object)  # the value of the call

    def __init__(self, call: Callable[[RunControl], object], parent: QObject) -> None:
        super().__init__(parent)
        self._switch = switch = RunControl()
        self._worker: FunctionWorker[object] | None = create_worker(
            call,
            switch,
            _start_thread=False,
            _connect={"returned": self._end},
        )
        self.destroyed.connect(lambda *_: switch.set(Control.DISCARD))

    def start(self) -> None:
        """Start the call; its value arrives through the event loop."""
        if self._worker is not None:
            self._worker.start()

    def discard(self) -> None:
        """Ignore the value of the call."""
        self._switch.set(Control.DISCARD)

    def _end(self, outcome: object) -> None:
        self._worker = None
        if self._switch() is not Control.DISCARD:
            self.ended.emit(outcome)
        self.deleteLater()
