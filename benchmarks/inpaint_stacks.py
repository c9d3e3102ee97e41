"""Inpainting of frames, slices and lines of stacks: PSNR, against linear interpolation.

Usage: python benchmarks/inpaint_stacks.py [--preset balanced] [--side 64]
Crops of the shared movies and stacks. Frames and slices: every fifth or fourth one left out, and
the figures are over those alone. Lines: a tenth of the lines of each frame at random, and four
neighbouring ones, default_rng(0). PSNR at the 99.9th percentile of the crop. The last column says
on which crops the settings were chosen. Images under benchmarks/out/filling. Rows that exist are
kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tifffile
from skimage.io import imsave

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Stack = npt.NDArray[np.float32]


class Case(NamedTuple):
    """A crop, and what of it is missing: each so-many-th plane, or lines (0)."""

    name: str
    file: str
    axes: str
    first: int
    count: int
    corner: tuple[int, int]
    each: int
    tuned: bool


CASES = (
    Case("movie, tuned", "timelapse/cancer_cell_migration", "TYX", 0, 15, (0, 0), 5, tuned=True),
    Case("movie", "timelapse/cancer_cell_migration", "TYX", 20, 15, (66, 66), 5, tuned=False),
    Case("movie, late", "timelapse/cancer_cell_migration", "TYX", 33, 15, (0, 66), 5, tuned=False),
    Case("embryo, tuned", "stacks3d/arabidopsis_embryo", "ZYX", 20, 16, (10, 10), 4, tuned=True),
    Case("embryo", "stacks3d/arabidopsis_embryo", "ZYX", 60, 16, (40, 40), 4, tuned=False),
    Case("pollen", "stacks3d/pollen", "ZYX", 8, 16, (96, 96), 4, tuned=False),
    Case(
        "movie, lines, tuned", "timelapse/cancer_cell_migration", "TYX", 0, 8, (0, 0), 0, tuned=True
    ),
    Case("movie, lines", "timelapse/cancer_cell_migration", "TYX", 20, 8, (66, 66), 0, tuned=False),
    Case("membrane, lines", "timelapse/membrane2d", "TYX", 0, 5, (96, 96), 0, tuned=False),
)


def crop_case(case: Case, side: int) -> Stack:
    """Read the crop."""
    whole = tifffile.imread(data_folder() / f"{case.file}.tif").astype(np.float32)
    row, column = case.corner
    planes = slice(case.first, case.first + case.count)
    return np.ascontiguousarray(whole[planes, row : row + side, column : column + side])


def make_mask(case: Case, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Mark what is left out."""
    gone = np.zeros(shape, bool)
    if case.each:
        gone[2 :: case.each] = True
        return gone
    rng = np.random.default_rng(0)
    for plane in gone:
        plane[rng.random(shape[1]) < 0.1] = True
        start = int(rng.integers(1, shape[1] - 5))
        plane[start : start + 4] = True
    return gone


def interpolate_linearly(image: Stack, gone: npt.NDArray[np.bool_], axis: int) -> Stack:
    """Fill along one axis with the line between the nearest known pixels."""
    lines = np.moveaxis(image.copy(), axis, -1)
    holes = np.moveaxis(gone, axis, -1)
    place = np.arange(lines.shape[-1])
    for index in np.ndindex(lines.shape[:-1]):
        here = holes[index]
        if here.any() and not here.all():
            lines[index][here] = np.interp(place[here], place[~here], lines[index][~here])
    return np.moveaxis(lines, -1, axis)


def copy_previous(image: Stack, gone: npt.NDArray[np.bool_]) -> Stack:
    """Fill with the plane before."""
    filled = image.copy()
    for plane in range(1, len(filled)):
        filled[plane][gone[plane]] = filled[plane - 1][gone[plane]]
    return filled


def compare(case: Case, preset: str, side: int) -> dict[str, Any]:
    """Fill one crop in all ways."""
    truth = crop_case(case, side)
    gone = make_mask(case, truth.shape)
    spoilt = np.where(gone, np.float32(np.nan), truth)
    peak = float(np.percentile(truth, 99.9) - truth.min())

    def compute_psnr(image: Stack) -> float:
        return float(10 * np.log10(peak**2 / np.mean((image[gone] - truth[gone]) ** 2)))

    filled = {"straight": interpolate_linearly(spoilt, gone, 0)}
    if case.each:
        filled = {"plane before": copy_previous(spoilt, gone), **filled}
    else:
        filled["straight along Y"] = interpolate_linearly(spoilt, gone, 1)
        alone = dip.inpaint(spoilt, preset=preset, axes=case.axes, stacks="planes", device="cpu")
        filled["plane by plane"] = alone.image
    began = time.monotonic()
    result = dip.inpaint(spoilt, preset=preset, axes=case.axes, device="cpu")
    seconds = time.monotonic() - began
    filled["together"] = result.image
    save_image(case, truth, gone, filled)
    names = ("plane before", "straight", "straight along Y", "plane by plane", "together")
    figures = {f"{name} dB": compute_psnr(filled[name]) if name in filled else "" for name in names}
    noise = result.report["noise"]  # the truth has it, too
    variance = np.maximum(noise["gain"][0] * result.image + noise["intercept"][0], 0)
    said = np.sqrt(result.uncertainty**2 + variance)
    within = np.abs(result.image - truth)[gone] < 2 * said[gone]
    return {
        "crop": case.name,
        "size": " × ".join(map(str, truth.shape)),
        "left out": f"each {case.each}th" if case.each else f"lines, {gone.mean():.0%}",
        **figures,
        "more dB": figures["together dB"] - figures["straight dB"],
        "within 2 SD": f"{within.mean():.0%}",
        "s": seconds,
        "chosen on": "yes" if case.tuned else "no",
    }


def save_image(
    case: Case, truth: Stack, gone: npt.NDArray[np.bool_], filled: dict[str, Stack]
) -> None:
    """Leave an image of a plane with holes: truth, then each filling over its error."""
    plane = int(np.argmax(gone.reshape(len(gone), -1).mean(1)))
    low, high = np.percentile(truth, (0.5, 99.8))
    spoilt = np.where(gone, low, truth)[plane]
    columns = [np.vstack([truth[plane], spoilt])]
    for image in filled.values():
        error = low + np.abs(image[plane] - truth[plane])
        columns.append(np.vstack([image[plane], error]))
    sheet = np.clip((np.hstack(columns) - low) / (high - low), 0, 1)
    sheet = np.kron(sheet, np.ones((4, 4)))
    folder = OUT / "filling"
    folder.mkdir(parents=True, exist_ok=True)
    imsave(folder / f"{case.name}.png", (255 * sheet).astype(np.uint8), check_contrast=False)


def main() -> None:
    """Fill all crops and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--side", type=int, default=64)
    options = parser.parse_args()
    title = f"filling_stacks_{options.preset}_{options.side}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["crop"] for row in rows}
    for case in CASES:
        if case.name in done:
            continue
        rows.append(compare(case, options.preset, options.side))
        print(rows[-1], file=sys.stderr, flush=True)
        write(title, rows, {"preset": options.preset})


if __name__ == "__main__":
    main()
