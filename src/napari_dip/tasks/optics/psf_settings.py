"""What a PSF can be computed from, as fields of a task: a width, or what a microscope says.

A known PSF: from a picture, a Gaussian's width, or what is written on the microscope.

Nothing here loads torch until a kernel is asked for: sizes and refusals come from formulas.

An object larger than the frame: light that comes in from outside needs a place to come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import RECEPTIVE_FIELD_RADIUS, Input, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from napari_dip.engine.problem import Estimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.optics.microscope import Optics

#: Refractive index of immersion oil, ISO 8036. In focus, which is all that a single plane asks
#: for, the PSF does not depend on it; it only has to lie above the aperture.
OIL = 1.518
_Length = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
_Width = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
GaussianWidth = Annotated[
    _Width | None,
    Setting(
        "Gaussian blur (SD, pixels)",
        "Standard deviation of the blur, in pixels, if it is a Gaussian: full width at half "
        "maximum / 2.35. Empty: none.",
        least=0,
        most=100,
        advanced=False,
        written="Gaussian blur of standard deviation {:g} pixels",
    ),
]
GaussianDepth = Annotated[
    _Width | None,
    Setting(
        "Gaussian blur along Z",
        "Standard deviation of the blur along Z, in planes of the stack, which is then deblurred "
        "as a volume: full width at half maximum / 2.35. Empty: each plane is blurred by itself.",
        least=0,
        most=100,
        written="along Z of standard deviation {:g} planes",
    ),
]
Microscope = Annotated[
    Literal["none", "widefield", "confocal"],
    Setting(
        "Microscope",
        "Compute the PSF of this kind of microscope from its aperture, the wavelength and the "
        "pixel size.",
        choices={"none": "Not chosen", "widefield": "Widefield", "confocal": "Confocal"},
        advanced=False,
    ),
]
Aperture = Annotated[
    Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)] | None,
    Setting(
        "Numerical aperture",
        "Numerical aperture (NA) of the objective, as written on it. Empty: none.",
        least=0,
        most=4,
        written="numerical aperture {:g}",
    ),
]
Wavelength = Annotated[
    _Length | None,
    Setting(
        "Wavelength",
        "Wavelength of the emitted light, in nanometres. Empty: none.",
        least=0,
        most=1e6,
        written="emission at {:g} nm",
    ),
]
PixelSize = Annotated[
    _Length | None,
    Setting(
        "Pixel size",
        "Size of a pixel in the sample, in nanometres. Empty: as the image says.",
        least=0,
        most=1e6,
        written="pixels of {:g} nm",
    ),
]
ZStep = Annotated[
    _Length | None,
    Setting(
        "Z step",
        "Distance of the planes of a stack in the sample, in nanometres. Empty: as the image says.",
        least=0,
        most=1e6,
        written="planes {:g} nm apart",
    ),
]
RefractiveIndex = Annotated[
    Annotated[float, Field(ge=1, le=4, allow_inf_nan=False)],
    Setting(
        "Refractive index",
        "Of the immersion: 1 for air, 1.333 for water, 1.518 for oil.",
        least=1,
        most=4,
        step=0.001,
        written="refractive index {:g}",
    ),
]
Excitation = Annotated[
    _Length | None,
    Setting(
        "Excitation",
        "Wavelength of the exciting light in nanometres, for a confocal microscope. Empty: "
        "that of the emission.",
        least=0,
        most=1e6,
        written="excitation at {:g} nm",
    ),
]
Pinhole = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    Setting(
        "Pinhole",
        "Diameter of a confocal microscope's pinhole, in Airy units.",
        least=0,
        most=100,
        step=0.1,
        written="pinhole of {:g} Airy units",
    ),
]
#: Half width of a Gaussian blur in standard deviations, as `engine.psf.gaussian_psf` has it; here
#: it is needed where nothing may load torch.
GAUSSIAN_RADIUS_SIGMAS = 4
#: In a volume the network draws at most one part in so many of the frame beyond each side of it:
#: the reach of a deep PSF would make it eight times as large. What lies further is taken to be as
#: at the rim of what is drawn.
MARGIN_DIVISOR = 4


def compute_object_margin(grid: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels that the network draws beyond the frame, on either side of each axis.

    Parameters
    ----------
    grid : tuple of int
        Of the frame.
    sizes : tuple of int
        Of the PSF.
    """
    reach = tuple(size // 2 for size in sizes)
    if len(grid) == 2:
        return reach
    return tuple(
        min(far, -(-count // MARGIN_DIVISOR)) for far, count in zip(reach, grid, strict=True)
    )


def compute_object_size(grid: tuple[int, ...], margin: tuple[int, ...]) -> tuple[int, ...]:
    """Size of the object whose blurred picture fills a frame."""
    return tuple(count + 2 * beyond for count, beyond in zip(grid, margin, strict=True))


def make_crop_to_frame(margin: tuple[int, ...]) -> Callable[[Estimate], Estimate]:
    """Make the last step that cuts off what lies beyond the frame.

    Parameters
    ----------
    margin : tuple of int
        Pixels beyond the frame on either side of each axis.
    """
    from napari_dip.engine.problem import Estimate

    def cut(picture: Tensor) -> Tensor:
        for axis, beyond in enumerate(margin, start=2):
            picture = picture.narrow(axis, beyond, picture.shape[axis] - 2 * beyond)
        return picture

    def finish(estimate: Estimate) -> Estimate:
        doubt = estimate.log_variance
        return Estimate(cut(estimate.mean), None if doubt is None else cut(doubt))

    return finish


PSF = Input(
    name="psf",
    label="PSF",
    help="The point spread function: a picture of what becomes of a point. Not needed where a "
    "Gaussian "
    "or a microscope is named instead. A stack of it makes a volume of a stack; a plane of it "
    "serves each plane by itself.",
    optional=True,
)
#: What the user may do where a PSF with depth meets single planes of a stack.
_VOLUME_HINT = ", or set 'Stacks' to Automatic, which takes four planes or more as a volume"


@dataclass(frozen=True, slots=True, kw_only=True)
class PsfSource:
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
        values = [text for text, is_given in ways.items() if is_given]
        optics = self.optics
        partly = optics.model == "none" and (optics.na, optics.wavelength) != (None, None)
        if partly:
            return refusal("optics-missing", missing="kind of microscope (--model)")
        if not values:
            return refusal("psf-missing", name=source.name)
        if len(values) > 1:
            return refusal("psf-twice", first=values[0], second=values[1])
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
            facts = {"name": picture.name, "shape": _format_shape(picture.shape)}
            return refusal("psf-axes", hint=_VOLUME_HINT if stack else "", **facts)
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
            return tuple(2 * ceil(GAUSSIAN_RADIUS_SIGMAS * sigmas[axis]) + 1 for axis in axes)
        return self.optics.sizes(source, axes)

    def reach(self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str) -> int:
        """How far beyond itself part of a plane has to see, in pixels."""
        return max(self.sizes(source, others.get("psf"), axes)) // 2 + RECEPTIVE_FIELD_RADIUS

    def kernel(
        self, source: ImageSpec, picture: Tensor | None, axes: str
    ) -> tuple[Tensor, tuple[Note, ...]]:
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
        from napari_dip.engine.deconvolution.psf import gaussian_psf

        notes: tuple[Note, ...]
        sizes = self.sizes(source, None, axes) if picture is None else ()
        if picture is not None:
            cleaned = clean_psf_image(picture)
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
    ) -> tuple[Tensor, tuple[Note, ...]]:
        from napari_dip.engine.deconvolution.psf import microscope_psf

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
        note = make_note(
            "psf-computed",
            width=pixels[-1],
            height=pixels[-2],
            depth=f"{pixels[0]:g}" if len(pixels) > 2 else "",
            from_file=not optics.pixel_size,
        )
        return kernel, (note,)


def check_size(source: ImageSpec, sizes: tuple[int, ...], axes: str) -> Refusal | None:
    """Say no to a PSF larger than the image; the pixel that makes an even size odd is let pass."""
    frame = source.along(axes)
    if all(2 * (size // 2) <= count for size, count in zip(sizes, frame, strict=True)):
        return None
    facts = {"psf": _format_shape(sizes), "frame": _format_shape(frame)}
    return refusal("psf-large", name=source.name, **facts)


def get_fit_axes(source: ImageSpec, dims: int) -> str:
    """Name the axes of a fit in that many dimensions: depth before time."""
    if dims == 2:
        return "YX"
    return "ZYX" if "Z" in source.axes and source.along("Z") > (1,) else "TYX"


def clean_psf_image(picture: Tensor) -> tuple[Tensor, tuple[Note, ...]] | Refusal:
    """Centre and crop a PSF's picture (..., Y, X), or say why it is none."""
    from napari_dip.engine.deconvolution.psf import clean_psf

    further = [count for count in picture.shape[:-2] if count > 1]
    cleaned = clean_psf(picture.reshape(*further, *picture.shape[-2:]))
    return refusal(cleaned) if isinstance(cleaned, str) else cleaned


def is_deep(picture: ImageSpec) -> bool:
    """Whether a PSF's picture is a stack."""
    return any(count > 1 for count in picture.shape[:-2])


def _check_picture(picture: ImageSpec) -> Refusal | None:
    """Want a plane or a stack, without colours or channels."""
    further = [count for count in picture.shape[:-2] if count > 1]
    coloured = any(axis in picture.axes and picture.along(axis) > (1,) for axis in "CS")
    if len(picture.shape) < 2 or len(further) > 1 or coloured:
        return refusal("psf-axes", name=picture.name, shape=_format_shape(picture.shape), hint="")
    return None


def _format_shape(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))
