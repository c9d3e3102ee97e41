"""Define images on the disk that are sliced like arrays, without loading them whole."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from napari_dip.errors import RefusedError
from napari_dip.io.paths import describe_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from napari_dip.io import AnyArray

#: Maximum bytes in memory while all pixels of an image are iterated.
MAX_CHUNK_BYTES = 2**26
#: Errors that parsers raise for an unexpected header. Their messages name variables, so users do
#: not get them; the same holds for messages of Python itself.
_PARSER_ERRORS = (
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    AssertionError,
    struct.error,
)
_PYTHON_ERROR_TEXTS = ("for int()", "to float", "to unpack")
_INVALID_HEADER_REASON = "what its header says makes no sense"
#: Reason for users where pixels cannot be decoded. The texts of decoders name their functions.
UNDECODABLE_REASON = "its pixels cannot be decoded"


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

    def __getitem__(self, region: Any) -> AnyArray:
        """Return a copy of a region."""
        return np.array(self.make_memmap()[region], dtype=self.dtype)

    def __setitem__(self, region: Any, pixels: npt.ArrayLike) -> None:
        """Write a region."""
        self.make_memmap("r+")[region] = pixels

    def make_memmap(self, mode: Literal["r", "r+"] = "r") -> np.memmap[Any, Any]:
        """Return all pixels as a memory-mapped array.

        Raises
        ------
        RefusedError
            If the file was removed or cut off meanwhile.
        """
        with convert_parser_errors(self.path, "its pixels should go on after its end"):
            return np.memmap(self.path, self.stored_dtype, mode, self.offset, self.shape)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LazyImage:
    """First image of a file or folder, which is sliced like an array.

    Attributes
    ----------
    path : Path
    array : zarr.Array or dask array
        Provides shape and type.
    fetch : callable
        Returns the pixels of a region.
    """

    path: Path
    array: Any
    fetch: Callable[[Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return tuple(int(side) for side in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the returned pixels, in native byte order."""
        stored_dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return stored_dtype.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, region: Any) -> AnyArray:
        """Return the pixels of a region.

        Raises
        ------
        RefusedError
            If the file, or a chunk of it, is damaged.
        """
        with convert_parser_errors(self.path, UNDECODABLE_REASON):
            return np.asarray(self.fetch(region), self.dtype)


def make_broken_file_error(path: Path, why: str) -> RefusedError:
    """Return the error for a truncated or damaged file."""
    return RefusedError("file-broken", path=path, why=why)


@contextmanager
def convert_parser_errors(path: Path, reason: str = "") -> Iterator[None]:
    """Turn any error of a parser into a refusal that names the file.

    Parameters
    ----------
    path : Path
    reason : str
        Reason for users instead of the parser's own text; "" for that text.
    """
    try:
        yield
    except RefusedError:
        raise
    except MemoryError:
        why = "its header asks for more memory than there is"
        raise make_broken_file_error(path, why) from None
    except OSError as error:
        code = "file-unreadable" if error.errno else "file-broken"
        why = describe_exception(error) if error.errno or not reason else reason
        raise RefusedError(code, path=path, why=why) from None
    except Exception as error:
        is_of_python = any(text in str(error) for text in _PYTHON_ERROR_TEXTS)
        is_unexpected = is_of_python or isinstance(error, _PARSER_ERRORS)
        why = _INVALID_HEADER_REASON if is_unexpected else reason or describe_exception(error)
        raise make_broken_file_error(path, why) from None


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
            _allocate_bytes(file, prod(shape) * dtype.itemsize)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return MemoryMappedImage(path=path, offset=0, shape=shape, stored_dtype=dtype.str)


def _allocate_bytes(file: IO[bytes], byte_count: int) -> None:
    """Allocate bytes now: on a full disk, a write into a mapped hole kills the process."""
    allocate = getattr(os, "posix_fallocate", None)  # not on macOS and Windows
    if allocate is not None:
        try:
            allocate(file.fileno(), 0, byte_count)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # unsupported by the disk
                raise
    for start in range(0, byte_count, MAX_CHUNK_BYTES):
        file.write(bytes(min(MAX_CHUNK_BYTES, byte_count - start)))


def iter_chunks(image: Any) -> Iterator[AnyArray]:
    """Iterate over all pixels in order, in chunks of `MAX_CHUNK_BYTES` at most where possible.

    Parameters
    ----------
    image : MemoryMappedImage, LazyImage or ndarray
    """
    yield from _iter_outer_chunks(image, image.shape, ())


def _iter_outer_chunks(
    image: Any, shape: tuple[int, ...], outer_indices: tuple[int, ...]
) -> Iterator[AnyArray]:
    row_bytes = prod(shape[1:]) * image.dtype.itemsize
    if row_bytes > MAX_CHUNK_BYTES and len(shape) > 1:
        for index in range(shape[0]):
            yield from _iter_outer_chunks(image, shape[1:], (*outer_indices, index))
        return
    row_count = max(1, MAX_CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, shape[0], row_count):
        yield np.ascontiguousarray(image[(*outer_indices, slice(start, start + row_count))])
