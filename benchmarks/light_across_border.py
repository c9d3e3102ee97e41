"""Deblur crops with light across their frame: the change of the mean that is said and the true one.

Usage: python benchmarks/light_across_border.py [--crops 100] [--preset fast]    (resumable)
Made scenes of blobs in 256 x 256 pixels are blurred by a Gaussian of 3 pixels, and crops of 64 x 64
pixels are deblurred with that PSF: of 50 places, the one where most light enters or leaves, as a
share of the mean above the dark level. Noise of 1 % of the range. Said: `border_change` of the
report. True: from the scene without blur.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from scipy import ndimage

import napari_dip as dip
from shared_data import OUT, write

SIDE, CROP, SIGMA, DARK_PERCENTILE = 256, 64, 3.0, 1.0
PLACE_COUNT = 50


def draw_scene(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw 40 blobs of 6 to 16 pixels and of different brightness on a dark ground."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    image = np.full((SIDE, SIDE), 20.0)
    for _ in range(40):
        middle, radius = rng.uniform(0, SIDE, 2), rng.uniform(3, 8)
        distance = np.hypot(y - middle[0], x - middle[1])
        image += rng.uniform(50, 200) / (1 + np.exp((distance - radius) * 2))
    return image


def find_crop(
    scene: np.ndarray[Any, Any], blurred: np.ndarray[Any, Any], rng: np.random.Generator
) -> tuple[slice, slice]:
    """Return the place where most light crosses the border of the image."""
    corners = rng.integers(16, SIDE - CROP - 16, (PLACE_COUNT, 2))
    places = [(slice(row, row + CROP), slice(column, column + CROP)) for row, column in corners]

    def compute_change(place: tuple[slice, slice]) -> float:
        return abs(scene[place].mean() - blurred[place].mean()) / measure_height(blurred[place])

    return max(places, key=compute_change)


def measure_height(crop: np.ndarray[Any, Any]) -> float:
    """Return the mean above the dark level, as the report does."""
    return float(crop.mean() - np.percentile(crop, DARK_PERCENTILE))


def run_crop(number: int, preset: str) -> dict[str, Any]:
    """Deblur one crop, and compare the change of the mean with the true one."""
    rng = np.random.default_rng(number)
    scene = draw_scene(rng)
    blurred = ndimage.gaussian_filter(scene, SIGMA)
    place = find_crop(scene, blurred, rng)
    crop = blurred[place] + rng.normal(0, 2.0, (CROP, CROP))
    result = dip.deblur(crop.astype(np.float32), gaussian_sigma=SIGMA, preset=preset)
    checks = result.report["verdict"]
    change = float(scene[place].mean() - crop.mean()) / measure_height(crop)
    return {
        "crop": number,
        "true": round(change, 4),
        "said": checks["figures"]["border_change"],
        "error": round(checks["figures"]["border_change"] - change, 4),
        "headline": checks["headline"],
        "alarm": any(code["code"] == "mean-off" for code in checks["codes"]),
    }


def main() -> None:
    """Run all crops and summarise them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--crops", type=int, default=100)
    parser.add_argument("--preset", default="fast")
    arguments = parser.parse_args()
    earlier = OUT / "light_across_border.json"
    rows = json.loads(earlier.read_text())["rows"] if earlier.exists() else []
    for number in range(len(rows), arguments.crops):
        rows.append(run_crop(number, arguments.preset))
        errors = np.abs([row["error"] for row in rows])
        summary = {
            "preset": arguments.preset,
            "largest error": float(errors.max()),
            "mean error": float(errors.mean()),
            "within 5 points": float((errors <= 0.05).mean()),
            "alarms": sum(row["alarm"] for row in rows),
        }
        write("light_across_border", rows, summary)


if __name__ == "__main__":
    sys.exit(main())
