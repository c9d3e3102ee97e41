"""Measure the autocorrelation of noise, separated from that of texture.

Noise has the same autocorrelation everywhere, and its energy varies between blocks by chance alone.
The distribution of block energies, relative to their finest frequencies, is therefore fitted as a
mixture. Its lowest frequent energy is noise. What lies above is texture, whose correlation is
subtracted. How wide a blind spot the correlation asks for is decided here as well.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    MAX_BLOCKS,
    MAX_LAG,
    MIN_COUNTED_CORRELATION,
    NO_CLIPPING,
    choose_block_side,
    compute_covariances,
    correct_surface_bias,
    cut_blocks,
    iterate_surface_correction,
    make_dct_matrix,
    select_informative_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.engine.noise.flat_blocks import NoiseSample
    from napari_dip.engine.noise.variance_model import VarianceModel

CorrelationT = TypeVar("CorrelationT", float, Tensor)

#: Grid of block energies in units of the variance at the finest frequencies, in steps of a tenth.
ENERGY_GRID = tuple(0.7 * 1.1**index for index in range(110))
#: Quantile of the block energies that defines the least energy of a block; as few may be flat.
MIN_ENERGY_FRACTION = 0.05
#: Least energy of a block below which noise is white, in units of the variance at the finest
#: frequencies.
MAX_WHITE_ENERGY = 1.6
#: Largest share of blocks with less energy than correlated noise: a quarter on FMD widefield.
MAX_LOW_ENERGY_FRACTION = 0.3
#: Steps of `ENERGY_GRID` below the noise energy whose blocks count as noise alone.
_GRID_STEPS_BELOW = 3
#: Steps of `ENERGY_GRID` above the noise energy whose blocks count as noise alone.
_GRID_STEPS_ABOVE = 3
#: Steps of `ENERGY_GRID` above the noise energy, from and to, whose blocks count as texture.
_TEXTURE_GRID_STEPS = (5, 15)
#: Initial degrees of freedom of a block, as of noise with a correlation of 0.6 at lag 1. With more,
#: correlated noise is classified as texture in all iterations.
INITIAL_DEGREES_OF_FREEDOM = 60.0
#: Share of blocks near the noise energy above which their energy is noise alone: up to 1.0 in FMD
#: widefield (docs/constants.md).
MIN_NOISE_ONLY_FRACTION = 0.6
#: Share of blocks near the noise energy below which the lowest energy is taken for the noise; up to
#: `MIN_NOISE_ONLY_FRACTION`, it is interpolated.
MAX_TEXTURE_ONLY_FRACTION = 0.35
#: Share of blocks near the noise energy below which the correlation is unreliable.
MAX_UNRELIABLE_FRACTION = 0.2
#: Share of blocks near the noise energy from which on the correlation is used in full; down to
#: `MAX_UNRELIABLE_FRACTION`, it is scaled down.
MIN_RELIABLE_FRACTION = 0.4
#: Highest correlation at lag 1 of noise; images have more.
MAX_NOISE_CORRELATION = 0.86
#: Correlation at lag 1 below which noise and texture need not be separated.
_MAX_WHITE_CORRELATION = 0.15
#: Rounds of expectation and maximisation that separate noise from texture.
_EM_ROUNDS = 40
#: Separations of noise from texture, since degrees of freedom and correlation depend on each other.
_REFINEMENTS = 3
#: Quantile of the block energies that bounds the noise energy from below.
_MIN_LOWEST_FRACTION = 0.03
#: Factor on the quantile of the block energies that bounds the noise energy from below.
_LOWEST_ENERGY_FACTOR = 0.95
#: Correlation at lag 1 above which noise is treated as correlated: up to 0.18 in FMD fields with
#: white noise, at least 0.59 with correlated noise (docs/constants.md).
MIN_LAG_1_CORRELATION = 0.22
#: The blind spot stops growing at the first lag whose noise correlation is at most this, after
#: the correlation of the image itself is subtracted. A network learns no noise from so little.
MAX_NEGLIGIBLE_CORRELATION = 0.05
#: Maximum radius of the blind spot in pixels: on FMD widefield, 7 x 7 is better than 5 x 5 by 1 dB
#: and than 11 x 11 by 1.4 dB (docs/constants.md).
MAX_BLIND_SPOT_RADIUS = 3
#: Radius in pixels of the square of neighbours that predict its centre.
PREDICTION_RADIUS = 2
#: Share of the pixels of each brightness class that is predicted: those with the least varying
#: neighbours.
FLAT_PIXEL_FRACTION = 0.2
#: Number of brightness classes in which pixels are predicted from their neighbours.
PREDICTION_BRIGHTNESS_CLASSES = 4
#: Side in pixels of the window over which the variation of a pixel's neighbours is averaged.
FLAT_WINDOW_SIDE = 9
#: Fewest pixels of a brightness class that are predicted, if it has as many.
MIN_FLAT_PIXELS = 200
#: Share of white noise that neighbours do not predict, at flat pixels: 0.77 to 0.82 on four images
#: of scikit-image (docs/constants.md).
WHITE_RESIDUAL_FRACTION = 0.77
#: Power of the share of pixels that stay with which others, replaced by random neighbours, hide
#: that noise is predictable: within 0.06 in six crops of FMD widefield with 0.05 to 0.3 replaced.
REPLACEMENT_POWER = 3.5
#: Ridge of the least squares, as a share of the neighbours' variance.
RIDGE = 1e-3
#: Lower bound of the noise power at each frequency along one axis of a patch.
MIN_PATCH_POWER = 0.02
#: Fewest informative blocks of pixels for an estimate.
MIN_NOISE_BLOCKS = 8
#: Autocorrelation of white noise.
WHITE_CORRELATION = (0.0,) * MAX_LAG
#: Minimum share of unclipped wide blocks for a correlation in a clipped image: 0.01 to 0.23 in
#: misclassified white noise, 0.51 and 0.70 in FMD widefield (docs/constants.md).
MIN_WHOLE_BLOCK_FRACTION = 0.3
#: Minimum share of unclipped wide blocks for a correlation that falls fast: 0.15 or more in crops
#: of FMD widefield of 96 x 96 pixels and more.
MIN_SPARSE_BLOCK_FRACTION = 0.12
#: Maximum ratio of the correlation at lag 2 to that at lag 1 along either axis, in the noise of an
#: image with fewer wide blocks than `MIN_WHOLE_BLOCK_FRACTION`: 0.55 in FMD widefield, 0.65 or more
#: in texture that was taken for noise.
MAX_SPARSE_LAG_2_RATIO = 0.6
#: Maximum correlation at lag 1 in such an image: 0.70 in FMD widefield, 0.79 where galaxies were
#: taken for noise.
MAX_SPARSE_CORRELATION = 0.75
#: Maximum relative variance of a wide block's energy by chance of its photons where correlation is
#: measured: with 0.02 to 0.2, a mostly black confocal image and crops of it have 0.26 to 0.35 at
#: lag 1 along X; with all blocks, three of these five have none (docs/constants.md).
MAX_EXCESS_VARIANCE = 0.1


class NoiseCorrelation(NamedTuple):
    """Autocorrelation of the noise.

    Attributes
    ----------
    along_y, along_x : tuple of float
        At lags 1, 2, ...
    min_along_y, min_along_x : tuple of float
        Lower bounds, if all that may be texture is texture. The variance model uses them.
    agreement : float
        Share of the blocks near the noise energy.
    is_reliable : bool
        Whether noise and texture can be separated; if not, all lags are zero.
    """

    along_y: tuple[float, ...]
    along_x: tuple[float, ...]
    min_along_y: tuple[float, ...]
    min_along_x: tuple[float, ...]
    agreement: float
    is_reliable: bool

    @property
    def is_correlated(self) -> bool:
        """Whether a blind spot has to be wider than a pixel."""
        return any(map(compute_blind_spot_radius, (self.along_y, self.along_x)))


#: White noise, as it is taken for where correlation cannot be measured.
WHITE_NOISE = NoiseCorrelation(
    WHITE_CORRELATION,
    WHITE_CORRELATION,
    WHITE_CORRELATION,
    WHITE_CORRELATION,
    0.0,
    is_reliable=True,
)


def subtract_image_correlation(correlations: tuple[float, ...]) -> tuple[float, ...]:
    """Subtract the residual correlation of the image, estimated by the longest lag, from all lags.

    On FMD WideField_BPAE_R and B, the result along Y is 0.62, 0.22, 0.12, 0.06 and 0.59, 0.17,
    0.08, 0.05. Noise relative to the mean of 50 exposures has 0.62, 0.22, 0.13, 0.08.

    Parameters
    ----------
    correlations : tuple of float
        Autocorrelation at lags 1, 2, ...
    """
    return tuple(max(0.0, _subtract_longest(value, correlations[-1])) for value in correlations)


def compute_passed_power(
    correlations: tuple[tuple[float, ...], tuple[float, ...]], kernel: Tensor
) -> float:
    """Return how strong noise is at the frequencies that a blur passes, in units of its variance.

    A deconvolution explains the measurement there alone. White noise has 1.

    Parameters
    ----------
    correlations : tuple of two tuples of float
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; it is taken as their product.
    kernel : Tensor
        (*grid), the blur, in pixels of the measurement.
    """
    sizes = tuple(2 * size for size in kernel.shape)
    blur_correlation = torch.fft.irfftn(torch.fft.rfftn(kernel, sizes).abs().square(), sizes)
    for axis, lags in zip((-2, -1), correlations, strict=True):
        count = min(len(lags), kernel.shape[axis] - 1)
        values = torch.zeros(sizes[axis]).to(kernel)
        values[0], values[1 : 1 + count] = 1, torch.tensor(lags[:count])
        values[sizes[axis] - count :] = values[1 : 1 + count].flip(0)
        blur_correlation = blur_correlation * values.reshape(-1, *[1] * (-1 - axis))
    planes = blur_correlation.reshape(-1, *sizes[-2:])[0]  # noise is white along depth
    return float(planes.sum() / planes[0, 0])


def _subtract_longest(correlation: CorrelationT, longest: float) -> CorrelationT:
    """Return correlations less that of the image, which is the correlation at the longest lags."""
    image_correlation = min(max(0.0, longest), MAX_NOISE_CORRELATION)
    return (correlation - image_correlation) / (1 - image_correlation)


def measure_noise_correlation(residuals: Tensor, variance: Tensor) -> NoiseCorrelation:
    """Measure the autocorrelation of the noise in blocks.

    Parameters
    ----------
    residuals : Tensor
        (K, side, side), blocks less a smooth surface.
    variance : Tensor
        (K,), > 0, noise variance of each block at its finest frequencies.

    References
    ----------
    Laird, Nonparametric maximum likelihood estimation of a mixing distribution, J. Am. Stat.
    Assoc. 73, 1978, doi:10.1080/01621459.1978.10480103 (the mixture of energies).
    """
    side = residuals.shape[1]
    energy = residuals.square().mean((1, 2)) / variance
    raw_y, raw_x = (covariance / variance[:, None] for covariance in compute_covariances(residuals))
    degrees_of_freedom, max_degrees_of_freedom = INITIAL_DEGREES_OF_FREEDOM, 0.8 * side**2
    for _ in range(_REFINEMENTS):  # degrees of freedom and correlation depend on each other
        mixture = _separate_noise_from_texture(
            energy, min(degrees_of_freedom, max_degrees_of_freedom)
        )
        estimate = partial(_estimate_autocorrelation, mixture, raw_y, raw_x, energy, side)
        axes = estimate(mixture.noise_energy)
        degrees_of_freedom = side**2 / prod(
            1 + 2 * sum(v * v for v in axis if v > 0.05) for axis in axes
        )
    return _limit_to_agreement(axes, estimate(mixture.lowest_energy), mixture.agreement)


class _BlockMixture(NamedTuple):
    """Blocks of noise alone and of texture, by their energies.

    Attributes
    ----------
    flat_probability, textured_probability : Tensor
        (K,), of each block.
    agreement : float
        Share of the blocks near the noise energy.
    noise_energy, lowest_energy, flat_energy : float
        Energy of the noise, its lower bound, and the mean energy of flat blocks.
    """

    flat_probability: Tensor
    textured_probability: Tensor
    agreement: float
    noise_energy: float
    lowest_energy: float
    flat_energy: float


def _separate_noise_from_texture(energy: Tensor, degrees_of_freedom: float) -> _BlockMixture:
    """Fit the mixture of block energies, and find the energy of the noise in it."""
    grid = torch.tensor(ENERGY_GRID, dtype=energy.dtype)
    frequencies, posterior = _fit_energy_mixture(
        energy.clamp(ENERGY_GRID[0] / 2, 2 * ENERGY_GRID[-1]), grid, degrees_of_freedom
    )
    cumulative_frequencies = frequencies.cumsum(0)
    noise_index = _locate_noise_energy(frequencies, cumulative_frequencies)
    noise_range = slice(max(0, noise_index - _GRID_STEPS_BELOW), noise_index + _GRID_STEPS_ABOVE)
    texture_range = slice(*(noise_index + step for step in _TEXTURE_GRID_STEPS))
    flat_probability, textured_probability = (
        posterior[:, energy_range].sum(1) for energy_range in (noise_range, texture_range)
    )
    agreement = float(frequencies[noise_range.start : noise_range.stop + 1].sum())
    flat_energy = float((energy * flat_probability).sum() / flat_probability.sum())
    lowest_energy = _LOWEST_ENERGY_FACTOR * float(
        grid[int((cumulative_frequencies >= _MIN_LOWEST_FRACTION).nonzero()[0])]
    )
    lowest_energy = min(flat_energy, max(lowest_energy, min(flat_energy, 1.0)))
    span = MIN_NOISE_ONLY_FRACTION - MAX_TEXTURE_ONLY_FRACTION
    texture_weight = min(1.0, max(0.0, (MIN_NOISE_ONLY_FRACTION - agreement) / span))
    return _BlockMixture(
        flat_probability,
        textured_probability,
        agreement,
        noise_energy=flat_energy - texture_weight * (flat_energy - lowest_energy),
        lowest_energy=lowest_energy,
        flat_energy=flat_energy,
    )


def _limit_to_agreement(
    axes: tuple[tuple[float, ...], ...], min_axes: tuple[tuple[float, ...], ...], agreement: float
) -> NoiseCorrelation:
    """Return the correlation, reduced or marked as unreliable where few blocks agree."""
    y, x, min_y, min_x = *axes, *min_axes
    lag_1 = max(y[0], x[0])
    if lag_1 <= _MAX_WHITE_CORRELATION:
        return NoiseCorrelation(y, x, min_y, min_x, agreement, is_reliable=True)
    if agreement < MAX_UNRELIABLE_FRACTION or lag_1 > MAX_NOISE_CORRELATION:
        zeros = (0.0,) * len(y)
        return NoiseCorrelation(zeros, zeros, zeros, zeros, agreement, is_reliable=False)
    span = MIN_RELIABLE_FRACTION - MAX_UNRELIABLE_FRACTION
    confidence = min(1.0, (agreement - MAX_UNRELIABLE_FRACTION) / span)
    y, x, min_y, min_x = (
        tuple(round(confidence * value, 4) for value in item) for item in (y, x, min_y, min_x)
    )
    return NoiseCorrelation(y, x, min_y, min_x, agreement, is_reliable=True)


def compute_blind_spot_radius(correlation: tuple[float, ...]) -> int:
    """Return the radius of the blind spot along one axis; 0 if the noise is white.

    Structure of the image adds to the measured correlation, nearly as much at all lags. The value
    at the longest lag is taken for this part, and is subtracted from all lags.
    """
    lag_1, *longer = subtract_image_correlation(correlation)
    if lag_1 <= MIN_LAG_1_CORRELATION:
        return 0
    radius = 1
    for value in longer[: MAX_BLIND_SPOT_RADIUS - 1]:
        if value <= MAX_NEGLIGIBLE_CORRELATION:
            break
        radius += 1
    return radius


def measure_correlation_plane(residuals: Tensor) -> Tensor:
    """Measure the autocorrelation of flat blocks at all lags along both axes together.

    As for the axes, what the longest lags have in common is that of the image and is subtracted.

    Parameters
    ----------
    residuals : Tensor
        (K, side, side), blocks less a smooth surface.

    Returns
    -------
    Tensor
        (2 MAX_LAG + 1, 2 MAX_LAG + 1), along Y and X; 1 in the middle, and point symmetric.
    """
    side = residuals.shape[1]
    padded = (2 * side, 2 * side)  # lags shorter than a block do not wrap around
    spectra = torch.fft.rfft2(residuals, s=padded).abs().square()
    power = (spectra / residuals.square().sum((1, 2), keepdim=True).clamp(min=1e-30)).mean(0)
    lags = torch.arange(-MAX_LAG, MAX_LAG + 1)
    pairs = (1 - lags.abs() / side)[:, None] * (1 - lags.abs() / side)
    raw = torch.fft.irfft2(power, s=padded)[lags][:, lags] / pairs
    plane, _ = iterate_surface_correction(
        lambda surface_fraction: raw * (1 - surface_fraction) + surface_fraction,
        lambda values: float(values[values > MIN_COUNTED_CORRELATION].sum()),
        side,
    )
    longest = torch.cat([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]])
    noise_correlation: Tensor = _subtract_longest(plane, float(longest.median()))
    return noise_correlation


def compute_band_power(along_y: Sequence[float], along_x: Sequence[float]) -> Tensor:
    """Return the power of noise of variance 1 in each DCT coefficient, (DCT_SIDE, DCT_SIDE)."""
    powers = [
        _compute_axis_power([value if abs(value) > 0.03 else 0.0 for value in along], torch.float64)
        for along in (along_y, along_x)
    ]
    return powers[0][:, None] * powers[1][None]


def _compute_axis_power(along: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return the power of noise of variance 1 at each frequency along one axis: (DCT_SIDE,)."""
    basis = make_dct_matrix().to(dtype)
    return (basis @ make_correlation_matrix(along, DCT_SIDE).to(dtype) @ basis.T).diagonal()


def make_correlation_matrix(along: Sequence[float], side: int) -> Tensor:
    """Return the correlation (side, side) of pixels in a line, given that at lags 1, 2, ..."""
    values = torch.zeros(side, dtype=torch.float64)
    values[0] = 1
    count = min(len(along), side - 1)
    values[1 : count + 1] = torch.tensor(along[:count], dtype=torch.float64)
    index = torch.arange(side)
    return values[(index[:, None] - index).abs()]


def compute_patch_power(correlation: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    """Return the power of noise of variance 1 at each frequency of a patch: (DCT_SIDE²,).

    Parameters
    ----------
    correlation : tuple of two sequences of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white.
    """
    if correlation is None:
        return torch.ones(DCT_SIDE**2)
    powers = [
        _compute_axis_power(along, torch.float32).clamp(min=MIN_PATCH_POWER)
        for along in correlation
    ]
    return (powers[0][:, None] * powers[1]).flatten()


def _locate_noise_energy(frequencies: Tensor, cumulative_frequencies: Tensor) -> int:
    """Return the grid index of the noise energy: the least one if it is that of white noise.

    Otherwise noise is correlated or everything is texture, and single blocks may have little
    energy by chance. Then it is the energy around which most blocks lie.
    """
    lowest = int((cumulative_frequencies >= MIN_ENERGY_FRACTION).nonzero()[0])
    if ENERGY_GRID[lowest] < MAX_WHITE_ENERGY:
        return lowest
    highest = int((cumulative_frequencies >= MAX_LOW_ENERGY_FRACTION).nonzero()[0])
    agreement = frequencies.unfold(0, _GRID_STEPS_BELOW + _GRID_STEPS_ABOVE + 1, 1).sum(1)
    start = min(max(0, lowest - _GRID_STEPS_BELOW), len(agreement) - 1)
    densest = int(agreement[start : max(start, highest - _GRID_STEPS_BELOW) + 1].argmax())
    return max(lowest, start + densest + _GRID_STEPS_BELOW)


def _fit_energy_mixture(
    energy: Tensor, grid: Tensor, degrees_of_freedom: float
) -> tuple[Tensor, Tensor]:
    """Return frequencies of the grid's energies (G,), and each block's probabilities (K, G)."""
    ratio = energy[:, None] / grid
    likelihood = degrees_of_freedom / 2 * (ratio.log() - ratio)
    likelihood = (likelihood - likelihood.amax(1, keepdim=True)).exp()
    frequencies = torch.full_like(grid, 1 / len(grid))
    posterior = likelihood
    for _ in range(_EM_ROUNDS):
        posterior = likelihood * frequencies
        posterior = posterior / posterior.sum(1, keepdim=True)
        frequencies = posterior.mean(0)
    return frequencies, posterior


def _estimate_autocorrelation(
    mixture: _BlockMixture,
    raw_y: Tensor,
    raw_x: Tensor,
    energy: Tensor,
    side: int,
    noise_energy: float,
) -> tuple[tuple[float, ...], ...]:
    """Return autocorrelations along Y and X, given the energy of the noise.

    What flat blocks have beyond noise is texture. Its covariance is that of textured blocks in
    excess of flat ones.
    """
    flat, textured = mixture.flat_probability, mixture.textured_probability
    flat_energy = mixture.flat_energy

    def average(covariances: Tensor, weight: Tensor) -> Tensor:
        return (covariances * weight[:, None]).sum(0) / weight.sum()

    y, x = average(raw_y, flat), average(raw_x, flat)
    has_textured_blocks = float(textured.sum()) > max(3.0, 0.02 * len(energy))
    if has_textured_blocks and noise_energy < flat_energy:
        excess = max(
            float((energy * textured).sum() / textured.sum()) - flat_energy, 0.2 * flat_energy
        )
        y = y - ((average(raw_y, textured) - y) / excess).clamp(0, 1) * (flat_energy - noise_energy)
        x = x - ((average(raw_x, textured) - x) / excess).clamp(0, 1) * (flat_energy - noise_energy)
    else:
        noise_energy = flat_energy
    return correct_surface_bias(y / noise_energy, x / noise_energy, side)[:2]


def measure_prediction_residual(
    plane: Tensor, replaced_fraction: float = 0.0
) -> tuple[Tensor, Tensor, float]:
    """Measure the variance that neighbours do not predict, in the flattest parts of a plane.

    Parameters
    ----------
    plane : Tensor
        (Y, X).

    Returns
    -------
    brightness, variance : Tensor
        (PREDICTION_BRIGHTNESS_CLASSES,) each, in units of the plane and its square.
    share : float
        That variance as a share of the variance around the mean of the neighbours, before a
        fraction of the pixels was replaced by random neighbours.
    """
    plane = plane.double()
    side, inner = 2 * PREDICTION_RADIUS + 1, slice(PREDICTION_RADIUS, -PREDICTION_RADIUS)
    centres = plane[inner, inner].flatten()
    sums, square_sums = (
        F.avg_pool2d(values[None, None], side, 1, divisor_override=1).flatten()
        for values in (plane, plane.square())
    )
    count = side**2 - 1
    neighbour_mean = (sums - centres) / count
    square_deviations = square_sums - centres.square() - count * neighbour_mean.square()
    height, width = (length - 2 * PREDICTION_RADIUS for length in plane.shape)
    variation = (square_deviations / (count - 1)).reshape(1, 1, height, width)
    offsets = torch.arange(side)[:, None] * plane.shape[1] + torch.arange(side)
    offsets = torch.cat([offsets.flatten()[: count // 2], offsets.flatten()[count // 2 + 1 :]])
    padding = FLAT_WINDOW_SIDE // 2
    variation = F.avg_pool2d(
        F.pad(variation, (padding,) * 4, mode="replicate"), FLAT_WINDOW_SIDE, 1
    ).flatten()
    levels, variances, shares = [], [], []
    for pixels in neighbour_mean.argsort(stable=True).tensor_split(PREDICTION_BRIGHTNESS_CLASSES):
        flat_count = max(
            min(MIN_FLAT_PIXELS, len(pixels)), round(FLAT_PIXEL_FRACTION * len(pixels))
        )
        flat = pixels[variation[pixels].argsort(stable=True)[:flat_count]]
        corners = flat // width * plane.shape[1] + flat % width
        neighbours = plane.flatten()[corners[:, None] + offsets]
        predictors = neighbours - neighbour_mean[flat, None]
        targets = centres[flat] - neighbour_mean[flat]
        gram = predictors.T @ predictors
        gram += RIDGE * gram.diagonal().mean().clamp(min=1e-300) * torch.eye(len(gram)).to(gram)
        residuals = targets - predictors @ torch.linalg.solve(gram, predictors.T @ targets)
        levels.append(neighbour_mean[flat].mean())
        variances.append(residuals.square().mean())
        shares.append(variances[-1] / targets.square().mean().clamp(min=1e-300))
    predicted = 1 - float(torch.stack(shares).quantile(0.5))
    share = 1 - predicted / (1 - replaced_fraction) ** REPLACEMENT_POWER
    return torch.stack(levels), torch.stack(variances), share


def compute_residual_fraction(along_y: Sequence[float], along_x: Sequence[float]) -> float:
    """Return the share of the variance that neighbours do not predict, for correlated noise.

    Parameters
    ----------
    along_y, along_x : sequence of float
        Autocorrelation at lags 1, 2, ...
    """
    side = 2 * PREDICTION_RADIUS + 1
    axes = [make_correlation_matrix(along, side) for along in (along_y, along_x)]
    covariance = torch.kron(axes[0], axes[1])
    centre = side**2 // 2
    neighbours = [index for index in range(side**2) if index != centre]
    centring = torch.eye(side**2, dtype=torch.float64)
    centring[:, neighbours] -= 1 / len(neighbours)  # less the neighbours' mean
    covariance = centring @ covariance @ centring.T
    neighbour_covariance = covariance[neighbours][:, neighbours]
    neighbour_covariance += (
        RIDGE * neighbour_covariance.diagonal().mean() * torch.eye(len(neighbours))
    )
    cross_covariance = covariance[neighbours, centre]
    fraction = covariance[centre, centre] - cross_covariance @ torch.linalg.solve(
        neighbour_covariance, cross_covariance
    )
    return WHITE_RESIDUAL_FRACTION * max(float(fraction), 0.02)


def measure_block_correlation(sample: NoiseSample, model: VarianceModel) -> NoiseCorrelation:
    """Measure the correlation of noise in blocks that are wide against it.

    Parameters
    ----------
    sample : NoiseSample
    model : VarianceModel
        Measured in the finest frequencies.
    """
    planes, measured_mask, limits, _, min_variance = sample
    side = choose_block_side(tuple(planes.shape[1:]))
    means, residuals = cut_blocks(planes, side)
    is_informative = select_informative_blocks(planes, side, side // 2, measured_mask, limits)
    indices = is_informative.nonzero()[:, 0]
    subset = indices[:: -(-len(indices) // MAX_BLOCKS) or 1]
    if len(indices) < MIN_NOISE_BLOCKS:
        return WHITE_NOISE
    variance = model.compute_variance(means[subset], min_variance)
    # the energy of a block with few photons tells their chance
    has_photons = model.gain**2 <= MAX_EXCESS_VARIANCE * side**2 * variance
    if int(has_photons.sum()) >= MIN_NOISE_BLOCKS:
        subset, variance = subset[has_photons], variance[has_photons]
    correlation = measure_noise_correlation(residuals[subset], variance)
    whole_fraction = 1.0 if limits == NO_CLIPPING else len(indices) / len(means)
    is_doubtful = whole_fraction < MIN_SPARSE_BLOCK_FRACTION or (
        whole_fraction < MIN_WHOLE_BLOCK_FRACTION
        and any(
            lag_1 > MAX_SPARSE_CORRELATION or lag_2 > MAX_SPARSE_LAG_2_RATIO * lag_1
            for lag_1, lag_2, *_ in (correlation.along_y, correlation.along_x)
        )
    )
    return WHITE_NOISE if is_doubtful and correlation.is_correlated else correlation


def interpolate_correlation(sparse_lags: tuple[float, ...]) -> tuple[float, ...]:
    """Return the correlation at lags 1, 2, ..., given that at lags 2, 4, ..."""
    even = (1.0, *sparse_lags)
    return tuple((even[lag // 2] + even[-(-lag // 2)]) / 2 for lag in range(1, len(even)))
