"""A further picture of the same scene, shown to the network beside whatever it is fed."""

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
    """Let a network begin deaf to the last channels of its code: they must earn their weight.

    A guide that means nothing is then noise that the fit has never listened to. On four pairs of
    fluorescence channels (192 x 192 pixels, Poisson noise of peak 5) the prediction of hidden
    pixels gained 0.1 to 0.7 dB over random weights.

    Parameters
    ----------
    net : nn.Module
        Its first parameter with more than one axis is the layer that sees the code.
    count : int
    """
    first = next(weight for weight in net.parameters() if weight.ndim > 1)
    with torch.no_grad():
        first[:, -count:] = 0


class GuidedPrior(Prior):
    """A prior whose code carries a guide in its last channels, never hidden and never jittered.

    The guide may tell where edges are; how bright the picture is, the measurement must tell.

    Parameters
    ----------
    prior : Prior
        Draws the rest of the code; its network takes as many channels more as the guide has.
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
        self.reveals = prior.reveals

    def to(self, device: torch.device) -> None:
        """Move the prior and the guide."""
        self._prior.to(device)
        self._guide = self._guide.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Draw as the prior does, with the same part of the guide beside it."""
        return self._append_guide(self._prior.draw(rng))

    def glance(self) -> Draw:
        """Show the whole grid, as the prior does."""
        return self._append_guide(self._prior.glance())

    def sweep(self) -> Iterator[Draw]:
        """Cover the grid, as the prior does."""
        yield from map(self._append_guide, self._prior.sweep())

    def estimate(self, output: Tensor) -> Estimate:
        """Read the output, as the prior does."""
        return self._prior.estimate(output)

    def _append_guide(self, draw: Draw) -> Draw:
        guide = self._guide if draw.window is None else draw.window.of(self._guide)
        return draw._replace(code=torch.cat([draw.code, guide], 1))
