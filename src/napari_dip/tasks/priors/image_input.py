"""Priors whose network takes the image as input, blind spot and R2R: how they are built.

The blind spot predicts hidden pixels of the measurement, with or without a guide. R2R
(recorrupted-to-recorrupted) takes the measurement with more noise of the same kind, so the noise
has to be known. NL-Bayes refinement follows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors.templates import format_sizes
from napari_dip.tasks.priors.refinement import make_nl_bayes_refinement, make_refinement_if_nearer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.engine.priors.blind_spot import BlindSpotPrior
    from napari_dip.engine.priors.r2r import R2RPrior
    from napari_dip.engine.problem import (
        Estimate,
        Fidelity,
        Operator,
        Problem,
        Term,
    )
    from napari_dip.tasks.base import FitInput, FitMasks, NoiseSettings
    from napari_dip.tasks.priors.prior_spec import PriorOptions

#: Fraction of the pixels hidden in an iteration, for blind spots of one pixel: 1/12 to 1/4 are
#: within 0.1 dB on FMD (docs/constants.md).
BLIND_SPOT_FRACTION = 1 / 8
#: Fraction of the pixels hidden in an iteration, for wider blind spots: 0.2 dB better than 0.15.
WIDE_BLIND_SPOT_FRACTION = 0.3
#: Width of a blind spot from which on its core is three pixels wide instead of one.
MIN_WIDE_BLIND_SPOT = 7
#: Smallest and largest factor by which validation residuals may correct the predicted variance.
#: Values beyond these limits come from a few atypical validation pixels.
UNCERTAINTY_FACTOR_LIMITS = (0.05, 20.0)
#: Largest factor behind a blur or binning, where the spread of a fit that starts close to its
#: result is far below its error: 70,000 in one; with 20, the uncertainty was 36 times too small.
MAX_SPREAD_FACTOR = 1e6
#: Maximum depth of a training window in three dimensions, in planes. More than the network's
#: coarsest scale spans would only reduce the window's width.
MAX_WINDOW_DEPTH = 16
#: Reasons in the report why the blind spot replaced R2R.
UNRELIABLE_NOISE_REASON = (
    "the noise could not be measured reliably, and R2R adds noise of the measured strength"
)
WEAK_NOISE_REASON = (
    "the noise is weak compared with the image, and a network that sees all of it would copy it"
)
FEW_PHOTONS_REASON = (
    "most pixels hold no photon, and R2R adds noise that does not look like single photons"
)
#: Approximate share of the noise variance left in the prediction, the variance of fits that the
#: user stops early: 0.09 on F16, 0.12 to 0.34 on FMD (docs/constants.md).
R2R_RESIDUAL_NOISE_FRACTION = 0.2


def compute_window_size(dims: int, side: int) -> tuple[int, ...]:
    """Return the size of a training window.

    In three dimensions it holds about as many pixels as in two.
    """
    return (side,) * 2 if dims == 2 else (MAX_WINDOW_DEPTH, side * 3 // 8, side * 3 // 8)


def make_measured_term(
    measurement: Tensor, masks: FitMasks, noise_variance: NoiseVariance, fidelity: Fidelity
) -> Term:
    """Return the term of an image that was measured itself, plus noise of that variance."""
    from napari_dip.engine.likelihood.fidelity import make_gaussian_deviance
    from napari_dip.engine.problem import Identity, Term

    return Term(
        measurement=measurement,
        operator=Identity(),
        fidelity=fidelity,
        deviance=make_gaussian_deviance(noise_variance),
        training_pixel_weights=masks.training_pixel_weights,
        validation_mask=masks.validation,
        refit_pixel_weights=masks.measured_pixel_weights,
    )


def compute_fit_window(fit_input: FitInput) -> tuple[int, ...] | None:
    """Return the size of a fit's training window; None: the whole grid."""
    side = fit_input.window_side
    return None if side is None else compute_window_size(len(fit_input.grid), side)


def compute_loss_core_width(side: int) -> int:
    """Return the width of the core of a blind spot, which enters the loss."""
    return 3 if side >= MIN_WIDE_BLIND_SPOT else 1


def build_image_network(
    fit_input: FitInput,
    rng: torch.Generator,
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 0,
    preserves_variance: bool = True,
    sums_branches: bool = False,
) -> Hourglass:
    """Build an hourglass that takes an image, with skip connections and without normalisation.

    `dims` is 2 for planes of a volume; by default, the number of axes of the grid. `sums_branches`
    has to be the trait of the prior of that name.
    """
    from napari_dip.engine.networks.hourglass import Hourglass

    return Hourglass(
        dims or len(fit_input.grid),
        in_channels,
        out_channels,
        fit_input.widths,
        skip_channels=None,
        is_normalised=False,
        rng=rng,
        preserves_variance=preserves_variance,
        sums_branches=sums_branches,
    )


def build_blind_spot_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> BlindSpotPrior:
    """Build the network and its input: the measurement with blind spots."""
    from napari_dip.engine.priors.blind_spot import BlindSpotPrior

    channels = fit_input.measurement.shape[1]
    network = build_image_network(
        fit_input, rng, channels + options.extra_channels, 2 * channels, sums_branches=True
    )
    size, shape = fit_input.masks.blind_spot_size, fit_input.masks.blind_spot_shape
    has_single_pixels = all(side == 1 for side in size)
    hidden = fit_input.masks.excluded
    if fit_input.masks.pixel_weights is not None:  # noisy pixels are predicted as well
        hidden = hidden.maximum(1 - fit_input.masks.low_noise)
    return BlindSpotPrior(
        network,
        measurement=fit_input.measurement,
        excluded_mask=hidden,
        blind_spot_size=size,
        # only the middle of a shape is as far from visible pixels as the user meant
        core_size=tuple(compute_loss_core_width(side) if shape is None else 1 for side in size),
        masked_fraction=BLIND_SPOT_FRACTION if has_single_pixels else WIDE_BLIND_SPOT_FRACTION,
        window=compute_fit_window(fit_input),
        blind_spot_shape=shape,
    )


def build_guided_prior(
    fit_input: FitInput, rng: torch.Generator, options: PriorOptions
) -> BlindSpotPrior:
    """Build the same for a guide in the last channels, which has no influence at first."""
    from napari_dip.engine.prior import zero_last_channels

    prior = build_blind_spot_prior(fit_input, rng, options)
    assert options.guide is not None
    zero_last_channels(prior.network, options.guide.shape[1])
    return prior


def build_blind_spot_problem(
    fit_input: FitInput, options: PriorOptions, *, uses_measured_pixel: bool = True
) -> Problem:
    """Build the problem: the measurement is the image plus noise.

    Parameters
    ----------
    fit_input : FitInput
    options : PriorOptions
    uses_measured_pixel : bool
        Whether postprocessing uses the measured value of each pixel: in the posterior mean, and in
        the NL-Bayes refinement.
    """
    from napari_dip.engine.likelihood.fidelity import compute_posterior, make_beta_nll
    from napari_dip.engine.problem import Problem

    noise_variance = fit_input.noise.noise_variance.scale(fit_input.noise.assumed_fraction)
    fidelity = make_beta_nll(noise_variance, fit_input.noise.rms_std**2)
    term = make_measured_term(fit_input.measurement, fit_input.masks, noise_variance, fidelity)

    measures_noise = options.predicts_measured and bool(fit_input.noise.off_model_channels)

    def make_guide(estimate: Estimate) -> tuple[Estimate, NoiseVariance]:
        noise = fit_input.noise.noise_variance
        if measures_noise:
            noise = measure_fit_noise(fit_input, estimate)
        posterior = compute_posterior(
            noise,
            fit_input.measurement,
            estimate,
            assumed_noise=fit_input.noise.noise_variance,
            assumed_noise_fraction=fit_input.noise.assumed_fraction,
            validation_mask=fit_input.masks.validation,
            uses_measured_pixel=uses_measured_pixel,
            pixel_weights=fit_input.masks.pixel_weights,
            residual_mask=fit_input.masks.low_noise,
        )
        return posterior, noise

    refine = make_nl_bayes_refinement(fit_input, make_guide) if uses_measured_pixel else None
    return Problem(
        terms=(term,),
        penalties=options.penalties,
        postprocess=lambda estimate: make_guide(estimate)[0],
        full_postprocess=refine,
        measures_noise_again=measures_noise,
    )


def find_off_model_channels(
    noise: Sequence[NoiseEstimate], settings: NoiseSettings
) -> tuple[int, ...]:
    """Return the channels whose noise may be measured again: none if the user chose the noise."""
    if settings.model != "auto" or settings.has_entered_noise:
        return ()
    return tuple(index for index, estimate in enumerate(noise) if estimate.may_be_off_model)


def measure_fit_noise(fit_input: FitInput, estimate: Estimate) -> NoiseVariance:
    """Return the noise variance, measured again in the residual where it is off its line.

    It is that of the fit in joint training of several images, and where residuals are no noise.
    """
    from napari_dip.engine.likelihood.fidelity import measure_noise_again

    noise = fit_input.noise
    if len(fit_input.measurement) > 1:
        return noise.noise_variance
    return measure_noise_again(
        noise.noise_variance,
        fit_input.measurement,
        estimate.mean,
        fit_input.masks.low_noise,
        channels=noise.off_model_channels,
    )


def compute_variance_factor(
    fit_input: FitInput, operator: Operator, network_estimate: Estimate
) -> Tensor:
    """Return the ratio of validation residuals to predicted variance, within limits.

    Where the network predicts a variance of its own, the squared residuals are compared with that
    variance plus its share of the noise. Otherwise, the noise variance is subtracted from the
    squared residuals first. The ratio is 1 if there are no validation pixels. The posterior of a
    volume has been raised to its residuals before, so that there the ratio is at most 1. It is at
    least 1 behind a blur or binning, which hides errors from the residuals: in photographs with 20
    photons, errors were 5 and 15 times the uncertainty, and now 1.2 and 3.4 times.
    """
    from napari_dip.engine.problem import Identity

    assert network_estimate.log_variance is not None
    predicted = operator(network_estimate.mean)
    validation_mask = fit_input.masks.validation
    noise = fit_input.noise.noise_variance.compute_variance(predicted)
    squared_residuals = (fit_input.measurement - predicted) ** 2 * validation_mask
    predicted_variance = operator(network_estimate.log_variance.exp()) * validation_mask
    if not float(validation_mask.sum()):
        return squared_residuals.new_ones(())
    if fit_input.noise.assumed_fraction < 1:
        assumed_noise = fit_input.noise.assumed_fraction * noise * validation_mask
        total = (predicted_variance + assumed_noise).sum()
        factor = squared_residuals.sum() / total.clamp(min=1e-30)
        if fit_input.measurement.ndim > 4:
            factor = factor.clamp(max=1)
    else:
        total = predicted_variance.expand_as(squared_residuals).sum()
        factor = (squared_residuals - noise * validation_mask).sum() / total.clamp(min=1e-30)
        if not isinstance(operator, Identity):
            return factor.clamp(1.0, MAX_SPREAD_FACTOR)
    return factor.clamp(*UNCERTAINTY_FACTOR_LIMITS)


def build_guided_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the same without the posterior mean, which with few photons adds noise.

    On three pairs of channels at a peak of 5 photons it cost 1.1, 0.7 and 0.1 dB. Instead, the
    weave of predictions from neighbours alone is smoothed away. In planes, the NL-Bayes refinement
    is kept where it comes nearer to the truth.
    """
    from napari_dip.engine.priors.blind_spot import smooth_weave

    problem = build_blind_spot_problem(fit_input, options, uses_measured_pixel=False)
    predict, is_white = problem.postprocess, fit_input.noise.correlation is None

    def smooth(estimate: Estimate) -> Estimate:
        predicted = predict(estimate)
        return predicted._replace(mean=smooth_weave(predicted.mean)) if is_white else predicted

    refine = make_refinement_if_nearer(fit_input, predict, smooth)
    return replace(problem, postprocess=smooth, full_postprocess=refine)


def append_upscaling(fit_input: FitInput, problem: Problem) -> Problem:
    """Append upscaling to the postprocessing of a problem, if the fit runs at half resolution."""
    from napari_dip.engine.noise.oversampling import upscale_estimate
    from napari_dip.engine.problem import append_postprocessing

    half_resolution = fit_input.half_resolution
    if half_resolution is None:
        return problem
    grid = half_resolution.upscaled_grid
    upscaled = append_postprocessing(problem, lambda _, final: upscale_estimate(final, grid))
    # BM3D of a colour camera runs at full size
    if half_resolution.camera_noise is not None:
        upscaled = replace(upscaled, full_postprocess=problem.full_postprocess)
    return upscaled


def describe_blind_spot(blind_spot_size: tuple[int, ...], rows: tuple[tuple[int, ...], ...]) -> str:
    """Return the size of the blind spots, and the reason for it, as text.

    Parameters
    ----------
    blind_spot_size : tuple of int
        Size of the blind spots, along Y and X.
    rows : tuple of tuple of int
        As `TaskPlan.blind_spot_shape`.
    """
    if all(side == 1 for side in blind_spot_size):
        return "single pixels are hidden, since neighbouring pixels do not share noise"
    sizes = format_sizes(blind_spot_size[::-1])
    if not all(map(all, rows)):
        return f"{sum(map(sum, rows))} of {sizes} pixels are hidden, in the shape that you set"
    order = " × ".join(("width", "height", "depth")[: len(blind_spot_size)])
    return f"blocks of {sizes} pixels ({order}) are hidden, since neighbouring pixels share noise"


def build_r2r_prior(fit_input: FitInput, rng: torch.Generator, options: PriorOptions) -> R2RPrior:
    """Build the network and its input: the measurement with added noise of its own kind."""
    from napari_dip.engine.priors.r2r import R2RPrior

    channels = fit_input.measurement.shape[1]
    # replacements of very noisy pixels have the usual noise
    pixel_weights = fit_input.masks.pixel_weights
    if pixel_weights is not None:
        pixel_weights = pixel_weights.where(fit_input.masks.low_noise > 0, 1.0)
    return R2RPrior(
        build_image_network(
            fit_input, rng, channels + options.extra_channels, channels, sums_branches=True
        ),
        measurement=fit_input.measurement,
        measured_mask=fit_input.masks.low_noise,
        excluded_mask=fit_input.masks.excluded,
        blind_spot_size=fit_input.masks.blind_spot_size,
        noise_variance=fit_input.noise.image_noise_variances or fit_input.noise.noise_variance,
        correlation=fit_input.noise.correlation,
        window=compute_fit_window(fit_input),
        pixel_weights=pixel_weights,
    )


def build_r2r_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem: the measurement is the image plus noise."""
    from napari_dip.engine.likelihood.fidelity import make_least_squares
    from napari_dip.engine.problem import Estimate, Problem

    noise_variance = fit_input.noise.noise_variance
    fidelity = make_least_squares(fit_input.noise.rms_std**2)
    term = make_measured_term(fit_input.measurement, fit_input.masks, noise_variance, fidelity)

    def postprocess(estimate: Estimate) -> Estimate:
        variance = noise_variance.compute_variance(estimate.mean)
        return Estimate(estimate.mean, (R2R_RESIDUAL_NOISE_FRACTION * variance).log())

    return Problem(
        terms=(term,),
        penalties=options.penalties,
        postprocess=postprocess,
        full_postprocess=make_nl_bayes_refinement(
            fit_input, lambda estimate: (postprocess(estimate), noise_variance)
        ),
    )
