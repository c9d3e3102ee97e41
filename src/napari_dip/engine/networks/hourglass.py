"""Define the networks: hourglass, residual chain, decoders, and a 2-D network for planes.

The hourglass follows Ulyanov, Vedaldi, Lempitsky, Deep Image Prior (2018). Its full-resolution
layers are much narrower, since they take most of the time and add little quality.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.constants import compute_hourglass_receptive_field
from napari_dip.engine.networks.layers import (
    AVERAGE_POOLS,
    BATCH_NORMS,
    LEAKY_SLOPE,
    LINEAR_MODES,
    InterpolationUpsampling,
    UpsamplingFactory,
    make_convolution,
    make_linear_upsampling,
)

#: Factor on the initial last weights of each residual block, so that a block is near the identity.
_RESIDUAL_SCALE = 0.3


def _make_layer(
    dims: int,
    in_width: int,
    out_width: int,
    size: int = 3,
    *,
    rng: torch.Generator,
    is_normalised: bool = True,
) -> nn.Sequential:
    """Return a convolution, a batch norm if there is to be one, and a leaky rectifier."""
    modules: list[nn.Module] = [make_convolution(dims, in_width, out_width, size, rng)]
    if is_normalised:
        modules.append(BATCH_NORMS[dims](out_width, track_running_stats=False))
    return nn.Sequential(*modules, nn.LeakyReLU(LEAKY_SLOPE, inplace=True))


class Hourglass(nn.Module):
    """Encoder and decoder with skip connections, for grids of any size.

    Parameters
    ----------
    dims : int
        2 or 3.
    in_channels, out_channels : int
    widths : tuple of int
        Channels at each scale, finest first; each scale halves the grid.
    skip_channels : int or None
        Channels of a skip connection; None: all, 0: no skip connections.
    is_normalised : bool
        Whether layers have a batch norm. A random input needs it (its learning rate is 1e-2); with
        an image as input there must be none, so that brightness is preserved.
    rng : torch.Generator
        Draws the weights.
    preserves_variance : bool
        Whether weights are initialised such that each layer but the last preserves the mean square
        of its input. With torch's own initialisation it falls by a factor of about 2.4 a layer,
        and deep layers without normalisation learn slowly.
    make_upsampling : UpsamplingFactory
        Factory of the upsampling from each scale to the finer one.
    sums_branches : bool
        Whether the decoder has `SummedBranches` instead of concatenations, which takes two thirds
        of the multiplications (docs/adr/0033-branches-are-summed.md). Skip connections then pass
        all channels.

    References
    ----------
    He, Zhang, Ren, Sun, Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...],
        *,
        skip_channels: int | None,
        is_normalised: bool,
        rng: torch.Generator,
        preserves_variance: bool = False,
        make_upsampling: UpsamplingFactory = make_linear_upsampling,
        sums_branches: bool = False,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.is_normalised = is_normalised
        self.sums_branches = sums_branches
        make_layer = partial(_make_layer, dims, rng=rng, is_normalised=is_normalised)
        finest = widths[0]
        self.encoder: nn.ModuleList = nn.ModuleList(
            nn.Sequential(make_layer(in_width, out_width), make_layer(out_width, out_width))
            if scale == 0
            else make_layer(in_width, out_width)
            for scale, (in_width, out_width) in enumerate(
                zip((in_channels, *widths), widths, strict=False)
            )
        )
        self.middle: nn.Sequential = make_layer(widths[-1], widths[-1])
        skip_widths = [width if skip_channels is None else skip_channels for width in widths[:-1]]
        self.skips: nn.ModuleList = nn.ModuleList(
            make_layer(width, skip_channels, 1) if skip_channels else nn.Identity()
            for width in widths[:-1]
        )
        self.has_skips: bool = skip_channels != 0
        self.decoder: nn.ModuleList = nn.ModuleList(
            SummedBranches(dims, finer, coarser, rng)
            if sums_branches
            else make_layer(coarser + skip_width, finer)
            for finer, coarser, skip_width in zip(widths[:-1], widths[1:], skip_widths, strict=True)
        )
        self.last: nn.Sequential = make_layer(finest, finest)
        self.head: nn.Conv2d | nn.Conv3d = make_convolution(dims, finest, out_channels, 1, rng)
        self.upsampling: nn.ModuleList = nn.ModuleList(
            make_upsampling(dims, coarser, rng) for coarser in widths[1:]
        )
        if preserves_variance:
            self._initialise_weights(rng)
        if (
            not is_normalised
        ):  # the first output is the mean image, so no steps are needed for the offset
            self.zero_head()

    @property
    def coarsest_stride(self) -> int:
        """Size of a pixel of the coarsest scale, in pixels of the input."""
        return int(2 ** (len(self.encoder) - 1))

    @property
    def receptive_field_radius(self) -> int | None:
        """Radius of the receptive field in pixels; None if it is unbounded or unknown."""
        if self.is_normalised or not all(
            isinstance(item, InterpolationUpsampling) for item in self.upsampling
        ):
            return None
        return compute_hourglass_receptive_field(
            len(self.encoder), sums_branches=self.sums_branches
        )

    def zero_head(self) -> None:
        """Set the last layer to 0, so that the first output is 0 everywhere."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def _initialise_weights(self, rng: torch.Generator) -> None:
        """Draw all weights but the head's such that layers preserve the mean square."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, generator=rng)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for layer in self.decoder:
            if isinstance(layer, SummedBranches):
                layer.halve_mean_square()

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, in_channels, *grid) to (B, out_channels, *grid)."""
        features = []
        x = network_input
        for scale, layer in enumerate(self.encoder):
            if scale:
                # Reflection at the border needs two pixels. Thin stacks keep their planes while Y
                # and X are halved.
                factors = tuple(2 if side > 2 else 1 for side in x.shape[2:])
                x = AVERAGE_POOLS[self.dims](x, factors, ceil_mode=True)
            x = layer(x)
            features.append(x)
        x = self.middle(x)
        for scale in reversed(range(len(self.decoder))):
            if self.sums_branches:
                x = self.decoder[scale](x, features[scale], self.upsampling[scale])
                continue
            size = features[scale].shape[2:]
            x = self.upsampling[scale](x, size)
            if self.has_skips:
                branches = [x, self.skips[scale](features[scale])]
                for branch in branches:
                    if branch.requires_grad:
                        branch.register_hook(_make_gradient_contiguous)
                x = torch.cat(branches, 1)
            x = self.decoder[scale](x)
        return self.head(self.last(x))  # type: ignore[no-any-return]


class SummedBranches(nn.Module):
    """Layer of a decoder that convolves coarser features and those of the skip connection.

    The convolution of concatenated channels is a sum of two. Here, that of the coarser features is
    computed before they are upsampled, on a quarter of the pixels of a plane.

    Parameters
    ----------
    dims : int
        2 or 3.
    width, coarser_width : int
        Channels of the skip connection and of the output, and of the coarser features.
    rng : torch.Generator
        Draws the weights.
    """

    def __init__(self, dims: int, width: int, coarser_width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.coarser = make_convolution(dims, coarser_width, width, 3, rng)
        self.skip = make_convolution(dims, width, width, 3, rng)

    def halve_mean_square(self) -> None:
        """Scale the weights such that the sum of both has the mean square of one."""
        with torch.no_grad():
            for convolution in (self.coarser, self.skip):
                convolution.weight.mul_(sqrt(0.5))

    def forward(self, coarser: Tensor, features: Tensor, upsample: nn.Module) -> Tensor:
        """Map (B, coarser_width, *coarse) and (B, width, *grid) to (B, width, *grid)."""
        upsampled: Tensor = upsample(self.coarser(coarser), features.shape[2:])
        return F.leaky_relu_(self.skip(features).add_(upsampled), LEAKY_SLOPE)


class ResidualChain(nn.Module):
    """Chain of residual blocks of two layers each, at full resolution.

    Parameters
    ----------
    dims : int
        2 or 3.
    in_channels, out_channels : int
    width : int
        Channels of all layers.
    block_count : int
    rng : torch.Generator
        Draws the weights.

    References
    ----------
    Lim et al., Enhanced deep residual networks for single image super-resolution, CVPR workshops
    2017, arXiv:1707.02921 (residual blocks without normalisation, scaled down).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        width: int,
        block_count: int,
        *,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.first: nn.Conv2d | nn.Conv3d = make_convolution(dims, in_channels, width, 3, rng)
        self.blocks: nn.ModuleList = nn.ModuleList(
            nn.Sequential(
                make_convolution(dims, width, width, 3, rng),
                nn.ReLU(inplace=True),
                make_convolution(dims, width, width, 3, rng),
            )
            for _ in range(block_count)
        )
        self.head: nn.Conv2d | nn.Conv3d = make_convolution(dims, width, out_channels, 3, rng)
        with torch.no_grad():
            for block in self.blocks:
                block[2].weight.mul_(_RESIDUAL_SCALE)  # type: ignore[index]
        nn.init.zeros_(self.head.weight)  # the first output is 0
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, in_channels, *grid) to (B, out_channels, *grid)."""
        x = self.first(network_input)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


class UpsampledNetwork(nn.Module):
    """A network on a coarser grid than its output's, which is interpolated linearly.

    Parameters
    ----------
    network : nn.Module
    grid : tuple of int
        Size of the output.
    """

    def __init__(self, network: nn.Module, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.grid = grid
        self._upsample = InterpolationUpsampling(LINEAR_MODES[len(grid)])

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, D, *coarse) to (B, C, *grid)."""
        return self._upsample(self.network(network_input), self.grid)  # type: ignore[no-any-return]


def compute_scale_grids(grid: tuple[int, ...], scale_count: int) -> tuple[tuple[int, ...], ...]:
    """Return the sizes of a grid and of its coarser scales, finest first."""
    grids = [grid]
    for _ in range(scale_count - 1):
        grids.append(tuple(-(-side // 2) if side > 2 else side for side in grids[-1]))
    return tuple(grids)


class Decoder(nn.Module):
    """The decoder half of an hourglass: at each scale, upsampling and convolution.

    Parameters
    ----------
    grid : tuple of int
        Of the image.
    in_channels, out_channels : int
    widths : tuple of int
        Channels at each scale, finest first; the network input is on the coarsest grid.
    make_upsampling : UpsamplingFactory
    rng : torch.Generator
        Draws the weights.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...],
        *,
        rng: torch.Generator,
        make_upsampling: UpsamplingFactory = make_linear_upsampling,
    ) -> None:
        super().__init__()
        dims = len(grid)
        self.grids: tuple[tuple[int, ...], ...] = compute_scale_grids(grid, len(widths))
        make_layer = partial(_make_layer, dims, rng=rng)
        self.first: nn.Sequential = make_layer(in_channels, widths[-1])
        width_pairs = list(pairwise(widths))
        self.decoder: nn.ModuleList = nn.ModuleList(
            make_layer(coarser, finer) for finer, coarser in width_pairs
        )
        self.last: nn.Sequential = make_layer(widths[0], widths[0])
        self.head: nn.Conv2d | nn.Conv3d = make_convolution(dims, widths[0], out_channels, 1, rng)
        self.upsampling: nn.ModuleList = nn.ModuleList(
            make_upsampling(dims, coarser, rng) for _, coarser in width_pairs
        )

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, in_channels, *coarsest) to (B, out_channels, *grid)."""
        x = self.first(network_input)
        for scale in reversed(range(len(self.decoder))):
            x = self.decoder[scale](self.upsampling[scale](x, self.grids[scale]))
        return self.head(self.last(x))  # type: ignore[no-any-return]


class DeepDecoder(nn.Module):
    """Deep decoder: 1 x 1 convolutions and upsampling, which alone couples neighbouring pixels.

    A narrow one has fewer weights than the image has pixels, so that it cannot fit noise. The
    final sigmoid of the reference is omitted, since a standardised image has no bounds.

    Parameters
    ----------
    grid : tuple of int
        Of the image.
    out_channels : int
    width : int
        Channels of all layers, and of the network input.
    scale_count : int
        The network input is on the coarsest scale.
    make_upsampling : UpsamplingFactory
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
        grid: tuple[int, ...],
        out_channels: int,
        width: int,
        scale_count: int,
        *,
        rng: torch.Generator,
        make_upsampling: UpsamplingFactory = make_linear_upsampling,
    ) -> None:
        super().__init__()
        dims = len(grid)
        self.grids: tuple[tuple[int, ...], ...] = compute_scale_grids(grid, scale_count)
        self.mixing: nn.ModuleList = nn.ModuleList(
            make_convolution(dims, width, width, 1, rng) for _ in range(scale_count - 1)
        )
        self.norms: nn.ModuleList = nn.ModuleList(
            BATCH_NORMS[dims](width, track_running_stats=False) for _ in range(scale_count - 1)
        )
        self.upsampling: nn.Module = make_upsampling(dims, width, rng)
        self.head: nn.Conv2d | nn.Conv3d = make_convolution(dims, width, out_channels, 1, rng)

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, width, *coarsest) to (B, out_channels, *grid)."""
        x = network_input
        finer = reversed(self.grids[:-1])
        for size, mixing, norm in zip(finer, self.mixing, self.norms, strict=True):
            x = norm(torch.relu(self.upsampling(mixing(x), size)))
        return self.head(x)  # type: ignore[no-any-return]


class PlanewiseNetwork(nn.Module):
    """A 2-D network applied to each plane of a stack.

    Parameters
    ----------
    network : nn.Module
        (B, D, Y, X) -> (B, K, Y, X).
    max_pixels : int
        Largest number of pixels in one pass without gradients.
    """

    def __init__(self, network: nn.Module, max_pixels: int) -> None:
        super().__init__()
        self.net = network  # this name is part of the keys of saved weights
        self.max_pixels = max_pixels

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, D, N, Y, X) to (B, K, N, Y, X)."""
        batch, channels, count, *plane = network_input.shape
        planes = network_input.transpose(1, 2).reshape(batch * count, channels, *plane)
        planes = planes.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            maps = self.net(planes)
        else:
            batches = planes.split(max(1, self.max_pixels // (plane[0] * plane[1])))
            maps = torch.cat([self.net(group) for group in batches])
        return maps.reshape(batch, count, -1, *plane).transpose(1, 2)  # type: ignore[no-any-return]


def _make_gradient_contiguous(gradient: Tensor) -> Tensor:
    """Return a gradient with the memory layout of its tensor.

    The gradient of a concatenation is a slice. With it, the backward pass of upsampling and
    rectifiers with channels last takes up to 15 times as long (32 channels, 256 x 256, one core:
    29 ms instead of 2 ms).
    """
    if gradient.ndim == 4:
        return gradient.contiguous(memory_format=torch.channels_last)
    return gradient.contiguous()
