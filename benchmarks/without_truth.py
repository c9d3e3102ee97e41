"""Denoise 30 crops of real images that have no ground truth, for looking at; resumable.

Usage: python benchmarks/without_truth.py [--sheets]
The crops are fixed: at most 192 x 192 pixels, at fixed places of the shared images, `fast`, blind,
seed 0. For each crop: the noise that the run claims, the noise by the median of second differences
(`variance_stabilising.estimate_white_sigma`, which uses nothing of the program), the standard
deviation of what was removed and its correlation with horizontal neighbours, and the codes of the
notes.
Contact sheets show input, result and difference side by side. Everything lies in
benchmarks/out/without_truth; some of the sets may be shown in benchmarks only.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from matplotlib.figure import Figure
from skimage.io import imread

import napari_dip as dip
from shared_data import OUT, data_folder, write
from variance_stabilising import estimate_white_sigma

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture = npt.NDArray[Any]

FOLDER = OUT / "without_truth"
#: Side of a crop in pixels; crops on one contact sheet.
SIDE, PER_SHEET = 192, 6
#: Shared file -> (frame, top, left) of each crop.
PLACES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "rni15/Flowers.png": ((0, 0, 0), (0, 180, 300)),
    "rni15/Frog.png": ((0, 60, 60), (0, 180, 300)),
    "rni15/Pattern3.png": ((0, 0, 0), (0, 300, 300)),
    "rni15/Singer.png": ((0, 0, 100), (0, 280, 50)),
    "rni15/Window.png": ((0, 0, 0), (0, 200, 200)),
    "n2v_samples/fa_0488_evolve.tif": ((0, 0, 0), (0, 0, 320), (0, 320, 0), (0, 160, 160)),
    "pn2v_convallaria/frame0_left.tif": ((0, 0, 0), (0, 448, 0), (0, 220, 320), (0, 220, 100)),
    "em/sem_al2o3.png": ((0, 0, 0), (0, 150, 150), (0, 300, 300)),
    "realblur/flower.jpg": ((0, 150, 250),),
    "realblur/house.jpg": ((0, 500, 250),),
    "timelapse/cancer_cell_migration.tif": ((0, 0, 0), (40, 0, 0)),
    "timelapse/membrane2d.tif": ((0, 0, 0), (4, 64, 64)),
    "timelapse/udvd_fluoro_jpg/00000.jpg": ((0, 0, 0),),
    "timelapse/udvd_fluoro_jpg/00008.jpg": ((0, 8, 200),),
    "acsn_microtubules/noisy.png": ((0, 32, 32),),
}


@dataclass(frozen=True)
class Crop:
    """A part of a shared image."""

    name: str
    pixels: Picture


def all_crops() -> list[Crop]:
    """Cut all crops out."""
    crops = []
    for file, places in PLACES.items():
        path = data_folder() / file
        image = tifffile.imread(path) if path.suffix == ".tif" else imread(path)
        for number, (frame, top, left_edge) in enumerate(places):
            plane = (
                image[frame] if file.startswith("timelapse") and path.suffix == ".tif" else image
            )
            pixels = plane[top : top + SIDE, left_edge : left_edge + SIDE]
            crops.append(Crop(f"{file.replace('/', '_').rsplit('.', 1)[0]}_{number}", pixels))
    return crops


def measure(crop: Crop) -> dict[str, Any]:
    """Denoise a crop, or read what an earlier run wrote."""
    record_path = FOLDER / f"{crop.name}.json"
    if record_path.is_file():
        record: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
        return record
    axes = "YXS" if crop.pixels.ndim == 3 else "YX"
    result = dip.denoise(crop.pixels, axes=axes, preset="fast", seed=0)
    removed = crop.pixels.astype(np.float64) - result.image
    planes = np.moveaxis(removed, -1, 0) if removed.ndim == 3 else removed[None]
    inputs = np.moveaxis(crop.pixels, -1, 0) if removed.ndim == 3 else crop.pixels[None]
    record = {
        "crop": crop.name,
        "claimed noise": _claimed(result),
        "noise by differences": max(
            estimate_white_sigma(plane.astype(np.float64)) for plane in inputs
        ),
        "removed": float(max(plane.std() for plane in planes)),
        "lag 1 of removed": float(np.mean([_lag_1(plane) for plane in planes])),
        "notes": " ".join(note["code"] for note in result.report["note_codes"]),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(FOLDER / f"{crop.name}.tif", np.asarray(result.image, np.float32))
    record_path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


def _claimed(result: Any) -> float:
    """Compute the standard deviation that a run claims at mean brightness, in the worst channel."""
    noise = result.report["noise"]
    means = np.ravel(np.mean(result.image, axis=(0, 1)))
    gains, intercepts = np.ravel(noise["gain"]), np.ravel(noise["intercept"])
    variances = gains * means[: len(gains)] + intercepts
    return float(np.sqrt(max(variances.max(), 0)))


def _lag_1(plane: npt.NDArray[np.float64]) -> float:
    centred = plane - plane.mean()
    return float((centred[:, 1:] * centred[:, :-1]).mean() / max(float((centred**2).mean()), 1e-12))


def draw_sheets(crops: list[Crop]) -> None:
    """Draw contact sheets: input, result, and the difference at three times its contrast."""
    for start in range(0, len(crops), PER_SHEET):
        part = crops[start : start + PER_SHEET]
        figure = Figure(figsize=(9, 3 * len(part)), layout="constrained")
        axes = figure.subplots(len(part), 3, squeeze=False)
        for row, crop in zip(axes, part, strict=True):
            restored = tifffile.imread(FOLDER / f"{crop.name}.tif")
            low, high = np.percentile(crop.pixels, (0.5, 99.5))
            removed = (crop.pixels - restored) * 3 + (low + high) / 2
            panels = {"input": crop.pixels, "result": restored, "difference × 3": removed}
            for place, (title, pixels) in zip(row, panels.items(), strict=True):
                place.imshow(np.clip((pixels - low) / max(high - low, 1e-9), 0, 1), cmap="gray")
                place.set_title(f"{crop.name}: {title}" if title == "input" else title, fontsize=8)
                place.set_axis_off()
        figure.savefig(FOLDER / f"sheet_{start // PER_SHEET}.png", dpi=75)


def main() -> None:
    """Run all crops, and draw the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheets", action="store_true", help="draw what is there")
    options = parser.parse_args()
    crops = all_crops()
    if not options.sheets:
        rows = []
        for crop in crops:
            rows.append(measure(crop))
            print(json.dumps(rows[-1]), flush=True)
        write("without_truth", rows, {"crops": len(rows)})
    draw_sheets(crops)


if __name__ == "__main__":
    main()
