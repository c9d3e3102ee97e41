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

from napari_dip.pipeline.calibrate.types import HalfResolutionInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.calibrate.types import Planes

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
#: A note on a run.
HALF_RESOLUTION_NOTE = (
    "The image has more pixels than detail: what is finer than two pixels holds neither picture "
    "nor noise. It was fitted at half its size, and enlarged again."
)


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
    seen = (is_oversampled(torch.from_numpy(parts[:, c]), noise[c]) for c in varied)
    if not camera and (min(block) < MIN_OVERSAMPLED_BLOCK or not all(seen)):
        return None
    half = np.asarray(halve_resolution(torch.from_numpy(parts)), np.float32)
    noises = tuple(
        one if c in constant else halve_noise_estimate(one) for c, one in enumerate(noise)
    )
    measured = compute_blind_spot_size(
        [noises[c] for c in varied], (half.shape[-2], half.shape[-1])
    )
    return HalfResolutionInput(
        half, noises, tuple(min(side, MAX_HALF_RESOLUTION_BLOCK) for side in measured)
    )


#: Percentiles that span an image without its outliers.
ROBUST = (0.5, 99.5)
#: Ranges beyond the range at which a pixel is suspect. Of the 28 shots of FMD, 14 of W2S and Hagen
#: et al., the brightest pixel lies 3.2 ranges above at most.
FAR_RANGES = 5.0
#: Side of the surroundings, the most suspects in them, and the most that the other pixels there
#: may stand out, as a share of what the suspect does. A spot 1 pixel wide at half height gives
#: 0.16 of its height to each of four neighbours, or fills four pixels alike; what is sharper was
#: made by no objective.
SIDE, MOST_TOGETHER, MOST_AROUND = 5, 3, 0.1
#: Share of the pixels that may be suspect; more of them are a sparse picture.
MOST_SHARE = 1e-3
#: What a residual has at most, in sizes that all but a hundredth of it are below: of a normal law
#: that is 2.6 deviations, and noise that grows tenfold with brightness reaches four times as far.
#: The median would not do: half of a picture may be empty.
ODD, USUAL = 30.0, 0.99
#: Planes and pixels that are looked at for it.
MOST_PLANES, MOST_SORTED = 8, 1_000_000
#: No pixel lies outside.
NO_LIMITS = (-inf, inf)


def outlier_limits(planes: Planes, known: Marks | None) -> tuple[float, float]:
    """Choose the values of one channel (..., Y, X) beyond which a pixel is suspect."""
    pixels = planes.reshape(-1) if known is None else planes[known]
    if not pixels.size:
        return NO_LIMITS
    low, high = (float(value) for value in np.percentile(pixels, ROBUST))
    limits = low - FAR_RANGES * (high - low), high + FAR_RANGES * (high - low)
    beyond = ((pixels < limits[0]) | (pixels > limits[1])).mean()
    return limits if high > low and beyond <= MOST_SHARE else NO_LIMITS


def without_outliers(
    parts: Planes, known: Marks | None, limits: tuple[tuple[float, float], ...]
) -> tuple[Planes, Planes]:
    """Fill outliers in with the median of what is around them.

    Parameters
    ----------
    parts : ndarray
        (parts, C, *grid), in the image's units.
    known : ndarray of bool or None
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
    if known is not None:
        suspect &= known
    filled, values = parts, []
    for place in zip(*suspect.nonzero(), strict=True):
        median = _around(parts, known, suspect, place)
        if median is not None:
            filled = parts.copy() if filled is parts else filled
            filled[place] = median
            values.append(parts[place])
    return filled, np.asarray(values, np.float32)


def _around(
    parts: Planes, known: Marks | None, suspect: Marks, place: tuple[np.intp, ...]
) -> float | None:
    """Give the median around a suspect that stands alone; None if it does not."""
    plane, reach = place[:-2], SIDE // 2
    y, x = (slice(max(0, int(at) - reach), int(at) + reach + 1) for at in place[-2:])
    others = suspect[plane][y, x]
    usual = ~others if known is None else ~others & known[plane][y, x]
    if int(others.sum()) > MOST_TOGETHER or not usual.any():
        return None
    around = parts[plane][y, x][usual]
    median = float(np.median(around))
    most = MOST_AROUND * abs(float(parts[place]) - median)
    return median if float(np.abs(around - median).max()) <= most else None


def without_odd(left: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Set to zero what noise and picture cannot have left of a measurement, (C or parts, ...).

    A few pixels that no network draws must not move the mean of all others.
    """
    some = left[:: -(-len(left) // MOST_PLANES)].reshape(-1)
    size = np.abs(some[:: -(-some.size // MOST_SORTED)])
    size = size[size > 0]  # zeros were not measured, or are of channels of one value
    most = ODD * float(np.quantile(size, USUAL)) if size.size else 0.0
    wild = 0 < most < max(float(left.max()), -float(left.min()))
    return np.where(np.abs(left) > most, 0.0, left) if wild else left


def outlier_note(values: Planes, *, put_back: bool) -> str:
    """Say how many there are, and what became of them."""
    most = float(values[np.abs(values).argmax()])
    now = "in the result as measured" if put_back else "filled in from their surroundings"
    return (
        f"Pixels far outside the range of all others: {len(values)} (up to {most:g}). They were "
        f"left out of the fit and are {now}. If they are faulty, choose the noise model "
        "'Salt and pepper (faulty pixels)'."
    )
