"""Batches of sixty small images, six of them bad, that are killed repeatedly.

Crops of the benchmark images are restored by one process, by workers and by a running scheduler.
Each of these is killed in the middle, and what comes of it has to be the same, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from distributed import Client

from faults.batch_scene import (
    TIMEOUT_S,
    make_argv,
    make_folder,
    read_fault_codes,
    read_results,
    run_reference,
)
from faults.child import Child
from faults.reference_runs import preload_torch
from faults.trials import Trial, make_failed, make_passed
from napari_dip.errors import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: Number of good files, of kills of the command, and of kills of workers.
FILE_COUNT, KILLS, WORKER_KILLS = 54, 10, 5
#: Suffixes of working files, none of which may remain.
WORKING_SUFFIXES = (".unfinished", ".part")


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield the reference batch, and each way to kill it."""
    preload_torch()
    size = (3, 1, 1) if small else (FILE_COUNT, KILLS, WORKER_KILLS)
    yield Trial("undisturbed", partial(_check_reference, size[0]))
    yield Trial("killed", partial(_kill_command, *size[:2]))
    yield Trial("workers killed", partial(_kill_workers, size[0], size[2]))
    yield Trial("command and scheduler killed", partial(_kill_scheduler, size[0]))


@dataclass
class DisturbedBatch:
    """Folder of a batch that is killed.

    Attributes
    ----------
    reference : dict of str to bytes
        Expected results by file name.
    marks : dict
        Which files were written when, of those with a record.
    """

    folder: Path
    reference: dict[str, bytes]
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def find_damage(self) -> str:
        """Describe damaged or recomputed files; "" if there are none."""
        for path in self.folder.glob("*.tif"):
            if path.read_bytes() != self.reference.get(path.name):
                return f"{path.name} holds other bytes"
        files = {}
        for record in self.folder.glob("records/*.json"):
            if json.loads(record.read_text("utf-8"))["report"] is not None:
                for path in (record, self.folder / record.stem):
                    files[path.name] = path.stat().st_ino, path.stat().st_mtime_ns
        again = [name for name, mark in self.marks.items() if files.get(name) != mark]
        self.marks = files
        return f"computed twice: {again}" if again else ""

    @property
    def done(self) -> int:
        """Number of finished files."""
        return len(list(self.folder.glob("records/*.json")))

    def check_result(self, account: str, code: int, output: str, **facts: Any) -> TrialResult:
        """Compare the finished batch with the reference."""
        if wrong := self.find_damage():
            return make_failed(wrong)
        if code != 1 or "Traceback" in output:  # one, since six files have no result
            return make_failed(f"exit {code}: {output}"[-600:])
        if missing := self.reference.keys() - {path.name for path in self.folder.glob("*.tif")}:
            return make_failed(f"missing: {sorted(missing)}")
        leftovers = [
            path.name for path in self.folder.rglob("*") if path.suffix in WORKING_SUFFIXES
        ]
        if leftovers:
            return make_failed(f"left behind: {sorted(leftovers)}")
        return make_passed(f"{len(self.reference)} results with the same bytes; {account}", **facts)


def _make_batch(name: str, count: int) -> DisturbedBatch:
    return DisturbedBatch(make_folder(name, count), read_results(run_reference(count)))


def _check_reference(count: int) -> TrialResult:
    """Check that all good files are restored, and the six bad ones refused."""
    folder = run_reference(count)
    outcomes = read_fault_codes(folder)
    unclear = [code for code in outcomes.values() if code == "unexpected" or code not in FAULTS]
    result_count = len(list(folder.glob("*.tif")))
    if result_count != count or len(outcomes) != 6 or unclear:
        return make_failed(f"{result_count} results, refused: {outcomes}")
    output = ", ".join(f"{name} {code}" for name, code in sorted(outcomes.items()))
    return make_passed(
        f"{result_count} results; {output}",
        count=result_count + len(outcomes),
        kind="as it should be",
    )


def _kill_command(count: int, kills: int) -> TrialResult:
    """Kill the command at random moments, and resume each time."""
    batch = _make_batch("killed", count)
    rng = random.Random("killed")
    cut = []
    for _ in range(kills):
        child = Child(make_argv(count, batch.folder, "--resume"), batch.folder.parent / "log")
        _wait_for(batch, batch.done + rng.randrange(0, 1 + 2 * count // (kills + 2)))
        time.sleep(rng.uniform(0, 2))
        child.kill()  # an error here: it was over before, which would be no kill
        child.wait()
        cut.append(batch.done)
        if wrong := batch.find_damage():
            return make_failed(f"after kill {len(cut)}: {wrong}")
    child = Child(make_argv(count, batch.folder, "--resume"), batch.folder.parent / "log2")
    proc = child.wait(TIMEOUT_S)
    if proc is None:
        child.kill()
        return make_failed("it did not end")
    account = f"killed after {cut} of {count + 6} files"
    return batch.check_result(account, proc.code, proc.output, kills=kills, kind="same bytes")


def _kill_workers(count: int, kills: int) -> TrialResult:
    """Kill workers in the middle of files."""
    batch = _make_batch("workers", count)
    rng = random.Random("workers killed")
    command = _Command(make_argv(count, batch.folder, "--workers", "2"))
    hit: list[str] = []
    for number in range(kills):
        target = (number + rng.random()) * count / (kills + 1)
        _wait_for(batch, target, command)
        _wait_for(batch, 1, command, begun=True)
        time.sleep(rng.uniform(0, 1))
        begun = _count_starts(batch.folder)
        if command.is_over or not begun or any(times > 1 for times in begun.values()):
            continue  # a file that is hit twice would be left alone, as it should be
        rng.choice(command.workers()).send_signal(signal.SIGKILL)
        hit.append("+".join(sorted(begun)))
        if wrong := batch.find_damage():
            command.end()
            return make_failed(f"after kill {len(hit)}: {wrong}")
    code, output = command.wait()
    if not hit:
        return make_failed("no worker was killed in the middle of a file")
    account = f"{len(hit)} workers killed while at {hit}"
    return batch.check_result(account, code, output, kills=len(hit), kind="same bytes")


def _kill_scheduler(count: int) -> TrialResult:
    """Kill the command and resume on the cluster; kill the scheduler and resume locally."""
    batch = _make_batch("scheduler", count)
    place = batch.folder.parent / "scheduler.json"
    place.unlink(missing_ok=True)
    rng = random.Random("scheduler killed")
    at = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(place))
    processes = [_start_dask("scheduler", "--port", "0", *at)]
    try:
        while not place.exists():
            time.sleep(0.1)
        processes += [_start_dask("worker", "--nthreads", "1", *at) for _ in range(2)]
        with Client(scheduler_file=str(place), set_as_default=False, timeout=TIMEOUT_S) as client:
            client.wait_for_workers(2)
        killed = []
        for who in ("command", "scheduler"):
            command = _Command(
                make_argv(count, batch.folder, "--resume", "--scheduler", str(place))
            )
            target = batch.done + rng.randrange(1, max(2, count // 3))
            _wait_for(batch, target, command)
            time.sleep(rng.uniform(0, 2))
            if command.is_over:
                return make_failed(f"over before the {who} was killed: {command.wait()}"[:500])
            (command.process if who == "command" else processes[0]).kill()
            code, output = command.wait()
            killed.append(f"{who} after {batch.done}")
            if wrong := batch.find_damage():
                return make_failed(f"after the {who}: {wrong}")
            if who == "scheduler" and (code != 1 or "was lost; all finished results" not in output):
                return make_failed(f"exit {code}: {output}"[-500:])
        command = _Command(make_argv(count, batch.folder, "--resume"))
        code, output = command.wait()
        account = f"killed: {', '.join(killed)} of {count + 6} files"
        return batch.check_result(account, code, output, kills=2, kind="same bytes")
    finally:
        for process in processes:
            for child in (*psutil.Process(process.pid).children(recursive=True), process):
                child.kill()
            process.wait()


class _Command:
    """The command in a process of its own, with its workers."""

    def __init__(self, argv: list[str]) -> None:
        self._log = Path(argv[argv.index("-o") + 1]).parent / "log"
        line = [sys.executable, "-m", "napari_dip", *argv]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=log)

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def wait(self) -> tuple[int, str]:
        code = self.process.wait(TIMEOUT_S)
        return code, self._log.read_text("utf-8", "replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _count_starts(folder: Path) -> dict[str, int]:
    """Count the starts of each unfinished file."""
    begun = {}
    for path in folder.glob("records/*.unfinished/0.starts"):
        try:
            begun[path.parent.name.partition(".")[0]] = json.loads(path.read_text("utf-8"))["begun"]
        except FileNotFoundError:  # it came to its end right now
            continue
    return begun


def _start_dask(*arguments: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "dask", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(line, stdout=quiet, stderr=quiet, env={**os.environ})


def _wait_for(
    batch: DisturbedBatch, target: float, command: _Command | None = None, *, begun: bool = False
) -> None:
    """Wait until `target` files are finished, or begun, or the command is over."""
    end = time.monotonic() + TIMEOUT_S
    while (len(_count_starts(batch.folder)) if begun else batch.done) < target:
        if command is not None and command.is_over:
            return
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
