"""Tiles of an image: their extent, their halo, and the weights with which they are blended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_dip.io import AnyArray, FloatArray, ImageHeader

#: Share of an overlap, at either end, where a tile has weight 0 or 1. The outermost pixels of a
#: tile were computed from reflected pixels instead of the image beyond.
ZERO_WEIGHT_FRACTION = 1 / 8


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
        return Tile(index=self.index, y=self.y.core, x=self.x.core, z=self.z and self.z.core)

    def upscale(self, factors: tuple[int, int]) -> Tile:
        """Return the same tile of an image that is finer by these factors along Y and X."""
        return Tile(
            index=self.index, y=self.y.upscale(factors[0]), x=self.x.upscale(factors[1]), z=self.z
        )

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


def make_region(start: tuple[int, ...], size: tuple[int, ...], index: int = 0) -> Tile:
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


def _compute_blend_ramp(positions: FloatArray, middle: int, half_width: int) -> FloatArray:
    """Return weights that rise from 0 to 1 within an overlap, and are constant at its ends."""
    ramp = half_width * (1 - 2 * ZERO_WEIGHT_FRACTION)
    fraction = np.clip((positions - middle + ramp) / (2 * ramp), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * fraction) ** 2)
