"""Denoising of a channel under Poisson noise with and without a guide: PSNR.

Usage: python benchmarks/guide.py [--preset fast] [--peak 5] [--prior auto] [--crop 0]
Each channel of each image is scaled to the peak, in photons, and gets Poisson noise from
default_rng(0). PSNR against the clean channel, peak as given. Rows that are in the results file
already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from skimage.io import imread, imsave

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

IMAGES = ("bpae_3ch_left", "hela_3ch")
FLASH = (("cave_noflash_512", "cave_flash_512"), ("carpet_01_noflash", "carpet_00_flash"))


def load_channels(name: str, crop: int) -> npt.NDArray[np.float64]:
    """Three registered channels (C, Y, X), or their middle."""
    planes = tifffile.imread(data_folder() / "multichannel" / f"{name}.tif").astype(np.float64)
    if not crop:
        return planes
    row, column = ((side - crop) // 2 for side in planes.shape[1:])
    return planes[:, row : row + crop, column : column + crop]


def compute_psnr(image: npt.NDArray[Any], truth: npt.NDArray[np.float64], peak: float) -> float:
    """PSNR without rounding or clipping."""
    return float(10 * np.log10(peak**2 / np.mean((image.astype(np.float64) - truth) ** 2)))


def list_pairs(names: list[str]) -> list[tuple[str, int, int]]:
    """Image, noisy channel and guide: first each channel by the next, then by the one after."""
    return [
        (name, noisy, (noisy + step) % 3) for step in (1, 2) for name in names for noisy in range(3)
    ]


def run_pairs(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Add the rows that are missing."""
    done = {row["pair"] for row in rows}
    alone = {
        row["pair"].split(" by ")[0]: (row["denoised dB"], row["denoise seconds"]) for row in rows
    }
    for name, noisy, other in list_pairs(options.images):
        kind = f"{name}: {noisy}"
        if f"{kind} by {other}" in done:
            continue
        planes = load_channels(name, options.crop)
        truth = planes[noisy] / planes[noisy].max() * options.peak
        shot = np.random.default_rng(0).poisson(truth).astype(np.uint16)
        if kind not in alone:
            started = time.monotonic()
            plain = dip.denoise(shot, preset=options.preset)
            alone[kind] = compute_psnr(plain.image, truth, options.peak), time.monotonic() - started
        started = time.monotonic()
        guide = planes[other].astype(np.float32)
        result = dip.guide(shot, guide, preset=options.preset, prior=options.prior)
        guided = compute_psnr(result.image, truth, options.peak)
        row = {
            "pair": f"{kind} by {other}",
            "input dB": compute_psnr(shot, truth, options.peak),
            "denoised dB": alone[kind][0],
            "guided dB": guided,
            "gain dB": guided - alone[kind][0],
            "prior": result.report["prior"]["key"],
            "denoise seconds": alone[kind][1],
            "guide seconds": time.monotonic() - started,
        }
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        write_results(options, rows)


def run_flash(preset: str) -> None:
    """Restore the photographs without flash; there is no truth, so they are looked at."""
    folder = data_folder() / "flash"
    for dark, lit in FLASH:
        target = OUT / f"guide_{dark}.png"
        if target.exists() or not (folder / f"{dark}.png").exists():
            continue
        noisy, guide = imread(folder / f"{dark}.png"), imread(folder / f"{lit}.png")
        result = dip.guide(folder / f"{dark}.png", folder / f"{lit}.png", preset=preset)
        pixels = np.clip(np.rint(result.image), 0, 255).astype(np.uint8)
        imsave(target, np.concatenate([noisy[..., :3], guide[..., :3], pixels], 1))


def write_results(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write what there is."""
    gains = [row["gain dB"] for row in rows]
    summary = {
        "preset": options.preset,
        "peak": options.peak,
        "mean gain dB": mean(gains),
        "least gain dB": min(gains),
        "guide left out": sum(row["prior"] == "blind-spot" for row in rows),
    }
    write(format_title(options), rows, summary)


def format_title(options: argparse.Namespace) -> str:
    """Name of the results."""
    return f"guide_{options.preset}_{options.prior}_peak{options.peak:g}" + (
        f"_crop{options.crop}" if options.crop else ""
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--peak", type=float, default=5.0)
    parser.add_argument("--crop", type=int, default=0, help="side of the middle part; 0: all")
    parser.add_argument("--images", nargs="+", default=list(IMAGES))
    parser.add_argument("--flash", action="store_true", help="also the pairs with flash")
    options = parser.parse_args()
    kept = OUT / f"{format_title(options)}.json"
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.exists() else []
    run_pairs(options, rows)
    if options.flash:
        run_flash(options.preset)


if __name__ == "__main__":
    main()
