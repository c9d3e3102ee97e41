"""Deconvolve a plane, guided by the network's image.

A network reaches fine detail late, or never. Here its image says only where detail is: a first
deconvolution penalises gradients by what is usual around them in that image, and the weight of the
penalty is chosen by validation pixels. From there, steps that explain the measurement alternate
with NL-Bayes, which filters similar patches together. The noise that it removes falls from step to
step.

References
----------
Levin, Fergus, Durand, Freeman, Image and depth from a conventional camera with a coded aperture,
ACM Trans. Graphics 26(3), 2007, doi:10.1145/1276377.1276464 (sparse gradients, by reweighted least
squares). Venkatakrishnan, Bouman, Wohlberg, Plug-and-play priors for model based reconstruction,
GlobalSIP 2013, doi:10.1109/GlobalSIP.2013.6737048.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.deconvolution.richardson_lucy import (
    compute_backward_difference,
    compute_forward_difference,
)
from napari_dip.engine.networks.layers import AVERAGE_POOLS
from napari_dip.engine.patch_groups import PATCH_SIDE
from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE, Estimate, run_steps
from napari_dip.engine.refinement import refine_by_nl_bayes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.problem import Term

#: Weights of the gradient penalty, from smooth to sharp, in units of the guide's squared error; 1
#: is right where the guide's gradients are those of the image. On 14 images 0.02 to 0.7 were best.
PENALTY_WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
#: Exponent of the gradients: 30.0, 30.3, 30.3 and 30.2 dB with 0.8, 1, 1.2 and 2 on 14 images.
GRADIENT_EXPONENT = 1.2
#: Side of the square over which the usual gradient is averaged: 30.4 dB with 5, 30.3 with 11.
GRADIENT_WINDOW = 5
#: Share of the image's average in the usual gradient of a pixel; 0.03 differs by 0.02 dB.
GLOBAL_GRADIENT_SHARE = 0.1
#: Gradient below which the penalty is quadratic, as a share of the usual one: 31.11 dB, and 31.07
#: with 0.1.
SMALL_GRADIENT = 0.02
#: Times that the weights of the gradients are renewed: 31.11 dB, and 31.05 with 2.
REWEIGHTINGS = 3
#: Conjugate gradient steps for each of them: 31.11 dB, and 31.03 with 25.
SOLVER_STEPS = 40
#: Variance of the noise that NL-Bayes removes, in units of the measurement's, step by step: from 64
#: on, images of 30 photons lose 0.4 dB.
REMOVED_NOISE = (32.0, 16.0, 8.0, 4.0)
#: Conjugate gradient steps after each of them: with 12, the same to 0.01 dB.
ALTERNATING_STEPS = 20
#: Variance of the noise that NL-Bayes removes from the last image, in units of the measurement's:
#: on 18 crops 27.56 dB, with 1 and 2 27.06 and 26.97, without this step 26.58.
#: With an estimated PSF this step is left out: one photograph lost 1.9 dB, another gained 1.0.
LAST_REMOVED_NOISE = 0.5
#: Error at the validation pixels up to which the last image is taken, in units of that of the first
#: deconvolution: with 1, 27.56 instead of 27.72 dB on these crops.
MAX_LOSS_RATIO = 1.02
#: Greatest mean by which the last filter raises the errors at the validation pixels, in standard
#: errors: at most 0.6 on nine crops that it improves, 1.6 to 5.1 on nine photographs with noise of
#: 1 to 8, which lost up to 0.3 dB.
MAX_ADDED_LOSS_ERRORS = 2.0
#: Error of a result in units of that of a simulated measurement's, which lacks the detail that the
#: blur took: 0.9 to 3.5 on 48 planes, median 1.8; with 2, intervals of 90 % hold 88 % (64 to 100).
ERROR_FACTOR = 2.0
#: Side of the square over which squared errors are averaged, in pixels: on these planes the log
#: likelihood of a pixel's error is 0.36 above that of an even error; with 5 and 15 -0.01 and 0.37.
#: On ten made volumes, cubes of 9 and 5: 0.79 and -1.95.
ERROR_WINDOW = 9


class _Measurement(NamedTuple):
    """Weighted least squares of a measurement.

    Attributes
    ----------
    apply_normal : callable
        Blur, weight and apply the adjoint: (1, C, *grid) -> (1, C, *grid).
    target : Tensor
        (1, C, *grid), adjoint of the weighted measurement.
    """

    apply_normal: Callable[[Tensor], Tensor]
    target: Tensor


class _Candidate(NamedTuple):
    """An image, its weight of the penalty, and its error at the validation pixels.

    Attributes
    ----------
    loss : float
        Mean squared error in units of the noise variance.
    image : Tensor
        (1, C, *grid)
    penalty_weight : float
        0 for the guide.
    """

    loss: float
    image: Tensor
    penalty_weight: float


class _Alternated(NamedTuple):
    """The image that explains the measurement at last, and the filtered one before it.

    (1, C, *grid) each.
    """

    image: Tensor
    filtered: Tensor


class _ChosenWay(NamedTuple):
    """How a measurement is deconvolved, after validation pixels have chosen.

    Attributes
    ----------
    weigh : callable
        (scale of the noise variance, measurement) -> all pixels, weighted.
    guide : Tensor
        (1, C, *grid)
    penalty_weight : float
        0: without the penalty of gradients.
    noise : NoiseVariance or None
        What NL-Bayes removes; None: without the alternation.
    scale : float
        Factor of the noise variance in the alternation.
    is_filtered : bool
        Whether the last image is filtered.
    """

    weigh: Callable[[float, Tensor], _Measurement]
    guide: Tensor
    penalty_weight: float
    noise: NoiseVariance | None
    scale: float
    is_filtered: bool

    def deconvolve(
        self, measurement: Tensor, image: Tensor, filtered: Tensor
    ) -> Generator[None, None, Tensor]:
        """Deconvolve a measurement, from an image and a filtered one on."""
        yield
        if self.penalty_weight:
            image = _solve_sparse_gradients(
                self.weigh(1.0, measurement), image, self.guide, self.penalty_weight
            )
        if self.noise is None:
            return image
        weighted = self.weigh(self.scale, measurement)
        last = yield from _alternate(weighted, image, filtered, self.noise)
        return _filter_last(last, self.noise) if self.is_filtered else last.image

    def repeat(self, simulated: Tensor) -> Tensor:
        """Deconvolve a simulated measurement, from the guide on."""
        return run_steps(self.deconvolve(simulated, self.guide, self.guide))


@torch.no_grad()
def deconvolve_with_guide(
    term: Term,
    noise_variance: NoiseVariance,
    measured_mask: Tensor,
    guide: Tensor,
    *,
    psf_error: float = 0.0,
    is_noise_shared: bool = False,
    must_filter: bool = False,
) -> Generator[None, None, Estimate | None]:
    """Deconvolve a measurement whose detail a network has located, and estimate the error.

    Of the guide, the first deconvolution and the last image, the best at the validation pixels is
    chosen, which are added afterwards. A simulated measurement of the result, with other noise, is
    deconvolved in the same way; what comes out differs from the result by an error like its own.

    Parameters
    ----------
    term : Term
        With a linear operator.
    noise_variance : NoiseVariance
        In network units.
    measured_mask : Tensor
        (1, 1, Y, X), 1 at all measured pixels.
    guide : Tensor
        (1, C, *grid), the network's image. Validation pixels took no part in it.
    psf_error : float
        How far the light of an estimated PSF may be misplaced, in pixels. Detail that this error
        explains counts as noise.
    is_noise_shared : bool
        Whether neighbours share noise. Validation pixels are then too few to choose by: with 55 of
        them, a crop came back at 19.5 dB instead of 27.0.
    must_filter : bool
        Whether to return None unless the last image is the best.

    Yields
    ------
    None
        Where it may be ended.

    Returns
    -------
    Estimate or None
        (1, C, *grid); None if the guide is best, or if there are no validation pixels.

    References
    ----------
    Efron, Tibshirani, An introduction to the bootstrap, Chapman & Hall 1993 (parametric bootstrap).
    """
    is_validation = (term.validation_mask > 0).expand_as(term.measurement)
    if not bool(is_validation.any()):
        return None
    prediction = term.operator(guide)
    variance = noise_variance.compute_variance(prediction)
    variance = variance + psf_error**2 * _sum_squared_gradients(prediction).mean() / guide.shape[1]
    apply_adjoint = term.operator.make_adjoint(term.measurement)

    def compute_losses(image: Tensor) -> Tensor:
        squared_error = (term.measurement - term.operator(image)).square() / variance
        return squared_error[is_validation]

    def compute_loss(image: Tensor) -> float:
        return float(compute_losses(image).mean())

    def weigh(mask: Tensor, scale: float, measurement: Tensor) -> _Measurement:
        weight = mask / (scale * variance)
        return _Measurement(
            lambda image: apply_adjoint(weight * term.operator(image)),
            apply_adjoint(weight * measurement),
        )

    visible = weigh(term.training_pixel_weights, 1.0, term.measurement)
    accepts_noise = psf_error > 0 or is_noise_shared
    sharp = yield from _choose_penalty(visible, guide, compute_loss, accepts_noise=accepts_noise)
    scale = max(1.0, sharp.loss)  # what the model does not explain counts as noise
    finer_pixels = round(1 / float(apply_adjoint(torch.ones_like(term.measurement)).max()))
    noise = noise_variance.scale(scale * finer_pixels)
    chosen, is_filtered = None, False
    if guide.ndim == 4 and min(guide.shape[2:]) >= PATCH_SIDE:
        measurement = weigh(term.training_pixel_weights, scale, term.measurement)
        last = yield from _alternate(measurement, sharp.image, sharp.image, noise)
        can_filter = is_noise_shared or not psf_error
        filtered = _filter_last(last, noise) if can_filter else last.image
        added_loss = compute_losses(filtered) - compute_losses(last.image)
        error = float(added_loss.std()) / len(added_loss) ** 0.5
        loses_detail = float(added_loss.mean()) > MAX_ADDED_LOSS_ERRORS * error
        is_filtered = can_filter and (is_noise_shared or not loses_detail)
        chosen = filtered if is_filtered else last.image
        max_ratio = MAX_LOSS_RATIO if is_filtered else 1.0
        if not is_noise_shared and compute_loss(chosen) > max_ratio * sharp.loss:
            chosen = None
    if chosen is None and (must_filter or not sharp.penalty_weight):
        return None

    weigh_all, removed = partial(weigh, measured_mask), None if chosen is None else noise
    chosen_way = _ChosenWay(weigh_all, guide, sharp.penalty_weight, removed, scale, is_filtered)
    filtered = sharp.image if chosen is None else chosen
    image = yield from chosen_way.deconvolve(term.measurement, sharp.image, filtered)
    log_variance = measure_error(chosen_way.repeat, image, term.operator(image), scale * variance)
    return Estimate(image, log_variance, is_error_measured=True)


@torch.no_grad()
def measure_error(
    deconvolve: Callable[[Tensor], Tensor], image: Tensor, prediction: Tensor, variance: Tensor
) -> Tensor:
    """Return the log-variance of the error of an image, from a simulated measurement of it.

    It is not ended halfway, or the finished image would be lost.

    Parameters
    ----------
    deconvolve : callable
        (1, C, *measured) -> (1, C, *grid), in the way in which the image came about.
    image : Tensor
        (1, C, *grid)
    prediction, variance : Tensor
        (1, C, *measured): the image behind the operator, and the variance of the noise.
    """
    drawn = torch.randn(variance.shape, generator=torch.Generator().manual_seed(0)).to(variance)
    error = deconvolve(prediction + variance.sqrt() * drawn) - image
    squared_error = _average_locally(ERROR_FACTOR**2 * error.square(), ERROR_WINDOW)
    return squared_error.clamp(min=MIN_PREDICTION_VARIANCE).log()


def _average_locally(values: Tensor, side: int) -> Tensor:
    """Average (1, C, *grid) over squares or cubes of that odd side, or less in a thin volume."""
    average = AVERAGE_POOLS[values.ndim - 2]
    sides = [min(side, size - 1 + size % 2) for size in values.shape[2:]]
    return average(values, sides, 1, [side // 2 for side in sides], count_include_pad=False)


def _choose_penalty(
    measurement: _Measurement,
    guide: Tensor,
    compute_loss: Callable[[Tensor], float],
    *,
    accepts_noise: bool,
) -> Generator[None, None, _Candidate]:
    """Lower the weight of the penalty until validation pixels are predicted less well.

    With `accepts_noise` it ends as soon as their errors are as large as the noise.
    """
    best = _Candidate(compute_loss(guide), guide, 0.0)
    guide_scale, last_loss, image = max(1.0, best.loss), float("inf"), guide
    for weight in PENALTY_WEIGHTS:
        yield
        image = _solve_sparse_gradients(measurement, image, guide, guide_scale * weight)
        loss = compute_loss(image)
        if loss < best.loss:
            best = _Candidate(loss, image, guide_scale * weight)
        if loss > last_loss or (accepts_noise and loss <= 1):
            break
        last_loss = loss
    return best


def _solve_sparse_gradients(
    measurement: _Measurement, image: Tensor, guide: Tensor, penalty_weight: float
) -> Tensor:
    """Minimise squared errors and a power of the gradients, from an image on.

    The power is that of the likeliest generalised normal distribution of the guide's gradients.
    """
    power = _sum_squared_gradients(guide).pow(GRADIENT_EXPONENT / 2)
    global_mean = power.mean().clamp(min=torch.finfo(power.dtype).tiny)
    local_mean = _average_locally(power, GRADIENT_WINDOW)
    usual_power = torch.lerp(local_mean, global_mean, GLOBAL_GRADIENT_SHARE)
    small = (SMALL_GRADIENT * global_mean ** (1 / GRADIENT_EXPONENT)).square()

    for _ in range(REWEIGHTINGS):
        squared_gradient = _sum_squared_gradients(image) + small
        weight = 2 * penalty_weight * squared_gradient.pow(GRADIENT_EXPONENT / 2 - 1) / usual_power

        def apply_normal(change: Tensor, weight: Tensor = weight) -> Tensor:
            penalty = sum(
                compute_backward_difference(
                    weight * compute_forward_difference(change, axis), axis, -1
                )
                for axis in range(2, change.ndim)
            )
            return measurement.apply_normal(change) + penalty

        image = solve_conjugate_gradients(apply_normal, measurement.target, image, SOLVER_STEPS)
    return image


def _alternate(
    measurement: _Measurement, image: Tensor, filtered: Tensor, noise_variance: NoiseVariance
) -> Generator[None, None, _Alternated]:
    """Filter similar patches, guided by the last filtered image, and explain the measurement."""
    everywhere = torch.ones_like(image[:, :1])
    for factor in REMOVED_NOISE:
        yield
        noise = noise_variance.scale(factor)
        filtered = refine_by_nl_bayes(noise, image, filtered, everywhere).mean
        precision = 1 / noise.compute_variance(filtered)

        def apply_normal(change: Tensor, precision: Tensor = precision) -> Tensor:
            return measurement.apply_normal(change) + precision * change

        target = measurement.target + precision * filtered
        image = solve_conjugate_gradients(apply_normal, target, image, ALTERNATING_STEPS)
    return _Alternated(image, filtered)


def _filter_last(last: _Alternated, noise_variance: NoiseVariance) -> Tensor:
    """Remove the noise that came back where the blur hides it."""
    noise, everywhere = noise_variance.scale(LAST_REMOVED_NOISE), torch.ones_like(last.image[:, :1])
    return refine_by_nl_bayes(noise, last.image, last.filtered, everywhere).mean


def solve_conjugate_gradients(
    apply_normal: Callable[[Tensor], Tensor], target: Tensor, image: Tensor, steps: int
) -> Tensor:
    """Solve a symmetric positive linear system, from an image on.

    Parameters
    ----------
    apply_normal : callable
        (B, C, *grid) -> (B, C, *grid)
    target : Tensor
        (B, C, *grid), what it shall return for the solution.
    image : Tensor
        (B, C, *grid), start.
    steps : int

    References
    ----------
    Hestenes, Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. NBS 49,
    1952, doi:10.6028/jres.049.044.
    """
    residual = target - apply_normal(image)
    direction, squared_residual = residual, residual.square().sum()
    tiny = torch.finfo(image.dtype).tiny
    for _ in range(steps):
        curved = apply_normal(direction)
        step = squared_residual / (direction * curved).sum().clamp(min=tiny)
        image = image + step * direction
        residual = residual - step * curved
        previous, squared_residual = squared_residual, residual.square().sum()
        direction = residual + squared_residual / previous.clamp(min=tiny) * direction
    return image


def _sum_squared_gradients(image: Tensor) -> Tensor:
    """Return the squared length of the gradients of all channels: (B, 1, *grid)."""
    differences = (compute_forward_difference(image, axis) for axis in range(2, image.ndim))
    return sum((difference.square() for difference in differences), torch.zeros_like(image)).sum(
        1, keepdim=True
    )
