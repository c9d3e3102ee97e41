"""Denoise on planes of many photons: error beside the best Gaussian filter, which knows the truth.

Usage: python benchmarks/weak_noise.py [--preset instant] [--photons 1000 5000 20000]
Scenes without noise of their own (drawn or smoothed, but for *camera*), 128 x 128 pixels, are
scaled to that many photons at the brightest pixel, and counted.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import rgb2gray

import napari_dip as dip
from shared_data import ROOT, write

sys.path.insert(0, str(ROOT / "tests" / "tasks"))
from test_weak_noise import draw_discs, measure_best_gaussian, rms

Image = npt.NDArray[np.float64]
SIDE = 128


def crop(image: npt.NDArray[Any], row: int, column: int, sigma: float) -> Image:
    """Smooth a grey image, and cut a square out of it."""
    smooth = gaussian_filter(image.astype(np.float64), sigma)
    square: Image = smooth[row : row + SIDE, column : column + SIDE]
    return square / square.max()


def main() -> None:
    """Denoise all scenes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="instant")
    parser.add_argument("--photons", type=int, nargs="+", default=[1000, 5000, 20000])
    options = parser.parse_args()
    scenes = {
        "discs": draw_discs(SIDE),
        "cell": crop(data.cell(), 200, 200, 1.0),
        "immunohistochemistry": crop(rgb2gray(data.immunohistochemistry()), 100, 100, 1.0),
        "coins": crop(data.coins(), 100, 100, 1.0),
        "camera": crop(data.camera(), 100, 180, 0.0),
    }
    rows = []
    for name, scene in scenes.items():
        for photons in options.photons:
            truth = photons * scene
            counts = np.random.default_rng(photons).poisson(truth).astype(np.uint16)
            result = dip.denoise(counts, preset=options.preset, seed=0)
            error = np.abs(result.image - truth)
            row: dict[str, Any] = {"scene": name, "photons": photons}
            row["input"] = round(rms(counts - truth), 2)
            row["best Gaussian"] = round(measure_best_gaussian(counts.astype(float), truth), 2)
            row["ours"] = round(rms(error), 2)
            row["verdict"] = str(result.report["verdict"]["kind"])
            row["within 1 sigma"] = round(float(np.mean(error <= result.uncertainty)), 2)
            row["seconds"] = result.report["seconds"]
            rows.append(row)
    ratios = [row["ours"] / row["best Gaussian"] for row in rows]
    write("weak_noise", rows, {"mean of ours / best Gaussian": round(float(np.mean(ratios)), 2)})


if __name__ == "__main__":
    main()
