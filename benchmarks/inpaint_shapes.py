"""PSNR of filled lines, blocks and rows in crops of real images, against biharmonic filling.

Usage: python benchmarks/inpaint_shapes.py [--preset fast] [--only cell moon]
The middle 128 x 128 pixels of 16 images: four fields of FMD (the mean of 50 captures, and a single
shot), four of Set12, four of scikit-image. Holes: *lines*, six columns and six rows of one pixel at
random places; *blocks*, squares of 20, 20 (10 rows) and 8 pixels; *rows*, twice four rows. PSNR is
over the filled pixels, its peak the range of the truth; that of a single shot is the mean of 50.
Also printed is the mean of both fillings.
"""

from __future__ import annotations

import argparse
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage import data
from skimage.io import imread
from skimage.restoration import inpaint_biharmonic

import napari_dip as dip
from shared_data import data_folder, fmd, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

SIDE = 128
FIELDS = ("Confocal_BPAE_B", "TwoPhoton_BPAE_R", "WideField_BPAE_R", "Confocal_BPAE_G")
SAMPLES = ("cell", "brick", "moon", "coins")


def list_images() -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield names, images and truths."""
    for field in FIELDS:
        shot, truth = fmd(field, 1)
        yield f"{field}, mean", truth, truth
        yield f"{field}, shot", shot, truth
    for path in sorted((data_folder() / "set12").glob("*.png"))[::2]:
        yield path.stem, imread(path), imread(path)
    for name in SAMPLES:
        yield name, getattr(data, name)(), getattr(data, name)()


def draw_holes(rng: np.random.Generator) -> dict[str, npt.NDArray[np.bool_]]:
    """Return masks of the three kinds of holes."""
    lines, blocks, rows = (np.zeros((SIDE, SIDE), bool) for _ in range(3))
    for _ in range(6):
        lines[:, rng.integers(SIDE)] = True
        lines[rng.integers(SIDE), :] = True
    blocks[50:70, 40:60] = blocks[90:100, 80:100] = blocks[20:28, 20:28] = True
    rows[30:34] = rows[80:84] = True
    return {"lines": lines, "blocks": blocks, "rows": rows}


def main() -> None:
    """Fill all holes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--only", nargs="+", help="names of images")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, (name, image, truth) in enumerate(list_images()):
        if options.only and name not in options.only:
            continue
        y, x = (size // 2 - SIDE // 2 for size in image.shape)
        crop, true = (whole[y : y + SIDE, x : x + SIDE].astype(float) for whole in (image, truth))
        for kind, holes in draw_holes(np.random.default_rng(number)).items():
            holed = np.where(holes, 0, crop).astype(np.float32)
            ours = dip.inpaint(holed, mask=holes, preset=options.preset).image
            smooth = inpaint_biharmonic(holed.astype(float), holes)
            fillings = {"ours": ours, "biharmonic": smooth, "mean of both": (ours + smooth) / 2}
            row: dict[str, Any] = {"image": name, "holes": kind}
            for title, filling in fillings.items():
                error = np.mean((filling[holes] - true[holes]) ** 2)
                row[title] = float(10 * np.log10(np.ptp(true) ** 2 / error))
            rows.append(row)
    more = [row["ours"] - row["biharmonic"] for row in rows]
    summary = {"mean difference": mean(more), "least": min(more), "worse": sum(m < 0 for m in more)}
    write(f"inpaint_shapes_{options.preset}", rows, summary)


if __name__ == "__main__":
    main()
