"""From what was typed to files: folders and patterns spelled out, in order, each file once."""

from __future__ import annotations

import glob
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import fitting, look_at, printable, why_not

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What counts as an image in a folder; a file that is named by itself may be called anything.
_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".czi", ".nd2", ".lif")
#: A folder that is one image.
_FOLDER_IMAGE = ".zarr"
_OTHERS = "Files in '{folder}' that are no images by their names were left out: {count}."
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Gathered:
    """The files that were meant.

    Attributes
    ----------
    files : tuple of Path
        As they were named, in that order; those of one folder or pattern by their names.
    notes : tuple of str
        One sentence for each folder that holds something else as well.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def gather(inputs: Iterable[str | os.PathLike[str]], results: Path) -> Gathered:
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
    notes: list[str] = []
    own = os.path.realpath(results)
    named = [os.fspath(one) for one in inputs]
    if not named:
        raise Refused(refusal("batch-none"))
    for text in named:
        if _MAGIC & set(text) and not os.path.lexists(text):  # a file may have such a name, too
            meant = sorted(Path(one) for one in glob.glob(text, recursive=True))
            meant = [one for one in meant if _is_image(one) or not one.is_dir()]
        else:
            found, status = look_at(text)
            if status is None or not found.is_dir() or _is_image(found):
                files.setdefault(os.path.realpath(found), found)
                continue
            meant, left = _in_folder(found)
            if left:
                notes.append(_OTHERS.format(count=left, folder=printable(text)))
        if not meant:
            raise Refused(refusal("batch-empty", pattern=printable(text)))
        apart = [one for one in meant if os.path.realpath(one.parent) != own]
        if not apart:
            raise Refused(refusal("batch-among", folder=printable(str(results))))
        for one in apart:
            files.setdefault(os.path.realpath(one), one)
    return Gathered(tuple(files.values()), tuple(notes))


def result_name(source: Path) -> str:
    """Name the result of a file, in a folder of its own: as the input, but TIFF or OME-TIFF."""
    name, low = source.name, source.name.lower()
    for suffix in (*_IMAGES, _FOLDER_IMAGE):
        if low.endswith(".ome" + suffix):
            return name[: -len(".ome" + suffix)] + ".ome.tif"
        if low.endswith(suffix):
            return name[: -len(suffix)] + ".tif"
    return fitting(name, len(".tif")) + ".tif"


def check_names_differ(sources: Iterable[Path]) -> None:
    """Refuse inputs whose results would have one name, on whichever disk they are written.

    Raises
    ------
    Refused
        With the first two of them; capitals and ways to code an accent do not tell names apart.
    """
    seen: dict[str, Path] = {}
    for source in sources:
        name = result_name(source)
        place = unicodedata.normalize("NFC", name).casefold()
        if place in seen:
            pair = {"first": printable(str(seen[place])), "second": printable(str(source))}
            raise Refused(refusal("batch-names", **pair, name=printable(name)))
        seen[place] = source


def _is_image(folder: Path) -> bool:
    return folder.suffix.lower() == _FOLDER_IMAGE


def _in_folder(folder: Path) -> tuple[list[Path], int]:
    """List the images in a folder by name, and count the other files; hidden ones are neither."""
    try:
        entries = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    except OSError as error:
        facts = {"path": printable(str(folder)), "why": why_not(error)}
        raise Refused(refusal("file-unreadable", **facts)) from None
    files = [one for one in entries if _is_image(one) or not one.is_dir()]
    images = [one for one in files if _is_image(one) or one.suffix.lower() in _IMAGES]
    return images, len(files) - len(images)
