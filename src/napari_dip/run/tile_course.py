"""Tiles restored one after another, each as if it were an image of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.run.checkpoint_parts import identity_of
from napari_dip.run.course import Course, without
from napari_dip.run.events import Event
from napari_dip.run.layout import to_parts
from napari_dip.run.lost_device import refused_by_machine
from napari_dip.run.merge import Merge
from napari_dip.run.outliers import without_odd, without_outliers
from napari_dip.run.rescue import spare_places
from napari_dip.run.sharing import OWN, settled_by
from napari_dip.run.shelf import Piece, Shelf
from napari_dip.run.tile_lesson import opened

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from napari_dip.run.checkpoints import Store
    from napari_dip.run.clock import Clock
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.tile_report import Measured
    from napari_dip.run.tiles import Tile
    from napari_dip.run.units import WorkUnit


def shelf_of(ready: Measured, store: Store) -> Shelf:
    """Open the shelf beside a store for the tiles of this run; raises as `Shelf` does."""
    plan = ready.plan
    tiles = [[*tile.start, *tile.size] for tile in plan.tiles]
    identity = {**identity_of(plan, ready.hashes), "tiles": tiles}
    return Shelf(store.shelf, identity, resume=store.resume, others=spare_places(plan))


class TileCourse:
    """The tiles of one run, one after another.

    Parameters
    ----------
    ready : Measured
    image : array-like
        Read region by region.
    clock : Clock
    store : Store
        Keeps checkpoints within a tile.
    shelf : Shelf
        Keeps the tiles that are done.

    Attributes
    ----------
    order : list of int
        Numbers of the tiles that there are by now.
    """

    def __init__(
        self, ready: Measured, image: Any, clock: Clock, store: Store, shelf: Shelf
    ) -> None:
        self._plan = ready.plan
        self._calibration = ready.calibration
        self._image = image
        self._clock = clock
        self._store = store
        self._shelf = shelf
        self.order: list[int] = []

    def restored(self, units: Sequence[WorkUnit]) -> Generator[Event, None, Control]:
        """Restore the tiles of these units that are not done; whether the run was ended."""
        tiled = [unit for unit in units if unit.pictured]
        number = len(units) - len(tiled)
        for index, fits in groupby(tiled, lambda unit: unit.tile or 0):
            group = list(fits)
            first, number = number + 1, number + len(group)
            if not self._shelf.has(index):
                try:
                    ended = yield from self._tile(self._plan.tiles[index], group, first)
                except Exception as error:
                    no = refused_by_machine(error, self._plan.source.name)
                    if no is None or not self.order:
                        raise
                    yield Event(f"{no.sentence} The tiles that are done were kept.")
                    ended = Control.KEEP
                if ended is not Control.GO:
                    return ended
                if (moved := self._shelf.moved()) and moved != self._store.moved:
                    self._store.moved = moved
                    yield Event(moved.sentence)
            self.order.append(index)
        return Control.GO

    def _tile(
        self, tile: Tile, units: list[WorkUnit], number: int
    ) -> Generator[Event, None, Control]:
        """Restore one tile, as if it were an image of its own."""
        plan = replace(
            self._plan, source=tile.header(self._plan.source), units=tuple(units), tiles=()
        )
        array = tile.of(self._image, plan.source.axes)
        parts = to_parts(array, plan.source.axes, plan.layout)
        parts, _ = without_outliers(parts, None, self._calibration.outlier_limits)
        calibration = _of_tile(self._calibration, parts)
        merge = Merge(plan, calibration, parts, array)
        resume = opened(self._store, plan, array, merge)
        done = {one.unit for one in merge.outcomes}
        course = Course(plan, calibration, parts, self._clock, merge, self._store)
        ended = Control.GO
        begin = units[0].part
        for place, unit in enumerate(units):
            fitted = settled_by(without(unit, calibration.constant), self._shelf.lesson())
            if unit.id in done or not fitted.channels:
                continue
            name = f"c{unit.channels[0]}r{unit.restart}"
            if unit.part == begin:  # later planes of the tile go on with what the one before has
                course.weights = self._shelf.weights(name) if unit.warm else None
            ended = yield from course.fit_unit(fitted, number + place, resume)
            resume = None
            if ended is not Control.GO:
                break
            teaches = tile is self._first and unit.role == OWN
            if course.weights is not None and teaches:  # of its last plane in the end
                self._shelf.keep_weights(name, course.weights)
        return self._settled(tile, merge, parts, ended)

    @property
    def _first(self) -> Tile:
        return self._plan.tiles[self._plan.units[0].tile or 0]

    def _settled(self, tile: Tile, merge: Merge, parts: Any, ended: Control) -> Control:
        """Put away what a tile came to."""
        if ended is Control.DISCARD or (ended is Control.KEEP and not merge.outcomes):
            return ended
        mean, deviation, prediction = (tile.laid(one) for one in merge.so_far())
        lost = tile.weights() * (tile.laid(parts) - prediction.astype(np.float64))
        left = without_odd(lost).sum(tuple(range(1, lost.ndim)))
        same = np.array_equal(mean, prediction)
        piece = Piece(
            np.stack([mean, deviation]),
            None if same else prediction,
            tuple(float(one) for one in left),
            tuple(merge.outcomes),
            merge.learned,
        )
        if ended is Control.KEEP:
            self.order.append(tile.index)
            self._shelf.hold(tile.index, piece)
            return ended
        self._shelf.put(tile.index, piece)
        self._store.forget()
        return ended


def _of_tile(calibration: Calibration, parts: Any) -> Calibration:
    """Give what holds for a tile's pixels: all of the image's, and the tile at half its size."""
    if calibration.coarse is None:
        return calibration
    import torch

    from napari_dip.engine.oversampling import halved

    half = np.asarray(halved(torch.from_numpy(parts)), np.float32)
    return replace(calibration, coarse=replace(calibration.coarse, parts=half))
