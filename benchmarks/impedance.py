"""Impedance on twenty images: whether energies are ordered as in the paper.

    NAPARI_DIP_DATA=FOLDER python benchmarks/impedance.py --side 96 --iterations 120

Nine grey images of scikit-image and eleven tiles of different micrographs, the middle of each;
the free ones of the shared data alone. An image that is done is not computed again.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage import data
from skimage.io import imread
from tifffile import imread as imread_tiff

from napari_dip import explore
from shared_data import OUT, data_folder, write

GREY = ("camera", "coins", "moon", "page", "text", "brick", "grass", "gravel", "cell")
#: Name: file and, in a stack, the plane.
TILES: dict[str, tuple[str, int | None]] = {
    "actin 20x": ("hagen_cc0/actin-20x-noise1_highsnr.png", None),
    "mitochondria 60x, 1": ("hagen_cc0/mito-60x-noise1_highsnr.png", None),
    "mitochondria 60x, 2": ("hagen_cc0/mito-60x-noise2_highsnr.png", None),
    "mitochondria, confocal": ("hagen_cc0/mito-confocal_highsnr.png", None),
    "nucleus": ("hagen_cc0/nucleus_highsnr.png", None),
    "convallaria": ("pn2v_convallaria/frame0_left.tif", None),
    "C. elegans": ("deconv3d/celegans2d.tif", None),
    "pollen": ("stacks3d/pollen.tif", 16),
    "membrane": ("timelapse/membrane2d.tif", 0),
    "BPAE actin": ("multichannel/bpae_3ch_left.tif", 0),
    "HeLa": ("multichannel/hela_3ch.tif", 0),
}
LOOKED_AT = (50, 100)


def load_images() -> dict[str, npt.NDArray[Any]]:
    """Read the twenty."""
    images = {name: getattr(data, name)() for name in GREY}
    for name, (file, plane) in TILES.items():
        path = data_folder() / file
        image = imread_tiff(path) if path.suffix == ".tif" else imread(path)
        images[name] = image if plane is None else image[plane]
    return images


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--iterations", type=int, default=120)
    options = parser.parse_args()
    name = f"impedance_{options.side}_{options.iterations}"
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for image, pixels in load_images().items():
        kept = folder / f"{image}.json"
        if not kept.is_file():
            result = explore.impedance(
                pixels, crop=options.side, max_iterations=options.iterations, device="cpu"
            )
            kept.write_text(json.dumps(result.to_dict()), encoding="utf-8")
            print(image, result.score, flush=True)
        rows.append(make_row(image, json.loads(kept.read_text(encoding="utf-8"))))
    heads = [f"ordered at {at}" for at in LOOKED_AT]
    both = sum(all(row[head] == "yes" for head in heads) for row in rows)
    scores = [row["score"] for row in rows]
    summary = {"ordered at both": both, "pictures": len(rows), "mean score": np.mean(scores).item()}
    write(name, rows, summary)


def make_row(image: str, result: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    line: dict[str, Any] = {"picture": image, "score": round(result["score"], 3)}
    for at in LOOKED_AT:
        energy = {name: curve[at - 1] for name, curve in result["energies"].items()}
        line[f"at {at}: image, image + noise, shuffled, noise"] = ", ".join(
            f"{value:.3f}" for value in energy.values()
        )
        last = min(energy["shuffled"], energy["noise"])
        ordered = energy["image"] < energy["image_and_noise"] < last
        line[f"ordered at {at}"] = "yes" if ordered else "no"
    return line


if __name__ == "__main__":
    main()
