"""The background run of an experiment: its request, progress and remaining time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_dip.explore.experiment_setup import make_experiment_setup, read_truth
from napari_dip.explore.progress import IterationUpdate
from napari_dip.pipeline.events import Control, Event
from napari_dip.qt.shell.worker import ProgressQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.pipeline.machine import Machine

#: Fraction of an experiment from which its speed gives the remaining time, and the factor on that
#: time. The preset's network comes first; on average, a fit took 0.8 times as long as with it (CPU
#: time, `make bench-architectures`). Only spectral norm, Gaussian upsampling and the deepest
#: network took longer, 1.6 times at most.
_MIN_TIMED_SHARE, _TIME_MARGIN = 0.03, 1.25


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


class ExperimentTimer:
    """Estimates the remaining time of an experiment, without pauses.

    Parameters
    ----------
    control : callable
        The control of the run, polled through this object, which measures the pauses.
    """

    def __init__(self, control: Callable[[], Control]) -> None:
        self._control = control
        self._start_time: float | None = None
        self._paused_since: float | None = None

    def __call__(self) -> Control:
        """Return the present control."""
        requested, now = self._control(), time.monotonic()
        if requested is Control.PAUSE:
            self._paused_since = self._paused_since or now
        elif self._paused_since is not None:
            if self._start_time is not None:
                self._start_time += now - self._paused_since
            self._paused_since = None
        return requested

    def add_time_left(self, update: IterationUpdate) -> IterationUpdate:
        """Return the update with elapsed and remaining time, once these can be estimated."""
        now, event = time.monotonic(), update.event
        self._start_time = self._start_time or now
        if not _MIN_TIMED_SHARE < event.fraction < 1:
            return update
        remaining = _TIME_MARGIN * (now - self._start_time) * (1 - event.fraction) / event.fraction
        spent = now - self._start_time
        return update._replace(event=replace(event, seconds=spent, seconds_left=remaining))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentRequest:
    """A request for an experiment.

    Attributes
    ----------
    experiment : str
        "impedance", "spectrum" or "architectures".
    name : str
        The name of the image.
    axes : str
        "YX" or "YXS".
    settings : mapping
        Arguments of `make_experiment_setup`.
    machine : Machine
    designs : tuple of str or None
        Architectures to compare with the preset's; None for all.
    """

    experiment: str
    name: str
    axes: str
    settings: Mapping[str, Any]
    machine: Machine
    designs: tuple[str, ...] | None = None


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
    Impedance, Spectrum, Architectures or None
        None if the run ended without a result.

    Raises
    ------
    Refused, Failed
        As the experiments.
    """
    timer = ExperimentTimer(control)
    yield IterationUpdate(Event(message="Starting the engine"), {})
    setup = make_experiment_setup(
        data["image"],
        axes=request.axes,
        name=request.name,
        machine=request.machine,
        **request.settings,
    )
    truth = read_truth(data["truth"], setup) if "truth" in data else None
    steps: Generator[IterationUpdate, None, Any]
    if request.experiment == "impedance":
        from napari_dip.explore.noise_impedance import explore_impedance

        steps = explore_impedance(setup, control=timer)
    elif request.experiment == "spectrum":
        from napari_dip.explore.spectra import explore_spectrum

        steps = explore_spectrum(setup, truth, control=timer)
    else:
        from napari_dip.explore.comparison import explore_architectures
        from napari_dip.explore.experiment_setup import choose_architectures

        steps = explore_architectures(
            setup, choose_architectures(setup, request.designs), truth, control=timer
        )
    try:
        while True:
            try:
                update = next(steps)
            except StopIteration as end:
                return end.value
            yield timer.add_time_left(update)
    finally:
        steps.close()
