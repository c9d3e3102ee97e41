"""A fidelity for blurred images: the residual is brought back to where the blur took it from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_dip.engine.convolution import fast_length

if TYPE_CHECKING:
    from napari_dip.engine.fidelity import NoiseVariance
    from napari_dip.engine.problem import Estimate, Fidelity


def backprojected_residual(
    noise: NoiseVariance, kernel: Tensor, seen: Tensor, floor: float, *, circular: bool
) -> Fidelity:
    """Squared residual in units of the noise, with what the blur weakened made strong again.

    A plain residual hardly shows an error in detail that the blur takes to a hundredth, so a
    network learns such detail last. Here the residual passes a filter whose gain is one over the
    blur's, down to a floor: all frequencies that the image still holds are learned at once.

    Parameters
    ----------
    noise : NoiseVariance
    kernel : Tensor
        (*sizes) of the blur, of sum one.
    seen : Tensor
        (1, 1, *measured), 1 where a pixel may be seen. The filter spreads residuals, so what is
        held out has to be left out before it.
    floor : float, > 0
        Power of the blur below which nothing is made stronger: much more would only be noise.
    circular : bool
        Whether the image goes on with its other side.

    References
    ----------
    Zukerman, Tirer, Giryes, BP-DIP: a backprojection based deep image prior, EUSIPCO 2020,
    arXiv:2003.05417.
    """
    axes = tuple(range(-kernel.ndim, 0))
    grid = tuple(seen.shape[2:])
    sizes = tuple(
        count if circular else fast_length(count + size - 1)
        for count, size in zip(grid, kernel.shape, strict=True)
    )
    power = torch.fft.rfftn(kernel, s=sizes, dim=axes).abs() ** 2
    gain = ((1 + floor) / (power + floor)).sqrt()  # 1 for a constant

    def loss(estimate: Estimate, measurement: Tensor) -> Tensor:
        mean = estimate.mean
        residual = (measurement - mean) * seen / noise.at(mean.detach()).sqrt()
        filtered: Tensor = torch.fft.irfftn(
            torch.fft.rfftn(residual, s=sizes, dim=axes) * gain, s=sizes, dim=axes
        )
        for axis, count in enumerate(grid, start=2):
            filtered = filtered.narrow(axis, 0, count)
        return filtered.square()

    return loss
