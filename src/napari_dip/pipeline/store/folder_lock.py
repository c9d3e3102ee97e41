"""Mark and lock the folder of a run; the marker proves its origin, the lock ends with the process.

Only files and folders that runs write are ever removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from napari_dip.io.atomic import write_atomically
from napari_dip.io.outputs import format_lock_owner, lock

if TYPE_CHECKING:
    from pathlib import Path

#: Name of the marker file in a run folder.
MARKER_FILE = "held"
#: First bytes of the marker file; a file without them is of other origin.
_MARKER_PREFIX = b"napari-dip: a run keeps its state here"
#: Maximum number of bytes of a marker file that are read.
_MAX_MARKER_BYTES = 4096
#: Names of files that runs write into their folders. Files with other names are never removed.
_RUN_FILE_PATTERN = re.compile(
    r"held|tiles\.json|lesson\.json|run\.json|checkpoint(-\d+)?|share[\w.-]*|(lesson)?begun[\w.-]*"
    r"|\d+\.json|[\w-]+(\.prediction)?\.npy|[\w-]+\.(weights|fit)"
    r"|(picture|deviation|residual)\.raw|\.napari-dip-[\w.-]+\.part"
)
#: Names of folders that runs create in their folders.
_RUN_FOLDER_PATTERN = re.compile(r"checkpoint(-\d+)?\.tiles|\.napari-dip-[\w.-]+\.part")


class FolderLock:
    """Lock a folder until the lock is released or the process ends.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If another process has locked the folder, or the disk is not writable or has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = _open_marker(folder)
        try:
            try:
                lock(self._handle)
            except (BlockingIOError, PermissionError):
                raise
            except OSError:  # network disks may not support locks; the marker is still written
                _write_marker(self._handle)
                raise
            _write_marker(self._handle)
        except OSError:
            os.close(self._handle)
            raise

    def release(self) -> None:
        """Release the lock; further calls have no effect."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def is_folder_locked(folder: Path) -> bool:
    """Return whether a running process, possibly this one, has locked a folder."""
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
    """Return whether a run created a folder, judged by its marker; links are not followed."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return False
        marker = folder / MARKER_FILE
        if not stat.S_ISREG(marker.lstat().st_mode):
            return False
        with marker.open("rb") as file:
            return file.read(_MAX_MARKER_BYTES).startswith(_MARKER_PREFIX)
    except OSError:
        return False


def make_run_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder with its marker atomically, unless it is a run folder already.

    Raises
    ------
    OSError
        If the folder cannot be created, or the path exists and is not a run folder.
    """
    if not os.path.lexists(folder):
        with (
            suppress(FileExistsError),  # another shard of the same run was faster
            write_atomically(folder, overwrite=False) as part,
        ):
            part.mkdir(mode=mode)
            handle = _open_marker(part)
            try:
                _write_marker(handle)
            finally:
                os.close(handle)
    if not is_run_folder(folder):
        why = "something of that name is there that is not of this program"
        raise FileExistsError(errno.EEXIST, why)


def empty_run_folder(folder: Path) -> None:
    """Remove the files of runs from a run folder; the marker and other files stay."""
    if not is_run_folder(folder):
        return
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            with suppress(OSError):
                _remove_run_entry(entry)


def remove_run_folder(folder: Path) -> None:
    """Remove a run folder; if it contains other files, keep it with them."""
    if not is_run_folder(folder):
        return
    empty_run_folder(folder)
    with suppress(OSError):
        if {entry.name for entry in folder.iterdir()} == {MARKER_FILE}:
            (folder / MARKER_FILE).unlink()
            folder.rmdir()


def _remove_run_entry(entry: Path) -> None:
    mode = entry.lstat().st_mode
    if stat.S_ISDIR(mode):
        if not _RUN_FOLDER_PATTERN.fullmatch(entry.name):
            return
        if entry.name.endswith(".part"):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            remove_run_folder(entry)
    elif (
        stat.S_ISREG(mode) and entry.name != MARKER_FILE and _RUN_FILE_PATTERN.fullmatch(entry.name)
    ):
        entry.unlink()


def _open_marker(folder: Path) -> int:
    # links are not followed; Windows lacks this flag, and users cannot create links there
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.open(folder / MARKER_FILE, flags, 0o600)


def _write_marker(handle: int) -> None:
    """Write the marker into an empty file; leave other content unchanged."""
    if os.fstat(handle).st_size == 0:
        os.write(handle, _MARKER_PREFIX + b"\n" + format_lock_owner().encode() + b"\n")
