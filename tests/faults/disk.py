"""Disks and quotas that fill up during a run: earlier files stay, and no image is lost."""

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
from faults.reference_runs import (
    COMMANDS,
    hash_file,
    make_argv,
    preload_torch,
    run_reference,
    write_inputs,
)
from faults.trials import Trial, make_failed, make_passed
from napari_dip.io.outputs import find_lock_path

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
    preload_torch()
    cases = list(COMMANDS)
    for number in range(2 if small else MOMENTS):
        moment = (number + 0.5) / (2 if small else MOMENTS)
        run = partial(
            _fill_during_run, mount_small_disk, cases[number % len(cases)], number, moment
        )
        yield Trial(f"{cases[number % len(cases)]} {number}", run)
    for number in range(0 if small or not shutil.which("mkfs.btrfs") else QUOTAS):
        moment = (number + 0.5) / QUOTAS
        run = partial(_fill_during_run, mount_quota, cases[number % len(cases)], number, moment)
        yield Trial(f"quota, {cases[number % len(cases)]} {number}", run)
    for case in () if small else ("denoise", "tiled"):
        yield Trial(f"folder removed, {case}", partial(_remove_folder, case))
        yield Trial(f"two runs on one output, {case}", partial(_start_second_run, case))
    if not small:
        tidied = partial(_start_second_run, "tiled", removes_lock_file=True)
        yield Trial("two runs on one output, its lock file removed", tidied)


@contextmanager
def mount_small_disk(place: Path) -> Iterator[Path]:
    """Mount a small disk in memory; only root may."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def mount_quota(place: Path) -> Iterator[Path]:
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


def fill_disk(place: Path) -> None:
    """Write until nothing is free."""
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


def _fill_during_run(
    mount_disk: Callable[[Path], AbstractContextManager[Path]],
    case: str,
    number: int,
    moment: float,
) -> TrialResult:
    """Run with the result on a small disk, and fill the disk at a moment."""
    reference = run_reference(case).sha256
    rng = random.Random(number)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        with mount_disk(folder / "disk") as disk:
            output = disk / "out.tif"
            output.write_bytes(EARLIER)
            (disk / "other.tif").write_bytes(EARLIER)
            child = Child(make_argv(case, folder, "--overwrite", output=output), folder / "log")
            child.wait_for_cpu_seconds(
                (moment + rng.uniform(-0.02, 0.02)) * run_reference(case).cpu_seconds
            )
            fill_disk(disk)
            proc = child.wait()
            if proc is None:
                child.kill()
                return make_failed("it did not end")
            if (disk / "other.tif").read_bytes() != EARLIER:
                return make_failed("another file was touched")
            return _check_outcome(folder, output, reference, proc.code, proc.output)


def _remove_folder(case: str) -> TrialResult:
    """Remove the folder of the result during a run."""
    reference = run_reference(case).sha256
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        (folder / "results").mkdir()
        output = folder / "results" / "out.tif"
        child = Child(make_argv(case, folder, output=output), folder / "log")
        child.wait_for_cpu_seconds(0.7 * run_reference(case).cpu_seconds)
        shutil.rmtree(folder / "results")
        proc = child.wait()
        assert proc is not None
        rescued = re.search(r"kept as '([^']+)'", proc.output)
        if proc.code != 1 or output.exists():
            return make_failed(f"exit {proc.code}: {proc.output}"[-500:])
        if rescued is None and "are missing from" in proc.output:
            return make_passed("tiles were gone, and that was said", kind="said")
        if rescued is None or hash_file(Path(rescued[1])) != reference:
            return make_failed(proc.output[-500:])
        return make_passed("kept elsewhere and said so", kind="kept elsewhere")


def _start_second_run(case: str, *, removes_lock_file: bool = False) -> TrialResult:
    """Start a second run, with another seed, on the output of a running one.

    The hidden lock file beside the output may be removed, as by somebody who tidies up. The tiles
    have a lock of their own.
    """
    refusal = "Another run stores its tiles" if removes_lock_file else "Another run is writing"
    reference = run_reference(case).sha256
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        first = Child(make_argv(case, folder), folder / "log")
        first.wait_for_cpu_seconds(0.5 * run_reference(case).cpu_seconds)
        if case == "tiled":  # still, so that the second cannot come too late
            os.kill(first.pid, signal.SIGSTOP)
        if removes_lock_file:
            find_lock_path(folder / "out.tif").unlink()
        second = run_command(make_argv(case, folder, "--seed", "7"), folder / "log2")
        os.kill(first.pid, signal.SIGCONT)
        proc = first.wait()
        assert proc is not None
        if proc.code or hash_file(folder / "out.tif") != reference:
            return make_failed(
                f"exit {proc.code} and {second.code}: {proc.output}{second.output}"[-500:]
            )
        if (second.code, second.output.count(refusal)) != (2, 1):
            return make_failed(f"the second: exit {second.code}: {second.output}"[-500:])
        return make_passed("the second was refused", kind="refused")


def _check_outcome(
    folder: Path, output: Path, reference: str, code: int, messages: str
) -> TrialResult:
    """Check that the result is saved, in its place or where the message says."""
    if code == 0 and hash_file(output) == reference:
        return make_passed("saved before the disk was full", kind="saved in its place")
    if output.read_bytes() != EARLIER:
        return make_failed(f"exit {code}: the earlier result was harmed: {messages}"[:500])
    if code == 2 and "are free" in messages:
        return make_passed("refused before work began", kind="refused")
    rescued = re.search(r"kept as '([^']+)'", messages)
    if code != 1 or rescued is None or "could not be saved" not in messages:
        return make_failed(f"exit {code}: {messages}"[-500:])
    if hash_file(Path(rescued[1])) != reference:
        return make_failed("the image that was kept elsewhere is another one")
    if Path(rescued[1]).parent != folder:
        Path(rescued[1]).unlink()
    return make_passed("kept elsewhere and said so", kind="kept elsewhere")
