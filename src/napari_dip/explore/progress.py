"""Define what every experiment reports while it runs, and how its outcome is saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from napari_dip.engine.control import Control
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.progress import ProgressTracker, Stopwatch

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.pipeline.events import Event

#: Minimum number of iterations to keep: before that, a network has hardly learned anything.
MIN_KEPT_ITERATIONS = 10
#: Fraction of an experiment from which its speed gives the remaining time, and the factor on that
#: time. The preset's network comes first; on average, a fit took 0.8 times as long as with it (CPU
#: time, `make bench-architectures`). Only spectral norm, Gaussian upsampling and the deepest
#: network took longer, 1.6 times at most.
MIN_TIMED_FRACTION, TIME_MARGIN = 0.03, 1.25
#: Registered writers; the last one is used.
_WRITERS: list[Writer] = []


class IterationUpdate(NamedTuple):
    """Report of one iteration.

    Attributes
    ----------
    event : Event
        Progress of the experiment.
    points : mapping of str to float
        Values at `event.iteration`, by curve.
    group : str
        Network that the curves belong to, if several are fitted one after another.
    picture : ndarray (Y, X) float32 or None
        Current output of the network, in the image's units.
    """

    event: Event
    points: Mapping[str, float]
    group: str = ""
    picture: Picture | None = None


def delay_keep(control: Callable[[], Control]) -> Callable[[], Control]:
    """Return a control that ignores KEEP, so that parallel fits end at the same iteration."""

    def poll_control() -> Control:
        answer = control()
        return Control.GO if answer is Control.KEEP else answer

    return poll_control


def mark_ended_early(setup: ExperimentSetup, count: int) -> ExperimentSetup:
    """Return a setup that notes how many iterations its fits had, if the user ended them.

    Parameters
    ----------
    setup : ExperimentSetup
    count : int
        Iterations of each fit.
    """
    if count >= setup.iterations:
        return setup
    note = make_note("experiment-ended", count=count, total=setup.iterations)
    recipe = {**setup.recipe, "ended_after": count}
    return replace(setup, stop_iteration=count, recipe=recipe, notes=(*setup.notes, note))


class ExperimentTimer(Stopwatch):
    """Estimate the remaining time of an experiment, without pauses.

    An experiment polls this object instead of the user's control.
    """

    def __init__(
        self,
        control: Callable[[], Control] = lambda: Control.GO,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(control, monotonic)
        self._tracker = ProgressTracker(margin=TIME_MARGIN)
        self._step = self._tracker.add_step("experiment", 1.0)

    def add_time_left(self, update: IterationUpdate) -> IterationUpdate:
        """Return the update with elapsed and remaining time, once these can be estimated."""
        event, seconds = update.event, self.seconds
        self._step.update(seconds, event.fraction)
        if not MIN_TIMED_FRACTION < event.fraction < 1:
            return update
        progress = self._tracker.fold(seconds)
        return update._replace(event=replace(event, seconds=seconds, progress=progress))


class Writer(Protocol):
    """Function that saves an outcome."""

    def __call__(
        self, outcome: ExperimentResult, folder: str | os.PathLike[str], *, overwrite: bool = False
    ) -> Path:
        """Save page, figures, tables and recipe; return the path of the page."""


class ExperimentResult:
    """Outcome of one experiment.

    Attributes
    ----------
    experiment : str
        Name of the experiment; a key in `EXPERIMENT_FILES` of `explore.output.files`.
    """

    __slots__ = ()
    experiment: ClassVar[str]

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save page, figures, tables and recipe; return the path of the page.

        Raises
        ------
        RefusedError
            If the folder cannot be used, or already holds such files.
        FailedError
            If the files cannot be written.
        """
        return _WRITERS[-1](self, folder, overwrite=overwrite)


def set_writer(writer: Writer) -> None:
    """Register the writer of outcomes; the modules that write pages import the experiments."""
    _WRITERS.append(writer)
