"""Plant weak spots and lines in made images, and read how many are left after denoising.

Usage: python benchmarks/weakest_spots.py [--preset fast]
Four kinds of 256 x 256 pixels (cells, filaments, dots, fabric) with white noise of 10 grey levels,
at three seeds. In each are planted 25 Gaussian spots of one width (FWHM of 1, 2, 3 and 4 pixels) or
16 lines of 24 pixels, at the flattest places of a grid, with peaks of 2 to 30 standard deviations
of the noise. A spot is kept if the result has half of its peak left there, by the least-squares fit
of its own shape and a constant to 9 x 9 pixels of the result with it minus that of the scene.
The limit is where half of the spots are kept, and stands beside the limit that the program says.
Rows in the JSON are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

import napari_dip as dip
from shared_data import OUT, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Plane = npt.NDArray[np.float64]

SIDE, NOISE, BACKGROUND = 256, 10.0, 100.0
#: Full widths at half maximum of the planted spots and lines in pixels.
WIDTHS = (1.0, 2.0, 3.0, 4.0)
FWHM_PER_SIGMA = 2.3548
SPOT_COUNT, MARGIN, LINE_LENGTH = 25, 16, 24
#: Side of the window in which a spot is measured.
RADIUS = 4


def draw_scene(kind: str, rng: np.random.Generator) -> Plane:
    """Draw one of the four kinds, with brightness up to about 250 above the background."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    image = np.zeros((SIDE, SIDE))
    if kind == "cells":
        for _ in range(7):
            middle, radii = rng.uniform(0, SIDE, 2), rng.uniform(15, 35, 2)
            distance = np.hypot((y - middle[0]) / radii[0], (x - middle[1]) / radii[1])
            image += rng.uniform(60, 200) / (1 + np.exp((distance - 1) * 12))
    elif kind == "filaments":
        for _ in range(14):
            place, angle = rng.uniform(0, SIDE, 2), rng.uniform(0, 2 * np.pi)
            for _ in range(600):
                angle += rng.normal(0, 0.04)
                place = place + 0.5 * np.array([np.sin(angle), np.cos(angle)])
                row, column = np.round(place).astype(int)
                if 0 <= row < SIDE and 0 <= column < SIDE:
                    image[row, column] = 600
        image = ndimage.gaussian_filter(image, 1.3)
    elif kind == "dots":
        places = rng.integers(0, SIDE, (60, 2))
        image[places[:, 0], places[:, 1]] = rng.uniform(1000, 6000, 60)
        image = ndimage.gaussian_filter(image, 2.0)
    else:  # a woven fabric in one half, plain in the other
        weave = np.sin(2 * np.pi * x / 9) + np.sin(2 * np.pi * y / 11)
        image = 40 * (2 + weave) / (1 + np.exp((x - SIDE / 2) / 4))
    return image + BACKGROUND


def find_places(scene: Plane, count: int) -> list[tuple[int, int]]:
    """Return the flattest places of a grid, so that spots lie beside structure, not on it."""
    flatness = ndimage.generic_gradient_magnitude(scene, ndimage.sobel)
    flatness = ndimage.maximum_filter(flatness, 2 * RADIUS + 1)
    grid = range(MARGIN, SIDE - MARGIN, 2 * MARGIN)
    places = sorted(product(grid, grid), key=lambda place: flatness[place])
    return places[:count]


def draw_shape(width: float, *, is_line: bool) -> Plane:
    """Return a spot of peak 1 in a window of odd side, or a diagonal line."""
    radius = LINE_LENGTH // 2 if is_line else 2 * RADIUS
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    across = (y - 0.5 * x) / np.sqrt(1.25) if is_line else np.hypot(y, x)
    shape = np.exp(-((across * FWHM_PER_SIGMA / width) ** 2) / 2)
    return shape * (np.hypot(y, x) <= radius) if is_line else shape


def measure_kept(difference: Plane, shape: Plane, place: tuple[int, int]) -> float:
    """Return the share of a peak of 1 that is left, by least squares with a constant."""
    radius = shape.shape[0] // 2
    inner = slice(radius - RADIUS, radius + RADIUS + 1)
    template = shape[inner, inner]
    row, column = place
    window = difference[row - RADIUS : row + RADIUS + 1, column - RADIUS : column + RADIUS + 1]
    centred = template - template.mean()
    return float((centred * window).sum() / (centred**2).sum())


def run_case(kind: str, width: float, snr: float, seed: int, preset: str, what: str) -> dict[str, Any]:
    """Restore one image with planted spots or lines, and count those that are kept."""
    rng = np.random.default_rng([seed, hash_name(kind)])
    scene = draw_scene(kind, rng)
    noise = rng.normal(0, NOISE, scene.shape)
    is_line = what == "line"
    shape = draw_shape(width, is_line=is_line)
    places = find_places(scene, 16 if is_line else SPOT_COUNT)
    planted, radius = scene.copy(), shape.shape[0] // 2
    for row, column in places:
        planted[row - radius : row + radius + 1, column - radius : column + radius + 1] += (
            snr * NOISE * shape
        )
    result = dip.denoise((planted + noise).astype(np.float32), preset=preset)
    difference = (np.asarray(result.image, np.float64) - scene) / (snr * NOISE)
    kept = [measure_kept(difference, shape, place) for place in places]
    return {
        "kind": kind,
        "what": what,
        "width": width,
        "snr": snr,
        "seed": seed,
        "recall": float(np.mean(np.array(kept) > 0.5)),
        "kept": float(np.mean(kept)),
        "said": result.report.get("weakest_spot"),
    }


def hash_name(name: str) -> int:
    """Return a number for a name that is the same in every process."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31


def main() -> None:
    """Run all cases that are not in the JSON yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--widths", default="1,2,3,4")
    parser.add_argument("--what", default="spot,line")
    parser.add_argument("--snrs", default="2,3,4,5,6,8,10,14")
    arguments = parser.parse_args()
    name = f"weakest_spots_{arguments.preset}"
    path = OUT / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    keys = ("kind", "what", "width", "snr", "seed")
    done = {tuple(row[key] for key in keys) for row in rows}
    widths = [float(width) for width in arguments.widths.split(",")]
    snrs = [float(snr) for snr in arguments.snrs.split(",")]
    kinds = ("cells", "filaments", "dots", "fabric")
    for seed, what, width, snr, kind in product(
        range(arguments.seeds), arguments.what.split(","), widths, snrs, kinds
    ):
        if (kind, what, width, snr, seed) in done:
            continue
        rows.append(run_case(kind, width, snr, seed, arguments.preset, what))
        write(name, rows, {"preset": arguments.preset})


if __name__ == "__main__":
    sys.exit(main())
