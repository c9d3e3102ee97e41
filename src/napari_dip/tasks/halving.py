"""An oversampled image is fitted at half its size, and handed over in full."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dip.engine.problem import Problem
    from napari_dip.tasks.base import Scene


def in_full(scene: Scene, problem: Problem) -> Problem:
    """Enlarge what a problem ends with, where the scene is smaller than the picture is to be."""
    from napari_dip.engine.oversampling import enlarged
    from napari_dip.engine.problem import followed_by

    if scene.enlarged is None:
        return problem
    full = followed_by(problem, lambda _, done: enlarged(done, scene.enlarged))
    # a camera's noise is filtered at full size
    return full if scene.camera is None else replace(full, refine=problem.refine)
