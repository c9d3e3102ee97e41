"""Super-resolution on Set5 and Set14: PSNR, against the published outputs of Deep Image Prior.

Usage: python benchmarks/super_resolve.py [--factor 4] [--preset balanced] [--only bird comic]
Checked protocol (it gives the paper's means exactly): centre crop to a multiple of 32, Lanczos
down with Pillow, PSNR on Y in studio swing, a border as wide as the factor cut off. The published
outputs are measured with the same function. Rows that are in the JSON already are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage.io import imread, imsave

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

IMAGES = {
    "set5": ("baby", "bird", "woman"),
    "set14": ("baboon", "barbara", "comic", "flowers", "lenna", "pepper", "ppt3", "zebra"),
}
#: Whole image is cropped to a multiple of this, as in the paper's code.
MULTIPLE = 32
#: Weights of red, green and blue in Y, ITU-R BT.601, for values from 0 to 255: 16 to 235.
LUMA = np.array([65.481, 128.553, 24.966]) / 255


def crop_to_multiple(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Centre crop to a multiple of 32 along each axis."""
    height, width = (side // MULTIPLE * MULTIPLE for side in image.shape[:2])
    row, column = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[row : row + height, column : column + width]


def compute_luma_psnr(
    image: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], border: int
) -> float:
    """PSNR on Y, peak 255, without the border."""
    difference = (image.astype(np.float64) - truth.astype(np.float64)) @ LUMA
    inner = difference[border:-border, border:-border]
    return float(10 * np.log10(255**2 / np.mean(inner**2)))


def enlarge_bicubic(coarse: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Bicubic interpolation, the naive way."""
    size = (coarse.shape[1] * factor, coarse.shape[0] * factor)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def measure(kind: str, name: str, factor: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one image and compare."""
    folder = data_folder() / kind
    truth = crop_to_multiple(imread(folder / f"{name}_gt.png")[..., :3])
    coarser = (truth.shape[1] // factor, truth.shape[0] // factor)
    coarse = np.asarray(Image.fromarray(truth).resize(coarser, Image.Resampling.LANCZOS))
    published = folder / f"{name}_dip_x{factor}_published.png"
    size = f"{truth.shape[1]} x {truth.shape[0]}"
    row: dict[str, Any] = {"image": f"{kind}/{name}", "size": size}
    row["bicubic dB"] = compute_luma_psnr(enlarge_bicubic(coarse, factor), truth, factor)
    row["published DIP dB"] = float("nan")
    if published.exists():
        theirs = crop_to_multiple(imread(published)[..., :3])
        row["published DIP dB"] = compute_luma_psnr(theirs, truth, factor)
    if settings.pop("measure_only", False):
        return row
    start = time.perf_counter()
    result = dip.super_resolve(coarse, factor=factor, axes="YXS", **settings)
    pixels = np.clip(np.rint(result.image), 0, 255).astype(np.uint8)
    row["ours dB"] = compute_luma_psnr(pixels, truth, factor)
    row["iterations"] = result.report["iterations"]
    row["best"] = result.best_iteration
    row["seconds"] = time.perf_counter() - start
    OUT.mkdir(parents=True, exist_ok=True)
    shape = (truth.shape[1], truth.shape[0])
    blocks = np.asarray(Image.fromarray(coarse).resize(shape, Image.Resampling.NEAREST))
    panels = np.concatenate([blocks, pixels, truth], axis=1)
    imsave(OUT / f"super_resolve_x{factor}_{name}.png", panels, check_contrast=False)
    return row


def main() -> None:
    """Run all images that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--max-iterations", type=int)
    parser.add_argument("--measure-only", action="store_true", help="run nothing of ours")
    options = parser.parse_args()
    name = f"super_resolve_x{options.factor}_{options.preset}"
    done = OUT / f"{name}.json"
    rows = json.loads(done.read_text())["rows"] if done.exists() else []
    for kind, names in IMAGES.items():
        for image in names:
            is_done = any(row["image"] == f"{kind}/{image}" for row in rows)
            if (is_done and not options.measure_only) or (
                options.only and image not in options.only
            ):
                continue
            # there is no noise in these images: all residuals count alike
            settings = {"preset": options.preset, "noise": "gaussian"}
            if options.max_iterations:
                settings["max_iterations"] = options.max_iterations
            if options.measure_only:
                settings["measure_only"] = True
            row = measure(kind, image, options.factor, settings)
            print(row, file=sys.stderr, flush=True)
            if not options.measure_only:
                rows.append(row)
                write(name, rows, summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the rows that are there."""
    summary: dict[str, Any] = {"images": len(rows)}
    for key in ("bicubic dB", "published DIP dB", "ours dB"):
        summary[f"mean {key}"] = float(np.mean([row[key] for row in rows]))
    return summary


if __name__ == "__main__":
    main()
