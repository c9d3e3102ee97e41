"""How an image's axes are shared out: parts one after another, channels, and the grid of a fit.

The header gate: what no plan can be made for, said from headers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.errors.notes import make_note
from napari_dip.io.header import MAX_IMAGE_PLANES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks import Task

#: What parts are called, by the axis that they lie along.
PART_NAMES = {"T": "frame", "Z": "plane"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What each axis of an image is used for.

    Attributes
    ----------
    parts : str
        Axes whose planes or volumes are restored one after another, such as "T".
    channels : str
        "C", "S" or "".
    grid : str
        Axes of one fit: "YX", or "ZYX" or "TYX" for a volume.
    """

    parts: str
    channels: str
    grid: str

    @property
    def is_volume(self) -> bool:
        """Whether planes are fitted together."""
        return len(self.grid) > 2

    @property
    def order(self) -> str:
        """All axes, as the fits want them."""
        return self.parts + self.channels + self.grid

    def count(self, source: ImageSpec) -> int:
        """Count the parts."""
        return int(
            np.prod([source.shape[source.axes.index(axis)] for axis in self.parts], dtype=int)
        )

    def get_neighbour_axis(self, source: ImageSpec) -> str:
        """Name the axis on which parts are neighbours: time before depth; "" for a single part."""
        return next((axis for axis in get_stacked_axes(source) if axis in self.parts), "")

    def stride(self, source: ImageSpec) -> int:
        """Count the parts from one to its next neighbour; 0 for a single part."""
        axis = self.get_neighbour_axis(source)
        return (
            self.count(source) // source.shape[source.axes.index(axis)]
            if axis == "T"
            else len(axis)
        )

    def depth(self, source: ImageSpec) -> tuple[int, ...]:
        """Size of the grid before Y and X: empty for planes."""
        return tuple(source.shape[source.axes.index(axis)] for axis in self.grid[:-2])


def get_stacked_axes(source: ImageSpec) -> str:
    """Name the axes of more than one plane: time before depth."""
    return "".join(
        axis for axis in "TZ" if axis in source.axes and source.shape[source.axes.index(axis)] > 1
    )


def make_layout(source: ImageSpec, *, volume: bool, deep: str = "") -> Layout:
    """Share the axes out.

    Parameters
    ----------
    source : ImageSpec
    volume : bool
        Whether planes along depth, or along time where there is no depth, are fitted together.
    deep : str
        Along which axis instead.
    """
    deep = (deep or get_stacked_axes(source)[-1:]) if volume else ""
    channels = next((axis for axis in "CS" if axis in source.axes), "")
    parts = "".join(axis for axis in "TZ" if axis in source.axes and axis != deep)
    return Layout(parts=parts, channels=channels, grid=deep + "YX")


def split_into_parts(array: npt.NDArray[Any], axes: str, layout: Layout) -> npt.NDArray[np.float32]:
    """Reorder an image to (parts, C, *grid) float32; a copy, since torch shares memory."""
    moved = np.transpose(array, [axes.index(axis) for axis in layout.order])
    first, second = len(layout.parts), len(layout.parts) + len(layout.channels)
    shape = moved.shape
    counts = [int(np.prod(shape[:first], dtype=int)), int(np.prod(shape[first:second], dtype=int))]
    return np.array(moved.reshape(*counts, *shape[second:]), dtype=np.float32, order="C")


def join_parts(
    parts: npt.NDArray[Any], axes: str, shape: tuple[int, ...], layout: Layout
) -> npt.NDArray[Any]:
    """Undo `split_into_parts` for an image of that shape."""
    order = [axes.index(axis) for axis in layout.order]
    moved = parts.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(np.transpose(moved, np.argsort(order)))


#: Below this the hidden blocks, their guard bands and three halvings leave nothing to learn from.
MIN_IMAGE_SIDE = 16
#: Longer axes without a name are no channels.
MAX_UNNAMED_CHANNELS = 8
#: What an axis without a name may hold instead of depth, by the letter that says so.
_AXIS_MEANINGS = {"C": "channels", "T": "time", "S": "red, green and blue"}


def check_headers(task: Task, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
    """Say no to an image, or to a further input, that cannot be restored or used."""
    no = check_header(source, stacks=task.stacks) or _check_others(task, others)
    return no or task.check(source, others)


def check_header(source: ImageSpec, *, stacks: bool = True) -> Refusal | None:
    """Say no to an image that is none, or to a stack where there must be none."""
    name, shape, axes = source.name, source.shape, source.axes
    if len(shape) < 2:
        return _make_no_picture_refusal(source)
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or set(axes) - set("TCZYXS"):
        return refusal(
            "axes-wrong", axes=axes, name=name, count=len(shape), shape=_format_sizes(shape)
        )
    if "Y" not in axes or "X" not in axes:
        return refusal("axes-missing", axes=axes, name=name)
    if 0 in shape:
        return refusal("image-empty", name=name, shape=_format_sizes(shape))
    if no := _check_dtype(source):
        return no
    colours = len(shape) == 3 and shape[-1] == 3 and "S" not in axes  # taken for a stack
    if (get_stacked_axes(source) and not stacks) or {"C", "S"} <= set(axes) or colours:
        hint = _make_channels_hint(shape, axes)
        return refusal("image-stack", name=name, axes=axes, shape=_format_sizes(shape), hint=hint)
    if "S" in axes and shape[axes.index("S")] != 3:
        return refusal("image-channels", name=name, count=shape[axes.index("S")])
    if (
        prod(count for axis, count in zip(axes, shape, strict=True) if axis in "TCZ")
        > MAX_IMAGE_PLANES
    ):
        return refusal("planes-many", name=name, most=f"{MAX_IMAGE_PLANES:,}")
    height, width = source.grid
    if min(height, width) < MIN_IMAGE_SIDE:
        return refusal("image-small", name=name, height=height, width=width, least=MIN_IMAGE_SIDE)
    return None


def _make_no_picture_refusal(source: ImageSpec) -> Refusal:
    """Say no to a number, or to a line of them."""
    if not source.shape:
        return refusal("image-scalar", name=source.name)
    return refusal("image-line", name=source.name, count=source.shape[0])


def _check_others(task: Task, others: Mapping[str, ImageSpec]) -> Refusal | None:
    """Say no to a further input that is missing, or has no pixels at all."""
    for wanted in task.inputs[1:]:
        spec = others.get(wanted.name)
        if spec is None and not wanted.optional:
            return refusal("input-missing", label=wanted.label.lower(), task=task.title.lower())
        if spec is not None and not spec.shape:
            return refusal("image-scalar", name=spec.name)
        if spec is not None and 0 in spec.shape:
            return refusal("image-empty", name=spec.name, shape=_format_sizes(spec.shape))
        if spec is not None and not spec.dtype.startswith(("bool", "int", "uint", "float")):
            return refusal("image-text", name=spec.name, dtype=spec.dtype)
    return None


def _check_dtype(source: ImageSpec) -> Refusal | None:
    if source.dtype.startswith("complex"):
        return refusal("image-complex", name=source.name)
    if source.dtype == "bool":
        return refusal("image-bool", name=source.name)
    if not source.dtype.startswith(("int", "uint", "float")):
        return refusal("image-text", name=source.name, dtype=source.dtype)
    return None


def _make_channels_hint(shape: tuple[int, ...], axes: str) -> str:
    """How to say that an axis which was taken for a stack holds channels or colours."""
    if len(shape) != 3:
        return ""
    if shape[-1] == 3:
        named = "YXS"
    elif shape[0] <= MAX_UNNAMED_CHANNELS and axes.endswith("YX"):
        named = "CYX"
    else:
        return ""
    return (
        f", or name the axes {named} if this is one picture in channels or colours "
        f"(Axes in the dock, --axes {named} on the command line, axes='{named}' in Python)"
    )


def describe_assumed_depth(source: ImageSpec) -> Note:
    """Say that an axis without a name was taken for depth, and how to say what else it holds."""
    count = source.along("Z")[0]
    colours = count == 3 and "C" not in source.axes
    free = [
        meaning
        for meaning in _AXIS_MEANINGS
        if meaning not in source.axes and (meaning != "S" or colours)
    ]
    named = [(source.axes.replace("Z", item), _AXIS_MEANINGS[item]) for item in free]
    others = ", ".join(f"{axes} for {what}" for axes, what in named)
    return make_note("depth-assumed", count=count, others=others)


def _format_sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(str(count) for count in shape)
