"""Whether correlated noise that was measured agrees with how well pixels are foretold by others.

Where neighbours share their noise, they foretell each other: the more, the wider it reaches. Fine
texture that was taken for correlated noise does not do so, and then the noise is white and weaker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.engine.noise import NoiseEstimate

#: Half side of the square of neighbours that foretell its middle.
REACH = 2
#: Part of the pixels of each brightness class that is looked at, where neighbours vary least;
#: number of classes; side of the mean by which the calmest places are found; fewest pixels.
CALM, CLASSES, SIDE, MIN_PIXELS = 0.2, 4, 9, 200
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
    pad = SIDE // 2
    rest = F.avg_pool2d(F.pad(rest, (pad,) * 4, mode="replicate"), SIDE, 1).flatten()
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
    from napari_dip.engine.noise import hidden_block
    from napari_dip.engine.noise_reach import of_noise_alone

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
