"""Define the commands of `napari-dip`, run one, and return its exit code.

Exit codes: 0 done, 1 failed, 2 refused before work began, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from napari_dip.cli.options import (
    DEFAULT_GROUP,
    add_old_names,
    make_batch_arguments,
    make_camera_arguments,
    make_command,
    make_explore_arguments,
    make_flag,
    make_noise_arguments,
    make_output_arguments,
    make_plan_arguments,
    make_positional,
    sort_arguments,
)
from napari_dip.cli.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPT,
    EXIT_REFUSAL,
    EXIT_SUCCESS,
    convert_parser_error,
    discard_stream,
    make_print_failure,
    name_options,
    print_message,
    summarise_task,
    use_streams,
)
from napari_dip.errors import FailedError, RefusedError, make_refusal
from napari_dip.errors.fault import make_lines_printable
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.io.paths import check_working_folder
from napari_dip.pipeline.machine import is_memory_error
from napari_dip.pipeline.recipe import (
    OLD_EXPERIMENT_SETTINGS,
    OLD_INPUTS,
    OLD_SETTINGS,
    OLD_SWITCHES,
)
from napari_dip.tasks import TASKS
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Options that the parser handles itself.
_PARSER_OPTIONS = frozenset(("--help", "-h", "--version"))
_ABOUT = """Restore one noisy microscopy image with an untrained network fitted to it alone.

Start with 'napari-dip demo', or 'napari-dip denoise IN -o OUT.tif'."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

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
        use_streams()
        _hush_libraries()
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        if _PARSER_OPTIONS.isdisjoint(tokens):
            check_working_folder()
        return _run_command(tokens)
    except CycloptsError as error:
        print_message(convert_parser_error(error, tokens).message)
        return EXIT_REFUSAL
    except RefusedError as error:
        print_message(name_options(error.refusal, tokens).message)
        return EXIT_REFUSAL
    except FailedError as failure:
        print_message(failure.refusal.message)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print_message("Interrupted; nothing was saved.")
        return EXIT_INTERRUPT
    except BrokenPipeError:  # the reader of our output is gone
        return EXIT_FAILURE
    except Exception as error:
        return _report_unexpected_error(error)


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
    plan = App(name="plan", help="Say what a run would do and cost, without running it.")
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
    for name, row in EXPERIMENTS.items():
        arguments = add_old_names(make_explore_arguments(row), OLD_EXPERIMENT_SETTINGS)
        command = make_command("commands:run_explore_command", arguments, row.summary, name)
        explore.command(command, name=name)
    batch_arguments = add_old_names(make_batch_arguments(), {**OLD_INPUTS, **OLD_SWITCHES})
    result = "The result, as napari-dip saved it (TIFF), or the report of its run (JSON)."
    for name, target, arguments, help_text in (
        (
            "batch",
            "batch:run_batch_command",
            batch_arguments,
            "Run one recipe on many files; what cannot be restored stops nothing else.",
        ),
        (
            "noise",
            "commands:run_noise_command",
            make_noise_arguments(),
            "Measure the noise of an image, without restoring it: gain, read noise, correlation.",
        ),
        (
            "camera-maps",
            "commands:make_maps",
            make_camera_arguments(),
            "Make maps of an sCMOS camera: offset, gain and read noise of each pixel.",
        ),
        (
            "methods",
            "commands:run_methods_command",
            [make_positional("result", "RESULT", result)],
            "Write the methods section of a result: what was done, with what, and the references.",
        ),
        (
            "doctor",
            "commands:run_doctor_command",
            [make_flag("as_json", "Print everything as JSON.", DEFAULT_GROUP, name="--json")],
            "Look at this computer: versions, devices, memory, and how to mend what is missing.",
        ),
    ):
        app.command(make_command(target, arguments, help_text), name=name)
    app.command(plan)
    app.command(explore)
    app.command(_run_demo, name="demo")
    return app


def _run_demo(
    *,
    window: Annotated[bool | None, Parameter(show_default=False)] = None,
    preset: Literal["fast", "balanced", "best"] = "fast",
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


def _report_unexpected_error(error: Exception) -> int:
    """Print one sentence about an unexpected error, and write the traceback to a log file."""
    import tempfile
    import traceback

    from napari_dip.io.paths import describe_exception

    if is_memory_error(error):
        print_message(make_refusal("memory-out", name="the image").message)
        return EXIT_FAILURE
    print_message(make_refusal("unexpected", why=describe_exception(error)).message)
    with suppress(OSError):  # the disk may be full
        with tempfile.NamedTemporaryFile(
            "w", prefix="napari-dip-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(make_lines_printable("".join(traceback.format_exception(error))))
        print_message(f"Log: {log.name}")
    return EXIT_FAILURE


def _hush_libraries() -> None:
    """Silence the warnings of libraries; `python -W` brings them back."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
