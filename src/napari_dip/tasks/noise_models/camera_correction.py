"""Correct pixels before the calibration: by maps of the camera, or by the level of their noise.

Each pixel of an sCMOS camera has its own amplifier. Offset and gain are corrected; pixels with more
read noise get less weight. Where noise differs from place to place, the image is divided by its
level there, and the result multiplied by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.tasks.base import load_input

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, ImageHeader
    from napari_dip.io.header import Headers

#: Camera maps as optional inputs.
CAMERA_MAP_INPUTS = tuple(map(load_input, ("offset_map", "gain_map", "noise_map")))
#: Side of the local mean that estimates the signal of a pixel, in pixels.
LOCAL_MEAN_SIDE = 5
#: Ratio of variance to usual variance above which a hot pixel is drawn to its neighbours: with 4,
#: variances are within 0.3 of the true ones; with 1, 3 too low (docs/constants.md).
MIN_HOT_VARIANCE_RATIO = 4.0
#: Weights along an axis whose product is 0 for planes and one-dimensional edges, and keeps the
#: variance of white noise (Immerkaer, Computer Vision and Image Understanding 64(2), 1996).
FINEST_WEIGHTS = np.array((1.0, -2.0, 1.0)) / 6**0.5
#: Standard deviation in pixels of the window in which the level of the noise is measured.
LEVEL_WINDOW_SIGMA = 8.0
#: Minimum variance of the noise at a place, in units of its median.
MIN_LEVEL_VARIANCE_FRACTION = 0.02


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CameraCorrection:
    """Correction of a camera's pixels: grey values times `factor`, plus `shift`.

    Attributes
    ----------
    factor, shift : ndarray
        (Y, X) or (N, C, Y, X) float32.
    median_variance : float
        Read-noise variance of the median pixel, in squared units of the image; 0 without a noise
        map.
    excess_variance : ndarray or None
        (Y, X): read-noise variance of each pixel beyond that; None without a noise map.
    is_undone : bool
        Whether results are in the values before the correction.
    """

    factor: Float32Array
    shift: Float32Array
    median_variance: float = 0.0
    excess_variance: Float32Array | None = None
    is_undone: bool = False

    def correct(self, stack: Float32Array) -> Float32Array:
        """Correct offset and gain of (..., Y, X); units and mean offset do not change."""
        return stack * self.factor + self.shift

    def undo(self, stack: Float32Array) -> Float32Array:
        """Undo `correct`."""
        return (stack - self.shift) / self.factor

    def crop(self, crop: Callable[[Float32Array], Float32Array]) -> CameraCorrection:
        """Crop all maps by a function."""
        excess = None if self.excess_variance is None else crop(self.excess_variance)
        factor, shift = crop(self.factor), crop(self.shift)
        return replace(self, factor=factor, shift=shift, excess_variance=excess)

    def suppress_hot_pixels(self, stack: Float32Array) -> Float32Array:
        """Shrink the deviation of hot pixels of (..., Y, X) from their surroundings to usual noise.

        The result is only used to measure the noise, which hot pixels would raise for all pixels.
        """
        if self.excess_variance is None:
            return stack
        import torch

        from napari_dip.engine.priors.r2r import average_in_plane

        variance = self.median_variance + torch.from_numpy(self.excess_variance)
        pixels, weight = torch.from_numpy(stack), self.median_variance / variance
        weighted_mean = average_in_plane(pixels * weight, LOCAL_MEAN_SIDE)
        local_mean = weighted_mean / average_in_plane(weight, LOCAL_MEAN_SIDE)
        shrunk = torch.lerp(local_mean, pixels, weight.sqrt())
        return np.asarray(torch.where(weight * MIN_HOT_VARIANCE_RATIO < 1, shrunk, pixels))

    def mask_noisy_pixels(
        self, measured_mask: BoolArray | None, shape: tuple[int, ...]
    ) -> BoolArray | None:
        """Remove noisy pixels from the measured mask, (..., Y, X); None stands for all pixels."""
        if self.excess_variance is None:
            return measured_mask
        is_usual = np.broadcast_to(self.excess_variance <= self.median_variance, shape)
        return is_usual if measured_mask is None else measured_mask & is_usual

    @property
    def notes(self) -> tuple[Note, ...]:
        """Note on the share of noisy pixels, if there is a noise map."""
        if self.excess_variance is None:
            return ()
        noisy_fraction = float((self.excess_variance > self.median_variance).mean())
        return (make_note("camera-maps", share=noisy_fraction),)


def refuse_maps(
    header: ImageHeader, extra_headers: Headers, *, has_variance_model: bool
) -> Refusal | None:
    """Refuse camera maps of the wrong size or without use, from the headers alone.

    Parameters
    ----------
    header : ImageHeader
    extra_headers : mapping of str to ImageHeader
    has_variance_model : bool
        As `NoiseModel.has_variance_model`.
    """
    maps = {
        camera_map.name: extra_headers[camera_map.name]
        for camera_map in CAMERA_MAP_INPUTS
        if camera_map.name in extra_headers
    }
    for map_header in maps.values():
        if not has_variance_model:
            return make_refusal("map-noise", name=map_header.name)
        if [side for side in map_header.shape if side > 1] != list(header.grid):
            facts = {"size": format_sizes(map_header.shape), "want": format_sizes(header.grid)}
            return make_refusal("map-size", name=map_header.name, image=header.name, **facts)
    if "gain_map" in maps and "offset_map" not in maps:
        return make_refusal("map-gain-alone", name=maps["gain_map"].name)
    if "noise_map" in maps and "repeated_exposure" in extra_headers:
        name, second = maps["noise_map"].name, extra_headers["repeated_exposure"].name
        return make_refusal("map-repeated-exposure", name=name, second=second)
    return None


def refuse_map_pixels(extra_inputs: Mapping[str, AnyArray]) -> Refusal | None:
    """Refuse gain and noise maps with values that are not above 0."""
    for key, what in (("gain_map", "gain"), ("noise_map", "noise")):
        if key in extra_inputs and (wrong := int((extra_inputs[key] <= 0).sum())):
            total = extra_inputs[key].size
            return make_refusal("map-not-positive", what=what, count=wrong, total=total)
    return None


def build_camera_correction(
    extra_inputs: Mapping[str, Float32Array], grid: tuple[int, int]
) -> CameraCorrection | None:
    """Build the correction that follows from camera maps; None if there are none.

    Parameters
    ----------
    extra_inputs : mapping of str to ndarray
        With the names of `CAMERA_MAP_INPUTS`.
    grid : tuple of int
        Y, X.

    References
    ----------
    Huang et al., Video-rate nanoscopy using sCMOS camera-specific single-molecule localization
    algorithms, Nature Methods 10, 2013, doi:10.1038/nmeth.2488.
    """
    maps = {
        camera_map.name: extra_inputs[camera_map.name].reshape(grid).astype(np.float64)
        for camera_map in CAMERA_MAP_INPUTS
        if camera_map.name in extra_inputs
    }
    if not maps:
        return None
    gain, offset = maps.get("gain_map", np.ones(grid)), maps.get("offset_map", np.zeros(grid))
    factor = gain.mean() / gain
    camera = CameraCorrection(
        factor=factor.astype(np.float32), shift=(offset.mean() - offset * factor).astype(np.float32)
    )
    if "noise_map" not in maps:
        return camera
    variance = (maps["noise_map"] * factor) ** 2
    median_variance = float(np.median(variance))
    excess_variance = np.maximum(variance - median_variance, 0).astype(np.float32)
    return replace(camera, median_variance=median_variance, excess_variance=excess_variance)


def compute_pixel_weights(
    excess: Tensor, noise_variance: NoiseVariance, measurement: Tensor
) -> Tensor:
    """Return the weight of each pixel: usual noise variance divided by its own.

    Parameters
    ----------
    excess : Tensor
        (1, C, 1, ..., Y, X), in squared network units.
    noise_variance : NoiseVariance
        Of a usual pixel.
    measurement : Tensor
        (B, C, *grid).

    Returns
    -------
    Tensor
        (1, 1, *grid), up to 1.
    """
    from napari_dip.engine.priors.r2r import average_in_plane

    usual_variance = noise_variance.compute_variance(average_in_plane(measurement, LOCAL_MEAN_SIDE))
    return (usual_variance / (usual_variance + excess)).amin((0, 1), keepdim=True)


def build_level_correction(stack: Float32Array, channels: Sequence[int]) -> CameraCorrection | None:
    """Build the correction that makes noise equally strong everywhere; None if there is no noise.

    Differences from the mean are divided, since a constant would get the structure of the level.

    Parameters
    ----------
    stack : ndarray
        (N, C, Y, X).
    channels : sequence of int
        Channels whose noise differs from place to place, or from frame to frame.
    """
    factor = np.ones(stack.shape, np.float32)
    for channel in channels:
        level = measure_noise_level(stack[:, channel])
        if level is None:
            return None
        factor[:, channel] = np.reciprocal(level)
    mean = stack.mean((0, -2, -1), keepdims=True, dtype=np.float64)
    shift = np.asarray(mean * (1 - factor), np.float32)
    return CameraCorrection(factor=factor, shift=shift, is_undone=True)


def measure_noise_level(planes: Float32Array) -> Float32Array | None:
    """Return the level of the noise at each pixel of (..., Y, X), its RMS 1; None without noise.

    It is measured at the finest frequencies around each pixel, so sharp edges raise it.
    """
    from scipy import ndimage

    fine = planes.astype(np.float64)
    for axis in (-2, -1):
        fine = ndimage.correlate1d(fine, FINEST_WEIGHTS, axis, mode="reflect")
    sigmas = (0,) * (planes.ndim - 2) + (LEVEL_WINDOW_SIGMA,) * 2
    variance = ndimage.gaussian_filter(fine**2, sigmas, mode="reflect")
    minimum = MIN_LEVEL_VARIANCE_FRACTION * float(np.median(variance))
    if minimum <= 0:
        return None
    variance = variance.clip(min=minimum)
    return np.asarray(np.sqrt(variance / variance.mean()), np.float32)
