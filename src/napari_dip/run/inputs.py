"""The pixels of a run, sorted once into what the fits need, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.run.layout import to_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.run.plan import Plan

    Planes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The image in the plan's layout, and the task's further inputs.

    Attributes
    ----------
    parts : ndarray
        (parts, C, *grid) float32, in the image's units.
    others : mapping of str to ndarray
        The further inputs, float32, as they were handed in.
    known : ndarray or None
        (parts, C, *grid), True where a pixel was measured; None if all were.
    step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    """

    parts: Planes
    others: Mapping[str, Planes]
    known: npt.NDArray[np.bool_] | None
    step: float


def sort_inputs(plan: Plan, data: Mapping[str, npt.NDArray[Any]]) -> Inputs | Refusal:
    """Sort the pixels, or say no to those that the task cannot use.

    Parameters
    ----------
    plan : Plan
    data : mapping of str to ndarray
        "image" in the axes and shape of `plan.source`; the task's further inputs.
    """
    image, task = data["image"], plan.recipe.task
    with np.errstate(over="ignore"):  # what single precision cannot hold is refused in words
        parts = to_parts(image, plan.source.axes, plan.layout)
    others = {name: np.asarray(data[name], dtype=np.float32) for name in plan.others}
    for key, spec in plan.others.items():
        if no := _check_finite(others[key], spec.name):
            return no
    if no := task.admit(plan.source, others):
        return no
    gone = task.missing(parts[0], others)
    known = None if gone is None or not gone.any() else ~gone[None]
    if no := task.check_known(plan.source, None if known is None else known[0]):
        return no
    if known is not None and not known.any():
        return refusal("nothing-known", name=plan.source.name)
    if no := check_content(image if known is None else parts[known], plan.source.name):
        return no
    return Inputs(parts, others, known, 1.0 if image.dtype.kind in "iu" else 0.0)


def check_content(array: npt.NDArray[Any], name: str) -> Refusal | None:
    """Say no to pixels that cannot be restored, whatever the header promised.

    Parameters
    ----------
    array : ndarray
        All that was measured.
    name : str
    """
    total = array.size
    if array.dtype.kind == "f":
        if nans := int(np.isnan(array).sum()):
            return refusal("pixels-nan", count=nans, total=total, name=name)
        if infinite := int(np.isinf(array).sum()):
            return refusal("pixels-infinite", count=infinite, total=total, name=name)
    low, high = array.min(), array.max()
    if low == high:
        return refusal("pixels-constant", total=total, name=name, value=low)
    span = float(high) - float(low)
    largest = max(abs(float(low)), abs(float(high)))
    # squares must stay finite, and a step must survive beside the offset, in single precision
    if not 1e-18 < span < 1e18 or span < 16 * float(np.spacing(np.float32(largest))):
        return refusal("pixels-range", name=name, low=low, high=high)
    return None


def _check_finite(array: Planes, name: str) -> Refusal | None:
    if wrong := int((~np.isfinite(array)).sum()):
        return refusal("input-not-finite", name=name, count=wrong, total=array.size)
    return None
