"""Layers of networks: convolutions that continue the picture at its border by reflection.

How a network goes from a coarse grid to a finer one; each has frequencies that it favours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import ceil, exp, isfinite, prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Up to that product of the first four sizes torch 2 leaves a volume's convolution to code of its
#: own, 2 to 7 times slower than the same taken as convolutions of planes (12 x 48 x 48, 16
#: channels, one core: 138 ms forward and back, 19 ms as planes).
_MAX_SLOW_SIZE = 20480
#: The layers of two and of three dimensions.
AVERAGE_POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}
BATCH_NORMS: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
#: Slope of the leaky rectifier, as in the U-Net of Laine et al. 2019, arXiv:1901.10277.
LEAKY_SLOPE = 0.1


class VolumeConvolution(nn.Conv3d):
    """As `nn.Conv3d` without stride, faster for small volumes on a processor."""

    def _conv_forward(self, volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            volume = F.pad(volume, sides, mode=self.padding_mode)
        if volume.device.type != "cpu" or prod(volume.shape[:4]) > _MAX_SLOW_SIZE:
            return F.conv3d(volume, weight, bias)
        return _convolve_planewise(volume, weight, bias)


def _convolve_planewise(volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with the planes as a batch, the neighbours of each as further channels."""
    size, out = weight.shape[2], weight.shape[0]
    planes = volume.movedim(2, 1)  # (B, Z, C, Y, X)
    count = planes.shape[1] - size + 1
    near = torch.cat([planes[:, first : first + count] for first in range(size)], 2).flatten(0, 1)
    flat = weight.transpose(1, 2).reshape(out, -1, *weight.shape[3:])
    convolved: Tensor = F.conv2d(near, flat, bias).unflatten(0, (-1, count))
    return convolved.movedim(1, 2)


_CONVOLUTION_LAYERS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {
    2: nn.Conv2d,
    3: VolumeConvolution,
}


def make_convolution(
    dims: int, before: int, after: int, size: int, rng: torch.Generator
) -> nn.Conv2d | nn.Conv3d:
    """Reflect at the border, where zeros would draw a dark frame; weights from `rng` alone."""
    layer = nn.utils.skip_init(
        _CONVOLUTION_LAYERS[dims],
        before,
        after,
        size,
        padding=size // 2,
        padding_mode="reflect" if size > 1 else "zeros",
    )
    nn.init.kaiming_uniform_(layer.weight, a=sqrt(5), generator=rng)  # torch's own default
    bound = 1 / sqrt(before * size**dims)
    nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
    return layer  # type: ignore[no-any-return]


_LINEAR_MODES = {2: "bilinear", 3: "trilinear"}
_TRANSPOSED_LAYERS: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
#: Kernel of a transposed convolution: a multiple of the stride of 2, so that all pixels of the
#: finer grid are reached by as many weights (Odena, Dumoulin, Olah, Deconvolution and checkerboard
#: artifacts, Distill 2016, doi:10.23915/distill.00003).
_TRANSPOSED_KERNEL_SIDE = 4
#: Where a Gaussian kernel is cut, in standard deviations; never nearer than one coarse pixel. For
#: a width of 0.5 that is the kernel of 5 of Shi et al.
_GAUSSIAN_CUT_SIGMAS = 2
_TRANSPOSED_FUNCTIONS = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
#: (dims, channels, rng) -> module that takes (B, channels, *coarse) and the size of the finer grid.
Upsampling = Callable[[int, int, torch.Generator], nn.Module]


class InterpolationUpsampling(nn.Module):
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


class TransposedUpsampling(nn.Module):
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
        layer = _TRANSPOSED_LAYERS[dims]
        self.layer = nn.utils.skip_init(
            layer, channels, channels, _TRANSPOSED_KERNEL_SIDE, stride=2, padding=1
        )
        nn.init.kaiming_uniform_(self.layer.weight, a=5**0.5, generator=rng)  # torch's own default
        bound = 1 / (channels * _TRANSPOSED_KERNEL_SIDE**dims) ** 0.5
        nn.init.uniform_(self.layer.bias, -bound, bound, generator=rng)

    def forward(self, flow: Tensor, size: tuple[int, ...]) -> Tensor:
        """(B, C, *coarse) -> (B, C, *size), cut where twice the coarse grid is larger."""
        finer: Tensor = self.layer(flow)
        for axis, count in enumerate(size, start=2):
            finer = finer.narrow(axis, 0, count)
        return finer


class GaussianUpsampling(nn.Module):
    """Zeros put between the pixels, and all blurred by a fixed Gaussian: nothing is learned.

    Parameters
    ----------
    channels : int
    width : float
        Standard deviation in coarse pixels. Wider: smoother, and fine detail is learned later;
        from 0.2 down hardly more than the pixels themselves with zeros between.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, and the authors' code. Theirs sums to 1,
    so that what it passes on is weaker by the number of pixels that one becomes; here a constant
    keeps its strength. Beyond the border theirs sees zeros; here the border is repeated.
    """

    taps: Tensor

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        reach = max(1, ceil(_GAUSSIAN_CUT_SIGMAS * width))  # in coarse pixels
        steps = [step / 2 for step in range(-2 * reach, 2 * reach + 1)]
        taps = torch.tensor([exp(-0.5 * (step / width) ** 2) for step in steps])
        self.reach = reach
        self.channels = channels
        self.register_buffer("taps", 2 * taps / taps.sum())

    def forward(self, flow: Tensor, size: tuple[int, ...]) -> Tensor:
        """(B, C, *coarse) -> (B, C, *size), along axes that are no finer as it was."""
        doubled = [fine > coarse for fine, coarse in zip(size, flow.shape[2:], strict=True)]
        each = [self.taps if double else torch.ones_like(self.taps[:1]) for double in doubled]
        kernel = reduce(lambda item, other: item[..., None] * other, each)
        kernel = kernel.expand(self.channels, 1, *kernel.shape)
        sides = [self.reach * double for double in reversed(doubled) for _ in range(2)]
        flow = F.pad(flow, sides, mode="replicate")
        stride = [1 + double for double in doubled]
        finer: Tensor = _TRANSPOSED_FUNCTIONS[len(size)](
            flow, kernel, stride=stride, groups=self.channels
        )
        for axis, (count, double) in enumerate(zip(size, doubled, strict=True), start=2):
            finer = finer.narrow(axis, 4 * self.reach * double, count)
        return finer


def make_linear_upsampling(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Interpolate linearly along each axis."""
    return InterpolationUpsampling(_LINEAR_MODES[dims])


def make_nearest_upsampling(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Repeat each pixel."""
    return InterpolationUpsampling("nearest")


def make_transposed_upsampling(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Learn the kernel."""
    return TransposedUpsampling(dims, channels, rng)


def make_gaussian_upsampling(width: float) -> Upsampling:
    """Blur with a chosen width, in coarse pixels.

    Raises
    ------
    ValueError
        If the width is not above zero.
    """
    if not (width > 0 and isfinite(width)):
        raise ValueError(f"`width` must be above 0 coarse pixels, but is {width!r}.")

    def widened(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
        return GaussianUpsampling(channels, width)

    return widened
