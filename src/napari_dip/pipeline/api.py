"""Python functions that restore an image, given as an array or a file: one for each task."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from napari_dip.errors import FailedError, RefusedError, make_unknown_refusal, raise_if_refused
from napari_dip.io.reading import open_pixels
from napari_dip.pipeline.execute.runner import run as start_run
from napari_dip.pipeline.interactive_run import Run, UserControl, make_keep_after_control
from napari_dip.pipeline.lazy_inputs import is_labelled_array, open_input
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import (
    OLD_INPUTS,
    Recipe,
    accept_old_names,
    list_settings,
    load_recipe,
    make_recipe,
)
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.interactive_run import PollControl
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.public_types import (
        Answer,
        AxisLetters,
        BlindDeblurKeywords,
        DeblurKeywords,
        DenoiseKeywords,
        FilePath,
        GuideKeywords,
        ImageLike,
        InpaintKeywords,
        InputKeywords,
        InvertFeaturesKeywords,
        ResultT_co,
        SuperResolveKeywords,
        TaskFunction,
    )

    #: Called with each event of a run; its answer says how to go on.
    ProgressCallback = Callable[[Event], Answer]

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")
#: Minimum time between two previews, in seconds; more of them slow the fit.
_PREVIEW_SECONDS = 0.2


def _accept_settings(function: Callable[..., ResultT_co]) -> TaskFunction[ResultT_co]:
    """Let type checkers see the settings of each task."""
    return function


def _show_settings(task: str) -> Callable[[FunctionT], FunctionT]:
    """Let `help`, notebooks and the docs see the settings of a task, with their defaults."""

    def show(function: FunctionT) -> FunctionT:
        signature = inspect.signature(function)
        *parameters, _ = signature.parameters.values()
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            for name, field in list_settings(task).items()
        ]
        vars(function)["__signature__"] = signature.replace(parameters=parameters)
        return function

    return show


@_accept_settings
def run(task: str, image: ImageLike, *, axes: AxisLetters | None = None, **settings: Any) -> Run:
    """Start a run, and return the generator of its events.

    Parameters
    ----------
    task : str
        As on the command line, such as "denoise" or "super-resolve".
    image, axes
        As for `denoise`.
    **settings
        Settings and extra inputs of the task, such as ``preset="fast"`` or ``psf=array``.

    Returns
    -------
    Run
        Yields each `Event`, some with a ``preview``. It has the methods ``pause``, ``resume``,
        ``keep`` and ``discard``, and after its end the ``result``.

    Raises
    ------
    RefusedError
        If an image or a setting cannot be used; nothing was computed.
    FailedError
        From the loop, if the run failed after work had begun.

    Examples
    --------
    >>> run = dip.run("denoise", image, preset="fast", max_iterations=50)
    >>> for event in run:
    ...     if event.iteration >= 25:
    ...         run.keep()
    >>> run.result.stop_reason
    <StopReason.USER: 'user'>
    """
    recipe, inputs = _split_inputs(task, settings)
    return Run(*_prepare(recipe, image, axes, inputs))


def restore(
    image: ImageLike,
    recipe: Recipe | FilePath | Mapping[str, Any],
    *,
    progress: ProgressCallback | None = None,
    axes: AxisLetters | None = None,
    keep_after: int | None = None,
    **inputs: Unpack[InputKeywords[ImageLike]],
) -> Restoration:
    """Restore an image by a recipe.

    Parameters
    ----------
    image, progress, axes
        As for `denoise`.
    recipe : Recipe, str or path
        A recipe, its JSON text, or the path of a recipe file. A mapping as in the JSON text is
        accepted, too.
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

    Examples
    --------
    >>> result = dip.denoise(image, preset="fast", max_iterations=10)
    >>> again = dip.restore(image, result.recipe)
    >>> bool((again.image == result.image).all())
    True
    """
    inputs_by_name = accept_old_names(inputs, OLD_INPUTS)
    return _run_to_end(load_recipe(recipe), image, axes, inputs_by_name, progress, keep_after)


@_accept_settings
def plan(task: str, image: ImageLike, *, axes: AxisLetters | None = None, **settings: Any) -> Plan:
    """Plan a run without starting it, as `napari-dip plan` does; torch is not loaded.

    Parameters
    ----------
    task, image, axes, **settings
        As for `run`.

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
    >>> dip.plan("denoise", image, preset="best", threads=1).threads
    1
    """
    from napari_dip.pipeline.calibrate.inputs import inspect_early

    recipe, inputs = _split_inputs(task, settings)
    planned, readers = _plan_with_readers(recipe, image, axes, inputs)
    task_inputs = recipe.task.spec.inputs[1:]
    early_names = [item.name for item in task_inputs if item.is_inspected_early]
    pixels = {name: readers[name]() for name in early_names if name in readers}
    notes = (*planned.header.axes_notes, *planned.notes)
    notes += inspect_early(planned, pixels)
    return replace(planned, notes=tuple(dict.fromkeys(notes)))


def _split_inputs(task: str, settings: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of keywords, and the extra inputs among them by their present names."""
    task_inputs = TASKS[task].spec.inputs[1:] if task in TASKS else ()
    names = {*(item.name for item in task_inputs), *OLD_INPUTS, "network_file"}
    inputs = {name: value for name, value in settings.items() if name in names}
    other_settings = {name: value for name, value in settings.items() if name not in names}
    return make_recipe(task, **other_settings), accept_old_names(inputs, OLD_INPUTS)


def _plan_with_readers(
    recipe: Recipe, image: Any, axes: object, inputs: Mapping[str, Any]
) -> tuple[Plan, dict[str, Callable[[], Any]]]:
    """Return the plan of a run, and a function for each input that reads its pixels."""
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight
    from napari_dip.pipeline.store.network_files import pop_network_file

    given_inputs = {name: value for name, value in inputs.items() if value is not None}
    network = pop_network_file(given_inputs)
    names = [task_input.name for task_input in recipe.task.spec.inputs]
    if unknown := set(given_inputs) - set(names):
        raise RefusedError(make_unknown_refusal(min(unknown), names))
    header, read_image = open_input("image", image, axes)
    opened = {name: open_input(name, value, None) for name, value in given_inputs.items()}
    headers = {name: extra_header for name, (extra_header, _) in opened.items()}
    plan = raise_if_refused(preflight(recipe, header, detect_machine(), headers, network))
    if plan.tiles and header.path:
        read_image = partial(open_pixels, header)
    return plan, {"image": read_image, **{name: read for name, (_, read) in opened.items()}}


def _prepare(
    recipe: Recipe,
    image: Any,
    axes: object,
    given_inputs: Mapping[str, Any],
    *,
    keep_after: int | None = None,
    has_previews: bool = True,
) -> tuple[Plan, Callable[[PollControl], Generator[Event, None, Restoration | None]]]:
    """Plan a run and read its inputs; return the plan, and what starts the run."""
    from napari_dip.pipeline.lazy_inputs import check_unchanged, stamp_files

    make_keep_after_control(keep_after)  # refuse a wrong value first
    plan, readers = _plan_with_readers(recipe, image, axes, given_inputs)
    stamps = stamp_files(plan)
    inputs = {name: read() for name, read in readers.items()}
    check_unchanged(stamps)

    def start(poll_control: PollControl) -> Generator[Event, None, Restoration | None]:
        result = yield from start_run(
            plan,
            inputs,
            poll_control=make_keep_after_control(keep_after, poll_control),
            preview_seconds=_PREVIEW_SECONDS if has_previews else None,
            stamps=stamps,
        )
        if result is None or result.writer is None or not is_labelled_array(image):
            return result
        template = image[tuple(map(slice, plan.header.shape))]  # without alpha
        return replace(result, writer=result.writer.use_template(template))

    return plan, start


def _run_to_end(
    recipe: Recipe,
    image: Any,
    axes: object,
    inputs: Mapping[str, Any],
    progress: ProgressCallback | None,
    keep_after: int | None = None,
) -> Restoration:
    """Restore an image, and follow what `progress` answers."""
    has_previews = progress is not None
    _, start = _prepare(
        recipe, image, axes, inputs, keep_after=keep_after, has_previews=has_previews
    )
    control = UserControl(progress)
    result = drain_generator(start(control.poll), control.show)
    if result is None:
        raise FailedError("result-none")
    return result


def _restore_by_keywords(
    task: str,
    image: ImageLike,
    progress: ProgressCallback | None,
    axes: AxisLetters | None,
    settings: Mapping[str, Any],
    **inputs: Any,
) -> Restoration:
    """Restore an image by the settings of a task, and inputs by name."""
    recipe, old_inputs = _split_inputs(task, settings)
    return _run_to_end(recipe, image, axes, {**inputs, **old_inputs}, progress)


@_show_settings("denoise")
def denoise(
    image: ImageLike,
    *,
    repeated_exposure: ImageLike | None = None,
    offset_map: ImageLike | None = None,
    gain_map: ImageLike | None = None,
    noise_map: ImageLike | None = None,
    network_file: FilePath | None = None,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[DenoiseKeywords],
) -> Restoration:
    """Remove the noise of one image; without `network_file` nothing is learned from other images.

    Parameters
    ----------
    image : array-like or path
        NumPy or dask array, `xarray.DataArray` (its dimensions are the axes), PyTorch tensor,
        nested lists of numbers, or the path of an image file.
    repeated_exposure : array-like or path, optional
        Another measurement of the same, unmoved object, of the same shape; its exposure time may
        differ.
    offset_map, gain_map, noise_map : array-like or path, optional
        Maps of an sCMOS camera, each one plane of the image's size. They hold what a pixel reads
        without light, its grey values per photo-electron, and its read noise in grey values.
        Offset and gain are corrected first, and noisy pixels get less weight.
    network_file : path, optional
        A network that was fitted to files of the same series by
        ``batch(..., joint_training=True)``; it is applied to this image. Or the network of one
        other image, saved by ``result.network.save("NAME.safetensors")``; the fit begins with it
        and takes a fifth of the iterations, at least 25.
    axes : str, optional
        One letter of T, C, Z, Y, X and S (S: red, green, blue) for each axis, such as "YXS" for
        a colour image. Default: the axes that a file names; for arrays "YX" or "ZYX".
    progress : callable, optional
        Called with each `Event`, in the calling thread. It may return what to do: None or "go",
        "pause" (it is called again until it answers otherwise), "keep" (end with the best result
        so far) or "discard" (end by a `FailedError`).
    **settings
        Settings of the task, such as ``preset="fast"``, ``seed=1`` or ``max_iterations=200``.

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

    Examples
    --------
    >>> result = dip.denoise(image, preset="fast", max_iterations=10)
    >>> result.image.shape == image.shape
    True
    """
    maps = {"offset_map": offset_map, "gain_map": gain_map, "noise_map": noise_map}
    inputs = {**maps, "repeated_exposure": repeated_exposure, "network_file": network_file}
    return _restore_by_keywords("denoise", image, progress, axes, settings, **inputs)


@_show_settings("inpaint")
def inpaint(
    image: ImageLike,
    mask: ImageLike | None = None,
    *,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[InpaintKeywords],
) -> Restoration:
    """Fill in missing pixels from the rest of the image, without learning from other images.

    Parameters
    ----------
    image : array-like or path
        Pixels of value NaN are filled in, too.
    mask : array-like or path, optional
        Above 0 where pixels are to be filled in. Its shape is that of the image, with or without
        channels, or (Y, X) for all planes. It may be omitted if the image has NaN, or is a masked
        array of NumPy.
    axes, progress
        As for `denoise`.
    **settings
        Settings of the task, such as ``invert_mask=True``, ``label=2``, ``grow=3`` or
        ``unmasked="denoise"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. Unmasked pixels keep their
        values, unless ``unmasked="denoise"``.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.

    Examples
    --------
    >>> result = dip.inpaint(image, image > 170, preset="fast", max_iterations=10)
    """
    if isinstance(image, np.ma.MaskedArray):
        if mask is not None and (hidden := int(np.ma.count_masked(image))):
            raise RefusedError("mask-twice", count=hidden, name="image")
        image, mask = image.data, np.ma.getmaskarray(image) if mask is None else mask
    return _restore_by_keywords("inpaint", image, progress, axes, settings, mask=mask)


@_show_settings("guide")
def guide(
    image: ImageLike,
    guide: ImageLike,
    *,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[GuideKeywords],
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
    axes, progress
        As for `denoise`.
    **settings
        Settings of the task, such as ``align=True`` or ``prior="random-input"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input; ``report["prior"]`` tells whether
        the guide was used.

    Examples
    --------
    >>> result = dip.guide(image, bright_channel, preset="fast", max_iterations=10)
    """
    return _restore_by_keywords("guide", image, progress, axes, settings, guide=guide)


@_show_settings("super-resolve")
def super_resolve(
    image: ImageLike,
    *,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[SuperResolveKeywords],
) -> Restoration:
    """Estimate an image with finer pixels that explains a coarse one.

    Parameters
    ----------
    image, axes, progress
        As for `denoise`.
    **settings
        Settings of the task, such as ``downsampling="binning"`` or ``psf_sigma=1.5``. The upscaling
        ``factor`` is 2 by default, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as (Y, X), or
        as (Z, Y, X) for a stack. One or two numbers do not change the distance of its planes.

    Returns
    -------
    Restoration
        Its ``image`` has the shape of the input times the factor, in the input's intensity units.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, CVPR 2018.

    Examples
    --------
    >>> result = dip.super_resolve(image, factor=2, preset="fast", max_iterations=10)
    """
    return _restore_by_keywords("super-resolve", image, progress, axes, settings)


@_show_settings("deblur")
def deblur(
    image: ImageLike,
    psf: ImageLike | None = None,
    *,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[DeblurKeywords],
) -> Restoration:
    """Undo a blur whose point spread function (PSF) is known.

    Parameters
    ----------
    image : array-like or path
    psf : array-like or path, optional
        Image of the PSF, of any sum; with three axes for a volume. The PSF can also be given by
        ``gaussian_sigma`` and ``gaussian_sigma_z`` in pixels, or by ``microscope`` ("widefield" or
        "confocal") with ``na``, ``wavelength``, ``pixel_size`` and ``z_step`` in nm.
    axes, progress
        As for `denoise`.
    **settings
        Settings of the task, such as ``border="circular"``.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input.

    Examples
    --------
    >>> result = dip.deblur(image, gaussian_sigma=1.2, preset="fast", max_iterations=10)
    """
    return _restore_by_keywords("deblur", image, progress, axes, settings, psf=psf)


@_show_settings("blind-deblur")
def blind_deblur(
    image: ImageLike,
    *,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[BlindDeblurKeywords],
) -> Restoration:
    """Undo a blur whose point spread function (PSF) is unknown, and estimate the PSF.

    Parameters
    ----------
    image, axes, progress
        As for `denoise`.
    **settings
        Settings of the task, such as ``blur="motion"`` ("gaussian", "defocus", "lens", "free").
        ``psf_size`` is the width of the estimated PSF in pixels; choose it rather too wide than
        too narrow.

    Returns
    -------
    Restoration
        Its ``learned_parameters["psf"]`` is the estimated PSF, non-negative and of sum one:
        (Y, X), or one for each channel that was restored independently. For a parametric blur
        there are also "sigmas"; "length" and "angle"; "radius"; or "waves" and "cutoff".

    References
    ----------
    Ren et al., Neural blind deconvolution using deep priors, CVPR 2020,
    doi:10.1109/CVPR42600.2020.00340.

    Examples
    --------
    >>> result = dip.blind_deblur(image, blur="gaussian", preset="fast", max_iterations=10)
    """
    return _restore_by_keywords("blind-deblur", image, progress, axes, settings)


@_show_settings("invert-features")
def invert_features(
    image: ImageLike,
    *,
    axes: AxisLetters | None = None,
    progress: ProgressCallback | None = None,
    **settings: Unpack[InvertFeaturesKeywords],
) -> Restoration:
    """Restore an image from the activations of one layer of a network, to see what it preserves.

    Parameters
    ----------
    image : array-like or path
        One plane: grey, in colour, or with as many channels as the network takes.
    axes, progress
        As for `denoise`.
    **settings
        Settings of the task. ``network`` is the path of a torch.export program (.pt2), or the name
        of a torchvision architecture. ``layer`` is the path of the module whose output is
        inverted; without it, the `RefusedError` names all layers.

    Returns
    -------
    Restoration
        Its ``image`` has shape and intensity units of the input. No pixel of the input was
        fitted, only the activations of the layer.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4.

    Examples
    --------
    >>> settings = {"network": "network.pt2", "layer": "body.1", "max_iterations": 10}
    >>> result = dip.invert_features(image, **settings)
    """
    settings.setdefault("layer", "list")
    return _restore_by_keywords("invert-features", image, progress, axes, settings)
