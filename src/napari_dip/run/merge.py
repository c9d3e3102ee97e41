"""From the units' pictures to one: restarts averaged, channels side by side, as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.run.clock import number
from napari_dip.run.events import Restoration
from napari_dip.run.prepare import from_planes
from napari_dip.run.receipt import receipt, residual_words, sha256

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.run.plan import Plan, WorkUnit
    from napari_dip.run.prepare import Calibration, Planes


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """How one unit's fit went, in plain numbers."""

    unit: str
    stop_reason: str
    best_iteration: int
    iterations: int
    history: tuple[tuple[int, float, float], ...]
    notes: tuple[str, ...]


class Merge:
    """Streaming mean and spread over restarts.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    planes : ndarray
        (C, Y, X), the input.
    array : ndarray
        The input as it came.
    """

    def __init__(
        self, plan: Plan, calibration: Calibration, planes: Planes, array: npt.NDArray[Any]
    ) -> None:
        self._plan = plan
        self._calibration = calibration
        self._planes = planes
        self._array = array
        self.sums = np.zeros((3, *planes.shape), np.float64)  # pictures, their squares, variances
        self.count = np.zeros(len(planes), np.int64)
        self.outcomes: list[UnitOutcome] = []

    def add(self, unit: WorkUnit, picture: Planes, deviation: Planes, outcome: UnitOutcome) -> None:
        """Take in one unit's answer: picture and standard deviation, (channels, Y, X) each."""
        for index, channel in enumerate(unit.channels):
            self.sums[0, channel] += picture[index]
            self.sums[1, channel] += picture[index].astype(np.float64) ** 2
            self.sums[2, channel] += deviation[index].astype(np.float64) ** 2
            self.count[channel] += 1
        self.outcomes.append(outcome)

    def preview(self, unit: WorkUnit, picture: Planes) -> npt.NDArray[np.float32]:
        """Show the whole image with one unit's picture so far in its place."""
        mean = self._mean()
        for index, channel in enumerate(unit.channels):
            done = self.count[channel]
            mean[channel] = (mean[channel] * done + picture[index]) / (done + 1)
        source = self._plan.source
        return from_planes(mean.astype(np.float32), source.axes, source.shape)

    def restoration(self, seconds: float, *, timed_out: bool) -> Restoration:
        """Merge, put the mean back, and write the report."""
        mean = self._mean()
        shift = (self._planes - mean).mean((1, 2), keepdims=True)
        mean = (mean + shift).astype(np.float32)
        count = np.maximum(self.count, 1)[:, None, None]
        spread = np.maximum(self.sums[1] / count - (self.sums[0] / count) ** 2, 0)
        deviation = np.sqrt(self.sums[2] / count + spread).astype(np.float32)
        source = self._plan.source
        image = _cast(from_planes(mean, source.axes, source.shape), self._array.dtype, self._plan)
        first = self.outcomes[0]
        reason = first.stop_reason
        if timed_out:
            limit = self._plan.recipe.common.time_limit
            reason = f"the time limit of {limit:g} s was reached"
        facts = {
            "iterations": sum(outcome.iterations for outcome in self.outcomes),
            "best_iteration": first.best_iteration,
            "stop_reason": reason,
            "seconds": round(seconds, 2),
            "held_out": [[iteration, number(loss)] for iteration, _, loss in first.history],
            "residual": residual_words(self._planes, mean, self._calibration),
            "input_sha256": sha256(self._array),
            "output_sha256": sha256(image),
            "notes": self._notes(),
        }
        return Restoration(
            image,
            from_planes(deviation, source.axes, source.shape),
            reason,
            first.best_iteration,
            first.history,
            self._plan.recipe,
            {},
            receipt(self._plan, self._calibration, **facts),
        )

    def _mean(self) -> npt.NDArray[np.float64]:
        """Average so far; the input itself where nothing was restored yet."""
        count = self.count[:, None, None]
        return np.where(count > 0, self.sums[0] / np.maximum(count, 1), self._planes)

    def _notes(self) -> list[str]:
        notes = [*self._plan.notes, *(note for one in self.outcomes for note in one.notes)]
        if untouched := [str(channel + 1) for channel in np.flatnonzero(self.count == 0)]:
            notes.append(
                f"The run was ended before channels {', '.join(untouched)} were restored; "
                "they are as in the input."
            )
        return notes


def _cast(image: npt.NDArray[np.float32], dtype: np.dtype[Any], plan: Plan) -> npt.NDArray[Any]:
    """Round to the input's own type if the recipe asks for it."""
    if plan.recipe.common.dtype == "float32":
        return image
    native = dtype.newbyteorder("=")
    if dtype.kind in "iu":
        limits = np.iinfo(native)
        rounded = np.rint(image.astype(np.float64))
        return np.clip(rounded, limits.min, limits.max).astype(native)
    return image.astype(native)
