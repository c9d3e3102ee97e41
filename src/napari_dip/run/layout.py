"""How an image's axes are shared out: parts one after another, channels, and the grid of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.io import ImageSpec


#: What parts are called, by the axis that they lie along.
PART_NAMES = {"T": "frame", "Z": "plane"}


@dataclass(frozen=True, slots=True)
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
    def volume(self) -> bool:
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

    def along(self, source: ImageSpec) -> str:
        """Name the axis on which parts are neighbours: time before depth; "" for a single part."""
        return next((axis for axis in stacked_axes(source) if axis in self.parts), "")

    def stride(self, source: ImageSpec) -> int:
        """Count the parts from one to its next neighbour; 0 for a single part."""
        axis = self.along(source)
        return (
            self.count(source) // source.shape[source.axes.index(axis)]
            if axis == "T"
            else len(axis)
        )

    def depth(self, source: ImageSpec) -> tuple[int, ...]:
        """Size of the grid before Y and X: empty for planes."""
        return tuple(source.shape[source.axes.index(axis)] for axis in self.grid[:-2])


def stacked_axes(source: ImageSpec) -> str:
    """Name the axes of more than one plane: time before depth."""
    return "".join(
        axis for axis in "TZ" if axis in source.axes and source.shape[source.axes.index(axis)] > 1
    )


def layout_of(source: ImageSpec, *, volume: bool, deep: str = "") -> Layout:
    """Share the axes out.

    Parameters
    ----------
    source : ImageSpec
    volume : bool
        Whether planes along depth, or along time where there is no depth, are fitted together.
    deep : str
        Along which axis instead.
    """
    deep = (deep or stacked_axes(source)[-1:]) if volume else ""
    channels = next((axis for axis in "CS" if axis in source.axes), "")
    parts = "".join(axis for axis in "TZ" if axis in source.axes and axis != deep)
    return Layout(parts, channels, deep + "YX")


def to_parts(array: npt.NDArray[Any], axes: str, layout: Layout) -> npt.NDArray[np.float32]:
    """Reorder an image to (parts, C, *grid) float32; a copy, since torch shares memory."""
    moved = np.transpose(array, [axes.index(axis) for axis in layout.order])
    first, second = len(layout.parts), len(layout.parts) + len(layout.channels)
    shape = moved.shape
    counts = [int(np.prod(shape[:first], dtype=int)), int(np.prod(shape[first:second], dtype=int))]
    return np.array(moved.reshape(*counts, *shape[second:]), dtype=np.float32, order="C")


def from_parts(
    parts: npt.NDArray[Any], axes: str, shape: tuple[int, ...], layout: Layout
) -> npt.NDArray[Any]:
    """Undo `to_parts` for an image of that shape."""
    order = [axes.index(axis) for axis in layout.order]
    moved = parts.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(np.transpose(moved, np.argsort(order)))
