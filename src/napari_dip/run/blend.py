"""From finished tiles to one picture, region by region: nowhere is more of it held than that."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.io.regions import OnDisk, new_on_disk
from napari_dip.run.layout import from_parts, to_parts
from napari_dip.run.merge import as_input
from napari_dip.run.noise import noise_variance
from napari_dip.run.tiles import Span, Tile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from napari_dip.run.plan import Plan
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.shelf import Shelf

#: Values of a result that are worked on at a time while it is put together.
BAND = 2**20


class Region(NamedTuple):
    """What is known of a region, (C, Y, X) each, in the image's units.

    Attributes
    ----------
    picture, deviation : ndarray
        In the result's pixels.
    measured, prediction : ndarray
        In the image's.
    """

    picture: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    measured: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.float64]


class Blend:
    """Blends tiles into each other; where one is missing, the input stands for it.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
        Its noise tells how sure the input is.
    shelf : Shelf
    image : array-like
        In the axes and shape of `plan.source`.
    """

    def __init__(self, plan: Plan, calibration: Calibration, shelf: Shelf, image: Any) -> None:
        self._plan = plan
        self._noise = calibration.noise
        self._constant = calibration.constant
        self._shelf = shelf
        self._image = image
        down, right = plan.recipe.task.factors("YX")
        self._factors = down, right

    def region(self, place: Tile) -> Region:
        """Blend one region, given in the image's pixels."""
        plan = self._plan
        measured = to_parts(place.of(self._image, plan.source.axes), plan.source.axes, plan.layout)
        fine = place.times(self._factors)
        picture, variance, prediction = (
            np.zeros((measured.shape[1], *size)) for size in (fine.size, fine.size, place.size)
        )
        for tile in plan.tiles:
            if not _meet(tile, place):
                continue
            there = tile.times(self._factors)
            inside, weight, part = _shared(there, fine)
            values, doubts = self._of_tile(tile, measured[0], place)
            picture[:, *inside] += weight * values[:, *part]
            variance[:, *inside] += weight * doubts[:, *part] ** 2
            inside, weight, part = _shared(tile, place)
            prediction[:, *inside] += weight * self._prediction(tile, measured[0], place)[:, *part]
        return Region(picture, np.sqrt(variance), measured[0].astype(np.float64), prediction)

    def written(self, shift: npt.NDArray[np.float64], folder: Path) -> tuple[OnDisk, ...]:
        """Write picture, uncertainty and residual to files, band by band.

        Parameters
        ----------
        shift : ndarray
            (C,), what is put back of each channel's mean.
        folder : Path
        """
        plan = self._plan
        kind = np.dtype(plan.source.dtype if plan.recipe.common.dtype == "same" else np.float32)
        single = np.dtype(np.float32)
        answer = (
            new_on_disk(folder / "picture.raw", plan.result_shape, kind),
            new_on_disk(folder / "deviation.raw", plan.result_shape, single),
            new_on_disk(folder / "residual.raw", plan.source.shape, single),
        )
        offset = shift[:, None, None]
        for band in self._bands():
            found, fine = self.region(band), band.times(self._factors)
            shown = self._arranged(found.picture + offset, fine)
            left = found.measured - found.prediction - offset
            left[list(self._constant)] = 0
            for whole, part, tile in (
                (answer[0], as_input(shown, kind, plan), fine),
                (answer[1], self._arranged(found.deviation, fine), fine),
                (answer[2], self._arranged(left, band), band),
            ):
                rows = slice(tile.y.start, tile.y.stop)
                axes = plan.source.axes
                whole[tuple(rows if axis == "Y" else slice(None) for axis in axes)] = part
        return answer

    def _bands(self) -> Iterator[Tile]:
        height, width = self._plan.source.grid
        across = prod(self._plan.result_shape) // (height * self._factors[0])
        rows = max(1, BAND // (across * self._factors[0]))
        for first in range(0, height, rows):
            last = min(height, first + rows)
            yield Tile(0, Span(first, last, first, last), Span(0, width, 0, width))

    def _arranged(self, planes: npt.NDArray[np.float64], place: Tile) -> npt.NDArray[np.float32]:
        """Bring (C, Y, X) to the image's axes."""
        source = place.header(self._plan.source)
        parts = planes[None].astype(np.float32)
        return np.asarray(from_parts(parts, source.axes, source.shape, self._plan.layout))

    def _of_tile(
        self, tile: Tile, measured: npt.NDArray[Any], place: Tile
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self._shelf.there(tile.index):
            picture, deviation = self._shelf.pictures(tile.index)
            return picture, deviation
        shown = self._whole_tile(tile, measured, place)
        for axis, factor in enumerate(self._factors, 1):
            shown = np.repeat(shown, factor, axis)
        doubt = [np.sqrt(noise_variance(one, shown[c])) for c, one in enumerate(self._noise)]
        return shown, np.stack(doubt)

    def _prediction(self, tile: Tile, measured: npt.NDArray[Any], place: Tile) -> npt.NDArray[Any]:
        if self._shelf.there(tile.index):
            return self._shelf.prediction(tile.index)
        return self._whole_tile(tile, measured, place)

    def _whole_tile(self, tile: Tile, measured: npt.NDArray[Any], place: Tile) -> npt.NDArray[Any]:
        """Lay what was measured in a region into a tile; what lies outside is not asked for."""
        whole = np.zeros((len(measured), *tile.size), np.float32)
        inside, _, part = _shared(tile, place)
        whole[:, *part] = measured[:, *inside]
        return whole


def _meet(tile: Tile, place: Tile) -> bool:
    return all(
        one.start < other.stop and other.start < one.stop
        for one, other in ((tile.y, place.y), (tile.x, place.x))
    )


def _shared(
    tile: Tile, place: Tile
) -> tuple[tuple[slice, slice], npt.NDArray[np.float64], tuple[slice, slice]]:
    """Give what tile and region share: where in either, and the tile's weights, between them."""
    inside, weights, part = [], [], []
    for one, other in ((tile.y, place.y), (tile.x, place.x)):
        start, stop = max(one.start, other.start), min(one.stop, other.stop)
        inside.append(slice(start - other.start, stop - other.start))
        part.append(slice(start - one.start, stop - one.start))
        weights.append(one.weights(start, stop))
    return (inside[0], inside[1]), weights[0][:, None] * weights[1], (part[0], part[1])
