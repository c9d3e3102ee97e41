"""Priors for the inversion of features: within the network's range, or with no network at all.

The problem of inverting features: explain what a layer answers, and no pixel.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.likelihood.fidelity import least_squares
from napari_dip.engine.prior import Prior
from napari_dip.engine.problem import Estimate, Problem, Term

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.engine.prior import Draw
    from napari_dip.engine.problem import Penalty


class PixelParameters(nn.Module):
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


class BoundedRangePrior(Prior):
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


class UnmeasuredIdentity(nn.Module):
    """The picture itself, of which no pixel counts: only activations are to be explained.

    Parameters
    ----------
    middle : Tensor
        (1, C, 1, 1): mean of the image.
    """

    def __init__(self, middle: Tensor) -> None:
        super().__init__()
        self.register_buffer("middle", middle)

    def forward(self, image: Tensor) -> Tensor:
        """Give the picture back."""
        return image

    def detected(self, image: Tensor) -> Tensor:
        """Give the picture at the mean of the image.

        Results are put back to the mean of the image by what differs between the two. Here that
        would be to look at pixels, so that nothing differs.
        """
        return image + self.get_buffer("middle") - image.mean((2, 3), keepdim=True)


def make_feature_inversion_problem(
    image: Tensor, operator: nn.Module, penalties: tuple[tuple[float, Penalty], ...]
) -> Problem | None:
    """Ask for a picture to which a network's layer answers as to the image.

    Squared residuals are divided by the mean square of the answer. So the loss is 1 for a picture
    that the layer does not answer to, at each layer of each network, and one weight of a penalty
    does for all.

    Parameters
    ----------
    image : Tensor
        (1, C, Y, X), in network units.
    operator : nn.Module
        (1, C, Y, X) -> (1, K, h, w): the layer's answer.
    penalties : tuple of (weight, Penalty)

    Returns
    -------
    Problem or None
        None if the layer answers with zeros only, or with what is no number.

    References
    ----------
    Mahendran, Vedaldi, Understanding deep image representations by inverting them, CVPR 2015,
    doi:10.1109/CVPR.2015.7299155.
    """
    with torch.no_grad():
        activations = operator(image)
    unit = float(activations.square().mean())
    if not (isfinite(unit) and unit > 0):
        return None
    nothing, all_of_it = torch.zeros_like(image[:, :1]), torch.ones_like(activations[:, :1])
    # the first term stands for the picture's own grid, which the loop, preview and report go by
    pixels = Term(
        measurement=torch.zeros_like(image),
        operator=UnmeasuredIdentity(image.mean((2, 3), keepdim=True)),
        fidelity=least_squares(1.0),
        likelihood=least_squares(1.0),
        fitted=nothing,
        held_out=nothing,
        measured=nothing,
    )
    features = Term(
        measurement=activations,
        operator=operator,
        fidelity=least_squares(unit),
        likelihood=least_squares(unit),
        fitted=all_of_it,
        held_out=torch.zeros_like(all_of_it),
        measured=all_of_it,
    )
    # no pixel judges how far the spread of the outputs is right
    return Problem(
        terms=(pixels, features), penalties=penalties, on_grid=lambda item: Estimate(item.mean)
    )
