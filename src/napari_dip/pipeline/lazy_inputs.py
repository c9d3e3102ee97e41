"""Open the inputs of a run, files and arrays of any library, and detect when they change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.errors import DipError, Refusal, RefusedError
from napari_dip.errors.notes import Note, make_note
from napari_dip.io import ImageHeader, guess_axes
from napari_dip.io.header import COLOUR_COUNT, split_pixel_sizes
from napari_dip.io.lazy_images import LazyImage
from napari_dip.io.paths import describe_exception, make_file_stamp
from napari_dip.io.reading import open_pixels, read_header, read_pixels
from napari_dip.pipeline.assess.report import add_notes, compute_sha256
from napari_dip.pipeline.machine import is_memory_error
from napari_dip.pipeline.plan.joint_training import GREY_GROUPS
from napari_dip.pipeline.plan.preflight import plan_as_grey

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.io import AnyArray
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration


#: Axis of each name that a dimension of a labelled array may have, in small letters.
_AXES_OF_DIMENSIONS = {
    dim: axis
    for axis, dims in {
        "T": "t time frame frames",
        "C": "c ch channel channels band",
        "Z": "z depth plane planes slice",
        "Y": "y row rows height lat latitude",
        "X": "x col column columns width lon longitude",
        "S": "s rgb sample samples",
    }.items()
    for dim in dims.split()
}
#: Stamps of files by path, as `napari_dip.io.paths.make_file_stamp` returns them.
FileStamps = dict[str, str]


def is_dask_array(value: object) -> bool:
    """Return whether a value is a dask array, or has its interface."""
    return hasattr(value, "dask") and hasattr(value, "compute")


class LazyPixels:
    """A dask array with a name; slices and the whole are computed when they are read.

    Raises `RefusedError` if computing fails, or gives another shape or type than declared.

    Parameters
    ----------
    name : str
        Name of the input in messages.
    array : dask array

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    ndim : int
    """

    def __init__(self, name: str, array: Any) -> None:
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.ndim: int = len(self.shape)
        self._name, self._array = name, array

    def __getitem__(self, index: Any) -> AnyArray:
        """Compute and return a region."""
        return self._compute(self._array[index])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        """Compute and return the whole array."""
        pixels = self._compute(self._array)
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def _compute(self, array: Any) -> AnyArray:
        try:
            block = np.asarray(array.compute())
        except Exception as error:  # tasks of dask may raise anything
            if is_memory_error(error):  # not a fault of the array
                raise
            facts = {"name": self._name, "why": describe_exception(error)}
            raise RefusedError("array-broken", **facts) from error
        shape = tuple(array.shape)
        if block.shape != shape or block.dtype != self.dtype:
            facts = {"name": self._name, "said": _format_array_type(shape, self.dtype)}
            raise RefusedError(
                "array-other", actual=_format_array_type(block.shape, block.dtype), **facts
            )
        return block


def load_array(name: str, value: Any) -> AnyArray:
    """Return a value as a NumPy array, computed if it is a dask array; may raise `RefusedError`.

    Parameters
    ----------
    name : str
        Name of the input in messages.
    value : array-like
    """
    return np.asarray(LazyPixels(name, value) if is_dask_array(value) else value)


def _format_array_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{' × '.join(map(str, shape)) or 'a single'} values of type {dtype}"


def stamp_files(plan: Plan) -> FileStamps:
    """Return the present stamps of a plan's files by path; take them before pixels are read."""
    paths = (header.path for header in (plan.header, *plan.extra_headers.values()))
    return {path: make_file_stamp(Path(path)) for path in paths if path is not None}


def check_unchanged(stamps: FileStamps) -> None:
    """Raise `RefusedError` if a file was written to after `stamp_files`."""
    for path in stamps:
        if _is_file_changed(path, stamps):
            why = "it was written to while it was being read"
            raise RefusedError("file-broken", path=path, why=why)


def open_plan_inputs(plan: Plan, stamps: FileStamps) -> dict[str, Any]:
    """Read the files of a plan; an image that is restored in tiles is opened without reading it.

    Parameters
    ----------
    plan : Plan
    stamps : mapping of str to str
        From `stamp_files`.

    Raises
    ------
    RefusedError
        If a file is damaged, or has changed since it was stamped.
    """
    image = open_pixels(plan.header) if plan.tiles else read_pixels(plan.header)
    extra_headers = plan.extra_headers.items()
    inputs = {"image": image, **{name: read_pixels(header) for name, header in extra_headers}}
    check_unchanged(stamps)
    return inputs


class MergedInputs(NamedTuple):
    """Plan and inputs of a run; hashes of inputs of which one of three equal colours is left."""

    plan: Plan
    inputs: Mapping[str, Any]
    hashes: Mapping[str, str]


def merge_equal_colours(plan: Plan, inputs: Mapping[str, Any]) -> MergedInputs:
    """Return plan and inputs for one grey channel if red, green and blue are equal everywhere.

    Most grey images of microscopes that are saved in colours are so. Fitted as colours, their noise
    would count as structure, since it is the same in all three. Other images are returned as they
    are; those that are restored whole are read.

    Parameters
    ----------
    plan : Plan
    inputs : mapping
        As for `napari_dip.pipeline.execute.runner.run`.
    """
    header, unchanged = plan.header, MergedInputs(plan, inputs, {})
    is_of_colours = plan.network is not None and plan.network.groups not in ((), GREY_GROUPS)
    if "S" not in header.axes or is_of_colours:
        return unchanged
    if not plan.tiles:
        inputs = {**inputs, "image": np.asarray(inputs["image"])}
        unchanged = unchanged._replace(inputs=inputs)
    exposures = (item.name for item in plan.recipe.task.spec.inputs if item.is_repeated_exposure)
    names = ["image", *(name for name in exposures if name in plan.extra_headers)]
    axis = header.axes.index("S")
    blocks = (
        tile.core.read_pixels(inputs[name], header.axes) if tile else np.asarray(inputs[name])
        for name in names
        for tile in plan.tiles or (None,)
    )
    if not all(has_equal_colours(block, axis) for block in blocks):
        return unchanged
    grey_plan = plan_as_grey(plan)
    if isinstance(grey_plan, Refusal):  # such as a PSF for each colour
        return unchanged
    grey_inputs = {name: take_first_colour(inputs[name], axis) for name in names}
    hashes = {name: compute_sha256(inputs[name]) for name in names}
    return MergedInputs(grey_plan, {**inputs, **grey_inputs}, hashes)


def has_equal_colours(array: AnyArray, axis: int) -> bool:
    """Return whether all positions along an axis hold the same values; NaN equals NaN."""
    first = np.broadcast_to(array.take([0], axis), array.shape)
    return np.array_equal(array, first, equal_nan=array.dtype.kind == "f")


def take_first_colour(image: Any, axis: int) -> Any:
    """Return the first position along an axis of an image, which may be on the disk."""

    def take(region: Any) -> Any:
        before = region[:axis]
        return image[(*before, *[slice(None)] * (axis - len(before)), 0, *region[axis:])]

    if isinstance(image, np.ndarray):
        return take(())
    shape = (*image.shape[:axis], *image.shape[axis + 1 :])
    template = np.broadcast_to(np.zeros((), image.dtype), shape)
    return LazyImage(path=Path(), array=template, fetch=take)


def add_change_notes(
    plan: Plan, inputs: Mapping[str, Any], stamps: FileStamps, result: Restoration
) -> Restoration:
    """Return the result with a note in its report for each input that changed during the run.

    Parameters
    ----------
    plan : Plan
    inputs : mapping
        The inputs of the run, by name.
    stamps : mapping of str to str
        From `stamp_files`, before the inputs were read.
    result : Restoration
    """
    headers = plan.extra_headers.values()
    changed = [header.name for header in headers if _is_file_changed(header.path, stamps)]
    if _is_input_changed(plan.header, inputs["image"], stamps, result.report["input_sha256"]):
        changed.insert(0, plan.header.name)
    if not changed:
        return result
    # tiles are read one after another, so some may show the changed pixels
    code = "input-changed-in-tiles" if plan.tiles else "input-changed"
    notes = [make_note(code, name=name) for name in changed]
    return replace(result, report=add_notes(result.report, notes))


def hash_file_pixels(path: str, shape: tuple[int, ...]) -> str:
    """Return the SHA-256 of a file's pixels; "" if unreadable or of another shape."""
    with suppress(DipError, OSError, ValueError):
        header = read_header(path)
        if header.shape == shape:
            pixels: Any = open_pixels(header)
            return compute_sha256(pixels)
    return ""


def _is_file_changed(path: str | None, stamps: FileStamps) -> bool:
    return bool(path and stamps.get(path) and make_file_stamp(Path(path)) != stamps[path])


def _is_input_changed(header: ImageHeader, image: Any, stamps: FileStamps, digest: str) -> bool:
    """Return whether pixels differ from a hash; a file is hashed only if its stamp has changed."""
    if header.path is not None:
        is_changed = _is_file_changed(header.path, stamps)
        return is_changed and hash_file_pixels(header.path, header.shape) != digest
    return isinstance(image, np.ndarray) and compute_sha256(image) != digest


def parse_axes(axes: object) -> str | None:
    """Return the letters of axes in upper case, given as a text or a list; None if not given.

    Raises
    ------
    RefusedError
        If they are neither a text nor a list of texts.
    """
    if axes is None:
        return None
    letters = axes if isinstance(axes, list | tuple) else [axes]
    if not all(isinstance(letter, str) for letter in letters):
        why = "it should be one letter for each axis"
        hint = "Give a text such as 'ZYX', or a list of such letters."
        raise RefusedError("setting-wrong", field="axes", value=repr(axes), why=why, hint=hint)
    return "".join(map(str, letters)).upper()


def open_input(name: str, image: Any, axes: object) -> tuple[ImageHeader, Callable[[], Any]]:
    """Return the header of an image, and a function that reads its pixels.

    Pixels of a file are read only when that function is called.

    Raises
    ------
    RefusedError
        If the image is no array and no readable file.
    """
    axes = parse_axes(axes)
    if isinstance(image, str) and "\n" in image and not os.path.lexists(image):
        raise RefusedError("image-not-array", name=name, why="it is a text of several lines")
    if isinstance(image, str | os.PathLike):
        header = read_header(image, axes)
        return header, lambda: read_pixels(header)
    scale = units = None
    if is_labelled_array(image):
        axes = parse_axes(axes) or _name_axes(name, image)
        scale, units = _read_pixel_sizes(image, axes)
        image = image.data
    array, notes = convert_to_array(name, image), tuple[Note, ...]()
    if axes and "S" in axes[: array.ndim] and array.shape[axes.index("S")] == COLOUR_COUNT + 1:
        array = array[(*[slice(None)] * axes.index("S"), slice(COLOUR_COUNT))]
        notes = (make_note("alpha-skipped", name=name),)
    try:
        shape = tuple(int(side) for side in array.shape)
    except (TypeError, ValueError):  # dask arrays may have chunks of unknown size
        why = "its size is not known yet"
        raise RefusedError("image-not-array", name=name, why=why) from None
    axis_letters = axes or ("" if axes is not None else guess_axes(shape))
    array_header = ImageHeader(
        name=name,
        shape=shape,
        dtype=str(array.dtype.name),
        axes=axis_letters,
        has_guessed_axes=axes is None,
        scale=scale,
        units=units,
        notes=notes,
    )
    pixels = LazyPixels(name, array) if is_dask_array(array) else array
    return array_header, lambda: pixels


def is_labelled_array(value: object) -> bool:
    """Return whether a value is an `xarray.DataArray`, or has its interface."""
    return all(hasattr(value, name) for name in ("dims", "coords", "data"))


def _name_axes(name: str, image: Any) -> str:
    """Return the letters of the dimensions of a labelled array."""
    letters = [_AXES_OF_DIMENSIONS.get(str(dim).lower()) for dim in image.dims]
    if None in letters or len(set(letters)) < len(letters):
        dims = ", ".join(map(str, image.dims))
        raise RefusedError("dimensions-unknown", name=name, dims=dims)
    return "".join(map(str, letters))


def _read_pixel_sizes(
    image: Any, axes: str
) -> tuple[tuple[float, ...] | None, tuple[str, ...] | None]:
    """Return scale and units of a header from coordinates that are evenly spaced."""
    sizes: dict[str, tuple[float, str]] = {}
    for axis, dim in zip(axes, image.dims, strict=False):
        if axis in "CS" or dim not in image.coords or len(image.coords[dim]) < 2:
            continue
        coordinate = image.coords[dim]
        values = np.asarray(coordinate.values)
        if values.dtype.kind not in "iuf":
            continue
        steps = np.diff(values.astype(np.float64))
        # coordinates from a division differ in their last digits
        if steps[0] and np.allclose(steps, steps[0], rtol=1e-3, atol=0):
            unit = str(coordinate.attrs.get("units", "pixel"))
            sizes[axis] = (float(f"{abs(steps.mean()):.9g}"), unit)
    return split_pixel_sizes(axes, sizes)


def convert_to_array(name: str, value: Any) -> Any:
    """Convert a value to an array in native byte order; dask arrays stay lazy."""
    if value is None or isinstance(value, bytes | bytearray | Mapping | Iterator | Set):
        raise RefusedError("image-not-array", name=name, why=_describe_type(value))
    if is_dask_array(value):
        return value
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor of PyTorch
        import torch

        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:  # which NumPy does not have
            value = value.float()
    try:
        array: AnyArray = np.asarray(value)
    except Exception as error:  # __array__ of foreign types may raise anything
        why = str(error).strip().splitlines()[0].rstrip(".") if str(error) else "it is not made so"
        raise RefusedError("image-not-array", name=name, why=why) from None
    if array.dtype == object and not array.ndim:
        raise RefusedError("image-not-array", name=name, why=_describe_type(value))
    if array.dtype.kind in "US" and array.ndim < 2:
        why = "it holds texts, and several files are restored by napari_dip.batch"
        raise RefusedError("image-not-array", name=name, why=why)
    if isinstance(value, np.ma.MaskedArray) and (hidden := int(np.ma.count_masked(value))):
        raise RefusedError("image-masked", count=hidden, total=array.size, name=name)
    if array.dtype.byteorder not in "=|" and array.dtype.fields is None:
        return array.astype(array.dtype.newbyteorder("="))
    return array


def _describe_type(value: object) -> str:
    """Return a clause for the user on why a value is no array."""
    if isinstance(value, Mapping):
        return f"it is a mapping (type {type(value).__name__}), so give one of its values"
    if isinstance(value, Iterator):
        return f"it can be gone through only once (type {type(value).__name__})"
    return "it is None" if value is None else f"it is of type {type(value).__name__}"
