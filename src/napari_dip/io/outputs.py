"""Check where results can be written, lock them against other runs, and remove abandoned files.

A lock ends with the process that holds it. Parts that a killed process left behind are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import sys
from contextlib import ExitStack, contextmanager, suppress
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_dip.errors import FailedError, RefusedError, make_refusal
from napari_dip.errors.templates import format_bytes
from napari_dip.io.atomic import is_abandoned, make_temporary_name
from napari_dip.io.paths import (
    FOLDER_SUFFIX,
    fold_name,
    make_folder_refusal,
    resolve_target,
    stat_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from napari_dip.errors import Refusal

Checked = TypeVar("Checked")

#: Offset of the locked byte on Windows, which lets nobody else read it: beyond all content.
_WINDOWS_LOCK_OFFSET = 2**30
#: Maximum bytes read from a lock file, which names one process.
_MAX_LOCK_BYTES = 1000
#: Maximum number of attempts to lock a file that others keep removing. After that, the file system
#: is taken to support no locks.
_MAX_LOCK_ATTEMPTS = 100
#: Flags against following links and blocking on a pipe; Windows has neither.
_LOCK_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
IMAGE_SUFFIXES = (".tif", ".tiff", ".zarr")
JSON_SUFFIXES = (".json",)
NETWORK_SUFFIXES = (".safetensors", ".zip")
#: Suffixes that an output may have -> code of the refusal of another one.
_SUFFIX_FAULTS = {
    IMAGE_SUFFIXES: "output-type",
    JSON_SUFFIXES: "output-json",
    NETWORK_SUFFIXES: "output-network",
}
#: Allowed suffixes of the outputs that are no images, by name.
SUFFIXES_BY_OUTPUT: dict[str, tuple[str, ...]] = {
    "report": JSON_SUFFIXES,
    "recipe": JSON_SUFFIXES,
    "save_network": NETWORK_SUFFIXES,
}


class OutputLock:
    """Lock a result against other runs, on this computer and on others that share its disk.

    Parameters
    ----------
    path : path of the result
        A hidden file next to it is locked. Without support for locks on the disk, nothing is.

    Raises
    ------
    RefusedError
        If a running process has locked it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lock_path = find_lock_path(path)
        self._handle = -1
        for _ in range(_MAX_LOCK_ATTEMPTS):
            try:
                handle = os.open(self._lock_path, _LOCK_FLAGS | os.O_CREAT, 0o666)
            except OSError:
                return
            try:
                lock_file(handle)
            except (BlockingIOError, PermissionError):
                raise RefusedError(_make_busy_refusal(path, handle)) from None
            except OSError:
                os.close(handle)
                return
            if _is_file_at(handle, self._lock_path):  # its last owner may have removed it
                self._handle = handle
                with suppress(OSError):
                    os.ftruncate(handle, 0)
                    os.write(handle, format_lock_owner().encode())
                return
            os.close(handle)

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            _release_lock_file(handle, self._lock_path)


@contextmanager
def lock_outputs(check: Callable[[], Checked], *paths: str | os.PathLike[str]) -> Iterator[Checked]:
    """Check where results go, lock them, and check again: another run may have ended just now.

    Yields
    ------
    object
        What the second check returned.

    Raises
    ------
    RefusedError
        If the check refuses, or a running process has locked a path.
    """
    check()
    with ExitStack() as locks:
        for path in paths:
            locks.enter_context(OutputLock(path))
        yield check()


def check_unlocked(path: str | os.PathLike[str]) -> None:
    """Raise `RefusedError` if another process has locked a result; create no file."""
    try:
        handle = os.open(find_lock_path(path), _LOCK_FLAGS)
    except OSError:
        return
    try:
        lock_file(handle)
    except (BlockingIOError, PermissionError):
        if _read_lock_owner(handle) != (os.getpid(), socket.gethostname()):
            raise RefusedError(_make_busy_refusal(path, handle)) from None
    except OSError:
        pass
    os.close(handle)


def remove_if_free(lock_path: Path) -> None:
    """Remove a lock file that no running process holds."""
    with suppress(OSError):
        handle = os.open(lock_path, _LOCK_FLAGS)
        try:
            is_free = _read_lock_owner(handle) is not None
            lock_file(handle)
        except OSError:
            is_free = False
        if is_free and _is_file_at(handle, lock_path):
            _release_lock_file(handle, lock_path)
        else:
            os.close(handle)


def find_lock_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of the lock file of a result, the same for all paths to that result."""
    target = resolve_target(Path(path))
    digest = hashlib.sha256(os.path.normcase(target.name).encode("utf-8", "surrogateescape"))
    return target.parent / f".napari-dip-{digest.hexdigest()[:16]}.lock"


def lock_file(handle: int) -> None:
    """Lock an open file, or raise.

    Parameters
    ----------
    handle : int
        File descriptor; closing it releases the lock.

    Raises
    ------
    BlockingIOError, PermissionError
        If another process has locked the file.
    OSError
        If the file system supports no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _WINDOWS_LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def format_lock_owner() -> str:
    """Return process id and host name of this process, as one line of JSON."""
    return json.dumps({"process": os.getpid(), "host": socket.gethostname()})


def _read_lock_owner(handle: int) -> tuple[int, str] | None:
    """Read process id and host name of a lock's owner; None where the content is not ours."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        os.lseek(handle, 0, os.SEEK_SET)
        data = json.loads(os.read(handle, _MAX_LOCK_BYTES))
        return int(data["process"]), str(data["host"])
    return None


def _make_busy_refusal(path: str | os.PathLike[str], handle: int) -> Refusal:
    process, host = _read_lock_owner(handle) or ("unknown", "unknown")
    os.close(handle)
    return make_refusal("output-busy", path=path, process=process, host=host)


def _is_file_at(handle: int, lock_path: Path) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), lock_path.lstat())
    except OSError:
        return False


def _release_lock_file(handle: int, lock_path: Path) -> None:
    """Remove and unlock the file; Windows cannot remove an open file."""
    if sys.platform == "win32":
        os.close(handle)
    with suppress(OSError):
        lock_path.unlink()
    if sys.platform != "win32":
        os.close(handle)


def remove_stale_temporary_files(folder: Path) -> None:
    """Remove the parts and locks that ended processes of this computer left in a folder.

    Parameters
    ----------
    folder : Path
        Files of other computers stay.
    """
    with suppress(OSError):
        for entry in list(folder.glob(".napari-dip-*")):
            with suppress(OSError):
                if entry.name.endswith(".lock"):
                    remove_if_free(entry)
                elif is_abandoned(entry.name):
                    remove_result(entry)


def remove_result(path: Path) -> None:
    """Remove a file or the folder of an OME-Zarr; of a link, only the link itself."""
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def resolve_output(
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    *,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    bytes_needed: int = 0,
) -> Path:
    """Check that a result can be saved under a name without damage to other files.

    Parameters
    ----------
    path : path of the result
    inputs : paths that must never be replaced, also not through links
    overwrite : bool
        Whether an earlier file of that name may be replaced.
    suffixes : tuple of str
        Allowed suffixes, in lower case.
    bytes_needed : int
        Required free space.

    Returns
    -------
    Path
        Path to write to, with all links followed.

    Raises
    ------
    RefusedError
        If the name cannot be used.
    """
    from napari_dip.io.formats.zarr import check_replaceable, check_zarr

    output, status = stat_path(path)
    is_zarr_result = output.suffix.lower() == FOLDER_SUFFIX and FOLDER_SUFFIX in suffixes
    if status is not None and stat.S_ISDIR(status.st_mode) and not is_zarr_result:
        raise RefusedError("output-is-folder", path=output, suffix=suffixes[0])
    if output.name.lower().removeprefix(".ome") in suffixes:
        raise RefusedError("output-nameless", path=output, suffix=output.name.lower())
    if output.suffix.lower() not in suffixes:
        raise RefusedError(_SUFFIX_FAULTS[suffixes], path=output, suffix=output.suffix)
    is_special = status is not None and not stat.S_ISREG(status.st_mode)
    if is_special and not (is_zarr_result and output.is_dir()):
        raise RefusedError("output-not-regular-file", path=output)
    for input_path in inputs:
        if (is_inside := _is_inside(output, input_path)) or _would_replace(output, input_path):
            raise RefusedError("output-is-input", path=output, inside=is_inside)
    if os.path.lexists(output) and not overwrite:
        raise RefusedError("output-exists", path=output)
    if is_zarr_result:
        check_zarr(output)
        check_replaceable(output)
    target = resolve_target(output)
    _check_folder(target.parent, status is not None, output, bytes_needed)
    return target


def resolve_outputs(
    paths: Mapping[str, str | os.PathLike[str]],
    inputs: Iterable[str | os.PathLike[str]],
    overwrite: bool,
    bytes_needed: int,
) -> dict[str, Path]:
    """Check the outputs of a run, by name, as `resolve_output` does, and that no two are one file.

    Raises
    ------
    RefusedError
        If a path cannot be used, or two lead to one file.
    """
    targets = {}
    for name, path in paths.items():
        suffixes = SUFFIXES_BY_OUTPUT.get(name, IMAGE_SUFFIXES)
        targets[name] = resolve_output(
            path, inputs, overwrite, suffixes=suffixes, bytes_needed=bytes_needed
        )
    check_outputs_differ(paths.values())
    return targets


def resolve_output_folder(path: str | os.PathLike[str], bytes_needed: int = 0) -> Path:
    """Check that results can be saved in a folder, which need not exist yet.

    Raises
    ------
    RefusedError
        If it is no folder, its parent is missing, or files cannot be written there.
    """
    folder, status = stat_path(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise RefusedError("folder-is-file", path=folder)
    target = resolve_target(folder)
    _check_folder(target if status is not None else target.parent, False, folder, bytes_needed)
    return folder


def resolve_folder_files(
    path: str | os.PathLike[str],
    names: Iterable[str],
    inputs: Sequence[str | os.PathLike[str]] = (),
    *,
    overwrite: bool,
) -> Path:
    """Check that files of these names can be saved in a folder, which need not exist yet.

    Parameters
    ----------
    path : path
        The folder.
    names : iterable of str
    inputs : sequence of path
        Files that must not be replaced.
    overwrite : bool
        Whether earlier files of these names may be replaced.

    Raises
    ------
    RefusedError
        As `resolve_output_folder`, or if a file of one of the names cannot be saved.
    """
    folder = resolve_output_folder(path)
    for name in names if folder.is_dir() else ():
        suffixes = (os.path.splitext(name)[1],)
        resolve_output(folder / name, inputs, overwrite, suffixes=suffixes)
    return folder


def check_outputs_differ(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Check that no two results have the same path, on any file system.

    Raises
    ------
    RefusedError
        If two of the paths lead to one file, or differ only in case or in the encoding of accents.
    """
    targets: dict[tuple[str, str], Path] = {}
    for path in paths:
        target = resolve_target(Path(path))
        key = os.path.normcase(target.parent), fold_name(target.name)
        if (other := targets.setdefault(key, target)) is not target:
            raise RefusedError("output-twice", path=path, other=other.name, same=other == target)


def resolve_folder(path: Path) -> Path:
    """Follow links in the path of the folder, but not in the file name itself."""
    return resolve_target(path.parent) / path.name


def check_unmoved(target: Path) -> None:
    """Raise `FailedError` if the folder of a path from `resolve_output` leads elsewhere by now."""
    if resolve_folder(target) != target:
        raise FailedError("output-moved", path=target.parent)


def _would_replace(path: Path, other_path: str | os.PathLike[str]) -> bool:
    """Return whether a result under this path would replace a file or folder, or the one around."""
    with suppress(OSError, ValueError):
        if os.path.lexists(path) and os.path.samefile(path, other_path):
            return True
    return _is_inside(other_path, path)


def _is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path leads into a folder."""
    with suppress(OSError, ValueError):
        real_folder = os.path.realpath(folder)
        return os.path.isdir(folder) and os.path.realpath(path).startswith(real_folder + os.sep)
    return False


def _check_folder(folder: Path, replaces_file: bool, path: Path, bytes_needed: int) -> None:
    """Create a file in the folder, the only reliable test whether it is writable."""
    if not folder.is_dir():
        code = "folder-is-file" if folder.exists() else "output-folder-missing"
        raise RefusedError(code, folder=path.parent, path=path.parent)
    try:
        probe = folder / make_temporary_name()
        probe.touch(exist_ok=False)
        probe.unlink()
        if replaces_file and not os.access(path, os.W_OK):
            raise PermissionError(13, "the file that is there may not be changed")
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise RefusedError(make_folder_refusal(folder, error)) from None
    if free_bytes < bytes_needed:
        need, free = format_bytes(bytes_needed), format_bytes(free_bytes, floor)
        why = f"{need} are needed and {free} are free"
        raise RefusedError("output-full", folder=folder, why=why)
