"""Movies and stacks: what the frames beside one tell of it, as fields and steps of tasks."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from napari_dip.tasks.base import Setting
from napari_dip.tasks.blind_spot import blind_spot_code
from napari_dip.tasks.recorrupted import RECORRUPTED, SHOWN, recorrupted_code

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import Scene

#: Pixels between planes from which on a volume is not worth its time: of every second plane of an
#: embryo (8 x 48 x 48) it made 25.8 dB in 36 s, planes that see their neighbours 26.2 dB in 9 s.
FAR = 2.0
#: Priors whose networks are shown the image, and may be shown the frames beside as well.
BESIDE = (RECORRUPTED, "blind-spot")

Beside = Annotated[
    bool,
    Setting(
        "Look at the frames beside",
        "For movies and stacks restored one frame or plane at a time, with more noise or the blind "
        "spot: whether the network also sees the noisy one before and the one after, frames of a "
        "movie laid onto each other. It finds out by itself where they help. Switch it off if all "
        "of them share one noise, as with a dirty camera.",
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

#: What one network for all, the weights of the one before, and nothing shared are called.
Way = Literal["together", "in-turn", "alone"]
#: Frames or planes from which on one network is fitted to all of them: 12 frames of 64 x 64 took
#: 12.9 CPU seconds so, and 13.0 in turn (cancer_cell_migration, `fast`).
LEAST_SHARED = 16
#: And tiles, whose steps in turn look at less: 16 of 128 x 128 took 182 and 162 CPU seconds a
#: megapixel with one network for all, 155 and 141 in turn (TwoPhoton_BPAE_B, Confocal_BPAE_R).
LEAST_TILES_SHARED = 32

Sharing = Annotated[
    Literal["auto", "together", "in-turn", "alone"],
    Setting(
        "Series",
        "How the frames of a movie, the planes of a stack that are restored one by one, or the "
        "tiles of a large picture share what is learned. One network for all: it is fitted to all "
        "of them and then shown each, which goes on by itself only where pixels that were held out "
        "ask for it. In turn: each begins with what an earlier one has learned. Each by itself: "
        "slowest. Automatic: one network from 16 frames or planes, or 32 tiles, on; else in turn.",
        choices={
            "auto": "Automatic",
            "together": "One network for all",
            "in-turn": "In turn",
            "alone": "Each by itself",
        },
    ),
]


def way_of_sharing(wish: str, count: int, *, shown: bool, tiles: bool) -> Way:
    """Choose how so many frames, planes or tiles share what a network learns.

    One network can only serve all where it is `shown` the image: fed with fixed noise, it holds one
    picture.
    """
    if wish == "alone":
        return "alone"
    least = LEAST_TILES_SHARED if tiles else LEAST_SHARED
    wanted = wish == "together" or (wish == "auto" and count >= least)
    return "together" if wanted and shown and count > 1 else "in-turn"


def plane_count(source: ImageSpec) -> int:
    """Count frames times planes."""
    sizes = zip(source.axes, source.shape, strict=True)
    return prod(count for axis, count in sizes if axis in "TZ")


def is_movie(source: ImageSpec) -> bool:
    """Whether there are several frames."""
    return "T" in source.axes and source.shape[source.axes.index("T")] > 1


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


def shown_beside(scene: Scene, rng: torch.Generator) -> Prior:
    """Make a network that is shown the image, and the frames beside, if there are any.

    Parameters
    ----------
    scene : Scene
        Its prior is one of `BESIDE`.
    rng : torch.Generator
    """
    from napari_dip.engine.guided import GuidedCode

    make = recorrupted_code if scene.prior == RECORRUPTED else blind_spot_code
    if scene.beside is None:
        return make(scene, rng)
    return GuidedCode(make(scene, rng, further=scene.beside.shape[1]), scene.beside)


def steady(problem: Problem, scene: Scene, weight: float) -> Problem:
    """Draw a problem's picture to that of the frame before, if there is one.

    A network that says how sure it is gives a picture that is weighed against the frame before
    in the end; any other is drawn to it while it is fitted.
    """
    from napari_dip.engine.problem import followed_by
    from napari_dip.engine.steadiness import steadied, temporal_difference

    before = scene.before
    if before is None or not weight:
        return problem
    if scene.prior not in SHOWN:
        term = temporal_difference(before, scene.noise_level, weight, problem.finish)
        return replace(problem, terms=(*problem.terms, term))
    return followed_by(problem, lambda _, done: steadied(done, before, weight))
