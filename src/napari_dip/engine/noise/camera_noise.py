"""Measure the noise of processed colour images, which is correlated over pixels and colours.

Demosaicking, in-camera denoising and JPEG remove noise from the finest frequencies. It is therefore
measured in all frequencies of the flattest blocks of each brightness. Where these are textured,
the correlation of neighbouring pixels tells how much of their variance is noise.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, log
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.noise import NoiseCaution
from napari_dip.engine.noise.estimate import compute_blind_spot_size
from napari_dip.engine.noise.flat_blocks import BLOCK_SIDE, cut_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.engine.noise.estimate import NoiseEstimate

#: Luminance and two colour differences from red, green and blue, as in CBM3D.
OPPONENT_MATRIX = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
#: Number of brightness classes in which camera noise is measured.
CAMERA_BRIGHTNESS_CLASSES = 10
#: Least number of blocks of a brightness class. With 22, as in an image of 128 x 128 pixels, the
#: flattest were 3 of 22 and no longer flat (docs/constants.md).
MIN_CAMERA_CLASS_BLOCKS = 50
#: Share of the blocks of each brightness class that is treated as flat, for luminance.
FLAT_LUMINANCE_FRACTION = 0.03
#: Share of the blocks of each brightness class that is treated as flat, for colour.
FLAT_COLOUR_FRACTION = 0.1
#: Ratio of the noise variance of luminance to that of the flattest blocks, which are flat by
#: chance; measured standard deviations in cc15 are 0.76 to 1.45 times the true ones
#: (docs/constants.md).
LUMINANCE_VARIANCE_FACTOR = 2.3
#: Ratio of the noise variance of colour to that of the flattest blocks, which are flat by chance.
COLOUR_VARIANCE_FACTOR = 3.3
#: Correlation of neighbouring pixels in colour: 0.82 to 0.96 in 29 files of cc15 and PolyU (one
#: exposure less the mean of many). Measured in fifty files with texture, it would be 0.4 to 0.9.
COLOUR_CORRELATION = 0.88
#: Bounds of the correlation of neighbouring pixels in luminance: 0.29 to 0.86 in 29 files of cc15
#: and PolyU, and measured to within 0.12 in all but six.
LUMINANCE_CORRELATION_RANGE = (0.45, 0.75)
#: Correlation of neighbouring pixels in noise of luminance: flat blocks of cc15 have 0.54 to 0.63.
NOISE_CORRELATION = 0.5
#: As `NOISE_CORRELATION`, in texture: flat blocks of the most textured quarter of the mean
#: exposures of cc15 have 0.77 to 0.89.
TEXTURE_CORRELATION = 0.85
#: As `NOISE_CORRELATION`, after compression: 0.58 to 0.72 in 16 of 20 files of PolyU.
COMPRESSED_NOISE_CORRELATION = 0.7
#: Minimum noise of the finest frequencies without compression, in steps of grey values: 0.70 or
#: more in 81 crops of cc15, 0.66 and 0.67 in three photographs that would be taken for noise.
MIN_CAMERA_FINE_STD = 0.68
#: Maximum noise of the finest frequencies after compression, in steps of grey values; rounding
#: alone has 0.29, cc15 0.8 or more.
MAX_COMPRESSED_FINE_STD = 0.8
#: As `MAX_COMPRESSED_FINE_STD`, where compression has removed the colours as well.
MAX_COLOURLESS_FINE_STD = 1.8
#: Minimum ratio of the noise of luminance to that of colour after compression, which removes
#: colours first (docs/constants.md).
MIN_COMPRESSED_COLOUR_RATIO = 3.0
#: Maximum such ratio: 17.6 in 43 crops of PolyU, 19.7 to 30.2 in three photographs saved as JPEG.
MAX_COMPRESSED_COLOUR_RATIO = 18.5
#: Maximum such ratio without compression: 1.3 to 4.0 in nine of ten crops of cc15.
MAX_COLOUR_RATIO = 4.5
#: Maximum ratio of the noise of both colours: at most 1.71 in 207 crops of cc15 and PolyU, 1.77 or
#: more in fur (baboon).
MAX_COLOUR_IMBALANCE = 1.75
#: Minimum such ratio, of red less blue to green less both: 0.87 or more in 29 files of cc15 and
#: PolyU, 0.33 to 0.66 in drawn tissue with haematoxylin and eosin (docs/constants.md).
MIN_COLOUR_IMBALANCE = 0.75
#: Maximum share of the finest frequencies in the noise of colour: at most 0.45 in 350 crops of cc15
#: and PolyU, 0.72 or more in photographs with white noise that were taken for camera noise.
MAX_FINE_COLOUR_SHARE = 0.55
#: Minimum ratio of the covariance of every second pixel to that of neighbours in colour, without
#: compression: 0.34 or more in 189 crops of cc15, -0.1 to 0.46 in 108 of stained tissue.
MIN_COLOUR_DECAY = 0.2
#: Minimum such ratio where the finest frequencies of luminance have more noise than
#: `MAX_FILTERED_FINE_STD`: so in 120 of 123 crops of cc15 (docs/constants.md).
MIN_UNFILTERED_COLOUR_DECAY = 0.42
#: Maximum noise of the finest frequencies after a filter in the camera, in steps of grey values:
#: 1.0 or more in tissue that was demosaicked without one, 0.7 to 2.4 in cc15.
MAX_FILTERED_FINE_STD = 1.0
#: Limits of the ratio of luminance to the finest frequencies: 3.6 to 11.1 in 82 crops of cc15, 12.1
#: in fur that was super-resolved (docs/constants.md).
FINE_NOISE_RATIO_RANGE = (3.0, 11.5)
#: As `FINE_NOISE_RATIO_RANGE`, after compression: 5.6 to 11.8 in 18 crops of PolyU, 18 or more in
#: mean exposures of cc15 (docs/constants.md).
COMPRESSED_FINE_RATIO_RANGE = (3.0, 13.0)
#: Minimum share of noise in luminance of the flattest blocks, as a standard deviation: 0.55 or more
#: in cc15 and PolyU. In two crops of cc15 with 0.34, 0.8 and 0 dB would be lost.
MIN_FLAT_NOISE_FRACTION = 0.54
#: Standard deviation of second differences along both axes, per unit of white noise: 1² + 2² + 1².
SECOND_DIFFERENCE_STD = 6.0
#: Limits of camera noise: 26 of 29 camera files meet the first three, and none of 29 photographs
#: with little noise (docs/constants.md).
MAX_BLOCK_NOISE_RATIO = 1.32  #: Maximum ratio of the noise between blocks.
MAX_BRIGHTNESS_RATIO = 5.0  #: Maximum ratio of the noise between brightnesses.
MIN_NEIGHBOUR_CORRELATION = 0.46  #: Minimum noise correlation of neighbouring pixels.
#: Alternative limits of camera noise: two images of RNI15 meet the next three (docs/constants.md).
#: Minimum noise correlation of neighbouring pixels.
MIN_COLOUR_NEIGHBOUR_CORRELATION = 0.3
MIN_COLOUR_NOISE_FRACTION = 0.7  #: Minimum noise of colours, relative to that of luminance.
MIN_FINE_NOISE_RATIO = 4.0  #: Minimum noise of luminance, relative to that of a channel alone.
MIN_LUMINANCE_STD = 1.5  #: Minimum noise of luminance, in steps of grey values.
#: Minimum ratio of the noise of luminance to that of a channel alone, which is measured at the
#: finest frequencies: 2.3 or more in cc15 and polyu, 1 for white noise.
MIN_LUMINANCE_NOISE_RATIO = 1.5
#: Exponent of the correlation exp(-a d^1.6) at distance d. From 0.92 at d = 1 it falls to 0.78,
#: 0.62 and 0.47, where colour of cc15 5dmark3 has 0.81, 0.66 and 0.50.
CORRELATION_DECAY_EXPONENT = 1.6
#: Longest lag of the covariance, in pixels.
MAX_CAMERA_LAG = 8
#: Lag at which correlation is assumed to be that of the image, in pixels.
IMAGE_CORRELATION_LAG = 6
#: Lower bound of the noise power at each frequency, in units of the mean.
MIN_CAMERA_NOISE_POWER = 0.005
#: Fewest blocks on which camera noise is measured.
MIN_CAMERA_BLOCKS = 200
#: Least variance of a block with more than rounding errors, in squared grey values.
MIN_BLOCK_VARIANCE = 0.02
#: Share of the flattest blocks of one brightness, which are compared with more of them to separate
#: noise from texture.
FLATTEST_FRACTION = 0.02
#: Larger share of the flattest blocks of one brightness, which `FLATTEST_FRACTION` of them are
#: compared with.
COMPARED_FLAT_FRACTION = 0.15
#: Minimum distance of the pixels for `MAX_DISTANT_CORRELATION`, in pixels.
MIN_CORRELATION_DISTANCE = 5
#: Maximum distance of the pixels for `MAX_DISTANT_CORRELATION`, in pixels.
MAX_CORRELATION_DISTANCE = 24


class CameraNoise(NamedTuple):
    """Noise of red, green and blue together, constant over the image.

    Attributes
    ----------
    std : tuple of float
        Standard deviation of luminance and the two colour differences, in the image's units.
    correlations : tuple of float
        Correlation of neighbouring pixels in each.
    """

    std: tuple[float, float, float]
    correlations: tuple[float, float, float]

    def convert_units(self, scale_factor: float) -> CameraNoise:
        """Return the noise in other units, each `scale_factor` times the present one."""
        luminance, first_colour, second_colour = (std / scale_factor for std in self.std)
        return self._replace(std=(luminance, first_colour, second_colour))

    def to_dict(self) -> dict[str, list[float]]:
        """Return all fields as JSON types, to four digits."""
        return {
            key: [float(f"{value:.4g}") for value in values]
            for key, values in (("std", self.std), ("correlations", self.correlations))
        }

    def compute_covariance(self) -> Tensor:
        """Return each component's covariance at lags up to `MAX_CAMERA_LAG`: (3, lags, lags)."""
        lag = torch.arange(-MAX_CAMERA_LAG, MAX_CAMERA_LAG + 1, dtype=torch.float64)
        distance = torch.hypot(lag[:, None], lag) ** CORRELATION_DECAY_EXPONENT
        return torch.stack(
            [
                std**2 * torch.exp(log(correlation) * distance)
                for std, correlation in zip(self.std, self.correlations, strict=True)
            ]
        )

    def compute_channel_noise(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return variances of red, green and blue, and their mean autocorrelation from lag 1 on."""
        fractions = make_opponent_matrix().double().square().T  # (channels, components)
        covariance = fractions @ self.compute_covariance()[:, MAX_CAMERA_LAG, MAX_CAMERA_LAG:]
        along = (covariance[:, 1:] / covariance[:, :1]).mean(0)
        return tuple(covariance[:, 0].tolist()), tuple(along.tolist())


class TextureStatistics(NamedTuple):
    """Statistics that separate noise from texture.

    Attributes
    ----------
    block_ratio : float
        Standard deviation of the flat blocks of the middle brightness over that of the flattest.
    brightness_ratio : float
        Standard deviation of the flat blocks of the middle brightness over that of the second
        flattest brightness.
    correlation : float
        Correlation of neighbouring pixels in luminance, as measured.
    fine_std : float
        Standard deviation of luminance at the finest frequencies, per unit of white noise.
    fine_colour_share : float
        As `fine_std` for the colours, over their standard deviation; 1 for white noise.
    colour_decay : float
        Covariance of every second pixel in the colours, over that of neighbouring pixels.
    """

    block_ratio: float
    brightness_ratio: float
    correlation: float
    fine_std: float
    fine_colour_share: float
    colour_decay: float


def make_opponent_matrix() -> Tensor:
    """Return the orthonormal matrix (3, C) from red, green and blue to luminance and colours."""
    rows = torch.tensor(OPPONENT_MATRIX)
    orthonormal: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return orthonormal


def identify_camera_noise(
    planes: Tensor, channel_std: float, grey_level_step: float
) -> CameraNoise | None:
    """Measure the noise of a colour camera without texture; None if it is no such noise.

    Parameters
    ----------
    planes : Tensor
        (N, 3, Y, X): red, green and blue, at least 16 pixels a side.
    channel_std : float
        Standard deviation of the noise as it is measured in each channel alone, their mean.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for floating-point images.
    """
    measured = measure_camera_noise(planes)
    if measured is None:
        return None
    textured, texture = measured
    luminance, first_colour, second_colour = textured.std
    has_strong_colours = (
        first_colour + second_colour >= 2 * MIN_COLOUR_NOISE_FRACTION * luminance
        and luminance >= MIN_FINE_NOISE_RATIO * channel_std
    )
    is_compressed = not has_strong_colours and _is_compressed(textured, texture, grey_level_step)
    camera = _subtract_texture(textured, texture.correlation, is_compressed=is_compressed)
    min_std = max(MIN_LUMINANCE_STD * grey_level_step, MIN_LUMINANCE_NOISE_RATIO * channel_std)
    is_camera = (
        camera.std[0] >= max(min_std, MIN_FLAT_NOISE_FRACTION * textured.std[0])
        and MIN_COLOUR_IMBALANCE <= first_colour / second_colour <= MAX_COLOUR_IMBALANCE
        and texture.fine_colour_share <= MAX_FINE_COLOUR_SHARE
        and _is_homogeneous(texture, has_strong_colours=has_strong_colours)
        and (
            is_compressed
            or (has_strong_colours and texture.colour_decay >= MIN_COLOUR_DECAY)
            or _has_camera_spectrum(camera, texture, grey_level_step)
        )
    )
    return camera if is_camera else None


def _compute_colour_ratio(camera: CameraNoise) -> float:
    """Return the noise of luminance, relative to that of the colours."""
    luminance, *colours = camera.std
    return 2 * luminance / sum(colours)


def _is_compressed(camera: CameraNoise, texture: TextureStatistics, grey_level_step: float) -> bool:
    """Return whether compression has removed colours, and the finest frequencies of luminance."""
    colour_ratio = _compute_colour_ratio(camera)
    lowest, highest = (ratio * texture.fine_std for ratio in COMPRESSED_FINE_RATIO_RANGE)
    is_colourless = colour_ratio > MAX_COLOUR_RATIO
    max_fine_std = MAX_COLOURLESS_FINE_STD if is_colourless else MAX_COMPRESSED_FINE_STD
    return (
        MIN_COMPRESSED_COLOUR_RATIO <= colour_ratio <= MAX_COMPRESSED_COLOUR_RATIO
        and texture.fine_std < max_fine_std * grey_level_step
        and lowest <= camera.std[0] <= highest
    )


def _is_homogeneous(texture: TextureStatistics, *, has_strong_colours: bool) -> bool:
    """Return whether flat blocks are as alike, and as correlated, as those of noise."""
    min_correlation = (
        MIN_COLOUR_NEIGHBOUR_CORRELATION if has_strong_colours else MIN_NEIGHBOUR_CORRELATION
    )
    return (
        texture.block_ratio <= MAX_BLOCK_NOISE_RATIO
        and texture.brightness_ratio <= MAX_BRIGHTNESS_RATIO
        and texture.correlation >= min_correlation
    )


def _has_camera_spectrum(
    camera: CameraNoise, texture: TextureStatistics, grey_level_step: float
) -> bool:
    """Return whether colours and finest frequencies have the share that they have in raw noise."""
    lowest, highest = (ratio * texture.fine_std for ratio in FINE_NOISE_RATIO_RANGE)
    is_filtered = texture.fine_std < MAX_FILTERED_FINE_STD * grey_level_step
    min_decay = MIN_COLOUR_DECAY if is_filtered else MIN_UNFILTERED_COLOUR_DECAY
    return (
        texture.fine_std >= MIN_CAMERA_FINE_STD * grey_level_step
        and texture.colour_decay >= min_decay
        and lowest <= camera.std[0] <= highest
        and _compute_colour_ratio(camera) <= MAX_COLOUR_RATIO
    )


def _subtract_texture(
    camera: CameraNoise, correlation: float, *, is_compressed: bool
) -> CameraNoise:
    """Return the noise without the texture of the flattest blocks, by their correlation."""
    expected = COMPRESSED_NOISE_CORRELATION if is_compressed else NOISE_CORRELATION
    noise_fraction = (TEXTURE_CORRELATION - correlation) / (TEXTURE_CORRELATION - expected)
    luminance, *colours = camera.std
    luminance *= min(max(noise_fraction, 0.0), 1.0) ** 0.5
    return camera._replace(std=(luminance, *colours))


def measure_camera_noise(planes: Tensor) -> tuple[CameraNoise, TextureStatistics] | None:
    """Measure the noise in the flattest blocks; None if too few exceed rounding errors.

    Parameters
    ----------
    planes : Tensor
        (N, 3, Y, X): red, green and blue, at least 16 pixels a side.
    """
    components = torch.einsum("dc,ncyx->dnyx", make_opponent_matrix().double(), planes.double())
    component_blocks = [cut_blocks(component, BLOCK_SIDE) for component in components]
    means, residuals = component_blocks[0][0], [residual for _, residual in component_blocks]
    energies = torch.stack([residual.square().mean((1, 2)) for residual in residuals])
    usable = (energies > MIN_BLOCK_VARIANCE).all(0).nonzero()[:, 0]
    if len(usable) < MIN_CAMERA_BLOCKS:
        return None
    class_count = min(CAMERA_BRIGHTNESS_CLASSES, len(usable) // MIN_CAMERA_CLASS_BLOCKS)
    classes = usable[means[usable].argsort(stable=True)].tensor_split(class_count)
    luminance, flat = _measure_flat_energy(energies[0], classes, FLAT_LUMINANCE_FRACTION)
    colour_stds, fine_shares, decays = [], [], []
    for energy, residual in zip(energies[1:], residuals[1:], strict=True):
        colour, flat_in_colour = _measure_flat_energy(energy, classes, FLAT_COLOUR_FRACTION)
        colour_stds.append((COLOUR_VARIANCE_FACTOR * colour) ** 0.5)
        fine_shares.append(_measure_fine_std(residual[flat_in_colour]) / colour**0.5)
        neighbour, second = _measure_covariance(residual[flat_in_colour], (1, 2))
        decays.append(second / max(neighbour, 1e-9))
    correlation = _estimate_neighbour_correlation(residuals[0][flat])
    lowest, highest = LUMINANCE_CORRELATION_RANGE
    luminance_std = (LUMINANCE_VARIANCE_FACTOR * luminance) ** 0.5
    luminance_correlation = min(max(correlation, lowest), highest)
    camera_noise = CameraNoise(
        (luminance_std, *colour_stds),
        (luminance_correlation, COLOUR_CORRELATION, COLOUR_CORRELATION),
    )
    return camera_noise, TextureStatistics(
        *_compare_flat_blocks(energies[0], classes),
        correlation,
        _measure_fine_std(residuals[0][flat]),
        sum(fine_shares) / len(fine_shares),
        sum(decays) / len(decays),
    )


def draw_noise_sample(
    camera_noise: CameraNoise, size: tuple[int, int], rng: torch.Generator
) -> Tensor:
    """Draw a periodic sample of the noise's components: (3, *size)."""
    covariance = camera_noise.compute_covariance()
    wrapped = torch.zeros(len(covariance), *size, dtype=torch.float64)
    side = 2 * MAX_CAMERA_LAG + 1
    wrapped[:, :side, :side] = covariance
    power = torch.fft.rfft2(torch.roll(wrapped, (-MAX_CAMERA_LAG, -MAX_CAMERA_LAG), (1, 2))).real
    power = torch.maximum(
        power, MIN_CAMERA_NOISE_POWER * power.clamp(min=0).mean((1, 2), keepdim=True)
    )
    white = torch.randn(wrapped.shape, generator=rng, dtype=power.dtype)
    drawn = torch.fft.irfft2(torch.fft.rfft2(white) * power.sqrt(), s=size)
    scale = (
        covariance[:, MAX_CAMERA_LAG, MAX_CAMERA_LAG].sqrt() / drawn.square().mean((1, 2)).sqrt()
    )
    sample: Tensor = drawn * scale[:, None, None]
    return sample.float()


def _measure_flat_energy(
    energy: Tensor, classes: tuple[Tensor, ...], fraction: float
) -> tuple[float, Tensor]:
    """Return the classes' median energy of the flattest blocks, and those of the flatter half."""
    class_energies = []
    for blocks in classes:
        flattest = blocks[energy[blocks].argsort()[: max(3, round(fraction * len(blocks)))]]
        class_energies.append((float(energy[flattest].mean()), flattest))
    class_energies.sort(key=lambda pair: pair[0])
    flatter_half = torch.cat([blocks for _, blocks in class_energies[: len(class_energies) // 2]])
    middle = len(class_energies) // 2
    return (class_energies[middle - 1][0] + class_energies[middle][0]) / 2, flatter_half


def _measure_fine_std(residuals: Tensor) -> float:
    """Return the standard deviation at the finest frequencies, per unit of white noise."""
    second_differences = residuals.diff(n=2, dim=1).diff(n=2, dim=2)
    return float(second_differences.std(correction=0)) / SECOND_DIFFERENCE_STD


def _estimate_neighbour_correlation(residuals: Tensor) -> float:
    """Return the correlation of neighbouring pixels, less the slowly falling one of the image."""
    variance, neighbour, distant = _measure_covariance(residuals, (0, 1, IMAGE_CORRELATION_LAG))
    return (neighbour - distant) / max(variance - distant, 1e-9)


def _measure_covariance(residuals: Tensor, lags: tuple[int, ...]) -> list[float]:
    """Return the covariance of pixels at these distances along both axes, twice."""
    side = residuals.shape[-1]
    return [
        float((residuals[..., lag:] * residuals[..., : side - lag]).mean())
        + float((residuals[:, lag:] * residuals[:, : side - lag]).mean())
        for lag in lags
    ]


def _compare_flat_blocks(energy: Tensor, classes: tuple[Tensor, ...]) -> tuple[float, float]:
    """Compare the flattest blocks within and between brightness classes."""
    pairs = []
    for blocks in classes:
        ordered = energy[blocks].sort().values
        few_count, more_count = (
            max(2, round(fraction * len(ordered)))
            for fraction in (FLATTEST_FRACTION, COMPARED_FLAT_FRACTION)
        )
        pairs.append(
            (float(ordered[:more_count].mean().sqrt()), float(ordered[:few_count].mean().sqrt()))
        )
    pairs.sort()
    block_ratio = sorted(flat / flattest for flat, flattest in pairs)[len(pairs) // 2]
    return block_ratio, pairs[len(pairs) // 2][0] / pairs[1][0]


def compute_distant_correlation(residual: torch.Tensor) -> float:
    """Return the root mean square correlation of distant pixels of a residual (Y, X).

    Distances are `MIN_CORRELATION_DISTANCE` to `MAX_CORRELATION_DISTANCE` pixels.
    """
    middle = MAX_CORRELATION_DISTANCE
    spectrum = torch.fft.rfft2(residual - residual.mean()).abs().square()
    autocorrelation = torch.fft.irfft2(spectrum, s=residual.shape)
    autocorrelation = torch.roll(
        autocorrelation / autocorrelation[0, 0].clamp(min=1e-12), (middle, middle), (0, 1)
    )[: 2 * middle + 1, : 2 * middle + 1]
    is_distant = torch.ones_like(autocorrelation, dtype=torch.bool)
    near = slice(middle - MIN_CORRELATION_DISTANCE + 1, middle + MIN_CORRELATION_DISTANCE)
    is_distant[near, near] = False
    return float(autocorrelation[is_distant].square().mean().sqrt())


def replace_channel_noise(
    camera: CameraNoise, noise_estimates: Sequence[NoiseEstimate], caution: NoiseCaution
) -> tuple[NoiseEstimate, ...]:
    """Return the noise of each channel with variance and correlation of the camera's noise."""
    variances, autocorrelation = camera.compute_channel_noise()
    along = autocorrelation[: len(noise_estimates[0].along_y)]
    return tuple(
        replace_noise(estimate, caution, 0.0, variance, variance / 2, along)
        for estimate, variance in zip(noise_estimates, variances, strict=True)
    )


def replace_noise(
    estimate: NoiseEstimate,
    caution: NoiseCaution,
    gain: float,
    intercept: float,
    floor: float,
    along: tuple[float, ...],
) -> NoiseEstimate:
    """Return noise that was measured in another way, of which offset and read noise are unknown."""
    return replace(
        estimate,
        gain=gain,
        intercept=intercept,
        floor=floor,
        along_y=along,
        along_x=along,
        unreliable_reason=None,
        caution=caution,
        offset=None,
        read_noise=None,
        gain_error=inf,
        offset_error=0.0,
        read_noise_error=0.0,
    )


def flag_correlated_colours(
    noise_estimates: Sequence[NoiseEstimate], grid: tuple[int, int]
) -> tuple[NoiseEstimate, ...]:
    """Add a caution to channels with correlated noise that is not that of a camera."""
    return tuple(
        replace(estimate, caution=NoiseCaution.CORRELATED_COLOURS)
        if not (estimate.unreliable_reason or estimate.caution)
        and compute_blind_spot_size([estimate], grid) != (1, 1)
        else estimate
        for estimate in noise_estimates
    )
