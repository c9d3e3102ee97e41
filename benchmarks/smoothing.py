"""PSNR of denoising with and without the smoothing penalty.

Usage: python benchmarks/smoothing.py [--preset fast] [--side 96]
Single planes of the crops of `stacks.py`, with the same noise. Resumable.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

import napari_dip as dip
from shared_data import OUT, write
from stacks import CROPS, READ, compute_psnr, load_crop

#: Crops whose first plane is restored, and the penalties that are tried.
NAMES = ("membrane2d", "embryo, middle")
PENALTIES = ((0.0, "isotropic"), (0.1, "isotropic"), (0.1, "anisotropic"), (1.0, "isotropic"))


def main() -> None:
    """Run all crops with all penalties and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--side", type=int, default=96)
    options = parser.parse_args()
    title = f"smoothing_{options.preset}_{options.side}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(row["image"], row["weight"], row["kind"]) for row in rows}
    for crop in CROPS:
        if crop.name not in NAMES:
            continue
        truth = load_crop(crop, 1, options.side)[0]
        rng = np.random.default_rng(0)
        noisy = (rng.poisson(truth) + rng.normal(0, READ, truth.shape)).astype(np.float32)
        for weight, kind in PENALTIES:
            if (crop.name, weight, kind) in done:
                continue
            settings = {"smoothing": weight, "smoothing_kind": kind}
            result = dip.denoise(noisy, axes="YX", preset=options.preset, **settings)
            row = {"image": crop.name, "weight": weight, "kind": kind}
            row["input dB"] = compute_psnr(noisy, truth)
            rows.append({**row, "dB": compute_psnr(result.image, truth)})
            write(title, rows, {"preset": options.preset, "side": options.side})


if __name__ == "__main__":
    main()
