"""Python functions that restore an image, given as an array or a file: one for each task."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.errors import FailedError, RefusedError, raise_if_refused
from napari_dip.io import ImageHeader, guess_axes
from napari_dip.io.reading import open_pixels
from napari_dip.pipeline.events import drain_generator
from napari_dip.pipeline.lazy_inputs import LazyPixels, convert_to_array, is_dask_array
from napari_dip.pipeline.recipe import (
    OLD_INPUTS,
    Recipe,
    accept_old_names,
    make_recipe,
    recipe_from_dict,
    recipe_from_json,
)
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.pipeline.plan.types import Plan

#: Minimum time between two previews for `progress`, in seconds; more of them slow the fit.
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
    """Restore an image by a recipe; the functions of the single tasks call this one.

    Parameters
    ----------
    image : array-like or path
    recipe : Recipe, str or path
        A recipe, its JSON text, or the path of a recipe file. A mapping as in the JSON text is
        accepted, too.
    progress : callable, optional
        Called with each `Event`, in the calling thread.
    axes : str, optional
        One letter of T, C, Z, Y, X and S (S: red, green, blue) for each axis, such as "YXS" for
        a colour image. Default: the axes that a file names; for arrays "YX" or "ZYX".
    keep_after : int, optional
        Iterations after which the run ends with the best result so far, as by "Stop and keep".
        With it, a run that a user has ended can be repeated.
    **inputs : array-like or path
        Extra inputs of the task, by name; for ``network_file`` see `denoise`.

    Returns
    -------
    Restoration

    Raises
    ------
    RefusedError
        If an image or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.
    """
    from napari_dip.pipeline.execute.run_monitor import make_keep_after_control
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.lazy_inputs import check_unchanged, stamp_files

    parsed_recipe, inputs = load_recipe(recipe), accept_old_names(inputs, OLD_INPUTS)
    poll_control = make_keep_after_control(keep_after)
    plan, readers = _plan_with_readers(parsed_recipe, image, axes, inputs)
    stamps = stamp_files(plan)
    data = {name: read() for name, read in readers.items()}
    check_unchanged(stamps)
    preview_seconds = _PREVIEW_SECONDS if progress else None
    result = drain_generator(
        run(plan, data, poll_control=poll_control, preview_seconds=preview_seconds, stamps=stamps),
        progress,
    )
    if result is None:  # the run was ended before there was any result
        raise FailedError("unexpected", why="the run ended without an image")
    return result


def plan(task: str, image: Any, *, axes: str | None = None, **settings: Any) -> Plan:
    """Plan a run without starting it, as `napari-dip plan` does; torch is not loaded.

    Parameters
    ----------
    task : str
        As on the command line, such as "denoise" or "super-resolve".
    image : array-like or path
    axes : str, optional
        As for `denoise`.
    **settings
        Settings and extra inputs of the task, such as ``preset="fast"`` or ``psf=array``.

    Returns
    -------
    Plan
        Among others with ``seconds`` and ``peak_bytes``, which are upper estimates, ``threads``,
        ``notes``, and ``summary``, a line of text.

    Raises
    ------
    RefusedError
        If the run would be refused by what is known before its start.

    Examples
    --------
    >>> dip.plan("denoise", image, preset="best").seconds
    """
    from napari_dip.pipeline.calibrate.inputs import inspect_early

    task_inputs = TASKS[task].spec.inputs[1:] if task in TASKS else ()
    names = {*(item.name for item in task_inputs), *OLD_INPUTS, "network_file"}
    inputs = {name: settings.pop(name) for name in names.intersection(settings)}
    recipe = make_recipe(task, **settings)
    run_plan, readers = _plan_with_readers(
        recipe, image, axes, accept_old_names(inputs, OLD_INPUTS)
    )
    early_names = [item.name for item in task_inputs if item.is_inspected_early]
    pixels = {name: readers[name]() for name in early_names if name in readers}
    notes = (*run_plan.header.axes_notes, *run_plan.notes)
    early_notes = raise_if_refused(inspect_early(run_plan, pixels))
    return replace(run_plan, notes=tuple(dict.fromkeys((*notes, *early_notes))))


def _plan_with_readers(
    recipe: Recipe, image: Any, axes: object, inputs: dict[str, Any]
) -> tuple[Plan, dict[str, Callable[[], Any]]]:
    """Return the plan of a run, and a function for each input that reads its pixels."""
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight
    from napari_dip.pipeline.store.joint_network import pop_network_file

    network = pop_network_file(inputs)
    _check_input_names(recipe, inputs)
    header, read_image = open_input("image", image, axes)
    opened = {
        name: open_input(name, value, None) for name, value in inputs.items() if value is not None
    }
    headers = {name: extra_header for name, (extra_header, _) in opened.items()}
    plan = raise_if_refused(preflight(recipe, header, detect_machine(), headers, network))
    if plan.tiles and header.path:
        read_image = partial(open_pixels, header)
    return plan, {"image": read_image, **{name: read for name, (_, read) in opened.items()}}


def denoise(
    image: Any,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    repeated_exposure: Any = None,
    offset_map: Any = None,
    gain_map: Any = None,
    noise_map: Any = None,
    network_file: Any = None,
    **settings: Any,
) -> Restoration:
    """Remove the noise of one image; without `network_file` nothing is learned from other images.

    Parameters
    ----------
    image : array-like or path
        NumPy or dask array, nested lists of numbers, or the path of an image file.
    preset : {"instant", "fast", "balanced", "best"}
    seed : int
        The same seed gives the same pixels on the same kind of computer.
    device : {"auto", "cpu", "cuda", "mps"}
    progress : callable, optional
        Called with each `Event`, in the calling thread.
    axes : str, optional
        One letter of T, C, Z, Y, X and S (S: red, green, blue) for each axis, such as "YXS" for
        a colour image. Default: the axes that a file names; for arrays "YX" or "ZYX".
    repeated_exposure : array-like or path, optional
        Another measurement of the same, unmoved object, of the same shape; its exposure time may
        differ.
    offset_map, gain_map, noise_map : array-like or path, optional
        Maps of an sCMOS camera, each one plane of the image's size. They hold what a pixel reads
        without light, its grey values per photo-electron, and its read noise in grey values.
        Offset and gain are corrected first, and noisy pixels get less weight.
    network_file : path, optional
        A network that was fitted to files of the same series by
        ``batch(..., joint_training=True)``; it is applied to this image.
    **settings
        Any other setting of a recipe, such as ``prior="random-input"`` or ``max_iterations=200``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input.

    Raises
    ------
    RefusedError
        If the image or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    renamed_inputs = {name: settings.pop(name) for name in OLD_INPUTS if name in settings}
    recipe = make_recipe("denoise", preset=preset, seed=seed, device=device, **settings)
    maps = {"offset_map": offset_map, "gain_map": gain_map, "noise_map": noise_map}
    named_inputs = {"repeated_exposure": repeated_exposure, "network_file": network_file, **maps}
    extra_inputs = {
        **{name: value for name, value in named_inputs.items() if value is not None},
        **renamed_inputs,
    }
    return restore(image, recipe, progress=progress, axes=axes, **extra_inputs)


def inpaint(
    image: Any,
    mask: Any = None,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Fill in missing pixels from the rest of the image, without learning from other images.

    Parameters
    ----------
    image : array-like or path
        Pixels of value NaN are filled in, too.
    mask : array-like or path, optional
        Above 0 where pixels are to be filled in. Its shape is that of the image, with or without
        channels, or (Y, X) for all planes. It may be omitted if the image has NaN.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``invert_mask=True``, ``label=2``, ``grow=3`` or
        ``unmasked="denoise"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. Unmasked pixels keep their
        values, unless ``unmasked="denoise"``.

    Raises
    ------
    RefusedError, FailedError
        As for `denoise`.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    recipe = make_recipe("inpaint", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes, mask=mask)


def guide(
    image: Any,
    guide: Any,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Restore a noisy image with the help of a clean image of the same place.

    Parameters
    ----------
    image : array-like or path
        The noisy image.
    guide : array-like or path
        A clean image of the same height and width: a brighter channel, or a photograph with
        flash. It may have several channels, by the axes of its file or with
        ``planes_are_channels=True``. For a stack or movie, it has the same planes and frames, or
        is a single plane for all of them.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``align=True`` or ``prior="random-input"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input; ``report["prior"]`` tells whether
        the guide was used.

    Raises
    ------
    RefusedError
        If an image or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.
    """
    recipe = make_recipe("guide", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes, guide=guide)


def super_resolve(
    image: Any,
    factor: int | str | tuple[int, ...] = 2,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Estimate an image with finer pixels that explains a coarse one.

    Parameters
    ----------
    image : array-like or path
    factor : int or tuple of int
        Upscaling factor: 2, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as (Y, X), or as
        (Z, Y, X) for a stack. One or two numbers do not change the distance of its planes. A
        text such as that of the command line is accepted, too.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``model="binning"`` or ``psf_sigma=1.5``.

    Returns
    -------
    Restoration
        Its ``image`` has the shape of the input times the factor, in the input's intensity units.

    Raises
    ------
    RefusedError
        If the image or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.
    """
    other_settings = {"preset": preset, "seed": seed, "device": device, **settings}
    recipe = make_recipe("super-resolve", factor=factor, **other_settings)
    return restore(image, recipe, progress=progress, axes=axes)


def deblur(
    image: Any,
    psf: Any = None,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Undo a blur whose point spread function (PSF) is known.

    Parameters
    ----------
    image : array-like or path
    psf : array-like or path, optional
        Image of the PSF, of any sum; with three axes for a volume. The PSF can also be given by
        ``gaussian_sigma`` and ``gaussian_sigma_z`` in pixels, or by ``model`` ("widefield" or
        "confocal") with ``na``, ``wavelength``, ``pixel_size`` and ``z_step`` in nm.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``border="circular"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input.

    Raises
    ------
    RefusedError
        If the image, the PSF or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.
    """
    recipe = make_recipe("deblur", preset=preset, seed=seed, device=device, **settings)
    return restore(image, recipe, progress=progress, axes=axes, psf=psf)


def blind_deblur(
    image: Any,
    psf_size: int = 31,
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Undo a blur whose point spread function (PSF) is unknown, and estimate the PSF.

    Parameters
    ----------
    image : array-like or path
    psf_size : int
        Width of the estimated PSF in pixels; choose it rather too wide than too narrow.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``blur="motion"`` ("gaussian", "defocus", "free").

    Returns
    -------
    Restoration
        Its ``learned["psf"]`` is the estimated PSF, non-negative and of sum one: (Y, X), or one
        for each channel that was restored independently. For a parametric blur ``learned`` also
        has "sigmas", "length" and "angle", or "radius".

    Raises
    ------
    RefusedError
        If the image or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.

    References
    ----------
    Ren et al., Neural blind deconvolution using deep priors, CVPR 2020,
    doi:10.1109/CVPR42600.2020.00340.
    """
    settings |= {"psf_size": psf_size, "preset": preset, "seed": seed, "device": device}
    recipe = make_recipe("blind-deblur", **settings)
    return restore(image, recipe, progress=progress, axes=axes)


def invert_features(
    image: Any,
    network: str = "",
    layer: str = "list",
    preset: str = "balanced",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[Event], object] | None = None,
    axes: str | None = None,
    **settings: Any,
) -> Restoration:
    """Restore an image from the activations of one layer of a network, to see what it preserves.

    Parameters
    ----------
    image : array-like or path
        One plane: grey, in colour, or with as many channels as the network takes.
    network : str
        Path of a torch.export program (.pt2), or name of a torchvision architecture.
    layer : str
        Path of the module whose output is inverted; "list" raises `RefusedError` with all names.
    preset, seed, device, progress, axes
        As for `denoise`.
    **settings
        Any other setting of a recipe, such as ``prior="total-variation"`` or "none",
        ``weights="vgg16.safetensors"``, or ``mean="0.5"`` and ``deviation="0.25"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. No pixel of the input was
        fitted, only the activations of the layer.

    Raises
    ------
    RefusedError
        If the image, the network or a setting cannot be used; nothing was computed.
    FailedError
        If the run failed after work had begun.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4.
    """
    other_settings = {"preset": preset, "seed": seed, "device": device, **settings}
    recipe = make_recipe("invert-features", network=str(network), layer=layer, **other_settings)
    return restore(image, recipe, progress=progress, axes=axes)


def _check_input_names(recipe: Recipe, inputs: Mapping[str, Any]) -> None:
    names = [task_input.name for task_input in recipe.task.spec.inputs]
    if unknown := set(inputs) - set(names):
        raise RefusedError("setting-unknown", field=min(unknown), allowed=", ".join(names))


def load_task_recipe(path: str | os.PathLike[str], task: str) -> Recipe:
    """Return the recipe in a file; raise `RefusedError` if it is of another task."""
    recipe = load_recipe(path)
    if recipe.task.spec.name != task:
        facts = {"actual": recipe.task.spec.name, "wanted": task}
        raise RefusedError("recipe-task", path=path, **facts)
    return recipe


def load_recipe(recipe: object) -> Recipe:
    """Return a recipe, given as one, as JSON text, as a mapping, or as the path of a recipe file.

    Raises
    ------
    RefusedError
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
    from napari_dip.io.paths import MAX_SETTINGS_BYTES, describe_exception, read_small_text

    try:
        text = read_small_text(path, "a recipe", MAX_SETTINGS_BYTES)
    except ValueError as error:
        raise RefusedError("recipe-broken", path=path, why=describe_exception(error)) from None
    return recipe_from_json(text, origin=path)


def parse_axes(axes: object) -> str | None:
    """Return the letters of axes in upper case, given as a text or a list; None if not given.

    Raises
    ------
    RefusedError
        If they are neither a text nor a list of texts.
    """
    letters = axes if isinstance(axes, list | tuple) else [axes]
    if axes is None:
        return None
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
        from napari_dip.io.reading import read_header, read_pixels

        header = read_header(image, axes)
        return header, lambda: read_pixels(header)
    array = convert_to_array(name, image)
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
    )
    pixels = LazyPixels(name, array) if is_dask_array(array) else array
    return array_header, lambda: pixels
