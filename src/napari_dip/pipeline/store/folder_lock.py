"""A run's own folder: a mark proves whose it is, and a lock on it goes with the process."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from napari_dip.io.outputs import format_lock_owner, lock, make_part_name

if TYPE_CHECKING:
    from pathlib import Path

#: File in the folder.
MARKER_FILE = "held"
#: What the mark begins with; a file of that name without it is somebody else's.
_MARKER_PREFIX = b"napari-dip: a run keeps its state here"
#: Bytes of a mark that are looked at.
_MAX_MARKER_BYTES = 4096
#: Files that runs write into their folders. A name that is not here is not ours to remove.
_RUN_FILE_PATTERN = re.compile(
    r"held|tiles\.json|lesson\.json|run\.json|checkpoint(-\d+)?|share[\w.-]*|(lesson)?begun[\w.-]*"
    r"|\d+\.json|[\w-]+(\.prediction)?\.npy|[\w-]+\.(weights|fit)"
    r"|(picture|deviation|residual)\.raw|\.napari-dip-[\w.-]+\.part"
)
#: Folders that runs make in their folders.
_RUN_FOLDER_PATTERN = re.compile(r"checkpoint(-\d+)?\.tiles|\.napari-dip-[\w.-]+\.part")


class FolderLock:
    """Holds a folder until it is let go, or the process ends.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If another one holds it, or the disk takes no mark or knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = _open_marker(folder)
        try:
            try:
                lock(self._handle)
            except (BlockingIOError, PermissionError):
                raise
            except OSError:  # a network's disk may know no locks, but it takes a mark
                _write_marker(self._handle)
                raise
            _write_marker(self._handle)
        except OSError:
            os.close(self._handle)
            raise

    def release(self) -> None:
        """Let others take it; may be called twice."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def is_folder_locked(folder: Path) -> bool:
    """Whether a process that lives is at work there, this one included."""
    if not (folder / MARKER_FILE).exists():
        return False
    try:
        handle = _open_marker(folder)
    except OSError:
        return False
    try:
        lock(handle)
    except OSError as error:
        return isinstance(error, BlockingIOError | PermissionError)
    finally:
        with suppress(OSError):
            os.close(handle)
    return False


def is_run_folder(folder: Path) -> bool:
    """Whether a mark in a folder proves that a run made it; follows no links."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return False
        mark = folder / MARKER_FILE
        if not stat.S_ISREG(mark.lstat().st_mode):
            return False
        with mark.open("rb") as file:
            return file.read(_MAX_MARKER_BYTES).startswith(_MARKER_PREFIX)
    except OSError:
        return False


def make_run_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder with its mark in one step, unless a run has made it before.

    Raises
    ------
    OSError
        If the disk does not take it, or a folder of that name is there that no run has made.
    """
    if not os.path.lexists(folder):
        part = folder.with_name(make_part_name())
        part.mkdir(mode=mode)
        try:
            handle = _open_marker(part)
            try:
                _write_marker(handle)
            finally:
                os.close(handle)
            with suppress(OSError):  # another share of the same run was faster
                os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    if not is_run_folder(folder):
        why = "something of that name is there that is not of this program"
        raise FileExistsError(errno.EEXIST, why)


def empty_run_folder(folder: Path) -> None:
    """Remove what runs have written in a folder of theirs; its mark and all else stays."""
    if not is_run_folder(folder):
        return
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            with suppress(OSError):
                _remove_run_entry(entry)


def remove_run_folder(folder: Path) -> None:
    """Remove a folder of a run, but for what no run has written there."""
    if not is_run_folder(folder):
        return
    empty_run_folder(folder)
    with suppress(OSError):
        if {entry.name for entry in folder.iterdir()} == {MARKER_FILE}:
            (folder / MARKER_FILE).unlink()
            folder.rmdir()


def _remove_run_entry(entry: Path) -> None:
    kind = entry.lstat().st_mode
    if stat.S_ISDIR(kind):
        if not _RUN_FOLDER_PATTERN.fullmatch(entry.name):
            return
        if entry.name.endswith(".part"):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            remove_run_folder(entry)
    elif (
        stat.S_ISREG(kind) and entry.name != MARKER_FILE and _RUN_FILE_PATTERN.fullmatch(entry.name)
    ):
        entry.unlink()


def _open_marker(folder: Path) -> int:
    # not through a link; Windows has neither the word nor links that anybody may make
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.open(folder / MARKER_FILE, flags, 0o600)


def _write_marker(handle: int) -> None:
    """Write the mark into an empty file; what somebody else has written there stays."""
    if os.fstat(handle).st_size == 0:
        os.write(handle, _MARKER_PREFIX + b"\n" + format_lock_owner().encode() + b"\n")
