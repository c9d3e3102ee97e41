"""Estimate from validation pixels which share of detail is real.

Validation pixels are excluded from the fit. Their deviation from the local mean is regressed on
that of the image, and the slope is the confirmed share. The best prediction has the slope 1.
Detail that the network invented is absent from validation pixels, and lowers the slope towards 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.pipeline.plan.types import UnitOutcome, WorkUnit

#: Side of the window, in pixels, whose mean is subtracted to obtain fine detail. In properly
#: sampled images, spots, filaments and edges are two to four pixels wide.
DETAIL_WINDOW_SIDE = 9
#: Number of regression sums for each kind of detail. Sums of several units are added.
_SUM_COUNT = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedDetail:
    """Share of a kind of detail that the measurement confirms.

    Attributes
    ----------
    regression_slope : float
        Slope of measured on restored detail at validation pixels: 1 if all of it is real, 0 if none
        is.
    slope_error : float
        Standard error of `regression_slope`.
    detail_std : float
        Standard deviation of the detail, in intensity units of a fit (its range is about 1).
    signal_to_noise : float
        The same in units of the noise.
    """

    regression_slope: float
    slope_error: float
    detail_std: float
    signal_to_noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedChannel:
    """Confirmed detail and contrast of a channel that was fitted by itself; channels count from 1.

    An image is as good as its least confirmed channel, which a bright one would hide in the sums of
    all units.
    """

    channel_number: int
    detail: ConfirmedDetail
    contrast: ConfirmedDetail


@torch.no_grad()
def compute_validation_evidence(
    problem: Problem, noise_variance: NoiseVariance, validated_estimate: Estimate
) -> tuple[float, ...]:
    """Compute regression sums of an image at the validation pixels of its unit.

    Parameters
    ----------
    problem : Problem
    noise_variance : NoiseVariance
        In network units.
    validated_estimate : Estimate
        Network's own estimate, before measured pixels enter it and before a refit.

    Returns
    -------
    tuple of float
        Sums for `combine_validation_evidence`, for fine detail and for the whole contrast. Empty if
        there are no validation pixels, or a filter has spread them to others.
    """
    if problem.filters_first:
        return ()
    sums = torch.zeros(2, _SUM_COUNT, dtype=torch.float64)
    for term in problem.terms:
        prediction = term.operator(validated_estimate.mean)
        has_same_grid = prediction.shape[1:] == term.measurement.shape[1:]
        if not has_same_grid or not bool(term.validation_mask.any()):
            continue
        local_mean = _average_window(prediction)
        weight = term.validation_mask / noise_variance.compute_variance(prediction)
        means = [
            _average_validation_pixels(image, term.validation_mask)
            for image in (prediction, term.measurement)
        ]
        fine_detail = prediction - local_mean, term.measurement - local_mean
        contrast = prediction - means[0], term.measurement - means[1]
        for row, (detail, measured) in zip(sums, (fine_detail, contrast), strict=True):
            row += _sum_regression_moments(detail, measured, weight, term.validation_mask).cpu()
    return tuple(sums.flatten().tolist()) if float(sums[0, -1]) else ()


def combine_validation_evidence(
    evidence: Iterable[tuple[float, ...]],
) -> tuple[ConfirmedDetail, ConfirmedDetail] | None:
    """Return the confirmed fine detail and contrast over all units; None without evidence."""
    rows = [unit_sums for unit_sums in evidence if unit_sums]
    if not rows:
        return None
    totals = [sum(column) for column in zip(*rows, strict=True)]
    fine_detail = _estimate_confirmed_detail(totals[:_SUM_COUNT])
    contrast = _estimate_confirmed_detail(totals[_SUM_COUNT:])
    return None if fine_detail is None or contrast is None else (fine_detail, contrast)


def confirm_channels(
    outcomes: Iterable[UnitOutcome], units: Iterable[WorkUnit]
) -> tuple[ConfirmedChannel, ...]:
    """Return the confirmed detail of each channel that was fitted by itself; empty for only one."""
    channels_by_unit = {unit.id: unit.channels for unit in units}
    evidence: dict[int, list[tuple[float, ...]]] = {}
    for outcome in outcomes:
        channels = channels_by_unit.get(outcome.unit_id, ())
        if len(channels) == 1:
            evidence.setdefault(channels[0], []).append(outcome.evidence)
    confirmed = [
        ConfirmedChannel(channel_number=channel + 1, detail=pair[0], contrast=pair[1])
        for channel, rows in sorted(evidence.items())
        if (pair := combine_validation_evidence(rows))
    ]
    return tuple(confirmed) if len(confirmed) > 1 else ()


def _estimate_confirmed_detail(sums: list[float]) -> ConfirmedDetail | None:
    power, covariance, errors, cross, fourth, square_sum, count = sums
    if power <= 0 or count <= 0:
        return None
    slope = covariance / power
    # The sandwich estimate from the residual of each pixel does not depend on the noise model. It
    # is too small where few bright pixels count: the error by the noise model is its lower bound.
    error_square_sum = max(power, errors - 2 * slope * cross + slope**2 * fourth)
    return ConfirmedDetail(
        regression_slope=slope,
        slope_error=sqrt(error_square_sum) / power,
        detail_std=sqrt(square_sum / count),
        signal_to_noise=sqrt(power / count),
    )


def _sum_regression_moments(
    detail: Tensor, measured: Tensor, weight: Tensor, validation_pixels: Tensor
) -> Tensor:
    """Return the sums for a weighted regression through the origin and for its standard error."""
    # on the CPU, since Apple GPUs have no double precision
    detail, measured, weight, validation_mask = (
        values.cpu().double() for values in (detail, measured, weight, validation_pixels)
    )
    validation_mask = validation_mask.expand_as(detail)
    squared_weight, square = weight**2, detail**2
    terms = (
        weight * square,
        weight * detail * measured,
        squared_weight * square * measured**2,
        squared_weight * square * detail * measured,
        squared_weight * square**2,
        validation_mask * square,
        validation_mask,
    )
    return torch.stack([term.sum() for term in terms])


def _average_validation_pixels(image: Tensor, validation_pixels: Tensor) -> Tensor:
    """Return the mean of each channel over the validation pixels: (B, C, 1, ...)."""
    axes = tuple(range(2, image.ndim))
    total = validation_pixels.sum(axes, keepdim=True).clamp(min=1)
    return (image * validation_pixels).sum(axes, keepdim=True) / total


def _average_window(image: Tensor) -> Tensor:
    """Return the mean over a window around each pixel of (B, C, *grid), plane by plane."""
    planes = image.reshape(-1, 1, *image.shape[-2:])
    mean = F.avg_pool2d(
        planes, DETAIL_WINDOW_SIDE, 1, DETAIL_WINDOW_SIDE // 2, count_include_pad=False
    )
    return mean.reshape(image.shape)
