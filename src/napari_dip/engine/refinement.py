"""Refine the image after a fit: filter groups of similar patches of the measurement (NL-Bayes).

Similar patches are found in the mean of network's image and measurement. The posterior mean of
each patch, given mean and covariance of its group in a pilot, then restores repeated fine structure
that the network has smoothed. The pilot is the network's image, with a share of the first step of
BM3D where noise is white. The noise of a colour camera has blotches wider than a patch, so its
images are filtered from coarse to fine, each level removing the noise of its own frequencies.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.constants import HARD_THRESHOLD_SIGMAS
from napari_dip.engine.noise.camera_noise import draw_noise_sample, make_opponent_matrix
from napari_dip.engine.noise.correlation import compute_patch_power
from napari_dip.engine.noise.oversampling import double_resolution, halve_resolution
from napari_dip.engine.noise.variance_model import DCT_SIDE, make_dct_matrix
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.noise.camera_noise import CameraNoise

#: Side of a patch in pixels, similar to BM3D (docs/constants.md).
PATCH_SIDE = DCT_SIDE
#: Distance of groups in pixels; denser ones gain at most 0.05 dB.
GROUP_STEP = 4
#: Search radius in pixels; larger ones gain at most 0.05 dB.
SEARCH_RADIUS = 16
#: Patches in a group, for white noise: best of 32, 40 and 64 on 19 photographs (docs/constants.md).
GROUP_SIZE = 32
#: Patches in a group, for correlated noise: 64 gains 0.03 and 0.1 dB over 32 on FMD widefield.
CORRELATED_GROUP_SIZE = 64
#: Number of patches in a group whose spectrum is thresholded, as in BM3D: a power of two.
THRESHOLD_GROUP_SIZE = 16
#: Side of the search window in pixels.
SEARCH_SIDE = 2 * SEARCH_RADIUS + 1
#: Groups along each side of a block, an even number, for `select_sparse_groups`. Its search area
#: fits into the cache: 12 takes as long.
GROUPS_PER_BLOCK_SIDE = 16
#: Groups that a processor filters at a time: 256 take 100 MB more for three channels, and a tenth
#: longer. A GPU filters a block at a time.
CPU_GROUP_COUNT = 64
#: Threshold of waves of two pixels where noise grows with brightness. With few photons, the usual
#: one leaves stripes; photographs with even noise would lose 0.03 dB by it (docs/constants.md).
PHOTON_NYQUIST_SIGMAS = 4.0
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
#: Lower bound of the noise that is left in a group, in units of that of one pixel.
MIN_REMAINING_NOISE = 0.05
#: Ratio of error variance to posterior variance, which assumes an exact pilot: 90 % intervals hold
#: 92 to 94 % of the pixels of Set12, BSD68 and W2S, 82 % of FMD (docs/constants.md).
POSTERIOR_VARIANCE_FACTOR = 4.0
#: Beta of the Kaiser window that weights overlapping patches, as in BM3D.
_KAISER_BETA = 2.0
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


class PatchBlock(NamedTuple):
    """Groups of patches that are processed together.

    Attributes
    ----------
    rows, columns : slice
        Search area of the groups in the image.
    patch_indices : Tensor
        (rows of groups, columns of groups, K) int32, flat index of each patch's first pixel in that
        area, the most similar ones first; each group begins with its reference patch.
    """

    rows: slice
    columns: slice
    patch_indices: Tensor

    def select_sparse_groups(self) -> PatchBlock:
        """Return every second group along each axis, whose patches lie side by side."""
        return self._replace(patch_indices=self.patch_indices[::2, ::2])


def compute_patch_padding(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the padding for `torch.nn.functional.pad` up to an odd number of groups.

    Every second group is then enough to cover all pixels.
    """
    step = 2 * GROUP_STEP
    bottom, right = (step * ceil((side - PATCH_SIDE) / step) + PATCH_SIDE - side for side in shape)
    return 0, right, 0, bottom


def group_patches(matching_image: Tensor, group_size: int = GROUP_SIZE) -> list[PatchBlock]:
    """Return groups of similar patches.

    In an image with fewer patches than a group, some are repeated.

    Parameters
    ----------
    matching_image : Tensor
        (C, Y, X), padded as by `compute_patch_padding`.
    group_size : int
        Number of patches in a group.
    """
    rows, columns = (
        range(0, side - PATCH_SIDE + 1, GROUP_STEP) for side in matching_image.shape[1:]
    )
    return [
        _match_patches(
            matching_image,
            rows[row : row + GROUPS_PER_BLOCK_SIDE],
            columns[column : column + GROUPS_PER_BLOCK_SIDE],
            group_size,
        )
        for row in range(0, len(rows), GROUPS_PER_BLOCK_SIDE)
        for column in range(0, len(columns), GROUPS_PER_BLOCK_SIDE)
    ]


def _match_patches(
    matching_image: Tensor, rows: range, columns: range, group_size: int
) -> PatchBlock:
    """Group the patches that begin in these rows and columns with the most similar ones."""
    padding, search_slices = zip(
        *(
            _find_search_area(*span)
            for span in zip((rows, columns), matching_image.shape[1:], strict=True)
        ),
        strict=True,
    )
    distances = _compute_patch_distances(
        matching_image[:, search_slices[0], search_slices[1]], padding, len(rows), len(columns)
    )
    nearest = distances.topk(group_size, largest=False)
    matches = nearest.indices.where(nearest.values < torch.inf, nearest.indices[..., :1])
    dy, dx = matches // SEARCH_SIDE - SEARCH_RADIUS, matches % SEARCH_SIDE - SEARCH_RADIUS
    reference_rows, reference_columns = (
        torch.arange(len(span), device=matches.device) * GROUP_STEP + span[0] - searched.start
        for span, searched in zip((rows, columns), search_slices, strict=True)
    )
    width = search_slices[1].stop - search_slices[1].start
    indices = (reference_rows[:, None, None] + dy) * width + reference_columns[:, None] + dx
    return PatchBlock(search_slices[0], search_slices[1], indices.int())


def _find_search_area(starts: range, side: int) -> tuple[tuple[int, int], slice]:
    """Return the padding of the search area before and after the image, and its slice of it."""
    first_start, last_start = starts[0] - SEARCH_RADIUS, starts[-1] + SEARCH_RADIUS
    max_start = side - PATCH_SIDE
    padding = max(0, -first_start), max(0, last_start - max_start)
    return padding, slice(first_start + padding[0], last_start - padding[1] + PATCH_SIDE)


def _compute_patch_distances(
    search_area: Tensor, padding: tuple[tuple[int, int], ...], rows: int, columns: int
) -> Tensor:
    """Return squared distances less a constant for each group: (rows, columns, SEARCH_SIDE²).

    They are -inf for the reference patch itself, which so comes first, and inf in the padding.
    |a - b|² = |a|² + |b|² - 2 a b is fastest as a matrix product. Relative to the search area's
    mean, rounding selects another patch once in 80,000 times.
    """
    centred = search_area - search_area.mean((1, 2), keepdim=True)
    windows = centred.unfold(1, PATCH_SIDE, 1).unfold(2, PATCH_SIDE, 1).permute(1, 2, 0, 3, 4)
    patches = windows.reshape(*windows.shape[:2], -1)  # (h, w, C P²)
    lengths = torch.einsum("yxd,yxd->yx", patches, patches)
    (top, bottom), (left, right) = padding
    sides = (left, right, top, bottom)
    if any(sides):
        patches = F.pad(patches, (0, 0, *sides))
        lengths = F.pad(lengths, sides, value=torch.inf)
    _, width, depth = patches.shape
    references = patches[
        SEARCH_RADIUS:-SEARCH_RADIUS:GROUP_STEP, SEARCH_RADIUS:-SEARCH_RADIUS:GROUP_STEP
    ]
    # the search area of a row of groups is SEARCH_SIDE whole rows, contiguous in memory
    search_layout = (rows, depth, SEARCH_SIDE * width), (GROUP_STEP * width * depth, 1, depth)
    search_lengths = lengths.as_strided((rows, 1, SEARCH_SIDE * width), (GROUP_STEP * width, 0, 1))
    banded = torch.baddbmm(search_lengths, references, patches.as_strided(*search_layout), alpha=-2)
    strides = columns * SEARCH_SIDE * width, SEARCH_SIDE * width + GROUP_STEP, width, 1
    distances = banded.as_strided((rows, columns, SEARCH_SIDE, SEARCH_SIDE), strides).flatten(2)
    distances[..., SEARCH_SIDE**2 // 2] = -torch.inf
    return distances


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
    uses_pilot_only: bool = False,
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
    uses_pilot_only : bool
        Whether the pilot has information from neighbouring frames. Then it is the only pilot, which
        gained 0.26 to 0.36 dB on two stacks of an embryo and a movie, with peaks of 30 photons.

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
    )
    guides = []
    if correlation is None and not uses_pilot_only:
        sigmas = torch.full((PATCH_SIDE, PATCH_SIDE), HARD_THRESHOLD_SIGMAS)
        if bool((noise_variance.gain > 0).any()):
            sigmas[-1] = sigmas[:, -1] = PHOTON_NYQUIST_SIGMAS
        guides = [threshold_patch_groups(measured_colours, blocks, power, sigmas.flatten())]
        # with all groups it takes 0.4 s more of 512 x 512 pixels, for 0.00 to 0.01 dB
        sparse_blocks = [block.select_sparse_groups() for block in blocks]
        first, _ = filter_by_nl_bayes(measured_colours, pilot_colours, sparse_blocks, power, guides)
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

    def threshold(measured: Tensor) -> _FilteredGroups:
        measured = measured[:, :, :THRESHOLD_GROUP_SIZE] @ patch_transform.T
        spectrum = torch.einsum("kj,cgjp->cgkp", group_transform, measured)
        mask = (spectrum.square() > limit).to(measured)
        mask[:, :, 0, 0] = 1  # the mean of a group is always kept
        filtered = torch.einsum("kj,cgkp->cgjp", group_transform, spectrum.mul_(mask))
        remaining_noise = (mask * power).sum((0, 2, 3))
        return _FilteredGroups(tuple(filtered @ patch_transform), remaining_noise)

    return _filter_patch_groups([image], blocks, threshold)


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
        mean of the group in the image.
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

    def estimate(measured: Tensor, leads: Tensor, *other_leads: Tensor) -> _FilteredGroups:
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
        return _FilteredGroups((*filtered, *patch_variance[:, :, None]), remaining_noise)

    mean, variance = _filter_patch_groups([image, pilot, *guides], blocks, estimate).chunk(2)
    return mean, variance


def _measure_pilot_error(measured: Tensor, leads: Tensor, power: Tensor) -> Tensor:
    """Return what a pilot misses of each group's mean, in noise variances: (C, G, 1, 1)."""
    residual = (measured - leads).mean(2, keepdim=True).square().mean(3, keepdim=True)
    noise = GROUP_MEAN_NOISE_RATIO / measured.shape[2] * power.mean(1)[:, None, None, None]
    return (residual - noise).clamp(min=0)


class _FilteredGroups(NamedTuple):
    """Values of all patches, each (G, K or 1, P²), the first (G, K, P²), and noise left (G,)."""

    values: tuple[Tensor, ...]
    remaining_noise: Tensor


def _filter_patch_groups(
    images: Sequence[Tensor],
    blocks: Sequence[PatchBlock],
    filter_groups: Callable[..., _FilteredGroups],
) -> Tensor:
    """Filter all groups of these images, (C, Y, X) each, and average each value: (V, Y, X)."""
    sums: Tensor | None = None
    window = torch.kaiser_window(PATCH_SIDE, periodic=False, beta=_KAISER_BETA).to(images[0])
    window = (window[:, None] * window).flatten()
    pixel_offsets = torch.arange(PATCH_SIDE, device=window.device, dtype=torch.int32)
    for rows, columns, patch_indices in blocks:
        crops = [image[:, rows, columns] for image in images]
        offsets = (pixel_offsets[:, None] * crops[0].shape[2] + pixel_offsets).flatten()
        block_sums: Tensor | None = None
        block_groups = patch_indices.flatten(0, 1)
        group_count = CPU_GROUP_COUNT if window.device.type == "cpu" else len(block_groups)
        for groups in block_groups.split(group_count):
            indices = groups[..., None] + offsets  # (G, K, P²)
            filtered = filter_groups(*(_gather_pixels(crop, indices) for crop in crops))
            patch_count = filtered.values[0].shape[1]
            weight = 1 / filtered.remaining_noise.clamp(min=MIN_REMAINING_NOISE)
            weight = (weight[:, None, None] * window).expand(-1, patch_count, -1)
            values = (*(weight * value for value in filtered.values), weight)
            if block_sums is None:
                block_sums = window.new_zeros(len(values), crops[0][0].numel())
            for total, value in zip(block_sums, values, strict=True):
                total.index_add_(0, indices[:, :patch_count].flatten(), value.flatten())
        assert block_sums is not None  # each block has a group
        if sums is None:
            sums = window.new_zeros(len(block_sums), *images[0].shape[1:])
        sums[:, rows, columns] += block_sums.reshape(-1, *crops[0].shape[1:])
    assert sums is not None  # each image has a group
    return sums[:-1] / sums[-1]


def _gather_pixels(image: Tensor, indices: Tensor) -> Tensor:
    """Return the pixels (C, *indices) of an image (C, Y, X) at flat indices."""
    channels = [channel.flatten().index_select(0, indices.flatten()) for channel in image]
    return torch.stack(channels).reshape(-1, *indices.shape)


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
