"""Relate measurements that were clipped at black or white to their signals, and undo clipping.

Decided here: what noise looks like after clipping, and whether an image's noise was clipped.
"""

from __future__ import annotations

from math import isfinite, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch

from napari_dip.engine.noise import (
    CLIPPING_SIGMAS,
    compute_dark_excess,
    compute_excess,
    predict_variance,
)
from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    NO_CLIPPING,
    compute_block_spectra,
    cut_patches,
    select_finest_bands,
    select_informative_blocks,
)
from napari_dip.engine.noise.variance_model import MIN_CLASS_BLOCKS, fit_variance_model

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.engine.noise.flat_blocks import BlockSpectra

#: Least value of a photon, in standard deviations of the noise in the dark, for counts to be told
#: from normal noise at black: below 0.3 in normal noise, 0.8 to 2.5 in counts.
MIN_PHOTON_STEP = 0.5
#: Least variance of clipped noise, in units of that before clipping, of blocks that tell it: half
#: of the noise is clipped at 0.34.
MIN_CLIPPED_VARIANCE = 0.3
#: Signals at which the moments of clipped noise are computed, over the range and near each limit:
#: a hundredth of the noise apart there.
CLIPPED_MOMENT_POINTS = 1201
#: Maximum number of fits to an image whose noise is clipped: 4 to 12 until it no longer changes.
MAX_CLIPPING_ITERATIONS = 12
#: Relative change of the variance at which these fits end.
CLIPPING_TOLERANCE = 0.01
#: Clipped pixels that the noise predicts, in units of those there are: 0.5 to 1.05 where it is
#: known, since structure beyond a limit is clipped as well.
CLIPPED_RATIO_RANGE = (0.5, 1.15)
#: Least share of clipped pixels for them to be undone: fewer leave most blocks as they are.
MIN_OBSERVED_FRACTION = 0.002
#: Iterations after which the noise must predict `EARLY_RATIO` of the clipped pixels: without noise,
#: as in a photograph, structure alone is clipped.
EARLY_ITERATIONS = 2
#: Least share of the clipped pixels that the noise predicts then: at least 0.5 where it is known.
EARLY_RATIO = 0.25
#: Maximum number of blocks that are fitted at each iteration: 2,000 tell a variance to 1 %.
MAX_FITTED_BLOCKS = 2_000
#: Maximum value of a photon, in standard deviations of the noise in the dark, for that noise to be
#: clipped: at most 0.16 in clipped normal noise; 0.24 or more in 55 crops of two confocal scans,
#: whose black pixels hold no photon and which lost up to 2.8 dB.
MAX_PHOTON_STEP = 0.2
#: Share of the blocks that are darker than the level that is compared with `MIN_DARK_LEVEL`.
DARK_BLOCK_FRACTION = 0.05
#: Minimum mean of dark blocks above black, in standard deviations of the noise there: clipped noise
#: of a signal at black has 0.4, and 0.31 or more in 38 images; single photons of a confocal
#: microscope have 0.06.
MIN_DARK_LEVEL = 0.2
#: Least share of the blocks that tell the noise before clipping: 0.88 and more where it is known,
#: 0.08 in a grating that is saturated itself.
MIN_TELLING_FRACTION = 0.5


class ClippedNoise(NamedTuple):
    """Noise behind mean measurements that clipping has changed, (K,) each.

    Attributes
    ----------
    signals : Tensor
        Means before clipping.
    variance_ratio : Tensor
        Variance after clipping, in units of that before.
    fraction : Tensor
        Share of the values that is clipped.
    """

    signals: Tensor
    variance_ratio: Tensor
    fraction: Tensor


def relate_to_signals(
    means: Tensor,
    line: tuple[float, float, float],
    limits: tuple[float, float],
    *,
    counts_photons: bool = True,
) -> ClippedNoise:
    """Return the signals behind mean measurements that are clipped, and their noise.

    Parameters
    ----------
    means : Tensor
        (K,), of clipped measurements.
    line : (float, float, float)
        Gain, intercept and least value, > 0, of the variance before clipping.
    limits : (float, float)
        From `find_clipping_limits`.
    counts_photons : bool
        Whether the noise at black may be that of counts, not normal.
    """
    gain, intercept, floor = line
    ends = float(means.min()), float(means.max())
    low, high = (limit if isfinite(limit) else end for limit, end in zip(limits, ends, strict=True))
    margin = (high - low) / 2
    dark_std = sqrt(max(predict_variance(low, gain, intercept), 0.0))
    counts_photons = counts_photons and gain >= MIN_PHOTON_STEP * dark_std
    start = low if counts_photons else low - margin  # no light is below black
    grids = [torch.linspace(start, high + margin, CLIPPED_MOMENT_POINTS)]
    for end in (low, high):
        width = CLIPPING_SIGMAS * sqrt(max(predict_variance(end, gain, intercept), floor))
        grids.append(torch.linspace(end - width, end + width, CLIPPED_MOMENT_POINTS))
    signals = torch.cat(grids).to(means).clamp(start, high + margin).unique()
    variance = predict_variance(signals.clamp(low, high), gain, intercept).clamp(min=floor)
    mean, square, fraction = signals - low, variance + (signals - low) ** 2, signals * 0
    if isfinite(limits[0]):
        raised, raised_square, below = (
            compute_dark_excess(signals - low, gain, dark_std)
            if counts_photons
            else compute_excess(low - signals, variance.sqrt())
        )
        mean, square, fraction = mean + raised, square - raised_square, below
    if isfinite(limits[1]):
        lowered, lowered_square, above = compute_excess(signals - high, variance.sqrt())
        square = square - lowered_square - 2 * (high - low) * lowered
        mean, fraction = mean - lowered, fraction + above
    ratio = ((square - mean**2) / variance).clamp(min=0, max=1)
    increasing = (mean + low).cummax(0).values
    return ClippedNoise(
        *(interpolate(means, increasing, values) for values in (signals, ratio, fraction))
    )


def compute_variance_left(
    means: Tensor, line: tuple[float, float, float], limits: tuple[float, float]
) -> Tensor:
    """Return the variance that clipping leaves, as a share; 1 where there are no limits.

    Parameters
    ----------
    means, line, limits
        As for `relate_to_signals`.
    """
    if limits == NO_CLIPPING:
        return torch.ones_like(means)
    return relate_to_signals(means, line, limits).variance_ratio.clamp(min=MIN_CLIPPED_VARIANCE)


def undo_clipping(
    blocks: BlockSpectra,
    line: tuple[float, float, float],
    limits: tuple[float, float],
    *,
    counts_photons: bool,
) -> tuple[BlockSpectra, float]:
    """Return means and spectra as they were before clipping, and the share that it should clip.

    Blocks that clipping has left too little noise are left out.

    Parameters
    ----------
    blocks : BlockSpectra
        Of the clipped image.
    line, limits, counts_photons
        As for `relate_to_signals`.
    """
    noise = relate_to_signals(blocks.means, line, limits, counts_photons=counts_photons)
    tells = noise.variance_ratio >= MIN_CLIPPED_VARIANCE
    restored = blocks._replace(
        means=noise.signals[tells],
        power=blocks.power[tells] / noise.variance_ratio[tells, None, None],
    )
    return restored, float(noise.fraction.mean())


def restore_clipped_spectra(
    planes: Tensor, measured_mask: Tensor | None, limits: tuple[float, float], min_variance: float
) -> BlockSpectra | None:
    """Return the spectra of all blocks as they were before clipping.

    None if the noise behind the limits does not predict how many pixels are clipped.

    Parameters
    ----------
    planes, measured_mask, limits
        As for `compute_block_spectra`; one limit is finite.
    min_variance : float
        Lower bound of the variance.

    References
    ----------
    Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, Signal Processing
    89(12), 2009, doi:10.1016/j.sigpro.2009.04.035.
    """
    is_whole = select_informative_blocks(planes, DCT_SIDE, DCT_SIDE, measured_mask, NO_CLIPPING)
    patches = cut_patches(planes, DCT_SIDE, DCT_SIDE)[is_whole]
    at_black, at_white = (float((patches == limit).double().mean()) for limit in limits)
    observed = at_black + at_white
    clipped = compute_block_spectra(planes, measured_mask, NO_CLIPPING)
    if observed < MIN_OBSERVED_FRACTION or len(clipped.means) < MIN_CLASS_BLOCKS:
        return None
    step = -(-len(clipped.means) // MAX_FITTED_BLOCKS)
    fitted = clipped._replace(means=clipped.means[::step], power=clipped.power[::step])
    least_count = max(MIN_CLASS_BLOCKS, MIN_TELLING_FRACTION * len(fitted.means))
    low, high = (ratio * observed for ratio in CLIPPED_RATIO_RANGE)
    restored, best, least_error = fitted, None, high - observed
    for counts_photons in (False, True):  # that of counts converges from larger variances alone
        variance = torch.zeros_like(fitted.means)
        for iteration in range(MAX_CLIPPING_ITERATIONS):
            if len(restored.means) < least_count:
                return None
            model = fit_variance_model(restored, select_finest_bands(), 1.0, min_variance)
            line = (model.gain, model.intercept, min_variance)
            restored, predicted = undo_clipping(fitted, line, limits, counts_photons=counts_photons)
            if iteration == EARLY_ITERATIONS and predicted < EARLY_RATIO * observed:
                return None
            if abs(predicted - observed) <= least_error:
                best, least_error = (line, counts_photons), abs(predicted - observed)
            previous, variance = variance, model.compute_variance(fitted.means, min_variance)
            if bool(((variance - previous).abs() <= CLIPPING_TOLERANCE * variance).all()):
                break
    if low <= predicted <= high:
        best = line, counts_photons
    if best and at_black > at_white and not _is_clipped_noise(best[0], limits[0], fitted.means):
        return None
    return undo_clipping(clipped, best[0], limits, counts_photons=best[1])[0] if best else None


def _is_clipped_noise(line: tuple[float, float, float], black: float, means: Tensor) -> bool:
    """Return whether noise is clipped at black, rather than that black pixels hold no photon.

    Clipped noise never has a mean near black, since half of it is above a signal there.
    """
    gain, intercept, _ = line
    level = float(means.quantile(DARK_BLOCK_FRACTION)) - black
    dark_std = sqrt(max(predict_variance(black, gain, intercept), 0.0))
    return gain <= MAX_PHOTON_STEP * dark_std and level >= MIN_DARK_LEVEL * dark_std


def interpolate(positions: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate values at ascending knots linearly."""
    upper = torch.searchsorted(knots, positions.contiguous()).clamp(1, len(knots) - 1)
    gap = (knots[upper] - knots[upper - 1]).clamp(min=1e-30)
    weight = ((positions - knots[upper - 1]) / gap).clamp(0, 1)
    return values[upper - 1] + weight * (values[upper] - values[upper - 1])
