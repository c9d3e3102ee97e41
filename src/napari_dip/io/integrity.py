"""Hashes of files: whether one is still what it was.

JSON that a stranger may have written, read as the standard has it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import describe_exception

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Bytes that are hashed between two questions whether to go on: some milliseconds' worth.
_HASH_CHUNK_BYTES = 2**22
#: Opening a pipe would wait for ever without this, which Windows neither knows nor needs.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def compute_file_sha256(
    path: Path, check: Callable[[], object] = lambda: None, *, most: int | None = None
) -> str:
    """Hash a file's bytes; of a folder, the names and hashes of all files in it, in order.

    Parameters
    ----------
    path : Path
    check : callable
        Called between two parts of a file, and between two files; raises what is to end it.
    most : int, optional
        Bytes that it may hold. If it is given, no link is followed.

    Raises
    ------
    Refused
        If it cannot be read, holds more, is a pipe or a device, or has links where none may be.
    """
    try:
        if path.is_symlink() and most is not None:
            raise OSError(errno.ELOOP, "it is a link")
        if path.is_dir():
            whole = hashlib.sha256()
            for inner in _list_files(path, most):
                check()
                details = _hash_bytes(inner, check)
                whole.update(f"{inner.relative_to(path).as_posix()}\0{details}\n".encode())
            return whole.hexdigest()
        if most is not None and path.stat().st_size > most:
            raise OSError(errno.EFBIG, "it is far larger than what was written")
        return _hash_bytes(path, check)
    except OSError as error:
        facts = {"path": make_printable(str(path)), "why": describe_exception(error)}
        raise Refused(refusal("file-unreadable", **facts)) from None


def make_file_stamp(path: Path) -> str:
    """Name what a write to a file changes: its size, its time, and which file it is.

    Returns
    -------
    str
        Of a folder, a digest of that of all files in it; "" where nothing can be looked at.
    """
    try:
        if not path.is_dir():
            return _format_stamp(path.stat())
        whole = hashlib.sha256()
        for inner in sorted(path for path in path.rglob("*") if path.is_file()):
            whole.update(
                f"{inner.relative_to(path).as_posix()}\0{_format_stamp(inner.stat())}\n".encode()
            )
        return whole.hexdigest()
    except OSError:
        return ""


def _format_stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _list_files(folder: Path, most: int | None) -> list[Path]:
    """List the files below a folder, in order."""
    inner = sorted(folder.rglob("*"))
    if most is not None:
        if any(item.is_symlink() for item in inner):
            raise OSError(errno.ELOOP, "there is a link in it")
        if sum(item.lstat().st_size for item in inner) > most:
            raise OSError(errno.EFBIG, "it is far larger than what was written")
    return [item for item in inner if item.is_file()]


def _hash_bytes(path: Path, check: Callable[[], object]) -> str:
    handle = os.open(path, _READ_FLAGS)
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device")
        whole = hashlib.sha256()
        while part := file.read(_HASH_CHUNK_BYTES):
            whole.update(part)
            if len(part) == _HASH_CHUNK_BYTES:
                check()
        return whole.hexdigest()


def parse_strict_json(text: str) -> Any:
    """Read JSON in which each name stands once and all numbers are finite.

    Raises
    ------
    ValueError
        If it is no such JSON, or nested more deeply than anything of ours.
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
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it gives '{twice[:100]}' twice")
    return fields
