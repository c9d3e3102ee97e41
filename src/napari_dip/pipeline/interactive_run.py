"""Let a caller steer a run: by answers of a function, methods, a notebook's button or Ctrl-C.

Whatever the user does becomes a `Control`, which the loop of a fit polls.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

from napari_dip.engine.fit.stopping import Control as Control
from napari_dip.engine.fit.stopping import PollControl as PollControl
from napari_dip.errors import FailedError, RefusedError
from napari_dip.errors.templates import shorten_repr
from napari_dip.pipeline.assess.report_figures import plot_overview, select_middle_plane

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

#: Seconds between two events of a paused run: few enough that a button feels immediate.
PAUSE_SECONDS = 0.1


class UserControl:
    """What the user wants of a run: the last answer of a function `progress`, or of a button.

    Parameters
    ----------
    progress : callable or None
        Called with each event, and with the last one again for as long as it answers "pause".
    """

    def __init__(self, progress: Callable[[Any], object] | None = None) -> None:
        self._progress = progress
        self._event: Any = None
        self._control = Control.GO

    def show(self, event: Any) -> None:
        """Pass an event to `progress`, and follow its answer."""
        self._event = event
        if self._progress is not None:
            self.follow(self._progress(event))

    def poll(self) -> Control:
        """Return the control of the moment."""
        if self._control is Control.PAUSE:
            self.show(self._event)
        return self._control

    def follow(self, answer: object) -> None:
        """Take an answer; "keep" and "discard" are final, and what is no text counts as "go"."""
        names = [control.value for control in Control]
        if isinstance(answer, str) and answer not in names:
            why = f"it should answer None or one of: {', '.join(names)}"
            near = get_close_matches(answer, names, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else "Return None to go on."
            raise RefusedError(
                "setting-wrong", field="progress", value=shorten_repr(answer), why=why, hint=hint
            )
        if self._control not in (Control.KEEP, Control.DISCARD):
            self._control = Control(answer) if isinstance(answer, str) else Control.GO


def make_keep_after_control(
    iterations: int | str | None, poll_control: PollControl = lambda: Control.GO
) -> PollControl:
    """Return a callable for `poll_control` that keeps the result after a number of iterations.

    The learning rates stay those of the complete run, so a result that a user kept can be
    reproduced. In a run of several fits, the iterations of all fits and of their final inference
    are counted together. The number is then approximate.

    Parameters
    ----------
    iterations : int or str or None
        Number of iterations, also as text from the command line; None: no limit.
    poll_control : callable
        Returns the other controls of the user.

    Raises
    ------
    RefusedError
        If `iterations` is not a whole number above 0.
    """
    if iterations is None:
        return poll_control
    try:
        max_iterations = int(iterations)
    except ValueError:
        max_iterations = 0
    if max_iterations < 1 or isinstance(iterations, bool):
        raise RefusedError(
            "setting-wrong",
            field="keep_after",
            value=repr(iterations),
            why="it should be a whole number above 0",
            hint="Leave it out to let the run end by itself.",
        )
    counter = count()

    def poll() -> Control:
        control = poll_control()
        if control is not Control.GO:
            return control
        return Control.KEEP if next(counter) >= max_iterations else control

    return poll


class Run:
    """A run that goes on while its events are read, as `napari_dip.run` returns it.

    Its methods take effect at the next iteration, and may be called from another thread. A loop
    that has paused its own run gets the last event again, every tenth of a second.

    Attributes
    ----------
    plan : Plan
    """

    def __init__(
        self, plan: Plan, start: Callable[[PollControl], Generator[Event, None, Restoration | None]]
    ) -> None:
        self.plan: Plan = plan
        self._control, self._has_ended = UserControl(), False
        self._event: Event | None = None
        self._result: Restoration | None = None
        self._steps = start(self._control.poll)

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> Event:
        if self._control.poll() is Control.PAUSE and self._event is not None:
            time.sleep(PAUSE_SECONDS)
            return self._event
        try:
            self._event = next(self._steps)
        except StopIteration as stop:
            if not self._has_ended:
                self._has_ended, self._result = True, stop.value
            raise StopIteration from None
        return self._event

    def pause(self) -> None:
        """Wait without computing."""
        self._control.follow("pause")

    def resume(self) -> None:
        """Go on after a pause."""
        self._control.follow("go")

    def keep(self) -> None:
        """End the run with the best result so far, as "Stop and keep" in the dock does."""
        self._control.follow("keep")

    def discard(self) -> None:
        """End the run without a result."""
        self._control.follow("discard")

    def show(self) -> Restoration:
        """Run to the end, show how it goes, and return the result.

        A notebook with ipywidgets shows preview, loss curve and a button; elsewhere there is a
        line of text. The button and an interrupt (Ctrl-C) keep the best result so far.

        Examples
        --------
        >>> result = dip.run("denoise", image, preset="fast", max_iterations=10).show()
        <BLANKLINE>
        ...
        """
        draw = _make_widget(self) or _print_event
        with _keep_at_interrupt(self):
            for event in self:
                draw(event)
        print()
        return self.result

    @property
    def result(self) -> Restoration:
        """Result of the run; `RefusedError` before its end, `FailedError` if there is none."""
        if not self._has_ended:
            raise RefusedError("result-early")
        if self._result is None:
            raise FailedError("result-none")
        return self._result

    def __repr__(self) -> str:
        """Return one line: the plan, and whether the run has ended."""
        return f"<Run: {self.plan.work_summary}{', ended' * self._has_ended}>"


def _print_event(event: Event) -> None:
    print(f"\r{event.fraction:4.0%} {event.message:60.60}", end="", flush=True)


def _make_widget(started_run: Run) -> Callable[[Event], None] | None:
    """Return a function that shows an event in a notebook; None without one or ipywidgets."""
    if "ipykernel" not in sys.modules or find_spec("ipywidgets") is None:
        return None
    import ipywidgets
    from IPython.display import display

    bar, label = ipywidgets.FloatProgress(max=1.0), ipywidgets.Label()
    button, picture = ipywidgets.Button(description="Stop and keep"), ipywidgets.Image()
    button.on_click(lambda _: started_run.keep())
    display(ipywidgets.VBox([ipywidgets.HBox([bar, button, label]), picture]))
    losses: dict[int, float | None] = {}

    def draw(event: Event) -> None:
        bar.value, label.value = event.fraction, event.message
        if event.iteration:
            losses[event.iteration] = event.validation_loss
        if event.preview is not None:
            plane = select_middle_plane(event.preview, started_run.plan.header.axes)
            picture.value = plot_overview(None, plane, [*losses.items()], event.best_iteration)

    return draw


@contextmanager
def _keep_at_interrupt(started_run: Run) -> Iterator[None]:
    """Let an interrupt keep the best result so far; handlers belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: started_run.keep())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
