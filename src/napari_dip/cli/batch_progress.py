"""How far each file of a batch is that is worked on now: bars on a terminal, lines in a pipe."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from napari_dip.cli.progress import LINE_SECONDS, describe, facts_of
from napari_dip.cli.words import say

if TYPE_CHECKING:
    from napari_dip.run.events import Event


class Reporter(Protocol):
    """Shows events of several files to whoever watches."""

    def show(self, number: int, event: Event) -> None:
        """Take in one event of a file."""
        ...

    def end(self, number: int) -> None:
        """Take note that a file has come to its end."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


class Nothing:
    """For --quiet."""

    def show(self, number: int, event: Event) -> None:
        """Say nothing."""

    def end(self, number: int) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to leave."""


class Lines:
    """A line at each new kind of work of a file, and one every few seconds for all together."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}

    def show(self, number: int, event: Event) -> None:
        """Print the event if it is time for one."""
        now = time.monotonic()
        words, last = self._seen.get(number, ("", float("-inf")))
        # many at once take turns, so that a log stays one
        if event.words != words or now - last >= LINE_SECONDS * max(1, len(self._seen)):
            say(describe(event))
            self._seen[number] = event.words, now

    def end(self, number: int) -> None:
        """Forget it."""
        self._seen.pop(number, None)

    def close(self) -> None:
        """Nothing to leave."""


class Bars:
    """A bar for each file that is worked on, with iteration, held-out loss and time left."""

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
        self._bars: dict[int, Any] = {}
        self._progress.start()

    def show(self, number: int, event: Event) -> None:
        """Move the bar of this file."""
        if number not in self._bars:
            self._bars[number] = self._progress.add_task("Starting", total=1.0, facts="")
        facts = ", ".join(facts_of(event))
        self._progress.update(
            self._bars[number], description=event.words, completed=event.fraction, facts=facts
        )

    def end(self, number: int) -> None:
        """Take its bar away."""
        if number in self._bars:
            self._progress.remove_task(self._bars.pop(number))

    def close(self) -> None:
        """Take all bars away; what there is to say stays."""
        self._progress.stop()


def side_by_side_reporter(quiet: bool) -> Reporter:
    """Choose how events are shown here."""
    if quiet:
        return Nothing()
    return Bars() if sys.stderr.isatty() else Lines()
