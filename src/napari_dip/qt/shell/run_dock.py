"""The base class of docks that start runs: its queue, buttons, progress and end of a run.

One run at a time is computed, however many docks and viewers are open; the others wait in a queue.
Two runs at once would share cores and memory, and would take as long in total.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakMethod

from napari.utils.notifications import show_error
from napari.utils.progress import progress
from napari.utils.theme import get_theme
from qtpy.QtCore import QObject, Signal
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QLabel

from napari_dip.errors import Refusal
from napari_dip.pipeline.events import Event
from napari_dip.qt.shell.dock_widget import DockWidget, make_single_shot_timer, unwrap_viewer
from napari_dip.qt.shell.run_bar import RunBar, RunBarState, make_message_label, remove_option_names
from napari_dip.qt.shell.run_completion import DISCARDED_MESSAGE, call_reporting_errors
from napari_dip.qt.shell.worker import BackgroundRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer
    from qtpy.QtWidgets import QWidget


class Activity:
    """A progress bar in napari's activity dock, in percent.

    Parameters
    ----------
    label : str
        The label of the bar.
    window : QWidget or None
        napari's main window. The spinning wheel in its corner is stopped: it redraws the whole
        window 25 times a second, which took most of a core without a GPU. On one core, a fit of
        7 s then lasted 57 s (256 x 256 pixels, 60 iterations).
    """

    def __init__(self, label: str, window: QWidget | None) -> None:
        self._bar = progress(total=100, desc=label)
        for text_label in window.findChildren(QLabel) if window is not None else ():
            if (movie := text_label.movie()) is not None:
                movie.stop()

    def show(self, fraction: float) -> None:
        """Show the fraction of the work that is done, from 0 to 1."""
        self._bar.update(max(0, round(100 * fraction) - self._bar.n))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def make_canvas_current(docked: QWidget) -> None:
    """Make the OpenGL context of the window's canvas current, before a layer is removed.

    napari 0.9 frees textures, buffers and programs of a removed layer at once, in the context that
    is current. That is mostly the context of the surrounding window. After two layers are removed
    in a row, a later drawing crashes in `glDrawArrays` (with Mesa's llvmpipe and softpipe; napari's
    issues 6472 and 8471 report such crashes with NVIDIA GPUs).
    """
    window = docked.window()
    while window is not None and (parent := window.parentWidget()) is not None:  # a floating dock
        window = parent.window()
    if window is not None:
        for canvas in window.findChildren(QOpenGLWidget):
            canvas.makeCurrent()


class QueueTicket:
    """The place of a run in the queue.

    Parameters
    ----------
    queue : RunQueue
    label : str
        The name of the run, for the runs that wait behind it.
    notify : bound method
        Called with this ticket when the run may begin, and whenever the runs ahead change. It is
        referenced weakly, and not called after its owner is deleted.
    """

    def __init__(self, queue: RunQueue, label: str, notify: Callable[[QueueTicket], None]) -> None:
        self._queue = queue
        self._notify = WeakMethod(notify)
        self.label = label
        self.has_begun = False
        self.runs_ahead: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Message on the runs that this one waits for."""
        first_label, count = self.runs_ahead[0], len(self.runs_ahead) - 1
        others = (
            "" if not count else f", and then for {count} more" if count > 1 else ", and another"
        )
        return f"Waiting for '{first_label}' to end{others}. It begins by itself."

    def leave(self) -> None:
        """Leave the queue; may be called from any thread, and more than once."""
        with suppress(RuntimeError):  # Qt has shut down, with all docks
            self._queue.released.emit(self)

    def notify(self) -> None:
        """Call the owner, if it still exists."""
        if (callback := self._notify()) is not None:
            callback(self)


class RunQueue(QObject):
    """The queue of all runs; the first ticket is that of the current run."""

    released = Signal(object)  # QueueTicket; emitted from the thread of the run

    def __init__(self) -> None:
        super().__init__()
        self._tickets: list[QueueTicket] = []
        self.released.connect(self._on_ticket_released)

    def join(
        self, label: str, owner: QObject, notify: Callable[[QueueTicket], None]
    ) -> QueueTicket:
        """Append a ticket to the queue and call `notify` with it at once.

        Parameters
        ----------
        label : str
            Such as "Denoise cells".
        owner : QObject
            When it is deleted, a ticket whose run has not begun leaves the queue.
        notify : bound method of `owner`
            The `notify` of the ticket.
        """
        ticket = QueueTicket(self, label, notify)
        self._tickets.append(ticket)
        owner.destroyed.connect(lambda *_: None if ticket.has_begun else ticket.leave())
        self._advance()
        return ticket

    def _on_ticket_released(self, ticket: QueueTicket) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            self._advance()

    def _advance(self) -> None:
        """Let the first run begin, and notify the others of the runs ahead of them."""
        for number, ticket in enumerate(tuple(self._tickets)):
            labels_ahead = tuple(earlier_ticket.label for earlier_ticket in self._tickets[:number])
            if ticket.has_begun or (number and ticket.runs_ahead == labels_ahead):
                continue
            ticket.has_begun, ticket.runs_ahead = number == 0, labels_ahead
            ticket.notify()


@cache
def get_run_queue() -> RunQueue:
    """Return the only queue of this process; for the GUI thread."""
    return RunQueue()


class RunDock(DockWidget):
    """A dock that starts one run at a time, in a queue with all other docks.

    Subclasses implement `start`, `show_plan`, `_make_run`, `_prepare`, `_show`, `_accept_result`,
    `_release_run` and `_lock_parts`. They may override `_run_next`, `_on_refused`,
    `_clear_discarded_run`, `_discard_message` and `_plots`.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    run_bar : RunBar

    Attributes
    ----------
    empty_result_message : str
        Message after a run without a result.
    queue_left_message : str
        Message after a run has left the queue.
    """

    empty_result_message: ClassVar[str]
    queue_left_message: ClassVar[str] = DISCARDED_MESSAGE

    def __init__(self, viewer: napari.viewer.Viewer, run_bar: RunBar) -> None:
        super().__init__()
        self._viewer = unwrap_viewer(viewer)
        self._run: BackgroundRun | None = None
        self._request: Any = None
        self._ticket: QueueTicket | None = None
        self._activity: Activity | None = None
        self._last_message = ""
        self._close_timer = make_single_shot_timer(self)
        self.plan_label = make_message_label()
        self.run_bar = run_bar
        run_bar.run_pressed.connect(self.start)
        run_bar.keep_pressed.connect(self.keep)
        run_bar.pause_pressed.connect(self.pause)
        run_bar.resume_pressed.connect(self.resume)
        run_bar.discard_pressed.connect(self.discard)
        self._close_timer.timeout.connect(self._finish)
        self._viewer.events.theme.connect(self._on_theme)
        self._viewer.layers.events.removing.connect(self._on_removing)

    @property
    def is_busy(self) -> bool:
        """Whether a run is computed or waits in the queue."""
        return self._request is not None

    def show_plan(self, _: object = None) -> None:
        """Update the plan above the buttons, unless a run is on."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the run of the plan, or add it to the queue."""
        raise NotImplementedError

    def keep(self) -> None:
        """Stop the run and keep its best picture so far as the result."""
        message = f"Stopping, {self.run_bar.kept_label} is kept"
        self._control_run(RunBarState.STOPPING, message, BackgroundRun.keep)

    def pause(self) -> None:
        """Pause the run."""
        self._control_run(RunBarState.PAUSED, "Paused", BackgroundRun.pause)

    def resume(self) -> None:
        """Resume a paused run."""
        self._control_run(RunBarState.RUNNING, "Going on", BackgroundRun.resume)

    def discard(self) -> None:
        """Stop the run without a result; the dock can start another one at once."""
        if self._close_timer.isActive():  # the result is already a layer
            self._close_timer.stop()
            self._finish()
        elif self._run is not None:
            self._run.reported.disconnect(self._on_news)
            self._run.ended.disconnect(self._on_end)
            self._run.discard()
            self._finish(self._discard_message)
            self._clear_discarded_run()
        elif self._ticket is not None:  # the run waits in the queue
            self._ticket.leave()
            self._finish(self.queue_left_message)

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        self.discard()
        self._viewer.events.theme.disconnect(self._on_theme)
        self._viewer.layers.events.removing.disconnect(self._on_removing)

    def _make_run(self, request: Any, on_finished: Callable[[], object]) -> BackgroundRun:
        """Return the run of a request; it calls `on_finished` when the computation has ended."""
        raise NotImplementedError

    def _prepare(self, request: Any) -> None:
        """Reset the widgets for a run that begins."""
        raise NotImplementedError

    def _show(self, progress: Any) -> None:
        """Show the progress of the run."""
        raise NotImplementedError

    def _accept_result(self, request: Any, outcome: Any) -> str:
        """Show the result and return a message for the user."""
        raise NotImplementedError

    def _release_run(self) -> str:
        """Release what only the run needed; return an error message, or ""."""
        raise NotImplementedError

    def _lock_parts(self, busy: bool) -> None:
        """Disable the widgets that must not change during a run, or enable them again."""
        raise NotImplementedError

    def _run_next(self, whole: bool) -> None:
        """Start a follow-up run; `whole` is True if the run reached its result."""

    def _on_refused(self) -> None:
        """React to a refusal, after its message is shown."""

    def _clear_discarded_run(self) -> None:
        """Remove what a discarded run still shows."""

    @property
    def _discard_message(self) -> str:
        """Message after a run is discarded."""
        return DISCARDED_MESSAGE

    def _join(self, request: Any) -> None:
        """Add a request to the queue; the run begins when it is the first."""
        self._request = request
        self._set_busy(True)
        get_run_queue().join(request.label, self, self._on_turn)

    def _on_turn(self, ticket: QueueTicket) -> None:
        """Begin the run, or show which runs it waits for."""
        request, self._ticket = self._request, ticket
        if request is None:  # discarded in the meantime
            ticket.leave()
        elif not ticket.has_begun:
            self.run_bar.show_state(RunBarState.WAITING)
            self.run_bar.show_message(ticket.description)
        elif trouble := call_reporting_errors(
            lambda: self._begin(request, ticket), "The run could not be started"
        ):
            self.discard()
            self.run_bar.show_message(trouble)

    def _begin(self, request: Any, ticket: QueueTicket) -> None:
        self._run = self._make_run(request, ticket.leave)
        self._run.reported.connect(self._on_news)
        self._run.ended.connect(self._on_end)
        self._prepare(request)
        self.run_bar.show_state(RunBarState.RUNNING)
        self.run_bar.show_message("Getting ready")
        self.run_bar.show_event(Event(message="Getting ready"))
        self._activity = Activity(ticket.label, self.window())
        self._run.start()

    def _control_run(
        self, state: RunBarState, text: str, ask: Callable[[BackgroundRun], None]
    ) -> None:
        if self._run is not None:
            self.run_bar.show_state(state)
            self.run_bar.show_message(text)
            ask(self._run)

    def _on_news(self, progress: Any) -> None:
        activity = self._activity
        self._show(progress)
        if activity is not None:  # last, because napari processes other events here
            activity.show(progress.event.fraction)

    def _on_end(self, outcome: Any) -> None:
        request = self._request
        if isinstance(outcome, Refusal):
            self._finish(outcome.message)
            self._on_refused()
            show_error(remove_option_names(outcome.message))
        elif outcome is None or request is None:
            self._finish(self.empty_result_message)
        else:
            self.run_bar.discard_button.setEnabled(False)  # the result exists already
            self._last_message = self._accept_result(request, outcome)
            # napari collects garbage when a layer is removed: not while another one is added
            self._close_timer.start()

    def _finish(self, text: str = "") -> None:
        """End the run, show its message and enable the dock again, also after an error."""
        if self._request is None:  # discarded in the meantime
            return
        activity = self._activity
        self._run = self._request = self._activity = self._ticket = None
        messages = [text or self._last_message, self._release_run()]
        self._set_busy(False)
        self.run_bar.show_message(" ".join(filter(None, messages)))
        if activity is not None:
            call_reporting_errors(activity.close, "The activity could not be closed")
        self._run_next(not text)

    def _set_busy(self, busy: bool) -> None:
        if not busy:
            self.run_bar.show_state(RunBarState.IDLE)  # until the new plan sets it
        self._lock_parts(busy)

    def _plots(self) -> Sequence[Any]:
        """Return the plots, which take the colours of napari's theme."""
        return ()

    def _on_removing(self, _: object) -> None:
        make_canvas_current(self)

    def _on_theme(self, _: object = None) -> None:
        theme = get_theme(self._viewer.theme)
        for plot in self._plots():
            plot.recolour(theme.text.as_hex(), theme.background.as_hex())
