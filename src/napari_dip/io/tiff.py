"""TIFF and OME-TIFF through tifffile: header, pixels, size of a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_dip.errors import Refused, refusal
from napari_dip.io.ome_metadata import ome_pixels, read_ome
from napari_dip.io.paths import printable
from napari_dip.io.spec import ImageSpec, SourceTags
from napari_dip.io.tiff_colours import (
    check_colours,
    colour_table,
    in_colours,
    is_white_zero,
    orientation_of,
    value_notes,
)
from napari_dip.io.tiff_pages import check_whole, chosen_series, page_notes
from napari_dip.io.tiff_sizes import pixel_sizes

if TYPE_CHECKING:
    from pathlib import Path

    from tifffile import TiffFile, TiffPage, TiffPageSeries

    from napari_dip.io.ome_metadata import OmeMetadata

_ALPHA = "The alpha channel of '{name}' is left out."
_ALPHA_PLANE = (
    "The last of four planes of '{name}' is left out, since its header calls it alpha: name the "
    "axes {axes} (--axes {axes}) if it is a plane like the others."
)
_OME = "Channel names, positions and times of '{name}' cannot be read and are left out."
#: Names for axes that a file counts without naming them, outermost first.
_UNNAMED = {1: "Z", 2: "TZ", 3: "TCZ"}


def read_spec(path: Path, axes: str | None) -> ImageSpec:
    """Read the header of a TIFF file; see `napari_dip.io.reading.read_spec`."""
    from tifffile import TiffFile

    name = printable(path.name)
    with TiffFile(path) as file:
        series = chosen_series(file, path)
        page = series.keyframe
        _check_codec(page, path)
        check_colours(page, path)
        pages = list(series.pages)
        check_whole(series, pages, path)
        notes = page_notes(file, series, pages, name)
        found = _unclaimed(series.axes, file, page)
        named = _named(found, len(series.shape), page)
        guessed = axes is None and bool(set(found) - set("TCZYXS"))
        table = colour_table(file, page)
        stored, sides = named, tuple(series.shape)
        if table is not None and table.ndim == 2:
            if len(axes or "") == len(sides):  # the values themselves are wished for
                table = None
            else:
                sides, named = (*sides, table.shape[1]), named + "S"
        shape, axes, alpha = _colours_only(sides, axes or named, page)
        if alpha:
            words = _ALPHA_PLANE if _apart(axes) else _ALPHA
            as_planes = axes.replace("S", "C" if "Z" in axes else "Z")
            notes.append(words.format(name=name, axes=as_planes))
        sizes = pixel_sizes(file, page)
        ome = _ome(file, series, notes, name) if file.ome_metadata else None
        if ome is not None and axes != named:
            ome = ome.without_places()
        tags = SourceTags(is_white_zero(page), orientation_of(page), ome)
        notes += value_notes(page, name, table, stored)
        dtype = np.dtype(series.dtype if table is None else table.dtype).name
    scale = tuple(sizes.get(axis, (1.0, "pixel"))[0] for axis in axes) if sizes else None
    units = tuple(sizes.get(axis, (1.0, "pixel"))[1] for axis in axes) if sizes else None
    if len(axes) != len(shape):  # preflight will say so; sizes would not fit either
        scale = units = None
    return ImageSpec(name, shape, dtype, axes, str(path), scale, units, tuple(notes), guessed, tags)


def read_pixels(path: Path, spec: ImageSpec) -> npt.NDArray[Any]:
    """Decode the image of a TIFF file in the axes of its header, alpha still there."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = chosen_series(file, path)
        table = colour_table(file, series.keyframe)
        return in_colours(table, np.asarray(series.asarray()), spec.axes)


@dataclass(frozen=True, slots=True)
class Lying:
    """Where the pixels of a file's first image lie.

    Attributes
    ----------
    path : Path
    offset : int or None
        Of the first one, in bytes; None where they are compressed or in pieces.
    shape : tuple of int
        Alpha still there.
    dtype : numpy.dtype
        With the file's byte order.
    """

    path: Path
    offset: int | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def unpack(self, into: npt.NDArray[Any]) -> None:
        """Decode the pixels into an array of their shape, in this computer's byte order."""
        from tifffile import TiffFile

        with TiffFile(self.path) as file:
            chosen_series(file, self.path).asarray(out=into)


def where_pixels_lie(path: Path) -> Lying | None:
    """Find out where the pixels of a TIFF's image lie; None where they stand for colours."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = chosen_series(file, path)
        if colour_table(file, series.keyframe) is not None:
            return None
        plain = series.dataoffset is not None and series.keyframe.is_memmappable
        offset = int(series.dataoffset) if plain and series.dataoffset is not None else None
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        return Lying(path, offset, tuple(series.shape), dtype)


def _ome(file: TiffFile, series: TiffPageSeries, notes: list[str], name: str) -> OmeMetadata | None:
    """Read what the result takes over; of channels and planes only if they are those described."""
    try:
        found = read_ome(file.ome_metadata or "")
    except (ValueError, SyntaxError):  # what XML's parser raises is one of these
        notes.append(_OME.format(name=name))
        return None
    described = len(ome_pixels(file.ome_metadata or "")) == len(file.series)
    return found if series.kind == "ome" and described else found.without_places()


def _check_codec(page: TiffPage, path: Path) -> None:
    """Say no at once to a compression that nobody here can undo."""
    from tifffile import COMPRESSION, TIFF

    code = page.compression
    if code not in TIFF.DECOMPRESSORS:
        name = code.name if isinstance(code, COMPRESSION) else f"method {code}"
        raise Refused(refusal("file-codec", path=printable(str(path)), codec=name))


def _apart(axes: str) -> bool:
    """Whether colour samples lie plane by plane, not beside each other in each pixel."""
    return "S" in axes and not axes.endswith("S")


def _unclaimed(axes: str, file: TiffFile, page: TiffPage) -> str:
    """Give the axes of a series, "Q" for colours that nobody meant.

    tifffile calls an array of three or four planes red, green, blue and alpha unless it is told
    better. Of more than eight bits, plane by plane, without a colour profile and without names of
    the axes these are a stack, and napari shows them so.
    """
    if not _apart(axes) or np.dtype(page.dtype).itemsize == 1:
        return axes
    told = any("axes" in one for one in file.shaped_metadata or ())
    meant = told or file.is_ome or file.is_imagej or "InterColorProfile" in page.tags
    return axes if meant else axes.replace("S", "Q")


def _named(axes: str, count: int, page: TiffPage) -> str:
    """Give letters out of T, C, Z, Y, X and S to all axes, as far as there are enough."""
    if getattr(page.photometric, "name", "") not in ("RGB", "YCBCR"):
        extra = {str(getattr(kind, "name", kind)) for kind in page.extrasamples}
        if not extra & {"ASSOCALPHA", "UNASSALPHA"}:
            axes = axes.replace("S", "C" if "C" not in axes else "S")
    unknown = [axis for axis in axes if axis not in "TCZYXS"]
    if not unknown:
        return axes
    if count == len(unknown):
        return {1: "X", 2: "YX"}.get(count, axes)
    if "Y" not in axes and "X" in axes and len(unknown) == 1 and count == 2:
        return "YX"
    free = [letter for letter in _UNNAMED.get(len(unknown), "") if letter not in axes]
    free += [letter for letter in "ZTC" if letter not in axes and letter not in free]
    letters = iter(free)
    return "".join(axis if axis in "TCZYXS" else next(letters, axis) for axis in axes)


def _colours_only(
    shape: tuple[int, ...], axes: str, page: TiffPage
) -> tuple[tuple[int, ...], str, bool]:
    """Leave alpha out of the shape; colours alone are restored."""
    extra = {str(getattr(kind, "name", kind)) for kind in page.extrasamples}
    if "S" not in axes or len(axes) != len(shape) or not extra & {"ASSOCALPHA", "UNASSALPHA"}:
        return shape, axes, False
    place = axes.index("S")
    if shape[place] == 2 and place == len(shape) - 1:
        return shape[:-1], axes[:-1], True
    if shape[place] == 4:
        return (*shape[:place], 3, *shape[place + 1 :]), axes, True
    return shape, axes, False
