"""Make the pictures of the pages on super-resolution and deblurring again, in docs/images.

Both begin with free images that are spoilt here: the long exposure of the bundled mitochondria
(CC0) is binned to coarse pixels, and scikit-image's cell (CC0) is blurred with the computed PSF
of a microscope and given photon noise. Takes a few minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from scipy.signal import fftconvolve
from skimage import data

import napari_dip as dip
from napari_dip.engine.psf import microscope_psf, microscope_sizes
from napari_dip.run.report import before_after
from napari_dip.samples import MITOCHONDRIA

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
#: A widefield microscope of low aperture and fine pixels: the blur is some five pixels wide.
OPTICS = {"model": "widefield", "na": 0.5, "wavelength": 600.0, "pixel_size": 160.0}
#: Photons at the brightest pixel of the blurred cell.
PEAK = 400.0


def super_resolved() -> bytes:
    """Coarse, restored and true mitochondria."""
    long = tifffile.imread(MITOCHONDRIA)[1].astype(np.float64)[64:256, 64:256]
    coarse = long.reshape(96, 2, 96, 2).mean((1, 3)).astype(np.float32)
    result = dip.super_resolve(coarse, factor=2, model="binning", preset="fast", device="cpu")
    print("super-resolved:", *(rms(one, long) for one in (enlarged(coarse), result.image)))
    titles = ("Coarse pixels", "Super-resolved × 2", "Before binning")
    return before_after(enlarged(coarse), result.image, long, titles=titles)


def deblurred() -> bytes:
    """Blurred, restored and true cell."""
    whole = data.cell()[190:390, 190:390].astype(np.float64)
    na, wavelength, pixel = (OPTICS[key] for key in ("na", "wavelength", "pixel_size"))
    sizes = microscope_sizes(na, wavelength, (pixel, pixel), 1.0)
    psf = microscope_psf("widefield", na, wavelength, (pixel, pixel), 1.0, sizes).numpy()
    light = fftconvolve(whole, psf, mode="valid")  # what comes in from outside is in it
    beyond = sizes[0] // 2
    truth = whole[beyond:-beyond, beyond:-beyond]
    gain = light.max() / PEAK
    blurred = (gain * np.random.default_rng(0).poisson(light / gain)).astype(np.float32)
    result = dip.deblur(blurred, refractive_index=1.0, preset="fast", device="cpu", **OPTICS)
    print("deblurred:", *(rms(one, truth) for one in (blurred, result.image)))
    return before_after(blurred, result.image, truth, titles=("Blurred", "Deblurred", "Truth"))


def enlarged(coarse: np.ndarray) -> np.ndarray:
    """Repeat each pixel."""
    return coarse.repeat(2, 0).repeat(2, 1)


def rms(image: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square error in the image's units."""
    return round(float(np.sqrt(np.mean((image - truth) ** 2))), 3)


if __name__ == "__main__":
    (IMAGES / "super_resolve.png").write_bytes(super_resolved())
    (IMAGES / "deblur.png").write_bytes(deblurred())
