"""Frames of a movie laid onto each other: what the ones beside show of the place of a pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.tasks.guide import is_far, is_near, phase_correlate, shift_image

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Drift:
    """How a frame is laid onto another.

    Attributes
    ----------
    shift : tuple of float
        Pixels along each axis of the grid; all 0 where none was sure.
    """

    shift: tuple[float, ...]

    def apply(self, channels: Planes) -> Planes:
        """Move (C, *grid)."""
        if not any(self.shift):
            return channels
        return np.stack([shift_image(channel, self.shift) for channel in channels])

    def invert(self) -> Drift:
        """Give the way back."""
        return Drift(shift=tuple(-item for item in self.shift))

    def rescale(self, grid: tuple[int, ...], result: tuple[int, ...]) -> Drift:
        """Give the same drift in pixels of a result that is finer than the frames."""
        sizes = zip(self.shift, grid, result, strict=True)
        return Drift(shift=tuple(shift * more / few for shift, few, more in sizes))

    def make_visible_mask(self, grid: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Give 1 where the moved frame shows something, not only its continued border: (*grid)."""
        visible = np.ones(grid, np.float32)
        for axis, (shift, side) in enumerate(zip(self.shift, grid, strict=True)):
            line = np.arange(side) - shift
            inside = ((line > -0.5) & (line < side - 0.5)).astype(np.float32)
            visible *= inside.reshape(-1, *[1] * (len(grid) - axis - 1))
        return visible


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
    here, moving = (_sum_channels(calibration, parts[number]) for number in (frame, other))
    still = Drift(shift=(0.0,) * here.ndim)
    shift = phase_correlate(here, moving)
    if is_near(shift) or is_far(shift, here.shape):
        return still
    drift = Drift(shift=shift)
    from skimage.filters import gaussian

    here, moving = (
        gaussian(item, COMPARISON_BLUR_SIGMA, mode="nearest")  # type: ignore[no-untyped-call]
        for item in (here, moving)
    )
    gain = (here - moving) ** 2 - (here - drift.apply(moving[None])[0]) ** 2
    witnesses = _average_plane_blocks(gain * drift.make_visible_mask(here.shape))
    error = float(witnesses.std()) / max(1, witnesses.size - 1) ** 0.5
    return drift if float(witnesses.mean()) > MIN_SHIFT_STANDARD_ERRORS * error else still


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourFrames:
    """What other frames show of a unit's, laid onto it, in the image's units.

    Attributes
    ----------
    neighbours : ndarray or None
        (2 C, *grid): the noisy frames, or planes of a stack, before and after. At either end the
        one neighbour stands for both.
    previous_picture, previous_deviation : ndarray or None
        (C, *grid): what was restored of the frame before, and its standard deviation.
    previous_mask : ndarray or None
        (*grid), 1 where the frame before showed the place.
    """

    neighbours: Planes | None = None
    previous_picture: Planes | None = None
    previous_deviation: Planes | None = None
    previous_mask: Planes | None = None


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
    merge : ResultMerger
        What is restored so far. A checkpoint holds it: a run that is resumed sees the same.
    """

    def __init__(
        self, task: Task, calibration: Calibration, parts: Planes, merge: ResultMerger
    ) -> None:
        self._task = task
        self._calibration = calibration
        self._stack = parts
        self._merge = merge
        self._drifts: dict[tuple[int, int], Drift] = {}

    def get_neighbour_frames(self, unit: WorkUnit, prior: str) -> NeighbourFrames:
        """Lay onto a unit's frame what the task wants to show that prior of others."""
        parts, channels = self._stack, list(unit.channels)
        frames = NeighbourFrames()
        if self._task.looks_beside(prior) and unit.list_neighbours:
            aligned = [
                self._get_drift(unit, neighbour).apply(parts[neighbour, channels])
                for neighbour in unit.list_neighbours
            ]
            frames = replace(frames, neighbours=np.concatenate([aligned[0], aligned[-1]]))
        if self._uses_previous_frame(unit) and unit.previous_part is not None:
            picture, deviation = self._merge.get_finished_part(unit.previous_part, channels)
            drift = self._get_drift(unit, unit.previous_part).rescale(
                parts.shape[2:], picture.shape[1:]
            )
            frames = replace(
                frames,
                previous_picture=drift.apply(picture),
                previous_deviation=np.abs(drift.apply(deviation)),
                previous_mask=drift.make_visible_mask(picture.shape[1:]),
            )
        return frames

    def _uses_previous_frame(self, unit: WorkUnit) -> bool:
        """Whether a unit is drawn to the picture of the frame before it."""
        has_previous = unit.has_time_neighbours and unit.has_estimate and not unit.is_segment_start
        return has_previous and self._task.looks_back()

    def _get_drift(self, unit: WorkUnit, other: int) -> Drift:
        """Find out once how two frames lie to each other; planes of a stack lie where they lie."""
        if not unit.has_time_neighbours:
            return Drift(shift=(0.0,) * (self._stack.ndim - 2))
        earlier, later = sorted((unit.part, other))
        if (earlier, later) not in self._drifts:
            estimate = estimate_drift(self._calibration, self._stack, later, earlier)
            self._drifts[earlier, later] = estimate
        drift = self._drifts[earlier, later]
        return drift if unit.part == later else drift.invert()


def _sum_channels(calibration: Calibration, part: Planes) -> npt.NDArray[np.float64]:
    """Sum the channels that show anything, each in units of its range: (*grid)."""
    varied = [c for c in range(len(part)) if c not in calibration.constant_channels]
    scale = np.reshape([calibration.scale[c] for c in varied], (-1, *[1] * (part.ndim - 1)))
    return np.asarray((part[varied] / scale).sum(0), np.float64)


def _average_plane_blocks(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over blocks of the picture plane, what is left over at the border included."""
    for axis in (-2, -1):
        starts = np.arange(0, picture.shape[axis], INDEPENDENT_BLOCK_SIDE)
        counts = np.diff(np.append(starts, picture.shape[axis]))
        sums = np.add.reduceat(picture, starts, axis=axis)
        picture = sums / (counts[:, None] if axis == -2 else counts)
    return picture.ravel()
