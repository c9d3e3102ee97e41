"""Check the pixels of a run, and arrange image and extra inputs for the fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import RefusedError, make_refusal, raise_if_refused
from napari_dip.io.header import match_axes
from napari_dip.pipeline.calibrate.types import RunInputs, get_grey_level_step
from napari_dip.pipeline.plan.layout import (
    cut_into_blocks,
    get_stacked_axes,
    make_layout,
    to_stack,
)
from napari_dip.tasks.base import InspectedPixels
from napari_dip.tasks.noise_models.camera_correction import build_camera_correction
from napari_dip.tasks.shared_settings import refuse_content

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.tasks.base import Inspection

#: Side of the blocks whose means are compared, in pixels. Averaging reduces the noise to an eighth,
#: and most structures in microscopy are as large.
COMPARISON_BLOCK_SIDE = 8
#: Minimum correlation of the block means of two exposures. It is 0.5 where the noise of a block's
#: mean is as strong as the image; a single pixel's noise is then eight times as strong.
MIN_BLOCK_CORRELATION = 0.5
#: Maximum number of blocks that are compared; more would not change the decision.
MAX_COMPARED_BLOCKS = 20_000


def arrange_inputs(plan: Plan, inputs: Mapping[str, npt.NDArray[Any]]) -> RunInputs:
    """Check the pixels of a run, and return them as the fits take them.

    Parameters
    ----------
    plan : Plan
    inputs : mapping of str to ndarray
        "image" in the axes and shape of `plan.header`, and the extra inputs of the task.

    Raises
    ------
    RefusedError
        If the pixels cannot be used.
    """
    image, task_inputs = inputs["image"], plan.recipe.task.spec.inputs
    overlays = {task_input.name for task_input in task_inputs if task_input.is_overlay}
    extra_inputs = {
        name: _copy_as_float32(inputs[name], is_mask=name in overlays)
        for name in plan.extra_headers
    }
    exposure_names = [
        task_input.name
        for task_input in task_inputs
        if task_input.is_repeated_exposure and task_input.name in extra_inputs
    ]
    for key, header in plan.extra_headers.items():
        raise_if_refused(refuse_infinite(extra_inputs[key], header.name))
    layout, stack, inspection = _choose_measured_layout(plan, image, extra_inputs)
    measured_mask = inspection.measured_mask
    measured = image if measured_mask is None else stack[measured_mask]
    raise_if_refused(refuse_content(measured, plan.header.name))
    map_names = (task_input.name for task_input in task_inputs if task_input.is_detector_map)
    camera_maps = {name: extra_inputs.pop(name) for name in map_names if name in extra_inputs}
    camera_correction = build_camera_correction(camera_maps, plan.header.grid)
    if camera_correction is not None:
        stack = camera_correction.correct(stack)
    repeated_exposure = None
    for exposure_name in exposure_names:  # one at most
        repeated_exposure = to_stack(extra_inputs.pop(exposure_name), plan.header.axes, layout)
        names = plan.extra_headers[exposure_name].name, plan.header.name
        raise_if_refused(refuse_exposure_pixels(stack, repeated_exposure, *names))
        if camera_correction is not None:
            repeated_exposure = camera_correction.correct(repeated_exposure)
    return RunInputs(
        stack=stack,
        extra_inputs=_arrange_overlays(plan, extra_inputs, layout),
        measured_mask=measured_mask,
        grey_level_step=get_grey_level_step(image.dtype),
        layout=layout,
        inspection=inspection,
        repeated_exposure=repeated_exposure,
        camera_correction=camera_correction,
    )


def _copy_as_float32(array: npt.NDArray[Any], *, is_mask: bool) -> Float32Array:
    """Return a float32 copy; finite values of a mask stay finite, and positive ones positive."""
    limits = np.finfo(np.float32)
    if is_mask and array.dtype.kind == "f" and array.dtype.itemsize > limits.dtype.itemsize:
        array = np.where(np.isfinite(array), array.clip(limits.min, limits.max), array)
        array = np.where(array > 0, np.maximum(array, limits.tiny), array)
    return np.array(array, dtype=np.float32)


def _choose_measured_layout(
    plan: Plan, image: npt.NDArray[Any], extra_inputs: Mapping[str, Float32Array]
) -> tuple[Layout, Float32Array, Inspection]:
    """Arrange and inspect the image; if an item has no measured pixel, in another layout."""
    for layout in (plan.layout, *_list_alternative_layouts(plan)):
        with np.errstate(over="ignore"):  # infinite values are refused later
            stack = to_stack(image, plan.header.axes, layout)
        overlays = _arrange_overlays(plan, extra_inputs, layout)
        inspection = inspect_pixels(plan, image, stack, overlays)
        measured_mask = inspection.measured_mask
        if measured_mask is None:
            return layout, stack, inspection
        if not measured_mask.any():
            raise RefusedError("nothing-measured", name=plan.header.name)
        if not (empty_count := _count_empty_items(measured_mask)):
            return layout, stack, inspection
        facts = {"count": empty_count, "total": len(measured_mask)}
    raise RefusedError("plane-unmeasured", name=plan.header.name, **facts)


def inspect_pixels(
    plan: Plan,
    image: npt.NDArray[Any],
    stack: Float32Array,
    extra_inputs: Mapping[str, Float32Array],
) -> Inspection:
    """Let the task inspect the image, (N, C, *grid), and the arranged extra inputs.

    Raises
    ------
    RefusedError
        If the task refuses them.
    """
    pixels = InspectedPixels(
        header=plan.header,
        image=image,
        stack=stack,
        extra_inputs=extra_inputs,
        extra_headers=plan.extra_headers,
    )
    return raise_if_refused(plan.recipe.task.inspect(pixels, plan.task_plan))


def inspect_early(plan: Plan, extra_inputs: Mapping[str, npt.NDArray[Any]]) -> tuple[Note, ...]:
    """Let the task inspect some extra inputs before a run, without the image.

    Parameters
    ----------
    plan : Plan
    extra_inputs : mapping of str to ndarray
        As they were read, by name; may be empty.

    Raises
    ------
    RefusedError
        If an input cannot be used.
    """
    if not extra_inputs:
        return ()
    arrays = {name: np.asarray(array, np.float32) for name, array in extra_inputs.items()}
    for name, array in arrays.items():
        raise_if_refused(refuse_infinite(array, plan.extra_headers[name].name))
    no_image = np.zeros((1, 1, *plan.header.grid), np.float32)
    return inspect_pixels(plan, no_image, no_image, arrays).notes


def _arrange_overlays(
    plan: Plan, extra_inputs: Mapping[str, Float32Array], layout: Layout
) -> Mapping[str, Float32Array]:
    """Return the extra inputs, with overlays arranged as the image is."""
    header, arranged = plan.header, dict(extra_inputs)
    for task_input in plan.recipe.task.spec.inputs:
        if task_input.is_overlay and task_input.name in extra_inputs:
            axes = match_axes(header, extra_inputs[task_input.name].shape)
            sizes = tuple(zip(header.axes, header.shape, strict=True))
            sides = [count if axis in axes else 1 for axis, count in sizes]
            full_sides = [1 if axis in "CS" and axis not in axes else n for axis, n in sizes]
            overlay = np.broadcast_to(extra_inputs[task_input.name].reshape(sides), full_sides)
            arranged[task_input.name] = to_stack(overlay, header.axes, layout)
    return arranged


def _count_empty_items(measured_mask: npt.NDArray[np.bool_]) -> int:
    """Count the items without measured pixels in a channel that other items have measured."""
    has_pixels = measured_mask.reshape(*measured_mask.shape[:2], -1).any(2)
    is_empty = np.any(~has_pixels & np.any(has_pixels, axis=0), axis=1)
    return int(np.count_nonzero(is_empty))


def _list_alternative_layouts(plan: Plan) -> list[Layout]:
    """List the other layouts that fit planes together, along depth first."""
    min_depth = plan.recipe.task.spec.min_depth
    layouts = [
        make_layout(plan.header, is_volume=True, depth_axis=axis)
        for axis in get_stacked_axes(plan.header)[::-1]
        if plan.header.get_sizes(axis)[0] >= min_depth
    ]
    return [layout for layout in layouts if layout != plan.layout]


def refuse_infinite(array: Float32Array, name: str) -> Refusal | None:
    """Refuse an extra input with values that are not finite."""
    if invalid_count := int((~np.isfinite(array)).sum()):
        return make_refusal("input-not-finite", name=name, count=invalid_count, total=array.size)
    return None


def refuse_exposure_pixels(
    first: Float32Array, second: Float32Array, name: str, other: str
) -> Refusal | None:
    """Refuse a repeated exposure that is identical or does not show the same object.

    Parameters
    ----------
    first, second : ndarray
        (N, C, *grid), each in its own units.
    name, other : str
        Names of the repeated exposure and of the image.
    """
    if np.array_equal(first, second):
        return make_refusal("repeated-exposure-same", name=name, image=other)
    correlations = [
        correlation
        for channel in range(first.shape[1])
        if (correlation := _correlate_block_means(first[:, channel], second[:, channel]))
        is not None
    ]
    if correlations and min(correlations) < MIN_BLOCK_CORRELATION:
        facts = {
            "name": name,
            "image": other,
            "correlation": f"{min(correlations):.2f}",
            "least": f"{MIN_BLOCK_CORRELATION}",
        }
        return make_refusal("repeated-exposure-unlike", **facts)
    return None


def _correlate_block_means(first: Float32Array, second: Float32Array) -> float | None:
    """Return the correlation of block means; None if the first image is constant."""
    if first.min() == first.max():  # constant channels are not fitted
        return None
    x, y = (_compute_block_means(volume) for volume in (first, second))
    x, y = x - x.mean(), y - y.mean()
    power = float((x**2).sum() * (y**2).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else 0.0


def _compute_block_means(volume: Float32Array) -> npt.NDArray[np.float64]:
    """Return the means of blocks of (..., Y, X), subsampled evenly if there are very many."""
    blocks = cut_into_blocks(volume.reshape(-1, *volume.shape[-2:]), COMPARISON_BLOCK_SIDE)
    count, rows, _, columns, _ = blocks.shape
    stride = max(1, count * rows * columns // MAX_COMPARED_BLOCKS)
    selected = blocks[:: min(stride, max(1, count))].astype(np.float64)
    return np.asarray(selected.mean((2, 4))).ravel()
