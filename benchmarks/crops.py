"""Noise of crops of real images: measured in each crop, and true by the image without noise.

Usage: python benchmarks/crops.py [--sets fmd w2s hagen] [--sides 256 128] [--restore 0]
Crops lie on a grid with five places along each axis, and one begins at row and column 100. The
variance is compared in the darkest 30 %, the middle 30 % and the brightest 30 % of the pixels.
W2S and Hagen et al. are stretched, so their truth is brought to the image by a straight line.
near: within 15 % in the dark and in the middle. far: beyond a factor of 1.5 anywhere. far, silent:
without a doubt or a caution. lost: beyond a factor of 3 in the brightest 30 %. With `--restore N`,
every Nth crop is restored with `fast` as well; gains of less than 1 dB are listed.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

import napari_dip as dip
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    measure_single_exposure,
)
from napari_dip.tasks.base import NoiseSettings
from quality_sets import SETS, line_psnr
from shared_data import counts, psnr, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quality_sets import Case, Picture

#: Places along each axis, and the row and column where one more crop begins.
PLACES, EXTRA = 5, 100
#: Parts of the pixels by brightness.
PARTS = ((0.0, 0.3), (0.35, 0.65), (0.7, 1.0))
#: What counts as near, far and lost, as factors of the variance; and a small gain, in dB.
NEAR, FAR, LOST, SMALL_GAIN = 1.15, 1.5, 3.0, 1.0


def list_corners(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """Return the first row and column of each crop."""
    starts = [
        sorted({round(place * (length - side) / (PLACES - 1)) for place in range(PLACES)})
        for length in shape
    ]
    row, column = (min(EXTRA, length - side) for length in shape)
    return sorted({*product(*starts), (row, column)})


class Crop(NamedTuple):
    """A crop of an image, its truth, and the truth on the image's scale."""

    case: Case
    side: int
    place: str
    image: Picture
    truth: Picture
    scaled_truth: Picture


def list_crops(names: list[str], sides: list[int]) -> Iterator[Crop]:
    """Cut the crops out of each image of these sets."""
    for case in (case for name in names for case in SETS[name]()):
        image, truth = case.load()
        slope, offset = np.polyfit(truth.ravel(), image.ravel(), 1) if case.stretched else (1, 0)
        scaled_truth = slope * truth + offset
        for side in (side for side in sides if side <= min(truth.shape[:2])):
            for row, column in list_corners(truth.shape[:2], side):
                window = slice(row, row + side), slice(column, column + side)
                place = f"[{row}:{row + side}, {column}:{column + side}]"
                yield Crop(
                    case, side, place, *(item[window] for item in (image, truth, scaled_truth))
                )


def examine(crop: Crop) -> dict[str, Any]:
    """Compare the noise measured in a crop, of colours in the green, with the true one."""
    image, truth = (
        item[..., 1] if item.ndim == 3 else item for item in (crop.image, crop.scaled_truth)
    )
    pixels = counts(image)
    estimate = measure_single_exposure(
        pixels[None].astype(np.float32), None, float(pixels.dtype.kind == "u"), NoiseSettings()
    )
    factors = []
    for low, high in PARTS:
        least, most = np.quantile(truth, (low, high))
        part = (truth >= least) & (truth <= most)
        measured = float(compute_noise_variance(estimate, truth[part]).mean())
        factors.append(measured / float(((image - truth)[part] ** 2).mean()))
    doubt = estimate.unreliable_reason or estimate.caution
    return {
        "crop": f"{crop.case.key}{crop.place}",
        "set": crop.case.group,
        "side": crop.side,
        "factors": [round(factor, 3) for factor in factors],
        "doubt": None if doubt is None else str(doubt),
        "lag 1": [round(along[0], 2) for along in (estimate.along_y, estimate.along_x)],
    }


def restore(crop: Crop) -> float:
    """Return by how many dB `fast` improves a crop."""
    axes = "YXS" if crop.image.ndim == 3 else "YX"
    result = dip.denoise(counts(crop.image), preset="fast", axes=axes, seed=0, device="cpu")
    judge = line_psnr if crop.case.stretched else psnr
    return float(judge(result.image, crop.truth) - judge(crop.image, crop.truth))


def main() -> None:
    """Examine all crops and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=["fmd", "w2s", "hagen"])
    parser.add_argument("--sides", nargs="*", type=int, default=[256, 128])
    parser.add_argument("--restore", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for index, crop in enumerate(list_crops(options.sets, options.sides)):
        rows.append(examine(crop))
        if options.restore and index % options.restore == 0:
            rows[-1]["gain dB"] = round(restore(crop), 2)
            print(rows[-1]["crop"], rows[-1]["gain dB"], file=sys.stderr, flush=True)
    table = []
    for group, side in dict.fromkeys((row["set"], row["side"]) for row in rows):
        of = [row for row in rows if (row["set"], row["side"]) == (group, side)]
        far = [row for row in of if not all(1 / FAR <= factor <= FAR for factor in row["factors"])]
        gains = [row["gain dB"] for row in of if "gain dB" in row]
        table.append(
            {
                "set": group,
                "side": side,
                "crops": len(of),
                "near": sum(
                    all(1 / NEAR <= factor <= NEAR for factor in row["factors"][:2]) for row in of
                ),
                "far": len(far),
                "far, silent": sum(row["doubt"] is None for row in far),
                "lost": sum(not 1 / LOST <= row["factors"][2] <= LOST for row in of),
                "restored": len(gains),
                "gain dB": float(np.mean(gains)) if gains else None,
                "least gain dB": min(gains, default=None),
            }
        )
    small = [row for row in rows if row.get("gain dB", SMALL_GAIN) < SMALL_GAIN]
    gains_below = [f"{row['crop']} {row['gain dB']}" for row in small]
    write("crops", table, {"gains below 1 dB": gains_below})


if __name__ == "__main__":
    main()
