"""Arrays that are computed where they are read, and may come to something else than they said.

Inputs that change while a run goes on: what is restored and hashed is what was read before.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import DipError, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note, read_report_notes, report_notes
from napari_dip.io.integrity import make_file_stamp
from napari_dip.io.paths import describe_exception
from napari_dip.io.reading import read_spec
from napari_dip.io.regions import open_pixels
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.machine import is_memory_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan


def is_dask_array(value: object) -> bool:
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
        return self._compute(self._array[place])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Compute all of it."""
        whole = self._compute(self._array)
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _compute(self, part: Any) -> npt.NDArray[Any]:
        try:
            block = np.asarray(part.compute())
        except Exception as error:  # blocks are anybody's code
            if is_memory_error(error):  # of this computer, not of the array
                raise
            facts = {"name": self._name, "why": describe_exception(error)}
            raise Refused(refusal("array-broken", **facts)) from error
        shape = tuple(part.shape)
        if block.shape != shape or block.dtype != self.dtype:
            facts = {"name": self._name, "said": _format_array_type(shape, self.dtype)}
            raise Refused(
                refusal("array-other", found=_format_array_type(block.shape, block.dtype), **facts)
            )
        return block


def load_array(name: str, value: Any) -> npt.NDArray[Any]:
    """Make an array of one that may be computed here and now; raises `Refused` as reading it does.

    Parameters
    ----------
    name : str
        As the user knows it.
    value : array-like
    """
    return np.asarray(LazyPixels(name, value) if is_dask_array(value) else value)


def _format_array_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{' × '.join(map(str, shape)) or 'a single'} values of type {dtype}"


def copy_pixels(array: Any) -> npt.NDArray[Any]:
    """Copy pixels that others may write into meanwhile: an array in memory, or on a disk."""
    return np.array(array)


def stamp_plan_files(plan: Plan) -> Plan:
    """Note what the files of a plan are now, just before their pixels are read."""
    others = {name: _stamp_spec(spec) for name, spec in plan.extra_inputs.items()}
    return replace(plan, source=_stamp_spec(plan.source), extra_inputs=others)


def check_unchanged(plan: Plan) -> None:
    """Raise `Refused` where a file was written to since its plan was stamped, while it was read."""
    for spec in (plan.source, *plan.extra_inputs.values()):
        if spec.path is not None and _is_file_changed(spec):
            why = "it was written to while it was being read"
            raise Refused(refusal("file-broken", path=make_printable(spec.path), why=why))


def add_change_notes(plan: Plan, data: Mapping[str, Any], result: Restoration) -> Restoration:
    """Name the inputs in the report that are no longer what was restored.

    Parameters
    ----------
    plan : Plan
        By `stamp_plan_files`.
    data : mapping
        The inputs of the run, as they were handed over.
    result : Restoration
    """
    changed = [spec.name for spec in plan.extra_inputs.values() if _is_file_changed(spec)]
    if _is_input_changed(plan.source, data["image"], result.report["input_sha256"]):
        changed.insert(0, plan.source.name)
    if not changed:
        return result
    # tiles are read one after another, so that some may be of what came later
    code = "input-changed-in-tiles" if plan.tiles else "input-changed"
    notes = (*read_report_notes(result.report), *(make_note(code, name=name) for name in changed))
    return replace(result, report={**result.report, **report_notes(notes)})


def hash_file_pixels(path: str, shape: tuple[int, ...]) -> str:
    """Hash the pixels that a file holds; empty if it does not hold any of that shape."""
    with suppress(DipError, OSError, ValueError):
        spec = read_spec(path)
        if spec.shape == shape:
            pixels: Any = open_pixels(spec)
            return compute_sha256(pixels)
    return ""


def _stamp_spec(spec: ImageSpec) -> ImageSpec:
    return spec if spec.path is None else replace(spec, stamp=make_file_stamp(Path(spec.path)))


def _is_file_changed(spec: ImageSpec) -> bool:
    return (
        spec.path is not None
        and bool(spec.stamp)
        and make_file_stamp(Path(spec.path)) != spec.stamp
    )


def _is_input_changed(source: ImageSpec, image: Any, digest: str) -> bool:
    """Whether pixels are others than those of a hash; a file that was only touched is not."""
    if source.path is not None:
        return _is_file_changed(source) and hash_file_pixels(source.path, source.shape) != digest
    return isinstance(image, np.ndarray) and compute_sha256(image) != digest
