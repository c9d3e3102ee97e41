"""Deblurring of made volumes with a background: error, and uncertainty against the error.

Usage: python benchmarks/deblur_volumes.py [--preset instant] [--no-background]
Ten volumes of 16 x 64 x 64 voxels, blurred from larger objects by Gaussian PSFs, with Poisson
noise. Richardson-Lucy takes the background as known, and its best iteration by the truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy
from napari_dip.engine.operators.imaging import ValidConvolution
from shared_data import data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

ITERATIONS = (3, 5, 8, 12, 18, 27, 40, 60, 90, 140, 200)
FRAME, PSF_SIZE = (16, 64, 64), (11, 15, 15)
NARROW, WIDE = (1.5, 1.3), (2.2, 2.0)


class Case(NamedTuple):
    """A volume: its kind, photons at its brightest, PSF widths along Z and Y, and background."""

    kind: str
    photons: int
    sigmas: tuple[float, float]
    background: int


CASES = (
    Case("blobs", 20, NARROW, 1),
    Case("blobs", 200, WIDE, 3),
    Case("threads", 20, NARROW, 1),
    Case("threads", 200, WIDE, 3),
    Case("cells", 20, WIDE, 1),
    Case("cells", 200, NARROW, 3),
    Case("shells", 50, NARROW, 2),
    Case("shells", 500, WIDE, 2),
    Case("pollen", 50, NARROW, 2),
    Case("pollen", 500, WIDE, 2),
)


def draw_object(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw an object with values from 0 to about 1."""
    grid = np.mgrid[: shape[0], : shape[1], : shape[2]]
    drawn = np.zeros(shape)
    if kind == "blobs":
        for _ in range(int(np.prod(shape) / 700)):
            middle = [rng.uniform(0, side) for side in shape]
            radius = rng.uniform(0.9, 1.8)
            drawn += rng.uniform(0.4, 1) * np.exp(-_square(grid, middle) / 2 / radius**2)
    elif kind == "threads":
        drawn = gaussian_filter(_draw_threads(shape, rng), 0.6)
    elif kind == "cells":
        texture = gaussian_filter(rng.normal(size=shape), 1.2)
        for _ in range(7):
            middle = [rng.uniform(0, side) for side in shape]
            radii = (rng.uniform(4, 6), rng.uniform(8, 13), rng.uniform(8, 13))
            rim = _square(grid, middle, [1 / radius for radius in radii]) - 1
            soft = 1 + np.exp(np.minimum(8 * rim, 700))
            drawn = np.maximum(drawn, rng.uniform(0.4, 1) / soft)
        drawn = np.maximum(drawn * (1 + 0.35 * texture / texture.std()), 0)
    elif kind == "shells":
        for _ in range(9):
            middle = [rng.uniform(0, side) for side in shape]
            radius = rng.uniform(4, 9)
            distance = np.sqrt(_square(grid, middle, (1.5, 1, 1)))
            drawn += np.exp(-((distance - radius) ** 2) / 2 / 0.8**2)
    else:
        whole = tifffile.imread(data_folder() / "stacks3d" / "pollen.tif").astype(float)
        whole = np.maximum(whole - np.percentile(whole, 1), 0)
        starts = [(side - want) // 2 for side, want in zip(whole.shape, shape, strict=True)]
        drawn = whole[
            tuple(
                slice(max(0, start), max(0, start) + want)
                for start, want in zip(starts, shape, strict=True)
            )
        ]
    return np.asarray(drawn / np.percentile(drawn, 99.8))


def _square(grid: Array, middle: Any, stretch: Any = (1, 1, 1)) -> Array:
    """Return the squared distance of each voxel from a point, stretched along the axes."""
    return np.asarray(
        sum(
            ((axis - centre) * factor) ** 2
            for axis, centre, factor in zip(grid, middle, stretch, strict=True)
        )
    )


def _draw_threads(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw 14 wandering lines, with the light of each step shared by the eight voxels around."""
    drawn = np.zeros(shape)
    for _ in range(14):
        place = np.array([rng.uniform(0, side) for side in shape])
        heading = rng.normal(size=3) * (0.3, 1, 1)
        heading /= np.linalg.norm(heading)
        for _ in range(700):
            heading += rng.normal(size=3) * 0.04
            heading /= np.linalg.norm(heading)
            place = place + heading * 0.25
            corner = np.floor(place).astype(int)
            rest = place - corner
            for offset in np.ndindex(2, 2, 2):
                voxel = corner + offset
                if ((voxel >= 0) & (voxel < shape)).all():
                    drawn[tuple(voxel)] += np.where(offset, rest, 1 - rest).prod()
    return drawn


def measure(index: int, case: Case, background: int, preset: str) -> dict[str, Any]:
    """Make a volume, restore it, and compare."""
    point = np.zeros(PSF_SIZE)
    point[tuple(side // 2 for side in PSF_SIZE)] = 1
    psf = gaussian_filter(point, (case.sigmas[0], case.sigmas[1], case.sigmas[1]))
    psf = (psf / psf.sum()).astype(np.float32)
    rng = np.random.default_rng(index)
    far = [side // 2 for side in PSF_SIZE]
    larger = tuple(side + 2 * margin for side, margin in zip(FRAME, far, strict=True))
    drawn = draw_object(case.kind, larger, rng)
    operator = ValidConvolution(torch.from_numpy(psf))
    light = torch.from_numpy(drawn.astype(np.float32))[None, None]
    blurred = operator(light)[0, 0].numpy().clip(0)
    unit = case.photons / np.percentile(blurred, 99.8)
    inside = tuple(slice(margin, -margin) for margin in far)
    truth = unit * drawn[inside] + background
    measured = rng.poisson(unit * blurred + background).astype(np.float32)

    began = time.process_time()
    result = dip.deblur(measured, psf, preset=preset)
    seconds = time.process_time() - began
    start = torch.from_numpy(measured - background)[None, None].clamp(min=0)
    frame = tuple(
        slice(margin, margin + side) for margin, side in zip(operator.margin, FRAME, strict=True)
    )
    errors = [
        float(np.sqrt(np.mean((image[0, 0].numpy()[frame] + background - truth) ** 2)))
        for image in run_masked_richardson_lucy(operator, start, torch.ones_like(start), ITERATIONS)
    ]
    error = result.image - truth
    rms = float(np.sqrt(np.mean(error**2)))
    return {
        "volume": f"{case.kind}, {case.photons}",
        "background": background,
        "blurred": float(np.sqrt(np.mean((measured - truth) ** 2))),
        "Richardson-Lucy": min(errors),
        "ours": rms,
        "error by uncertainty": rms / float(np.sqrt(np.mean(result.uncertainty**2))),
        "intervals of 90 % hold": float(np.mean(np.abs(error) < 1.645 * result.uncertainty)),
        "CPU seconds": seconds,
    }


def main() -> None:
    """Run all volumes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="instant")
    parser.add_argument("--no-background", action="store_true")
    options = parser.parse_args()
    rows = []
    for index, case in enumerate(CASES):
        background = 0 if options.no_background else case.background
        rows.append(measure(index, case, background, options.preset))
        print(rows[-1], file=sys.stderr, flush=True)
    name = "deblur_volumes" + ("_dark" if options.no_background else "")
    write(name, rows, {"preset": options.preset})


if __name__ == "__main__":
    main()
