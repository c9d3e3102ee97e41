"""Inpainting of half of the pixels of seven grey images by the installed command: PSNR.

Usage: python benchmarks/inpaint.py [--preset balanced] [--images Cameraman256 montage]
Each image goes through `napari-dip inpaint` in a process of its own; the time is that process's
wall time, start-up included. Missing is what is 0 in the masked image, as published; PSNR is over
the whole image, saved as 8 bit, beside that of the published output of Deep Image Prior, measured
from its file. Rows that exist are not computed again. The first row and column of peppers256 are
black, so by that rule all of them are missing and nothing could tell; they are left out, for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import mean
from typing import Any

import numpy as np
import tifffile
from skimage.io import imread, imsave

from shared_data import OUT, data_folder, psnr, write

IMAGES = (
    "Cameraman256",
    "montage",
    "peppers256",
    "Lena512",
    "barbara",
    "couple",
    "fingerprint",
)


def inpaint(image: str, preset: str) -> dict[str, Any]:
    """Run one image and judge the file that it left."""
    folder = OUT / "inpaint"
    folder.mkdir(parents=True, exist_ok=True)
    row_file = folder / f"{image}_{preset}.json"
    if row_file.exists():
        row: dict[str, Any] = json.loads(row_file.read_text(encoding="utf-8"))
        return row
    source = data_folder() / "inpaint11"
    inside = slice(1, None) if image == "peppers256" else slice(None)
    masked, truth, dip = (
        imread(source / f"{image}_{kind}.png")[inside, inside]
        for kind in ("masked", "gt", "deep_prior")
    )
    input_path = folder / f"{image}_given.png"
    imsave(input_path, masked, check_contrast=False)
    mask, target = folder / f"{image}_mask.png", folder / f"{image}_{preset}.tif"
    imsave(mask, np.where(masked > 0, 0, 255).astype(np.uint8), check_contrast=False)
    report = target.with_suffix(".report.json")
    command = [sys.executable, "-m", "napari_dip", "inpaint", input_path]
    command += ["--mask", mask, "-o", target, "--preset", preset]
    command += ["--report", report, "--overwrite", "--quiet"]
    started, spent = time.monotonic(), cpu_seconds()
    subprocess.run(list(map(str, command)), check=True)
    seconds = time.monotonic() - started
    record = json.loads(report.read_text(encoding="utf-8"))
    ours = psnr(tifffile.imread(target), truth.astype(np.float64))
    published = psnr(dip, truth.astype(np.float64))
    row = {
        "image": image,
        "size": " × ".join(map(str, truth.shape)),
        "ours dB": ours,
        "published DIP dB": published,
        "more dB": ours - published,
        "prior": record["prior"]["key"],
        "iterations": record["iterations"],
        "seconds": seconds,
        "CPU seconds": cpu_seconds() - spent,
    }
    row_file.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return row


def cpu_seconds() -> float:
    """Processor time of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run the images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--images", nargs="+", default=IMAGES, choices=IMAGES)
    options = parser.parse_args()
    rows = []
    for image in options.images:
        rows.append(inpaint(image, options.preset))
        print(rows[-1], file=sys.stderr, flush=True)
    more = [row["more dB"] for row in rows]
    summary = {
        "preset": options.preset,
        "mean, ours": mean(row["ours dB"] for row in rows),
        "mean, published DIP": mean(row["published DIP dB"] for row in rows),
        "least beyond it": min(more),
    }
    write(f"inpaint_{options.preset}", rows, summary)


if __name__ == "__main__":
    main()
