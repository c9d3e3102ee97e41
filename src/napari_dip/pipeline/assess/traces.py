"""Compare traces of regions over time, of a movie and of its restoration: slope, offset and delay.

A trace is the mean of a region in each frame. Least squares of the restored trace on the measured
one would find too small a slope, since the measured one has noise, and too large a one where that
noise is left in the restored one. The variance of the noise is known, so it is subtracted. Which
share of the noise is left is not known: from none to all, with a rectangular distribution, which
adds to the errors.

References
----------
Fuller, Measurement Error Models, 1987, section 1.2: slopes with known error variance. JCGM 100:2008
(GUM), 4.3.7: rectangular distribution of what only limits are known of.
"""

from __future__ import annotations

from math import hypot, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.noise import predict_variance
from napari_dip.errors import RefusedError
from napari_dip.pipeline.plan.layout import from_stack
from napari_dip.public_types import RegionTraces as RegionTraces
from napari_dip.public_types import TraceComparison

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.io import AnyArray, FloatArray, ImageHeader
    from napari_dip.pipeline.calibrate.types import CalibratedImage

#: Side of the regions of a grid, in pixels: of 8, 16 and 32 it leaves the smallest errors for cells
#: of 8 to 13 pixels, a fifth below those of 32 (`benchmarks/traces.py --sides`).
TRACE_REGION_SIDE = 16
#: Fewest frames of a movie whose traces are compared.
MIN_TRACE_FRAMES = 16
#: Least standard deviation of a trace over time, in units of that of its noise, from which on it
#: tells. With 1.4, slopes of made movies of five photons had errors larger by a quarter.
MIN_TRACE_RATIO = 2.0
#: Largest delay of a trace that is looked for, in frames.
MAX_DELAY = 5
#: Sections of a trace that the jackknife leaves out, one at a time.
JACKKNIFE_BLOCKS = 8


def average_regions(image: AnyArray, axes: str, regions: AnyArray) -> tuple[FloatArray, FloatArray]:
    """Return traces (T, channels, planes x regions), and the number of pixels of each region.

    Parameters
    ----------
    image : ndarray
    axes : str
        One letter for each axis.
    regions : ndarray
        (Y, X) labels, 0 outside of regions; or bool, (Y, X) or (regions, Y, X).

    Raises
    ------
    RefusedError
        If there is no time axis, or no region of the image's size.
    """
    labels = np.asarray(regions)
    masks = labels if labels.ndim == 3 else labels[None]
    if labels.dtype != bool and labels.ndim == 2:
        masks = labels == np.unique(labels[labels > 0])[:, None, None]
    sizes = dict(zip(axes, image.shape, strict=True))
    if "T" not in axes or masks.shape[1:] != (sizes["Y"], sizes["X"]) or not masks.any():
        raise RefusedError("regions-wrong", height=sizes["Y"], width=sizes["X"])
    stack = _order_axes(np.asarray(image), axes)
    masks = masks[masks.any((1, 2))].astype(bool)
    traces = np.stack([stack[..., mask].mean(-1, dtype=np.float64) for mask in masks], -1)
    counts = np.tile(masks.sum((1, 2)), stack.shape[2]).astype(float)
    return traces.reshape(*traces.shape[:2], -1), counts


def _order_axes(image: AnyArray, axes: str) -> AnyArray:
    """Return an image as (T, channels, Z, Y, X)."""
    order = sorted(axes, key="TCSZYX".index)
    ordered = np.transpose(image, [axes.index(axis) for axis in order])
    sizes = dict(zip(order, ordered.shape, strict=True))
    channels = sizes.get("C", 1) * sizes.get("S", 1)
    return ordered.reshape(sizes.get("T", 1), channels, sizes.get("Z", 1), sizes["Y"], sizes["X"])


def measure_region_traces(
    measured: FloatArray, restored: FloatArray, counts: FloatArray, noise: Mapping[str, Any]
) -> RegionTraces:
    """Compare the traces of regions, each and together.

    Parameters
    ----------
    measured, restored : ndarray
        (T, channels, regions), by `average_regions`.
    counts : ndarray
        (regions,): pixels of each in the measured image.
    noise : mapping
        The noise in a report.
    """
    variance = estimate_trace_noise(measured, counts, noise).ravel()
    measured, restored = (traces.reshape(len(traces), -1) for traces in (measured, restored))
    return RegionTraces(
        measured=measured,
        restored=restored,
        comparisons=tuple(
            compare_traces(measured[:, i : i + 1], restored[:, i : i + 1], variance[i : i + 1])
            for i in range(measured.shape[1])
        ),
        pooled=compare_traces(measured, restored, variance),
    )


def has_enough_frames(header: ImageHeader) -> bool:
    """Return whether an image has frames enough for its traces to tell."""
    return header.get_size("T") >= MIN_TRACE_FRAMES


def compare_grid_traces(
    calibrated_image: CalibratedImage, restored: AnyArray, noise: Mapping[str, Any]
) -> TraceComparison | None:
    """Compare traces of a grid of regions of a movie; None if they do not tell.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    restored : ndarray
        (N, C, *grid), as the measured stack.
    noise : mapping
        The noise in a report.
    """
    header, layout = calibrated_image.header, calibrated_image.layout
    sizes = dict(zip(header.axes, header.shape, strict=True))
    edges = {axis: _split_side(sizes[axis]) for axis in "YX"}
    side_counts = [np.diff(edges[axis], append=sizes[axis]) for axis in "YX"]
    counts = np.outer(*side_counts).astype(float)
    shape = tuple(len(edges[axis]) if axis in "YX" else sizes[axis] for axis in header.axes)
    traces = []
    for stack in (calibrated_image.stack, restored):
        sums = np.add.reduceat(stack, edges["Y"], -2, dtype=np.float64)
        means = np.add.reduceat(sums, edges["X"], -1) / counts
        ordered = _order_axes(from_stack(means, header.axes, shape, layout), header.axes)
        traces.append(ordered.reshape(*ordered.shape[:2], -1))
    counts = np.tile(counts.ravel(), sizes.get("Z", 1))
    variance = estimate_trace_noise(traces[0], counts, noise)
    measured, result = (trace.reshape(len(trace), -1) for trace in traces)
    return compare_traces(measured, result, variance.ravel())


def _split_side(size: int) -> AnyArray:
    """Return the first pixel of each region along a side."""
    count = max(1, size // TRACE_REGION_SIDE)
    return np.arange(count) * size // count


def estimate_trace_noise(
    traces: FloatArray, counts: FloatArray, noise: Mapping[str, Any]
) -> FloatArray:
    """Return the noise variance of traces, (channels, regions), in squared units of the image.

    Where the noise of pixels is unreliable, it is the median curvature over time, which rare and
    slow changes hardly raise.

    Parameters
    ----------
    traces : ndarray
        (T, channels, regions).
    counts : ndarray
        (regions,): pixels of each.
    noise : mapping
        The noise in a report.
    """
    level = traces.mean(0)
    gain, intercept, relative = (
        np.reshape(noise.get(key) or [0.0] * len(level), (-1, 1))
        for key in ("gain", "intercept", "relative_deviation")
    )
    variance = predict_variance(level, gain, intercept) + (relative * level) ** 2
    variance = np.maximum(variance, 0)
    if max(noise["blind_spot_size"]) > 1:  # correlated noise is averaged less
        for along in noise["autocorrelation"].values():
            variance *= np.maximum(1 + 2 * np.sum(along, -1, keepdims=True), 1)
    curvature = np.abs(traces[1:-1] - (traces[:-2] + traces[2:]) / 2)
    is_reliable = np.array([reason is None for reason in noise["unreliable_reason"]])[:, None]
    # of Gaussian noise, the median is 0.6745 standard deviations, and this variance 1.5 times it
    return np.where(is_reliable, variance / counts, (np.median(curvature, 0) / 0.6745) ** 2 / 1.5)


def compare_traces(
    measured: FloatArray, restored: FloatArray, noise_variance: FloatArray
) -> TraceComparison | None:
    """Compare traces of regions; None if no trace varies enough beyond its noise.

    Parameters
    ----------
    measured, restored : ndarray
        (T, regions), in units of the image.
    noise_variance : ndarray
        (regions,): variance of the noise of the measured traces.
    """
    frame_count = len(measured)
    if frame_count < MIN_TRACE_FRAMES:
        return None
    y, z = (_remove_trend(trace) for trace in (measured, restored))
    noise = np.maximum(noise_variance * (1 - 2 / frame_count), 1e-300)
    is_varying = (y**2).mean(0) > MIN_TRACE_RATIO**2 * noise
    if not is_varying.any():
        return None
    std = np.sqrt(noise[is_varying])
    y, z = (trace[:, is_varying] / std for trace in (y, z))  # noise of variance 1
    shifts = range(-MAX_DELAY, MAX_DELAY + 1)
    shift = max(shifts, key=lambda lag: float(np.multiply(*_shift_apart(y, z, lag)).mean()))
    y, z = _shift_apart(y, z, shift)
    slope, slope_uncertainty = _divide_sums(y * z, y**2 - 1)
    gradient = (y[2:] - y[:-2]) / 2
    rest, rest_error = _divide_sums((slope * y - z)[1:-1] * gradient, gradient**2 - 0.5)
    # all of the noise left adds its variance to the covariance; noise of the frame before or after
    # that is averaged in by half adds a quarter of it to the covariance with the gradient
    noise_slope = 1 / float((y**2 - 1).mean())
    noise_delay = 1 / float((gradient**2 - 0.5).mean()) / 4
    change = (restored - measured)[:, is_varying]
    offset, offset_uncertainty = _divide_sums(change, np.ones_like(change))
    return TraceComparison(
        slope=slope - noise_slope / 2,
        slope_uncertainty=hypot(slope_uncertainty, noise_slope / sqrt(12)),
        offset=offset,
        offset_uncertainty=offset_uncertainty,
        delay=shift + rest / slope,
        delay_uncertainty=hypot(rest_error, noise_delay / sqrt(3)) / abs(slope),
        region_count=int(is_varying.sum()),
    )


def _remove_trend(trace: FloatArray) -> FloatArray:
    """Return (T, regions) without mean and slope over time, which bleaching makes."""
    time = np.linspace(-1, 1, len(trace))[:, None]
    centred = trace - trace.mean(0)
    return np.asarray(centred - time * (time * centred).sum(0) / (time**2).sum())


def _shift_apart(y: FloatArray, z: FloatArray, shift: int) -> tuple[FloatArray, FloatArray]:
    """Return both traces where they overlap, with the second earlier by so many frames."""
    count = len(y) - abs(shift)
    return y[max(-shift, 0) :][:count], z[max(shift, 0) :][:count]


def _divide_sums(numerator: FloatArray, denominator: FloatArray) -> tuple[float, float]:
    """Return the ratio of sums over (T, regions), and its standard error by the jackknife."""
    starts = np.linspace(0, len(numerator), JACKKNIFE_BLOCKS + 1).astype(int)[:-1]
    above, below = (np.add.reduceat(terms, starts) for terms in (numerator, denominator))
    without = (above.sum() - above) / (below.sum() - below)
    error = sqrt((without.size - 1) * float(np.var(without)))
    return float(above.sum() / below.sum()), error
