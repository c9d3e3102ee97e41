"""What a run does where its result has lost edges or brightness: it reckons with less noise.

Noise measured much too strong lets a fit take structure for noise. The measured strength enters
neither comparison, so they find that out; calm parts of the residual bound the noise from above.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.artefact_detection import LOCAL_PART_SIDE, compute_biased_limit
from napari_dip.pipeline.calibrate.calibration import compute_validation_share
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance, identify_noise_model
from napari_dip.pipeline.calibrate.prepare import choose_prior_by_noise
from napari_dip.pipeline.plan.layout import split_into_parts
from napari_dip.tasks.priors.r2r import MEASUREMENT_INPUT_PRIORS

if TYPE_CHECKING:
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan

#: How often a run begins again, and the most of the variance that it then reckons with: half the
#: standard deviation. Told 4 to 400 times the variance, one round was enough each time; a second
#: is left for residuals without calm parts.
MAX_RETRY_ROUNDS, MAX_RETRY_VARIANCE_SHARE = 2, 0.25
#: Quantile of the variance of a residual's parts that bounds the noise from above: they hold the
#: noise and what was lost, least where the picture is calm. Least share that is tried.
CALM_PART_QUANTILE, MIN_RETRY_VARIANCE_SHARE = 0.25, 1e-4
#: Variance of a residual along edges, over that elsewhere, from which on edges were lost: 0.86 to
#: 1.02 in six shots of FMD and twelve photographs of kodak256 with noise of 25; 4 where noise was
#: taken for 4 and 20 times as strong as it is, and the result was farther from the truth than the
#: input.
MIN_LOST_EDGE_RATIO = 2.0


def compute_failure_score(result: Restoration) -> float:
    """How far a result is from what passes for one: 1 and more is none."""
    metrics = result.report.get("verdict", {}).get("figures", {}).get("residual")
    if not metrics:
        return 0.0
    return max(
        float(metrics["at_edges"]) / MIN_LOST_EDGE_RATIO,
        float(metrics["far"]) / compute_biased_limit(metrics["parts"]),
    )


def plan_weaker_noise(
    plan: Plan, calibration: Calibration, result: Restoration
) -> tuple[Plan, Calibration] | None:
    """Reckon with less noise, where a result is far from its input; None where it is not.

    Parameters
    ----------
    plan : Plan
    calibration : Calibration
        What the result was restored with. Noise that the user told is never changed.
    result : Restoration
    """
    request = plan.recipe.task.noise_wish()
    is_excluded = (
        request.model != "auto" or request.gain is not None or request.read_noise is not None
    )
    is_excluded |= (
        calibration.prior not in MEASUREMENT_INPUT_PRIORS
    )  # fixed noise draws detail late, whatever was measured
    has_noise_inputs = (
        calibration.repeated_exposure is not None or calibration.camera_correction is not None
    )
    if (
        is_excluded
        or has_noise_inputs
        or calibration.measured_mask is not None
        or not plan.recipe.task.doubts_noise()
    ):
        return None
    if result.residual is None or compute_failure_score(result) < 1:
        return None
    residual = split_into_parts(result.residual, plan.source.axes, plan.layout)
    noise = tuple(
        _weaken_noise(item, calibration.offset[c], residual[:, c])
        for c, item in enumerate(calibration.noise)
    )
    block = (1,) * len(calibration.blind_spot_size)
    less = replace(
        calibration,
        noise=noise,
        blind_spot_size=block,
        validation_share=compute_validation_share(block, residual[0, 0].size),
        noise_model=identify_noise_model(noise, request),
        notes=(*calibration.notes, make_note("noise-weaker")),
        half_resolution=None,
        camera_noise=None,
    )
    return choose_prior_by_noise(plan, less)


def _weaken_noise(noise: NoiseEstimate, mean: float, residual: Planes) -> NoiseEstimate:
    """White noise of a share of the variance, and of no more than calm parts of a residual have."""
    rows, columns = (side // LOCAL_PART_SIDE for side in residual.shape[-2:])
    cut = residual[..., : rows * LOCAL_PART_SIDE, : columns * LOCAL_PART_SIDE]
    parts = cut.reshape(*cut.shape[:-2], rows, LOCAL_PART_SIDE, columns, LOCAL_PART_SIDE)
    calm = float(np.quantile(parts.var((-3, -1), dtype=np.float64), CALM_PART_QUANTILE))
    share = min(
        MAX_RETRY_VARIANCE_SHARE,
        max(calm / float(compute_noise_variance(noise, mean)), MIN_RETRY_VARIANCE_SHARE),
    )
    return replace(noise.white(share), doubt=noise.doubt or "texture", caution="")
