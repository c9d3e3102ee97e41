"""Images and commands that are interrupted, and their undisturbed results."""

from __future__ import annotations

import hashlib
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from skimage import data

from faults.child import run_command

SIDE, TALL = 64, 176
#: Iterations: long enough for a few checkpoints, short enough for hundreds of runs.
ITERATIONS = 60

#: What is typed after the picture's name, by the name of the case.
COMMANDS = {
    "denoise": ["denoise", "{in}", "--preset", "fast"],
    "inpaint": ["inpaint", "{in}", "--mask", "{mask}", "--preset", "fast"],
    "blind-deblur": ["blind-deblur", "{in}", "--psf-size", "7", "--preset", "fast"],
    # the least tile is 128 pixels wide, so this picture is taller than the others
    "tiled": ["denoise", "{tall}", "--preset", "fast", "--tile", "128"],
}
#: Further ones, for faults that take a larger picture.
FURTHER = {"tall": ["denoise", "{tall}", "--preset", "fast"]}


def lay_out(folder: Path) -> None:
    """Put noisy corners of scikit-image's cell there, and a mask."""
    for name, height in (("in", SIDE), ("tall", TALL)):
        rng = np.random.default_rng(0)
        truth = data.cell()[200 : 200 + height, 200 : 200 + SIDE].astype(np.float64)
        counts = 2 * rng.poisson(truth / 2) + rng.normal(0, 3, truth.shape) + 100
        pixels = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
        tifffile.imwrite(folder / f"{name}.tif", pixels)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:26, 10:50] = 1
    tifffile.imwrite(folder / "mask.tif", mask)


def command(case: str, folder: Path, *options: str, output: Path | None = None) -> list[str]:
    """Give what is typed for a case in a folder; the result is called out.tif."""
    places = {"{in}": "in.tif", "{tall}": "tall.tif", "{mask}": "mask.tif"}
    argv = {**COMMANDS, **FURTHER}[case]
    argv = [str(folder / places[word]) if word in places else word for word in argv]
    target = output or folder / "out.tif"
    return [*argv, "--max-iterations", str(ITERATIONS), "-o", str(target), *options]


def undisturbed(case: str) -> tuple[str, float]:
    """Hash of the result, and the seconds that it takes, of a run that nothing disturbs."""
    content, seconds, _ = result(case)
    return hashlib.sha256(content).hexdigest(), seconds


def spent(case: str) -> float:
    """Seconds of the processor that a run takes which nothing disturbs."""
    return result(case)[2]


@cache
def result(case: str) -> tuple[bytes, float, float]:
    """File, seconds and seconds of the processor of a run that nothing disturbs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        ended = run_command(command(case, folder, "--quiet"), folder / "log")
        if ended.code:
            raise RuntimeError(f"the undisturbed run ended with {ended.code}: {ended.output}")
        return (folder / "out.tif").read_bytes(), ended.seconds, ended.cpu


def digest(path: Path) -> str:
    """Hash of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def warm() -> None:
    """Load all that a run needs, and run nothing, so that children begin with it."""
    import matplotlib.figure  # noqa: F401
    import torch

    from napari_dip.pipeline.machine import load_torch

    load_torch()
    torch.set_num_threads(1)
