"""What the held-out pixels say of a picture: the share of its detail that was measured, too.

The fit never saw these pixels. Where the picture shows detail, the measurement should deviate from
the local mean in the same way; the slope of the one on the other is the share of the detail that
the measurement confirms. A picture that foretells as well as can be has the slope 1; detail of the
network's own making is in no held-out pixel and pulls it towards 0.
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

    from napari_dip.engine.fit.schedule import Schedule
    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.problem import Estimate, Problem

#: Side of the window, in pixels, whose mean is taken from a picture to leave its fine detail:
#: spots, threads and edges of cameras that sample as they should are two to four pixels wide.
DETAIL_WINDOW_SIDE = 9
#: Sums that are kept of each kind of detail; those of all units add up.
_SUM_COUNT = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedDetail:
    """How much of a kind of detail the measurement confirms.

    Attributes
    ----------
    share : float
        Slope of measured on shown detail at pixels that the fit never saw: 1 if all of it is real,
        0 if none is.
    error : float
        Standard error of `share`.
    strength : float
        Standard deviation of the detail, in intensity units of a fit (its range is about 1).
    """

    share: float
    error: float
    strength: float


@torch.no_grad()
def compute_validation_evidence(
    schedule: Schedule, problem: Problem, noise: NoiseVariance, blind: Estimate
) -> tuple[float, ...]:
    """Compare a picture with the held-out pixels of its unit.

    Parameters
    ----------
    schedule, problem, noise
        Of the fit, in network units.
    blind : Estimate
        The picture before a pixel's own measurement has a say.

    Returns
    -------
    tuple of float
        Sums that `combine_validation_evidence` reads, for fine detail and for all of the picture's
        contrast; those
        of several units are added. Empty if no pixel was left out to the end.
    """
    if schedule.release:
        return ()
    sums = torch.zeros(2, _SUM_COUNT, dtype=torch.float64)
    for term in problem.terms:
        prediction = term.operator(blind.mean)
        if not bool(term.held_out.any()) or prediction.shape[1:] != term.measurement.shape[1:]:
            continue
        around, weight = _average_window(prediction), term.held_out / noise.at(prediction)
        means = [
            _average_validation_pixels(item, term.held_out)
            for item in (prediction, term.measurement)
        ]
        fine = prediction - around, term.measurement - around
        whole = prediction - means[0], term.measurement - means[1]
        for row, (detail, measured) in zip(sums, (fine, whole), strict=True):
            row += _sum_regression_moments(detail, measured, weight, term.held_out).cpu()
    return tuple(sums.flatten().tolist()) if float(sums[0, -1]) else ()


def combine_validation_evidence(
    evidence: Iterable[tuple[float, ...]],
) -> tuple[ConfirmedDetail, ConfirmedDetail] | None:
    """Add up what the units say: of fine detail, and of all contrast; None if none can say."""
    rows = [item for item in evidence if item]
    if not rows:
        return None
    totals = [sum(column) for column in zip(*rows, strict=True)]
    fine, whole = (
        _estimate_confirmed_detail(totals[:_SUM_COUNT]),
        _estimate_confirmed_detail(totals[_SUM_COUNT:]),
    )
    return None if fine is None or whole is None else (fine, whole)


def _estimate_confirmed_detail(sums: list[float]) -> ConfirmedDetail | None:
    power, both, errors, mixed, fourth, plain, count = sums
    if power <= 0 or count <= 0:
        return None
    share = both / power
    # each pixel's own error counts, so no noise model has to be right for it
    spread = max(0.0, errors - 2 * share * mixed + share**2 * fourth)
    return ConfirmedDetail(share=share, error=sqrt(spread) / power, strength=sqrt(plain / count))


def _sum_regression_moments(
    detail: Tensor, measured: Tensor, weight: Tensor, judges: Tensor
) -> Tensor:
    """Sum up for a straight line through the origin by weighted least squares, and of its error."""
    detail, measured, weight = (item.to(torch.float64) for item in (detail, measured, weight))
    validation_mask = judges.to(torch.float64).expand_as(detail)
    double, square = weight**2, detail**2
    terms = (
        weight * square,
        weight * detail * measured,
        double * square * measured**2,
        double * square * detail * measured,
        double * square**2,
        validation_mask * square,
        validation_mask,
    )
    return torch.stack([term.sum() for term in terms])


def _average_validation_pixels(picture: Tensor, judges: Tensor) -> Tensor:
    """Mean of each channel over the judging pixels: (B, C, 1, ...)."""
    axes = tuple(range(2, picture.ndim))
    total = judges.sum(axes, keepdim=True).clamp(min=1)
    return (picture * judges).sum(axes, keepdim=True) / total


def _average_window(picture: Tensor) -> Tensor:
    """Mean over a window about each pixel of (B, C, *grid), plane by plane."""
    planes = picture.reshape(-1, 1, *picture.shape[-2:])
    mean = F.avg_pool2d(
        planes, DETAIL_WINDOW_SIDE, 1, DETAIL_WINDOW_SIDE // 2, count_include_pad=False
    )
    return mean.reshape(picture.shape)
