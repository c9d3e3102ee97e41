"""Inputs and reference result of the killed batches: 54 small images and six bad ones."""

from __future__ import annotations

import json
import random
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from skimage.io import imread

import napari_dip as dip
from faults.child import Child

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
#: Kept between calls, so that the reference batch runs once.
HOME = ROOT / "benchmarks" / "out" / "faults" / "many"
SIDE, ITERATIONS = 64, 60
#: Single noisy exposures of the benchmark images.
SHOTS = ("fmd/*_raw?.png", "w2s/*_noisy_avg1.png", "hagen_cc0/*_lowsnr.png", "cc15/*_real.png")
#: Seconds that nothing may take longer than.
TIMEOUT_S = 3000.0


@cache
def run_reference(count: int) -> Path:
    """Run the batch without interruption, once; return its folder."""
    _write_inputs(count)
    folder = HOME / str(count) / "right"
    child = Child(make_argv(count, folder, "--resume"), folder.with_name("right.log"))
    proc = child.wait(TIMEOUT_S)
    if proc is None or proc.code != 1:  # one, since six files have no result
        raise RuntimeError(f"the undisturbed batch ended with {proc}")
    return folder


def _write_inputs(count: int) -> None:
    """Write crops of the benchmark images, and six bad files."""
    folder = HOME / str(count) / "in"
    if folder.exists():
        return
    part = folder.with_name("in.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, pixels in zip(range(count), _cut_crops(), strict=False):
        tifffile.imwrite(part / f"crop_{number:02d}.tif", pixels)
    whole = (part / "crop_00.tif").read_bytes()
    (part / "bad_text.tif").write_text("no image")
    (part / "bad_cut_off.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(part / "bad_small.tif", np.ones((8, 8), "uint8"))
    tifffile.imwrite(part / "bad_constant.tif", np.full((SIDE, SIDE), 7, "uint8"))
    pixels = np.random.default_rng(0).normal(100, 5, (SIDE, SIDE)).astype("float32")
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        pixels[5, 5] = value
        tifffile.imwrite(part / f"bad_{name}.tif", pixels)
    recipe = dip.make_recipe("denoise", preset="fast", device="cpu", max_iterations=ITERATIONS)
    folder.with_name("recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    part.rename(folder)


def _cut_crops() -> Iterator[np.ndarray]:
    """Yield crops of high contrast, one of each image, then another."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from shared_data import data_folder

    files = [path for shot in SHOTS for path in sorted(data_folder().glob(shot))]
    for turn in range(9):
        for path in files:
            rng = random.Random(f"{path.name} {turn}")
            image = imread(path)
            image = image[..., 1] if image.ndim == 3 else image  # green
            corners = [[rng.randrange(size - SIDE) for size in image.shape] for _ in range(16)]
            cuts = [image[y : y + SIDE, x : x + SIDE] for y, x in corners]
            yield max(cuts, key=lambda cut: float(cut.std()))


def make_folder(name: str, count: int) -> Path:
    """Make an empty folder for a batch that is killed."""
    folder = HOME / str(count) / name / "out"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    return folder


def make_argv(count: int, out: Path, *options: str) -> list[str]:
    home = HOME / str(count)
    places = ["batch", str(home / "recipe.json"), str(home / "in"), "-o", str(out)]
    return [*places, "--threads", "1", *options]


def read_results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tif")}


def read_fault_codes(folder: Path) -> dict[str, str]:
    """Read the codes of all refusals, from the list and from records."""
    record = json.loads((folder / "batch.json").read_text("utf-8"))["refused"]
    codes = {Path(row["source"]).stem: row["code"] for row in record}
    for record_path in folder.glob("records/*.json"):
        if (no := json.loads(record_path.read_text("utf-8"))["refusal"]) is not None:
            codes[record_path.name.partition(".")[0]] = no["code"]
    return codes
