"""How a network goes from a coarse grid to a finer one; each has frequencies that it favours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SMOOTH = {2: "bilinear", 3: "trilinear"}
_TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
#: Kernel of a transposed convolution: a multiple of the stride of 2, so that all pixels of the
#: finer grid are reached by as many weights (Odena, Dumoulin, Olah, Deconvolution and checkerboard
#: artifacts, Distill 2016, doi:10.23915/distill.00003).
_KERNEL = 4

#: (dims, channels, rng) -> module that takes (B, channels, *coarse) and the size of the finer grid.
Upsampling = Callable[[int, int, torch.Generator], nn.Module]


class Interpolated(nn.Module):
    """A fixed kernel: nothing is learned.

    Parameters
    ----------
    mode : str
        As `torch.nn.functional.interpolate` calls it.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, flow: Tensor, size: tuple[int, ...]) -> Tensor:
        """(B, C, *coarse) -> (B, C, *size)."""
        corners = None if self.mode == "nearest" else False
        return F.interpolate(flow, size=size, mode=self.mode, align_corners=corners)


class Transposed(nn.Module):
    """A learned kernel, twice as fine.

    Parameters
    ----------
    dims : int
        2 or 3.
    channels : int
    rng : torch.Generator
        Draws the weights.
    """

    def __init__(self, dims: int, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        layer = _TRANSPOSED[dims]
        self.layer = nn.utils.skip_init(layer, channels, channels, _KERNEL, stride=2, padding=1)
        nn.init.kaiming_uniform_(self.layer.weight, a=5**0.5, generator=rng)  # torch's own default
        bound = 1 / (channels * _KERNEL**dims) ** 0.5
        nn.init.uniform_(self.layer.bias, -bound, bound, generator=rng)

    def forward(self, flow: Tensor, size: tuple[int, ...]) -> Tensor:
        """(B, C, *coarse) -> (B, C, *size), cut where twice the coarse grid is larger."""
        finer: Tensor = self.layer(flow)
        for axis, count in enumerate(size, start=2):
            finer = finer.narrow(axis, 0, count)
        return finer


def smooth(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Interpolate linearly along each axis."""
    return Interpolated(_SMOOTH[dims])


def nearest(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Repeat each pixel."""
    return Interpolated("nearest")


def transposed(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Learn the kernel."""
    return Transposed(dims, channels, rng)
