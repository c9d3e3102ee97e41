"""Noise estimates of the blind baselines, from differences of neighbouring pixels."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from variance_stabilising import estimate_variance_line, estimate_white_sigma

if TYPE_CHECKING:
    from quality_sets import Case, Picture

#: Sets whose noise grows with brightness; in the others it is taken for equally strong.
MICROSCOPY = ("fmd", "fmd256", "w2s", "hagen")


def is_micrograph(case: Case) -> bool:
    """Tell images of cameras and scanners on microscopes from the others."""
    return case.group in MICROSCOPY


def estimate_noise(case: Case, noisy: Picture) -> dict[str, Any]:
    """Estimate the noise: what every blind method rests on."""
    if is_micrograph(case):
        return {"line": estimate_variance_line(noisy)}
    return {"sigma": [estimate_white_sigma(plane) for plane in split_channels(noisy)]}


def split_channels(image: Picture) -> list[Picture]:
    """Its planes, one or three."""
    return [image] if image.ndim == 2 else list(np.moveaxis(image, -1, 0))


def compute_mean_sigma(case: Case, noisy: Picture) -> float:
    """One estimated standard deviation: root mean variance over brightness and channels."""
    if not is_micrograph(case):
        return sqrt(
            float(np.mean([estimate_white_sigma(plane) ** 2 for plane in split_channels(noisy)]))
        )
    gain, intercept = estimate_variance_line(noisy)
    return sqrt(max(gain * float(noisy.mean()) + intercept, 1e-6))
