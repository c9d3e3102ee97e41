"""When to stop: pure functions of the history, so the same history stops at the same place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from napari_dip.errors.notes import Stop, StopReason, make_stop


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecord:
    """Losses at one report, per pixel and without unit.

    Attributes
    ----------
    iteration : int
        1-based.
    fitted : float
        Mean over the iterations since the report before.
    held_out : float
        Of the averaged estimate, on pixels that never drove the fit.
    """

    iteration: int
    fitted: float
    held_out: float


#: history -> why to stop, or None to go on.
StopRule = Callable[[Sequence[ValidationRecord]], Stop | None]


def make_validation_stop_rule(patience: int, least: int = 0) -> StopRule:
    """Stop when the held-out loss has not reached a new low for `patience` iterations.

    Parameters
    ----------
    patience : int
        In iterations.
    least : int
        Never stop before this iteration.

    Returns
    -------
    StopRule
        Compares medians of three neighbouring reports, so one lucky or unlucky report
        neither starts nor ends the wait.
    """

    def rule(history: Sequence[ValidationRecord]) -> Stop | None:
        judged = any(isfinite(entry.held_out) for entry in history)
        if not judged or history[-1].iteration < least:
            return None
        best = find_smoothed_best(history)
        waited = history[-1].iteration - history[best].iteration
        if waited < patience:
            return None
        alone = min(entry.held_out for entry in history if isfinite(entry.held_out))
        # a picture that a single report made the best is of another iteration than the wait's
        smoothed = history[best].held_out != alone
        return make_stop(StopReason.PLATEAU, waited=waited, smoothed=smoothed)

    return rule


def find_smoothed_best(history: Sequence[ValidationRecord]) -> int:
    """Index of the least held-out loss among medians of three neighbours."""
    losses = [entry.held_out if isfinite(entry.held_out) else float("inf") for entry in history]
    windows = [losses[max(0, index - 1) : index + 2] for index in range(len(losses))]
    medians = [sorted(window)[len(window) // 2] for window in windows]
    return min(range(len(medians)), key=medians.__getitem__)


def never_stop(history: Sequence[ValidationRecord]) -> Stop | None:
    """Run to the last iteration."""
    return None
