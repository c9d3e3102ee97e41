"""Smoothing beside the network's own, as a field of several tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from napari_dip.tasks.base import Setting

if TYPE_CHECKING:
    from napari_dip.engine.problem import Penalty
    from napari_dip.tasks.base import Scene

Smoothing = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    Setting(
        "Smoothing",
        "Weight of a total-variation penalty beside the network, without unit. 0 is best for "
        "most images; 0.1 is visible, 1 is strong.",
        least=0,
        most=100,
        step=0.05,
    ),
]


def smoothed(scene: Scene, weight: float) -> tuple[tuple[float, Penalty], ...]:
    """Give the penalty of that weight, none for 0."""
    from napari_dip.engine.penalties import total_variation

    return ((weight, total_variation(scene.noise_level)),) if weight else ()
