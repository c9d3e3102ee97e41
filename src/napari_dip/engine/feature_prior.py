"""Priors for the inversion of features: within the network's range, or with no network at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.prior import Prior
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.engine.prior import Draw


class Pixels(nn.Module):
    """No network: each pixel is a weight of its own, whatever the code.

    Parameters
    ----------
    channels : int
    grid : tuple of int
    spread : float
        Standard deviation of the pixels at the start, around 0.
    rng : torch.Generator
    """

    def __init__(
        self, channels: int, grid: tuple[int, ...], spread: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        start = torch.empty(1, channels, *grid).normal_(0, spread, generator=rng)
        self.pixels = nn.Parameter(start)

    def forward(self, code: Tensor) -> Tensor:
        """Give the pixels; the code says nothing."""
        return self.pixels


class Within(Prior):
    """A prior whose picture stays between two values, as in the paper's inversion of features.

    Activations bind the brightness of a picture less and less as a layer lies deeper; what the
    network can be shown at all lies within its range.

    Parameters
    ----------
    prior : Prior
    low, high : Tensor
        (1, C, 1, ...), in network units.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4.
    """

    def __init__(self, prior: Prior, low: Tensor, high: Tensor) -> None:
        self._prior = prior
        self._low, self._high = low, high
        self.net: nn.Module = prior.net
        self.grid = prior.grid
        self.covers_grid = prior.covers_grid

    def to(self, device: torch.device) -> None:
        """Move the prior and the range."""
        self._prior.to(device)
        self._low, self._high = self._low.to(device), self._high.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Draw as the prior does."""
        return self._prior.draw(rng)

    def glance(self) -> Draw:
        """Show the whole grid, as the prior does."""
        return self._prior.glance()

    def sweep(self) -> Iterator[Draw]:
        """Cover the grid, as the prior does."""
        yield from self._prior.sweep()

    def estimate(self, output: Tensor) -> Estimate:
        """Read the output through a sigmoid; what it says of its variance is left out."""
        mean = self._prior.estimate(output).mean
        return Estimate(self._low + (self._high - self._low) * torch.sigmoid(mean))
