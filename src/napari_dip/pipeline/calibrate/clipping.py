"""Correct the bias of a restoration where the noise was clipped at black or white.

A pixel whose noise falls below grey value 0 is recorded as 0, so the mean of many dark pixels is
above their signal; at white it is below. A restoration estimates this mean. Given the noise, the
mean of each signal can be computed and inverted. A count of photons is never negative, so without
noise in the dark nothing is clipped at black, however many pixels are 0.

The noise also predicts how many pixels lie at a limit. If fewer do, the correction is reduced by
the same factor, so that overestimated noise cannot brighten an image.
"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, pi, sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_dip.engine.noise import (
    CLIPPING_SIGMAS,
    compute_dark_excess,
    compute_excess,
    predict_variance,
)
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.plan.layout import cut_into_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.pipeline.plan.types import Plan, WorkUnit

#: Minimum weight of the clipping correction at a limit for the noise to be weaker there: fewer
#: clipped pixels than half of the predicted ones say that the noise there was not measured.
MIN_EFFECTIVE_WEIGHT = 0.5
#: Points of the table of clipped noise: linear interpolation errs by 2e-5 of the noise.
CLIPPING_TABLE_POINTS = 512
#: Halvings of an interval, down to the precision of a float.
_BISECTION_STEPS = 60
#: Side of the blocks, in pixels, whose means predict how many pixels are clipped.
_BLOCK_SIDE = 8
#: Mean distance beyond a limit of the clipped half of the noise, in standard deviations, for a
#: signal at the limit.
HALF_NORMAL_MEAN = sqrt(2 / pi)
#: Maximum growth of the standard deviation by the correction: that at the limit, where half of the
#: noise is clipped.
MAX_DEVIATION_GROWTH = 2.0


class ClippingTable(NamedTuple):
    """Signals of one channel in ascending order, and their mean measurements, both (K,)."""

    signals: FloatArray
    means: FloatArray


def compute_clipped_mean(noise_estimate: NoiseEstimate, signals: FloatArray) -> FloatArray:
    """Return the mean measurement of signals whose noise is clipped.

    Photon counts are not negative, so at black only the noise in the dark is clipped. Its excess
    is averaged over the Poisson distribution of the photon count. At white there are many photons,
    and their noise is normal.

    Parameters
    ----------
    noise_estimate : NoiseEstimate
        With `clipping_limits`, and with `clipping_weights`, the factors of the correction there.
    signals : ndarray
        In the image's units, (K,).

    References
    ----------
    Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, Signal Processing
    89(12), 2009, doi:10.1016/j.sigpro.2009.04.035.
    """
    means = signals.astype(np.float64)
    for side, sign in enumerate((1, -1)):
        if isfinite(noise_estimate.clipping_limits[side]):
            excess, _ = _compute_excess(noise_estimate, signals, side)
            means = means + sign * noise_estimate.clipping_weights[side] * excess
    return means


def _compute_excess(
    noise_estimate: NoiseEstimate, signals: FloatArray, side: int
) -> tuple[FloatArray, FloatArray]:
    """Return by how much the noise exceeds a limit in the mean, and in how many pixels it does.

    Parameters
    ----------
    noise_estimate, signals
        As for `compute_clipped_mean`.
    side : int
        0: black, 1: white.
    """
    import torch

    limit, gain = noise_estimate.clipping_limits[side], noise_estimate.gain
    if side == 1 or gain < 0:  # many photons, or the noise of an inverted image
        std = np.sqrt(compute_noise_variance(noise_estimate, signals))
        above = signals - limit if side == 1 else limit - signals
        excess = compute_excess(torch.from_numpy(above), torch.from_numpy(std))
    else:
        light = torch.from_numpy(np.maximum(signals - limit, 0))
        excess = compute_dark_excess(light, gain, _compute_black_std(noise_estimate, limit))
    return excess[0].numpy(), excess[2].numpy()


def _compute_black_std(noise_estimate: NoiseEstimate, low: float) -> float:
    """Return the standard deviation of the noise at black."""
    variance = predict_variance(low, noise_estimate.gain, noise_estimate.intercept)
    return sqrt(max(variance, 0.0))


def estimate_clipping_weights(
    noise_estimate: NoiseEstimate, planes: Float32Array, measured_mask: BoolArray | None
) -> NoiseEstimate:
    """Weight the clipping correction by the count of clipped pixels relative to the predicted one.

    Parameters
    ----------
    noise_estimate : NoiseEstimate
        Noise of one channel.
    planes : ndarray
        (..., Y, X): pixels of that channel.
    measured_mask : ndarray of bool or None
        Of the same shape, True where a pixel was measured; None: all.

    Returns
    -------
    NoiseEstimate
        With `clipping_weights`: pixels at each limit relative to the predicted number, at most 1.
    """
    if not any(map(isfinite, noise_estimate.clipping_limits)):
        return noise_estimate
    pixels = planes.reshape(-1) if measured_mask is None else planes[measured_mask]
    table = _make_clipping_table(replace(noise_estimate, clipping_weights=(1.0, 1.0)), pixels)
    signals = np.interp(_average_measured_blocks(planes, measured_mask), table.means, table.signals)
    weights = [1.0, 1.0]
    for side, limit in enumerate(noise_estimate.clipping_limits):
        if isfinite(limit):
            is_clipped = pixels >= limit if side else pixels <= limit
            _, fractions = _compute_excess(noise_estimate, table.signals, side)
            predicted = np.interp(signals, table.signals, fractions)
            predicted_fraction = float(predicted.mean()) if len(predicted) else 0.0
            if predicted_fraction > 0:
                weights[side] = min(1.0, float(is_clipped.mean()) / predicted_fraction)
    return replace(noise_estimate, clipping_weights=(weights[0], weights[1]))


def _average_measured_blocks(planes: Float32Array, measured_mask: BoolArray | None) -> FloatArray:
    """Return the means of all completely measured blocks of (..., Y, X)."""

    def cut_blocks(pixels: AnyArray) -> AnyArray:
        blocks = cut_into_blocks(pixels, _BLOCK_SIDE)
        return np.moveaxis(blocks, -2, -3).reshape(-1, _BLOCK_SIDE**2)

    means = cut_blocks(planes).mean(1, dtype=np.float64)
    return np.asarray(means if measured_mask is None else means[cut_blocks(measured_mask).all(1)])


def bound_clipping_bias(
    plan: Plan, calibration: Calibration, stack: Float32Array
) -> tuple[float, float]:
    """Return bounds of the bias of a measurement's mean by clipped noise.

    They follow from the number of pixels at a limit and the noise there. As they check the
    correction, they use neither the restored image nor the table of the correction.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    stack : ndarray
        (N, C, *grid): the measurement.

    Returns
    -------
    raised, lowered : float
        Bounds of the increase and of the decrease, in the image's units, not negative.
    """
    raised = lowered = 0.0
    for position, noise in _iter_clipped_channels(plan, calibration, range(stack.shape[1])):
        pixels, (low, high) = stack[:, position], noise.clipping_limits
        if isfinite(low):
            raised += float((pixels <= low).mean()) * _compute_black_std(noise, low)
        if isfinite(high):
            white_std = float(np.sqrt(compute_noise_variance(noise, high)))
            lowered += float((pixels >= high).mean()) * white_std
    return HALF_NORMAL_MEAN * raised / stack.shape[1], HALF_NORMAL_MEAN * lowered / stack.shape[1]


def correct_clipping(
    plan: Plan, calibration: Calibration, unit: WorkUnit, image: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Return the signal behind an estimated mean measurement, and the growth of its std.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    unit : WorkUnit
    image : ndarray
        (C, *grid), in the image's units: estimate of the mean measurement.

    Returns
    -------
    signal, growth : ndarray
        Signal within the clipping limits, and factor of the standard deviation; both of the same
        shape.
    """
    signal, growth = image.copy(), np.ones_like(image)
    for position, noise in _iter_clipped_channels(plan, calibration, unit.channels):
        table = _make_clipping_table(noise, image[position])
        slopes = np.diff(table.signals) / np.maximum(np.diff(table.means), 1e-300)
        mean_centres = (table.means[1:] + table.means[:-1]) / 2
        signal[position] = np.interp(image[position], table.means, table.signals)
        growth[position] = np.interp(
            image[position], mean_centres, slopes.clip(1.0, MAX_DEVIATION_GROWTH)
        )
    return signal, growth


def apply_clipping(plan: Plan, calibration: Calibration, stack: Float32Array) -> Float32Array:
    """Return the mean measurement of (N, C, *grid): the inverse of `correct_clipping`."""
    measured = stack
    for position, noise in _iter_clipped_channels(plan, calibration, range(stack.shape[1])):
        measured = stack.copy() if measured is stack else measured
        table = _make_clipping_table(noise, stack[:, position])
        measured[:, position] = np.interp(stack[:, position], table.signals, table.means)
    return measured


def list_corrected_limits(plan: Plan, calibration: Calibration) -> tuple[float, ...]:
    """Return the grey values at which clipping is corrected, in ascending order."""
    limits = set()
    for _, noise in _iter_clipped_channels(plan, calibration, range(len(calibration.noise))):
        low, high = noise.clipping_limits
        if isfinite(low) and _compute_black_std(noise, low) > 0:
            limits.add(low)
        if isfinite(high):
            limits.add(high)
    return tuple(sorted(limits))


def compute_clipped_variance(
    noise_estimate: NoiseEstimate, means: AnyArray, excess: npt.ArrayLike = 0.0
) -> FloatArray:
    """Return what `compute_noise_variance` does at mean measurements, after clipping."""
    import torch

    variance = compute_noise_variance(noise_estimate, means, excess)
    is_clipped = any(map(isfinite, noise_estimate.clipping_limits))
    if noise_estimate.unreliable_reason or not is_clipped:
        return variance
    flat = torch.from_numpy(np.asarray(means, np.float64).ravel())
    ratio = noise_estimate.compute_clipping_ratio(flat).numpy()
    return np.asarray(variance * ratio.reshape(means.shape))


def convert_limits_to_network_units(
    noise_estimate: NoiseEstimate, offset: float, scale: float
) -> list[float]:
    """Return black limit, noise there, white limit, noise there, in network units.

    A limit is `UNLIMITED` where nothing is clipped, or the noise is unreliable.
    """
    from napari_dip.engine.likelihood.fidelity import UNLIMITED

    numbers = []
    for side, limit in enumerate(noise_estimate.clipping_limits):
        std = 0.0
        if isfinite(limit) and noise_estimate.clipping_weights[side] >= MIN_EFFECTIVE_WEIGHT:
            std = (
                float(np.sqrt(compute_noise_variance(noise_estimate, limit)))
                if side
                else _compute_black_std(noise_estimate, limit)
            )
        is_clipped = std > 0 and not noise_estimate.unreliable_reason
        numbers += [(limit - offset) / scale, std / abs(scale)] if is_clipped else [UNLIMITED, 1.0]
    return numbers


def _iter_clipped_channels(
    plan: Plan, calibration: Calibration, channels: tuple[int, ...] | range
) -> Iterator[tuple[int, NoiseEstimate]]:
    """Yield position and noise of each clipped channel whose noise is reliable."""
    if not plan.task_plan.uses_clipping_correction:
        return
    for position, channel in enumerate(channels):
        noise = calibration.noise[channel]
        if any(map(isfinite, noise.clipping_limits)) and not noise.unreliable_reason:
            yield position, noise


def _make_clipping_table(noise_estimate: NoiseEstimate, image: Float32Array) -> ClippingTable:
    """Tabulate mean measurements over the range of an image, densely near the limits."""
    low, high = noise_estimate.clipping_limits
    ends = (
        low if isfinite(low) else float(image.min()),
        high if isfinite(high) else float(image.max()),
    )
    signals = [np.asarray(ends)]
    for limit, side in zip(noise_estimate.clipping_limits, (1.0, -1.0), strict=True):
        if isfinite(limit):
            max_distance = abs(limit - (ends[1] if side > 0 else ends[0]))
            distance = _find_clipping_distance(noise_estimate, limit, side, max_distance)
            signals.append(limit + side * np.linspace(0, distance, CLIPPING_TABLE_POINTS))
    table_signals = np.unique(np.clip(np.concatenate(signals), min(ends), max(ends)))
    return ClippingTable(
        table_signals, np.maximum.accumulate(compute_clipped_mean(noise_estimate, table_signals))
    )


def _find_clipping_distance(
    noise_estimate: NoiseEstimate, limit: float, side: float, max_distance: float
) -> float:
    """Return the distance from a limit that is `CLIPPING_SIGMAS` deviations, or `max_distance`.

    The standard deviation depends on the distance, so the interval is bisected. A fixed-point
    iteration would oscillate where the gain is large.
    """
    lower, upper = 0.0, max(max_distance, 1e-300)
    for _ in range(_BISECTION_STEPS):
        middle = (lower + upper) / 2
        variance = compute_noise_variance(noise_estimate, limit + side * middle)
        if middle < CLIPPING_SIGMAS * float(np.sqrt(variance)):
            lower = middle
        else:
            upper = middle
    return upper
