"""Define learned blur kernels, estimate an unknown one, and describe those of a whole field.

A kernel is a module that returns (*sizes), non-negative and of sum one, without an input. The
spectrum of most scenes falls as a power of the frequency, the blur multiplies it and the noise adds
a floor. The most likely blur is chosen without an estimate of the scene, which avoids the trivial
solution of no blur.

A PSF that changes over the field is a sum of modes with coefficients that change slowly. So the
image is a sum of invariant convolutions: each mode blurs the object times its map of coefficients.

References
----------
Flicker, Rigaut, Anisoplanatic deconvolution of adaptive optics images, JOSA A 22(3), 2005,
doi:10.1364/JOSAA.22.000504. Denis, Thiébaut, Soulez, Becker, Mourya, Fast approximations of
shift-variant blur, IJCV 115, 2015, doi:10.1007/s11263-015-0817-x.
"""

from __future__ import annotations

from functools import partial
from math import log, pi, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from napari_dip.engine.constants import ZERNIKE_MODES
from napari_dip.engine.fit.optimizers import Adam
from napari_dip.engine.networks.layers import make_without_init
from napari_dip.engine.operators.imaging import find_fft_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Fraction of uniform light in an initial free kernel, since a softmax has no zeros.
_UNIFORM_FRACTION = 0.01
#: Input units of the kernel's network (Ren et al. 2020, https://github.com/csdwren/SelfDeblur).
_INPUT_UNITS = 200
#: Hidden units of the kernel's network, as in the code of Ren et al. 2020.
_HIDDEN_UNITS = 1000
#: Scale of the fixed input of the kernel's network, as in the code of Ren et al. 2020.
_INPUT_STD = 0.1
#: Points per pixel of the longest line that fits; with 4, its weights are uniform to 1 %.
_POINTS_PER_PIXEL = 4
#: Samples per pixel along each axis of a disc.
_DISC_SAMPLES = 5
#: Exponent of the power spectra of scenes. Field (1987) measured 2; with 2.4, widths on eight
#: photographs are 4 % too large in the mean (docs/constants.md).
SPECTRUM_EXPONENT = 2.4
#: Standard deviation over scenes of the exponent of the power spectrum.
SPECTRUM_EXPONENT_STD = 0.3
#: Standard deviation over scenes of what level and exponent change with the direction: with it 3
#: of 98 crops get a wrong kind of blur, 9 without such a change (docs/constants.md).
ANISOTROPY_STD = 1.5
#: Standard deviation of the logarithm of the measured noise variance.
LOG_NOISE_STD = 0.3
#: Weight of the priors on scene and noise against the mean over all frequencies; it is not smaller
#: since neighbouring frequencies are correlated by the taper and the scene.
PRIOR_WEIGHT = 0.01
#: Lowest frequency in cycles per pixel; below it is the taper.
MIN_FREQUENCY = 0.02
#: Highest frequency, that of two pixels.
MAX_FREQUENCY = 0.5
#: Mean difference of the logarithms of spectrum and periodogram: Euler's constant.
EULER_GAMMA = 0.5772
#: Delta of the Huber loss, since the distribution has a long lower tail.
HUBER_DELTA = 2.0
#: Largest number of frequencies of the search over all candidate kernels.
MAX_SEARCH_FREQUENCIES = 1500
#: Iterations of the search over all candidate kernels.
SEARCH_ITERATIONS = 40
#: Iterations of the final fits of the best candidate kernels.
FINAL_FIT_ITERATIONS = 120
#: Learning rate (Adam) of the fits of a scene's spectrum, in units of a logarithm.
SPECTRUM_LEARNING_RATE = 0.05
#: Largest number of candidate kernels in the final fits.
MAX_FINAL_CANDIDATES = 3
#: Largest error of a PSF of a field that the modes leave, relative to the PSF's norm.
MAX_MODE_ERROR = 0.01
#: Largest number of modes of the PSFs of a field: each costs a convolution.
MAX_MODES = 10


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
        self.logits: nn.Parameter | nn.Module = (
            nn.Parameter(logits.clone()) if isinstance(logits, Tensor) else logits
        )

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
    normalised = kernel / kernel.sum()
    return ((1 - _UNIFORM_FRACTION) * normalised + _UNIFORM_FRACTION / kernel.numel()).log()


class KernelNetwork(nn.Module):
    """Logits of a kernel from a small untrained network with a fixed input.

    Parameters
    ----------
    sizes : tuple of int
    rng : torch.Generator
        Draws the weights and the input.
    initial_logits : Tensor or None
        (*sizes); None: random.

    References
    ----------
    Ren et al., Neural blind deconvolution using deep priors, CVPR 2020,
    doi:10.1109/CVPR42600.2020.00340.
    """

    fixed_input: Tensor

    def __init__(
        self, sizes: tuple[int, ...], rng: torch.Generator, initial_logits: Tensor | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        kernel_pixels = int(torch.Size(sizes).numel())
        self.register_buffer("fixed_input", torch.rand(_INPUT_UNITS, generator=rng) * _INPUT_STD)
        hidden_layer = _make_linear(_INPUT_UNITS, _HIDDEN_UNITS, rng)
        output_layer = _make_linear(_HIDDEN_UNITS, kernel_pixels, rng)
        if initial_logits is not None:
            with torch.no_grad():
                output_layer.weight.zero_()
                output_layer.bias.copy_(initial_logits.flatten())
        self.layers: nn.Sequential = nn.Sequential(hidden_layer, nn.ReLU6(), output_layer)

    def forward(self) -> Tensor:
        """Return the logits (*sizes)."""
        return self.layers(self.fixed_input).reshape(self.sizes)  # type: ignore[no-any-return]


class GaussianKernel(nn.Module):
    """Gaussian kernel, sampled at the pixels' centres.

    Parameters
    ----------
    sizes : tuple of int
    sigma : float, > 0
        Initial standard deviation in pixels, the same along all axes.
    """

    def __init__(self, sizes: tuple[int, ...], sigma: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.log_sigmas: nn.Parameter = nn.Parameter(_compute_logarithms("sigma", (sigma,)))

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        sigmas = self.log_sigmas.exp().expand(len(self.sizes))
        exponent = sigmas.new_zeros(())
        for axis, size in enumerate(self.sizes):
            squares = (_compute_middle_offsets(size, sigmas) / sigmas[axis]) ** 2 / 2
            exponent = exponent - squares.reshape(-1, *(1,) * (len(self.sizes) - 1 - axis))
        return torch.softmax(exponent.flatten(), 0).reshape(self.sizes)

    def get_kernel_parameters(self) -> dict[str, tuple[float, ...]]:
        """Return the standard deviations in pixels."""
        return {"sigmas": tuple(self.log_sigmas.detach().exp().tolist())}


class MotionKernel(nn.Module):
    """Motion kernel: a straight antialiased line.

    Parameters
    ----------
    sizes : tuple of int
    length : float, > 0
        Initial length in pixels.
    angle : float
        Initial angle in radians, from X towards Y.
    """

    positions: Tensor

    def __init__(self, sizes: tuple[int, ...], length: float, angle: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.log_length: nn.Parameter = nn.Parameter(_compute_logarithms("length", (length,))[0])
        self.angle: nn.Parameter = nn.Parameter(torch.tensor(float(angle)))
        count = _POINTS_PER_PIXEL * int(sqrt(sizes[-1] ** 2 + sizes[-2] ** 2)) + 1
        positions = (torch.arange(count) + 0.5) / count - 0.5
        self.register_buffer("positions", positions, persistent=False)

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        positions = self.positions * self.log_length.exp()
        rows, columns = (_compute_middle_offsets(side, positions) for side in self.sizes)
        offset_y = positions[:, None] * self.angle.sin() - rows  # (points, height)
        offset_x = positions[:, None] * self.angle.cos() - columns
        plane = (1 - offset_y.abs()).clamp(min=0).T @ (1 - offset_x.abs()).clamp(min=0)
        return plane / plane.sum()

    def get_kernel_parameters(self) -> dict[str, tuple[float, ...]]:
        """Return the length in pixels and the angle in radians, from 0 to pi."""
        length, angle = self.log_length.detach().exp().item(), self.angle.detach().item() % pi
        return {"length": (length,), "angle": (angle,)}


class DefocusKernel(nn.Module):
    """Defocus kernel: a uniform disc, as in geometrical optics.

    Parameters
    ----------
    sizes : tuple of int
    radius : float, > 0
        Initial radius in pixels. Below half a pixel it is a point without a gradient.
    """

    def __init__(self, sizes: tuple[int, ...], radius: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.log_radius: nn.Parameter = nn.Parameter(_compute_logarithms("radius", (radius,))[0])

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        radius = self.log_radius.exp()
        samples = (torch.arange(_DISC_SAMPLES, device=radius.device) + 0.5) / _DISC_SAMPLES - 0.5
        offset_y, offset_x = (
            (_compute_middle_offsets(size, radius)[:, None] + samples).flatten()
            for size in self.sizes
        )
        distance = (offset_y[:, None] ** 2 + offset_x**2).sqrt()
        # with an edge of one sample
        coverage = ((radius - distance) * _DISC_SAMPLES + 0.5).clamp(0, 1)
        height, width = self.sizes
        plane = coverage.reshape(height, _DISC_SAMPLES, width, _DISC_SAMPLES).mean((1, 3))
        return plane / plane.sum()

    def get_kernel_parameters(self) -> dict[str, tuple[float, ...]]:
        """Return the radius in pixels."""
        return {"radius": (self.log_radius.detach().exp().item(),)}


class ZernikeKernel(nn.Module):
    """Kernel of a lens with aberrations: a point by scalar diffraction at a circular pupil.

    Parameters
    ----------
    sizes : tuple of int
        Two sizes, odd.
    waves : sequence of float
        Root mean square of each mode of `ZERNIKE_MODES`, in wavelengths.
    cutoff : float
        Radius of the pupil in cycles per pixel: numerical aperture times pixel size over
        wavelength. The kernel has no frequency beyond twice that.

    References
    ----------
    Goodman, Introduction to Fourier Optics, chapter 6 (generalised pupil).
    """

    def __init__(self, sizes: tuple[int, ...], waves: Sequence[float], cutoff: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.waves: nn.Parameter = nn.Parameter(torch.tensor(waves, dtype=torch.float32))
        self.cutoff: nn.Parameter = nn.Parameter(torch.tensor(float(cutoff)))

    def forward(self) -> Tensor:
        """Return the kernel (*sizes)."""
        grid = [find_fft_length(2 * size) for size in self.sizes]
        frequency_y, frequency_x = (torch.fft.fftfreq(count).to(self.waves) for count in grid)
        frequency = torch.hypot(frequency_y[:, None], frequency_x)
        angle = torch.atan2(frequency_y[:, None], frequency_x)
        # with an edge of one sample
        amplitude = ((self.cutoff - frequency) * min(grid) + 0.5).clamp(0, 1)
        phase = self._compute_phase((frequency / self.cutoff).clamp(max=1), angle)
        field = torch.fft.fftshift(torch.fft.ifft2(torch.polar(amplitude, 2 * pi * phase)))
        first_y, first_x = (n // 2 - size // 2 for n, size in zip(grid, self.sizes, strict=True))
        rows, columns = self.sizes
        intensity: Tensor = field[first_y : first_y + rows, first_x : first_x + columns].abs() ** 2
        return intensity / intensity.sum()

    def _compute_phase(self, radius: Tensor, angle: Tensor) -> Tensor:
        """Return the aberrations in wavelengths at polar coordinates of the pupil."""
        phase = torch.zeros_like(radius)
        for weight, (terms, order) in zip(self.waves, ZERNIKE_MODES.values(), strict=True):
            radial = sum(factor * radius**power for factor, power in terms)
            turn = torch.sin(-order * angle) if order < 0 else torch.cos(order * angle)
            phase = phase + weight * radial * turn
        return phase

    def get_kernel_parameters(self) -> dict[str, tuple[float, ...]]:
        """Return the aberrations in wavelengths and the radius of the pupil in cycles per pixel."""
        return {
            "waves": tuple(self.waves.detach().tolist()),
            "cutoff": (self.cutoff.detach().item(),),
        }


def _compute_logarithms(name: str, values: tuple[float, ...]) -> Tensor:
    if not all(value > 0 for value in values):  # also catches nan
        raise ValueError(f"`{name}` must be above 0 pixels, but is {values!r}.")
    return torch.tensor([log(value) for value in values])


def _compute_middle_offsets(size: int, template: Tensor) -> Tensor:
    """Return the offsets from the middle pixel, (size,)."""
    return torch.arange(size, device=template.device, dtype=template.dtype) - size // 2


def _make_linear(in_features: int, out_features: int, rng: torch.Generator) -> nn.Linear:
    """Return a linear layer with torch's initialisation, drawn from `rng` alone."""
    layer = make_without_init(nn.Linear, in_features, out_features)
    for values in layer.parameters():
        nn.init.uniform_(values, -1 / sqrt(in_features), 1 / sqrt(in_features), generator=rng)
    return layer


def find_most_likely_blur(
    measurement: Tensor,
    noise_variance: Tensor,
    blur_factories: Sequence[Callable[[], nn.Module]],
    *,
    allows_directions: bool = True,
) -> tuple[float, nn.Module]:
    """Return the blur under which the spectrum of the measurement is most likely, after its loss.

    Parameters
    ----------
    measurement : Tensor
        (1, C, Y, X); all channels share the blur.
    noise_variance : Tensor
        (C,), of white noise, in squared units of the measurement.
    blur_factories : sequence of callables
        Factories of the candidates, modules that return a kernel (*sizes) without an input. The
        parameters of the best ones are fitted, and the best of these is returned.
    allows_directions : bool
        Whether the scene's spectrum may depend on the direction.

    References
    ----------
    Levin, Weiss, Durand, Freeman, Understanding and evaluating blind deconvolution algorithms,
    CVPR 2009, doi:10.1109/CVPR.2009.5206815 (why to estimate the blur without the image).
    Field, Relations between the statistics of natural images and the response properties of
    cortical cells, J. Opt. Soc. Am. A 4(12), 1987, doi:10.1364/JOSAA.4.002379.
    """
    grid = tuple(measurement.shape[2:])
    periodogram = _compute_periodogram(measurement, allows_directions=allows_directions)
    count = min(MAX_SEARCH_FREQUENCIES, len(periodogram.indices))
    subset = torch.linspace(0, len(periodogram.indices) - 1, count).long().to(measurement.device)
    searched = periodogram.select(subset)
    blurs = [make_blur().to(measurement.device) for make_blur in blur_factories]
    with torch.no_grad():
        spectra = torch.stack([_compute_blur_power(blur, grid, searched.indices) for blur in blurs])
    losses = _SpectrumModel(searched, noise_variance, len(blurs)).fit(
        spectra.clone, SEARCH_ITERATIONS
    )
    fitted: list[tuple[float, nn.Module]] = []
    for candidate in losses.argsort()[:MAX_FINAL_CANDIDATES].tolist():
        blur = blurs[candidate]
        compute_spectrum = partial(_compute_blur_power, blur, grid, periodogram.indices)
        parameters = [parameter for parameter in blur.parameters() if parameter.requires_grad]
        model = _SpectrumModel(periodogram, noise_variance)
        fitted.append((float(model.fit(compute_spectrum, FINAL_FIT_ITERATIONS, parameters)), blur))
    return min(fitted, key=lambda pair: pair[0])


class _Periodogram(NamedTuple):
    """Spectrum of a measurement at K waves of the half-plane."""

    power: Tensor  # (C, K)
    frequency: Tensor  # (K,), in cycles per pixel
    directions: Tensor  # (2, K), cosine and sine of twice the angle; (0, K) if scenes have none
    indices: Tensor  # (K,), in the flattened transform of real images

    def select(self, subset: Tensor) -> _Periodogram:
        """Return some of the waves."""
        return _Periodogram(*(values[..., subset] for values in self))


class _SpectrumModel:
    """Model of the spectrum of scene and noise: level, exponent and floor for each channel.

    Level and exponent may depend on the direction, since most scenes have more edges or lines along
    some directions, which a motion would otherwise have to explain. Several candidates are fitted
    at once, each with its own model.
    """

    def __init__(
        self, periodogram: _Periodogram, noise_variance: Tensor, candidates: int = 1
    ) -> None:
        self._log_power = periodogram.power.clamp(min=1e-30).log() + EULER_GAMMA  # (C, K)
        self._log_frequency = periodogram.frequency.log()
        directions = periodogram.directions
        self._waves = torch.cat([directions, directions * self._log_frequency])
        self._log_noise = noise_variance.clamp(min=1e-30).log()[:, None]
        is_low_frequency = self._log_frequency < log(0.08)
        levels = self._log_power + SPECTRUM_EXPONENT * self._log_frequency
        level = levels[:, is_low_frequency].mean(1, keepdim=True).repeat(candidates, 1, 1)
        self.level = level.requires_grad_()  # (candidates, C, 1)
        self.exponent = torch.full_like(level, SPECTRUM_EXPONENT).requires_grad_()
        self.anisotropy = level.new_zeros(*level.shape[:2], len(self._waves)).requires_grad_()
        self.floor = self._log_noise.repeat(candidates, 1, 1).requires_grad_()

    def compute_losses(self, spectrum: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the periodogram, without constants.

        Parameters
        ----------
        spectrum : Tensor
            (candidates, K) or (K,), squared modulus of the blur's transfer function.

        Returns
        -------
        Tensor
            (candidates,)
        """
        log_scene_power = self.level - self.exponent * self._log_frequency
        log_scene_power = log_scene_power + self.anisotropy @ self._waves
        log_scene_power = log_scene_power + spectrum.clamp(min=1e-12).log()[..., None, :]
        residual = self._log_power - torch.logaddexp(log_scene_power, self.floor)
        negative_log_likelihood = nn.functional.huber_loss(
            residual, torch.zeros_like(residual), delta=HUBER_DELTA, reduction="none"
        )
        deviations = torch.cat(
            [
                (self.exponent - SPECTRUM_EXPONENT) / SPECTRUM_EXPONENT_STD,
                (self.floor - self._log_noise) / LOG_NOISE_STD,
                self.anisotropy / ANISOTROPY_STD,
            ],
            -1,
        )
        prior_penalty = deviations.square().sum(-1).mean(-1) / 2
        return negative_log_likelihood.mean((1, 2)) + PRIOR_WEIGHT * prior_penalty

    def fit(
        self,
        compute_spectrum: Callable[[], Tensor],
        iterations: int,
        blur_parameters: Sequence[nn.Parameter] = (),
    ) -> Tensor:
        """Fit the scenes, and the blur's parameters if there are any; return the final losses."""
        parameters = [self.level, self.exponent, self.anisotropy, self.floor, *blur_parameters]
        optimizer = Adam(parameters, lr=SPECTRUM_LEARNING_RATE)
        with torch.enable_grad():
            for iteration in range(iterations):
                decay = 1 - iteration / iterations
                optimizer.param_groups[0]["lr"] = SPECTRUM_LEARNING_RATE * decay
                optimizer.zero_grad()
                losses = self.compute_losses(compute_spectrum())
                losses.sum().backward()
                optimizer.step()
        return losses.detach()


def _compute_periodogram(measurement: Tensor, *, allows_directions: bool) -> _Periodogram:
    """Return the mean-free, tapered spectrum."""
    height, width = measurement.shape[2:]
    taper = torch.hann_window(height, periodic=False, device=measurement.device)[:, None]
    taper = taper * torch.hann_window(width, periodic=False, device=measurement.device)
    mean = (measurement[0] * taper).sum((1, 2), keepdim=True) / taper.sum()
    power = torch.fft.rfft2((measurement[0] - mean) * taper).abs() ** 2 / (taper**2).sum()
    frequency_y = torch.fft.fftfreq(height, device=measurement.device)[:, None]
    frequency_x = torch.fft.rfftfreq(width, device=measurement.device)
    frequency = (frequency_y**2 + frequency_x**2).sqrt()
    in_range = (frequency > MIN_FREQUENCY) & (frequency < MAX_FREQUENCY)
    angle = torch.atan2(frequency_y.expand_as(in_range), frequency_x.expand_as(in_range))[in_range]
    return _Periodogram(
        power=power[:, in_range],
        frequency=frequency[in_range],
        directions=torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)])[
            : 2 * allows_directions
        ],
        indices=in_range.flatten().nonzero()[:, 0],
    )


def _compute_blur_power(blur: nn.Module, grid: tuple[int, ...], indices: Tensor) -> Tensor:
    """Return the squared modulus of a kernel's transfer function at some frequencies (K,)."""
    kernel: Tensor = blur()
    power: Tensor = torch.fft.rfft2(kernel, s=grid).abs() ** 2
    return power.flatten()[indices]


class FieldPsf(NamedTuple):
    """A PSF that changes over the field.

    Attributes
    ----------
    modes : Tensor
        (K, *sizes) float32, with odd sizes.
    coefficients : Tensor
        (K, *cells) float32: the PSF in the middle of a cell is the sum of the modes times these.
        The cells divide the field equally along each axis.
    """

    modes: Tensor
    coefficients: Tensor


def decompose_field(kernels: Tensor, cells: tuple[int, ...]) -> FieldPsf:
    """Describe PSFs by the fewest singular vectors that explain each of them.

    Parameters
    ----------
    kernels : Tensor
        (P, *sizes), one for each cell, row by row; each of sum one.
    cells : tuple of int
        Number of cells along each axis of the field, with the product P.

    Returns
    -------
    FieldPsf
        Its PSFs have a sum of one.

    Examples
    --------
    >>> field_psf = decompose_field(kernels, (5, 5))
    """
    flat = kernels.flatten(1).double()
    vectors: Tensor = torch.linalg.svd(flat, full_matrices=False)[2][:MAX_MODES]
    weights = flat @ vectors.T
    energy = flat.square().sum(1, keepdim=True)
    remaining = (1 - weights.square().cumsum(1) / energy).amax(0)
    is_enough = remaining <= MAX_MODE_ERROR**2
    count = int(is_enough.long().argmax()) + 1 if bool(is_enough.any()) else len(vectors)
    vectors, weights = vectors[:count], weights[:, :count]
    weights = weights / (weights @ vectors.sum(1))[:, None]
    return FieldPsf(
        modes=vectors.reshape(count, *kernels.shape[1:]).float(),
        coefficients=weights.T.reshape(count, *cells).float(),
    )


def interpolate_coefficients(
    coefficients: Tensor, image_size: tuple[int, ...], start: tuple[int, ...], grid: tuple[int, ...]
) -> Tensor:
    """Interpolate coefficients linearly between the middles of cells, for part of the field.

    From the outermost middles to the border of the field they are continued linearly. Beyond the
    border they are those of the border.

    Parameters
    ----------
    coefficients : Tensor
        (K, *cells).
    image_size : tuple of int
        Pixels of the field along each axis.
    start, grid : tuple of int
        First pixel of the part in the field, which may be negative, and its size.

    Returns
    -------
    Tensor
        (K, *grid)
    """
    for axis, (first, count, size) in enumerate(zip(start, grid, image_size, strict=True), 1):
        weights = _compute_cell_weights(first, count, size, coefficients.shape[axis])
        weights = weights.to(coefficients)
        coefficients = torch.tensordot(coefficients, weights, dims=([axis], [1])).movedim(-1, axis)
    return coefficients


def _compute_cell_weights(start: int, count: int, size: int, cells: int) -> Tensor:
    """Return the weight of each cell's middle at each pixel along one axis, (pixels, cells)."""
    if cells == 1:
        return torch.ones(count, 1)
    places = (torch.arange(start, start + count, dtype=torch.float64) + 0.5).clamp(0, size)
    positions = places * cells / size - 0.5
    lower = positions.floor().long().clamp(0, cells - 2)
    fractions = positions - lower
    weights = torch.zeros(count, cells, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], (1 - fractions)[:, None])
    weights.scatter_(1, lower[:, None] + 1, fractions[:, None])
    return weights
