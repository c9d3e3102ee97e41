"""What is written on a microscope, and how large a PSF follows from it; torch is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Literal

from napari_dip.errors import Refusal, refusal

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec

#: Airy radius in units of wavelength / NA, as `engine.psf` has it.
AIRY = 0.6098
#: Reach of a computed PSF, in Airy radii along Y and X and in distances from focus to the first
#: dark point along Z. In focus 96 % of a widefield's light lies within 4 Airy radii (1 - J0^2 -
#: J1^2, Born and Wolf 8.5.2), and of a confocal's all but 1e-4.
PSF_LATERAL_RADIUS, PSF_AXIAL_RADIUS = 4.0, 2.0
#: What the fields are called in the dock, and their options.
_OPTICS_LABELS = {
    "na": "numerical aperture (--na)",
    "wavelength": "wavelength (--wavelength)",
    "pixel_size": "pixel size (--pixel-size)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """What is written on the microscope; lengths in nm, None where the user did not say.

    Attributes
    ----------
    model : str
        "none", "widefield" or "confocal".
    na, wavelength, pixel_size, z_step : float or None
    refractive_index : float
    excitation : float or None
    pinhole : float, Airy units
    """

    model: Literal["none", "widefield", "confocal"]
    na: float | None
    wavelength: float | None
    pixel_size: float | None
    z_step: float | None
    refractive_index: float
    excitation: float | None
    pinhole: float

    def check(self, source: ImageSpec) -> Refusal | None:
        """Say no to a microscope that is incomplete or impossible."""
        pixels = self.pixels(source, "YX")
        entries = {
            "na": self.na,
            "wavelength": self.wavelength,
            "pixel_size": None if None in pixels else pixels,
        }
        for field, value in entries.items():
            if value is None:
                return refusal("optics-missing", missing=_OPTICS_LABELS[field])
        assert self.na is not None
        if self.na >= self.refractive_index:
            return refusal("optics-impossible", na=self.na, index=self.refractive_index)
        return None

    def pixels(self, source: ImageSpec, axes: str) -> tuple[float | None, ...]:
        """Distance of pixels along each of these axes in nm: the user's, or what the file says."""
        own = {"Z": self.z_step, "Y": self.pixel_size, "X": self.pixel_size}
        return tuple(own[axis] or _get_pixel_size_nm(source, axis) for axis in axes)

    def sizes(self, source: ImageSpec, axes: str) -> tuple[int, ...]:
        """Pixels that the PSF takes along each of these axes, once `check` has said no to nothing.

        Odd. Along Z at most the stack; a widefield's cone of light is followed as far as that
        goes, and within the frame.
        """
        assert self.na and self.wavelength
        halves: dict[str, int] = {}
        step = dict(zip(axes, self.pixels(source, axes), strict=True))
        room = {axis: count // 2 for axis, count in zip(axes, source.along(axes), strict=True)}
        lateral, cone = PSF_LATERAL_RADIUS * AIRY * self.wavelength / self.na, 0.0
        if "Z" in axes:
            assert step["Z"]
            cosine = sqrt(self.refractive_index**2 - self.na**2)
            # from focus to the first dark point the path at the pupil's rim falls back by one wave
            axial = PSF_AXIAL_RADIUS * self.wavelength / (self.refractive_index - cosine)
            halves["Z"] = min(ceil(axial / step["Z"]), room["Z"])
            if self.model == "widefield":
                cone = halves["Z"] * step["Z"] * self.na / cosine
        for axis in "YX":
            pixel = step[axis]
            assert pixel
            halves[axis] = max(ceil(lateral / pixel), min(ceil(cone / pixel), room[axis]))
        return tuple(2 * halves[axis] + 1 for axis in axes)


def _get_pixel_size_nm(source: ImageSpec, axis: str) -> float | None:
    """Size of a pixel as the file has it; None if it does not say."""
    from napari_dip.io.header import get_unit_meters

    if source.scale is None or source.units is None or axis not in source.axes:
        return None
    place = source.axes.index(axis)
    unit = get_unit_meters(source.units[place])
    if unit is None or not source.scale[place] > 0:
        return None
    return source.scale[place] * unit * 1e9
