"""A prior that is shown the whole measurement, with more noise of the same kind put on top.

What is fed is y + a n and what is asked for is y - n / a, with n drawn afresh at each step with the
variance and the correlation of the measurement's own noise. The noise of the two is then not
correlated, so that the best answer is the picture: nothing has to be hidden, and noise that
neighbours share needs no wide holes. Counted photons are skewed, and then uncorrelated is not
enough: what is put on top is skewed as well, so that sum and difference tell nothing of each other.

How skewed the noise is, beside counted photons: what variance and correlation do not tell.

Counts are skewed the more, the fewer they are, and multipliers of single photons (EM-CCD, PMT)
skew them further. A network that is shown more noise must be shown noise as skewed as the
measured, or it learns to tell the two apart and lets through what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from napari_dip.engine.prior import Draw, Prior, draw_random_window, fill_with_local_mean
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from napari_dip.engine.likelihood.fidelity import NoiseVariance

#: What is made of the 3 x 3 pixels about one.
Stencil = tuple[tuple[float, ...], ...]
#: A pixel without the mean of its neighbours, and its second difference along both axes. The
#: first is surer where nothing is to be seen, the second blind to more of a picture.
NEIGHBOUR_MEAN_RESIDUAL: Stencil = (
    (-1 / 8, -1 / 8, -1 / 8),
    (-1 / 8, 1.0, -1 / 8),
    (-1 / 8, -1 / 8, -1 / 8),
)
SECOND_DIFFERENCE: Stencil = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
#: Share of the pixels that are looked at, those that lie flattest.
FLAT_PIXEL_SHARES = {NEIGHBOUR_MEAN_RESIDUAL: 0.25, SECOND_DIFFERENCE: 0.5}
#: Side of the mean from which the slope and the variance of a pixel's surroundings are told.
SURROUNDINGS_SIDE = 9
#: Correlation that counts as none.
MAX_UNCORRELATED_LAG = 0.05
#: Most that is believed: multiplied single photons have 1.5, and what is more is texture.
MAX_SKEWNESS = 2.0


def estimate_count_skewness(
    measurement: Tensor,
    measured_mask: Tensor,
    noise: NoiseVariance,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Tensor:
    """Tell how many times as skewed the noise is as counted photons of its variance would be.

    Of photons, the third moment is the gain times the variance. Where nothing can be told it is 0.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid), of two dimensions or three; along depth no neighbours are compared.
    measured_mask : Tensor
        (1 or B, 1, *grid): 1 where there is a measurement.
    noise : NoiseVariance
        Of the measurement.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white. Pixels are
        compared at a distance where they share no noise.

    Returns
    -------
    Tensor
        (B, C, 1, ...) of `noise.gain`, from 0 to 2. On W2S and FMD, against what the mean of 50
        to 400 shots tells: 1.2 to 1.4 of 1.3 to 1.5 (EM-CCD), 1.1 to 2.0 of 1.1 to 1.9.
    """
    apart = tuple(_find_uncorrelated_distance(along) for along in correlation or ((), ()))
    ratios = torch.stack(
        [
            _estimate_moment_ratio(measurement, measured_mask, noise, weights, apart)
            for weights in FLAT_PIXEL_SHARES
        ]
    )
    return ratios.amin(0).clamp(0.0, MAX_SKEWNESS)


def _estimate_moment_ratio(
    measurement: Tensor,
    measured_mask: Tensor,
    noise: NoiseVariance,
    weights: Stencil,
    apart: tuple[int, ...],
) -> Tensor:
    """Third moment of what `weights` leave of the flattest pixels, over gain times variance."""
    batch, channels, *_ = measurement.shape
    taken = torch.tensor(weights).to(measurement)[None, None]
    around = average_in_plane(measurement * measured_mask, SURROUNDINGS_SIDE) / average_in_plane(
        measured_mask, SURROUNDINGS_SIDE
    ).clamp(min=1e-6)
    variance = noise.at(around)
    valid = (
        _apply_stencil(measured_mask, (taken != 0).to(taken), apart)
        >= int((taken != 0).sum()) - 0.5
    )
    valid = valid.expand_as(measurement)
    steep = _compute_squared_slope(around) / variance
    moments = (_apply_stencil(measurement, taken, apart) ** 3).reshape(batch, channels, -1)
    said = (noise.gain * variance).reshape(batch, channels, -1) * float((taken**3).sum())
    answer = torch.zeros_like(noise.gain)
    for index in range(batch):
        for channel in range(channels):
            inside = valid[index, channel].flatten()
            slope = steep[index, channel].flatten()
            if not bool(inside.any()) or float(noise.gain[index, channel].max()) <= 0:
                continue
            limit = torch.kthvalue(
                slope[inside], max(1, int(FLAT_PIXEL_SHARES[weights] * int(inside.sum())))
            ).values
            flat = inside & (slope <= limit)
            ratio = moments[index, channel][flat].sum() / said[index, channel][flat].sum()
            answer[index, channel] = ratio.nan_to_num(0.0, 0.0, 0.0)
    return answer


def _compute_squared_slope(around: Tensor) -> Tensor:
    """Squared slope in a plane, of the mean of each pixel's surroundings."""
    flat = around.reshape(-1, 1, *around.shape[-2:])
    framed = F.pad(flat, (1,) * 4, mode="replicate")
    down = framed[..., 2:, 1:-1] - framed[..., :-2, 1:-1]
    right = framed[..., 1:-1, 2:] - framed[..., 1:-1, :-2]
    return (down**2 + right**2).reshape(around.shape)


def average_in_plane(image: Tensor, side: int) -> Tensor:
    """Mean of each pixel's surroundings in its plane, as many pixels wide; an odd number."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    framed = F.pad(flat, (side // 2,) * 4, mode="replicate")
    return F.avg_pool2d(framed, side, 1).reshape(image.shape)


def _find_uncorrelated_distance(along: tuple[float, ...]) -> int:
    """Distance, in pixels, at which noise is not shared any more."""
    return (
        max((lag for lag, item in enumerate(along, 1) if item > MAX_UNCORRELATED_LAG), default=0)
        + 1
    )


def _apply_stencil(image: Tensor, weights: Tensor, apart: tuple[int, ...]) -> Tensor:
    """Weigh each pixel's neighbours so far apart in its plane; beyond the rim there is nothing."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    return F.conv2d(flat, weights, padding=apart, dilation=apart).reshape(image.shape)


#: How strong the further noise is, as a share of the measured one: where pixels do not share it,
#: and where they do. More noise hides more of the picture; less makes it matter more that the
#: noise is known well, and noise that is shared is not. On FMD WideField_BPAE_R and B (capture 1)
#: 1/2 came to 35.34 and 36.48 dB, 1 to 35.36 and 37.00, 2 to 34.93 on R; on 256 x 256 pixels of
#: F16 of the Deep Image Prior page 0.3, 1/2 and 1 came to 30.60, 30.64 and 30.20 dB.
R2R_NOISE_STRENGTH, R2R_CORRELATED_STRENGTH = 0.5, 1.0
#: Expected counts from which on noise is drawn as if it were Gaussian: its skewness is below 0.05.
MIN_GAUSSIAN_COUNT = 400.0
#: Least worth of a count, in network units: what stands for none.
MIN_COUNT_VALUE = 1e-6
#: Side of the window whose mean stands for the signal where a pixel's noise depends on it.
SIGNAL_WINDOW_SIDE = 5
#: Least share of the noise's power that any frequency is taken to have.
MIN_FREQUENCY_POWER = 0.02


class R2RPrior(Prior):
    """The measurement with fresh noise; held-out pixels and their guard band are filled in.

    They are filled in to judge. The last look shows all of the measurement.

    Parameters
    ----------
    net : nn.Module
        C channels in, C out.
    measurement : Tensor
        (B, C, *grid), of two or three dimensions; of several pictures each step looks at one.
    measured_mask, held_out_blocks : Tensor
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
        measured_mask: Tensor,
        held_out_blocks: Tensor,
        block: tuple[int, ...],
        noise: NoiseVariance,
        correlation: tuple[tuple[float, ...], tuple[float, ...]] | None,
        *,
        window: tuple[int, ...] | None,
        trust: Tensor | None = None,
    ) -> None:
        self.net = net
        self.strength = R2R_NOISE_STRENGTH if correlation is None else R2R_CORRELATED_STRENGTH
        self.measurement = fill_with_local_mean(measurement * measured_mask, measured_mask, block)
        self.visible = measured_mask * (1 - held_out_blocks)
        self.filled = fill_with_local_mean(measurement * self.visible, self.visible, block)
        self.deviation = noise.at(_average_surroundings(self.filled)).sqrt()
        if trust is not None:
            self.deviation = self.deviation / trust.sqrt()
        self.grid = tuple(measurement.shape[2:])
        self.window = self.grid if window is None else tuple(map(min, window, self.grid))
        self.spectrum = (
            None if correlation is None else _compute_noise_amplitude(correlation, self.window[-2:])
        )
        pictures = zip(measurement.split(1), self.visible.split(1), strict=True)
        noises = [noise.of(number % len(noise.gain)) for number in range(len(measurement))]
        each = [
            estimate_count_skewness(*item, of_it, correlation)
            for item, of_it in zip(pictures, noises, strict=True)
        ]
        skewness = torch.cat(each).mean(0, keepdim=True)
        shared = (
            1.0
            if self.spectrum is None
            else _compute_skewness_factor(self.spectrum, self.window[-2:])
        )
        self.count = (skewness * noise.gain / (self.strength * shared)).clamp(min=MIN_COUNT_VALUE)

    def to(self, device: torch.device) -> None:
        """Move the network and all that is drawn from."""
        self.net.to(device)
        self.measurement, self.visible = self.measurement.to(device), self.visible.to(device)
        self.filled, self.deviation = self.filled.to(device), self.deviation.to(device)
        self.spectrum = None if self.spectrum is None else self.spectrum.to(device)
        self.count = self.count.to(device)

    def draw(self, rng: torch.Generator) -> Draw:
        """Put fresh noise on a random window, mirrored at random."""
        window = draw_random_window(self.grid, self.window, rng, members=len(self.measurement))
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
        few = expected < MIN_GAUSSIAN_COUNT
        if not bool(few.any()):
            return white
        counts = torch.poisson(expected.clamp(max=MIN_GAUSSIAN_COUNT), generator=rng)
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


def _compute_skewness_factor(spectrum: Tensor, size: tuple[int, ...]) -> float:
    """How many times less skewed white noise is after such a filter; its variance stays 1."""
    kernel = torch.fft.irfft2(spectrum.to(torch.complex64), s=size)
    return float((kernel**3).sum() / (kernel**2).sum() ** 1.5)


def _average_surroundings(image: Tensor) -> Tensor:
    """Mean of each pixel's surroundings in its plane, without itself.

    With itself, more noise would go where the measured noise is high.
    """
    return (SIGNAL_WINDOW_SIDE**2 * average_in_plane(image, SIGNAL_WINDOW_SIDE) - image) / (
        SIGNAL_WINDOW_SIDE**2 - 1
    )


def _compute_noise_amplitude(
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
        powers.append(torch.fft.fft(line).real.clamp(min=MIN_FREQUENCY_POWER))
    power = powers[0][:, None] * powers[1]
    amplitude: Tensor = (power / power.mean()).sqrt()[:, : size[1] // 2 + 1]
    return amplitude
