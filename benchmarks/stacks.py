"""Denoising of stacks and movies by all options: PSNR, flicker and CPU seconds.

Usage: python benchmarks/stacks.py [--preset fast] [--planes 16] [--side 96] [--frames 6]
           [--only PART-OF-A-CROP'S-NAME] [--peak 30]
Crops of the shared stacks and movies, with noise of our own: Poisson at a peak of 30, and a normal
one of standard deviation 2, default_rng(0). Resumable: rows that are there already are kept.
The true error is also given in units of the error that the result states.

Flicker is the standard deviation over time of result less truth, over that half of the pixels
whose truth changes least.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from scipy import ndimage

import napari_dip as dip
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Volume = npt.NDArray[np.float64]

#: Peak of the photon counts, and standard deviation of the read noise.
PEAK, READ = 30.0, 2.0
#: Pixels down and to the right, in each frame, of the made drift.
DRIFT = (0.7, -1.3)
#: Ways to restore a movie and a stack, by the settings that make them. "cold" runs each frame by
#: itself.
ALONE = {"neighbouring_frames": False, "temporal_smoothing": 0.0}
MOVIE_WAYS: dict[str, dict[str, Any]] = {
    "frame by frame, cold": {},
    "warm chain": ALONE,
    "warm chain, steadiness 1": {"neighbouring_frames": False, "temporal_smoothing": 1.0},
    "warm chain, neighbours": {"neighbouring_frames": True, "temporal_smoothing": 0.0},
    "warm chain, neighbours, steadiness 1": {
        "neighbouring_frames": True,
        "temporal_smoothing": 1.0,
    },
    "as a volume": {"stacks": "volume"},
}
STACK_WAYS: dict[str, dict[str, Any]] = {
    "plane by plane, each alone": {"stacks": "planes", "neighbouring_frames": False},
    "plane by plane, neighbours": {"stacks": "planes"},
    "as a volume": {"stacks": "volume"},
}


@dataclass(frozen=True)
class Crop:
    """Part of a shared file: every `step`-th plane, or one plane that drifts."""

    name: str
    file: str
    axes: str
    planes: int | None = None
    step: int = 1
    drifts: bool = False


CROPS = (
    Crop("cancer_cell_migration", "timelapse/cancer_cell_migration", "TYX"),
    Crop("membrane2d", "timelapse/membrane2d", "TYX"),
    Crop("embryo, one plane drifting", "stacks3d/arabidopsis_embryo", "TYX", drifts=True),
    Crop("embryo, middle", "stacks3d/arabidopsis_embryo", "ZYX"),
    Crop("nuclei, middle", "stacks3d/nuclei3d_stardist", "ZYX"),
    Crop("pollen, middle", "stacks3d/pollen", "ZYX"),
    Crop("embryo, 4 planes", "stacks3d/arabidopsis_embryo", "ZYX", planes=4),
    Crop("nuclei, 4 planes", "stacks3d/nuclei3d_stardist", "ZYX", planes=4),
    Crop("embryo, every 2nd plane", "stacks3d/arabidopsis_embryo", "ZYX", step=2),
    Crop("embryo, every 3rd plane", "stacks3d/arabidopsis_embryo", "ZYX", step=3),
    Crop("embryo, every 5th plane", "stacks3d/arabidopsis_embryo", "ZYX", step=5),
)


def load_crop(crop: Crop, count: int, side: int, peak: float = PEAK) -> Volume:
    """Cut `count` planes of `side` pixels out of the middle, scaled to the peak."""
    whole = tifffile.imread(data_folder() / f"{crop.file}.tif").astype(np.float64)
    if crop.drifts:
        middle = len(whole) // 2
        plane = whole[middle - 1 : middle + 2].mean(0)  # of three, so that it has little noise
        whole = np.stack(
            [
                ndimage.shift(plane, np.multiply(DRIFT, frame), order=3, mode="nearest")
                for frame in range(count)
            ]
        ).clip(min=0)
    whole = whole[:: crop.step]
    first, row, column = (
        max(0, (have - want) // 2)
        for have, want in zip(whole.shape, (count, side, side), strict=True)
    )
    cut = whole[first : first + count, row : row + side, column : column + side]
    cut = cut - cut.min()
    return np.asarray(cut / np.percentile(cut, 99.9) * peak)


def compute_psnr(image: npt.NDArray[Any], truth: Volume, peak: float = PEAK) -> float:
    """Peak signal-to-noise ratio at the peak of the counts."""
    return float(10 * np.log10(peak**2 / np.mean((image - truth) ** 2)))


def compute_rms(values: npt.NDArray[Any]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def measure_flicker(image: npt.NDArray[Any], truth: Volume) -> float:
    """Give the standard deviation over time of the error where the truth changes least."""
    change = truth.std(0)
    still = change <= np.median(change)
    return float(np.sqrt((image - truth).var(0)[still].mean()))


def time_restoration(
    noisy: npt.NDArray[np.float32], axes: str, **settings: Any
) -> tuple[Any, list[float]]:
    """Restore; also the CPU seconds of each fit, reading and measuring included in the first."""
    ends: dict[int, float] = {}

    def note(event: Any) -> None:
        ends[event.unit] = time.process_time()

    began = time.process_time()
    result = dip.denoise(noisy, axes=axes, progress=note, **settings)
    ends[max(ends)] = time.process_time()
    return result, list(np.diff([began, *ends.values()]))


def run_case(
    crop: Crop, variant: str, settings: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Restore one crop one way."""
    movie = crop.axes[0] == "T"
    truth = load_crop(
        crop,
        crop.planes or (options.frames if movie else options.planes),
        options.side,
        options.peak,
    )
    rng = np.random.default_rng(0)
    noisy = (rng.poisson(truth) + rng.normal(0, READ, truth.shape)).astype(np.float32)
    if variant.endswith("cold"):
        alone = [time_restoration(image, "YX", preset=options.preset) for image in noisy]
        image, stated = (
            np.stack([getattr(result, name) for result, _ in alone])
            for name in ("image", "uncertainty")
        )
        seconds = [sum(each) for _, each in alone]
    else:
        result, seconds = time_restoration(noisy, crop.axes, preset=options.preset, **settings)
        image, stated = result.image, result.uncertainty
    pairs = zip(image, truth, strict=True)
    frames = [compute_psnr(frame, real, options.peak) for frame, real in pairs]
    return {
        "crop": f"{crop.name}, {'×'.join(map(str, truth.shape))}",
        "way": variant,
        "input dB": compute_psnr(noisy, truth, options.peak),
        "dB": float(np.mean(frames)),
        "worst frame dB": min(frames),
        "error by stated error": compute_rms(image - truth) / compute_rms(stated),
        "flicker": measure_flicker(image, truth) if movie else "",
        "first s": seconds[0],
        "each later s": float(np.mean(seconds[1:])) if len(seconds) > 1 else "",
    }


def main() -> None:
    """Run all crops in all ways and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--planes", type=int, default=16)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--peak", type=float, default=PEAK)
    parser.add_argument("--only", default="")
    parser.add_argument("--way", default="", help="only ways whose name holds this")
    options = parser.parse_args()
    title = f"stacks_{options.preset}_{options.planes}_{options.side}_{options.frames}"
    title += "" if options.peak == PEAK else f"_{options.peak:g}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(row["crop"].rsplit(",", 1)[0], row["way"]) for row in rows}
    for crop in CROPS:
        for variant, settings in (MOVIE_WAYS if crop.axes[0] == "T" else STACK_WAYS).items():
            if (
                (crop.name, variant) in done
                or options.only not in crop.name
                or options.way not in variant
            ):
                continue
            rows.append(run_case(crop, variant, settings, options))
            print(rows[-1], file=sys.stderr, flush=True)
            write(title, rows, {"preset": options.preset})


if __name__ == "__main__":
    main()
