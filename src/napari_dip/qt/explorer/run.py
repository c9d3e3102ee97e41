"""The background run of an experiment: its request and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.explore.results import ExperimentTimer, IterationUpdate
from napari_dip.pipeline.events import Control, Event, map_generator
from napari_dip.qt.shell.worker import ProgressQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.pipeline.machine import Machine


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentProgress:
    """The progress of an experiment since the last update of the dock.

    Attributes
    ----------
    event : Event
        The latest report.
    points : tuple of (group, iteration, values by curve)
        New points of the curves.
    picture : ndarray (Y, X) or None
        The latest picture.
    """

    event: Event
    points: tuple[tuple[str, int, Mapping[str, float]], ...]
    picture: npt.NDArray[Any] | None


class ExperimentProgressQueue(ProgressQueue[IterationUpdate, ExperimentProgress]):
    """Merges the reports of an experiment: keeps the latest picture and all points."""

    def __init__(self) -> None:
        super().__init__()
        self._event: Event | None = None
        self._points: list[tuple[str, int, Mapping[str, float]]] = []
        self._picture: npt.NDArray[Any] | None = None

    def _put(self, report: IterationUpdate) -> None:
        self._event = report.event
        if report.points:
            self._points.append((report.group, report.event.iteration, report.points))
        self._picture = self._picture if report.picture is None else report.picture

    def _drain(self) -> ExperimentProgress | None:
        event, points, picture = self._event, tuple(self._points), self._picture
        self._event, self._points, self._picture = None, [], None
        return (
            None
            if event is None
            else ExperimentProgress(event=event, points=points, picture=picture)
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentRequest:
    """A request for an experiment.

    Attributes
    ----------
    experiment : str
        Key in `EXPERIMENTS`.
    name : str
        The name of the image.
    axes : str
        "YX" or "YXS".
    settings : mapping
        Arguments of `Experiment.prepare`.
    machine : Machine
    """

    experiment: str
    name: str
    axes: str
    settings: Mapping[str, Any]
    machine: Machine


def run_experiment(
    request: ExperimentRequest,
    plan: object,
    data: Mapping[str, npt.NDArray[Any]],
    *,
    control: Callable[[], Control],
    preview_seconds: float,
) -> Generator[IterationUpdate, None, Any]:
    """Run an experiment with the same code as the command line.

    Parameters
    ----------
    request : ExperimentRequest
    plan : object
        Not used: the pixels get a plan of their own.
    data : mapping of str to ndarray
        "image", and optionally "truth".
    control : callable
        The user's control of the run.
    preview_seconds : float
        Not used: each iteration is reported.

    Returns
    -------
    ExperimentResult or None
        None if the run ended without a result.

    Raises
    ------
    RefusedError, FailedError
        As the experiments.
    """
    timer = ExperimentTimer(control)
    yield IterationUpdate(Event(message="Starting the engine"), {})
    options = {name: pixels for name, pixels in data.items() if name != "image"}
    start = EXPERIMENTS[request.experiment].prepare(
        data["image"],
        axes=request.axes,
        name=request.name,
        machine=request.machine,
        **options,
        **request.settings,
    )
    return (yield from map_generator(start(timer), timer.add_time_left))
