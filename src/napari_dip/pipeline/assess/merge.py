"""Merge the results of work units into one image, and describe items that are unfinished."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors.notes import (
    StopReason,
    make_note,
    make_stop,
    serialise_notes,
    serialise_stop,
)
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.assess.metrics import measure_result
from napari_dip.pipeline.assess.quality_checks import assess_quality
from napari_dip.pipeline.assess.report import (
    compute_sha256,
    make_early_end_notes,
    make_run_report,
    make_unrestored_items_notes,
    round_to_six_digits,
    select_assessed_items,
    select_used_outcomes,
    serialise_fit,
    sum_planes,
    summarise_residual,
)
from napari_dip.pipeline.assess.report_fields import convert_nan_to_none
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.inputs import find_kept_pixels
from napari_dip.pipeline.plan.layout import from_stack, to_stack
from napari_dip.pipeline.plan.units import make_segment_notes
from napari_dip.pipeline.restoration import Restoration
from napari_dip.tasks.priors.image_input import describe_blind_spot
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome, WorkUnit

#: Reason for a prior of which the task says nothing.
DEFAULT_PRIOR_REASON = "it is the one that this task uses"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _MergedPixels:
    """Merged pixels: `image` in the input's axes and type, the others (N, C, *grid).

    `prediction` and `residual` are from before the mean of each channel was corrected, by
    `mean_correction`, and from after that of the planes of a volume.
    """

    image: AnyArray
    result: AnyArray
    std: AnyArray
    prediction: AnyArray
    residual: AnyArray
    mean_correction: AnyArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnitResult:
    """Result of one fit, or of all fits of one tile.

    Attributes
    ----------
    outcomes : tuple of UnitOutcome
    estimates : tuple of ndarray
        Restored image, std and prediction, float32 in the image's units; empty for joint
        training. Without a prediction, it equals the restored image.
    learned_parameters : mapping of str to ndarray
        Learned parameters of a fit, such as a PSF.
    residual_sums : sequence
        Sums over each plane of a tile, of measurement minus prediction and of its square, (2, C,
        planes): weighted by the tile's blending weights, so that those of all tiles add up to that
        of the image.
    """

    outcomes: tuple[UnitOutcome, ...]
    estimates: tuple[Float32Array, ...] = ()
    learned_parameters: Mapping[str, Float32Array] = field(default_factory=dict)
    residual_sums: Sequence[Any] = ()


class ResultMerger:
    """Accumulate mean and variance over restarts, and merge channels and items.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        The input. The grid of the result may be finer by integer factors.

    Attributes
    ----------
    calibrated_image : CalibratedImage
    sums : ndarray
        (3, N, C, *grid of the result): sums of images, squared images and variances.
    predictions : ndarray
        (N, C, *grid): sum of predicted measurements.
    result_counts : ndarray
        (N, C): number of merged results.
    outcomes : list of UnitOutcome
    learned_parameters : dict of (str, int) to ndarray
        Sums of learned parameters, by name and first channel.
    """

    def __init__(self, calibrated_image: CalibratedImage) -> None:
        self.calibrated_image = calibrated_image
        self._run_plan, self._calibration = calibrated_image.run_plan, calibrated_image.calibration
        self._header, self._layout = calibrated_image.header, calibrated_image.layout
        self._stack = self._upscaled_stack = stack = calibrated_image.stack
        self._input_pixels = calibrated_image.inputs["image"]
        factors = calibrated_image.run_plan.task_plan.get_factors(calibrated_image.layout.grid_axes)
        for axis, factor in enumerate(factors, stack.ndim - len(factors)):
            self._upscaled_stack = np.repeat(self._upscaled_stack, factor, axis)
        self.sums: FloatArray = np.zeros((3, *self._upscaled_stack.shape), np.float64)
        self.predictions: FloatArray = np.zeros(stack.shape, np.float64)
        self.result_counts: npt.NDArray[np.int64] = np.zeros(stack.shape[:2], np.int64)
        self.outcomes: list[UnitOutcome] = []
        self.learned_parameters: dict[tuple[str, int], Float32Array] = {}
        for channel in calibrated_image.calibration.constant_channels:
            self.sums[0, :, channel] = self._upscaled_stack[:, channel]
            self.predictions[:, channel] = stack[:, channel]
            self.result_counts[:, channel] = 1

    def add(self, unit: WorkUnit, result: UnitResult) -> None:
        """Add the result of one unit, with estimates (channels, *grid); joint training has none.

        The result of a fit that the user ended is not averaged with finished ones.
        """
        (outcome,) = result.outcomes
        self.outcomes.append(outcome)
        if not result.estimates or (outcome.is_ended_by_user and self._has_result(unit)):
            return
        image, std, prediction = result.estimates
        for name, values in result.learned_parameters.items():
            key = name, unit.channels[0]
            self.learned_parameters[key] = self.learned_parameters.get(key, 0) + values
        for index, channel in enumerate(unit.channels):
            item_channel = unit.item, channel
            self.sums[0][item_channel] += image[index]
            self.sums[1][item_channel] += image[index].astype(np.float64) ** 2
            self.sums[2][item_channel] += std[index].astype(np.float64) ** 2
            self.predictions[item_channel] += prediction[index]
            self.result_counts[item_channel] += 1

    def get_finished_item(
        self, item: int, channels: list[int]
    ) -> tuple[Float32Array, Float32Array]:
        """Return the restored image of an item and its standard deviation: (C, *grid) each."""
        sums = self.sums[:, item, channels]
        images, squares, variances = sums / self._get_counts()[item, channels]
        variance = variances + np.maximum(squares - images**2, 0)
        return images.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def get_estimates(self) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return image, standard deviation and prediction of all items: (N, C, *grid) each."""
        mean, prediction = self._compute_mean(), self._average_prediction()
        return mean.astype(np.float32), self._compute_std(), prediction.astype(np.float32)

    def make_preview(self, unit: WorkUnit, image: Float32Array) -> Float32Array:
        """Return the whole image, with the current estimate of a unit that is not finished."""
        mean = self._compute_mean()
        if not self._has_result(unit):
            mean[unit.item, list(unit.channels)] = image
        if (preserved_mask := self._get_preserved_mask()) is not None:
            mean = np.where(preserved_mask, self._stack, mean)
        if (filled := self._filled_mask) is not None:
            mean = np.where(filled, self._get_input_stack(), mean)
        return self._to_result_axes(self._calibration.undo_level(mean.astype(np.float32)))

    def make_restoration(
        self, seconds: float, *, is_timed_out: bool, unrestored_notes: tuple[Note, ...] = ()
    ) -> Restoration:
        """Return the merged image with its report.

        The mean of each channel, and of each plane of a volume, is corrected if the task keeps it.

        Parameters
        ----------
        seconds : float
            Duration of the run.
        is_timed_out : bool
            Whether the time limit ended the run.
        unrestored_notes : tuple of Note
            Notes on unrestored areas that are not items, such as tiles.
        """
        pixels = self._merge_pixels()
        used_outcomes = select_used_outcomes(self.calibrated_image, self.outcomes)
        has_file = self._run_plan.network is not None  # its outcomes are not those of this run
        own_outcomes = [
            outcome for outcome in self.outcomes if outcome.has_estimate or not has_file
        ] or self.outcomes
        first_outcome, last_outcome = own_outcomes[0], own_outcomes[-1]
        stop = (last_outcome if last_outcome.is_ended_by_user else first_outcome).stop
        if is_timed_out:
            stop = make_stop(StopReason.TIME, limit=self._run_plan.recipe.run_settings.time_limit)
        elif stop.reason is StopReason.ITERATIONS:
            stop = replace(stop, facts={**stop.facts, "several": len(own_outcomes) > 1})
        unfinished_notes = (
            *unrestored_notes,
            *make_unrestored_items_notes(
                self.calibrated_image, (self.result_counts == 0) & ~self._skipped_mask
            ),
            *(
                make_early_end_notes(self.calibrated_image, used_outcomes)
                or _make_restarts_notes(self._run_plan.units, used_outcomes)
            ),
        )
        metrics = measure_result(
            self.calibrated_image, pixels.residual, pixels.prediction, pixels.result, used_outcomes
        )
        assessed_items = select_assessed_items(pixels.residual, self._calibration.empty_items)
        deviation = metrics.residual and self._compute_deviations(pixels, assessed_items)
        used_ids = {outcome.unit_id for outcome in used_outcomes}
        report_entries: dict[str, Any] = {
            "iterations": sum(o.iterations for o in own_outcomes if o.unit_id in used_ids),
            "best_iteration": first_outcome.best_iteration,
            **serialise_stop(stop),
            "seconds": round(seconds, 2),
            "prior": self._serialise_prior(),
            "fit": serialise_fit(self.calibrated_image, self.outcomes, used_outcomes),
            "validation_loss": [
                [iteration, convert_nan_to_none(loss)]
                for iteration, _, loss in first_outcome.history
            ],
            "residual": summarise_residual(
                pixels.residual[assessed_items],
                pixels.prediction[assessed_items],
                self._calibration,
            ),
            **({"deviation": deviation} if deviation else {}),
            "verdict": assess_quality(metrics, unfinished_notes),
            "input_sha256": compute_sha256(self._input_pixels),
            "extra_inputs_sha256": {
                name: compute_sha256(array)
                for name, array in self.calibrated_image.inputs.items()
                if name != "image"
            },
            "output_sha256": compute_sha256(pixels.image),
            **serialise_notes(self._list_notes()),
        }
        report = make_run_report(self.calibrated_image, **report_entries)
        card = make_card(report)
        report["verdict"]["kind"] = str(card.verdict)
        report["verdict"]["headline"] = card.headline
        # those of the noise as well, and none that another one contradicts
        report["verdict"]["warnings"] = list(map(str, card.all_warnings))
        return Restoration(
            image=pixels.image,
            uncertainty=self._to_result_axes(pixels.std * self._calibration.noise_level),
            stop=stop,
            best_iteration=first_outcome.best_iteration,
            history=first_outcome.history,
            recipe=self._run_plan.recipe,
            learned_parameters=self._average_learned(),
            report=report,
            residual=self._to_input_axes(
                self._zero_unmeasured(pixels.residual - pixels.mean_correction)
                * self._calibration.noise_level
                * (1 if self._filled_mask is None else ~self._filled_mask)
            ),
            failure_score=metrics.residual.failure_score if metrics.residual else 0.0,
        )

    def _compute_deviations(self, pixels: _MergedPixels, items: Any) -> dict[str, float]:
        """Return the RMS of the noise's standard deviation, and of that of the result."""
        excess = self._calibration.excess_variance
        variances = [
            compute_noise_variance(noise, pixels.prediction[items, channel], excess)
            for channel, noise in enumerate(self._calibration.noise)
        ]
        deviations = np.sqrt(np.mean(variances)), np.sqrt(np.mean(pixels.std[items] ** 2.0))
        return dict(zip(("noise", "result"), map(round_to_six_digits, deviations), strict=True))

    def _merge_pixels(self) -> _MergedPixels:
        """Merge the outcomes; correct the mean, and put preserved and filled pixels back."""
        mean, prediction = self._compute_mean(), self._average_prediction()
        preserved_mask = self._get_preserved_mask()
        if preserved_mask is not None:  # the residual is exactly 0 there, without rounding errors
            prediction = np.where(preserved_mask, self._stack, prediction)
        residual, mean_correction, plane_shift = self._compute_residual(prediction)
        if plane_shift.any():  # all that follows is about volumes whose planes keep their means
            mean, prediction = mean + plane_shift, prediction + plane_shift
            residual = self._zero_unmeasured(residual - plane_shift)
        result = np.asarray(mean + mean_correction, np.float32)
        std = self._compute_std()
        if preserved_mask is not None:
            result = np.where(preserved_mask, self._stack, result)
            noise = np.stack([self._compute_noise_std(c) for c in range(mean.shape[1])], 1)
            std = np.where(preserved_mask, noise, std)
        input_image, copied_mask = self._correct_input(), self._make_input_mask(preserved_mask)
        image = convert_to_input_dtype(
            self._to_result_axes(self._calibration.undo_level(result)),
            input_image,
            self._run_plan,
            copied_mask,
        )
        if image.dtype != np.float32:  # assess the values after rounding and clipping
            result = to_stack(image, self._header.axes, self._layout)
            result = self._calibration.divide_by_level(result)
        if (filled := self._filled_mask) is not None:
            image = np.where(self._to_result_axes(filled), input_image.astype(image.dtype), image)
        return _MergedPixels(
            image=image,
            result=result,
            std=std,
            prediction=prediction,
            residual=residual,
            mean_correction=mean_correction,
        )

    def _correct_input(self) -> AnyArray:
        """Return the input in its own axes and type, corrected by camera maps if there are any."""
        if (
            self._calibration.camera_correction is None
            or self._calibration.level_correction is not None
        ):
            return self._input_pixels
        image = self._to_input_axes(self._get_input_stack())
        return convert_dtype(image, self._input_pixels.dtype.newbyteorder("="))

    def _get_input_stack(self) -> Float32Array:
        """Return the input as (N, C, *grid), nothing filled in, corrected by camera maps."""
        stack = to_stack(self._input_pixels, self._header.axes, self._layout)
        correction = self._calibration.camera_correction
        return stack if correction is None else correction.correct(stack)

    @cached_property
    def _filled_mask(self) -> BoolArray | None:
        """Mask of outliers and empty areas, which the result keeps as measured; None for none."""
        run_plan = self._run_plan
        if not self._calibration.filled_count or not run_plan.recipe.task.spec.keeps_pixel_grid:
            return None
        stack = self._get_input_stack()
        if (measured_mask := self._calibration.measured_mask) is not None:
            return np.asarray((stack != self._stack) & measured_mask)
        return find_kept_pixels(stack, self._stack)

    @cached_property
    def _skipped_mask(self) -> BoolArray:
        """Mask (N, C) of items of one value, which are not fitted."""
        mask = np.zeros(self.result_counts.shape, np.bool_)
        for item in self._calibration.empty_items:
            mask[item] = True
        return np.asarray(mask & (self.result_counts == 0))

    def _list_empty_notes(self) -> tuple[Note, ...]:
        """Return notes on planes of one value that the result keeps as measured."""
        mask, layout = self._calibration.empty_planes, self._layout
        if mask is None:
            return ()
        if not self._run_plan.recipe.task.spec.keeps_pixel_grid:
            mask = mask & (self.result_counts == 0).reshape(mask.shape[:2] + (1,) * (mask.ndim - 2))
        if layout.is_volume:  # name the planes along depth
            mask = np.moveaxis(mask, 1, -1).reshape(-1, mask.shape[1])
            item_axes = layout.item_axes + layout.grid_axes[0]
            layout = replace(layout, item_axes=item_axes, grid_axes=layout.grid_axes[1:])
        image = replace(self.calibrated_image, layout=layout)
        return make_unrestored_items_notes(image, mask, "parts-empty")

    def _compute_mean(self) -> FloatArray:
        """Return the mean image so far; the input where there is no result."""
        count = self._get_counts()
        return np.where(count > 0, self.sums[0] / np.maximum(count, 1), self._upscaled_stack)

    def _get_preserved_mask(self) -> BoolArray | None:
        """Return a mask of measured pixels that the task keeps unchanged; None if it keeps none."""
        keeps_pixels = self._run_plan.task_plan.keeps_measured_pixels
        return self._calibration.measured_mask if keeps_pixels else None

    def _make_input_mask(self, preserved_mask: BoolArray | None) -> BoolArray:
        """Return a mask, in the shape of the result, of pixels that are copies of the input."""
        input_mask = np.zeros(self._upscaled_stack.shape, np.bool_)
        input_mask[self.result_counts == 0] = True
        if self._filled_mask is not None:  # which the result gets at last
            input_mask &= ~self._filled_mask
        input_mask[:, list(self._calibration.constant_channels)] = True
        if preserved_mask is not None:
            input_mask |= preserved_mask
        return self._to_result_axes(input_mask)

    def _has_precision_loss(self, preserved_mask: BoolArray) -> bool:
        """Return whether float32 rounds measured pixels that the result keeps."""
        pixels = self._input_pixels
        if self._run_plan.recipe.run_settings.dtype != "float32" or pixels.dtype.itemsize < 4:
            return False
        with np.errstate(invalid="ignore"):
            is_rounded = pixels != pixels.astype(np.float32)
        return bool(np.any(is_rounded & self._to_result_axes(preserved_mask)))

    def _average_prediction(self) -> FloatArray:
        """Return the mean predicted measurement; the input where there is no result."""
        count = self._get_counts()
        return np.where(count > 0, self.predictions / np.maximum(count, 1), self._stack)

    def _compute_residual(
        self, prediction: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the residual, 0 where nothing was measured, and what corrects the mean by it.

        These are the shift of each channel, and the differences of the shifts of its planes.
        """
        residual = self._zero_unmeasured(self._stack - prediction)
        restored_mask = self._calibration.measured_mask
        if self._filled_mask is not None:  # the result keeps these pixels as measured
            restored_mask = ~self._filled_mask & (True if restored_mask is None else restored_mask)
        task_spec, noise = self._run_plan.recipe.task.spec, self._calibration.noise
        common, differences = sum_planes(residual, restored_mask).compute_shifts(task_spec, noise)
        items_and_channels, depth = residual.shape[:2], residual.shape[2:-2]
        grid = [1] * (residual.ndim - 2)
        return (
            residual,
            common.reshape(*items_and_channels, *grid),
            differences.reshape(*items_and_channels, *depth, 1, 1),
        )

    def _zero_unmeasured(self, values: FloatArray) -> FloatArray:
        measured_mask = self._calibration.measured_mask
        return values if measured_mask is None else values * measured_mask

    def _get_counts(self) -> npt.NDArray[np.int64]:
        """Return the number of merged results, shaped to broadcast with (N, C, *grid)."""
        return self.result_counts.reshape(*self.result_counts.shape, *[1] * (self._stack.ndim - 2))

    def _to_result_axes(self, stack: AnyArray) -> AnyArray:
        """Return a stack of the result in the axes and shape of the result."""
        return from_stack(
            stack, self._header.axes, self.calibrated_image.result_shape, self._layout
        )

    def _to_input_axes(self, stack: AnyArray) -> Float32Array:
        """Return a stack of the input in the axes and shape of the input."""
        header, layout = self._header, self._layout
        arranged = from_stack(stack.astype(np.float32), header.axes, header.shape, layout)
        return np.asarray(arranged, np.float32)

    def _average_learned(self) -> dict[str, Float32Array]:
        """Return learned parameters, averaged over restarts and stacked over separate channels."""
        means: dict[str, list[Float32Array]] = {}
        for name, channel in sorted(self.learned_parameters, key=lambda key: key[1]):
            count = max(1, self.result_counts[:, channel].sum())
            mean = np.asarray(self.learned_parameters[name, channel] / count, np.float32)
            means.setdefault(name, []).append(mean)
        return {
            name: arrays[0] if len(arrays) == 1 else np.stack(arrays)
            for name, arrays in means.items()
        }

    def _has_result(self, unit: WorkUnit) -> bool:
        """Return whether all channels of a unit have a result."""
        return bool((self.result_counts[unit.item, list(unit.channels)] > 0).all())

    def _compute_std(self) -> Float32Array:
        """Return the standard deviation; that of the noise where there is no result."""
        std = np.empty(self._upscaled_stack.shape, np.float32)
        # item by item, since temporary arrays take 40 bytes per pixel
        for item, counts in enumerate(np.maximum(self._get_counts(), 1)):
            images, squares, variances = self.sums[:, item]
            spread = np.maximum(squares / counts - (images / counts) ** 2, 0)
            std[item] = np.sqrt(variances / counts + spread)
        for item, channel in np.argwhere(self.result_counts == 0):
            std[item, channel] = self._compute_noise_std(int(channel))[item]
        std[:, list(self._calibration.constant_channels)] = 0
        return std

    def _compute_noise_std(self, channel: int) -> Float32Array:
        """Return the noise's standard deviation at each pixel of a channel of the result."""
        noise, signal = self._calibration.noise[channel], self._upscaled_stack[:, channel]
        variance = compute_noise_variance(noise, signal, self._calibration.excess_variance)
        return np.sqrt(variance).astype(np.float32)

    def _serialise_prior(self) -> dict[str, str]:
        """Return the prior of the first fit with its reason, which also names fits that differ."""
        chosen_key, *other_keys = dict.fromkeys(outcome.prior_key for outcome in self.outcomes)
        fit_config = self._run_plan.fit_config
        plan_reason = fit_config.prior_reason if chosen_key == fit_config.prior_key else ""
        reason = plan_reason or self._explain_prior(chosen_key)
        for prior_key in other_keys:
            unit_ids = ", ".join(o.unit_id for o in self.outcomes if o.prior_key == prior_key)
            other_reason = self._explain_prior(prior_key)
            reason += f"; in part {unit_ids} '{prior_key}' ran, since {other_reason}"
        return {"key": chosen_key, "reason": reason}

    def _explain_prior(self, prior_key: str) -> str:
        """Return the task's reason for a prior, with the size of its blind spots."""
        reason = self._run_plan.task_plan.prior_reasons.get(prior_key, DEFAULT_PRIOR_REASON)
        size, rows = self._calibration.blind_spot_size, self._run_plan.task_plan.blind_spot_shape
        return reason.format(blind_spot=describe_blind_spot(size, rows))

    def _list_notes(self) -> list[Note]:
        segment_notes = make_segment_notes(self._run_plan)
        notes = [*self._run_plan.notes, *segment_notes, *self._calibration.notes]
        notes += dict.fromkeys(note for outcome in self.outcomes for note in outcome.notes)
        preserved_mask = self._get_preserved_mask()
        if preserved_mask is not None and self._has_precision_loss(preserved_mask):
            notes.append(make_note("type-shortened", dtype=self._input_pixels.dtype.name))
        height, width = self._calibration.blind_spot_size[-2:]
        input_traits = PRIOR_SPECS[self._run_plan.fit_config.prior_key].input_traits
        if height * width > 1 and input_traits.has_masked_pixels:
            notes.append(make_note("noise-correlated", width=width, height=height))
        notes += [
            make_note("channel-constant", channel=channel + 1)
            for channel in self._calibration.constant_channels
        ]
        return [*notes, *self._list_empty_notes()]


def _make_restarts_notes(
    units: Sequence[WorkUnit], used_outcomes: Sequence[UnitOutcome]
) -> tuple[Note, ...]:
    """Return a note if restored parts are averages of fewer restarts than planned."""
    restart_ids = {unit.id: unit.first_restart_id for unit in units}
    planned = Counter(unit.first_restart_id for unit in units if unit.has_estimate)
    averaged = Counter(restart_ids.get(outcome.unit_id, "") for outcome in used_outcomes)
    fewest = min((n for key, n in averaged.items() if n < planned[key]), default=0)
    if not fewest:
        return ()
    facts = {"count": fewest, "most": max(planned.values()), "several": len(planned) > 1}
    return (make_note("restarts-missing", **facts),)


def convert_to_input_dtype(
    image: Float32Array, array: AnyArray, plan: Plan, copied_mask: BoolArray
) -> AnyArray:
    """Convert a result to the input's data type if the recipe asks for it.

    Parameters
    ----------
    image : ndarray
        The result.
    array : ndarray
        The input in the same axes; the result may be finer by integer factors.
    plan : Plan
    copied_mask : ndarray of bool
        True where the result is a copy of the input. These pixels are taken from `array`, since
        float32 does not represent all integers above 2 ** 24.
    """
    if plan.recipe.run_settings.dtype == "float32":
        return image
    converted = convert_dtype(image, array.dtype.newbyteorder("="))
    if copied_mask.any():
        for axis, (result_size, count) in enumerate(zip(image.shape, array.shape, strict=True)):
            array = array if result_size == count else np.repeat(array, result_size // count, axis)
        np.copyto(converted, array, where=copied_mask)
    return converted


def convert_dtype(image: Float32Array | FloatArray, dtype: np.dtype[Any]) -> AnyArray:
    """Convert to a data type; for integers, round and clip to the range of the type."""
    if dtype.kind not in "iu":
        return image.astype(dtype)
    limits = np.iinfo(dtype)
    max_value = float(limits.max)
    if max_value > limits.max:  # float64 cannot represent the largest 64-bit integers
        max_value = float(np.nextafter(max_value, 0))
    return np.clip(np.rint(image.astype(np.float64)), float(limits.min), max_value).astype(dtype)
