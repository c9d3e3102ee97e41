"""A disk, or quota, that fills up at a random moment: earlier files stay, no image is lost."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.child import Child, run_command
from faults.scenes import COMMANDS, command, digest, lay_out, spent, undisturbed, warm
from faults.trials import Trial, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from faults.trials import TrialResult

MOMENTS, QUOTAS = 20, 8
#: Size of the disk: room for a checkpoint and its successor, and for the result.
DISK = "12m"
#: Size of the disk that has a quota: as small as btrfs makes them.
BTRFS = 128 * 2**20
EARLIER = b"an earlier result"


def trials(*, small: bool) -> Iterator[Trial]:
    """Fill the disk at moments from the beginning of a run to its end."""
    warm()
    cases = list(COMMANDS)
    for number in range(2 if small else MOMENTS):
        moment = (number + 0.5) / (2 if small else MOMENTS)
        run = partial(_full, small_disk, cases[number % len(cases)], number, moment)
        yield Trial(f"{cases[number % len(cases)]} {number}", run)
    for number in range(0 if small or not shutil.which("mkfs.btrfs") else QUOTAS):
        moment = (number + 0.5) / QUOTAS
        run = partial(_full, quota, cases[number % len(cases)], number, moment)
        yield Trial(f"quota, {cases[number % len(cases)]} {number}", run)
    for case in () if small else ("denoise", "tiled"):
        yield Trial(f"folder removed, {case}", partial(_removed, case))
        yield Trial(f"two runs on one output, {case}", partial(_twice, case))


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a small disk in memory; only root may."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def quota(place: Path) -> Iterator[Path]:
    """Mount a disk of which a folder may take a part only, of btrfs; only root may."""
    disk = place.with_name("quota")
    image = place.with_name("quota.img")
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(BTRFS)
    subprocess.run(["mkfs.btrfs", "-q", "-M", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        place = disk / place.name
        for step in (
            ["subvolume", "create", place],
            ["quota", "enable", disk],
            ["qgroup", "limit", DISK, place],
        ):
            subprocess.run(["btrfs", *step], check=True, stdout=subprocess.DEVNULL)
        yield place
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(place: Path) -> None:
    """Take all that is free, or allowed."""
    handle = os.open(place / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(handle, bytes(2**16))
    except OSError:
        pass
    finally:
        try:
            os.write(handle, b"x")  # the last bytes of the last page
        except OSError:
            pass
        os.close(handle)


def _full(
    made_full: Callable[[Path], AbstractContextManager[Path]], case: str, number: int, moment: float
) -> TrialResult:
    """Run with the results on the small disk, and fill it."""
    right = undisturbed(case)[0]
    rng = random.Random(number)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        with made_full(folder / "disk") as disk:
            output = disk / "out.tif"
            output.write_bytes(EARLIER)
            (disk / "other.tif").write_bytes(EARLIER)
            child = Child(command(case, folder, "--overwrite", output=output), folder / "log")
            child.wait_until_spent((moment + rng.uniform(-0.02, 0.02)) * spent(case))
            fill(disk)
            ended = child.ended()
            if ended is None:
                child.kill()
                return make_failed("it did not end")
            if (disk / "other.tif").read_bytes() != EARLIER:
                return make_failed("another file was touched")
            return _judged(folder, output, right, ended.code, ended.output)


def _removed(case: str) -> TrialResult:
    """Remove the folder of the result, and all in it, in the middle of a run."""
    right = undisturbed(case)[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        (folder / "results").mkdir()
        output = folder / "results" / "out.tif"
        child = Child(command(case, folder, output=output), folder / "log")
        child.wait_until_spent(0.7 * spent(case))
        shutil.rmtree(folder / "results")
        ended = child.ended()
        assert ended is not None
        named = re.search(r"kept as '([^']+)'", ended.output)
        if ended.code != 1 or output.exists():
            return make_failed(f"exit {ended.code}: {ended.output}"[-500:])
        if named is None and "are missing from" in ended.output:
            return make_passed("tiles were gone, and that was said", kind="said")
        if named is None or digest(Path(named[1])) != right:
            return make_failed(ended.output[-500:])
        return make_passed("kept elsewhere and said so", kind="kept elsewhere")


def _twice(case: str) -> TrialResult:
    """Begin another run, with another seed, on the same result while one is on."""
    right = undisturbed(case)[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        first = Child(command(case, folder), folder / "log")
        first.wait_until_spent(0.5 * spent(case))
        if case == "tiled":  # still, so that the second cannot come too late
            os.kill(first.pid, signal.SIGSTOP)
        second = run_command(command(case, folder, "--seed", "7"), folder / "log2")
        os.kill(first.pid, signal.SIGCONT)
        ended = first.ended()
        assert ended is not None
        if ended.code or digest(folder / "out.tif") != right:
            return make_failed(
                f"exit {ended.code} and {second.code}: {ended.output}{second.output}"[-500:]
            )
        if (second.code, second.output.count("Another run is writing")) != (2, 1):
            return make_failed(f"the second: exit {second.code}: {second.output}"[-500:])
        return make_passed("the second was refused", kind="refused")


def _judged(folder: Path, output: Path, right: str, code: int, messages: str) -> TrialResult:
    """Say whether the result is in its place, or elsewhere and said so."""
    if code == 0 and digest(output) == right:
        return make_passed("saved before the disk was full", kind="saved in its place")
    if output.read_bytes() != EARLIER:
        return make_failed(f"exit {code}: the earlier result was harmed: {messages}"[:500])
    if code == 2 and "are free" in messages:
        return make_passed("refused before work began", kind="refused")
    named = re.search(r"kept as '([^']+)'", messages)
    if code != 1 or named is None or "could not be saved" not in messages:
        return make_failed(f"exit {code}: {messages}"[-500:])
    if digest(Path(named[1])) != right:
        return make_failed("the picture that was kept elsewhere is another one")
    if Path(named[1]).parent != folder:
        Path(named[1]).unlink()
    return make_passed("kept elsewhere and said so", kind="kept elsewhere")
