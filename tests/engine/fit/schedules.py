"""Schedules for tests of the fit."""

from __future__ import annotations

from napari_dip.engine.fit.optimizers import Phase, Schedule


def make_single_phase_schedule(
    iterations: int, learning_rate: float, **settings: float
) -> Schedule:
    """Return a schedule of one phase, with all planned iterations."""
    phase = Phase(iterations=iterations, learning_rate=learning_rate)
    return Schedule(
        phases=(phase,),
        planned_iterations=iterations,
        last_iteration=iterations,
        **settings,  # type: ignore[arg-type]
    )
