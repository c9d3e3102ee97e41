"""Invert the layers of a network with three priors, to see what each layer keeps of an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors.notes import StopReason, serialise_notes
from napari_dip.explore.progress import ExperimentResult
from napari_dip.pipeline.events import map_generator
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.progress import ProgressTracker, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Step

    Picture = npt.NDArray[np.float32]

#: Prior as in the settings -> its label in figures.
PRIOR_LABELS = {
    "random-input": "Untrained network",
    "total-variation": "Total variation",
    "none": "No prior",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeatureInversion:
    """Inversion of one layer with one prior.

    Attributes
    ----------
    layer : str
    answer : str
        Size of the layer's activations.
    prior : str
        Key in `PRIOR_LABELS`.
    picture : ndarray
        Picture in the axes and units of the image.
    correlation : float
        Correlation with the image over all pixels and channels.
    distance : float
        Squared distance of the activations in the last iterations, relative to the mean square of
        the target's activations.
    """

    layer: str
    answer: str
    prior: str
    picture: Picture
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
    image: npt.NDArray[Any]
    axes: str
    rows: tuple[tuple[FeatureInversion, ...], ...]
    recipe: Mapping[str, Any]
    notes: tuple[Note, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that name the prior with the highest correlation for each layer."""
        lines = []
        for row in self.rows:
            best = max(row, key=lambda item: item.correlation)
            correlations = ", ".join(
                f"{PRIOR_LABELS[item.prior].lower()} {item.correlation:.2f}" for item in row
            )
            lines.append(
                f"'{best.layer}' ({best.answer}): correlation with the image {correlations}; best: "
                f"{PRIOR_LABELS[best.prior].lower()}."
            )
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return recipe and figures in plain JSON types."""
        return {
            "experiment": self.experiment,
            "recipe": dict(self.recipe),
            **serialise_notes(self.notes),
            "layers": make_feature_rows(self),
        }


def make_feature_rows(rows: FeatureInversionResult) -> list[dict[str, Any]]:
    """Return one row of figures per layer, with all digits."""
    lines = []
    for row in rows.rows:
        line: dict[str, Any] = {"layer": row[0].layer, "answer": row[0].answer}
        for inversion in row:
            name = inversion.prior.replace("-", "_")
            line |= {
                f"{name}_correlation": inversion.correlation,
                f"{name}_distance": inversion.distance,
            }
        lines.append(line)
    return lines


def explore_features(
    image: npt.NDArray[Any],
    plans: tuple[tuple[tuple[str, Plan], ...], ...],
    answers: Mapping[str, str],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[tuple[Event, str], None, tuple[tuple[FeatureInversion, ...], ...] | None]:
    """Invert each layer with each prior, as the task `invert-features` does.

    Parameters
    ----------
    image : ndarray
    plans : tuple of rows of (prior, Plan)
        One row for each layer.
    answers : mapping of str to str
        Size of each layer's activations.
    control : callable
        Polled at each iteration; KEEP and DISCARD end the experiment.

    Yields
    ------
    (Event, str)
        Progress, and the current layer.

    Returns
    -------
    rows or None
        None if the user ended it.
    """
    timer, tracker = Stopwatch(control), ProgressTracker(default_rate=1.0)
    plan_rows = [[plan for _, plan in layer_plans] for layer_plans in plans]
    steps = iter([tracker.add_step("fit", plan.seconds) for row in plan_rows for plan in row])
    rows = []
    for layer_plans in plans:
        row = []
        for prior, plan in layer_plans:
            layer = plan.recipe.task.layer  # type: ignore[attr-defined]  # of this task only
            message = f"Inverting '{layer}': {PRIOR_LABELS[prior].lower()}"
            step = next(steps)
            make_event = partial(_make_feature_event, message, layer, step, tracker, timer)
            result = yield from map_generator(
                run(plan, {"image": image}, control=timer), make_event
            )
            step.finish(timer.seconds)
            if result is None or result.stop_reason is StopReason.USER:
                return None
            row.append(_make_inversion(layer, answers.get(layer, ""), prior, image, result))
        rows.append(tuple(row))
    return tuple(rows)


def compute_correlation(item: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return Pearson's correlation over all pixels and channels; 0 if either image is constant."""
    first, second = (image.astype(np.float64).ravel() for image in (item, other))
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm else 0.0


def _make_inversion(
    layer: str, answer: str, prior: str, image: npt.NDArray[Any], result: Restoration
) -> FeatureInversion:
    correlation = compute_correlation(result.image, image)
    return FeatureInversion(
        layer=layer,
        answer=answer,
        prior=prior,
        picture=result.image,
        correlation=correlation,
        distance=result.history[-1][1],
    )


def _make_feature_event(
    message: str, layer: str, step: Step, tracker: ProgressTracker, timer: Stopwatch, event: Event
) -> tuple[Event, str]:
    """Convert the progress of one fit to that of the whole experiment."""
    step.report_progress(timer.seconds, event.progress)
    return replace(event, message=message, progress=tracker.fold(timer.seconds)), layer
