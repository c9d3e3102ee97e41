"""Filter groups of similar patches of the measurement, guided by the network's picture (BM3D).

Similar patches are found in the mean of network's picture and measurement. A Wiener filter in the
groups' transform then restores repeated fine structure that the network has smoothed.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.noise.variance_model import DCT_SIDE, make_dct_matrix
from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.engine.likelihood.fidelity import NoiseVariance

#: Side of a patch, number of patches in a group, distance of neighbouring groups and search radius,
#: in pixels; similar to BM3D. On five 256 x 256 crops of FMD, patches of 6 or 12, groups of 8 or 32
#: and a radius of 24 are within 0.1 dB. On cameraman, peppers, starfish and W2S 077_2, groups of 32
#: lose 0.1 dB on three; a radius of 20 or groups every 2 pixels gain at most 0.05 dB.
PATCH_SIDE, GROUP_SIZE, GROUP_STEP, SEARCH_RADIUS = DCT_SIDE, 16, 3, 16
#: Side of the search window in pixels.
SEARCH_SIDE = 2 * SEARCH_RADIUS + 1
#: Groups along each side of a block, whose search area fits into the processor's cache. Of 12, 16
#: and 24, 12 and 16 were the fastest, within 5 %.
GROUPS_PER_BLOCK_SIDE = 16
#: Share of the measurement in the picture in which patches are compared; the network's picture
#: lacks structure that it has smoothed. With 0.5 instead of 0, preset `fast` gains 0.00 to 0.33 dB
#: on five images of FMD, seven of Set12 (noise of 25 or 50) and Hagen's actin and nucleus, and 0.2
#: to 1.0 dB on W2S 010_0, 077_2 and 100_1. 0.7 and 1 are within 0.1 dB of it, or worse.
MATCHING_MEASUREMENT_WEIGHT = 0.5
#: Share of the hard-thresholded measurement in the picture that guides the Wiener filter, for white
#: noise, and threshold in standard deviations (as in BM3D). Of 0.25, 0.4 and 0.5, 0.4 has the best
#: balance: it loses 0.08 dB on starfish and 0.05 dB on W2S, and gains 0.5 dB on barbara and 0.2 dB
#: on lena and peppers in colour.
HARD_THRESHOLD_WEIGHT, HARD_THRESHOLD_SIGMAS = 0.4, 2.7
#: Ratio of the error variance to that of the Wiener filter, which assumes an exact guide: 1.5 to
#: 2.8 on 192 x 192 crops of camera, coins and cell of scikit-image, each with Gaussian noise of 20
#: and with photon noise.
WIENER_VARIANCE_FACTOR = 2.4
#: Beta of the Kaiser window that weights overlapping patches, as in BM3D.
_KAISER_BETA = 2.0
#: Points of the table of the variance-stabilising transform; linear interpolation has errors below
#: 1e-5 of the noise.
_STABILISATION_POINTS = 2048
#: Lower bound of the noise power at each frequency along one axis of a patch.
_MIN_PATCH_POWER = 0.02


class PatchBlock(NamedTuple):
    """Groups of patches that are processed together.

    Attributes
    ----------
    rows, columns : slice
        Search area of the groups in the picture.
    patch_indices : Tensor
        (G, GROUP_SIZE) int32, flat index of each patch's first pixel in that area; each group's
        reference patch comes first.
    """

    rows: slice
    columns: slice
    patch_indices: Tensor


def compute_patch_padding(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the padding for `torch.nn.functional.pad` up to a whole number of group steps."""
    below, right = (
        GROUP_STEP * ceil((side - PATCH_SIDE) / GROUP_STEP) + PATCH_SIDE - side for side in size
    )
    return 0, right, 0, below


def group_patches(matching_picture: Tensor) -> list[PatchBlock]:
    """Return groups of similar patches.

    In a picture with fewer patches than a group, some are repeated.

    Parameters
    ----------
    matching_picture : Tensor
        (C, Y, X), padded as by `compute_patch_padding`.
    """
    rows, columns = (
        range(0, side - PATCH_SIDE + 1, GROUP_STEP) for side in matching_picture.shape[1:]
    )
    return [
        _match_patches(
            matching_picture,
            rows[row : row + GROUPS_PER_BLOCK_SIDE],
            columns[column : column + GROUPS_PER_BLOCK_SIDE],
        )
        for row in range(0, len(rows), GROUPS_PER_BLOCK_SIDE)
        for column in range(0, len(columns), GROUPS_PER_BLOCK_SIDE)
    ]


def _match_patches(matching_picture: Tensor, rows: range, columns: range) -> PatchBlock:
    """Group the patches that begin in these rows and columns with the most similar ones."""
    beyond, part = zip(
        *(
            _find_search_area(*span)
            for span in zip((rows, columns), matching_picture.shape[1:], strict=True)
        ),
        strict=True,
    )
    distances = _compute_patch_distances(
        matching_picture[:, part[0], part[1]], beyond, len(rows), len(columns)
    )
    nearest = distances.topk(GROUP_SIZE, largest=False)
    matches = nearest.indices.where(nearest.values < torch.inf, nearest.indices[..., :1])
    down, right = matches // SEARCH_SIDE - SEARCH_RADIUS, matches % SEARCH_SIDE - SEARCH_RADIUS
    reference_rows, reference_columns = (
        torch.arange(len(span), device=matches.device) * GROUP_STEP + span[0] - block_size.start
        for span, block_size in zip((rows, columns), part, strict=True)
    )
    width = part[1].stop - part[1].start
    indices = (reference_rows[:, None, None] + down) * width + reference_columns[:, None] + right
    return PatchBlock(part[0], part[1], indices.flatten(0, 1).int())


def _find_search_area(own: range, side: int) -> tuple[tuple[int, int], slice]:
    """Return the search pixels beyond the picture, before and after, and the slice within it."""
    first, last = own[0] - SEARCH_RADIUS, own[-1] + SEARCH_RADIUS
    last_start = side - PATCH_SIDE
    beyond = max(0, -first), max(0, last - last_start)
    return beyond, slice(first + beyond[0], last - beyond[1] + PATCH_SIDE)


def _compute_patch_distances(
    part: Tensor, beyond: tuple[tuple[int, int], ...], down: int, across: int
) -> Tensor:
    """Return squared distances, less a constant for each group: (down, across, SEARCH_SIDE²).

    They are -inf for the reference patch itself, which so comes first, and inf beyond the picture.
    |a - b|² = |a|² + |b|² - 2 a b is fastest as a matrix product. Relative to the part's mean,
    rounding selects another patch once in 80,000 times.
    """
    centred = part - part.mean((1, 2), keepdim=True)
    cut = centred.unfold(1, PATCH_SIDE, 1).unfold(2, PATCH_SIDE, 1).permute(1, 2, 0, 3, 4)
    patches = cut.reshape(*cut.shape[:2], -1)  # (h, w, C P²)
    lengths = torch.einsum("yxd,yxd->yx", patches, patches)
    (above, below), (left, right) = beyond
    sides = (left, right, above, below)
    if any(sides):
        patches = F.pad(patches, (0, 0, *sides))
        lengths = F.pad(lengths, sides, value=torch.inf)
    _, width, depth = patches.shape
    references = patches[
        SEARCH_RADIUS:-SEARCH_RADIUS:GROUP_STEP, SEARCH_RADIUS:-SEARCH_RADIUS:GROUP_STEP
    ]
    # the search area of a row of groups is SEARCH_SIDE whole rows, contiguous in memory
    search_layout = (down, depth, SEARCH_SIDE * width), (GROUP_STEP * width * depth, 1, depth)
    search_lengths = lengths.as_strided((down, 1, SEARCH_SIDE * width), (GROUP_STEP * width, 0, 1))
    banded = torch.baddbmm(search_lengths, references, patches.as_strided(*search_layout), alpha=-2)
    strides = across * SEARCH_SIDE * width, SEARCH_SIDE * width + GROUP_STEP, width, 1
    distances = banded.as_strided((down, across, SEARCH_SIDE, SEARCH_SIDE), strides).flatten(2)
    distances[..., SEARCH_SIDE**2 // 2] = -torch.inf
    return distances


class _StabilisedImages(NamedTuple):
    """Variance-stabilised pilot and measurement, and the noise's standard deviation: (C, Y, X)."""

    pilot: Tensor
    measurement: Tensor
    deviation: Tensor


def refine_by_bm3d(
    noise: NoiseVariance,
    measurement: Tensor,
    pilot: Tensor,
    measured_mask: Tensor,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    *,
    uses_pilot_only: bool = False,
) -> Estimate:
    """Filter a measurement collaboratively, guided by a pilot picture.

    The noise variance is stabilised by a transform that is linear around the pilot, so that its
    inverse adds no bias. Channels are transformed to their principal components.

    Parameters
    ----------
    noise : NoiseVariance
    measurement : Tensor
        (1, C, Y, X), at least `PATCH_SIDE` pixels a side.
    pilot : Tensor
        (1, C, Y, X), present estimate of the picture.
    measured_mask : Tensor
        (1, 1, Y, X), 1 where there is a measurement. At 0 the pilot replaces it; values in between
        blend the two.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white.
    uses_pilot_only : bool
        Whether the pilot has information from neighbouring frames. Then it is the only guide, which
        gained 0.26 and 0.30 dB on two crops of 20 planes of an embryo and 0.36 dB on 20 frames of
        membranes, all with Poisson noise of a peak of 30 counts and Gaussian noise of 2.

    Returns
    -------
    Estimate
        (1, C, Y, X), with `WIENER_VARIANCE_FACTOR` times the variance of the Wiener filter.

    References
    ----------
    Dabov, Foi, Katkovnik, Egiazarian, Image denoising by sparse 3-D transform-domain
    collaborative filtering, IEEE TIP 16(8), 2007, doi:10.1109/TIP.2007.901238 (its second step,
    guided by the network's picture and the result of its first step).
    """
    grid = tuple(measurement.shape[2:])
    sides = compute_patch_padding(grid)
    padded = [F.pad(item, sides, mode="replicate") for item in (pilot, measurement, measured_mask)]
    stabilised = _stabilise_variance(noise, *padded)
    components = _compute_principal_components(stabilised.pilot)
    pilot_colours, measured_colours = (
        torch.einsum("dc,cyx->dyx", components, item) for item in stabilised[:2]
    )
    power = _compute_patch_power(correlation).to(pilot_colours)[None]
    blocks = group_patches(torch.lerp(pilot_colours, measured_colours, MATCHING_MEASUREMENT_WEIGHT))
    if correlation is None and not uses_pilot_only:
        thresholded, _ = filter_patch_groups([measured_colours], blocks, power)
        pilot_colours = torch.lerp(pilot_colours, thresholded, HARD_THRESHOLD_WEIGHT)
    mean, remaining = filter_patch_groups([measured_colours, pilot_colours], blocks, power)
    mean = torch.einsum("dc,dyx->cyx", components, mean)
    remaining = torch.einsum("dc,dyx->cyx", components**2, remaining)
    picture = padded[0] + (stabilised.deviation * (mean - stabilised.pilot))[None]
    crop = (..., slice(grid[0]), slice(grid[1]))
    variance = (stabilised.deviation**2 * WIENER_VARIANCE_FACTOR * remaining)[None].clamp(min=1e-12)
    return Estimate(picture[crop], variance[crop].log())


def _stabilise_variance(
    noise: NoiseVariance, pilot: Tensor, measurement: Tensor, measured_mask: Tensor
) -> _StabilisedImages:
    """Stabilise the variance to 1: f(pilot) + f'(pilot) (measurement - pilot), f' = 1 / sigma."""
    low = pilot.amin((0, 2, 3))
    span = (pilot.amax((0, 2, 3)) - low).clamp(min=1e-6)
    fractions = torch.linspace(0, 1, _STABILISATION_POINTS, device=pilot.device)
    levels = low[:, None] + span[:, None] * fractions  # (C, _TABLE)
    slope = noise.evaluate(levels[None, :, :, None])[0, :, :, 0].rsqrt()
    steps = span[:, None] / (_STABILISATION_POINTS - 1) * (slope[:, 1:] + slope[:, :-1]) / 2
    table = F.pad(steps.cumsum(1), (1, 0))
    position = (
        (pilot[0] - low[:, None, None]) / span[:, None, None] * (_STABILISATION_POINTS - 1)
    ).flatten(1)
    index = position.long().clamp(0, _STABILISATION_POINTS - 2)
    left, right = table.gather(1, index), table.gather(1, index + 1)
    stable_pilot = (left + (position - index) * (right - left)).reshape(pilot.shape[1:])
    deviation = noise.evaluate(pilot)[0].sqrt()
    stable_measurement = stable_pilot + measured_mask[0] * (measurement[0] - pilot[0]) / deviation
    return _StabilisedImages(stable_pilot, stable_measurement, deviation)


def _compute_principal_components(picture: Tensor) -> Tensor:
    """Return the orthonormal components (D, C) of a picture's differences, strongest first."""
    details = torch.cat([torch.diff(picture, dim=axis).flatten(1) for axis in (1, 2)], 1)
    vectors: Tensor = torch.linalg.eigh((details @ details.T).double()).eigenvectors
    return vectors.flip(1).T.to(picture)


def _compute_patch_power(correlation: tuple[tuple[float, ...], tuple[float, ...]] | None) -> Tensor:
    """Return the power of noise of variance 1 at each frequency of a patch: (PATCH_SIDE²,)."""
    if correlation is None:
        return torch.ones(PATCH_SIDE**2)
    basis = make_dct_matrix().float()
    lags = (torch.arange(PATCH_SIDE)[:, None] - torch.arange(PATCH_SIDE)).abs()
    powers = []
    for along in correlation:
        values = torch.zeros(PATCH_SIDE)
        values[0] = 1
        count = min(len(along), PATCH_SIDE - 1)
        values[1 : count + 1] = torch.tensor(along[:count])
        powers.append((basis @ values[lags] @ basis.T).diagonal().clamp(min=_MIN_PATCH_POWER))
    return (powers[0][:, None] * powers[1]).flatten()


def _make_hadamard_matrix() -> Tensor:
    """Return the orthonormal Hadamard matrix of a group: (GROUP_SIZE, GROUP_SIZE)."""
    rows = torch.ones(1, 1)
    while len(rows) < GROUP_SIZE:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows / sqrt(GROUP_SIZE)


def filter_patch_groups(
    pictures: Sequence[Tensor], blocks: Sequence[PatchBlock], power: Tensor
) -> tuple[Tensor, Tensor]:
    """Filter all groups and aggregate them: mean and variance, (C, Y, X) each.

    Parameters
    ----------
    pictures : sequence of Tensor
        (C, Y, X) each, the picture to filter and optionally a guide. With a guide, the filter is a
        Wiener filter, without one a hard threshold.
    blocks : sequence of PatchBlock
        Groups of patches.
    power : Tensor
        (C or 1, PATCH_SIDE²), noise variance at each frequency of a patch.
    """
    channels, height, width = pictures[0].shape
    sums = power.new_zeros(2 * channels + 1, height, width)
    basis, group_transform = make_dct_matrix().to(power), _make_hadamard_matrix().to(power)
    patch_transform = torch.kron(basis, basis)
    window = torch.kaiser_window(PATCH_SIDE, periodic=False, beta=_KAISER_BETA).to(power)
    window = (window[:, None] * window).flatten()
    for rows, columns, indices in blocks:
        parts = [picture[:, rows, columns] for picture in pictures]
        sums[:, rows, columns] += _filter_patch_block(
            parts, indices, power, (patch_transform, group_transform, window)
        )
    mean, variance, weight = sums.split([channels, channels, 1])
    return mean / weight, variance / weight


def _filter_patch_block(
    pictures: Sequence[Tensor], first: Tensor, power: Tensor, fixed: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return weighted sums of means, variances and weights of some groups: (2 C + 1, Y, X).

    Parameters
    ----------
    pictures : sequence of Tensor
        (C, Y, X) each, search area of the groups.
    first : Tensor
        (G, GROUP_SIZE), flat indices of the patches' first pixels in it.
    power : Tensor
        (C or 1, P²), with P = PATCH_SIDE.
    fixed : (Tensor, Tensor, Tensor)
        Transforms of a patch (P², P²) and of a group (GROUP_SIZE, GROUP_SIZE), and the window
        (P²,).
    """
    channels, height, width = pictures[0].shape
    patch_transform, group_transform, window = fixed
    power = power[:, None, None]
    steps = torch.arange(PATCH_SIDE, device=power.device, dtype=torch.int32)
    indices = first[..., None] + (steps[:, None] * width + steps).flatten()  # (G, GROUP, P²)
    measured, *guide = (
        torch.einsum(
            "kj,cgjp->cgkp", group_transform, _gather_pixels(picture, indices) @ patch_transform.T
        )
        for picture in pictures
    )
    if guide:
        strength = guide[0].square_()
        share = strength / (strength + power)
    else:
        share = (measured.square() > HARD_THRESHOLD_SIGMAS**2 * power).to(measured)
    share[:, :, 0, 0] = 1  # the mean of a group is always kept
    certainty = 1 / (share**2 * power).sum((0, 2, 3)).clamp(min=1e-9)  # (G,)
    filtered = (
        torch.einsum("kj,cgkp->cgjp", group_transform, measured.mul_(share)) @ patch_transform
    )
    remaining = (share * power).mean((2, 3))  # (C, G)
    weight = (certainty[:, None, None] * window).expand(-1, GROUP_SIZE, -1)
    contributions = (*(weight * filtered), *(weight * remaining[..., None, None]), weight)
    sums = power.new_zeros(2 * channels + 1, height * width)
    for accumulator, values in zip(sums, contributions, strict=True):
        accumulator.index_add_(0, indices.flatten(), values.flatten())
    return sums.reshape(-1, height, width)


def _gather_pixels(picture: Tensor, places: Tensor) -> Tensor:
    """Return the pixels (C, *places) of a picture (C, Y, X) at flat indices."""
    channels = [channel.flatten().index_select(0, places.flatten()) for channel in picture]
    return torch.stack(channels).reshape(-1, *places.shape)
