"""Stacks as a volume against plane by plane; movies with warm starts against frame by frame.

Usage: python benchmarks/stacks.py [--preset fast] [--planes 16] [--side 96] [--frames 6]
Crops of the shared stacks and movies, with noise of our own: Poisson at a peak of 30, and a normal
one of standard deviation 2, default_rng(0). Resumable: rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

#: Peak of the photon counts, and standard deviation of the read noise.
PEAK, READ = 30.0, 2.0
#: Set and file, axes: stacks first, then movies.
STACKS = (
    ("stacks3d", "arabidopsis_embryo", "ZYX"),
    ("stacks3d", "pollen", "ZYX"),
    ("stacks3d", "nuclei", "ZYX"),
    ("timelapse", "cancer_cell_migration", "TYX"),
    ("timelapse", "membrane2d", "TYX"),
)


def load(folder: str, name: str, count: int, side: int) -> npt.NDArray[np.float64]:
    """Cut `count` planes of `side` pixels out of the middle, scaled to the peak."""
    (path,) = sorted((data_folder() / folder).glob(f"*{name}*.tif"))[:1]
    whole = tifffile.imread(path).astype(np.float64)
    whole = whole.reshape(-1, *whole.shape[-2:])
    first, top, left = (
        max(0, (have - want) // 2)
        for have, want in zip(whole.shape, (count, side, side), strict=True)
    )
    crop = whole[first : first + count, top : top + side, left : left + side]
    crop = crop - crop.min()
    return np.asarray(crop / np.percentile(crop, 99.9) * PEAK)


def decibels(image: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio at the peak of the counts."""
    return float(10 * np.log10(PEAK**2 / np.mean((image - truth) ** 2)))


def compare(folder: str, name: str, axes: str, wish: argparse.Namespace) -> dict[str, Any]:
    """Restore one crop both ways."""
    movie = axes[0] == "T"
    truth = load(folder, name, wish.frames if movie else wish.planes, wish.side)
    rng = np.random.default_rng(0)
    noisy = (rng.poisson(truth) + rng.normal(0, READ, truth.shape)).astype(np.float32)
    row: dict[str, Any] = {
        "image": f"{folder}/{name} {'×'.join(map(str, truth.shape))}",
        "input dB": decibels(noisy, truth),
    }
    if movie:
        began = time.monotonic()
        alone = [dip.denoise(one, preset=wish.preset).image for one in noisy]
        row["one by one dB"] = decibels(np.stack(alone), truth)
        row["one by one s"] = time.monotonic() - began
        began = time.monotonic()
        chained = dip.denoise(noisy, preset=wish.preset, axes=axes)
        row["together dB"] = decibels(chained.image, truth)
        row["together s"] = time.monotonic() - began
        return row
    for mode, words in (("planes", "one by one"), ("volume", "together")):
        began = time.monotonic()
        result = dip.denoise(noisy, preset=wish.preset, axes=axes, stacks=mode)
        row[f"{words} dB"] = decibels(result.image, truth)
        row[f"{words} s"] = time.monotonic() - began
    return row


def main() -> None:
    """Run all crops and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--planes", type=int, default=16)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--frames", type=int, default=6)
    wish = parser.parse_args()
    title = f"stacks_{wish.preset}_{wish.planes}_{wish.side}_{wish.frames}"
    there = OUT / f"{title}.json"
    rows = json.loads(there.read_text(encoding="utf-8"))["rows"] if there.exists() else []
    done = {row["image"].split()[0] for row in rows}
    for folder, name, axes in STACKS:
        if f"{folder}/{name}" in done:
            continue
        rows.append(compare(folder, name, axes, wish))
        print(rows[-1], file=sys.stderr, flush=True)
        write(title, rows, {"preset": wish.preset})


if __name__ == "__main__":
    main()
