"""Count results below input or BM3D, on every shared image with ground truth and six noises.

Usage: python benchmarks/every_noise.py [--every 8] [--first 0] [--off-model | --saved]
The middle 160 x 160 pixels of each true image, with normal noise of 15, 25 and 50 and with photon
noise of 2, 10 and 50 photons at white, `fast`, blind, seed 0 and the image's name. BM3D is told
its own blind estimate; with photon noise it works between a variance-stabilising transform and its
inverse, each channel by itself. With `--off-model`, noise whose variance is no line in brightness:
speckle of 16 looks, and normal noise of 25 and of 10 saved as JPEG of quality 75 and 85. With
`--saved`, normal noise of 10, 25 and 50 saved with 8 bits: whole grey values, cut off at 0 and 255.
Resumable: one line for each result in benchmarks/out/every_noise.jsonl, off_model_noise.jsonl or
saved_noise.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PillowImage
from skimage.io import imread

import napari_dip as dip
from blind_noise import split_channels
from bm3d_forms import run_bm3d, run_stabilised_bm3d
from shared_data import OUT, data_folder, psnr, write
from variance_stabilising import estimate_variance_line, estimate_white_sigma

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

SIDE = 160
#: Standard deviations of 255, and photons at 255.
NORMAL, PHOTONS = (15, 25, 50), (2, 10, 50)
#: Noises off the variance model: looks of speckle, and quality of JPEG after normal noise.
OFF_MODEL = (("speckle", 16), ("jpeg", 75), ("jpeg", 85))
#: Standard deviations of 255 of noise that is saved with 8 bits.
SAVED = (10, 25, 50)
#: Standard deviation of the noise by quality of JPEG.
JPEG_SIGMA = {75: 25, 85: 10}
#: Where true images lie.
TRUTHS = (
    "set5/*_gt.png",
    "set12/*.png",
    "set14/*_gt.png",
    "bsd68/*.png",
    "kodak20/*.png",
    "kodak256/*.png",
    "mcmaster18/*.png",
    "color9/*_gt.png",
    "cc15/*_mean.png",
    "polyu/*_gt.JPG",
    "fmd/*_gt.png",
)


def list_truths() -> list[Path]:
    """Find all true images."""
    return [path for pattern in TRUTHS for path in sorted(data_folder().glob(pattern))]


def crop_middle(path: Path) -> Image:
    """Cut the middle out of an image, (Y, X) or (Y, X, 3)."""
    image = np.asarray(imread(path), np.float64)
    image = image[..., :3] if image.ndim == 3 else image
    row, column = (max(0, (side - SIDE) // 2) for side in image.shape[:2])
    return image[row : row + SIDE, column : column + SIDE]


def add_noise(truth: Image, kind: str, strength: int, seed: int) -> Image:
    """Add noise, neither cut off nor rounded unless it is saved as JPEG or with 8 bits."""
    rng = np.random.default_rng(seed)
    if kind == "speckle":
        return truth * rng.gamma(strength, 1 / strength, truth.shape)
    if kind in ("jpeg", "saved"):
        deviation = JPEG_SIGMA[strength] if kind == "jpeg" else strength
        noisy = np.clip(np.rint(truth + rng.normal(0, deviation, truth.shape)), 0, 255)
        if kind == "saved":
            return noisy
        buffer = BytesIO()
        PillowImage.fromarray(noisy.astype(np.uint8)).save(buffer, "JPEG", quality=strength)
        return np.asarray(PillowImage.open(buffer), np.float64)
    if kind == "normal":
        return truth + rng.normal(0, strength, truth.shape)
    return rng.poisson(truth / 255 * strength) * 255.0 / strength


def denoise_bm3d(noisy: Image, kind: str) -> Image:
    """Denoise by BM3D, blind."""
    planes = split_channels(noisy)
    if kind in ("normal", "jpeg", "saved"):
        return run_bm3d(noisy, [max(estimate_white_sigma(plane), 0.1) for plane in planes])
    clean = [run_stabilised_bm3d(plane, estimate_variance_line(plane)) for plane in planes]
    return clean[0] if noisy.ndim == 2 else np.stack(clean, -1)


def evaluate(path: Path, kind: str, strength: int) -> dict[str, Any]:
    """Restore one image both ways."""
    truth = crop_middle(path)
    name = f"{path.parent.name}/{path.stem}"
    noisy = add_noise(truth, kind, strength, zlib.crc32(f"{name} {kind} {strength}".encode()))
    axes = "YX" if truth.ndim == 2 else "YXS"
    measured = noisy.astype(np.uint8 if kind == "saved" else np.float32)
    result = dip.denoise(measured, axes=axes, preset="fast", device="cpu")
    noise_record = result.report["noise"]
    figures = [
        psnr(image, truth) for image in (noisy, np.asarray(result.image), denoise_bm3d(noisy, kind))
    ]
    return {
        "picture": name,
        "noise": f"{kind} {strength}",
        **dict(zip(("input", "ours", "BM3D"), figures, strict=True)),
        "told": [
            doubt or caution
            for doubt, caution in zip(
                noise_record["unreliable_reason"], noise_record["caution"], strict=True
            )
        ],
    }


def read_results(name: str) -> Iterator[dict[str, Any]]:
    """Read the results that are there."""
    path = OUT / f"{name}.jsonl"
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def write_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give means for each noise, and count results below their input and below BM3D."""
    counted = []
    for noise in dict.fromkeys(row["noise"] for row in rows):
        noise_rows = [row for row in rows if row["noise"] == noise]
        counted.append(
            {"noise": noise, "pictures": len(noise_rows)}
            | {
                key: float(np.mean([row[key] for row in noise_rows]))
                for key in ("input", "ours", "BM3D")
            }
            | {"below input": sum(row["ours"] < row["input"] for row in noise_rows)}
            | {"1 dB below BM3D": sum(row["ours"] < row["BM3D"] - 1 for row in noise_rows)}
        )
    return counted


def main() -> None:
    """Examine the images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--off-model", action="store_true")
    choice.add_argument("--saved", action="store_true")
    options = parser.parse_args()
    name, noises = (
        "every_noise",
        [
            *(("normal", deviation) for deviation in NORMAL),
            *(("photons", photons) for photons in PHOTONS),
        ],
    )
    if options.off_model:
        name, noises = "off_model_noise", list(OFF_MODEL)
    elif options.saved:
        name, noises = "saved_noise", [("saved", deviation) for deviation in SAVED]
    pairs = [(path, *noise) for path in list_truths() for noise in noises]
    order = np.random.default_rng(0).permutation(len(pairs))  # each Nth stands for all
    rows = list(read_results(name))
    done = {(row["picture"], row["noise"]) for row in rows}
    OUT.mkdir(parents=True, exist_ok=True)
    for path, kind, strength in [pairs[place] for place in order[options.first :: options.every]]:
        if (f"{path.parent.name}/{path.stem}", f"{kind} {strength}") in done:
            continue
        rows.append(evaluate(path, kind, strength))
        print(*rows[-1].values(), sep=" | ", file=sys.stderr, flush=True)
        with (OUT / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    worst = sorted(rows, key=lambda row: row["ours"] - row["BM3D"])[:5]
    summary = {f"{row['picture']}, {row['noise']}": row["ours"] - row["BM3D"] for row in worst}
    write(name, write_table(rows), {"of": len(pairs), **summary})


if __name__ == "__main__":
    main()
