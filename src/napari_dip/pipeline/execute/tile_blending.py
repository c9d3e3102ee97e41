"""The answer for a picture that was restored in tiles; what is judged is judged on a sample.

From finished tiles to one picture, region by region: nowhere is more of it held than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.errors.notes import make_note, read_report_notes, report_notes
from napari_dip.pipeline.assess.merge import (
    ResultMerger,
    convert_to_input_dtype,
    describe_unrestored_tiles,
)
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.resolution_and_outliers import fill_outliers, make_outlier_note
from napari_dip.pipeline.plan.layout import Layout, join_parts, split_into_parts
from napari_dip.pipeline.plan.tiling import MAX_IN_MEMORY_RESULT_BYTES, find_largest_tile
from napari_dip.pipeline.plan.types import Span, Tile
from napari_dip.pipeline.store.tile_results import list_tile_outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.execute.clock import RunClock
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.store.tile_results import TileFolder

#: Values of a result that are worked on at a time while it is put together; and how many planes of
#: a stack they lie in, so that its chunks are not unpacked for each plane anew.
MAX_BAND_VALUES, MAX_BAND_PLANES = 2**20, 4


class BlendedRegion(NamedTuple):
    """What is known of a region, (C, *size) each, in the image's units.

    Attributes
    ----------
    picture, deviation : ndarray
        In the result's pixels.
    measurement, prediction : ndarray
        In the image's.
    input_mask : ndarray of bool
        In the result's pixels, True where it is the image: no tile has a say there.
    """

    picture: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    measurement: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.float64]
    input_mask: npt.NDArray[np.bool_]


class TileBlender:
    """Blends tiles into each other; where one is missing, the input stands for it.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
        Its noise tells how sure the input is.
    shelf : TileFolder
    image : array-like
        In the axes and shape of `plan.source`.

    Attributes
    ----------
    outliers : ndarray
        Values of single pixels that were left out of the fits, once all is written.
    """

    def __init__(self, plan: Plan, calibration: Calibration, shelf: TileFolder, image: Any) -> None:
        self._plan = plan
        self._noise = calibration.noise
        self._outlier_limits = calibration.outlier_limits
        self.outliers = np.zeros(0, np.float32)
        self._constant_channels = calibration.constant_channels
        self._tile_folder = shelf
        self._image = image
        down, right = plan.recipe.task.factors("YX")
        self._factors = down, right

    def blend_region(self, place: Tile) -> BlendedRegion:
        """Blend one region, given in the image's pixels."""
        plan, axes = self._plan, self._plan.source.axes
        measured = place.join_planes(
            split_into_parts(place.read_pixels(self._image, axes), axes, plan.layout)
        )
        fine = place.upscale(self._factors)
        picture, variance, prediction, say = (
            np.zeros((len(measured), *size))
            for size in (fine.size, fine.size, place.size, fine.size)
        )
        for tile in plan.tiles:
            if not _has_overlap(tile, place):
                continue
            is_restored = self._tile_folder.has_tile(tile.index)
            inside, weight, part = _compute_overlap(tile.upscale(self._factors), fine)
            values, doubts = (
                self._tile_folder.open_estimates(tile.index)[:, :, *part]
                if is_restored
                else self._substitute_input(measured, inside)
            )
            picture[:, *inside] += weight * values
            variance[:, *inside] += weight * doubts**2
            say[:, *inside] += weight * is_restored
            inside, weight, part = _compute_overlap(tile, place)
            prediction[:, *inside] += weight * (
                self._tile_folder.open_prediction(tile.index)[:, *part]
                if is_restored
                else measured[:, *inside]
            )
        untouched = say == 0
        untouched[list(self._constant_channels)] = True
        return BlendedRegion(
            picture, np.sqrt(variance), measured.astype(np.float64), prediction, untouched
        )

    def write_images(
        self, shift: npt.NDArray[np.float64]
    ) -> tuple[MemoryMappedImage | Planes, ...]:
        """Write picture, uncertainty and residual where the shelf has room, band by band.

        Parameters
        ----------
        shift : ndarray
            (C,), what is put back of each channel's mean.
        """
        plan = self._plan
        kind = np.dtype(
            plan.source.dtype if plan.recipe.run_settings.dtype == "same" else np.float32
        )
        single = np.dtype(np.float32)
        answer = (
            self._tile_folder.allocate_image("picture.raw", plan.result_shape, kind),
            self._tile_folder.allocate_image("deviation.raw", plan.result_shape, single),
            self._tile_folder.allocate_image("residual.raw", plan.source.shape, single),
        )
        offset = shift.reshape(-1, *[1] * len(plan.tiles[0].spans))
        for band in self._iter_bands():
            blended, fine = self.blend_region(band), band.upscale(self._factors)
            picture, untouched = blended.picture + offset, blended.input_mask
            single_parts = blended.measurement[None].astype(np.float32)
            usual, values = fill_outliers(single_parts, None, self._outlier_limits)
            if len(values):
                self.outliers = np.concatenate([self.outliers, values])
                left_out = usual[0] != blended.measurement
                if plan.recipe.task.same_pixels:
                    picture = np.where(left_out, blended.measurement, picture)
                    untouched = untouched | left_out
            result = self._arrange_axes(picture, fine)
            residual = usual[0] - blended.prediction - offset
            residual[list(self._constant_channels)] = 0
            array = band.read_pixels(self._image, plan.source.axes)
            same = self._arrange_axes(untouched, fine) > 0
            for whole, part, tile in (
                (answer[0], convert_to_input_dtype(result, array, plan, same), fine),
                (answer[1], self._arrange_axes(blended.deviation, fine), fine),
                (answer[2], self._arrange_axes(residual, band), band),
            ):
                whole[tile.get_slices(plan.source.axes)] = part
        return answer

    def _iter_bands(self) -> Iterator[Tile]:
        height, width = self._plan.source.grid
        deep = self._plan.tiles[0].z is not None
        depth = self._plan.source.along("Z")[0] if deep else 1
        planes = min(MAX_BAND_PLANES, depth)
        across = prod(self._plan.result_shape) // (height * self._factors[0]) // depth * planes
        rows = max(1, MAX_BAND_VALUES // (across * self._factors[0]))
        for z in range(0, depth, planes):
            levels = (
                Span(
                    start=z,
                    stop=min(depth, z + planes),
                    core_start=z,
                    core_stop=min(depth, z + planes),
                )
                if deep
                else None
            )
            for first in range(0, height, rows):
                last = min(height, first + rows)
                yield Tile(
                    index=0,
                    y=Span(start=first, stop=last, core_start=first, core_stop=last),
                    x=Span(start=0, stop=width, core_start=0, core_stop=width),
                    z=levels,
                )

    def _arrange_axes(self, pixels: npt.NDArray[Any], place: Tile) -> npt.NDArray[np.float32]:
        """Bring (C, *size) to the image's axes."""
        source = place.make_header(self._plan.source)
        parts = place.split_planes(pixels.astype(np.float32), self._plan.layout.grid)
        return np.asarray(join_parts(parts, source.axes, source.shape, self._plan.layout))

    def _substitute_input(
        self, measured: npt.NDArray[Any], inside: tuple[slice, ...]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Let part of a region stand for a tile that is missing, and its noise for the doubt."""
        upscaled = measured
        for axis, factor in enumerate(self._factors, upscaled.ndim - 2):
            upscaled = np.repeat(upscaled, factor, axis)
        upscaled = upscaled[:, *inside]
        doubt = [
            np.sqrt(compute_noise_variance(item, upscaled[c])) for c, item in enumerate(self._noise)
        ]
        return upscaled, np.stack(doubt)


def _has_overlap(tile: Tile, place: Tile) -> bool:
    return all(
        item.start < other.stop and other.start < item.stop
        for item, other in zip(tile.spans, place.spans, strict=True)
    )


def _compute_overlap(
    tile: Tile, place: Tile
) -> tuple[tuple[slice, ...], npt.NDArray[np.float64], tuple[slice, ...]]:
    """Give what tile and region share: where in either, and the tile's weights, between them."""
    inside, part, weights = [], [], np.ones(())
    for item, other in zip(tile.spans, place.spans, strict=True):
        start, stop = max(item.start, other.start), min(item.stop, other.stop)
        inside.append(slice(start - other.start, stop - other.start))
        part.append(slice(start - item.start, stop - item.start))
        weights = weights[..., None] * item.compute_weights(start, stop)
    return tuple(inside), weights, tuple(part)


#: Note on a run.


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TileCalibration:
    """What is known of a picture before any tile is restored.

    Attributes
    ----------
    plan : Plan
        With the tiles that it will be, the first one first.
    calibration : Calibration
    regions : tuple of Tile
        That stand for the whole.
    sample : ndarray
        These as they came, with an axis before the image's own.
    hashes : mapping of str to str
        Of all inputs.
    """

    plan: Plan
    calibration: Calibration
    regions: tuple[Tile, ...]
    sample: npt.NDArray[Any]
    hashes: Mapping[str, str]


def assemble_restoration(
    prepared: TileCalibration,
    blend: TileBlender,
    shelf: TileFolder,
    written: tuple[MemoryMappedImage | Planes, ...],
    clock: RunClock,
) -> Restoration:
    """Put the answer together.

    Parameters
    ----------
    prepared : TileCalibration
    blend : TileBlender
    shelf : TileFolder
    written : tuple of MemoryMappedImage or ndarray
        Picture, uncertainty and residual of the whole.
    clock : RunClock
    """
    plan, regions = prepared.plan, prepared.regions
    order = list(dict.fromkeys(unit.tile or 0 for unit in plan.units if unit.has_estimate))
    judged = _merge_sample_regions(prepared, blend, list_tile_outcomes(shelf, order))
    missing_count = sum(not shelf.has_tile(tile.index) for tile in plan.tiles)
    untouched = describe_unrestored_tiles(missing_count, len(plan.tiles))
    answer = judged.make_restoration(clock.seconds, timed_out=clock.timed_out, untouched=untouched)
    report = dict(answer.report)
    *deep, height, width = find_largest_tile(plan.tiles).size
    notes = list(read_report_notes(report))
    if len(blend.outliers):
        notes.append(make_outlier_note(blend.outliers, put_back=plan.recipe.task.same_pixels))
    if len(regions) > 1:
        notes.append(make_note("regions-sampled", count=len(regions)))
    picture, deviation, residual = (_load_if_small(item) for item in written)
    report |= {
        "shape": list(plan.source.shape),
        "axes": plan.source.axes,
        "input_sha256": prepared.hashes["image"],
        "output_sha256": compute_sha256(written[0]),
        **report_notes(dict.fromkeys(notes)),
        "tiles": {"count": len(plan.tiles), "height": height, "width": width, "first": order[0]}
        | ({"depth": deep[0]} if deep else {}),
    }
    scale = plan.source.scale
    report["fit"] = {**report["fit"], "scale": None if scale is None else list(scale)}
    report["fit"]["axes"] = plan.layout.grid
    report["fit"]["units"] = None if plan.source.units is None else list(plan.source.units)
    return replace(answer, image=picture, uncertainty=deviation, residual=residual, report=report)


def _merge_sample_regions(
    prepared: TileCalibration, blend: TileBlender, outcomes: list[Any]
) -> ResultMerger:
    """Merge the regions as if they were frames of a movie."""
    plan, sample = prepared.plan, prepared.sample
    source = replace(
        plan.source,
        shape=sample.shape,
        axes="T" + plan.source.axes,
        scale=None,
        units=None,
    )
    planes = "".join(axis for axis in "Z" if axis in plan.source.axes)
    layout = Layout(parts="T" + planes, channels=plan.layout.channels, grid="YX")
    blended = [_drop_region_depth(blend.blend_region(region)) for region in prepared.regions]
    measured = np.stack([item.measurement for item in blended]).astype(np.float32)
    parts, _ = fill_outliers(measured, None, prepared.calibration.outlier_limits)
    calibration = replace(prepared.calibration, outlier_count=0)  # they are put back into the whole
    merge = ResultMerger(replace(plan, source=source, layout=layout), calibration, parts, sample)
    merge.sums[0] = [item.picture for item in blended]
    merge.sums[1] = merge.sums[0] ** 2
    merge.sums[2] = [item.deviation**2 for item in blended]
    merge.predictions[...] = [item.prediction for item in blended]
    merge.count[...] = 1
    merge.outcomes.extend(outcomes)
    return merge


def _drop_region_depth(region: BlendedRegion) -> BlendedRegion:
    """Give a region of one plane without its depth, (C, Y, X)."""
    return BlendedRegion._make(item.reshape(len(item), *item.shape[-2:]) for item in region)


def _load_if_small(whole: MemoryMappedImage | Planes) -> npt.NDArray[Any]:
    if isinstance(whole, np.ndarray):
        return whole
    mapped = whole.mapped()
    return np.array(mapped) if mapped.nbytes <= MAX_IN_MEMORY_RESULT_BYTES else mapped
