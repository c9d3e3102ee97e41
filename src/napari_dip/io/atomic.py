"""Write a file or a folder completely or not at all.

It is written under a temporary name in the same folder and synced to the disk. It then replaces the
earlier one in one step, so that a crash never leaves a partial result.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_TEMPORARY_NAME_PATTERN = re.compile(r"\.napari-dip-([0-9a-f]{12})-(\d+)-[0-9a-f]{16}\.part")


@contextmanager
def write_atomically(
    path: Path, *, overwrite: bool, check: Callable[[], object] = lambda: None
) -> Iterator[Path]:
    """Yield a temporary path, and move the file or folder that is written there to its place.

    After any error, what was written is removed, and an earlier file stays unchanged.

    Parameters
    ----------
    path : Path
        A symbolic link of that name is never replaced.
    overwrite : bool
        Whether an earlier file or folder may be replaced. A file keeps its permissions.
    check : callable
        Called immediately before the move. It raises OSError if the earlier one must stay.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    # A folder of an unpredictable name, so that nobody can place a link there. It also takes what
    # libraries leave next to a file that they could not finish.
    temporary_folder = path.with_name(make_temporary_name())
    temporary_folder.mkdir(mode=0o700)
    try:
        temporary_path = temporary_folder / "part"
        yield temporary_path
        _sync_files(temporary_path)
        check()
        if path.is_symlink():
            raise FileExistsError(errno.EEXIST, "a link of that name appeared meanwhile")
        if temporary_path.is_dir():
            _move_folder(temporary_path, path, overwrite)
        else:
            _move_file(temporary_path, path, overwrite)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary_folder, ignore_errors=True)


def make_temporary_name() -> str:
    """Return a random name for a file or folder in progress, with computer and process id."""
    return f".napari-dip-{_identify_computer()}-{os.getpid()}-{secrets.token_hex(8)}.part"


def is_abandoned(name: str) -> bool:
    """Return whether a temporary name is that of a process of this computer that has ended."""
    import psutil

    match = _TEMPORARY_NAME_PATTERN.fullmatch(name)
    return (
        match is not None
        and match[1] == _identify_computer()
        and not psutil.pid_exists(int(match[2]))
    )


@cache
def _identify_computer() -> str:
    """Return a digest of the host name and, for containers, of the process namespace."""
    identity = socket.gethostname()
    with suppress(OSError):
        identity += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _move_file(temporary_path: Path, path: Path, overwrite: bool) -> None:
    """Move a file; without `overwrite`, only if no other appeared there in the meantime."""
    if overwrite:
        with suppress(FileNotFoundError):
            os.chmod(temporary_path, path.lstat().st_mode & 0o777)
        os.replace(temporary_path, path)
        return
    try:
        os.link(temporary_path, path)
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "a file of that name appeared meanwhile") from None
        os.replace(temporary_path, path)


def _move_folder(temporary_path: Path, path: Path, overwrite: bool) -> None:
    """Move a folder; remove an earlier one after that."""
    earlier = path.with_name(make_temporary_name().replace(".part", ".earlier"))
    is_replaced = os.path.lexists(path)
    try:
        if is_replaced and not overwrite:
            raise FileExistsError
        if is_replaced:
            os.rename(path, earlier)
        os.rename(temporary_path, path)
    except OSError as error:
        with suppress(OSError):
            os.rename(earlier, path)
        if os.path.lexists(path) and not overwrite:
            why = "something of that name is there and would be lost"
            raise FileExistsError(errno.EEXIST, why) from error
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _sync_files(temporary_path: Path) -> None:
    """Sync a file, or all files in a folder, so that a crash after the move leaves no empty one."""
    for path in (temporary_path, *temporary_path.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync a folder, where the system allows to open it, so that the new name is on the disk."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
