"""Hostile files and recipes: none is executed, writes outside its folder, or exceeds limits."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bad_inputs import noisy
from faults.child import run_command
from faults.hostile_images import ATTACKS as IMAGES
from faults.hostile_networks import ATTACKS as NETWORKS
from faults.hostile_texts import ATTACKS as TEXTS
from faults.hostile_zarr import ATTACKS as ZARRS
from faults.trials import Trial, find_fault_code, make_failed, make_passed
from napari_dip.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.attacks import Attack
    from faults.trials import TrialResult

#: Limits of one command.
MAX_BYTES, MAX_SECONDS = 10**9, 5.0


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield every attack, or every fifth."""
    _preload()
    for attack in (*IMAGES, *ZARRS, *TEXTS, *NETWORKS)[:: 5 if small else 1]:
        yield Trial(attack.name, partial(_run_attack, attack))


def _preload() -> None:
    """Import what a refusal needs, without torch, before forking."""
    import tifffile

    with tempfile.TemporaryDirectory() as scratch:
        tifffile.imwrite(Path(scratch) / "in.tif", noisy(20, 20), compression="zlib")
        main(["plan", "denoise", str(Path(scratch) / "in.tif")])


def _run_attack(attack: Attack) -> TrialResult:
    """Run the command with a memory limit; check exit code, output, resources and other files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, outside = Path(scratch) / "work", Path(scratch) / "outside"
        folder.mkdir()
        outside.mkdir()
        (outside / "treasure").write_text("mine")
        argv = attack.make_argv(folder, outside)
        before = _read_contents(outside)
        proc = run_command(
            argv, Path(scratch) / "log", memory=MAX_BYTES, before=lambda: os.chdir(folder)
        )
        facts = {"cpu": round(proc.cpu, 2), "peak_MB": round(proc.peak / 1e6)}
        if _read_contents(outside) != before:
            return make_failed(f"outside was touched: {_read_contents(outside)}", **facts)
        if proc.cpu > MAX_SECONDS or proc.peak > MAX_BYTES:
            return make_failed(f"took {proc.cpu:.1f} s and {proc.peak / 1e6:.0f} MB", **facts)
        if proc.code not in attack.exit_codes:
            return make_failed(f"exit {proc.code}: {proc.output}"[:600], **facts)
        if proc.code == 2 and not find_fault_code(_get_last_line(proc.output)):
            return make_failed(f"said: {proc.output}"[:600], **facts)
        if attack.forbidden and attack.forbidden in proc.output:
            return make_failed(f"gave away: {proc.output}"[:600], **facts)
        if damage := attack.find_damage(folder):
            return make_failed(damage, **facts)
        ending = (
            find_fault_code(_get_last_line(proc.output))
            if proc.code == 2
            else "restored without harm"
        )
        return make_passed(str(ending), kind="refused" if proc.code == 2 else "harmless", **facts)


def _get_last_line(output: str) -> str:
    """Return the last line, which has the reason; earlier ones may be about other files."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _read_contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }
