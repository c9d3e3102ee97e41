"""Camera noise in crops of colour pictures, with noise and without.

Usage: python benchmarks/colour_crops.py [--sides 256 192 128]
Each picture of cc15 and PolyU is cut at one place per side, as recorded and without noise (mean of
many exposures). So are kodak20, kodak256, McMaster and the page of CBM3D, which have little noise.
Where camera noise is detected, its filter is run without a network. camera: crops in which it is
detected. gain: against the truth, 0 where nothing is detected. harmed: more than 0.05 dB below the
input. altered: crops without noise that come back below 45 dB against themselves.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import skimage.io
import torch

from napari_dip.engine.refinement import filter_camera_noise
from napari_dip.pipeline.calibrate.channel_noise import (
    detect_camera_noise,
    measure_single_exposure,
)
from napari_dip.tasks.base import NoiseSettings
from quality_sets import SETS
from shared_data import data_folder, psnr, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quality_sets import Picture

#: Least PSNR of a picture without noise against itself, and least loss that counts, in dB.
SAME, LOSS = 45.0, 0.05


class Colours(NamedTuple):
    """A colour picture and its truth; None if the picture itself has no noise."""

    group: str
    name: str
    image: Picture
    truth: Picture | None


def list_pictures() -> Iterator[Colours]:
    """Pictures with camera noise, the same without, and photographs without noise."""
    for group in ("cc15", "polyu"):
        for case in SETS[group]():
            image, truth = case.load()
            yield Colours(f"{group}, noisy", case.name, image, truth)
            yield Colours(f"{group}, mean of many", case.name, truth, None)
    patterns = {
        "kodak20": "*.png",
        "kodak256": "*.png",
        "mcmaster18": "*.png",
        "color9": "*_gt.png",
    }
    for group, pattern in patterns.items():
        for path in sorted((data_folder() / group).glob(pattern)):
            image = skimage.io.imread(path).astype(np.float64)
            if image.ndim == 3:
                yield Colours(group, path.stem, image, None)


def cut(picture: Colours, side: int) -> Colours:
    """Cut a square at a place that depends on the side and the name."""
    key = zlib.crc32(f"{picture.group.partition(',')[0]}/{picture.name}".encode())
    rng = np.random.default_rng([9, side, key])
    rows, columns = (
        slice(start, start + side)
        for start in (int(rng.integers(0, n - side + 1)) for n in picture.image.shape[:2])
    )
    truth = None if picture.truth is None else picture.truth[rows, columns]
    return picture._replace(image=picture.image[rows, columns], truth=truth)


def examine(crop: Colours) -> dict[str, Any]:
    """Filter the camera noise of a crop, and compare it with the truth."""
    stack = np.moveaxis(crop.image, -1, 0)[None].astype(np.float32)
    noise = [measure_single_exposure(stack[:, c], None, 1.0, NoiseSettings()) for c in range(3)]
    camera = detect_camera_noise(stack, noise, 1.0)
    row = {
        "group": crop.group,
        "name": crop.name,
        "side": stack.shape[-1],
        "is camera": camera is not None,
    }
    result = crop.image
    if camera is not None:
        filtered = filter_camera_noise(torch.from_numpy(stack), camera)
        result = filtered.mean[0].permute(1, 2, 0).numpy()
    if crop.truth is None:
        alike = None if camera is None else psnr(result, crop.image)
        return {**row, "gain": None, "alike": alike}
    return {**row, "gain": psnr(result, crop.truth) - psnr(crop.image, crop.truth), "alike": None}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one line of the table."""
    gains = [row["gain"] for row in rows if row["gain"] is not None]
    alike = [row["alike"] for row in rows if row["alike"] is not None]
    return {
        "set": rows[0]["group"],
        "side": rows[0]["side"],
        "crops": len(rows),
        "camera": sum(row["is camera"] for row in rows),
        "mean gain dB": float(np.mean(gains)) if gains else None,
        "least gain dB": min(gains, default=None),
        "harmed": sum(gain < -LOSS for gain in gains),
        "altered": sum(value < SAME for value in alike),
        "least alike dB": min(alike, default=None),
    }


def main() -> None:
    """Examine all crops and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="*", type=int, default=[256, 192, 128])
    sides = parser.parse_args().sides
    torch.set_num_threads(1)
    rows = []
    for picture in list_pictures():
        fitting = [side for side in sides if side <= min(picture.image.shape[:2])]
        rows += [examine(cut(picture, side)) for side in fitting]
        print(picture.group, picture.name, file=sys.stderr, flush=True)
    groups = dict.fromkeys((row["group"], row["side"]) for row in rows)
    table = [
        summarise([row for row in rows if (row["group"], row["side"]) == group]) for group in groups
    ]
    notable = [
        f"{row['group']}/{row['name']} {row['side']}"
        for row in rows
        if (row["gain"] or 0) < -LOSS or (row["alike"] or SAME) < SAME
    ]
    write("colour_crops", table, {"harmed or altered": notable})


if __name__ == "__main__":
    main()
