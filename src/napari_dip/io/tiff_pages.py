"""Which pages of a TIFF are the image: none twice, missing or left out without a word."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refused, refusal
from napari_dip.io.ome_metadata import check_sizes, ome_files, ome_planes
from napari_dip.io.paths import printable
from napari_dip.io.spec import MOST_PLANES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

    Pages = Sequence[TiffPage | TiffFrame | None]

_SERIES = "'{name}' holds {count} images; only the first is restored."
_SMALL_COPY = (
    "'{name}' holds {count} images, and the first is a small copy: the one of {height} × {width} "
    "pixels is restored."
)
_LEFT_OUT = (
    "'{name}' holds {total} planes, but its header names {count} of them: {rest} are left out."
)
_UNFIT = (
    "What the header of '{name}' says of its planes does not fit them: all {total} are taken, "
    "in the order in which they are stored."
)
_COPIES = "The header of '{name}' names {count} of its planes more than once."
#: tifffile makes a list as long as the OME-XML says, of all images in it, before it looks at the
#: file: 10 million take it a second.
_MOST_LISTED = 10_000_000
#: Kinds of TIFF whose headers say how many planes there are.
_COUNTED = ("ome", "imagej", "shaped")
#: How tifffile reads those whose headers are of no use.
_FALLBACKS = ("generic", "uniform")


def chosen_series(file: TiffFile, path: Path) -> TiffPageSeries:
    """Choose the image that is restored.

    Raises
    ------
    Refused
        If there is none, its header cannot be true, or parts of it lie elsewhere.
    """
    _check_chain(file, path)
    if file.ome_metadata:
        if ome_planes(file.ome_metadata) > _MOST_LISTED:
            raise _broken(path, "its header speaks of more planes than any file holds")
        check_sizes(file.ome_metadata, path)
    for other in ome_files(file.ome_metadata or ""):
        # the reader would follow it anywhere; and an entity of the file's own may stand for more
        if other != Path(other).name or set(other) & {"\\", "&"}:
            facts = {"path": printable(str(path)), "other": printable(other)}
            raise Refused(refusal("file-elsewhere", **facts))
    if not file.series:
        raise _broken(path, "no image is found in it")
    whole = [one for one in file.series if not one.keyframe.is_reduced] or file.series
    copies = [one for one in whole if _shows_more(one, whole[0])]
    return max([whole[0], *copies], key=lambda one: one.size)


def page_notes(file: TiffFile, series: TiffPageSeries, pages: Pages, name: str) -> list[str]:
    """Say which planes of a file are left out, shown twice, or taken in an order of no header.

    Parameters
    ----------
    file : TiffFile
    series : TiffPageSeries
        From `chosen_series`.
    pages : list
        All of it, listed once: each reading of the series parses its pages anew.
    name : str
        Of the file, as it is shown.
    """
    notes = [_SERIES.format(name=name, count=len(file.series))] if len(file.series) > 1 else []
    if notes and series is not file.series[0]:
        sizes = {"height": series.keyframe.imagelength, "width": series.keyframe.imagewidth}
        notes = [_SMALL_COPY.format(name=name, count=len(file.series), **sizes)]
    kinds = file.is_ome, file.is_imagej, file.is_shaped
    total = len(file.pages)
    if series.kind in _FALLBACKS and any(kinds) and total > 1:
        notes.append(_UNFIT.format(name=name, total=total))
    there_are = [page for page in pages if page is not None]
    others = [level for image in file.series for level in image.levels if level is not series]
    used = {_place(page) for page in there_are}
    used |= {_place(page) for level in others for page in level.pages if page is not None}
    files = {page.parent.filehandle.name: page.parent for page in there_are}
    there = {(name, index) for name, one in files.items() for index in range(len(one.pages))}
    if rest := len(there - used):
        notes.append(_LEFT_OUT.format(name=name, total=len(there), count=total - rest, rest=rest))
    if copies := len(there_are) - len({_place(page) for page in there_are}):
        notes.append(_COPIES.format(name=name, count=copies))
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
    counted = series.kind in _COUNTED and not series.is_truncated
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
        raise _broken(path, why)


def _check_chain(file: TiffFile, path: Path) -> None:
    """Go from page to page: listing them reads each header, and of a circle only some pages."""
    if not file.pages:
        raise _broken(path, "no image is found in it")
    tiff, handle = file.tiff, file.filehandle
    place, before = file.pages.first.offset, set[int]()
    while place and len(before) <= MOST_PLANES:
        if place in before:
            raise _broken(path, "its list of pages runs in a circle")
        before.add(place)
        try:
            handle.seek(place)
            (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
            handle.seek(place + tiff.tagnosize + tags * tiff.tagsize)
            (place,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        except struct.error:  # the list ends where the file does
            break
    if len(before) > MOST_PLANES:
        facts = {"name": printable(path.name), "most": f"{MOST_PLANES:,}"}
        raise Refused(refusal("planes-many", **facts))


def _shows_more(large: TiffPageSeries, small: TiffPageSeries) -> bool:
    """Whether an image may be what another is a thumbnail of: both sides so many times longer."""
    here, there = large.keyframe, small.keyframe
    if small.kind in _COUNTED[:2] or small.size != there.size or not there.imagelength:
        return False
    factor = here.imagewidth / there.imagewidth
    return factor >= 2 and abs(here.imagelength / factor - there.imagelength) <= 1


def _place(page: TiffPage | TiffFrame) -> tuple[str, object]:
    return page.parent.filehandle.name, page.index


def _broken(path: Path, why: str) -> Refused:
    return Refused(refusal("file-broken", path=printable(str(path)), why=why))
