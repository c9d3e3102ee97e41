"""Movies: a picture is drawn to that of the frame before, where nothing has changed since.

The temporal difference is a penalty that saturates: between two pictures that agree within their
doubts it pulls, and where something has moved or lit up it lets go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from napari_dip.engine.problem import Estimate, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}
#: Width of the patch whose mean tells whether something has changed: nine pixels know a change of
#: the size of their doubt from chance, and few structures are narrower.
PATCH = 3


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """The picture of the frame before, laid onto the frame that is restored now.

    Attributes
    ----------
    picture, variance : Tensor
        (1, C, *grid), in network units.
    seen : Tensor
        (1, 1, *grid), 1 where the frame before showed the place.
    """

    picture: Tensor
    variance: Tensor
    seen: Tensor


class _Finished(nn.Module):
    """Shows a picture as it will be handed over: within the frame, say."""

    def __init__(self, finish: Callable[[Estimate], Estimate]) -> None:
        super().__init__()
        self._finish = finish

    def forward(self, image: Tensor) -> Tensor:
        return self._finish(Estimate(image)).mean


def temporal_difference(
    before: Before, unit: float, weight: float, finish: Callable[[Estimate], Estimate]
) -> Term:
    """Count steps in time as a term beside the measurement; they drive, and never judge.

    Parameters
    ----------
    before : Before
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
        before.picture,
        _Finished(finish),
        loss,
        _no_judge,
        fitted=before.seen,
        held_out=torch.zeros_like(before.seen),
        measured=before.seen,
    )


def steadied(estimate: Estimate, before: Before, weight: float) -> Estimate:
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
    before : Before
    weight : float
        How many times the frame before counts; 0: not at all.
    """
    if estimate.log_variance is None:
        return estimate
    variance = estimate.log_variance.exp()
    apart = before.picture - estimate.mean
    pool = _POOLS[apart.ndim - 2]
    patch = pool(apart**2, PATCH, stride=1, padding=PATCH // 2, count_include_pad=False)
    change = (patch - variance - before.variance).clamp(min=0)
    pull = weight * before.seen * variance
    doubt = before.variance + change
    share = pull / (pull + doubt).clamp(min=1e-30)
    deviation = (1 - share) * variance.sqrt() + share * doubt.sqrt()
    return Estimate(estimate.mean + share * apart, 2 * deviation.clamp(min=1e-6).log())


def _no_judge(estimate: Estimate, picture: Tensor) -> Tensor:
    return torch.zeros_like(estimate.mean)
