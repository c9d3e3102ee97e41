"""Sixty small real pictures, six of them bad: a batch that is killed again and again.

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

from faults.child import Child
from faults.many_scene import PATIENCE, argv_of, codes, fresh, results, right
from faults.scenes import warm
from faults.trials import Trial, make_failed, make_passed
from napari_dip.errors import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: Files that can be restored, times that the command is killed, and workers that are.
GOOD, KILLS, WORKER_KILLS = 54, 10, 5
#: What must not be left behind.
LEFT_OVER = (".unfinished", ".part")


def trials(*, small: bool) -> Iterator[Trial]:
    """Give the undisturbed batch, and each way to disturb it."""
    warm()
    size = (3, 1, 1) if small else (GOOD, KILLS, WORKER_KILLS)
    yield Trial("undisturbed", partial(_undisturbed, size[0]))
    yield Trial("killed", partial(_killed, *size[:2]))
    yield Trial("workers killed", partial(_workers_killed, size[0], size[2]))
    yield Trial("command and scheduler killed", partial(_scheduler_killed, size[0]))


@dataclass
class Watched:
    """The folder of a batch that is disturbed.

    Attributes
    ----------
    right : dict of str to bytes
        What has to come of it.
    marks : dict
        Which files were written when, of those with a receipt.
    """

    folder: Path
    right: dict[str, bytes]
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def find_damage(self) -> str:
        """Say what is wrong with what lies there now; "" if nothing is."""
        for path in self.folder.glob("*.tif"):
            if path.read_bytes() != self.right.get(path.name):
                return f"{path.name} holds other bytes"
        files = {}
        for receipt in self.folder.glob("records/*.json"):
            if json.loads(receipt.read_text("utf-8"))["report"] is not None:
                for path in (receipt, self.folder / receipt.stem):
                    files[path.name] = path.stat().st_ino, path.stat().st_mtime_ns
        again = [name for name, mark in self.marks.items() if files.get(name) != mark]
        self.marks = files
        return f"computed twice: {again}" if again else ""

    @property
    def done(self) -> int:
        """How many files have an end."""
        return len(list(self.folder.glob("records/*.json")))

    def ended(self, account: str, code: int, output: str, **facts: Any) -> TrialResult:
        """Compare what came of it with what should."""
        if wrong := self.find_damage():
            return make_failed(wrong)
        if code != 1 or "Traceback" in output:  # one, since six files have no result
            return make_failed(f"exit {code}: {output}"[-600:])
        if missing := self.right.keys() - {path.name for path in self.folder.glob("*.tif")}:
            return make_failed(f"missing: {sorted(missing)}")
        leftovers = [path.name for path in self.folder.rglob("*") if path.suffix in LEFT_OVER]
        if leftovers:
            return make_failed(f"left behind: {sorted(leftovers)}")
        return make_passed(f"{len(self.right)} results with the same bytes; {account}", **facts)


def _undisturbed(count: int) -> TrialResult:
    """Restore all that can be restored, and refuse the six clearly."""
    folder = right(count)
    outcomes = codes(folder)
    unclear = [code for code in outcomes.values() if code == "unexpected" or code not in FAULTS]
    results = len(list(folder.glob("*.tif")))
    if results != count or len(outcomes) != 6 or unclear:
        return make_failed(f"{results} results, refused: {outcomes}")
    output = ", ".join(f"{name} {code}" for name, code in sorted(outcomes.items()))
    return make_passed(
        f"{results} results; {output}", count=results + len(outcomes), kind="as it should be"
    )


def _killed(count: int, kills: int) -> TrialResult:
    """Kill the command at random moments, and go on each time."""
    batch = Watched(fresh("killed", count), results(right(count)))
    rng = random.Random("killed")
    cut = []
    for _ in range(kills):
        child = Child(argv_of(count, batch.folder, "--resume"), batch.folder.parent / "log")
        _wait(batch, batch.done + rng.randrange(0, 1 + 2 * count // (kills + 2)))
        time.sleep(rng.uniform(0, 2))
        child.kill()  # an error here: it was over before, which would be no kill
        child.ended()
        cut.append(batch.done)
        if wrong := batch.find_damage():
            return make_failed(f"after kill {len(cut)}: {wrong}")
    child = Child(argv_of(count, batch.folder, "--resume"), batch.folder.parent / "log2")
    ended = child.ended(PATIENCE)
    if ended is None:
        child.kill()
        return make_failed("it did not end")
    account = f"killed after {cut} of {count + 6} files"
    return batch.ended(account, ended.code, ended.output, kills=kills, kind="same bytes")


def _workers_killed(count: int, kills: int) -> TrialResult:
    """Kill workers in the middle of files."""
    batch = Watched(fresh("workers", count), results(right(count)))
    rng = random.Random("workers killed")
    command = _Command(argv_of(count, batch.folder, "--workers", "2"))
    hit: list[str] = []
    for number in range(kills):
        target = (number + rng.random()) * count / (kills + 1)
        _wait(batch, target, command)
        _wait(batch, 1, command, begun=True)
        time.sleep(rng.uniform(0, 1))
        begun = _begun(batch.folder)
        if command.over or not begun or any(times > 1 for times in begun.values()):
            continue  # a file that is hit twice would be left alone, as it should be
        rng.choice(command.workers()).send_signal(signal.SIGKILL)
        hit.append("+".join(sorted(begun)))
        if wrong := batch.find_damage():
            command.end()
            return make_failed(f"after kill {len(hit)}: {wrong}")
    code, output = command.ended()
    if not hit:
        return make_failed("no worker was killed in the middle of a file")
    account = f"{len(hit)} workers killed while at {hit}"
    return batch.ended(account, code, output, kills=len(hit), kind="same bytes")


def _scheduler_killed(count: int) -> TrialResult:
    """Kill the command, go on with the cluster; kill the scheduler, go on without."""
    batch = Watched(fresh("scheduler", count), results(right(count)))
    place = batch.folder.parent / "scheduler.json"
    place.unlink(missing_ok=True)
    rng = random.Random("scheduler killed")
    at = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(place))
    processes = [_dask("scheduler", "--port", "0", *at)]
    try:
        while not place.exists():
            time.sleep(0.1)
        processes += [_dask("worker", "--nthreads", "1", *at) for _ in range(2)]
        with Client(scheduler_file=str(place), set_as_default=False, timeout=PATIENCE) as client:
            client.wait_for_workers(2)
        killed = []
        for who in ("command", "scheduler"):
            command = _Command(argv_of(count, batch.folder, "--resume", "--scheduler", str(place)))
            target = batch.done + rng.randrange(1, max(2, count // 3))
            _wait(batch, target, command)
            time.sleep(rng.uniform(0, 2))
            if command.over:
                return make_failed(f"over before the {who} was killed: {command.ended()}"[:500])
            (command.process if who == "command" else processes[0]).kill()
            code, output = command.ended()
            killed.append(f"{who} after {batch.done}")
            if wrong := batch.find_damage():
                return make_failed(f"after the {who}: {wrong}")
            if who == "scheduler" and (code != 1 or "was lost; all finished results" not in output):
                return make_failed(f"exit {code}: {output}"[-500:])
        command = _Command(argv_of(count, batch.folder, "--resume"))
        code, output = command.ended()
        account = f"killed: {', '.join(killed)} of {count + 6} files"
        return batch.ended(account, code, output, kills=2, kind="same bytes")
    finally:
        for process in processes:
            for child in (*psutil.Process(process.pid).children(recursive=True), process):
                child.kill()
            process.wait()


class _Command:
    """The command in a process of its own, whose workers can be found."""

    def __init__(self, argv: list[str]) -> None:
        self._log = Path(argv[argv.index("-o") + 1]).parent / "log"
        line = [sys.executable, "-m", "napari_dip", *argv]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(line, stdout=log, stderr=log)

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(PATIENCE)
        return code, self._log.read_text("utf-8", "replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _begun(folder: Path) -> dict[str, int]:
    """Give the files that workers are at, and how often they were begun."""
    begun = {}
    for path in folder.glob("records/*.unfinished/0.starts"):
        try:
            begun[path.parent.name.partition(".")[0]] = json.loads(path.read_text("utf-8"))["begun"]
        except FileNotFoundError:  # it came to its end right now
            continue
    return begun


def _dask(*arguments: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "dask", *arguments]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(line, stdout=quiet, stderr=quiet, env={**os.environ})


def _wait(
    batch: Watched, target: float, command: _Command | None = None, *, begun: bool = False
) -> None:
    """Wait until so many files have an end, or are begun, or the command is over."""
    end = time.monotonic() + PATIENCE
    while (len(_begun(batch.folder)) if begun else batch.done) < target:
        if command is not None and command.over:
            return
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
