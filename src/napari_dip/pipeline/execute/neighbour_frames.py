"""Register the frames of a movie, and provide neighbouring and previous frames to a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_dip.io.writing import average_blocks
from napari_dip.tasks.guide import (
    is_shift_negligible,
    is_shift_too_large,
    phase_correlate,
    shift_image,
)
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from napari_dip.io import Float32Array, FloatArray
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration
    from napari_dip.pipeline.plan.types import WorkUnit

#: Standard deviation of the blur before two frames are compared, in pixels. Interpolation reduces
#: noise, so without blur a shifted frame would always compare better.
COMPARISON_BLUR_SIGMA = 2.0
#: Side of the blocks whose means are taken as independent samples, in pixels. Blurred noise is
#: uncorrelated over larger distances.
INDEPENDENT_BLOCK_SIDE = 8
#: Standard errors by which a shift must reduce the difference of two frames to be accepted. Without
#: motion, one shift in forty is accepted by chance, and such shifts are small.
MIN_SHIFT_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Drift:
    """Shift that registers one frame onto another.

    Attributes
    ----------
    shift : tuple of float
        Pixels along each axis of the grid; all 0 if no shift was accepted.
    """

    shift: tuple[float, ...]

    def apply(self, channels: Float32Array) -> Float32Array:
        """Return the channels (C, *grid), shifted."""
        if not any(self.shift):
            return channels
        return np.stack([shift_image(channel, self.shift) for channel in channels])

    def invert(self) -> Drift:
        """Return the opposite shift."""
        return Drift(shift=tuple(-component for component in self.shift))

    def rescale(self, grid: tuple[int, ...], new_grid: tuple[int, ...]) -> Drift:
        """Return the same shift in pixels of another grid.

        Parameters
        ----------
        grid : tuple of int
            Size of the frames.
        new_grid : tuple of int
            Size of the grid in whose pixels the shift is returned.
        """
        sizes = zip(self.shift, grid, new_grid, strict=True)
        return Drift(
            shift=tuple(shift * new_size / old_size for shift, old_size, new_size in sizes)
        )

    def make_visible_mask(self, grid: tuple[int, ...]) -> Float32Array:
        """Return a mask (*grid): 1 inside the shifted frame, 0 where its border is extended."""
        visible = np.ones(grid, np.float32)
        for axis, (shift, side) in enumerate(zip(self.shift, grid, strict=True)):
            source_position = np.arange(side) - shift
            inside = ((source_position > -0.5) & (source_position < side - 0.5)).astype(np.float32)
            visible *= inside.reshape(-1, *[1] * (len(grid) - axis - 1))
        return visible


def estimate_drift(calibrated_image: CalibratedImage, frame: int, other: int) -> Drift:
    """Estimate the shift that registers frame `other` onto `frame`.

    A shift is accepted if it is at most a tenth of the side and reduces the difference of the two
    blurred frames. The reduction must exceed twice its standard error over blocks of 8 x 8 pixels.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    frame, other : int
        Indices of items.
    """
    fixed, moving = (
        _sum_channels(calibrated_image.calibration, calibrated_image.list_frame_stacks()[0][item])
        for item in (frame, other)
    )
    no_drift = Drift(shift=(0.0,) * fixed.ndim)
    shift = phase_correlate(fixed, moving)
    if is_shift_negligible(shift) or is_shift_too_large(shift, fixed.shape):
        return no_drift
    drift = Drift(shift=shift)
    from skimage.filters import gaussian

    fixed, moving = (
        gaussian(image, COMPARISON_BLUR_SIGMA, mode="nearest")  # type: ignore[no-untyped-call]
        for image in (fixed, moving)
    )
    error_reduction = (fixed - moving) ** 2 - (fixed - drift.apply(moving[None])[0]) ** 2
    factors = (*(1,) * (fixed.ndim - 2), INDEPENDENT_BLOCK_SIDE, INDEPENDENT_BLOCK_SIDE)
    block_reductions = average_blocks(
        error_reduction * drift.make_visible_mask(fixed.shape), factors
    )
    error = float(block_reductions.std()) / max(1, block_reductions.size - 1) ** 0.5
    return drift if float(block_reductions.mean()) > MIN_SHIFT_STANDARD_ERRORS * error else no_drift


class RegisteredFrame(NamedTuple):
    """The restored previous frame, registered onto the frame of a work unit.

    Attributes
    ----------
    image, std : ndarray
        (C, *grid): the frame and its standard deviation.
    mask : ndarray
        (*grid): 1 where the previous frame covers this one.
    """

    image: Float32Array
    std: Float32Array
    mask: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourFrames:
    """Other frames, registered onto the frame of a work unit, in the image's units.

    Attributes
    ----------
    neighbours : ndarray or None
        (B, 2 C, *grid): the noisy frames, or planes of a Z stack, before and after, in all
        exposures. The first and the last frame have their only neighbour twice.
    previous : RegisteredFrame or None
    """

    neighbours: Float32Array | None = None
    previous: RegisteredFrame | None = None


#: Value for images that are neither in a Z stack nor in a movie.
NO_NEIGHBOUR_FRAMES = NeighbourFrames()


class NeighbourFrameProvider:
    """Provide registered frames of a movie, or neighbouring planes of a Z stack.

    Parameters
    ----------
    merger : ResultMerger
        Holds the image and the restored frames. Checkpoints contain them, so a resumed run gets
        the same frames.
    """

    def __init__(self, merger: ResultMerger) -> None:
        self._task_plan = merger.calibrated_image.run_plan.task_plan
        self._stack = merger.calibrated_image.stack
        self._merger = merger
        self._drifts: dict[tuple[int, int], Drift] = {}

    def get_neighbour_frames(self, unit: WorkUnit, prior_key: str) -> NeighbourFrames:
        """Return the frames that the task uses with this prior, registered onto a unit's frame."""
        channels = list(unit.channels)
        frames = NeighbourFrames()
        takes_neighbours = PRIOR_SPECS[prior_key].input_traits.has_neighbour_frames
        if self._task_plan.uses_neighbouring_frames and takes_neighbours and unit.neighbours:
            aligned = [
                [
                    self._get_drift(unit, neighbour).apply(pixels[neighbour, channels])
                    for neighbour in unit.neighbours
                ]
                for pixels in self._merger.calibrated_image.list_frame_stacks()
            ]
            frames = replace(
                frames,
                neighbours=np.stack([np.concatenate([each[0], each[-1]]) for each in aligned]),
            )
        is_smoothed = unit.has_time_neighbours and self._task_plan.uses_previous_frame
        has_previous = unit.has_estimate and not unit.is_segment_start
        if is_smoothed and has_previous and unit.previous_item is not None:
            image, std = self._merger.get_finished_item(unit.previous_item, channels)
            grid = image.shape[1:]
            drift = self._get_drift(unit, unit.previous_item).rescale(self._stack.shape[2:], grid)
            previous = RegisteredFrame(
                drift.apply(image), np.abs(drift.apply(std)), drift.make_visible_mask(grid)
            )
            frames = replace(frames, previous=previous)
        return frames

    def _get_drift(self, unit: WorkUnit, other_item: int) -> Drift:
        """Return the cached shift of another item onto a unit's; 0 for planes of a Z stack."""
        if not unit.has_time_neighbours:
            return Drift(shift=(0.0,) * (self._stack.ndim - 2))
        earlier, later = sorted((unit.item, other_item))
        if (earlier, later) not in self._drifts:
            image = self._merger.calibrated_image
            self._drifts[earlier, later] = estimate_drift(image, later, earlier)
        drift = self._drifts[earlier, later]
        return drift if unit.item == later else drift.invert()


def _sum_channels(calibration: Calibration, item: Float32Array) -> FloatArray:
    """Return the sum (*grid) of all channels that vary, each divided by its scale."""
    channels = calibration.varied_channels
    scale = np.array([calibration.intensity_scale[c] for c in channels])
    return np.asarray(
        (item[channels] / scale.reshape(-1, *[1] * (item.ndim - 1))).sum(0), np.float64
    )
