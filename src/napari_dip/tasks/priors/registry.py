"""List all priors: what each network takes as input, what it costs, and how it is described.

A prior is one row of `PRIOR_SPECS`. Tasks, plan, fit, report and methods section read the row;
none of them compares the name of a prior. A task decides by what the rows say when a prior applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors.blind_spot import (
    build_blind_spot_prior,
    build_blind_spot_problem,
    build_guided_prior,
    build_guided_problem,
)
from napari_dip.tasks.priors.masked_input import (
    build_masked_input_prior,
    build_masked_input_problem,
)
from napari_dip.tasks.priors.prior_spec import NetworkTraits, PriorCost, PriorInputTraits, PriorSpec
from napari_dip.tasks.priors.r2r import build_r2r_prior, build_r2r_problem
from napari_dip.tasks.priors.random_input import (
    build_no_skip_prior,
    build_pixel_prior,
    build_random_input_prior,
    build_random_input_problem,
)
from napari_dip.tasks.priors.recompression import (
    build_recompression_prior,
    build_recompression_problem,
)
from napari_dip.tasks.priors.zssr import build_zssr_prior, build_zssr_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

_specs: dict[str, PriorSpec] = {}
#: All priors, by key. Of those that a task offers, *Automatic* prefers the first that suits.
PRIOR_SPECS: Mapping[str, PriorSpec] = MappingProxyType(_specs)


def register_prior(prior_spec: PriorSpec) -> PriorSpec:
    """Add a prior to the table: it becomes a choice of the tasks for which it has a label."""
    assert prior_spec.key not in _specs
    _specs[prior_spec.key] = prior_spec
    return prior_spec


BLIND_SPOT_PRIOR = PriorSpec(
    key="blind-spot",
    labels={"denoise": "Blind spot"},
    prior_factory=build_blind_spot_prior,
    problem_factory=build_blind_spot_problem,
    methods_phrase="the image with pixels hidden afresh at each step",
    papers=("noise2void", "posterior mean"),
    has_refinement=True,
    input_traits=PriorInputTraits(
        contains_image=True, has_masked_pixels=True, has_neighbour_frames=True
    ),
    network_traits=NetworkTraits(
        is_local=True, predicts_noise_variance=True, supports_bfloat16=True
    ),
    cost=PriorCost(float32_step_bytes=46, bfloat16_step_bytes=40),
)
R2R_PRIOR = PriorSpec(
    key="r2r",
    needs_noise_variance=True,
    labels={"denoise": "Noisier input (R2R)"},
    prior_factory=build_r2r_prior,
    problem_factory=build_r2r_problem,
    methods_phrase="the image with more noise of its own kind added",
    papers=("r2r",),
    has_refinement=True,
    input_traits=PriorInputTraits(contains_image=True, has_neighbour_frames=True),
    network_traits=NetworkTraits(is_local=True, supports_bfloat16=True),
    cost=PriorCost(float32_step_bytes=46, bfloat16_step_bytes=40, has_single_pass=True),
)
GUIDED_PRIOR = PriorSpec(
    key="guided",
    labels={"guide": "Guide + blind spot"},
    choice_override=BLIND_SPOT_PRIOR.key,
    unguided_key=BLIND_SPOT_PRIOR.key,
    prior_factory=build_guided_prior,
    problem_factory=build_guided_problem,
    methods_phrase="the guide, and the image with pixels hidden afresh at each step",
    papers=("guide", "noise2void", "posterior mean"),
    has_refinement=True,
    input_traits=PriorInputTraits(
        contains_image=True, has_masked_pixels=True, has_guide=True, has_neighbour_frames=True
    ),
    network_traits=NetworkTraits(is_local=True, predicts_noise_variance=True),
    cost=PriorCost(float32_step_bytes=40),
)
MASKED_INPUT_PRIOR = PriorSpec(
    key="masked-input",
    labels={"inpaint": "Masked input"},
    prior_factory=build_masked_input_prior,
    problem_factory=build_masked_input_problem,
    methods_phrase="the image with more of its pixels hidden at each step",
    papers=("noise2void",),
    suitable_holes="scattered",
    input_traits=PriorInputTraits(contains_image=True, has_masked_pixels=True),
    network_traits=NetworkTraits(is_local=True, predicts_noise_variance=True, is_planewise=True),
    cost=PriorCost(float32_step_bytes=70, bfloat16_step_bytes=45),
)
MASKED_INPUT_SHAPES_PRIOR = PriorSpec(
    key="masked-input-shapes",
    labels=MASKED_INPUT_PRIOR.labels,
    prior_factory=build_masked_input_prior,
    problem_factory=build_masked_input_problem,
    methods_phrase="the image with copies of its holes hidden at each step",
    papers=("noise2void",),
    choice_override=MASKED_INPUT_PRIOR.key,
    suitable_holes="narrow",  # it hides copies of them, rather than single pixels
    input_traits=PriorInputTraits(contains_image=True, has_masked_pixels=True),
    network_traits=NetworkTraits(is_local=True, predicts_noise_variance=True, is_planewise=True),
    cost=PriorCost(float32_step_bytes=40),
)
RECOMPRESSION_PRIOR = PriorSpec(
    key="recompression",
    prior_factory=build_recompression_prior,
    problem_factory=build_recompression_problem,
    has_own_validation=True,
    allows_temporal_smoothing=False,
    methods_phrase="the image compressed once more",
    papers=("recompression",),
    is_repeatable_after_stop=False,
    network_traits=NetworkTraits(is_local=True),
    cost=PriorCost(float32_step_bytes=40),
)
ZSSR_PRIOR = PriorSpec(
    key="zssr",
    labels={"super-resolve": "Zero-shot super-resolution (ZSSR)"},
    prior_factory=build_zssr_prior,
    problem_factory=build_zssr_problem,
    has_own_validation=True,
    methods_phrase="coarser copies of the image",
    papers=("zssr",),
    is_repeatable_after_stop=False,
    input_traits=PriorInputTraits(trains_on_coarser_copies=True),
    cost=PriorCost(float32_step_bytes=70, averaged_passes=8),
)
RANDOM_INPUT_PRIOR = PriorSpec(
    key=DEFAULT_PRIOR,
    labels=dict.fromkeys(
        ("denoise", "inpaint", "super-resolve", "invert-features"),
        "Deep Image Prior (random input)",
    ),
    prior_factory=build_random_input_prior,
    problem_factory=build_random_input_problem,
    methods_phrase="fixed random noise",
    input_traits=PriorInputTraits(is_random_noise=True),
)
RANDOM_INPUT_NO_SKIPS_PRIOR = PriorSpec(
    key="random-input-no-skips",
    labels={"inpaint": "Random input, no skip connections"},
    prior_factory=build_no_skip_prior,
    problem_factory=build_random_input_problem,
    methods_phrase="fixed random noise, without skip connections",
    suitable_holes="wide",  # fine structure of the input cannot bypass the coarse layers
    input_traits=PriorInputTraits(is_random_noise=True),
)
GUIDED_RANDOM_INPUT_PRIOR = PriorSpec(
    key="guided-random-input",
    labels={"guide": "Guide + random input"},
    prior_factory=build_random_input_prior,
    problem_factory=build_random_input_problem,
    methods_phrase="the guide and fixed random noise",
    papers=("guide",),
    choice_override=RANDOM_INPUT_PRIOR.key,
    input_traits=PriorInputTraits(is_random_noise=True, has_guide=True),
)
TOTAL_VARIATION_PRIOR = PriorSpec(
    key="total-variation",
    labels={"invert-features": "Total variation"},
    prior_factory=build_pixel_prior,
    uses_total_variation=True,
    methods_phrase="the pixels themselves were, with a penalty on their total variation",
    papers=("total variation",),
    has_network=False,
)
PIXELS_PRIOR = PriorSpec(
    key="pixels",
    labels={"invert-features": "Nothing"},
    prior_factory=build_pixel_prior,
    methods_phrase="the pixels themselves were, with no prior",
    choice_override="none",
    has_network=False,
)

for _row in (
    R2R_PRIOR,
    BLIND_SPOT_PRIOR,
    GUIDED_PRIOR,
    MASKED_INPUT_PRIOR,
    MASKED_INPUT_SHAPES_PRIOR,
    RECOMPRESSION_PRIOR,
    ZSSR_PRIOR,
    RANDOM_INPUT_PRIOR,
    RANDOM_INPUT_NO_SKIPS_PRIOR,
    GUIDED_RANDOM_INPUT_PRIOR,
    TOTAL_VARIATION_PRIOR,
    PIXELS_PRIOR,
):
    register_prior(_row)

#: Whether the input is random noise -> key of the prior whose rows of the presets others take.
SHARED_PRESET_KEYS = {True: DEFAULT_PRIOR, False: BLIND_SPOT_PRIOR.key}
#: Value of a setting `prior` that leaves the choice to the task.
AUTOMATIC = "auto"


class PriorChoices(Mapping[str, str]):
    """The values of a task's setting `prior` with their labels, read from the registry.

    Parameters
    ----------
    task : str
        Name of the task.
    has_automatic : bool
        Whether the task chooses, unless the user does.
    """

    def __init__(self, task: str, *, has_automatic: bool = True) -> None:
        self._task, self._automatic = task, {AUTOMATIC: "Automatic"} if has_automatic else {}

    def _collect(self) -> dict[str, str]:
        offered = {prior_spec.choice: prior_spec.labels[self._task] for prior_spec in self.select()}
        return {**self._automatic, **offered}

    def __getitem__(self, value: str) -> str:
        return self._collect()[value]

    def __iter__(self) -> Iterator[str]:
        return iter(self._collect())

    def __len__(self) -> int:
        return len(self._collect())

    def select(self, value: str = AUTOMATIC) -> tuple[PriorSpec, ...]:
        """Return the priors that a value leaves to choose from; all, if the task chooses."""
        return tuple(
            prior_spec
            for prior_spec in PRIOR_SPECS.values()
            if self._task in prior_spec.labels and value in (AUTOMATIC, prior_spec.choice)
        )


def get_prior_spec(key: str) -> PriorSpec:
    """Return the row of a prior; a bare row for a prior that only another version has."""
    return PRIOR_SPECS.get(key) or PriorSpec(key=key, methods_phrase=f"by the prior '{key}'")
