"""From a design to a network with its code."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import torch

from napari_dip.engine.architectures import CoarseCode, Decoder, DeepDecoder, grids_of
from napari_dip.engine.networks import Hourglass
from napari_dip.engine.optimisers import adam, gradient_descent, limited_memory
from napari_dip.engine.prior import NoiseCode
from napari_dip.engine.upsampling import nearest, smooth, transposed
from napari_dip.tasks.noise_code import CHANNELS, RANGE

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.engine.optimisers import Optimiser
    from napari_dip.engine.prior import Prior
    from napari_dip.explore.designs import Design

    Grid = tuple[int, ...]


class Moved(NamedTuple):
    """An optimiser, and the longest gradient that it is given."""

    make: Optimiser
    clip: float


UPSAMPLINGS = {"bilinear": smooth, "nearest": nearest, "transposed": transposed}
#: A gradient that was cut short would tell L-BFGS a curvature that is none.
OPTIMISERS = {
    "adam": Moved(adam, 1.0),
    "sgd": Moved(gradient_descent, 1.0),
    "l-bfgs": Moved(limited_memory, inf),
}


def built(design: Design, grid: Grid, rng: torch.Generator) -> Prior:
    """Make the network and then its code, as the fixed-noise code does.

    Parameters
    ----------
    design : Design
    grid : tuple of int
        Size of the picture.
    rng : torch.Generator
        Draws weights and code.
    """
    if design.structure == "hourglass":
        channels = len(grid) if design.code == "coordinates" else CHANNELS
        net = Hourglass(
            len(grid),
            channels,
            1,
            design.widths,
            skip=design.skip,
            normalised=True,
            rng=rng,
            even=design.weights == "He",
            upsampling=UPSAMPLINGS[design.upsampling],
        )
        return NoiseCode(net, _code(design, channels, grid, rng), 0.0)
    coarse = grids_of(grid, len(design.widths))[-1]
    if design.structure == "decoder":
        upsampling = UPSAMPLINGS[design.upsampling]
        decoder = Decoder(grid, CHANNELS, 1, design.widths, rng=rng, upsampling=upsampling)
        return CoarseCode(decoder, _code(design, CHANNELS, coarse, rng), grid)
    width = design.widths[0]
    deep = DeepDecoder(grid, 1, width, len(design.widths), rng=rng)
    return CoarseCode(deep, _code(design, width, coarse, rng), grid)


def weights_of(design: Design, grid: Grid) -> int:
    """Count the weights that are fitted."""
    net = built(design, grid, torch.Generator().manual_seed(0)).net
    return sum(weight.numel() for weight in net.parameters())


def _code(design: Design, channels: int, grid: Grid, rng: torch.Generator) -> Tensor:
    """Draw, or lay out, what the network is fed with: (1, channels, *grid)."""
    if design.code == "coordinates":
        axes = [torch.linspace(0, 1, count) for count in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    code = torch.empty(1, channels, *grid)
    if design.code == "Gaussian":
        return code.normal_(0, RANGE, generator=rng)
    return code.uniform_(0, RANGE, generator=rng)
