"""Define a row of the table of priors, and the options of a prior that a task builds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from napari_dip.tasks.base import TaskSetup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Operator, Penalty, Problem
    from napari_dip.tasks.base import FitInput

#: Channels of the random input: value of the paper.
RANDOM_INPUT_CHANNELS = 32
#: Channels of a skip connection: value of the paper.
RANDOM_INPUT_SKIP_CHANNELS = 4
#: Channels of the random input in a volume with an initial estimate: time and memory go to the
#: finest layers there.
RANDOM_INPUT_CHANNELS_IN_VOLUMES = 8
#: Standard deviation of the jitter of the random input: 1/30, as in the paper's denoising.
RANDOM_INPUT_JITTER = 1 / 30


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RandomInputOptions:
    """Options of a random input.

    Attributes
    ----------
    architecture : str
        One of `ArchitectureName`.
    grid : tuple of int or None
        Size of the image, which may be finer or larger than the measurement; None: the same.
    skip_channels : int
        Channels of each skip connection; 0: none.
    jitter : float
        Standard deviation of the noise that is added to the random input in each iteration.
    channels : int
        Number of channels of the random input.
    extra_input : Tensor or None
        (1, G, *grid): images of a range of about one, appended to the random input.
    extra_input_jitter : float
        Standard deviation of the jitter of these images.
    output_scale : float
        Expected range of the image, in network units.
    baseline : Tensor or None
        (1, C, *grid): image that the fit starts from; None: a random one.
    bounds : tuple of Tensor or None
        Lowest and highest value of the image, as for `engine.priors.random_input.RandomInputPrior`.
    """

    architecture: str = "preset"
    grid: tuple[int, ...] | None = None
    skip_channels: int = RANDOM_INPUT_SKIP_CHANNELS
    jitter: float = RANDOM_INPUT_JITTER
    channels: int = RANDOM_INPUT_CHANNELS
    extra_input: Tensor | None = None
    extra_input_jitter: float = 0.0
    output_scale: float = 1.0
    baseline: Tensor | None = None
    bounds: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Resampling:
    """How an image is upscaled by several equal stages.

    Attributes
    ----------
    stage_factors : tuple of int
        Factors of one stage, 1, 2 or 3 for each axis.
    stage_count : int
    downsample_stage, downsample : Operator
        Downsampling by one stage, and by all of them.
    upsample : callable
        Interpolation by all stages.
    """

    stage_factors: tuple[int, ...]
    stage_count: int
    downsample_stage: Operator
    downsample: Operator
    upsample: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PriorOptions:
    """Options of a prior; a prior ignores those that do not concern it.

    Attributes
    ----------
    penalties : tuple of (weight, Penalty)
        Added to the loss.
    predicts_measured : bool
        Whether the final inference also predicts the measured pixels from the others.
    guide : Tensor or None
        (1, G, *grid), of a range of about one: further channels of the network's input.
    extra_channels : int
        Number of input channels besides the prior's own; `PriorSpec.build_prior` sets it.
    random_input : RandomInputOptions
    resampling : Resampling or None
        For priors that learn from coarser scales.
    """

    penalties: tuple[tuple[float, Penalty], ...] = ()
    predicts_measured: bool = False
    guide: Tensor | None = None
    extra_channels: int = 0
    random_input: RandomInputOptions = field(default_factory=RandomInputOptions)
    resampling: Resampling | None = None


NO_OPTIONS = PriorOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorInputTraits:
    """Describe what the network of a prior takes as input.

    Attributes
    ----------
    contains_image : bool
        Whether the image itself is in it, corrupted anew in each iteration.
    has_masked_pixels : bool
        Whether pixels of it are masked.
    is_random_noise : bool
        Whether it is fixed random noise; these networks have normalised layers.
    has_guide : bool
        Whether a second image is appended to it.
    has_neighbour_frames : bool
        Whether frames before and after can be appended to it.
    trains_on_coarser_copies : bool
        Whether the network is trained on coarser copies of the image.
    """

    contains_image: bool = False
    has_masked_pixels: bool = False
    is_random_noise: bool = False
    has_guide: bool = False
    has_neighbour_frames: bool = False
    trains_on_coarser_copies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTraits:
    """Describe how the network of a prior can be computed.

    Attributes
    ----------
    is_local : bool
        Whether the receptive field is limited, so that inference may run in tiles.
    is_planewise : bool
        Whether stacks are fitted plane by plane, with neighbouring planes as input.
    predicts_noise_variance : bool
        Whether the predicted variance includes a share of the noise.
    supports_bfloat16 : bool
        Whether steps may be computed in bfloat16, on CPUs with instructions for it.
    sums_branches : bool
        Whether the decoder of its hourglass has `SummedBranches`.
    """

    is_local: bool = False
    is_planewise: bool = False
    predicts_noise_variance: bool = False
    supports_bfloat16: bool = False
    sums_branches: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorCost:
    """What a fit with a prior costs.

    Attributes
    ----------
    float32_step_bytes, bfloat16_step_bytes : int
        Bytes per pixel and channel of a layer in one training step, forward and backward; in
        bfloat16, those of planes. Measured with `benchmarks/tiles.py`.
    inference_feature_bytes : int
        Bytes per pixel and channel of a layer during the inference of a plane.
    input_pixel_bytes : int
        Bytes per pixel that making the network's input takes, if it is not the image itself.
    averaged_passes : int
        Further passes of an inference that averages over flips and rotations; 0 if it does not.
    has_single_pass : bool
        Whether the number of passes does not depend on the width of the blind spots.
    """

    float32_step_bytes: int = 74
    bfloat16_step_bytes: int = 0
    inference_feature_bytes: int = 17
    input_pixel_bytes: int = 0
    averaged_passes: int = 0
    has_single_pass: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSpec:
    """Describe one prior.

    Attributes
    ----------
    key : str
        Name in presets, reports and `FitInput.prior_key`.
    methods_phrase : str
        Completion of "The network was fed", or, without a network, of "No network was fitted:".
    prior_factory : callable or None
        (fit_input, rng, options) -> Prior, without guide and neighbouring frames; `build_prior`
        appends these. None: only another version has this prior.
    problem_factory : callable or None
        (fit_input, options) -> Problem, in which the measurement is the image plus noise. None: a
        task states its own problem.
    labels : mapping of str to str
        Label of this choice in the setting `prior` of each task that offers it, by task.
    papers : tuple of str
        Papers cited after the phrase: keys of `pipeline.assess.methods_section.PAPERS`.
    choice_override : str
        Value of the setting `prior` that chooses this prior; "": the same as `key`.
    unguided_key : str
        Key of the same prior without the guide; "" for priors without a guide.
    suitable_holes : str
        Holes that it fills better than others: "scattered", "narrow", "wide", or "" for none.
    has_network : bool
        False if the pixels themselves are fitted.
    input_traits : PriorInputTraits
    network_traits : NetworkTraits
    cost : PriorCost
    needs_noise_variance : bool
        Whether the prior adds noise of the measured variance.
    has_own_validation : bool
        Whether the problem has validation pixels of its own.
    allows_temporal_smoothing : bool
        Whether the previous frame of a movie may enter the fit.
    uses_total_variation : bool
        Whether a penalty on total variation is all that the prior consists of.
    has_refinement : bool
        Whether NL-Bayes refinement follows, unless the task keeps measured pixels.
    is_repeatable_after_stop : bool
        Whether a run that the user ended repeats to the pixel.
    """

    key: str
    methods_phrase: str
    prior_factory: Callable[[FitInput, torch.Generator, PriorOptions], Prior] | None = None
    problem_factory: Callable[[FitInput, PriorOptions], Problem] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    papers: tuple[str, ...] = ()
    choice_override: str = ""
    unguided_key: str = ""
    suitable_holes: Literal["", "scattered", "narrow", "wide"] = ""
    has_network: bool = True
    input_traits: PriorInputTraits = PriorInputTraits()
    network_traits: NetworkTraits = NetworkTraits()
    cost: PriorCost = PriorCost()
    needs_noise_variance: bool = False
    has_own_validation: bool = False
    allows_temporal_smoothing: bool = True
    uses_total_variation: bool = False
    has_refinement: bool = False
    is_repeatable_after_stop: bool = True

    @property
    def choice(self) -> str:
        """Value of a task's setting `prior` that chooses this prior."""
        return self.choice_override or self.key

    def build_setup(
        self, fit_input: FitInput, rng: torch.Generator, options: PriorOptions = NO_OPTIONS
    ) -> TaskSetup:
        """Build the prior, and the problem in which the measurement is the image plus noise."""
        assert self.problem_factory is not None
        fit_input = self.clear_unused_validation(fit_input)
        return TaskSetup(
            prior=self.build_prior(fit_input, rng, options),
            problem=self.problem_factory(fit_input, options),
            fit_input=fit_input,
        )

    def clear_unused_validation(self, fit_input: FitInput) -> FitInput:
        """Return the input without validation pixels, if the problem has its own."""
        if not self.has_own_validation:
            return fit_input
        return replace(fit_input, masks=fit_input.masks.clear_validation())

    def build_prior(
        self, fit_input: FitInput, rng: torch.Generator, options: PriorOptions = NO_OPTIONS
    ) -> Prior:
        """Build the network and its input, with guide or neighbouring frames if it takes them.

        The untrained weights are drawn from `rng`.
        """
        assert self.prior_factory is not None
        candidates = (
            fit_input.neighbouring_frames if self.input_traits.has_neighbour_frames else None,
            options.guide if self.input_traits.has_guide else None,
        )
        if not (extra_inputs := [extra for extra in candidates if extra is not None]):
            return self.prior_factory(fit_input, rng, options)
        import torch

        from napari_dip.engine.prior import GuidedPrior

        guide = torch.cat(extra_inputs, 1)
        options = replace(options, extra_channels=guide.shape[1])
        return GuidedPrior(self.prior_factory(fit_input, rng, options), guide)
