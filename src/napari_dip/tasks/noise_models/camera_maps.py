"""Maps of a camera: offset, gain and read noise of each pixel, as further inputs of a task.

The pixels of an sCMOS camera each have an amplifier of their own. Offset and gain are corrected
before anything is measured; pixels that read with more noise than the others count for less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import Input

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.likelihood.fidelity import NoiseVariance
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec

    Marks = npt.NDArray[np.bool_]

    Planes = npt.NDArray[np.float32]

_MAP_HELP = "One plane of the image's size, as napari-dip camera-maps writes it; it holds for all."
#: What the dock, the command line and Python ask for.
CAMERA_MAPS = (
    Input(
        name="offset_map",
        label="Offset map of the camera",
        help=f"What each pixel reads without light, in grey values. {_MAP_HELP}",
        optional=True,
        calibrates=True,
    ),
    Input(
        name="gain_map",
        label="Gain map of the camera",
        help="Grey values that each pixel gives for a photo-electron; only differences between "
        f"pixels count. It needs an offset map. {_MAP_HELP}",
        optional=True,
        calibrates=True,
    ),
    Input(
        name="noise_map",
        label="Noise map of the camera",
        help="Standard deviation of each pixel's read noise, in grey values: hot pixels count for "
        f"less. {_MAP_HELP}",
        optional=True,
        calibrates=True,
    ),
)
#: Side of the mean that stands for the picture around a pixel.
LOCAL_MEAN_SIDE = 5
#: How many times the usual variance a hot pixel's read noise has. Of less noisy ones photon noise
#: may be most, which shrinking would take with it: of three flat pictures with photon noise of 4
#: and read noise of 1.5 ± 15 %, one pixel in fifty at 25, variances of 18.0 to 18.5 were measured
#: as 17.7 to 18.4; as 14.7 to 15.9 with 1, and as 18.7 to 20.0 with none shrunk.
MIN_HOT_VARIANCE_RATIO = 4.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CameraCorrection:
    """What is done about a camera's pixels: grey values times `factor`, plus `shift`.

    Attributes
    ----------
    factor, shift : ndarray
        (Y, X) float32.
    usual : float
        Variance of the read noise of the median pixel, in squared units of the image; 0 without
        a noise map.
    excess : ndarray or None
        (Y, X): variance that a pixel's read noise has beyond that; None without a noise map.
    """

    factor: Planes
    shift: Planes
    usual: float = 0.0
    excess: Planes | None = None

    def corrected(self, parts: Planes) -> Planes:
        """Correct offset and gain of (..., Y, X), which keeps the units and the mean offset."""
        return parts * self.factor + self.shift

    def as_read(self, parts: Planes) -> Planes:
        """Undo `corrected`."""
        return (parts - self.shift) / self.factor

    def cut(self, place: tuple[slice, ...]) -> CameraCorrection:
        """Cut to part of the image's plane."""
        excess = None if self.excess is None else self.excess[place]
        return replace(self, factor=self.factor[place], shift=self.shift[place], excess=excess)

    def quietened(self, parts: Planes) -> Planes:
        """Shrink what hot pixels of (..., Y, X) show beyond their surroundings to usual noise.

        Only to measure noise on: what they have must not be taken for noise of all pixels.
        """
        if self.excess is None:
            return parts
        import torch

        from napari_dip.engine.priors.r2r import average_in_plane

        share = self.usual / (self.usual + torch.from_numpy(self.excess))
        pixels = torch.from_numpy(parts)
        near = average_in_plane(pixels * share, LOCAL_MEAN_SIDE) / average_in_plane(
            share, LOCAL_MEAN_SIDE
        )
        return np.asarray(
            torch.where(
                share * MIN_HOT_VARIANCE_RATIO < 1, torch.lerp(near, pixels, share.sqrt()), pixels
            )
        )

    def usable(self, measured_mask: Marks | None, shape: tuple[int, ...]) -> Marks | None:
        """Leave noisy pixels out of those that are known, (..., Y, X); None: all of them."""
        if self.excess is None:
            return measured_mask
        quiet = np.broadcast_to(self.excess <= self.usual, shape)
        return quiet if measured_mask is None else measured_mask & quiet

    @property
    def notes(self) -> tuple[Note, ...]:
        """Say what the noise map says."""
        if self.excess is None:
            return ()
        many = float((self.excess > self.usual).mean())
        return (make_note("camera-maps", share=many),)


def check_maps(
    source: ImageSpec, others: Mapping[str, ImageSpec], *, of_detector: bool
) -> Refusal | None:
    """Refuse maps by their headers: of another size, or of no use.

    Parameters
    ----------
    source : ImageSpec
    others : mapping of str to ImageSpec
    of_detector : bool
        Whether the noise is one that a detector makes.
    """
    maps = {
        camera_map.name: others[camera_map.name]
        for camera_map in CAMERA_MAPS
        if camera_map.name in others
    }
    for spec in maps.values():
        if not of_detector:
            return refusal("map-noise", name=spec.name)
        if [side for side in spec.shape if side > 1] != list(source.grid):
            size = " × ".join(map(str, spec.shape))
            want = " × ".join(map(str, source.grid))
            return refusal("map-size", name=spec.name, size=size, image=source.name, want=want)
    if "gain_map" in maps and "offset_map" not in maps:
        return refusal("map-gain-alone", name=maps["gain_map"].name)
    if "noise_map" in maps and "repeated_exposure" in others:
        return refusal(
            "map-second", name=maps["noise_map"].name, second=others["repeated_exposure"].name
        )
    return None


def admit_maps(others: Mapping[str, npt.NDArray[Any]]) -> Refusal | None:
    """Refuse maps for what they hold: a gain or a noise that is not above 0."""
    for key, what in (("gain_map", "gain"), ("noise_map", "noise")):
        if key in others and (wrong := int((others[key] <= 0).sum())):
            return refusal("map-not-positive", what=what, count=wrong, total=others[key].size)
    return None


def build_camera_correction(
    others: Mapping[str, Planes], grid: tuple[int, int]
) -> CameraCorrection | None:
    """Make of maps what is done about them; None where there are none.

    Parameters
    ----------
    others : mapping of str to ndarray
        As `CAMERA_MAPS` names them.
    grid : tuple of int
        Y, X.

    References
    ----------
    Huang et al., Video-rate nanoscopy using sCMOS camera-specific single-molecule localization
    algorithms, Nature Methods 10, 2013, doi:10.1038/nmeth.2488.
    """
    maps = {
        camera_map.name: others[camera_map.name].reshape(grid).astype(np.float64)
        for camera_map in CAMERA_MAPS
        if camera_map.name in others
    }
    if not maps:
        return None
    gain, offset = maps.get("gain_map", np.ones(grid)), maps.get("offset_map", np.zeros(grid))
    factor = gain.mean() / gain
    camera = CameraCorrection(
        factor=factor.astype(np.float32),
        shift=(offset.mean() - offset * factor).astype(np.float32),
    )
    if "noise_map" not in maps:
        return camera
    variance = (maps["noise_map"] * factor) ** 2
    usual = float(np.median(variance))
    excess = np.maximum(variance - usual, 0).astype(np.float32)
    return replace(camera, usual=usual, excess=excess)


def compute_camera_weights(excess: Tensor, noise: NoiseVariance, measurement: Tensor) -> Tensor:
    """Weigh pixels by their noise: the usual variance, as a share of their own.

    Parameters
    ----------
    excess : Tensor
        (1, C, 1, ..., Y, X), in squared network units.
    noise : NoiseVariance
        Of a usual pixel.
    measurement : Tensor
        (B, C, *grid).

    Returns
    -------
    Tensor
        (1, 1, *grid), up to 1.
    """
    from napari_dip.engine.priors.r2r import average_in_plane

    usual = noise.at(average_in_plane(measurement, LOCAL_MEAN_SIDE))
    return (usual / (usual + excess)).amin((0, 1), keepdim=True)
