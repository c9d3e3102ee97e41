"""R2R prior (recorrupted-to-recorrupted): how its network and its problem are built.

The network takes the measurement with more noise of the same kind, so the noise has to be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.priors.blind_spot import (
    build_image_network,
    compute_fit_window,
    make_nl_bayes_refinement,
)

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.priors.r2r import R2RPrior
    from napari_dip.engine.problem import Problem
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions

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


def build_r2r_prior(fit_input: FitInput, rng: torch.Generator, options: PriorOptions) -> R2RPrior:
    """Build the network and its input: the measurement with added noise of its own kind."""
    from napari_dip.engine.priors.r2r import R2RPrior

    channels = fit_input.measurement.shape[1]
    # replacements of very noisy pixels have the usual noise
    trust = (
        None
        if fit_input.masks.reliability is None
        else fit_input.masks.reliability.where(fit_input.masks.low_noise > 0, 1.0)
    )
    return R2RPrior(
        build_image_network(fit_input, rng, channels + options.extra_channels, channels),
        fit_input.measurement,
        fit_input.masks.low_noise,
        fit_input.masks.guard,
        fit_input.masks.blind_spot_size,
        fit_input.noise.image_variances or fit_input.noise.variance,
        fit_input.noise.correlation,
        window=compute_fit_window(fit_input),
        reliability=trust,
    )


def build_r2r_problem(fit_input: FitInput, options: PriorOptions) -> Problem:
    """Build the problem: the measurement is the image plus noise."""
    from napari_dip.engine.likelihood.fidelity import gaussian_deviance, least_squares
    from napari_dip.engine.problem import Estimate, Identity, Problem, Term

    term = Term(
        measurement=fit_input.measurement,
        operator=Identity(),
        fidelity=least_squares(fit_input.noise.level**2),
        comparison_loss=gaussian_deviance(fit_input.noise.variance),
        training_weight=fit_input.masks.training_weight,
        validation_mask=fit_input.masks.validation,
        refit_weight=fit_input.masks.weight,
    )

    def postprocess(estimate: Estimate) -> Estimate:
        return Estimate(
            estimate.mean,
            (R2R_RESIDUAL_NOISE_SHARE * fit_input.noise.variance.evaluate(estimate.mean)).log(),
        )

    return Problem(
        terms=(term,),
        penalties=options.penalties,
        postprocess=postprocess,
        final_postprocess=make_nl_bayes_refinement(fit_input, postprocess),
    )
