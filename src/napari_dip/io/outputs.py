"""Where results may go: all that can be wrong with it, said before any work begins."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Failed, Refused, refusal
from napari_dip.io.leftovers import part_name
from napari_dip.io.paths import is_zarr, look_at, printable, target_of, unwritable

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGE_SUFFIXES = (".tif", ".tiff", ".zarr")
#: The ending of results that are folders.
FOLDER_SUFFIX = ".zarr"
JSON_SUFFIXES = (".json",)


def check_output(
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    *,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    bytes_needed: int = 0,
) -> Path:
    """Make sure that a result can be saved under a name without harm to anything.

    Parameters
    ----------
    path : path of the result
    inputs : paths that must never be replaced, however they are reached
    overwrite : bool
        Whether an earlier file of that name may be replaced.
    suffixes : tuple of str
        Endings that the name may have, in small letters.
    bytes_needed : int
        Free space that must be there.

    Returns
    -------
    Path
        Where it is to be written: links that are there now are followed.

    Raises
    ------
    Refused
        If the name cannot be used.
    """
    found, status = look_at(path)
    shown = printable(str(found))
    zarr = found.suffix.lower() == FOLDER_SUFFIX and FOLDER_SUFFIX in suffixes
    if status is not None and stat.S_ISDIR(status.st_mode) and not zarr:
        raise Refused(refusal("output-is-folder", path=shown, suffix=suffixes[0]))
    if found.name.lower().removeprefix(".ome") in suffixes:
        raise Refused(refusal("output-nameless", path=shown, suffix=found.name.lower()))
    if found.suffix.lower() not in suffixes:
        code = "output-type" if suffixes == IMAGE_SUFFIXES else "output-json"
        raise Refused(refusal(code, path=shown, suffix=printable(found.suffix)))
    special = status is not None and not stat.S_ISREG(status.st_mode)
    if special and not (zarr and found.is_dir()):
        raise Refused(refusal("output-special", path=shown))
    if any(_same(found, other) for other in inputs):
        raise Refused(refusal("output-is-input", path=shown))
    if os.path.lexists(found) and not overwrite:
        raise Refused(refusal("output-exists", path=shown))
    if zarr:
        _check_zarr(found, status)
    target = target_of(found)
    _check_folder(target.parent, status is not None, found, bytes_needed)
    return target


def check_folder(path: str | os.PathLike[str], bytes_needed: int = 0) -> Path:
    """Make sure that results can be saved in a folder, which need not be there yet.

    Raises
    ------
    Refused
        If it is no folder, the folder above it is missing, or files cannot be written there.
    """
    found, status = look_at(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise Refused(refusal("folder-is-file", path=printable(str(found))))
    place = target_of(found)
    _check_folder(place if status is not None else place.parent, False, found, bytes_needed)
    return found


def check_outputs_differ(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse two results under one name.

    Raises
    ------
    Refused
        If two of the paths lead to one file.
    """
    seen: set[str] = set()
    for path in paths:
        place = os.path.normcase(target_of(Path(path)))
        if place in seen:
            raise Refused(refusal("output-twice", path=printable(str(path))))
        seen.add(place)


def placed(path: Path) -> Path:
    """Follow links to the folder that is really written into, but not one of the name itself."""
    return target_of(path.parent) / path.name


def check_unmoved(target: Path) -> None:
    """Raise `Failed` if the way to a place that `check_output` gave leads elsewhere by now."""
    if placed(target) != target:
        raise Failed(refusal("output-moved", path=printable(str(target.parent))))


def _same(path: Path, other: str | os.PathLike[str]) -> bool:
    """Whether one is the other, or lies in the folder that it is."""
    with suppress(OSError, ValueError):
        if os.path.lexists(path) and os.path.samefile(path, other):
            return True
        here, there = os.path.realpath(path), os.path.realpath(other)
        if os.path.isdir(there) and here.startswith(there + os.sep):
            return True
        return os.path.isdir(here) and there.startswith(here + os.sep)
    return False


def _check_zarr(path: Path, status: os.stat_result | None) -> None:
    """Say no where Zarr cannot be written, or something else would be replaced by it."""
    from napari_dip.io.zarr_members import foreign_in
    from napari_dip.io.zarr_reading import check_zarr

    check_zarr(path)
    shown = printable(str(path))
    if status is not None and not path.is_dir():
        raise Refused(refusal("folder-is-file", path=shown))
    if status is not None and any(path.iterdir()) and not is_zarr(path):
        raise Refused(refusal("zarr-foreign", path=shown))
    if status is not None and (other := foreign_in(path)):
        raise Refused(refusal("zarr-shared", path=shown, other=printable(other)))


def _check_folder(folder: Path, replaces: bool, path: Path, bytes_needed: int) -> None:
    """Try the folder by making a file in it, which is the only proof that holds everywhere."""
    shown = printable(str(folder))
    if not folder.is_dir():
        raise Refused(refusal("output-folder-missing", folder=printable(str(path.parent))))
    try:
        trial = folder / part_name()
        trial.touch(exist_ok=False)
        trial.unlink()
        if replaces and not os.access(path, os.W_OK):
            raise PermissionError(13, "the file that is there may not be changed")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise Refused(unwritable(folder, error)) from None
    if free < bytes_needed:
        why = f"{bytes_needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free"
        raise Refused(refusal("output-full", folder=shown, why=why))
