"""Time a run: due previews, the time limit, and an upper bound of the remaining seconds.

Pauses of the run are not counted.
"""

from __future__ import annotations

import time
from itertools import count
from math import nan
from typing import TYPE_CHECKING

from napari_dip.engine.control import Control
from napari_dip.engine.fit.early_stopping import ValidationRecord
from napari_dip.errors import Failed, Refused, make_refusal
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.machine import convert_nan_to_none
from napari_dip.pipeline.plan.costs import START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from napari_dip.engine.fit.state import FitProgress
    from napari_dip.pipeline.plan.types import Plan, WorkUnit

#: Iterations at the start of a fit that are not timed, because libraries select algorithms in the
#: first ones. Where these were timed, the estimate was 140 s for a run of 23 s
#: (`benchmarks/time_left.py`).
WARM_UP_ITERATIONS = 10
#: Ratio of the reported bound to the expected time, since the time per iteration varies.
TIME_LEFT_MARGIN = 1.15
#: Lower limit of the planned time of all iterations, in seconds.
MIN_FIT_SECONDS = 1e-3
#: Share of final inference in the time after the last iteration; refinement and quality checks take
#: the rest. Measured: 1.4 of 3.0 s (`benchmarks/time_left.py --cpu`).
INFERENCE_TIME_SHARE = 0.45
#: Maximum share of the run time for inference that only serves previews: a fifth of the 5 % by
#: which napari may prolong a run. The other four fifths are for drawing.
MAX_PREVIEW_SHARE = 0.01


class IterationTimer:
    """Measure the time per iteration within one work unit.

    Parameters
    ----------
    began : float
        Start time of the unit's fit, in seconds.
    done : int
        Iterations of the unit that were done before, in an earlier run.
    """

    def __init__(self, began: float, done: int) -> None:
        self._first_iteration, self._start_time = done, began
        self._is_warm = False

    def estimate_seconds(self, now: float, done: int) -> float | None:
        """Return the seconds per iteration; None until the first iterations are over.

        Parameters
        ----------
        now : float
            Current time, in seconds.
        done : int
            Iterations of this unit that are done.
        """
        if not self._is_warm and done - self._first_iteration < WARM_UP_ITERATIONS:
            # start counting now, and return a value at the next report
            self._is_warm, self._first_iteration, self._start_time = True, done, now
            return None
        self._is_warm = True
        timed_iterations = done - self._first_iteration
        return (now - self._start_time) / timed_iterations if timed_iterations > 0 else None


def estimate_ending_iterations(plan: Plan) -> float:
    """Estimate the time after a unit's last iteration, as a number of iterations of equal duration.

    This covers final inference, refinement, residual and quality checks. The planned time is
    divided by the planned time of an iteration, because both grow alike on a busy computer. On a
    busy computer, the estimate was 3.0 s and the measured time 3.0 s
    (`benchmarks/time_left.py --cpu`, one exposure of 320 × 320 pixels).
    """
    budget, unit_count = plan.budget, len(plan.units)
    iterations = sum(unit.iterations for unit in plan.units)
    iterations += unit_count * (
        budget.refit_iterations + budget.iterations * len(budget.other_candidates)
    )
    seconds_per_iteration = max(plan.costs.fit - START_SECONDS, MIN_FIT_SECONDS) / max(
        1, iterations
    )
    return (plan.costs.usual_inference + plan.costs.ending) / unit_count / seconds_per_iteration


class RunClock:
    """Time one run, report its progress, and apply its time limit.

    Times do not influence the restored pixels, except through the time limit.

    Parameters
    ----------
    plan : Plan
    control : callable
        Returns the current request of the user, a `Control`.
    preview_seconds : float or None
        Minimum time between two previews, in seconds; None: no previews.
    monotonic : callable
        Returns the seconds of a monotonic clock.

    Attributes
    ----------
    started : float
        Start of the run, in seconds of the clock.
    timed_out : bool
        Whether the time limit was reached.
    is_ended : bool
        Whether the user or the time limit ended the run before all units were fitted.
    """

    def __init__(
        self,
        plan: Plan,
        control: Callable[[], Control],
        preview_seconds: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._pause_start: float | None = None  # None while the run is not paused
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
        self._iteration_timer = IterationTimer(self.started, 0)
        self._unit_start, self._first_iteration, self._last_iteration = self.started, 0, 0
        # measured in earlier units: seconds per iteration, and seconds after the last iteration
        self._pace: float | None = None
        self._ending_seconds: dict[bool, float] = {}

    def expect(self, plan: Plan, units: Sequence[WorkUnit] = ()) -> None:
        """Set the expected iterations to those of a plan, or of some of its units.

        Call it again when calibration has changed the plan.

        Parameters
        ----------
        plan : Plan
        units : sequence of WorkUnit, optional
            Units that this run fits; all units of the plan by default.
        """
        budget, units = plan.budget, units or plan.units
        self._unit_iterations = [unit.iterations + budget.refit_iterations for unit in units]
        self._iterations = self._unit_iterations[0]
        self._candidate_iterations = budget.iterations  # per prior, if several are compared
        self._selection_iterations = budget.iterations * len(budget.other_candidates)
        self._fit_share = plan.fit_share
        self._units = len(units)
        self._ending_iterations = estimate_ending_iterations(plan)
        self._unit_label = plan.part_name
        self._unit_pictured = [unit.has_estimate for unit in units]
        self._uses_joint_training = any(unit.series for unit in units)
        self._reported_fraction = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds since the start, without pauses."""
        return self._read_time() - self.started

    def begin(self, number: int, done: int, iterations: int = 0) -> None:
        """Start timing a work unit.

        Parameters
        ----------
        number : int
            Position of the unit in the run, 1-based.
        done : int
            Iterations after which the unit resumes; 0 for a new fit.
        iterations : int
            Number of iterations, if it may exceed the plan. Later units are then expected to need
            as many.
        """
        self._record_ending(number)
        self._unit = number
        remaining_iterations = self._unit_iterations[number - 1 :]
        self._unit_iterations[number - 1 :] = [
            max(planned, iterations) for planned in remaining_iterations
        ]
        self._iterations = self._unit_iterations[number - 1]
        self._iteration_timer = IterationTimer(self._read_time(), done)
        self._unit_start, self._first_iteration = self._read_time(), done
        self._last_iteration = done

    def _record_ending(self, number: int) -> None:
        """Record how long the unit before this one took after its iterations."""
        if number <= self._unit or self._candidate_index is not None:
            return
        iterations = self._last_iteration - self._first_iteration
        if iterations and self._pace is None:
            return
        fit_seconds = iterations * (self._pace or 0.0)
        ending = max(0.0, self._read_time() - self._unit_start - fit_seconds)
        self._ending_seconds[self._unit_pictured[self._unit - 1]] = ending

    def set_candidate(self, place: int | None) -> None:
        """Set the index of the prior that is being fitted; None if only one prior is fitted."""
        self._candidate_index = place

    def poll_control(self) -> Control:
        """Return the request of the user; KEEP once the time limit is reached."""
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
        """Raise an error if the time limit ended a run that has no result.

        Parameters
        ----------
        name : str
            Name of the image.

        Raises
        ------
        Failed
            If the time limit was reached.
        """
        if self.timed_out:
            raise Failed(make_refusal("time-over", limit=f"{self._time_limit:g}", name=name))

    def is_preview_due(self, has_prediction: bool) -> bool:
        """Return whether to show a preview now.

        Parameters
        ----------
        has_prediction : bool
            Whether a current prediction exists; otherwise a preview costs an inference pass.
        """
        if self._preview_seconds is None:
            return False
        now = self._read_time()
        min_interval = 0.0 if has_prediction else self._preview_cost / MAX_PREVIEW_SHARE
        if now - self._last_preview < max(self._preview_seconds, min_interval):
            return False
        self._preview_start, self._has_preview_inference = now, not has_prediction
        return True

    def record_preview_cost(self) -> None:
        """Record how long the last preview took, after it was shown."""
        self._last_preview = self._read_time()
        if self._has_preview_inference:
            self._preview_cost = self._last_preview - self._preview_start

    def make_event(self, progress: FitProgress, preview: npt.NDArray[np.float32] | None) -> Event:
        """Convert a progress report of the engine to an event.

        Parameters
        ----------
        progress : FitProgress
        preview : ndarray or None
            Preview to send along.
        """
        validation_record, self._last_iteration = progress.validation_record, progress.iteration
        earlier_iterations = (
            self._selection_iterations
            if self._candidate_index is None
            else self._candidate_index * self._candidate_iterations
        )
        done_iterations = earlier_iterations + progress.iteration
        share = (
            min(1.0, done_iterations / max(1, self._selection_iterations + self._iterations))
            * self._fit_share
        )
        is_last_candidate = (
            self._candidate_index is None
            or self._candidate_index * self._candidate_iterations == self._selection_iterations
        )
        if progress.inference_share and is_last_candidate:
            share = self._fit_share + (1 - self._fit_share) * progress.inference_share
        message = "Taking a last close look" if progress.inference_share else "Restoring"
        if not self._unit_pictured[self._unit - 1]:
            message = "Learning from many at once"
        elif self._units > 1:
            picture_number = sum(self._unit_pictured[: self._unit])
            message += f", {self._unit_label} {picture_number} of {sum(self._unit_pictured)}"
        if self._candidate_index:
            # the loss curve on display belongs to the first prior
            validation_record = ValidationRecord(iteration=0, fit_loss=nan, validation_loss=nan)
            message = "Finding out which prior suits"
        return Event(
            message=message if progress.note is None else str(progress.note),
            fraction=self._compute_fraction(share),
            iteration=progress.iteration,
            iterations=self._iterations,
            training_loss=convert_nan_to_none(validation_record.fit_loss),
            validation_loss=convert_nan_to_none(validation_record.validation_loss),
            best_iteration=progress.best_iteration,
            seconds=self.seconds,
            seconds_left=self._estimate_time_left(
                done_iterations, progress.inference_share if is_last_candidate else 0.0
            ),
            preview=preview,
            unit=self._unit,
            units=self._units,
        )

    def _compute_fraction(self, share: float) -> float:
        """Return the completed fraction of the run, given the fraction `share` of this unit.

        The fraction never decreases, although fine-tuning may add iterations during the run.
        """
        # with joint training, most of the time is spent after the iterations
        unit_costs = [
            iteration + self._ending_iterations * self._uses_joint_training
            for iteration in self._unit_iterations
        ]
        fraction = (sum(unit_costs[: self._unit - 1]) + share * unit_costs[self._unit - 1]) / sum(
            unit_costs
        )
        self._reported_fraction = max(self._reported_fraction, fraction)
        return self._reported_fraction

    def _read_time(self) -> float:
        """Return the seconds of the clock, without pauses."""
        now = self._monotonic() if self._pause_start is None else self._pause_start
        return now - self._paused_seconds

    def _update_pause(self, request: Control) -> None:
        if request is Control.PAUSE and self._pause_start is None:
            self._pause_start = self._monotonic()
        elif request is not Control.PAUSE and self._pause_start is not None:
            self._paused_seconds += self._monotonic() - self._pause_start
            self._pause_start = None

    def _estimate_time_left(self, done: int, inference_share: float) -> float | None:
        """Return an upper bound of the remaining seconds, from the pace of this unit.

        Parameters
        ----------
        done : int
            Finished iterations.
        inference_share : float
            Finished share of the final inference.
        """
        pace = self._iteration_timer.estimate_seconds(self._read_time(), done)
        self._pace = self._pace if pace is None else pace
        seconds = self._sum_remaining_seconds(done, inference_share)
        remaining = None if seconds is None else TIME_LEFT_MARGIN * max(0.0, seconds)
        if self._time_limit is None:
            return remaining
        time_to_limit = max(0.0, self._time_limit - self.seconds)
        return time_to_limit if remaining is None else min(remaining, time_to_limit)

    def _sum_remaining_seconds(self, done: int, inference_share: float) -> float | None:
        """Return the expected seconds of all that remains; None if nothing was measured so far."""
        later_iterations = self._unit_iterations[self._unit :]
        iterations = max(0, self._selection_iterations + self._iterations - done)
        iterations += sum(later_iterations)
        if self._pace is None and iterations:
            return None
        seconds = iterations * (self._pace or 0.0)
        for number, is_pictured in enumerate(self._unit_pictured[self._unit - 1 :]):
            ending = self._get_ending_seconds(is_pictured=is_pictured)
            if ending is None:
                return None
            seconds += ending * (1.0 if number else 1 - INFERENCE_TIME_SHARE * inference_share)
        return seconds

    def _get_ending_seconds(self, *, is_pictured: bool) -> float | None:
        """Return the seconds after a unit's iterations: measured if possible, otherwise planned.

        Units without a picture, such as the training of a joint network, end sooner than others.
        """
        if is_pictured in self._ending_seconds:
            return self._ending_seconds[is_pictured]
        return None if self._pace is None else self._ending_iterations * self._pace


def make_keep_after_control(
    iterations: int | str | None, control: Callable[[], Control] = lambda: Control.GO
) -> Callable[[], Control]:
    """Return a control function that keeps the result after a number of iterations.

    The learning rates stay those of the complete run, so a result that a user kept can be
    reproduced. In a run of several fits, the iterations of all fits and of their final inference
    are counted together. The number is then approximate.

    Parameters
    ----------
    iterations : int or str or None
        Number of iterations, also as text from the command line; None: no limit.
    control : callable
        Returns other requests of the user.

    Raises
    ------
    Refused
        If `iterations` is not a whole number above 0.
    """
    if iterations is None:
        return control
    try:
        max_iterations = int(iterations)
    except ValueError:
        max_iterations = 0
    if max_iterations < 1 or isinstance(iterations, bool):
        raise Refused(
            make_refusal(
                "setting-wrong",
                field="keep_after",
                value=repr(iterations),
                why="it should be a whole number above 0",
                hint="Leave it out to let the run end by itself.",
            )
        )
    counter = count()

    def poll() -> Control:
        request = control()
        if request is not Control.GO:
            return request
        return Control.KEEP if next(counter) >= max_iterations else request

    return poll
