"""Recognise images of a detector that counts photons: their noise is known exactly.

All grey values are multiples of one photon's value, and the variance is the mean times that value
at each brightness. Blocks cannot measure this where most of them hold only a few photons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.engine.noise.flat_blocks import NO_CLIPPING
from napari_dip.engine.noise.variance_model import (
    BlockSpectra,
    compute_block_spectra,
    select_finest_bands,
)

if TYPE_CHECKING:
    from torch import Tensor

#: Fewest grey values: with two, a mask would do.
MIN_COUNT_VALUES = 3
#: Greatest distance of a grey value from a multiple of the photon's, in photons. Rounding to
#: float32 moves 100 photons by less than 0.001.
MAX_COUNT_ERROR = 0.01
#: Greatest mean number of photons per pixel. Beyond, grey values of any image lie as densely.
MAX_MEAN_COUNT = 30.0
#: Classes of brightness, and limits in each of the variance at the finest frequencies, in photons
#: for one photon of the mean: 0.93 to 1.37 with up to 10 photons at white on 299 channels, and no
#: image without noise of that collection lies within (docs/constants.md).
COUNT_CLASSES, DISPERSION_LIMITS = 4, (0.85, 1.3)
#: Fewest blocks of a class.
MIN_COUNT_BLOCKS = 8
#: Values that are examined, spread over the image.
MAX_EXAMINED_VALUES = 1_000_000


def find_photon_gain(
    planes: Tensor, measured_mask: Tensor | None, spectra: BlockSpectra | None
) -> float | None:
    """Return the grey values of one photon if the detector counts them, otherwise None.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X), one or more images of one detector.
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured; None: everywhere.
    spectra : BlockSpectra or None
        Of all blocks, clipped ones as well; None: computed if they are needed.
    """
    gain = find_photon_step(planes.flatten() if measured_mask is None else planes[measured_mask])
    if gain is None:
        return None
    spectra = spectra or compute_block_spectra(planes, measured_mask, NO_CLIPPING)
    return gain if is_photon_noise(spectra, gain) else None


def find_photon_step(values: Tensor) -> float | None:
    """Return the distance of grey values if all are multiples of it, otherwise None.

    Parameters
    ----------
    values : Tensor
        (K,), measured pixels.
    """
    levels = values[:: -(-len(values) // MAX_EXAMINED_VALUES) or 1].unique()
    if len(levels) < MIN_COUNT_VALUES or float(levels[0]) < 0:
        return None
    step = float(levels.diff().min())
    step = float(levels[-1]) / round(float(levels[-1]) / step)  # least rounding error
    counts = levels / step
    return step if float((counts - counts.round()).abs().max()) <= MAX_COUNT_ERROR else None


def is_photon_noise(blocks: BlockSpectra, gain: float) -> bool:
    """Return whether the variance is the mean times the gain, at each brightness.

    Parameters
    ----------
    blocks : BlockSpectra
        Spectra of blocks that are not constant.
    gain : float
        Grey values of one photon.
    """
    if len(blocks.means) < COUNT_CLASSES * MIN_COUNT_BLOCKS:
        return False
    if float(blocks.means.mean()) > MAX_MEAN_COUNT * gain:
        return False
    variances = blocks.power[:, select_finest_bands()].mean(1)
    ratios = [
        float(variances[group].sum() / (gain * blocks.means[group].sum()))
        for group in blocks.means.argsort(stable=True).tensor_split(COUNT_CLASSES)
    ]
    low, high = DISPERSION_LIMITS
    return low <= min(ratios) and max(ratios) <= high
