"""How noise variance grows with brightness, told from a picture's own fine structure.

The energy of a block's finest frequencies is that of the noise there, which follows a chi-square
law about the line, times one plus texture, which is never less than one. All blocks are explained
at once as a mixture of how much texture they hold, so none has to be chosen as flat, and blocks
that hold none need not be the least lucky ones.

Gain, read noise and offset of a detector apart: from dark frames, flat frames or dark pixels.

One image tells the line variance = gain x signal + intercept, where intercept = read noise squared
- gain x offset. What the detector reads without light takes the two apart.

Speckle: noise that multiplies the signal, as coherent light and ultrasound have it.

The mean of L independent looks at fully developed speckle is the signal times a gamma variate of
shape L and mean one: its relative variance is 1/L, and the variance of its logarithm is trigamma(L)
whatever the signal. It is measured on the logarithm, where it is as strong everywhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.noise.flat_blocks import fit_robust_variance_model

#: Side of the blocks: as small as a frequency range can be cut from, since few are flat.
DCT_SIDE = 8
#: Textures that a block may have, as shares of its noise variance.
TEXTURES = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2048.0)
#: The first of them that still tell of the line.
_NEGLIGIBLE_TEXTURES = 2
#: Standard errors from which on a slope is believed. Of 36 shots of FMD, W2S, Hagen et al. it has
#: 13 or more at 512 x 512 pixels; of kodak256 with even noise of 25 and 50, cut off at black and
#: white, 29 of 78 channels have 1 or more, and 17 have 2 or more.
MIN_SLOPE_ERRORS = 2.0
#: Rounds of expectation and maximisation; the line settles in 40 to 60.
EM_ITERATIONS = 80
#: Brightness classes, and parts of each by coarse structure, that have textures of their own;
#: fewest blocks in a brightness class.
VARIANCE_BRIGHTNESS_CLASSES, STRUCTURE_QUANTILES, MIN_CLASS_BLOCKS = 8, (0.25, 0.5, 1.0), 24
#: Blocks that a class's textures are drawn to those of its part with, and to none.
_SHARED_PSEUDOCOUNT, _FLAT_PSEUDOCOUNT = 8.0, 2.0


class BlockEnergies(NamedTuple):
    """What blocks of an image tell.

    Attributes
    ----------
    means : Tensor
        (K,), in the image's units.
    power : Tensor
        (K, SIDE, SIDE), squared coefficients of the cosine transform; mean = noise variance.
    independent : float
        Share of the blocks that others do not overlap: what they count for.
    share : float
        Of all blocks of the image, those that are here.
    """

    means: Tensor
    power: Tensor
    independent: float
    share: float = 1.0


class VarianceModel(NamedTuple):
    """Variance at signal m is `gain * m + intercept`.

    Attributes
    ----------
    gain, intercept : float
    gain_error : float
        Standard error of the gain, as the blocks without texture tell it.
    level_error : float
        Standard error of the variance amid them, as a share of it.
    flat : float
        Share of the blocks that hold no texture.
    """

    gain: float
    intercept: float
    gain_error: float
    level_error: float
    flat: float

    def variance(self, means: Tensor, least: float) -> Tensor:
        """Variance at these brightnesses, `least` or more."""
        return (self.gain * means + self.intercept).clamp(min=least)


def make_dct_matrix() -> Tensor:
    """Orthonormal cosine transform of SIDE values, (SIDE, SIDE)."""
    place = torch.arange(DCT_SIDE, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * place[None] + 1) * place[:, None] / (2 * DCT_SIDE))
    basis *= math.sqrt(2 / DCT_SIDE)
    basis[0] /= math.sqrt(2)
    return basis


def make_frequency_grids() -> tuple[Tensor, Tensor]:
    """Frequency along Y and along X of each coefficient, (SIDE, SIDE) each."""
    place = torch.arange(DCT_SIDE)
    y, x = torch.meshgrid(place, place, indexing="ij")
    return y, x


def select_finest_bands() -> Tensor:
    """Coefficients that are fine along both axes: of pictures, edges included, least is there."""
    y, x = make_frequency_grids()
    return (y >= 3) & (x >= 3)


def fit_variance_model(
    blocks: BlockEnergies, bands: Tensor, share: float, least: float
) -> VarianceModel:
    """Fit the line by expectation and maximisation.

    Parameters
    ----------
    blocks : BlockEnergies
    bands : Tensor
        (SIDE, SIDE), bool: coefficients that are looked at.
    share : float
        Mean power of the noise in these, as a share of its variance.
    least : float
        Least variance that any block can have.

    References
    ----------
    Dempster, Laird, Rubin, J. R. Stat. Soc. B 39(1), 1977 (expectation and maximisation); Foi et
    al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399 (variance as a line in the mean).
    """
    means = blocks.means
    energy = (blocks.power[:, bands].mean(1) / share).clamp(min=least)
    freedom = float(bands.sum())
    y, x = make_frequency_grids()
    coarse = blocks.power[:, (y + x >= 1) & (y + x <= 3)].mean(1)
    count = max(1, min(VARIANCE_BRIGHTNESS_CLASSES, len(means) // MIN_CLASS_BLOCKS))
    classes = _classify_blocks(means, coarse, count)
    darkest = float(means.quantile(0.002))
    gain, intercept = _estimate_initial_line(means, energy, classes, count, darkest, least)
    texture = 1 + torch.tensor(TEXTURES, dtype=means.dtype)
    odds = torch.full(
        (count * len(STRUCTURE_QUANTILES), len(texture)), 0.5 / (len(texture) - 1)
    ).to(means)
    odds[:, 0] = 0.5
    for _ in range(EM_ITERATIONS):
        expected = (gain * means + intercept).clamp(min=least)
        # rare photons make a block's energy vary more than the normal law has it: by their
        # fourth cumulant, which is gain squared times their part of the variance
        photons = 1 - (max(gain * darkest + intercept, least) / expected).clamp(max=1)
        spread = gain**2 * photons / (DCT_SIDE**2 * expected)
        half = 1 / (2 / freedom + spread)  # half the degrees of freedom
        likely = (
            _compute_log_density(energy, half, expected[:, None] * texture) + odds[classes].log()
        )
        belief = torch.softmax(likely, 1)  # (K, textures)
        odds = _estimate_mixture_weights(belief, classes, count)
        near = belief[:, :_NEGLIGIBLE_TEXTURES]
        sure = near.sum(1).clamp(min=1e-9)
        noise = (near * energy[:, None] / texture[:_NEGLIGIBLE_TEXTURES]).sum(1) / sure
        weight = sure * half / expected**2
        gain, intercept = _fit_weighted_line(means, noise, weight, darkest, least)
    line = _add_standard_errors(
        gain, intercept, means, belief[:, 0], half, blocks.independent, least
    )
    if line.gain >= MIN_SLOPE_ERRORS * line.gain_error:
        return line
    # what a few blocks of one brightness say must not be prolonged to all
    return line._replace(gain=0.0, intercept=max(float((sure * noise).sum() / sure.sum()), least))


def _compute_log_density(energy: Tensor, half: Tensor, scale: Tensor) -> Tensor:
    """Log of the density of energies (K,) about scales (K, textures), up to what is common."""
    ratio = energy[:, None] / scale
    return half[:, None] * (ratio.log() - ratio)


def _classify_blocks(means: Tensor, coarse: Tensor, count: int) -> Tensor:
    """Sort blocks into classes of like brightness, and these by coarse structure."""
    classes = torch.zeros(len(means), dtype=torch.long, device=means.device)
    for number, part in enumerate(means.argsort(stable=True).tensor_split(count)):
        ordered = part[coarse[part].argsort(stable=True)]
        begun = 0
        for place, share in enumerate(STRUCTURE_QUANTILES):
            ended = round(share * len(ordered))
            classes[ordered[begun:ended]] = number * len(STRUCTURE_QUANTILES) + place
            begun = ended
    return classes


def _estimate_mixture_weights(belief: Tensor, classes: Tensor, count: int) -> Tensor:
    """How often a class holds each texture, drawn to what its part holds at any brightness."""
    class_counts = torch.zeros(count * len(STRUCTURE_QUANTILES), belief.shape[1]).to(belief)
    class_counts.index_add_(0, classes, belief)
    overall = class_counts.reshape(count, len(STRUCTURE_QUANTILES), -1).sum(0)
    overall = overall / overall.sum(1, keepdim=True).clamp(min=1e-9)
    odds = class_counts + _SHARED_PSEUDOCOUNT * overall.repeat(count, 1) + 1e-3
    odds[:, 0] += _FLAT_PSEUDOCOUNT
    return odds / odds.sum(1, keepdim=True)


def _estimate_initial_line(
    means: Tensor, energy: Tensor, classes: Tensor, count: int, darkest: float, least: float
) -> tuple[float, float]:
    """Begin below the middle of the flattest part of each brightness."""
    parts = [classes == number * len(STRUCTURE_QUANTILES) for number in range(count)]
    parts = [part for part in parts if bool(part.any())] or [classes >= 0]
    centres = torch.stack([means[part].mean() for part in parts])
    levels = torch.stack([energy[part].quantile(0.3) for part in parts])
    return _fit_weighted_line(centres, levels, 1 / levels**2, darkest, least)


def _fit_weighted_line(
    means: Tensor, levels: Tensor, weight: Tensor, darkest: float, least: float
) -> tuple[float, float]:
    """Straight line that neither falls nor lies below `least` where the image is darkest."""
    total = weight.sum()
    centre, level = (weight * means).sum() / total, (weight * levels).sum() / total
    across = (weight * (means - centre) ** 2).sum()
    slope = float((weight * (means - centre) * (levels - level)).sum() / across.clamp(min=1e-300))
    if slope <= 0 or float(across / total) <= 1e-12 * float(centre) ** 2:
        return 0.0, float(level)
    intercept = float(level) - slope * float(centre)
    if slope * darkest + intercept < least:
        apart = means - darkest
        slope = float((weight * apart * (levels - least)).sum() / (weight * apart**2).sum())
        intercept = least - max(slope, 0.0) * darkest
    return max(slope, 0.0), intercept


def _add_standard_errors(
    gain: float,
    intercept: float,
    means: Tensor,
    flat: Tensor,
    half: Tensor,
    independent: float,
    least: float,
) -> VarianceModel:
    """Add standard errors, from the curvature of the likelihood where there is no texture."""
    expected = (gain * means + intercept).clamp(min=least)
    weight = independent * flat * half / expected**2
    total = weight.sum().clamp(min=1e-300)
    centre = (weight * means).sum() / total
    across = (weight * (means - centre) ** 2).sum().clamp(min=1e-300)
    level = float((gain * centre + intercept).clamp(min=least))
    return VarianceModel(
        gain,
        intercept,
        float(across**-0.5),
        float(total**-0.5) / level,
        float(flat.mean()),
    )


#: Share of the blocks, and fewest of them, that must be alike at the dark end.
MIN_DARK_BLOCK_SHARE, MIN_DARK_BLOCKS = 0.05, 24
#: Spread that the darkest blocks' means may have, in units of what noise gives them: below or
#: above, they are clipped or structured.
DARK_SPREAD_RANGE = (0.7, 1.4)
#: How many times as many blocks must lie at the plateau as on a stretch as wide just above it: a
#: bell of noise alone has 35 times as many, an even ramp as many.
MIN_PLATEAU_RATIO = 2.0
#: Share of the hottest and the coldest pixels that a single dark frame's spread leaves out.
_TAIL_SHARE = 0.1587
#: Rounds until the middle of the plateau stays where it is.
_PLATEAU_ITERATIONS = 10


class DarkLevel(NamedTuple):
    """What a detector gives without light, in its grey values.

    Attributes
    ----------
    offset : float
    read_noise : float
        Standard deviation.
    offset_error, read_noise_error : float
        Standard errors; 0 if frames without light tell the two.
    """

    offset: float
    read_noise: float
    offset_error: float = 0.0
    read_noise_error: float = 0.0


def measure_dark(frames: Tensor) -> DarkLevel:
    """Measure offset and read noise of frames without light.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X). Of two or more, noise is what differs from frame to frame, so pixels with
        offsets of their own do not count; of one, half the distance between the quantiles that
        hold a normal law's middle 68 %, so hot pixels do not.

    References
    ----------
    EMVA Standard 1288, Release 4.0, 2021, section 6 (temporal noise from differences).
    """
    frames = frames.to(torch.float64)
    if len(frames) > 1:
        variance = float((frames[1:] - frames[:-1]).square().mean()) / 2
        return DarkLevel(float(frames.mean()), variance**0.5)
    values = frames.flatten().sort()[0]
    low, high = (values[int(part * (len(values) - 1))] for part in (_TAIL_SHARE, 1 - _TAIL_SHARE))
    return DarkLevel(float(frames.mean()), float(high - low) / 2)


def measure_flat(frames: Tensor, dark: DarkLevel | None) -> tuple[float, float]:
    """Measure gain and intercept from frames of one even, steady light.

    Parameters
    ----------
    frames : Tensor
        (N, Y, X), two or more, of which each pair that follows each other is one exposure.
    dark : DarkLevel or None
        With it, one brightness is enough; without, the frames' brightness must vary.

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
    apart, mean = frames[1:] - frames[:-1], (frames[1:] + frames[:-1]) / 2
    side = min(DCT_SIDE, *frames.shape[1:])

    def blocks(of: Tensor) -> Tensor:
        return of.unfold(1, side, side).unfold(2, side, side).reshape(-1, side**2)

    means, differences = blocks(mean).mean(1), blocks(apart)
    # a lamp that flickers changes whole blocks: that is no noise of pixels
    variances = differences.var(1) / 2
    if dark is None:
        return fit_robust_variance_model(means, variances)
    light = means - dark.offset
    gain = float((variances - dark.read_noise**2).sum() / light.sum().clamp(min=1e-300))
    return max(gain, 0.0), dark.read_noise**2 - max(gain, 0.0) * dark.offset


def find_dark_plateau(
    means: Tensor, gain: float, intercept: float, least: float
) -> DarkLevel | None:
    """Find the level at which an image shows nothing, and the noise there; None if it has none.

    Dark pixels differ by noise alone, so the means of their blocks heap up, below all others.
    Even background light does the same, and would be told as part of both.

    Parameters
    ----------
    means : Tensor
        (K,) of blocks of SIDE x SIDE.
    gain, intercept : float
        Of the line.
    least : float
        Least variance to reckon with.
    """
    variance = max(gain * float(means.quantile(0.02)) + intercept, least)
    width = variance**0.5 / DCT_SIDE
    middle = float(means.quantile(0.005)) + 2 * width
    for _ in range(_PLATEAU_ITERATIONS):
        near = means[(means - middle).abs() < 2.5 * width]
        if not len(near):
            return None
        middle = float(near.median())
    below = means[(means < middle) & (means > middle - 4 * width)]
    count = int(((means - middle).abs() < width).sum())
    above = int(((means > middle + 3 * width) & (means < middle + 5 * width)).sum())
    if (
        count < max(MIN_DARK_BLOCKS, MIN_DARK_BLOCK_SHARE * len(means))
        or count < MIN_PLATEAU_RATIO * above
    ):
        return None
    spread = float((below - middle).square().mean().sqrt()) / width if len(below) else 0.0
    read = gain * middle + intercept
    if not DARK_SPREAD_RANGE[0] <= spread <= DARK_SPREAD_RANGE[1] or read <= 0:
        return None
    # blocks of SIDE x SIDE: as many values tell the mean, and all but the mean the variance
    return DarkLevel(
        middle, read**0.5, width / count**0.5, (read / (2 * count * DCT_SIDE**2)) ** 0.5
    )


#: Values below this share of a channel's mean count as that: the logarithm of 0 does not exist, and
#: of single-look speckle one pixel in two hundred lies as far below its signal.
MIN_INTENSITY_SHARE = 0.005
#: Least and most looks that are told apart: more than 10,000 are a noise of one percent.
LOOKS_RANGE = (0.5, 1e4)
#: Halvings of the interval in which looks are sought, as a logarithm.
BISECTION_STEPS = 50


def estimate_number_of_looks(variance: float) -> float:
    """Give the looks L whose speckle has a logarithm of that variance: trigamma(L) = variance.

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
    """Give the natural logarithm of intensities (..., Y, X) of one channel."""
    least = max(MIN_INTENSITY_SHARE * float(planes.mean(dtype=torch.float64)), 1e-30)
    return planes.clamp(min=least).log()
