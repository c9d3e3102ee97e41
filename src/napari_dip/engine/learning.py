"""What a step learns from one look: predict, compare, go down the gradient."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from napari_dip.engine.precision import in_half
from napari_dip.engine.problem import Estimate, predicted

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch.optim import Optimizer

    from napari_dip.engine.prior import Draw, Prior
    from napari_dip.engine.problem import Problem


class Look(NamedTuple):
    """What one step is shown and asked, cut to its window; tensors of all terms in their order.

    Attributes
    ----------
    code : Tensor
        (B, D, *size), packed.
    measured, asked, counted : tuple of Tensor
        The measurements, the same less what is taken from them, and 1 where the loss counts.
    direct, released : bool
        As the draw says; whether held-out pixels drive the weights, too.
    """

    code: Tensor
    measured: tuple[Tensor, ...]
    asked: tuple[Tensor, ...]
    counted: tuple[Tensor, ...]
    direct: bool
    released: bool


#: What the network said, and the likelihood that judges, a scalar.
Lesson = tuple[Estimate, Tensor]


class Learner(Protocol):
    """Teaches the weights what a look shows."""

    @property
    def note(self) -> str:
        """What the user should know of the way it learns; "" if nothing."""
        ...

    def drawing(self) -> AbstractContextManager[object]:
        """Where draws are made."""
        ...

    def drawn(self, look: Look, draw: Draw) -> None:
        """Make ready for use what was made there."""
        ...

    def learn(self, look: Look) -> Lesson:
        """Take one step down the gradient."""
        ...

    def rate(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates, one for each group of weights."""
        ...

    def forget(self) -> None:
        """Take note that the optimiser's tensors are others than before."""
        ...


def look_at(problem: Problem, draw: Draw, *, released: bool) -> Look:
    """Cut out what a draw is held against."""
    measured, asked, counted = [], [], []
    for term in problem.terms:
        # held-out pixels drive the weights, too, once they have judged
        measurement, weight = term.measurement, term.measured if released else term.fitted
        if draw.window is not None:
            measurement, weight = draw.window.of(measurement), draw.window.of(weight)
        measured.append(measurement)
        counted.append(weight if draw.driven is None else weight * draw.driven)
        asked.append(measurement if draw.taken is None else measurement - draw.taken)
    pictures = tuple(measured), tuple(asked), tuple(counted)
    return Look(packed(draw.code), *pictures, draw.direct, released)


class EagerLearner:
    """Learns operation by operation, on any device.

    Parameters
    ----------
    problem : Problem
    prior : Prior
    optimizer : Optimizer
    clip : float
        Longest gradient, in the norm of all weights together.
    half : bool
        Whether the network is run in half precision.
    """

    note = ""

    def __init__(
        self, problem: Problem, prior: Prior, optimizer: Optimizer, *, clip: float, half: bool
    ) -> None:
        self.optimizer = optimizer
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._problem = problem
        self._prior = prior
        self._clip = clip
        self._half = half

    def drawing(self) -> AbstractContextManager[object]:
        """Draw where everything else is done."""
        return nullcontext()

    def drawn(self, look: Look, draw: Draw) -> None:
        """Nothing to wait for."""

    def rate(self, rates: tuple[float, ...]) -> None:
        """Set the learning rates; a recorded graph reads them from tensors."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def learn(self, look: Look) -> Lesson:
        """Predict, compare, learn."""
        net = self._prior.net
        estimate = self._prior.estimate(in_half(net, look.code) if self._half else net(look.code))
        loss, judged = self._compare(look, estimate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self._clip, foreach=True)
        self.optimizer.step()
        return estimate, judged

    def forget(self) -> None:
        """Nothing to forget."""

    def _compare(self, look: Look, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """Loss to learn from, penalties included, and the likelihood that judges; two scalars.

        Both are means over the driven, fitted pixels of all terms.
        """
        loss, judged = estimate.mean.new_zeros(()), estimate.mean.new_zeros(())
        pictures = look.measured, look.asked, look.counted
        for term, measured, asked, counted in zip(self._problem.terms, *pictures, strict=True):
            prediction = estimate if look.direct else predicted(term, estimate)
            fidelity = (term.released if look.released else None) or term.fidelity
            loss_of_pixel = fidelity(prediction, asked) * counted  # (B, C, *size)
            count = (counted.sum() * loss_of_pixel.shape[1]).clamp(min=1)
            loss = loss + loss_of_pixel.sum() / count
            with torch.no_grad():  # the same measure as of the held-out pixels, to show beside it
                judged = judged + (term.likelihood(prediction, measured) * counted).sum() / count
        for factor, penalty in self._problem.penalties:
            loss = loss + factor * penalty(estimate.mean)
        return loss, judged


def packed(code: Tensor) -> Tensor:
    """Channels last, which the CPU's and the GPU's convolutions read fastest (2-D only)."""
    return code.contiguous(memory_format=torch.channels_last) if code.ndim == 4 else code
