"""Variance-stabilising transform (generalised Anscombe), and the noise estimate that it needs.

The published form of VST + BM3D: estimate, stabilise, denoise at unit variance, go back. Nothing
of napari-dip is used here, so that the comparison stands on its own.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve, uniform_filter

Plane = npt.NDArray[np.float64]

#: Second differences of neighbours along both axes: no constant, no slope, no edge along an axis
#: is left. Divided by 6, white noise keeps its variance (Immerkaer 1996,
#: doi:10.1006/cviu.1996.0060).
DIFFERENCES = np.outer((1.0, -2.0, 1.0), (1.0, -2.0, 1.0)) / 6
#: Standard deviation of a Gaussian by its median absolute deviation.
BY_MEDIAN = 1.4826
#: Classes of brightness of equally many pixels: 16 of 16,000 in 512 x 512.
CLASSES = 16
#: Width of the local mean, in pixels, that says how bright a place is and how steep.
WINDOW = 7
#: Share of the pixels of a class, the least steep, that count as smooth (Foi et al. cut away
#: edges by a threshold on smoothed derivatives; a share needs no noise level beforehand).
SMOOTH = 0.5
#: Below this share of the greatest variance the slope is not told from none.
LEAST_SLOPE = 1e-3


def estimate_white_sigma(plane: Plane) -> float:
    """One standard deviation for the whole plane, from neighbour differences."""
    return BY_MEDIAN * float(np.median(np.abs(convolve(plane, DIFFERENCES, mode="mirror"))))


def estimate_variance_line(plane: Plane) -> tuple[float, float]:
    """Gain and intercept: the variance of the noise at signal m is `gain * m + intercept`.

    In each class of brightness (local mean) the smooth half is kept, and the median absolute
    neighbour difference gives the variance; a line is fitted through all classes by least squares
    with weights of 1 / variance^2, each variance's own error being proportional to it.

    Parameters
    ----------
    plane : ndarray
        (Y, X), any units.

    References
    ----------
    Foi et al., IEEE TIP 17(10), 2008, doi:10.1109/TIP.2008.2001399, simplified: differences for
    wavelets, medians for maximum likelihood, no model of clipping.
    """
    detail = np.abs(convolve(plane, DIFFERENCES, mode="mirror"))
    local = uniform_filter(plane, WINDOW, mode="mirror")
    steep = np.hypot(*np.gradient(local)).ravel()
    means, variances = [], []
    for part in np.array_split(np.argsort(local, axis=None, kind="stable"), CLASSES):
        smooth = part[np.argsort(steep[part], kind="stable")[: max(1, round(SMOOTH * len(part)))]]
        means.append(float(local.ravel()[smooth].mean()))
        variances.append((BY_MEDIAN * float(np.median(detail.ravel()[smooth]))) ** 2)
    mean, variance = np.array(means), np.maximum(variances, 1e-12)
    if np.ptp(mean) <= 0:
        return 0.0, float(np.median(variance))
    for _ in range(10):  # the weights need the line, which needs the weights
        line = np.polyfit(mean, np.array(variances), 1, w=1 / variance)
        variance = np.maximum(np.polyval(line, mean), 0.05 * np.median(variances) + 1e-12)
    gain, intercept = (float(value) for value in line)
    if gain * np.ptp(mean) < LEAST_SLOPE * variance.max():
        return 0.0, float(np.median(variances))
    return gain, intercept


def stabilise(plane: npt.NDArray[Any], gain: float, intercept: float) -> Plane:
    """Bring noise of variance `gain * m + intercept` to unit variance (generalised Anscombe).

    With an offset mu and read noise s the model's intercept is s^2 - gain * mu, so both drop out.

    References
    ----------
    Murtagh, Starck, Bijaoui 1995; Makitalo and Foi, Optimal inversion of the generalized Anscombe
    transformation for Poisson-Gaussian noise, IEEE TIP 22(1), 2013,
    doi:10.1109/TIP.2012.2202675.
    """
    if gain == 0:
        return np.asarray(plane, np.float64) / sqrt(intercept)
    inside = gain * np.asarray(plane, np.float64) + 3 / 8 * gain**2 + intercept
    return 2 / gain * np.sqrt(np.maximum(inside, 0))


def invert_stabilisation(stable: Plane, gain: float, intercept: float) -> Plane:
    """Go back without bias: the signal whose stabilised mean is `stable`.

    The exact unbiased inverse in its closed form (Makitalo and Foi 2013, as above; closed form in
    IEEE TIP 20(9), 2011, doi:10.1109/TIP.2011.2121085).
    """
    if gain == 0:
        return stable * sqrt(intercept)
    least = 2 * sqrt(3 / 8)  # where the closed form reaches no photons
    d = np.maximum(stable, least)
    root = sqrt(3 / 2)
    photons = d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8
    return gain * photons - intercept / gain
