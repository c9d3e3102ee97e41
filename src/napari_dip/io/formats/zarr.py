"""Read OME-Zarr, versions 0.4 and 0.5, through zarr: header and regions.

The specification is at https://ngff.openmicroscopy.org. All metadata is checked before anything is
opened with it: a path may lead elsewhere, and a codec may run code. The module also finds files in
the folder that do not belong to the image.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil, isclose, prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from napari_dip.errors import RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.io.header import (
    ImageHeader,
    get_recipe_task,
    normalise_unit,
    parse_zarr_channels,
)
from napari_dip.io.lazy_images import LazyImage, convert_parser_errors, make_broken_file_error
from napari_dip.io.paths import is_zarr, read_small_text, split_field_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.errors.notes import Note

#: Version of OME-Zarr -> version of the Zarr format.
ZARR_FORMATS_BY_OME_VERSION: dict[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3}
#: Version that is written where the input has none.
NEWEST_OME_VERSION = "0.5"
#: Maximum bytes of a metadata file; one that lists each plane of a long movie has some megabytes.
MAX_METADATA_BYTES = 2**24
#: Codecs that only decompress bytes. Others may run code, as `pickle` does.
_SAFE_CODECS = frozenset(
    "blosc zstd zlib gzip bz2 lz4 lzma shuffle delta fixedscaleoffset packbits bitround crc32 "
    "crc32c adler32 fletcher32 bytes transpose sharding_indexed".split()
)
#: Maximum number of levels, and of transforms per level. Each level has at most half the size of
#: the one before, and none has more than 2^64 pixels along an axis.
_MAX_LEVELS = 64
_AXIS_LETTERS = {"t": "T", "c": "C", "z": "Z", "y": "Y", "x": "X"}
#: Metadata files of groups and arrays, in either format of Zarr.
_METADATA_FILES = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
#: Files that operating systems create in any folder.
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
#: Name of a chunk, or of a folder of chunks.
_CHUNK_NAME = re.compile(r"c|(c\.)?\d+(\.\d+)*")
#: Maximum number of chunks, evenly spread, whose existence is checked before work begins: 0.1 s.
_MAX_CHECKED_CHUNKS = 20_000
#: Maximum bytes of one chunk, which is always decompressed whole.
_MAX_CHUNK_BYTES = 2**30
#: Bytes of a chunk beyond twice its pixels, for headers and indices. No codec needs more, so a
#: larger chunk would decompress to something else.
_CHUNK_OVERHEAD_BYTES = 2**16


class _Axis(BaseModel):
    name: str
    unit: str | None = None


class _Transformation(BaseModel):
    type: str
    scale: list[FiniteFloat] | None = Field(None, max_length=5)
    translation: list[FiniteFloat] | None = Field(None, max_length=5)

    @property
    def is_unsupported(self) -> bool:
        """Whether the transform cannot be read: of a later version, or in a separate file."""
        return self.type != "identity" and self.scale is None and self.translation is None


class _Dataset(BaseModel):
    path: str
    coordinateTransformations: list[_Transformation] = Field([], max_length=_MAX_LEVELS)


class _Multiscale(BaseModel):
    axes: list[_Axis] = Field(min_length=1, max_length=5)
    datasets: list[_Dataset] = Field(min_length=1, max_length=_MAX_LEVELS)
    version: str | None = None
    coordinateTransformations: list[_Transformation] = Field([], max_length=_MAX_LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pyramid:
    """Metadata of one image in an OME-Zarr.

    Attributes
    ----------
    folder : Path
        Folder of the image, which may be inside that of the file.
    version : str
        "0.4" or "0.5".
    level : str
        Path of the finest level within the folder.
    axes : str
        One letter for each axis out of T, C, Z, Y and X.
    sizes : tuple of (float, str)
        Size and unit of a pixel along each axis.
    has_more_images : bool
        Whether the file has more images.
    level_index : int
        Index of the finest level in the list of levels; 0 according to the specification.
    origin : tuple of float
        Centre of the first pixel along each axis, in the unit of `sizes`.
    unread_transforms : tuple of str
        Types of the transforms that cannot be read.
    omero : object
        How viewers should display the channels, as the file says it; None if it does not.
    """

    folder: Path
    version: str
    level: str
    axes: str
    sizes: tuple[tuple[float, str], ...]
    has_more_images: bool = False
    level_index: int = 0
    origin: tuple[float, ...] = ()
    unread_transforms: tuple[str, ...] = ()
    omero: object = None


def read_header(path: Path, axes: str | None) -> ImageHeader:
    """Read the header of an OME-Zarr; see `napari_dip.io.reading.read_header`."""
    with convert_parser_errors(path):
        pyramid = read_pyramid(path)
        level = _open_finest_level(path, pyramid)
        _check_chunks(path, pyramid, level.array)
    plate, field = split_field_path(path)
    name = make_printable("/".join(filter(None, (plate.name, field))))
    if axes is None and len(pyramid.axes) != level.ndim:
        raise make_broken_file_error(
            path, f"it names {len(pyramid.axes)} axes of an image that has {level.ndim}"
        )
    has_all_axes = len(pyramid.axes) == level.ndim
    origin = pyramid.origin if any(pyramid.origin) and has_all_axes else None
    has_sizes = has_all_axes and (set(pyramid.sizes) != {(1.0, "pixel")} or origin is not None)
    notes: list[Note] = []
    if pyramid.has_more_images:
        notes.append(make_note("zarr-images-skipped", name=name))
    if pyramid.level_index:
        notes.append(make_note("zarr-level", name=name, level=pyramid.level))
    notes += [
        make_note("zarr-transform", name=name, kind=kind) for kind in pyramid.unread_transforms
    ]
    made_by = get_recipe_task(read_group_attributes(path).get("napari_dip"))
    return ImageHeader(
        name=name,
        shape=level.shape,
        dtype=level.dtype.name,
        axes=axes or pyramid.axes,
        path=str(path),
        scale=tuple(size for size, _ in pyramid.sizes) if has_sizes else None,
        units=tuple(unit for _, unit in pyramid.sizes) if has_sizes else None,
        notes=tuple(notes),
        tags=replace(parse_zarr_channels(pyramid.omero), origin=origin, made_by=made_by),
    )


def open_image(path: Path) -> LazyImage:
    """Open an OME-Zarr without reading its pixels."""
    with convert_parser_errors(path):
        return _open_finest_level(path, read_pyramid(path))


def get_ome_version(path: str | None) -> str:
    """Return the version of an OME-Zarr; the newest for anything else."""
    if path is None or not is_zarr(Path(path)):
        return NEWEST_OME_VERSION
    # if it changed since it was read, the result still has to be saved
    with suppress(RefusedError):
        return read_pyramid(Path(path)).version
    return NEWEST_OME_VERSION


def check_zarr(path: Path) -> None:
    """Check that the package for Zarr is installed.

    Raises
    ------
    RefusedError
        With the command that installs it.
    """
    if find_spec("zarr") is None or find_spec("zarr.codecs") is None:  # zarr 2 lacks zarr.codecs
        raise RefusedError("extra-missing", path=path, kind="OME-Zarr", extra="zarr")


def _open_finest_level(path: Path, pyramid: Pyramid) -> LazyImage:
    check_zarr(path)
    check_codecs(pyramid.folder, pyramid.level, path)
    import zarr

    store = _open_confined_store(pyramid.folder, path)
    zarr_format = ZARR_FORMATS_BY_OME_VERSION[pyramid.version]
    array = zarr.open_array(store, path=pyramid.level, mode="r", zarr_format=zarr_format)
    return LazyImage(path=path, array=array, fetch=array.__getitem__)


def _open_confined_store(folder: Path, root: Path) -> Any:
    """Open a folder as a store that follows no link out of `root`."""
    from zarr.storage import LocalStore

    class ConfinedStore(LocalStore):
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

    return ConfinedStore(folder, read_only=True)


def _check_chunks(path: Path, pyramid: Pyramid, array: Any) -> None:
    """Refuse missing chunks, which would be read as empty, and oversized ones."""
    if 0 in array.shape:
        return  # preflight refuses an empty image
    chunk_bytes = prod(array.chunks) * np.dtype(array.dtype).itemsize
    if chunk_bytes > _MAX_CHUNK_BYTES:
        raise make_broken_file_error(
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
        raise make_broken_file_error(
            path, f"a chunk of {stored_bytes} bytes of pixels takes {max(sizes)} bytes"
        )
    if missing := sizes.count(0):
        raise RefusedError(
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


def read_pyramid(path: Path) -> Pyramid:
    """Read the metadata of the first image of an OME-Zarr.

    Raises
    ------
    RefusedError
        If it is no OME-Zarr image, of an unknown version, or implausible.
    """
    ome, folder, has_more_images = _read_ome_attributes(path), path, False
    if "multiscales" not in ome and "bioformats2raw.layout" in ome:
        folder, has_more_images = path / "0", (path / "1").is_dir()
        ome = _read_ome_attributes(folder, path)
    if "multiscales" not in ome:
        why = "it is a plate of many images" if "plate" in ome else "it says nothing of an image"
        raise RefusedError("zarr-none", path=path, why=why)
    multiscales = ome["multiscales"]
    try:
        multiscale = _Multiscale.model_validate(multiscales[0])
    except ValidationError as error:
        location = ".".join(str(key) for key in error.errors()[0]["loc"])
        why = f"what it says of its levels makes no sense ('{location}')"
        raise make_broken_file_error(path, why) from None
    except (LookupError, TypeError):
        raise make_broken_file_error(path, "what it says of its levels makes no sense") from None
    version = str(ome.get("version", multiscale.version or "0.4"))
    if version not in ZARR_FORMATS_BY_OME_VERSION:
        raise RefusedError("zarr-version", path=path, version=version)
    has_more_images = has_more_images or len(multiscales) > 1
    _check_inside(path, multiscale)
    level_index = _find_finest_level(path, folder, multiscale)
    level = multiscale.datasets[level_index].path
    axes, sizes, origin = _read_axes(path, multiscale, level_index)
    steps = _list_transformations(multiscale, level_index)
    unread_transforms = dict.fromkeys(step.type for step in steps if step.is_unsupported)
    return Pyramid(
        folder=folder,
        version=version,
        level=level,
        axes=axes,
        sizes=sizes,
        has_more_images=has_more_images,
        level_index=level_index,
        origin=origin,
        unread_transforms=tuple(unread_transforms),
        omero=ome.get("omero"),
    )


def list_fields(path: Path) -> tuple[Path, ...]:
    """List the images of a plate; the path itself if it is no plate."""
    is_plate = False
    with suppress(RefusedError):  # what is wrong with an image, reading its header reports
        is_plate = is_zarr(path) and "plate" in _read_ome_attributes(path)
    if not is_plate:
        return (path,)
    wells = read_plate(path)[2].items()
    return tuple(path / well / image["path"] for well, images in wells for image in images)


def read_plate(path: Path) -> tuple[str, dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Read the metadata of a plate and of its wells.

    Returns
    -------
    version : str
        "0.4" or "0.5".
    attributes : dict
        Rows, columns and the like, as in the file.
    wells : dict of str to list of dict
        Path of each well, such as "A/1", and its images, as in the file.

    Raises
    ------
    RefusedError
        If it makes no sense, is of an unknown version, or a well is missing.
    """
    ome, wells, folder = _read_ome_attributes(path), {}, path
    try:
        version = str(ome.get("version") or ome["plate"].get("version", "0.4"))
        for entry in ome["plate"]["wells"]:
            row, column = entry["path"].split("/")
            folder = path / row / column
            images = list(_read_ome_attributes(folder, path)["well"]["images"])
            names = [row, column, *(image["path"] for image in images)]
            if not all(re.fullmatch(r"\w+", name) for name in names):
                raise ValueError("a path that leads elsewhere")
            wells[f"{row}/{column}"] = images
    except (LookupError, TypeError, AttributeError, ValueError):
        raise make_broken_file_error(folder, "what it says of its wells makes no sense") from None
    if version not in ZARR_FORMATS_BY_OME_VERSION:
        raise RefusedError("zarr-version", path=path, version=version)
    return version, ome["plate"], wells


def _read_ome_attributes(folder: Path, root: Path | None = None) -> dict[str, Any]:
    attributes = read_group_attributes(folder, root)
    ome = attributes.get("ome") or attributes
    return ome if isinstance(ome, dict) else {}


def read_group_attributes(folder: Path, root: Path | None = None) -> dict[str, Any]:
    """Read the attributes of a group, in either format of Zarr.

    Parameters
    ----------
    folder : Path
    root : Path, optional
        Folder that the metadata files must not leave; default: that of the group.
    """
    metadata_file, root = folder / "zarr.json", root or folder
    if metadata_file.is_file():
        metadata_json = _read_metadata_json(metadata_file, root).get("attributes")
    else:
        metadata_json = _read_metadata_json(folder / ".zattrs", root)
    return metadata_json if isinstance(metadata_json, dict) else {}


def check_codecs(folder: Path, level: str, root: Path) -> None:
    """Check that all codecs of a level only decompress.

    Raises
    ------
    RefusedError
        With the name of the unsafe codec.
    """
    for name in _list_codecs(_read_array_metadata(folder / level, root)):
        if name.removeprefix("numcodecs.") not in _SAFE_CODECS:
            raise RefusedError("file-codec", path=folder, codec=name)


def _read_array_metadata(folder: Path, root: Path) -> dict[str, Any]:
    """Read the metadata of an array, in either format of Zarr."""
    metadata_file = folder / "zarr.json"
    return _read_metadata_json(
        metadata_file if metadata_file.is_file() else folder / ".zarray", root
    )


def _read_metadata_json(path: Path, root: Path) -> dict[str, Any]:
    check_link(path, root)
    try:
        data = json.loads(read_small_text(path, "the metadata of an image", MAX_METADATA_BYTES))
    except (ValueError, RecursionError):
        raise make_broken_file_error(path, "its metadata are no JSON") from None
    if not isinstance(data, dict):
        raise make_broken_file_error(path, "its metadata are no list of names and values")
    return data


def _check_inside(path: Path, multiscale: _Multiscale) -> None:
    """Refuse levels whose paths lead out of the folder."""
    for level in (dataset.path for dataset in multiscale.datasets):
        parts = PurePosixPath(level).parts
        leads_outside = not parts or level.startswith("/") or ".." in parts
        if leads_outside or not level.isprintable() or set(level) & {"\\", ":"}:
            raise RefusedError("file-outside-folder", path=path, other=level)


def _find_finest_level(path: Path, folder: Path, multiscale: _Multiscale) -> int:
    """Return the index of the level with the smallest pixels, and among equals the most pixels.

    The specification requires it to be the first level, but not all writers comply.
    """
    sizes = [_compute_voxel_volume(multiscale, index) for index in range(len(multiscale.datasets))]
    counts = [_count_level_pixels(folder / dataset.path, path) for dataset in multiscale.datasets]
    smallest_size = min(sizes)
    smallest = [index for index, size in enumerate(sizes) if isclose(size, smallest_size)]
    finest = max(smallest, key=lambda index: counts[index])
    if max(counts) > counts[finest] > 0:
        largest_path = multiscale.datasets[counts.index(max(counts))].path
        why = f"of its levels '{multiscale.datasets[finest].path}' has the smallest pixels, "
        raise make_broken_file_error(path, why + f"but '{largest_path}' has more of them")
    return finest


def _compute_voxel_volume(multiscale: _Multiscale, level_index: int) -> float:
    """Return the size of a pixel of a level in space."""
    volume = 1.0
    for step in multiscale.datasets[level_index].coordinateTransformations:
        for axis, size in zip(multiscale.axes, step.scale or (), strict=False):
            volume *= size if axis.name.lower() in ("z", "y", "x") else 1.0
    return volume


def _count_level_pixels(folder: Path, root: Path) -> int:
    """Count the pixels of a level; 0 if the level is missing."""
    if not any((folder / name).is_file() for name in ("zarr.json", ".zarray")):
        return 0
    shape = _read_array_metadata(folder, root).get("shape")
    sides = shape if isinstance(shape, list) else [0]
    return prod(side if isinstance(side, int) else 0 for side in sides)


def _list_transformations(multiscale: _Multiscale, level_index: int) -> list[_Transformation]:
    """List the transforms of a level in the order of their application."""
    return [
        *multiscale.datasets[level_index].coordinateTransformations,
        *multiscale.coordinateTransformations,
    ]


def _read_axes(
    path: Path, multiscale: _Multiscale, level_index: int
) -> tuple[str, tuple[tuple[float, str], ...], tuple[float, ...]]:
    letters = [_AXIS_LETTERS.get(axis.name.lower(), "") for axis in multiscale.axes]
    if "" in letters or len(set(letters)) != len(letters):
        names = ", ".join(axis.name for axis in multiscale.axes)
        why = f"its axes are called {names}, where t, c, z, y and x are known"
        raise make_broken_file_error(path, why)
    sizes, origin = np.ones(len(letters)), np.zeros(len(letters))
    for step in _list_transformations(multiscale, level_index):
        if step.scale is not None:
            if len(step.scale) != len(sizes) or min(step.scale) <= 0:
                raise make_broken_file_error(path, "the sizes of its pixels make no sense")
            sizes, origin = sizes * step.scale, origin * step.scale
        if step.translation is not None:
            if len(step.translation) != len(origin):
                raise make_broken_file_error(path, "the place of its pixels makes no sense")
            origin = origin + step.translation
    units = [normalise_unit(axis.unit or "") for axis in multiscale.axes]
    pairs = tuple(zip(sizes.tolist(), units, strict=True))
    return "".join(letters), pairs, tuple(origin.tolist())


def _list_codecs(metadata: Mapping[str, Any]) -> list[str]:
    """List the names of all codecs of an array, including nested ones."""
    if metadata.get("storage_transformers"):
        return ["a storage transformer"]
    codec_names = []
    unchecked = [metadata.get("compressor"), metadata.get("filters"), metadata.get("codecs")]
    while unchecked:
        codec = unchecked.pop()
        if isinstance(codec, list):
            unchecked += codec
        elif isinstance(codec, dict):
            codec_names.append(str(codec.get("id") or codec.get("name")))
            configuration = codec.get("configuration")
            if isinstance(configuration, dict):
                unchecked += [configuration.get("codecs"), configuration.get("index_codecs")]
        elif isinstance(codec, str):
            codec_names.append(codec)
    return codec_names


def check_link(path: Path, root: Path) -> None:
    """Check that a file or folder lies inside another one once links are followed.

    Raises
    ------
    RefusedError
        With the path that it leads to.
    """
    target = os.path.realpath(path)
    if not target.startswith(os.path.realpath(root) + os.sep):
        raise RefusedError("file-outside-folder", path=root, other=target)


def check_replaceable(path: Path) -> None:
    """Raise `RefusedError` if anything but a whole OME-Zarr lies where one is to be written."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RefusedError("folder-is-file", path=path)
    if any(path.iterdir()) and not is_zarr(path):
        raise RefusedError("zarr-foreign", path=path)
    if foreign_file := find_foreign_file(path):
        raise RefusedError("zarr-shared", path=path, other=foreign_file)


def find_foreign_file(folder: Path) -> str:
    """Find a file that would be lost if another image replaced an OME-Zarr.

    Parameters
    ----------
    folder : Path
        Folder of the OME-Zarr.

    Returns
    -------
    str
        Relative path of the first file or folder that does not belong to the image, such as
        labels or a table; "" if there is none.
    """
    levels = _list_levels(folder)
    for root, folders, names in os.walk(folder):
        subfolder = Path(root).relative_to(folder)
        for is_folder, members in ((True, folders), (False, names)):
            for name in sorted(members):
                if not _is_zarr_member(subfolder / name, is_folder, levels):
                    return (subfolder / name).as_posix()
    return ""


def _list_levels(folder: Path) -> set[tuple[str, ...]]:
    """List the paths of the levels of the image; none if the metadata cannot be read."""
    try:
        image = _read_ome_attributes(folder)["multiscales"][0]
        paths = [str(dataset["path"]) for dataset in image["datasets"]]
    except (RefusedError, LookupError, TypeError):
        return set()
    return {PurePosixPath(path).parts for path in paths}


def _is_zarr_member(path: Path, is_folder: bool, levels: set[tuple[str, ...]]) -> bool:
    parts = path.parts
    level = next((level for level in levels if parts[: len(level)] == level), None)
    if is_folder and level is None:
        return any(level[: len(parts)] == parts for level in levels)
    if not is_folder and parts[-1] in _METADATA_FILES | _SYSTEM_FILES:
        return True
    return level is not None and all(_CHUNK_NAME.fullmatch(name) for name in parts[len(level) :])
