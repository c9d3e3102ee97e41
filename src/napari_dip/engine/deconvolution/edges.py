"""Estimate a blur kernel from sharp edges: of any shape, or that of a lens with aberrations.

At each scale, an image of few edges and the kernel are estimated in alternation. A lens has few
parameters, so that its kernel is searched for: that which explains the image with the fewest edges.
"""

from __future__ import annotations

from math import ceil, cos, log2, pi, sin, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from napari_dip.engine.constants import ZERNIKE_MODES
from napari_dip.engine.deconvolution.kernels import ZernikeKernel
from napari_dip.engine.deconvolution.richardson_lucy import compute_forward_difference
from napari_dip.engine.operators.imaging import convolve_by_fourier, find_fft_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

#: Initial weight of the L0 norm of edges (Pan et al. 2014). Lowest similarity of kernels in Levin's
#: set: 0.77, with theirs 0.60 (docs/constants.md).
INITIAL_EDGE_WEIGHT = 2e-2
#: Divisor of the weight of the L0 norm of edges, per iteration.
EDGE_WEIGHT_DECAY = 1.2
#: Minimum of the weight of the L0 norm of edges.
MIN_EDGE_WEIGHT = 1e-4
#: Weight of the kernel's squared norm.
KERNEL_WEIGHT = 2.0
#: Upper bound of the coupling of image and edges, which is doubled from twice the edge weight.
MAX_COUPLING = 1e5
#: Iterations at each scale; scales differ by the square root of two.
ITERATIONS_PER_SCALE = 5
#: Side of the coarsest kernel in pixels.
MIN_KERNEL_SIDE = 5
#: Share of a kernel's peak below which values are set to 0.
MIN_KERNEL_FRACTION = 0.05
#: Iterations of FISTA for the non-negative kernel; more change it by less than a hundredth.
FISTA_ITERATIONS = 60
#: Cost of an edge pixel in units of the noise variance. On 9 made aberrations of Levin's sharp
#: images, found and true kernels are 0.92 alike with 10, 0.90 with 20, 0.69 with 3.
EDGE_COST = 10.0
#: Cost of a wavelength of each aberration. On those images found and true kernels are then at least
#: 0.85 alike, 0.67 without.
WAVE_COST = 0.3
#: Lower bound of the noise's standard deviation in units of the image's range.
MIN_RELATIVE_NOISE = 0.01
#: Factor of the coupling in the search, which a restoration of fewer steps speeds up.
SEARCH_COUPLING_FACTOR = 4.0
#: Maximum of the coupling in the search.
SEARCH_MAX_COUPLING = 1e3
#: Largest side of the part of an image that is searched, which bounds the time.
MAX_SEARCH_SIDE = 256
#: Aberrations that the search begins with, in wavelengths; below a fourteenth, a lens counts as
#: free of them (Marechal).
INITIAL_STRENGTHS = (0.1, 0.2, 0.3)
#: Initial radius of the pupil in cycles per pixel: that of an image sampled as finely as needed.
INITIAL_CUTOFF = 0.25
#: Least radius: four times as many pixels as needed.
MIN_CUTOFF = 0.06
#: Largest radius: half as many pixels as needed.
MAX_CUTOFF = 0.5
#: Steps of the search at half the size, in wavelengths, and of the radius in parts of it.
COARSE_STEPS = (0.1, 0.05)
#: Steps of the search in full size.
FINE_STEPS = (0.05, 0.025)
#: Lenses that are improved at half the size; with 12 the result is no better.
MAX_COARSE_LENSES = 8
#: Lenses that are improved in full size.
MAX_FINE_LENSES = 3
#: Sweeps over all numbers for each step.
MAX_SWEEPS = 6


class _Lens(NamedTuple):
    """Cost of a lens, its aberrations in wavelengths, and the radius of its pupil."""

    cost: float
    waves: list[float]
    cutoff: float


def estimate_kernel_from_edges(measurement: Tensor, size: int) -> Tensor:
    """Estimate a blur kernel from sharp edges.

    Parameters
    ----------
    measurement : Tensor
        (1, C, Y, X), of range one; the mean over channels is used.
    size : int
        Odd side of the kernel.

    Returns
    -------
    Tensor
        (size, size), non-negative, of sum one, its centre of mass in the middle.

    References
    ----------
    Xu, Zheng, Jia, Unnatural L0 sparse representation for natural image deblurring, CVPR 2013,
    doi:10.1109/CVPR.2013.147; Pan, Hu, Su, Yang, Deblurring text images via L0-regularized
    intensity and gradient prior, CVPR 2014, doi:10.1109/CVPR.2014.371.
    Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems,
    SIAM J. Imaging Sci. 2(1), 2009, doi:10.1137/080716542 (the kernel's solver).
    """
    image = measurement.mean(1, keepdim=True)
    scale_count = max(0, ceil(2 * log2(size / MIN_KERNEL_SIDE)))
    kernel = None
    edge_weight = INITIAL_EDGE_WEIGHT
    for scale in range(scale_count, -1, -1):
        factor = sqrt(0.5) ** scale
        side = max(3, int(size * factor) | 1)
        shape = [max(8, round(length * factor)) for length in image.shape[2:]]
        coarse = image
        if scale:
            coarse = F.interpolate(image, size=shape, mode="bicubic", antialias=True)
        kernel = (
            _make_initial_kernel(side).to(image)
            if kernel is None
            else _resize_kernel(_centre_kernel(kernel), side)
        )
        restoration = _EdgeRestoration(coarse, side)
        for _ in range(ITERATIONS_PER_SCALE):
            sharp = restoration.restore(kernel, edge_weight)[0]
            kernel = _estimate_kernel(sharp, coarse, side)
            edge_weight = max(edge_weight / EDGE_WEIGHT_DECAY, MIN_EDGE_WEIGHT)
    assert kernel is not None
    return _centre_kernel(kernel)


class _EdgeRestoration:
    """Restores images of few edges from a blurred one, by half-quadratic splitting.

    Parameters
    ----------
    image : Tensor
        (1, 1, Y, X).
    margin : int
        Pixels by which the image is extended on each side, so that it is periodic.
    """

    def __init__(self, image: Tensor, margin: int) -> None:
        self._margin = margin
        self._padded = _extend_periodically(image, margin)
        grid = self._padded.shape[2:]
        stencil = torch.zeros(3, 3, device=image.device, dtype=image.dtype)
        stencil[1, 0], stencil[1, 1] = 1.0, -1.0  # the difference along X
        stencils = (stencil.T.contiguous(), stencil)
        self._derivatives = [_compute_transfer_function(stencil, grid) for stencil in stencils]
        self._gradient_power = sum(d.abs() ** 2 for d in self._derivatives)

    def restore(
        self,
        kernel: Tensor,
        edge_weight: float,
        coupling_factor: float = 2.0,
        max_coupling: float = MAX_COUPLING,
    ) -> tuple[Tensor, Tensor]:
        """Return the image and where it has edges, both of the size of the blurred one."""
        grid = self._padded.shape[2:]
        derivatives = self._derivatives
        blur = _compute_transfer_function(kernel, grid)
        data_spectrum = blur.conj() * torch.fft.rfft2(self._padded)
        blur_power = blur.abs() ** 2
        sharp, coupling = self._padded, 2 * edge_weight
        while coupling < max_coupling:
            spectrum = torch.fft.rfft2(sharp)
            gradients = [torch.fft.irfft2(d * spectrum, s=grid) for d in derivatives]
            is_edge = sum(gradient**2 for gradient in gradients) >= edge_weight / coupling
            edges = [torch.fft.rfft2(gradient * is_edge) for gradient in gradients]
            divergence = sum(d.conj() * edge for d, edge in zip(derivatives, edges, strict=True))
            target = data_spectrum + coupling * divergence
            sharp = torch.fft.irfft2(
                target / (blur_power + coupling * self._gradient_power), s=grid
            )
            coupling *= coupling_factor
        inner = slice(self._margin, -self._margin)
        return sharp[..., inner, inner], is_edge[..., inner, inner]


def _estimate_kernel(sharp: Tensor, image: Tensor, side: int) -> Tensor:
    """Return the kernel that blurs the edges of a sharp image into those of the measured one."""
    border = _make_border_taper(image, side)
    blurred_gradients, sharp_gradients = (
        [border * compute_forward_difference(item, axis) for axis in (2, 3)]
        for item in (image, sharp)
    )
    grid = image.shape[2:]
    spectra = [
        (torch.fft.rfft2(a), torch.fft.rfft2(b))
        for a, b in zip(sharp_gradients, blurred_gradients, strict=True)
    ]
    correlation = torch.fft.irfft2(sum(a.conj() * b for a, b in spectra), s=grid)[0, 0]
    target = torch.roll(correlation, (side // 2, side // 2), (0, 1))[:side, :side]
    autocorrelation = torch.fft.irfft2(sum(a.abs() ** 2 for a, _ in spectra), s=grid)[0, 0]
    kernel = _solve_fista(autocorrelation, target)
    kernel = torch.where(kernel < MIN_KERNEL_FRACTION * kernel.max(), 0, kernel)
    total = kernel.sum()
    return kernel / total if float(total) > 0 else _make_initial_kernel(side).to(image)


def _solve_fista(autocorrelation: Tensor, target: Tensor) -> Tensor:
    """Solve for a kernel >= 0 by accelerated projected gradients (Beck and Teboulle 2009).

    Parameters
    ----------
    autocorrelation : Tensor
        (Y, X), autocorrelation of the sharp edges, lag zero first.
    target : Tensor
        (side, side), cross-correlation of sharp and blurred edges.
    """
    side = len(target)
    size = 2 * side
    lags = torch.arange(1 - side, side, device=autocorrelation.device)
    cropped = autocorrelation.new_zeros(size, size)
    rows, columns = (lags % length for length in autocorrelation.shape)
    cropped[lags[:, None] % size, lags % size] = autocorrelation[rows[:, None], columns]
    # lags beyond half the image wrap around, which can make the spectrum negative
    spectrum = torch.fft.rfft2(cropped).real.clamp(min=0)
    lipschitz_bound = float(spectrum.max()) + KERNEL_WEIGHT

    def compute_gradient(kernel: Tensor) -> Tensor:
        blurred_spectrum = torch.fft.rfft2(kernel, s=(size, size)) * spectrum
        blurred = torch.fft.irfft2(blurred_spectrum, s=(size, size))
        gradient: Tensor = blurred[:side, :side] + KERNEL_WEIGHT * kernel - target
        return gradient

    kernel = extrapolated = target.clamp(min=0) / lipschitz_bound
    momentum = 1.0
    for _ in range(FISTA_ITERATIONS):
        updated = (extrapolated - compute_gradient(extrapolated) / lipschitz_bound).clamp(min=0)
        next_momentum = (1 + sqrt(1 + 4 * momentum**2)) / 2
        extrapolated = updated + (momentum - 1) / next_momentum * (updated - kernel)
        kernel, momentum = updated, next_momentum
    return kernel


def _centre_kernel(kernel: Tensor) -> Tensor:
    """Shift the centre of mass to the middle by whole pixels."""
    size = kernel.shape[-1]
    offsets = torch.arange(size, device=kernel.device, dtype=kernel.dtype) - size // 2
    shift_y = round(float((kernel.sum(1) * offsets).sum()))
    shift_x = round(float((kernel.sum(0) * offsets).sum()))
    shifted = F.pad(kernel, (size, size, size, size))
    shifted = shifted[size + shift_y : 2 * size + shift_y, size + shift_x : 2 * size + shift_x]
    centred: Tensor = shifted / shifted.sum()
    return centred


def _make_initial_kernel(side: int) -> Tensor:
    """Return a kernel of two adjacent pixels; a point would be the trivial solution."""
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2 : side // 2 + 2] = 0.5
    return kernel


def _resize_kernel(kernel: Tensor, side: int) -> Tensor:
    """Resample a kernel to another size."""
    resized = F.interpolate(kernel[None, None], size=(side, side), mode="bicubic")[0, 0]
    resized = resized.clamp(min=0)
    return resized / resized.sum()


def _extend_periodically(image: Tensor, margin: int) -> Tensor:
    """Pad by reflection and fade to the mean, so that the image is periodic."""
    mean = image.mean((2, 3), keepdim=True)
    margins = (margin, margin, margin, margin)
    mode = "reflect" if margin < min(image.shape[-2:]) else "replicate"
    padded = F.pad(image - mean, margins, mode=mode)
    height, width = padded.shape[2:]
    padded = padded * _make_faded_line(height, margin, image.device)[:, None]
    return padded * _make_faded_line(width, margin, image.device) + mean


def _make_border_taper(image: Tensor, margin: int) -> Tensor:
    """Return weights (Y, X) that fall to 0 at the border, where light comes from outside."""
    column, row = (
        _make_faded_line(count, min(margin, count // 4), image.device) for count in image.shape[2:]
    )
    return column[:, None] * row


def _make_faded_line(count: int, margin: int, device: torch.device) -> Tensor:
    """Return weights (count,) of 1 that fall to 0 within a margin at both ends."""
    weights = torch.ones(count, device=device)
    rise = torch.sin(torch.linspace(0, torch.pi / 2, margin + 1, device=device)[:-1]) ** 2
    weights[:margin], weights[-margin:] = rise, rise.flip(0)
    return weights


def _compute_transfer_function(kernel: Tensor, grid: torch.Size) -> Tensor:
    """Return the transfer function of a kernel whose origin is its middle pixel."""
    padded = F.pad(kernel, (0, grid[1] - kernel.shape[1], 0, grid[0] - kernel.shape[0]))
    shift = (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2))
    transfer: Tensor = torch.fft.rfft2(torch.roll(padded, shift, (0, 1)))
    return transfer


class _AberrationCost:
    """Rates lenses by how well an image of few edges explains the measurement through them."""

    def __init__(self, image: Tensor, noise_variance: float, side: int) -> None:
        self._image, self._side = _crop_for_fft(image, side), side
        self._variance = max(noise_variance, MIN_RELATIVE_NOISE**2)
        self._restoration = _EdgeRestoration(self._image, side)

    def compute(self, waves: Sequence[float], cutoff: float) -> float:
        """Return the squared residual in units of the noise, plus costs of edges and waves."""
        with torch.no_grad():
            kernel = ZernikeKernel((self._side, self._side), waves, cutoff).to(self._image)()
            sharp, is_edge = self._restoration.restore(
                kernel, EDGE_COST * self._variance, SEARCH_COUPLING_FACTOR, SEARCH_MAX_COUPLING
            )
            residual = convolve_by_fourier(sharp, kernel) - _crop_border(self._image, self._side)
            edge_fraction = _crop_border(is_edge, self._side).float().mean()
            cost = (residual**2).mean() / self._variance + EDGE_COST * edge_fraction
            return float(cost) + WAVE_COST * sum(map(abs, waves))


def _crop_border(image: Tensor, side: int) -> Tensor:
    """Return the pixels that a kernel explains from within the image."""
    border = side // 2
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


def _crop_for_fft(image: Tensor, side: int) -> Tensor:
    """Return the middle of an image, so large that with a margin of `side` FFTs are fast."""
    sizes = []
    for count in image.shape[2:]:
        size = min(count, MAX_SEARCH_SIDE) + 2 * side
        while size > 3 * side and find_fft_length(size) != size:
            size -= 1
        sizes.append(size - 2 * side)
    first_y, first_x = ((n - size) // 2 for n, size in zip(image.shape[2:], sizes, strict=True))
    return image[..., first_y : first_y + sizes[0], first_x : first_x + sizes[1]]


def _list_single_aberrations() -> list[list[float]]:
    """List lenses with one aberration each, in all directions."""
    names = list(ZERNIKE_MODES)
    lenses = [[0.0] * len(names)]
    for strength in INITIAL_STRENGTHS:
        for index, (_, order) in enumerate(ZERNIKE_MODES.values()):
            turns = 1 if order == 0 else 4 * order  # each sine stands before its cosine
            for turn in range(turns):
                lens, angle = [0.0] * len(names), 2 * pi * turn / max(turns, 1)
                lens[index] = strength * cos(angle)
                if order > 0:
                    lens[index - 1] = strength * sin(angle)
                lenses.append(lens)
    return lenses


def _improve_lens(
    compute_cost: Callable[[Sequence[float], float], float], lens: _Lens, steps: Sequence[float]
) -> _Lens:
    """Change one number at a time by each step while the cost falls (compass search)."""
    for step in steps:
        for _ in range(MAX_SWEEPS):
            before = lens
            for index in range(len(lens.waves) + 1):
                for change in (step, -step):
                    waves, cutoff = list(lens.waves), lens.cutoff
                    if index < len(waves):
                        waves[index] += change
                    else:
                        cutoff = min(max(cutoff * (1 + change), MIN_CUTOFF), MAX_CUTOFF)
                    if (cost := compute_cost(waves, cutoff)) < lens.cost:
                        lens = _Lens(cost, waves, cutoff)
                        break
            if lens is before:
                break
            # as far again in the same direction
            waves = [2 * a - b for a, b in zip(lens.waves, before.waves, strict=True)]
            if (cost := compute_cost(waves, lens.cutoff)) < lens.cost:
                lens = _Lens(cost, waves, lens.cutoff)
    return lens


def estimate_aberrations(measurement: Tensor, noise_variance: float, size: int) -> ZernikeKernel:
    """Estimate the aberrations of the lens that blurred an image.

    Lenses with one aberration are rated on an image of half the size. The best ones are improved
    there, then in full size, where the best one is returned.

    Parameters
    ----------
    measurement : Tensor
        (1, C, Y, X), of range one; the mean over channels is used, and of a large image its middle.
    noise_variance : float
        Of that mean, in squared units of the measurement.
    size : int
        Odd side of the kernel.
    """
    image = measurement.mean(1, keepdim=True)
    half_side = max(3, (size // 2) | 1)
    half_image = F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True)
    coarse = _AberrationCost(half_image, noise_variance / 4, half_side)
    fine = _AberrationCost(image, noise_variance, size)

    def compute_coarse_cost(waves: Sequence[float], cutoff: float) -> float:
        return coarse.compute(waves, 2 * cutoff)

    starts = [
        _Lens(compute_coarse_cost(waves, INITIAL_CUTOFF), waves, INITIAL_CUTOFF)
        for waves in _list_single_aberrations()
    ]
    lenses = [
        _improve_lens(compute_coarse_cost, lens, COARSE_STEPS)
        for lens in sorted(starts)[:MAX_COARSE_LENSES]
    ]
    rated = sorted(_Lens(fine.compute(*lens[1:]), *lens[1:]) for lens in lenses)
    improved = [_improve_lens(fine.compute, lens, FINE_STEPS) for lens in rated[:MAX_FINE_LENSES]]
    best = min(improved)
    return ZernikeKernel((size, size), best.waves, best.cutoff).to(measurement)
