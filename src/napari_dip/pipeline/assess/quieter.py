"""What a run does where its result has lost edges or brightness: it reckons with less noise.

Noise measured much too strong lets a fit take structure for noise. The measured strength enters
neither comparison, so they find that out; calm parts of the residual bound the noise from above.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.pipeline.assess.patterns import LOCAL_PART_SIDE, compute_biased_limit
from napari_dip.pipeline.calibrate.noise import noise_model, noise_variance
from napari_dip.pipeline.calibrate.prepare import trusting
from napari_dip.pipeline.calibrate.types import compute_validation_share
from napari_dip.pipeline.plan.layout import split_into_parts
from napari_dip.tasks.priors.r2r import MEASUREMENT_INPUT_PRIORS

if TYPE_CHECKING:
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan

#: How often a run begins again, and the most of the variance that it then reckons with: half the
#: standard deviation. Told 4 to 400 times the variance, one round was enough each time; a second
#: is left for residuals without calm parts.
ROUNDS, SHARE = 2, 0.25
#: Quantile of the variance of a residual's parts that bounds the noise from above: they hold the
#: noise and what was lost, least where the picture is calm. Least share that is tried.
CALM, LEAST = 0.25, 1e-4
#: Variance of a residual along edges, over that elsewhere, from which on edges were lost: 0.86 to
#: 1.02 in six shots of FMD and twelve photographs of kodak256 with noise of 25; 4 where noise was
#: taken for 4 and 20 times as strong as it is, and the result was farther from the truth than the
#: input.
EDGES = 2.0
#: A note on a run that was begun again.
AGAIN = (
    "A first result had lost edges or brightness, so the image was restored again with weaker "
    "noise, as the calm parts of what was lost allow."
)


def failing(result: Restoration) -> float:
    """How far a result is from what passes for one: 1 and more is none."""
    told = result.report.get("verdict", {}).get("figures", {}).get("residual")
    if not told:
        return 0.0
    return max(
        float(told["at_edges"]) / EDGES, float(told["far"]) / compute_biased_limit(told["parts"])
    )


def quieter(
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
    wish = plan.recipe.task.noise_wish()
    asked = wish.model != "auto" or wish.gain is not None or wish.read_noise is not None
    asked |= (
        calibration.prior not in MEASUREMENT_INPUT_PRIORS
    )  # fixed noise draws detail late, whatever was measured
    given = calibration.second is not None or calibration.maps is not None
    if asked or given or calibration.known is not None or not plan.recipe.task.doubts_noise():
        return None
    if result.residual is None or failing(result) < 1:
        return None
    left = split_into_parts(result.residual, plan.source.axes, plan.layout)
    noise = tuple(
        _weaker(one, calibration.offset[c], left[:, c]) for c, one in enumerate(calibration.noise)
    )
    block = (1,) * len(calibration.block)
    less = replace(
        calibration,
        noise=noise,
        block=block,
        held_out_share=compute_validation_share(block, left[0, 0].size),
        model=noise_model(noise, wish),
        notes=(*calibration.notes, AGAIN),
        coarse=None,
        camera=None,
    )
    return trusting(plan, less)


def _weaker(noise: NoiseEstimate, mean: float, left: Planes) -> NoiseEstimate:
    """White noise of a share of the variance, and of no more than calm parts of a residual have."""
    rows, columns = (side // LOCAL_PART_SIDE for side in left.shape[-2:])
    cut = left[..., : rows * LOCAL_PART_SIDE, : columns * LOCAL_PART_SIDE]
    parts = cut.reshape(*cut.shape[:-2], rows, LOCAL_PART_SIDE, columns, LOCAL_PART_SIDE)
    calm = float(np.quantile(parts.var((-3, -1), dtype=np.float64), CALM))
    share = min(SHARE, max(calm / float(noise_variance(noise, mean)), LEAST))
    return replace(noise.white(share), doubt=noise.doubt or "texture", caution="")
