"""Halve the resolution of oversampled images, and fill in outliers, before a fit.

An outlier is an isolated pixel far outside the range of all others, such as a hot pixel or a cosmic
ray. A single value of 10^6 in an image of 0 to 255 would determine range, noise and mean. Outliers
are filled in for the fit. Where the result has the pixels of the input, they keep their values.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.types import HalfResolutionStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.calibrate.types import Calibration

    BoolArray = npt.NDArray[np.bool_]

#: Minimum side of the blind spot for a half-resolution fit. With smaller ones only direct
#: neighbours share noise, and halving would lose more than it gains.
MIN_OVERSAMPLED_BLIND_SPOT = 5
#: Minimum side of an image in pixels, so that half of it can be restored.
MIN_HALVED_SIDE = 64
#: Maximum side of the blind spot at half resolution: 3 x 3 gains 0.5 and 0.6 dB over 3 x 7 on FMD
#: widefield (docs/constants.md).
MAX_HALF_RESOLUTION_BLIND_SPOT = 3
#: Percentiles of the intensity range without outliers.
ROBUST_PERCENTILES = (0.5, 99.5)
#: Distance from the intensity range, in ranges, beyond which a pixel is suspect. In 28 images of
#: FMD, and 14 of W2S and Hagen et al., the brightest pixel lies at most 3.2 ranges above.
MIN_OUTLIER_RANGES = 5.0
#: Isolated outlier: side of its surroundings, maximum suspects in them, maximum relative deviation
#: of the others. The sharpest PSF gives neighbours 0.16 of its height (docs/constants.md).
OUTLIER_WINDOW_SIDE, MAX_ADJACENT_OUTLIERS, MAX_SURROUNDING_DEVIATION = 5, 3, 0.1
#: Maximum share of suspect pixels; with more the image is sparse and has no outliers.
MAX_OUTLIER_FRACTION = 1e-3
#: Maximum absolute residual in units of a quantile of absolute residuals, and that quantile, which
#: is 2.6 standard deviations of normal noise (docs/constants.md).
MAX_RESIDUAL_SIZE_RATIO, RESIDUAL_SIZE_QUANTILE = 30.0, 0.99
#: Maximum number of planes and pixels for that quantile.
MAX_QUANTILE_PLANES, MAX_QUANTILE_PIXELS = 8, 1_000_000
#: Limits without outliers.
NO_OUTLIER_LIMITS = (-inf, inf)


def halve_oversampled(
    stack: Float32Array,
    noise_estimates: Sequence[NoiseEstimate],
    blind_spot_size: tuple[int, ...],
    constant_channels: tuple[int, ...],
    *,
    is_camera: bool = False,
) -> HalfResolutionStack | None:
    """Return an image at half resolution if all its channels are oversampled, else None.

    Parameters
    ----------
    stack : ndarray
        (1, C, Y, X), all pixels measured.
    noise_estimates : sequence of NoiseEstimate
    blind_spot_size : tuple of int
        Size of blind spots.
    constant_channels : tuple of int
        Channels that hold one value only.
    is_camera : bool
        Whether the noise is that of a colour camera. Half resolution keeps 0.71 to 0.90 of its
        variance in nine files of cc15, so the image is then halved in any case.
    """
    import torch

    from napari_dip.engine.noise.estimate import compute_blind_spot_size
    from napari_dip.engine.noise.oversampling import (
        halve_noise_estimate,
        halve_resolution,
        is_oversampled,
    )

    if stack.ndim > 4 or min(stack.shape[-2:]) < MIN_HALVED_SIDE:
        return None
    varied_channels = [c for c in range(stack.shape[1]) if c not in constant_channels]
    checks = (
        is_oversampled(torch.from_numpy(stack[:, c]), noise_estimates[c]) for c in varied_channels
    )
    if not is_camera and (min(blind_spot_size) < MIN_OVERSAMPLED_BLIND_SPOT or not all(checks)):
        return None
    half_size_stack = np.asarray(halve_resolution(torch.from_numpy(stack)), np.float32)
    half_size_noise = tuple(
        estimate if c in constant_channels else halve_noise_estimate(estimate)
        for c, estimate in enumerate(noise_estimates)
    )
    half_size_blind_spot = compute_blind_spot_size(
        [half_size_noise[c] for c in varied_channels],
        (half_size_stack.shape[-2], half_size_stack.shape[-1]),
    )
    return HalfResolutionStack(
        stack=half_size_stack,
        noise=half_size_noise,
        blind_spot_size=tuple(
            min(side, MAX_HALF_RESOLUTION_BLIND_SPOT) for side in half_size_blind_spot
        ),
    )


def replace_half_resolution(calibration: Calibration, stack: Float32Array) -> Calibration:
    """Return a calibration with the half-resolution input of other pixels, such as a tile.

    A calibration without such an input is returned unchanged.
    """
    if calibration.half_resolution is None:
        return calibration
    import torch

    from napari_dip.engine.noise.oversampling import halve_resolution

    half_size_stack = np.asarray(halve_resolution(torch.from_numpy(stack)), np.float32)
    return replace(
        calibration, half_resolution=replace(calibration.half_resolution, stack=half_size_stack)
    )


def compute_outlier_limits(
    planes: Float32Array, measured_mask: BoolArray | None
) -> tuple[float, float]:
    """Return the values of one channel (..., Y, X) beyond which a pixel is suspect."""
    pixels = planes.reshape(-1) if measured_mask is None else planes[measured_mask]
    if not pixels.size:
        return NO_OUTLIER_LIMITS
    low, high = (float(value) for value in np.percentile(pixels, ROBUST_PERCENTILES))
    limits = low - MIN_OUTLIER_RANGES * (high - low), high + MIN_OUTLIER_RANGES * (high - low)
    suspect_fraction = ((pixels < limits[0]) | (pixels > limits[1])).mean()
    return limits if high > low and suspect_fraction <= MAX_OUTLIER_FRACTION else NO_OUTLIER_LIMITS


def fill_outliers(
    stack: Float32Array, measured_mask: BoolArray | None, limits: tuple[tuple[float, float], ...]
) -> tuple[Float32Array, Float32Array]:
    """Replace outliers by the median of their surroundings.

    Parameters
    ----------
    stack : ndarray
        (N, C, *grid), in the image's units.
    measured_mask : ndarray of bool or None
        Of the same shape, True where a pixel was measured; None: all.
    limits : tuple of (float, float)
        Output of `compute_outlier_limits` for each channel.

    Returns
    -------
    stack : ndarray
        A copy; the same array if there are no outliers.
    values : ndarray
        Values of the outliers.
    """
    suspect = np.zeros(stack.shape, bool)
    for channel, (low, high) in enumerate(limits):
        if isfinite(low):
            suspect[:, channel] = (stack[:, channel] < low) | (stack[:, channel] > high)
    if measured_mask is not None:
        suspect &= measured_mask
    filled, values = stack, []
    for position in zip(*suspect.nonzero(), strict=True):
        median = _compute_surrounding_median(stack, measured_mask, suspect, position)
        if median is not None:
            filled = stack.copy() if filled is stack else filled
            filled[position] = median
            values.append(stack[position])
    return filled, np.asarray(values, np.float32)


def _compute_surrounding_median(
    stack: Float32Array,
    measured_mask: BoolArray | None,
    suspect: BoolArray,
    position: tuple[np.intp, ...],
) -> float | None:
    """Return the median around an isolated suspect; None if it is not isolated."""
    plane, radius = position[:-2], OUTLIER_WINDOW_SIDE // 2
    y, x = (slice(max(0, int(index) - radius), int(index) + radius + 1) for index in position[-2:])
    is_suspect = suspect[plane][y, x]
    is_usual = ~is_suspect if measured_mask is None else ~is_suspect & measured_mask[plane][y, x]
    if int(is_suspect.sum()) > MAX_ADJACENT_OUTLIERS or not is_usual.any():
        return None
    surroundings = stack[plane][y, x][is_usual]
    median = float(np.median(surroundings))
    max_deviation = MAX_SURROUNDING_DEVIATION * abs(float(stack[position]) - median)
    return median if float(np.abs(surroundings - median).max()) <= max_deviation else None


def zero_residual_outliers(residual: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Set extreme values of a residual (C or N, ...) to zero.

    A few outliers in the measurement must not dominate the mean of the residual.
    """
    sample = residual[:: -(-len(residual) // MAX_QUANTILE_PLANES)].reshape(-1)
    sizes = np.abs(sample[:: -(-sample.size // MAX_QUANTILE_PIXELS)])
    sizes = sizes[sizes > 0]  # zeros are not measured, or in constant channels
    max_size = (
        MAX_RESIDUAL_SIZE_RATIO * float(np.quantile(sizes, RESIDUAL_SIZE_QUANTILE))
        if sizes.size
        else 0.0
    )
    has_outliers = 0 < max_size < max(float(residual.max()), -float(residual.min()))
    return np.where(np.abs(residual) > max_size, 0.0, residual) if has_outliers else residual


def make_outlier_note(values: Float32Array, *, put_back: bool) -> Note:
    """Return a note on the number of outliers, and on their values in the result."""
    most_extreme = float(values[np.abs(values).argmax()])
    return make_note("outliers", count=len(values), most=most_extreme, put_back=put_back)
