"""Fit noise variance over brightness, separate offset and read noise, and measure speckle.

The energy of a block's finest frequencies is modelled as the noise variance, with a chi-square
distribution, times one plus texture. The distribution of texture over all blocks is fitted as a
mixture, so that no blocks have to be selected as flat.

Where a detector counts photons, the noise is known exactly: all grey values are multiples of one
photon's value, and the variance is the mean times that value at each brightness. Blocks cannot
measure this where most of them hold only a few photons.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.noise import compute_intercept, predict_variance
from napari_dip.engine.noise.flat_blocks import (
    NO_CLIPPING,
    cut_patches,
    fit_robust_variance_model,
    select_informative_blocks,
)

#: Side of the blocks in pixels: small, since few larger ones are flat.
DCT_SIDE = 8
#: Grid of texture energies, in units of the noise variance.
TEXTURE_ENERGIES = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2048.0)
#: Number of the least `TEXTURE_ENERGIES` whose blocks are used for the variance model.
_NEGLIGIBLE_TEXTURES = 2
#: Minimum gain, in standard errors, that is not set to 0: at least 13 in 36 micrographs, below 2 in
#: 61 of 78 channels with constant noise (docs/constants.md).
MIN_SLOPE_ERRORS = 2.0
#: Iterations of expectation maximisation; the model converges in 40 to 60.
EM_ITERATIONS = 80
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
#: Least share of the blocks in a dark plateau.
MIN_DARK_BLOCK_FRACTION = 0.05
#: Fewest blocks in a dark plateau.
MIN_DARK_BLOCKS = 24
#: Allowed spread of the darkest blocks' means, in units of that of noise. Below it they are
#: clipped, above it structured.
DARK_SPREAD_RANGE = (0.7, 1.4)
#: Least ratio of the number of blocks at the plateau to that in an interval of the same width above
#: it. Noise alone has 35, a uniform ramp has 1.
MIN_PLATEAU_RATIO = 2.0
#: Share of the blocks, the darkest, whose noise is that of the dark plateau.
_DARK_FRACTION = 0.03
#: Distance from the dark plateau, in standard errors, up to which a block belongs to it.
_PLATEAU_ERRORS = 4.0
#: Share of the pixels that is left out at each end for the spread of a single dark frame.
_TAIL_FRACTION = 0.1587
#: Iterations for the centre of the plateau.
_PLATEAU_ITERATIONS = 10
#: Lower bound of intensities before the logarithm, as a share of the channel's mean. In single-look
#: speckle, one pixel in two hundred lies below that share of its signal.
MIN_INTENSITY_FRACTION = 0.005
#: Range of the number of looks; 10,000 are noise of one percent.
LOOKS_RANGE = (0.5, 1e4)
#: Bisection steps for the number of looks, on a logarithmic scale.
BISECTION_STEPS = 50
#: Maximal number of blocks: 6,000 of 64 pixels determine a variance to 0.4 %.
MAX_BLOCKS = 6_000
#: Pixels of an image up to which blocks overlap by half, since few fit into it.
MAX_OVERLAPPED_PIXELS = 200 * 200
#: Information in overlapping blocks, as a share of that in as many independent ones. Blocks at
#: every fourth pixel are four times as many and hold 1.5 times the information.
OVERLAP_INFORMATION_FRACTION = 0.4

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
#: of the mean: 0.93 to 1.37 with up to 10 photons at white on 299 channels, and no image without
#: noise of that collection lies within (docs/constants.md).
DISPERSION_LIMITS = (0.85, 1.3)
#: Upper limit in the other classes, which hold texture: 1.71 on a real stack with 30 photons at
#: white (docs/constants.md).
MAX_BRIGHT_DISPERSION = 1.8
#: Fewest blocks in a brightness class of an image of counted photons.
MIN_COUNT_BLOCKS = 8
#: Values that are examined, spread over the image.
MAX_EXAMINED_VALUES = 1_000_000


class BlockSpectra(NamedTuple):
    """Power of the cosine transform of the blocks of an image.

    Attributes
    ----------
    means : Tensor
        (K,), in the image's units.
    power : Tensor
        (K, DCT_SIDE, DCT_SIDE), squared coefficients of the orthonormal cosine transform. Their
        mean in white noise is its variance.
    independent_fraction : float
        Information in the blocks, as a share of that in as many independent ones.
    informative_fraction : float
        Share of these blocks among all blocks of the image.
    """

    means: Tensor
    power: Tensor
    independent_fraction: float
    informative_fraction: float = 1.0


def compute_block_spectra(
    planes: Tensor, measured_mask: Tensor | None, limits: tuple[float, float]
) -> BlockSpectra:
    """Return the cosine transform power of the informative blocks.

    Parameters
    ----------
    planes, measured_mask, limits
        As for `select_informative_blocks`.
    """
    stride = DCT_SIDE if planes.numel() > MAX_OVERLAPPED_PIXELS else DCT_SIDE // 2
    is_informative = select_informative_blocks(planes, DCT_SIDE, stride, measured_mask, limits)
    indices, fraction = is_informative.nonzero()[:, 0], float(is_informative.double().mean())
    indices = indices[:: -(-len(indices) // MAX_BLOCKS) or 1]
    blocks = cut_patches(planes, DCT_SIDE, stride)[indices]
    basis = make_dct_matrix()
    power = (basis @ blocks @ basis.T).square()
    independent_fraction = 1.0 if stride == DCT_SIDE else OVERLAP_INFORMATION_FRACTION
    return BlockSpectra(blocks.mean((1, 2)), power, independent_fraction, fraction)


class VarianceModel(NamedTuple):
    """Noise variance `gain * m + intercept` at signal m.

    Attributes
    ----------
    gain, intercept : float
    gain_error : float
        Standard error of the gain, from the blocks without texture.
    flat_fraction : float
        Share of the blocks without texture.
    """

    gain: float
    intercept: float
    gain_error: float
    flat_fraction: float

    def compute_variance(self, means: Tensor, min_variance: float) -> Tensor:
        """Return the variance at these brightnesses, at least `min_variance`."""
        return predict_variance(means, self.gain, self.intercept).clamp(min=min_variance)


def make_dct_matrix() -> Tensor:
    """Return the matrix (DCT_SIDE, DCT_SIDE) of the orthonormal cosine transform."""
    index = torch.arange(DCT_SIDE, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * index[None] + 1) * index[:, None] / (2 * DCT_SIDE))
    basis *= math.sqrt(2 / DCT_SIDE)
    basis[0] /= math.sqrt(2)
    return basis


def make_frequency_grids() -> tuple[Tensor, Tensor]:
    """Return the frequency of each coefficient along Y and X, (DCT_SIDE, DCT_SIDE) each."""
    index = torch.arange(DCT_SIDE)
    y, x = torch.meshgrid(index, index, indexing="ij")
    return y, x


def select_finest_bands() -> Tensor:
    """Return the mask of coefficients that are fine along both axes, where images have least."""
    y, x = make_frequency_grids()
    return (y >= 3) & (x >= 3)


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
    means = blocks.means
    energy = (blocks.power[:, bands].mean(1) / fraction).clamp(min=min_variance)
    freedom = float(bands.sum())
    y, x = make_frequency_grids()
    coarse = blocks.power[:, (y + x >= 1) & (y + x <= 3)].mean(1)
    count = max(1, min(VARIANCE_BRIGHTNESS_CLASSES, len(means) // MIN_CLASS_BLOCKS))
    classes = _classify_blocks(means, coarse, count)
    darkest = float(means.quantile(0.002))
    gain, intercept = _estimate_initial_line(means, energy, classes, count, darkest, min_variance)
    texture = 1 + torch.tensor(TEXTURE_ENERGIES, dtype=means.dtype)
    mixture_weights = torch.full(
        (count * len(STRUCTURE_QUANTILES), len(texture)), 0.5 / (len(texture) - 1)
    ).to(means)
    mixture_weights[:, 0] = 0.5
    for _ in range(EM_ITERATIONS):
        expected = predict_variance(means, gain, intercept).clamp(min=min_variance)
        # a block's energy varies more with few photons than in Gaussian noise: by their fourth
        # cumulant, which is the squared gain times their share of the variance
        dark_variance = max(predict_variance(darkest, gain, intercept), min_variance)
        photon_fraction = 1 - (dark_variance / expected).clamp(max=1)
        excess_variance = gain**2 * photon_fraction / (DCT_SIDE**2 * expected)
        half_freedom = 1 / (2 / freedom + excess_variance)  # half the degrees of freedom
        log_likelihood = (
            _compute_log_density(energy, half_freedom, expected[:, None] * texture)
            + mixture_weights[classes].log()
        )
        posterior = torch.softmax(log_likelihood, 1)  # (K, textures)
        mixture_weights = _estimate_mixture_weights(posterior, classes, count)
        flat_posterior = posterior[:, :_NEGLIGIBLE_TEXTURES]
        flat_probability = flat_posterior.sum(1).clamp(min=1e-9)
        noise = (flat_posterior * energy[:, None] / texture[:_NEGLIGIBLE_TEXTURES]).sum(
            1
        ) / flat_probability
        weight = flat_probability * half_freedom / expected**2
        gain, intercept = _fit_weighted_line(means, noise, weight, darkest, min_variance)
    # the error comes from the likelihood of blocks without texture
    expected = predict_variance(means, gain, intercept).clamp(min=min_variance)
    weight = blocks.independent_fraction * posterior[:, 0] * half_freedom / expected**2
    gain_error, flat_fraction = _compute_slope_error(means, weight), float(posterior[:, 0].mean())
    if gain >= MIN_SLOPE_ERRORS * gain_error:
        return VarianceModel(gain, intercept, gain_error, flat_fraction)
    # a slope from few blocks of one brightness must not be extrapolated
    mean_noise = float((flat_probability * noise).sum() / flat_probability.sum())
    return VarianceModel(0.0, max(mean_noise, min_variance), gain_error, flat_fraction)


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


def _estimate_initial_line(
    means: Tensor, energy: Tensor, classes: Tensor, count: int, darkest: float, min_variance: float
) -> tuple[float, float]:
    """Return initial gain and intercept from a low quantile of each brightness's flattest part."""
    masks = [
        classes == brightness_class * len(STRUCTURE_QUANTILES) for brightness_class in range(count)
    ]
    masks = [mask for mask in masks if bool(mask.any())] or [classes >= 0]
    centres = torch.stack([means[mask].mean() for mask in masks])
    levels = torch.stack([energy[mask].quantile(0.3) for mask in masks])
    return _fit_weighted_line(centres, levels, 1 / levels**2, darkest, min_variance)


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


class DarkLevel(NamedTuple):
    """Offset and read noise of a detector, in grey values.

    Attributes
    ----------
    offset : float
    read_noise : float
        Standard deviation.
    offset_error, read_noise_error : float
        Standard errors; 0 if both come from dark frames.
    """

    offset: float
    read_noise: float
    offset_error: float = 0.0
    read_noise_error: float = 0.0


def measure_dark_level(frames: Tensor) -> DarkLevel:
    """Measure offset and read noise from dark frames.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X). With two or more, the noise is measured from differences between frames, so
        offsets of single pixels do not contribute. With one, it is half the range of the middle
        68 % of the values, so hot pixels do not contribute.

    References
    ----------
    EMVA Standard 1288, Release 4.0, 2021, section 6 (temporal noise from differences).
    """
    frames = frames.to(torch.float64)
    if len(frames) > 1:
        variance = float((frames[1:] - frames[:-1]).square().mean()) / 2
        return DarkLevel(float(frames.mean()), variance**0.5)
    values = frames.flatten().sort()[0]
    low, high = (
        values[int(quantile * (len(values) - 1))]
        for quantile in (_TAIL_FRACTION, 1 - _TAIL_FRACTION)
    )
    return DarkLevel(float(frames.mean()), float(high - low) / 2)


def measure_photon_transfer(frames: Tensor, dark: DarkLevel | None) -> tuple[float, float]:
    """Measure gain and intercept from frames of constant light.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X), N >= 2; consecutive frames must have the same exposure.
    dark : DarkLevel or None
        Offset and read noise. With them, one brightness is sufficient; without, the frames'
        brightness must vary.

    Raises
    ------
    ValueError
        If there is one frame only.

    References
    ----------
    Janesick, Photon Transfer, SPIE Press 2007, doi:10.1117/3.725073.
    """
    if len(frames) < 2:
        raise ValueError("Photon transfer takes two frames of the same light or more.")
    frames = frames.to(torch.float64)
    difference, mean = frames[1:] - frames[:-1], (frames[1:] + frames[:-1]) / 2
    side = min(DCT_SIDE, *frames.shape[1:])
    means = cut_patches(mean, side, side).mean((1, 2))
    # the variance within a block excludes flicker of the lamp, which changes all its pixels
    variances = cut_patches(difference, side, side).var((1, 2)) / 2
    if dark is None:
        return fit_robust_variance_model(means, variances)
    signal = means - dark.offset
    gain = float((variances - dark.read_noise**2).sum() / signal.sum().clamp(min=1e-300))
    gain = max(gain, 0.0)
    return gain, compute_intercept(gain, dark.offset, dark.read_noise**2)


def find_dark_plateau(
    means: Tensor, gain: float, intercept: float, min_variance: float
) -> DarkLevel | None:
    """Return offset and read noise from the dark regions of an image; None if there are none.

    Means of dark blocks differ by noise alone, so they form a peak below all others. Uniform
    background light does the same, and is then included in both values.

    Parameters
    ----------
    means : Tensor
        (K,), of blocks of DCT_SIDE x DCT_SIDE pixels.
    gain, intercept : float
        Of the variance model.
    min_variance : float
        Lower bound of the variance.
    """
    variance = max(predict_variance(float(means.quantile(0.02)), gain, intercept), min_variance)
    width = variance**0.5 / DCT_SIDE
    centre = float(means.quantile(0.005)) + 2 * width
    for _ in range(_PLATEAU_ITERATIONS):
        plateau = means[(means - centre).abs() < 2.5 * width]
        if not len(plateau):
            return None
        centre = float(plateau.median())
    lower_half = means[(means < centre) & (means > centre - 4 * width)]
    count = int(((means - centre).abs() < width).sum())
    count_above = int(((means > centre + 3 * width) & (means < centre + 5 * width)).sum())
    if (
        count < max(MIN_DARK_BLOCKS, MIN_DARK_BLOCK_FRACTION * len(means))
        or count < MIN_PLATEAU_RATIO * count_above
    ):
        return None
    relative_std = (
        float((lower_half - centre).square().mean().sqrt()) / width if len(lower_half) else 0.0
    )
    read_variance = predict_variance(centre, gain, intercept)
    if not DARK_SPREAD_RANGE[0] <= relative_std <= DARK_SPREAD_RANGE[1] or read_variance <= 0:
        return None
    # standard errors of the mean and of the standard deviation over all pixels of these blocks
    return DarkLevel(
        centre,
        read_variance**0.5,
        width / count**0.5,
        (read_variance / (2 * count * DCT_SIDE**2)) ** 0.5,
    )


def merge_dark_blocks(blocks: BlockSpectra, min_variance: float) -> BlockSpectra | None:
    """Return the blocks with dark ones set to the plateau's offset; None without a dark plateau.

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
    means = torch.where(blocks.means < limit, level.offset, blocks.means)
    return blocks._replace(means=means)


def estimate_number_of_looks(variance: float) -> float:
    """Return the number of looks L of speckle whose logarithm has a given variance, trigamma(L).

    The mean of L looks of fully developed speckle is the signal times a gamma variate of shape L
    and mean one. Its relative variance is 1/L. The variance of its logarithm is trigamma(L) at any
    signal.

    Parameters
    ----------
    variance : float, > 0

    References
    ----------
    Arsenault, April, Properties of speckle integrated with a finite aperture and logarithmically
    transformed, JOSA 66(11), 1976, doi:10.1364/JOSA.66.001160.
    """
    low, high = LOOKS_RANGE
    for _ in range(BISECTION_STEPS):  # trigamma falls with L
        middle = (low * high) ** 0.5
        if float(torch.special.polygamma(1, torch.tensor(middle, dtype=torch.float64))) > variance:
            low = middle
        else:
            high = middle
    return float((low * high) ** 0.5)


def compute_log_intensity(planes: Tensor) -> Tensor:
    """Return the natural logarithm of intensities (..., Y, X) of one channel, bounded below."""
    min_intensity = max(MIN_INTENSITY_FRACTION * float(planes.mean(dtype=torch.float64)), 1e-30)
    return planes.clamp(min=min_intensity).log()


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
    gain = find_photon_step(planes.flatten() if measured_mask is None else planes[measured_mask])
    if gain is None:
        return None
    spectra = spectra or compute_block_spectra(planes, measured_mask, NO_CLIPPING)
    return gain if is_photon_noise(spectra, gain) else None


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


def is_photon_noise(blocks: BlockSpectra, gain: float) -> bool:
    """Return whether the variance is the mean times the gain, at each brightness.

    Parameters
    ----------
    blocks : BlockSpectra
        Spectra of blocks that are not constant.
    gain : float
        Grey values of one photon.
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
    return low <= min(ratios) and ratios[0] <= high and max(ratios) <= MAX_BRIGHT_DISPERSION
