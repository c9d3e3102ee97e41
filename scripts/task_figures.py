"""Make the before-and-after images of the tasks' pages again, from the shipped samples.

Usage: python scripts/task_figures.py [super_resolve deblur blind_deblur guide movie stack]

Each sample is restored with the preset `fast`, nothing told but what the sample itself brings.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_dip as dip
from napari_dip.pipeline.assess.report_figures import plot_before_after
from napari_dip.samples import (
    make_binned_sample,
    make_blurred_sample,
    make_movie_sample,
    make_stack_sample,
    make_weak_channel_sample,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.samples import DegradedSample

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
#: Frame of the movie, and plane of the stack, that are shown.
FRAME, PLANE = 5, 8


def super_resolve() -> None:
    """Halve the pixels of what a camera had binned."""
    sample = make_binned_sample()
    result = dip.super_resolve(sample.image, factor=2, downsampling="binning", preset="fast")
    wide = sample.image.repeat(2, 0).repeat(2, 1)
    show("super_resolve", wide, result, sample, ("Coarse pixels", "Super-resolved × 2"))


def deblur() -> None:
    """Undo a blur whose PSF is known."""
    sample = make_blurred_sample()
    result = dip.deblur(sample.image, sample.extra_inputs["psf"], preset="fast")
    show("deblur", sample.image, result, sample, ("Blurred", "Deblurred"))


def blind_deblur() -> None:
    """Undo the same blur without being told."""
    sample = make_blurred_sample()
    result = dip.blind_deblur(sample.image, psf_size=17, preset="fast")
    print("width found:", result.learned_parameters["sigmas"])
    show("blind_deblur", sample.image, result, sample, ("Blurred", "Blind-deblurred"))


def guide() -> None:
    """Let a clean channel help one of few photons."""
    sample = make_weak_channel_sample()
    result = dip.guide(sample.image, sample.extra_inputs["guide"], preset="fast")
    print("prior:", result.report["prior"])
    show("guide", sample.image, result, sample, ("Few photons", "Guided"))


def nuclei() -> None:
    """Denoise a movie frame by frame."""
    sample = make_movie_sample()
    result = dip.denoise(sample.image, axes="TYX", preset="fast")
    show("movie", sample.image, result, sample, ("A frame", "Denoised"), FRAME)


def embryo() -> None:
    """Denoise a stack as a volume."""
    sample = make_stack_sample()
    result = dip.denoise(sample.image, axes="ZYX", preset="fast")
    show("stack", sample.image, result, sample, ("A plane", "Denoised"), PLANE)


def show(
    name: str,
    image: npt.NDArray[Any],
    result: Restoration,
    sample: DegradedSample,
    titles: tuple[str, str],
    plane: int | None = None,
) -> None:
    """Draw what there was, what came of it, and the truth; say how near it came."""
    apart = [
        float(np.sqrt(np.mean((pixels - sample.truth) ** 2))) for pixels in (image, result.image)
    ]
    print(f"{name}: off by {apart[0]:.3f} before, {apart[1]:.3f} after,", end=" ")
    print(f"{result.report['seconds']:.0f} s, {result.stop}")
    panels = [np.asarray(pixels, np.float64) for pixels in (image, result.image, sample.truth)]
    if plane is not None:
        panels = [panel[plane] for panel in panels]
    drawn = plot_before_after(*panels, titles=(*titles, "Truth"))
    (IMAGES / f"{name}.png").write_bytes(drawn)


KINDS: dict[str, Callable[[], None]] = {
    "super_resolve": super_resolve,
    "deblur": deblur,
    "blind_deblur": blind_deblur,
    "guide": guide,
    "movie": nuclei,
    "stack": embryo,
}

if __name__ == "__main__":
    for kind in sys.argv[1:] or KINDS:
        KINDS[kind]()
