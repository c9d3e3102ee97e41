"""Files and recipes made to do harm: none is executed, writes elsewhere, or takes much."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bad_inputs import noisy
from faults.child import run_command
from faults.hostile_networks import ATTACKS as NETWORKS
from faults.hostile_pictures import ATTACKS as PICTURES
from faults.hostile_texts import ATTACKS as TEXTS
from faults.hostile_zarr import ATTACKS as ZARRS
from faults.trials import Trial, find_fault_code, make_failed, make_passed
from napari_dip.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.attack import Attack
    from faults.trials import TrialResult

#: Most that one may take.
MOST_BYTES, MOST_SECONDS = 10**9, 5.0


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every attack; of a few trials, every fifth."""
    _warm()
    for attack in (*PICTURES, *ZARRS, *TEXTS, *NETWORKS)[:: 5 if small else 1]:
        yield Trial(attack.name, partial(_attacked, attack))


def _warm() -> None:
    """Load what a refusal needs, and no torch, so that children begin with it."""
    import tifffile

    with tempfile.TemporaryDirectory() as scratch:
        tifffile.imwrite(Path(scratch) / "in.tif", noisy(20, 20), compression="zlib")
        main(["plan", "denoise", str(Path(scratch) / "in.tif")])


def _attacked(attack: Attack) -> TrialResult:
    """Lay the trap, type the command in a child with little memory, and look what happened."""
    with tempfile.TemporaryDirectory() as scratch:
        field, outside = Path(scratch) / "field", Path(scratch) / "outside"
        field.mkdir()
        outside.mkdir()
        (outside / "treasure").write_text("mine")
        argv = attack.make(field, outside)
        before = _state(outside)
        ended = run_command(
            argv, Path(scratch) / "log", memory=MOST_BYTES, before=lambda: os.chdir(field)
        )
        facts = {"cpu": round(ended.cpu, 2), "peak_MB": round(ended.peak / 1e6)}
        if _state(outside) != before:
            return make_failed(f"outside was touched: {_state(outside)}", **facts)
        if ended.cpu > MOST_SECONDS or ended.peak > MOST_BYTES:
            return make_failed(f"took {ended.cpu:.1f} s and {ended.peak / 1e6:.0f} MB", **facts)
        if ended.code not in attack.ends:
            return make_failed(f"exit {ended.code}: {ended.output}"[:600], **facts)
        if ended.code == 2 and not find_fault_code(_last(ended.output)):
            return make_failed(f"said: {ended.output}"[:600], **facts)
        if attack.unsaid and attack.unsaid in ended.output:
            return make_failed(f"gave away: {ended.output}"[:600], **facts)
        if damage := attack.check(field):
            return make_failed(damage, **facts)
        ending = (
            find_fault_code(_last(ended.output)) if ended.code == 2 else "restored without harm"
        )
        return make_passed(str(ending), kind="refused" if ended.code == 2 else "harmless", **facts)


def _last(output: str) -> str:
    """Give the last line, which says why; earlier ones may be about other files."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _state(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }
