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
EDGE, EDGE_FALL, LEAST_EDGE = 2e-2, 1.2, 1e-4
#: Weight of the kernel's squared length.
KERNEL_WEIGHT = 2.0
#: Coupling between picture and edges: doubled from twice the weight of an edge up to this.
MOST_COUPLING = 1e5
#: Turns on each scale; a scale is finer than the one before by the root of two.
TURNS = 5
#: Width of the coarsest kernel.
COARSEST = 5
#: Parts of a kernel below this share of its peak are noise.
FAINT = 0.05
#: Steps towards the best kernel that is nowhere negative; more move it by less than a hundredth.
STEPS = 60


def kernel_from_edges(measurement: Tensor, size: int) -> Tensor:
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
    scales = max(0, ceil(2 * log2(size / COARSEST)))
    kernel = None
    edge = EDGE
    for scale in range(scales, -1, -1):
        factor = sqrt(0.5) ** scale
        side = max(3, int(size * factor) | 1)
        shape = [max(8, round(count * factor)) for count in picture.shape[2:]]
        coarse = picture
        if scale:
            coarse = F.interpolate(picture, size=shape, mode="bicubic", antialias=True)
        kernel = _line(side).to(picture) if kernel is None else _resized(_tidied(kernel), side)
        for _ in range(TURNS):
            sharp = _few_edges(coarse, kernel, edge)
            kernel = _kernel(sharp, coarse, side)
            edge = max(edge / EDGE_FALL, LEAST_EDGE)
    assert kernel is not None
    return _tidied(kernel)


def _few_edges(picture: Tensor, kernel: Tensor, edge: float) -> Tensor:
    """Find the picture of few edges that explains a blurred one, by splitting."""
    margin = kernel.shape[-1]
    wide = _periodic(picture, margin)
    grid = wide.shape[2:]
    blur = _transfer(kernel, grid)
    steps = [_transfer(one, grid) for one in _differences(picture)]
    data = blur.conj() * torch.fft.rfft2(wide)
    power, roughness = blur.abs() ** 2, sum(one.abs() ** 2 for one in steps)
    sharp, coupling = wide, 2 * edge
    while coupling < MOST_COUPLING:
        spectrum = torch.fft.rfft2(sharp)
        slopes = [torch.fft.irfft2(one * spectrum, s=grid) for one in steps]
        kept = sum(one**2 for one in slopes) >= edge / coupling
        edges = [torch.fft.rfft2(one * kept) for one in slopes]
        pulled = sum(one.conj() * part for one, part in zip(steps, edges, strict=True))
        sharp = torch.fft.irfft2(
            (data + coupling * pulled) / (power + coupling * roughness), s=grid
        )
        coupling *= 2
    return sharp[..., margin:-margin, margin:-margin]


def _kernel(sharp: Tensor, picture: Tensor, side: int) -> Tensor:
    """Find the kernel that turns the edges of one picture into those of another."""
    border = _faded(picture, side)
    wanted = [border * one for one in _slopes(picture)]
    given = [border * one for one in _slopes(sharp)]
    grid = picture.shape[2:]
    spectra = [(torch.fft.rfft2(a), torch.fft.rfft2(b)) for a, b in zip(given, wanted, strict=True)]
    alike = torch.fft.irfft2(sum(a.conj() * b for a, b in spectra), s=grid)[0, 0]
    half = side // 2
    target = torch.roll(alike, (half, half), (0, 1))[:side, :side]
    own = torch.fft.irfft2(sum(a.abs() ** 2 for a, _ in spectra), s=grid)[0, 0]
    kernel = _non_negative(own, target)
    kernel = torch.where(kernel < FAINT * kernel.max(), 0, kernel)
    total = kernel.sum()
    return kernel / total if float(total) > 0 else _line(side).to(picture)


def _non_negative(own: Tensor, target: Tensor) -> Tensor:
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
        found: Tensor = blurred[:side, :side] + KERNEL_WEIGHT * kernel - target
        return found

    kernel = ahead = target.clamp(min=0) / bound
    pace = 1.0
    for _ in range(STEPS):
        moved = (ahead - slope(ahead) / bound).clamp(min=0)
        faster = (1 + sqrt(1 + 4 * pace**2)) / 2
        ahead = moved + (pace - 1) / faster * (moved - kernel)
        kernel, pace = moved, faster
    return kernel


def _tidied(kernel: Tensor) -> Tensor:
    """Bring the centre of mass to the middle, by whole pixels."""
    size = kernel.shape[-1]
    places = torch.arange(size, device=kernel.device, dtype=kernel.dtype) - size // 2
    down = round(float((kernel.sum(1) * places).sum()))
    right = round(float((kernel.sum(0) * places).sum()))
    moved = F.pad(kernel, (size, size, size, size))
    moved = moved[size + down : 2 * size + down, size + right : 2 * size + right]
    tidied: Tensor = moved / moved.sum()
    return tidied


def _line(side: int) -> Tensor:
    """Two pixels side by side: a point would explain the picture by itself."""
    kernel = torch.zeros(side, side)
    kernel[side // 2, side // 2 : side // 2 + 2] = 0.5
    return kernel


def _resized(kernel: Tensor, side: int) -> Tensor:
    """Bring a kernel to another scale."""
    wide = F.interpolate(kernel[None, None], size=(side, side), mode="bicubic")[0, 0].clamp(min=0)
    return wide / wide.sum()


def _periodic(picture: Tensor, margin: int) -> Tensor:
    """Go on beyond the frame, by reflection, and fade to the mean: the far sides then meet."""
    mean = picture.mean((2, 3), keepdim=True)
    margins = (margin, margin, margin, margin)
    wide = F.pad(picture - mean, margins, mode="reflect")
    for axis in (2, 3):
        rise = torch.sin(torch.linspace(0, torch.pi / 2, margin + 1, device=picture.device)[:-1])
        shape = [-1 if one == axis else 1 for one in range(4)]
        weight = torch.ones(wide.shape[axis], device=picture.device)
        weight[:margin], weight[-margin:] = rise**2, rise.flip(0) ** 2
        wide = wide * weight.reshape(shape)
    return wide + mean


def _faded(picture: Tensor, margin: int) -> Tensor:
    """Weights (Y, X) that fall to zero at the frame, where a blur brings in what is not seen."""
    lines = []
    for count in picture.shape[2:]:
        edge = min(margin, count // 4)
        weight = torch.ones(count, device=picture.device)
        rise = torch.sin(torch.linspace(0, torch.pi / 2, edge + 1, device=picture.device)[:-1]) ** 2
        weight[:edge], weight[-edge:] = rise, rise.flip(0)
        lines.append(weight)
    return lines[0][:, None] * lines[1]


def _differences(like: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels of the differences along Y and X."""
    along = torch.zeros(3, 3, device=like.device, dtype=like.dtype)
    along[1, 0], along[1, 1] = 1.0, -1.0
    return along.T.contiguous(), along


def _slopes(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Differences along Y and X, of the picture's size; 0 in the last row and column."""
    down = torch.diff(picture, dim=2, append=picture[:, :, -1:])
    right = torch.diff(picture, dim=3, append=picture[..., -1:])
    return down, right


def _transfer(kernel: Tensor, grid: torch.Size) -> Tensor:
    """Transfer function of a kernel whose origin is its middle pixel."""
    wide = F.pad(kernel, (0, grid[1] - kernel.shape[1], 0, grid[0] - kernel.shape[0]))
    shift = (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2))
    transfer: Tensor = torch.fft.rfft2(torch.roll(wide, shift, (0, 1)))
    return transfer


#: Power of the frequency by which power spectra of scenes fall, and how far scenes differ. Field
#: (1987) found 2 for the plane. With 2.4, found widths are 4 % too large on the mean of eight grey
#: photographs blurred by Gaussians of 1 to 3 pixels.
FALL, FALL_SPREAD = 2.4, 0.3
#: How far the measured noise variance may be off, as a factor: e to this power.
NOISE_SPREAD = 0.3
#: Weight of what is known of scenes and noise against the mean over all frequencies: as much as
#: a hundredth of them, since neighbouring frequencies share the taper's and the scene's accidents.
PRIOR_WEIGHT = 0.01
#: Frequencies looked at, in cycles per pixel: below, the taper shows; above, all is noise.
LOWEST, HIGHEST = 0.02, 0.5
#: The logarithm of a periodogram lies below that of the spectrum by Euler's constant on average,
#: with a long tail downwards; residuals beyond two count by their size, not by its square.
EULER, CORNER = 0.5772, 2.0
#: Frequencies that a first look at many blurs takes, and its steps; steps of the last look.
SAMPLES, FIRST_STEPS, LAST_STEPS = 1500, 40, 120
#: Rate of those steps (Adam), in units of a logarithm.
RATE = 0.05
#: Blurs of the first look that are followed up.
FINALISTS = 3


def most_likely_blur(
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
    power, frequency, kept = _periodogram(measurement)
    few = torch.linspace(0, len(frequency) - 1, min(SAMPLES, len(frequency))).long()
    few = few.to(frequency.device)
    first = []
    for make in blurs:
        blur = make().to(measurement.device)
        seen = kept[few]
        with torch.no_grad():
            spectrum = _spectrum(blur, grid, seen)
        scene = _Scene(power[:, few], frequency[few], noise_variance)
        first.append((scene.fit(spectrum.clone, FIRST_STEPS), blur))
    first.sort(key=lambda pair: pair[0])
    best: tuple[float, nn.Module] | None = None
    for _, blur in first[:FINALISTS]:
        scene = _Scene(power, frequency, noise_variance)
        spectrum_of = partial(_spectrum, blur, grid, kept)
        loss = scene.fit(spectrum_of, LAST_STEPS, list(blur.parameters()))
        if best is None or loss < best[0]:
            best = (loss, blur)
    assert best is not None
    return best[1]


class _Scene:
    """Spectrum of a scene and of the noise over it: strength, fall and floor, for each channel."""

    def __init__(self, power: Tensor, frequency: Tensor, noise_variance: Tensor) -> None:
        self._log_power = power.clamp(min=1e-30).log() + EULER  # (C, K)
        self._log_frequency = frequency.log()
        self._log_noise = noise_variance.clamp(min=1e-30).log()[:, None]
        low = self._log_frequency < log(0.08)
        level = (self._log_power + FALL * self._log_frequency)[:, low].mean(1, keepdim=True)
        self.level = level.clone().requires_grad_()
        self.fall = torch.full_like(level, FALL).requires_grad_()
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
            residual, torch.zeros_like(residual), delta=CORNER, reduction="mean"
        )
        known = ((self.fall - FALL) / FALL_SPREAD) ** 2 / 2
        known = known + ((self.floor - self._log_noise) / NOISE_SPREAD) ** 2 / 2
        return fit + PRIOR_WEIGHT * known.mean()

    def fit(
        self,
        spectrum: Callable[[], Tensor],
        steps: int,
        blur: Sequence[nn.Parameter] = (),
    ) -> float:
        """Fit the scene, and the blur's parameters if given; the least loss."""
        adam = Adam([self.level, self.fall, self.floor, *blur], lr=RATE)
        with torch.enable_grad():
            for step in range(steps):
                adam.param_groups[0]["lr"] = RATE * (1 - step / steps)
                adam.zero_grad()
                loss = self.loss(spectrum())
                loss.backward()
                adam.step()
        return float(loss.detach())


def _periodogram(measurement: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
    kept = (frequency > LOWEST) & (frequency < HIGHEST)
    return power[:, kept], frequency[kept], kept.flatten().nonzero()[:, 0]


def _spectrum(blur: nn.Module, grid: tuple[int, ...], places: Tensor) -> Tensor:
    """Squared modulus of a kernel's transfer function at some of the grid's frequencies (K)."""
    kernel: Tensor = blur()
    power: Tensor = torch.fft.rfft2(kernel, s=grid).abs() ** 2
    return power.flatten()[places]
