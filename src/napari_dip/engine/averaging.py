"""Running averages: of outputs, pixel by pixel, or of weights; both corrected for their start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from napari_dip.engine.prior import Draw, Prior


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


def average_for(prior: Prior, shape: tuple[int, ...], decay: float, like: Tensor) -> Average:
    """Choose the average that the prior asks for."""
    if not prior.covers_grid:
        from copy import deepcopy

        return WeightAverage(prior.net, deepcopy(prior.net).requires_grad_(False), decay)
    return OutputAverage(prior.net, shape, decay, like)
