"""The Python door: from an array or a file and a recipe to a restored picture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Failed, Refusal, Refused, refusal
from napari_dip.io import ImageSpec, guess_axes
from napari_dip.io.regions import open_pixels
from napari_dip.pipeline.events import drain_generator
from napari_dip.pipeline.lazy_inputs import LazyPixels, is_dask_array
from napari_dip.pipeline.recipe import (
    OLD_INPUTS,
    Recipe,
    accept_old_names,
    recipe_from_dict,
    recipe_from_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from napari_dip.pipeline.events import Event, Restoration

#: Seconds between the pictures that `progress` is shown; drawing more often slows the fit.
_PREVIEW_SECONDS = 0.2


def restore(
    image: Any,
    recipe: Recipe | str | os.PathLike[str],
    *,
    progress: Callable[[Event], object] | None = None,
    axes: str | Sequence[str] | None = None,
    keep_after: int | None = None,
    **inputs: Any,
) -> Restoration:
    """Run a recipe on an image; what all other calls of this kind come down to.

    Parameters
    ----------
    image : array-like or path
    recipe : Recipe, path of a recipe file, JSON text or the mapping it holds
    progress : callable, optional
        Called with each `Event`, in this thread.
    axes : str, optional
        One letter for each axis out of T, C, Z, Y, X and S (S = red, green, blue), such as
        "YXS" for a colour image. Default: "YX" for two axes, "ZYX" for three; a file's own.
    keep_after : int, optional
        Iterations after which the best picture so far is kept, as by "Stop and keep": repeats a
        run that was ended so.
    **inputs : array-like or path
        Further images that the task takes, by name; ``network_file``: see `denoise`.

    Returns
    -------
    Restoration

    Raises
    ------
    Refused
        If a picture or a setting cannot be used; nothing was computed.
    Failed
        If the work began and could not end well.
    """
    from napari_dip.pipeline.execute.crop_preview import make_keep_after_control
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.lazy_inputs import check_unchanged, stamp_plan_files
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight
    from napari_dip.pipeline.store.shared_network import (
        SHARED_NETWORK_INPUT,
        plan_with_network,
        read_network,
    )

    choice, inputs = load_recipe(recipe), accept_old_names(inputs, OLD_INPUTS)
    network = (
        None if (named := inputs.pop(SHARED_NETWORK_INPUT, None)) is None else read_network(named)
    )
    _check_names(choice, inputs)
    control = make_keep_after_control(keep_after)
    spec, pixels = describe_input("image", image, axes)
    others = {
        name: describe_input(name, item, None) for name, item in inputs.items() if item is not None
    }
    headers = {name: header for name, (header, _) in others.items()}
    plan = plan_with_network(preflight(choice, spec, detect_machine(), headers), network)
    if isinstance(plan, Refusal):
        raise Refused(plan)
    plan = stamp_plan_files(plan)
    image = open_pixels(spec) if plan.tiles and spec.path else pixels()
    data = {"image": image, **{name: read() for name, (_, read) in others.items()}}
    check_unchanged(plan)
    seconds = _PREVIEW_SECONDS if progress else None
    result = drain_generator(run(plan, data, control=control, preview_seconds=seconds), progress)
    if result is None:  # only a control that says so can end a run with nothing
        raise Failed(refusal("unexpected", why="the run ended without a picture"))
    return result


def _check_names(recipe: Recipe, inputs: Mapping[str, Any]) -> None:
    names = [item.name for item in recipe.task.inputs]
    if unknown := set(inputs) - set(names):
        facts = {"field": min(unknown), "known": ", ".join(names)}
        raise Refused(refusal("setting-unknown", **facts))


def load_recipe(recipe: object) -> Recipe:
    """Take a recipe in any of the forms that people keep it in.

    Raises
    ------
    Refused
        If it cannot be read or is not a recipe.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and recipe.lstrip().startswith("{"):
        return recipe_from_json(recipe)
    if isinstance(recipe, str | os.PathLike):
        return _read_recipe_file(os.fspath(recipe))
    return recipe_from_dict(recipe)


def _read_recipe_file(path: str) -> Recipe:
    from napari_dip.errors.fault import make_printable
    from napari_dip.io.paths import MAX_SETTINGS_BYTES, describe_exception, read_small_text

    printable = make_printable(path)
    try:
        text = read_small_text(path, "a recipe", MAX_SETTINGS_BYTES)
    except ValueError as error:
        raise Refused(
            refusal("recipe-broken", path=printable, why=describe_exception(error))
        ) from None
    return recipe_from_json(text, origin=printable)


def parse_axes(axes: object) -> str | None:
    """Read names of axes, as one text or as a sequence of letters.

    Raises
    ------
    Refused
        If they are neither.
    """
    letters = axes if isinstance(axes, list | tuple) else [axes]
    if axes is None:
        return None
    if not all(isinstance(letter, str) for letter in letters):
        why = "it should be one letter for each axis"
        hint = "Give a text such as 'ZYX', or a list of such letters."
        raise Refused(refusal("setting-wrong", field="axes", value=repr(axes), why=why, hint=hint))
    return "".join(map(str, letters)).upper()


def describe_input(name: str, image: Any, axes: object) -> tuple[ImageSpec, Callable[[], Any]]:
    """Describe an image, and say how to get at its pixels once a plan says yes."""
    axes = parse_axes(axes)
    if isinstance(image, str) and "\n" in image and not os.path.lexists(image):
        raise Refused(refusal("image-not-array", name=name, why="it is a text of several lines"))
    if isinstance(image, str | os.PathLike):
        from napari_dip.io.reading import read_pixels, read_spec

        spec = read_spec(image, axes)
        return spec, lambda: read_pixels(spec)
    array = _convert_to_array(name, image)
    try:
        shape = tuple(int(side) for side in array.shape)
    except (TypeError, ValueError):  # dask arrays may not know their size yet
        why = "its size is not known yet"
        raise Refused(refusal("image-not-array", name=name, why=why)) from None
    named = axes or ("" if axes is not None else guess_axes(shape))
    spec = ImageSpec(
        name=name, shape=shape, dtype=str(array.dtype.name), axes=named, guessed=axes is None
    )
    pixels = LazyPixels(name, array) if is_dask_array(array) else array
    return spec, lambda: pixels


def _convert_to_array(name: str, value: Any) -> Any:
    """Make an array of whatever can be one; dask arrays stay lazy."""
    if value is None or isinstance(value, bytes | bytearray | Mapping | Iterator | Set):
        raise Refused(refusal("image-not-array", name=name, why=_describe_type(value)))
    if is_dask_array(value):
        return value
    import numpy as np

    try:
        array: npt.NDArray[Any] = np.asarray(value)
    except Exception as error:  # __array__ of foreign types may raise anything
        why = str(error).strip().splitlines()[0].rstrip(".") if str(error) else "it is not made so"
        raise Refused(refusal("image-not-array", name=name, why=why)) from None
    if array.dtype == object and not array.ndim:
        raise Refused(refusal("image-not-array", name=name, why=_describe_type(value)))
    if array.dtype.kind in "US" and array.ndim < 2:
        why = "it holds texts, and several files are restored by napari_dip.batch"
        raise Refused(refusal("image-not-array", name=name, why=why))
    if isinstance(value, np.ma.MaskedArray) and (hidden := int(np.ma.count_masked(value))):
        facts = {"count": hidden, "total": array.size, "name": name}
        raise Refused(refusal("image-masked", **facts))
    if array.dtype.byteorder not in "=|" and array.dtype.fields is None:
        return array.astype(array.dtype.newbyteorder("="))
    return array


def _describe_type(value: object) -> str:
    """Say what was given that is no array."""
    if isinstance(value, Mapping):
        return f"it is a mapping (type {type(value).__name__}), so give one of its values"
    if isinstance(value, Iterator):
        return f"it can be gone through only once (type {type(value).__name__})"
    return "it is None" if value is None else f"it is of type {type(value).__name__}"
