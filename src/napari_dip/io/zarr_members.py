"""What belongs to the image in an OME-Zarr, and what somebody else put into its folder."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from napari_dip.errors import Refused
from napari_dip.io.zarr_metadata import attributes

#: Files of a group or of an array that say what it is, of either format.
_METADATA = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
#: What systems put into any folder that is looked at.
_OF_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
#: A chunk, or a folder of chunks, within an array.
_CHUNK = re.compile(r"c|(c\.)?\d+(\.\d+)*")


def foreign_in(folder: Path) -> str:
    """Find what would be lost if another image took the place of an OME-Zarr's.

    Parameters
    ----------
    folder : Path
        Of the OME-Zarr.

    Returns
    -------
    str
        Path within the folder of the first file or folder that is no part of its image, such as
        labels or a table; "" if there is none.
    """
    levels = _levels(folder)
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        for is_folder, entries in ((True, folders), (False, names)):
            for name in sorted(entries):
                if not _belongs(inside / name, is_folder, levels):
                    return (inside / name).as_posix()
    return ""


def _levels(folder: Path) -> set[tuple[str, ...]]:
    """Name the levels of the image; none where nothing can be read of them."""
    try:
        told = attributes(folder)
        image = (told.get("ome") or told)["multiscales"][0]
        paths = [str(one["path"]) for one in image["datasets"]]
    except (Refused, LookupError, TypeError):
        return set()
    return {PurePosixPath(path).parts for path in paths}


def _belongs(path: Path, is_folder: bool, levels: set[tuple[str, ...]]) -> bool:
    parts = path.parts
    level = next((one for one in levels if parts[: len(one)] == one), None)
    if is_folder and level is None:
        return any(one[: len(parts)] == parts for one in levels)
    if not is_folder and parts[-1] in _METADATA | _OF_SYSTEMS:
        return True
    return level is not None and all(_CHUNK.fullmatch(one) for one in parts[len(level) :])
