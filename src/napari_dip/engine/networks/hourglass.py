"""Networks whose structure is the prior.

Hourglass after Ulyanov, Vedaldi, Lempitsky, Deep Image Prior (2018), with full-resolution
layers much narrower than theirs: there the time goes, and little of the quality.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_dip.engine.networks.inference_tiles import compute_hourglass_receptive_field
from napari_dip.engine.networks.layers import (
    AVERAGE_POOLS,
    BATCH_NORMS,
    LEAKY_SLOPE,
    InterpolationUpsampling,
    Upsampling,
    make_convolution,
    make_linear_upsampling,
)

#: Scale of each residual block's last weights at the start, so that a chain begins near its input.
_RESIDUAL_SCALE = 0.3


class Hourglass(nn.Module):
    """Encoder, decoder and skips; any grid, any size.

    Parameters
    ----------
    dims : int
        2 or 3.
    channels_in, channels_out : int
    widths : tuple of int
        Channels at each scale, finest first; each scale halves the grid.
    skip : int or None
        Channels that a skip passes on; None passes all, 0 none.
    normalised : bool
        Whether each layer's output is normalised per channel. The fixed-noise code needs it
        (its rate is 1e-2), an image-fed code must keep brightness and so does without.
    rng : torch.Generator
        Draws the weights.
    even : bool
        Whether each layer but the last passes on signals as strong, in the mean square, as it
        receives them. Else they fade by a factor of about 2.4 with each layer, as torch draws
        weights, and without normalisation learning what lies ten layers deep takes long.
    upsampling : Upsampling
        From each scale to the finer one.

    References
    ----------
    He, Zhang, Ren, Sun, Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        widths: tuple[int, ...],
        *,
        skip: int | None,
        normalised: bool,
        rng: torch.Generator,
        even: bool = False,
        upsampling: Upsampling = make_linear_upsampling,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.normalised = normalised

        def layer(before: int, after: int, size: int = 3) -> nn.Sequential:
            parts: list[nn.Module] = [make_convolution(dims, before, after, size, rng)]
            if normalised:
                parts.append(BATCH_NORMS[dims](after, track_running_stats=False))
            return nn.Sequential(*parts, nn.LeakyReLU(LEAKY_SLOPE, inplace=True))

        finest = widths[0]
        self.encoder = nn.ModuleList(
            nn.Sequential(layer(before, after), layer(after, after))
            if scale == 0
            else layer(before, after)
            for scale, (before, after) in enumerate(
                zip((channels_in, *widths), widths, strict=False)
            )
        )
        self.middle = layer(widths[-1], widths[-1])
        passed = [width if skip is None else skip for width in widths[:-1]]
        self.skips = nn.ModuleList(
            nn.Identity() if skip is None else layer(width, skip, 1) if skip else nn.Identity()
            for width in widths[:-1]
        )
        self.passes = skip != 0
        self.decoder = nn.ModuleList(
            layer(coarser + through, finer)
            for finer, coarser, through in zip(widths[:-1], widths[1:], passed, strict=True)
        )
        self.last = layer(finest, finest)
        self.head = make_convolution(dims, finest, channels_out, 1, rng)
        self.upsampling = nn.ModuleList(upsampling(dims, coarser, rng) for coarser in widths[1:])
        if even:
            self._begin_even(rng)
        if (
            not normalised
        ):  # start from the mean picture, so the first steps are not spent on offset
            self.begin_at_zero()

    @property
    def grain(self) -> int:
        """How many pixels wide one of the coarsest grid is."""
        return int(2 ** (len(self.encoder) - 1))

    @property
    def reach(self) -> int | None:
        """Count the pixels that it sees to each side; None where normalised layers see them all."""
        if self.normalised or not all(
            isinstance(item, InterpolationUpsampling) for item in self.upsampling
        ):
            return None
        return compute_hourglass_receptive_field(len(self.encoder))

    def begin_at_zero(self) -> None:
        """Let the first output be 0 everywhere."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def _begin_even(self, rng: torch.Generator) -> None:
        """Draw all weights but the head's anew, for signals that do not fade."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, generator=rng)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, code: Tensor) -> Tensor:
        """(B, channels_in, *grid) -> (B, channels_out, *grid)."""
        features = []
        flow = code
        for scale, layer in enumerate(self.encoder):
            if scale:
                flow = AVERAGE_POOLS[self.dims](
                    flow, _compute_pooling_factors(flow.shape[2:]), ceil_mode=True
                )
            flow = layer(flow)
            features.append(flow)
        flow = self.middle(flow)
        for scale in reversed(range(len(self.decoder))):
            size = features[scale].shape[2:]
            flow = self.upsampling[scale](flow, size)
            if self.passes:
                parts = [flow, self.skips[scale](features[scale])]
                for part in parts:
                    if part.requires_grad:
                        part.register_hook(_make_gradient_contiguous)
                flow = torch.cat(parts, 1)
            flow = self.decoder[scale](flow)
        return self.head(self.last(flow))  # type: ignore[no-any-return]


class ResidualChain(nn.Module):
    """Blocks of two layers at full resolution, each adding to what came in.

    Parameters
    ----------
    dims : int
        2 or 3.
    channels_in, channels_out : int
    width : int
        Channels of all layers.
    blocks : int
    rng : torch.Generator
        Draws the weights.

    References
    ----------
    Lim et al., Enhanced deep residual networks for single image super-resolution, CVPR workshops
    2017, arXiv:1707.02921: residual blocks without normalisation, scaled down.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        width: int,
        blocks: int,
        *,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.first = make_convolution(dims, channels_in, width, 3, rng)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                make_convolution(dims, width, width, 3, rng),
                nn.ReLU(inplace=True),
                make_convolution(dims, width, width, 3, rng),
            )
            for _ in range(blocks)
        )
        self.head = make_convolution(dims, width, channels_out, 3, rng)
        with torch.no_grad():
            for block in self.blocks:
                block[2].weight.mul_(_RESIDUAL_SCALE)  # type: ignore[index]
        nn.init.zeros_(self.head.weight)  # start from what is fed, with nothing to be changed
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, code: Tensor) -> Tensor:
        """(B, channels_in, *grid) -> (B, channels_out, *grid)."""
        flow = self.first(code)
        for block in self.blocks:
            flow = flow + block(flow)
        return self.head(flow)  # type: ignore[no-any-return]


class PlanewiseNetwork(nn.Module):
    """A network of two dimensions, applied to each plane of a stack.

    Parameters
    ----------
    net : nn.Module
        (B, D, Y, X) -> (B, K, Y, X).
    at_a_time : int
        Pixels that go through it at a time where nothing is learned.
    """

    def __init__(self, net: nn.Module, at_a_time: int) -> None:
        super().__init__()
        self.net = net
        self.at_a_time = at_a_time

    def forward(self, code: Tensor) -> Tensor:
        """(B, D, N, Y, X) -> (B, K, N, Y, X)."""
        batch, channels, count, *plane = code.shape
        planes = code.transpose(1, 2).reshape(batch * count, channels, *plane)
        planes = planes.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            facts = self.net(planes)
        else:
            parts = planes.split(max(1, self.at_a_time // (plane[0] * plane[1])))
            facts = torch.cat([self.net(part) for part in parts])
        return facts.reshape(batch, count, -1, *plane).transpose(1, 2)  # type: ignore[no-any-return]


def _make_gradient_contiguous(gradient: Tensor) -> Tensor:
    """Lay out a gradient as its tensor is.

    What comes back from a concatenation is a slice, for which going back through upsamplings and
    rectifiers of channels-last pictures takes up to 15 times as long (32 channels, 256 x 256, one
    core: 29 instead of 2 ms).
    """
    if gradient.ndim == 4:
        return gradient.contiguous(memory_format=torch.channels_last)
    return gradient.contiguous()


def _compute_pooling_factors(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Pool by two along each axis that keeps the two pixels which reflection at the border needs.

    Thin stacks keep their planes where the picture plane is still halved.
    """
    return tuple(2 if side > 2 else 1 for side in grid)
