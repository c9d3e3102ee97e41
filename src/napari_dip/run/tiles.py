"""A picture plane cut into tiles that overlap, and weights by which they blend into each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
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
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def size(self) -> int:
        """Count the pixels."""
        return self.stop - self.start

    def times(self, factor: int) -> Span:
        """Give the same span in pixels of a finer picture."""
        return Span(*(one * factor for one in (self.start, self.stop, self.first, self.last)))

    def weights(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Give the tile's share in each pixel from `start` to `stop`, all of them in the tile.

        A quarter of a sine, squared; over all tiles it sums to 1.
        """
        place = np.arange(start, stop, dtype=np.float64) + 0.5
        weight = np.ones(stop - start)
        if self.first > self.start:
            weight *= _rise(place, self.first, self.first - self.start)
        if self.last < self.stop:
            weight *= 1 - _rise(place, self.last, self.stop - self.last)
        return weight


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of the picture plane that is restored by itself.

    Attributes
    ----------
    index : int
        Row by row; seeds come from it.
    y, x : Span
    """

    index: int
    y: Span
    x: Span

    @property
    def start(self) -> tuple[int, int]:
        """Where its first pixel lies in the image."""
        return self.y.start, self.x.start

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, with what it shares with its neighbours."""
        return self.y.size, self.x.size

    def times(self, factors: tuple[int, int]) -> Tile:
        """Give the same tile of a picture that is finer by that along Y and X."""
        return Tile(self.index, self.y.times(factors[0]), self.x.times(factors[1]))

    def of(self, image: Any, axes: str) -> npt.NDArray[Any]:
        """Read the tile out of an image with these axes, which may lie on a disk: a copy."""
        place = {"Y": slice(self.y.start, self.y.stop), "X": slice(self.x.start, self.x.stop)}
        return np.array(image[tuple(place.get(axis, slice(None)) for axis in axes)])

    def header(self, source: ImageSpec) -> ImageSpec:
        """Describe the tile as an image of its own."""
        sides = dict(zip("YX", self.size, strict=True))
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


def largest(tiles: tuple[Tile, ...]) -> Tile:
    """Give the tile with most pixels."""
    return max(tiles, key=lambda tile: tile.y.size * tile.x.size)


def _spans(count: int, side: int, reach: int) -> list[Span]:
    parts = ceil(count / side)
    cuts = [round(count * part / parts / GRAIN) * GRAIN for part in range(parts)] + [count]
    pairs = list(pairwise(cuts))
    # only two tiles may share a pixel along an axis
    half = min((last - first) // 2 for first, last in pairs)
    reach = min(reach, half // GRAIN * GRAIN)
    return [
        Span(max(0, first - reach), min(count, last + reach), first, last) for first, last in pairs
    ]


def _rise(place: npt.NDArray[np.float64], middle: int, reach: int) -> npt.NDArray[np.float64]:
    """From 0 to 1 over what two tiles share, but for its ends."""
    ramp = reach * (1 - 2 * SILENT)
    share = np.clip((place - middle + ramp) / (2 * ramp), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * share) ** 2)
