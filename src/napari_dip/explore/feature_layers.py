"""What each layer of a network keeps of an image: a row for each layer, with three priors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors.notes import StopReason, report_notes
from napari_dip.explore.progress import ExperimentResult
from napari_dip.pipeline.events import map_generator
from napari_dip.pipeline.execute.runner import run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.pipeline.plan.types import Plan

    Picture = npt.NDArray[np.float32]

#: The priors, as settings have them, with what figures call them.
PRIOR_LABELS = {
    "random-input": "Untrained network",
    "total-variation": "Total variation",
    "none": "No prior",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeatureInversion:
    """What came back from one layer with one prior.

    Attributes
    ----------
    layer : str
    answer : str
        Size of the layer's answer.
    prior : str
        Key in `PRIOR_LABELS`.
    picture : ndarray
        In the axes and units of the image.
    correlation : float
        With the image, over all pixels and channels.
    distance : float
        Squared distance of the activations in the last iterations, in their own mean square.
    """

    layer: str
    answer: str
    prior: str
    picture: Picture
    correlation: float
    distance: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeatureRows(ExperimentResult):
    """Layers of one network on one image.

    Attributes
    ----------
    name : str
        Of the image.
    image : ndarray
        What was looked at.
    axes : str
    rows : tuple of tuple of FeatureInversion
        One for each layer, the priors in the order of `PRIOR_LABELS`.
    recipe : mapping
        In plain JSON types: what repeats it.
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
        """Say for each layer which prior came nearest."""
        said = []
        for row in self.rows:
            best = max(row, key=lambda item: item.correlation)
            text = ", ".join(
                f"{PRIOR_LABELS[item.prior].lower()} {item.correlation:.2f}" for item in row
            )
            said.append(
                f"'{best.layer}' ({best.answer}): correlation with the image {text}; best: "
                f"{PRIOR_LABELS[best.prior].lower()}."
            )
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Give recipe and figures in plain JSON types."""
        return {
            "experiment": self.experiment,
            "recipe": dict(self.recipe),
            **report_notes(self.notes),
            "layers": make_feature_rows(self),
        }


def make_feature_rows(rows: FeatureRows) -> list[dict[str, Any]]:
    """Give a line for each layer, with all digits."""
    lines = []
    for row in rows.rows:
        line: dict[str, Any] = {"layer": row[0].layer, "answer": row[0].answer}
        for item in row:
            name = item.prior.replace("-", "_")
            line |= {f"{name}_correlation": item.correlation, f"{name}_distance": item.distance}
        lines.append(line)
    return lines


def explore_features(
    image: npt.NDArray[Any],
    plans: tuple[tuple[tuple[str, Plan], ...], ...],
    answers: Mapping[str, str],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[tuple[Event, str], None, tuple[tuple[FeatureInversion, ...], ...] | None]:
    """Invert each layer with each prior, as the task does.

    Parameters
    ----------
    image : ndarray
    plans : tuple of rows of (prior, Plan)
        One row for each layer.
    answers : mapping of str to str
        Size of each layer's answer.
    control : callable
        Polled at each iteration; anything but going on or a pause ends the experiment.

    Yields
    ------
    (Event, str)
        How far it is, and which layer is looked at.

    Returns
    -------
    rows or None
        None if it was ended.
    """
    count, done = sum(map(len, plans)), 0
    rows = []
    for planned in plans:
        row = []
        for prior, plan in planned:
            layer = plan.recipe.task.layer  # type: ignore[attr-defined]  # of this task only
            facts = partial(_make_feature_event, layer, prior, done / count, 1 / count)
            result = yield from map_generator(run(plan, {"image": image}, control=control), facts)
            if result is None or result.stop_reason is StopReason.USER:
                return None
            row.append(_make_inversion(layer, answers.get(layer, ""), prior, image, result))
            done += 1
        rows.append(tuple(row))
    return tuple(rows)


def compute_correlation(item: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Pearson's coefficient over all pixels and channels; 0 where one is even."""
    first, second = (part.astype(np.float64).ravel() for part in (item, other))
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm else 0.0


def _make_inversion(
    layer: str, answer: str, prior: str, image: npt.NDArray[Any], result: Restoration
) -> FeatureInversion:
    alike = compute_correlation(result.image, image)
    return FeatureInversion(
        layer=layer,
        answer=answer,
        prior=prior,
        picture=result.image,
        correlation=alike,
        distance=result.history[-1][1],
    )


def _make_feature_event(
    layer: str, prior: str, began: float, span: float, event: Event
) -> tuple[Event, str]:
    """Tell how far all of it is from how far one fit is."""
    text = f"Inverting '{layer}': {PRIOR_LABELS[prior].lower()}"
    whole = replace(event, message=text, fraction=began + span * event.fraction, seconds_left=None)
    return whole, layer
