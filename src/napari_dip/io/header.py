"""Describe an image by its header: shape, axes, pixel size, units and OME metadata.

The module also parses OME-XML and converts the names of units. The schema of OME-XML is at
https://www.openmicroscopy.org/Schemas/OME/2016-06.
"""

from __future__ import annotations

import html
import re
import tomllib
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from napari_dip.errors.notes import Note

    #: Headers of images by the name of the input.
    Headers = Mapping[str, "ImageHeader"]

#: Number of the tag for the orientation, in TIFF and EXIF.
ORIENTATION_TAG = 274
#: Number of samples of a colour image that are restored: red, green and blue, but not alpha.
COLOUR_COUNT = 3
#: Maximum number of planes of an image. Movies of 20,000 frames are in use. 50,000 planes of
#: 256 × 256 pixels take two cores several days; the header of such a TIFF is read in 2 s.
MAX_IMAGE_PLANES = 50_000
#: Size of a pixel along an axis for which a file states none.
UNKNOWN_SIZE = (1.0, "pixel")
_UNITS = tomllib.loads(Path(__file__).with_name("units.toml").read_text("utf-8"))
_UNIT_ALIASES = {
    spelling: name
    for name, unit in _UNITS.items()
    for spelling in (unit["symbol"], *unit.get("spellings", ()))
    if spelling != name
}
#: Escape sequence of a non-ASCII letter in ImageJ's metadata.
_ESCAPE_PATTERN = re.compile(r"\\u([0-9A-Fa-f]{4})")
#: All characters but those of ASCII that are printed and begin no escape sequence.
_UNSAFE_PATTERN = re.compile(r"[^ -\[\]-~]")
#: Attributes of a channel and of a plane that tifffile can write.
_CHANNEL_ATTRIBUTES = frozenset(
    "Name AcquisitionMode Color ContrastMethod EmissionWavelength EmissionWavelengthUnit "
    "ExcitationWavelength ExcitationWavelengthUnit Fluor IlluminationType NDFilter PinholeSize "
    "PinholeSizeUnit PockelCellSetting".split()
)
_PLANE_ATTRIBUTES = frozenset(
    "DeltaT DeltaTUnit ExposureTime ExposureTimeUnit PositionX PositionXUnit PositionY "
    "PositionYUnit PositionZ PositionZUnit".split()
)
#: Maximum number of channels that ImageJ displays on top of each other.
_MAX_COMPOSITE_CHANNELS = 7
#: Maximum deviation of a lookup table from a straight ramp to its colour: rounding, twice.
_MAX_RAMP_DEVIATION = 2.0
#: Attributes of an objective in the OME schema that describe the image formation.
_OBJECTIVE_ATTRIBUTES = frozenset(
    "Manufacturer Model Correction Immersion LensNA NominalMagnification CalibratedMagnification "
    "WorkingDistance WorkingDistanceUnit".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTags:
    """Header entries other than axes and pixel sizes that a result copies from its input.

    Attributes
    ----------
    is_white_zero : bool
        Whether viewers should display 0 as white.
    orientation : int
        How viewers should rotate the image, as TIFF and EXIF number it; 1 is upright.
    ome : OmeMetadata or None
        Channels, stage positions, times and other metadata of an OME-TIFF.
    origin : tuple of float or None
        Centre of the first pixel of an OME-Zarr along each axis, in the units of the axis.
    contrast_limits : tuple of (float, float)
        Values of each channel, or of all, that viewers should display as black and as the full
        colour; empty if unknown.
    made_by : str
        Key of the task whose result the image is, by the recipe saved with it; "" for none.
    """

    is_white_zero: bool = False
    orientation: int = 1
    ome: OmeMetadata | None = None
    origin: tuple[float, ...] | None = None
    contrast_limits: tuple[tuple[float, float], ...] = ()
    made_by: str = ""

    def make_imagej_options(self, axes: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return names, colours and contrast limits of a result's channels as options for tifffile.

        Parameters
        ----------
        axes : str
            Axes of the result, C behind T and Z.
        shape : tuple of int
        """
        sizes = dict(zip(axes, shape, strict=True))
        channels = [] if self.ome is None else [dict(channel) for channel in self.ome.channels]
        if sizes.get("C") != len(channels):  # an image without C takes no colour table
            return {}
        options: dict[str, Any] = {}
        if any("Name" in channel for channel in channels):
            names = [channel.get("Name", "") for channel in channels]
            options["Labels"] = names * (sizes.get("T", 1) * sizes.get("Z", 1))
        if any("Color" in channel for channel in channels):
            options["LUTs"] = [_make_colour_table(channel.get("Color")) for channel in channels]
            is_composite = len(channels) <= _MAX_COMPOSITE_CHANNELS
            options["mode"] = "composite" if is_composite else "color"
        if len(self.contrast_limits) == len(channels):
            options["Ranges"] = sum(self.contrast_limits, ())
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """The header of an image: all that preflight uses.

    Attributes
    ----------
    name : str
        File name or layer name.
    shape : tuple of int
        Size of each axis, in file order.
    dtype : str
        NumPy's name for the type, such as "uint16".
    axes : str
        One letter for each axis, in file order, out of T, C, Z, Y, X and S
        (S = colour samples red, green, blue), as TIFF names them.
    path : str or None
        Path of the file; None for a layer or an array.
    scale : tuple of float or None
        Size of a pixel along each axis, in `units`.
    units : tuple of str or None
        Unit of each axis, such as "micrometer"; "pixel" where the file states none.
    notes : tuple of Note
        What reading ignores, such as an alpha channel.
    has_guessed_axes : bool
        Whether the axes were guessed from their number, because neither file nor user named them.
    tags : SourceTags
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    path: str | None = None
    scale: tuple[float, ...] | None = None
    units: tuple[str, ...] | None = None
    notes: tuple[Note, ...] = ()
    has_guessed_axes: bool = False
    tags: SourceTags = SourceTags()

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of one plane, in pixels."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    def get_sizes(self, axes: str) -> tuple[int, ...]:
        """Return the size along each of these axes, in pixels."""
        return tuple(self.shape[self.axes.index(axis)] for axis in axes)

    def get_size(self, axis: str) -> int:
        """Return the size along one axis, in pixels; 1 if the image does not have it."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def drop_colours(self) -> ImageHeader:
        """Return the header of one of the colour samples."""
        index = self.axes.index("S")
        names = ("shape", "axes", "scale", "units")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        kept = {name: v and v[:index] + v[index + 1 :] for name, v in fields.items()}
        return replace(self, **kept)

    @property
    def pixel_count(self) -> int:
        """Number of values; each channel and colour sample counts separately."""
        return prod(self.shape)

    @property
    def axes_notes(self) -> tuple[Note, ...]:
        """A note on the assumed axes of a stack that does not name them; else empty."""
        if not self.has_guessed_axes or self.axes in ("YX", "YXS"):
            return ()
        return (make_note("axes-guessed", name=self.name, axes=self.axes),)


def make_orientation_note(name: str, number: int) -> list[Note]:
    """Return a note if an image is stored rotated (`number` is not 1), else no notes."""
    if number == 1:
        return []
    return [make_note("orientation", name=name, number=number, restored=True)]


def make_plane_header(
    header: ImageHeader, shape: tuple[int, ...], grid_axes: str = "YX"
) -> ImageHeader:
    """Return the header of a float32 plane or volume with the pixel size of another image.

    Parameters
    ----------
    header : ImageHeader
        Image whose pixel size along these axes applies.
    shape : tuple of int
        (*grid), or (C, *grid) for one plane or volume per channel.
    grid_axes : str
        "YX" or "ZYX".
    """
    axes = ("C" + grid_axes)[-len(shape) :]
    extra_axes = len(shape) - len(grid_axes)
    indices = [header.axes.index(axis) for axis in grid_axes]
    scale = header.scale and (*[1.0] * extra_axes, *(header.scale[index] for index in indices))
    units = header.units and (*["pixel"] * extra_axes, *(header.units[index] for index in indices))
    return ImageHeader(
        name=header.name, shape=shape, dtype="float32", axes=axes, scale=scale, units=units
    )


def split_pixel_sizes(
    axes: str, sizes: Mapping[str, tuple[float, str]]
) -> tuple[tuple[float, ...] | None, tuple[str, ...] | None]:
    """Return scale and units of an `ImageHeader`; None if no axis has a size."""
    if not sizes:
        return None, None
    pairs = [sizes.get(axis, UNKNOWN_SIZE) for axis in axes]
    return tuple(size for size, _ in pairs), tuple(unit for _, unit in pairs)


def match_axes(header: ImageHeader, shape: tuple[int, ...]) -> str:
    """Match the shape of an extra input, such as a mask or guide, to the axes of the image.

    Parameters
    ----------
    header : ImageHeader
    shape : tuple of int
        Shape of the extra input. Axes of size 1 are ignored.

    Returns
    -------
    str
        All axes of the image, all but channels, or only Y and X; "" if none fits. Never the colour
        samples, which belong to one pixel.
    """
    without_channels = "".join(axis for axis in header.axes if axis not in "CS")
    plane = "".join(axis for axis in header.axes if axis in "YX")
    sizes = [count for count in shape if count > 1]
    for axes in (without_channels if "S" in header.axes else header.axes, without_channels, plane):
        if [count for count in header.get_sizes(axes) if count > 1] == sizes:
            return axes
    return ""


def guess_axes(shape: tuple[int, ...], *, rgb: bool = False) -> str:
    """Guess the axes of an array from its number of axes.

    Parameters
    ----------
    shape : tuple of int
    rgb : bool
        Whether the last axis holds red, green and blue. It is never guessed from the shape.

    Returns
    -------
    str
        One letter for each axis. More than five axes get letters for the last five only, so that
        preflight refuses the array.
    """
    if rgb:
        return guess_axes(shape[:-1]) + "S"
    axes_by_count = {0: "", 1: "X", 2: "YX", 3: "ZYX", 4: "TZYX"}
    return axes_by_count.get(len(shape), "TCZYX")


def normalise_unit(spelling: str) -> str:
    """Convert a file's spelling of a unit to this package's name; keep unknown units unchanged."""
    unit = _ESCAPE_PATTERN.sub(_unescape_character, spelling).strip()
    return _UNIT_ALIASES.get(unit, _UNIT_ALIASES.get(unit.lower(), unit))


def _unescape_character(escaped: re.Match[str]) -> str:
    character = chr(int(escaped[1], 16))
    return character if character.isprintable() else escaped[0]


def escape_unit(name: str) -> str:
    """Write a unit in ASCII as ImageJ does, with other letters as four hexadecimal digits."""
    # ImageJ, too, drops higher code points
    text = "".join(character for character in name if character <= "\uffff")
    return _UNSAFE_PATTERN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def get_unit_symbol(name: str) -> str | None:
    """Return the OME-XML symbol of a unit; None for an unknown unit."""
    symbol: str | None = _UNITS.get(name, {}).get("symbol")
    return symbol


def get_unit_meters(name: str) -> float | None:
    """Return the metres per unit; None where the unit is no length."""
    meters: float | None = _UNITS.get(name, {}).get("meters")
    return meters


def convert_size(size: float, unit: str, target: str) -> float:
    """Convert a size to another unit of length or of time; keep it if either unit is unknown."""
    for kind in ("meters", "seconds"):
        lengths = [_UNITS.get(name, {}).get(kind) for name in (unit, target)]
        if all(lengths) and unit != target:
            return float(f"{size * lengths[0] / lengths[1]:.9g}")
    return size


#: XML attributes as strings, as the file writes them, so that no digit of a number changes.
Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OmeMetadata:
    """Metadata of an OME-TIFF other than axes and pixel sizes.

    Attributes
    ----------
    name, description, acquisition_date : str or None
    channels : tuple of tuple of (str, str)
        Name, wavelengths, colour and other attributes of each channel.
    planes : tuple of ((int, int, int), tuple of (str, str))
        Position and time of each plane, by its channel, Z plane and frame.
    counts : tuple of int
        Number of channels, Z planes and frames of the image.
    objective : tuple of (str, str)
        Attributes of the objective.
    """

    name: str | None = None
    description: str | None = None
    acquisition_date: str | None = None
    channels: tuple[Attributes, ...] = ()
    planes: tuple[tuple[tuple[int, ...], Attributes], ...] = ()
    counts: tuple[int, int, int] = (1, 1, 1)
    objective: Attributes = ()

    def drop_plane_metadata(self) -> OmeMetadata:
        """Return a copy without channel and plane metadata, which no longer fit the axes."""
        return replace(self, channels=(), planes=())

    def make_tifffile_options(self, axes: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the metadata of a result as options for tifffile.

        Parameters
        ----------
        axes : str
            Axes of the result.
        shape : tuple of int
            Shape of the result. If it has n times as many Z planes as the input, n planes share the
            attributes of one input plane, except its Z position.
        """
        texts = {"Name": self.name, "Description": self.description}
        texts["AcquisitionDate"] = self.acquisition_date
        options: dict[str, Any] = {key: value for key, value in texts.items() if value}
        sizes = dict(zip(axes, shape, strict=True))
        channel_count = 1 if axes.endswith("YXC") else sizes.get("C", 1)
        if any(self.channels) and len(self.channels) == channel_count:
            options["Channel"] = [dict(channel) for channel in self.channels]
        planes = self._list_plane_attributes(axes, sizes, channel_count)
        if any(planes):
            options["Plane"] = planes
        return options

    def _list_plane_attributes(
        self, axes: str, sizes: Mapping[str, int], channel_count: int
    ) -> list[dict[str, str]]:
        planes_per_input, remainder = divmod(sizes.get("Z", 1), self.counts[1])
        if remainder or self.counts != (channel_count, self.counts[1], sizes.get("T", 1)):
            return []
        attributes_by_plane = dict(self.planes)
        outer_axes = [axis for axis in axes if axis in "CZT" and not axes.endswith("YX" + axis)]
        plane_attributes = []
        for plane_index in product(*(range(sizes[axis]) for axis in outer_axes)):
            indices = dict(zip(outer_axes, plane_index, strict=True))
            depth = indices.get("Z", 0) // planes_per_input
            attributes = dict(
                attributes_by_plane.get((indices.get("C", 0), depth, indices.get("T", 0)), ())
            )
            if planes_per_input > 1:
                for key in ("PositionZ", "PositionZUnit"):
                    attributes.pop(key, None)
            plane_attributes.append(attributes)
        return plane_attributes


def parse_ome_metadata(xml: str) -> OmeMetadata:
    """Parse the metadata of the first image in OME-XML."""
    root = ElementTree.fromstring(xml)
    image = _find_first_child(root, "Image")
    pixels = _find_first_child(image, "Pixels")
    counts = tuple(int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
    channels = tuple(
        _select_attributes(child, _CHANNEL_ATTRIBUTES) for child in pixels.iterfind("{*}Channel")
    )
    planes = []
    for plane_element in pixels.iterfind("{*}Plane"):
        if attributes := _select_attributes(plane_element, _PLANE_ATTRIBUTES):
            index = tuple(int(plane_element.get(f"The{axis}", "0")) for axis in "CZT")
            planes.append((index, attributes))
    samples = int(_find_first_child(pixels, "Channel").get("SamplesPerPixel", "1"))
    objective_id = _find_first_child(image, "ObjectiveSettings").get("ID")
    objectives = root.iterfind(".//{*}Objective")
    objective = next((each for each in objectives if each.get("ID") == objective_id), None)
    return OmeMetadata(
        name=image.get("Name"),
        description=_find_first_child(image, "Description").text,
        acquisition_date=_find_first_child(image, "AcquisitionDate").text,
        channels=channels,
        planes=tuple(planes),
        counts=(counts[0] // max(1, samples), counts[1], counts[2]),
        objective=() if objective is None else _select_attributes(objective, _OBJECTIVE_ATTRIBUTES),
    )


def get_recipe_task(provenance: object) -> str:
    """Return the task of the recipe in the provenance of an image; "" if there is none."""
    try:
        return str(provenance["recipe"]["task"])  # type: ignore[index]
    except (LookupError, TypeError):
        return ""


def parse_imagej_channels(
    metadata: Mapping[str, Any], axes: str, shape: tuple[int, ...]
) -> SourceTags:
    """Parse names, colours and contrast limits of the channels of an ImageJ TIFF.

    Lookup tables other than a ramp from black to one colour are left out, as are labels that differ
    between the planes of a channel.

    Parameters
    ----------
    metadata : mapping
        As tifffile reads it.
    axes, shape : str and tuple of int
        Of the image, in file order.
    """
    import numpy as np

    sizes = dict(zip(axes, shape, strict=True))
    if "C" not in sizes or "S" in sizes:
        return SourceTags()
    count = sizes["C"]
    labels = [str(label).partition("\n")[0] for label in metadata.get("Labels") or ()]
    has_names = bool(labels) and labels[:count] * (len(labels) // count) == labels
    tables = metadata.get("LUTs") or ()
    has_colours = len(tables) == count
    channels = _make_channels(
        labels[:count] if has_names else [""] * count,
        [_find_ramp_colour(np.asarray(table, np.uint8)) for table in tables]
        if has_colours
        else [""] * count,
    )
    ranges = [float(value) for value in metadata.get("Ranges") or ()]
    limits = tuple(zip(ranges[::2], ranges[1::2], strict=False)) if len(ranges) == 2 * count else ()
    ome = OmeMetadata(channels=channels) if any(channels) else None
    return SourceTags(ome=ome, contrast_limits=limits)


def parse_zarr_channels(omero: object) -> SourceTags:
    """Parse names, colours and contrast limits of an OME-Zarr's channels; none that make no sense.

    Parameters
    ----------
    omero : object
        The entry "omero" of the image's attributes.
    """
    try:
        entries = omero["channels"]  # type: ignore[index]
        colours = [encode_colour(bytes.fromhex(entry["color"])[:3]) for entry in entries]
        windows = [entry["window"] for entry in entries]
        names = [str(entry.get("label", "")) for entry in entries]
        limits = tuple((float(each["start"]), float(each["end"])) for each in windows)
    except (AttributeError, LookupError, TypeError, ValueError):
        return SourceTags()
    channels = _make_channels(names, colours)
    return SourceTags(ome=OmeMetadata(channels=channels), contrast_limits=limits)


def _make_channels(names: Sequence[str], colours: Sequence[str]) -> tuple[Attributes, ...]:
    """Return the attributes of each channel that are known, as OME-XML names them."""
    return tuple(
        tuple((key, text) for key, text in (("Name", name), ("Color", colour)) if text)
        for name, colour in zip(names, colours, strict=True)
    )


def encode_colour(colour: bytes, alpha: int = 255) -> str:
    """Return red, green and blue as OME-XML does: with alpha, as one signed number."""
    return str(int.from_bytes((*colour, alpha), signed=True))


def decode_colour(number: str | None) -> bytes:
    """Return red, green and blue of a channel of OME-XML; white where none are stated."""
    return (int(number or -1) & 0xFFFFFFFF).to_bytes(4, "big")[:3]


def _find_ramp_colour(table: npt.NDArray[np.uint8]) -> str:
    """Return the colour of a lookup table (3, values) from black to it; "" for other tables."""
    import numpy as np

    colour = table[:, -1]
    ramp = np.outer(colour, np.linspace(0, 1, table.shape[1]))
    is_ramp = np.abs(table - ramp).max() <= _MAX_RAMP_DEVIATION
    return encode_colour(colour.tobytes()) if is_ramp else ""


def _make_colour_table(number: str | None) -> npt.NDArray[np.uint8]:
    """Return the lookup table (3, 256) from black to a channel's colour."""
    import numpy as np

    colour = np.frombuffer(decode_colour(number), np.uint8)
    return np.outer(colour, np.linspace(0, 1, 256)).round().astype(np.uint8)


def list_ome_pixels(xml: str) -> list[dict[str, Any]]:
    """Return the `Pixels` entry of each image in OME-XML."""
    from tifffile import xml2dict

    images = xml2dict(xml).get("OME", {}).get("Image", {})
    return [image.get("Pixels", {}) for image in (images if isinstance(images, list) else [images])]


def list_ome_files(xml: str) -> set[str]:
    """List the files that hold planes of an image, by its OME-XML, which may be malformed."""
    matches = re.findall(r"""FileName\s*=\s*(?:"([^"]*)"|'([^']*)')""", xml)
    return {
        html.unescape(double_quoted or single_quoted) for double_quoted, single_quoted in matches
    } - {""}


def count_ome_planes(xml: str) -> int:
    """Count the planes of all images in OME-XML."""
    sizes = ([pixels.get(f"Size{axis}", 1) for axis in "ZCT"] for pixels in list_ome_pixels(xml))
    return sum(prod(size for size in image if isinstance(size, int)) for image in sizes)


def check_ome_sizes(xml: str, path: Path) -> None:
    """Check that each image in OME-XML has the axes of the schema, each with a size.

    Raises
    ------
    RefusedError
        If an axis is unknown or missing, or has no positive size.
    """
    for pixels in filter(None, list_ome_pixels(xml)):
        order = str(pixels.get("DimensionOrder", ""))
        if sorted(order) != sorted("XYZCT"):
            why = f"its header calls the axes '{order}', where X, Y, Z, C and T are known"
            raise RefusedError("file-broken", path=path, why=why)
        for axis in "XYZCT":
            size = pixels.get(f"Size{axis}")
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                stated = "nothing" if size is None else f"'{size}'"
                why = f"its header says {stated} where the size along {axis} should be"
                raise RefusedError("file-broken", path=path, why=why)


def read_ome_pixel_sizes(xml: str) -> dict[str, tuple[float, str]]:
    """Return size and unit of a pixel along each axis for which the first image states them."""
    pixels = list_ome_pixels(xml)[0]
    fields = {axis: (f"PhysicalSize{axis}", "µm") for axis in "XYZ"} | {"T": ("TimeIncrement", "s")}
    return {
        axis: (float(pixels[name]), normalise_unit(str(pixels.get(f"{name}Unit", default_unit))))
        for axis, (name, default_unit) in fields.items()
        if is_positive(pixels.get(name))
    }


def is_positive(value: object) -> bool:
    """Return whether a value from a file is a finite positive number."""
    return isinstance(value, int | float) and isfinite(value) and value > 0


def _find_first_child(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    """Return the first child with a tag of any namespace, or an empty element if there is none."""
    child = element.find(f"{{*}}{tag}")
    return ElementTree.Element(tag) if child is None else child


def _select_attributes(element: ElementTree.Element, names: frozenset[str]) -> Attributes:
    return tuple((key, value) for key, value in element.attrib.items() if key in names)
