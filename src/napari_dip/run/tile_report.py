"""The answer for a picture that was restored in tiles; what is judged is judged on a sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.run.blend import Region
from napari_dip.run.ended_early import untouched_tiles
from napari_dip.run.layout import Layout
from napari_dip.run.merge import Merge
from napari_dip.run.outliers import outlier_note, without_outliers
from napari_dip.run.receipt import sha256
from napari_dip.run.shelf import all_outcomes
from napari_dip.run.tiles import largest
from napari_dip.run.tiling import IN_MEMORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.io.regions import OnDisk
    from napari_dip.run.blend import Blend
    from napari_dip.run.clock import Clock
    from napari_dip.run.events import Restoration
    from napari_dip.run.inputs import Planes
    from napari_dip.run.plan import Plan
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.shelf import Shelf
    from napari_dip.run.tiles import Tile

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
    ready: Measured, blend: Blend, shelf: Shelf, written: tuple[OnDisk | Planes, ...], clock: Clock
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
    untouched = untouched_tiles(left, len(plan.tiles))
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


def _judged(ready: Measured, blend: Blend, outcomes: list[Any]) -> Merge:
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


def _flat(region: Region) -> Region:
    """Give a region of one plane without its depth, (C, Y, X)."""
    return Region._make(one.reshape(len(one), *one.shape[-2:]) for one in region)


def _handed_over(whole: OnDisk | Planes) -> npt.NDArray[Any]:
    if isinstance(whole, np.ndarray):
        return whole
    mapped = whole.mapped()
    return np.array(mapped) if mapped.nbytes <= IN_MEMORY else mapped
