"""Restore a crop of an image, with range and noise measured on the whole image.

The result is a preview, or is merged into an earlier result of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Refusal, RefusedError, make_refusal, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.io.header import match_axes
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.execute.runner import repeat_colours, run_with_torch
from napari_dip.pipeline.lazy_inputs import merge_equal_colours
from napari_dip.pipeline.plan.layout import Span
from napari_dip.pipeline.plan.preflight import plan_as_grey, preflight
from napari_dip.pipeline.plan.tiling import VOLUME_OVERLAP_PIXELS

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import AnyArray, Float32Array, ImageHeader
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan, WorkUnit
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

#: Crops start and end at multiples of this many pixels, or at the border of the image. JPEG blocks
#: measure 8 x 8 pixels, and a fit at half resolution averages 2 x 2.
REGION_ALIGNMENT = 8
#: Name of the input that a region is merged into.
MERGE_INPUT = "merge_into"
#: Pixels around a region that are restored with it, and blended with the earlier result: as many
#: as between tiles of a volume.
RIM_WIDTH = VOLUME_OVERLAP_PIXELS


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRegion:
    """Rectangular crop of an image.

    Attributes
    ----------
    spans : tuple of (start, stop)
        For each axis of the image, in pixels.
    inner_spans : tuple of (start, stop)
        The part whose result replaces an earlier one; around it, both are blended. Empty for a
        preview, which is not merged.
    wanted_size : tuple of int
        Height and width of the part that was asked for, in pixels, before it was enlarged.
    """

    spans: tuple[tuple[int, int], ...]
    inner_spans: tuple[tuple[int, int], ...] = ()
    wanted_size: tuple[int, ...] = ()

    @property
    def start(self) -> tuple[int, ...]:
        """Position of the first pixel in the image."""
        return tuple(start for start, _ in self.spans)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the region in the image."""
        return tuple(slice(*span) for span in self.spans)

    def get_span(self, axis: str, axes: str) -> slice:
        """Return the slice along one axis of an image with these axes."""
        return slice(*self.spans[axes.index(axis)])

    def merge(self, earlier: AnyArray, result: AnyArray, factors: tuple[int, ...]) -> AnyArray:
        """Return a copy of an image in which the result of this region replaces the earlier one.

        Parameters
        ----------
        earlier : ndarray
            An earlier result of the whole image.
        result : ndarray
            The result of the region.
        factors : tuple of int
            For each axis, how much finer both are than the input.
        """
        from napari_dip.pipeline.assess.merge import convert_dtype

        merged, weights = np.array(earlier), np.ones(())
        region, part = [], []  # aligned crops are larger than their rims
        for (low, high), inner, factor in zip(self.spans, self.inner_spans, factors, strict=True):
            start, stop = max(low, inner[0] - RIM_WIDTH), min(high, inner[1] + RIM_WIDTH)
            middles = (start + inner[0]) // 2, (inner[1] + stop) // 2
            span = Span(start=start, stop=stop, core_start=middles[0], core_stop=middles[1])
            span = span.upscale(factor)
            weights = weights[..., None] * span.compute_weights(span.start, span.stop)
            region.append(slice(span.start, span.stop))
            part.append(slice(span.start - factor * low, span.stop - factor * low))
        new, old = result[tuple(part)], merged[tuple(region)]
        old = np.where(np.isfinite(old), old, new)  # holes of the input
        merged[tuple(region)] = convert_dtype((1 - weights) * old + weights * new, merged.dtype)
        return merged

    def crop_header(self, header: ImageHeader, image_header: ImageHeader) -> ImageHeader:
        """Return the header of this crop of the image, or of an input with the image's grid.

        Parameters
        ----------
        header : ImageHeader
            Header of the image or of an extra input. It is returned unchanged if its height or
            width differs from the image's.
        image_header : ImageHeader
            Header of the image.
        """
        if not {"Y", "X"} <= set(header.axes) or header.grid != image_header.grid:
            return header
        sizes = dict(zip(image_header.axes, image_header.shape, strict=True))
        matched = match_axes(image_header, header.shape)  # letters of unnamed arrays are guesses
        axes = matched if len(matched) == len(header.shape) else header.axes
        shape = tuple(
            len(range(*self.get_span(axis, image_header.axes).indices(count)))
            if sizes.get(axis) == count and axis not in "CS"
            else count
            for axis, count in zip(axes, header.shape, strict=True)
        )
        return replace(header, shape=shape, path=None)


def make_crop_region(
    header: ImageHeader,
    layout: Layout,
    box: tuple[float, float, float, float],
    positions: tuple[int, ...],
    *,
    is_merged: bool = False,
) -> CropRegion:
    """Return the crop for a box in the image plane, within one item (`Layout`).

    Parameters
    ----------
    header : ImageHeader
    layout : Layout
        Layout of the plan for the whole image.
    box : tuple of float
        Top, left, bottom and right, in pixels. It is clipped to the image, and its edges are
        moved outwards to multiples of `REGION_ALIGNMENT`.
    positions : tuple of int
        Position along each axis of the image, which selects the plane or frame.
    is_merged : bool
        Whether the result is merged into an earlier one, for which a rim is restored as well.
    """
    top, left, bottom, right = box
    ranges = {"Y": (top, bottom), "X": (left, right)}
    spans, inner_spans = [], []
    rim = RIM_WIDTH if is_merged else 0
    for axis, extent, position in zip(header.axes, header.shape, positions, strict=True):
        if axis in ranges:
            low, high = (min(max(0.0, edge), extent) for edge in ranges[axis])
            start = max(0, int(low) - rim) // REGION_ALIGNMENT * REGION_ALIGNMENT
            stop = ceil((high + rim) / REGION_ALIGNMENT) * REGION_ALIGNMENT
            spans.append((start, min(extent, stop)))
            inner_spans.append((int(low), ceil(high)))
            continue
        is_item = axis in layout.item_axes
        spans.append((position, position + 1) if is_item else (0, extent))
        inner_spans.append(spans[-1])
    return CropRegion(
        spans=tuple(spans),
        inner_spans=tuple(inner_spans) if is_merged else (),
        wanted_size=tuple(
            stop - start
            for axis, (start, stop) in zip(header.axes, inner_spans, strict=True)
            if axis in ranges
        ),
    )


def plan_crop_preview(plan: Plan, region: CropRegion, machine: Machine) -> Plan | Refusal:
    """Plan the same recipe for a crop of the image; return a refusal if it cannot be restored.

    Parameters
    ----------
    plan : Plan
        Plan for the whole image.
    region : CropRegion
    machine : Machine
    """
    stacks = "volume" if plan.layout.is_volume else "planes"
    extra_headers = {
        name: region.crop_header(header, plan.header) for name, header in plan.extra_headers.items()
    }
    crop_header = region.crop_header(plan.header, plan.header)
    recipe = plan.recipe.replace_run_settings(halves=False, null_control=False)
    if not all(region.wanted_size):
        return make_refusal("drawing-outside", name=plan.header.name)
    crop_plan = preflight(recipe, crop_header, machine, extra_headers, stacks=stacks)
    if isinstance(crop_plan, Refusal) and crop_plan.code == "image-small":
        height, width = region.wanted_size
        return make_refusal("region-small", **{**crop_plan.facts, "height": height, "width": width})
    return crop_plan


def run_crop_preview(
    plan: Plan,
    region: CropRegion,
    crop_plan: Plan,
    inputs: Mapping[str, Any],
    *,
    poll_control: PollControl = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore a crop of an image, with range and noise measured on the whole image.

    Events, result and errors are those of `napari_dip.pipeline.execute.runner.run`. Of a region
    with `inner_spans`, the image of the result is the whole image with the region merged into it;
    report, uncertainty and residual are those of the crop.

    Parameters
    ----------
    plan : Plan
        Plan for the whole image.
    region : CropRegion
    crop_plan : Plan
        Plan for the crop, from `plan_crop_preview`.
    inputs : mapping
        The whole image, the task's extra inputs, and as "merge_into" the earlier result that a
        region is merged into; by default, the image itself.
    poll_control, preview_seconds
        As for `napari_dip.pipeline.execute.runner.run`.
    """
    options = poll_control, preview_seconds
    steps = _restore_crop_channels(plan, region, crop_plan, inputs, *options)
    result = yield from run_with_torch(steps, crop_plan.threads, plan.header.name)
    if result is None or not region.inner_spans:
        return result
    earlier = inputs.get(MERGE_INPUT)
    if earlier is None:
        earlier = np.asarray(inputs["image"]).astype(result.image.dtype)
        for axis, factor in enumerate(plan.factors):
            earlier = np.repeat(earlier, factor, axis)
    return replace(result, image=region.merge(earlier, result.image, plan.factors))


def _restore_crop_channels(
    plan: Plan,
    region: CropRegion,
    crop_plan: Plan,
    inputs: Mapping[str, Any],
    poll_control: PollControl,
    preview_seconds: float | None,
) -> Generator[Event, None, Restoration | None]:
    """Restore a crop; of three equal colours of the whole image, only one."""
    options = poll_control, preview_seconds
    grey_plan, merged_inputs, hashes = merge_equal_colours(plan, inputs)
    grey_crop_plan = plan_as_grey(crop_plan) if hashes else crop_plan
    if not hashes or isinstance(grey_crop_plan, Refusal):
        pixels = inputs if hashes else merged_inputs
        return (yield from _restore_crop(plan, region, crop_plan, pixels, *options))
    index = plan.header.axes.index("S")
    spans, inner_spans = (
        each[:index] + each[index + 1 :] for each in (region.spans, region.inner_spans)
    )
    region_hash = {"image": compute_sha256(np.asarray(inputs["image"][region.slices]))}
    grey_region = replace(region, spans=spans, inner_spans=inner_spans)
    steps = _restore_crop(grey_plan, grey_region, grey_crop_plan, merged_inputs, *options)
    return (yield from repeat_colours(steps, crop_plan.header, region_hash))


def _restore_crop(
    plan: Plan,
    region: CropRegion,
    crop_plan: Plan,
    inputs: Mapping[str, Any],
    poll_control: PollControl,
    preview_seconds: float | None,
) -> Generator[Event, None, Restoration | None]:
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.execute.executor import Executor
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.tasks.shared_settings import refuse_content

    monitor = RunMonitor(crop_plan, poll_control, preview_seconds)
    yield monitor.make_message_event("Measuring the noise of the whole image")
    whole_image = _calibrate_whole_image(plan, inputs)
    array = np.array(inputs["image"][region.slices])
    raise_if_refused(refuse_content(array[np.isfinite(array)], plan.header.name))
    image = _crop_image(whole_image, region, crop_plan, array)
    # the units of all tiles would fit the same crop
    units = tuple(unit for unit in image.run_plan.units if not unit.tile)
    if image.frame_stacks:
        are_frames = whole_image.run_plan.units[0].has_time_neighbours
        units = tuple(_link_neighbours(unit, image, are_frames=are_frames) for unit in units)
    image = replace(image, run_plan=replace(image.run_plan, units=units))
    if image.calibration.measured_mask is not None and not image.calibration.measured_mask.any():
        raise RefusedError("nothing-measured", name=plan.header.name)
    monitor.set_expected_work(image.run_plan)
    merger = ResultMerger(image)
    control = yield from Executor(merger, monitor).run(image.run_plan.units)
    if control is Control.DISCARD or not merger.outcomes:
        return None
    monitor.start_assessment()
    return merger.make_restoration(monitor.seconds, is_timed_out=monitor.is_timed_out)


def _link_neighbours(unit: WorkUnit, image: CalibratedImage, *, are_frames: bool) -> WorkUnit:
    """Return a unit of a crop whose neighbours are the others of `frame_stacks`."""
    before, after, *_ = (*range(1, len(image.frame_stacks[0])), None, None)
    return replace(
        unit,
        previous_item=before,
        next_item=after,
        has_time_neighbours=are_frames,
        is_segment_start=True,
    )


def _calibrate_whole_image(plan: Plan, inputs: Mapping[str, Any]) -> CalibratedImage:
    """Calibrate the whole image, on sample regions if it is restored in tiles."""
    from napari_dip.pipeline.calibrate.run_plan import calibrate_image

    if plan.tiles:
        from napari_dip.pipeline.execute.tile_calibration import (
            calibrate_sample_regions,
            measure_tiles,
        )

        return calibrate_sample_regions(plan, inputs, measure_tiles(plan, inputs["image"]))
    arrays = {name: np.asarray(inputs[name]) for name in ("image", *plan.extra_headers)}
    return calibrate_image(plan, arrays)


def _crop_image(
    whole_image: CalibratedImage, region: CropRegion, crop_plan: Plan, array: Any
) -> CalibratedImage:
    """Return a crop as an image of its own; range, noise and prior stay those of the whole."""
    from napari_dip.pipeline.calibrate.image_calibration import replace_half_resolution
    from napari_dip.pipeline.calibrate.run_plan import make_run_plan
    from napari_dip.pipeline.calibrate.types import (
        CalibratedImage,
        compute_validation_fraction,
        count_measured_pixels,
    )
    from napari_dip.pipeline.plan.layout import find_empty_planes, to_stack
    from napari_dip.tasks.base import GridLocation, Inspection

    run_plan, calibration = whole_image.run_plan, whole_image.calibration
    layout, axes = run_plan.layout, run_plan.header.axes
    crop = partial(_crop_pixels, region=region, layout=layout, header=run_plan.header)
    stack = to_stack(array, axes, layout) if run_plan.tiles else crop(whole_image.stack)
    measured_mask, repeated_exposure = calibration.measured_mask, calibration.repeated_exposure
    if measured_mask is not None:
        measured_mask = crop(measured_mask)
        measured_mask = None if measured_mask.all() else measured_mask
    if repeated_exposure is not None:
        repeated_exposure = replace(repeated_exposure, stack=crop(repeated_exposure.stack))
    (top, bottom), (left, right) = (
        (region.inner_spans or region.spans)[axes.index(axis)] for axis in "YX"
    )
    # first and last, counted from 0 as in napari's status bar
    edges = {"top": top, "bottom": bottom - 1, "left": left, "right": right - 1}
    note_code = "region-merged" if region.inner_spans else "crop-preview-region"
    frame_stacks = () if run_plan.tiles else _crop_frames(whole_image, region)
    calibration = replace(
        calibration,
        measured_mask=measured_mask,
        validation_fraction=compute_validation_fraction(
            calibration.blind_spot_size, count_measured_pixels(stack, measured_mask)
        ),
        extra_inputs={name: crop(array) for name, array in calibration.extra_inputs.items()},
        repeated_exposure=repeated_exposure,
        camera_correction=None
        if calibration.camera_correction is None
        else calibration.camera_correction.crop(crop),
        notes=(*calibration.notes, make_note(note_code, **edges, has_frames=bool(frame_stacks))),
        empty_planes=None if calibration.empty_planes is None else find_empty_planes(stack),
    )
    calibration = replace_half_resolution(calibration, stack)
    inspection = Inspection(
        prior_key=run_plan.fit_config.prior_key, prior_reason=run_plan.fit_config.prior_reason
    )
    return CalibratedImage(
        run_plan=make_run_plan(crop_plan, inspection, calibration),
        frame_stacks=frame_stacks,
        calibration=calibration,
        header=crop_plan.header,
        layout=layout,
        inputs={"image": array},
        stack=stack,
        location=GridLocation(
            start=tuple(region.get_span(axis, axes).start for axis in layout.grid_axes),
            image_size=run_plan.header.get_sizes(layout.grid_axes),
        ),
    )


def _crop_frames(whole_image: CalibratedImage, region: CropRegion) -> tuple[Float32Array, ...]:
    """Return the region of its plane, and of those before and after, as `frame_stacks`."""
    run_plan, layout = whole_image.run_plan, whole_image.layout
    axes = run_plan.header.axes
    item_sizes = run_plan.header.get_sizes(layout.item_axes)
    position = [region.get_span(axis, axes).start for axis in layout.item_axes]
    item = int(np.ravel_multi_index(position, item_sizes)) if position else 0
    neighbours = next((unit.neighbours for unit in run_plan.units if unit.item == item), ())
    if not neighbours:
        return ()
    grid = tuple(region.get_span(axis, axes) for axis in layout.grid_axes)
    items = [item, *neighbours]
    return tuple(stack[items][:, :, *grid] for stack in whole_image.list_frame_stacks())


def _crop_pixels(pixels: Any, *, region: CropRegion, layout: Layout, header: ImageHeader) -> Any:
    """Crop (N, C, *grid) or (..., *grid); return arrays with another grid unchanged."""
    sides = header.get_sizes(layout.grid_axes)
    if pixels.shape[-len(sides) :] != sides:
        return pixels
    if pixels.ndim == len(sides) + 2 and len(pixels) == layout.count_items(header):
        item_numbers = np.arange(len(pixels)).reshape(header.get_sizes(layout.item_axes))
        spans = (region.get_span(axis, header.axes) for axis in layout.item_axes)
        pixels = pixels[item_numbers[tuple(spans)].ravel()]
    grid = (region.get_span(axis, header.axes) for axis in layout.grid_axes)
    return np.ascontiguousarray(pixels[(..., *grid)])
