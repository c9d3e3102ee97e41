"""Read images: the header first, the pixels once a plan says yes.

The kind of a file is told by its first bytes, never by its name; what they mean beyond that
is left to tifffile, Pillow, zarr and bioio. These parsers meet hostile bytes here, so whatever
they raise becomes a `Refused` that names the file.

What a file says of how it was made: the counterpart of what `write_image` puts there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.formats.region_reader import convert_parser_errors
from napari_dip.io.integrity import parse_strict_json
from napari_dip.io.paths import check_readable_file, is_zarr, stat_path

if TYPE_CHECKING:
    from tifffile import TiffFile

    from napari_dip.io.header import ImageSpec

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
#: No lossless codec in use packs real pixels tighter than this; deflate and LZW cannot at all.
_MAX_COMPRESSION_RATIO = 2000


def read_spec(path: str | os.PathLike[str], axes: str | None = None) -> ImageSpec:
    """Read the header of an image file, and nothing else.

    Parameters
    ----------
    path : path of a TIFF, OME-TIFF, PNG, JPEG, CZI, ND2 or LIF file, or of an OME-Zarr's folder
    axes : str, optional
        Overrides the file's own axes: one letter each out of T, C, Z, Y, X and S.

    Returns
    -------
    ImageSpec
        Alpha channels are left out of its shape, with a note.

    Raises
    ------
    Refused
        If the file is missing, of another kind, cut off, or its header cannot be true.
    """
    letters = axes.upper() if axes else None
    if _is_folder(path):
        from napari_dip.io.formats import zarr as zarr_reading

        return zarr_reading.read_spec(Path(path), letters)
    place, count = check_readable_file(path)
    with convert_parser_errors(place):
        spec: ImageSpec = _choose_reader(place).read_spec(place, letters)
    if spec.pixels * np.dtype(spec.dtype).itemsize > _MAX_COMPRESSION_RATIO * count:
        sizes = " × ".join(str(side) for side in spec.shape)
        why = f"its header speaks of {sizes} pixels, but it holds {count} bytes"
        raise Refused(refusal("file-broken", path=make_printable(str(place)), why=why))
    return spec


def read_pixels(spec: ImageSpec) -> npt.NDArray[Any]:
    """Read the pixels of the image that a header describes.

    Parameters
    ----------
    spec : ImageSpec
        From `read_spec`.

    Returns
    -------
    ndarray
        Shape and axes of `spec`, in the byte order of this computer.

    Raises
    ------
    Refused
        If the file is damaged, or changed since its header was read.
    ValueError
        If `spec` has no path.
    """
    if spec.path is None:
        raise ValueError(f"'{spec.name}' does not come from a file.")
    if _is_folder(spec.path):
        from napari_dip.io.formats import zarr as zarr_reading

        raw = zarr_reading.read_pixels(Path(spec.path))
    else:
        place, _ = check_readable_file(spec.path)
        with convert_parser_errors(place):
            raw = _choose_reader(place).read_pixels(place, spec)
    pixels = _drop_alpha(raw, spec)
    if pixels.shape != spec.shape or pixels.dtype.name != spec.dtype:
        why = "its size or type changed while it was being read"
        raise Refused(refusal("file-broken", path=make_printable(spec.path), why=why))
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a folder that is one image."""
    place, status = stat_path(path)
    return status is not None and stat.S_ISDIR(status.st_mode) and is_zarr(place)


def is_lazy(path: Path) -> bool:
    """Whether a file is of a kind whose own reader reads it by regions."""
    from napari_dip.io.formats.bioio import detect_bioio_format

    with path.open("rb") as file:
        return detect_bioio_format(file.read(8)) is not None


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with path.open("rb") as file:
        return file.read(8).startswith(_TIFF_MAGIC)


def _choose_reader(path: Path) -> Any:
    """Choose the module that reads this kind of file, by its first bytes."""
    from napari_dip.io.formats import bioio as bioio_reading
    from napari_dip.io.formats import png_jpeg as picture
    from napari_dip.io.formats import tiff

    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_TIFF_MAGIC):
        return tiff
    if start.startswith(_PICTURE_MAGIC):
        return picture
    if bioio_reading.detect_bioio_format(start):
        return bioio_reading
    why = "it starts like none of them"
    raise Refused(refusal("file-type", path=make_printable(str(path)), why=why))


def _drop_alpha(raw: npt.NDArray[Any], spec: ImageSpec) -> npt.NDArray[Any]:
    """Drop the samples that the header leaves out: they come after the colours."""
    if raw.ndim == len(spec.shape) + 1:  # grey and alpha: the axis itself goes
        return raw[..., 0]
    if "S" in spec.axes and raw.ndim == len(spec.shape):
        axis = spec.axes.index("S")
        return raw.take(range(min(raw.shape[axis], spec.shape[axis])), axis=axis)
    return raw


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
        from napari_dip.io.formats.zarr_metadata import read_group_attributes

        inside = read_group_attributes(Path(path)).get("napari_dip")
        return inside if isinstance(inside, dict) and "recipe" in inside else None
    from tifffile import TiffFile

    with TiffFile(path) as file:
        texts = [
            *_read_imagej_provenance(file),
            *_read_shaped_provenance(file),
            *_read_ome_provenance(file),
        ]
    for text in texts:
        try:
            strict_json = parse_strict_json(text)
        except ValueError:
            continue
        if isinstance(strict_json, dict) and "recipe" in strict_json:
            return strict_json
    return None


def _read_imagej_provenance(file: TiffFile) -> list[str]:
    text = (file.imagej_metadata or {}).get("Info", "")
    return [text] if isinstance(text, str) else []


def _read_shaped_provenance(file: TiffFile) -> list[str]:
    return [str(item.get("napari_dip", "")) for item in file.shaped_metadata or ()]


def _read_ome_provenance(file: TiffFile) -> list[str]:
    if not file.ome_metadata:
        return []
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except ElementTree.ParseError:
        return []
    return [item.text or "" for item in root.iter() if item.get("K") == "provenance"]
