"""Measure PSFs from synthetic images of beads, and compare their widths with the true ones.

Usage: python benchmarks/bead_psf.py [--beads 60]
Fields of beads at random places, brightness 0.7 to 1.4, photon noise and read noise of 3 grey
values; PSFs of microscopes by scalar diffraction, which the measurement does not use. For each
field: error of the full width at half maximum along each axis in per cent, the greatest of them in
units of the claimed standard error, and how many beads were used.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

import napari_dip as dip
from napari_dip.engine.deconvolution.psf import compute_microscope_psf
from shared_data import write

if TYPE_CHECKING:
    import numpy.typing as npt

    Volume = npt.NDArray[np.float64]

#: Samples per pixel at which the half height of the true PSF is looked for.
SAMPLES = 32
#: Ratio of the peak of a bead to the noise there, photon noise included.
PEAK_RATIOS = (5, 10, 20, 50)
READ_NOISE = 3.0
#: Name -> arguments of `compute_microscope_psf`, and the size of the field without the part of Z.
PSFS: dict[str, tuple[dict[str, Any], int]] = {
    "widefield, NA 1.4, 65 nm": (
        {"microscope": "widefield", "na": 1.4, "pixel_nm": (65.0,) * 2, "sizes": (41, 41)},
        640,
    ),
    "widefield, NA 1.4, 100 nm": (
        {"microscope": "widefield", "na": 1.4, "pixel_nm": (100.0,) * 2, "sizes": (31, 31)},
        480,
    ),
    "air, NA 0.5, 200 nm": (
        {"microscope": "widefield", "na": 0.5, "pixel_nm": (200.0,) * 2, "sizes": (31, 31)},
        480,
    ),
    "confocal stack, NA 1.4": (
        {
            "microscope": "confocal",
            "na": 1.4,
            "pixel_nm": (200.0, 65.0, 65.0),
            "sizes": (21, 31, 31),
        },
        360,
    ),
    "widefield stack, NA 1.2": (
        {
            "microscope": "widefield",
            "na": 1.2,
            "pixel_nm": (250.0, 80.0, 80.0),
            "sizes": (31, 61, 61),
        },
        480,
    ),
}


def find_half_heights(psf: Volume) -> npt.NDArray[np.float64]:
    """Return the width at half height along each axis, by Fourier interpolation of the profiles.

    Nothing of the measurement is used.
    """
    widths = []
    for axis, count in enumerate(psf.shape):
        profile = np.moveaxis(psf, axis, -1)[tuple(n // 2 for n in np.delete(psf.shape, axis))]
        spectrum = np.fft.rfft(np.fft.ifftshift(profile))
        padded = np.zeros(count * SAMPLES // 2 + 1, complex)
        padded[: len(spectrum)] = spectrum
        fine = np.fft.irfft(padded, count * SAMPLES)
        half = fine[0] / 2
        beyond = int(np.argmax(fine < half))
        crossing = beyond - (half - fine[beyond]) / (fine[beyond - 1] - fine[beyond])
        widths.append(2 * crossing / SAMPLES)
    return np.array(widths)


def make_field(psf: Volume, side: int, count: int, ratio: float) -> npt.NDArray[np.float32]:
    """Put beads at random places, all planes of a stack deep enough for each of them."""
    rng = np.random.default_rng([int(ratio), side])
    depth = (psf.shape[0] + 8,) if psf.ndim == 3 else ()
    image = np.zeros((*depth, side, side))
    reach = np.array(psf.shape) // 2
    # the peak whose photon and read noise give the ratio
    peak = (ratio**2 + np.sqrt(ratio**4 + 4 * ratio**2 * READ_NOISE**2)) / 2
    for _ in range(count):
        last = np.array(image.shape) - reach - 2
        middle = rng.uniform(reach + 1, np.maximum(last, reach + 2))
        pixel = np.round(middle).astype(int)
        spectrum = ndimage.fourier_shift(np.fft.fftn(psf / psf.max()), middle - pixel)
        place = tuple(map(slice, pixel - reach, pixel + reach + 1))
        image[place] += peak * rng.uniform(0.7, 1.4) * np.fft.ifftn(spectrum).real.clip(min=0)
    noisy = rng.poisson(image) + rng.normal(0, READ_NOISE, image.shape) + 100
    return noisy.astype(np.float32)


def main() -> None:
    """Measure all fields."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beads", type=int, default=60, help="in each field")
    count = parser.parse_args().beads
    rows: list[dict[str, Any]] = []
    for name, (optics, side) in PSFS.items():
        psf = compute_microscope_psf(
            wavelength_nm=520, refractive_index=1.518, pinhole_airy=1.0, **optics
        ).numpy()
        true = find_half_heights(psf.astype(np.float64))
        for ratio in PEAK_RATIOS:
            report = dip.measure_psf(make_field(psf.astype(np.float64), side, count, ratio))
            errors = 100 * (np.array(report.fwhm) / true - 1)
            claimed = 100 * np.array(report.fwhm_error) / true
            rows.append(
                {
                    "PSF": name,
                    "peak over noise": ratio,
                    "FWHM, pixels": ", ".join(f"{width:.2f}" for width in true),
                    "error, %": ", ".join(f"{error:+.1f}" for error in errors),
                    "greatest error, %": float(np.abs(errors).max()),
                    "in standard errors": float(np.abs(errors / claimed).max()),
                    "beads used": len(report.positions),
                }
            )
            print(rows[-1], flush=True)
    within = sum(row["greatest error, %"] <= 3 for row in rows)
    write("bead_psf", rows, {"fields": len(rows), "within 3 % along all axes": within})


if __name__ == "__main__":
    main()
