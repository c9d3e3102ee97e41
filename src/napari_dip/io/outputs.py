"""Where results may go: all that can be wrong with it, said before any work begins.

Locks on files, which the system lets go of when their process ends, however that happens.

What a killed program left half-written: told from what a living one writes, and removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Failed, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import is_zarr, make_folder_refusal, resolve_target, stat_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from napari_dip.errors import Refusal

#: Byte that is locked on Windows, where nobody else may read what is locked: beyond all content.
_BYTE = 2**30
#: Bytes of a lock's file that are read: it names one process.
_MAX_LOCK_BYTES = 1000
#: Times that a lock's file may have gone while it was being locked; then the disk names files in a
#: way of its own, and knows no locks.
_MAX_LOCK_ATTEMPTS = 100
#: Not through a link, and never waiting for a pipe; Windows knows neither.
_LOCK_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class OutputLock:
    """Keeps other runs from a result, on this computer and on others that share its disk.

    Parameters
    ----------
    path : path of the result
        A hidden file beside it is locked. Where none can be, nothing is: a disk may know no locks.

    Raises
    ------
    Refused
        If a run that lives has locked it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._place = find_lock_path(path)
        self._handle = -1
        for _ in range(_MAX_LOCK_ATTEMPTS):
            try:
                handle = os.open(self._place, _LOCK_FLAGS | os.O_CREAT, 0o666)
            except OSError:
                return
            try:
                lock(handle)
            except (BlockingIOError, PermissionError):
                raise Refused(_make_busy_refusal(path, handle)) from None
            except OSError:
                os.close(handle)
                return
            if _is_at(handle, self._place):  # not one that its last owner has just removed
                self._handle = handle
                break
            os.close(handle)
        if self._handle < 0:
            return
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.write(self._handle, format_lock_owner().encode())

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Let others have it; may be called twice."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            _release_lock_file(handle, self._place)


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise `Refused` if another program's run has locked a result; leaves nothing on the disk."""
    try:
        handle = os.open(find_lock_path(path), _LOCK_FLAGS)
    except OSError:
        return
    try:
        lock(handle)
    except (BlockingIOError, PermissionError):
        if _read_lock_owner(handle) != (os.getpid(), socket.gethostname()):
            raise Refused(_make_busy_refusal(path, handle)) from None
    except OSError:
        pass
    os.close(handle)


def remove_if_free(place: Path) -> None:
    """Remove the file of a lock that a killed program has left."""
    with suppress(OSError):
        handle = os.open(place, _LOCK_FLAGS)
        try:
            free = _read_lock_owner(handle) is not None
            lock(handle)
        except OSError:
            free = False
        if free and _is_at(handle, place):
            _release_lock_file(handle, place)
        else:
            os.close(handle)


def find_lock_path(path: str | os.PathLike[str]) -> Path:
    """Name the file that is locked for a result, however the result is reached."""
    target = resolve_target(Path(path))
    digest = hashlib.sha256(os.path.normcase(target.name).encode("utf-8", "surrogateescape"))
    return target.parent / f".napari-dip-{digest.hexdigest()[:16]}.lock"


def lock(handle: int) -> None:
    """Lock an open file, or raise.

    Parameters
    ----------
    handle : int
        Closing it lets go.

    Raises
    ------
    BlockingIOError, PermissionError
        If another one has locked it.
    OSError
        If the disk knows no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def format_lock_owner() -> str:
    """Name this process and its computer, as one line of JSON."""
    return json.dumps({"process": os.getpid(), "host": socket.gethostname()})


def _read_lock_owner(handle: int) -> tuple[int, str] | None:
    """Read who has locked a file; None where that is not said as we say it."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        os.lseek(handle, 0, os.SEEK_SET)
        data = json.loads(os.read(handle, _MAX_LOCK_BYTES))
        return int(data["process"]), str(data["host"])
    return None


def _make_busy_refusal(path: str | os.PathLike[str], handle: int) -> Refusal:
    process, host = _read_lock_owner(handle) or ("unknown", "unknown")
    os.close(handle)
    facts = {
        "path": make_printable(os.fspath(path)),
        "process": process,
        "host": make_printable(str(host)),
    }
    return refusal("output-busy", **facts)


def _is_at(handle: int, place: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), place.lstat())
    except OSError:
        return False


def _release_lock_file(handle: int, place: Path) -> None:
    """Remove the file and let go; Windows removes none that is open."""
    if sys.platform == "win32":
        os.close(handle)
        with suppress(OSError):
            place.unlink()
    else:
        with suppress(OSError):
            place.unlink()
        os.close(handle)


_PART_NAME_PATTERN = re.compile(r"\.napari-dip-([0-9a-f]{12})-(\d+)-[0-9a-f]{16}\.part")


def make_part_name() -> str:
    """Name a file or folder that is still being written, after this computer and process.

    Nobody can foresee it, so that no link can lie there.
    """
    return f".napari-dip-{_identify_computer()}-{os.getpid()}-{secrets.token_hex(8)}.part"


def remove_parts(folder: Path) -> None:
    """Remove what processes of this computer left that live no more, and their locks.

    Parameters
    ----------
    folder : Path
        What other computers write there is theirs.
    """
    with suppress(OSError):
        for entry in list(folder.glob(".napari-dip-*")):
            with suppress(OSError):
                if entry.name.endswith(".lock"):
                    remove_if_free(entry)
                elif is_abandoned(entry.name):
                    remove_result(entry)


def is_abandoned(name: str) -> bool:
    """Whether a name is that of a part whose process was on this computer and lives no more."""
    import psutil

    match = _PART_NAME_PATTERN.fullmatch(name)
    return (
        match is not None
        and match[1] == _identify_computer()
        and not psutil.pid_exists(int(match[2]))
    )


def remove_result(path: Path) -> None:
    """Remove a file, or the folder of an OME-Zarr; of a link, only the link."""
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


@cache
def _identify_computer() -> str:
    """Tell computers apart, and containers, which count their processes each for itself."""
    facts = socket.gethostname()
    with suppress(OSError):
        facts += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


IMAGE_SUFFIXES = (".tif", ".tiff", ".zarr")
#: The ending of results that are folders.
FOLDER_SUFFIX = ".zarr"
JSON_SUFFIXES = (".json",)


def check_output(
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    *,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    bytes_needed: int = 0,
) -> Path:
    """Make sure that a result can be saved under a name without harm to anything.

    Parameters
    ----------
    path : path of the result
    inputs : paths that must never be replaced, however they are reached
    overwrite : bool
        Whether an earlier file of that name may be replaced.
    suffixes : tuple of str
        Endings that the name may have, in small letters.
    bytes_needed : int
        Free space that must be there.

    Returns
    -------
    Path
        Where it is to be written: links that are there now are followed.

    Raises
    ------
    Refused
        If the name cannot be used.
    """
    output, status = stat_path(path)
    printable = make_printable(str(output))
    zarr = output.suffix.lower() == FOLDER_SUFFIX and FOLDER_SUFFIX in suffixes
    if status is not None and stat.S_ISDIR(status.st_mode) and not zarr:
        raise Refused(refusal("output-is-folder", path=printable, suffix=suffixes[0]))
    if output.name.lower().removeprefix(".ome") in suffixes:
        raise Refused(refusal("output-nameless", path=printable, suffix=output.name.lower()))
    if output.suffix.lower() not in suffixes:
        code = "output-type" if suffixes == IMAGE_SUFFIXES else "output-json"
        raise Refused(refusal(code, path=printable, suffix=make_printable(output.suffix)))
    special = status is not None and not stat.S_ISREG(status.st_mode)
    if special and not (zarr and output.is_dir()):
        raise Refused(refusal("output-special", path=printable))
    if any(_is_same_or_inside(output, other) for other in inputs):
        raise Refused(refusal("output-is-input", path=printable))
    if os.path.lexists(output) and not overwrite:
        raise Refused(refusal("output-exists", path=printable))
    if zarr:
        _check_zarr(output, status)
    target = resolve_target(output)
    _check_folder(target.parent, status is not None, output, bytes_needed)
    return target


def check_folder(path: str | os.PathLike[str], bytes_needed: int = 0) -> Path:
    """Make sure that results can be saved in a folder, which need not be there yet.

    Raises
    ------
    Refused
        If it is no folder, the folder above it is missing, or files cannot be written there.
    """
    folder, status = stat_path(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise Refused(refusal("folder-is-file", path=make_printable(str(folder))))
    place = resolve_target(folder)
    _check_folder(place if status is not None else place.parent, False, folder, bytes_needed)
    return folder


def check_outputs_differ(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse two results under one name.

    Raises
    ------
    Refused
        If two of the paths lead to one file.
    """
    earlier: set[str] = set()
    for path in paths:
        place = os.path.normcase(resolve_target(Path(path)))
        if place in earlier:
            raise Refused(refusal("output-twice", path=make_printable(str(path))))
        earlier.add(place)


def resolve_folder(path: Path) -> Path:
    """Follow links to the folder that is really written into, but not one of the name itself."""
    return resolve_target(path.parent) / path.name


def check_unmoved(target: Path) -> None:
    """Raise `Failed` if the way to a place that `check_output` gave leads elsewhere by now."""
    if resolve_folder(target) != target:
        raise Failed(refusal("output-moved", path=make_printable(str(target.parent))))


def _is_same_or_inside(path: Path, other: str | os.PathLike[str]) -> bool:
    """Whether one is the other, or lies in the folder that it is."""
    with suppress(OSError, ValueError):
        if os.path.lexists(path) and os.path.samefile(path, other):
            return True
        here, other_path = os.path.realpath(path), os.path.realpath(other)
        if os.path.isdir(other_path) and here.startswith(other_path + os.sep):
            return True
        return os.path.isdir(here) and other_path.startswith(here + os.sep)
    return False


def _check_zarr(path: Path, status: os.stat_result | None) -> None:
    """Say no where Zarr cannot be written, or something else would be replaced by it."""
    from napari_dip.io.formats.zarr import check_zarr
    from napari_dip.io.formats.zarr_metadata import find_foreign_file

    check_zarr(path)
    printable = make_printable(str(path))
    if status is not None and not path.is_dir():
        raise Refused(refusal("folder-is-file", path=printable))
    if status is not None and any(path.iterdir()) and not is_zarr(path):
        raise Refused(refusal("zarr-foreign", path=printable))
    if status is not None and (other := find_foreign_file(path)):
        raise Refused(refusal("zarr-shared", path=printable, other=make_printable(other)))


def _check_folder(folder: Path, replaces: bool, path: Path, bytes_needed: int) -> None:
    """Try the folder by making a file in it, which is the only proof that holds everywhere."""
    printable = make_printable(str(folder))
    if not folder.is_dir():
        raise Refused(refusal("output-folder-missing", folder=make_printable(str(path.parent))))
    try:
        trial = folder / make_part_name()
        trial.touch(exist_ok=False)
        trial.unlink()
        if replaces and not os.access(path, os.W_OK):
            raise PermissionError(13, "the file that is there may not be changed")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise Refused(make_folder_refusal(folder, error)) from None
    if free < bytes_needed:
        why = f"{bytes_needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free"
        raise Refused(refusal("output-full", folder=printable, why=why))
