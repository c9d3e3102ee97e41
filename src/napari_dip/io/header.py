"""Image headers: what an image is, known without reading its pixels.

What the OME-XML of a TIFF says: sizes, files, channels and planes; read, and written again.

The schema is at https://www.openmicroscopy.org/Schemas/OME/2016-06.

Names of length and time units, as files write them and as they are named here.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field, replace
from itertools import product
from math import isfinite, prod
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_dip.errors.notes import Note

#: Planes of an image at most. Movies of 20,000 frames are in use; 50,000 of 256 × 256 pixels take
#: two cores several days, and the header of a TIFF that holds as many is read in 2 s.
MAX_IMAGE_PLANES = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTags:
    """What a result takes over from the header of its input, beside axes and sizes.

    Attributes
    ----------
    is_white_zero : bool
        Whether viewers are to show 0 as white.
    orientation : int
        How viewers are to turn the image, as TIFF and EXIF number it; 1 is upright.
    ome : OmeMetadata or None
        Channels, positions, times and the like of an OME-TIFF.
    origin : tuple of float or None
        Where the middle of the first pixel of an OME-Zarr lies along each axis, in its units.
    """

    is_white_zero: bool = False
    orientation: int = 1
    ome: OmeMetadata | None = None
    origin: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """The header of an image: all that preflight may know.

    Attributes
    ----------
    name : str
        As the user knows it: file name or layer name.
    shape : tuple of int
        In file order.
    dtype : str
        NumPy's name for the type, such as "uint16".
    axes : str
        One letter for each axis, in file order, out of T, C, Z, Y, X and S
        (S = colour samples red, green, blue), as TIFF names them.
    path : str or None
        Where the file lies; None for a layer or an array.
    scale : tuple of float or None
        Size of a pixel along each axis, in `units`.
    units : tuple of str or None
        Unit of each axis, such as "micrometer"; "pixel" where the file says none.
    guessed : bool
        Whether the axes were not named by anybody, but guessed from their number.
    notes : tuple of Note
        About what reading leaves out, such as an alpha channel.
    tags : SourceTags
    stamp : str
        What `napari_dip.io.integrity.make_file_stamp` said of the file before its pixels were read;
        "" if
        nobody asked.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    path: str | None = None
    scale: tuple[float, ...] | None = None
    units: tuple[str, ...] | None = None
    notes: tuple[Note, ...] = ()
    guessed: bool = False
    tags: SourceTags = SourceTags()
    stamp: str = field(default="", compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the picture plane, in pixels."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    def along(self, axes: str) -> tuple[int, ...]:
        """Size along each of these axes, in pixels."""
        return tuple(self.shape[self.axes.index(axis)] for axis in axes)

    @property
    def pixels(self) -> int:
        """Number of values, colour samples and channels counted apart."""
        return prod(self.shape)


def make_orientation_note(name: str, number: int) -> list[Note]:
    """Say that an image is stored turned, where it is."""
    return [make_note("orientation", name=name, number=number)] if number != 1 else []


def make_plane_spec(source: ImageSpec, shape: tuple[int, ...]) -> ImageSpec:
    """Describe another picture with pixels of the same size: a plane, or one for each channel.

    Parameters
    ----------
    source : ImageSpec
    shape : tuple of int
        (Y, X) or (C, Y, X).
    """
    places = [source.axes.index(axis) for axis in "YX"]
    apart = len(shape) - len(places)
    scale = source.scale and (*[1.0] * apart, *(source.scale[place] for place in places))
    units = source.units and (*["pixel"] * apart, *(source.units[place] for place in places))
    axes = "CYX"[-len(shape) :]
    return ImageSpec(
        name=source.name, shape=shape, dtype="float32", axes=axes, scale=scale, units=units
    )


def match_axes(source: ImageSpec, shape: tuple[int, ...]) -> str:
    """Name the axes of an image that a further picture of that shape has, pixel on pixel.

    Parameters
    ----------
    source : ImageSpec
    shape : tuple of int
        Axes of one element do not count.

    Returns
    -------
    str
        All of them, all but channels, or those of the picture plane alone; "" if none fits.
        Never colour samples, which share their pixels.
    """
    without = "".join(axis for axis in source.axes if axis not in "CS")
    plane = "".join(axis for axis in source.axes if axis in "YX")
    sizes = [count for count in shape if count > 1]
    for axes in (without if "S" in source.axes else source.axes, without, plane):
        if [count for count in source.along(axes) if count > 1] == sizes:
            return axes
    return ""


def guess_axes(shape: tuple[int, ...], *, rgb: bool = False) -> str:
    """Name the axes of an array that comes without names.

    Parameters
    ----------
    shape : tuple of int
    rgb : bool
        Whether the last axis holds red, green and blue; never guessed from the shape.

    Returns
    -------
    str
        One letter for each axis; more than five axes get letters for the last five only,
        so that preflight sees and says that they do not fit.
    """
    if rgb:
        return guess_axes(shape[:-1]) + "S"
    full = {0: "", 1: "X", 2: "YX", 3: "ZYX", 4: "TZYX"}
    return full.get(len(shape), "TCZYX")


#: What files write -> name used here, which is also what napari understands.
_UNIT_ALIASES = {
    "µm": "micrometer",
    "μm": "micrometer",  # the Greek letter, which looks the same
    "um": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "micrometre": "micrometer",
    "nm": "nanometer",
    "nanometre": "nanometer",
    "å": "angstrom",
    "pm": "picometer",
    "mm": "millimeter",
    "millimetre": "millimeter",
    "cm": "centimeter",
    "centimetre": "centimeter",
    "m": "meter",
    "metre": "meter",
    "in": "inch",
    "inches": "inch",
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "min": "minute",
    "h": "hour",
    "pixels": "pixel",
    "": "pixel",
}
#: Metres in one unit of length.
_METERS = {
    "picometer": 1e-12,
    "angstrom": 1e-10,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "inch": 0.0254,
    "meter": 1.0,
}
_SYMBOLS = {
    "picometer": "pm",
    "angstrom": "Å",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "inch": "in",
    "meter": "m",
    "second": "s",
    "millisecond": "ms",
    "minute": "min",
    "hour": "h",
    "pixel": "pixel",
}
#: How ImageJ writes a letter that is not of ASCII.
_ESCAPE_PATTERN = re.compile(r"\\u([0-9A-Fa-f]{4})")


def normalise_unit(written: str) -> str:
    """Name a unit in one way, whichever way a file writes it; unknown ones stay as they are."""
    text = _ESCAPE_PATTERN.sub(_unescape_letter, written).strip()
    return _UNIT_ALIASES.get(text, _UNIT_ALIASES.get(text.lower(), text))


def _unescape_letter(escaped: re.Match[str]) -> str:
    letter = chr(int(escaped[1], 16))
    return letter if letter.isprintable() else escaped[0]


def escape_unit(name: str) -> str:
    """Write a unit as ImageJ does: in ASCII, other letters by their four digits."""
    letters = (item for item in name if item <= "\uffff")  # ImageJ, too, leaves out what is beyond
    return "".join(
        letter
        if letter.isprintable() and letter.isascii() and letter != "\\"
        else f"\\u{ord(letter):04x}"
        for letter in letters
    )


def get_unit_symbol(name: str) -> str | None:
    """Abbreviate a unit as OME-XML wants it; None for a unit it does not know."""
    return _SYMBOLS.get(name)


def get_unit_meters(name: str) -> float | None:
    """Metres in one unit; None where the unit is no length."""
    return _METERS.get(name)


#: Names and values as the file writes them, so that no digit of a number changes.
Attributes = tuple[tuple[str, str], ...]
#: What tifffile writes of a channel and of a plane.
_CHANNEL_ATTRIBUTES = frozenset(
    "Name AcquisitionMode Color ContrastMethod EmissionWavelength EmissionWavelengthUnit "
    "ExcitationWavelength ExcitationWavelengthUnit Fluor IlluminationType NDFilter PinholeSize "
    "PinholeSizeUnit PockelCellSetting".split()
)
_PLANE_ATTRIBUTES = frozenset(
    "DeltaT DeltaTUnit ExposureTime ExposureTimeUnit PositionX PositionXUnit PositionY "
    "PositionYUnit PositionZ PositionZUnit".split()
)
#: What the schema lets an objective say that tells how the image was formed.
_OBJECTIVE_ATTRIBUTES = frozenset(
    "Manufacturer Model Correction Immersion LensNA NominalMagnification CalibratedMagnification "
    "WorkingDistance WorkingDistanceUnit".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OmePlane:
    """Where and when a plane was taken.

    Attributes
    ----------
    channel, depth, frame : int
        Its place along C, Z and T.
    attributes : tuple of (str, str)
    """

    channel: int
    depth: int
    frame: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class OmeMetadata:
    """What an OME-TIFF says of an image beside its axes and pixel sizes.

    Attributes
    ----------
    name, description, acquired : str or None
    channels : tuple of tuple of (str, str)
        Names, wavelengths, colours and the like, channel by channel.
    planes : tuple of OmePlane
    counts : tuple of int
        Channels, planes along Z and frames of the image that they belong to.
    objective : tuple of (str, str)
    """

    name: str | None = None
    description: str | None = None
    acquired: str | None = None
    channels: tuple[Attributes, ...] = ()
    planes: tuple[OmePlane, ...] = ()
    counts: tuple[int, int, int] = (1, 1, 1)
    objective: Attributes = ()

    def without_places(self) -> OmeMetadata:
        """Leave out what belongs to single channels and planes, since they are taken for others."""
        return replace(self, channels=(), planes=())

    def options(self, axes: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Write it as tifffile wants it for a result.

        Parameters
        ----------
        axes : str
            Of the result, colours or channels of one pixel last.
        shape : tuple of int
            Where it has so many times more planes along Z, what is said of one holds for those
            that it was divided into, but for its position in Z.
        """
        named = {"Name": self.name, "Description": self.description}
        dated = {**named, "AcquisitionDate": self.acquired}
        result: dict[str, Any] = {key: value for key, value in dated.items() if value}
        sizes = dict(zip(axes, shape, strict=True))
        channels = 1 if axes.endswith("YXC") else sizes.get("C", 1)
        if any(self.channels) and len(self.channels) == channels:
            result["Channel"] = [dict(channel) for channel in self.channels]
        planes = self._planes(axes, sizes, channels)
        if any(planes):
            result["Plane"] = planes
        return result

    def _planes(self, axes: str, sizes: Mapping[str, int], channels: int) -> list[dict[str, str]]:
        finer, rest = divmod(sizes.get("Z", 1), self.counts[1])
        if rest or self.counts != (channels, self.counts[1], sizes.get("T", 1)):
            return []
        values = {
            (plane.channel, plane.depth, plane.frame): plane.attributes for plane in self.planes
        }
        outer = [axis for axis in axes if axis in "CZT" and not axes.endswith("YX" + axis)]
        listed = []
        for place in product(*(range(sizes[axis]) for axis in outer)):
            at = dict(zip(outer, place, strict=True))
            which = at.get("C", 0), at.get("Z", 0) // finer, at.get("T", 0)
            facts = values.get(which, ())
            listed.append(
                {key: value for key, value in facts if finer == 1 or key[:9] != "PositionZ"}
            )
        return listed


def read_ome(xml: str) -> OmeMetadata:
    """Read what is said of the first image."""
    root = ElementTree.fromstring(xml)
    image = _find_first_child(root, "Image")
    pixels = _find_first_child(image, "Pixels")
    counts = tuple(int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
    channels = tuple(
        _select_attributes(child, _CHANNEL_ATTRIBUTES)
        for child in _find_children(pixels, "Channel")
    )
    planes = []
    for entry in _find_children(pixels, "Plane"):
        if attributes := _select_attributes(entry, _PLANE_ATTRIBUTES):
            channel, depth, frame = (int(entry.get(f"The{axis}", "0")) for axis in "CZT")
            planes.append(
                OmePlane(channel=channel, depth=depth, frame=frame, attributes=attributes)
            )
    samples = int(_find_first_child(pixels, "Channel").get("SamplesPerPixel", "1"))
    used = _find_first_child(image, "ObjectiveSettings").get("ID")
    lenses = [
        item
        for item in root.iter()
        if _get_local_tag(item) == "Objective" and item.get("ID") == used
    ]
    return OmeMetadata(
        name=image.get("Name"),
        description=_find_first_child(image, "Description").text,
        acquired=_find_first_child(image, "AcquisitionDate").text,
        channels=channels,
        planes=tuple(planes),
        counts=(counts[0] // max(1, samples), counts[1], counts[2]),
        objective=_select_attributes(lenses[0], _OBJECTIVE_ATTRIBUTES) if lenses else (),
    )


def list_ome_pixels(xml: str) -> list[dict[str, Any]]:
    """Return the entries about pixels, one for each image that the OME-XML tells of."""
    from tifffile import xml2dict

    images = xml2dict(xml).get("OME", {}).get("Image", {})
    return [image.get("Pixels", {}) for image in (images if isinstance(images, list) else [images])]


def list_ome_files(xml: str) -> set[str]:
    """Name the files that hold planes of an image, as its OME-XML tells; it need not be sound."""
    coded = re.findall(r"""FileName\s*=\s*(?:"([^"]*)"|'([^']*)')""", xml)
    return {html.unescape(item or other) for item, other in coded} - {""}


def count_ome_planes(xml: str) -> int:
    """Count the planes of all images that it speaks of."""
    sizes = ([entry.get(f"Size{axis}", 1) for axis in "ZCT"] for entry in list_ome_pixels(xml))
    return sum(prod(size for size in image if isinstance(size, int)) for image in sizes)


def check_sizes(xml: str, path: Path) -> None:
    """Make sure that each image has the axes of the schema, each with a size.

    Raises
    ------
    Refused
        With the axis that is wrong or missing.
    """
    for pixels in filter(None, list_ome_pixels(xml)):
        order = str(pixels.get("DimensionOrder", ""))
        why = ""
        if sorted(order) != sorted("XYZCT"):
            why = f"its header calls the axes '{order}', where X, Y, Z, C and T are known"
        for axis in "XYZCT" if not why else "":
            size = pixels.get(f"Size{axis}")
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                stated = "nothing" if size is None else f"'{size}'"
                why = f"its header says {stated} where the size along {axis} should be"
                break
        if why:
            facts = {"path": make_printable(str(path)), "why": make_printable(why)}
            raise Refused(refusal("file-broken", **facts))


def read_ome_pixel_sizes(xml: str) -> dict[str, tuple[float, str]]:
    """Size and unit of a pixel along each axis that the first image has one for."""
    pixels = list_ome_pixels(xml)[0]
    sizes = {}
    for axis in "XYZ":
        if is_positive(pixels.get(f"PhysicalSize{axis}")):
            unit = str(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            sizes[axis] = (float(pixels[f"PhysicalSize{axis}"]), normalise_unit(unit))
    if is_positive(pixels.get("TimeIncrement")):
        unit = str(pixels.get("TimeIncrementUnit", "s"))
        sizes["T"] = (float(pixels["TimeIncrement"]), normalise_unit(unit))
    return sizes


def is_positive(value: object) -> bool:
    """Whether something read from a file is a size."""
    return isinstance(value, int | float) and isfinite(value) and value > 0


def _get_local_tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _find_children(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [item for item in element if _get_local_tag(item) == tag]


def _find_first_child(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    """Give the first child of that name, or one that says nothing."""
    return next(iter(_find_children(element, tag)), ElementTree.Element(tag))


def _select_attributes(element: ElementTree.Element, names: frozenset[str]) -> Attributes:
    return tuple((key, value) for key, value in element.attrib.items() if key in names)
