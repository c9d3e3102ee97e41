"""A disk that fills up at a random moment: earlier files stay whole, no picture is lost."""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.child import Child
from faults.scenes import COMMANDS, command, digest, lay_out, undisturbed, warm
from faults.trials import Trial, bad, good

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Seen

MOMENTS = 20
#: Size of the disk: room for a checkpoint and its successor, and for the result.
DISK = "12m"
EARLIER = b"an earlier result"


def trials(*, small: bool) -> Iterator[Trial]:
    """Fill the disk at moments from the beginning of a run to its end."""
    warm()
    cases = list(COMMANDS)
    for number in range(2 if small else MOMENTS):
        moment = (number + 0.5) / (2 if small else MOMENTS)
        yield Trial(f"{cases[number % len(cases)]} {number}", partial(_full, cases, number, moment))


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a small disk in memory; only root may."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    """Take all that is free."""
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


def _full(cases: list[str], number: int, moment: float) -> Seen:
    """Run with the results on the small disk, and fill it."""
    case = cases[number % len(cases)]
    right, seconds = undisturbed(case)
    rng = random.Random(number)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder)
        with small_disk(folder / "disk") as disk:
            output = disk / "out.tif"
            output.write_bytes(EARLIER)
            (disk / "other.tif").write_bytes(EARLIER)
            child = Child(command(case, folder, "--overwrite", output=output), folder / "log")
            end = time.monotonic() + (moment + rng.uniform(-0.02, 0.02)) * seconds
            ended = None
            while time.monotonic() < end and ended is None:
                ended = child.ended(patience=0.01)
            fill(disk)
            ended = ended or child.ended()
            if ended is None:
                child.kill()
                return bad("it did not end")
            if (disk / "other.tif").read_bytes() != EARLIER:
                return bad("another file was touched")
            return _judged(folder, output, right, ended.code, ended.said)


def _judged(folder: Path, output: Path, right: str, code: int, said: str) -> Seen:
    """Say whether the result is in its place, or elsewhere and said so."""
    if code == 0 and digest(output) == right:
        return good("saved before the disk was full", kind="saved in its place")
    if output.read_bytes() != EARLIER:
        return bad(f"exit {code}: the earlier result was harmed: {said}"[:500])
    if code == 2 and "are free" in said:
        return good("refused before work began", kind="refused")
    named = re.search(r"kept as '([^']+)'", said)
    if code != 1 or named is None or "could not be saved" not in said:
        return bad(f"exit {code}: {said}"[-500:])
    if digest(Path(named[1])) != right:
        return bad("the picture that was kept elsewhere is another one")
    if Path(named[1]).parent != folder:
        Path(named[1]).unlink()
    return good("kept elsewhere and said so", kind="kept elsewhere")
