"""Run the experiments from Python: an image in, figures out."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import FailedError, Refusal, RefusedError
from napari_dip.explore.experiment_setup import (
    choose_architectures,
    make_experiment_setup,
    read_truth,
)
from napari_dip.explore.feature_layers import PRIOR_LABELS, FeatureInversionResult, explore_features
from napari_dip.explore.progress import ExperimentTimer
from napari_dip.pipeline.api import describe_input
from napari_dip.pipeline.calibrate.inputs import arrange_inputs
from napari_dip.pipeline.events import drain_generator, map_generator
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import OLD_EXPERIMENT_SETTINGS, accept_old_names, make_recipe
from napari_dip.tasks.invert_features import describe_layer_size
from napari_dip.tasks.network_import.loading import NetworkFile, list_network_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy.typing as npt

    from napari_dip.explore.comparison import ArchitectureComparison
    from napari_dip.explore.feature_layers import FeatureInversion
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.progress import IterationUpdate
    from napari_dip.explore.spectra import SpectrumResult
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan

    Plans = tuple[tuple[tuple[str, Plan], ...], ...]

    Rows = tuple[tuple[FeatureInversion, ...], ...]

#: Crop in pixels and number of iterations of a comparison, which fits every architecture twice.
COMPARISON_DEFAULTS = {"crop": 128, "max_iterations": 300}
#: Default crop in pixels: each layer takes three fits.
FEATURE_CROP = 128
#: Default number of layers, evenly spaced from the first to the last.
DEFAULT_LAYER_COUNT = 5


def impedance(
    image: Any, *, progress: Callable[[Event], object] | None = None, **settings: Any
) -> ImpedanceResult:
    """Fit one untrained network to an image, the image with noise, its pixels shuffled, and noise.

    Parameters
    ----------
    image : array-like or path
        One plane, grey or colour; colours are averaged.
    progress : callable, optional
        Called with an `Event` after each iteration.
    **settings
        `preset` ("fast"), `architecture` ("preset"; or the name of another, such as "lipschitz-1.7"
        or "decoder+lipschitz-2"), `max_iterations` (500), `seed` (0), `device` ("auto"), `crop`
        (256; a larger image is cropped to its centre), `axes`.

    Returns
    -------
    ImpedanceResult
        Its `save(folder)` writes page, figures and table.

    Raises
    ------
    RefusedError
        If the image or a setting cannot be used.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4,
    figure "learning curves for the reconstruction task".
    """
    setup = make_experiment_setup(image, **accept_old_names(settings, OLD_EXPERIMENT_SETTINGS))
    from napari_dip.explore.noise_impedance import explore_impedance

    impedance: ImpedanceResult = _run_with_progress(explore_impedance(setup), progress)
    return impedance


def spectrum(
    image: Any,
    *,
    truth: Any = None,
    progress: Callable[[Event], object] | None = None,
    **settings: Any,
) -> SpectrumResult:
    """Measure when an untrained network learns which frequencies, and where to stop the fit.

    Parameters
    ----------
    image : array-like or path
        One noisy plane.
    truth : array-like or path, optional
        The same plane without noise, in the same units. With it, each output gets a PSNR.
    progress : callable, optional
        Called with an `Event` after each iteration.
    **settings
        As for `impedance`.

    Returns
    -------
    SpectrumResult
        Its `save(folder)` writes page, figures and tables.

    Raises
    ------
    RefusedError
        If an image or a setting cannot be used.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7.
    """
    setup = make_experiment_setup(image, **accept_old_names(settings, OLD_EXPERIMENT_SETTINGS))
    clean = None if truth is None else read_truth(truth, setup)
    from napari_dip.explore.spectra import explore_spectrum

    spectrum: SpectrumResult = _run_with_progress(explore_spectrum(setup, clean), progress)
    return spectrum


def architectures(
    image: Any,
    *,
    truth: Any = None,
    only: str | Iterable[str] | None = None,
    progress: Callable[[Event], object] | None = None,
    **settings: Any,
) -> ArchitectureComparison:
    """Fit several networks to an image, and choose the prior that suits it.

    Parameters
    ----------
    image : array-like or path
        One noisy plane.
    truth : array-like or path, optional
        The same plane without noise, in the same units. With it, each architecture gets a PSNR.
    only : str or iterable of str, optional
        Names of the architectures to compare with that of the preset; default: all.
    progress : callable, optional
        Called with an `Event` after each iteration.
    **settings
        As for `impedance`, but no `architecture`, `crop` 128 and `max_iterations` 300.

    Returns
    -------
    ArchitectureComparison
        Its `verdict` names the prior that suits the image; its `save(folder)` writes page, figures
        and tables.

    Raises
    ------
    RefusedError
        If an image or a setting cannot be used.

    References
    ----------
    Heckel, Hand, Deep decoder: concise image representations from untrained non-convolutional
    networks, ICLR 2019, arXiv:1810.03982.
    """
    setup = make_experiment_setup(image, **{**COMPARISON_DEFAULTS, **settings})
    clean = None if truth is None else read_truth(truth, setup)
    designs = choose_architectures(setup, only)
    from napari_dip.explore.comparison import explore_architectures

    architectures: ArchitectureComparison = _run_with_progress(
        explore_architectures(setup, designs, clean), progress
    )
    return architectures


def _run_with_progress(
    steps: Generator[IterationUpdate, None, Any], progress: Callable[[Event], object] | None
) -> Any:
    """Run an experiment to its end and pass its events to `progress`."""
    import napari_dip.explore.output.files  # noqa: F401 (registers the writer of `save`)

    timer = ExperimentTimer()
    events = map_generator(steps, lambda update: timer.add_time_left(update).event)
    result = drain_generator(events, progress)
    if result is None:  # unreachable without a control that discards
        why = "the experiment ended before its last iteration"
        raise FailedError("unexpected", why=why)
    return result


def features(
    image: Any,
    network: str = "",
    *,
    layers: str | Iterable[str] | None = None,
    crop: int | str = FEATURE_CROP,
    axes: str | None = None,
    progress: Callable[[Event], object] | None = None,
    **settings: Any,
) -> FeatureInversionResult:
    """Invert several layers of a network with an untrained network, total variation and no prior.

    Parameters
    ----------
    image : array-like or path
        One plane, grey or colour.
    network : str
        Path of a torch.export program (.pt2), or name of a torchvision architecture.
    layers : str or iterable of str, optional
        Paths of modules, in one string separated by commas. Default: five, from first to last.
    crop : int
        Side in pixels; a larger image is cropped to its centre.
    axes : str, optional
        One letter for each axis of the image.
    progress : callable, optional
        Called with an `Event` at intervals.
    **settings
        As for `napari_dip.invert_features`, but `preset` "fast".

    Returns
    -------
    FeatureInversionResult
        One row per layer; its `save(folder)` writes page, figure and table.

    Raises
    ------
    RefusedError
        If the image, the network or a setting cannot be used.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4,
    section on feature inversion.
    """
    task_settings = {"preset": "fast", "network": str(network), **settings}
    spec, pixels = _read_centre_crop(image, axes, crop)
    network_file = NetworkFile(
        network=str(network).strip(), weights=settings.get("weights") or None
    )
    network_layers = list_network_layers(network_file, spec.grid)
    if isinstance(network_layers, Refusal):
        raise RefusedError(network_layers)
    names = (
        _choose_even_layers([path for path, _ in network_layers])
        if layers is None
        else _split(layers)
    )
    plans, activation_sizes = _plan_inversions(names, task_settings, spec, pixels)
    rows = _run_inversions(pixels, plans, activation_sizes, progress)
    recipe = {
        **task_settings,
        "layers": list(names),
        "crop": crop,
        "axes": axes,
        "image": spec.name,
    }
    notes = tuple(dict.fromkeys(note for row in plans for _, plan in row for note in plan.notes))
    return FeatureInversionResult(
        name=spec.name,
        image=pixels,
        axes=spec.axes,
        rows=rows,
        recipe=recipe,
        notes=(*spec.notes, *notes),
    )


def _run_inversions(
    pixels: npt.NDArray[Any],
    plans: Plans,
    answers: dict[str, str],
    progress: Callable[[Event], object] | None,
) -> Rows:
    """Run all fits to their ends."""
    import napari_dip.explore.output.files  # noqa: F401 (registers the writer of `save`)

    steps = explore_features(pixels, plans, answers)
    rows = drain_generator(map_generator(steps, itemgetter(0)), progress)
    if rows is None:  # unreachable without a control that discards
        why = "the experiment ended before its last layer"
        raise FailedError("unexpected", why=why)
    return rows


def _read_centre_crop(
    image: Any, axes: str | None, crop: int | str
) -> tuple[ImageSpec, npt.NDArray[Any]]:
    """Read the image and crop it to its centre."""
    spec, load_pixels = describe_input("image", image, axes)
    try:
        side = int(crop)
    except ValueError:
        side = 0
    if side < 1:
        facts = {"field": "crop", "value": repr(crop), "hint": "Leave it out for 128 pixels."}
        why = "it should be a whole number of pixels"
        raise RefusedError("setting-wrong", why=why, **facts)
    pixels = np.asarray(load_pixels())
    if len(spec.axes) != pixels.ndim:
        return spec, pixels  # the header check reports the error
    slices = []
    for axis, length in zip(spec.axes, pixels.shape, strict=True):
        size = side if axis in "YX" else length
        start = max(0, length - size) // 2
        slices.append(slice(start, start + min(size, length)))
    cropped = np.ascontiguousarray(pixels[tuple(slices)])
    return replace(spec, shape=cropped.shape), cropped


def _plan_inversions(
    names: list[str], chosen: dict[str, Any], spec: ImageSpec, pixels: npt.NDArray[Any]
) -> tuple[Plans, dict[str, str]]:
    """Plan all fits, and return the plans with the size of each layer's activations."""
    machine, plans, answers = detect_machine(), [], {}
    for name in names:
        row = []
        for prior in PRIOR_LABELS:
            recipe = make_recipe("invert-features", **{**chosen, "layer": name, "prior": prior})
            plan = preflight(recipe, spec, machine)
            if isinstance(plan, Refusal):
                raise RefusedError(plan)
            row.append((prior, plan))
        sorted_inputs = arrange_inputs(row[0][1], {"image": pixels})
        if isinstance(sorted_inputs, Refusal):
            raise RefusedError(sorted_inputs)
        answers[name] = describe_layer_size(row[0][1].recipe.task, spec.grid)
        plans.append(tuple(row))
    return tuple(plans), answers


def _split(layers: str | Iterable[str]) -> list[str]:
    names = layers.split(",") if isinstance(layers, str) else layers
    return list(dict.fromkeys(filter(None, (str(name).strip() for name in names))))


def _choose_even_layers(paths: list[str]) -> list[str]:
    """Choose modules without submodules, evenly spaced from the first to the last."""
    leaf_modules = [
        path for path in paths if not any(other.startswith(f"{path}.") for other in paths)
    ]
    if len(leaf_modules) <= DEFAULT_LAYER_COUNT:
        return leaf_modules
    indices = [
        round(index * (len(leaf_modules) - 1) / (DEFAULT_LAYER_COUNT - 1))
        for index in range(DEFAULT_LAYER_COUNT)
    ]
    return [leaf_modules[index] for index in indices]
