"""Fits that begin with the saved network of another image of the same kind: PSNR and CPU seconds.

Usage: NAPARI_DIP_DATA=FOLDER python benchmarks/network_start.py [--presets fast balanced]
Each image is restored as usual, with 25 iterations, and from the network that another image of its
kind was fitted with by the same preset (`--network-file`). Pairs are fields of W2S of one channel,
different quarters of captures of FMD, and photographs of Set12 with a noise of 25. One process, one
thread; the time of the other image is left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import napari_dip as dip
from quality_sets import SETS, line_psnr
from shared_data import counts, psnr, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

#: Set, first image and second image.
PAIRS = (
    ("w2s", "031_2", "077_2"),
    ("w2s", "010_0", "044_0"),
    ("w2s", "049_0", "099_0"),
    ("w2s", "044_0", "010_0"),
    ("set12-25", "01_cameraman", "03_peppers"),
    ("set12-25", "08_lena", "09_barbara"),
    ("set12-25", "06_f16", "07_parrot"),
)
#: Captures of FMD whose upper left quarter comes first, and lower right one second.
CAPTURES = ("Confocal_BPAE_B_raw1", "Confocal_BPAE_G_raw1", "TwoPhoton_BPAE_R_raw1")
QUARTERS = np.s_[:256, :256], np.s_[256:, 256:]
COLD_ITERATIONS = 25


def load(image_set: str, name: str) -> tuple[Image, Image, bool]:
    """Return noisy and true image, and whether they differ by a straight line."""
    case = next(case for case in SETS[image_set]() if case.name == name)
    return *case.load(), case.stretched


def iter_pairs() -> Iterator[tuple[str, Image, tuple[Image, Image, bool]]]:
    """Yield the name of a pair, the first noisy image, and the second with its truth."""
    for image_set, first, second in PAIRS:
        yield f"{image_set}: {first}, {second}", load(image_set, first)[0], load(image_set, second)
    for name in CAPTURES:
        noisy, truth, stretched = load("fmd", name)
        first, second = QUARTERS
        yield f"fmd: quarters of {name}", noisy[first], (noisy[second], truth[second], stretched)


def restore(noisy: Image, preset: str, **settings: Any) -> tuple[Any, float]:
    """Return the result and the CPU seconds that it took."""
    began = time.process_time()
    result = dip.denoise(counts(noisy), preset=preset, device="cpu", **settings)
    return result, time.process_time() - began


def compare(preset: str, name: str, first: Image, second: tuple[Image, Image, bool]) -> Any:
    """Return one row of the table."""
    noisy, truth, stretched = second
    judge = line_psnr if stretched else psnr
    with TemporaryDirectory() as folder:
        path = Path(folder) / "first.safetensors"
        restore(first, preset)[0].network.save(path)
        results = {
            "usual": restore(noisy, preset),
            f"{COLD_ITERATIONS} iterations": restore(noisy, preset, max_iterations=COLD_ITERATIONS),
            "with the network": restore(noisy, preset, network_file=path),
        }
    row: dict[str, Any] = {"preset": preset, "pair": name}
    for key, (result, seconds) in results.items():
        row |= {f"{key}, dB": judge(result.image, truth), f"{key}, CPU s": seconds}
    return row | {"iterations": results["with the network"][0].report["iterations"]}


def main() -> None:
    """Restore all pairs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="*", default=["fast", "balanced"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for preset in options.presets:
        for name, first, second in iter_pairs():
            rows.append(compare(preset, name, first, second))
            print(rows[-1], flush=True)
    summary = {
        f"{preset}, {key}, mean": mean(row[key] for row in rows if row["preset"] == preset)
        for preset in options.presets
        for key in rows[0]
        if key.endswith((", dB", ", CPU s"))
    }
    write("network_start", rows, summary)


if __name__ == "__main__":
    main()
