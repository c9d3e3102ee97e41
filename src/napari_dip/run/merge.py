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
    kept: bool
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
        (C, Y, X), the input. The result may be finer, by whole factors.
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
        self._enlarged = np.repeat(np.repeat(planes, plan.factors[0], 1), plan.factors[1], 2)
        # pictures, their squares, variances
        self.sums = np.zeros((3, *self._enlarged.shape), np.float64)
        self.predictions = np.zeros(planes.shape, np.float64)
        self.count = np.zeros(len(planes), np.int64)
        self.outcomes: list[UnitOutcome] = []
        self.learned: dict[str, Planes] = {}
        for channel in calibration.constant:
            self.sums[0, channel] = self._enlarged[channel]
            self.predictions[channel] = planes[channel]
            self.count[channel] = 1

    def add(
        self,
        unit: WorkUnit,
        picture: Planes,
        deviation: Planes,
        prediction: Planes,
        outcome: UnitOutcome,
    ) -> None:
        """Take in one unit's answer.

        A fit that a person ended does not water down finished ones of the same channels.

        Parameters
        ----------
        unit : WorkUnit
        picture, deviation : ndarray
            (channels, Y, X) of the result, and its standard deviation.
        prediction : ndarray
            (channels, Y, X) of the input: what the detector would have seen of the picture.
        outcome : UnitOutcome
        """
        self.outcomes.append(outcome)
        if outcome.kept and self._has(unit):
            return
        for index, channel in enumerate(unit.channels):
            self.sums[0, channel] += picture[index]
            self.sums[1, channel] += picture[index].astype(np.float64) ** 2
            self.sums[2, channel] += deviation[index].astype(np.float64) ** 2
            self.predictions[channel] += prediction[index]
            self.count[channel] += 1

    def preview(self, unit: WorkUnit, picture: Planes) -> npt.NDArray[np.float32]:
        """Show the whole image with one unit's picture so far where nothing is finished."""
        mean = self._mean()
        if not self._has(unit):
            mean[list(unit.channels)] = picture
        return self._arranged(mean.astype(np.float32))

    def restoration(self, seconds: float, *, timed_out: bool) -> Restoration:
        """Merge, put the mean back, and write the report."""
        mean, prediction = self._mean(), self._prediction()
        known = self._calibration.known
        left = self._planes - prediction
        weight = np.ones(left.shape) if known is None else known.astype(np.float64)
        residual = residual_words(left * weight, prediction, self._calibration)
        shift = (left * weight).sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1)
        mean = (mean + shift[:, None, None]).astype(np.float32)
        deviation = self._deviation()
        image = _cast(self._arranged(mean), self._array.dtype, self._plan)
        first, last = self.outcomes[0], self.outcomes[-1]
        reason = (last if last.kept else first).stop_reason
        if timed_out:
            limit = self._plan.recipe.common.time_limit
            reason = f"the time limit of {limit:g} s was reached"
        facts = {
            "iterations": sum(outcome.iterations for outcome in self.outcomes),
            "best_iteration": first.best_iteration,
            "stop_reason": reason,
            "seconds": round(seconds, 2),
            "held_out": [[iteration, number(loss)] for iteration, _, loss in first.history],
            "residual": residual,
            "input_sha256": sha256(self._array),
            "output_sha256": sha256(image),
            "notes": self._notes(),
        }
        return Restoration(
            image,
            self._arranged(deviation),
            reason,
            first.best_iteration,
            first.history,
            self._plan.recipe,
            self.learned,
            receipt(self._plan, self._calibration, **facts),
        )

    def _mean(self) -> npt.NDArray[np.float64]:
        """Average so far; the input itself where nothing was restored yet."""
        count = self.count[:, None, None]
        return np.where(count > 0, self.sums[0] / np.maximum(count, 1), self._enlarged)

    def _prediction(self) -> npt.NDArray[np.float64]:
        """Average of what the detector would have seen; the input where nothing was restored."""
        count = self.count[:, None, None]
        return np.where(count > 0, self.predictions / np.maximum(count, 1), self._planes)

    def _arranged(self, planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring planes of the result to its shape."""
        return from_planes(planes, self._plan.source.axes, self._plan.result_shape)

    def _has(self, unit: WorkUnit) -> bool:
        """Whether all of a unit's channels have a finished picture."""
        return bool((self.count[list(unit.channels)] > 0).all())

    def _deviation(self) -> npt.NDArray[np.float32]:
        """Give the standard deviation; where nothing was restored, that of the noise."""
        count = np.maximum(self.count, 1)[:, None, None]
        spread = np.maximum(self.sums[1] / count - (self.sums[0] / count) ** 2, 0)
        variance = self.sums[2] / count + spread
        for channel in np.flatnonzero(self.count == 0):
            noise = self._calibration.noise[channel]
            signal = self._enlarged[channel].astype(np.float64)
            variance[channel] = np.maximum(noise.gain * signal + noise.intercept, noise.floor)
        variance[list(self._calibration.constant)] = 0
        return np.asarray(np.sqrt(variance), np.float32)

    def _notes(self) -> list[str]:
        notes = [*self._plan.notes, *(note for one in self.outcomes for note in one.notes)]
        height, width = self._calibration.block
        if height * width > 1 and self._calibration.prior == "blind-spot":
            notes.append(
                "Neighbouring pixels share noise here, so structure finer than "
                f"{width} × {height} pixels may be smoothed away; the residual shows what was lost."
            )
        notes += [
            f"Channel {channel + 1} holds one value only and was left as it is."
            for channel in self._calibration.constant
        ]
        notes += [
            f"The run was ended before channel {channel + 1} was restored; it is as in the input."
            for channel in np.flatnonzero(self.count == 0)
        ]
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
