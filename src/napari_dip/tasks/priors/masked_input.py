"""Masked-input prior: how holes are measured, and how the networks are built.

The network takes the image with more of its pixels masked, and learns to fill them in.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.tasks.priors.image_input import (
    build_blind_spot_problem,
    build_image_network,
    compute_variance_factor,
)
from napari_dip.tasks.priors.random_input import validate_by_squared_error
from napari_dip.tasks.priors.refinement import make_planewise_refinement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from napari_dip.engine.priors.masked_input import MaskedInputPrior
    from napari_dip.engine.priors.masked_stack import MaskedStackPrior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.io import BoolArray, FloatArray
    from napari_dip.tasks.base import FitInput, GridLocation
    from napari_dip.tasks.priors.prior_spec import PriorOptions

#: Correlation of neighbouring mask pixels from which on holes have a shape. It is 0 for pixels
#: missing singly, and 0.7 for strokes three pixels wide.
MIN_SHAPE_CORRELATION = 0.35
#: Range of the fraction of measured pixels masked in an iteration: 29.65 dB on Cameraman after 200
#: iterations, 29.52 dB with all of 0.2 to 0.7 (docs/constants.md).
MASKED_FRACTION_RANGE = (0.3, 0.3)
#: Residual blocks of the network for planes of a Z stack, whose receptive field has a radius of 2 x
#: BLOCKS + 2 pixels.
Z_STACK_RESIDUAL_BLOCKS = 4
#: Maximum depth of a hole, in pixels, whose copies are masked as a whole.
MAX_MASKED_DEPTH = 16
#: Maximum distance, in planes, of a missing plane of a volume from a measured one. Planes farther
#: away were off by 0.2 to 1.1 of their own standard deviation, and by up to 3 times the stated
#: error, in 24 planes of two stacks and a movie (docs/constants.md).
MAX_PLANE_DISTANCE = 1
#: Maximum number of missing pixels whose filling is blended with a smooth one: 88,000 in lines take
#: 0.5 s for each of five fillings, 90,000 in one hole 4 s (one thread).
MAX_SMOOTH_PIXELS = 100_000
#: Standard deviations of the windows of local means, in pixels: with 1.8 alone 13 images with holes
#: of a shape gain half as much, with 1.2 and 4, or with six of them, as much (docs/adr/0041).
LOCAL_MEAN_SIGMAS = (1.8, 4.0)
#: Radius of the windows of local means in standard deviations: to 18 and 40 pixels, while narrow
#: holes are at most 12 deep.
LOCAL_MEAN_RADIUS = 10.0
#: Weight of the equation that weights have a sum of one, in units of the norm of all others.
SUM_CONSTRAINT_WEIGHT = 1e3
#: Least share of the squared error at hidden pixels that is no noise. Without it errors were up
#: to 7.4 times the stated ones, as texture was measured as noise; with it up to 2.0 times.
MIN_ERROR_SHARE = 0.25
#: Weight of the network in holes at the border: the root mean square error of 42 holes of 6 images
#: is 0.114 of their range, with 0.25 and 0.75 0.119 and 0.118, with 0 and 1 0.130 and 0.128
#: (benchmarks/inpaint_borders.py, images marked *chosen*).
BORDER_NETWORK_WEIGHT = 0.5
#: Planes of a training window in a Z stack.
Z_STACK_WINDOW_PLANES = 4
#: Maximum number of pixels of a Z stack in one forward pass: a plane of 512 x 512.
MAX_BATCH_PIXELS = 2**18


def is_scattered(holes: BoolArray) -> bool:
    """Return whether missing pixels (Y, X) are scattered singly rather than in shapes."""
    fraction = float(holes.mean())
    variance = fraction * (1 - fraction)
    if not variance:
        return True
    centred = holes - fraction
    along_y = float((centred[1:] * centred[:-1]).mean())
    along_x = float((centred[:, 1:] * centred[:, :-1]).mean())
    return max(along_y, along_x) < MIN_SHAPE_CORRELATION * variance


def compute_hole_depths(missing: BoolArray) -> npt.NDArray[np.int32]:
    """Return how far each missing pixel is from a measured one, along axes and diagonals.

    Measured pixels have 0, those at the rim of a hole 1. Planes of a volume count like pixels. A
    border is no rim, so an image without measured pixels is as deep as its longest side.

    Parameters
    ----------
    missing : ndarray of bool
        (N, *grid).
    """
    from scipy import ndimage  # takes a tenth of a second

    depth = np.full(missing.shape, max(missing.shape[1:]), np.int32)
    for index, holes in enumerate(missing):
        if not holes.all():
            depth[index] = ndimage.distance_transform_cdt(holes, metric="chessboard")
    return depth


def _find_distant_planes(missing: BoolArray) -> BoolArray:
    """Return where whole planes of a volume are missing, far from any with measured pixels.

    Parameters
    ----------
    missing : ndarray of bool
        (N, *grid).

    Returns
    -------
    ndarray of bool
        (N, Z, 1, 1), or one False for planes without depth.
    """
    if missing.ndim < 4:
        return np.zeros((1,) * missing.ndim, bool)
    depth = compute_hole_depths(np.asarray(missing.all((-2, -1))))
    return np.asarray(depth > MAX_PLANE_DISTANCE)[..., None, None]


def measure_distant_holes(measured_mask: BoolArray, distance: int) -> tuple[float, float]:
    """Return the share of missing pixels, and the share of these far from any measured pixel.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (N, C, *grid). A border does not count as measured.
    distance : int
        A pixel is far if no measured pixel is within this distance along axes and diagonals, or if
        its whole plane of a volume is.
    """
    missing = np.any(~measured_mask, axis=1)  # (N, *grid)
    if not missing.any():
        return 0.0, 0.0
    distant = (compute_hole_depths(missing) > distance) | _find_distant_planes(missing)
    return float(missing.mean()), float(distant.sum() / missing.sum())


def measure_hole_depth(holes: BoolArray) -> int:
    """Return the depth of the deepest hole (Y, X), as `compute_hole_depths` counts; 0 without."""
    return int(compute_hole_depths(holes[None]).max(initial=0))


def measure_hole_width(holes: BoolArray) -> int:
    """Return the diameter of the largest disc in a hole (Y, X); 0 without. Holes end at borders."""
    from scipy import ndimage  # takes a tenth of a second

    return int(2 * ndimage.distance_transform_edt(np.pad(holes, 1)).max())


def measure_widest_hole(measured_mask: BoolArray, max_width: int) -> int:
    """Return twice the depth of the deepest hole in any plane; 0 if pixels are missing singly.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (N, C, Z, Y, X).
    max_width : int
        Largest width to measure.
    """
    missing = np.any(~measured_mask, axis=1)
    holes = [plane for plane in missing.reshape(-1, *missing.shape[-2:]) if plane.any()]
    if all(is_scattered(hole) and not hole.all() for hole in holes):
        return 0
    return min(max_width, 2 * max(map(measure_hole_depth, holes)))


def build_masked_input_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> MaskedInputPrior | MaskedStackPrior:
    """Build the network and its input: the measurement with more of it masked.

    For scattered missing pixels, training windows are also mirrored, so that rare structures such
    as thin strokes occur four times as often. For holes with a shape, copies of the holes are
    masked in other places. In a volume, planes are filled from their neighbouring planes.
    """
    if len(fit_input.grid) > 2:
        return _build_masked_stack_prior(fit_input, rng, options)
    from napari_dip.engine.priors.masked_input import MaskedInputPrior, count_input_channels

    channels, *grid = fit_input.measurement.shape[1:]
    holes = (fit_input.masks.measured[0, 0] == 0).cpu().numpy()
    has_shape = not is_scattered(holes)
    in_channels = count_input_channels(len(grid), channels)
    return MaskedInputPrior(
        _build_masked_input_network(fit_input, in_channels, rng, preserves_variance=not has_shape),
        fit_input.measurement,
        fit_input.masks.measured,
        fit_input.masks.validation,
        masked_fraction=MASKED_FRACTION_RANGE,
        block_side=min(measure_hole_depth(holes), MAX_MASKED_DEPTH) if has_shape else 1,
        uses_hole_shapes=has_shape,
        uses_mirroring=not has_shape,
        predicts_measured=options.predicts_measured,
        window=None if fit_input.window_side is None else (fit_input.window_side,) * len(grid),
    )


def build_masked_input_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem of the measured pixels, whose validation ignores the predicted variance."""
    problem = build_blind_spot_problem(fit_input, options)
    if options.predicts_measured and len(fit_input.grid) > 2:
        refine = make_planewise_refinement(fit_input, problem.postprocess)
        problem = replace(problem, full_postprocess=refine)
    return validate_by_squared_error(fit_input, problem)


def _build_masked_stack_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> MaskedStackPrior:
    from napari_dip.engine.networks.hourglass import PlanewiseNetwork
    from napari_dip.engine.priors.masked_stack import MaskedStackPrior, count_stack_input_channels

    in_channels = count_stack_input_channels(fit_input.measurement.shape[1])
    network = _build_masked_input_network(fit_input, in_channels, rng)
    return MaskedStackPrior(
        PlanewiseNetwork(network, MAX_BATCH_PIXELS),
        fit_input.measurement,
        fit_input.masks.measured,
        fit_input.masks.validation,
        max_masked_fraction=MASKED_FRACTION_RANGE[1],
        predicts_measured=options.predicts_measured,
        window=compute_stack_window(fit_input.window_side, fit_input.grid),
    )


def compute_stack_window(side: int | None, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return planes, height and width of a training window."""
    return tuple(map(min, (Z_STACK_WINDOW_PLANES, *[side or max(grid)] * 2), grid))


def _build_masked_input_network(
    fit_input: FitInput, in_channels: int, rng: torch.Generator, *, preserves_variance: bool = False
) -> nn.Module:
    """Build the network of a plane: an hourglass, or a residual chain if there is one scale."""
    from napari_dip.engine.networks.hourglass import ResidualChain
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork

    channels, widths = fit_input.measurement.shape[1], fit_input.widths
    network: nn.Module
    if len(widths) > 1:
        network = build_image_network(
            fit_input,
            rng,
            in_channels,
            channels,
            dims=2,
            preserves_variance=preserves_variance,
            sums_branches=True,
        )
    else:
        network = ResidualChain(
            2, in_channels, channels, widths[0], Z_STACK_RESIDUAL_BLOCKS, rng=rng
        )
    return FillingResidualNetwork(network, in_channels, channels, 2, rng)


def blend_with_smooth_filling(
    fit_input: FitInput, hole_copies: Sequence[Tensor], predicted: Estimate
) -> Estimate:
    """Blend the network's filling with smooth ones, as hidden measured pixels tell.

    The smooth fillings are a biharmonic one, which follows slopes, and local means, which take no
    noise of single pixels into holes. The weights, which are positive with a sum of one, are those
    of the least squared error where measured pixels were hidden.

    Parameters
    ----------
    fit_input : FitInput
    hole_copies : sequence of Tensor
        Masks (1, 1, *grid), from `Prior.list_hole_copies`.
    predicted : Estimate
        After the final inference, (1, C, *grid).

    References
    ----------
    Damelin, Hoang, On surface completion and image inpainting by biharmonic functions: numerical
    aspects, International Journal of Mathematics and Mathematical Sciences, 2018,
    doi:10.1155/2018/3950312.
    Wolpert, Stacked generalization, Neural Networks 5(2), 1992,
    doi:10.1016/S0893-6080(05)80023-1.
    """
    from torch import cat, einsum, where

    from napari_dip.engine.problem import Estimate, Identity

    is_hole, measurement = fit_input.masks.measured == 0, fit_input.measurement
    noise_variance = fit_input.noise.noise_variance.compute_variance(predicted.mean)
    assert predicted.log_variance is not None
    others = (measurement, noise_variance, predicted.log_variance.exp())
    samples, remaining = [], fit_input.masks.measured
    for hidden in hole_copies:
        is_compared = (hidden * remaining).expand_as(measurement) > 0
        fillings = _list_fillings(measurement, (hidden > 0) | is_hole, predicted.mean)
        samples.append(cat([fillings, *(values[None] for values in others)])[:, is_compared])
        remaining = remaining * (1 - hidden)
    *columns, measured, noise, predicted_variance = cat(samples, 1).cpu().double().numpy()
    if not measured.size:
        return predicted
    weights = _compute_stacking_weights(np.stack(columns, 1), measured)
    fillings = _list_fillings(measurement, is_hole, predicted.mean)
    blended = einsum("k,k...->...", measurement.new_tensor(weights), fillings)
    mean = where(is_hole, blended, predicted.mean)
    squared_errors = (weights @ columns - measured) ** 2
    # hidden pixels have noise, and the predicted variance a part of it, which is no error of holes
    squared_error = squared_errors.mean().clip(min=1e-12)
    excess = max(squared_error - noise.mean(), MIN_ERROR_SHARE * squared_error)
    factor = compute_variance_factor(fit_input, Identity(), predicted)  # it is applied later
    change = np.log(excess / predicted_variance.mean()) - factor.log()
    return Estimate(mean, predicted.log_variance + is_hole * change)


def _list_fillings(measurement: Tensor, hidden: Tensor, predicted: Tensor) -> Tensor:
    """Return the network's filling and smooth ones of hidden pixels, (K, 1, C, *grid)."""
    from torch import stack

    means = (_fill_by_local_means(measurement, hidden, sigma) for sigma in LOCAL_MEAN_SIGMAS)
    return stack([predicted, fill_smoothly(measurement, hidden), *means])


def _fill_by_local_means(image: Tensor, hidden: Tensor, sigma: float) -> Tensor:
    """Return means of visible pixels (1, C, Y, X), weighted by a Gaussian window.

    Where it reaches none, in deep holes, the mean is that of all of them.
    """
    from scipy.ndimage import gaussian_filter
    from torch import from_numpy

    visible = (~hidden[:1]).cpu().double().numpy()
    filter_plane = partial(gaussian_filter, sigma=sigma, axes=(-2, -1), truncate=LOCAL_MEAN_RADIUS)
    sums, weights = filter_plane(image.cpu().double().numpy() * visible), filter_plane(visible)
    overall = sums.sum((-2, -1), keepdims=True) / weights.sum()
    means = np.where(weights > 0, sums / np.where(weights > 0, weights, 1), overall)
    return from_numpy(means).to(image)


def _compute_stacking_weights(fillings: FloatArray, measured: FloatArray) -> FloatArray:
    """Return positive weights (K,) of sum one with the least squared error.

    Parameters
    ----------
    fillings : ndarray
        (pixels, K).
    measured : ndarray
        (pixels,), at least one.

    References
    ----------
    Lawson, Hanson, Solving Least Squares Problems, SIAM 1995, doi:10.1137/1.9781611971217, chapter
    22 (an equation of large weight as a constraint).
    """
    from scipy.optimize import nnls

    constraint = SUM_CONSTRAINT_WEIGHT * float(np.linalg.norm(fillings))
    rows = np.vstack([fillings, np.full((1, fillings.shape[1]), constraint)])
    return np.asarray(nnls(rows, np.append(measured, constraint))[0])


def fill_smoothly(image: Tensor, hidden: Tensor) -> Tensor:
    """Fill hidden pixels by biharmonic inpainting.

    Parameters
    ----------
    image : Tensor
        (B, C, Y, X).
    hidden : Tensor of bool
        (B, 1, Y, X).
    """
    from skimage.restoration import inpaint_biharmonic
    from torch import from_numpy

    visible, masks = image.masked_fill(hidden, 0).cpu().numpy(), hidden[:, 0].cpu().numpy()
    filled = [
        inpaint_biharmonic(*pair, channel_axis=0) for pair in zip(visible, masks, strict=True)
    ]
    return from_numpy(np.stack(filled).astype(np.float32)).to(image)


def find_border_holes(holes: BoolArray, location: GridLocation | None = None) -> BoolArray:
    """Return a mask of the holes (Y, X) that touch the border of the image.

    The location is that of the grid in the image, such as of a tile; None: it is the whole image.
    """
    from scipy import ndimage  # takes a tenth of a second

    start = (0, 0) if location is None else location.start
    image_size = holes.shape if location is None else location.image_size
    border = np.zeros_like(holes)
    for axis, size in enumerate(holes.shape):
        lines = np.moveaxis(border, axis, 0)
        lines[0] |= start[axis] == 0
        lines[-1] |= start[axis] + size == image_size[axis]
    labels, _ = ndimage.label(holes)
    return np.asarray(holes & np.isin(labels, labels[border]))


def average_border_holes(
    fit_input: FitInput, border_holes: BoolArray, predicted: Estimate
) -> Estimate:
    """Average the network's filling of holes at the border with a harmonic one.

    Networks with random input are not trained to extrapolate. The variance is that of a mixture of
    both fillings. The variance of the harmonic one is its error in mirrored copies of the holes.

    Parameters
    ----------
    fit_input : FitInput
    border_holes : ndarray of bool
        (Y, X), from `find_border_holes`.
    predicted : Estimate
        By the network, (1, C, *grid).
    """
    from torch import from_numpy

    from napari_dip.engine.problem import Estimate, Identity

    holes = (fit_input.masks.measured[0, 0] == 0).cpu().numpy()
    image = fit_input.measurement[0].cpu().double().numpy()
    noise = fit_input.noise.noise_variance.compute_variance(fit_input.measurement)
    errors = _measure_harmonic_error(image, noise[0].cpu().numpy(), holes, border_holes)
    harmonic, error_variance = (
        from_numpy(array[None]).to(predicted.mean)
        for array in (fill_harmonically(image, holes), errors)
    )
    is_kept = from_numpy(~border_holes).to(predicted.mean.device)
    weight, change = BORDER_NETWORK_WEIGHT, predicted.mean - harmonic
    mean = predicted.mean.where(is_kept, harmonic + weight * change)
    if predicted.log_variance is None:
        return predicted._replace(mean=mean)
    # this factor multiplies the whole variance later, but holds for that of the network alone
    factor = compute_variance_factor(fit_input, Identity(), predicted)
    variance = weight * predicted.log_variance.exp()
    variance += (1 - weight) * (error_variance + weight * change**2) / factor
    return Estimate(mean, predicted.log_variance.where(is_kept, variance.log()))


def _measure_harmonic_error(
    image: FloatArray, noise_variance: FloatArray, holes: BoolArray, border_holes: BoolArray
) -> FloatArray:
    """Return the mean squared error of harmonic filling (C, Y, X), by depth in the holes.

    It is measured in copies of the holes at the opposite borders, and never falls with depth. Where
    no copy has measured pixels, it is the variance of the image.
    """
    depths = compute_hole_depths(holes[None])[0]
    deepest = int(depths.max())
    sums, counts = np.zeros((len(image), deepest + 1)), np.zeros(deepest + 1)
    for axes in ((0,), (1,), (0, 1)):
        hidden = holes | np.flip(border_holes, axes)
        copies = hidden & ~holes
        if hidden.all() or not copies.any():
            continue
        errors = (fill_harmonically(image, hidden) - image) ** 2 - noise_variance
        copy_depths = compute_hole_depths(hidden[None])[0][copies].clip(max=deepest)
        counts += np.bincount(copy_depths, minlength=deepest + 1)
        sums += np.stack([np.bincount(copy_depths, error[copies], deepest + 1) for error in errors])
    if not counts.any():
        return np.broadcast_to(image[:, ~holes].var(1)[:, None, None], image.shape).copy()
    mean_errors = np.maximum.accumulate(sums / counts.clip(min=1), axis=1)
    return np.asarray(mean_errors.clip(min=0)[:, depths])


def fill_harmonically(image: FloatArray, hidden: BoolArray) -> FloatArray:
    """Fill hidden pixels by harmonic inpainting: each is the mean of its neighbours.

    At the border of the image the filling has no slope, so that it does not overshoot.

    Parameters
    ----------
    image : ndarray
        (C, Y, X).
    hidden : ndarray of bool
        (Y, X); not all.

    References
    ----------
    Chan, Shen, Mathematical models for local nontexture inpaintings, SIAM Journal on Applied
    Mathematics 62(3), 2002, doi:10.1137/S0036139900368844.
    """
    from scipy import sparse
    from scipy.sparse import csgraph
    from scipy.sparse.linalg import splu

    is_hidden, filled = hidden.ravel(), image.reshape(len(image), -1).copy()
    # the Laplacian of a grid is the Kronecker sum of those of its axes
    lines = [sparse.diags([1.0, 1.0], [-1, 1], shape=(size, size)) for size in hidden.shape]
    rows = sparse.kronsum(*map(csgraph.laplacian, reversed(lines)), format="csr")[is_hidden]
    rim_sums = rows[:, ~is_hidden] @ filled[:, ~is_hidden].T
    filled[:, is_hidden] = splu(rows[:, is_hidden].tocsc()).solve(-rim_sums).T
    return filled.reshape(image.shape)
