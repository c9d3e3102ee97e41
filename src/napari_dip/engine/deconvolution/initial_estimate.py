"""What Richardson-Lucy makes of an image in a few steps: a guess for the network to start from.

Richardson-Lucy deconvolution: the classic answer, and a start for the network.

Deconvolution by weighted least squares, of pictures without negative light and with few bends.

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
import torch.nn.functional as F
from torch import Tensor

from napari_dip.engine.operators.convolution import compute_kernel_margin, convolve_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_dip.engine.problem import Operator

#: Share of a pixel's light that must reach the seen pixels for them to have a say in it, and
#: least prediction as a share of the mean: as in `richardson_lucy`.
MIN_SENSITIVITY, MIN_LIGHT = 1e-2, 1e-6
#: Share of the pixels that a picture's reach leaves above it: single ones may be noise.
_OUTLIER_SHARE = 1e-3


def run_masked_richardson_lucy(
    operator: Operator,
    measurement: Tensor,
    valid: Tensor,
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
    valid : Tensor
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
    spread_back = make_adjoint(operator, measurement, grid)
    axes = tuple(range(2, measurement.ndim))
    measurement = measurement.clamp(min=0) * valid
    mean = measurement.sum(axes, keepdim=True) / valid.sum(axes, keepdim=True).clamp(min=1)
    floor = MIN_LIGHT * mean + torch.finfo(measurement.dtype).tiny
    light = spread_back(valid.expand_as(measurement).contiguous())
    picture, kept = mean.expand_as(light), []
    for step in range(1, max(iterations) + 1):
        with torch.no_grad():
            prediction = operator(picture).clamp(min=floor)
        factor = spread_back(measurement / prediction).clamp(min=0) / light.clamp(
            min=MIN_SENSITIVITY
        )
        picture = picture * torch.where(light > MIN_SENSITIVITY, factor, 1.0)
        if step in iterations:
            kept.append(picture)
    return tuple(kept)


def make_adjoint(
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


def estimate_peak_intensity(guess: Tensor) -> float:
    """Tell how far above darkness a picture is likely to go, by a guess at it; at least 1.

    Parameters
    ----------
    guess : Tensor
        (B, C, *grid), above the level at which there is no light, in units of the measurement's
        range.
    """
    last = guess.flatten()
    return max(1.0, float(last.kthvalue(max(1, round((1 - _OUTLIER_SHARE) * last.numel()))).values))


#: Share of a pixel's light that must reach the frame for the measurement to have a say in it.
#: The Fourier transform rounds by 1e-7 of the brightest pixel in single precision: at this share
#: that is 1e-5 of a factor, and 1e-3 of the pixel after a hundred iterations.
_MIN_FRAME_SENSITIVITY = 1e-2
#: Least prediction, as a share of the mean: keeps 0 / 0 out of pixels without light.
_MIN_PREDICTED_LIGHT = 1e-6


def richardson_lucy(
    measurement: Tensor, kernel: Tensor, iterations: int, background: float = 0.0
) -> Tensor:
    """Estimate the object by multiplicative steps, each of which raises the Poisson likelihood.

    The object is larger than the frame by the kernel's reach, and each of its pixels is weighed
    by the share of its light that reaches the frame; so no border is invented, and none rings.
    Pixels that hardly reach it keep the start, the mean of the measurement.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *measured), in counts above the detector's offset; negative ones count as 0.
    kernel : Tensor
        (*sizes) or (C, *sizes), odd, non-negative, of sum one.
    iterations : int, >= 0
    background : float, >= 0
        Light that did not come from the object, in counts per pixel.

    Returns
    -------
    Tensor
        (B, C, *measured + sizes - 1), non-negative; the frame is its middle.

    Raises
    ------
    ValueError
        If a size of the kernel is even or its axes do not fit.

    References
    ----------
    Richardson, JOSA 62, 1972, doi:10.1364/JOSA.62.000055; Lucy, Astron. J. 79, 1974,
    doi:10.1086/111605; Bertero and Boccacci, A simple method for the reduction of boundary
    effects in the Richardson-Lucy approach, Astron. Astrophys. 437, 2005,
    doi:10.1051/0004-6361:20052717.
    """
    dims = measurement.ndim - 2
    margin = compute_kernel_margin(kernel, dims)
    axes = tuple(range(-dims, 0))
    reach = [pixels for side in reversed(margin) for pixels in (2 * side, 2 * side)]
    mirrored = kernel.flip(axes)

    def spread_back(frame: Tensor) -> Tensor:
        return convolve_valid(F.pad(frame, reach), mirrored)

    measurement = measurement.clamp(min=0)
    mean = measurement.mean(axes, keepdim=True)
    floor = _MIN_PREDICTED_LIGHT * mean + torch.finfo(measurement.dtype).tiny
    sensitivity = spread_back(torch.ones_like(measurement))
    image = (mean - background).clamp(min=floor).expand_as(sensitivity)
    for _ in range(iterations):
        prediction = (convolve_valid(image, kernel) + background).clamp(min=floor)
        factor = spread_back(measurement / prediction).clamp(min=0) / sensitivity.clamp(
            min=_MIN_FRAME_SENSITIVITY
        )
        image = image * torch.where(sensitivity > _MIN_FRAME_SENSITIVITY, factor, 1.0)
    return image


#: Most that a step is drawn out in the direction of the one before: 1 would never come to rest.
_MAX_MOMENTUM = 0.98


def iterate_smooth_deconvolution(
    operator: Operator,
    light: Tensor,
    variance: Tensor,
    valid: Tensor,
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
    valid : Tensor
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
    spread_back = make_adjoint(operator, light, grid)
    facts = valid / variance
    unit = float(variance.mean().sqrt())
    wanted, reached = spread_back(facts * light.clamp(min=0)), spread_back(facts)
    alive = reached > MIN_SENSITIVITY * facts.mean()
    axes = tuple(range(2, light.ndim))
    mean = (light.clamp(min=0) * valid).sum(axes, keepdim=True) / valid.sum().clamp(min=1)
    picture = mean.expand_as(reached)
    least = MIN_LIGHT * mean + torch.finfo(light.dtype).tiny

    def brightened(ahead: Tensor, weight: float) -> Tensor:
        with torch.no_grad():
            now = spread_back(facts * operator(ahead))
        return ahead * torch.where(
            alive, _compute_multiplicative_update(ahead, wanted, now, weight, unit), 1.0
        )

    for weight in weights:
        steps = _iterate_accelerated(partial(brightened, weight=weight), picture, least)
        for number, picture in enumerate(islice(steps, marks[-1]), 1):
            if number in marks:
                yield picture


def _iterate_accelerated(
    brightened: Callable[[Tensor], Tensor], picture: Tensor, least: Tensor
) -> Iterator[Tensor]:
    """Take steps without end, each drawn out by as much as the last two agree."""
    before, change, last_change = picture, None, None
    while True:
        ahead = picture
        if change is not None and last_change is not None:
            momentum = _compute_momentum(change, last_change)
            ahead = (picture + momentum * (picture - before)).clamp(min=least)
        before, picture = picture, brightened(ahead)
        last_change, change = change, picture - ahead
        yield picture


def compute_bending_gradient(image: Tensor, corner: float) -> tuple[Tensor, Tensor]:
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
    bends = [
        _compute_forward_difference(_compute_forward_difference(image, first), second)
        for first, second in pairs
    ]
    squares = sum(
        (count * bend.square() for count, bend in zip(counts, bends, strict=True)),
        torch.full_like(image, corner**2),
    )
    steepness = squares.rsqrt()
    gradient, curvature = torch.zeros_like(image), torch.zeros_like(image)
    for (first, second), count, bend in zip(pairs, counts, bends, strict=True):
        gradient += count * _compute_backward_difference(
            _compute_backward_difference(bend * steepness, second, -1), first, -1
        )
        # the weights of a second difference have a sum of 4, without their signs
        curvature += (
            4
            * count
            * _compute_backward_difference(
                _compute_backward_difference(steepness, second, 1), first, 1
            )
        )
    return gradient, curvature


def _compute_multiplicative_update(
    picture: Tensor, wanted: Tensor, now: Tensor, weight: float, unit: float
) -> Tensor:
    """Give what a picture is to be multiplied by: what is wanted, over what there is now."""
    if weight:
        slope, curvature = compute_bending_gradient(picture, unit)
        price = weight / unit
        wanted = wanted + price * (curvature * picture - slope).clamp(min=0)
        now = now + price * curvature * picture
    return wanted.clamp(min=0) / now.clamp(min=torch.finfo(picture.dtype).tiny)


def _compute_momentum(change: Tensor, last_change: Tensor) -> float:
    overlap = (change * last_change).sum() / last_change.square().sum().clamp(min=1e-30)
    return min(max(float(overlap), 0.0), _MAX_MOMENTUM)


def _compute_forward_difference(image: Tensor, axis: int) -> Tensor:
    """Step to the next pixel, 0 at the end."""
    return torch.diff(image, dim=axis, append=image.narrow(axis, -1, 1))


def _compute_backward_difference(steps: Tensor, axis: int, sign: int) -> Tensor:
    """Bring steps back to the pixels that they lie between; sign 1 drops the signs."""
    inner = steps.narrow(axis, 0, steps.shape[axis] - 1)
    nothing = torch.zeros_like(steps.narrow(axis, 0, 1))
    return torch.cat([nothing, inner], axis) + sign * torch.cat([inner, nothing], axis)
