"""What one image tells of its noise: variance = gain x signal + intercept, and correlation.

The line is read from the finest frequencies of all blocks (noise_line.py), what neighbouring
pixels share from the blocks whose energy agrees (noise_reach.py). Blocks with holes or clipped
pixels do not count (whole_blocks.py). Where noise and picture cannot be told apart, the estimate
says so, and is the least that the image allows.

Whether correlated noise that was measured agrees with how well pixels are foretold by others.

Where neighbours share their noise, they foretell each other: the more, the wider it reaches. Fine
texture that was taken for correlated noise does not do so, and then the noise is white and weaker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import avg_pool2d

from napari_dip.engine.noise.checks import (
    contradiction,
    finest_level,
    resampled,
    unevenness,
    varies_widely,
)
from napari_dip.engine.noise.correlation import Reach, band_shares, noise_reach, of_noise_alone
from napari_dip.engine.noise.flat_blocks import (
    LAGS,
    WHOLE,
    block_side,
    clipping_limits,
    cut_blocks,
    telling,
)
from napari_dip.engine.noise.variance_model import (
    SIDE,
    Energies,
    Line,
    cosines,
    dark_plateau,
    finest,
    frequencies,
    noise_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Lag-1 correlation above which noise is treated as correlated. On seven FMD fields the white
#: ones measure up to 0.18 (structure that was left), the correlated ones from 0.59 on; a confocal
#: scan along its lines 0.25 to 0.33.
CORRELATED = 0.22
#: Lag-1 correlation up to which the variance is that of the finest frequencies: structure that is
#: left in flat blocks makes as much; taken for noise, it cost gains on mitochondria and coins.
DOUBTFUL = 0.12
#: Correlation that is too small to be learned from, with the picture's own taken off; ends the
#: hidden block.
NEGLIGIBLE = 0.05
#: Widest half block. On FMD widefield, whose noise reaches 4 pixels, blocks of 7 x 7 beat 5 x 5
#: by 1 dB and 11 x 11 by 1.4 dB: past that the fit has too little to see.
MOST_REACH = 3
#: Blocks that must fit side by side into the image, or too little of it is left to see.
SIDES_PER_BLOCK = 6
#: Fewest blocks without holes that tell the noise, and the standard deviation reckoned with, as a
#: share of the range, where there are fewer: with noise and structure alike unknown, any value
#: that keeps the loss of order one does, since a constant changes neither fit nor stop.
LEAST_BLOCKS, UNTOLD = 8, 0.01
#: Least share of a variance that is taken for white: a hundredth of its standard deviation.
LEAST_WHITE = 1e-4
#: Why an image cannot tell its noise: too few whole blocks; almost all of it clipped; noise finer
#: than the grey values; structure to the finest frequencies everywhere; texture and correlated
#: noise look alike; noise at some brightness is not on the line, or nothing there is flat;
#: single pixels are further off than normal noise has it; neighbours share more than was measured.
DOUBTS = (
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
MOST_BLOCKS = 6_000
#: Pixels up to which blocks overlap by half more, since few fit into the image.
FEW_PIXELS = 200 * 200
#: What overlapping blocks tell, as a share of what as many others would: blocks at every fourth
#: pixel are four times as many and tell half as much again.
OVERLAPPING = 0.4
#: Share of the wide blocks below which, where others were cut off, correlation is not read from
#: them: structure at the rim of what was cut off looks like it. Twelve made pictures whose white
#: noise was taken for correlated have 0.01 to 0.23 left; FMD widefield has 0.51 and 0.70.
FEW_WHOLE = 0.3
#: Energy of the calmest blocks' finest frequencies, as a share of what white noise would have,
#: below which the noise is not as much as correlation had it: 0.74 to 0.86 in three made pictures
#: that it was told 1.2 to 1.6 times too strong in; 0.89 and more where it was told rightly.
LEAST_FINE = 0.88
#: Shares of blocks without texture, and of blocks that agree about correlation, from which on the
#: variance is told within a third only: filaments, membranes.
LEAST_CALM, FEW_CALM, FEW_AGREE = 0.3, 0.6, 0.12
#: Share of the blocks that tell of the noise, below which a caution is due where others were cut
#: off: 0.28 in a made picture whose noise is told half as strong as it is at the bright end.
FEW_TELLING = 0.4
#: Times the usual noise that one brightness may have without a caution: 1.56 with a gamma curve
#: that the line followed only within a third; even noise on made scenes has 1.02 to 1.14.
UNEVEN = 1.3
#: Quantiles of brightness at which the variance is to be known; its standard error there, as a
#: share of it, from which on a caution is due; and the share of it that may come of going on with
#: the line beyond the blocks: thin strokes fill none.
ENDS, UNSURE, FAR_BEYOND = (0.1, 0.9), 0.1, 0.2
#: Quantiles that span an image without odd pixels, how many times their distance the range of the
#: grey values is believed to be at most, and values that are sorted for it.
ROBUST, ODD_RANGES, MOST_SORTED = (0.005, 0.995), 11.0, 1_000_000
#: Standard deviation, in steps of the grey values, below which noise cannot be told: rounding
#: then depends on the signal and is no noise of one twelfth of a squared step any more.
FINEST_NOISE = 0.5
#: Fewest grey values that noise can be seen in: below, the image is a mask or a drawing.
LEAST_VALUES = 5
#: Share of the blocks without texture below which all that is left is structure.
LEAST_FLAT = 0.02
#: Share of white noise's power that correlated noise must keep in the finest frequencies, or its
#: line is read from the finest ones that it does not leave out: how many, and how strong.
FINE_SHARE, BANDS, STRONG = 0.5, 25, 0.3
#: Noise that differs from pixel to pixel.
_NO_LAGS = (0.0,) * LAGS
_NO_REACH = Reach(_NO_LAGS, _NO_LAGS, _NO_LAGS, _NO_LAGS, 0.0, told=True)


@dataclass(frozen=True, slots=True)
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
        Why the image cannot tell its noise, one of `DOUBTS`; "" if it can.
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
    cut_off: tuple[float, float] = WHOLE
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


def measure_noise(planes: Tensor, step: float, known: Tensor | None = None) -> NoiseEstimate:
    """Measure variance and correlation of the noise.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X): one image, or more of one detector; at least 16 pixels a side.
    step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    known : Tensor or None
        (P, Y, X), true where a pixel was measured; None if all were.

    Returns
    -------
    NoiseEstimate
        White and of `UNTOLD` of the range where too few blocks are without holes to tell.

    References
    ----------
    Foi et al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399 (variance as a line in the
    mean, fitted to smooth parts of one image; clipping).
    """
    planes = planes.to(torch.float64)
    spread = _spread(planes)
    rounded = step**2 / 12
    least = max(rounded, (1e-4 * spread) ** 2)
    limits = cut_off = clipping_limits(planes)
    fine = _energies(planes, known, limits)
    clipped = ""
    if len(fine.means) < LEAST_BLOCKS and limits != WHOLE:  # better clipped blocks than none
        clipped, limits = "clipped", WHOLE
        fine = _energies(planes, known, limits)
    if len(fine.means) < LEAST_BLOCKS:
        return _untold(max((UNTOLD * spread) ** 2, rounded), clipped or "blocks")
    white = noise_line(fine, finest(), 1.0, least)
    reach = _reach_of(planes, known, limits, white, least)
    line = _of_all_bands(white, fine, reach, least)
    if not _correlated(reach):
        power = fine.power / line.variance(fine.means, least)[:, None, None]
        line = white if finest_level(power) < LEAST_FINE else line
    lowest = line.gain * float(fine.means.quantile(0.02)) + line.intercept
    few = len(planes.unique()) < LEAST_VALUES
    doubt = "grey values" if few else clipped
    doubt = doubt or _doubt(line, reach, float(fine.means.median()), step)
    if not doubt and (doubt := _contradiction(fine, line, reach, max(0.5 * lowest, least))):
        line, reach = (white, _NO_REACH) if doubt == "correlation" else (line, reach)
    dark = None if doubt else dark_plateau(fine.means, line.gain, line.intercept, least)
    caution = "" if doubt else _caution(planes, known, cut_off, fine, line, reach, least)
    return NoiseEstimate(
        line.gain,
        line.intercept,
        max(0.5 * lowest, least),
        reach.along_y,
        reach.along_x,
        doubt=doubt,
        gain_error=line.gain_error,
        offset=None if dark is None else dark.offset,
        read_noise=None if dark is None else dark.read_noise,
        cut_off=cut_off,
        offset_error=0.0 if dark is None else dark.offset_error,
        read_noise_error=0.0 if dark is None else dark.read_noise_error,
        caution=caution,
    )


def _spread(planes: Tensor) -> float:
    """Range of the grey values, in which a few odd ones do not count."""
    values = planes.flatten()
    values = values[:: -(-len(values) // MOST_SORTED)].sort().values
    low, high = (float(values[round(share * (len(values) - 1))]) for share in ROBUST)
    every = float(planes.max() - planes.min())
    return min(every, ODD_RANGES * (high - low)) if high > low else every


def _untold(variance: float, doubt: str) -> NoiseEstimate:
    """White noise of that variance, for want of a better one."""
    return NoiseEstimate(
        0.0, variance, variance, _NO_LAGS, _NO_LAGS, doubt=doubt, gain_error=float("inf")
    )


def _energies(planes: Tensor, known: Tensor | None, limits: tuple[float, float]) -> Energies:
    """Transform the blocks that tell of the noise."""
    every = SIDE if planes.numel() > FEW_PIXELS else SIDE // 2
    tell = telling(planes, SIDE, every, known, limits)
    whole, share = tell.nonzero()[:, 0], float(tell.double().mean())
    whole = whole[:: -(-len(whole) // MOST_BLOCKS) or 1]
    blocks = planes.unfold(1, SIDE, every).unfold(2, SIDE, every).reshape(-1, SIDE, SIDE)[whole]
    basis = cosines()
    power = (basis @ blocks @ basis.T).square()
    independent = 1.0 if every == SIDE else OVERLAPPING
    return Energies(blocks.mean((1, 2)), power, independent, share)


def _reach_of(
    planes: Tensor, known: Tensor | None, limits: tuple[float, float], line: Line, least: float
) -> Reach:
    """Measure the correlation in blocks as wide as it may reach."""
    side = block_side(tuple(planes.shape[1:]))
    means, residuals = cut_blocks(planes, side)
    whole = telling(planes, side, side // 2, known, limits).nonzero()[:, 0]
    chosen = whole[:: -(-len(whole) // MOST_BLOCKS) or 1]
    if len(whole) < LEAST_BLOCKS:
        return _NO_REACH
    reach = noise_reach(residuals[chosen], line.variance(means[chosen], least))
    few = limits != WHOLE and len(whole) < FEW_WHOLE * len(means)
    return _NO_REACH if few and _correlated(reach) else reach


def _of_all_bands(line: Line, fine: Energies, reach: Reach, least: float) -> Line:
    """Go from the noise of the finest frequencies to that of all."""
    first = max(reach.least_y[0], reach.least_x[0])
    believed = min(1.0, max(0.0, (first - DOUBTFUL) / (CORRELATED - DOUBTFUL)))
    shares = band_shares(*([believed * v for v in one] for one in (reach.least_y, reach.least_x)))
    share = float(shares[finest()].mean())
    if share >= FINE_SHARE:
        gain, intercept, error = (
            one / share for one in (line.gain, line.intercept, line.gain_error)
        )
        return line._replace(gain=gain, intercept=intercept, gain_error=error)
    y, x = frequencies()
    order = torch.where((shares >= STRONG) & (y + x >= 3), y + x, 0).flatten()
    bands = torch.zeros(SIDE**2, dtype=torch.bool)
    bands[order.argsort(descending=True, stable=True)[:BANDS]] = True
    bands = bands.reshape(SIDE, SIDE) & (y + x >= 3)
    return noise_line(fine, bands, float(shares[bands].mean()), least)


def _doubt(line: Line, reach: Reach, middle: float, step: float) -> str:
    """Say what keeps the image from telling its noise; "" if nothing does."""
    if step and line.gain * middle + line.intercept < (FINEST_NOISE * step) ** 2:
        return "grey values"
    if line.flat < LEAST_FLAT:
        return "texture"
    return "" if reach.told else "correlation"


def _contradiction(fine: Energies, line: Line, reach: Reach, floor: float) -> str:
    """Say what the blocks hold that line and correlation do not explain; "" if nothing."""
    axes = (reach.along_y, reach.along_x)
    white = torch.ones(SIDE, SIDE, dtype=torch.float64)
    shares = band_shares(*axes) if _correlated(reach) else white
    return contradiction(fine, line.variance(fine.means, floor), shares, axes)


def _correlated(reach: Reach) -> bool:
    return max(_reach(list(reach.along_y)), _reach(list(reach.along_x))) > 0


def _caution(
    planes: Tensor,
    known: Tensor | None,
    limits: tuple[float, float],
    fine: Energies,
    line: Line,
    reach: Reach,
    least: float,
) -> str:
    """Say what should be known of noise that is told: one of `CAUTIONS`, or ""."""
    if resampled(planes):
        return "resampled"
    if _correlated(reach):
        return ""
    if line.flat < LEAST_CALM or (line.flat < FEW_CALM and reach.agree < FEW_AGREE):
        return "calm"
    if limits != WHOLE and fine.share < FEW_TELLING:
        return "cut"

    variance = partial(line.variance, least=least)
    if varies_widely(planes, known, limits, variance):
        return "blotches"
    if unevenness(fine, variance(fine.means)) > UNEVEN:
        return "uneven"
    ends = avg_pool2d(planes[:, None], 3).flatten()
    ends = ends[:: -(-len(ends) // MOST_SORTED)].quantile(torch.tensor(ENDS).to(ends))
    return "ends" if line.gain > 0 and _unsure(fine.means, ends, line, variance(ends)) else ""


def _unsure(means: Tensor, ends: Tensor, line: Line, variance: Tensor) -> bool:
    """Whether the line is known too little, or goes on too far, at both `ENDS` of brightness."""
    error = line.gain_error * (ends - means.median()).abs() / variance
    beyond = torch.stack([means.quantile(0.01) - ends[0], ends[1] - means.quantile(0.99)])
    return bool(((error > UNSURE) | (line.gain * beyond > FAR_BEYOND * variance)).any())


def white_part(estimate: NoiseEstimate) -> NoiseEstimate:
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
    share = min(max(1 - max(2 * one - two for one, two, *_ in axes), LEAST_WHITE), 1)
    return estimate.white(share)


def hidden_block(estimates: list[NoiseEstimate], grid: tuple[int, int]) -> tuple[int, int]:
    """Size of a block, along Y and X, whose centre shares no noise with what lies outside.

    Parameters
    ----------
    estimates : list of NoiseEstimate
        One for each channel; the widest correlation decides.
    grid : tuple of int
        Size of the image, which must stay wide against the block.
    """
    reach_y = max(_reach(list(one.along_y)) for one in estimates)
    reach_x = max(_reach(list(one.along_x)) for one in estimates)
    most_y, most_x = (max(0, (side // SIDES_PER_BLOCK - 1) // 2) for side in grid)
    return 2 * min(reach_y, most_y) + 1, 2 * min(reach_x, most_x) + 1


def _reach(correlation: list[float]) -> int:
    """Half width of the hidden block along one axis, 0 if the noise is white.

    A picture's own correlation falls slowly, so what is left of it at the longest lag is taken
    off all of them.
    """
    first, *further = of_noise_alone(tuple(correlation))
    if first <= CORRELATED:
        return 0
    reach = 1
    for value in further[: MOST_REACH - 1]:
        if value <= NEGLIGIBLE:
            break
        reach += 1
    return reach


#: Half side of the square of neighbours that foretell its middle.
REACH = 2
#: Part of the pixels of each brightness class that is looked at, where neighbours vary least;
#: number of classes; side of the mean by which the calmest places are found; fewest pixels.
CALM, CLASSES, MIN_SIDE_OF_STRUCTURE, MIN_PIXELS = 0.2, 4, 9, 200
#: What white noise leaves there, as a share of its variance: 0.77 to 0.82 on moon, cell, clock and
#: camera of scikit-image with noise of 8 and 20, since places that are calm by chance are chosen.
CALM_SHARE = 0.77
#: Ridge that keeps the least squares solvable, as a share of the neighbours' variance.
RIDGE = 1e-3
#: Fewest pixels of a plane that is looked at: of 32 x 32, least squares explain half by chance.
MIN_PLANE = 150 * 150
#: How many times more than correlated noise would leave is a contradiction, and least part of the
#: variance that is left then. Made correlated noise (15 and 10, 33 photographs of BSD68, Set12,
#: kodak256 and scikit-image) and FMD widefield leave 0.3 to 1.9 times what it would, and one 2.5
#: times (7 % of the variance). Grass and gravel, clean or with noise of 3 to 8, leave 3.5 to 48
#: times, and 56 to 120 % of the variance.
CONTRADICTION, LEAST_LEFT = 2.0, 0.3
#: Part of the variance that is left, and times more than correlated noise would leave, from which
#: on a caution is due: 0.5 to 0.6 and 1.2 to 1.7 in a photograph whose white noise was taken for
#: correlated; FMD widefield leaves 0.11, a confocal scan along its lines 0.71, 1.01 times.
WHITER = (0.45, 1.15)
#: Part of what white noise would leave, below which noise that was measured as white is correlated.
#: FMD and photographs with noise of 15 and 25 leave 0.92 to 1.3 of it; four with correlated noise
#: of 15, which was measured as 6 to 8, 0.53 to 0.73.
TOO_LITTLE = 0.78


def unforetold(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Measure the variance that neighbours do not foretell, where a plane is calm.

    Parameters
    ----------
    plane : Tensor
        (Y, X).

    Returns
    -------
    brightness, variance : Tensor
        (CLASSES,) each, in the plane's units.
    """
    plane = plane.double()
    side = 2 * REACH + 1
    around = F.unfold(plane[None, None], side)[0]  # (side², pixels)
    middle = side**2 // 2
    neighbours = torch.cat([around[:middle], around[middle + 1 :]])
    mean = neighbours.mean(0)
    size = tuple(length - 2 * REACH for length in plane.shape)
    rest = neighbours.var(0).reshape(1, 1, *size)
    pad = MIN_SIDE_OF_STRUCTURE // 2
    rest = F.avg_pool2d(
        F.pad(rest, (pad,) * 4, mode="replicate"), MIN_SIDE_OF_STRUCTURE, 1
    ).flatten()
    levels, variances = [], []
    for pixels in mean.argsort(stable=True).tensor_split(CLASSES):
        count = max(min(MIN_PIXELS, len(pixels)), round(CALM * len(pixels)))
        calm = pixels[rest[pixels].argsort(stable=True)[:count]]
        known = (neighbours[:, calm] - mean[calm]).T
        asked = around[middle, calm] - mean[calm]
        products = known.T @ known
        products += RIDGE * products.diagonal().mean().clamp(min=1e-12) * torch.eye(len(products))
        left = asked - known @ torch.linalg.solve(products, known.T @ asked)
        levels.append(mean[calm].mean())
        variances.append(left.square().mean())
    return torch.stack(levels), torch.stack(variances)


def expected_share(along_y: Sequence[float], along_x: Sequence[float]) -> float:
    """Compute the share of the variance that is not foretold, of noise with such a correlation.

    Parameters
    ----------
    along_y, along_x : sequence of float
        Autocorrelation at lags 1, 2, ...
    """
    side = 2 * REACH + 1
    lags = (torch.arange(side)[:, None] - torch.arange(side)).abs()
    axes = []
    for along in (along_y, along_x):
        values = torch.zeros(side, dtype=torch.float64)
        values[0] = 1
        count = min(len(along), side - 1)
        values[1 : count + 1] = torch.tensor(along[:count], dtype=torch.float64)
        axes.append(values[lags])
    covariance = torch.kron(axes[0], axes[1])
    middle = side**2 // 2
    others = [place for place in range(side**2) if place != middle]
    turn = torch.eye(side**2, dtype=torch.float64)
    turn[:, others] -= 1 / len(others)  # less the neighbours' mean
    covariance = turn @ covariance @ turn.T
    known = covariance[others][:, others]
    known += RIDGE * known.diagonal().mean() * torch.eye(len(others))
    asked = covariance[others, middle]
    share = covariance[middle, middle] - asked @ torch.linalg.solve(known, asked)
    return CALM_SHARE * max(float(share), 0.02)


def agreeing(noise: NoiseEstimate, plane: Tensor, step: float) -> NoiseEstimate:
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
    from napari_dip.engine.noise.correlation import of_noise_alone

    if plane.numel() < MIN_PLANE:
        return noise
    levels, left = unforetold(plane)
    claimed = noise.variance(levels)
    share = float((left / claimed).median())
    white = expected_share((), ())
    if hidden_block([noise], (plane.shape[0], plane.shape[1])) == (1, 1):
        doubted = not noise.doubt and share < TOO_LITTLE * white
        return replace(noise, doubt="correlation") if doubted else noise
    expected = expected_share(of_noise_alone(noise.along_y), of_noise_alone(noise.along_x))
    weak = float(claimed.mean()) <= step**2
    if weak or share < LEAST_LEFT or share < CONTRADICTION * expected:
        little = not weak and share > WHITER[0] and share > WHITER[1] * expected
        return replace(noise, caution="whiter") if little and not noise.doubt else noise
    return replace(noise.white(min(share / white, 1.0)), doubt="texture")
