"""Processes as shells, clusters, notebooks and impatient people start, stop and starve them."""

from __future__ import annotations

import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING

from faults.cases import (
    Row,
    rows_to_trials,
)
from faults.cases.callers_acts import CALLERS, called, warned
from faults.cases.processes_acts import (
    beside_modules,
    eight_at_once,
    errors_reader_gone,
    folder_gone,
    from_a_zip,
    ignored_interrupt,
    killed_and_resumed,
    no_colours,
    odd_folder,
    one_line_out,
    permissions,
    reader_gone,
    run_after_change_of_process,
    run_with_environment,
    run_with_file_size_limit,
    run_with_memory_limit,
    run_with_resource_limit,
    run_without_environment,
    signalled,
    signalled_twice,
    stopped_and_gone_on,
    streams,
    temporary,
    time_limit,
    two_at_once,
    zarr_permissions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every fortieth."""
    yield from rows_to_trials(ROWS, small=small, step=40)


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
ROWS = [
    *(
        Row(f"with {what}", partial(run_with_environment, env, python), "the result, nothing else")
        for what, (env, python) in ENVIRONMENTS.items()
    ),
    Row("with no environment at all", run_without_environment, "the result"),
    Row("with a read-only TMPDIR", partial(temporary, 0o500), "the result"),
    *(
        Row(f"in a folder called {name!r}", partial(odd_folder, name), "the result")
        for name in ("100%s", "a b", "{0}", "#x", "ü\n", "-o")
    ),
    Row("in a folder that was removed", folder_gone, "the result, or refused"),
    *(
        Row(f"beside a file {name}", partial(beside_modules, name), "the library, not the file")
        for name in ("numpy.py", "torch.py", "json.py", "tifffile.py")
    ),
    Row("picture in a zip", from_a_zip, "refused"),
    *(
        Row(
            f"with a mask of {mask:o}", partial(permissions, mask), "permissions as the mask leaves"
        )
        for mask in (0o022, 0o077, 0o002)
    ),
    Row("Zarr with a mask of 27", zarr_permissions, "permissions as the mask leaves"),
    *(
        Row(f"as {what}", partial(run_after_change_of_process, change), "the result")
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
        Row(
            f"with at most {most} open files",
            partial(run_with_resource_limit, resource.RLIMIT_NOFILE, most),
            "the result, or said",
        )
        for most in (12, 16, 64)
    ),
    Row(
        "with a stack of 1 MB",
        partial(run_with_resource_limit, resource.RLIMIT_STACK, 2**20),
        "the result, or said",
    ),
    Row(
        "with no memory to lock",
        partial(run_with_resource_limit, resource.RLIMIT_MEMLOCK, 0),
        "the result, or said",
    ),
    *(
        Row(
            f"with files of at most {most} bytes",
            partial(run_with_file_size_limit, most),
            "said, the earlier result stays",
        )
        for most in (2000, 4096)
    ),
    *(
        Row(
            f"with {megabytes} MB in all",
            partial(run_with_memory_limit, megabytes),
            "the result, or said",
        )
        for megabytes in (300, 1200)
    ),
    Row("with the input stream closed", lambda folder: streams(folder, stdin="null"), "the result"),
    Row(
        "with the output thrown away",
        lambda folder: streams(folder, stdout="null", stderr="null"),
        "the result",
    ),
    Row("whose reader has gone", reader_gone, "the result, no traceback"),
    Row("whose reader of messages has gone", errors_reader_gone, "the result"),
    Row("and its output stream", one_line_out, "the path alone; quiet says nothing"),
    Row("and escape sequences in files", no_colours, "none"),
    *(
        Row(
            f"{signal.Signals(number).name} at '{message}'",
            partial(signalled, number, message),
            "what was there is kept, or said",
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGQUIT)
        for message in ("pixels on the", "Restoring")
    ),
    Row("Ctrl-C twice", signalled_twice, "an end at once"),
    Row("stopped and gone on", stopped_and_gone_on, "same bytes"),
    Row("killed and gone on with", killed_and_resumed, "a whole result"),
    Row("hung up on under nohup", ignored_interrupt, "the result"),
    Row("with a limit of 2 s", time_limit, "an end in time, and why"),
    Row("two at once", two_at_once, "both as if alone"),
    Row("eight at once", eight_at_once, "eight results"),
    *(Row(f"called {what}", partial(called, code), "well") for what, code in CALLERS.items()),
    *(Row(f"with -W {flag}", partial(warned, flag), "the result") for flag in ("error", "always")),
]
