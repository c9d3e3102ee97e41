"""List all priors: what each network takes as input, what it costs, and how it is described.

A prior is one row of `PRIOR_SPECS`. Plan, fit, report and methods section read the row;
none of them compares the name of a prior. A task decides when a prior applies.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors.deep_image_prior import (
    build_no_skip_prior,
    build_pixel_prior,
    build_random_input_prior,
    build_random_input_problem,
)
from napari_dip.tasks.priors.hole_filling import (
    build_masked_input_prior,
    build_masked_input_problem,
)
from napari_dip.tasks.priors.prior_spec import PriorCost, PriorInput, PriorNetwork, PriorSpec
from napari_dip.tasks.priors.recompression import (
    build_recompression_prior,
    build_recompression_problem,
)
from napari_dip.tasks.priors.self_supervised import (
    build_blind_spot_prior,
    build_blind_spot_problem,
    build_guided_prior,
    build_guided_problem,
    build_r2r_prior,
    build_r2r_problem,
)
from napari_dip.tasks.priors.upscaling import build_zssr_prior, build_zssr_problem

if TYPE_CHECKING:
    from collections.abc import Mapping


BLIND_SPOT = PriorSpec(
    key="blind-spot",
    label="Blind spot",
    build_prior=build_blind_spot_prior,
    build_problem=build_blind_spot_problem,
    phrase="the image with pixels hidden afresh at each step",
    papers=("noise2void", "posterior mean"),
    has_refinement=True,
    network_input=PriorInput(is_image=True, is_masked=True, has_neighbour_frames=True),
    network=PriorNetwork(is_local=True, supports_bfloat16=True),
    cost=PriorCost(float32_step_bytes=46, bfloat16_step_bytes=40),
)
R2R = PriorSpec(
    key="r2r",
    needs_noise_variance=True,
    label="Noisier input (R2R)",
    build_prior=build_r2r_prior,
    build_problem=build_r2r_problem,
    phrase="the image with more noise of its own kind added",
    papers=("r2r",),
    has_refinement=True,
    network_input=PriorInput(is_image=True, has_neighbour_frames=True),
    network=PriorNetwork(is_local=True, supports_bfloat16=True),
    cost=PriorCost(float32_step_bytes=46, bfloat16_step_bytes=40, has_single_pass=True),
)
GUIDED = PriorSpec(
    key="guided",
    build_prior=build_guided_prior,
    build_problem=build_guided_problem,
    phrase="the guide, and the image with pixels hidden afresh at each step",
    papers=("guide", "noise2void", "posterior mean"),
    has_refinement=True,
    network_input=PriorInput(is_image=True, is_masked=True, has_guide=True),
    network=PriorNetwork(is_local=True),
    cost=PriorCost(float32_step_bytes=40),
)
MASKED_INPUT = PriorSpec(
    key="masked-input",
    build_prior=build_masked_input_prior,
    build_problem=build_masked_input_problem,
    phrase="the image with more of its pixels hidden at each step",
    papers=("noise2void",),
    network_input=PriorInput(is_image=True, is_masked=True),
    network=PriorNetwork(is_local=True, is_planewise=True),
    cost=PriorCost(float32_step_bytes=70, bfloat16_step_bytes=45),
)
MASKED_INPUT_SHAPES = PriorSpec(
    key="masked-input-shapes",
    build_prior=build_masked_input_prior,
    build_problem=build_masked_input_problem,
    phrase="the image with copies of its holes hidden at each step",
    papers=("noise2void",),
    setting="masked-input",
    network_input=PriorInput(is_image=True, is_masked=True),
    network=PriorNetwork(is_local=True, is_planewise=True),
    cost=PriorCost(float32_step_bytes=40),
)
RECOMPRESSION = PriorSpec(
    key="recompression",
    build_prior=build_recompression_prior,
    build_problem=build_recompression_problem,
    has_own_validation=True,
    allows_temporal_smoothing=False,
    phrase="the image compressed once more",
    papers=("recompression",),
    is_repeatable_after_stop=False,
    network=PriorNetwork(is_local=True),
    cost=PriorCost(float32_step_bytes=40),
)
ZSSR = PriorSpec(
    key="zssr",
    build_prior=build_zssr_prior,
    build_problem=build_zssr_problem,
    has_own_validation=True,
    phrase="coarser copies of the image",
    papers=("zssr",),
    is_repeatable_after_stop=False,
    cost=PriorCost(float32_step_bytes=70, averaged_passes=8),
)
RANDOM_INPUT = PriorSpec(
    key=DEFAULT_PRIOR,
    label="Deep Image Prior (random input)",
    build_prior=build_random_input_prior,
    build_problem=build_random_input_problem,
    phrase="fixed random noise",
    network_input=PriorInput(is_random=True),
)
RANDOM_INPUT_NO_SKIPS = PriorSpec(
    key="random-input-no-skips",
    build_prior=build_no_skip_prior,
    build_problem=build_random_input_problem,
    phrase="fixed random noise, without skip connections",
    network_input=PriorInput(is_random=True),
)
GUIDED_RANDOM_INPUT = PriorSpec(
    key="guided-random-input",
    build_prior=build_random_input_prior,
    build_problem=build_random_input_problem,
    phrase="the guide and fixed random noise",
    papers=("guide",),
    setting="random-input",
    network_input=PriorInput(is_random=True, has_guide=True),
)
TOTAL_VARIATION = PriorSpec(
    key="total-variation",
    build_prior=build_pixel_prior,
    uses_total_variation=True,
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
