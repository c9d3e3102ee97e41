"""Images on a disk, read region by region: none of it stays in memory."""

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

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
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

#: Bytes of an image that are held at a time while all of it is gone through.
CHUNK = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMappedImage:
    """Pixels that lie in a file as they are, one after the other.

    Reads as an array does, by slices: each reading maps the file, copies what is asked for and
    lets go of the rest, so that memory holds no more than that.

    Attributes
    ----------
    path : Path
    offset : int
        Of the first pixel, in bytes.
    shape : tuple of int
    stored : str
        NumPy's name for the type with its byte order, such as ">u2".
    keeper : object
        What deletes the file once nobody reads it any more.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored: str
    keeper: object = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in this computer's byte order, as pixels are handed over."""
        return np.dtype(self.stored).newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Count the axes."""
        return len(self.shape)

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        """Read a region; a copy."""
        whole = np.memmap(self.path, self.stored, "r", self.offset, self.shape)
        return np.array(whole[place], dtype=self.dtype)

    def __setitem__(self, place: Any, pixels: npt.ArrayLike) -> None:
        """Write a region."""
        whole = np.memmap(self.path, self.stored, "r+", self.offset, self.shape)
        whole[place] = pixels

    def mapped(self, mode: Literal["r", "r+"] = "r") -> np.memmap[Any, Any]:
        """Give all of it as an array that stays on the disk."""
        return np.memmap(self.path, self.stored, mode, self.offset, self.shape)


def open_pixels(spec: ImageSpec) -> MemoryMappedImage | LazyImage | npt.NDArray[Any]:
    """Get at the pixels of a file without reading them.

    Parameters
    ----------
    spec : ImageSpec
        From `read_spec`.

    Returns
    -------
    MemoryMappedImage, LazyImage or ndarray
        A TIFF whose pixels lie one after the other is read where it is; one that is compressed is
        unpacked into a temporary file first. OME-Zarr, CZI, ND2 and LIF are read where they are.
        Other kinds of files are read whole.

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
                path=path, offset=location.offset, shape=location.shape, stored=location.dtype.str
            )
        keeper = _TemporaryFolder()
        try:
            raw = create_mapped_image(
                keeper.path / "pixels", location.shape, location.dtype.newbyteorder("=")
            )
        except OSError as error:
            raise Refused(make_save_refusal(keeper.path, error)) from None
        location.unpack(raw.mapped("r+"))
        return replace(raw, keeper=keeper)


def _check_unchanged(path: Path, spec: ImageSpec, image: LazyImage) -> LazyImage:
    if image.shape != spec.shape or image.dtype.name != spec.dtype:
        why = "its size or type changed while it was being read"
        raise Refused(refusal("file-broken", path=make_printable(str(path)), why=why))
    return image


class _TemporaryFolder:
    """A temporary folder that goes with the last one who holds this."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="napari-dip-"))

    def __del__(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def create_mapped_image(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> MemoryMappedImage:
    """Make room for pixels in a new file.

    Raises
    ------
    OSError
        If the disk has no room for all of it; no file is left then.
    """
    path.unlink(missing_ok=True)  # a link there would lead elsewhere
    try:
        with path.open("xb") as file:
            _reserve(file, prod(shape) * dtype.itemsize)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return MemoryMappedImage(path=path, offset=0, shape=shape, stored=dtype.str)


def _reserve(file: IO[bytes], count: int) -> None:
    """Take so many bytes now: on a full disk, writing into a mapped gap ends the process."""
    reserve = getattr(os, "posix_fallocate", None)  # not on macOS and Windows
    if reserve is not None:
        try:
            reserve(file.fileno(), 0, count)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # what some disks cannot do
                raise
    for first in range(0, count, CHUNK):
        file.write(bytes(min(CHUNK, count - first)))


def iter_chunks(image: Any) -> Iterator[npt.NDArray[Any]]:
    """Go through all pixels in order, a part of them at a time.

    Parameters
    ----------
    image : MemoryMappedImage, LazyImage or ndarray
    """
    yield from _iter_outer_chunks(image, image.shape, ())


def _iter_outer_chunks(
    image: Any, shape: tuple[int, ...], outer: tuple[int, ...]
) -> Iterator[npt.NDArray[Any]]:
    each = int(np.prod(shape[1:], dtype=np.int64)) * image.dtype.itemsize
    if each > CHUNK and len(shape) > 1:
        for number in range(shape[0]):
            yield from _iter_outer_chunks(image, shape[1:], (*outer, number))
        return
    some = max(1, CHUNK // max(1, each))
    for first in range(0, shape[0], some):
        yield np.ascontiguousarray(image[(*outer, slice(first, first + some))])
