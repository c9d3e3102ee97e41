"""Runs that are killed at random moments: each is gone on with, to the same bytes.

Most are killed in a child that was forked with torch loaded and calls the command's `main`, which
saves the seconds of loading; some are the installed command itself, killed from its start on.
"""

from __future__ import annotations

import random
import subprocess
import sysconfig
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.child import Child, typed
from faults.scenes import COMMANDS, command, digest, lay_out, undisturbed, warm
from faults.trials import Trial, bad, good

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Seen

#: Runs; with those that are killed twice or three times, 180 + 20 kills.
FORKED, REAL, FLIPS = 114, 20, 10
#: What lies under the name of the result before, and must not be harmed by a run that is killed.
EARLIER = b"an earlier result"


def trials(*, small: bool) -> Iterator[Trial]:
    """Give kills in turn over the cases."""
    warm()
    cases = list(COMMANDS)
    for number in range(3 if small else FORKED):
        case = cases[number % len(cases)]
        yield Trial(f"{case} {number}", partial(_killed, case, number))
    for case in cases[: 1 if small else None]:
        yield Trial(f"from a checkpoint, {case}", partial(_from_a_checkpoint, case))
    for number in range(1 if small else FLIPS):
        yield Trial(f"flipped byte {number}", partial(_flipped, number))
    for number in range(0 if small else REAL):
        case = cases[number % len(cases)]
        yield Trial(f"installed command, {case} {number}", partial(_killed_command, case, number))


def _killed(case: str, number: int) -> Seen:
    """Kill a run, up to three times, then let it end."""
    right, seconds = undisturbed(case)
    rng = random.Random(f"{case} {number}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder)
        (folder / "out.tif").write_bytes(EARLIER)
        resume: list[str] = []
        found = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            argv = command(case, folder, "--overwrite", "--quiet", *resume)
            child = Child(argv, folder / "log")
            time.sleep(rng.uniform(0, 1.1) * seconds)
            child.kill()
            child.ended()
            state = digest(folder / "out.tif")
            if (folder / "out.tif").read_bytes() != EARLIER and state != right:
                return bad("the killed run left a damaged result")
            found.append((folder / "out.tif.unfinished").exists())
            resume = ["--resume"]
        argv = command(case, folder, "--overwrite", "--quiet", "--resume")
        return _resumed(typed(argv, folder / "log2"), folder, right, found)


def _resumed(ended: object, folder: Path, right: str, found: list[bool]) -> Seen:
    """Compare the resumed result with the undisturbed one, and look for what was left."""
    code, said = ended.code, ended.said  # type: ignore[attr-defined]
    if code:
        return bad(f"resumed: exit {code}: {said}"[:500])
    if digest(folder / "out.tif") != right:
        return bad(f"other bytes; checkpoint found: {found}")
    left = {path.name for path in folder.iterdir()}
    left -= {"in.tif", "tall.tif", "mask.tif", "out.tif", "log", "log2"}
    if left:
        return bad(f"left behind: {sorted(left)}")
    kind = "same bytes from a checkpoint" if any(found) else "same bytes from the beginning"
    return good(kind, kind=kind, kills=len(found))


def _flipped(number: int) -> Seen:
    """Damage a checkpoint by one bit, anywhere: it is refused, and nothing is made of it."""
    rng = random.Random(f"flipped {number}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder)
        path = folder / "out.tif.unfinished"
        path.write_bytes(_checkpoint("denoise"))
        with path.open("r+b") as file:
            place = rng.randrange(path.stat().st_size)
            file.seek(place)
            value = file.read(1)[0] ^ (1 << rng.randrange(8))
            file.seek(place)
            file.write(bytes([value]))
        ended = typed(command("denoise", folder, "--quiet", "--resume"), folder / "log2")
        if ended.code != 2 or (folder / "out.tif").exists():
            return bad(f"bit of byte {place}: exit {ended.code}: {ended.said}"[:500])
        return good(f"byte {place}: {ended.said.strip()[-120:]}", kind="damage noticed")


def _from_a_checkpoint(case: str) -> Seen:
    """Go on from a checkpoint that is there for certain."""
    right, _ = undisturbed(case)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder)
        (folder / "out.tif.unfinished").write_bytes(_checkpoint(case))
        argv = command(case, folder, "--quiet", "--resume")
        return _resumed(typed(argv, folder / "log2"), folder, right, [True])


@cache
def _checkpoint(case: str) -> bytes:
    """Give a checkpoint that a killed run has left."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder)
        child = Child(command(case, folder, "--quiet"), folder / "log")
        path = folder / "out.tif.unfinished"
        while not path.exists():
            if child.ended(patience=0.01) is not None:
                raise RuntimeError((folder / "log").read_text())
        child.kill()
        child.ended()
        return path.read_bytes()


def _killed_command(case: str, number: int) -> Seen:
    """Kill the installed command, loading included."""
    right, seconds = undisturbed(case)
    rng = random.Random(f"command {case} {number}")
    program = str(Path(sysconfig.get_path("scripts")) / "napari-dip")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder)
        (folder / "out.tif").write_bytes(EARLIER)
        argv = [program, *command(case, folder, "--overwrite", "--quiet")]
        began = time.monotonic()
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
            while not list(folder.glob("*.unfinished")) and process.poll() is None:
                if rng.random() < 0.001:  # now and then before there is a checkpoint
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.7) * seconds)
            process.kill()
        if (folder / "out.tif").read_bytes() != EARLIER and digest(folder / "out.tif") != right:
            return bad("the killed run left a damaged result")
        found = [(folder / "out.tif.unfinished").exists()]
        done = subprocess.run([*argv, "--resume"], capture_output=True, text=True, timeout=300)
        ended = type("Ended", (), {"code": done.returncode, "said": done.stderr})
        took = round(time.monotonic() - began, 1)
        return {**_resumed(ended, folder, right, found), "took": took}
