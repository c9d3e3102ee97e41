"""Define the schedule of a fit: iterations, learning rates, averaging and validation."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dip.engine.fit.optimizers import OptimizerFactory

#: Maximum decay of the running average of outputs.
MAX_OUTPUT_DECAY = 0.99
#: Share of the iterations over which outputs of short fits are averaged: a decay of 0.99 instead of
#: 0.95 cost two deblurred crops 0.5 and 1.2 dB (docs/constants.md).
AVERAGED_ITERATION_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the fit with one peak learning rate.

    Attributes
    ----------
    iterations : int
    learning_rate : float
        Peak learning rate of the network.
    operator_learning_rate : float
        Peak learning rate of a learned operator; 0 keeps it unchanged.
    """

    iterations: int
    learning_rate: float
    operator_learning_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Iterations, learning rates, averaging and validation of one fit.

    Attributes
    ----------
    phases : tuple of Phase
    planned_iterations : int
        Number of iterations that determines the rates. It stays the same if a run is repeated
        with fewer iterations.
    last_iteration : int
        Last iteration, at most the planned number.
    warm_up_fraction : float
        Share of the planned iterations over which the rate rises to its peak. Then it falls as a
        cosine.
    average_decay : float
        Decay of the running average, 0.95 to 0.99.
    validation_interval : int
        Iterations between two validations.
    max_gradient_norm : float
        Largest norm of the gradient of all weights together.
    refit_iterations : int
        Iterations of the refit on training and validation pixels; 0: none.
    uses_bfloat16 : bool
        Whether steps may be computed in bfloat16, where the device is faster with it.
    optimizer : OptimizerFactory or None
        Factory of the optimiser; None: Adam.
    has_final_inference : bool
        Whether the result comes from the final inference; otherwise from a single pass, which is
        enough where only the weights are used.
    """

    phases: tuple[Phase, ...]
    planned_iterations: int
    last_iteration: int
    warm_up_fraction: float = 0.1
    average_decay: float = 0.99
    validation_interval: int = 25
    max_gradient_norm: float = 1.0
    refit_iterations: int = 0
    uses_bfloat16: bool = False
    optimizer: OptimizerFactory | None = None
    has_final_inference: bool = True

    def get_rates(self, iteration: int) -> tuple[float, float]:
        """Return the learning rates of network and operator at a 1-based iteration.

        Beyond the planned iterations, in the refit, they are a tenth of the peak.
        """
        if iteration > self.planned_iterations:
            last = self.phases[-1]
            return 0.1 * last.learning_rate, 0.1 * last.operator_learning_rate
        phase_end = 0
        for phase in self.phases:
            phase_end += phase.iterations
            if iteration <= phase_end:
                break
        warm_up = max(1.0, self.warm_up_fraction * self.planned_iterations)
        if iteration <= warm_up:
            fraction = iteration / warm_up
        else:
            progress = (iteration - warm_up) / max(1.0, self.planned_iterations - warm_up)
            fraction = 0.5 * (1 + cos(pi * progress))
        return phase.learning_rate * fraction, phase.operator_learning_rate * fraction


def compute_output_decay(iterations: int) -> float:
    """Return the decay of the running average of outputs for that many iterations."""
    return min(MAX_OUTPUT_DECAY, 1 - 1 / max(AVERAGED_ITERATION_FRACTION * iterations, 1.5))
