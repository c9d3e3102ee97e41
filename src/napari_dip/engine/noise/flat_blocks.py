"""Cut images into blocks, select flat, dark and unclipped ones; compute correlation, spectra."""

from __future__ import annotations

from math import ceil, inf, isfinite, pi, prod, sqrt
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from napari_dip.engine.constants import MAD_TO_STD
from napari_dip.engine.noise import predict_variance

if TYPE_CHECKING:
    from collections.abc import Callable

Values = TypeVar("Values")

#: Side of a block in pixels: large against correlation lengths of 3 or 4, small against cells.
BLOCK_SIDE = 16
#: Share of the blocks of one brightness that count as flat.
FLAT_FRACTION = 0.2
#: Number of brightness classes in which flat blocks are selected.
FLAT_BRIGHTNESS_CLASSES = 12
#: Longest lag in pixels; no measured camera or scanner noise was correlated beyond 4.
MAX_LAG = 5
#: Coefficients of the smooth surface that is subtracted from each block.
SURFACE_COEFFICIENTS = 6
#: Least correlation of a lag that enters the correction for the surface.
MIN_COUNTED_CORRELATION = 0.02
#: Upper bound of the share of variance that the surface removes.
MAX_SURFACE_FRACTION = 0.3
#: Least share of clipped pixels at the lowest or highest grey value.
MIN_CLIPPED_FRACTION = 2e-4
#: Least ratio of the number of clipped pixels to that of pixels at the next grey value.
MIN_CLIPPED_RATIO = 2.0
#: Largest share of clipped pixels in a block. Gaussian noise clipped at 2.6 standard deviations,
#: which is 0.5 %, loses 2 % of its variance.
MAX_CLIPPED_IN_BLOCK = 0.03
#: Largest share of clipped pixels in the blocks of one brightness.
MAX_CLIPPED_AT_BRIGHTNESS = 0.005
#: Share of a brightness group's blocks, the flattest, whose clipped pixels are counted: blocks with
#: an edge may be clipped on their dark side at any mean (docs/constants.md).
FLAT_GROUP_FRACTION = 0.25
#: Number of brightness groups in which the clipped share is measured.
_BRIGHTNESS_GROUP_COUNT = 64
#: Limits of an image without clipping.
NO_CLIPPING = (-inf, inf)
#: Measured pixels of a strip that are moved together, on average. In 17 pictures without 0.5, 0.7,
#: 0.8 and 0.9 of their pixels the noise is off by 1.14, 1.16, 1.16 and 1.28 in the mean; with 16
#: pixels by 1.13, 1.13, 1.16 and 1.36.
PACKED_PIXELS = 24
#: Share of the rows of strips with fewer measured pixels than are kept: without every second pixel
#: 160 x 160 pixels leave 150 x 50, with 0.01 instead 158 x 30, with 0.2 139 x 60.
SHORT_ROW_FRACTION = 0.05
#: Minimum side of an image of measured pixels: two blocks of `DCT_SIDE`.
MIN_PACKED_SIDE = 16
#: Least share of the blocks in a dark plateau.
MIN_DARK_BLOCK_FRACTION = 0.05
#: Fewest blocks in a dark plateau.
MIN_DARK_BLOCKS = 24
#: Allowed spread of the darkest blocks' means, in units of that of noise. Below it they are
#: clipped, above it structured.
DARK_SPREAD_RANGE = (0.7, 1.4)
#: Least ratio of the number of blocks at the plateau to that in an interval of the same width above
#: it. Noise alone has 35, a uniform ramp has 1.
MIN_PLATEAU_RATIO = 2.0
#: Iterations for the centre of the plateau.
_PLATEAU_ITERATIONS = 10
#: Side of the blocks in pixels: small, since few larger ones are flat.
DCT_SIDE = 8
#: Maximal number of blocks: 6,000 of 64 pixels determine a variance to 0.4 %.
MAX_BLOCKS = 6_000
#: Pixels of an image up to which blocks overlap by half, since few fit into it.
MAX_OVERLAPPED_PIXELS = 200 * 200
#: Information in overlapping blocks, as a share of that in as many independent ones. Blocks at
#: every fourth pixel are four times as many and hold 1.5 times the information.
OVERLAP_INFORMATION_FRACTION = 0.4
ROBUST_QUANTILES = (0.005, 0.995)  #: Quantiles of grey values that outliers do not reach.
#: Maximum range of the grey values, in distances of `ROBUST_QUANTILES`.
MAX_RANGE_RATIO = 11.0
#: Maximum number of grey values that `ROBUST_QUANTILES` are taken from.
MAX_SORTED_VALUES = 1_000_000


class NoiseSample(NamedTuple):
    """Planes whose noise is measured.

    Attributes
    ----------
    planes : Tensor
        (P, Y, X).
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured; None: everywhere.
    clipping_limits : (float, float)
        Of the grey values that are used.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for continuous ones.
    min_variance : float
        Lower bound of the noise variance.
    """

    planes: Tensor
    measured_mask: Tensor | None
    clipping_limits: tuple[float, float]
    grey_level_step: float
    min_variance: float


def choose_block_side(grid: tuple[int, ...]) -> int:
    """Return the side of the blocks for an image of this size."""
    return BLOCK_SIDE if min(grid) >= 2 * BLOCK_SIDE else BLOCK_SIDE // 2


def cut_patches(planes: Tensor, side: int, stride: int) -> Tensor:
    """Cut planes (P, Y, X) into square patches (K, side, side), one every `stride` pixels."""
    return planes.unfold(1, side, stride).unfold(2, side, stride).reshape(-1, side, side)


class LevelSpectra(NamedTuple):
    """Blocks of a plane: power (K, DCT_SIDE, DCT_SIDE), brightness and noise variance (K,)."""

    power: Tensor
    brightness: Tensor
    level_variance: Tensor


def compute_level_spectra(plane: Tensor, level_variance: Tensor) -> LevelSpectra:
    """Return the spectra of blocks side by side, with the variance of the noise around each.

    Parameters
    ----------
    plane, level_variance : Tensor
        (Y, X) each; the variance of the noise around each pixel.
    """
    blocks, variances = (
        cut_patches(pixels[None].double(), DCT_SIDE, DCT_SIDE) for pixels in (plane, level_variance)
    )
    basis = make_dct_matrix()
    power = (basis @ blocks @ basis.T).square()
    return LevelSpectra(power, blocks.mean((1, 2)), variances.mean((1, 2)))


def cut_blocks(planes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut planes (P, Y, X) into overlapping blocks, and subtract a smooth surface from each.

    Returns
    -------
    means : Tensor
        (K,), of the blocks.
    residuals : Tensor
        (K, side, side), blocks less their surfaces.
    """
    blocks = cut_patches(planes, side, side // 2).flatten(1)
    basis = _make_surface_basis(side).to(blocks)  # (COEFFICIENTS, side**2), orthonormal
    residuals = blocks - (blocks @ basis.T) @ basis
    return blocks.mean(1), residuals.reshape(-1, side, side)


def select_flat_blocks(means: Tensor, residuals: Tensor) -> Tensor:
    """Return the indices of the blocks with least coarse structure, for each brightness.

    Constant blocks, such as saturated or padded ones, are left out unless there are no others.
    """
    side = residuals.shape[1]
    usable = (residuals.square().mean((1, 2)) > 0).nonzero()[:, 0]
    if not len(usable):
        return torch.arange(len(means), device=means.device)
    structure = residuals.reshape(-1, 4, side // 4, 4, side // 4).mean((2, 4)).square().mean((1, 2))
    flat_indices = []
    by_brightness = usable[means[usable].argsort(stable=True)]
    for group in by_brightness.tensor_split(min(FLAT_BRIGHTNESS_CLASSES, max(1, len(usable) // 4))):
        count = max(1, round(FLAT_FRACTION * len(group)))
        flat_indices.append(group[structure[group].argsort(stable=True)[:count]])
    return torch.cat(flat_indices)


def _make_surface_basis(side: int) -> Tensor:
    """Return orthonormal surfaces of second degree on a block."""
    ramp = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    surfaces = torch.stack([torch.ones_like(y), y, x, y * x, y**2, x**2]).reshape(
        SURFACE_COEFFICIENTS, -1
    )
    basis: Tensor = torch.linalg.qr(surfaces.T)[0]
    return basis.T.contiguous()


def compute_covariances(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Return covariances of each block's residuals along Y and X, (K, lags) each, from lag 1 on."""
    side = residuals.shape[1]
    lags = range(1, min(MAX_LAG, side - 2) + 1)

    def average_lag_products(dim: int) -> Tensor:
        products = (
            residuals.narrow(dim, 0, side - lag) * residuals.narrow(dim, lag, side - lag)
            for lag in lags
        )
        return torch.stack([product.mean((1, 2)) for product in products], 1)

    return average_lag_products(1), average_lag_products(2)


def estimate_autocorrelation(
    residuals: Tensor,
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return autocorrelation along Y and X, and the share of variance that the surface removed."""
    variance = residuals.square().mean((1, 2))
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    raw_y, raw_x = (
        (covariance * weight[:, None]).mean(0) for covariance in compute_covariances(residuals)
    )
    return correct_surface_bias(raw_y, raw_x, residuals.shape[1])


def iterate_surface_correction(
    correct: Callable[[float], Values], sum_lags: Callable[[Values], float], side: int
) -> tuple[Values, float]:
    """Return corrected autocorrelations, and the share of the variance that a surface removed.

    Parameters
    ----------
    correct : callable
        Returns the autocorrelations, given that share.
    sum_lags : callable
        Returns their sum over all lags.
    side : int
        Of a block, in pixels.
    """
    surface_fraction = SURFACE_COEFFICIENTS / side**2
    for _ in range(3):  # the sum needs the corrected values, which need the sum
        values = correct(surface_fraction)
        fraction = SURFACE_COEFFICIENTS * sum_lags(values) / side**2
        surface_fraction = min(MAX_SURFACE_FRACTION, fraction)
    return values, surface_fraction


def correct_surface_bias(
    raw_y: Tensor, raw_x: Tensor, side: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return autocorrelations (lags,) along Y and X, corrected for the subtracted surface.

    A surface of six coefficients removes about six times the summed correlation from each block's
    sum of squares, and as much from its covariances. The third value is that share of the variance.
    """

    def correct(surface_fraction: float) -> list[list[float]]:
        return [
            [value * (1 - surface_fraction) + surface_fraction for value in raw.tolist()]
            for raw in (raw_y, raw_x)
        ]

    def sum_lags(axes: list[list[float]]) -> float:
        return prod(
            1 + 2 * sum(value for value in axis if value > MIN_COUNTED_CORRELATION) for axis in axes
        )

    (y, x), surface_fraction = iterate_surface_correction(correct, sum_lags, side)
    return (
        tuple(round(value, 4) for value in y),
        tuple(round(value, 4) for value in x),
        surface_fraction,
    )


def fit_robust_variance_model(means: Tensor, variances: Tensor) -> tuple[float, float]:
    """Return gain and intercept by robust least squares of the relative errors."""
    gain, intercept = 0.0, float(variances.median())
    min_variance = max(float(variances.quantile(0.02)), 1e-30)
    mean_range = float(means.max() - means.min())
    if len(means) < 4 or mean_range <= 1e-6 * (abs(float(means.mean())) + 1e-30):
        return gain, intercept
    weight = torch.ones_like(means)
    for _ in range(20):  # converges in five to ten
        centre = (weight * means).sum() / weight.sum()
        level = (weight * variances).sum() / weight.sum()
        slope = (weight * (means - centre) * (variances - level)).sum() / (
            weight * (means - centre) ** 2
        ).sum().clamp(min=1e-30)
        gain, intercept = float(slope), float(level - slope * centre)
        expected = predict_variance(means, gain, intercept).clamp(min=min_variance)
        error = (variances - expected) / expected
        width = MAD_TO_STD * float((error - error.median()).abs().median()) + 1e-3
        weight = (1.5 * width / error.abs().clamp(min=1e-9)).clamp(max=1) / expected**2
    if gain < 0:  # noise that falls with brightness is structure or saturation
        return 0.0, float(variances.median())
    return gain, intercept


def find_clipping_limits(planes: Tensor) -> tuple[float, float]:
    """Return the lowest and highest grey value if the image is clipped there, else infinities.

    Clipped noise has its whole tail at the last grey value, many times as many pixels as the next
    one, while the next two are similar. With few photons the lowest value is frequent as well, but
    then each value is rarer than the previous one.
    """
    values, counts = planes.flatten().unique(return_counts=True)
    if len(values) < 4:
        return NO_CLIPPING
    total = int(counts.sum())
    limits = list(NO_CLIPPING)
    for end, neighbour, next_neighbour in ((0, 1, 2), (-1, -2, -3)):
        end_count, neighbour_count, next_count = (
            int(counts[index]) for index in (end, neighbour, next_neighbour)
        )
        if (
            end_count > MIN_CLIPPED_FRACTION * total
            and end_count > MIN_CLIPPED_RATIO * neighbour_count
            and neighbour_count < MIN_CLIPPED_RATIO * next_count
        ):
            limits[end] = float(values[end])
    return limits[0], limits[-1]


def select_informative_blocks(
    planes: Tensor,
    side: int,
    stride: int,
    measured_mask: Tensor | None,
    limits: tuple[float, float],
) -> Tensor:
    """Return the mask of blocks that are fully measured, not constant, and of unclipped brightness.

    Blocks are excluded if they, or the flattest blocks of their brightness, have too many clipped
    pixels. Excluding each block with a clipped pixel would bias the noise of the others downwards.

    Parameters
    ----------
    planes : Tensor
        (P, Y, X).
    side, stride : int
        Side of the blocks, and distance from one to the next, in pixels.
    measured_mask : Tensor or None
        (P, Y, X), true where a pixel was measured; None: everywhere.
    limits : (float, float)
        From `find_clipping_limits`.

    Returns
    -------
    Tensor
        (K,), bool.
    """
    patches = cut_patches(planes, side, stride).flatten(1)
    is_informative = patches.amax(1) > patches.amin(1)
    if measured_mask is not None:
        is_informative &= cut_patches(measured_mask, side, stride).flatten(1).all(1)
    means, variances = patches.mean(1), patches.var(1)
    median = float(means.median())
    for limit in filter(isfinite, limits):
        fraction = (patches == limit).to(planes.dtype).mean(1)
        is_informative &= fraction <= MAX_CLIPPED_IN_BLOCK
        order = means.argsort(stable=True)
        groups = order.tensor_split(min(_BRIGHTNESS_GROUP_COUNT, max(1, len(order) // 8)))
        clipped_means = [
            means[group]
            for group in groups
            if _average_flattest_blocks(fraction[group], variances[group])
            > MAX_CLIPPED_AT_BRIGHTNESS
        ]
        is_lower = limit < median
        for group_means in clipped_means:
            if is_lower and group_means.max() < median:
                is_informative &= means > group_means.max()
            elif not is_lower and group_means.min() > median:
                is_informative &= means < group_means.min()
    return is_informative


def pack_measured_pixels(planes: Tensor, measured_mask: Tensor) -> Tensor | None:
    """Return the measured pixels of (P, Y, X) between scattered holes, moved together.

    The fewer pixels are measured, the more rows are merged, so that pixels move about as far along
    both axes. Noise stays what it is, and structure moves by a few pixels. None if holes are wide.

    Parameters
    ----------
    planes, measured_mask : Tensor
        (P, Y, X); the mask is true where a pixel was measured.
    """
    measured_fraction = max(float(measured_mask.double().mean()), 1e-6)
    merged_rows = ceil(measured_fraction**-0.5)  # a square of this side has a measured pixel
    planes, measured_mask = (
        item[:, : item.shape[1] // merged_rows * merged_rows]
        .unflatten(1, (-1, merged_rows))
        .transpose(2, 3)
        .flatten(2)
        for item in (planes, measured_mask)
    )
    strip_count = max(1, round(planes.shape[2] * measured_fraction / PACKED_PIXELS))
    strip = planes.shape[2] // strip_count
    width = strip_count * strip
    strips, masks = (
        item[..., :width].unflatten(2, (-1, strip)).transpose(1, 2)
        for item in (planes, measured_mask)
    )
    counts = masks.sum(-1)
    ordered_counts = counts.flatten().sort().values
    kept = int(ordered_counts[int(SHORT_ROW_FRACTION * len(ordered_counts))])
    is_long = counts >= kept
    row_count = int(is_long.sum(-1).min())
    if min(row_count, kept * strip_count) < MIN_PACKED_SIDE:
        return None
    columns = (~masks).to(torch.uint8).argsort(dim=-1, stable=True)[..., :kept]
    rows = (~is_long).to(torch.uint8).argsort(dim=-1, stable=True)[..., :row_count, None]
    packed: Tensor = strips.gather(-1, columns).gather(2, rows.expand(-1, -1, -1, kept))
    return packed.transpose(1, 2).flatten(2)


def _average_flattest_blocks(fraction: Tensor, variances: Tensor) -> float:
    """Return the mean clipped share of the flattest blocks of a group."""
    count = max(1, round(FLAT_GROUP_FRACTION * len(fraction)))
    return float(fraction[variances.argsort(stable=True)[:count]].mean())


class DarkLevel(NamedTuple):
    """Offset and read noise of a detector, in grey values.

    Attributes
    ----------
    offset : float
    read_noise : float
        Standard deviation.
    offset_error, read_noise_error : float
        Standard errors; 0 if both come from dark frames.
    """

    offset: float
    read_noise: float
    offset_error: float = 0.0
    read_noise_error: float = 0.0


def find_dark_plateau(
    means: Tensor, gain: float, intercept: float, min_variance: float
) -> DarkLevel | None:
    """Return offset and read noise from the dark regions of an image; None if there are none.

    Means of dark blocks differ by noise alone, so they form a peak below all others. Uniform
    background light does the same, and is then included in both values.

    Parameters
    ----------
    means : Tensor
        (K,), of blocks of `DCT_SIDE`.
    gain, intercept : float
        Of the variance model.
    min_variance : float
        Lower bound of the variance.
    """
    variance = max(predict_variance(float(means.quantile(0.02)), gain, intercept), min_variance)
    width = variance**0.5 / DCT_SIDE
    centre = float(means.quantile(0.005)) + 2 * width
    for _ in range(_PLATEAU_ITERATIONS):
        plateau = means[(means - centre).abs() < 2.5 * width]
        if not len(plateau):
            return None
        centre = float(plateau.median())
    lower_half = means[(means < centre) & (means > centre - 4 * width)]
    count = int(((means - centre).abs() < width).sum())
    count_above = int(((means > centre + 3 * width) & (means < centre + 5 * width)).sum())
    if (
        count < max(MIN_DARK_BLOCKS, MIN_DARK_BLOCK_FRACTION * len(means))
        or count < MIN_PLATEAU_RATIO * count_above
    ):
        return None
    relative_std = (
        float((lower_half - centre).square().mean().sqrt()) / width if len(lower_half) else 0.0
    )
    read_variance = predict_variance(centre, gain, intercept)
    if not DARK_SPREAD_RANGE[0] <= relative_std <= DARK_SPREAD_RANGE[1] or read_variance <= 0:
        return None
    # standard errors of the mean and of the standard deviation over all pixels of these blocks
    return DarkLevel(
        centre,
        read_variance**0.5,
        width / count**0.5,
        (read_variance / (2 * count * DCT_SIDE**2)) ** 0.5,
    )


class BlockSpectra(NamedTuple):
    """Power of the cosine transform of the blocks of an image.

    Attributes
    ----------
    means : Tensor
        (K,), in the image's units.
    power : Tensor
        (K, DCT_SIDE, DCT_SIDE), squared coefficients of the orthonormal cosine transform. Their
        mean in white noise is its variance.
    independent_fraction : float
        Information in the blocks, as a share of that in as many independent ones.
    informative_fraction : float
        Share of these blocks among all blocks of the image.
    """

    means: Tensor
    power: Tensor
    independent_fraction: float
    informative_fraction: float = 1.0


def compute_block_spectra(
    planes: Tensor, measured_mask: Tensor | None, limits: tuple[float, float]
) -> BlockSpectra:
    """Return the cosine transform power of the informative blocks.

    Parameters
    ----------
    planes, measured_mask, limits
        As for `select_informative_blocks`.
    """
    stride = DCT_SIDE if planes.numel() > MAX_OVERLAPPED_PIXELS else DCT_SIDE // 2
    is_informative = select_informative_blocks(planes, DCT_SIDE, stride, measured_mask, limits)
    indices, fraction = is_informative.nonzero()[:, 0], float(is_informative.double().mean())
    indices = indices[:: -(-len(indices) // MAX_BLOCKS) or 1]
    blocks = cut_patches(planes, DCT_SIDE, stride)[indices]
    basis = make_dct_matrix()
    power = (basis @ blocks @ basis.T).square()
    independent_fraction = 1.0 if stride == DCT_SIDE else OVERLAP_INFORMATION_FRACTION
    return BlockSpectra(blocks.mean((1, 2)), power, independent_fraction, fraction)


def make_dct_matrix() -> Tensor:
    """Return the matrix (DCT_SIDE, DCT_SIDE) of the orthonormal cosine transform."""
    index = torch.arange(DCT_SIDE, dtype=torch.float64)
    basis = torch.cos(pi * (2 * index[None] + 1) * index[:, None] / (2 * DCT_SIDE))
    basis *= sqrt(2 / DCT_SIDE)
    basis[0] /= sqrt(2)
    return basis


def make_frequency_grids() -> tuple[Tensor, Tensor]:
    """Return the frequency of each coefficient along Y and X, (DCT_SIDE, DCT_SIDE) each."""
    index = torch.arange(DCT_SIDE)
    y, x = torch.meshgrid(index, index, indexing="ij")
    return y, x


def select_finest_bands() -> Tensor:
    """Return the mask of coefficients that are fine along both axes, where images have least."""
    y, x = make_frequency_grids()
    return (y >= 3) & (x >= 3)


def measure_robust_range(planes: Tensor) -> float:
    """Return the range of the grey values, limited against outliers."""
    values = planes.flatten()
    values = values[:: -(-len(values) // MAX_SORTED_VALUES)].sort().values
    low, high = (
        float(values[round(fraction * (len(values) - 1))]) for fraction in ROBUST_QUANTILES
    )
    full_range = float(planes.max() - planes.min())
    return min(full_range, MAX_RANGE_RATIO * (high - low)) if high > low else full_range
