"""Pixels that a format's own reader fetches region by region, where they lie."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import describe_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LazyImage:
    """The first image of a file or folder: reads as an array does, by slices.

    Attributes
    ----------
    path : Path
    array : zarr.Array or dask array
        Tells shape and type.
    fetch : callable
        Gives the pixels of a region of it.
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
        """Type in this computer's byte order, as pixels are handed over."""
        kind: np.dtype[Any] = np.dtype(self.array.dtype)
        return kind.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Count the axes."""
        return len(self.shape)

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        """Read a region.

        Raises
        ------
        Refused
            If the file, or a chunk of it, is damaged.
        """
        with convert_parser_errors(self.path):
            return np.asarray(self.fetch(place), self.dtype)


#: What parsers raise where they did not foresee a header, whose texts name variables, and texts of
#: Python's own.
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


@contextmanager
def convert_parser_errors(path: Path) -> Iterator[None]:
    """Turn whatever a parser raises into a refusal that names the file."""
    printable = make_printable(str(path))
    try:
        yield
    except Refused:
        raise
    except MemoryError:
        why = "its header asks for more memory than there is"
        raise Refused(refusal("file-broken", path=printable, why=why)) from None
    except OSError as error:
        code = "file-unreadable" if error.errno else "file-broken"
        raise Refused(refusal(code, path=printable, why=describe_exception(error))) from None
    except Exception as error:
        unforeseen = isinstance(error, _PARSER_ERRORS) or any(
            text in str(error) for text in _PYTHON_ERROR_TEXTS
        )
        why = _INVALID_HEADER_REASON if unforeseen else describe_exception(error)
        raise Refused(refusal("file-broken", path=printable, why=why)) from None
