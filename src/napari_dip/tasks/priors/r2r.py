"""R2R prior (recorrupted-to-recorrupted): how its network and its problem are built.

The network takes the measurement with more noise of the same kind, so the noise has to be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.priors.blind_spot import (
    compute_window_size,
    make_bm3d_refinement,
)

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.priors.r2r import R2RPrior
    from napari_dip.engine.problem import Penalty, Problem
    from napari_dip.tasks.base import FitInput

#: Reasons in the report why the blind spot replaced R2R.
UNRELIABLE_NOISE_REASON = (
    "the noise could not be measured reliably, and R2R adds noise of the measured strength"
)
WEAK_NOISE_REASON = (
    "the noise is weak compared with the image, and a network that sees all of it would copy it"
)
#: Approximate share of the noise variance that remains in the network's prediction. It serves as
#: the variance where the user stopped the fit early: 0.09 on F16 with noise of 25, 0.12 to 0.34 on
#: FMD.
R2R_RESIDUAL_NOISE_SHARE = 0.2


def build_r2r_prior(
    fit_input: FitInput, rng: torch.Generator, *, extra_channels: int = 0
) -> R2RPrior:
    """Build the network and its input: the measurement with added noise of its own kind.

    Parameters
    ----------
    fit_input : FitInput
    rng : torch.Generator
    extra_channels : int
        Number of input channels besides the measurement.
    """
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.priors.r2r import R2RPrior

    channels, *grid = fit_input.measurement.shape[1:]
    # replacements of very noisy pixels have the usual noise
    trust = (
        None
        if fit_input.reliability is None
        else fit_input.reliability.where(fit_input.low_noise_mask > 0, 1.0)
    )
    dims = len(grid)
    net = Hourglass(
        dims,
        channels + extra_channels,
        channels,
        fit_input.widths,
        skip_channels=None,
        is_normalised=False,
        rng=rng,
        preserves_variance=True,
    )
    return R2RPrior(
        net,
        fit_input.measurement,
        fit_input.low_noise_mask,
        fit_input.guard_mask,
        fit_input.blind_spot_size,
        fit_input.noise if fit_input.image_noises is None else fit_input.image_noises,
        fit_input.noise_correlation,
        window=None if fit_input.window is None else compute_window_size(dims, fit_input.window),
        reliability=trust,
    )


def build_r2r_problem(fit_input: FitInput, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Build the problem: the measurement is the image plus noise.

    Parameters
    ----------
    fit_input : FitInput
    penalties : tuple of (weight, Penalty)
    """
    from napari_dip.engine.likelihood.fidelity import gaussian_nll, least_squares
    from napari_dip.engine.problem import Estimate, Identity, Problem, Term

    term = Term(
        measurement=fit_input.measurement,
        operator=Identity(),
        fidelity=least_squares(fit_input.noise_level**2),
        likelihood=gaussian_nll(fit_input.noise),
        fit_mask=fit_input.weight * (1 - fit_input.guard_mask),
        validation_mask=fit_input.validation_mask,
        measured_mask=fit_input.weight,
    )

    def finish(estimate: Estimate) -> Estimate:
        return Estimate(
            estimate.mean,
            (R2R_RESIDUAL_NOISE_SHARE * fit_input.noise.evaluate(estimate.mean)).log(),
        )

    return Problem(
        terms=(term,),
        penalties=penalties,
        finish=finish,
        refine=make_bm3d_refinement(fit_input, finish),
    )
