"""How far a run is: a bar on a terminal, a line now and then in a pipe, or nothing."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from napari_dip.cli.words import say
from napari_dip.run.draining import drained
from napari_dip.run.plan import duration

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_dip.run.events import Event, Restoration

#: Seconds between two lines in a pipe: enough to see that it lives, few enough for a log.
LINE_SECONDS = 5.0


class Reporter(Protocol):
    """Shows events to whoever watches."""

    def show(self, event: Event) -> None:
        """Take in one event."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def watched(
    events: Generator[Event, None, Restoration | None], *, quiet: bool = False
) -> Restoration | None:
    """Run to the end and show how far it is."""
    with closing(reporter_for(quiet)) as reporter:
        return drained(events, reporter.show)


def describe(event: Event) -> str:
    """One line about an event, as it is printed into a pipe."""
    return ", ".join((event.words, *facts_of(event)))


def facts_of(event: Event) -> list[str]:
    """Return what is known beside the words, which name the part where there are several."""
    parts = []
    if event.iteration:
        parts.append(f"iteration {event.iteration} of {event.iterations}")
    if event.held_out_loss is not None:
        parts.append(f"held-out loss {event.held_out_loss:.4f}")
    if event.seconds_left is not None:
        parts.append(f"at most {duration(event.seconds_left)} left")
    return parts


class Nothing:
    """For --quiet."""

    def show(self, event: Event) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to leave."""


class Lines:
    """A line at each new kind of work, and one every few seconds."""

    def __init__(self) -> None:
        self._words = ""
        self._last = float("-inf")

    def show(self, event: Event) -> None:
        """Print the event if it is time for one."""
        now = time.monotonic()
        if event.words != self._words or now - self._last >= LINE_SECONDS:
            say(describe(event))
            self._words, self._last = event.words, now

    def close(self) -> None:
        """Nothing to leave."""


class Bar:
    """A bar with iteration, held-out loss and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns: list[Any] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        ]
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("Starting", total=1.0, facts="")
        self._progress.start()

    def show(self, event: Event) -> None:
        """Move the bar."""
        facts = ", ".join(facts_of(event))
        self._progress.update(
            self._task, description=event.words, completed=event.fraction, facts=facts
        )

    def close(self) -> None:
        """Take the bar away; what the run has to say stays."""
        self._progress.stop()


def reporter_for(quiet: bool) -> Reporter:
    """Choose how events are shown here."""
    if quiet:
        return Nothing()
    return Bar() if sys.stderr.isatty() else Lines()
