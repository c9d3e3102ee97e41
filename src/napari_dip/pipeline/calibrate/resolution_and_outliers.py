"""The grid that an oversampled picture is fitted on: half as many pixels along each axis.

Single pixels so far outside the range of all others that no picture holds them.

A hot pixel, a cosmic ray, a wrong value of a file: one of 10^6 in a picture of 0 to 255 makes
range, noise and mean those of one pixel. Such pixels are filled in for the fit. Where the result
has the pixels of the input, they come back as they were measured.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.calibration import HalfResolutionInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Planes

    Marks = npt.NDArray[np.bool_]

#: Hidden block from which on an image is looked at: with less, noise is shared by direct
#: neighbours only, and half the pixels would lose more than they spare.
MIN_OVERSAMPLED_BLOCK = 5
#: Least side of an image, so that half of it is one that can be restored.
MIN_HALVED_SIDE = 64
#: Widest hidden block on the coarse grid: what is left of the correlation there is slight from two
#: pixels on. On the first shots of FMD WideField_BPAE_R and B, 512 x 512 pixels, blocks of 3 x 3
#: ended at 33.75 and 36.08 dB, blocks of 3 x 7, as the lags ask for, at 33.11 and 35.55 dB.
MAX_HALF_RESOLUTION_BLOCK = 3


def halve_oversampled(
    parts: Planes,
    noise: Sequence[NoiseEstimate],
    block: tuple[int, ...],
    constant: tuple[int, ...],
    *,
    camera: bool = False,
) -> HalfResolutionInput | None:
    """Halve a picture that is oversampled in all its channels; None if it is not.

    Parameters
    ----------
    parts : ndarray
        (1, C, Y, X), every pixel of it measured.
    noise : sequence of NoiseEstimate
    block : tuple of int
        Size of hidden blocks.
    constant : tuple of int
        Channels that hold one value only.
    camera : bool
        Whether the noise is a colour camera's, of which half the pixels hold 0.71 to 0.90 of the
        variance in nine files of cc15: then the picture is halved in any case.
    """
    import torch

    from napari_dip.engine.noise.estimate import compute_blind_spot_size
    from napari_dip.engine.noise.oversampling import (
        halve_noise_estimate,
        halve_resolution,
        is_oversampled,
    )

    if parts.ndim > 4 or min(parts.shape[-2:]) < MIN_HALVED_SIDE:
        return None
    varied = [c for c in range(parts.shape[1]) if c not in constant]
    checks = (is_oversampled(torch.from_numpy(parts[:, c]), noise[c]) for c in varied)
    if not camera and (min(block) < MIN_OVERSAMPLED_BLOCK or not all(checks)):
        return None
    half = np.asarray(halve_resolution(torch.from_numpy(parts)), np.float32)
    noises = tuple(
        item if c in constant else halve_noise_estimate(item) for c, item in enumerate(noise)
    )
    measured = compute_blind_spot_size(
        [noises[c] for c in varied], (half.shape[-2], half.shape[-1])
    )
    return HalfResolutionInput(
        stack=half,
        noise=noises,
        blind_spot_size=tuple(min(side, MAX_HALF_RESOLUTION_BLOCK) for side in measured),
    )


#: Percentiles that span an image without its outliers.
ROBUST_PERCENTILES = (0.5, 99.5)
#: Ranges beyond the range at which a pixel is suspect. Of the 28 shots of FMD, 14 of W2S and Hagen
#: et al., the brightest pixel lies 3.2 ranges above at most.
MIN_OUTLIER_RANGES = 5.0
#: Side of the surroundings, the most suspects in them, and the most that the other pixels there
#: may stand out, as a share of what the suspect does. A spot 1 pixel wide at half height gives
#: 0.16 of its height to each of four neighbours, or fills four pixels alike; what is sharper was
#: made by no objective.
OUTLIER_WINDOW_SIDE, MAX_ADJACENT_OUTLIERS, MAX_SURROUNDING_DEVIATION = 5, 3, 0.1
#: Share of the pixels that may be suspect; more of them are a sparse picture.
MAX_OUTLIER_SHARE = 1e-3
#: What a residual has at most, in sizes that all but a hundredth of it are below: of a normal law
#: that is 2.6 deviations, and noise that grows tenfold with brightness reaches four times as far.
#: The median would not do: half of a picture may be empty.
MAX_RESIDUAL_SIZE_RATIO, RESIDUAL_SIZE_QUANTILE = 30.0, 0.99
#: Planes and pixels that are looked at for it.
MAX_QUANTILE_PLANES, MAX_QUANTILE_PIXELS = 8, 1_000_000
#: No pixel lies outside.
NO_OUTLIER_LIMITS = (-inf, inf)


def compute_outlier_limits(planes: Planes, measured_mask: Marks | None) -> tuple[float, float]:
    """Choose the values of one channel (..., Y, X) beyond which a pixel is suspect."""
    pixels = planes.reshape(-1) if measured_mask is None else planes[measured_mask]
    if not pixels.size:
        return NO_OUTLIER_LIMITS
    low, high = (float(value) for value in np.percentile(pixels, ROBUST_PERCENTILES))
    limits = low - MIN_OUTLIER_RANGES * (high - low), high + MIN_OUTLIER_RANGES * (high - low)
    beyond = ((pixels < limits[0]) | (pixels > limits[1])).mean()
    return limits if high > low and beyond <= MAX_OUTLIER_SHARE else NO_OUTLIER_LIMITS


def fill_outliers(
    parts: Planes, measured_mask: Marks | None, limits: tuple[tuple[float, float], ...]
) -> tuple[Planes, Planes]:
    """Fill outliers in with the median of what is around them.

    Parameters
    ----------
    parts : ndarray
        (parts, C, *grid), in the image's units.
    measured_mask : ndarray of bool or None
        Where there is a measurement; None: everywhere.
    limits : tuple of (float, float)
        Of each channel.

    Returns
    -------
    parts, values : ndarray
        The same array if there are none; and the values that were filled in.
    """
    suspect = np.zeros(parts.shape, bool)
    for channel, (low, high) in enumerate(limits):
        if isfinite(low):
            suspect[:, channel] = (parts[:, channel] < low) | (parts[:, channel] > high)
    if measured_mask is not None:
        suspect &= measured_mask
    filled, values = parts, []
    for place in zip(*suspect.nonzero(), strict=True):
        median = _compute_surrounding_median(parts, measured_mask, suspect, place)
        if median is not None:
            filled = parts.copy() if filled is parts else filled
            filled[place] = median
            values.append(parts[place])
    return filled, np.asarray(values, np.float32)


def _compute_surrounding_median(
    parts: Planes, measured_mask: Marks | None, suspect: Marks, place: tuple[np.intp, ...]
) -> float | None:
    """Give the median around a suspect that stands alone; None if it does not."""
    plane, reach = place[:-2], OUTLIER_WINDOW_SIDE // 2
    y, x = (slice(max(0, int(at) - reach), int(at) + reach + 1) for at in place[-2:])
    others = suspect[plane][y, x]
    usual = ~others if measured_mask is None else ~others & measured_mask[plane][y, x]
    if int(others.sum()) > MAX_ADJACENT_OUTLIERS or not usual.any():
        return None
    around = parts[plane][y, x][usual]
    median = float(np.median(around))
    most = MAX_SURROUNDING_DEVIATION * abs(float(parts[place]) - median)
    return median if float(np.abs(around - median).max()) <= most else None


def zero_residual_outliers(residual: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Set to zero what noise and picture cannot have left of a measurement, (C or parts, ...).

    A few pixels that no network draws must not move the mean of all others.
    """
    some = residual[:: -(-len(residual) // MAX_QUANTILE_PLANES)].reshape(-1)
    size = np.abs(some[:: -(-some.size // MAX_QUANTILE_PIXELS)])
    size = size[size > 0]  # zeros were not measured, or are of channels of one value
    most = (
        MAX_RESIDUAL_SIZE_RATIO * float(np.quantile(size, RESIDUAL_SIZE_QUANTILE))
        if size.size
        else 0.0
    )
    wild = 0 < most < max(float(residual.max()), -float(residual.min()))
    return np.where(np.abs(residual) > most, 0.0, residual) if wild else residual


def make_outlier_note(values: Planes, *, put_back: bool) -> Note:
    """Say how many there are, and what became of them."""
    most = float(values[np.abs(values).argmax()])
    return make_note("outliers", count=len(values), most=most, put_back=put_back)
