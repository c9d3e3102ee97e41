"""How much of the noise an estimate has taken over, where judging pixels cannot see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.engine.flat_blocks import block_side, cut_blocks, flattest

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.engine.problem import Estimate


class NoiseTaken:
    """Twice the share of the noise that an estimate repeats, read from the flattest blocks.

    A judging pixel inside a wide guard band shows how well structure is known. Of noise that is
    learned beside it, it shows nothing: correlated noise does not reach it, so its loss may go on
    falling while the rest of the picture fills with noise. In a flat block all that is left of
    the measurement beside a slow surface is noise, so the part of it that the estimate repeats
    is their covariance: the term that Stein's estimate of the risk adds to the residual.

    On four 256 x 256 crops of FMD widefield the stop lost 4.5, 2.6, 0.4 and 0.1 dB of PSNR without
    it and 1.1, 0.0, 0.1 and 0.1 dB with it; on white noise the pixels alone judge better.

    Parameters
    ----------
    measurement : Tensor
        (1, C, ..., Y, X), in network units; a volume is looked at plane by plane.

    References
    ----------
    Stein, Estimation of the mean of a multivariate normal distribution, Annals of Statistics
    9(6), 1981, doi:10.1214/aos/1176345632.
    """

    def __init__(self, measurement: Tensor) -> None:
        self._side = block_side(tuple(measurement.shape[-2:]))
        means, residuals = cut_blocks(_planes(measurement), self._side)
        self._flat = flattest(means, residuals)
        self._noise = residuals[self._flat]
        self._power = self._noise.square().mean((1, 2)).clamp(min=1e-30)

    def __call__(self, estimate: Estimate) -> Tensor:
        """Mean over the flat blocks; a scalar without unit, 0 for a clean picture, 2 for a copy."""
        repeated = cut_blocks(_planes(estimate.mean), self._side)[1][self._flat]
        share = (repeated * self._noise).mean((1, 2)) / self._power
        return 2 * share.mean()


def _planes(picture: Tensor) -> Tensor:
    return picture[0].reshape(-1, *picture.shape[-2:])
