"""Optimisers that a fit may take: one evaluation a step, all that they remember in tensors.

So a checkpoint or a way back holds all of it. A rate of 0 stands in the groups until the schedule
sets one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Groups of weights, as torch has them -> what moves them.
Optimiser = Callable[[list[dict[str, Any]]], Optimizer]

#: Share of the last step that the next one goes on with; what is usual.
_MOMENTUM = 0.9
#: Steps that are remembered of the curvature; torch's own uses 100, Nocedal and Wright 3 to 20.
_MEMORY = 10
#: Least curvature along a step, as a share of what its lengths allow: below it, the step says
#: nothing of the curvature that could be trusted.
_CURVED = 1e-6


class Plain(Optimizer):
    """An optimiser without what torch wraps around it in case somebody compiles it.

    The wrappers import torch's compiler when they are first called, though nothing here is
    compiled: a second or two of processor time, a folder among the temporary files, and a name in
    the environment. What they wrap is the same code.
    """

    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    add_param_group = inspect.unwrap(Optimizer.add_param_group)


class Adam(Plain, torch.optim.Adam):
    """torch's own, unwrapped."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class GradientDescent(Plain, torch.optim.SGD):
    """torch's own, unwrapped."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Kingma, Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv:1412.6980."""
    return Adam(groups, lr=0.0, foreach=True)


def adam_on_card(groups: list[dict[str, Any]]) -> Optimizer:
    """Make the same with rates and counts as tensors on the graphics card: a graph reads them."""
    for group in groups:
        group["lr"] = torch.zeros((), device=group["params"][0].device)
    return Adam(groups, lr=0.0, foreach=True, capturable=True)


def gradient_descent(groups: list[dict[str, Any]]) -> Optimizer:
    """Go down the gradient, with momentum."""
    return GradientDescent(groups, lr=0.0, momentum=_MOMENTUM, foreach=True)


def limited_memory(groups: list[dict[str, Any]]) -> Optimizer:
    """L-BFGS without a line search: see `LimitedMemory`."""
    return LimitedMemory(groups)


class LimitedMemory(Plain):
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
            [(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in weights]
        )
        known = self.state[weights[0]]
        if known:
            _remember(known, gradient)
            direction = -_turned(known, gradient)
        else:
            direction = -gradient / gradient.norm().clamp(min=1)
            known["changes"] = gradient.new_zeros((_MEMORY, gradient.numel()))
            known["turns"] = torch.zeros_like(known["changes"])
            known["pairs"] = torch.zeros((), dtype=torch.int64)
        move = self.param_groups[0]["lr"] * direction
        known["gradient"], known["move"] = gradient, move
        counts = [weight.numel() for weight in weights]
        for weight, part in zip(weights, move.split(counts), strict=True):
            weight += part.view_as(weight)


def _remember(known: dict[str, Tensor], gradient: Tensor) -> None:
    """Keep how the gradient changed along the last step, newest last, if that is a curvature."""
    turn, move = gradient - known["gradient"], known["move"]
    if not float(turn @ move) > _CURVED * float(turn.norm() * move.norm()):
        return
    for name, newest in (("changes", move), ("turns", turn)):
        known[name] = torch.cat([known[name][1:], newest[None]])
    known["pairs"] = (known["pairs"] + 1).clamp(max=_MEMORY)


def _turned(known: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """Multiply a gradient by the inverse curvature that is remembered: two loops over the pairs."""
    count = int(known["pairs"])
    if not count:
        first: Tensor = gradient / gradient.norm().clamp(min=1)
        return first
    changes, turns = known["changes"][-count:], known["turns"][-count:]
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
