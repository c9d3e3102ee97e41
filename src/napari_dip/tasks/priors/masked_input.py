"""The prior that inpainting feeds with the image itself, more of it hidden at each step.

Holes: where the pixels to fill in are, and of which kind they are.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.io.header import match_axes

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import nn

    from napari_dip.engine.priors.masked_input import MaskedInputPrior
    from napari_dip.engine.priors.masked_stack import MaskedStackPrior
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import FitInput

    Marks = npt.NDArray[np.bool_]

#: Correlation of neighbouring mask pixels from which on holes have a shape: pixels that are
#: missing one by one have 0, strokes three pixels wide 0.7.
MIN_SHAPE_CORRELATION = 0.35
#: Labels that a message lists.
MAX_LISTED_LABELS = 8


def check_mask(source: ImageSpec, mask: ImageSpec) -> Refusal | None:
    """Say no to a mask whose header does not fit the image's.

    Parameters
    ----------
    source, mask : ImageSpec
        The mask has the image's axes, or lacks channels, or has the picture plane's alone. It may
        have further axes of one element.
    """
    if match_axes(source, mask.shape):
        return None
    sizes, want = (" × ".join(map(str, item.shape)) for item in (mask, source))
    axes = [axis for axis, n in zip(mask.axes, mask.shape, strict=False) if n > 1 or axis in "YX"]
    if len(mask.axes) != len(mask.shape) or not {"Y", "X"} <= set(axes) or "S" in axes:
        return refusal("mask-planes", name=mask.name, shape=sizes)
    if len(axes) > 2:
        stacked = prod(source.shape) > prod(source.grid)
        facts = {"name": mask.name, "shape": sizes, "image": source.name, "want": want}
        return refusal("mask-stack" if stacked else "mask-planes", **facts)
    sides = dict(zip(("height", "width"), mask.grid, strict=True))
    sides |= dict(zip(("image_height", "image_width"), source.grid, strict=True))
    return refusal("mask-shape", name=mask.name, image=source.name, **sides)


def parse_mask(mask: npt.NDArray[Any], label: int | None, *, invert: bool) -> Marks:
    """Read a mask: where pixels are to be filled in.

    Parameters
    ----------
    mask : ndarray
        Above 0 where marked.
    label : int or None
        Take pixels of this value only.
    invert : bool
        Take all others instead.

    Returns
    -------
    ndarray of bool
        Of the mask's shape.
    """
    chosen = mask > 0 if label is None else mask == label
    return ~chosen if invert else chosen


def dilate_holes(holes: Marks, pixels: int) -> Marks:
    """Widen holes (..., Y, X) by so many pixels in each direction, round at corners."""
    if not pixels or not holes.any():
        return holes
    from skimage.morphology import isotropic_dilation

    wide = holes.copy()
    for plane in wide.reshape(-1, *holes.shape[-2:]):
        if plane.any():  # distances to nothing are not defined
            plane[:] = isotropic_dilation(plane, pixels)  # type: ignore[no-untyped-call]
    return wide


def refuse_marks(
    mask: npt.NDArray[Any], name: str, label: int | None, holes: Marks
) -> Refusal | None:
    """Say no to a mask that marks nothing, or all.

    Parameters
    ----------
    mask : ndarray
        As it came.
    name : str
    label : int or None
        The only value to be filled in.
    holes : ndarray of bool
        What came of it.
    """
    if label is not None and not (mask == label).any():
        texts = [f"{value:g}" for value in np.unique(mask) if value != 0]
        some = ", ".join(texts[:MAX_LISTED_LABELS]) + (
            " and more" if len(texts) > MAX_LISTED_LABELS else ""
        )
        return refusal("mask-label", name=name, label=label, found=some or "none")
    if not holes.any():
        return refusal("mask-empty", name=name)
    if holes.all():
        return refusal("mask-full", name=name, total=holes.size)
    return None


def is_scattered(holes: Marks) -> bool:
    """Whether pixels (Y, X) are missing one by one rather than in shapes."""
    share = float(holes.mean())
    spread = share * (1 - share)
    if not spread:
        return True
    centred = holes - share
    along_y = float((centred[1:] * centred[:-1]).mean())
    along_x = float((centred[:, 1:] * centred[:, :-1]).mean())
    return max(along_y, along_x) < MIN_SHAPE_CORRELATION * spread


def measure_hole_depth(holes: Marks, most: int) -> int:
    """Pixels from the rim of the deepest hole (Y, X) to its innermost pixel, diagonals as one.

    Parameters
    ----------
    holes : ndarray of bool
        What lies beyond the border counts as missing: nothing is known there.
    most : int
        Look no further.

    Returns
    -------
    int
        0 without holes, 1 if each missing pixel touches a known one.
    """
    remaining, count = holes, 0
    while count < most and remaining.any():
        wide = np.pad(remaining, 1, constant_values=True)
        remaining = wide[:-2] & wide[1:-1] & wide[2:]
        remaining = remaining[:, :-2] & remaining[:, 1:-1] & remaining[:, 2:]
        count += 1
    return count


def measure_widest_hole(measured_mask: Marks, most: int) -> int:
    """Width of the widest hole in any plane, 0 if pixels are missing one by one.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (parts, C, depth, Y, X).
    most : int
        Look no further.
    """
    missing = np.any(~measured_mask, axis=1)
    holes = [item for item in missing.reshape(-1, *missing.shape[-2:]) if item.any()]
    if all(is_scattered(hole) and not hole.all() for hole in holes):
        return 0
    return min(most, 2 * max(measure_hole_depth(hole, most // 2) for hole in holes))


def count_missing_planes(measured_mask: Marks) -> tuple[int, int]:
    """Count the picture planes of which nothing is known, and all planes.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (parts, C, *grid).
    """
    planes = measured_mask.any((1, -2, -1))
    return int((~planes).sum()), planes.size


#: Least and most part of the known pixels that a step hides. On Cameraman, half of it missing, 0.3
#: reached 29.65 dB after 200 steps, anything from 0.2 to 0.7 29.52; 0.1 learns more slowly.
MASKED_FRACTION_RANGE = (0.3, 0.3)
#: Residual blocks of the network for planes of a stack, which looks 2 x BLOCKS + 2 pixels far.
STACK_RESIDUAL_BLOCKS = 4
#: Deepest hole whose copies are hidden whole.
MAX_MASKED_DEPTH = 16
#: Planes of a stack that a step looks at.
STACK_WINDOW_PLANES = 4
#: Pixels of a stack that a look sends through the network at a time: a plane of 512 x 512.
MAX_BATCH_PIXELS = 2**18
#: Priors whose network sees picture planes, in a stack as well.
PLANE_WISE_PRIORS = ("masked-input", "masked-input-shapes")


def build_masked_input_prior(
    scene: FitInput, rng: torch.Generator, *, foretell: bool
) -> MaskedInputPrior:
    """Make a network and its code: the measurement with more of it hidden.

    With scattered pixels, steps see the picture mirrored: what is rare in it, such as thin strokes,
    is then seen four times as often. Holes with a shape have copies in all places instead.

    Parameters
    ----------
    scene : FitInput
    rng : torch.Generator
    foretell : bool
        Whether known pixels, too, are to be foretold from the others in the end.
    """
    from napari_dip.engine.priors.masked_input import MaskedInputPrior, count_input_channels

    channels, *grid = scene.measurement.shape[1:]
    holes = (scene.measured_mask[0, 0] == 0).cpu().numpy()
    shaped = not is_scattered(holes)
    return MaskedInputPrior(
        _build_masked_input_network(
            scene, count_input_channels(len(grid), channels), rng, even=not shaped
        ),
        scene.measurement,
        scene.measured_mask,
        scene.held_out,
        share=MASKED_FRACTION_RANGE,
        reach=measure_hole_depth(holes, MAX_MASKED_DEPTH) if shaped else 1,
        copies=shaped,
        mirror=not shaped,
        foretell=foretell,
        window=None if scene.window is None else (scene.window,) * len(grid),
    )


def build_masked_stack_prior(
    scene: FitInput, rng: torch.Generator, *, foretell: bool
) -> MaskedStackPrior:
    """Make a network that fills planes from those before and after, and its code.

    Parameters
    ----------
    scene : FitInput
        Of a volume.
    rng : torch.Generator
    foretell : bool
        Whether known pixels, too, are to be foretold from the others in the end.
    """
    from napari_dip.engine.networks.hourglass import PlanewiseNetwork
    from napari_dip.engine.priors.masked_stack import MaskedStackPrior, count_stack_input_channels

    channels = scene.measurement.shape[1]
    return MaskedStackPrior(
        PlanewiseNetwork(
            _build_masked_input_network(scene, count_stack_input_channels(channels), rng),
            MAX_BATCH_PIXELS,
        ),
        scene.measurement,
        scene.measured_mask,
        scene.held_out,
        share=MASKED_FRACTION_RANGE[1],
        foretell=foretell,
        window=compute_stack_window(scene.window, scene.grid),
    )


def compute_stack_window(side: int | None, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Planes, height and width of what a step looks at."""
    return tuple(map(min, (STACK_WINDOW_PLANES, *[side or max(grid)] * 2), grid))


def _build_masked_input_network(
    scene: FitInput, fed: int, rng: torch.Generator, *, even: bool = False
) -> nn.Module:
    """Make the network for a picture plane: a chain or an hourglass, as the preset says."""
    from napari_dip.engine.networks.hourglass import Hourglass, ResidualChain
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork

    channels = scene.measurement.shape[1]
    net = (
        Hourglass(2, fed, channels, scene.widths, skip=None, normalised=False, rng=rng, even=even)
        if len(scene.widths) > 1
        else ResidualChain(2, fed, channels, scene.widths[0], STACK_RESIDUAL_BLOCKS, rng=rng)
    )
    return FillingResidualNetwork(net, fed, channels, 2, rng)
