"""Tiles restored one after another, each as if it were an image of its own.

Restore a picture tile by tile: each by itself, all by one calibration, blended in the end.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.pipeline.assess.merge import Merge
from napari_dip.pipeline.calibrate.grid import without_odd, without_outliers
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.clock import Clock
from napari_dip.pipeline.execute.course import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.execute.memory import make_machine_refusal
from napari_dip.pipeline.execute.tile_measuring import lesson, measured, opened
from napari_dip.pipeline.execute.tile_report import TileBlender, reported
from napari_dip.pipeline.plan.layout import split_into_parts
from napari_dip.pipeline.plan.sharing import settled_by
from napari_dip.pipeline.plan.types import OWN
from napari_dip.pipeline.store.checkpoint_file import make_run_identity
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.results import spare_places
from napari_dip.pipeline.store.tiles import Piece, Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.execute.tile_report import Measured
    from napari_dip.pipeline.plan.types import Plan, Tile, WorkUnit


def shelf_of(ready: Measured, store: CheckpointStore) -> Shelf:
    """Open the shelf beside a store for the tiles of this run; raises as `Shelf` does."""
    plan = ready.plan
    tiles = [[*tile.start, *tile.size] for tile in plan.tiles]
    identity = {**make_run_identity(plan, ready.hashes), "tiles": tiles}
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
        self, ready: Measured, image: Any, clock: Clock, store: CheckpointStore, shelf: Shelf
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
                    no = make_machine_refusal(error, self._plan.source.name)
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
        parts = split_into_parts(array, plan.source.axes, plan.layout)
        parts, _ = without_outliers(parts, None, self._calibration.outlier_limits)
        calibration = _of_tile(self._calibration, parts)
        merge = Merge(plan, calibration, parts, array)
        resume = opened(self._store, plan, array, merge)
        done = {one.unit for one in merge.outcomes}
        course = UnitExecutor(plan, calibration, parts, self._clock, merge, self._store)
        ended = Control.GO
        begin = units[0].part
        for place, unit in enumerate(units):
            fitted = settled_by(
                drop_constant_channels(unit, calibration.constant), self._shelf.lesson()
            )
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

    from napari_dip.engine.noise.oversampling import halve_resolution

    half = np.asarray(halve_resolution(torch.from_numpy(parts)), np.float32)
    return replace(calibration, coarse=replace(calibration.coarse, parts=half))


def restore_tiles(
    plan: Plan,
    data: Mapping[str, Any],
    control: Callable[[], Control],
    store: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore a picture in the plan's tiles.

    Parameters
    ----------
    plan, data, control, store
        As for `runner.run`. "image" is read region by region; what is done lies
        beside the store, or else in a temporary folder.

    Yields
    ------
    Event
        Without previews.

    Returns
    -------
    Restoration or None
        Its pictures are arrays that stay on the disk.

    Raises
    ------
    Refused, Failed
        As for `run`.
    """
    clock = Clock(plan, control, None)
    ready = yield from measured(plan, data, clock)
    plan, image = ready.plan, data["image"]
    clock.expect(plan)
    with ExitStack() as stack:
        if store is None:
            keeper = tempfile.TemporaryDirectory(prefix="napari-dip-", ignore_cleanup_errors=True)
            store = CheckpointStore(Path(stack.enter_context(keeper)) / "run", resume=False)
        shelf = shelf_of(ready, store)
        stack.callback(shelf.close)
        course = TileCourse(ready, image, clock, store, shelf)
        ended = yield from lesson(ready, clock, store, shelf)
        if ended is Control.GO:
            ended = yield from course.restored(plan.units)
        if ended is Control.DISCARD:
            return None
        if not course.order:  # asked to keep before there was anything
            clock.check_time(plan.source.name)
            return None
        shelf.check(course.order)
        yield Event("Putting the tiles together", fraction=1.0, seconds=clock.seconds)
        blend = TileBlender(plan, ready.calibration, shelf, image)
        written = blend.written(_shift(plan, shelf))
        return reported(ready, blend, shelf, written, clock)


def _shift(plan: Plan, shelf: Shelf) -> Any:
    """Give what the fits have lost of each channel's mean."""
    sums = [shelf.told(tile.index)[0] for tile in plan.tiles if shelf.there(tile.index)]
    return np.sum(sums, axis=0) / prod(plan.source.along(plan.tiles[0].axes))
