"""Planes left out of stacks: PSNR of what fills them, against interpolation and another network.

Usage: python benchmarks/axial.py [--factors 2 4] [--preset fast] [--only pollen]
Crops of the shared stacks, of which every second or every fourth plane is kept. PSNR over the
planes that were left out, at the range of the crop. cubic: cubic convolution (Keys 1981); spline:
interpolating cubic spline; isotropic: a network of this stack alone, after Weigert et al.
(Isotropic reconstruction of 3D fluorescence microscopy images, MICCAI 2017), which learns on planes
whose columns were left out, and restores sections of the spline along Z in both directions. Ours:
`inpaint` of the missing planes, and `super_resolve` along Z, whose planes lie half a plane beside
those of the stack and are moved by a spline. Resumable: rows that are there are kept.
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
from scipy.interpolate import CubicSpline
from torch import nn

import napari_dip as dip
from napari_dip.engine.networks.hourglass import Hourglass
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Volume = npt.NDArray[np.float32]

#: Name, and first plane, row and column of the crop.
CROPS = {
    "arabidopsis_embryo": (37, 32, 30),
    "pollen": (0, 104, 104),
    "nuclei3d_stardist": (1, 6, 4),
}
#: Size of the crops; the first and the last plane are kept with all factors.
FRAME = (29, 48, 48)
#: Steps, sections of a step and rate of the isotropic network, and its channels: those of `fast`.
STEPS, BATCH, RATE, WIDTHS = 400, 8, 0.0025, (16, 32, 64)


def compute_psnr(image: npt.NDArray[Any], truth: Volume, factor: int) -> float:
    """Peak signal-to-noise ratio over the planes that were left out."""
    missing = np.arange(len(truth)) % factor > 0
    error = np.mean((image[missing].astype(np.float64) - truth[missing]) ** 2)
    return float(10 * np.log10(np.ptp(truth) ** 2 / error))


def interpolate(kept: Volume, factor: int, method: str) -> Volume:
    """Fill in the planes between the kept ones, along the first axis."""
    count = (len(kept) - 1) * factor + 1
    position = np.arange(count) / factor
    if method == "spline":
        return CubicSpline(np.arange(len(kept)), kept, axis=0)(position).astype(np.float32)
    base = np.minimum(position.astype(int), len(kept) - 2)
    t = (position - base).reshape(-1, *[1] * (kept.ndim - 1))
    planes = [kept[np.clip(base + offset, 0, len(kept) - 1)] for offset in (-1, 0, 1, 2)]
    if method == "linear":
        return ((1 - t) * planes[1] + t * planes[2]).astype(np.float32)
    weights = (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    return sum(w * p for w, p in zip(weights, planes, strict=True)).astype(np.float32)


def degrade_rows(planes: Volume, factor: int) -> Volume:
    """Leave rows of (N, H, W) out, and fill them in by the spline."""
    rows = planes[:, : (planes.shape[1] - 1) // factor * factor + 1]
    return interpolate(rows[:, ::factor].swapaxes(0, 1), factor, "spline").swapaxes(0, 1)


def fill_in_by_network(kept: Volume, factor: int) -> Volume:
    """Fill planes in by a network that has learned to fill in rows and columns of these planes."""
    rng = torch.Generator().manual_seed(0)
    scale = float(np.ptp(kept))
    targets = np.concatenate([kept, kept.swapaxes(1, 2)]) / scale
    inputs = degrade_rows(targets, factor)
    pairs = torch.from_numpy(np.stack([inputs, targets[:, : inputs.shape[1]]], 1))
    network = Hourglass(
        2, 1, 1, WIDTHS, skip_channels=None, is_normalised=False, rng=rng, preserves_variance=True
    )
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = pairs[torch.randint(len(pairs), (BATCH,), generator=rng)]
        if torch.rand((), generator=rng) < 0.5:
            chosen = chosen.flip(-1)
        spline, target = chosen[:, :1], chosen[:, 1:]
        loss = nn.functional.mse_loss(spline + network(spline), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    filled = torch.from_numpy(interpolate(kept, factor, "spline") / scale)
    with torch.no_grad():
        rows, columns = filled.permute(1, 0, 2)[:, None], filled.permute(2, 0, 1)[:, None]
        changes = network(rows)[:, 0].permute(1, 0, 2) + network(columns)[:, 0].permute(1, 2, 0)
    image: Volume = ((filled + changes / 2) * scale).numpy()
    return image


def measure(name: str, factor: int, preset: str) -> dict[str, Any]:
    """Leave planes of one crop out, and fill them in."""
    whole = tifffile.imread(data_folder() / "stacks3d" / f"{name}.tif").astype(np.float32)
    cut = tuple(slice(first, first + n) for first, n in zip(CROPS[name], FRAME, strict=True))
    truth = whole[cut]
    kept = truth[::factor]
    row: dict[str, Any] = {"stack": name, "every": factor}
    for method in ("linear", "cubic", "spline"):
        row[f"{method} dB"] = compute_psnr(interpolate(kept, factor, method), truth, factor)
    began = time.process_time()
    row["isotropic dB"] = compute_psnr(fill_in_by_network(kept, factor), truth, factor)
    row["isotropic CPU seconds"] = time.process_time() - began
    holes = np.zeros(truth.shape, np.uint8)
    holes[np.arange(len(truth)) % factor > 0] = 1
    began = time.process_time()
    result = dip.inpaint(np.where(holes, 0, truth), mask=holes, preset=preset, axes="ZYX")
    row["inpaint dB"] = compute_psnr(result.image, truth, factor)
    row["inpaint CPU seconds"] = time.process_time() - began
    began = time.process_time()
    result = dip.super_resolve(kept, factor=(factor, 1, 1), preset=preset, axes="ZYX")
    position = np.arange(len(truth)) + (factor - 1) / 2
    moved = CubicSpline(np.arange(len(result.image)), result.image, axis=0)(position)
    row["super-resolve dB"] = compute_psnr(moved, truth, factor)
    row["super-resolve CPU seconds"] = time.process_time() - began
    return row


def main() -> None:
    """Run all crops that have no row yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--only", nargs="*", default=list(CROPS))
    options = parser.parse_args()
    title = f"axial_{options.preset}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(row["stack"], row["every"]) for row in rows}
    for factor in options.factors:
        for name in options.only:
            if (name, factor) in done:
                continue
            rows.append(measure(name, factor, options.preset))
            print(rows[-1], file=sys.stderr, flush=True)
            write(title, rows, {"preset": options.preset})


if __name__ == "__main__":
    main()
