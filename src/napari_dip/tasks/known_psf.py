"""A known PSF: from a picture, a Gaussian's width, or what is written on the microscope.

Nothing here loads torch until a kernel is asked for: sizes and refusals come from formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.tasks.base import SEEN, Input
from napari_dip.tasks.larger_object import GAUSSIAN_REACH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.io import ImageSpec
    from napari_dip.tasks.optics import Optics

PSF = Input(
    "psf",
    "PSF",
    "The point spread function: a picture of what becomes of a point. Not needed where a Gaussian "
    "or a microscope is named instead. A stack of it makes a volume of a stack; a plane of it "
    "serves each plane by itself.",
    optional=True,
)
#: What the user may do where a PSF with depth meets single planes of a stack.
_AS_VOLUME = ", or set 'Stacks' to Automatic, which takes four planes or more as a volume"


@dataclass(frozen=True, slots=True)
class KnownPsf:
    """Where the PSF comes from: a picture unless a width or a microscope is given.

    Attributes
    ----------
    sigma, sigma_z : float or None
        Standard deviation of a Gaussian along Y and X, and along Z, in pixels.
    optics : Optics
    """

    sigma: float | None
    sigma_z: float | None
    optics: Optics

    def check(self, source: ImageSpec, picture: ImageSpec | None) -> Refusal | None:
        """Say no to a PSF that is missing, given twice, incomplete or impossible."""
        ways = {
            "a picture of it": picture is not None,
            "the width of a Gaussian": self.sigma is not None or self.sigma_z is not None,
            "a microscope": self.optics.model != "none",
        }
        given = [words for words, is_given in ways.items() if is_given]
        optics = self.optics
        partly = optics.model == "none" and (optics.na, optics.wavelength) != (None, None)
        if partly:
            return refusal("optics-missing", missing="kind of microscope (--model)")
        if not given:
            return refusal("psf-missing", name=source.name)
        if len(given) > 1:
            return refusal("psf-twice", first=given[0], second=given[1])
        if picture is not None:
            return _check_picture(picture)
        if self.sigma_z is not None and self.sigma is None:
            return refusal("gaussian-axial")
        return optics.check(source) if self.sigma is None else None

    def check_axes(self, source: ImageSpec, picture: ImageSpec | None, axes: str) -> Refusal | None:
        """Say no to a PSF that does not fit the axes of one fit, or is larger than the image."""
        deep = axes[0] == "Z"
        if picture is not None:
            if not is_deep(picture) or deep:
                return None
            stack = "Z" in source.axes and source.along("Z") > (1,)
            facts = {"name": picture.name, "shape": _product(picture.shape)}
            return refusal("psf-axes", hint=_AS_VOLUME if stack else "", **facts)
        if self.sigma_z is not None and not deep:
            return refusal("gaussian-depth", name=source.name)
        if self.sigma is None and deep and None in self.optics.pixels(source, "Z"):
            return refusal("z-step-missing", name=source.name)
        return check_size(source, self.sizes(source, None, axes), axes)

    def stacked(self, source: ImageSpec, picture: ImageSpec | None) -> bool:
        """Whether the PSF speaks of depth, so that a stack is one volume."""
        if picture is not None:
            return is_deep(picture)
        return self.sigma_z is not None or self.sigma is None

    def sizes(self, source: ImageSpec, picture: ImageSpec | None, axes: str) -> tuple[int, ...]:
        """Size along each of the axes of a fit; of a picture the most that it can have cleaned."""
        if axes[0] == "T":
            return (1, *self.sizes(source, picture, axes[1:]))
        if picture is not None:
            shape = picture.shape[-2:]
            if axes[0] == "Z":
                shape = (next((n for n in picture.shape[:-2] if n > 1), 1), *shape)
            # centring doubles it at most, and what then is larger than the image is refused
            return tuple(
                min(2 * n + 1, 2 * (frame // 2) + 1) if n > 1 else 1
                for n, frame in zip(shape, source.along(axes), strict=True)
            )
        if self.sigma is not None:
            sigmas = {"Z": self.sigma_z or 0.0, "Y": self.sigma, "X": self.sigma}
            return tuple(2 * ceil(GAUSSIAN_REACH * sigmas[axis]) + 1 for axis in axes)
        return self.optics.sizes(source, axes)

    def reach(self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str) -> int:
        """How far beyond itself part of a plane has to see, in pixels."""
        return max(self.sizes(source, others.get("psf"), axes)) // 2 + SEEN

    def kernel(
        self, source: ImageSpec, picture: Tensor | None, axes: str
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Give the kernel, (*sizes) float32 of sum one, and what the user should know of it.

        Parameters
        ----------
        source : ImageSpec
            Of the image, once the checks and the cleaning have said no to nothing.
        picture : Tensor or None
            Of the PSF, as it came.
        axes : str
            Of one fit. A PSF of one plane acts within each plane of a volume.

        Raises
        ------
        Refused
            If the picture is no PSF.
        """
        from napari_dip.engine.psf import gaussian_psf

        notes: tuple[str, ...]
        sizes = self.sizes(source, None, axes) if picture is None else ()
        if picture is not None:
            cleaned = cleaned_picture(picture)
            if isinstance(cleaned, Refusal):
                raise Refused(cleaned)
            kernel, notes = cleaned
        elif self.sigma is not None:
            along_z = (self.sigma_z or 0.0,) * (len(axes) - 2)
            kernel, notes = gaussian_psf((*along_z, self.sigma, self.sigma), sizes), ()
        else:
            within = axes.removeprefix("T")
            kernel, notes = self._computed(source, within, sizes[-len(within) :])
        return (kernel[None] if kernel.ndim < len(axes) else kernel), notes

    def _computed(
        self, source: ImageSpec, axes: str, sizes: tuple[int, ...]
    ) -> tuple[Tensor, tuple[str, ...]]:
        from napari_dip.engine.psf import microscope_psf

        optics = self.optics
        pixels = tuple(size for size in optics.pixels(source, axes) if size)
        assert optics.model != "none" and optics.na and optics.wavelength
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
        planes = f" in planes {pixels[0]:g} nm apart" if len(pixels) > 2 else ""
        note = (
            f"The PSF was computed for pixels of {pixels[-1]:g} × {pixels[-2]:g} nm{planes}"
            f"{origin}, and for a microscope without aberrations."
        )
        return kernel, (note,)


def check_size(source: ImageSpec, sizes: tuple[int, ...], axes: str) -> Refusal | None:
    """Say no to a PSF larger than the image; the pixel that makes an even size odd is let pass."""
    frame = source.along(axes)
    if all(2 * (size // 2) <= count for size, count in zip(sizes, frame, strict=True)):
        return None
    shown = {"psf": _product(sizes), "frame": _product(frame)}
    return refusal("psf-large", name=source.name, **shown)


def fit_axes(source: ImageSpec, dims: int) -> str:
    """Name the axes of a fit in that many dimensions: depth before time."""
    if dims == 2:
        return "YX"
    return "ZYX" if "Z" in source.axes and source.along("Z") > (1,) else "TYX"


def cleaned_picture(picture: Tensor) -> tuple[Tensor, tuple[str, ...]] | Refusal:
    """Centre and crop a PSF's picture (..., Y, X), or say why it is none."""
    from napari_dip.engine.psf_cleaning import cleaned_psf

    further = [count for count in picture.shape[:-2] if count > 1]
    cleaned = cleaned_psf(picture.reshape(*further, *picture.shape[-2:]))
    return refusal(cleaned) if isinstance(cleaned, str) else cleaned


def is_deep(picture: ImageSpec) -> bool:
    """Whether a PSF's picture is a stack."""
    return any(count > 1 for count in picture.shape[:-2])


def _check_picture(picture: ImageSpec) -> Refusal | None:
    """Want a plane or a stack, without colours or channels."""
    further = [count for count in picture.shape[:-2] if count > 1]
    coloured = any(axis in picture.axes and picture.along(axis) > (1,) for axis in "CS")
    if len(picture.shape) < 2 or len(further) > 1 or coloured:
        return refusal("psf-axes", name=picture.name, shape=_product(picture.shape), hint="")
    return None


def _product(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))
