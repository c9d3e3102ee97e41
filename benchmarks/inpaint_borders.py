"""PSNR and uncertainty of filled holes that touch the border, against three simple fillings.

Usage: python benchmarks/inpaint_borders.py [--presets instant] [--only coins moon]
The middle 128 x 128 pixels of 14 images of FMD (the mean of 50 captures, or a single shot), Set12
and scikit-image. Constants were chosen on those marked *chosen*. Three fits an image: *together*,
squares of 30, 16 and 8 pixels in corners, and strips 30, 16 and 8 pixels deep along parts of three
borders; *side*, the last 20 columns; *narrow*, a square and a strip of 8. Fillings: biharmonic
(scikit-image), the nearest measured pixel, the mean of the measured pixels up to 8 from the hole.
PSNR is over the filled pixels, its peak the range of the truth; that of a shot is the mean of 50.
*error* is the root mean square error in units of that range, *error / SD* the same over the stated
uncertainty.
"""

from __future__ import annotations

import argparse
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage import data
from skimage.io import imread
from skimage.restoration import inpaint_biharmonic

import napari_dip as dip
from shared_data import data_folder, fmd, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    BoolArray = npt.NDArray[np.bool_]

SIDE = 128
#: Distance from a hole, in pixels, of the surroundings whose mean fills it.
SURROUNDINGS = 8
CHOSEN = (
    "Confocal_BPAE_G mean",
    "Confocal_BPAE_R shot",
    "TwoPhoton_BPAE_B mean",
    "03_peppers",
    "06_f16",
    "coins",
)
UNCHOSEN = (
    "Confocal_BPAE_B shot",
    "TwoPhoton_BPAE_R mean",
    "WideField_BPAE_B mean",
    "01_cameraman",
    "08_lena",
    "09_barbara",
    "moon",
    "brick",
)
SIMPLE = ("biharmonic", "nearest", "mean")
#: Rows and columns of the holes of each fit.
HOLES = {
    "together": {
        "corner 30": np.s_[:30, :30],
        "corner 16": np.s_[-16:, :16],
        "corner 8": np.s_[:8, -8:],
        "border 30": np.s_[-30:, 40:100],
        "border 16": np.s_[40:90, -16:],
        "border 8": np.s_[:8, 50:100],
    },
    "side": {"side 20": np.s_[:, -20:]},
    "narrow": {"corner 8": np.s_[-8:, -8:], "border 8": np.s_[40:90, :8]},
}


def load(name: str) -> tuple[FloatArray, FloatArray]:
    """Return the middle of an image and of its truth."""
    if "BPAE" in name:
        field, kind = name.split()
        shot, truth = fmd(field, 1)
        image = truth if kind == "mean" else shot
    else:
        path = data_folder() / "set12" / f"{name}.png"
        image = truth = imread(path) if path.exists() else getattr(data, name)()
    y, x = (size // 2 - SIDE // 2 for size in image.shape)
    pixels, true = (whole[y : y + SIDE, x : x + SIDE].astype(float) for whole in (image, truth))
    return pixels, true


def fill_simply(image: FloatArray, holes: BoolArray) -> dict[str, FloatArray]:
    """Return three fillings of all holes."""
    nearest = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
    labels, count = ndimage.label(holes)
    means = image.copy()
    for label in range(1, count + 1):
        hole = labels == label
        around = ndimage.binary_dilation(hole, iterations=SURROUNDINGS) & ~holes
        means[hole] = image[around].mean()
    return {
        "biharmonic": inpaint_biharmonic(image, holes),
        "nearest": image[tuple(nearest)],
        "mean": means,
    }


def compare(name: str, preset: str) -> Iterator[dict[str, Any]]:
    """Fill the holes of an image, and yield a row for each."""
    image, truth = load(name)
    for fit, slices in HOLES.items():
        holes = np.zeros(image.shape, bool)
        for where in slices.values():
            holes[where] = True
        holed = np.where(holes, 0, image)
        result = dip.inpaint(holed.astype(np.float32), mask=holes, preset=preset)
        fillings = {"ours": result.image, **fill_simply(holed, holes)}
        for title, hole in slices.items():
            row = {"image": name, "set": "chosen" if name in CHOSEN else "unchosen"}
            row |= {"preset": preset, "fit": fit, "hole": title}
            for key, filling in fillings.items():
                row[key] = 10 * np.log10(np.ptp(truth) ** 2 / np.mean((filling - truth)[hole] ** 2))
            error = np.sqrt(np.mean((result.image - truth)[hole] ** 2))
            row["error / SD"] = float(error / np.sqrt(np.mean(result.uncertainty[hole] ** 2)))
            yield row


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over images, for each set of images and each kind of hole."""
    summary: dict[str, Any] = {}
    kinds = dict.fromkeys((row["set"], row["preset"], row["fit"], row["hole"]) for row in rows)
    sets = dict.fromkeys((*kind[:3], "all") for kind in kinds)
    for kind in (*kinds, *sets):
        names = ("set", "preset", "fit", "hole")
        alike = [
            row
            for row in rows
            if all(v in (row[n], "all") for n, v in zip(names, kind, strict=True))
        ]
        facts = []
        for key in ("ours", *SIMPLE):
            error = np.sqrt(mean(10 ** (-row[key] / 10) for row in alike))
            facts.append(f"{key} {mean(row[key] for row in alike):.2f} dB, error {error:.4f}")
        ratios = [row["error / SD"] for row in alike]
        facts.append(f"error / SD {median(ratios):.2f}, at most {max(ratios):.2f}")
        lost = sum(row["ours"] < max(row[key] for key in SIMPLE) for row in alike)
        facts.append(f"below the best simple filling {lost} of {len(alike)}")
        summary[" ".join(kind)] = "; ".join(facts)
    return summary


def main() -> None:
    """Fill all holes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["instant"])
    parser.add_argument("--only", nargs="+", help="names of images")
    options = parser.parse_args()
    names = options.only or (*CHOSEN, *UNCHOSEN)
    rows = [row for preset in options.presets for name in names for row in compare(name, preset)]
    write("inpaint_borders", rows, summarise(rows))


if __name__ == "__main__":
    main()
