"""Zero-shot super-resolution (ZSSR): how its network and its problem are built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from napari_dip.engine.priors.zssr import ZssrNetwork, ZssrPrior
    from napari_dip.engine.problem import Estimate, Operator, Problem
    from napari_dip.tasks.base import FitInput

#: Minimum side of an image: downsampled by three, it still has the pixels that the network's layers
#: reflect at the border.
MIN_ZSSR_SIDE = 16
#: Fraction of the image in validation patches, and their side in pixels. Patches are needed because
#: a network that has fitted a pixel predicts its neighbours, too.
VALIDATION_PATCH_FRACTION, VALIDATION_PATCH_SIDE = 0.15, 4
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


def set_validation_patches(
    fit_input: FitInput, coarser: Operator, stage: tuple[int, ...]
) -> FitInput:
    """Replace the validation pixels by patches, and measure the error of interpolation.

    Parameters
    ----------
    fit_input : FitInput
    coarser : Operator
        Downsampling by one stage.
    stage : tuple of int
        Factors of one stage.
    """
    import torch

    from napari_dip.engine.operators.detector import interpolate_cubic
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE

    no_pixels = torch.zeros_like(fit_input.validation_mask)
    patch_grid = [-(-n // VALIDATION_PATCH_SIDE) for n in fit_input.grid]
    count = torch.Size(patch_grid).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    is_chosen = torch.zeros(count)
    is_chosen[order[: max(1, round(VALIDATION_PATCH_FRACTION * count))]] = 1
    patch_mask = is_chosen.reshape(patch_grid).to(no_pixels)
    for axis, side in enumerate(fit_input.grid):
        patch_mask = patch_mask.repeat_interleave(VALIDATION_PATCH_SIDE, axis).narrow(axis, 0, side)
    divisible = (
        slice(n // factor * factor) for n, factor in zip(fit_input.grid, stage, strict=True)
    )
    picture = _fill_holes(fit_input)[(slice(None), slice(None), *divisible)]
    residual = picture - interpolate_cubic(coarser(picture), stage)
    interpolation_error = max(float(residual.square().mean()), MIN_PREDICTION_VARIANCE)
    precomputed = {
        **fit_input.precomputed,
        "judges": patch_mask[None, None],
        "lost": interpolation_error,
    }
    return replace(
        fit_input, validation_mask=no_pixels, guard_mask=no_pixels, precomputed=precomputed
    )


def build_zssr_prior(
    fit_input: FitInput, coarser: Operator, factors: tuple[int, ...], rng: torch.Generator
) -> ZssrPrior:
    """Build the network and its input.

    Parameters
    ----------
    fit_input : FitInput
    coarser : Operator
        Downsampling by one stage.
    factors : tuple of int
        Upscaling factors of all stages together.
    rng : torch.Generator
    """
    from napari_dip.engine.priors.zssr import ZssrPrior

    window = None if fit_input.window is None else (fit_input.window,) * len(fit_input.grid)
    net = _build_zssr_network(fit_input, coarser, factors, rng)
    interpolation_error = fit_input.precomputed["lost"]
    assert isinstance(interpolation_error, float)
    return ZssrPrior(
        net, _fill_holes(fit_input), fit_input.noise, interpolation_error, window=window
    )


def build_zssr_problem(
    fit_input: FitInput, operator: Operator, finer: Callable[[Tensor], Tensor]
) -> Problem:
    """Build the problem: the network restores the image from one stage coarser.

    The final step makes the result consistent with the measurement, as far as that is not noise.

    Parameters
    ----------
    fit_input : FitInput
        With validation patches.
    operator : Operator
        Downsampling by all stages together.
    finer : callable
        Interpolation by all stages together.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import (
        NoiseVariance,
        beta_nll,
        gaussian_nll,
    )
    from napari_dip.engine.operators.detector import apply_iterative_backprojection
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE, Problem, Term

    measured, patch_mask = fit_input.measurement, fit_input.precomputed["judges"]
    interpolation_error = fit_input.precomputed["lost"]
    assert isinstance(patch_mask, torch.Tensor)
    assert isinstance(interpolation_error, float)
    zero = torch.zeros_like(fit_input.noise.gain[:1])
    variance_floor = NoiseVariance(
        gain=zero, intercept=zero, floor=zero + INTERPOLATION_VARIANCE_FLOOR * interpolation_error
    )
    likelihood = gaussian_nll(variance_floor)
    term = Term(
        measurement=measured,
        operator=operator,
        fidelity=beta_nll(variance_floor, interpolation_error),
        # by squared error, regardless of the predicted variance
        likelihood=lambda estimate, picture: likelihood(type(estimate)(estimate.mean), picture),
        fit_mask=fit_input.measured_mask * (1 - patch_mask),
        validation_mask=fit_input.measured_mask * patch_mask,
        measured_mask=fit_input.measured_mask,
    )

    def finish(estimate: Estimate) -> Estimate:
        assert estimate.log_variance is not None  # this prior predicts a variance
        variance = estimate.log_variance.exp()
        predicted = operator(estimate.mean)
        predicted_variance = operator(variance).clamp(min=MIN_PREDICTION_VARIANCE)
        share = predicted_variance / (predicted_variance + fit_input.noise.evaluate(predicted))
        target = predicted + share * (measured - predicted) * fit_input.measured_mask
        mean = apply_iterative_backprojection(estimate.mean, target, operator, finer)
        return estimate._replace(mean=mean)

    return Problem(terms=(term,), finish=finish)


def _build_zssr_network(
    fit_input: FitInput, coarser: Operator, factors: tuple[int, ...], rng: torch.Generator
) -> ZssrNetwork:
    from napari_dip.engine.networks.hourglass import ResidualChain
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork
    from napari_dip.engine.priors.zssr import ZssrNetwork

    stage = split_into_stages(factors)
    assert stage is not None  # else the task has chosen another prior
    channels, dims = fit_input.measurement.shape[1], len(fit_input.grid)
    chain = ResidualChain(
        dims, channels, channels, fit_input.widths[0], ZSSR_RESIDUAL_BLOCKS, rng=rng
    )
    net = FillingResidualNetwork(chain, channels, channels, dims, rng)
    return ZssrNetwork(net, coarser, *stage, fit_input.grid)


def _fill_holes(fit_input: FitInput) -> Tensor:
    """Return the measurement, with missing pixels replaced by local means."""
    from napari_dip.engine.prior import fill_with_local_mean

    is_complete = bool((fit_input.measured_mask > 0).all())
    return (
        fit_input.measurement
        if is_complete
        else fill_with_local_mean(
            fit_input.measurement, fit_input.measured_mask, fit_input.blind_spot_size
        )
    )
