"""From the units' pictures to one: restarts averaged, channels side by side, as they come.

What a person should know of a picture whose run was ended before all of it was restored.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors.notes import StopReason, make_note, make_stop, report_notes, report_stop
from napari_dip.pipeline.assess.metrics import measure_result, select_assessed_parts
from napari_dip.pipeline.assess.quality_checks import check_quality
from napari_dip.pipeline.assess.report import (
    compute_sha256,
    make_run_report,
    serialise_fit,
    summarise_residual,
)
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.resolution_and_outliers import zero_residual_outliers
from napari_dip.pipeline.events import Restoration
from napari_dip.pipeline.machine import convert_nan_to_none
from napari_dip.pipeline.plan.layout import PART_NAMES, join_parts, split_into_parts
from napari_dip.pipeline.plan.units import make_segment_notes
from napari_dip.tasks.priors.blind_spot import IMAGE_INPUT_PRIORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit


def describe_early_end(plan: Plan, outcomes: Sequence[UnitOutcome]) -> tuple[Note, ...]:
    """Warn of fits that were ended by hand, or by the time limit, and whose pictures were taken.

    A fit that ended by itself and was kept in its last look is whole; so is a picture of which
    another repeat came to its end.

    Parameters
    ----------
    plan : Plan
    outcomes : sequence of UnitOutcome
    """
    whole = {
        _get_repeat_key(outcome)
        for outcome in outcomes
        if outcome.has_estimate and not outcome.kept
    }
    early = [
        outcome for outcome in outcomes if outcome.kept and outcome.stop.reason is StopReason.USER
    ]
    early = [item for item in early if _get_repeat_key(item) not in whole]
    if not early:
        return ()
    units = {unit.id: unit for unit in plan.units}
    if len(early) > 1:
        return (make_note("fits-ended-early", count=len(early), several=True),)
    unit = units.get(early[0].unit)
    if unit is None:
        return (make_note("fits-ended-early", count=1, several=False),)
    most, count = unit.iterations + plan.budget.release, early[0].iterations
    part = _describe_fitted_part(plan, unit)
    facts = {"part": part, "count": count, "most": most, "before_end": count < most}
    return (make_note("fit-ended-early", **facts),)


def _describe_fitted_part(plan: Plan, unit: WorkUnit) -> str:
    """Name the one of several parts that a fit is of, as "plane 2"."""
    if unit.tile is not None:
        return "a tile"
    long = _list_part_axes(plan)
    if len(long) == 1:
        return f"{PART_NAMES[long]} {unit.part + 1}"
    return "a plane" if long else ""


def _list_part_axes(plan: Plan) -> str:
    """Name the axes along which there are several parts."""
    source = plan.source
    return "".join(part for part in plan.layout.parts if source.shape[source.axes.index(part)] > 1)


def _get_repeat_key(outcome: UnitOutcome) -> str:
    """Name what repeats of a fit have in common."""
    return outcome.unit.rpartition("r")[0]


def describe_unrestored_parts(plan: Plan, missing: npt.NDArray[np.bool_]) -> tuple[Note, ...]:
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
    sentences = _format_unrestored("channel", np.flatnonzero(channels))
    sentences += _describe_parts(plan, np.flatnonzero(parts))
    for channel in np.flatnonzero(~channels):
        some = np.flatnonzero(missing[:, channel] & ~parts)
        sentences += _describe_parts(plan, some, channel_number=int(channel) + 1)
    return tuple(sentences)


def describe_unrestored_tiles(missing_count: int, count: int) -> tuple[Note, ...]:
    """Say how many tiles no fit has reached."""
    if not missing_count:
        return ()
    return (
        make_note("tiles-unrestored", left=missing_count, count=count, several=missing_count > 1),
    )


def _describe_parts(plan: Plan, parts: npt.NDArray[np.intp], **facts: int) -> list[Note]:
    """Name parts as a person counts them: frames, planes, or planes of frames."""
    long = _list_part_axes(plan)
    if len(long) < 2:
        return _format_unrestored(PART_NAMES.get(long, "part"), parts, **facts)
    deep = plan.source.shape[plan.source.axes.index(plan.layout.parts[1])]
    frames, planes = np.divmod(parts, deep)
    whole = [item for item in np.unique(frames) if (frames == item).sum() == deep]
    sentences = _format_unrestored(PART_NAMES["T"], np.array(whole, np.intp), **facts)
    for frame in np.setdiff1d(frames, whole):
        sentences += _format_unrestored(
            PART_NAMES["Z"], planes[frames == frame], frame + 1, **facts
        )
    return sentences


def _format_unrestored(
    noun: str, indices: npt.NDArray[np.intp], frame: int | None = None, **facts: int
) -> list[Note]:
    """Put 0-based indices into one note, if there are any."""
    if not len(indices):
        return []
    # behind "Channel 2: " it goes on in small letters
    noun = noun if facts else noun.capitalize()
    numbers, several = _format_number_ranges(indices), len(indices) > 1
    details = {"noun": noun, "numbers": numbers, "frame": frame, "several": several}
    return [make_note("parts-unrestored", **details, **facts)]


def _format_number_ranges(indices: Iterable[int]) -> str:
    """Write 0-based indices as people count: "2, 4 and 6 to 9"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(int(index))
        else:
            runs.append([int(index)])
    ranges = []
    for run in runs:
        if len(run) > 2:
            ranges.append(f"{run[0] + 1} to {run[-1] + 1}")
        else:
            ranges += [str(item + 1) for item in run]
    *most, last = ranges
    return f"{', '.join(most)} and {last}" if most else last


class ResultMerger:
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
        self._stack = parts
        self._image = array
        self._upscaled_stack = parts
        finer = plan.recipe.task.factors(plan.layout.grid)
        for axis, factor in enumerate(finer, parts.ndim - len(finer)):
            self._upscaled_stack = np.repeat(self._upscaled_stack, factor, axis)
        # pictures, their squares, variances
        self.sums = np.zeros((3, *self._upscaled_stack.shape), np.float64)
        self.predictions = np.zeros(parts.shape, np.float64)
        self.count = np.zeros(parts.shape[:2], np.int64)
        self.outcomes: list[UnitOutcome] = []
        self.learned: dict[str, Planes] = {}
        for channel in calibration.constant_channels:
            self.sums[0, :, channel] = self._upscaled_stack[:, channel]
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
        if outcome.kept and self._has_result(unit):
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

    def get_finished_part(self, part: int, channels: list[int]) -> tuple[Planes, Planes]:
        """Give what was restored of a part, and its standard deviation: (C, *grid) each."""
        sums = self.sums[:, part, channels]
        pictures, squares, variances = sums / self._get_counts()[part, channels]
        variance = variances + np.maximum(squares - pictures**2, 0)
        return pictures.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def get_estimates(self) -> tuple[Planes, Planes, Planes]:
        """Give picture, deviation, and prediction, of all parts: (parts, C, *grid) each."""
        mean, prediction = self._compute_mean(), self._average_prediction()
        return mean.astype(np.float32), self._compute_deviation(), prediction.astype(np.float32)

    def make_preview(self, unit: WorkUnit, picture: Planes) -> npt.NDArray[np.float32]:
        """Show the whole image with one unit's picture so far where nothing is finished."""
        mean = self._compute_mean()
        if not self._has_result(unit):
            mean[unit.part, list(unit.channels)] = picture
        if (kept := self._get_preserved_mask()) is not None:
            mean = np.where(kept, self._stack, mean)
        return self._arrange_result(mean.astype(np.float32))

    def make_restoration(
        self, seconds: float, *, timed_out: bool, untouched: tuple[Note, ...] = ()
    ) -> Restoration:
        """Merge, put the mean back, and write the report; `untouched` is what the parts hide."""
        mean, prediction = self._compute_mean(), self._average_prediction()
        kept = self._get_preserved_mask()
        if kept is not None:  # nothing is left of it, not even a rounding
            prediction = np.where(kept, self._stack, prediction)
        residual_stack, shift = self._compute_residual(prediction)
        some = select_assessed_parts(residual_stack)
        residual = summarise_residual(residual_stack[some], prediction[some], self._calibration)
        result = np.asarray(mean + shift, np.float32)
        deviation = self._compute_deviation()
        if kept is not None:
            result = np.where(kept, self._stack, result)
            noise = np.stack([self._compute_noise_deviation(c) for c in range(mean.shape[1])], 1)
            deviation = np.where(kept, noise, deviation)
        came = self._correct_input()
        image = convert_to_input_dtype(
            self._arrange_result(result), came, self._plan, self._make_input_mask(kept)
        )
        if image.dtype != np.float32:  # rounding and clipping may shift the mean
            result = split_into_parts(image, self._plan.source.axes, self._plan.layout)
        if (left_out := self._find_outliers()) is not None:
            image = np.where(self._arrange_result(left_out), came.astype(image.dtype), image)
        evidence = [outcome.evidence for outcome in self.outcomes]
        arrays = self._stack, residual_stack, prediction, result
        metrics = measure_result(self._plan, self._calibration, *arrays, evidence)
        early = (
            *untouched,
            *describe_unrestored_parts(self._plan, self.count == 0),
            *describe_early_end(self._plan, self.outcomes),
        )
        own = self._list_own_outcomes() or self.outcomes
        first, last = own[0], own[-1]
        stop = (last if last.kept else first).stop
        if timed_out:
            stop = make_stop(StopReason.TIME, limit=self._plan.recipe.run_settings.time_limit)
        facts = {
            "iterations": sum(outcome.iterations for outcome in own),
            "best_iteration": first.best_iteration,
            **report_stop(stop),
            "seconds": round(seconds, 2),
            "prior": self._describe_prior(),
            "fit": serialise_fit(self._plan, self._calibration, self.outcomes),
            "validation_loss": [
                [iteration, convert_nan_to_none(loss)] for iteration, _, loss in first.history
            ],
            "residual": residual,
            "verdict": check_quality(metrics, early),
            "input_sha256": compute_sha256(self._image),
            "output_sha256": compute_sha256(image),
            **report_notes(self._list_notes()),
        }
        return Restoration(
            image=image,
            uncertainty=self._arrange_result(deviation),
            stop=stop,
            best_iteration=first.best_iteration,
            history=first.history,
            recipe=self._plan.recipe,
            learned=self._average_learned(),
            report=make_run_report(self._plan, self._calibration, **facts),
            residual=self._arrange_input(self._zero_unmeasured(residual_stack - shift)),
        )

    def _correct_input(self) -> npt.NDArray[Any]:
        """Give the input in its own type, as the maps of its camera correct it."""
        if self._calibration.camera_correction is None:
            return self._image
        native, image = (
            self._image.dtype.newbyteorder("="),
            self._arrange_input(self._lay_out_input()),
        )
        return _round_to_dtype(image, native) if native.kind in "iu" else image.astype(native)

    def _lay_out_input(self) -> Planes:
        """Lay out the input with its outliers, as the maps of its camera correct it."""
        parts = split_into_parts(self._image, self._plan.source.axes, self._plan.layout)
        camera = self._calibration.camera_correction
        return parts if camera is None else camera.corrected(parts)

    def _find_outliers(self) -> npt.NDArray[np.bool_] | None:
        """Where single pixels were left out of the fit, and come back as they were measured."""
        plan = self._plan
        if not self._calibration.outlier_count or not plan.recipe.task.same_pixels:
            return None
        outliers: npt.NDArray[np.bool_] = self._lay_out_input() != self._stack
        if (measured_mask := self._calibration.measured_mask) is not None:
            outliers &= measured_mask
        return outliers

    def _list_own_outcomes(self) -> list[UnitOutcome]:
        """Give how this run's fits went, without those of a network that came from other files."""
        return [
            outcome
            for outcome in self.outcomes
            if outcome.has_estimate or self._plan.network is None
        ]

    def _compute_mean(self) -> npt.NDArray[np.float64]:
        """Average so far; the input itself where nothing was restored yet."""
        count = self._get_counts()
        return np.where(count > 0, self.sums[0] / np.maximum(count, 1), self._upscaled_stack)

    def _get_preserved_mask(self) -> npt.NDArray[np.bool_] | None:
        """Where measured pixels come back as they were; None for nowhere."""
        return self._calibration.measured_mask if self._plan.recipe.task.keeps_measured() else None

    def _make_input_mask(self, kept: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """Where the result is the input, in the result's shape: no task but `kept` has a say."""
        same = np.zeros(self._upscaled_stack.shape, np.bool_)
        same[self.count == 0] = True
        same[:, list(self._calibration.constant_channels)] = True
        return self._arrange_result(same if kept is None else same | kept)

    def _has_precision_loss(self, kept: npt.NDArray[np.bool_]) -> bool:
        """Whether single precision, in which the result is, holds measured pixels less exactly."""
        if self._plan.recipe.run_settings.dtype != "float32" or self._image.dtype.itemsize < 4:
            return False
        with np.errstate(invalid="ignore"):
            other = self._image != self._image.astype(np.float32)
        return bool(np.any(other & self._arrange_result(kept)))

    def _average_prediction(self) -> npt.NDArray[np.float64]:
        """Average of what the detector would have seen; the input where nothing was restored."""
        count = self._get_counts()
        return np.where(count > 0, self.predictions / np.maximum(count, 1), self._stack)

    def _compute_residual(
        self, prediction: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], Planes]:
        """Give the residual, 0 where nothing was measured, and each channel's mean of it."""
        residual = self._zero_unmeasured(self._stack - prediction)
        measured_mask, grid = self._calibration.measured_mask, tuple(range(2, residual.ndim))
        measured = (
            prod(residual.shape[2:])
            if measured_mask is None
            else measured_mask.sum(grid, keepdims=True)
        )
        return residual, zero_residual_outliers(residual).sum(grid, keepdims=True) / np.maximum(
            measured, 1
        )

    def _zero_unmeasured(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        measured_mask = self._calibration.measured_mask
        return values if measured_mask is None else values * measured_mask

    def _get_counts(self) -> npt.NDArray[np.int64]:
        """Count of the pictures in each mean, shaped to be used beside (parts, C, *grid)."""
        return self.count.reshape(*self.count.shape, *[1] * (self._stack.ndim - 2))

    def _arrange_result(self, parts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Bring parts of the result to its shape."""
        plan = self._plan
        return join_parts(parts, plan.source.axes, plan.result_shape, plan.layout)

    def _arrange_input(self, parts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bring parts of the input to its shape."""
        source, layout = self._plan.source, self._plan.layout
        arranged = join_parts(parts.astype(np.float32), source.axes, source.shape, layout)
        return np.asarray(arranged, np.float32)

    def _average_learned(self) -> dict[str, Planes]:
        """Mean over restarts; where channels were fitted apart, one after the other."""
        means: dict[str, list[Planes]] = {}
        for key, total in sorted(self.learned.items(), key=lambda item: int(item[0].split(".")[1])):
            name, channel = key.split(".")
            mean = np.asarray(total / max(1, self.count[:, int(channel)].sum()), np.float32)
            means.setdefault(name, []).append(mean)
        return {name: each[0] if len(each) == 1 else np.stack(each) for name, each in means.items()}

    def _has_result(self, unit: WorkUnit) -> bool:
        """Whether all of a unit's channels have a finished picture."""
        return bool((self.count[unit.part, list(unit.channels)] > 0).all())

    def _compute_deviation(self) -> npt.NDArray[np.float32]:
        """Give the standard deviation; where nothing was restored, that of the noise."""
        answer = np.empty(self._upscaled_stack.shape, np.float32)
        for part, counts in enumerate(
            np.maximum(self._get_counts(), 1)
        ):  # of a stack it takes 40 bytes
            pictures, squares, variances = self.sums[:, part]
            spread = np.maximum(squares / counts - (pictures / counts) ** 2, 0)
            answer[part] = np.sqrt(variances / counts + spread)
        for part, channel in np.argwhere(self.count == 0):
            answer[part, channel] = self._compute_noise_deviation(int(channel))[part]
        answer[:, list(self._calibration.constant_channels)] = 0
        return answer

    def _compute_noise_deviation(self, channel: int) -> npt.NDArray[np.float32]:
        """Give the noise's standard deviation at each pixel of a channel, in the result's size."""
        noise, signal = self._calibration.noise[channel], self._upscaled_stack[:, channel]
        return np.sqrt(
            compute_noise_variance(noise, signal, self._calibration.excess_variance)
        ).astype(np.float32)

    def _describe_prior(self) -> dict[str, str]:
        """Say which prior ran and why; where fits differ, that of the first, and who differs."""
        chosen, *rest = dict.fromkeys(outcome.prior for outcome in self.outcomes)
        task, block = self._plan.recipe.task, self._calibration.blind_spot_size
        budget = self._plan.budget
        plan_reason = budget.why if chosen == budget.prior else ""
        why = plan_reason or task.why(chosen, block)
        for other in rest:
            parts = ", ".join(outcome.unit for outcome in self.outcomes if outcome.prior == other)
            why += f"; in part {parts} '{other}' ran, since {task.why(other, block)}"
        return {"chosen": chosen, "why": why}

    def _list_notes(self) -> list[Note]:
        notes = [*self._plan.notes, *make_segment_notes(self._plan), *self._calibration.notes]
        notes += [note for outcome in self.outcomes for note in outcome.notes]
        if (kept := self._get_preserved_mask()) is not None and self._has_precision_loss(kept):
            notes.append(make_note("type-shortened", dtype=self._image.dtype.name))
        height, width = self._calibration.blind_spot_size[-2:]
        if height * width > 1 and self._calibration.prior in IMAGE_INPUT_PRIORS:
            notes.append(make_note("noise-correlated", width=width, height=height))
        notes += [
            make_note("channel-constant", channel=channel + 1)
            for channel in self._calibration.constant_channels
        ]
        return notes


def convert_to_input_dtype(
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
    if plan.recipe.run_settings.dtype == "float32":
        return image
    native = array.dtype.newbyteorder("=")
    answer = _round_to_dtype(image, native) if native.kind in "iu" else image.astype(native)
    if same.any():
        for axis, (fine, count) in enumerate(zip(image.shape, array.shape, strict=True)):
            array = array if fine == count else np.repeat(array, fine // count, axis)
        np.copyto(answer, array, where=same)
    return answer


def _round_to_dtype(image: npt.NDArray[np.float32], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round to whole numbers that the type holds."""
    limits = np.iinfo(kind)
    most = float(limits.max)
    if most > limits.max:  # the largest numbers of 64 bits are no doubles
        most = float(np.nextafter(most, 0))
    return np.clip(np.rint(image.astype(np.float64)), float(limits.min), most).astype(kind)
