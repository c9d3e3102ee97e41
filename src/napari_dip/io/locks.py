"""Locks on files, which the system lets go of when their process ends, however that happens."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable, target_of

if TYPE_CHECKING:
    from types import TracebackType

    from napari_dip.errors import Refusal

#: Byte that is locked on Windows, where nobody else may read what is locked: beyond all content.
_BYTE = 2**30
#: Bytes of a lock's file that are read: it names one process.
_MOST_BYTES = 1000
#: Times that a lock's file may have gone while it was being locked; then the disk names files in a
#: way of its own, and knows no locks.
_TRIES = 100
#: Not through a link, and never waiting for a pipe; Windows knows neither.
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


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
        self._place = lock_place(path)
        self._handle = -1
        for _ in range(_TRIES):
            try:
                handle = os.open(self._place, _FLAGS | os.O_CREAT, 0o666)
            except OSError:
                return
            try:
                lock(handle)
            except (BlockingIOError, PermissionError):
                raise Refused(_busy(path, handle)) from None
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
            os.write(self._handle, owner_text().encode())

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
            _remove(handle, self._place)


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise `Refused` if another program's run has locked a result; leaves nothing on the disk."""
    try:
        handle = os.open(lock_place(path), _FLAGS)
    except OSError:
        return
    try:
        lock(handle)
    except (BlockingIOError, PermissionError):
        if _owner(handle) != (os.getpid(), socket.gethostname()):
            raise Refused(_busy(path, handle)) from None
    except OSError:
        pass
    os.close(handle)


def remove_if_free(place: Path) -> None:
    """Remove the file of a lock that a killed program has left."""
    with suppress(OSError):
        handle = os.open(place, _FLAGS)
        try:
            free = _owner(handle) is not None
            lock(handle)
        except OSError:
            free = False
        if free and _is_at(handle, place):
            _remove(handle, place)
        else:
            os.close(handle)


def lock_place(path: str | os.PathLike[str]) -> Path:
    """Name the file that is locked for a result, however the result is reached."""
    found = target_of(Path(path))
    digest = hashlib.sha256(os.path.normcase(found.name).encode("utf-8", "surrogateescape"))
    return found.parent / f".napari-dip-{digest.hexdigest()[:16]}.lock"


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


def owner_text() -> str:
    """Name this process and its computer, as one line of JSON."""
    return json.dumps({"process": os.getpid(), "host": socket.gethostname()})


def _owner(handle: int) -> tuple[int, str] | None:
    """Read who has locked a file; None where that is not said as we say it."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        os.lseek(handle, 0, os.SEEK_SET)
        told = json.loads(os.read(handle, _MOST_BYTES))
        return int(told["process"]), str(told["host"])
    return None


def _busy(path: str | os.PathLike[str], handle: int) -> Refusal:
    process, host = _owner(handle) or ("unknown", "unknown")
    os.close(handle)
    facts = {"path": printable(os.fspath(path)), "process": process, "host": printable(str(host))}
    return refusal("output-busy", **facts)


def _is_at(handle: int, place: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), place.lstat())
    except OSError:
        return False


def _remove(handle: int, place: Path) -> None:
    """Remove the file and let go; Windows removes none that is open."""
    if sys.platform == "win32":
        os.close(handle)
        with suppress(OSError):
            place.unlink()
    else:
        with suppress(OSError):
            place.unlink()
        os.close(handle)
