"""Checkpoints on disk: what an interrupted run needs to go on exactly where it was.

One safetensors file: tensors of the fit in progress and sums of the units that are done, with
a JSON header that says which run it belongs to. No pickle, so opening one runs nothing.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
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

    import numpy.typing as npt

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.plan.types import Plan

#: Raised by one whenever a checkpoint written before could not be gone on from.
CHECKPOINT_SCHEMA = 6
#: Bytes that the longest name of what a run keeps has after a result's: ".unfinished-99.tiles".
MAX_STATE_SUFFIX_BYTES = 20
#: Seconds between two writings at most and at least, and the share of the time that writing may
#: take in between: a crash costs a second or two where checkpoints are small.
MAX_WRITE_INTERVAL, MIN_WRITE_INTERVAL, MAX_WRITE_SHARE = 20.0, 1.0, 0.02
#: What a file that is no checkpoint, or a damaged one, makes of its reader, beside SafetensorError.
CHECKPOINT_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
)
#: Faults of a checkpoint, which cost no more than beginning anew.
CHECKPOINT_FAULTS = ("resume-other", "resume-broken")


class CheckpointStore:
    """Keeps the checkpoint of one run in one file.

    Parameters
    ----------
    path : path
        Of the checkpoint. Another name is taken where a file or folder there is not of a run.
    resume : bool
        Whether to go on from the file if it is there.
    after : float
        Seconds of a run before the first writing.
    before : callable, optional
        Called once before the first writing, to keep what else it takes to go on; raises OSError if
        the disk does not take it.
    lasting : bool
        Whether a run that a person ended may be gone on with.
    results_folder : Path, optional
        Folder for tiles that are done; beside the checkpoint if it is not given.

    Attributes
    ----------
    weights : mapping of str to Tensor, or None
        Of the network of the last unit that is done: the next one may begin with them.
    failure : Refusal or None
        Why the last writing did not succeed. It never ends the run: the picture is worth more.
    fallback_notice : Refusal or None
        Where tiles that are done lie if not on their own disk.
    resume : bool
    path, results_folder : Path
        Where checkpoint and tiles lie.
    identity : dict
        Which run is kept, in plain JSON types, once it is known.
    unit : str
        Id of the unit that a checkpoint which was read is of; "" if none is in progress.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool,
        after: float = MIN_WRITE_INTERVAL,
        before: Callable[[], object] = lambda: None,
        lasting: bool = True,
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
        self._write_interval = after
        self._prepare_write: Callable[[], object] | None = before
        self._keeps_user_stop = lasting
        self._max_bytes = 0

    def open(
        self, plan: Plan, data: Mapping[str, npt.NDArray[Any]], merge: ResultMerger
    ) -> Checkpoint | None:
        """Begin to keep; give back where to go on from, with `merge` filled up to there.

        Raises
        ------
        Refused
            If the file belongs to another run, or is damaged.
        """
        from napari_dip.pipeline.assess.report import compute_sha256

        hashes = {name: compute_sha256(array) for name, array in data.items()}
        self.identity = {"schema": CHECKPOINT_SCHEMA, **make_run_identity(plan, hashes)}
        self._max_bytes = 2 * plan.peak_bytes
        if not self.resume or not os.path.lexists(self.path):
            return None
        return self._read(merge)

    def offer(self, checkpoint: Checkpoint, unit: str) -> None:
        """Take note of where the fit stands; write it if the last writing was long ago."""
        if not checkpoint.history:
            return
        self._latest_checkpoint = (checkpoint, unit)
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write if the last writing was long ago."""
        if time.monotonic() - self._last_write_time >= self._write_interval:
            self.write()

    def record_finished_unit(self, merge: ResultMerger, weights: Mapping[str, Any]) -> None:
        """Take note that one more unit is done and none is in progress."""
        self._latest_checkpoint, self.weights = None, weights
        self._completed_units = CompletedUnits(
            sums=merge.sums.copy(),
            predictions=merge.predictions.copy(),
            count=merge.count.copy(),
            learned={name: array.copy() for name, array in merge.learned.items()},
            outcomes=tuple(merge.outcomes),
            weights=weights,
        )

    def write_after_user_stop(self) -> None:
        """Write where a person ended the run, if it may be gone on with from there."""
        if self._keeps_user_stop:
            self.write()

    def write(self) -> None:
        """Write the latest checkpoint whole or not at all; `failure` says if it did not work."""
        if self._latest_checkpoint is None and self._completed_units is None:
            return
        tensors, header = pack_checkpoint(self._latest_checkpoint, self._completed_units)
        header["identity"] = self.identity
        began = time.monotonic()
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
        took = self._last_write_time - began
        self._write_interval = min(
            MAX_WRITE_INTERVAL, max(MIN_WRITE_INTERVAL, took / MAX_WRITE_SHARE)
        )

    def write_if_possible(self) -> None:
        """Write on the way out of a run that failed, whatever it failed of."""
        with suppress(MemoryError, RuntimeError):  # torch's word for a full memory
            self.write()

    def has_saved_state(self) -> bool:
        """Whether something is there to go on from."""
        return os.path.lexists(self.path) or os.path.lexists(self.results_folder)

    def remove(self) -> None:
        """Delete all that was kept once the result is safe; nothing that no run has written."""
        self.remove_checkpoint()
        if not self._is_folder_replaced():
            remove_run_folder(self.results_folder)

    def remove_checkpoint(self) -> None:
        """Delete what was kept of fits."""
        self._latest_checkpoint = self._completed_units = None
        if is_checkpoint(self.path) and not self._is_folder_replaced():
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _is_folder_replaced(self) -> bool:
        """Whether somebody put another folder, or a link, in the place of the one it began in."""
        return resolve_target(self.path.parent) != self._folder

    def _read(self, merge: ResultMerger) -> Checkpoint | None:
        try:
            if not is_checkpoint(self.path):
                raise DamagedFileError("it is not what was written")
            if self.path.stat().st_size > self._max_bytes:
                raise DamagedFileError("no checkpoint of this run is so large")
            header = read_metadata(self.path)
            if header["identity"] != self.identity:
                raise Refused(refusal("resume-other", path=self.path))
            self._latest_checkpoint, self._completed_units = unpack_checkpoint(
                read_tensors(self.path), header
            )
            if self._completed_units is not None:
                self._restore_merge(merge, self._completed_units)
        except CHECKPOINT_ERRORS as error:
            why = "it is damaged or cut off"
            raise Refused(refusal("resume-broken", path=self.path, why=why)) from error
        if self._latest_checkpoint is None:
            return None
        point, self.unit = self._latest_checkpoint
        return point

    def _restore_merge(self, merge: ResultMerger, done: CompletedUnits) -> None:
        """Put back what was done."""
        merge.sums[...] = done.sums
        merge.predictions[...] = done.predictions
        merge.learned.update(done.learned)
        self.weights = done.weights
        merge.count[...] = done.count
        merge.outcomes.extend(done.outcomes)


def get_results_path(path: Path) -> Path:
    """Name the folder beside a checkpoint for what is done of its run."""
    return path.with_name(f"{path.name}.tiles")


def find_checkpoint_path(path: Path, *, resume: bool) -> Path:
    """Choose where a checkpoint goes: the first name that nothing but a run has taken.

    Parameters
    ----------
    path : Path
        The name that is tried first; others end in a number.
    resume : bool
        Whether to go on from what is there: a first file that cannot be read is kept as the choice
        then, so that this is said, unless there is a run under another name.
    """
    free, number = path, 2
    while is_foreign(free) or _is_foreign_folder(get_results_path(free)):
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    begun = os.path.lexists(free) or os.path.lexists(get_results_path(free))
    return path if resume and not begun and is_foreign(path) else free


def is_foreign(path: Path) -> bool:
    """Whether something lies there that is not proven to be a checkpoint."""
    return os.path.lexists(path) and not is_checkpoint(path)


def _is_foreign_folder(folder: Path) -> bool:
    return os.path.lexists(folder) and not is_run_folder(folder)


def write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Keep a network's weights, whole or not at all; raises OSError if the disk takes none."""
    write_tensors(path, {name: value.contiguous().cpu() for name, value in weights.items()}, {})


def read_weights(path: Path) -> dict[str, Any] | None:
    """Read a network's weights; None where none are kept."""
    return read_tensors(path) if path.exists() else None
