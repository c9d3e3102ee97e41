"""Movies and stacks: what the frames beside one tell of it, as fields and steps of tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from napari_dip.tasks.base import Setting

if TYPE_CHECKING:
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import Scene

#: Pixels between planes from which on a volume is not worth its time: of every second plane of an
#: embryo (8 x 48 x 48) it made 25.8 dB in 36 s, planes that see their neighbours 26.2 dB in 9 s.
FAR = 2.0

Beside = Annotated[
    bool,
    Setting(
        "Look at the frames beside",
        "For movies and stacks restored one frame or plane at a time, with the blind spot: whether "
        "the network also sees the noisy one before and the one after, frames of a movie laid onto "
        "each other. It finds out by itself where they help. Switch it off if all of them share "
        "one noise, as with a dirty camera.",
    ),
]

Steadiness = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    Setting(
        "Steadiness in time",
        "For movies restored frame by frame: how strongly a pixel is drawn to its value in the "
        "frame before, where nothing has moved. 0: not at all; 1: as much as the two values "
        "deserve by their uncertainties.",
        least=0,
        most=100,
        step=0.5,
    ),
]


def plane_distance(source: ImageSpec) -> float:
    """Distance of neighbouring planes in pixels of the plane; 1 where the header does not say."""
    if source.scale is None or source.units is None or "Z" not in source.axes:
        return 1.0
    deep, wide = (source.axes.index(axis) for axis in "ZX")
    if (
        source.shape[deep] < 2
        or source.units[deep] != source.units[wide]
        or not source.scale[wide] > 0
    ):
        return 1.0
    return abs(source.scale[deep]) / source.scale[wide] or 1.0


def far_apart(source: ImageSpec) -> bool:
    """Whether planes lie too far apart to be restored together rather than one by one."""
    return plane_distance(source) >= FAR


def apart_words(source: ImageSpec) -> str:
    """Say what becomes of planes that lie far apart."""
    return (
        f"The planes lie {plane_distance(source):.1f} pixels apart: where Stacks is automatic, "
        "they are restored one by one, each with a look at its neighbours."
    )


def shown_beside(prior: Prior, scene: Scene) -> Prior:
    """Show a prior the frames beside, if there are any.

    Parameters
    ----------
    prior : Prior
        Its network takes as many channels more as `channels_beside` counts.
    scene : Scene
    """
    from napari_dip.engine.guided import GuidedCode

    return prior if scene.beside is None else GuidedCode(prior, scene.beside)


def channels_beside(scene: Scene) -> int:
    """Count the channels of the frames beside."""
    return 0 if scene.beside is None else scene.beside.shape[1]


def steady(problem: Problem, scene: Scene, weight: float) -> Problem:
    """Draw a problem's picture to that of the frame before, if there is one.

    A network that says how sure it is gives a picture that is weighed against the frame before
    in the end; any other is drawn to it while it is fitted.
    """
    from napari_dip.engine.problem import followed_by
    from napari_dip.engine.steadiness import steadied, temporal_difference
    from napari_dip.tasks.blind_spot import IMAGE_FED

    before = scene.before
    if before is None or not weight:
        return problem
    if scene.prior not in IMAGE_FED:
        term = temporal_difference(before, scene.noise_level, weight, problem.finish)
        return replace(problem, terms=(*problem.terms, term))
    return followed_by(problem, lambda _, done: steadied(done, before, weight))
