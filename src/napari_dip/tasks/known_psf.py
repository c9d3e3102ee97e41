"""A known PSF: from a picture, a Gaussian's width, or what is written on the microscope.

Nothing here loads torch until a kernel is asked for: sizes and refusals come from formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.tasks.larger_object import GAUSSIAN_REACH

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dip.io import ImageSpec

#: Reach of a computed PSF, in wavelengths over NA: four Airy radii, as `engine.psf` has it.
OPTICAL_REACH = 4.0 * 0.6098
#: What the fields of the optics are called in the dock, and their options.
_WORDS = {"na": "numerical aperture (na)", "wavelength": "wavelength", "pixel_size": "pixel size"}


@dataclass(frozen=True, slots=True)
class Optics:
    """What is written on the microscope; lengths in nm, None where the user did not say.

    Attributes
    ----------
    model : str
        "none", "widefield" or "confocal".
    na, wavelength, pixel_size : float or None
    refractive_index : float
    excitation : float or None
    pinhole : float, Airy units
    """

    model: Literal["none", "widefield", "confocal"]
    na: float | None
    wavelength: float | None
    pixel_size: float | None
    refractive_index: float
    excitation: float | None
    pinhole: float


@dataclass(frozen=True, slots=True)
class KnownPsf:
    """Where the PSF comes from: a picture unless a width or a microscope is given.

    Attributes
    ----------
    sigma : float or None
        Standard deviation of a Gaussian, in pixels.
    optics : Optics
    """

    sigma: float | None
    optics: Optics

    def check(self, source: ImageSpec, picture: ImageSpec | None) -> Refusal | None:
        """Say no to a PSF that is missing, given twice, incomplete or impossible."""
        ways = {
            "a picture of it": picture is not None,
            "the width of a Gaussian": self.sigma is not None,
            "a microscope": self.optics.model != "none",
        }
        given = [words for words, is_given in ways.items() if is_given]
        optics = self.optics
        partly = optics.model == "none" and (optics.na, optics.wavelength) != (None, None)
        if partly:
            return refusal("optics-missing", missing="kind of microscope (model)")
        if not given:
            return refusal("psf-missing", name=source.name)
        if len(given) > 1:
            return refusal("psf-twice", first=given[0], second=given[1])
        if picture is not None:
            return _check_picture(picture)
        no = _check_optics(optics, source) if self.sigma is None else None
        return no or self.check_size(source, self.sizes(source, None))

    def check_size(self, source: ImageSpec, sizes: tuple[int, ...]) -> Refusal | None:
        """Say no to a PSF larger than the image."""
        height, width = source.grid
        if sizes[0] <= height and sizes[1] <= width:
            return None
        shown = {"psf_height": sizes[0], "psf_width": sizes[1], "height": height, "width": width}
        return refusal("psf-large", name=source.name, **shown)

    def sizes(self, source: ImageSpec, picture: ImageSpec | None) -> tuple[int, int]:
        """Size along Y and X; of a picture the most that it can have once it is cleaned."""
        if picture is not None:
            rows, columns = picture.shape[-2:]
            # centring doubles it at most, and what then is larger than the image is refused
            height, width = (
                min(2 * n + 1, frame) for n, frame in zip((rows, columns), source.grid, strict=True)
            )
            return height, width
        if self.sigma is not None:
            side = 2 * ceil(GAUSSIAN_REACH * self.sigma) + 1
            return side, side
        optics, pixels = self.optics, pixel_nm(self.optics, source)
        assert pixels and optics.wavelength and optics.na  # `check` wants them
        reach = OPTICAL_REACH * optics.wavelength / optics.na
        return 2 * ceil(reach / pixels[0]) + 1, 2 * ceil(reach / pixels[1]) + 1

    def kernel(self, source: ImageSpec, picture: Tensor | None) -> tuple[Tensor, tuple[str, ...]]:
        """Give the kernel, (*sizes) float32 of sum one, and what the user should know of it.

        Parameters
        ----------
        source : ImageSpec
            Of the image, once `check` and the cleaning have said no to nothing.
        picture : Tensor or None
            Of the PSF, as it came.

        Raises
        ------
        Refused
            If the picture is no PSF.
        """
        from napari_dip.engine.psf import gaussian_psf, microscope_psf

        if picture is not None:
            cleaned = cleaned_picture(picture)
            if isinstance(cleaned, Refusal):
                raise Refused(cleaned)
            return cleaned
        sizes, optics, pixels = self.sizes(source, None), self.optics, pixel_nm(self.optics, source)
        if self.sigma is not None:
            return gaussian_psf((self.sigma, self.sigma), sizes), ()
        assert optics.model != "none" and optics.na and optics.wavelength and pixels
        kernel = microscope_psf(
            optics.model,
            optics.na,
            optics.wavelength,
            pixels,
            optics.refractive_index,
            sizes,
            excitation_nm=optics.excitation,
            pinhole_airy=optics.pinhole,
        )
        origin = "" if optics.pixel_size else ", as its file says"
        note = (
            f"The PSF was computed for pixels of {pixels[1]:g} × {pixels[0]:g} nm{origin}, and for "
            "a microscope without aberrations."
        )
        return kernel, (note,)


def cleaned_picture(picture: Tensor) -> tuple[Tensor, tuple[str, ...]] | Refusal:
    """Centre and crop a PSF's picture (..., Y, X), or say why it is none."""
    from napari_dip.engine.psf_cleaning import cleaned_psf

    cleaned = cleaned_psf(picture.reshape(picture.shape[-2:]))
    return refusal(cleaned) if isinstance(cleaned, str) else cleaned


def pixel_nm(optics: Optics, source: ImageSpec) -> tuple[float, float] | None:
    """Size of a pixel along Y and X in nm: the user's, or what the file says; None if neither."""
    from napari_dip.io.units import meters

    if optics.pixel_size is not None:
        return optics.pixel_size, optics.pixel_size
    if source.scale is None or source.units is None:
        return None
    lengths = []
    for axis in "YX":
        place = source.axes.index(axis)
        unit = meters(source.units[place])
        if unit is None or not source.scale[place] > 0:
            return None
        lengths.append(source.scale[place] * unit * 1e9)
    return lengths[0], lengths[1]


def _check_picture(picture: ImageSpec) -> Refusal | None:
    further = picture.shape[:-2]
    if len(picture.shape) < 2 or any(count > 1 for count in further) or "S" in picture.axes:
        shape = " × ".join(map(str, picture.shape))
        return refusal("psf-axes", name=picture.name, shape=shape)
    return None


def _check_optics(optics: Optics, source: ImageSpec) -> Refusal | None:
    found = {
        "na": optics.na,
        "wavelength": optics.wavelength,
        "pixel_size": pixel_nm(optics, source),
    }
    for field, value in found.items():
        if value is None:
            return refusal("optics-missing", missing=_WORDS[field])
    assert optics.na is not None
    if optics.na >= optics.refractive_index:
        return refusal("optics-impossible", na=optics.na, index=optics.refractive_index)
    return None
