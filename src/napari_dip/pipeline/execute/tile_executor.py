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
from napari_dip.pipeline.assess.merge import ResultMerger
from napari_dip.pipeline.calibrate.resolution_and_outliers import (
    fill_outliers,
    zero_residual_outliers,
)
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.clock import RunClock
from napari_dip.pipeline.execute.device_recovery import make_machine_refusal
from napari_dip.pipeline.execute.tile_blending import TileBlender, assemble_restoration
from napari_dip.pipeline.execute.tile_calibration import (
    calibrate_tiles,
    open_part_checkpoint,
    train_on_sample,
)
from napari_dip.pipeline.execute.unit_executor import UnitExecutor, drop_constant_channels
from napari_dip.pipeline.plan.joint_training import apply_probe_outcome
from napari_dip.pipeline.plan.layout import split_into_parts
from napari_dip.pipeline.plan.types import INDEPENDENT
from napari_dip.pipeline.store.checkpoint_file import make_run_identity
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.results import list_fallback_folders
from napari_dip.pipeline.store.tile_results import TileFolder, TileResult

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.execute.tile_blending import TileCalibration
    from napari_dip.pipeline.plan.types import Plan, Tile, WorkUnit


def open_tile_folder(prepared: TileCalibration, store: CheckpointStore) -> TileFolder:
    """Open the shelf beside a store for the tiles of this run; raises as `TileFolder` does."""
    plan = prepared.plan
    tiles = [[*tile.start, *tile.size] for tile in plan.tiles]
    identity = {**make_run_identity(plan, prepared.hashes), "tiles": tiles}
    return TileFolder(
        store.results_folder, identity, resume=store.resume, others=list_fallback_folders(plan)
    )


class TileExecutor:
    """The tiles of one run, one after another.

    Parameters
    ----------
    prepared : TileCalibration
    image : array-like
        Read region by region.
    clock : RunClock
    store : CheckpointStore
        Keeps checkpoints within a tile.
    shelf : TileFolder
        Keeps the tiles that are done.

    Attributes
    ----------
    finished_tiles : list of int
        Numbers of the tiles that there are by now.
    """

    def __init__(
        self,
        prepared: TileCalibration,
        image: Any,
        clock: RunClock,
        store: CheckpointStore,
        shelf: TileFolder,
    ) -> None:
        self._plan = prepared.plan
        self._calibration = prepared.calibration
        self._image = image
        self._clock = clock
        self._store = store
        self._tile_folder = shelf
        self.finished_tiles: list[int] = []

    def restore_units(self, units: Sequence[WorkUnit]) -> Generator[Event, None, Control]:
        """Restore the tiles of these units that are not done; whether the run was ended."""
        tiled = [unit for unit in units if unit.has_estimate]
        number = len(units) - len(tiled)
        for index, fits in groupby(tiled, lambda unit: unit.tile or 0):
            group = list(fits)
            first, number = number + 1, number + len(group)
            if not self._tile_folder.is_finished(index):
                try:
                    ended = yield from self._restore_tile(self._plan.tiles[index], group, first)
                except Exception as error:
                    no = make_machine_refusal(error, self._plan.source.name)
                    if no is None or not self.finished_tiles:
                        raise
                    yield Event(message=f"{no.sentence} The tiles that are done were kept.")
                    ended = Control.KEEP
                if ended is not Control.GO:
                    return ended
                if (
                    moved := self._tile_folder.make_fallback_notice()
                ) and moved != self._store.fallback_notice:
                    self._store.fallback_notice = moved
                    yield Event(message=moved.sentence)
            self.finished_tiles.append(index)
        return Control.GO

    def _restore_tile(
        self, tile: Tile, units: list[WorkUnit], number: int
    ) -> Generator[Event, None, Control]:
        """Restore one tile, as if it were an image of its own."""
        plan = replace(
            self._plan, source=tile.make_header(self._plan.source), units=tuple(units), tiles=()
        )
        array = tile.read_pixels(self._image, plan.source.axes)
        parts = split_into_parts(array, plan.source.axes, plan.layout)
        parts, _ = fill_outliers(parts, None, self._calibration.outlier_limits)
        calibration = _make_tile_calibration(self._calibration, parts)
        merge = ResultMerger(plan, calibration, parts, array)
        resume = open_part_checkpoint(self._store, plan, array, merge)
        done = {outcome.unit for outcome in merge.outcomes}
        course = UnitExecutor(plan, calibration, parts, self._clock, merge, self._store)
        ended = Control.GO
        begin = units[0].part
        for place, unit in enumerate(units):
            fitted = apply_probe_outcome(
                drop_constant_channels(unit, calibration.constant_channels),
                self._tile_folder.read_joint_outcomes(),
            )
            if unit.id in done or not fitted.channels:
                continue
            name = f"c{unit.channels[0]}r{unit.restart}"
            if unit.part == begin:  # later planes of the tile go on with what the one before has
                course.weights = (
                    self._tile_folder.load_weights(name) if unit.is_warm_start else None
                )
            ended = yield from course.fit_unit(fitted, number + place, resume)
            resume = None
            if ended is not Control.GO:
                break
            teaches = tile is self._first_tile and unit.role == INDEPENDENT
            if course.weights is not None and teaches:  # of its last plane in the end
                self._tile_folder.save_weights(name, course.weights)
        return self._record_tile(tile, merge, parts, ended)

    @property
    def _first_tile(self) -> Tile:
        return self._plan.tiles[self._plan.units[0].tile or 0]

    def _record_tile(self, tile: Tile, merge: ResultMerger, parts: Any, ended: Control) -> Control:
        """Put away what a tile came to."""
        if ended is Control.DISCARD or (ended is Control.KEEP and not merge.outcomes):
            return ended
        mean, deviation, prediction = (
            tile.join_planes(estimate) for estimate in merge.get_estimates()
        )
        lost = tile.compute_weights() * (tile.join_planes(parts) - prediction.astype(np.float64))
        residual_sums = zero_residual_outliers(lost).sum(tuple(range(1, lost.ndim)))
        same = np.array_equal(mean, prediction)
        piece = TileResult(
            estimates=np.stack([mean, deviation]),
            prediction=None if same else prediction,
            residual_sums=tuple(float(residual_sum) for residual_sum in residual_sums),
            outcomes=tuple(merge.outcomes),
            learned=merge.learned,
        )
        if ended is Control.KEEP:
            self.finished_tiles.append(tile.index)
            self._tile_folder.keep_in_memory(tile.index, piece)
            return ended
        self._tile_folder.save(tile.index, piece)
        self._store.remove_checkpoint()
        return ended


def _make_tile_calibration(calibration: Calibration, parts: Any) -> Calibration:
    """Give what holds for a tile's pixels: all of the image's, and the tile at half its size."""
    if calibration.half_resolution is None:
        return calibration
    import torch

    from napari_dip.engine.noise.oversampling import halve_resolution

    half = np.asarray(halve_resolution(torch.from_numpy(parts)), np.float32)
    return replace(calibration, half_resolution=replace(calibration.half_resolution, stack=half))


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
    clock = RunClock(plan, control, None)
    prepared = yield from calibrate_tiles(plan, data, clock)
    plan, image = prepared.plan, data["image"]
    clock.expect(plan)
    with ExitStack() as stack:
        if store is None:
            keeper = tempfile.TemporaryDirectory(prefix="napari-dip-", ignore_cleanup_errors=True)
            store = CheckpointStore(Path(stack.enter_context(keeper)) / "run", resume=False)
        shelf = open_tile_folder(prepared, store)
        stack.callback(shelf.close)
        course = TileExecutor(prepared, image, clock, store, shelf)
        ended = yield from train_on_sample(prepared, clock, store, shelf)
        if ended is Control.GO:
            ended = yield from course.restore_units(plan.units)
        if ended is Control.DISCARD:
            return None
        if not course.finished_tiles:  # asked to keep before there was anything
            clock.check_time(plan.source.name)
            return None
        shelf.check_tiles(course.finished_tiles)
        yield Event(message="Putting the tiles together", fraction=1.0, seconds=clock.seconds)
        blend = TileBlender(plan, prepared.calibration, shelf, image)
        written = blend.write_images(_compute_mean_shift(plan, shelf))
        return assemble_restoration(prepared, blend, shelf, written, clock)


def _compute_mean_shift(plan: Plan, shelf: TileFolder) -> Any:
    """Give what the fits have lost of each channel's mean."""
    sums = [
        shelf.read_tile_record(tile.index)[0] for tile in plan.tiles if shelf.has_tile(tile.index)
    ]
    return np.sum(sums, axis=0) / prod(plan.source.along(plan.tiles[0].axes))
