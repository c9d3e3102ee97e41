"""Hash files to detect changes, and parse JSON from untrusted files strictly."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused
from napari_dip.io.paths import describe_exception

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Bytes hashed between two calls of `check`, which take some milliseconds.
_HASH_CHUNK_BYTES = 2**22
#: Flags against blocking on a pipe; Windows neither has nor needs `O_NONBLOCK`.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def compute_file_sha256(
    path: Path, check: Callable[[], object] = lambda: None, *, max_bytes: int | None = None
) -> str:
    """Hash the bytes of a file, or the names and hashes of all files in a folder.

    Parameters
    ----------
    path : Path
    check : callable
        Called between chunks and between files; may raise an exception to stop.
    max_bytes : int, optional
        Maximum size in bytes. If set, links are refused.

    Raises
    ------
    Refused
        If it cannot be read, is too large, is a pipe or device, or contains a forbidden link.
    """
    try:
        if path.is_symlink() and max_bytes is not None:
            raise OSError(errno.ELOOP, "it is a link")
        if path.is_dir():
            hasher = hashlib.sha256()
            for file_path in _list_files(path, max_bytes):
                check()
                digest = _hash_bytes(file_path, check)
                hasher.update(f"{file_path.relative_to(path).as_posix()}\0{digest}\n".encode())
            return hasher.hexdigest()
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise OSError(errno.EFBIG, "it is far larger than what was written")
        return _hash_bytes(path, check)
    except OSError as error:
        raise Refused("file-unreadable", path=path, why=describe_exception(error)) from None


def make_file_stamp(path: Path) -> str:
    """Return a stamp of a file that each write changes: size, modification time and inode.

    Returns
    -------
    str
        For a folder, a digest of the stamps of all its files; "" where a file is not accessible.
    """
    try:
        if not path.is_dir():
            return _format_stamp(path.stat())
        hasher = hashlib.sha256()
        for file_path in sorted(path for path in path.rglob("*") if path.is_file()):
            hasher.update(
                f"{file_path.relative_to(path).as_posix()}\0{_format_stamp(file_path.stat())}\n".encode()
            )
        return hasher.hexdigest()
    except OSError:
        return ""


def _format_stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _list_files(folder: Path, max_bytes: int | None) -> list[Path]:
    """List the files below a folder, sorted by path."""
    entries = sorted(folder.rglob("*"))
    if max_bytes is not None:
        if any(entry.is_symlink() for entry in entries):
            raise OSError(errno.ELOOP, "there is a link in it")
        if sum(entry.lstat().st_size for entry in entries) > max_bytes:
            raise OSError(errno.EFBIG, "it is far larger than what was written")
    return [entry for entry in entries if entry.is_file()]


def _hash_bytes(path: Path, check: Callable[[], object]) -> str:
    handle = os.open(path, _READ_FLAGS)
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device")
        hasher = hashlib.sha256()
        while chunk := file.read(_HASH_CHUNK_BYTES):
            hasher.update(chunk)
            if len(chunk) == _HASH_CHUNK_BYTES:
                check()
        return hasher.hexdigest()


def parse_strict_json(text: str) -> Any:
    """Parse JSON without duplicate names, NaN and infinity.

    Raises
    ------
    ValueError
        If the text is no such JSON, or is nested too deeply.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it gives '{duplicate[:100]}' twice")
    return fields
