"""Hashes of files: whether one is still what it was."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable, why_not

if TYPE_CHECKING:
    import os
    from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hash a file's bytes; of a folder, the names and hashes of all files in it, in order.

    Raises
    ------
    Refused
        If it cannot be read.
    """
    try:
        if path.is_dir():
            whole = hashlib.sha256()
            for inner in sorted(one for one in path.rglob("*") if one.is_file()):
                whole.update(f"{inner.relative_to(path).as_posix()}\0{_bytes(inner)}\n".encode())
            return whole.hexdigest()
        return _bytes(path)
    except OSError as error:
        facts = {"path": printable(str(path)), "why": why_not(error)}
        raise Refused(refusal("file-unreadable", **facts)) from None


def stamp_of(path: Path) -> str:
    """Name what a write to a file changes: its size, its time, and which file it is.

    Returns
    -------
    str
        Of a folder, a digest of that of all files in it; "" where nothing can be looked at.
    """
    try:
        if not path.is_dir():
            return _stamp(path.stat())
        whole = hashlib.sha256()
        for inner in sorted(one for one in path.rglob("*") if one.is_file()):
            whole.update(f"{inner.relative_to(path).as_posix()}\0{_stamp(inner.stat())}\n".encode())
        return whole.hexdigest()
    except OSError:
        return ""


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _bytes(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
