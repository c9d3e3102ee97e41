"""Noise measurement in small images: how often it is wrong without a word.

Usage: python benchmarks/small_images.py [--sides 64 96 128]
Normal noise is added to the middle of each shared image with ground truth (of colours, to green).
Wrong: at the median brightness the standard deviation is off by more than a factor of 1.25; without
noise, it is above 1.25 grey levels.
"""

from __future__ import annotations

import argparse

import numpy as np

from every_noise import SIDE, crop_middle, list_truths
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    measure_single_exposure,
)
from napari_dip.tasks.base import NoiseSettings
from shared_data import write

SIGMAS = (0, 5, 10, 25)
#: Largest factor between measured and true standard deviation that is right.
RIGHT = 1.25


def count_wrong(side: int, sigma: int) -> dict[str, int]:
    """Measure the noise of all images, and count where it is wrong."""
    wrong, first = {"without a word": 0, "with a caution": 0, "unreliable": 0}, (SIDE - side) // 2
    paths = list_truths()
    for seed, path in enumerate(paths):
        truth = crop_middle(path)
        truth = truth if truth.ndim == 2 else truth[..., 1]
        truth = truth[first : first + side, first : first + side]
        noisy = truth + np.random.default_rng(seed).normal(0, sigma, truth.shape)
        estimate = measure_single_exposure(
            noisy[None].astype(np.float32), None, 0.0, NoiseSettings()
        )
        ratio = compute_noise_variance(estimate, np.median(truth)) ** 0.5 / max(sigma, 1)
        if ratio > RIGHT or (sigma and ratio < 1 / RIGHT):
            caution = "with a caution" if estimate.caution else "without a word"
            wrong["unreliable" if estimate.unreliable_reason else caution] += 1
    return {"side": side, "noise": sigma, "images": len(paths), **wrong}


def main() -> None:
    """Examine all sides and noises, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96, 128])
    options = parser.parse_args()
    rows = [count_wrong(side, sigma) for side in options.sides for sigma in SIGMAS]
    write("small_images", rows, {})


if __name__ == "__main__":
    main()
