"""Read PNG and JPEG through Pillow."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.io.header import ORIENTATION_TAG, ImageHeader, SourceTags, make_orientation_note
from napari_dip.io.lazy_images import UNDECODABLE_REASON, make_broken_file_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL.Image import Image

    from napari_dip.io import AnyArray

#: Supported modes of Pillow -> NumPy type, axes, and whether an alpha channel is dropped.
_MODES = {
    "1": ("bool", "YX", False),
    "L": ("uint8", "YX", False),
    "I;16": ("uint16", "YX", False),
    "I;16B": ("uint16", "YX", False),
    "I": ("int32", "YX", False),
    "LA": ("uint8", "YX", True),
    "RGB": ("uint8", "YXS", False),
    "RGBA": ("uint8", "YXS", True),
}
#: Maximum side in pixels that libpng reads.
_MAX_PNG_SIDE = 1_000_000


def read_header(path: Path, axes: str | None) -> ImageHeader:
    """Read the header of a PNG or JPEG file; see `napari_dip.io.reading.read_header`."""
    name = make_printable(path.name)
    with _open_image(path) as image:
        notes = []
        if getattr(image, "n_frames", 1) > 1:
            notes.append(make_note("frames-skipped", name=name))
        dtype, mode_axes, has_alpha = _MODES[_get_mode(image, path)]
        if has_alpha:
            notes.append(make_note("alpha-skipped", name=name))
        grid = (image.height, image.width)
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    shape = (*grid, 3) if mode_axes == "YXS" else grid
    tags = SourceTags(orientation=orientation if orientation in range(1, 9) else 1)
    notes += make_orientation_note(name, tags.orientation)
    return ImageHeader(
        name=name,
        shape=shape,
        dtype=dtype,
        axes=axes or mode_axes,
        path=str(path),
        notes=tuple(notes),
        tags=tags,
    )


def read_pixels(path: Path, header: ImageHeader) -> AnyArray:
    """Decode a PNG or JPEG file with its alpha channel, and with palettes expanded."""
    with _open_image(path) as image:
        mode = _get_mode(image, path)
        if image.format == "PNG" and max(image.size) <= _MAX_PNG_SIDE:
            _check_rows(path)
        return np.asarray(image.convert(mode) if image.mode in ("P", "PA") else image)


def _check_rows(path: Path) -> None:
    """Refuse a PNG whose compressed rows end early; Pillow would fill the rest with black."""
    from imagecodecs import PngError, png_decode

    try:
        png_decode(path.read_bytes())
    except PngError:
        raise make_broken_file_error(path, UNDECODABLE_REASON) from None


def _get_mode(image: Image, path: Path) -> str:
    """Return the mode after expansion of palettes; refuse a loss of precision."""
    why = ""
    raw_mode = str(next((tile[3] for tile in getattr(image, "tile", ())), ""))
    if raw_mode.startswith(("RGB;16", "RGBA;16", "LA;16")):
        why = "16-bit colour in PNG would be cut to 8 bits"
    mode = image.mode
    if mode in ("P", "PA"):
        colours = np.reshape(image.getpalette() or (), (-1, 3))
        is_grey = (colours == colours[:, :1]).all()  # as in a TIFF
        has_alpha = mode == "PA" or "transparency" in image.info
        mode = ("L" if is_grey else "RGB") + ("A" if has_alpha else "")
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise RefusedError("file-colours", path=path, coded=mode)
    if mode not in _MODES:
        why = f"its colours are coded as {mode}"
    if why:
        raise RefusedError("file-type", path=path, why=why)
    return mode


@contextmanager
def _open_image(path: Path) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        why = "its header states more pixels than a PNG or JPEG is read for"
        raise RefusedError("file-type", path=path, why=why) from None
    except UnidentifiedImageError:
        why = "it starts like an image, but no header follows"
        raise RefusedError("file-broken", path=path, why=why) from None
    with opened as image:
        yield image
