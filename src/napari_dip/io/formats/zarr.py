"""Read OME-Zarr through zarr: header and regions, without loading the whole image."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from importlib.util import find_spec
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.io.formats.zarr_metadata import (
    FORMATS,
    NEWEST,
    Pyramid,
    check_codecs,
    check_link,
    make_broken_zarr_refusal,
    read_pyramid,
)
from napari_dip.io.header import ImageSpec, SourceTags
from napari_dip.io.paths import is_zarr
from napari_dip.io.regions import LazyImage, convert_parser_errors

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.errors.notes import Note

#: Maximum number of chunks, evenly spread, whose existence is checked before work begins: 0.1 s.
_MAX_CHECKED_CHUNKS = 20_000
#: Maximum bytes of one chunk, which is always decompressed whole.
_MAX_CHUNK_BYTES = 2**30
#: Bytes of a chunk beyond twice its pixels, for headers and indices. No codec needs more, so a
#: larger chunk would decompress to something else.
_CHUNK_OVERHEAD_BYTES = 2**16


def read_spec(path: Path, axes: str | None) -> ImageSpec:
    """Read the header of an OME-Zarr; see `napari_dip.io.reading.read_spec`."""
    with convert_parser_errors(path):
        pyramid = read_pyramid(path)
        level = _open_finest_level(path, pyramid)
        _check_chunks(path, pyramid, level.array)
    name = make_printable(path.name)
    if axes is None and len(pyramid.axes) != level.ndim:
        raise make_broken_zarr_refusal(
            path, f"it names {len(pyramid.axes)} axes of an image that has {level.ndim}"
        )
    scale: tuple[float, ...] | None = tuple(size for size, _ in pyramid.sizes)
    units: tuple[str, ...] | None = tuple(unit for _, unit in pyramid.sizes)
    origin = pyramid.origin if any(pyramid.origin) and len(pyramid.axes) == level.ndim else None
    plain = set(pyramid.sizes) == {(1.0, "pixel")} and origin is None
    if plain or len(pyramid.axes) != level.ndim:
        scale = units = None
    notes: tuple[Note, ...] = ()
    if pyramid.has_more_images:
        notes += (make_note("zarr-images-skipped", name=name),)
    if pyramid.level_index:
        notes += (make_note("zarr-level", name=name, level=pyramid.level),)
    notes += tuple(
        make_note("zarr-transform", name=name, kind=other) for other in pyramid.unread_transforms
    )
    shape, kind, tags = level.shape, level.dtype.name, SourceTags(origin=origin)
    letters = axes or pyramid.axes
    return ImageSpec(
        name=name,
        shape=shape,
        dtype=kind,
        axes=letters,
        path=str(path),
        scale=scale,
        units=units,
        notes=notes,
        tags=tags,
    )


def open_image(path: Path) -> LazyImage:
    """Open an OME-Zarr without reading its pixels."""
    with convert_parser_errors(path):
        return _open_finest_level(path, read_pyramid(path))


def read_pixels(path: Path, spec: ImageSpec) -> npt.NDArray[Any]:
    """Read all pixels of the finest level; `spec` is not needed for that."""
    return open_image(path)[...]


def get_ome_version(path: str | None) -> str:
    """Return the version of an OME-Zarr; the newest for anything else."""
    if path is None or not is_zarr(Path(path)):
        return NEWEST
    with suppress(Refused):  # if it changed since it was read, the result still has to be saved
        return read_pyramid(Path(path)).version
    return NEWEST


def check_zarr(path: Path) -> None:
    """Check that the package for Zarr is installed.

    Raises
    ------
    Refused
        With the command that installs it.
    """
    if find_spec("zarr") is None or find_spec("zarr.codecs") is None:  # zarr 2 lacks zarr.codecs
        raise Refused("extra-missing", path=path, kind="OME-Zarr", extra="zarr")


def _open_finest_level(path: Path, pyramid: Pyramid) -> LazyImage:
    check_zarr(path)
    check_codecs(pyramid.folder, pyramid.level, path)
    import zarr

    store = _open_confined_store(pyramid.folder, path)
    zarr_format = FORMATS[pyramid.version]
    array = zarr.open_array(store, path=pyramid.level, mode="r", zarr_format=zarr_format)
    return LazyImage(path=path, array=array, fetch=array.__getitem__)


def _open_confined_store(folder: Path, root: Path) -> Any:
    """Open a folder as a store that follows no link out of `root`."""
    from zarr.storage import LocalStore

    class Inside(LocalStore):
        """Read only files inside the root folder."""

        def _check(self, key: str) -> None:
            check_link(self.root / key, root)

        async def get(self, key: str, *rest: Any, **options: Any) -> Any:
            self._check(key)
            return await super().get(key, *rest, **options)

        def get_sync(self, key: str, **options: Any) -> Any:
            self._check(key)
            return super().get_sync(key, **options)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            ranges = list(key_ranges)
            for key, _ in ranges:
                self._check(key)
            return await super().get_partial_values(prototype, ranges)

    return Inside(folder, read_only=True)


def _check_chunks(path: Path, pyramid: Pyramid, array: Any) -> None:
    """Refuse missing chunks, which would be read as empty, and oversized ones."""
    if 0 in array.shape:
        return  # preflight refuses an empty image
    chunk_bytes = prod(array.chunks) * np.dtype(array.dtype).itemsize
    if chunk_bytes > _MAX_CHUNK_BYTES:
        raise make_broken_zarr_refusal(
            path, f"its header states chunks of {chunk_bytes / 1e9:.1f} GB each"
        )
    stored_chunk = array.shards or array.chunks
    counts = [
        ceil(side / chunk_side) for side, chunk_side in zip(array.shape, stored_chunk, strict=True)
    ]
    total = prod(counts)
    step = max(1, total // _MAX_CHECKED_CHUNKS)
    checked = range(0, total, step)
    folder = pyramid.folder / pyramid.level
    sizes = [_measure_chunk_bytes(path, folder, array, number, counts) for number in checked]
    stored_bytes = prod(stored_chunk) * np.dtype(array.dtype).itemsize
    if max(sizes) > 2 * stored_bytes + _CHUNK_OVERHEAD_BYTES:
        raise make_broken_zarr_refusal(
            path, f"a chunk of {stored_bytes} bytes of pixels takes {max(sizes)} bytes"
        )
    if missing := sizes.count(0):
        raise Refused(
            "zarr-gaps", path=path, count=missing, total=len(checked), fill=array.fill_value or 0
        )


def _measure_chunk_bytes(
    path: Path, folder: Path, array: Any, number: int, counts: list[int]
) -> int:
    """Return the bytes of a chunk in the file; 0 if it is missing."""
    indices = []
    for count in reversed(counts):
        number, index = divmod(number, count)
        indices.append(index)
    chunk = folder / array.metadata.encode_chunk_key(tuple(reversed(indices)))
    if chunk.is_symlink():
        check_link(chunk, path)
    try:
        status = os.stat(chunk)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
