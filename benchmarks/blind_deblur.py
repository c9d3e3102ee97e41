"""Blind deblurring of unknown Gaussians, and of camera shake by SelfDeblur's protocol.

Usage: python benchmarks/blind_deblur.py widths | kinds | levin | told [--only im1_kernel1]
Widths: each Set12 image is blurred by a Gaussian (1 to 3 pixels, another for each image and the
mirrored list), cut by 16 pixels on each side and given noise of 2.55/255, default_rng(0). Kinds:
the kind of blur that is chosen for Levin's images, and for Set12 images after a Gaussian, disc or
line. Levin: PSNR and SSIM after the best shift up to 10 pixels, in quarters of a pixel, 15 pixels
of border left out; the true kernel's size is given, as there. Told: the same with the true kernel
given, to know how much is lost by not knowing it. Rows that are in the results file are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import product
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.io import imread
from skimage.metrics import structural_similarity

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

#: Iterations that the width needs: it is read before the image is fitted, and then kept.
WIDTH_ITERATIONS = 1
IMAGES, KERNELS = (1, 3, 4), (1, 2, 3, 5, 6, 8)
BORDER, SHIFT = 15, 10
#: Side of the kernels in `kinds`, images, and blurs: deviation, radius or length in pixels.
KERNEL_SIDE = 31
KIND_IMAGES = ("01_cameraman", "03_peppers", "06_f16")
KIND_BLURS = (
    ("gaussian", 1.0),
    ("gaussian", 2.2),
    ("defocus", 3.0),
    ("defocus", 5.0),
    ("motion", 9.0),
    ("motion", 15.0),
)
#: Learned parameter -> kind of blur.
KIND_PARAMETERS = {"sigmas": "gaussian", "length": "motion", "radius": "defocus"}


def run_widths(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Blur, forget how, and ask."""
    names = sorted(path.stem for path in (data_folder() / "set12").glob("*.png"))
    true = np.linspace(1, 3, len(names))
    for name, sigma in [*zip(names, true, strict=True), *zip(names, true[::-1], strict=True)]:
        case = f"{name}, {sigma:.2f}"
        if case in {row["case"] for row in rows}:
            continue
        image = imread(data_folder() / "set12" / f"{name}.png") / 255
        blurred = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=6)[16:-16, 16:-16]
        shot = blurred + np.random.default_rng(0).normal(0, 2.55 / 255, blurred.shape)
        started = time.monotonic()
        answer = dip.blind_deblur(
            shot.astype(np.float32),
            preset="fast",
            max_iterations=WIDTH_ITERATIONS,
            blur="gaussian",
        )
        estimated = float(answer.learned_parameters["sigmas"][0])
        rows.append(
            {
                "case": case,
                "true": float(sigma),
                "found": estimated,
                "off by %": 100 * (estimated / float(sigma) - 1),
                "seconds": time.monotonic() - started,
            }
        )
        save("widths", rows, {"within 10 %": sum(abs(row["off by %"]) <= 10 for row in rows)})


def make_kernel(kind: str, width: float) -> npt.NDArray[np.float64]:
    """Draw a disc of this radius, or a line of this length at 0.5 rad, eight points per pixel."""
    offsets = (np.arange(KERNEL_SIDE * 8) - KERNEL_SIDE * 4 + 0.5) / 8
    rows, columns = np.meshgrid(offsets, offsets, indexing="ij")
    along, across = (
        columns * np.cos(0.5) + rows * np.sin(0.5),
        rows * np.cos(0.5) - columns * np.sin(0.5),
    )
    inside = (
        np.hypot(rows, columns) <= width
        if kind == "defocus"
        else (np.abs(along) <= width / 2) & (np.abs(across) <= 0.25)
    )
    kernel = inside.reshape(KERNEL_SIDE, 8, KERNEL_SIDE, 8).sum((1, 3)).astype(np.float64)
    return kernel / kernel.sum()


def run_kinds(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Let the kind of blur be chosen where it is known."""
    cases: list[tuple[str, str, npt.NDArray[np.float64]]] = []
    for image, kernel in product(IMAGES, KERNELS):
        blurred = imread(data_folder() / "levin" / f"im{image}_kernel{kernel}_blur.png")
        cases.append((f"im{image}_kernel{kernel}", "free", blurred.astype(np.float64)))
    rng = np.random.default_rng(0)
    for name, (kind, width) in product(KIND_IMAGES, KIND_BLURS):
        sharp = imread(data_folder() / "set12" / f"{name}.png").astype(np.float64)
        blurred = (
            ndimage.gaussian_filter(sharp, width, mode="nearest")
            if kind == "gaussian"
            else ndimage.convolve(sharp, make_kernel(kind, width), mode="nearest")
        )
        noisy = blurred + rng.normal(0, 2.55, blurred.shape)
        cases.append((f"{name}, {kind} {width}", kind, noisy[16:-16, 16:-16]))
    done = {row["case"] for row in rows}
    for case, kind, image in cases:
        if case in done or (options.only and case not in options.only):
            continue
        answer = dip.blind_deblur(
            image.astype(np.float32),
            psf_size=KERNEL_SIDE,
            preset="fast",
            max_iterations=WIDTH_ITERATIONS,
        )
        names = set(answer.learned_parameters)
        chosen = next((KIND_PARAMETERS[name] for name in names & set(KIND_PARAMETERS)), "free")
        rows.append({"case": case, "true": kind, "chosen": chosen})
        save("kinds", rows, {"right": sum(row["true"] == row["chosen"] for row in rows)})


def run_levin(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Restore real camera shake, kernel of any shape; its true one is given to `told`."""
    is_known = options.part == "told"
    for image, kernel in product(IMAGES, KERNELS):
        case = f"im{image}_kernel{kernel}"
        if case in {row["case"] for row in rows} or (options.only and case not in options.only):
            continue
        folder = data_folder() / "levin"
        shot = imread(folder / f"{case}_blur.png").astype(np.float32)
        truth = imread(folder / f"gt_im{image}.png").astype(np.float64)
        true = np.load(folder / f"kernel{kernel}_conv_f8.npy")
        started = time.monotonic()
        if is_known:
            answer = dip.deblur(shot, true.astype(np.float32), preset=options.preset)
        else:
            size = options.psf_size or true.shape[0]
            answer = dip.blind_deblur(shot, psf_size=size, preset=options.preset, blur="free")
        seconds = time.monotonic() - started
        before, after = measure_quality(shot, truth), measure_quality(answer.image, truth)
        row = {
            "case": case,
            "input dB": before[0],
            "output dB": after[0],
            "gain dB": after[0] - before[0],
            "input SSIM": before[1],
            "output SSIM": after[1],
            "iterations": answer.report["iterations"],
            "seconds": seconds,
        }
        if not is_known:
            row["kernel alike"] = compare_kernels(answer.learned_parameters["psf"], true)
            np.savez(
                OUT / f"blind_{case}.npz",
                image=answer.image,
                psf=answer.learned_parameters["psf"],
                truth=truth,
                shot=shot,
            )
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        summary = {
            "mean output dB": mean(row["output dB"] for row in rows),
            "mean gain dB": mean(row["gain dB"] for row in rows),
            "least gain dB": min(row["gain dB"] for row in rows),
            "mean output SSIM": mean(row["output SSIM"] for row in rows),
        }
        save(f"{options.part}_{options.preset}", rows, summary)


def measure_quality(image: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> tuple[float, float]:
    """PSNR (peak 255) and SSIM after the best shift of the image."""
    inner = (slice(BORDER, -BORDER),) * 2
    image = np.clip(image.astype(np.float64), 0, 255)

    def compute_error(shift: tuple[float, float]) -> float:
        moved = ndimage.shift(image, shift, order=1, mode="nearest")
        return float(np.mean((moved[inner] - truth[inner]) ** 2))

    best = min(product(range(-SHIFT, SHIFT + 1), repeat=2), key=compute_error)
    finer = [tuple(np.add(best, step)) for step in product(np.arange(-0.75, 1, 0.25), repeat=2)]
    moved = ndimage.shift(image, min(finer, key=compute_error), order=1, mode="nearest")[inner]
    psnr = 10 * np.log10(255**2 / np.mean((moved - truth[inner]) ** 2))
    return float(psnr), float(structural_similarity(moved, truth[inner], data_range=255))


def compare_kernels(estimated: npt.NDArray[Any], true: npt.NDArray[np.float64]) -> float:
    """Largest correlation of two kernels over all shifts; 1: the same."""
    grid = [a + b for a, b in zip(estimated.shape, true.shape, strict=True)]
    spectra = np.fft.fft2(estimated, grid) * np.fft.fft2(true, grid).conj()
    largest = np.fft.ifft2(spectra).real.max()
    return float(largest / np.linalg.norm(estimated) / np.linalg.norm(true))


def save(part: str, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write what there is."""
    write(f"blind_{part}", rows, summary)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["widths", "kinds", "levin", "told"])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--psf-size", type=int, default=None)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    runs = {"widths": run_widths, "kinds": run_kinds}
    name = f"blind_{options.part}" + ("" if options.part in runs else f"_{options.preset}")
    kept = OUT / f"{name}.json"
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.exists() else []
    runs.get(options.part, run_levin)(options, rows)


if __name__ == "__main__":
    main()
