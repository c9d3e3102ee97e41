"""Report how far a piece of work is: events, the share that is done, and the seconds that remain.

The steps of a run, the files of a batch and the shards of a file are tracked alike. Each step has
planned seconds. Steps of one kind are expected to exceed their plan by the same factor, which is
measured on the steps of that kind that are done or in progress. A kind without measurements takes
the factor of its group, or else the square root of that of all steps: a busy computer slows down
all of them, but an error of the plan concerns one kind only.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from heapq import heapreplace
from math import isnan, nan, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar, cast

from napari_dip.engine.fit.stopping import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import Float32Array

#: Ratio of the reported bound to the expected time, since the time per iteration varies.
TIME_LEFT_MARGIN = 1.15
#: Weight of a step in the pace of its kind, relative to the next one; first ones load libraries.
PACE_DECAY = 0.6
#: Maximum number of steps that are assigned to workers one by one.
MAX_SCHEDULED_STEPS = 200
ItemT = TypeVar("ItemT")
MappedT = TypeVar("MappedT")
ReturnT = TypeVar("ReturnT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a piece of work and of its subtasks.

    Attributes
    ----------
    message : str
        Name of the work, for the user; "" if it needs none.
    done, total : float
        Finished and planned work, in planned seconds.
    seconds_left : float or None
        Upper estimate of the remaining time in seconds; None while unknown.
    children : tuple of Progress
        Subtasks in progress that report their own progress, such as the files of a batch.
    """

    message: str = ""
    done: float = 0.0
    total: float = 1.0
    seconds_left: float | None = None
    children: tuple[Progress, ...] = ()

    @property
    def fraction(self) -> float:
        """Finished share of the work, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 1.0


#: Progress of work of unknown duration that has not begun.
NO_PROGRESS = Progress()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Event:
    """Progress of a running restoration.

    Attributes
    ----------
    message : str
        Current step, for the user: "Measuring the noise", "Restoring, channel 1 of 3".
    progress : Progress
        How much is done, and how much time remains.
    iteration, iterations : int
        Iterations done and planned in the current fit; 0 outside a fit.
    training_loss, validation_loss : float or None
        Mean deviance (twice the negative log-likelihood) of training and of validation pixels;
        None if not measured.
    best_iteration : int
        Iteration with the lowest validation loss so far, of the first prior where several are
        compared; 0 before the first validation.
    seconds : float
        Time since the start.
    preview : ndarray or None
        Current estimate, float32, in intensity units of the input.
    unit, units : int
        Number of the current work unit, 1-based, and their count.
    unit_name : str
        What that unit restores, as "frame 2 of 5, channel 1 of 3"; "" for the only one.
    """

    message: str
    progress: Progress = NO_PROGRESS
    iteration: int = 0
    iterations: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    best_iteration: int = 0
    seconds: float = 0.0
    preview: Float32Array | None = None
    unit: int = 1
    units: int = 1
    unit_name: str = ""

    @property
    def fraction(self) -> float:
        """Share of the run that is done, from 0 to 1."""
        return self.progress.fraction

    @property
    def seconds_left(self) -> float | None:
        """Upper estimate of the remaining time; None while unknown."""
        return self.progress.seconds_left


#: Progress of work that is done.
FINISHED = Progress(done=1.0, seconds_left=0.0)


@dataclass(slots=True, eq=False, kw_only=True)
class WorkStep:
    """A step of the work, with the time that it took so far.

    Attributes
    ----------
    kind : str
        Steps of one kind are expected to deviate from their plan alike. The first word names the
        group of the kind.
    planned : float
        Planned seconds.
    warm_up_fraction : float
        Share at the start that is not timed, because libraries select algorithms then.
    weight : float or None
        Planned seconds that count for the progress bar; None: `planned`.
    fraction : float
        Finished share.
    report : Progress or None
        Last progress that the step reported itself.
    is_finished : bool
    stage : int
        Steps of later stages begin when all steps of this one are done.
    """

    kind: str
    planned: float
    warm_up_fraction: float = 0.0
    weight: float | None = None
    stage: int = 0
    fraction: float = 0.0
    report: Progress | None = None
    is_finished: bool = False
    _start: tuple[float, float] | None = None  # seconds and share from which on it is timed
    _end: tuple[float, float] = (0.0, 0.0)
    _is_warm: bool = False

    @property
    def is_started(self) -> bool:
        """Whether the step is in progress or finished."""
        return self._start is not None or self.is_finished

    @property
    def timed_fraction(self) -> float:
        """Share of the work that was timed."""
        return 0.0 if self._start is None else self._end[1] - self._start[1]

    @property
    def last_update(self) -> float:
        """Time of the last update, in seconds; 0 before the start."""
        return self._end[0]

    def reset(self) -> None:
        """Forget all that was done."""
        self.fraction, self.is_finished, self._is_warm = 0.0, False, False
        self._start, self._end = None, (0.0, 0.0)

    def start(self, now: float, fraction: float = 0.0) -> None:
        """Start timing, after a share that was done before."""
        self.reset()
        self.fraction, self._start, self._end = fraction, (now, fraction), (now, fraction)

    def update(self, now: float, fraction: float) -> None:
        """Record the finished share."""
        if self._start is None:
            self.start(now)
        assert self._start is not None
        if not self._is_warm and fraction - self._start[1] < self.warm_up_fraction:
            self._start = now, fraction
        self._is_warm = True
        self.fraction, self._end = fraction, (now, fraction)

    def report_progress(self, now: float, report: Progress) -> None:
        """Record the progress that the step reports itself."""
        self.report = report
        self.update(now, report.fraction)

    def finish(self, now: float | None = None) -> None:
        """End the step, at this time in seconds or (None) with its last update."""
        if now is not None:
            self.update(now, 1.0)
        self.is_finished = True

    def estimate_duration(self, usual_fraction: float) -> float | None:
        """Estimate the seconds of the whole step from those that were timed; None if none were.

        Parameters
        ----------
        usual_fraction : float
            Share at which steps of this kind end.
        """
        if self._start is None or self.timed_fraction <= 0:
            return None
        seconds = self._end[0] - self._start[0]
        if self.report is not None and not self.is_finished:
            remaining = self.report.seconds_left
            return None if remaining is None else seconds + remaining
        return seconds / self.timed_fraction * self._choose_final_fraction(usual_fraction)

    def estimate_seconds_left(self, now: float, usual_fraction: float, rate: float | None) -> float:
        """Estimate the remaining seconds from the step's own pace, or else from its plan.

        Parameters
        ----------
        now : float
            Current time, in seconds.
        usual_fraction : float
            Share at which steps of this kind end.
        rate : float or None
            Measured seconds per planned second.

        Returns
        -------
        float
            NaN if neither is known.
        """
        begin, end = (0.0, now) if self._start is None else (self._start[0], self._end[0])
        if self.timed_fraction > 0 and self.report is None:
            pace = (end - begin) / self.timed_fraction
            seconds = pace * (self._choose_final_fraction(usual_fraction) - self.fraction)
        else:
            end = end if self.timed_fraction > 0 or self._start is None else begin
            seconds = self.planned * (1 - self.fraction) if self.planned else 0.0
            seconds *= (nan if self.planned else 0.0) if rate is None else rate
        return seconds if isnan(seconds) else max(0.0, seconds - (now - end))

    def _choose_final_fraction(self, usual_fraction: float) -> float:
        if self.is_finished:
            return self.fraction
        return usual_fraction if usual_fraction > self.fraction else (1 + self.fraction) / 2


@dataclass(slots=True, eq=False, kw_only=True)
class ProgressTracker:
    """Track the steps of a piece of work, and combine them into one progress.

    Attributes
    ----------
    margin : float
        Ratio of the reported to the expected time. Steps that report their own time have included
        it.
    worker_count : int
        Number of steps of a stage that are done at once.
    steps : list of WorkStep
        In the order in which they are done.
    """

    margin: float = TIME_LEFT_MARGIN
    worker_count: int = 1
    steps: list[WorkStep] = field(default_factory=list)
    _total: float = 0.0
    # fraction and finished work when the planned work changed last, and the share done since
    _base: tuple[float, float] = (0.0, 0.0)
    _fraction: float = 0.0

    def add_step(
        self, kind: str, planned: float, weight: float | None = None, stage: int = 0
    ) -> WorkStep:
        """Append a step and return it; for the arguments, see `WorkStep`."""
        self.steps.append(WorkStep(kind=kind, planned=planned, weight=weight, stage=stage))
        return self.steps[-1]

    def compute_progress(self, now: float, message: str = "") -> Progress:
        """Return the progress of all steps together.

        The fraction never decreases: further work shares what remains of the bar.

        Parameters
        ----------
        now : float
            Current time, in seconds.
        message : str
        """
        total = done = 0.0
        for step in self.steps:
            weight = step.planned if step.weight is None else step.weight
            total += weight
            done += weight * (1.0 if step.is_finished else step.fraction)
        base, base_done = self._base
        if total != self._total and self._total:
            base += (1 - base) * self._fraction
            base_done, self._fraction = done, 0.0
        self._base, self._total = (base, base_done), total
        if total > base_done:
            self._fraction = max(self._fraction, (done - base_done) / (total - base_done))
        fraction = base + (1 - base) * self._fraction if self._fraction < 1 else 1.0
        return Progress(
            message=message,
            done=fraction * total,
            total=total,
            seconds_left=self._estimate_seconds_left(now),
            children=tuple(
                step.report
                for step in self.steps
                if step.report is not None and not step.is_finished
            ),
        )

    def _estimate_seconds_left(self, now: float) -> float | None:
        rates, usual_fractions = self._measure_rates()
        running: dict[int, list[float]] = defaultdict(list)
        pending: dict[int, list[float]] = defaultdict(list)
        for step in self.steps:
            if step.is_finished:
                continue
            if step.report is not None and step.report.seconds_left is not None:
                running[step.stage].append(step.report.seconds_left)
                continue
            usual_fraction = usual_fractions.get(step.kind, 1.0)
            group_rate = rates.get(_get_group(step.kind), rates.get(""))
            rate = rates.get(step.kind, group_rate)
            seconds = step.estimate_seconds_left(now, usual_fraction, rate)
            (running if step.is_started else pending)[step.stage].append(self.margin * seconds)
        seconds_left = sum(
            _estimate_makespan([*running[stage], *pending[stage]], self.worker_count)
            for stage in {*running, *pending}
        )
        return None if isnan(seconds_left) else seconds_left

    def _measure_rates(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return measured seconds per planned second, and the share at which steps end, by kind.

        The rate of all other kinds has the key "".
        """
        fractions: dict[str, list[float]] = defaultdict(list)
        for step in self.steps:
            if step.is_finished and step.timed_fraction > 0:
                fractions[step.kind].append(step.fraction)
        usual_fractions = {kind: fmean(ends) for kind, ends in fractions.items()}
        measured: dict[str, float] = defaultdict(float)
        planned: dict[str, float] = defaultdict(float)
        for step in self.steps:
            duration = step.estimate_duration(usual_fractions.get(step.kind, 1.0))
            if duration is not None and step.planned > 0:
                weight = 1.0 if step.is_finished else step.timed_fraction
                decay = 1 - (1 - PACE_DECAY) * weight
                for kind in {step.kind, _get_group(step.kind), ""}:
                    measured[kind] = decay * measured[kind] + weight * duration
                    planned[kind] = decay * planned[kind] + weight * step.planned
        rates = {kind: measured[kind] / planned[kind] for kind in planned}
        return {**rates, **({"": sqrt(rates[""])} if rates else {})}, usual_fractions


def _get_group(kind: str) -> str:
    return kind.partition(" ")[0]


def _estimate_makespan(durations: list[float], worker_count: int) -> float:
    """Return the seconds until workers have done steps of these durations, in this order."""
    ends = [0.0] * max(1, min(worker_count, len(durations)))
    for duration in durations[:MAX_SCHEDULED_STEPS]:
        heapreplace(ends, ends[0] + duration)
    rest = sum(durations[MAX_SCHEDULED_STEPS:])
    return max(*ends, (sum(ends) + rest) / len(ends)) if len(ends) > 1 else ends[0] + rest


class PausableClock:
    """Measure seconds without the pauses that a user requests.

    Parameters
    ----------
    poll_control : callable
        Returns the current control of the user.
    monotonic : callable
        Returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        poll_control: PollControl = lambda: Control.GO,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._poll_control = poll_control
        self._monotonic = monotonic or (lambda: time.monotonic())
        self._pause_start: float | None = None  # None while the run is not paused
        self._excluded_seconds = self._monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start, without pauses."""
        now = self._monotonic() if self._pause_start is None else self._pause_start
        return now - self._excluded_seconds

    def poll_control(self) -> Control:
        """Poll the control; the time in which it returns PAUSE is not counted."""
        control = self._poll_control()
        if control is Control.PAUSE and self._pause_start is None:
            self._pause_start = self._monotonic()
        elif control is not Control.PAUSE and self._pause_start is not None:
            self._excluded_seconds += self._monotonic() - self._pause_start
            self._pause_start = None
        return control


def drain_generator(
    steps: Generator[ItemT, None, ReturnT], on_item: Callable[[ItemT], object] | None = None
) -> ReturnT:
    """Run a generator to its end and return its result; an interrupt or error closes it.

    Parameters
    ----------
    steps : generator
    on_item : callable or None
        Called with each value that the generator yields.
    """
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                return cast("ReturnT", stop.value)
            if on_item is not None:
                on_item(step)  # not within a generator, which would change a StopIteration of it


def map_generator(
    steps: Generator[ItemT, None, ReturnT], change: Callable[[ItemT], MappedT]
) -> Generator[MappedT, None, ReturnT]:
    """Yield the mapped values of a generator and return its result; closing closes both."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                return cast("ReturnT", stop.value)
            yield change(step)
