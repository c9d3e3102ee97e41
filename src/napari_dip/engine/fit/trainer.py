"""One step of the optimiser, and all that the next step depends on.

Running averages: of outputs, pixel by pixel, or of weights; both corrected for their start.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from napari_dip.engine.fit.cuda_graph import is_graph_capturable, make_train_step
from napari_dip.engine.fit.schedule import make_adam, make_capturable_adam
from napari_dip.engine.problem import Estimate, LearnedOperator, Problem
from napari_dip.engine.train_step import (
    apply_network,
    convert_to_channels_last,
    has_fast_bfloat16,
    make_training_batch,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.engine.fit.schedule import Schedule
    from napari_dip.engine.prior import Draw, Prior
    from napari_dip.errors.notes import Note


class Average(Protocol):
    """What is judged, previewed and returned instead of the last, jittered output."""

    def update(self, draw: Draw, estimate: Estimate) -> None:
        """Take in one step's answer."""
        ...

    def network(self) -> nn.Module:
        """Network to look through."""
        ...

    def outputs(self) -> Estimate | None:
        """Averaged picture, if it is outputs that are averaged."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copy of all that is averaged."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to a copy."""
        ...


class OutputAverage:
    """Exponential average of outputs over trusted pixels, with their spread as variance.

    Sum and weight decay together, so the average is free of bias from its first step on, and a
    pixel that was rarely trusted has a true mean of its few values.

    Parameters
    ----------
    net : nn.Module
    shape : tuple of int
        (B, C, *grid).
    decay : float
    like : Tensor
        Gives device and type.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...], decay: float, like: Tensor) -> None:
        self._net = net
        self._decay = decay
        self._sum = like.new_zeros(shape)
        self._squares = like.new_zeros(shape)
        self._weight = like.new_zeros((shape[0], 1, *shape[2:]))

    def update(self, draw: Draw, estimate: Estimate) -> None:
        """Take in the trusted pixels."""
        mean = estimate.mean.detach()
        trusted = torch.ones_like(mean[:, :1]) if draw.trusted is None else draw.trusted
        self._sum.mul_(self._decay).add_(trusted * mean, alpha=1 - self._decay)
        self._squares.mul_(self._decay).add_(trusted * mean**2, alpha=1 - self._decay)
        self._weight.mul_(self._decay).add_(trusted, alpha=1 - self._decay)

    def network(self) -> nn.Module:
        """Network as it is now."""
        return self._net

    def outputs(self) -> Estimate | None:
        """Mean, and the log of the outputs' variance."""
        weight = self._weight.clamp(min=1e-12)
        mean = self._sum / weight
        variance = (self._squares / weight - mean**2).clamp(min=1e-9)
        return Estimate(mean, variance.log())

    def state(self) -> dict[str, Tensor]:
        """Copy the sums and the weight."""
        return {
            "sum": self._sum.clone(),
            "squares": self._squares.clone(),
            "weight": self._weight.clone(),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Put sums and weight back, in place."""
        self._sum.copy_(state["sum"])
        self._squares.copy_(state["squares"])
        self._weight.copy_(state["weight"])


class WeightAverage:
    """Exponential average of the network's weights.

    The decay grows from one tenth to its value as (n + 1) / (n + 10), so that the random start
    does not linger.

    Parameters
    ----------
    net : nn.Module
        Being fitted.
    twin : nn.Module
        Of the same shape; holds the average.
    decay : float

    References
    ----------
    Polyak, Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control
    Optim. 30(4), 1992, doi:10.1137/0330046.
    """

    def __init__(self, net: nn.Module, twin: nn.Module, decay: float) -> None:
        self._weights = list(net.parameters())
        self._twin = twin
        self._decay = decay
        self._steps = 0
        self.load({str(index): weight.detach() for index, weight in enumerate(self._weights)})
        self._steps = 0

    def update(self, draw: Draw, estimate: Estimate) -> None:
        """Take in the weights as they are after this step."""
        decay = min(self._decay, (self._steps + 1) / (self._steps + 10))
        self._steps += 1
        with torch.no_grad():
            for kept, weight in zip(self._twin.parameters(), self._weights, strict=True):
                kept.lerp_(weight, 1 - decay)

    def network(self) -> nn.Module:
        """Network with the averaged weights."""
        return self._twin

    def outputs(self) -> Estimate | None:
        """None: the picture has to be asked for."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Averaged weights and the number of steps."""
        state = {
            str(index): weight.detach().clone()
            for index, weight in enumerate(self._twin.parameters())
        }
        return {**state, "steps": torch.tensor(self._steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Averaged weights, in place."""
        with torch.no_grad():
            for index, weight in enumerate(self._twin.parameters()):
                weight.copy_(state[str(index)])
        self._steps = int(state["steps"]) if "steps" in state else self._steps


def make_average(prior: Prior, shape: tuple[int, ...], decay: float, like: Tensor) -> Average:
    """Choose the average that the prior asks for."""
    if not prior.covers_grid:
        from copy import deepcopy

        return WeightAverage(prior.net, deepcopy(prior.net).requires_grad_(False), decay)
    return OutputAverage(prior.net, shape, decay, like)


#: Everything that a step needs to go on exactly where another left off.
TensorState = dict[str, Tensor]


class Trainer(Protocol):
    """Interface of a stepper; the loop knows no other."""

    iteration: int
    rate_factor: float
    released: bool
    tried: bool  # whether held-out pixels judge a trial, not the glance
    reveals: bool  # whether the sweep knows of held-out pixels, so that it must not be judged

    @property
    def note(self) -> Note | None:
        """What the user should know of how steps are computed; None if nothing."""
        ...

    def advance(self) -> None:
        """Take one step; waits for the device only where a draw asks it for a number."""
        ...

    def read(self) -> float:
        """Mean judging loss since the last reading; waits for the device."""
        ...

    def glance(self) -> Estimate:
        """Averaged picture, in one look."""
        ...

    def trial(self) -> Estimate:
        """Give what held-out pixels judge, of the measured pixels."""
        ...

    def sweep(self) -> Iterator[Estimate | float]:
        """Averaged picture at its best: shares done, then the picture."""
        ...

    def state(self) -> TensorState:
        """Copy of all that the next step depends on."""
        ...

    def load(self, state: TensorState) -> None:
        """Go back to a copy."""
        ...

    def average_state(self) -> TensorState:
        """Copy of the average alone."""
        ...

    def load_average(self, state: TensorState) -> None:
        """Put a copy of the average back."""
        ...

    def learned(self) -> dict[str, Tensor]:
        """Give what learned operators have found, by name."""
        ...

    def weights(self) -> TensorState:
        """Weights of the network that the averaged picture comes from, by their names."""
        ...


class EagerTrainer:
    """Draws at each step, and lets a learner teach the weights: on a card by a recorded graph.

    Parameters
    ----------
    problem : Problem
    prior : Prior
    schedule : Schedule
    seed : int
        Of the draws.
    """

    def __init__(self, problem: Problem, prior: Prior, schedule: Schedule, *, seed: int) -> None:
        self.problem = problem
        self.prior = prior
        self.schedule = schedule
        self.iteration = 0
        self.rate_factor = 1.0
        self.released = False
        self.tried = prior.trial() is not None
        self.reveals = prior.reveals
        like = problem.terms[0].measurement
        self._rng = torch.Generator(like.device).manual_seed(seed)
        learned = [weight for term in problem.terms for weight in term.operator.parameters()]
        groups = [{"params": list(prior.net.parameters())}, {"params": learned}]
        make = schedule.optimiser or (
            make_capturable_adam if is_graph_capturable(problem, schedule) else make_adam
        )
        self._optimizer = make([group for group in groups if group["params"]])
        half = schedule.half and has_fast_bfloat16(like.device)
        self.learner = make_train_step(problem, prior, schedule, self._optimizer, half=half)
        self._weights = [*prior.net.parameters(), *learned]
        self._shape = (*like.shape[:2], *prior.grid)
        self._average = make_average(prior, self._shape, schedule.average, like)
        self._loss = like.new_zeros(())
        self._steps = 0

    @property
    def note(self) -> Note | None:
        """Of the learner."""
        return self.learner.note

    def advance(self) -> None:
        """Draw, predict, compare, learn, average."""
        self.iteration += 1
        rates = self.schedule.rate(self.iteration)
        self.learner.rate(tuple(rate * self.rate_factor for rate in rates))
        with self.learner.drawing():
            draw = self.prior.draw(self._rng)
            look = make_training_batch(self.problem, draw, released=self.released)
        self.learner.drawn(look, draw)
        estimate, judged = self.learner.learn(look)
        with torch.no_grad():
            self._average.update(draw, estimate)
            self._loss += judged.detach()
        self._steps += 1

    def read(self) -> float:
        """Mean judging loss since the last reading; NaN where a weight is not finite."""
        mean = float(self._loss) / max(1, self._steps)
        self._loss.zero_()
        self._steps = 0
        whole = all(
            isfinite(float(weight.detach().sum())) for weight in self.prior.net.parameters()
        )
        return mean if whole else float("nan")

    @torch.no_grad()
    def glance(self) -> Estimate:
        """Averaged outputs, or one look through the averaged weights."""
        outputs = self._average.outputs()
        if outputs is not None:
            return outputs
        return self.prior.estimate(
            _apply_network_in_turn(self._average.network(), self.prior.glance().code)
        )

    @torch.no_grad()
    def trial(self) -> Estimate:
        """Look through the averaged weights at what the prior is tried on."""
        draw = self.prior.trial()
        assert draw is not None  # nothing is tried otherwise
        tried = self.prior.estimate(self._average.network()(convert_to_channels_last(draw.code)))
        grid = tuple(self.problem.terms[0].measurement.shape[2:])
        variance = tried.log_variance
        return Estimate(
            _place_on_grid(draw, tried.mean, grid),
            None if variance is None else _place_on_grid(draw, variance, grid),
        )

    @torch.no_grad()
    def sweep(self) -> Iterator[Estimate | float]:
        """Averaged outputs, or the trusted pixels of each draw put together."""
        outputs = self._average.outputs()
        if outputs is not None:
            yield outputs
            return
        net = self._average.network()
        mean = self.problem.terms[0].measurement.new_zeros(self._shape)
        log_variance: Tensor | None = None
        trusted_share, whole = 0.0, mean[0, 0].numel()
        for draw in self.prior.sweep():
            estimate = self.prior.estimate(_apply_network_in_turn(net, draw.code))
            trusted = torch.ones_like(mean[:, :1]) if draw.trusted is None else draw.trusted
            mean += _place_on_grid(draw, trusted * estimate.mean, self.prior.grid)
            if estimate.log_variance is not None:
                part = _place_on_grid(draw, trusted * estimate.log_variance, self.prior.grid)
                log_variance = part if log_variance is None else log_variance + part
            trusted_share += float(trusted.sum()) / len(trusted) / whole
            yield trusted_share
        yield Estimate(mean, log_variance)

    def state(self) -> TensorState:
        """Weights, optimiser, average, generator and counters."""
        state = {
            f"weight.{index}": weight.detach().clone() for index, weight in enumerate(self._weights)
        }
        for index, weight in enumerate(self._weights):
            for name, value in self._optimizer.state.get(weight, {}).items():
                state[f"optimizer.{index}.{name}"] = value.clone()
        state |= {f"average.{name}": value for name, value in self._average.state().items()}
        state["rng"] = self._rng.get_state()
        state["iteration"] = torch.tensor(self.iteration)
        state["rate_factor"] = torch.tensor(self.rate_factor, dtype=torch.float64)
        return state

    def load(self, state: TensorState) -> None:
        """All of it, in place; the loss since the last reading starts anew."""
        with torch.no_grad():
            for index, weight in enumerate(self._weights):
                weight.copy_(state[f"weight.{index}"])
                kept = {
                    name.split(".", 2)[2]: self._place_like_weight(weight, value)
                    for name, value in state.items()
                    if name.startswith(f"optimizer.{index}.")
                }
                self._optimizer.state[weight] = kept
        self.load_average(
            {
                name.removeprefix("average."): value
                for name, value in state.items()
                if name.startswith("average.")
            }
        )
        self._rng.set_state(state["rng"].cpu())
        self.iteration = int(state["iteration"])
        self.rate_factor = float(state["rate_factor"])
        self._loss.zero_()
        self._steps = 0
        self.learner.forget()

    def _place_like_weight(self, weight: Tensor, value: Tensor) -> Tensor:
        """Copy an optimiser's tensor to where its weight is; the count to where Adam counts."""
        if value.shape == weight.shape:
            return torch.empty_like(weight).copy_(value)
        counts_there = self._optimizer.defaults.get("capturable", False)
        return value.clone().to(weight.device) if counts_there else value.clone()

    def average_state(self) -> TensorState:
        """Copy of the average alone."""
        return self._average.state()

    def load_average(self, state: TensorState) -> None:
        """Put a copy of the average back."""
        self._average.load(state)

    def learned(self) -> dict[str, Tensor]:
        """Give what learned operators have found, by name."""
        return {
            name: value
            for term in self.problem.terms
            if isinstance(term.operator, LearnedOperator)
            for name, value in term.operator.learned().items()
        }

    def weights(self) -> TensorState:
        """Copy of the averaged weights, or of the last ones where outputs are averaged."""
        return {
            name: value.detach().clone()
            for name, value in self._average.network().state_dict().items()
        }


def _apply_network_in_turn(net: nn.Module, code: Tensor) -> Tensor:
    """Ask a network of one picture after another: together they may not fit into the memory."""
    return torch.cat([apply_network(net, part) for part in code.split(1)])


def _place_on_grid(draw: Draw, part: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Put what a draw was told of back onto the whole grid."""
    return part if draw.window is None else draw.window.onto(part, grid)
