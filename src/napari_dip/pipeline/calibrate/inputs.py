"""The pixels of a run, sorted once into what the fits need, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.io.header import match_axes
from napari_dip.pipeline.calibrate.calibration import RunInputs
from napari_dip.pipeline.plan.layout import get_stacked_axes, make_layout, split_into_parts
from napari_dip.tasks.noise_models.camera_maps import build_camera_correction
from napari_dip.tasks.shared_settings import check_exposure_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.pipeline.calibrate.calibration import Planes
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan


def sort_inputs(plan: Plan, data: Mapping[str, npt.NDArray[Any]]) -> RunInputs | Refusal:
    """Sort the pixels, or say no to those that the task cannot use.

    Parameters
    ----------
    plan : Plan
    data : mapping of str to ndarray
        "image" in the axes and shape of `plan.source`; the task's further inputs.
    """
    image, task = data["image"], plan.recipe.task
    overlays = {item.name for item in task.inputs if item.overlays}
    others = {
        name: _copy_as_float32(data[name], marks=name in overlays) for name in plan.extra_inputs
    }
    again = next((item.name for item in task.inputs if item.measures and item.name in others), None)
    for key, spec in plan.extra_inputs.items():
        if no := check_finite(others[key], spec.name):
            return no
    if no := task.admit(plan.source, _arrange_overlays(plan, others, plan.layout)):
        return no
    laid = _choose_filled_layout(plan, image, others)
    if isinstance(laid, Refusal):
        return laid
    layout, parts, measured_mask = laid
    if no := check_content(
        image if measured_mask is None else parts[measured_mask], plan.source.name
    ):
        return no
    named = (item.name for item in task.inputs if item.calibrates)
    camera_maps = {name: others.pop(name) for name in named if name in others}
    maps = build_camera_correction(camera_maps, plan.source.grid)
    if maps is not None:
        parts = maps.corrected(parts)
    if no := task.admit_image(plan.source, parts):
        return no
    second = (
        None if again is None else split_into_parts(others.pop(again), plan.source.axes, layout)
    )
    if (
        again is not None
        and second is not None
        and (
            no := check_exposure_pixels(
                parts, second, plan.extra_inputs[again].name, plan.source.name
            )
        )
    ):
        return no
    if maps is not None and second is not None:
        second = maps.corrected(second)
    step = 1.0 if image.dtype.kind in "iu" else 0.0
    return RunInputs(
        stack=parts,
        extra_inputs=_arrange_overlays(plan, others, layout),
        measured_mask=measured_mask,
        grey_level_step=step,
        layout=layout,
        repeated_exposure=second,
        camera_correction=maps,
    )


def _copy_as_float32(array: npt.NDArray[Any], *, marks: bool) -> Planes:
    """Copy in single precision; finite values that mark pixels stay finite, and above 0."""
    limits = np.finfo(np.float32)
    if marks and array.dtype.kind == "f" and array.dtype.itemsize > limits.dtype.itemsize:
        array = np.where(np.isfinite(array), array.clip(limits.min, limits.max), array)
        array = np.where(array > 0, np.maximum(array, limits.tiny), array)
    return np.array(array, dtype=np.float32)


def _choose_filled_layout(
    plan: Plan, image: npt.NDArray[Any], others: Mapping[str, Planes]
) -> tuple[Layout, Planes, npt.NDArray[np.bool_] | None] | Refusal:
    """Lay the image out, in another way than planned where a plane holds no known pixel."""
    layout = plan.layout
    parts, measured_mask = arrange_image(plan, image, others, layout)
    if no := plan.recipe.task.check_known(plan.source, measured_mask):
        return no
    if measured_mask is not None and not measured_mask.any():
        return refusal("nothing-known", name=plan.source.name)
    rest = _list_alternative_layouts(plan)
    while measured_mask is not None and (hollow := _count_empty_parts(measured_mask)):
        if not rest:
            return refusal(
                "plane-unknown", name=plan.source.name, count=hollow, total=len(measured_mask)
            )
        layout = rest.pop(0)
        parts, measured_mask = arrange_image(plan, image, others, layout)
    return layout, parts, measured_mask


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


def arrange_image(
    plan: Plan, image: npt.NDArray[Any], others: Mapping[str, Planes], layout: Layout
) -> tuple[Planes, npt.NDArray[np.bool_] | None]:
    """Lay the image out, and say where there is a measurement; None: everywhere."""
    with np.errstate(over="ignore"):  # what single precision cannot hold is refused in words
        parts = split_into_parts(image, plan.source.axes, layout)
    gone = plan.recipe.task.missing(parts, _arrange_overlays(plan, others, layout))
    return parts, None if gone is None or not gone.any() else ~gone


def _arrange_overlays(
    plan: Plan, others: Mapping[str, Planes], layout: Layout
) -> Mapping[str, Planes]:
    """Lay out what lies on the image pixel by pixel; leave the rest as it is."""
    source, laid = plan.source, dict(others)
    for item in plan.recipe.task.inputs:
        if item.overlays and item.name in others:
            axes = match_axes(source, others[item.name].shape)
            sizes = tuple(zip(source.axes, source.shape, strict=True))
            sides = [count if axis in axes else 1 for axis, count in sizes]
            whole = [1 if axis in "CS" and axis not in axes else n for axis, n in sizes]
            spread = np.broadcast_to(others[item.name].reshape(sides), whole)
            laid[item.name] = split_into_parts(spread, source.axes, layout)
    return laid


def _count_empty_parts(measured_mask: npt.NDArray[np.bool_]) -> int:
    """Count the parts without anything known of a channel of which others know something."""
    has_pixels = measured_mask.reshape(*measured_mask.shape[:2], -1).any(2)
    gone = np.any(~has_pixels & np.any(has_pixels, axis=0), axis=1)
    return int(np.count_nonzero(gone))


def _list_alternative_layouts(plan: Plan) -> list[Layout]:
    """List the ways to fit planes together that the plan has not taken, along depth first."""
    ways = [
        make_layout(plan.source, volume=True, deep=axis)
        for axis in get_stacked_axes(plan.source)[::-1]
    ]
    least = plan.recipe.task.least_depth
    return [
        route for route in ways if route != plan.layout and min(route.depth(plan.source)) >= least
    ]


def check_finite(array: Planes, name: str) -> Refusal | None:
    """Say no to a further input with values that are no finite numbers."""
    if wrong := int((~np.isfinite(array)).sum()):
        return refusal("input-not-finite", name=name, count=wrong, total=array.size)
    return None
