"""Check the pixels of a run, arrange image and extra inputs, and fill in what fits must not see.

An outlier is an isolated pixel far outside the range of all others, such as a hot pixel or a cosmic
ray. A single value of 10^6 in an image of 0 to 255 would determine range, noise and mean. An empty
area holds one value because nothing was recorded there, such as the padding of a mosaic or the
corners of a rotated image. Its edge would count as structure, and its inside as an image without
noise. A burnt-in mark, such as a scale bar, counts as an empty area too: it would determine the
range. Where the result has the pixels of the input, outliers and empty areas keep their values.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.errors import RefusedError, make_refusal, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.io.header import match_axes
from napari_dip.pipeline.calibrate.types import RunInputs, get_grey_level_step
from napari_dip.pipeline.plan.layout import cut_into_blocks, make_layout, to_stack
from napari_dip.tasks.base import InspectedPixels
from napari_dip.tasks.noise_models.camera_correction import build_camera_correction
from napari_dip.tasks.shared_settings import get_stacked_axes, refuse_content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.tasks.base import Inspection, TaskSpec

#: Side of the blocks whose means are compared, in pixels. Averaging reduces the noise to an eighth,
#: and most structures in microscopy are as large.
COMPARISON_BLOCK_SIDE = 8
#: Minimum correlation of the block means of two exposures. It is 0.5 where the noise of a block's
#: mean is as strong as the image; a single pixel's noise is then eight times as strong.
MIN_BLOCK_CORRELATION = 0.5
#: Maximum number of blocks that are compared; more would not change the decision.
MAX_COMPARED_BLOCKS = 20_000
#: Percentiles of the intensity range without outliers.
ROBUST_PERCENTILES = (0.5, 99.5)
#: Distance from the intensity range, in ranges, beyond which a pixel is suspect. In 28 images of
#: FMD, and 14 of W2S and Hagen et al., the brightest pixel lies at most 3.2 ranges above.
MIN_OUTLIER_RANGES = 5.0
#: Side of the surroundings of an isolated outlier, in pixels (docs/constants.md).
OUTLIER_WINDOW_SIDE = 5
#: Maximum suspect pixels in the surroundings of an isolated outlier.
MAX_ADJACENT_OUTLIERS = 3
#: Maximum relative deviation of the other pixels around an isolated outlier: the sharpest PSF gives
#: neighbours 0.16 of its height.
MAX_SURROUNDING_DEVIATION = 0.1
#: Maximum share of suspect pixels; with more the image is sparse and has no outliers.
MAX_OUTLIER_FRACTION = 1e-3
#: Limits of the intensity of an image without outliers.
NO_OUTLIER_LIMITS = (-inf, inf)
#: Sizes along Y and X of the windows of one value that make an empty area, in pixels: rare by
#: chance. The narrow ones fit into the tips of rotated corners.
EMPTY_WINDOWS = ((9, 9), (3, 27), (27, 3))
#: Maximum share of pixels close to an empty area that are as dark, or as bright, as it is, or that
#: equal a neighbour: up to 0.04 around padding, 0.16 or more around areas of one value in 588
#: micrographs and photographs.
MAX_SURROUNDING_SHARE = 0.1
#: Distance from an empty area up to which `MAX_SURROUNDING_SHARE` is counted, in pixels.
SURROUNDING_WIDTH = 4
#: The eight neighbours of a pixel.
_NEIGHBOURS = ((1, 1, 1), (1, 0, 1), (1, 1, 1))
#: Number of values that are tried in a plane, the most frequent ones of areas of one value.
MAX_EMPTY_VALUES = 4
#: Least distance of a burnt-in mark from all other pixels, in units of their range: at most 0.05 in
#: 616 of 618 channels of photographs and micrographs (docs/constants.md).
MIN_MARK_GAP = 0.25
#: Least distance of a burnt-in mark in mean steps of the other grey values: less than two steps in
#: the other two channels.
MIN_MARK_STEPS = 4
#: Fewest pixels of a burnt-in mark: a text of four letters 10 pixels high has 72.
MIN_MARK_PIXELS = 16
#: Maximum share of a plane that is a burnt-in mark: 0.024 of 128 x 128 pixels for a text and a bar.
MAX_MARK_FRACTION = 0.1
#: Sizes along Y and X of the strokes of a burnt-in mark, in pixels.
MARK_STROKES = ((2, 2), (1, 4), (4, 1))
#: Least share of a burnt-in mark in strokes: 0.68 or more of texts 10 to 20 pixels high, 0.08 of
#: salt on 20 % of the pixels.
MIN_STROKE_FRACTION = 0.5
#: Maximum area of the parts of a burnt-in mark, in squares of their length (docs/constants.md).
MAX_MARK_COMPACTNESS = 0.5
#: Maximum share of a plane that is filled in; beyond, there is too little to mirror.
MAX_FILLED_FRACTION = 0.9


def arrange_inputs(plan: Plan, inputs: Mapping[str, AnyArray]) -> RunInputs:
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
    raise_if_refused(refuse_content(measured, plan.header.name, stack.size))
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


def _copy_as_float32(array: AnyArray, *, is_mask: bool) -> Float32Array:
    """Return a float32 copy; finite values of a mask stay finite, and positive ones positive."""
    limits = np.finfo(np.float32)
    if is_mask and array.dtype.kind == "f" and array.dtype.itemsize > limits.dtype.itemsize:
        array = np.where(np.isfinite(array), array.clip(limits.min, limits.max), array)
        array = np.where(array > 0, np.maximum(array, limits.tiny), array)
    return np.array(array, dtype=np.float32)


def _choose_measured_layout(
    plan: Plan, image: AnyArray, extra_inputs: Mapping[str, Float32Array]
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
    plan: Plan, image: AnyArray, stack: Float32Array, extra_inputs: Mapping[str, Float32Array]
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


def inspect_early(plan: Plan, extra_inputs: Mapping[str, AnyArray]) -> tuple[Note, ...]:
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


def _count_empty_items(measured_mask: BoolArray) -> int:
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
        if plan.header.get_size(axis) >= min_depth
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
    correlation = min(
        _correlate_block_means(first[:, channel], second[:, channel])
        for channel in range(first.shape[1])
    )
    if correlation < MIN_BLOCK_CORRELATION:
        facts = {"name": name, "image": other, "correlation": f"{correlation:.2f}"}
        return make_refusal("repeated-exposure-unlike", **facts, least=f"{MIN_BLOCK_CORRELATION}")
    return None


def _correlate_block_means(first: Float32Array, second: Float32Array) -> float:
    """Return the correlation of block means; 1 if the first image is constant."""
    if first.min() == first.max():  # constant channels are not fitted
        return 1.0
    x, y = (_compute_block_means(volume) for volume in (first, second))
    x, y = x - x.mean(), y - y.mean()
    power = float((x**2).sum() * (y**2).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else 0.0


def _compute_block_means(volume: Float32Array) -> FloatArray:
    """Return the means of blocks of (..., Y, X), subsampled evenly if there are very many."""
    blocks = cut_into_blocks(volume.reshape(-1, *volume.shape[-2:]), COMPARISON_BLOCK_SIDE)
    count, rows, _, columns, _ = blocks.shape
    stride = max(1, count * rows * columns // MAX_COMPARED_BLOCKS)
    selected = blocks[:: min(stride, max(1, count))].astype(np.float64)
    return np.asarray(selected.mean((2, 4))).ravel()


class FilledStack(NamedTuple):
    """A stack as the fits see it.

    Attributes
    ----------
    stack : ndarray
        (N, C, *grid); the same array as before if nothing was filled in.
    outliers : ndarray
        (K,), their values.
    empty_count : int
        Number of pixels in empty areas that were filled in.
    """

    stack: Float32Array
    outliers: Float32Array
    empty_count: int


def fill_pixels(
    task_spec: TaskSpec, stack: Float32Array, limits: tuple[tuple[float, float], ...]
) -> FilledStack:
    """Fill in outliers, and empty areas if the result keeps them, in (N, C, *grid).

    Parameters
    ----------
    task_spec : TaskSpec
    stack : ndarray
        In the image's units.
    limits : tuple of (float, float)
        As for `fill_outliers`.
    """
    empty_count = 0
    if task_spec.keeps_pixel_grid:
        stack, empty_count = fill_empty_areas(stack)
    return FilledStack(*fill_outliers(stack, None, limits), empty_count)


def fill_empty_areas(stack: Float32Array, values: AnyArray | None = None) -> tuple[AnyArray, int]:
    """Mirror the rest of each plane of (N, C, *grid) into its empty areas.

    Parameters
    ----------
    stack : ndarray
        Where the areas are.
    values : ndarray or None
        (N, C, *grid): what is filled in there; None: the stack itself.

    Returns
    -------
    filled : ndarray
        A copy; the same array if there is nothing to fill in.
    count : int
        Number of pixels that were filled in.
    """
    values = stack if values is None else values
    filled, count = values, 0
    for index, empty in _iter_empty_areas(stack):
        if empty.mean() <= MAX_FILLED_FRACTION:
            filled = values.copy() if filled is values else filled
            y, x = _find_mirrored_pixels(empty)
            filled[index][:, empty] = values[index][:, y, x]
            count += len(values[index]) * len(y)
    return filled, count


def find_kept_pixels(stack: Float32Array, filled_stack: Float32Array) -> BoolArray:
    """Return a mask of what the result keeps as measured, of (N, C, *grid).

    These are the pixels that were filled in, all of an empty area, since what fills a pixel may
    equal it, and planes of one value.

    Parameters
    ----------
    stack, filled_stack : ndarray
        As measured, and after `fill_pixels`.
    """
    kept_mask: BoolArray = stack != filled_stack
    for index, empty in _iter_empty_areas(stack):
        kept_mask[index][:, empty] = True
    return kept_mask


def _iter_empty_areas(stack: Float32Array) -> Iterator[tuple[Any, BoolArray]]:
    """Yield indices of channels (C, Y, X) of each plane, and their mask of what is filled in.

    These are areas that are empty in all channels, and marks, which may lie in one channel only.
    """
    for item, *depth in np.ndindex(stack.shape[0], *stack.shape[2:-2]):
        index = (item, slice(None), *depth)
        empty = np.ones(stack.shape[-2:], bool)
        for plane in stack[index]:
            if empty.any() and plane.min() < plane.max():
                empty &= _find_empty_area(plane)
        marks = [_find_mark(plane) for plane in stack[index]]
        if not any(mark.any() for mark in marks):
            marks, channels = [empty], [slice(None)]
        else:
            channels = [slice(channel, channel + 1) for channel in range(stack.shape[1])]
        for mark, selected in zip(marks, channels, strict=True):
            if (mark | empty).any():
                yield (item, selected, *depth), mark | empty


def _find_empty_area(plane: Float32Array) -> BoolArray:
    """Return a mask of areas of one value in (Y, X) that were not measured.

    They are darker or brighter than what surrounds them, or lie in noise, where neighbours differ,
    as the corners of a tomogram do. Areas of the highest value are saturated rather than empty,
    unless `_find_mark` finds them; in those with single other pixels, photons were counted.
    """
    empty, width = np.zeros(plane.shape, bool), SURROUNDING_WIDTH
    # the square window, without which there are no tips, holds a whole block of this side
    blocks = cut_into_blocks(plane, (EMPTY_WINDOWS[0][0] + 1) // 2)
    if (blocks.min((1, 3)) < blocks.max((1, 3))).all():
        return empty
    from scipy.ndimage import find_objects, label, maximum_filter, minimum_filter

    solid_masks = [
        maximum_filter(plane, window) == minimum_filter(plane, window) for window in EMPTY_WINDOWS
    ]
    values, counts = np.unique(plane[solid_masks[0]], return_counts=True)
    highest = plane.max()
    is_repeated = (plane == np.roll(plane, 1, 0)) | (plane == np.roll(plane, 1, 1))
    for value in values[np.argsort(-counts, kind="stable")[:MAX_EMPTY_VALUES]]:
        if value == highest:
            continue
        has_value = plane == value
        # slightly beyond the windows, for the steps of a slanted edge
        is_near = [
            maximum_filter(is_solid & has_value, tuple(side + width for side in window))
            for window, is_solid in zip(EMPTY_WINDOWS, solid_masks, strict=True)
        ]
        areas, _ = label(has_value & np.logical_or.reduce(is_near))
        for number, spans in enumerate(find_objects(areas), 1):
            around = tuple(slice(max(0, span.start - width), span.stop + width) for span in spans)
            area = areas[around] == number
            rim = maximum_filter(area, 2 * width + 1) & ~area
            comparisons = plane[around] <= value, plane[around] >= value, is_repeated[around]
            shares = [mask[rim].mean() for mask in comparisons]
            has_photons = minimum_filter(area, footprint=_NEIGHBOURS) & ~area
            if min(shares) <= MAX_SURROUNDING_SHARE and not has_photons.any():
                empty[around] |= area
    return empty


def _find_mark(plane: Float32Array) -> BoolArray:
    """Return a mask of what was burnt into (Y, X), such as a scale bar or a text.

    It has the highest or the lowest value, far from all others, and consists of strokes. Saturated
    structure has a rim of every brightness up to the limit. Around sharp spots this rim may fall
    between pixels, but they are round. Salt and pepper are scattered.
    """
    mark = np.zeros(plane.shape, bool)
    for value in (plane.max(), plane.min()):
        has_value = plane == value
        count = np.count_nonzero(has_value)
        if not MIN_MARK_PIXELS <= count <= MAX_MARK_FRACTION * plane.size:
            continue
        others = plane[~(has_value | mark)]
        low, high = float(others.min()), float(others.max())
        gap = max(float(value) - high, low - float(value))
        if high == low or gap < MIN_MARK_GAP * (high - low):
            continue
        if gap * (len(np.unique(others)) - 1) < MIN_MARK_STEPS * (high - low):
            continue
        if _consists_of_strokes(has_value):
            mark |= has_value
    return mark


def list_mark_notes(stack: Float32Array) -> tuple[Note, ...]:
    """Return a note on a burnt-in mark in (N, C, *grid), as it is fitted; none without one."""
    count, value = 0, 0.0
    for plane in stack.reshape(-1, *stack.shape[-2:]):
        mark = _find_mark(plane)
        if mark.any():
            count, value = count + int(mark.sum()), float(plane[mark].max())
    return (make_note("mark-fitted", value=value, share=count / stack.size),) if count else ()


def _consists_of_strokes(mask: BoolArray) -> bool:
    """Return whether most pixels of (Y, X) lie in strokes of long or hollow parts."""
    from scipy.ndimage import binary_opening, find_objects, label

    strokes = np.logical_or.reduce([binary_opening(mask, np.ones(side)) for side in MARK_STROKES])
    if strokes.sum() < MIN_STROKE_FRACTION * mask.sum():
        return False
    parts, _ = label(mask, np.ones((3, 3)))
    areas = np.bincount(parts.ravel())[1:]
    lengths = [max(span.stop - span.start for span in spans) for spans in find_objects(parts)]
    compactness = float((areas**2 / np.square(lengths)).sum() / areas.sum())
    return compactness <= MAX_MARK_COMPACTNESS


def _find_mirrored_pixels(empty: BoolArray) -> npt.NDArray[np.intp]:
    """Return (2, K), for each pixel of an empty area, the place of the pixel that fills it.

    It is the mirror image at the closest edge. Where nothing is there, it lies closer to the edge.
    Copies of measured pixels have the noise of the image; a mean of neighbours would not.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    places = np.stack(empty.nonzero())
    edge: npt.NDArray[np.intp] = nearest[:, *places]
    step = edge - places
    while True:
        y, x = mirrored = edge + step
        is_outside = (y < 0) | (x < 0) | (y >= empty.shape[0]) | (x >= empty.shape[1])
        is_invalid = is_outside | empty[*np.where(is_outside, edge, mirrored)]
        if not is_invalid.any():
            return mirrored
        step[:, is_invalid] = np.trunc(step[:, is_invalid] / 2)  # 0 at last, a measured pixel


def compute_outlier_limits(
    planes: Float32Array, measured_mask: BoolArray | None
) -> tuple[float, float]:
    """Return the values of one channel (..., Y, X) beyond which a pixel is suspect."""
    pixels = planes.reshape(-1) if measured_mask is None else planes[measured_mask]
    if not pixels.size:
        return NO_OUTLIER_LIMITS
    low, high = (float(value) for value in np.percentile(pixels, ROBUST_PERCENTILES))
    limits = low - MIN_OUTLIER_RANGES * (high - low), high + MIN_OUTLIER_RANGES * (high - low)
    suspect_fraction = ((pixels < limits[0]) | (pixels > limits[1])).mean()
    return limits if high > low and suspect_fraction <= MAX_OUTLIER_FRACTION else NO_OUTLIER_LIMITS


def fill_outliers(
    stack: Float32Array, measured_mask: BoolArray | None, limits: tuple[tuple[float, float], ...]
) -> tuple[Float32Array, Float32Array]:
    """Replace outliers by the median of their surroundings.

    Parameters
    ----------
    stack : ndarray
        (N, C, *grid), in the image's units.
    measured_mask : ndarray of bool or None
        Of the same shape, True where a pixel was measured; None: all.
    limits : tuple of (float, float)
        Output of `compute_outlier_limits` for each channel.

    Returns
    -------
    stack : ndarray
        A copy; the same array if there are no outliers.
    values : ndarray
        Values of the outliers.
    """
    suspect = np.zeros(stack.shape, bool)
    for channel, (low, high) in enumerate(limits):
        if isfinite(low):
            suspect[:, channel] = (stack[:, channel] < low) | (stack[:, channel] > high)
    if measured_mask is not None:
        suspect &= measured_mask
    filled, values = stack, []
    for position in zip(*suspect.nonzero(), strict=True):
        median = _compute_surrounding_median(stack, measured_mask, suspect, position)
        if median is not None:
            filled = stack.copy() if filled is stack else filled
            filled[position] = median
            values.append(stack[position])
    return filled, np.asarray(values, np.float32)


def _compute_surrounding_median(
    stack: Float32Array,
    measured_mask: BoolArray | None,
    suspect: BoolArray,
    position: tuple[np.intp, ...],
) -> float | None:
    """Return the median around an isolated suspect; None if it is not isolated."""
    plane, radius = position[:-2], OUTLIER_WINDOW_SIDE // 2
    y, x = (slice(max(0, int(index) - radius), int(index) + radius + 1) for index in position[-2:])
    is_suspect = suspect[plane][y, x]
    is_usual = ~is_suspect if measured_mask is None else ~is_suspect & measured_mask[plane][y, x]
    if int(is_suspect.sum()) > MAX_ADJACENT_OUTLIERS or not is_usual.any():
        return None
    surroundings = stack[plane][y, x][is_usual]
    median = float(np.median(surroundings))
    max_deviation = MAX_SURROUNDING_DEVIATION * abs(float(stack[position]) - median)
    return median if float(np.abs(surroundings - median).max()) <= max_deviation else None


def make_outlier_note(values: Float32Array, *, put_back: bool) -> Note:
    """Return a note on the number of outliers, and on their values in the result."""
    most_extreme = float(values[np.abs(values).argmax()])
    return make_note("outliers", count=len(values), most=most_extreme, put_back=put_back)


def make_empty_note(count: int, total: int) -> Note:
    """Return a note on the share of pixels in empty areas."""
    return make_note("empty-areas", share=count / total)
