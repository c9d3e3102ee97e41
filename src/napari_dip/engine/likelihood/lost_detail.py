"""Put back what a network takes for noise: border lines of their own, and significant spots.

Of a spot, the residual is compared with the noise by a matched filter. Variances are in squared
network units.
"""

from __future__ import annotations

import math
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.constants import FWHM_PER_SIGMA, HARD_THRESHOLD_SIGMAS
from napari_dip.engine.prior import average_box
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.likelihood.fidelity import NoiseVariance

#: Border lines that are corrected on each side: 57 % of the squared error of the paper's F16.
BORDER_WIDTH = 3
#: Length of the moving mean along a border line, in pixels.
BORDER_AVERAGE_LENGTH = 9
#: Least power of a smoothed border line, in units of that of noise, for the line to be corrected.
MIN_BORDER_POWER_RATIO = 2.0
#: Standard deviation of spots in pixels (0: a single pixel) -> their least significance above their
#: surroundings, in standard deviations of the noise. Detectors have stray pulses, so single pixels
#: need more: one of 32 photons on seven FMD crops still counts, and costs 0.03 dB.
SPOT_SIGNIFICANCES = {0.0: 8.0, 0.8: 5.5, 1.3: 5.5, 2.0: 5.5}
#: Least significance of what the estimate lacks of a spot, in standard deviations of the noise.
MIN_SPOT_RESIDUAL = 4.5
#: Outer and inner side of the square ring whose mean is the brightness around a spot, in pixels.
SURROUNDING_RING = (11, 7)
#: Side in pixels of the square in which a spot is the strongest one.
SPOT_WINDOW_SIDE = 9
#: Largest number of spots in a round, per pixel; more are noise stronger than the model says.
MAX_SPOT_FRACTION = 1e-3
#: Rounds of the search for spots: one beside a stronger one appears in the second.
SPOT_ROUNDS = 3
#: Share of a weak spot that a fit keeps, so that the residual lacks it: 0.05 to 0.45
#: (`benchmarks/weakest_spots.py`).
FITTED_SPOT_FRACTION = 0.35
#: Highest peak of a spot for which a limit is computed, in standard deviations of the noise.
MAX_SPOT_PEAK = 100.0
#: Widths of lines for which a limit is computed: that at half of the height, in pixels.
LINE_WIDTHS = (1, 2, 3)
#: Rows beyond a band on which its spots depend: twice the 6 of the widest profile, and the 5 of the
#: ring around a spot.
SPOT_REACH = 17
#: Pixels of a band: some 170 bytes each are in use.
SPOT_BAND_PIXELS = 2**17
#: Least share of a spot's weight on measured pixels.
MIN_SPOT_COVERAGE = 0.5
#: Largest expected count of the Poisson distribution of a significance. Beyond, its skewness is
#: below 0.01, and differences of counts would be lost to rounding.
MAX_POISSON_COUNT = 1e4
#: Radii in pixels of places at which a guide may lack a structure of the image: from spots on.
PLACE_RADII = (1, 2, 4, 8)
#: Minimum standard errors of the mean residual of such a place: noise has them in 1 of 2,000.
MIN_PLACE_ERRORS = 3.5


def restore_border_detail(
    noise_variance: NoiseVariance, measurement: Tensor, image: Tensor
) -> Tensor:
    """Return the image with the significant residual of its outermost lines added.

    Scanners, decoders and crops often leave a last row or column of its own. Convolutions that
    reflect at the border cannot distinguish it from others and smooth it away. The residual of
    each line is smoothed along it, and added as far as its power exceeds that of noise.

    Parameters
    ----------
    noise_variance : NoiseVariance
        White noise.
    measurement, image : Tensor
        (1, C, Y, X). With fewer than `4 * BORDER_AVERAGE_LENGTH` pixels along a side, `image`
        is returned unchanged.
    """
    if min(image.shape[2:]) < 4 * BORDER_AVERAGE_LENGTH:
        return image
    std = noise_variance.compute_variance(image).sqrt()
    residual = (measurement - image) / std
    restored = image.clone()
    for axis in (2, 3):
        for position in (*range(BORDER_WIDTH), *range(-BORDER_WIDTH, 0)):
            line = residual.select(axis, position)  # (1, C, L)
            smoothed_line = _average_along_line(line)
            power = smoothed_line.square().mean(2, keepdim=True)
            noise_power = 1 / BORDER_AVERAGE_LENGTH
            fraction = torch.where(
                power > MIN_BORDER_POWER_RATIO * noise_power, 1 - noise_power / power, 0
            )
            target = restored.select(axis, position)
            target += fraction * smoothed_line * std.select(axis, position)
    return restored


def _average_along_line(line: Tensor) -> Tensor:
    """Return the moving mean along a line, over fewer pixels at its ends."""
    return F.avg_pool1d(
        line, BORDER_AVERAGE_LENGTH, 1, BORDER_AVERAGE_LENGTH // 2, count_include_pad=False
    )


def restore_significant_spots(
    noise_variance: NoiseVariance,
    measurement: Tensor,
    estimate: Estimate,
    pixel_weights: Tensor,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None,
    skewness: Tensor,
) -> Estimate:
    """Return the estimate with what it lacks of spots that noise cannot explain.

    A network, and a filter of similar patches, take a rare spot for noise. A matched filter knows
    better: normal noise exceeds `SPOT_SIGNIFICANCES` once in 50 million pixels. A spot is raised
    by the amplitude that the residual has, if that is significant.

    Parameters
    ----------
    noise_variance : NoiseVariance
    measurement : Tensor
        (1, C, Y, X).
    estimate : Estimate
        (1, C, Y, X).
    pixel_weights : Tensor
        (1, 1, Y, X), 0 where nothing was measured.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white.
    skewness : Tensor
        (1, C, 1, 1), in units of that of photon noise. Sums of skewed noise are compared with a
        Poisson distribution of the same variance and skewness.
    """
    find_spots = partial(_find_significant_spots, noise_variance, correlation, skewness)
    mean, variance = estimate.mean, None
    for _ in range(SPOT_ROUNDS):
        spots, spot_variance, count = _find_spots_in_bands(
            find_spots, measurement, mean, pixel_weights
        )
        if not 0 < count <= MAX_SPOT_FRACTION * mean.numel():
            break
        mean = mean + spots
        variance = spot_variance if variance is None else variance + spot_variance
    if variance is None or estimate.log_variance is None:
        return estimate._replace(mean=mean)
    return Estimate(mean, (estimate.log_variance.exp() + variance).log())


def compute_spot_limits(variance: float, gain: float) -> dict[str, float]:
    """Return the weakest peak of a spot that stays, in standard deviations, by width.

    The width is that at half of the height, in pixels. Photon noise at a spot is skewed, so a spot
    on few photons has to be higher.

    Parameters
    ----------
    variance, gain : float
        Of white noise where the spot is, and its slope there.
    """
    peaks = torch.arange(0.1, MAX_SPOT_PEAK, 0.1)
    limits = {}
    for width, min_significance in SPOT_SIGNIFICANCES.items():
        profile = _make_spot_profile(width)
        energy, third_power = _sum_square(profile), float((profile**3).sum()) ** 2
        existing, lacking = (
            _compute_significance(
                fraction * peaks * variance**0.5 * energy,
                torch.tensor(variance * energy),
                torch.tensor(gain * variance * third_power),
            )
            for fraction in (1.0, 1 - FITTED_SPOT_FRACTION)
        )
        is_kept = (existing >= min_significance) & (lacking >= MIN_SPOT_RESIDUAL)
        peak = float(peaks[is_kept][0]) if is_kept.any() else MAX_SPOT_PEAK
        limits[f"{max(1, round(FWHM_PER_SIGMA * width))}"] = round(peak, 1)
    return limits


def compute_line_limits(variance: float, gain: float) -> dict[str, float]:
    """Return the weakest peak of a line that stays, in standard deviations, by width.

    The filter of similar patches keeps what exceeds a threshold in their spectrum. The largest
    coefficient of a line is its sum across, so a wide line may be weaker. Photon noise is compared
    after its variance was stabilised, which compresses a peak.

    Parameters
    ----------
    variance, gain : float
        Of white noise where the line is, and its slope there.
    """
    limits = {}
    for width in LINE_WIDTHS:
        sum_across = math.sqrt(2 * math.pi) * width / FWHM_PER_SIGMA
        stabilised_peak = HARD_THRESHOLD_SIGMAS / sum_across
        peak = stabilised_peak + gain * stabilised_peak**2 / (4 * variance**0.5)
        limits[str(width)] = round(peak, 1)
    return limits


def _find_spots_in_bands(
    find_spots: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    measurement: Tensor,
    image: Tensor,
    pixel_weights: Tensor,
) -> tuple[Tensor, Tensor, int]:
    """Return an image of what spots lack, the variance of its error, and the number of spots.

    Some rows at a time are searched, to limit memory.
    """
    spots, spot_variance, count = torch.zeros_like(image), torch.zeros_like(image), 0
    height = image.shape[2]
    band = max(SPOT_REACH, SPOT_BAND_PIXELS // image.shape[3])
    for start in range(0, height, band):
        stop, first = min(start + band, height), max(0, start - SPOT_REACH)
        rows = (..., slice(first, stop + SPOT_REACH), slice(None))
        is_chosen, *parts = find_spots(measurement[rows], image[rows], pixel_weights[rows])
        inside = (..., slice(start - first, stop - first), slice(None))
        count += int(is_chosen[inside].sum())
        for total, part in zip((spots, spot_variance), parts, strict=True):
            total[..., start:stop, :] = part[inside]
    return spots, spot_variance, count


class _SpotFit(NamedTuple):
    """Least-squares fit of a spot at each pixel, (B, C, Y, X) each."""

    significance: Tensor
    amplitude: Tensor
    error_variance: Tensor


def _find_significant_spots(
    noise_variance: NoiseVariance,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None,
    skewness: Tensor,
    measurement: Tensor,
    image: Tensor,
    pixel_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where spots are, an image of what they lack, and the variance of its error."""
    profiles = [_make_spot_profile(width) for width in SPOT_SIGNIFICANCES]
    weights = [_convolve_planes(pixel_weights, profile**2) for profile in profiles]

    def fit_spots(base: Tensor) -> list[_SpotFit]:
        """Fit spots of each width to the measurement less a base image."""
        residual = pixel_weights * (measurement - base)
        variance = noise_variance.compute_variance(base) * pixel_weights**2
        third_moment = pixel_weights * skewness * noise_variance.gain * variance
        fits = []
        for profile, weight in zip(profiles, weights, strict=True):
            filtered = _convolve_planes(residual, profile)
            power = _convolve_planes(variance, profile**2) * math.prod(
                _compute_correlation_factor(profile, lags) for lags in correlation or ((), ())
            )
            moment = _convolve_planes(third_moment, profile**3)
            significance = _compute_significance(filtered, power.clamp(min=1e-30), moment)
            divisor = weight.clamp(min=1e-6)
            fits.append(_SpotFit(significance, filtered / divisor, power / divisor**2))
        return fits

    lacking = fit_spots(image)
    significances = [
        torch.where(weight >= MIN_SPOT_COVERAGE * _sum_square(profile), fit.significance, 0)
        for fit, weight, profile in zip(lacking, weights, profiles, strict=True)
    ]
    highest, best_profile = torch.stack(significances).abs().max(0)
    spots, spot_variance = torch.zeros_like(image), torch.zeros_like(image)
    is_candidate = highest > MIN_SPOT_RESIDUAL
    is_spot = torch.zeros_like(is_candidate)
    if not bool(is_candidate.any()):
        return is_spot, spots, spot_variance
    reach = SPOT_WINDOW_SIDE // 2
    nearby = F.max_pool2d(highest, (SPOT_WINDOW_SIDE, 1), 1, (reach, 0))
    is_candidate &= highest == F.max_pool2d(nearby, (1, SPOT_WINDOW_SIDE), 1, (0, reach))
    existing = fit_spots(_average_ring(image))
    for index, min_significance in enumerate(SPOT_SIGNIFICANCES.values()):
        fit, profile = lacking[index], profiles[index]
        is_in_image = existing[index].significance * fit.significance.sign() > min_significance
        is_chosen = is_candidate & (best_profile == index) & is_in_image
        spots += _convolve_planes(is_chosen * fit.amplitude, profile)
        spot_variance += _convolve_planes(is_chosen * fit.error_variance, profile**2)
        is_spot |= is_chosen
    return is_spot, spots, spot_variance


def _average_ring(image: Tensor) -> Tensor:
    """Return the mean of the pixels in a square ring around each."""
    inside = torch.ones_like(image[:1, :1])
    rings = [
        _convolve_planes(item, torch.ones(SURROUNDING_RING[0]))
        - _convolve_planes(item, torch.ones(SURROUNDING_RING[1]))
        for item in (image, inside)
    ]
    return rings[0] / rings[1]


def _make_spot_profile(width: float) -> Tensor:
    """Return a Gaussian of height 1 along one axis; a single pixel for a width of 0."""
    distance = torch.arange(-ceil(3 * width), ceil(3 * width) + 1)
    return torch.exp(-0.5 * (distance / max(width, 1e-3)) ** 2)


def _sum_square(profile: Tensor) -> float:
    """Return the sum over a spot's pixels of its squared values."""
    return float((profile**2).sum()) ** 2


def _convolve_planes(image: Tensor, profile: Tensor) -> Tensor:
    """Convolve planes (B, C, Y, X) along Y and X with a symmetric profile, with zeros outside."""
    # shifted sums take a tenth of the time of `conv2d` with one channel
    middle, *sides = profile[len(profile) // 2 :].tolist()
    for axis in (2, 3):
        total = middle * image
        for distance, weight in enumerate(sides[: image.shape[axis] - 1], 1):
            count = image.shape[axis] - distance
            total.narrow(axis, distance, count).add_(image.narrow(axis, 0, count), alpha=weight)
            total.narrow(axis, 0, count).add_(image.narrow(axis, distance, count), alpha=weight)
        image = total
    return image


def _compute_correlation_factor(profile: Tensor, lags: tuple[float, ...]) -> float:
    """Return the variance of noise weighted by a profile, in units of that of white noise."""
    own = float((profile**2).sum())
    overlaps = [float((profile[:-lag] * profile[lag:]).sum()) for lag in range(1, len(profile))]
    return 1 + 2 * sum(c * overlap for c, overlap in zip(lags, overlaps, strict=False)) / own


def _compute_significance(filtered: Tensor, variance: Tensor, third_moment: Tensor) -> Tensor:
    """Return the signed root of the deviance of a scaled Poisson distribution of these moments."""
    normal = filtered / variance.sqrt()
    expected = (variance**3 / third_moment.clamp(min=1e-30) ** 2).clamp(max=MAX_POISSON_COUNT)
    counts = (expected + normal * expected.sqrt()).clamp(min=0)
    deviance = 2 * (torch.xlogy(counts, counts / expected) - (counts - expected))
    return normal.sign() * deviance.clamp(min=0).sqrt()


def find_unguided_places(residual: Tensor, other_residual: Tensor) -> Tensor:
    """Return 1 where an image lacks what is measured, as where its guide does not show it.

    Parameters
    ----------
    residual, other_residual : Tensor
        (1, C, Y, X), of this image and of another, in standard deviations of the noise.

    Returns
    -------
    Tensor
        (1, C, Y, X), with smooth edges.
    """
    places = torch.zeros_like(residual)
    for radius in PLACE_RADII:
        side = 2 * radius + 1
        errors, other_errors = (
            side * average_box(each, radius).abs() for each in (residual, other_residual)
        )
        is_lost = (errors > MIN_PLACE_ERRORS) & (errors > other_errors)
        places = places.maximum(F.max_pool2d(is_lost.to(residual), side, 1, radius))
    return average_box(places, PLACE_RADII[1])
