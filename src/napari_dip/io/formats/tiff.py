"""TIFF and OME-TIFF through tifffile: header, pixels, size of a pixel.

What the tags of a TIFF say of its values: refused, carried out, or handed on to the result.

Which pages of a TIFF are the image: none twice, missing or left out without a word.

Size of a pixel, where each kind of TIFF keeps it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.io.header import (
    MAX_IMAGE_PLANES,
    ImageSpec,
    SourceTags,
    check_sizes,
    count_ome_planes,
    is_positive,
    list_ome_files,
    list_ome_pixels,
    make_orientation_note,
    normalise_unit,
    read_ome,
    read_ome_pixel_sizes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

    from napari_dip.errors.notes import Note
    from napari_dip.io.header import OmeMetadata

    Pages = Sequence[TiffPage | TiffFrame | None]

#: Codings of colour that are no red, green and blue, as the specification numbers them.
_COLOUR_ENCODINGS = {
    4: "a transparency mask",
    5: "CMYK",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "the colour filter of a camera's sensor (CFA)",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw values of a camera",
}
_MINISWHITE, _PALETTE, _YCBCR = 0, 3, 6
#: Compressions whose decoders make red, green and blue of YCbCr.
_YCBCR_CODECS = ("JPEG", "JP2", "WEBP", "APERIO", "OJPEG")


def check_colours(page: TiffPage, path: Path) -> None:
    """Say no to colours that would be restored as if they were brightness.

    Raises
    ------
    Refused
        With what they are coded as.
    """
    code, packing = int(page.photometric), getattr(page.compression, "name", "")
    coded = _COLOUR_ENCODINGS.get(code)
    if code == _YCBCR and not any(kind in packing for kind in _YCBCR_CODECS):
        coded = "YCbCr"
    if coded is not None:
        raise Refused(refusal("file-colours", path=make_printable(str(path)), coded=coded))


def read_colour_table(file: TiffFile, page: TiffPage) -> npt.NDArray[np.uint8] | None:
    """Read the colours that values stand for.

    Returns
    -------
    ndarray (values, 3), or (values,) where all are grey, or None
        None where the values are measured and colours only show them: of ImageJ's and of OME's
        files, which know no others, and where the table is a ramp from black to white.
    """
    colormap = page.colormap
    if int(page.photometric) != _PALETTE or colormap is None or file.is_imagej or file.is_ome:
        return None
    wide = np.asarray(colormap).T
    table: npt.NDArray[np.uint8] = (wide >> (8 if wide.max() > 255 else 0)).astype(np.uint8)
    if np.ptp(table.astype(int), axis=1).any():
        return table
    ramp = np.linspace(0, 255, len(table))
    return None if np.abs(table[:, 0] - ramp).max() <= 1 else table[:, 0]


def apply_colour_table(
    table: npt.NDArray[np.uint8] | None, raw: npt.NDArray[Any], axes: str
) -> npt.NDArray[Any]:
    """Look values up in their table, unless the axes have no place for colours."""
    if table is None or (table.ndim == 2 and len(axes) == raw.ndim):
        return raw
    return table.take(raw.astype(np.intp), axis=0, mode="clip")


def list_value_notes(
    page: TiffPage, name: str, table: npt.NDArray[np.uint8] | None, stored: str
) -> list[Note]:
    """Say what the tags mean for the values.

    Parameters
    ----------
    page : TiffPage
    name : str
        Of the file, as it is shown.
    table : ndarray or None
        In which the values are looked up.
    stored : str
        Axes of the values themselves.
    """
    notes = [make_note("white-zero", name=name)] if is_white_zero(page) else []
    if table is not None:
        axes = stored if table.ndim == 2 else ""
        notes.append(make_note("colour-table", name=name, axes=axes))
    elif int(page.photometric) == _PALETTE and page.colormap is not None:
        colours = np.asarray(page.colormap)
        notes += [make_note("colours-skipped", name=name)] if (colours != colours[0]).any() else []
    return [*notes, *make_orientation_note(name, read_orientation(page))]


def is_white_zero(page: TiffPage) -> bool:
    """Whether 0 is white, which those who obey the tag show so."""
    return int(page.photometric) == _MINISWHITE


def read_orientation(page: TiffPage) -> int:
    """Read how the image is turned, as TIFF numbers it; 1 where it is upright."""
    orientation = page.tags.valueof(274, default=1)
    return int(orientation) if isinstance(orientation, int) and 1 <= int(orientation) <= 8 else 1


#: tifffile makes a list as long as the OME-XML says, of all images in it, before it looks at the
#: file: 10 million take it a second.
_MAX_LISTED_PLANES = 10_000_000
#: Kinds of TIFF whose headers say how many planes there are.
_PLANE_COUNTING_KINDS = ("ome", "imagej", "shaped")
#: How tifffile reads those whose headers are of no use.
_FALLBACKS = ("generic", "uniform")


def choose_series(file: TiffFile, path: Path) -> TiffPageSeries:
    """Choose the image that is restored.

    Raises
    ------
    Refused
        If there is none, its header cannot be true, or parts of it lie elsewhere.
    """
    _check_chain(file, path)
    if file.ome_metadata:
        if count_ome_planes(file.ome_metadata) > _MAX_LISTED_PLANES:
            raise _make_broken_refusal(path, "its header speaks of more planes than any file holds")
        check_sizes(file.ome_metadata, path)
    for other in list_ome_files(file.ome_metadata or ""):
        # the reader would follow it anywhere; and an entity of the file's own may stand for more
        if other != Path(other).name or set(other) & {"\\", "&"}:
            facts = {"path": make_printable(str(path)), "other": make_printable(other)}
            raise Refused(refusal("file-elsewhere", **facts))
    if not file.series:
        raise _make_broken_refusal(path, "no image is found in it")
    whole = [member for member in file.series if not member.keyframe.is_reduced] or file.series
    copies = [item for item in whole if _is_larger_copy(item, whole[0])]
    return max([whole[0], *copies], key=lambda item: item.size)


def list_page_notes(file: TiffFile, series: TiffPageSeries, pages: Pages, name: str) -> list[Note]:
    """Say which planes of a file are left out, shown twice, or taken in an order of no header.

    Parameters
    ----------
    file : TiffFile
    series : TiffPageSeries
        From `choose_series`.
    pages : list
        All of it, listed once: each reading of the series parses its pages anew.
    name : str
        Of the file, as it is shown.
    """
    notes = (
        [make_note("images-skipped", name=name, count=len(file.series))]
        if len(file.series) > 1
        else []
    )
    if notes and series is not file.series[0]:
        sizes = {"height": series.keyframe.imagelength, "width": series.keyframe.imagewidth}
        notes = [make_note("small-copy", name=name, count=len(file.series), **sizes)]
    kinds = file.is_ome, file.is_imagej, file.is_shaped
    total = len(file.pages)
    if series.kind in _FALLBACKS and any(kinds) and total > 1:
        notes.append(make_note("planes-mismatched", name=name, total=total))
    there_are = [page for page in pages if page is not None]
    others = [level for image in file.series for level in image.levels if level is not series]
    used = {_get_page_key(page) for page in there_are}
    used |= {_get_page_key(page) for level in others for page in level.pages if page is not None}
    files = {page.parent.filehandle.name: page.parent for page in there_are}
    existing = {(name, index) for name, item in files.items() for index in range(len(item.pages))}
    if rest := len(existing - used):
        notes.append(
            make_note(
                "planes-unnamed", name=name, total=len(existing), count=total - rest, rest=rest
            )
        )
    if copies := len(there_are) - len({_get_page_key(page) for page in there_are}):
        notes.append(make_note("planes-twice", name=name, count=copies))
    return notes


def check_whole(series: TiffPageSeries, pages: Pages, path: Path) -> None:
    """Compare where the header says that pixels lie with the bytes that are there.

    Readers fill in zeros for what is missing, and a fit would learn them.

    Parameters
    ----------
    series : TiffPageSeries
    pages : list
        All of it.
    path : Path

    Raises
    ------
    Refused
        If a page or a part of one is missing, or there are more pages than the header says.
    """
    end = path.stat().st_size
    if 0 in series.shape:
        return
    why = ""
    if series.dataoffset is not None and series.dataoffset + series.nbytes > end:
        why = f"its header speaks of {series.nbytes} bytes of pixels, but it has {end} in all"
    whole = [page for page in pages if page is not None]
    planes = series.size // max(1, series.keyframe.size)
    counted = series.kind in _PLANE_COUNTING_KINDS and not series.is_truncated
    if not why and len(whole) != (planes if counted else len(pages)):
        why = f"its header speaks of {planes} planes, but {len(whole)} are found"
        why += "; the others are missing" if len(whole) < planes else ""
    for page in whole if not why else ():
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if not places or any(count == 0 or offset == 0 for offset, count in places):
            why = "parts of its pixels are missing"
        elif max(offset + count for offset, count in places) > end:
            why = "its pixels should go on after its end"
        if why:
            break
    if why:
        raise _make_broken_refusal(path, why)


def _check_chain(file: TiffFile, path: Path) -> None:
    """Go from page to page: listing them reads each header, and of a circle only some pages."""
    if not file.pages:
        raise _make_broken_refusal(path, "no image is found in it")
    tiff, handle = file.tiff, file.filehandle
    place, before = file.pages.first.offset, set[int]()
    while place and len(before) <= MAX_IMAGE_PLANES:
        if place in before:
            raise _make_broken_refusal(path, "its list of pages runs in a circle")
        before.add(place)
        try:
            handle.seek(place)
            (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
            handle.seek(place + tiff.tagnosize + tags * tiff.tagsize)
            (place,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        except struct.error:  # the list ends where the file does
            break
    if len(before) > MAX_IMAGE_PLANES:
        facts = {"name": make_printable(path.name), "most": f"{MAX_IMAGE_PLANES:,}"}
        raise Refused(refusal("planes-many", **facts))


def _is_larger_copy(large: TiffPageSeries, small: TiffPageSeries) -> bool:
    """Whether an image may be what another is a thumbnail of: both sides so many times longer."""
    here, keyframe = large.keyframe, small.keyframe
    if (
        small.kind in _PLANE_COUNTING_KINDS[:2]
        or small.size != keyframe.size
        or not keyframe.imagelength
    ):
        return False
    factor = here.imagewidth / keyframe.imagewidth
    return factor >= 2 and abs(here.imagelength / factor - keyframe.imagelength) <= 1


def _get_page_key(page: TiffPage | TiffFrame) -> tuple[str, object]:
    return page.parent.filehandle.name, page.index


def _make_broken_refusal(path: Path, why: str) -> Refused:
    return Refused(refusal("file-broken", path=make_printable(str(path)), why=why))


#: Values of the tag ResolutionUnit, those of later readers included.
_UNITS = {2: "inch", 3: "centimeter", 4: "millimeter", 5: "micrometer"}


def read_pixel_sizes(file: TiffFile, page: TiffPage) -> dict[str, tuple[float, str]]:
    """Size and unit of a pixel along each axis that the file gives one for."""
    if file.ome_metadata:
        return read_ome_pixel_sizes(file.ome_metadata)
    sizes = _read_resolution(page)
    extra = file.imagej_metadata or {}
    unit = normalise_unit(str(extra.get("unit") or "pixel"))
    if sizes and "unit" in extra:  # ImageJ counts pixels in its own unit, not in the tag's
        sizes = {
            axis: (1 / float(_read_resolution_ratio(page, axis)), unit)
            for axis in "YX"
            if _read_resolution_ratio(page, axis)
        }
    if sizes and is_positive(extra.get("spacing")):
        sizes["Z"] = (float(extra["spacing"]), unit)
    if sizes and is_positive(extra.get("finterval")):
        sizes["T"] = (float(extra["finterval"]), "second")
    return sizes


def _read_resolution(page: TiffPage) -> dict[str, tuple[float, str]]:
    """Read the resolution tags; without a unit they say nothing but 1."""
    unit = page.tags.valueof("ResolutionUnit", default=2)
    name = _UNITS.get(int(unit), "pixel")
    entries = {
        axis: 1 / _read_resolution_ratio(page, axis)
        for axis in "YX"
        if _read_resolution_ratio(page, axis)
    }
    metric = name not in ("inch", "pixel")
    if len(entries) < 2 or (not metric and set(entries.values()) == {1.0}):
        return {} if "unit" not in str(page.description) else dict.fromkeys("YX", (1.0, "pixel"))
    if name == "centimeter":
        return {axis: (value * 1e4, "micrometer") for axis, value in entries.items()}
    return {axis: (value, name) for axis, value in entries.items()}


def _read_resolution_ratio(page: TiffPage, axis: str) -> float:
    """Pixels per unit, 0 where the tag is missing or makes no sense."""
    value = page.tags.valueof(f"{axis}Resolution", default=(0, 1))
    ratio = value[0] / value[1] if value[1] else 0.0
    return ratio if is_positive(ratio) else 0.0


#: Names for axes that a file counts without naming them, outermost first.
_DEFAULT_AXES = {1: "Z", 2: "TZ", 3: "TCZ"}


def read_spec(path: Path, axes: str | None) -> ImageSpec:
    """Read the header of a TIFF file; see `napari_dip.io.reading.read_spec`."""
    from tifffile import TiffFile

    name = make_printable(path.name)
    with TiffFile(path) as file:
        series = choose_series(file, path)
        page = series.keyframe
        _check_codec(page, path)
        check_colours(page, path)
        pages = list(series.pages)
        check_whole(series, pages, path)
        notes = list_page_notes(file, series, pages, name)
        found_axes = _relabel_unmarked_colours(series.axes, file, page)
        named = _label_axes(found_axes, len(series.shape), page)
        guessed = axes is None and bool(set(found_axes) - set("TCZYXS"))
        table = read_colour_table(file, page)
        stored, sides = named, tuple(series.shape)
        if table is not None and table.ndim == 2:
            if len(axes or "") == len(sides):  # the values themselves are wished for
                table = None
            else:
                sides, named = (*sides, table.shape[1]), named + "S"
        shape, axes, alpha = _drop_alpha_axis(sides, axes or named, page)
        if alpha:
            code = "alpha-plane-skipped" if _has_planar_colours(axes) else "alpha-skipped"
            as_planes = axes.replace("S", "C" if "Z" in axes else "Z")
            notes.append(make_note(code, name=name, axes=as_planes))
        sizes = read_pixel_sizes(file, page)
        ome = _read_tiff_ome(file, series, notes, name) if file.ome_metadata else None
        if ome is not None and axes != named:
            ome = ome.without_places()
        tags = SourceTags(
            is_white_zero=is_white_zero(page), orientation=read_orientation(page), ome=ome
        )
        notes += list_value_notes(page, name, table, stored)
        dtype = np.dtype(series.dtype if table is None else table.dtype).name
    scale = tuple(sizes.get(axis, (1.0, "pixel"))[0] for axis in axes) if sizes else None
    units = tuple(sizes.get(axis, (1.0, "pixel"))[1] for axis in axes) if sizes else None
    if len(axes) != len(shape):  # preflight will say so; sizes would not fit either
        scale = units = None
    return ImageSpec(
        name=name,
        shape=shape,
        dtype=dtype,
        axes=axes,
        path=str(path),
        scale=scale,
        units=units,
        notes=tuple(notes),
        guessed=guessed,
        tags=tags,
    )


def read_pixels(path: Path, spec: ImageSpec) -> npt.NDArray[Any]:
    """Decode the image of a TIFF file in the axes of its header, alpha still there."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = choose_series(file, path)
        table = read_colour_table(file, series.keyframe)
        return apply_colour_table(table, np.asarray(series.asarray()), spec.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLocation:
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
            choose_series(file, self.path).asarray(out=into)


def locate_pixels(path: Path) -> PixelLocation | None:
    """Find out where the pixels of a TIFF's image lie; None where they stand for colours."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = choose_series(file, path)
        if read_colour_table(file, series.keyframe) is not None:
            return None
        plain = series.dataoffset is not None and series.keyframe.is_memmappable
        offset = int(series.dataoffset) if plain and series.dataoffset is not None else None
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        return PixelLocation(path=path, offset=offset, shape=tuple(series.shape), dtype=dtype)


def _read_tiff_ome(
    file: TiffFile, series: TiffPageSeries, notes: list[Note], name: str
) -> OmeMetadata | None:
    """Read what the result takes over; of channels and planes only if they are those described."""
    try:
        ome = read_ome(file.ome_metadata or "")
    except (ValueError, SyntaxError):  # what XML's parser raises is one of these
        notes.append(make_note("ome-unreadable", name=name))
        return None
    described = len(list_ome_pixels(file.ome_metadata or "")) == len(file.series)
    return ome if series.kind == "ome" and described else ome.without_places()


def _check_codec(page: TiffPage, path: Path) -> None:
    """Say no at once to a compression that nobody here can undo."""
    from tifffile import COMPRESSION, TIFF

    code = page.compression
    if code not in TIFF.DECOMPRESSORS:
        name = code.name if isinstance(code, COMPRESSION) else f"method {code}"
        raise Refused(refusal("file-codec", path=make_printable(str(path)), codec=name))


def _has_planar_colours(axes: str) -> bool:
    """Whether colour samples lie plane by plane, not beside each other in each pixel."""
    return "S" in axes and not axes.endswith("S")


def _relabel_unmarked_colours(axes: str, file: TiffFile, page: TiffPage) -> str:
    """Give the axes of a series, "Q" for colours that nobody meant.

    tifffile calls an array of three or four planes red, green, blue and alpha unless it is told
    better. Of more than eight bits, plane by plane, without a colour profile and without names of
    the axes these are a stack, and napari shows them so.
    """
    if not _has_planar_colours(axes) or np.dtype(page.dtype).itemsize == 1:
        return axes
    facts = any("axes" in item for item in file.shaped_metadata or ())
    meant = facts or file.is_ome or file.is_imagej or "InterColorProfile" in page.tags
    return axes if meant else axes.replace("S", "Q")


def _label_axes(axes: str, count: int, page: TiffPage) -> str:
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
    free = [letter for letter in _DEFAULT_AXES.get(len(unknown), "") if letter not in axes]
    free += [letter for letter in "ZTC" if letter not in axes and letter not in free]
    letters = iter(free)
    return "".join(axis if axis in "TCZYXS" else next(letters, axis) for axis in axes)


def _drop_alpha_axis(
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
