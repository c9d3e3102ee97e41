"""List the experiments, one row each, and run them from Python.

A new experiment is a module with a subclass of `ExperimentResult`, and a row of `EXPERIMENTS`: the
command, the dock and the report follow.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from pydantic import BaseModel, Field

from napari_dip.explore.experiment_results import ExperimentTimer
from napari_dip.explore.experiment_setup import (
    DEFAULT_CROP,
    DEFAULT_ITERATIONS,
    TARGET_LABELS,
    choose_architectures,
    label_architecture,
    list_all_architectures,
    make_experiment_setup,
    read_truth,
)
from napari_dip.explore.feature_layers import (
    FEATURE_CROP,
    PRIOR_LABELS,
    explore_features,
    plan_features,
)
from napari_dip.explore.spectral_measures import BAND_NAMES, list_band_labels
from napari_dip.pipeline.interactive_run import UserControl
from napari_dip.pipeline.plan.layout import MIN_IMAGE_SIDE
from napari_dip.pipeline.progress import drain_generator, map_generator
from napari_dip.pipeline.recipe import (
    OLD_EXPERIMENT_SETTINGS,
    PRESET_LABELS,
    DeviceSetting,
    Preset,
    accept_old_names,
)
from napari_dip.pipeline.torch_state import load_torch, run_in_default_state
from napari_dip.tasks.base import load_setting
from napari_dip.tasks.priors.random_input import DEFAULT_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.explore.architecture_comparison import ArchitectureComparison
    from napari_dip.explore.experiment_results import IterationUpdate
    from napari_dip.explore.experiment_setup import ExperimentSetup
    from napari_dip.explore.feature_layers import FeatureInversionResult
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.spectra import SpectrumResult
    from napari_dip.pipeline.progress import Event
    from napari_dip.public_types import (
        Answer,
        AxisLetters,
        ComparisonKeywords,
        ExperimentKeywords,
        FeatureKeywords,
        FilePath,
        ImageLike,
    )

    #: Starts the fits, which poll a control at each iteration.
    StartExperiment = Callable[[PollControl], Generator[IterationUpdate, None, Any]]

#: Crop in pixels of a comparison, which fits every architecture twice.
COMPARISON_CROP = 128
#: Number of iterations of a comparison of architectures.
COMPARISON_ITERATIONS = 300
#: Colours of the Okabe-Ito palette, distinct in every kind of colour vision, by target.
_TARGET_COLOURS = ("#56B4E9", "#009E73", "#E69F00", "#D55E00")
#: Colours from the lowest band to the highest, visible on dark and light backgrounds.
_BAND_COLOURS = ("#4C86E8", "#2BA8B8", "#4FAE5A", "#D99A1C", "#DB5B3B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A curve of the dock's plot: its name in `IterationUpdate.points`, its label and colour."""

    name: str
    label: str
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotSpec:
    """The dock's plot of a running experiment.

    Attributes
    ----------
    curves : tuple of Curve
    axis_label, tooltip : str
    y_max : float
        Upper end of the vertical axis.
    labels_per_line : int
        Entries in a line of the legend.
    unit : str
        Unit of the labels.
    """

    curves: tuple[Curve, ...]
    axis_label: str
    tooltip: str
    y_max: float = 1.1
    labels_per_line: int = 2
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment: names, settings, files, and how it starts.

    Attributes
    ----------
    key : str
        Name of the command.
    summary : str
        Help of the command.
    label, description : str
        In the dock; "" if the dock does not have it.
    settings : tuple of str
        Settings besides those of all experiments.
    iterations, crop : int
        Defaults: iterations of each fit (0: those of the preset), and side of the crop in pixels.
    fit_count : int
        Number of fits: in all, of each architecture that is compared, or of each layer.
    files : tuple of str
        Names of the saved files, the page first.
    make_starter : callable
        Reads the image and refuses wrong settings; returns what starts the fits.
    plot : PlotSpec or None
        None if the dock does not have it.
    """

    key: str
    summary: str
    label: str = ""
    description: str = ""
    settings: tuple[str, ...]
    iterations: int = DEFAULT_ITERATIONS
    crop: int = DEFAULT_CROP
    fit_count: int
    files: tuple[str, ...]
    make_starter: Callable[..., StartExperiment]
    plot: PlotSpec | None = None


class ExperimentSettings(BaseModel):
    """Settings of the experiments on a picture, as the dock shows them."""

    preset: Annotated[Preset, load_setting("experiment_preset", choices=PRESET_LABELS)] = "fast"
    architecture: Annotated[
        str,
        load_setting(
            "experiment_architecture",
            choices={
                name: label_architecture(architecture)
                for name, architecture in list_all_architectures().items()
            },
        ),
    ] = DEFAULT_ARCHITECTURE
    max_iterations: Annotated[
        Annotated[int, Field(ge=1, le=100_000)], load_setting("experiment_max_iterations")
    ] = DEFAULT_ITERATIONS
    crop: Annotated[Annotated[int, Field(ge=MIN_IMAGE_SIDE, le=4096)], load_setting("crop")] = (
        DEFAULT_CROP
    )
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**31)], load_setting("experiment_seed")] = 0
    device: DeviceSetting = "auto"


def _make_starter(
    module: str, function: str, setup: ExperimentSetup, *subjects: Any
) -> StartExperiment:
    """Return what starts an experiment of a module that imports torch, in its default state."""

    def start(poll_control: PollControl) -> Generator[IterationUpdate, None, Any]:
        load_torch()
        explore = getattr(import_module(f"napari_dip.explore.{module}"), function)
        steps = explore(setup, *subjects, poll_control=poll_control)
        return run_in_default_state(steps, setup.plan.threads)

    return start


def _make_impedance_starter(image: Any, **settings: Any) -> StartExperiment:
    setup = make_experiment_setup(image, **settings)
    return _make_starter("noise_impedance", "explore_impedance", setup)


def _make_spectrum_starter(image: Any, *, truth: Any = None, **settings: Any) -> StartExperiment:
    setup = make_experiment_setup(image, **settings)
    return _make_starter("spectra", "explore_spectrum", setup, read_truth(truth, setup))


def _make_architectures_starter(
    image: Any, *, truth: Any = None, only: str | Iterable[str] | None = None, **settings: Any
) -> StartExperiment:
    defaults = {"crop": COMPARISON_CROP, "max_iterations": COMPARISON_ITERATIONS}
    setup = make_experiment_setup(image, **{**defaults, **settings})
    subjects = choose_architectures(setup, only), read_truth(truth, setup)
    return _make_starter("architecture_comparison", "explore_architectures", setup, *subjects)


def _make_features_starter(image: Any, network: str = "", **settings: Any) -> StartExperiment:
    plan = plan_features(image, network, **settings)
    return lambda poll: explore_features(plan, poll_control=poll)


def _make_target_curves(*names: str) -> tuple[Curve, ...]:
    colours = dict(zip(TARGET_LABELS, _TARGET_COLOURS, strict=True))
    return tuple(
        Curve(name=name, label=TARGET_LABELS[name], colour=colours[name]) for name in names
    )


def _make_band_curves() -> tuple[Curve, ...]:
    rows = zip(BAND_NAMES, list_band_labels(), _BAND_COLOURS, strict=True)
    return tuple(
        Curve(name=name, label=label.replace(" to ", "–"), colour=colour)
        for name, label, colour in rows
    )


_EXPERIMENT_ROWS = tomllib.loads(Path(__file__).with_name("experiments.toml").read_text("utf-8"))


def _make_experiment(key: str, *curves: Curve, **attributes: Any) -> Experiment:
    """Return an experiment with the texts, settings and files of its row."""
    row = dict(_EXPERIMENT_ROWS[key])
    for name in ("settings", "files"):
        row[name] = tuple(row[name])
    if "plot" in row:
        row["plot"] = PlotSpec(curves=curves, **row["plot"])
    return Experiment(key=key, **row, **attributes)


_ALL_EXPERIMENTS = (
    _make_experiment(
        "impedance",
        *_make_target_curves(*TARGET_LABELS),
        fit_count=len(TARGET_LABELS),
        make_starter=_make_impedance_starter,
    ),
    _make_experiment(
        "spectrum", *_make_band_curves(), fit_count=2, make_starter=_make_spectrum_starter
    ),
    _make_experiment(
        "architectures",
        *_make_target_curves("image", "noise"),
        iterations=COMPARISON_ITERATIONS,
        crop=COMPARISON_CROP,
        fit_count=2,
        make_starter=_make_architectures_starter,
    ),
    _make_experiment(
        "features",
        iterations=0,
        crop=FEATURE_CROP,
        fit_count=len(PRIOR_LABELS),
        make_starter=_make_features_starter,
    ),
)
#: All experiments by key, in the order of the dock.
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {experiment.key: experiment for experiment in _ALL_EXPERIMENTS}
)


def _run_experiment(
    key: str, image: Any, progress: Callable[[Event], Answer] | None, **settings: Any
) -> Any:
    """Run an experiment to its end, and follow what `progress` answers to its events."""
    control = UserControl(progress)
    timer = ExperimentTimer(control.poll)
    steps = EXPERIMENTS[key].make_starter(image, **settings)(timer.poll_control)
    events = map_generator(steps, lambda update: timer.add_time_left(update).event)
    return drain_generator(events, control.show)


def impedance(
    image: ImageLike,
    *,
    progress: Callable[[Event], Answer] | None = None,
    **settings: Unpack[ExperimentKeywords],
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

    Examples
    --------
    >>> explored = dip.explore.impedance(image, max_iterations=4)
    >>> explored.save("impedance").name
    'impedance.html'
    """
    options = accept_old_names(settings, OLD_EXPERIMENT_SETTINGS)
    result: ImpedanceResult = _run_experiment("impedance", image, progress, **options)
    return result


def spectrum(
    image: ImageLike,
    *,
    truth: ImageLike | None = None,
    progress: Callable[[Event], Answer] | None = None,
    **settings: Unpack[ExperimentKeywords],
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

    Examples
    --------
    >>> explored = dip.explore.spectrum(image, max_iterations=4)
    """
    options = {"truth": truth, **accept_old_names(settings, OLD_EXPERIMENT_SETTINGS)}
    result: SpectrumResult = _run_experiment("spectrum", image, progress, **options)
    return result


def architectures(
    image: ImageLike,
    *,
    truth: ImageLike | None = None,
    only: str | Iterable[str] | None = None,
    progress: Callable[[Event], Answer] | None = None,
    **settings: Unpack[ComparisonKeywords],
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

    Examples
    --------
    >>> compared = dip.explore.architectures(image, only="decoder", max_iterations=4)
    """
    options = {"truth": truth, "only": only, **settings}
    result: ArchitectureComparison = _run_experiment("architectures", image, progress, **options)
    return result


def features(
    image: ImageLike,
    network: FilePath = "",
    *,
    layers: str | Iterable[str] | None = None,
    crop: int = FEATURE_CROP,
    axes: AxisLetters | None = None,
    progress: Callable[[Event], Answer] | None = None,
    **settings: Unpack[FeatureKeywords],
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

    Examples
    --------
    >>> inverted = dip.explore.features(
    ...     image, "network.pt2", layers="body.1", max_iterations=4
    ... )
    """
    options = {"network": network, "layers": layers, "crop": crop, "axes": axes, **settings}
    result: FeatureInversionResult = _run_experiment("features", image, progress, **options)
    return result
