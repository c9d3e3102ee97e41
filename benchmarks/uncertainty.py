"""Calibration of the uncertainty: coverage of 50, 90 and 99 % intervals, and slope of the error.

Usage: python benchmarks/uncertainty.py [SET...] [side=256] [preset=fast] [SETTING=VALUE...]
Without sets: crops of 192 x 192 of images that ship with scikit-image, with Gaussian noise of 20
and with photon noise (gain 2) and read noise of 5, seeded. Sets are those of `quality_sets.py`, the
middle of each picture, and `made`, synthetic scenes without noise in their truth.

A true picture that is a mean of many shots has noise of its own, and another brightness than one
shot. So coverage is measured twice: as it is, and after a straight line, with the noise of the
truth added to the interval. The drift is what remains between measurement and truth in squares of
32 x 32 pixels, as a share of the squared error of the result: nobody can restore it. Correlated
noise adds to it.
"""

from __future__ import annotations

import sys
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from skimage import data

import napari_dip as dip
from noise_matrix_scenes import list_scenes
from quality_sets import SETS, line_fit
from shared_data import counts, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    Picture = npt.NDArray[np.float64]

#: Camera, coins and cell were chosen on; moon and brick were not.
IMAGES = ("camera", "coins", "cell", "moon", "brick")
KINDS = ("Gaussian", "photons")
SIDE, CLASSES = 192, 10
LEVELS = (0.5, 0.9, 0.99)
#: Scenes of the set `made`, with Gaussian noise, photons and weak noise by turns.
SCENES = (
    "blobs-0",
    "filaments-0",
    "cells-0",
    "fractal-0",
    "grating-0",
    "letters-0",
    "beads-0",
    "mosaic-0",
    "membranes-0",
)
#: Shots whose mean is the truth. Of other sets of real noise, the noise of the truth is measured.
TRUTH_SHOTS = {"fmd": 50, "w2s": 400}
REAL_SETS = ("fmd", "w2s", "hagen", "cc15", "polyu")
#: Variance of rounding to whole grey values, and side of the squares of the drift in pixels.
ROUNDING_VARIANCE, DRIFT_SIDE = 1 / 12, 32


def crop_middle(image: npt.NDArray[Any], side: int = SIDE) -> Picture:
    """Cut the middle out."""
    row, column = (max(0, (length - side) // 2) for length in image.shape[:2])
    return np.asarray(image[row : row + side, column : column + side], np.float64)


def add_noise(truth: Picture, kind: str) -> npt.NDArray[np.float32]:
    """Add noise."""
    rng = np.random.default_rng(0)
    if kind == "Gaussian":
        return np.asarray(truth + rng.normal(0, 20, truth.shape), np.float32)
    return np.asarray(2 * rng.poisson(truth / 2) + rng.normal(0, 5, truth.shape), np.float32)


def draw_made(number: int, side: int) -> tuple[npt.NDArray[np.float32], Picture]:
    """Noisy and true picture of a scene."""
    scene, rng = crop_middle(list_scenes()[SCENES[number]](), side), np.random.default_rng(number)
    if number % 3 == 1:
        noisy = 2 * rng.poisson(60 * scene) + 100 + rng.normal(0, 3, scene.shape)
        return noisy.astype(np.float32), 100 + 120 * scene
    truth, sigma = (40 + 160 * scene, 20) if number % 3 == 0 else (1000 * scene, 25)
    return (truth + rng.normal(0, sigma, truth.shape)).astype(np.float32), truth


def measure_calibration(error: Picture, said: Picture) -> dict[str, float]:
    """Slope of the root mean square error on the standard deviation that was said, and cover."""
    order = said.ravel().argsort()
    classes = np.array_split(order, CLASSES)
    measured_errors = np.array([np.sqrt(np.mean(error.ravel()[part] ** 2)) for part in classes])
    estimated_errors = np.array([np.sqrt(np.mean(said.ravel()[part] ** 2)) for part in classes])
    slope = float((measured_errors * estimated_errors).sum() / (estimated_errors**2).sum())
    return {"slope": slope, **measure_coverage(error, said)}


def measure_coverage(error: Picture, said: Picture, suffix: str = "") -> dict[str, float]:
    """Share in per cent of the errors within the interval of each level."""
    ratio = np.abs(error) / said
    return {
        f"inside {100 * level:.0f} %{suffix}": 100
        * float(np.mean(ratio <= NormalDist().inv_cdf((1 + level) / 2)))
        for level in LEVELS
    }


def find_needed_factor(error: Picture, said: Picture, truth_variance: Picture | float) -> float:
    """Find the factor of the standard deviation with which 90 % of the errors are inside."""
    low, high = 0.01, 100.0
    for _ in range(40):
        factor = (low * high) ** 0.5
        inside = np.abs(error) <= 1.645 * np.sqrt((factor * said) ** 2 + truth_variance)
        low, high = (factor, high) if inside.mean() < 0.9 else (low, factor)
    return low


def measure_channel(
    group: str,
    noise: tuple[float, float],
    noisy: Picture,
    truth: Picture,
    result: Picture,
    sd: Picture,
) -> dict[str, float]:
    """Compare one channel with its truth; the noise is gain and intercept of the measurement."""
    figures = measure_coverage(result - truth, sd)
    if group not in REAL_SETS:
        factor = find_needed_factor(result - truth, sd, 0.0)
        return {**figures, **measure_coverage(result - truth, sd, ", counted"), "factor": factor}
    gain, offset = line_fit(result, truth)
    variance = gain**2 * np.maximum(noise[0] * result + noise[1], 0)
    if group in TRUTH_SHOTS:
        truth_variance = variance / TRUTH_SHOTS[group] + ROUNDING_VARIANCE
    else:
        (own,) = dip.measure_noise(truth.astype(np.uint8), axes="YX").channels
        truth_variance = np.maximum(own.gain * truth + own.intercept, ROUNDING_VARIANCE)
    error, said = gain * result + offset - truth, abs(gain) * sd
    remainder = gain * noisy + offset - truth
    rows, columns = (length // DRIFT_SIDE for length in truth.shape)
    squares = remainder[: rows * DRIFT_SIDE, : columns * DRIFT_SIDE]
    means = squares.reshape(rows, DRIFT_SIDE, columns, DRIFT_SIDE).mean((1, 3))
    drift = max(0.0, np.var(means) - np.var(remainder) / DRIFT_SIDE**2)
    return {
        **figures,
        **measure_coverage(error, np.sqrt(said**2 + truth_variance), ", counted"),
        "factor": find_needed_factor(error, said, truth_variance),
        "truth noise": float(np.mean(truth_variance) / np.mean(error**2)),
        "drift": float(drift / np.mean(error**2)),
    }


def measure_picture(
    group: str, noisy: Picture, truth: Picture, result: dip.Restoration
) -> dict[str, float]:
    """Mean of the figures of all channels."""
    noise = zip(result.report["noise"]["gain"], result.report["noise"]["intercept"], strict=True)
    channels = [
        measure_channel(group, line, *(np.atleast_3d(image)[..., index] for image in images))
        for images in [(noisy, truth, result.image.astype(float), result.uncertainty.astype(float))]
        for index, line in enumerate(noise)
    ]
    return {name: float(np.mean([row[name] for row in channels])) for name in channels[0]}


def load_set(group: str, side: int) -> Iterator[tuple[str, npt.NDArray[Any], Picture]]:
    """Names, noisy and true pictures of a set; of each FMD field, the first capture."""
    if group == "made":
        for number, name in enumerate(SCENES):
            yield (name, *draw_made(number, side))
        return
    for case in SETS[group]():
        if group != "fmd" or case.name.endswith("raw1"):
            noisy, truth = (crop_middle(image, side) for image in case.load())
            yield case.name, counts(noisy), truth


def main() -> None:
    """Measure all, with the sets, preset and further settings that the command line names."""
    chosen: dict[str, Any] = dict(item.split("=") for item in sys.argv[1:] if "=" in item)
    settings = {"preset": "fast", "seed": 0, **chosen}
    side = int(settings.pop("side", 256))
    groups, rows, summary = [item for item in sys.argv[1:] if "=" not in item], [], dict(chosen)
    for group in groups:
        first = len(rows)
        for name, noisy, truth in load_set(group, side):
            axes = "YX" if truth.ndim == 2 else "YXS"
            result = dip.denoise(noisy, axes=axes, **settings)
            figures = measure_picture(group, noisy.astype(float), truth, result)
            rows.append({"set": group, "picture": name, **figures})
            print(rows[-1], flush=True)
        for figure in ("inside 90 %", "inside 90 %, counted"):
            values = [row[figure] for row in rows[first:]]
            extent = f"mean {np.mean(values):.1f}, {min(values):.0f} to {max(values):.0f}"
            summary[f"{group}, {figure}"] = extent
    for name in () if groups else IMAGES:
        for kind in KINDS:
            truth = crop_middle(getattr(data, name)())
            result = dip.denoise(add_noise(truth, kind), **settings)
            error = result.image - truth
            figures = measure_calibration(error, result.uncertainty.astype(np.float64))
            rms = float(np.sqrt(np.mean(error**2)))
            rows.append({"picture": name, "noise": kind, "error": rms, **figures})
            print(rows[-1], flush=True)
    write("uncertainty", rows, summary)


if __name__ == "__main__":
    main()
