"""Initial estimates of a deconvolution, which a deblurring network takes as input.

Planes use Richardson-Lucy deconvolution; volumes also use a smoothness-regularised one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from operator import le
from typing import TYPE_CHECKING, NamedTuple

from napari_dip.tasks.priors.prior_spec import RANDOM_INPUT_CHANNELS_IN_VOLUMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from napari_dip.engine.problem import (
        Estimate,
        Operator,
        Penalty,
        PostprocessingSteps,
        Problem,
    )
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import RandomInputOptions

#: Successive weights of the smoothness penalty, from smooth to sharp: 26.5 dB on a crop of pollen,
#: 26.3 dB with a new start for each weight (docs/constants.md).
SMOOTHNESS_WEIGHTS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
#: Iterations at each weight after which the estimate is validated.
VALIDATED_ITERATIONS = (20, 40)
#: Steps of accelerated Richardson-Lucy whose images are validated: best after 4 to 40 on made
#: filaments of 5 to 100 photons.
RICHARDSON_LUCY_STEPS = (2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56)
#: Least standard errors by which such an image must predict the validation pixels better than the
#: network's to guide a deconvolution in its place: 2.9 to 8.3 on 13 scenes that it improves, 2.2 to
#: 2.3 on three photographs that do not change or lose 0.1 dB (docs/adr/0049).
MIN_RIVAL_GAIN_ERRORS = 2.5
#: Steps whose images tell which value a pixel without light has: of ten made volumes seven come
#: up to 32 % nearer to the truth, and one is 3 % farther off (docs/adr/0049).
DARK_LEVEL_STEPS = (5, 10, 20, 40)
#: Least standard errors by which the value of a pixel without light must be better than those
#: before it: 2.1 to 6.5 on 13 made volumes with a background, at most 2.9 without one, where it
#: changes nothing (docs/adr/0049).
MIN_DARK_LEVEL_GAIN_ERRORS = 2.0
#: Background that is added to signal and prediction, in standard deviations of the noise of dark
#: pixels, of which one in 700 is cut off at 0.
BACKGROUND_SIGMAS = 3.0
#: Estimates that must be worse than the best before the search ends, as many as for one weight.
PATIENCE = 2
#: Iterations without penalty after which the model error is measured.
UNREGULARISED_ITERATIONS = (10, 20, 40, 80)
#: Richardson-Lucy iterations to the estimate from which the noise of each pixel is computed.
RICHARDSON_LUCY_ITERATIONS_TO_NOISE = 20
#: Largest relative difference of two losses, if within the standard error, that counts as equal (on
#: a crop of pollen, 0.4 % for an estimate that is 0.2 dB better).
LOSS_TOLERANCE = 0.01
#: Prior mean of the share of the network in the result: for two estimates with equal and
#: independent errors, half of each is best.
PRIOR_NETWORK_FRACTION = 0.5
#: Prior precision 1 / (1/4)^2 of the share of the network in the result.
NETWORK_FRACTION_PRECISION = 16.0
#: Richardson-Lucy iterations of the estimates that a network takes as input, for a plane.
RICHARDSON_LUCY_ITERATIONS = (5, 20)
#: Richardson-Lucy iterations of the estimates that a network takes as input, for a volume.
RICHARDSON_LUCY_ITERATIONS_3D = (5,)
#: Standard deviation of the jitter of Richardson-Lucy estimates, whose range is about one, so that
#: their noise is not copied: 29.6 dB on a crop, 27.9 dB without (docs/constants.md).
RICHARDSON_LUCY_JITTER = 0.1
#: Weight of the squared distance to the regularised estimate in a volume: 26.5 dB after 50
#: iterations on a crop of pollen, 25.3 dB without (docs/constants.md).
PROXIMITY_WEIGHT = 1.0


class SmoothDeconvolution(NamedTuple):
    """Regularised deconvolution of a volume, in network units.

    Attributes
    ----------
    previous, estimate : Tensor
        (1, C, *grid) each: the smoother estimate before the chosen one, and the chosen one.
    all_pixels_estimate : Tensor
        Like `estimate`, but computed with the validation pixels as well.
    deconvolve : callable
        Deconvolve another measurement (1, C, *measured) in the way of `all_pixels_estimate`.
    uncertainty : float
        Estimated error of `estimate`: RMS change from `previous`, at least the noise level.
    variance : Tensor
        (1, C, *measured): variance of the noise, plus what the blur model does not explain.
    residual_variance : Tensor
        (1, C, *measured): variance of the noise, plus what `estimate` does not explain.
    has_misfit : bool
        Whether the model error exceeds the noise variance.
    """

    previous: Tensor
    estimate: Tensor
    all_pixels_estimate: Tensor
    deconvolve: Callable[[Tensor], Tensor]
    uncertainty: float
    variance: Tensor
    residual_variance: Tensor
    has_misfit: bool


def compute_smooth_deconvolution(
    fit_input: FitInput, operator: Operator, dark_level: Tensor
) -> SmoothDeconvolution:
    """Deconvolve with decreasing smoothness weights until the validation loss rises.

    Parameters
    ----------
    fit_input : FitInput
    operator : Operator
    dark_level : Tensor
        (1, C, 1, ...): value of a pixel without light, in network units.
    """
    from itertools import islice

    from napari_dip.engine.deconvolution.richardson_lucy import (
        iterate_richardson_lucy,
        iterate_smooth_deconvolution,
    )

    signal = fit_input.measurement - dark_level
    background = _compute_background(fit_input, dark_level)
    noise = _estimate_volume_noise(fit_input, operator, dark_level)
    excess = _measure_model_error(fit_input, operator, signal, background, noise)
    variance = noise + excess

    def iterate_smooth(valid: Tensor, signal: Tensor = signal) -> Iterator[Tensor]:
        return iterate_smooth_deconvolution(
            operator, signal, background, variance, valid, SMOOTHNESS_WEIGHTS, VALIDATED_ITERATIONS
        )

    def iterate_sharper(valid: Tensor, signal: Tensor = signal) -> Iterator[Tensor]:
        return iterate_richardson_lucy(operator, signal, background, valid, RICHARDSON_LUCY_STEPS)

    validate = partial(_validate_estimates, fit_input, operator, signal, variance)
    smooth = validate(iterate_smooth, prefers_sharp=True)
    sharper = validate(iterate_sharper, prefers_sharp=False)
    if min(map(_average, sharper.losses)) < min(map(_average, smooth.losses)):
        iterate, chosen, index = iterate_sharper, sharper, _find_smoothest(sharper)
    else:
        iterate, chosen, index = iterate_smooth, smooth, _find_sharpest(smooth)

    def deconvolve(measurement: Tensor) -> Tensor:
        images = iterate(fit_input.masks.measured, measurement - dark_level)
        return next(islice(images, index, None)) + dark_level

    estimate = chosen.estimates[index]
    residual_excess = _measure_excess(fit_input, operator, signal, noise, estimate)
    return SmoothDeconvolution(
        chosen.estimates[max(0, index - 1)] + dark_level,
        estimate + dark_level,
        deconvolve(fit_input.measurement),
        deconvolve,
        max(chosen.steps[index], fit_input.noise.rms_std),
        variance,
        noise + max(0.0, residual_excess),
        excess > float(noise.mean()),
    )


def find_rival_guide(
    fit_input: FitInput, operator: Operator, dark_levels: Sequence[Tensor], guide: Tensor
) -> Tensor | None:
    """Return the Richardson-Lucy image that predicts the validation pixels best.

    None if it does not predict them clearly better than a guide, such as the network's image.

    Parameters
    ----------
    fit_input : FitInput
    operator : Operator
    dark_levels : sequence of Tensor
        (1, C, 1, ...) each: values that a pixel without light may have, in network units. Where
        one is too bright, what it cuts off costs more than it gains.
    guide : Tensor
        (1, C, *grid), computed without the validation pixels.
    """
    import torch

    measured = fit_input.measurement
    with torch.no_grad():
        prediction = operator(guide)
    variance = fit_input.noise.noise_variance.compute_variance(prediction)
    is_validation = (fit_input.masks.validation > 0).expand_as(measured)
    guide_loss = ((measured - prediction).square() / variance)[is_validation]
    validate = partial(_validate_dark_level, fit_input, operator, variance, RICHARDSON_LUCY_STEPS)
    best_loss, rival = guide_loss, None
    for dark_level in dark_levels:
        validated = validate(dark_level)
        index = _find_smoothest(validated)
        if _average(validated.losses[index]) < _average(best_loss):
            best_loss, rival = validated.losses[index], validated.estimates[index] + dark_level
    if rival is None:
        return None
    gain, error = _compare(guide_loss, best_loss)
    return rival if gain > MIN_RIVAL_GAIN_ERRORS * error else None


def choose_dark_level(
    fit_input: FitInput, operator: Operator, dark_levels: Sequence[Tensor]
) -> Tensor:
    """Return the first value of a pixel without light, or one that predicts clearly better.

    Parameters
    ----------
    fit_input : FitInput
    operator : Operator
    dark_levels : sequence of Tensor
        (1, C, 1, ...) each, in network units, the usual one first. The order counts: each must be
        better than the best before it.
    """
    variance = _estimate_volume_noise(fit_input, operator, dark_levels[0])
    validate = partial(_validate_dark_level, fit_input, operator, variance, DARK_LEVEL_STEPS)
    chosen, *others = dark_levels
    best_loss = min(validate(chosen).losses, key=_average)
    for dark_level in others:
        loss = min(validate(dark_level).losses, key=_average)
        gain, error = _compare(best_loss, loss)
        if gain > MIN_DARK_LEVEL_GAIN_ERRORS * error:
            chosen, best_loss = dark_level, loss
    return chosen


def make_validated_mixture(
    deconvolution: SmoothDeconvolution,
    fit_input: FitInput,
    operator: Operator,
    dark_level: Tensor | None,
    *,
    adds_validation: bool = True,
) -> Callable[[Estimate], Estimate]:
    """Return the postprocessing that mixes prediction and estimate, weighted by validation pixels.

    A fit that has not converged therefore does no harm.

    Parameters
    ----------
    deconvolution : SmoothDeconvolution
    fit_input : FitInput
    operator : Operator
    dark_level : Tensor or None
        (1, C, 1, ...): lower bound of the result; None: no bound.
    adds_validation : bool
        Whether to add what the validation pixels themselves change in the estimate.
    """
    import torch

    precision = fit_input.masks.validation / deconvolution.variance
    with torch.no_grad():
        expected = operator(deconvolution.estimate)
    validation_change: Tensor | float = 0.0
    if adds_validation:
        validation_change = deconvolution.all_pixels_estimate - deconvolution.estimate

    def mix(estimate: Estimate) -> Estimate:
        with torch.no_grad():
            step = operator(estimate.mean) - expected
        evidence = ((fit_input.measurement - expected) * step * precision).sum()
        numerator = evidence + PRIOR_NETWORK_FRACTION * NETWORK_FRACTION_PRECISION
        denominator = (step.square() * precision).sum() + NETWORK_FRACTION_PRECISION
        network_change = estimate.mean - deconvolution.estimate
        change = (numerator / denominator).clamp(0, 1) * network_change
        mean = deconvolution.estimate + change + validation_change
        return estimate._replace(mean=mean if dark_level is None else mean.maximum(dark_level))

    return mix


def measure_volume_error(problem: Problem, deconvolution: SmoothDeconvolution) -> Problem:
    """Return the problem of a volume whose result has the error of a simulated deconvolution.

    The network's share of the result is left out: the measurement that it would have is unknown.
    """
    from napari_dip.engine.deconvolution.plug_and_play import measure_error
    from napari_dip.engine.problem import Estimate

    def add_error(estimate: Estimate) -> PostprocessingSteps:
        image = problem.postprocess(estimate).mean
        yield
        prediction = problem.main_term.operator(image)
        log_variance = measure_error(
            deconvolution.deconvolve, image, prediction, deconvolution.residual_variance
        )
        return Estimate(image, log_variance, is_error_measured=True)

    return replace(problem, full_postprocess=add_error, refines_pixels=False)


def _estimate_volume_noise(fit_input: FitInput, operator: Operator, dark_level: Tensor) -> Tensor:
    """Return the noise variance of each pixel at the brightness of a Richardson-Lucy estimate."""
    import torch

    from napari_dip.engine.deconvolution.richardson_lucy import run_masked_richardson_lucy

    valid = fit_input.masks.visible
    steps = (RICHARDSON_LUCY_ITERATIONS_TO_NOISE,)
    (estimate,) = run_masked_richardson_lucy(
        operator, fit_input.measurement - dark_level, valid, steps
    )
    with torch.no_grad():
        return fit_input.noise.noise_variance.compute_variance(operator(estimate) + dark_level)


def _measure_model_error(
    fit_input: FitInput, operator: Operator, signal: Tensor, background: Tensor, noise: Tensor
) -> float:
    """Return the mean squared validation error beyond the noise variance; 0 if there is none.

    A PSF never matches exactly. Where the mismatch exceeds the noise, dark pixels must not get more
    weight for their lower noise.
    """
    from napari_dip.engine.deconvolution.richardson_lucy import iterate_smooth_deconvolution

    valid = fit_input.masks.visible
    estimates = iterate_smooth_deconvolution(
        operator, signal, background, noise, valid, (0.0,), UNREGULARISED_ITERATIONS
    )
    excesses = (
        _measure_excess(fit_input, operator, signal, noise, estimate) for estimate in estimates
    )
    return max(0.0, min(excesses))


def _measure_excess(
    fit_input: FitInput, operator: Operator, signal: Tensor, noise: Tensor, estimate: Tensor
) -> float:
    """Return the mean squared error at the validation pixels less the noise variance there."""
    import torch

    validation = fit_input.masks.validation
    with torch.no_grad():
        excess = ((signal - operator(estimate)).square() - noise) * validation
    return float(excess.sum()) / max(float(validation.sum()) * signal.shape[1], 1.0)


class _ValidatedEstimates(NamedTuple):
    """Estimates (1, C, *grid) from smooth to sharp, with the loss of each validation pixel.

    `steps` are RMS changes from the estimate before; the first is 0.
    """

    estimates: list[Tensor]
    losses: list[Tensor]
    steps: list[float]


def _validate_estimates(
    fit_input: FitInput,
    operator: Operator,
    signal: Tensor,
    variance: Tensor,
    iterate: Callable[[Tensor], Iterator[Tensor]],
    *,
    prefers_sharp: bool,
) -> _ValidatedEstimates:
    """Collect estimates until the last `PATIENCE` are worse than the best so far.

    The loss is the squared error of a validation pixel, in units of its variance. If the sharpest
    of equal estimates is chosen, those before the best and its predecessor are emptied.
    """
    import torch

    is_validation = (fit_input.masks.validation > 0).expand_as(signal)
    validated = _ValidatedEstimates([], [], [])
    for image in iterate(fit_input.masks.visible):
        previous = validated.estimates[-1] if validated.estimates else image
        validated.steps.append(float((image - previous).square().mean().sqrt()))
        with torch.no_grad():
            squared_error = (signal - operator(image)).square() / variance
        validated.estimates.append(image)
        validated.losses.append(squared_error[is_validation])
        means = [_average(loss) for loss in validated.losses]
        for index in range(means.index(min(means)) - 1 if prefers_sharp else 0):
            validated.estimates[index] = image.new_empty(0)
        if len(means) % PATIENCE == 0 and min(means[-PATIENCE:]) > min(means):
            break
    return validated


def _validate_dark_level(
    fit_input: FitInput,
    operator: Operator,
    variance: Tensor,
    steps: tuple[int, ...],
    dark_level: Tensor,
) -> _ValidatedEstimates:
    """Validate the Richardson-Lucy images above a value of pixels without light."""
    from napari_dip.engine.deconvolution.richardson_lucy import iterate_richardson_lucy

    signal = fit_input.measurement - dark_level
    background = _compute_background(fit_input, dark_level)
    iterate = partial(iterate_richardson_lucy, operator, signal, background, output_steps=steps)
    return _validate_estimates(fit_input, operator, signal, variance, iterate, prefers_sharp=False)


def _compute_background(fit_input: FitInput, dark_level: Tensor) -> Tensor:
    """Return the background (1, C, 1, ...) that raises the noise of dark pixels above 0."""
    return BACKGROUND_SIGMAS * fit_input.noise.noise_variance.compute_variance(dark_level).sqrt()


def _average(loss: Tensor) -> float:
    return float(loss.mean())


def _find_sharpest(validated: _ValidatedEstimates) -> int:
    """Return the index of the last estimate whose loss equals the minimum within its error.

    The validation pixels are added afterwards, so the estimate may be sharper than the best one
    without. But steps that grow from one weight to the next amplify noise that the blur removes,
    which losses behind the blur hardly tell: one of six results was 4 dB worse by it.
    """
    losses, steps = validated.losses, validated.steps
    means = [_average(loss) for loss in losses]
    best = means.index(min(means))
    count = len(VALIDATED_ITERATIONS)  # of estimates with one weight
    sharper = range(best + 1, len(losses))
    grown = (i for i in sharper if i >= count and steps[i] > steps[i - count])
    for index in range(next(grown, len(losses)) - 1, best, -1):
        excess, error = _compare(losses[index], losses[best])
        if excess <= min(error, LOSS_TOLERANCE * means[best]):
            return index
    return best


def _find_smoothest(validated: _ValidatedEstimates) -> int:
    """Return the index of the first estimate whose loss equals the minimum within its error.

    Without a penalty, an estimate that is sharper than it need be has more noise.
    """
    best = min(validated.losses, key=_average)
    return next(
        index
        for index, loss in enumerate(validated.losses)
        if loss is best or le(*_compare(loss, best))
    )


def _compare(loss: Tensor, best: Tensor) -> tuple[float, float]:
    """Return how much more a loss is than another, and the standard error of that."""
    difference = loss - best
    return _average(difference), float(difference.std()) / len(best) ** 0.5


class InitialEstimate(NamedTuple):
    """Initial estimates that the network takes as input, in network units.

    Attributes
    ----------
    candidates : tuple of Tensor
        (1, C, *grid) each; the first by Richardson-Lucy after the fewest iterations.
    deconvolution : SmoothDeconvolution or None
        Regularised deconvolution, for a volume.
    brightness_scale : float
        Peak intensity above the dark level; 1 for a plane.
    """

    candidates: tuple[Tensor, ...]
    deconvolution: SmoothDeconvolution | None = None
    brightness_scale: float = 1.0

    def add_to_input(
        self, random_input: RandomInputOptions, *, is_coarse: bool
    ) -> RandomInputOptions:
        """Return a random input with the initial estimates as further channels.

        The fit of a volume also starts from one of them. Noise in the start remains, since the data
        do not penalise noise that the blur removes. So the start is the estimate of the fewest
        iterations, unless the model error exceeds the noise, or the network is coarse: it then
        cannot add detail.
        """
        import torch

        random_input = replace(
            random_input,
            extra_input=torch.cat(self.candidates, 1) / self.brightness_scale,
            extra_input_jitter=RICHARDSON_LUCY_JITTER,
            output_scale=self.brightness_scale,
        )
        if self.deconvolution is None:
            return random_input
        is_sharp = is_coarse or self.deconvolution.has_misfit
        start = self.deconvolution.estimate if is_sharp else self.candidates[0]
        return replace(random_input, channels=RANDOM_INPUT_CHANNELS_IN_VOLUMES, baseline=start)


def compute_initial_estimate(
    fit_input: FitInput, operator: Operator, dark_level: Tensor, *, is_regularised: bool
) -> InitialEstimate:
    """Compute the initial estimates, without the validation pixels.

    Parameters
    ----------
    fit_input : FitInput
    operator : Operator
    dark_level : Tensor
        (1, C, 1, ...): value of a pixel without light, in network units.
    is_regularised : bool
        Whether to deconvolve with a penalty as well, as for volumes and finer grids.
    """
    from napari_dip.engine.deconvolution.richardson_lucy import (
        estimate_peak_intensity,
        run_masked_richardson_lucy,
    )

    valid = fit_input.masks.visible
    steps = RICHARDSON_LUCY_ITERATIONS_3D if is_regularised else RICHARDSON_LUCY_ITERATIONS
    estimates = run_masked_richardson_lucy(
        operator, fit_input.measurement - dark_level, valid, steps
    )
    candidates = tuple(estimate + dark_level for estimate in estimates)
    if not is_regularised:
        return InitialEstimate(candidates)
    deconvolution = compute_smooth_deconvolution(fit_input, operator, dark_level)
    return InitialEstimate(
        (*candidates, deconvolution.previous, deconvolution.estimate),
        deconvolution,
        estimate_peak_intensity(deconvolution.estimate - dark_level),
    )


def make_proximity_penalty(deconvolution: SmoothDeconvolution) -> tuple[float, Penalty]:
    """Return the penalty on the distance to the regularised estimate, with its weight."""
    from napari_dip.engine.likelihood.penalties import make_quadratic_proximity

    estimate, uncertainty = deconvolution.estimate, deconvolution.uncertainty
    return PROXIMITY_WEIGHT, make_quadratic_proximity(estimate, uncertainty)
