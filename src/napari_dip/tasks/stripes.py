"""Stripes as a named noise: offsets of rows or columns are found, taken out, and handed over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.problem import Problem
    from napari_dip.tasks.base import Scene

#: Name of the noise, and of the offsets in what a scene has worked out.
STRIPES, OFFSETS = "stripes", "line offsets"


def stripe_words(image: npt.NDArray[np.float32]) -> str:
    """Say what was found in a picture (C, *grid), or that nothing was."""
    import numpy as np

    from napari_dip.tasks.line_finding import find_lines

    planes = image.reshape(-1, *image.shape[-2:])
    found = [one for plane in planes if (one := find_lines(plane)) is not None]
    if not found:
        return "No offsets of rows or columns were found above chance, so none were taken out."
    lines = "Rows" if sum(one.axis == -2 for one in found) * 2 >= len(found) else "Columns"
    deviation = float(np.mean([one.deviation for one in found]))
    return (
        f"{lines} were found to have offsets of their own with a standard deviation of "
        f"{deviation:.3g}: they were taken out and are part of what was learned (line_offsets)."
    )


def destriped(scene: Scene) -> Scene:
    """Take the offsets of lines out of a scene, and keep them beside it."""
    import torch

    offsets = _offsets(scene.measurement, scene.known)
    if offsets is None:
        return scene
    clean = (scene.measurement - offsets) * scene.known
    worked_out = {**scene.worked_out, OFFSETS: offsets}
    beside = scene.beside
    if beside is not None:
        around = _offsets(beside, torch.ones_like(beside[:, :1]))
        beside = beside if around is None else beside - around
    return replace(scene, measurement=clean, beside=beside, worked_out=worked_out)


def with_offsets(scene: Scene, problem: Problem) -> Problem:
    """Let a problem know what the detector adds to a destriped scene, if it does."""
    from torch import Tensor

    from napari_dip.engine.line_offsets import LineOffsets

    offsets = scene.worked_out.get(OFFSETS)
    if not isinstance(offsets, Tensor) or scene.unit is None:
        return problem
    first, *rest = problem.terms
    return replace(
        problem, terms=(replace(first, operator=LineOffsets(offsets, scene.unit)), *rest)
    )


def _offsets(pictures: Tensor, known: Tensor) -> Tensor | None:
    """Find offsets, of one direction for all: (1, C, *grid), 1 along the lines; None: nothing."""
    import numpy as np
    import torch

    from napari_dip.tasks.line_finding import find_lines

    values = torch.where(known > 0, pictures, torch.nan)[0].cpu().numpy()
    planes = values.reshape(-1, *values.shape[-2:])
    found = [one for plane in planes if (one := find_lines(plane)) is not None]
    if not found:
        return None
    axis = max((-2, -1), key=lambda way: sum(one.chance for one in found if one.axis == way))
    each = [find_lines(plane, axis) for plane in planes]
    side = planes.shape[axis]
    lines = np.stack([np.zeros(side) if one is None else one.offsets for one in each])
    shape = (1, *values.shape[:-2], *((side, 1) if axis == -2 else (1, side)))
    return torch.from_numpy(lines.reshape(shape).astype(np.float32)).to(pictures)
