"""The report of a run: what was done, with what, and how it went, in plain JSON types."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.io.regions import iter_chunks
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.machine import get_torch_version
from napari_dip.pipeline.plan.joint_training import summarise_joint_training

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome


def compute_sha256(array: npt.NDArray[Any] | MemoryMappedImage) -> str:
    """Hash of shape, type and pixels, whatever the memory order or byte order."""
    kind = np.dtype(array.dtype).newbyteorder("=")
    digest = hashlib.sha256(f"{kind.str}{tuple(array.shape)}".encode())
    for part in iter_chunks(array):
        digest.update(part.astype(kind, copy=False).tobytes())
    return digest.hexdigest()


def measure_peak_bytes() -> int:
    """Most memory that this process has held."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) if sys.platform == "darwin" else int(most) * 1024


def serialise_noise(calibration: Calibration) -> dict[str, Any]:
    """Put the measured noise in plain types: image units, one value for each channel."""
    offsets = [item.offset for item in calibration.noise]
    reads = [item.read_noise for item in calibration.noise]
    relative = [round_to_six_digits(item.relative) for item in calibration.noise]
    return {
        "model": calibration.noise_model,
        **(
            {}
            if calibration.camera_noise is None
            else {"camera": calibration.camera_noise.to_dict()}
        ),
        **({"relative": relative} if any(relative) else {}),
        "gain": [round_to_six_digits(item.gain) for item in calibration.noise],
        "intercept": [round_to_six_digits(item.intercept) for item in calibration.noise],
        "offset": [None if offset is None else round_to_six_digits(offset) for offset in offsets],
        "read_noise": [None if read is None else round_to_six_digits(read) for read in reads],
        "cannot_tell": [item.doubt or None for item in calibration.noise],
        "caution": [item.caution or None for item in calibration.noise],
        "autocorrelation": {
            "y": [list(item.along_y) for item in calibration.noise],
            "x": [list(item.along_x) for item in calibration.noise],
        },
        "blind_spot_block": list(calibration.blind_spot_size),
    }


def serialise_fit(
    plan: Plan, calibration: Calibration, outcomes: Sequence[UnitOutcome]
) -> dict[str, Any]:
    """Say what was fitted and how, in plain types.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
    outcomes : sequence of UnitOutcome
    """
    source, budget = plan.source, plan.budget
    shared = summarise_joint_training(outcomes)
    if plan.network is not None:
        shared["joint_training"] |= plan.network.report_fields
    return {
        "axes": plan.layout.grid,
        "inputs": list(plan.extra_inputs),
        "scale": None if source.scale is None else list(source.scale),
        "units": None if source.units is None else list(source.units),
        "network": list(budget.widths),
        "max_iterations": budget.iterations + budget.release,
        "last_phase": sum(outcome.refit_iterations for outcome in outcomes if outcome.has_estimate),
        "restarts": budget.restarts,
        "half_resolution": calibration.half_resolution is not None,
        "refined": any(outcome.filtered for outcome in outcomes),
        "finished": sum(outcome.has_estimate and not outcome.kept for outcome in outcomes),
        "kept": sum(outcome.has_estimate and outcome.kept for outcome in outcomes),
        **shared,
    }


def summarise_residual(
    residuals: npt.NDArray[np.float64],
    predictions: npt.NDArray[np.float64],
    calibration: Calibration,
) -> dict[str, float]:
    """Whiteness (mean lag-1 correlation of the residual in units of the noise) and mean.

    Of the picture as it was fitted, before its mean was put back. Constant channels do not count.

    Parameters
    ----------
    residuals, predictions : ndarray
        (parts, C, *grid): measurement less prediction, 0 where nothing was measured, and the
        prediction.
    calibration : Calibration
    """
    lines, total = [], 0.0
    for channel, item in enumerate(calibration.noise):
        if channel in calibration.constant_channels:
            continue
        residual = residuals[:, channel]
        total += float(residual.mean())
        variance = compute_noise_variance(
            item, predictions[:, channel], calibration.excess_variance
        )
        residual = residual / np.sqrt(variance)
        residual -= residual.mean()
        power = float((residual**2).mean()) or 1.0
        along = (
            (residual[..., 1:, :] * residual[..., :-1, :]).mean()
            + (residual[..., 1:] * residual[..., :-1]).mean()
        ) / 2
        lines.append(float(along) / power)
    return {
        "whiteness": round_to_six_digits(float(np.mean(lines))),
        "mean": round_to_six_digits(total / len(lines)),
    }


def make_run_report(plan: Plan, calibration: Calibration, **facts: Any) -> dict[str, Any]:
    """Put the report together; `facts` are those that only the run knows."""
    from napari_dip.version import __version__

    return {
        "task": plan.recipe.task.name,
        "recipe": json.loads(plan.recipe.to_json()),
        "version": __version__,
        "torch": get_torch_version(),
        "device": plan.device,
        "threads": plan.threads,
        "seed": plan.recipe.run_settings.seed,
        "shape": list(plan.source.shape),
        "axes": plan.source.axes,
        "noise": serialise_noise(calibration),
        **facts,
        "peak_bytes": measure_peak_bytes(),
    }


#: What differs from run to run of the same recipe, or fills a file without telling how to repeat.
_RUN_SPECIFIC_KEYS = (
    "seconds",
    "peak_bytes",
    "validation_loss",
    "recipe",
    "residual",
    "verdict",
    "notes",
    "note_codes",
)


def select_repeatable_fields(report: Mapping[str, Any]) -> dict[str, Any]:
    """Give the part of a report that a result's file keeps: the same whenever it is repeated."""
    return {key: value for key, value in report.items() if key not in _RUN_SPECIFIC_KEYS}


def round_to_six_digits(value: float) -> float:
    """Six digits: more would only be digits of one image's chance."""
    return float(f"{value:.6g}")
