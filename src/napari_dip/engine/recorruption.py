"""A prior that is shown the whole measurement, with more noise of the same kind put on top.

What is fed is y + a n and what is asked for is y - n / a, with n drawn afresh at each step with the
variance and the correlation of the measurement's own noise. The noise of the two is then not
correlated, so that the best answer is the picture: nothing has to be hidden, and noise that
neighbours share needs no wide holes. Counted photons are skewed, and then uncorrelated is not
enough: what is put on top is skewed as well, so that sum and difference tell nothing of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_dip.engine.prior import Draw, Prior, fill
from napari_dip.engine.problem import Estimate
from napari_dip.engine.skewness import plane_mean, skewness_of_counts
from napari_dip.engine.window import random_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from napari_dip.engine.fidelity import NoiseVariance

#: How strong the further noise is, as a share of the measured one: where pixels do not share it,
#: and where they do. More noise hides more of the picture; less makes it matter more that the
#: noise is known well, and noise that is shared is not. On FMD WideField_BPAE_R and B (capture 1)
#: 1/2 came to 35.34 and 36.48 dB, 1 to 35.36 and 37.00, 2 to 34.93 on R; on 256 x 256 pixels of
#: F16 of the Deep Image Prior page 0.3, 1/2 and 1 came to 30.60, 30.64 and 30.20 dB.
STRENGTH, STRENGTH_IF_SHARED = 0.5, 1.0
#: Expected counts from which on noise is drawn as if it were Gaussian: its skewness is below 0.05.
MANY = 400.0
#: Least worth of a count, in network units: what stands for none.
LEAST_COUNT = 1e-6
#: Side of the window whose mean stands for the signal where a pixel's noise depends on it.
NEAR = 5
#: Least share of the noise's power that any frequency is taken to have.
LEAST_POWER = 0.02


class RecorruptedCode(Prior):
    """The measurement with fresh noise; held-out pixels and their guard band are filled in.

    They are filled in to judge. The last look shows all of the measurement.

    Parameters
    ----------
    net : nn.Module
        C channels in, C out.
    measurement : Tensor
        (B, C, *grid), of two or three dimensions; of several pictures each step looks at one.
    known, held_out_blocks : Tensor
        (B, 1, *grid): 1 where there is a measurement, and at held-out pixels and their guard band.
    block : tuple of int, odd
        Size of the guard band.
    noise : NoiseVariance
        Of the measurement: one for all pictures, or one for each.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white. Along depth it
        is white.
    window : tuple of int or None
        Size of what a step looks at; None: the whole grid.
    trust : Tensor or None
        (1, 1, *grid): variance of `noise` as a share of each pixel's own; None: 1.

    References
    ----------
    Pang, Zheng, Quan, Ji, Recorrupted-to-recorrupted: unsupervised deep learning for image
    denoising, CVPR 2021: for Gaussian noise. For counts, of which as many times a² are drawn, each
    worth the gain over a: cumulant of order m + 1 of what is fed (m times) and asked (once) is
    k(e) - a^(m - 1) k(n), which is 0 for all m.
    """

    covers_grid = False
    reveals = True

    def __init__(
        self,
        net: nn.Module,
        measurement: Tensor,
        known: Tensor,
        held_out_blocks: Tensor,
        block: tuple[int, ...],
        noise: NoiseVariance,
        correlation: tuple[tuple[float, ...], tuple[float, ...]] | None,
        *,
        window: tuple[int, ...] | None,
        trust: Tensor | None = None,
    ) -> None:
        self.net = net
        self.strength = STRENGTH if correlation is None else STRENGTH_IF_SHARED
        self.measurement = fill(measurement * known, known, block)
        self.visible = known * (1 - held_out_blocks)
        self.filled = fill(measurement * self.visible, self.visible, block)
        self.deviation = noise.at(_near(self.filled)).sqrt()
        if trust is not None:
            self.deviation = self.deviation / trust.sqrt()
        self.grid = tuple(measurement.shape[2:])
        self.window = self.grid if window is None else tuple(map(min, window, self.grid))
        self.spectrum = None if correlation is None else _spectrum(correlation, self.window[-2:])
        pictures = zip(measurement.split(1), self.visible.split(1), strict=True)
        noises = [noise.of(number % len(noise.gain)) for number in range(len(measurement))]
        each = [
            skewness_of_counts(*one, of_it, correlation)
            for one, of_it in zip(pictures, noises, strict=True)
        ]
        skewness = torch.cat(each).mean(0, keepdim=True)
        shared = 1.0 if self.spectrum is None else _shared(self.spectrum, self.window[-2:])
        self.count = (skewness * noise.gain / (self.strength * shared)).clamp(min=LEAST_COUNT)

    def to(self, device: torch.device) -> None:
        """Move the network and all that is drawn from."""
        self.net.to(device)
        self.measurement, self.visible = self.measurement.to(device), self.visible.to(device)
        self.filled, self.deviation = self.filled.to(device), self.deviation.to(device)
        self.spectrum = None if self.spectrum is None else self.spectrum.to(device)
        self.count = self.count.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Put fresh noise on a random window, mirrored at random."""
        window = random_window(self.grid, self.window, rng, members=len(self.measurement))
        filled, deviation = window.of(self.filled), window.of(self.deviation)
        noise = self._white(deviation, window.of_member(self.count), rng)
        if self.spectrum is not None:
            noise = torch.fft.irfft2(torch.fft.rfft2(noise) * self.spectrum, s=self.window[-2:])
        noise = noise * deviation
        return Draw(
            filled + self.strength * noise,
            driven=window.of(self.visible),
            window=window,
            taken=noise / self.strength,
        )

    def _white(self, deviation: Tensor, count: Tensor, rng: torch.Generator) -> Tensor:
        """Draw noise of variance 1, as skewed as counts of that worth which deviate by so much."""
        white = torch.empty_like(deviation).normal_(generator=rng)
        expected = (deviation / count) ** 2
        few = expected < MANY
        if not bool(few.any()):
            return white
        counts = torch.poisson(expected.clamp(max=MANY), generator=rng)
        return torch.where(few, (counts - expected) / expected.sqrt(), white)

    def glance(self) -> Draw:
        """Show the measurement as it is, but for what judges."""
        return Draw(self.filled)

    def sweep(self) -> Iterator[Draw]:
        """One look at all of the measurement."""
        yield Draw(self.measurement)

    def estimate(self, output: Tensor) -> Estimate:
        """Output is the picture."""
        return Estimate(output)


def _shared(spectrum: Tensor, size: tuple[int, ...]) -> float:
    """How many times less skewed white noise is after such a filter; its variance stays 1."""
    kernel = torch.fft.irfft2(spectrum.to(torch.complex64), s=size)
    return float((kernel**3).sum() / (kernel**2).sum() ** 1.5)


def _near(image: Tensor) -> Tensor:
    """Mean of each pixel's surroundings in its plane, without itself.

    With itself, more noise would go where the measured noise is high.
    """
    return (NEAR**2 * plane_mean(image, NEAR) - image) / (NEAR**2 - 1)


def _spectrum(
    correlation: tuple[tuple[float, ...], tuple[float, ...]], size: tuple[int, ...]
) -> Tensor:
    """Amplitude of each frequency of noise of variance 1: what `rfft2` of white noise is times."""
    powers = []
    for along, count in zip(correlation, size, strict=True):
        lags = torch.tensor(along[: max(0, (count - 1) // 2)])
        line = torch.zeros(count)
        line[0] = 1
        line[1 : 1 + len(lags)] = lags
        line[count - len(lags) :] = lags.flip(0)
        powers.append(torch.fft.fft(line).real.clamp(min=LEAST_POWER))
    power = powers[0][:, None] * powers[1]
    amplitude: Tensor = (power / power.mean()).sqrt()[:, : size[1] // 2 + 1]
    return amplitude
