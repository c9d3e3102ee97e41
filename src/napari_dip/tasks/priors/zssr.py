"""The prior that super-resolution learns from the picture's own coarser scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from napari_dip.engine.priors.zssr import ZssrNetwork, ZssrPrior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.tasks.base import FitInput

#: Name of the prior; a row of the presets.
ZSSR_PRIOR = "zssr"
#: Least side of a picture: made coarse by three, it still has the pixels that a network's layers
#: reflect at the border.
MIN_ZSSR_SIDE = 16
#: Part of the picture that judges, and the side of its patches: what a network has learned of a
#: pixel, it knows of the next one, too.
VALIDATION_PATCH_FRACTION, VALIDATION_PATCH_SIDE = 0.15, 4
#: Residual blocks of the network, as for inpainting (600 steps on bird of Set5, made coarse by 4).
ZSSR_RESIDUAL_BLOCKS = 4
#: Share of what interpolation gets wrong, as a variance, that is reckoned with everywhere: it
#: keeps the loss finite where a network is sure of itself.
INTERPOLATION_VARIANCE_FLOOR = 0.01


def split_into_stages(factors: tuple[int, ...]) -> tuple[tuple[int, ...], int] | None:
    """Divide the way to finer pixels into equal stages; None if there is no such way.

    Parameters
    ----------
    factors : tuple of int
        1, 2, 3, 4 or 8 for each axis.

    Returns
    -------
    factors, count
        Of one stage, 1, 2 or 3 for each axis, and how many make the whole.
    """
    most = max(factors)
    if any(factor not in (1, most) for factor in factors):
        return None
    step, count = {2: (2, 1), 3: (3, 1), 4: (2, 2), 8: (2, 3)}[most]
    return tuple(step if factor > 1 else 1 for factor in factors), count


def set_validation_patches(scene: FitInput, coarser: nn.Module, stage: tuple[int, ...]) -> FitInput:
    """Let patches judge, in place of pixels, and work out what interpolation gets wrong.

    Parameters
    ----------
    scene : FitInput
    coarser : nn.Module
        What makes pixels coarse by one stage.
    stage : tuple of int
        Its factors.
    """
    import torch

    from napari_dip.engine.operators.detector import interpolate_cubic
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE

    none = torch.zeros_like(scene.held_out)
    patches = [-(-n // VALIDATION_PATCH_SIDE) for n in scene.grid]
    count = torch.Size(patches).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    dealt = torch.zeros(count)
    dealt[order[: max(1, round(VALIDATION_PATCH_FRACTION * count))]] = 1
    judges = dealt.reshape(patches).to(none)
    for axis, side in enumerate(scene.grid):
        judges = judges.repeat_interleave(VALIDATION_PATCH_SIDE, axis).narrow(axis, 0, side)
    whole = (slice(n // factor * factor) for n, factor in zip(scene.grid, stage, strict=True))
    picture = _fill_holes(scene)[(slice(None), slice(None), *whole)]
    remaining = picture - interpolate_cubic(coarser(picture), stage)
    lost = max(float(remaining.square().mean()), MIN_PREDICTION_VARIANCE)
    worked_out = {**scene.worked_out, "judges": judges[None, None], "lost": lost}
    return replace(scene, held_out=none, guarded=none, worked_out=worked_out)


def build_zssr_prior(
    scene: FitInput, coarser: nn.Module, factors: tuple[int, ...], rng: torch.Generator
) -> ZssrPrior:
    """Make the network and what it is fed.

    Parameters
    ----------
    scene : FitInput
    coarser : nn.Module
        What makes pixels coarse by one stage.
    factors : tuple of int
        Of the whole way.
    rng : torch.Generator
    """
    from napari_dip.engine.priors.zssr import ZssrPrior

    window = None if scene.window is None else (scene.window,) * len(scene.grid)
    net = _build_zssr_network(scene, coarser, factors, rng)
    lost = scene.worked_out["lost"]
    assert isinstance(lost, float)
    return ZssrPrior(net, _fill_holes(scene), scene.noise, lost, window=window)


def build_zssr_problem(
    scene: FitInput, operator: nn.Module, finer: Callable[[Tensor], Tensor]
) -> Problem:
    """Ask for the picture, made coarse by one stage; explain it in the end as far as it is certain.

    Parameters
    ----------
    scene : FitInput
        Where patches judge.
    operator : nn.Module
        What made the picture's pixels coarse, the whole way.
    finer : callable
        Interpolation, the whole way.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import (
        NoiseVariance,
        beta_nll,
        gaussian_likelihood,
    )
    from napari_dip.engine.operators.detector import apply_iterative_backprojection
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE, Problem, Term

    measured, judges = scene.measurement, scene.worked_out["judges"]
    lost = scene.worked_out["lost"]
    assert isinstance(judges, torch.Tensor)
    assert isinstance(lost, float)
    nothing = torch.zeros_like(scene.noise.gain[:1])
    sure = NoiseVariance(
        gain=nothing, intercept=nothing, floor=nothing + INTERPOLATION_VARIANCE_FLOOR * lost
    )
    likelihood = gaussian_likelihood(sure)
    term = Term(
        measurement=measured,
        operator=operator,
        fidelity=beta_nll(sure, lost),
        # by how far off it is, whatever the network says of itself
        likelihood=lambda estimate, picture: likelihood(type(estimate)(estimate.mean), picture),
        fitted=scene.measured_mask * (1 - judges),
        held_out=scene.measured_mask * judges,
        measured=scene.measured_mask,
    )

    def finish(estimate: Estimate) -> Estimate:
        assert estimate.log_variance is not None  # this prior says how sure it is
        doubt = estimate.log_variance.exp()
        foretold = operator(estimate.mean)
        unsure = operator(doubt).clamp(min=MIN_PREDICTION_VARIANCE)
        share = unsure / (unsure + scene.noise.at(foretold))
        wanted = foretold + share * (measured - foretold) * scene.measured_mask
        mean = apply_iterative_backprojection(estimate.mean, wanted, operator, finer)
        return estimate._replace(mean=mean)

    return Problem(terms=(term,), finish=finish)


def _build_zssr_network(
    scene: FitInput, coarser: nn.Module, factors: tuple[int, ...], rng: torch.Generator
) -> ZssrNetwork:
    from napari_dip.engine.networks.hourglass import ResidualChain
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork
    from napari_dip.engine.priors.zssr import ZssrNetwork

    stage = split_into_stages(factors)
    assert stage is not None  # the task has chosen another prior then
    channels, dims = scene.measurement.shape[1], len(scene.grid)
    chain = ResidualChain(dims, channels, channels, scene.widths[0], ZSSR_RESIDUAL_BLOCKS, rng=rng)
    net = FillingResidualNetwork(chain, channels, channels, dims, rng)
    return ZssrNetwork(net, coarser, *stage, scene.grid)


def _fill_holes(scene: FitInput) -> Tensor:
    """Give the measurement, its holes filled smoothly."""
    from napari_dip.engine.prior import fill_with_local_mean

    whole = bool((scene.measured_mask > 0).all())
    return (
        scene.measurement
        if whole
        else fill_with_local_mean(scene.measurement, scene.measured_mask, scene.block)
    )
