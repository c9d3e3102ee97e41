"""Speckle as a named noise: its variance is a share of the squared signal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors import refusal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_dip.engine.noise import NoiseEstimate
    from napari_dip.errors import Refusal

#: Name of the noise.
SPECKLE = "speckle"
#: Signal, as a share of the mean, from which on speckle is reckoned with: where there is no light
#: there is no speckle, but a variance of 0 would weigh without bound.
DARK = 0.02


def admit_speckle(name: str, parts: npt.NDArray[np.float32]) -> Refusal | None:
    """Say no to a picture with negative values: no signal times anything gives them."""
    count = int((parts < 0).sum())
    if not count:
        return None
    facts = {"count": count, "total": parts.size, "least": f"{float(parts.min()):g}"}
    return refusal("speckle-negative", name=name, **facts)


def logarithm_of(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Give the logarithm of (..., Y, X) of one channel."""
    import numpy as np
    import torch

    from napari_dip.engine.speckle import logarithm

    return np.asarray(logarithm(torch.from_numpy(np.ascontiguousarray(planes))).numpy())


def relative_noise(measured: NoiseEstimate, logarithms: npt.NDArray[np.float32]) -> NoiseEstimate:
    """Give the noise of intensities from that which was measured of their logarithms."""
    import numpy as np

    from napari_dip.engine.speckle import looks_for

    level = float(logarithms.mean(dtype=np.float64))
    variance = max(measured.gain * level + measured.intercept, measured.floor)
    relative = looks_for(variance) ** -0.5
    signal = float(np.exp(logarithms, dtype=np.float64).mean())
    floor = (DARK * relative * signal) ** 2
    return replace(measured, gain=0.0, intercept=0.0, floor=floor, relative=relative)
