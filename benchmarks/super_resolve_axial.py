"""Axial super-resolution of binned stacks: PSNR, against interpolation along Z.

Usage: python benchmarks/super_resolve_axial.py [--factor 2] [--preset balanced] [--only pollen]
Crops of the shared stacks; planes are the means of `factor` neighbouring ones, as a camera with
thicker sections would record them, and nothing is added but what noise the stacks have. PSNR at
the peak of the crop. Resumable: rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from scipy.ndimage import zoom
from skimage.io import imsave

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

#: Name, and first plane, row and column of the crop.
CROPS = {
    "arabidopsis_embryo": (37, 32, 30),
    "pollen": (0, 104, 104),
}
#: Size of the crops; a multiple of all factors.
FRAME = (32, 48, 48)


def compute_psnr(image: npt.NDArray[Any], truth: npt.NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio at the crop's own range."""
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean((image - truth) ** 2)))


def measure(name: str, factor: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Bin one crop and make its planes finer again."""
    whole = tifffile.imread(data_folder() / "stacks3d" / f"{name}.tif").astype(np.float32)
    cut = tuple(slice(first, first + n) for first, n in zip(CROPS[name], FRAME, strict=True))
    truth = whole[cut]
    coarse = truth.reshape(FRAME[0] // factor, factor, *FRAME[1:]).mean(1)
    row: dict[str, Any] = {"stack": f"{name} {' × '.join(map(str, FRAME))}"}
    finer = {}
    for order, method in ((0, "repeated"), (1, "linear"), (3, "cubic")):
        finer[method] = zoom(coarse, (factor, 1, 1), order=order, mode="nearest", grid_mode=True)
        row[f"{method} dB"] = compute_psnr(finer[method], truth)
    start, began = time.perf_counter(), time.process_time()
    result = dip.super_resolve(coarse, factor=(factor, 1, 1), downsampling="binning", **settings)
    row["ours dB"] = compute_psnr(result.image, truth)
    row["iterations"], row["best"] = result.report["iterations"], result.best_iteration
    row["seconds"] = time.perf_counter() - start
    row["CPU seconds"] = time.process_time() - began
    low, high = np.percentile(truth, (0.2, 99.8))
    middle = FRAME[1] // 2
    sections = [stack[:, middle] for stack in (*finer.values(), result.image, truth)]
    panel = np.concatenate(
        [np.clip((section - low) / (high - low), 0, 1) for section in sections], 1
    )
    OUT.mkdir(parents=True, exist_ok=True)
    image = np.rint(255 * panel).astype(np.uint8).repeat(3, 0).repeat(3, 1)
    path = OUT / f"super_resolve_axial_x{factor}_{name}.png"
    imsave(path, image, check_contrast=False)
    return row


def main() -> None:
    """Run all crops that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--max-iterations", type=int)
    options = parser.parse_args()
    settings = {"preset": options.preset, "noise": "gaussian"}  # there is none that we added
    if options.max_iterations:
        settings["max_iterations"] = options.max_iterations
    title = f"super_resolve_axial_x{options.factor}_" + "_".join(map(str, settings.values()))
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for name in CROPS:
        is_done = any(row["stack"].split()[0] == name for row in rows)
        if is_done or (options.only and name not in options.only):
            continue
        rows.append(measure(name, options.factor, settings))
        print(rows[-1], file=sys.stderr, flush=True)
        write(title, rows, settings)


if __name__ == "__main__":
    main()
