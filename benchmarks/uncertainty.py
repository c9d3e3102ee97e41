"""Calibration of the uncertainty: slope of the RMS error over it, and coverage.

Crops of 192 x 192 of images that ship with scikit-image, with Gaussian noise of 20 and with
photon noise (gain 2) and read noise of 5, seeded.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from skimage import data

import napari_dip as dip
from shared_data import write

#: Camera, coins and cell were chosen on; moon and brick were not.
IMAGES = ("camera", "coins", "cell", "moon", "brick")
KINDS = ("Gaussian", "photons")
SIDE, CLASSES = 192, 10
#: Standard deviations that hold 90 % of a Gaussian.
NINETY = 1.645


def crop_middle(name: str) -> npt.NDArray[np.float64]:
    """Cut the middle out."""
    image = getattr(data, name)().astype(np.float64)
    row, column = ((side - SIDE) // 2 for side in image.shape)
    return np.asarray(image[row : row + SIDE, column : column + SIDE])


def add_noise(truth: npt.NDArray[np.float64], kind: str) -> npt.NDArray[np.float32]:
    """Add noise."""
    rng = np.random.default_rng(0)
    if kind == "Gaussian":
        return np.asarray(truth + rng.normal(0, 20, truth.shape), np.float32)
    return np.asarray(2 * rng.poisson(truth / 2) + rng.normal(0, 5, truth.shape), np.float32)


def measure_calibration(
    error: npt.NDArray[np.float64], said: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Slope of the root mean square error on the standard deviation that was said, and cover."""
    order = said.ravel().argsort()
    classes = np.array_split(order, CLASSES)
    measured_errors = np.array([np.sqrt(np.mean(error.ravel()[part] ** 2)) for part in classes])
    estimated_errors = np.array([np.sqrt(np.mean(said.ravel()[part] ** 2)) for part in classes])
    inside = float(np.mean(np.abs(error) <= NINETY * said))
    return {
        "slope": float((measured_errors * estimated_errors).sum() / (estimated_errors**2).sum()),
        "inside 90 %": 100 * inside,
    }


def main() -> None:
    """Measure all, with the preset and further settings that the command line names."""
    chosen = dict(argument.split("=") for argument in sys.argv[1:])
    rows = []
    for name in IMAGES:
        for kind in KINDS:
            truth = crop_middle(name)
            result = dip.denoise(add_noise(truth, kind), **{"preset": "fast", **chosen})
            figures = measure_calibration(
                result.image - truth, result.uncertainty.astype(np.float64)
            )
            error = float(np.sqrt(np.mean((result.image - truth) ** 2)))
            rows.append({"picture": name, "noise": kind, "error": error, **figures})
            print(rows[-1], flush=True)
    write("uncertainty", rows, dict(chosen))


if __name__ == "__main__":
    main()
