"""Image headers: what an image is, known without reading its pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dip.io.ome_metadata import OmeMetadata

#: Planes of an image at most. Movies of 20,000 frames are in use; 50,000 of 256 × 256 pixels take
#: two cores several days, and the header of a TIFF that holds as many is read in 2 s.
MOST_PLANES = 50_000


_ORIENTATION = (
    "'{name}' is stored turned or mirrored (orientation {number}). It is restored as it is stored, "
    "and a TIFF of the result says the same."
)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
    notes : tuple of str
        One sentence each about what reading leaves out, such as an alpha channel.
    tags : SourceTags
    stamp : str
        What `napari_dip.io.digest.stamp_of` said of the file before its pixels were read; "" if
        nobody asked.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    path: str | None = None
    scale: tuple[float, ...] | None = None
    units: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
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


def orientation_note(name: str, number: int) -> list[str]:
    """Say that an image is stored turned, where it is."""
    return [_ORIENTATION.format(name=name, number=number)] if number != 1 else []


def plane_spec(source: ImageSpec, shape: tuple[int, ...]) -> ImageSpec:
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
    return ImageSpec(source.name, shape, "float32", axes, scale=scale, units=units)


def shared_axes(source: ImageSpec, shape: tuple[int, ...]) -> str:
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
