"""Compute Gaussian and microscope PSFs, estimate Gaussians of stacks, and clean given PSFs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor, inf, isfinite, log, pi, sqrt
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.constants import (
    AIRY_RADIUS_FACTOR,
    GAUSSIAN_RADIUS_SIGMAS,
    MIN_RETAINED_LIGHT,
)
from napari_dip.engine.fit.optimizers import LineSearchLbfgs
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors.notes import Note

#: Side of the overlapping blocks of a stack whose periodograms are averaged, in pixels.
_VOLUME_BLOCK_SIDE = 64
#: Prior mean of the exponent of a stack's power spectrum: points have 0, lines 1, surfaces 2 and
#: solids 4.
_EXPONENT = 2.0
#: Prior standard deviation of the exponent of a stack's power spectrum.
_EXPONENT_STD = 1.5
#: Prior standard deviation of the logarithm of the noise.
_LOG_NOISE_STD = 0.1
#: Weight of the prior against the mean over all frequencies.
_PRIOR_WEIGHT = 1e-4
#: Widths of the PSF in the plane from which the search starts, in pixels.
_START_WIDTHS = (1.0, 1.8)
#: Ratios of the PSF's width along Z to that in the plane from which the search starts.
_START_RATIOS = (1.0, 2.0)
#: Steps of the search for the widths of the PSF.
_SEARCH_STEPS = 150
#: Fewest samples per pixel along Y and X for integration over a pixel. Twice as many change no
#: pixel by more than 0.2 % of the peak (there is a test).
_MIN_PIXEL_SAMPLES = 5
#: Fewest samples per Airy radius for integration over a pixel; the same test doubles them.
_SAMPLES_PER_AIRY = 8
#: Steps of the radial profile per Airy radius; linear interpolation has errors of 1e-4.
_STEPS_PER_AIRY = 64
#: Nodes of the pupil integral per period of its phase.
_NODES_PER_CYCLE = 8
#: Least number of nodes of the pupil integral.
_MIN_NODES = 64
#: Distance of the centre of mass from the middle between two pixels, in pixels, below which the
#: squared PSF decides which of the two is the centre.
_CENTRE_TOLERANCE = 0.25
#: Largest distance in pixels between the centres of mass of values and squared values of a PSF that
#: counts as symmetric: 0.02 in 9 of 10 Gaussians of 1,000 counts, 0.04 to 2.1 in seven measured or
#: shaken PSFs.
_MAX_ASYMMETRY = 0.03
#: Least distance of a PSF from its middle that is noted, in pixels: 0.02 is usual with noise.
_MIN_NOTED_SHIFT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _FocusOptics:
    """Objective and wavelength; lengths in nm."""

    na: float
    wavelength: float
    refractive_index: float

    def __post_init__(self) -> None:
        """Check that the values are physical.

        Raises
        ------
        ValueError
            If a value is not positive and finite, or the aperture not below the refractive index.
        """
        if not (0 < self.na < self.refractive_index < inf and 0 < self.wavelength < inf):
            raise ValueError(
                f"No light passes an aperture of {self.na} in a medium of refractive index "
                f"{self.refractive_index} at a wavelength of {self.wavelength} nm."
            )

    @property
    def airy_radius(self) -> float:
        """Radius of the first dark ring, in nm."""
        return AIRY_RADIUS_FACTOR * self.wavelength / self.na


def sample_gaussian_psf(sigmas: tuple[float, ...], sizes: tuple[int, ...] | None = None) -> Tensor:
    """Sample a Gaussian at the pixels' centres.

    Parameters
    ----------
    sigmas : tuple of float, >= 0
        Standard deviation along each axis in pixels; 0: no blur.
    sizes : tuple of int or None
        Odd; None: four standard deviations to either side.

    Returns
    -------
    Tensor
        (*sizes) float32 of sum one.

    Raises
    ------
    ValueError
        If a width is negative or not a number, or a size is even.
    """
    if not all(sigma >= 0 for sigma in sigmas):  # also catches nan
        raise ValueError(f"`sigmas` must be 0 or more, but are {sigmas}.")
    if sizes is None:
        sizes = tuple(2 * ceil(GAUSSIAN_RADIUS_SIGMAS * sigma) + 1 for sigma in sigmas)
    _require_odd(sizes)
    psf = torch.ones((), dtype=torch.float64)
    for sigma, size in zip(sigmas, sizes, strict=True):
        offset = torch.arange(size, dtype=torch.float64) - size // 2
        profile = torch.exp(-((offset / sigma) ** 2) / 2) if sigma else (offset == 0).double()
        psf = psf[..., None] * profile
    return (psf / psf.sum()).float()


def estimate_gaussian_psf(
    volume: Tensor, noise_variance: Tensor, plane_distance: float
) -> tuple[float, float]:
    """Estimate the Gaussian blur of a stack from its power spectrum.

    The spectrum of the scene falls as a power of the frequency in space, in all directions alike;
    the blur multiplies it, the window of the periodogram smooths it, and noise adds a floor. The
    likelihood is that of Whittle.

    Parameters
    ----------
    volume : Tensor
        (1, C, Z, Y, X); channels share the blur.
    noise_variance : Tensor
        (C,), of white noise.
    plane_distance : float, > 0
        Distance of planes in pixels of the plane.

    Returns
    -------
    tuple of float
        Standard deviations along Z, in planes, and along Y and X, in pixels.

    References
    ----------
    Whittle, Estimation and information in stationary time series, Arkiv för Matematik 2(5), 1953,
    doi:10.1007/BF02590998. Welch, The use of fast Fourier transform for the estimation of power
    spectra, IEEE Trans. Audio and Electroacoustics 15(2), 1967, doi:10.1109/TAU.1967.1161901.
    """
    # in double precision, which Apple's graphics lack
    power = _average_periodograms(volume[0].detach().cpu().double())
    model = _VolumeSpectrum(power, float(noise_variance.mean()), plane_distance)
    fits = [model.fit(width, ratio * width) for width in _START_WIDTHS for ratio in _START_RATIOS]
    return min(fits)[1]


def _average_periodograms(channels: Tensor) -> Tensor:
    """Return the mean periodogram of blocks and channels (C, Z, Y, X), with Hann windows."""
    power, count = torch.zeros((), dtype=channels.dtype), 0
    sides = [min(_VOLUME_BLOCK_SIDE, size) for size in channels.shape[1:]]
    window = torch.ones((), dtype=channels.dtype)
    for side in sides:
        window = window[..., None] * torch.hann_window(side, dtype=channels.dtype)
    starts = [
        range(0, size - side + 1, max(1, side // 2))
        for size, side in zip(channels.shape[1:], sides, strict=True)
    ]
    for start in product(*starts):
        box = tuple(slice(at, at + side) for at, side in zip(start, sides, strict=True))
        for block in channels[:, *box]:
            centred = (block - (block * window).sum() / window.sum()) * window
            power = power + torch.fft.fftn(centred).abs().square() / window.square().sum()
            count += 1
    mean: Tensor = power / count
    return mean


class _VolumeSpectrum:
    """Model of the power spectrum of a blurred stack with noise."""

    def __init__(self, power: Tensor, noise_variance: float, plane_distance: float) -> None:
        sides = power.shape
        z, y, x = torch.meshgrid(
            *(torch.fft.fftfreq(side, dtype=power.dtype) for side in sides), indexing="ij"
        )
        self._axial, self._lateral = z.square(), y.square() + x.square()
        squared = self._axial / plane_distance**2 + self._lateral
        # the window mixes the mean into the frequencies next to 0
        bins = torch.stack([f.abs() * side for f, side in zip((z, y, x), sides, strict=True)])
        self._is_used = (bins.amax(0) > 1.5) & (self._lateral < 0.25)
        squared[0, 0, 0] = squared[squared > 0].min()
        log_frequency = squared.log() / 2
        self._log_frequency = log_frequency - log_frequency[self._is_used].mean()
        self._power = power[self._is_used]
        self._log_noise = log(max(noise_variance, 1e-30))

    def fit(self, width: float, axial_width: float) -> tuple[float, tuple[float, float]]:
        """Return the loss and the widths, along Z first, from widths to start with."""
        level = float(self._power.quantile(0.9).log())
        start = [log(width), log(axial_width), level, _EXPONENT, self._log_noise]
        with torch.enable_grad():
            parameters = torch.tensor(start, dtype=self._power.dtype, requires_grad=True)
            optimizer = LineSearchLbfgs(
                [parameters], max_iter=_SEARCH_STEPS, line_search_fn="strong_wolfe"
            )

            def evaluate() -> Tensor:
                optimizer.zero_grad()
                loss = self._compute_loss(parameters)
                loss.backward()
                return loss

            optimizer.step(evaluate)
            loss = float(self._compute_loss(parameters.detach()))
        lateral, axial = parameters.detach()[:2].exp().tolist()
        return (loss if isfinite(loss) else inf), (axial, lateral)

    def _compute_loss(self, parameters: Tensor) -> Tensor:
        """Return the mean negative log-likelihood, with the priors."""
        log_width, log_axial_width, level, exponent, log_noise = parameters
        squares = (2 * log_width).exp() * self._lateral + (2 * log_axial_width).exp() * self._axial
        spectrum = (level - exponent * self._log_frequency - (2 * pi) ** 2 * squares).exp()
        for axis in range(3):  # the squared transform of a Hann window
            neighbours = spectrum.roll(1, axis) + spectrum.roll(-1, axis)
            spectrum = spectrum * (2 / 3) + neighbours / 6
        expected = spectrum[self._is_used] + log_noise.exp()
        penalty = ((exponent - _EXPONENT) / _EXPONENT_STD) ** 2
        penalty = penalty + ((log_noise - self._log_noise) / _LOG_NOISE_STD) ** 2
        fit_loss = (expected.log() + self._power / expected).mean()
        loss: Tensor = fit_loss + _PRIOR_WEIGHT * penalty / 2
        return loss


def resample_psf(psf: Tensor, factors: Sequence[float]) -> Tensor:
    """Return a PSF on another grid, whose pixels average the same light.

    The PSF is taken for band-limited: its Fourier series is evaluated at the new pixels, after
    division by the transfer function of the mean over an old pixel, and times that of a new one.

    Parameters
    ----------
    psf : Tensor
        (*sizes) of sum one, with odd sizes; its middle is its origin.
    factors : sequence of float, > 0
        New pixels per old one along each axis.

    Returns
    -------
    Tensor
        (*sizes) float32, non-negative, of sum one, with odd sizes; for whole factors these are
        factor * (size - 1) + 1.
    """
    if all(factor == 1 for factor in factors):
        return psf
    resampled = psf.double()
    for axis, (size, factor) in enumerate(zip(psf.shape, factors, strict=True)):
        samples = torch.arange(-(size // 2), size // 2 + 1, dtype=torch.float64)
        frequencies = samples / size
        transfer = torch.sinc(frequencies) / torch.sinc(frequencies / factor)
        radius = int(factor * (size // 2))
        places = torch.arange(-radius, radius + 1, dtype=torch.float64) / factor
        # the cosine of a difference, so that memory does not grow with the cube of the size
        new, old = (2 * pi * offsets[:, None] * frequencies for offsets in (places, samples))
        weights = (new.cos() / transfer) @ old.cos().T + (new.sin() / transfer) @ old.sin().T
        resampled = torch.tensordot(weights, resampled, dims=([1], [axis])).movedim(0, axis)
    resampled = resampled.clamp(min=0)
    return (resampled / resampled.sum()).float()


def compute_microscope_psf(
    microscope: Literal["widefield", "confocal"],
    na: float,
    wavelength_nm: float,
    pixel_nm: tuple[float, ...],
    refractive_index: float,
    sizes: tuple[int, ...],
    *,
    excitation_nm: float | None = None,
    pinhole_airy: float = 0.0,
) -> Tensor:
    """Compute the PSF of a microscope without aberrations by scalar diffraction.

    It is the pupil integral of Born and Wolf with the exact phase of a defocused wave. Intensity is
    integrated over the pixel along Y and X, and sampled along Z.

    Parameters
    ----------
    microscope : {"widefield", "confocal"}
        A confocal PSF is the product of the excitation's, and the emission's through the pinhole.
    na : float
        Numerical aperture, above 0 and below the refractive index.
    wavelength_nm : float, nm
        Emission wavelength in vacuum.
    pixel_nm : tuple of float, nm
        Distance of pixels in the sample, per axis: (Y, X) or (Z, Y, X).
    refractive_index : float
        Of immersion and sample, which are assumed to be equal.
    sizes : tuple of int
        Odd, per axis.
    excitation_nm : float or None
        Excitation wavelength in nm, for a confocal microscope; None: that of the emission.
    pinhole_airy : float, Airy units
        Diameter of the pinhole, for a confocal microscope, in diameters of the emission's first
        dark ring; 0: a point.

    Returns
    -------
    Tensor
        (*sizes) float32 of sum one.

    Raises
    ------
    ValueError
        If a length is not positive, the aperture is not below the refractive index, a size is
        even, or the axes are not two or three.

    References
    ----------
    Born and Wolf, Principles of optics, 7th ed., 1999, section 8.8; Gibson and Lanni, JOSA A
    9(1), 1992, doi:10.1364/JOSAA.9.000154 (the phase; here without layers); Wilson and Sheppard,
    Theory and practice of scanning optical microscopy, 1984 (the product).
    """
    _require_axes(sizes, pixel_nm)
    emission = _FocusOptics(na=na, wavelength=wavelength_nm, refractive_index=refractive_index)
    excitation_wavelength = wavelength_nm if excitation_nm is None else excitation_nm
    excitation = (
        None if microscope == "widefield" else replace(emission, wavelength=excitation_wavelength)
    )
    psf = _integrate_over_pixels(emission, excitation, pinhole_airy, pixel_nm, sizes)
    return (psf / psf.sum()).float()


def _integrate_over_pixels(
    emission: _FocusOptics,
    excitation: _FocusOptics | None,
    pinhole: float,
    pixel_nm: tuple[float, ...],
    sizes: tuple[int, ...],
) -> Tensor:
    """Return the mean over each pixel, (*sizes) float64; without excitation: widefield."""
    airy_radius = min(optics.airy_radius for optics in (emission, excitation or emission))
    depth = sizes[0] if len(sizes) == 3 else 1
    planes = (torch.arange(depth, dtype=torch.float64) - depth // 2) * pixel_nm[0]
    offset_y, offset_x = (
        _compute_sample_offsets(size, pixel, airy_radius)
        for size, pixel in zip(sizes[-2:], pixel_nm[-2:], strict=True)
    )
    distance = (offset_y.flatten()[:, None] ** 2 + offset_x.flatten() ** 2).sqrt()
    max_distance = float(distance.max())
    if excitation is None:
        profile, excitation_profile = _compute_radial_profile(emission, planes, max_distance), None
    else:
        profile = _apply_pinhole(emission, planes, max_distance, pinhole)
        excitation_profile = _compute_radial_profile(excitation, planes, max_distance)
    psf = torch.empty(depth, *sizes[-2:], dtype=torch.float64)
    for plane in range(depth):  # one at a time to limit memory
        light = _interpolate_profile(distance, profile[plane], emission)
        if excitation is not None and excitation_profile is not None:
            light = light * _interpolate_profile(distance, excitation_profile[plane], excitation)
        psf[plane] = light.reshape(*offset_y.shape, *offset_x.shape).mean((1, 3))
    return psf.reshape(sizes)


def _compute_radial_profile(optics: _FocusOptics, planes: Tensor, max_radius: float) -> Tensor:
    """Return the intensity over the distance from the axis, (planes, steps).

    The amplitude at (r, z) is the integral over the pupil's radius p from 0 to 1 of
    J0(k NA r p) exp(i k z sqrt(n^2 - NA^2 p^2)) p dp, by Gauss-Legendre quadrature.
    """
    radii = torch.arange(
        ceil(max_radius / _compute_profile_step(optics)) + 2, dtype=torch.float64
    ) * _compute_profile_step(optics)
    wavenumber = 2 * pi / optics.wavelength
    edge_axial_component = sqrt(optics.refractive_index**2 - optics.na**2)
    phase_cycles = (
        optics.na * float(radii[-1])
        + float(planes.abs().max()) * (optics.refractive_index - edge_axial_component)
    ) / optics.wavelength
    pupil, weights = _compute_gauss_legendre_nodes(
        _MIN_NODES + ceil(_NODES_PER_CYCLE * phase_cycles)
    )
    bessel = torch.special.bessel_j0(wavenumber * optics.na * radii[:, None] * pupil)
    axial_component = (optics.refractive_index**2 - (optics.na * pupil) ** 2).sqrt()
    phase = wavenumber * planes[:, None] * axial_component
    weights = weights * pupil
    real = (phase.cos() * weights) @ bessel.T
    imaginary = (phase.sin() * weights) @ bessel.T
    intensity: Tensor = real**2 + imaginary**2
    return intensity


def _apply_pinhole(
    optics: _FocusOptics, planes: Tensor, max_radius: float, diameter: float
) -> Tensor:
    """Return the profile of the intensity through a pinhole, whose diameter is in Airy units.

    A pinhole of radius a around a point at distance r passes, of the light at distance s from the
    axis, the arc of half angle acos((s^2 + r^2 - a^2) / 2 s r).

    Raises
    ------
    ValueError
        If the pinhole is negative or not finite.
    """
    if not 0 <= diameter < inf:
        raise ValueError(f"A pinhole of {diameter} Airy units is none.")
    pinhole_radius = diameter * optics.airy_radius  # the radius, as an Airy unit is two Airy radii
    profile = _compute_radial_profile(optics, planes, max_radius + pinhole_radius)
    if not diameter:
        return profile
    distances = torch.arange(profile.shape[1], dtype=torch.float64) * _compute_profile_step(optics)
    radii = distances[: ceil(max_radius / _compute_profile_step(optics)) + 2, None]
    product = (2 * distances * radii).clamp(min=torch.finfo(torch.float64).tiny)
    cosine = (distances**2 + radii**2 - pinhole_radius**2) / product
    transmitted: Tensor = profile @ (cosine.clamp(-1, 1).acos() * distances).T
    return transmitted


def _interpolate_profile(distance: Tensor, profile: Tensor, optics: _FocusOptics) -> Tensor:
    """Interpolate a profile (steps) at distances of any shape."""
    position = distance / _compute_profile_step(optics)
    index = position.floor().long().clamp(max=len(profile) - 2)
    fraction = position - index
    return profile[index] * (1 - fraction) + profile[index + 1] * fraction


def _compute_profile_step(optics: _FocusOptics) -> float:
    return optics.airy_radius / _STEPS_PER_AIRY


def _compute_sample_offsets(size: int, pixel_nm: float, airy_radius: float) -> Tensor:
    """Return the sample offsets from the middle in nm, (size, samples)."""
    samples = max(_MIN_PIXEL_SAMPLES, ceil(_SAMPLES_PER_AIRY * pixel_nm / airy_radius))
    subpixel_offsets = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5
    return (
        torch.arange(size, dtype=torch.float64)[:, None] - size // 2 + subpixel_offsets
    ) * pixel_nm


def _compute_gauss_legendre_nodes(count: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on 0 to 1, by Golub and Welsch (doi:10.2307/2004418)."""
    order = torch.arange(1, count, dtype=torch.float64)
    off_diagonal = order / (4 * order**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, -1))  # reads the lower half only
    return (nodes + 1) / 2, vectors[0] ** 2


def _require_axes(sizes: tuple[int, ...], pixel_nm: tuple[float, ...]) -> None:
    _require_odd(sizes)
    if len(sizes) not in (2, 3) or len(pixel_nm) != len(sizes):
        raise ValueError(f"Sizes {sizes} and pixels {pixel_nm} are not both of 2 or 3 axes.")
    if not all(0 < pixel < inf for pixel in pixel_nm):
        raise ValueError(f"Pixel sizes must be above 0 nm, but are {pixel_nm}.")


def _require_odd(sizes: tuple[int, ...]) -> None:
    if any(size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"A PSF needs odd sizes to have a middle, but has {sizes}.")


def clean_psf(array: Tensor) -> tuple[Tensor, tuple[Note, ...]]:
    """Centre a PSF, crop its empty border and scale it to sum one.

    Parameters
    ----------
    array : Tensor
        (Y, X) or (Z, Y, X), real numbers of any type, finite, and above 0 somewhere. Negative
        values are set to 0.

    Returns
    -------
    tuple of Tensor and tuple of Note
        The kernel, (*sizes) float32 with odd sizes and its centre of mass at the middle, and notes
        on what was changed.

    Notes
    -----
    An axis of even size has no middle pixel: it is padded to odd size, and the PSF is then also
    shifted by the remaining fraction of a pixel. Without that shift, results are displaced by up to
    half a pixel (bars of DeconvolutionLab2: Richardson-Lucy 28.9 dB without it, 34.0 dB with it).
    Along an axis of odd size the PSF is shifted by that fraction where it is symmetric. Elsewhere
    its origin may be the middle pixel, and it is centred by whole pixels.
    """
    psf = array.detach().to(torch.float64).clamp(min=0)
    psf = psf / psf.max()  # the sum of tiny or huge values may not be finite
    psf = psf / psf.sum()
    notes: list[Note] = []
    fractions: dict[int, float] = {}
    for axis, name in enumerate("ZYX"[-psf.ndim :]):
        size, is_symmetric = psf.shape[axis], _is_symmetric(psf, axis)
        is_even = size % 2 == 0
        middle, centre = _find_middle(psf, axis)
        psf = _pad_around(psf, axis, middle)
        if is_even or is_symmetric:
            fractions[axis] = middle - centre
        if is_even:
            notes.append(make_note("psf-padded", size=size, axis=name, shift=abs(middle - centre)))
        shift = abs((centre if is_symmetric and not is_even else middle) - (size - 1) / 2)
        if shift >= (1 if is_even else _MIN_NOTED_SHIFT):
            notes.append(make_note("psf-centred", shift=round(shift, 1), axis=name))
    psf = _crop_to_light(psf)
    # shifted after the crop: an edge between haze and the zeros of the padding would cause ringing
    for axis, fraction in fractions.items():
        psf = _shift_subpixel(psf, axis, fraction)
    return (psf / psf.sum()).float(), tuple(notes)


def _compute_marginal(psf: Tensor, axis: int) -> Tensor:
    return psf.sum([dim for dim in range(psf.ndim) if dim != axis])


def _compute_centre(weights: Tensor, axis: int) -> float:
    marginal = _compute_marginal(weights, axis)
    indices = torch.arange(len(marginal), dtype=weights.dtype, device=weights.device)
    return float((marginal * indices).sum() / marginal.sum())


def _is_symmetric(psf: Tensor, axis: int) -> bool:
    """Whether squared values have the same centre of mass."""
    return abs(_compute_centre(psf**2, axis) - _compute_centre(psf, axis)) <= _MAX_ASYMMETRY


def _find_middle(psf: Tensor, axis: int) -> tuple[int, float]:
    """Return the pixel that is nearest to the centre of mass, and the centre, in pixels.

    In a widefield stack of an even number of planes, each holds the same amount of light, and one
    side of the focus has one plane more. The centre of mass is then nearly halfway between two
    pixels, and that of squares is taken, where blurred planes far from the focus count less.
    """
    centre = _compute_centre(psf, axis)
    if _is_symmetric(psf, axis) or abs(centre % 1 - 0.5) >= _CENTRE_TOLERANCE:
        return round(centre), centre
    squared_centre, first = _compute_centre(psf**2, axis), floor(centre)
    return first + (squared_centre >= centre), min(max(squared_centre, first), first + 1)


def _pad_around(psf: Tensor, axis: int, middle: int) -> Tensor:
    """Pad with zeros on one side until this pixel is the middle one."""
    after = psf.shape[axis] - 1 - middle
    radius = max(middle, after)
    later_axes = (0, 0) * (psf.ndim - 1 - axis)
    return F.pad(psf, (*later_axes, radius - middle, radius - after))


def _shift_subpixel(psf: Tensor, axis: int, distance: float) -> Tensor:
    """Shift by part of a pixel in the Fourier domain, and set negative values to 0.

    Cubic and Lanczos interpolation blur a PSF of few pixels and give worse results.
    """
    size = psf.shape[axis]
    frequencies = torch.fft.rfftfreq(size, dtype=psf.dtype, device=psf.device)
    phase = torch.polar(torch.ones_like(frequencies), -2 * pi * distance * frequencies)
    spectrum = torch.fft.rfft(psf, dim=axis) * phase.reshape(-1, *(1,) * (psf.ndim - 1 - axis))
    shifted: Tensor = torch.fft.irfft(spectrum, n=size, dim=axis)
    return shifted.clamp(min=0)


def _crop_to_light(psf: Tensor) -> Tensor:
    """Crop to the smallest symmetric box with the required share of the light along each axis."""
    for axis, marginal in enumerate([_compute_marginal(psf, axis) for axis in range(psf.ndim)]):
        centre = len(marginal) // 2
        radius = 0
        while (
            radius < centre
            and float(marginal[centre - radius : centre + radius + 1].sum()) < MIN_RETAINED_LIGHT
        ):
            radius += 1
        psf = psf.narrow(axis, centre - radius, 2 * radius + 1)
    return psf
