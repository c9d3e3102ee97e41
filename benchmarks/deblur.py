"""Deblurring with a known kernel: PSNR, against Richardson-Lucy at its oracle iteration.

Usage: python benchmarks/deblur.py [--preset balanced] [--kernel 1] [--only 03_peppers]
Set12 images, blurred with a Levin kernel with a circular border for all methods, white noise of
2.55 (of 255) added, seed 0, nothing clipped. Richardson-Lucy is shown the truth to choose its
iteration; ours is not. Rows that are in the JSON already are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import irfft2, rfft2
from skimage.io import imread, imsave

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

IMAGES = (
    "01_cameraman",
    "03_peppers",
    "04_starfish",
    "06_f16",
    "07_parrot",
    "08_lena",
    "09_barbara",
    "12_couple",
)
#: Of 255.
NOISE = 2.55
#: Iterations of Richardson-Lucy among which the truth chooses.
MOST_LUCY = 400


def compute_transfer(kernel: Image, shape: tuple[int, int]) -> npt.NDArray[np.complex128]:
    """Fourier transform of a kernel with its middle at the origin."""
    whole = np.zeros(shape)
    whole[: kernel.shape[0], : kernel.shape[1]] = kernel
    middle = [-(size // 2) for size in kernel.shape]
    return np.asarray(rfft2(np.roll(whole, middle, (0, 1))))


def blur(image: Image, transfer: npt.NDArray[np.complex128]) -> Image:
    """Convolve with a circular border."""
    return np.asarray(irfft2(rfft2(image) * transfer, s=image.shape))


def psnr(image: Image, truth: Image) -> float:
    """Peak 255, clipped to what can be shown."""
    return float(10 * np.log10(255**2 / np.mean((np.clip(image, 0, 255) - truth) ** 2)))


def run_richardson_lucy(measured: Image, transfer: Any, truth: Image) -> tuple[float, int, Image]:
    """Richardson-Lucy with a circular border at the iteration that lies nearest to the truth."""
    data = np.clip(measured, 0, None)
    image = np.full_like(data, data.mean())
    best = (-np.inf, 0, image)
    for iteration in range(1, MOST_LUCY + 1):
        ratio = data / np.maximum(blur(image, transfer), 1e-6)
        image = image * np.maximum(blur(ratio, transfer.conj()), 0)
        quality = psnr(image, truth)
        if quality > best[0]:
            best = (quality, iteration, image)
    return best


def run_wiener(measured: Image, transfer: Any, truth: Image) -> float:
    """Wiener filter with the constant that lies nearest to the truth: the best linear answer."""
    power = np.abs(transfer) ** 2
    images = (
        np.asarray(irfft2(rfft2(measured) * transfer.conj() / (power + k), s=measured.shape))
        for k in np.geomspace(1e-5, 1e-1, 25)
    )
    return max(psnr(image, truth) for image in images)


def make_case(name: str, kernel: int) -> tuple[Image, Image, Image, Any]:
    """Truth, measured image, kernel and its transfer function."""
    truth = imread(data_folder() / "set12" / f"{name}.png").astype(np.float64)
    psf = np.load(data_folder() / "levin" / f"kernel{kernel}_conv_f8.npy")
    transfer = compute_transfer(psf, truth.shape)
    noise = np.random.default_rng(0).normal(0, NOISE, truth.shape)
    return truth, blur(truth, transfer) + noise, psf, transfer


def measure(name: str, kernel: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one image and compare."""
    truth, measured, psf, transfer = make_case(name, kernel)
    row: dict[str, Any] = {"image": name, "kernel": kernel, "blurred dB": psnr(measured, truth)}
    row["RL dB"], row["RL oracle iteration"], theirs = run_richardson_lucy(
        measured, transfer, truth
    )
    row["Wiener oracle dB"] = run_wiener(measured, transfer, truth)
    start = time.perf_counter()
    result = dip.deblur(measured.astype(np.float32), psf, border="circular", **settings)
    row["ours dB"] = psnr(result.image.astype(np.float64), truth)
    row["above RL dB"] = row["ours dB"] - row["RL dB"]
    row["iterations"] = result.report["iterations"]
    row["best"] = result.best_iteration
    row["seconds"] = time.perf_counter() - start
    OUT.mkdir(parents=True, exist_ok=True)
    panels = np.concatenate([measured, theirs, result.image, truth], axis=1)
    pixels = np.clip(np.rint(panels), 0, 255).astype(np.uint8)
    imsave(OUT / f"deblur_{name}_kernel{kernel}.png", pixels, check_contrast=False)
    return row


def main() -> None:
    """Run all images that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--kernel", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--max-iterations", type=int)
    options = parser.parse_args()
    name = f"deblur_{options.preset}"
    done = OUT / f"{name}.json"
    rows = json.loads(done.read_text())["rows"] if done.exists() else []
    for image in IMAGES:
        is_done = any((row["image"], row["kernel"]) == (image, options.kernel) for row in rows)
        if is_done or (options.only and image not in options.only):
            continue
        settings = {"preset": options.preset, "max_iterations": options.max_iterations}
        rows.append(measure(image, options.kernel, settings))
        print(rows[-1], file=sys.stderr, flush=True)
        write(name, rows, summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the rows that are there."""
    summary: dict[str, Any] = {"images": len(rows)}
    for key in ("blurred dB", "RL dB", "Wiener oracle dB", "ours dB", "above RL dB"):
        summary[f"mean {key}"] = float(np.mean([row[key] for row in rows]))
    summary["least above RL dB"] = min(row["above RL dB"] for row in rows)
    return summary


if __name__ == "__main__":
    main()
