"""Print messages and results, convert parser errors to refusals, and handle Ctrl-C.

Messages go to the error stream, so that the output stream holds only results. The first Ctrl-C
keeps the best picture so far; the second one aborts.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from inspect import getmodule
from io import TextIOWrapper
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TextIO

from cyclopts import (
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from napari_dip.errors import FailedError, make_refusal
from napari_dip.errors.fault import make_lines_printable, make_printable
from napari_dip.errors.notes import make_note
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.events import Control
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks import Task

#: Exit codes: done, failed, refused before work, interrupted (128 + SIGINT).
EXIT_SUCCESS, EXIT_FAILURE, EXIT_REFUSAL, EXIT_INTERRUPT = 0, 1, 2, 130
COMMANDS = (*TASKS, "batch", "noise", "camera-maps", "explore", "plan", "methods", "doctor", "demo")
#: Minimum similarity of a misspelt name to the suggested one, from 0 to 1. With the 0.6 of difflib,
#: '--dark' would suggest '--mask'; with 0.7, '--sharpness' would suggest '--sharing'.
_MIN_NAME_SIMILARITY = 0.8
#: Condition under which the time of a plan holds.
PLAN_TIME_NOTE = "The time holds if this computer does nothing else."
_INTERRUPT_MESSAGE = "Stopping; the best picture so far is kept. Press Ctrl-C again to give it up."


def summarise_task(task: type[Task]) -> str:
    """Return the summary of a task: the first line of its module's docstring, after the name."""
    line_parts = (
        (getmodule(task).__doc__ or task.spec.title).strip().splitlines()[0].partition(": ")
    )
    summary = line_parts[2] or line_parts[0]
    return summary[:1].upper() + summary[1:]


def print_message(text: str) -> None:
    """Print a message to the error stream; ignore a broken stream."""
    with suppress(OSError, ValueError):
        _write_stream(text, sys.stderr)


def print_result(text: str, *, saved: bool = False) -> None:
    """Print a result to the output stream.

    Parameters
    ----------
    text : str
    saved : bool
        Whether the result is also in a file. An error of the stream is then ignored.

    Raises
    ------
    BrokenPipeError
        If the reader of our output is gone.
    FailedError
        If it cannot be printed for another reason.
    """
    if sys.stdout is None and not saved:
        raise make_print_failure()
    try:
        _write_stream(text, sys.stdout)
    except BrokenPipeError:
        if not saved:
            raise
    except (OSError, ValueError) as error:
        if not saved:
            raise make_print_failure(error) from None


def make_print_failure(error: Exception | None = None) -> FailedError:
    """Return the failure of printing a result; without an error, the stream is closed."""
    why = "the output stream is closed" if error is None else describe_exception(error)
    return FailedError("output-unprinted", why=why)


def use_streams() -> None:
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


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is open and leads to a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def name_options(refusal: Refusal, tokens: Sequence[str]) -> Refusal:
    """Name a setting in a refusal as typed: '--max-iterations' instead of 'max_iterations'."""
    for option in (token.partition("=")[0] for token in tokens if refusal.code == "setting-wrong"):
        if option[:2] == "--" and refusal.facts["field"] == option[2:].replace("-", "_"):
            return replace(refusal, facts={**refusal.facts, "field": option})
    return refusal


def describe_axes(source: ImageSpec) -> tuple[Note, ...]:
    """Return a note about the assumed axes of a stack whose file does not name them."""
    if not source.has_guessed_axes or source.axes in ("YX", "YXS"):
        return ()
    return (make_note("axes-guessed", name=source.name, axes=source.axes),)


def convert_parser_error(error: CycloptsError, tokens: Sequence[str]) -> Refusal:
    """Convert an error of the parser to a refusal."""
    chain = " ".join(("napari-dip", *(error.command_chain or ())))
    help_line = f"{chain} --help"
    printable = make_printable((error.unused_tokens or [""])[0])
    if isinstance(error, UnknownOptionError):
        return _refuse_unknown_option(error, help_line)
    if isinstance(error, UnknownCommandError):
        return _refuse_unknown_command(error, tokens, printable)
    if isinstance(error, UnusedCliTokensError):
        return make_refusal("argument-extra", found=printable, help=help_line)
    if isinstance(error, RepeatArgumentError):
        return make_refusal("option-twice", option=error.token.keyword or "")
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return _refuse_missing_argument(error, tokens, help_line)
    return make_refusal(
        "command-line", why=str(error).strip().splitlines()[0].rstrip(".?"), help=help_line
    )


def _refuse_unknown_option(error: UnknownOptionError, help_line: str) -> Refusal:
    option = error.token.keyword or error.token.value
    name = option.partition("=")[0]
    if not os.path.lexists(option):
        names = [name for argument in error.argument_collection for name in argument.names]
        if close_matches := get_close_matches(
            f"--{name.lstrip('-')}", names, n=1, cutoff=_MIN_NAME_SIMILARITY
        ):
            return make_refusal(
                "option-misspelt", found=name, near=close_matches[0], help=help_line
            )
        if not _is_name(option):
            return make_refusal("option-unknown", found=name, help=help_line)
    return make_refusal("input-dash", found=option, help=help_line)


def _is_name(token: str) -> bool:
    """Return whether a token with a leading dash is a file name rather than an option."""
    option = token.startswith("--") or len(token.partition("=")[0]) == 2
    return token.startswith("-") and (not option or os.path.lexists(token))


def _refuse_unknown_command(
    error: UnknownCommandError, tokens: Sequence[str], residual: str
) -> Refusal:
    names: tuple[str, ...] = COMMANDS
    begin = ""
    if tokens and tokens[0] == "explore":
        names, begin = tuple(EXPERIMENTS), "explore "
    elif error.command_chain or (tokens and tokens[0] == "plan"):
        names, begin = tuple(TASKS), "plan "
    command = f"{begin}{residual}"
    if close_matches := get_close_matches(residual.casefold(), names, n=1):
        help_line = f"napari-dip {begin}--help"
        return make_refusal(
            "command-misspelt", found=command, near=f"{begin}{close_matches[0]}", help=help_line
        )
    return make_refusal("command-unknown", found=command, known=", ".join(names))


def _refuse_missing_argument(
    error: MissingArgumentError, tokens: Sequence[str], help_line: str
) -> Refusal:
    assert error.argument is not None
    names = error.argument.names
    options = list(takewhile(lambda token: token != "--", tokens))  # what follows is a file
    option_name = next((name for name in names if name in options), None)
    if option_name is not None:
        value = "".join(options[options.index(option_name) + 1 :][:1])
        if _is_name(value):
            return make_refusal("value-dash", found=value, option=option_name, help=help_line)
        return make_refusal("option-value", option=option_name, help=help_line)
    for token in (token.partition("=")[0] for token in options if token.startswith("--")):
        if close_matches := get_close_matches(token, names, n=1, cutoff=_MIN_NAME_SIMILARITY):
            return make_refusal(
                "option-misspelt", found=token, near=close_matches[0], help=help_line
            )
    if not names or not names[0].startswith("-"):
        missing = "the recipe file" if names[:1] == ("RECIPE",) else "the image file"
        return make_refusal("argument-missing", argument=missing, help=help_line)
    position_hint = " before '--'" if len(options) < len(tokens) else ""
    return make_refusal(
        "argument-missing", argument=f"the option {names[-1]}{position_hint}", help=help_line
    )


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


class Interrupt:
    """Catch Ctrl-C and SIGTERM during a run.

    Parameters
    ----------
    quiet : bool
        Whether to print nothing on the first signal.
    message : str
        Message that is printed on the first signal.

    Attributes
    ----------
    is_requested : bool
        Whether the user asked the run to end.
    """

    def __init__(self, *, quiet: bool = False, message: str = _INTERRUPT_MESSAGE) -> None:
        self.is_requested = False
        self._quiet = quiet
        self._message = f"\n{message}\n".encode()
        self._previous_handlers: dict[int, Any] = {}

    def poll_control(self) -> Control:
        """Return KEEP once the user asked the run to end; polled at every iteration."""
        return Control.KEEP if self.is_requested else Control.GO

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._previous_handlers[number] = signal.signal(number, self._handle_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, previous_handler in self._previous_handlers.items():
            signal.signal(number, previous_handler)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        if not self._quiet:
            with suppress(OSError):  # a signal handler must not print through a Python stream
                os.write(2, self._message)
