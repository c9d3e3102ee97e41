"""Read images on the disk region by region, without loading them whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from napari_dip.errors import Refused
from napari_dip.io.formats import bioio as bioio_reading
from napari_dip.io.formats.region_reader import convert_parser_errors
from napari_dip.io.formats.tiff import locate_pixels
from napari_dip.io.paths import make_save_refusal
from napari_dip.io.reading import is_lazy, is_tiff, read_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from napari_dip.io.formats.region_reader import LazyImage
    from napari_dip.io.header import ImageSpec

#: Maximum bytes in memory while all pixels of an image are iterated.
CHUNK = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMappedImage:
    """Uncompressed, contiguous pixels in a file.

    Slicing works as for an array. Each access maps the file, copies the region and unmaps the file,
    so that only the region stays in memory.

    Attributes
    ----------
    path : Path
    offset : int
        Position of the first pixel in the file, in bytes.
    shape : tuple of int
    stored_dtype : str
        NumPy name of the type with its byte order, such as ">u2".
    file_owner : object
        Object that deletes a temporary file when it is garbage-collected.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored_dtype: str
    file_owner: object = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the returned pixels, in native byte order."""
        return np.dtype(self.stored_dtype).newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        """Return a copy of a region."""
        mapped = np.memmap(self.path, self.stored_dtype, "r", self.offset, self.shape)
        return np.array(mapped[place], dtype=self.dtype)

    def __setitem__(self, place: Any, pixels: npt.ArrayLike) -> None:
        """Write a region."""
        mapped = np.memmap(self.path, self.stored_dtype, "r+", self.offset, self.shape)
        mapped[place] = pixels

    def make_memmap(self, mode: Literal["r", "r+"] = "r") -> np.memmap[Any, Any]:
        """Return all pixels as a memory-mapped array."""
        return np.memmap(self.path, self.stored_dtype, mode, self.offset, self.shape)


def open_pixels(spec: ImageSpec) -> MemoryMappedImage | LazyImage | npt.NDArray[Any]:
    """Open the pixels of a file without reading them where the format allows it.

    Parameters
    ----------
    spec : ImageSpec
        Header from `read_spec`.

    Returns
    -------
    MemoryMappedImage, LazyImage or ndarray
        An uncompressed, contiguous TIFF is mapped; other TIFFs that can be unpacked are unpacked
        into a temporary file. OME-Zarr, CZI, ND2 and LIF are read region by region. Other files
        are read whole.

    Raises
    ------
    Refused
        If the file is damaged, or changed since its header was read.
    """
    assert spec.path is not None
    path = Path(spec.path)
    if path.is_dir():
        from napari_dip.io.formats import zarr as zarr_reading

        return _check_unchanged(path, spec, zarr_reading.open_zarr_image(path))
    if is_lazy(path):
        return _check_unchanged(path, spec, bioio_reading.open_bioio_image(path))
    with convert_parser_errors(path):
        location = locate_pixels(path) if is_tiff(path) else None
        if location is None or location.shape != spec.shape or location.dtype.name != spec.dtype:
            return read_pixels(spec)
        if location.offset is not None:
            return MemoryMappedImage(
                path=path,
                offset=location.offset,
                shape=location.shape,
                stored_dtype=location.dtype.str,
            )
        temporary_folder = _TemporaryFolder()
        try:
            raw = create_mapped_image(
                temporary_folder.path / "pixels", location.shape, location.dtype.newbyteorder("=")
            )
        except OSError as error:
            raise Refused(make_save_refusal(temporary_folder.path, error)) from None
        location.unpack(raw.make_memmap("r+"))
        return replace(raw, file_owner=temporary_folder)


def _check_unchanged(path: Path, spec: ImageSpec, image: LazyImage) -> LazyImage:
    if image.shape != spec.shape or image.dtype.name != spec.dtype:
        why = "its size or type changed while it was being read"
        raise Refused("file-broken", path=path, why=why)
    return image


class _TemporaryFolder:
    """A temporary folder that is deleted with the last reference to this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="napari-dip-"))

    def __del__(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def create_mapped_image(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> MemoryMappedImage:
    """Create a file with room for the pixels of an image.

    Raises
    ------
    OSError
        If the disk is too full; no file remains then.
    """
    path.unlink(missing_ok=True)  # never write through a link
    try:
        with path.open("xb") as file:
            _reserve(file, prod(shape) * dtype.itemsize)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return MemoryMappedImage(path=path, offset=0, shape=shape, stored_dtype=dtype.str)


def _reserve(file: IO[bytes], count: int) -> None:
    """Allocate bytes now: on a full disk, a write into a mapped hole kills the process."""
    reserve = getattr(os, "posix_fallocate", None)  # not on macOS and Windows
    if reserve is not None:
        try:
            reserve(file.fileno(), 0, count)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # unsupported by the disk
                raise
    for first in range(0, count, CHUNK):
        file.write(bytes(min(CHUNK, count - first)))


def iter_chunks(image: Any) -> Iterator[npt.NDArray[Any]]:
    """Iterate over all pixels in order, in chunks of at most `CHUNK` bytes where possible.

    Parameters
    ----------
    image : MemoryMappedImage, LazyImage or ndarray
    """
    yield from _iter_outer_chunks(image, image.shape, ())


def _iter_outer_chunks(
    image: Any, shape: tuple[int, ...], outer: tuple[int, ...]
) -> Iterator[npt.NDArray[Any]]:
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * image.dtype.itemsize
    if row_bytes > CHUNK and len(shape) > 1:
        for number in range(shape[0]):
            yield from _iter_outer_chunks(image, shape[1:], (*outer, number))
        return
    row_count = max(1, CHUNK // max(1, row_bytes))
    for first in range(0, shape[0], row_count):
        yield np.ascontiguousarray(image[(*outer, slice(first, first + row_count))])
