"""Zero-shot super-resolution (ZSSR): how its network and its problem are built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.priors.zssr import ZssrPrior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions, Resampling

#: Minimum side of an image: downsampled by three, it still has the pixels that the network's layers
#: reflect at the border.
MIN_ZSSR_SIDE = 16
#: Fraction of the image in validation patches. Patches are needed because a network that has fitted
#: a pixel predicts its neighbours, too.
VALIDATION_PATCH_FRACTION = 0.15
#: Side of a validation patch in pixels.
VALIDATION_PATCH_SIDE = 4
#: Residual blocks of the network, as for inpainting (600 iterations on bird of Set5, downsampled by
#: 4).
ZSSR_RESIDUAL_BLOCKS = 4
#: Minimum variance, as a share of the squared error of interpolation: it keeps the loss finite
#: where the network predicts almost no variance.
INTERPOLATION_VARIANCE_FLOOR = 0.01


def split_into_stages(factors: tuple[int, ...]) -> tuple[tuple[int, ...], int] | None:
    """Split the upscaling into equal stages; None if that is not possible.

    Parameters
    ----------
    factors : tuple of int
        1, 2, 3, 4 or 8 for each axis.

    Returns
    -------
    factors, count
        Factors of one stage, 1, 2 or 3 for each axis, and number of stages.
    """
    max_factor = max(factors)
    if any(factor not in (1, max_factor) for factor in factors):
        return None
    step, count = {2: (2, 1), 3: (3, 1), 4: (2, 2), 8: (2, 3)}[max_factor]
    return tuple(step if factor > 1 else 1 for factor in factors), count


def build_zssr_prior(fit_input: FitInput, rng: torch.Generator, options: PriorOptions) -> ZssrPrior:
    """Build the network and its input, for `options.resampling`."""
    from napari_dip.engine.networks.hourglass import ResidualChain
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork
    from napari_dip.engine.priors.zssr import ZssrNetwork, ZssrPrior

    resampling = options.resampling
    assert resampling is not None
    channels, dims = fit_input.measurement.shape[1], len(fit_input.grid)
    chain = ResidualChain(
        dims, channels, channels, fit_input.widths[0], ZSSR_RESIDUAL_BLOCKS, rng=rng
    )
    network = ZssrNetwork(
        FillingResidualNetwork(chain, channels, channels, dims, rng),
        resampling.downsample_stage,
        resampling.stage_factors,
        resampling.stage_count,
        fit_input.grid,
    )
    return ZssrPrior(
        network,
        _fill_holes(fit_input),
        fit_input.noise.noise_variance,
        _measure_interpolation_error(fit_input, resampling),
        window=None if fit_input.window_side is None else (fit_input.window_side,) * dims,
    )


def build_zssr_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem: the network restores the image from one stage coarser.

    Postprocessing makes the result consistent with the measurement, as far as that is not noise.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import (
        NoiseVariance,
        make_beta_nll,
        make_gaussian_deviance,
    )
    from napari_dip.engine.operators.imaging import apply_iterative_backprojection
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE, Problem, Term

    resampling = options.resampling
    assert resampling is not None
    measured, operator = fit_input.measurement, resampling.downsample
    patch_mask = _draw_validation_patches(fit_input)
    interpolation_error = _measure_interpolation_error(fit_input, resampling)
    zero = torch.zeros_like(fit_input.noise.noise_variance.gain[:1])
    floor = zero + INTERPOLATION_VARIANCE_FLOOR * interpolation_error
    variance_floor = NoiseVariance(gain=zero, intercept=zero, floor=floor)
    term = Term(
        measurement=measured,
        operator=operator,
        fidelity=make_beta_nll(variance_floor, interpolation_error),
        deviance=make_gaussian_deviance(variance_floor, uses_predicted_variance=False),
        training_pixel_weights=fit_input.masks.measured * (1 - patch_mask),
        validation_mask=fit_input.masks.measured * patch_mask,
        refit_pixel_weights=fit_input.masks.measured,
    )

    def postprocess(estimate: Estimate) -> Estimate:
        assert estimate.log_variance is not None  # this prior predicts a variance
        variance = estimate.log_variance.exp()
        predicted = operator(estimate.mean)
        predicted_variance = operator(variance).clamp(min=MIN_PREDICTION_VARIANCE)
        noise = fit_input.noise.noise_variance.compute_variance(predicted)
        wiener_gain = predicted_variance / (predicted_variance + noise)
        target = predicted + wiener_gain * (measured - predicted) * fit_input.masks.measured
        mean = apply_iterative_backprojection(estimate.mean, target, operator, resampling.upsample)
        return estimate._replace(mean=mean)

    return Problem(terms=(term,), penalties=options.penalties, postprocess=postprocess)


def _draw_validation_patches(fit_input: FitInput) -> Tensor:
    """Return a mask (1, 1, *grid) of the validation patches."""
    import torch

    patch_grid = [-(-n // VALIDATION_PATCH_SIDE) for n in fit_input.grid]
    count = torch.Size(patch_grid).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    is_chosen = torch.zeros(count)
    is_chosen[order[: max(1, round(VALIDATION_PATCH_FRACTION * count))]] = 1
    patch_mask = is_chosen.reshape(patch_grid).to(fit_input.masks.measured)
    for axis, side in enumerate(fit_input.grid):
        patch_mask = patch_mask.repeat_interleave(VALIDATION_PATCH_SIDE, axis).narrow(axis, 0, side)
    return patch_mask[None, None]


def _measure_interpolation_error(fit_input: FitInput, resampling: Resampling) -> float:
    """Return the mean squared error of cubic interpolation by one stage."""
    from napari_dip.engine.operators.imaging import interpolate_cubic
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE

    factors = resampling.stage_factors
    divisible = (slice(n // f * f) for n, f in zip(fit_input.grid, factors, strict=True))
    image = _fill_holes(fit_input)[(slice(None), slice(None), *divisible)]
    residual = image - interpolate_cubic(resampling.downsample_stage(image), factors)
    return max(float(residual.square().mean()), MIN_PREDICTION_VARIANCE)


def _fill_holes(fit_input: FitInput) -> Tensor:
    """Return the measurement, with missing pixels replaced by local means."""
    from napari_dip.engine.prior import fill_with_local_mean

    measured = fit_input.masks.measured
    if bool((measured > 0).all()):
        return fit_input.measurement
    return fill_with_local_mean(fit_input.measurement, measured, fit_input.masks.blind_spot_size)
