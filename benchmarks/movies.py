"""Joint training for the frames of a movie or the tiles of an image, against independent fits.

Usage: python benchmarks/movies.py [movies] [tiles] [--frames 96] [--side 96] [--tile 128]
           [--only PART-OF-A-NAME] [--preset fast] [--alone FRAMES]

movies   shared movies played to and fro until there are 96 frames, each with fresh noise of our own
         (Poisson at a peak of 30 counts, normal of standard deviation 2, default_rng(0)). The truth
         is the movie as it came, which has a little noise of its own; of the JPEG frames of
         udvd_fluoro, the mean of each with the one before and the one after. Frame by frame: each
         is an image of its own, measured and fitted by itself; with --alone only the first so many,
         with which the others are then compared, and their time is that of as many as there are.
tiles    single shots of FMD in 16 tiles: each by itself, in turn, and with one network for all.
         The same noise and range are measured once for all tiles in all three ways.

CPU seconds of this process, which other programs on the same core do not count to. Resumable: what
is done is kept, frame by frame where each is fitted by itself.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tifffile
from skimage.io import imread

import napari_dip as dip
from shared_data import OUT, data_folder, fmd, psnr, write
from stacks import PEAK, READ, compute_psnr, measure_flicker

if TYPE_CHECKING:
    from stacks import Volume

#: Movies, and the corner of what is cut out of them.
MOVIES = {
    "membrane2d": (160, 160),
    "cancer_cell_migration": (34, 34),
    "udvd_fluoro": (60, 150),
}
IMAGES = ("TwoPhoton_BPAE_B", "Confocal_BPAE_R")
#: What the program is told, by the way's name.
WAYS: dict[str, dict[str, Any]] = {
    "one network for all": {"series_training": "joint"},
    "in turn": {"series_training": "warm-start"},
    "each by itself": {"series_training": "independent"},
}
ALONE = "each by itself"


def make_movie(name: str, frames: int, side: int) -> Volume:
    """Play a movie to and fro, scaled to the peak: (frames, side, side)."""
    folder = data_folder() / "timelapse"
    if name == "udvd_fluoro":
        files = sorted((folder / "udvd_fluoro_jpg").glob("*.jpg"))
        stack = np.stack([imread(path).astype(np.float64).mean(-1) for path in files])
        stack = (stack[:-2] + stack[1:-1] + stack[2:]) / 3
    else:
        stack = tifffile.imread(folder / f"{name}.tif").astype(np.float64)
    played = np.concatenate([stack, stack[::-1]])
    first_row, column = MOVIES[name]
    cut = played[
        np.arange(frames) % len(played), first_row : first_row + side, column : column + side
    ]
    cut = cut - cut.min()
    return np.asarray(cut / np.percentile(cut, 99.9) * PEAK)


def restore_frames(name: str, noisy: npt.NDArray[np.float32], preset: str) -> tuple[Volume, float]:
    """Restore each frame as an image of its own; what is done is kept."""
    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / f"movies_{name}_{preset}_{noisy.shape[-1]}.npz"
    done, seconds = np.zeros((0, *noisy.shape[1:])), 0.0
    if kept.exists():
        with np.load(kept) as frames:
            done, seconds = frames["done"], float(frames["seconds"])
    for frame in noisy[len(done) :]:
        began = time.process_time()
        image = dip.denoise(frame, preset=preset, device="cpu").image
        seconds += time.process_time() - began
        done = np.concatenate([done, image[None]])
        np.savez(kept, done=done, seconds=seconds)
    return done, seconds


def run_movie(name: str, sharing: str, options: argparse.Namespace) -> dict[str, Any]:
    """Restore one movie one way."""
    truth = make_movie(name, options.frames, options.side)
    rng = np.random.default_rng(0)
    noisy = (rng.poisson(truth) + rng.normal(0, READ, truth.shape)).astype(np.float32)
    settings = {}
    some = min(options.alone or options.frames, options.frames)
    if sharing == ALONE:
        image, seconds = restore_frames(name, noisy[:some], options.preset)
        seconds *= options.frames / len(image)
    else:
        began = time.process_time()
        result = dip.denoise(
            noisy, axes="TYX", preset=options.preset, device="cpu", **WAYS[sharing]
        )
        image, seconds = result.image, time.process_time() - began
        settings = result.report["fit"].get("joint_training", {})
    image, truth, noisy = image[:some], truth[:some], noisy[:some]
    each = [compute_psnr(frame, real) for frame, real in zip(image, truth, strict=True)]
    return {
        "movie": f"{name}, {options.frames} × {options.side} × {options.side}",
        "frames compared": some,
        "way": sharing,
        "input dB": compute_psnr(noisy, truth),
        "dB": float(np.mean(each)),
        "worst frame dB": min(each),
        "flicker": measure_flicker(image, truth),
        "CPU s": seconds,
        "gain of going on": settings.get("gain", ""),
        "its error": settings.get("error", ""),
    }


def run_tiles(name: str, sharing: str, options: argparse.Namespace) -> dict[str, Any]:
    """Restore one image in tiles one way."""
    raw, truth = fmd(name, 1)
    began = time.process_time()
    result = dip.denoise(
        raw, preset=options.preset, device="cpu", tile=options.tile, **WAYS[sharing]
    )
    seconds = time.process_time() - began
    record = result.report["fit"].get("joint_training", {})
    return {
        "picture": name,
        "tiles": result.report["tiles"]["count"],
        "way": sharing,
        "dB": psnr(result.image, truth),
        "CPU s per megapixel": seconds / (raw.size / 2**20),
        "gain of going on": record.get("gain", ""),
        "its error": record.get("error", ""),
    }


def write_table(part: str, names: tuple[str, ...], options: argparse.Namespace) -> None:
    """Run all that is not there yet, and write the table with what is gained."""
    make, head, cost = {
        "movies": (run_movie, "movie", "CPU s"),
        "tiles": (run_tiles, "picture", "CPU s per megapixel"),
    }[part]
    size = (
        f"{options.frames}_{options.side}_{options.alone}"
        if part == "movies"
        else str(options.tile)
    )
    title = f"series_{part}_{options.preset}_{size}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for name in names:
        for sharing in WAYS:
            done = any(row[head].startswith(name) and row["way"] == sharing for row in rows)
            if done or options.only not in name:
                continue
            rows.append(make(name, sharing, options))
            summary = {}
            for result in rows:
                if result["way"] != ALONE:
                    continue
                for other in rows:
                    if other[head] == result[head] and other is not result:
                        what = f"{result[head]}, {other['way']}"
                        summary[f"{what}: time by {ALONE}"] = other[cost] / result[cost]
                        summary[f"{what}: gain, dB"] = other["dB"] - result["dB"]
            write(title, rows, summary)


def main() -> None:
    """Do what was asked for."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("parts", nargs="*", choices=["movies", "tiles", []], default=[])
    ask.add_argument("--preset", default="fast")
    ask.add_argument("--frames", type=int, default=96)
    ask.add_argument("--side", type=int, default=96)
    ask.add_argument("--tile", type=int, default=128)
    ask.add_argument("--only", default="")
    ask.add_argument("--alone", type=int, default=0, help="frames restored by themselves; 0: all")
    options = ask.parse_args()
    for part in options.parts or ("movies", "tiles"):
        write_table(part, tuple(MOVIES) if part == "movies" else IMAGES, options)


if __name__ == "__main__":
    main()
