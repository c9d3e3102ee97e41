"""Store finished fits and tiles on disk, so that a run can be interrupted at any time.

Files are written atomically. A tile consists of image files and of a record, which is written last
and marks the tile as finished. The content does not depend on the process that wrote it. If the
disk is full, files go to fallback folders or stay in memory until the run ends.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_dip.errors import FailedError, RefusedError, make_refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.atomic import write_atomically
from napari_dip.io.paths import describe_write_error, make_save_refusal
from napari_dip.io.regions import create_mapped_image
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.store.checkpoint_file import (
    read_metadata,
    read_outcome,
    read_tensors,
    write_tensors,
)
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_ERRORS, read_weights, write_weights
from napari_dip.pipeline.store.folder_lock import FolderLock, empty_run_folder, make_run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.calibration import StackArray
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit

WrittenT = TypeVar("WrittenT")

#: Schema of tile folders; increased when older ones cannot be resumed.
TILE_MANIFEST_SCHEMA = 2
_MANIFEST_NAME, _JOINT_OUTCOMES_NAME = "tiles.json", "lesson.json"
#: Names of a tile's files, by its index.
_ESTIMATE_NAME, _PREDICTION_NAME, _OUTCOME_NAME = "{}.npy", "{}.prediction.npy", "{}.json"


class FallbackStorage:
    """Write files to a run's own folder, or to fallback folders if that fails.

    Parameters
    ----------
    folder : Path
        The run's own folder.
    other_folders : sequence of Path
        Folders in which fallback folders are created when needed, in this order.

    Attributes
    ----------
    why : str
        Why a file could not be written to the own folder; "" if that never happened.
    fallback_folder : Path or None
        The fallback folder that was last written to.
    """

    def __init__(self, folder: Path, other_folders: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.why = ""
        self.fallback_folder: Path | None = None
        self._others = list(other_folders)
        self._spare: list[tempfile.TemporaryDirectory[str]] = []
        self._moved: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Return the path of a file, whether it exists or not."""
        return self._moved.get(name, self.folder / name)

    def place(self, name: str, write: Callable[[Path], WrittenT]) -> WrittenT:
        """Write a file to the first folder where that succeeds; return what `write` returns.

        Parameters
        ----------
        name : str
        write : callable
            Takes the path, writes the file atomically, and raises OSError if that fails.

        Raises
        ------
        OSError
            If no folder can be written to; the error of the own folder.
        """
        failure = None
        for folder in self._all():
            path = folder / name
            try:
                written = write(path)
            except OSError as error:
                failure = failure or error
                self.why = describe_write_error(failure)
                continue
            self._moved[name] = path
            self.fallback_folder = self.fallback_folder if folder == self.folder else folder
            return written
        assert failure is not None
        raise failure

    def close(self) -> None:
        """Remove the fallback folders; arrays that are memory-mapped from them stay valid."""
        for folder in self._spare:
            folder.cleanup()

    def _all(self) -> Iterator[Path]:
        """Yield the own folder, existing fallback folders, and then new ones."""
        yield self.folder
        yield from (Path(folder.name) for folder in self._spare)
        while self._others:
            try:
                directory = tempfile.TemporaryDirectory(
                    prefix="napari-dip-", dir=self._others.pop(0), ignore_cleanup_errors=True
                )
            except OSError:
                continue
            self._spare.append(directory)
            yield Path(directory.name)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TileResult:
    """Hold the result of one tile.

    Attributes
    ----------
    estimates : ndarray
        (2, C, *size) float32, in the image's units: picture and its standard deviation.
    prediction : ndarray or None
        (C, *size): predicted measurement; None if it equals the picture.
    residual_sums : tuple of float
        For each channel, the sum of measurement minus prediction, weighted by the tile's blending
        weights. The sums of all tiles add up to that of the image.
    outcomes : tuple of UnitOutcome
    learned : mapping of str to list
        Learned parameters, such as a PSF.
    """

    estimates: StackArray
    prediction: StackArray | None
    residual_sums: tuple[float, ...]
    outcomes: tuple[UnitOutcome, ...]
    learned: Mapping[str, Any] = field(default_factory=dict)


class TileFolder:
    """Store the tiles of one run in a folder.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    identity : mapping
        Identity of the run, in plain JSON types.
    resume : bool
        Whether to keep existing tiles; otherwise they are removed.
    other_folders : sequence of Path
        Folders in which fallback folders are created if the disk is full.

    Raises
    ------
    RefusedError
        If the folder is a link. If `resume` is true and the folder belongs to another run; if
        `resume` is false and another process uses the folder.
    FailedError
        If the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        resume: bool,
        other_folders: Sequence[Path] = (),
    ) -> None:
        self._storage = FallbackStorage(folder, other_folders)
        self._memory_results: dict[int, TileResult] = {}
        self._memory_weights: dict[str, Mapping[str, Any]] = {}
        self._joint_outcomes: tuple[UnitOutcome, ...] = ()
        self._uses_memory = False
        if folder.is_symlink():  # files of the linked folder could be removed
            raise RefusedError("output-linked", path=folder)
        with self._convert_write_errors():
            make_run_folder(folder)
            self._lock = self._lock_folder(folder, resume)
            manifest_file = folder / _MANIFEST_NAME
            manifest = {"schema": TILE_MANIFEST_SCHEMA, **json.loads(json.dumps(dict(identity)))}
            if resume and manifest_file.exists():
                if json.loads(manifest_file.read_text(encoding="utf-8")) != manifest:
                    raise RefusedError("resume-other", path=folder)
                return
            empty_run_folder(folder)
            manifest_json = json.dumps(manifest).encode()
            _replace_content(manifest_file, manifest_json)

    def is_finished(self, index: int) -> bool:
        """Return whether a tile is finished and on disk."""
        return self._read_manifest(index).exists()

    def save(self, index: int, piece: TileResult) -> None:
        """Save a finished tile; keep it in memory if no folder can be written to."""
        record = {
            "left": list(piece.residual_sums),
            "outcomes": [asdict(outcome) for outcome in piece.outcomes],
            "learned": {
                name: np.asarray(values).tolist() for name, values in piece.learned.items()
            },
        }
        try:
            self._save_array(_ESTIMATE_NAME.format(index), piece.estimates)
            if piece.prediction is not None:
                self._save_array(_PREDICTION_NAME.format(index), piece.prediction)
            record_json = json.dumps(record).encode()
            self._storage.place(
                _OUTCOME_NAME.format(index),
                partial(_replace_content, content=record_json),
            )
        except OSError:
            self._uses_memory = True
            self._memory_results[index] = piece

    def keep_in_memory(self, index: int, piece: TileResult) -> None:
        """Keep a tile that the user ended early, for this run only."""
        self._memory_results[index] = piece

    def has_tile(self, index: int) -> bool:
        """Return whether a tile has a result, on disk or in memory."""
        return index in self._memory_results or self.is_finished(index)

    def open_estimates(self, index: int) -> npt.NDArray[np.float32]:
        """Return picture and deviation of a tile, (2, C, *size), as a memory-mapped array."""
        if index in self._memory_results:
            return self._memory_results[index].estimates
        return _open_mapped_array(self._storage.path(_ESTIMATE_NAME.format(index)))

    def open_prediction(self, index: int) -> npt.NDArray[np.float32]:
        """Return the predicted measurement of a tile, (C, *size)."""
        if index in self._memory_results:
            tile_result = self._memory_results[index]
            return (
                tile_result.estimates[0]
                if tile_result.prediction is None
                else tile_result.prediction
            )
        path = self._storage.path(_PREDICTION_NAME.format(index))
        return _open_mapped_array(path) if path.exists() else self.open_estimates(index)[0]

    def read_tile_record(
        self, index: int
    ) -> tuple[tuple[float, ...], tuple[UnitOutcome, ...], dict[str, Any]]:
        """Return residual sums, outcomes and learned parameters of a tile."""
        if index in self._memory_results:
            tile_result = self._memory_results[index]
            return tile_result.residual_sums, tile_result.outcomes, dict(tile_result.learned)
        record = json.loads(self._read_manifest(index).read_text(encoding="utf-8"))
        outcomes = tuple(read_outcome(raw) for raw in record["outcomes"])
        return tuple(record["left"]), outcomes, record["learned"]

    def save_joint_outcomes(self, outcomes: Sequence[UnitOutcome]) -> None:
        """Save the outcomes of joint training and fine-tuning probes."""
        self._joint_outcomes = tuple(outcomes)
        outcomes_json = json.dumps([asdict(outcome) for outcome in outcomes]).encode()
        with suppress(OSError):
            self._storage.place(
                _JOINT_OUTCOMES_NAME,
                partial(_replace_content, content=outcomes_json),
            )

    def read_joint_outcomes(self) -> tuple[UnitOutcome, ...]:
        """Return the outcomes of joint training; empty if there are none so far."""
        if not self._joint_outcomes and (path := self._storage.path(_JOINT_OUTCOMES_NAME)).exists():
            rows = json.loads(path.read_text(encoding="utf-8"))
            self._joint_outcomes = tuple(read_outcome(raw) for raw in rows)
        return self._joint_outcomes

    def save_weights(self, name: str, weights: Mapping[str, Any]) -> None:
        """Save the weights of a network; keep them in memory if no folder can be written to."""
        self._memory_weights.pop(name, None)
        try:
            file_name = f"{name}.weights"
            self._storage.place(file_name, lambda path: write_weights(path, weights))
        except OSError:
            self._uses_memory = True
            self._memory_weights[name] = weights

    def load_weights(self, name: str) -> Mapping[str, Any] | None:
        """Return the weights of a network; None if there are none of this name."""
        if name in self._memory_weights:
            return self._memory_weights[name]
        return read_weights(self._storage.path(f"{name}.weights"))

    def allocate_image(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> MemoryMappedImage | StackArray:
        """Create an empty image on the first disk with enough space, or else in memory.

        Raises
        ------
        MemoryError
            If the image exceeds the memory of the computer, too.
        """
        try:
            return self._storage.place(name, lambda path: create_mapped_image(path, shape, dtype))
        except OSError:
            if prod(shape) * dtype.itemsize > detect_machine().memory_bytes:
                raise MemoryError(f"there is no room for {name}") from None
            self._uses_memory = True
            return np.zeros(shape, dtype)

    def make_fallback_notice(self) -> Refusal | None:
        """Return a notice on where files are stored if the own folder failed; otherwise None."""
        if not self._storage.why:
            return None
        location = (
            "in memory"
            if self._uses_memory
            else f"in '{make_printable(str(self._storage.fallback_folder))}'"
        )
        folder = make_printable(str(self._storage.folder))
        return make_refusal("tiles-moved", path=folder, why=self._storage.why, where=location)

    def check_tiles(self, order: Sequence[int]) -> None:
        """Raise FailedError if a finished tile no longer exists."""
        if not all(self.has_tile(index) for index in order):
            raise FailedError("tiles-gone", path=self._storage.folder)

    def close(self) -> None:
        """Remove fallback folders and release the lock; memory-mapped images stay valid."""
        self._storage.close()
        if self._lock is not None:
            self._lock.release()

    @staticmethod
    def _lock_folder(folder: Path, resume: bool) -> FolderLock | None:
        """Lock the folder; return None if it cannot be locked but may be shared.

        Processes that resume the same run share a folder. Others must not remove its tiles.
        """
        try:
            return FolderLock(folder)
        except (BlockingIOError, PermissionError):
            if resume:
                return None
            raise RefusedError("run-twice", path=folder) from None
        except OSError:  # network disks may not support locks
            return None

    def _read_manifest(self, index: int) -> Path:
        return self._storage.path(_OUTCOME_NAME.format(index))

    def _save_array(self, name: str, array: StackArray) -> None:
        self._storage.place(
            name, lambda path: _replace_file(path, lambda file: np.save(file, array))
        )

    @contextmanager
    def _convert_write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FailedError(make_save_refusal(self._storage.folder, error)) from error


def _replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically; a link of that name is replaced, not followed."""
    if path.is_symlink():
        path.unlink()
    with write_atomically(path, overwrite=True) as part, part.open("xb") as file:
        write(file)


def _replace_content(path: Path, content: bytes) -> None:
    _replace_file(path, lambda file: file.write(content))


def _open_mapped_array(path: Path) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return array


def list_tile_outcomes(tile_folder: TileFolder, order: Sequence[int]) -> list[UnitOutcome]:
    """Return the outcomes of joint training and of all tiles with a result, in this order."""
    tile_outcomes = [
        outcome
        for index in order
        if tile_folder.has_tile(index)
        for outcome in tile_folder.read_tile_record(index)[1]
    ]
    return [*tile_folder.read_joint_outcomes(), *tile_outcomes]


_ESTIMATE_TENSORS, _LEARNED_PREFIX = ("picture", "deviation", "prediction"), "learned/"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnitResult:
    """Hold the result of one fit.

    Attributes
    ----------
    outcome : UnitOutcome
    estimates : tuple of ndarray
        Picture, deviation and prediction, as for `ResultMerger.add`; empty for joint training.
    learned : mapping of str to ndarray
        Learned parameters, such as a PSF.
    """

    outcome: UnitOutcome
    estimates: tuple[StackArray, ...] = ()
    learned: Mapping[str, StackArray] = field(default_factory=dict)


class UnitFolder:
    """Store the fits of one run in a folder.

    Parameters
    ----------
    folder : Path
        Created when the first fit is saved.
    identity : mapping
        Identity of the run, in plain JSON types. Files of other runs are ignored.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    def save(self, unit: WorkUnit, fitted: UnitResult) -> None:
        """Save the result of a fit; raise OSError if it cannot be written."""
        import torch

        arrays = dict(zip(_ESTIMATE_TENSORS, fitted.estimates, strict=False))
        arrays |= {_LEARNED_PREFIX + name: array for name, array in fitted.learned.items()}
        tensors = {
            name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()
        }
        make_run_folder(self._folder)
        metadata = {"identity": self._identity, "outcome": asdict(fitted.outcome)}
        write_tensors(self._get_unit_path(unit.id), tensors, metadata)

    def save_weights(self, series: str, weights: Mapping[str, Any]) -> None:
        """Save a jointly trained network; raise OSError if it cannot be written."""
        make_run_folder(self._folder)
        tensors = {name: value.contiguous() for name, value in weights.items()}
        write_tensors(self._get_weights_path(series), tensors, {"identity": self._identity})

    def load_weights(self, series: str) -> Mapping[str, Any]:
        """Return the weights of a jointly trained network."""
        return read_tensors(self._get_weights_path(series))

    def find_finished_units(self, plan: Plan) -> frozenset[str]:
        """Return the ids of the units in chains and joint groups that are stored completely."""
        joint_groups = (
            group
            for group in list_joint_unit_groups(plan)
            if self._is_valid(self._get_weights_path(group[0].series))
        )
        groups = (*joint_groups, *list_unit_chains(plan))
        finished_groups = (
            units
            for units in groups
            if all(self._is_valid(self._get_unit_path(unit.id)) for unit in units)
        )
        return frozenset(unit.id for finished in finished_groups for unit in finished)

    def merge_result(self, unit: WorkUnit, merger: ResultMerger) -> None:
        """Add the stored result of a unit to a merger."""
        path = self._get_unit_path(unit.id)
        outcome = read_outcome(read_metadata(path)["outcome"])
        if not outcome.has_estimate:
            merger.outcomes.append(outcome)
            return
        arrays = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
        learned = {
            n.removeprefix(_LEARNED_PREFIX): a
            for n, a in arrays.items()
            if n.startswith(_LEARNED_PREFIX)
        }
        picture, deviation, prediction = (arrays[name] for name in _ESTIMATE_TENSORS)
        merger.add(unit, picture, deviation, prediction, outcome, learned)

    def _is_valid(self, path: Path) -> bool:
        try:
            if not path.exists() or read_metadata(path)["identity"] != self._identity:
                return False
            read_tensors(path)  # verifies the digest
        except CHECKPOINT_ERRORS:
            return False
        return True

    def _get_unit_path(self, name: str) -> Path:
        return self._folder / f"{name}.fit"

    def _get_weights_path(self, series: str) -> Path:
        return self._folder / f"{series}.weights"


def list_unit_chains(plan: Plan) -> list[list[WorkUnit]]:
    """Group units with an estimate into chains that do not depend on each other.

    A unit depends on another one through warm starts, which stay within a segment. Frames of a
    movie depend on all restarts of the previous frame through temporal smoothing. Restarts use the
    prior that was selected in the first fit. Jointly trained networks come first, see
    `list_joint_unit_groups`.
    """
    warm_started = {
        (unit.channels, unit.restart)
        for unit in plan.units
        if unit.is_warm_start and not unit.series
    }
    chains: defaultdict[tuple[Any, ...], list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        unit_key = unit.channels, unit.restart
        if not unit.has_estimate:
            continue
        if unit.has_time_neighbours or plan.fit_config.other_candidates:
            chains[unit.channels, unit.segment].append(unit)
        elif unit_key in warm_started:
            chains[*unit_key, unit.segment].append(unit)
        else:
            chains[*unit_key, unit.part].append(unit)
    return list(chains.values())


def list_joint_unit_groups(plan: Plan) -> list[list[WorkUnit]]:
    """Return, for each jointly trained network, its joint fit and its fine-tuning probes."""
    groups: defaultdict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        if not unit.has_estimate:
            groups[unit.series].append(unit)
    return list(groups.values())
