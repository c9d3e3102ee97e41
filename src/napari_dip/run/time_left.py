"""How many seconds a run still takes, as an upper bound, from what its iterations have taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.run.costs import START_SECONDS

if TYPE_CHECKING:
    from napari_dip.run.plan import Plan

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
