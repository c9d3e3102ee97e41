"""Read the header, the pixels and the provenance of an image file.

The first bytes of a file decide its format, never its name. tifffile, Pillow, zarr and bioio do the
parsing. The files may be damaged or hostile, so every parser error
becomes a `RefusedError`, which names the file.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_dip.errors import RefusedError
from napari_dip.errors.templates import format_sizes
from napari_dip.io.formats import bioio, png_jpeg, tiff, zarr
from napari_dip.io.formats.zarr import read_group_attributes
from napari_dip.io.lazy_images import (
    UNDECODABLE_REASON,
    LazyImage,
    MemoryMappedImage,
    convert_parser_errors,
    create_mapped_image,
)
from napari_dip.io.paths import (
    is_zarr,
    make_save_fault,
    stat_path,
    stat_readable_file,
)

if TYPE_CHECKING:
    from types import ModuleType

    from napari_dip.io import AnyArray
    from napari_dip.io.header import ImageHeader

PixelsT = TypeVar("PixelsT", bound="LazyImage | AnyArray")

#: First bytes of a file -> module that reads it.
_READERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff),
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff"), png_jpeg),
    **dict.fromkeys(bioio.FORMATS_BY_MAGIC, bioio),
}
#: Modules whose formats are read region by region.
_SLICED = (zarr, bioio)
#: Maximum ratio of image bytes to file bytes. No lossless codec in use compresses real pixels
#: further; deflate and LZW cannot reach it at all.
_MAX_COMPRESSION_RATIO = 2000
#: Largest size of a file beyond twice its array, in bytes: 570 more pages of 16 × 16 pixels, each
#: an image of its own, take 0.6 s to list.
_MAX_SPARE_BYTES = 2**18


def read_header(path: str | os.PathLike[str], axes: str | None = None) -> ImageHeader:
    """Read the header of an image file, without its pixels.

    Parameters
    ----------
    path : path of a TIFF, OME-TIFF, PNG, JPEG, CZI, ND2 or LIF file, or of an OME-Zarr's folder
    axes : str, optional
        Axes that override those in the file: one letter each out of T, C, Z, Y, X and S.

    Returns
    -------
    ImageHeader
        Its shape excludes alpha channels; a note says so.

    Raises
    ------
    RefusedError
        If the file is missing, truncated or of an unknown format, or its header is implausible.
    """
    file_path, size, reader = _find_reader(path)
    with convert_parser_errors(file_path):
        header: ImageHeader = reader.read_header(file_path, axes.upper() if axes else None)
    byte_count = header.pixel_count * np.dtype(header.dtype).itemsize
    if size and byte_count > _MAX_COMPRESSION_RATIO * size:
        sizes = format_sizes(header.shape)
        why = f"its header states {sizes} pixels, but it holds {size} bytes"
        raise RefusedError("file-broken", path=file_path, why=why)
    return header


def find_file_header(path: str, shape: tuple[int, ...], dtype: Any) -> ImageHeader | None:
    """Return the header of the file that an array was read from, if that takes no time.

    Parameters
    ----------
    path : str
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of the array.

    Returns
    -------
    ImageHeader or None
        None if the file cannot be read (any more), has another shape, or holds much else.
    """
    try:
        status = os.stat(path)
        if status.st_size > 2 * prod(shape) * np.dtype(dtype).itemsize + _MAX_SPARE_BYTES:
            return None
        header = _read_known_header(path, status.st_size, status.st_mtime_ns)
    except (OSError, RefusedError):
        return None
    return header if header.shape == shape else None


@lru_cache(maxsize=64)
def _read_known_header(path: str, _size: int, _modified_ns: int) -> ImageHeader:
    """Read the header of a file once, until it changes."""
    return read_header(path)


def read_pixels(header: ImageHeader) -> AnyArray:
    """Read all pixels of an image file.

    Parameters
    ----------
    header : ImageHeader
        Header from `read_header`.

    Returns
    -------
    ndarray
        Has the shape and axes of `header`, in native byte order.

    Raises
    ------
    RefusedError
        If the file is damaged, or changed since its header was read.
    ValueError
        If `header` has no path.
    """
    if header.path is None:
        raise ValueError(f"'{header.name}' does not come from a file.")
    file_path, _, reader = _find_reader(header.path)
    with convert_parser_errors(file_path, UNDECODABLE_REASON):
        if reader in _SLICED:
            raw = reader.open_image(file_path)[...]
        else:
            raw = reader.read_pixels(file_path, header)
    pixels = _require_unchanged(_drop_alpha(raw, header), header)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def open_pixels(header: ImageHeader) -> MemoryMappedImage | LazyImage | AnyArray:
    """Open the pixels of a file without reading them where the format allows it.

    Parameters
    ----------
    header : ImageHeader
        Header from `read_header`.

    Returns
    -------
    MemoryMappedImage, LazyImage or ndarray
        An uncompressed, contiguous TIFF is mapped; other TIFFs that can be unpacked are unpacked
        into a temporary file. OME-Zarr, CZI, ND2 and LIF are read region by region. Other files
        are read whole.

    Raises
    ------
    RefusedError
        If the file is damaged, or changed since its header was read.
    """
    assert header.path is not None
    file_path, _, reader = _find_reader(header.path)
    if reader in _SLICED:
        image: LazyImage = reader.open_image(file_path)
        return _require_unchanged(image, header)
    with convert_parser_errors(file_path, UNDECODABLE_REASON):
        location = tiff.locate_pixels(file_path) if reader is tiff else None
        if location is None or location.shape != header.shape:
            return read_pixels(header)
        shape, offset, dtype = location.shape, location.offset, location.dtype
        if dtype.name != header.dtype:
            return read_pixels(header)
        if offset is not None:
            return MemoryMappedImage(
                path=file_path, offset=offset, shape=shape, stored_dtype=dtype.str
            )
        temporary_folder = _TemporaryFolder()
        try:
            path = temporary_folder.path / "pixels"
            raw = create_mapped_image(path, shape, dtype.newbyteorder("="))
        except OSError as error:
            fault = make_save_fault(temporary_folder.path, error)
            raise RefusedError(fault.code, **fault.facts) from None
        location.unpack(raw.make_memmap("r+"))
        return replace(raw, file_owner=temporary_folder)


class _TemporaryFolder:
    """A temporary folder that is deleted with the last reference to this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="napari-dip-"))

    def __del__(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _find_reader(path: str | os.PathLike[str]) -> tuple[Path, int, ModuleType]:
    """Return a path, the bytes of its file (0: a Zarr folder) and the module that reads it."""
    file_path, status = stat_path(path)
    if status is not None and stat.S_ISDIR(status.st_mode) and is_zarr(file_path):
        return file_path, 0, zarr
    file_path, size = stat_readable_file(path)
    with convert_parser_errors(file_path), file_path.open("rb") as file:
        first_bytes = file.read(8)
    for magic, reader in _READERS.items():
        if first_bytes.startswith(magic):
            return file_path, size, reader
    raise RefusedError("file-type", path=file_path, why="its first bytes are none that are known")


def _require_unchanged(pixels: PixelsT, header: ImageHeader) -> PixelsT:
    """Return pixels, or refuse them if they do not fit the header."""
    if pixels.shape != header.shape or pixels.dtype.name != header.dtype:
        why = "its size or type changed while it was being read"
        raise RefusedError("file-broken", path=header.path, why=why)
    return pixels


def _drop_alpha(raw: AnyArray, header: ImageHeader) -> AnyArray:
    """Drop the alpha samples, which follow the colours and which the header excludes."""
    if raw.ndim == len(header.shape) + 1:  # grey and alpha: only grey remains, so drop the axis
        return raw[..., 0]
    if "S" in header.axes and raw.ndim == len(header.shape):
        axis = header.axes.index("S")
        return raw.take(range(min(raw.shape[axis], header.shape[axis])), axis=axis)
    return raw


def read_provenance(path: str | os.PathLike[str], key: str = "recipe") -> dict[str, Any] | None:
    """Read the provenance that `napari_dip.io.writing.write_image` saved with an image.

    Parameters
    ----------
    path : path of a readable TIFF file or OME-Zarr
    key : str
        Entry that the provenance must have.

    Returns
    -------
    dict or None
        Plain JSON types; None if the file holds no provenance.
    """
    if os.path.isdir(path):
        provenance = read_group_attributes(Path(path)).get("napari_dip")
        return provenance if isinstance(provenance, dict) and key in provenance else None
    from tifffile import TiffFile

    with TiffFile(path) as file:
        return tiff.find_provenance(file, key)
