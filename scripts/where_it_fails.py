"""Compute the examples of docs/where-it-fails.md: the table there, and its image.

    python scripts/where_it_fails.py

Energies of single targets, and *Denoise* (`fast`) on mitochondria of the samples, 96 x 96 pixels,
with noise of half their standard deviation: as they are, with a fine grating, with salt and pepper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tifffile import imread

import napari_dip
from napari_dip.engine.fit.stopping import Control
from napari_dip.explore.experiment_fit import iter_fit
from napari_dip.explore.experiment_setup import compute_psnr, make_experiment_setup, standardise
from napari_dip.pipeline.assess.report_figures import (
    compute_contrast_limits,
    make_figure,
    plot_image,
    render_figure,
    stretch_contrast,
)
from napari_dip.pipeline.torch_state import use_default_torch_state
from napari_dip.samples import TWO_CHANNELS

SIDE, ITERATIONS = 96, 60
#: Of the noise and of the grating, in standard deviations of the image.
NOISE, GRATING = 0.5, 0.5
#: Share of the pixels that are replaced by black or white.
IMPULSES = 0.05
IMAGE = Path(__file__).resolve().parents[1] / "docs" / "images" / "where_it_fails.png"

Image = npt.NDArray[np.float32]


def mitochondria() -> Image:
    """Cut the middle out."""
    whole = imread(TWO_CHANNELS)[0].astype(np.float32)
    row, column = ((count - SIDE) // 2 for count in whole.shape)
    return whole[row : row + SIDE, column : column + SIDE]


def grating(period: float) -> Image:
    """Give oblique lines of unit variance; the period is in pixels."""
    down, across = np.mgrid[:SIDE, :SIDE] / period
    return (np.sqrt(2) * np.sin(2 * np.pi * (0.8 * across + 0.6 * down))).astype(np.float32)


def peppered(image: Image) -> Image:
    """Replace single pixels by the image's extremes."""
    rng = np.random.default_rng(1)
    drawn, black = rng.random(image.shape) < IMPULSES, rng.random(image.shape) < 0.5
    return np.where(drawn, np.where(black, image.min(), image.max()), image)


def energies() -> None:
    """Print how soon the network of `fast` learns each target."""
    clean = mitochondria()
    down, across = np.mgrid[:SIDE, :SIDE]
    targets = {
        "mitochondria": clean,
        "lines, period 16": grating(16),
        "lines, period 6": grating(6),
        "lines, period 3.5": grating(3.5),
        "lines, period 2.4": grating(2.4),
        "checkerboard of single pixels": (-1.0) ** (down + across),
        "salt and pepper alone": peppered(clean) - clean,
        "noise": np.random.default_rng(0).standard_normal(clean.shape),
    }
    subject = make_experiment_setup(clean, max_iterations=ITERATIONS, device="cpu")
    print("| target | energy at 10 | at 25 | at 60 |\n|---|---|---|---|")
    for name, target in targets.items():
        steps = iter_fit(standardise(target), subject, poll_control=lambda: Control.GO)
        with use_default_torch_state(subject.plan.threads):
            curve = [step.loss for step in steps]
        print(f"| {name} | {curve[9]:.3f} | {curve[24]:.3f} | {curve[59]:.3f} |", flush=True)


def denoised() -> None:
    """Print what *Denoise* makes of each image, and draw it."""
    clean = mitochondria()
    unit = float(clean.std())
    drawn = NOISE * unit * np.random.default_rng(0).standard_normal(clean.shape)
    fine = clean + GRATING * unit * grating(2.4)
    noisy, lined = ((scene + drawn).astype(np.float32) for scene in (clean, fine))
    peppery = peppered(noisy)
    cases: dict[str, tuple[Image, Image, dict[str, Any]]] = {
        "as it is": (noisy, clean, {}),
        "lines of period 2.4, automatic": (lined, fine, {}),
        "lines, noise told": (lined, fine, {"gain": 0, "read_noise": NOISE * unit}),
        "lines, the paper's code": (lined, fine, {"prior": "random-input", "max_iterations": 200}),
        "salt and pepper, taken for noise": (peppery, clean, {"noise": "poisson-gaussian"}),
        "salt and pepper, named": (peppery, clean, {"noise": "salt-and-pepper"}),
    }
    rows = {}
    print("\n| picture | input | output | lines kept | warnings |\n|---|---|---|---|---|")
    for name, (image, truth, settings) in cases.items():
        result = napari_dip.denoise(image, preset="fast", seed=0, device="cpu", **settings)
        lines = grating(2.4)
        kept = float(np.mean((result.image - clean) * lines)) / (GRATING * unit)
        lines_kept = f"{kept:.0%}" if "lines" in name else "-"
        warning_text = " ".join(result.report["verdict"]["warnings"]) or "none"
        before, after = compute_psnr(image, truth), compute_psnr(result.image, truth)
        print(
            f"| {name} | {before:.2f} dB | {after:.2f} dB | {lines_kept} | {warning_text} |",
            flush=True,
        )
        rows[name] = (truth, image, result.image, image - result.image)
    draw(rows)


def draw(panels_by_case: dict[str, tuple[Image, ...]]) -> None:
    """Draw truth, input, output and residual of each case."""
    figure = make_figure(8.6, 2.2 * len(panels_by_case))
    rows = figure.subplots(len(panels_by_case), 4)
    heads = ("truth", "input", "output", "residual")
    for panels, (name, images) in zip(rows, panels_by_case.items(), strict=True):
        limits = compute_contrast_limits(images[0])
        span = limits[1] - limits[0]
        for panel, head, image in zip(panels, heads, images, strict=True):
            low, high = (-span / 2, span / 2) if head == "residual" else limits
            plot_image(panel, stretch_contrast(image, low, high))
            panel.set_title(head if head != "truth" else f"{name}\n{head}", fontsize=8)
    IMAGE.write_bytes(render_figure(figure))


if __name__ == "__main__":
    energies()
    denoised()
