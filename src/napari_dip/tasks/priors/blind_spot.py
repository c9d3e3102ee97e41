"""Blind-spot prior: how its network and its problem are built, with and without a guide.

The network predicts hidden pixels of the measurement. NL-Bayes refinement follows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors.templates import format_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.engine.noise.oversampling import HalfResolutionFit
    from napari_dip.engine.priors.blind_spot import BlindSpotPrior
    from napari_dip.engine.problem import (
        Estimate,
        Fidelity,
        Operator,
        PostprocessingSteps,
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
#: Share of the network's prediction in its mean with the NL-Bayes refinement, for correlated noise
#: or neighbouring frames: 0.04 and 0.08 dB better than 0.5 on FMD widefield (docs/constants.md).
GUIDE_FRACTION = 0.2
#: Standard deviation in pixels of the Gaussian filter that guides a filter without a network: with
#: 1.5 three of seven crops whose neighbours share noise lose 0.2 to 0.3 dB, two gain 0.4 and 0.7.
PILOT_SIGMA = 1.0
#: Filters in a row without a network, where neighbours share noise: 0.2 to 1.5 dB more than one on
#: six of seven crops, 0.1 dB less on one.
SHARED_NOISE_ROUNDS = 4
#: Least share of the measured noise that such a filter removes: 0.01 to 0.39 in 22 photographs
#: without noise, which lost up to 0.45 dB, 0.48 to 0.89 with noise of 10 (docs/adr/0046).
MIN_REMOVED_FRACTION = 0.4
#: Least standard deviation of the noise that such a filter takes out, as a share of the range: with
#: less, moon and cell, which have no noise, were 0.3 and 0.4 dB worse.
MIN_FILTERED_NOISE = 0.02
#: Change of the measurement, in standard deviations of its noise, that tells what a filter takes:
#: it chose rightly in 13 of 15 crops, and lost 0.2 dB at most in the others.
RISK_STEP = 0.1
#: Variance of the guide in noise variances, from and to which the filter's own pilots replace it:
#: at most 0.29 in 20 frames where they lose up to 1.0 dB, 0.35 and 0.70 in two where they gain 0.7
#: and 3.5 dB.
GUIDE_VARIANCE_RANGE = (0.28, 0.4)
#: Weight of the network's prediction relative to the filter's first step, for a colour camera.
CAMERA_GUIDE_WEIGHT = 0.3
#: Smallest and largest factor by which validation residuals may correct the predicted variance.
#: Values beyond these limits come from a few atypical validation pixels.
UNCERTAINTY_FACTOR_LIMITS = (0.05, 20.0)
#: Largest factor behind a blur or binning, where the spread of a fit that starts close to its
#: result is far below its error: 70,000 in one; with 20, the uncertainty was 36 times too small.
MAX_SPREAD_FACTOR = 1e6
#: Maximum depth of a training window in three dimensions, in planes. More than the network's
#: coarsest scale spans would only reduce the window's width.
MAX_WINDOW_DEPTH = 16


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


def make_nl_bayes_refinement(
    fit_input: FitInput, make_guide: Callable[[Estimate], tuple[Estimate, NoiseVariance]]
) -> Callable[[Estimate], PostprocessingSteps] | None:
    """Return the NL-Bayes refinement; None in three dimensions and for tiny images.

    `make_guide` returns the image that guides it, and the noise variance.

    Spots that noise cannot explain are put back at the end, where the noise is known.

    With correlated noise, and in series, the result keeps a share of the network's prediction:
    `GUIDE_FRACTION`. Its errors differ from those of the filter.
    """
    from napari_dip.engine.patch_groups import PATCH_SIDE
    from napari_dip.engine.problem import make_single_step

    if fit_input.measurement.ndim > 4 or min(fit_input.grid) < PATCH_SIDE:
        return None
    if fit_input.half_resolution and fit_input.half_resolution.camera_noise:
        return _make_camera_refinement(
            fit_input.half_resolution, lambda estimate: make_guide(estimate)[0]
        )

    def refine(estimate: Estimate) -> Estimate:
        guide, noise_variance = make_guide(estimate)
        return _refine_plane(
            fit_input,
            noise_variance,
            guide,
            fit_input.measurement,
            fit_input.masks.measured_pixel_weights,
        )

    return make_single_step(refine)


def make_planewise_refinement(
    fit_input: FitInput, make_guide: Callable[[Estimate], Estimate]
) -> Callable[[Estimate], PostprocessingSteps] | None:
    """Return the NL-Bayes refinement of each plane of a volume; None for tiny planes.

    Planes without a measurement keep the guide. It is not the only pilot, though it has information
    from other planes: as such it left more noise, by 1.8 dB in a movie and 1.0 dB in a Z stack.
    """
    from torch import stack

    from napari_dip.engine.patch_groups import PATCH_SIDE
    from napari_dip.engine.problem import Estimate, make_single_step

    if min(fit_input.grid[-2:]) < PATCH_SIDE:
        return None

    def refine(estimate: Estimate) -> Estimate:
        guide, weights = make_guide(estimate), fit_input.masks.measured_pixel_weights
        assert guide.log_variance is not None
        noise_variance = fit_input.noise.noise_variance.drop_depth()
        means, log_variances = [], []
        for index in range(fit_input.grid[0]):
            plane = Estimate(guide.mean[:, :, index], guide.log_variance[:, :, index])
            if bool(weights[:, :, index].any()):
                measured = fit_input.measurement[:, :, index]
                plane = _refine_plane(
                    fit_input, noise_variance, plane, measured, weights[:, :, index]
                )
            assert plane.log_variance is not None
            means.append(plane.mean)
            log_variances.append(plane.log_variance)
        return Estimate(stack(means, 2), stack(log_variances, 2))

    return make_single_step(refine)


def filter_noise(fit_input: FitInput) -> tuple[FitInput, Tensor]:
    """Filter the noise out of a measurement by NL-Bayes, without a network.

    Returns
    -------
    fit_input : FitInput
        With the noise that stays, as white noise. Unchanged in volumes and tiny images.
    variance : Tensor
        (1, C, *grid), error variance that the filter leaves; 0 where it is unchanged.
    """
    from torch.nn import functional

    from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
    from napari_dip.engine.operators.imaging import ValidConvolution
    from napari_dip.engine.patch_groups import PATCH_SIDE
    from napari_dip.engine.prior import fill_with_local_mean
    from napari_dip.engine.problem import Estimate

    measured, noise, masks = fit_input.measurement, fit_input.noise, fit_input.masks
    variance = measured.new_zeros(measured.shape)
    is_weak = float(noise.rms_std) < MIN_FILTERED_NOISE
    if is_weak or measured.ndim > 4 or min(fit_input.grid) < PATCH_SIDE:
        return fit_input, variance
    kernel = sample_gaussian_psf((PILOT_SIGMA,) * 2).to(measured)
    filled = fill_with_local_mean(measured, masks.measured, masks.blind_spot_size)
    padded = functional.pad(filled, (kernel.shape[-1] // 2,) * 4, mode="replicate")
    filtered = filter_repeatedly(fit_input, Estimate(ValidConvolution(kernel)(padded)), 1)
    assert filtered.log_variance is not None
    removed_share = float((measured - filtered.mean).square().mean()) / noise.rms_std**2
    if removed_share < MIN_REMOVED_FRACTION:
        return _scale_to_white(fit_input, removed_share), variance
    variance = filtered.log_variance.exp()
    left_share = min(float(variance.mean()) / noise.rms_std**2, 1.0)
    return _scale_to_white(replace(fit_input, measurement=filtered.mean), left_share), variance


def filter_repeatedly(fit_input: FitInput, guide: Estimate, white_rounds: int) -> Estimate:
    """Refine the plane of a fit in a row, each time guided by what came before."""
    is_white = fit_input.noise.correlation is None
    for _ in range(white_rounds if is_white else SHARED_NOISE_ROUNDS):
        guide = _filter_measured(fit_input, guide, fit_input.measurement)
    return guide


def _scale_to_white(fit_input: FitInput, fraction: float) -> FitInput:
    """Return the input with a share of its noise variance, as white noise."""
    noise = replace(
        fit_input.noise,
        noise_variance=fit_input.noise.noise_variance.scale(fraction),
        rms_std=fit_input.noise.rms_std * fraction**0.5,
        correlation=None,
    )
    return replace(fit_input, noise=noise)


def _refine_plane(
    fit_input: FitInput,
    noise_variance: NoiseVariance,
    guide: Estimate,
    measured: Tensor,
    weights: Tensor,
) -> Estimate:
    """Refine a plane (1, C, Y, X) by NL-Bayes with a guide, and put back significant spots."""
    from napari_dip.engine.likelihood.lost_detail import (
        restore_border_detail,
        restore_significant_spots,
    )
    from napari_dip.engine.priors.r2r import estimate_count_skewness
    from napari_dip.engine.refinement import (
        MIN_GUIDE_WEIGHTS,
        NO_GUIDE_WEIGHTS,
        refine_by_nl_bayes,
    )

    correlation = fit_input.noise.correlation
    has_neighbours = fit_input.neighbouring_frames is not None
    least: Sequence[float] = NO_GUIDE_WEIGHTS if has_neighbours else MIN_GUIDE_WEIGHTS
    distrust = 0.0  # in the guide of a frame whose network learned little
    if guide.log_variance is not None and has_neighbours:
        noise = noise_variance.compute_variance(guide.mean).mean()
        low, high = GUIDE_VARIANCE_RANGE
        share = float(guide.log_variance.exp().mean() / noise)
        distrust = min(max((share - low) / (high - low), 0.0), 1.0)
        least = [share + distrust * (1 - share) for share in least]
    if correlation is None:
        damped = guide.mean + weights * (measured - guide.mean)
        guide = guide._replace(mean=restore_border_detail(noise_variance, damped, guide.mean))
    filtered = refine_by_nl_bayes(
        noise_variance,
        measured,
        guide.mean,
        weights,
        correlation,
        min_guide_weights=least,
        uses_sparse_groups=fit_input.refines_sparse_groups,
    )
    if correlation is not None or has_neighbours:
        fraction = GUIDE_FRACTION * (1 - distrust)
        mean = filtered.mean + fraction * (guide.mean - filtered.mean)
        filtered = filtered._replace(mean=mean)
    if not fit_input.noise.treats_outliers_as_signal:
        return filtered
    skewness = estimate_count_skewness(measured, weights, noise_variance, correlation)
    return restore_significant_spots(
        noise_variance, measured, filtered, weights, correlation, skewness
    )


def build_guided_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the same without the posterior mean, which with few photons adds noise.

    On three pairs of channels at a peak of 5 photons it cost 1.1, 0.7 and 0.1 dB. Instead, the
    weave of predictions from neighbours alone is smoothed away. The NL-Bayes refinement is kept
    where it comes nearer to the truth.
    """
    from napari_dip.engine.patch_groups import PATCH_SIDE
    from napari_dip.engine.priors.blind_spot import smooth_weave
    from napari_dip.engine.problem import make_single_step

    problem = build_blind_spot_problem(fit_input, options, uses_measured_pixel=False)
    predict, is_white = problem.postprocess, fit_input.noise.correlation is None

    def smooth_prediction(estimate: Estimate) -> Estimate:
        return estimate._replace(mean=smooth_weave(estimate.mean)) if is_white else estimate

    def smooth(estimate: Estimate) -> Estimate:
        return smooth_prediction(predict(estimate))

    def refine(estimate: Estimate) -> Estimate:
        predicted = predict(estimate)  # smoothing would mix the measured pixel in
        refined = _filter_measured(fit_input, predicted, fit_input.measurement)
        is_nearer = not is_white or _compute_excess_risk(fit_input, predicted, refined) < 0
        return refined if is_nearer else smooth_prediction(predicted)

    if fit_input.measurement.ndim > 4 or min(fit_input.grid) < PATCH_SIDE:
        return replace(problem, postprocess=smooth)
    return replace(problem, postprocess=smooth, full_postprocess=make_single_step(refine))


def _filter_measured(fit_input: FitInput, guide: Estimate, measured: Tensor) -> Estimate:
    """Refine the plane of a fit, whose measurement may be a changed one."""
    noise, weights = fit_input.noise.noise_variance, fit_input.masks.measured_pixel_weights
    return _refine_plane(fit_input, noise, guide, measured, weights)


def _compute_excess_risk(fit_input: FitInput, predicted: Estimate, refined: Estimate) -> float:
    """Return the mean squared error of the refined image less that of the predicted one.

    The residual of a prediction has all of the noise. A filter takes some of the measured pixel's
    noise over, as much as a small change of the measurement tells.

    References
    ----------
    Ramani, Blu, Unser, Monte-Carlo SURE, IEEE Trans. Image Process. 17(9), 2008,
    doi:10.1109/TIP.2008.2001404.
    """
    import torch

    measured, weights = fit_input.measurement, fit_input.masks.measured
    std = fit_input.noise.noise_variance.compute_variance(predicted.mean).sqrt()
    drawn = torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
    noise = std * drawn.to(measured)
    moved = _filter_measured(fit_input, predicted, measured + RISK_STEP * noise)
    taken = (moved.mean - refined.mean) * noise / RISK_STEP
    residuals = [(measured - estimate.mean).square() for estimate in (refined, predicted)]
    return float(((residuals[0] - residuals[1] + 2 * taken) * weights).mean())


def _make_camera_refinement(
    half_resolution: HalfResolutionFit, postprocess: Callable[[Estimate], Estimate]
) -> Callable[[Estimate], PostprocessingSteps]:
    """Return the filter of a colour camera's noise, guided in part by the network's prediction."""
    from napari_dip.engine.noise.oversampling import upscale_estimate
    from napari_dip.engine.problem import make_single_step
    from napari_dip.engine.refinement import filter_camera_noise

    camera, image = half_resolution.camera_noise, half_resolution.full_size_measurement
    assert camera is not None
    assert image is not None

    def refine(estimate: Estimate) -> Estimate:
        guide = upscale_estimate(postprocess(estimate), tuple(image.shape[2:])).mean
        return filter_camera_noise(image, camera, guide, CAMERA_GUIDE_WEIGHT)

    return make_single_step(refine)


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
