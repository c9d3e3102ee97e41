"""From the units' pictures to one: restarts averaged, channels side by side, as they come.

What a person should know of a picture whose run was ended before all of it was restored.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.pipeline.assess.findings import measure_result, select_assessed_parts
from napari_dip.pipeline.assess.report import fit_words, receipt, residual_words, sha256
from napari_dip.pipeline.assess.verdict import verdict
from napari_dip.pipeline.calibrate.grid import without_odd
from napari_dip.pipeline.calibrate.noise import noise_variance
from napari_dip.pipeline.events import Restoration
from napari_dip.pipeline.machine import convert_nan_to_none
from napari_dip.pipeline.plan.layout import PART_NAMES, join_parts, split_into_parts
from napari_dip.pipeline.plan.units import segment_notes
from napari_dip.tasks.priors.blind_spot import IMAGE_INPUT_PRIORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit


def describe_early_end(plan: Plan, outcomes: Sequence[UnitOutcome]) -> tuple[str, ...]:
    """Warn of fits that were ended by hand, or by the time limit, and whose pictures were taken.

    A fit that ended by itself and was kept in its last look is whole; so is a picture of which
    another repeat came to its end.

    Parameters
    ----------
    plan : Plan
    outcomes : sequence of UnitOutcome
    """
    from napari_dip.engine.fit.state import USER_STOP_REASON

    whole = {_get_repeat_key(one) for one in outcomes if one.pictured and not one.kept}
    early = [one for one in outcomes if one.kept and one.stop_reason == USER_STOP_REASON]
    early = [one for one in early if _get_repeat_key(one) not in whole]
    if not early:
        return ()
    units = {unit.id: unit for unit in plan.units}
    what, far = f"{len(early)} fits were", ""
    if len(early) == 1 and (unit := units.get(early[0].unit)) is not None:
        most = unit.iterations + plan.budget.release
        what = f"The fit{_describe_fitted_part(plan, unit)} was"
        if early[0].iterations < most:
            far = f" after {early[0].iterations} of at most {most} iterations"
    elif len(early) == 1:
        what = "One fit was"
    return (f"{what} ended early{far}: noise may be left in places, and detail may be missing.",)


def _describe_fitted_part(plan: Plan, unit: WorkUnit) -> str:
    """Name the one of several parts that a fit is of, as " of plane 2"."""
    if unit.tile is not None:
        return " of a tile"
    long = _list_part_axes(plan)
    if len(long) == 1:
        return f" of {PART_NAMES[long]} {unit.part + 1}"
    return " of a plane" if long else ""


def _list_part_axes(plan: Plan) -> str:
    """Name the axes along which there are several parts."""
    source = plan.source
    return "".join(one for one in plan.layout.parts if source.shape[source.axes.index(one)] > 1)


def _get_repeat_key(one: UnitOutcome) -> str:
    """Name what repeats of a fit have in common."""
    return one.unit.rpartition("r")[0]


def describe_unrestored_parts(plan: Plan, missing: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """Name the planes, frames and channels that no fit has reached.

    Parameters
    ----------
    plan : Plan
    missing : ndarray of bool
        (parts, C), of the plan's layout.
    """
    channels = missing.all(0)
    rest = missing[:, ~channels]
    parts = rest.all(1) & ~channels.all()
    told = _format_unrestored("channel", np.flatnonzero(channels))
    told += _describe_parts(plan, np.flatnonzero(parts))
    for channel in np.flatnonzero(~channels):
        some = np.flatnonzero(missing[:, channel] & ~parts)
        told += [f"channel {channel + 1}: {words}" for words in _describe_parts(plan, some)]
    return tuple(words[:1].upper() + words[1:] for words in told)


def describe_unrestored_tiles(left: int, count: int) -> tuple[str, ...]:
    """Say how many tiles no fit has reached."""
    if not left:
        return ()
    one = left == 1
    return (
        f"{left} of the {count} tiles {'was' if one else 'were'} not restored; "
        f"{'it is' if one else 'they are'} as in the input.",
    )


def _describe_parts(plan: Plan, parts: npt.NDArray[np.intp]) -> list[str]:
    """Name parts as a person counts them: frames, planes, or planes of frames."""
    long = _list_part_axes(plan)
    if len(long) < 2:
        return _format_unrestored(PART_NAMES.get(long, "part"), parts)
    deep = plan.source.shape[plan.source.axes.index(plan.layout.parts[1])]
    frames, planes = np.divmod(parts, deep)
    whole = [one for one in np.unique(frames) if (frames == one).sum() == deep]
    told = _format_unrestored(PART_NAMES["T"], np.array(whole, np.intp))
    for frame in np.setdiff1d(frames, whole):
        told += _format_unrestored(
            PART_NAMES["Z"], planes[frames == frame], f" of frame {frame + 1}"
        )
    return told


def _format_unrestored(noun: str, indices: npt.NDArray[np.intp], of: str = "") -> list[str]:
    """Put 0-based indices into one sentence, if there are any."""
    if not len(indices):
        return []
    if len(indices) == 1:
        return [f"{noun} {indices[0] + 1}{of} was not restored; it is as in the input."]
    return [
        f"{noun}s {_format_number_ranges(indices)}{of} were not restored; they are as in the input."
    ]


def _format_number_ranges(indices: Iterable[int]) -> str:
    """Write 0-based indices as people count: "2, 4 and 6 to 9"."""
    runs: list[list[int]] = []
    for one in indices:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(int(one))
        else:
            runs.append([int(one)])
    words = []
    for run in runs:
        if len(run) > 2:
            words.append(f"{run[0] + 1} to {run[-1] + 1}")
        else:
            words += [str(one + 1) for one in run]
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


#: Note on a run whose measured pixels do not fit the result's type.
SHORTENED = (
    "Measured pixels of type {dtype} have more digits than the result's 32-bit float; "
    "'Output type' as the input (--dtype same) keeps them exactly."
)


class Merge:
    """Streaming mean and spread over restarts.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    parts : ndarray
        (parts, C, *grid), the input. The result may be finer, by whole factors.
    array : ndarray
        The input as it came.
    """

    def __init__(
        self, plan: Plan, calibration: Calibration, parts: Planes, array: npt.NDArray[Any]
    ) -> None:
        self._plan = plan
        self._calibration = calibration
        self._parts = parts
        self._array = array
        self._enlarged = parts
        finer = plan.recipe.task.factors(plan.layout.grid)
        for axis, factor in enumerate(finer, parts.ndim - len(finer)):
            self._enlarged = np.repeat(self._enlarged, factor, axis)
        # pictures, their squares, variances
        self.sums = np.zeros((3, *self._enlarged.shape), np.float64)
        self.predictions = np.zeros(parts.shape, np.float64)
        self.count = np.zeros(parts.shape[:2], np.int64)
        self.outcomes: list[UnitOutcome] = []
        self.learned: dict[str, Planes] = {}
        for channel in calibration.constant:
            self.sums[0, :, channel] = self._enlarged[:, channel]
            self.predictions[:, channel] = parts[:, channel]
            self.count[:, channel] = 1

    def add(
        self,
        unit: WorkUnit,
        picture: Planes,
        deviation: Planes,
        prediction: Planes,
        outcome: UnitOutcome,
        learned: Mapping[str, Planes] | None = None,
    ) -> None:
        """Take in one unit's answer.

        A fit that a person ended does not water down finished ones of the same channels.

        Parameters
        ----------
        unit : WorkUnit
        picture, deviation : ndarray
            (channels, *grid) of the result, and its standard deviation.
        prediction : ndarray
            (channels, *grid) of the input: what the detector would have seen of the picture.
        outcome : UnitOutcome
        learned : mapping of str to ndarray, optional
            What else was fitted.
        """
        self.outcomes.append(outcome)
        if outcome.kept and self._has(unit):
            return
        for name, values in (learned or {}).items():
            key = f"{name}.{unit.channels[0]}"
            self.learned[key] = self.learned.get(key, 0) + values
        for index, channel in enumerate(unit.channels):
            place = unit.part, channel
            self.sums[0][place] += picture[index]
            self.sums[1][place] += picture[index].astype(np.float64) ** 2
            self.sums[2][place] += deviation[index].astype(np.float64) ** 2
            self.predictions[place] += prediction[index]
            self.count[place] += 1

    def finished(self, part: int, channels: list[int]) -> tuple[Planes, Planes]:
        """Give what was restored of a part, and its standard deviation: (C, *grid) each."""
        sums = self.sums[:, part, channels]
        pictures, squares, variances = sums / self._count()[part, channels]
        variance = variances + np.maximum(squares - pictures**2, 0)
        return pictures.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def so_far(self) -> tuple[Planes, Planes, Planes]:
        """Give picture, deviation, and prediction, of all parts: (parts, C, *grid) each."""
        mean, prediction = self._mean(), self._prediction()
        return mean.astype(np.float32), self._deviation(), prediction.astype(np.float32)

    def preview(self, unit: WorkUnit, picture: Planes) -> npt.NDArray[np.float32]:
        """Show the whole image with one unit's picture so far where nothing is finished."""
        mean = self._mean()
        if not self._has(unit):
            mean[unit.part, list(unit.channels)] = picture
        if (kept := self._kept()) is not None:
            mean = np.where(kept, self._parts, mean)
        return self._arranged(mean.astype(np.float32))

    def restoration(
        self, seconds: float, *, timed_out: bool, untouched: tuple[str, ...] = ()
    ) -> Restoration:
        """Merge, put the mean back, and write the report; `untouched` is what the parts hide."""
        mean, prediction = self._mean(), self._prediction()
        kept = self._kept()
        if kept is not None:  # nothing is left of it, not even a rounding
            prediction = np.where(kept, self._parts, prediction)
        left, shift = self._left(prediction)
        some = select_assessed_parts(left)
        residual = residual_words(left[some], prediction[some], self._calibration)
        shown = np.asarray(mean + shift, np.float32)
        deviation = self._deviation()
        if kept is not None:
            shown = np.where(kept, self._parts, shown)
            noise = np.stack([self._noise(c) for c in range(mean.shape[1])], 1)
            deviation = np.where(kept, noise, deviation)
        came = self._corrected()
        image = as_input(self._arranged(shown), came, self._plan, self._as_it_came(kept))
        if image.dtype != np.float32:  # rounding and clipping may shift the mean
            shown = split_into_parts(image, self._plan.source.axes, self._plan.layout)
        if (left_out := self._outliers()) is not None:
            image = np.where(self._arranged(left_out), came.astype(image.dtype), image)
        evidence = [outcome.evidence for outcome in self.outcomes]
        seen = self._parts, left, prediction, shown
        found = measure_result(self._plan, self._calibration, *seen, evidence)
        early = (
            *untouched,
            *describe_unrestored_parts(self._plan, self.count == 0),
            *describe_early_end(self._plan, self.outcomes),
        )
        own = self._own() or self.outcomes
        first, last = own[0], own[-1]
        reason = (last if last.kept else first).stop_reason
        if timed_out:
            limit = self._plan.recipe.common.time_limit
            reason = f"the time limit of {limit:g} s was reached"
        facts = {
            "iterations": sum(outcome.iterations for outcome in own),
            "best_iteration": first.best_iteration,
            "stop_reason": reason,
            "seconds": round(seconds, 2),
            "prior": self._prior(),
            "fit": fit_words(self._plan, self._calibration, self.outcomes),
            "held_out": [
                [iteration, convert_nan_to_none(loss)] for iteration, _, loss in first.history
            ],
            "residual": residual,
            "verdict": verdict(found, early),
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
            self._learned(),
            receipt(self._plan, self._calibration, **facts),
            self._measured(self._where_measured(left - shift)),
        )

    def _corrected(self) -> npt.NDArray[Any]:
        """Give the input in its own type, as the maps of its camera correct it."""
        if self._calibration.maps is None:
            return self._array
        native, image = self._array.dtype.newbyteorder("="), self._measured(self._came())
        return _rounded(image, native) if native.kind in "iu" else image.astype(native)

    def _came(self) -> Planes:
        """Lay out the input with its outliers, as the maps of its camera correct it."""
        parts = split_into_parts(self._array, self._plan.source.axes, self._plan.layout)
        camera = self._calibration.maps
        return parts if camera is None else camera.corrected(parts)

    def _outliers(self) -> npt.NDArray[np.bool_] | None:
        """Where single pixels were left out of the fit, and come back as they were measured."""
        plan = self._plan
        if not self._calibration.outliers or not plan.recipe.task.same_pixels:
            return None
        there: npt.NDArray[np.bool_] = self._came() != self._parts
        if (known := self._calibration.known) is not None:
            there &= known
        return there

    def _own(self) -> list[UnitOutcome]:
        """Give how this run's fits went, without those of a network that came from other files."""
        return [one for one in self.outcomes if one.pictured or self._plan.network is None]

    def _mean(self) -> npt.NDArray[np.float64]:
        """Average so far; the input itself where nothing was restored yet."""
        count = self._count()
        return np.where(count > 0, self.sums[0] / np.maximum(count, 1), self._enlarged)

    def _kept(self) -> npt.NDArray[np.bool_] | None:
        """Where measured pixels come back as they were; None for nowhere."""
        return self._calibration.known if self._plan.recipe.task.keeps_measured() else None

    def _as_it_came(self, kept: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """Where the result is the input, in the result's shape: no task but `kept` has a say."""
        same = np.zeros(self._enlarged.shape, np.bool_)
        same[self.count == 0] = True
        same[:, list(self._calibration.constant)] = True
        return self._arranged(same if kept is None else same | kept)

    def _shortened(self, kept: npt.NDArray[np.bool_]) -> bool:
        """Whether single precision, in which the result is, holds measured pixels less exactly."""
        if self._plan.recipe.common.dtype != "float32" or self._array.dtype.itemsize < 4:
            return False
        with np.errstate(invalid="ignore"):
            other = self._array != self._array.astype(np.float32)
        return bool(np.any(other & self._arranged(kept)))

    def _prediction(self) -> npt.NDArray[np.float64]:
        """Average of what the detector would have seen; the input where nothing was restored."""
        count = self._count()
        return np.where(count > 0, self.predictions / np.maximum(count, 1), self._parts)

    def _left(self, prediction: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], Planes]:
        """Give the residual, 0 where nothing was measured, and each channel's mean of it."""
        left = self._where_measured(self._parts - prediction)
        known, grid = self._calibration.known, tuple(range(2, left.ndim))
        measured = prod(left.shape[2:]) if known is None else known.sum(grid, keepdims=True)
        return left, without_odd(left).sum(grid, keepdims=True) / np.maximum(measured, 1)

    def _where_measured(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        known = self._calibration.known
        return values if known is None else values * known

    def _count(self) -> npt.NDArray[np.int64]:
        """Count of the pictures in each mean, shaped to be used beside (parts, C, *grid)."""
        return self.count.reshape(*self.count.shape, *[1] * (self._parts.ndim - 2))

    def _arranged(self, parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring parts of the result to its shape."""
        plan = self._plan
        return join_parts(parts, plan.source.axes, plan.result_shape, plan.layout)

    def _measured(self, parts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bring parts of the input to its shape."""
        source, layout = self._plan.source, self._plan.layout
        arranged = join_parts(parts.astype(np.float32), source.axes, source.shape, layout)
        return np.asarray(arranged, np.float32)

    def _learned(self) -> dict[str, Planes]:
        """Mean over restarts; where channels were fitted apart, one after the other."""
        found: dict[str, list[Planes]] = {}
        for key, total in sorted(self.learned.items(), key=lambda one: int(one[0].split(".")[1])):
            name, channel = key.split(".")
            mean = np.asarray(total / max(1, self.count[:, int(channel)].sum()), np.float32)
            found.setdefault(name, []).append(mean)
        return {name: each[0] if len(each) == 1 else np.stack(each) for name, each in found.items()}

    def _has(self, unit: WorkUnit) -> bool:
        """Whether all of a unit's channels have a finished picture."""
        return bool((self.count[unit.part, list(unit.channels)] > 0).all())

    def _deviation(self) -> npt.NDArray[np.float32]:
        """Give the standard deviation; where nothing was restored, that of the noise."""
        answer = np.empty(self._enlarged.shape, np.float32)
        for part, counts in enumerate(np.maximum(self._count(), 1)):  # of a stack it takes 40 bytes
            pictures, squares, variances = self.sums[:, part]
            spread = np.maximum(squares / counts - (pictures / counts) ** 2, 0)
            answer[part] = np.sqrt(variances / counts + spread)
        for part, channel in np.argwhere(self.count == 0):
            answer[part, channel] = self._noise(int(channel))[part]
        answer[:, list(self._calibration.constant)] = 0
        return answer

    def _noise(self, channel: int) -> npt.NDArray[np.float32]:
        """Give the noise's standard deviation at each pixel of a channel, in the result's size."""
        noise, signal = self._calibration.noise[channel], self._enlarged[:, channel]
        return np.sqrt(noise_variance(noise, signal, self._calibration.excess)).astype(np.float32)

    def _prior(self) -> dict[str, str]:
        """Say which prior ran and why; where fits differ, that of the first, and who differs."""
        chosen, *rest = dict.fromkeys(one.prior for one in self.outcomes)
        task, block = self._plan.recipe.task, self._calibration.block
        budget = self._plan.budget
        told = budget.why if chosen == budget.prior else ""
        why = told or task.why(chosen, block)
        for other in rest:
            parts = ", ".join(one.unit for one in self.outcomes if one.prior == other)
            why += f"; in part {parts} '{other}' ran, since {task.why(other, block)}"
        return {"chosen": chosen, "why": why}

    def _notes(self) -> list[str]:
        notes = [*self._plan.notes, *segment_notes(self._plan), *self._calibration.notes]
        notes += [note for one in self.outcomes for note in one.notes]
        if (kept := self._kept()) is not None and self._shortened(kept):
            notes.append(SHORTENED.format(dtype=self._array.dtype.name))
        height, width = self._calibration.block[-2:]
        if height * width > 1 and self._calibration.prior in IMAGE_INPUT_PRIORS:
            notes.append(
                "Neighbouring pixels share noise here, so structure finer than "
                f"{width} × {height} pixels may be smoothed away; the residual shows what was lost."
            )
        notes += [
            f"Channel {channel + 1} holds one value only and was left as it is."
            for channel in self._calibration.constant
        ]
        return notes


def as_input(
    image: npt.NDArray[np.float32],
    array: npt.NDArray[Any],
    plan: Plan,
    same: npt.NDArray[np.bool_],
) -> npt.NDArray[Any]:
    """Bring a result to the input's own type if the recipe asks for it.

    Parameters
    ----------
    image : ndarray
        The result, in its axes.
    array : ndarray
        The input as it came, in the same axes; the result may be finer, by whole factors.
    plan : Plan
    same : ndarray of bool
        Of the result's shape, True where it is the input: copied, since single precision does not
        hold whole numbers beyond 2 ** 24.
    """
    if plan.recipe.common.dtype == "float32":
        return image
    native = array.dtype.newbyteorder("=")
    answer = _rounded(image, native) if native.kind in "iu" else image.astype(native)
    if same.any():
        for axis, (fine, count) in enumerate(zip(image.shape, array.shape, strict=True)):
            array = array if fine == count else np.repeat(array, fine // count, axis)
        np.copyto(answer, array, where=same)
    return answer


def _rounded(image: npt.NDArray[np.float32], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round to whole numbers that the type holds."""
    limits = np.iinfo(kind)
    most = float(limits.max)
    if most > limits.max:  # the largest numbers of 64 bits are no doubles
        most = float(np.nextafter(most, 0))
    return np.clip(np.rint(image.astype(np.float64)), float(limits.min), most).astype(kind)
