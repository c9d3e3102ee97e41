"""Check paths, read small texts and strict JSON, hash files, and expand patterns into files.

The module also turns operating-system errors into refusals with a remedy.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import stat
import unicodedata
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from napari_dip.errors import FailedError, Fault, Refusal, RefusedError, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from napari_dip.errors.notes import Note

#: Maximum bytes of a settings file: a recipe has some hundred.
MAX_SETTINGS_BYTES = 2**20
#: Maximum bytes of a report: that of a movie of a thousand frames has about ten million.
MAX_REPORT_BYTES = 2**28
#: Start of a URL, also after conversion to a path; a Windows drive has only one letter.
_URL_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
#: Errors caused by the path itself rather than by what it leads to.
_PATH_ERRNOS = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
#: Maximum bytes of a file name on nearly all file systems.
_MAX_NAME_BYTES = 255
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)
_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
#: Error number -> code of the fault with a remedy of its own.
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
#: Suffixes of images in a folder; a file that is named directly may have any suffix.
_INPUT_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".czi", ".nd2", ".lif")
#: Suffix of a folder that is one image.
FOLDER_SUFFIX = ".zarr"
#: Mark in the name of the image of an interrupted run.
PARTIAL_MARK = "partial"
#: Mark in the name of a result that could not be saved where it should be.
RESCUED_MARK = "rescued"
#: End of the name of a partial or rescued result, whose mark may be numbered.
_LEFTOVER_PATTERN = re.compile(rf"\.({PARTIAL_MARK}|{RESCUED_MARK})(-\d+)?(\.ome)?\.[a-z]+$", re.I)
_GLOB_CHARACTERS = frozenset("*?[")
#: Bytes hashed between two calls of `check`, which take some milliseconds.
_HASH_CHUNK_BYTES = 2**22
#: Flags against blocking on a pipe; Windows neither has nor needs `O_NONBLOCK`.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def shorten_name(name: str, suffix_bytes: int) -> str:
    """Shorten a file name so that a suffix fits; different names stay different.

    Parameters
    ----------
    name : str
    suffix_bytes : int
        Bytes reserved for the suffix.
    """
    encoded, max_bytes = os.fsencode(name), _MAX_NAME_BYTES - suffix_bytes
    if len(encoded) <= max_bytes:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: max_bytes - 13].decode('utf-8', 'ignore')}-{digest}"


def find_free_path(folder: str | os.PathLike[str], name: str, suffix: str = "") -> Path:
    """Return a path in a folder where nothing lies yet, with a number if necessary.

    Parameters
    ----------
    folder : path
    name : str
        Preferred name, not empty; characters that some file systems forbid become hyphens.
    suffix : str
        Added to the name.
    """
    stem = re.sub(r"[^\w ._-]", "-", name).strip(" .") or "-"
    path, number = Path(folder) / f"{stem}{suffix}", 2
    while os.path.lexists(path):
        path, number = Path(folder) / f"{stem}-{number}{suffix}", number + 1
    return path


def resolve_target(path: Path) -> Path:
    """Follow links to the file that is really written."""
    try:
        return Path(os.path.realpath(path))
    except OSError:  # the working folder was deleted
        return path


def check_working_folder() -> None:
    """Raise `RefusedError` if the working folder of this process was deleted.

    PyTorch's libraries would end the process there without a message.
    """
    try:
        os.getcwd()
    except OSError:
        raise RefusedError("folder-gone") from None


def describe_exception(error: BaseException) -> str:
    """Return a short description of an error, fit for the middle of a sentence."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first_line = next(iter(message.strip().splitlines()), type(error).__name__)
    description = make_printable(first_line).rstrip(".")
    return description[:1].lower() + description[1:] if description[1:2].islower() else description


@contextmanager
def convert_read_errors(path: Path) -> Iterator[None]:
    """Convert an error of the system while a file or folder is read to a `RefusedError`."""
    try:
        yield
    except OSError as error:
        raise RefusedError("file-unreadable", path=path, why=describe_exception(error)) from None


@contextmanager
def convert_save_errors(path: Path) -> Iterator[None]:
    """Convert an error of the system while a file is saved to a `FailedError` with a remedy."""
    try:
        yield
    except OSError as error:
        raise FailedError(make_save_fault(path, error)) from error


def make_save_fault(path: str | os.PathLike[str], error: Exception) -> Fault:
    """Return the fault of a file that could not be saved, with a remedy for this error."""
    number = error.errno if isinstance(error, OSError) else None
    code = _SAVE_FAULTS.get(number or 0, "save-failed")
    return Fault.make(code, path=path, why=describe_write_error(error))


def make_folder(folder: Path, *, makes_parents: bool = False) -> None:
    """Create a folder for results; keep an existing folder.

    Raises
    ------
    RefusedError
        If it cannot be created.
    """
    try:
        folder.mkdir(parents=makes_parents, exist_ok=True)
    except OSError as error:
        raise RefusedError(make_folder_refusal(folder, error)) from None


def make_folder_refusal(folder: str | os.PathLike[str], error: OSError) -> Refusal:
    """Return the refusal for a folder that cannot be written to, with a remedy for this error."""
    code = _OUTPUT_FAULTS.get(error.errno or 0, "output-failed")
    if code == "output-folder-missing" and os.path.isdir(folder):  # '/proc' reports it as missing
        code = "output-readonly"
    return make_refusal(code, folder=folder, path=folder, why=describe_write_error(error))


def describe_write_error(error: Exception) -> str:
    """Describe a write error, also where the error itself has no text."""
    has_no_text = isinstance(error, OSError) and not error.strerror
    return "the disk did not take it" if has_no_text else describe_exception(error)


def stat_path(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result | None]:
    """Return a path and its status, with links followed.

    Returns
    -------
    Path, os.stat_result or None
        None where nothing exists there.

    Raises
    ------
    RefusedError
        If no file can have that name, or the path is not accessible.
    """
    typed_path = os.fspath(path)
    if not typed_path:
        raise RefusedError("path-empty")
    try:
        return Path(typed_path), os.stat(typed_path)
    except (FileNotFoundError, NotADirectoryError):
        if _URL_PATTERN.match(typed_path):
            raise RefusedError(
                "path-url", path=typed_path, hint=_suggest_local_path(typed_path)
            ) from None
        return Path(typed_path), None
    except ValueError as error:
        raise RefusedError("path-wrong", path=typed_path, why=describe_exception(error)) from None
    except OSError as error:
        code = "path-wrong" if error.errno in _PATH_ERRNOS else "file-unreadable"
        raise RefusedError(code, path=typed_path, why=describe_exception(error)) from None


def _suggest_local_path(address: str) -> str:
    """Return a hint on what to use instead of a URL."""
    from urllib.request import url2pathname  # imports all of HTTP

    url = urlsplit(address)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        return f"Give the path itself: '{make_printable(url2pathname(url.path))}'."
    return "Download it, or mount the place where it lies, and give the path of the file."


def is_zarr(folder: Path) -> bool:
    """Return whether a folder holds the metadata of a Zarr, of either format."""
    with suppress(OSError, ValueError):  # an impossible name; opening it reports the error
        return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))
    return False


def split_field_path(path: Path) -> tuple[Path, str]:
    """Split the path of a field of a plate into those of the plate and of the field in it.

    Returns
    -------
    plate : Path
        The path itself if it is no field: PLATE.zarr/ROW/COLUMN/FIELD.
    field : str
        "A/1/0", or "".
    """
    plate = path.parents[2] if len(path.parents) > 2 else path
    if plate.suffix.lower() != FOLDER_SUFFIX or path.suffix:
        return path, ""
    return plate, path.relative_to(plate).as_posix()


def is_zarr_path(path: Path) -> bool:
    """Return whether a path is that of an OME-Zarr, or of a field of a plate, by its name."""
    return split_field_path(path)[0].suffix.lower() == FOLDER_SUFFIX


def read_small_text(path: str | os.PathLike[str], kind: str, max_bytes: int) -> str:
    """Read a text file in UTF-8, without its BOM, up to a maximum size.

    Parameters
    ----------
    path : path
    kind : str
        What the file should be, such as "a recipe".
    max_bytes : int
        Maximum size in bytes.

    Raises
    ------
    RefusedError
        If it cannot be opened, or is larger.
    ValueError
        If it is not valid UTF-8.
    """
    file_path, count = stat_readable_file(path)
    if count > max_bytes:
        raise RefusedError("file-long", path=file_path, size=f"{count / 1e6:.0f} MB", kind=kind)
    with convert_read_errors(file_path):
        content = file_path.read_bytes()
    try:
        return content.decode("utf-8").removeprefix("\ufeff")  # the BOM that Windows editors add
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None


def stat_readable_file(path: str | os.PathLike[str]) -> tuple[Path, int]:
    """Check that a path leads to a regular file that is not empty and can be opened.

    Returns
    -------
    Path, int
        The path and the size of the file in bytes.

    Raises
    ------
    RefusedError
        If it is missing, a folder, a pipe or device, empty, or cannot be opened.
    """
    file_path, status = stat_path(path)
    if status is None:
        raise RefusedError("file-missing", path=file_path)
    if stat.S_ISDIR(status.st_mode):
        raise RefusedError("file-is-folder", path=file_path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        raise RefusedError("file-type", path=file_path, why="it is a pipe or a device")
    if status.st_size == 0:
        raise RefusedError("file-empty", path=file_path)
    with convert_read_errors(file_path), file_path.open("rb"):
        return file_path, status.st_size


def compute_file_sha256(
    path: Path, check: Callable[[], object] = lambda: None, *, max_bytes: int | None = None
) -> str:
    """Hash the bytes of a file, or the names and hashes of all files in a folder.

    Parameters
    ----------
    path : Path
    check : callable
        Called before each chunk is hashed; may raise an exception to stop.
    max_bytes : int, optional
        Maximum size in bytes. If set, links are refused.

    Raises
    ------
    RefusedError
        If it cannot be read, is too large, is a pipe or device, or contains a forbidden link.
    """
    with convert_read_errors(path):
        if path.is_symlink() and max_bytes is not None:
            raise OSError(errno.ELOOP, "it is a link")
        if path.is_dir():
            files = _list_files(path, max_bytes)
            return _hash_folder(path, files, partial(_hash_bytes, check=check))
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise OSError(errno.EFBIG, "it is far larger than what was written")
        return _hash_bytes(path, check)


def make_file_stamp(path: Path) -> str:
    """Return a stamp of a file that each write changes: size, modification time and inode.

    Returns
    -------
    str
        For a folder, a digest of the stamps of all its files; "" where a file is not accessible.
    """
    try:
        if path.is_dir():
            return _hash_folder(path, _list_files(path, None), _format_stamp)
        return _format_stamp(path)
    except OSError:
        return ""


def _format_stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _hash_folder(folder: Path, files: Iterable[Path], describe: Callable[[Path], str]) -> str:
    """Hash the relative paths of files, each with its description."""
    hasher = hashlib.sha256()
    for path in files:
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{describe(path)}\n".encode())
    return hasher.hexdigest()


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
            check()
            hasher.update(chunk)
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
            text, parse_constant=_reject_constant, object_pairs_hook=_make_unique_fields
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        why = f"it is not valid JSON at {place} ({error.msg[:1].lower()}{error.msg[1:]})"
        raise ValueError(why) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _make_unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it gives '{duplicate[:100]}' twice")
    return fields


def expand_input_paths(
    inputs: Iterable[str | os.PathLike[str]], results: Path
) -> tuple[tuple[Path, ...], tuple[Note, ...]]:
    """Expand folders and patterns into input files.

    A folder stands for the images directly in it. A pattern stands for all files that it matches,
    with ``**`` for any folders. Neither stands for partial and rescued results. A file that is
    named directly is passed on unchecked; reading its header reports errors.

    Parameters
    ----------
    inputs : iterable of path or pattern
    results : Path
        Folder of the results; folders and patterns never match its files.

    Returns
    -------
    files : tuple of Path
        In the order of the inputs; those of one folder or pattern sorted by name.
    notes : tuple of Note
        One for each folder that also holds other files, or partial or rescued results.

    Raises
    ------
    RefusedError
        If there are no inputs, a folder or pattern matches nothing, or all matches are results.
    """
    files: dict[str, Path] = {}
    notes: list[Note] = []
    results_folder = os.path.realpath(results)
    patterns = [os.fspath(match) for match in inputs]
    if not patterns:
        raise RefusedError("batch-none")
    for pattern in patterns:
        # a file may have such a name, too
        if _GLOB_CHARACTERS & set(pattern) and not os.path.lexists(pattern):
            matches = sorted(Path(path) for path in glob.glob(pattern, recursive=True))
            matches = [match for match in matches if _is_image(match) or not match.is_dir()]
        else:
            input_path, status = stat_path(pattern)
            if status is None or not input_path.is_dir() or _is_image(input_path):
                files.setdefault(os.path.realpath(input_path), input_path)
                continue
            matches, skipped_count = _list_folder_images(input_path)
            if skipped_count:
                notes.append(make_note("files-skipped", count=skipped_count, folder=pattern))
        if leftovers := [match.name for match in matches if _LEFTOVER_PATTERN.search(match.name)]:
            matches = [match for match in matches if match.name not in leftovers]
            names = make_printable(", ".join(leftovers))
            notes.append(make_note("leftovers-skipped", folder=pattern, names=names))
        if not matches:
            raise RefusedError("batch-empty", pattern=pattern)
        input_paths = [
            match for match in matches if os.path.realpath(match.parent) != results_folder
        ]
        if not input_paths:
            raise RefusedError("output-among-inputs", folder=results)
        for input_path in input_paths:
            files.setdefault(os.path.realpath(input_path), input_path)
    return tuple(files.values()), tuple(notes)


def make_result_name(source: Path) -> str:
    """Return the file name of a result: as the input, but with the suffix of TIFF or OME-TIFF.

    For a field of a plate, it is the path "plate/field" with the names of the input.
    """
    plate, field = split_field_path(source)
    if field:
        return f"{plate.name}/{field}"
    name, lower_name = source.name, source.name.lower()
    for suffix in (*_INPUT_SUFFIXES, FOLDER_SUFFIX):
        if lower_name.endswith(".ome" + suffix):
            return name[: -len(".ome" + suffix)] + ".ome.tif"
        if lower_name.endswith(suffix):
            return name[: -len(suffix)] + ".tif"
    return shorten_name(name, len(".tif")) + ".tif"


def fold_name(name: str) -> str:
    """Return the same text for all names that are one file on some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def check_names_differ(sources: Iterable[Path]) -> None:
    """Check that the results of all inputs get different names, on any file system.

    Raises
    ------
    RefusedError
        If the results of two inputs have names that differ only in case or in the encoding of
        accents. The message names these two inputs.
    """
    sources_by_key: dict[str, Path] = {}
    for source in sources:
        name = make_result_name(source)
        key = fold_name(name)
        if key in sources_by_key:
            raise RefusedError("batch-names", first=sources_by_key[key], second=source, name=name)
        sources_by_key[key] = source


def _is_image(folder: Path) -> bool:
    return folder.suffix.lower() == FOLDER_SUFFIX


def _list_folder_images(folder: Path) -> tuple[list[Path], int]:
    """List the images in a folder by name and count the other files; ignore hidden files."""
    with convert_read_errors(folder):
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [entry for entry in entries if _is_image(entry) or not entry.is_dir()]
    images = [file for file in files if _is_image(file) or file.suffix.lower() in _INPUT_SUFFIXES]
    return images, len(files) - len(images)
