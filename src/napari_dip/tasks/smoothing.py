"""Smoothing beside the network's own, as a field of several tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

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
        written="Smoothing: {:g} (weight of the penalty on total variation, without unit)",
    ),
]


SmoothingKind = Annotated[
    Literal["isotropic", "anisotropic"],
    Setting(
        "Kind of smoothing",
        "How steps from pixel to pixel are counted where smoothing is above 0. Isotropic: edges of "
        "all directions cost alike. Anisotropic: edges along the rows and columns are the "
        "cheapest, as suits chips, letters and gratings.",
        choices={"isotropic": "Isotropic", "anisotropic": "Anisotropic"},
    ),
]


def smoothed(scene: Scene, weight: float, kind: str) -> tuple[tuple[float, Penalty], ...]:
    """Give the penalty of that weight and kind, none for weight 0."""
    from napari_dip.engine.penalties import anisotropic_total_variation, total_variation

    if not weight:
        return ()
    made = anisotropic_total_variation if kind == "anisotropic" else total_variation
    return ((weight, made(scene.noise_level)),)
