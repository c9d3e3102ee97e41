"""Paths as people type them: what may lie behind one, told before anything opens it.

From what was typed to files: folders and patterns spelled out, in order, each file once.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import stat
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.errors.notes import Note

__all__ = [
    "MAX_REPORT_BYTES",
    "MAX_SETTINGS_BYTES",
    "check_readable_file",
    "check_working_folder",
    "describe_exception",
    "describe_write_error",
    "is_zarr",
    "make_folder",
    "make_folder_refusal",
    "make_printable",
    "make_save_refusal",
    "read_small_text",
    "resolve_target",
    "shorten_name",
    "stat_path",
]
#: Most bytes that a file of settings holds, and one that tells how a run went: a recipe has some
#: hundred bytes, the report of a movie of a thousand frames about ten million.
MAX_SETTINGS_BYTES, MAX_REPORT_BYTES = 2**20, 2**28
#: How addresses begin, also where a path was made of one; a drive of Windows has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
#: Errors that blame the path itself rather than what lies behind it.
_PATH_ERRNOS = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
#: Bytes that a name has at most on nearly all disks.
_MAX_NAME_BYTES = 255
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)
_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: Faults by the errors that have a remedy of their own.
_SAVE_FAULTS = {
    **dict.fromkeys(_DISK_FULL_ERRNOS, "disk-full"),
    **dict.fromkeys(_READ_ONLY_ERRNOS, "save-readonly"),
    **dict.fromkeys(_MISSING_ERRNOS, "save-gone"),
    errno.EEXIST: "save-taken",
    errno.ENAMETOOLONG: "save-name",
    errno.EFBIG: "save-large",
}
_OUTPUT_FAULTS = {
    **dict.fromkeys(_DISK_FULL_ERRNOS, "output-full"),
    **dict.fromkeys(_READ_ONLY_ERRNOS, "output-readonly"),
    **dict.fromkeys(_MISSING_ERRNOS, "output-folder-missing"),
    errno.EEXIST: "folder-is-file",
    errno.ENAMETOOLONG: "path-wrong",
}


def shorten_name(name: str, room: int) -> str:
    """Shorten a file's name so that more can follow it; different names stay different.

    Parameters
    ----------
    name : str
    room : int
        Bytes that are to follow.
    """
    coded, most = os.fsencode(name), _MAX_NAME_BYTES - room
    if len(coded) <= most:
        return name
    digest = hashlib.sha256(coded).hexdigest()[:12]
    return f"{coded[: most - 13].decode('utf-8', 'ignore')}-{digest}"


def resolve_target(path: Path) -> Path:
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


def describe_exception(error: BaseException) -> str:
    """Say in a few words what an error says, fit for the middle of a sentence."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first = make_printable(text.strip().splitlines()[0] if text.strip() else type(error).__name__)
    first = first.rstrip(".")
    return first[:1].lower() + first[1:] if first[1:2].islower() else first


def make_save_refusal(path: str | os.PathLike[str], error: Exception) -> Refusal:
    """Say that a file could not be saved, with what helps against this very error."""
    number = error.errno if isinstance(error, OSError) else None
    code = _SAVE_FAULTS.get(number or 0, "save-failed")
    return refusal(code, path=make_printable(os.fspath(path)), why=describe_write_error(error))


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
        raise Refused(make_folder_refusal(place, error)) from None


def make_folder_refusal(folder: str | os.PathLike[str], error: OSError) -> Refusal:
    """Say that a folder takes no files, with what helps against this very error."""
    printable = make_printable(os.fspath(folder))
    code = _OUTPUT_FAULTS.get(error.errno or 0, "output-failed")
    if code == "output-folder-missing" and os.path.isdir(folder):  # as '/proc' says it
        code = "output-readonly"
    return refusal(code, folder=printable, path=printable, why=describe_write_error(error))


def describe_write_error(error: Exception) -> str:
    """Say why a disk did not take something, which not all writers tell."""
    silent = isinstance(error, OSError) and not error.strerror
    return "the disk did not take it" if silent else describe_exception(error)


def stat_path(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
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
    printable = make_printable(text)
    try:
        return Path(text), os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        if _ADDRESS.match(text):
            raise Refused(
                refusal("path-url", path=printable, hint=_suggest_local_path(text))
            ) from None
        return Path(text), None
    except ValueError as error:
        raise Refused(
            refusal("path-wrong", path=printable, why=describe_exception(error))
        ) from None
    except OSError as error:
        code = "path-wrong" if error.errno in _PATH_ERRNOS else "file-unreadable"
        raise Refused(refusal(code, path=printable, why=describe_exception(error))) from None


def _suggest_local_path(address: str) -> str:
    """Say what to name instead of an address."""
    from urllib.request import url2pathname  # brings all of HTTP along

    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return f"Give the path itself: '{make_printable(url2pathname(parts.path))}'."
    return "Download it, or mount the place where it lies, and give the path of the file."


def is_zarr(folder: Path) -> bool:
    """Whether a folder says that it is a Zarr, of either format."""
    with suppress(OSError, ValueError):  # a name that nothing can have; who opens it will say so
        return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))
    return False


def read_small_text(path: str | os.PathLike[str], kind: str, most: int) -> str:
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
    place, count = check_readable_file(path)
    printable = make_printable(str(place))
    if count > most:
        facts = {"size": f"{count / 1e6:.0f} MB", "kind": kind}
        raise Refused(refusal("file-long", path=printable, **facts))
    try:
        text = place.read_bytes().decode("utf-8")
        return text.removeprefix("\ufeff")  # a mark that editors of Windows put before it
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    except OSError as error:
        raise Refused(
            refusal("file-unreadable", path=printable, why=describe_exception(error))
        ) from None


def check_readable_file(path: str | os.PathLike[str]) -> tuple[Path, int]:
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
    place, status = stat_path(path)
    printable = make_printable(str(place))
    if status is None:
        raise Refused(refusal("file-missing", path=printable))
    if stat.S_ISDIR(status.st_mode):
        raise Refused(refusal("file-is-folder", path=printable))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise Refused(refusal("file-type", path=printable, why="it is a pipe or a device"))
    if status.st_size == 0:
        raise Refused(refusal("file-empty", path=printable))
    try:
        with place.open("rb"):
            return place, status.st_size
    except OSError as error:
        raise Refused(
            refusal("file-unreadable", path=printable, why=describe_exception(error))
        ) from None


#: What counts as an image in a folder; a file that is named by itself may be called anything.
_INPUT_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".czi", ".nd2", ".lif")
#: A folder that is one image.
_FOLDER_INPUT_SUFFIX = ".zarr"
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFiles:
    """The files that were meant.

    Attributes
    ----------
    files : tuple of Path
        As they were named, in that order; those of one folder or pattern by their names.
    notes : tuple of Note
        One for each folder that holds something else as well.
    """

    files: tuple[Path, ...]
    notes: tuple[Note, ...] = ()


def gather(inputs: Iterable[str | os.PathLike[str]], results: Path) -> InputFiles:
    """Spell out folders and patterns.

    A folder stands for the images that lie in it, not for those in folders below; a pattern for
    all files that it matches, with ``**`` for any folders. A file that is named by itself is
    taken as it is, whether it exists or not: reading its header will tell.

    Parameters
    ----------
    inputs : iterable of path or pattern
    results : Path
        The folder of the results, whose files never become inputs by folder or pattern.

    Raises
    ------
    Refused
        If nothing was named, a folder or pattern comes to nothing, or the results would lie among
        the inputs.
    """
    files: dict[str, Path] = {}
    notes: list[Note] = []
    own = os.path.realpath(results)
    named = [os.fspath(item) for item in inputs]
    if not named:
        raise Refused(refusal("batch-none"))
    for text in named:
        if _GLOB_CHARACTERS & set(text) and not os.path.lexists(
            text
        ):  # a file may have such a name, too
            meant = sorted(Path(path) for path in glob.glob(text, recursive=True))
            meant = [item for item in meant if _is_image(item) or not item.is_dir()]
        else:
            place, status = stat_path(text)
            if status is None or not place.is_dir() or _is_image(place):
                files.setdefault(os.path.realpath(place), place)
                continue
            meant, remaining = _list_folder_images(place)
            if remaining:
                notes.append(
                    make_note("files-skipped", count=remaining, folder=make_printable(text))
                )
        if not meant:
            raise Refused(refusal("batch-empty", pattern=make_printable(text)))
        apart = [item for item in meant if os.path.realpath(item.parent) != own]
        if not apart:
            raise Refused(refusal("batch-among", folder=make_printable(str(results))))
        for entry in apart:
            files.setdefault(os.path.realpath(entry), entry)
    return InputFiles(files=tuple(files.values()), notes=tuple(notes))


def make_result_name(source: Path) -> str:
    """Name the result of a file, in a folder of its own: as the input, but TIFF or OME-TIFF."""
    name, low = source.name, source.name.lower()
    for suffix in (*_INPUT_SUFFIXES, _FOLDER_INPUT_SUFFIX):
        if low.endswith(".ome" + suffix):
            return name[: -len(".ome" + suffix)] + ".ome.tif"
        if low.endswith(suffix):
            return name[: -len(suffix)] + ".tif"
    return shorten_name(name, len(".tif")) + ".tif"


def check_names_differ(sources: Iterable[Path]) -> None:
    """Refuse inputs whose results would have one name, on whichever disk they are written.

    Raises
    ------
    Refused
        With the first two of them; capitals and ways to code an accent do not tell names apart.
    """
    earlier: dict[str, Path] = {}
    for source in sources:
        name = make_result_name(source)
        place = unicodedata.normalize("NFC", name).casefold()
        if place in earlier:
            pair = {
                "first": make_printable(str(earlier[place])),
                "second": make_printable(str(source)),
            }
            raise Refused(refusal("batch-names", **pair, name=make_printable(name)))
        earlier[place] = source


def _is_image(folder: Path) -> bool:
    return folder.suffix.lower() == _FOLDER_INPUT_SUFFIX


def _list_folder_images(folder: Path) -> tuple[list[Path], int]:
    """List the images in a folder by name, and count the other files; hidden ones are neither."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        facts = {"path": make_printable(str(folder)), "why": describe_exception(error)}
        raise Refused(refusal("file-unreadable", **facts)) from None
    files = [entry for entry in entries if _is_image(entry) or not entry.is_dir()]
    images = [file for file in files if _is_image(file) or file.suffix.lower() in _INPUT_SUFFIXES]
    return images, len(files) - len(images)
