"""Blend restored tiles into one image, band by band, and assemble its report.

Quality checks use the sample regions only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from napari_dip.errors.notes import make_note, parse_report_notes, serialise_notes
from napari_dip.pipeline.assess.merge import ResultMerger, convert_to_input_dtype
from napari_dip.pipeline.assess.report import compute_sha256, make_unrestored_tiles_notes
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.inputs import (
    fill_empty_areas,
    fill_pixels,
    find_kept_pixels,
    make_empty_note,
    make_outlier_note,
)
from napari_dip.pipeline.plan.layout import (
    from_stack,
    has_overlap,
    make_tile_without_halo,
    to_stack,
)
from napari_dip.pipeline.plan.tiling import MAX_IN_MEMORY_RESULT_BYTES, find_largest_tile
from napari_dip.pipeline.store.unit_results import JOINT_NAME, make_tile_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.io.lazy_images import MemoryMappedImage
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration, RunPlan
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import ImagePlan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.pipeline.store.unit_results import ResultStore
    from napari_dip.public_types import Report

#: Maximum number of values in a band, the rows of the result that are blended at a time.
MAX_BAND_VALUES = 2**20
#: Maximum number of planes of a band: several avoid decompressing chunks of the file once per
#: plane.
MAX_BAND_PLANES = 4


class BlendedRegion(NamedTuple):
    """Blended region; all arrays are (C, *size), in the image's units.

    Attributes
    ----------
    image, std : ndarray
        Restored image and its standard deviation, on the grid of the result.
    measurement, prediction : ndarray
        Measured and predicted pixels, on the grid of the image.
    input_mask : ndarray of bool
        On the grid of the result; True where the image is a copy of the input.
    """

    image: FloatArray
    std: FloatArray
    measurement: FloatArray
    prediction: FloatArray
    input_mask: BoolArray


@dataclass(slots=True, eq=False)
class TileBlender:
    """Blend overlapping tiles; the input replaces a tile without a result.

    Attributes
    ----------
    run_plan : RunPlan
    calibration : Calibration
        Its noise is the uncertainty of the input.
    unit_results : ResultStore
    image : array-like
        In the axes and shape of `plan.header`.
    outliers : ndarray
        Values of outlier pixels that were excluded from the fits; set by `write_images`.
    empty_count : int
        Number of pixels in empty areas; set by `write_images`.
    """

    run_plan: RunPlan
    calibration: Calibration
    unit_results: ResultStore
    image: Any
    outliers: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))
    empty_count: int = 0

    @property
    def _factors(self) -> tuple[int, int]:
        down, right = self.run_plan.task_plan.get_factors("YX")
        return down, right

    def blend_region(self, region: Tile) -> BlendedRegion:
        """Return one region of the blended result.

        Parameters
        ----------
        region : Tile
            The region, in pixels of the image.
        """
        run_plan, axes = self.run_plan, self.run_plan.header.axes
        measurement = region.join_planes(
            to_stack(region.read_pixels(self.image, axes), axes, run_plan.layout)
        )
        result_region = region.upscale(self._factors)
        image, variance, prediction, restored_weight = (
            np.zeros((len(measurement), *size))
            for size in (result_region.size, result_region.size, region.size, result_region.size)
        )
        for tile in run_plan.tiles:
            if not has_overlap(tile, region):
                continue
            name = make_tile_name(tile.index)
            is_restored = self.unit_results.has(name)
            estimates = self.unit_results.open_estimates(name) if is_restored else ()
            region_slices, weight, tile_slices = compute_overlap(
                tile.upscale(self._factors), result_region
            )
            tile_image, tile_deviation = (
                (array[:, *tile_slices] for array in estimates[:2])
                if is_restored
                else self._substitute_input(measurement, region_slices)
            )
            image[:, *region_slices] += weight * tile_image
            variance[:, *region_slices] += weight * tile_deviation**2
            restored_weight[:, *region_slices] += weight * is_restored
            region_slices, weight, tile_slices = compute_overlap(tile, region)
            prediction[:, *region_slices] += weight * (
                estimates[2][:, *tile_slices] if is_restored else measurement[:, *region_slices]
            )
        input_mask = restored_weight == 0
        input_mask[list(self.calibration.constant_channels)] = True
        return BlendedRegion(
            image, np.sqrt(variance), measurement.astype(np.float64), prediction, input_mask
        )

    def write_images(self, shift: FloatArray) -> tuple[MemoryMappedImage | Float32Array, ...]:
        """Write image, uncertainty and residual band by band, and return them in this order.

        Parameters
        ----------
        shift : ndarray
            (C, planes): what to add to each plane, so that the result keeps the mean of the image.
        """
        run_plan = self.run_plan
        result_dtype = np.dtype(
            run_plan.header.dtype if run_plan.recipe.run_settings.dtype == "same" else np.float32
        )
        float_dtype = np.dtype(np.float32)
        images = (
            self.unit_results.allocate_image("picture.raw", run_plan.result_shape, result_dtype),
            self.unit_results.allocate_image("deviation.raw", run_plan.result_shape, float_dtype),
            self.unit_results.allocate_image("residual.raw", run_plan.header.shape, float_dtype),
        )
        for band in self._iter_bands():
            planes = slice(None) if band.z is None else slice(band.z.start, band.z.stop)
            depth = band.size[:-2]
            offset = shift[:, planes].reshape(len(shift), *depth, 1, 1)
            blended, result_band = self.blend_region(band), band.upscale(self._factors)
            image, input_mask = blended.image + offset, blended.input_mask
            task_spec = run_plan.recipe.task.spec
            measurement = blended.measurement[None].astype(np.float32)
            filled = fill_pixels(task_spec, measurement, self.calibration.outlier_limits)
            self.outliers = np.concatenate([self.outliers, filled.outliers])
            residual = filled.stack[0] - blended.prediction - offset
            if task_spec.keeps_pixel_grid:
                is_kept = find_kept_pixels(measurement, filled.stack)[0]
                self.empty_count += int(is_kept.sum()) - len(filled.outliers)
                image = np.where(is_kept, blended.measurement, image)
                input_mask, residual = input_mask | is_kept, np.where(is_kept, 0, residual)
            result_pixels = arrange_axes(run_plan, image, result_band)
            residual[list(self.calibration.constant_channels)] = 0
            array = band.read_pixels(self.image, run_plan.header.axes)
            copied_mask = arrange_axes(run_plan, input_mask, result_band) > 0
            result_slices = result_band.get_slices(run_plan.header.axes)
            images[0][result_slices] = convert_to_input_dtype(
                result_pixels, array, run_plan, copied_mask
            )
            images[1][result_slices] = arrange_axes(run_plan, blended.std, result_band)
            images[2][band.get_slices(run_plan.header.axes)] = arrange_axes(
                run_plan, residual, band
            )
        return images

    def _iter_bands(self) -> Iterator[Tile]:
        height, width = self.run_plan.header.grid
        has_depth = self.run_plan.tiles[0].z is not None
        depth = self.run_plan.header.get_size("Z") if has_depth else 1
        planes = min(MAX_BAND_PLANES, depth)
        result_rows = height * self._factors[0]
        values_per_row = prod(self.run_plan.result_shape) // result_rows // depth * planes
        rows = max(1, MAX_BAND_VALUES // (values_per_row * self._factors[0]))
        for z in range(0, depth, planes):
            for row in range(0, height, rows):
                start = (z, row, 0)
                size = (min(planes, depth - z), min(rows, height - row), width)
                dims = 3 if has_depth else 2
                yield make_tile_without_halo(start[-dims:], size[-dims:])

    def _substitute_input(
        self, measurement: AnyArray, region_slices: tuple[slice, ...]
    ) -> tuple[AnyArray, AnyArray]:
        """Return the upscaled input and its noise: image and std of a missing tile."""
        upscaled = measurement
        for axis, factor in enumerate(self._factors, upscaled.ndim - 2):
            upscaled = np.repeat(upscaled, factor, axis)
        upscaled = upscaled[:, *region_slices]
        stds = [
            np.sqrt(compute_noise_variance(noise, upscaled[c]))
            for c, noise in enumerate(self.calibration.noise)
        ]
        return upscaled, np.stack(stds)


def arrange_axes(plan: ImagePlan, pixels: AnyArray, tile: Tile) -> Float32Array:
    """Return pixels (C, *size) of a region in the image's axes."""
    header = tile.make_header(plan.header)
    stack = tile.split_planes(pixels.astype(np.float32), plan.layout.grid_axes)
    return np.asarray(from_stack(stack, header.axes, header.shape, plan.layout))


def compute_overlap(
    tile: Tile, region: Tile
) -> tuple[tuple[slice, ...], FloatArray, tuple[slice, ...]]:
    """Return the overlap of a tile with a region.

    Returns
    -------
    region_slices : tuple of slice
        The overlap as an index of the region.
    weights : ndarray
        Blending weights of the tile in the overlap.
    tile_slices : tuple of slice
        The overlap as an index of the tile.
    """
    region_slices, tile_slices, weights = [], [], np.ones(())
    for tile_span, region_span in zip(tile.spans, region.spans, strict=True):
        start, stop = max(tile_span.start, region_span.start), min(tile_span.stop, region_span.stop)
        region_slices.append(slice(start - region_span.start, stop - region_span.start))
        tile_slices.append(slice(start - tile_span.start, stop - tile_span.start))
        weights = weights[..., None] * tile_span.compute_weights(start, stop)
    return tuple(region_slices), weights, tuple(tile_slices)


def assemble_restoration(
    regions_image: CalibratedImage,
    blender: TileBlender,
    images: tuple[MemoryMappedImage | Float32Array, ...],
    hashes: Mapping[str, str],
    monitor: RunMonitor,
) -> Restoration:
    """Return the restoration of a tiled image, with a report that is measured on the sample.

    Parameters
    ----------
    regions_image : CalibratedImage
        The sample regions.
    blender : TileBlender
    images : tuple of MemoryMappedImage or ndarray
        Restored image, uncertainty and residual.
    hashes : mapping of str to str
        SHA-256 of each input.
    monitor : RunMonitor
    """
    run_plan, unit_results = regions_image.run_plan, blender.unit_results
    tile_order = list(dict.fromkeys(unit.tile or 0 for unit in run_plan.units if unit.has_estimate))
    names = (JOINT_NAME, *map(make_tile_name, tile_order))
    outcomes = list(chain.from_iterable(map(unit_results.read_outcomes, names)))
    sample_merger = _merge_sample_regions(regions_image, blender, outcomes)
    missing_count = sum(not unit_results.has(make_tile_name(tile.index)) for tile in run_plan.tiles)
    missing_notes = make_unrestored_tiles_notes(missing_count, len(run_plan.tiles))
    restoration = sample_merger.make_restoration(
        monitor.seconds, is_timed_out=monitor.is_timed_out, unrestored_notes=missing_notes
    )
    notes = list(parse_report_notes(restoration.report))
    if len(blender.outliers):
        put_back = run_plan.recipe.task.spec.keeps_pixel_grid
        notes.append(make_outlier_note(blender.outliers, put_back=put_back))
    if blender.empty_count:
        notes.append(make_empty_note(blender.empty_count, run_plan.header.pixel_count))
    if len(run_plan.regions) > 1:
        notes.append(make_note("regions-sampled", count=len(run_plan.regions)))
    header = run_plan.header
    *depth, height, width = find_largest_tile(run_plan.tiles).size
    report: dict[str, Any] = {
        **restoration.report,
        "shape": list(header.shape),
        "axes": header.axes,
        "input_sha256": hashes["image"],
        "extra_inputs_sha256": {name: hashes[name] for name in run_plan.extra_headers},
        "output_sha256": compute_sha256(images[0]),
        "fit": {
            **restoration.report["fit"],
            "scale": None if header.scale is None else list(header.scale),
            "axes": run_plan.layout.grid_axes,
            "units": None if header.units is None else list(header.units),
        },
        **serialise_notes(dict.fromkeys(notes)),
        "tiles": {
            "count": len(run_plan.tiles),
            "height": height,
            "width": width,
            "first": tile_order[0],
            **({"depth": depth[0]} if depth else {}),
        },
    }
    restored, std, residual = (_load_if_small(image) for image in images)
    return replace(
        restoration,
        image=restored,
        uncertainty=std,
        residual=residual,
        report=cast("Report", report),
    )


def _merge_sample_regions(
    regions_image: CalibratedImage, blender: TileBlender, outcomes: list[Any]
) -> ResultMerger:
    """Merge the blended sample regions."""
    # each region lies in one plane: without the Z axis
    blended = [
        BlendedRegion._make(array.reshape(len(array), *array.shape[-2:]) for array in region)
        for region in map(blender.blend_region, regions_image.run_plan.regions)
    ]
    images, stds, measured, predictions, _ = map(np.stack, zip(*blended, strict=True))
    measured, task_spec = measured.astype(np.float32), regions_image.run_plan.recipe.task.spec
    filled = fill_pixels(task_spec, measured, regions_image.calibration.outlier_limits)
    if filled.empty_count:  # each tile was filled in by itself
        images, stds, predictions = (
            fill_empty_areas(measured, values)[0] for values in (images, stds, predictions)
        )
    calibration = replace(regions_image.calibration, filled_count=0)  # counted for the whole image
    merger = ResultMerger(replace(regions_image, calibration=calibration, stack=filled.stack))
    merger.sums[...] = images, images**2, stds**2
    merger.predictions[...] = predictions
    merger.result_counts[...] = 1
    merger.outcomes.extend(outcomes)
    return merger


def _load_if_small(image: MemoryMappedImage | Float32Array) -> AnyArray:
    if isinstance(image, np.ndarray):
        return image
    mapped = image.make_memmap()
    return np.array(mapped) if mapped.nbytes <= MAX_IN_MEMORY_RESULT_BYTES else mapped
