"""R2R (recorrupted-to-recorrupted): how its network and its problem are built.

The network takes the measurement with more noise of the same kind, so the noise has to be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.priors.blind_spot import (
    build_image_network,
    compute_fit_window,
    make_measured_term,
    make_nl_bayes_refinement,
)

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.priors.r2r import R2RPrior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.tasks.base import FitInput
    from napari_dip.tasks.priors.prior_spec import PriorOptions

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
