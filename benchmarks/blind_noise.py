"""The noise that blind methods reckon with, read from neighbours of the noisy picture alone."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from variance_stabilising import variance_line, white_sigma

if TYPE_CHECKING:
    from quality_sets import Case, Picture

#: Sets whose noise grows with brightness; in the others it is taken for equally strong.
MICROSCOPY = ("fmd", "fmd256", "w2s", "hagen")


def microscopy(case: Case) -> bool:
    """Tell pictures of cameras and scanners on microscopes from the others."""
    return case.group in MICROSCOPY


def estimate(case: Case, noisy: Picture) -> dict[str, Any]:
    """Estimate the noise: what every blind method rests on."""
    if microscopy(case):
        return {"line": variance_line(noisy)}
    return {"sigma": [white_sigma(plane) for plane in channels(noisy)]}


def channels(picture: Picture) -> list[Picture]:
    """Its planes, one or three."""
    return [picture] if picture.ndim == 2 else list(np.moveaxis(picture, -1, 0))


def mean_sigma(case: Case, noisy: Picture) -> float:
    """One estimated standard deviation: root mean variance over brightness and channels."""
    if not microscopy(case):
        return sqrt(float(np.mean([white_sigma(plane) ** 2 for plane in channels(noisy)])))
    gain, intercept = variance_line(noisy)
    return sqrt(max(gain * float(noisy.mean()) + intercept, 1e-6))
