"""Make the images of docs/tasks/inpaint.md again: free images with holes made here.

Usage: python scripts/inpaint_figures.py [scattered letters large]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

import napari_dip as dip
from napari_dip.pipeline.assess.report_figures import plot_before_after

if TYPE_CHECKING:
    import numpy.typing as npt

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
#: Size of the letters, in pixels, and the lines that they make.
LETTERS = 18
LINES = ("scratches, dust", "and letters are", "narrow: their rim", "tells what was there") * 3


def scattered() -> None:
    """Lose half of the pixels of scikit-image's cell, one by one."""
    truth = data.cell()[200:456, 180:436]
    mask = np.random.default_rng(0).random(truth.shape) < 0.5
    show("inpaint_scattered", truth, mask)


def lettering() -> None:
    """Write over scikit-image's coins."""
    truth = data.coins()[20:276, 60:316]
    page = Image.new("L", truth.shape[::-1], 0)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(LETTERS)
    for row, line in enumerate(LINES):
        pen.text((4, 4 + 21 * row), line, fill=255, font=font)
    show("inpaint_letters", truth, np.asarray(page) > 127)


def large() -> None:
    """Cut a square of 40 pixels out of scikit-image's brick wall."""
    truth = data.brick()[:256, :256]
    mask = np.zeros(truth.shape, bool)
    mask[108:148, 108:148] = True
    show("inpaint_large", truth, mask)


def show(name: str, truth: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> None:
    """Fill in, and draw what there was, what came of it, and the truth."""
    result = dip.inpaint(np.where(mask, 0, truth), mask, preset="fast", device="cpu")
    wrong = np.sqrt(np.mean((result.image[mask] - truth[mask]) ** 2))
    print(f"{name}: error in the holes {wrong:.2f}, {result.report['seconds']:.0f} s")
    drawn = plot_before_after(
        np.where(mask, 0, truth), result.image, truth, titles=("Given", "Filled in", "Truth")
    )
    (IMAGES / f"{name}.png").write_bytes(drawn)


if __name__ == "__main__":
    kinds = {"scattered": scattered, "letters": lettering, "large": large}
    for kind in sys.argv[1:] or kinds:
        kinds[kind]()
