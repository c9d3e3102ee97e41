"""Write and read the checkpoint of a run, from which an interrupted run resumes exactly.

A checkpoint is an entry of the run folder, with the tensors of the current fit and the sums of
finished units.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Fault, Refusal, RefusedError
from napari_dip.errors.notes import parse_note, parse_stop
from napari_dip.io.paths import make_save_fault
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.assess.report_fields import rename_fields
from napari_dip.pipeline.plan.types import UnitOutcome, UnitRole
from napari_dip.pipeline.store.run_folder import RunFolder, make_run_identity
from napari_dip.pipeline.store.tensor_file import (
    DAMAGE_ERRORS,
    DamagedFileError,
    group_tensors,
    read_metadata,
    read_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.public_types import FilePath

#: Name of the checkpoint in the run folder.
CHECKPOINT_NAME = "checkpoint"
#: Bytes that are kept free for what a run appends to a result's name, such as ".unfinished-99".
MAX_STATE_SUFFIX_BYTES = 20
#: Shortest time between two checkpoints, in seconds.
MIN_WRITE_INTERVAL = 1.0
#: Longest time between two checkpoints, in seconds: a crash loses at most this work.
MAX_WRITE_INTERVAL = 20.0
#: Maximum share of the run time that writing takes. Writes of more than 0.4 s exceed it,
#: since `MAX_WRITE_INTERVAL` has priority.
MAX_WRITE_FRACTION = 0.02
#: Field of `Checkpoint` that each group of tensors in the file holds.
_STATE_GROUPS = {
    "step": "trainer_state",
    "rollback": "rollback_state",
    "best": "best_average",
    "lowest": "lowest_losses",
}


class CheckpointStore:
    """Write and read the checkpoint of one run.

    Parameters
    ----------
    path : path
        Path of the run folder, as for `RunFolder`.
    resume : bool
        Whether to resume from an existing checkpoint.
    name : str
        Name of the checkpoint. Each shard of a run has its own.
    replaces_unusable : bool
        Whether a run folder that is damaged or of another run is replaced instead of refused.
    first_write_seconds : float
        Seconds of the run before the first checkpoint is written.
    save_inputs : callable, optional
        Called once before the first checkpoint, to save other data needed for resuming. It raises
        OSError if they cannot be written.
    is_resumable_when_ended : bool
        Whether a run that the user ended can be resumed.

    Attributes
    ----------
    folder : RunFolder
        Also holds the results of finished units and tiles.
    weights : mapping of str to Tensor, or None
        Network weights of the last finished unit, from which the next one may start.
    failure : Fault or None
        Why the last checkpoint could not be written. This does not end the run.
    fallback_notice : Refusal or None
        Where finished tiles are stored if not in the run folder.
    source_hashes : mapping of str to str
        SHA-256 of inputs of which one of three equal colours is fitted, by name.
    unit_id : str
        Id of the unit whose fit the checkpoint continues; "" if there is none.
    """

    def __init__(
        self,
        path: FilePath,
        *,
        resume: bool,
        name: str = CHECKPOINT_NAME,
        replaces_unusable: bool = False,
        first_write_seconds: float = MIN_WRITE_INTERVAL,
        save_inputs: Callable[[], object] = lambda: None,
        is_resumable_when_ended: bool = True,
    ) -> None:
        self.folder: RunFolder = RunFolder(path, resume=resume)
        self.failure: Fault | None = None
        self.fallback_notice: Refusal | None = None
        self.source_hashes: Mapping[str, str] = {}
        self.unit_id: str = ""
        self.weights: Mapping[str, Any] | None = None
        self._name = name
        self._replaces_unusable = replaces_unusable
        self._tile_name = ""
        self._latest_checkpoint: tuple[Checkpoint, str] | None = None
        self._merged: tuple[dict[str, Any], tuple[UnitOutcome, ...]] | None = None
        self._last_write_time = time.monotonic()
        self._write_interval = first_write_seconds
        self._save_inputs: Callable[[], object] | None = save_inputs
        self._is_resumable_when_ended = is_resumable_when_ended
        self._max_bytes = 0

    def open_image(self, calibrated_image: CalibratedImage) -> None:
        """Set the identity of a run that fits one image; raise `RefusedError` as `open` does."""
        hashes = {name: compute_sha256(array) for name, array in calibrated_image.inputs.items()}
        self.open(calibrated_image.run_plan, calibrated_image.header.axes, hashes)

    def open(self, plan: Plan, axes: str, hashes: Mapping[str, str]) -> None:
        """Set the identity of the run.

        Parameters
        ----------
        plan : Plan
        axes : str
            Axes of the fitted pixels.
        hashes : mapping of str to str
            SHA-256 of the pixels of each input.

        Raises
        ------
        RefusedError
            If the run is to be resumed, and its folder is of another run or is damaged.
        """
        self._max_bytes = 2 * plan.peak_bytes
        try:
            self.folder.open(make_run_identity(plan, axes, {**hashes, **self.source_hashes}))
        except RefusedError:
            if not self._replaces_unusable:
                raise
            self.folder.restart()

    def read(self, merger: ResultMerger, tile_name: str = "") -> Checkpoint | None:
        """Read the checkpoint of the run, or of one tile, if it is to be resumed.

        Parameters
        ----------
        merger : ResultMerger
            Receives the results of the finished units.
        tile_name : str
            Name of the tile that is fitted from now on; "" without tiles. A checkpoint of another
            tile is removed.

        Returns
        -------
        Checkpoint or None
            State of the unfinished fit; None if there is none.

        Raises
        ------
        RefusedError
            If the file is damaged.
        """
        self._tile_name, path = tile_name, self.folder.get_path(self._name)
        if not self.folder.resume or not path.exists():
            return None
        try:
            if path.is_symlink() or path.stat().st_size > self._max_bytes:
                raise DamagedFileError("no checkpoint of this run is so large")
            metadata = rename_fields("checkpoint", read_metadata(path))
            tensors = read_tensors(path)
            if metadata["tile_name"] != tile_name:
                self.remove_checkpoint()
                return None
            groups = group_tensors(tensors)
            self._restore_merger(merger, groups, tuple(map(parse_outcome, metadata["outcomes"])))
            self._latest_checkpoint = _read_fit(groups, metadata["fit"])
        except DAMAGE_ERRORS as error:
            if self._replaces_unusable:
                self.folder.restart()
                return None
            why = "it is damaged or cut off"
            raise RefusedError("resume-broken", path=path, why=why) from error
        if self._latest_checkpoint is None:
            return None
        checkpoint, self.unit_id = self._latest_checkpoint
        return checkpoint

    def record_fit(self, checkpoint: Checkpoint, unit_id: str) -> None:
        """Record a checkpoint of the current fit, and write it if one is due."""
        self._latest_checkpoint = (checkpoint, unit_id)
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write the checkpoint if the write interval has passed."""
        if time.monotonic() - self._last_write_time >= self._write_interval:
            self.write()

    def record_finished_unit(self, merger: ResultMerger, weights: Mapping[str, Any]) -> None:
        """Record the results of all finished units, after a fit has ended."""
        self._latest_checkpoint, self.weights = None, weights
        tensors = {
            "done/sums": merger.sums.copy(),
            "done/predictions": merger.predictions.copy(),
            "done/count": merger.result_counts.copy(),
            **{
                f"learned/{name}.{channel}": array.copy()
                for (name, channel), array in merger.learned_parameters.items()
            },
            **{f"weights/{name}": value for name, value in weights.items()},
        }
        self._merged = tensors, tuple(merger.outcomes)

    def write_after_user_stop(self) -> None:
        """Write the checkpoint after the user ended the run, if such runs can be resumed."""
        if self._is_resumable_when_ended:
            self.write()

    def write(self) -> None:
        """Write the latest checkpoint, and choose the interval to the next.

        On errors, set `failure` instead of raising.
        """
        if self._latest_checkpoint is None and self._merged is None:
            return
        tensors, metadata = self._pack()
        start_time = time.monotonic()
        try:
            if self._save_inputs is not None:
                self._save_inputs()
                self._save_inputs = None
            self.folder.save(self._name, tensors, metadata)
            self.failure = None
        except OSError as error:
            self.failure = make_save_fault(self.folder.path, error)
        self._last_write_time = time.monotonic()
        write_seconds = self._last_write_time - start_time
        self._write_interval = min(
            MAX_WRITE_INTERVAL, max(MIN_WRITE_INTERVAL, write_seconds / MAX_WRITE_FRACTION)
        )

    def write_if_possible(self) -> None:
        """Write the checkpoint of a run that failed, and ignore errors of memory or GPU."""
        with suppress(MemoryError, RuntimeError):  # torch raises RuntimeError if memory is full
            self.write()

    def remove(self) -> None:
        """Delete the run folder after the result is saved; keep foreign files."""
        self._latest_checkpoint = self._merged = None
        self.folder.remove()

    def remove_checkpoint(self) -> None:
        """Delete the checkpoint, and forget recorded state."""
        self._latest_checkpoint = self._merged = None
        self.folder.remove_entry(self._name)

    def _pack(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the recorded state as named tensors and JSON metadata."""
        import torch

        tensors: dict[str, Any] = {}
        metadata: dict[str, Any] = {"tile_name": self._tile_name, "fit": None, "outcomes": []}
        if self._merged is not None:
            arrays, outcomes = self._merged
            tensors |= {name: torch.as_tensor(array) for name, array in arrays.items()}
            metadata["outcomes"] = [outcome.to_dict() for outcome in outcomes]
        if self._latest_checkpoint is not None:
            checkpoint, unit_id = self._latest_checkpoint
            for group, field in _STATE_GROUPS.items():
                state = getattr(checkpoint, field)
                tensors |= {f"{group}/{name}": value for name, value in state.items()}
            metadata["fit"] = {
                "unit_id": unit_id,
                "best_iteration": checkpoint.best_iteration,
                "rollback_count": checkpoint.rollback_count,
                "notes": [note.to_dict() for note in checkpoint.notes],
                "history": list(map(astuple, checkpoint.history)),
            }
        return tensors, metadata

    def _restore_merger(
        self,
        merger: ResultMerger,
        groups: Mapping[str, Mapping[str, Any]],
        outcomes: tuple[UnitOutcome, ...],
    ) -> None:
        """Restore the results of finished units from the tensors of a checkpoint."""
        if "done" not in groups:
            return
        arrays = {name: tensor.numpy() for name, tensor in groups["done"].items()}
        merger.sums[...] = arrays["sums"]
        merger.predictions[...] = arrays["predictions"]
        merger.result_counts[...] = arrays["count"]
        for key, tensor in groups.get("learned", {}).items():
            name, _, channel = key.rpartition(".")
            merger.learned_parameters[name, int(channel)] = tensor.numpy()
        merger.outcomes.extend(outcomes)
        self.record_finished_unit(merger, groups.get("weights", {}))


def _read_fit(
    groups: Mapping[str, dict[str, Any]], fit: Mapping[str, Any] | None
) -> tuple[Checkpoint, str] | None:
    """Return the current fit of a checkpoint and its unit; None if there is none."""
    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.engine.fit.stopping import ValidationRecord

    if fit is None:
        return None
    states: dict[str, Any] = {
        field: groups.get(group, {}) for group, field in _STATE_GROUPS.items()
    }
    checkpoint = Checkpoint(
        **states,
        best_iteration=int(fit["best_iteration"]),
        history=tuple(
            ValidationRecord(iteration=int(i), training_loss=float(a), validation_loss=float(b))
            for i, a, b in fit["history"]
        ),
        rollback_count=int(fit["rollback_count"]),
        notes=tuple(map(parse_note, fit["notes"])),
    )
    return checkpoint, str(fit["unit_id"])


def parse_outcome(raw: Mapping[str, Any]) -> UnitOutcome:
    """Return the outcome that was stored as JSON by its `to_dict`."""
    fields = rename_fields("outcome", raw)
    fields |= {name: tuple(fields[name]) for name in ("evidence", "log_likelihood_gain")}
    fields["history"] = tuple((int(i), float(a), float(b)) for i, a, b in fields["history"])
    fields["notes"] = tuple(map(parse_note, fields["notes"]))
    fields["stop"], fields["role"] = parse_stop(fields["stop"]), UnitRole(fields["role"])
    return UnitOutcome(**fields)
