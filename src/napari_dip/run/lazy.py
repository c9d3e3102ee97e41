"""Arrays that are computed where they are read, and may come to something else than they said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import why_not
from napari_dip.run.machine import is_memory_error

if TYPE_CHECKING:
    import numpy.typing as npt


def is_computed_later(value: object) -> bool:
    """Whether something is a dask array, or looks like one."""
    return hasattr(value, "dask") and hasattr(value, "compute")


class LazyPixels:
    """A dask array by its name: reads as an array does, by slices or whole.

    Whatever its blocks raise, or come to instead of what they said, is refused in words.

    Parameters
    ----------
    name : str
    array : dask array

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    ndim : int
    """

    def __init__(self, name: str, array: Any) -> None:
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self._name, self._array = name, array

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        """Compute a region."""
        return self._computed(self._array[place])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Compute all of it."""
        whole = self._computed(self._array)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _computed(self, part: Any) -> npt.NDArray[Any]:
        try:
            found = np.asarray(part.compute())
        except Exception as error:  # blocks are anybody's code
            if is_memory_error(error):  # of this computer, not of the array
                raise
            facts = {"name": self._name, "why": why_not(error)}
            raise Refused(refusal("array-broken", **facts)) from error
        shape = tuple(part.shape)
        if found.shape != shape or found.dtype != self.dtype:
            facts = {"name": self._name, "said": _called(shape, self.dtype)}
            raise Refused(refusal("array-other", found=_called(found.shape, found.dtype), **facts))
        return found


def in_memory(name: str, value: Any) -> npt.NDArray[Any]:
    """Make an array of one that may be computed here and now; raises `Refused` as reading it does.

    Parameters
    ----------
    name : str
        As the user knows it.
    value : array-like
    """
    return np.asarray(LazyPixels(name, value) if is_computed_later(value) else value)


def _called(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{' × '.join(map(str, shape)) or 'a single'} values of type {dtype}"
