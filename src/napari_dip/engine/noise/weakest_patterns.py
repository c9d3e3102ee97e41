"""Limit the noise to what the weakest pattern of an image's patches varies.

Fine texture in every block looks like strong noise. But no combination of neighbouring pixels can
vary less than the noise in it, and texture seldom fills all of them. Neither does noise that
neighbours share, but it is as strong in each patch as in the others.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from napari_dip.engine.noise import NoiseCaution, UnreliableReason
from napari_dip.engine.noise.correlation import compute_blind_spot_radius
from napari_dip.engine.noise.flat_blocks import (
    DCT_SIDE,
    cut_patches,
    make_dct_matrix,
    make_frequency_grids,
    select_informative_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.noise.estimate import NoiseEstimate

#: Doubts of noise that may be texture; None: no doubt. Others are about the grey values.
LIMITED_REASONS = (
    None,
    UnreliableReason.AMBIGUOUS_CORRELATION,
    UnreliableReason.SMOOTHED,
    UnreliableReason.TEXTURE,
)
#: Maximum number of overlapping patches that are measured: 4 MB for each ten thousand.
MAX_PATTERN_PATCHES = 40_000
#: Fewest patches that limit the noise: white noise seems weaker by up to 20 % in the 625 of 32 x 32
#: pixels, by 8 % in the 3,249 of 64 x 64, by 2 % in those of 128 x 128.
MIN_PATTERN_PATCHES = 3_000
#: Shares of the patches, those with least coarse structure, that are measured.
PATTERN_FRACTIONS = (1.0, 0.5, 0.25, 0.1)
#: Maximum sum of the frequencies along Y and X of coarse structure.
MAX_COARSE_FREQUENCY = 3
#: Minimum sum of the frequencies that patterns consist of. They are no coarse ones, so that white
#: noise in flat patches is as strong as in others.
MIN_PATTERN_FREQUENCY = 5
#: Least variance in all or half of the patches, in units of the measured noise, of noise that was
#: not measured too strong: 0.87 or more in 29 micrographs, and in white noise of 64 x 64 pixels.
MIN_PATTERN_RATIO = 0.85
#: Least unevenness of texture: 1.5 to 50 in 25 of 35 crops of photographs where noise was measured
#: too strong, at most 1.5 in 24 of 25 with noise that neighbours share.
MIN_TEXTURE_UNEVENNESS = 1.5
#: Share of the patches whose unevenness is measured, by its place in `PATTERN_FRACTIONS`.
_UNEVEN_PLACE = 2
#: Share of the variance below which texture was measured as noise, so that its strength is unknown.
MIN_UNDOUBTED_RATIO = 0.65
#: Least share of the variance that is left to noise that was measured too strong.
MIN_LEFT_FRACTION = 0.01


class WeakestPatterns(NamedTuple):
    """Patterns of patches that vary least, in the `PATTERN_FRACTIONS` with least coarse structure.

    Attributes
    ----------
    ratios : Tensor
        (4,), their variance, in units of that of white noise as it was measured.
    unevenness : Tensor
        (4,), variance of the energy of fine frequencies among patches, in units of that of normal
        noise with the same covariance.
    """

    ratios: Tensor
    unevenness: Tensor


def limit_by_patterns(noise_estimate: NoiseEstimate, planes: Tensor) -> NoiseEstimate:
    """Return white noise that is no stronger than the weakest pattern of patches, with its doubt.

    Noise is returned as it is if neighbours share it, if patches are even, or if it has a doubt
    that texture does not explain.

    Parameters
    ----------
    noise_estimate : NoiseEstimate
    planes : Tensor
        (P, Y, X), all of them measured.
    """
    axes = noise_estimate.along_y, noise_estimate.along_x
    is_limited = noise_estimate.unreliable_reason in LIMITED_REASONS
    if not is_limited or any(map(compute_blind_spot_radius, axes)):
        return noise_estimate
    limits = noise_estimate.clipping_limits
    patterns = measure_weakest_patterns(planes, limits, noise_estimate.compute_variance)
    if (
        patterns is None
        or float(patterns.ratios[:2].min()) >= MIN_PATTERN_RATIO
        or float(patterns.unevenness[_UNEVEN_PLACE]) < MIN_TEXTURE_UNEVENNESS
    ):
        return noise_estimate
    fraction = max(float(patterns.ratios.min()), MIN_LEFT_FRACTION)
    reason = UnreliableReason.TEXTURE if fraction < MIN_UNDOUBTED_RATIO else None
    return replace(
        noise_estimate.scale_to_white(fraction),
        unreliable_reason=noise_estimate.unreliable_reason or reason,
        caution=noise_estimate.caution or NoiseCaution.MOSTLY_TEXTURED,
    )


def measure_weakest_patterns(
    planes: Tensor, limits: tuple[float, float], compute_variance: Callable[[Tensor], Tensor]
) -> WeakestPatterns | None:
    """Measure the last principal component of patches' fine frequencies; None in few patches.

    Its variance is compared with that in drawn noise, which is less than that of a whole image.

    Parameters
    ----------
    planes, limits
        As for `select_informative_blocks`.
    compute_variance : callable
        Variance of white noise at a brightness.

    References
    ----------
    Pyatykh, Hesser and Zheng, Image noise level estimation by principal component analysis,
    IEEE TIP 22(2), 2013, doi:10.1109/TIP.2012.2221728.
    """
    stride = max(1, ceil(sqrt(planes.numel() / MAX_PATTERN_PATCHES)))
    is_informative = select_informative_blocks(planes, DCT_SIDE, stride, None, limits)
    if int(is_informative.sum()) < MIN_PATTERN_PATCHES:
        return None
    y, x = make_frequency_grids()
    basis, frequency = torch.kron(make_dct_matrix(), make_dct_matrix()), (y + x).flatten()
    # patches that do not overlap are independent, so that no noise is drawn between them
    drawn_shape = planes.shape if stride < DCT_SIDE else (len(is_informative), DCT_SIDE, DCT_SIDE)
    drawn_noise = torch.randn(drawn_shape, generator=torch.Generator().manual_seed(0))
    spectra, drawn_spectra = (
        cut_patches(source, DCT_SIDE, stride)[is_informative].flatten(1).to(basis) @ basis.T
        for source in (planes, drawn_noise)
    )
    spectra = spectra / compute_variance(spectra[:, 0] / DCT_SIDE).sqrt()[:, None]
    is_coarse = (frequency > 0) & (frequency <= MAX_COARSE_FREQUENCY)
    is_fine = frequency >= MIN_PATTERN_FREQUENCY
    order = spectra[:, is_coarse].square().mean(1).argsort(stable=True)
    ratios, unevenness = [], []
    for fraction in PATTERN_FRACTIONS:
        flat = order[: ceil(fraction * len(order))]
        patches, drawn = (part[flat][:, is_fine] for part in (spectra, drawn_spectra))
        covariance, drawn_covariance = (part.T @ part / len(flat) for part in (patches, drawn))
        weakest, expected = (
            torch.linalg.eigvalsh(matrix)[0] for matrix in (covariance, drawn_covariance)
        )
        ratios.append(weakest.clamp(min=0) / expected)
        # the energy of normal values has twice the trace of their squared covariance
        unevenness.append(patches.square().sum(1).var() / (2 * covariance.square().sum()))
    return WeakestPatterns(torch.stack(ratios), torch.stack(unevenness))
