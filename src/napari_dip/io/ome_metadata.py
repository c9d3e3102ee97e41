"""What the OME-XML of a TIFF says: sizes, files, channels and planes; read, and written again.

The schema is at https://www.openmicroscopy.org/Schemas/OME/2016-06.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite, prod
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable
from napari_dip.io.units import unit_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Names and values as the file writes them, so that no digit of a number changes.
Attributes = tuple[tuple[str, str], ...]

#: What tifffile writes of a channel and of a plane.
_OF_CHANNELS = frozenset(
    "Name AcquisitionMode Color ContrastMethod EmissionWavelength EmissionWavelengthUnit "
    "ExcitationWavelength ExcitationWavelengthUnit Fluor IlluminationType NDFilter PinholeSize "
    "PinholeSizeUnit PockelCellSetting".split()
)
_OF_PLANES = frozenset(
    "DeltaT DeltaTUnit ExposureTime ExposureTimeUnit PositionX PositionXUnit PositionY "
    "PositionYUnit PositionZ PositionZUnit".split()
)
#: What the schema lets an objective say that tells how the image was formed.
_OF_OBJECTIVES = frozenset(
    "Manufacturer Model Correction Immersion LensNA NominalMagnification CalibratedMagnification "
    "WorkingDistance WorkingDistanceUnit".split()
)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
        found: dict[str, Any] = {key: value for key, value in dated.items() if value}
        sizes = dict(zip(axes, shape, strict=True))
        channels = 1 if axes.endswith("YXC") else sizes.get("C", 1)
        if any(self.channels) and len(self.channels) == channels:
            found["Channel"] = [dict(one) for one in self.channels]
        planes = self._planes(axes, sizes, channels)
        if any(planes):
            found["Plane"] = planes
        return found

    def _planes(self, axes: str, sizes: Mapping[str, int], channels: int) -> list[dict[str, str]]:
        finer, rest = divmod(sizes.get("Z", 1), self.counts[1])
        if rest or self.counts != (channels, self.counts[1], sizes.get("T", 1)):
            return []
        known = {(one.channel, one.depth, one.frame): one.attributes for one in self.planes}
        outer = [axis for axis in axes if axis in "CZT" and not axes.endswith("YX" + axis)]
        listed = []
        for place in product(*(range(sizes[axis]) for axis in outer)):
            at = dict(zip(outer, place, strict=True))
            which = at.get("C", 0), at.get("Z", 0) // finer, at.get("T", 0)
            told = known.get(which, ())
            listed.append(
                {key: value for key, value in told if finer == 1 or key[:9] != "PositionZ"}
            )
        return listed


def read_ome(xml: str) -> OmeMetadata:
    """Read what is said of the first image."""
    root = ElementTree.fromstring(xml)
    image = _first(root, "Image")
    pixels = _first(image, "Pixels")
    counts = tuple(int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
    channels = tuple(_kept(one, _OF_CHANNELS) for one in _all(pixels, "Channel"))
    planes = []
    for one in _all(pixels, "Plane"):
        if attributes := _kept(one, _OF_PLANES):
            channel, depth, frame = (int(one.get(f"The{axis}", "0")) for axis in "CZT")
            planes.append(OmePlane(channel, depth, frame, attributes))
    samples = int(_first(pixels, "Channel").get("SamplesPerPixel", "1"))
    used = _first(image, "ObjectiveSettings").get("ID")
    lenses = [one for one in root.iter() if _tag(one) == "Objective" and one.get("ID") == used]
    return OmeMetadata(
        image.get("Name"),
        _first(image, "Description").text,
        _first(image, "AcquisitionDate").text,
        channels,
        tuple(planes),
        (counts[0] // max(1, samples), counts[1], counts[2]),
        _kept(lenses[0], _OF_OBJECTIVES) if lenses else (),
    )


def ome_pixels(xml: str) -> list[dict[str, Any]]:
    """Return the entries about pixels, one for each image that the OME-XML tells of."""
    from tifffile import xml2dict

    images = xml2dict(xml).get("OME", {}).get("Image", {})
    return [one.get("Pixels", {}) for one in (images if isinstance(images, list) else [images])]


def ome_files(xml: str) -> set[str]:
    """Name the files that hold planes of an image, as its OME-XML tells; it need not be sound."""
    coded = re.findall(r"""FileName\s*=\s*(?:"([^"]*)"|'([^']*)')""", xml)
    return {html.unescape(one or other) for one, other in coded} - {""}


def ome_planes(xml: str) -> int:
    """Count the planes of all images that it speaks of."""
    sizes = ([entry.get(f"Size{axis}", 1) for axis in "ZCT"] for entry in ome_pixels(xml))
    return sum(prod(size for size in image if isinstance(size, int)) for image in sizes)


def check_sizes(xml: str, path: Path) -> None:
    """Make sure that each image has the axes of the schema, each with a size.

    Raises
    ------
    Refused
        With the axis that is wrong or missing.
    """
    for pixels in filter(None, ome_pixels(xml)):
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
            facts = {"path": printable(str(path)), "why": printable(why)}
            raise Refused(refusal("file-broken", **facts))


def ome_sizes(xml: str) -> dict[str, tuple[float, str]]:
    """Size and unit of a pixel along each axis that the first image has one for."""
    pixels = ome_pixels(xml)[0]
    sizes = {}
    for axis in "XYZ":
        if is_positive(pixels.get(f"PhysicalSize{axis}")):
            unit = str(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            sizes[axis] = (float(pixels[f"PhysicalSize{axis}"]), unit_name(unit))
    if is_positive(pixels.get("TimeIncrement")):
        unit = str(pixels.get("TimeIncrementUnit", "s"))
        sizes["T"] = (float(pixels["TimeIncrement"]), unit_name(unit))
    return sizes


def is_positive(value: object) -> bool:
    """Whether something read from a file is a size."""
    return isinstance(value, int | float) and isfinite(value) and value > 0


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [one for one in element if _tag(one) == tag]


def _first(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    """Give the first child of that name, or one that says nothing."""
    return next(iter(_all(element, tag)), ElementTree.Element(tag))


def _kept(element: ElementTree.Element, names: frozenset[str]) -> Attributes:
    return tuple((key, value) for key, value in element.attrib.items() if key in names)
