"""The report of a run: what was done, with what, and how it went, in plain JSON types."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.io.regions import iter_chunks
from napari_dip.pipeline.calibrate.noise import noise_variance
from napari_dip.pipeline.machine import torch_version
from napari_dip.pipeline.plan.sharing import sharing_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.io.regions import MemoryMappedImage
    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.pipeline.plan.types import Plan, UnitOutcome


def sha256(array: npt.NDArray[Any] | MemoryMappedImage) -> str:
    """Hash of shape, type and pixels, whatever the memory order or byte order."""
    kind = np.dtype(array.dtype).newbyteorder("=")
    digest = hashlib.sha256(f"{kind.str}{tuple(array.shape)}".encode())
    for part in iter_chunks(array):
        digest.update(part.astype(kind, copy=False).tobytes())
    return digest.hexdigest()


def peak_bytes() -> int:
    """Most memory that this process has held."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) if sys.platform == "darwin" else int(most) * 1024


def noise_words(calibration: Calibration) -> dict[str, Any]:
    """Put the measured noise in plain types: image units, one value for each channel."""
    offsets = [one.offset for one in calibration.noise]
    reads = [one.read_noise for one in calibration.noise]
    relative = [rounded(one.relative) for one in calibration.noise]
    return {
        "model": calibration.model,
        **({} if calibration.camera is None else {"camera": calibration.camera.to_dict()}),
        **({"relative": relative} if any(relative) else {}),
        "gain": [rounded(one.gain) for one in calibration.noise],
        "intercept": [rounded(one.intercept) for one in calibration.noise],
        "offset": [None if offset is None else rounded(offset) for offset in offsets],
        "read_noise": [None if read is None else rounded(read) for read in reads],
        "cannot_tell": [one.doubt or None for one in calibration.noise],
        "caution": [one.caution or None for one in calibration.noise],
        "autocorrelation": {
            "y": [list(one.along_y) for one in calibration.noise],
            "x": [list(one.along_x) for one in calibration.noise],
        },
        "hidden_block": list(calibration.block),
    }


def fit_words(
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
    shared = sharing_report(outcomes)
    if plan.network is not None:
        shared["shared"] |= plan.network.words
    return {
        "axes": plan.layout.grid,
        "inputs": list(plan.others),
        "scale": None if source.scale is None else list(source.scale),
        "units": None if source.units is None else list(source.units),
        "network": list(budget.widths),
        "iterations_at_most": budget.iterations + budget.release,
        "last_phase": sum(one.released for one in outcomes if one.pictured),
        "repeats": budget.restarts,
        "halved": calibration.coarse is not None,
        "filtered": any(one.filtered for one in outcomes),
        "finished": sum(one.pictured and not one.kept for one in outcomes),
        "kept": sum(one.pictured and one.kept for one in outcomes),
        **shared,
    }


def residual_words(
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
    for channel, one in enumerate(calibration.noise):
        if channel in calibration.constant:
            continue
        residual = residuals[:, channel]
        total += float(residual.mean())
        variance = noise_variance(one, predictions[:, channel], calibration.excess)
        residual = residual / np.sqrt(variance)
        residual -= residual.mean()
        power = float((residual**2).mean()) or 1.0
        along = (
            (residual[..., 1:, :] * residual[..., :-1, :]).mean()
            + (residual[..., 1:] * residual[..., :-1]).mean()
        ) / 2
        lines.append(float(along) / power)
    return {"whiteness": rounded(float(np.mean(lines))), "mean": rounded(total / len(lines))}


def receipt(plan: Plan, calibration: Calibration, **facts: Any) -> dict[str, Any]:
    """Put the report together; `facts` are those that only the run knows."""
    from napari_dip.version import __version__

    return {
        "task": plan.recipe.task.name,
        "recipe": json.loads(plan.recipe.to_json()),
        "version": __version__,
        "torch": torch_version(),
        "device": plan.device,
        "threads": plan.threads,
        "seed": plan.recipe.common.seed,
        "shape": list(plan.source.shape),
        "axes": plan.source.axes,
        "noise": noise_words(calibration),
        **facts,
        "peak_bytes": peak_bytes(),
    }


#: What differs from run to run of the same recipe, or fills a file without telling how to repeat.
_PASSING = ("seconds", "peak_bytes", "held_out", "recipe", "residual", "verdict", "notes")


def lasting(report: Mapping[str, Any]) -> dict[str, Any]:
    """Give the part of a report that a result's file keeps: the same whenever it is repeated."""
    return {key: value for key, value in report.items() if key not in _PASSING}


def rounded(value: float) -> float:
    """Six digits: more would only be digits of one image's chance."""
    return float(f"{value:.6g}")
