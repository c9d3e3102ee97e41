"""Blind deblurring of lenses with aberrations.

Usage: python benchmarks/aberrations.py [--kinds gaussian lens told] [--images 1 3 4] [--only CASE…]
Levin's sharp images are blurred by each Zernike mode from 4 to 11 in Noll's order, of 0.15 or 0.3
wavelengths (root mean square), with a pupil of 0.25 cycles per pixel, in a kernel of 31 x 31; noise
of 2.55 of 255, default_rng(0); 15 pixels are cut on each side. `gaussian` and `lens` are the
settings of *Kind of blur*; `told` deblurs with the true kernel, to know how much is lost by not
knowing it. PSNR after the best shift, as in `blind_deblur.py`. Rows in the results file are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import product
from math import factorial
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.io import imread

import napari_dip as dip
from blind_deblur import compare_kernels, measure_quality
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

KERNEL_SIDE, MARGIN, NOISE = 31, 15, 2.55
CUTOFF, GRID = 0.25, 256
#: Degree and multiple of the angle (negative: sine) of the modes 4 to 11 (Noll 1976).
MODES = {4: (2, 0), 5: (2, -2), 6: (2, 2), 7: (3, -1), 8: (3, 1), 9: (3, -3), 10: (3, 3)}
MODES[11] = (4, 0)
STRENGTHS = (0.15, 0.3)


def compute_kernel(mode: int, strength: float) -> npt.NDArray[np.float64]:
    """Compute the image of a point by the FFT of a pupil with one aberration."""
    degree, order = MODES[mode]
    turns = abs(order)
    frequencies = np.fft.fftfreq(GRID)
    y, x = np.meshgrid(frequencies, frequencies, indexing="ij")
    radius, angle = np.hypot(y, x) / CUTOFF, np.arctan2(y, x)
    shape = np.zeros_like(radius)
    for term in range((degree - turns) // 2 + 1):
        below = [factorial(n) for n in (term, (degree + turns) // 2 - term)]
        below.append(factorial((degree - turns) // 2 - term))
        weight = (-1) ** term * factorial(degree - term) / np.prod(below)
        shape += weight * radius ** (degree - 2 * term)
    shape *= np.sqrt((degree + 1) * (2 if turns else 1))
    shape *= np.sin(turns * angle) if order < 0 else np.cos(turns * angle)
    pupil = (radius <= 1) * np.exp(2j * np.pi * strength * shape)
    intensity = np.abs(np.fft.fftshift(np.fft.ifft2(pupil))) ** 2
    middle = slice(GRID // 2 - KERNEL_SIDE // 2, GRID // 2 + KERNEL_SIDE // 2 + 1)
    kernel = intensity[middle, middle]
    return np.asarray(kernel / kernel.sum())


def restore(
    kind: str, shot: npt.NDArray[np.float32], kernel: npt.NDArray[np.float64], preset: str
) -> dip.Restoration:
    """Deblur blindly with one kind of blur, or with the true kernel."""
    if kind == "told":
        return dip.deblur(shot, kernel.astype(np.float32), preset=preset)
    return dip.blind_deblur(shot, psf_size=KERNEL_SIDE, preset=preset, blur=kind)


def summarise(rows: list[dict[str, Any]], kinds: list[str]) -> dict[str, Any]:
    """Average over the cases that all kinds have."""
    shared = [
        case
        for case in dict.fromkeys(row["case"] for row in rows)
        if {row["kind"] for row in rows if row["case"] == case} >= set(kinds)
    ]
    summary: dict[str, Any] = {"cases": len(shared)}
    for kind in kinds:
        chosen = [row for row in rows if row["kind"] == kind and row["case"] in shared]
        if chosen:
            summary[f"{kind}: mean dB"] = mean(row["output dB"] for row in chosen)
    return summary


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=["gaussian", "lens", "told"])
    parser.add_argument("--images", nargs="*", type=int, default=[1, 3, 4])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--preset", default="fast")
    options = parser.parse_args()
    name = f"aberrations_{options.preset}"
    kept = OUT / f"{name}.json"
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.exists() else []
    done = {(row["case"], row["kind"]) for row in rows}
    for image, strength, mode, kind in product(options.images, STRENGTHS, MODES, options.kinds):
        case = f"im{image}_mode{mode}_{strength}"
        if (case, kind) in done or (options.only and case not in options.only):
            continue
        sharp = imread(data_folder() / "levin" / f"gt_im{image}.png").astype(np.float64)
        kernel = compute_kernel(mode, strength)
        blurred = ndimage.convolve(sharp, kernel, mode="nearest")
        noisy = blurred + np.random.default_rng(0).normal(0, NOISE, blurred.shape)
        inner = (slice(MARGIN, -MARGIN),) * 2
        shot, truth = noisy[inner].astype(np.float32), sharp[inner]
        started = time.process_time()
        answer = restore(kind, shot, kernel, options.preset)
        row = {
            "case": case,
            "kind": kind,
            "input dB": measure_quality(shot, truth)[0],
            "output dB": measure_quality(answer.image, truth)[0],
            "CPU s": time.process_time() - started,
        }
        if kind != "told":
            row["kernel alike"] = compare_kernels(answer.learned_parameters["psf"], kernel)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        write(name, rows, summarise(rows, options.kinds))


if __name__ == "__main__":
    main()
