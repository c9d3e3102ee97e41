"""What the spectrum of a blurred picture tells of its blur, whatever the picture shows.

The spectrum of most scenes falls as a power of the frequency; a blur multiplies it by its own
spectrum, and the noise adds a floor. Which blur makes the measured spectrum likely can be told
without knowing the scene, and a point is no favourite then, as it is where scene and blur are
fitted together: a scene that is blurred itself is an unlikely scene.
"""

from __future__ import annotations

from functools import partial
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.optimisers import Adam

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
