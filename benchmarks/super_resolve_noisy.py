"""PSNR of super-resolved noisy crops, against cubic interpolation with and without smoothing.

Usage: python benchmarks/super_resolve_noisy.py [--preset instant] [--edits none "JPEG 90" ...]
Eight crops of 192 x 192 pixels of single shots (FMD, W2S, Hagen et al.) are binned by two and
super-resolved by two. Edits of `edited_images` come before the binning where they hold for the
truth as well, else after it. *Gaussian*: the best of seven widths by the truth, then cubic
interpolation. A gain and an offset are fitted to each result.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

import napari_dip as dip
from edited_images import (
    EDITS,
    SCALED_EDITS,
    WIDTHS,
    compute_psnr,
    list_crops,
    list_other_crops,
)
from shared_data import write

if TYPE_CHECKING:
    from edited_images import Picture

#: Indices of the crops of `edited_images`: first the other ones, then those of its table.
SHOTS = (0, 2, 7, 8, 11, 12, 4, 17)
ALL_WIDTHS = (0, 0.3, *WIDTHS)


def bin_pixels(image: Picture) -> Picture:
    """Average squares of two by two pixels."""
    height, width = image.shape
    return image.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def interpolate(image: Picture) -> Picture:
    """Enlarge by two with cubic splines."""
    return np.asarray(zoom(image, 2, order=3, mode="nearest", grid_mode=True))


def make_case(edit: str, noisy: Picture, truth: Picture) -> tuple[Picture, Picture]:
    """Return the coarse image and the fine truth."""
    if edit == "smoothed":
        return gaussian_filter(bin_pixels(noisy), 0.7), gaussian_filter(truth, 1.4)
    if edit in EDITS:
        return bin_pixels(EDITS[edit](noisy)), EDITS[edit](truth)
    coarse = bin_pixels(noisy)
    change, change_truth = SCALED_EDITS[edit]
    return change(coarse, coarse.max()), change_truth(truth, coarse.max())


def main() -> None:
    """Restore all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="instant")
    parser.add_argument("--edits", nargs="+", default=["none", "smoothed"])
    options = parser.parse_args()
    crops, rows = [*list_other_crops(), *list_crops()], []
    for edit in options.edits:
        for index in SHOTS:
            name, noisy, truth = crops[index]
            image, target = make_case(edit, noisy, truth)
            result = dip.super_resolve(
                image.astype(np.float32), downsampling="binning", preset=options.preset
            )
            candidates = {
                "cubic": [interpolate(image)],
                "Gaussian": [interpolate(gaussian_filter(image, w)) for w in ALL_WIDTHS],
                "output": [np.asarray(result.image)],
            }
            row: dict[str, Any] = {"edit": edit, "crop": name}
            for title, images in candidates.items():
                row[title] = max(compute_psnr(p, target, is_fitted=True) for p in images)
            row["verdict"] = str(result.report["verdict"]["kind"])
            rows.append(row)
    figures = ("cubic", "Gaussian", "output")
    summary = {f"mean {key}": float(np.mean([row[key] for row in rows])) for key in figures}
    write(f"super_resolve_noisy_{options.preset}", rows, summary)


if __name__ == "__main__":
    main()
