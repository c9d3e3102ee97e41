"""Refine the image after a fit: filter groups of similar patches of the measurement (NL-Bayes).

A guide helps before that by the guided filter.

Similar patches are found in the mean of network's image and measurement. The posterior mean of
each patch, given mean and covariance of its group in a pilot, then restores repeated fine structure
that the network has smoothed. The pilot is the network's image, with a share of the first step of
BM3D where noise is white. The noise of a colour camera has blotches wider than a patch, so its
images are filtered from coarse to fine, each level removing the noise of its own frequencies.
"""

from __future__ import annotations

from functools import reduce
from math import inf, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.constants import HARD_THRESHOLD_SIGMAS
from napari_dip.engine.noise.camera_noise import draw_noise_sample, make_opponent_matrix
from napari_dip.engine.noise.correlation import compute_patch_power
from napari_dip.engine.noise.flat_blocks import make_dct_matrix
from napari_dip.engine.noise.oversampling import double_resolution, halve_resolution
from napari_dip.engine.patch_groups import (
    GROUP_SIZE,
    GROUP_STEP,
    PATCH_SIDE,
    SPARSE_GROUP_STEP,
    FilteredGroups,
    PatchBlock,
    compute_patch_padding,
    filter_patch_groups,
    group_patches,
)
from napari_dip.engine.prior import average_box
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.noise.camera_noise import CameraNoise

#: Radii of the windows of the guided filter, in pixels: of 21 pairs, the best had 2 to 20.
GUIDED_RADII = (2, 4, 8, 16)
#: Ridges of the guided filter, in variances of the guide: the best had at most 0.1.
GUIDED_RIDGES = (1e-4, 1e-2, 1e-1)
#: Maximum number of channels of a guide: the price of the filter grows with their square.
MAX_GUIDE_CHANNELS = 4
#: Radius in pixels of the windows in which the error of a guided filter is averaged: of 21 pairs it
#: is 0.6 to 1.4 times the true one.
GUIDED_ERROR_RADIUS = 16
#: Maximum weight of a pixel in its own filtered value: a pixel alone in its windows has 1.
MAX_LEVERAGE = 0.9
#: Patches in a group, for correlated noise: 64 gains 0.03 and 0.1 dB over 32 on FMD widefield.
CORRELATED_GROUP_SIZE = 64
#: Number of patches in a group whose spectrum is thresholded, as in BM3D: a power of two.
THRESHOLD_GROUP_SIZE = 16
#: Threshold of waves of two pixels where noise grows with brightness. With few photons, the usual
#: one leaves stripes; photographs with even noise would lose 0.03 dB by it (docs/constants.md).
PHOTON_NYQUIST_SIGMAS = 4.0
#: Noise variance of a pit in the pilot, relative to that of its darkest neighbour: half of its
#: standard deviation. Without it, photographs lose 0.01 dB.
MAX_PIT_VARIANCE_RATIO = 0.25
#: Share of the measurement where patches are matched: 0.5 costs W2S 0.06 dB (docs/constants.md).
MATCHING_MEASUREMENT_WEIGHT = 0.25
#: Least share in a group's pilot of the hard-thresholded measurement, and of a first filtered image
#: in what these two give. Both shares grow to 1 with the network's error (docs/constants.md).
MIN_GUIDE_WEIGHTS = 0.3, 0.5
#: Network's error, in noise variances, at which half of that range is reached (docs/constants.md).
HALF_WEIGHT_ERROR = 0.003
#: Ratio of the noise in a group's mean to that of independent patches.
GROUP_MEAN_NOISE_RATIO = 1.3
#: Factor of the noise variance in the posterior mean. Of 0.65 to 1.25, 0.8 to 0.9 is the best on
#: seven images of Set12, 1.0 to 1.1 on FMD, by 0.05 dB.
NOISE_FACTOR = 0.9
#: Minimum of the noise as a share of a group's strongest variance: some times the rounding of
#: single precision, which would make the covariance of an almost noise-free image singular.
COVARIANCE_FLOOR = 1e-5
#: Ratio of error variance to posterior variance, which assumes an exact pilot: 90 % intervals hold
#: 92 to 94 % of the pixels of Set12, BSD68 and W2S, 82 % of FMD (docs/constants.md).
POSTERIOR_VARIANCE_FACTOR = 4.0
#: Points of the variance-stabilising table; interpolation errs by less than 1e-5 of the noise.
_STABILISATION_POINTS = 2048
#: Number of pyramid levels: 1, 2 and 3 reached 36.61, 37.65 and 37.80 dB with the true noise on the
#: corners (256 x 256) of nine files of cc15.
PYRAMID_LEVELS = 3
#: Least side of a filtered image, in pixels.
MIN_SIDE = 2 * PATCH_SIDE
#: Share of the coarser levels' noise power that remains after their filtering.
RESIDUAL_NOISE_FRACTION = 0.12
#: Weight of colour relative to luminance in comparisons of patches, each in units of its noise.
COLOUR_WEIGHT = 0.5
#: Side in pixels of the noise sample at each level; its 4,000 patches give the power to 2 %.
NOISE_SAMPLE_SIDE = 256
#: Error variance in units of the Wiener filter's: 1.3 to 2.2, once 3.8, on nine files of cc15.
CAMERA_VARIANCE_FACTOR = 1.6


class _StabilisedImages(NamedTuple):
    """Variance-stabilised pilot and measurement, and the noise's standard deviation: (C, Y, X)."""

    pilot: Tensor
    measurement: Tensor
    std: Tensor


def refine_by_nl_bayes(
    noise_variance: NoiseVariance,
    measurement: Tensor,
    pilot: Tensor,
    measured_mask: Tensor,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    *,
    uses_sparse_groups: bool = False,
) -> Estimate:
    """Filter a measurement collaboratively, guided by another estimate of the image.

    The noise variance is stabilised by a transform that is linear around the pilot, so that its
    inverse adds no bias. Channels are transformed to their principal components.

    Parameters
    ----------
    noise_variance : NoiseVariance
    measurement : Tensor
        (1, C, Y, X), at least `PATCH_SIDE` pixels a side.
    pilot : Tensor
        (1, C, Y, X), present estimate of the image.
    measured_mask : Tensor
        (1, 1, Y, X), 1 where there is a measurement. At 0 the pilot replaces it; values in between
        blend the two.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white.
    uses_sparse_groups : bool
        Whether to filter only as many groups as cover all pixels. It takes a third of the time,
        and loses 0.05 dB on FMD, 0.15 dB on Set12 and W2S (docs/adr/0038).

    Returns
    -------
    Estimate
        (1, C, Y, X), with `POSTERIOR_VARIANCE_FACTOR` times the posterior variance.

    References
    ----------
    Dabov, Foi, Katkovnik, Egiazarian, Image denoising by sparse 3-D transform-domain
    collaborative filtering, IEEE TIP 16(8), 2007, doi:10.1109/TIP.2007.901238 (its first step, as
    a part of the pilot).
    """
    grid = tuple(measurement.shape[2:])
    pilot = _fill_pits(noise_variance, pilot)
    padding = compute_patch_padding(grid)
    padded = [
        F.pad(item, padding, mode="replicate") for item in (pilot, measurement, measured_mask)
    ]
    stabilised = _stabilise_variance(noise_variance, *padded)
    components = _compute_principal_components(stabilised.pilot)
    pilot_colours, measured_colours = (
        torch.einsum("dc,cyx->dyx", components, item) for item in stabilised[:2]
    )
    power = compute_patch_power(correlation).to(pilot_colours)[None]
    blocks = group_patches(
        torch.lerp(pilot_colours, measured_colours, MATCHING_MEASUREMENT_WEIGHT),
        GROUP_SIZE if correlation is None else CORRELATED_GROUP_SIZE,
        SPARSE_GROUP_STEP if uses_sparse_groups else GROUP_STEP,
    )
    guides = []
    if correlation is None:
        sigmas = torch.full((PATCH_SIDE, PATCH_SIDE), HARD_THRESHOLD_SIGMAS)
        if bool((noise_variance.gain > 0).any()):
            sigmas[-1] = sigmas[:, -1] = PHOTON_NYQUIST_SIGMAS
        guides = [threshold_patch_groups(measured_colours, blocks, power, sigmas.flatten())]
        # with all groups it takes 0.4 s more of 512 x 512 pixels, for 0.00 to 0.01 dB
        first_blocks = (
            blocks if uses_sparse_groups else [block.select_sparse_groups() for block in blocks]
        )
        first, _ = filter_by_nl_bayes(measured_colours, pilot_colours, first_blocks, power, guides)
        guides.append(first)
    mean, posterior_variance = filter_by_nl_bayes(
        measured_colours, pilot_colours, blocks, power, guides
    )
    mean = torch.einsum("dc,dyx->cyx", components, mean)
    posterior_variance = torch.einsum("dc,dyx->cyx", components**2, posterior_variance)
    image = padded[0] + (stabilised.std * (mean - stabilised.pilot))[None]
    # From a pilot far too bright, the tangent led a lone photon in the dark from 100 to -19 levels.
    side, reach = 2 * PATCH_SIDE - 1, PATCH_SIDE - 1
    rows = F.max_pool2d(-torch.minimum(*padded[:2]), (1, side), 1, (0, reach))
    image = torch.maximum(image, -F.max_pool2d(rows, (side, 1), 1, (reach, 0)))
    crop = (..., slice(grid[0]), slice(grid[1]))
    variance = (stabilised.std**2 * POSTERIOR_VARIANCE_FACTOR * posterior_variance)[None]
    return Estimate(image[crop], variance.clamp(min=1e-12)[crop].log())


class GuidedImage(NamedTuple):
    """A measurement filtered by a guide.

    Attributes
    ----------
    filtered : Estimate
        (1, C, Y, X).
    predicted : Tensor
        (1, C, Y, X): the same for each pixel without its own measurement.
    """

    filtered: Estimate
    predicted: Tensor


def filter_by_guide(
    measurement: Tensor, guide: Tensor, measured_mask: Tensor, variance: Tensor
) -> GuidedImage | None:
    """Filter a measurement by a guide: in each window it is a line in the guide.

    Window and ridge are those that predict each measured pixel best without its own value.

    Parameters
    ----------
    measurement : Tensor
        (1, C, Y, X).
    guide : Tensor
        (1, G, Y, X).
    measured_mask : Tensor
        (1, 1, Y, X).
    variance : Tensor
        (1, C, Y, X), of the noise, which is white.

    Returns
    -------
    GuidedImage or None
        None if the guide has too many channels, or no window suits all pixels.

    References
    ----------
    He, Sun, Tang, Guided image filtering, IEEE TPAMI 35(6), 2013, doi:10.1109/TPAMI.2012.213.
    """
    if guide.shape[1] > MAX_GUIDE_CHANNELS:
        return None
    centred = guide - guide.mean((2, 3), keepdim=True)
    scaled = centred / centred.square().mean().sqrt().clamp(min=1e-12)
    best_error, best = inf, None
    for radius in GUIDED_RADII:
        if radius >= min(guide.shape[2:]):
            break
        windows = _measure_windows(scaled, measurement, measured_mask, radius)
        if windows is None:
            continue
        for ridge in GUIDED_RIDGES:
            filtered, leverage = _apply_guide(windows, scaled, ridge)
            leverage = (leverage * measured_mask).clamp(max=MAX_LEVERAGE)
            predicted = (filtered - leverage * measurement) / (1 - leverage)
            error = (measurement - predicted).square() / variance * measured_mask
            if (mean_error := float(error.mean())) < best_error:
                best_error, best = mean_error, (filtered, predicted, leverage)
    if best is None:
        return None
    filtered, predicted, leverage = best
    excess = ((measurement - predicted).square() / variance - 1) * measured_mask
    share = average_box(measured_mask, GUIDED_ERROR_RADIUS).clamp(min=1e-6)
    local_excess = average_box(excess, GUIDED_ERROR_RADIUS) / share
    local_error, error = (  # of a mean of squares of normal noise
        (2 / count) ** 0.5
        for count in (share * (2 * GUIDED_ERROR_RADIUS + 1) ** 2, measured_mask.sum())
    )
    certain_excess = (local_excess - local_error).maximum(excess.mean() - error)
    error_variance = variance * certain_excess.maximum(leverage).clamp(min=1e-6)
    return GuidedImage(Estimate(filtered, error_variance.log()), predicted)


class _Windows(NamedTuple):
    """Means and covariances of guide (G) and measurement (C) in the window around each pixel."""

    radius: int
    pixel_count: Tensor
    guide_mean: Tensor
    measured_mean: Tensor
    guide_covariance: Tensor
    shared_covariance: Tensor


def _measure_windows(
    guide: Tensor, measurement: Tensor, measured_mask: Tensor, radius: int
) -> _Windows | None:
    """Measure all windows; None if one holds no measured pixel."""
    share = average_box(measured_mask, radius)
    if float(share.min()) <= 0:
        return None

    def average(values: Tensor) -> Tensor:
        return average_box(values * measured_mask[0], radius) / share[0]

    guide_mean, measured_mean = average(guide[0]), average(measurement[0])
    products = guide[0, :, None] * guide[0]
    shared = guide[0, :, None] * measurement[0]
    return _Windows(
        radius,
        share[0] * (2 * radius + 1) ** 2,
        guide_mean,
        measured_mean,
        average(products) - guide_mean[:, None] * guide_mean,
        average(shared) - guide_mean[:, None] * measured_mean,
    )


def _apply_guide(windows: _Windows, guide: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return the filtered measurement, and the weight of each pixel in its own value."""
    radius, guide_mean = windows.radius, windows.guide_mean
    identity = torch.eye(len(guide_mean)).to(guide)
    precision = torch.linalg.inv(windows.guide_covariance.permute(2, 3, 0, 1) + ridge * identity)
    precision = precision.permute(2, 3, 0, 1)
    slopes = torch.einsum("ghyx,hcyx->gcyx", precision, windows.shared_covariance)
    offsets = windows.measured_mean - (slopes * guide_mean[:, None]).sum(0)
    inside = average_box(torch.ones_like(guide[:, :1]), radius)[0]  # less at the border

    def average(values: Tensor) -> Tensor:
        return average_box(values, radius) / inside

    filtered = average(offsets) + (average(slopes) * guide[0, :, None]).sum(0)
    weighted = precision / windows.pixel_count
    pulls = (weighted * guide_mean).sum(1)
    leverage = (
        average(1 / windows.pixel_count + (pulls * guide_mean).sum(0, keepdim=True))
        - 2 * (average(pulls) * guide[0]).sum(0, keepdim=True)
        + torch.einsum("ghyx,gyx,hyx->yx", average(weighted), guide[0], guide[0])
    )
    return filtered[None], leverage[None]


def _fill_pits(noise_variance: NoiseVariance, image: Tensor) -> Tensor:
    """Raise pixels to the least of their eight neighbours, if the noise there is much stronger.

    Any photon would stand out from a pit that has the noise of darkness. With five photons at the
    brightest pixel, single white pixels were left, and one of three results was 2 dB worse.
    """
    height, width = image.shape[-2:]
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    offsets = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
    neighbours = (padded[..., dy : dy + height, dx : dx + width] for dy, dx in offsets)
    least = reduce(torch.minimum, neighbours)
    variance, least_variance = map(noise_variance.compute_variance, (image, least))
    is_pit = (least > image) & (variance < MAX_PIT_VARIANCE_RATIO * least_variance)
    return torch.where(is_pit, least, image)


def _stabilise_variance(
    noise_variance: NoiseVariance, pilot: Tensor, measurement: Tensor, measured_mask: Tensor
) -> _StabilisedImages:
    """Stabilise the variance to 1: f(pilot) + f'(pilot) (measurement - pilot), f' = 1 / sigma."""
    low = pilot.amin((0, 2, 3))
    span = (pilot.amax((0, 2, 3)) - low).clamp(min=1e-6)
    fractions = torch.linspace(0, 1, _STABILISATION_POINTS, device=pilot.device)
    levels = low[:, None] + span[:, None] * fractions  # (C, _STABILISATION_POINTS)
    slopes = noise_variance.compute_variance(levels[None, :, :, None])[0, :, :, 0].rsqrt()
    increments = span[:, None] / (_STABILISATION_POINTS - 1) * (slopes[:, 1:] + slopes[:, :-1]) / 2
    table = F.pad(increments.cumsum(1), (1, 0))
    position = (
        (pilot[0] - low[:, None, None]) / span[:, None, None] * (_STABILISATION_POINTS - 1)
    ).flatten(1)
    index = position.long().clamp(0, _STABILISATION_POINTS - 2)
    lower, upper = table.gather(1, index), table.gather(1, index + 1)
    stable_pilot = (lower + (position - index) * (upper - lower)).reshape(pilot.shape[1:])
    std = noise_variance.compute_variance(pilot)[0].sqrt()
    stable_measurement = stable_pilot + measured_mask[0] * (measurement[0] - pilot[0]) / std
    return _StabilisedImages(stable_pilot, stable_measurement, std)


def _compute_principal_components(image: Tensor) -> Tensor:
    """Return the orthonormal components (D, C) of an image's differences, strongest first."""
    details = torch.cat([torch.diff(image, dim=axis).flatten(1) for axis in (1, 2)], 1)
    # on the CPU, since Apple GPUs have no double precision
    vectors: Tensor = torch.linalg.eigh((details @ details.T).cpu().double()).eigenvectors
    return vectors.flip(1).T.to(image)


def _make_hadamard_matrix() -> Tensor:
    """Return the orthonormal Hadamard matrix of a group, THRESHOLD_GROUP_SIZE a side."""
    rows = torch.ones(1, 1)
    while len(rows) < THRESHOLD_GROUP_SIZE:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows / sqrt(THRESHOLD_GROUP_SIZE)


def threshold_patch_groups(
    image: Tensor,
    blocks: Sequence[PatchBlock],
    power: Tensor,
    sigmas: Tensor | float = HARD_THRESHOLD_SIGMAS,
) -> Tensor:
    """Apply a hard threshold to all groups, and average their patches: (C, Y, X).

    The first `THRESHOLD_GROUP_SIZE` patches of each group are used.

    Parameters
    ----------
    image : Tensor
        (C, Y, X).
    blocks : sequence of PatchBlock
        Groups of patches.
    power : Tensor
        (C or 1, PATCH_SIDE²), noise variance at each frequency of a patch.
    sigmas : Tensor or float
        Threshold in standard deviations of the noise, (PATCH_SIDE²,) if it depends on frequency.
    """
    basis, group_transform = make_dct_matrix().to(power), _make_hadamard_matrix().to(power)
    patch_transform = torch.kron(basis, basis)
    power = power[:, None, None]
    limit = torch.as_tensor(sigmas).to(power) ** 2 * power

    def threshold(measured: Tensor) -> FilteredGroups:
        measured = measured[:, :, :THRESHOLD_GROUP_SIZE] @ patch_transform.T
        spectrum = torch.einsum("kj,cgjp->cgkp", group_transform, measured)
        mask = (spectrum.square() > limit).to(measured)
        mask[:, :, 0, 0] = 1  # the mean of a group is always kept
        filtered = torch.einsum("kj,cgkp->cgjp", group_transform, spectrum.mul_(mask))
        remaining_noise = (mask * power).sum((0, 2, 3))
        return FilteredGroups(tuple(filtered @ patch_transform), remaining_noise)

    return filter_patch_groups([image], blocks, threshold)


def filter_by_nl_bayes(
    image: Tensor,
    pilot: Tensor,
    blocks: Sequence[PatchBlock],
    power: Tensor,
    guides: Sequence[Tensor] = (),
    *,
    uses_measured_mean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the posterior mean of each patch, given the mean and covariance of its group.

    Mean and covariance are those of the group in a pilot, as in the second step of NL-Bayes.
    Overlapping patches are averaged.

    Parameters
    ----------
    image, pilot : Tensor
        (C, Y, X) each.
    blocks : sequence of PatchBlock
        Groups of patches.
    power : Tensor
        (C or 1, PATCH_SIDE²), noise variance at each frequency of a patch.
    guides : sequence of Tensor
        (C, Y, X) each, other pilots. They lead a group the more, the less the pilot explains the
        mean of the group in the image; where it explains it all, by `MIN_GUIDE_WEIGHTS`.
    uses_measured_mean : bool
        Whether to take the mean of a group from the image instead of the pilot.

    Returns
    -------
    (Tensor, Tensor)
        Mean and variance, (C, Y, X) each.

    References
    ----------
    Lebrun, Buades, Morel, A nonlocal Bayesian image denoising algorithm, SIAM Journal on Imaging
    Sciences 6(3), 2013, doi:10.1137/120874989.
    """
    is_white = torch.equal(power, power[:, :1].expand_as(power))
    basis = make_dct_matrix().to(power)
    patch_transform = torch.kron(basis, basis)
    precision = patch_transform.T @ (patch_transform / power[..., None])  # (C or 1, P², P²)

    def estimate(measured: Tensor, leads: Tensor, *other_leads: Tensor) -> FilteredGroups:
        error = _measure_pilot_error(measured, leads, power)
        for other, minimum in zip(other_leads, MIN_GUIDE_WEIGHTS, strict=False):
            weight = minimum + (1 - minimum) * error / (error + HALF_WEIGHT_ERROR)
            leads = torch.lerp(leads, other, weight)
        mean = leads.mean(2, keepdim=True)
        details = leads - mean
        mean = measured.mean(2, keepdim=True) if uses_measured_mean else mean
        # with fewer patches than pixels in a patch, the Gram matrix is the smaller one
        weighted = details / power[:, None, None, :1] if is_white else details @ precision[:, None]
        gram = weighted @ details.mT
        identity = torch.eye(gram.shape[-1]).to(gram)
        floor = COVARIANCE_FLOOR * gram.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
        regularised = gram + floor.clamp(min=NOISE_FACTOR * (gram.shape[-1] - 1)) * identity
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(regularised).L)
        projection = inverse @ details
        filtered = mean + ((measured - mean) @ weighted.mT) @ projection
        patch_variance = NOISE_FACTOR * (details * projection).sum(2)
        shrinkage = gram @ inverse
        remaining_noise = (shrinkage * shrinkage.mT).sum((0, 2, 3))
        return FilteredGroups((*filtered, *patch_variance[:, :, None]), remaining_noise)

    mean, variance = filter_patch_groups([image, pilot, *guides], blocks, estimate).chunk(2)
    return mean, variance


def _measure_pilot_error(measured: Tensor, leads: Tensor, power: Tensor) -> Tensor:
    """Return what a pilot misses of each group's mean, in noise variances: (C, G, 1, 1)."""
    residual = (measured - leads).mean(2, keepdim=True).square().mean(3, keepdim=True)
    noise = GROUP_MEAN_NOISE_RATIO / measured.shape[2] * power.mean(1)[:, None, None, None]
    return (residual - noise).clamp(min=0)


def filter_camera_noise(
    image: Tensor, camera_noise: CameraNoise, pilot: Tensor | None = None, guide_weight: float = 0.0
) -> Estimate:
    """Filter the noise of red, green and blue together.

    Parameters
    ----------
    image : Tensor
        (1, 3, Y, X).
    camera_noise : CameraNoise
        In the image's units.
    pilot : Tensor or None
        (1, 3, Y, X), another estimate of the image, as a further pilot of the Wiener filter.
    guide_weight : float
        Weight of that pilot against the hard-thresholded image, 0 to 1.

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
    opponent = make_opponent_matrix().to(image)
    components = torch.einsum("dc,cyx->dyx", opponent, image[0])
    pilot = None if pilot is None else torch.einsum("dc,cyx->dyx", opponent, pilot[0])
    rng = torch.Generator().manual_seed(0)
    sample = draw_noise_sample(camera_noise, (NOISE_SAMPLE_SIDE, NOISE_SAMPLE_SIDE), rng).to(image)
    mean, variance = _filter_pyramid(components, sample, pilot, guide_weight, PYRAMID_LEVELS)
    return Estimate(
        torch.einsum("cd,dyx->cyx", opponent.T, mean)[None],
        (CAMERA_VARIANCE_FACTOR * torch.einsum("cd,dyx->cyx", opponent.T**2, variance))
        .clamp(min=1e-12)
        .log()[None],
    )


def _filter_pyramid(
    image: Tensor, sample: Tensor, pilot: Tensor | None, guide_weight: float, level_count: int
) -> tuple[Tensor, Tensor]:
    """Filter components (3, Y, X) at several levels, the coarsest first: mean and variance."""
    if level_count == 1 or min(image.shape[1:]) < 2 * MIN_SIDE:
        return _filter_level(image, _measure_frequency_power(sample), pilot, guide_weight)
    image_size = tuple(image.shape[1:])
    coarse = halve_resolution(image)
    coarse_guide = None if pilot is None else halve_resolution(pilot)
    filtered_coarse, variance = _filter_pyramid(
        coarse, halve_resolution(sample), coarse_guide, guide_weight, level_count - 1
    )
    image = image + double_resolution((filtered_coarse - coarse)[:, None], image_size)[:, 0]
    blurred = double_resolution(halve_resolution(sample)[:, None], tuple(sample.shape[1:]))[:, 0]
    power = RESIDUAL_NOISE_FRACTION * _measure_frequency_power(blurred)
    power = power + _measure_frequency_power(sample - blurred)
    mean, added_variance = _filter_level(image, power, pilot, guide_weight)
    return mean, added_variance + F.interpolate(variance[None], image_size)[0]


def _filter_level(
    image: Tensor, power: Tensor, pilot: Tensor | None, guide_weight: float
) -> tuple[Tensor, Tensor]:
    """Filter components by a hard threshold, then by a Wiener filter guided by the result."""
    height, width = image.shape[1:]
    sides = compute_patch_padding((height, width))
    padded = F.pad(image[None], sides, mode="replicate")[0]
    weight = power.mean(1).rsqrt()
    weight[1:] *= COLOUR_WEIGHT
    smooth = F.avg_pool2d(F.pad(padded[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    blocks = group_patches(smooth * weight[:, None, None])
    thresholded = threshold_patch_groups(padded, blocks, power)
    if pilot is not None:
        thresholded = torch.lerp(
            thresholded, F.pad(pilot[None], sides, mode="replicate")[0], guide_weight
        )
    blocks = group_patches(thresholded * weight[:, None, None])
    # the network's image has wrong means where it took blotches for structure: 0.6 dB on cc15
    mean, variance = filter_by_nl_bayes(padded, thresholded, blocks, power, uses_measured_mean=True)
    return mean[:, :height, :width], variance[:, :height, :width]


def _measure_frequency_power(sample: Tensor) -> Tensor:
    """Measure the power of each frequency of a patch: (3, PATCH_SIDE²)."""
    basis = make_dct_matrix().to(sample)
    patches = sample.unfold(1, PATCH_SIDE, PATCH_SIDE // 2).unfold(2, PATCH_SIDE, PATCH_SIDE // 2)
    return (basis @ patches @ basis.T).square().mean((1, 2)).flatten(1)
