"""Bad inputs through all four interfaces: each is refused in two sentences, and no file changes."""

from __future__ import annotations

import io
import logging
import subprocess
import sysconfig
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari_dip as dip
from bad_inputs import CASES, PYTHON_CASES, Case
from faults.trials import Trial, find_fault_code, is_translated, make_failed, make_passed
from napari_dip.cli import main
from test_bad_input import hash_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: Every n-th case runs by the installed command as well.
COMMAND_STEP = 20
#: Options of a command that say nothing of how to restore.
FILES_OF_RESULTS = ("o", "overwrite", "report", "recipe", "residual", "uncertainty", "psf-out")


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield all cases for command line, Python, batch and docks."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # as the command does it
    step = 12 if small else 1
    for case in CASES[::step]:
        yield Trial(f"command: {case.name}", partial(check_command, case))
    for case in PYTHON_CASES[::step]:
        yield Trial(f"Python: {case.name}", partial(check_python, case))
        yield Trial(f"batch: {case.name}", partial(check_batch, case))
    for case in () if small else CASES[::COMMAND_STEP]:
        yield Trial(f"shell: {case.name}", partial(check_installed_command, case))
    from faults.bad_input_docks import dock_trials

    yield from dock_trials(small=small)


def check_command(case: Case) -> TrialResult:
    """Run the command in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        argv = case.make(folder)
        before = hash_files(folder)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(argv)
        return _check_refusal(
            case, code, out.getvalue(), err.getvalue(), hash_files(folder) == before
        )


def check_installed_command(case: Case) -> TrialResult:
    """Run the installed command in a process of its own."""
    command = Path(sysconfig.get_path("scripts")) / "napari-dip"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        argv = case.make(folder)
        if any("\0" in text for text in argv):
            return make_passed("no shell hands over a NUL", kind="not to be typed", count=0)
        before = hash_files(folder)
        done = subprocess.run([command, *argv], capture_output=True, text=True, timeout=120)
        whole = hash_files(folder) == before
        return _check_refusal(case, done.returncode, done.stdout, done.stderr, whole)


def _check_refusal(case: Case, code: int, out: str, err: str, whole: bool) -> TrialResult:
    found_code = find_fault_code(err)
    if (code, out, found_code, whole) != (2, "", case.code, True):
        return make_failed(
            f"exit {code}, {found_code}, touched: {not whole}, said: {out}{err}"[:600]
        )
    return make_passed(found_code, kind="refused")


def check_python(case: Case) -> TrialResult:
    """Call the task's function with the same image and settings."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        argv = case.make(folder)
        before = hash_files(folder)
        settings = parse_arguments(argv)
        try:
            if "from_recipe" in settings:
                named = settings["from_recipe"]
                answer = dip.restore(argv[1], Path(named) if named else "")
            else:
                answer = getattr(dip, argv[0].replace("-", "_"))(argv[1], **settings)
        except dip.RefusedError as no:
            if no.reason.code != case.code or not is_translated(no.reason):
                return make_failed(f"{no.reason.code}: {no.reason.message}")
            if hash_files(folder) != before:
                return make_failed("files were touched")
            return make_passed(no.reason.code, kind="refused")
        return make_failed(f"an answer of shape {answer.image.shape}")


def check_batch(case: Case) -> TrialResult:
    """Run the same recipe on the same file as a batch of one."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        argv = case.make(folder)
        settings = parse_arguments(argv)
        others = {name: settings.pop(name) for name in ("mask", "psf", "guide") if name in settings}
        axes = settings.pop("axes", None)
        named = settings.pop("from_recipe", None)
        try:
            task = {"schema": 1, "task": argv[0], "settings": _plain(settings)}
            recipe = task if named is None else Path(named) if named else ""
            result = dip.batch(recipe, [argv[1]], folder / "results", axes=axes, **others)
        except dip.RefusedError as no:
            return (
                make_passed(no.reason.code, kind="refused")
                if is_translated(no.reason)
                else make_failed(str(no))
            )
        outcome = result.outcomes[0]
        if (
            outcome.fault is None
            or not is_translated(outcome.fault)
            or outcome.state not in ("refused", "failed")
        ):
            return make_failed(f"{outcome.state}: {outcome.fault}")
        return make_passed(outcome.fault.code, kind="refused")


def parse_arguments(argv: list[str]) -> dict[str, Any]:
    """Convert options to keyword arguments."""
    settings: dict[str, Any] = {}
    options, place = argv[2:], 0
    while place < len(options):
        name, joined, value = options[place].partition("=")
        value, place = (value, place + 1) if joined else (options[place + 1], place + 2)
        if name.lstrip("-") not in FILES_OF_RESULTS:
            settings[name.lstrip("-").replace("-", "_")] = value
    return settings


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) for name, value in settings.items()}
