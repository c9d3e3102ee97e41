"""Background threads: each ends in a value or a refusal, and posts progress at a limited rate."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import traceback
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakSet

from qtpy.QtCore import QObject, QThreadPool, QTimer, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QLineEdit, QMenu
from superqt.utils import GeneratorWorker, create_worker

from napari_dip.errors import DipError, Fault, make_refusal
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.machine import make_unexpected_fault
from napari_dip.qt.shell.dock_widget import Connections
from napari_dip.tasks.network_import.loading import LIST_ALL, WHY_LISTED, refuse_unlisted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qtpy.QtWidgets import QWidget

    from napari_dip.errors import Refusal
    from napari_dip.pipeline.progress import Event
    from napari_dip.tasks import Task

    SuggestionOutcome = tuple[str, ...] | Fault

#: Longest entry of a suggestion menu, in characters; a refusal is shown as such an entry.
_MAX_ENTRY_LENGTH = 90
#: Shortest time between two updates of a dock, in seconds.
MIN_UPDATE_SECONDS = 0.2
#: Longest time between two updates.
MAX_UPDATE_SECONDS = 4.0
#: Largest share of a core for updates of the window. With software rendering, each update of one of
#: 1280 x 720 costs 50 ms, which the fit loses.
MAX_DRAWING_FRACTION = 0.01
#: Seconds that the program waits at exit for the current iteration, or for torch to load. Qt alone
#: would wait for its threads without a limit.
_MAX_EXIT_SECONDS = 10
log: logging.Logger = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class JobProgress:
    """The progress of a job: one report, or several that were merged.

    Attributes
    ----------
    event : Event
        The latest report, with the latest preview.
    points : tuple
        New points of the curves, oldest first; what a point is depends on the job.
    plan_view : BatchPlanView or None
        Plan of a batch whose headers were read again.
    rows : mapping of int to object
        Changed rows of a table, by their index.
    """

    event: Event
    points: tuple[Any, ...] = ()
    plan_view: Any = None
    rows: Mapping[int, Any] = field(default_factory=dict)

    def merge(self, later: JobProgress) -> JobProgress:
        """Return this progress with a later one added."""
        event = later.event
        if event.preview is None:
            event = replace(event, preview=self.event.preview)
        return JobProgress(
            event=event,
            points=(*self.points, *later.points),
            plan_view=self.plan_view if later.plan_view is None else later.plan_view,
            rows={**self.rows, **later.rows},
        )


class ProgressQueue:
    """Merges reports of a background thread until the GUI thread takes them, at a limited rate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: JobProgress | None = None
        self._is_gui_called = False
        self._last_take_time = -float("inf")
        self._wait_seconds = MIN_UPDATE_SECONDS
        self._spent_seconds = 0.0  # CPU seconds of the GUI thread
        self._costs = (0.0, 0.0)  # CPU seconds of the last two updates

    def post(self, report: JobProgress) -> bool:
        """Add a report; return True if the GUI thread should now be called to take it."""
        with self._lock:
            self._progress = report if self._progress is None else self._progress.merge(report)
            if self._is_gui_called or time.monotonic() - self._last_take_time < self._wait_seconds:
                return False
            self._is_gui_called = True
            return True

    def take(self) -> JobProgress | None:
        """Return the merged reports and empty the queue; None if it is empty."""
        with self._lock:
            progress, self._progress = self._progress, None
            self._is_gui_called = False
            self._last_take_time = time.monotonic()
            self._wait_seconds = self._compute_wait_seconds()
        return progress

    def _compute_wait_seconds(self) -> float:
        """Return the seconds to the next update, which grow with the cost of an update.

        The cost is the lower of the last two, so a single expensive update does not count, such as
        the first, which makes a layer.
        """
        seconds_before, self._spent_seconds = self._spent_seconds, time.thread_time()
        if seconds_before:
            self._costs = (self._costs[1], self._spent_seconds - seconds_before)
        wanted_seconds = min(self._costs) / MAX_DRAWING_FRACTION
        return min(MAX_UPDATE_SECONDS, max(MIN_UPDATE_SECONDS, wanted_seconds))


class RunControl:
    """The user's control of a run; set in the GUI thread, polled in the background thread.

    Attributes
    ----------
    is_abandoned : bool
        Whether the run was stopped because its window is gone, and not by the user.
    """

    live_controls: ClassVar[WeakSet[RunControl]] = WeakSet()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control = Control.GO
        self.is_abandoned: bool = False
        self.live_controls.add(self)

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

    def abandon(self, *_: object) -> None:
        """Stop the run without a result; what it has saved stays, unless the user discarded it."""
        with self._lock:
            self.is_abandoned |= self._control is not Control.DISCARD
            self._control = Control.DISCARD


def run_work(
    work: Callable[[RunControl], Any],
    activity: str,
    name: str,
    control: RunControl,
    queue: ProgressQueue,
    on_finished: Callable[[], object] = lambda: None,
) -> Generator[None, None, Any]:
    """Do some work; yield when the queue should be emptied, and return the outcome.

    Parameters
    ----------
    work : callable
        Takes the control. Returns the outcome, or a generator that yields `JobProgress` and returns
        the outcome.
    activity, name : str
        The action and its object, for the log: "Saving", "cells".
    control : RunControl
        At DISCARD, the work is not begun.
    queue : ProgressQueue
    on_finished : callable
        Called in this thread when the work has ended.

    Returns
    -------
    object
        The outcome; None if the work was discarded. Errors are returned as faults, never raised.
    """
    try:
        outcome = None if control() is Control.DISCARD else work(control)
        if not isinstance(outcome, Generator):
            return outcome
        with closing(outcome) as steps:
            while True:
                try:
                    report = next(steps)
                except StopIteration as end:
                    return end.value
                if queue.post(report):
                    yield
    except DipError as error:
        if error.reason.code == "array-broken":  # an error of the array's code needs its traceback
            log.error("The pixels could not be computed", exc_info=error)
        return error.reason
    except Exception as error:
        log.error("%s '%s' failed.", activity, name, exc_info=error)
        return make_unexpected_fault(error, name)
    finally:
        on_finished()


class BackgroundCall(QObject):
    """Some work in a background thread; this object lives in the GUI thread and emits signals.

    Parameters
    ----------
    work, activity, name
        As for `run_work`.
    parent : QObject
        When it is deleted, the work is abandoned.
    on_finished : callable
        Called from any thread when the work has ended, also after `parent` is deleted.

    Attributes
    ----------
    control : RunControl
    """

    reported: Signal = Signal(object)  # JobProgress
    ended: Signal = Signal(object)  # the outcome, once; neither is emitted after DISCARD

    def __init__(
        self,
        work: Callable[[RunControl], Any],
        parent: QObject,
        *,
        activity: str,
        name: str,
        on_finished: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(parent)
        self.control: RunControl
        self.control = control = RunControl()  # outlives this object: the worker refers to it, too
        self._queue = ProgressQueue()
        self._worker: GeneratorWorker[None, None, Any] | None = create_worker(
            run_work,
            work,
            activity,
            name,
            control,
            self._queue,
            on_finished,
            _start_thread=False,
            _connect={
                "yielded": self._take,
                "returned": self._end,
                "errored": self._fail,
                "warned": _log_warning,
            },
        )
        # a bound method: garbage collection may clear a lambda before it deletes this object
        self.destroyed.connect(control.abandon)

    @property
    def is_running(self) -> bool:
        """Whether its outcome is still waited for."""
        return self._worker is not None and self.control() is not Control.DISCARD

    def start(self) -> None:
        """Start the work; progress and outcome arrive through the event loop."""
        if self._worker is not None:
            self._worker.start()

    def discard(self) -> None:
        """Stop the work and ignore its outcome."""
        self.control.set(Control.DISCARD)

    def _take(self, _: object = None) -> None:
        progress = self._queue.take()
        if progress is not None and self.control() is not Control.DISCARD:
            self.reported.emit(progress)

    def _end(self, outcome: object) -> None:
        self._worker = None
        self._take()
        if self.control() is not Control.DISCARD:
            self.ended.emit(outcome)
        self.deleteLater()

    def _fail(self, error: Exception) -> None:
        """Report an error of this module itself; all others are refusals already."""
        log.error("The worker failed.", exc_info=error)
        self._end(make_unexpected_fault(error, ""))


def start_call(
    work: Callable[[], Any],
    parent: QObject,
    on_ended: Callable[[Any], object],
    *,
    activity: str,
    name: str,
) -> None:
    """Start a call without progress in a background thread.

    Parameters
    ----------
    work : callable
        Returns the outcome.
    parent, activity, name
        As for `BackgroundCall`.
    on_ended : callable
        Called in the GUI thread with the outcome or a refusal, unless the call was discarded.
    """
    call = BackgroundCall(lambda _: work(), parent, activity=activity, name=name)
    call.ended.connect(on_ended)
    call.start()


def find_call(parent: QObject) -> BackgroundCall | None:
    """Return the background call that runs for an object, if there is one."""
    calls = (child for child in parent.children() if isinstance(child, BackgroundCall))
    return next((call for call in calls if call.is_running), None)


def stop_parts(dock: QWidget) -> None:
    """Stop the timers, connections to the viewer and background calls of a dock that closes."""
    for timer in dock.findChildren(QTimer):
        timer.stop()
    for connections in dock.findChildren(Connections):
        connections.disconnect_all()
    for call in dock.findChildren(BackgroundCall):
        call.discard()


class SuggestionMenu(QObject):
    """A menu in a line edit that lists suggestions, which are collected in the background.

    Parameters
    ----------
    edit : QLineEdit
        Its text becomes the chosen suggestion.
    name : str
        The name of the setting.
    list_suggestions : callable
        As `Setting.list_suggestions`.
    build_task : callable
        Returns the task with the present settings; raises `DipError` if they are not valid.
    """

    listed: Signal = Signal()  # there is an outcome for `refuse_value`

    def __init__(
        self,
        edit: QLineEdit,
        name: str,
        list_suggestions: Callable[[Task], tuple[str, ...]],
        build_task: Callable[[], Task],
    ) -> None:
        super().__init__(edit)
        self._line_edit, self._name = edit, name
        self._list_suggestions, self._build_task = list_suggestions, build_task
        self.outcomes: dict[Task, SuggestionOutcome] = {}
        self.menu: QMenu = QMenu(edit)

    def open_menu(self) -> None:
        """Collect the suggestions in the background, then open the menu."""
        try:
            self._collect(self._build_task(), self._show)
        except DipError as error:
            self._show(error.reason)

    def refuse_value(self, task: Any) -> Refusal | None:
        """Refuse a value that asks for the suggestions, or is none once they were collected."""
        value, task = getattr(task, self._name).strip(), replace(task, **{self._name: ""})
        field, is_request = self._line_edit.accessibleName(), value == LIST_ALL
        outcome = self.outcomes.get(task)
        if outcome is None:
            self._collect(task, partial(self._keep, task))
            facts = {"why": WHY_LISTED, "hint": "They are being listed."}
            refusal = make_refusal("setting-wrong", field=field, value=f"'{value}'", **facts)
            return refusal if is_request else None
        if isinstance(outcome, Fault):  # the network may take another image than that of the list
            return make_refusal(outcome.code, **outcome.facts) if is_request else None
        hint = f"the arrow in its field shows all {len(outcome)}"
        return refuse_unlisted(field, value, outcome, hint)

    def _collect(self, task: Task, on_ended: Callable[[SuggestionOutcome], object]) -> None:
        if find_call(self) is None:
            suggest = partial(self._list_suggestions, task)
            start_call(suggest, self, on_ended, activity="Listing", name=self._name)

    def _keep(self, task: Task, outcome: SuggestionOutcome) -> None:
        self.outcomes[task] = outcome
        self.listed.emit()

    def _show(self, outcome: SuggestionOutcome) -> None:
        self.menu.clear()
        if isinstance(outcome, Fault):
            ellipsis = "…" if len(outcome.sentence) > _MAX_ENTRY_LENGTH else ""
            refusal_action = QAction(outcome.sentence[:_MAX_ENTRY_LENGTH] + ellipsis, self.menu)
            refusal_action.setEnabled(False)
            self.menu.addAction(refusal_action)
        else:
            for suggestion in outcome:
                action = QAction(suggestion, self.menu)
                action.triggered.connect(partial(self._choose, suggestion))
                self.menu.addAction(action)
        self.menu.popup(self._line_edit.mapToGlobal(self._line_edit.rect().bottomLeft()))
        self.listed.emit()  # a list that was asked for meanwhile can be collected now

    def _choose(self, text: str, _: bool = False) -> None:
        self._line_edit.setText(text)


@atexit.register
def _abandon_all_runs() -> None:
    """Abandon all runs at exit, so that no worker emits signals after Qt has shut down."""
    if RunControl.live_controls:
        for control in list(RunControl.live_controls):
            control.abandon()
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.waitForDone(_MAX_EXIT_SECONDS * 1000)


def call_for_message(action: Callable[[], str]) -> str:
    """Call a function, and return its message, or that of its refusal or failure."""
    try:
        return action()
    except DipError as error:
        return error.reason.message


def call_reporting_errors(action: Callable[[], object], failure_text: str) -> str:
    """Call a function, and return its error as a message.

    Returns
    -------
    str
        Empty, or a sentence of `failure_text` and the error; the log has the traceback.
    """
    return try_call(action, failure_text)[1]


def try_call(
    action: Callable[[], ValueT], failure_text: str
) -> tuple[ValueT, str] | tuple[None, str]:
    """Return the value of a function and "", or None and its error as a message."""
    try:
        return action(), ""
    except Exception as error:
        log_error(failure_text, error)
        return None, f"{failure_text}: {describe_exception(error)}."


def log_error(failure_text: str, error: Exception) -> None:
    """Log a traceback as text: a record with the error itself could keep the viewer alive."""
    log.error("%s.\n%s", failure_text, "".join(traceback.format_exception(error)))


def _log_warning(warning: tuple[Any, ...]) -> None:
    log.warning("%s", warning[0])
