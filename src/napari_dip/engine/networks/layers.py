"""Define network layers: convolutions with reflecting borders, upsampling, and spectral norms.

Bounded spectral norms suppress fine detail, and with it noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import product
from math import ceil, exp, isfinite, prod, sqrt
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrize

#: Product of the first four sizes up to which torch 2 computes 3-D convolutions on the CPU 2 to 7
#: times slower than as convolutions of planes (docs/constants.md).
_MAX_SLOW_SIZE = 20480
#: Pixels in one product of a weight gradient: blocks of 2,048 and 4,096 took 106 and 104 ms for the
#: layers of R2R at 256 x 256, 1,024 took 120 ms, all at once 128 ms (one thread, AMD Zen 3).
_GRADIENT_BLOCK_PIXELS = 4096
#: Stride, padding, dilation, whether transposed, output padding and groups of a convolution of
#: stride 1 without padding.
_NO_STRIDE = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
#: Poolings and batch norms, by the number of axes.
AVERAGE_POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}
BATCH_NORMS: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
#: Slope of the leaky rectifier, as in the U-Net of Laine et al. 2019, arXiv:1901.10277.
LEAKY_SLOPE = 0.1
LayerT = TypeVar("LayerT", bound=nn.Module)

_CONVOLUTION_TYPES = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
LINEAR_MODES = {2: "bilinear", 3: "trilinear"}
_TRANSPOSED_LAYERS: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
#: Kernel side of a transposed convolution: a multiple of the stride of 2, so that each fine pixel
#: depends on as many weights (Odena et al. 2016, doi:10.23915/distill.00003).
_TRANSPOSED_KERNEL_SIDE = 4
#: Half width of a Gaussian kernel in standard deviations, and at least one coarse pixel. A width of
#: 0.5 has 5 values, as in Shi et al.
_GAUSSIAN_CUT_SIGMAS = 2
_TRANSPOSED_FUNCTIONS = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _BlockwiseGradient(torch.autograd.Function):
    """2-D convolution without stride or padding, with the weight gradient from matrix products."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve (B, C, Y, X) planes."""
        ctx.save_for_backward(planes, weight)
        return F.conv2d(planes, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the gradients of planes, weight and bias."""
        planes, weight = ctx.saved_tensors
        planes_gradient = None
        if ctx.needs_input_grad[0]:
            planes_gradient = torch.ops.aten.convolution_backward(
                gradient, planes, weight, None, *_NO_STRIDE, (True, False, False)
            )[0]
        return (
            planes_gradient,
            _compute_weight_gradient(planes, gradient, weight.shape),
            gradient.sum((0, 2, 3)),
        )


def _compute_weight_gradient(planes: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of a 2-D kernel, as sums of products of shifted pixels.

    Zeros at the end of each row and plane of the gradient let a shift of the kernel be a shift of
    the list of pixels. The list is multiplied in blocks that stay in the cache.
    """
    out_channels, in_channels, *kernel_size = shape
    batch, _, height, width = planes.shape
    padded = gradient.new_zeros(batch, height, width, out_channels)
    padded[:, : gradient.shape[2], : gradient.shape[3]] = gradient.movedim(1, -1)
    gradient_pixels = padded.view(-1, out_channels)
    pixels = planes.movedim(1, -1).reshape(-1, in_channels)
    shifts = [row * width + column for row, column in product(*map(range, kernel_size))]
    sums = gradient.new_zeros(len(shifts), out_channels, in_channels)
    for start in range(0, len(pixels) - shifts[-1], _GRADIENT_BLOCK_PIXELS):
        stop = min(start + _GRADIENT_BLOCK_PIXELS, len(pixels) - shifts[-1])
        block = gradient_pixels[start:stop].T
        for total, shift in zip(sums, shifts, strict=True):
            total.addmm_(block, pixels[start + shift : stop + shift])
    return sums.view(*kernel_size, out_channels, in_channels).permute(2, 3, 0, 1)


class PlaneConvolution(nn.Conv2d):
    """`nn.Conv2d` without stride whose training is faster on CPUs with AVX2 and without AVX-512."""

    def _conv_forward(self, planes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        is_slow = (
            weight.requires_grad
            and torch.is_grad_enabled()
            and planes.device.type == "cpu"
            and planes.dtype == torch.float32
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
        )
        if not is_slow:
            convolved: Tensor = super()._conv_forward(planes, weight, bias)
            return convolved
        if self.padding_mode != "zeros":
            planes = F.pad(planes, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        convolved = _BlockwiseGradient.apply(planes, weight, bias)  # type: ignore[no-untyped-call]
        return convolved


class VolumeConvolution(nn.Conv3d):
    """`nn.Conv3d` without stride that is faster for small volumes on the CPU."""

    def _conv_forward(self, volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            volume = F.pad(volume, sides, mode=self.padding_mode)
        if volume.device.type != "cpu" or prod(volume.shape[:4]) > _MAX_SLOW_SIZE:
            return F.conv3d(volume, weight, bias)
        return _convolve_planewise(volume, weight, bias)


def _convolve_planewise(volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve a volume in 2-D, with its planes as a batch and neighbouring planes as channels."""
    kernel_depth, out_channels = weight.shape[2], weight.shape[0]
    planes = volume.movedim(2, 1)  # (B, Z, C, Y, X)
    depth = planes.shape[1] - kernel_depth + 1
    neighbour_planes = torch.cat(
        [planes[:, start : start + depth] for start in range(kernel_depth)], 2
    ).flatten(0, 1)
    plane_weight = weight.transpose(1, 2).reshape(out_channels, -1, *weight.shape[3:])
    convolved: Tensor = F.conv2d(neighbour_planes, plane_weight, bias).unflatten(0, (-1, depth))
    return convolved.movedim(1, 2)


def make_without_init(kind: type[LayerT], *sizes: int, **settings: int | str) -> LayerT:
    """Return a layer whose parameters are allocated and not set.

    `nn.utils.skip_init` does the same, but its first use in a program loads sympy, for 0.7 s.

    Parameters
    ----------
    kind : type
        Class of the layer.
    *sizes, **settings
        Arguments of that class.
    """
    layer = kind(*sizes, device="meta", **settings)
    for name, parameter in layer.named_parameters():
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
    return layer


_CONVOLUTION_LAYERS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {
    2: PlaneConvolution,
    3: VolumeConvolution,
}


def make_convolution(
    dims: int, in_channels: int, out_channels: int, kernel_size: int, rng: torch.Generator
) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution with reflecting border and weights drawn from `rng` alone.

    Padding with zeros would cause a dark border.
    """
    layer = make_without_init(
        _CONVOLUTION_LAYERS[dims],
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        padding_mode="reflect" if kernel_size > 1 else "zeros",
    )
    _draw_weights(layer, in_channels * kernel_size**dims, rng)
    return layer


def _draw_weights(
    layer: nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    input_count: int,
    rng: torch.Generator,
) -> None:
    """Draw weights and bias as torch does by default, for that many inputs of a pixel."""
    nn.init.kaiming_uniform_(layer.weight, a=sqrt(5), generator=rng)
    bound = 1 / sqrt(input_count)
    assert layer.bias is not None
    nn.init.uniform_(layer.bias, -bound, bound, generator=rng)


#: (dims, channels, rng) -> module that takes (B, channels, *coarse) and the size of the finer grid.
UpsamplingFactory = Callable[[int, int, torch.Generator], nn.Module]


class InterpolationUpsampling(nn.Module):
    """Upsampling by interpolation.

    Parameters
    ----------
    mode : str
        Mode of `torch.nn.functional.interpolate`.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Map (B, C, *coarse) to (B, C, *size)."""
        corners = None if self.mode == "nearest" else False
        return F.interpolate(x, size=size, mode=self.mode, align_corners=corners)


class TransposedUpsampling(nn.Module):
    """Upsampling by two with a learned kernel.

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
        self.layer: nn.ConvTranspose2d | nn.ConvTranspose3d = make_without_init(
            _TRANSPOSED_LAYERS[dims],
            channels,
            channels,
            _TRANSPOSED_KERNEL_SIDE,
            stride=2,
            padding=1,
        )
        _draw_weights(self.layer, channels * _TRANSPOSED_KERNEL_SIDE**dims, rng)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Map (B, C, *coarse) to (B, C, *size), cropped where twice the coarse grid is larger."""
        finer: Tensor = self.layer(x)
        return finer[:, :, *map(slice, size)]


class GaussianUpsampling(nn.Module):
    """Upsampling by two with a fixed Gaussian kernel.

    Parameters
    ----------
    channels : int
    width : float
        Standard deviation in coarse pixels. The wider, the later fine detail is learned. At 0.2
        and below, the result is nearly the pixels themselves with zeros in between.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, and the authors' code. Their kernel sums
    to 1, which lowers the output by the upsampling factor; here a constant keeps its value. They
    pad with zeros; here the border is repeated.
    """

    taps: Tensor

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        radius = max(1, ceil(_GAUSSIAN_CUT_SIGMAS * width))  # in coarse pixels
        offsets = [index / 2 for index in range(-2 * radius, 2 * radius + 1)]
        taps = torch.tensor([exp(-0.5 * (offset / width) ** 2) for offset in offsets])
        self.radius = radius
        self.channels = channels
        self.register_buffer("taps", 2 * taps / taps.sum())

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Map (B, C, *coarse) to (B, C, *size); axes of equal size stay unchanged."""
        doubled = [fine > coarse for fine, coarse in zip(size, x.shape[2:], strict=True)]
        axis_kernels = [
            self.taps if is_doubled else torch.ones_like(self.taps[:1]) for is_doubled in doubled
        ]
        kernel = reduce(lambda outer, axis_kernel: outer[..., None] * axis_kernel, axis_kernels)
        kernel = kernel.expand(self.channels, 1, *kernel.shape)
        sides = [self.radius * is_doubled for is_doubled in reversed(doubled) for _ in range(2)]
        x = F.pad(x, sides, mode="replicate")
        stride = [1 + is_doubled for is_doubled in doubled]
        finer: Tensor = _TRANSPOSED_FUNCTIONS[len(size)](
            x, kernel, stride=stride, groups=self.channels
        )
        for axis, (count, is_doubled) in enumerate(zip(size, doubled, strict=True), start=2):
            finer = finer.narrow(axis, 4 * self.radius * is_doubled, count)
        return finer


def make_linear_upsampling(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Return linear interpolation along each axis."""
    return InterpolationUpsampling(LINEAR_MODES[dims])


def make_nearest_upsampling(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
    """Return nearest-neighbour interpolation."""
    return InterpolationUpsampling("nearest")


def make_gaussian_upsampling_factory(width: float) -> UpsamplingFactory:
    """Return a factory of Gaussian upsampling with a width in coarse pixels.

    Raises
    ------
    ValueError
        If the width is not above zero.
    """
    if not (width > 0 and isfinite(width)):
        raise ValueError(f"`width` must be above 0 coarse pixels, but is {width!r}.")

    def make_upsampling(dims: int, channels: int, rng: torch.Generator) -> nn.Module:
        return GaussianUpsampling(channels, width)

    return make_upsampling


def bound_spectral_norms(network: nn.Module, bound: float) -> None:
    """Bound all convolutions of a network but its last, and replace its batch norms.

    A batch norm divides by the standard deviation of each channel, which would undo the bound. It
    is replaced by one that changes means only. The last convolution stays unbounded, so that the
    image may have any range. Both are as in the authors' code.

    Parameters
    ----------
    network : nn.Module
        Changed in place; its last convolution is `network.head`.
    bound : float
        Upper bound of the largest singular value of the weights, as a matrix of output channels by
        all other axes. A lower bound gives less detail.

    Raises
    ------
    ValueError
        If the bound is not above zero.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, and the authors' code (`SpectralNorm`
    and `MeanOnlyBatchNorm` of their repository Measure-and-Control-Spectral-Bias).
    Salimans, Kingma, Weight normalization, NeurIPS 2016, arXiv:1602.07868 (mean-only batch norm).
    """
    if not (bound > 0 and isfinite(bound)):
        raise ValueError(f"`bound` must be above 0 and finite, but is {bound!r}.")
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, MeanOnlyBatchNorm(child.num_features))
            elif isinstance(child, _CONVOLUTION_TYPES) and child is not network.head:
                parametrize.register_parametrization(child, "weight", SpectralNorm(bound))


class MeanOnlyBatchNorm(nn.Module):
    """Replace the mean of each channel by a learned one.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *grid) to the same shape."""
        axes = tuple(range(2, x.ndim))
        return x - x.mean(axes, keepdim=True) + self.bias.reshape(-1, *(1 for _ in axes))


class SpectralNorm(nn.Module):
    """Scale weights down to the bound if they exceed it; the factor has no gradient."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights, scaled down if their spectral norm exceeds the bound."""
        matrix = weight.detach().flatten(1)
        squares = torch.linalg.eigvalsh(matrix @ matrix.T)  # of singular values, the largest last
        excess: Tensor = squares[-1].clamp(min=0).sqrt() / self.bound
        return weight / excess.clamp(min=1)
