"""Removal of JPEG artefacts: PSNR, against plain denoising and averaged recompression.

Usage: python benchmarks/jpeg.py [--preset fast] [--side 96] [--qualities 10 20 40]
Crops of images of scikit-image, in grey and in colour (kept at half the size, as usual), are
saved with Pillow in memory and opened again. PSNR at 8 bit, peak 255; in colour over all three
channels. Plain: the same task with the Gaussian noise model. Spun: the mean of the image
compressed anew on 16 grids, which needs no network. Rows that are in the results file already are
not computed again. Before, after and truth are written side by side under benchmarks/out/jpeg.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from skimage import data

import napari_dip as dip
from napari_dip.engine.priors.recompression import JpegCompression, reapply_shifted_jpeg
from napari_dip.tasks.noise_models.jpeg_traces import find_jpeg_parameters
from shared_data import OUT, psnr, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

#: Image, and where its crop begins.
CROPS = {"camera": (96, 192), "astronaut": (40, 160), "coffee": (60, 330)}


def load_truth(name: str, side: int, *, colour: bool) -> Picture:
    """Cut the crop out, in grey or in colour."""
    whole = getattr(data, name)()
    row, column = CROPS[name]
    part = Image.fromarray(whole[row : row + side, column : column + side])
    return np.asarray(part if colour else part.convert("L"))


def compress(image: Picture, quality: int) -> Picture:
    """Save an image in memory and open it again."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def average_grid_shifts(image: Picture) -> npt.NDArray[np.float32]:
    """Mean over grids, with no network."""
    planes = np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float32)
    traces = find_jpeg_parameters(planes)
    if traces is None:
        return image.astype(np.float32)
    compression = JpegCompression(
        block_offset=traces.block_offset,
        quantisation_tables=torch.from_numpy(traces.quantisation_tables).float(),
        has_half_chroma=traces.has_half_chroma,
    )
    mean = reapply_shifted_jpeg(torch.from_numpy(planes.copy())[None], compression)[0].numpy()
    return np.moveaxis(mean, 0, -1).reshape(image.shape)


def compare(
    name: str, quality: int, options: argparse.Namespace, *, colour: bool
) -> dict[str, Any]:
    """Restore one crop both ways."""
    clean = load_truth(name, options.side, colour=colour)
    compressed_image, axes = compress(clean, quality), "YXS" if colour else "YX"
    began = time.process_time()
    ours = dip.denoise(compressed_image, preset=options.preset, noise="jpeg", axes=axes)
    seconds = time.process_time() - began
    plain = dip.denoise(compressed_image, preset=options.preset, noise="gaussian", axes=axes)
    folder = OUT / "jpeg"
    folder.mkdir(parents=True, exist_ok=True)
    kind = "colour" if colour else "grey"
    panels = [
        np.clip(np.rint(image), 0, 255).astype(np.uint8)
        for image in (compressed_image, ours.image, clean)
    ]
    Image.fromarray(np.concatenate(panels, 1)).save(folder / f"{name}_{kind}_{quality}.png")
    exact = clean.astype(np.float64)
    return {
        "crop": f"{name}, {kind}, quality {quality}",
        "JPEG dB": psnr(compressed_image, exact),
        "plain dB": psnr(plain.image, exact),
        "spun dB": psnr(average_grid_shifts(compressed_image), exact),
        "ours dB": psnr(ours.image, exact),
        "gain dB": psnr(ours.image, exact) - psnr(compressed_image, exact),
        "iterations": ours.report["iterations"],
        "CPU seconds": seconds,
    }


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--qualities", nargs="+", type=int, default=[10, 20, 40])
    parser.add_argument("--kinds", nargs="+", default=["grey", "colour"])
    options = parser.parse_args()
    title = f"jpeg_{options.preset}_{options.side}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["crop"] for row in rows}
    for quality in options.qualities:
        for kind in options.kinds:
            for name in CROPS:
                grey = getattr(data, name)().ndim == 2
                if f"{name}, {kind}, quality {quality}" in done or (grey and kind == "colour"):
                    continue
                rows.append(compare(name, quality, options, colour=kind == "colour"))
                print(rows[-1], file=sys.stderr, flush=True)
                worst = min(row["ours dB"] - max(row["JPEG dB"], row["plain dB"]) for row in rows)
                write(title, rows, {"preset": options.preset, "least gain over both, dB": worst})


if __name__ == "__main__":
    main()
