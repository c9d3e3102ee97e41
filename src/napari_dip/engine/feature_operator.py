"""A frozen network as an operator: from a picture to the activations of one of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class FeatureOperator(nn.Module):
    """What a network's layer answers to a picture; nothing in it is fitted.

    Parameters
    ----------
    graph : nn.Module
        (B, channels, Y, X) as the network takes it -> activations of any shape, B first.
    zero, unit : Tensor
        (1, C, 1, 1): value of a picture that the network takes for 0, and what one of its units
        is, in network units of the fit.
    channels : int
        That the network takes: as many as the picture has; more than one for a grey picture,
        which is repeated; or one for a coloured one, which is averaged.
    mean, deviation : sequence of float
        Of the pictures that the network was trained on, one for each channel or one for all, in
        its own units: it takes (value - mean) / deviation.
    """

    def __init__(
        self,
        graph: nn.Module,
        zero: Tensor,
        unit: Tensor,
        channels: int,
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:
        super().__init__()
        self.graph = graph
        self.channels = channels
        self.register_buffer("zero", zero)
        self.register_buffer("unit", unit)
        self.register_buffer("mean", zero.new_tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("deviation", zero.new_tensor(deviation).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, K, h, w); activations that lie on no grid are (B, K, 1, 1)."""
        zero, unit = self.get_buffer("zero"), self.get_buffer("unit")
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        picture = (image - zero) / unit
        if picture.shape[1] > self.channels:
            picture = picture.mean(1, keepdim=True)
        picture = picture.expand(-1, self.channels, -1, -1)
        seen: Tensor = self.graph((picture - mean) / deviation)
        return seen if seen.ndim == 4 else seen.reshape(len(image), -1, 1, 1)
