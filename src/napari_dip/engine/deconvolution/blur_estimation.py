"""A first guess at a blur of any shape: the kernel that turns few sharp edges into the picture.

From coarse to fine, two closed-form steps take turns: the picture of few edges that explains the
measurement under the present kernel, and the kernel that turns those edges into the measured ones.

What the spectrum of a blurred picture tells of its blur, whatever the picture shows.

The spectrum of most scenes falls as a power of the frequency; a blur multiplies it by its own
spectrum, and the noise adds a floor. Which blur makes the measured spectrum likely can be told
without knowing the scene, and a point is no favourite then, as it is where scene and blur are
fitted together: a scene that is blurred itself is an unlikely scene.
"""

from __future__ import annotations

from functools import partial
from math import ceil, log, log2, sqrt
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dip.engine.fit.schedule import Adam

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Weight of an edge against a squared residual, for a picture of range one: at the start, how it
#: falls from turn to turn, and where that ends. Pan et al. 2014 begin with 4e-3 and let it fall by
#: 1.1: of 12 pictures of Levin's set the least alike of the found kernels then has 0.60 in common
#: with the true one, and 0.77 with these.
INITIAL_EDGE_WEIGHT, EDGE_WEIGHT_DECAY, MIN_EDGE_WEIGHT = 2e-2, 1.2, 1e-4
#: Weight of the kernel's squared length.
KERNEL_WEIGHT = 2.0
#: Coupling between picture and edges: doubled from twice the weight of an edge up to this.
MAX_COUPLING = 1e5
#: Turns on each scale; a scale is finer than the one before by the root of two.
ITERATIONS_PER_SCALE = 5
#: Width of the coarsest kernel.
MIN_KERNEL_SIDE = 5
#: Parts of a kernel below this share of its peak are noise.
MIN_KERNEL_SHARE = 0.05
#: Steps towards the best kernel that is nowhere negative; more move it by less than a hundredth.
FISTA_ITERATIONS = 60


def estimate_kernel_from_edges(measurement: Tensor, size: int) -> Tensor:
    """Guess a blur kernel.

    Parameters
    ----------
    measurement : Tensor
        (1, C, Y, X), of range one; the mean over channels is looked at.
    size : int
        Odd width of the kernel.

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
    SIAM J. Imaging Sci. 2(1), 2009, doi:10.1137/080716542: the steps towards the kernel.
    """
    picture = measurement.mean(1, keepdim=True)
    scales = max(0, ceil(2 * log2(size / MIN_KERNEL_SIDE)))
    kernel = None
    edge = INITIAL_EDGE_WEIGHT
    for scale in range(scales, -1, -1):
        factor = sqrt(0.5) ** scale
        side = max(3, int(size * factor) | 1)
        shape = [max(8, round(count * factor)) for count in picture.shape[2:]]
        coarse = picture
        if scale:
            coarse = F.interpolate(picture, size=shape, mode="bicubic", antialias=True)
        kernel = (
            _make_initial_kernel(side).to(picture)
            if kernel is None
            else _resize_kernel(_centre_kernel(kernel), side)
        )
        for _ in range(ITERATIONS_PER_SCALE):
            sharp = _restore_l0_gradient(coarse, kernel, edge)
            kernel = _estimate_kernel(sharp, coarse, side)
            edge = max(edge / EDGE_WEIGHT_DECAY, MIN_EDGE_WEIGHT)
    assert kernel is not None
    return _centre_kernel(kernel)


def _restore_l0_gradient(picture: Tensor, kernel: Tensor, edge: float) -> Tensor:
    """Find the picture of few edges that explains a blurred one, by splitting."""
    margin = kernel.shape[-1]
    wide = _extend_periodically(picture, margin)
    grid = wide.shape[2:]
    blur = _compute_transfer_function(kernel, grid)
    steps = [
        _compute_transfer_function(kernel, grid) for kernel in _make_difference_kernels(picture)
    ]
    data = blur.conj() * torch.fft.rfft2(wide)
    power, roughness = blur.abs() ** 2, sum(step.abs() ** 2 for step in steps)
    sharp, coupling = wide, 2 * edge
    while coupling < MAX_COUPLING:
        spectrum = torch.fft.rfft2(sharp)
        slopes = [torch.fft.irfft2(step * spectrum, s=grid) for step in steps]
        kept = sum(slope**2 for slope in slopes) >= edge / coupling
        edges = [torch.fft.rfft2(slope * kept) for slope in slopes]
        pulled = sum(item.conj() * part for item, part in zip(steps, edges, strict=True))
        sharp = torch.fft.irfft2(
            (data + coupling * pulled) / (power + coupling * roughness), s=grid
        )
        coupling *= 2
    return sharp[..., margin:-margin, margin:-margin]


def _estimate_kernel(sharp: Tensor, picture: Tensor, side: int) -> Tensor:
    """Find the kernel that turns the edges of one picture into those of another."""
    border = _make_border_taper(picture, side)
    wanted = [border * gradient for gradient in _compute_gradients(picture)]
    values = [border * gradient for gradient in _compute_gradients(sharp)]
    grid = picture.shape[2:]
    spectra = [
        (torch.fft.rfft2(a), torch.fft.rfft2(b)) for a, b in zip(values, wanted, strict=True)
    ]
    alike = torch.fft.irfft2(sum(a.conj() * b for a, b in spectra), s=grid)[0, 0]
    half = side // 2
    target = torch.roll(alike, (half, half), (0, 1))[:side, :side]
    own = torch.fft.irfft2(sum(a.abs() ** 2 for a, _ in spectra), s=grid)[0, 0]
    kernel = _solve_fista(own, target)
    kernel = torch.where(kernel < MIN_KERNEL_SHARE * kernel.max(), 0, kernel)
    total = kernel.sum()
    return kernel / total if float(total) > 0 else _make_initial_kernel(side).to(picture)


def _solve_fista(own: Tensor, target: Tensor) -> Tensor:
    """Solve for a kernel >= 0 by accelerated projected gradients (Beck and Teboulle 2009).

    Parameters
    ----------
    own : Tensor
        (Y, X), autocorrelation of the sharp edges, lag zero first.
    target : Tensor
        (side, side), their correlation with the blurred ones.
    """
    side = len(target)
    wide = 2 * side
    lags = torch.arange(1 - side, side, device=own.device)
    few = own.new_zeros(wide, wide)
    down, right = (lags % count for count in own.shape)
    few[lags[:, None] % wide, lags % wide] = own[down[:, None], right]
    # beyond half the picture its lags fold back, which can bend the spectrum below zero
    spectrum = torch.fft.rfft2(few).real.clamp(min=0)
    bound = float(spectrum.max()) + KERNEL_WEIGHT

    def slope(kernel: Tensor) -> Tensor:
        blurred = torch.fft.irfft2(
            torch.fft.rfft2(kernel, s=(wide, wide)) * spectrum, s=(wide,) * 2
        )
        gradient: Tensor = blurred[:side, :side] + KERNEL_WEIGHT * kernel - target
        return gradient

    kernel = ahead = target.clamp(min=0) / bound
    pace = 1.0
    for _ in range(FISTA_ITERATIONS):
        moved = (ahead - slope(ahead) / bound).clamp(min=0)
        faster = (1 + sqrt(1 + 4 * pace**2)) / 2
        ahead = moved + (pace - 1) / faster * (moved - kernel)
        kernel, pace = moved, faster
    return kernel


def _centre_kernel(kernel: Tensor) -> Tensor:
    """Bring the centre of mass to the middle, by whole pixels."""
    size = kernel.shape[-1]
    places = torch.arange(size, device=kernel.device, dtype=kernel.dtype) - size // 2
    down = round(float((kernel.sum(1) * places).sum()))
    right = round(float((kernel.sum(0) * places).sum()))
    moved = F.pad(kernel, (size, size, size, size))
    moved = moved[size + down : 2 * size + down, size + right : 2 * size + right]
    tidied: Tensor = moved / moved.sum()
    return tidied


def _make_initial_kernel(side: int) -> Tensor:
    """Two pixels side by side: a point would explain the picture by itself."""
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2 : side // 2 + 2] = 0.5
    return kernel


def _resize_kernel(kernel: Tensor, side: int) -> Tensor:
    """Bring a kernel to another scale."""
    wide = F.interpolate(kernel[None, None], size=(side, side), mode="bicubic")[0, 0].clamp(min=0)
    return wide / wide.sum()


def _extend_periodically(picture: Tensor, margin: int) -> Tensor:
    """Go on beyond the frame, by reflection, and fade to the mean: the far sides then meet."""
    mean = picture.mean((2, 3), keepdim=True)
    margins = (margin, margin, margin, margin)
    wide = F.pad(picture - mean, margins, mode="reflect")
    for axis in (2, 3):
        rise = torch.sin(torch.linspace(0, torch.pi / 2, margin + 1, device=picture.device)[:-1])
        shape = [-1 if index == axis else 1 for index in range(4)]
        weight = torch.ones(wide.shape[axis], device=picture.device)
        weight[:margin], weight[-margin:] = rise**2, rise.flip(0) ** 2
        wide = wide * weight.reshape(shape)
    return wide + mean


def _make_border_taper(picture: Tensor, margin: int) -> Tensor:
    """Weights (Y, X) that fall to zero at the frame, where a blur brings in what is not seen."""
    lines = []
    for count in picture.shape[2:]:
        edge = min(margin, count // 4)
        weight = torch.ones(count, device=picture.device)
        rise = torch.sin(torch.linspace(0, torch.pi / 2, edge + 1, device=picture.device)[:-1]) ** 2
        weight[:edge], weight[-edge:] = rise, rise.flip(0)
        lines.append(weight)
    return lines[0][:, None] * lines[1]


def _make_difference_kernels(like: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels of the differences along Y and X."""
    along = torch.zeros(3, 3, device=like.device, dtype=like.dtype)
    along[1, 0], along[1, 1] = 1.0, -1.0
    return along.T.contiguous(), along


def _compute_gradients(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Differences along Y and X, of the picture's size; 0 in the last row and column."""
    down = torch.diff(picture, dim=2, append=picture[:, :, -1:])
    right = torch.diff(picture, dim=3, append=picture[..., -1:])
    return down, right


def _compute_transfer_function(kernel: Tensor, grid: torch.Size) -> Tensor:
    """Transfer function of a kernel whose origin is its middle pixel."""
    wide = F.pad(kernel, (0, grid[1] - kernel.shape[1], 0, grid[0] - kernel.shape[0]))
    shift = (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2))
    transfer: Tensor = torch.fft.rfft2(torch.roll(wide, shift, (0, 1)))
    return transfer


#: Power of the frequency by which power spectra of scenes fall, and how far scenes differ. Field
#: (1987) found 2 for the plane. With 2.4, found widths are 4 % too large on the mean of eight grey
#: photographs blurred by Gaussians of 1 to 3 pixels.
SPECTRUM_EXPONENT, SPECTRUM_EXPONENT_STD = 2.4, 0.3
#: How far the measured noise variance may be off, as a factor: e to this power.
LOG_NOISE_STD = 0.3
#: Weight of what is known of scenes and noise against the mean over all frequencies: as much as
#: a hundredth of them, since neighbouring frequencies share the taper's and the scene's accidents.
PRIOR_WEIGHT = 0.01
#: Frequencies looked at, in cycles per pixel: below, the taper shows; above, all is noise.
MIN_FREQUENCY, MAX_FREQUENCY = 0.02, 0.5
#: The logarithm of a periodogram lies below that of the spectrum by Euler's constant on average,
#: with a long tail downwards; residuals beyond two count by their size, not by its square.
EULER, HUBER_DELTA = 0.5772, 2.0
#: Frequencies that a first look at many blurs takes, and its steps; steps of the last look.
MAX_SEARCH_FREQUENCIES, SEARCH_STEPS, FINAL_FIT_STEPS = 1500, 40, 120
#: Rate of those steps (Adam), in units of a logarithm.
SPECTRUM_LEARNING_RATE = 0.05
#: Blurs of the first look that are followed up.
MAX_FINAL_CANDIDATES = 3


def find_most_likely_blur(
    measurement: Tensor, noise_variance: Tensor, blurs: Sequence[Callable[[], nn.Module]]
) -> nn.Module:
    """Find the blur under which the spectrum of the measurement is most likely.

    Parameters
    ----------
    measurement : Tensor
        (1, C, Y, X); all channels share the blur.
    noise_variance : Tensor
        (C,), of white noise, in squared units of the measurement.
    blurs : sequence of callables
        Make the candidates: modules that give a kernel (*sizes) without input. The best are
        fitted by their parameters and the best of those is given back.

    References
    ----------
    Levin, Weiss, Durand, Freeman, Understanding and evaluating blind deconvolution algorithms,
    CVPR 2009, doi:10.1109/CVPR.2009.5206815: why the blur must be judged without the picture.
    Field, Relations between the statistics of natural images and the response properties of
    cortical cells, J. Opt. Soc. Am. A 4(12), 1987, doi:10.1364/JOSAA.4.002379.
    """
    grid = tuple(measurement.shape[2:])
    power, frequency, kept = _compute_periodogram(measurement)
    few = torch.linspace(0, len(frequency) - 1, min(MAX_SEARCH_FREQUENCIES, len(frequency))).long()
    few = few.to(frequency.device)
    first = []
    for make in blurs:
        blur = make().to(measurement.device)
        likeliest = kept[few]
        with torch.no_grad():
            spectrum = _compute_blur_power(blur, grid, likeliest)
        scene = _SpectrumModel(power[:, few], frequency[few], noise_variance)
        first.append((scene.fit(spectrum.clone, SEARCH_STEPS), blur))
    first.sort(key=lambda pair: pair[0])
    best: tuple[float, nn.Module] | None = None
    for _, blur in first[:MAX_FINAL_CANDIDATES]:
        scene = _SpectrumModel(power, frequency, noise_variance)
        spectrum_of = partial(_compute_blur_power, blur, grid, kept)
        loss = scene.fit(spectrum_of, FINAL_FIT_STEPS, list(blur.parameters()))
        if best is None or loss < best[0]:
            best = (loss, blur)
    assert best is not None
    return best[1]


class _SpectrumModel:
    """Spectrum of a scene and of the noise over it: strength, fall and floor, for each channel."""

    def __init__(self, power: Tensor, frequency: Tensor, noise_variance: Tensor) -> None:
        self._log_power = power.clamp(min=1e-30).log() + EULER  # (C, K)
        self._log_frequency = frequency.log()
        self._log_noise = noise_variance.clamp(min=1e-30).log()[:, None]
        low = self._log_frequency < log(0.08)
        level = (self._log_power + SPECTRUM_EXPONENT * self._log_frequency)[:, low].mean(
            1, keepdim=True
        )
        self.level = level.clone().requires_grad_()
        self.fall = torch.full_like(level, SPECTRUM_EXPONENT).requires_grad_()
        self.floor = self._log_noise.clone().requires_grad_()

    def loss(self, spectrum: Tensor) -> Tensor:
        """Mean negative log-likelihood of the periodogram, without constants.

        Parameters
        ----------
        spectrum : Tensor
            (K), squared modulus of the blur's transfer function.
        """
        scene = self.level - self.fall * self._log_frequency + spectrum.clamp(min=1e-12).log()
        residual = self._log_power - torch.logaddexp(scene, self.floor)
        fit = nn.functional.huber_loss(
            residual, torch.zeros_like(residual), delta=HUBER_DELTA, reduction="mean"
        )
        prior_penalty = ((self.fall - SPECTRUM_EXPONENT) / SPECTRUM_EXPONENT_STD) ** 2 / 2
        prior_penalty = prior_penalty + ((self.floor - self._log_noise) / LOG_NOISE_STD) ** 2 / 2
        return fit + PRIOR_WEIGHT * prior_penalty.mean()

    def fit(
        self,
        spectrum: Callable[[], Tensor],
        steps: int,
        blur: Sequence[nn.Parameter] = (),
    ) -> float:
        """Fit the scene, and the blur's parameters if given; the least loss."""
        adam = Adam([self.level, self.fall, self.floor, *blur], lr=SPECTRUM_LEARNING_RATE)
        with torch.enable_grad():
            for step in range(steps):
                adam.param_groups[0]["lr"] = SPECTRUM_LEARNING_RATE * (1 - step / steps)
                adam.zero_grad()
                loss = self.loss(spectrum())
                loss.backward()
                adam.step()
        return float(loss.detach())


def _compute_periodogram(measurement: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Power (C, K) and frequency (K) over half the plane, and their places in it (K)."""
    height, width = measurement.shape[2:]
    like = measurement
    taper = torch.hann_window(height, periodic=False, device=like.device)[:, None]
    taper = taper * torch.hann_window(width, periodic=False, device=like.device)
    mean = (like[0] * taper).sum((1, 2), keepdim=True) / taper.sum()
    power = torch.fft.rfft2((like[0] - mean) * taper).abs() ** 2 / (taper**2).sum()
    down = torch.fft.fftfreq(height, device=like.device)[:, None]
    right = torch.fft.rfftfreq(width, device=like.device)
    frequency = (down**2 + right**2).sqrt()
    kept = (frequency > MIN_FREQUENCY) & (frequency < MAX_FREQUENCY)
    return power[:, kept], frequency[kept], kept.flatten().nonzero()[:, 0]


def _compute_blur_power(blur: nn.Module, grid: tuple[int, ...], places: Tensor) -> Tensor:
    """Squared modulus of a kernel's transfer function at some of the grid's frequencies (K)."""
    kernel: Tensor = blur()
    power: Tensor = torch.fft.rfft2(kernel, s=grid).abs() ** 2
    return power.flatten()[places]
