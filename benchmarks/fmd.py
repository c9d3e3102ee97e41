"""Blind denoising of FMD captures by the installed command: PSNR, CPU and wall time.

Usage: python benchmarks/fmd.py [--preset fast] [--captures 1 2 3 4]
Each image goes through `napari-dip denoise` in a process of its own, on one core where the system
can pin it. The times are that process's, start-up included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import mean
from typing import Any

import tifffile

from shared_data import FMD_FIELDS, OUT, data_folder, fmd, psnr, write


def denoise(field: str, capture: int, preset: str) -> dict[str, Any]:
    """Run one image and judge the file that it left."""
    OUT.mkdir(parents=True, exist_ok=True)
    source = data_folder() / "fmd" / f"{field}_raw{capture}.png"
    target = OUT / f"fmd_{field}_{capture}_{preset}.tif"
    report = target.with_suffix(".json")
    started, used = time.monotonic(), _read_child_seconds()
    command = [sys.executable, "-m", "napari_dip", "denoise", str(source), "-o", str(target)]
    options = ["--preset", preset, "--report", str(report), "--overwrite", "--quiet"]
    subprocess.run([*command, *options], check=True)
    seconds = time.monotonic() - started
    row = {"CPU s": _read_child_seconds() - used, "seconds": seconds}
    raw, truth = fmd(field, capture)
    record = json.loads(report.read_text(encoding="utf-8"))
    result = tifffile.imread(target)
    before, after = psnr(raw, truth), psnr(result, truth)
    return {
        "image": f"{field}_raw{capture}",
        "input dB": before,
        "output dB": after,
        "gain dB": after - before,
        **row,
        "blind spot": "×".join(map(str, reversed(record["noise"]["blind_spot_size"]))),
        "iterations": record["iterations"],
    }


def _read_child_seconds() -> float:
    """Return the CPU seconds of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run all images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--captures", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--fields", nargs="+", default=list(FMD_FIELDS))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for field in options.fields:
        for capture in options.captures:
            rows.append(denoise(field, capture, options.preset))
            print(rows[-1], file=sys.stderr, flush=True)
    wide = [row["gain dB"] for row in rows if row["image"].startswith("WideField")]
    other = [row["gain dB"] for row in rows if not row["image"].startswith("WideField")]
    summary = {
        "preset": options.preset,
        "images": len(rows),
        "mean gain, Confocal and TwoPhoton": mean(other) if other else float("nan"),
        "mean gain, WideField": mean(wide) if wide else float("nan"),
        "least gain": min(row["gain dB"] for row in rows),
        "mean CPU s": mean(row["CPU s"] for row in rows),
        "longest seconds": max(row["seconds"] for row in rows),
        "mean output dB": mean(row["output dB"] for row in rows),
    }
    write(f"fmd_{options.preset}", rows, summary)


if __name__ == "__main__":
    main()
