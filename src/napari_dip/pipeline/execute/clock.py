"""Times a run: previews when due, an end when the limit is reached, seconds left.

While a person pauses the run, the clock stands still.

How many seconds a run still takes, as an upper bound, from what its iterations have taken.
"""

from __future__ import annotations

import time
from math import nan
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.engine.fit.early_stopping import ValidationRecord
from napari_dip.errors import Failed, refusal
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.machine import convert_nan_to_none
from napari_dip.pipeline.plan.costs import START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from napari_dip.pipeline.plan.types import Plan, WorkUnit

#: Iterations at the start of which the pace says nothing: libraries choose their ways in the first.
#: Said of it alone, 140 s were left where 23 came (`benchmarks/time_left.py`).
WARM_UP_ITERATIONS = 10
#: What is said, by what is expected: iterations do not all take the same time.
TIME_LEFT_MARGIN = 1.15
#: Least time that a plan is taken to give all iterations.
MIN_FIT_SECONDS = 1e-3


class IterationTimer:
    """Learns how long an iteration takes in one unit of a run.

    Parameters
    ----------
    began : float
        Second at which the unit's fit was begun.
    done : int
        Iterations that lie behind it, done in an earlier run.
    """

    def __init__(self, began: float, done: int) -> None:
        self._first_iteration, self._start_time = done, began
        self._is_warm = False

    def estimate_seconds(self, now: float, done: int) -> float | None:
        """Give the seconds for an iteration, once that can be told.

        Parameters
        ----------
        now : float
        done : int
            Iterations of this unit that are done.
        """
        if (
            not self._is_warm and done - self._first_iteration < WARM_UP_ITERATIONS
        ):  # count from here at the next report
            self._is_warm, self._first_iteration, self._start_time = True, done, now
            return None
        self._is_warm = True
        counted = done - self._first_iteration
        return (now - self._start_time) / counted if counted > 0 else None


def estimate_ending_iterations(plan: Plan) -> float:
    """Estimate what each unit of a plan takes after its last iteration, counted in iterations.

    Looks, filter, residual and verdict, as long as the plan expects them to take, in iterations as
    long as it expects those: on a busy computer both take longer. On one that was, 3.0 s came and
    3.0 s are counted (`benchmarks/time_left.py --cpu`, single shot of 320 × 320 pixels).
    """
    budget, fits = plan.budget, len(plan.units)
    iterations = sum(unit.iterations for unit in plan.units)
    iterations += fits * (budget.release + budget.iterations * len(budget.rivals))
    each = max(plan.costs.fit - START_SECONDS, MIN_FIT_SECONDS) / max(1, iterations)
    return (plan.costs.usual_inference + plan.costs.ending) / fits / each


def bound_time_left(pace: float, iterations: float) -> float:
    """Bound the seconds left from above.

    Parameters
    ----------
    pace : float
        Seconds for an iteration.
    iterations : float
        That are to come, with what counts as such.
    """
    return TIME_LEFT_MARGIN * pace * max(0.0, iterations)


#: Share of what comes after the iterations that looks take, and not the filter and the verdict:
#: 1.4 of 3.0 s (`benchmarks/time_left.py --cpu`).
INFERENCE_TIME_SHARE = 0.45
#: Share of the time that looks for the sake of previews take at most, beside pictures that were
#: just judged, which cost none: a run in napari is to cost a twentieth more than one without, and
#: the window wants most of that.
MAX_PREVIEW_SHARE = 0.01


class RunClock:
    """Reads the time for one run; nothing that it says enters the pixels but the time limit.

    Parameters
    ----------
    plan : Plan
    control : callable
        What the person wants.
    preview_seconds : float or None
        Least time between two previews; None for none.
    monotonic : callable
        Seconds of a clock that never goes back.

    Attributes
    ----------
    is_ended : bool
        Whether a person, or the time limit, has ended the run before all units were fitted.
    """

    def __init__(
        self,
        plan: Plan,
        control: Callable[[], Control],
        preview_seconds: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._pause_start: float | None = None  # when the pause began that lasts now
        self._paused_seconds = 0.0
        self.started = self._read_time()
        self.timed_out = self.is_ended = False
        self._time_limit = plan.recipe.run_settings.time_limit
        self._candidate_index: int | None = None
        self.expect(plan)
        self._get_control = control
        self._preview_seconds = preview_seconds
        self._last_preview = self._preview_start = self.started
        self._preview_cost, self._has_preview_inference = 0.0, False
        self._unit = 1
        self._pace = IterationTimer(self.started, 0)

    def expect(self, plan: Plan, units: Sequence[WorkUnit] = ()) -> None:
        """Count on what a plan spends, or these units of it; the pixels may have changed it."""
        budget, units = plan.budget, units or plan.units
        self._unit_iterations = [unit.iterations + budget.release for unit in units]
        self._iterations = self._unit_iterations[0]
        self._candidate_iterations = budget.iterations  # of each prior in a race
        self._selection_iterations = budget.iterations * len(budget.rivals)
        self._fit_share = plan.fit_share
        self._units = len(units)
        self._ending_iterations = estimate_ending_iterations(plan)
        self._unit_label = plan.part_name
        self._unit_pictured = [unit.has_estimate for unit in units]
        self._uses_joint_training = any(unit.series for unit in units)
        self._reported_fraction = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start, pauses left out."""
        return self._read_time() - self.started

    def begin(self, number: int, done: int, iterations: int = 0) -> None:
        """Start timing unit `number`, which resumes after `done` iterations.

        If it takes more `iterations` than was planned, so will those that come after it.
        """
        self._unit = number
        later = self._unit_iterations[number - 1 :]
        self._unit_iterations[number - 1 :] = [max(item, iterations) for item in later]
        self._iterations = self._unit_iterations[number - 1]
        self._pace = IterationTimer(self._read_time(), done)

    def set_candidate(self, place: int | None) -> None:
        """Take note of which prior of a race is fitted now; None: it is over."""
        self._candidate_index = place

    def poll_control(self) -> Control:
        """Ask what the person wants; KEEP once the time is up."""
        request = self._get_control()
        self._update_pause(request)
        if (
            self._time_limit is not None
            and request is Control.GO
            and self.seconds > self._time_limit
        ):
            self.timed_out = True
            return Control.KEEP
        return request

    def check_time(self, name: str) -> None:
        """Say no to a run that has come to nothing by its time limit.

        Parameters
        ----------
        name : str
            Of what was being restored.

        Raises
        ------
        Failed
            If it was the limit that ended it.
        """
        if self.timed_out:
            raise Failed(refusal("time-over", limit=f"{self._time_limit:g}", name=name))

    def is_preview_due(self, at_hand: bool) -> bool:
        """Say whether to show a picture now.

        Parameters
        ----------
        at_hand : bool
            Whether there is one; else it has to be looked at.
        """
        if self._preview_seconds is None:
            return False
        now = self._read_time()
        dear = 0.0 if at_hand else self._preview_cost / MAX_PREVIEW_SHARE
        if now - self._last_preview < max(self._preview_seconds, dear):
            return False
        self._preview_start, self._has_preview_inference = now, not at_hand
        return True

    def record_preview_cost(self) -> None:
        """Take note of what the preview cost."""
        self._last_preview = self._read_time()
        if self._has_preview_inference:
            self._preview_cost = self._last_preview - self._preview_start

    def make_event(self, progress: Any, preview: npt.NDArray[np.float32] | None) -> Event:
        """Put the engine's report into words."""
        judgement = progress.judgement
        before = (
            self._selection_iterations
            if self._candidate_index is None
            else self._candidate_index * self._candidate_iterations
        )
        done = before + progress.iteration
        share = (
            min(1.0, done / max(1, self._selection_iterations + self._iterations)) * self._fit_share
        )
        last = (
            self._candidate_index is None
            or self._candidate_index * self._candidate_iterations == self._selection_iterations
        )
        if progress.swept and last:
            share = self._fit_share + (1 - self._fit_share) * progress.swept
        message = "Taking a last close look" if progress.swept else "Restoring"
        if not self._unit_pictured[self._unit - 1]:
            message = "Learning from many at once"
        elif self._units > 1:
            place = sum(self._unit_pictured[: self._unit])
            message += f", {self._unit_label} {place} of {sum(self._unit_pictured)}"
        if (
            self._candidate_index
        ):  # a rival's losses are no part of the curve that the first has drawn
            judgement = ValidationRecord(iteration=0, fitted=nan, held_out=nan)
            message = "Finding out which prior suits"
        return Event(
            message=message if progress.note is None else str(progress.note),
            fraction=self._compute_fraction(share),
            iteration=progress.iteration,
            iterations=self._iterations,
            fitted_loss=convert_nan_to_none(judgement.fitted),
            held_out_loss=convert_nan_to_none(judgement.held_out),
            best_iteration=progress.best_iteration,
            seconds=self.seconds,
            seconds_left=self._estimate_time_left(done, progress.swept if last else 0.0),
            preview=preview,
            unit=self._unit,
            units=self._units,
        )

    def _compute_fraction(self, share: float) -> float:
        """Share of the run that is done, of this unit so much; it never falls.

        More may be left than was thought, where frames go on from what all have learned.
        """
        # where a network is shared, most of the time goes into what follows the fits
        each = [
            iteration + self._ending_iterations * self._uses_joint_training
            for iteration in self._unit_iterations
        ]
        done = (sum(each[: self._unit - 1]) + share * each[self._unit - 1]) / sum(each)
        self._reported_fraction = max(self._reported_fraction, done)
        return self._reported_fraction

    def _read_time(self) -> float:
        """Seconds of the clock that stands still in pauses."""
        now = self._monotonic() if self._pause_start is None else self._pause_start
        return now - self._paused_seconds

    def _update_pause(self, request: Control) -> None:
        if request is Control.PAUSE and self._pause_start is None:
            self._pause_start = self._monotonic()
        elif request is not Control.PAUSE and self._pause_start is not None:
            self._paused_seconds += self._monotonic() - self._pause_start
            self._pause_start = None

    def _estimate_time_left(self, done: int, swept: float) -> float | None:
        """Upper bound of the seconds left, from the pace of this unit."""
        pace, remaining = self._pace.estimate_seconds(self._read_time(), done), None
        if pace is not None:
            later = self._unit_iterations[self._unit :]
            ending = self._ending_iterations * (1 - INFERENCE_TIME_SHARE * swept + len(later))
            remaining = bound_time_left(
                pace,
                max(0, self._selection_iterations + self._iterations - done) + sum(later) + ending,
            )
        if self._time_limit is None:
            return remaining
        rest = max(0.0, self._time_limit - self.seconds)
        return rest if remaining is None else min(remaining, rest)
