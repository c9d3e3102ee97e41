"""What is said on the command line, and in which stream.

Messages go to the error stream, so that the output stream holds nothing but the path of the
result.

Ctrl-C keeps the best so far; a second one gives up.
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

from napari_dip.errors import Failed, refusal
from napari_dip.errors.fault import make_lines_printable, make_printable
from napari_dip.errors.notes import make_note
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

#: What a command answers the shell: done, failed, refused before work, interrupted (128 + SIGINT).
EXIT_SUCCESS, EXIT_FAILURE, EXIT_REFUSAL, EXIT_INTERRUPT = 0, 1, 2, 130
#: The experiments of `explore`, with what they show.
EXPERIMENT_SUMMARIES = {
    "architectures": "Fit several networks to an image, and say which prior suits it.",
    "features": "Show what layers of a network keep of an image, by three priors each.",
    "impedance": "Fit an image, the same with noise, its pixels shuffled, and noise: energies.",
    "spectrum": "Watch which frequencies of an image are learned when, and where to stop.",
}
COMMANDS = (*TASKS, "batch", "noise", "explore", "plan", "methods", "doctor", "demo")
#: How alike a slip and what was meant are at least, from 0 to 1: with the 0.6 of difflib '--dark'
#: is taken for '--mask', with 0.7 '--sharpness' for '--sharing'.
_MIN_NAME_SIMILARITY = 0.8
#: What the time that a plan tells holds for.
PLAN_TIME_NOTE = "The time holds if this computer does nothing else."


def summarise_task(task: type[Task]) -> str:
    """Say in a sentence what a task does, as its module begins with it behind the name."""
    facts = (getmodule(task).__doc__ or task.title).strip().splitlines()[0].partition(": ")
    text = facts[2] or facts[0]
    return text[:1].upper() + text[1:]


def print_message(text: str) -> None:
    """Print a message to the error stream; where that takes nothing, work goes on without."""
    with suppress(OSError, ValueError):
        _write_stream(text, sys.stderr)


def print_result(text: str, *, saved: bool = False) -> None:
    """Print a result to the output stream.

    Parameters
    ----------
    text : str
    saved : bool
        Whether what it speaks of is kept in a file: then nothing is lost where it cannot be
        printed.

    Raises
    ------
    BrokenPipeError
        If whoever read our output has gone.
    Failed
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


def make_print_failure(error: Exception | None = None) -> Failed:
    """Say that what was asked for could not be printed; without an error, to a closed stream."""
    why = "the output stream is closed" if error is None else describe_exception(error)
    return Failed(refusal("output-unprinted", why=why))


def use_streams() -> None:
    """Make the streams that this process was given fit for use.

    One that is closed leaves its number to the first file that is opened, and what a library says
    would be written into that.
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
    """Send what a stream still holds nowhere: it would be tried, and fail, again at the end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is open and leads to a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def name_options(no: Refusal, tokens: Sequence[str]) -> Refusal:
    """Name a setting as it was typed: '--max-iterations' instead of 'max_iterations'."""
    for option in (token.partition("=")[0] for token in tokens if no.code == "setting-wrong"):
        if option[:2] == "--" and no.facts["field"] == option[2:].replace("-", "_"):
            return replace(no, facts={**no.facts, "field": option})
    return no


def describe_axes(source: ImageSpec) -> tuple[Note, ...]:
    """Say what the axes of a stack are taken for, where its file does not name them."""
    if not source.guessed or source.axes in ("YX", "YXS"):
        return ()
    facts = {"name": make_printable(source.name), "axes": source.axes}
    return (make_note("axes-guessed", **facts),)


def convert_parser_error(error: CycloptsError, tokens: Sequence[str]) -> Refusal:
    """Turn what the parser found wrong into one of our refusals."""
    chain = " ".join(("napari-dip", *(error.command_chain or ())))
    help_line = f"{chain} --help"
    printable = make_printable((error.unused_tokens or [""])[0])
    if isinstance(error, UnknownOptionError):
        return _refuse_unknown_option(error, help_line)
    if isinstance(error, UnknownCommandError):
        return _refuse_unknown_command(error, tokens, printable)
    if isinstance(error, UnusedCliTokensError):
        return refusal("argument-extra", found=printable, help=help_line)
    if isinstance(error, RepeatArgumentError):
        return refusal("option-twice", option=make_printable(error.token.keyword or ""))
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return _refuse_missing_argument(error, tokens, help_line)
    why = make_printable(str(error).strip().splitlines()[0].rstrip(".?"))
    return refusal("command-line", why=why, help=help_line)


def _refuse_unknown_option(error: UnknownOptionError, help_line: str) -> Refusal:
    option = error.token.keyword or error.token.value
    name = option.partition("=")[0]
    if not os.path.lexists(option):
        names = [name for item in error.argument_collection for name in item.names]
        if near := get_close_matches(
            f"--{name.lstrip('-')}", names, n=1, cutoff=_MIN_NAME_SIMILARITY
        ):
            return refusal("option-misspelt", found=name, near=near[0], help=help_line)
        if not _is_name(option):
            return refusal("option-unknown", found=name, help=help_line)
    return refusal("input-dash", found=option, help=help_line)


def _is_name(token: str) -> bool:
    """Whether what begins with a dash is the name of a file rather than an option."""
    option = token.startswith("--") or len(token.partition("=")[0]) == 2
    return token.startswith("-") and (not option or os.path.lexists(token))


def _refuse_unknown_command(
    error: UnknownCommandError, tokens: Sequence[str], residual: str
) -> Refusal:
    names: tuple[str, ...] = COMMANDS
    begin = ""
    if tokens and tokens[0] == "explore":
        names, begin = tuple(EXPERIMENT_SUMMARIES), "explore "
    elif error.command_chain or (tokens and tokens[0] == "plan"):
        names, begin = tuple(TASKS), "plan "
    text = f"{begin}{residual}"
    if near := get_close_matches(residual.casefold(), names, n=1):
        help_line = f"napari-dip {begin}--help"
        return refusal("command-misspelt", found=text, near=f"{begin}{near[0]}", help=help_line)
    return refusal("command-unknown", found=text, known=", ".join(names))


def _refuse_missing_argument(
    error: MissingArgumentError, tokens: Sequence[str], help_line: str
) -> Refusal:
    assert error.argument is not None
    names = error.argument.names
    options = list(takewhile(lambda token: token != "--", tokens))  # what follows is a file
    values = next((name for name in names if name in options), None)
    if values is not None:
        value = "".join(options[options.index(values) + 1 :][:1])
        if _is_name(value):
            return refusal("value-dash", found=value, option=values, help=help_line)
        return refusal("option-value", option=values, help=help_line)
    for token in (token.partition("=")[0] for token in options if token.startswith("--")):
        if near := get_close_matches(token, names, n=1, cutoff=_MIN_NAME_SIMILARITY):
            return refusal("option-misspelt", found=token, near=near[0], help=help_line)
    if not names or not names[0].startswith("-"):
        missing = "the recipe file" if names[:1] == ("RECIPE",) else "the image file"
        return refusal("argument-missing", argument=missing, help=help_line)
    place = " before '--'" if len(options) < len(tokens) else ""
    return refusal("argument-missing", argument=f"the option {names[-1]}{place}", help=help_line)


def _write_stream(text: str, stream: TextIO | None) -> None:
    """Print what a terminal can be shown of a text: all that is printed goes through here."""
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encoded = make_lines_printable(text).encode(encoding, "replace").decode(encoding)
    try:
        print(encoded, file=stream, flush=True)
    except (OSError, ValueError):
        discard_stream(stream)
        raise


_INTERRUPT_MESSAGE = "Stopping; the best picture so far is kept. Press Ctrl-C again to give it up."


class Interrupt:
    """Listens to Ctrl-C and to the signal that ends programs, for as long as a run takes.

    Parameters
    ----------
    quiet : bool
        Whether to say nothing when asked.
    said : str
        What is said when asked for the first time.

    Attributes
    ----------
    is_requested : bool
        Whether someone wants the run to end.
    """

    def __init__(self, *, quiet: bool = False, said: str = _INTERRUPT_MESSAGE) -> None:
        self.is_requested = False
        self._quiet = quiet
        self._said = f"\n{said}\n".encode()
        self._before: dict[int, Any] = {}

    def control(self) -> Control:
        """Answer the run's question at every step."""
        return Control.KEEP if self.is_requested else Control.GO

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        if not self._quiet:
            with suppress(OSError):  # a stream may be in use right now, so not through one
                os.write(2, self._said)
