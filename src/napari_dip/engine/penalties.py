"""Penalties: what is unlikely about a picture, whatever was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    _require_positive(unit)

    def penalty(image: Tensor) -> Tensor:
        squares = image.new_full((), _CORNER**2)
        for step in _steps(image / unit):
            squares = squares + step**2
        return squares.sqrt().mean()

    return penalty


def anisotropic_total_variation(unit: float) -> Penalty:
    """Total variation along each axis by itself, summed: cheapest for edges along the axes.

    Parameters
    ----------
    unit : float, > 0
        As for `total_variation`.

    Returns
    -------
    Penalty
        image (B, C, *grid) -> scalar, the mean over pixels of the sum of the absolute steps to
        the next pixel along each axis, in units of `unit`.

    Raises
    ------
    ValueError
        If `unit` is not positive.

    References
    ----------
    Esedoglu, Osher, Decomposition of images by the anisotropic Rudin-Osher-Fatemi model,
    Communications on Pure and Applied Mathematics 57(12), 2004, doi:10.1002/cpa.20045.
    """
    _require_positive(unit)

    def penalty(image: Tensor) -> Tensor:
        total = image.new_zeros(())
        for step in _steps(image / unit):
            total = total + (step**2 + _CORNER**2).sqrt().mean()
        return total

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
    _require_positive(unit)
    return lambda image: ((level - image) / unit).clamp(min=0).square().mean()


def _steps(image: Tensor) -> Iterator[Tensor]:
    """Give the step to the next pixel along each axis of the grid, 0 at the end; (B, C, *grid)."""
    for dim in range(2, image.ndim):
        yield torch.diff(image, dim=dim, append=image.narrow(dim, -1, 1))


def _require_positive(unit: float) -> None:
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")


def near(picture: Tensor, unit: float) -> Penalty:
    """Mean square of the distance from a picture, in units of `unit`.

    Parameters
    ----------
    picture : Tensor
        (1, C, *grid), in network units.
    unit : float, > 0
        What counts as a step of one: how far the picture may be off.

    Raises
    ------
    ValueError
        If `unit` is not positive.
    """
    if not unit > 0:  # also catches nan
        raise ValueError(f"`unit` must be above 0, but is {unit!r}.")
    return lambda image: ((image - picture) / unit).square().mean()
