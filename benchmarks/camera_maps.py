"""Simulated sCMOS images, denoised with and without camera maps: PSNR.

Usage: python benchmarks/camera_maps.py [--preset fast] [--side 192] [--frames 200]
A made camera: offsets of 100 ± 3 grey values, gains of 2 ± 3 %, read noise of 1.5 ± 15 % but for
one pixel in a hundred, which has 10 to 30. Its maps are made from frames of its own: dark ones, and
as many flat ones at each of 50, 300 and 1,500 photons. Truths: the long exposure of the bundled
mitochondria and the first of the bundled two channels, both smoothed by a Gaussian of 1.5 pixels
since they hold noise of their own, and, where NAPARI_DIP_DATA has it, the truth of
acsn_microtubules, each at 20 and at 200 photons in its brightest pixels. PSNR at peak 255, over the
whole image and at the noisy pixels. The noisy image of acsn_microtubules itself has no dark or
flat frames, so no maps can be made for it; its row tells how it fares without. Rows that are in the
results file already are not computed again. Input, without, with and truth are written side by side
under benchmarks/out/camera_maps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage.filters import gaussian
from skimage.io import imread

import napari_dip as dip
from napari_dip.samples import MITOCHONDRIA, TWO_CHANNELS
from shared_data import OUT, data_folder, psnr, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture = npt.NDArray[np.float64]

#: Photons in the brightest pixels.
LIGHTS = (20, 200)
#: Photons of the flat frames.
FLATS = (50, 300, 1500)
#: Standard deviation, in pixels, of the Gaussian that takes the bundled images' own noise away.
SMOOTH = 1.5
#: Read noise from which on a pixel counts as noisy in the table, in grey values.
NOISY = 8.0


@dataclass(frozen=True, eq=False)
class Camera:
    """Offset, gain and read noise of each pixel, in grey values."""

    offset: Picture
    gain: Picture
    noise: Picture

    def expose(self, photons: Picture | float, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
        """Take an image."""
        light = self.gain * rng.poisson(np.broadcast_to(photons, self.gain.shape))
        read = rng.normal(0, 1, self.gain.shape) * self.noise
        return np.rint(self.offset + light + read).clip(0, 65535).astype(np.uint16)

    def measure_maps(self, count: int, rng: np.random.Generator) -> dict[str, Any]:
        """Make maps from so many frames of each light."""
        stacks = [
            np.stack([self.expose(light, rng) for _ in range(count)]) for light in (0, *FLATS)
        ]
        measured = dip.measure_camera_maps(stacks[0], stacks[1:])
        return {
            "offset_map": measured.offset,
            "gain_map": measured.gain,
            "noise_map": measured.noise,
        }


def make_camera(side: int, rng: np.random.Generator) -> Camera:
    """Make a camera; the same seed gives the same."""
    size = side, side
    noise = rng.lognormal(np.log(1.5), 0.15, size)
    noise = np.where(rng.random(size) < 0.01, rng.uniform(10, 30, size), noise)
    return Camera(rng.normal(100, 3, size), 2 * rng.normal(1, 0.03, size), noise)


def load_truth(name: str, side: int) -> Picture:
    """Cut the middle out of an image, brought to 0 to 255; bundled ones without their noise."""
    whole = {
        "mitochondria": lambda: imread(MITOCHONDRIA)[1],
        "two channels": lambda: imread(TWO_CHANNELS)[0],
        "microtubules": lambda: imread(data_folder() / "acsn_microtubules" / "gt.png"),
    }[name]().astype(np.float64)
    if name != "microtubules":
        whole = gaussian(whole, SMOOTH)
    row, column = ((count - side) // 2 for count in whole.shape)
    low, high = np.percentile(whole, (0.1, 99.9))
    scaled = np.clip((whole - low) / (high - low) * 255, 0, 255)
    return np.asarray(scaled[row : row + side, column : column + side])


def compare(name: str, light: int, options: argparse.Namespace) -> dict[str, Any]:
    """Denoise one image without maps and with them."""
    rng = np.random.default_rng(light)
    clean, sensor = load_truth(name, options.side), make_camera(options.side, rng)
    maps = sensor.measure_maps(options.frames, rng)
    noisy_shot = sensor.expose(clean / 255 * light, rng)
    plain = dip.denoise(noisy_shot, preset=options.preset)
    began = time.process_time()
    mapped = dip.denoise(noisy_shot, preset=options.preset, **maps)
    seconds = time.process_time() - began
    unit = 255 / (light * sensor.gain.mean())
    images = [
        (image - sensor.offset.mean()) * unit for image in (noisy_shot, plain.image, mapped.image)
    ]
    save_images(f"{name}_{light}", [*images, clean])
    noisy = sensor.noise > NOISY
    return {
        "picture": f"{name}, {light} photons",
        "input dB": psnr(images[0], clean),
        "without dB": psnr(images[1], clean),
        "maps dB": psnr(images[2], clean),
        "gain dB": psnr(images[2], clean) - psnr(images[1], clean),
        "noisy pixels, without dB": psnr(images[1][noisy], clean[noisy]),
        "noisy pixels, maps dB": psnr(images[2][noisy], clean[noisy]),
        "CPU seconds": seconds,
    }


def without_frames(options: argparse.Namespace) -> dict[str, Any]:
    """Denoise the one image of acsn_microtubules, fitted to its truth by gain and offset."""
    folder = data_folder() / "acsn_microtubules"
    noisy, clean = imread(folder / "noisy.png"), imread(folder / "gt.png").astype(np.float64)
    began = time.process_time()
    restored = dip.denoise(noisy, preset=options.preset).image
    seconds = time.process_time() - began
    images = [
        np.polyval(np.polyfit(image.ravel(), clean.ravel(), 1), image)
        for image in (noisy, restored)
    ]
    save_images("acsn_microtubules", [*images, clean])
    scores = psnr(images[0], clean), psnr(images[1], clean)
    none = dict.fromkeys(("maps dB", "gain dB"), "no frames")
    rest = dict.fromkeys(("noisy pixels, without dB", "noisy pixels, maps dB"), "")
    row = {
        "picture": "acsn_microtubules, noisy.png",
        "input dB": scores[0],
        "without dB": scores[1],
    }
    return {**row, **none, **rest, "CPU seconds": seconds}


def save_images(name: str, stack: list[npt.NDArray[Any]]) -> None:
    """Write images side by side."""
    folder = OUT / "camera_maps"
    folder.mkdir(parents=True, exist_ok=True)
    images = [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in stack]
    Image.fromarray(np.concatenate(images, 1)).save(folder / f"{name}.png")


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--frames", type=int, default=200)
    names = ["mitochondria", "two channels", "microtubules"]
    parser.add_argument("--pictures", nargs="+", default=[*names, "acsn"])
    options = parser.parse_args()
    title = f"camera_maps_{options.preset}_{options.side}_{options.frames}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["picture"] for row in rows}
    cases = [(name, light) for name in options.pictures if name != "acsn" for light in LIGHTS]
    for name, light in cases:
        if f"{name}, {light} photons" not in done:
            rows.append(compare(name, light, options))
            print(rows[-1], file=sys.stderr, flush=True)
            write(title, rows, summarise(rows))
    if "acsn" in options.pictures and "acsn_microtubules, noisy.png" not in done:
        rows.append(without_frames(options))
        write(title, rows, summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and least gain at each light."""
    means: dict[str, Any] = {}
    for light in LIGHTS:
        gains = [row["gain dB"] for row in rows if f", {light} photons" in row["picture"]]
        if gains:
            means[f"{light} photons: mean gain, dB"] = float(np.mean(gains))
            means[f"{light} photons: least"] = min(gains)
    return means


if __name__ == "__main__":
    main()
