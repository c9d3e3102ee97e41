"""The command line in a forked child process, with its exit code, output and resources.

The child is forked from this process, which has loaded the program but run nothing: it calls the
same `main` as the installed command, on the same code, a second or two sooner.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class ProcessResult:
    """Result of a child process.

    Attributes
    ----------
    code : int
        Exit code; negative: the signal that ended it.
    output : str
        Both output streams.
    seconds : float
        Wall-clock seconds.
    cpu : float
        CPU seconds.
    peak : int
        Peak resident memory beyond that of the parent process, in bytes.
    """

    code: int
    output: str
    seconds: float
    cpu: float
    peak: int


class Child:
    """One command in a process of its own.

    Parameters
    ----------
    argv : sequence of str
        Arguments of `napari-dip`.
    log : Path
        File for both output streams.
    before : callable, optional
        Called in the child before the command begins.
    memory : int, optional
        Limit of the address space beyond that of this process, in bytes.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        before: Callable[[], object] = lambda: None,
        memory: int | None = None,
    ) -> None:
        self.log = log
        self.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.parent_bytes = _read_memory(1)
        self.pid = os.fork()
        if self.pid == 0:  # pragma: no cover - the child
            code = 70
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                if memory is not None:
                    most = measure_address_space() + memory
                    resource.setrlimit(resource.RLIMIT_AS, (most, most))
                before()
                from napari_dip.cli.app import _silence_libraries, main

                _silence_libraries()
                code = main(list(argv))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def wait_for_cpu_seconds(self, seconds: float) -> None:
        """Wait until it has used `seconds` of CPU time, or has ended."""
        while True:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if fields[0] == "Z" or spent >= seconds:
                return
            time.sleep(0.005)

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float = 600.0) -> ProcessResult | None:
        """Wait for the exit; None after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                return None
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(status)
        output = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        seconds = time.monotonic() - self.began
        # a forked child begins with what its parent has loaded, which other trials may have raised
        peak = max(0, usage.ru_maxrss * 1024 - self.parent_bytes)
        return ProcessResult(code, output, seconds, usage.ru_utime + usage.ru_stime, peak)


def measure_address_space() -> int:
    """Return the bytes of address space of this process."""
    return _read_memory(0)


def _read_memory(field: int) -> int:
    """Return bytes of this process: 0 for the address space, 1 for resident memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")


def run_command(argv: Sequence[str], log: Path, **options: object) -> ProcessResult:
    """Run a command to its end."""
    child = Child(argv, log, **options)  # type: ignore[arg-type]
    proc = child.wait()
    if proc is None:
        child.kill()
        raise TimeoutError(f"{argv} did not end")
    return proc
