"""Write and read the checkpoint of a run, from which an interrupted run resumes exactly.

A checkpoint is one safetensors file with the tensors of the current fit and the sums of finished
units. Its JSON header identifies the run. Unlike a pickle, opening it executes no code.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, RefusedError
from napari_dip.io.paths import make_save_refusal, resolve_target
from napari_dip.pipeline.store.checkpoint_file import (
    CompletedUnits,
    DamagedFileError,
    is_checkpoint,
    make_run_identity,
    pack_checkpoint,
    read_metadata,
    read_tensors,
    unpack_checkpoint,
    write_tensors,
)
from napari_dip.pipeline.store.folder_lock import is_run_folder, remove_run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.assess.merge import ResultMerger

#: Schema of checkpoints; increased when older checkpoints cannot be resumed.
CHECKPOINT_SCHEMA = 6
#: Maximum length, in bytes, of what a run appends to a result's name: ".unfinished-99.tiles".
MAX_STATE_SUFFIX_BYTES = 20
#: Shortest and longest time between two checkpoints, in seconds: the work that a crash loses.
MIN_WRITE_INTERVAL, MAX_WRITE_INTERVAL = 1.0, 20.0
#: Within these limits, the interval is such that writing takes at most this share of the run time.
MAX_WRITE_FRACTION = 0.02
#: Errors when reading a damaged file, or one that is no checkpoint, in addition to SafetensorError.
CHECKPOINT_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
)
#: Refusals of a checkpoint after which a run can start from the beginning.
CHECKPOINT_FAULTS = ("resume-other", "resume-broken")


class CheckpointStore:
    """Write and read the checkpoint of one run.

    Parameters
    ----------
    path : path
        File of the checkpoint. If a file or folder of other origin has this name, a number is
        appended.
    resume : bool
        Whether to resume from an existing checkpoint.
    first_write_seconds : float
        Seconds of the run before the first checkpoint is written.
    prepare : callable, optional
        Called once before the first checkpoint, to save other data needed for resuming. It raises
        OSError if they cannot be written.
    is_resumable_when_ended : bool
        Whether a run that the user ended can be resumed.
    results_folder : Path, optional
        Folder for finished units and tiles; next to the checkpoint by default.

    Attributes
    ----------
    weights : mapping of str to Tensor, or None
        Network weights of the last finished unit, from which the next one may start.
    failure : Refusal or None
        Why the last checkpoint could not be written. This does not end the run.
    fallback_notice : Refusal or None
        Where finished tiles are stored if not in the results folder.
    resume : bool
    path, results_folder : Path
    identity : dict
        Identity of the run, in plain JSON types; empty until `open` is called.
    unit : str
        Id of the unit whose fit the checkpoint continues; "" if there is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool,
        first_write_seconds: float = MIN_WRITE_INTERVAL,
        prepare: Callable[[], object] = lambda: None,
        is_resumable_when_ended: bool = True,
        results_folder: Path | None = None,
    ) -> None:
        self.path = (
            Path(path) if results_folder else find_checkpoint_path(Path(path), resume=resume)
        )
        self.results_folder = results_folder or get_results_path(self.path)
        self._folder = resolve_target(self.path.parent)
        self.failure: Refusal | None = None
        self.fallback_notice: Refusal | None = None
        self.resume = resume
        self.identity: dict[str, Any] = {}
        self.unit = ""
        self.weights: Mapping[str, Any] | None = None
        self._latest_checkpoint: tuple[Checkpoint, str] | None = None
        self._completed_units: CompletedUnits | None = None
        self._last_write_time = time.monotonic()
        self._write_interval = first_write_seconds
        self._prepare_write: Callable[[], object] | None = prepare
        self._keeps_user_stop = is_resumable_when_ended
        self._max_bytes = 0

    def open(self, merger: ResultMerger) -> Checkpoint | None:
        """Set the identity of the run, and read its checkpoint if there is one.

        Parameters
        ----------
        merger : ResultMerger
            Receives the results of the finished units. Its image identifies the run.

        Returns
        -------
        Checkpoint or None
            State of the unfinished fit; None if there is none.

        Raises
        ------
        RefusedError
            If the file belongs to another run, or is damaged.
        """
        from napari_dip.pipeline.assess.report import compute_sha256

        plan, axes = merger.image.plan, merger.image.source.axes
        hashes = {name: compute_sha256(array) for name, array in merger.image.inputs.items()}
        self.identity = {"schema": CHECKPOINT_SCHEMA, **make_run_identity(plan, axes, hashes)}
        self._max_bytes = 2 * plan.peak_bytes
        if not self.resume or not os.path.lexists(self.path):
            return None
        return self._read(merger)

    def offer(self, checkpoint: Checkpoint, unit: str) -> None:
        """Record a checkpoint of the current fit, and write it if one is due."""
        if not checkpoint.history:
            return
        self._latest_checkpoint = (checkpoint, unit)
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write the checkpoint if the write interval has passed."""
        if time.monotonic() - self._last_write_time >= self._write_interval:
            self.write()

    def record_finished_unit(self, merger: ResultMerger, weights: Mapping[str, Any]) -> None:
        """Record the results of all finished units, after a fit has ended."""
        self._latest_checkpoint, self.weights = None, weights
        self._completed_units = CompletedUnits(
            sums=merger.sums.copy(),
            predictions=merger.predictions.copy(),
            count=merger.count.copy(),
            learned={name: array.copy() for name, array in merger.learned.items()},
            outcomes=tuple(merger.outcomes),
            weights=weights,
        )

    def write_after_user_stop(self) -> None:
        """Write the checkpoint after the user ended the run, if such runs can be resumed."""
        if self._keeps_user_stop:
            self.write()

    def write(self) -> None:
        """Write the latest checkpoint atomically; on errors, set `failure` instead of raising."""
        if self._latest_checkpoint is None and self._completed_units is None:
            return
        tensors, header = pack_checkpoint(self._latest_checkpoint, self._completed_units)
        header["identity"] = self.identity
        start_time = time.monotonic()
        try:
            if self._prepare_write is not None:
                self._prepare_write()
                self._prepare_write = None
            if self._is_folder_replaced():
                raise OSError(errno.ENOENT, "its folder leads elsewhere by now")
            if is_foreign(self.path):
                why = "a file of that name is there that is not of this program"
                raise FileExistsError(errno.EEXIST, why)
            write_tensors(self.path, tensors, header)
            self.failure = None
        except OSError as error:
            self.failure = make_save_refusal(self.path, error)
        self._last_write_time = time.monotonic()
        write_seconds = self._last_write_time - start_time
        self._write_interval = min(
            MAX_WRITE_INTERVAL, max(MIN_WRITE_INTERVAL, write_seconds / MAX_WRITE_FRACTION)
        )

    def write_if_possible(self) -> None:
        """Write the checkpoint of a run that failed, and ignore errors of memory or GPU."""
        with suppress(MemoryError, RuntimeError):  # torch raises RuntimeError if memory is full
            self.write()

    def has_saved_state(self) -> bool:
        """Return whether there is a checkpoint or a results folder to resume from."""
        return os.path.lexists(self.path) or os.path.lexists(self.results_folder)

    def remove(self) -> None:
        """Delete checkpoint and results folder after the result is saved; keep foreign files."""
        self.remove_checkpoint()
        if not self._is_folder_replaced():
            remove_run_folder(self.results_folder)

    def remove_checkpoint(self) -> None:
        """Delete the checkpoint, and forget recorded state."""
        self._latest_checkpoint = self._completed_units = None
        if is_checkpoint(self.path) and not self._is_folder_replaced():
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _is_folder_replaced(self) -> bool:
        """Return whether the folder of the checkpoint was replaced by another one or by a link."""
        return resolve_target(self.path.parent) != self._folder

    def _read(self, merger: ResultMerger) -> Checkpoint | None:
        try:
            if not is_checkpoint(self.path):
                raise DamagedFileError("it is not what was written")
            if self.path.stat().st_size > self._max_bytes:
                raise DamagedFileError("no checkpoint of this run is so large")
            header = read_metadata(self.path)
            if header["identity"] != self.identity:
                raise RefusedError("resume-other", path=self.path)
            self._latest_checkpoint, self._completed_units = unpack_checkpoint(
                read_tensors(self.path), header
            )
            if self._completed_units is not None:
                self._restore_merge(merger, self._completed_units)
        except CHECKPOINT_ERRORS as error:
            why = "it is damaged or cut off"
            raise RefusedError("resume-broken", path=self.path, why=why) from error
        if self._latest_checkpoint is None:
            return None
        checkpoint, self.unit = self._latest_checkpoint
        return checkpoint

    def _restore_merge(self, merger: ResultMerger, done: CompletedUnits) -> None:
        """Restore the results of finished units."""
        merger.sums[...] = done.sums
        merger.predictions[...] = done.predictions
        merger.learned.update(done.learned)
        self.weights = done.weights
        merger.count[...] = done.count
        merger.outcomes.extend(done.outcomes)


def get_results_path(path: Path) -> Path:
    """Return the path of the results folder next to a checkpoint."""
    return path.with_name(f"{path.name}.tiles")


def find_checkpoint_path(path: Path, *, resume: bool) -> Path:
    """Return the first path for a checkpoint that is free or belongs to a run.

    Parameters
    ----------
    path : Path
        Tried first; then numbers are appended.
    resume : bool
        Whether the run is to be resumed. If there is no checkpoint under any name, but an
        unreadable file at `path`, that path is returned. Reading it then reports the error.
    """
    candidate, number = path, 2
    while is_foreign(candidate) or _is_foreign_folder(get_results_path(candidate)):
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    has_saved_run = os.path.lexists(candidate) or os.path.lexists(get_results_path(candidate))
    return path if resume and not has_saved_run and is_foreign(path) else candidate


def is_foreign(path: Path) -> bool:
    """Return whether a path exists that is not a checkpoint."""
    return os.path.lexists(path) and not is_checkpoint(path)


def _is_foreign_folder(folder: Path) -> bool:
    return os.path.lexists(folder) and not is_run_folder(folder)


def write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write network weights atomically; raise OSError if they cannot be written."""
    write_tensors(path, {name: value.contiguous().cpu() for name, value in weights.items()}, {})


def read_weights(path: Path) -> dict[str, Any] | None:
    """Read network weights; return None if the file does not exist."""
    return read_tensors(path) if path.exists() else None
