"""Estimate the noise of one image: variance = gain x signal + intercept, and autocorrelation.

The variance model is fitted to the finest frequencies of all blocks (variance_model.py), the
autocorrelation to flat blocks (correlation.py). Blocks with unmeasured or clipped pixels are left
out (flat_blocks.py). Where texture and noise cannot be separated, the estimate is marked as
unreliable. Correlated noise is then checked against how well neighbours predict each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.noise import NoiseCaution, UnreliableReason, predict_variance
from napari_dip.engine.noise.clipped_noise import compute_variance_left, restore_clipped_spectra
from napari_dip.engine.noise.consistency_checks import (
    find_caution,
    find_contradiction,
    is_textured,
    measure_finest_level,
)
from napari_dip.engine.noise.correlation import (
    MIN_LAG_1_CORRELATION,
    MIN_NOISE_BLOCKS,
    WHITE_CORRELATION,
    WHITE_NOISE,
    NoiseCorrelation,
    compute_band_power,
    compute_blind_spot_radius,
    compute_residual_fraction,
    measure_block_correlation,
    measure_prediction_residual,
    subtract_image_correlation,
)
from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    NO_CLIPPING,
    BlockSpectra,
    NoiseSample,
    compute_block_spectra,
    find_clipping_limits,
    find_dark_plateau,
    make_frequency_grids,
    measure_robust_range,
    pack_measured_pixels,
    select_finest_bands,
)
from napari_dip.engine.noise.variance_model import (
    VarianceModel,
    find_photon_gain,
    fit_inverted_model,
    fit_variance_model,
    merge_dark_blocks,
)

#: Share of informative blocks of a clipped image below which all blocks are used, as they were
#: before clipping: with 0.4 the RMS error of noise of 25 was 4.5 % in 46 images, now 3.0 %.
MAX_CLIPPED_INFORMATIVE_FRACTION = 0.95
#: Up to this correlation at lag 1, the variance is measured at the finest frequencies, since image
#: structure that remains in flat blocks may cause as much (docs/constants.md).
MAX_DOUBTFUL_CORRELATION = 0.12
MIN_BLIND_SPOTS_PER_SIDE = 6  #: Fewest blind spots that fit side by side into the image.
#: Standard deviation that is assumed with fewer than `MIN_NOISE_BLOCKS`, as a share of the range:
#: the loss is of order one.
FALLBACK_NOISE_FRACTION = 0.01
#: Lower bound of the white share of a variance: a hundredth of the standard deviation.
MIN_WHITE_FRACTION = 1e-4
#: Minimum energy of the flattest blocks' finest frequencies, relative to white noise, for extending
#: the variance to all bands: at least 0.89 if right, at most 0.86 if wrong (docs/constants.md).
MIN_FINE_ENERGY = 0.88
#: Least standard deviation, in distances of grey values, that can be estimated. Below, rounding
#: errors depend on the signal, so their variance is not one twelfth of the squared distance.
MIN_NOISE_STEPS = 0.5
MIN_GREY_VALUES = 5  #: Fewest grey values with noise; with fewer, it is a mask or a drawing.
#: Least share of blocks without texture; below, even the smoothest blocks hold structure.
MIN_FLAT_FRACTION_FOR_ESTIMATE = 0.02
#: The variance model is fitted at the finest frequencies if the noise has at least this power
#: there, in units of that of white noise of the same variance.
MIN_FINE_POWER_FRACTION = 0.5
#: With less than `MIN_FINE_POWER_FRACTION` at the finest frequencies, the variance model is fitted
#: in the finest frequency bands of at least this power, in units of that of white noise.
MIN_BAND_POWER_FRACTION = 0.3
#: Maximum number of frequency bands of at least `MIN_BAND_POWER_FRACTION`.
FALLBACK_BANDS = 25
#: Beside a dark plateau, a gain is believed if the image's range is at least this many photons: 6
#: or more with three photons per pixel after an EMCCD, 1.1 where texture was taken for noise.
MIN_BRIGHT_PHOTONS = 3.0
#: Standard deviation that is assumed for a pixel without light, in photons, where photons are
#: counted. It keeps the loss finite. Of values from 0.03 to 0.2, this is best, by up to 0.7 dB.
DARK_COUNT_STD = 0.1
#: Reasons for which noise is taken for white, with the variance of the finest frequencies.
TEXTURE_REASONS = (UnreliableReason.AMBIGUOUS_CORRELATION, UnreliableReason.TEXTURE)
#: Minimum share of blocks without texture by an inverted model that explains many more: at most
#: 0.45 in photographs without noise, but for one of a retina (docs/constants.md).
MIN_INVERTED_EXPLAINED_FRACTION = 0.5
#: Minimum increase of the share of flat blocks by the inversion: at most 0.08 in noisy photographs.
MIN_EXPLAINED_INCREASE = 0.15
#: Doubts of lines that are fitted again with dark blocks at one brightness; None: no doubt.
DARK_REFIT_REASONS = (None, UnreliableReason.OFF_VARIANCE_MODEL)
#: Minimum increase by one brightness of dark blocks, for a line not doubted: 0.12 to 0.22 in spots.
MIN_DARK_INCREASE = 0.1
#: Fewest pixels of a plane where neighbours tell the strength of noise: in one of 32 x 32, least
#: squares explain half of the variance by chance (docs/constants.md).
MIN_PLANE_PIXELS = 100 * 100
#: Fewest pixels of a plane whose measured correlation is sure: of 128 crops with white noise, nine
#: of 160 x 160 and two of 192 x 192 seemed correlated, none of 224 x 224 and one of 256 x 256.
MIN_SURE_PIXELS = 200 * 200
#: From this ratio of the prediction residual to that of correlated noise on, what correlates is
#: texture: at most 1.9 in correlated noise but for one image of 2.5, at least 3.5 in texture.
MIN_TEXTURE_RESIDUAL_RATIO = 2.0
#: Least prediction residual, as a share of the variance, from which on the correlation was texture:
#: 0.07 in the image of correlated noise with a ratio of 2.5, 0.56 in texture (docs/constants.md).
MIN_TEXTURE_RESIDUAL_FRACTION = 0.3
#: Ratio of the prediction residual to that of white noise below which noise measured as white is
#: correlated: at least 0.92 in white noise, at most 0.73 in correlated noise (docs/constants.md).
MIN_WHITE_RESIDUAL_RATIO = 0.78
#: Share of the variance that neighbours do not predict from which on noise is white: at least 0.78
#: in 431 of 482 crops with white noise, in 1 of 720 with noise that they share (docs/constants.md).
MIN_WHITE_SHARE = 0.78
#: Least share of white noise that neighbours do not predict: 0.78 or more in 260 crops whose noise
#: was measured as white and is, at most 0.56 in 148 of 150 whose noise was, and is not.
MIN_DOUBTFUL_SHARE = 0.6
#: Fewest pixels of a plane for a share below chance: white noise has 0.3 to 0.5 in 16 x 16 pixels.
MIN_SHARE_PIXELS = 48 * 48


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseEstimate:
    """Noise of one channel, in the units of the measured planes.

    Attributes
    ----------
    gain, intercept : float
        The variance at signal m is `gain * m + intercept`; the gain of an inverted image is
        negative.
    floor : float, > 0
        Lower bound of the variance.
    along_y, along_x : tuple of float
        Autocorrelation at lags 1, 2, ... along each axis.
    relative_deviation : float
        Standard deviation of multiplicative noise (speckle), as a share of the signal.
    unreliable_reason : UnreliableReason or None
        Why the estimate is unreliable, None if it is reliable.
    caution : NoiseCaution or None
        Caution on a reliable estimate; None if there is none.
    gain_error : float
        Standard error of the gain; infinite if the gain is not measured.
    offset, read_noise : float or None
        Signal without light and its standard deviation, from the image's dark pixels. Both are
        upper bounds if background light falls there. None if the image has no dark plateau and
        nothing was entered.
    offset_error, read_noise_error : float
        Their standard errors; 0 if they come from dark frames of the detector.
    clipping_limits : (float, float)
        Lowest and highest grey value of a clipped image; infinite if it is not clipped.
    clipping_weights : (float, float)
        Weight, 0 to 1, of the clipping correction at each limit.
    """

    gain: float
    intercept: float
    floor: float
    along_y: tuple[float, ...] = WHITE_CORRELATION
    along_x: tuple[float, ...] = WHITE_CORRELATION
    relative_deviation: float = 0.0
    unreliable_reason: UnreliableReason | None = None
    gain_error: float = 0.0
    offset: float | None = None
    read_noise: float | None = None
    clipping_limits: tuple[float, float] = NO_CLIPPING
    clipping_weights: tuple[float, float] = (1.0, 1.0)
    offset_error: float = 0.0
    read_noise_error: float = 0.0
    caution: NoiseCaution | None = None

    @property
    def has_bounded_tails(self) -> bool:
        """Whether noise that is known, without heavy tails, is never far from its mean."""
        doubts = (NoiseCaution.HEAVY_TAILS, NoiseCaution.OFF_VARIANCE_MODEL, NoiseCaution.CHOSEN)
        return self.unreliable_reason is None and self.caution not in doubts

    @property
    def may_be_off_model(self) -> bool:
        """Whether there is noise whose strength at some brightness is not the measured one."""
        return self.unreliable_reason in (
            UnreliableReason.OFF_VARIANCE_MODEL,
            UnreliableReason.HEAVY_TAILS,
            UnreliableReason.SMOOTHED,
        )

    @property
    def is_before_compression(self) -> bool:
        """Whether it is the noise before JPEG compression, of which the pixels hold less."""
        return self.caution is NoiseCaution.COMPRESSED

    @property
    def counts_photons(self) -> bool:
        """Whether each grey value is a number of photons, so that the noise is known exactly."""
        return self.caution is NoiseCaution.PHOTON_COUNTS

    def compute_variance(self, means: Tensor) -> Tensor:
        """Return the variance at these brightnesses, without multiplicative noise."""
        return predict_variance(means, self.gain, self.intercept).clamp(min=self.floor)

    def compute_clipping_ratio(self, means: Tensor) -> Tensor:
        """Return the variance after clipping, in units of that before, at mean measurements."""
        line = self.gain, self.intercept, max(self.floor, 1e-30)
        return compute_variance_left(means, line, self.clipping_limits)

    def scale(self, factor: float) -> NoiseEstimate:
        """Return noise with a multiple of the variance; multiplicative noise stays as it is."""
        return replace(
            self,
            gain=factor * self.gain,
            intercept=factor * self.intercept,
            floor=factor * self.floor,
            gain_error=factor * self.gain_error,
        )

    def mirror(self) -> NoiseEstimate:
        """Return the noise of the image times -1, whose level without light is not known.

        What is left of a count of photons is noise like any other.
        """
        low, high = self.clipping_limits
        return replace(
            self,
            gain=-self.gain,
            offset=None,
            read_noise=None,
            caution=None if self.counts_photons else self.caution,
            offset_error=0.0,
            read_noise_error=0.0,
            clipping_limits=(-high, -low),
            clipping_weights=self.clipping_weights[::-1],
        )

    def scale_to_white(self, fraction: float) -> NoiseEstimate:
        """Return white noise with a share of the variance."""
        uncorrelated = (0.0,) * len(self.along_y)
        return replace(self.scale(fraction), along_y=uncorrelated, along_x=uncorrelated)

    def extract_white_part(self) -> NoiseEstimate:
        """Return the white part of the noise, as the nugget of a variogram.

        Covariances at lags 1 and 2 are extrapolated linearly to lag 0. What the variance has beyond
        that is white noise; the rest is assumed to be image structure.

        References
        ----------
        Matheron, Principles of geostatistics, Economic Geology 58, 1963,
        doi:10.2113/gsecongeo.58.8.1246.
        """
        axes = (self.along_y, self.along_x)
        correlated_fraction = max(2 * lag_1 - lag_2 for lag_1, lag_2, *_ in axes)
        return self.scale_to_white(min(max(1 - correlated_fraction, MIN_WHITE_FRACTION), 1))


def estimate_noise(
    planes: Tensor, grey_level_step: float, measured_mask: Tensor | None = None
) -> NoiseEstimate:
    """Estimate variance and autocorrelation of the noise.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X), one or more images of one detector; at least 16 pixels a side.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for continuous ones.
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured; None: everywhere.

    Returns
    -------
    NoiseEstimate
        With too few informative blocks, white noise with a standard deviation of
        `FALLBACK_NOISE_FRACTION` of the range.

    References
    ----------
    Foi et al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399 (variance as a line in the
    mean, fitted to smooth parts of one image; clipping).
    """
    planes = planes.to(torch.float64)
    value_range = measure_robust_range(planes)
    min_variance = max(grey_level_step**2 / 12, (1e-4 * value_range) ** 2)
    clipping_limits = limits = find_clipping_limits(planes)
    spectra = compute_block_spectra(planes, measured_mask, limits)
    all_spectra = spectra if limits == NO_CLIPPING else None
    photon_gain = find_photon_gain(planes, measured_mask, all_spectra)
    if photon_gain is not None:
        return _make_count_estimate(photon_gain, clipping_limits[1])
    reason: UnreliableReason | None = None
    restored = None
    if limits != NO_CLIPPING and spectra.informative_fraction < MAX_CLIPPED_INFORMATIVE_FRACTION:
        restored = restore_clipped_spectra(planes, measured_mask, limits, min_variance)
        if restored is None and len(spectra.means) < MIN_NOISE_BLOCKS:
            # clipped blocks are better than none
            reason, limits = UnreliableReason.CLIPPED, NO_CLIPPING
            spectra = compute_block_spectra(planes, measured_mask, limits)
    if restored is None and len(spectra.means) < MIN_NOISE_BLOCKS:
        variance = max((FALLBACK_NOISE_FRACTION * value_range) ** 2, min_variance)
        reason = reason or UnreliableReason.TOO_FEW_BLOCKS
        return _estimate_between_holes(planes, measured_mask, grey_level_step) or NoiseEstimate(
            gain=0.0, intercept=variance, floor=variance, unreliable_reason=reason, gain_error=inf
        )
    if len(planes.unique()) < MIN_GREY_VALUES:
        reason = UnreliableReason.COARSE_GREY_VALUES
    sample = NoiseSample(planes, measured_mask, limits, grey_level_step, min_variance)
    if restored is None:
        noise_fit = _fit_noise_sample(sample, spectra, reason)
    else:
        sample, noise_fit = _fit_clipped_sample(sample, spectra, restored, reason)
    if (inverted := _estimate_inverted(sample, noise_fit)) is not None:
        return replace(inverted, clipping_limits=clipping_limits)
    if noise_fit.reason in DARK_REFIT_REASONS or noise_fit.variance_model.floor:
        noise_fit = _refit_with_dark_offset(sample, noise_fit, value_range)
    return _make_estimate(sample._replace(clipping_limits=clipping_limits), noise_fit)


class _NoiseFit(NamedTuple):
    """Noise model fitted to blocks, and reasons to doubt the fit."""

    spectra: BlockSpectra
    variance_model: VarianceModel
    correlation: NoiseCorrelation
    reason: UnreliableReason | None
    uses_dark_offset: bool = False  # whether `merge_dark_blocks` changed doubtful blocks


def _fit_noise_sample(
    sample: NoiseSample, spectra: BlockSpectra, reason: UnreliableReason | None = None
) -> _NoiseFit:
    """Fit variance model and correlation, and check them unless there is a reason already."""
    min_variance = sample.min_variance
    white_model = fit_variance_model(spectra, select_finest_bands(), 1.0, min_variance)
    correlation = measure_block_correlation(sample, white_model)
    model = _extend_to_all_bands(white_model, spectra, correlation, min_variance)
    if not correlation.is_correlated:
        power = spectra.power / model.compute_variance(spectra.means, min_variance)[:, None, None]
        model = white_model if measure_finest_level(power) < MIN_FINE_ENERGY else model
    usual = max(model.predict(float(spectra.means.median())), model.floor)
    reason = reason or _find_unreliable_reason(model, correlation, usual, sample.grey_level_step)
    if not reason:
        floor = _compute_variance_floor(spectra, model, min_variance)
        reason = find_contradiction(spectra, model, correlation, floor)
    if reason in TEXTURE_REASONS:
        # what is correlated is texture; white noise is no stronger than the finest frequencies
        model, correlation = white_model, WHITE_NOISE
    return _NoiseFit(spectra, model, correlation, reason)


def _fit_clipped_sample(
    sample: NoiseSample,
    spectra: BlockSpectra,
    restored: BlockSpectra,
    reason: UnreliableReason | None,
) -> tuple[NoiseSample, _NoiseFit]:
    """Fit the blocks as they were before clipping, or those without clipped pixels.

    Restored blocks at the edges of saturated structure may look like correlated noise.
    """
    unclipped = sample._replace(clipping_limits=NO_CLIPPING)
    noise_fit = _fit_noise_sample(unclipped, restored, reason)
    if noise_fit.reason and len(spectra.means) >= MIN_NOISE_BLOCKS:
        whole_fit = _fit_noise_sample(sample, spectra, reason)
        if not whole_fit.reason:
            return sample, whole_fit
    return unclipped, noise_fit


def _compute_variance_floor(
    spectra: BlockSpectra, model: VarianceModel, min_variance: float
) -> float:
    """Return the lower bound of the variance: half of that in the darkest blocks, or more."""
    dark_variance = model.predict(float(spectra.means.quantile(0.02)))
    return max(0.5 * dark_variance, min_variance, model.floor)


def _estimate_inverted(sample: NoiseSample, original: _NoiseFit) -> NoiseEstimate | None:
    """Return the noise of an inverted image, which falls with brightness; None for others.

    Two of three must hold: the inverted model explains many more blocks, its estimate is reliable,
    the original one is not.
    """
    spectra, model, min_variance = original.spectra, original.variance_model, sample.min_variance
    # where most blocks are clipped, variance falls towards the limits by clipping
    may_fall = not model.gain and original.reason is not UnreliableReason.CLIPPED
    inverted_model = fit_inverted_model(spectra, min_variance) if may_fall else None
    if inverted_model is None:
        return None
    explains_more = inverted_model.floor > 0 or inverted_model.flat_fraction >= max(
        MIN_INVERTED_EXPLAINED_FRACTION, model.flat_fraction + MIN_EXPLAINED_INCREASE
    )
    if not (explains_more or original.reason):
        return None
    inverted = estimate_noise(-sample.planes, sample.grey_level_step, sample.measured_mask)
    is_accepted = not inverted.unreliable_reason or (explains_more and original.reason is not None)
    return inverted.mirror() if is_accepted else None


def _refit_with_dark_offset(
    sample: NoiseSample, original: _NoiseFit, value_range: float
) -> _NoiseFit:
    """Refit with all dark blocks at one brightness, if that explains the bright ones better."""
    spectra = merge_dark_blocks(original.spectra, sample.min_variance)
    is_doubtful = bool(original.reason or original.variance_model.floor)
    if spectra is None:
        return original
    refitted = _fit_noise_sample(sample, spectra)
    model = refitted.variance_model
    increase = model.flat_fraction - original.variance_model.flat_fraction
    is_better = increase >= MIN_DARK_INCREASE and not refitted.reason
    if is_doubtful:
        bright = spectra.means > spectra.means.min()
        variance = model.compute_variance(spectra.means[bright], sample.min_variance)[:, None, None]
        is_better = increase > 0 and not is_textured(spectra.power[bright] / variance)
    # a gain is the grey values of one photon, and bright pixels hold several
    if not is_better or MIN_BRIGHT_PHOTONS * model.gain > value_range:
        return original
    if is_doubtful:
        return refitted._replace(uses_dark_offset=True)
    model = model._replace(floor=max(model.floor, model.predict(float(spectra.means.min()))))
    return refitted._replace(variance_model=model, spectra=original.spectra)


def _make_estimate(sample: NoiseSample, noise_fit: _NoiseFit) -> NoiseEstimate:
    """Return the estimate; if it is reliable, with a caution and the detector's dark level."""
    spectra, model, correlation, reason, uses_dark_offset = noise_fit
    floor = _compute_variance_floor(spectra, model, sample.min_variance)
    dark_level, caution = None, None
    if not reason:
        caution = find_caution(spectra, model, correlation, sample, floor)
        is_off_model = caution is NoiseCaution.OFF_VARIANCE_MODEL
        if is_off_model and uses_dark_offset:
            reason, caution = UnreliableReason.OFF_VARIANCE_MODEL, None
        if not is_off_model and not isfinite(sample.clipping_limits[0]):
            least = max(sample.min_variance, model.floor)
            dark_level = find_dark_plateau(spectra.means, model.gain, model.intercept, least)
    return NoiseEstimate(
        gain=model.gain,
        intercept=model.intercept,
        floor=floor,
        along_y=correlation.along_y,
        along_x=correlation.along_x,
        unreliable_reason=reason,
        gain_error=model.gain_error,
        clipping_limits=sample.clipping_limits,
        caution=caution,
        **({} if dark_level is None else dark_level._asdict()),
    )


def _estimate_between_holes(
    planes: Tensor, measured_mask: Tensor | None, grey_level_step: float
) -> NoiseEstimate | None:
    """Estimate the noise of pixels between scattered holes; None if that is not possible."""
    packed = None if measured_mask is None else pack_measured_pixels(planes, measured_mask)
    estimate = None if packed is None else estimate_noise(packed, grey_level_step)
    if estimate is None or estimate.unreliable_reason is UnreliableReason.TOO_FEW_BLOCKS:
        return None
    is_coarse = estimate.unreliable_reason is UnreliableReason.COARSE_GREY_VALUES
    reason = estimate.unreliable_reason if is_coarse else UnreliableReason.SCATTERED_HOLES
    # white, since neighbours are others than in the image
    return replace(estimate.scale_to_white(1.0), unreliable_reason=reason, caution=None)


def _make_count_estimate(gain: float, upper_limit: float) -> NoiseEstimate:
    """Return the noise of counted photons: no count is cut off at black."""
    return NoiseEstimate(
        gain=gain,
        intercept=0.0,
        floor=(DARK_COUNT_STD * gain) ** 2,
        offset=0.0,
        read_noise=0.0,
        clipping_limits=(NO_CLIPPING[0], upper_limit),
        caution=NoiseCaution.PHOTON_COUNTS,
    )


def _extend_to_all_bands(
    model: VarianceModel, spectra: BlockSpectra, correlation: NoiseCorrelation, min_variance: float
) -> VarianceModel:
    """Return the variance model of all frequencies, given that of the finest ones."""
    lag_1 = max(correlation.min_along_y[0], correlation.min_along_x[0])
    span = MIN_LAG_1_CORRELATION - MAX_DOUBTFUL_CORRELATION
    confidence = min(1.0, max(0.0, (lag_1 - MAX_DOUBTFUL_CORRELATION) / span))
    fractions = compute_band_power(
        *(
            [confidence * value for value in along]
            for along in (correlation.min_along_y, correlation.min_along_x)
        )
    )
    fraction = float(fractions[select_finest_bands()].mean())
    if fraction >= MIN_FINE_POWER_FRACTION:
        return model._replace(
            gain=model.gain / fraction,
            intercept=model.intercept / fraction,
            gain_error=model.gain_error / fraction,
            floor=model.floor / fraction,
        )
    y, x = make_frequency_grids()
    order = torch.where((fractions >= MIN_BAND_POWER_FRACTION) & (y + x >= 3), y + x, 0).flatten()
    bands = torch.zeros(DCT_SIDE**2, dtype=torch.bool)
    bands[order.argsort(descending=True, stable=True)[:FALLBACK_BANDS]] = True
    bands = bands.reshape(DCT_SIDE, DCT_SIDE) & (y + x >= 3)
    return fit_variance_model(spectra, bands, float(fractions[bands].mean()), min_variance)


def _find_unreliable_reason(
    model: VarianceModel, correlation: NoiseCorrelation, usual: float, grey_level_step: float
) -> UnreliableReason | None:
    """Return why the estimate, of this usual variance, is unreliable, or None."""
    if grey_level_step and usual < (MIN_NOISE_STEPS * grey_level_step) ** 2:
        return UnreliableReason.COARSE_GREY_VALUES
    if model.flat_fraction < MIN_FLAT_FRACTION_FOR_ESTIMATE:
        return UnreliableReason.TEXTURE
    return None if correlation.is_reliable else UnreliableReason.AMBIGUOUS_CORRELATION


def compute_blind_spot_size(
    estimates: list[NoiseEstimate], grid: tuple[int, int]
) -> tuple[int, int]:
    """Return the size along Y and X of blind spots, wide enough for the noise correlation.

    Parameters
    ----------
    estimates : list of NoiseEstimate
        One for each channel; the longest correlation determines the size.
    grid : tuple of int
        Size of the image, which limits that of the blind spot.
    """
    radius_y = max(compute_blind_spot_radius(estimate.along_y) for estimate in estimates)
    radius_x = max(compute_blind_spot_radius(estimate.along_x) for estimate in estimates)
    max_radius_y, max_radius_x = (
        max(0, (side // MIN_BLIND_SPOTS_PER_SIDE - 1) // 2) for side in grid
    )
    return 2 * min(radius_y, max_radius_y) + 1, 2 * min(radius_x, max_radius_x) + 1


def correct_by_prediction(
    noise_estimate: NoiseEstimate,
    plane: Tensor,
    grey_level_step: float,
    *,
    is_halved: bool = False,
    replaced_fraction: float = 0.0,
) -> NoiseEstimate:
    """Check a noise estimate by how well neighbours predict each pixel, and correct it.

    Correlated noise of neighbours is predictable in part. If flat pixels are not, fine texture was
    measured as noise. The result is then white and weaker; with much texture it is unreliable.

    Parameters
    ----------
    noise_estimate, plane
        Measured on this plane (Y, X), which has no missing pixels.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for continuous ones.
    is_halved, replaced_fraction
        Whether it is an enlarged plane at half its size, where neighbours do share noise; fraction
        of its pixels that random neighbours replace.
    """
    is_large = plane.numel() >= MIN_PLANE_PIXELS
    levels, remaining, share = measure_prediction_residual(plane, replaced_fraction)
    clipping_ratio = noise_estimate.compute_clipping_ratio(levels)
    measured_variance = noise_estimate.compute_variance(levels) * clipping_ratio
    fraction = float((remaining / measured_variance).median())
    white = compute_residual_fraction((), ())
    is_strong = fraction < MIN_WHITE_RESIDUAL_RATIO * white
    reason, ambiguous = noise_estimate.unreliable_reason, UnreliableReason.AMBIGUOUS_CORRELATION
    whiter = replace(
        noise_estimate.scale_to_white(min(fraction / white, 1.0)),
        unreliable_reason=UnreliableReason.TEXTURE if is_strong else None,
        caution=noise_estimate.caution or NoiseCaution.MOSTLY_TEXTURED,
    )
    if compute_blind_spot_size([noise_estimate], (plane.shape[0], plane.shape[1])) == (1, 1):
        if reason == ambiguous and share >= MIN_WHITE_SHARE and not is_halved:
            return whiter
        is_predicted = share < MIN_DOUBTFUL_SHARE and plane.numel() >= MIN_SHARE_PIXELS
        if not reason and ((is_large and is_strong) or is_predicted):
            return replace(noise_estimate, unreliable_reason=ambiguous)
        return noise_estimate
    if float(measured_variance.mean()) <= grey_level_step**2:  # noise within a grey value
        return noise_estimate
    axes = noise_estimate.along_y, noise_estimate.along_x
    expected = compute_residual_fraction(*map(subtract_image_correlation, axes))
    min_texture = max(MIN_TEXTURE_RESIDUAL_FRACTION, MIN_TEXTURE_RESIDUAL_RATIO * expected)
    if is_large and fraction >= min_texture:
        return replace(whiter, unreliable_reason=UnreliableReason.TEXTURE)
    is_sure = is_halved or plane.numel() >= MIN_SURE_PIXELS or share < MIN_DOUBTFUL_SHARE
    if is_sure or reason:
        return noise_estimate
    return whiter if share >= MIN_WHITE_SHARE else replace(whiter, unreliable_reason=ambiguous)
