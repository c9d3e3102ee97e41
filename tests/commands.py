"""Start `napari-dip` as a program of its own, without loading torch each time.

The program is forked from a process that has loaded napari-dip and torch and has run nothing, by
the forkserver of Python. It has its own folder, environment, streams and signals. What a test of
loading, of the environment or of the shell is about is started as any program is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

#: Windows has no fork.
CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()

#: What the forking process loads: the command, torch, and what a run imports after it.
PRELOADED = (
    "napari_dip.cli.app",
    "torch",
    "napari_dip.pipeline.assess.merge",
    "napari_dip.pipeline.calibrate.image_calibration",
    "napari_dip.pipeline.execute.executor",
)


class ForkedProgram:
    """A command that runs; with those attributes of `subprocess.Popen` that tests use."""

    def __init__(self, argv: Sequence[str], cwd: str, environment: Mapping[str, str]) -> None:
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        (out, theirs), (err, their_errors) = (context.Pipe(duplex=False) for _ in range(2))
        arguments = (argv, cwd, environment, theirs, their_errors)
        self._process = context.Process(target=_run_command, args=arguments)
        self._process.start()
        self.pid: int = self._process.pid
        self.stdout, self.stderr = _open(out), _open(err)
        theirs.close()
        their_errors.close()

    @property
    def returncode(self) -> int | None:
        """Exit code; negative: the signal that ended it; None: it runs."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("napari-dip", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it still says on both streams, once it has ended."""
        output: dict[IO[str], str] = {}
        readers = [
            threading.Thread(target=lambda stream=stream: output.update({stream: stream.read()}))
            for stream in (self.stdout, self.stderr)
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        self.stdout.close()
        self.stderr.close()
        return output[self.stdout], output[self.stderr]


def _open(connection: Connection) -> IO[str]:
    """Take over the end of a pipe, as a stream of text."""
    stream = os.fdopen(os.dup(connection.fileno()), encoding="utf-8")
    connection.close()
    return stream


def _run_command(
    argv: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    out: Connection,
    err: Connection,
) -> None:
    """Be the command, in the forked process."""
    from napari_dip.cli import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, connection in ((1, out), (2, err)):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    # whoever started the tests in the background made them deaf to Ctrl-C, and heirs stay deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["napari-dip", *argv]
    sys.exit(main())


Program = ForkedProgram | subprocess.Popen[str]


def start(*argv: object, cwd: Path | None = None) -> Program:
    """Start `napari-dip` with these arguments."""
    arguments, place = [str(word) for word in argv], str(cwd or os.getcwd())
    if CAN_FORK:
        return ForkedProgram(arguments, place, dict(os.environ))
    line, pipe = [sys.executable, "-m", "napari_dip", *arguments], subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, cwd=place)
