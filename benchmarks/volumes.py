"""Stacks larger than memory, as OME-Zarr: peak memory, and PSNR as a volume and plane by plane.

Usage: python benchmarks/volumes.py [memory] [earnest] [--megabytes 32 128 512] [--crop 4]
           [--ways planes volume together alone] [--preset fast] [--side 1024] [--tile 512]
           [--keep-after STEPS]

memory   peak above the import baseline of `napari-dip denoise in.ome.zarr -o out.ome.zarr
         --max-iterations 3`, in tiles, one process for each size. The embryo of the shared stacks,
         mirrored until it is as large as asked for, 16 bit; sizes differ in their planes. Each
         result is opened again: shape, units, provenance, levels. Where the packages ome-zarr and
         ome-zarr-models are found (an environment of their own, named by OME_ZARR_PYTHON, since
         they want other versions of other packages), these have to take it as well.
         With --keep-after the run is ended after so many steps, in the first tiles, and the rest of
         the result is the input: all is read, hashed, put together and written as ever, so that
         the peak is the same, in minutes instead of hours.
earnest  a crop of the same stack with noise of our own (Poisson at a peak of 30 counts, normal of
         standard deviation 2), PSNR against the stack as it came. In tiles: plane by plane and as
         a volume, which takes days for `--crop 64`. Whole: `--ways together alone`, one network
         for all planes, and each of eight planes by itself.

Resumable: rows that are there already are kept; so are the input and what a run has come to.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_dip import denoise
from napari_dip.io.reading import read_header, read_pixels
from napari_dip.io.writing import write_zarr
from shared_data import OUT, data_folder, write
from stacks import PEAK, READ, compute_psnr

#: Sides of tiles: those which are taken where the memory asks for them.
TILES = {"planes": 512, "volume": 192}
#: Without tiles: one network for all planes, or each of a few planes by itself.
WHOLE = ("together", "alone")
#: How many planes are restored each by itself, evenly spread: all of them would take hours.
FEW = 8
SIZES = {"Z": (0.5, "micrometer"), "Y": (0.5, "micrometer"), "X": (0.5, "micrometer")}
#: Carried out where ome-zarr is installed.
VALIDATE = """
import sys, zarr, ome_zarr_models
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
path = sys.argv[1]
ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))
node = next(iter(Reader(parse_url(path))()))
assert len(node.data) > 0 and node.metadata["axes"][0]["unit"] == "micrometer"
"""


class MirroredStack:
    """A real stack and its mirror images side by side, as large as asked for; 16 bit."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        volume = tifffile.imread(data_folder() / "stacks3d" / "arabidopsis_embryo.tif")
        self._stack = volume.astype(np.uint16)
        self.shape, self.dtype, self.ndim = shape, np.dtype(np.uint16), 3

    def __getitem__(self, place: Any) -> npt.NDArray[np.uint16]:
        lines = []
        for index, side, source_side in zip(place, self.shape, self._stack.shape, strict=True):
            line = np.arange(side)[index] % (2 * source_side)
            lines.append(np.minimum(line, 2 * source_side - 1 - line))
        return np.asarray(self._stack[np.ix_(*lines)])


def make_shape(megabytes: float, side: int) -> tuple[int, int, int]:
    """Give the shape of a stack of that size, in 16 bit."""
    return max(8, round(megabytes * 2**19 / side**2)), side, side


def restore(source: Path, result: Path, variant: str, tile: int, *further: str) -> dict[str, Any]:
    """Restore through the command line, in a process of its own; what it took."""
    cut = ["--tile", str(tile or TILES[variant])] if variant in TILES else []
    stacks = ["--stacks", variant if variant in TILES else "planes"]
    argv = ["denoise", str(source), "-o", str(result), "--device", "cpu", *stacks, *cut]
    argv += ["--resume", "--overwrite", *further]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tiles.py")), "command", *argv],
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    record: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert record["exit"] == 0, record
    return {"peak, MB": record["peak, MB"], "seconds": time.monotonic() - began}


def check_result(result: Path, shape: tuple[int, ...]) -> str:
    """Open a result as its reader would; say what has taken it."""
    header = read_header(result)
    assert (header.shape, header.axes) == (shape, "ZYX"), header
    assert header.units == ("micrometer",) * 3, header
    python = os.environ.get("OME_ZARR_PYTHON")
    if not python:
        return "this package"
    subprocess.run([python, "-c", VALIDATE, str(result)], check=True)
    return "ome-zarr, ome-zarr-models"


def measure_memory(options: argparse.Namespace) -> None:
    """Peak against size."""
    rows = read_rows("volumes_memory")
    for variant in options.ways:
        for megabytes in options.megabytes:
            record = {"way": variant, "MB": megabytes, "tile": options.tile or TILES[variant]}
            record |= {"ended after": options.keep_after or ""}
            if any(record.items() <= row.items() for row in rows):
                continue
            shape = make_shape(megabytes, options.side)
            folder = OUT / "volumes" / f"{variant}_{megabytes:g}"
            folder.mkdir(parents=True, exist_ok=True)
            source, result = folder / "in.ome.zarr", folder / "out.ome.zarr"
            if not source.exists():
                write_zarr(source, MirroredStack(shape), "ZYX", SIZES, provenance={})
            further = ["--max-iterations", "3"]
            further += ["--keep-after", str(options.keep_after)] if options.keep_after else []
            took = restore(source, result, variant, options.tile, *further)
            row = {**record, "shape": "×".join(map(str, shape)), **took}
            rows.append({**row, "taken by": check_result(result, shape)})
            write_rows("volumes_memory", rows)
            shutil.rmtree(folder)  # twice the input's size
    peaks = {
        variant: [row["peak, MB"] for row in rows if row["way"] == variant] for variant in TILES
    }
    summary = {
        f"{variant}: most by least": max(each) / min(each)
        for variant, each in peaks.items()
        if each
    }
    write("volumes_memory", rows, {"most allowed, MB": 3000.0, **summary})


def measure_quality(options: argparse.Namespace) -> None:
    """Quality as a volume against plane by plane, both in tiles."""
    name = f"volumes_{options.preset}_{options.crop:g}MB"
    rows = read_rows(name)
    side = 2 * round((options.crop * 2**19) ** (1 / 3))
    shape = make_shape(options.crop, side)
    truth = MirroredStack(shape)[(slice(None),) * 3].astype(np.float64)
    truth = truth - truth.min()
    truth *= PEAK / np.percentile(truth, 99.9)
    rng = np.random.default_rng(0)
    noisy = (rng.poisson(truth) + rng.normal(0, READ, shape)).astype(np.float32)
    folder = OUT / "volumes" / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "in.ome.zarr"
    if not source.exists():
        write_zarr(source, noisy, "ZYX", SIZES, provenance={})
    few = np.linspace(0, shape[0] - 1, FEW).round().astype(int)
    for variant in options.ways:
        if any(row["way"] == variant for row in rows):
            continue
        result = folder / f"{variant}.ome.zarr"
        if variant == "alone":
            began, image = time.monotonic(), np.array(noisy)
            for plane in few:
                image[plane] = denoise(noisy[plane], preset=options.preset, device="cpu").image
            took = {"peak, MB": "", "seconds": (time.monotonic() - began) * shape[0] / FEW}
        else:
            took = restore(source, result, variant, options.tile, "--preset", options.preset)
            image = read_pixels(read_header(result))
        row: dict[str, Any] = {"way": variant, "shape": "×".join(map(str, shape))}
        row["input dB"] = compute_psnr(noisy, truth)
        row["dB"] = "" if variant == "alone" else compute_psnr(image, truth)
        row["dB of few planes"] = compute_psnr(image[few], truth[few])
        rows.append({**row, **took})
        write_rows(name, rows)
    psnr_by_variant = {row["way"]: row["dB of few planes"] for row in rows}
    gains = {
        f"{variant} over alone, dB": each - psnr_by_variant["alone"]
        for variant, each in psnr_by_variant.items()
        if "alone" in psnr_by_variant and variant != "alone"
    }
    write(name, rows, {"planes each by itself": len(few), **gains})


def read_rows(name: str) -> list[dict[str, Any]]:
    """Read the rows that are done."""
    path = OUT / f"{name}.rows.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    """Keep the rows that are done."""
    print(rows[-1], file=sys.stderr, flush=True)
    (OUT / f"{name}.rows.json").write_text(json.dumps(rows), encoding="utf-8")


def main() -> None:
    """Do what was asked for."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("parts", nargs="*", choices=["memory", "earnest", []], default=[])
    ask.add_argument("--megabytes", type=float, nargs="+", default=[32.0, 128.0, 512.0])
    ask.add_argument("--crop", type=float, default=4.0, help="megabytes of the part 'earnest'")
    ask.add_argument("--ways", nargs="+", choices=[*TILES, *WHOLE], default=list(TILES))
    ask.add_argument("--preset", default="fast")
    ask.add_argument("--side", type=int, default=1024, help="of the planes of the part 'memory'")
    ask.add_argument("--tile", type=int, default=0, help="another side of tiles")
    ask.add_argument("--keep-after", type=int, default=0, help="steps after which to end")
    options = ask.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in options.parts or ("memory", "earnest"):
        {"memory": measure_memory, "earnest": measure_quality}[name](options)


if __name__ == "__main__":
    main()
