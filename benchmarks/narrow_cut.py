"""Inpainting of a narrow straight gap: PSNR, against interpolation.

Usage: python benchmarks/narrow_cut.py [--width 8] [--presets fast balanced]
Crops of scikit-image, 128 x 128 pixels, without further noise; error: root mean square in the cut.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.interpolate import griddata
from skimage import data
from skimage.restoration import inpaint_biharmonic

import napari_dip as dip
from shared_data import write

#: Crops: smooth cells, and coins with edges and relief.
CROPS = {"cell": (data.cell, 200, 200), "coins": (data.coins, 60, 100)}
SIDE = 128


def main() -> None:
    """Fill the same cut in each way and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--presets", nargs="*", default=["fast", "balanced"])
    options = parser.parse_args()
    rows = []
    for name, (image, row, column) in CROPS.items():
        truth = image()[row : row + SIDE, column : column + SIDE].astype(np.float32)
        cut = np.zeros(truth.shape, bool)
        cut[:, SIDE // 2 : SIDE // 2 + options.width] = True
        spoilt = np.where(cut, np.float32(0), truth)
        filled = {
            "linear": griddata(np.argwhere(~cut), truth[~cut], np.argwhere(cut), "linear"),
            "biharmonic": inpaint_biharmonic(spoilt, cut)[cut],
        }
        for preset in options.presets:
            filled[preset] = dip.inpaint(spoilt, cut, preset=preset).image[cut]
            print(name, preset, flush=True)
        errors = {
            key: float(np.sqrt(((image - truth[cut]) ** 2).mean())) for key, image in filled.items()
        }
        rows.append({"image": name, "width": options.width, **errors})
        print(rows[-1], flush=True)
    write(f"narrow_cut_{options.width}", rows, {})


if __name__ == "__main__":
    main()
