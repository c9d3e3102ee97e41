"""Runs that are killed at random moments and resumed, to the same bytes.

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
from faults.reference_runs import (
    COMMANDS,
    hash_file,
    make_argv,
    preload_torch,
    run_reference,
    write_inputs,
)
from faults.trials import Trial, make_failed, make_passed
from napari_dip.pipeline.store.checkpoints import MIN_WRITE_INTERVAL
from napari_dip.pipeline.store.tensor_file import read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: Kills of forked runs and of the installed command, and flipped bits.
FORKED_KILLS, COMMAND_KILLS, BIT_FLIPS = 180, 20, 10
#: Content of the earlier result, which a killed run must not damage.
EARLIER = b"an earlier result"
#: Folder that a run leaves beside its result when it is killed, and the checkpoint in it.
UNFINISHED = "out.tif.unfinished"
CHECKPOINT = f"{UNFINISHED}/checkpoint.safetensors"
#: Maximum number of runs that end before they are killed.
MAX_EARLY_ENDS = 8


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield kills of each case in turn."""
    preload_torch()
    cases = list(COMMANDS)
    for number, kill_count in enumerate((1, 2, 1) if small else _draw_kill_counts(FORKED_KILLS)):
        case = cases[number % len(cases)]
        yield Trial(f"{case} {number}", partial(_kill_and_resume, case, number, kill_count))
    for case in cases[: 1 if small else None]:
        yield Trial(f"from a checkpoint, {case}", partial(_resume_from_checkpoint, case))
    for number in range(1 if small else BIT_FLIPS):
        yield Trial(f"flipped byte {number}", partial(_flip_bit, number))
    for number in range(0 if small else COMMAND_KILLS):
        case = cases[number % len(cases)]
        yield Trial(
            f"installed command, {case} {number}", partial(_kill_installed_command, case, number)
        )


def _draw_kill_counts(kills: int) -> Iterator[int]:
    """Draw the kills of each run, one to four, until their sum is `kills`."""
    rng = random.Random("times")
    while kills:
        kill_count = min(kills, rng.randint(1, 4))
        kills -= kill_count
        yield kill_count


def _kill_and_resume(case: str, number: int, kill_count: int) -> TrialResult:
    """Kill a run `kill_count` times, then resume it to its end."""
    reference = run_reference(case).sha256
    rng = random.Random(f"{case} {number}")
    had_checkpoint: list[bool] = []
    early_end_count = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_inputs(folder)
        while len(had_checkpoint) < kill_count:
            resume = ["--resume"] if had_checkpoint else []
            argv = make_argv(case, folder, "--overwrite", "--quiet", *resume)
            child = Child(argv, folder / "log")
            child.wait_for_cpu_seconds(rng.uniform(0, 1) * run_reference(case).cpu_seconds)
            child.kill()
            proc = child.wait()
            if proc is not None and proc.code == 0:  # before it could be killed: not counted
                if hash_file(folder / "out.tif") != reference:
                    return make_failed("the run that had ended has other bytes")
                (folder / "out.tif").write_bytes(EARLIER)
                early_end_count += 1
                if early_end_count > MAX_EARLY_ENDS:
                    return make_failed("the run always ended before it could be killed")
                continue
            if damage := _find_damage(folder, reference):
                return make_failed(f"after kill {len(had_checkpoint) + 1}: {damage}")
            had_checkpoint.append(_has_checkpoint(folder))
        argv = make_argv(case, folder, "--overwrite", "--quiet", "--resume")
        proc = run_command(argv, folder / "log2")
        return _check_resumed(proc.code, proc.output, folder, reference, had_checkpoint)


def _write_inputs(folder: Path) -> None:
    write_inputs(folder)
    (folder / "out.tif").write_bytes(EARLIER)


def _has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint or a finished tile."""
    return bool(list(folder.glob(f"{UNFINISHED}/*.safetensors")))


def _find_damage(folder: Path, reference: str) -> str:
    """Describe a file that a killed run has damaged; "" if none is."""
    if (folder / "out.tif").read_bytes() != EARLIER and hash_file(folder / "out.tif") != reference:
        return "the result is damaged"
    try:
        for path in folder.glob(f"{UNFINISHED}/*.safetensors"):
            read_tensors(path)
        for path in folder.glob(f"{UNFINISHED}/*.json"):
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"a file that was kept is damaged: {error}"
    return ""


def _check_resumed(
    code: int, output: str, folder: Path, reference: str, had_checkpoint: list[bool]
) -> TrialResult:
    """Compare the resumed result with the reference, and look for leftover files."""
    if code:
        return make_failed(f"resumed: exit {code}: {output}"[:500])
    if hash_file(folder / "out.tif") != reference:
        return make_failed(f"other bytes; checkpoint found: {had_checkpoint}")
    leftovers = {path.name for path in folder.iterdir()}
    leftovers -= {"in.tif", "tall.tif", "mask.tif", "out.tif", "log", "log2"}
    if leftovers:
        return make_failed(f"left behind: {sorted(leftovers)}")
    kind = f"same bytes from {'a checkpoint' if any(had_checkpoint) else 'the beginning'}"
    return make_passed(
        kind, kind=kind, kills=len(had_checkpoint), with_checkpoint=sum(had_checkpoint)
    )


def _flip_bit(number: int) -> TrialResult:
    """Flip a random bit of a checkpoint: it is refused, and no result is written."""
    rng = random.Random(f"flipped {number}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        for name, content in _make_checkpoint("denoise").items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        path = folder / CHECKPOINT
        with path.open("r+b") as file:
            place = rng.randrange(path.stat().st_size)
            file.seek(place)
            value = file.read(1)[0] ^ (1 << rng.randrange(8))
            file.seek(place)
            file.write(bytes([value]))
        proc = run_command(make_argv("denoise", folder, "--quiet", "--resume"), folder / "log2")
        if proc.code != 2 or (folder / "out.tif").exists():
            return make_failed(f"bit of byte {place}: exit {proc.code}: {proc.output}"[:500])
        return make_passed(f"byte {place}: {proc.output.strip()[-120:]}", kind="damage noticed")


def _resume_from_checkpoint(case: str) -> TrialResult:
    """Resume from a checkpoint that certainly exists."""
    reference = run_reference(case).sha256
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        for name, content in _make_checkpoint(case).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        argv = make_argv(case, folder, "--quiet", "--resume")
        proc = run_command(argv, folder / "log2")
        return _check_resumed(proc.code, proc.output, folder, reference, [True])


@cache
def _make_checkpoint(case: str) -> dict[str, bytes]:
    """Kill a run after its first checkpoint; return its files by name."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        child = Child(make_argv(case, folder, "--quiet"), folder / "log")
        # a quick computer is through before the first checkpoint is due: let the clock go on alone
        child.wait_for_cpu_seconds(0.4 * run_reference(case).cpu_seconds)
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(MIN_WRITE_INTERVAL)
        os.kill(child.pid, signal.SIGCONT)
        while not (folder / CHECKPOINT).exists():
            if child.wait(timeout_s=0.01) is not None:
                raise RuntimeError((folder / "log").read_text())
        child.kill()
        child.wait()
        files = [path for path in folder.rglob("*") if path.is_file()]
        names = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        return {name: path for name, path in names.items() if name.startswith(UNFINISHED)}


def _kill_installed_command(case: str, number: int) -> TrialResult:
    """Kill the installed command, loading included."""
    run = run_reference(case)
    rng = random.Random(f"command {case} {number}")
    program = str(Path(sysconfig.get_path("scripts")) / "napari-dip")
    early = rng.random() < 0.25  # some before there is a checkpoint, while all is loaded
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_inputs(folder)
        argv = [program, *make_argv(case, folder, "--overwrite", "--quiet")]
        for sooner in range(MAX_EARLY_ENDS):  # a run that ends before its moment is not counted
            with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
                if early:
                    time.sleep(rng.uniform(0.1, 1.5) * run.seconds / 2**sooner)
                else:
                    while not list(folder.glob(f"{UNFINISHED}*")) and process.poll() is None:
                        time.sleep(0.01)
                    time.sleep(rng.uniform(0, 0.5) * run.seconds / 2**sooner)
                process.kill()
            if process.returncode:
                break
            if hash_file(folder / "out.tif") != run.sha256:
                return make_failed("the run that had ended has other bytes")
            (folder / "out.tif").write_bytes(EARLIER)
        else:
            return make_failed("the command always ended before it could be killed")
        if damage := _find_damage(folder, run.sha256):
            return make_failed(damage)
        had_checkpoint = [_has_checkpoint(folder)]
        done = subprocess.run([*argv, "--resume"], capture_output=True, text=True, timeout=600)
        return _check_resumed(done.returncode, done.stderr, folder, run.sha256, had_checkpoint)
