"""Deblur images whose PSF widens by two from the middle to the rim, with one PSF and with all.

Usage: python benchmarks/field_psf.py [--preset fast] [--only 01_cameraman] [--noise 2]
Crops of 160 x 160 pixels, blurred with a Gaussian whose standard deviation grows with the square of
the distance from the middle, from 1.2 pixels to 2.4 at the middle of an edge, and is constant
beyond. The light comes from 24 pixels around the frame as well. White noise of 2 (of 255) is added.
The blur is a sum over 61 Gaussians, and not one of the modes that are tested. PSFs of 7 x 7 equal
parts are given, or measured in an image of 150 beads over a field of 640 x 640 pixels. The single
PSF is the Gaussian, out of seven widths, whose result is nearest to the truth. Richardson-Lucy has
all PSFs, and ends at the iteration nearest to the truth. Rows in the JSON are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.io import imread, imsave

import napari_dip as dip
from napari_dip.engine.deconvolution.kernels import decompose_field, interpolate_coefficients
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy
from napari_dip.engine.operators.imaging import FieldConvolution
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

#: Folder and name of the picture, and first row and column of the crop with its frame.
IMAGES = {
    "01_cameraman": ("set12/01_cameraman.png", (16, 24)),
    "04_starfish": ("set12/04_starfish.png", (24, 24)),
    "Confocal_BPAE_G": ("fmd/Confocal_BPAE_G_gt.png", (150, 150)),
    "TwoPhoton_BPAE_R": ("fmd/TwoPhoton_BPAE_R_gt.png", (150, 150)),
}
SIDE, FRAME = 160, 24
#: Standard deviation in the middle in pixels, and how much wider the PSF is at the rim.
WIDTH, RATIO = 1.2, 2.0
#: Parts of the field along each axis, and side of the PSFs.
CELLS, PSF_SIDE = 7, 21
BLURS = 61
#: Beads, side of their image, least distance of two, their peak in the middle, and read noise.
BEADS, BEAD_SIDE, BEAD_DISTANCE, BEAD_PEAK, READ_NOISE = 150, 640, 24, 2000.0, 3.0
#: Widths of the single PSF, in units of that in the middle.
SINGLE_WIDTHS = (1.0, 1.15, 1.3, 1.45, 1.6, 1.8, 2.0)
MOST_LUCY = 200


def compute_widths(rows: Image, columns: Image) -> Image:
    """Return the width of the PSF at places in pixels of the image."""
    radius = np.hypot(rows - (SIDE - 1) / 2, columns - (SIDE - 1) / 2) / (SIDE / 2)
    return np.asarray(WIDTH * (1 + (RATIO - 1) * np.minimum(radius, 1) ** 2))


def blur(scene: Image) -> Image:
    """Blur a scene that reaches beyond the image; each point has the PSF of its place."""
    rows, columns = np.mgrid[-FRAME : SIDE + FRAME, -FRAME : SIDE + FRAME]
    widths = compute_widths(rows, columns)
    levels = np.linspace(WIDTH, RATIO * WIDTH, BLURS)
    position = (widths - levels[0]) / (levels[1] - levels[0])
    shares = (np.clip(1 - np.abs(position - index), 0, 1) for index in range(BLURS))
    parts = (
        gaussian_filter(scene * share, width, truncate=8, mode="constant")
        for share, width in zip(shares, levels, strict=True)
    )
    return np.asarray(sum(parts))[FRAME:-FRAME, FRAME:-FRAME]


def make_case(name: str, noise: float) -> tuple[Image, npt.NDArray[np.float32]]:
    """Return the truth and the measured image."""
    path, (row, column) = IMAGES[name]
    picture = imread(data_folder() / path).astype(np.float64)
    size = SIDE + 2 * FRAME
    scene = picture[row : row + size, column : column + size]
    added = np.random.default_rng(0).normal(0, noise, (SIDE, SIDE))
    return scene[FRAME:-FRAME, FRAME:-FRAME], (blur(scene) + added).astype(np.float32)


def list_middles() -> Image:
    """Return the middles of equal parts of the field along one axis."""
    return np.asarray((np.arange(CELLS) + 0.5) * SIDE / CELLS - 0.5)


def make_psfs() -> npt.NDArray[np.float32]:
    """Return the PSFs in the middles of equal parts, (CELLS, CELLS, PSF_SIDE, PSF_SIDE)."""
    widths = compute_widths(list_middles()[:, None], list_middles()[None])
    sizes = (PSF_SIDE, PSF_SIDE)
    psfs = [sample_gaussian_psf((width, width), sizes).numpy() for width in widths.ravel().tolist()]
    return np.reshape(psfs, (CELLS, CELLS, PSF_SIDE, PSF_SIDE))


def measure_psfs() -> npt.NDArray[np.float32]:
    """Measure the PSFs in a made image of beads, which shows the same field with finer pixels."""
    rng = np.random.default_rng(0)
    image, reach, places = np.zeros((BEAD_SIDE, BEAD_SIDE)), PSF_SIDE // 2 + 4, []
    while len(places) < BEADS:
        place = rng.uniform(reach + 1, BEAD_SIDE - reach - 2, 2)
        if all(np.hypot(*(place - other)) > BEAD_DISTANCE for other in places):
            places.append(place)
    offsets = np.arange(-reach, reach + 1)
    for place in places:
        scaled = (place + 0.5) * SIDE / BEAD_SIDE - 0.5
        width = float(compute_widths(scaled[:1], scaled[1:])[0])
        pixel = np.round(place).astype(int)
        profiles = [np.exp(-((offsets - shift) ** 2) / (2 * width**2)) for shift in place - pixel]
        box = tuple(slice(at - reach, at + reach + 1) for at in pixel)
        image[box] += BEAD_PEAK * rng.uniform(0.7, 1.4) * np.outer(*profiles) * (WIDTH / width) ** 2
    noisy = rng.poisson(image) + rng.normal(0, READ_NOISE, image.shape) + 100
    report = dip.measure_psf(noisy.astype(np.float32), field=True)
    assert report.field is not None
    return report.field.psfs


def psnr(image: npt.NDArray[Any], truth: Image) -> float:
    """Peak 255, clipped to what can be shown."""
    return float(10 * np.log10(255**2 / np.mean((np.clip(image, 0, 255) - truth) ** 2)))


def run_richardson_lucy(
    measured: npt.NDArray[np.float32], psfs: npt.NDArray[np.float32], truth: Image
) -> tuple[float, int]:
    """Run Richardson-Lucy with all PSFs to the iteration that lies nearest to the truth."""
    sizes = psfs.shape[2:]
    modes, coefficients = decompose_field(
        torch.from_numpy(psfs).reshape(-1, *sizes), psfs.shape[:2]
    )
    margin = sizes[0] // 2
    grid = (SIDE + 2 * margin,) * 2
    maps = interpolate_coefficients(coefficients, (SIDE, SIDE), (-margin, -margin), grid)
    light = torch.from_numpy(measured)[None, None]
    images = run_masked_richardson_lucy(
        FieldConvolution(modes, maps), light, torch.ones_like(light), tuple(range(1, MOST_LUCY + 1))
    )
    qualities = [
        psnr(image[0, 0, margin:-margin, margin:-margin].numpy(), truth) for image in images
    ]
    return max(qualities), int(np.argmax(qualities)) + 1


def measure(name: str, options: Any) -> dict[str, Any]:
    """Deblur one image in all ways."""
    truth, measured = make_case(name, options.noise)
    psfs = make_psfs()
    settings = {"preset": options.preset, "device": "cpu"}
    row: dict[str, Any] = {
        "image": name,
        "noise": options.noise,
        "blurred dB": psnr(measured, truth),
    }
    row["RL, field dB"], row["RL step"] = run_richardson_lucy(measured, psfs, truth)
    singles = {}
    for ratio in SINGLE_WIDTHS:
        result = dip.deblur(measured, gaussian_sigma=ratio * WIDTH, **settings)
        singles[ratio * WIDTH] = psnr(result.image, truth)
    row["best single SD"] = max(singles, key=lambda width: singles[width])
    row["single dB"] = max(singles.values())
    start, cpu = time.perf_counter(), time.process_time()
    result = dip.deblur(measured, psfs, **settings)
    row["seconds"], row["CPU"] = time.perf_counter() - start, time.process_time() - cpu
    row["field dB"] = psnr(result.image, truth)
    measured_psfs = measure_psfs()
    row["measured PSFs dB"] = psnr(dip.deblur(measured, measured_psfs, **settings).image, truth)
    row["above single dB"] = row["field dB"] - row["single dB"]
    row["above RL dB"] = row["field dB"] - row["RL, field dB"]
    OUT.mkdir(parents=True, exist_ok=True)
    panels = np.clip(np.rint(np.concatenate([measured, result.image, truth], 1)), 0, 255)
    imsave(OUT / f"field_psf_{name}.png", panels.astype(np.uint8), check_contrast=False)
    return row


def main() -> None:
    """Run all images that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--noise", type=float, default=2.0)
    options = parser.parse_args()
    name = f"field_psf_{options.preset}_{options.noise:g}"
    done = OUT / f"{name}.json"
    rows = json.loads(done.read_text())["rows"] if done.exists() else []
    for image in options.only or IMAGES:
        if any(row["image"] == image for row in rows):
            continue
        rows.append(measure(image, options))
        print(rows[-1], file=sys.stderr, flush=True)
        write(name, rows, summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means and extremes over the rows that are there."""
    summary: dict[str, Any] = {"images": len(rows)}
    for key in (
        "blurred dB",
        "RL, field dB",
        "single dB",
        "field dB",
        "measured PSFs dB",
        "above single dB",
    ):
        summary[f"mean {key}"] = float(np.mean([row[key] for row in rows]))
    summary["least above single dB"] = min(row["above single dB"] for row in rows)
    summary["least above RL dB"] = min(row["above RL dB"] for row in rows)
    return summary


if __name__ == "__main__":
    main()
