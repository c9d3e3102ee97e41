"""Define the fit problem: measurements, operators, fidelity, penalties and postprocessing.

What an operator is, the identity and the chain are here; all others are in `engine.operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
#: Lower bound of a predicted variance, in squared network units.
MIN_PREDICTION_VARIANCE = 1e-9


class Estimate(NamedTuple):
    """Mean and variance of the restored image.

    Attributes
    ----------
    mean : Tensor
        (B, C, *grid) float32, in network units.
    log_variance : Tensor or None
        Log of the variance of the error of `mean`, same shape; None if there is no variance.
    is_error_measured : bool
        Whether the variance is that of a simulated measurement, and needs no validation pixels.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    is_error_measured: bool = False

    def map(self, convert: Callable[[Tensor], Tensor]) -> Estimate:
        """Return the estimate with mean and log-variance converted alike."""
        log_variance = None if self.log_variance is None else convert(self.log_variance)
        return self._replace(mean=convert(self.mean), log_variance=log_variance)


class Operator(nn.Module):
    """Map from the image to what the detector measures of it.

    A subclass defines `forward`. It overrides the other methods where their defaults do not hold:
    its grid is finer or larger than the measured one, its fit leaves a part of the measurement out,
    or it has parameters of its own. `nn.Module.parameters` are fitted along with the network.
    """

    __call__: Callable[..., Tensor]

    def compute_object_grid(self, measured_grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the image for a measurement of this size; by default the same."""
        return measured_grid

    def predict(self, estimate: Estimate) -> Estimate:
        """Return the prediction of the fitted measurement, on the measured grid.

        The variance goes through the operator like an image. That is exact for errors that are
        constant over the operator's kernel, as a network's nearly are, and too large elsewhere.

        Parameters
        ----------
        estimate : Estimate
            Of the whole grid.
        """
        mean = self(estimate.mean)
        if estimate.log_variance is None:
            return Estimate(mean)
        variance = self(estimate.log_variance.exp())
        # a kernel with negative lobes can make a variance negative next to a steep edge
        return Estimate(mean, variance.clamp(min=MIN_PREDICTION_VARIANCE).log())

    def simulate_measurement(self, image: Tensor) -> Tensor:
        """Return all that the detector measured of a finished image (1, C, *grid).

        It differs from `forward` where the fit leaves a part of the measurement out.
        """
        return self(image)

    def make_adjoint(self, measurement: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the adjoint of a linear operator: (B, C, *measured) -> (B, C, *grid).

        It is the gradient of the operator, whose graph is recorded once for all calls.

        Parameters
        ----------
        measurement : Tensor
            (B, C, *measured); only its shape, type and device are used.
        """
        grid = self.compute_object_grid(tuple(measurement.shape[2:]))
        with torch.enable_grad():
            zeros = measurement.new_zeros((*measurement.shape[:2], *grid)).requires_grad_()
            prediction = self(zeros)
        return lambda image: torch.autograd.grad(prediction, zeros, image, retain_graph=True)[0]

    def get_learned_parameters(self) -> dict[str, Tensor]:
        """Return the fitted parameters by name, in units of the image's grid; none by default."""
        return {}


class Identity(Operator):
    """Operator of a detector that measures the image itself, plus noise."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the image unchanged."""
        return image

    def predict(self, estimate: Estimate) -> Estimate:
        """Return the estimate unchanged."""
        return estimate


class Chain(Operator):
    """Operators in sequence, such as the blur of the optics and then the sampling by the pixels.

    Parameters
    ----------
    *operators : Operator
        In the order in which they act on the image.
    """

    def __init__(self, *operators: Operator) -> None:
        super().__init__()
        self.operators: nn.ModuleList = nn.ModuleList(operators)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *grid) to (B, C, *measured) of the last operator."""
        for operator in self.operators:
            image = operator(image)
        return image

    def compute_object_grid(self, measured_grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the image that the first operator takes."""
        for operator in reversed(self.operators):
            assert isinstance(operator, Operator)
            measured_grid = operator.compute_object_grid(measured_grid)
        return measured_grid


#: (estimate, measurement) -> dimensionless loss per pixel. It is not summed, so the caller can
#: mask pixels.
Fidelity = Callable[[Estimate, Tensor], Tensor]
#: Yields where the user may end it, and returns the finished estimate.
PostprocessingSteps = Generator[None, None, Estimate]
#: image (B, C, *grid) -> scalar.
Penalty = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Term:
    """One measurement of the image, with its operator, losses and masks.

    Attributes
    ----------
    measurement : Tensor
        (B, C, *measured) float32, in network units.
    operator : Operator
    fidelity : Fidelity
        Training loss.
    deviance : Fidelity
        What early stopping and the choice between priors compare: the deviance, twice the negative
        log-likelihood up to a constant, where there is a noise model.
    training_pixel_weights : Tensor
        (B, 1, *measured) float32, weight of each pixel in the loss: 1 at training pixels, less at
        training pixels that are noisier than usual.
    validation_mask : Tensor
        (B, 1, *measured) float32, 1 at validation pixels. In the guard band around them, mask and
        `training_pixel_weights` are 0.
    refit_pixel_weights : Tensor
        (B, 1, *measured) float32, replaces `training_pixel_weights` in the refit on training and
        validation pixels.
    """

    measurement: Tensor
    operator: Operator
    fidelity: Fidelity
    deviance: Fidelity
    training_pixel_weights: Tensor
    validation_mask: Tensor
    refit_pixel_weights: Tensor


def _return_unchanged(estimate: Estimate) -> Estimate:
    return estimate


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Problem:
    """All that one fit has to explain.

    Attributes
    ----------
    terms : tuple of Term
        One for each measurement of the same image. The first is `main_term`.
    penalties : tuple of (weight, Penalty)
    postprocess : callable
        Convert the averaged estimate to the image, such as by the posterior mean. The operator maps
        its result to the measurement.
    crop : callable
        Crop what `postprocess` returns to the field of view.
    sure_term : callable or None
        Term that is added to the validation loss for errors that validation pixels cannot
        measure, such as noise that the network copies.
    full_postprocess : callable or None
        Slower and better replacement of `postprocess` for fits that end by themselves; None:
        `postprocess`. It is not used for previews, nor when the user ends the fit. It yields where
        the user may end it, and returns the estimate.
    blends_filling : bool
        Whether `full_postprocess` blends the filling of holes.
    refines_pixels : bool
        Whether `full_postprocess` refines measured pixels.
    filters_first : bool
        Whether the measurement was filtered as a whole, so that validation pixels confirm nothing.
    measures_noise_again : bool
        Whether postprocessing measures the noise in the residual of hidden pixels.
    noise_left : Tensor or float
        Variance of the noise that stays in the image by construction, on the grid that `crop`
        returns.
    """

    terms: tuple[Term, ...]
    penalties: tuple[tuple[float, Penalty], ...] = ()
    postprocess: Callable[[Estimate], Estimate] = field(default=_return_unchanged)
    crop: Callable[[Estimate], Estimate] = field(default=_return_unchanged)
    sure_term: Callable[[Estimate], Tensor] | None = None
    full_postprocess: Callable[[Estimate], PostprocessingSteps] | None = None
    blends_filling: bool = False
    refines_pixels: bool = True
    filters_first: bool = False
    measures_noise_again: bool = False
    noise_left: Tensor | float = 0.0

    @property
    def main_term(self) -> Term:
        """Term of the image that is restored: its grid and operator are those of the residual.

        Further terms are of repeated exposures, of the frame before, or of a network's features.
        """
        return self.terms[0]

    @property
    def learns_operator(self) -> bool:
        """Whether an operator has parameters that the fit may change."""
        weights = (weight for term in self.terms for weight in term.operator.parameters())
        return any(weight.requires_grad for weight in weights)

    def make_preview(self, estimate: Estimate) -> Estimate:
        """Return the image of an estimate during the fit, cropped to the field of view."""
        return self.crop(self.postprocess(estimate))


def append_postprocessing(
    problem: Problem, step: Callable[[Estimate, Estimate], Estimate]
) -> Problem:
    """Return the problem with one more step in `postprocess` and in `full_postprocess`.

    Parameters
    ----------
    problem : Problem
    step : callable
        (network's estimate, estimate after the earlier steps) -> image.
    """

    def append(earlier: Callable[[Estimate], Estimate]) -> Callable[[Estimate], Estimate]:
        return lambda estimate: step(estimate, earlier(estimate))

    earlier_steps = problem.full_postprocess
    appended = replace(problem, postprocess=append(problem.postprocess))
    if earlier_steps is None:
        return appended

    def append_to_steps(estimate: Estimate) -> PostprocessingSteps:
        return step(estimate, (yield from earlier_steps(estimate)))

    return replace(appended, full_postprocess=append_to_steps)


def run_steps(steps: Generator[None, None, T]) -> T:
    """Return what a generator returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def make_single_step(
    postprocess: Callable[[Estimate], Estimate],
) -> Callable[[Estimate], PostprocessingSteps]:
    """Return postprocessing that the user cannot end, since it is fast."""

    def run_single_step(estimate: Estimate) -> PostprocessingSteps:
        yield from ()
        return postprocess(estimate)

    return run_single_step


def compute_validation_loss(
    problem: Problem, estimate: Estimate, *, bypasses_operator: bool = False
) -> Tensor:
    """Return the mean deviance of the validation pixels, plus the SURE term if any.

    A scalar, NaN if there are no validation pixels.

    Parameters
    ----------
    problem : Problem
    estimate : Estimate
        Of the whole grid.
    bypasses_operator : bool
        Whether the estimate is on the measured grid already, so that no operator is applied.
    """
    total = estimate.mean.new_zeros(())
    count = estimate.mean.new_zeros(())
    for term in problem.terms:
        prediction = estimate if bypasses_operator else term.operator.predict(estimate)
        loss = term.deviance(prediction, term.measurement) * term.validation_mask
        total = total + loss.sum()
        count = count + term.validation_mask.sum() * loss.shape[1]
    loss = total / count
    return loss if problem.sure_term is None else loss + problem.sure_term(estimate)


def list_validation_pixels(problem: Problem) -> tuple[Tensor, ...]:
    """Return the flat indices of each term's validation pixels in its measurement."""
    return tuple(
        term.validation_mask.expand_as(term.measurement).flatten().nonzero()[:, 0]
        for term in problem.terms
    )


def compute_pixel_deviances(
    problem: Problem, estimate: Estimate, pixels: tuple[Tensor, ...]
) -> Tensor:
    """Return the deviances (N,) of the pixels of all terms, with indices as listed above."""
    deviances = [
        term.deviance(term.operator.predict(estimate), term.measurement).flatten()[indices]
        for term, indices in zip(problem.terms, pixels, strict=True)
    ]
    return torch.cat(deviances)
