"""Print messages, results and progress, and handle Ctrl-C.

Messages go to the error stream, so that the output stream holds only results. The first Ctrl-C
keeps the best image so far; the second one aborts.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

from napari_dip.errors import FailedError
from napari_dip.errors.templates import format_duration, make_lines_printable, make_printable
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.progress import drain_generator

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

#: Exit code of a command that is done.
EXIT_SUCCESS = 0
#: Exit code if work began and failed.
EXIT_FAILURE = 1
#: Exit code of a refusal before work.
EXIT_REFUSAL = 2
#: Exit code of an interrupted command: 128 + SIGINT, as of a shell.
EXIT_INTERRUPT = 130
#: Condition under which the time of a plan holds.
PLAN_TIME_NOTE = "The time holds if this computer does nothing else."
_INTERRUPT_MESSAGE = "Stopping; the best image so far is kept. Press Ctrl-C again to give it up."
#: Seconds between two lines in a pipe: enough to see progress, few enough for a log.
MIN_LINE_SECONDS = 5.0
#: Number of a run outside a batch; those of a batch start at 1.
SINGLE_RUN = 0
#: Number that stands for the batch itself among the runs of a batch.
WHOLE_BATCH = -1


def print_message(text: str) -> None:
    """Print a message to the error stream; ignore a broken stream."""
    with suppress(OSError, ValueError):
        _write_stream(text, sys.stderr)


def print_lines(*lines: object, is_quiet: bool) -> None:
    """Print messages, unless the command is to be quiet."""
    for line in () if is_quiet else lines:
        print_message(str(line))


def print_result(text: str, *, is_saved: bool = False) -> None:
    """Print a result to the output stream.

    Parameters
    ----------
    text : str
    is_saved : bool
        Whether the result is also in a file. An error of the stream is then ignored.

    Raises
    ------
    BrokenPipeError
        If the reader of our output is gone.
    FailedError
        If it cannot be printed for another reason.
    """
    if sys.stdout is None and not is_saved:
        raise make_print_failure()
    try:
        _write_stream(text, sys.stdout)
    except BrokenPipeError:
        if not is_saved:
            raise
    except (OSError, ValueError) as error:
        if not is_saved:
            raise make_print_failure(error) from None


def make_print_failure(error: Exception | None = None) -> FailedError:
    """Return the failure of printing a result; without an error, the stream is closed."""
    why = "the output stream is closed" if error is None else describe_exception(error)
    return FailedError("print-failed", why=why)


def prepare_streams() -> None:
    """Replace closed standard streams, and let all streams print any letter.

    The descriptor of a closed stream goes to the next file that is opened. Messages of libraries
    would then be written into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_stream(stream: TextIO) -> None:
    """Discard the buffer of a stream, which would otherwise be written, and fail, again at exit."""
    with suppress(OSError, ValueError):
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, stream.fileno())
        os.close(null_device)


def _write_stream(text: str, stream: TextIO | None) -> None:
    """Print the printable part of a text; all output passes through this function."""
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    printable = make_lines_printable(text).encode(encoding, "replace").decode(encoding)
    try:
        print(printable, file=stream, flush=True)
    except (OSError, ValueError):
        discard_stream(stream)
        raise


class InterruptCatcher:
    """Catch Ctrl-C and SIGTERM during a run.

    Parameters
    ----------
    is_quiet : bool
        Whether to print nothing on the first signal.
    message : str
        Message that is printed on the first signal.

    Attributes
    ----------
    is_requested : bool
        Whether the user asked the run to end.
    """

    def __init__(self, *, is_quiet: bool = False, message: str = _INTERRUPT_MESSAGE) -> None:
        self.is_requested: bool = False
        self._is_quiet = is_quiet
        self._message = f"\n{message}\n".encode()
        self._previous_handlers: dict[int, Any] = {}

    def poll_control(self) -> Control:
        """Return KEEP once the user asked the run to end; polled at every iteration."""
        return Control.KEEP if self.is_requested else Control.GO

    def __enter__(self) -> InterruptCatcher:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._previous_handlers[number] = signal.signal(number, self._handle_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous_handler in self._previous_handlers.items():
            signal.signal(number, previous_handler)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        if not self._is_quiet:
            with suppress(OSError):  # a signal handler must not print through a Python stream
                os.write(2, self._message)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C and SIGTERM while the process ends, which must not change its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Reporter:
    """Show the events of one run, or of several by their numbers; this one shows nothing."""

    def show(self, event: Event, number: int = SINGLE_RUN) -> None:
        """Show an event of a run."""

    def end(self, number: int) -> None:
        """Remove a finished run."""

    def close(self) -> None:
        """Restore the terminal."""


def run_and_show(
    events: Generator[Event, None, Restoration | None], *, is_quiet: bool = False
) -> Restoration | None:
    """Run to the end and show the progress."""
    with closing(choose_reporter(is_quiet, SINGLE_RUN)) as reporter:
        return drain_generator(events, reporter.show)


def describe_end(result: Restoration) -> str:
    """Return how long a run took, where known, and why it ended."""
    seconds = result.report.get("seconds")
    duration = f" in {format_duration(seconds, is_bound=False)}" if seconds else ""
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
        if event.message != text or now - last >= MIN_LINE_SECONDS * max(1, len(self._last_lines)):
            print_message(format_event(event))
            self._last_lines[number] = event.message, now

    def end(self, number: int) -> None:
        """Forget the run."""
        self._last_lines.pop(number, None)


class BarReporter(Reporter):
    """Show a bar for each run, with iteration, validation loss and remaining time.

    Parameters
    ----------
    *runs : int
        Numbers of runs whose bars appear before their first event.
    """

    def __init__(self, *runs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns: list[Any] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        ]
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True)
        self._bars = {number: self._add_bar() for number in runs}
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


def choose_reporter(is_quiet: bool, *runs: int) -> Reporter:
    """Choose the reporter for this terminal."""
    if is_quiet:
        return Reporter()
    stream: TextIO | None = sys.stderr
    is_terminal = stream is not None and not stream.closed and stream.isatty()
    return BarReporter(*runs) if is_terminal else LineReporter()
