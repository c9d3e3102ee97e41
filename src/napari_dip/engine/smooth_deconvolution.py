"""Deconvolution by weighted least squares, of pictures without negative light and with few bends.

Richardson-Lucy takes noise for Poisson's and knows no smoothness. Here each pixel counts by its
own variance, and what bends the picture has its price.

Each step multiplies the picture by what it should be brightened by, as Richardson-Lucy does,
but for least squares (the image space reconstruction algorithm); a bend counts as a
measurement of its own, through a quadratic that lies above its price. Steps are drawn out by
as much as the last two agree, which makes twenty do the work of hundreds.

References
----------
Daube-Witherspoon, Muehllehner, An iterative image space reconstruction algorithm suitable for
volume ECT, IEEE Trans. Medical Imaging 5, 1986, doi:10.1109/TMI.1986.4307748. Biggs, Andrews,
Acceleration of iterative image restoration algorithms, Applied Optics 36, 1997,
doi:10.1364/AO.36.001766. Lefkimmiatis, Bourquard, Unser, Hessian-based norm regularization for
image restoration with biomedical applications, IEEE Trans. Image Processing 21, 2012,
doi:10.1109/TIP.2011.2168232. De Pierro, A modified expectation maximization algorithm for
penalized likelihood estimation in emission tomography, IEEE Trans. Medical Imaging 14, 1995,
doi:10.1109/42.370409.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations_with_replacement, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_dip.engine.first_guess import LEAST_LIGHT, LEAST_SEEN, transposed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_dip.engine.problem import Operator

#: Most that a step is drawn out in the direction of the one before: 1 would never come to rest.
_MOST_MOMENTUM = 0.98


def smooth_deconvolutions(
    operator: Operator,
    light: Tensor,
    variance: Tensor,
    seen: Tensor,
    grid: tuple[int, ...],
    weights: tuple[float, ...],
    marks: tuple[int, ...],
) -> Iterator[Tensor]:
    """Explain an image by smooth objects, then by ever rougher ones.

    Parameters
    ----------
    operator : Operator
        Linear, without negative weights: (1, C, *grid) -> (1, C, *measured).
    light : Tensor
        (1, C, *measured), above the level at which there is no light.
    variance : Tensor
        Of each pixel's noise: (1, C, *measured).
    seen : Tensor
        (1, 1, *measured), 1 where a pixel may be used.
    grid : tuple of int
        Size of the picture.
    weights : tuple of float
        Price of a bend of one standard deviation of the noise, one after the other; each begins
        with the picture that the one before has led to.
    marks : tuple of int, ascending
        Steps after which a picture is handed out, for each weight.

    Yields
    ------
    Tensor
        (1, C, *grid), non-negative.
    """
    spread_back = transposed(operator, light, grid)
    told = seen / variance
    unit = float(variance.mean().sqrt())
    wanted, reached = spread_back(told * light.clamp(min=0)), spread_back(told)
    alive = reached > LEAST_SEEN * told.mean()
    axes = tuple(range(2, light.ndim))
    mean = (light.clamp(min=0) * seen).sum(axes, keepdim=True) / seen.sum().clamp(min=1)
    picture = mean.expand_as(reached)
    least = LEAST_LIGHT * mean + torch.finfo(light.dtype).tiny

    def brightened(ahead: Tensor, weight: float) -> Tensor:
        with torch.no_grad():
            now = spread_back(told * operator(ahead))
        return ahead * torch.where(alive, _brightening(ahead, wanted, now, weight, unit), 1.0)

    for weight in weights:
        steps = _drawn_out(partial(brightened, weight=weight), picture, least)
        for number, picture in enumerate(islice(steps, marks[-1]), 1):
            if number in marks:
                yield picture


def _drawn_out(
    brightened: Callable[[Tensor], Tensor], picture: Tensor, least: Tensor
) -> Iterator[Tensor]:
    """Take steps without end, each drawn out by as much as the last two agree."""
    before, change, last_change = picture, None, None
    while True:
        ahead = picture
        if change is not None and last_change is not None:
            momentum = _agreement(change, last_change)
            ahead = (picture + momentum * (picture - before)).clamp(min=least)
        before, picture = picture, brightened(ahead)
        last_change, change = change, picture - ahead
        yield picture


def bending(image: Tensor, corner: float) -> tuple[Tensor, Tensor]:
    """Tell how the bends of a picture change with each pixel.

    The bend at a pixel is the length of all its second differences, sqrt(xx + yy + 2 xy + ...);
    beyond the border the picture goes on as at its rim.

    Parameters
    ----------
    image : Tensor
        (B, C, *grid)
    corner : float, > 0
        Rounds the corner of the length at 0, in units of the image.

    Returns
    -------
    tuple of Tensor
        (B, C, *grid) each: the gradient of the sum of all bends, and for each pixel the curvature
        of a sum of parabolas, one for each pixel, that touches it here and lies above it elsewhere.
    """
    pairs = tuple(combinations_with_replacement(range(2, image.ndim), 2))
    counts = [1.0 if first == second else 2.0 for first, second in pairs]
    bends = [_forward(_forward(image, first), second) for first, second in pairs]
    squares = sum(
        (count * bend.square() for count, bend in zip(counts, bends, strict=True)),
        torch.full_like(image, corner**2),
    )
    steepness = squares.rsqrt()
    gradient, curvature = torch.zeros_like(image), torch.zeros_like(image)
    for (first, second), count, bend in zip(pairs, counts, bends, strict=True):
        gradient += count * _backward(_backward(bend * steepness, second, -1), first, -1)
        # the weights of a second difference have a sum of 4, without their signs
        curvature += 4 * count * _backward(_backward(steepness, second, 1), first, 1)
    return gradient, curvature


def _brightening(
    picture: Tensor, wanted: Tensor, now: Tensor, weight: float, unit: float
) -> Tensor:
    """Give what a picture is to be multiplied by: what is wanted, over what there is now."""
    if weight:
        slope, curvature = bending(picture, unit)
        price = weight / unit
        wanted = wanted + price * (curvature * picture - slope).clamp(min=0)
        now = now + price * curvature * picture
    return wanted.clamp(min=0) / now.clamp(min=torch.finfo(picture.dtype).tiny)


def _agreement(change: Tensor, last_change: Tensor) -> float:
    overlap = (change * last_change).sum() / last_change.square().sum().clamp(min=1e-30)
    return min(max(float(overlap), 0.0), _MOST_MOMENTUM)


def _forward(image: Tensor, axis: int) -> Tensor:
    """Step to the next pixel, 0 at the end."""
    return torch.diff(image, dim=axis, append=image.narrow(axis, -1, 1))


def _backward(steps: Tensor, axis: int, sign: int) -> Tensor:
    """Bring steps back to the pixels that they lie between; sign 1 drops the signs."""
    inner = steps.narrow(axis, 0, steps.shape[axis] - 1)
    nothing = torch.zeros_like(steps.narrow(axis, 0, 1))
    return torch.cat([nothing, inner], axis) + sign * torch.cat([inner, nothing], axis)
