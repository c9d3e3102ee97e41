"""Operators: from the picture to what the detector saw of it."""

from __future__ import annotations

from torch import Tensor, nn


class Identity(nn.Module):
    """The detector saw the picture itself, plus noise."""

    def forward(self, image: Tensor) -> Tensor:
        """Give the image back."""
        return image
