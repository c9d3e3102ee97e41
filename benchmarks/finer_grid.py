"""Deblur synthetic filaments on a grid twice as fine, beside Richardson-Lucy at its best step.

Usage: python benchmarks/finer_grid.py [--preset fast] [--size 128] [--only tubes] [--seed 1]
Filaments 25 nm wide are drawn at an eighth of a pixel, blurred with a widefield PSF (NA 1.4, 520
nm, computed at that spacing), binned, and measured with 5, 20 or 100 photons at the 99.5th
percentile, a background of 1 photon and a read noise of 1. Pixels are a half and a quarter of the
limit of resolution. Richardson-Lucy has the same PSF and binning on the same fine grid; its best
step is the one with the highest correlation with the truth. Resolution: the period, in nm, at which
the Fourier ring correlation with the truth falls below 0.5. Ringing: energy outside of the
filaments and within two widths of the PSF, as a share of the truth's. Intensity: sum within two
widths, over that of the truth.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage, signal

import napari_dip as dip
from napari_dip.engine.deconvolution.psf import compute_microscope_psf
from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy
from napari_dip.engine.operators.imaging import BinnedDownsample, ValidConvolution
from napari_dip.engine.problem import Chain
from shared_data import write

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

NA, WAVELENGTH, INDEX = 1.4, 520.0, 1.518
#: Smallest period that passes the objective, in nm, and full width at half maximum of its PSF.
LIMIT, FWHM = WAVELENGTH / (2 * NA), 0.51 * WAVELENGTH / NA
#: Fine pixels of the drawing per pixel, those of the result, and pixels around the frame.
DRAWN, FACTOR, FRAME = 8, 2, 24
TUBE_WIDTH = 25.0
BACKGROUND, READ_NOISE, OFFSET = 1.0, 1.0, 100.0
PHOTONS = (5, 20, 100)
#: Number of filaments.
KINDS = {"tubes": 14, "network": 45}
#: Iterations of Richardson-Lucy that are looked at.
ITERATIONS = (2, 3, 5, 7, 10, 15, 20, 30, 50, 80, 120, 200)
THRESHOLD = 0.5


def draw_filaments(size: int, count: int, rng: np.random.Generator) -> Image:
    """Draw smoothly curved lines of different brightness."""
    image = np.zeros((size, size))
    for _ in range(count):
        place, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        brightness = rng.uniform(0.6, 1.4)
        for _ in range(6 * size):
            row, column = int(place[0]), int(place[1])
            if 0 <= row < size and 0 <= column < size:
                image[row, column] += brightness
            angle += rng.normal(0, 0.006)
            place = place + 0.5 * np.array([np.sin(angle), np.cos(angle)])
            if place.min() < -0.2 * size or place.max() > 1.2 * size:
                break
    return image


def compute_psf(pixel: float) -> torch.Tensor:
    """Compute the PSF at a pixel size in nm, out to four Airy radii."""
    radius = int(4 * 0.61 * WAVELENGTH / NA / pixel)
    return compute_microscope_psf(
        "widefield", NA, WAVELENGTH, (pixel, pixel), INDEX, (2 * radius + 1,) * 2
    )


def bin_image(image: Image, factor: int) -> Image:
    """Average over square blocks."""
    rows, columns = (side // factor for side in image.shape)
    return np.asarray(image.reshape(rows, factor, columns, factor).mean((1, 3)))


def simulate(
    kind: str, size: int, pixel: float, photons: float, seed: int
) -> tuple[npt.NDArray[np.float32], Image]:
    """Return the measurement, and the truth in photons on the fine grid."""
    rng = np.random.default_rng(seed)
    side = (size + 2 * FRAME) * DRAWN
    drawn = ndimage.gaussian_filter(
        draw_filaments(side, KINDS[kind], rng), TUBE_WIDTH / 2.355 / (pixel / DRAWN)
    )
    blurred = signal.fftconvolve(drawn, compute_psf(pixel / DRAWN).numpy(), mode="same")
    light = bin_image(blurred, DRAWN)[FRAME:-FRAME, FRAME:-FRAME]
    scale = photons / np.quantile(light, 0.995)
    measured = rng.poisson(np.maximum(light, 0) * scale + BACKGROUND) + OFFSET
    frame = FACTOR * FRAME
    truth = bin_image(drawn, DRAWN // FACTOR)[frame:-frame, frame:-frame] * scale
    return (measured + rng.normal(0, READ_NOISE, light.shape)).astype(np.float32), truth


def measure_resolution(image: Image, truth: Image, pixel: float) -> float:
    """Return the period in nm at which the ring correlation with the truth falls below a half."""
    side = truth.shape[0]
    window = np.outer(np.hanning(side), np.hanning(side))
    first, second = (np.fft.fft2((item - item.mean()) * window) for item in (image, truth))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    ring = np.round(frequency * side).astype(int).ravel()
    sums = [
        np.bincount(ring, values.ravel())[: side // 2]
        for values in ((first * second.conj()).real, np.abs(first) ** 2, np.abs(second) ** 2)
    ]
    correlation = ndimage.uniform_filter1d(sums[0] / np.sqrt(sums[1] * sums[2]), 5)
    below = np.flatnonzero(correlation[2:] < THRESHOLD)
    if not below.size:
        return 2 * pixel
    place = int(below[0]) + 2
    high, low = correlation[place - 1], correlation[place]
    crossing = place - 1 + (high - THRESHOLD) / max(high - low, 1e-9)
    return float(side * pixel / crossing)


def assess(image: Image, truth: Image, pixel: float) -> dict[str, float]:
    """Return correlation, resolution, ringing and intensity of one result."""
    is_object = truth > 0.05 * truth.max()
    distance = ndimage.distance_transform_edt(~is_object) * pixel
    near = distance <= 2 * FWHM
    return {
        "correlation": float(np.corrcoef(image.ravel(), truth.ravel())[0, 1]),
        "resolution nm": measure_resolution(image, truth, pixel),
        "ringing": float((image[near & ~is_object] ** 2).sum() / (truth**2).sum()),
        "intensity": float(image[near].sum() / truth[near].sum()),
    }


def compare(kind: str, size: int, pixel: float, photons: int, options: Any) -> dict[str, Any]:
    """Deblur one measurement both ways."""
    measured, truth = simulate(kind, size, pixel, photons, options.seed)
    fine = pixel / FACTOR
    psf = compute_psf(fine)
    operator, margin = Chain(ValidConvolution(psf), BinnedDownsample((FACTOR,) * 2)), len(psf) // 2
    light = torch.from_numpy(measured - OFFSET)[None, None]
    images = run_masked_richardson_lucy(operator, light, torch.ones_like(light), ITERATIONS)
    crops = [np.float64(image[0, 0, margin:-margin, margin:-margin]) for image in images]
    scores = [assess(crop - BACKGROUND, truth, fine) for crop in crops]
    best = max(range(len(scores)), key=lambda place: scores[place]["correlation"])
    upsampled = ndimage.zoom(
        measured.astype(np.float64), FACTOR, order=3, mode="nearest", grid_mode=True
    )
    start, cpu = time.perf_counter(), time.process_time()
    result = dip.deblur(
        measured,
        microscope="widefield",
        na=NA,
        wavelength=WAVELENGTH,
        pixel_size=pixel,
        factor=FACTOR,
        background=OFFSET + BACKGROUND,
        preset=options.preset,
        device="cpu",
    )
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    ours = np.asarray(result.image, np.float64) - OFFSET - BACKGROUND
    figures = {
        "input": assess(upsampled - OFFSET - BACKGROUND, truth, fine),
        "RL": scores[best],
        "ours": assess(ours, truth, fine),
    }
    row: dict[str, Any] = {"object": kind, "pixel nm": round(pixel), "photons": photons}
    for name in ("correlation", "resolution nm", "ringing", "intensity"):
        row |= {f"{method} {name}": round(figures[method][name], 3) for method in figures}
    row |= {"RL step": ITERATIONS[best], "seconds": round(seconds), "CPU": round(cpu_seconds)}
    return row


def main() -> None:
    """Compare all objects and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--only", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for kind in [options.only] if options.only else KINDS:
        for pixel in (LIMIT / 2, LIMIT / 4):
            for photons in PHOTONS:
                rows.append(compare(kind, options.size, pixel, photons, options))
                print(rows[-1], flush=True)

    def average_gain(other: str) -> float:
        return float(
            np.mean([row[f"{other} resolution nm"] / row["ours resolution nm"] for row in rows])
        )

    write(
        "finer_grid",
        rows,
        {
            "preset": options.preset,
            "mean gain in resolution over the input": round(average_gain("input"), 2),
            "mean gain in resolution over Richardson-Lucy": round(average_gain("RL"), 2),
            "less ringing than Richardson-Lucy": sum(
                row["ours ringing"] < row["RL ringing"] for row in rows
            ),
        },
    )


if __name__ == "__main__":
    main()
