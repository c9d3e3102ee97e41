"""Operators that blur with a known kernel: true convolution, in two and three dimensions.

`ValidConvolution` takes an object larger than the frame, so light that comes in from outside has
a place to come from; `CircularConvolution` is for benchmarks that blurred with a circular border.

Blur that is fitted along with the picture: for what nobody measured.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Taps up to which the sum is taken directly. Forward and back on one core of a 2-core server, in
#: ms, direct / Fourier: 3 x 3 on 128 x 128 pixels 0.2 / 0.7, on 256 x 256 7 / 1.5; 5 x 5 there
#: 9 / 1.6, 21 x 21 24 / 1.4; 3 x 3 x 3 on 16 x 64 x 64 2.8 / 2.3, 5 x 5 x 5 40 / 2.4.
MAX_DIRECT_TAPS = 9
_CONVOLUTION_FUNCTIONS = {2: F.conv2d, 3: F.conv3d}
#: The primes for which every Fourier library has its fastest code.
_FAST_PRIMES = (2, 3, 5)


class ValidConvolution(nn.Module):
    """Blur with a known kernel; the picture is larger than the measurement by size - 1.

    Parameters
    ----------
    kernel : Tensor
        (*sizes) for all channels alike, or (C, *sizes); odd sizes, its middle is its origin.
    dims : int
        2 or 3: how many axes of the kernel are its grid; by default all, which must then be two
        or three. Needed for a kernel per channel.
    margin : tuple of int, optional
        Pixels of the picture beyond the frame, on either side of each axis, where they are fewer
        than the kernel reaches: what lies further is taken to be as at the picture's rim. A
        volume as large as a deep PSF would ask for would not be affordable.

    Attributes
    ----------
    margin : tuple of int
        As above; by default as far as the kernel reaches.

    Raises
    ------
    ValueError
        If the kernel has another number of axes, or a size that is even.
    """

    kernel: Tensor

    def __init__(
        self, kernel: Tensor, dims: int | None = None, margin: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.dims = kernel.ndim if dims is None else dims
        reach = compute_kernel_margin(kernel, self.dims)
        self.margin = reach if margin is None else tuple(map(min, margin, reach))
        self._lacking = [far - near for far, near in zip(reach, self.margin, strict=True)]
        self.register_buffer("kernel", kernel.detach().to(torch.float32), persistent=False)
        self._transfer: tuple[list[int], Tensor] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *measured + 2 margin) -> (B, C, *measured)."""
        if any(self._lacking):
            sides = [side for lack in reversed(self._lacking) for side in (lack, lack)]
            image = F.pad(image, sides, mode="replicate")
        if prod(self.kernel.shape[-self.dims :]) <= MAX_DIRECT_TAPS:
            return convolve_directly(image, self.kernel)
        lengths = _compute_fft_lengths(image)
        if self._transfer is None or self._transfer[0] != lengths:
            self._transfer = lengths, _compute_spectrum(self.kernel, lengths)
        return convolve_by_fourier(image, self.kernel, self._transfer[1])


class CircularConvolution(nn.Module):
    """Blur with a known kernel, as if the picture went on with its other side.

    Parameters
    ----------
    kernel, dims
        As for `ValidConvolution`.

    Raises
    ------
    ValueError
        As there.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, dims: int | None = None) -> None:
        super().__init__()
        self.dims = kernel.ndim if dims is None else dims
        self.margin = compute_kernel_margin(kernel, self.dims)
        self.register_buffer("kernel", kernel.detach().to(torch.float32), persistent=False)
        self._transfer: tuple[list[int], Tensor] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, *grid)."""
        axes = tuple(range(-self.dims, 0))
        grid = list(image.shape[-self.dims :])
        if self._transfer is None or self._transfer[0] != grid:
            self._transfer = grid, _compute_spectrum(self._wrapped(grid), grid)
        spectrum = torch.fft.rfftn(image, dim=axes) * self._transfer[1]
        blurred: Tensor = torch.fft.irfftn(spectrum, s=grid, dim=axes)
        return blurred

    def _wrapped(self, grid: list[int]) -> Tensor:
        """Kernel laid on the grid with its middle at the first pixel."""
        kernel = self.kernel
        for axis, (count, margin) in enumerate(zip(grid, self.margin, strict=True), -self.dims):
            places = (torch.arange(2 * margin + 1, device=kernel.device) - margin) % count
            shape = list(kernel.shape)
            shape[axis] = count
            kernel = kernel.new_zeros(shape).index_add(kernel.ndim + axis, places, kernel)
        return kernel


def convolve_valid(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve where the kernel lies within the picture; gradients reach both.

    Parameters
    ----------
    image : Tensor
        (B, C, *grid)
    kernel : Tensor
        (*sizes), or (C, *sizes); no size above the grid's.

    Returns
    -------
    Tensor
        (B, C, *grid - sizes + 1)
    """
    sizes = tuple(kernel.shape[-(image.ndim - 2) :])
    by_sum = prod(sizes) <= MAX_DIRECT_TAPS
    return convolve_directly(image, kernel) if by_sum else convolve_by_fourier(image, kernel)


def convolve_directly(image: Tensor, kernel: Tensor) -> Tensor:
    """Sum over the taps; fastest for the smallest kernels. As `convolve_valid`."""
    dims, channels = image.ndim - 2, image.shape[1]
    flipped = kernel.flip(tuple(range(-dims, 0)))  # torch's convolutions correlate
    weight = flipped.expand(channels, *flipped.shape[-dims:])[:, None]
    return _CONVOLUTION_FUNCTIONS[dims](image, weight, groups=channels)


def convolve_by_fourier(image: Tensor, kernel: Tensor, transfer: Tensor | None = None) -> Tensor:
    """Multiply the spectra; the time hardly depends on the kernel. As `convolve_valid`.

    `transfer` is the kernel's spectrum at the picture's fast lengths, where it is known already.
    """
    dims = image.ndim - 2
    axes = tuple(range(-dims, 0))
    sizes, grid = kernel.shape[-dims:], image.shape[-dims:]
    lengths = _compute_fft_lengths(image)
    spectrum = torch.fft.rfftn(image, s=lengths, dim=axes)
    spectrum = spectrum * (_compute_spectrum(kernel, lengths) if transfer is None else transfer)
    blurred: Tensor = torch.fft.irfftn(spectrum, s=lengths, dim=axes)
    # What wrapped round lies before the first valid pixel, so no further padding is needed.
    for axis, size, end in zip(axes, sizes, grid, strict=True):
        blurred = blurred.narrow(axis, size - 1, end - size + 1)
    return blurred


def _compute_fft_lengths(image: Tensor) -> list[int]:
    return [find_fft_length(size) for size in image.shape[2:]]


def _compute_spectrum(kernel: Tensor, lengths: list[int]) -> Tensor:
    spectrum: Tensor = torch.fft.rfftn(kernel, s=lengths, dim=tuple(range(-len(lengths), 0)))
    return spectrum


def find_fft_length(size: int) -> int:
    """Give the least length from `size` on that has no prime factor above 5."""
    while True:
        rest = size
        for prime in _FAST_PRIMES:
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def compute_kernel_margin(kernel: Tensor, dims: int) -> tuple[int, ...]:
    """Give the pixels that a kernel reaches beyond the frame, per axis.

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


class LearnedConvolution(nn.Module):
    """Blur with a kernel that has parameters; the picture is larger than the measurement.

    Parameters
    ----------
    shape : nn.Module
        Called without input, gives the kernel (*sizes) with odd sizes, non-negative and of sum one:
        one of those in `kernels`.

    Raises
    ------
    ValueError
        If a size is even.

    Attributes
    ----------
    margin : tuple of int
        Pixels of the picture beyond the frame, on either side of each axis.
    """

    def __init__(self, shape: nn.Module) -> None:
        super().__init__()
        self.shape = shape
        sizes = tuple(self.kernel().shape)
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(f"A kernel needs odd sizes to have a middle, but has {sizes}.")
        self.margin = tuple(size // 2 for size in sizes)

    def kernel(self) -> Tensor:
        """Give the present kernel (*sizes); detach it to keep it."""
        return self.shape()  # type: ignore[no-any-return]

    def learned(self) -> dict[str, Tensor]:
        """Give the kernel as "psf", and the figures of a kernel of a known kind by their names."""
        figures: dict[str, tuple[float, ...]] = getattr(self.shape, "figures", dict)()
        kernel = self.kernel().detach().clone()
        return {"psf": kernel, **{name: kernel.new_tensor(item) for name, item in figures.items()}}

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *measured + sizes - 1) -> (B, C, *measured)."""
        return convolve_valid(image, self.kernel())
