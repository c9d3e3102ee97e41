"""Build the report of a run in plain JSON types: settings, versions, noise, fit and residual.

Its notes name the fits that ended early and the items that were not restored.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from napari_dip.errors.notes import StopReason, make_note, parse_report_notes, serialise_notes
from napari_dip.io.lazy_images import iter_chunks
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.machine import get_torch_version
from napari_dip.pipeline.plan.joint_training import summarise_joint_training
from napari_dip.pipeline.plan.layout import ITEM_NAMES, REGION_AXIS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, FloatArray
    from napari_dip.io.lazy_images import MemoryMappedImage
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration
    from napari_dip.pipeline.plan.types import UnitOutcome, WorkUnit
    from napari_dip.public_types import Report
    from napari_dip.tasks.base import TaskSpec

#: Keys that differ between runs of the same recipe, or are not needed to repeat or judge a result.
_RUN_SPECIFIC_KEYS = ("seconds", "peak_bytes", "validation_loss", "recipe", "residual", "notes")
#: Maximum number of pixels per channel that are assessed; of larger stacks, evenly spread planes or
#: frames are taken. A correlation is then known to 0.001, and sorting takes 80 bytes per pixel.
MAX_ASSESSED_PIXELS = 2**22
#: Maximum absolute residual in units of a quantile of absolute residuals (docs/constants.md).
MAX_RESIDUAL_SIZE_RATIO = 30.0
#: Quantile of absolute residuals that `MAX_RESIDUAL_SIZE_RATIO` refers to: 2.6 standard deviations
#: of normal noise.
RESIDUAL_SIZE_QUANTILE = 0.99
#: Maximum number of planes that `RESIDUAL_SIZE_QUANTILE` is taken from.
MAX_QUANTILE_PLANES = 8
#: Maximum number of pixels that `RESIDUAL_SIZE_QUANTILE` is taken from.
MAX_QUANTILE_PIXELS = 1_000_000
#: Percentile that is taken as the dark level of an image. Relative changes of the mean refer to the
#: intensity above it, so that a camera's offset does not make them look small.
DARK_PERCENTILE = 1.0
#: Standard errors of a plane's mean that a change of it exceeds before it counts: what the noise
#: leaves open is within one (`PlaneSums.compute_shifts`).
PLANE_STANDARD_ERRORS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneChange:
    """How the means of single planes changed, as fractions of these above the dark level.

    Attributes
    ----------
    name : str
        The plane that changed most beyond its standard error, such as "plane 3".
    noun : str
        "plane" or "frame".
    channel_number : int or None
        Its channel, where there are several.
    change : float
        Its change.
    excess : float
        The part of it beyond `PLANE_STANDARD_ERRORS`.
    largest : float
        Largest change of any plane.
    """

    name: str
    noun: str
    channel_number: int | None
    change: float
    excess: float
    largest: float


class PlaneSums(NamedTuple):
    """Sums over the pixels of each plane of a residual: (..., C, planes) each.

    Attributes
    ----------
    residuals, squares : ndarray
        Sums of the residual, and of its square.
    pixels : ndarray
        Number of pixels.
    """

    residuals: FloatArray
    squares: FloatArray
    pixels: FloatArray

    @property
    def means(self) -> FloatArray:
        """Mean residual of each plane; 0 without pixels."""
        return np.asarray(self.residuals / np.maximum(self.pixels, 1))

    def compute_errors(self, noise_estimates: Sequence[NoiseEstimate]) -> FloatArray:
        """Return the standard error of each mean: larger for noise that neighbours share."""
        widening = [
            prod(1 + 2 * sum(max(lag, 0.0) for lag in axis) for axis in (n.along_y, n.along_x))
            for n in noise_estimates
        ]
        count = np.maximum(self.pixels, 1)
        variance = np.maximum(self.squares / count - self.means**2, 0) / count
        return np.asarray(np.sqrt(variance * np.reshape(widening, (-1, 1))))

    def compute_shifts(
        self, task_spec: TaskSpec, noise_estimates: Sequence[NoiseEstimate]
    ) -> tuple[FloatArray, FloatArray]:
        """Return the shift by which each channel keeps its mean, and how that of planes differs.

        The planes of a volume, which one fit changes differently, keep their means as far as these
        are larger than their errors: the error's share of the square is left out, as by James and
        Stein, Proc. 4th Berkeley Symp. 1, 1961. Behind an operator, a plane has no mean of its own.

        Returns
        -------
        common, differences : ndarray
            (..., C, 1) and (..., C, planes). The mean of the differences over all pixels is 0.
        """
        total = np.maximum(self.pixels.sum(-1, keepdims=True), 1)
        common = self.residuals.sum(-1, keepdims=True) / total
        if not task_spec.keeps_mean:
            common = np.zeros_like(common)
        if not (task_spec.keeps_mean and task_spec.keeps_pixel_grid) or self.pixels.shape[-1] == 1:
            return common, np.zeros_like(self.residuals)
        squares = np.maximum(self.means**2, np.finfo(np.float64).tiny)
        certain = 1 - self.compute_errors(noise_estimates) ** 2 / squares
        shifts = self.means * np.maximum(certain, 0)
        return common, shifts - (shifts * self.pixels).sum(-1, keepdims=True) / total


def compute_sha256(array: AnyArray | MemoryMappedImage) -> str:
    """Return the SHA-256 of shape, type and pixels, independent of memory order and byte order.

    True and False count as 1 and 0 in 8 bits, as which a mask is saved.
    """
    native_dtype = np.dtype(array.dtype if array.dtype != bool else np.uint8).newbyteorder("=")
    digest = hashlib.sha256(f"{native_dtype.str}{tuple(array.shape)}".encode())
    for chunk in iter_chunks(array):
        digest.update(chunk.astype(native_dtype, copy=False).tobytes())
    return digest.hexdigest()


def measure_peak_bytes() -> int:
    """Return the peak memory of this process, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def serialise_noise(calibration: Calibration) -> dict[str, Any]:
    """Return the measured noise in plain types: image units, one value for each channel."""
    camera = calibration.camera_noise
    deviations = [round_to_six_digits(noise.relative_deviation) for noise in calibration.noise]
    return {
        "model": calibration.noise_model,
        **({} if camera is None else {"camera": camera.to_dict()}),
        **({"relative_deviation": deviations} if any(deviations) else {}),
        "gain": [round_to_six_digits(noise.gain) for noise in calibration.noise],
        "intercept": [round_to_six_digits(noise.intercept) for noise in calibration.noise],
        "offset": [round_if_known(noise.offset) for noise in calibration.noise],
        "read_noise": [round_if_known(noise.read_noise) for noise in calibration.noise],
        "unreliable_reason": [
            noise.unreliable_reason and noise.unreliable_reason.value for noise in calibration.noise
        ],
        "caution": [noise.caution and noise.caution.value for noise in calibration.noise],
        "autocorrelation": {
            "y": [list(noise.along_y) for noise in calibration.noise],
            "x": [list(noise.along_x) for noise in calibration.noise],
        },
        "blind_spot_size": list(calibration.blind_spot_size),
    }


def serialise_fit(
    calibrated_image: CalibratedImage,
    outcomes: Sequence[UnitOutcome],
    used_outcomes: Sequence[UnitOutcome],
) -> dict[str, Any]:
    """Return what was fitted and how, in plain types; of `used_outcomes` the image is made."""
    header, run_plan = calibrated_image.header, calibrated_image.run_plan
    fit_config, network = run_plan.fit_config, run_plan.network
    has_start = network is not None and network.is_of_one_image
    iterations = (run_plan.units[0] if has_start else fit_config).iterations
    estimates = [outcome for outcome in outcomes if outcome.has_estimate]
    stopped_count = sum(outcome.is_ended_by_user for outcome in estimates)
    joint_training = summarise_joint_training(outcomes)
    if network is not None:
        joint_training["joint_training"] |= network.report_fields
    return {
        "axes": calibrated_image.layout.grid_axes,
        "inputs": list(run_plan.extra_headers),
        "scale": None if header.scale is None else list(header.scale),
        "units": None if header.units is None else list(header.units),
        "widths": list(fit_config.widths),
        "max_iterations": iterations + fit_config.refit_iterations,
        "refit_iterations": sum(outcome.refit_iterations for outcome in estimates),
        "restarts": fit_config.restarts,
        "half_resolution": calibrated_image.calibration.half_resolution is not None,
        "refined": any(outcome.is_refined for outcome in outcomes),
        "blended": any(outcome.is_blended for outcome in outcomes),
        **_find_detail_limits(calibrated_image, used_outcomes),
        "finished_fit_count": len(estimates) - stopped_count,
        "stopped_fit_count": stopped_count,
        "unused_fit_count": len(outcomes) - len(used_outcomes),
        **joint_training,
    }


def _find_detail_limits(
    calibrated_image: CalibratedImage, outcomes: Sequence[UnitOutcome]
) -> dict[str, dict[str, float]]:
    """Return the weakest peaks of spots and lines that stay, by width; empty if not known.

    They hold at the median brightness of the channel where they are highest. Those of lines are
    not known for frames and planes that are restored with their neighbours.
    """
    from napari_dip.engine.likelihood.lost_detail import compute_line_limits, compute_spot_limits

    calibration, layout = calibrated_image.calibration, calibrated_image.layout
    varied_noise = {channel: calibration.noise[channel] for channel in calibration.varied_channels}
    is_white = calibration.half_resolution is None and max(calibration.blind_spot_size) == 1
    restores_each_pixel = calibrated_image.run_plan.recipe.task.spec.keeps_pixel_grid
    is_known = (
        restores_each_pixel
        and all(outcome.is_refined for outcome in outcomes)
        and all(noise.has_bounded_tails for noise in varied_noise.values())
    )
    functions = {"min_spot_snr": compute_spot_limits}
    if not layout.get_neighbour_axis(calibrated_image.header):
        functions["min_line_snr"] = compute_line_limits
    limits: dict[str, dict[str, float]] = {"min_spot_snr": {}, "min_line_snr": {}}
    for channel, noise in varied_noise.items() if is_white and is_known else ():
        brightness = np.median(calibrated_image.stack[:, channel])
        variance = float(compute_noise_variance(noise, brightness))
        for name, compute_limits in functions.items():
            for width, peak in compute_limits(variance, abs(noise.gain)).items():
                limits[name][width] = max(limits[name].get(width, 0.0), peak)
    return limits


def summarise_residual(
    residuals: FloatArray, predictions: FloatArray, calibration: Calibration
) -> dict[str, float]:
    """Return lag-1 correlation and mean of the residual, over channels that are not constant.

    The first is the mean correlation of neighbours in the residual, divided by the noise's standard
    deviation. Both figures describe the fitted image, before its mean was corrected.

    Parameters
    ----------
    residuals, predictions : ndarray
        (N, C, *grid): measurement minus prediction, 0 where nothing was measured, and the
        prediction.
    calibration : Calibration
    """
    correlations, total = [], 0.0
    for channel, noise in enumerate(calibration.noise):
        if channel in calibration.constant_channels:
            continue
        residual = residuals[:, channel]
        total += float(residual.mean())
        variance = compute_noise_variance(
            noise, predictions[:, channel], calibration.excess_variance
        )
        residual = residual / np.sqrt(variance)
        residual -= residual.mean()
        power = float((residual**2).mean()) or 1.0
        covariance = (
            (residual[..., 1:, :] * residual[..., :-1, :]).mean()
            + (residual[..., 1:] * residual[..., :-1]).mean()
        ) / 2
        correlations.append(float(covariance) / power)
    return {
        "lag_1_correlation": round_to_six_digits(float(np.mean(correlations))),
        "mean": round_to_six_digits(total / len(correlations)),
    }


def make_run_report(calibrated_image: CalibratedImage, **facts: Any) -> Report:
    """Return the report of a run; `facts` are additional entries."""
    from napari_dip.version import __version__

    run_plan = calibrated_image.run_plan
    report = {
        "task": run_plan.recipe.task.spec.name,
        "recipe": json.loads(run_plan.recipe.to_json()),
        "version": __version__,
        "torch": get_torch_version(),
        "device": run_plan.device,
        "threads": run_plan.threads,
        "seed": run_plan.recipe.run_settings.seed,
        "shape": list(calibrated_image.header.shape),
        "axes": calibrated_image.header.axes,
        "noise": serialise_noise(calibrated_image.calibration),
        **facts,
        "peak_bytes": measure_peak_bytes(),
    }
    return cast("Report", report)


def select_repeatable_fields(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a report that are saved with a result: the same for each repetition."""
    return {key: value for key, value in report.items() if key not in _RUN_SPECIFIC_KEYS}


def round_to_six_digits(value: float) -> float:
    """Round to six digits; further ones have no statistical meaning."""
    return float(f"{value:.6g}")


def add_notes(report: Mapping[str, Any], notes: Iterable[Note], **fields: Any) -> Report:
    """Return a report with further notes and further fields."""
    all_notes = (*parse_report_notes(report), *notes)
    return cast("Report", {**report, **fields, **serialise_notes(all_notes)})


def select_assessed_items(
    stack: AnyArray, empty_items: Iterable[tuple[int, int]] = ()
) -> slice | npt.NDArray[np.intp]:
    """Select evenly spread items, at least one, of at most `MAX_ASSESSED_PIXELS` per channel.

    Parameters
    ----------
    stack : ndarray
        (N, C, *grid).
    empty_items : iterable of (int, int)
        Items and channels of one value. These items are left out, unless there are no others.
    """
    empty = {item for item, _ in empty_items}
    fitted = [item for item in range(len(stack)) if item not in empty] or range(len(stack))
    count, pixels_per_item = len(fitted), max(1, stack[:1, :1].size)
    selected_count = max(1, MAX_ASSESSED_PIXELS // pixels_per_item)
    if selected_count >= count:
        return np.asarray(fitted) if empty else slice(None)
    return np.asarray(fitted)[np.linspace(0, count - 1, selected_count).round().astype(np.intp)]


def zero_residual_outliers(residual: FloatArray) -> FloatArray:
    """Set extreme values of a residual (C or N, ...) to zero.

    A few outliers in the measurement must not dominate the mean of the residual.
    """
    sample = residual[:: -(-len(residual) // MAX_QUANTILE_PLANES)].reshape(-1)
    sizes = np.abs(sample[:: -(-sample.size // MAX_QUANTILE_PIXELS)])
    sizes = sizes[sizes > 0]  # zeros are not measured, or in constant channels
    usual_size = float(np.quantile(sizes, RESIDUAL_SIZE_QUANTILE)) if sizes.size else 0.0
    max_size = MAX_RESIDUAL_SIZE_RATIO * usual_size
    has_outliers = 0 < max_size < max(float(residual.max()), -float(residual.min()))
    return np.where(np.abs(residual) > max_size, 0.0, residual) if has_outliers else residual


def sum_planes(residual: FloatArray, pixel_mask: BoolArray | None = None) -> PlaneSums:
    """Return the sums over each plane of a residual (N, C, *grid), where a mask is True."""
    values = zero_residual_outliers(residual if pixel_mask is None else residual * pixel_mask)
    shape, plane_pixels = (*residual.shape[:2], -1), float(prod(residual.shape[-2:]))
    squares = np.einsum("...yx,...yx->...", values, values)
    sums = values.sum((-2, -1)), squares, np.full(squares.shape, plane_pixels)
    if pixel_mask is not None:
        sums = (*sums[:2], pixel_mask.sum((-2, -1), dtype=np.float64))
    return PlaneSums(*(array.reshape(shape) for array in sums))


def measure_brightness(
    pixels: AnyArray, measured_mask: BoolArray | None = None
) -> tuple[float, float]:
    """Return the mean of the measured pixels, and its height above the dark level."""
    measured = pixels.reshape(-1) if measured_mask is None else pixels[measured_mask]
    if not measured.size:
        return 0.0, 1.0
    mean = float(measured.mean(dtype=np.float64))
    height = mean - float(np.percentile(measured, DARK_PERCENTILE))
    return mean, height if height > 0 else 1.0


def find_changed_plane(
    calibrated_image: CalibratedImage, residual: FloatArray, results: tuple[AnyArray, AnyArray]
) -> PlaneChange | None:
    """Compare the mean of each plane with that of the input; None without several planes.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        The input.
    residual : ndarray
        (N, C, *grid), 0 where nothing was measured.
    results : tuple of ndarray
        The result on the same grid, and the same with clipped noise: the change of the mean lies
        between those of both.
    """
    run_plan, calibration = calibrated_image.run_plan, calibrated_image.calibration
    stack, mask = calibrated_image.stack, calibration.measured_mask
    layout, header = calibrated_image.layout, calibrated_image.header
    axes = layout.item_axes + layout.grid_axes[:-2]
    is_comparable = run_plan.recipe.task.spec.keeps_pixel_grid and not run_plan.regions
    if not is_comparable or REGION_AXIS in axes or stack[:, 0].size == prod(stack.shape[-2:]):
        return None
    planes = sum_planes(residual, mask)
    errors = PLANE_STANDARD_ERRORS * planes.compute_errors(calibration.noise)

    def compute_means(pixels: AnyArray) -> FloatArray:
        valid = pixels if mask is None else pixels * mask
        sums = valid.sum((-2, -1), dtype=np.float64).reshape(errors.shape)
        return np.asarray(sums / np.maximum(planes.pixels, 1))

    means = compute_means(stack)
    low, high = np.sort([compute_means(result) - means for result in results], axis=0)
    changes = np.maximum(low, 0) + np.minimum(high, 0)
    dark_levels = [
        np.subtract(*measure_brightness(stack[:, c], None if mask is None else mask[:, c]))
        for c in range(stack.shape[1])
    ]
    heights = means - np.reshape(dark_levels, (-1, 1))
    scales = np.divide(1.0, heights, out=np.zeros_like(heights), where=heights > 0)
    excesses = np.maximum(np.abs(changes) - errors, 0) * scales
    item, channel, plane = np.unravel_index(int(excesses.argmax()), excesses.shape)
    indices = np.unravel_index(item * errors.shape[-1] + plane, header.get_sizes(axes))
    numbers = {
        ITEM_NAMES[axis]: index + 1
        for axis, index in zip(axes, indices, strict=True)
        if header.get_size(axis) > 1
    }
    return PlaneChange(
        name=", ".join(f"{noun} {number}" for noun, number in numbers.items()),
        noun=list(numbers)[-1],
        channel_number=int(channel) + 1 if stack.shape[1] > 1 else None,
        change=float((changes * scales)[item, channel, plane]),
        excess=float(excesses[item, channel, plane]),
        largest=float(np.abs(changes * scales).max()),
    )


def round_if_known(value: float | None) -> float | None:
    """Round to six digits; None for a value that is None or infinite."""
    return None if value is None or value == inf else round_to_six_digits(value)


def select_used_outcomes(
    calibrated_image: CalibratedImage, outcomes: Sequence[UnitOutcome]
) -> list[UnitOutcome]:
    """Leave out fits that are not in the image: ended, while another restart has completed.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    outcomes : sequence of UnitOutcome
    """
    restart_ids = {unit.id: unit.first_restart_id for unit in calibrated_image.run_plan.units}
    completed_ids = {
        restart_ids.get(outcome.unit_id)
        for outcome in outcomes
        if outcome.has_estimate and not outcome.is_ended_by_user
    }
    return [
        outcome
        for outcome in outcomes
        if not outcome.is_ended_by_user or restart_ids.get(outcome.unit_id) not in completed_ids
    ]


def make_early_end_notes(
    calibrated_image: CalibratedImage, used_outcomes: Sequence[UnitOutcome]
) -> tuple[Note, ...]:
    """Return a warning about fits that the user or the time limit ended early.

    There is no warning for a fit that was kept only during its final inference.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    used_outcomes : sequence of UnitOutcome
    """
    units = {unit.id: unit for unit in calibrated_image.run_plan.units}
    early = [
        outcome
        for outcome in used_outcomes
        if outcome.is_ended_by_user and outcome.stop.reason is StopReason.USER
    ]
    if not early:
        return ()
    unit, count = units.get(early[0].unit_id), early[0].iterations
    if len(early) > 1 or unit is None:
        return (make_note("fits-ended-early", count=len(early), several=len(early) > 1),)
    most = unit.iterations + calibrated_image.run_plan.fit_config.refit_iterations
    part = _describe_fitted_item(calibrated_image, unit)
    facts = {"count": count, "most": most, "before_end": count < most}
    return (make_note("fit-ended-early", part=part, **facts),)


def _describe_fitted_item(calibrated_image: CalibratedImage, unit: WorkUnit) -> str:
    """Return a name for the item that was fitted, such as "plane 2"; "" if there is only one."""
    if unit.tile is not None:
        return "a tile"
    item_axes = _get_item_axes(calibrated_image)
    if len(item_axes) == 1:
        return f"{ITEM_NAMES[item_axes]} {unit.item + 1}"
    return "a plane" if item_axes else ""


def _get_item_axes(calibrated_image: CalibratedImage) -> str:
    """Return the axes along which the image has more than one item."""
    header, item_axes = calibrated_image.header, calibrated_image.layout.item_axes
    return "".join(axis for axis in item_axes if header.get_size(axis) > 1)


def make_unrestored_items_notes(
    calibrated_image: CalibratedImage, missing: BoolArray, code: str = "parts-unrestored"
) -> tuple[Note, ...]:
    """Return notes on the planes, frames and channels that were not restored.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    missing : ndarray of bool
        (N, C), in the image's layout; True where there is no result.
    code : str
        "parts-unrestored", or "parts-empty" for items of one value.
    """
    channels = missing.all(0)
    channel_missing = missing[:, ~channels]
    is_missing = channel_missing.all(1) & ~channels.all()
    notes = _format_unrestored(code, "channel", np.flatnonzero(channels))
    notes += _make_unrestored_notes(calibrated_image, code, np.flatnonzero(is_missing))
    for channel in np.flatnonzero(~channels):
        missing_items = np.flatnonzero(missing[:, channel] & ~is_missing)
        notes += _make_unrestored_notes(
            calibrated_image, code, missing_items, channel_number=int(channel) + 1
        )
    return tuple(notes)


def make_unrestored_tiles_notes(missing_count: int, count: int) -> tuple[Note, ...]:
    """Return a note on the number of tiles that were not restored; empty if there are none."""
    if not missing_count:
        return ()
    facts = {"missing": missing_count, "count": count, "several": missing_count > 1}
    return (make_note("tiles-unrestored", **facts),)


def _make_unrestored_notes(
    calibrated_image: CalibratedImage, code: str, items: npt.NDArray[np.intp], **facts: int
) -> list[Note]:
    """Return notes that name items as frames, planes, or planes of a frame."""
    item_axes = _get_item_axes(calibrated_image)
    if len(item_axes) < 2:
        return _format_unrestored(code, ITEM_NAMES.get(item_axes, "part"), items, **facts)
    plane_count = calibrated_image.header.get_sizes(calibrated_image.layout.item_axes)[1]
    frames, planes = np.divmod(items, plane_count)
    frame_indices, plane_counts = np.unique(frames, return_counts=True)
    unrestored_frames = frame_indices[plane_counts == plane_count]
    notes = _format_unrestored(code, ITEM_NAMES["T"], unrestored_frames, **facts)
    for frame in np.setdiff1d(frames, unrestored_frames):
        numbers = planes[frames == frame]
        notes += _format_unrestored(code, ITEM_NAMES["Z"], numbers, frame + 1, **facts)
    return notes


def _format_unrestored(
    code: str, noun: str, indices: npt.NDArray[np.intp], frame: int | None = None, **facts: int
) -> list[Note]:
    """Return one note on unrestored items, given their 0-based indices; empty if there are none."""
    if not len(indices):
        return []
    # in lower case after a prefix such as "Channel 2: "
    noun = noun if facts else noun.capitalize()
    numbers, several = _format_number_ranges(indices), len(indices) > 1
    details = {"noun": noun, "numbers": numbers, "frame": frame, "several": several}
    return [make_note(code, **details, **facts)]


def _format_number_ranges(indices: npt.NDArray[np.intp]) -> str:
    """Format 0-based indices as 1-based numbers, such as "2, 4 and 6 to 9"."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    ranges = []
    for run in runs:
        if len(run) > 2:
            ranges.append(f"{run[0] + 1} to {run[-1] + 1}")
        else:
            ranges += [str(number + 1) for number in run]
    *all_but_last, last = ranges
    return f"{', '.join(all_but_last)} and {last}" if all_but_last else last
