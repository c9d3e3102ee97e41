"""Estimate noise from images: variance, correlation, checks, repeated exposures, colour cameras.

All functions depend on pixels alone. Refinement, likelihoods, tasks and the pipeline import it.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil, pi, sqrt
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Signal = TypeVar("Signal")
#: Distance from the limit, in standard deviations, beyond which clipping is negligible: 1e-9 of the
#: noise.
CLIPPING_SIGMAS = 6.0
#: Maximum photon count of the Poisson distribution; beyond, a normal one is as accurate.
MAX_PHOTON_COUNTS = 1000


class UnreliableReason(StrEnum):
    """Why the noise of an image cannot be measured."""

    TOO_FEW_BLOCKS = "too-few-blocks"  # without unmeasured pixels
    SCATTERED_HOLES = "scattered-holes"  # measured between them, structure may be in it
    CLIPPED = "clipped"  # almost all blocks hold clipped pixels
    COARSE_GREY_VALUES = "coarse-grey-values"  # noise weaker than the distance of grey values
    TEXTURE = "texture"  # structure at the finest frequencies everywhere
    AMBIGUOUS_CORRELATION = "ambiguous-correlation"  # texture and correlated noise look alike
    OFF_VARIANCE_MODEL = "off-variance-model"  # at some brightness, or nothing is flat there
    HEAVY_TAILS = "heavy-tails"  # more outliers than in Gaussian noise
    SMOOTHED = "smoothed"  # more correlation than was measured


class NoiseCaution(StrEnum):
    """What to know about noise that is usable, measured or chosen."""

    RESAMPLED = "resampled"  # noise periodically stronger, as in every second row
    MOSTLY_TEXTURED = "mostly-textured"  # areas without structure are rare
    LOW_FREQUENCY_VARIATION = "low-frequency-variation"  # over eight pixels and more, everywhere
    LINE_OFFSETS = "line-offsets"  # offsets of whole rows or columns
    LESS_CORRELATED = "less-correlated"  # than was measured
    MOSTLY_CLIPPED = "mostly-clipped"
    OFF_VARIANCE_MODEL = "off-variance-model"  # at some brightness
    HEAVY_TAILS = "heavy-tails"  # outliers where there is no structure
    UNCERTAIN_EXTREMES = "uncertain-extremes"  # variance at the darkest or brightest values
    COLOUR_CAMERA = "colour-camera"
    CORRELATED_COLOURS = "correlated-colours"  # correlated noise in a colour image
    HALF_SIZE = "half-size"  # measured at half the size of an enlarged image
    EVERY_SECOND_PIXEL = "every-second-pixel"  # measured there, since neighbours share noise
    COMPRESSED = "compressed"  # measured as it was before JPEG compression, which hides it
    PHOTON_COUNTS = "photon-counts"  # each grey value is a number of photons
    CHOSEN = "chosen"  # by the user, and much stronger or weaker than the measured noise
    CORRELATED_KEPT = "correlated-kept"  # neighbours share noise, which counts as structure


def predict_variance(signal: Signal, gain: Any, intercept: Any) -> Signal:
    """Return the variance of Poisson-Gaussian noise at a signal: a number, array or tensor.

    Parameters
    ----------
    signal : float, ndarray or Tensor
    gain : float, ndarray or Tensor
        Grey values for a photo-electron.
    intercept : float, ndarray or Tensor
        Variance where the signal is 0: of light above the offset, the squared read noise.
    """
    variance: Signal = gain * signal + intercept
    return variance


def compute_intercept(gain: float, dark_signal: float, dark_variance: float) -> float:
    """Return the variance at grey value 0 from that of another grey value, such as the offset."""
    return dark_variance - gain * dark_signal


def compute_excess(above: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and mean square of what normal values exceed a limit by, and how many do.

    Parameters
    ----------
    above : Tensor
        Distance of their means above the limit.
    std : Tensor
        Their standard deviations.
    """
    import torch

    distance = above / std
    density, fraction = (-(distance**2) / 2).exp() / sqrt(2 * pi), torch.special.ndtr(distance)
    square = (1 + distance**2) * fraction + distance * density
    return std * (density + distance * fraction), std**2 * square, fraction


def compute_dark_excess(
    light: Tensor, gain: float, dark_std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `compute_excess` does for values that are clipped at black.

    Counts of photons are not negative, so only the noise in the dark is clipped. Its excess is
    averaged over the Poisson distribution of the count.

    Parameters
    ----------
    light : Tensor
        (K,), signals above black, not negative.
    gain : float
        Grey values of one photon.
    dark_std : float
        Standard deviation of the noise without light.
    """
    import torch

    if not dark_std:
        return (torch.zeros_like(light),) * 3
    if gain * MAX_PHOTON_COUNTS < CLIPPING_SIGMAS * dark_std:  # photon noise is normal near black
        return compute_excess(-light, (dark_std**2 + gain * light).sqrt())
    counts = torch.arange(ceil(CLIPPING_SIGMAS * dark_std / gain) + 1).to(light)
    photons = (light / gain).clamp(min=1e-300)[:, None]
    probabilities = (counts * photons.log() - photons - (counts + 1).lgamma()).exp()
    excess = compute_excess(-gain * counts, torch.full_like(counts, dark_std))
    first, square, fraction = (probabilities @ part for part in excess)
    return first, square, fraction


def crop_centre(image: Signal, side: int, axes: str = "YX") -> Signal:
    """Crop an array or tensor of these axes to at most `side` pixels along Y and X; a view."""
    pixels: Any = image
    slices = []
    for axis, length in zip(axes, pixels.shape, strict=True):
        size = min(side, length) if axis in "YX" else length
        slices.append(slice((length - size) // 2, (length + size) // 2))
    cropped: Signal = pixels[tuple(slices)]
    return cropped
