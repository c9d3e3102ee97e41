"""Tiles that are done, on the disk: whole or not at all, so that a run may be ended at any moment.

A tile is two files: its pictures, and how they came about; the second is written last and makes the
tile count. Nothing in them depends on which process wrote them. What the disk does not take is kept
on another one, or in memory, until the run ends.

Where files of a run go: its own folder, or spare ones where the disk of that takes no more.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_dip.errors import Failed, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.outputs import make_part_name
from napari_dip.io.paths import describe_write_error, make_save_refusal
from napari_dip.io.regions import create_mapped_image
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.store.checkpoint_file import read_outcome
from napari_dip.pipeline.store.checkpoints import read_weights, write_weights
from napari_dip.pipeline.store.folder_lock import FolderLock, empty_run_folder, make_run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.calibrate.calibration import Planes
    from napari_dip.pipeline.plan.types import UnitOutcome

WrittenT = TypeVar("WrittenT")


class FallbackStorage:
    """A run's own folder, and those that stand in for it.

    Parameters
    ----------
    own : Path
    others : sequence of Path
        Folders in which a spare one is made when it is needed, in this order.

    Attributes
    ----------
    why : str
        Why the own folder did not take something; "" while it takes all.
    spare : Path or None
        The last spare folder that took something.
    """

    def __init__(self, own: Path, others: Sequence[Path] = ()) -> None:
        self.own = own
        self.why = ""
        self.spare: Path | None = None
        self._others = list(others)
        self._spare: list[tempfile.TemporaryDirectory[str]] = []
        self._moved: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Say where a file lies, or would lie."""
        return self._moved.get(name, self.own / name)

    def place(self, name: str, write: Callable[[Path], WrittenT]) -> WrittenT:
        """Write a file in the first folder that takes it.

        Parameters
        ----------
        name : str
        write : callable
            Gets the path, writes all of the file or nothing, and raises OSError if it cannot.

        Raises
        ------
        OSError
            If no folder takes it: what the own one said.
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
            self.spare = self.spare if folder == self.own else folder
            return written
        assert failure is not None
        raise failure

    def close(self) -> None:
        """Remove the spare folders; arrays that are mapped from them stay as they are."""
        for item in self._spare:
            item.cleanup()

    def _all(self) -> Iterator[Path]:
        """Give the own folder, the spare ones that there are, and new ones."""
        yield self.own
        yield from (Path(item.name) for item in self._spare)
        while self._others:
            try:
                directory = tempfile.TemporaryDirectory(
                    prefix="napari-dip-", dir=self._others.pop(0), ignore_cleanup_errors=True
                )
            except OSError:
                continue
            self._spare.append(directory)
            yield Path(directory.name)


#: Raised by one whenever a shelf written before could not be gone on with.
TILE_MANIFEST_SCHEMA = 2
_MANIFEST_NAME, _JOINT_OUTCOMES_NAME = "tiles.json", "lesson.json"
#: Files of a tile, by its number.
_ESTIMATE_NAME, _PREDICTION_NAME, _OUTCOME_NAME = "{}.npy", "{}.prediction.npy", "{}.json"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TileResult:
    """What was restored of one tile.

    Attributes
    ----------
    estimates : ndarray
        (2, C, *size) float32, in the image's units: picture and its standard deviation.
    prediction : ndarray or None
        (C, *size): what the detector would have seen; None where that is the picture itself.
    residual_sums : tuple of float
        Of each channel, the sum of what was measured less what the detector would have seen, each
        pixel weighed by the tile's share in it: sums of all tiles add up.
    outcomes : tuple of UnitOutcome
    learned : mapping of str to list
        What else was fitted.
    """

    estimates: Planes
    prediction: Planes | None
    residual_sums: tuple[float, ...]
    outcomes: tuple[UnitOutcome, ...]
    learned: Mapping[str, Any] = field(default_factory=dict)


class TileFolder:
    """Keeps the tiles of one run in a folder.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    identity : mapping
        What the tiles come from, in plain JSON types.
    resume : bool
        Whether to go on with the tiles that are there; else they are removed.
    others : sequence of Path
        Folders in which a spare one is made for what the disk takes no more.

    Raises
    ------
    Refused
        If the folder is to be gone on with and belongs to another run, or is to be begun anew while
        another run is at it.
    Failed
        If the disk takes nothing from the start.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        resume: bool,
        others: Sequence[Path] = (),
    ) -> None:
        self._storage = FallbackStorage(folder, others)
        self._memory_results: dict[int, TileResult] = {}
        self._memory_weights: dict[str, Mapping[str, Any]] = {}
        self._joint_outcomes: tuple[UnitOutcome, ...] = ()
        self._uses_memory = False
        if folder.is_symlink():  # whose files would be removed
            raise Refused(refusal("output-linked", path=folder))
        with self._convert_write_errors():
            make_run_folder(folder)
            self._lock = self._lock_folder(folder, resume)
            manifest_file = folder / _MANIFEST_NAME
            wanted = {"schema": TILE_MANIFEST_SCHEMA, **json.loads(json.dumps(dict(identity)))}
            if resume and manifest_file.exists():
                if json.loads(manifest_file.read_text(encoding="utf-8")) != wanted:
                    raise Refused(refusal("resume-other", path=folder))
                return
            empty_run_folder(folder)
            _replace_bytes(manifest_file, json.dumps(wanted).encode())

    def is_finished(self, index: int) -> bool:
        """Whether a tile is done."""
        return self._read_manifest(index).exists()

    def save(self, index: int, piece: TileResult) -> None:
        """Take in a tile that is done."""
        label = {
            "left": list(piece.residual_sums),
            "outcomes": [asdict(outcome) for outcome in piece.outcomes],
            "learned": {name: np.asarray(item).tolist() for name, item in piece.learned.items()},
        }
        try:
            self._save_array(_ESTIMATE_NAME.format(index), piece.estimates)
            if piece.prediction is not None:
                self._save_array(_PREDICTION_NAME.format(index), piece.prediction)
            text = json.dumps(label).encode()
            self._storage.place(
                _OUTCOME_NAME.format(index), lambda path: _replace_bytes(path, text)
            )
        except OSError:
            self._uses_memory = True
            self._memory_results[index] = piece

    def keep_in_memory(self, index: int, piece: TileResult) -> None:
        """Take in a tile that a person ended, for this run alone."""
        self._memory_results[index] = piece

    def has_tile(self, index: int) -> bool:
        """Whether there is a picture of a tile."""
        return index in self._memory_results or self.is_finished(index)

    def open_estimates(self, index: int) -> npt.NDArray[np.float32]:
        """Give a tile's pictures as an array that stays on the disk."""
        if index in self._memory_results:
            return self._memory_results[index].estimates
        return _open_mapped_array(self._storage.path(_ESTIMATE_NAME.format(index)))

    def open_prediction(self, index: int) -> npt.NDArray[np.float32]:
        """Give what the detector would have seen of a tile, (C, *size)."""
        if index in self._memory_results:
            item = self._memory_results[index]
            return item.estimates[0] if item.prediction is None else item.prediction
        path = self._storage.path(_PREDICTION_NAME.format(index))
        return _open_mapped_array(path) if path.exists() else self.open_estimates(index)[0]

    def read_tile_record(
        self, index: int
    ) -> tuple[tuple[float, ...], tuple[UnitOutcome, ...], dict[str, Any]]:
        """Give a tile's `left`, `outcomes` and `learned`."""
        if index in self._memory_results:
            item = self._memory_results[index]
            return item.residual_sums, item.outcomes, dict(item.learned)
        data = json.loads(self._read_manifest(index).read_text(encoding="utf-8"))
        outcomes = tuple(read_outcome(raw) for raw in data["outcomes"])
        return tuple(data["left"]), outcomes, data["learned"]

    def save_joint_outcomes(self, outcomes: Sequence[UnitOutcome]) -> None:
        """Keep how the fits went that no tile comes of but all are helped by."""
        self._joint_outcomes = tuple(outcomes)
        text = json.dumps([asdict(outcome) for outcome in outcomes]).encode()
        with suppress(OSError):
            self._storage.place(_JOINT_OUTCOMES_NAME, lambda path: _replace_bytes(path, text))

    def read_joint_outcomes(self) -> tuple[UnitOutcome, ...]:
        """Give how they went; empty if there were none, or not yet."""
        if not self._joint_outcomes and (path := self._storage.path(_JOINT_OUTCOMES_NAME)).exists():
            rows = json.loads(path.read_text(encoding="utf-8"))
            self._joint_outcomes = tuple(read_outcome(raw) for raw in rows)
        return self._joint_outcomes

    def save_weights(self, name: str, weights: Mapping[str, Any]) -> None:
        """Keep what a network has learned."""
        self._memory_weights.pop(name, None)
        try:
            file = f"{name}.weights"
            self._storage.place(file, lambda path: write_weights(path, weights))
        except OSError:
            self._uses_memory = True
            self._memory_weights[name] = weights

    def load_weights(self, name: str) -> Mapping[str, Any] | None:
        """Give what a network has learned; None if nothing was kept."""
        if name in self._memory_weights:
            return self._memory_weights[name]
        return read_weights(self._storage.path(f"{name}.weights"))

    def allocate_image(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> MemoryMappedImage | Planes:
        """Make room for a picture of all tiles: on the first disk that has it, or in memory.

        Raises
        ------
        MemoryError
            If nothing has it.
        """
        try:
            return self._storage.place(name, lambda path: create_mapped_image(path, shape, dtype))
        except OSError:
            if prod(shape) * dtype.itemsize > detect_machine().memory_bytes:
                raise MemoryError(f"there is no room for {name}") from None
            self._uses_memory = True
            return np.zeros(shape, dtype)

    def make_fallback_notice(self) -> Refusal | None:
        """Say where what is done lies if its own disk takes no more; None while it does."""
        if not self._storage.why:
            return None
        where = (
            "in memory" if self._uses_memory else f"in '{make_printable(str(self._storage.spare))}'"
        )
        own = make_printable(str(self._storage.own))
        return refusal("tiles-moved", path=own, why=self._storage.why, where=where)

    def check_tiles(self, order: Sequence[int]) -> None:
        """Make sure that all tiles that were done are still there; raises Failed."""
        if not all(self.has_tile(index) for index in order):
            raise Failed(refusal("tiles-gone", path=make_printable(str(self._storage.own))))

    def close(self) -> None:
        """Remove what was kept on other disks; pictures that are mapped from there stay."""
        self._storage.close()
        if self._lock is not None:
            self._lock.release()

    @staticmethod
    def _lock_folder(folder: Path, resume: bool) -> FolderLock | None:
        """Keep others from removing these tiles; who goes on with the same ones may share them."""
        try:
            return FolderLock(folder)
        except (BlockingIOError, PermissionError):
            if resume:
                return None
            raise Refused(refusal("run-twice", path=make_printable(str(folder)))) from None
        except OSError:  # a network's disk may know no locks
            return None

    def _read_manifest(self, index: int) -> Path:
        return self._storage.path(_OUTCOME_NAME.format(index))

    def _save_array(self, name: str, array: Planes) -> None:
        self._storage.place(
            name, lambda path: _replace_atomically(path, lambda file: np.save(file, array))
        )

    @contextmanager
    def _convert_write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failed(make_save_refusal(self._storage.own, error)) from error


def _replace_bytes(path: Path, content: bytes) -> None:
    _replace_atomically(path, lambda file: file.write(content))


def _replace_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    # a name that nobody can foresee, so that no link can lie there
    part = path.with_name(make_part_name())
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def _open_mapped_array(path: Path) -> npt.NDArray[np.float32]:
    whole: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return whole


def list_tile_outcomes(shelf: TileFolder, order: Sequence[int]) -> list[UnitOutcome]:
    """Give the outcomes of all tiles that there are, in order."""
    pictured = [
        item
        for index in order
        if shelf.has_tile(index)
        for item in shelf.read_tile_record(index)[1]
    ]
    return [*shelf.read_joint_outcomes(), *pictured]
