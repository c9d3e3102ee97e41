"""What Richardson-Lucy makes of an image in a few steps: a guess for the network to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.problem import Operator

#: Share of a pixel's light that must reach the seen pixels for them to have a say in it, and
#: least prediction as a share of the mean: as in `richardson_lucy`.
LEAST_SEEN, LEAST_LIGHT = 1e-2, 1e-6
#: Share of the pixels that a picture's reach leaves above it: single ones may be noise.
_ABOVE = 1e-3


def lucy_guesses(
    operator: Operator,
    measurement: Tensor,
    seen: Tensor,
    grid: tuple[int, ...],
    iterations: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Run Richardson-Lucy with any linear operator and any pixels left out.

    Parameters
    ----------
    operator : Operator
        Linear, without negative weights: (B, C, *grid) -> (B, C, *measured).
    measurement : Tensor
        (B, C, *measured), above the level at which there is no light; what lies below counts as 0.
    seen : Tensor
        (B, 1, *measured), 1 where a pixel may be used.
    grid : tuple of int
        Size of the picture.
    iterations : tuple of int, ascending
        Steps after which the picture is kept: few give a blurred one with little noise.

    Returns
    -------
    tuple of Tensor
        (B, C, *grid) each, non-negative.

    References
    ----------
    Richardson, JOSA 62, 1972, doi:10.1364/JOSA.62.000055; Lucy, Astron. J. 79, 1974,
    doi:10.1086/111605.
    """
    spread_back = transposed(operator, measurement, grid)
    axes = tuple(range(2, measurement.ndim))
    measurement = measurement.clamp(min=0) * seen
    mean = measurement.sum(axes, keepdim=True) / seen.sum(axes, keepdim=True).clamp(min=1)
    floor = LEAST_LIGHT * mean + torch.finfo(measurement.dtype).tiny
    light = spread_back(seen.expand_as(measurement).contiguous())
    picture, kept = mean.expand_as(light), []
    for step in range(1, max(iterations) + 1):
        with torch.no_grad():
            prediction = operator(picture).clamp(min=floor)
        factor = spread_back(measurement / prediction).clamp(min=0) / light.clamp(min=LEAST_SEEN)
        picture = picture * torch.where(light > LEAST_SEEN, factor, 1.0)
        if step in iterations:
            kept.append(picture)
    return tuple(kept)


def transposed(
    operator: Operator, measurement: Tensor, grid: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """Give the transposed operator: (B, C, *measured) -> (B, C, *grid).

    Parameters
    ----------
    operator : Operator
        Linear: (B, C, *grid) -> (B, C, *measured).
    measurement : Tensor
        (B, C, *measured), for its shape alone.
    grid : tuple of int
    """
    batch, channels = measurement.shape[:2]
    with torch.enable_grad():  # the transposed operator is the gradient of the operator
        start = measurement.new_zeros((batch, channels, *grid)).requires_grad_()
        blurred = operator(start)

    def spread_back(frame: Tensor) -> Tensor:
        return torch.autograd.grad(blurred, start, frame, retain_graph=True)[0]

    return spread_back


def reach_of(guess: Tensor) -> float:
    """Tell how far above darkness a picture is likely to go, by a guess at it; at least 1.

    Parameters
    ----------
    guess : Tensor
        (B, C, *grid), above the level at which there is no light, in units of the measurement's
        range.
    """
    last = guess.flatten()
    return max(1.0, float(last.kthvalue(max(1, round((1 - _ABOVE) * last.numel()))).values))
