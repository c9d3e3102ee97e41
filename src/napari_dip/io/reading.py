"""Read the header, the pixels and the provenance of an image file.

The first bytes of a file decide its format, never its name. tifffile, Pillow, zarr and bioio do the
parsing. The files may be damaged or hostile, so every parser error becomes a `Refused` that names
the file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from napari_dip.errors import Refused
from napari_dip.io.formats.region_reader import convert_parser_errors
from napari_dip.io.integrity import parse_strict_json
from napari_dip.io.paths import check_readable_file, is_zarr, stat_path

if TYPE_CHECKING:
    from tifffile import TiffFile

    from napari_dip.io.header import ImageSpec

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
#: Maximum ratio of image bytes to file bytes. No lossless codec in use compresses real pixels
#: further; deflate and LZW cannot reach it at all.
_MAX_COMPRESSION_RATIO = 2000


def read_spec(path: str | os.PathLike[str], axes: str | None = None) -> ImageSpec:
    """Read the header of an image file, without its pixels.

    Parameters
    ----------
    path : path of a TIFF, OME-TIFF, PNG, JPEG, CZI, ND2 or LIF file, or of an OME-Zarr's folder
    axes : str, optional
        Axes that override those in the file: one letter each out of T, C, Z, Y, X and S.

    Returns
    -------
    ImageSpec
        Its shape excludes alpha channels; a note says so.

    Raises
    ------
    Refused
        If the file is missing, truncated or of an unknown format, or its header is implausible.
    """
    letters = axes.upper() if axes else None
    if _is_folder(path):
        from napari_dip.io.formats import zarr as zarr_reading

        return zarr_reading.read_spec(Path(path), letters)
    file_path, file_size = check_readable_file(path)
    with convert_parser_errors(file_path):
        spec: ImageSpec = _choose_reader(file_path).read_spec(file_path, letters)
    if spec.pixels * np.dtype(spec.dtype).itemsize > _MAX_COMPRESSION_RATIO * file_size:
        sizes = " × ".join(str(side) for side in spec.shape)
        why = f"its header states {sizes} pixels, but it holds {file_size} bytes"
        raise Refused("file-broken", path=file_path, why=why)
    return spec


def read_pixels(spec: ImageSpec) -> npt.NDArray[Any]:
    """Read all pixels of an image file.

    Parameters
    ----------
    spec : ImageSpec
        Header from `read_spec`.

    Returns
    -------
    ndarray
        Has the shape and axes of `spec`, in native byte order.

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
        file_path, _ = check_readable_file(spec.path)
        with convert_parser_errors(file_path):
            raw = _choose_reader(file_path).read_pixels(file_path, spec)
    pixels = _drop_alpha(raw, spec)
    if pixels.shape != spec.shape or pixels.dtype.name != spec.dtype:
        why = "its size or type changed while it was being read"
        raise Refused("file-broken", path=spec.path, why=why)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a Zarr folder, which counts as one image."""
    folder, status = stat_path(path)
    return status is not None and stat.S_ISDIR(status.st_mode) and is_zarr(folder)


def is_lazy(path: Path) -> bool:
    """Return whether a file is a CZI, ND2 or LIF file, which bioio reads by regions."""
    from napari_dip.io.formats.bioio import detect_bioio_format

    with path.open("rb") as file:
        return detect_bioio_format(file.read(8)) is not None


def is_tiff(path: Path) -> bool:
    """Return whether a file starts with the magic number of a TIFF."""
    with path.open("rb") as file:
        return file.read(8).startswith(_TIFF_MAGIC)


def _choose_reader(path: Path) -> Any:
    """Choose the module that reads a file, by the file's first bytes."""
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
    raise Refused("file-type", path=path, why=why)


def _drop_alpha(raw: npt.NDArray[Any], spec: ImageSpec) -> npt.NDArray[Any]:
    """Drop the alpha samples, which follow the colours and which the header excludes."""
    if raw.ndim == len(spec.shape) + 1:  # grey and alpha: only grey remains, so drop the axis
        return raw[..., 0]
    if "S" in spec.axes and raw.ndim == len(spec.shape):
        axis = spec.axes.index("S")
        return raw.take(range(min(raw.shape[axis], spec.shape[axis])), axis=axis)
    return raw


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the provenance that `napari_dip.io.writing.write_image` saved with an image.

    Parameters
    ----------
    path : path of a readable TIFF file or OME-Zarr

    Returns
    -------
    dict or None
        Plain JSON types; None if the file holds no provenance.
    """
    if os.path.isdir(path):
        from napari_dip.io.formats.zarr_metadata import read_group_attributes

        provenance = read_group_attributes(Path(path)).get("napari_dip")
        return provenance if isinstance(provenance, dict) and "recipe" in provenance else None
    from tifffile import TiffFile

    with TiffFile(path) as file:
        json_texts = [
            *_read_imagej_provenance(file),
            *_read_shaped_provenance(file),
            *_read_ome_provenance(file),
        ]
    for json_text in json_texts:
        try:
            strict_json = parse_strict_json(json_text)
        except ValueError:
            continue
        if isinstance(strict_json, dict) and "recipe" in strict_json:
            return strict_json
    return None


def _read_imagej_provenance(file: TiffFile) -> list[str]:
    text = (file.imagej_metadata or {}).get("Info", "")
    return [text] if isinstance(text, str) else []


def _read_shaped_provenance(file: TiffFile) -> list[str]:
    return [
        str(page_metadata.get("napari_dip", "")) for page_metadata in file.shaped_metadata or ()
    ]


def _read_ome_provenance(file: TiffFile) -> list[str]:
    if not file.ome_metadata:
        return []
    try:
        root = ElementTree.fromstring(file.ome_metadata)
    except ElementTree.ParseError:
        return []
    return [element.text or "" for element in root.iter() if element.get("K") == "provenance"]
