"""What a file says of how it was made: the counterpart of what `write_image` puts there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_dip.io.plain_json import plain_json

if TYPE_CHECKING:
    from tifffile import TiffFile


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read what `napari_dip.io.writing.write_image` was given as provenance.

    Parameters
    ----------
    path : path of a TIFF file, or of an OME-Zarr, that can be read

    Returns
    -------
    dict or None
        Plain JSON types; None if it holds nothing of the kind.
    """
    if os.path.isdir(path):
        from napari_dip.io.zarr_metadata import attributes

        inside = attributes(Path(path)).get("napari_dip")
        return inside if isinstance(inside, dict) and "recipe" in inside else None
    from tifffile import TiffFile

    with TiffFile(path) as file:
        texts = [*_imagej(file), *_plain(file), *_ome(file)]
    for text in texts:
        try:
            found = plain_json(text)
        except ValueError:
            continue
        if isinstance(found, dict) and "recipe" in found:
            return found
    return None


def _imagej(file: TiffFile) -> list[str]:
    text = (file.imagej_metadata or {}).get("Info", "")
    return [text] if isinstance(text, str) else []


def _plain(file: TiffFile) -> list[str]:
    return [str(one.get("napari_dip", "")) for one in file.shaped_metadata or ()]


def _ome(file: TiffFile) -> list[str]:
    if not file.ome_metadata:
        return []
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except ElementTree.ParseError:
        return []
    return [one.text or "" for one in root.iter() if one.get("K") == "provenance"]
