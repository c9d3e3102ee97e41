"""List all priors: what each network takes as input, what it costs, and how it is described.

A prior is one row of `PRIORS`. Plan, fit, report and methods section ask the row; none of them
compares the name of a prior. A task decides when a prior applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_dip.tasks.priors.blind_spot import build_blind_spot_prior, build_blind_spot_problem
from napari_dip.tasks.priors.deep_image_prior import (
    build_random_input_prior,
    build_random_input_problem,
)
from napari_dip.tasks.priors.r2r import build_r2r_prior, build_r2r_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSpec:
    """Describe one prior.

    Attributes
    ----------
    key : str
        Name in presets, reports and `FitInput.prior`.
    label : str
        Name in forms; "" for a prior that only one task has.
    build_prior, build_problem : callable, or None
        What `Denoise` builds: (fit_input, rng) -> Prior, with `extra_channels` if neighbouring
        frames can be appended, and (fit_input, penalties) -> Problem. A prior with both is a choice
        of its setting `prior`. None: a task builds it in its own way.
    phrase : str
        Completion of "The network was fed", or, without a network, of "No network was fitted:".
    papers : tuple of str
        Papers cited after the phrase: keys of `pipeline.assess.references.PAPERS`.
    setting : str
        Value of the task's setting `prior` that chooses this prior; "": the same as `key`.
    has_network : bool
        False if the pixels themselves are fitted.
    sees_image : bool
        Whether the network's input is the image itself, damaged afresh in each iteration.
    hides_pixels : bool
        Whether pixels of the input are hidden, and the variance of each pixel is predicted.
    has_guide : bool
        Whether a second image is appended to the input.
    takes_neighbour_frames : bool
        Whether frames before and after can be appended to the input.
    uses_random_input : bool
        Whether the input is fixed random noise; these networks have normalised layers.
    has_local_network : bool
        Whether the receptive field is limited, so that inference may run in tiles.
    has_planewise_network : bool
        Whether stacks are fitted plane by plane, with neighbouring planes as input.
    supports_bfloat16 : bool
        Whether steps may run in half precision, on CPUs with bfloat16 instructions.
    has_refinement : bool
        Whether BM3D-style refinement follows.
    has_single_inference : bool
        Whether final inference is a single pass, however wide the hidden blocks are.
    has_repeatable_ending : bool
        Whether a run that the user ended repeats to the pixel.
    averaged_passes : int
        Passes of an inference that averages over flips and rotations; 0 if it does not.
    step_bytes, half_step_bytes : int
        Bytes per pixel and channel of a layer in one step, forward and backward: in single
        precision, and of planes in half precision. Measured with `benchmarks/tiles.py`.
    """

    key: str
    phrase: str
    label: str = ""
    build_prior: Callable[..., Prior] | None = None
    build_problem: Callable[..., Problem] | None = None
    papers: tuple[str, ...] = ()
    setting: str = ""
    has_network: bool = True
    sees_image: bool = False
    hides_pixels: bool = False
    has_guide: bool = False
    takes_neighbour_frames: bool = False
    uses_random_input: bool = False
    has_local_network: bool = False
    has_planewise_network: bool = False
    supports_bfloat16: bool = False
    has_refinement: bool = False
    has_single_inference: bool = False
    has_repeatable_ending: bool = True
    averaged_passes: int = 0
    step_bytes: int = 74
    half_step_bytes: int = 0


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
    phrase="the image compressed once more",
    papers=("recompression",),
    has_local_network=True,
    has_repeatable_ending=False,
    step_bytes=40,
)
ZSSR = PriorSpec(
    key="zssr",
    phrase="coarser copies of the image",
    papers=("zssr",),
    has_repeatable_ending=False,
    averaged_passes=8,
    step_bytes=70,
)
RANDOM_INPUT = PriorSpec(
    key="random-input",
    label="Deep Image Prior (random input)",
    build_prior=build_random_input_prior,
    build_problem=build_random_input_problem,
    phrase="fixed random noise",
    uses_random_input=True,
)
RANDOM_INPUT_NO_SKIPS = PriorSpec(
    key="random-input-no-skips",
    phrase="fixed random noise, without skip connections",
    uses_random_input=True,
)
GUIDED_RANDOM_INPUT = PriorSpec(
    key="guided-random-input",
    phrase="the guide and fixed random noise",
    papers=("guide",),
    setting="random-input",
    has_guide=True,
    uses_random_input=True,
)
TOTAL_VARIATION = PriorSpec(
    key="total-variation",
    phrase="the pixels themselves were, with a penalty on their total variation",
    papers=("total variation",),
    has_network=False,
)
PIXELS = PriorSpec(
    key="pixels",
    phrase="the pixels themselves were, with no prior",
    setting="none",
    has_network=False,
)

#: All priors, by key.
PRIORS: Mapping[str, PriorSpec] = MappingProxyType(
    {
        prior.key: prior
        for prior in (
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


def get_prior(key: str) -> PriorSpec:
    """Return the row of a prior; a bare row for a prior that only another version has."""
    return PRIORS.get(key) or PriorSpec(key=key, phrase=f"by the prior '{key}'")


def list_denoising_priors() -> dict[str, str]:
    """Return the priors that `Denoise` offers: label of each key."""
    return {prior.key: prior.label for prior in PRIORS.values() if prior.build_problem}
