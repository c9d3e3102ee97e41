"""Decide when a fit stops or pauses: by its validation loss, or by the user's control.

It is free of torch, so any interface can import it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite

from napari_dip.errors.notes import Stop, StopReason, make_stop

#: Iterations without a lower validation loss before a fit ends, as a share of its iterations.
PATIENCE_FRACTION = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecord:
    """Losses at one validation: dimensionless means over pixels.

    Attributes
    ----------
    iteration : int
        1-based.
    training_loss : float
        Deviance (twice the negative log-likelihood) of the training pixels, averaged over the
        iterations since the previous validation.
    validation_loss : float
        The same of the validation pixels under the averaged estimate.
    """

    iteration: int
    training_loss: float
    validation_loss: float


#: history -> reason to stop, or None to continue.
StopRule = Callable[[Sequence[ValidationRecord]], Stop | None]


def compute_patience(iterations: int, validation_interval: int) -> int:
    """Return the number of iterations without a lower validation loss that end a fit.

    Parameters
    ----------
    iterations : int
        Iterations of the fit.
    validation_interval : int
        Iterations between two validations. The patience is at least four of these intervals.
    """
    return max(4 * validation_interval, int(PATIENCE_FRACTION * iterations))


def make_validation_stop_rule(patience: int, min_iteration: int = 0) -> StopRule:
    """Return a rule that stops after `patience` iterations without a lower validation loss.

    Parameters
    ----------
    patience : int
        In iterations.
    min_iteration : int
        First iteration at which the rule may stop.

    Returns
    -------
    StopRule
        It compares medians of three consecutive losses, so a single outlier does not affect it.
    """

    def find_stop(history: Sequence[ValidationRecord]) -> Stop | None:
        has_validation = any(isfinite(entry.validation_loss) for entry in history)
        if not has_validation or history[-1].iteration < min_iteration:
            return None
        best = find_smoothed_best(history)
        waited = history[-1].iteration - history[best].iteration
        if waited < patience:
            return None
        lowest = min(entry.validation_loss for entry in history if isfinite(entry.validation_loss))
        # `best` has the lowest median of three losses, which need not be the lowest single loss.
        is_smoothed = history[best].validation_loss != lowest
        return make_stop(StopReason.PLATEAU, waited=waited, smoothed=is_smoothed)

    return find_stop


def find_smoothed_best(history: Sequence[ValidationRecord]) -> int:
    """Return the index of the smallest median of three consecutive validation losses."""
    losses = [
        entry.validation_loss if isfinite(entry.validation_loss) else float("inf")
        for entry in history
    ]
    windows = [losses[max(0, index - 1) : index + 2] for index in range(len(losses))]
    medians = [sorted(window)[len(window) // 2] for window in windows]
    return min(range(len(medians)), key=medians.__getitem__)


def never_stop(history: Sequence[ValidationRecord]) -> Stop | None:
    """Return None: the fit runs to its last iteration."""
    return None


class Control(Enum):
    """The user's control, which the fit loop polls before every iteration.

    GO continues. PAUSE waits without computing. KEEP ends the fit and returns the best image so
    far. DISCARD ends the fit without a result.
    """

    GO = "go"
    PAUSE = "pause"
    KEEP = "keep"
    DISCARD = "discard"


#: Returns the control of the moment; it is polled before every iteration.
PollControl = Callable[[], Control]
