"""What an OME-Zarr says of its pixels, versions 0.4 and 0.5: read with doubt, and written.

The specification is at https://ngff.openmicroscopy.org. Whatever a file says is checked here
before anything is opened by it: a path may lead elsewhere, a codec may carry out what it unpacks.

What belongs to the image in an OME-Zarr, and what somebody else put into its folder.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from math import isclose, prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.header import normalise_unit
from napari_dip.io.paths import read_small_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Versions of OME-Zarr, and the Zarr format that each is made of.
FORMATS: dict[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3}
#: The one that is written where the input has none.
NEWEST = "0.5"
#: Most bytes of a file of metadata: one that lists each plane of a long movie has some megabytes.
MAX_METADATA_BYTES = 2**24
#: Codecs that only unpack bytes. Others may do anything: `pickle` runs what the file holds.
_SAFE_CODECS = frozenset(
    "blosc zstd zlib gzip bz2 lz4 lzma shuffle delta fixedscaleoffset packbits bitround crc32 "
    "crc32c adler32 fletcher32 bytes transpose sharding_indexed".split()
)
#: Levels, and ways to lay one of them out, at most: each level halves at least, and none has more
#: than 2^64 pixels along an axis.
_MAX_LEVELS = 64
_AXIS_LETTERS = {"t": "T", "c": "C", "z": "Z", "y": "Y", "x": "X"}
_AXIS_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


class _Axis(BaseModel):
    name: str
    unit: str | None = None


class _Transformation(BaseModel):
    type: str
    scale: list[FiniteFloat] | None = Field(None, max_length=5)
    translation: list[FiniteFloat] | None = Field(None, max_length=5)

    @property
    def is_other(self) -> bool:
        """Whether it is one that is not read: of a later version, or kept in a file of its own."""
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
    """What a file says of one image.

    Attributes
    ----------
    folder : Path
        Of the image, which may lie within the one that was named.
    version : str
        "0.4" or "0.5".
    level : str
        Path of the finest level within the folder.
    axes : str
        One letter for each axis out of T, C, Z, Y and X.
    sizes : tuple of (float, str)
        Size and unit of a pixel along each axis.
    further : bool
        Whether there are more images in the file.
    place : int
        Of the finest level in the list of all, which should begin with it.
    origin : tuple of float
        Where the middle of the first pixel lies along each axis, in the unit of `sizes`.
    others : tuple of str
        Kinds of the transforms that are not read.
    """

    folder: Path
    version: str
    level: str
    axes: str
    sizes: tuple[tuple[float, str], ...]
    further: bool = False
    place: int = 0
    origin: tuple[float, ...] = ()
    others: tuple[str, ...] = ()


def read_pyramid(path: Path) -> Pyramid:
    """Read what an OME-Zarr says of its first image.

    Raises
    ------
    Refused
        If it is none, of another version, or says what cannot be true.
    """
    attributes, folder, several = read_group_attributes(path), path, False
    ome = attributes.get("ome") or attributes
    if isinstance(ome, dict) and "multiscales" not in ome and "bioformats2raw.layout" in ome:
        folder, several = path / "0", (path / "1").is_dir()
        attributes = read_group_attributes(folder, path)
        ome = attributes.get("ome") or attributes
    if not isinstance(ome, dict) or "multiscales" not in ome:
        plate = isinstance(ome, dict) and "plate" in ome
        why = "it is a plate of many images" if plate else "it says nothing of an image"
        raise Refused(refusal("zarr-none", path=make_printable(str(path)), why=why))
    listed = ome["multiscales"]
    try:
        item = _Multiscale.model_validate(listed[0])
    except (ValidationError, LookupError, TypeError) as error:
        raise make_broken_zarr_refusal(
            path, f"what it says of its levels makes no sense{_format_error_location(error)}"
        ) from None
    version = str(ome.get("version", item.version or "0.4"))
    if version not in FORMATS:
        raise Refused(
            refusal("zarr-version", path=make_printable(str(path)), version=make_printable(version))
        )
    several = several or len(listed) > 1
    _check_inside(path, item)
    place = _find_finest_level(path, folder, item)
    level = item.datasets[place].path
    axes, sizes, origin = _read_axes(path, item, place)
    others = tuple(
        dict.fromkeys(step.type for step in _list_transformations(item, place) if step.is_other)
    )
    return Pyramid(
        folder=folder,
        version=version,
        level=level,
        axes=axes,
        sizes=sizes,
        further=several,
        place=place,
        origin=origin,
        others=others,
    )


def read_group_attributes(folder: Path, root: Path | None = None) -> dict[str, Any]:
    """Read the attributes of a group, of either format.

    Parameters
    ----------
    folder : Path
    root : Path, optional
        Folder that they must lie in; that of the group if left out.
    """
    metadata_file, root = folder / "zarr.json", root or folder
    if metadata_file.is_file():
        metadata_json = _read_metadata_json(metadata_file, root).get("attributes")
    else:
        metadata_json = _read_metadata_json(folder / ".zattrs", root)
    return metadata_json if isinstance(metadata_json, dict) else {}


def check_codecs(folder: Path, level: str, root: Path) -> None:
    """Say no to what would be carried out, not unpacked.

    Raises
    ------
    Refused
        With the name of the codec.
    """
    for name in _list_codecs(_read_array_metadata(folder / level, root)):
        if name.removeprefix("numcodecs.") not in _SAFE_CODECS:
            facts = {"path": make_printable(str(folder)), "codec": make_printable(name)}
            raise Refused(refusal("file-codec", **facts))


def build_multiscales(
    axes: str,
    levels: Sequence[Sequence[float]],
    units: Mapping[str, str],
    name: str,
    version: str,
    origin: Sequence[float],
) -> dict[str, Any]:
    """Say of an image what the specification wants.

    Parameters
    ----------
    axes : str
        In the order t, c, z, y, x, as capital letters.
    levels : sequence of sequence of float
        Size of a pixel along each axis, finest level first; its path is its number.
    units : mapping of str to str
        Of the axes that have one.
    name : str
    version : str
        "0.4" or "0.5".
    origin : sequence of float
        Where the middle of the first pixel lies along each axis.
    """
    facts = [
        {"name": axis.lower(), "type": _AXIS_TYPES[axis]}
        | ({"unit": units[axis]} if axis in units else {})
        for axis in axes
    ]
    datasets = []
    for number, sizes in enumerate(levels):
        # the middle of the first pixel of a coarser level lies between those it is the mean of
        moved = [
            start + (here - finest) / 2
            for start, here, finest in zip(origin, sizes, levels[0], strict=True)
        ]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(sizes)}]
        if any(moved):
            steps.append({"type": "translation", "translation": moved})
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    item: dict[str, Any] = {"name": name, "axes": facts, "datasets": datasets, "type": "local mean"}
    if version == "0.4":
        return {"multiscales": [{"version": version, **item}]}
    return {"ome": {"version": version, "multiscales": [item]}}


def make_broken_zarr_refusal(path: Path, why: str) -> Refused:
    """Say that a file is cut off or damaged."""
    return Refused(refusal("file-broken", path=make_printable(str(path)), why=why))


def _read_array_metadata(folder: Path, root: Path) -> dict[str, Any]:
    """Read the metadata of an array, of either format."""
    metadata_file = folder / "zarr.json"
    return _read_metadata_json(
        metadata_file if metadata_file.is_file() else folder / ".zarray", root
    )


def _read_metadata_json(path: Path, root: Path) -> dict[str, Any]:
    check_link(path, root)
    try:
        data = json.loads(read_small_text(path, "the metadata of an image", MAX_METADATA_BYTES))
    except (ValueError, RecursionError):
        raise make_broken_zarr_refusal(path, "its metadata are no JSON") from None
    if not isinstance(data, dict):
        raise make_broken_zarr_refusal(path, "its metadata are no list of names and values")
    return data


def _check_inside(path: Path, multiscale: _Multiscale) -> None:
    """Say no to levels whose paths lead out of the folder."""
    for level in (dataset.path for dataset in multiscale.datasets):
        parts = PurePosixPath(level).parts
        outside = not parts or level.startswith("/") or ".." in parts
        if outside or not level.isprintable() or set(level) & {"\\", ":"}:
            facts = {"path": make_printable(str(path)), "other": make_printable(level)}
            raise Refused(refusal("file-elsewhere", **facts))


def _find_finest_level(path: Path, folder: Path, multiscale: _Multiscale) -> int:
    """Find the level with the smallest pixels, of equal ones that with most; it may stand anywhere.

    The specification wants it to be the first, and not all writers obey.
    """
    sizes = [_compute_voxel_volume(multiscale, place) for place in range(len(multiscale.datasets))]
    counts = [_count_level_pixels(folder / dataset.path, path) for dataset in multiscale.datasets]
    least = min(sizes)
    smallest = [place for place, size in enumerate(sizes) if isclose(size, least)]
    finest = max(smallest, key=lambda place: counts[place])
    if max(counts) > counts[finest] > 0:
        most = multiscale.datasets[counts.index(max(counts))].path
        why = f"of its levels '{multiscale.datasets[finest].path}' has the smallest pixels, "
        raise make_broken_zarr_refusal(path, why + f"but '{most}' has more of them")
    return finest


def _compute_voxel_volume(multiscale: _Multiscale, place: int) -> float:
    """Size of a pixel of a level in space."""
    volume = 1.0
    for step in multiscale.datasets[place].coordinateTransformations:
        for axis, size in zip(multiscale.axes, step.scale or (), strict=False):
            volume *= size if axis.name.lower() in ("z", "y", "x") else 1.0
    return volume


def _count_level_pixels(folder: Path, root: Path) -> int:
    """Count the pixels of a level; 0 where it is missing, which only matters of the finest."""
    if not any((folder / name).is_file() for name in ("zarr.json", ".zarray")):
        return 0
    shape = _read_array_metadata(folder, root).get("shape")
    sides = shape if isinstance(shape, list) else [0]
    return prod(side if isinstance(side, int) else 0 for side in sides)


def _list_transformations(multiscale: _Multiscale, place: int) -> list[_Transformation]:
    """List the transforms of a level in the order in which they apply."""
    return [
        *multiscale.datasets[place].coordinateTransformations,
        *multiscale.coordinateTransformations,
    ]


def _read_axes(
    path: Path, multiscale: _Multiscale, place: int
) -> tuple[str, tuple[tuple[float, str], ...], tuple[float, ...]]:
    letters = [_AXIS_LETTERS.get(axis.name.lower(), "") for axis in multiscale.axes]
    if "" in letters or len(set(letters)) != len(letters):
        names = make_printable(", ".join(axis.name for axis in multiscale.axes))
        why = f"its axes are called {names}, where t, c, z, y and x are known"
        raise make_broken_zarr_refusal(path, why)
    sizes, origin = [1.0] * len(letters), [0.0] * len(letters)
    for step in _list_transformations(multiscale, place):
        if step.scale is not None:
            if len(step.scale) != len(sizes) or min(step.scale) <= 0:
                raise make_broken_zarr_refusal(path, "the sizes of its pixels make no sense")
            sizes = [size * more for size, more in zip(sizes, step.scale, strict=True)]
            origin = [start * more for start, more in zip(origin, step.scale, strict=True)]
        if step.translation is not None:
            if len(step.translation) != len(origin):
                raise make_broken_zarr_refusal(path, "the place of its pixels makes no sense")
            origin = [start + more for start, more in zip(origin, step.translation, strict=True)]
    units = [normalise_unit(axis.unit or "") for axis in multiscale.axes]
    return "".join(letters), tuple(zip(sizes, units, strict=True)), tuple(origin)


def _list_codecs(entry: Mapping[str, Any]) -> list[str]:
    """Name all codecs of an array, those within others included."""
    if entry.get("storage_transformers"):
        return ["a storage transformer"]
    codec_names, remaining = (
        [],
        [entry.get("compressor"), entry.get("filters"), entry.get("codecs")],
    )
    while remaining:
        item = remaining.pop()
        if isinstance(item, list):
            remaining += item
        elif isinstance(item, dict):
            codec_names.append(str(item.get("id") or item.get("name")))
            inner = item.get("configuration")
            if isinstance(inner, dict):
                remaining += [inner.get("codecs"), inner.get("index_codecs")]
        elif isinstance(item, str):
            codec_names.append(item)
    return codec_names


def _format_error_location(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return ""
    return " ('" + ".".join(str(part) for part in error.errors()[0]["loc"]) + "')"


def check_link(path: Path, root: Path) -> None:
    """Say no to a file or folder that lies outside another one once links are followed.

    Raises
    ------
    Refused
        With where it leads.
    """
    other = os.path.realpath(path)
    if not other.startswith(os.path.realpath(root) + os.sep):
        facts = {"path": make_printable(str(root)), "other": make_printable(other)}
        raise Refused(refusal("file-elsewhere", **facts))


#: Files of a group or of an array that say what it is, of either format.
_METADATA = frozenset({"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
#: What systems put into any folder that is looked at.
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
#: A chunk, or a folder of chunks, within an array.
_CHUNK = re.compile(r"c|(c\.)?\d+(\.\d+)*")


def find_foreign_file(folder: Path) -> str:
    """Find what would be lost if another image took the place of an OME-Zarr's.

    Parameters
    ----------
    folder : Path
        Of the OME-Zarr.

    Returns
    -------
    str
        Path within the folder of the first file or folder that is no part of its image, such as
        labels or a table; "" if there is none.
    """
    levels = _list_levels(folder)
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        for is_folder, entries in ((True, folders), (False, names)):
            for name in sorted(entries):
                if not _is_zarr_member(inside / name, is_folder, levels):
                    return (inside / name).as_posix()
    return ""


def _list_levels(folder: Path) -> set[tuple[str, ...]]:
    """Name the levels of the image; none where nothing can be read of them."""
    try:
        attributes = read_group_attributes(folder)
        image = (attributes.get("ome") or attributes)["multiscales"][0]
        paths = [str(item["path"]) for item in image["datasets"]]
    except (Refused, LookupError, TypeError):
        return set()
    return {PurePosixPath(path).parts for path in paths}


def _is_zarr_member(path: Path, is_folder: bool, levels: set[tuple[str, ...]]) -> bool:
    parts = path.parts
    level = next((level for level in levels if parts[: len(level)] == level), None)
    if is_folder and level is None:
        return any(level[: len(parts)] == parts for level in levels)
    if not is_folder and parts[-1] in _METADATA | _SYSTEM_FILES:
        return True
    return level is not None and all(_CHUNK.fullmatch(part) for part in parts[len(level) :])
