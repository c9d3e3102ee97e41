"""Filter the correlated noise of a processed colour image collaboratively, from coarse to fine.

Such noise has blotches wider than a patch. The image is therefore filtered at a quarter of its size
first. Each finer level removes the noise of its own frequencies, and a residue of coarser ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.camera_noise import MAX_CAMERA_LAG, make_opponent_matrix
from napari_dip.engine.noise.oversampling import double_resolution, halve_resolution
from napari_dip.engine.noise.variance_model import make_dct_matrix
from napari_dip.engine.problem import Estimate
from napari_dip.engine.refinement.bm3d import (
    PATCH_SIDE,
    compute_patch_padding,
    filter_patch_groups,
    group_patches,
)

if TYPE_CHECKING:
    from napari_dip.engine.noise.camera_noise import CameraNoise

#: Number of pyramid levels: 1, 2 and 3 reached 36.61, 37.65 and 37.80 dB with the true noise on the
#: corners (256 x 256) of nine files of cc15.
PYRAMID_LEVELS = 3
#: Least side of a filtered picture, in pixels.
MIN_SIDE = 2 * PATCH_SIDE
#: Share of the coarser levels' noise power that remains after their filtering.
RESIDUAL_NOISE_FRACTION = 0.12
#: Weight of colour relative to luminance in comparisons of patches, each in units of its noise.
COLOUR_WEIGHT = 0.5
#: Side in pixels of the noise sample whose power is measured at each level; 4,000 patches determine
#: it to 2 %.
NOISE_SAMPLE_SIDE = 256
#: Ratio of the error variance to that of the Wiener filter: 1.3 to 2.2, once 3.8, on nine files of
#: cc15.
CAMERA_VARIANCE_FACTOR = 1.6
#: Lower bound of the noise power at each frequency, in units of the mean.
MIN_CAMERA_NOISE_POWER = 0.005


def filter_camera_noise(
    picture: Tensor, noise: CameraNoise, guide: Tensor | None = None, share: float = 0.0
) -> Estimate:
    """Filter the noise of red, green and blue together.

    Parameters
    ----------
    picture : Tensor
        (1, 3, Y, X).
    noise : CameraNoise
        In the picture's units.
    guide : Tensor or None
        (1, 3, Y, X), another estimate of the picture, as a further guide of the Wiener filter.
    share : float
        Weight of that guide against the hard-thresholded picture, 0 to 1.

    Returns
    -------
    Estimate
        (1, 3, Y, X), with `CAMERA_VARIANCE_FACTOR` times the variance of the Wiener filter.

    References
    ----------
    Dabov, Foi, Katkovnik, Egiazarian, Color image denoising via sparse 3D collaborative filtering
    with grouping constraint in luminance-chrominance space, ICIP 2007,
    doi:10.1109/ICIP.2007.4378954; Lebrun, Colom, Morel, Multiscale image blind denoising, IEEE TIP
    24(10), 2015, doi:10.1109/TIP.2015.2439041 (from coarse to fine).
    """
    opponent = make_opponent_matrix().to(picture)
    components = torch.einsum("dc,cyx->dyx", opponent, picture[0])
    guide_components = None if guide is None else torch.einsum("dc,cyx->dyx", opponent, guide[0])
    rng = torch.Generator().manual_seed(0)
    sample = draw_noise_sample(noise, (NOISE_SAMPLE_SIDE, NOISE_SAMPLE_SIDE), rng).to(picture)
    mean, variance = _filter_pyramid(components, sample, guide_components, share, PYRAMID_LEVELS)
    inverse = opponent.T
    return Estimate(
        torch.einsum("cd,dyx->cyx", inverse, mean)[None],
        (CAMERA_VARIANCE_FACTOR * torch.einsum("cd,dyx->cyx", inverse**2, variance))
        .clamp(min=1e-12)
        .log()[None],
    )


def draw_noise_sample(noise: CameraNoise, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Draw a periodic sample of the noise's components: (3, *size)."""
    covariance = noise.covariance()
    wrapped = torch.zeros(len(covariance), *size, dtype=torch.float64)
    side = 2 * MAX_CAMERA_LAG + 1
    wrapped[:, :side, :side] = covariance
    power = torch.fft.rfft2(torch.roll(wrapped, (-MAX_CAMERA_LAG, -MAX_CAMERA_LAG), (1, 2))).real
    power = torch.maximum(
        power, MIN_CAMERA_NOISE_POWER * power.clamp(min=0).mean((1, 2), keepdim=True)
    )
    white = torch.randn(wrapped.shape, generator=rng, dtype=power.dtype)
    drawn = torch.fft.irfft2(torch.fft.rfft2(white) * power.sqrt(), s=size)
    scale = (
        covariance[:, MAX_CAMERA_LAG, MAX_CAMERA_LAG].sqrt() / drawn.square().mean((1, 2)).sqrt()
    )
    sample: Tensor = drawn * scale[:, None, None]
    return sample.float()


def _filter_pyramid(
    picture: Tensor, sample: Tensor, guide: Tensor | None, share: float, sizes: int
) -> tuple[Tensor, Tensor]:
    """Filter components (3, Y, X) at `sizes` levels, the coarsest first: mean and variance."""
    if sizes == 1 or min(picture.shape[1:]) < 2 * MIN_SIDE:
        return _filter_level(picture, _measure_frequency_power(sample), guide, share)
    size = tuple(picture.shape[1:])
    coarse = halve_resolution(picture)
    coarse_guide = None if guide is None else halve_resolution(guide)
    filtered_coarse, variance = _filter_pyramid(
        coarse, halve_resolution(sample), coarse_guide, share, sizes - 1
    )
    picture = picture + double_resolution((filtered_coarse - coarse)[:, None], size)[:, 0]
    blurred = double_resolution(halve_resolution(sample)[:, None], tuple(sample.shape[1:]))[:, 0]
    power = _measure_frequency_power(
        sample - blurred
    ) + RESIDUAL_NOISE_FRACTION * _measure_frequency_power(blurred)
    mean, added_variance = _filter_level(picture, power, guide, share)
    return mean, added_variance + F.interpolate(variance[None], size)[0]


def _filter_level(
    picture: Tensor, power: Tensor, guide: Tensor | None, share: float
) -> tuple[Tensor, Tensor]:
    """Filter components by a hard threshold, then by a Wiener filter guided by the result."""
    size = picture.shape[1:]
    sides = compute_patch_padding(size)
    padded = F.pad(picture[None], sides, mode="replicate")[0]
    weight = power.mean(1).rsqrt()
    weight[1:] *= COLOUR_WEIGHT
    smooth = F.avg_pool2d(F.pad(padded[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    blocks = group_patches(smooth * weight[:, None, None])
    thresholded, _ = filter_patch_groups([padded], blocks, power)
    if guide is not None:
        thresholded = torch.lerp(thresholded, F.pad(guide[None], sides, mode="replicate")[0], share)
    blocks = group_patches(thresholded * weight[:, None, None])
    mean, variance = filter_patch_groups([padded, thresholded], blocks, power)
    return mean[:, : size[0], : size[1]], variance[:, : size[0], : size[1]]


def _measure_frequency_power(sample: Tensor) -> Tensor:
    """Measure the power of each frequency of a patch: (3, PATCH_SIDE²)."""
    basis = make_dct_matrix().to(sample)
    patches = sample.unfold(1, PATCH_SIDE, PATCH_SIDE // 2).unfold(2, PATCH_SIDE, PATCH_SIDE // 2)
    return (basis @ patches @ basis.T).square().mean((1, 2)).flatten(1)
