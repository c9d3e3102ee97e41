"""List all priors: what each network takes as input, what it costs, and how it is described.

A prior is one row of `PRIOR_SPECS`. Plan, fit, report and methods section ask the row; none of them
compares the name of a prior. A task decides when a prior applies.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors.blind_spot import (
    build_blind_spot_prior,
    build_blind_spot_problem,
    build_guided_prior,
    build_guided_problem,
)
from napari_dip.tasks.priors.deep_image_prior import (
    build_no_skip_prior,
    build_pixel_prior,
    build_random_input_prior,
    build_random_input_problem,
)
from napari_dip.tasks.priors.masked_input import (
    build_masked_input_prior,
    build_masked_input_problem,
)
from napari_dip.tasks.priors.prior_spec import PriorSpec
from napari_dip.tasks.priors.r2r import build_r2r_prior, build_r2r_problem
from napari_dip.tasks.priors.recompression import (
    build_recompression_prior,
    build_recompression_problem,
)
from napari_dip.tasks.priors.zssr import build_zssr_prior, build_zssr_problem

if TYPE_CHECKING:
    from collections.abc import Mapping


BLIND_SPOT = PriorSpec(
    key="blind-spot",
    label="Blind spot",
    build_prior=build_blind_spot_prior,
    build_problem=build_blind_spot_problem,
    phrase="the image with pixels hidden afresh at each step",
    papers=("noise2void", "posterior mean"),
    sees_image=True,
    hides_pixels=True,
    takes_neighbour_frames=True,
    has_local_network=True,
    supports_bfloat16=True,
    has_refinement=True,
    step_bytes=46,
    half_step_bytes=40,
)
R2R = PriorSpec(
    key="r2r",
    needs_known_noise=True,
    label="Noisier input (R2R)",
    build_prior=build_r2r_prior,
    build_problem=build_r2r_problem,
    phrase="the image with more noise of its own kind added",
    papers=("r2r",),
    sees_image=True,
    takes_neighbour_frames=True,
    has_local_network=True,
    supports_bfloat16=True,
    has_refinement=True,
    has_single_inference=True,
    step_bytes=46,
    half_step_bytes=40,
)
GUIDED = PriorSpec(
    key="guided",
    build_prior=build_guided_prior,
    build_problem=build_guided_problem,
    phrase="the guide, and the image with pixels hidden afresh at each step",
    papers=("guide", "noise2void", "posterior mean"),
    sees_image=True,
    hides_pixels=True,
    has_guide=True,
    has_local_network=True,
    has_refinement=True,
    step_bytes=40,
)
MASKED_INPUT = PriorSpec(
    key="masked-input",
    build_prior=build_masked_input_prior,
    build_problem=build_masked_input_problem,
    phrase="the image with more of its pixels hidden at each step",
    papers=("noise2void",),
    sees_image=True,
    hides_pixels=True,
    has_local_network=True,
    has_planewise_network=True,
    step_bytes=70,
    half_step_bytes=45,
)
MASKED_INPUT_SHAPES = PriorSpec(
    key="masked-input-shapes",
    build_prior=build_masked_input_prior,
    build_problem=build_masked_input_problem,
    phrase="the image with copies of its holes hidden at each step",
    papers=("noise2void",),
    setting="masked-input",
    sees_image=True,
    hides_pixels=True,
    has_local_network=True,
    has_planewise_network=True,
    step_bytes=40,
)
RECOMPRESSION = PriorSpec(
    key="recompression",
    build_prior=build_recompression_prior,
    build_problem=build_recompression_problem,
    chooses_validation=True,
    allows_temporal_smoothing=False,
    phrase="the image compressed once more",
    papers=("recompression",),
    has_local_network=True,
    has_repeatable_ending=False,
    step_bytes=40,
)
ZSSR = PriorSpec(
    key="zssr",
    build_prior=build_zssr_prior,
    build_problem=build_zssr_problem,
    chooses_validation=True,
    phrase="coarser copies of the image",
    papers=("zssr",),
    has_repeatable_ending=False,
    averaged_passes=8,
    step_bytes=70,
)
RANDOM_INPUT = PriorSpec(
    key=DEFAULT_PRIOR,
    label="Deep Image Prior (random input)",
    build_prior=build_random_input_prior,
    build_problem=build_random_input_problem,
    phrase="fixed random noise",
    uses_random_input=True,
)
RANDOM_INPUT_NO_SKIPS = PriorSpec(
    key="random-input-no-skips",
    build_prior=build_no_skip_prior,
    build_problem=build_random_input_problem,
    phrase="fixed random noise, without skip connections",
    uses_random_input=True,
)
GUIDED_RANDOM_INPUT = PriorSpec(
    key="guided-random-input",
    build_prior=build_random_input_prior,
    build_problem=build_random_input_problem,
    phrase="the guide and fixed random noise",
    papers=("guide",),
    setting="random-input",
    has_guide=True,
    uses_random_input=True,
)
TOTAL_VARIATION = PriorSpec(
    key="total-variation",
    build_prior=build_pixel_prior,
    penalises_variation=True,
    phrase="the pixels themselves were, with a penalty on their total variation",
    papers=("total variation",),
    has_network=False,
)
PIXELS = PriorSpec(
    key="pixels",
    build_prior=build_pixel_prior,
    phrase="the pixels themselves were, with no prior",
    setting="none",
    has_network=False,
)

#: All priors, by key.
PRIOR_SPECS: Mapping[str, PriorSpec] = MappingProxyType(
    {
        prior_spec.key: prior_spec
        for prior_spec in (
            R2R,
            BLIND_SPOT,
            GUIDED,
            MASKED_INPUT,
            MASKED_INPUT_SHAPES,
            RECOMPRESSION,
            ZSSR,
            RANDOM_INPUT,
            RANDOM_INPUT_NO_SKIPS,
            GUIDED_RANDOM_INPUT,
            TOTAL_VARIATION,
            PIXELS,
        )
    }
)


def get_prior_spec(key: str) -> PriorSpec:
    """Return the row of a prior; a bare row for a prior that only another version has."""
    return PRIOR_SPECS.get(key) or PriorSpec(key=key, phrase=f"by the prior '{key}'")


def list_denoising_priors() -> dict[str, str]:
    """Return the priors that `Denoise` offers: label of each key."""
    return {
        prior_spec.key: prior_spec.label for prior_spec in PRIOR_SPECS.values() if prior_spec.label
    }
