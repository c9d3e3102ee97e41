"""How long a fit goes on, how fast it learns, and how it averages."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dip.engine.optimisers import Optimiser


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the fit with one way of learning.

    Attributes
    ----------
    iterations : int
    learning_rate : float
        Of the network at its peak.
    operator_learning_rate : float
        Of a learned operator; 0 keeps it as it is.
    """

    iterations: int
    learning_rate: float
    operator_learning_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """The whole fit.

    Attributes
    ----------
    phases : tuple of Phase
    horizon : int
        Number of iterations that fixes the rates, kept when a run is repeated for less.
    stop_at : int
        Last iteration, at most the horizon.
    warm_up : float
        Part of the horizon over which the rate rises to its peak; then it falls as a cosine.
    average : float
        Decay of the running average, 0.95 to 0.99.
    report_every : int
        Iterations between two judgements.
    clip : float
        Longest gradient, in the norm of all weights together.
    release : int
        Iterations of a last phase, after the judgement, in which the held-out pixels drive the
        fit as well: they are measurements, and a picture that ignores them is the poorer for it.
    half : bool
        Whether steps may be computed in half precision, where the device is made for it.
    optimiser : Optimiser or None
        What moves the weights; None: Adam.
    last_look : bool
        Whether the picture is looked at as closely as can be in the end; where only the weights are
        wanted, one look shows that they are sound.
    """

    phases: tuple[Phase, ...]
    horizon: int
    stop_at: int
    warm_up: float = 0.1
    average: float = 0.99
    report_every: int = 25
    clip: float = 1.0
    release: int = 0
    half: bool = False
    optimiser: Optimiser | None = None
    last_look: bool = True

    def rate(self, iteration: int) -> tuple[float, float]:
        """Learning rates of network and operator at a 1-based iteration.

        Past the horizon, in the last phase, at a tenth of the peak: the cosine has reached zero.
        """
        if iteration > self.horizon:
            last = self.phases[-1]
            return 0.1 * last.learning_rate, 0.1 * last.operator_learning_rate
        done = 0
        for phase in self.phases:
            if iteration <= done + phase.iterations:
                break
            done += phase.iterations
        rise = max(1.0, self.warm_up * self.horizon)
        if iteration <= rise:
            share = iteration / rise
        else:
            share = 0.5 * (1 + cos(pi * (iteration - rise) / max(1.0, self.horizon - rise)))
        return phase.learning_rate * share, phase.operator_learning_rate * share


def one_phase(iterations: int, learning_rate: float, **settings: float) -> Schedule:
    """Make the usual schedule: one phase, rates fixed by its length."""
    phase = Phase(iterations, learning_rate)
    return Schedule((phase,), iterations, iterations, **settings)  # type: ignore[arg-type]
