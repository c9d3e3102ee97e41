"""The Python door of the experiments: an image in, figures out.

The Python door of the comparison of layers: an image and a network in, figures out.
"""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Failed, Refusal, Refused, refusal
from napari_dip.explore.experiment_setup import (
    choose_architectures,
    make_experiment_setup,
    read_truth,
)
from napari_dip.explore.feature_layers import PRIOR_LABELS, FeatureRows, explore_features
from napari_dip.pipeline.api import describe_input
from napari_dip.pipeline.calibrate.inputs import sort_inputs
from napari_dip.pipeline.events import drain_generator, map_generator
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import OLD_EXPERIMENT_SETTINGS, accept_old_names, make_recipe
from napari_dip.tasks.invert_features import InvertFeatures
from napari_dip.tasks.network_import.loading import NetworkFile, list_network_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy.typing as npt

    from napari_dip.explore.comparison import Architectures
    from napari_dip.explore.feature_layers import FeatureInversion
    from napari_dip.explore.noise_impedance import Impedance
    from napari_dip.explore.spectra import Spectrum
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan

    Plans = tuple[tuple[tuple[str, Plan], ...], ...]

    Rows = tuple[tuple[FeatureInversion, ...], ...]

#: A comparison fits every design twice: pixels along a side, and iterations, unless others are
#: asked for.
COMPARISON_DEFAULTS = {"crop": 128, "max_iterations": 300}


def impedance(
    image: Any, *, progress: Callable[[Event], object] | None = None, **settings: Any
) -> Impedance:
    """Fit one untrained network to an image, the image with noise, its pixels shuffled, and noise.

    Parameters
    ----------
    image : array-like or path
        One plane, grey or in colours, which are averaged.
    progress : callable, optional
        Called with an `Event` after each iteration.
    **settings
        `preset` ("fast"), `architecture` ("preset"; or one by its name, such as "lipschitz-1.7" or
        "decoder+lipschitz-2"), `max_iterations` (500), `seed` (0), `device` ("auto"), `crop` (256:
        of a larger image the middle is looked at), `axes`.

    Returns
    -------
    Impedance
        Its `save(folder)` writes page, picture and table.

    Raises
    ------
    Refused
        If the image or a setting cannot be used.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4,
    figure "learning curves for the reconstruction task".
    """
    subject = make_experiment_setup(image, **accept_old_names(settings, OLD_EXPERIMENT_SETTINGS))
    from napari_dip.explore.noise_impedance import explore_impedance

    impedance: Impedance = _run_with_progress(explore_impedance(subject), progress)
    return impedance


def spectrum(
    image: Any,
    *,
    truth: Any = None,
    progress: Callable[[Event], object] | None = None,
    **settings: Any,
) -> Spectrum:
    """Watch which frequencies an untrained network learns when, and where to stop.

    Parameters
    ----------
    image : array-like or path
        One plane, noisy as it is.
    truth : array-like or path, optional
        The same without noise, in the same units: tells the PSNR of each output.
    progress : callable, optional
        Called with an `Event` after each iteration.
    **settings
        As for `impedance`.

    Returns
    -------
    Spectrum
        Its `save(folder)` writes page, pictures and tables.

    Raises
    ------
    Refused
        If an image or a setting cannot be used.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7.
    """
    subject = make_experiment_setup(image, **accept_old_names(settings, OLD_EXPERIMENT_SETTINGS))
    clean = None if truth is None else read_truth(truth, subject)
    from napari_dip.explore.spectra import explore_spectrum

    spectrum: Spectrum = _run_with_progress(explore_spectrum(subject, clean), progress)
    return spectrum


def architectures(
    image: Any,
    *,
    truth: Any = None,
    only: str | Iterable[str] | None = None,
    progress: Callable[[Event], object] | None = None,
    **settings: Any,
) -> Architectures:
    """Fit several networks to an image, and say which prior suits it.

    Parameters
    ----------
    image : array-like or path
        One plane, noisy as it is.
    truth : array-like or path, optional
        The same without noise, in the same units: tells the PSNR of each design.
    only : str or iterable of str, optional
        Names of the designs to be compared with that of the preset; default: all.
    progress : callable, optional
        Called with an `Event` after each iteration.
    **settings
        As for `impedance`, but no `architecture`, `crop` 128 and `max_iterations` 300.

    Returns
    -------
    Architectures
        Its `verdict` says which prior suits the image; its `save(folder)` writes page, pictures
        and tables.

    Raises
    ------
    Refused
        If an image or a setting cannot be used.

    References
    ----------
    Heckel, Hand, Deep decoder: concise image representations from untrained non-convolutional
    networks, ICLR 2019, arXiv:1810.03982.
    """
    subject = make_experiment_setup(image, **{**COMPARISON_DEFAULTS, **settings})
    clean = None if truth is None else read_truth(truth, subject)
    designs = choose_architectures(subject, only)
    from napari_dip.explore.comparison import explore_architectures

    architectures: Architectures = _run_with_progress(
        explore_architectures(subject, designs, clean), progress
    )
    return architectures


def _run_with_progress(
    steps: Generator[tuple[Any, ...], None, Any], progress: Callable[[Event], object] | None
) -> Any:
    """Run to the end, with the event of each step for `progress`."""
    import napari_dip.explore.output.files  # noqa: F401 (outcomes can be saved from now on)

    result = drain_generator(map_generator(steps, itemgetter(0)), progress)
    if result is None:  # only a control that says so can end it with nothing
        why = "the experiment ended before its last iteration"
        raise Failed(refusal("unexpected", why=why))
    return result


#: Pixels along a side of what is looked at, unless more are asked for: each layer takes three fits.
FEATURE_CROP = 128
#: Layers that are looked at, unless some are named: from the first to the last, evenly.
DEFAULT_LAYER_COUNT = 5


def features(
    image: Any,
    network: str = "",
    *,
    layers: str | Iterable[str] | None = None,
    crop: int | str = FEATURE_CROP,
    axes: str | None = None,
    progress: Callable[[Event], object] | None = None,
    **settings: Any,
) -> FeatureRows:
    """Invert several layers of a network with an untrained network, total variation and no prior.

    Parameters
    ----------
    image : array-like or path
        One plane, grey or in colours.
    network : str
        Path of a program of torch.export (.pt2), or name of an architecture of torchvision.
    layers : str or iterable of str, optional
        Paths of modules; in one text with commas between. Default: five, from first to last.
    crop : int
        Pixels along a side: of a larger image the middle is looked at.
    axes : str, optional
        One letter for each axis of the image.
    progress : callable, optional
        Called with an `Event` now and then.
    **settings
        As for `napari_dip.invert_features`, but `preset` "fast".

    Returns
    -------
    FeatureRows
        A row for each layer; its `save(folder)` writes page, picture and table.

    Raises
    ------
    Refused
        If the image, the network or a setting cannot be used.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, doi:10.1007/s11263-020-01303-4,
    section on feature inversion.
    """
    chosen = {"preset": "fast", "network": str(network), **settings}
    spec, pixels = _read_centre_crop(image, axes, crop)
    file = NetworkFile(network=str(network).strip(), weights=settings.get("weights") or None)
    result = list_network_layers(file, spec.grid)
    if isinstance(result, Refusal):
        raise Refused(result)
    names = _choose_even_layers([path for path, _ in result]) if layers is None else _split(layers)
    plans, answers = _plan_inversions(names, chosen, spec, pixels)
    rows = _run_inversions(pixels, plans, answers, progress)
    recipe = {**chosen, "layers": list(names), "crop": crop, "axes": axes, "image": spec.name}
    notes = tuple(dict.fromkeys(note for row in plans for _, plan in row for note in plan.notes))
    return FeatureRows(
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
    import napari_dip.explore.output.files  # noqa: F401 (outcomes can be saved from now on)

    steps = explore_features(pixels, plans, answers)
    rows = drain_generator(map_generator(steps, itemgetter(0)), progress)
    if rows is None:  # only a control that says so can end it with nothing
        why = "the experiment ended before its last layer"
        raise Failed(refusal("unexpected", why=why))
    return rows


def _read_centre_crop(
    image: Any, axes: str | None, crop: int | str
) -> tuple[ImageSpec, npt.NDArray[Any]]:
    """Read the image, and cut its middle out."""
    spec, read = describe_input("image", image, axes)
    try:
        side = int(crop)
    except ValueError:
        side = 0
    if side < 1:
        facts = {"field": "crop", "value": repr(crop), "hint": "Leave it out for 128 pixels."}
        why = "it should be a whole number of pixels"
        raise Refused(refusal("setting-wrong", why=why, **facts))
    pixels = np.asarray(read())
    if len(spec.axes) != pixels.ndim:
        return spec, pixels  # the header gate says what is wrong with it
    cuts = []
    for axis, count in zip(spec.axes, pixels.shape, strict=True):
        most = side if axis in "YX" else count
        begin = max(0, count - most) // 2
        cuts.append(slice(begin, begin + min(most, count)))
    part = np.ascontiguousarray(pixels[tuple(cuts)])
    return replace(spec, shape=part.shape), part


def _plan_inversions(
    names: list[str], chosen: dict[str, Any], spec: ImageSpec, pixels: npt.NDArray[Any]
) -> tuple[Plans, dict[str, str]]:
    """Plan each fit, with the size of each layer's answer; say no before the first fit."""
    machine, plans, answers = detect_machine(), [], {}
    for name in names:
        row = []
        for prior in PRIOR_LABELS:
            recipe = make_recipe("invert-features", **{**chosen, "layer": name, "prior": prior})
            plan = preflight(recipe, spec, machine)
            if isinstance(plan, Refusal):
                raise Refused(plan)
            row.append((prior, plan))
        no = sort_inputs(row[0][1], {"image": pixels})
        if isinstance(no, Refusal):
            raise Refused(no)
        task = row[0][1].recipe.task
        assert isinstance(task, InvertFeatures)
        answers[name] = task.answer(spec.grid)
        plans.append(tuple(row))
    return tuple(plans), answers


def _split(layers: str | Iterable[str]) -> list[str]:
    named = layers.split(",") if isinstance(layers, str) else layers
    return list(dict.fromkeys(filter(None, (str(item).strip() for item in named))))


def _choose_even_layers(paths: list[str]) -> list[str]:
    """Choose modules that hold no others, from the first to the last."""
    inner = [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]
    if len(inner) <= DEFAULT_LAYER_COUNT:
        return inner
    places = [
        round(place * (len(inner) - 1) / (DEFAULT_LAYER_COUNT - 1))
        for place in range(DEFAULT_LAYER_COUNT)
    ]
    return [inner[place] for place in places]
