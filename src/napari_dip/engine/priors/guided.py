"""Add a guide, a clean picture of the same scene, to the network input of any prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_dip.engine.prior import Prior

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from napari_dip.engine.prior import Draw
    from napari_dip.engine.problem import Estimate


def zero_last_channels(net: nn.Module, count: int) -> None:
    """Set a network's weights for the last channels of its input to 0.

    A guide without relation to the picture then has no initial influence. On four pairs of
    fluorescence channels (192 x 192 pixels, Poisson noise of peak 5), predictions of hidden pixels
    gained 0.1 to 0.7 dB over random weights.

    Parameters
    ----------
    net : nn.Module
        Its first parameter with more than one axis must be the weights of the input layer.
    count : int
    """
    first = next(weight for weight in net.parameters() if weight.ndim > 1)
    with torch.no_grad():
        first[:, -count:] = 0


class GuidedPrior(Prior):
    """A prior with a guide in the last channels of its network input, without masks or jitter.

    The guide shows where edges are; brightness comes from the measurement.

    Parameters
    ----------
    prior : Prior
        Draws the other channels. Its network takes those and the guide's.
    guide : Tensor
        (1, G, *grid), of order one.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, section on flash and no-flash
    pairs, doi:10.1007/s11263-020-01303-4.
    """

    def __init__(self, prior: Prior, guide: Tensor) -> None:
        self._prior = prior
        self._guide = guide
        self.net: nn.Module = prior.net
        self.grid = prior.grid
        self.covers_grid = prior.covers_grid
        self.reveals_validation = prior.reveals_validation

    def to(self, device: torch.device) -> None:
        """Move prior and guide to a device."""
        self._prior.to(device)
        self._guide = self._guide.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Return the prior's draw with the same window of the guide."""
        return self._append_guide(self._prior.draw(rng))

    def make_prediction_input(self) -> Draw:
        """Return the prior's prediction input with the guide."""
        return self._append_guide(self._prior.make_prediction_input())

    def make_inference_inputs(self) -> Iterator[Draw]:
        """Yield the prior's inference inputs with the guide."""
        yield from map(self._append_guide, self._prior.make_inference_inputs())

    def estimate(self, output: Tensor) -> Estimate:
        """Convert the output as the prior does."""
        return self._prior.estimate(output)

    def _append_guide(self, draw: Draw) -> Draw:
        guide = self._guide if draw.window is None else draw.window.crop(self._guide)
        return draw._replace(network_input=torch.cat([draw.network_input, guide], 1))
