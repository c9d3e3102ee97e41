"""Masked-input prior: how masks are checked and measured, and how the networks are built.

The network takes the image with more of its pixels masked, and learns to fill them in.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors import Refusal, make_refusal
from napari_dip.io.header import match_axes
from napari_dip.tasks.priors.deep_image_prior import validate_by_squared_error
from napari_dip.tasks.priors.self_supervised import build_blind_spot_problem

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_dip.engine.priors.masked_input import MaskedInputPrior
    from napari_dip.engine.priors.masked_stack import MaskedStackPrior
    from napari_dip.engine.problem import Problem
    from napari_dip.io import ImageHeader
    from napari_dip.io.arrays import AnyArray, BoolArray
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions

#: Correlation of neighbouring mask pixels from which on holes have a shape. It is 0 for pixels
#: missing singly, and 0.7 for strokes three pixels wide.
MIN_SHAPE_CORRELATION = 0.35
#: Maximum number of labels that a message lists.
MAX_LISTED_LABELS = 8
#: Range of the fraction of measured pixels masked in an iteration: 29.65 dB on Cameraman after 200
#: iterations, 29.52 dB with all of 0.2 to 0.7 (docs/constants.md).
MASKED_FRACTION_RANGE = (0.3, 0.3)
#: Residual blocks of the network for planes of a Z stack, whose receptive field has a radius of 2 x
#: BLOCKS + 2 pixels.
Z_STACK_RESIDUAL_BLOCKS = 4
#: Maximum depth of a hole, in pixels, whose copies are masked as a whole.
MAX_MASKED_DEPTH = 16
#: Planes of a training window in a Z stack.
Z_STACK_WINDOW_PLANES = 4
#: Maximum number of pixels of a Z stack in one forward pass: a plane of 512 x 512.
MAX_BATCH_PIXELS = 2**18


def check_mask(image_header: ImageHeader, mask_header: ImageHeader) -> Refusal | None:
    """Refuse a mask whose header does not fit that of the image.

    Parameters
    ----------
    image_header, mask_header : ImageHeader
        The mask may have the axes of the image, those without channels, or Y and X only. Further
        axes of length 1 are allowed.
    """
    if match_axes(image_header, mask_header.shape):
        return None
    sizes, expected = (" × ".join(map(str, header.shape)) for header in (mask_header, image_header))
    axes = [
        axis
        for axis, n in zip(mask_header.axes, mask_header.shape, strict=False)
        if n > 1 or axis in "YX"
    ]
    if (
        len(mask_header.axes) != len(mask_header.shape)
        or not {"Y", "X"} <= set(axes)
        or "S" in axes
    ):
        return make_refusal("mask-planes", name=mask_header.name, shape=sizes)
    if len(axes) > 2:
        stacked = prod(image_header.shape) > prod(image_header.grid)
        facts = {
            "name": mask_header.name,
            "shape": sizes,
            "image": image_header.name,
            "want": expected,
        }
        return make_refusal("mask-stack" if stacked else "mask-planes", **facts)
    sides = dict(zip(("height", "width"), mask_header.grid, strict=True))
    sides |= dict(zip(("image_height", "image_width"), image_header.grid, strict=True))
    return make_refusal("mask-shape", name=mask_header.name, image=image_header.name, **sides)


def parse_mask(mask: AnyArray, label: int | None, *, is_inverted: bool) -> BoolArray:
    """Return which pixels of a mask mark pixels to fill in.

    Parameters
    ----------
    mask : ndarray
        Above 0 where marked.
    label : int or None
        Select the pixels of this value only.
    is_inverted : bool
        Select all other pixels instead.

    Returns
    -------
    ndarray of bool
        Of the shape of the mask.
    """
    marked = mask > 0 if label is None else mask == label
    return ~marked if is_inverted else marked


def dilate_holes(holes: BoolArray, radius: int) -> BoolArray:
    """Dilate holes (..., Y, X) in each plane by a disc of that radius, in pixels."""
    if not radius or not holes.any():
        return holes
    from skimage.morphology import isotropic_dilation

    dilated = holes.copy()
    for plane in dilated.reshape(-1, *holes.shape[-2:]):
        if plane.any():  # an empty plane has no distances to a hole
            plane[:] = isotropic_dilation(plane, radius)  # type: ignore[no-untyped-call]
    return dilated


def check_holes(mask: AnyArray, name: str, label: int | None, holes: BoolArray) -> Refusal | None:
    """Refuse a mask that marks no pixel, or every pixel.

    Parameters
    ----------
    mask : ndarray
        As loaded.
    name : str
        Of the image.
    label : int or None
        The only value that marks pixels.
    holes : ndarray of bool
        Result of `parse_mask`, dilated.
    """
    if label is not None and not (mask == label).any():
        labels = [f"{value:g}" for value in np.unique(mask) if value != 0]
        label_list = ", ".join(labels[:MAX_LISTED_LABELS]) + (
            " and more" if len(labels) > MAX_LISTED_LABELS else ""
        )
        return make_refusal("mask-label", name=name, label=label, labels=label_list or "none")
    if not holes.any():
        return make_refusal("mask-empty", name=name)
    if holes.all():
        return make_refusal("mask-full", name=name, total=holes.size)
    return None


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


def measure_hole_depth(holes: BoolArray, max_depth: int) -> int:
    """Return the distance from the rim of the deepest hole (Y, X) to its innermost pixel.

    A diagonal step counts as one pixel.

    Parameters
    ----------
    holes : ndarray of bool
        Pixels beyond the border count as missing.
    max_depth : int
        Largest depth to measure.

    Returns
    -------
    int
        0 without holes, 1 if each missing pixel touches a measured one.
    """
    remaining, depth = holes, 0
    while depth < max_depth and remaining.any():
        padded = np.pad(remaining, 1, constant_values=True)
        remaining = padded[:-2] & padded[1:-1] & padded[2:]
        remaining = remaining[:, :-2] & remaining[:, 1:-1] & remaining[:, 2:]
        depth += 1
    return depth


def measure_widest_hole(measured_mask: BoolArray, max_width: int) -> int:
    """Return the width of the widest hole in any plane; 0 if pixels are missing singly.

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
    return min(max_width, 2 * max(measure_hole_depth(hole, max_width // 2) for hole in holes))


def count_missing_planes(measured_mask: BoolArray) -> tuple[int, int]:
    """Return the number of planes without any measured pixel, and that of all planes.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (N, C, *grid).
    """
    planes = measured_mask.any((1, -2, -1))
    return int((~planes).sum()), planes.size


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
    return MaskedInputPrior(
        _build_masked_input_network(
            fit_input,
            count_input_channels(len(grid), channels),
            rng,
            preserves_variance=not has_shape,
        ),
        fit_input.measurement,
        fit_input.masks.measured,
        fit_input.masks.validation,
        masked_fraction=MASKED_FRACTION_RANGE,
        block_side=measure_hole_depth(holes, MAX_MASKED_DEPTH) if has_shape else 1,
        uses_hole_shapes=has_shape,
        uses_mirroring=not has_shape,
        predicts_measured=options.predicts_measured,
        window=None if fit_input.window is None else (fit_input.window,) * len(grid),
    )


def build_masked_input_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem of the measured pixels, whose validation ignores the predicted variance."""
    return validate_by_squared_error(fit_input, build_blind_spot_problem(fit_input, options))


def _build_masked_stack_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> MaskedStackPrior:
    from napari_dip.engine.networks.hourglass import PlanewiseNetwork
    from napari_dip.engine.priors.masked_stack import MaskedStackPrior, count_stack_input_channels

    channels = fit_input.measurement.shape[1]
    return MaskedStackPrior(
        PlanewiseNetwork(
            _build_masked_input_network(fit_input, count_stack_input_channels(channels), rng),
            MAX_BATCH_PIXELS,
        ),
        fit_input.measurement,
        fit_input.masks.measured,
        fit_input.masks.validation,
        max_masked_fraction=MASKED_FRACTION_RANGE[1],
        predicts_measured=options.predicts_measured,
        window=compute_stack_window(fit_input.window, fit_input.grid),
    )


def compute_stack_window(side: int | None, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return planes, height and width of a training window."""
    return tuple(map(min, (Z_STACK_WINDOW_PLANES, *[side or max(grid)] * 2), grid))


def _build_masked_input_network(
    fit_input: FitInput, in_channels: int, rng: torch.Generator, *, preserves_variance: bool = False
) -> nn.Module:
    """Build the network of a plane: an hourglass, or a residual chain if there is one scale."""
    from napari_dip.engine.networks.hourglass import Hourglass, ResidualChain
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork

    channels = fit_input.measurement.shape[1]
    network = (
        Hourglass(
            2,
            in_channels,
            channels,
            fit_input.widths,
            skip_channels=None,
            is_normalised=False,
            rng=rng,
            preserves_variance=preserves_variance,
        )
        if len(fit_input.widths) > 1
        else ResidualChain(
            2, in_channels, channels, fit_input.widths[0], Z_STACK_RESIDUAL_BLOCKS, rng=rng
        )
    )
    return FillingResidualNetwork(network, in_channels, channels, 2, rng)
