"""A plane or a stack cut into tiles that overlap, and weights by which they blend together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.io import ImageSpec

#: Boundaries between tiles lie on multiples of this: a tile may then be halved by itself.
GRAIN = 8
#: Share of an overlap, at either end of it, where a tile has no say: its outermost pixels have seen
#: a mirror instead of the picture that goes on.
SILENT = 1 / 8


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis, in pixels.

    Attributes
    ----------
    start, stop : int
        With what it shares with its neighbours.
    first, last : int
        Middles of what is shared; at the border of the image its ends.
    apart : bool
        Whether it has no say in what it shares: that is only looked at.
    """

    start: int
    stop: int
    first: int
    last: int
    apart: bool = False

    @property
    def size(self) -> int:
        """Count the pixels."""
        return self.stop - self.start

    def times(self, factor: int) -> Span:
        """Give the same span in pixels of a finer picture."""
        start, stop, first, last = (
            one * factor for one in (self.start, self.stop, self.first, self.last)
        )
        return Span(start, stop, first, last, self.apart)

    @property
    def core(self) -> Span:
        """Give what no other tile has."""
        return Span(self.first, self.last, self.first, self.last)

    def weights(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Give the tile's share in each pixel from `start` to `stop`, all of them in the tile.

        A quarter of a sine, squared; over all tiles it sums to 1.
        """
        place = np.arange(start, stop, dtype=np.float64) + 0.5
        weight = np.ones(stop - start)
        if self.apart:
            return weight * ((place > self.first) & (place < self.last))
        if self.first > self.start:
            weight *= _rise(place, self.first, self.first - self.start)
        if self.last < self.stop:
            weight *= 1 - _rise(place, self.last, self.stop - self.last)
        return weight


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of the picture plane, or of a stack, that is restored by itself.

    Attributes
    ----------
    index : int
        Row by row; seeds come from it.
    y, x : Span
    z : Span or None
        Planes of a stack; None for a picture plane.
    """

    index: int
    y: Span
    x: Span
    z: Span | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """Along Z, where it has one, Y and X."""
        return (self.y, self.x) if self.z is None else (self.z, self.y, self.x)

    @property
    def axes(self) -> str:
        """Name the axes of its spans."""
        return "ZYX"[-len(self.spans) :]

    @property
    def start(self) -> tuple[int, ...]:
        """Where its first pixel lies in the image."""
        return tuple(one.start for one in self.spans)

    @property
    def size(self) -> tuple[int, ...]:
        """Planes, height and width, with what it shares with its neighbours."""
        return tuple(one.size for one in self.spans)

    @property
    def core(self) -> Tile:
        """Give what no other tile has."""
        return Tile(self.index, self.y.core, self.x.core, self.z and self.z.core)

    def times(self, factors: tuple[int, int]) -> Tile:
        """Give the same tile of a picture that is finer by that along Y and X."""
        return Tile(self.index, self.y.times(factors[0]), self.x.times(factors[1]), self.z)

    def weights(self) -> npt.NDArray[np.float64]:
        """Give the tile's share in each of its pixels."""
        share = np.ones(())
        for one in self.spans:
            share = share[..., None] * one.weights(one.start, one.stop)
        return share

    def place(self, axes: str) -> tuple[slice, ...]:
        """Say where it lies in an image with these axes."""
        slices = (slice(one.start, one.stop) for one in self.spans)
        there = dict(zip(self.axes, slices, strict=True))
        return tuple(there.get(axis, slice(None)) for axis in axes)

    def laid(self, parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring (parts, C, *grid) of the tile to (C, *size), whatever its planes are to a fit."""
        return np.moveaxis(parts, 0, 1) if parts.ndim == len(self.spans) + 1 else parts[0]

    def parted(self, pixels: npt.NDArray[Any], grid: str) -> npt.NDArray[Any]:
        """Undo `laid`, for fits that have these axes."""
        return np.moveaxis(pixels, 1, 0) if len(grid) < len(self.spans) else pixels[None]

    def of(self, image: Any, axes: str) -> npt.NDArray[Any]:
        """Read the tile out of an image with these axes, which may lie on a disk: a copy."""
        return np.array(image[self.place(axes)])

    def header(self, source: ImageSpec) -> ImageSpec:
        """Describe the tile as an image of its own."""
        sides = dict(zip(self.axes, self.size, strict=True))
        sizes = zip(source.axes, source.shape, strict=True)
        return replace(source, shape=tuple(sides.get(axis, count) for axis, count in sizes))


def tiles_of(grid: tuple[int, int], side: int, reach: int) -> tuple[Tile, ...]:
    """Cut a picture plane into tiles, as even as can be.

    Parameters
    ----------
    grid : tuple of int
        Height and width.
    side : int
        Most pixels along a tile, without what it shares.
    reach : int
        Pixels that it takes beyond the middle of what it shares, on each side that has a neighbour.

    Returns
    -------
    tuple of Tile
        Row by row; of one tile if the plane is no larger.
    """
    rows, columns = (_spans(count, side, reach) for count in grid)
    return tuple(
        Tile(row * len(columns) + column, y, x)
        for row, y in enumerate(rows)
        for column, x in enumerate(columns)
    )


def deep_tiles_of(
    grid: tuple[int, ...], sides: tuple[int, int], reach: tuple[int, int], *, apart: bool
) -> tuple[Tile, ...]:
    """Cut a stack into tiles.

    Parameters
    ----------
    grid : tuple of int
        Planes, height and width.
    sides, reach : tuple of int
        As for `tiles_of`, along Z and within the plane.
    apart : bool
        Whether planes are restored one by one: those next to a tile's own are only looked at.

    Returns
    -------
    tuple of Tile
        From plane to plane, then row by row.
    """
    depths = _spans(grid[0], sides[0], reach[0], 1 if apart else GRAIN)
    flat = tiles_of((grid[1], grid[2]), sides[1], reach[1])
    return tuple(
        Tile(place * len(flat) + one.index, one.y, one.x, replace(z, apart=apart))
        for place, z in enumerate(depths)
        for one in flat
    )


def largest(tiles: tuple[Tile, ...]) -> Tile:
    """Give the tile with most pixels."""
    return max(tiles, key=lambda tile: prod(tile.size))


def _spans(count: int, side: int, reach: int, grain: int = GRAIN) -> list[Span]:
    parts = ceil(count / side)
    cuts = [round(count * part / parts / grain) * grain for part in range(parts)] + [count]
    pairs = list(pairwise(cuts))
    # only two tiles may share a pixel along an axis
    half = min((last - first) // 2 for first, last in pairs)
    reach = min(reach, half // grain * grain)
    return [
        Span(max(0, first - reach), min(count, last + reach), first, last) for first, last in pairs
    ]


def _rise(place: npt.NDArray[np.float64], middle: int, reach: int) -> npt.NDArray[np.float64]:
    """From 0 to 1 over what two tiles share, but for its ends."""
    ramp = reach * (1 - 2 * SILENT)
    share = np.clip((place - middle + ramp) / (2 * ramp), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * share) ** 2)
