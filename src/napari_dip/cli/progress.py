"""How far work is, one run or several side by side: bars, lines now and then, or nothing."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from napari_dip.cli.terminal import is_terminal, print_message
from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.events import drain_generator
from napari_dip.pipeline.machine import format_duration

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_dip.pipeline.events import Event, Restoration

#: Seconds between two lines in a pipe: enough to see that it lives, few enough for a log.
LINE_SECONDS = 5.0
#: The number of a run that is alone; those of a batch count from 1.
SINGLE_RUN = 0


class Reporter(Protocol):
    """Shows events of one run, or of several by their numbers, to whoever watches."""

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Take in one event of a run."""
        ...

    def end(self, number: int) -> None:
        """Take note that a run of several has come to its end."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def run_and_show(
    events: Generator[Event, None, Restoration | None], *, quiet: bool = False
) -> Restoration | None:
    """Run to the end and show how far it is."""
    with closing(choose_reporter(quiet, SINGLE_RUN)) as reporter:
        return drain_generator(events, reporter.show)


def format_event(event: Event) -> str:
    """One line about an event, as it is printed into a pipe."""
    return ", ".join((event.message, *list_event_facts(event)))


def list_event_facts(event: Event) -> list[str]:
    """Return what is known beside the words, which name the part where there are several."""
    parts = []
    if event.iteration:
        parts.append(f"iteration {event.iteration} of {event.iterations}")
    if event.held_out_loss is not None:
        parts.append(f"held-out loss {event.held_out_loss:.4f}")
    if event.seconds_left is not None:
        parts.append(f"at most {format_duration(event.seconds_left)} left")
    return parts


class SilentReporter:
    """For --quiet."""

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Say nothing."""

    def end(self, number: int) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to leave."""


class LineReporter:
    """A line at each new kind of work of a run, and one every few seconds for all together."""

    def __init__(self) -> None:
        self._last_lines: dict[int, tuple[str, float]] = {}

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Print the event if it is time for one."""
        now = time.monotonic()
        text, last = self._last_lines.get(number, ("", float("-inf")))
        # many at once take turns, so that a log stays one
        if event.message != text or now - last >= LINE_SECONDS * max(1, len(self._last_lines)):
            print_message(format_event(event))
            self._last_lines[number] = event.message, now

    def end(self, number: int) -> None:
        """Forget it."""
        self._last_lines.pop(number, None)

    def close(self) -> None:
        """Nothing to leave."""


class BarReporter:
    """A bar for each run that is on, with iteration, held-out loss and time left.

    Parameters
    ----------
    *expected : int
        Numbers of runs whose bars stand there before their first event.
    """

    def __init__(self, *expected: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns: list[Any] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        ]
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True)
        self._bars = {number: self._added() for number in expected}
        self._progress.start()

    def _added(self) -> Any:
        return self._progress.add_task("Starting", total=1.0, facts="")

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Move the bar of this run."""
        if number not in self._bars:
            self._bars[number] = self._added()
        facts = ", ".join(list_event_facts(event))
        printable = make_printable(event.message)  # rich lets escapes through
        self._progress.update(
            self._bars[number], description=printable, completed=event.fraction, facts=facts
        )

    def end(self, number: int) -> None:
        """Take its bar away."""
        if number in self._bars:
            self._progress.remove_task(self._bars.pop(number))

    def close(self) -> None:
        """Take all bars away; what there is to say stays."""
        self._progress.stop()


def choose_reporter(quiet: bool, *expected: int) -> Reporter:
    """Choose how events are shown here."""
    if quiet:
        return SilentReporter()
    return BarReporter(*expected) if is_terminal(sys.stderr) else LineReporter()
