"""Deblur made stacks blindly: the width that is found, and the result beside those of guesses.

Usage: python benchmarks/blind_volumes.py [--preset fast]
Eight stacks of 24 x 64 x 64 voxels: lines, shells, balls and points at random places, in two of
them with planes two pixels apart; blurred by a Gaussian of one width in the plane and another along
Z, from an object larger than the frame; 100 photons at the 99.5th percentile, a background of one
photon, read noise of 1. Guesses: `deblur` with a Gaussian of the same width along all axes, out of
four, whose result is nearest to the truth; and with the true PSF. Quality: PSNR at the peak of the
truth, blurred by half a pixel so that a voxel is no point. Rows in the JSON are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

import napari_dip as dip
from napari_dip.engine.constants import FWHM_PER_SIGMA
from shared_data import OUT, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Volume = npt.NDArray[np.float64]

SHAPE, FRAME = (24, 64, 64), (8, 16, 16)
PHOTONS, BACKGROUND, READ_NOISE, OFFSET = 100.0, 1.0, 1.0, 100.0
#: Objects, widths in the plane and along Z in pixels and planes, distance of planes in pixels.
CASES = (
    ("filaments", 1.3, 2.4, 1.0),
    ("filaments", 1.7, 1.7, 2.0),
    ("shells", 1.2, 2.2, 1.0),
    ("shells", 1.6, 1.4, 2.0),
    ("balls", 1.5, 2.6, 1.0),
    ("balls", 1.9, 3.0, 1.0),
    ("points", 1.2, 2.4, 1.0),
    ("points", 1.8, 2.8, 1.0),
)
#: Widths of the guesses, the same along all axes.
GUESSES = (1.0, 1.4, 2.0, 2.8)


def draw_filaments(shape: tuple[int, ...], distance: float, rng: np.random.Generator) -> Volume:
    """Draw smoothly curved lines of different brightness."""
    volume, steps = np.zeros(shape), np.array([distance, 1.0, 1.0])
    extent = np.array(shape) * steps
    for _ in range(round(volume.size / 1700)):
        place, direction = rng.uniform(0, extent), rng.normal(size=3)
        brightness = rng.uniform(0.6, 1.4)
        for _ in range(400):
            direction = direction / np.linalg.norm(direction) + rng.normal(0, 0.03, 3)
            place = place + 0.5 * direction
            voxel = np.round(place / steps).astype(int)
            if (voxel >= 0).all() and (voxel < shape).all():
                volume[tuple(voxel)] += brightness
    return volume


def draw_balls(
    shape: tuple[int, ...], distance: float, rng: np.random.Generator, *, is_hollow: bool
) -> Volume:
    """Draw balls or their shells, of radius 4 to 10 pixels."""
    z, y, x = np.mgrid[tuple(map(slice, shape))].astype(np.float64)
    volume = np.zeros(shape)
    for _ in range(round(volume.size / 2500)):
        middle = rng.uniform(0, np.array(shape) * [distance, 1, 1])
        radius, brightness = rng.uniform(4, 10), rng.uniform(0.5, 1.5)
        from_middle = np.sqrt(
            (z * distance - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2
        )
        is_inside = np.abs(from_middle - radius) < 0.7 if is_hollow else from_middle < radius
        volume += brightness * is_inside
    return volume


def simulate(kind: str, width: float, axial: float, distance: float, seed: int) -> tuple[Any, Any]:
    """Return the measured stack, and the truth in photons."""
    rng = np.random.default_rng([7, seed])
    shape = tuple(size + 2 * frame for size, frame in zip(SHAPE, FRAME, strict=True))
    if kind == "filaments":
        scene = draw_filaments(shape, distance, rng)
    elif kind == "points":
        scene = np.zeros(shape)
        voxels = rng.integers(0, shape, (round(scene.size / 330), 3))
        np.add.at(scene, tuple(voxels.T), rng.exponential(1, len(voxels)))
    else:
        scene = draw_balls(shape, distance, rng, is_hollow=kind == "shells")
    crop = tuple(slice(frame, -frame) for frame in FRAME)
    light = ndimage.gaussian_filter(scene, (axial, width, width), truncate=6)[crop]
    scale = PHOTONS / np.quantile(light, 0.995)
    photons = rng.poisson(np.maximum(light, 0) * scale + BACKGROUND)
    measured = photons + OFFSET + rng.normal(0, READ_NOISE, SHAPE)
    return measured.astype(np.float32), scene[crop] * scale


def compute_psnr(image: npt.NDArray[Any], truth: Volume) -> float:
    """PSNR of the light above the background, both smoothed by half a pixel."""
    light = np.asarray(image, np.float64) - OFFSET - BACKGROUND
    error = ndimage.gaussian_filter(light - truth, 0.5)
    peak = ndimage.gaussian_filter(truth, 0.5).max()
    return float(10 * np.log10(peak**2 / np.mean(error**2)))


def measure(number: int, preset: str) -> dict[str, Any]:
    """Deblur one stack in all ways."""
    kind, width, axial, distance = CASES[number]
    measured, truth = simulate(kind, width, axial, distance, number)
    settings = {"preset": preset, "device": "cpu"}
    row: dict[str, Any] = {"objects": kind, "planes apart": distance}
    start = time.process_time()
    path = OUT / "blind_volume.ome.tif"
    write_stack(path, measured, distance)
    result = dip.blind_deblur(path, **settings)
    row["CPU s"] = round(time.process_time() - start)
    axial_estimate, estimate, _ = (float(value) for value in result.learned_parameters["sigmas"])
    row["true FWHM, Z and XY"] = f"{axial * FWHM_PER_SIGMA:.2f}, {width * FWHM_PER_SIGMA:.2f}"
    row["error Z %"], row["error XY %"] = (
        100 * (axial_estimate / axial - 1),
        100 * (estimate / width - 1),
    )
    row["input dB"] = compute_psnr(measured, truth)
    guesses = {}
    for guess in GUESSES:
        guessed = dip.deblur(measured, gaussian_sigma=guess, gaussian_sigma_z=guess, **settings)
        guesses[guess] = compute_psnr(guessed.image, truth)
    row["best guess"] = max(guesses, key=lambda guess: guesses[guess])
    row["guess dB"] = max(guesses.values())
    exact = dip.deblur(measured, gaussian_sigma=width, gaussian_sigma_z=axial, **settings)
    row["true PSF dB"] = compute_psnr(exact.image, truth)
    row["ours dB"] = compute_psnr(result.image, truth)
    return row


def write_stack(path: Any, stack: npt.NDArray[np.float32], distance: float) -> None:
    """Write a stack that states the distance of its planes."""
    import tifffile

    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
    metadata |= {"PhysicalSizeZ": 0.1 * distance}
    OUT.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, stack, ome=True, metadata=metadata)


def main() -> None:
    """Run all stacks that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args()
    name = f"blind_volumes_{options.preset}"
    done = OUT / f"{name}.json"
    rows = json.loads(done.read_text(encoding="utf-8"))["rows"] if done.exists() else []
    for number in range(len(rows), len(CASES)):
        rows.append(measure(number, options.preset))
        print(rows[-1], file=sys.stderr, flush=True)
        write(name, rows, summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means and extremes over the rows that are there."""
    errors = [abs(row[f"error {axes} %"]) for row in rows for axes in ("Z", "XY")]
    gains = {
        other: [row["ours dB"] - row[f"{other} dB"] for row in rows]
        for other in ("input", "guess", "true PSF")
    }
    summary: dict[str, Any] = {"stacks": len(rows), "greatest error of a width, %": max(errors)}
    for other, values in gains.items():
        summary[f"mean above {other} dB"] = float(np.mean(values))
        summary[f"least above {other} dB"] = min(values)
    return summary


if __name__ == "__main__":
    main()
