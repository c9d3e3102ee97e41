"""NL-Bayes refinement at the end of a fit: of planes with their neighbours, and of volumes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.engine.noise.oversampling import HalfResolutionFit
    from napari_dip.engine.problem import Estimate, PostprocessingSteps, Problem
    from napari_dip.tasks.base import FitInput

#: Share of the network's prediction in its mean with the NL-Bayes refinement, for correlated noise:
#: 0.04 and 0.08 dB better than 0.5 on FMD widefield (docs/constants.md).
GUIDE_FRACTION = 0.2
#: Standard deviation in pixels of the Gaussian filter that guides a filter without a network: with
#: 1.5 three of seven crops whose neighbours share noise lose 0.2 to 0.3 dB, two gain 0.4 and 0.7.
PILOT_SIGMA = 1.0
#: Filters in a row without a network, where neighbours share noise: 0.2 to 1.5 dB more than one on
#: six of seven crops, 0.1 dB less on one.
SHARED_NOISE_ROUNDS = 4
#: Largest standard deviation of weak noise, as a share of the range: structure is far stronger.
MAX_WEAK_NOISE = 0.03
#: Mean squared residual of a prediction, in variances of weak noise, above which the plane guides
#: its filter itself: its error is 0.44 to 0.97 times as large in 20 of 22 planes, 1.03 and 1.16
#: times in two whose texture is as strong as the noise.
MAX_GUIDE_RESIDUAL = 1.2
#: Largest squared residual that counts, in variances of the noise: a hot pixel has more.
MAX_COUNTED_RESIDUAL = 100.0
#: Least share of the measured noise that such a filter removes: 0.01 to 0.39 in 22 photographs
#: without noise, which lost up to 0.45 dB, 0.48 to 0.89 with noise of 10 (docs/adr/0046).
MIN_REMOVED_FRACTION = 0.4
#: Least standard deviation of the noise that such a filter takes out, as a share of the range: with
#: less, moon and cell, which have no noise, were 0.3 and 0.4 dB worse.
MIN_FILTERED_NOISE = 0.02
#: Change of the measurement, in standard deviations of its noise, that tells what a filter takes:
#: it chose rightly in 13 of 15 crops, and lost 0.2 dB at most in the others.
RISK_STEP = 0.1
#: Least correlation of a neighbouring frame's pilot with the guide, in the band of
#: `NEIGHBOUR_BAND_SIGMAS`, for both to be filtered together: 0.33 dB lost at most in 420 pairs of
#: planes, the mean 0.21 dB above planes alone (0.14 with all neighbours; docs/adr/0047).
MIN_PILOT_CORRELATION = 0.35
#: Standard deviations in pixels of the two Gaussians whose difference is compared: without the
#: finer one, noise hides what frames with few photons have in common.
NEIGHBOUR_BAND_SIGMAS = (1.0, 3.0)
#: Standard errors by which the guided filter has to predict pixels better than the network: it was
#: nearer to the truth in 12 of 13 pairs with 2 and more (docs/adr/0050).
MIN_GUIDED_GAIN_ERRORS = 2.0
#: Weight of the network's prediction relative to the filter's first step, for a colour camera.
CAMERA_GUIDE_WEIGHT = 0.3


def holds_patches(fit_input: FitInput) -> bool:
    """Return whether planes are as large as a patch, so that they can be refined."""
    from napari_dip.engine.patch_groups import PATCH_SIDE

    return min(fit_input.grid[-2:]) >= PATCH_SIDE


def make_nl_bayes_refinement(
    fit_input: FitInput, make_guide: Callable[[Estimate], tuple[Estimate, NoiseVariance]]
) -> Callable[[Estimate], PostprocessingSteps] | None:
    """Return the NL-Bayes refinement; None for tiny images.

    `make_guide` returns the image that guides it, and the noise variance.

    Spots that noise cannot explain are put back at the end, where the noise is known.

    With correlated noise, a plane that is filtered alone keeps a share of the network's prediction:
    `GUIDE_FRACTION`. Its errors differ from those of the filter.
    """
    from napari_dip.engine.problem import make_single_step

    if fit_input.measurement.ndim > 4:
        return make_planewise_refinement(fit_input, lambda estimate: make_guide(estimate)[0])
    if not holds_patches(fit_input):
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
            _replace_coarse_guide(fit_input, estimate.mean, guide),
            fit_input.measurement,
            fit_input.masks.measured_pixel_weights,
            _filter_neighbours(fit_input),
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

    from napari_dip.engine.problem import Estimate, make_single_step

    if not holds_patches(fit_input):
        return None

    def refine(estimate: Estimate) -> Estimate:
        guide, weights = make_guide(estimate), fit_input.masks.measured_pixel_weights
        assert guide.log_variance is not None
        noise_variance = fit_input.noise.noise_variance.drop_depth()
        measured = guide.mean + weights * (fit_input.measurement - guide.mean)
        pairs = list(zip(measured.unbind(2), guide.mean.unbind(2), strict=True))
        means, log_variances = [], []
        for index, pair in enumerate(pairs):
            plane = Estimate(pair[1], guide.log_variance[:, :, index])
            if bool(weights[:, :, index].any()):
                plane = _refine_plane(
                    fit_input,
                    noise_variance,
                    plane,
                    fit_input.measurement[:, :, index],
                    weights[:, :, index],
                    [*pairs[max(index - 1, 0) : index], *pairs[index + 1 : index + 2]],
                )
            assert plane.log_variance is not None
            means.append(plane.mean)
            log_variances.append(plane.log_variance)
        return Estimate(stack(means, 2), stack(log_variances, 2))

    return make_single_step(refine)


def make_refinement_if_nearer(
    fit_input: FitInput,
    predict: Callable[[Estimate], Estimate],
    smooth: Callable[[Estimate], Estimate],
) -> Callable[[Estimate], PostprocessingSteps] | None:
    """Return the NL-Bayes refinement, in planes where it comes nearer to the truth than `smooth`.

    There `predict` guides it, since smoothing mixes the measured pixel in; in volumes `smooth`.
    """
    from napari_dip.engine.problem import make_single_step

    if fit_input.measurement.ndim > 4:
        return make_planewise_refinement(fit_input, smooth)
    if not holds_patches(fit_input):
        return None

    def refine(estimate: Estimate) -> Estimate:
        predicted, neighbours = predict(estimate), _filter_neighbours(fit_input)
        refined = _filter_measured(fit_input, predicted, fit_input.measurement, neighbours)
        is_nearer = (
            fit_input.noise.correlation is not None
            or _compute_excess_risk(fit_input, predicted.mean, predicted, refined, neighbours) < 0
        )
        return refined if is_nearer else smooth(estimate)

    return make_single_step(refine)


def add_guided_filter(problem: Problem, fit_input: FitInput) -> Problem:
    """Return the problem of a guided fit, which takes the guided filter where that is better.

    In each plane with white noise the filter and the network predict all pixels, each without its
    own value. If the filter does so better, its image is the result, but for places where
    it is worse. The other images are those of the problem.
    """
    measured, noise = fit_input.measurement, fit_input.noise
    is_plane = measured.ndim == 4 and len(measured) == 1 and fit_input.half_resolution is None
    if not is_plane or noise.correlation is not None or problem.full_postprocess is None:
        return problem
    finish = problem.full_postprocess

    def refine(estimate: Estimate) -> PostprocessingSteps:
        from napari_dip.engine.likelihood.lost_detail import find_unguided_places
        from napari_dip.engine.problem import Estimate
        from napari_dip.engine.refinement import filter_by_guide

        finished = yield from finish(estimate)
        mask = fit_input.masks.low_noise
        variance = noise.noise_variance.compute_variance(estimate.mean)
        guide = fit_input.extra_inputs["guide"][None]
        guided = filter_by_guide(measured, guide, mask, variance)
        if guided is None:
            return finished
        residuals = [
            (measured - image) * variance.rsqrt() * mask
            for image in (estimate.mean, guided.predicted)
        ]
        share = find_unguided_places(residuals[1], residuals[0])
        gains = (residuals[0].square() - residuals[1].square())[share == 0]
        if not gains.mean() > MIN_GUIDED_GAIN_ERRORS * gains.std() / gains.numel() ** 0.5:
            return finished
        neighbours = _filter_neighbours(fit_input)
        refine_from = partial(_refine_and_compare, fit_input, guided.predicted, neighbours)
        nearest, risk = min(
            (guided.filtered, 0.0), refine_from(guided.filtered), key=lambda pair: pair[1]
        )
        if refine_from(estimate)[1] < risk:
            return finished
        assert nearest.log_variance is not None
        assert finished.log_variance is not None
        return Estimate(
            nearest.mean + share * (finished.mean - nearest.mean),
            nearest.log_variance + share * (finished.log_variance - nearest.log_variance),
            is_error_measured=True,
        )

    return replace(problem, full_postprocess=refine)


def filter_noise(fit_input: FitInput) -> tuple[FitInput, Tensor]:
    """Filter the noise out of a measurement by NL-Bayes, without a network.

    Returns
    -------
    fit_input : FitInput
        With the noise that stays, as white noise. Unchanged in volumes and tiny images.
    variance : Tensor
        (1, C, *grid), error variance that the filter leaves; 0 where it is unchanged.
    """
    measured, noise = fit_input.measurement, fit_input.noise
    variance = measured.new_zeros(measured.shape)
    is_weak = float(noise.rms_std) < MIN_FILTERED_NOISE
    if is_weak or measured.ndim > 4 or not holds_patches(fit_input):
        return fit_input, variance
    filtered = filter_repeatedly(fit_input, _smooth_measured(fit_input), 1)
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


def _replace_coarse_guide(fit_input: FitInput, predicted: Tensor, guide: Estimate) -> Estimate:
    """Return the guide, or what a filter makes of the plane alone if the prediction is too coarse.

    A few iterations do not fit structure that is much stronger than weak noise. Pixels that were
    not measured keep the guide.
    """
    import torch

    measured, noise, mask = fit_input.measurement, fit_input.noise, fit_input.masks.low_noise
    is_known = noise.correlation is None and not noise.off_model_channels
    if not is_known or noise.rms_std > MAX_WEAK_NOISE or len(measured) > 1:
        return guide
    variance = noise.noise_variance.compute_variance(predicted)
    squares = ((measured - predicted).square() / variance).clamp(max=MAX_COUNTED_RESIDUAL)
    if float((squares * mask).mean() / mask.mean().clamp(min=1e-6)) <= MAX_GUIDE_RESIDUAL:
        return guide
    filtered = filter_repeatedly(fit_input, _smooth_measured(fit_input), 1)
    return guide._replace(mean=torch.where(mask > 0, filtered.mean, guide.mean))


def _smooth_measured(fit_input: FitInput) -> Estimate:
    """Return the plane of a fit behind a Gaussian filter, its holes filled with local means."""
    from napari_dip.engine.prior import fill_with_local_mean
    from napari_dip.engine.problem import Estimate

    masks = fit_input.masks
    filled = fill_with_local_mean(fit_input.measurement, masks.measured, masks.blind_spot_size)
    return Estimate(_smooth(filled, PILOT_SIGMA))


def _smooth(image: Tensor, sigma: float) -> Tensor:
    """Return planes (1, C, Y, X) behind a Gaussian filter."""
    from torch.nn import functional

    from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
    from napari_dip.engine.operators.imaging import ValidConvolution

    kernel = sample_gaussian_psf((sigma,) * 2).to(image)
    padded = functional.pad(image, (kernel.shape[-1] // 2,) * 4, mode="replicate")
    return ValidConvolution(kernel)(padded)


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
    neighbours: Sequence[tuple[Tensor, Tensor]] = (),
) -> Estimate:
    """Refine a plane (1, C, Y, X) by NL-Bayes with a guide, and put back significant spots.

    The neighbouring frames that resemble it, each with a pilot of its own, are filtered as further
    channels.
    """
    import torch

    from napari_dip.engine.likelihood.lost_detail import (
        restore_border_detail,
        restore_significant_spots,
    )
    from napari_dip.engine.priors.r2r import estimate_count_skewness
    from napari_dip.engine.problem import Estimate
    from napari_dip.engine.refinement import refine_by_nl_bayes

    correlation = fit_input.noise.correlation
    # by the guide as it came, so that a small change of the measurement takes the same neighbours
    alike = [pair for pair in neighbours if _resembles(pair[1], guide.mean)]
    if correlation is None:
        damped = guide.mean + weights * (measured - guide.mean)
        guide = guide._replace(mean=restore_border_detail(noise_variance, damped, guide.mean))
    frames, pilots = zip((measured, guide.mean), *alike, strict=True)
    filtered = refine_by_nl_bayes(
        noise_variance.repeat(len(frames)),
        torch.cat(frames, 1),
        torch.cat(pilots, 1),
        weights,
        correlation,
        uses_sparse_groups=fit_input.refines_sparse_groups,
    )
    assert filtered.log_variance is not None
    count = measured.shape[1]
    filtered = Estimate(filtered.mean[:, :count], filtered.log_variance[:, :count])
    if correlation is not None and len(frames) == 1:
        mean = filtered.mean + GUIDE_FRACTION * (guide.mean - filtered.mean)
        filtered = filtered._replace(mean=mean)
    if not fit_input.noise.treats_outliers_as_signal:
        return filtered
    skewness = estimate_count_skewness(measured, weights, noise_variance, correlation)
    return restore_significant_spots(
        noise_variance, measured, filtered, weights, correlation, skewness
    )


def _filter_neighbours(fit_input: FitInput) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the neighbouring frames of a plane, (1, C, Y, X) each, and a pilot of each.

    At the ends of a series there is one neighbour.
    """
    import torch

    from napari_dip.engine.refinement import refine_by_nl_bayes

    if fit_input.neighbouring_frames is None:
        return ()
    before, after = fit_input.neighbouring_frames.chunk(2, 1)
    return tuple(
        (
            frame,
            refine_by_nl_bayes(
                fit_input.noise.noise_variance,
                frame,
                _smooth(frame, PILOT_SIGMA),
                torch.ones_like(frame[:, :1]),
                fit_input.noise.correlation,
                uses_sparse_groups=True,
            ).mean,
        )
        for frame in ((before,) if torch.equal(before, after) else (before, after))
    )


def _resembles(pilot: Tensor, guide: Tensor) -> bool:
    """Return whether the pilot of another frame has structure in common with a guide."""
    fine_sigma, coarse_sigma = NEIGHBOUR_BAND_SIGMAS
    bands = [_smooth(image, fine_sigma) - _smooth(image, coarse_sigma) for image in (pilot, guide)]
    common = float((bands[0] * bands[1]).mean())
    power = float(bands[0].square().mean() * bands[1].square().mean())
    return common > MIN_PILOT_CORRELATION * sqrt(power)


def _filter_measured(
    fit_input: FitInput,
    guide: Estimate,
    measured: Tensor,
    neighbours: Sequence[tuple[Tensor, Tensor]] = (),
) -> Estimate:
    """Refine the plane of a fit, whose measurement may be a changed one."""
    noise, weights = fit_input.noise.noise_variance, fit_input.masks.measured_pixel_weights
    return _refine_plane(fit_input, noise, guide, measured, weights, neighbours)


def _refine_and_compare(
    fit_input: FitInput,
    predicted: Tensor,
    neighbours: Sequence[tuple[Tensor, Tensor]],
    pilot: Estimate,
) -> tuple[Estimate, float]:
    """Return the refined image, and its mean squared error less that of the predicted one."""
    refined = _filter_measured(fit_input, pilot, fit_input.measurement, neighbours)
    return refined, _compute_excess_risk(fit_input, predicted, pilot, refined, neighbours)


def _compute_excess_risk(
    fit_input: FitInput,
    predicted: Tensor,
    pilot: Estimate,
    refined: Estimate,
    neighbours: Sequence[tuple[Tensor, Tensor]],
) -> float:
    """Return the mean squared error of a refined image less that of a predicted one.

    The residual of a prediction has all of the noise. A filter takes some of the measured pixel's
    noise over, as much as a small change of the measurement tells.

    References
    ----------
    Ramani, Blu, Unser, Monte-Carlo SURE, IEEE Trans. Image Process. 17(9), 2008,
    doi:10.1109/TIP.2008.2001404.
    """
    import torch

    measured, weights = fit_input.measurement, fit_input.masks.measured
    std = fit_input.noise.noise_variance.compute_variance(predicted).sqrt()
    drawn = torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
    noise = std * drawn.to(measured)
    moved = _filter_measured(fit_input, pilot, measured + RISK_STEP * noise, neighbours)
    taken = (moved.mean - refined.mean) * noise / RISK_STEP
    residuals = [(measured - image).square() for image in (refined.mean, predicted)]
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
