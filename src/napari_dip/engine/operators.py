"""Operators: from the picture to what the detector saw of it.

The plain ones are here; `resampling` makes pixels coarser, `convolution` blurs with a known
kernel and `learned_blur` with one of `kernels` that is fitted along with the network.
"""

from __future__ import annotations

from torch import Tensor, nn


class Identity(nn.Module):
    """The detector saw the picture itself, plus noise."""

    def forward(self, image: Tensor) -> Tensor:
        """Give the image back."""
        return image


class Chain(nn.Module):
    """One operator after the other: first the optics, then the detector's pixels.

    Parameters
    ----------
    *operators : nn.Module
        In the order in which they happened.
    """

    def __init__(self, *operators: nn.Module) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, *measured) of the last operator."""
        for operator in self.operators:
            image = operator(image)
        return image
