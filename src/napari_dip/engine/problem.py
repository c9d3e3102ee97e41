"""What is asked of a network: explain these measurements, through these operators, this well.

Operators: from the picture to what the detector saw of it.

The plain ones are here; `resampling` makes pixels coarser, `convolution` blurs with a known
kernel and `learned_blur` with one of `kernels` that is fitted along with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class Identity(nn.Module):
    """The detector saw the picture itself, plus noise."""

    def forward(self, image: Tensor) -> Tensor:
        """Give the image back."""
        return image


class Chain(nn.Module):
    """One operator after the other: first the optics, then the detector's pixels.

    Parameters
    ----------
    *operators : nn.Module
        In the order in which they happened.
    """

    def __init__(self, *operators: nn.Module) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, *measured) of the last operator."""
        for operator in self.operators:
            image = operator(image)
        return image


#: Least variance of a prediction, in squared network units; where outputs are averaged their
#: spread has the same bound.
MIN_PREDICTION_VARIANCE = 1e-9


class Estimate(NamedTuple):
    """A picture, and how sure the network is of it.

    Attributes
    ----------
    mean : Tensor
        (B, C, *grid) float32, in network units.
    log_variance : Tensor or None
        Of the error of `mean`, same shape; None where the network does not say.
    """

    mean: Tensor
    log_variance: Tensor | None = None


class Operator(Protocol):
    """What happened to the picture on its way to the detector; any `nn.Module` fits."""

    def __call__(self, image: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, *measured)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights to be fitted along with the network; empty unless the operator is learned."""
        ...


@runtime_checkable
class LearnedOperator(Protocol):
    """An operator that can say what it has learned."""

    def learned(self) -> dict[str, Tensor]:
        """Give what was fitted, by name, in the units of the picture's grid."""
        ...


#: (estimate, measurement) -> loss per pixel, without unit. Nothing is summed here, so the
#: caller decides which pixels count.
Fidelity = Callable[[Estimate, Tensor], Tensor]
#: image (B, C, *grid) -> scalar.
Penalty = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Term:
    """One measurement of the picture.

    Attributes
    ----------
    measurement : Tensor
        (B, C, *measured) float32, in network units.
    operator : Operator
    fidelity : Fidelity
        Its loss drives the weights.
    likelihood : Fidelity
        Negative log-likelihood that judges; the common currency of stopping and of choosing.
    fitted : Tensor
        (B, 1, *measured) float32, 1 where a pixel may drive the weights.
    held_out : Tensor
        (B, 1, *measured) float32, 1 where a pixel only judges. A guard band around it is
        neither fitted nor held out.
    measured : Tensor
        (B, 1, *measured) float32, 1 where there is a measurement: what may drive the weights
        once the held-out pixels have judged.
    released : Fidelity or None
        Drives the weights then; needed where `fidelity` by itself leaves held-out pixels out.
    """

    measurement: Tensor
    operator: Operator
    fidelity: Fidelity
    likelihood: Fidelity
    fitted: Tensor
    held_out: Tensor
    measured: Tensor
    released: Fidelity | None = None


def _return_unchanged(estimate: Estimate) -> Estimate:
    return estimate


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Problem:
    """All that a fit must explain.

    Attributes
    ----------
    terms : tuple of Term
        One for each measurement of the same picture.
    penalties : tuple of (weight, Penalty)
    finish : callable
        Last step from the averaged estimate to the picture, such as the posterior mean.
    on_grid : callable
        As much of `finish` as leaves the network's grid as it is, where it also cuts the frame
        out: what the measurement is compared with in the end.
    unseen : callable or None
        What the held-out pixels cannot see and judging must add, such as noise taken over.
    refine : callable or None
        Takes the place of `finish` at a fit's own end, where nobody waits for it: a better picture
        that takes seconds.
    """

    terms: tuple[Term, ...]
    penalties: tuple[tuple[float, Penalty], ...] = ()
    finish: Callable[[Estimate], Estimate] = field(default=_return_unchanged)
    on_grid: Callable[[Estimate], Estimate] = field(default=_return_unchanged)
    unseen: Callable[[Estimate], Tensor] | None = None
    refine: Callable[[Estimate], Estimate] | None = None


def append_final_step(problem: Problem, last: Callable[[Estimate, Estimate], Estimate]) -> Problem:
    """Add a last step to a problem, whichever way it ends.

    Parameters
    ----------
    problem : Problem
    last : callable
        (what the network said, what the steps before have made of it) -> picture.
    """

    def after(step: Callable[[Estimate], Estimate]) -> Callable[[Estimate], Estimate]:
        return lambda estimate: last(estimate, step(estimate))

    refine = None if problem.refine is None else after(problem.refine)
    return replace(problem, finish=after(problem.finish), refine=refine)


def predict_detected(term: Term, estimate: Estimate) -> Estimate:
    """Give what the detector would see of an estimate, on the measured grid.

    A variance goes through the operator as a picture does: exact for errors that are alike over
    the operator's reach, which those of a network nearly are, and too much for others.

    Parameters
    ----------
    term : Term
    estimate : Estimate
        Of the whole grid.
    """
    mean = term.operator(estimate.mean)
    if estimate.log_variance is None or isinstance(term.operator, Identity):
        return Estimate(mean, estimate.log_variance)
    variance = term.operator(estimate.log_variance.exp())
    # a window with negative lobes can make a variance negative beside a steep rise
    return Estimate(mean, variance.clamp(min=MIN_PREDICTION_VARIANCE).log())


def compute_validation_loss(
    problem: Problem, estimate: Estimate, *, direct: bool = False
) -> Tensor:
    """Mean negative log-likelihood of the held-out pixels, and what they cannot see.

    A scalar, NaN if none are held out.

    Parameters
    ----------
    problem : Problem
    estimate : Estimate
        Of the whole grid.
    direct : bool
        Whether it speaks of the measured pixels themselves, with no operator between.
    """
    total = estimate.mean.new_zeros(())
    count = estimate.mean.new_zeros(())
    for term in problem.terms:
        prediction = estimate if direct else predict_detected(term, estimate)
        loss = term.likelihood(prediction, term.measurement) * term.held_out
        total = total + loss.sum()
        count = count + term.held_out.sum() * loss.shape[1]
    loss = total / count
    return loss if problem.unseen is None else loss + problem.unseen(estimate)
