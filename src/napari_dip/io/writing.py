"""Write images as TIFF and OME-Zarr, text and bytes: atomically, with size and provenance."""

from __future__ import annotations

import errno
import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import RefusedError
from napari_dip.io.atomic import write_atomically
from napari_dip.io.formats.zarr import (
    ZARR_FORMATS_BY_OME_VERSION,
    check_replaceable,
    check_zarr,
    get_ome_version,
    read_plate,
)
from napari_dip.io.header import (
    ORIENTATION_TAG,
    UNKNOWN_SIZE,
    SourceTags,
    convert_size,
    decode_colour,
    escape_unit,
    get_unit_meters,
    get_unit_symbol,
)
from napari_dip.io.lazy_images import MemoryMappedImage, iter_chunks
from napari_dip.io.outputs import resolve_folder
from napari_dip.io.paths import convert_save_errors, is_zarr_path

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence, Set

    from napari_dip.io import AnyArray, FloatArray

#: Pixel types of ImageJ's TIFF flavour, which most microscopists open next.
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
#: Maximum bytes of pixels in a classic TIFF, whose offsets have 32 bits; the header needs the rest.
_MAX_CLASSIC_TIFF_BYTES = 2**32 - 2**25


def write_image(
    path: str | os.PathLike[str],
    image: AnyArray,
    *,
    axes: str,
    scale: tuple[float, ...] | None = None,
    units: tuple[str, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    like: str | None = None,
    tags: SourceTags | None = None,
) -> Path:
    """Save an image as TIFF or OME-Zarr, with its pixel size and provenance.

    Parameters
    ----------
    path : path ending in .tif, .tiff, .zarr; .ome.tif and .ome.tiff make an OME-TIFF
        Symbolic links are not followed; `resolve_output` returns the path that a link leads to.
    image : ndarray of integers or float32
        A memory-mapped array is copied chunk by chunk.
    axes : str
        One letter for each axis out of T, C, Z, Y, X and S.
    scale, units : tuples as in `ImageHeader`
    provenance : mapping in plain JSON types
        Saved as text that ImageJ shows (Image, Show Info) or as an OME annotation.
    overwrite : bool
        Whether a file of that name may be replaced.
    like : str, optional
        Path of an OME-Zarr whose format version the result should have.
    tags : SourceTags, optional
        Header entries of the input that the result copies.

    Returns
    -------
    Path
        Path of the saved file, as passed in.

    Raises
    ------
    FailedError
        If the file cannot be written; an earlier file stays unchanged.
    """
    if len(axes) != image.ndim:
        raise ValueError(f"The axes '{axes}' do not fit an image of shape {image.shape}.")
    path, tags, provenance = Path(path), tags or SourceTags(), dict(provenance or {})
    units = units or ("pixel",) * len(axes)
    sizes = dict(zip(axes, zip(scale, units, strict=True), strict=True)) if scale else {}
    if is_zarr_path(path):  # also with a slash behind it
        options: dict[str, Any] = {"provenance": provenance, "tags": tags, "like": like}
        pixels = _make_contiguous(image)
        return write_zarr(path, pixels, axes, sizes, overwrite=overwrite, **options)
    provenance_json = json.dumps(provenance, ensure_ascii=True)
    return _write_tiff(path, image, axes, sizes, provenance_json, tags, overwrite)


def _write_tiff(
    path: Path,
    image: AnyArray,
    axes: str,
    sizes: Mapping[str, tuple[float, str]],
    text: str,
    tags: SourceTags,
    overwrite: bool,
) -> Path:
    ome = str(path).lower().endswith((".ome.tif", ".ome.tiff"))
    imagej = not ome and _is_imagej_compatible(image, axes)
    # both kinds have a fixed order of axes; that of OME-TIFF is free outside the plane
    if imagej or (ome and not axes.endswith(("YX", "YXS", "YXC"))):
        order = [axis for axis in ("TZCYXS" if imagej else "TCZYXS") if axis in axes]
        image, axes = image.transpose([axes.index(axis) for axis in order]), "".join(order)
    pixels = _make_contiguous(image)
    make_options = (
        _make_ome_options if ome else _make_imagej_options if imagej else _make_plain_options
    )
    options = make_options(image, axes, sizes, text)
    channels = {} if ome else tags.make_imagej_options(axes, image.shape)
    if imagej:
        options["metadata"] |= channels
    elif channels:  # as JSON
        tables = [table.tolist() for table in channels.get("LUTs", ())]
        options["metadata"]["napari_dip_channels"] = channels | {"LUTs": tables}
    if ome and tags.ome is not None:
        options["metadata"] |= tags.ome.make_tifffile_options(axes, image.shape)
        if tags.ome.objective:
            lens = ", ".join(f"{key} {value}" for key, value in tags.ome.objective)
            options["metadata"]["MapAnnotation"]["objective"] = lens
    if axes.endswith(("S", "YXC")):  # interleaved samples
        options["planarconfig"] = "contig"
    grey = "miniswhite" if tags.is_white_zero else "minisblack"
    options["photometric"] = "rgb" if "S" in axes else grey
    if tags.orientation != 1:
        options["extratags"] = [(ORIENTATION_TAG, "H", 1, tags.orientation, False)]
    is_bigtiff = image.nbytes > _MAX_CLASSIC_TIFF_BYTES and not imagej
    flavour = {"ome": ome, "imagej": imagej, "bigtiff": is_bigtiff}
    return _write_file(
        path, lambda file: _write_tiff_pages(file, pixels, flavour, options), overwrite
    )


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = False) -> Path:
    """Save text in UTF-8; raise `FailedError` as `write_image` does."""
    return write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def write_bytes(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False) -> Path:
    """Save bytes; raise `FailedError` as `write_image` does."""
    return _write_file(Path(path), lambda file: file.write(content), overwrite)


def _write_tiff_pages(
    file: IO[bytes],
    pixels: AnyArray | MemoryMappedImage,
    flavour: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Write header and pixels; memory-mapped pixels chunk by chunk."""
    from tifffile import TiffWriter

    with TiffWriter(file, **flavour) as tiff:
        if isinstance(pixels, np.ndarray):
            tiff.write(pixels, **options)
            return
        shape, dtype = pixels.shape, pixels.dtype
        location = tiff.write(None, shape=shape, dtype=dtype, returnoffset=True, **options)
    assert location is not None  # only compressed pixels have no offset
    file.seek(location[0])
    for chunk in iter_chunks(pixels):
        file.write(chunk.tobytes())


def _make_contiguous(image: AnyArray) -> AnyArray | MemoryMappedImage:
    """Return contiguous pixels, without a copy if they are already contiguous on the disk."""
    if isinstance(image, np.memmap) and image.flags.c_contiguous and image.filename is not None:
        path = Path(image.filename)
        if path.exists():
            return MemoryMappedImage(
                path=path, offset=image.offset, shape=image.shape, stored_dtype=image.dtype.str
            )
    return np.ascontiguousarray(image)


def _write_file(path: Path, write: Callable[[IO[bytes]], object], overwrite: bool) -> Path:
    """Write a file atomically; convert OSError to `FailedError`."""
    with (
        convert_save_errors(path),
        write_atomically(resolve_folder(path), overwrite=overwrite) as temporary_path,
        temporary_path.open("x+b") as file,
    ):
        write(file)
    return path


def _is_imagej_compatible(image: AnyArray, axes: str) -> bool:
    """Return whether ImageJ's flavour can hold an image: few types, planes, 8-bit colours."""
    if image.dtype.name not in _IMAGEJ_TYPES or image.nbytes > _MAX_CLASSIC_TIFF_BYTES:
        return False
    if "S" in axes and (image.dtype != np.uint8 or not axes.endswith("YXS")):
        return False
    return {"Y", "X"} <= set(axes) and not axes.endswith("YXC")  # samples stay side by side


def _make_imagej_options(
    image: AnyArray, axes: str, sizes: Mapping[str, tuple[float, str]], text: str
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes, "Info": text}
    options: dict[str, Any] = {"metadata": metadata}
    if "X" in sizes and "Y" in sizes and sizes["X"] != UNKNOWN_SIZE:
        unit = sizes["X"][1]
        metadata["unit"] = {"micrometer": "micron"}.get(unit, escape_unit(unit))
        options["resolution"] = (1 / sizes["X"][0], 1 / sizes["Y"][0])
        options["resolutionunit"] = "NONE"
    if "Z" in sizes:
        metadata["spacing"] = convert_size(*sizes["Z"], sizes["X"][1])
    if sizes.get("T", UNKNOWN_SIZE) != UNKNOWN_SIZE:  # ImageJ takes it for seconds
        metadata["finterval"] = convert_size(*sizes["T"], "second")
    return options


def _make_plain_options(
    image: AnyArray, axes: str, sizes: Mapping[str, tuple[float, str]], text: str
) -> dict[str, Any]:
    options: dict[str, Any] = {"metadata": {"axes": axes, "napari_dip": text}}
    if sizes:  # the tags have no room for those of other axes than X and Y
        options["metadata"]["napari_dip_sizes"] = dict(sizes)
    if "X" in sizes and "Y" in sizes:
        (width, unit), (height, _) = sizes["X"], sizes["Y"]
        meters = get_unit_meters(unit)
        resolution_unit = "INCH" if unit == "inch" else "CENTIMETER" if meters else "NONE"
        factor = meters * 100 if meters and unit != "inch" else 1.0
        options["resolution"] = (1 / (width * factor), 1 / (height * factor))
        options["resolutionunit"] = resolution_unit
    return options


def _make_ome_options(
    image: AnyArray, axes: str, sizes: Mapping[str, tuple[float, str]], text: str
) -> dict[str, Any]:
    import hashlib
    import uuid

    # tifffile would derive the identifier from the time and the network address of the computer
    hasher = hashlib.sha256()
    for chunk in iter_chunks(image):
        hasher.update(chunk.tobytes())
    digest = hasher.hexdigest()
    metadata: dict[str, Any] = {
        "axes": axes,
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, digest)),
        "MapAnnotation": {"Namespace": "napari-dip", "provenance": text},
    }
    for axis, (value, unit) in sizes.items():
        symbol = get_unit_symbol(unit)
        if symbol is None or (unit == "pixel" and value == 1):
            continue
        if axis in "XYZ":
            metadata[f"PhysicalSize{axis}"] = value
            metadata[f"PhysicalSize{axis}Unit"] = symbol
        elif axis == "T":
            metadata["TimeIncrement"] = value
            metadata["TimeIncrementUnit"] = symbol
    return {"metadata": metadata}


#: Shape of a chunk of a plane in pixels, 4 MB in single precision.
_PLANE_CHUNK = (1, 1024, 1024)
#: Shape of a chunk of a stack in pixels, so that a viewer can show a plane without decompressing
#: many others.
_STACK_CHUNK = (4, 512, 512)
#: Maximum side of a plane of the coarsest level, which viewers show at once.
_MAX_COARSEST_SIDE = 256
#: Maximum ratio of voxel depth to width up to which the depth is halved along with the plane.
_MAX_ISOTROPIC_RATIO = 1.5
_AXIS_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def write_zarr(
    path: Path,
    image: Any,
    axes: str,
    sizes: Mapping[str, tuple[float, str]],
    *,
    provenance: dict[str, Any],
    tags: SourceTags | None = None,
    like: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an image with all its levels.

    Parameters
    ----------
    path : path ending in .zarr
    image : ndarray or `MemoryMappedImage`
        Read region by region.
    axes : str
        One letter for each axis out of T, C, Z, Y, X and S; samples become channels.
    sizes : mapping of str to (float, str)
        Size of a pixel and its unit, of the axes that have one.
    provenance : dict in plain JSON types
        Saved in the attributes as "napari_dip".
    tags : SourceTags, optional
        Has the centre of the first pixel, channel names, colours and contrast limits.
    like : str, optional
        Path of an OME-Zarr whose version the result should have; default: the newest version.
    overwrite : bool
        Whether an earlier image may be replaced.

    Returns
    -------
    Path
        Path of the saved image, as passed in.

    Raises
    ------
    RefusedError
        If the package for Zarr is not installed.
    FailedError
        If it cannot be written; an earlier image stays unchanged.
    """
    check_zarr(path)
    target = resolve_folder(path)
    pixels, version = _ReorderedImage(image, axes), get_ome_version(like)
    tags = tags or SourceTags()
    origin = dict(zip(axes, tags.origin, strict=True)) if tags.origin else {}
    check = partial(_check_still_replaceable, target)
    with (
        convert_save_errors(path),
        write_atomically(target, overwrite=overwrite, check=check) as temporary_path,
    ):
        _write_levels(temporary_path, pixels, sizes, provenance, version, origin, tags)
    return path


def write_plate(path: Path, source: Path, fields: Set[str]) -> None:
    """Write the metadata of a plate whose fields are there, as those of the plate `source`.

    Parameters
    ----------
    path, source : Path
        Folders of the two plates.
    fields : set of str
        Fields that were restored, such as "A/1/0"; wells without one are left out.
    """
    version, attributes, wells_by_path = read_plate(source)
    wells = {
        well: kept
        for well, images in wells_by_path.items()
        if (kept := [image for image in images if f"{well}/{image['path']}" in fields])
    }
    attributes = {
        **attributes,
        "version": version,
        "wells": [entry for entry in attributes["wells"] if entry["path"] in wells],
        "field_count": max(map(len, wells.values())),
    }
    groups: dict[str, dict[str, Any]] = {well.partition("/")[0]: {} for well in wells}
    groups |= {
        well: {"well": {"images": images, "version": version}} for well, images in wells.items()
    }
    for folder, content in {**groups, "": {"plate": attributes}}.items():
        if version == "0.4":
            files = {".zgroup": {"zarr_format": 2}, ".zattrs": content}
        else:
            ome = {"ome": {"version": version, **content}} if content else {}
            files = {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": ome}}
        for name, metadata in files.items():
            write_text(path / folder / name, json.dumps(metadata, indent=2), overwrite=True)


class _ReorderedImage:
    """View of an image with its axes in the order of OME-Zarr."""

    def __init__(self, image: Any, axes: str) -> None:
        self._image = image
        self._axis_order = [axes.index(axis) for axis in "TCSZYX" if axis in axes]
        self.axes = "".join(axes[index] for index in self._axis_order).replace("S", "C")
        self.shape = tuple(int(image.shape[index]) for index in self._axis_order)
        self.dtype = np.dtype(image.dtype).newbyteorder("=")

    def __getitem__(self, region: tuple[slice, ...]) -> AnyArray:
        source_region = [slice(None)] * len(region)
        for side_slice, axis in zip(region, self._axis_order, strict=True):
            source_region[axis] = side_slice
        return np.asarray(self._image[tuple(source_region)]).transpose(self._axis_order)


def _write_levels(
    folder: Path,
    image: _ReorderedImage,
    sizes: Mapping[str, tuple[float, str]],
    provenance: dict[str, Any],
    version: str,
    origin: Mapping[str, float],
    tags: SourceTags,
) -> None:
    import zarr

    axes = image.axes
    finest_sizes = [sizes.get(axis, (1.0, "pixel"))[0] for axis in axes]
    units = {
        axis: unit
        for axis, (_, unit) in sizes.items()
        if axis in axes and get_unit_symbol(unit) and unit != "pixel"
    }
    group = zarr.open_group(folder, mode="w-", zarr_format=ZARR_FORMATS_BY_OME_VERSION[version])
    levels, level = [finest_sizes], _create_level(group, 0, image.shape, image, version)
    for region in _iter_chunk_regions(level):
        level[region] = image[region]
    while max(level.shape[-2:]) > _MAX_COARSEST_SIDE:
        factors = _choose_level_factors(axes, level.shape, levels[-1], halves_depth="Z" in units)
        levels.append([size * factor for size, factor in zip(levels[-1], factors, strict=True)])
        level = _write_coarser_level(group, len(levels) - 1, level, factors, image, version)
    name = str(provenance.get("source", "image"))
    first_pixel = [origin.get(axis, 0.0) for axis in axes]
    ome = _build_multiscales(axes, levels, units, name, version, first_pixel)
    ome |= _make_display_fields(tags, level, axes)
    attributes = ome if version == "0.4" else {"ome": {"version": version, **ome}}
    group.attrs.update({**attributes, "napari_dip": provenance})


def _make_display_fields(tags: SourceTags, level: Any, axes: str) -> dict[str, Any]:
    """Return the metadata "omero" of an OME-Zarr; empty without names or colours of channels."""
    channels = [] if tags.ome is None else [dict(channel) for channel in tags.ome.channels]
    if not any(channels) or dict(zip(axes, level.shape, strict=True)).get("C", 1) != len(channels):
        return {}
    limits = tags.contrast_limits
    if not limits:  # the range of the coarsest level
        planes = np.moveaxis(level[...], axes.index("C"), 0) if "C" in axes else [level[...]]
        limits = tuple((float(plane.min()), float(plane.max())) for plane in planes)
    pairs = zip(channels, limits * (len(channels) // len(limits)), strict=True)
    return {
        "omero": {
            "channels": [
                {
                    "color": decode_colour(channel.get("Color")).hex().upper(),
                    "active": True,
                    "label": channel.get("Name", ""),
                    "window": {"min": low, "max": high, "start": low, "end": high},
                }
                for channel, (low, high) in pairs
            ]
        }
    }


def _build_multiscales(
    axes: str,
    levels: Sequence[Sequence[float]],
    units: Mapping[str, str],
    name: str,
    version: str,
    origin: Sequence[float],
) -> dict[str, Any]:
    """Build the multiscales metadata that the specification requires.

    Parameters
    ----------
    axes : str
        In the order t, c, z, y, x, as capital letters.
    levels : sequence of sequence of float
        Pixel size along each axis, finest level first; the path of a level is its index.
    units : mapping of str to str
        Units of the axes that have one.
    name : str
    version : str
        "0.4" or "0.5".
    origin : sequence of float
        Centre of the first pixel along each axis.
    """
    axis_fields = [
        {"name": axis.lower(), "type": _AXIS_TYPES[axis]}
        | ({"unit": units[axis]} if axis in units else {})
        for axis in axes
    ]
    datasets = []
    for number, sizes in enumerate(levels):
        # the first pixel of a coarser level is centred on the pixels that it averages
        translation = [
            first_pixel + (size - finest_size) / 2
            for first_pixel, size, finest_size in zip(origin, sizes, levels[0], strict=True)
        ]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": list(sizes)}]
        if any(translation):
            transforms.append({"type": "translation", "translation": translation})
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
    fields = {"name": name, "axes": axis_fields, "datasets": datasets, "type": "local mean"}
    return {"multiscales": [{"version": version, **fields} if version == "0.4" else fields]}


def _create_level(
    group: Any, number: int, shape: tuple[int, ...], image: _ReorderedImage, version: str
) -> Any:
    """Create the array of one level."""
    from numcodecs import Blosc
    from zarr.codecs import BloscCodec

    axes = image.axes
    planes = shape[axes.index("Z")] if "Z" in axes else 1
    chunks_by_axis = dict(zip("ZYX", _STACK_CHUNK if planes > 1 else _PLANE_CHUNK, strict=True))
    options: dict[str, Any] = (
        {
            "compressors": Blosc("zstd", 3, Blosc.SHUFFLE),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
        if version == "0.4"
        else {
            "compressors": BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
            "dimension_names": [axis.lower() for axis in axes],
        }
    )
    return group.create_array(
        str(number),
        shape=shape,
        chunks=tuple(
            min(side, chunks_by_axis.get(axis, 1)) for side, axis in zip(shape, axes, strict=True)
        ),
        dtype=image.dtype,
        fill_value=0,
        config={"write_empty_chunks": True},  # so that a missing chunk means data loss
        **options,
    )


def _write_coarser_level(
    group: Any,
    number: int,
    finer_level: Any,
    factors: list[int],
    image: _ReorderedImage,
    version: str,
) -> Any:
    """Write a level of block means of the next finer one."""
    shape = tuple(
        -(-side // factor) for side, factor in zip(finer_level.shape, factors, strict=True)
    )
    coarse_level = _create_level(group, number, shape, image, version)
    for region in _iter_chunk_regions(coarse_level):
        fine_region = tuple(
            slice(side_slice.start * factor, min(side, side_slice.stop * factor))
            for side_slice, factor, side in zip(region, factors, finer_level.shape, strict=True)
        )
        means = average_blocks(finer_level[fine_region], factors)
        coarse_level[region] = np.rint(means) if image.dtype.kind in "iu" else means
    return coarse_level


def average_blocks(pixels: AnyArray, factors: Sequence[int]) -> FloatArray:
    """Return block means; blocks at the far border may be smaller."""
    averaged = pixels.astype(np.float64)
    for axis, factor in enumerate(factors):
        if factor > 1:
            starts = np.arange(0, averaged.shape[axis], factor)
            counts = np.minimum(factor, averaged.shape[axis] - starts)
            sums = np.add.reduceat(averaged, starts, axis=axis)
            averaged = sums / counts.reshape(
                [-1 if index == axis else 1 for index in range(averaged.ndim)]
            )
    return averaged


def _choose_level_factors(
    axes: str, shape: tuple[int, ...], sizes: list[float], *, halves_depth: bool
) -> list[int]:
    """Return the factors of the next level: halve the plane, and the depth of isotropic voxels."""
    width = sizes[-1]
    factors = [1] * (len(axes) - 2) + [2 if side > 1 else 1 for side in shape[-2:]]
    if "Z" in axes:
        z_axis = axes.index("Z")
        if halves_depth and shape[z_axis] > 1 and sizes[z_axis] <= _MAX_ISOTROPIC_RATIO * width:
            factors[z_axis] = 2
    return factors


def _iter_chunk_regions(array: Any) -> Iterator[tuple[slice, ...]]:
    """Iterate over the regions of an array's chunks."""
    spans = (
        [slice(start, min(side, start + length)) for start in range(0, side, length)]
        for side, length in zip(array.shape, array.chunks, strict=True)
    )
    return product(*spans)


def _check_still_replaceable(target: Path) -> None:
    """Raise OSError if something appeared that a result must not replace."""
    try:
        check_replaceable(target)
    except RefusedError as error:
        why = "something of that name is there and would be lost"
        raise FileExistsError(errno.EEXIST, why) from error
