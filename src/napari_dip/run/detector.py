"""What a detector tells of itself: frames without light, and frames of one even light."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused, refusal

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.engine.noise import NoiseEstimate
    from napari_dip.io import ImageSpec


@dataclass(frozen=True, slots=True)
class Detector:
    """Figures of a detector, in its grey values; None where no frames tell them.

    Attributes
    ----------
    gain : float or None
        How much the variance grows for each unit of brightness: from flat frames.
    offset, read_noise : float or None
        What is read without light, and its standard deviation: from dark frames.
    intercept : float or None
        The variance at signal m is `gain * m + intercept`: from flat frames.
    """

    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None
    intercept: float | None = None

    def said_of(self, noise: NoiseEstimate) -> NoiseEstimate:
        """Put what the detector's own frames tell in place of what an image tells."""
        gain = noise.gain if self.gain is None else self.gain
        intercept = self.intercept
        if intercept is None and self.offset is not None and self.read_noise is not None:
            intercept = self.read_noise**2 - gain * self.offset
        return replace(
            noise,
            gain=gain,
            intercept=noise.intercept if intercept is None else intercept,
            floor=noise.floor if not self.read_noise else self.read_noise**2,
            doubt=noise.doubt if self.gain is None else "",
            gain_error=noise.gain_error if self.gain is None else 0.0,
            offset_error=noise.offset_error if self.offset is None else 0.0,
            read_noise_error=noise.read_noise_error if self.read_noise is None else 0.0,
            offset=noise.offset if self.offset is None else self.offset,
            read_noise=noise.read_noise if self.read_noise is None else self.read_noise,
        )


def measure_detector(dark: Frames | None, flat: Frames | None) -> Detector:
    """Measure a detector by frames without light and of even light.

    Parameters
    ----------
    dark : (ImageSpec, ndarray) or None
        One frame or more.
    flat : (ImageSpec, ndarray) or None
        Two frames or more of one steady light.

    Raises
    ------
    Refused
        If flat frames are fewer than two, or frames hold one value only.
    """
    import torch

    from napari_dip.engine.photon_transfer import measure_dark, measure_flat

    offset = read_noise = gain = intercept = found = None
    if dark is not None:
        found = measure_dark(torch.from_numpy(_planes(dark, least=1)))
        offset, read_noise = found.offset, found.read_noise
    if flat is not None:
        gain, intercept = measure_flat(torch.from_numpy(_planes(flat, least=2)), found)
    return Detector(gain, offset, read_noise, intercept)


Frames = tuple["ImageSpec", "npt.NDArray[Any]"]


def _planes(frames: Frames, least: int) -> npt.NDArray[np.float64]:
    """Lay frames one upon another: (N, Y, X)."""
    spec, array = frames
    last = [spec.axes.index(axis) for axis in "YX"]
    planes = np.moveaxis(np.asarray(array, np.float64), last, (-2, -1))
    planes = planes.reshape(-1, *planes.shape[-2:])
    if len(planes) < least:
        raise Refused(refusal("frames-few", name=spec.name, count=len(planes), least=least))
    if not np.isfinite(planes).all() or planes.min() == planes.max():
        raise Refused(refusal("frames-constant", name=spec.name))
    return planes
