"""Define the linear operators of imaging: blur, downsampling, binning and line offsets.

The kernel of a blur is known, learned or changes over the field, in 2-D and 3-D.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dip.engine.problem import Identity, Operator

if TYPE_CHECKING:
    from collections.abc import Callable

#: Iterations of back-projection; all results in docs/benchmarks/super-resolution.md use four.
BACKPROJECTION_ITERATIONS = 4
#: Kernel values up to which the convolution is computed directly: 3 x 3 on 128 x 128 pixels takes
#: 0.2 ms directly, 0.7 ms by Fourier transform (docs/constants.md).
MAX_DIRECT_TAPS = 9
#: Half width of the Lanczos window in coarse pixels, as in Pillow.
LANCZOS_LOBES = 3
_CONVOLUTION_FUNCTIONS = {2: F.conv2d, 3: F.conv3d}
#: Prime factors for which all Fourier libraries are fastest.
_FAST_PRIMES = (2, 3, 5)


class _OpenBorderConvolution(Operator):
    """Blur of an image that extends beyond the measured field, by `margin` pixels on each side."""

    margin: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self._padding: list[int] = []
        self._transfer: tuple[list[int], Tensor] | None = None

    def _set_margin(self, full_margin: tuple[int, ...], margin: tuple[int, ...] | None) -> None:
        """Set the margin, and the padding that replaces what it lacks of half the kernel."""
        self.margin = full_margin if margin is None else tuple(map(min, margin, full_margin))
        pairs = zip(full_margin[::-1], self.margin[::-1], strict=True)  # the last axis first
        self._padding = [side for full, part in pairs for side in (full - part,) * 2]

    def _pad(self, image: Tensor) -> Tensor:
        return F.pad(image, self._padding, mode="replicate") if any(self._padding) else image

    def _get_transfer(self, kernel: Tensor, lengths: list[int]) -> Tensor:
        """Return the kernel's spectrum, computed only if the lengths have changed."""
        if self._transfer is None or self._transfer[0] != lengths:
            self._transfer = lengths, _compute_spectrum(kernel, lengths)
        return self._transfer[1]

    def compute_object_grid(self, measured_grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the image with its margin."""
        return tuple(
            size + 2 * pixels for size, pixels in zip(measured_grid, self.margin, strict=True)
        )


class ValidConvolution(_OpenBorderConvolution):
    """Blur with a known kernel; the image extends beyond the measured field.

    Parameters
    ----------
    kernel : Tensor
        (*sizes) for all channels, with odd sizes; its middle is its origin.
    margin : tuple of int or None
        Pixels of the image beyond the field, on either side of each axis, if fewer than half the
        kernel. The image is continued beyond them by its border values. This limits the memory
        for deep PSFs. None: half the kernel.

    Attributes
    ----------
    margin : tuple of int
        Pixels of the image beyond the field, on either side of each axis.

    Raises
    ------
    ValueError
        If the kernel has another number of axes, or a size that is even.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, margin: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self._set_margin(compute_kernel_margin(kernel, kernel.ndim), margin)
        self.register_buffer("kernel", kernel.detach().to(torch.float32), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *measured + 2 margin) to (B, C, *measured)."""
        image = self._pad(image)
        if prod(self.kernel.shape) <= MAX_DIRECT_TAPS:
            return convolve_directly(image, self.kernel)
        transfer = self._get_transfer(self.kernel, _compute_fft_lengths(image))
        return convolve_by_fourier(image, self.kernel, transfer)


class FieldConvolution(_OpenBorderConvolution):
    """Blur with a PSF that changes over the field; the image extends beyond the measured field.

    It is a sum of invariant convolutions: each mode blurs the image times the mode's coefficients.

    Parameters
    ----------
    modes : Tensor
        (K, *sizes), with odd sizes; the middle of each is its origin.
    coefficients : Tensor
        (K, *grid of the image with its margin), or of size 1 along axes without change.
    margin : tuple of int or None
        As for `ValidConvolution`.

    Raises
    ------
    ValueError
        If a size is even.

    References
    ----------
    Denis, Thiébaut, Soulez, Becker, Mourya, Fast approximations of shift-variant blur, IJCV 115,
    2015, doi:10.1007/s11263-015-0817-x.
    """

    modes: Tensor
    coefficients: Tensor

    def __init__(
        self, modes: Tensor, coefficients: Tensor, margin: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self._set_margin(compute_kernel_margin(modes, modes.ndim - 1), margin)
        self.register_buffer("modes", modes.detach().to(torch.float32), persistent=False)
        self.register_buffer("coefficients", coefficients.detach(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *measured + 2 margin) to (B, C, *measured)."""
        parts = self._pad((image[:, :, None] * self.coefficients).flatten(0, 1))
        lengths = _compute_fft_lengths(parts)
        axes = tuple(range(-len(lengths), 0))
        transfer = self._get_transfer(self.modes, lengths)
        spectrum = torch.fft.rfftn(parts, s=lengths, dim=axes) * transfer
        periodic = torch.fft.irfftn(spectrum.sum(1), s=lengths, dim=axes)
        blurred = _crop_to_valid(periodic, self.modes.shape[1:], parts.shape[2:])
        return blurred.reshape(*image.shape[:2], *blurred.shape[1:])


class EstimatedConvolution(ValidConvolution):
    """Blur with a kernel that was estimated before the fit, which reports it.

    Parameters
    ----------
    kernel, margin
        As for `ValidConvolution`.
    parameters : dict of str to Tensor
        What the result reports, such as {"psf": kernel}.
    """

    def __init__(
        self, kernel: Tensor, margin: tuple[int, ...] | None, parameters: dict[str, Tensor]
    ) -> None:
        super().__init__(kernel, margin=margin)
        self._parameters_to_report = parameters

    def get_learned_parameters(self) -> dict[str, Tensor]:
        """Return the estimated parameters."""
        return {name: values.clone() for name, values in self._parameters_to_report.items()}


class CircularConvolution(Operator):
    """Blur with a known kernel and a periodic border, for benchmarks that do so.

    Parameters
    ----------
    kernel : Tensor
        (*sizes) for all channels, with odd sizes; its middle is its origin.

    Raises
    ------
    ValueError
        As for `ValidConvolution`.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.dims: int = kernel.ndim
        self.margin: tuple[int, ...] = compute_kernel_margin(kernel, self.dims)
        self.register_buffer("kernel", kernel.detach().to(torch.float32), persistent=False)
        self._transfer: tuple[list[int], Tensor] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *grid) to the same shape."""
        axes = tuple(range(-self.dims, 0))
        grid = list(image.shape[-self.dims :])
        if self._transfer is None or self._transfer[0] != grid:
            self._transfer = grid, _compute_spectrum(self._wrap_kernel(grid), grid)
        spectrum = torch.fft.rfftn(image, dim=axes) * self._transfer[1]
        blurred: Tensor = torch.fft.irfftn(spectrum, s=grid, dim=axes)
        return blurred

    def _wrap_kernel(self, grid: list[int]) -> Tensor:
        """Return the kernel on the periodic grid, with its middle at the first pixel."""
        kernel = self.kernel
        for axis, (count, margin) in enumerate(zip(grid, self.margin, strict=True), -self.dims):
            indices = (torch.arange(2 * margin + 1, device=kernel.device) - margin) % count
            shape = list(kernel.shape)
            shape[axis] = count
            kernel = kernel.new_zeros(shape).index_add(kernel.ndim + axis, indices, kernel)
        return kernel


def convolve_valid(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve where the kernel lies within the image, with gradients for both.

    Parameters
    ----------
    image : Tensor
        (B, C, *grid)
    kernel : Tensor
        (*sizes); no size above the grid's.

    Returns
    -------
    Tensor
        (B, C, *grid - sizes + 1)
    """
    is_small = prod(kernel.shape) <= MAX_DIRECT_TAPS
    return convolve_directly(image, kernel) if is_small else convolve_by_fourier(image, kernel)


def convolve_directly(image: Tensor, kernel: Tensor) -> Tensor:
    """Compute `convolve_valid` directly, which is fastest for the smallest kernels."""
    dims, channels = image.ndim - 2, image.shape[1]
    flipped = kernel.flip(tuple(range(dims)))  # torch's convolutions correlate
    weight = flipped.expand(channels, *flipped.shape)[:, None]
    return _CONVOLUTION_FUNCTIONS[dims](image, weight, groups=channels)


def convolve_by_fourier(image: Tensor, kernel: Tensor, transfer: Tensor | None = None) -> Tensor:
    """Compute `convolve_valid` by Fourier transforms.

    `transfer` is the kernel's spectrum at the image's FFT lengths; None: it is computed.
    """
    dims = image.ndim - 2
    axes = tuple(range(-dims, 0))
    sizes, grid = kernel.shape, image.shape[-dims:]
    lengths = _compute_fft_lengths(image)
    spectrum = torch.fft.rfftn(image, s=lengths, dim=axes)
    spectrum = spectrum * (_compute_spectrum(kernel, lengths) if transfer is None else transfer)
    periodic: Tensor = torch.fft.irfftn(spectrum, s=lengths, dim=axes)
    return _crop_to_valid(periodic, sizes, grid)


def _crop_to_valid(blurred: Tensor, sizes: torch.Size, grid: torch.Size) -> Tensor:
    """Crop a periodic convolution to where the kernel lies within the image."""
    # periodic wrap-around affects pixels before the first valid one only
    for axis, size, length in zip(range(-len(sizes), 0), sizes, grid, strict=True):
        blurred = blurred.narrow(axis, size - 1, length - size + 1)
    return blurred


def _compute_fft_lengths(image: Tensor) -> list[int]:
    return [find_fft_length(size) for size in image.shape[2:]]


def _compute_spectrum(kernel: Tensor, lengths: list[int]) -> Tensor:
    spectrum: Tensor = torch.fft.rfftn(kernel, s=lengths, dim=tuple(range(-len(lengths), 0)))
    return spectrum


def find_fft_length(size: int) -> int:
    """Return the smallest length from `size` on without a prime factor above 5."""
    while True:
        remainder = size
        for prime in _FAST_PRIMES:
            while remainder % prime == 0:
                remainder //= prime
        if remainder == 1:
            return size
        size += 1


def compute_kernel_margin(kernel: Tensor, dims: int) -> tuple[int, ...]:
    """Return half the size of a kernel along each axis, in pixels.

    Raises
    ------
    ValueError
        If the kernel does not have 2 or 3 axes, or one more for channels, or a size is even.
    """
    sizes = tuple(kernel.shape[-dims:])
    if dims not in _CONVOLUTION_FUNCTIONS or kernel.ndim not in (dims, dims + 1):
        raise ValueError(f"A kernel of shape {tuple(kernel.shape)} has no {dims}-D grid.")
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(f"A kernel needs odd sizes to have a middle, but has {sizes}.")
    return tuple(size // 2 for size in sizes)


class LearnedConvolution(_OpenBorderConvolution):
    """Blur with a learned kernel; the image extends beyond the measured field.

    Parameters
    ----------
    kernel_module : nn.Module
        Module of `deconvolution.kernels` that returns the kernel (*sizes) without an input. Sizes
        are odd, values non-negative and of sum one.

    Raises
    ------
    ValueError
        If a size is even.

    Attributes
    ----------
    margin : tuple of int
        Pixels of the image beyond the field, on either side of each axis.
    """

    def __init__(self, kernel_module: nn.Module) -> None:
        super().__init__()
        self.kernel_module = kernel_module
        kernel = self.compute_kernel()
        self.margin = compute_kernel_margin(kernel, kernel.ndim)

    def compute_kernel(self) -> Tensor:
        """Return the current kernel (*sizes), with its gradient."""
        return self.kernel_module()  # type: ignore[no-any-return]

    def get_learned_parameters(self) -> dict[str, Tensor]:
        """Return the kernel as "psf", and the parameters of a parametric kernel by name."""
        get_parameters = getattr(self.kernel_module, "get_kernel_parameters", dict)
        parameters: dict[str, tuple[float, ...]] = get_parameters()
        kernel = self.compute_kernel().detach().clone()
        return {"psf": kernel} | {name: kernel.new_tensor(v) for name, v in parameters.items()}

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *measured + sizes - 1) to (B, C, *measured)."""
        return convolve_valid(image, self.compute_kernel())


class _Downsample(Operator):
    """Downsampling by integer factors, one per axis of the grid."""

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        if not factors or min(factors) < 1:
            raise ValueError(f"`factors` must be whole numbers from 1 on, but are {factors}.")
        self.factors = tuple(factors)

    def compute_object_grid(self, measured_grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the fine image."""
        return tuple(
            size * factor for size, factor in zip(measured_grid, self.factors, strict=True)
        )

    def _require_multiples(self, image: Tensor) -> None:
        grid, factors = tuple(image.shape[2:]), self.factors
        if len(grid) != len(factors) or any(n % f for n, f in zip(grid, factors, strict=True)):
            raise ValueError(f"The grid {grid} is no multiple of the factors {factors}.")


class LanczosDownsample(_Downsample):
    """Downsampling by integer factors with an antialiasing Lanczos window, along any axes.

    The window scales with the factor, and its weights sum to one at the borders too. It is that of
    Pillow's `Image.resize(..., LANCZOS)`, the forward model of published experiments.

    Parameters
    ----------
    factors : tuple of int, >= 1
        One per axis of the grid; 1 leaves an axis unchanged.

    Raises
    ------
    ValueError
        If a factor is below 1; in `forward`, if a size is no multiple of its factor.

    References
    ----------
    Duchon, Lanczos filtering in one and two dimensions, J. Appl. Meteorol. 18, 1979,
    doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2.
    """

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__(factors)
        # not in a shared cache, since a CUDA graph needs these tensors as long as it exists
        self._weights: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *grid) to (B, C, *grid / factors)."""
        self._require_multiples(image)
        for axis, factor in enumerate(self.factors, start=2):
            if factor > 1:
                image = _multiply_axis(
                    axis, self._get_weights(image.shape[axis], factor, image), image
                )
        return image

    def _get_weights(self, size: int, factor: int, template: Tensor) -> Tensor:
        key = (size, factor, template.device, template.dtype)
        if key not in self._weights:
            with torch.inference_mode(False):  # inference tensors would block gradients
                self._weights[key] = compute_lanczos_weights(size, factor).to(template)
        return self._weights[key]


class BinnedDownsample(_Downsample):
    """Mean over blocks of pixels, as recorded by a camera with larger pixels.

    Parameters
    ----------
    factors : tuple of int, >= 1
        Pixels per block along each axis of the grid.

    Raises
    ------
    ValueError
        If a factor is below 1; in `forward`, if a size is no multiple of its factor.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *grid) to (B, C, *grid / factors)."""
        self._require_multiples(image)
        blocks = list(image.shape[:2])
        for size, factor in zip(image.shape[2:], self.factors, strict=True):
            blocks += [size // factor, factor]
        return image.reshape(blocks).mean(tuple(range(3, len(blocks), 2)))


def interpolate_cubic(image: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Upscale by cubic interpolation, one axis after the other.

    Parameters
    ----------
    image : Tensor
        (B, C, *grid)
    factors : tuple of int, >= 1
        One per axis of the grid.

    Returns
    -------
    Tensor
        (B, C, *grid x factors), of the same field of view.

    References
    ----------
    Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29, 1981,
    doi:10.1109/TASSP.1981.1163711; here with a = -0.75.
    """
    for axis, factor in enumerate(factors, start=2):
        if factor > 1:
            leading, trailing = image.shape[:axis], image.shape[axis + 1 :]
            count = image.shape[axis]
            flat = image.reshape(1, prod(leading), count, prod(trailing))
            size = (count * factor, prod(trailing))
            flat = F.interpolate(flat, size=size, mode="bicubic", align_corners=False)
            image = flat.reshape(*leading, count * factor, *trailing)
    return image


def apply_iterative_backprojection(
    image: Tensor,
    measured: Tensor,
    downsample: Callable[[Tensor], Tensor],
    upsample: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return a fine image after iterative back-projection of its coarse residual.

    Parameters
    ----------
    image : Tensor
        (B, C, *fine grid)
    measured : Tensor
        (B, C, *grid)
    downsample, upsample : callable
        Maps between the grids; `upsample` may mask pixels that need not be explained.

    References
    ----------
    Irani and Peleg, Improving resolution by image registration, CVGIP 53, 1991,
    doi:10.1016/1049-9652(91)90045-L.
    """
    for _ in range(BACKPROJECTION_ITERATIONS):
        image = image + upsample(measured - downsample(image))
    return image


def compute_lanczos_weights(size: int, factor: int) -> Tensor:
    """Return the Lanczos downsampling of one axis as a matrix.

    Parameters
    ----------
    size : int
        Fine pixels, a multiple of `factor`.
    factor : int, > 0

    Returns
    -------
    Tensor
        (size / factor, size) float64; each row sums to one.
    """
    fine = torch.arange(size, dtype=torch.float64) + 0.5
    coarse = (torch.arange(size // factor, dtype=torch.float64) + 0.5) * factor
    offset = (fine - coarse[:, None]) / factor  # in coarse pixels
    window = torch.sinc(offset) * torch.sinc(offset / LANCZOS_LOBES)
    window = torch.where(offset.abs() < LANCZOS_LOBES, window, 0.0)
    return window / window.sum(1, keepdim=True)


def _multiply_axis(axis: int, matrix: Tensor, image: Tensor) -> Tensor:
    """Multiply one axis by a matrix (out, in)."""
    leading, trailing = image.shape[:axis], image.shape[axis + 1 :]
    if not trailing:
        return image @ matrix.T
    flat = matrix @ image.reshape(*leading, image.shape[axis], prod(trailing))
    return flat.reshape(*leading, matrix.shape[0], *trailing)


class LineOffsets(Identity):
    """Identity operator for a measurement whose line offsets have been subtracted.

    Parameters
    ----------
    offsets : Tensor
        (1, C, *grid), or of size 1 along axes with equal offsets, in network units.
    network_per_image_unit : Tensor
        (1, C, 1, ...), one unit of the image in network units.
    """

    def __init__(self, offsets: Tensor, network_per_image_unit: Tensor) -> None:
        super().__init__()
        self.offsets = offsets
        self.network_per_image_unit = network_per_image_unit

    def simulate_measurement(self, image: Tensor) -> Tensor:
        """Return the image (1, C, *grid) with the offsets added."""
        return image + self.offsets

    def get_learned_parameters(self) -> dict[str, Tensor]:
        """Return the offsets in the image's units: (lines,), after an axis of channels or depth."""
        values = (self.offsets / self.network_per_image_unit)[0]
        lines = values.squeeze(-1 if values.shape[-1] == 1 else -2)
        return {"line_offsets": (lines[0] if len(lines) == 1 else lines).clone()}
