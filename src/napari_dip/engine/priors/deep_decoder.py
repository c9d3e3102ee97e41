"""Define decoder networks, from a coarse random input to the picture, for comparison of priors."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.networks.layers import (
    BATCH_NORMS,
    LEAKY_SLOPE,
    make_convolution,
    make_linear_upsampling,
)
from napari_dip.engine.prior import Draw, Prior
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.engine.networks.layers import Upsampling

Grid = tuple[int, ...]


def compute_scale_grids(grid: Grid, scales: int) -> tuple[Grid, ...]:
    """Return the sizes of a grid and of its coarser scales, finest first."""
    grids = [grid]
    for _ in range(scales - 1):
        grids.append(tuple(-(-side // 2) if side > 2 else side for side in grids[-1]))
    return tuple(grids)


class Decoder(nn.Module):
    """The decoder half of an hourglass: at each scale, upsampling and convolution.

    Parameters
    ----------
    grid : tuple of int
        Of the picture.
    channels_in, channels_out : int
    widths : tuple of int
        Channels at each scale, finest first; the network input is on the coarsest grid.
    upsampling : Upsampling
    rng : torch.Generator
        Draws the weights.
    """

    def __init__(
        self,
        grid: Grid,
        channels_in: int,
        channels_out: int,
        widths: tuple[int, ...],
        *,
        rng: torch.Generator,
        upsampling: Upsampling = make_linear_upsampling,
    ) -> None:
        super().__init__()
        dims = len(grid)
        self.grids = compute_scale_grids(grid, len(widths))

        def layer(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(
                make_convolution(dims, before, after, 3, rng),
                BATCH_NORMS[dims](after, track_running_stats=False),
                nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
            )

        self.first = layer(channels_in, widths[-1])
        pairs = list(pairwise(widths))
        self.decoder = nn.ModuleList(layer(coarser, finer) for finer, coarser in pairs)
        self.last = layer(widths[0], widths[0])
        self.head = make_convolution(dims, widths[0], channels_out, 1, rng)
        self.upsampling = nn.ModuleList(upsampling(dims, coarser, rng) for _, coarser in pairs)

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, channels_in, *coarsest) to (B, channels_out, *grid)."""
        flow = self.first(network_input)
        for scale in reversed(range(len(self.decoder))):
            flow = self.decoder[scale](self.upsampling[scale](flow, self.grids[scale]))
        return self.head(self.last(flow))  # type: ignore[no-any-return]


class DeepDecoder(nn.Module):
    """Deep decoder: 1 x 1 convolutions and upsampling, which alone couples neighbouring pixels.

    A narrow one has fewer weights than the picture has pixels, so that it cannot fit noise. The
    final sigmoid of the reference is omitted, since a standardised picture has no bounds.

    Parameters
    ----------
    grid : tuple of int
        Of the picture.
    channels_out : int
    width : int
        Channels of all layers, and of the network input.
    scales : int
        Number of scales; the network input is on the coarsest.
    upsampling : Upsampling
        Factory of the layer that is used at all scales.
    rng : torch.Generator
        Draws the weights.

    References
    ----------
    Heckel, Hand, Deep decoder: concise image representations from untrained non-convolutional
    networks, ICLR 2019, arXiv:1810.03982.
    """

    def __init__(
        self,
        grid: Grid,
        channels_out: int,
        width: int,
        scales: int,
        *,
        rng: torch.Generator,
        upsampling: Upsampling = make_linear_upsampling,
    ) -> None:
        super().__init__()
        dims = len(grid)
        self.grids = compute_scale_grids(grid, scales)
        self.mixing = nn.ModuleList(
            make_convolution(dims, width, width, 1, rng) for _ in range(scales - 1)
        )
        self.norms = nn.ModuleList(
            BATCH_NORMS[dims](width, track_running_stats=False) for _ in range(scales - 1)
        )
        self.upsampling = upsampling(dims, width, rng)
        self.head = make_convolution(dims, width, channels_out, 1, rng)

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, width, *coarsest) to (B, channels_out, *grid)."""
        flow = network_input
        finer = reversed(self.grids[:-1])
        for size, mixing, norm in zip(finer, self.mixing, self.norms, strict=True):
            flow = norm(torch.relu(self.upsampling(mixing(flow), size)))
        return self.head(flow)  # type: ignore[no-any-return]


class CoarseInputPrior(Prior):
    """Fixed random input on a coarser grid than the picture, without jitter.

    Parameters
    ----------
    net : nn.Module
        (1, D, *coarse) -> (1, C, *grid).
    random_input : Tensor
        (1, D, *coarse), drawn once.
    grid : tuple of int
        Of the picture.
    """

    covers_grid = True

    def __init__(self, net: nn.Module, random_input: Tensor, grid: Grid) -> None:
        self.net = net
        self.random_input = random_input
        self.grid = grid

    def to(self, device: torch.device) -> None:
        """Move network and random input to a device."""
        self.net.to(device)
        self.random_input = self.random_input.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Return the random input; no pixel is masked."""
        return Draw(self.random_input)

    def make_prediction_input(self) -> Draw:
        """Return the random input."""
        return Draw(self.random_input)

    def make_inference_inputs(self) -> Iterator[Draw]:
        """Yield the one input that covers the grid."""
        yield self.make_prediction_input()

    def estimate(self, output: Tensor) -> Estimate:
        """Return the output as the picture, without a variance."""
        return Estimate(output)
