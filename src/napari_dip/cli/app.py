"""Define the commands of `napari-dip`, run one, and return its exit code.

Exit codes: 0 done, 1 failed, 2 refused before work began, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from napari_dip.cli.batch import make_batch_arguments
from napari_dip.cli.options import (
    add_old_names,
    make_camera_arguments,
    make_command,
    make_explore_arguments,
    make_feature_arguments,
    make_flag,
    make_input_arguments,
    make_methods_arguments,
    make_noise_arguments,
    make_output_arguments,
    make_recipe_arguments,
    make_setting_arguments,
    sort_arguments,
)
from napari_dip.cli.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPT,
    EXIT_REFUSAL,
    EXIT_SUCCESS,
    EXPERIMENT_SUMMARIES,
    convert_parser_error,
    discard_stream,
    make_print_failure,
    name_options,
    print_message,
    summarise_task,
    use_streams,
)
from napari_dip.errors import Failed, Refused, make_refusal
from napari_dip.errors.fault import make_lines_printable
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
    except Refused as error:
        print_message(name_options(error.refusal, tokens).message)
        return EXIT_REFUSAL
    except Failed as failure:
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
    for name, task in TASKS.items():
        summary = summarise_task(task)
        input_options = [
            *make_input_arguments(name),
            *make_setting_arguments(name),
            *make_recipe_arguments(),
        ]
        input_options = add_old_names(input_options, {**OLD_SETTINGS.get(name, {}), **OLD_INPUTS})
        arguments = sort_arguments([*input_options, *make_output_arguments(name)])
        app.command(make_command(_make_restore_command(name), arguments, summary), name=name)
        plan.command(
            make_command(_make_plan_command(name), sort_arguments(input_options), summary),
            name=name,
        )
    help_text = "Run one recipe on many files; what cannot be restored stops nothing else."
    arguments = add_old_names(make_batch_arguments(), {**OLD_INPUTS, **OLD_SWITCHES})
    app.command(make_command(_call_batch, arguments, help_text), name="batch")
    help_text = (
        "Measure the noise of an image, without restoring it: gain, read noise, correlation."
    )
    app.command(make_command(_call_noise, make_noise_arguments(), help_text), name="noise")
    help_text = "Make maps of an sCMOS camera: offset, gain and read noise of each pixel."
    app.command(
        make_command(_call_camera_maps, make_camera_arguments(), help_text), name="camera-maps"
    )
    app.command(plan)
    explore = App(name="explore", help="See the prior: why an untrained network restores.")
    for name, help_text in EXPERIMENT_SUMMARIES.items():
        arguments = make_feature_arguments() if name == "features" else make_explore_arguments(name)
        arguments = add_old_names(arguments, OLD_EXPERIMENT_SETTINGS)
        explore.command(make_command(_make_explore_command(name), arguments, help_text), name=name)
    app.command(explore)
    help_text = (
        "Write the methods section of a result: what was done, with what, and the references."
    )
    app.command(make_command(_call_methods, make_methods_arguments(), help_text), name="methods")
    json_flag = make_flag("json", "Print everything as JSON.")
    doctor_help = (
        "Look at this computer: versions, devices, memory, and how to mend what is missing."
    )
    app.command(make_command(_call_doctor, [json_flag], doctor_help), name="doctor")
    app.command(_call_demo, name="demo")
    return app


def _make_restore_command(task: str) -> Any:
    def command(image: str, **options: Any) -> int:
        from napari_dip.cli.restore import run_restore_command

        return run_restore_command(task, image, **options)

    return command


def _make_plan_command(task: str) -> Any:
    def command(image: str, **options: Any) -> int:
        from napari_dip.cli.restore import run_plan_command

        return run_plan_command(task, image, **options)

    return command


def _make_explore_command(experiment: str) -> Any:
    def command(image: str, **options: Any) -> int:
        from napari_dip.cli.explore import explore

        return explore(experiment, image, **options)

    return command


def _call_batch(recipe: str, *inputs: str, **options: Any) -> int:
    from napari_dip.cli.batch import run_batch_command

    return run_batch_command(recipe, inputs, **options)


def _call_noise(
    image: str,
    *,
    axes: str | None = None,
    json: bool = False,
    **files: Any,
) -> int:
    from napari_dip.cli.inspection import run_noise_command

    return run_noise_command(image, axes=axes, as_json=json, **files)


def _call_camera_maps(
    *, dark: list[str], output: str, flat: Any = (), overwrite: bool = False, quiet: bool = False
) -> int:
    from napari_dip.cli.inspection import make_maps

    return make_maps(dark, flat, output=output, overwrite=overwrite, quiet=quiet)


def _call_methods(result: str) -> int:
    from napari_dip.cli.inspection import run_methods_command

    return run_methods_command(result)


def _call_doctor(*, json: bool = False) -> int:
    from napari_dip.cli.inspection import run_doctor_command

    return run_doctor_command(as_json=json)


def _call_demo(
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
    from napari_dip.cli.demo import run_demo_command

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
