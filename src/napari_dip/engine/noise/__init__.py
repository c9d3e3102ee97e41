"""Estimate noise from images: variance, correlation, checks, repeated exposures, colour cameras.

All functions depend on pixels alone. Refinement, likelihoods, tasks and the pipeline import it.
"""

from enum import StrEnum
from typing import Any, TypeVar

Signal = TypeVar("Signal")


class UnreliableReason(StrEnum):
    """Why the noise of an image cannot be measured."""

    TOO_FEW_BLOCKS = "too-few-blocks"  # without unmeasured pixels
    CLIPPED = "clipped"  # almost all blocks hold clipped pixels
    COARSE_GREY_VALUES = "coarse-grey-values"  # noise weaker than the distance of grey values
    TEXTURE = "texture"  # structure at the finest frequencies everywhere
    AMBIGUOUS_CORRELATION = "ambiguous-correlation"  # texture and correlated noise look alike
    OFF_VARIANCE_MODEL = "off-variance-model"  # at some brightness, or nothing is flat there
    HEAVY_TAILS = "heavy-tails"  # more outliers than in Gaussian noise
    SMOOTHED = "smoothed"  # more correlation than was measured


class NoiseCaution(StrEnum):
    """What to know about a usable measurement of the noise."""

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
    EVERY_SECOND_PIXEL = "every-second-pixel"  # measured there, since neighbours share noise
    COMPRESSED = "compressed"  # measured as it was before JPEG compression, which hides it
    PHOTON_COUNTS = "photon-counts"  # each grey value is a number of photons


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


def crop_centre(image: Signal, side: int, axes: str = "YX") -> Signal:
    """Crop an array or tensor of these axes to at most `side` pixels along Y and X; a view."""
    pixels: Any = image
    slices = []
    for axis, length in zip(axes, pixels.shape, strict=True):
        size = min(side, length) if axis in "YX" else length
        slices.append(slice((length - size) // 2, (length + size) // 2))
    cropped: Signal = pixels[tuple(slices)]
    return cropped
