"""The commands and their exit codes.

0 done · 2 refused before work began · 1 failed · 130 interrupted
"""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from napari_dip.cli.batch import batch_arguments
from napari_dip.cli.options import (
    camera_arguments,
    explore_arguments,
    feature_arguments,
    flag,
    input_arguments,
    methods_arguments,
    noise_arguments,
    ordered,
    output_arguments,
    recipe_arguments,
    setting_arguments,
    signed,
)
from napari_dip.cli.terminal import (
    EXPERIMENTS,
    fault_of,
    in_options,
    let_go,
    say,
    summary,
    unprinted,
    use_streams,
)
from napari_dip.errors import Failed, Refused, refusal
from napari_dip.errors.fault import printable_lines
from napari_dip.io.paths import check_working_folder
from napari_dip.pipeline.machine import is_memory_error
from napari_dip.tasks import TASKS
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
#: What asks the parser itself to print.
_PRINTED = frozenset(("--help", "-h", "--version"))
_ABOUT = """Restore one noisy microscopy image with an untrained network fitted to it alone.

Start with 'napari-dip demo', or 'napari-dip denoise IN -o OUT.tif'."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        What was typed after the program's name. Default: what the shell gave.

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
        if _PRINTED.isdisjoint(tokens):
            check_working_folder()
        return _answer(tokens)
    except CycloptsError as error:
        say(fault_of(error, tokens).message)
        return REFUSED
    except Refused as no:
        say(in_options(no.refusal, tokens).message)
        return REFUSED
    except Failed as failure:
        say(failure.refusal.message)
        return FAILED
    except KeyboardInterrupt:
        say("Interrupted; nothing was saved.")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        return FAILED
    except Exception as error:
        return _failed(error)


def _answer(tokens: list[str]) -> int:
    """Carry out a command; help and version are printed by the parser, which knows no exit code."""
    try:
        outcome = _app()(tokens, exit_on_error=False, print_error=False)
    except OSError as error:
        if error.filename is not None or _PRINTED.isdisjoint(tokens):
            raise
        let_go(sys.stdout)
        raise unprinted(error) from None
    if outcome is None and sys.stdout is None:
        raise unprinted()
    return outcome if isinstance(outcome, int) else DONE


def _app() -> App:
    app = App(name="napari-dip", version=__version__, help=_ABOUT, result_action="return_value")
    plan = App(name="plan", help="Say what a run would do and cost, without running it.")
    for name, task in TASKS.items():
        what = summary(task)
        given = [*input_arguments(name), *setting_arguments(name), *recipe_arguments()]
        arguments = ordered([*given, *output_arguments(name)])
        app.command(signed(_restore(name), arguments, what), name=name)
        plan.command(signed(_plan(name), ordered(given), what), name=name)
    words = "Run one recipe on many files; what cannot be restored stops nothing else."
    app.command(signed(_batch, batch_arguments(), words), name="batch")
    words = "Measure the noise of an image, without restoring it: gain, read noise, correlation."
    app.command(signed(_noise, noise_arguments(), words), name="noise")
    words = "Make maps of an sCMOS camera: offset, gain and read noise of each pixel."
    app.command(signed(_camera_maps, camera_arguments(), words), name="camera-maps")
    app.command(plan)
    explore = App(name="explore", help="See the prior: why an untrained network restores.")
    for name, words in EXPERIMENTS.items():
        arguments = feature_arguments() if name == "features" else explore_arguments(name)
        explore.command(signed(_explore(name), arguments, words), name=name)
    app.command(explore)
    words = "Write the methods section of a result: what was done, with what, and the references."
    app.command(signed(_methods, methods_arguments(), words), name="methods")
    quiet = flag("json", "Print everything as JSON.")
    about = "Look at this computer: versions, devices, memory, and how to mend what is missing."
    app.command(signed(_doctor, [quiet], about), name="doctor")
    app.command(_demo, name="demo")
    return app


def _restore(task: str) -> Any:
    def command(image: str, **options: Any) -> int:
        from napari_dip.cli.restore import restore_file

        return restore_file(task, image, **options)

    return command


def _plan(task: str) -> Any:
    def command(image: str, **options: Any) -> int:
        from napari_dip.cli.restore import plan_file

        return plan_file(task, image, **options)

    return command


def _explore(experiment: str) -> Any:
    def command(image: str, **options: Any) -> int:
        from napari_dip.cli.explore import explore

        return explore(experiment, image, **options)

    return command


def _batch(recipe: str, *inputs: str, **options: Any) -> int:
    from napari_dip.cli.batch import batch

    return batch(recipe, inputs, **options)


def _noise(
    image: str,
    *,
    axes: str | None = None,
    json: bool = False,
    **files: Any,
) -> int:
    from napari_dip.cli.inspection import noise

    return noise(image, axes=axes, as_json=json, **files)


def _camera_maps(
    *, dark: list[str], output: str, flat: Any = (), overwrite: bool = False, quiet: bool = False
) -> int:
    from napari_dip.cli.inspection import make_maps

    return make_maps(dark, flat, output=output, overwrite=overwrite, quiet=quiet)


def _methods(result: str) -> int:
    from napari_dip.cli.inspection import methods

    return methods(result)


def _doctor(*, json: bool = False) -> int:
    from napari_dip.cli.inspection import doctor

    return doctor(as_json=json)


def _demo(
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
    from napari_dip.cli.demo import demo

    return demo(window, preset)


def _failed(error: Exception) -> int:
    """Say in one sentence what nobody foresaw, and keep the rest in a file for a report."""
    import tempfile
    import traceback

    from napari_dip.io.paths import why_not

    if is_memory_error(error):
        say(refusal("memory-out", name="the image").message)
        return FAILED
    say(refusal("unexpected", why=why_not(error)).message)
    with suppress(OSError):  # no room for it, either
        with tempfile.NamedTemporaryFile(
            "w", prefix="napari-dip-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(printable_lines("".join(traceback.format_exception(error))))
        say(f"Log: {log.name}")
    return FAILED


def _hush_libraries() -> None:
    """Keep other people's warnings out of our sentences; `python -W` brings them back."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
