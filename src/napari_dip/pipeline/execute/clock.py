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
WARM_UP = 10
#: What is said, by what is expected: iterations do not all take the same time.
MARGIN = 1.15
#: Least time that a plan is taken to give all iterations.
LEAST_SECONDS = 1e-3


class Pace:
    """Learns how long an iteration takes in one unit of a run.

    Parameters
    ----------
    began : float
        Second at which the unit's fit was begun.
    done : int
        Iterations that lie behind it, done in an earlier run.
    """

    def __init__(self, began: float, done: int) -> None:
        self._from, self._began = done, began
        self._warm = False

    def at(self, now: float, done: int) -> float | None:
        """Give the seconds for an iteration, once that can be told.

        Parameters
        ----------
        now : float
        done : int
            Iterations of this unit that are done.
        """
        if not self._warm and done - self._from < WARM_UP:  # count from here at the next report
            self._warm, self._from, self._began = True, done, now
            return None
        self._warm = True
        counted = done - self._from
        return (now - self._began) / counted if counted > 0 else None


def ending_iterations(plan: Plan) -> float:
    """Estimate what each unit of a plan takes after its last iteration, counted in iterations.

    Looks, filter, residual and verdict, as long as the plan expects them to take, in iterations as
    long as it expects those: on a busy computer both take longer. On one that was, 3.0 s came and
    3.0 s are counted (`benchmarks/time_left.py --cpu`, single shot of 320 × 320 pixels).
    """
    budget, fits = plan.budget, len(plan.units)
    iterations = sum(one.iterations for one in plan.units)
    iterations += fits * (budget.release + budget.iterations * len(budget.rivals))
    each = max(plan.costs.fit - START_SECONDS, LEAST_SECONDS) / max(1, iterations)
    return (plan.costs.usual_look + plan.costs.ending) / fits / each


def bound(pace: float, iterations: float) -> float:
    """Bound the seconds left from above.

    Parameters
    ----------
    pace : float
        Seconds for an iteration.
    iterations : float
        That are to come, with what counts as such.
    """
    return MARGIN * pace * max(0.0, iterations)


#: Share of what comes after the iterations that looks take, and not the filter and the verdict:
#: 1.4 of 3.0 s (`benchmarks/time_left.py --cpu`).
INFERENCE_TIME_SHARE = 0.45
#: Share of the time that looks for the sake of previews take at most, beside pictures that were
#: just judged, which cost none: a run in napari is to cost a twentieth more than one without, and
#: the window wants most of that.
MAX_PREVIEW_SHARE = 0.01


class Clock:
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
    ended : bool
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
        self._stands_at: float | None = None  # when the pause began that lasts now
        self._paused = 0.0
        self.started = self._now()
        self.timed_out = self.ended = False
        self._limit = plan.recipe.common.time_limit
        self._place: int | None = None
        self.expect(plan)
        self._ask = control
        self._preview_seconds = preview_seconds
        self._last_preview = self._asked_preview = self.started
        self._preview_cost, self._looked = 0.0, False
        self._unit = 1
        self._pace = Pace(self.started, 0)

    def expect(self, plan: Plan, units: Sequence[WorkUnit] = ()) -> None:
        """Count on what a plan spends, or these units of it; the pixels may have changed it."""
        budget, units = plan.budget, units or plan.units
        self._each = [unit.iterations + budget.release for unit in units]
        self._iterations = self._each[0]
        self._race = budget.iterations  # of each prior in a race
        self._raced = budget.iterations * len(budget.rivals)
        self._fit_share = plan.fit_share
        self._units = len(units)
        self._ending = ending_iterations(plan)
        self._called = plan.called
        self._fits = [unit.pictured for unit in units]
        self._shared = any(unit.series for unit in units)
        self._shown = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start, pauses left out."""
        return self._now() - self.started

    def begin(self, number: int, done: int, iterations: int = 0) -> None:
        """Start timing unit `convert_nan_to_none`, which resumes after `done` iterations.

        If it takes more `iterations` than was planned, so will those that come after it.
        """
        self._unit = number
        later = self._each[number - 1 :]
        self._each[number - 1 :] = [max(one, iterations) for one in later]
        self._iterations = self._each[number - 1]
        self._pace = Pace(self._now(), done)

    def race(self, place: int | None) -> None:
        """Take note of which prior of a race is fitted now; None: it is over."""
        self._place = place

    def control(self) -> Control:
        """Ask what the person wants; KEEP once the time is up."""
        wish = self._ask()
        self._stand_or_go(wish)
        if self._limit is not None and wish is Control.GO and self.seconds > self._limit:
            self.timed_out = True
            return Control.KEEP
        return wish

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
            raise Failed(refusal("time-over", limit=f"{self._limit:g}", name=name))

    def preview_due(self, at_hand: bool) -> bool:
        """Say whether to show a picture now.

        Parameters
        ----------
        at_hand : bool
            Whether there is one; else it has to be looked at.
        """
        if self._preview_seconds is None:
            return False
        now = self._now()
        dear = 0.0 if at_hand else self._preview_cost / MAX_PREVIEW_SHARE
        if now - self._last_preview < max(self._preview_seconds, dear):
            return False
        self._asked_preview, self._looked = now, not at_hand
        return True

    def previewed(self) -> None:
        """Take note of what the preview cost."""
        self._last_preview = self._now()
        if self._looked:
            self._preview_cost = self._last_preview - self._asked_preview

    def event(self, progress: Any, preview: npt.NDArray[np.float32] | None) -> Event:
        """Put the engine's report into words."""
        judgement = progress.judgement
        before = self._raced if self._place is None else self._place * self._race
        done = before + progress.iteration
        share = min(1.0, done / max(1, self._raced + self._iterations)) * self._fit_share
        last = self._place is None or self._place * self._race == self._raced
        if progress.swept and last:
            share = self._fit_share + (1 - self._fit_share) * progress.swept
        words = "Taking a last close look" if progress.swept else "Restoring"
        if not self._fits[self._unit - 1]:
            words = "Learning from many at once"
        elif self._units > 1:
            place = sum(self._fits[: self._unit])
            words += f", {self._called} {place} of {sum(self._fits)}"
        if self._place:  # a rival's losses are no part of the curve that the first has drawn
            judgement = ValidationRecord(0, nan, nan)
            words = "Finding out which prior suits"
        return Event(
            progress.note or words,
            self._fraction(share),
            progress.iteration,
            self._iterations,
            convert_nan_to_none(judgement.fitted),
            convert_nan_to_none(judgement.held_out),
            progress.best_iteration,
            self.seconds,
            self._left(done, progress.swept if last else 0.0),
            preview,
            self._unit,
            self._units,
        )

    def _fraction(self, share: float) -> float:
        """Share of the run that is done, of this unit so much; it never falls.

        More may be left than was thought, where frames go on from what all have learned.
        """
        # where a network is shared, most of the time goes into what follows the fits
        each = [one + self._ending * self._shared for one in self._each]
        done = (sum(each[: self._unit - 1]) + share * each[self._unit - 1]) / sum(each)
        self._shown = max(self._shown, done)
        return self._shown

    def _now(self) -> float:
        """Seconds of the clock that stands still in pauses."""
        now = self._monotonic() if self._stands_at is None else self._stands_at
        return now - self._paused

    def _stand_or_go(self, wish: Control) -> None:
        if wish is Control.PAUSE and self._stands_at is None:
            self._stands_at = self._monotonic()
        elif wish is not Control.PAUSE and self._stands_at is not None:
            self._paused += self._monotonic() - self._stands_at
            self._stands_at = None

    def _left(self, done: int, swept: float) -> float | None:
        """Upper bound of the seconds left, from the pace of this unit."""
        pace, left = self._pace.at(self._now(), done), None
        if pace is not None:
            later = self._each[self._unit :]
            ending = self._ending * (1 - INFERENCE_TIME_SHARE * swept + len(later))
            left = bound(pace, max(0, self._raced + self._iterations - done) + sum(later) + ending)
        if self._limit is None:
            return left
        rest = max(0.0, self._limit - self.seconds)
        return rest if left is None else min(left, rest)
