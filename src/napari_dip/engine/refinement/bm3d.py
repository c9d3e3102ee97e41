"""The last look at a picture: patches that look alike are filtered together.

The network's picture and the measurement together say which patches show the same thing, and how
strong each of their frequencies is. With both known, the measurement itself is filtered once more,
by Wiener's rule in the patches' common transform: fine structure that returns elsewhere in the
picture, and that the network has smoothed, comes back.

Which patches of a picture look alike.
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

#: Side of a patch, patches in a group, distance of neighbouring groups, and how far away patches
#: are looked for, in pixels: near those of BM3D. On five 256 x 256 crops of FMD, patches of 6 or
#: 12, groups of 8 or 32 and a reach of 24 lie within 0.1 dB; on cameraman, peppers, starfish and
#: W2S 077_2 groups of 32 lose 0.1 dB on three, a reach of 20 or groups every 2 pixels gain at most
#: 0.05.
PATCH_SIDE, GROUP_SIZE, GROUP_STEP, SEARCH_RADIUS = DCT_SIDE, 16, 3, 16
#: Places along an axis in which a group's patches are looked for.
SEARCH_SIDE = 2 * SEARCH_RADIUS + 1
#: Groups a side that are worked on at a time: what they look at stays in a processor's cache (of
#: 12, 16 and 24, 12 and 16 were the soonest, within 5 %).
GROUPS_PER_BLOCK_SIDE = 16


class PatchBlock(NamedTuple):
    """Groups that are worked on together.

    Attributes
    ----------
    rows, columns : slice
        The part of the picture that they look at.
    places : Tensor
        (G, GROUP) int32: first pixels of patches, counted row by row in that part; each group's own
        comes first.
    """

    rows: slice
    columns: slice
    places: Tensor


def compute_patch_padding(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Rows and columns, as `torch.nn.functional.pad` takes them, up to a whole number of steps."""
    below, right = (
        GROUP_STEP * ceil((side - PATCH_SIDE) / GROUP_STEP) + PATCH_SIDE - side for side in size
    )
    return 0, right, 0, below


def group_patches(compared: Tensor) -> list[PatchBlock]:
    """Find the patches that look alike, in as few bytes as their places fit into.

    A picture smaller than a group's patches repeats some of them.

    Parameters
    ----------
    compared : Tensor
        (C, Y, X), Y and X a whole number of steps and a patch.
    """
    rows, columns = (range(0, side - PATCH_SIDE + 1, GROUP_STEP) for side in compared.shape[1:])
    return [
        _match_patches(
            compared,
            rows[row : row + GROUPS_PER_BLOCK_SIDE],
            columns[column : column + GROUPS_PER_BLOCK_SIDE],
        )
        for row in range(0, len(rows), GROUPS_PER_BLOCK_SIDE)
        for column in range(0, len(columns), GROUPS_PER_BLOCK_SIDE)
    ]


def _match_patches(compared: Tensor, rows: range, columns: range) -> PatchBlock:
    """Group the patches that begin in these rows and columns with those that look most alike."""
    beyond, part = zip(
        *(
            _find_search_area(*item)
            for item in zip((rows, columns), compared.shape[1:], strict=True)
        ),
        strict=True,
    )
    distances = _compute_patch_distances(
        compared[:, part[0], part[1]], beyond, len(rows), len(columns)
    )
    nearest = distances.topk(GROUP_SIZE, largest=False)
    matches = nearest.indices.where(nearest.values < torch.inf, nearest.indices[..., :1])
    down, aside = matches // SEARCH_SIDE - SEARCH_RADIUS, matches % SEARCH_SIDE - SEARCH_RADIUS
    own_rows, own_columns = (
        torch.arange(len(item), device=matches.device) * GROUP_STEP + item[0] - block_size.start
        for item, block_size in zip((rows, columns), part, strict=True)
    )
    width = part[1].stop - part[1].start
    places = (own_rows[:, None, None] + down) * width + own_columns[:, None] + aside
    return PatchBlock(part[0], part[1], places.flatten(0, 1).int())


def _find_search_area(own: range, side: int) -> tuple[tuple[int, int], slice]:
    """Places beyond the picture that groups would look at, before and after; and the part of it."""
    first, last = own[0] - SEARCH_RADIUS, own[-1] + SEARCH_RADIUS
    most = side - PATCH_SIDE
    beyond = max(0, -first), max(0, last - most)
    return beyond, slice(first + beyond[0], last - beyond[1] + PATCH_SIDE)


def _compute_patch_distances(
    part: Tensor, beyond: tuple[tuple[int, int], ...], down: int, across: int
) -> Tensor:
    """Squared distances, less a constant for each group: (down, across, SPAN²).

    Least for a group's own patch, or flat places would be left out; infinite beyond the picture.
    |a - b|² is |a|² + |b|² - 2 a b, of which a product of matrices is the soonest; about the
    part's mean these are small enough that rounding chooses another patch once in 80,000 times.
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
    own = patches[SEARCH_RADIUS:-SEARCH_RADIUS:GROUP_STEP, SEARCH_RADIUS:-SEARCH_RADIUS:GROUP_STEP]
    # what a row of groups looks at is SPAN whole rows, one after the other in the memory
    looked_at = (down, depth, SEARCH_SIDE * width), (GROUP_STEP * width * depth, 1, depth)
    theirs = lengths.as_strided((down, 1, SEARCH_SIDE * width), (GROUP_STEP * width, 0, 1))
    apart = torch.baddbmm(theirs, own, patches.as_strided(*looked_at), alpha=-2)
    strides = across * SEARCH_SIDE * width, SEARCH_SIDE * width + GROUP_STEP, width, 1
    distances = apart.as_strided((down, across, SEARCH_SIDE, SEARCH_SIDE), strides).flatten(2)
    distances[..., SEARCH_SIDE**2 // 2] = -torch.inf
    return distances


#: Share of the measurement in the picture that patches are compared by. Compared by the network's
#: picture alone, what it has smoothed away tells nothing: with a half, `fast` gains 0.00 to 0.33 dB
#: on five pictures of FMD, seven of Set12 (noise of 25 or 50) and Hagen's actin and nucleus, 0.2 to
#: 1.0 on W2S 010_0, 077_2 and 100_1; 0.7 and 1 lie within 0.1 dB of it, or below.
MATCHING_MEASUREMENT_WEIGHT = 0.5
#: Share of what stands out of the noise in the picture that guides Wiener's rule, where neighbours
#: do not share noise, and how many standard deviations that is (as in BM3D). Of 0.25, 0.4 and 0.5,
#: 0.4 lost least where the network is right (starfish 0.08 dB, W2S 0.05) for what it gains where it
#: has smoothed (barbara 0.5 dB, lena and peppers in colour 0.2).
HARD_THRESHOLD_WEIGHT, HARD_THRESHOLD_SIGMAS = 0.4, 2.7
#: How many times larger the error's variance is than Wiener's rule says, which takes what guides it
#: for the truth: 1.5 to 2.8 on 192 x 192 crops of camera, coins and cell of scikit-image, each with
#: Gaussian noise of 20 and with photon noise.
WIENER_VARIANCE_FACTOR = 2.4
#: Shape of the window that joins overlapping patches (beta of Kaiser's), as in BM3D.
_KAISER_BETA = 2.0
#: Points of the table of the variance-stabilising transform: straight lines between them are off
#: by less than 1e-5 of the noise.
_STABILISATION_POINTS = 2048
#: Least share of the noise's power that any frequency of a patch is taken to have.
_MIN_PATCH_POWER = 0.02


class _StabilisedImages(NamedTuple):
    """Pictures in which the noise has the variance 1 everywhere: (C, Y, X) each."""

    pilot: Tensor
    measured: Tensor
    deviation: Tensor


def refine_collaboratively(
    noise: NoiseVariance,
    measurement: Tensor,
    pilot: Tensor,
    measured_mask: Tensor,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    *,
    informed: bool = False,
) -> Estimate:
    """Filter a measurement by what a picture of it shows.

    The noise is made equally strong everywhere by a transform that is linear about the pilot, so
    that going back adds no bias. Channels are turned to their principal components first.

    Parameters
    ----------
    noise : NoiseVariance
    measurement : Tensor
        (1, C, Y, X), at least `PATCH_SIDE` pixels a side.
    pilot : Tensor
        Same shape: the picture as it is known so far.
    measured_mask : Tensor
        (1, 1, Y, X), 1 where there is a measurement; elsewhere the pilot stands for it, and for
        part of it between 0 and 1.
    correlation : tuple of two tuples of float or None
        Autocorrelation of the noise at lags 1, 2, ... along Y and X; None: white.
    informed : bool
        Whether the pilot knows more than this measurement, from the frames beside: then it alone
        guides (0.26 and 0.30 dB more on two crops of 20 planes of an embryo, 0.36 on 20 frames of
        membranes, all with Poisson noise of a peak of 30 counts and normal noise of 2).

    Returns
    -------
    Estimate
        (1, C, Y, X), with `WIENER_VARIANCE_FACTOR` times the variance that Wiener's rule leaves.

    References
    ----------
    Dabov, Foi, Katkovnik, Egiazarian, Image denoising by sparse 3-D transform-domain
    collaborative filtering, IEEE TIP 16(8), 2007, doi:10.1109/TIP.2007.901238: its second step,
    guided by the network's picture and by its first step together.
    """
    grid = tuple(measurement.shape[2:])
    sides = compute_patch_padding(grid)
    whole = [F.pad(item, sides, mode="replicate") for item in (pilot, measurement, measured_mask)]
    both = _stabilise_variance(noise, *whole)
    turn = _compute_principal_components(both.pilot)
    pilot_colours, measured_colours = (torch.einsum("dc,cyx->dyx", turn, item) for item in both[:2])
    power = _compute_patch_power(correlation).to(pilot_colours)[None]
    blocks = group_patches(torch.lerp(pilot_colours, measured_colours, MATCHING_MEASUREMENT_WEIGHT))
    if correlation is None and not informed:
        rough, _ = filter_patch_groups([measured_colours], blocks, power)
        pilot_colours = torch.lerp(pilot_colours, rough, HARD_THRESHOLD_WEIGHT)
    mean, remaining = filter_patch_groups([measured_colours, pilot_colours], blocks, power)
    mean = torch.einsum("dc,dyx->cyx", turn, mean)
    remaining = torch.einsum("dc,dyx->cyx", turn**2, remaining)
    picture = whole[0] + (both.deviation * (mean - both.pilot))[None]
    here = (..., slice(grid[0]), slice(grid[1]))
    variance = (both.deviation**2 * WIENER_VARIANCE_FACTOR * remaining)[None].clamp(min=1e-12)
    return Estimate(picture[here], variance[here].log())


def _stabilise_variance(
    noise: NoiseVariance, pilot: Tensor, measurement: Tensor, measured_mask: Tensor
) -> _StabilisedImages:
    """Make the noise's variance 1: f(pilot) + f'(pilot) (measurement - pilot), f' = 1 / sigma."""
    low = pilot.amin((0, 2, 3))
    span = (pilot.amax((0, 2, 3)) - low).clamp(min=1e-6)
    along = torch.linspace(0, 1, _STABILISATION_POINTS, device=pilot.device)
    levels = low[:, None] + span[:, None] * along  # (C, _TABLE)
    slope = noise.at(levels[None, :, :, None])[0, :, :, 0].rsqrt()
    steps = span[:, None] / (_STABILISATION_POINTS - 1) * (slope[:, 1:] + slope[:, :-1]) / 2
    table = F.pad(steps.cumsum(1), (1, 0))
    place = (
        (pilot[0] - low[:, None, None]) / span[:, None, None] * (_STABILISATION_POINTS - 1)
    ).flatten(1)
    index = place.long().clamp(0, _STABILISATION_POINTS - 2)
    left, right = table.gather(1, index), table.gather(1, index + 1)
    stable_pilot = (left + (place - index) * (right - left)).reshape(pilot.shape[1:])
    deviation = noise.at(pilot)[0].sqrt()
    stable_measurement = stable_pilot + measured_mask[0] * (measurement[0] - pilot[0]) / deviation
    return _StabilisedImages(stable_pilot, stable_measurement, deviation)


def _compute_principal_components(picture: Tensor) -> Tensor:
    """Orthonormal components (D, C) of a picture's details, the strongest first."""
    details = torch.cat([torch.diff(picture, dim=axis).flatten(1) for axis in (1, 2)], 1)
    vectors: Tensor = torch.linalg.eigh((details @ details.T).double()).eigenvectors
    return vectors.flip(1).T.to(picture)


def _compute_patch_power(correlation: tuple[tuple[float, ...], tuple[float, ...]] | None) -> Tensor:
    """Variance of each frequency of a patch of noise of variance 1: (PATCH²,)."""
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
    """Orthonormal Hadamard transform of a group: (GROUP, GROUP)."""
    rows = torch.ones(1, 1)
    while len(rows) < GROUP_SIZE:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows / sqrt(GROUP_SIZE)


def filter_patch_groups(
    pictures: Sequence[Tensor], blocks: Sequence[PatchBlock], power: Tensor
) -> tuple[Tensor, Tensor]:
    """Filter groups block by block, and join them: mean and variance, (C, Y, X) each.

    Parameters
    ----------
    pictures : sequence of Tensor
        (C, Y, X) each: what is filtered, and what guides. With no guide, what stands out of the
        noise is kept, and nothing else.
    blocks : sequence of PatchBlock
        Which patches are filtered together.
    power : Tensor
        (C or 1, PATCH²): variance of the noise in each frequency of a patch.
    """
    channels, height, width = pictures[0].shape
    sums = power.new_zeros(2 * channels + 1, height, width)
    basis, signs = make_dct_matrix().to(power), _make_hadamard_matrix().to(power)
    flat = torch.kron(basis, basis)
    window = torch.kaiser_window(PATCH_SIDE, periodic=False, beta=_KAISER_BETA).to(power)
    window = (window[:, None] * window).flatten()
    for rows, columns, places in blocks:
        parts = [picture[:, rows, columns] for picture in pictures]
        sums[:, rows, columns] += _filter_patch_block(parts, places, power, (flat, signs, window))
    mean, variance, weight = sums.split([channels, channels, 1])
    return mean / weight, variance / weight


def _filter_patch_block(
    pictures: Sequence[Tensor], first: Tensor, power: Tensor, fixed: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Weighted sums of all patches of some groups: (2 C + 1, Y, X).

    Parameters
    ----------
    pictures : sequence of Tensor
        (C, Y, X) each: the part of the picture that the groups look at.
    first : Tensor
        (G, GROUP): first pixels of patches in it.
    power : Tensor
        (C or 1, P²).
    fixed : (Tensor, Tensor, Tensor)
        Transforms of a patch (P², P²) and of a group (GROUP, GROUP), and the window (P²,).
    """
    channels, height, width = pictures[0].shape
    flat, signs, window = fixed
    power = power[:, None, None]
    steps = torch.arange(PATCH_SIDE, device=power.device, dtype=torch.int32)
    places = first[..., None] + (steps[:, None] * width + steps).flatten()  # (G, GROUP, P²)
    measured, *guide = (
        torch.einsum("kj,cgjp->cgkp", signs, _gather_pixels(picture, places) @ flat.T)
        for picture in pictures
    )
    if guide:
        strength = guide[0].square_()
        share = strength / (strength + power)
    else:
        share = (measured.square() > HARD_THRESHOLD_SIGMAS**2 * power).to(measured)
    share[:, :, 0, 0] = 1  # the mean of a group is known well, however dark it is
    certain = 1 / (share**2 * power).sum((0, 2, 3)).clamp(min=1e-9)  # (G,)
    filtered = torch.einsum("kj,cgkp->cgjp", signs, measured.mul_(share)) @ flat
    remaining = (share * power).mean((2, 3))  # (C, G)
    weight = (certain[:, None, None] * window).expand(-1, GROUP_SIZE, -1)
    said = (*(weight * filtered), *(weight * remaining[..., None, None]), weight)
    sums = power.new_zeros(2 * channels + 1, height * width)
    for laid, values in zip(sums, said, strict=True):
        laid.index_add_(0, places.flatten(), values.flatten())
    return sums.reshape(-1, height, width)


def _gather_pixels(picture: Tensor, places: Tensor) -> Tensor:
    """Pixels (C, *places) of a picture (C, Y, X), which are counted row by row."""
    chosen = [item.flatten().index_select(0, places.flatten()) for item in picture]
    return torch.stack(chosen).reshape(-1, *places.shape)
