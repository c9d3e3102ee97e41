"""Speckle: noise that multiplies the signal, as coherent light and ultrasound have it.

The mean of L independent looks at fully developed speckle is the signal times a gamma variate of
shape L and mean one: its relative variance is 1/L, and the variance of its logarithm is trigamma(L)
whatever the signal. It is measured on the logarithm, where it is as strong everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Values below this share of a channel's mean count as that: the logarithm of 0 does not exist, and
#: of single-look speckle one pixel in two hundred lies as far below its signal.
LEAST = 0.005
#: Least and most looks that are told apart: more than 10,000 are a noise of one percent.
LOOKS = (0.5, 1e4)
#: Halvings of the interval in which looks are sought, as a logarithm.
HALVINGS = 50


def looks_for(variance: float) -> float:
    """Give the looks L whose speckle has a logarithm of that variance: trigamma(L) = variance.

    Parameters
    ----------
    variance : float, > 0

    References
    ----------
    Arsenault, April, Properties of speckle integrated with a finite aperture and logarithmically
    transformed, JOSA 66(11), 1976, doi:10.1364/JOSA.66.001160.
    """
    low, high = LOOKS
    for _ in range(HALVINGS):  # trigamma falls with L
        middle = (low * high) ** 0.5
        if float(torch.special.polygamma(1, torch.tensor(middle, dtype=torch.float64))) > variance:
            low = middle
        else:
            high = middle
    return float((low * high) ** 0.5)


def logarithm(planes: Tensor) -> Tensor:
    """Give the natural logarithm of intensities (..., Y, X) of one channel."""
    least = max(LEAST * float(planes.mean(dtype=torch.float64)), 1e-30)
    return planes.clamp(min=least).log()
