"""Is an image's noise what was measured? Its own frequencies contradict it, or they do not.

A variance and a correlation foretell how much energy each frequency of the calmest blocks has, and
that of blocks of any brightness. Where the image holds something else, nothing is known for sure.

The limits lie between 346 channels of FMD, W2S, Hagen et al., Set12, BSD68 and kodak256 whose noise
is measured right, and made ones of `benchmarks/noise_matrix.py` whose noise is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from napari_dip.engine.noise.correlation import subtract_image_correlation
from napari_dip.engine.noise.variance_model import (
    DCT_SIDE,
    make_dct_matrix,
    make_frequency_grids,
    select_finest_bands,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.noise.variance_model import BlockEnergies

#: Fewest blocks taken for calm; fewest in a class of brightness, and classes at most.
MIN_CALM_BLOCKS, MIN_BLOCKS_PER_CLASS, MAX_BRIGHTNESS_CLASSES = 8, 24, 10
#: Fewest blocks, where overlapping ones count for less, that a contradiction is read from: pictures
#: of 128 x 128 pixels have fewer, and a smooth one with white noise contradicted its own.
MIN_CHECKED_BLOCKS = 400
#: Share of the blocks, those of least coarse structure, that are taken for calm.
CALM_BLOCK_SHARE = 0.25
#: Most energy of the finest diagonal frequencies' coarser part, in units of that of their finer
#: part, both against what is foretold: 1.6 in barbara with noise of 15, below 1.5 in the others;
#: 2.3 and more in noise that was smoothed and taken for white.
MAX_FINE_STEEPNESS = 2.0
#: Most energy of the finest frequencies in a fifth of the blocks, for white and correlated noise:
#: 1.45 of bsd68, 2.2 on FMD widefield; 2.4 to 9 in even texture that was taken for noise.
MAX_FINE_ENERGY = (1.7, 2.4)
#: Most energy of the coarse frequencies in the calmest twentieth, likewise: 3.7 of bsd68, 1.1 on
#: FMD widefield; 9 to 600 where structure is in every block.
MAX_COARSE_ENERGY = (8.0, 2.0)
#: How far the energy of a class of brightness may lie from that of all, and how far if it has
#: texture, which is more than `MIN_TEXTURE_RATIO` times as much energy in its coarse frequencies:
#: 0.7 to 1.3 on micrographs, 2.7 in kodim18 with noise of 15, with texture; 1.8 to 12 or 0.3 with
#: gamma, speckle and shading.
CLASS_ENERGY_RANGE, MAX_TEXTURED_CLASS_ENERGY, MIN_TEXTURE_RATIO = (0.5, 1.6), 4.0, 3.0
#: Most correlation at lag 3, as a share of that at lag 1, and lag 1 from which on: 0.21 on FMD
#: widefield; 0.27 to 0.8 in even texture and in noise wider than what can be measured.
MAX_TAIL_RATIO, MIN_TAIL_CORRELATION = 0.24, 0.22
#: Most correlation at the longest lag: 0.25 on FMD widefield, 0.34 and 0.67 of line offsets.
MAX_LONGEST_LAG_CORRELATION = 0.3
#: Share of the blocks that may have so many times the noise foretold without more of it in coarse
#: frequencies, and with half of it in the very finest: 0.02 on FMD, W2S and Hagen et al., 0.03 in
#: barbara; 0.05 to 0.11 in four of six pictures with Student's t of 3. Beyond `MAX_OUTLIER_ENERGY`,
#: it is single bright pixels.
MAX_OUTLIER_BLOCK_SHARE, MIN_OUTLIER_ENERGY, MAX_OUTLIER_ENERGY = 0.035, 2.0, 20.0
#: Pixels that are averaged for blocks eight times as wide, share of a block that must be told,
#: fewest such blocks, and the share of them, the calmest, whose least energy tells: 0.3 to 3.4
#: times that of white noise in FMD, and at most 5.5 in all but two of 14 photographs with noise of
#: 15 and 25; 6 and more in white noise with blotches as strong, 2 to 8 pixels wide (Gaussian).
WIDE_POOL_SIDE, MIN_VALID_SHARE, MIN_WIDE_BLOCKS, CALMEST_BLOCK_SHARE, MAX_WIDE_ENERGY = (
    4,
    0.97,
    100,
    0.02,
    5.7,
)
#: Fewest columns in which a period is looked for, columns that are averaged for what is slow, least
#: frequency, second differences that are sorted, and the power from which on it is no chance: at
#: most 50 in FMD confocal and two-photon, W2S, Hagen et al. and 22 photographs; 146 and more in
#: pictures enlarged by 1.5 and 2, 1,150 in FMD widefield, whose camera has a colour mosaic.
(
    MIN_PERIOD_COLUMNS,
    DETREND_COLUMNS,
    MIN_PERIOD_FREQUENCY,
    MAX_SORTED_DIFFERENCES,
    MIN_PERIOD_POWER,
) = 64, 31, 0.2, 1_000_000, 100.0
#: Normal quantiles of a twentieth and a fifth.
_NORMAL_QUANTILE_05, _NORMAL_QUANTILE_20 = -1.645, -0.842
#: Frequencies: slow ones; these without slow slopes, which light has everywhere, and without any
#: straight one, whose odd harmonics are there too; the coarser and the finer part of the finest.
_Y, _X = make_frequency_grids()
_SLOW_BANDS = (_Y + _X >= 1) & (_Y + _X <= 3)
_COARSE_BANDS = _SLOW_BANDS & (_Y + _X >= 2)
_CURVED_BANDS = _COARSE_BANDS & (_Y < 3) & (_X < 3)
_LOWER_FINE_BANDS, _UPPER_FINE_BANDS = (
    select_finest_bands() & (_Y <= 4) & (_X <= 4),
    (_Y >= 6) & (_X >= 6),
)


def find_contradiction(
    blocks: BlockEnergies, variance: Tensor, shares: Tensor, axes: tuple[tuple[float, ...], ...]
) -> str:
    """Find what the image has that its measured noise does not explain; one of `DOUBTS` or "".

    Parameters
    ----------
    blocks : BlockEnergies
    variance : Tensor
        (K,), > 0: measured at the blocks' brightness.
    shares : Tensor
        (SIDE, SIDE): power of the noise in each frequency as its correlation has it.
    axes : tuple of tuple of float
        Autocorrelation at lags 1, 2, ... along Y and X.
    """
    if len(blocks.means) * blocks.independent < MIN_CHECKED_BLOCKS:
        return ""
    power = blocks.power / variance[:, None, None] / shares.clamp(min=0.01)
    correlated = int(bool((shares != 1).any()))
    order = _average_bands(blocks.power, _SLOW_BANDS) / variance
    calm = power[
        order.argsort(stable=True)[: max(MIN_CALM_BLOCKS, round(CALM_BLOCK_SHARE * len(order)))]
    ]
    wide = any(
        item[0] > MIN_TAIL_CORRELATION and item[2] > MAX_TAIL_RATIO * item[0]
        for item in map(subtract_image_correlation, axes)
    )
    wide |= any(axis[-1] > MAX_LONGEST_LAG_CORRELATION for axis in axes)
    if float(_average_bands(calm, _LOWER_FINE_BANDS).mean()) > MAX_FINE_STEEPNESS * float(
        _average_bands(calm, _UPPER_FINE_BANDS).mean()
    ):
        return "smoothed"
    if (
        wide
        or _compute_energy_quantile(power[:, _COARSE_BANDS], 0.05, _NORMAL_QUANTILE_05)
        > MAX_COARSE_ENERGY[correlated]
    ):
        return "correlation"
    usual = measure_finest_level(power)
    if not _is_even(blocks.means, power, usual):
        return "brightness"
    if usual > MAX_FINE_ENERGY[correlated]:
        return "texture"
    return (
        "tails"
        if not correlated and _measure_outlier_share(power) > MAX_OUTLIER_BLOCK_SHARE
        else ""
    )


def measure_finest_level(power: Tensor) -> float:
    """Energy of the finest frequencies in the calmest fifth of the blocks.

    Parameters
    ----------
    power : Tensor
        (K, SIDE, SIDE), in units of what noise alone would have.
    """
    return _compute_energy_quantile(power[:, select_finest_bands()], 0.2, _NORMAL_QUANTILE_20)


def has_wide_variation(
    planes: Tensor,
    measured_mask: Tensor | None,
    limits: tuple[float, float],
    variance: Callable[[Tensor], Tensor],
) -> bool:
    """Whether every part of an image varies over `COARSE_SIDE` pixels more than white noise does.

    Parameters
    ----------
    planes, measured_mask : Tensor
        (P, Y, X), and where a pixel was measured; None: everywhere.
    limits : (float, float)
        Grey values at which the image was cut off.
    variance : callable
        Of the noise at brightnesses (K,).
    """
    inside_limits = (planes > limits[0]) & (planes < limits[1])
    if measured_mask is not None:
        inside_limits &= measured_mask
    pooled, facts = (
        avg_pool2d(item.to(planes.dtype)[:, None], WIDE_POOL_SIDE)[:, 0]
        for item in (planes, inside_limits)
    )
    if min(pooled.shape[1:]) < DCT_SIDE:
        return False

    def blocks(of: Tensor) -> Tensor:
        return of.unfold(1, DCT_SIDE, 2).unfold(2, DCT_SIDE, 2).reshape(-1, DCT_SIDE, DCT_SIDE)

    whole = blocks(facts).mean((1, 2)) >= MIN_VALID_SHARE
    chosen = blocks(pooled)[whole]
    if len(chosen) < MIN_WIDE_BLOCKS:
        return False
    basis = make_dct_matrix()
    power = (basis @ chosen @ basis.T).square() * WIDE_POOL_SIDE**2
    level = _average_bands(power, _CURVED_BANDS) / variance(chosen.mean((1, 2)))
    return float(level.quantile(CALMEST_BLOCK_SHARE)) > MAX_WIDE_ENERGY


def measure_unevenness(blocks: BlockEnergies, variance: Tensor) -> float:
    """How many times more or less noise than usual the oddest brightness has; at least 1.

    Parameters
    ----------
    blocks : BlockEnergies
    variance : Tensor
        (K,), > 0: of white noise, measured at the blocks' brightness.
    """
    power = blocks.power / variance[:, None, None]
    usual = measure_finest_level(power)
    levels = [
        measure_finest_level(power[part]) / usual for part in _group_by_brightness(blocks.means)
    ]
    return max(max(level, 1 / max(level, 1e-9)) for level in levels)


def is_resampled(planes: Tensor) -> bool:
    """Whether noise is stronger in every second, third or so row or column than in the others.

    Enlarging, a colour mosaic and JPEG leave such a pattern.

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
    """Strongest fine period of the second differences along X, in units of the usual power."""
    bends = planes.diff(n=2, dim=2).abs()
    if bends.shape[2] < MIN_PERIOD_COLUMNS:
        return 0.0
    usual = bends.flatten()[:: -(-bends.numel() // MAX_SORTED_DIFFERENCES)].quantile(0.9)
    columns = bends.clamp(max=usual).mean((0, 1))
    around = avg_pool1d(
        columns[None, None], DETREND_COLUMNS, 1, DETREND_COLUMNS // 2, count_include_pad=False
    )[0, 0]
    uneven = columns / around.clamp(min=1e-300) - 1
    window = torch.hann_window(len(uneven) + 2, periodic=False, dtype=uneven.dtype)[1:-1]
    power = torch.fft.rfft(uneven * window).abs().square()
    power = power[torch.fft.rfftfreq(len(uneven)) > MIN_PERIOD_FREQUENCY]
    return float(power.max() / power.median().clamp(min=1e-300))


def _group_by_brightness(means: Tensor) -> tuple[Tensor, ...]:
    """Sort blocks into classes of like brightness."""
    count = min(MAX_BRIGHTNESS_CLASSES, max(1, len(means) // MIN_BLOCKS_PER_CLASS))
    return means.argsort(stable=True).tensor_split(count)


def _is_even(means: Tensor, power: Tensor, usual: float) -> bool:
    """Compare the energy of each class of brightness with the usual one."""
    for part in _group_by_brightness(means):
        level = measure_finest_level(power[part])
        textured = (
            _compute_energy_quantile(power[part][:, _COARSE_BANDS], 0.2, _NORMAL_QUANTILE_20)
            > MIN_TEXTURE_RATIO * level
        )
        most = MAX_TEXTURED_CLASS_ENERGY if textured else CLASS_ENERGY_RANGE[1]
        if not CLASS_ENERGY_RANGE[0] * usual < level < most * usual:
            return False
    return True


def _measure_outlier_share(power: Tensor) -> float:
    """Share of the blocks that are noisier than foretold, and not by texture."""
    level, slow, top = (
        _average_bands(power, bands)
        for bands in (select_finest_bands(), _SLOW_BANDS, _UPPER_FINE_BANDS)
    )
    odd = (
        (level > MIN_OUTLIER_ENERGY)
        & (level < MAX_OUTLIER_ENERGY)
        & (slow < level)
        & (top > level / 2)
    )
    return float(odd.double().mean())


def _average_bands(power: Tensor, bands: Tensor) -> Tensor:
    return power[:, bands].mean(1)


def _compute_energy_quantile(power: Tensor, share: float, normal: float) -> float:
    """Quantile of the blocks' mean power, in units of what chance makes of noise of power 1.

    Wilson, Hilferty, PNAS 17(12), 1931, doi:10.1073/pnas.17.12.684 (chi-square by a cube).
    """
    spread = 2 / (9 * power.shape[1])
    chance = float(1 - spread + normal * spread**0.5) ** 3
    return float(torch.quantile(power.mean(1), share)) / chance
