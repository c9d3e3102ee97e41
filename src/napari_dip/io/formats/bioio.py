"""Read CZI, ND2 and LIF through the readers of bioio, which are optional packages.

This module only knows the first bytes of these formats.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from itertools import compress
from math import isfinite
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.io.header import ImageHeader, split_pixel_sizes
from napari_dip.io.lazy_images import LazyImage, convert_parser_errors

if TYPE_CHECKING:
    from pathlib import Path


#: First bytes of a file -> name of the format, and the package that reads it.
FORMATS_BY_MAGIC = {
    b"ZISRAW": ("CZI", "bioio_czi"),
    b"\xda\xce\xbe\x0a": ("ND2", "bioio_nd2"),
    b"\x70\x00\x00\x00": ("LIF", "bioio_lif"),
}


def read_header(path: Path, axes: str | None) -> ImageHeader:
    """Read the header of a CZI, ND2 or LIF file; see `napari_dip.io.reading.read_header`."""
    reader = _open_bioio_reader(path)
    scene, scene_names = _get_first_image(path, reader)
    name, count = make_printable(path.name), len(reader.scenes)
    notes = (make_note("images-skipped", name=name, count=count),) if count > 1 else ()
    stated = reader.physical_pixel_sizes
    sizes = {
        axis: (float(size), "micrometer")
        for axis in "ZYX"
        if (size := getattr(stated, axis, None)) and isfinite(size) and size > 0
    }
    # preflight refuses axes that do not fit
    has_all_axes = axes is None or len(axes) == scene.ndim
    scale, units = split_pixel_sizes(scene_names, sizes if has_all_axes else {})
    return ImageHeader(
        name=name,
        shape=scene.shape,
        dtype=scene.dtype.name,
        axes=axes or scene_names,
        path=str(path),
        scale=scale,
        units=units,
        notes=notes,
    )


def open_image(path: Path) -> LazyImage:
    """Open the first image without reading its pixels."""
    with convert_parser_errors(path):
        return _get_first_image(path, _open_bioio_reader(path))[0]


def _open_bioio_reader(path: Path) -> Any:
    with path.open("rb") as file:
        first_bytes = file.read(8)
    kind, package = next(
        format_and_package
        for magic, format_and_package in FORMATS_BY_MAGIC.items()
        if first_bytes.startswith(magic)
    )
    if find_spec(package) is None:
        raise RefusedError("extra-missing", path=path, kind=kind, extra="formats")
    return import_module(package).Reader(str(path))


def _get_first_image(path: Path, reader: Any) -> tuple[LazyImage, str]:
    """Return the first image without axes of size 1 other than Y and X, and its axes."""
    all_axes, array = str(reader.dims.order), reader.dask_data
    is_kept = [axis in "YX" or side > 1 for axis, side in zip(all_axes, array.shape, strict=True)]
    array = array[tuple(slice(None) if kept else 0 for kept in is_kept)]

    def fetch(region: Any) -> Any:
        return array[region].compute(scheduler="synchronous")

    axes = "".join(compress(all_axes, is_kept))
    return LazyImage(path=path, array=array, fetch=fetch), axes
