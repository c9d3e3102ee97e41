"""Data fidelity: how badly an estimate explains the measurement, pixel by pixel.

Each function returns a `Fidelity`: a map from (estimate, measurement) to a loss per pixel.
All variances are in squared network units; the noise has the variance
`gain * signal + intercept`, which is a camera's: photon noise grows with the signal, read
noise does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.engine.problem import Estimate, Fidelity

if TYPE_CHECKING:
    from torch import Tensor


#: Share of the pixels of an image that are flat enough for their spread to be all noise.
FLAT_QUANTILE = 0.2
#: How much more noise than measured the flat pixels may show.
MOST_NOISE = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class NoiseVariance:
    """Variance of the noise at a given brightness.

    Attributes
    ----------
    gain, intercept : Tensor
        (1, C, 1, ...) each, one value for each channel, in network units.
    floor : Tensor
        (1, C, 1, ...), > 0: least variance, where the line falls below what was seen.
    """

    gain: Tensor
    intercept: Tensor
    floor: Tensor

    def times(self, factor: float) -> NoiseVariance:
        """Make it as much stronger everywhere."""
        return NoiseVariance(factor * self.gain, factor * self.intercept, factor * self.floor)

    def at(self, signal: Tensor) -> Tensor:
        """Variance for each pixel of `signal` (B, C, *grid)."""
        return (self.gain * signal + self.intercept).maximum(self.floor)


def gaussian_likelihood(noise: NoiseVariance) -> Fidelity:
    """Negative log-likelihood of a pixel under noise and the network's own doubt, no constant.

    Returns
    -------
    Fidelity
        (estimate, measurement), each (B, C, *grid) -> loss of the same shape. A pixel of
        expected value m has the variance `noise.at(m)`, plus the network's variance where it
        gives one. May be negative.

    References
    ----------
    Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data, IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        variance = _total_variance(noise, estimate)
        return (measurement - estimate.mean) ** 2 / variance + variance.log()

    return loss


def weighted_residual(noise: NoiseVariance) -> Fidelity:
    """Squared residual in units of the noise, its weight held fixed while the weights move.

    Without the logarithm, and with the variance detached, a network cannot lower the loss
    by darkening the picture, which pays under low counts.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        return (measurement - estimate.mean) ** 2 / noise.at(estimate.mean.detach())

    return loss


def mean_and_doubt(noise: NoiseVariance, unit: float) -> Fidelity:
    """Likelihood of mean and variance together, with bright pixels at their full weight.

    The plain likelihood divides each residual by its variance, so a network that is unsure of
    the bright structures stops learning them. Multiplying by the detached variance gives the
    mean the gradient of least squares and leaves the variance its own (beta = 1 of the
    reference; on three named 256 x 256 crops of FMD it gained 0.4 to 0.9 dB over beta = 0).

    Parameters
    ----------
    noise : NoiseVariance
    unit : float, > 0
        Variance that makes the loss of order one, in squared network units.

    References
    ----------
    Seitzer et al., On the pitfalls of heteroscedastic uncertainty estimation with
    probabilistic neural networks, ICLR 2022, arXiv:2203.09168.
    """

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        noise_variance = noise.at(estimate.mean.detach())
        variance = (
            noise_variance
            if estimate.log_variance is None
            else noise_variance + estimate.log_variance.exp()
        )
        nll = (measurement - estimate.mean) ** 2 / variance + variance.log()
        return nll * variance.detach() / unit

    return loss


def posterior(
    noise: NoiseVariance, measurement: Tensor, estimate: Estimate, *, granted: float
) -> Estimate:
    """Add what a hidden pixel itself tells to what its surroundings tell of it.

    The surroundings say mean u and variance v, the pixel says y with noise variance s:
    their product is a Gaussian of mean u + v / (v + s) (y - u) and variance v s / (v + s).

    How a predicted spread divides into v and s is read from the picture: where it is flat, all
    of the spread is noise. So the least ratio of spread to measured noise (a low quantile of it)
    corrects the noise, which a blind estimate misses by up to a quarter.

    Parameters
    ----------
    noise : NoiseVariance
        As it was measured.
    measurement : Tensor
        (B, C, *grid).
    estimate : Estimate
        Must be blind to the pixel that it predicts; unchanged if it gives no variance.
    granted : float, 0 to 1
        Share of the measured noise that the fit took for certain; the estimate's variance is
        what it saw beyond that.

    References
    ----------
    Laine et al., High-quality self-supervised deep image denoising, NeurIPS 2019,
    arXiv:1901.10277.
    """
    if estimate.log_variance is None:
        return estimate
    measured = noise.at(estimate.mean)
    total = estimate.log_variance.exp() + granted * measured
    ratio = (total / measured).flatten()
    flat = ratio.kthvalue(max(1, int(FLAT_QUANTILE * ratio.numel()))).values
    noise_variance = measured * flat.clamp(granted, MOST_NOISE)
    doubt = (total - noise_variance).clamp(min=1e-9)
    share = doubt / (doubt + noise_variance)
    mean = estimate.mean + share * (measurement - estimate.mean)
    return Estimate(mean, (share * noise_variance).log())


def _total_variance(noise: NoiseVariance, estimate: Estimate) -> Tensor:
    variance = noise.at(estimate.mean)
    return variance if estimate.log_variance is None else variance + estimate.log_variance.exp()
