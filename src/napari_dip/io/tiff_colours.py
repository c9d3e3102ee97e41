"""What the tags of a TIFF say of its values: refused, carried out, or handed on to the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable
from napari_dip.io.spec import orientation_note

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from tifffile import TiffFile, TiffPage

#: Codings of colour that are no red, green and blue, as the specification numbers them.
_CODED = {
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
_DECODED = ("JPEG", "JP2", "WEBP", "APERIO", "OJPEG")
_WHITE = (
    "The header of '{name}' says that 0 is white. Its values are restored as they are stored, and "
    "a TIFF of the result says the same."
)
_LUT = "The colours in which '{name}' is shown are left out: its values are restored."
_COLOURED = "The values of '{name}' stand for the colours of a table, which are restored{axes}."
_STORED = "; name the axes {axes} (--axes {axes}) for the values themselves"


def check_colours(page: TiffPage, path: Path) -> None:
    """Say no to colours that would be restored as if they were brightness.

    Raises
    ------
    Refused
        With what they are coded as.
    """
    code, packing = int(page.photometric), getattr(page.compression, "name", "")
    coded = _CODED.get(code)
    if code == _YCBCR and not any(kind in packing for kind in _DECODED):
        coded = "YCbCr"
    if coded is not None:
        raise Refused(refusal("file-colours", path=printable(str(path)), coded=coded))


def colour_table(file: TiffFile, page: TiffPage) -> npt.NDArray[np.uint8] | None:
    """Read the colours that values stand for.

    Returns
    -------
    ndarray (values, 3), or (values,) where all are grey, or None
        None where the values are measured and colours only show them: of ImageJ's and of OME's
        files, which know no others, and where the table is a ramp from black to white.
    """
    found = page.colormap
    if int(page.photometric) != _PALETTE or found is None or file.is_imagej or file.is_ome:
        return None
    wide = np.asarray(found).T
    table: npt.NDArray[np.uint8] = (wide >> (8 if wide.max() > 255 else 0)).astype(np.uint8)
    if np.ptp(table.astype(int), axis=1).any():
        return table
    ramp = np.linspace(0, 255, len(table))
    return None if np.abs(table[:, 0] - ramp).max() <= 1 else table[:, 0]


def in_colours(
    table: npt.NDArray[np.uint8] | None, raw: npt.NDArray[Any], axes: str
) -> npt.NDArray[Any]:
    """Look values up in their table, unless the axes have no place for colours."""
    if table is None or (table.ndim == 2 and len(axes) == raw.ndim):
        return raw
    return table.take(raw.astype(np.intp), axis=0, mode="clip")


def value_notes(
    page: TiffPage, name: str, table: npt.NDArray[np.uint8] | None, stored: str
) -> list[str]:
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
    notes = [_WHITE.format(name=name)] if is_white_zero(page) else []
    if table is not None:
        how = _STORED.format(axes=stored) if table.ndim == 2 else ""
        notes.append(_COLOURED.format(name=name, axes=how))
    elif int(page.photometric) == _PALETTE and page.colormap is not None:
        colours = np.asarray(page.colormap)
        notes += [_LUT.format(name=name)] if (colours != colours[0]).any() else []
    return [*notes, *orientation_note(name, orientation_of(page))]


def is_white_zero(page: TiffPage) -> bool:
    """Whether 0 is white, which those who obey the tag show so."""
    return int(page.photometric) == _MINISWHITE


def orientation_of(page: TiffPage) -> int:
    """Read how the image is turned, as TIFF numbers it; 1 where it is upright."""
    found = page.tags.valueof(274, default=1)
    return int(found) if isinstance(found, int) and 1 <= int(found) <= 8 else 1
