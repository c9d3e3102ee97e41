"""The answer for a picture that was restored in tiles; what is judged is judged on a sample.

From finished tiles to one picture, region by region: nowhere is more of it held than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.pipeline.assess.merge import Merge, as_input, describe_unrestored_tiles
from napari_dip.pipeline.assess.report import sha256
from napari_dip.pipeline.calibrate.grid import outlier_note, without_outliers
from napari_dip.pipeline.calibrate.noise import noise_variance
from napari_dip.pipeline.plan.layout import Layout, join_parts, split_into_parts
from napari_dip.pipeline.plan.tiling import IN_MEMORY, largest
from napari_dip.pipeline.plan.types import Span, Tile
from napari_dip.pipeline.store.tiles import all_outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.execute.clock import Clock
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.store.tiles import Shelf

#: Values of a result that are worked on at a time while it is put together; and how many planes of
#: a stack they lie in, so that its chunks are not unpacked for each plane anew.
MAX_BAND_VALUES, MAX_BAND_PLANES = 2**20, 4


class BlendedRegion(NamedTuple):
    """What is known of a region, (C, *size) each, in the image's units.

    Attributes
    ----------
    picture, deviation : ndarray
        In the result's pixels.
    measured, prediction : ndarray
        In the image's.
    untouched : ndarray of bool
        In the result's pixels, True where it is the image: no tile has a say there.
    """

    picture: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    measured: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.float64]
    untouched: npt.NDArray[np.bool_]


class TileBlender:
    """Blends tiles into each other; where one is missing, the input stands for it.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
        Its noise tells how sure the input is.
    shelf : Shelf
    image : array-like
        In the axes and shape of `plan.source`.

    Attributes
    ----------
    outliers : ndarray
        Values of single pixels that were left out of the fits, once all is written.
    """

    def __init__(self, plan: Plan, calibration: Calibration, shelf: Shelf, image: Any) -> None:
        self._plan = plan
        self._noise = calibration.noise
        self._limits = calibration.outlier_limits
        self.outliers = np.zeros(0, np.float32)
        self._constant = calibration.constant
        self._shelf = shelf
        self._image = image
        down, right = plan.recipe.task.factors("YX")
        self._factors = down, right

    def region(self, place: Tile) -> BlendedRegion:
        """Blend one region, given in the image's pixels."""
        plan, axes = self._plan, self._plan.source.axes
        measured = place.laid(split_into_parts(place.of(self._image, axes), axes, plan.layout))
        fine = place.times(self._factors)
        picture, variance, prediction, say = (
            np.zeros((len(measured), *size))
            for size in (fine.size, fine.size, place.size, fine.size)
        )
        for tile in plan.tiles:
            if not _has_overlap(tile, place):
                continue
            there = self._shelf.there(tile.index)
            inside, weight, part = _compute_overlap(tile.times(self._factors), fine)
            values, doubts = (
                self._shelf.pictures(tile.index)[:, :, *part]
                if there
                else self._as_measured(measured, inside)
            )
            picture[:, *inside] += weight * values
            variance[:, *inside] += weight * doubts**2
            say[:, *inside] += weight * there
            inside, weight, part = _compute_overlap(tile, place)
            prediction[:, *inside] += weight * (
                self._shelf.prediction(tile.index)[:, *part] if there else measured[:, *inside]
            )
        untouched = say == 0
        untouched[list(self._constant)] = True
        return BlendedRegion(
            picture, np.sqrt(variance), measured.astype(np.float64), prediction, untouched
        )

    def written(self, shift: npt.NDArray[np.float64]) -> tuple[MemoryMappedImage | Planes, ...]:
        """Write picture, uncertainty and residual where the shelf has room, band by band.

        Parameters
        ----------
        shift : ndarray
            (C,), what is put back of each channel's mean.
        """
        plan = self._plan
        kind = np.dtype(plan.source.dtype if plan.recipe.common.dtype == "same" else np.float32)
        single = np.dtype(np.float32)
        answer = (
            self._shelf.room("picture.raw", plan.result_shape, kind),
            self._shelf.room("deviation.raw", plan.result_shape, single),
            self._shelf.room("residual.raw", plan.source.shape, single),
        )
        offset = shift.reshape(-1, *[1] * len(plan.tiles[0].spans))
        for band in self._bands():
            found, fine = self.region(band), band.times(self._factors)
            picture, untouched = found.picture + offset, found.untouched
            single_parts = found.measured[None].astype(np.float32)
            usual, values = without_outliers(single_parts, None, self._limits)
            if len(values):
                self.outliers = np.concatenate([self.outliers, values])
                left_out = usual[0] != found.measured
                if plan.recipe.task.same_pixels:
                    picture = np.where(left_out, found.measured, picture)
                    untouched = untouched | left_out
            shown = self._arranged(picture, fine)
            left = usual[0] - found.prediction - offset
            left[list(self._constant)] = 0
            array = band.of(self._image, plan.source.axes)
            same = self._arranged(untouched, fine) > 0
            for whole, part, tile in (
                (answer[0], as_input(shown, array, plan, same), fine),
                (answer[1], self._arranged(found.deviation, fine), fine),
                (answer[2], self._arranged(left, band), band),
            ):
                whole[tile.place(plan.source.axes)] = part
        return answer

    def _bands(self) -> Iterator[Tile]:
        height, width = self._plan.source.grid
        deep = self._plan.tiles[0].z is not None
        depth = self._plan.source.along("Z")[0] if deep else 1
        planes = min(MAX_BAND_PLANES, depth)
        across = prod(self._plan.result_shape) // (height * self._factors[0]) // depth * planes
        rows = max(1, MAX_BAND_VALUES // (across * self._factors[0]))
        for z in range(0, depth, planes):
            levels = Span(z, min(depth, z + planes), z, min(depth, z + planes)) if deep else None
            for first in range(0, height, rows):
                last = min(height, first + rows)
                yield Tile(0, Span(first, last, first, last), Span(0, width, 0, width), levels)

    def _arranged(self, pixels: npt.NDArray[Any], place: Tile) -> npt.NDArray[np.float32]:
        """Bring (C, *size) to the image's axes."""
        source = place.header(self._plan.source)
        parts = place.parted(pixels.astype(np.float32), self._plan.layout.grid)
        return np.asarray(join_parts(parts, source.axes, source.shape, self._plan.layout))

    def _as_measured(
        self, measured: npt.NDArray[Any], inside: tuple[slice, ...]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Let part of a region stand for a tile that is missing, and its noise for the doubt."""
        shown = measured
        for axis, factor in enumerate(self._factors, shown.ndim - 2):
            shown = np.repeat(shown, factor, axis)
        shown = shown[:, *inside]
        doubt = [np.sqrt(noise_variance(one, shown[c])) for c, one in enumerate(self._noise)]
        return shown, np.stack(doubt)


def _has_overlap(tile: Tile, place: Tile) -> bool:
    return all(
        one.start < other.stop and other.start < one.stop
        for one, other in zip(tile.spans, place.spans, strict=True)
    )


def _compute_overlap(
    tile: Tile, place: Tile
) -> tuple[tuple[slice, ...], npt.NDArray[np.float64], tuple[slice, ...]]:
    """Give what tile and region share: where in either, and the tile's weights, between them."""
    inside, part, weights = [], [], np.ones(())
    for one, other in zip(tile.spans, place.spans, strict=True):
        start, stop = max(one.start, other.start), min(one.stop, other.stop)
        inside.append(slice(start - other.start, stop - other.start))
        part.append(slice(start - one.start, stop - one.start))
        weights = weights[..., None] * one.weights(start, stop)
    return tuple(inside), weights, tuple(part)


#: Note on a run.
SAMPLED = "What is said of residual, detail and intensity was measured on {count} regions of it."


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
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


def reported(
    ready: Measured,
    blend: TileBlender,
    shelf: Shelf,
    written: tuple[MemoryMappedImage | Planes, ...],
    clock: Clock,
) -> Restoration:
    """Put the answer together.

    Parameters
    ----------
    ready : Measured
    blend : Blend
    shelf : Shelf
    written : tuple of OnDisk or ndarray
        Picture, uncertainty and residual of the whole.
    clock : Clock
    """
    plan, regions = ready.plan, ready.regions
    order = list(dict.fromkeys(unit.tile or 0 for unit in plan.units if unit.pictured))
    judged = _judged(ready, blend, all_outcomes(shelf, order))
    left = sum(not shelf.there(tile.index) for tile in plan.tiles)
    untouched = describe_unrestored_tiles(left, len(plan.tiles))
    answer = judged.restoration(clock.seconds, timed_out=clock.timed_out, untouched=untouched)
    report = dict(answer.report)
    *deep, height, width = largest(plan.tiles).size
    notes = list(report["notes"])
    if len(blend.outliers):
        notes.append(outlier_note(blend.outliers, put_back=plan.recipe.task.same_pixels))
    if len(regions) > 1:
        notes.append(SAMPLED.format(count=len(regions)))
    picture, deviation, residual = (_handed_over(one) for one in written)
    report |= {
        "shape": list(plan.source.shape),
        "axes": plan.source.axes,
        "input_sha256": ready.hashes["image"],
        "output_sha256": sha256(written[0]),
        "notes": list(dict.fromkeys(notes)),
        "tiles": {"count": len(plan.tiles), "height": height, "width": width, "first": order[0]}
        | ({"depth": deep[0]} if deep else {}),
    }
    scale = plan.source.scale
    report["fit"] = {**report["fit"], "scale": None if scale is None else list(scale)}
    report["fit"]["axes"] = plan.layout.grid
    report["fit"]["units"] = None if plan.source.units is None else list(plan.source.units)
    return replace(answer, image=picture, uncertainty=deviation, residual=residual, report=report)


def _judged(ready: Measured, blend: TileBlender, outcomes: list[Any]) -> Merge:
    """Merge the regions as if they were frames of a movie."""
    plan, sample = ready.plan, ready.sample
    source = replace(
        plan.source,
        shape=sample.shape,
        axes="T" + plan.source.axes,
        scale=None,
        units=None,
    )
    planes = "".join(axis for axis in "Z" if axis in plan.source.axes)
    layout = Layout("T" + planes, plan.layout.channels, "YX")
    found = [_flat(blend.region(region)) for region in ready.regions]
    measured = np.stack([one.measured for one in found]).astype(np.float32)
    parts, _ = without_outliers(measured, None, ready.calibration.outlier_limits)
    calibration = replace(ready.calibration, outliers=0)  # they are put back into the whole
    merge = Merge(replace(plan, source=source, layout=layout), calibration, parts, sample)
    merge.sums[0] = [one.picture for one in found]
    merge.sums[1] = merge.sums[0] ** 2
    merge.sums[2] = [one.deviation**2 for one in found]
    merge.predictions[...] = [one.prediction for one in found]
    merge.count[...] = 1
    merge.outcomes.extend(outcomes)
    return merge


def _flat(region: BlendedRegion) -> BlendedRegion:
    """Give a region of one plane without its depth, (C, Y, X)."""
    return BlendedRegion._make(one.reshape(len(one), *one.shape[-2:]) for one in region)


def _handed_over(whole: MemoryMappedImage | Planes) -> npt.NDArray[Any]:
    if isinstance(whole, np.ndarray):
        return whole
    mapped = whole.mapped()
    return np.array(mapped) if mapped.nbytes <= IN_MEMORY else mapped
