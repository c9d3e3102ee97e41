"""Define the recorrupted-to-recorrupted (R2R) prior, and estimate the skewness of noise for it.

The network input is y + a n and the target is y - n / a. The noise n is drawn at each step with
the variance and autocorrelation of the measurement's noise. The noises of input and target are then
uncorrelated, so no pixels are hidden. With few photons noise is skewed, and so is n, since the
network would otherwise learn to separate the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from napari_dip.engine.noise.variance_model import MAX_COUNT_ERROR
from napari_dip.engine.prior import (
    Prior,
    StepInput,
    draw_normal,
    draw_poisson,
    draw_random_window,
    fill_with_local_mean,
    limit_window,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from napari_dip.engine.likelihood.fidelity import NoiseVariance

#: Weights of 3 x 3 pixels.
Stencil = tuple[tuple[float, ...], ...]
#: A pixel less the mean of its neighbours, and its mixed second difference along both axes. The
#: first is more precise in flat regions, the second suppresses more image structure.
NEIGHBOUR_MEAN_RESIDUAL: Stencil = (
    (-1 / 8, -1 / 8, -1 / 8),
    (-1 / 8, 1.0, -1 / 8),
    (-1 / 8, -1 / 8, -1 / 8),
)
SECOND_DIFFERENCE: Stencil = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
#: Share of the pixels that are used for each stencil, those with the smallest slope.
FLAT_PIXEL_FRACTIONS = {NEIGHBOUR_MEAN_RESIDUAL: 0.25, SECOND_DIFFERENCE: 0.5}
#: Side in pixels of the moving mean from which slope and noise variance are computed.
SURROUNDINGS_SIDE = 9
#: Largest correlation that is treated as 0.
MAX_UNCORRELATED_VALUE = 0.05
#: Upper bound of the skewness in units of that of photon noise. Multiplied single photons have 1.5;
#: more is texture.
MAX_SKEWNESS = 2.0
#: Strength of the added noise in units of the measured one, for white noise: best of 0.3 to 1 on
#: F16 (30.64 dB) (docs/constants.md).
R2R_NOISE_STRENGTH = 0.5
#: Strength of the added noise in units of the measured one, for correlated noise: best of 0.5 to 2
#: on FMD widefield.
R2R_CORRELATED_STRENGTH = 1.0
#: Expected count from which on noise is drawn as Gaussian; its skewness is below 0.05.
MIN_GAUSSIAN_COUNT = 400.0
#: Lower bound of the value of one count, in network units.
MIN_COUNT_VALUE = 1e-6
#: Side in pixels of the window whose mean is used as the signal in the noise model.
SIGNAL_WINDOW_SIDE = 5
#: Lower bound of the noise power at each frequency, in units of that of white noise.
MIN_FREQUENCY_POWER = 0.02


def estimate_count_skewness(
    measurement: Tensor,
    measured_mask: Tensor,
    noise_variance: NoiseVariance,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Tensor:
    """Estimate the skewness of the noise in units of that of photon noise with the same variance.

    The third moment of photon noise is the gain times the variance. Multipliers of single photons
    (EM-CCD, PMT) increase it.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid) in 2-D or 3-D; neighbours along Z are not used.
    measured_mask : Tensor
        (1 or B, 1, *grid), 1 where there is a measurement.
    noise_variance : NoiseVariance
        Of the measurement.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white. Pixels are
        compared at a distance with uncorrelated noise.

    Returns
    -------
    Tensor
        (B, C, 1, ...) in units of the gain, from 0 to 2; 0 if it cannot be estimated, and 1 if all
        values are whole numbers of photons. On W2S it is 1.2 to 1.4 against 1.3 to 1.5 from the
        mean of 50 to 400 exposures (EM-CCD), on FMD 1.1 to 2.0 against 1.1 to 1.9.
    """
    distances = tuple(_find_uncorrelated_distance(along) for along in correlation or ((), ()))
    local_mean = average_in_plane(
        measurement * measured_mask, SURROUNDINGS_SIDE
    ) / average_in_plane(measured_mask, SURROUNDINGS_SIDE).clamp(min=1e-6)
    variance = noise_variance.compute_variance(local_mean)
    slope = _compute_squared_slope(local_mean) / variance
    ratios = torch.stack(
        [
            _estimate_moment_ratio(
                measurement, measured_mask, noise_variance.gain, variance, slope, stencil, distances
            )
            for stencil in FLAT_PIXEL_FRACTIONS
        ]
    )
    skewness = ratios.amin(0).clamp(0.0, MAX_SKEWNESS)
    is_counted = _are_photon_counts(measurement, measured_mask, noise_variance.gain)
    return skewness.masked_fill(is_counted & (skewness > 0), 1.0)


def _are_photon_counts(measurement: Tensor, measured_mask: Tensor, gain: Tensor) -> Tensor:
    """Return whether measured values differ by multiples of the gain: (B, C, 1, ...).

    Noise whose steps differ from those of the values by a few percent would give away which part
    of the input it is, and a network that separates them leaves black pixels: with five photons at
    the brightest pixel, one of three fits came to 31.0 instead of 33.3 dB.
    """
    axes = tuple(range(2, measurement.ndim))
    least = measurement.masked_fill(measured_mask == 0, torch.inf).amin(axes, keepdim=True)
    counts = (measurement - least) / gain
    is_whole = (counts - counts.round()).abs() <= MAX_COUNT_ERROR
    return (is_whole | (measured_mask == 0)).flatten(2).all(2).view_as(gain)


def _estimate_moment_ratio(
    measurement: Tensor,
    measured_mask: Tensor,
    gain: Tensor,
    variance: Tensor,
    relative_slope: Tensor,
    weights: Stencil,
    dilation: tuple[int, ...],
) -> Tensor:
    """Return the third moment of filtered flat pixels, in units of gain times variance."""
    batch, channels, *_ = measurement.shape
    stencil = torch.tensor(weights)
    valid = (
        _apply_stencil(measured_mask, (stencil != 0).to(stencil), dilation)
        >= int((stencil != 0).sum()) - 0.5
    )
    valid = valid.expand_as(measurement)
    moments = (_apply_stencil(measurement, stencil, dilation) ** 3).reshape(batch, channels, -1)
    expected_moments = (gain * variance).reshape(batch, channels, -1) * float((stencil**3).sum())
    ratios = torch.zeros_like(gain)
    for index in range(batch):
        for channel in range(channels):
            inside = valid[index, channel].flatten()
            slope = relative_slope[index, channel].flatten()
            if not bool(inside.any()) or float(gain[index, channel].max()) <= 0:
                continue
            limit = torch.kthvalue(
                slope[inside], max(1, int(FLAT_PIXEL_FRACTIONS[weights] * int(inside.sum())))
            ).values
            flat = inside & (slope <= limit)
            ratio = (
                moments[index, channel][flat].sum() / expected_moments[index, channel][flat].sum()
            )
            ratios[index, channel] = ratio.nan_to_num(0.0, 0.0, 0.0)
    return ratios


def _compute_squared_slope(local_mean: Tensor) -> Tensor:
    """Return the squared magnitude of the moving mean's gradient in each plane."""
    planes = local_mean.reshape(-1, 1, *local_mean.shape[-2:])
    padded = F.pad(planes, (1,) * 4, mode="replicate")
    gradient_y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    gradient_x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    return (gradient_y**2 + gradient_x**2).reshape(local_mean.shape)


def average_in_plane(image: Tensor, side: int) -> Tensor:
    """Return the moving mean over `side` x `side` pixels of each plane; `side` is odd."""
    planes = image.reshape(-1, 1, *image.shape[-2:])
    padded = F.pad(planes, (side // 2,) * 4, mode="replicate")
    # one axis after the other, in a fifth of the time
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1).reshape(image.shape)


def _find_uncorrelated_distance(along: tuple[float, ...]) -> int:
    """Return the distance in pixels from which on noise is uncorrelated."""
    return (
        max(
            (lag for lag, value in enumerate(along, 1) if value > MAX_UNCORRELATED_VALUE), default=0
        )
        + 1
    )


def _apply_stencil(image: Tensor, stencil: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Convolve each plane with a stencil dilated by `dilation`, with zero padding."""
    (height, width), (step_y, step_x) = image.shape[-2:], dilation
    padded = F.pad(image, (step_x, step_x, step_y, step_y))
    # `conv2d` would take 16 times the memory of the image
    total = torch.zeros_like(image)
    for row, weights in enumerate(stencil.tolist()):
        for column, weight in enumerate(weights):
            top, first = row * step_y, column * step_x
            total += weight * padded[..., top : top + height, first : first + width]
    return total


class R2RPrior(Prior):
    """R2R prior: predict the measurement less noise from the measurement plus noise.

    Validation pixels and their guard band are filled in during training and previews. The final
    inference uses the whole measurement.

    Parameters
    ----------
    network : nn.Module
        With C input and C output channels.
    measurement : Tensor
        (B, C, *grid) in 2-D or 3-D. If B > 1, each training step uses one image of the batch.
    measured_mask : Tensor
        (B, 1, *grid), 1 where there is a measurement.
    excluded_mask : Tensor
        (B, 1, *grid), 1 at validation pixels and their guard band.
    blind_spot_size : tuple of int, odd
        Size of a validation pixel with its guard band, per axis.
    noise_variance : NoiseVariance
        Of the measurement; one for all images, or one for each.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white. Along Z it is
        white.
    window : tuple of int or None
        Size of the crop of one training step; None: the whole grid.
    pixel_weights : Tensor or None
        (1, 1, *grid), variance of `noise_variance` divided by that of each pixel; None: 1.

    References
    ----------
    Pang, Zheng, Quan, Ji, Recorrupted-to-recorrupted: unsupervised deep learning for image
    denoising, CVPR 2021, for Gaussian noise. For photon noise, a² times as many counts are drawn,
    each of the value gain / a. The joint cumulant of order m + 1 of input (m times) and target
    (once) is then k(e) - a^(m - 1) k(n), which is 0 for all m.
    """

    reveals_validation = True

    def __init__(
        self,
        network: nn.Module,
        *,
        measurement: Tensor,
        measured_mask: Tensor,
        excluded_mask: Tensor,
        blind_spot_size: tuple[int, ...],
        noise_variance: NoiseVariance,
        correlation: tuple[tuple[float, ...], tuple[float, ...]] | None,
        window: tuple[int, ...] | None,
        pixel_weights: Tensor | None = None,
    ) -> None:
        self.network = network
        self.noise_strength: float = (
            R2R_NOISE_STRENGTH if correlation is None else R2R_CORRELATED_STRENGTH
        )
        self.measurement: Tensor = fill_with_local_mean(
            measurement * measured_mask, measured_mask, blind_spot_size
        )
        self.visible_mask: Tensor = measured_mask * (1 - excluded_mask)
        self.filled_measurement: Tensor = fill_with_local_mean(
            measurement * self.visible_mask, self.visible_mask, blind_spot_size
        )
        self.std: Tensor = noise_variance.compute_variance(
            _average_surroundings(self.filled_measurement)
        ).sqrt()
        if pixel_weights is not None:
            self.std = self.std / pixel_weights.sqrt()
        self.grid: tuple[int, ...] = tuple(measurement.shape[2:])
        self.window: tuple[int, ...] = limit_window(window, self.grid)
        self.spectrum: Tensor | None = (
            None if correlation is None else _compute_noise_amplitude(correlation, self.window[-2:])
        )
        images = zip(measurement.split(1), self.visible_mask.split(1), strict=True)
        skewness_of_images = [
            estimate_count_skewness(
                *image, noise_variance.select(index % len(noise_variance.gain)), correlation
            )
            for index, image in enumerate(images)
        ]
        skewness = torch.cat(skewness_of_images).mean(0, keepdim=True)
        skewness_factor = (
            1.0
            if self.spectrum is None
            else _compute_skewness_factor(self.spectrum, self.window[-2:])
        )
        self.count_value: Tensor = (
            skewness * noise_variance.gain / (self.noise_strength * skewness_factor)
        ).clamp(min=MIN_COUNT_VALUE)
        self.has_low_counts: bool = bool(
            ((self.std / self.count_value) ** 2 < MIN_GAUSSIAN_COUNT).any()
        )

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Draw a random window with fresh noise, mirrored at random."""
        window = draw_random_window(self.grid, self.window, rng, batch_size=len(self.measurement))
        filled, std = window.crop(self.filled_measurement), window.crop(self.std)
        noise = self._draw_white_noise(std, window.select_image(self.count_value), rng)
        if self.spectrum is not None:
            noise = torch.fft.irfft2(torch.fft.rfft2(noise) * self.spectrum, s=self.window[-2:])
        noise = noise * std
        return StepInput(
            filled + self.noise_strength * noise,
            loss_mask=window.crop(self.visible_mask),
            window=window,
            target_noise=noise / self.noise_strength,
        )

    def _draw_white_noise(self, std: Tensor, count_value: Tensor, rng: torch.Generator) -> Tensor:
        """Draw noise of variance 1, with the skewness of counts of value `count_value`."""
        white = draw_normal(std, rng)
        if not self.has_low_counts:
            return white
        expected = (std / count_value) ** 2
        is_low_count = expected < MIN_GAUSSIAN_COUNT
        # a GPU draws both, since reading whether it has to would take longer
        if white.device.type == "cpu" and not bool(is_low_count.any()):
            return white
        counts = draw_poisson(expected.clamp(max=MIN_GAUSSIAN_COUNT), rng)
        return torch.where(is_low_count, (counts - expected) / expected.sqrt(), white)

    def make_prediction_sample(self) -> StepInput:
        """Return the measurement with validation pixels filled in."""
        return StepInput(self.filled_measurement)

    def make_inference_samples(self) -> Iterator[StepInput]:
        """Yield the whole measurement, once."""
        yield StepInput(self.measurement)


def _compute_skewness_factor(spectrum: Tensor, size: tuple[int, ...]) -> float:
    """Return the factor by which filtering reduces the skewness of white noise."""
    kernel = torch.fft.irfft2(spectrum.to(torch.complex64), s=size)
    return float((kernel**3).sum() / (kernel**2).sum() ** 1.5)


def _average_surroundings(image: Tensor) -> Tensor:
    """Return the mean of each pixel's neighbours in its plane, without the pixel itself.

    With the pixel itself, the added noise would be correlated with the measured one.
    """
    return (SIGNAL_WINDOW_SIDE**2 * average_in_plane(image, SIGNAL_WINDOW_SIDE) - image) / (
        SIGNAL_WINDOW_SIDE**2 - 1
    )


def _compute_noise_amplitude(
    correlation: tuple[tuple[float, ...], tuple[float, ...]], size: tuple[int, ...]
) -> Tensor:
    """Return the factors for `rfft2` of white noise that give noise with this autocorrelation."""
    powers = []
    for along, count in zip(correlation, size, strict=True):
        correlations = torch.tensor(along[: max(0, (count - 1) // 2)])
        autocorrelation = torch.zeros(count)
        autocorrelation[0] = 1
        autocorrelation[1 : 1 + len(correlations)] = correlations
        autocorrelation[count - len(correlations) :] = correlations.flip(0)
        powers.append(torch.fft.fft(autocorrelation).real.clamp(min=MIN_FREQUENCY_POWER))
    power = powers[0][:, None] * powers[1]
    amplitude: Tensor = (power / power.mean()).sqrt()[:, : size[1] // 2 + 1]
    return amplitude
