"""Images and commands of the interrupted runs, and the results without interruption."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from skimage import data

from faults.child import run_command

SIDE, TALL_SIDE = 64, 176
#: Iterations: long enough for a few checkpoints, short enough for hundreds of runs.
ITERATIONS = 60

#: Arguments by case.
COMMANDS = {
    "denoise": ["denoise", "{in}", "--preset", "fast"],
    "inpaint": ["inpaint", "{in}", "--mask", "{mask}", "--preset", "fast"],
    "blind-deblur": ["blind-deblur", "{in}", "--psf-size", "7", "--preset", "fast"],
    # the least tile is 128 pixels wide, so this image is taller than the others
    "tiled": ["denoise", "{tall}", "--preset", "fast", "--tile", "128"],
}
#: Cases with a larger image.
EXTRA_COMMANDS = {"tall": ["denoise", "{tall}", "--preset", "fast"]}


def write_inputs(folder: Path) -> None:
    """Write noisy crops of scikit-image's cell, and a mask."""
    for name, height in (("in", SIDE), ("tall", TALL_SIDE)):
        rng = np.random.default_rng(0)
        truth = data.cell()[200 : 200 + height, 200 : 200 + SIDE].astype(np.float64)
        counts = 2 * rng.poisson(truth / 2) + rng.normal(0, 3, truth.shape) + 100
        pixels = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
        tifffile.imwrite(folder / f"{name}.tif", pixels)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:26, 10:50] = 1
    tifffile.imwrite(folder / "mask.tif", mask)


def make_argv(case: str, folder: Path, *options: str, output: Path | None = None) -> list[str]:
    """Build the arguments of a case; the result is out.tif."""
    places = {"{in}": "in.tif", "{tall}": "tall.tif", "{mask}": "mask.tif"}
    argv = {**COMMANDS, **EXTRA_COMMANDS}[case]
    argv = [str(folder / places[word]) if word in places else word for word in argv]
    target = output or folder / "out.tif"
    return [*argv, "--max-iterations", str(ITERATIONS), "-o", str(target), *options]


@dataclass(frozen=True)
class ReferenceRun:
    """Result file, its hash, wall-clock and CPU seconds of a run without interruption."""

    content: bytes
    sha256: str
    seconds: float
    cpu_seconds: float


@cache
def run_reference(case: str) -> ReferenceRun:
    """Run a case without interruption."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        proc = run_command(make_argv(case, folder, "--quiet"), folder / "log")
        if proc.code:
            raise RuntimeError(f"the reference run ended with {proc.code}: {proc.output}")
        output = folder / "out.tif"
        return ReferenceRun(output.read_bytes(), hash_file(output), proc.seconds, proc.cpu)


def hash_file(path: Path) -> str:
    """Hash a file; "" if it does not exist."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def preload_torch() -> None:
    """Import all that a run needs before forking."""
    import matplotlib.figure  # noqa: F401
    import torch

    from napari_dip.pipeline.torch_state import load_torch

    load_torch()
    torch.set_num_threads(1)
