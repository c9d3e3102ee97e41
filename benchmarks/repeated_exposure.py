"""Two noisy captures of one field, restored together, one by one, and as their mean: PSNR.

Usage: python benchmarks/repeated_exposure.py [--preset fast] [--side 128] [--prior auto]
Captures 1 and 2 of FMD fields, crops from (192, 192) on. Exposures of the captures differ, so each
image is brought to the truth by a straight line before its PSNR (peak 255) is taken. The plain
mean is that of the second, brought to the first's intensities, and the first. Rows that are in the
results file already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import napari_dip as dip
from napari_dip.engine.noise.repeated_exposure import match_intensities
from shared_data import OUT, fmd, write

if TYPE_CHECKING:
    import numpy.typing as npt

FIELDS = ("TwoPhoton_BPAE_B", "WideField_BPAE_R", "Confocal_BPAE_G")
ROW = COLUMN = 192


def compute_psnr(image: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """PSNR after the best straight line from the image's intensities to the truth's."""
    line = np.polyfit(image.ravel().astype(np.float64), truth.ravel(), 1)
    error = np.polyval(line, image.astype(np.float64)) - truth
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def compare(field: str, options: argparse.Namespace) -> dict[str, Any]:
    """Restore one crop in all ways."""
    place = slice(ROW, ROW + options.side), slice(COLUMN, COLUMN + options.side)
    (first, truth), (second, _) = (fmd(field, capture) for capture in (1, 2))
    first, second, truth = first[place], second[place], truth[place]
    match = match_intensities(*(torch.from_numpy(image[None].copy()) for image in (first, second)))
    middle = (first + (second.astype(np.float32) - match.offset) / match.gain) / 2

    def restore(image: npt.NDArray[Any], again: npt.NDArray[Any] | None = None) -> Any:
        return dip.denoise(
            image, preset=options.preset, prior=options.prior, repeated_exposure=again
        )

    began = time.process_time()
    both = restore(first, second)
    seconds = time.process_time() - began
    return {
        "crop": f"{field}, {options.side} × {options.side}",
        "first dB": compute_psnr(first, truth),
        "second dB": compute_psnr(second, truth),
        "mean dB": compute_psnr(middle, truth),
        "first restored dB": compute_psnr(restore(first).image, truth),
        "second restored dB": compute_psnr(restore(second).image, truth),
        "mean restored dB": compute_psnr(restore(middle.astype(np.float32)).image, truth),
        "together dB": compute_psnr(both.image, truth),
        "gain of the second": match.gain,
        "blind spot": "×".join(map(str, both.report["noise"]["blind_spot_size"])),
        "CPU seconds": seconds,
    }


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--fields", nargs="+", default=list(FIELDS))
    options = parser.parse_args()
    title = f"two_measurements_{options.preset}_{options.prior}_{options.side}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["crop"].split(",")[0] for row in rows}
    for field in options.fields:
        if field in done:
            continue
        rows.append(compare(field, options))
        print(rows[-1], file=sys.stderr, flush=True)
        gains = [row["together dB"] - row["mean restored dB"] for row in rows]
        write(
            title, rows, {"preset": options.preset, "mean gain over the mean restored": mean(gains)}
        )


if __name__ == "__main__":
    main()
