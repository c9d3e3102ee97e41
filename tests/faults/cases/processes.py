"""Processes as shells, clusters, notebooks and impatient people start, stop and starve them."""

from __future__ import annotations

import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING

from faults.cases import (
    Case,
    cases_to_trials,
)
from faults.cases.callers_checks import CALLERS, check_no_warnings, check_program
from faults.cases.processes_checks import (
    check_changed_process,
    check_closed_stderr,
    check_closed_stdout,
    check_eight_concurrent_runs,
    check_empty_environment,
    check_environment,
    check_file_size_limit,
    check_ignored_hangup,
    check_kill_and_resume,
    check_memory_limit,
    check_no_escape_sequences,
    check_path_into_zip,
    check_removed_working_folder,
    check_resource_limit,
    check_second_interrupt,
    check_shadowing_module,
    check_signal,
    check_standard_streams,
    check_stdout_is_one_line,
    check_suspended_run,
    check_temporary_folder,
    check_time_limit,
    check_two_concurrent_runs,
    check_umask,
    check_working_folder_name,
    check_zarr_umask,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every fortieth."""
    yield from cases_to_trials(CASES, small=small, step=40)


ENVIRONMENTS: dict[str, tuple[dict[str, str | None], tuple[str, ...]]] = {
    "no HOME": ({"HOME": None}, ()),
    "a HOME that is not there": ({"HOME": "/nonexistent"}, ()),
    "a HOME that is a file": ({"HOME": "/etc/passwd"}, ()),
    "an empty PATH": ({"PATH": ""}, ()),
    "LANG=C": ({"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ()),
    "an unknown locale": ({"LC_ALL": "xx_YY.UTF-8"}, ()),
    "streams in ASCII": ({"PYTHONIOENCODING": "ascii:strict"}, ()),
    "streams in UTF-16": ({"PYTHONIOENCODING": "utf-16"}, ()),
    "PYTHONOPTIMIZE=2": ({"PYTHONOPTIMIZE": "2"}, ()),
    "development mode": ({"PYTHONDEVMODE": "1"}, ()),
    "TMPDIR that is not there": ({"TMPDIR": "/nonexistent"}, ()),
    "COLUMNS=many": ({"COLUMNS": "many", "LINES": "-3"}, ()),
    "OMP_NUM_THREADS=0": ({"OMP_NUM_THREADS": "0"}, ()),
    "OMP_NUM_THREADS=many": ({"OMP_NUM_THREADS": "many"}, ()),
    "OMP_NUM_THREADS=999": ({"OMP_NUM_THREADS": "999"}, ()),
    "no GPU by name": ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
    "a broken MPLBACKEND": ({"MPLBACKEND": "nonsense"}, ()),
    "a broken QT_QPA_PLATFORM": ({"QT_QPA_PLATFORM": "nonsense"}, ()),
    "a time zone of nonsense": ({"TZ": "Nowhere/Atlantis"}, ()),
}
CASES = [
    *(
        Case(f"with {what}", partial(check_environment, env, python), "the result, nothing else")
        for what, (env, python) in ENVIRONMENTS.items()
    ),
    Case("with no environment at all", check_empty_environment, "the result"),
    Case("with a read-only TMPDIR", partial(check_temporary_folder, 0o500), "the result"),
    *(
        Case(f"in a folder called {name!r}", partial(check_working_folder_name, name), "the result")
        for name in ("100%s", "a b", "{0}", "#x", "ü\n", "-o")
    ),
    Case("in a folder that was removed", check_removed_working_folder, "the result, or refused"),
    *(
        Case(
            f"beside a file {name}",
            partial(check_shadowing_module, name),
            "the library, not the file",
        )
        for name in ("numpy.py", "torch.py", "json.py", "tifffile.py")
    ),
    Case("image in a zip", check_path_into_zip, "refused"),
    *(
        Case(
            f"with a mask of {mask:o}", partial(check_umask, mask), "permissions as the mask leaves"
        )
        for mask in (0o022, 0o077, 0o002)
    ),
    Case("Zarr with a mask of 27", check_zarr_umask, "permissions as the mask leaves"),
    *(
        Case(f"as {what}", partial(check_changed_process, change), "the result")
        for what, change in (
            ("the nicest process", lambda: os.nice(19)),
            ("a process in the background", os.setpgrp),
            (
                "a process that ignores the end of children",
                lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
            ),
            (
                "a process that takes no signals",
                lambda: signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals())),
            ),
            (
                "a process on one core",
                lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
            ),
            (
                "a process without core dumps",
                lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
            ),
        )
    ),
    *(
        Case(
            f"with at most {tolerance} open files",
            partial(check_resource_limit, resource.RLIMIT_NOFILE, tolerance),
            "the result, or said",
        )
        for tolerance in (12, 16, 64)
    ),
    Case(
        "with a stack of 1 MB",
        partial(check_resource_limit, resource.RLIMIT_STACK, 2**20),
        "the result, or said",
    ),
    Case(
        "with no memory to lock",
        partial(check_resource_limit, resource.RLIMIT_MEMLOCK, 0),
        "the result, or said",
    ),
    *(
        Case(
            f"with files of at most {tolerance} bytes",
            partial(check_file_size_limit, tolerance),
            "said, the earlier result stays",
        )
        for tolerance in (2000, 4096)
    ),
    *(
        Case(
            f"with {megabytes} MB in all",
            partial(check_memory_limit, megabytes),
            "the result, or said",
        )
        for megabytes in (300, 1200)
    ),
    Case(
        "with the input stream closed",
        lambda folder: check_standard_streams(folder, stdin="null"),
        "the result",
    ),
    Case(
        "with the output thrown away",
        lambda folder: check_standard_streams(folder, stdout="null", stderr="null"),
        "the result",
    ),
    Case("whose reader has gone", check_closed_stdout, "the result, no traceback"),
    Case("whose reader of messages has gone", check_closed_stderr, "the result"),
    Case("and its output stream", check_stdout_is_one_line, "the path alone; quiet says nothing"),
    Case("and escape sequences in files", check_no_escape_sequences, "none"),
    *(
        Case(
            f"{signal.Signals(number).name} at '{message}'",
            partial(check_signal, number, message),
            "what was there is kept, or said",
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGQUIT)
        for message in ("pixels on the", "Restoring")
    ),
    Case("Ctrl-C twice", check_second_interrupt, "an end at once"),
    Case("stopped and gone on", check_suspended_run, "same bytes"),
    Case("killed and gone on with", check_kill_and_resume, "a whole result"),
    Case("hung up on under nohup", check_ignored_hangup, "the result"),
    Case("with a limit of 2 s", check_time_limit, "an end in time, and why"),
    Case("two at once", check_two_concurrent_runs, "both as if alone"),
    Case("eight at once", check_eight_concurrent_runs, "eight results"),
    *(
        Case(f"called {what}", partial(check_program, code), "well")
        for what, code in CALLERS.items()
    ),
    *(
        Case(f"with -W {flag}", partial(check_no_warnings, flag), "the result")
        for flag in ("error", "always")
    ),
]
