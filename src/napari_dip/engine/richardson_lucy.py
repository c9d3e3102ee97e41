"""Richardson-Lucy deconvolution: the classic answer, and a start for the network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_dip.engine.convolution import convolve_valid, margin_of

#: Share of a pixel's light that must reach the frame for the measurement to have a say in it.
#: The Fourier transform rounds by 1e-7 of the brightest pixel in single precision: at this share
#: that is 1e-5 of a factor, and 1e-3 of the pixel after a hundred iterations.
_LEAST_SEEN = 1e-2
#: Least prediction, as a share of the mean: keeps 0 / 0 out of pixels without light.
_LEAST_LIGHT = 1e-6


def richardson_lucy(
    measurement: Tensor, kernel: Tensor, iterations: int, background: float = 0.0
) -> Tensor:
    """Estimate the object by multiplicative steps, each of which raises the Poisson likelihood.

    The object is larger than the frame by the kernel's reach, and each of its pixels is weighed
    by the share of its light that reaches the frame; so no border is invented, and none rings.
    Pixels that hardly reach it keep the start, the mean of the measurement.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *measured), in counts above the detector's offset; negative ones count as 0.
    kernel : Tensor
        (*sizes) or (C, *sizes), odd, non-negative, of sum one.
    iterations : int, >= 0
    background : float, >= 0
        Light that did not come from the object, in counts per pixel.

    Returns
    -------
    Tensor
        (B, C, *measured + sizes - 1), non-negative; the frame is its middle.

    Raises
    ------
    ValueError
        If a size of the kernel is even or its axes do not fit.

    References
    ----------
    Richardson, JOSA 62, 1972, doi:10.1364/JOSA.62.000055; Lucy, Astron. J. 79, 1974,
    doi:10.1086/111605; Bertero and Boccacci, A simple method for the reduction of boundary
    effects in the Richardson-Lucy approach, Astron. Astrophys. 437, 2005,
    doi:10.1051/0004-6361:20052717.
    """
    dims = measurement.ndim - 2
    margin = margin_of(kernel, dims)
    axes = tuple(range(-dims, 0))
    reach = [pixels for side in reversed(margin) for pixels in (2 * side, 2 * side)]
    mirrored = kernel.flip(axes)

    def spread_back(frame: Tensor) -> Tensor:
        return convolve_valid(F.pad(frame, reach), mirrored)

    measurement = measurement.clamp(min=0)
    mean = measurement.mean(axes, keepdim=True)
    floor = _LEAST_LIGHT * mean + torch.finfo(measurement.dtype).tiny
    seen = spread_back(torch.ones_like(measurement))
    image = (mean - background).clamp(min=floor).expand_as(seen)
    for _ in range(iterations):
        prediction = (convolve_valid(image, kernel) + background).clamp(min=floor)
        factor = spread_back(measurement / prediction).clamp(min=0) / seen.clamp(min=_LEAST_SEEN)
        image = image * torch.where(seen > _LEAST_SEEN, factor, 1.0)
    return image
