"""Count results below their input or BM3D, on every shared picture with a truth under six noises.

Usage: python benchmarks/every_noise.py [--every 8] [--first 0]
The middle 160 x 160 pixels of each true picture, with normal noise of 15, 25 and 50 and with photon
noise of 2, 10 and 50 photons at white, `fast`, blind, seed 0 and the picture's name. BM3D is told
its own blind estimate; with photon noise it works between a variance-stabilising transform and its
inverse, each channel by itself. Resumable: one line for each result in
benchmarks/out/every_noise.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.io import imread

import napari_dip as dip
from blind_noise import channels
from bm3d_forms import bm3d_whole, stabilised_bm3d
from shared_data import OUT, data_folder, psnr, write
from variance_stabilising import variance_line, white_sigma

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    Picture = npt.NDArray[np.float64]

SIDE = 160
#: Standard deviations of 255, and photons at 255.
NORMAL, PHOTONS = (15, 25, 50), (2, 10, 50)
#: Where true pictures lie.
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


def truths() -> list[Path]:
    """Find all true pictures."""
    return [path for pattern in TRUTHS for path in sorted(data_folder().glob(pattern))]


def middle(path: Path) -> Picture:
    """Cut the middle out of a picture, (Y, X) or (Y, X, 3)."""
    picture = np.asarray(imread(path), np.float64)
    picture = picture[..., :3] if picture.ndim == 3 else picture
    row, column = (max(0, (side - SIDE) // 2) for side in picture.shape[:2])
    return picture[row : row + SIDE, column : column + SIDE]


def noised(truth: Picture, kind: str, strength: int, seed: int) -> Picture:
    """Add noise, neither cut off nor rounded."""
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return truth + rng.normal(0, strength, truth.shape)
    return rng.poisson(truth / 255 * strength) * 255.0 / strength


def bm3d(noisy: Picture, kind: str) -> Picture:
    """Denoise by BM3D, blind."""
    planes = channels(noisy)
    if kind == "normal":
        return bm3d_whole(noisy, [max(white_sigma(plane), 0.1) for plane in planes])
    clean = [stabilised_bm3d(plane, variance_line(plane)) for plane in planes]
    return clean[0] if noisy.ndim == 2 else np.stack(clean, -1)


def examine(path: Path, kind: str, strength: int) -> dict[str, Any]:
    """Restore one picture both ways."""
    truth = middle(path)
    name = f"{path.parent.name}/{path.stem}"
    noisy = noised(truth, kind, strength, zlib.crc32(f"{name} {kind} {strength}".encode()))
    axes = "YX" if truth.ndim == 2 else "YXS"
    result = dip.denoise(noisy.astype(np.float32), axes=axes, preset="fast", device="cpu")
    noise_record = result.report["noise"]
    figures = [psnr(image, truth) for image in (noisy, np.asarray(result.image), bm3d(noisy, kind))]
    return {
        "picture": name,
        "noise": f"{kind} {strength}",
        **dict(zip(("input", "ours", "BM3D"), figures, strict=True)),
        "told": [
            doubt or caution
            for doubt, caution in zip(
                noise_record["cannot_tell"], noise_record["caution"], strict=True
            )
        ],
    }


def kept() -> Iterator[dict[str, Any]]:
    """Read the results that are there."""
    path = OUT / "every_noise.jsonl"
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
    """Examine the pictures and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    noises = [("normal", strength) for strength in NORMAL] + [
        ("photons", strength) for strength in PHOTONS
    ]
    pairs = [(path, *noise) for path in truths() for noise in noises]
    order = np.random.default_rng(0).permutation(len(pairs))  # each Nth stands for all
    rows = list(kept())
    done = {(row["picture"], row["noise"]) for row in rows}
    OUT.mkdir(parents=True, exist_ok=True)
    for path, kind, strength in [pairs[place] for place in order[options.first :: options.every]]:
        if (f"{path.parent.name}/{path.stem}", f"{kind} {strength}") in done:
            continue
        rows.append(examine(path, kind, strength))
        print(*rows[-1].values(), sep=" | ", file=sys.stderr, flush=True)
        with (OUT / "every_noise.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    worst = sorted(rows, key=lambda row: row["ours"] - row["BM3D"])[:5]
    summary = {f"{row['picture']}, {row['noise']}": row["ours"] - row["BM3D"] for row in worst}
    write("every_noise", table(rows), {"of": len(pairs), **summary})


if __name__ == "__main__":
    main()
