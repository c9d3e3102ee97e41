"""Bound the spectral norms of a network's layers, which suppresses fine detail, and noise."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_CONVOLUTION_TYPES = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def bound_spectral_norms(net: nn.Module, bound: float) -> None:
    """Bound all convolutions of a network but its last, and replace its batch norms.

    A batch norm divides by the standard deviation of each channel, which would undo the bound. It
    is replaced by one that changes means only. The last convolution stays unbounded, so that the
    picture may have any range. Both are as in the authors' code.

    Parameters
    ----------
    net : nn.Module
        Changed in place; its last convolution is `net.head`.
    bound : float
        Upper bound of the largest singular value of the weights, as a matrix of output channels by
        all other axes. A lower bound gives less detail.

    Raises
    ------
    ValueError
        If the bound is not above zero.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, and the authors' code (`SpectralNorm`
    and `MeanOnlyBatchNorm` of their repository Measure-and-Control-Spectral-Bias).
    Salimans, Kingma, Weight normalization, NeurIPS 2016, arXiv:1602.07868 (mean-only batch norm).
    """
    if not (bound > 0 and isfinite(bound)):
        raise ValueError(f"`bound` must be above 0 and finite, but is {bound!r}.")
    for module in [*net.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, MeanOnlyBatchNorm(child.num_features))
            elif isinstance(child, _CONVOLUTION_TYPES) and child is not net.head:
                parametrize.register_parametrization(child, "weight", _SpectralNorm(bound))


class MeanOnlyBatchNorm(nn.Module):
    """Replace the mean of each channel by a learned one.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, flow: Tensor) -> Tensor:
        """Map (B, C, *grid) to the same shape."""
        axes = tuple(range(2, flow.ndim))
        return flow - flow.mean(axes, keepdim=True) + self.bias.reshape(-1, *(1 for _ in axes))


class _SpectralNorm(nn.Module):
    """Scale weights down to the bound if they exceed it; the factor has no gradient."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.detach().flatten(1)
        squares = torch.linalg.eigvalsh(matrix @ matrix.T)  # of singular values, the largest last
        excess: Tensor = squares[-1].clamp(min=0).sqrt() / self.bound
        return weight / excess.clamp(min=1)
