"""Networks that cannot change fast: what a layer makes of a difference is bounded.

A network of bounded layers has little left for fine detail, noise included, however long it learns.
"""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_CONVOLUTION_TYPES = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def bound_spectral_norms(net: nn.Module, bound: float) -> None:
    """Bound all convolutions of a network but its last, and let norms move means alone.

    A batch norm divides by the spread of its channels, and so would undo any bound; in its place
    the mean is taken off and another one learned, as in the authors' code. Their last convolution
    is free as well, so that the picture may have any range.

    Parameters
    ----------
    net : nn.Module
        Changed in place; its last convolution is `net.head`.
    bound : float
        Largest factor by which a layer may lengthen what differs: of the weights, laid out as a
        matrix of output channels by all else, the largest singular value. Lower: less detail.

    Raises
    ------
    ValueError
        If the bound is not above zero.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, and the authors' code (`SpectralNorm`
    and `MeanOnlyBatchNorm` of their repository Measure-and-Control-Spectral-Bias).
    Salimans, Kingma, Weight normalization, NeurIPS 2016, arXiv:1602.07868: norms of means alone.
    """
    if not (bound > 0 and isfinite(bound)):
        raise ValueError(f"`bound` must be above 0 and finite, but is {bound!r}.")
    for module in [*net.modules()]:
        for name, part in [*module.named_children()]:
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, MeanOnlyBatchNorm(part.num_features))
            elif isinstance(part, _CONVOLUTION_TYPES) and part is not net.head:
                parametrize.register_parametrization(part, "weight", _SpectralNorm(bound))


class MeanOnlyBatchNorm(nn.Module):
    """Each channel with another mean, which is learned; differences stay as they are.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, flow: Tensor) -> Tensor:
        """(B, C, *grid) -> the same."""
        axes = tuple(range(2, flow.ndim))
        return flow - flow.mean(axes, keepdim=True) + self.bias.reshape(-1, *(1 for _ in axes))


class _SpectralNorm(nn.Module):
    """Weights scaled down to their bound where they exceed it; the scale itself is not learned."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.detach().flatten(1)
        squares = torch.linalg.eigvalsh(matrix @ matrix.T)  # of singular values, the largest last
        excess: Tensor = squares[-1].clamp(min=0).sqrt() / self.bound
        return weight / excess.clamp(min=1)
