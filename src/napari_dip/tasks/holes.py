"""Holes: where the pixels to fill in are, and of which kind they are."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.io.spec import shared_axes

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.io import ImageSpec

    Marks = npt.NDArray[np.bool_]

#: Correlation of neighbouring mask pixels from which on holes have a shape: pixels that are
#: missing one by one have 0, strokes three pixels wide 0.7.
SHAPED = 0.35
#: Labels that a message lists.
MOST_NAMED = 8


def check_mask(source: ImageSpec, mask: ImageSpec) -> Refusal | None:
    """Say no to a mask whose header does not fit the image's.

    Parameters
    ----------
    source, mask : ImageSpec
        The mask has the image's axes, or lacks channels, or has the picture plane's alone. It may
        have further axes of one element.
    """
    if shared_axes(source, mask.shape):
        return None
    sizes, want = (" × ".join(map(str, one.shape)) for one in (mask, source))
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


def marked(mask: npt.NDArray[Any], label: int | None, *, invert: bool) -> Marks:
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


def grown(holes: Marks, pixels: int) -> Marks:
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
        found = [f"{value:g}" for value in np.unique(mask) if value != 0]
        some = ", ".join(found[:MOST_NAMED]) + (" and more" if len(found) > MOST_NAMED else "")
        return refusal("mask-label", name=name, label=label, found=some or "none")
    if not holes.any():
        return refusal("mask-empty", name=name)
    if holes.all():
        return refusal("mask-full", name=name, total=holes.size)
    return None


def scattered(holes: Marks) -> bool:
    """Whether pixels (Y, X) are missing one by one rather than in shapes."""
    share = float(holes.mean())
    spread = share * (1 - share)
    if not spread:
        return True
    centred = holes - share
    along_y = float((centred[1:] * centred[:-1]).mean())
    along_x = float((centred[:, 1:] * centred[:, :-1]).mean())
    return max(along_y, along_x) < SHAPED * spread


def depth(holes: Marks, most: int) -> int:
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
    left, count = holes, 0
    while count < most and left.any():
        wide = np.pad(left, 1, constant_values=True)
        left = wide[:-2] & wide[1:-1] & wide[2:]
        left = left[:, :-2] & left[:, 1:-1] & left[:, 2:]
        count += 1
    return count


def widest_side(known: Marks, most: int) -> int:
    """Width of the widest hole in any plane, 0 if pixels are missing one by one.

    Parameters
    ----------
    known : ndarray of bool
        (parts, C, depth, Y, X).
    most : int
        Look no further.
    """
    missing = np.any(~known, axis=1)
    holes = [one for one in missing.reshape(-1, *missing.shape[-2:]) if one.any()]
    if all(scattered(one) and not one.all() for one in holes):
        return 0
    return min(most, 2 * max(depth(one, most // 2) for one in holes))


def missing_planes(known: Marks) -> tuple[int, int]:
    """Count the picture planes of which nothing is known, and all planes.

    Parameters
    ----------
    known : ndarray of bool
        (parts, C, *grid).
    """
    planes = known.any((1, -2, -1))
    return int((~planes).sum()), planes.size
