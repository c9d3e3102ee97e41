"""OME-Zarr through zarr: header and regions; never the whole unless it is asked for."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from importlib.util import find_spec
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.io.formats.region_reader import LazyImage, convert_parser_errors
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

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.errors.notes import Note

#: Most chunks whose presence is looked up before work begins, evenly spread: 0.1 s.
_MAX_CHECKED_CHUNKS = 20_000
#: Most bytes of one chunk, which is unpacked whole whatever part of it is asked for.
_MAX_CHUNK_BYTES = 2**30
#: Bytes that a chunk may take beside twice its pixels, for headers and lists of what is in it. More
#: than that no codec makes of them; it would unpack to something else.
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
    if pyramid.further:
        notes += (make_note("zarr-images-skipped", name=name),)
    if pyramid.place:
        notes += (make_note("zarr-level", name=name, level=make_printable(pyramid.level)),)
    notes += tuple(
        make_note("zarr-transform", name=name, kind=make_printable(other))
        for other in pyramid.others
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


def open_zarr_image(path: Path) -> LazyImage:
    """Get at the pixels of an OME-Zarr without reading them."""
    with convert_parser_errors(path):
        return _open_finest_level(path, read_pyramid(path))


def read_pixels(path: Path) -> npt.NDArray[Any]:
    """Read all pixels of the finest level."""
    return open_zarr_image(path)[...]


def get_ome_version(path: str | None) -> str:
    """Tell which version an OME-Zarr has; of anything else, the one that is written."""
    if path is None or not is_zarr(Path(path)):
        return NEWEST
    with suppress(Refused):  # it was changed since it was read: the result is what counts
        return read_pyramid(Path(path)).version
    return NEWEST


def check_zarr(path: Path) -> None:
    """Say no where what reads and writes Zarr is not installed.

    Raises
    ------
    Refused
        With how to install it.
    """
    if find_spec("zarr") is None or find_spec("zarr.codecs") is None:  # zarr 2 has none
        facts = {"path": make_printable(str(path)), "kind": "OME-Zarr", "extra": "zarr"}
        raise Refused(refusal("extra-missing", **facts))


def _open_finest_level(path: Path, pyramid: Pyramid) -> LazyImage:
    check_zarr(path)
    check_codecs(pyramid.folder, pyramid.level, path)
    import zarr

    store = _open_confined_store(pyramid.folder, path)
    kind = FORMATS[pyramid.version]
    array = zarr.open_array(store, path=pyramid.level, mode="r", zarr_format=kind)
    return LazyImage(path=path, array=array, fetch=array.__getitem__)


def _open_confined_store(folder: Path, root: Path) -> Any:
    """Open a folder so that no link in it leads out of the one that was named."""
    from zarr.storage import LocalStore

    class Inside(LocalStore):
        """Reads what lies in the folder, and nothing that a link there points to."""

        def _check(self, key: str) -> None:
            check_link(self.root / key, root)

        async def get(self, key: str, *rest: Any, **options: Any) -> Any:
            self._check(key)
            return await super().get(key, *rest, **options)

        def get_sync(self, key: str, **options: Any) -> Any:
            self._check(key)
            return super().get_sync(key, **options)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            wanted = list(key_ranges)
            for key, _ in wanted:
                self._check(key)
            return await super().get_partial_values(prototype, wanted)

    return Inside(folder, read_only=True)


def _check_chunks(path: Path, pyramid: Pyramid, array: Any) -> None:
    """Say no to chunks that are missing, which would be read as empty, or are absurdly large."""
    if 0 in array.shape:
        return  # preflight says so
    each = prod(array.chunks) * np.dtype(array.dtype).itemsize
    if each > _MAX_CHUNK_BYTES:
        raise make_broken_zarr_refusal(
            path, f"its header speaks of chunks of {each / 1e9:.1f} GB each"
        )
    stored = array.shards or array.chunks
    counts = [ceil(side / part) for side, part in zip(array.shape, stored, strict=True)]
    total = prod(counts)
    step = max(1, total // _MAX_CHECKED_CHUNKS)
    looked = range(0, total, step)
    folder = pyramid.folder / pyramid.level
    sizes = [_measure_chunk_bytes(path, folder, array, number, counts) for number in looked]
    whole = prod(stored) * np.dtype(array.dtype).itemsize
    if max(sizes) > 2 * whole + _CHUNK_OVERHEAD_BYTES:
        raise make_broken_zarr_refusal(
            path, f"a chunk of {whole} bytes of pixels takes {max(sizes)} bytes"
        )
    if missing := sizes.count(0):
        facts = {"count": missing, "total": len(looked), "fill": array.fill_value or 0}
        raise Refused(refusal("zarr-gaps", path=make_printable(str(path)), **facts))


def _measure_chunk_bytes(
    path: Path, folder: Path, array: Any, number: int, counts: list[int]
) -> int:
    """Count the bytes of a chunk in the file; 0 where it is missing."""
    place = []
    for count in reversed(counts):
        number, here = divmod(number, count)
        place.append(here)
    chunk = folder / array.metadata.encode_chunk_key(tuple(reversed(place)))
    if chunk.is_symlink():
        check_link(chunk, path)
    try:
        status = os.stat(chunk)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
