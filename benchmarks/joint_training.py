"""Joint training for the files of a folder, against independent fits: PSNR and CPU seconds.

Usage: python benchmarks/joint_training.py [SERIES ...] [--preset fast] [--files N]

confocal   single shots of FMD, Confocal_BPAE B, G and R, capture 1, four quarters of 256 x 256
           pixels each; the truth is the mean of 50 shots.
twophoton  the same of TwoPhoton_BPAE B and R, sixteen squares of 128 x 128 pixels each.
widefield  the same of WideField_BPAE B and R, quarters; they are oversampled.
w2s        seven fields of W2S, two quarters of each; the truth is the mean of 400 shots. Both were
           stretched to 8 bit by themselves, so results are brought to the truth by a straight line.
frames     32 frames of the shared movie of migrating cells, 96 x 96 pixels, each a TIFF of its own
           with an exposure of its own: Poisson of a peak between 15 and 60 counts, normal of
           standard deviation 2, gain of 1 to 3, offset 100 (default_rng(number of the frame)).

Each file by itself is what `napari-dip batch` does without `--joint-training`. CPU seconds of this
process, which other programs on the same core do not count to. Resumable: what is done is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from skimage.io import imread

import napari_dip as dip
from movies import make_movie
from quality_sets import line_psnr
from shared_data import OUT, data_folder, fmd, write

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Image = npt.NDArray[Any]

ALONE, TOGETHER = "each by itself", "one network"
#: Fields of FMD by series.
FIELDS = {
    "confocal": ("Confocal_BPAE_B", "Confocal_BPAE_G", "Confocal_BPAE_R"),
    "twophoton": ("TwoPhoton_BPAE_B", "TwoPhoton_BPAE_R"),
    "widefield": ("WideField_BPAE_B", "WideField_BPAE_R"),
}
W2S = ("010_0", "031_2", "044_0", "049_0", "077_2", "099_0", "100_1")
SERIES = (*FIELDS, "w2s", "frames")
#: Side of what is cut out of a field of 512 x 512, in pixels; and the corners of its quarters.
SIDES = {"twophoton": 128}
SIDE = 256
QUARTERS = ((0, 0), (256, 256), (0, 256), (256, 0))
FRAMES, FRAME_SIDE = 32, 96


def load_files(series: str) -> dict[str, tuple[Image, Image, float]]:
    """Give the noisy image, the truth and the peak of each file of a series."""
    if series == "frames":
        return {f"frame{number:02}": _frame(number) for number in range(FRAMES)}
    images, side = {}, SIDES.get(series, SIDE)
    squares = tuple((row, column) for row in range(0, 512, side) for column in range(0, 512, side))
    for place, name in enumerate(FIELDS.get(series, W2S)):
        if series == "w2s":
            folder = data_folder() / "w2s"
            raw = imread(folder / f"{name}_noisy_avg1.png")
            truth = imread(folder / f"{name}_gt_avg400.png").astype(np.float64)
            corners = (QUARTERS[place % 4], QUARTERS[(place % 4) ^ 1])
        else:
            raw, truth = fmd(name, 1)
            corners = QUARTERS if side == SIDE else squares
        for row, column in corners:
            cut = slice(row, row + side), slice(column, column + side)
            images[f"{name}_{row}_{column}"] = raw[cut], truth[cut], 255.0
    return images


def _frame(number: int) -> tuple[Image, Image, float]:
    """Expose one frame of a movie by itself: counts of a camera with a gain and an offset."""
    clean = make_movie("cancer_cell_migration", FRAMES, FRAME_SIDE)[number]
    rng = np.random.default_rng(number)
    peak, gain = rng.uniform(15, 60), rng.uniform(1, 3)
    truth = clean / 30 * peak  # `make_movie` scales to a peak of 30
    counts = gain * (rng.poisson(truth) + rng.normal(0, 2, truth.shape)) + 100
    noisy = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return noisy, gain * truth + 100, gain * peak


def compute_psnr(image: Image, truth: Image, peak: float) -> float:
    """Peak signal-to-noise ratio."""
    return float(10 * np.log10(peak**2 / np.mean((image.astype(np.float64) - truth) ** 2)))


def measure_quality(series: str, image: Image, truth: Image, peak: float) -> float:
    """Compare with the truth as the series asks for."""
    if series == "w2s":
        return line_psnr(image, truth)
    return compute_psnr(image, truth, peak)


def restore(
    series: str, sharing: str, options: argparse.Namespace
) -> tuple[dict[str, Image], float]:
    """Restore a folder one way; what was done before is taken, with the time that it took."""
    place = OUT / "folders" / f"{series}_{options.preset}"
    files = dict(list(load_files(series).items())[: options.files or None])
    (place / "in").mkdir(parents=True, exist_ok=True)
    for name, (noisy, _, _) in files.items():
        tifffile.imwrite(place / "in" / f"{name}.tif", noisy)
    results, clock = place / sharing.replace(" ", "_"), place / f"{sharing.replace(' ', '_')}.json"
    if not clock.exists():
        shutil.rmtree(results, ignore_errors=True)
        recipe = dip.make_recipe("denoise", preset=options.preset, device="cpu")
        paths = [place / "in" / f"{name}.tif" for name in files]
        began = time.process_time()
        done = dip.batch(recipe, paths, results, joint_training=sharing == TOGETHER)
        seconds = time.process_time() - began
        assert done.count("restored") == len(files), [outcome.refusal for outcome in done.outcomes]
        clock.write_text(json.dumps(seconds), encoding="utf-8")
    images = {name: tifffile.imread(results / f"{name}.tif") for name in files}
    return images, float(json.loads(clock.read_text(encoding="utf-8")))


def make_row(series: str, sharing: str, options: argparse.Namespace) -> dict[str, Any]:
    """Restore one series one way, and compare it with the truth."""
    images, seconds = restore(series, sharing, options)
    truths = load_files(series)
    each = [measure_quality(series, image, *truths[name][1:]) for name, image in images.items()]
    noisy = [measure_quality(series, *truths[name]) for name in images]
    records = _read_records(series, sharing, options)
    shared = [record["report"]["fit"].get("joint_training", {}) for record in records]
    pixels = sum(image.size for image in images.values())
    return {
        "series": series,
        "files": len(images),
        "way": sharing,
        "shown": sum("network_file" in entry for entry in shared),
        "input dB": float(np.mean(noisy)),
        "dB": float(np.mean(each)),
        "worst dB": min(each),
        "each dB": each,
        "CPU s per megapixel": seconds / (pixels / 2**20),
        "gain of going on": next((entry["gain"] for entry in shared if "gain" in entry), ""),
        "its error": next((entry["error"] for entry in shared if "error" in entry), ""),
    }


def _read_records(series: str, sharing: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    folder: Path = OUT / "folders" / f"{series}_{options.preset}" / sharing.replace(" ", "_")
    paths = sorted((folder / "records").glob("*.tif.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def main() -> None:
    """Do what was asked for."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("series", nargs="*", choices=[*SERIES, []], default=[])
    ask.add_argument("--preset", default="fast")
    ask.add_argument("--files", type=int, default=0, help="only the first so many; 0: all")
    options = ask.parse_args()
    title = f"folders_{options.preset}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for series in options.series or SERIES:
        rows = [row for row in rows if row["series"] != series]
        rows += [make_row(series, sharing, options) for sharing in (TOGETHER, ALONE)]
        summary: dict[str, Any] = {}
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            lost = np.subtract(first["each dB"], second["each dB"])
            cost = first["CPU s per megapixel"] / second["CPU s per megapixel"]
            summary[f"{first['series']}: time by {ALONE}"] = cost
            summary[f"{first['series']}: gain, dB; least and most of a file"] = (
                f"{lost.mean():+.3f}; {lost.min():+.3f}, {lost.max():+.3f}"
            )
        plain = [{key: value for key, value in row.items() if key != "each dB"} for row in rows]
        write(title, plain, summary)
        text = json.loads(path.read_text(encoding="utf-8")) | {"rows": rows}
        path.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
