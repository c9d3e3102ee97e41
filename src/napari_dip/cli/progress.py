"""Show the progress of one or several runs as bars, as log lines, or not at all."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from napari_dip.cli.terminal import is_terminal, print_message
from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.events import drain_generator
from napari_dip.pipeline.machine import format_duration

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_dip.pipeline.events import Event, Restoration

#: Seconds between two lines in a pipe: enough to see progress, few enough for a log.
LINE_SECONDS = 5.0
#: Number of a run outside a batch; those of a batch start at 1.
SINGLE_RUN = 0
#: Number of the batch itself.
WHOLE_BATCH = -1


class Reporter:
    """Show the events of one run, or of several by their numbers; this one shows nothing."""

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Show an event of a run."""

    def end(self, number: int) -> None:
        """Remove a finished run."""

    def close(self) -> None:
        """Restore the terminal."""


def run_and_show(
    events: Generator[Event, None, Restoration | None], *, quiet: bool = False
) -> Restoration | None:
    """Run to the end and show the progress."""
    with closing(choose_reporter(quiet, SINGLE_RUN)) as reporter:
        return drain_generator(events, reporter.show)


def describe_end(result: Restoration) -> str:
    """Return how long a run took, where known, and why it ended."""
    seconds = result.report.get("seconds")
    duration = f" in {format_duration(seconds)}" if seconds else ""
    return f"Done{duration}, since {result.stop}."


def format_event(event: Event) -> str:
    """Return the line that is printed into a pipe for an event."""
    return ", ".join((event.message, *list_event_facts(event)))


def list_event_facts(event: Event) -> list[str]:
    """Return iteration, validation loss and remaining time of an event, where known."""
    facts = []
    if event.iteration:
        facts.append(f"iteration {event.iteration} of {event.iterations}")
    if event.validation_loss is not None:
        facts.append(f"validation loss {event.validation_loss:.4f}")
    if event.seconds_left is not None:
        facts.append(f"at most {format_duration(event.seconds_left)} left")
    return facts


class LineReporter(Reporter):
    """Print a line at each new step of a run, and else one every few seconds."""

    def __init__(self) -> None:
        self._last_lines: dict[int, tuple[str, float]] = {}

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Print the event if it is due."""
        now = time.monotonic()
        text, last = self._last_lines.get(number, ("", float("-inf")))
        # parallel runs take turns, so that the log stays short
        if event.message != text or now - last >= LINE_SECONDS * max(1, len(self._last_lines)):
            print_message(format_event(event))
            self._last_lines[number] = event.message, now

    def end(self, number: int) -> None:
        """Forget the run."""
        self._last_lines.pop(number, None)


class BarReporter(Reporter):
    """Show a bar for each run, with iteration, validation loss and remaining time.

    Parameters
    ----------
    *expected : int
        Numbers of runs whose bars appear before their first event.
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
        self._bars = {number: self._add_bar() for number in expected}
        self._progress.start()

    def _add_bar(self) -> Any:
        return self._progress.add_task("Starting", total=1.0, facts="")

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Update the bar of this run."""
        if number not in self._bars:
            self._bars[number] = self._add_bar()
        facts = ", ".join(list_event_facts(event))
        printable = make_printable(event.message)  # rich does not filter escape sequences
        self._progress.update(
            self._bars[number], description=printable, completed=event.fraction, facts=facts
        )

    def end(self, number: int) -> None:
        """Remove the bar of this run."""
        if number in self._bars:
            self._progress.remove_task(self._bars.pop(number))

    def close(self) -> None:
        """Remove all bars; printed messages stay."""
        self._progress.stop()


def choose_reporter(quiet: bool, *expected: int) -> Reporter:
    """Choose the reporter for this terminal."""
    if quiet:
        return Reporter()
    return BarReporter(*expected) if is_terminal(sys.stderr) else LineReporter()
