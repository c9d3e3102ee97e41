"""Frames of a movie laid onto each other: what the ones beside show of the place of a pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.tasks.guide import is_far, is_near, phase_correlate, shift_image

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.pipeline.assess.merge import Merge
    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.plan.types import WorkUnit
    from napari_dip.tasks import Task

#: Standard deviation of the blur under which two frames are compared, in pixels: an interpolation
#: between pixels takes noise away, and would win the comparison by that alone.
COMPARISON_BLUR_SIGMA = 2.0
#: Side of the blocks that count as one witness each: beyond them, blurred noise is independent.
INDEPENDENT_BLOCK_SIDE = 8
#: Standard errors by which a shift must make two frames more alike to be believed: where nothing
#: has moved, one shift in forty is believed by chance, and it is a small one then.
MIN_SHIFT_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """How a frame is laid onto another.

    Attributes
    ----------
    shift : tuple of float
        Pixels along each axis of the grid; all 0 where none was sure.
    """

    shift: tuple[float, ...]

    def lay(self, channels: Planes) -> Planes:
        """Move (C, *grid)."""
        if not any(self.shift):
            return channels
        return np.stack([shift_image(one, self.shift) for one in channels])

    def back(self) -> Drift:
        """Give the way back."""
        return Drift(tuple(-one for one in self.shift))

    def finer(self, grid: tuple[int, ...], result: tuple[int, ...]) -> Drift:
        """Give the same drift in pixels of a result that is finer than the frames."""
        sizes = zip(self.shift, grid, result, strict=True)
        return Drift(tuple(shift * more / few for shift, few, more in sizes))

    def seen(self, grid: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Give 1 where the moved frame shows something, not only its continued border: (*grid)."""
        seen = np.ones(grid, np.float32)
        for axis, (shift, side) in enumerate(zip(self.shift, grid, strict=True)):
            line = np.arange(side) - shift
            inside = ((line > -0.5) & (line < side - 0.5)).astype(np.float32)
            seen *= inside.reshape(-1, *[1] * (len(grid) - axis - 1))
        return seen


def estimate_drift(calibration: Calibration, parts: Planes, frame: int, other: int) -> Drift:
    """Find out how frame `other` is laid onto `frame`: moved as a whole, or not at all.

    A shift is believed if it is at most a tenth of the side, and if it makes the two frames, a
    little blurred, more alike by twice the standard error of that over blocks of 8 x 8 pixels.

    Parameters
    ----------
    calibration : Calibration
    parts : ndarray
        (parts, C, *grid).
    frame, other : int
        Numbers of parts.
    """
    here, there = (_sum_channels(calibration, parts[number]) for number in (frame, other))
    still = Drift((0.0,) * here.ndim)
    shift = phase_correlate(here, there)
    if is_near(shift) or is_far(shift, here.shape):
        return still
    drift = Drift(shift)
    from skimage.filters import gaussian

    here, there = (
        gaussian(one, COMPARISON_BLUR_SIGMA, mode="nearest")  # type: ignore[no-untyped-call]
        for one in (here, there)
    )
    gain = (here - there) ** 2 - (here - drift.lay(there[None])[0]) ** 2
    witnesses = _average_plane_blocks(gain * drift.seen(here.shape))
    error = float(witnesses.std()) / max(1, witnesses.size - 1) ** 0.5
    return drift if float(witnesses.mean()) > MIN_SHIFT_STANDARD_ERRORS * error else still


@dataclass(frozen=True, slots=True)
class NeighbourFrames:
    """What other frames show of a unit's, laid onto it, in the image's units.

    Attributes
    ----------
    beside : ndarray or None
        (2 C, *grid): the noisy frames, or planes of a stack, before and after. At either end the
        one neighbour stands for both.
    picture, deviation : ndarray or None
        (C, *grid): what was restored of the frame before, and its standard deviation.
    seen : ndarray or None
        (*grid), 1 where the frame before showed the place.
    """

    beside: Planes | None = None
    picture: Planes | None = None
    deviation: Planes | None = None
    seen: Planes | None = None


#: Those of a picture that is no part of a stack or movie.
NO_NEIGHBOUR_FRAMES = NeighbourFrames()


class Movie:
    """The parts of a stack or movie, and what they show of each other.

    Parameters
    ----------
    task : Task
    calibration : Calibration
    parts : ndarray
        (parts, C, *grid), in the image's units.
    merge : Merge
        What is restored so far. A checkpoint holds it: a run that is resumed sees the same.
    """

    def __init__(self, task: Task, calibration: Calibration, parts: Planes, merge: Merge) -> None:
        self._task = task
        self._calibration = calibration
        self._parts = parts
        self._merge = merge
        self._drifts: dict[tuple[int, int], Drift] = {}

    def around(self, unit: WorkUnit, prior: str) -> NeighbourFrames:
        """Lay onto a unit's frame what the task wants to show that prior of others."""
        parts, channels = self._parts, list(unit.channels)
        frames = NeighbourFrames()
        if self._task.looks_beside(prior) and unit.beside:
            there = [self._drift(unit, one).lay(parts[one, channels]) for one in unit.beside]
            frames = replace(frames, beside=np.concatenate([there[0], there[-1]]))
        if self._looks_back(unit) and unit.before is not None:
            picture, deviation = self._merge.finished(unit.before, channels)
            drift = self._drift(unit, unit.before).finer(parts.shape[2:], picture.shape[1:])
            frames = replace(
                frames,
                picture=drift.lay(picture),
                deviation=np.abs(drift.lay(deviation)),
                seen=drift.seen(picture.shape[1:]),
            )
        return frames

    def _looks_back(self, unit: WorkUnit) -> bool:
        """Whether a unit is drawn to the picture of the frame before it."""
        there = unit.timely and unit.pictured and not unit.opens
        return there and self._task.looks_back()

    def _drift(self, unit: WorkUnit, other: int) -> Drift:
        """Find out once how two frames lie to each other; planes of a stack lie where they lie."""
        if not unit.timely:
            return Drift((0.0,) * (self._parts.ndim - 2))
        earlier, later = sorted((unit.part, other))
        if (earlier, later) not in self._drifts:
            found = estimate_drift(self._calibration, self._parts, later, earlier)
            self._drifts[earlier, later] = found
        drift = self._drifts[earlier, later]
        return drift if unit.part == later else drift.back()


def _sum_channels(calibration: Calibration, part: Planes) -> npt.NDArray[np.float64]:
    """Sum the channels that show anything, each in units of its range: (*grid)."""
    shown = [c for c in range(len(part)) if c not in calibration.constant]
    scale = np.reshape([calibration.scale[c] for c in shown], (-1, *[1] * (part.ndim - 1)))
    return np.asarray((part[shown] / scale).sum(0), np.float64)


def _average_plane_blocks(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over blocks of the picture plane, what is left over at the border included."""
    for axis in (-2, -1):
        starts = np.arange(0, picture.shape[axis], INDEPENDENT_BLOCK_SIDE)
        counts = np.diff(np.append(starts, picture.shape[axis]))
        sums = np.add.reduceat(picture, starts, axis=axis)
        picture = sums / (counts[:, None] if axis == -2 else counts)
    return picture.ravel()
