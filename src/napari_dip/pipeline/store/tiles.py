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
from napari_dip.pipeline.machine import this_machine
from napari_dip.pipeline.store.checkpoint_file import read_outcome
from napari_dip.pipeline.store.checkpoints import read_weights, write_weights
from napari_dip.pipeline.store.folder_lock import FolderLock, empty_run_folder, make_run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.calibrate.types import Planes
    from napari_dip.pipeline.plan.types import UnitOutcome

Made = TypeVar("Made")


class Folders:
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

    def place(self, name: str, write: Callable[[Path], Made]) -> Made:
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
                made = write(path)
            except OSError as error:
                failure = failure or error
                self.why = describe_write_error(failure)
                continue
            self._moved[name] = path
            self.spare = self.spare if folder == self.own else folder
            return made
        assert failure is not None
        raise failure

    def close(self) -> None:
        """Remove the spare folders; arrays that are mapped from them stay as they are."""
        for one in self._spare:
            one.cleanup()

    def _all(self) -> Iterator[Path]:
        """Give the own folder, the spare ones that there are, and new ones."""
        yield self.own
        yield from (Path(one.name) for one in self._spare)
        while self._others:
            try:
                made = tempfile.TemporaryDirectory(
                    prefix="napari-dip-", dir=self._others.pop(0), ignore_cleanup_errors=True
                )
            except OSError:
                continue
            self._spare.append(made)
            yield Path(made.name)


#: Raised by one whenever a shelf written before could not be gone on with.
SCHEMA = 2
_LIST, _LESSON = "tiles.json", "lesson.json"
#: Files of a tile, by its number.
_PICTURES, _PREDICTION, _WORDS = "{}.npy", "{}.prediction.npy", "{}.json"


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What was restored of one tile.

    Attributes
    ----------
    pictures : ndarray
        (2, C, *size) float32, in the image's units: picture and its standard deviation.
    prediction : ndarray or None
        (C, *size): what the detector would have seen; None where that is the picture itself.
    left : tuple of float
        Of each channel, the sum of what was measured less what the detector would have seen, each
        pixel weighed by the tile's share in it: sums of all tiles add up.
    outcomes : tuple of UnitOutcome
    learned : mapping of str to list
        What else was fitted.
    """

    pictures: Planes
    prediction: Planes | None
    left: tuple[float, ...]
    outcomes: tuple[UnitOutcome, ...]
    learned: Mapping[str, Any] = field(default_factory=dict)


class Shelf:
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
        self._folders = Folders(folder, others)
        self._kept: dict[int, Piece] = {}
        self._learned: dict[str, Mapping[str, Any]] = {}
        self._lesson: tuple[UnitOutcome, ...] = ()
        self._in_memory = False
        if folder.is_symlink():  # whose files would be removed
            raise Refused(refusal("output-linked", path=folder))
        with self._writing():
            make_run_folder(folder)
            self._held = self._hold(folder, resume)
            there = folder / _LIST
            wanted = {"schema": SCHEMA, **json.loads(json.dumps(dict(identity)))}
            if resume and there.exists():
                if json.loads(there.read_text(encoding="utf-8")) != wanted:
                    raise Refused(refusal("resume-other", path=folder))
                return
            empty_run_folder(folder)
            _whole(there, json.dumps(wanted).encode())

    def has(self, index: int) -> bool:
        """Whether a tile is done."""
        return self._words(index).exists()

    def put(self, index: int, piece: Piece) -> None:
        """Take in a tile that is done."""
        words = {
            "left": list(piece.left),
            "outcomes": [asdict(one) for one in piece.outcomes],
            "learned": {name: np.asarray(one).tolist() for name, one in piece.learned.items()},
        }
        try:
            self._array(_PICTURES.format(index), piece.pictures)
            if piece.prediction is not None:
                self._array(_PREDICTION.format(index), piece.prediction)
            text = json.dumps(words).encode()
            self._folders.place(_WORDS.format(index), lambda path: _whole(path, text))
        except OSError:
            self._in_memory = True
            self._kept[index] = piece

    def hold(self, index: int, piece: Piece) -> None:
        """Take in a tile that a person ended, for this run alone."""
        self._kept[index] = piece

    def there(self, index: int) -> bool:
        """Whether there is a picture of a tile."""
        return index in self._kept or self.has(index)

    def pictures(self, index: int) -> npt.NDArray[np.float32]:
        """Give a tile's pictures as an array that stays on the disk."""
        if index in self._kept:
            return self._kept[index].pictures
        return _opened(self._folders.path(_PICTURES.format(index)))

    def prediction(self, index: int) -> npt.NDArray[np.float32]:
        """Give what the detector would have seen of a tile, (C, *size)."""
        if index in self._kept:
            one = self._kept[index]
            return one.pictures[0] if one.prediction is None else one.prediction
        path = self._folders.path(_PREDICTION.format(index))
        return _opened(path) if path.exists() else self.pictures(index)[0]

    def told(self, index: int) -> tuple[tuple[float, ...], tuple[UnitOutcome, ...], dict[str, Any]]:
        """Give a tile's `left`, `outcomes` and `learned`."""
        if index in self._kept:
            one = self._kept[index]
            return one.left, one.outcomes, dict(one.learned)
        words = json.loads(self._words(index).read_text(encoding="utf-8"))
        outcomes = tuple(read_outcome(raw) for raw in words["outcomes"])
        return tuple(words["left"]), outcomes, words["learned"]

    def keep_lesson(self, outcomes: Sequence[UnitOutcome]) -> None:
        """Keep how the fits went that no tile comes of but all are helped by."""
        self._lesson = tuple(outcomes)
        text = json.dumps([asdict(one) for one in outcomes]).encode()
        with suppress(OSError):
            self._folders.place(_LESSON, lambda path: _whole(path, text))

    def lesson(self) -> tuple[UnitOutcome, ...]:
        """Give how they went; empty if there were none, or not yet."""
        if not self._lesson and (path := self._folders.path(_LESSON)).exists():
            rows = json.loads(path.read_text(encoding="utf-8"))
            self._lesson = tuple(read_outcome(raw) for raw in rows)
        return self._lesson

    def keep_weights(self, name: str, weights: Mapping[str, Any]) -> None:
        """Keep what a network has learned."""
        self._learned.pop(name, None)
        try:
            file = f"{name}.weights"
            self._folders.place(file, lambda path: write_weights(path, weights))
        except OSError:
            self._in_memory = True
            self._learned[name] = weights

    def weights(self, name: str) -> Mapping[str, Any] | None:
        """Give what a network has learned; None if nothing was kept."""
        if name in self._learned:
            return self._learned[name]
        return read_weights(self._folders.path(f"{name}.weights"))

    def room(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> MemoryMappedImage | Planes:
        """Make room for a picture of all tiles: on the first disk that has it, or in memory.

        Raises
        ------
        MemoryError
            If nothing has it.
        """
        try:
            return self._folders.place(name, lambda path: create_mapped_image(path, shape, dtype))
        except OSError:
            if prod(shape) * dtype.itemsize > this_machine().memory_bytes:
                raise MemoryError(f"there is no room for {name}") from None
            self._in_memory = True
            return np.zeros(shape, dtype)

    def moved(self) -> Refusal | None:
        """Say where what is done lies if its own disk takes no more; None while it does."""
        if not self._folders.why:
            return None
        where = (
            "in memory" if self._in_memory else f"in '{make_printable(str(self._folders.spare))}'"
        )
        own = make_printable(str(self._folders.own))
        return refusal("tiles-moved", path=own, why=self._folders.why, where=where)

    def check(self, order: Sequence[int]) -> None:
        """Make sure that all tiles that were done are still there; raises Failed."""
        if not all(self.there(index) for index in order):
            raise Failed(refusal("tiles-gone", path=make_printable(str(self._folders.own))))

    def close(self) -> None:
        """Remove what was kept on other disks; pictures that are mapped from there stay."""
        self._folders.close()
        if self._held is not None:
            self._held.let_go()

    @staticmethod
    def _hold(folder: Path, resume: bool) -> FolderLock | None:
        """Keep others from removing these tiles; who goes on with the same ones may share them."""
        try:
            return FolderLock(folder)
        except (BlockingIOError, PermissionError):
            if resume:
                return None
            raise Refused(refusal("run-twice", path=make_printable(str(folder)))) from None
        except OSError:  # a network's disk may know no locks
            return None

    def _words(self, index: int) -> Path:
        return self._folders.path(_WORDS.format(index))

    def _array(self, name: str, array: Planes) -> None:
        self._folders.place(name, lambda path: _placed(path, lambda file: np.save(file, array)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failed(make_save_refusal(self._folders.own, error)) from error


def _whole(path: Path, content: bytes) -> None:
    _placed(path, lambda file: file.write(content))


def _placed(path: Path, write: Callable[[IO[bytes]], object]) -> None:
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


def _opened(path: Path) -> npt.NDArray[np.float32]:
    whole: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return whole


def all_outcomes(shelf: Shelf, order: Sequence[int]) -> list[UnitOutcome]:
    """Give the outcomes of all tiles that there are, in order."""
    pictured = [one for index in order if shelf.there(index) for one in shelf.told(index)[1]]
    return [*shelf.lesson(), *pictured]
