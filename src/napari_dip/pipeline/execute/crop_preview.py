"""Restore a crop of an image, with range and noise measured on the whole image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Refusal, make_refusal, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.io.header import match_axes
from napari_dip.pipeline.execute.runner import run_with_torch
from napari_dip.pipeline.plan.preflight import preflight

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan

#: Crops start and end at multiples of this many pixels, or at the border of the image. Compression
#: blocks measure 8 x 8 pixels, and oversampled images are halved.
REGION_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRegion:
    """Rectangular crop of an image.

    Attributes
    ----------
    spans : tuple of (start, stop)
        For each axis of the image, in pixels.
    """

    spans: tuple[tuple[int, int], ...]

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
        if not _is_overlay(header, image_header):
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
) -> CropRegion:
    """Return the crop for a box in the image plane, within one of the separately fitted items.

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
    """
    top, left, bottom, right = box
    ranges = {"Y": (top, bottom), "X": (left, right)}
    spans = []
    for axis, extent, position in zip(header.axes, header.shape, positions, strict=True):
        if axis in ranges:
            low, high = (min(max(0.0, edge), extent) for edge in ranges[axis])
            start = int(low) // REGION_ALIGNMENT * REGION_ALIGNMENT
            stop = ceil(high / REGION_ALIGNMENT) * REGION_ALIGNMENT
            spans.append((start, min(extent, stop)))
        elif axis in layout.item_axes:
            spans.append((position, position + 1))
        else:
            spans.append((0, extent))
    return CropRegion(spans=tuple(spans))


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
    return preflight(recipe, crop_header, machine, extra_headers, stacks=stacks)


def run_crop_preview(
    plan: Plan,
    region: CropRegion,
    crop_plan: Plan,
    data: Mapping[str, Any],
    *,
    poll_control: PollControl = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore a crop of an image, with range and noise measured on the whole image.

    Events, result and errors are those of `napari_dip.pipeline.execute.runner.run`.

    Parameters
    ----------
    plan : Plan
        Plan for the whole image.
    region : CropRegion
    crop_plan : Plan
        Plan for the crop, from `plan_crop_preview`.
    data : mapping
        The whole image and the task's extra inputs.
    poll_control, preview_seconds
        As for `napari_dip.pipeline.execute.runner.run`.
    """
    steps = _restore_crop(plan, region, crop_plan, data, poll_control, preview_seconds)
    return (yield from run_with_torch(steps, crop_plan.threads, plan.header.name))


def _restore_crop(
    plan: Plan,
    region: CropRegion,
    crop_plan: Plan,
    data: Mapping[str, Any],
    poll_control: PollControl,
    preview_seconds: float | None,
) -> Generator[Event, None, Restoration | None]:
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.execute.executor import Executor
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.tasks.shared_settings import refuse_content

    monitor = RunMonitor(crop_plan, poll_control, preview_seconds)
    yield monitor.make_message_event("Measuring the noise of the whole image")
    whole_image = _calibrate_whole_image(plan, data)
    array = np.array(data["image"][region.slices])
    if content_refusal := refuse_content(array[np.isfinite(array)], plan.header.name):
        raise_if_refused(content_refusal)
    image = _crop_image(whole_image, region, crop_plan, array)
    if image.calibration.measured_mask is not None and not image.calibration.measured_mask.any():
        raise_if_refused(make_refusal("nothing-measured", name=plan.header.name))
    monitor.set_expected_work(image.plan)
    merger = ResultMerger(image)
    control = yield from Executor(merger, monitor).run(image.plan.units)
    if control is Control.DISCARD or not merger.outcomes:
        return None
    monitor.start_assessment()
    return merger.make_restoration(monitor.seconds, is_timed_out=monitor.is_timed_out)


def _calibrate_whole_image(plan: Plan, data: Mapping[str, Any]) -> CalibratedImage:
    """Calibrate the whole image, on sample regions if it is restored in tiles."""
    from napari_dip.pipeline.calibrate.image_calibration import calibrate_pixels
    from napari_dip.pipeline.calibrate.run_plan import calibrate_image, make_run_plan

    if plan.tiles:
        from napari_dip.pipeline.execute.tile_calibration import (
            make_sample_image,
            measure_tiles,
            read_sample_regions,
            select_sample_regions,
        )

        tile_std = raise_if_refused(measure_tiles(plan, data["image"]))
        regions = select_sample_regions(plan, tile_std)
        inputs, array = read_sample_regions(plan, data, regions)
        calibration, _ = calibrate_pixels(plan, inputs)
        return make_sample_image(
            make_run_plan(plan, inputs.inspection, calibration), calibration, array
        )
    arrays = {name: np.asarray(data[name]) for name in ("image", *plan.extra_headers)}
    return raise_if_refused(calibrate_image(plan, arrays))


def _crop_image(
    whole_image: CalibratedImage, region: CropRegion, crop_plan: Plan, array: Any
) -> CalibratedImage:
    """Return a crop as an image of its own; range, noise and prior stay those of the whole."""
    from napari_dip.pipeline.calibrate.resolution_and_outliers import replace_half_resolution
    from napari_dip.pipeline.calibrate.run_plan import make_run_plan
    from napari_dip.pipeline.calibrate.types import (
        CalibratedImage,
        compute_validation_fraction,
        count_measured_pixels,
    )
    from napari_dip.pipeline.plan.layout import to_stack
    from napari_dip.tasks.base import GridLocation, Inspection

    plan, calibration = whole_image.plan, whole_image.calibration
    layout, axes = plan.layout, plan.header.axes
    crop = partial(_crop_pixels, region=region, layout=layout, header=plan.header)
    stack = to_stack(array, axes, layout) if plan.tiles else crop(whole_image.stack)
    measured_mask, repeated_exposure = calibration.measured_mask, calibration.repeated_exposure
    if measured_mask is not None:
        measured_mask = crop(measured_mask)
        measured_mask = None if measured_mask.all() else measured_mask
    if repeated_exposure is not None:
        repeated_exposure = replace(repeated_exposure, stack=crop(repeated_exposure.stack))
    rows, columns = (region.get_span(axis, axes) for axis in "YX")
    edges = {"top": rows.start + 1, "bottom": rows.stop}
    edges |= {"left": columns.start + 1, "right": columns.stop}
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
        else calibration.camera_correction.crop((rows, columns)),
        notes=(*calibration.notes, make_note("crop-preview-region", **edges)),
    )
    calibration = replace_half_resolution(calibration, stack)
    inspection = Inspection(
        prior_key=plan.fit_config.prior_key, prior_reason=plan.fit_config.prior_reason
    )
    return CalibratedImage(
        plan=make_run_plan(crop_plan, inspection, calibration),
        calibration=calibration,
        header=crop_plan.header,
        layout=layout,
        inputs={"image": array},
        stack=stack,
        location=GridLocation(
            start=tuple(region.get_span(axis, axes).start for axis in layout.grid_axes),
            image_size=plan.header.get_sizes(layout.grid_axes),
        ),
    )


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


def _is_overlay(header: ImageHeader, image_header: ImageHeader) -> bool:
    return {"Y", "X"} <= set(header.axes) and header.grid == image_header.grid
