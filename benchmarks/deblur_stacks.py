"""Deblurring of stacks as volumes: PSNR, against Richardson-Lucy at its oracle iteration.

Usage: python benchmarks/deblur_stacks.py [--preset balanced] [--only bars pollen grid]
bars: the hollow bars of DeconvolutionLab2 at a quarter of their size, blurred by its program with
a circular border; both answers are scaled to the truth by one least-squares gain. pollen: the
middle of the shared stack, blurred by us with a computed widefield PSF from an object larger than
the frame, then Poisson noise, default_rng(0). grid: a real confocal stack of a line grid with the
mean of real beads as its PSF; nothing but the profile across the lines can tell what is gained.
Resumable: rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from scipy.ndimage import maximum_filter
from skimage.io import imsave

import napari_dip as dip
from napari_dip.engine.deconvolution.psf import clean_psf, compute_microscope_psf
from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy
from napari_dip.engine.operators.imaging import CircularConvolution, ValidConvolution
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Volume = npt.NDArray[np.float32]

#: Iterations of Richardson-Lucy that are looked at; the best one by the truth is taken.
ITERATIONS = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 480, 960, 2000)
#: Water immersion on a widefield stand, lengths in nm.
OPTICS = {"na": 1.2, "wavelength": 520.0, "pixel_size": 100.0, "z_step": 300.0}
INDEX = 1.333
#: Frame of the pollen crop, and the counts at its brightest after blurring.
FRAME, COUNTS = (12, 48, 48), 200.0
#: Half size of the box around a bead, and the least share of the brightest bead's peak.
BEAD, BRIGHT = (6, 9, 9), 0.4


def read_stack(*parts: str) -> npt.NDArray[np.float64]:
    """Read a shared stack."""
    return np.asarray(tifffile.imread(data_folder().joinpath(*parts)), np.float64)


def compute_psnr(image: npt.NDArray[Any], truth: npt.NDArray[np.float64], *, fitted: bool) -> float:
    """PSNR at the truth's peak, after one least-squares gain if asked for."""
    image = image.astype(np.float64)
    gain = (image * truth).sum() / (image**2).sum() if fitted else 1.0
    return float(10 * np.log10(truth.max() ** 2 / np.mean((gain * image - truth) ** 2)))


def run_richardson_lucy(
    measured: Volume, psf: torch.Tensor, truth: npt.NDArray[np.float64], *, circular: bool
) -> tuple[float, int, Volume]:
    """Richardson-Lucy of the engine at the iteration that is best by the truth."""
    operator = CircularConvolution(psf) if circular else ValidConvolution(psf)
    beyond = (0,) * 3 if circular else operator.margin
    frame = tuple(slice(far, far + n) for n, far in zip(truth.shape, beyond, strict=True))
    start = torch.from_numpy(measured)[None, None]
    kept = run_masked_richardson_lucy(operator, start, torch.ones_like(start), ITERATIONS)
    guesses = [guess[0, 0].numpy() for guess in kept]
    scores = [compute_psnr(guess[frame], truth, fitted=circular) for guess in guesses]
    best = int(np.argmax(scores))
    return scores[best], ITERATIONS[best], guesses[best][frame]


def time_run(row: dict[str, Any], *arguments: Any, **settings: Any) -> Volume:
    """Run ours and note how it went."""
    start, began = time.perf_counter(), time.process_time()
    result = dip.deblur(*arguments, **settings)
    row["iterations"], row["best"] = result.report["iterations"], result.best_iteration
    row["seconds"] = time.perf_counter() - start
    row["CPU seconds"] = time.process_time() - began
    return result.image


def save_image(name: str, *volumes: npt.NDArray[Any]) -> None:
    """Draw middle planes above brightest points along Y, side by side, each to its own white."""
    columns = []
    for volume in volumes:
        top = np.concatenate([volume[len(volume) // 2], volume.max(1)])
        columns.append(np.clip(top / np.percentile(volume, 99.8), 0, 1))
    image = np.concatenate(columns, 1).repeat(3, 0).repeat(3, 1)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"deblur_stacks_{name}.png"
    imsave(path, np.rint(255 * image).astype(np.uint8), check_contrast=False)


def run_bars(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare on the hollow bars."""
    psf, truth, measured = (
        read_stack("deconv3d", "bars", f"{name}.tif") for name in ("psf", "gt", "blurred_noisy")
    )
    cleaned = clean_psf(torch.from_numpy(psf))
    row: dict[str, Any] = {"stack": "bars 32 × 64 × 64"}
    row["blurred dB"] = compute_psnr(measured, truth, fitted=True)
    measured = measured.astype(np.float32)
    row["RL dB"], row["RL iteration"], theirs = run_richardson_lucy(
        measured, cleaned[0], truth, circular=True
    )
    ours = time_run(row, measured, psf, border="circular", **settings)
    row["ours dB"] = compute_psnr(ours, truth, fitted=True)
    save_image("bars", measured, theirs, ours, truth)
    return row


def run_pollen(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare on pollen that was blurred by us."""
    psf = compute_psf()
    whole = read_stack("stacks3d", "pollen.tif")
    whole = np.maximum(whole - np.percentile(whole, 1), 0)
    beyond = [size // 2 for size in psf.shape]
    starts = [
        (have - want) // 2 - far for have, want, far in zip(whole.shape, FRAME, beyond, strict=True)
    ]
    cut = tuple(
        slice(start, start + want + 2 * far)
        for start, want, far in zip(starts, FRAME, beyond, strict=True)
    )
    larger = torch.from_numpy(whole[cut].astype(np.float32))[None, None]
    blurred = ValidConvolution(psf)(larger)[0, 0].numpy().clip(min=0)
    unit = COUNTS / blurred.max()
    inner = tuple(slice(far, -far) for far in beyond)
    truth = unit * whole[cut][inner]
    measured = np.random.default_rng(0).poisson(unit * blurred).astype(np.float32)
    row: dict[str, Any] = {"stack": f"pollen {' × '.join(map(str, FRAME))}"}
    row["blurred dB"] = compute_psnr(measured, truth, fitted=False)
    row["RL dB"], row["RL iteration"], theirs = run_richardson_lucy(
        measured, psf, truth, circular=False
    )
    ours = time_run(row, measured, psf.numpy(), **settings)
    row["ours dB"] = compute_psnr(ours, truth, fitted=False)
    save_image("pollen", measured, theirs, ours, truth)
    return row


def compute_psf() -> torch.Tensor:
    """Compute the PSF as the task does for the same optics."""
    from napari_dip.io import ImageHeader
    from napari_dip.tasks.deblur import Deblur, get_psf_source

    task = Deblur(microscope="widefield", refractive_index=INDEX, **OPTICS)
    sizes = get_psf_source(task).compute_psf_sizes(
        ImageHeader(name="pollen", shape=FRAME, dtype="float32", axes="ZYX"), None, "ZYX"
    )
    pixels = (OPTICS["z_step"], OPTICS["pixel_size"], OPTICS["pixel_size"])
    return compute_microscope_psf(
        "widefield", OPTICS["na"], OPTICS["wavelength"], pixels, INDEX, sizes
    )


def run_grid(settings: dict[str, Any]) -> dict[str, Any]:
    """Sharpen a real stack of lines with the mean of real beads; tell how deep the gaps become."""
    psf, count = average_beads(read_stack("deconv3d", "measured_grid", "beads.tif"))
    whole = read_stack("deconv3d", "measured_grid", "grid.tif").astype(np.float32)
    measured = whole[2:18, 51:99, 51:99]
    row: dict[str, Any] = {"stack": f"grid 16 × 48 × 48, mean of {count} beads"}
    row |= {"blurred dB": float("nan"), "RL dB": float("nan"), "RL iteration": 0}
    ours = time_run(row, measured, psf, **settings)
    row["ours dB"] = float("nan")
    profiles = {}
    for name, volume in (("before", measured), ("after", ours)):
        profiles[name] = volume[len(volume) // 2 - 2 : len(volume) // 2 + 3].mean((0, 1)).tolist()
        high, low = np.percentile(profiles[name], (95, 5))
        row[f"contrast {name}"] = float((high - low) / (high + low))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "deblur_stacks_grid_profile.json").write_text(json.dumps(profiles), encoding="utf-8")
    save_image("grid", measured, ours)
    return row


def average_beads(beads: npt.NDArray[np.float64]) -> tuple[Volume, int]:
    """Average the beads that lie whole within the stack and apart from each other."""
    beads = beads - np.median(beads)
    reach = tuple(2 * half + 1 for half in BEAD)
    peaks = np.argwhere((beads == maximum_filter(beads, reach)) & (beads > BRIGHT * beads.max()))
    boxes = []
    for peak in peaks:
        cut = tuple(slice(p - half, p + half + 1) for p, half in zip(peak, BEAD, strict=True))
        box = beads[cut]
        if box.shape == reach and min(edge.start for edge in cut) >= 0:
            boxes.append(box / box.sum())
    return np.maximum(np.mean(boxes, 0), 0).astype(np.float32), len(boxes)


def main() -> None:
    """Run all stacks that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--max-iterations", type=int)
    parser.add_argument("--smoothing", type=float)
    options = parser.parse_args()
    settings = {
        name: value
        for name in ("preset", "max_iterations", "smoothing")
        if (value := getattr(options, name)) is not None
    }
    title = "deblur_stacks_" + "_".join(map(str, settings.values()))
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for name, measure in (("bars", run_bars), ("pollen", run_pollen), ("grid", run_grid)):
        is_done = any(row["stack"].startswith(name) for row in rows)
        if is_done or (options.only and name not in options.only):
            continue
        rows.append(measure(dict(settings)))
        print(rows[-1], file=sys.stderr, flush=True)
        write(title, rows, settings)


if __name__ == "__main__":
    main()
