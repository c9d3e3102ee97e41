"""Runs that are killed at random moments: each is gone on with, to the same bytes.

Most are killed in a child that was forked with torch loaded and calls the command's `main`, which
saves the seconds of loading; some are the installed command itself, killed from its start on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sysconfig
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.child import Child, run_command
from faults.scenes import COMMANDS, command, digest, lay_out, spent, undisturbed, warm
from faults.trials import Trial, make_failed, make_passed
from napari_dip.pipeline.store.checkpoints import MIN_WRITE_INTERVAL
from napari_dip.pipeline.store.tensor_file import read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: Kills of forked runs and of the installed command, and checkpoints that are damaged.
FORKED, REAL, FLIPS = 180, 20, 10
#: What lies under the name of the result before, and must not be harmed by a run that is killed.
EARLIER = b"an earlier result"
#: Folder that a run leaves beside its result when it is killed, and the checkpoint in it.
UNFINISHED = "out.tif.unfinished"
CHECKPOINT = f"{UNFINISHED}/checkpoint.safetensors"
#: How often a run may end before the moment at which it should be killed.
MOST_EARLY_ENDS = 8


def trials(*, small: bool) -> Iterator[Trial]:
    """Give kills in turn over the cases."""
    warm()
    cases = list(COMMANDS)
    for number, times in enumerate((1, 2, 1) if small else _times(FORKED)):
        case = cases[number % len(cases)]
        yield Trial(f"{case} {number}", partial(_killed, case, number, times))
    for case in cases[: 1 if small else None]:
        yield Trial(f"from a checkpoint, {case}", partial(_from_a_checkpoint, case))
    for number in range(1 if small else FLIPS):
        yield Trial(f"flipped byte {number}", partial(_flipped, number))
    for number in range(0 if small else REAL):
        case = cases[number % len(cases)]
        yield Trial(f"installed command, {case} {number}", partial(_killed_command, case, number))


def _times(kills: int) -> Iterator[int]:
    """Give how often each run is killed, once to four times, so many times together."""
    rng = random.Random("times")
    while kills:
        times = min(kills, rng.randint(1, 4))
        kills -= times
        yield times


def _killed(case: str, number: int, times: int) -> TrialResult:
    """Kill a run that often, then let it end."""
    right, _ = undisturbed(case)
    rng = random.Random(f"{case} {number}")
    checks: list[bool] = []
    ended_first = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _lay_out(folder)
        while len(checks) < times:
            resume = ["--resume"] if checks else []
            argv = command(case, folder, "--overwrite", "--quiet", *resume)
            child = Child(argv, folder / "log")
            child.wait_until_spent(rng.uniform(0, 1) * spent(case))
            child.kill()
            ended = child.ended()
            if ended is not None and ended.code == 0:  # before it could be killed: not counted
                if digest(folder / "out.tif") != right:
                    return make_failed("the run that had ended has other bytes")
                (folder / "out.tif").write_bytes(EARLIER)
                ended_first += 1
                if ended_first > MOST_EARLY_ENDS:
                    return make_failed("the run always ended before it could be killed")
                continue
            if damage := _damage(folder, right):
                return make_failed(f"after kill {len(checks) + 1}: {damage}")
            checks.append(_kept(folder))
        argv = command(case, folder, "--overwrite", "--quiet", "--resume")
        return _resumed(run_command(argv, folder / "log2"), folder, right, checks)


def _lay_out(folder: Path) -> None:
    lay_out(folder)
    (folder / "out.tif").write_bytes(EARLIER)


def _kept(folder: Path) -> bool:
    """Whether there is something to go on from: a checkpoint, or a tile that is done."""
    return bool(list(folder.glob(f"{UNFINISHED}/*.safetensors")))


def _damage(folder: Path, right: str) -> str:
    """Say which file a killed run left neither as it was nor whole; nothing if all are."""
    if (folder / "out.tif").read_bytes() != EARLIER and digest(folder / "out.tif") != right:
        return "the result is damaged"
    try:
        for path in folder.glob(f"{UNFINISHED}/*.safetensors"):
            read_tensors(path)
        for path in folder.glob(f"{UNFINISHED}/*.json"):
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"a file that was kept is damaged: {error}"
    return ""


def _resumed(ended: object, folder: Path, right: str, checks: list[bool]) -> TrialResult:
    """Compare the resumed result with the undisturbed one, and look for what was left."""
    code, output = ended.code, ended.output  # type: ignore[attr-defined]
    if code:
        return make_failed(f"resumed: exit {code}: {output}"[:500])
    if digest(folder / "out.tif") != right:
        return make_failed(f"other bytes; checkpoint found: {checks}")
    leftovers = {path.name for path in folder.iterdir()}
    leftovers -= {"in.tif", "tall.tif", "mask.tif", "out.tif", "log", "log2"}
    if leftovers:
        return make_failed(f"left behind: {sorted(leftovers)}")
    kind = "same bytes from a checkpoint" if any(checks) else "same bytes from the beginning"
    return make_passed(kind, kind=kind, kills=len(checks), with_checkpoint=sum(checks))


def _flipped(number: int) -> TrialResult:
    """Damage a checkpoint by one bit, anywhere: it is refused, and nothing is made of it."""
    rng = random.Random(f"flipped {number}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        for name, content in _checkpoint("denoise").items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        path = folder / CHECKPOINT
        with path.open("r+b") as file:
            place = rng.randrange(path.stat().st_size)
            file.seek(place)
            value = file.read(1)[0] ^ (1 << rng.randrange(8))
            file.seek(place)
            file.write(bytes([value]))
        ended = run_command(command("denoise", folder, "--quiet", "--resume"), folder / "log2")
        if ended.code != 2 or (folder / "out.tif").exists():
            return make_failed(f"bit of byte {place}: exit {ended.code}: {ended.output}"[:500])
        return make_passed(f"byte {place}: {ended.output.strip()[-120:]}", kind="damage noticed")


def _from_a_checkpoint(case: str) -> TrialResult:
    """Go on from a checkpoint that is there for certain."""
    right, _ = undisturbed(case)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        for name, content in _checkpoint(case).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        argv = command(case, folder, "--quiet", "--resume")
        return _resumed(run_command(argv, folder / "log2"), folder, right, [True])


@cache
def _checkpoint(case: str) -> dict[str, bytes]:
    """Give what a killed run has left beside its result, by the names of the files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        child = Child(command(case, folder, "--quiet"), folder / "log")
        # a quick computer is through before the first checkpoint is due: let the clock go on alone
        child.wait_until_spent(0.4 * spent(case))
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(MIN_WRITE_INTERVAL)
        os.kill(child.pid, signal.SIGCONT)
        while not (folder / CHECKPOINT).exists():
            if child.ended(patience=0.01) is not None:
                raise RuntimeError((folder / "log").read_text())
        child.kill()
        child.ended()
        files = [path for path in folder.rglob("*") if path.is_file()]
        names = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        return {name: path for name, path in names.items() if name.startswith(UNFINISHED)}


def _killed_command(case: str, number: int) -> TrialResult:
    """Kill the installed command, loading included."""
    right, seconds = undisturbed(case)
    rng = random.Random(f"command {case} {number}")
    program = str(Path(sysconfig.get_path("scripts")) / "napari-dip")
    early = rng.random() < 0.25  # some before there is a checkpoint, while all is loaded
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _lay_out(folder)
        argv = [program, *command(case, folder, "--overwrite", "--quiet")]
        for sooner in range(MOST_EARLY_ENDS):  # a run that ends before its moment is not counted
            with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
                if early:
                    time.sleep(rng.uniform(0.1, 1.5) * seconds / 2**sooner)
                else:
                    while not list(folder.glob(f"{UNFINISHED}*")) and process.poll() is None:
                        time.sleep(0.01)
                    time.sleep(rng.uniform(0, 0.5) * seconds / 2**sooner)
                process.kill()
            if process.returncode:
                break
            if digest(folder / "out.tif") != right:
                return make_failed("the run that had ended has other bytes")
            (folder / "out.tif").write_bytes(EARLIER)
        else:
            return make_failed("the command always ended before it could be killed")
        if damage := _damage(folder, right):
            return make_failed(damage)
        checks = [_kept(folder)]
        done = subprocess.run([*argv, "--resume"], capture_output=True, text=True, timeout=600)
        ended = type("Ended", (), {"code": done.returncode, "said": done.stderr})
        return _resumed(ended, folder, right, checks)
