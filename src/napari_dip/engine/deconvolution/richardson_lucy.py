"""Deconvolve an image by Richardson-Lucy, or by multiplicative steps to smooth least squares.

Richardson-Lucy assumes Poisson noise and has no penalty. Smooth deconvolution weights each pixel by
its noise variance, and penalises second differences. Its steps are multiplicative (the image space
reconstruction algorithm), with a quadratic upper bound of the penalty. Acceleration by the
agreement of the last two steps makes twenty steps equivalent to hundreds.

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
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from napari_dip.engine.problem import Operator

#: Minimum share of a pixel's light that reaches valid pixels (docs/constants.md).
MIN_SENSITIVITY = 1e-2
#: Minimum prediction as a share of the mean, which prevents 0 / 0; far above rounding errors of
#: 1e-7.
MIN_PREDICTION_FRACTION = 1e-6
#: Share of the pixels above the peak intensity, which may be noise.
_OUTLIER_FRACTION = 1e-3
#: Upper bound of the momentum; at 1, steps would not converge.
_MAX_MOMENTUM = 0.98


def run_masked_richardson_lucy(
    operator: Operator, measurement: Tensor, valid: Tensor, iterations: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Run Richardson-Lucy with any linear operator and any mask.

    Parameters
    ----------
    operator : Operator
        Linear with non-negative weights: (B, C, *grid) -> (B, C, *measured).
    measurement : Tensor
        (B, C, *measured), above the value without light; negative values count as 0.
    valid : Tensor
        (B, 1, *measured), 1 where a pixel may be used.
    iterations : tuple of int, ascending
        Iterations whose images are returned. Few give a blurred image with little noise.

    Returns
    -------
    tuple of Tensor
        (B, C, *grid) each, non-negative.

    References
    ----------
    Richardson, JOSA 62, 1972, doi:10.1364/JOSA.62.000055; Lucy, Astron. J. 79, 1974,
    doi:10.1086/111605.
    """
    apply_adjoint = operator.make_adjoint(measurement)
    axes = tuple(range(2, measurement.ndim))
    measurement = measurement.clamp(min=0) * valid
    mean = measurement.sum(axes, keepdim=True) / valid.sum(axes, keepdim=True).clamp(min=1)
    floor = MIN_PREDICTION_FRACTION * mean + torch.finfo(measurement.dtype).tiny
    sensitivity = apply_adjoint(valid.expand_as(measurement).contiguous())
    image, images = mean.expand_as(sensitivity), []
    for iteration in range(1, max(iterations) + 1):
        with torch.no_grad():
            prediction = operator(image).clamp(min=floor)
        factor = apply_adjoint(measurement / prediction).clamp(min=0) / sensitivity.clamp(
            min=MIN_SENSITIVITY
        )
        image = image * torch.where(sensitivity > MIN_SENSITIVITY, factor, 1.0)
        if iteration in iterations:
            images.append(image)
    return tuple(images)


def iterate_richardson_lucy(
    operator: Operator,
    signal: Tensor,
    background: Tensor,
    valid: Tensor,
    output_steps: tuple[int, ...],
) -> Iterator[Tensor]:
    """Run accelerated Richardson-Lucy above a known background, and yield the images.

    The noise of dark pixels falls below the background as often as above it. Cut off there, it
    would count as light and blur the image.

    Parameters
    ----------
    operator : Operator
        Linear with non-negative weights: (1, C, *grid) -> (1, C, *measured).
    signal : Tensor
        (1, C, *measured), measurement above the value without light.
    background : Tensor
        (1, C, 1, ...), added to signal and prediction; above the noise of dark pixels.
    valid : Tensor
        (1, 1, *measured), 1 where a pixel may be used.
    output_steps : tuple of int, ascending
        Steps whose images are yielded. Few give a blurred image with little noise.

    Yields
    ------
    Tensor
        (1, C, *grid), non-negative.
    """
    apply_adjoint = operator.make_adjoint(signal)
    measurement = (signal + background).clamp(min=0) * valid
    sensitivity = apply_adjoint(valid.expand_as(signal).contiguous())
    is_sensitive = sensitivity > MIN_SENSITIVITY
    axes = tuple(range(2, signal.ndim))
    mean = (signal * valid).sum(axes, keepdim=True) / valid.sum().clamp(min=1)
    mean = mean.clamp(min=torch.finfo(signal.dtype).tiny)

    def update(extrapolated: Tensor) -> Tensor:
        with torch.no_grad():
            prediction = operator(extrapolated) + background
        factor = apply_adjoint(measurement / prediction).clamp(min=0) / sensitivity
        return extrapolated * torch.where(is_sensitive, factor, 1.0)

    floor = MIN_PREDICTION_FRACTION * mean
    yield from _iterate_accelerated(update, mean.expand_as(sensitivity), floor, output_steps)


def estimate_peak_intensity(initial_estimate: Tensor) -> float:
    """Return the expected peak intensity of an image, from an initial estimate; at least 1.

    Parameters
    ----------
    initial_estimate : Tensor
        (B, C, *grid), above the value without light, in units of the measurement's range.
    """
    values = initial_estimate.flatten()
    return max(
        1.0, float(values.kthvalue(max(1, round((1 - _OUTLIER_FRACTION) * values.numel()))).values)
    )


def iterate_smooth_deconvolution(
    operator: Operator,
    signal: Tensor,
    background: Tensor,
    variance: Tensor,
    valid: Tensor,
    penalty_weights: tuple[float, ...],
    output_steps: tuple[int, ...],
) -> Iterator[Tensor]:
    """Deconvolve with decreasing smoothness, and yield the images.

    Parameters
    ----------
    operator : Operator
        Linear with non-negative weights: (1, C, *grid) -> (1, C, *measured).
    signal : Tensor
        (1, C, *measured), measurement above the value without light.
    background : Tensor
        (1, C, 1, ...), added to signal and prediction, as in `iterate_richardson_lucy`.
    variance : Tensor
        (1, C, *measured), noise variance of each pixel.
    valid : Tensor
        (1, 1, *measured), 1 where a pixel may be used.
    penalty_weights : tuple of float
        Weights of the Hessian norm, in units of the noise's standard deviation. They are used in
        sequence, each from the previous image.
    output_steps : tuple of int, ascending
        Steps whose images are yielded, for each weight.

    Yields
    ------
    Tensor
        (1, C, *grid), non-negative.
    """
    apply_adjoint = operator.make_adjoint(signal)
    weight_map = valid / variance
    noise_std = float(variance.mean().sqrt())
    target = apply_adjoint(weight_map * (signal + background).clamp(min=0))
    sensitivity = apply_adjoint(weight_map)
    is_sensitive = sensitivity > MIN_SENSITIVITY * weight_map.mean()
    axes = tuple(range(2, signal.ndim))
    mean = (signal.clamp(min=0) * valid).sum(axes, keepdim=True) / valid.sum().clamp(min=1)
    image = mean.expand_as(sensitivity)
    floor = MIN_PREDICTION_FRACTION * mean + torch.finfo(signal.dtype).tiny

    def update(extrapolated: Tensor, weight: float) -> Tensor:
        with torch.no_grad():
            current = apply_adjoint(weight_map * (operator(extrapolated) + background))
        return extrapolated * torch.where(
            is_sensitive,
            _compute_multiplicative_update(extrapolated, target, current, weight, noise_std),
            1.0,
        )

    for weight in penalty_weights:
        update_image = partial(update, weight=weight)
        image = yield from _iterate_accelerated(update_image, image, floor, output_steps)


def _iterate_accelerated(
    update: Callable[[Tensor], Tensor],
    image: Tensor,
    min_image: Tensor,
    output_steps: tuple[int, ...],
) -> Generator[Tensor, None, Tensor]:
    """Yield the images of some steps, with momentum from the agreement of the last two.

    The return value is the last image.
    """
    previous, change, last_change = image, None, None
    for step in range(1, output_steps[-1] + 1):
        extrapolated = image
        if change is not None and last_change is not None:
            momentum = _compute_momentum(change, last_change)
            extrapolated = (image + momentum * (image - previous)).clamp(min=min_image)
        previous, image = image, update(extrapolated)
        last_change, change = change, image - extrapolated
        if step in output_steps:
            yield image
    return image


def compute_hessian_norm_gradient(image: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return gradient and curvature bound of the Hessian norm, summed over all pixels of an image.

    It is the Frobenius norm of the second differences. The image is padded by its border values.

    Parameters
    ----------
    image : Tensor
        (B, C, *grid)
    smoothing : float, > 0
        Width over which the norm is smoothed at 0, in units of the image.

    Returns
    -------
    tuple of Tensor
        (B, C, *grid) each, the gradient of that sum, and the curvature at each pixel of
        a separable quadratic upper bound that touches the sum at `image`.
    """
    pairs = tuple(combinations_with_replacement(range(2, image.ndim), 2))
    counts = [1.0 if axis == other_axis else 2.0 for axis, other_axis in pairs]
    second_differences = [
        compute_forward_difference(compute_forward_difference(image, axis), other_axis)
        for axis, other_axis in pairs
    ]
    squared_norm = torch.full_like(image, smoothing**2)
    for count, second_difference in zip(counts, second_differences, strict=True):
        squared_norm = squared_norm + count * second_difference.square()
    inverse_norm = squared_norm.rsqrt()
    gradient, curvature = torch.zeros_like(image), torch.zeros_like(image)
    for (axis, other_axis), count, second_difference in zip(
        pairs, counts, second_differences, strict=True
    ):
        gradient += count * compute_backward_difference(
            compute_backward_difference(second_difference * inverse_norm, other_axis, -1), axis, -1
        )
        # the absolute weights of a second difference sum to 4
        curvature += (4 * count) * compute_backward_difference(
            compute_backward_difference(inverse_norm, other_axis, 1), axis, 1
        )
    return gradient, curvature


def _compute_multiplicative_update(
    image: Tensor, target: Tensor, current: Tensor, weight: float, noise_std: float
) -> Tensor:
    """Return the factor of a multiplicative step, of data and penalty."""
    if weight:
        gradient, curvature = compute_hessian_norm_gradient(image, noise_std)
        smoothness_weight = weight / noise_std
        target = target + smoothness_weight * (curvature * image - gradient).clamp(min=0)
        current = current + smoothness_weight * curvature * image
    return target.clamp(min=0) / current.clamp(min=torch.finfo(image.dtype).tiny)


def _compute_momentum(change: Tensor, last_change: Tensor) -> float:
    overlap = (change * last_change).sum() / last_change.square().sum().clamp(min=1e-30)
    return min(max(float(overlap), 0.0), _MAX_MOMENTUM)


def compute_forward_difference(image: Tensor, axis: int) -> Tensor:
    """Return the difference to the next pixel, 0 at the end."""
    return torch.diff(image, dim=axis, append=image.narrow(axis, -1, 1))


def compute_backward_difference(differences: Tensor, axis: int, sign: int) -> Tensor:
    """Apply the adjoint of a forward difference (sign -1), or its absolute weights (sign 1)."""
    inner = differences.narrow(axis, 0, differences.shape[axis] - 1)
    zeros = torch.zeros_like(differences.narrow(axis, 0, 1))
    return torch.cat([zeros, inner], axis) + sign * torch.cat([inner, zeros], axis)
