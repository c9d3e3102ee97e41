"""How long a fit goes on, how fast it learns, and how it averages.

Optimisers that a fit may take: one evaluation a step, all that they remember in tensors.

So a checkpoint or a way back holds all of it. A rate of 0 stands in the groups until the schedule
sets one.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the fit with one way of learning.

    Attributes
    ----------
    iterations : int
    learning_rate : float
        Of the network at its peak.
    operator_learning_rate : float
        Of a learned operator; 0 keeps it as it is.
    """

    iterations: int
    learning_rate: float
    operator_learning_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The whole fit.

    Attributes
    ----------
    phases : tuple of Phase
    horizon : int
        Number of iterations that fixes the rates, kept when a run is repeated for less.
    stop_at : int
        Last iteration, at most the horizon.
    warm_up : float
        Part of the horizon over which the rate rises to its peak; then it falls as a cosine.
    average : float
        Decay of the running average, 0.95 to 0.99.
    report_every : int
        Iterations between two judgements.
    clip : float
        Longest gradient, in the norm of all weights together.
    release : int
        Iterations of a last phase, after the judgement, in which the held-out pixels drive the
        fit as well: they are measurements, and a picture that ignores them is the poorer for it.
    half : bool
        Whether steps may be computed in half precision, where the device is made for it.
    optimiser : Optimiser or None
        What moves the weights; None: Adam.
    last_look : bool
        Whether the picture is looked at as closely as can be in the end; where only the weights are
        wanted, one look shows that they are sound.
    """

    phases: tuple[Phase, ...]
    horizon: int
    stop_at: int
    warm_up: float = 0.1
    average: float = 0.99
    report_every: int = 25
    clip: float = 1.0
    release: int = 0
    half: bool = False
    optimiser: Optimiser | None = None
    last_look: bool = True

    def rate(self, iteration: int) -> tuple[float, float]:
        """Learning rates of network and operator at a 1-based iteration.

        Past the horizon, in the last phase, at a tenth of the peak: the cosine has reached zero.
        """
        if iteration > self.horizon:
            last = self.phases[-1]
            return 0.1 * last.learning_rate, 0.1 * last.operator_learning_rate
        done = 0
        for phase in self.phases:
            if iteration <= done + phase.iterations:
                break
            done += phase.iterations
        rise = max(1.0, self.warm_up * self.horizon)
        if iteration <= rise:
            share = iteration / rise
        else:
            share = 0.5 * (1 + cos(pi * (iteration - rise) / max(1.0, self.horizon - rise)))
        return phase.learning_rate * share, phase.operator_learning_rate * share


def make_single_phase_schedule(
    iterations: int, learning_rate: float, **settings: float
) -> Schedule:
    """Make the usual schedule: one phase, rates fixed by its length."""
    phase = Phase(iterations=iterations, learning_rate=learning_rate)
    return Schedule(phases=(phase,), horizon=iterations, stop_at=iterations, **settings)  # type: ignore[arg-type]


#: Groups of weights, as torch has them -> what moves them.
Optimiser = Callable[[list[dict[str, Any]]], Optimizer]
#: Share of the last step that the next one goes on with; what is usual.
_MOMENTUM = 0.9
#: Steps that are remembered of the curvature; torch's own uses 100, Nocedal and Wright 3 to 20.
_MEMORY = 10
#: Least curvature along a step, as a share of what its lengths allow: below it, the step says
#: nothing of the curvature that could be trusted.
_MIN_CURVATURE = 1e-6


class UnwrappedOptimiser(Optimizer):
    """An optimiser without what torch wraps around it in case somebody compiles it.

    The wrappers import torch's compiler when they are first called, though nothing here is
    compiled: a second or two of processor time, a folder among the temporary files, and a name in
    the environment. What they wrap is the same code.
    """

    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    add_param_group = inspect.unwrap(Optimizer.add_param_group)


class Adam(UnwrappedOptimiser, torch.optim.Adam):
    """torch's own, unwrapped."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class GradientDescent(UnwrappedOptimiser, torch.optim.SGD):
    """torch's own, unwrapped."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def make_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Kingma, Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv:1412.6980."""
    return Adam(groups, lr=0.0, foreach=True)


def make_capturable_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Make the same with rates and counts as tensors on the GPU: a graph reads them."""
    for group in groups:
        group["lr"] = torch.zeros((), device=group["params"][0].device)
    return Adam(groups, lr=0.0, foreach=True, capturable=True)


def make_gradient_descent(groups: list[dict[str, Any]]) -> Optimizer:
    """Go down the gradient, with momentum."""
    return GradientDescent(groups, lr=0.0, momentum=_MOMENTUM, foreach=True)


def make_lbfgs(groups: list[dict[str, Any]]) -> Optimizer:
    """L-BFGS without a line search: see `FixedStepLbfgs`."""
    return FixedStepLbfgs(groups)


class FixedStepLbfgs(UnwrappedOptimiser):
    """L-BFGS with one evaluation a step: the rate is the step's length, nothing is searched.

    A line search would look at the loss several times within one iteration, which then would not
    be an iteration of the others any more.

    Parameters
    ----------
    groups : list of dict
        As torch has them; all move at the first group's rate, since curvature is one for all.

    References
    ----------
    Nocedal, Wright, Numerical optimization, 2nd edition, 2006, algorithm 7.4.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Move all weights once, by their gradients; nothing is evaluated."""
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
    """Keep how the gradient changed along the last step, newest last, if that is a curvature."""
    turn, move = gradient - curvature["gradient"], curvature["move"]
    if not float(turn @ move) > _MIN_CURVATURE * float(turn.norm() * move.norm()):
        return
    for name, newest in (("changes", move), ("turns", turn)):
        curvature[name] = torch.cat([curvature[name][1:], newest[None]])
    curvature["pairs"] = (curvature["pairs"] + 1).clamp(max=_MEMORY)


def _run_two_loop_recursion(curvature: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """Multiply a gradient by the inverse curvature that is remembered: two loops over the pairs."""
    count = int(curvature["pairs"])
    if not count:
        first: Tensor = gradient / gradient.norm().clamp(min=1)
        return first
    changes, turns = curvature["changes"][-count:], curvature["turns"][-count:]
    weight = 1 / (changes * turns).sum(1)
    turned, shares = gradient, list[Tensor]()
    for place in reversed(range(count)):
        share = weight[place] * (changes[place] @ turned)
        shares.append(share)
        turned = turned - share * turns[place]
    turned = turned * (changes[-1] @ turns[-1]) / turns[-1].square().sum()
    for place, share in zip(range(count), reversed(shares), strict=True):
        turned = turned + changes[place] * (share - weight[place] * (turns[place] @ turned))
    return turned
