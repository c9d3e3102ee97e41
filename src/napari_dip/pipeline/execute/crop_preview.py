"""Restore part of an image as it would be restored with the whole: one range, one noise.

Keep the best picture after so many iterations, as a person did who pressed Stop and keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, Refusal, Refused, allowed, refusal
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.device_recovery import make_machine_refusal
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.plan.preflight import preflight, replace_prior
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes, RunInputs
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.pipeline.plan.types import Plan

#: Regions begin and end on multiples of this where the image does not: compressed pictures are
#: made of blocks of 8 x 8, and oversampled ones are halved.
REGION_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRegion:
    """Part of an image.

    Attributes
    ----------
    spans : tuple of (start, stop)
        Along each axis of the image, in pixels.
    """

    spans: tuple[tuple[int, int], ...]

    @property
    def start(self) -> tuple[int, ...]:
        """Where its first pixel lies in the image."""
        return tuple(start for start, _ in self.spans)

    @property
    def slices(self) -> tuple[slice, ...]:
        """As an index."""
        return tuple(slice(*span) for span in self.spans)

    def get_span(self, axis: str, axes: str) -> slice:
        """Give its part of one axis."""
        return slice(*self.spans[axes.index(axis)])

    def crop_spec(self, spec: ImageSpec, source: ImageSpec) -> ImageSpec:
        """Describe this part of a picture that lies on the image, as a picture of its own.

        Parameters
        ----------
        spec : ImageSpec
            Of the image itself or of a further input. One of another size does not lie on it.
        source : ImageSpec
            Of the image.
        """
        if not _is_overlay(spec, source):
            return spec
        sizes = dict(zip(source.axes, source.shape, strict=True))
        shape = tuple(
            len(range(*self.get_span(axis, source.axes).indices(count)))
            if sizes.get(axis) == count and axis not in "CS"
            else count
            for axis, count in zip(spec.axes, spec.shape, strict=True)
        )
        return replace(spec, shape=shape, path=None)


def make_crop_region(
    source: ImageSpec, layout: Layout, box: tuple[float, float, float, float], at: tuple[int, ...]
) -> CropRegion:
    """Round a box to pixels of the image, and take one of the planes that are fitted apart.

    Parameters
    ----------
    source : ImageSpec
    layout : Layout
        Of the plan for the whole.
    box : tuple of float
        Top, left, bottom, right in pixels; what lies outside of the image is cut off.
    at : tuple of int
        Which plane is meant, along each axis of the image.
    """
    top, left, bottom, right = box
    wanted = {"Y": (top, bottom), "X": (left, right)}
    spans = []
    for axis, extent, here in zip(source.axes, source.shape, at, strict=True):
        if axis in wanted:
            low, high = (min(max(0.0, item), extent) for item in wanted[axis])
            start = int(low) // REGION_ALIGNMENT * REGION_ALIGNMENT
            spans.append(
                (start, min(extent, -(-int(np.ceil(high)) // REGION_ALIGNMENT) * REGION_ALIGNMENT))
            )
        elif axis in layout.parts:
            spans.append((here, here + 1))
        else:
            spans.append((0, extent))
    return CropRegion(spans=tuple(spans))


def plan_crop_preview(plan: Plan, region: CropRegion, machine: Machine) -> Plan | Refusal:
    """Plan the same recipe for part of the image.

    Parameters
    ----------
    plan : Plan
        For the whole.
    region : CropRegion
    machine : Machine
    """
    stacks = "volume" if plan.layout.is_volume else "planes"
    recipe = plan.recipe.replace_run_settings(stacks=stacks)
    others = {name: region.crop_spec(spec, plan.source) for name, spec in plan.extra_inputs.items()}
    small = preflight(recipe, region.crop_spec(plan.source, plan.source), machine, others)
    return small if isinstance(small, Refusal) else replace(small, recipe=plan.recipe)


def run_crop_preview(
    plan: Plan,
    region: CropRegion,
    small: Plan,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Restore part of an image, after range and noise were measured on all of it.

    Parameters
    ----------
    plan, small : Plan
        For the whole, and by `plan_crop_preview` for the region.
    region : CropRegion
    data : mapping
        The whole image and the task's further inputs.
    control, preview_seconds
        As for `napari_dip.pipeline.execute.runner.run`; so is what is yielded, returned and raised.
    """
    yield Event(message="Starting the engine")
    load_torch()
    steps = _restore_crop(plan, region, small, data, control, preview_seconds)
    try:
        return (yield from run_in_default_state(steps, small.threads))
    except Exception as error:
        if no := make_machine_refusal(error, plan.source.name):
            raise Failed(no) from error
        raise


def _restore_crop(
    plan: Plan,
    region: CropRegion,
    small: Plan,
    data: Mapping[str, Any],
    control: Callable[[], Control],
    preview_seconds: float | None,
) -> Generator[Event, None, Restoration | None]:
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.inputs import check_content
    from napari_dip.pipeline.calibrate.prepare import (
        calibrate_pixels,
        choose_prior_by_noise,
        choose_prior_by_pixels,
    )
    from napari_dip.pipeline.execute.clock import RunClock
    from napari_dip.pipeline.execute.unit_executor import UnitExecutor, drop_constant_channels

    clock = RunClock(small, control, preview_seconds)
    yield Event(message="Measuring the noise of the whole image", seconds=clock.seconds)
    inputs = _sort_whole_inputs(plan, data)
    plan = choose_prior_by_pixels(plan, inputs)
    calibration, parts = calibrate_pixels(plan, inputs)
    plan, calibration = choose_prior_by_noise(plan, calibration)
    array = np.array(data["image"][region.slices])
    if no := check_content(array[np.isfinite(array)], plan.source.name):
        allowed(no)
    calibration, parts = _crop_calibration(calibration, parts, region, plan, array)
    if calibration.measured_mask is not None and not calibration.measured_mask.any():
        allowed(refusal("nothing-known", name=plan.source.name))
    if small.budget.prior != plan.budget.prior:
        small = replace_prior(small, plan.budget.prior, plan.budget.why)
    small = replace(small, layout=plan.layout)
    clock.expect(small)
    merge = ResultMerger(small, calibration, parts, array)
    course = UnitExecutor(small, calibration, parts, clock, merge, None)
    for number, unit in enumerate(small.units, 1):
        fitted = drop_constant_channels(unit, calibration.constant_channels)
        if not fitted.channels:
            continue
        ended = yield from course.fit_unit(fitted, number, None)
        if ended is Control.DISCARD:
            return None
        if ended is Control.KEEP:
            break
    if not merge.outcomes:
        return None
    return merge.make_restoration(clock.seconds, timed_out=clock.timed_out)


def _sort_whole_inputs(plan: Plan, data: Mapping[str, Any]) -> RunInputs:
    """Sort the pixels of the whole, or what stands for them where it is too large."""
    from napari_dip.pipeline.calibrate.inputs import sort_inputs

    if plan.tiles:
        from napari_dip.pipeline.execute.tile_calibration import (
            measure_tiles,
            read_sample_regions,
            select_sample_regions,
        )

        return read_sample_regions(
            plan, data, select_sample_regions(plan, allowed(measure_tiles(plan, data["image"])))
        )[0]
    arrays = {name: np.asarray(data[name]) for name in ("image", *plan.extra_inputs)}
    return allowed(sort_inputs(plan, arrays))


def _crop_calibration(
    calibration: Calibration, parts: Planes, region: CropRegion, plan: Plan, array: Any
) -> tuple[Calibration, Planes]:
    """Cut what belongs to pixels out of what was measured; figures stay those of the whole."""
    from napari_dip.pipeline.calibrate.calibration import compute_validation_share
    from napari_dip.pipeline.plan.layout import split_into_parts

    axes, layout, source = plan.source.axes, plan.layout, plan.source
    counts = [source.shape[axes.index(axis)] for axis in layout.parts]
    numbers = np.arange(int(np.prod(counts, dtype=int))).reshape(counts)
    chosen = numbers[tuple(region.get_span(axis, axes) for axis in layout.parts)].ravel()
    grid = tuple(region.get_span(axis, axes) for axis in layout.grid)
    sides = source.along(layout.grid)

    def cut(laid: Any) -> Any:
        """Cut from (parts, C, *grid), or from (..., *grid); others do not lie on the image."""
        if laid.shape[-len(sides) :] != sides:
            return laid
        if laid.ndim == len(sides) + 2 and len(laid) == numbers.size:
            laid = laid[chosen]
        return np.ascontiguousarray(laid[(..., *grid)])

    if plan.tiles:  # a sample was measured; such images have nothing else that is laid on them
        small, measured_mask, second = split_into_parts(array, axes, layout), None, None
    else:
        small, second = cut(parts), calibration.repeated_exposure
        measured_mask = (
            None if calibration.measured_mask is None else cut(calibration.measured_mask)
        )
    if measured_mask is not None and measured_mask.all():
        measured_mask = None
    some = small[0, 0].size if measured_mask is None else max(1, int(measured_mask[0, 0].sum()))
    rows, columns = grid[-2:]
    edges = {"top": rows.start + 1, "bottom": rows.stop}
    edges |= {"left": columns.start + 1, "right": columns.stop}
    return replace(
        calibration,
        measured_mask=measured_mask,
        validation_share=compute_validation_share(calibration.blind_spot_size, some),
        extra_inputs={name: cut(item) for name, item in calibration.extra_inputs.items()},
        repeated_exposure=second if second is None else replace(second, stack=cut(second.stack)),
        half_resolution=_halve_crop(calibration, small),
        camera_correction=None
        if calibration.camera_correction is None
        else calibration.camera_correction.cut(grid[-2:]),
        notes=(*calibration.notes, make_note("trial-region", **edges)),
    ), small


def _halve_crop(calibration: Calibration, parts: Planes) -> Any:
    """Halve the part where the whole was halved."""
    if calibration.half_resolution is None:
        return None
    import torch

    from napari_dip.engine.noise.oversampling import halve_resolution

    half = np.asarray(halve_resolution(torch.from_numpy(parts)), np.float32)
    return replace(calibration.half_resolution, stack=half)


def _is_overlay(spec: ImageSpec, source: ImageSpec) -> bool:
    return {"Y", "X"} <= set(spec.axes) and spec.grid == source.grid


def make_keep_after_control(
    iterations: int | str | None, control: Callable[[], Control] = lambda: Control.GO
) -> Callable[[], Control]:
    """Make what a run asks before each iteration.

    The rates stay those of the whole run, so a picture that was kept comes back. Of a run in
    several fits all are counted together, their last close looks as well: there only about as many.

    Parameters
    ----------
    iterations : int or str or None
        Text as from a command line is taken, too; None: the run ends by itself.
    control : callable
        What else is wished.

    Raises
    ------
    Refused
        If it is no whole number above 0.
    """
    if iterations is None:
        return control
    try:
        most = int(iterations)
    except ValueError:
        most = 0
    if most < 1 or isinstance(iterations, bool):
        raise Refused(
            refusal(
                "setting-wrong",
                field="keep_after",
                value=repr(iterations),
                why="it should be a whole number above 0",
                hint="Leave it out to let the run end by itself.",
            )
        )
    counter = count()

    def ask() -> Control:
        request = control()
        if request is not Control.GO:
            return request
        return Control.KEEP if next(counter) >= most else request

    return ask
