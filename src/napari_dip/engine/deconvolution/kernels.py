"""Define learned blur kernels: free, from a network, Gaussian, motion and defocus.

Each is a module that returns a kernel (*sizes) without an input. The kernel is non-negative and of
sum one for all parameters.
"""

from __future__ import annotations

from math import log, pi, sqrt

import torch
from torch import Tensor, nn

from napari_dip.engine.networks.layers import make_without_init

#: Share of the light that is spread uniformly in an initial free kernel, since a softmax has no
#: zeros.
_UNIFORM_LIGHT_FRACTION = 0.01
#: Input and hidden units of the kernel's network, and scale of its fixed input, as in SelfDeblur
#: (Ren et al. 2020), https://github.com/csdwren/SelfDeblur.
_INPUT_UNITS, _HIDDEN_UNITS, _INPUT_STD = 200, 1000, 0.1
#: Points per pixel of the longest line that fits; with 4, its weights are uniform to 1 %.
_POINTS_PER_PIXEL = 4
#: Samples per pixel along each axis of a disc.
_DISC_SAMPLES = 5


class SoftmaxKernel(nn.Module):
    """Free kernel, positive and of sum one by a softmax.

    Parameters
    ----------
    logits : Tensor or nn.Module
        (*sizes), initial values of the parameters; or a module that returns logits without an
        input (`KernelNetwork`).
    """

    def __init__(self, logits: Tensor | nn.Module) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone()) if isinstance(logits, Tensor) else logits

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        logits = self.logits() if isinstance(self.logits, nn.Module) else self.logits
        kernel: Tensor = torch.softmax(logits.flatten(), 0).reshape(logits.shape)
        return kernel


def compute_kernel_logits(kernel: Tensor) -> Tensor:
    """Return the logits of a kernel, with a small share of uniform light added.

    Parameters
    ----------
    kernel : Tensor
        (*sizes), non-negative, not all zero.
    """
    share = kernel / kernel.sum()
    return ((1 - _UNIFORM_LIGHT_FRACTION) * share + _UNIFORM_LIGHT_FRACTION / kernel.numel()).log()


class KernelNetwork(nn.Module):
    """Logits of a kernel from a small untrained network with a fixed input.

    Parameters
    ----------
    sizes : tuple of int
    rng : torch.Generator
        Draws the weights and the input.
    start : Tensor or None
        (*sizes), initial logits; None: random.

    References
    ----------
    Ren et al., Neural blind deconvolution using deep priors, CVPR 2020,
    doi:10.1109/CVPR42600.2020.00340.
    """

    code: Tensor

    def __init__(
        self, sizes: tuple[int, ...], rng: torch.Generator, start: Tensor | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        taps = int(torch.Size(sizes).numel())
        self.register_buffer("code", torch.rand(_INPUT_UNITS, generator=rng) * _INPUT_STD)
        first, last = _linear(_INPUT_UNITS, _HIDDEN_UNITS, rng), _linear(_HIDDEN_UNITS, taps, rng)
        if start is not None:
            with torch.no_grad():
                last.weight.zero_()
                last.bias.copy_(start.flatten())
        self.layers = nn.Sequential(first, nn.ReLU6(), last)

    def forward(self) -> Tensor:
        """Return the logits (*sizes)."""
        return self.layers(self.code).reshape(self.sizes)  # type: ignore[no-any-return]


class GaussianKernel(nn.Module):
    """Gaussian kernel, sampled at the pixels' centres.

    Parameters
    ----------
    sizes : tuple of int
    *sigmas : float, > 0
        Initial standard deviation in pixels, one for all axes or one for each.
    """

    def __init__(self, sizes: tuple[int, ...], *sigmas: float) -> None:
        super().__init__()
        if len(sigmas) not in (1, len(sizes)):
            raise ValueError(f"{len(sigmas)} widths do not fit {len(sizes)} axes.")
        self.sizes = sizes
        self.log_sigmas = nn.Parameter(_compute_logarithms("sigma", sigmas))

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        sigmas = self.log_sigmas.exp().expand(len(self.sizes))
        exponent = sigmas.new_zeros(())
        for axis, size in enumerate(self.sizes):
            squares = (_compute_middle_offsets(size, sigmas) / sigmas[axis]) ** 2 / 2
            exponent = exponent - squares.reshape(-1, *(1,) * (len(self.sizes) - 1 - axis))
        return torch.softmax(exponent.flatten(), 0).reshape(self.sizes)

    def figures(self) -> dict[str, tuple[float, ...]]:
        """Return the standard deviations in pixels."""
        return {"sigmas": tuple(self.log_sigmas.detach().exp().tolist())}


class MotionKernel(nn.Module):
    """Motion kernel: a straight antialiased line in the plane of Y and X.

    Parameters
    ----------
    sizes : tuple of int
        In 3-D the line lies in the middle plane.
    length : float, > 0
        Initial length in pixels.
    angle : float
        Initial angle in radians, from X towards Y.
    """

    positions: Tensor

    def __init__(self, sizes: tuple[int, ...], length: float, angle: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.log_length = nn.Parameter(_compute_logarithms("length", (length,))[0])
        self.angle = nn.Parameter(torch.tensor(float(angle)))
        count = _POINTS_PER_PIXEL * int(sqrt(sizes[-1] ** 2 + sizes[-2] ** 2)) + 1
        positions = (torch.arange(count) + 0.5) / count - 0.5
        self.register_buffer("positions", positions, persistent=False)

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        along = self.positions * self.log_length.exp()
        height, width = self.sizes[-2:]
        down = along[:, None] * self.angle.sin() - _compute_middle_offsets(
            height, along
        )  # (points, height)
        right = along[:, None] * self.angle.cos() - _compute_middle_offsets(width, along)
        plane = (1 - down.abs()).clamp(min=0).T @ (1 - right.abs()).clamp(min=0)
        return _embed_in_volume(plane / plane.sum(), self.sizes)

    def figures(self) -> dict[str, tuple[float, ...]]:
        """Return the length in pixels and the angle in radians, from 0 to pi."""
        length, angle = self.log_length.detach().exp().item(), self.angle.detach().item() % pi
        return {"length": (length,), "angle": (angle,)}


class DefocusKernel(nn.Module):
    """Defocus kernel: a uniform disc in the plane of Y and X, as in geometrical optics.

    Parameters
    ----------
    sizes : tuple of int
        In 3-D the disc lies in the middle plane.
    radius : float, > 0
        Initial radius in pixels. Below half a pixel it is a point without a gradient.
    """

    def __init__(self, sizes: tuple[int, ...], radius: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.log_radius = nn.Parameter(_compute_logarithms("radius", (radius,))[0])

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        radius = self.log_radius.exp()
        within = (torch.arange(_DISC_SAMPLES, device=radius.device) + 0.5) / _DISC_SAMPLES - 0.5
        down, right = (
            (_compute_middle_offsets(size, radius)[:, None] + within).flatten()
            for size in self.sizes[-2:]
        )
        distance = (down[:, None] ** 2 + right**2).sqrt()
        covered = ((radius - distance) * _DISC_SAMPLES + 0.5).clamp(
            0, 1
        )  # with an edge of one sample
        height, width = self.sizes[-2:]
        plane = covered.reshape(height, _DISC_SAMPLES, width, _DISC_SAMPLES).mean((1, 3))
        return _embed_in_volume(plane / plane.sum(), self.sizes)

    def figures(self) -> dict[str, tuple[float, ...]]:
        """Return the radius in pixels."""
        return {"radius": (self.log_radius.detach().exp().item(),)}


def _compute_logarithms(name: str, values: tuple[float, ...]) -> Tensor:
    if not all(value > 0 for value in values):  # also catches nan
        raise ValueError(f"`{name}` must be above 0 pixels, but is {values!r}.")
    return torch.tensor([log(value) for value in values])


def _compute_middle_offsets(size: int, template: Tensor) -> Tensor:
    """Return the offsets from the middle pixel, (size,)."""
    return torch.arange(size, device=template.device, dtype=template.dtype) - size // 2


def _embed_in_volume(plane: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the plane in the middle of a volume of zeros, if the grid is 3-D."""
    if len(sizes) == 2:
        return plane
    depth = plane.new_zeros(sizes[0])
    depth[sizes[0] // 2] = 1
    return depth[:, None, None] * plane


def _linear(before: int, after: int, rng: torch.Generator) -> nn.Linear:
    """Return a linear layer with torch's initialisation, drawn from `rng` alone."""
    layer = make_without_init(nn.Linear, before, after)
    for values in layer.parameters():
        nn.init.uniform_(values, -1 / sqrt(before), 1 / sqrt(before), generator=rng)
    return layer
