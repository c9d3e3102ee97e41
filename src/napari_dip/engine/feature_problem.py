"""The problem of inverting features: explain what a layer answers, and no pixel."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_dip.engine.fidelity import squares
from napari_dip.engine.problem import Estimate, Problem, Term

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.engine.problem import Penalty


class Unmeasured(nn.Module):
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


def features_problem(
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
        asked = operator(image)
    unit = float(asked.square().mean())
    if not (isfinite(unit) and unit > 0):
        return None
    nothing, all_of_it = torch.zeros_like(image[:, :1]), torch.ones_like(asked[:, :1])
    # the first term stands for the picture's own grid, which the loop, preview and report go by
    pixels = Term(
        torch.zeros_like(image),
        Unmeasured(image.mean((2, 3), keepdim=True)),
        squares(1.0),
        squares(1.0),
        fitted=nothing,
        held_out=nothing,
        measured=nothing,
    )
    features = Term(
        asked,
        operator,
        squares(unit),
        squares(unit),
        fitted=all_of_it,
        held_out=torch.zeros_like(all_of_it),
        measured=all_of_it,
    )
    # no pixel judges how far the spread of the outputs is right
    return Problem((pixels, features), penalties, on_grid=lambda one: Estimate(one.mean))
