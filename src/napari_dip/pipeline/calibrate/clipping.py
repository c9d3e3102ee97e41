"""Signal behind a measurement whose noise was cut off, at black or at white.

Where the noise of dark pixels ends at grey value 0, what lies below comes back as 0, and the mean
of many such pixels is brighter than they are; at white it is darker. A restoration estimates that
mean. With the noise known, so is the mean that each signal leads to, and the way back. Photons are
never fewer than none: where no noise is without light, nothing is cut, however many pixels are 0.

The measured noise also foretells how many pixels lie at a limit. Where fewer are there, as much
less is corrected, so that a noise measured too strong cannot lift a picture.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, isfinite, pi, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.plan.types import Plan, WorkUnit

    Numbers = npt.NDArray[np.float64]

    Picture = npt.NDArray[np.float32]

#: Standard deviations from the limit beyond which nothing is cut (1e-9 of the noise), and signals
#: in the table up to there: straight lines between them are off by 2e-5 of the noise.
CLIPPING_SIGMAS, CLIPPING_TABLE_POINTS = 6.0, 512
#: Counts of photons that are told apart at most: normal noise is as good beyond.
MAX_PHOTON_COUNTS = 1000
#: Halvings of an interval: to the last digit of a float.
_BISECTION_STEPS = 60
#: Side of the blocks whose means foretell how many pixels are cut off.
_BLOCK_SIDE = 8
#: Mean excess over a limit of the noise that goes beyond it, in standard deviations, of a signal at
#: the limit itself; of a darker one it is less.
HALF_NORMAL_MEAN = sqrt(2 / pi)
#: How many times the standard deviation may grow: as much as it does at the limit, where half of
#: the noise is cut.
MAX_DEVIATION_GROWTH = 2.0


class ClippingTable(NamedTuple):
    """Signals of one channel in order, and the mean that is measured of each: (K,) both."""

    signals: Numbers
    means: Numbers


def compute_clipped_mean(noise: NoiseEstimate, signals: Numbers) -> Numbers:
    """Mean of what is measured of signals whose noise is cut off.

    Photons never are fewer than none, so at black only the noise is cut that is there without
    light: what each count of photons leaves below black is weighed by how often it comes. At white
    photons are many, and their noise is normal.

    Parameters
    ----------
    noise : NoiseEstimate
        With the limits in `cut_off`, and in `cut_belief` how much of what is cut there counts.
    signals : ndarray
        In the image's units.

    References
    ----------
    Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, Signal Processing
    89(12), 2009, doi:10.1016/j.sigpro.2009.04.035.
    """
    low, high = noise.cut_off
    means = signals.astype(np.float64)
    if isfinite(low):
        means = means + noise.cut_belief[0] * _compute_black_clipping_bias(noise, signals, low)
    if isfinite(high):
        beyond = _compute_mean_excess(
            signals - high, np.sqrt(compute_noise_variance(noise, signals))
        )
        means = means - noise.cut_belief[1] * beyond
    return means


def _compute_black_clipping_bias(noise: NoiseEstimate, signals: Numbers, low: float) -> Numbers:
    """How much brighter signals are on average since nothing is below black."""
    dark = _compute_black_deviation(noise, low)
    light = np.maximum(signals - low, 0)
    if not dark:
        return np.zeros_like(light)
    if _has_many_photons(noise, dark):
        return _compute_mean_excess(-light, np.sqrt(dark**2 + noise.gain * light))
    often, counts = _compute_poisson_probabilities(noise, dark, light)
    lifted: Numbers = often @ _compute_mean_excess(
        -noise.gain * counts, np.full(len(counts), dark, np.float64)
    )
    return lifted


def _has_many_photons(noise: NoiseEstimate, dark: float) -> bool:
    """Whether photons come by the hundred where noise is cut at black: normal, too."""
    return noise.gain * MAX_PHOTON_COUNTS < CLIPPING_SIGMAS * dark


def _compute_poisson_probabilities(
    noise: NoiseEstimate, dark: float, light: Numbers
) -> tuple[Numbers, Numbers]:
    """How often each light (K,) gives each small count of photons, (K, N), and the counts."""
    counts = np.arange(ceil(CLIPPING_SIGMAS * dark / noise.gain) + 1, dtype=np.float64)
    photons = np.maximum(light / noise.gain, 1e-300)[:, None]
    factorials = np.cumsum(np.log(np.maximum(counts, 1)))
    return np.exp(counts * np.log(photons) - photons - factorials), counts


def _compute_black_deviation(noise: NoiseEstimate, low: float) -> float:
    """Give the standard deviation of what is measured at black."""
    return sqrt(max(noise.gain * low + noise.intercept, 0.0))


def _compute_mean_excess(above: Numbers, deviation: Numbers) -> Numbers:
    """Mean excess over a limit of normal values whose means lie so far above it."""
    import torch

    away = torch.from_numpy(above / deviation)
    tail = torch.exp(-(away**2) / 2) / sqrt(2 * pi)
    excess: Numbers = deviation * (tail + away * torch.special.ndtr(away)).numpy()
    return excess


def _compute_normal_tail(away: Numbers) -> Numbers:
    """Share of normal values that lie beyond a limit so far below their mean."""
    import torch

    share: Numbers = torch.special.ndtr(torch.from_numpy(np.asarray(away))).numpy()
    return share


def calibrate_clipping_limits(
    noise: NoiseEstimate, planes: Picture, measured_mask: npt.NDArray[np.bool_] | None
) -> NoiseEstimate:
    """Compare the pixels that were cut off with those that the noise foretells.

    Parameters
    ----------
    noise : NoiseEstimate
        Of one channel.
    planes : ndarray
        (..., Y, X): what was measured of it.
    measured_mask : ndarray of bool or None
        Of the same shape; None: all.

    Returns
    -------
    NoiseEstimate
        With `cut_belief`: pixels at each limit, as a share of those foretold, 1 at most.
    """
    if not any(map(isfinite, noise.cut_off)):
        return noise
    pixels = planes.reshape(-1) if measured_mask is None else planes[measured_mask]
    table = _make_clipping_table(replace(noise, cut_belief=(1.0, 1.0)), pixels)
    signals = np.interp(_average_measured_blocks(planes, measured_mask), table.means, table.signals)
    belief = [1.0, 1.0]
    for side, limit in enumerate(noise.cut_off):
        if isfinite(limit):
            counted = float(((pixels <= limit) if side == 0 else (pixels >= limit)).mean())
            shares = np.interp(
                signals, table.signals, _compute_clipped_share(noise, table.signals, side)
            )
            foretold = float(shares.mean()) if len(shares) else 0.0
            belief[side] = min(1.0, counted / foretold) if foretold > 0 else 1.0
    return replace(noise, cut_belief=(belief[0], belief[1]))


def _average_measured_blocks(
    planes: Picture, measured_mask: npt.NDArray[np.bool_] | None
) -> Numbers:
    """Means of the whole blocks of (..., Y, X) that were measured."""
    rows, columns = (side // _BLOCK_SIDE for side in planes.shape[-2:])

    def blocks(of: npt.NDArray[Any]) -> npt.NDArray[Any]:
        cut = of[..., : rows * _BLOCK_SIDE, : columns * _BLOCK_SIDE]
        parted = cut.reshape(*cut.shape[:-2], rows, _BLOCK_SIDE, columns, _BLOCK_SIDE)
        return np.moveaxis(parted, -2, -3).reshape(-1, _BLOCK_SIDE**2)

    means = blocks(planes).mean(1, dtype=np.float64)
    return np.asarray(means if measured_mask is None else means[blocks(measured_mask).all(1)])


def _compute_clipped_share(noise: NoiseEstimate, signals: Numbers, side: int) -> Numbers:
    """Share of the pixels of each signal that noise takes to a limit or beyond it."""
    limit = noise.cut_off[side]
    if side == 1:
        return _compute_normal_tail(
            (signals - limit) / np.sqrt(compute_noise_variance(noise, signals))
        )
    light, dark = np.maximum(signals - limit, 0), _compute_black_deviation(noise, limit)
    if not dark:
        return np.zeros_like(light)
    if _has_many_photons(noise, dark):
        return _compute_normal_tail(-light / np.sqrt(dark**2 + noise.gain * light))
    often, counts = _compute_poisson_probabilities(noise, dark, light)
    shares: Numbers = often @ _compute_normal_tail(-noise.gain * counts / dark)
    return shares


def bound_clipping_bias(
    plan: Plan, calibration: Calibration, parts: Picture
) -> tuple[float, float]:
    """Most that cut-off noise can have raised and lowered the mean of a measurement.

    It is told from the pixels that lie at a limit and the noise there, not from a restored picture
    nor from the table that restored it: a check must not use what it checks.

    Parameters
    ----------
    plan, calibration
    parts : ndarray
        (parts, C, *grid): what was measured.

    Returns
    -------
    raised, lowered : float
        In the image's units, both positive.
    """
    raised = lowered = 0.0
    for place, noise in _iter_clipped_channels(plan, calibration, range(parts.shape[1])):
        pixels, (low, high) = parts[:, place], noise.cut_off
        if isfinite(low):
            raised += float((pixels <= low).mean()) * _compute_black_deviation(noise, low)
        if isfinite(high):
            lowered += float((pixels >= high).mean()) * float(
                np.sqrt(compute_noise_variance(noise, high))
            )
    return HALF_NORMAL_MEAN * raised / parts.shape[1], HALF_NORMAL_MEAN * lowered / parts.shape[1]


def correct_clipping(
    plan: Plan, calibration: Calibration, unit: WorkUnit, picture: Picture
) -> tuple[Picture, Picture]:
    """Give the signal that leads to a picture, and how many times a standard deviation grows.

    Parameters
    ----------
    plan, calibration, unit
    picture : ndarray
        (C, *grid), in the image's units: the mean of what is measured.

    Returns
    -------
    signal, growth : ndarray
        Of the same shape; signals end at the limits.
    """
    signal, growth = picture.copy(), np.ones_like(picture)
    for place, noise in _iter_clipped_channels(plan, calibration, unit.channels):
        table = _make_clipping_table(noise, picture[place])
        rises = np.diff(table.signals) / np.maximum(np.diff(table.means), 1e-300)
        middles = (table.means[1:] + table.means[:-1]) / 2
        signal[place] = _interpolate_table(picture[place], table.means, table.signals)
        growth[place] = np.interp(picture[place], middles, rises.clip(1.0, MAX_DEVIATION_GROWTH))
    return signal, growth


def apply_clipping(
    plan: Plan, calibration: Calibration, parts: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Compute the mean measurement of parts (parts, C, *grid): `correct_clipping` undone."""
    measured = parts
    for place, noise in _iter_clipped_channels(plan, calibration, range(parts.shape[1])):
        measured = parts.copy() if measured is parts else measured
        table = _make_clipping_table(noise, parts[:, place])
        measured[:, place] = _interpolate_table(parts[:, place], table.signals, table.means)
    return measured


def list_corrected_limits(plan: Plan, calibration: Calibration) -> tuple[float, ...]:
    """Grey values at which noise was cut off that is reckoned back, in order."""
    limits = set()
    for _, noise in _iter_clipped_channels(plan, calibration, range(len(calibration.noise))):
        low, high = noise.cut_off
        if isfinite(low) and _compute_black_deviation(noise, low) > 0:
            limits.add(low)
        if isfinite(high):
            limits.add(high)
    return tuple(sorted(limits))


def _iter_clipped_channels(
    plan: Plan, calibration: Calibration, channels: tuple[int, ...] | range
) -> Iterator[tuple[int, NoiseEstimate]]:
    """Places and noise of the channels that are cut off, by a noise that is known."""
    if not plan.recipe.task.unclips():
        return
    for place, channel in enumerate(channels):
        noise = calibration.noise[channel]
        if any(map(isfinite, noise.cut_off)) and not noise.doubt:
            yield place, noise


def _make_clipping_table(noise: NoiseEstimate, picture: npt.NDArray[np.float32]) -> ClippingTable:
    """Tabulate from limit to limit, or to the end of the picture: densely where noise is cut."""
    low, high = noise.cut_off
    ends = (
        low if isfinite(low) else float(picture.min()),
        high if isfinite(high) else float(picture.max()),
    )
    signals = [np.asarray(ends)]
    for limit, side in zip(noise.cut_off, (1.0, -1.0), strict=True):
        if isfinite(limit):
            most = abs(limit - (ends[1] if side > 0 else ends[0]))
            signals.append(
                limit
                + side
                * np.linspace(
                    0, _find_clipping_distance(noise, limit, side, most), CLIPPING_TABLE_POINTS
                )
            )
    ordered = np.unique(np.clip(np.concatenate(signals), min(ends), max(ends)))
    return ClippingTable(ordered, np.maximum.accumulate(compute_clipped_mean(noise, ordered)))


def _find_clipping_distance(noise: NoiseEstimate, limit: float, side: float, most: float) -> float:
    """Find the distance from a limit that is `CLIPPING_SIGMAS` standard deviations, or `most`.

    The standard deviation changes with the distance, so it is searched for by halving: taking the
    last distance's deviation for the next swings for ever where the gain is large.
    """
    near, far = 0.0, max(most, 1e-300)
    for _ in range(_BISECTION_STEPS):
        middle = (near + far) / 2
        if middle < CLIPPING_SIGMAS * float(
            np.sqrt(compute_noise_variance(noise, limit + side * middle))
        ):
            near = middle
        else:
            far = middle
    return far


def _interpolate_table(values: npt.NDArray[np.float32], start: Numbers, end: Numbers) -> Picture:
    """Go from one scale to the other; what lies beyond a table goes on as it is, or to its end."""
    return np.asarray(np.interp(values, start, end), np.float32)
