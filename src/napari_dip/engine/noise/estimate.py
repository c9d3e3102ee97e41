"""What one image tells of its noise: variance = gain x signal + intercept, and correlation.

The line is read from the finest frequencies of all blocks (variance_model.py), what neighbouring
pixels share from the blocks whose energy agrees (correlation.py). Blocks with holes or clipped
pixels do not count (flat_blocks.py). Where noise and picture cannot be told apart, the estimate
says so, and is the least that the image allows.

Whether correlated noise that was measured agrees with how well pixels are foretold by others.

Where neighbours share their noise, they foretell each other: the more, the wider it reaches. Fine
texture that was taken for correlated noise does not do so, and then the noise is white and weaker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from napari_dip.engine.noise.consistency_checks import (
    find_contradiction,
    has_wide_variation,
    is_resampled,
    measure_finest_level,
    measure_unevenness,
)
from napari_dip.engine.noise.correlation import (
    NoiseCorrelation,
    compute_band_power,
    compute_residual_share,
    measure_noise_correlation,
    measure_prediction_residual,
    subtract_image_correlation,
)
from napari_dip.engine.noise.flat_blocks import (
    MAX_LAG,
    NO_CLIPPING,
    choose_block_side,
    cut_blocks,
    find_clipping_limits,
    select_informative_blocks,
)
from napari_dip.engine.noise.variance_model import (
    DCT_SIDE,
    BlockEnergies,
    VarianceModel,
    find_dark_plateau,
    fit_variance_model,
    make_dct_matrix,
    make_frequency_grids,
    select_finest_bands,
)

#: Lag-1 correlation above which noise is treated as correlated. On seven FMD fields the white
#: ones measure up to 0.18 (structure that was left), the correlated ones from 0.59 on; a confocal
#: scan along its lines 0.25 to 0.33.
MIN_CORRELATED_LAG = 0.22
#: Lag-1 correlation up to which the variance is that of the finest frequencies: structure that is
#: left in flat blocks makes as much; taken for noise, it cost gains on mitochondria and coins.
MAX_DOUBTFUL_LAG = 0.12
#: Correlation that is too small to be learned from, with the picture's own taken off; ends the
#: hidden block.
MAX_NEGLIGIBLE_LAG = 0.05
#: Widest half block. On FMD widefield, whose noise reaches 4 pixels, blocks of 7 x 7 beat 5 x 5
#: by 1 dB and 11 x 11 by 1.4 dB: past that the fit has too little to see.
MAX_CORRELATION_LENGTH = 3
#: Blocks that must fit side by side into the image, or too little of it is left to see.
MIN_BLOCKS_PER_SIDE = 6
#: Fewest blocks without holes that tell the noise, and the standard deviation reckoned with, as a
#: share of the range, where there are fewer: with noise and structure alike unknown, any value
#: that keeps the loss of order one does, since a constant changes neither fit nor stop.
MIN_NOISE_BLOCKS, FALLBACK_NOISE_SHARE = 8, 0.01
#: Least share of a variance that is taken for white: a hundredth of its standard deviation.
MIN_WHITE_SHARE = 1e-4
#: Why an image cannot tell its noise: too few whole blocks; almost all of it clipped; noise finer
#: than the grey values; structure to the finest frequencies everywhere; texture and correlated
#: noise look alike; noise at some brightness is not on the line, or nothing there is flat;
#: single pixels are further off than normal noise has it; neighbours share more than was measured.
UNRELIABLE_REASONS = (
    "blocks",
    "clipped",
    "grey values",
    "texture",
    "correlation",
    "brightness",
    "tails",
    "smoothed",
)
#: What should be known where the image does tell: noise is stronger in every second row or so;
#: nearly all of the image is structured; all of it varies over eight pixels and more; whole rows or
#: columns have offsets of their own; neighbours share less noise than was measured; much was cut
#: off; some brightness is off the line; the line is little known at an end; it is a colour
#: camera's noise; neighbours share it in a colour picture.
CAUTIONS = (
    "resampled",
    "calm",
    "blotches",
    "lines",
    "whiter",
    "cut",
    "uneven",
    "ends",
    "camera",
    "colours",
)
#: Most blocks that are looked at: 6,000 of 64 pixels tell a variance to 0.4 %.
MAX_BLOCKS = 6_000
#: Pixels up to which blocks overlap by half more, since few fit into the image.
MAX_OVERLAPPED_PIXELS = 200 * 200
#: What overlapping blocks tell, as a share of what as many others would: blocks at every fourth
#: pixel are four times as many and tell half as much again.
OVERLAP_INFORMATION = 0.4
#: Share of the wide blocks below which, where others were cut off, correlation is not read from
#: them: structure at the rim of what was cut off looks like it. Twelve made pictures whose white
#: noise was taken for correlated have 0.01 to 0.23 left; FMD widefield has 0.51 and 0.70.
MIN_WHOLE_BLOCK_SHARE = 0.3
#: Energy of the calmest blocks' finest frequencies, as a share of what white noise would have,
#: below which the noise is not as much as correlation had it: 0.74 to 0.86 in three made pictures
#: that it was told 1.2 to 1.6 times too strong in; 0.89 and more where it was told rightly.
MIN_FINE_ENERGY = 0.88
#: Shares of blocks without texture, and of blocks that agree about correlation, from which on the
#: variance is told within a third only: filaments, membranes.
MIN_FLAT_BLOCK_SHARE, CAUTION_FLAT_SHARE, CAUTION_AGREEMENT_SHARE = 0.3, 0.6, 0.12
#: Share of the blocks that tell of the noise, below which a caution is due where others were cut
#: off: 0.28 in a made picture whose noise is told half as strong as it is at the bright end.
MIN_INFORMATIVE_SHARE = 0.4
#: Times the usual noise that one brightness may have without a caution: 1.56 with a gamma curve
#: that the line followed only within a third; even noise on made scenes has 1.02 to 1.14.
MAX_UNEVENNESS = 1.3
#: Quantiles of brightness at which the variance is to be known; its standard error there, as a
#: share of it, from which on a caution is due; and the share of it that may come of going on with
#: the line beyond the blocks: thin strokes fill none.
BRIGHTNESS_END_QUANTILES, MAX_RELATIVE_ERROR, MAX_EXTRAPOLATED_SHARE = (0.1, 0.9), 0.1, 0.2
#: Quantiles that span an image without odd pixels, how many times their distance the range of the
#: grey values is believed to be at most, and values that are sorted for it.
ROBUST_QUANTILES, MAX_RANGE_RATIO, MAX_SORTED_VALUES = (0.005, 0.995), 11.0, 1_000_000
#: Standard deviation, in steps of the grey values, below which noise cannot be told: rounding
#: then depends on the signal and is no noise of one twelfth of a squared step any more.
MIN_NOISE_STEPS = 0.5
#: Fewest grey values that noise can be seen in: below, the image is a mask or a drawing.
MIN_GREY_VALUES = 5
#: Share of the blocks without texture below which all that is left is structure.
MIN_FLAT_SHARE = 0.02
#: Share of white noise's power that correlated noise must keep in the finest frequencies, or its
#: line is read from the finest ones that it does not leave out: how many, and how strong.
MIN_FINE_POWER_SHARE, FALLBACK_BANDS, MIN_BAND_POWER_SHARE = 0.5, 25, 0.3
#: Noise that differs from pixel to pixel.
_NO_LAGS = (0.0,) * MAX_LAG
_NO_CORRELATION = NoiseCorrelation(_NO_LAGS, _NO_LAGS, _NO_LAGS, _NO_LAGS, 0.0, is_reliable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseEstimate:
    """Noise of one channel, in the units of the planes that it was measured in.

    Attributes
    ----------
    gain, intercept : float
        The variance at signal m is `gain * m + intercept`.
    floor : float, > 0
        Least variance to reckon with.
    along_y, along_x : tuple of float
        Autocorrelation at lags 1, 2, ... along each axis.
    relative : float
        Standard deviation, as a share of the signal, of noise that multiplies it: speckle.
    doubt : str
        Why the image cannot tell its noise, one of `UNRELIABLE_REASONS`; "" if it can.
    caution : str
        What should be known of an estimate that is used as it is, one of `CAUTIONS`; "" if nothing.
    gain_error : float
        Standard error of the gain; infinite where nothing tells it.
    offset, read_noise : float or None
        Signal without light and standard deviation there, from the image's dark pixels: the most
        that they can be, if even light fell there. None if it has none to tell them by.
    offset_error, read_noise_error : float
        Their standard errors; 0 where the detector's own frames tell them.
    cut_off : (float, float)
        Grey values below and above which nothing is told, noise included; infinite if none is.
    cut_belief : (float, float)
        How much of what the noise foretells to be cut off there counts, 0 to 1.
    """

    gain: float
    intercept: float
    floor: float
    along_y: tuple[float, ...]
    along_x: tuple[float, ...]
    relative: float = 0.0
    doubt: str = ""
    gain_error: float = 0.0
    offset: float | None = None
    read_noise: float | None = None
    cut_off: tuple[float, float] = NO_CLIPPING
    cut_belief: tuple[float, float] = (1.0, 1.0)
    offset_error: float = 0.0
    read_noise_error: float = 0.0
    caution: str = ""

    def variance(self, means: Tensor) -> Tensor:
        """Variance at these brightnesses, of noise that does not multiply the signal."""
        return (self.gain * means + self.intercept).clamp(min=self.floor)

    def white(self, share: float) -> NoiseEstimate:
        """White noise of a share of the variance."""
        none = (0.0,) * len(self.along_y)
        return replace(
            self,
            gain=share * self.gain,
            intercept=share * self.intercept,
            floor=share * self.floor,
            gain_error=share * self.gain_error,
            along_y=none,
            along_x=none,
        )


def estimate_noise(
    planes: Tensor, step: float, measured_mask: Tensor | None = None
) -> NoiseEstimate:
    """Measure variance and correlation of the noise.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X): one image, or more of one detector; at least 16 pixels a side.
    step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured; None if all were.

    Returns
    -------
    NoiseEstimate
        White and of `FALLBACK_NOISE_SHARE` of the range where too few blocks are without holes to
        tell.

    References
    ----------
    Foi et al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399 (variance as a line in the
    mean, fitted to smooth parts of one image; clipping).
    """
    planes = planes.to(torch.float64)
    spread = _measure_robust_range(planes)
    rounded = step**2 / 12
    least = max(rounded, (1e-4 * spread) ** 2)
    limits = cut_off = find_clipping_limits(planes)
    fine = _compute_block_energies(planes, measured_mask, limits)
    clipped = ""
    if (
        len(fine.means) < MIN_NOISE_BLOCKS and limits != NO_CLIPPING
    ):  # better clipped blocks than none
        clipped, limits = "clipped", NO_CLIPPING
        fine = _compute_block_energies(planes, measured_mask, limits)
    if len(fine.means) < MIN_NOISE_BLOCKS:
        return _make_fallback_estimate(
            max((FALLBACK_NOISE_SHARE * spread) ** 2, rounded), clipped or "blocks"
        )
    white = fit_variance_model(fine, select_finest_bands(), 1.0, least)
    reach = _measure_block_correlation(planes, measured_mask, limits, white, least)
    line = _extend_to_all_bands(white, fine, reach, least)
    if not _is_correlated(reach):
        power = fine.power / line.variance(fine.means, least)[:, None, None]
        line = white if measure_finest_level(power) < MIN_FINE_ENERGY else line
    lowest = line.gain * float(fine.means.quantile(0.02)) + line.intercept
    few = len(planes.unique()) < MIN_GREY_VALUES
    doubt = "grey values" if few else clipped
    doubt = doubt or _find_unreliable_reason(line, reach, float(fine.means.median()), step)
    if not doubt and (doubt := _find_contradiction(fine, line, reach, max(0.5 * lowest, least))):
        line, reach = (white, _NO_CORRELATION) if doubt == "correlation" else (line, reach)
    dark = None if doubt else find_dark_plateau(fine.means, line.gain, line.intercept, least)
    caution = (
        "" if doubt else _find_caution(planes, measured_mask, cut_off, fine, line, reach, least)
    )
    return NoiseEstimate(
        gain=line.gain,
        intercept=line.intercept,
        floor=max(0.5 * lowest, least),
        along_y=reach.along_y,
        along_x=reach.along_x,
        doubt=doubt,
        gain_error=line.gain_error,
        offset=None if dark is None else dark.offset,
        read_noise=None if dark is None else dark.read_noise,
        cut_off=cut_off,
        offset_error=0.0 if dark is None else dark.offset_error,
        read_noise_error=0.0 if dark is None else dark.read_noise_error,
        caution=caution,
    )


def _measure_robust_range(planes: Tensor) -> float:
    """Range of the grey values, in which a few odd ones do not count."""
    values = planes.flatten()
    values = values[:: -(-len(values) // MAX_SORTED_VALUES)].sort().values
    low, high = (float(values[round(share * (len(values) - 1))]) for share in ROBUST_QUANTILES)
    every = float(planes.max() - planes.min())
    return min(every, MAX_RANGE_RATIO * (high - low)) if high > low else every


def _make_fallback_estimate(variance: float, doubt: str) -> NoiseEstimate:
    """White noise of that variance, for want of a better one."""
    return NoiseEstimate(
        gain=0.0,
        intercept=variance,
        floor=variance,
        along_y=_NO_LAGS,
        along_x=_NO_LAGS,
        doubt=doubt,
        gain_error=float("inf"),
    )


def _compute_block_energies(
    planes: Tensor, measured_mask: Tensor | None, limits: tuple[float, float]
) -> BlockEnergies:
    """Transform the blocks that tell of the noise."""
    every = DCT_SIDE if planes.numel() > MAX_OVERLAPPED_PIXELS else DCT_SIDE // 2
    tell = select_informative_blocks(planes, DCT_SIDE, every, measured_mask, limits)
    whole, share = tell.nonzero()[:, 0], float(tell.double().mean())
    whole = whole[:: -(-len(whole) // MAX_BLOCKS) or 1]
    blocks = (
        planes.unfold(1, DCT_SIDE, every)
        .unfold(2, DCT_SIDE, every)
        .reshape(-1, DCT_SIDE, DCT_SIDE)[whole]
    )
    basis = make_dct_matrix()
    power = (basis @ blocks @ basis.T).square()
    independent = 1.0 if every == DCT_SIDE else OVERLAP_INFORMATION
    return BlockEnergies(blocks.mean((1, 2)), power, independent, share)


def _measure_block_correlation(
    planes: Tensor,
    measured_mask: Tensor | None,
    limits: tuple[float, float],
    line: VarianceModel,
    least: float,
) -> NoiseCorrelation:
    """Measure the correlation in blocks as wide as it may reach."""
    side = choose_block_side(tuple(planes.shape[1:]))
    means, residuals = cut_blocks(planes, side)
    whole = select_informative_blocks(planes, side, side // 2, measured_mask, limits).nonzero()[
        :, 0
    ]
    chosen = whole[:: -(-len(whole) // MAX_BLOCKS) or 1]
    if len(whole) < MIN_NOISE_BLOCKS:
        return _NO_CORRELATION
    reach = measure_noise_correlation(residuals[chosen], line.variance(means[chosen], least))
    few = limits != NO_CLIPPING and len(whole) < MIN_WHOLE_BLOCK_SHARE * len(means)
    return _NO_CORRELATION if few and _is_correlated(reach) else reach


def _extend_to_all_bands(
    line: VarianceModel, fine: BlockEnergies, reach: NoiseCorrelation, least: float
) -> VarianceModel:
    """Go from the noise of the finest frequencies to that of all."""
    first = max(reach.least_y[0], reach.least_x[0])
    believed = min(
        1.0, max(0.0, (first - MAX_DOUBTFUL_LAG) / (MIN_CORRELATED_LAG - MAX_DOUBTFUL_LAG))
    )
    shares = compute_band_power(
        *([believed * v for v in item] for item in (reach.least_y, reach.least_x))
    )
    share = float(shares[select_finest_bands()].mean())
    if share >= MIN_FINE_POWER_SHARE:
        gain, intercept, error = (
            item / share for item in (line.gain, line.intercept, line.gain_error)
        )
        return line._replace(gain=gain, intercept=intercept, gain_error=error)
    y, x = make_frequency_grids()
    order = torch.where((shares >= MIN_BAND_POWER_SHARE) & (y + x >= 3), y + x, 0).flatten()
    bands = torch.zeros(DCT_SIDE**2, dtype=torch.bool)
    bands[order.argsort(descending=True, stable=True)[:FALLBACK_BANDS]] = True
    bands = bands.reshape(DCT_SIDE, DCT_SIDE) & (y + x >= 3)
    return fit_variance_model(fine, bands, float(shares[bands].mean()), least)


def _find_unreliable_reason(
    line: VarianceModel, reach: NoiseCorrelation, middle: float, step: float
) -> str:
    """Say what keeps the image from telling its noise; "" if nothing does."""
    if step and line.gain * middle + line.intercept < (MIN_NOISE_STEPS * step) ** 2:
        return "grey values"
    if line.flat < MIN_FLAT_SHARE:
        return "texture"
    return "" if reach.is_reliable else "correlation"


def _find_contradiction(
    fine: BlockEnergies, line: VarianceModel, reach: NoiseCorrelation, floor: float
) -> str:
    """Say what the blocks hold that line and correlation do not explain; "" if nothing."""
    axes = (reach.along_y, reach.along_x)
    white = torch.ones(DCT_SIDE, DCT_SIDE, dtype=torch.float64)
    shares = compute_band_power(*axes) if _is_correlated(reach) else white
    return find_contradiction(fine, line.variance(fine.means, floor), shares, axes)


def _is_correlated(reach: NoiseCorrelation) -> bool:
    return (
        max(
            _compute_correlation_length(list(reach.along_y)),
            _compute_correlation_length(list(reach.along_x)),
        )
        > 0
    )


def _find_caution(
    planes: Tensor,
    measured_mask: Tensor | None,
    limits: tuple[float, float],
    fine: BlockEnergies,
    line: VarianceModel,
    reach: NoiseCorrelation,
    least: float,
) -> str:
    """Say what should be known of noise that is told: one of `CAUTIONS`, or ""."""
    if is_resampled(planes):
        return "resampled"
    if _is_correlated(reach):
        return ""
    if line.flat < MIN_FLAT_BLOCK_SHARE or (
        line.flat < CAUTION_FLAT_SHARE and reach.agree < CAUTION_AGREEMENT_SHARE
    ):
        return "calm"
    if limits != NO_CLIPPING and fine.share < MIN_INFORMATIVE_SHARE:
        return "cut"

    variance = partial(line.variance, least=least)
    if has_wide_variation(planes, measured_mask, limits, variance):
        return "blotches"
    if measure_unevenness(fine, variance(fine.means)) > MAX_UNEVENNESS:
        return "uneven"
    ends = avg_pool2d(planes[:, None], 3).flatten()
    ends = ends[:: -(-len(ends) // MAX_SORTED_VALUES)].quantile(
        torch.tensor(BRIGHTNESS_END_QUANTILES).to(ends)
    )
    return "ends" if line.gain > 0 and _is_uncertain(fine.means, ends, line, variance(ends)) else ""


def _is_uncertain(means: Tensor, ends: Tensor, line: VarianceModel, variance: Tensor) -> bool:
    """Tell whether the line is too uncertain, or reaches too far, at both ends of brightness."""
    error = line.gain_error * (ends - means.median()).abs() / variance
    beyond = torch.stack([means.quantile(0.01) - ends[0], ends[1] - means.quantile(0.99)])
    return bool(
        (
            (error > MAX_RELATIVE_ERROR) | (line.gain * beyond > MAX_EXTRAPOLATED_SHARE * variance)
        ).any()
    )


def extract_nugget(estimate: NoiseEstimate) -> NoiseEstimate:
    """Keep the part of a variance that ends within one pixel; what reaches further is picture.

    Covariances at one pixel and two are prolonged to none by a straight line; what the variance
    has beyond that is white: the nugget of a variogram.

    Parameters
    ----------
    estimate : NoiseEstimate

    References
    ----------
    Matheron, Principles of geostatistics, Economic Geology 58, 1963,
    doi:10.2113/gsecongeo.58.8.1246.
    """
    axes = (estimate.along_y, estimate.along_x)
    share = min(max(1 - max(2 * item - two for item, two, *_ in axes), MIN_WHITE_SHARE), 1)
    return estimate.white(share)


def compute_blind_spot_size(
    estimates: list[NoiseEstimate], grid: tuple[int, int]
) -> tuple[int, int]:
    """Size of a block, along Y and X, whose centre shares no noise with what lies outside.

    Parameters
    ----------
    estimates : list of NoiseEstimate
        One for each channel; the widest correlation decides.
    grid : tuple of int
        Size of the image, which must stay wide against the block.
    """
    reach_y = max(_compute_correlation_length(list(estimate.along_y)) for estimate in estimates)
    reach_x = max(_compute_correlation_length(list(estimate.along_x)) for estimate in estimates)
    most_y, most_x = (max(0, (side // MIN_BLOCKS_PER_SIDE - 1) // 2) for side in grid)
    return 2 * min(reach_y, most_y) + 1, 2 * min(reach_x, most_x) + 1


def _compute_correlation_length(correlation: list[float]) -> int:
    """Half width of the hidden block along one axis, 0 if the noise is white.

    A picture's own correlation falls slowly, so what is left of it at the longest lag is taken
    off all of them.
    """
    first, *further = subtract_image_correlation(tuple(correlation))
    if first <= MIN_CORRELATED_LAG:
        return 0
    reach = 1
    for value in further[: MAX_CORRELATION_LENGTH - 1]:
        if value <= MAX_NEGLIGIBLE_LAG:
            break
        reach += 1
    return reach


#: Fewest pixels of a plane that is looked at: of 32 x 32, least squares explain half by chance.
MIN_PLANE_PIXELS = 150 * 150
#: How many times more than correlated noise would leave is a contradiction, and least part of the
#: variance that is left then. Made correlated noise (15 and 10, 33 photographs of BSD68, Set12,
#: kodak256 and scikit-image) and FMD widefield leave 0.3 to 1.9 times what it would, and one 2.5
#: times (7 % of the variance). Grass and gravel, clean or with noise of 3 to 8, leave 3.5 to 48
#: times, and 56 to 120 % of the variance.
MAX_RESIDUAL_RATIO, MIN_RESIDUAL_SHARE = 2.0, 0.3
#: Part of the variance that is left, and times more than correlated noise would leave, from which
#: on a caution is due: 0.5 to 0.6 and 1.2 to 1.7 in a photograph whose white noise was taken for
#: correlated; FMD widefield leaves 0.11, a confocal scan along its lines 0.71, 1.01 times.
WHITER_LIMITS = (0.45, 1.15)
#: Part of what white noise would leave, below which noise that was measured as white is correlated.
#: FMD and photographs with noise of 15 and 25 leave 0.92 to 1.3 of it; four with correlated noise
#: of 15, which was measured as 6 to 8, 0.53 to 0.73.
MIN_WHITE_RATIO = 0.78


def correct_by_prediction(noise: NoiseEstimate, plane: Tensor, step: float) -> NoiseEstimate:
    """Correct noise that contradicts how well a plane's pixels are foretold by their neighbours.

    Parameters
    ----------
    noise : NoiseEstimate
        As measured on it.
    plane : Tensor
        (Y, X), every pixel of it measured.
    step : float
        Distance of neighbouring grey values; 0 if there are none.
    """
    if plane.numel() < MIN_PLANE_PIXELS:
        return noise
    levels, remaining = measure_prediction_residual(plane)
    claimed = noise.variance(levels)
    share = float((remaining / claimed).median())
    white = compute_residual_share((), ())
    if compute_blind_spot_size([noise], (plane.shape[0], plane.shape[1])) == (1, 1):
        doubted = not noise.doubt and share < MIN_WHITE_RATIO * white
        return replace(noise, doubt="correlation") if doubted else noise
    expected = compute_residual_share(
        subtract_image_correlation(noise.along_y), subtract_image_correlation(noise.along_x)
    )
    weak = float(claimed.mean()) <= step**2
    if weak or share < MIN_RESIDUAL_SHARE or share < MAX_RESIDUAL_RATIO * expected:
        little = not weak and share > WHITER_LIMITS[0] and share > WHITER_LIMITS[1] * expected
        return replace(noise, caution="whiter") if little and not noise.doubt else noise
    return replace(noise.white(min(share / white, 1.0)), doubt="texture")
