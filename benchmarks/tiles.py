"""Restoration in tiles: peak memory, CPU seconds per megapixel, and PSNR at the seams.

Usage: python benchmarks/tiles.py [memory] [speed] [quality] [large]   (default: the first three)

memory   peak above the import baseline against what the plan says, one process for each size
speed    CPU seconds per megapixel at three iterations, 0.25 to 16 megapixels, start-up left out
quality  six single shots of FMD, `fast`, in four tiles against the whole: PSNR and seams. The two
         that are fitted at half their size are mirrored to four times as many pixels, as their
         tiles are not smaller than 512 x 512.
large    16,384 x 16,384 pixels, 16 bit, through the command line: hours on one core. It goes on
         where it was ended.

The images of the first two and the last are single shots of Hagen et al. (CC0), mirrored until
they are as large as asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.io import imread

from shared_data import FMD_FIELDS, OUT, data_folder, fmd, psnr, write

SIDES = (256, 512, 768, 1024, 1536, 2048)
#: Sides and tiles of the images that are restored in tiles.
IN_TILES = ((2048, 1024), (2048, 512), (1536, 768))
SPEED = (512, 1024, 2048, 4096)
LARGE = 16_384
TILE = 256
#: Pixels on either side of a seam that two tiles share.
REACH = 32
IMAGE = "hagen_cc0/actin-20x-noise1_lowsnr.png"


def mirror_image(side: int) -> npt.NDArray[np.uint16]:
    """Fill a square with a real single shot and its mirror images, 16 bit."""
    shot = imread(data_folder() / IMAGE).astype(np.uint16)
    cell = four_times(shot)
    rows = np.arange(side) % cell.shape[0]
    return np.asarray(cell[np.ix_(rows, np.arange(side) % cell.shape[1])])


def four_times(shot: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lay an image beside its mirror images."""
    return np.block([[shot, shot[:, ::-1]], [shot[::-1], shot[::-1, ::-1]]])


def read_memory(what: str) -> float:
    """Read one of this process's memory figures, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"{what}:\s+(\d+)", text)
    assert match is not None
    return int(match.group(1)) * 1024


def load_all() -> None:
    """Import what a run imports: the baseline is what a process holds after that."""
    from napari_dip.pipeline.torch_state import load_torch

    load_torch()
    for name in (
        "engine.fit.loop",
        "engine.refinement",
        "pipeline.execute.fit_setup",
        "pipeline.execute.tile_executor",
    ):
        import_module(f"napari_dip.{name}")


def measure_tile(side: int, prior: str, tile: int | None, channels: int) -> dict[str, Any]:
    """Restore one image in this process, and say what it took."""
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import drain_generator
    from napari_dip.pipeline.recipe import make_recipe

    load_all()
    image, axes = mirror_image(side), "YX"
    if channels > 1:  # the shot itself, and what lies beside it
        image = np.stack([np.roll(image, 50 * first, 1) for first in range(channels)], -1)
        axes = "YXS"
    settings = {
        "preset": "fast",
        "max_iterations": 3,
        "device": "cpu",
        "prior": prior,
        "tile": tile,
    }
    recipe = make_recipe("denoise", **settings)
    plan = preflight(
        recipe,
        ImageHeader(name="shot", shape=image.shape, dtype="uint16", axes=axes),
        detect_machine(),
    )
    assert isinstance(plan, Plan), plan
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before, began = read_memory("VmRSS"), time.process_time()
    answer = drain_generator(run(plan, {"image": image}))
    assert answer is not None
    return {
        "side": side,
        "channels": channels,
        "tile": tile or "",
        "tiles": len(plan.tiles) or "",
        "prior": answer.report["prior"]["key"],
        "threads": plan.threads,
        "plan, MB": plan.peak_bytes / 1e6,
        "peak, MB": (read_memory("VmHWM") - before) / 1e6,
        "CPU s per megapixel": (time.process_time() - began) / (side**2 / 2**20),
    }


def measure_in_process(
    side: int, prior: str, tile: int | None = None, channels: int = 1
) -> dict[str, Any]:
    """Do the same in a process of its own."""
    argv = [sys.executable, __file__, "one", str(side), prior, str(tile or 0), str(channels)]
    ended = subprocess.run(argv, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def measure_memory() -> None:
    """Compare plan and peak."""
    rows = [measure_in_process(side, "auto") for side in SIDES]
    rows += [measure_in_process(side, "auto", channels=3) for side in SIDES[:3]]
    rows += [measure_in_process(side, "noise") for side in (512, 1024)]
    rows += [measure_in_process(side, "auto", tile) for side, tile in IN_TILES]
    for row in rows:
        row["plan over peak"] = row["plan, MB"] / row["peak, MB"]
    off = [abs(row["plan over peak"] - 1) for row in rows]
    write("tiles_memory", rows, {"farthest off": max(off)})


def measure_speed() -> None:
    """CPU seconds per megapixel, of wholes and in tiles."""
    rows = [measure_in_process(side, "auto") for side in SPEED]
    rows += [measure_in_process(side, "auto", 1024) for side in SPEED[-2:]]
    each = [row["CPU s per megapixel"] for row in rows if not row["tile"]]
    summary = {"most by least, wholes": max(each) / min(each)}
    write("tiles_speed", rows, summary)


def measure_seam_energy(image: npt.NDArray[Any], middle: int, width: int) -> float:
    """Squared differences across the seams, near them by elsewhere."""
    pixels = image.astype(np.float64)
    near = elsewhere = 0.0
    for axis in (0, 1):
        square = np.moveaxis(np.diff(pixels, axis=axis) ** 2, axis, 0)
        close = np.abs(np.arange(len(square)) + 0.5 - middle) < width
        near, elsewhere = near + square[close].mean(), elsewhere + square[~close].mean()
    return float(near / elsewhere)


def measure_quality() -> None:
    """Four tiles against the whole."""
    import napari_dip as dip

    kept = OUT / "tiles_quality.rows.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    for field in FMD_FIELDS[:1] + FMD_FIELDS[2:]:
        if any(row["image"] == field for row in rows):
            continue
        raw, truth = fmd(field, 1)
        tile, reach = TILE, REACH
        if field.startswith("WideField"):
            raw, truth = four_times(raw), four_times(truth)
            tile, reach = 2 * TILE, 2 * REACH
        whole = dip.denoise(raw, preset="fast", device="cpu")
        parts = dip.denoise(raw, preset="fast", device="cpu", tile=tile)
        middle = raw.shape[0] // 2
        share = [
            measure_seam_energy(parts.image, middle, width)
            / measure_seam_energy(whole.image, middle, width)
            for width in (reach, 2)
        ]
        rows.append(
            {
                "image": field,
                "tile": tile,
                "whole, dB": psnr(whole.image, truth),
                "tiles, dB": psnr(parts.image, truth),
                "gain, dB": psnr(parts.image, truth) - psnr(whole.image, truth),
                "seams by whole, shared pixels": share[0],
                "seams by whole, 4 pixels": share[1],
            }
        )
        print(rows[-1], flush=True)
        OUT.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows), encoding="utf-8")
    names = [name for name in rows[0] if name not in ("image", "tile")]
    summary = {f"mean {name}": float(np.mean([row[name] for row in rows])) for name in names}
    write("tiles_quality", rows, summary)


def measure_large() -> None:
    """Restore 268 megapixels through the command line, and watch the memory."""
    from tifffile import memmap

    folder = OUT / "tiles_large"
    folder.mkdir(parents=True, exist_ok=True)
    source, result = folder / "shot.tif", folder / "result.tif"
    if not source.exists():
        file = memmap(source, shape=(LARGE, LARGE), dtype=np.uint16)
        rows = mirror_image(LARGE // 8)
        for first in range(0, LARGE, len(rows)):
            file[first : first + len(rows)] = np.tile(rows, 8)
        file.flush()
    began = time.monotonic()
    argv = ["denoise", str(source), "-o", str(result), "--max-iterations", "3", "--overwrite"]
    argv += ["--resume", "--report", str(folder / "report.json")]
    ended = subprocess.run(
        [sys.executable, __file__, "command", *argv],
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ},
    )
    row = {**json.loads(ended.stdout.splitlines()[-1]), "seconds": time.monotonic() - began}
    write("tiles_large", [{"side": LARGE, **row}], {"most allowed, MB": 4000.0})


def command(arguments: list[str]) -> None:
    """Run the command line in this process, and say how much memory it took above its imports."""
    from napari_dip.cli import main

    load_all()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = read_memory("VmRSS")
    code = main(arguments)
    print(json.dumps({"exit": code, "peak, MB": (read_memory("VmHWM") - before) / 1e6}))


def main() -> None:
    """Do what was asked for."""
    if sys.argv[1:2] == ["one"]:
        side, prior, tile, channels = sys.argv[2:]
        print(json.dumps(measure_tile(int(side), prior, int(tile) or None, int(channels))))
        return
    if sys.argv[1:2] == ["command"]:
        command(sys.argv[2:])
        return
    parts = {
        "memory": measure_memory,
        "speed": measure_speed,
        "quality": measure_quality,
        "large": measure_large,
    }
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    for name in ask.parse_args().parts or ("memory", "speed", "quality"):
        parts[name]()


if __name__ == "__main__":
    main()
