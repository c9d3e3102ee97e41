"""The prior that is shown the whole measurement with more noise, where the noise is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.priors.blind_spot import (
    IMAGE_INPUT_PRIORS,
    compute_window_size,
    make_bm3d_refinement,
)

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.priors.r2r import R2RPrior
    from napari_dip.engine.problem import Penalty, Problem
    from napari_dip.tasks.base import FitInput

R2R_PRIOR = "r2r"
#: Priors that are shown the measurement.
MEASUREMENT_INPUT_PRIORS = (*IMAGE_INPUT_PRIORS, R2R_PRIOR)
#: Why a prior that has to know the noise gave way.
UNRELIABLE_NOISE_REASON = (
    "the image does not tell its noise surely, which showing the network more of it needs"
)
WEAK_NOISE_REASON = (
    "the noise is weak beside the picture, which a network that is shown all of it would copy"
)
#: Share of the noise's variance that the network leaves, about, where nothing else says how sure a
#: picture is that a person kept early: 0.09 on F16 with noise of 25, 0.12 to 0.34 on FMD.
R2R_RESIDUAL_NOISE_SHARE = 0.2


def build_r2r_prior(scene: FitInput, rng: torch.Generator, *, further: int = 0) -> R2RPrior:
    """Make a network and its code: the measurement with noise of its own kind put on top.

    Parameters
    ----------
    scene : FitInput
    rng : torch.Generator
    further : int
        Channels that the network is fed beside the measurement.
    """
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.priors.r2r import R2RPrior

    channels, *grid = scene.measurement.shape[1:]
    # what noisy pixels are filled in with is no noisier than others
    trust = None if scene.trust is None else scene.trust.where(scene.quiet > 0, 1.0)
    dims = len(grid)
    net = Hourglass(
        dims,
        channels + further,
        channels,
        scene.widths,
        skip=None,
        normalised=False,
        rng=rng,
        even=True,
    )
    return R2RPrior(
        net,
        scene.measurement,
        scene.quiet,
        scene.guarded,
        scene.block,
        scene.noise if scene.noises is None else scene.noises,
        scene.correlation,
        window=None if scene.window is None else compute_window_size(dims, scene.window),
        trust=trust,
    )


def build_r2r_problem(scene: FitInput, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Explain the image as picture plus noise, of which the network is shown more.

    Parameters
    ----------
    scene : FitInput
    penalties : tuple of (weight, Penalty)
    """
    from napari_dip.engine.likelihood.fidelity import gaussian_likelihood, least_squares
    from napari_dip.engine.problem import Estimate, Identity, Problem, Term

    term = Term(
        measurement=scene.measurement,
        operator=Identity(),
        fidelity=least_squares(scene.noise_level**2),
        likelihood=gaussian_likelihood(scene.noise),
        fitted=scene.weight * (1 - scene.guarded),
        held_out=scene.held_out,
        measured=scene.weight,
    )

    def finish(estimate: Estimate) -> Estimate:
        return Estimate(
            estimate.mean, (R2R_RESIDUAL_NOISE_SHARE * scene.noise.at(estimate.mean)).log()
        )

    return Problem(
        terms=(term,),
        penalties=penalties,
        finish=finish,
        refine=make_bm3d_refinement(scene, finish),
    )
