"""Define the schedule of a fit, and its optimisers.

Each optimiser evaluates the loss once an iteration and keeps its state in tensors, so that
checkpoints and rollbacks hold all of it. Its learning rate is 0 until the schedule sets one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Momentum of gradient descent; the usual value.
_MOMENTUM = 0.9
#: Steps in the history of L-BFGS; torch uses 100, Nocedal and Wright 3 to 20.
_MEMORY = 10
#: Least cosine between a step and the change of the gradient along it. Below it, the step is not
#: added to the history of L-BFGS, since its curvature is unreliable.
_MIN_CURVATURE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the fit with one peak learning rate.

    Attributes
    ----------
    iterations : int
    learning_rate : float
        Peak learning rate of the network.
    operator_learning_rate : float
        Peak learning rate of a learned operator; 0 keeps it unchanged.
    """

    iterations: int
    learning_rate: float
    operator_learning_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Iterations, learning rates, averaging and validation of one fit.

    Attributes
    ----------
    phases : tuple of Phase
    horizon : int
        Number of iterations that determines the rates. It stays the same if a run is repeated
        with fewer iterations.
    stop_at : int
        Last iteration, at most the horizon.
    warm_up : float
        Share of the horizon over which the rate rises to its peak. Then it falls as a cosine.
    average_decay : float
        Decay of the running average, 0.95 to 0.99.
    validation_interval : int
        Iterations between two validations.
    max_gradient_norm : float
        Largest norm of the gradient of all weights together.
    refit_iterations : int
        Iterations of the refit on training and validation pixels; 0: none.
    uses_bfloat16 : bool
        Whether steps may be computed in bfloat16, where the device is faster with it.
    optimizer : OptimizerFactory or None
        Factory of the optimiser; None: Adam.
    has_final_inference : bool
        Whether the result comes from the final inference; otherwise from a single pass, which is
        enough where only the weights are used.
    """

    phases: tuple[Phase, ...]
    horizon: int
    stop_at: int
    warm_up: float = 0.1
    average_decay: float = 0.99
    validation_interval: int = 25
    max_gradient_norm: float = 1.0
    refit_iterations: int = 0
    uses_bfloat16: bool = False
    optimizer: OptimizerFactory | None = None
    has_final_inference: bool = True

    def get_rates(self, iteration: int) -> tuple[float, float]:
        """Return the learning rates of network and operator at a 1-based iteration.

        Beyond the horizon, in the refit, they are a tenth of the peak.
        """
        if iteration > self.horizon:
            last = self.phases[-1]
            return 0.1 * last.learning_rate, 0.1 * last.operator_learning_rate
        previous_iterations = 0
        for phase in self.phases:
            if iteration <= previous_iterations + phase.iterations:
                break
            previous_iterations += phase.iterations
        rise = max(1.0, self.warm_up * self.horizon)
        if iteration <= rise:
            fraction = iteration / rise
        else:
            fraction = 0.5 * (1 + cos(pi * (iteration - rise) / max(1.0, self.horizon - rise)))
        return phase.learning_rate * fraction, phase.operator_learning_rate * fraction


def make_single_phase_schedule(
    iterations: int, learning_rate: float, **settings: float
) -> Schedule:
    """Return a schedule of one phase, whose length is the horizon."""
    phase = Phase(iterations=iterations, learning_rate=learning_rate)
    return Schedule(phases=(phase,), horizon=iterations, stop_at=iterations, **settings)  # type: ignore[arg-type]


#: Parameter groups of torch -> optimiser.
OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]


class UnwrappedOptimizer(Optimizer):
    """An optimiser without the wrappers that torch adds for its compiler.

    The wrappers import the compiler at the first call, which takes one to two seconds, creates a
    temporary folder and sets an environment variable. Nothing is compiled here.
    """

    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    add_param_group = inspect.unwrap(Optimizer.add_param_group)


class Adam(UnwrappedOptimizer, torch.optim.Adam):
    """Adam of torch without the compiler's wrappers."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class SGD(UnwrappedOptimizer, torch.optim.SGD):
    """Gradient descent of torch without the compiler's wrappers."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def make_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Return Adam (Kingma, Ba, ICLR 2015, arXiv:1412.6980)."""
    return Adam(groups, lr=0.0, foreach=True)


def make_capturable_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Return Adam with rates and step counts as tensors on the GPU, for use in a CUDA graph."""
    for group in groups:
        group["lr"] = torch.zeros((), device=group["params"][0].device)
    return Adam(groups, lr=0.0, foreach=True, capturable=True)


def make_sgd(groups: list[dict[str, Any]]) -> Optimizer:
    """Return gradient descent with momentum."""
    return SGD(groups, lr=0.0, momentum=_MOMENTUM, foreach=True)


def make_lbfgs(groups: list[dict[str, Any]]) -> Optimizer:
    """Return L-BFGS without a line search: see `FixedStepLbfgs`."""
    return FixedStepLbfgs(groups)


class FixedStepLbfgs(UnwrappedOptimizer):
    """L-BFGS with one evaluation of the loss an iteration; the learning rate is the step length.

    A line search would evaluate the loss several times, so that iterations were not comparable
    with those of other optimisers.

    Parameters
    ----------
    groups : list of dict
        Parameter groups of torch. All use the first group's rate, since they share one curvature.

    References
    ----------
    Nocedal, Wright, Numerical optimization, 2nd edition, 2006, algorithm 7.4.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update all weights once from their gradients; `closure` is not called."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        gradient = torch.cat(
            [
                (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
                for weight in weights
            ]
        )
        curvature = self.state[weights[0]]
        if curvature:
            _store_curvature_pair(curvature, gradient)
            direction = -_run_two_loop_recursion(curvature, gradient)
        else:
            direction = -gradient / gradient.norm().clamp(min=1)
            curvature["changes"] = gradient.new_zeros((_MEMORY, gradient.numel()))
            curvature["turns"] = torch.zeros_like(curvature["changes"])
            curvature["pairs"] = torch.zeros((), dtype=torch.int64)
        move = self.param_groups[0]["lr"] * direction
        curvature["gradient"], curvature["move"] = gradient, move
        counts = [weight.numel() for weight in weights]
        for weight, part in zip(weights, move.split(counts), strict=True):
            weight += part.view_as(weight)


def _store_curvature_pair(curvature: dict[str, Tensor], gradient: Tensor) -> None:
    """Append the last step and its gradient change to the history, if the curvature is positive."""
    gradient_change, move = gradient - curvature["gradient"], curvature["move"]
    if not float(gradient_change @ move) > _MIN_CURVATURE * float(
        gradient_change.norm() * move.norm()
    ):
        return
    for name, newest in (("changes", move), ("turns", gradient_change)):
        curvature[name] = torch.cat([curvature[name][1:], newest[None]])
    curvature["pairs"] = (curvature["pairs"] + 1).clamp(max=_MEMORY)


def _run_two_loop_recursion(curvature: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """Return the gradient times the inverse Hessian estimate, by two loops over the history."""
    count = int(curvature["pairs"])
    if not count:
        first: Tensor = gradient / gradient.norm().clamp(min=1)
        return first
    moves, gradient_changes = curvature["changes"][-count:], curvature["turns"][-count:]
    weight = 1 / (moves * gradient_changes).sum(1)
    direction, fractions = gradient, list[Tensor]()
    for index in reversed(range(count)):
        fraction = weight[index] * (moves[index] @ direction)
        fractions.append(fraction)
        direction = direction - fraction * gradient_changes[index]
    direction = direction * (moves[-1] @ gradient_changes[-1]) / gradient_changes[-1].square().sum()
    for index, fraction in zip(range(count), reversed(fractions), strict=True):
        direction = direction + moves[index] * (
            fraction - weight[index] * (gradient_changes[index] @ direction)
        )
    return direction
