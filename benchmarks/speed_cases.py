"""Images of the speed benchmark: 256 x 256 pixels, or as in the examples of a task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage.io import imread

from quality_sets import SETS
from shared_data import data_folder, psnr
from super_resolve import compute_luma_psnr, crop_to_multiple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

SIDE, FACTOR = 256, 4


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be restored, and what judges it.

    Attributes
    ----------
    kind : str
        "micrograph", "photograph" (both to be denoised), "inpaint" or "super-resolve".
    noisy, truth : ndarray
        (Y, X) or (Y, X, C), 0 to 255.
    judge : callable
        image -> dB.
    known : ndarray or None
        (Y, X) bool, where half of the pixels are missing.
    factor : int
        How many times finer the truth is.
    published : float or None
        dB of the published output of Deep Image Prior for this very input.
    source : Any
        The image as the quality benchmark has it, for its methods.
    """

    kind: str
    noisy: npt.NDArray[Any]
    truth: npt.NDArray[Any]
    judge: Callable[[npt.NDArray[Any]], float]
    mask: npt.NDArray[np.bool_] | None = None
    factor: int = 1
    published: float | None = None
    source: Any = None


@dataclass(frozen=True)
class Case:
    """A named image."""

    name: str
    kind: str
    load: Callable[[], Problem]


def list_cases() -> Iterator[Case]:
    """All images, those on which nothing of ours was chosen first."""
    fields = {case.name: case for case in SETS["fmd256"]()}
    first = ("Confocal_BPAE_R_raw1", "TwoPhoton_BPAE_R_raw1", "WideField_BPAE_B_raw1")
    for name in (*first, *(field for field in fields if field not in first)):
        yield Case(f"fmd256-{name}", "micrograph", partial(_denoise, "micrograph", fields[name]))
    photographs = {case.name: case for case in SETS["color9-25"]()}
    first = ("peppers", "kodim01")
    for name in (*first, *(photograph for photograph in photographs if photograph not in first)):
        load = partial(_denoise, "photograph", photographs[name])
        yield Case(f"color9-25-{name}", "photograph", load)
    for name in ("Cameraman256", "montage"):
        yield Case(f"inpaint-{name}", "inpaint", partial(_inpaint, name))
    for folder, name in (("set14", "comic"), ("set5", "bird")):
        yield Case(f"x{FACTOR}-{name}", "super-resolve", partial(_super_resolve, folder, name))


def _denoise(kind: str, case: Any) -> Problem:
    noisy, truth = (_middle(image) for image in case.load())
    return Problem(kind, noisy, truth, partial(_psnr, truth), source=case)


def _inpaint(name: str) -> Problem:
    """Missing is what is 0 in the masked image, as published."""
    folder = data_folder() / "inpaint11"
    masked, truth, dip = (
        imread(folder / f"{name}_{kind}.png").astype(np.float64)
        for kind in ("masked", "gt", "deep_prior")
    )
    judge = partial(_psnr, truth)
    return Problem("inpaint", masked, truth, judge, mask=masked > 0, published=judge(dip))


def _super_resolve(folder: str, name: str) -> Problem:
    """As `super_resolve.py` has it: Lanczos down, judged on Y without a border."""
    source = data_folder() / folder
    truth = crop_to_multiple(imread(source / f"{name}_gt.png")[..., :3])
    coarser = (truth.shape[1] // FACTOR, truth.shape[0] // FACTOR)
    coarse = np.asarray(Image.fromarray(truth).resize(coarser, Image.Resampling.LANCZOS))
    judge = partial(_luma, truth)
    dip = crop_to_multiple(imread(source / f"{name}_dip_x{FACTOR}_published.png")[..., :3])
    whole = np.float64(coarse), np.float64(truth)
    return Problem("super-resolve", *whole, judge, factor=FACTOR, published=judge(dip))


def _psnr(truth: npt.NDArray[Any], image: npt.NDArray[Any]) -> float:
    return psnr(image, truth)


def _luma(truth: npt.NDArray[Any], image: npt.NDArray[Any]) -> float:
    return compute_luma_psnr(np.clip(np.rint(image), 0, 255).astype(np.uint8), truth, FACTOR)


def _middle(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cut the middle 256 x 256 pixels out, or take all there is."""
    starts = (max(0, (side - SIDE) // 2) for side in image.shape[:2])
    rows, columns = (slice(start, start + SIDE) for start in starts)
    return image[rows, columns]
