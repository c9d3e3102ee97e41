"""Collaborative filtering of a colour picture whose noise is a camera's, from coarse to fine.

Such noise makes blotches wider than a patch. So the picture is halved twice, filtered at quarter
size, and at each finer size only what that size adds has still its whole noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.colour_camera import LAGS, opponent
from napari_dip.engine.noise.oversampling import doubled, halved
from napari_dip.engine.noise.variance_model import cosines
from napari_dip.engine.problem import Estimate
from napari_dip.engine.refinement.bm3d import PATCH, border, filtered_groups, grouped

if TYPE_CHECKING:
    from napari_dip.engine.noise.colour_camera import CameraNoise

#: Sizes that a picture is filtered at, each half the next one: 1, 2 and 3 came to 36.61, 37.65 and
#: 37.80 dB with the true noise of the corners (256 x 256) of nine files of cc15.
SIZES = 3
#: Least side of a picture that is filtered.
MIN_SIDE = 2 * PATCH
#: Part of the coarser sizes' noise that is left when they were filtered.
LEFT = 0.12
#: Weight of colour beside luminance where patches are compared, each in units of its noise.
COLOUR_WEIGHT = 0.5
#: Side of a noise picture that the noise of each size is measured on: 4,000 patches tell it to 2 %.
SAMPLE = 256
#: How many times larger the error's variance is than Wiener's rule says: 1.3 to 2.2, once 3.8, on
#: nine files of cc15.
OPTIMISM = 1.6
#: Least share of the noise's mean power that any frequency is taken to have.
MIN_POWER = 0.005


def filter_camera_noise(
    picture: Tensor, noise: CameraNoise, guide: Tensor | None = None, share: float = 0.0
) -> Estimate:
    """Filter red, green and blue together.

    Parameters
    ----------
    picture : Tensor
        (1, 3, Y, X).
    noise : CameraNoise
        In the picture's units.
    guide : Tensor or None
        (1, 3, Y, X): another estimate of the picture, which guides Wiener's rule as well.
    share : float
        Weight of the guide beside the picture's own first filtering, 0 to 1.

    Returns
    -------
    Estimate
        (1, 3, Y, X), with `OPTIMISM` times the variance that Wiener's rule leaves.

    References
    ----------
    Dabov, Foi, Katkovnik, Egiazarian, Color image denoising via sparse 3D collaborative filtering
    with grouping constraint in luminance-chrominance space, ICIP 2007,
    doi:10.1109/ICIP.2007.4378954; Lebrun, Colom, Morel, Multiscale image blind denoising, IEEE TIP
    24(10), 2015, doi:10.1109/TIP.2015.2439041 (from coarse to fine).
    """
    turn = opponent().to(picture)
    components = torch.einsum("dc,cyx->dyx", turn, picture[0])
    other = None if guide is None else torch.einsum("dc,cyx->dyx", turn, guide[0])
    rng = torch.Generator().manual_seed(0)
    sample = noise_sample(noise, (SAMPLE, SAMPLE), rng).to(picture)
    mean, variance = _filter(components, sample, other, share, SIZES)
    back = turn.T
    return Estimate(
        torch.einsum("cd,dyx->cyx", back, mean)[None],
        (OPTIMISM * torch.einsum("cd,dyx->cyx", back**2, variance)).clamp(min=1e-12).log()[None],
    )


def noise_sample(noise: CameraNoise, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Draw a periodic picture of the noise's components: (3, *size)."""
    covariance = noise.covariance()
    wrapped = torch.zeros(len(covariance), *size, dtype=torch.float64)
    side = 2 * LAGS + 1
    wrapped[:, :side, :side] = covariance
    power = torch.fft.rfft2(torch.roll(wrapped, (-LAGS, -LAGS), (1, 2))).real
    power = torch.maximum(power, MIN_POWER * power.clamp(min=0).mean((1, 2), keepdim=True))
    white = torch.randn(wrapped.shape, generator=rng, dtype=power.dtype)
    drawn = torch.fft.irfft2(torch.fft.rfft2(white) * power.sqrt(), s=size)
    scale = covariance[:, LAGS, LAGS].sqrt() / drawn.square().mean((1, 2)).sqrt()
    sample: Tensor = drawn * scale[:, None, None]
    return sample.float()


def _filter(
    picture: Tensor, sample: Tensor, guide: Tensor | None, share: float, sizes: int
) -> tuple[Tensor, Tensor]:
    """Filter components (3, Y, X) at so many sizes, the coarsest first: mean and variance."""
    if sizes == 1 or min(picture.shape[1:]) < 2 * MIN_SIDE:
        return _filter_size(picture, _power(sample), guide, share)
    size = tuple(picture.shape[1:])
    coarse = halved(picture)
    coarse_guide = None if guide is None else halved(guide)
    below, variance = _filter(coarse, halved(sample), coarse_guide, share, sizes - 1)
    picture = picture + doubled((below - coarse)[:, None], size)[:, 0]
    blurred = doubled(halved(sample)[:, None], tuple(sample.shape[1:]))[:, 0]
    power = _power(sample - blurred) + LEFT * _power(blurred)
    mean, added = _filter_size(picture, power, guide, share)
    return mean, added + F.interpolate(variance[None], size)[0]


def _filter_size(
    picture: Tensor, power: Tensor, guide: Tensor | None, share: float
) -> tuple[Tensor, Tensor]:
    """Filter components by what stands out of the noise, then by Wiener's rule, guided by it."""
    size = picture.shape[1:]
    sides = border(size)
    seen = F.pad(picture[None], sides, mode="replicate")[0]
    weight = power.mean(1).rsqrt()
    weight[1:] *= COLOUR_WEIGHT
    smooth = F.avg_pool2d(F.pad(seen[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    blocks = grouped(smooth * weight[:, None, None])
    rough, _ = filtered_groups([seen], blocks, power)
    if guide is not None:
        rough = torch.lerp(rough, F.pad(guide[None], sides, mode="replicate")[0], share)
    blocks = grouped(rough * weight[:, None, None])
    mean, variance = filtered_groups([seen, rough], blocks, power)
    return mean[:, : size[0], : size[1]], variance[:, : size[0], : size[1]]


def _power(sample: Tensor) -> Tensor:
    """Measure the power of each frequency of a patch: (3, PATCH²)."""
    basis = cosines().to(sample)
    patches = sample.unfold(1, PATCH, PATCH // 2).unfold(2, PATCH, PATCH // 2)
    return (basis @ patches @ basis.T).square().mean((1, 2)).flatten(1)
