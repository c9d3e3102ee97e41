"""Reduce the noise for a new run if a result has lost edges or brightness.

If the noise was overestimated, the fit removes structure as noise. Both tests are independent of
the measured noise strength, so they detect this. Smooth areas of the residual give an upper bound
of the noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import UnreliableReason, make_note
from napari_dip.pipeline.assess.artefact_detection import LOCAL_AREA_SIDE
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance, identify_noise_model
from napari_dip.pipeline.calibrate.types import compute_validation_fraction
from napari_dip.pipeline.plan.layout import to_stack
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration, StackArray
    from napari_dip.pipeline.events import Restoration

#: Maximum number of new runs, and maximum noise variance of each relative to the previous one. One
#: was enough for overestimates of 4 to 400 times (docs/constants.md).
MAX_RETRY_ROUNDS, MAX_RETRY_VARIANCE_FRACTION = 2, 0.25
#: Quantile of the residual's variance over areas that bounds the noise, since smooth areas lose
#: least structure; minimum share of the noise variance in a new run.
CALM_AREA_QUANTILE, MIN_RETRY_VARIANCE_FRACTION = 0.25, 1e-4


def lower_noise_estimate(
    calibrated_image: CalibratedImage, result: Restoration
) -> Calibration | None:
    """Return a calibration with weaker noise if a result has failed; otherwise None.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        With the calibration of the result. Noise that the user specified is never changed.
    result : Restoration
    """
    plan, calibration = calibrated_image.plan, calibrated_image.calibration
    noise_settings = plan.task_plan.noise_settings
    is_excluded = (
        noise_settings.model != "auto"
        or noise_settings.gain is not None
        or noise_settings.read_noise is not None
    )
    # with random input, a fit learns detail late, whatever noise was measured
    is_excluded |= not PRIOR_SPECS[plan.fit_config.prior_key].input_traits.contains_image
    has_noise_inputs = (
        calibration.repeated_exposure is not None or calibration.camera_correction is not None
    )
    if (
        is_excluded
        or has_noise_inputs
        or calibration.measured_mask is not None
        or not plan.recipe.task.spec.reports_unreliable_noise
    ):
        return None
    if result.residual is None or result.failure_score < 1:
        return None
    if all(estimate.counts_photons for estimate in calibration.noise):
        return None  # the noise is known exactly
    residual = to_stack(result.residual, calibrated_image.header.axes, calibrated_image.layout)
    noise = tuple(
        _weaken_noise(channel_noise, calibration.intensity_offset[c], residual[:, c])
        for c, channel_noise in enumerate(calibration.noise)
    )
    blind_spot_size = calibration.blind_spot_size
    if not plan.task_plan.blind_spot_shape:
        blind_spot_size = (1,) * len(blind_spot_size)
    return replace(
        calibration,
        noise=noise,
        blind_spot_size=blind_spot_size,
        validation_fraction=compute_validation_fraction(blind_spot_size, residual[0, 0].size),
        noise_model=identify_noise_model(noise, noise_settings),
        notes=(*calibration.notes, make_note("noise-weaker")),
        half_resolution=None,
        camera_noise=None,
    )


def _weaken_noise(
    noise_estimate: NoiseEstimate, mean: float, residual: StackArray
) -> NoiseEstimate:
    """Return white noise with a reduced variance, at most that of smooth areas of the residual."""
    rows, columns = (side // LOCAL_AREA_SIDE for side in residual.shape[-2:])
    cropped = residual[..., : rows * LOCAL_AREA_SIDE, : columns * LOCAL_AREA_SIDE]
    areas = cropped.reshape(*cropped.shape[:-2], rows, LOCAL_AREA_SIDE, columns, LOCAL_AREA_SIDE)
    smooth_variance = float(np.quantile(areas.var((-3, -1), dtype=np.float64), CALM_AREA_QUANTILE))
    fraction = min(
        MAX_RETRY_VARIANCE_FRACTION,
        max(
            smooth_variance / float(compute_noise_variance(noise_estimate, mean)),
            MIN_RETRY_VARIANCE_FRACTION,
        ),
    )
    return replace(
        noise_estimate.scale_to_white(fraction),
        unreliable_reason=noise_estimate.unreliable_reason or UnreliableReason.TEXTURE,
        caution=None,
    )
