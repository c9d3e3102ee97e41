"""PSF settings: fields of tasks, their checks, and the kernel and object margin they lead to.

Sizes and refusals are computed without torch, which is loaded only for a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, isclose, sqrt
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from napari_dip.engine.constants import AIRY_RADIUS_FACTOR, GAUSSIAN_RADIUS_SIGMAS
from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.tasks.base import EXTRA_INPUTS, IMAGE_AXES, UNSIZED_AXES, load_input, load_setting
from napari_dip.tasks.shared_settings import get_stacked_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, ImageHeader

#: Refractive index of immersion oil, ISO 8036. The PSF of a single plane in focus does not depend
#: on it; it only has to exceed the numerical aperture.
OIL_REFRACTIVE_INDEX = 1.518
#: Shortest wavelength of light microscopes, in nanometres: that of ultraviolet light. A smaller
#: number is in micrometres.
MIN_WAVELENGTH = 100.0
#: Smallest size of a pixel, in nanometres: a hundredth of the smallest that a microscope needs.
MIN_PIXEL_SIZE = 0.5


def _require_nanometres(value: float, *, least: float) -> float:
    """Refuse a length that is not in nanometres."""
    if value < least:
        text = "Input should be in nanometres, so at least {least}"
        raise PydanticCustomError("nanometres", text, {"least": f"{least:g}"})
    return value


_Length = Annotated[
    float,
    Field(gt=0, le=1e6, allow_inf_nan=False),
    AfterValidator(partial(_require_nanometres, least=MIN_PIXEL_SIZE)),
]
_WavelengthLength = Annotated[
    _Length, AfterValidator(partial(_require_nanometres, least=MIN_WAVELENGTH))
]
_Width = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


def _has_psf_image(values: Mapping[str, Any]) -> bool:
    return "psf" in values[EXTRA_INPUTS]


def _has_optics(values: Mapping[str, Any]) -> bool:
    """Whether a microscope is named, or described beside an image of the PSF."""
    has_data = values["na"] or values["wavelength"]
    return bool(values["microscope"] != "none" or (_has_psf_image(values) and has_data))


def _has_psf_data(values: Mapping[str, Any]) -> bool:
    """Whether an image of the PSF or a microscope is named."""
    return _has_psf_image(values) or _has_optics(values)


def _lacks_psf_image(values: Mapping[str, Any]) -> bool:
    return not _has_psf_image(values)


def _is_confocal(values: Mapping[str, Any]) -> bool:
    return bool(values["microscope"] == "confocal")


GaussianSigma = Annotated[
    _Width | None,
    load_setting("gaussian_sigma", relevant_when=lambda values: not _has_psf_data(values)),
]
GaussianSigmaZ = Annotated[
    _Width | None,
    load_setting(
        "gaussian_sigma_z",
        relevant_when=lambda values: bool(values["gaussian_sigma"]) and "Z" in values[IMAGE_AXES],
    ),
]
MicroscopeType = Annotated[
    Literal["none", "widefield", "confocal"],
    load_setting("microscope", relevant_when=_lacks_psf_image),
]
NumericalAperture = Annotated[
    Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)] | None,
    load_setting("na", is_required=_lacks_psf_image, relevant_when=_has_psf_data),
]
Wavelength = Annotated[
    _WavelengthLength | None,
    load_setting("wavelength", is_required=_lacks_psf_image, relevant_when=_has_psf_data),
]
PixelSize = Annotated[
    _Length | None,
    load_setting(
        "pixel_size",
        is_required=lambda values: not set("YX").isdisjoint(values[UNSIZED_AXES]),
        relevant_when=_has_optics,
    ),
]
ZStep = Annotated[
    _Length | None,
    load_setting(
        "z_step",
        is_required=lambda values: "Z" in values[UNSIZED_AXES],
        relevant_when=lambda values: _has_optics(values) and "Z" in values[IMAGE_AXES],
    ),
]
RefractiveIndex = Annotated[
    Annotated[float, Field(ge=1, le=4, allow_inf_nan=False)],
    load_setting("refractive_index", relevant_when=_has_optics),
]
Excitation = Annotated[
    _WavelengthLength | None, load_setting("excitation", relevant_when=_is_confocal)
]
Pinhole = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    load_setting("pinhole", relevant_when=_is_confocal),
]
PSF_INPUT = load_input("psf")
#: Key of the report of a measured PSF in the provenance of its file.
PSF_PROVENANCE_KEY = "napari_dip_psf"
#: Advice where a PSF with depth meets single planes of a Z stack.
_VOLUME_HINT = ", or set 'Stacks' to Automatic, which takes four planes or more as a volume"
#: Radius of a computed PSF in the plane, in Airy radii: holds 96 % of a widefield PSF's light in
#: focus (Born and Wolf 8.5.2) (docs/constants.md).
PSF_LATERAL_RADIUS = 4.0
#: Radius of a computed PSF along Z, in distances to the first minimum.
PSF_AXIAL_RADIUS = 2.0
#: Width at half maximum of the Airy disc in wavelengths / NA (Born and Wolf 8.5.2).
_AIRY_FWHM_FACTOR = 0.514
#: Width of a pixel as a Gaussian of the same variance, sqrt(8 ln 2 / 12).
_PIXEL_FWHM = 0.68
#: Width along the axis in wavelengths / (n - sqrt(n^2 - NA^2)): half maximum of sinc^2.
_AXIAL_FWHM_FACTOR = 0.886
#: Pixel size in Nyquist distances, wavelength / 4 NA, from which on the plan warns: beyond 1.5, a
#: contrast of more than 13 % folds back to coarse detail (OTF of a lens and of the pixel).
_MAX_NYQUIST_RATIO = 1.5
#: Relative difference of pixel sizes without a warning; files round to three digits.
_PIXEL_SIZE_TOLERANCE = 0.02
#: Largest pixel of a microscope in nm: stereo microscopes have 13 um, printers 21 um (1200 dpi).
_MAX_MICROSCOPE_PIXEL = 2e4
#: Labels of the fields in the dock, and their options.
_OPTICS_LABELS = {
    "na": "the numerical aperture (--na)",
    "wavelength": "the wavelength (--wavelength)",
    "pixel_size": "the pixel size (--pixel-size)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PsfSource:
    """State where the PSF comes from: an image of it, a Gaussian, or a microscope.

    Attributes
    ----------
    sigma, sigma_z : float or None
        Standard deviation of a Gaussian along Y and X, and along Z, in pixels.
    optics : OpticsSettings
    """

    sigma: float | None
    sigma_z: float | None
    optics: OpticsSettings

    def refuse_source(self, header: ImageHeader, psf_header: ImageHeader | None) -> Refusal | None:
        """Refuse a PSF that is missing, given twice, incomplete or impossible."""
        sources = {
            "an image of it": psf_header is not None,
            "the width of a Gaussian": self.sigma is not None or self.sigma_z is not None,
            "a microscope": self.optics.microscope != "none",
        }
        named_sources = [label for label, is_given in sources.items() if is_given]
        optics = self.optics
        has_data = (optics.na, optics.wavelength) != (None, None)
        if has_data and optics.microscope == "none" and psf_header is None:
            return make_refusal("optics-missing", missing="a microscope model (--microscope)")
        if not named_sources:
            return make_refusal("psf-missing", name=header.name)
        if len(named_sources) > 1:
            return make_refusal("psf-twice", first=named_sources[0], second=named_sources[1])
        if psf_header is not None:
            return _refuse_psf_image(psf_header) or optics.refuse_aperture()
        if self.sigma_z is not None and self.sigma is None:
            return make_refusal("gaussian-axial")
        return optics.refuse_header(header) if self.sigma is None else None

    def refuse_axes(
        self, image_header: ImageHeader, psf_header: ImageHeader | None, axes: str
    ) -> Refusal | None:
        """Refuse a PSF that does not fit the axes of one fit."""
        is_volume = axes[0] == "Z"
        if psf_header is not None:
            if not is_psf_volume(psf_header) or is_volume:
                return None
            has_depth = "Z" in get_stacked_axes(image_header)
            facts = {"name": psf_header.name, "shape": format_sizes(psf_header.shape)}
            return make_refusal("psf-axes", hint=_VOLUME_HINT if has_depth else "", **facts)
        if self.sigma_z is not None and not is_volume:
            return make_refusal("gaussian-depth", name=image_header.name)
        is_computed = self.sigma is None and is_volume
        if is_computed and None in self.optics.get_pixel_sizes(image_header, "Z"):
            return make_refusal("z-step-missing", name=image_header.name)
        return None

    def list_notes(
        self, image_header: ImageHeader, psf_header: ImageHeader | None, factor: int
    ) -> tuple[Note, ...]:
        """List what headers say about sampling and axes of image and PSF.

        The grid of the result is finer along X by the factor.
        """
        notes = []
        optics = self.optics
        pixel = optics.get_pixel_sizes(image_header, "X")[0]
        if pixel and optics.na and optics.wavelength:
            nyquist = optics.wavelength / (4 * optics.na)
            if pixel / factor > _MAX_NYQUIST_RATIO * nyquist:
                notes.append(make_note("psf-nyquist", pixel=pixel, nyquist=nyquist))
        if psf_header is None:
            return tuple(notes)
        has_depth = is_psf_volume(psf_header)
        psf_axes = "ZYX" if has_depth else "YX"
        ratios = self.compute_resampling(image_header, psf_header, psf_axes)
        for axis, ratio in zip(psf_axes, ratios, strict=True):
            if ratio != 1:
                size = get_pixel_size_nm(psf_header, axis)
                image_size = optics.get_pixel_sizes(image_header, axis)[0]
                notes.append(make_note("psf-pixel-size", axis=axis, psf=size, image=image_size))
        count = image_header.get_size("Z")
        if count > 1 and not has_depth:
            notes.append(make_note("psf-plane", count=count))
        axes = "ZYX" if has_depth and "Z" in image_header.axes else "YX"
        image_sizes = image_header.get_sizes(axes)
        counts = (_count_psf_planes(psf_header), *psf_header.shape[-2:])[-len(axes) :]
        ratios = ratios[-len(axes) :]
        psf_sizes = [ceil(count * ratio) for count, ratio in zip(counts, ratios, strict=True)]
        if any(size > count for size, count in zip(psf_sizes, image_sizes, strict=True)):
            facts = {"psf": format_sizes(psf_sizes), "frame": format_sizes(image_sizes)}
            notes.append(make_note("psf-cropped", name=psf_header.name, **facts))
        if cells := get_psf_cells(psf_header):
            notes.append(make_note("psf-field", rows=cells[0], columns=cells[1]))
        return tuple(notes)

    def compute_resampling(
        self, image_header: ImageHeader, psf_header: ImageHeader | None, axes: str
    ) -> tuple[float, ...]:
        """Return the pixels of the image in each pixel of the PSF along axes, 1 if unknown."""
        ratios = [1.0] * len(axes)
        for index, axis in enumerate(axes):
            size = get_pixel_size_nm(psf_header, axis) if psf_header else None
            image_size = self.optics.get_pixel_sizes(image_header, axis)[0]
            if not size or not image_size or max(size, image_size) > _MAX_MICROSCOPE_PIXEL:
                continue  # unknown, or the resolution of a print
            if not isclose(size, image_size, rel_tol=_PIXEL_SIZE_TOLERANCE):
                ratios[index] = size / image_size
        return tuple(ratios)

    def is_volumetric(self, psf_header: ImageHeader | None) -> bool:
        """Return whether the PSF extends along Z, so that a Z stack is one volume."""
        if psf_header is not None:
            return is_psf_volume(psf_header)
        return self.sigma_z is not None or self.sigma is None

    def compute_psf_sizes(
        self,
        image_header: ImageHeader,
        psf_header: ImageHeader | None,
        axes: str,
        *,
        is_centred: bool = False,
    ) -> tuple[int, ...]:
        """Return the size along each axis of a fit.

        For a PSF image it is an upper bound, unless its spot is taken to be in the middle.
        """
        if axes[0] == "T":
            return (1, *self.compute_psf_sizes(image_header, psf_header, axes[1:]))
        if psf_header is not None:
            shape = psf_header.shape[-2:]
            if axes[0] == "Z":
                shape = (_count_psf_planes(psf_header), *shape)
            ratios = self.compute_resampling(image_header, psf_header, axes)
            shape = tuple(ceil(n * ratio) for n, ratio in zip(shape, ratios, strict=True))
            # centring at most doubles the size; kernels larger than the image are cropped
            return tuple(
                min(n | 1 if is_centred else 2 * n + 1, 2 * (count // 2) + 1) if n > 1 else 1
                for n, count in zip(shape, image_header.get_sizes(axes), strict=True)
            )
        if self.sigma is not None:
            sigmas = self._get_sigmas(axes)
            return tuple(2 * ceil(GAUSSIAN_RADIUS_SIGMAS * sigma) + 1 for sigma in sigmas)
        return self.optics.compute_psf_sizes(image_header, axes)

    def _get_sigmas(self, axes: str) -> tuple[float, ...]:
        """Return the standard deviation of the Gaussian along each axis; 0 along time."""
        lateral = self.sigma or 0.0
        sigmas = {"Z": self.sigma_z or 0.0, "Y": lateral, "X": lateral}
        return tuple(sigmas.get(axis, 0.0) for axis in axes)

    def make_kernel(
        self,
        header: ImageHeader,
        image: AnyArray | None,
        axes: str,
        factors: tuple[int, ...] | None = None,
        psf_header: ImageHeader | None = None,
    ) -> tuple[Tensor, tuple[Note, ...]]:
        """Return the kernel, (*sizes) float32 of sum one, with notes on how it was made.

        Parameters
        ----------
        header : ImageHeader
            Header of the image, after the checks.
        image : ndarray or None
            Image of the PSF, as `inspect_psf_image` returns it.
        axes : str
            Axes of one fit. A PSF of one plane acts within each plane of a volume.
        factors : tuple of int or None
            Fine pixels of the kernel in each pixel of the image, along each axis; None: one. The
            mean of the fine pixels is then what the PSF of the image describes.
        psf_header : ImageHeader or None
            Header of the image of the PSF.
        """
        from napari_dip.engine.deconvolution.psf import resample_psf, sample_gaussian_psf
        from napari_dip.tasks.psf.psf_checks import centre_psf_image

        notes: tuple[Note, ...]
        factors = factors or (1,) * len(axes)
        if image is not None:
            ratios = self.compute_resampling(header, psf_header, "ZYX"[-image.ndim :])
            kernel, notes = centre_psf_image(header, image, ratios)
            kernel = resample_psf(kernel, factors[-kernel.ndim :])
        else:
            sizes = upscale_sizes(self.compute_psf_sizes(header, None, axes), factors)
            if self.sigma is not None:
                sigmas = map(_refine_sigma, self._get_sigmas(axes), factors)
                kernel, notes = sample_gaussian_psf(tuple(sigmas), sizes), ()
            else:
                spatial = axes.removeprefix("T")
                dims = len(spatial)
                kernel, notes = self._compute_kernel(
                    header, spatial, sizes[-dims:], factors[-dims:]
                )
        return (kernel[None] if kernel.ndim < len(axes) else kernel), notes

    def _compute_kernel(
        self, header: ImageHeader, axes: str, sizes: tuple[int, ...], factors: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Note, ...]]:
        from napari_dip.engine.deconvolution.psf import compute_microscope_psf

        optics = self.optics
        pixels = tuple(
            size / factor
            for size, factor in zip(optics.get_pixel_sizes(header, axes), factors, strict=True)
            if size
        )
        assert optics.microscope != "none" and optics.na and optics.wavelength
        kernel = compute_microscope_psf(
            optics.microscope,
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


def upscale_sizes(sizes: tuple[int, ...], factors: tuple[int, ...]) -> tuple[int, ...]:
    """Return the odd sizes of a PSF on a grid that is finer by a factor along each axis."""
    return tuple(factor * (size - 1) + 1 for size, factor in zip(sizes, factors, strict=True))


def _refine_sigma(sigma: float, factor: int) -> float:
    """Return the width in fine pixels of a Gaussian that has this one after binning."""
    binning_variance = (factor**2 - 1) / 12
    return sqrt(max((factor * sigma) ** 2 - binning_variance, 0.0))


def refuse_size(header: ImageHeader, sizes: tuple[int, ...], axes: str) -> Refusal | None:
    """Refuse a PSF larger than the image.

    The pixel that makes an even size odd is tolerated.
    """
    image_sizes = header.get_sizes(axes)
    if all(2 * (size // 2) <= count for size, count in zip(sizes, image_sizes, strict=True)):
        return None
    facts = {"psf": format_sizes(sizes), "frame": format_sizes(image_sizes)}
    return make_refusal("psf-large", name=header.name, **facts)


def get_fit_axes(header: ImageHeader, dims: int) -> str:
    """Return the axes of a fit with `dims` dimensions; Z takes precedence over T."""
    if dims == 2:
        return "YX"
    return "ZYX" if "Z" in get_stacked_axes(header) else "TYX"


def get_psf_cells(psf_header: ImageHeader) -> tuple[int, int] | None:
    """Return rows and columns of PSFs that change over the field; None for a single PSF.

    They are the axes T and Z of planes, and T and C of stacks.
    """
    if len(psf_header.axes) != len(psf_header.shape):  # more axes than there are letters
        return None
    leading = zip(psf_header.axes[:-2], psf_header.shape[:-2], strict=True)
    axes = "".join(axis for axis, count in leading if count > 1)
    if psf_header.axes[-2:] != "YX" or axes not in ("TZ", "TCZ"):
        return None
    rows, columns = psf_header.get_sizes(axes[:2])
    return rows, columns


def refuse_field_size(header: ImageHeader, psf_header: ImageHeader) -> Refusal | None:
    """Refuse PSFs of the field of another image, where their file states its size."""
    from napari_dip.io.outputs import IMAGE_SUFFIXES
    from napari_dip.io.reading import read_provenance

    path = psf_header.path or ""
    if get_psf_cells(psf_header) is None or not path.endswith(IMAGE_SUFFIXES):
        return None
    provenance = read_provenance(path, PSF_PROVENANCE_KEY) or {}
    field_size = provenance.get(PSF_PROVENANCE_KEY, {}).get("field_size") or header.grid
    if tuple(field_size) == header.grid:
        return None
    facts = {"field": format_sizes(field_size), "frame": format_sizes(header.grid)}
    return make_refusal("psf-field-size", psf=psf_header.name, name=header.name, **facts)


def is_psf_volume(psf_header: ImageHeader) -> bool:
    """Return whether the image of a PSF, or of each PSF of a field, has several planes."""
    return _count_psf_planes(psf_header) > 1


def _count_psf_planes(psf_header: ImageHeader) -> int:
    if get_psf_cells(psf_header):
        return psf_header.shape[-3] if "C" in psf_header.axes else 1
    return next((count for count in psf_header.shape[:-2] if count > 1), 1)


def _refuse_psf_image(psf_header: ImageHeader) -> Refusal | None:
    """Refuse anything but a plane or a Z stack without colours or channels, or a field of them."""
    if get_psf_cells(psf_header):
        return None
    stack_sizes = [count for count in psf_header.shape[:-2] if count > 1]
    has_channels = any(psf_header.get_size(axis) > 1 for axis in "CS")
    if len(psf_header.shape) < 2 or len(stack_sizes) > 1 or has_channels:
        shape = format_sizes(psf_header.shape)
        return make_refusal("psf-axes", name=psf_header.name, shape=shape, hint="")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticsSettings:
    """Parameters of a microscope; None where the user stated nothing.

    Attributes
    ----------
    microscope : str
        "none", "widefield" or "confocal".
    na : float or None
        Numerical aperture.
    wavelength, excitation, pixel_size, z_step : float or None
        In nanometres; wavelengths of emission and excitation.
    refractive_index : float
    pinhole : float
        Diameter in Airy units.
    """

    microscope: Literal["none", "widefield", "confocal"]
    na: float | None
    wavelength: float | None
    pixel_size: float | None
    z_step: float | None
    refractive_index: float
    excitation: float | None
    pinhole: float

    def refuse_header(self, header: ImageHeader) -> Refusal | None:
        """Refuse a microscope that is incomplete or physically impossible."""
        pixels = self.get_pixel_sizes(header, "YX")
        entries = {
            "na": self.na,
            "wavelength": self.wavelength,
            "pixel_size": None if None in pixels else pixels,
        }
        missing = [_OPTICS_LABELS[field] for field, value in entries.items() if value is None]
        if missing:
            missing = [", ".join(missing[:-1]), missing[-1]] if missing[:-1] else missing
            return make_refusal("optics-missing", missing=" and ".join(missing))
        return self.refuse_aperture()

    def refuse_aperture(self) -> Refusal | None:
        """Refuse an aperture that the medium does not allow."""
        if self.na is not None and self.na >= self.refractive_index:
            return make_refusal("optics-impossible", na=self.na, index=self.refractive_index)
        return None

    def compute_fwhm(self, header: ImageHeader) -> dict[str, float]:
        """Return the widths of a widefield PSF in pixels, by axis, where all data are known."""
        if self.na is None or self.wavelength is None:
            return {}
        widths = dict.fromkeys("YX", _AIRY_FWHM_FACTOR * self.wavelength / self.na)
        # the index stays that of oil where the user, whose lens is a dry one, filled in none
        if "Z" in header.axes and (self.na > 1 or self.refractive_index != OIL_REFRACTIVE_INDEX):
            path = self.refractive_index - sqrt(self.refractive_index**2 - self.na**2)
            widths["Z"] = _AXIAL_FWHM_FACTOR * self.wavelength / path
        sizes = {axis: self.get_pixel_sizes(header, axis)[0] for axis in widths}
        return {
            axis: sqrt((width / size) ** 2 + (_PIXEL_FWHM**2 if axis != "Z" else 0))
            for axis, width in widths.items()
            if (size := sizes[axis])
        }

    def get_pixel_sizes(self, header: ImageHeader, axes: str) -> tuple[float | None, ...]:
        """Return the pixel size along each axis in nm: the user's, else that of the file."""
        user_sizes = {"Z": self.z_step, "Y": self.pixel_size, "X": self.pixel_size}
        return tuple(user_sizes[axis] or get_pixel_size_nm(header, axis) for axis in axes)

    def compute_psf_sizes(self, header: ImageHeader, axes: str) -> tuple[int, ...]:
        """Return the size of the PSF along each axis, in pixels; requires a passed `check`.

        The sizes are odd. Along Z the PSF is at most as deep as the Z stack. Laterally, a widefield
        PSF contains the cone of light over that depth, limited to the field.
        """
        assert self.na and self.wavelength
        radii: dict[str, int] = {}
        pixel_sizes = dict(zip(axes, self.get_pixel_sizes(header, axes), strict=True))
        max_radii = {
            axis: count // 2 for axis, count in zip(axes, header.get_sizes(axes), strict=True)
        }
        lateral, cone = PSF_LATERAL_RADIUS * AIRY_RADIUS_FACTOR * self.wavelength / self.na, 0.0
        if "Z" in axes:
            assert pixel_sizes["Z"]
            cosine = sqrt(self.refractive_index**2 - self.na**2)
            # at the first minimum along Z, the path at the pupil's rim differs by one wavelength
            axial = PSF_AXIAL_RADIUS * self.wavelength / (self.refractive_index - cosine)
            radii["Z"] = min(ceil(axial / pixel_sizes["Z"]), max_radii["Z"])
            if self.microscope == "widefield":
                cone = radii["Z"] * pixel_sizes["Z"] * self.na / cosine
        for axis in "YX":
            pixel = pixel_sizes[axis]
            assert pixel
            radii[axis] = max(ceil(lateral / pixel), min(ceil(cone / pixel), max_radii[axis]))
        return tuple(2 * radii[axis] + 1 for axis in axes)


def get_pixel_size_nm(header: ImageHeader, axis: str) -> float | None:
    """Return the pixel size that the file states; None if it states none."""
    from napari_dip.io.header import get_unit_meters

    if header.scale is None or header.units is None or axis not in header.axes:
        return None
    index = header.axes.index(axis)
    unit = get_unit_meters(header.units[index])
    if unit is None or not header.scale[index] > 0:
        return None
    return header.scale[index] * unit * 1e9
