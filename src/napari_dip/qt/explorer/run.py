"""An experiment for a thread of its own: what it reports, at what pace, and how it ends."""

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

#: Share of an experiment from which on its pace says how long the rest takes, and how much more is
#: promised: the preset's network comes first, and all designs together took 0.8 times as long as if
#: each were it (`make bench-architectures`, time of the processor); only bounded layers, Gaussian
#: upsampling and the deepest network took longer, 1.6 times at most.
_MIN_TIMED_SHARE, _TIME_MARGIN = 0.03, 1.25


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentProgress:
    """What happened since the dock last looked.

    Attributes
    ----------
    event : Event
        The latest report.
    points : tuple of (group, iteration, values by curve)
    picture : ndarray (Y, X) or None
        The latest one.
    """

    event: Event
    points: tuple[tuple[str, int, Mapping[str, float]], ...]
    picture: npt.NDArray[Any] | None


class ExperimentProgressQueue(ProgressQueue[IterationUpdate, ExperimentProgress]):
    """Holds the reports of an experiment: its latest picture, and all points of the curves."""

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

    def _emptied(self) -> ExperimentProgress | None:
        event, points, picture = self._event, tuple(self._points), self._picture
        self._event, self._points, self._picture = None, [], None
        return (
            None
            if event is None
            else ExperimentProgress(event=event, points=points, picture=picture)
        )


class ExperimentTimer:
    """Tells how long the rest takes, pauses left out.

    Parameters
    ----------
    control : callable
        What the user wants; asked through this object, so that it knows of pauses.
    """

    def __init__(self, control: Callable[[], Control]) -> None:
        self._control = control
        self._begun: float | None = None
        self._paused_since: float | None = None

    def __call__(self) -> Control:
        """Ask what the user wants."""
        wanted, now = self._control(), time.monotonic()
        if wanted is Control.PAUSE:
            self._paused_since = self._paused_since or now
        elif self._paused_since is not None:
            if self._begun is not None:
                self._begun += now - self._paused_since
            self._paused_since = None
        return wanted

    def add_time_left(self, update: IterationUpdate) -> IterationUpdate:
        """Add to a report how long the rest takes, once that can be said."""
        now, event = time.monotonic(), update.event
        self._begun = self._begun or now
        if not _MIN_TIMED_SHARE < event.fraction < 1:
            return update
        remaining = _TIME_MARGIN * (now - self._begun) * (1 - event.fraction) / event.fraction
        spent = now - self._begun
        return update._replace(event=replace(event, seconds=spent, seconds_left=remaining))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentRequest:
    """What an experiment is asked for.

    Attributes
    ----------
    experiment : str
        A function of `napari_dip.explore`.
    name : str
        Of the image.
    axes : str
        "YX" or "YXS".
    settings : mapping
        As for `make_experiment_setup`.
    machine : Machine
    only : tuple of str or None
        Designs to compare with the preset's; None: all.
    """

    experiment: str
    name: str
    axes: str
    settings: Mapping[str, Any]
    machine: Machine
    only: tuple[str, ...] | None = None


def run_experiment(
    request: ExperimentRequest,
    plan: object,
    data: Mapping[str, npt.NDArray[Any]],
    *,
    control: Callable[[], Control],
    preview_seconds: float,
) -> Generator[IterationUpdate, None, Any]:
    """Carry an experiment out; the loops are those of the command.

    Parameters
    ----------
    request : ExperimentRequest
    plan : object
        Of no use here: the pixels are planned for anew.
    data : mapping of str to ndarray
        "image" and, if there is one, "truth".
    control : callable
    preview_seconds : float
        Of no use either: each iteration is reported.

    Returns
    -------
    Impedance, Spectrum, Architectures or None
        None if there is nothing to be kept.

    Raises
    ------
    Refused, Failed
        As the experiments.
    """
    pace = ExperimentTimer(control)
    yield IterationUpdate(Event(message="Starting the engine"), {})
    subject = make_experiment_setup(
        data["image"],
        axes=request.axes,
        name=request.name,
        machine=request.machine,
        **request.settings,
    )
    truth = read_truth(data["truth"], subject) if "truth" in data else None
    steps: Generator[IterationUpdate, None, Any]
    if request.experiment == "impedance":
        from napari_dip.explore.noise_impedance import explore_impedance

        steps = explore_impedance(subject, control=pace)
    elif request.experiment == "spectrum":
        from napari_dip.explore.spectra import explore_spectrum

        steps = explore_spectrum(subject, truth, control=pace)
    else:
        from napari_dip.explore.comparison import explore_architectures
        from napari_dip.explore.experiment_setup import choose_architectures

        steps = explore_architectures(
            subject, choose_architectures(subject, request.only), truth, control=pace
        )
    try:
        while True:
            try:
                update = next(steps)
            except StopIteration as end:
                return end.value
            yield pace.add_time_left(update)
    finally:
        steps.close()
