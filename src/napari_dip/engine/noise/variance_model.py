"""Fit noise variance over brightness, separate offset and read noise, and measure speckle.

The energy of a block's finest frequencies is modelled as the noise variance, with a chi-square
distribution, times one plus texture. The distribution of texture over all blocks is fitted as a
mixture, so that no blocks have to be selected as flat.

Where a detector counts photons, the noise is known exactly: all grey values are multiples of one
photon's value, and the variance is the mean times that value at each brightness. Blocks cannot
measure this where most of them hold only a few photons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.constants import MAD_TO_STD
from napari_dip.engine.noise import predict_variance
from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    NO_CLIPPING,
    BlockSpectra,
    LevelSpectra,
    compute_block_spectra,
    find_dark_plateau,
    make_frequency_grids,
    select_finest_bands,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Grid of texture energies, in units of the noise variance.
TEXTURE_ENERGIES = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2048.0)
#: Number of the least `TEXTURE_ENERGIES` whose blocks are used for the variance model.
_NEGLIGIBLE_TEXTURES = 2
#: Minimum gain, in standard errors, that is not set to 0: at least 13 in 36 micrographs, below 2 in
#: 61 of 78 channels with constant noise (docs/constants.md).
MIN_SLOPE_ERRORS = 2.0
#: Iterations of expectation maximisation; the model converges in 40 to 60.
EM_ITERATIONS = 80
#: Share of blocks without texture from which on a line is not doubted: at most 0.04 where it was
#: held low by dark blocks, 0.21 and more in EMCCD noise (docs/constants.md).
MAX_DOUBTFUL_FLAT_FRACTION = 0.1
#: Least share of blocks without texture for a steeper line: at least 0.76 where it is correct, at
#: most 0.61 in photographs without noise (docs/constants.md).
MIN_STEEPER_FLAT_FRACTION = 0.7
#: Least share of blocks without texture for a steeper line without an error of brightness: 0.61 in
#: the scene of the noise matrix that needs it, at most 0.33 in seven photographs without noise.
MIN_EXACT_FLAT_FRACTION = 0.5
#: Shares of the blocks, the brightest, in which a line is doubted and a steeper one looked for, if
#: all blocks give none.
BRIGHT_FRACTIONS = (0.5, 0.25, 0.125)
#: Maximum variance in the dark by the line of bright blocks, in units of what was measured there: a
#: negative one in scenes on black, 18 or more where saturated or textured blocks gave the line.
MAX_DARK_RATIO = 2.0
#: Error of brightness that is allowed for a steeper line, in standard deviations of the means of
#: the darker half of the blocks: with 0.25, JPEG still holds the line low (docs/constants.md).
BRIGHTNESS_ERROR_FRACTION = 0.5
#: Minimum growth of the variance towards the dark for a fit to the inverted image: at least 2.7 in
#: 24 of 26 inverted micrographs, 1.5 in another, whose constant model was unreliable.
MIN_INVERTED_GROWTH = 1.5
#: Minimum slope of an inverted image's variance, in standard errors: at least 24 in these 24
#: micrographs, 7.3 in that other one.
MIN_INVERTED_SLOPE_ERRORS = 6.0
#: Minimum share of blocks without texture in an inverted image: at least 0.35 in 26 micrographs.
MIN_INVERTED_FLAT_FRACTION = 0.3
#: Number of brightness classes of the variance model.
VARIANCE_BRIGHTNESS_CLASSES = 8
#: Quantiles of coarse structure that divide each brightness class; every part has a texture
#: distribution of its own.
STRUCTURE_QUANTILES = (0.25, 0.5, 1.0)
#: Fewest blocks in a brightness class of the variance model.
MIN_CLASS_BLOCKS = 24
#: Pseudocount in blocks of the texture distribution over all brightnesses.
_SHARED_PSEUDOCOUNT = 8.0
#: Pseudocount in blocks of no texture.
_FLAT_PSEUDOCOUNT = 2.0
#: Share of the blocks, the darkest, whose noise is that of the dark plateau.
_DARK_FRACTION = 0.03
#: Distance from the dark plateau, in standard errors, up to which a block belongs to it.
_PLATEAU_ERRORS = 4.0
#: Minimum scatter of the finest energies around the level of the noise at each place, in units of
#: that around the variance at their brightness, for noise that follows brightness: 1.16 to 3.1 in
#: 19 stacks of small spots, at most 1.05 in 36 of 37 crops and movies whose noise differs by place.
MIN_SCATTER_RATIO = 1.1

#: Fewest grey values of an image of counted photons: with two, a mask would do.
MIN_COUNT_VALUES = 3
#: Greatest distance of a grey value from a multiple of the photon's, in photons. Rounding to
#: float32 moves 100 photons by less than 0.001.
MAX_COUNT_ERROR = 0.01
#: Greatest mean number of photons per pixel. Beyond, grey values of any image lie as densely.
MAX_MEAN_COUNT = 30.0
#: Number of brightness classes of an image of counted photons.
COUNT_CLASSES = 4
#: Limits in the darkest class of the variance at the finest frequencies, in photons for one photon
#: of the mean: 0.93 to 1.37 with up to 10 photons at white on 299 channels, 1.32 on a grainy real
#: stack, and no image without noise of that collection lies within (docs/constants.md).
DISPERSION_LIMITS = (0.85, 1.5)
#: Upper limit in the other classes, which hold texture: 1.71 on a real stack with 30 photons at
#: white (docs/constants.md).
MAX_BRIGHT_DISPERSION = 1.8
#: Share of the blocks, those with least coarse structure, whose noise must be white where photons
#: are counted.
CALM_COUNT_FRACTION = 0.1
#: Maximum ratio there of the energy of coarse frequencies to that of the finest: at most 0.92 in
#: 417 images of counted photons, at least 5.4 in crops of FMD widefield with a gain near 1.
MAX_COUNT_STEEPNESS = 2.0
#: Number of pixels, expected to be darker than the darkest, above which grey values are no counts:
#: they begin at an offset. 154 to 2,200 in dark crops of FMD Confocal_BPAE_B (docs/constants.md).
MAX_MISSING_DARK_PIXELS = 30.0
#: Fewest blocks in a brightness class of an image of counted photons.
MIN_COUNT_BLOCKS = 8
#: Values that are examined, spread over the image.
MAX_EXAMINED_VALUES = 1_000_000


class VarianceModel(NamedTuple):
    """Noise variance `gain * m + intercept` at signal m.

    Attributes
    ----------
    gain, intercept : float
    gain_error : float
        Standard error of the gain, from the blocks without texture.
    flat_fraction : float
        Share of the blocks without texture.
    floor : float
        Lower bound of the variance; above 0 where the line holds for bright blocks alone.
    """

    gain: float
    intercept: float
    gain_error: float
    flat_fraction: float
    floor: float = 0.0

    def predict(self, mean: float) -> float:
        """Return the variance at one brightness."""
        return predict_variance(mean, self.gain, self.intercept)

    def compute_variance(self, means: Tensor, min_variance: float) -> Tensor:
        """Return the variance at these brightnesses, at least `min_variance`."""
        line = predict_variance(means, self.gain, self.intercept)
        return line.clamp(min=max(min_variance, self.floor))


def fit_variance_model(
    blocks: BlockSpectra, bands: Tensor, fraction: float, min_variance: float
) -> VarianceModel:
    """Fit the variance model by expectation maximisation.

    Parameters
    ----------
    blocks : BlockSpectra
    bands : Tensor
        (DCT_SIDE, DCT_SIDE) bool, coefficients to use.
    fraction : float
        Mean power of the noise in them, in units of its variance.
    min_variance : float
        Lower bound of the variance.

    References
    ----------
    Dempster, Laird, Rubin, J. R. Stat. Soc. B 39(1), 1977 (expectation and maximisation); Foi et
    al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399 (variance as a line in the mean).
    """
    whole, coarse = _sample_blocks(blocks, bands, fraction, min_variance)
    sample, step, floor = _fit_mixture(whole, coarse)
    means, gain, intercept = sample.means, step.gain, step.intercept
    # the error comes from the likelihood of blocks without texture
    expected = predict_variance(means, gain, intercept).clamp(min=min_variance)
    weight = blocks.independent_fraction * step.posterior[:, 0] * step.half_freedom / expected**2
    gain_error = _compute_slope_error(means, weight)
    flat_fraction = step.flat_fraction * len(means) / len(blocks.means)  # the others tell nothing
    if gain >= MIN_SLOPE_ERRORS * gain_error:
        return VarianceModel(gain, intercept, gain_error, flat_fraction, floor)
    # a slope from few blocks of one brightness must not be extrapolated
    mean_noise = float((step.flat_probability * step.noise).sum() / step.flat_probability.sum())
    return VarianceModel(0.0, max(mean_noise, min_variance), gain_error, flat_fraction)


def fit_inverted_model(blocks: BlockSpectra, min_variance: float) -> VarianceModel | None:
    """Fit the variance model of the inverted image, in which bright blocks are dark.

    Parameters
    ----------
    blocks : BlockSpectra
        Of the image as it is.
    min_variance : float
        Lower bound of the variance.

    Returns
    -------
    VarianceModel or None
        None if the variance clearly does not grow towards the dark.
    """
    mirrored, bands = blocks._replace(means=-blocks.means), select_finest_bands()
    sample, _ = _sample_blocks(mirrored, bands, 1.0, min_variance)
    brightest = float(sample.means.quantile(0.998))
    growths = (
        predict_variance(brightest, *line)
        / max(predict_variance(sample.darkest, *line), min_variance)
        for line in _estimate_initial_lines(sample)
    )
    if max(growths) < MIN_INVERTED_GROWTH:  # a second fit would take 0.13 s
        return None
    model = fit_variance_model(mirrored, bands, 1.0, min_variance)
    is_certain = model.gain >= MIN_INVERTED_SLOPE_ERRORS * model.gain_error
    is_clear = model.floor > 0 or model.flat_fraction >= MIN_INVERTED_FLAT_FRACTION
    return model if is_certain and is_clear else None


def _sample_blocks(
    blocks: BlockSpectra, bands: Tensor, fraction: float, min_variance: float
) -> tuple[_EnergySample, Tensor]:
    """Return energies in some bands, as `fit_variance_model` takes them, and coarse structure."""
    energy = (blocks.power[:, bands].mean(1) / fraction).clamp(min=min_variance)
    y, x = make_frequency_grids()
    coarse = blocks.power[:, (y + x >= 1) & (y + x <= 3)].mean(1)
    return _make_sample(blocks.means, energy, coarse, float(bands.sum()), min_variance), coarse


class _EnergySample(NamedTuple):
    """Energies (K,) of blocks, their brightness and classes, and what limits the variance."""

    means: Tensor
    energy: Tensor
    classes: Tensor
    class_count: int
    freedom: float
    darkest: float
    min_variance: float
    brightness_error: float = 0.0  # of a block's mean, by an uneven offset for example


class _EnergyMixture(NamedTuple):
    """One step of expectation maximisation: the new line, and what the old one made of blocks."""

    gain: float
    intercept: float
    mixture_weights: Tensor  # (classes, textures)
    posterior: Tensor  # (K, textures)
    flat_probability: Tensor  # (K,)
    noise: Tensor  # (K,), energy less texture
    half_freedom: Tensor  # (K,), half the degrees of freedom

    def predict(self, mean: float) -> float:
        """Return the variance of the line at one brightness."""
        return predict_variance(mean, self.gain, self.intercept)

    @property
    def flat_fraction(self) -> float:
        """Share of the blocks without texture."""
        return float(self.posterior[:, 0].mean())


def _make_sample(
    means: Tensor, energy: Tensor, coarse: Tensor, freedom: float, min_variance: float
) -> _EnergySample:
    """Classify blocks of these means and energies by brightness and coarse structure."""
    count = max(1, min(VARIANCE_BRIGHTNESS_CLASSES, len(means) // MIN_CLASS_BLOCKS))
    classes = _classify_blocks(means, coarse, count)
    darkest = float(means.quantile(0.002))
    return _EnergySample(means, energy, classes, count, freedom, darkest, min_variance)


def _fit_mixture(
    whole: _EnergySample, coarse: Tensor
) -> tuple[_EnergySample, _EnergyMixture, float]:
    """Fit the variance model and the mixture of textures by expectation maximisation.

    Dark blocks without noise can hold the line so low that all others seem textured: little light
    falls there, their offset is uneven, or JPEG took their noise. A steeper line is then looked for
    in all blocks, and in the brightest ones.

    Returns
    -------
    sample : _EnergySample
        The blocks that the line is fitted to.
    mixture : _EnergyMixture
    floor : float
        Variance of the other blocks; 0 if there are none.
    """
    first_line, steeper_line = _estimate_initial_lines(whole)
    first = _maximise_repeatedly(whole, *first_line)
    is_doubtful = first.flat_fraction < MAX_DOUBTFUL_FLAT_FRACTION
    if is_doubtful and len(whole.means) >= MIN_CLASS_BLOCKS:
        if (steeper := _fit_steeper_line(whole)) is not None:
            return whole, steeper, 0.0
        # few bright blocks seem textured if brightness is allowed an error
        exact = _maximise_repeatedly(whole, *steeper_line)
        if exact.flat_fraction >= MIN_EXACT_FLAT_FRACTION:
            return whole, exact, 0.0
    floor = max(first.predict(whole.darkest), whole.min_variance)
    for fraction in BRIGHT_FRACTIONS:
        is_bright = whole.means >= whole.means.quantile(1 - fraction)
        is_doubtful = float(first.posterior[is_bright, 0].mean()) < MAX_DOUBTFUL_FLAT_FRACTION
        if not is_doubtful or int(is_bright.sum()) < MIN_CLASS_BLOCKS:
            continue
        means, energy, structure = (v[is_bright] for v in (whole.means, whole.energy, coarse))
        sample = _make_sample(means, energy, structure, whole.freedom, whole.min_variance)
        steeper = _fit_steeper_line(sample)
        if steeper is not None and steeper.predict(whole.darkest) <= MAX_DARK_RATIO * floor:
            return sample, steeper, floor
    return whole, first, 0.0


def _fit_steeper_line(sample: _EnergySample) -> _EnergyMixture | None:
    """Fit a line that follows dark blocks less; None if most blocks seem textured by it.

    Brightness is allowed an error, by which dark blocks weigh less.
    """
    dark_means = sample.means[sample.means <= sample.means.median()]
    spread = MAD_TO_STD * float((dark_means - dark_means.median()).abs().median())
    tolerant_sample = sample._replace(brightness_error=BRIGHTNESS_ERROR_FRACTION * spread)
    _, steeper_line = _estimate_initial_lines(sample)
    steeper = _maximise_repeatedly(tolerant_sample, *steeper_line)
    return steeper if steeper.flat_fraction >= MIN_STEEPER_FLAT_FRACTION else None


def _maximise_repeatedly(sample: _EnergySample, gain: float, intercept: float) -> _EnergyMixture:
    """Take all steps of expectation maximisation."""
    texture_count = len(TEXTURE_ENERGIES)
    mixture_weights = torch.full(
        (sample.class_count * len(STRUCTURE_QUANTILES), texture_count), 0.5 / (texture_count - 1)
    ).to(sample.means)
    mixture_weights[:, 0] = 0.5
    for _ in range(EM_ITERATIONS):
        step = _maximise(sample, gain, intercept, mixture_weights)
        gain, intercept, mixture_weights = step[:3]
    return step


def _maximise(
    sample: _EnergySample, gain: float, intercept: float, mixture_weights: Tensor
) -> _EnergyMixture:
    """Take one step of expectation maximisation."""
    means, energy, min_variance = sample.means, sample.energy, sample.min_variance
    texture = 1 + torch.tensor(TEXTURE_ENERGIES, dtype=means.dtype)
    expected = predict_variance(means, gain, intercept).clamp(min=min_variance)
    # a block's energy varies more with few photons than in Gaussian noise: by their fourth
    # cumulant, which is the squared gain times their share of the variance
    dark_variance = max(predict_variance(sample.darkest, gain, intercept), min_variance)
    photon_fraction = 1 - (dark_variance / expected).clamp(max=1)
    excess_variance = gain**2 * photon_fraction / (DCT_SIDE**2 * expected)
    excess_variance = excess_variance + (gain * sample.brightness_error / expected) ** 2
    half_freedom = 1 / (2 / sample.freedom + excess_variance)
    log_density = (
        _compute_log_density(energy, half_freedom, expected[:, None] * texture)
        + mixture_weights[sample.classes].log()
    )
    posterior = torch.softmax(log_density, 1)  # (K, textures)
    flat_posterior = posterior[:, :_NEGLIGIBLE_TEXTURES]
    flat_probability = flat_posterior.sum(1).clamp(min=1e-9)
    noise = (flat_posterior * energy[:, None] / texture[:_NEGLIGIBLE_TEXTURES]).sum(1)
    noise = noise / flat_probability
    weight = flat_probability * half_freedom / expected**2
    gain, intercept = _fit_weighted_line(means, noise, weight, sample.darkest, min_variance)
    return _EnergyMixture(
        gain,
        intercept,
        _estimate_mixture_weights(posterior, sample.classes, sample.class_count),
        posterior,
        flat_probability,
        noise,
        half_freedom,
    )


def _compute_log_density(energy: Tensor, half_freedom: Tensor, scale: Tensor) -> Tensor:
    """Return the log density of energies (K,) at scales (K, textures), up to a common constant."""
    ratio = energy[:, None] / scale
    return half_freedom[:, None] * (ratio.log() - ratio)


def _classify_blocks(means: Tensor, coarse: Tensor, count: int) -> Tensor:
    """Return the class of each block, by brightness and then by coarse structure."""
    classes = torch.zeros(len(means), dtype=torch.long, device=means.device)
    for brightness_class, indices in enumerate(means.argsort(stable=True).tensor_split(count)):
        ordered = indices[coarse[indices].argsort(stable=True)]
        start = 0
        for level, fraction in enumerate(STRUCTURE_QUANTILES):
            stop = round(fraction * len(ordered))
            classes[ordered[start:stop]] = brightness_class * len(STRUCTURE_QUANTILES) + level
            start = stop
    return classes


def _estimate_mixture_weights(posterior: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return texture frequencies of each class, shrunk to those over all brightnesses."""
    class_counts = torch.zeros(count * len(STRUCTURE_QUANTILES), posterior.shape[1]).to(posterior)
    class_counts.index_add_(0, classes, posterior)
    overall = class_counts.reshape(count, len(STRUCTURE_QUANTILES), -1).sum(0)
    overall = overall / overall.sum(1, keepdim=True).clamp(min=1e-9)
    weights = class_counts + _SHARED_PSEUDOCOUNT * overall.repeat(count, 1) + 1e-3
    weights[:, 0] += _FLAT_PSEUDOCOUNT
    return weights / weights.sum(1, keepdim=True)


def _estimate_initial_lines(sample: _EnergySample) -> tuple[tuple[float, float], ...]:
    """Return initial gains and intercepts from a low quantile of each brightness's flattest part.

    The first line follows the levels by their relative errors, so mainly the darkest; the second
    one all alike.
    """
    masks = [
        sample.classes == brightness_class * len(STRUCTURE_QUANTILES)
        for brightness_class in range(sample.class_count)
    ]
    masks = [mask for mask in masks if bool(mask.any())] or [sample.classes >= 0]
    centres = torch.stack([sample.means[mask].mean() for mask in masks])
    levels = torch.stack([sample.energy[mask].quantile(0.3) for mask in masks])
    limits = sample.darkest, sample.min_variance
    return tuple(
        _fit_weighted_line(centres, levels, weight, *limits)
        for weight in (1 / levels**2, torch.ones_like(levels))
    )


def _fit_weighted_line(
    means: Tensor, levels: Tensor, weight: Tensor, darkest: float, min_variance: float
) -> tuple[float, float]:
    """Fit gain and intercept: gain >= 0, and at least `min_variance` at `darkest`."""
    total = weight.sum()
    centre, level = (weight * means).sum() / total, (weight * levels).sum() / total
    scatter = (weight * (means - centre) ** 2).sum()
    slope = float((weight * (means - centre) * (levels - level)).sum() / scatter.clamp(min=1e-300))
    if slope <= 0 or float(scatter / total) <= 1e-12 * float(centre) ** 2:
        return 0.0, float(level)
    intercept = float(level) - slope * float(centre)
    if predict_variance(darkest, slope, intercept) < min_variance:
        distance = means - darkest
        slope = float(
            (weight * distance * (levels - min_variance)).sum() / (weight * distance**2).sum()
        )
        intercept = min_variance - max(slope, 0.0) * darkest
    return max(slope, 0.0), intercept


def _compute_slope_error(means: Tensor, weight: Tensor) -> float:
    """Return the standard error of a line's slope, for weights of one over the squared error."""
    centre = (weight * means).sum() / weight.sum().clamp(min=1e-300)
    scatter = (weight * (means - centre) ** 2).sum().clamp(min=1e-300)
    return float(scatter**-0.5)


def merge_dark_blocks(blocks: BlockSpectra, min_variance: float) -> BlockSpectra | None:
    """Return the blocks with dark ones set to the plateau's offset.

    None without a dark plateau, and without blocks that are brighter.

    Means of dark blocks differ by noise alone. If the gain is large, a line through the bright
    blocks turns these differences into large differences of variance, so that no line fits both.

    Parameters
    ----------
    blocks : BlockSpectra
    min_variance : float
        Lower bound of the variance.
    """
    darkest = blocks.means.argsort(stable=True)[: max(1, round(_DARK_FRACTION * len(blocks.means)))]
    energy = float(blocks.power[darkest][:, select_finest_bands()].mean(1).median())
    level = find_dark_plateau(blocks.means, 0.0, energy, min_variance)
    if level is None:
        return None
    limit = level.offset + _PLATEAU_ERRORS * level.read_noise / DCT_SIDE
    is_dark = blocks.means < limit
    if bool(is_dark.all()):
        return None
    return blocks._replace(means=torch.where(is_dark, level.offset, blocks.means))


def follows_brightness(spectra: LevelSpectra, compute_variance: Callable[[Tensor], Tensor]) -> bool:
    """Return whether noise follows the brightness of blocks more closely than its level there.

    Then it does not differ from place to place. The level mixes bright spots with the background
    around them. The scatter is the distance of the quartiles of the finest energies, as logarithms
    in units of either variance.

    Parameters
    ----------
    spectra : LevelSpectra
        Of a plane.
    compute_variance : callable
        Variance of the noise at these brightnesses, (K,) each.
    """
    energy = spectra.power[:, select_finest_bands()].mean(1).clamp(min=1e-30)
    quartiles = torch.tensor((0.25, 0.75)).to(energy)
    by_brightness, by_level = (
        float((energy / variance).log().quantile(quartiles).diff())
        for variance in (compute_variance(spectra.brightness), spectra.level_variance)
    )
    return by_level > MIN_SCATTER_RATIO * by_brightness


def find_photon_gain(
    planes: Tensor, measured_mask: Tensor | None, spectra: BlockSpectra | None
) -> float | None:
    """Return the grey values of one photon if the detector counts them, otherwise None.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X), one or more images of one detector.
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured; None: everywhere.
    spectra : BlockSpectra or None
        Of all blocks, clipped ones as well; None: computed if they are needed.
    """
    values = planes.flatten() if measured_mask is None else planes[measured_mask]
    gain = find_photon_step(values)
    if gain is None:
        return None
    spectra = spectra or compute_block_spectra(planes, measured_mask, NO_CLIPPING)
    return gain if is_photon_noise(spectra, gain, float(values.min())) else None


def find_photon_step(values: Tensor) -> float | None:
    """Return the distance of grey values if all are multiples of it, otherwise None.

    Parameters
    ----------
    values : Tensor
        (K,), measured pixels.
    """
    levels = values[:: -(-len(values) // MAX_EXAMINED_VALUES) or 1].unique()
    if len(levels) < MIN_COUNT_VALUES or float(levels[0]) < 0:
        return None
    step = float(levels.diff().min())
    step = float(levels[-1]) / round(float(levels[-1]) / step)  # least rounding error
    counts = levels / step
    return step if float((counts - counts.round()).abs().max()) <= MAX_COUNT_ERROR else None


def is_photon_noise(blocks: BlockSpectra, gain: float, lowest: float) -> bool:
    """Return whether the variance is the mean times the gain, at each brightness.

    The noise must be white, and as many pixels dark as counts of this mean would be.

    Parameters
    ----------
    blocks : BlockSpectra
        Spectra of blocks that are not constant.
    gain : float
        Grey values of one photon.
    lowest : float
        Lowest grey value.
    """
    if len(blocks.means) < COUNT_CLASSES * MIN_COUNT_BLOCKS:
        return False
    if float(blocks.means.mean()) > MAX_MEAN_COUNT * gain:
        return False
    variances = blocks.power[:, select_finest_bands()].mean(1)
    ratios = [
        float(variances[group].sum() / (gain * blocks.means[group].sum()))
        for group in blocks.means.argsort(stable=True).tensor_split(COUNT_CLASSES)
    ]
    low, high = DISPERSION_LIMITS
    is_in_proportion = low <= min(ratios) and ratios[0] <= high
    if not is_in_proportion or max(ratios) > MAX_BRIGHT_DISPERSION:
        return False
    y, x = make_frequency_grids()
    coarse = blocks.power[:, (y + x >= 2) & (y + x <= 4)].mean(1)
    calm_count = max(MIN_COUNT_BLOCKS, round(CALM_COUNT_FRACTION * len(coarse)))
    calm = (coarse / blocks.means).argsort()[:calm_count]
    is_white = float(coarse[calm].mean()) <= MAX_COUNT_STEEPNESS * float(variances[calm].mean())
    # the probability of fewer photons than a count k, with a mean of m, is Q(k, m)
    darker = torch.special.gammaincc(torch.tensor(lowest / gain).to(variances), blocks.means / gain)
    return is_white and DCT_SIDE**2 * float(darker.sum()) <= MAX_MISSING_DARK_PIXELS
