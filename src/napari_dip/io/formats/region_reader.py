"""Read an image region by region through a format's own reader, and convert parser errors."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused
from napari_dip.io.paths import describe_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

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

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        """Return the pixels of a region.

        Raises
        ------
        Refused
            If the file, or a chunk of it, is damaged.
        """
        with convert_parser_errors(self.path):
            return np.asarray(self.fetch(place), self.dtype)


@contextmanager
def convert_parser_errors(path: Path) -> Iterator[None]:
    """Turn any error of a parser into a refusal that names the file."""
    try:
        yield
    except Refused:
        raise
    except MemoryError:
        why = "its header asks for more memory than there is"
        raise Refused("file-broken", path=path, why=why) from None
    except OSError as error:
        code = "file-unreadable" if error.errno else "file-broken"
        raise Refused(code, path=path, why=describe_exception(error)) from None
    except Exception as error:
        is_unexpected = isinstance(error, _PARSER_ERRORS) or any(
            text in str(error) for text in _PYTHON_ERROR_TEXTS
        )
        why = _INVALID_HEADER_REASON if is_unexpected else describe_exception(error)
        raise Refused("file-broken", path=path, why=why) from None
