"""The life of a run in a dock: its turn in the queue, buttons, progress, and how it ends.

One run at a time, however many docks and viewers are open: the others wait in line.

Two runs at once would share cores and memory, take as long together, and could fill the memory
that each was promised.

A run in napari's activity dock: how far it is, without a wheel that costs a processor.

Where a layer that is taken away frees what it holds on the GPU.
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
from napari_dip.qt.shell.run_completion import DISCARDED_MESSAGE, attempt
from napari_dip.qt.shell.worker import BackgroundRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer
    from qtpy.QtWidgets import QWidget


class Activity:
    """A line of napari's activity dock, in hundredths.

    Parameters
    ----------
    label : str
        What is done.
    window : QWidget or None
        napari's main window. The wheel in its corner is held still: each of its 25 pictures a
        second draws the whole window anew, which without a GPU took most of a core. On
        a computer with one core, a fit of 7 s then lasted 57 s (256 x 256 pixels, 60 iterations).
    """

    def __init__(self, label: str, window: QWidget | None) -> None:
        self._bar = progress(total=100, desc=label)
        for text_label in window.findChildren(QLabel) if window is not None else ():
            if (movie := text_label.movie()) is not None:
                movie.stop()

    def show(self, fraction: float) -> None:
        """Bring it up to date; `fraction` from 0 to 1 of the work is done."""
        self._bar.update(max(0, round(100 * fraction) - self._bar.n))

    def close(self) -> None:
        """Take it away."""
        self._bar.close()


def make_canvas_current(docked: QWidget) -> None:
    """Let what comes next reach the OpenGL context that the layers of this window are drawn with.

    napari 0.9 frees textures, buffers and programs of a removed layer at once, in whatever context
    is current, mostly that of the window round the canvas. Two layers removed one after the other,
    and the process ends in `glDrawArrays` at one of the next drawings (seen with Mesa's llvmpipe
    and softpipe; napari's issues 6472 and 8471 tell of crashes there with cards of NVIDIA).
    """
    window = docked.window()
    while window is not None and (around := window.parentWidget()) is not None:  # a floating dock
        window = around.window()
    if window is not None:
        for canvas in window.findChildren(QOpenGLWidget):
            canvas.makeCurrent()


class QueueTicket:
    """A place in the line.

    Parameters
    ----------
    label : str
        What runs, for those who wait behind it.
    tell : bound method
        Called with this place when its turn comes, and before that when the line moves. Held
        weakly, and not called once its owner is gone.
    """

    def __init__(self, queue: RunQueue, label: str, tell: Callable[[QueueTicket], None]) -> None:
        self._queue = queue
        self._tell = WeakMethod(tell)
        self.label = label
        self.begun = False
        self.ahead: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """What is waited for."""
        first, more = self.ahead[0], len(self.ahead) - 1
        others = "" if not more else f", and then for {more} more" if more > 1 else ", and another"
        return f"Waiting for '{first}' to end{others}. It begins by itself."

    def leave(self) -> None:
        """Give the place up; may be called from any thread, and twice."""
        with suppress(RuntimeError):  # Qt is gone already, with all who wait
            self._queue.released.emit(self)

    def tell(self) -> None:
        """Let the owner look."""
        if (tell := self._tell()) is not None:
            tell(self)


class RunQueue(QObject):
    """The line; its first has its turn."""

    released = Signal(object)  # Place; from whatever thread the run was in

    def __init__(self) -> None:
        super().__init__()
        self._line: list[QueueTicket] = []
        self.released.connect(self._on_left)

    def join(self, label: str, owner: QObject, tell: Callable[[QueueTicket], None]) -> QueueTicket:
        """Take a place at the end; `tell` is called at once, also if its turn has come.

        Parameters
        ----------
        label : str
            Such as "Denoise cells".
        owner : QObject
            With it goes a place whose turn has not come.
        tell : bound method of `owner`
        """
        place = QueueTicket(self, label, tell)
        self._line.append(place)
        owner.destroyed.connect(lambda *_: None if place.begun else place.leave())
        self._advance()
        return place

    def _on_left(self, place: QueueTicket) -> None:
        if place in self._line:
            self._line.remove(place)
            self._advance()

    def _advance(self) -> None:
        """Let the first begin, and tell those behind it what they wait for."""
        for number, place in enumerate(tuple(self._line)):
            ahead = tuple(item.label for item in self._line[:number])
            if place.begun or (number and place.ahead == ahead):
                continue
            place.begun, place.ahead = number == 0, ahead
            place.tell()


@cache
def get_run_queue() -> RunQueue:
    """Give the one line of this program; in the GUI thread."""
    return RunQueue()


class RunDock(DockWidget):
    """A dock that starts one run at a time, in turn with all others.

    Subclasses say what is run, and what goes with it: `start`, `show_plan`, `_make_run`,
    `_prepare`,
    `_show`, `_taken`, `_put_away`, `_close_parts`; and `_after` and `_forget` where there is more.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    run_bar : RunBar

    Attributes
    ----------
    too_early : str
        What is said of a run that ended with nothing.
    given_up : str
        What is said of a run that gave its place in the line up.
    """

    too_early: ClassVar[str]
    given_up: ClassVar[str] = DISCARDED_MESSAGE

    def __init__(self, viewer: napari.viewer.Viewer, run_bar: RunBar) -> None:
        super().__init__()
        self._viewer = unwrap_viewer(viewer)
        self._run: BackgroundRun | None = None
        self._request: Any = None
        self._place: QueueTicket | None = None
        self._activity: Activity | None = None
        self._last_words = ""
        self._closing = make_single_shot_timer(self)
        self.plan_line = make_message_label()
        self.run_bar = run_bar
        run_bar.run_pressed.connect(self.start)
        run_bar.keep_pressed.connect(self.keep)
        run_bar.pause_pressed.connect(self.pause)
        run_bar.resume_pressed.connect(self.resume)
        run_bar.discard_pressed.connect(self.discard)
        self._closing.timeout.connect(self._finish)
        self._viewer.events.theme.connect(self._on_theme)
        self._viewer.layers.events.removing.connect(self._on_removing)

    @property
    def busy(self) -> bool:
        """Whether a run is on, or waits for its turn."""
        return self._request is not None

    def show_plan(self, _: object = None) -> None:
        """Bring the line above the buttons up to date; while a run is on it stays."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin what the plan line says, or wait in line for other docks."""
        raise NotImplementedError

    def keep(self) -> None:
        """Stop the run; what there is becomes the result."""
        text = f"Stopping, {self.run_bar.kept} is kept"
        self._ask(RunBarState.STOPPING, text, BackgroundRun.keep)

    def pause(self) -> None:
        """Hold the run."""
        self._ask(RunBarState.PAUSED, "Paused", BackgroundRun.pause)

    def resume(self) -> None:
        """Go on after a pause."""
        self._ask(RunBarState.RUNNING, "Going on", BackgroundRun.resume)

    def discard(self) -> None:
        """Stop the run and leave nothing of it; the dock is free at once."""
        if self._closing.isActive():  # its result is shown already
            self._closing.stop()
            self._finish()
        elif self._run is not None:
            self._run.reported.disconnect(self._on_news)
            self._run.ended.disconnect(self._on_end)
            self._run.discard()
            self._finish(self._discarded)
            self._forget()
        elif self._place is not None:  # its turn has not come
            self._place.leave()
            self._finish(self.given_up)

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        self.discard()
        self._viewer.events.theme.disconnect(self._on_theme)
        self._viewer.layers.events.removing.disconnect(self._on_removing)

    def _make_run(self, request: Any, over: Callable[[], object]) -> BackgroundRun:
        """Make the run; `over` is to be called when nothing is computed any more."""
        raise NotImplementedError

    def _prepare(self, request: Any) -> None:
        """Make the parts ready for a run that begins."""
        raise NotImplementedError

    def _show(self, news: Any) -> None:
        """Show what has happened."""
        raise NotImplementedError

    def _taken(self, request: Any, outcome: Any) -> str:
        """Show the result; what to tell the user."""
        raise NotImplementedError

    def _put_away(self) -> str:
        """Let go of what was there for the run only; what went wrong with that."""
        raise NotImplementedError

    def _close_parts(self, busy: bool) -> None:
        """Close what must not change during a run, and open it again."""
        raise NotImplementedError

    def _after(self, whole: bool) -> None:
        """Do what comes after a run; `whole` if it came to its result."""

    def _refused(self) -> None:
        """Do what comes after a refusal has been said."""

    def _forget(self) -> None:
        """Let go of what a discarded run has left to be seen."""

    @property
    def _discarded(self) -> str:
        """What to say of a run that is discarded."""
        return DISCARDED_MESSAGE

    def _join(self, request: Any) -> None:
        """Take a place in the line; the run begins when its turn comes."""
        self._request = request
        self._set_busy(True)
        get_run_queue().join(request.label, self, self._on_turn)

    def _on_turn(self, place: QueueTicket) -> None:
        """Begin, or say what is waited for."""
        request, self._place = self._request, place
        if request is None:  # discarded in the meantime
            place.leave()
        elif not place.begun:
            self.run_bar.show_state(RunBarState.WAITING)
            self.run_bar.say(place.description)
        elif trouble := attempt(
            lambda: self._begin(request, place), "The run could not be started"
        ):
            self.discard()
            self.run_bar.say(trouble)

    def _begin(self, request: Any, place: QueueTicket) -> None:
        self._run = self._make_run(request, place.leave)
        self._run.reported.connect(self._on_news)
        self._run.ended.connect(self._on_end)
        self._prepare(request)
        self.run_bar.show_state(RunBarState.RUNNING)
        self.run_bar.say("Getting ready")
        self.run_bar.show_event(Event(message="Getting ready"))
        self._activity = Activity(place.label, self.window())
        self._run.start()

    def _ask(self, state: RunBarState, text: str, ask: Callable[[BackgroundRun], None]) -> None:
        if self._run is not None:
            self.run_bar.show_state(state)
            self.run_bar.say(text)
            ask(self._run)

    def _on_news(self, news: Any) -> None:
        activity = self._activity
        self._show(news)
        if activity is not None:  # last, since napari lets other events in here
            activity.show(news.event.fraction)

    def _on_end(self, outcome: Any) -> None:
        request = self._request
        if isinstance(outcome, Refusal):
            self._finish(outcome.message)
            self._refused()
            show_error(remove_option_names(outcome.message))
        elif outcome is None or request is None:
            self._finish(self.too_early)
        else:
            self.run_bar.discard_button.setEnabled(False)  # too late for that
            self._last_words = self._taken(request, outcome)
            # napari collects garbage whenever a layer goes: not in the same breath as adding one
            self._closing.start()

    def _finish(self, text: str = "") -> None:
        """Drop all that belonged to the run and make the dock ready again, come what may."""
        if self._request is None:  # discarded in the meantime
            return
        activity = self._activity
        self._run = self._request = self._activity = self._place = None
        said = [text or self._last_words, self._put_away()]
        self._set_busy(False)
        self.run_bar.say(" ".join(filter(None, said)))
        if activity is not None:
            attempt(activity.close, "The activity could not be closed")
        self._after(not text)

    def _set_busy(self, busy: bool) -> None:
        if not busy:
            self.run_bar.show_state(RunBarState.IDLE)  # whatever the new plan says
        self._close_parts(busy)

    def _plots(self) -> Sequence[Any]:
        """Name the plots, which follow napari's theme."""
        return ()

    def _on_removing(self, _: object) -> None:
        make_canvas_current(self)

    def _on_theme(self, _: object = None) -> None:
        theme = get_theme(self._viewer.theme)
        for plot in self._plots():
            plot.recolour(theme.text.as_hex(), theme.background.as_hex())
