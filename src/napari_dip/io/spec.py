"""Image headers: what an image is, known without reading its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


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

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the picture plane, in pixels."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    @property
    def pixels(self) -> int:
        """Number of values, colour samples and channels counted apart."""
        return prod(self.shape)


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
