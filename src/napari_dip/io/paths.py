"""Paths as people type them: what may lie behind one, told before anything opens it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.printable import printable

__all__ = [
    "REPORT_BYTES",
    "SETTINGS_BYTES",
    "check_working_folder",
    "fitting",
    "is_zarr",
    "look_at",
    "make_folder",
    "printable",
    "readable_file",
    "small_text",
    "target_of",
    "unsaved",
    "unwritable",
    "why_not",
    "why_not_taken",
]

#: Most bytes that a file of settings holds, and one that tells how a run went: a recipe has some
#: hundred bytes, the report of a movie of a thousand frames about ten million.
SETTINGS_BYTES, REPORT_BYTES = 2**20, 2**28
#: How addresses begin, also where a path was made of one; a drive of Windows has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
#: Errors that blame the path itself rather than what lies behind it.
_BAD_PATH = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
#: Bytes that a name has at most on nearly all disks.
_NAME_BYTES = 255
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BARRED = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: Faults by the errors that have a remedy of their own.
_UNSAVED = {
    **dict.fromkeys(_FULL, "disk-full"),
    **dict.fromkeys(_BARRED, "save-readonly"),
    **dict.fromkeys(_GONE, "save-gone"),
    errno.EEXIST: "save-taken",
    errno.ENAMETOOLONG: "save-name",
    errno.EFBIG: "save-large",
}
_UNWRITABLE = {
    **dict.fromkeys(_FULL, "output-full"),
    **dict.fromkeys(_BARRED, "output-readonly"),
    **dict.fromkeys(_GONE, "output-folder-missing"),
    errno.EEXIST: "folder-is-file",
    errno.ENAMETOOLONG: "path-wrong",
}


def fitting(name: str, room: int) -> str:
    """Shorten a file's name so that more can follow it; different names stay different.

    Parameters
    ----------
    name : str
    room : int
        Bytes that are to follow.
    """
    coded, most = os.fsencode(name), _NAME_BYTES - room
    if len(coded) <= most:
        return name
    digest = hashlib.sha256(coded).hexdigest()[:12]
    return f"{coded[: most - 13].decode('utf-8', 'ignore')}-{digest}"


def target_of(path: Path) -> Path:
    """Follow links to the file that is really written."""
    try:
        return Path(os.path.realpath(path))
    except OSError:  # the working folder was deleted
        return path


def check_working_folder() -> None:
    """Raise `Refused` if the folder that this process works in was deleted.

    PyTorch's libraries end a process there without a word.
    """
    try:
        os.getcwd()
    except OSError:
        raise Refused(refusal("folder-gone")) from None


def why_not(error: BaseException) -> str:
    """Say in a few words what an error says, fit for the middle of a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first = printable(text.strip().splitlines()[0] if text.strip() else type(error).__name__)
    first = first.rstrip(".")
    return first[:1].lower() + first[1:] if first[1:2].islower() else first


def unsaved(path: str | os.PathLike[str], error: Exception) -> Refusal:
    """Say that a file could not be saved, with what helps against this very error."""
    number = error.errno if isinstance(error, OSError) else None
    code = _UNSAVED.get(number or 0, "save-failed")
    return refusal(code, path=printable(os.fspath(path)), why=why_not_taken(error))


def make_folder(place: Path, *, parents: bool = False) -> None:
    """Make a folder that results go to; one that is there stays as it is.

    Raises
    ------
    Refused
        If it cannot be made.
    """
    try:
        place.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise Refused(unwritable(place, error)) from None


def unwritable(folder: str | os.PathLike[str], error: OSError) -> Refusal:
    """Say that a folder takes no files, with what helps against this very error."""
    shown = printable(os.fspath(folder))
    code = _UNWRITABLE.get(error.errno or 0, "output-failed")
    if code == "output-folder-missing" and os.path.isdir(folder):  # as '/proc' says it
        code = "output-readonly"
    return refusal(code, folder=shown, path=shown, why=why_not_taken(error))


def why_not_taken(error: Exception) -> str:
    """Say why a disk did not take something, which not all writers tell."""
    silent = isinstance(error, OSError) and not error.strerror
    return "the disk did not take it" if silent else why_not(error)


def look_at(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
    """Find out what lies behind a path; follows links.

    Returns
    -------
    Path, os.stat_result or None
        None where nothing lies there.

    Raises
    ------
    Refused
        If no file can have that name, or the way to it is barred.
    """
    text = os.fspath(path)
    if not text:
        raise Refused(refusal("path-empty"))
    shown = printable(text)
    try:
        return Path(text), os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        if _ADDRESS.match(text):
            raise Refused(refusal("path-url", path=shown, hint=_instead(text))) from None
        return Path(text), None
    except ValueError as error:
        raise Refused(refusal("path-wrong", path=shown, why=why_not(error))) from None
    except OSError as error:
        code = "path-wrong" if error.errno in _BAD_PATH else "file-unreadable"
        raise Refused(refusal(code, path=shown, why=why_not(error))) from None


def _instead(address: str) -> str:
    """Say what to name instead of an address."""
    from urllib.request import url2pathname  # brings all of HTTP along

    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return f"Give the path itself: '{printable(url2pathname(parts.path))}'."
    return "Download it, or mount the place where it lies, and give the path of the file."


def is_zarr(folder: Path) -> bool:
    """Whether a folder says that it is a Zarr, of either format."""
    with suppress(OSError, ValueError):  # a name that nothing can have; who opens it will say so
        return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))
    return False


def small_text(path: str | os.PathLike[str], kind: str, most: int) -> str:
    """Read a text file that is no longer than those of its kind are; a BOM is no part of it.

    Parameters
    ----------
    path : path
    kind : str
        What it should be, such as "a recipe".
    most : int
        Bytes that it may have.

    Raises
    ------
    Refused
        If it cannot be opened, or is longer.
    ValueError
        If it is no text in UTF-8, in words.
    """
    found, count = readable_file(path)
    shown = printable(str(found))
    if count > most:
        facts = {"size": f"{count / 1e6:.0f} MB", "kind": kind}
        raise Refused(refusal("file-long", path=shown, **facts))
    try:
        text = found.read_bytes().decode("utf-8")
        return text.removeprefix("\ufeff")  # a mark that editors of Windows put before it
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    except OSError as error:
        raise Refused(refusal("file-unreadable", path=shown, why=why_not(error))) from None


def readable_file(path: str | os.PathLike[str]) -> tuple[Path, int]:
    """Make sure that a path leads to a regular file with bytes in it.

    Returns
    -------
    Path, int
        The path and the size of the file in bytes.

    Raises
    ------
    Refused
        If it is missing, a folder, a pipe or device, empty, or cannot be opened.
    """
    found, status = look_at(path)
    shown = printable(str(found))
    if status is None:
        raise Refused(refusal("file-missing", path=shown))
    if stat.S_ISDIR(status.st_mode):
        raise Refused(refusal("file-is-folder", path=shown))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise Refused(refusal("file-type", path=shown, why="it is a pipe or a device"))
    if status.st_size == 0:
        raise Refused(refusal("file-empty", path=shown))
    try:
        with found.open("rb"):
            return found, status.st_size
    except OSError as error:
        raise Refused(refusal("file-unreadable", path=shown, why=why_not(error))) from None
