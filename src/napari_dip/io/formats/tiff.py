"""Read TIFF and OME-TIFF through tifffile: header, pixels, pixel sizes.

The module refuses colour spaces other than RGB and incomplete files, chooses the image among the
series of pages, and notes all planes that are skipped or duplicated.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.io.header import (
    COLOUR_COUNT,
    MAX_IMAGE_PLANES,
    ImageHeader,
    SourceTags,
    check_ome_sizes,
    count_ome_planes,
    get_recipe_task,
    is_positive,
    list_ome_files,
    list_ome_pixels,
    make_orientation_note,
    normalise_unit,
    parse_imagej_channels,
    parse_ome_metadata,
    read_ome_pixel_sizes,
    split_pixel_sizes,
)
from napari_dip.io.lazy_images import make_broken_file_error
from napari_dip.io.paths import parse_strict_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray
    from napari_dip.io.header import OmeMetadata

    Pages = Sequence[TiffPage | TiffFrame | None]

#: Unsupported values of the tag PhotometricInterpretation, by their numbers in the specification.
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
#: Number of GDAL's tag with the value of pixels that were not measured, as text:
#: https://gdal.org/en/stable/drivers/raster/gtiff.html.
_MISSING_VALUE_TAG = 42113
#: Photometric interpretation of TIFF 6.0: white is 0.
_MINISWHITE = 0
#: Photometric interpretation: a palette.
_PALETTE = 3
#: Photometric interpretation: luminance and two colour differences.
_YCBCR = 6
#: Compressions whose decoders convert YCbCr to RGB.
_YCBCR_CODECS = ("JPEG", "JP2", "WEBP", "APERIO", "OJPEG")
#: Maximum number of planes in OME-XML, for which tifffile makes a list before it looks at the file:
#: 10 million take a second.
_MAX_LISTED_PLANES = 10_000_000
#: Kinds of TIFF whose headers state the number of planes.
_PLANE_COUNTING_KINDS = ("ome", "imagej", "shaped")
#: Kinds that tifffile falls back to if a header is unusable.
_FALLBACKS = ("generic", "uniform")
#: Values of the tag ResolutionUnit: 2 and 3 of TIFF 6.0, 4 and 5 as tifffile and others write them.
_RESOLUTION_UNITS = {2: "inch", 3: "centimeter", 4: "millimeter", 5: "micrometer"}
#: Default names for unnamed axes, outermost first, by their number.
_DEFAULT_AXES = {1: "Z", 2: "TZ", 3: "TCZ"}


def check_colours(page: TiffPage, path: Path) -> None:
    """Refuse colour spaces whose values are no brightness.

    Raises
    ------
    RefusedError
        With the name of the colour space.
    """
    code, compression = int(page.photometric), getattr(page.compression, "name", "")
    colour_space = _COLOUR_ENCODINGS.get(code)
    if code == _YCBCR and not any(kind in compression for kind in _YCBCR_CODECS):
        colour_space = "YCbCr"
    if colour_space is not None:
        raise RefusedError("file-colours", path=path, coded=colour_space)


def read_colour_table(file: TiffFile, page: TiffPage) -> npt.NDArray[np.uint8] | None:
    """Read the colour table of a palette image.

    Returns
    -------
        Shape (values,) if all colours are grey. None if the values themselves were measured and the
        colours only display them: in files of ImageJ and OME, and for a ramp from black to white.
    """
    colormap = page.colormap
    if int(page.photometric) != _PALETTE or colormap is None or file.is_imagej or file.is_ome:
        return None
    colours = np.asarray(colormap).T
    table: npt.NDArray[np.uint8] = (colours >> (8 if colours.max() > 255 else 0)).astype(np.uint8)
    if np.ptp(table.astype(int), axis=1).any():
        return table
    ramp = np.linspace(0, 255, len(table))
    return None if np.abs(table[:, 0] - ramp).max() <= 1 else table[:, 0]


def apply_colour_table(table: npt.NDArray[np.uint8] | None, raw: AnyArray, axes: str) -> AnyArray:
    """Convert values to colours, unless `axes` has no axis for them."""
    if table is None or (table.ndim == 2 and len(axes) == raw.ndim):
        return raw
    return table.take(raw.astype(np.intp), axis=0, mode="clip")


def list_value_notes(
    page: TiffPage, name: str, table: npt.NDArray[np.uint8] | None, stored: str
) -> list[Note]:
    """Return notes about the meaning of the pixel values, from the tags.

    Parameters
    ----------
    page : TiffPage
    name : str
        Printable name of the file.
    table : ndarray or None
        Colour table.
    stored : str
        Axes of the stored values.
    """
    notes = []
    if is_white_zero(page) and page.bitspersample > 1:  # nobody restores single bits
        notes.append(make_note("white-zero", name=name, restored=True))
    if table is not None:
        axes = stored if table.ndim == 2 else ""
        notes.append(make_note("colour-table", name=name, axes=axes))
    elif int(page.photometric) == _PALETTE and page.colormap is not None:
        colours = np.asarray(page.colormap)
        if (colours != colours[0]).any():
            notes.append(make_note("colours-skipped", name=name, restored=True))
    if (value := read_missing_value(page)) is not None:
        notes.append(make_note("value-missing", name=name, value=value))
    return [*notes, *make_orientation_note(name, read_orientation(page))]


def is_white_zero(page: TiffPage) -> bool:
    """Return whether 0 is to be displayed as white."""
    return int(page.photometric) == _MINISWHITE


def read_missing_value(page: TiffPage) -> float | None:
    """Read the value that stands for missing pixels; None without one, and for NaN."""
    try:
        value = float(page.tags.valueof(_MISSING_VALUE_TAG, default="nan"))
    except (TypeError, ValueError):
        return None
    return value if isfinite(value) else None  # pixels of NaN and infinity are refused anyway


def read_orientation(page: TiffPage) -> int:
    """Read the orientation as TIFF numbers it; 1 is upright."""
    orientation = page.tags.valueof(274, default=1)
    return int(orientation) if isinstance(orientation, int) and 1 <= int(orientation) <= 8 else 1


def choose_series(file: TiffFile, path: Path) -> TiffPageSeries:
    """Choose the series of pages that is restored.

    Raises
    ------
    RefusedError
        If there is none, its header is implausible, or parts of it are in another folder.
    """
    _check_page_chain(file, path)
    if file.ome_metadata:
        if count_ome_planes(file.ome_metadata) > _MAX_LISTED_PLANES:
            raise make_broken_file_error(path, "its header states more planes than any file holds")
        check_ome_sizes(file.ome_metadata, path)
    for file_name in list_ome_files(file.ome_metadata or ""):
        # the reader would open any path, and an XML entity can expand to one
        if file_name != Path(file_name).name or set(file_name) & {"\\", "&"}:
            raise RefusedError("file-outside-folder", path=path, other=file_name)
    if not file.series:
        raise make_broken_file_error(path, "no image is found in it")
    full_series = [member for member in file.series if not member.keyframe.is_reduced]
    full_series = full_series or file.series
    larger_copies = [series for series in full_series if _is_larger_copy(series, full_series[0])]
    return max([full_series[0], *larger_copies], key=lambda series: series.size)


def list_page_notes(file: TiffFile, series: TiffPageSeries, pages: Pages, name: str) -> list[Note]:
    """Return notes about planes that are skipped, duplicated, or in an unspecified order.

    Parameters
    ----------
    file : TiffFile
    series : TiffPageSeries
        From `choose_series`.
    pages : list
        All pages of the series, listed once, since each access parses them again.
    name : str
        Printable name of the file.
    """
    notes: list[Note] = []
    count, page = len(file.series), series.keyframe
    if count > 1 and series is file.series[0]:
        notes.append(make_note("images-skipped", name=name, count=count))
    elif count > 1:
        sizes = {"height": page.imagelength, "width": page.imagewidth}
        notes.append(make_note("small-copy", name=name, count=count, **sizes))
    kinds = file.is_ome, file.is_imagej, file.is_shaped
    total = len(file.pages)
    if series.kind in _FALLBACKS and any(kinds) and total > 1:
        notes.append(make_note("planes-mismatched", name=name, total=total))
    present_pages = [page for page in pages if page is not None]
    levels = [level for image in file.series for level in image.levels]
    listed = (page for level in levels for page in level.pages if page is not None)
    used = set(map(_get_page_key, listed))
    files = {page.parent.filehandle.name: page.parent for page in present_pages}
    existing = {(name, index) for name, item in files.items() for index in range(len(item.pages))}
    if unused := len(existing - used):
        facts = {"total": len(existing), "count": total - unused, "rest": unused}
        notes.append(make_note("planes-unnamed", name=name, **facts))
    if copies := len(present_pages) - len({_get_page_key(page) for page in present_pages}):
        notes.append(make_note("planes-twice", name=name, count=copies))
    return notes


def check_complete(series: TiffPageSeries, pages: Pages, path: Path) -> None:
    """Check that all pixels that the header describes are in the file.

    Readers fill in zeros for missing pixels, and a fit would learn them.

    Parameters
    ----------
    series : TiffPageSeries
    pages : list
        All pages of the series.
    path : Path

    Raises
    ------
    RefusedError
        If a page or a part of it is missing, or there are more pages than in the header.
    """
    if 0 not in series.shape:
        why = _find_missing_part(series, pages, path.stat().st_size)
        if why:
            raise make_broken_file_error(path, why)


def _find_missing_part(series: TiffPageSeries, pages: Pages, end: int) -> str:
    """Return what a file of `end` bytes lacks of its pages, "" if nothing."""
    if series.dataoffset is not None and series.dataoffset + series.nbytes > end:
        return f"its header states {series.nbytes} bytes of pixels, but it has {end} in all"
    present_pages = [page for page in pages if page is not None]
    count, planes = len(present_pages), series.size // max(1, series.keyframe.size)
    has_plane_count = series.kind in _PLANE_COUNTING_KINDS and not series.is_truncated
    if count != (planes if has_plane_count else len(pages)):
        remainder = "; the others are missing" if count < planes else ""
        return f"its header states {planes} planes, but {count} are found{remainder}"
    for page in present_pages:
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if not segments or any(size == 0 or offset == 0 for offset, size in segments):
            return "parts of its pixels are missing"
        if max(offset + size for offset, size in segments) > end:
            return "its pixels should go on after its end"
    return ""


def _check_page_chain(file: TiffFile, path: Path) -> None:
    """Check the chain of page headers, which may be circular or too long."""
    if not file.pages:
        raise make_broken_file_error(path, "no image is found in it")
    tiff, handle = file.tiff, file.filehandle
    offset, seen_offsets = file.pages.first.offset, set[int]()
    while offset and len(seen_offsets) <= MAX_IMAGE_PLANES:
        if offset in seen_offsets:
            raise make_broken_file_error(path, "its list of pages runs in a circle")
        seen_offsets.add(offset)
        try:
            handle.seek(offset)
            (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
            handle.seek(offset + tiff.tagnosize + tags * tiff.tagsize)
            (offset,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        except struct.error:  # the file ends before the chain
            break
    if len(seen_offsets) > MAX_IMAGE_PLANES:
        raise RefusedError("planes-many", name=path.name, most=f"{MAX_IMAGE_PLANES:,}")


def _is_larger_copy(large: TiffPageSeries, small: TiffPageSeries) -> bool:
    """Return whether one image may be the original of another, smaller copy of the same shape."""
    large_keyframe, keyframe = large.keyframe, small.keyframe
    is_plane = small.size == keyframe.size and keyframe.imagelength > 0
    if small.kind in _PLANE_COUNTING_KINDS[:2] or not is_plane:
        return False
    factor = large_keyframe.imagewidth / keyframe.imagewidth
    return factor >= 2 and abs(large_keyframe.imagelength / factor - keyframe.imagelength) <= 1


def _get_page_key(page: TiffPage | TiffFrame) -> tuple[str, object]:
    return page.parent.filehandle.name, page.index


def read_pixel_sizes(file: TiffFile, page: TiffPage) -> dict[str, tuple[float, str]]:
    """Return size and unit of a pixel along each axis for which the file states them."""
    if file.ome_metadata:
        return read_ome_pixel_sizes(file.ome_metadata)
    if own_sizes := _read_own_metadata(file, "napari_dip_sizes"):
        return {
            axis: (float(size), normalise_unit(str(unit)))
            for axis, (size, unit) in own_sizes.items()
            if is_positive(size)
        }
    sizes = _read_resolution(page)
    imagej_metadata = file.imagej_metadata or {}
    unit = normalise_unit(str(imagej_metadata.get("unit") or "pixel"))
    if sizes and "unit" in imagej_metadata:  # ImageJ's tags are in its own unit
        sizes = {axis: (size, unit) for axis, size in _read_tag_sizes(page).items()}
    if sizes and is_positive(imagej_metadata.get("spacing")):
        sizes["Z"] = (float(imagej_metadata["spacing"]), unit)
    if is_positive(imagej_metadata.get("finterval")):
        sizes["T"] = (float(imagej_metadata["finterval"]), "second")
    return sizes


def _read_own_metadata(file: TiffFile, key: str) -> dict[str, Any]:
    """Return what `write_image` adds to a TIFF of a type that ImageJ does not know."""
    metadata: dict[str, Any] = (file.shaped_metadata or ({},))[0].get(key, {})
    return metadata


def _read_resolution(page: TiffPage) -> dict[str, tuple[float, str]]:
    """Read the resolution tags.

    Programs that do not know the pixel size write a resolution of 1 without a metric unit. Then no
    size is returned, but 1 pixel if the description has the word "unit", as ImageJ's has.
    """
    unit = page.tags.valueof("ResolutionUnit", default=2)
    name = _RESOLUTION_UNITS.get(int(unit), "pixel")
    tag_sizes = _read_tag_sizes(page)
    is_metric = name not in ("inch", "pixel")
    if len(tag_sizes) < 2 or (not is_metric and set(tag_sizes.values()) == {1.0}):
        return {} if "unit" not in str(page.description) else dict.fromkeys("YX", (1.0, "pixel"))
    if name == "centimeter":
        return {axis: (value * 1e4, "micrometer") for axis, value in tag_sizes.items()}
    return {axis: (value, name) for axis, value in tag_sizes.items()}


def _read_tag_sizes(page: TiffPage) -> dict[str, float]:
    """Return the length of a pixel along each axis with a valid tag, in the file's unit."""
    sizes = {}
    for axis in "YX":
        pixels, length = page.tags.valueof(f"{axis}Resolution", default=(0, 1))
        if length and is_positive(pixels / length):
            sizes[axis] = 1 / (pixels / length)
    return sizes


def read_header(path: Path, axes: str | None) -> ImageHeader:
    """Read the header of a TIFF file; see `napari_dip.io.reading.read_header`."""
    from tifffile import TiffFile

    name = make_printable(path.name)
    with TiffFile(path) as file:
        series = choose_series(file, path)
        page = series.keyframe
        _check_codec(page, path)
        check_colours(page, path)
        pages = list(series.pages)
        check_complete(series, pages, path)
        notes = list_page_notes(file, series, pages, name)
        series_axes = _relabel_unmarked_colours(series.axes, file, page)
        labelled_axes = _label_axes(series_axes, len(series.shape), page)
        has_guessed_axes = axes is None and bool(set(series_axes) - set("TCZYXS"))
        table = read_colour_table(file, page)
        stored, sides = labelled_axes, tuple(series.shape)
        if table is not None and table.ndim == 2:
            if len(axes or "") == len(sides):  # the user wants the stored values
                table = None
            else:
                sides, labelled_axes = (*sides, table.shape[1]), labelled_axes + "S"
        has_alpha = _has_alpha_samples(page)
        has_alpha |= ("S", COLOUR_COUNT + 1) in zip(axes or "", sides, strict=False)
        shape, axes, alpha = _drop_alpha_axis(sides, axes or labelled_axes, has_alpha=has_alpha)
        if alpha:
            code = "alpha-plane-skipped" if _has_planar_colours(axes) else "alpha-skipped"
            as_planes = axes.replace("S", "C" if "Z" in axes else "Z")
            notes.append(make_note(code, name=name, axes=as_planes))
        sizes = read_pixel_sizes(file, page)
        ome = _read_tiff_ome(file, series, notes, name) if file.ome_metadata else None
        if ome is not None and axes != labelled_axes:
            ome = ome.drop_plane_metadata()
        tags = SourceTags(ome=ome)
        channels = file.imagej_metadata or _read_own_metadata(file, "napari_dip_channels")
        if channels and axes == labelled_axes:
            tags = parse_imagej_channels(channels, axes, shape)
        tags = replace(
            tags,
            is_white_zero=is_white_zero(page),
            orientation=read_orientation(page),
            made_by=get_recipe_task(find_provenance(file)),
        )
        notes += list_value_notes(page, name, table, stored)
        dtype = np.dtype(series.dtype if table is None else table.dtype).name
    # preflight refuses axes that do not fit
    scale, units = split_pixel_sizes(axes, sizes if len(axes) == len(shape) else {})
    return ImageHeader(
        name=name,
        shape=shape,
        dtype=dtype,
        axes=axes,
        path=str(path),
        scale=scale,
        units=units,
        notes=tuple(notes),
        has_guessed_axes=has_guessed_axes,
        tags=tags,
    )


def find_provenance(file: TiffFile, key: str = "recipe") -> dict[str, Any] | None:
    """Return the provenance in a TIFF that has this entry; None if there is none."""
    candidates: list[Any] = []
    for text in _iter_provenance_texts(file):
        with suppress(ValueError):
            candidates.append(parse_strict_json(text))
    return next((item for item in candidates if isinstance(item, dict) and key in item), None)


def _iter_provenance_texts(file: TiffFile) -> Iterator[str]:
    """Yield the texts of a TIFF that may be its provenance: of ImageJ, of tifffile, of OME."""
    yield str((file.imagej_metadata or {}).get("Info", ""))
    for page_metadata in file.shaped_metadata or ():
        yield str(page_metadata.get("napari_dip", ""))
    if "provenance" not in (ome_xml := file.ome_metadata or ""):  # it may be very long
        return
    with suppress(ElementTree.ParseError):
        for element in ElementTree.fromstring(ome_xml).iter():
            if element.get("K") == "provenance":
                yield element.text or ""


def read_pixels(path: Path, header: ImageHeader) -> AnyArray:
    """Decode the image of a TIFF file, with its alpha channel."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = choose_series(file, path)
        table = read_colour_table(file, series.keyframe)
        return apply_colour_table(table, np.asarray(series.asarray()), header.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLocation:
    """Position and layout of the pixels of a file's image.

    Attributes
    ----------
    path : Path
    offset : int or None
        Position of the first pixel in bytes; None if pixels are compressed or not contiguous.
    shape : tuple of int
        Includes an alpha channel.
    dtype : numpy.dtype
        In the byte order of the file.
    """

    path: Path
    offset: int | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def unpack(self, into: AnyArray) -> None:
        """Decode the pixels into an array of their shape, in native byte order."""
        from tifffile import TiffFile

        with TiffFile(self.path) as file:
            choose_series(file, self.path).asarray(out=into)


def locate_pixels(path: Path) -> PixelLocation | None:
    """Locate the pixels of a TIFF's image; None if they are converted by a colour table."""
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = choose_series(file, path)
        if read_colour_table(file, series.keyframe) is not None:
            return None
        is_mappable = series.dataoffset is not None and series.keyframe.is_memmappable
        offset = int(series.dataoffset) if is_mappable and series.dataoffset is not None else None
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        return PixelLocation(path=path, offset=offset, shape=tuple(series.shape), dtype=dtype)


def _read_tiff_ome(
    file: TiffFile, series: TiffPageSeries, notes: list[Note], name: str
) -> OmeMetadata | None:
    """Read the OME metadata for the result; drop those of planes if they may belong to others."""
    try:
        ome = parse_ome_metadata(file.ome_metadata or "")
    except (ValueError, SyntaxError):  # errors of the XML parser are one of these
        notes.append(make_note("ome-unreadable", name=name))
        return None
    is_complete = len(list_ome_pixels(file.ome_metadata or "")) == len(file.series)
    return ome if series.kind == "ome" and is_complete else ome.drop_plane_metadata()


def _check_codec(page: TiffPage, path: Path) -> None:
    """Refuse a compression without an installed decoder."""
    from tifffile import COMPRESSION, TIFF

    code = page.compression
    if code not in TIFF.DECOMPRESSORS:
        name = code.name if isinstance(code, COMPRESSION) else f"method {code}"
        raise RefusedError("file-codec", path=path, codec=name)


def _has_planar_colours(axes: str) -> bool:
    """Return whether colour samples are stored plane by plane, not interleaved."""
    return "S" in axes and not axes.endswith("S")


def _relabel_unmarked_colours(axes: str, file: TiffFile, page: TiffPage) -> str:
    """Return the axes of a series, with "Q" for colours that are likely a stack.

    tifffile interprets three or four planes as red, green, blue and alpha by default. Planes of
    more than eight bits, without a colour profile and without named axes, are treated as a stack,
    as in napari.
    """
    if not _has_planar_colours(axes) or np.dtype(page.dtype).itemsize == 1:
        return axes
    has_named_axes = any("axes" in fields for fields in file.shaped_metadata or ())
    has_colours = (
        has_named_axes or file.is_ome or file.is_imagej or "InterColorProfile" in page.tags
    )
    return axes if has_colours else axes.replace("S", "Q")


def _label_axes(axes: str, count: int, page: TiffPage) -> str:
    """Rename all axes to letters out of T, C, Z, Y, X and S, as far as there are enough."""
    has_colours = getattr(page.photometric, "name", "") in ("RGB", "YCBCR")
    if not has_colours and not _has_alpha_samples(page) and "C" not in axes:
        axes = axes.replace("S", "C")
    unnamed = [axis for axis in axes if axis not in "TCZYXS"]
    if not unnamed:
        return axes
    if count == len(unnamed):
        return {1: "X", 2: "YX"}.get(count, axes)
    if "Y" not in axes and "X" in axes and len(unnamed) == 1 and count == 2:
        return "YX"
    preferred = dict.fromkeys(f"{_DEFAULT_AXES.get(len(unnamed), '')}ZTC")
    letters = iter([letter for letter in preferred if letter not in axes])
    return "".join(axis if axis in "TCZYXS" else next(letters, axis) for axis in axes)


def _has_alpha_samples(page: TiffPage) -> bool:
    extra_samples = {str(getattr(kind, "name", kind)) for kind in page.extrasamples}
    return bool(extra_samples & {"ASSOCALPHA", "UNASSALPHA"})


def _drop_alpha_axis(
    shape: tuple[int, ...], axes: str, *, has_alpha: bool
) -> tuple[tuple[int, ...], str, bool]:
    """Drop alpha from shape and axes; only colours are restored."""
    if "S" not in axes or len(axes) != len(shape) or not has_alpha:
        return shape, axes, False
    axis = axes.index("S")
    if shape[axis] == 2 and axis == len(shape) - 1:
        return shape[:-1], axes[:-1], True
    if shape[axis] == COLOUR_COUNT + 1:
        return (*shape[:axis], COLOUR_COUNT, *shape[axis + 1 :]), axes, True
    return shape, axes, False
