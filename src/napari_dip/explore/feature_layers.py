"""Invert the layers of a network with three priors, to see what each layer keeps of an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.noise import crop_centre
from napari_dip.errors import raise_if_refused
from napari_dip.errors.notes import StopReason
from napari_dip.errors.templates import TEXTS, render_text
from napari_dip.explore.experiment_results import (
    ExperimentReport,
    ExperimentResult,
    IterationUpdate,
    ReportFigure,
    ReportTable,
    format_rows,
)
from napari_dip.explore.experiment_setup import parse_crop
from napari_dip.pipeline.assess.report_figures import (
    compute_contrast_limits,
    draw_titled_image,
    make_figure,
    render_figure,
    select_middle_plane,
    use_default_style,
)
from napari_dip.pipeline.calibrate.inputs import arrange_inputs
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import PausableClock, ProgressTracker, map_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks.invert_features import INVERSION_PRIORS, describe_layer_size
from napari_dip.tasks.network_import.loading import NetworkSource, list_network_layers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array, ImageHeader
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event, WorkStep

    ImageArray = Float32Array

#: Prior as in the settings -> its label in figures.
PRIOR_LABELS = {
    row.choice: "Untrained network"
    if row.has_network
    else "Total variation"
    if row.uses_total_variation
    else "No prior"
    for row in INVERSION_PRIORS.select()
}


#: Default crop in pixels: each layer takes three fits.
FEATURE_CROP = 128
#: Correlation from which on an inversion counts as showing its image. Of 48 inversions of four
#: micrographs, 95 % correlate by at most 0.14 with the other images and with their own turned.
_MIN_CORRELATION = 0.15
#: Default number of layers, evenly spaced from the first to the last.
DEFAULT_LAYER_COUNT = 5


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeatureInversion:
    """Inversion of one layer with one prior.

    Attributes
    ----------
    layer : str
    layer_size : str
        Size of the layer's activations.
    prior_key : str
        Key in `PRIOR_LABELS`.
    image : ndarray
        Result of the inversion, in the axes and units of the image.
    correlation : float
        Correlation with the image over all pixels and channels.
    distance : float
        Squared distance of the activations in the last iterations, relative to the mean square of
        the target's activations.
    """

    layer: str
    layer_size: str
    prior_key: str
    image: ImageArray
    correlation: float
    distance: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeatureInversionResult(ExperimentResult):
    """Inversions of several layers of one network for one image.

    Attributes
    ----------
    name : str
        Name of the image.
    image : ndarray
        The image after the crop.
    axes : str
    rows : tuple of tuple of FeatureInversion
        One row for each layer, with the priors in the order of `PRIOR_LABELS`.
    recipe : mapping
        Settings that repeat the experiment, in plain JSON types.
    notes : tuple of Note
    """

    experiment: ClassVar[str] = "features"
    name: str
    image: AnyArray
    axes: str
    rows: tuple[tuple[FeatureInversion, ...], ...]
    recipe: Mapping[str, Any]
    notes: tuple[Note, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that name the prior with the highest correlation for each layer, if any."""
        lines = []
        for row in self.rows:
            best = max(row, key=lambda inversion: inversion.correlation)
            correlations = ", ".join(
                f"{PRIOR_LABELS[inversion.prior_key].lower()} {inversion.correlation:.2f}"
                for inversion in row
            )
            facts = {"layer": best.layer, "size": best.layer_size, "correlations": correlations}
            is_like_image = best.correlation >= _MIN_CORRELATION
            prior_label = PRIOR_LABELS[best.prior_key].lower() if is_like_image else ""
            lines.append(render_text("features-layer", best=prior_label, **facts))
        return tuple(lines)

    def make_report(self) -> ExperimentReport:
        """Return the report: correlations and images of all inversions."""
        lines = [
            {"layer": row[0].layer, "answer": row[0].layer_size}
            | {
                f"{inversion.prior_key.replace('-', '_')}_{name}": getattr(inversion, name)
                for inversion in row
                for name in ("correlation", "distance")
            }
            for row in self.rows
        ]
        return ExperimentReport(
            title=f"Features of {self.recipe['network']}: {self.name}",
            recipe=self.recipe,
            notes=self.notes,
            figures=(
                ReportFigure(
                    file="features.png",
                    title="What each layer keeps",
                    caption=TEXTS["features-images-caption"],
                    draw=partial(_draw_feature_images, self),
                ),
            ),
            references=("feature inversion", "guide", "total variation"),
            table=_make_feature_table(self),
            numbers={"layers": lines},
            files={"features.csv": format_rows(lines)},
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeaturePlan:
    """All fits of an experiment, planned.

    Attributes
    ----------
    header : ImageHeader
    image : ndarray
        The image after the crop.
    plans : mapping of str to tuple of Plan
        The fits of each layer, with the priors in the order of `PRIOR_LABELS`.
    layer_sizes : mapping of str to str
        Size of each layer's activations.
    recipe : mapping
    """

    header: ImageHeader
    image: AnyArray
    plans: Mapping[str, tuple[Plan, ...]]
    layer_sizes: Mapping[str, str]
    recipe: Mapping[str, Any]


def plan_features(
    image: Any,
    network: str = "",
    *,
    layers: str | Iterable[str] | None = None,
    crop: int | str = FEATURE_CROP,
    axes: str | None = None,
    **settings: Any,
) -> FeaturePlan:
    """Read the image and plan all fits; parameters and refusals as for `explore.features`."""
    task_settings = {"preset": "fast", "network": str(network), **settings}
    header, load_pixels = open_input("image", image, axes)
    side, pixels = parse_crop(crop, FEATURE_CROP), np.asarray(load_pixels())
    if len(header.axes) == pixels.ndim:  # else the header check reports the error
        pixels = np.ascontiguousarray(crop_centre(pixels, side, header.axes))
        header = replace(header, shape=pixels.shape)
    weights = settings.get("weights") or None
    network_file = NetworkSource(network=str(network).strip(), weights=weights)
    network_layers = list_network_layers(network_file, header.grid)
    if layers is None:
        names = _choose_even_layers([path for path, _ in network_layers])
    else:
        requested_layers = layers.split(",") if isinstance(layers, str) else layers
        names = list(dict.fromkeys(filter(None, (str(name).strip() for name in requested_layers))))
    machine, plans, layer_sizes = detect_machine(), {}, {}
    for name in names:
        row = []
        for prior_key in PRIOR_LABELS:
            row_settings = {**task_settings, "layer": name, "prior": prior_key}
            recipe = make_recipe("invert-features", **row_settings)
            row.append(raise_if_refused(preflight(recipe, header, machine)))
        arrange_inputs(row[0], {"image": pixels})
        layer_sizes[name] = describe_layer_size(row[0].recipe.task, header.grid)
        plans[name] = tuple(row)
    fit = {"layers": names, "crop": crop, "axes": axes, "image": header.name}
    return FeaturePlan(
        header=header,
        image=pixels,
        plans=plans,
        layer_sizes=layer_sizes,
        recipe={**task_settings, **fit},
    )


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


def explore_features(
    feature_plan: FeaturePlan, *, poll_control: PollControl = lambda: Control.GO
) -> Generator[IterationUpdate, None, FeatureInversionResult | None]:
    """Invert each layer with each prior, as the task `invert-features` does.

    Parameters
    ----------
    feature_plan : FeaturePlan
    poll_control : callable
        Polled at each iteration; KEEP and DISCARD end the experiment.

    Yields
    ------
    IterationUpdate
        Progress; its group is the current layer.

    Returns
    -------
    FeatureInversionResult or None
        None if the user ended it.
    """
    timer, tracker = PausableClock(poll_control), ProgressTracker()
    plans = list(chain.from_iterable(feature_plan.plans.values()))
    steps = iter([tracker.add_step("fit", plan.seconds) for plan in plans])
    rows = []
    for layer, layer_plans in feature_plan.plans.items():
        row = []
        for prior_key, plan in zip(PRIOR_LABELS, layer_plans, strict=True):
            message = f"Inverting '{layer}': {PRIOR_LABELS[prior_key].lower()}"
            step = next(steps)
            make_update = partial(_make_feature_update, message, layer, step, tracker, timer)
            events = run(plan, {"image": feature_plan.image}, poll_control=timer.poll_control)
            result = yield from map_generator(events, make_update)
            step.finish(timer.seconds)
            if result is None or result.stop_reason is StopReason.USER:
                return None
            row.append(
                FeatureInversion(
                    layer=layer,
                    layer_size=feature_plan.layer_sizes[layer],
                    prior_key=prior_key,
                    image=result.image,
                    correlation=compute_correlation(result.image, feature_plan.image),
                    distance=result.history[-1][1],
                )
            )
        rows.append(tuple(row))
    notes = (note for plan in plans for note in plan.notes)
    return FeatureInversionResult(
        name=feature_plan.header.name,
        image=feature_plan.image,
        axes=feature_plan.header.axes,
        rows=tuple(rows),
        recipe=feature_plan.recipe,
        notes=(*feature_plan.header.notes, *dict.fromkeys(notes)),
    )


def compute_correlation(image: AnyArray, other: AnyArray) -> float:
    """Return Pearson's correlation over all pixels and channels; 0 if either image is constant."""
    if np.ptp(image) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(image.ravel(), other.ravel())[0, 1])


def _make_feature_update(
    message: str,
    layer: str,
    step: WorkStep,
    tracker: ProgressTracker,
    timer: PausableClock,
    event: Event,
) -> IterationUpdate:
    """Convert the progress of one fit to that of the whole experiment."""
    step.report_progress(timer.seconds, event.progress)
    progress = tracker.compute_progress(timer.seconds)
    return IterationUpdate(replace(event, message=message, progress=progress), {}, layer)


def _make_feature_table(result: FeatureInversionResult) -> ReportTable:
    headers = ("layer", "activations", *PRIOR_LABELS.values())
    lines = tuple(
        (
            row[0].layer,
            row[0].layer_size,
            *(f"{inversion.correlation:.3f} ({inversion.distance:.4f})" for inversion in row),
        )
        for row in result.rows
    )
    return ReportTable(headers=headers, rows=lines, caption=TEXTS["features-table-caption"])


@use_default_style
def _draw_feature_images(result: FeatureInversionResult) -> bytes:
    """Draw the image and its inversions, one row per layer."""
    plane = select_middle_plane(result.image, result.axes)
    limits = compute_contrast_limits(plane)
    column_count = 1 + len(result.rows[0])
    figure = make_figure(2.1 * column_count, 2.35 * len(result.rows))
    panels = figure.subplots(len(result.rows), column_count, squeeze=False)
    for row, row_axes in zip(result.rows, panels, strict=True):
        draw_titled_image(row_axes[0], plane, f"{row[0].layer}\n{row[0].layer_size} values", limits)
        for inversion, ax in zip(row, row_axes[1:], strict=True):
            title = f"{PRIOR_LABELS[inversion.prior_key]}\ncorrelation {inversion.correlation:.2f}"
            draw_titled_image(ax, select_middle_plane(inversion.image, result.axes), title, limits)
    return render_figure(figure)
