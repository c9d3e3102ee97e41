"""Amplitude of the noise at the finest rows and columns that remains in a flat background.

Usage: python benchmarks/fine_rows.py [--side 256] [--seeds 1]
Discs and lines on an even ground with white noise, preset `fast`, one thread.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.ndimage import binary_erosion, gaussian_filter

import napari_dip as dip
from shared_data import write

#: Level of the ground, how far objects rise above it, and standard deviation of the noise.
GROUND, RISE, NOISE = 100.0, 80.0, 10.0


def make_scene(side: int) -> np.ndarray:
    """Draw discs and bent lines, slightly blurred: (side, side)."""
    rng = np.random.default_rng(3)
    image = np.zeros((side, side))
    y, x = np.mgrid[:side, :side]
    for _ in range(14):
        middle, radius = rng.uniform(0, side, 2), rng.uniform(6, 16)
        inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
        image += rng.uniform(0.3, 1) * inside
    along = np.linspace(0, 1, 800)
    for _ in range(10):
        start, end, bend = rng.uniform(0, side, 2), rng.uniform(0, side, 2), rng.uniform(-30, 30)
        path = start[:, None] + (end - start)[:, None] * along + bend * np.sin(3 * along)
        rows, columns = path[:, ((path >= 0) & (path < side)).all(0)].astype(int)
        image[rows, columns] += 0.8
    return GROUND + RISE * gaussian_filter(image, 1.3)


def measure_alternation(error: np.ndarray, axis: int) -> np.ndarray:
    """Local amplitude, with its sign, of what alternates from pixel to pixel along an axis."""
    fine = error - gaussian_filter(error, 2)
    signs = (-1.0) ** np.arange(error.shape[axis])
    fine = fine * (signs[:, None] if axis == 0 else signs)
    return gaussian_filter(fine, (4, 2) if axis == 0 else (2, 4))


def main() -> None:
    """Denoise with both priors that see the image, and compare with the noise that was there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth, rows = make_scene(options.side), []
    even = binary_erosion(np.abs(truth - GROUND) < 0.3, iterations=6)
    for seed in range(options.seeds):
        noise = np.random.default_rng(seed).normal(0, NOISE, truth.shape)
        image = (truth + noise).astype(np.float32)
        for prior in ("r2r", "blind-spot"):
            result = dip.denoise(image, preset="fast", prior=prior, seed=seed)
            error = result.image - truth
            for axis, name in enumerate(("rows", "columns")):
                residual_energy, was = (
                    measure_alternation(plane, axis)[even] for plane in (error, noise)
                )
                size = float(np.sqrt((residual_energy**2).mean()))
                row = {"prior": prior, "seed": seed, "along": name}
                row["amplitude / noise's"] = size / float(np.sqrt((was**2).mean()))
                row["like the noise"] = float(np.corrcoef(residual_energy, was)[0, 1])
                row["like the grid"] = float(residual_energy.mean()) / size
                rows.append(row)
                print(row, flush=True)
    write("fine_rows", rows, {"side": options.side, "even share": float(even.mean())})


if __name__ == "__main__":
    main()
