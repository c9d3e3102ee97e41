"""Choose what each axis of an image is used for; refuse images of unusable size or axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.io.header import COLOUR_COUNT, MAX_IMAGE_PLANES
from napari_dip.tasks.shared_settings import get_stacked_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.base import Task, TaskPlan, TaskSpec

#: Axis of regions or files that are fitted together; no image has it.
REGION_AXIS = "M"
#: Name of an item for the user, by the axis of the items.
ITEM_NAMES = {"T": "frame", "Z": "plane", REGION_AXIS: "region"}
#: Minimum side of an image in pixels, for blind spots, guard bands and three coarser scales.
MIN_IMAGE_SIDE = 16
#: Maximum length of an unnamed axis that may be channels.
MAX_UNNAMED_CHANNELS = 8
#: Usual axes before Y and X, most usual first, by their number.
_LEADING_AXES = {1: ("Z", "T", "C"), 2: ("TZ", "TC", "CZ", "ZC"), 3: ("TCZ", "TZC", "CTZ")}
#: What is counted along an axis.
AXIS_NOUNS = {"T": "frames", "Z": "planes", "C": "channels", "S": "colours"}
#: Meaning of an unnamed axis other than depth, for the user, by its letter.
_AXIS_MEANINGS = {"C": "channels", "T": "time", "S": "red, green and blue"}
#: Share of an overlap, at either end, where a tile has weight 0 or 1. The outermost pixels of a
#: tile were computed from reflected pixels instead of the image beyond.
ZERO_WEIGHT_FRACTION = 1 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Use of each axis of an image: items, channels, or grid of a fit.

    Attributes
    ----------
    item_axes : str
        Axes of the items, the planes or volumes that are restored one after another: "T", "Z",
        "TZ" or "".
    channel_axis : str
        "C", "S" or "".
    grid_axes : str
        Axes of one fit: "YX", or "ZYX" or "TYX" for a volume.
    """

    item_axes: str
    channel_axis: str
    grid_axes: str

    @property
    def is_volume(self) -> bool:
        """Whether planes are fitted together as a volume."""
        return len(self.grid_axes) > 2

    @property
    def order(self) -> str:
        """All axes in the order of a stack (N, C, *grid): items, channels, grid."""
        return self.item_axes + self.channel_axis + self.grid_axes

    def count_items(self, header: ImageHeader) -> int:
        """Return the number of items."""
        return prod(header.get_sizes(self.item_axes))

    def get_neighbour_axis(self, header: ImageHeader) -> str:
        """Return the axis of neighbouring items, time before depth; "" for a single item."""
        return next((axis for axis in get_stacked_axes(header) if axis in self.item_axes), "")

    def get_item_stride(self, header: ImageHeader) -> int:
        """Return how far the indices of two neighbouring items lie apart; 0 for a single item."""
        axis = self.get_neighbour_axis(header)
        if not axis:
            return 0
        # of the items' axes, time comes first and depth last
        return self.count_items(header) // header.get_size("T") if axis == "T" else 1


def make_layout(header: ImageHeader, *, is_volume: bool, depth_axis: str = "") -> Layout:
    """Assign each axis of an image to items, channels or grid.

    Parameters
    ----------
    header : ImageHeader
    is_volume : bool
        Whether planes along depth, or along time without depth, are fitted together.
    depth_axis : str
        Axis along which planes are fitted together instead; "": as above.
    """
    depth_axis = (depth_axis or get_stacked_axes(header)[-1:]) if is_volume else ""
    channel_axis = next((axis for axis in "CS" if axis in header.axes), "")
    item_axes = "".join(axis for axis in "TZ" if axis in header.axes and axis != depth_axis)
    return Layout(item_axes=item_axes, channel_axis=channel_axis, grid_axes=depth_axis + "YX")


def to_stack(array: AnyArray, axes: str, layout: Layout) -> Float32Array:
    """Return a copy of an image as a stack, (N, C, *grid) float32."""
    ordered = np.transpose(array, [axes.index(axis) for axis in layout.order])
    channels_start = len(layout.item_axes)
    grid_start = channels_start + len(layout.channel_axis)
    shape = ordered.shape
    counts = prod(shape[:channels_start]), prod(shape[channels_start:grid_start])
    return np.array(ordered.reshape(*counts, *shape[grid_start:]), dtype=np.float32, order="C")


def from_stack(stack: AnyArray, axes: str, shape: tuple[int, ...], layout: Layout) -> AnyArray:
    """Return the image of that shape from its stack: the inverse of `to_stack`."""
    order = [axes.index(axis) for axis in layout.order]
    ordered = stack.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(np.transpose(ordered, np.argsort(order)))


def cut_into_blocks(planes: AnyArray, side: int) -> AnyArray:
    """Cut (..., Y, X) into complete blocks: (..., rows, side, columns, side)."""
    rows, columns = (length // side for length in planes.shape[-2:])
    cropped = planes[..., : rows * side, : columns * side]
    return cropped.reshape(*cropped.shape[:-2], rows, side, columns, side)


def find_empty_planes(stack: AnyArray) -> BoolArray | None:
    """Return a mask (N, C, *depth) of planes of one value in (N, C, *grid), such as lost frames.

    Planes of a channel without any other plane do not count. Return None if there are none.
    """
    is_empty = stack.min((-2, -1)) == stack.max((-2, -1))
    other_axes = (0, *range(2, is_empty.ndim))
    is_empty &= ~is_empty.all(other_axes, keepdims=True)
    return is_empty if is_empty.any() else None


def fill_empty_planes(stack: Float32Array, empty_planes: BoolArray) -> Float32Array:
    """Return (N, C, *grid) in which empty planes have the mean of the closest other plane.

    Copies of its pixels would tell a network the noise that it is to predict.

    Parameters
    ----------
    stack : ndarray
    empty_planes : ndarray of bool
        As `find_empty_planes` returns it.
    """
    filled = stack.copy()
    for item, channel, *depth in np.argwhere(empty_planes):
        others = np.argwhere(~empty_planes[:, channel])
        nearest, *nearest_depth = others[np.abs(others - (item, *depth)).sum(1).argmin()]
        filled[item, channel, *depth] = stack[nearest, channel, *nearest_depth].mean()
    return filled


def plan_task(
    task: Task, header: ImageHeader, extra_headers: Headers, axes: str
) -> TaskPlan | Refusal:
    """Return the task's plan for fits with these axes, with all defaults filled in."""
    planned = task.plan(header, extra_headers, axes)
    if isinstance(planned, Refusal):
        return planned
    is_joint, grid = planned.joint_channels, planned.network_grid
    return replace(
        planned,
        joint_channels="S" in header.axes if is_joint is None else is_joint,
        network_grid=grid or header.get_sizes(axes),
    )


def refuse_header(header: ImageHeader, *, accepts_stacks: bool = True) -> Refusal | None:
    """Refuse a header whose axes, shape or type cannot be restored."""
    name, shape, axes = header.name, header.shape, header.axes
    if refusal := _refuse_axes(header) or _refuse_dtype(header):
        return refusal
    if get_stacked_axes(header) and not accepts_stacks:
        hint = _make_channels_hint(shape, axes)
        return make_refusal(
            "image-stack", name=name, axes=axes, shape=format_sizes(shape), hint=hint
        )
    if "S" in axes and shape[axes.index("S")] != 3:
        return make_refusal("image-channels", name=name, count=shape[axes.index("S")])
    plane_count = prod(n for axis, n in zip(axes, shape, strict=True) if axis in "TCZ")
    if plane_count > MAX_IMAGE_PLANES:
        return make_refusal("planes-many", name=name, most=f"{MAX_IMAGE_PLANES:,}")
    height, width = header.grid
    if min(height, width) < MIN_IMAGE_SIDE:
        return make_refusal(
            "image-small", name=name, height=height, width=width, least=MIN_IMAGE_SIDE
        )
    return None


def refuse_extra_headers(task_spec: TaskSpec, extra_headers: Headers) -> Refusal | None:
    """Refuse extra inputs that are missing or unsuitable by their headers."""
    for task_input in task_spec.inputs[1:]:
        header = extra_headers.get(task_input.name)
        if header is None:
            if task_input.is_optional:
                continue
            return make_refusal(
                "input-missing",
                label=task_input.label.lower(),
                field=task_input.label,
                task=task_spec.title.lower(),
                option=task_input.name.replace("_", "-"),
            )
        if not header.shape:
            return make_refusal("image-scalar", name=header.name)
        if 0 in header.shape:
            return make_refusal("image-empty", name=header.name, shape=format_sizes(header.shape))
        if not header.dtype.startswith(("bool", "int", "uint", "float")):
            return make_refusal("image-text", name=header.name, dtype=header.dtype)
    return None


def _refuse_dtype(header: ImageHeader) -> Refusal | None:
    if header.dtype.startswith("complex"):
        return make_refusal("image-complex", name=header.name)
    if header.dtype == "bool":
        return make_refusal("image-bool", name=header.name)
    if not header.dtype.startswith(("int", "uint", "float")):
        return make_refusal("image-text", name=header.name, dtype=header.dtype)
    return None


def _refuse_axes(header: ImageHeader) -> Refusal | None:
    """Refuse axes that are not those of an image, or that colours are missing from."""
    name, shape, axes = header.name, header.shape, header.axes
    facts = {"name": name, "axes": axes, "shape": format_sizes(shape)}
    if len(shape) < 2:
        count = {"count": shape[0]} if shape else {}
        return make_refusal("image-line" if shape else "image-scalar", name=name, **count)
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or set(axes) - set("TCZYXS"):
        return make_refusal("axes-wrong", count=len(shape), **facts)
    if "Y" not in axes or "X" not in axes:
        return make_refusal("axes-missing", axes=axes, name=name)
    if 0 in shape:
        return make_refusal("image-empty", name=name, shape=format_sizes(shape))
    if len(shape) > 2 and shape[-1] in (COLOUR_COUNT, COLOUR_COUNT + 1) and axes[-1] not in "SC":
        alpha = shape[-1] > COLOUR_COUNT
        colours = {"count": shape[-1], "alpha": alpha, "opaque": not alpha}
        right = "TZ"[: len(shape) - 3] + "YXS"
        return make_refusal("axes-colours", **facts, **colours, right=right)
    return make_refusal("axes-twice", **facts) if {"C", "S"} <= set(axes) else None


def _make_channels_hint(shape: tuple[int, ...], axes: str) -> str:
    """Return a clause on how to name channels that were read as a stack."""
    if len(shape) != 3 or shape[0] > MAX_UNNAMED_CHANNELS or not axes.endswith("YX"):
        return ""
    return (
        ", or name the axes CYX if this is one image in channels (Axes in the dock, "
        "--axes CYX on the command line, axes='CYX' in Python)"
    )


def list_other_axes(header: ImageHeader) -> str:
    """Return the axes of an image for other meanings of Z, for the user: "CYX for channels"."""
    may_be_colours = header.get_size("Z") == 3 and "C" not in header.axes
    return ", ".join(
        f"{header.axes.replace('Z', axis)} for {meaning}"
        for axis, meaning in _AXIS_MEANINGS.items()
        if axis not in header.axes and (axis != "S" or may_be_colours)
    )


def describe_batch_axes(headers: Sequence[ImageHeader]) -> tuple[Note, ...]:
    """Return a note on the axes that were assumed for files that do not name them."""
    unnamed = [header for header in headers if header.axes_notes]
    kinds = {header.axes: header for header in unnamed}
    return tuple(
        make_note(
            "batch-axes-guessed",
            count=sum(header.axes == axes for header in unnamed),
            total=len(headers),
            axes=f"{axes} ({', '.join(AXIS_NOUNS[axis] for axis in axes if axis in AXIS_NOUNS)})",
            others=list_other_axes(header) if "Z" in axes else "",
        )
        for axes, header in kinds.items()
    )


def has_planes_of(header: ImageHeader, image_header: ImageHeader | None) -> bool:
    """Whether an image has the pixels of another, and its planes and frames or a single one."""
    if image_header is None:
        return True
    sizes = dict(zip(image_header.axes, image_header.shape, strict=True))
    return all(
        count == sizes.get(axis) or (count == 1 and axis in "TZ")
        for axis, count in zip(header.axes, header.shape, strict=True)
        if axis not in "CS"
    )


def list_axes_choices(shape: tuple[int, ...], *, rgb: bool) -> dict[str, str]:
    """Return the usual axes of an image with more than Y and X, with their descriptions."""
    choices = [f"{axes}YX{'S' * rgb}" for axes in _LEADING_AXES.get(len(shape) - 2 - rgb, ())]
    if len(shape) == 3 and not rgb and shape[-1] <= MAX_UNNAMED_CHANNELS:
        choices += ["YXS"] if shape[-1] == 3 else ["YXC"]

    def describe(axes: str) -> str:
        counts = [(n, AXIS_NOUNS.get(axis)) for axis, n in zip(axes, shape, strict=True)]
        return ", ".join(f"{n} {noun[: -1 if n == 1 else None]}" for n, noun in counts if noun)

    return {axes: f"{axes}: {describe(axes)}" for axes in choices}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Extent of a tile along one axis, in pixels.

    Attributes
    ----------
    start, stop : int
        Including the overlaps with its neighbours.
    core_start, core_stop : int
        Without the halo: from the middle of one overlap to that of the other, or to the border.
    is_context_only : bool
        Whether the halo has weight 0, and is used only as context for the fit.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int
    is_context_only: bool = False

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.stop - self.start

    def upscale(self, factor: int) -> Span:
        """Return the same span in pixels of an image that is finer by a factor."""
        names = ("start", "stop", "core_start", "core_stop")
        return replace(self, **{name: factor * getattr(self, name) for name in names})

    @property
    def core(self) -> Span:
        """Span without the halo."""
        return replace(self, start=self.core_start, stop=self.core_stop, is_context_only=False)

    def compute_weights(self, start: int, stop: int) -> FloatArray:
        """Return the blending weight of each pixel from `start` to `stop`, all within the span.

        Overlaps are blended by a squared sine; the weights of all tiles sum to 1.
        """
        positions = np.arange(start, stop, dtype=np.float64) + 0.5
        weight = np.ones(stop - start)
        if self.is_context_only:
            return weight * ((positions > self.core_start) & (positions < self.core_stop))
        if self.core_start > self.start:
            weight *= _compute_blend_ramp(positions, self.core_start, self.core_start - self.start)
        if self.core_stop < self.stop:
            weight *= 1 - _compute_blend_ramp(positions, self.core_stop, self.stop - self.core_stop)
        return weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Section of a plane or volume that is restored separately.

    Attributes
    ----------
    index : int
        Number of the tile, row by row; its seeds depend on it.
    y, x : Span
    z : Span or None
        Planes of a Z stack; None for a single plane.
    """

    index: int
    y: Span
    x: Span
    z: Span | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """Spans along Z (of a Z stack), Y and X."""
        return (self.y, self.x) if self.z is None else (self.z, self.y, self.x)

    @property
    def axes(self) -> str:
        """Axes of the spans: "YX" or "ZYX"."""
        return "ZYX"[-len(self.spans) :]

    @property
    def start(self) -> tuple[int, ...]:
        """First pixel of the tile in the image, along each of its axes."""
        return tuple(span.start for span in self.spans)

    @property
    def size(self) -> tuple[int, ...]:
        """Planes (of a Z stack), height and width, including overlaps."""
        return tuple(span.size for span in self.spans)

    @property
    def core(self) -> Tile:
        """Tile without the halo."""
        return replace(self, y=self.y.core, x=self.x.core, z=self.z and self.z.core)

    def upscale(self, factors: tuple[int, int]) -> Tile:
        """Return the same tile of an image that is finer by these factors along Y and X."""
        return replace(self, y=self.y.upscale(factors[0]), x=self.x.upscale(factors[1]))

    def compute_weights(self) -> FloatArray:
        """Return the blending weight of each pixel of the tile."""
        weights = np.ones(())
        for span in self.spans:
            weights = weights[..., None] * span.compute_weights(span.start, span.stop)
        return weights

    def get_slices(self, axes: str) -> tuple[slice, ...]:
        """Return the slices of the tile in an image with these axes."""
        slices = (slice(span.start, span.stop) for span in self.spans)
        slice_by_axis = dict(zip(self.axes, slices, strict=True))
        return tuple(slice_by_axis.get(axis, slice(None)) for axis in axes)

    def join_planes(self, stack: AnyArray) -> AnyArray:
        """Convert a tile from (N, C, *grid) to (C, *size)."""
        return np.moveaxis(stack, 0, 1) if stack.ndim == len(self.spans) + 1 else stack[0]

    def split_planes(self, pixels: AnyArray, grid_axes: str) -> AnyArray:
        """Convert a tile from (C, *size) to (N, C, *grid), for fits with these axes."""
        return np.moveaxis(pixels, 1, 0) if len(grid_axes) < len(self.spans) else pixels[None]

    def read_pixels(self, image: Any, axes: str) -> AnyArray:
        """Return a copy of the tile's pixels from an image in memory or on disk."""
        return np.array(image[self.get_slices(axes)])

    def make_header(self, header: ImageHeader) -> ImageHeader:
        """Return the header of the tile as an image of its own."""
        sides = dict(zip(self.axes, self.size, strict=True))
        sizes = zip(header.axes, header.shape, strict=True)
        return replace(header, shape=tuple(sides.get(axis, count) for axis, count in sizes))


def make_tile_without_halo(start: tuple[int, ...], size: tuple[int, ...], index: int = 0) -> Tile:
    """Return a tile without a halo, from its first pixel and size along Z (of a Z stack), Y and X.

    Parameters
    ----------
    start, size : tuple of int
    index : int
        Number of the tile.
    """
    *z, y, x = (
        Span(start=first, stop=first + count, core_start=first, core_stop=first + count)
        for first, count in zip(start, size, strict=True)
    )
    return Tile(index=index, y=y, x=x, z=z[0] if z else None)


def has_overlap(tile: Tile, region: Tile) -> bool:
    """Return whether two tiles share pixels, halos included."""
    return all(
        tile_span.start < region_span.stop and region_span.start < tile_span.stop
        for tile_span, region_span in zip(tile.spans, region.spans, strict=True)
    )


def _compute_blend_ramp(positions: FloatArray, middle: int, half_width: int) -> FloatArray:
    """Return weights that rise from 0 to 1 within an overlap, and are constant at its ends."""
    ramp = half_width * (1 - 2 * ZERO_WEIGHT_FRACTION)
    fraction = np.clip((positions - middle + ramp) / (2 * ramp), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * fraction) ** 2)
