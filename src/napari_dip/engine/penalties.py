"""Penalties: what is unlikely about a picture, whatever was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from napari_dip.engine.problem import Penalty

#: Rounds the corner of the absolute value; below the noise of any detector in network units.
_CORNER = 1e-3


def total_variation(unit: float) -> Penalty:
    """Isotropic total variation, per pixel, in any number of dimensions.

    Parameters
    ----------
    unit : float, > 0
        What counts as a step of one: the noise's standard deviation in network units, so
        that a weight means the same for every image.

    Returns
    -------
    Penalty
        image (B, C, *grid) -> scalar, the mean length of the gradient in units of `unit`.

    Raises
    ------
    ValueError
        If `unit` is not positive.

    References
    ----------
    Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms,
    Physica D 60, 1992, doi:10.1016/0167-2789(92)90242-F.
    """
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")

    def penalty(image: Tensor) -> Tensor:
        image = image / unit
        dims = range(2, image.ndim)
        squares = image.new_full((), _CORNER**2)
        for dim in dims:
            step = torch.diff(image, dim=dim, append=image.narrow(dim, -1, 1))  # (B, C, *grid)
            squares = squares + step**2
        return squares.sqrt().mean()

    return penalty


def not_below(level: Tensor, unit: float) -> Penalty:
    """Mean square of what lies below a level, in units of `unit`.

    Parameters
    ----------
    level : Tensor
        (1, C, 1, ...), in network units: where there is no light.
    unit : float, > 0
        What counts as a step of one, such as the noise's standard deviation.

    Raises
    ------
    ValueError
        If `unit` is not positive.
    """
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")
    return lambda image: ((level - image) / unit).clamp(min=0).square().mean()
