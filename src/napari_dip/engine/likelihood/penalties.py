"""Penalties: what is unlikely about a picture, whatever was measured.

Movies: a picture is drawn to that of the frame before, where nothing has changed since.

The temporal difference is a penalty that saturates: between two pictures that agree within their
doubts it pulls, and where something has moved or lit up it lets go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.networks.layers import AVERAGE_POOLS
from napari_dip.engine.problem import Estimate, Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_dip.engine.problem import Penalty

#: Rounds the corner of the absolute value; below the noise of any detector in network units.
_ABSOLUTE_SMOOTHING = 1e-3


def total_variation(unit: float) -> Penalty:
    """Isotropic total variation, per pixel, in any number of dimensions.

    Parameters
    ----------
    unit : float, > 0
        What counts as a step of one: the noise's standard deviation in network units, so
        that a weight means the same for every image.

    Returns
    -------
    Penalty
        image (B, C, *grid) -> scalar, the mean length of the gradient in units of `unit`.

    Raises
    ------
    ValueError
        If `unit` is not positive.

    References
    ----------
    Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms,
    Physica D 60, 1992, doi:10.1016/0167-2789(92)90242-F.
    """
    _require_positive(unit)

    def penalty(image: Tensor) -> Tensor:
        squares = image.new_full((), _ABSOLUTE_SMOOTHING**2)
        for step in _iter_differences(image / unit):
            squares = squares + step**2
        return squares.sqrt().mean()

    return penalty


def anisotropic_total_variation(unit: float) -> Penalty:
    """Total variation along each axis by itself, summed: cheapest for edges along the axes.

    Parameters
    ----------
    unit : float, > 0
        As for `total_variation`.

    Returns
    -------
    Penalty
        image (B, C, *grid) -> scalar, the mean over pixels of the sum of the absolute steps to
        the next pixel along each axis, in units of `unit`.

    Raises
    ------
    ValueError
        If `unit` is not positive.

    References
    ----------
    Esedoglu, Osher, Decomposition of images by the anisotropic Rudin-Osher-Fatemi model,
    Communications on Pure and Applied Mathematics 57(12), 2004, doi:10.1002/cpa.20045.
    """
    _require_positive(unit)

    def penalty(image: Tensor) -> Tensor:
        total = image.new_zeros(())
        for step in _iter_differences(image / unit):
            total = total + (step**2 + _ABSOLUTE_SMOOTHING**2).sqrt().mean()
        return total

    return penalty


def lower_bound_penalty(level: Tensor, unit: float) -> Penalty:
    """Mean square of what lies below a level, in units of `unit`.

    Parameters
    ----------
    level : Tensor
        (1, C, 1, ...), in network units: where there is no light.
    unit : float, > 0
        What counts as a step of one, such as the noise's standard deviation.

    Raises
    ------
    ValueError
        If `unit` is not positive.
    """
    _require_positive(unit)
    return lambda image: ((level - image) / unit).clamp(min=0).square().mean()


def _iter_differences(image: Tensor) -> Iterator[Tensor]:
    """Give the step to the next pixel along each axis of the grid, 0 at the end; (B, C, *grid)."""
    for dim in range(2, image.ndim):
        yield torch.diff(image, dim=dim, append=image.narrow(dim, -1, 1))


def _require_positive(unit: float) -> None:
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")


def quadratic_proximity(picture: Tensor, unit: float) -> Penalty:
    """Mean square of the distance from a picture, in units of `unit`.

    Parameters
    ----------
    picture : Tensor
        (1, C, *grid), in network units.
    unit : float, > 0
        What counts as a step of one: how far the picture may be off.

    Raises
    ------
    ValueError
        If `unit` is not positive.
    """
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")
    return lambda image: ((image - picture) / unit).square().mean()


#: Width of the patch whose mean tells whether something has changed: nine pixels know a change of
#: the size of their doubt from chance, and few structures are narrower.
CHANGE_PATCH_SIDE = 3


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PreviousFrame:
    """The picture of the frame before, laid onto the frame that is restored now.

    Attributes
    ----------
    picture, variance : Tensor
        (1, C, *grid), in network units.
    valid : Tensor
        (1, 1, *grid), 1 where the frame before showed the place.
    """

    picture: Tensor
    variance: Tensor
    valid: Tensor


class _FinishedIdentity(nn.Module):
    """Shows a picture as it will be handed over: within the frame, say."""

    def __init__(self, finish: Callable[[Estimate], Estimate]) -> None:
        super().__init__()
        self._finish = finish

    def forward(self, image: Tensor) -> Tensor:
        return self._finish(Estimate(image)).mean


def make_temporal_term(
    before: PreviousFrame, unit: float, weight: float, finish: Callable[[Estimate], Estimate]
) -> Term:
    """Count steps in time as a term beside the measurement; they drive, and never judge.

    Parameters
    ----------
    before : PreviousFrame
    unit : float, > 0
        Step at which the pull lets go: the noise's standard deviation in network units.
    weight : float
    finish : callable
        The problem's last step: what is compared is the picture as it will be handed over.

    Returns
    -------
    Term
        Its loss is weight × d² / (1 + d²), d being the step in units of `unit`.

    Raises
    ------
    ValueError
        If `unit` is not positive.

    References
    ----------
    Geman, McClure, Statistical methods for tomographic image reconstruction, Bulletin of the
    International Statistical Institute 52(4), 1987: the function that saturates.
    """
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")

    def loss(estimate: Estimate, picture: Tensor) -> Tensor:
        squared = ((estimate.mean - picture) / unit) ** 2
        return weight * squared / (1 + squared)

    return Term(
        measurement=before.picture,
        operator=_FinishedIdentity(finish),
        fidelity=loss,
        likelihood=_compute_zero_likelihood,
        fitted=before.valid,
        held_out=torch.zeros_like(before.valid),
        measured=before.valid,
    )


def smooth_temporally(estimate: Estimate, before: PreviousFrame, weight: float) -> Estimate:
    """Weigh a picture that knows its doubt against that of the frame before.

    Both pictures speak of the same pixel, each with its variance; that of the frame before grows
    by what has changed since: the squared difference of the two over a small patch, less what
    their doubts explain. Then the two are averaged by their variances. Their errors are taken to
    be the same ones, since one network made both: the average is claimed to be no surer than the
    two (where it was claimed to be, errors were 2.9 times as large as said, not 2.0 times).

    Parameters
    ----------
    estimate : Estimate
        Unchanged if it gives no variance.
    before : PreviousFrame
    weight : float
        How many times the frame before counts; 0: not at all.
    """
    if estimate.log_variance is None:
        return estimate
    variance = estimate.log_variance.exp()
    apart = before.picture - estimate.mean
    pool = AVERAGE_POOLS[apart.ndim - 2]
    patch = pool(
        apart**2,
        CHANGE_PATCH_SIDE,
        stride=1,
        padding=CHANGE_PATCH_SIDE // 2,
        count_include_pad=False,
    )
    change = (patch - variance - before.variance).clamp(min=0)
    pull = weight * before.valid * variance
    doubt = before.variance + change
    share = pull / (pull + doubt).clamp(min=1e-30)
    deviation = (1 - share) * variance.sqrt() + share * doubt.sqrt()
    return Estimate(estimate.mean + share * apart, 2 * deviation.clamp(min=1e-6).log())


def _compute_zero_likelihood(estimate: Estimate, picture: Tensor) -> Tensor:
    return torch.zeros_like(estimate.mean)
