"""Variance against mean of an image's flattest blocks: the dots of the noise plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.run.noise import spread_planes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_dip.run.inputs import Planes

#: Points that are kept of the variance against the mean: a plot of more is a blot.
MOST_POINTS = 400


def block_points(
    planes: Planes, known: npt.NDArray[np.bool_] | None
) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the flattest blocks, as the line through them was fitted.

    Parameters
    ----------
    planes : ndarray
        (P, Y, X).
    known : ndarray of bool or None
        Where there is a measurement; blocks with holes are left out.
    """
    import torch

    from napari_dip.engine.flat_blocks import autocorrelation, block_side, cut_blocks, flattest
    from napari_dip.engine.whole_blocks import WHOLE, clipping_limits, telling

    some = spread_planes(len(planes))
    pixels = torch.from_numpy(planes[some]).to(torch.float64)
    there = None if known is None else torch.from_numpy(known[some])
    side = block_side(planes.shape[1:])
    means, residuals = cut_blocks(pixels, side)
    whole = telling(pixels, side, side // 2, there, clipping_limits(pixels))
    if not bool(whole.any()):  # better clipped blocks than none
        whole = telling(pixels, side, side // 2, there, WHOLE)
    means, residuals = means[whole], residuals[whole]
    if not len(means):
        return ()
    flat = flattest(means, residuals)
    means, residuals = means[flat], residuals[flat]
    variances = residuals.square().mean((1, 2)) / (1 - autocorrelation(residuals)[2])
    every = max(1, -(-len(means) // MOST_POINTS))
    pairs = zip(means[::every].tolist(), variances[::every].tolist(), strict=True)
    return tuple(pairs)
