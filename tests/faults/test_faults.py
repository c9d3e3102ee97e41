"""A few trials of each part of `make faults`, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.mutations import MUTATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A few seconds of the processor each, but on a busy machine that may take long.
pytestmark = pytest.mark.timeout(400)
ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and forks as Linux has them")


def run_faults(out: Path, *arguments: str) -> str:
    paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    argv: Sequence[str] = [sys.executable, "-m", "faults", "--small", "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_arrays_and_small_problems_are_restored_rightly_or_refused(tmp_path):
    output = run_faults(tmp_path, "--only", "properties", "--only", "numerics")
    assert "properties: 15 trials, 0 failed" in output
    assert "numerics: 10 trials, 0 failed" in output


@pytest.mark.long
@linux
def test_hostile_files_are_refused_in_little_memory(tmp_path):
    quick = ["TIFF that claims", "OME-TIFF whose", "recipe of 8 GB", "list of a batch"]
    quick += ["pickle called in.tif", "pickle as recipe"]
    arguments = [word for name in quick for word in ("--match", name)]
    assert "hostile: 7 trials, 0 failed" in run_faults(tmp_path, "--only", "hostile", *arguments)


@pytest.mark.long
@linux
@pytest.mark.all_cores
def test_a_killed_run_resumes_to_the_same_bytes_and_survives_a_full_memory(tmp_path):
    arguments = (
        "--match",
        "from a checkpoint, denoise",
        "--match",
        "flipped byte 0",
        "--match",
        "GPU, inpaint 1",
    )
    output = run_faults(tmp_path, "--only", "kills", "--only", "memory", *arguments)
    assert "kills: 2 trials, 0 failed" in output
    assert "memory: 1 trials, 0 failed" in output


@pytest.mark.long
@linux
def test_odd_files_numbers_states_and_attacks_end_well(tmp_path):
    quick = ["TIFF, tiles that stand over", "Zarr 3 in shards", "report over the input"]
    quick += ["intensities times 1000, prior random-input", "mask as uint64", "two runs in turn"]
    quick += ["image as negative strides", "with a mask of 77", "Zarr level '../outside"]
    quick += ["script of a path of both quotes", "dangling link l.json at --report"]
    families = ("files", "numerics", "processes", "state", "security")
    arguments = [word for name in quick for word in ("--match", name)]
    arguments += [word for name in families for word in ("--only", f"cases-{name}")]
    output = run_faults(tmp_path, *arguments)
    assert "| all | 11 | 11 | 0 | 0 | 0 | 0 | 0 |" in output


def test_every_mutation_still_finds_its_guard():
    for mutation in MUTATIONS:
        text = (ROOT / "src" / "napari_dip" / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.before) == 1, mutation.guard
