"""Super-resolve: make a finer image that explains the coarse one.

The settings state the upscaling factor along each axis, and how the image was downsampled.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.engine.constants import GAUSSIAN_RADIUS_SIGMAS
from napari_dip.errors import Refusal, make_refusal
from napari_dip.tasks.base import (
    IMAGE_AXES,
    FitInput,
    Task,
    TaskPlan,
    TaskSetup,
    TaskSpec,
    load_setting,
)
from napari_dip.tasks.priors.prior_spec import (
    RANDOM_INPUT_CHANNELS,
    RANDOM_INPUT_CHANNELS_IN_VOLUMES,
    PriorOptions,
    RandomInputOptions,
    Resampling,
)
from napari_dip.tasks.priors.refinement import filter_noise
from napari_dip.tasks.priors.registry import AUTOMATIC, PRIOR_SPECS, PriorChoices
from napari_dip.tasks.priors.zssr import MIN_ZSSR_SIDE, split_into_stages
from napari_dip.tasks.psf.psf_settings import get_fit_axes
from napari_dip.tasks.shared_settings import (
    CameraGain,
    DetectorNoiseSetting,
    ReadNoise,
    compute_object_size,
    get_axis_factors,
    get_spatial_axes,
    make_crop_to_field,
    make_noise_settings,
    multiply_sizes,
    normalise_factor,
    refuse_factor_depth,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.problem import Operator, Problem
    from napari_dip.io import ImageHeader
    from napari_dip.io.header import Headers

#: Standard deviation of the jitter of the random input for factors up to `MAX_SMALL_FACTOR`: 0.03
#: for 4 in the paper.
SMALL_FACTOR_JITTER = 0.03
#: Standard deviation of the jitter of the random input for larger factors: 0.05 for 8 in the paper.
LARGE_FACTOR_JITTER = 0.05
#: Largest upscaling factor with `SMALL_FACTOR_JITTER`.
MAX_SMALL_FACTOR = 4
#: Standard deviation of the jitter of the interpolated image, whose range is about one.
INTERPOLATED_INPUT_JITTER = 0.1
#: Range of the network's correction, in RMS changes by back-projection, from which a volume starts:
#: a random start reached 29.1 dB, cubic interpolation 41.1 dB (docs/constants.md).
CORRECTION_RANGE_FACTOR = 4.0
#: Largest lesser factor at which a plane starts from the back-projected image, too (with a PSF
#: always): error of 51 grey values on mitochondria, 60 to 72 from a random start
#: (docs/constants.md).
MAX_INTERPOLATED_START_FACTOR = 2
#: Minimum range of the network's correction, in network units, for images without detail.
MIN_CORRECTION_RANGE = 1e-4

_Sigma = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
SUPER_RESOLUTION_PRIORS = PriorChoices("super-resolve")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class SuperResolve(Task):
    """Settings of super-resolution: upscaling factor, downsampling, PSF and prior."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="super-resolve",
        title="Super-resolve",
        result_suffix="super-resolved",
        methods_phrase="super-resolved",
        keeps_pixel_grid=False,
        accepts_stacks=True,
    )

    factor: Annotated[
        str,
        BeforeValidator(partial(normalise_factor, allows_one=False)),
        load_setting("super_resolve_factor"),
    ] = "2"
    downsampling: Annotated[Literal["lanczos", "binning"], load_setting("downsampling")] = "lanczos"
    psf_sigma: Annotated[_Sigma, load_setting("psf_sigma")] = 0.0
    psf_sigma_z: Annotated[
        _Sigma, load_setting("psf_sigma_z", relevant_when=lambda values: "Z" in values[IMAGE_AXES])
    ] = 0.0
    prior: Annotated[str, load_setting("super_resolve_prior", choices=SUPER_RESOLUTION_PRIORS)] = (
        AUTOMATIC
    )
    initial_estimate: Annotated[
        Literal["interpolated", "none"], load_setting("super_resolve_initial_estimate")
    ] = "interpolated"
    noise: DetectorNoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Choose prior and fine grid; refuse what has no coarser scales, or planes for a volume."""
        priors = SUPER_RESOLUTION_PRIORS.select(self.prior)
        others = tuple(p for p in priors if not p.input_traits.trains_on_coarser_copies)
        if not self._has_scales(header):
            priors = others
        if not priors:
            return make_refusal("scales-none", name=header.name)
        is_volume = self._has_depth and get_fit_axes(header, 3) == "ZYX"
        suitable = priors if len(axes) == 2 else (*others, *priors)
        sizes = multiply_sizes(header.get_sizes(axes), self._get_factors(axes))
        return TaskPlan(
            axes_refusal=self._refuse_axes(header, axes),
            stacks="volume" if is_volume else "planes",  # which cost less
            prior_key=suitable[0].key,
            prior_reasons={
                prior_spec.key: "it learns on the image, made coarser still, "
                "what finer pixels look like"
                if prior_spec.input_traits.trains_on_coarser_copies
                else "it is the one that the Deep Image Prior paper enlarges with"
                for prior_spec in priors
            },
            factors=dict(zip("ZYX", self._get_factors("ZYX"), strict=True)),
            network_grid=compute_object_size(sizes, self._compute_margin(axes)),
            # correlation between coarse pixels mostly belongs to the image, unless it is certain
            noise_settings=make_noise_settings(self, is_white=True),
        )

    def _refuse_axes(self, header: ImageHeader, axes: str) -> Refusal | None:
        """Refuse single planes where there is a factor or a PSF along Z."""
        if not self._has_depth or axes == "ZYX":
            return None
        refusal = refuse_factor_depth(self.factor, header, axes)
        return refusal or make_refusal("gaussian-depth", name=header.name)

    @property
    def _has_depth(self) -> bool:
        return self.factor.count(",") > 1 or self.psf_sigma_z > 0

    def _get_factors(self, axes: str) -> tuple[int, ...]:
        return get_axis_factors(self.factor, axes)

    def _get_psf_sigmas(self, axes: str) -> tuple[float, ...]:
        """Return the standard deviation of the PSF along each axis, in fine pixels."""
        values = {"Z": self.psf_sigma_z, "Y": self.psf_sigma, "X": self.psf_sigma}
        return tuple(values.get(axis, 0.0) for axis in axes)

    def _compute_margin(self, axes: str) -> tuple[int, ...]:
        """Return the fine pixels beyond the field that the PSF reaches, on either side."""
        return tuple(ceil(GAUSSIAN_RADIUS_SIGMAS * sigma) for sigma in self._get_psf_sigmas(axes))

    def _has_scales(self, header: ImageHeader) -> bool:
        factors = self._get_factors(header.axes)
        if max(factors) == 1:  # the factor is along an axis that the image does not have
            return False
        is_usable = split_into_stages(factors) is not None and min(header.grid) >= MIN_ZSSR_SIDE
        return is_usable and not (self.psf_sigma or self.psf_sigma_z)

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Build the prior, and the problem: the downsampled prediction explains the pixels."""
        axes, prior_spec = get_spatial_axes(fit_input), PRIOR_SPECS[fit_input.prior_key]
        fit_input, noise_left = filter_noise(fit_input)
        filters_first = bool(noise_left.any())
        factors = self._get_factors(axes)
        downsample = self._make_operator(axes).to(fit_input.measurement.device)
        if not prior_spec.input_traits.is_random_noise:
            stages = split_into_stages(factors)
            assert stages is not None  # else another prior was chosen
            resampling = Resampling(
                stage_factors=stages[0],
                stage_count=stages[1],
                downsample_stage=self._make_downsampling(stages[0]),
                downsample=downsample,
                upsample=lambda coarse: self._upsample(fit_input, coarse),
            )
            setup = prior_spec.build_setup(fit_input, rng, PriorOptions(resampling=resampling))
            noise_left = self._upsample(fit_input, noise_left).clamp(min=0)
            problem = replace(setup.problem, noise_left=noise_left, filters_first=filters_first)
            return replace(setup, problem=problem)
        grid = downsample.compute_object_grid(fit_input.grid)
        random_input = RandomInputOptions(
            grid=grid,
            jitter=SMALL_FACTOR_JITTER if max(factors) <= MAX_SMALL_FACTOR else LARGE_FACTOR_JITTER,
            channels=RANDOM_INPUT_CHANNELS_IN_VOLUMES if len(grid) > 2 else RANDOM_INPUT_CHANNELS,
        )
        baseline = None
        if self.initial_estimate != "none":
            visible = fit_input.masks.visible
            interpolated, backprojected = self._fit_interpolation(fit_input, downsample, visible)
            is_fine = min(factors) <= MAX_INTERPOLATED_START_FACTOR or self.psf_sigma > 0
            if len(fit_input.grid) > 2 or is_fine:
                baseline = backprojected  # see `CORRECTION_RANGE_FACTOR`
            random_input = _add_estimates(random_input, interpolated, backprojected, baseline)
        options = PriorOptions(random_input=random_input)
        return TaskSetup(
            prior=prior_spec.build_prior(fit_input, rng, options),
            problem=replace(
                self._make_problem(fit_input, downsample, baseline), filters_first=filters_first
            ),
            fit_input=fit_input,
        )

    def _make_problem(
        self, fit_input: FitInput, downsample: Operator, baseline: Tensor | None
    ) -> Problem:
        """Build the problem: the downsampled prediction explains the coarse pixels."""
        from napari_dip.engine.likelihood.fidelity import (
            make_gaussian_deviance,
            make_weighted_residual,
        )
        from napari_dip.engine.problem import Estimate, Problem, Term

        masks, noise_variance = fit_input.masks, fit_input.noise.noise_variance
        change: Tensor | float = 0.0  # what the validation pixels change in the baseline
        noise_left: Tensor | float = 0.0
        crop = make_crop_to_field(self._compute_margin(get_spatial_axes(fit_input)))
        if baseline is not None:
            _, complete = self._fit_interpolation(fit_input, downsample, masks.measured)
            change = complete - baseline
            noise_left = crop(Estimate(self._propagate_noise(fit_input, downsample))).mean

        term = Term(
            measurement=fit_input.measurement,
            operator=downsample,
            fidelity=make_weighted_residual(noise_variance),
            deviance=make_gaussian_deviance(noise_variance),
            training_pixel_weights=masks.visible,
            validation_mask=masks.validation,
            # with a baseline, postprocessing adds the validation pixels instead of the refit
            refit_pixel_weights=masks.measured if baseline is None else masks.visible,
        )
        return Problem(
            terms=(term,),
            postprocess=lambda estimate: estimate._replace(mean=estimate.mean + change),
            crop=crop,
            noise_left=noise_left,
        )

    def _propagate_noise(self, fit_input: FitInput, downsample: Operator) -> Tensor:
        """Return the variance of the noise that back-projection carries into the fine image.

        Back-projection is linear, so white noise of variance one tells by how much it amplifies.
        """
        import torch

        measured, noise = fit_input.measurement, fit_input.noise.noise_variance
        drawn = torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
        unit_noise = replace(fit_input, measurement=drawn.to(measured))
        _, carried = self._fit_interpolation(unit_noise, downsample, fit_input.masks.measured)
        variance = self._upsample(fit_input, noise.compute_variance(measured)).clamp(min=0)
        return carried.square().mean() * variance

    def _make_operator(self, axes: str) -> Operator:
        """Return the blur by the PSF followed by the downsampling."""
        from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
        from napari_dip.engine.operators.imaging import ValidConvolution
        from napari_dip.engine.problem import Chain

        downsampling = self._make_downsampling(self._get_factors(axes))
        sigmas = self._get_psf_sigmas(axes)
        if any(sigmas):
            return Chain(ValidConvolution(sample_gaussian_psf(sigmas)), downsampling)
        return downsampling

    def _make_downsampling(self, factors: tuple[int, ...]) -> Operator:
        from napari_dip.engine.operators.imaging import BinnedDownsample, LanczosDownsample

        is_lanczos = self.downsampling == "lanczos"
        return LanczosDownsample(factors) if is_lanczos else BinnedDownsample(factors)

    def _upsample(self, fit_input: FitInput, coarse: Tensor) -> Tensor:
        from torch.nn import functional

        from napari_dip.engine.operators.imaging import interpolate_cubic

        axes = get_spatial_axes(fit_input)
        sides = [margin for margin in reversed(self._compute_margin(axes)) for _ in range(2)]
        interpolated = interpolate_cubic(coarse, self._get_factors(axes))
        return functional.pad(interpolated, sides, mode="replicate")

    def _fit_interpolation(
        self, fit_input: FitInput, downsample: Operator, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the cubic interpolation of visible pixels, without and with back-projection.

        Iterative back-projection repeatedly adds the interpolated residual of these pixels.
        """
        from napari_dip.engine.operators.imaging import apply_iterative_backprojection
        from napari_dip.engine.prior import fill_with_local_mean

        measured = fit_input.measurement
        filled = fill_with_local_mean(measured * visible, visible, fit_input.masks.blind_spot_size)
        interpolation = self._upsample(fit_input, filled)
        backprojected = apply_iterative_backprojection(
            interpolation,
            measured,
            downsample,
            lambda residual: self._upsample(fit_input, residual * visible),
        )
        return interpolation, backprojected


def _add_estimates(
    random_input: RandomInputOptions,
    interpolated: Tensor,
    backprojected: Tensor,
    baseline: Tensor | None,
) -> RandomInputOptions:
    """Append the interpolated image, and the back-projected one unless the fit starts from it."""
    from torch import cat

    random_input = replace(random_input, extra_input_jitter=INTERPOLATED_INPUT_JITTER)
    if baseline is None:
        return replace(random_input, extra_input=cat([interpolated, backprojected], 1))
    rms_change = float((baseline - interpolated).square().mean().sqrt())
    scale = max(CORRECTION_RANGE_FACTOR * rms_change, MIN_CORRECTION_RANGE)
    return replace(random_input, extra_input=interpolated, baseline=baseline, output_scale=scale)
