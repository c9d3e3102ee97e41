"""Define the commands of `napari-dip`, run one, and return its exit code.

Exit codes: 0 done, 1 failed, 2 refused before work began, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from inspect import getmodule
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from napari_dip.cli.options import (
    COMMAND_SUMMARIES,
    add_old_names,
    load_arguments,
    make_batch_arguments,
    make_command,
    make_explore_arguments,
    make_output_arguments,
    make_plan_arguments,
    make_psf_arguments,
    sort_arguments,
)
from napari_dip.cli.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPT,
    EXIT_REFUSAL,
    EXIT_SUCCESS,
    discard_stream,
    ignore_interrupts,
    make_print_failure,
    prepare_streams,
    print_message,
)
from napari_dip.errors import FailedError, RefusedError, make_refusal
from napari_dip.errors.templates import make_lines_printable, make_printable
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.io.paths import check_working_folder
from napari_dip.pipeline.machine import is_memory_error, make_unexpected_fault
from napari_dip.pipeline.recipe import (
    OLD_EXPERIMENT_SETTINGS,
    OLD_INPUTS,
    OLD_SETTINGS,
    OLD_SWITCHES,
    Preset,
)
from napari_dip.tasks import TASKS
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors import Refusal
    from napari_dip.tasks import Task

#: All commands, in the order of messages.
COMMANDS = (
    *TASKS,
    *("batch", "noise", "camera-maps", "psf", "explore", "plan", "methods", "doctor", "demo"),
)
#: Minimum similarity of a misspelt name to the suggested one, from 0 to 1. With the 0.6 of difflib,
#: '--dark' would suggest '--mask'; with 0.7, '--sharpness' would suggest '--sharing'.
_MIN_NAME_SIMILARITY = 0.8
#: Options that the parser handles itself.
_PARSER_OPTIONS = frozenset(("--help", "-h", "--version"))
_ABOUT = """Restore one noisy microscopy image with an untrained network fitted to it alone.

Start with 'napari-dip demo', or 'napari-dip denoise IN -o OUT.tif'."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    A `RefusedError` is raised before work begins; what ends a run in the middle is a `FailedError`.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name. Default: those of this process.

    Returns
    -------
    int
        Exit code.
    """
    if argv is None:
        prepare_streams()
        _silence_libraries()
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        if _PARSER_OPTIONS.isdisjoint(tokens):
            check_working_folder()
        return _run_command(tokens)
    except CycloptsError as error:
        print_message(_convert_parser_error(error, tokens).message)
        return EXIT_REFUSAL
    except RefusedError as error:
        print_message(_name_setting_as_typed(error.reason, tokens).message)
        return EXIT_REFUSAL
    except FailedError as failure:
        print_message(failure.reason.message)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print_message("Interrupted; nothing was saved.")
        return EXIT_INTERRUPT
    except BrokenPipeError:  # the reader of our output is gone
        return EXIT_FAILURE
    except Exception as error:
        return _report_unexpected_error(error)
    finally:
        if argv is None:
            ignore_interrupts()


def _run_command(tokens: list[str]) -> int:
    """Run a command; the parser prints help and version itself and returns no exit code."""
    try:
        outcome = _build_app()(tokens, exit_on_error=False, print_error=False)
    except OSError as error:
        if error.filename is not None or _PARSER_OPTIONS.isdisjoint(tokens):
            raise
        discard_stream(sys.stdout)
        raise make_print_failure(error) from None
    if outcome is None and sys.stdout is None:
        raise make_print_failure()
    return outcome if isinstance(outcome, int) else EXIT_SUCCESS


def _build_app() -> App:
    app = App(name="napari-dip", version=__version__, help=_ABOUT, result_action="return_value")
    plan = App(name="plan", help="Show what a run would do and cost, without running it.")
    explore = App(name="explore", help="See the prior: why an untrained network restores.")
    for name, task in TASKS.items():
        names = {**OLD_SETTINGS.get(name, {}), **OLD_INPUTS}
        inputs, summary = add_old_names(make_plan_arguments(name), names), summarise_task(task)
        outputs = make_output_arguments(name)
        for parent, target, arguments in (
            (app, "restore:run_restore_command", [*inputs, *outputs]),
            (plan, "restore:run_plan_command", inputs),
        ):
            command = make_command(target, sort_arguments(arguments), summary, name)
            parent.command(command, name=name)
    for name, experiment in EXPERIMENTS.items():
        arguments = add_old_names(make_explore_arguments(experiment), OLD_EXPERIMENT_SETTINGS)
        command = make_command("commands:run_explore_command", arguments, experiment.summary, name)
        explore.command(command, name=name)
    batch_arguments = add_old_names(make_batch_arguments(), {**OLD_INPUTS, **OLD_SWITCHES})
    noise_arguments = ("image_to_measure", "axes", "dark", "flat", "save_figures")
    camera_arguments = ("dark_stacks", "flat_stacks", "camera_map_folder", "overwrite", "quiet")
    arguments_by_command = {
        "batch": batch_arguments,
        "noise": load_arguments(*noise_arguments, "overwrite_report", "print_figures"),
        "camera-maps": load_arguments(*camera_arguments),
        "psf": make_psf_arguments(),
        "methods": load_arguments("result"),
        "doctor": load_arguments("print_everything"),
    }
    for name, help_text in COMMAND_SUMMARIES.items():
        target = f"commands:run_{name.replace('-', '_')}_command"
        command = make_command(target, arguments_by_command[name], help_text)
        app.command(command, name=name)
    app.command(plan)
    app.command(explore)
    app.command(_run_demo, name="demo")
    return app


def _run_demo(
    *, window: Annotated[bool | None, Parameter(show_default=False)] = None, preset: Preset = "fast"
) -> int:
    """Restore the bundled image: in napari, or without a display into the folder demo.

    Parameters
    ----------
    window
        Whether to open napari. Default: if there is a display and napari is installed.
    preset
        How much time to spend without a window.
    """
    from napari_dip.cli.commands import run_demo_command

    return run_demo_command(window, preset)


def summarise_task(task: type[Task]) -> str:
    """Return the summary of a task: the first line of its module's docstring, after the name."""
    first_line = (getmodule(task).__doc__ or task.spec.title).strip().splitlines()[0]
    title, _, text = first_line.partition(": ")
    summary = text or title
    return summary[:1].upper() + summary[1:]


def _name_setting_as_typed(refusal: Refusal, tokens: Sequence[str]) -> Refusal:
    """Name a setting in a refusal as typed: '--max-iterations' instead of 'max_iterations'."""
    for option in (token.partition("=")[0] for token in tokens if refusal.code == "setting-wrong"):
        if option[:2] == "--" and refusal.facts["field"] == option[2:].replace("-", "_"):
            return replace(refusal, facts={**refusal.facts, "field": option})
    return refusal


def _convert_parser_error(error: CycloptsError, tokens: Sequence[str]) -> Refusal:
    """Convert an error of the parser to a refusal."""
    chain = " ".join(("napari-dip", *(error.command_chain or ())))
    help_line = f"{chain} --help"
    printable = make_printable((error.unused_tokens or [""])[0])
    if isinstance(error, UnknownOptionError):
        return _refuse_unknown_option(error, help_line)
    if isinstance(error, UnknownCommandError):
        return _refuse_unknown_command(error, tokens, printable)
    if isinstance(error, UnusedCliTokensError):
        return make_refusal("argument-extra", argument=printable, help=help_line)
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
                "option-misspelt", argument=name, near=close_matches[0], help=help_line
            )
        if not _is_file_name(option):
            return make_refusal("option-unknown", argument=name, help=help_line)
    return make_refusal("input-dash", argument=option, help=help_line)


def _is_file_name(token: str) -> bool:
    """Return whether a token with a leading dash is a file name rather than an option."""
    is_option = token.startswith("--") or len(token.partition("=")[0]) == 2
    return token.startswith("-") and (not is_option or os.path.lexists(token))


def _refuse_unknown_command(
    error: UnknownCommandError, tokens: Sequence[str], name: str
) -> Refusal:
    names: tuple[str, ...] = COMMANDS
    command_prefix = ""
    if tokens and tokens[0] == "explore":
        names, command_prefix = tuple(EXPERIMENTS), "explore "
    elif error.command_chain or (tokens and tokens[0] == "plan"):
        names, command_prefix = tuple(TASKS), "plan "
    command = f"{command_prefix}{name}"
    if close_matches := get_close_matches(name.casefold(), names, n=1):
        help_line = f"napari-dip {command_prefix}--help"
        return make_refusal(
            "command-misspelt",
            argument=command,
            near=f"{command_prefix}{close_matches[0]}",
            help=help_line,
        )
    return make_refusal("command-unknown", argument=command, commands=", ".join(names))


def _refuse_missing_argument(
    error: MissingArgumentError, tokens: Sequence[str], help_line: str
) -> Refusal:
    assert error.argument is not None
    names = error.argument.names
    options = list(takewhile(lambda token: token != "--", tokens))  # what follows is a file
    option_name = next((name for name in names if name in options), None)
    if option_name is not None:
        value = "".join(options[options.index(option_name) + 1 :][:1])
        if _is_file_name(value):
            return make_refusal("value-dash", argument=value, option=option_name, help=help_line)
        return make_refusal("option-value", option=option_name, help=help_line)
    for token in (token.partition("=")[0] for token in options if token.startswith("--")):
        if close_matches := get_close_matches(token, names, n=1, cutoff=_MIN_NAME_SIMILARITY):
            return make_refusal(
                "option-misspelt", argument=token, near=close_matches[0], help=help_line
            )
    if not names or not names[0].startswith("-"):
        missing = "the recipe file" if names[:1] == ("RECIPE",) else "the image file"
        return make_refusal("argument-missing", argument=missing, help=help_line)
    position_hint = " before '--'" if len(options) < len(tokens) else ""
    return make_refusal(
        "argument-missing", argument=f"the option {names[-1]}{position_hint}", help=help_line
    )


def _report_unexpected_error(error: Exception) -> int:
    """Print one sentence about an unexpected error, and write the traceback to a log file."""
    import tempfile
    import traceback

    print_message(make_unexpected_fault(error, "the image").message)
    if is_memory_error(error):
        return EXIT_FAILURE
    with suppress(OSError):  # the disk may be full
        with tempfile.NamedTemporaryFile(
            "w", prefix="napari-dip-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(make_lines_printable("".join(traceback.format_exception(error))))
        print_message(f"Log: {log.name}")
    return EXIT_FAILURE


def _silence_libraries() -> None:
    """Silence the warnings of libraries; `python -W` brings them back."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
