"""Restore an image tile by tile: one calibration for all, separate fits, blended at the end."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.pipeline.assess.merge import ResultMerger, UnitResult
from napari_dip.pipeline.assess.report import PlaneSums, zero_residual_outliers
from napari_dip.pipeline.calibrate.image_calibration import replace_half_resolution
from napari_dip.pipeline.calibrate.inputs import fill_pixels
from napari_dip.pipeline.calibrate.types import CalibratedImage
from napari_dip.pipeline.execute.device_recovery import make_machine_fault
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.execute.tile_blending import TileBlender, assemble_restoration
from napari_dip.pipeline.plan.layout import to_stack
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.result_files import list_rescue_folders
from napari_dip.pipeline.store.unit_results import JOINT_NAME, ResultStore, make_tile_name

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.calibrate.types import RunPlan
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import WorkUnit
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration


def open_tile_results(
    run_plan: RunPlan, hashes: Mapping[str, str], checkpoints: CheckpointStore
) -> ResultStore:
    """Open and lock the folder of a run; raises the errors of `ResultStore.lock`."""
    checkpoints.open(run_plan, run_plan.header.axes, hashes)
    unit_results = ResultStore(checkpoints.folder, list_rescue_folders(run_plan)[::-1])
    unit_results.lock()
    return unit_results


@dataclass(slots=True, eq=False)
class TileExecutor:
    """Restore the tiles of one run, one after another.

    Attributes
    ----------
    regions_image : CalibratedImage
        The sample regions; its plan and calibration are those of the whole image.
    image : array-like
        The whole image; only one tile is read at a time.
    monitor : RunMonitor
    checkpoints : CheckpointStore
        Writes checkpoints of the fits within a tile.
    unit_results : ResultStore
        Stores the finished tiles.
    finished_tiles : list of int
        Indices of the tiles that have a result.
    """

    regions_image: CalibratedImage
    image: Any
    monitor: RunMonitor
    checkpoints: CheckpointStore
    unit_results: ResultStore
    finished_tiles: list[int] = field(default_factory=list)

    def run(self, units: Sequence[WorkUnit]) -> Generator[Event, None, Control]:
        """Train the network that all tiles share, and restore the tiles that are not finished.

        Parameters
        ----------
        units : sequence of WorkUnit
            Joint fit and probes, unless they are finished; then the units of whole tiles.

        Yields
        ------
        Event

        Returns
        -------
        Control
            GO after all tiles; otherwise how the run was ended.
        """
        joint_units = [unit for unit in units if not unit.has_estimate]
        control = yield from self._train_on_sample(joint_units)
        if control is not Control.GO:
            return control
        number = len(joint_units)
        estimate_units = (unit for unit in units if unit.has_estimate)
        for tile_index, grouped_units in groupby(estimate_units, lambda unit: unit.tile or 0):
            tile_units = list(grouped_units)
            first_number, number = number + 1, number + len(tile_units)
            if not self.unit_results.has(make_tile_name(tile_index)):
                control = yield from self._restore_tile_or_end_run(
                    self.regions_image.run_plan.tiles[tile_index], tile_units, first_number
                )
                if control is not Control.GO:
                    return control
            self.finished_tiles.append(tile_index)
        return Control.GO

    def _train_on_sample(self, units: list[WorkUnit]) -> Generator[Event, None, Control]:
        """Train the joint network on the sample, and probe the gain of fine-tuning.

        Fits whose results the folder already has are not repeated. Return GO also if the user ended
        a fit early, since the network still gives all tiles a result.
        """
        if not units or self.unit_results.read_outcomes(JOINT_NAME):
            return Control.GO
        merger = ResultMerger(self.regions_image)
        checkpoint = _read_tile_checkpoint(self.checkpoints, "sample", merger)
        self.unit_results.drop_lost_networks(merger)
        control = yield from self._make_executor(merger).run(units, checkpoint)
        if control is not Control.GO:
            return control
        if not any(outcome.is_ended_by_user for outcome in merger.outcomes):
            self.unit_results.save(JOINT_NAME, UnitResult(outcomes=tuple(merger.outcomes)))
        self.checkpoints.remove_checkpoint()
        return Control.GO

    def _make_executor(self, merger: ResultMerger) -> Executor:
        return Executor(
            merger,
            self.monitor,
            self.checkpoints,
            load_network=self.unit_results.load_weights,
            save_network=self.unit_results.save_weights,
        )

    def _restore_tile_or_end_run(
        self, tile: Tile, units: list[WorkUnit], number: int
    ) -> Generator[Event, None, Control]:
        """Restore one tile; if memory or GPU fail, end the run with the finished tiles."""
        try:
            control = yield from self._restore_tile(tile, units, number)
        except Exception as error:
            machine_fault = make_machine_fault(error, self.regions_image.run_plan.header.name)
            if machine_fault is None or not self.finished_tiles:
                raise
            yield self.monitor.make_message_event(
                f"{machine_fault.sentence} The tiles that are done were kept."
            )
            return Control.KEEP
        fallback_notice = self.unit_results.make_fallback_notice()
        is_new = fallback_notice != self.checkpoints.fallback_notice
        if control is Control.GO and fallback_notice and is_new:
            self.checkpoints.fallback_notice = fallback_notice
            yield self.monitor.make_message_event(fallback_notice.sentence)
        return control

    def _restore_tile(
        self, tile: Tile, units: list[WorkUnit], number: int
    ) -> Generator[Event, None, Control]:
        """Fit all units of one tile, as for a separate image, and save the result."""
        merger = ResultMerger(self._read_tile(tile))
        checkpoint = _read_tile_checkpoint(self.checkpoints, make_tile_name(tile.index), merger)
        executor = self._make_executor(merger)
        control = yield from executor.run(units, checkpoint, first_number=number)
        return self._record_tile(tile, merger, control)

    def _read_tile(self, tile: Tile) -> CalibratedImage:
        """Read a tile as an image of its own, with the calibration of the whole."""
        run_plan, calibration = self.regions_image.run_plan, self.regions_image.calibration
        header = tile.make_header(run_plan.header)
        array = tile.read_pixels(self.image, header.axes)
        stack = to_stack(array, header.axes, run_plan.layout)
        task_spec = run_plan.recipe.task.spec
        stack = fill_pixels(task_spec, stack, calibration.outlier_limits).stack
        return CalibratedImage(
            run_plan=run_plan,
            calibration=replace_half_resolution(calibration, stack),
            header=header,
            layout=run_plan.layout,
            inputs={"image": array},
            stack=stack,
        )

    def _record_tile(self, tile: Tile, merger: ResultMerger, control: Control) -> Control:
        """Save the result of a tile; keep it in memory only if the user ended it early."""
        if control is Control.DISCARD or (control is Control.KEEP and not merger.outcomes):
            return control
        mean, std, prediction = (tile.join_planes(estimate) for estimate in merger.get_estimates())
        residual = tile.join_planes(merger.calibrated_image.stack) - prediction.astype(np.float64)
        weighted_residual = zero_residual_outliers(tile.compute_weights() * residual)
        residual_sums = np.stack(
            [weighted_residual.sum((-2, -1)), (weighted_residual * residual).sum((-2, -1))]
        ).reshape(2, len(residual), -1)
        has_same_prediction = np.array_equal(mean, prediction)
        tile_result = UnitResult(
            outcomes=tuple(merger.outcomes),
            estimates=(mean, std) if has_same_prediction else (mean, std, prediction),
            residual_sums=residual_sums.tolist(),
        )
        is_ended_early = control is Control.KEEP
        self.unit_results.save(make_tile_name(tile.index), tile_result, in_memory=is_ended_early)
        if is_ended_early:
            self.finished_tiles.append(tile.index)
        else:
            self.checkpoints.remove_checkpoint()
        return control


def _read_tile_checkpoint(
    checkpoints: CheckpointStore, tile_name: str, merger: ResultMerger
) -> Checkpoint | None:
    """Return the checkpoint of a tile; None if there is none, or a damaged one."""
    try:
        return checkpoints.read(merger, tile_name)
    except RefusedError:
        checkpoints.remove_checkpoint()
        return None


def restore_tiles(
    image: Any,
    hashes: Mapping[str, str],
    regions_image: CalibratedImage,
    monitor: RunMonitor,
    checkpoints: CheckpointStore | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore an image in the plan's tiles.

    Parameters
    ----------
    image : array-like
        The whole image; it is read tile by tile.
    hashes : mapping of str to str
        SHA-256 of each input.
    regions_image : CalibratedImage
        The sample regions; its plan and calibration are those of the whole image.
    monitor : RunMonitor
    checkpoints : CheckpointStore or None
        Its folder gets the finished tiles; None: a temporary folder.

    Yields
    ------
    Event
        Without previews.

    Returns
    -------
    Restoration or None
        Large result images are memory-mapped files. None as for `run`.

    Raises
    ------
    RefusedError, FailedError
        As for `run`.
    """
    run_plan = regions_image.run_plan
    monitor.set_expected_work(run_plan)
    with ExitStack() as exit_stack:
        if checkpoints is None:
            temporary_folder = tempfile.TemporaryDirectory(
                prefix="napari-dip-", ignore_cleanup_errors=True
            )
            checkpoints = CheckpointStore(
                Path(exit_stack.enter_context(temporary_folder)) / "run", resume=False
            )
        unit_results = open_tile_results(run_plan, hashes, checkpoints)
        exit_stack.callback(unit_results.close)
        executor = TileExecutor(regions_image, image, monitor, checkpoints, unit_results)
        control = yield from executor.run(run_plan.units)
        if control is Control.DISCARD:
            return None
        if not executor.finished_tiles:  # ended before the first result
            monitor.raise_if_timed_out(run_plan.header.name)
            return None
        monitor.is_ended = control is Control.KEEP
        unit_results.check_tiles(executor.finished_tiles)
        monitor.start_assessment()
        yield monitor.make_message_event("Putting the tiles together")
        blender = TileBlender(run_plan, regions_image.calibration, unit_results, image)
        images = blender.write_images(_compute_mean_shift(regions_image, unit_results))
        return assemble_restoration(regions_image, blender, images, hashes, monitor)


def _compute_mean_shift(regions_image: CalibratedImage, unit_results: ResultStore) -> Any:
    """Return the shift (C, planes) of all planes that keep their mean."""
    run_plan, noise = regions_image.run_plan, regions_image.calibration.noise
    has_depth = run_plan.tiles[0].z is not None
    sums = np.zeros((2, len(noise), run_plan.header.get_size("Z") if has_depth else 1))
    for tile in run_plan.tiles:
        if unit_results.has(name := make_tile_name(tile.index)):
            planes = slice(None) if tile.z is None else slice(tile.z.start, tile.z.stop)
            sums[..., planes] += unit_results.read_residual_sums(name)
    pixels = np.full(sums.shape[1:], float(prod(run_plan.header.grid)))
    return np.add(
        *PlaneSums(sums[0], sums[1], pixels).compute_shifts(run_plan.recipe.task.spec, noise)
    )
