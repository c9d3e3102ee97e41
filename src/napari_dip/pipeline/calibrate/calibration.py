"""What calibration hands on: sorted pixels, calibration, and the share of pixels that validate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from napari_dip.engine.noise.colour_camera import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.plan.layout import Layout
    from napari_dip.tasks.noise_models.camera_maps import CameraCorrection

    Planes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HalfResolutionInput:
    """What is fitted instead of an oversampled picture.

    Attributes
    ----------
    stack : ndarray
        (1, C, Y / 2, X / 2), in the image's units.
    noise : tuple of NoiseEstimate
        Per channel, of these.
    blind_spot_size : tuple of int
        Size of hidden blocks there.
    """

    stack: Planes
    noise: tuple[NoiseEstimate, ...]
    blind_spot_size: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunInputs:
    """The image in the plan's layout, and the task's further inputs.

    Attributes
    ----------
    stack : ndarray
        (parts, C, *grid) float32, in the image's units; what is wrong with the camera's pixels is
        corrected.
    extra_inputs : mapping of str to ndarray
        The further inputs, float32, as they were handed in.
    measured_mask : ndarray or None
        (parts, C, *grid), True where a pixel was measured; None if all were.
    grey_level_step : float
        Distance of neighbouring grey values, 0 if there are no steps.
    layout : Layout
        The plan's, or that which leaves no part without anything known.
    repeated_exposure : ndarray or None
        (parts, C, *grid): another measurement of what the image shows, in units of its own.
    camera_correction : CameraCorrection or None
        What was corrected, and how noisy each pixel is.
    """

    stack: Planes
    extra_inputs: Mapping[str, Planes]
    measured_mask: npt.NDArray[np.bool_] | None
    grey_level_step: float
    layout: Layout
    repeated_exposure: Planes | None = None
    camera_correction: CameraCorrection | None = None


#: Share of the pixels that judging may take from the fit, as a rule and at most: 4 % of a
#: 512 x 512 image are 10,000 judges, whose mean loss is sure to 0.02.
VALIDATION_SHARE = 0.04
MAX_VALIDATION_SHARE = 0.25
#: Fewest held-out pixels that tell a better picture from a worse one.
MIN_RELIABLE_VALIDATION_PIXELS = 48


def compute_validation_share(block: tuple[int, ...], pixels: int) -> float:
    """Share of the pixels that judging takes: enough of them, and no more than can be spared.

    Parameters
    ----------
    block : tuple of int
        Size of the hidden block around each.
    pixels : int
        How many were measured.
    """
    return min(
        MAX_VALIDATION_SHARE,
        max(VALIDATION_SHARE, MIN_RELIABLE_VALIDATION_PIXELS * prod(block) / pixels),
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Calibration:
    """What was measured on the file before any fit; shared by all its units.

    Attributes
    ----------
    offset, scale : tuple of float
        Per channel: network units are (pixel - offset) / scale.
    noise : tuple of NoiseEstimate
        Per channel, in the image's units.
    blind_spot_size : tuple of int
        Size of hidden blocks and of the guard band around a judging pixel, per axis of a fit.
    validation_share : float
    constant_channels : tuple of int
        Channels that hold one value only; they are handed back untouched.
    noise_model : str
        "gaussian" or "poisson-gaussian".
    prior : str
        Which prior runs.
    measured_mask : ndarray or None
        (parts, C, *grid), True where a pixel was measured; None if all were.
    extra_inputs : mapping of str to ndarray
        The task's further inputs, float32, as the task has arranged them.
    notes : tuple of Note
        What was found out on the way.
    repeated_exposure : RepeatedExposure or None
        Another measurement of what the image shows.
    half_resolution : HalfResolutionInput or None
        What is fitted instead of the image, where that is oversampled.
    outlier_limits : tuple of (float, float)
        Per channel, values beyond which single pixels are left out of the fit.
    outlier_count : int
        Count of such pixels.
    camera_noise : CameraNoise or None
        The noise of red, green and blue together, where it is a colour camera's.
    part_calibrations : tuple of Calibration
        Of each part by itself, where parts are of files of their own; empty: all share this one.
    camera_correction : CameraCorrection or None
        What was corrected, and how noisy each pixel is.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    noise: tuple[NoiseEstimate, ...]
    blind_spot_size: tuple[int, ...]
    validation_share: float
    constant_channels: tuple[int, ...]
    noise_model: str
    prior: str
    measured_mask: npt.NDArray[np.bool_] | None
    extra_inputs: Mapping[str, Planes]
    notes: tuple[Note, ...] = ()
    repeated_exposure: RepeatedExposure | None = None
    half_resolution: HalfResolutionInput | None = None
    outlier_limits: tuple[tuple[float, float], ...] = ()
    outlier_count: int = 0
    camera_noise: CameraNoise | None = None
    part_calibrations: tuple[Calibration, ...] = ()
    camera_correction: CameraCorrection | None = None

    @property
    def excess_variance(self) -> Planes | float:
        """Variance of each pixel beyond the noise of its channel: (Y, X), or 0 for none."""
        variance = None if self.camera_correction is None else self.camera_correction.excess
        return 0.0 if variance is None else variance

    def get_fit_calibration(self) -> Calibration:
        """Give what holds for the pixels that are fitted, which may be coarser than the image's."""
        if self.half_resolution is None:
            return self
        share = compute_validation_share(
            self.half_resolution.blind_spot_size, self.half_resolution.stack[0, 0].size
        )
        return replace(
            self,
            noise=self.half_resolution.noise,
            blind_spot_size=self.half_resolution.blind_spot_size,
            validation_share=share,
            half_resolution=None,
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RepeatedExposure:
    """Another measurement of what the image shows.

    Attributes
    ----------
    stack : ndarray
        (parts, C, *grid), brought to the image's intensities.
    noise : tuple of NoiseEstimate
        Per channel, of these.
    notes : tuple of Note
        What the user should know of it.
    """

    stack: Planes
    noise: tuple[NoiseEstimate, ...]
    notes: tuple[Note, ...]
