"""Microscope parameters, and the size of the PSF that follows from them, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Literal

from napari_dip.errors import Refusal, make_refusal

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec

#: Radius of the Airy disc in units of wavelength / NA, as in `engine.deconvolution.psf`.
AIRY = 0.6098
#: Radius of a computed PSF, laterally in Airy radii, and along Z in distances from the focus to the
#: first minimum. In focus, 96 % of a widefield PSF's light lies within 4 Airy radii (1 - J0^2 -
#: J1^2, Born and Wolf 8.5.2), and all but 1e-4 of a confocal one's.
PSF_LATERAL_RADIUS, PSF_AXIAL_RADIUS = 4.0, 2.0
#: Labels of the fields in the dock, and their options.
_OPTICS_LABELS = {
    "na": "numerical aperture (--na)",
    "wavelength": "wavelength (--wavelength)",
    "pixel_size": "pixel size (--pixel-size)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """Hold the parameters of a microscope; None where the user stated nothing.

    Attributes
    ----------
    model : str
        "none", "widefield" or "confocal".
    na : float or None
        Numerical aperture.
    wavelength, pixel_size, z_step : float or None
        In nanometres.
    refractive_index : float
    excitation : float or None
        Wavelength of the excitation, in nanometres.
    pinhole : float
        Diameter in Airy units.
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
        """Refuse a microscope that is incomplete or physically impossible."""
        pixels = self.get_pixel_sizes(source, "YX")
        entries = {
            "na": self.na,
            "wavelength": self.wavelength,
            "pixel_size": None if None in pixels else pixels,
        }
        for field, value in entries.items():
            if value is None:
                return make_refusal("optics-missing", missing=_OPTICS_LABELS[field])
        assert self.na is not None
        if self.na >= self.refractive_index:
            return make_refusal("optics-impossible", na=self.na, index=self.refractive_index)
        return None

    def get_pixel_sizes(self, source: ImageSpec, axes: str) -> tuple[float | None, ...]:
        """Return the pixel size along each axis in nm: the user's, else that of the file."""
        user_sizes = {"Z": self.z_step, "Y": self.pixel_size, "X": self.pixel_size}
        return tuple(user_sizes[axis] or _get_pixel_size_nm(source, axis) for axis in axes)

    def compute_psf_sizes(self, source: ImageSpec, axes: str) -> tuple[int, ...]:
        """Return the size of the PSF along each axis, in pixels; requires a passed `check`.

        The sizes are odd. Along Z the PSF is at most as deep as the stack. Laterally, a widefield
        PSF contains the cone of light over that depth, limited to the frame.
        """
        assert self.na and self.wavelength
        halves: dict[str, int] = {}
        step = dict(zip(axes, self.get_pixel_sizes(source, axes), strict=True))
        max_halves = {
            axis: count // 2 for axis, count in zip(axes, source.get_sizes(axes), strict=True)
        }
        lateral, cone = PSF_LATERAL_RADIUS * AIRY * self.wavelength / self.na, 0.0
        if "Z" in axes:
            assert step["Z"]
            cosine = sqrt(self.refractive_index**2 - self.na**2)
            # at the first minimum along Z, the path at the pupil's rim differs by one wavelength
            axial = PSF_AXIAL_RADIUS * self.wavelength / (self.refractive_index - cosine)
            halves["Z"] = min(ceil(axial / step["Z"]), max_halves["Z"])
            if self.model == "widefield":
                cone = halves["Z"] * step["Z"] * self.na / cosine
        for axis in "YX":
            pixel = step[axis]
            assert pixel
            halves[axis] = max(ceil(lateral / pixel), min(ceil(cone / pixel), max_halves[axis]))
        return tuple(2 * halves[axis] + 1 for axis in axes)


def _get_pixel_size_nm(source: ImageSpec, axis: str) -> float | None:
    """Return the pixel size that the file states; None if it states none."""
    from napari_dip.io.header import get_unit_meters

    if source.scale is None or source.units is None or axis not in source.axes:
        return None
    index = source.axes.index(axis)
    unit = get_unit_meters(source.units[index])
    if unit is None or not source.scale[index] > 0:
        return None
    return source.scale[index] * unit * 1e9
