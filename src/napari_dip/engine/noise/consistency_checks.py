"""Check whether an image contradicts the noise that was measured in it.

Variance and correlation predict the energy of each frequency in flat blocks, at every brightness.
All limits separate 346 channels of FMD, W2S, Hagen et al., Set12, BSD68 and kodak256 with correct
estimates from synthetic ones of `benchmarks/noise_matrix.py` with wrong estimates.
"""

from __future__ import annotations

from functools import partial
from math import ceil, sqrt
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from napari_dip.engine.constants import MAD_TO_STD
from napari_dip.engine.noise import NoiseCaution, UnreliableReason
from napari_dip.engine.noise.correlation import compute_band_power, subtract_image_correlation
from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    FLAT_BRIGHTNESS_CLASSES,
    MAX_BLOCKS,
    NO_CLIPPING,
    cut_patches,
    make_dct_matrix,
    make_frequency_grids,
    select_finest_bands,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.noise.correlation import NoiseCorrelation
    from napari_dip.engine.noise.flat_blocks import BlockSpectra, LevelSpectra, NoiseSample
    from napari_dip.engine.noise.variance_model import VarianceModel

#: Fewest blocks that are treated as flat.
MIN_FLAT_BLOCKS = 8
#: Fewest blocks in a brightness class whose energy is checked.
MIN_BLOCKS_PER_CLASS = 24
#: Largest number of brightness classes whose energy is checked.
MAX_BRIGHTNESS_CLASSES = 10
#: Fewest blocks for checks of the noise, in independent ones. Images of 128 x 128 pixels have
#: fewer; in a smooth one with white noise, the check gave a false contradiction.
MIN_CHECKED_BLOCKS = 400
#: Fewest independent blocks for checks of correlated noise: 64 x 64 pixels have 56. Without checks,
#: normal noise of 5 was measured wrongly and without a word in 17 of 137 crops of 96 x 96 pixels.
MIN_CHECKED_CORRELATED_BLOCKS = 50
#: Share of the blocks, those with least coarse structure, that are treated as flat.
FLAT_BLOCK_FRACTION = 0.25
#: Maximum ratio of the energy in the lower fine bands to that in the upper: 1.6 in barbara, at
#: least 2.3 in smoothed noise that was measured as white (docs/constants.md).
MAX_FINE_STEEPNESS = 2.0
#: Maximum energy of the finest frequencies in the flattest fifth of blocks, for white and
#: correlated noise: 1.45 in BSD68, 2.2 in FMD, at least 2.4 in texture (docs/constants.md).
MAX_FINE_ENERGY = (1.7, 2.4)
#: Largest energy of the coarse frequencies in the flattest twentieth, for white and correlated
#: noise: 3.7 in BSD68, 1.1 on FMD widefield; 9 to 600 with structure in every block.
MAX_COARSE_ENERGY = (8.0, 2.0)
#: Factor of `MAX_COARSE_ENERGY` in fewer blocks than `MIN_CHECKED_BLOCKS`: correlated noise has 0.9
#: to 1.4 in crops of micrographs and up to 3.0 after interpolation.
FEW_BLOCKS_TOLERANCE = 1.5
#: Minimum energy of the coarse frequencies in the flattest twentieth, for correlated noise: at
#: least 0.99 in true correlated noise, at most 0.76 where it was white (docs/constants.md).
MIN_COARSE_ENERGY = 0.85
#: Allowed energy of a brightness class relative to all: 0.7 to 1.3 in micrographs
#: (docs/constants.md).
CLASS_ENERGY_RANGE = (0.5, 1.6)
#: Largest energy of a brightness class relative to all, if the class is textured.
MAX_TEXTURED_CLASS_ENERGY = 4.0
#: Minimum energy of the coarse frequencies that counts as texture, in units of that of the finest.
MIN_TEXTURE_RATIO = 3.0
#: Maximum correlation at lag 3 relative to lag 1: 0.21 in FMD widefield, at least 0.27 in uniform
#: texture (docs/constants.md).
MAX_TAIL_RATIO = 0.24
#: Correlation at lag 1 from which on that at lag 3 is checked.
MIN_TAIL_CORRELATION = 0.22
#: Largest correlation at the longest lag: 0.25 on FMD widefield, 0.34 and 0.67 with line offsets.
MAX_LONGEST_LAG_CORRELATION = 0.3
#: Maximum share of outlier blocks: 0.02 in micrographs, 0.05 to 0.11 with Student's t noise
#: (docs/constants.md).
MAX_OUTLIER_BLOCK_FRACTION = 0.035
#: Least energy of outlier blocks, in units of the noise.
MIN_OUTLIER_ENERGY = 2.0
#: Largest energy of outlier blocks, in units of the noise.
MAX_OUTLIER_ENERGY = 20.0
#: Maximum share of outliers among blocks without structure: at most 0.012 in Gaussian and EMCCD
#: noise, 0.15 with Student's t noise (docs/constants.md).
MAX_SMOOTH_OUTLIER_FRACTION = 0.06
#: Largest energy of the slow bands of a block without structure, in units of the noise.
MAX_SMOOTH_ENERGY = 2.0
#: Variance of the finest structure of a plane, in units of that of others as bright, below which it
#: was smoothed: at most 0.04 in planes that *Inpaint* filled, 0.21 in a mean of five frames; at
#: least 0.68 in nine stacks and movies, 0.43 after these were smoothed (docs/constants.md).
MAX_SMOOTH_PLANE_RATIO = 0.25
#: Quantile of the blocks of one brightness that planes are compared by: flat ones, but no outliers
#: (docs/constants.md).
FINE_QUANTILE = 0.25
#: Fewest blocks of a plane at one brightness that are compared (docs/constants.md).
MIN_COMPARED_BLOCKS = 4
#: Fewest other planes that a plane is compared with: of two, either may be the odd one.
MIN_COMPARED_PLANES = 2
#: Side in pixels of the averages that wide blocks consist of (docs/constants.md).
WIDE_POOL_SIDE = 4
#: Least share of a wide block that is measured and unclipped.
MIN_VALID_FRACTION = 0.97
#: Fewest wide blocks whose energy is checked.
MIN_WIDE_BLOCKS = 100
#: Quantile of the energy of wide blocks that is checked.
FLATTEST_BLOCK_FRACTION = 0.02
#: Largest energy of wide blocks at `FLATTEST_BLOCK_FRACTION`, in units of white noise: at most 2.9
#: in 40 of 41 scenes with white noise (docs/constants.md).
MAX_WIDE_ENERGY = 3.6
#: Fewest columns of an image whose periodicity is checked (docs/constants.md).
MIN_PERIOD_COLUMNS = 64
#: Columns of the moving mean that removes slow changes before a period is looked for.
DETREND_COLUMNS = 31
#: Least frequency of a period that is looked for, in periods per pixel.
MIN_PERIOD_FREQUENCY = 0.2
#: Maximum number of values that a quantile is taken from, so that it is fast.
MAX_SORTED_DIFFERENCES = 1_000_000
#: Power, in units of the median, above which a period is significant: at most 50 in micrographs,
#: at least 146 in enlarged images (docs/constants.md).
MIN_PERIOD_POWER = 100.0
#: Share of blocks without texture below which the report always carries a caution.
MIN_FLAT_FRACTION_WITHOUT_CAUTION = 0.3
#: Share of blocks without texture below which the report carries a caution if few agree on the
#: correlation: in images of filaments, the variance was then off by up to 33 %.
CAUTION_FLAT_FRACTION = 0.6
#: Share of blocks that agree on the correlation below which the report carries a caution if few are
#: without texture.
CAUTION_AGREEMENT_FRACTION = 0.12
#: Least share of informative blocks in a clipped image without a caution: 0.28 in a synthetic image
#: whose noise is estimated half as strong as it is at the bright end.
MIN_INFORMATIVE_FRACTION = 0.4
#: Maximum ratio of the noise at one brightness to the model: 1.56 after gamma, else 1.14
#: (docs/constants.md).
MAX_UNEVENNESS = 1.3
#: Maximum ratio of dark to bright noise that was measured as constant: 1.37 after gamma, else 1.08.
MAX_DARK_TO_BRIGHT_RATIO = 1.2
#: Quantiles of brightness at which the variance should be known.
BRIGHTNESS_END_QUANTILES = (0.1, 0.9)
#: Quantile of the darkest pixels.
DARKEST_QUANTILE = 0.02
#: Largest relative standard error of the variance at `BRIGHTNESS_END_QUANTILES` without a caution.
MAX_RELATIVE_ERROR = 0.1
#: Largest share of the variance at `BRIGHTNESS_END_QUANTILES` that may be extrapolated beyond the
#: brightness of all blocks without a caution; thin structures fill no block.
MAX_EXTRAPOLATED_FRACTION = 0.2
#: Largest ratio of the lower bound of the variance to the variance model at the darkest pixels: 0.5
#: to 0.7 in images with flat dark parts, 3 to 17 where only thin structures are dark.
MAX_FLOOR_RATIO = 1.5
#: Least standard deviation at `BRIGHTNESS_END_QUANTILES`, in distances of grey values, without a
#: caution. Rounding errors then change the variance by less than 3 %.
MIN_STD_STEPS_AT_ENDS = 0.6
#: Measurement error of the correlation at lag 3 of detector, optics or interpolation. Correlation
#: beyond it and beyond `MAX_SHORT_LAG_3_RATIO` is texture.
MAX_LAG_3_CORRELATION = 0.04
#: Largest ratio of the correlation at lag 3 to an exponential decay from lag 1.
MAX_SHORT_LAG_3_RATIO = 2.0
#: Standard normal quantile of 0.05.
_NORMAL_QUANTILE_05 = -1.645
#: Standard normal quantile of 0.2.
_NORMAL_QUANTILE_20 = -0.842
#: Bands: slow ones; slow ones without linear slopes, which illumination has everywhere; those
#: without the odd harmonics of linear slopes, too; the lower and the upper part of the finest ones.
_Y, _X = make_frequency_grids()
_SLOW_BANDS = (_Y + _X >= 1) & (_Y + _X <= 3)
_COARSE_BANDS = _SLOW_BANDS & (_Y + _X >= 2)
_CURVED_BANDS = _COARSE_BANDS & (_Y < 3) & (_X < 3)
_LOWER_FINE_BANDS = select_finest_bands() & (_Y <= 4) & (_X <= 4)
_UPPER_FINE_BANDS = (_Y >= 6) & (_X >= 6)
_MIDDLE_WAVES = (_Y + _X >= 4) & (_Y + _X <= 6)
_FINE_WAVES = _Y + _X >= 10
#: Share of the blocks whose noise is the weakest for their brightness: usual noise.
USUAL_BLOCK_FRACTION = 0.5
#: Share of the blocks whose noise is the strongest for their brightness.
STRONG_BLOCK_FRACTION = 0.3


def find_contradiction(
    blocks: BlockSpectra, model: VarianceModel, correlation: NoiseCorrelation, floor: float
) -> UnreliableReason | None:
    """Return what the measured noise does not explain, or None.

    Parameters
    ----------
    blocks : BlockSpectra
    model, correlation
        Measured in `blocks`.
    floor : float, > 0
        Lower bound of the variance.
    """
    axes, is_correlated = (correlation.along_y, correlation.along_x), correlation.is_correlated
    block_count = len(blocks.means) * blocks.independent_fraction
    if block_count < (MIN_CHECKED_CORRELATED_BLOCKS if is_correlated else MIN_CHECKED_BLOCKS):
        return None
    variance = model.compute_variance(blocks.means, floor)
    power = blocks.power / variance[:, None, None]
    if is_correlated:
        power = power / compute_band_power(*axes).clamp(min=0.01)
    structure = _average_bands(blocks.power, _SLOW_BANDS) / variance
    flat_count = max(MIN_FLAT_BLOCKS, round(FLAT_BLOCK_FRACTION * len(structure)))
    flat = power[structure.argsort(stable=True)[:flat_count]]
    is_long_range = any(
        lag_1 > MIN_TAIL_CORRELATION and lag_3 > MAX_TAIL_RATIO * lag_1
        for lag_1, _, lag_3, *_ in map(subtract_image_correlation, axes)
    )
    is_long_range |= any(axis[-1] > MAX_LONGEST_LAG_CORRELATION for axis in axes)
    is_sampled_well = block_count >= MIN_CHECKED_BLOCKS
    if is_sampled_well and float(_average_bands(flat, _LOWER_FINE_BANDS).mean()) > (
        MAX_FINE_STEEPNESS * float(_average_bands(flat, _UPPER_FINE_BANDS).mean())
    ):
        return UnreliableReason.SMOOTHED
    coarse = _compute_energy_quantile(power[:, _COARSE_BANDS], 0.05, _NORMAL_QUANTILE_05)
    lacks_coarse_energy = is_correlated and coarse < MIN_COARSE_ENERGY
    max_coarse = MAX_COARSE_ENERGY[is_correlated] * (1 if is_sampled_well else FEW_BLOCKS_TOLERANCE)
    if is_long_range or lacks_coarse_energy or coarse > max_coarse:
        return UnreliableReason.AMBIGUOUS_CORRELATION
    level = measure_finest_level(power)
    if not _has_uniform_level(blocks.means, power, level):
        return UnreliableReason.OFF_VARIANCE_MODEL
    if level > MAX_FINE_ENERGY[is_correlated]:
        return UnreliableReason.TEXTURE
    outlier_fraction = float(_find_outlier_blocks(power).double().mean())
    if not is_correlated and outlier_fraction > MAX_OUTLIER_BLOCK_FRACTION:
        return UnreliableReason.HEAVY_TAILS
    return None


def find_caution(
    blocks: BlockSpectra,
    model: VarianceModel,
    correlation: NoiseCorrelation,
    sample: NoiseSample,
    floor: float,
) -> NoiseCaution | None:
    """Return a caution on a reliable estimate, or None.

    Parameters
    ----------
    blocks, model, correlation
        Measured in `sample`.
    sample : NoiseSample
    floor : float
        Lower bound of the variance of the estimate.
    """
    if is_resampled(sample.planes):
        return NoiseCaution.RESAMPLED
    is_clipped = sample.clipping_limits != NO_CLIPPING
    if is_clipped and blocks.informative_fraction < MIN_INFORMATIVE_FRACTION:
        return NoiseCaution.MOSTLY_CLIPPED
    if correlation.is_correlated:
        has_texture = any(map(_falls_slowly, (correlation.along_y, correlation.along_x)))
        return NoiseCaution.LESS_CORRELATED if has_texture else None
    if model.flat_fraction < MIN_FLAT_FRACTION_WITHOUT_CAUTION or (
        model.flat_fraction < CAUTION_FLAT_FRACTION
        and correlation.agreement < CAUTION_AGREEMENT_FRACTION
    ):
        return NoiseCaution.MOSTLY_TEXTURED
    variance = partial(model.compute_variance, min_variance=sample.min_variance)
    if has_wide_variation(sample, variance):
        return NoiseCaution.LOW_FREQUENCY_VARIATION
    unevenness, dark_to_bright_ratio = measure_unevenness(blocks, variance(blocks.means))
    if unevenness > MAX_UNEVENNESS or (
        model.gain == 0 and dark_to_bright_ratio > MAX_DARK_TO_BRIGHT_RATIO
    ):
        return NoiseCaution.OFF_VARIANCE_MODEL
    if has_outlier_pixels(blocks, variance(blocks.means)):
        return NoiseCaution.HEAVY_TAILS
    pooled = avg_pool2d(sample.planes[:, None], 3).flatten()
    darkest, *ends = pooled[:: -(-len(pooled) // MAX_SORTED_DIFFERENCES)].quantile(
        torch.tensor((DARKEST_QUANTILE, *BRIGHTNESS_END_QUANTILES)).to(pooled)
    )
    brightness = torch.stack(ends)
    min_std = MIN_STD_STEPS_AT_ENDS * sample.grey_level_step
    is_coarse = float(variance(brightness).min()) < min_std**2
    is_dark_unknown = floor > MAX_FLOOR_RATIO * float(variance(darkest))
    is_extrapolated = model.gain > 0 and _is_uncertain(
        blocks.means, brightness, model, variance(brightness)
    )
    if is_coarse or is_dark_unknown or is_extrapolated:
        return NoiseCaution.UNCERTAIN_EXTREMES
    return None


def _falls_slowly(correlations: tuple[float, ...]) -> bool:
    """Return whether weak correlation reaches further than that of noise does."""
    lag_1, _, lag_3, *_ = subtract_image_correlation(correlations)
    return lag_1 > MIN_TAIL_CORRELATION and lag_3 > max(
        MAX_LAG_3_CORRELATION, MAX_SHORT_LAG_3_RATIO * lag_1**3
    )


def _is_uncertain(means: Tensor, ends: Tensor, model: VarianceModel, variance: Tensor) -> bool:
    """Return whether the model is uncertain or extrapolated too far at an end of brightness."""
    error = model.gain_error * (ends - means.median()).abs() / variance
    extrapolated_distance = torch.stack(
        [means.quantile(0.01) - ends[0], ends[1] - means.quantile(0.99)]
    )
    return bool(
        (
            (error > MAX_RELATIVE_ERROR)
            | (model.gain * extrapolated_distance > MAX_EXTRAPOLATED_FRACTION * variance)
        ).any()
    )


def measure_finest_level(power: Tensor) -> float:
    """Return the energy of the finest frequencies at the lowest fifth of the blocks.

    Parameters
    ----------
    power : Tensor
        (K, DCT_SIDE, DCT_SIDE), in units of the power of noise.
    """
    return _compute_energy_quantile(power[:, select_finest_bands()], 0.2, _NORMAL_QUANTILE_20)


def measure_finest_variance(planes: Tensor) -> float:
    """Return the variance of white noise by diagonal differences of 2 x 2 pixels, at least 1e-30.

    Pixels with the least or the highest value are left out, since they may be clipped.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).

    References
    ----------
    Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81, 1994,
    doi:10.1093/biomet/81.3.425.
    """
    corners = torch.stack(
        [planes[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)]
    )
    is_inner = ((corners > planes.min()) & (corners < planes.max())).all(0)
    differences = (corners[0] - corners[1] - corners[2] + corners[3])[is_inner] / 2
    std = MAD_TO_STD * float(differences.abs().median()) if len(differences) else 0.0
    return max(std**2, 1e-30)


def compare_noise_spectra(
    spectra: LevelSpectra, compute_variance: Callable[[Tensor], Tensor]
) -> float:
    """Return how much coarser a plane is where its noise is stronger than its brightness tells.

    It is about 1 if noise differs from place to place, and more if structure is taken for noise.

    Parameters
    ----------
    spectra : LevelSpectra
        Of a plane.
    compute_variance : callable
        Variance of the noise at these brightnesses, (K,) each.
    """
    order = (spectra.level_variance / compute_variance(spectra.brightness)).argsort()
    fine, middle = (spectra.power[:, waves].mean(1) for waves in (_FINE_WAVES, _MIDDLE_WAVES))
    usual = order[: round(USUAL_BLOCK_FRACTION * len(order))]
    strong = order[-round(STRONG_BLOCK_FRACTION * len(order)) :]
    ratios = [
        float(middle[group].median() / fine[group].median().clamp(min=1e-30))
        for group in (strong, usual)
    ]
    return ratios[0] / max(ratios[1], 1e-30)


def find_smooth_planes(planes: Tensor) -> Tensor:
    """Return a mask (P,) of planes with far less noise than the others at equal brightness.

    Such planes were filled in, averaged or smoothed, and their flat blocks would win over those of
    the others. Noise is compared by diagonal differences of 2 x 2 pixels in blocks, among the
    flatter ones of a brightness. Deep planes may be darker, and so have less noise.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X), frames of a movie or planes of a Z stack.
    """
    parts = [_measure_fine_blocks(plane.to(torch.float64)) for plane in planes]
    plane_indices = torch.cat([torch.full((len(means),), i) for i, (means, _) in enumerate(parts)])
    means, variances = (torch.cat(values) for values in zip(*parts, strict=True))
    ratios: list[list[float]] = [[] for _ in parts]
    for group in means.argsort(stable=True).tensor_split(FLAT_BRIGHTNESS_CLASSES):
        levels = {}
        for index in range(len(planes)):
            of_plane = variances[group[plane_indices[group] == index]]
            if len(of_plane) >= MIN_COMPARED_BLOCKS:
                levels[index] = float(of_plane.quantile(FINE_QUANTILE))
        for index, level in levels.items():
            others = [other for key, other in levels.items() if key != index]
            if len(others) >= MIN_COMPARED_PLANES:
                ratios[index].append(level / max(median(others), 1e-30))
    is_smooth = torch.tensor(
        [bool(values) and median(values) < MAX_SMOOTH_PLANE_RATIO for values in ratios]
    )
    return is_smooth & (2 * int(is_smooth.sum()) < len(planes))


def _measure_fine_blocks(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of diagonal differences of blocks that vary and are not clipped."""
    differences = (plane[:-1, :-1] - plane[1:, :-1] - plane[:-1, 1:] + plane[1:, 1:]) / 2
    stride = DCT_SIDE * max(1, ceil(sqrt(plane.numel() / MAX_BLOCKS) / DCT_SIDE))
    blocks = cut_patches(plane[None, :-1, :-1], DCT_SIDE, stride).flatten(1)
    variances = cut_patches(differences[None], DCT_SIDE, stride).square().mean((1, 2))
    is_inner = ((blocks > plane.min()) & (blocks < plane.max())).all(1) & (variances > 0)
    return blocks[is_inner].mean(1), variances[is_inner]


def has_wide_variation(sample: NoiseSample, variance: Callable[[Tensor], Tensor]) -> bool:
    """Return whether all of an image varies more than white noise over distances of several pixels.

    Parameters
    ----------
    sample : NoiseSample
    variance : callable
        Returns the noise variance at brightnesses (K,).
    """
    planes, (low, high) = sample.planes, sample.clipping_limits
    inside_limits = (planes > low) & (planes < high)
    if sample.measured_mask is not None:
        inside_limits &= sample.measured_mask
    pooled, valid_fraction = (
        avg_pool2d(item.to(planes.dtype)[:, None], WIDE_POOL_SIDE)[:, 0]
        for item in (planes, inside_limits)
    )
    if min(pooled.shape[1:]) < DCT_SIDE:
        return False
    is_valid = cut_patches(valid_fraction, DCT_SIDE, 2).mean((1, 2)) >= MIN_VALID_FRACTION
    valid_blocks = cut_patches(pooled, DCT_SIDE, 2)[is_valid]
    if len(valid_blocks) < MIN_WIDE_BLOCKS:
        return False
    basis = make_dct_matrix()
    power = (basis @ valid_blocks @ basis.T).square() * WIDE_POOL_SIDE**2
    level = _average_bands(power, _CURVED_BANDS) / variance(valid_blocks.mean((1, 2)))
    return float(level.quantile(FLATTEST_BLOCK_FRACTION)) > MAX_WIDE_ENERGY


def measure_unevenness(blocks: BlockSpectra, variance: Tensor) -> tuple[float, float]:
    """Compare the noise at each brightness with that of all, and with that of other brightnesses.

    Parameters
    ----------
    blocks : BlockSpectra
    variance : Tensor
        (K,), > 0, variance of white noise at the blocks' brightness.

    Returns
    -------
    unevenness : float
        Largest ratio, up or down, of noise at one brightness to that of all; at least 1.
    dark_to_bright_ratio : float
        Ratio of the noise in the darker third of the brightnesses to that in the brighter one.
    """
    power = blocks.power / variance[:, None, None]
    overall_level = measure_finest_level(power)
    levels = [
        max(measure_finest_level(power[indices]) / overall_level, 1e-9)
        for indices in _group_by_brightness(blocks.means)
    ]
    third_count = max(1, len(levels) // 3)
    unevenness = max(max(level, 1 / level) for level in levels)
    return unevenness, sum(levels[:third_count]) / sum(levels[-third_count:])


def has_outlier_pixels(blocks: BlockSpectra, variance: Tensor) -> bool:
    """Return whether blocks without structure hold more outliers than Gaussian noise.

    Parameters
    ----------
    blocks : BlockSpectra
    variance : Tensor
        (K,), > 0, variance of white noise at the blocks' brightness.
    """
    power = blocks.power / variance[:, None, None]
    is_outlier = _find_outlier_blocks(power)
    is_smooth = is_outlier | (_average_bands(power, _SLOW_BANDS) < MAX_SMOOTH_ENERGY)
    count = max(MIN_FLAT_BLOCKS, int(is_smooth.sum()))
    return int(is_outlier.sum()) > MAX_SMOOTH_OUTLIER_FRACTION * count


def is_resampled(planes: Tensor) -> bool:
    """Return whether the noise is periodic along rows or columns, as after resampling.

    Enlarging, a colour mosaic and JPEG cause such a pattern.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).

    References
    ----------
    Gallagher, Detection of linear and cubic interpolation in JPEG compressed images, CRV 2005,
    doi:10.1109/CRV.2005.33 (periodic variance of second differences).
    """
    return any(_measure_periodicity(item) > MIN_PERIOD_POWER for item in (planes, planes.mT))


def _measure_periodicity(planes: Tensor) -> float:
    """Return the power of the strongest fine period along X, in units of the median power."""
    second_differences = planes.diff(n=2, dim=2).abs()
    if second_differences.shape[2] < MIN_PERIOD_COLUMNS:
        return 0.0
    upper_limit = second_differences.flatten()[
        :: -(-second_differences.numel() // MAX_SORTED_DIFFERENCES)
    ].quantile(0.9)
    columns = second_differences.clamp(max=upper_limit).mean((0, 1))
    local_mean = avg_pool1d(
        columns[None, None], DETREND_COLUMNS, 1, DETREND_COLUMNS // 2, count_include_pad=False
    )[0, 0]
    deviations = columns / local_mean.clamp(min=1e-300) - 1
    window = torch.hann_window(len(deviations) + 2, periodic=False, dtype=deviations.dtype)[1:-1]
    power = torch.fft.rfft(deviations * window).abs().square()
    power = power[torch.fft.rfftfreq(len(deviations)) > MIN_PERIOD_FREQUENCY]
    return float(power.max() / power.median().clamp(min=1e-300))


def _group_by_brightness(means: Tensor) -> tuple[Tensor, ...]:
    """Return the indices of the blocks of each brightness class."""
    count = min(MAX_BRIGHTNESS_CLASSES, max(1, len(means) // MIN_BLOCKS_PER_CLASS))
    return means.argsort(stable=True).tensor_split(count)


def _has_uniform_level(means: Tensor, power: Tensor, overall_level: float) -> bool:
    """Return whether the energy of each brightness class is near that of all blocks."""
    for indices in _group_by_brightness(means):
        level = measure_finest_level(power[indices])
        upper_bound = (
            MAX_TEXTURED_CLASS_ENERGY if is_textured(power[indices]) else CLASS_ENERGY_RANGE[1]
        )
        if not CLASS_ENERGY_RANGE[0] * overall_level < level < upper_bound * overall_level:
            return False
    return True


def is_textured(power: Tensor) -> bool:
    """Return whether most blocks have far more energy in coarse frequencies than in the finest.

    Parameters
    ----------
    power : Tensor
        (K, DCT_SIDE, DCT_SIDE), in units of the power of noise.
    """
    coarse = _compute_energy_quantile(power[:, _COARSE_BANDS], 0.2, _NORMAL_QUANTILE_20)
    return coarse > MIN_TEXTURE_RATIO * measure_finest_level(power)


def _find_outlier_blocks(power: Tensor) -> Tensor:
    """Return the mask of blocks with more energy than the noise model, and not from texture."""
    level, slow, fine = (
        _average_bands(power, bands)
        for bands in (select_finest_bands(), _SLOW_BANDS, _UPPER_FINE_BANDS)
    )
    return (
        (level > MIN_OUTLIER_ENERGY)
        & (level < MAX_OUTLIER_ENERGY)
        & (slow < level)
        & (fine > level / 2)
    )


def _average_bands(power: Tensor, bands: Tensor) -> Tensor:
    return power[:, bands].mean(1)


def _compute_energy_quantile(power: Tensor, fraction: float, normal_quantile: float) -> float:
    """Return a quantile of the blocks' mean power, in units of that quantile for noise of power 1.

    Wilson, Hilferty, PNAS 17(12), 1931, doi:10.1073/pnas.17.12.684 (chi-square by a cube).
    """
    cube_root_variance = 2 / (9 * power.shape[1])
    cube_root = 1 - cube_root_variance + normal_quantile * cube_root_variance**0.5
    return float(torch.quantile(power.mean(1), fraction)) / float(cube_root) ** 3
